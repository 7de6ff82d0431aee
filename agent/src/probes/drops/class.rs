//! What a drop means: the kernel's reason, and where it gives none the function the packet died in, as a class.

use crate::probe::Level;

/// The cause of a drop, in an operator's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Larger than the next device or route takes.
    Mtu,
    /// A rule refused it: netfilter, tc, XDP, a cgroup or socket filter, IPsec policy, LSM.
    Policy,
    /// Nobody listens.
    NoSocket,
    /// No route, or the reverse path says that the source is not where it came from.
    Routing,
    /// TTL or hop limit used up.
    Ttl,
    /// A queue was full: qdisc, device, backlog, socket, listener.
    Queue,
    /// Headers or checksum are wrong.
    Malformed,
    /// No memory for it, or the protocol's memory limit was reached.
    Memory,
    /// TCP did not want it in the connection's state.
    TcpState,
    /// The next hop's link address is unknown.
    Neighbour,
    /// Left over in a queue of something that was closed.
    Teardown,
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

/// What was sent to nobody.
pub const NOBODY: Verdict = benign(Class::Other);

impl Verdict {
    /// The same, if it was on its way out by a bridge without ports: that no port took it, or that such a bridge's queue
    /// is closed, harms nobody. A rule that refused it, or a neighbour that does not answer, is told as ever.
    #[must_use]
    pub fn by_portless_bridge(self, reason: &str) -> Self {
        match self.class {
            Class::Other | Class::Queue => NOBODY,
            Class::Routing if reason == "NO_TX_TARGET" => NOBODY,
            _ => self,
        }
    }
}

impl Class {
    /// Every class, in the order of its declaration.
    pub const ALL: [Self; 13] = [
        Self::Mtu,
        Self::Policy,
        Self::NoSocket,
        Self::Routing,
        Self::Ttl,
        Self::Queue,
        Self::Malformed,
        Self::Memory,
        Self::TcpState,
        Self::Neighbour,
        Self::Teardown,
        Self::LocalSocket,
        Self::Other,
    ];

    /// Its name in metrics, JSON and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mtu => "mtu",
            Self::Policy => "policy",
            Self::NoSocket => "no_socket",
            Self::Routing => "routing",
            Self::Ttl => "ttl",
            Self::Queue => "queue",
            Self::Malformed => "malformed",
            Self::Memory => "memory",
            Self::TcpState => "tcp_state",
            Self::Neighbour => "neighbour",
            Self::Teardown => "teardown",
            Self::LocalSocket => "local_socket",
            Self::Other => "other",
        }
    }

    /// What it means, as the end of a sentence.
    #[must_use]
    pub const fn means(self) -> &'static str {
        match self {
            Self::Mtu => "larger than the next device or route takes",
            Self::Policy => "a firewall rule or network policy refused it",
            Self::NoSocket => "nobody listens there",
            Self::Routing => "no route to its destination, or its source is not where it came from",
            Self::Ttl => "its TTL or hop limit was used up",
            Self::Queue => "a queue was full",
            Self::Malformed => "its headers or checksum are wrong",
            Self::Memory => "no memory for it",
            Self::TcpState => "TCP did not expect it in the connection's state",
            Self::Neighbour => "the next hop does not answer ARP or neighbour discovery",
            Self::Teardown => "left in the queue of something that was closed",
            Self::LocalSocket => "a buffer of a local socket, not a packet of the network",
            Self::Other => "the kernel gives no cause",
        }
    }
}

impl Harm {
    /// Its name in metrics, JSON and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Harmful => "harmful",
            Self::Benign => "benign",
        }
    }
}

/// What a drop for `reason` (without `SKB_DROP_REASON_`) in `function` (without the compiler's suffixes) means.
///
/// Reasons: include/net/dropreason-core.h, 5.15.y to 7.2. Functions: where those kernels free without a reason, or
/// with one that says too little.
#[must_use]
pub fn classify(reason: &str, function: &str) -> Verdict {
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
        // What comes to a connection in TIME_WAIT ends here once it is answered: every FIN to one who closed first.
        ("NOT_SPECIFIED", "tcp_v4_rcv" | "tcp_v6_rcv") => benign(Class::TcpState),
        // ip_error answers for "no route", "prohibited" and "not forwarding" alike.
        ("IP_INADDRERRORS" | "NOT_SPECIFIED", "ip_error") => harmful(Class::Routing),
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

/// Families whose buffers are no packets of the network: they pass between processes, or a machine and its virtual ones.
const LOCAL: [&str; 16] = [
    "unix_", "netlink_", "nfnetlink_", "scm_", "pfkey_",
    // vsock: since 6.3 its packets are buffers like the network's, and it frees those that it has used in this way, each
    // answer to a connection among them. Not all of `vhost_`: what a virtual machine's network device drops is lost.
    "vsock_", "__vsock_", "virtio_transport_", "virtio_vsock_", "vhost_vsock_", "vhost_transport_",
    "vmci_transport_", // Bluetooth frees each event it has dealt with.
    "hci_", "l2cap_", "sco_", "rfcomm_",
];

type Table = &'static [(Verdict, &'static [&'static str])];

fn look_up(table: Table, name: &str) -> Option<Verdict> {
    table.iter().find(|(_, names)| names.contains(&name)).map(|(verdict, _)| *verdict)
}

const REASONS: Table = &[
    (harmful(Class::Mtu), &["PKT_TOO_BIG"]),
    (
        harmful(Class::Policy),
        &[
            "NETFILTER_DROP", "SOCKET_FILTER", "BPF_CGROUP_EGRESS", "XFRM_POLICY", "TC_EGRESS", "TC_INGRESS",
            "XDP", "SECURITY_HOOK", "TAP_FILTER", "TAP_TXFILTER", "PSP_INPUT", "PSP_OUTPUT",
        ],
    ),
    (harmful(Class::NoSocket), &["NO_SOCKET", "IP_NOPROTO"]),
    (
        harmful(Class::Routing),
        &[
            "IP_RPFILTER", "IP_OUTNOROUTES", "IP_INNOROUTES", "IP_INADDRERRORS", "IP_LOCAL_SOURCE",
            "IP_INVALID_SOURCE", "IP_INVALID_DEST", "IP_LOCALNET", "IPV6DISABLED", "NO_TX_TARGET",
            "VXLAN_VNI_NOT_FOUND", "TUNNEL_TXINFO", "BRIDGE_INGRESS_STP_STATE",
        ],
    ),
    (harmful(Class::Ttl), &["TCP_MINTTL", "IPV6_NDISC_HOP_LIMIT"]),
    (
        harmful(Class::Queue),
        &[
            "CAKE_FLOOD", "FQ_BAND_LIMIT", "FQ_HORIZON_LIMIT", "FQ_FLOW_LIMIT", "DUALPI2_STEP_DROP",
            "CPU_BACKLOG", "FULL_RING", "SOCKET_RCVBUFF", "SOCKET_BACKLOG", "TCP_LISTEN_OVERFLOW",
            "NEIGH_QUEUEFULL", "PACKET_SOCK_ERROR",
        ],
    ),
    (
        harmful(Class::Malformed),
        &[
            "TCP_CSUM", "UDP_CSUM", "IP_CSUM", "ICMP_CSUM", "SKB_CSUM", "IP_INHDR", "PKT_TOO_SMALL",
            "HDR_TRUNC", "INVALID_PROTO", "SKB_GSO_SEG", "DEV_HDR", "UNICAST_IN_L2_MULTICAST",
            "IPV6_BAD_EXTHDR", "IPV6_NDISC_FRAG", "IPV6_NDISC_BAD_CODE", "IPV6_NDISC_BAD_OPTIONS",
            "VXLAN_INVALID_HDR", "MAC_INVALID_SOURCE", "IP_TUNNEL_ECN", "DUP_FRAG", "FRAG_REASM_TIMEOUT",
            "FRAG_TOO_FAR", "TC_COOKIE_ERROR",
        ],
    ),
    (harmful(Class::Memory), &["PROTO_MEM", "NOMEM", "SKB_UCOPY_FAULT", "PFMEMALLOC", "TCP_OFO_QUEUE_PRUNE"]),
    (harmful(Class::Neighbour), &["NEIGH_CREATEFAIL", "NEIGH_FAILED", "NEIGH_DEAD", "NEIGH_HH_FILLFAIL"]),
    // What TCP has seen before or has no more use for: it comes with every retransmission and every close.
    (
        benign(Class::TcpState),
        &[
            "TCP_OLD_DATA", "TCP_OFOMERGE", "TCP_OLD_SEQUENCE", "TCP_OLD_ACK", "TCP_TOO_OLD_ACK",
            "TCP_RFC7323_PAWS_ACK", "TCP_RFC7323_TW_PAWS",
        ],
    ),
    (
        benign(Class::Teardown),
        &["QUEUE_PURGE", "SOCKET_CLOSE", "TCP_CLOSE", "TCP_RESET", "TCP_ABORT_ON_DATA"],
    ),
    (benign(Class::LocalSocket), &["UNIX_DISCONNECT", "UNIX_SKIP_OOB"]),
    // Another host's frame on a shared segment, a protocol this host does not speak (LLDP, STP), a duplicate.
    (
        benign(Class::Other),
        &[
            "OTHERHOST", "UNHANDLED_PROTO", "IPV6_NDISC_NS_OTHERHOST", "MAC_IEEE_MAC_CONTROL",
            "ARP_PVLAN_DISABLE",
        ],
    ),
];

const PLACES: Table = &[
    // ip_fragment: DF is set (with ICMP). The others: not `is_skb_forwardable`, and no ICMP is sent.
    (
        harmful(Class::Mtu),
        &[
            "ip_fragment", "ip_do_fragment", "ip6_fragment", "__dev_forward_skb", "__dev_forward_skb2",
            "____dev_forward_skb", "dev_forward_skb", "dev_forward_skb_nomtu", "veth_xmit",
            "br_dev_queue_push_xmit",
            // A bridge that shows its packets to netfilter, as Kubernetes asks for (br_netfilter, bridge conntrack).
            "br_nf_dev_queue_xmit", "br_nf_ip_fragment", "nf_br_ip_fragment",
        ],
    ),
    (
        harmful(Class::Policy),
        &[
            "nf_hook_slow", "nft_do_chain", "ipt_do_table", "ip6t_do_table", "nf_queue",
            "sk_filter_trim_cap", "tcf_classify", "sch_handle_ingress", "sch_handle_egress",
            "bpf_prog_run_generic_xdp",
        ],
    ),
    (
        benign(Class::NoSocket),
        &[
            "icmp_rcv", "icmpv6_rcv", "ping_rcv", "raw_rcv", "ip6_mc_input", "ip_mr_input", "igmp_rcv",
            "igmp6_event_query", "__udp4_lib_mcast_deliver", "__udp6_lib_mcast_deliver",
        ],
    ),
    (
        harmful(Class::NoSocket),
        &[
            "tcp_v4_rcv", "tcp_v6_rcv", "__udp4_lib_rcv", "__udp6_lib_rcv", "udp_rcv", "udpv6_rcv",
            "udp_unicast_rcv_skb", "sctp_rcv", "ip_protocol_deliver_rcu", "ip6_protocol_deliver_rcu",
        ],
    ),
    (
        harmful(Class::Routing),
        &[
            "ip_error", "ip_rcv_finish_core", "ip6_pkt_drop", "ip6_pkt_discard", "ip6_pkt_discard_out",
            "ip6_pkt_prohibit", "ip6_pkt_prohibit_out", "__ip_queue_xmit", "ip_route_me_harder",
            "dst_discard", "dst_discard_out", "vxlan_xmit", "vxlan_xmit_one",
        ],
    ),
    (
        harmful(Class::Neighbour),
        &["ip_finish_output2", "ip6_finish_output2", "ipv4_link_failure", "__neigh_event_send"],
    ),
    (
        harmful(Class::Queue),
        &[
            "__dev_queue_xmit", "__dev_xmit_skb", "enqueue_to_backlog", "netif_rx_internal", "tun_net_xmit",
            "kfree_skb_list", "kfree_skb_list_reason", "tcf_kfree_skb_list", "__tcf_kfree_skb_list",
            "__udp_enqueue_schedule_skb", "udp_queue_rcv_one_skb", "udpv6_queue_rcv_one_skb",
            "tcp_add_backlog", "packet_rcv", "tpacket_rcv",
        ],
    ),
    (
        harmful(Class::Malformed),
        &[
            "ip_rcv_core", "ip6_rcv_core", "ip_rcv", "ipv6_rcv", "ip_options_compile", "ipv6_destopt_rcv",
            "ip_tunnel_rcv", "arp_rcv", "arp_process", "ndisc_rcv",
        ],
    ),
    (
        benign(Class::Teardown),
        &[
            "skb_queue_purge", "skb_queue_purge_reason", "__skb_queue_purge", "skb_rbtree_purge",
            "inet_sock_destruct", "sk_stream_kill_queues", "tcp_disconnect", "tcp_write_queue_purge",
            "packet_release", "pfifo_fast_reset", "qdisc_reset", "qdisc_reset_queue", "dev_deactivate_queue",
            "flush_backlog", "neigh_destroy", "neigh_flush_dev", "__kfree_skb", "rtnl_kfree_skbs",
            "__rtnl_unlock", "veth_close", "tun_chr_close", "udp_destruct_common", "sk_destruct",
            "__sk_destruct",
        ],
    ),
];

#[cfg(test)]
mod tests;
