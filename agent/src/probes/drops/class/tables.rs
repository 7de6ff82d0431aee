//! Reasons and functions, and what a packet that died for or in them is taken for.

use super::{Class, Verdict, benign, harmful};

pub(super) type Table = &'static [(Verdict, &'static [&'static str])];

/// Where a rule's own verdict frees a packet.
pub(super) const RULES: [&str; 6] =
    ["nft_do_chain", "ipt_do_table", "ip6t_do_table", "arpt_do_table", "ebt_do_table", "nf_hook_bpf"];

/// Where the pieces of a packet are freed together with it, or once they are copied (`skb_shared_info.frag_list`).
pub(super) const FREES_PIECES: [&str; 5] =
    ["skb_release_data", "__pskb_pull_tail", "___pskb_trim", "pskb_carve_inside_nonlinear", "skb_morph"];

/// Where a copy for a raw, ping or packet socket ends that does not want it or has no room, or that has been read; copies
/// for error queues and timestamps; and what a tunnel takes out of a message about its packet, to tell whoever is inside.
/// 5.10.262 to 7.2.12: every caller of the functions that free.
pub(super) const FREES_COPIES: [&str; 33] = [
    "raw_rcv", "raw_rcv_skb", "rawv6_rcv", "rawv6_rcv_skb", "ping_queue_rcv_skb", "__ping_queue_rcv_skb",
    "packet_rcv", "tpacket_rcv", "packet_rcv_fanout", "packet_rcv_spkt", "dev_queue_xmit_nit",
    "raw_icmp_error", "ping_err", "tcp_v4_err", "tcp_v6_err", "__udp4_lib_err", "__udp6_lib_err", "udp_err",
    "udpv6_err", "ip_recv_error", "ipv6_recv_error", "ipv6_recv_rxpmtu", "sock_recv_errqueue",
    "tcp_ack_tstamp", "skb_complete_tx_timestamp", "msg_zerocopy_realloc", "sock_zerocopy_alloc",
    "queue_userspace_packet", "queue_gso_packets", "bpf_clone_redirect", "ip4ip6_err", "ip6ip6_err",
    "ip6_err_gen_icmpv6_unreach",
];

/// Where a bridge frees what the port that it is for does not take (`should_deliver`), one inlined in the other.
pub(super) const FORWARDED_BY_BRIDGE: [&str; 4] =
    ["br_forward", "br_handle_frame_finish", "br_dev_xmit", "maybe_deliver"];

/// Where a bridge frees what has come in by one port and goes to no other.
pub(super) const AMONG_PORTS: [&str; 4] =
    ["br_forward", "br_handle_frame_finish", "maybe_deliver", "br_flood"];

/// Where the network layer takes a frame from a device, and frees what is for another station.
pub(super) const FROM_DEVICES: [&str; 4] = ["ip_rcv_core", "ip6_rcv_core", "ip_rcv", "ipv6_rcv"];

/// Where a tunnel's packet ends that no tunnel device takes.
pub(super) const TUNNELS: [&str; 9] = [
    "gre_rcv", "tunnel4_rcv", "tunnel64_rcv", "tunnelmpls4_rcv", "tunnel6_rcv", "tunnel46_rcv",
    "tunnelmpls6_rcv", "vxlan_rcv", "geneve_udp_encap_recv",
];

/// Where a device of IPsec (vti, xfrm) sends, and frees what no policy and state are for, if nothing else is known of it.
pub(super) const IPSEC_DEVICES: [&str; 6] =
    ["vti_tunnel_xmit", "vti_xmit", "vti6_tnl_xmit", "vti6_xmit", "xfrmi_xmit", "xfrmi_xmit2"];

/// Where a program hands over what becomes a packet of the network, which has no header yet.
pub(super) const FROM_PROGRAMS: [&str; 2] = ["tun_get_user", "tap_get_user"];

/// Where what the kernel itself sends to groups ends while a device is not ready yet: membership reports, router
/// solicitations, and what a bridge's snooping does not understand.
pub(super) const TRANSIENT: [&str; 19] = [
    "br_dev_xmit", "br_flood", "br_multicast_flood", "br_handle_frame_finish", "br_forward", "mld_newpack",
    "mld_sendpack", "igmpv3_newpack", "igmpv3_sendpack", "igmp6_send", "igmp_send_report", "ndisc_send_skb",
    "ip6_pkt_drop", "ip6_pkt_discard", "ip6_pkt_discard_out", "ip6_output", "ip6_finish_output2",
    "ip6_mc_input", "ip_mc_output",
];

/// Families whose buffers are no packets of the network: they pass between processes, or a machine and its virtual ones.
pub(super) const LOCAL: [&str; 16] = [
    "unix_", "netlink_", "nfnetlink_", "scm_", "pfkey_",
    // vsock: since 6.3 its packets are buffers like the network's, and it frees those that it has used in this way, each
    // answer to a connection among them. Not all of `vhost_`: what a virtual machine's network device drops is lost.
    "vsock_", "__vsock_", "virtio_transport_", "virtio_vsock_", "vhost_vsock_", "vhost_transport_",
    "vmci_transport_", // Bluetooth frees each event it has dealt with.
    "hci_", "l2cap_", "sco_", "rfcomm_",
];

/// Where a bridge frees what a port does not take, its own included. Later kernels give a reason there that says less.
pub(super) const BRIDGE_PORTS: [&str; 11] = [
    "br_handle_frame_finish", "br_forward", "br_dev_xmit", "maybe_deliver", "br_handle_frame", "br_flood",
    "br_multicast_flood", "br_pass_frame_up", "br_allowed_ingress", "__allowed_ingress", "br_handle_vlan",
];

/// UDP's receiving, where a full buffer and a socket's own filter free in one place.
pub(super) const UDP_SOCKET: &str = "SOCKET_RCVBUFF or SOCKET_FILTER";

/// IPv6's receiving, where a wrong header and IPv6 that is off free in one place.
pub(super) const IPV6_INPUT: &str = "IP_INHDR or IPV6DISABLED";

/// A fragment for which there is no room (`ip_find` and `fq_find` in `net/ipv4/ip_fragment.c`, `net/ipv6/reassembly.c`); no kernel gives a reason.
pub(super) const NO_FRAGMENTS: &str = "no room for fragments";

/// What a kernel with reasons calls what it frees there.
pub(super) const REASONS_BY_PLACE: &[(&str, &[&str])] = &[
    ("CPU_BACKLOG", &["enqueue_to_backlog", "netif_rx_internal"]),
    ("FULL_RING", &["tun_net_xmit"]),
    ("SOCKET_BACKLOG", &["tcp_add_backlog"]),
    ("SOCKET_RCVBUFF", &["__udp_enqueue_schedule_skb"]),
    (
        "QDISC_DROP",
        &[
            "kfree_skb_list", "kfree_skb_list_reason", "tcf_kfree_skb_list", "__tcf_kfree_skb_list",
            "__dev_xmit_skb",
        ],
    ),
    ("SOCKET_FILTER", &["sk_filter_trim_cap"]),
    ("TC_INGRESS", &["sch_handle_ingress"]),
    ("TC_EGRESS", &["sch_handle_egress"]),
    ("XDP", &["netif_receive_generic_xdp", "do_xdp_generic", "bpf_prog_run_generic_xdp"]),
    // Its queues' packets are freed elsewhere.
    ("TC_EGRESS", &["__dev_queue_xmit"]),
    (IPV6_INPUT, &["ip6_rcv_core", "ipv6_rcv"]),
    (NO_FRAGMENTS, &["ip_defrag", "ipv6_frag_rcv"]),
    (UDP_SOCKET, &["udp_queue_rcv_one_skb", "udpv6_queue_rcv_one_skb"]),
];

pub(super) const REASONS: Table = &[
    (harmful(Class::Mtu), &["PKT_TOO_BIG"]),
    (
        harmful(Class::Policy),
        &[
            "SOCKET_FILTER", "BPF_CGROUP_EGRESS", "XFRM_POLICY", "TC_EGRESS", "TC_INGRESS",
            "OVS_DROP_LAST_ACTION", "OVS_DROP_EXPLICIT", "OVS_DROP_EXPLICIT_WITH_ERROR",
            "OVS_DROP_ACTION_ERROR", "OVS_DROP_METER", "TC_RECLASSIFY_LOOP", "XDP", "SECURITY_HOOK",
            "TAP_FILTER", "TAP_TXFILTER", "PSP_INPUT", "PSP_OUTPUT",
        ],
    ),
    (harmful(Class::Netfilter), &["NETFILTER_DROP", "OVS_DROP_CONNTRACK"]),
    (harmful(Class::NoSocket), &["NO_SOCKET", "IP_NOPROTO"]),
    (harmful(Class::ReversePath), &["IP_RPFILTER"]),
    (harmful(Class::Ipv6Off), &["IPV6DISABLED"]),
    (harmful(Class::DeviceDown), &["DEV_READY"]),
    (harmful(Class::BridgePort), &["BRIDGE_INGRESS_STP_STATE"]),
    (
        harmful(Class::Routing),
        &[
            "IP_OUTNOROUTES", "IP_INNOROUTES", "IP_INADDRERRORS", "IP_LOCAL_SOURCE", "IP_INVALID_SOURCE",
            "IP_INVALID_DEST", "IP_LOCALNET", "NO_TX_TARGET", "VXLAN_VNI_NOT_FOUND", "TUNNEL_TXINFO",
        ],
    ),
    (harmful(Class::Ttl), &["OVS_DROP_IP_TTL", "TCP_MINTTL", "IPV6_NDISC_HOP_LIMIT"]),
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
            "IP_INHDR", "PKT_TOO_SMALL", "HDR_TRUNC", "INVALID_PROTO", "SKB_GSO_SEG", "DEV_HDR",
            "UNICAST_IN_L2_MULTICAST", "IPV6_BAD_EXTHDR", "IPV6_NDISC_FRAG", "IPV6_NDISC_BAD_CODE",
            "IPV6_NDISC_BAD_OPTIONS", "VXLAN_INVALID_HDR", "MAC_INVALID_SOURCE", "IP_TUNNEL_ECN",
            "TC_COOKIE_ERROR",
        ],
    ),
    (harmful(Class::Checksum), &["TCP_CSUM", "UDP_CSUM", "IP_CSUM", "ICMP_CSUM", "SKB_CSUM"]),
    (harmful(Class::Fragment), &["FRAG_REASM_TIMEOUT", "FRAG_TOO_FAR"]),
    // The same bytes have come before.
    (benign(Class::Fragment), &["DUP_FRAG"]),
    (harmful(Class::Memory), &["PROTO_MEM", "NOMEM", "SKB_UCOPY_FAULT", "PFMEMALLOC", "TCP_OFO_QUEUE_PRUNE"]),
    (harmful(Class::NeighbourTable), &["NEIGH_CREATEFAIL"]),
    (harmful(Class::Neighbour), &["NEIGH_FAILED", "NEIGH_DEAD", "NEIGH_HH_FILLFAIL"]),
    // What TCP has seen before or has no more use for: it comes with every retransmission and every close.
    (
        benign(Class::TcpState),
        &[
            "TCP_OLD_DATA", "TCP_OFOMERGE", "TCP_OLD_SEQUENCE", "TCP_OLD_ACK", "TCP_TOO_OLD_ACK",
            // Up to 6.1 what has come before is called this.
            "TCP_INVALID_SEQUENCE", "TCP_RFC7323_PAWS", "TCP_RFC7323_PAWS_ACK", "TCP_RFC7323_TW_PAWS",
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

pub(super) const PLACES: Table = &[
    // ip_fragment: DF is set (with ICMP). The others: not `is_skb_forwardable`, and no ICMP is sent.
    (
        harmful(Class::Mtu),
        &[
            "ip_fragment", "ip_do_fragment", "ip6_fragment", "__dev_forward_skb", "__dev_forward_skb2",
            "____dev_forward_skb", "dev_forward_skb", "dev_forward_skb_nomtu", "br_dev_queue_push_xmit",
            // A bridge that shows its packets to netfilter, as Kubernetes asks for (br_netfilter, bridge conntrack).
            "br_nf_dev_queue_xmit", "br_nf_ip_fragment", "nf_br_ip_fragment",
        ],
    ),
    (
        harmful(Class::Policy),
        &[
            "nft_do_chain", "ipt_do_table", "ip6t_do_table", "arpt_do_table", "ebt_do_table", "nf_hook_bpf",
            "sk_filter_trim_cap", "tcf_classify", "sch_handle_ingress", "sch_handle_egress",
            "netif_receive_generic_xdp", "do_xdp_generic", "bpf_prog_run_generic_xdp", "xfrm_input",
        ],
    ),
    (
        harmful(Class::Netfilter),
        &["nf_hook_slow", "nf_queue", "nf_reinject", "nf_conntrack_in", "nf_confirm", "nf_nat_inet_fn"],
    ),
    // `should_deliver` and the port's state, VLAN and lock (net/bridge/br_input.c, br_forward.c).
    (harmful(Class::BridgePort), &BRIDGE_PORTS),
    (harmful(Class::Ipv6Off), &["ip6_output"]),
    // Who reads it computes it (`csum_copy_err`); the other packet that is freed here is one whose reader gave a bad address.
    (harmful(Class::Checksum), &["udp_recvmsg", "udpv6_recvmsg"]),
    (harmful(Class::Memory), &["ip_defrag", "ipv6_frag_rcv"]),
    // BPDUs that a bridge has dealt with, protocols that nobody here speaks, a neighbour's question that was answered.
    (benign(Class::Other), &["stp_pdu_rcv", "llc_rcv", "mrp_rcv", "neigh_proxy_process"]),
    // Fragments whose packet never became whole.
    (
        harmful(Class::Fragment),
        &[
            "ip_expire", "ip6_frag_expire", "ip6frag_expire_frag_queue", "nf_ct_frag6_expire",
            "inet_frag_rbtree_purge",
        ],
    ),
    // The original after it was cut into segments, what never held a packet, a report that has been read.
    (
        benign(Class::Copy),
        &[
            "xfrm_output_gso", "napi_get_frags_check", "netif_napi_add_weight",
            "netif_napi_add_weight_locked", "__mld_query_work", "__mld_report_work", "mld_query_work",
            "mld_report_work",
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
            "dst_discard", "dst_discard_out", "vxlan_xmit", "vxlan_xmit_one", "wg_xmit",
            "ovs_dp_process_packet", "ovs_vport_send", "do_execute_actions",
        ],
    ),
    (harmful(Class::Routing), &TUNNELS),
    (harmful(Class::Neighbour), &["ipv4_link_failure", "__neigh_event_send"]),
    (
        harmful(Class::Queue),
        &[
            "__dev_queue_xmit", "__dev_xmit_skb", "enqueue_to_backlog", "netif_rx_internal", "tun_net_xmit",
            "kfree_skb_list", "kfree_skb_list_reason", "tcf_kfree_skb_list", "__tcf_kfree_skb_list",
            "__udp_enqueue_schedule_skb", "udp_queue_rcv_one_skb", "udpv6_queue_rcv_one_skb",
            "tcp_add_backlog", "veth_xmit",
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
            "__sk_destruct", "tun_queue_purge", "__tun_detach", "tun_attach", "tap_sock_destruct",
            "veth_napi_del_range", "__veth_napi_enable_range", "gro_cells_destroy", "neigh_flush_one",
            "pneigh_queue_purge", "macvlan_port_destroy", "ipvlan_uninit", "ip_mc_destroy_dev",
            "inet6_destroy_sock", "inet6_cleanup_sock", "skb_errqueue_purge",
        ],
    ),
];
