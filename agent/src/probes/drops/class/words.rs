//! What a drop's class means, and what cures it, in an operator's words.

use std::borrow::Cow;
use std::net::IpAddr;

use agent_common::quote::Tunnel;

use super::Class;
use super::tables::{IPSEC_DEVICES, TUNNELS};
use crate::probe::row::device_sysctl;
use crate::probes::drops::evidence::Evidence;

mod proven;

/// What is known of a drop beside its class. Without it the words are those for all drops of the class.
#[derive(Clone, Copy, Debug, Default)]
pub struct About<'a> {
    /// The kernel's reason, without `SKB_DROP_REASON_`.
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
    /// By its ports it is an answer over UDP, to a port that a program asks from.
    pub is_answer: bool,
    /// What else speaks for the cause.
    pub evidence: Option<&'a Evidence>,
}

/// What refuses a packet, by the place where it died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Routing: one of its addresses may not be seen there.
    Martian,
    /// A route or a rule that refuses packets.
    ByRoute,
    /// No route leads there, or one that refuses packets does.
    PerhapsByRoute,
    /// A blackhole route took it, or its route's device has just gone.
    Discarded,
    /// No tunnel device takes what has come in a tunnel.
    NoTunnel,
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
    fn device(&self) -> &str {
        self.device.unwrap_or("DEVICE")
    }

    /// `ipv4` or `ipv6`, as sysctls have it.
    const fn family(&self) -> &'static str {
        if self.ip_version == 6 { "ipv6" } else { "ipv4" }
    }
}

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
            Self::Netfilter => {
                "netfilter refused it: a rule, or conntrack or NAT themselves (a full table, no free port)".into()
            }
            Self::NoSocket if about.is_answer => {
                "nobody waits there any more: by its ports it is an answer, and the socket that asked is closed".into()
            }
            Self::NoSocket => "nobody listens there".into(),
            Self::Routing => routing(about).into(),
            Self::ReversePath => "no way back to its source leads by the device that it came by (reverse path filter)".into(),
            Self::ForwardingOff => format!("it is for another host, and forwarding is off{on}").into(),
            Self::Ttl => "its TTL or hop limit was used up".into(),
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
            Self::Malformed => "its headers are wrong".into(),
            Self::Checksum => match about.tunnel {
                Some((tunnel, from)) => format!("the checksum of {}'s own header is wrong: checksum offload on node {from}, or what changes packets on the way", tunnel.name()).into(),
                None => "its checksum is wrong".into(),
            },
            Self::Fragment => "other fragments of its packet never came".into(),
            Self::Memory => "no memory for it".into(),
            Self::TcpState => "TCP did not expect it in the connection's state".into(),
            Self::Neighbour if about.refused == Some(Refused::NoHandshake) => {
                "its WireGuard peer does not answer the handshake".into()
            }
            Self::Neighbour => "the next hop does not answer ARP or neighbour discovery".into(),
            Self::NeighbourTable => "the neighbour table has no room for the next hop".into(),
            Self::Teardown => "left in the queue of something that was closed".into(),
            Self::Copy => "a copy or a remainder: the packet itself went on".into(),
            Self::LocalSocket => "a buffer of a local socket, not a packet of the network".into(),
            Self::Other => "the kernel gives no cause".into(),
        }
    }

    /// What an operator can do about it; `None` where nobody misses the packet.
    #[must_use]
    pub fn fix(self, about: &About<'_>) -> Option<Cow<'static, str>> {
        let (device, family) = (about.device(), about.family());
        if let Some(evidence) = about.evidence {
            return Some(proven::fix(evidence, about).into());
        }
        Some(match self {
            Self::Mtu => "`r2c-agent trace mtu` names the device and the size that fits; set the sender's MTU to it".into(),
            Self::Policy => policy_fix(about),
            Self::Netfilter => {
                "`sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max` and `conntrack -S` tell whether the table is full or ports are out; else find the rule (`nft list ruleset`, `iptables -vnL`)".into()
            }
            Self::NoSocket if about.is_answer => {
                "see why the program that asked did not wait for it (its timeout, its end), or why the answer took so long".into()
            }
            Self::NoSocket => "start what should listen there, or mend the address or port that the sender uses".into(),
            Self::Routing => routing_fix(about),
            Self::ReversePath => format!(
                "route the source's address back by {device}; if its route leads by another device on purpose, `sysctl -w {}=2`",
                device_sysctl("ipv4", device, "rp_filter")
            )
            .into(),
            Self::ForwardingOff if about.ip_version == 6 => "`sysctl -w net.ipv6.conf.all.forwarding=1`".into(),
            Self::ForwardingOff => format!(
                "`sysctl -w net.ipv4.ip_forward=1`, or if that is on, `sysctl -w {}=1`, in the network namespace of {device}",
                device_sysctl("ipv4", device, "forwarding")
            )
            .into(),
            Self::Ttl => {
                "raise the sender's TTL (of a cloud's metadata service: the instance's hop limit to 2), or break the routing loop that `tracepath` shows".into()
            }
            Self::Queue => queue_fix(about),
            Self::DeviceDown => format!("`ip link set {device} up`").into(),
            Self::NoCarrier => {
                format!("bring up the other end of {device} (`ip -d link show {device}` tells what it is)").into()
            }
            Self::Ipv6Off if about.mtu != 0 && about.mtu < 1280 => {
                format!("`ip link set {device} mtu 1280`, or more").into()
            }
            Self::Ipv6Off => format!("`sysctl -w {}=0`", device_sysctl("ipv6", device, "disable_ipv6")).into(),
            Self::BridgePort => format!("`bridge -d link show dev {device}` and `bridge vlan show` tell why").into(),
            Self::Hairpin => {
                format!("`bridge link set dev {device} hairpin on` (CNI bridge: hairpinMode; kubelet: hairpinMode)").into()
            }
            Self::Malformed => "capture it (`tcpdump -vv`), and mend what makes it".into(),
            Self::Checksum if about.tunnel.is_some() => tunnel_checksum_fix(about),
            Self::Checksum => {
                "switch checksum offload off on the device that sends it (`ethtool -K DEVICE tx off`; of a tunnel, its own device), or mend what changes packets on the way".into()
            }
            Self::Fragment => {
                "let fragments pass on the way (firewalls and load balancers that look at ports drop all but the first), or send what fits the path".into()
            }
            Self::Memory => "`sysctl net.ipv4.tcp_mem net.ipv4.udp_mem` and the memory of node and pod tell which limit".into(),
            Self::TcpState => {
                "see whether one end has forgotten the connection (a restart, an idle timeout on the way): `ss -tei`".into()
            }
            Self::Neighbour if about.refused == Some(Refused::NoHandshake) => format!(
                "`wg show {device}` tells the peer's endpoint and key: both ends need each other's, and UDP must pass between them"
            )
            .into(),
            Self::Neighbour => {
                format!("see that the next hop is up and has that address: `ip neigh show dev {device}`").into()
            }
            Self::NeighbourTable => {
                format!("raise `net.{family}.neigh.default.gc_thresh3` (and gc_thresh2) above what `ip neigh | wc -l` shows").into()
            }
            Self::Other => {
                format!("see what else tells of it: `ip -s -s link show {device}`, `nstat`, `dmesg`").into()
            }
            Self::Teardown | Self::Copy | Self::LocalSocket => return None,
        })
    }
}

fn tunnel_checksum_fix(about: &About<'_>) -> Cow<'static, str> {
    let Some((tunnel, from)) = about.tunnel else { return Cow::default() };
    format!(
        "on node {from} let no device fill in the checksum: `ethtool -K DEVICE tx-checksum-ip-generic off` of its {} device (and `ethtool -K DEVICE tx off` of the device below)",
        tunnel.name()
    )
    .into()
}

fn policy(about: &About<'_>) -> &'static str {
    match about.reason {
        "SOCKET_FILTER" => "the receiving socket's own filter refused it",
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

fn policy_fix(about: &About<'_>) -> Cow<'static, str> {
    let device = about.device();
    match about.reason {
        "SOCKET_FILTER" => "mend the filter that the receiving program attached (SO_ATTACH_FILTER, SO_ATTACH_BPF)".into(),
        "BPF_CGROUP_EGRESS" => "`bpftool cgroup tree` names the program".into(),
        "TC_INGRESS" => format!("`tc filter show dev {device} ingress` and `bpftool net show dev {device}` name the filter").into(),
        "TC_EGRESS" => format!("`tc filter show dev {device} egress` and `bpftool net show dev {device}` name the filter").into(),
        "TC_RECLASSIFY_LOOP" => format!("`tc qdisc show dev {device}`, `tc filter show dev {device}` and the same with `ingress` and `egress` show what reclassifies or redirects it").into(),
        "XDP" => format!("`bpftool net show dev {device}` names the program").into(),
        "XFRM_POLICY" => "`ip xfrm policy` shows what must be encrypted, `ip xfrm state` whether there is a key for it".into(),
        "OVS_DROP_METER" => "`ovs-ofctl -O OpenFlow13 meter-stats BRIDGE` shows which; raise its rate".into(),
        reason if reason.starts_with("OVS_DROP_") => {
            "`ovs-dpctl dump-flows` shows the flow, `ovs-appctl ofproto/trace` and the plugin's policies why it is there".into()
        }
        "SECURITY_HOOK" => "the module's audit log (`ausearch -m avc`, `dmesg`) names the rule".into(),
        "PSP_INPUT" | "PSP_OUTPUT" => "set up PSP at both ends of the connection, or at none".into(),
        _ if about.refused == Some(Refused::NoPolicy) => format!(
            "see that `ip xfrm policy` (dir out) and `ip xfrm state` have one for it, with the okey (vti) as mark or the if_id (xfrm) that `ip -d link show {device}` tells; the key exchange or the network plugin sets them up; `cat /proc/net/xfrm_stat` there counts each cause"
        )
        .into(),
        _ if about.refused == Some(Refused::Ipsec) => {
            "give both ends the same state (`ip xfrm state`; what sets it up is the key exchange or the network plugin); `cat /proc/net/xfrm_stat` there counts each cause".into()
        }
        _ => "find the rule (`nft list ruleset`, `iptables -vnL`, NetworkPolicies of both pods) and let it pass".into(),
    }
}

fn routing(about: &About<'_>) -> &'static str {
    match about.reason {
        "IP_LOCAL_SOURCE" => "its source is one of this host's own addresses",
        "IP_INVALID_SOURCE" | "IP_INVALID_DEST" | "IP_LOCALNET" | "IP_INADDRERRORS" => {
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
            Some(Refused::PerhapsByRoute) => {
                "no route to its destination, or one that refuses it (blackhole, prohibit, unreachable)"
            }
            Some(Refused::Discarded) => "a blackhole route took it, or its route's device has just gone",
            Some(Refused::NoTunnel) => {
                "no tunnel device here takes it: its key, VNI or addresses are those of none"
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

fn routing_fix(about: &About<'_>) -> Cow<'static, str> {
    let device = about.device();
    match about.reason {
        "IP_LOCAL_SOURCE" => "see whether another host has the same address".into(),
        "IP_INVALID_SOURCE" | "IP_INVALID_DEST" | "IP_LOCALNET" | "IP_INADDRERRORS" => {
            "mend the address that its sender uses".into()
        }
        "VXLAN_VNI_NOT_FOUND" => "give both ends the same VNI (`ip -d link show type vxlan`)".into(),
        "TUNNEL_TXINFO" | "NO_TX_TARGET" => format!(
            "`bridge fdb show dev {device}` and `ip route` tell what it knows; the network plugin writes them"
        )
        .into(),
        _ => match about.refused {
            Some(Refused::Martian) => {
                "see whether its sender has the same address as this node (`ip address`), or forges one".into()
            }
            Some(Refused::ByRoute | Refused::Discarded) => {
                "find it (`ip rule`, `ip route show table all | grep -E 'blackhole|prohibit|unreachable'`) and take it away; where the network plugin keeps it for the node's own pods, none has that address any more: mend who sends there".into()
            }
            Some(Refused::NoTunnel) => {
                "let both ends of the tunnel agree: `ip -d link show` tells key, VNI, local and remote of each".into()
            }
            Some(Refused::NoPeer) => format!(
                "give the peer that leads there its addresses as allowed IPs, and an endpoint: `wg show {device}`"
            )
            .into(),
            Some(Refused::NoFlow) => {
                "see that ovs-vswitchd runs and keeps up: `ovs-appctl upcall/show`, and `lost` in `ovs-dpctl show`".into()
            }
            Some(Refused::Port) => {
                "`dmesg` names a port that takes less (dropped over-mtu packet), and both sizes: give all ports and who sends through them one MTU; `ip link` shows a port that is down".into()
            }
            _ => {
                "add the route (`ip route get ADDRESS` tells what there is)".into()
            }
        },
    }
}

fn queue(about: &About<'_>) -> &'static str {
    match about.reason {
        "CPU_BACKLOG" => "this processor's backlog was full",
        "SOCKET_RCVBUFF" => "the receiving socket's buffer was full: its program reads too slowly",
        "SOCKET_BACKLOG" => "the receiving socket was busy and its backlog was full",
        "TCP_LISTEN_OVERFLOW" => "the listening socket's queue was full: its program accepts too slowly",
        "NEIGH_QUEUEFULL" => "too many packets waited for the next hop's link address",
        "FULL_RING" => "the device's ring was full: who reads it is too slow",
        _ => "a queue was full",
    }
}

fn queue_fix(about: &About<'_>) -> Cow<'static, str> {
    let device = about.device();
    match about.reason {
        "CPU_BACKLOG" => "raise `net.core.netdev_max_backlog`, or spread receiving over more processors (RPS)".into(),
        "SOCKET_RCVBUFF" => "make the program read faster, or give its socket a larger buffer (`net.core.rmem_max`, SO_RCVBUF)".into(),
        "SOCKET_BACKLOG" => "make the program read faster; `net.core.rmem_max` bounds the backlog as well".into(),
        "TCP_LISTEN_OVERFLOW" => "make the program accept faster, or raise its listen() backlog and `net.core.somaxconn`".into(),
        "NEIGH_QUEUEFULL" => format!("see that the next hop answers: `ip neigh show dev {device}`").into(),
        _ => format!("send less, or give it a larger limit: `tc -s qdisc show dev {device}`, `ip -s link show {device}`").into(),
    }
}
