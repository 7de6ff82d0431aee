//! The drops probe: one test a cause, made for real; what the event says of it, and what is counted.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::harness::lab::{DB, FAR, Lab, WEB, Want};

mod aside;
mod forward;
mod nobody;
mod policy;
mod quiet;
mod receive;

/// From `web` to `db`, through the router, hurting.
const FORWARDED: Want<'_> = Want {
    reason: &[],
    function: &[],
    class: "",
    by_place: None,
    harm: "harmful",
    direction: "forwarded",
    interface: &["ra"],
    source: Some(WEB),
    destination: Some(DB),
};

/// From `web` to `db`, which it has reached.
const RECEIVED: Want<'_> = Want { direction: "received", interface: &["eth0"], ..FORWARDED };

/// The same, in TCP: it takes the device off a segment before it looks at the socket's state (`tcp_v4_rcv`).
const RECEIVED_BY_TCP: Want<'_> = Want { interface: &["-"], ..RECEIVED };

/// From `web` to `db`, not out of `web` yet.
const SENT: Want<'_> = Want { direction: "sent", interface: &["eth0"], ..FORWARDED };

/// A port of `db`.
fn db4(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 99, 2, 2], port))
}

/// A port of `db`, by IPv6.
fn db6(port: u16) -> SocketAddr {
    SocketAddr::from(([0xfd99, 2, 0, 0, 0, 0, 0, 2], port))
}

/// A port of `far`.
fn far4(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 99, 3, 2], port))
}

/// A port of `far`, by IPv6.
fn far6(port: u16) -> SocketAddr {
    SocketAddr::from(([0xfd99, 3, 0, 0, 0, 0, 0, 2], port))
}

/// Events of packets to this port.
fn to_port(port: u16) -> [(&'static str, Value); 1] {
    [("destination_port", json!(port))]
}
