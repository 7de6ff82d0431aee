//! A dropped packet as fields and cells.

use super::*;
use crate::probe::Value;

fn text(text: &str) -> Value<'_> {
    Value::Text(text.into())
}

fn reason(reason: &str) -> Value<'_> {
    Value::Reason(reason.into())
}

/// What it is said to want.
const FIX: &str =
    "`ip link set eth7 up`; its IPv6 addresses and the routes by it may be gone, and must be set again";

/// One of which everything is known.
fn known() -> PacketDrop {
    but(|packet| {
        packet.reason = Some("NETFILTER_DROP".into());
        packet.place = Some(Place { function: "nft_do_chain".into(), module: Some("nf_tables".into()) });
        packet.verdict = Verdict { class: Class::DeviceDown, harm: Harm::Harmful };
        packet.counted = Verdict { class: Class::Policy, harm: Harm::Harmful };
        let record = &mut packet.record;
        (record.mtu, record.len, record.gso_size, record.ttl, record.held) = (1500, 3000, 1448, 63, 2);
        record.flags |= flags::DONT_FRAGMENT | flags::HAS_SOCKET;
    })
}

#[test]
fn a_drop_has_every_field_of_the_schema() {
    let pod = Arc::new(Pod { namespace: "shop".into(), name: "web".into(), uid: "u".into() });
    let pods = Pods { source: Some(Arc::clone(&pod)), destination: None };
    let (packet, mut fields) = (known(), Vec::new());
    packet.fields(&pods, &mut fields);
    assert_eq!(
        fields,
        [
            ("direction", text("received")),
            ("class", reason("device_down")),
            ("harm", text("harmful")),
            ("counted_as", reason("policy")),
            ("reason", reason("NETFILTER_DROP")),
            ("function", text("nft_do_chain")),
            ("module", text("nf_tables")),
            ("interface", Value::Interface("eth7".into())),
            ("mtu", Value::Number(1500)),
            ("protocol", text("UDP")),
            ("source_ip", Value::Ip(FROM.into())),
            ("source_port", Value::Port(40_000)),
            ("source_pod", Value::Pod(Some(&pod))),
            ("destination_ip", Value::Ip(TO.into())),
            ("destination_port", Value::Port(53)),
            ("destination_pod", Value::Pod(None)),
            ("icmp_type", Value::Absent),
            ("icmp_code", Value::Absent),
            ("ttl", Value::Number(63)),
            ("dont_fragment", Value::Flag(true)),
            ("length", Value::Number(3000)),
            ("gso_size", Value::Number(1448)),
            ("netns", Value::Number(9)),
            ("has_socket", Value::Flag(true)),
            ("tunnel", Value::Absent),
            ("outer_source_ip", Value::Absent),
            ("outer_destination_ip", Value::Absent),
            ("suppressed", Value::Number(2)),
            ("fix", text(FIX)),
        ]
    );
}

#[test]
fn a_field_that_the_kernel_did_not_tell_is_absent() {
    let field = |packet: &PacketDrop, name| {
        let (pods, mut fields) = (Pods::default(), Vec::new());
        packet.fields(&pods, &mut fields);
        let (_, value) = fields.into_iter().find(|(field, _)| *field == name).unwrap();
        format!("{value:?}")
    };
    let unread = but(|packet| {
        packet.record = DropRecord { flags: 0, ip_version: 0, ifname: [0; IFNAMSIZ], ..packet.record }
    });
    for name in [
        "counted_as", "reason", "function", "module", "interface", "mtu", "source_ip", "source_port", "ttl",
        "dont_fragment", "length",
    ] {
        assert_eq!(field(&unread, name), "Absent", "{name}");
    }
    let v4 = packet();
    assert_eq!(field(&v4, "dont_fragment"), "Flag(false)");
    let v6 = but(|packet| packet.record.ip_version = 6);
    assert_eq!(field(&v6, "dont_fragment"), "Absent", "it has no such bit");
    let icmp = but(|packet| (packet.record.protocol, packet.record.source_port) = (1, 0x0301));
    assert_eq!(["icmp_type", "icmp_code"].map(|name| field(&icmp, name)), ["Number(3)", "Number(1)"]);
    let tunnel = PacketDrop { inner: Some(inner()), ..packet() };
    assert_eq!(field(&tunnel, "outer_source_ip"), "Ip(10.244.1.10)");
}

#[test]
fn a_rows_reason_is_one_that_says_something_and_how_many_like_it_were_not_told() {
    let shown = |reason: Option<&str>, held| {
        let packet = but(|packet| (packet.reason, packet.record.held) = (reason.map(Into::into), held));
        let (pods, mut cells) = (Pods::default(), Vec::new());
        packet.cells(&pods, &mut cells);
        let cell = cells.iter().find(|cell| cell.column.title == "REASON").unwrap();
        cell.text.to_string() + &cell.tail
    };
    assert_eq!(shown(None, 0), "-");
    assert_eq!(shown(Some("NOT_SPECIFIED"), 0), "-");
    assert_eq!(shown(Some("NO_SOCKET"), 0), "NO_SOCKET");
    assert_eq!(shown(Some("NO_SOCKET"), 1), "NO_SOCKET +1");
    assert_eq!(shown(None, 12), "- +12");
}

/// A class is looked up by its name, in the README and by `--reason`: a part of it is none.
#[test]
fn a_class_is_never_cut() {
    let (packet, pods, mut cells) = (known(), Pods::default(), Vec::new());
    packet.cells(&pods, &mut cells);
    let class = cells.iter().find(|cell| cell.column.title == "CLASS").unwrap();
    assert!(class.column.whole, "{:?}", class.text);
}
