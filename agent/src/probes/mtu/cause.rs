//! What makes events one incident: who sends to where, or the place where it is too much.

use std::net::IpAddr;
use std::sync::Arc;

use agent_common::mtu::{Fate, Kind, MtuRecord};
use agent_common::quote::Tunnel;

use super::event::{Limit, TooBig};
use crate::pod::Pod;
use crate::probe::Pods;

/// The first port that the kernel chooses for who connects (`net.ipv4.ip_local_port_range`, unless it is set otherwise).
const EPHEMERAL: u16 = 32_768;

/// What makes two events one incident: somebody's packets to somewhere are too large, whoever says so. Those that meet at one
/// place are one, wherever they go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cause {
    sender: Who,
    to: To,
}

/// What somebody's packets are too large for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum To {
    Destination(Option<IpAddr>),
    /// A device of a namespace, by its index, and what it takes of an IP version in a tunnel.
    Device(u32, u32, u32, u8, Option<Tunnel>),
    /// A hop elsewhere, and what it takes in a tunnel.
    Hop(IpAddr, u32, Option<Tunnel>),
    /// Whatever is at the other end of the connection from this port: by what quotes a packet and by what the socket knows it
    /// may have two addresses.
    Port(u16),
}

/// Who sends too much, as far as that is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    Pod(Arc<Pod>),
    Address(IpAddr),
    Netns(u32),
}

impl Cause {
    /// By who sends, and to where.
    pub(super) fn of(event: &TooBig, pods: &Pods) -> Self {
        Self { sender: Who::of(event, pods), to: To::Destination(event.destination()) }
    }

    /// By who sends, and where it is too much; `None` where no such place is seen.
    pub(super) fn at_place(event: &TooBig, pods: &Pods) -> Option<Self> {
        let MtuRecord { netns, route, device, ip_version, .. } = &event.record;
        // In a tunnel less fits than what carries it takes: tunnels over one hop are told apart.
        let (fits, tunnel) = (&event.fits().unwrap_or_default(), event.tunnel().map(|inner| inner.tunnel));
        let to = match event.kind {
            // What is behind a path's first device is not seen.
            Kind::Made if !matches!(event.limit(), None | Some(Limit::Path)) => {
                To::Device(*netns, route.ifindex, *fits, *ip_version, tunnel)
            }
            Kind::Oversize => To::Device(*netns, device.ifindex, *fits, *ip_version, tunnel),
            // A server's own port says nothing: all its connections have it.
            Kind::Stalled => To::Port(event.ports().0.filter(|port| *port >= EPHEMERAL)?),
            Kind::Received if event.fate == Fate::NoSocket => {
                To::Port(event.ports().0.filter(|port| *port >= EPHEMERAL)?)
            }
            Kind::Received if event.fate != Fate::NoSocket && event.absurd().is_none() => {
                // Where it answers in the name of the far end, that is no place on the way.
                To::Hop(event.sender().filter(|hop| Some(*hop) != event.destination())?, *fits, tunnel)
            }
            _ => return None,
        };
        Some(Self { sender: Who::of(event, pods), to })
    }
}

impl Who {
    fn of(event: &TooBig, pods: &Pods) -> Self {
        match (&pods.source, event.source()) {
            (Some(pod), _) => Self::Pod(Arc::clone(pod)),
            (None, Some(address)) => Self::Address(address),
            (None, None) => Self::Netns(event.record.netns),
        }
    }
}
