//! What the place where a packet died says where the kernel gives no reason.

use super::*;
use crate::probes::drops::class::judge;

/// Linux calls a martian nothing, nor a route that refuses: the place alone tells, and then no new route helps.
#[test]
fn what_refuses_is_told_by_its_place() {
    use Refused::{
        ByRoute, Discarded, Ipsec, Localnet, Martian, NoFlow, NoHandshake, NoPeer, NoTunnel, NoWayBack,
        PerhapsByRoute, Port,
    };
    let unnamed = Some("NOT_SPECIFIED");
    for (reason, function, wanted) in [
        (unnamed, Some("ip_rcv_finish_core"), Some(Martian)),
        (unnamed, Some("ip_rcv_finish"), Some(Martian)),
        (unnamed, Some("ip_forward"), None),
        (unnamed, None, None),
        (Some("IP_RPFILTER"), Some("ip_rcv_finish_core"), None),
        (None, Some("ip_rcv_finish"), Some(NoWayBack)),
        (None, Some("ip_rcv_finish_core"), Some(NoWayBack)),
        (unnamed, Some("ip_error"), Some(ByRoute)),
        (Some("IP_INNOROUTES"), Some("ip_error"), None),
        (None, Some("ip_error"), Some(PerhapsByRoute)),
        (Some("IP_INNOROUTES"), Some("ip6_pkt_drop"), Some(PerhapsByRoute)),
        (None, Some("ip6_pkt_discard"), Some(PerhapsByRoute)),
        (None, Some("ip6_pkt_discard_out"), Some(PerhapsByRoute)),
        (unnamed, Some("ip6_pkt_prohibit"), Some(PerhapsByRoute)),
        (unnamed, Some("ip6_pkt_prohibit_out"), Some(PerhapsByRoute)),
        (unnamed, Some("dst_discard"), Some(Discarded)),
        (None, Some("dst_discard_out"), Some(Discarded)),
        (unnamed, Some("gre_rcv"), Some(NoTunnel)),
        (None, Some("tunnel4_rcv"), Some(NoTunnel)),
        (unnamed, Some("xfrm_input"), Some(Ipsec)),
        (unnamed, Some("wg_xmit"), Some(NoPeer)),
        (unnamed, Some("ovs_dp_process_packet"), Some(NoFlow)),
        (None, Some("ovs_vport_send"), Some(Port)),
        (unnamed, Some("do_execute_actions"), Some(Port)),
        (Some("OVS_DROP_EXPLICIT"), Some("do_execute_actions"), None),
        (Some("QUEUE_PURGE"), Some("wg_packet_purge_staged_packets"), Some(NoHandshake)),
    ] {
        let packet = but(|packet| {
            (packet.reason, packet.place) = (reason.map(Into::into), function.map(place));
        });
        assert_eq!(packet.about_class(None).refused, wanted, "{reason:?} in {function:?}");
    }
    for (ends, function, wanted) in [
        ([10, 127], "ip_rcv_finish_core", Some(Localnet)),
        ([127, 10], "ip_rcv_finish", Some(Localnet)),
        ([10, 11], "ip_rcv_finish_core", Some(Martian)),
        ([10, 127], "ip_forward", None),
    ] {
        let packet = |version| {
            but(|packet| {
                (packet.reason, packet.place) = (unnamed.map(Into::into), Some(place(function)));
                packet.verdict.class = Class::Routing;
                packet.record.ip_version = version;
                (packet.record.source[0], packet.record.destination[0]) = (ends[0], ends[1]);
            })
        };
        assert_eq!(packet(4).refused(), wanted, "{ends:?} in {function}");
        assert_ne!(packet(6).refused(), Some(Localnet), "{ends:?} in {function}");
    }
    for (protocol, wanted) in [(4, NoTunnel), (41, NoTunnel), (50, Ipsec), (17, Ipsec)] {
        let packet = but(|packet| {
            (packet.reason, packet.place) = (unnamed.map(Into::into), Some(place("xfrm_input")));
            packet.record.protocol = protocol;
        });
        assert_eq!(packet.refused(), Some(wanted), "{protocol}");
    }
}

/// Before 5.17 no kernel gives reasons, and later ones not everywhere.
#[test]
fn where_there_is_no_reason_the_place_stands_for_it() {
    for (reason, function, wanted) in [
        (None, Some("enqueue_to_backlog"), "CPU_BACKLOG"),
        (Some("NOT_SPECIFIED"), Some("tun_net_xmit"), "FULL_RING"),
        (Some("SOCKET_FILTER"), Some("udp_queue_rcv_one_skb"), "SOCKET_FILTER"),
        (Some("NOT_SPECIFIED"), Some("ip_forward"), "NOT_SPECIFIED"),
        (None, Some("ip_forward"), ""),
        (None, None, ""),
    ] {
        let packet = but(|packet| {
            (packet.reason, packet.place) = (reason.map(Into::into), function.map(place));
        });
        assert_eq!(packet.about_class(None).reason, wanted, "{reason:?} in {function:?}");
    }
    let udp = but(|packet| {
        (packet.reason, packet.place) = (None, Some(place("udpv6_queue_rcv_one_skb")));
        packet.verdict = Verdict { class: Class::Queue, harm: Harm::Harmful };
    });
    let fix = udp.fix().unwrap();
    assert!(fix.starts_with("make the program read faster, ") && fix.contains("SO_ATTACH_FILTER"), "{fix}");
    assert!(udp.means().contains(", or its own filter, or a BPF program of its cgroup, refused it"));
}

/// Before 5.17 no kernel gives reasons: what a place has for one cause alone is told, and no more.
#[test]
fn without_reasons_a_place_tells_what_it_can() {
    for (function, facts, wanted) in [
        ("__dev_queue_xmit", 0, (Harm::Harmful, Class::Policy)),
        ("kfree_skb_list", 0, (Harm::Harmful, Class::Queue)),
        ("ip6_forward", 0, (Harm::Harmful, Class::ForwardingOff)),
        ("ip6_forward", fact::TOLD, (Harm::Harmful, Class::Mtu)),
        ("ip6_forward", fact::GROUP, (Harm::Benign, Class::Routing)),
        ("ip6_rcv_core", 0, (Harm::Harmful, Class::Malformed)),
        ("ip6_rcv_core", fact::GROUP, (Harm::Benign, Class::Ipv6Off)),
        ("ip_rcv_core", fact::GROUP, (Harm::Harmful, Class::Malformed)),
    ] {
        let Verdict { class, harm } = judge("", function, facts);
        assert_eq!((harm, class), wanted, "{function} {facts:#x}");
    }
    assert_eq!(judge("NOT_SPECIFIED", "ip6_rcv_core", fact::GROUP).class, Class::Malformed);
}
