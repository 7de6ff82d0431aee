//! What is read of a process: by bytes as the kernel writes them, by files in their place, and of this process itself.

use proptest::prelude::*;

use super::*;

const TRIE: &str = "Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.244.1.0/24 2 0 2
        |-- 10.244.1.0
           /24 link UNICAST
        |-- 10.244.1.7
           /32 link UNICAST
           /32 host LOCAL
        |-- 10.244.1.255
           /32 link BROADCAST
Local:
  +-- 0.0.0.0/0 3 0 5
     |-- 127.0.0.0
        /8 host LOCAL
     |-- 127.0.0.1
        /32 host LOCAL
     |-- 10.244.1.7
        /32 host LOCAL
     |-- 192.0.2.9
        /32 host LOCAL
";

fn v4(trie: &[u8]) -> BTreeSet<Ipv4Addr> {
    let mut all = BTreeSet::new();
    local_v4(trie, |address| {
        all.insert(address);
    });
    all
}

fn v6(listing: &[u8]) -> Vec<Ipv6Addr> {
    let mut all = Vec::new();
    global_v6(listing, |address| all.push(address));
    all
}

#[test]
fn only_local_host_entries_are_addresses() {
    let wanted = [Ipv4Addr::new(10, 244, 1, 7), Ipv4Addr::new(192, 0, 2, 9)];
    assert_eq!(v4(TRIE.as_bytes()), BTreeSet::from(wanted));
    assert!(v4(b"   /32 host LOCAL\n |-- 10.0.0.999\n /32 host LOCAL\n").is_empty());
}

#[test]
fn only_global_scope_is_an_address() {
    let listing = b"00000000000000000000000000000001 01 80 10 80       lo
fd000000000000000000000000000002 04 40 00 82     eth0
fd000000000000000000000000000003 04 40 00 c8     eth0
20010db8000000000000000000000004 0a2 80 00 80     \xff\xfe
fe8000000000000000fc00fffe000001 04 40 20 80     eth0
20010db8 04 40 00 80 short
";
    assert_eq!(v6(listing), ["fd00::2".parse::<Ipv6Addr>().unwrap(), "2001:db8::4".parse().unwrap()]);
}

#[test]
fn a_process_name_cannot_forge_its_start() {
    let tail = format!(" S {} 4711 9", vec!["1"; 18].join(" "));
    assert_eq!(parse_started(format!("7 (sleep){tail}").as_bytes()), Some(4711));
    assert_eq!(parse_started(format!("7 (a) S 1 1\n) ){tail}").as_bytes()), Some(4711));
    assert_eq!(parse_started(b"7 (sleep) S 1 1"), None);
    assert_eq!(parse_started(b"7 sleep"), None);
}

#[test]
fn a_namespace_link_is_an_inode() {
    assert_eq!(parse_netns(OsStr::new("net:[4026531840]")), Some(4_026_531_840));
    for link in ["mnt:[4026531840]", "net:[]", "net:[-1]", "net:[4294967296]", "net:[1", "/etc"] {
        assert_eq!(parse_netns(OsStr::new(link)), None, "{link}");
    }
}

#[test]
fn a_namespace_is_held_by_its_inode() {
    let own = own().unwrap();
    let proc = tempfile::tempdir().unwrap();
    let pid = std::process::id();
    let link = |name: &str| std::os::unix::fs::symlink(format!("/proc/{pid}"), proc.path().join(name));
    assert!(hold(proc.path(), own).unwrap().is_none(), "nobody is to be seen");
    link("self").unwrap();
    assert!(hold(proc.path(), own).unwrap().is_none(), "what is no number is no process");
    link("7").unwrap();
    let (found, held) = hold(proc.path(), own).unwrap().unwrap();
    assert_eq!((found, inode_of(&held)), (7, Some(own)));
    assert!(hold(proc.path(), own + 1).unwrap().is_none(), "nobody lives there");
}

/// What is not in the list may be a pod's all the same; a list that is taken for whole when it is not would refuse it.
#[test]
fn a_list_that_was_cut_is_not_whole() {
    let proc = tempfile::tempdir().unwrap();
    let net = proc.path().join("7/net");
    fs::create_dir_all(&net).unwrap();
    // Twice each, as the kernel has them: in the main table and in the local one.
    let trie: String = (1..=3).map(|n| format!("|-- 10.0.0.{n}\n/32 host LOCAL\n").repeat(2)).collect();
    let listing = "fd000000000000000000000000000002 04 40 00 82     eth0\n";
    fs::write(net.join("fib_trie"), &trie).unwrap();
    fs::write(net.join("if_inet6"), listing).unwrap();
    let process = Process::open(proc.path(), 7).unwrap();
    let read = |bytes: usize, most| {
        let (addresses, whole) = process.addresses_within(bytes as u64, most).unwrap();
        (addresses.len(), whole)
    };
    let longest = trie.len().max(listing.len());
    assert_eq!(read(longest + 1, 5), (4, Whole::Yes));
    assert_eq!(read(longest + 1, 4), (4, Whole::Yes), "what is seen twice is no fifth");
    assert_eq!(read(longest + 1, 3), (3, Whole::No));
    assert_eq!(read(longest, 5), (4, Whole::No), "there may be more behind what was read");
    fs::remove_file(net.join("if_inet6")).unwrap();
    assert_eq!(read(longest + 1, 3), (3, Whole::Yes), "a kernel without IPv6");
    fs::remove_file(net.join("fib_trie")).unwrap();
    assert_eq!(process.addresses_of_pod(), None, "what is not read is not none");
}

#[test]
fn this_process_is_the_hosts() {
    let own = Process::open(Path::new("/proc"), std::process::id()).unwrap();
    assert!(own.started().is_some());
    assert!(own.addresses_of_pod().is_some());
    let netns = own.netns().unwrap();
    if let Ok(host) = Host::read(Path::new("/proc")) {
        assert!(host.has_netns(netns));
        assert!(own.addresses_of_pod().unwrap().0.iter().all(|address| host.has_address(*address)));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(raw in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = (v4(&raw), v6(&raw), parse_started(&raw), parse_netns(OsStr::from_bytes(&raw)));
    }

    #[test]
    fn any_cut_of_a_real_file_gives_only_its_addresses(at in 0_usize..600) {
        let all = v4(TRIE.as_bytes());
        prop_assert!(v4(TRIE.as_bytes().get(..at).unwrap_or_default()).is_subset(&all));
    }
}

#[test]
fn an_address_that_is_everybodys_is_no_pods() {
    let local = |address: &str| v4(format!("|-- {address}\n/32 host LOCAL\n").as_bytes()).len();
    assert_eq!([local("10.0.0.1"), local("127.0.0.1"), local("127.9.9.9"), local("0.0.0.0")], [1, 0, 0, 0]);
    // The last leaf counts, and one that is no address is a leaf as well.
    assert!(v4(b"|-- 10.0.0.1\n|-- 10.0.0.x\n/32 host LOCAL\n").is_empty());
}

/// As many service addresses as a node with ipvs has, and as many addresses as a pod is believed to have.
#[test]
fn a_host_may_have_many_addresses_and_a_pod_a_few() {
    let proc = tempfile::tempdir().unwrap();
    let net = proc.path().join("7/net");
    fs::create_dir_all(&net).unwrap();
    let trie = |count: u32| -> String {
        let leaf = |n| format!("|-- {}\n/32 host LOCAL\n", Ipv4Addr::from(0x0a00_0000 + n));
        (0..count).map(leaf).collect::<Vec<_>>().concat()
    };
    let process = Process::open(proc.path(), 7).unwrap();
    let told =
        |read: Option<(BTreeSet<IpAddr>, Whole)>| read.map(|(addresses, whole)| (addresses.len(), whole));
    fs::write(net.join("fib_trie"), trie(64)).unwrap();
    assert_eq!(told(process.addresses_of_pod()), Some((64, Whole::Yes)));
    fs::write(net.join("fib_trie"), trie(65)).unwrap();
    assert_eq!(told(process.addresses_of_pod()), Some((64, Whole::No)));
    // More than a megabyte.
    fs::write(net.join("fib_trie"), trie(50_000)).unwrap();
    assert_eq!(told(process.addresses_of_host()), Some((50_000, Whole::Yes)));
    assert_eq!(told(process.addresses_of_pod()), Some((64, Whole::No)));
}

#[test]
fn a_process_is_a_directory_and_what_is_held_of_it_is_not_inherited() {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    let proc = tempfile::tempdir().unwrap();
    fs::write(proc.path().join("7"), "").unwrap();
    assert_eq!(Process::open(proc.path(), 7).unwrap_err(), Errno::ENOTDIR);
    assert_eq!(Process::open(proc.path(), 8).unwrap_err(), Errno::ENOENT);
    let own = Process::own().unwrap();
    for held in [&own.dir, &own.hold_netns().unwrap()] {
        let flags = FdFlag::from_bits_retain(fcntl(held, FcntlArg::F_GETFD).unwrap());
        assert!(flags.contains(FdFlag::FD_CLOEXEC), "a child would keep it");
    }
}

#[test]
fn the_hosts_namespace_is_pid_ones_and_may_be_this_processs() {
    let proc = tempfile::tempdir().unwrap();
    let at = |name: &str| proc.path().join(name);
    assert_eq!((is_hosts(proc.path()), of_host(proc.path())), (None, None), "nobody is to be seen");
    fs::create_dir_all(at("1/ns")).unwrap();
    fs::create_dir_all(at("1/net")).unwrap();
    std::os::unix::fs::symlink("net:[77]", at("1/ns/net")).unwrap();
    fs::write(at("1/net/dev"), "").unwrap();
    assert_eq!((is_hosts(proc.path()), of_host(proc.path())), (Some(false), Some(77)));
    // Its own it may see whatever it may see of process 1.
    fs::remove_file(at("1/net/dev")).unwrap();
    std::os::unix::fs::symlink("/proc/self/net/dev", at("1/net/dev")).unwrap();
    assert_eq!((is_hosts(proc.path()), of_host(proc.path())), (Some(true), own()));
    assert_ne!(own(), Some(77));
}

#[test]
fn the_host_is_its_namespaces_and_its_addresses() {
    let proc = tempfile::tempdir().unwrap();
    assert_eq!(Host::read(proc.path()).unwrap_err(), Errno::ENOENT);
    for (process, netns) in [("1", 77), ("self", 78)] {
        let dir = proc.path().join(process);
        fs::create_dir_all(dir.join("ns")).unwrap();
        fs::create_dir_all(dir.join("net")).unwrap();
        std::os::unix::fs::symlink(format!("net:[{netns}]"), dir.join("ns/net")).unwrap();
        fs::write(dir.join("net/fib_trie"), format!("|-- 192.0.2.{netns}\n/32 host LOCAL\n")).unwrap();
    }
    let host = Host::read(proc.path()).unwrap();
    assert_eq!([76, 77, 78, 79].map(|netns| host.has_netns(netns)), [false, true, true, false]);
    let has = |address: &str| host.has_address(address.parse().unwrap());
    assert_eq!([has("192.0.2.77"), has("192.0.2.78"), has("10.0.0.1")], [true, false, false]);
}

#[test]
fn what_has_gone_elsewhere_or_is_not_shown_is_not_held() {
    let proc = tempfile::tempdir().unwrap();
    let ns = proc.path().join("7/ns");
    fs::create_dir_all(&ns).unwrap();
    std::os::unix::fs::symlink("net:[4026532001]", ns.join("net")).unwrap();
    assert!(hold(proc.path(), 4_026_532_001).unwrap().is_none(), "it is gone");
    // What is opened is another than what was named.
    fs::write(ns.join("net:[4026532001]"), "").unwrap();
    assert!(hold(proc.path(), 4_026_532_001).unwrap().is_none(), "it is elsewhere");
    // As Linux 5.10 refuses: by a link that names nothing.
    fs::create_dir_all(proc.path().join("8/ns")).unwrap();
    std::os::unix::fs::symlink("x", proc.path().join("8/ns/net")).unwrap();
    assert_eq!(hold(proc.path(), 4_026_532_001).unwrap_err(), Errno::EACCES);
    assert_eq!(Process::open(proc.path(), 8).unwrap().hold_netns().unwrap_err(), Errno::EACCES);
}

#[test]
fn processes_are_ordered_by_when_they_started() {
    let node = crate::enrich::tests::node::Node::new();
    node.process(50, 7, &[]);
    let process = Process::open(&node.at("proc"), 50).unwrap();
    assert_eq!(process.started(), Some(50), "it says so in its 22nd field");
    fs::remove_file(node.at("proc/50/stat")).unwrap();
    assert_eq!(process.started(), None);
}
