//! Reasons and places of kernels from 5.10 to 7.2, and what they are taken for.

use super::*;

mod bridge;
mod whole;

/// What it means where nothing else is known.
fn judged(reason: &str, function: &str) -> Verdict {
    judge(reason, function, 0)
}

#[test]
fn a_reason_wins_over_the_place_and_the_place_explains_silence() {
    assert_eq!(judged("NETFILTER_DROP", "nft_do_chain"), harmful(Class::Policy));
    assert_eq!(judged("NOT_SPECIFIED", "ip_fragment"), harmful(Class::Mtu));
    assert_eq!(judged("NOT_SPECIFIED", "never_heard_of"), harmful(Class::Other));
}

/// What a release adds is of its family until a table here says more.
#[test]
fn what_is_new_belongs_to_its_family() {
    for (reason, function, class) in [
        ("TCP_NEVER_HEARD_OF", "", Class::TcpState),
        ("QDISC_NEVER_HEARD_OF", "", Class::Queue),
        ("", "tcp_never_heard_of", Class::TcpState),
        ("", "neigh_never_heard_of", Class::Neighbour),
        ("", "arp_never_heard_of", Class::Neighbour),
        ("", "ndisc_never_heard_of", Class::Neighbour),
        ("NOT_SPECIFIED", "never_heard_of_enqueue", Class::Queue),
        ("NEVER_TCP_", "enqueue_never_heard_of", Class::Other),
    ] {
        assert_eq!(judged(reason, function), harmful(class), "{reason} in {function}");
    }
}

#[test]
fn only_a_rules_own_place_is_policy() {
    for place in ["nft_do_chain", "ipt_do_table", "ip6t_do_table", "ebt_do_table"] {
        for reason in ["", "NOT_SPECIFIED", "NETFILTER_DROP"] {
            assert_eq!(judged(reason, place), harmful(Class::Policy), "{reason} in {place}");
        }
    }
    // A full table, a port that is taken: conntrack and NAT drop in the same place as a rule.
    for place in ["nf_hook_slow", "nf_conntrack_in", ""] {
        assert_eq!(judged("NETFILTER_DROP", place), harmful(Class::Netfilter), "{place}");
    }
    assert_eq!(judged("", "nf_hook_slow"), harmful(Class::Netfilter), "kernels without reasons");
}

#[test]
fn one_reason_may_mean_two_things_by_place() {
    assert_eq!(judged("IP_INHDR", "ip_forward"), harmful(Class::Ttl));
    assert_eq!(judged("IP_INHDR", "ip_rcv_core"), harmful(Class::Malformed));
    assert_eq!(judged("NO_SOCKET", "icmp_rcv"), benign(Class::NoSocket));
    assert_eq!(judged("NO_SOCKET", "tcp_v4_rcv"), harmful(Class::NoSocket));
    assert_eq!(judged("NOT_SPECIFIED", "tcp_v4_rcv"), benign(Class::TcpState));
    assert_eq!(judged("", "tcp_v4_rcv"), harmful(Class::NoSocket), "kernels without reasons");
    assert_eq!(judged("IP_INADDRERRORS", "ip_error"), harmful(Class::ForwardingOff));
    assert_eq!(judged("IP_INADDRERRORS", "ip6_forward"), harmful(Class::ForwardingOff));
    assert_eq!(judged("IP_INNOROUTES", "ip_error"), harmful(Class::Routing));
    assert_eq!(judged("NEIGH_CREATEFAIL", "ip_finish_output2"), harmful(Class::NeighbourTable));
    assert_eq!(judged("", "ip_finish_output2"), harmful(Class::NeighbourTable), "kernels without reasons");
    assert_eq!(judged("NEIGH_FAILED", "arp_error_report"), harmful(Class::Neighbour));
}

#[test]
fn what_a_healthy_node_drops_is_benign() {
    for (reason, function) in [
        ("NOT_SPECIFIED", "ip6_mc_input"),
        ("NOT_SPECIFIED", "unix_stream_connect"),
        ("NOT_SPECIFIED", "nfnetlink_rcv_batch"),
        ("QUEUE_PURGE", ""),
        ("QUEUE_PURGE", "inet_sock_destruct"),
        ("NOT_SPECIFIED", "xfrm_output_gso"),
        ("", "xfrm_output_gso"),
        ("NOT_SPECIFIED", "napi_get_frags_check"),
    ] {
        assert_eq!(judged(reason, function).harm, Harm::Benign, "{reason} in {function}");
    }
}

#[test]
fn the_pieces_of_a_packet_are_counted_with_it() {
    // With it they are freed for its reason.
    for reason in ["NOT_SPECIFIED", "NETFILTER_DROP", "UDP_CSUM"] {
        assert_eq!(judge(reason, "skb_release_data", 0), benign(Class::Copy), "{reason}");
    }
    for function in ["kfree_skb_list", "kfree_skb_list_reason"] {
        assert_eq!(judge("", function, fact::PIECE), benign(Class::Copy), "{function}");
        assert_eq!(
            judge("", function, 0),
            harmful(Class::Queue),
            "a queue frees what it does not take there"
        );
    }
    assert_eq!(judge("UDP_CSUM", "udp_queue_rcv_one_skb", fact::PIECE), harmful(Class::Checksum));
}

/// The packet itself has died where the message comes from; the tunnel makes another of what it quotes.
#[test]
fn what_a_message_quotes_is_not_lost_again() {
    for function in ["ip4ip6_err", "ip6ip6_err", "ip6_err_gen_icmpv6_unreach"] {
        for (reason, circumstances) in [("NOT_SPECIFIED", fact::TOLD), ("NOT_SPECIFIED", 0), ("", fact::TOLD)]
        {
            assert_eq!(judge(reason, function, circumstances), benign(Class::Copy), "{function}");
        }
    }
}

#[test]
fn a_device_explains_what_its_queue_says() {
    let queue = ("QDISC_DROP", "__dev_queue_xmit");
    for (facts, class) in [
        (0, Class::Queue),
        (fact::DOWN, Class::DeviceDown),
        (fact::NO_CARRIER, Class::NoCarrier),
        (fact::LONG, Class::Queue),
    ] {
        assert_eq!(judge(queue.0, queue.1, facts), harmful(class), "{facts:#x}");
    }
    // What has nothing to do with the device.
    for (reason, function) in [
        ("NETFILTER_DROP", "nft_do_chain"),
        ("SOCKET_RCVBUFF", "udp_queue_rcv_one_skb"),
        ("PKT_TOO_BIG", "ip_forward"),
    ] {
        for facts in [fact::DOWN, fact::NO_CARRIER] {
            assert_eq!(judge(reason, function, facts), judged(reason, function), "{reason}");
        }
    }
    assert_eq!(judge("NOT_SPECIFIED", "ip_tunnel_xmit", fact::LONG), harmful(Class::Mtu));
    assert_eq!(judge("IPV6DISABLED", "ip6_rcv_core", fact::BELOW_IPV6), harmful(Class::Ipv6Off));
    assert_eq!(judge("NOT_SPECIFIED", "ip6_rcv_core", fact::BELOW_IPV6), harmful(Class::Ipv6Off));
    assert_eq!(judge("NOT_SPECIFIED", "ip6_rcv_core", 0), harmful(Class::Malformed));
}

/// Where neither reason nor place says more, that the device is down does.
#[test]
fn a_device_that_is_down_explains_what_says_nothing() {
    for (reason, function) in [
        ("NOT_SPECIFIED", "never_heard_of"),
        ("NOT_SPECIFIED", "ip_fragment"),
        ("NOT_SPECIFIED", "br_forward"),
        ("NO_TX_TARGET", "vxlan_xmit"),
        ("NEIGH_FAILED", "neigh_invalidate"),
        ("", "arp_error_report"),
    ] {
        assert_eq!(judge(reason, function, fact::DOWN), harmful(Class::DeviceDown), "{reason} in {function}");
        assert_eq!(
            judge(reason, function, fact::NO_CARRIER),
            harmful(Class::NoCarrier),
            "{reason} in {function}"
        );
    }
    assert_eq!(judge("IP_INNOROUTES", "ip_rcv_finish", fact::DOWN), harmful(Class::Routing));
    // What is no packet is none where nothing else explains it.
    assert_eq!(judge("NOT_SPECIFIED", "never_heard_of", fact::NO_PACKET), benign(Class::LocalSocket));
    assert_eq!(judge("NETFILTER_DROP", "nft_do_chain", fact::NO_PACKET), harmful(Class::Policy));
    assert_eq!(
        judge("", "tun_get_user", fact::NO_PACKET),
        harmful(Class::Other),
        "it was to become a packet"
    );
    assert_eq!([Harm::Harmful, Harm::Benign].map(Harm::name), ["harmful", "benign"]);
}

/// Tunnels give no reason, and share the place with what has no route or no room for a header.
#[test]
fn what_the_kernel_has_called_too_large_died_for_that() {
    for (reason, function) in [
        ("NOT_SPECIFIED", "ip_tunnel_xmit"),
        ("", "sit_tunnel_xmit"),
        ("NOT_SPECIFIED", "ip6_tnl_start_xmit"),
        ("NOT_SPECIFIED", "xfrm_output_resume"),
        ("", "ip_forward"),
        ("", ""),
    ] {
        assert_eq!(judged(reason, function), harmful(Class::Other), "{reason} in {function}");
        // Whatever else is to be said of it.
        for more in [0, fact::DOWN, fact::NO_CARRIER, fact::GROUP, fact::LONG] {
            assert_eq!(
                judge(reason, function, fact::TOLD | more),
                harmful(Class::Mtu),
                "{reason} in {function}"
            );
        }
    }
    assert_eq!(judge("NOT_SPECIFIED", "ip_fragment", fact::TOLD | fact::DOWN), harmful(Class::Mtu));
    // What says for itself why it died.
    for (reason, function) in [
        ("NETFILTER_DROP", "nft_do_chain"),
        ("", "nf_hook_slow"),
        ("IP_OUTNOROUTES", "ip_tunnel_xmit"),
        ("NOMEM", "ip_tunnel_xmit"),
        ("NOT_SPECIFIED", "packet_rcv"),
        ("OTHERHOST", "ip_rcv_core"),
    ] {
        assert_eq!(judge(reason, function, fact::TOLD), judged(reason, function), "{reason} in {function}");
    }
}

#[test]
fn what_goes_to_a_group_is_missed_by_nobody_while_links_come_up() {
    for (reason, function, facts) in [
        ("IP_INNOROUTES", "ip6_pkt_drop", 0),
        ("", "ip6_pkt_drop", 0),
        ("NOT_SPECIFIED", "br_dev_xmit", 0),
        ("NOT_SPECIFIED", "mld_newpack", 0),
        ("NOT_SPECIFIED", "igmpv3_newpack", 0),
        ("QDISC_DROP", "__dev_queue_xmit", fact::NO_CARRIER),
        ("QDISC_DROP", "__dev_queue_xmit", fact::DOWN),
        ("INVALID_PROTO", "icmp_rcv", 0),
        ("IP_INADDRERRORS", "ip6_forward", 0),
        ("NOT_SPECIFIED", "ip_rcv_finish_core", 0),
    ] {
        assert_eq!(judge(reason, function, facts).harm, Harm::Harmful, "{reason} in {function}");
        assert_eq!(judge(reason, function, facts | fact::GROUP).harm, Harm::Benign, "{reason} in {function}");
    }
    // Forwarding is not what it lacks.
    assert_eq!(judge("IP_INADDRERRORS", "ip6_forward", fact::GROUP).class, Class::Routing);
    // What somebody misses all the same.
    for (reason, function) in [
        ("NETFILTER_DROP", "nft_do_chain"),
        ("QDISC_DROP", "__dev_queue_xmit"),
        ("UDP_CSUM", "__udp4_lib_mcast_deliver"),
        ("INVALID_PROTO", "icmpv6_rcv"),
        ("HDR_TRUNC", "icmp_rcv"),
        ("IP_INVALID_SOURCE", "ip_route_input"),
        ("NOT_SPECIFIED", "never_heard_of"),
    ] {
        assert_eq!(judge(reason, function, fact::GROUP), judged(reason, function), "{reason} in {function}");
    }
}

#[test]
fn the_end_of_a_connection_is_told_from_nobody_there() {
    for function in ["tcp_v4_rcv", "tcp_v6_rcv"] {
        assert_eq!(judge("", function, 0), harmful(Class::NoSocket), "{function}");
        assert_eq!(judge("", function, fact::ENDING), benign(Class::TcpState), "{function}");
        assert_eq!(judge("NO_SOCKET", function, 0), harmful(Class::NoSocket), "{function}");
        assert_eq!(judge("NO_SOCKET", function, fact::ENDING), benign(Class::NoSocket), "{function}");
    }
    assert_eq!(judge("", "nf_hook_slow", fact::ENDING), harmful(Class::Netfilter));
    // NAT's own business, unlike a neighbour solicitation that a rule refuses, or what a rule does to redirects where rules have a
    // place.
    for reason in ["", "NETFILTER_DROP"] {
        assert_eq!(judge(reason, "nf_hook_slow", fact::REDIRECT), benign(Class::Netfilter));
        assert_eq!(judge(reason, "nf_hook_slow", fact::DISCOVERY), harmful(Class::Netfilter));
        assert_eq!(judge(reason, "nft_do_chain", fact::REDIRECT), harmful(Class::Policy));
        // Without a connection there is nothing to translate: a rule refused it.
        let untracked = fact::REDIRECT | fact::UNTRACKED;
        assert_eq!(judge(reason, "nf_hook_slow", untracked), harmful(Class::Netfilter));
    }
}

#[test]
fn what_is_for_another_station_is_missed_by_nobody() {
    for function in ["ip_rcv_core", "ip6_rcv_core", "ip_rcv", "ipv6_rcv"] {
        for reason in ["", "NOT_SPECIFIED"] {
            assert_eq!(judge(reason, function, 0), harmful(Class::Malformed), "{function}");
            assert_eq!(judge(reason, function, fact::OTHERS), benign(Class::Other), "{function}");
        }
    }
    // Unless it is for the pod that it came to: its sender has an old neighbour entry.
    let own = fact::OTHERS | fact::OWN_ADDRESS;
    for (reason, function) in [("OTHERHOST", "ip_rcv_core"), ("OTHERHOST", "ipv6_rcv"), ("", "ip_rcv_core")] {
        assert_eq!(judge(reason, function, own), harmful(Class::Neighbour), "{reason} {function}");
        assert_eq!(judge(reason, function, fact::OTHERS), benign(Class::Other), "{reason} {function}");
        let question = own | fact::DISCOVERY;
        assert_eq!(judge(reason, function, question), benign(Class::Other), "{reason} {function}");
    }
    assert_eq!(judge("NETFILTER_DROP", "nft_do_chain", own), harmful(Class::Policy));
    // What came to another station's address says more by its reason, and a rule is a rule.
    assert_eq!(judge("NETFILTER_DROP", "nft_do_chain", fact::OTHERS), harmful(Class::Policy));
    assert_eq!(judge("UDP_CSUM", "udp_queue_rcv_one_skb", fact::OTHERS), harmful(Class::Checksum));
}

#[test]
fn a_device_of_ipsec_frees_what_nobody_encrypts() {
    for function in ["vti_tunnel_xmit", "vti6_tnl_xmit", "xfrmi_xmit"] {
        for reason in ["", "NOT_SPECIFIED"] {
            assert_eq!(judge(reason, function, 0), harmful(Class::Policy), "{function}");
            assert_eq!(judge(reason, function, fact::GROUP), harmful(Class::Policy), "{function}: OSPF, say");
            let announces = fact::GROUP | fact::DISCOVERY;
            assert_eq!(judge(reason, function, announces), benign(Class::Policy), "{function}");
            assert_eq!(judge(reason, function, fact::TOLD), harmful(Class::Mtu), "{function}");
            assert_eq!(judge(reason, function, fact::LONG), harmful(Class::Mtu), "{function}");
            assert_eq!(judge(reason, function, fact::DOWN), harmful(Class::DeviceDown), "{function}");
        }
        assert_eq!(judge("NOMEM", function, 0), harmful(Class::Memory), "{function}");
    }
    assert_eq!(judge("NETFILTER_DROP", "nft_do_chain", fact::GROUP), harmful(Class::Policy));
}

#[test]
fn a_question_about_a_neighbour_ends_with_its_link() {
    for (reason, function, facts, class) in [
        ("QDISC_DROP", "__dev_queue_xmit", fact::DOWN, Class::DeviceDown),
        ("NO_TX_TARGET", "br_dev_xmit", fact::NO_CARRIER, Class::NoCarrier),
        ("NO_TX_TARGET", "br_dev_xmit", 0, Class::BridgePort),
        ("NO_TX_TARGET", "br_handle_frame_finish", 0, Class::BridgePort),
        ("NO_TX_TARGET", "vxlan_xmit", 0, Class::Routing),
        ("NOT_SPECIFIED", "br_pass_frame_up", 0, Class::BridgePort),
        ("NOT_SPECIFIED", "br_handle_frame_finish", 0, Class::BridgePort),
    ] {
        assert_eq!(judge(reason, function, facts), harmful(class), "{reason} in {function}");
        assert_eq!(judge(reason, function, facts | fact::DISCOVERY), benign(class), "{reason} in {function}");
    }
    for (reason, function) in [
        ("NETFILTER_DROP", "nft_do_chain"),
        ("QDISC_DROP", "__dev_queue_xmit"),
        ("NOT_SPECIFIED", "ndisc_rcv"),
        ("IP_OUTNOROUTES", "ip6_pkt_drop"),
    ] {
        assert_eq!(
            judge(reason, function, fact::DISCOVERY),
            judged(reason, function),
            "{reason} in {function}"
        );
    }
}

#[test]
fn every_class_that_harms_has_a_fix_and_names_the_device() {
    for class in Class::ALL {
        let about = words::About { device: Some("eth7"), ip_version: 4, ..words::About::default() };
        let is_never_harmful = [Class::Teardown, Class::Copy, Class::LocalSocket].contains(&class);
        assert_eq!(class.fix(&about).is_none(), is_never_harmful, "{}", class.name());
        assert!(!class.means(&about).is_empty());
    }
    let fix = |class: Class, device, ip_version, mtu| {
        class.fix(&words::About { device, mtu, ip_version, ..words::About::default() }).unwrap().into_owned()
    };
    let starts = |fix: String, start: &str| assert!(fix.starts_with(start), "{start}? {fix}");
    starts(fix(Class::DeviceDown, Some("eth7"), 4, 0), "`ip link set eth7 up`; its IPv6 addresses");
    starts(fix(Class::DeviceDown, None, 4, 0), "`ip link set DEVICE up`");
    assert_eq!(
        fix(Class::ForwardingOff, Some("eth7"), 4, 0),
        "in the network namespace of eth7: `sysctl -w net.ipv4.ip_forward=1`, or if that is on, `sysctl -w net.ipv4.conf.eth7.forwarding=1`"
    );
    starts(fix(Class::Ipv6Off, Some("eth7"), 6, 1000), "`ip link set eth7 mtu 1280`, or more");
    for (device, sysctl) in
        [("eth7", "net.ipv6.conf.eth7.disable_ipv6"), ("eth0.100", "net/ipv6/conf/eth0.100/disable_ipv6")]
    {
        let off = fix(Class::Ipv6Off, Some(device), 6, 1500);
        assert!(off.contains(&format!("`sysctl -w {sysctl}=0`")), "{off}");
    }
    assert!(fix(Class::NeighbourTable, None, 6, 0).contains("net.ipv6.neigh.default.gc_thresh3"));
    assert!(
        fix(Class::Hairpin, Some("veth-web"), 4, 0).starts_with("`bridge link set dev veth-web hairpin on`")
    );
}

#[test]
fn what_passes_between_a_machine_and_its_virtual_ones_is_no_packet_of_the_network() {
    for function in [
        "virtio_transport_recv_pkt",
        "virtio_transport_recv_connected",
        "virtio_transport_recv_enqueue",
        "virtio_transport_seqpacket_do_dequeue",
        "virtio_transport_send_pkt",
        "virtio_transport_rx_work",
        "virtio_vsock_rx_fill",
        "vhost_transport_send_pkt",
        "vhost_vsock_handle_tx_kick",
        "__vsock_release",
        "vsock_loopback_work",
        "vmci_transport_recv_dgram_cb",
        "hci_rx_work",
        "pfkey_broadcast",
    ] {
        for reason in ["", "NOT_SPECIFIED"] {
            assert_eq!(judged(reason, function), benign(Class::LocalSocket), "{function}");
        }
    }
    // Their network's packets are.
    for function in ["vhost_net_build_xdp", "tun_net_xmit", "virtnet_poll"] {
        assert_eq!(judged("NOT_SPECIFIED", function).harm, Harm::Harmful, "{function}");
    }
}
