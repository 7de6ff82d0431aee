//! A dropped packet as JSON fields and as a table row.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::IpAddr;

use agent_common::drops::{Direction, flags};
use agent_common::quote::Encrypted;

use super::PacketDrop;
use super::labels::{NO_REASON, direction_name};
use super::place::Place;
use crate::probe::row::{addresses, end_cell, named, nonzero};
use crate::probe::{Cell, Column, Field, Pods, Value, time_of_day};

/// The table's columns: 80 characters without the wide ones and with the commonest reason.
pub const COLUMNS: &[Column] = &[
    Column::new("TIME", 9, false).whole(),
    Column::new("CLASS", 9, false).growing(15).whole(),
    Column::new("DIR", 4, true),
    SOURCE,
    DESTINATION,
    Column::new("IFACE", 7, false).growing(15),
    Column::new("PROTO", 6, true),
    Column::new("LEN", 5, true).whole(),
    Column::new("ADDRESSES", 45, true).whole(),
    Column::new("PLACE", 11, false).growing(32),
    Column::new("REASON", 9, false).growing(32),
    Column::new("FIX", 3, true).whole(),
];
const SOURCE: Column = Column::new("SOURCE", 12, false).growing(64);
const DESTINATION: Column = Column::new("DESTINATION", 17, false).growing(70);

/// The row's cells, in the order of [`COLUMNS`].
pub fn cells<'a>(event: &'a PacketDrop, pods: &'a Pods, cells: &mut Vec<Cell<'a>>) {
    let (_, port) = event.ports().unzip();
    let texts: [Cow<'a, str>; 12] = [
        time_of_day(event.at).into(),
        event.verdict.class.name().into(),
        short(event.direction).into(),
        "".into(),
        "".into(),
        event.interface().unwrap_or("-".into()),
        event.protocol(),
        event.record.len.to_string().into(),
        ends(event).into(),
        place(event).into(),
        reason(event).into(),
        event.fix().unwrap_or_default(),
    ];
    cells.extend(COLUMNS.iter().zip(texts).map(|(column, text)| match *column {
        SOURCE => end_cell(SOURCE, pods.source.as_deref(), event.source(), None, 0),
        DESTINATION => end_cell(DESTINATION, pods.destination.as_deref(), event.destination(), port, 0),
        column => Cell::new(column, text),
    }));
}

/// Addresses and ports, and of what is in a tunnel those of what carries it as well: rules and routes see these.
fn ends(event: &PacketDrop) -> String {
    let (source_port, port) = event.ports().unzip();
    let mut text = addresses((event.source(), source_port), (event.destination(), port)).to_string();
    if let Some(inner) = event.inner
        && let Some((from, to)) = event.outer_source().zip(event.outer_destination())
    {
        let _ = write!(text, " in {} {}", inner.name(), addresses((Some(from), None), (Some(to), None)));
    }
    text
}

/// The event's fields, in the order of the documented schema.
pub fn fields<'a>(event: &'a PacketDrop, pods: &'a Pods, fields: &mut Vec<Field<'a>>) {
    let record = &event.record;
    let text = |text: Option<&'a str>| text.map_or(Value::Absent, |text| Value::Text(text.into()));
    let (source_port, destination_port) = event.ports().unzip();
    let (icmp_type, icmp_code) = event.icmp().unzip();
    let port = |port: Option<u16>| port.map_or(Value::Absent, Value::Port);
    let ip = |address: Option<IpAddr>| address.map_or(Value::Absent, Value::Ip);
    let small = |number: Option<u8>| number.map_or(Value::Absent, |number| Value::Number(number.into()));
    let has_ip = event.has(flags::HAS_IP);
    fields.extend([
        ("direction", Value::Text(direction_name(event.direction).into())),
        ("class", Value::Reason(event.verdict.class.name().into())),
        ("harm", Value::Text(event.verdict.harm.name().into())),
        // `--reason` finds it by this as well, and so do those who come from the metrics.
        ("counted_as", counted_as(event).map_or(Value::Absent, |class| Value::Reason(class.into()))),
        ("reason", event.reason.as_deref().map_or(Value::Absent, |reason| Value::Reason(reason.into()))),
        ("function", text(event.place.as_ref().map(|place| place.function.as_ref()))),
        ("module", text(event.place.as_ref().and_then(|place| place.module.as_deref()))),
        ("interface", event.interface().map_or(Value::Absent, Value::Interface)),
        ("mtu", nonzero(record.mtu)),
        ("protocol", Value::Text(event.protocol())),
        ("source_ip", ip(event.source())),
        ("source_port", port(source_port)),
        ("source_pod", Value::Pod(pods.source.as_deref())),
        ("destination_ip", ip(event.destination())),
        ("destination_port", port(destination_port)),
        ("destination_pod", Value::Pod(pods.destination.as_deref())),
        ("icmp_type", small(icmp_type)),
        ("icmp_code", small(icmp_code)),
        ("ttl", small(has_ip.then_some(record.ttl))),
        (
            "dont_fragment",
            if record.ip_version == 4 { Value::Flag(event.has(flags::DONT_FRAGMENT)) } else { Value::Absent },
        ),
        ("length", nonzero(record.len)),
        ("gso_size", nonzero(record.gso_size.into())),
        ("netns", nonzero(record.netns)),
        ("has_socket", Value::Flag(event.has(flags::HAS_SOCKET))),
        ("tunnel", event.carries().map_or(Value::Absent, Value::Text)),
        ("outer_source_ip", ip(event.inner.and_then(|_| event.outer_source()))),
        ("outer_destination_ip", ip(event.inner.and_then(|_| event.outer_destination()))),
        ("suppressed", Value::Number(record.held)),
        ("fix", event.fix().map_or(Value::Absent, Value::Text)),
    ]);
}

/// The class that metrics and the summary have it under, if it is another: they know nothing of the evidence.
fn counted_as(event: &PacketDrop) -> Option<&'static str> {
    (event.counted.class != event.verdict.class).then(|| event.counted.class.name())
}

/// `UDP default/web-0 (10.0.1.2:5000) -> 10.0.2.3:53`, as far as it is known.
pub fn flow(event: &PacketDrop, pods: &Pods, text: &mut String) {
    match event.direction {
        Direction::Unknown => {}
        direction => text.extend([direction_name(direction), " "]),
    }
    text.push_str(&event.protocol());
    if let Some((kind, code)) = event.icmp() {
        let _ = write!(text, " {kind}/{code}");
    }
    let (source_port, destination_port) = event.ports().unzip();
    if event.has(flags::HAS_IP) {
        let source = named(pods.source.as_deref(), event.source(), source_port);
        let destination = named(pods.destination.as_deref(), event.destination(), destination_port);
        let _ = write!(text, " {source} -> {destination}");
    }
    if let Some(inner) = event.inner {
        let _ = write!(text, " in {}", inner.name());
        if let Some((from, to)) = event.outer_source().zip(event.outer_destination()) {
            let _ = write!(text, " from {from} to {to}");
        }
    }
    // Of ESP itself the protocol says it.
    if event.encrypted == Some(Encrypted::EspInUdp) {
        text.extend([" as ", Encrypted::EspInUdp.name()]);
    }
    if let Some(interface) = event.interface() {
        text.extend([" on ", &*interface]);
    }
}

fn place(event: &PacketDrop) -> String {
    match &event.place {
        Some(Place { function, module: Some(module) }) => format!("{function} [{module}]"),
        Some(Place { function, module: None }) => function.to_string(),
        None => "-".to_owned(),
    }
}

fn reason(event: &PacketDrop) -> String {
    // Where the kernel gives no reason worth the name, the place beside it says more.
    let mut text = match event.reason_name() {
        "NOT_SPECIFIED" | NO_REASON => "-".to_owned(),
        reason => reason.to_owned(),
    };
    if event.record.held > 0 {
        let _ = write!(text, " +{}", event.record.held);
    }
    text
}

const fn short(direction: Direction) -> &'static str {
    match direction {
        Direction::Unknown => "-",
        Direction::Received => "recv",
        Direction::Sent => "sent",
        Direction::Forwarded => "fwd",
    }
}
