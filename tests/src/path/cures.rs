//! What a verdict's fix is worth: its command is run as it is, and then packets pass.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::harness::agent::{Agent, command};
use crate::harness::netns::Netns;
use crate::harness::until;

use super::chain::{Chain, FAR, NEAR, Walk, address};

/// Bytes of a transfer: many packets of any size.
const TRANSFER: usize = 200_000;

/// The command of a fix.
fn command_of(walk: &Walk) -> String {
    let fix = walk.verdict["fix"].as_str().unwrap_or_else(|| panic!("no fix: {walk:#?}"));
    fix.split('`').nth(1).unwrap_or_else(|| panic!("no command: {fix}")).to_owned()
}

/// Gives the command of a fix where it says, twice: it must work a second time as well.
fn apply(chain: &Chain, walk: &Walk) -> String {
    let fix = walk.verdict["fix"].as_str().unwrap();
    assert!(fix.starts_with(&format!("in network namespace {}, `ip ", chain.netns[0].path())), "{fix}");
    let command = command_of(walk);
    for _ in 0..2 {
        chain.netns[0].shell(&command);
    }
    command
}

/// A connection from one namespace to another, whose bytes are counted as they come.
struct Transfer {
    came: Arc<AtomicUsize>,
    client: TcpStream,
}

impl Transfer {
    /// Connects, and hands the kernel all that is to be sent.
    fn begin(from: &Netns, to: &Netns, address: &str) -> Self {
        let address: IpAddr = address.parse().unwrap();
        let listener = to.inside(|| TcpListener::bind(SocketAddr::new(address, 0)).unwrap());
        let at = listener.local_addr().unwrap();
        let mut client = from.inside(|| TcpStream::connect(at).unwrap());
        let (mut server, _) = listener.accept().unwrap();
        let came = Arc::<AtomicUsize>::default();
        let counts = Arc::clone(&came);
        thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let Ok(read @ 1..) = server.read(&mut buffer) {
                counts.fetch_add(read, Ordering::Relaxed);
            }
        });
        let mut writes = client.try_clone().unwrap();
        // It waits until its bytes are acknowledged, or the connection ends.
        thread::spawn(move || writes.write_all(&vec![0; TRANSFER]));
        client.flush().unwrap();
        Self { came, client }
    }

    fn is_done(&self) -> bool {
        self.came.load(Ordering::Relaxed) == TRANSFER
    }

    fn ends(&self, what: &str) {
        until(what, || self.is_done().then_some(()));
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        // Else a stuck one would go on trying beside the tests after this one.
        let _ = self.client.shutdown(std::net::Shutdown::Both);
    }
}

/// Counts what namespace 0 is told of packets that are too large.
fn count_told(chain: &Chain) {
    chain.netns[0].batch(
        "nft",
        "table inet told {\ncounter told { }\nchain c {\ntype filter hook prerouting priority 0\n\
         icmp type destination-unreachable icmp code frag-needed counter name told\n\
         icmpv6 type packet-too-big counter name told\n}\n}\n",
    );
}

fn told(chain: &Chain) -> u64 {
    let text = chain.netns[0].run("nft", &["list", "counter", "inet", "told", "told"]);
    let packets = text.split_once("packets ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    packets.unwrap_or_else(|| panic!("{text}"))
}

/// Whether a datagram of so many bytes, headers included, comes from a neighbour to namespace 0.
fn receives(chain: &Chain, v6: bool, size: usize) {
    let own = if v6 { "fd64:1::1" } else { "10.64.1.1" };
    let own: IpAddr = own.parse().unwrap();
    let receiver = chain.netns[0].inside(|| UdpSocket::bind(SocketAddr::new(own, 0)).unwrap());
    receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let to = receiver.local_addr().unwrap();
    let any = if v6 { "[::]:0" } else { "0.0.0.0:0" };
    let sender = chain.netns[1].inside(|| UdpSocket::bind(any).unwrap());
    let payload = vec![0; size - if v6 { 48 } else { 28 }];
    sender.send_to(&payload, to).unwrap();
    let mut buffer = vec![0; 2048];
    let read = receiver.recv(&mut buffer).unwrap_or_else(|error| panic!("{size} bytes to {own}: {error}"));
    assert_eq!(read, payload.len());
}

/// The walk after a cure: what the route lets be sent arrives.
fn is_cured(chain: &Chain, to: &str, fits: u32) {
    let walk = chain.walk(to, &["--fail-on-findings"]);
    walk.is(&[
        ("finding", json!("path_clear")),
        ("fits", json!(fits)),
        ("device_mtu", json!(1500)),
        ("route_mtu", json!(fits)),
    ]);
    assert_eq!(walk.code, 0, "{walk:#?}");
}

#[test]
fn a_hop_that_owns_up_need_not_say_it_any_more() {
    let chain = Chain::lock();
    chain.small_behind(3, 1400);
    count_told(&chain);
    for (to, v6) in FAR.into_iter().zip([false, true]) {
        let walk = chain.walk(to, &[]);
        walk.is(&[("finding", json!("small_hop")), ("hop", json!(3)), ("route_mtu", json!(null))]);
        chain.forget();
        let before = told(&chain);
        Transfer::begin(&chain.netns[0], &chain.netns[6], to).ends("it is told, and sends less");
        assert!(told(&chain) > before, "nothing was too large in the first place");
        chain.forget();
        let command = apply(&chain, &walk);
        let gateway = address(1, v6);
        let wanted = if v6 {
            format!("ip -6 route replace {to}/128 via {gateway} dev r1 mtu 1400")
        } else {
            format!("ip route replace {to}/32 via {gateway} dev r1 mtu 1400")
        };
        assert_eq!(command, wanted);
        let before = told(&chain);
        Transfer::begin(&chain.netns[0], &chain.netns[6], to).ends("it passes");
        Transfer::begin(&chain.netns[6], &chain.netns[0], &own(v6)).ends("it passes the other way");
        assert_eq!(told(&chain), before, "it was told all the same");
        receives(&chain, v6, 1500);
        is_cured(&chain, to, 1400);
    }
}

/// Namespace 0's own address.
fn own(v6: bool) -> String {
    if v6 { "fd64:1::1".into() } else { "10.64.1.1".into() }
}

#[test]
fn what_is_stuck_in_a_black_hole_passes() {
    let chain = Chain::lock();
    chain.small_behind(2, 1372);
    chain.silence(2);
    let stuck = FAR.map(|to| Transfer::begin(&chain.netns[0], &chain.netns[6], to));
    let walks = FAR.map(|to| Agent::spawn(&mut chain.command(to, &[]))).map(Walk::ended);
    for (((to, v6), stuck), walk) in FAR.into_iter().zip([false, true]).zip(&stuck).zip(&walks) {
        walk.is(&[("finding", json!("black_hole")), ("hop", json!(2)), ("fits", json!(1372))]);
        assert!(!stuck.is_done(), "{to}: nothing was stuck");
        let until =
            if v6 { "packet-too-big (ICMPv6 type 2)" } else { "fragmentation-needed (ICMP type 3 code 4)" };
        let fix = walk.verdict["fix"].as_str().unwrap();
        assert!(fix.ends_with(&format!(" mtu 1372`, until {until} of hop 2 is let through")), "{fix}");
        apply(&chain, walk);
        stuck.ends("what was stuck passes");
        Transfer::begin(&chain.netns[0], &chain.netns[6], to).ends("so does what is new");
        receives(&chain, v6, 1500);
        is_cured(&chain, to, 1372);
    }
    // The other half of the fix: the hop is heard again.
    chain.as_it_was();
    chain.netns[2].batch("nft", "flush ruleset\n");
    for to in FAR {
        let walk = chain.walk(to, &[]);
        walk.is(&[("finding", json!("small_hop")), ("hop", json!(2)), ("fits", json!(1372))]);
        Transfer::begin(&chain.netns[0], &chain.netns[6], to).ends("it is told, and sends less");
    }
}

/// A neighbour whose end of the link takes less drops what is larger, and nobody says so: there is no gateway to go by.
#[test]
fn a_neighbour_needs_no_gateway() {
    let chain = Chain::lock();
    chain.netns[1].ip("link set l1 mtu 1400\n");
    for (v6, wanted) in [
        (false, "ip route replace 10.64.1.2/32 dev r1 src 10.64.1.1 mtu "),
        (true, "ip -6 route replace fd64:1::2/128 dev r1 mtu "),
    ] {
        let to = address(1, v6);
        let walk = chain.walk(&to, &[]);
        walk.is(&[("finding", json!("black_hole")), ("hop", json!(0))]);
        let command = apply(&chain, &walk);
        // A veth lets some bytes more pass, for a VLAN's tag.
        let fits = walk.verdict["fits"].as_u64().and_then(|fits| u32::try_from(fits).ok()).unwrap();
        assert!((1400..=1404).contains(&fits), "{walk:#?}");
        assert_eq!(command, format!("{wanted}{fits}"));
        is_cured(&chain, &to, fits);
        Transfer::begin(&chain.netns[0], &chain.netns[1], &to).ends("it passes");
        let fix = walk.verdict["fix"].as_str().unwrap();
        assert!(fix.ends_with("`, until the link to hop 1 takes 1500 bytes"), "{fix}");
    }
}

/// The route of a destination keeps what the route says that it is taken from: table, source, next hops, and the rest.
#[test]
fn what_a_route_says_besides_is_kept() {
    let chain = Chain::lock();
    let near = &chain.netns[0];
    chain.small_behind(3, 1400);
    for (to, ip, net, prefix, all) in [
        (FAR[0], "ip -4", "10.64.6.0/24", "10.64.1.", "0.0.0.0/0"),
        (FAR[1], "ip -6", "fd64:6::/64", "fd64:1::", "::/0"),
    ] {
        let length = if ip == "ip -6" { 64 } else { 24 };
        let [by, source, other] = [2, 7, 8].map(|last| format!("{prefix}{last}"));
        let shown = |table: &str| near.shell(&format!("{ip} route show {to} table {table}"));
        let keeps = |table: &str, parts: &[&str]| {
            let route = shown(table);
            assert!(parts.iter().all(|part| route.contains(part)), "{parts:?}: {route}");
            assert_eq!(route.matches("mtu 1400").count(), 1, "{route}");
            is_cured(&chain, to, 1400);
        };
        near.shell(&format!("{ip} addr add {source}/{length} dev r1"));
        // In a table of its own, by a rule; the next hop is on the link because it is said to be.
        let rest = ["initcwnd 20", "initrwnd 30", "advmss 1300", "hoplimit 50"];
        let said = rest.join(" ");
        near.shell(&format!(
            "{ip} route add {net} via {by} dev r1 onlink table 100 src {source} metric 50 {said} mtu lock 1450\n\
             {ip} rule add to {all} table 100 pref 99"
        ));
        let walk = chain.walk(to, &[]);
        walk.is(&[("finding", json!("small_hop")), ("route_mtu", json!(1450)), ("device_mtu", json!(1500))]);
        assert!(walk.verdict["message"].as_str().unwrap().contains("1450 bytes"), "{walk:#?}");
        apply(&chain, &walk);
        keeps("100", &[&[&*by, "onlink", &source], &rest[..]].concat());
        chain.as_it_was();
        // By two next hops: whichever a flow takes, both stay. They are the same router.
        chain.netns[1].shell(&format!("{ip} addr add {other}/{length} dev l1"));
        near.shell(&format!(
            "{ip} route replace {net} nexthop via {by} dev r1 weight 2 nexthop via {other} dev r1 weight 1"
        ));
        let walk = chain.walk(to, &[]);
        walk.is(&[("finding", json!("small_hop")), ("route_mtu", json!(null))]);
        apply(&chain, &walk);
        keeps("main", &[&by, &other, "weight 2", "weight 1"]);
        chain.as_it_was();
        // A route for this address alone is replaced, and not joined by another.
        near.shell(&format!("{ip} route add {to} via {by} dev r1 metric 70 initcwnd 20"));
        apply(&chain, &chain.walk(to, &[]));
        keeps("main", &[&by, "metric 70", "initcwnd 20"]);
        chain.as_it_was();
    }
}

/// A rule against SYNs with data harms no connection: no MTU is to be set for it.
#[test]
fn a_rule_against_syns_with_data_is_no_matter_of_mtus() {
    let chain = Chain::lock();
    chain.rules(3, "forward", &["tcp flags & (syn | ack) == syn meta length > 600 drop"]);
    for (to, port) in [(FAR[0], "10.64.6.2:8082"), (FAR[1], "[fd64:6::2]:8082")] {
        let walk = chain.walk(port, &["--fail-on-findings"]);
        walk.is(&[
            ("finding", json!("black_hole")),
            ("confidence", json!("low")),
            ("method", json!("tcp")),
            ("fits", json!(1500)),
            ("size_dies", json!(601)),
        ]);
        assert_eq!(walk.code, 0, "{walk:#?}");
        let text = walk.verdict["message"].as_str().unwrap();
        assert!(text.starts_with("SYNs with data over 600 vanish after hop 3"), "{text}");
        let fix = walk.verdict["fix"].as_str().unwrap();
        assert!(fix.contains("a walk without the port") && !fix.contains('`'), "{fix}");
        chain.walk(to, &[]).is(&[("finding", json!("path_clear")), ("fits", json!(1500))]);
        Transfer::begin(&chain.netns[0], &chain.netns[6], to).ends("it passes");
    }
}

#[test]
fn a_pod_is_told_of_its_own_route_and_the_node_of_its() {
    let chain = Chain::lock();
    chain.small_behind(2, 1400);
    let walk = |args: &[&str]| {
        let args = [&["trace", "mtu", "--to", FAR[0], "-o", "json"], args].concat();
        let mut command = command(&chain.node, &args);
        chain.netns[0].enter(&mut command);
        Walk::of(&mut command)
    };
    let route = "`ip route replace 10.64.6.2/32 via 10.64.1.2 dev r1 mtu 1400`";
    let pod = walk(&["--from-pod", NEAR]);
    let wanted = format!("in {NEAR}, {route}; for all destinations, the CNI's MTU (both ends of its veth)");
    assert_eq!(pod.verdict["fix"], wanted);
    assert_eq!(walk(&[]).verdict["fix"], format!("on this node, {route}"));
    chain.netns[0].shell(&command_of(&pod));
    is_cured(&chain, FAR[0], 1400);
}
