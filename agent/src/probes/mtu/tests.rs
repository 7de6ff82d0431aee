//! Decoding and verdicts, without a kernel.

use agent_common::mtu::HEADER;

use super::*;
use crate::probe::{Evidence as _, Value};

fn device(name: &str, kind: &str, mtu: u32) -> Device {
    let bytes = |text: &str| {
        let mut bytes = [0; IFNAMSIZ];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        bytes
    };
    Device { ifindex: 7, mtu, name: bytes(name), kind: bytes(kind) }
}

/// TCP 10.244.1.10:40000 -> 198.51.100.2:443 with DF.
const PACKET: [u8; 28] = [
    0x45, 0, 5, 0x92, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 244, 1, 10, 198, 51, 100, 2, 0x9c, 0x40, 0x01, 0xbb, 0,
    0, 0, 0,
];

fn record(kind: Kind, mtu: u32) -> MtuRecord {
    let mut header = [0; HEADER];
    header[..PACKET.len()].copy_from_slice(&PACKET);
    MtuRecord {
        ktime_ns: 1,
        held: 0,
        location: 0,
        mtu,
        len: 1428,
        netns: 1,
        route_pmtu: 0,
        sender: [0; 16],
        source: [0; 16],
        destination: [0; 16],
        device: device("veth-web", "veth", 1500),
        route: device("uplink", "", 1400),
        gso_size: 0,
        destination_port: 0,
        source_slot: 0,
        destination_slot: 0,
        kind: kind as u8,
        ip_version: 4,
        flags: 0,
        header_len: 28,
        zero: [0; 4],
        header,
    }
}

/// The symbols of a kernel that hides them.
fn nameless() -> Kallsyms {
    Kallsyms::below("/nonexistent".as_ref())
}

fn event(record: &MtuRecord) -> TooBig {
    // SAFETY: a record is integers without padding.
    let bytes =
        unsafe { std::slice::from_raw_parts((&raw const *record).cast::<u8>(), size_of::<MtuRecord>()) };
    TooBig::decode(bytes, &Clock::new(), &nameless()).unwrap()
}

/// What these events add up to: finding, what fits, and the words.
fn verdict(records: &[MtuRecord]) -> (String, Value<'static>, String) {
    let (mut findings, pods) = (Findings::default(), Pods::default());
    for record in records {
        findings.add(&event(record), &pods);
    }
    let verdict = findings.verdict().unwrap();
    let field = |name: &str| verdict.fields.iter().find(|(is, _)| *is == name).unwrap().1.clone();
    let Value::Text(finding) = field("finding") else { panic!("a finding is text") };
    let fits = match field("fits") {
        Value::Number(fits) => Value::Number(fits),
        _ => Value::Absent,
    };
    (finding.into_owned(), fits, verdict.message)
}

#[test]
fn the_table_fits_a_terminal() {
    const GAP: usize = 2;
    let shown = row::COLUMNS.iter().filter(|column| !column.wide);
    assert!(shown.map(|column| column.width + GAP).sum::<usize>() - GAP <= 80);
}

#[test]
fn what_set_the_limit_is_told_apart() {
    let made = record(Kind::Made, 1400);
    assert_eq!(event(&made).limit(), Some(Limit::Device));
    let by_route = MtuRecord { mtu: 1300, ..made };
    assert_eq!(event(&by_route).limit(), Some(Limit::Route));
    assert_eq!(event(&MtuRecord { route_pmtu: 1300, ..by_route }).limit(), Some(Limit::Path));
    let tunnel = MtuRecord { mtu: 1380, route: device("tun0", "ipip", 1480), ..made };
    assert_eq!(event(&tunnel).limit(), Some(Limit::Tunnel));
    assert_eq!(event(&MtuRecord { mtu: 1480, ..tunnel }).limit(), Some(Limit::Device), "its own MTU");
    assert_eq!(event(&record(Kind::Received, 1400)).limit(), None);
}

#[test]
fn the_place_outweighs_who_tells_of_it() {
    let received = MtuRecord { sender: ipv4([10, 0, 7, 1]), ..record(Kind::Received, 1400) };
    let (finding, fits, text) = verdict(&[received, record(Kind::Made, 1400), record(Kind::Learned, 1400)]);
    assert_eq!((finding.as_str(), fits), ("small_device", Value::Number(1400)));
    assert!(text.starts_with("uplink takes 1400 bytes: 10.244.1.10 sends up to 1428"), "{text}");
    assert!(text.contains("1 made, 1 received, 1 learned in "), "{text}");
    // What this node only repeats of what a hop has said is the hop's word.
    let repeated =
        MtuRecord { route: device("uplink", "", 1500), route_pmtu: 1400, ..record(Kind::Made, 1400) };
    let (finding, _, text) = verdict(&[repeated, received]);
    assert_eq!(finding, "small_hop");
    assert!(text.starts_with("hop 10.0.7.1 takes 1400 bytes"), "{text}");
}

#[test]
fn an_mtu_no_link_has_is_named_and_nothing_is_advised() {
    for mtu in [0, 67] {
        let (finding, _, text) = verdict(&[record(Kind::Received, mtu)]);
        assert_eq!(finding, "absurd_mtu");
        assert!(!text.contains("Fix:"), "{text}");
    }
    assert_eq!(verdict(&[record(Kind::Received, 68)]).0, "small_hop");
}

#[test]
fn a_silent_drop_names_both_ends() {
    let silent = MtuRecord { route: device("eth0", "veth", 1300), ..record(Kind::Oversize, 1300) };
    let (finding, fits, text) = verdict(&[silent, silent]);
    assert_eq!((finding.as_str(), fits), ("silent_drop", Value::Number(1300)));
    assert!(text.contains("veth-web (MTU 1500) hands packets to eth0, which takes 1300"), "{text}");
    assert!(text.contains("2 oversize"), "{text}");
}

#[test]
fn what_is_no_packet_is_not_believed() {
    let mut absurd = record(Kind::Received, 1400);
    absurd.header[0] = 0x42;
    absurd.source_slot = 3;
    let event = event(&absurd);
    assert_eq!((event.source(), event.destination()), (None, None));
    assert_eq!(event.subjects().source, [None, None]);
}

#[test]
fn a_record_of_another_kind_or_length_is_none_of_ours() {
    let clock = Clock::new();
    assert!(TooBig::decode(&[0; 8], &clock, &nameless()).is_err());
    assert!(TooBig::decode(&[0; size_of::<MtuRecord>()], &clock, &nameless()).is_err(), "kind 0");
}

fn ipv4([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}
