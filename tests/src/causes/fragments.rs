//! Packets of which some fragments never come: told long before the kernel gives them up.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::netns::Netns;
use crate::harness::packet::{ipv4, ipv6, send_routed, udp_segment};
use crate::harness::until;

use super::{EXT4, Scene, fix};

/// What two fragments carry of a datagram with a payload of 2,000 bytes: the kernel cuts at multiples of eight.
const FIRST: std::ops::Range<usize> = 0..1448;
const LATER: std::ops::Range<usize> = 1448..2008;

/// The fragment `part` of a datagram from `ext` to `web`.
fn fragment(from: SocketAddr, to: SocketAddr, id: u16, part: std::ops::Range<usize>) -> Vec<u8> {
    let segment = udp_segment(from, to, 2000, true);
    let units = u16::try_from(part.start / 8).unwrap();
    let more = u16::from(part.end < segment.len());
    let bytes = &segment[part];
    match (from.ip(), to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut packet = ipv4(source, destination, 17, bytes, true);
            packet[4..6].copy_from_slice(&id.to_be_bytes());
            // The kernel makes the checksum.
            packet[6..8].copy_from_slice(&(more << 13 | units).to_be_bytes());
            packet
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut payload = vec![17, 0];
            payload.extend((units << 3 | more).to_be_bytes());
            payload.extend(u32::from(id).to_be_bytes());
            payload.extend(bytes);
            ipv6(source, destination, 44, &payload)
        }
        _ => unreachable!("both are of one family"),
    }
}

#[test]
fn the_rest_never_comes() {
    let scene = Scene::new();
    let trace = scene.trace("mtu");
    if !trace.listens_at("inet_frag_queue_insert") {
        return;
    }
    for (own, other, headers) in [("10.97.9.2", "10.97.1.2", 20), ("fd97:9::2", "fd97:1::2", 48)] {
        let (own, other): (IpAddr, IpAddr) = (own.parse().unwrap(), other.parse().unwrap());
        let send = |ports: (u16, u16), id: u16, part: std::ops::Range<usize>| {
            let (from, to) = (SocketAddr::new(own, ports.0), SocketAddr::new(other, ports.1));
            let packet = fragment(from, to, id, part);
            scene.ext.inside(|| send_routed(other, &packet).unwrap());
        };
        // Late, but it comes.
        send((53, 4101), 1, FIRST);
        let late = Instant::now();
        // Two seconds are waited for it, and a busy machine loses time of its own.
        until("half a second has passed", || (late.elapsed() > Duration::from_millis(500)).then_some(()));
        send((53, 4101), 1, LATER);
        let begun = Instant::now();
        for id in 2..5 {
            send((53, 4102), id, FIRST);
        }
        let is_event =
            |line: &Value| line["event"] == "partial" && line["source_ip"] == json!(own.to_string());
        let is_row = |line: &Value| is_event(line) && line["finding"].is_null();
        let row = trace.expect("the first that is incomplete", is_row);
        let took = begun.elapsed();
        assert!(took > Duration::from_secs(1) && took < Duration::from_secs(15), "after {took:?}: {row:#}");
        assert_eq!(
            [&row["source_port"], &row["destination_port"], &row["fragments"], &row["missing"]],
            [&json!(53), &json!(4102), &json!(1), &json!("later")],
            "{row:#}"
        );
        assert_eq!(
            [&row["fragment_bytes"], &row["largest_fragment"]],
            [&json!(1448), &json!(1448 + headers)]
        );
        assert_eq!(row["payload_bytes"], Value::Null, "how much was to come is in what did not");
        assert_eq!(row["destination_pod"], json!({"namespace": "shop", "pod": "web-0"}));
        let verdict = trace.expect("three are no chance", |line| {
            is_event(line) && line["finding"] == "fragments_lost" && line["confidence"] == "high"
        });
        assert_eq!([&verdict["count"], &verdict["count_is_exact"]], [&json!(3), &json!(true)], "{verdict:#}");
        let message = verdict["message"].as_str().unwrap();
        assert!(
            message.contains("3 packets from") && message.contains("drops all but the first"),
            "{message}"
        );
        assert!(super::fix(&verdict).contains("`bufsize 1232`"), "{message}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        assert!(trace.lines(|line| line["destination_port"] == 4101).is_empty(), "that one has become whole");
    }
}

/// On its way through or to the host a rule drops all fragments but the first.
fn drop_later_ones(host: &Netns) {
    host.batch(
        "nft",
        "add table ip hole\nadd chain ip hole it { type filter hook prerouting priority -450; }\n\
         add rule ip hole it ip frag-off & 0x1fff != 0 drop\n\
         add table ip6 hole\nadd chain ip6 hole it { type filter hook prerouting priority -450; }\n\
         add rule ip6 hole it frag frag-off != 0 drop\n",
    );
}

/// Two sockets: what one sends, and whether the other gets it.
struct Way {
    sender: UdpSocket,
    receiver: UdpSocket,
}

impl Way {
    fn new((from, own): (&Netns, SocketAddr), (there, to): (&Netns, SocketAddr)) -> Self {
        let [sender, receiver] =
            [(from, own), (there, to)].map(|(netns, at)| netns.inside(|| UdpSocket::bind(at).unwrap()));
        sender.connect(to).unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        Self { sender, receiver }
    }

    /// Whether so many bytes arrive, all of them.
    fn carries(&self, length: usize) -> bool {
        self.sender.send(&vec![7; length]).unwrap();
        self.receiver.recv(&mut [0; 2048]).ok() == Some(length)
    }
}

/// What the fix says that is to be sent at most comes whole beside the rule, and without the rule so does all.
#[test]
fn what_is_sent_in_one_packet_needs_no_fragments() {
    let scene = Scene::new();
    let (host, web, ext) = (&scene.host, &scene.web.netns, &scene.ext);
    drop_later_ones(host);
    let trace = scene.trace("mtu");
    if !trace.listens_at("inet_frag_queue_insert") {
        return;
    }
    let mut ways = Vec::new();
    for (from, own, there, to, told) in [
        (
            ext,
            "10.97.9.2",
            web,
            "10.97.1.2",
            "10.97.9.2, which is not known as a pod of this node, would have to send at most ",
        ),
        (
            ext,
            "fd97:9::2",
            web,
            "fd97:1::2",
            "fd97:9::2, which is not known as a pod of this node, would have to send at most ",
        ),
        (web, "10.97.1.2", host, "10.97.1.1", "let shop/web-0 send at most "),
        (web, "fd97:1::2", host, "fd97:1::1", "let shop/web-0 send at most "),
    ] {
        let [at, port] =
            [(own, 4111), (to, 4112)].map(|(ip, port)| SocketAddr::new(ip.parse().unwrap(), port));
        let way = Way::new((from, at), (there, port));
        for _ in 0..3 {
            assert!(!way.carries(2000), "{own} to {to}: the rule drops no fragment");
        }
        let lost = trace.expect("fragments are lost", |line| {
            line["finding"] == "fragments_lost" && line["source_ip"] == own && line["destination_ip"] == to
        });
        let fix = fix(&lost);
        let (first, until) = fix.split_once("; until then ").unwrap();
        assert!(first.starts_with("let fragments pass on the way from "), "{fix}");
        let (most, _) =
            until.strip_prefix(told).and_then(|rest| rest.split_once(" bytes at a time")).expect(&fix);
        let most: usize = most.parse().unwrap();
        assert!(way.carries(most), "{own} to {to}: cured by {fix}");
        // In IPv6 the kernel cuts at less than fits whole.
        assert!(at.is_ipv6() || !way.carries(most + 1), "{own} to {to}: it may be more than {fix}");
        ways.push(way);
    }
    cured_without_the_rule(host, &ways, 2000);
}

/// Takes the rule away again.
fn cured_without_the_rule(host: &Netns, ways: &[Way], size: usize) {
    host.batch("nft", "delete table ip hole\ndelete table ip6 hole\n");
    for way in ways {
        assert!(way.carries(size), "{:?}: cured without the rule", way.receiver);
    }
}

/// Answers of a name server: what the resolver is told to ask for fits one packet on any path that IPv6 may have.
#[test]
fn answers_of_dns_that_need_no_fragments() {
    let scene = Scene::new();
    let (host, web, ext) = (&scene.host, &scene.web.netns, &scene.ext);
    ext.ip(
        "link set eth0 mtu 1280\naddr add 10.97.9.53/24 dev eth0\naddr add fd97:9::53/64 dev eth0 nodad\n",
    );
    host.ip("link set uplink mtu 1280\n");
    drop_later_ones(host);
    let trace = scene.trace("mtu");
    if !trace.listens_at("inet_frag_queue_insert") {
        return;
    }
    let mut ways = Vec::new();
    for (own, to) in [("10.97.9.53", "10.97.1.2"), ("fd97:9::53", "fd97:1::2")] {
        let (at, port) =
            (SocketAddr::new(own.parse().unwrap(), 53), SocketAddr::new(to.parse().unwrap(), 4114));
        let way = Way::new((ext, at), (web, port));
        for _ in 0..3 {
            assert!(!way.carries(1900), "{own}: the rule drops no fragment");
        }
        let lost = trace.expect("fragments are lost", |line| {
            line["finding"] == "fragments_lost" && line["source_ip"] == own
        });
        let told = "let the resolver ask for answers of at most 1232 bytes (CoreDNS: `bufsize 1232`)";
        assert!(fix(&lost).ends_with(told), "{lost:#}");
        assert!(way.carries(1232), "{own}: cured");
        assert!(at.is_ipv4() || !way.carries(1233), "{own}: it may be more");
        ways.push(way);
    }
    cured_without_the_rule(host, &ways, 1900);
}

/// A firewall that looks at ports drops what has none.
#[test]
fn fragments_that_a_rule_drops() {
    let scene = Scene::new();
    // The kernel waits half a minute for the others, and then drops what has come.
    scene.ext.sysctl("ipv4/ipfrag_time", "1");
    scene.host.batch(
        "nft",
        "add table ip hole\nadd chain ip hole it { type filter hook prerouting priority -450; }\n\
         add rule ip hole it ip frag-off & 0x1fff != 0 drop\n",
    );
    let trace = scene.trace("drops");
    assert!(!scene.is_answered_of(EXT4, 2000));
    let lost = trace.expect_class("fragment", |line| line["netns"] == scene.ext.inode());
    let fix = fix(&lost);
    assert!(
        fix.starts_with("let fragments pass on the way") && fix.ends_with("send what fits the path"),
        "{fix}"
    );
    assert!(scene.is_answered_of(EXT4, 1400), "cured by what fits");
    scene.host.batch("nft", "delete table ip hole\n");
    assert!(scene.is_answered_of(EXT4, 2000), "cured");
}
