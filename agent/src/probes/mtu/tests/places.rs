//! Whose an event is, and which events are of one incident.

use std::net::IpAddr;

use super::packets::{db, in_vxlan, nobody, web};
use super::*;
use crate::pod::{Slot, Subject};
use crate::probes::mtu::cause::Cause;

fn place(record: &MtuRecord) -> Option<Cause> {
    event(record).place(&web())
}

fn from_port(record: &MtuRecord, port: u16) -> MtuRecord {
    let mut record = *record;
    record.header[20..22].copy_from_slice(&port.to_be_bytes());
    MtuRecord { source_port: port, ..record }
}

/// The same device or hop whatever the destination; one conversation where only its port is seen.
#[test]
fn what_is_too_much_at_one_place_is_one_incident() {
    let made = record(Kind::Made, 1400);
    let oversize = MtuRecord { device: device("veth-web", "veth", 1300), ..record(Kind::Oversize, 1300) };
    let hop = fated(Kind::Received, Fate::Learned, 1400);
    let stuck = stalled(40_000, Fate::BlackHole, stuck());
    let elsewhere = |record: &MtuRecord| {
        let mut record = *record;
        record.header[19] = 77;
        MtuRecord { destination: ipv4([198, 51, 100, 77]), ..record }
    };
    for record in [made, oversize, hop, stuck] {
        let known = place(&record);
        assert!(known.is_some(), "{record:?}");
        assert_eq!(place(&elsewhere(&record)), known);
        assert_ne!(event(&record).place(&nobody()), known, "of another sender");
    }
    assert_ne!(place(&made), place(&in_vxlan(&made)), "a tunnel takes less");
    assert_ne!(place(&hop), place(&MtuRecord { mtu: 1300, ..hop }), "another number");
    assert_ne!(place(&hop), place(&MtuRecord { sender: ipv4([10, 0, 7, 2]), ..hop }), "another hop");
    let other = |record: MtuRecord| {
        let (mut device, mut route) = (record.device, record.route);
        (device.ifindex, route.ifindex) = (8, 8);
        MtuRecord { device, route, ..record }
    };
    assert_ne!(place(&made), place(&other(made)), "another device");
    assert_ne!(place(&oversize), place(&other(oversize)), "another device");
    // Its own end of the device says which it is, not the route.
    let by_route = MtuRecord { route: Device { ifindex: 9, ..oversize.route }, ..oversize };
    assert_eq!(place(&oversize), place(&by_route));
}

/// What a message quotes may be translated on its way: the client's own port is all that it and the stuck socket have in common.
#[test]
fn a_stray_message_is_of_the_connection_with_its_port() {
    let of_socket = |port| place(&stalled(port, Fate::BlackHole, stuck()));
    let stray = |port| place(&from_port(&fated(Kind::Received, Fate::NoSocket, 1400), port));
    assert!(of_socket(40_000).is_some());
    assert_eq!(of_socket(40_000), stray(40_000));
    assert_ne!(of_socket(40_000), stray(40_001));
    // A server's port is that of all its connections.
    let ports = [443, 32_767, 32_768];
    assert_eq!(ports.map(|port| of_socket(port).is_some()), [false, false, true]);
    assert_eq!(ports.map(|port| stray(port).is_some()), [false, false, true]);
}

#[test]
fn what_is_nowhere_to_be_seen_is_no_place() {
    let made = record(Kind::Made, 1400);
    let hop = fated(Kind::Received, Fate::Learned, 1400);
    for (record, why) in [
        (
            MtuRecord { route: device("uplink", "", 1500), route_pmtu: 1400, ..made },
            "behind the first device",
        ),
        (MtuRecord { route: Device::default(), ..made }, "no device"),
        (record(Kind::Received, 1400), "no sender"),
        (MtuRecord { sender: ipv4([198, 51, 100, 2]), ..hop }, "in the name of the far end"),
        (MtuRecord { mtu: 60, ..hop }, "no number of a path"),
        (record(Kind::Refused, 1400), "no device"),
        (record(Kind::Learned, 1400), "no device"),
        (lost(Fate::Filtered, Stage::Forward, 0), "it is where it is eaten"),
        (record(Kind::Incomplete, 0), "nobody says where"),
    ] {
        assert_eq!(place(&record), None, "{why}: {:?}", record.kind);
    }
}

/// A load balancer that does not translate what a message quotes: its addresses are not those that a filter asks for.
#[test]
fn only_what_no_socket_has_sent_may_be_another_conversations() {
    for kind in Kind::ALL {
        for fate in Fate::ALL {
            let may_be = event(&fated(kind, fate, 1400)).may_be_translated();
            assert_eq!(may_be, (kind, fate) == (Kind::Received, Fate::NoSocket), "{kind:?} {fate:?}");
        }
    }
}

/// A forged message must not show up as the trouble of whom it names.
#[test]
fn who_sends_is_hurt_and_else_who_receives_unless_nobody_sent_it() {
    let both = Pods { destination: db().destination, ..web() };
    for (fate, pods, name) in [
        (Fate::Learned, &both, Some("web")),
        (Fate::Learned, &db(), Some("db")),
        (Fate::Learned, &nobody(), None),
        (Fate::NoSocket, &both, None),
    ] {
        let event = event(&fated(Kind::Received, fate, 1400));
        assert_eq!(event.about(pods).map(|pod| pod.name.as_str()), name, "{fate:?}");
    }
}

fn address(octets: [u8; 4]) -> Subject {
    Subject::Address(IpAddr::from(octets))
}

/// The slots first: they are exact even if a pod has gone since. What is in a tunnel the kernel side has not looked up.
#[test]
fn whose_an_event_is_is_asked_by_slot_then_by_address() {
    let [source, destination] = [[10, 244, 1, 10], [198, 51, 100, 2]].map(|octets| Some(address(octets)));
    let [three, four] = [3, 4].map(|slot| Slot::from_wire(slot).map(Subject::Slot));
    let made = MtuRecord { source_slot: 3, destination_slot: 4, ..record(Kind::Made, 1400) };
    let stuck = MtuRecord { source_slot: 3, destination_slot: 4, ..stalled(4000, Fate::Suspect, stuck()) };
    let netns = Some(Subject::Netns(1));
    for (record, of_source, of_destination) in [
        (made, [three, source], [four, destination]),
        (stuck, [three, source], [four, destination]),
        (in_vxlan(&made), [None, source], [None, destination]),
        // Another namespace may have the same addresses.
        (MtuRecord { flags: flags::FOREIGN, ..made }, [three, None], [four, None]),
        (MtuRecord { flags: flags::LOCAL_ORIGIN, ..made }, [three, source], [four, destination]),
        (
            MtuRecord { flags: flags::LOCAL_ORIGIN, source_slot: 0, ..made },
            [netns, source],
            [four, destination],
        ),
        (
            MtuRecord { flags: flags::LOCAL_ORIGIN, source_slot: 0, netns: 0, ..made },
            [None, source],
            [four, destination],
        ),
        (MtuRecord { source_slot: 0, ..made }, [None, source], [four, destination]),
    ] {
        let subjects = event(&record).subjects();
        assert_eq!((subjects.source, subjects.destination), (of_source, of_destination), "{record:?}");
    }
}

/// An address that was given to the kernel is who sends; the same of a packet that cannot be read is nobody's word.
#[test]
fn where_there_should_be_a_packet_only_a_packet_says_who_sends() {
    let given = |kind| {
        let record = MtuRecord {
            header_len: 0,
            source: ipv4([10, 244, 1, 10]),
            destination: ipv4([198, 51, 100, 2]),
            ..record(kind, 1400)
        };
        let event = event(&record);
        (event.source().is_some(), event.destination().is_some())
    };
    for kind in Kind::ALL {
        let is_given = matches!(kind, Kind::Refused | Kind::Learned | Kind::Stalled);
        assert_eq!(given(kind), (is_given, is_given), "{kind:?}");
    }
}
