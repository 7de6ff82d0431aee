//! Reasons and places of kernels from 5.10 to 7.2, and what they are taken for.

use super::*;

#[test]
fn a_reason_wins_over_the_place_and_the_place_explains_silence() {
    assert_eq!(classify("NETFILTER_DROP", "nft_do_chain"), harmful(Class::Policy));
    assert_eq!(classify("NOT_SPECIFIED", "ip_fragment"), harmful(Class::Mtu));
    assert_eq!(classify("", "nf_hook_slow"), harmful(Class::Policy));
    assert_eq!(classify("NOT_SPECIFIED", "never_heard_of"), harmful(Class::Other));
}

#[test]
fn one_reason_may_mean_two_things_by_place() {
    assert_eq!(classify("IP_INHDR", "ip_forward"), harmful(Class::Ttl));
    assert_eq!(classify("IP_INHDR", "ip_rcv_core"), harmful(Class::Malformed));
    assert_eq!(classify("NO_SOCKET", "icmp_rcv"), benign(Class::NoSocket));
    assert_eq!(classify("NO_SOCKET", "tcp_v4_rcv"), harmful(Class::NoSocket));
    assert_eq!(classify("NOT_SPECIFIED", "tcp_v4_rcv"), benign(Class::TcpState));
    assert_eq!(classify("", "tcp_v4_rcv"), harmful(Class::NoSocket), "kernels without reasons");
}

#[test]
fn what_a_healthy_node_drops_is_benign() {
    for (reason, function) in [
        ("NOT_SPECIFIED", "ip6_mc_input"),
        ("NOT_SPECIFIED", "unix_stream_connect"),
        ("NOT_SPECIFIED", "nfnetlink_rcv_batch"),
        ("QUEUE_PURGE", ""),
    ] {
        assert_eq!(classify(reason, function).harm, Harm::Benign, "{reason} in {function}");
    }
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
            assert_eq!(classify(reason, function), benign(Class::LocalSocket), "{function}");
        }
    }
    // Their network's packets are.
    for function in ["vhost_net_build_xdp", "tun_net_xmit", "virtnet_poll", "tpacket_rcv"] {
        assert_eq!(classify("NOT_SPECIFIED", function).harm, Harm::Harmful, "{function}");
    }
}

#[test]
fn a_bridge_without_ports_harms_nobody_and_one_with_ports_does() {
    let drops = [
        ("NOT_SPECIFIED", "br_dev_xmit"),
        ("", "br_flood"),
        ("NO_TX_TARGET", "br_flood"),
        ("QDISC_DROP", "__dev_queue_xmit"),
        ("", "__dev_queue_xmit"),
    ];
    for (reason, function) in drops {
        let verdict = classify(reason, function);
        assert_eq!(verdict.harm, Harm::Harmful, "{reason} in {function}");
        assert_eq!(verdict.by_portless_bridge(reason), NOBODY, "{reason} in {function}");
    }
    for (reason, function) in [
        ("NETFILTER_DROP", "nft_do_chain"),
        ("NEIGH_FAILED", "arp_error_report"),
        ("PKT_TOO_BIG", ""),
        ("IP_OUTNOROUTES", ""),
        ("NOMEM", "br_flood"),
    ] {
        let verdict = classify(reason, function);
        assert_eq!(verdict.by_portless_bridge(reason), verdict, "{reason} in {function}");
    }
}
