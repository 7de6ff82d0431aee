//! Every verdict word for word, with its fix: a wrong number or device in an advice is followed all the same.

use std::sync::Arc;

use super::packets::{db, in_vxlan, nobody, outer, six, tcp_by_six, web};
use super::*;
use crate::links::{Policy, Wrapping};

/// What is said of each case, in their order: its name, and below it the verdict.
const WORDS: &str = include_str!("words.txt");

type Case = (&'static str, Vec<TooBig>, Pods);

fn because(record: &MtuRecord, reason: Option<&str>, function: Option<&str>) -> Vec<TooBig> {
    let event = event(record);
    vec![TooBig { reason: reason.map(Into::into), function: function.map(Into::into), ..event }]
}

fn seconds(record: &MtuRecord, seconds: u64) -> MtuRecord {
    MtuRecord { ktime_ns: seconds * 1_000_000_000, ..*record }
}

fn of(records: &[MtuRecord]) -> Vec<TooBig> {
    records.iter().map(event).collect()
}

/// What this node says of a packet that was to leave by this device.
fn by(route: Device) -> MtuRecord {
    MtuRecord { route, ..record(Kind::Made, 1400) }
}

/// The route cache took what it says.
fn taken(record: &MtuRecord, more: u8) -> MtuRecord {
    MtuRecord { flags: flags::TAKEN | more, ..*record }
}

/// A message that was to be sent.
fn unsent(fate: Fate, flags: u8) -> MtuRecord {
    MtuRecord { flags, ..fated(Kind::Made, fate, 1400) }
}

fn unnamed(record: &MtuRecord) -> MtuRecord {
    MtuRecord { device: Device::default(), ..*record }
}

/// Both ports 4500, and an SPI.
const ESP_IN_UDP: [u8; 12] = [0x11, 0x94, 0x11, 0x94, 0, 0, 0, 0, 0, 0, 0, 9];

/// What this node or a socket of it says.
fn made() -> Vec<Case> {
    let made = record(Kind::Made, 1400);
    let wide = by(device("uplink", "", 1500));
    let ipsec = MtuRecord { flags: flags::ENCRYPTED, route_pmtu: 1480, ..wide };
    let refused = MtuRecord {
        header_len: 0,
        source: ipv4([10, 244, 1, 10]),
        destination: ipv4([198, 51, 100, 2]),
        destination_port: 443,
        ..record(Kind::Refused, 1400)
    };
    let learned = MtuRecord { kind: Kind::Learned as u8, ..refused };
    vec![
        ("a device", of(&[made]), web()),
        ("a device, short packets", of(&[MtuRecord { len: 1400, ..made }]), web()),
        ("a device, to a pod", of(&[made]), db()),
        ("a device, from elsewhere", of(&[made]), nobody()),
        ("a device, from elsewhere by UDP", of(&[six(&made)]), nobody()),
        ("a device, from elsewhere by IPv6", of(&[tcp_by_six(&made)]), db()),
        ("a device that takes less than IPv6 needs", of(&[MtuRecord { mtu: 1200, ..made }]), web()),
        ("a device, from this node", of(&[MtuRecord { flags: flags::LOCAL_ORIGIN, ..made }]), nobody()),
        ("a tunnel's device", of(&[by(device("vxlan0", "vxlan", 1400))]), web()),
        ("what carries a tunnel", of(&[by(device("vxlan0", "vxlan", 1450))]), web()),
        ("a route", of(&[wide]), web()),
        ("a path", of(&[MtuRecord { route_pmtu: 1400, ..wide }]), web()),
        ("IPsec", of(&[ipsec]), web()),
        ("IPsec of an unknown path", of(&[MtuRecord { route_pmtu: 0, ..ipsec }]), web()),
        ("IPsec that adds nothing", of(&[MtuRecord { route_pmtu: 1400, ..ipsec }]), web()),
        ("a packet in VXLAN", of(&[in_vxlan(&made)]), web()),
        ("a packet in VXLAN, of a path", of(&[in_vxlan(&MtuRecord { route_pmtu: 1400, ..wide })]), web()),
        ("ESP in UDP of another node", of(&[outer(&made, 17, &[&ESP_IN_UDP])]), nobody()),
        (
            "part of a message, in VXLAN",
            of(&[in_vxlan(&MtuRecord { fate: Fate::Nested as u8, ..made })]),
            web(),
        ),
        ("part of a message", of(&[MtuRecord { fate: Fate::Nested as u8, ..made }]), web()),
        ("twice in vain", of(&[made, seconds(&made, 9)]), web()),
        ("three times at once", of(&[made, made, made]), web()),
        ("three times in vain", of(&[seconds(&made, 1), seconds(&made, 2), seconds(&made, 4)]), web()),
        ("a program", of(&[refused]), web()),
        ("a program of this node", of(&[MtuRecord { source: [0; 16], ..refused }]), nobody()),
        ("a program, by IPv6", of(&[by_six(&refused)]), web()),
        ("a path that is known", of(&[learned]), web()),
        ("IPv6", of(&[six(&made)]), web()),
    ]
}

/// Its addresses are `fd00::a` and `fd00::b`.
fn by_six(record: &MtuRecord) -> MtuRecord {
    let [mut source, mut destination] = [[0; 16]; 2];
    (source[0], source[15], destination[0], destination[15]) = (0xfd, 0xa, 0xfd, 0xb);
    MtuRecord { ip_version: 6, source, destination, ..*record }
}

/// What devices free without a word.
fn silent() -> Vec<Case> {
    let oversize = record(Kind::Oversize, 1300);
    let port = MtuRecord { route: Device::default(), device: device("veth-web", "veth", 1300), ..oversize };
    let ipvlan = MtuRecord { mtu: 0, device: device("eth3", "ipvlan", 1500), ..port };
    let stall = Stall { sacked: 1, longest_run: 104, ..stuck() };
    let stuck = stalled(4000, Fate::BlackHole, stall);
    let to = |last: u8| {
        let mut record = port;
        record.header[19] = last;
        record
    };
    vec![
        ("a veth", of(&[MtuRecord { route: device("eth0", "veth", 1300), ..oversize }]), web()),
        ("a bridge's port", of(&[port]), web()),
        ("a device that is not seen", of(&[MtuRecord { mtu: 0, ..port }]), web()),
        ("an ipvlan beside it", of(&[ipvlan]), web()),
        ("an ipvlan of a pod beside it", of(&[ipvlan]), db()),
        ("a connection stuck by it", of(&[port, stuck]), web()),
        ("two destinations", of(&[to(2), to(3)]), web()),
        ("four destinations", of(&[to(2), to(3), to(4), to(5)]), web()),
    ]
}

/// What others say.
fn received() -> Vec<Case> {
    let received = |fate, mtu| fated(Kind::Received, fate, mtu);
    let (learned, delivered) = (received(Fate::Learned, 1400), received(Fate::Delivered, 1400));
    let udp = |mut record: MtuRecord| {
        record.header[9] = 17;
        record
    };
    let stray = received(Fate::NoSocket, 1300);
    let low = received(Fate::Learned, 1280);
    vec![
        ("a hop", of(&[learned]), web()),
        ("a hop, to a pod", of(&[learned]), db()),
        ("a hop, told to nobody known", of(&[MtuRecord { flags: flags::FOREIGN, ..learned }]), nobody()),
        ("a hop, not believed", of(&[delivered]), web()),
        ("a hop, UDP", of(&[udp(delivered)]), web()),
        ("the destination itself", of(&[MtuRecord { sender: ipv4([198, 51, 100, 2]), ..learned }]), web()),
        ("a hop below VXLAN", of(&[in_vxlan(&learned)]), web()),
        ("a hop below ESP", of(&[outer(&learned, 50, &[&[0, 0, 0, 9, 0, 0, 0, 1]])]), nobody()),
        ("a hop below ESP in UDP", of(&[outer(&learned, 17, &[&ESP_IN_UDP])]), nobody()),
        ("less than any link", of(&[received(Fate::Delivered, 67)]), web()),
        ("less than any path", of(&[received(Fate::Delivered, 551)]), web()),
        ("less than any link, IPv6", of(&[six(&received(Fate::Delivered, 1279))]), web()),
        ("more than it quotes", of(&[received(Fate::Delivered, 1426)]), web()),
        ("more than leaves here", of(&[MtuRecord { device: device("eth0", "", 1350), ..delivered }]), web()),
        ("what the kernel took, less than any path", of(&[received(Fate::Learned, 551)]), web()),
        ("what the kernel took, IPv6", of(&[six(&received(Fate::Learned, 1279))]), web()),
        ("nobody's", of(&[stray]), web()),
        ("nobody's that is taken", of(&[taken(&stray, 0)]), web()),
        ("nobody's that is taken in a pod", of(&[taken(&stray, flags::IN_POD)]), web()),
        ("nobody's that is taken, IPv6", of(&[six(&taken(&received(Fate::NoSocket, 1300), 0))]), web()),
        ("not heeded", of(&[received(Fate::Ignored, 1400)]), web()),
        (
            "not heeded, of a device here",
            of(&[record(Kind::Made, 1400), received(Fate::Ignored, 1400)]),
            web(),
        ),
        ("by turns", of(&[learned, low, learned, low, learned]), web()),
        ("a hop, IPv6", of(&[six(&learned)]), web()),
    ]
}

/// Messages that reach nobody.
fn blocked() -> Vec<Case> {
    let message = |fate| lost(fate, Stage::Forward, 0);
    let own = flags::IN_POD | flags::LOCAL_ORIGIN;
    let filtered = |stage, flags| of(&[lost(Fate::Filtered, stage, flags)]);
    let dropped = message(Fate::Dropped);
    let filtered_away = message(Fate::Filtered);
    let (strict, place) = (Some("IP_RPFILTER"), Some("ip_rcv_finish_core"));
    let by_tunnel = of(&[in_vxlan(&record(Kind::Made, 1400)), message(Fate::Filtered)]);
    vec![
        ("a rule on the way", filtered(Stage::Forward, 0), web()),
        ("a rule at the pod", filtered(Stage::Input, own), web()),
        ("a rule of another namespace", filtered(Stage::Output, flags::FOREIGN), web()),
        ("a rule in another pod", filtered(Stage::Prerouting, flags::IN_POD), web()),
        (
            "a rule of the kernel's reason",
            because(&message(Fate::Filtered), Some("NETFILTER_DROP"), None),
            web(),
        ),
        (
            "a rule that nobody knows the hook of",
            of(&[MtuRecord { stage: 0, ..message(Fate::Filtered) }]),
            web(),
        ),
        ("a rule, IPv6", of(&[six(&message(Fate::Filtered))]), web()),
        (
            "a rule, of an unknown family",
            of(&[MtuRecord { ip_version: 0, ..message(Fate::Filtered) }]),
            web(),
        ),
        (
            "a filter",
            because(&message(Fate::Filtered), Some("TC_INGRESS"), Some("__netif_receive_skb_core")),
            web(),
        ),
        ("a filter, IPv6", because(&six(&message(Fate::Filtered)), Some("TC_EGRESS"), None), web()),
        (
            "a filter of an unknown device",
            because(&unnamed(&message(Fate::Filtered)), Some("TC_INGRESS"), None),
            web(),
        ),
        ("INVALID", of(&[message(Fate::Invalid)]), web()),
        ("INVALID, of another node", of(&[message(Fate::Invalid)]), nobody()),
        ("INVALID, of another node by IPv6", of(&[tcp_by_six(&message(Fate::Invalid))]), nobody()),
        ("INVALID, at the node's own address", of(&[lost(Fate::Invalid, Stage::Input, 0)]), nobody()),
        ("INVALID, of another node by UDP", of(&[six(&message(Fate::Invalid))]), nobody()),
        ("INVALID, IPv6", of(&[six(&message(Fate::Invalid))]), web()),
        ("the reverse path filter", because(&dropped, strict, place), web()),
        ("the same on an unknown device", because(&unnamed(&dropped), strict, None), web()),
        ("something else", because(&dropped, Some("OTHERHOST"), Some("ip_rcv_core")), web()),
        ("something else that nobody names", of(&[dropped]), web()),
        ("something else in a place", because(&unnamed(&dropped), None, Some("ip_rcv")), web()),
        ("no route", of(&[unsent(Fate::NoRoute, 0)]), web()),
        ("no route in the pod", of(&[unsent(Fate::NoRoute, own)]), web()),
        ("no route in another namespace", of(&[unsent(Fate::NoRoute, flags::FOREIGN)]), web()),
        ("a limited rate", of(&[six(&unsent(Fate::Limited, 0))]), web()),
        ("not sent", of(&[unsent(Fate::Unsent, 0)]), web()),
        (
            "a rule, and who it is about is known",
            of(&[record(Kind::Made, 1400), message(Fate::Filtered)]),
            db(),
        ),
        (
            "a rule, and earlier ones arrived",
            of(&[fated(Kind::Received, Fate::Learned, 1400), filtered_away, filtered_away, filtered_away]),
            web(),
        ),
        ("a rule, about a tunnel's packet", by_tunnel, nobody()),
        (
            "a rule, of an unknown sender",
            of(&[MtuRecord { sender: [0; 16], ..message(Fate::Filtered) }]),
            web(),
        ),
    ]
}

/// Connections that are stuck.
fn stuck_ones() -> Vec<Case> {
    let small = Stall { sacked: 1, longest_run: 104, ..stuck() };
    let hole = stalled(4000, Fate::BlackHole, small);
    let probing = Stall { flags: Stall::PROBING, mss: 1024, ..small };
    let hardly = Stall { retransmits: 4, hole: 1448, ..small };
    let lossy = Stall { lost: 822, ..small };
    let later = MtuRecord { ktime_ns: hole.ktime_ns + 3_000_000_000, ..hole };
    let elsewhere =
        MtuRecord { flags: flags::FOREIGN, netns: 4_026_532_301, ..stalled(4000, Fate::Suspect, stuck()) };
    // What left a load balancer for 198.51.100.9, from the port of a connection to another address.
    let mut stray = seconds(&fated(Kind::Received, Fate::NoSocket, 1400), 3600);
    (stray.header[19], stray.header[20], stray.header[21]) = (9, 0x0f, 0xa0);
    vec![
        ("a black hole", of(&[hole, later]), web()),
        ("a black hole, of nobody", of(&[hole]), nobody()),
        (
            "a black hole, nothing small is known",
            of(&[MtuRecord { stall: Stall { longest_run: 0, ..small }, ..hole }]),
            web(),
        ),
        ("a black hole, the kernel tries", of(&[MtuRecord { stall: probing, ..hole }]), web()),
        ("hardly chance", of(&[stalled(4000, Fate::Suspect, hardly)]), web()),
        ("a suspect", of(&[stalled(4000, Fate::Suspect, stuck())]), web()),
        ("a suspect in another namespace", of(&[elsewhere]), nobody()),
        (
            "a suspect, and nothing passed before",
            of(&[stalled(4000, Fate::Suspect, Stall { acked: 1, ..stuck() })]),
            web(),
        ),
        ("a suspect where much is lost", of(&[stalled(4000, Fate::Suspect, lossy)]), web()),
        ("a quote that is not translated back", of(&[stray, hole]), web()),
        ("a suspect, of nobody", of(&[stalled(4000, Fate::Suspect, stuck())]), nobody()),
        ("a black hole, encrypted", encrypted(&hole, Some(54)), web()),
        ("a suspect, encrypted", encrypted(&stalled(4000, Fate::Suspect, stuck()), None), web()),
    ]
}

/// What a policy encrypts that says where it goes if `adds` is known.
fn encrypted(record: &MtuRecord, adds: Option<u32>) -> Vec<TooBig> {
    let policy = Policy {
        wraps: true,
        priority: 0,
        is_partial: false,
        source: "10.244.0.0/16".parse().unwrap(),
        destination: "198.51.100.0/24".parse().unwrap(),
        local: None,
        peer: adds.map(|_| [192, 0, 2, 9].into()),
        is_tunnel: true,
        reqid: 0,
        if_id: 0,
        mark: (0, 0),
    };
    vec![TooBig { wrapping: Some(Arc::new(Wrapping { policy, adds })), ..event(record) }]
}

/// Packets of which some fragments never come.
fn incomplete() -> Vec<Case> {
    let came = |count, bytes, end, flags| {
        let fragments = Fragments { end, bytes, largest: 1500, count, flags };
        MtuRecord { len: end, fragments, ..record(Kind::Incomplete, 0) }
    };
    let first = came(1, 1480, 1480, Fragments::FIRST);
    let mut dns = first;
    dns.header[20..22].copy_from_slice(&[0, 53]);
    let cut = MtuRecord { held: 7, ..first };
    vec![
        ("only the first fragment, once", of(&[first]), db()),
        ("only the first fragment, twice", of(&[first, first]), db()),
        ("only the first fragment, of DNS", of(&[dns, dns, dns]), db()),
        ("only the first fragment, from here", of(&[first, first, first]), web()),
        ("only the first fragment, of many", of(&[cut]), db()),
        ("not the first fragment", of(&[came(2, 900, 2380, Fragments::LAST); 3]), db()),
        ("only the last fragment", of(&[came(1, 520, 2000, Fragments::LAST)]), db()),
        ("not one in between", of(&[came(2, 2000, 3480, Fragments::FIRST | Fragments::LAST)]), db()),
        ("not two", of(&[came(2, 2960, 4440, Fragments::FIRST)]), db()),
    ]
}

/// The verdict on a case; its fix alone is at its end.
fn words((_, events, pods): &Case) -> String {
    let mut findings = Findings::default();
    for event in events {
        findings.add(event, pods);
    }
    let verdict = findings.verdict().unwrap();
    let (_, fix) = verdict.fields.iter().find(|(name, _)| *name == "fix").unwrap();
    match fix {
        Value::Text(fix) => {
            assert!(verdict.message.ends_with(&format!(". Fix: {fix}")), "{fix} of {}", verdict.message);
        }
        _ => assert!(!verdict.message.contains("Fix:"), "{}", verdict.message),
    }
    verdict.message
}

#[test]
fn every_verdict_is_worded_as_it_is_written() {
    let cases: Vec<Case> =
        [made(), silent(), received(), blocked(), stuck_ones(), incomplete()].into_iter().flatten().collect();
    let told: Vec<String> = cases.iter().map(|case| format!("{}:\n  {}\n", case.0, words(case))).collect();
    let written: Vec<&str> = WORDS.split_inclusive('\n').collect();
    let written: Vec<String> = written.chunks(2).map(<[&str]>::concat).collect();
    for (told, written) in told.iter().zip(&written) {
        assert_eq!(told, written);
    }
    assert_eq!(told.len(), written.len());
}
