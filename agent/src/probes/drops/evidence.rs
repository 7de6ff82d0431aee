//! What the kernel's tables and queues say, at the moment a packet died, of why it did.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use agent_common::drops::{Direction, DropRecord, circumstance, flags};

use super::address;
use super::class::words::Refused;
use super::class::{Class, Harm, Verdict};
use crate::kernel::limits::{Bucket, Chain, Fill, Limits, Netem, Policed, Port, Side};
use crate::kernel::sockets::{Seen, Sockets};

/// What is looked at: an echo reply that nobody waits for any more is none of it.
const NOBODY_LISTENS: Verdict = Verdict { class: Class::NoSocket, harm: Harm::Harmful };

/// What speaks for a cause beside the kernel's reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The neighbour table is full.
    Neighbours(Fill),
    /// Conntrack's table is full.
    Conntrack(Fill),
    /// Conntrack is in use, has called packets INVALID, and knows no connection that this one belongs to.
    /// These chains have a rule that drops such packets; none are named where it is not known, or there are too many.
    Invalid(Arc<[Chain]>),
    /// The same of an ICMP message about another packet: it is that packet's connection which is not known.
    InvalidMessage(Arc<[Chain]>),
    /// It answers a socket there that has asked another address.
    NotTranslated(SocketAddr),
    /// A program listens at that port, and did not get it.
    Listens {
        /// Where it listens.
        at: SocketAddr,
        /// Where the packet was going.
        asked: IpAddr,
    },
    /// Nobody listens at that port, but programs do at others.
    OtherPorts {
        /// Where the packet was going.
        asked: u16,
        /// Where programs listen.
        listen: Arc<[u16]>,
    },
    /// It is TCP, and the socket that has its port is connected to this other peer.
    TalksTo(SocketAddr),
    /// Its frame is for another station, though this address of its destination is that of the pod that it came to.
    OtherStation(IpAddr),
    /// Its frame is for another station, though it came to this host by a device that leads nowhere else, and this address of its
    /// destination is that of a pod here.
    OtherHop(IpAddr),
    /// A token bucket of the device never holds enough for such a packet.
    Burst(Bucket),
    /// A network emulator of the device loses packets on purpose.
    Loses(Netem),
    /// A policer of the device never lets such a packet pass.
    Policer {
        /// Bytes of the packet that it has measured.
        length: u32,
        /// What of the policer is less.
        less: Policed,
    },
    /// Ports of Open vSwitch take less, one of which it may have been meant for.
    Ports {
        /// Bytes of the packet without its link header.
        length: u32,
        /// Those ports, the least first.
        less: Arc<[Port]>,
    },
}

impl Evidence {
    /// Whether what cures it is to be set in the network namespace where the packet died.
    pub(super) const fn is_there(&self) -> bool {
        match self {
            Self::Invalid(_)
            | Self::InvalidMessage(_)
            | Self::Listens { .. }
            | Self::OtherPorts { .. }
            | Self::TalksTo(_)
            | Self::Burst(_)
            | Self::Loses(_)
            | Self::Policer { .. } => true,
            // On the node, or where the sender is.
            Self::Neighbours(_)
            | Self::Conntrack(_)
            | Self::NotTranslated(_)
            | Self::OtherStation(_)
            | Self::OtherHop(_)
            | Self::Ports { .. } => false,
        }
    }
}

/// Whether an IP packet is right behind the IP header: IPv4 or IPv6.
pub(super) const fn is_ip_in_ip(protocol: u8) -> bool {
    matches!(protocol, 4 | 41)
}

/// Where evidence is looked for.
pub(super) struct Sources {
    pub(super) limits: Limits,
    pub(super) sockets: Sockets,
}

/// The evidence there is for a drop, and what it means by that. `function` is where the packet died, `from` who sent it, of
/// protocols with ports; `is_tunnels` is that another packet is inside.
pub(super) fn gather(
    Sources { limits, sockets }: &Sources,
    record: &DropRecord,
    reason: &str,
    function: &str,
    from: Option<SocketAddr>,
    is_tunnels: bool,
    verdict: Verdict,
) -> (Verdict, Option<Evidence>) {
    if let Some(class) = by_header(record, reason, function, is_tunnels, verdict) {
        return (Verdict { class, ..verdict }, None);
    }
    if verdict == NOBODY_LISTENS
        && let Some(from) = from
    {
        let evidence = by_sockets(sockets, record, from);
        // A device would take it out of its tunnel, unless a program is to.
        let class = if is_tunnels && evidence.is_none() { Class::Routing } else { verdict.class };
        return (Verdict { class, ..verdict }, evidence);
    }
    if verdict == NOBODY_LISTENS && is_tunnels {
        return (Verdict { class: Class::Routing, ..verdict }, None);
    }
    if verdict.class == Class::Neighbour && record.circumstances & circumstance::OWN_ADDRESS != 0 {
        let is_passing = limits.are_of(record.netns);
        let evidence = if is_passing { Evidence::OtherHop } else { Evidence::OtherStation };
        return (verdict, address(record.ip_version, record.destination).map(evidence));
    }
    // All namespaces share one neighbour table.
    if verdict.class == Class::NeighbourTable {
        let fill = limits.neighbours(record.ip_version).filter(|fill| fill.is_full());
        return (verdict, fill.map(Evidence::Neighbours));
    }
    let is_own = limits.are_of(record.netns);
    if is_own && let Some(evidence) = too_long(limits, record, reason, function, verdict) {
        return (Verdict { class: Class::Mtu, ..verdict }, Some(evidence));
    }
    if is_own
        && verdict == (Verdict { class: Class::Queue, harm: Harm::Harmful })
        && side(reason, function) == Some(Side::Queue)
    {
        return (verdict, limits.queueing(record.ifindex).netem.map(Evidence::Loses));
    }
    let is_refused = matches!(verdict.class, Class::Netfilter | Class::Policy);
    let evidence = is_refused.then(|| by_conntrack(limits, record, reason, function, verdict)).flatten();
    (verdict, evidence)
}

/// What conntrack says of a packet that netfilter has refused: of any namespace, since a pod may have rules of its own (a service mesh's
/// drop what is INVALID).
fn by_conntrack(
    limits: &Limits,
    record: &DropRecord,
    reason: &str,
    function: &str,
    verdict: Verdict,
) -> Option<Evidence> {
    let now = limits.conntrack(record.netns)?;
    let is_untracked = record.circumstances & circumstance::UNTRACKED != 0;
    let direction = Direction::from_wire(record.direction).unwrap_or(Direction::Unknown);
    // What has a route conntrack has seen, and what then has a connection it has not refused. Where there are no reasons
    // it is not known which that is.
    let has_connection =
        !reason.is_empty() && !is_untracked && matches!(direction, Direction::Forwarded | Direction::Sent);
    if verdict.class == Class::Netfilter && !has_connection && now.fill.is_full() {
        return Some(Evidence::Conntrack(now.fill));
    }
    // Conntrack also calls an ICMP error INVALID if it knows no connection that the error is about, and does not count that.
    if !is_untracked || now.invalid == 0 && (now.fill.entries == 0 || !is_icmp_error(record)) {
        return None;
    }
    let chains = limits
        .chains_dropping_invalid(record.netns, record.ip_version, direction, function)
        // Where it cannot read the rules of a pod, any of them may have dropped the packet, of a family that conntrack is not used for.
        .filter(|chains| !chains.is_empty() || limits.are_of(record.netns));
    chains.map(if is_icmp_error(record) { Evidence::InvalidMessage } else { Evidence::Invalid })
}

/// The class that the packet's header proves, where reason and place are those of other causes as well.
fn by_header(
    record: &DropRecord,
    reason: &str,
    function: &str,
    is_tunnels: bool,
    verdict: Verdict,
) -> Option<Class> {
    let has_reason = !matches!(reason, "" | "NOT_SPECIFIED");
    // Where forwarding is off as well, to switch it on would not help.
    let is_unforwarded = matches!(verdict.class, Class::ForwardingOff | Class::Other);
    match function {
        // IPsec takes tunnels of plain IP as well, where its devices' modules are loaded: what no tunnel takes ends there.
        "xfrm_input" if is_ip_in_ip(record.protocol) => Some(Class::Routing),
        // A tunnel's socket keeps nothing waiting that could be too much.
        "udp_queue_rcv_one_skb" | "udpv6_queue_rcv_one_skb" if !has_reason && is_tunnels => {
            Some(Class::Checksum)
        }
        "ip6_forward" if is_unforwarded && stays_for_its_source(record, function) => Some(Class::Routing),
        "ip_forward" | "ip6_forward" if !has_reason && is_unforwarded && is_spent(record) => Some(Class::Ttl),
        _ => None,
    }
}

/// Whether its TTL or hop limit lets it go no further.
fn is_spent(record: &DropRecord) -> bool {
    record.flags & flags::HAS_IP != 0 && record.ttl <= 1
}

/// Whether IPv6 does not forward the packet for its source, whatever is set: that is of its link, a loopback's or a group's, or none.
pub(super) fn stays_for_its_source(record: &DropRecord, function: &str) -> bool {
    let source = Ipv6Addr::from(record.source);
    let stays = source.is_unicast_link_local()
        || source.is_loopback()
        || source.is_multicast()
        || source.is_unspecified();
    function == "ip6_forward" && record.ip_version == 6 && stays
}

/// Whether IPv4's input has refused it as one of the loopback's network. Before 6.14 or so it gives no reason.
pub(super) fn is_on_loopbacks_network(record: &DropRecord, function: &str) -> bool {
    let is_its = |bytes: [u8; 16]| bytes[0] == 127;
    matches!(function, "ip_rcv_finish_core" | "ip_rcv_finish")
        && record.ip_version == 4
        && (is_its(record.source) || is_its(record.destination))
}

/// What the sockets there say of a packet that none of them took.
fn by_sockets(sockets: &Sockets, record: &DropRecord, from: SocketAddr) -> Option<Evidence> {
    let asked = address(record.ip_version, record.destination)?;
    let to = SocketAddr::new(asked, record.destination_port);
    Some(
        match sockets.explain(
            record.netns,
            record.protocol,
            to,
            from,
            opens_connection(record) == Some(true),
        )? {
            Seen::Expects(peer) => Evidence::NotTranslated(peer),
            Seen::ListensAt(at) => Evidence::Listens { at, asked },
            Seen::Ports(listen) => Evidence::OtherPorts { asked: to.port(), listen },
            // Its connection is open: where the kernel gives no reason, something else refused it.
            Seen::Connected(peer) if peer == from => return None,
            Seen::Connected(peer) => Evidence::TalksTo(peer),
        },
    )
}

/// Whether it is a TCP segment that opens a connection (SYN without ACK); `None` of anything else, and where its flags are not seen.
pub(super) fn opens_connection(record: &DropRecord) -> Option<bool> {
    const SYN: u8 = 1 << 1;
    const ACK: u8 = 1 << 4;
    let header = record.header.get(..record.header_len.into()).unwrap_or_default();
    let tcp = match (record.ip_version, header) {
        (4, [first, ..]) => 4 * usize::from(first & 0xf),
        (6, [_, _, _, _, _, _, 6, ..]) => 40,
        _ => return None,
    };
    let flags = header.get(tcp + 13).filter(|_| record.protocol == 6)?;
    Some(flags & (SYN | ACK) == SYN)
}

/// Whether it is an ICMP message about another packet.
fn is_icmp_error(record: &DropRecord) -> bool {
    const ICMP: u8 = 1;
    const ICMPV6: u8 = 58;
    let [kind, _] = record.source_port.to_be_bytes();
    match record.protocol {
        _ if record.flags & flags::HAS_TRANSPORT == 0 => false,
        ICMP => matches!(kind, 3 | 4 | 5 | 11 | 12),
        ICMPV6 => (1..=4).contains(&kind),
        _ => false,
    }
}

/// What never lets a packet of its size pass, where it died.
fn too_long(
    limits: &Limits,
    record: &DropRecord,
    reason: &str,
    function: &str,
    verdict: Verdict,
) -> Option<Evidence> {
    if is_at_port(reason, function, verdict) {
        return at_ports(record, &limits.switch_ports());
    }
    let side = side_of_size(reason, function, verdict)?;
    let burst = || limits.queueing(record.ifindex).bucket.filter(|bucket| frame(record) > bucket.holds());
    let burst = if side == Side::Queue { burst() } else { None };
    burst.map(Evidence::Burst).or_else(|| {
        let policer = limits.policers(record.ifindex, side).of(record.ethertype);
        policer.and_then(|policer| policed(record, policer))
    })
}

/// Whether evidence may yet show that packets which die so are too long.
pub(super) fn size_may_be_why(reason: &str, function: &str, verdict: Verdict) -> bool {
    side_of_size(reason, function, verdict).is_some() || is_at_port(reason, function, verdict)
}

/// Whether it died at a port of Open vSwitch.
fn is_at_port(reason: &str, function: &str, verdict: Verdict) -> bool {
    let reason = Some(reason).filter(|reason| !reason.is_empty());
    verdict.class == Class::Routing && Refused::by_place(reason, function) == Some(Refused::Port)
}

/// The ports that take less. What is cut later passes any (`ovs_vport_send`).
fn at_ports(record: &DropRecord, ports: &[Port]) -> Option<Evidence> {
    /// Of Ethernet, and a VLAN's tag in the frame, which the kernel does not count either.
    const HEADER: u32 = 14;
    const TAG: u32 = 4;
    let tag = if matches!(record.ethertype, 0x8100 | 0x88a8) { TAG } else { 0 };
    let length = record.len.saturating_sub(HEADER + tag);
    let less: Arc<[Port]> = ports.iter().filter(|port| port.mtu < length).cloned().collect();
    (record.gso_size == 0 && !less.is_empty()).then_some(Evidence::Ports { length, less })
}

/// Where it is that the packet was, if what is there may refuse it for its size.
fn side_of_size(reason: &str, function: &str, verdict: Verdict) -> Option<Side> {
    let side = side(reason, function)?;
    let unnamed = if side == Side::Ingress { Class::Other } else { Class::Queue };
    let is_open = verdict.harm == Harm::Harmful && [Class::Policy, unnamed].contains(&verdict.class);
    is_open.then_some(side)
}

/// Where the packet was that died here, if that was where filters or a queueing discipline refuse packets. Kernels without reasons
/// have only the function.
fn side(reason: &str, function: &str) -> Option<Side> {
    match (reason, function) {
        ("TC_INGRESS", _)
        | ("" | "TC_RECLASSIFY_LOOP", "sch_handle_ingress" | "__netif_receive_skb_core") => {
            Some(Side::Ingress)
        }
        ("TC_EGRESS", _) | ("" | "TC_RECLASSIFY_LOOP", "sch_handle_egress" | "__dev_queue_xmit") => {
            Some(Side::Egress)
        }
        (
            "" | "TC_RECLASSIFY_LOOP",
            "__dev_xmit_skb"
            | "kfree_skb_list"
            | "kfree_skb_list_reason"
            | "tcf_kfree_skb_list"
            | "__tcf_kfree_skb_list",
        ) => Some(Side::Queue),
        _ => reason.starts_with("QDISC_").then_some(Side::Queue),
    }
}

/// Whether the policer lets a packet of its size pass at all (`tcf_police_act`).
fn policed(record: &DropRecord, policer: Policed) -> Option<Evidence> {
    // The burst must hold all segments at once. The MTU must as well in kernels before 5.12; in others a segment.
    let burst = policer.burst.filter(|burst| record.len > *burst);
    let mtu = policer.mtu.filter(|mtu| frame(record) > *mtu);
    let length = if burst.is_some() { record.len } else { frame(record) };
    (burst.is_some() || mtu.is_some()).then_some(Evidence::Policer { length, less: Policed { burst, mtu } })
}

/// Bytes of the largest frame that is made of the packet.
pub(super) fn frame(record: &DropRecord) -> u32 {
    /// Ethernet, IP and TCP without options: no segment is shorter than that and its payload.
    const HEADERS: u32 = 14 + 20 + 20;
    if record.gso_size == 0 { record.len } else { record.len.min(u32::from(record.gso_size) + HEADERS) }
}

#[cfg(test)]
mod tests;
