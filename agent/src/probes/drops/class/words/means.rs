//! What a drop's class means.

use std::borrow::Cow;

use super::super::Class;
use super::super::tables::{IPV6_INPUT, NO_FRAGMENTS, UDP_SOCKET};
use super::{About, LOCALNET, Late, NO_PROTOCOL, Refused, is_signed, proven};

impl Class {
    /// What it means, as the end of a sentence.
    #[must_use]
    pub fn means(self, about: &About<'_>) -> Cow<'static, str> {
        let on = about.device.map_or_else(String::new, |device| format!(" on {device}"));
        if let Some(proven) = about.evidence.map(|evidence| proven::means(evidence, about)) {
            return proven.into();
        }
        match self {
            Self::Mtu if about.told => {
                "larger than the tunnel or path takes, and the kernel made a message to its sender about that".into()
            }
            Self::Mtu => "larger than the next device or route takes".into(),
            Self::Policy => policy(about).into(),
            Self::Netfilter if about.refused == Some(Refused::NoQueue) => {
                "a rule hands it to a program (NFQUEUE), and none reads that queue, or it is full".into()
            }
            Self::Netfilter => {
                "netfilter refused it: a rule, conntrack or NAT themselves (a full table, no free port), or IPVS (a service without a server)".into()
            }
            Self::NoSocket => no_socket(about).into(),
            Self::Routing => routing(about).into(),
            Self::ReversePath => "no way back to its source leads by the device that it came by (reverse path filter)".into(),
            // IPv6 frees in one place what it does not forward.
            Self::ForwardingOff if about.reason.is_empty() && about.ip_version == 6 => {
                format!("it is for another host, and forwarding is off{on}, or an IPsec policy refused it").into()
            }
            Self::ForwardingOff => format!("it is for another host, and forwarding is off{on}").into(),
            Self::Ttl => ttl(about).into(),
            Self::Queue => queue(about).into(),
            Self::DeviceDown => "its device is down, or not yet up".into(),
            Self::NoCarrier => "its device has no carrier: the cable is out, or the other end is down".into(),
            Self::Ipv6Off if about.mtu != 0 && about.mtu < 1280 => {
                format!("IPv6 is off{on}: it takes {} bytes, and IPv6 needs 1280", about.mtu).into()
            }
            Self::Ipv6Off => format!("IPv6 is off{on}").into(),
            Self::BridgePort => "the bridge's port does not take it (its state, VLANs, isolation, or a station that is not known)".into(),
            Self::Hairpin => {
                format!("it is to go back by the port that it came by, and hairpin mode is off{on}").into()
            }
            Self::Malformed => malformed(about).into(),
            Self::Checksum => match about.tunnel {
                Some((tunnel, from)) if about.reason == UDP_SOCKET => format!("the checksum of {}'s own header is wrong (checksum offload on node {from}, or what changes packets on the way), or an IPsec policy refused it, or a program reads it too slowly", tunnel.name()).into(),
                Some((tunnel, from)) => format!("the checksum of {}'s own header is wrong: checksum offload on node {from}, or what changes packets on the way", tunnel.name()).into(),
                None => "its checksum is wrong".into(),
            },
            Self::Fragment if about.reason == "FRAG_TOO_FAR" => {
                "too many other packets of its sender came between its fragments".into()
            }
            Self::Fragment => "other fragments of its packet never came".into(),
            Self::Memory => memory(about).into(),
            Self::TcpState => tcp_state(about).into(),
            Self::Neighbour if about.refused == Some(Refused::NoHandshake) => {
                "its WireGuard peer does not answer the handshake".into()
            }
            Self::Neighbour => neighbour(about),
            Self::NeighbourTable => "the neighbour table has no room for the next hop".into(),
            Self::Teardown => "left in the queue of something that was closed".into(),
            Self::Copy => "a copy or a remainder: the packet itself went on".into(),
            Self::LocalSocket => "a buffer of a local socket, not a packet of the network".into(),
            Self::Other => "the kernel gives no cause".into(),
        }
    }
}

fn no_socket(about: &About<'_>) -> &'static str {
    match about.late {
        _ if about.reason == NO_PROTOCOL => "nobody here takes its protocol",
        Some(Late::Answer) => {
            "nobody waits there any more: by its ports it is an answer, and the socket that asked is closed"
        }
        // Where there are no reasons, all that TCP refuses before it looks at the connection ends in one place.
        Some(Late::Segment) if about.reason.is_empty() => {
            "no connection there takes it: that has ended or was never there, or a filter of its socket or cgroup, IPsec, a signature or a full backlog refused it"
        }
        Some(Late::Segment) => {
            "it belongs to no connection that is open there: that has ended, or is another host's; a reset tells the sender"
        }
        None => "nobody listens there",
    }
}

fn neighbour(about: &About<'_>) -> Cow<'static, str> {
    if about.refused == Some(Refused::NoHandshake) {
        "its WireGuard peer does not answer the handshake".into()
    } else if about.is_portless {
        format!(
            "it goes to the network of the bridge {}, which has no ports, so nobody answers. If its destination is elsewhere, both networks overlap",
            about.device.unwrap_or_default()
        )
        .into()
    } else {
        "the next hop does not answer ARP or neighbour discovery".into()
    }
}

fn policy(about: &About<'_>) -> &'static str {
    match about.reason {
        "SOCKET_FILTER" => "the receiving socket's own filter, or a BPF program of its cgroup, refused it",
        "BPF_CGROUP_EGRESS" => "a BPF program of its cgroup refused it",
        "TC_INGRESS" | "TC_EGRESS" => "a filter of its device (tc) refused it",
        "TC_RECLASSIFY_LOOP" => "filters or queues of its device (tc) sent it round without end",
        "XDP" => "an XDP program refused it",
        "XFRM_POLICY" => "an IPsec policy refused it",
        "OVS_DROP_LAST_ACTION" | "OVS_DROP_EXPLICIT" => {
            "a flow of Open vSwitch drops it (the network plugin writes them)"
        }
        "OVS_DROP_EXPLICIT_WITH_ERROR" | "OVS_DROP_ACTION_ERROR" => "a flow of Open vSwitch failed on it",
        "OVS_DROP_METER" => "a meter of Open vSwitch lets no more pass",
        "SECURITY_HOOK" => "a security module refused it",
        _ if about.refused == Some(Refused::NoPolicy) => {
            "IPsec has no policy with a state for what leaves by this device, a policy blocks it, or no route leads to its peer"
        }
        "PSP_INPUT" | "PSP_OUTPUT" => "the connection demands encryption (PSP), and it has none",
        _ if about.refused == Some(Refused::Ipsec) => {
            "IPsec has no state (SPI and key) for it, or it is damaged, replayed or not what the state expects"
        }
        _ => "a firewall rule or network policy refused it",
    }
}

fn routing(about: &About<'_>) -> &'static str {
    match about.reason {
        _ if about.refused == Some(Refused::Itself) => {
            "its source is its destination: what a pod sends to a service of its own, and is not masqueraded, comes back so"
        }
        "IP_LOCAL_SOURCE" => "its source is one of this host's own addresses",
        _ if about.refused == Some(Refused::Source) => {
            "IPv6 forwards nothing from such a source (of its link, loopback, a group's, or none)"
        }
        reason if reason == LOCALNET || about.refused == Some(Refused::Localnet) => {
            "an address of it is the loopback's (127.0.0.0/8), which is routed on no other device unless route_localnet is on"
        }
        "IP_INVALID_SOURCE" | "IP_INVALID_DEST" | "IP_INADDRERRORS" => {
            "its source or destination is no address that may be seen there"
        }
        "VXLAN_VNI_NOT_FOUND" => "no VXLAN device here has its VNI",
        "TUNNEL_TXINFO" => "the tunnel is not told where to send it",
        "NO_TX_TARGET" => "no port or remote takes it",
        _ => match about.refused {
            Some(Refused::Martian) => {
                "an address of it may not be seen there: a source that is this node's own, a loopback's or a group's"
            }
            Some(Refused::ByRoute) => "a route or rule refuses it (blackhole, prohibit, unreachable)",
            // Without a reason it may be forwarding as well.
            Some(Refused::PerhapsByRoute) if about.is_unnamed_v4() => {
                "no route to its destination, or one that refuses it (blackhole, prohibit, unreachable), or forwarding is off on the device that it came by"
            }
            Some(Refused::PerhapsByRoute) => {
                "no route to its destination, or one that refuses it (blackhole, prohibit, unreachable)"
            }
            Some(Refused::Discarded) => "a blackhole route took it, or its route's device has just gone",
            Some(Refused::NoTunnel) => {
                "no tunnel device here takes it: its key, VNI or addresses are those of none that is up"
            }
            Some(Refused::NoTunnelDevice) => {
                "no device here takes it out of its tunnel: the device is gone or down, has another port, or its kernel module is not loaded"
            }
            Some(Refused::NoWayBack) => {
                "no way back to its source leads by the device that it came by (reverse path filter), or its source is this host's own, or none that a host may have"
            }
            Some(Refused::NoPeer) => {
                "no WireGuard peer has its destination among its allowed IPs, or that peer has no endpoint"
            }
            Some(Refused::NoFlow) => {
                "Open vSwitch has no flow for it, and ovs-vswitchd, which it asks for one, is down or too busy"
            }
            Some(Refused::Port) => {
                "the port of Open vSwitch that it was to leave by takes less, and tells nobody, or is down"
            }
            _ => "no route to its destination",
        },
    }
}

fn malformed(about: &About<'_>) -> &'static str {
    match about.reason {
        IPV6_INPUT => "its headers are wrong, or IPv6 is off on the device that it came by",
        _ => "its headers are wrong",
    }
}

fn memory(about: &About<'_>) -> &'static str {
    match about.reason {
        "TCP_OFO_QUEUE_PRUNE" => {
            "its connection's buffer was full of segments that came before others which are missing"
        }
        "PROTO_MEM" => {
            "all memory of its protocol was used, or of TCP its socket's buffer was full: its program reads too slowly"
        }
        NO_FRAGMENTS => {
            "there is no room here for more fragments that wait for the rest of their packet, or it does not fit those that came before"
        }
        _ => "no memory for it",
    }
}

fn tcp_state(about: &About<'_>) -> &'static str {
    match about.reason {
        "TCP_ZEROWINDOW" | "TCP_OVERWINDOW" => {
            "it is more than the receiving socket has room for: its program reads too slowly, all memory of TCP was used, or the sender sends more than it may"
        }
        "TCP_MD5NOTFOUND" | "TCP_AONOTFOUND" => {
            "it has no TCP signature (MD5 or AO, as BGP uses them), and the receiver has a key for its sender"
        }
        "TCP_MD5UNEXPECTED" | "TCP_AOUNEXPECTED" => {
            "it has a TCP signature (MD5 or AO, as BGP uses them), and the receiver has no key for its sender"
        }
        "TCP_AOKEYNOTFOUND" => "its TCP signature (AO) names a key that the receiver does not have",
        "TCP_AUTH_HDR" => "its options for a TCP signature (MD5 or AO) are malformed, or there are two",
        reason if is_signed(reason) => {
            "its TCP signature (MD5 or AO, as BGP uses them) is wrong, as where the keys of both ends differ"
        }
        _ => "TCP did not expect it in the connection's state",
    }
}

fn queue(about: &About<'_>) -> &'static str {
    match about.reason {
        "CPU_BACKLOG" => "this processor's backlog was full",
        "SOCKET_RCVBUFF" => "the receiving socket's buffer was full: its program reads too slowly",
        UDP_SOCKET => {
            "the receiving socket's buffer was full, or its own filter, or a BPF program of its cgroup, refused it, or all memory of UDP was used"
        }
        "SOCKET_BACKLOG" => "the receiving socket was busy and its backlog was full",
        "TCP_LISTEN_OVERFLOW" => "the listening socket's queue was full: its program accepts too slowly",
        "NEIGH_QUEUEFULL" => "too many packets waited for the next hop's link address",
        "FULL_RING" => "the device's ring was full: who reads it is too slow",
        // Its queues are not looked at.
        _ if about.is_unseen_qdisc() => {
            "a queue was full, or one that shapes (tbf) or emulates (netem) dropped it"
        }
        _ => "a queue was full",
    }
}

fn ttl(about: &About<'_>) -> &'static str {
    match about.reason {
        "IPV6_NDISC_HOP_LIMIT" => {
            "it is for neighbours alone, and its hop limit says that it comes from further away"
        }
        "TCP_MINTTL" => "its TTL is below what the receiving program demands (IP_MINTTL)",
        _ => "its TTL or hop limit was used up",
    }
}
