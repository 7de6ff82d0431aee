//! Packets of which some fragments never come: told long before the kernel gives them up.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

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
