//! One event as a sentence, as JSON fields and as a table row: what a reader and a program see of it.

use std::time::{Duration, SystemTime};

use super::packets::{db, in_vxlan, nobody, six, web};
use super::*;
use crate::probe::Level;

fn message(record: &MtuRecord) -> String {
    let mut text = String::new();
    event(record).message(&web(), &mut text);
    text
}

/// Packets in fragments of which the last may not have come.
fn incomplete(flags: u16) -> MtuRecord {
    let fragments = Fragments { end: 3480, bytes: 2000, largest: 1500, count: 2, flags };
    MtuRecord { fragments, len: 3480, ..record(Kind::Incomplete, 0) }
}

#[test]
fn an_event_is_told_with_who_says_it_and_what_became_of_it() {
    const FLOW: &str = "TCP shop/web (10.244.1.10:40000) -> 198.51.100.2:443";
    let made = record(Kind::Made, 1400);
    let path = MtuRecord { route: device("uplink", "", 1500), route_pmtu: 1400, ..made };
    let received = |fate| fated(Kind::Received, fate, 1400);
    let unsent = |fate| fated(Kind::Made, fate, 1400);
    for (record, begin, end) in [
        (made, "told that it is too large: ", "; uplink takes 1400 bytes"),
        (
            MtuRecord { held: 5, ..made },
            "told that it is too large: ",
            "; uplink takes 1400 bytes; 5 more like it before",
        ),
        (path, "told that it is too large: ", "; the path behind uplink is known to take 1400 bytes"),
        (
            unsent(Fate::Unsent),
            "told that it is too large: ",
            "; uplink takes 1400 bytes; the message is not sent",
        ),
        (
            unsent(Fate::Nested),
            "told that it is too large: ",
            "; uplink takes 1400 bytes; no message is sent: the packet is itself part of an ICMP message of this kernel's",
        ),
        (
            unsent(Fate::NoRoute),
            "told that it is too large: ",
            "; uplink takes 1400 bytes; the message is not sent: there is no route back",
        ),
        (
            unsent(Fate::Limited),
            "told that it is too large: ",
            "; uplink takes 1400 bytes; the message is not sent: their rate is limited",
        ),
        (in_vxlan(&made), "told that it is too large: ", " in VXLAN; uplink takes 1400 bytes"),
        (record(Kind::Oversize, 0), "too large, and nobody is told: ", "; by uplink"),
        (record(Kind::Received, 1400), "was told that it is too large: ", "; 1400 bytes fit"),
        (record(Kind::Received, 0), "was told that it is too large: ", ""),
        (received(Fate::Learned), "was told that it is too large: ", "; 10.0.7.1 takes 1400 bytes"),
        (
            received(Fate::NoSocket),
            "was told that it is too large: ",
            "; 10.0.7.1 takes 1400 bytes; no socket there has sent such a packet",
        ),
        (
            received(Fate::Ignored),
            "was told that it is too large: ",
            "; 10.0.7.1 takes 1400 bytes; it is not heeded (ip_no_pmtu_disc)",
        ),
        (
            lost(Fate::Filtered, Stage::Forward, 0),
            "a message that it is too large is dropped: ",
            "; 10.0.7.1 takes 1400 bytes; filtered in forward (no reason given)",
        ),
        (record(Kind::Refused, 1400), "a socket asked for too large a datagram: ", "; 1400 bytes fit"),
        (record(Kind::Learned, 1400), "path MTU learned: ", "; veth-web takes 1400 bytes"),
        (
            incomplete(Fragments::FIRST | Fragments::LAST),
            "a packet stays incomplete: ",
            "; 2 fragments arrived (2000 of 3480 bytes of payload; the largest fragment has 1500 bytes), and one in between did not",
        ),
    ] {
        assert_eq!(message(&record), format!("{begin}{FLOW}{end}"));
    }
}

#[test]
fn a_segment_that_vanishes_is_told_apart_from_one_that_is_only_late() {
    const REST: &str = "shop/web (10.244.1.10:4000) -> 198.51.100.2:443; 1448 bytes (of 1448 a full segment) sent again after 3 timeouts";
    for (fate, begin) in [
        (Fate::BlackHole, "full-size segments vanish: "),
        (Fate::Suspect, "a segment is not acknowledged: "),
        (Fate::Ordinary, "a segment is not acknowledged: "),
    ] {
        assert_eq!(message(&stalled(4000, fate, stuck())), format!("{begin}{REST}"));
    }
}

/// The fields that are there, as `name=value`.
fn fields(event: &TooBig, pods: &Pods) -> String {
    let mut fields = Vec::new();
    event.fields(pods, &mut fields);
    let shown = fields.into_iter().filter_map(|(name, value)| {
        let value = match value {
            Value::Absent | Value::Pod(None) => return None,
            Value::Text(text) | Value::Interface(text) | Value::Reason(text) => text.into_owned(),
            Value::Number(number) => number.to_string(),
            Value::Flag(flag) => flag.to_string(),
            Value::Ip(address) => address.to_string(),
            Value::Port(port) => port.to_string(),
            Value::Portless => "portless".to_owned(),
            Value::Pod(Some(pod)) => format!("{}/{}", pod.namespace, pod.name),
            Value::Signed(number) => panic!("{name} is no number below zero: {number}"),
        };
        Some(format!("{name}={value}"))
    });
    shown.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_program_reads_all_that_is_known_and_nothing_that_is_not() {
    let made = event(&in_vxlan(&record(Kind::Made, 1400)));
    assert_eq!(
        fields(&made, &web()),
        "event=made fate=none mtu=1400 length=1428 limit=device interface=veth-web interface_kind=veth \
         interface_mtu=1500 route_interface=uplink route_interface_mtu=1400 protocol=TCP \
         source_ip=10.244.1.10 source_port=40000 source_pod=shop/web destination_ip=198.51.100.2 \
         destination_port=443 dont_fragment=true tunnel=VXLAN tunnel_overhead=50 \
         tunnel_source_ip=192.0.2.1 tunnel_destination_ip=192.0.2.2 netns=1 locked=false suppressed=0"
    );
    let lost = MtuRecord {
        route: device("tun0", "ipip", 1480),
        route_pmtu: 1350,
        gso_size: 1400,
        held: 3,
        ..lost(Fate::Filtered, Stage::Forward, flags::LOCKED)
    };
    let lost =
        TooBig { reason: Some("OTHERHOST".into()), function: Some("ip_rcv_core".into()), ..event(&lost) };
    assert_eq!(
        fields(&lost, &db()),
        "event=lost fate=filtered mtu=1400 length=1428 sender_ip=10.0.7.1 interface=veth-web \
         interface_kind=veth interface_mtu=1500 route_interface=tun0 route_interface_kind=ipip \
         route_interface_mtu=1480 route_pmtu=1350 protocol=TCP source_ip=10.244.1.10 source_port=40000 \
         destination_ip=198.51.100.2 destination_port=443 destination_pod=shop/db dont_fragment=true \
         gso_size=1400 function=ip_rcv_core drop_reason=OTHERHOST stage=forward netns=1 locked=true \
         suppressed=3"
    );
}

/// What set the limit has a word of its own, and a hop's limit has none: nobody sees it.
#[test]
fn a_program_reads_what_set_the_limit() {
    let made = record(Kind::Made, 1400);
    let by = |name: &str, kind: &str, mtu: u32| MtuRecord {
        route: device(name, kind, mtu),
        ..record(Kind::Made, 1400)
    };
    let wide = by("uplink", "", 1500);
    for (record, limit) in [
        (made, Some("device")),
        (by("tun0", "ipip", 1480), Some("tunnel")),
        (MtuRecord { route_pmtu: 1400, ..wide }, Some("path")),
        (MtuRecord { flags: flags::ENCRYPTED, ..wide }, Some("ipsec")),
        (wide, Some("route")),
        (record(Kind::Received, 1400), None),
    ] {
        let fields = fields(&event(&record), &nobody());
        let told = fields.split(' ').find_map(|field| field.strip_prefix("limit="));
        assert_eq!(told, limit, "{fields}");
    }
}

/// The fields behind those that every event has.
fn own_fields(event: &TooBig) -> String {
    let fields = fields(event, &nobody());
    fields.split_once("suppressed=0").unwrap().1.trim_start().to_owned()
}

#[test]
fn a_program_reads_what_a_stuck_socket_knows_in_milliseconds() {
    let stall = Stall {
        longest_run: 104,
        waiting: 60_000,
        received: 7,
        arrived: 2_345_678,
        heard: 500,
        timeout: 200,
        lost: 12,
        flags: Stall::PROBING,
        ..stuck()
    };
    for (flags, probing) in [(Stall::PROBING, true), (0, false)] {
        let record = stalled(4000, Fate::BlackHole, Stall { flags, ..stall });
        let event = TooBig { hertz: 250, ..event(&record) };
        assert_eq!(
            own_fields(&event),
            format!(
                "mss=1448 path_mtu=1500 timeouts=3 acknowledged_bytes=200 received_bytes=7 \
                 last_arrived_ms=2345 waiting_bytes=60000 longest_received=104 peer_heard_ms=2000 \
                 timeout_ms=800 sent_again_elsewhere=12 mtu_probing={probing}"
            )
        );
    }
}

/// How long the packet would have been only its last fragment says.
#[test]
fn a_program_reads_which_fragments_came() {
    for (flags, rest) in [
        (Fragments::FIRST | Fragments::LAST, "payload_bytes=3480 missing=middle"),
        (Fragments::FIRST, "missing=middle"),
        (Fragments::LAST, "payload_bytes=3480 missing=first"),
    ] {
        assert_eq!(
            own_fields(&event(&incomplete(flags))),
            format!("fragments=2 fragment_bytes=2000 largest_fragment=1500 {rest}")
        );
    }
}

/// `--port` must not match a packet without ports, and may match a piece of one that has them.
#[test]
fn what_has_no_ports_is_told_apart_from_a_piece_without_them() {
    let made = record(Kind::Made, 1400);
    let ports = |protocol, offset| {
        let mut record = made;
        (record.header[7], record.header[9]) = (offset, protocol);
        let fields = fields(&event(&record), &nobody());
        let ports = fields.split(' ').filter(|field| field.contains("port="));
        ports.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(ports(6, 0), "source_port=40000 destination_port=443");
    assert_eq!(ports(1, 0), "source_port=portless destination_port=portless");
    assert_eq!(ports(6, 9), "");
}

/// A row's cells, and the time they are told at.
fn cells(record: &MtuRecord, pods: &Pods) -> Vec<String> {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(3_661);
    let event = TooBig { at, ..event(record) };
    let mut cells = Vec::new();
    event.cells(pods, &mut cells);
    let titles = cells.iter().map(|cell| cell.column.title);
    assert!(titles.eq(row::COLUMNS.iter().map(|column| column.title)));
    cells.iter().map(|cell| format!("{}{}", cell.text, cell.tail)).collect()
}

#[test]
fn a_row_has_a_dash_where_nothing_is_known() {
    assert_eq!(
        cells(&in_vxlan(&record(Kind::Made, 1400)), &web()),
        [
            "01:01:01Z",
            "made",
            "1400",
            "uplink",
            "device",
            "none",
            "1428",
            "VXLAN",
            "10.244.1.10:40000>198.51.100.2:443",
            "shop/web",
            "198.51.100.2:443"
        ]
    );
    let nothing = MtuRecord { len: 0, held: 5, ..stalled(4000, Fate::Ordinary, stuck()) };
    assert_eq!(
        cells(&nothing, &nobody()),
        [
            "01:01:01Z",
            "stalled",
            "-",
            "-",
            "-",
            "ordinary",
            "-",
            "-",
            "10.244.1.10:4000>198.51.100.2:443",
            "10.244.1.10",
            "198.51.100.2:443 +5"
        ]
    );
}

/// What hurts nobody is held back where only what does is wanted.
#[test]
fn what_is_learned_or_lost_by_chance_is_no_warning() {
    for (kind, fate, level) in [
        (Kind::Made, Fate::Unknown, Level::Warn),
        (Kind::Received, Fate::Learned, Level::Warn),
        (Kind::Oversize, Fate::Unknown, Level::Warn),
        (Kind::Lost, Fate::Dropped, Level::Warn),
        (Kind::Learned, Fate::Unknown, Level::Info),
        (Kind::Stalled, Fate::BlackHole, Level::Warn),
        (Kind::Stalled, Fate::Suspect, Level::Warn),
        (Kind::Stalled, Fate::Ordinary, Level::Info),
    ] {
        assert_eq!(event(&fated(kind, fate, 1400)).level(), level, "{kind:?} {fate:?}");
    }
}

/// Of the packet that is quoted: its own header says how long it was, and one that is no longer than a header is a lie.
#[test]
fn a_quoted_packet_is_as_long_as_its_header_says() {
    let quoted = |length: u16| {
        let mut record = record(Kind::Received, 1400);
        record.header[2..4].copy_from_slice(&length.to_be_bytes());
        event(&record).quoted_length()
    };
    assert_eq!([0, 40, 41, 1426].map(quoted), [None, None, Some(41), Some(1426)]);
    assert_eq!(event(&six(&record(Kind::Received, 1400))).quoted_length(), Some(1448));
}
