//! What is read of a kernel's tables, how long it serves, and whose rules are asked for.

use super::*;
use crate::kernel::namespaces::tests::{enter, inode};

const CONNTRACK: &str = "entries  clashres found new invalid ignore\n\
                         0000001e  00000000 00000000 00000000 0000000a 00000000\n\
                         0000001e  00000000 00000000 00000000 00000010 00000000\n";

fn proc(files: &[(&str, &str)]) -> tempfile::TempDir {
    let proc = tempfile::tempdir().unwrap();
    enter(proc.path(), "self", "net");
    for (file, text) in files {
        let file = proc.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    proc
}

fn below(proc: &Path) -> Limits {
    Limits::below(proc, proc)
}

fn own() -> u32 {
    inode("net")
}

#[test]
fn a_full_table_is_told_by_its_entries_and_its_limit() {
    let proc = proc(&[
        (
            "net/stat/arp_cache",
            "entries  allocs   destroys\n00000010  0000002a 0000001a\n00000010  00000000 00000000\n",
        ),
        ("sys/net/ipv4/neigh/default/gc_thresh3", "16\n"),
        ("net/stat/nf_conntrack", CONNTRACK),
        ("sys/net/netfilter/nf_conntrack_count", "30\n"),
        ("sys/net/netfilter/nf_conntrack_max", "30\n"),
    ]);
    let limits = below(proc.path());
    assert_eq!(limits.neighbours(4), Some(Fill { entries: 16, limit: 16 }));
    assert_eq!(limits.neighbours(6), None);
    let conntrack = limits.conntrack(own()).unwrap();
    assert_eq!(conntrack, Conntrack { fill: Fill { entries: 30, limit: 30 }, invalid: 0x1a });
    assert!(conntrack.fill.is_full());
    assert!(!limits.are_of(0));
}

/// A pod has a table of its own, whose files are those of its processes. The limit is the kernel's.
#[test]
fn conntracks_table_is_that_of_the_namespace_asked_for() {
    let proc = proc(&[
        ("net/stat/nf_conntrack", CONNTRACK),
        ("sys/net/netfilter/nf_conntrack_count", "30"),
        ("sys/net/netfilter/nf_conntrack_max", "40"),
        ("8/net/stat/nf_conntrack", "entries invalid\n00000028 00000001\n00000028 00000002\n"),
    ]);
    enter(proc.path(), "8", "uts");
    let limits = below(proc.path());
    let told = |netns| limits.conntrack(netns).map(|now| (now.fill.entries, now.fill.limit, now.invalid));
    assert_eq!(told(own()), Some((30, 40, 0x1a)));
    assert_eq!(told(inode("uts")), Some((40, 40, 3)));
    assert_eq!(told(inode("user")), None, "nobody's");
    fs::remove_file(proc.path().join("8/net/stat/nf_conntrack")).unwrap();
    limits.lock().conntrack.clear();
    assert_eq!(told(inode("uts")), None, "conntrack is not there, or not shown");
}

#[test]
fn a_table_is_full_in_its_last_hundredth() {
    let full = |entries, limit| Fill { entries, limit }.is_full();
    assert!(full(16, 16) && !full(15, 16), "small ones to the last");
    assert!(full(261_000, 262_144) && !full(259_000, 262_144));
    assert!(!full(0, 0), "unlimited");
}

#[test]
fn a_reading_serves_for_a_second() {
    let proc =
        proc(&[("sys/net/netfilter/nf_conntrack_count", "1"), ("sys/net/netfilter/nf_conntrack_max", "9")]);
    let limits = below(proc.path());
    assert_eq!(limits.conntrack(own()).unwrap().fill.entries, 1);
    fs::write(proc.path().join("sys/net/netfilter/nf_conntrack_count"), "2").unwrap();
    assert_eq!(limits.conntrack(own()).unwrap().fill.entries, 1);
    limits.lock().conntrack.clear();
    assert_eq!(limits.conntrack(own()).unwrap().fill.entries, 2);
}

/// Rules of netfilter are asked for only where they can be no other kind's: to ask would load a module, and blame a wrong chain.
#[test]
fn rules_of_another_kind_are_not_taken_for_those_of_nftables() {
    const LOADED: (&str, &str) = ("modules", "x_tables 1 0 - Live 0x0\nnf_tables 1 0 - Live 0x0\n");
    const LEGACY: (&str, &str) = ("net/ip_tables_names", "filter\n");
    let is = |files: &[(&str, &str)], ip_version, function| {
        below(proc(files).path()).is_nftables(own(), ip_version, function)
    };
    assert!(is(&[LEGACY], 4, "nft_do_chain"), "it died in one of its chains");
    for function in ["ipt_do_table", "ip6t_do_table", "arpt_do_table", "ebt_do_table", "nf_hook_bpf"] {
        assert!(!is(&[LOADED], 4, function), "{function}");
    }
    for (files, v4, v6, why) in [
        (&[LOADED][..], true, true, "there is no other"),
        (&[], false, false, "it is not loaded"),
        (&[("modules", "nf_tables_set 1 0 - Live 0x0\n")], false, false, "another module"),
        (&[LOADED, LEGACY], false, true, "IPv4 has tables of the old kind"),
        (&[LOADED, ("net/ip6_tables_names", "nat\n")], true, false, "IPv6 has"),
        (&[LOADED, ("net/ip_tables_names", "")], true, true, "it was loaded and has no table"),
        (&[LOADED, ("net/ip_tables_names/x", "")], false, true, "it cannot be read"),
    ] {
        assert_eq!([4, 6].map(|ip_version| is(files, ip_version, "nf_hook_slow")), [v4, v6], "{why}");
    }
}

/// A chain that packets come to which are for this node.
fn dropping(name: &str, is_stateless: bool) -> rules::Rules {
    const INPUT: u8 = 0b10;
    let chain = Chain { family: "ip", table: "filter".to_owned(), name: name.to_owned() };
    rules::Rules { found: [(chain, INPUT)].into(), is_stateless }
}

#[test]
fn rules_are_read_once_for_many_packets() {
    let proc = proc(&[("modules", "nf_tables 1 0 - Live 0x0\n")]);
    let limits = below(proc.path());
    let reads = std::cell::RefCell::new(Vec::new());
    let chains = |ip_version, direction, function| {
        let chains = limits.chains_by(own(), ip_version, direction, function, |ip_version| {
            reads.borrow_mut().push(ip_version);
            Ok(dropping(if ip_version == 6 { "six" } else { "four" }, false))
        });
        chains.map(|chains| chains.iter().map(|chain| chain.name.clone()).collect::<Vec<_>>())
    };
    assert_eq!(chains(4, Direction::Received, "ipt_do_table"), Some(vec![]), "a rule of another kind");
    for _ in 0..2 {
        assert_eq!(chains(4, Direction::Received, "").as_deref(), Some(&["four".to_owned()][..]));
        assert_eq!(chains(4, Direction::Sent, ""), Some(vec![]), "what leaves does not come to it");
        assert_eq!(chains(6, Direction::Received, "").as_deref(), Some(&["six".to_owned()][..]));
    }
    assert_eq!(*reads.borrow(), [4, 6]);
    limits.lock().chains.get_mut(&(own(), 4)).unwrap().0 = Instant::now();
    let _ = (chains(6, Direction::Received, ""), chains(4, Direction::Received, ""));
    assert_eq!(*reads.borrow(), [4, 6, 4], "what was read is too old");
}

#[test]
fn rules_that_ask_for_no_state_do_not_drop_for_it() {
    let proc = proc(&[("modules", "nf_tables 1 0 - Live 0x0\n")]);
    let limits = below(proc.path());
    // As read, and as remembered.
    for _ in 0..2 {
        assert_eq!(limits.chains_by(own(), 4, Direction::Received, "", |_| Ok(dropping("c", true))), None);
    }
}

#[test]
fn rules_that_cannot_be_read_are_left_alone_for_a_while() {
    let proc = proc(&[("modules", "nf_tables 1 0 - Live 0x0\n")]);
    // How often they were read, and how long that is remembered.
    let tried = |error: ErrorKind| {
        let limits = below(proc.path());
        let reads = std::cell::Cell::new(0);
        let before = Instant::now();
        let chains = limits.chains_by(own(), 4, Direction::Received, "", |_| {
            reads.set(reads.get() + 1);
            Err(error.into())
        });
        assert_eq!(chains, Some(Arc::default()), "any rule may be to blame");
        let (until, _) = limits.lock().chains[&(own(), 4)].clone();
        (reads.get(), until.saturating_duration_since(before))
    };
    let (reads, pause) = tried(ErrorKind::PermissionDenied);
    assert_eq!((reads, pause >= Duration::from_mins(1)), (1, true));
    // They changed while they were read, twice: that is no reason to leave them alone.
    let (reads, pause) = tried(ErrorKind::Interrupted);
    assert_eq!(reads, 2);
    assert!((Duration::from_secs(5)..Duration::from_secs(50)).contains(&pause), "{pause:?}");
}

#[test]
fn devices_are_remembered_until_there_are_too_many() {
    let (mut known, reads) = (HashMap::new(), std::cell::Cell::new(0));
    let mut ask = |device: u32| {
        remembered(&mut known, device, || {
            reads.set(reads.get() + 1);
            reads.get()
        })
    };
    assert_eq!([ask(7), ask(7), ask(8), ask(7)], [1, 1, 2, 1]);
    for device in 100..100 + 253 {
        ask(device);
    }
    assert_eq!((ask(7), reads.get()), (1, 255), "there is room for one more");
    ask(9);
    assert_eq!((ask(7), reads.get()), (257, 257), "all are forgotten");
}

#[test]
fn a_device_that_is_gone_has_no_queues() {
    assert_eq!(below(Path::new("/proc")).queueing(u32::MAX >> 1), Queueing::default());
}

/// Tenants make as many namespaces and rules as they like.
#[test]
fn what_is_read_of_other_namespaces_in_a_second_has_a_limit() {
    let proc = proc(&[
        ("modules", "nf_tables 1 0 - Live 0x0\n"),
        ("8/net/stat/nf_conntrack", "entries invalid\n00000001 00000001\n"),
        ("sys/net/netfilter/nf_conntrack_count", "1"),
        ("sys/net/netfilter/nf_conntrack_max", "40"),
    ]);
    enter(proc.path(), "8", "uts");
    let other = inode("uts");
    let limits = below(proc.path());
    let reads = std::cell::Cell::new(0);
    let named = |netns| {
        let chains = limits.chains_by(netns, 4, Direction::Received, "", |_| {
            reads.set(reads.get() + 1);
            Ok(dropping(if netns == other { "pods" } else { "nodes" }, false))
        });
        chains.unwrap().iter().map(|chain| chain.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!([named(own()), named(other)], [["nodes"], ["pods"]], "each has its own");
    limits.lock().chains.clear();
    limits.lock().others = Some((Instant::now() + Duration::from_hours(1), OTHERS));
    assert!(limits.conntrack(other).is_none() && named(other).is_empty(), "no more in this second");
    assert!(limits.conntrack(own()).is_some() && named(own()) == ["nodes"], "the node's own come first");
    limits.lock().others = Some((Instant::now().checked_sub(FRESH).unwrap(), OTHERS));
    assert!(limits.conntrack(other).is_some() && named(other) == ["pods"]);
    assert_eq!(reads.get(), 4);
}
