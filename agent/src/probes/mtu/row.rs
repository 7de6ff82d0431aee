//! Something too large as JSON fields and as a table row.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::IpAddr;

use agent_common::mtu::stall::Stall;
use agent_common::mtu::{Fate, Fragments, Kind, Stage, flags};

use super::event::{Limit, TooBig, kind_of, name};
use super::fragments;
use super::labels::{fate_name, kind_name};
use crate::digits::counted;
use crate::probe::row::{addresses, end_cell, named, nonzero, protocol};
use crate::probe::{Cell, Column, Field, Pods, Value, time_of_day};

/// The table's columns: 80 characters without the wide ones and with a usual destination.
pub const COLUMNS: &[Column] = &[
    Column::new("TIME", 9, false).whole(),
    Column::new("EVENT", 8, false),
    Column::new("MTU", 5, false).whole(),
    // A device's name, which is as short, or the address of a hop.
    Column::new("BY", 15, false).growing(39).whole(),
    Column::new("LIMIT", 6, true),
    Column::new("FATE", 10, true),
    Column::new("LEN", 5, true).whole(),
    Column::new("TUNNEL", 8, true),
    Column::new("ADDRESSES", 45, true).whole(),
    SOURCE,
    DESTINATION,
];
const SOURCE: Column = Column::new("SOURCE", 15, false).growing(64);
const DESTINATION: Column = Column::new("DESTINATION", 18, false).growing(70);

/// The row's cells, in the order of [`COLUMNS`].
pub fn cells<'a>(event: &'a TooBig, pods: &'a Pods, cells: &mut Vec<Cell<'a>>) {
    let (source_port, port) = event.ports();
    let number = |number: u32| if number == 0 { "-".to_owned() } else { number.to_string() };
    let texts: [Cow<'a, str>; 11] = [
        time_of_day(event.at).into(),
        kind_name(event.kind).into(),
        number(event.record.mtu).into(),
        event.by().unwrap_or("-".into()),
        event.limit().map_or("-", Limit::name).into(),
        fate_name(event.kind, event.fate).into(),
        number(event.record.len).into(),
        event.tunnel().map_or("-".into(), |inner| inner.name().to_string().into()),
        addresses((event.source(), source_port), (event.destination(), port)).to_string().into(),
        "".into(),
        "".into(),
    ];
    let (source, destination) = (pods.source.as_deref(), pods.destination.as_deref());
    cells.extend(COLUMNS.iter().zip(texts).map(|(column, text)| match *column {
        SOURCE => end_cell(SOURCE, source, event.source(), None, 0),
        DESTINATION => end_cell(DESTINATION, destination, event.destination(), port, event.record.held),
        column => Cell::new(column, text),
    }));
}

/// The event's fields, in the order of the documented schema.
pub fn fields<'a>(event: &'a TooBig, pods: &'a Pods, fields: &mut Vec<Field<'a>>) {
    let record = &event.record;
    let ip = |address: Option<IpAddr>| address.map_or(Value::Absent, Value::Ip);
    let portless = if event.is_portless() { Value::Portless } else { Value::Absent };
    let port = |port: Option<u16>| port.map_or(portless.clone(), Value::Port);
    let text = |text: Option<Cow<'a, str>>| text.map_or(Value::Absent, Value::Text);
    let interface = |name: Option<Cow<'a, str>>| name.map_or(Value::Absent, Value::Interface);
    let (source_port, destination_port) = event.ports();
    let (tunnel, outer) = (event.tunnel(), event.quote.map(|quote| quote.flow));
    let outer = outer.filter(|_| tunnel.is_some());
    fields.extend([
        ("event", Value::Reason(kind_name(event.kind).into())),
        ("fate", Value::Text(fate_name(event.kind, event.fate).into())),
        ("mtu", nonzero(record.mtu)),
        ("length", nonzero(record.len)),
        ("limit", text(event.limit().map(|limit| limit.name().into()))),
        ("sender_ip", ip(event.sender())),
        ("interface", interface(name(&record.device))),
        ("interface_kind", text(kind_of(&record.device))),
        ("interface_mtu", nonzero(record.device.mtu)),
        ("route_interface", interface(name(&record.route))),
        ("route_interface_kind", text(kind_of(&record.route))),
        ("route_interface_mtu", nonzero(record.route.mtu)),
        ("route_pmtu", nonzero(record.route_pmtu)),
        ("protocol", text(event.flow().map(|flow| protocol(flow.protocol)))),
        ("source_ip", ip(event.source())),
        ("source_port", port(source_port)),
        ("source_pod", Value::Pod(pods.source.as_deref())),
        ("destination_ip", ip(event.destination())),
        ("destination_port", port(destination_port)),
        ("destination_pod", Value::Pod(pods.destination.as_deref())),
        ("dont_fragment", event.flow().map_or(Value::Absent, |flow| Value::Flag(flow.dont_fragment))),
        ("gso_size", nonzero(record.gso_size.into())),
        ("tunnel", text(tunnel.map(|inner| inner.name().to_string().into()))),
        ("tunnel_overhead", tunnel.map_or(Value::Absent, |inner| Value::Number(inner.overhead.into()))),
        ("tunnel_source_ip", ip(outer.map(|flow| flow.source))),
        ("tunnel_destination_ip", ip(outer.map(|flow| flow.destination))),
        ("function", text(event.function.as_deref().map(Into::into))),
        ("drop_reason", text(event.reason.as_deref().map(Into::into))),
        ("stage", text(event.stage().map(|stage| stage_name(stage).into()))),
        ("netns", nonzero(record.netns)),
        ("locked", Value::Flag(event.has(flags::LOCKED))),
        ("suppressed", Value::Number(record.held)),
    ]);
    if event.kind == Kind::Incomplete {
        let came = &record.fragments;
        let whole = came.flags & Fragments::LAST != 0;
        fields.extend([
            ("fragments", Value::Number(came.count.into())),
            ("fragment_bytes", Value::Number(came.bytes.into())),
            ("largest_fragment", nonzero(came.largest)),
            ("payload_bytes", if whole { nonzero(came.end) } else { Value::Absent }),
            ("missing", Value::Text(fragments::missing(came).into())),
        ]);
    }
    if let Some(stall) = event.stall() {
        let milliseconds =
            |jiffies: u32| Value::Number(u64::from(jiffies) * 1000 / u64::from(event.hertz.max(1)));
        fields.extend([
            ("mss", nonzero(stall.mss)),
            ("path_mtu", nonzero(stall.pmtu)),
            ("timeouts", Value::Number(stall.retransmits.into())),
            ("acknowledged_bytes", Value::Number(stall.acked)),
            ("received_bytes", Value::Number(stall.received)),
            ("last_arrived_ms", Value::Number(stall.arrived / 1000)),
            ("waiting_bytes", Value::Number(stall.waiting.into())),
            ("longest_received", nonzero(stall.longest_run)),
            ("peer_heard_ms", milliseconds(stall.heard)),
            ("timeout_ms", milliseconds(stall.timeout)),
            ("sent_again_elsewhere", Value::Number(stall.lost.into())),
            ("mtu_probing", Value::Flag(stall.flags & Stall::PROBING != 0)),
        ]);
    }
}

/// Netfilter's name of how far a message had come.
pub(super) const fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Prerouting => "prerouting",
        Stage::Input => "input",
        Stage::Forward => "forward",
        Stage::Output => "output",
    }
}

/// What became of it, behind what it is.
pub(super) fn fate(event: &TooBig, text: &mut String) {
    match (event.kind, event.fate) {
        (Kind::Received, Fate::NoSocket) => text.push_str("; no socket there has sent such a packet"),
        (Kind::Received, Fate::Ignored) => text.push_str("; it is not heeded (ip_no_pmtu_disc)"),
        (Kind::Made, Fate::Unsent) => text.push_str("; the message is not sent"),
        (Kind::Made, Fate::Nested) => {
            text.push_str(
                "; no message is sent: the packet is itself part of an ICMP message of this kernel's",
            );
        }
        (Kind::Made, Fate::NoRoute) => text.push_str("; the message is not sent: there is no route back"),
        (Kind::Made, Fate::Limited) => text.push_str("; the message is not sent: their rate is limited"),
        (Kind::Lost, fate) => {
            let stage = event.stage().map_or("", stage_name);
            let reason = event.reason.as_deref().unwrap_or("no reason given");
            let _ = write!(text, "; {} in {stage} ({reason})", fate_name(Kind::Lost, fate));
        }
        (Kind::Stalled, _) => {
            let stall = &event.record.stall;
            let _ = write!(
                text,
                "; {} bytes (of {} a full segment) sent again after {}",
                event.record.len,
                stall.mss,
                counted(stall.retransmits.into(), "timeout")
            );
        }
        (Kind::Incomplete, _) => {
            let _ = write!(text, "; {}", fragments::arrived(&event.record.fragments));
        }
        _ => {}
    }
}

/// `TCP default/web-0 (10.0.1.2:5000) -> 10.0.2.3:443 in VXLAN`, as far as it is known.
pub fn flow(event: &TooBig, pods: &Pods, text: &mut String) {
    let (source_port, destination_port) = event.ports();
    if let Some(flow) = event.flow() {
        text.extend([&*protocol(flow.protocol), " "]);
    }
    let source = named(pods.source.as_deref(), event.source(), source_port);
    let destination = named(pods.destination.as_deref(), event.destination(), destination_port);
    let _ = write!(text, "{source} -> {destination}");
    if let Some(inner) = event.tunnel() {
        let _ = write!(text, " in {}", inner.name());
    }
}
