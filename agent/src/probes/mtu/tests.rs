//! Decoding and verdicts, without a kernel.

use agent_common::mtu::stall::Stall;
use agent_common::mtu::{Device, Fate, Fragments, Kind, MtuRecord, Stage, flags};
use agent_common::quote::HEADER;
use agent_common::{IFNAMSIZ, NO_REASON};

use super::decode::Decoder;
use super::event::{Limit, TooBig};
use super::row;
use super::verdict::Findings;
use crate::kernel::{Kernel, Roots};
use crate::probe::{Event as _, Evidence as _, Pods, Value};

mod counted;
mod encrypted;
mod joined;
mod lines;
mod news;
mod packets;
mod places;
mod silent;
mod stalls;
mod summed;
mod sure;
mod unknown;
mod whole;

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
        fate: 0,
        stage: 0,
        source_port: 0,
        reason: NO_REASON,
        zero: 0,
        stall: Stall::default(),
        fragments: Fragments::default(),
        header,
    }
}

/// Of a kernel that says nothing.
fn decoder() -> Decoder {
    Decoder::new(&Kernel::load_from(Roots::under("/nonexistent".as_ref())))
}

fn event(record: &MtuRecord) -> TooBig {
    decoded(&decoder(), record)
}

fn decoded(decoder: &Decoder, record: &MtuRecord) -> TooBig {
    // SAFETY: a record is integers without padding.
    let bytes =
        unsafe { std::slice::from_raw_parts((&raw const *record).cast::<u8>(), size_of::<MtuRecord>()) };
    decoder.decode(bytes).unwrap()
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
    for mtu in [0, 67, 551] {
        let (finding, _, text) = verdict(&[record(Kind::Received, mtu)]);
        assert_eq!(finding, "absurd_mtu");
        assert!(!text.contains("Fix:"), "{text}");
    }
    assert_eq!(verdict(&[record(Kind::Received, 552)]).0, "small_hop");
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
    assert!(decoder().decode(&[0; 8]).is_err());
    assert!(decoder().decode(&[0; size_of::<MtuRecord>()]).is_err(), "kind 0");
}

/// Of a packet that is freed the place is told, and why only of a message: of what is too large that is known.
#[test]
fn where_a_packet_dies_is_named_and_why_a_message_does() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/kernel");
    let decoder = Decoder::new(&Kernel::load_from(Roots::under(&root)));
    let (place, not_specified) = (0xffff_ffff_8100_0450, 2);
    for (kind, location, function, reason) in [
        (Kind::Lost, place, Some("ip_rcv_core"), Some("NOT_SPECIFIED")),
        (Kind::Lost, 0, None, Some("NOT_SPECIFIED")),
        (Kind::Oversize, place, Some("ip_rcv_core"), None),
    ] {
        let record = MtuRecord { location, reason: not_specified, ..record(kind, 1400) };
        let event = decoded(&decoder, &record);
        assert_eq!((event.function.as_deref(), event.reason.as_deref()), (function, reason), "{kind:?}");
    }
}

fn ipv4([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// What a message came to, as a record of it says.
fn fated(kind: Kind, fate: Fate, mtu: u32) -> MtuRecord {
    MtuRecord { fate: fate as u8, sender: ipv4([10, 0, 7, 1]), ..record(kind, mtu) }
}

fn lost(fate: Fate, stage: Stage, flags: u8) -> MtuRecord {
    MtuRecord { stage: stage as u8, flags, ..fated(Kind::Lost, fate, 1400) }
}

#[test]
fn what_eats_the_messages_outweighs_what_they_say() {
    let made = record(Kind::Made, 1400);
    let (finding, fits, text) = verdict(&[made, lost(Fate::Filtered, Stage::Forward, 0)]);
    assert_eq!((finding.as_str(), fits), ("messages_lost", Value::Number(1400)));
    assert!(
        text.contains("10.244.1.10 is being eaten: the message of 10.0.7.1 that 1400 bytes fit"),
        "{text}"
    );
    assert!(text.contains("by a netfilter rule in this node's own namespace, hook forward"), "{text}");
    assert!(text.contains("icmp type destination-unreachable accept"), "{text}");
    assert!(text.contains("1 made, 1 lost (1 filtered) in "), "{text}");
    // One that got through says enough.
    let heard = fated(Kind::Received, Fate::Learned, 1400);
    assert_eq!(verdict(&[made, lost(Fate::Filtered, Stage::Forward, 0), heard]).0, "small_device");
    let (_, _, text) = verdict(&[lost(Fate::Invalid, Stage::Input, flags::LOCAL_ORIGIN | flags::IN_POD)]);
    assert!(
        text.contains("in the pod's own namespace, hook input, since conntrack there calls it INVALID"),
        "{text}"
    );
}

#[test]
fn a_message_that_is_not_sent_has_one_of_three_causes() {
    for (fate, why, fix) in [
        (Fate::NoRoute, "is not sent: this node's own namespace has no route to ", "Fix: add a route to "),
        (Fate::Limited, "limits the rate of such messages", "net.ipv6.icmp.ratemask=0-1,3-127"),
        (Fate::Unsent, "is not sent: the kernel answers no such packet", "Fix: see what "),
    ] {
        let (finding, _, text) = verdict(&[fated(Kind::Made, fate, 1400)]);
        assert_eq!(finding, "messages_lost", "{text}");
        assert!(text.contains(why) && text.contains(fix), "{text}");
    }
    // It was never to be sent, and what it would say is known.
    let (finding, _, text) = verdict(&[fated(Kind::Made, Fate::Nested, 1400)]);
    assert_ne!(finding, "messages_lost", "{text}");
    assert!(text.contains("nobody is told, since the packet is part of an ICMP message"), "{text}");
    assert!(!text.contains("gets a message"), "{text}");
}

#[test]
fn forged_messages_hide_nothing_and_hurt_nobody() {
    let stray = fated(Kind::Received, Fate::NoSocket, 1300);
    let (finding, _, text) = verdict(&[stray]);
    assert_eq!(finding, "stray_message");
    assert!(!text.contains("Fix:"), "{text}");
    let real = fated(Kind::Received, Fate::Learned, 1400);
    let (finding, fits, _) = verdict(&[stray, real, stray]);
    assert_eq!((finding.as_str(), fits), ("small_hop", Value::Number(1400)));
    // 1,426 bytes are quoted.
    let (finding, fits, text) = verdict(&[fated(Kind::Received, Fate::Delivered, 1426)]);
    assert_eq!((finding.as_str(), fits), ("absurd_mtu", Value::Absent));
    assert!(text.contains("the packet that it quotes has 1426 bytes"), "{text}");
    let small =
        MtuRecord { device: device("eth0", "", 1350), ..fated(Kind::Received, Fate::Delivered, 1400) };
    assert_eq!(verdict(&[small]).0, "absurd_mtu", "not more leaves here anyway");
    assert_eq!(verdict(&[MtuRecord { fate: Fate::Learned as u8, ..small }]).0, "small_hop", "it does");
}

#[test]
fn what_the_kernel_took_of_a_forgery_is_said() {
    let (finding, fits, text) = verdict(&[fated(Kind::Received, Fate::Learned, 68)]);
    assert_eq!((finding.as_str(), fits), ("absurd_mtu", Value::Absent));
    assert!(text.contains("claims that 68 bytes fit") && text.contains("took it for 552"), "{text}");
    assert!(text.contains("Fix: `ip route flush cache`"), "{text}");
    assert_eq!(verdict(&[fated(Kind::Received, Fate::Learned, 552)]).0, "small_hop");
    // Nobody sent it, and the kernel believes it.
    let stray = MtuRecord { flags: flags::TAKEN, ..fated(Kind::Received, Fate::NoSocket, 1300) };
    let (finding, _, text) = verdict(&[record(Kind::Learned, 1300), stray]);
    assert_eq!(finding, "stray_message");
    assert!(text.contains("The route cache took it") && text.contains("ip route flush cache"), "{text}");
    // It did no harm, so there is no fix.
    let (finding, _, text) = verdict(&[fated(Kind::Received, Fate::Delivered, 68)]);
    assert_eq!(finding, "absurd_mtu");
    assert!(!text.contains("took it") && !text.contains("Fix:"), "{text}");
}

#[test]
fn what_contradicts_its_quote_makes_a_path_flap_and_alone_is_absurd() {
    let (low, high) =
        (fated(Kind::Received, Fate::Learned, 1280), fated(Kind::Received, Fate::Delivered, 1500));
    let (finding, fits, text) = verdict(&[high, low, high, low, high]);
    assert_eq!((finding.as_str(), fits), ("flapping_mtu", Value::Number(1280)));
    assert!(text.contains("now 1280, now 1500 bytes"), "{text}");
    assert_eq!(verdict(&[high, low, high]).0, "small_hop", "once is no habit");
    let higher = fated(Kind::Received, Fate::Delivered, 9000);
    assert_eq!(verdict(&[high, higher, high, higher, high, higher]).0, "absurd_mtu");
    // Who forges without a socket to quote makes nothing flap.
    let stray = fated(Kind::Received, Fate::NoSocket, 1500);
    assert_eq!(verdict(&[low, stray, low, stray, low, stray]).0, "small_hop");
}

#[test]
fn a_path_that_flaps_is_named_and_its_smallest_number_counts() {
    let (low, high) =
        (fated(Kind::Received, Fate::Learned, 1280), fated(Kind::Received, Fate::Learned, 1400));
    assert_eq!(verdict(&[high, low]).0, "small_hop", "hop by hop is how it is meant to be");
    let (finding, fits, text) = verdict(&[high, low, high, low, high]);
    assert_eq!((finding.as_str(), fits), ("flapping_mtu", Value::Number(1280)));
    assert!(text.contains("now 1280, now 1400 bytes"), "{text}");
}

#[test]
fn ever_smaller_numbers_are_not_a_line_each() {
    let (mut findings, pods) = (Findings::default(), Pods::default());
    let lines = (0..600).rev().filter(|less| {
        let record = fated(Kind::Received, Fate::Delivered, 700 + less);
        findings.add(&event(&record), &pods).is_some()
    });
    assert!(lines.count() <= 5);
}

/// A full segment at its third timeout, sent from this port.
fn stalled(port: u16, fate: Fate, stall: Stall) -> MtuRecord {
    MtuRecord {
        fate: fate as u8,
        ip_version: 4,
        len: 1448,
        source: ipv4([10, 244, 1, 10]),
        destination: ipv4([198, 51, 100, 2]),
        source_port: port,
        destination_port: 443,
        header_len: 0,
        stall,
        ktime_ns: 3_600_000_000_000,
        ..record(Kind::Stalled, 0)
    }
}

/// At 250 ticks a second: sent 1.4 s ago for the first time, and the peer was heard before that.
fn stuck() -> Stall {
    let hertz = crate::kernel::clock::jiffies_a_second();
    Stall {
        acked: 200,
        mss: 1448,
        pmtu: 1500,
        retransmits: 3,
        window: 65_000,
        timeout: hertz * 8 / 10,
        heard: hertz * 2,
        arrived: 2_000_000,
        acknowledged: Stall::NEVER,
        ..Stall::default()
    }
}

#[test]
fn a_black_hole_is_proven_by_small_segments_that_arrive() {
    let stall = Stall { sacked: 1, longest_run: 104, ..stuck() };
    let (finding, fits, text) = verdict(&[stalled(4000, Fate::BlackHole, stall)]);
    assert_eq!((finding.as_str(), fits), ("black_hole", Value::Absent));
    assert!(text.starts_with("packets of 1500 bytes from 10.244.1.10 to 198.51.100.2:443 vanish"), "{text}");
    assert!(text.contains("1448 bytes") && text.contains("(up to 104 bytes) arrive"), "{text}");
    assert!(text.contains("trace mtu --to 198.51.100.2:443"), "{text}");
    // The kernel tries smaller ones.
    let tries = Stall { flags: Stall::PROBING, mss: 1024, retransmits: 5, ..stall };
    let smaller = MtuRecord { len: 1024, ..stalled(4000, Fate::BlackHole, tries) };
    let (_, _, text) = verdict(&[stalled(4000, Fate::BlackHole, stall), smaller]);
    assert!(text.contains("segments of 1448 bytes") && text.contains("now 1024 bytes"), "{text}");
    // What was told before does not explain what vanishes of those that heed it.
    let heeded = MtuRecord { stall: Stall { pmtu: 1400, ..stall }, ..stalled(4000, Fate::BlackHole, stall) };
    assert_eq!(verdict(&[record(Kind::Made, 1400), heeded]).0, "black_hole");
    // What a device says explains what its victims suffer.
    let (finding, _, text) = verdict(&[stalled(4000, Fate::BlackHole, stall), record(Kind::Oversize, 1400)]);
    assert_eq!(finding, "silent_drop");
    assert!(text.contains("a connection is stuck"), "{text}");
}
