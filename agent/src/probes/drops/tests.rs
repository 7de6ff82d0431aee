//! What one dropped packet is said to be: whose it was, where it went, what it means.

use agent_common::drops::circumstance as fact;
use agent_common::quote::{Encrypted, Flow, Tunnel};

use super::class::Harm;
use super::class::words::About;
use super::*;
use crate::pod::Pod;

mod places;
mod probe;
mod shown;

const FROM: [u8; 4] = [10, 244, 1, 10];
const TO: [u8; 4] = [198, 51, 100, 2];

fn bytes([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// UDP 10.244.1.10:40000 -> 198.51.100.2:53, received on eth7 of namespace 9; nobody knows why it died.
fn packet() -> PacketDrop {
    let mut record = DropRecord::from_bytes(&[0; size_of::<DropRecord>()]).unwrap();
    record.ip_version = 4;
    record.source = bytes(FROM);
    record.destination = bytes(TO);
    record.protocol = 17;
    (record.source_port, record.destination_port) = (40_000, 53);
    record.flags = flags::HAS_IP | flags::HAS_TRANSPORT;
    record.netns = 9;
    record.ifname[..4].copy_from_slice(b"eth7");
    let verdict = Verdict { class: Class::Other, harm: Harm::Harmful };
    PacketDrop {
        at: SystemTime::UNIX_EPOCH,
        reason: None,
        place: None,
        counted: verdict,
        verdict,
        evidence: None,
        direction: Direction::Received,
        home: None,
        inner: None,
        encrypted: None,
        record,
    }
}

/// The same with this changed.
fn but(change: impl FnOnce(&mut PacketDrop)) -> PacketDrop {
    let mut packet = packet();
    change(&mut packet);
    packet
}

fn place(function: &str) -> Place {
    Place { function: function.into(), module: None }
}

/// TCP 10.0.0.1:1000 -> 10.0.0.2:2000.
fn inner() -> Inner {
    let (source, destination) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    let flow = Flow { source, destination, protocol: 6, ports: Some((1000, 2000)), dont_fragment: false };
    Inner { tunnel: Tunnel::Vxlan, within: None, overhead: 50, flow }
}

fn message(packet: &PacketDrop) -> String {
    let mut text = String::new();
    packet.message(&Pods::default(), &mut text);
    text
}

#[test]
fn a_drop_is_one_sentence() {
    assert_eq!(
        message(&packet()),
        "dropped received UDP 10.244.1.10:40000 -> 198.51.100.2:53 on eth7 (NONE): the kernel gives no cause"
    );
    let named = but(|packet| {
        packet.reason = Some("TTL".into());
        packet.place = Some(place("ip_forward"));
        packet.record.held = 1;
    });
    assert!(message(&named).contains(" (TTL in ip_forward): "), "{}", message(&named));
    assert!(message(&named).ends_with("; 1 more like it before"), "{}", message(&named));
}

/// Who is inside cannot be seen; that somebody is, can.
#[test]
fn what_is_encrypted_says_so() {
    for (encrypted, said) in
        [(Encrypted::Esp, " -> 198.51.100.2:53 on "), (Encrypted::EspInUdp, ":53 as ESP in UDP on ")]
    {
        let packet = but(|packet| packet.encrypted = Some(encrypted));
        assert!(message(&packet).contains(said), "{}", message(&packet));
        assert_eq!(packet.carries().as_deref(), Some(encrypted.name()));
    }
    let nested = but(|packet| (packet.inner, packet.encrypted) = (Some(inner()), Some(Encrypted::Esp)));
    assert_eq!(nested.carries().as_deref(), Some("VXLAN"));
}

/// What harms nobody is told apart from what does by the words alone, where a person asks for all.
#[test]
fn what_harms_nobody_says_why_it_does_not() {
    use Class::{BridgePort, Netfilter, NoSocket, Routing};
    use Harm::{Benign, Harmful};
    let said = |class, harm, circumstances| {
        let verdict = Verdict { class, harm };
        let packet = but(|packet| (packet.verdict, packet.record.circumstances) = (verdict, circumstances));
        packet.means().into_owned()
    };
    let ending = "it ends a connection, or has no payload, and that connection is already gone here";
    let flooded = "the switch behind that port sends what is for another station, or for one here whose own port does not take it";
    let redirect = "NAT drops redirects about connections that it translates";
    let group = "sent to a group or to all, as devices do when they come up; ";
    let plain = |class: Class| class.means(&About::default()).into_owned();
    for (class, harm, circumstances, wanted) in [
        (Routing, Benign, fact::PORTLESS, "the bridge has no ports".to_owned()),
        (Routing, Harmful, fact::PORTLESS, plain(Routing)),
        (BridgePort, Benign, fact::STRANGERS, flooded.to_owned()),
        (BridgePort, Harmful, fact::STRANGERS, plain(BridgePort)),
        (Routing, Benign, fact::STRANGERS, plain(Routing)),
        (NoSocket, Benign, fact::ENDING, ending.to_owned()),
        (Routing, Benign, fact::ENDING, plain(Routing)),
        (NoSocket, Harmful, fact::ENDING, plain(NoSocket)),
        (NoSocket, Benign, 0, plain(NoSocket)),
        (Netfilter, Benign, fact::REDIRECT, redirect.to_owned()),
        (Netfilter, Benign, fact::DISCOVERY, plain(Netfilter)),
        (Routing, Benign, fact::GROUP, format!("{group}{}", plain(Routing))),
        (Routing, Harmful, fact::GROUP, plain(Routing)),
        (NoSocket, Benign, fact::GROUP, plain(NoSocket)),
        (Routing, Benign, 0, plain(Routing)),
    ] {
        assert_eq!(said(class, harm, circumstances), wanted, "{class:?} {harm:?} {circumstances:#x}");
    }
}

#[test]
fn only_what_harms_is_a_warning() {
    let level = |harm| but(|packet| packet.verdict = Verdict { class: Class::Queue, harm }).level();
    assert_eq!([level(Harm::Harmful), level(Harm::Benign)], [Level::Warn, Level::Info]);
}

#[test]
fn only_what_harms_has_a_fix() {
    let fix = |harm| {
        let verdict = Verdict { class: Class::DeviceDown, harm };
        but(|packet| packet.verdict = verdict).fix().map(Cow::into_owned)
    };
    assert!(fix(Harm::Harmful).is_some_and(|fix| fix.starts_with("`ip link set eth7 up`")));
    assert_eq!(fix(Harm::Benign), None);
}

/// An answer that nobody waits for wants another cure than a port where nothing listens.
#[test]
fn an_answer_goes_from_a_servers_port_to_one_that_was_given() {
    for (from, to, is_answer) in [
        (53, 32_768, true),
        (32_767, 32_768, true),
        (32_768, 32_768, false),
        (53, 32_767, false),
        (40_000, 53, false),
    ] {
        let udp = but(|packet| (packet.record.source_port, packet.record.destination_port) = (from, to));
        assert_eq!(udp.late() == Some(Late::Answer), is_answer, "{from} to {to}");
        let tcp = PacketDrop { record: DropRecord { protocol: 6, ..udp.record }, ..udp.clone() };
        assert!(tcp.late() != Some(Late::Answer), "TCP tells itself");
        assert!(
            PacketDrop { inner: Some(inner()), ..udp }.late().is_none(),
            "a tunnel's own ports say nothing"
        );
    }
    assert!(but(|packet| packet.record.flags = flags::HAS_IP).late().is_none(), "ports that were not read");
}

#[test]
fn addresses_ports_and_protocol_are_of_the_packet_inside() {
    let outer = packet();
    assert_eq!((outer.source(), outer.destination()), (Some(FROM.into()), Some(TO.into())));
    assert_eq!((outer.ports(), &*outer.protocol()), (Some((40_000, 53)), "UDP"));
    let tunnel = PacketDrop { inner: Some(inner()), ..outer };
    assert_eq!(tunnel.source(), Some([10, 0, 0, 1].into()));
    assert_eq!(tunnel.destination(), Some([10, 0, 0, 2].into()));
    assert_eq!((tunnel.outer_source(), tunnel.outer_destination()), (Some(FROM.into()), Some(TO.into())));
    assert_eq!((tunnel.ports(), &*tunnel.protocol()), (Some((1000, 2000)), "TCP"));
    let v6 = but(|packet| (packet.record.ip_version, packet.record.source) = (6, [1; 16]));
    assert_eq!(v6.source(), Some([1; 16].into()));
    assert_eq!(but(|packet| packet.record.ip_version = 0).source(), None, "not IP, or not read");
}

#[test]
fn what_was_not_read_of_a_packet_is_not_told() {
    let tcp_unread = but(|packet| packet.record.flags = flags::HAS_IP);
    assert_eq!((tcp_unread.ports(), tcp_unread.icmp()), (None, None));
    for protocol in [6, 17, 33, 132, 136] {
        assert!(but(|packet| packet.record.protocol = protocol).ports().is_some(), "{protocol}");
    }
    for (protocol, name) in [(1, "ICMP"), (58, "ICMPv6")] {
        let icmp = |change: fn(&mut PacketDrop)| {
            but(|packet| {
                (packet.record.protocol, packet.record.source_port) = (protocol, 0x0301);
                change(packet);
            })
        };
        let plain = icmp(|_| ());
        assert_eq!((plain.icmp(), plain.ports(), &*plain.protocol()), (Some((3, 1)), None, name));
        assert_eq!(icmp(|packet| packet.record.flags = flags::HAS_IP).icmp(), None);
        assert_eq!(icmp(|packet| packet.inner = Some(inner())).icmp(), None, "that is the tunnel's own");
    }
    assert_eq!(packet().icmp(), None);
    for (ethertype, name) in [
        (0, "-"),
        (0x0806, "ARP"),
        (0x0800, "IPv4"),
        (0x86dd, "IPv6"),
        (0x88cc, "LLDP"),
        (0x8863, "eth:0x8863"),
    ] {
        let frame = but(|packet| (packet.record.flags, packet.record.ethertype) = (0, ethertype));
        assert_eq!(frame.protocol(), name);
    }
    assert_eq!(packet().interface().as_deref(), Some("eth7"));
    assert_eq!(but(|packet| packet.record.ifname = [0; IFNAMSIZ]).interface(), None);
    assert_eq!(but(|packet| packet.record.ifname = [b'x'; IFNAMSIZ]).interface().unwrap().len(), IFNAMSIZ);
}

#[test]
fn a_source_that_cannot_be_true_may_be_forged() {
    for (reason, function, wanted) in [
        (Some("IP_RPFILTER"), None, true),
        (Some("NOT_SPECIFIED"), Some("ip_rcv_finish"), false),
        (None, Some("ip_rcv_finish"), true),
        (None, Some("ip_rcv_finish_core"), true),
        (None, Some("ip_forward"), false),
        (None, None, true),
    ] {
        assert_eq!(may_be_forged(reason, function), wanted, "{reason:?} in {function:?}");
    }
}

/// A pod's devices have the names of the node's.
#[test]
fn a_fix_is_for_the_namespace_that_the_packet_died_in() {
    struct Pods;
    impl FindPod for Pods {
        fn find_pod(&self, subject: Subject, at: SystemTime) -> Option<Arc<Pod>> {
            assert_eq!(at, SystemTime::UNIX_EPOCH);
            (subject == Subject::Netns(9))
                .then(|| Arc::new(Pod { namespace: "shop".into(), name: "web-0".into(), uid: "u".into() }))
        }
    }
    for (netns, flags, there) in [
        (9, 0, " (in shop/web-0)"),
        (9, flags::FOREIGN, " (in shop/web-0)"),
        (8, flags::FOREIGN, " (in network namespace 8: `lsns 8` lists its processes)"),
        (8, 0, ""),
        (0, 0, ""),
    ] {
        let mut packet = but(|packet| packet.verdict.class = Class::DeviceDown);
        (packet.record.netns, packet.record.flags) = (netns, flags);
        packet.home = packet.home(&Pods);
        assert_eq!(packet.home.is_some(), netns != 0);
        let fix = packet.fix().unwrap();
        assert!(fix.ends_with(&format!("must be set again{there}")), "{netns} {flags}: {fix}");
    }
}

#[test]
fn a_source_that_ipv6_forwards_nothing_from_is_told_from_a_missing_route() {
    let told = |class, source: &str, function| {
        but(|packet| {
            packet.reason = Some("IP_INADDRERRORS".into());
            packet.place = Some(place(function));
            packet.verdict = Verdict { class, harm: Harm::Harmful };
            let source: Ipv6Addr = source.parse().unwrap();
            (packet.record.ip_version, packet.record.source) = (6, source.octets());
        })
        .refused()
    };
    assert_eq!(told(Class::Routing, "fe80::2", "ip6_forward"), Some(Refused::Source));
    assert_eq!(told(Class::Routing, "fd97:1::2", "ip6_forward"), None);
    assert_eq!(told(Class::Routing, "fe80::2", "ip6_pkt_drop"), Some(Refused::PerhapsByRoute));
    assert_eq!(told(Class::ForwardingOff, "fe80::2", "ip6_forward"), None);
}

/// A pod that is blamed for what another sent is worse than none.
#[test]
fn the_ends_of_a_drop_are_looked_for_by_what_is_certain() {
    let slot = |raw| Slot::from_wire(raw).map(Subject::Slot);
    let ip = |address: [u8; 4]| Some(Subject::Address(address.into()));
    let netns = Some(Subject::Netns(9));
    let known = || but(|packet| packet.reason = Some("NO_SOCKET".into()));
    let with = |change: fn(&mut PacketDrop)| {
        let mut packet = known();
        change(&mut packet);
        let Ends { source, destination } = packet.subjects();
        (source, destination)
    };
    assert_eq!(with(|_| ()), ([None, ip(FROM)], [netns, ip(TO)]), "it was received there");
    assert_eq!(with(|packet| packet.direction = Direction::Sent), ([netns, ip(FROM)], [None, ip(TO)]));
    assert_eq!(with(|packet| packet.direction = Direction::Forwarded), ([None, ip(FROM)], [None, ip(TO)]));
    let unseen = with(|packet| packet.record.netns = 0);
    assert_eq!(unseen, ([None, ip(FROM)], [None, ip(TO)]));
    let slots = with(|packet| (packet.record.source_slot, packet.record.destination_slot) = (3, 4));
    assert_eq!(slots, ([slot(3), ip(FROM)], [slot(4), ip(TO)]), "what the kernel side has seen is exact");
    let foreign = with(|packet| packet.record.flags |= flags::FOREIGN);
    assert_eq!(foreign, ([None, None], [netns, None]), "the same addresses may be somebody else's there");
    let forged = with(|packet| {
        packet.reason = Some("IP_RPFILTER".into());
        packet.record.source_slot = 3;
    });
    assert_eq!(forged, ([None, None], [netns, ip(TO)]));
    let tunnel = with(|packet| {
        packet.inner = Some(inner());
        (packet.record.source_slot, packet.record.destination_slot) = (3, 4);
    });
    assert_eq!(tunnel, ([ip([10, 0, 0, 1]), None], [ip([10, 0, 0, 2]), netns]), "who is inside is hurt");
}

#[test]
fn strangers_drops_are_incidents_of_their_own_and_a_pods_are_one() {
    let pod = Arc::new(Pod { namespace: "shop".into(), name: "web".into(), uid: "u".into() });
    let other = Arc::new(Pod { name: "db".into(), ..(*pod).clone() });
    let ends = |source: Option<&Arc<Pod>>, destination: Option<&Arc<Pod>>| Pods {
        source: source.cloned(),
        destination: destination.cloned(),
    };
    let nobody = Pods::default();
    assert_eq!(packet().cause(&nobody).address, Some(TO.into()));
    let (from, to) = (ends(Some(&pod), None), ends(None, Some(&pod)));
    assert_eq!([&from, &to].map(|pods| packet().cause(pods).address), [None, None]);
    // Who waits for an answer is hurt by what it sent, who is sent to by what it does not get.
    let both = ends(Some(&pod), Some(&other));
    let about = |direction, pods: &Pods| {
        but(|packet| packet.direction = direction).about(pods).map(|pod| pod.name.clone())
    };
    assert_eq!(about(Direction::Sent, &both).as_deref(), Some("web"));
    for direction in [Direction::Received, Direction::Forwarded, Direction::Unknown] {
        assert_eq!(about(direction, &both).as_deref(), Some("db"), "{direction:?}");
        assert_eq!(about(direction, &from).as_deref(), Some("web"), "{direction:?}");
    }
    assert_eq!(about(Direction::Sent, &to).as_deref(), Some("web"));
    assert_eq!(about(Direction::Sent, &nobody), None);
}

#[test]
fn a_row_names_the_function_and_its_module() {
    let shown = |packet: &PacketDrop| {
        let (pods, mut cells) = (Pods::default(), Vec::new());
        packet.cells(&pods, &mut cells);
        let cell = cells.iter().find(|cell| cell.column.title == "PLACE").unwrap();
        cell.text.to_string() + &cell.tail
    };
    assert_eq!(shown(&packet()), "-");
    assert_eq!(shown(&but(|packet| packet.place = Some(place("ip_forward")))), "ip_forward");
    let of_module = Place { function: "nft_do_chain".into(), module: Some("nf_tables".into()) };
    assert_eq!(shown(&but(|packet| packet.place = Some(of_module))), "nft_do_chain [nf_tables]");
}
