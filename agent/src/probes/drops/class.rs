//! What a drop means: the kernel's reason, the function the packet died in, and the circumstances, as a class.

use agent_common::drops::circumstance as fact;

use crate::probe::Level;

mod tables;
pub mod words;

use tables::{
    AMONG_PORTS, BRIDGE_PORTS, FORWARDED_BY_BRIDGE, FREES_COPIES, FREES_PIECES, FROM_DEVICES, FROM_PROGRAMS,
    IPSEC_DEVICES, LOCAL, PLACES, REASONS, RULES, TRANSIENT,
};

/// The cause of a drop, in an operator's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Larger than the next device or route takes.
    Mtu,
    /// A rule refused it: netfilter, tc, XDP, a cgroup or socket filter, IPsec policy, LSM.
    Policy,
    /// Netfilter refused it, and the kernel does not say whether by a rule, or by conntrack or NAT themselves.
    Netfilter,
    /// Nobody listens.
    NoSocket,
    /// No route.
    Routing,
    /// The reverse path says that the source is not where it came from.
    ReversePath,
    /// It was for another host, and forwarding is off.
    ForwardingOff,
    /// TTL or hop limit used up.
    Ttl,
    /// A queue was full: qdisc, device, backlog, socket, listener.
    Queue,
    /// Its device is down.
    DeviceDown,
    /// Its device has no carrier.
    NoCarrier,
    /// IPv6 is off on its device.
    Ipv6Off,
    /// The bridge's port does not forward it.
    BridgePort,
    /// It was to go back by the bridge's port that it came in by, and hairpin mode is off.
    Hairpin,
    /// Headers are wrong.
    Malformed,
    /// A checksum is wrong.
    Checksum,
    /// Not all fragments of its packet came.
    Fragment,
    /// No memory for it, or the protocol's memory limit was reached.
    Memory,
    /// TCP did not want it in the connection's state.
    TcpState,
    /// The next hop's link address is unknown.
    Neighbour,
    /// The neighbour table has no room for the next hop.
    NeighbourTable,
    /// Left over in a queue of something that was closed.
    Teardown,
    /// A copy, or what is left of a packet after its contents have gone on.
    Copy,
    /// A buffer of a unix, netlink or vsock socket: not a packet of the network.
    LocalSocket,
    /// The kernel gave no reason and the place tells nothing, or the reason fits no class.
    Other,
}

/// Whether somebody is missing the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Harm {
    /// Somebody is.
    Harmful,
    /// A healthy node drops such packets all day.
    Benign,
}

impl Harm {
    /// How much that matters to an operator.
    #[must_use]
    pub const fn level(self) -> Level {
        match self {
            Self::Harmful => Level::Warn,
            Self::Benign => Level::Info,
        }
    }

    /// Its name in metrics, JSON and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Harmful => "harmful",
            Self::Benign => "benign",
        }
    }
}

/// A drop's class and harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Verdict {
    /// The class.
    pub class: Class,
    /// The harm.
    pub harm: Harm,
}

const fn harmful(class: Class) -> Verdict {
    Verdict { class, harm: Harm::Harmful }
}

const fn benign(class: Class) -> Verdict {
    Verdict { class, harm: Harm::Benign }
}

impl Class {
    /// Every class, in the order of its declaration.
    pub const ALL: [Self; 25] = [
        Self::Mtu,
        Self::Policy,
        Self::Netfilter,
        Self::NoSocket,
        Self::Routing,
        Self::ReversePath,
        Self::ForwardingOff,
        Self::Ttl,
        Self::Queue,
        Self::DeviceDown,
        Self::NoCarrier,
        Self::Ipv6Off,
        Self::BridgePort,
        Self::Hairpin,
        Self::Malformed,
        Self::Checksum,
        Self::Fragment,
        Self::Memory,
        Self::TcpState,
        Self::Neighbour,
        Self::NeighbourTable,
        Self::Teardown,
        Self::Copy,
        Self::LocalSocket,
        Self::Other,
    ];

    /// Its name in metrics, JSON and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mtu => "mtu",
            Self::Policy => "policy",
            Self::Netfilter => "netfilter",
            Self::NoSocket => "no_socket",
            Self::Routing => "routing",
            Self::ReversePath => "reverse_path",
            Self::ForwardingOff => "forwarding_off",
            Self::Ttl => "ttl",
            Self::Queue => "queue",
            Self::DeviceDown => "device_down",
            Self::NoCarrier => "no_carrier",
            Self::Ipv6Off => "ipv6_off",
            Self::BridgePort => "bridge_port",
            Self::Hairpin => "hairpin",
            Self::Malformed => "malformed",
            Self::Checksum => "checksum",
            Self::Fragment => "fragment",
            Self::Memory => "memory",
            Self::TcpState => "tcp_state",
            Self::Neighbour => "neighbour",
            Self::NeighbourTable => "neighbour_table",
            Self::Teardown => "teardown",
            Self::Copy => "copy",
            Self::LocalSocket => "local_socket",
            Self::Other => "other",
        }
    }
}

/// What a drop for `reason` (without `SKB_DROP_REASON_`) in `function` (without the compiler's suffixes) under these
/// `circumstances` (the bits of [`fact`]) means.
#[must_use]
pub fn judge(reason: &str, function: &str, circumstances: u16) -> Verdict {
    let has = |bit: u16| circumstances & bit != 0;
    // The pieces of a reassembled packet are freed with it, for its reason: it is counted once, for itself.
    let is_piece = FREES_PIECES.contains(&function)
        || has(fact::PIECE) && ["kfree_skb_list", "kfree_skb_list_reason"].contains(&function);
    // Whatever the reason: what a raw or packet socket does not take, others have had.
    if is_piece || FREES_COPIES.contains(&function) {
        return benign(Class::Copy);
    }
    let verdict = classify(reason, function);
    // A switch floods to every port what is for a station that it does not know. Where there are reasons this has one of its own.
    let is_others =
        reason == "OTHERHOST" || verdict.class == Class::Malformed && FROM_DEVICES.contains(&function);
    if has(fact::OTHERS) && is_others {
        // Who sends it to an address that is here takes this for another station. A question whether the old one is still there is
        // how a kernel finds that out.
        let is_question = has(fact::DISCOVERY) && !fact::is_redirect(circumstances);
        let is_lost = has(fact::OWN_ADDRESS) && !is_question;
        return if is_lost { harmful(Class::Neighbour) } else { benign(Class::Other) };
    }
    // A FIN sent twice, or the acknowledgement of one, finds its connection gone: that told its peer so itself when it went. Where
    // there are no reasons it may be in TIME_WAIT.
    if has(fact::ENDING) && ["tcp_v4_rcv", "tcp_v6_rcv"].contains(&function) {
        match reason {
            "" => return benign(Class::TcpState),
            "NO_SOCKET" => return benign(Class::NoSocket),
            _ => {}
        }
    }
    if has(fact::NO_PACKET) && verdict.class == Class::Other && !FROM_PROGRAMS.contains(&function) {
        return benign(Class::LocalSocket);
    }
    // The kernel says itself that it is too large, just before it frees it.
    let may_be_size = matches!(verdict.class, Class::Other | Class::Mtu | Class::ForwardingOff);
    if has(fact::TOLD) && verdict.harm == Harm::Harmful && may_be_size {
        return harmful(Class::Mtu);
    }
    // A copy for nobody, or what a tunnel or rule did not want, is not the device's matter.
    let by_device = match verdict.class {
        Class::Queue => !reason.starts_with("SOCKET_") && !reason.starts_with("TCP_"),
        Class::Mtu => reason != "PKT_TOO_BIG",
        // Nobody answers by a device that is down, or has no carrier.
        Class::Other | Class::BridgePort | Class::Neighbour => true,
        Class::Routing => reason == "NO_TX_TARGET",
        _ => false,
    };
    let class = if by_device && has(fact::DOWN) {
        Class::DeviceDown
    } else if by_device && has(fact::NO_CARRIER) {
        Class::NoCarrier
    } else if has(fact::BELOW_IPV6) && ["ip6_rcv_core", "ipv6_rcv", "ip6_finish_output"].contains(&function) {
        Class::Ipv6Off
    } else if has(fact::GROUP) && reason.is_empty() && ["ip6_rcv_core", "ipv6_rcv"].contains(&function) {
        // Where there are no reasons: what kernels announce themselves by is well made, and comes to each device that has IPv6 off.
        Class::Ipv6Off
    } else if has(fact::TO_ITSELF) && FORWARDED_BY_BRIDGE.contains(&function) {
        Class::Hairpin
    } else if has(fact::LONG) && verdict.class == Class::Other {
        Class::Mtu
    } else if verdict.class == Class::Other && IPSEC_DEVICES.contains(&function) {
        Class::Policy
    } else if has(fact::GROUP) && verdict.class == Class::ForwardingOff {
        // No host forwards it: it has not joined the group yet.
        Class::Routing
    } else {
        verdict.class
    };
    let harm = if has(fact::PORTLESS) && is_to_nobody(class, reason)
        || has(fact::GROUP) && is_group_for_nobody(class, reason, function)
        || has(fact::DISCOVERY) && is_question_to_nobody(class, reason)
        || has(fact::STRANGERS) && class == Class::BridgePort && AMONG_PORTS.contains(&function)
        // NAT lets no redirect about a connection pass that it translates (`nf_nat_icmp_reply_translation`): it would name an address
        // that its sender has not asked, and the packet that it is about went its way.
        || fact::is_redirect(circumstances) && !has(fact::UNTRACKED) && class == Class::Netfilter
        // By which a device of IPsec announces itself: nobody has asked for that to be encrypted.
        || has(fact::GROUP) && has(fact::DISCOVERY) && IPSEC_DEVICES.contains(&function)
    {
        Harm::Benign
    } else {
        verdict.harm
    };
    Verdict { class, harm }
}

/// Whether what a bridge without ports dropped for this went to nobody: that no port took it, or that such a bridge's queue is
/// closed. A rule that refused it, or a neighbour that does not answer, is told as ever.
fn is_to_nobody(class: Class, reason: &str) -> bool {
    matches!(class, Class::Other | Class::Queue | Class::BridgePort | Class::NoCarrier | Class::DeviceDown)
        || class == Class::Routing && reason == "NO_TX_TARGET"
}

/// Whether a kernel's question about a neighbour (or its answer) that was dropped for this was missed by nobody: the link that it
/// was to take comes up, or goes, and the neighbour with it. What waits for the answer is dropped, and told, for itself.
fn is_question_to_nobody(class: Class, reason: &str) -> bool {
    matches!(class, Class::DeviceDown | Class::NoCarrier | Class::BridgePort)
        || class == Class::Routing && reason == "NO_TX_TARGET"
}

/// Whether a packet to a group or to all that was dropped for this was missed by nobody: no one here has joined the group, no
/// other station is there, or the link that it announces itself on is still coming up.
fn is_group_for_nobody(class: Class, reason: &str, function: &str) -> bool {
    match class {
        Class::DeviceDown
        | Class::NoCarrier
        | Class::NoSocket
        | Class::BridgePort
        | Class::Hairpin
        | Class::Ipv6Off => true,
        Class::Routing => {
            ["", "NOT_SPECIFIED", "IP_INNOROUTES", "IP_INADDRERRORS", "NO_TX_TARGET"].contains(&reason)
                || TRANSIENT.contains(&function)
        }
        // `icmp_rcv` answers no broadcast ping (`icmp_echo_ignore_broadcasts`).
        Class::Malformed => reason == "INVALID_PROTO" && function == "icmp_rcv",
        Class::Other => TRANSIENT.contains(&function),
        _ => false,
    }
}

/// As [`judge`], without circumstances.
///
/// Reasons: include/net/dropreason-core.h, 5.15.y to 7.2. Functions: where those kernels free without a reason, or
/// with one that says too little.
fn classify(reason: &str, function: &str) -> Verdict {
    explained_by_both(reason, function)
        .or_else(|| by_reason(reason))
        .or_else(|| by_function(function))
        .unwrap_or(harmful(Class::Other))
}

/// Reasons whose meaning hangs on the place.
fn explained_by_both(reason: &str, function: &str) -> Option<Verdict> {
    Some(match (reason, function) {
        // The hop limit shares its reason with broken headers; only forwarding counts hops down.
        ("IP_INHDR", "ip_forward" | "ip6_forward") => harmful(Class::Ttl),
        // An echo reply ends here once its raw socket has had a copy.
        ("NO_SOCKET", "icmp_rcv" | "icmpv6_rcv" | "ping_rcv") => benign(Class::NoSocket),
        // What comes to a connection in TIME_WAIT ends here once it is answered: every FIN to one who closed first. In the last
        // of them, each pure acknowledgement to one that has seen the other's end.
        ("NOT_SPECIFIED", "tcp_v4_rcv" | "tcp_v6_rcv" | "tcp_rcv_state_process") => benign(Class::TcpState),
        // A rule's own place. Elsewhere netfilter says this of its own refusals as well.
        ("NETFILTER_DROP", function) if RULES.contains(&function) => harmful(Class::Policy),
        // There is a route, and the device that it came in by does not forward (net/ipv4/route.c, net/ipv6/ip6_output.c).
        // Where there are no reasons, a packet of IPv6 that is refused for its hop limit or its size tells so by itself.
        ("IP_INADDRERRORS", "ip_error" | "ip6_forward") | ("", "ip6_forward") => {
            harmful(Class::ForwardingOff)
        }
        ("NO_TX_TARGET", function) if BRIDGE_PORTS.contains(&function) => harmful(Class::BridgePort),
        // What waits for a handshake that does not come; of queues the reason alone says that they were emptied.
        (_, "wg_packet_purge_staged_packets") => harmful(Class::Neighbour),
        // What a full queue refuses is freed in `kfree_skb_list`; here it is a filter at egress (net/core/dev.c before 5.17).
        ("", "__dev_queue_xmit") => harmful(Class::Policy),
        // Where the next hop cannot be noted down, and there are no reasons.
        ("", "ip_finish_output2" | "ip6_finish_output2") => harmful(Class::NeighbourTable),
        _ => return None,
    })
}

fn by_reason(reason: &str) -> Option<Verdict> {
    look_up(REASONS, reason).or_else(|| match reason {
        // What a release adds to a family belongs to it until a row here says more.
        _ if reason.starts_with("TCP_") => Some(harmful(Class::TcpState)),
        _ if reason.starts_with("QDISC_") => Some(harmful(Class::Queue)),
        _ => None,
    })
}

/// Places that free a packet without saying why.
fn by_function(function: &str) -> Option<Verdict> {
    look_up(PLACES, function).or_else(|| match function {
        _ if LOCAL.iter().any(|family| function.starts_with(family)) => Some(benign(Class::LocalSocket)),
        _ if function.starts_with("tcp_") => Some(harmful(Class::TcpState)),
        _ if ["neigh_", "arp_", "ndisc_"].iter().any(|family| function.starts_with(family)) => {
            Some(harmful(Class::Neighbour))
        }
        _ if function.ends_with("_enqueue") => Some(harmful(Class::Queue)),
        _ => None,
    })
}

/// What says the reason of what died in this function, where the kernel gives none.
#[must_use]
pub fn reason_by_place(function: &str) -> Option<&'static str> {
    let there = tables::REASONS_BY_PLACE.iter().find(|(_, functions)| functions.contains(&function));
    there.map(|(reason, _)| *reason)
}

fn look_up(table: tables::Table, name: &str) -> Option<Verdict> {
    table.iter().find(|(_, names)| names.contains(&name)).map(|(verdict, _)| *verdict)
}

#[cfg(test)]
mod tests;
