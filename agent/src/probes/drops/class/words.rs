//! What a drop's class means, and what cures it, in an operator's words.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use agent_common::quote::Tunnel;

use super::tables::{IPSEC_DEVICES, TUNNELS};
use crate::links::shell_word;
use crate::pod::Pod;
use crate::probe::row::{device_sysctl, end};
use crate::probes::drops::evidence::Evidence;

mod fixes;
mod means;
mod proven;

/// Whose network namespace a packet died in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Home {
    /// The host's.
    Host,
    /// A pod's.
    Pod(Arc<Pod>),
    /// Another one, by its inode.
    Netns(u32),
    /// Some that are named later, by this mark: none of them the host's.
    Named(&'static str),
    /// Any.
    Any,
}

impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("this node's own network namespace"),
            Self::Pod(pod) => end(Some(pod), None, None).fmt(f),
            Self::Netns(netns) => write!(f, "network namespace {netns}: `lsns {netns}` lists its processes"),
            Self::Named(mark) => f.write_str(mark),
            Self::Any => f.write_str("the network namespace where it died"),
        }
    }
}

/// What is known of a drop beside its class. Without it the words are those for all drops of the class.
#[derive(Clone, Copy, Debug, Default)]
pub struct About<'a> {
    /// The kernel's reason, without `SKB_DROP_REASON_`; where it gives none, what the place stands for.
    pub reason: &'a str,
    /// The device it died on.
    pub device: Option<&'a str>,
    /// The device's MTU, bytes; 0 if unknown.
    pub mtu: u32,
    /// 4, 6, or 0 if not IP.
    pub ip_version: u8,
    /// Bytes of the largest frame that is made of it; 0 if unknown.
    pub frame: u32,
    /// The tunnel whose packet it is, and the node that sent it.
    pub tunnel: Option<(Tunnel, IpAddr)>,
    /// The kernel has made a message about it: it is too large.
    pub told: bool,
    /// What refused it, where the place tells more than the reason.
    pub refused: Option<Refused>,
    /// What is late in coming to a port where nobody is.
    pub late: Option<Late>,
    /// Its device is a bridge that has no ports.
    pub is_portless: bool,
    /// Where it died; `None` where that is not known.
    pub home: Option<&'a Home>,
    /// What else speaks for the cause.
    pub evidence: Option<&'a Evidence>,
}

/// What comes to a port when nobody waits there any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// By its ports it is an answer over UDP, to a port that a program asks from.
    Answer,
    /// A TCP segment that does not open a connection.
    Segment,
}

/// What refuses a packet, by the place where it died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Routing: one of its addresses may not be seen there.
    Martian,
    /// Routing: its source is its destination.
    Itself,
    /// Routing: one of its addresses is of the loopback's network, and it came by another device.
    Localnet,
    /// IPv6 forwards nothing from such a source.
    Source,
    /// A route or a rule that refuses packets.
    ByRoute,
    /// No route leads there, or one that refuses packets does.
    PerhapsByRoute,
    /// A blackhole route took it, or its route's device has just gone.
    Discarded,
    /// A queue of netfilter's that no program reads.
    NoQueue,
    /// No tunnel device takes what has come in a tunnel.
    NoTunnel,
    /// The same, for no device is there that takes any packet of that kind.
    NoTunnelDevice,
    /// No route leads back to its source by the device that it came by, or its source is this host's own.
    NoWayBack,
    /// IPsec has no state for it, or finds it wrong.
    Ipsec,
    /// IPsec has no policy and state for what leaves by its device.
    NoPolicy,
    /// No peer of the WireGuard device may have it.
    NoPeer,
    /// Its WireGuard peer has not answered.
    NoHandshake,
    /// Open vSwitch knows no flow for it, and nobody to ask for one.
    NoFlow,
    /// The port of Open vSwitch that it was to leave by takes less, or takes nothing.
    Port,
}

impl Refused {
    /// As the place tells it. Of IPv4's input (`ip_route_input_slow`) what has no reason of its own is an address that may not be seen
    /// there, and of `ip_error` what is not for want of a route is for one that refuses it.
    pub(in crate::probes::drops) fn by_place(reason: Option<&str>, function: &str) -> Option<Self> {
        Some(match (reason, function) {
            (Some("NOT_SPECIFIED"), "ip_rcv_finish_core" | "ip_rcv_finish") => Self::Martian,
            // What no route leads to ends elsewhere (net/ipv4/ip_input.c).
            (None, "ip_rcv_finish_core" | "ip_rcv_finish") => Self::NoWayBack,
            (Some("NOT_SPECIFIED"), "ip_error") => Self::ByRoute,
            (None, "ip_error")
            | (
                _,
                "ip6_pkt_drop"
                | "ip6_pkt_discard"
                | "ip6_pkt_discard_out"
                | "ip6_pkt_prohibit"
                | "ip6_pkt_prohibit_out",
            ) => Self::PerhapsByRoute,
            (_, "dst_discard" | "dst_discard_out") => Self::Discarded,
            (_, function) if TUNNELS.contains(&function) => Self::NoTunnel,
            (_, "nf_queue" | "__nf_queue") => Self::NoQueue,
            (_, "xfrm_input") => Self::Ipsec,
            (_, function) if IPSEC_DEVICES.contains(&function) => Self::NoPolicy,
            (_, "wg_xmit") => Self::NoPeer,
            (_, "ovs_dp_process_packet") => Self::NoFlow,
            // The first ends in a jump to what frees, so that this seems to be done by its caller.
            (None | Some("NOT_SPECIFIED"), "ovs_vport_send" | "do_execute_actions") => Self::Port,
            (_, "wg_packet_purge_staged_packets") => Self::NoHandshake,
            _ => return None,
        })
    }
}

impl About<'_> {
    /// As it may stand in a command.
    fn device(&self) -> Cow<'_, str> {
        shell_word(self.device.unwrap_or("DEVICE"))
    }

    /// The name of a setting of its device, as it may stand in a command.
    fn sysctl(&self, family: &str, setting: &str) -> String {
        shell_word(&device_sysctl(family, self.device.unwrap_or("DEVICE"), setting)).into_owned()
    }

    /// Whether it died in a network namespace that is known not to be the host's.
    const fn is_elsewhere(&self) -> bool {
        matches!(self.home, Some(Home::Pod(_) | Home::Netns(_) | Home::Named(_)))
    }

    /// Whether a queueing discipline dropped it in a namespace whose disciplines are not looked at.
    fn is_unseen_qdisc(&self) -> bool {
        let of_qdisc = ["QDISC_", "FQ_", "CAKE_"].iter().any(|family| self.reason.starts_with(family));
        of_qdisc && self.is_elsewhere()
    }

    /// Whether it is IPv4's, and the kernel gives no reason.
    const fn is_unnamed_v4(&self) -> bool {
        self.reason.is_empty() && self.ip_version != 6
    }

    /// `ipv4` or `ipv6`, as sysctls have it.
    const fn family(&self) -> &'static str {
        if self.ip_version == 6 { "ipv6" } else { "ipv4" }
    }
}

/// What the kernel calls it where no program and no module takes a packet's protocol.
const NO_PROTOCOL: &str = "IP_NOPROTO";

/// What the kernel calls it where an address of the loopback's network came by another device.
const LOCALNET: &str = "IP_LOCALNET";

/// Whether the kernel says this of TCP's signatures.
fn is_signed(reason: &str) -> bool {
    reason.starts_with("TCP_MD5") || reason.starts_with("TCP_AO") || reason == "TCP_AUTH_HDR"
}
