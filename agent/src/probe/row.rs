//! How every probe writes the ends of a packet, protocols and numbers, so that a row of one reads like a row of another.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::net::{IpAddr, SocketAddr};

use super::{Cell, Column, Value};
use crate::digits;
use crate::pod::Pod;

/// A pod's name or an address, and the port.
#[must_use]
pub fn end(pod: Option<&Pod>, address: Option<IpAddr>, port: Option<u16>) -> impl Display {
    fmt::from_fn(move |f| match (pod, port) {
        (Some(pod), Some(port)) => write!(f, "{}/{}:{port}", pod.namespace, pod.name),
        (Some(pod), None) => write!(f, "{}/{}", pod.namespace, pod.name),
        (None, _) => socket(address, port).fmt(f),
    })
}

/// The same as a table's cell, and how many more there were like it: of a pod its name may be cut, never a port or an
/// address.
#[must_use]
pub fn end_cell(
    column: Column,
    pod: Option<&Pod>,
    address: Option<IpAddr>,
    port: Option<u16>,
    held: u64,
) -> Cell<'static> {
    let mut tail = match (pod, port) {
        (Some(_), Some(port)) => format!(":{port}"),
        (Some(_), None) => String::new(),
        (None, _) => socket(address, port).to_string(),
    };
    if held > 0 {
        // Writing to a String cannot fail.
        let _ = fmt::Write::write_fmt(&mut tail, format_args!(" +{held}"));
    }
    let name = pod.map_or_else(String::new, |pod| format!("{}/{}", pod.namespace, pod.name));
    Cell { column, text: name.into(), tail: tail.into() }
}

/// A pod's name with its address, or an address alone, and the port.
#[must_use]
pub fn named(pod: Option<&Pod>, address: Option<IpAddr>, port: Option<u16>) -> impl Display {
    fmt::from_fn(move |f| match (pod, address) {
        (Some(pod), None) => write!(f, "{}/{}", pod.namespace, pod.name),
        (Some(pod), address) => write!(f, "{}/{} ({})", pod.namespace, pod.name, socket(address, port)),
        (None, address) => socket(address, port).fmt(f),
    })
}

/// An address and a port, as far as they are known.
#[must_use]
pub fn socket(address: Option<IpAddr>, port: Option<u16>) -> impl Display {
    fmt::from_fn(move |f| match (address, port) {
        (Some(IpAddr::V4(address)), port) => {
            f.write_str(digits::ipv4(address).as_str())?;
            port.map_or(Ok(()), |port| write!(f, ":{port}"))
        }
        (Some(address), Some(port)) => SocketAddr::new(address, port).fmt(f),
        (Some(address), None) => address.fmt(f),
        (None, _) => f.write_str("-"),
    })
}

/// Both ends' addresses and ports.
#[must_use]
pub fn addresses(
    source: (Option<IpAddr>, Option<u16>),
    destination: (Option<IpAddr>, Option<u16>),
) -> impl Display {
    fmt::from_fn(move |f| {
        write!(f, "{}>{}", socket(source.0, source.1), socket(destination.0, destination.1))
    })
}

/// An IP protocol by name where it has one everybody knows.
#[must_use]
pub fn protocol(number: u8) -> Cow<'static, str> {
    match number {
        1 => "ICMP".into(),
        2 => "IGMP".into(),
        4 => "IPIP".into(),
        6 => "TCP".into(),
        17 => "UDP".into(),
        33 => "DCCP".into(),
        41 => "IPv6".into(),
        47 => "GRE".into(),
        50 => "ESP".into(),
        58 => "ICMPv6".into(),
        132 => "SCTP".into(),
        other => format!("proto:{other}").into(),
    }
}

/// A number the kernel side writes as 0 when it could not read it.
#[must_use]
pub fn nonzero(number: u32) -> Value<'static> {
    if number == 0 { Value::Absent } else { Value::Number(number.into()) }
}

/// The name of a device's setting as `sysctl` and a shell take it: a device's own dots are not separators where slashes are.
#[must_use]
pub fn device_sysctl(family: &str, device: &str, setting: &str) -> String {
    let separator = if device.contains('.') { "/" } else { "." };
    ["net", family, "conf", device, setting].join(separator)
}
