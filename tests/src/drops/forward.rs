//! What dies on its way through or out: hops, sizes, routes, neighbours, queues.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use nix::errno::Errno;

use crate::harness::packet::{ipv4, ipv6, send_routed, udp, udp_hops, udp_segment, udp_unfragmented};
use crate::harness::scrape::Scrape;

use super::{FAR, FORWARDED, Lab, SENT, WEB, Want, db4, db6, far4, far6, json, to_port};

const WEB4: Ipv4Addr = Ipv4Addr::new(10, 99, 1, 2);
const WEB6: Ipv6Addr = Ipv6Addr::new(0xfd99, 1, 0, 0, 0, 0, 0, 2);

#[test]
fn no_hops_left() {
    let lab = Lab::lock();
    for (to, function) in [(db4(7201), "ip_forward"), (db6(7202), "ip6_forward")] {
        let watch = lab.watch();
        lab.web.netns.inside(|| udp_hops(to, 3, 1));
        let want = Want { reason: &["IP_INHDR"], function: &[function], class: "ttl", ..FORWARDED };
        watch.expect(3, &to_port(to.port()), &want);
        let socket = lab.db.netns.inside(|| UdpSocket::bind(to).unwrap());
        lab.web.netns.inside(|| udp_hops(to, 3, 2));
        assert_eq!(received(&socket), 3, "cured by one more");
    }
}

/// How many datagrams come, until a second passes without one.
fn received(socket: &UdpSocket) -> usize {
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    std::iter::from_fn(|| socket.recv(&mut [0; 2048]).ok()).count()
}

#[test]
fn larger_than_the_next_hop_takes() {
    let lab = Lab::lock();
    // IPv6 puts the packet on its way out before it complains.
    for (to, function, interface) in [(far4(7203), "ip_forward", "ra"), (far6(7204), "ip6_forward", "rc")] {
        let watch = lab.watch();
        lab.web.netns.inside(|| udp_unfragmented(to, 3, 1400));
        let want = Want {
            reason: &["PKT_TOO_BIG"],
            function: &[function],
            class: "mtu",
            interface: &[interface],
            destination: Some(FAR),
            ..FORWARDED
        };
        watch.expect(3, &to_port(to.port()), &want);
    }
}

#[test]
fn larger_than_the_route_takes() {
    let lab = Lab::lock();
    let web = &lab.web.netns;
    let _routes = web.meanwhile(
        "ip",
        "route add 10.99.2.0/24 via 10.99.1.1 mtu lock 1300\n\
         route add fd99:2::/64 via fd99:1::1 mtu 1300\n",
        "route del 10.99.2.0/24 via 10.99.1.1\nroute del fd99:2::/64 via fd99:1::1\n",
    );
    let watch = lab.watch();
    let four = ipv4(WEB4, [10, 99, 2, 2].into(), 17, &segment(WEB4.into(), db4(7205)), true);
    web.inside(|| (0..3).for_each(|_| too_large(send_routed(db4(0).ip(), &four))));
    let from4 = Want {
        reason: &["NOT_SPECIFIED"],
        function: &["ip_fragment", "ip_do_fragment"],
        class: "mtu",
        ..SENT
    };
    watch.expect(3, &to_port(7205), &from4);
    let watch = lab.watch();
    let six = ipv6(WEB6, [0xfd99, 2, 0, 0, 0, 0, 0, 2].into(), 17, &segment(WEB6.into(), db6(7206)));
    web.inside(|| (0..3).for_each(|_| too_large(send_routed(db6(0).ip(), &six))));
    watch.expect(3, &to_port(7206), &Want { function: &["ip6_fragment"], ..from4 });
}

/// The sender is told at once.
fn too_large(sent: nix::Result<usize>) {
    assert_eq!(sent, Err(Errno::EMSGSIZE));
}

fn segment(source: std::net::IpAddr, destination: SocketAddr) -> Vec<u8> {
    udp_segment(SocketAddr::new(source, 5205), destination, 1350, true)
}

#[test]
fn larger_than_the_other_port_of_a_bridge_takes() {
    let lab = Lab::lock();
    let watch = lab.watch();
    lab.web.netns.inside(|| udp_unfragmented(SocketAddr::from(([10, 99, 5, 2], 7207)), 3, 1450));
    let want = Want {
        reason: &["NOT_SPECIFIED"],
        // The second where bridges show their packets to iptables (br_netfilter), as Kubernetes asks for.
        function: &["br_dev_queue_push_xmit", "br_nf_dev_queue_xmit"],
        class: "mtu",
        interface: &["pb"],
        ..FORWARDED
    };
    watch.expect(3, &to_port(7207), &want);
}

#[test]
fn larger_than_the_veth_peer_takes() {
    let lab = Lab::lock();
    let watch = lab.watch();
    lab.web.netns.inside(|| udp_unfragmented(SocketAddr::from(([10, 99, 6, 2], 7208)), 3, 1450));
    let want = Want {
        reason: &["NOT_SPECIFIED"],
        // Which of them is inlined differs by build.
        function: &["__dev_forward_skb", "__dev_forward_skb2", "veth_forward_skb", "veth_xmit"],
        class: "mtu",
        interface: &["eth2"],
        ..SENT
    };
    watch.expect(3, &to_port(7208), &want);
}

#[test]
fn no_route() {
    let lab = Lab::lock();
    let want = Want {
        // Named only from 6.2 or so on.
        reason: &["IP_INNOROUTES", "IP_OUTNOROUTES", "IP_INADDRERRORS", "NOT_SPECIFIED"],
        function: &["ip_error"],
        class: "routing",
        destination: None,
        ..FORWARDED
    };
    let watch = lab.watch();
    lab.web.netns.inside(|| udp(SocketAddr::from(([203, 0, 113, 9], 7209)), 3, 100));
    watch.expect(3, &to_port(7209), &want);
    let watch = lab.watch();
    lab.web.netns.inside(|| udp(SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 9], 7210)), 3, 100));
    watch.expect(3, &to_port(7210), &Want { function: &["ip6_pkt_drop", "ip6_pkt_discard"], ..want });
}

#[test]
fn a_source_that_cannot_come_from_there() {
    let lab = Lab::lock();
    lab.router.sysctl("ipv4/conf/rb/rp_filter", "1");
    let before = lab.agent.scrape();
    let watch = lab.watch();
    // `db` claims to be `web`.
    let segment = udp_segment(SocketAddr::from((WEB4, 5211)), far4(7211), 100, true);
    let packet = ipv4(WEB4, [10, 99, 3, 2].into(), 17, &segment, true);
    lab.db.netns.inside(|| (0..3).for_each(|_| assert!(send_routed(far4(0).ip(), &packet).is_ok())));
    lab.router.sysctl("ipv4/conf/rb/rp_filter", "0");
    let want = Want {
        reason: &["IP_RPFILTER"],
        function: &["ip_rcv_finish_core", "ip_rcv_finish"],
        class: "reverse_path",
        // Without reasons the place has to do, where what has no route ends as well.
        by_place: Some("routing"),
        // It has no route yet, so nothing says that it was to go on.
        direction: "received",
        interface: &["rb"],
        source: None,
        destination: Some(FAR),
        ..FORWARDED
    };
    watch.expect(3, &to_port(7211), &want);
    let blamed = |scrape: &Scrape| {
        let web = [("namespace", "shop"), ("pod", "web-0"), ("end", "source")];
        let labels = [web.as_slice(), &[("direction", "received")]].concat();
        scrape.sum("r2c_pod_drop_packets_total", &labels)
    };
    assert_eq!(blamed(&lab.agent.scrape()), blamed(&before), "a forged source was believed");
}

#[test]
fn a_neighbour_that_does_not_answer() {
    let lab = Lab::lock();
    for family in ["ipv4", "ipv6"] {
        lab.router.sysctl(&format!("{family}/neigh/rb/mcast_solicit"), "1");
        lab.router.sysctl(&format!("{family}/neigh/rb/retrans_time_ms"), "100");
    }
    let nobody4 = SocketAddr::from(([10, 99, 2, 77], 7212));
    let nobody6 = SocketAddr::from(([0xfd99, 2, 0, 0, 0, 0, 0, 0x77], 7213));
    for (to, function) in [(nobody4, "arp_error_report"), (nobody6, "ndisc_error_report")] {
        let watch = lab.watch();
        lab.web.netns.inside(|| udp(to, 3, 100));
        let want = Want {
            reason: &["NEIGH_FAILED", "NOT_SPECIFIED"],
            // The error report's last call is to free, which some compilers make a jump.
            function: &[function, "neigh_invalidate"],
            class: "neighbour",
            interface: &["rb"],
            destination: None,
            ..FORWARDED
        };
        watch.expect(3, &to_port(to.port()), &want);
    }
    // Somebody has the address.
    let _there = lab.db.netns.meanwhile(
        "ip",
        "addr add 10.99.2.77/24 dev eth0\naddr add fd99:2::77/64 dev eth0 nodad\n",
        "addr del 10.99.2.77/24 dev eth0\naddr del fd99:2::77/64 dev eth0\n",
    );
    for to in [nobody4, nobody6] {
        let socket = lab.db.netns.inside(|| UdpSocket::bind(to).unwrap());
        lab.web.netns.inside(|| udp(to, 3, 100));
        assert_eq!(received(&socket), 3, "cured: {to}");
    }
}

#[test]
fn a_full_queueing_discipline() {
    let lab = Lab::lock();
    let listening = lab.db.netns.inside(|| UdpSocket::bind(db4(7214)).unwrap());
    // Room for two packets, and hours to send one.
    let qdisc = lab.router.meanwhile(
        "tc",
        "qdisc add dev rb root tbf rate 1kbit burst 1600 limit 3200\n",
        "qdisc del dev rb root\n",
    );
    let watch = lab.watch();
    lab.web.netns.inside(|| udp(db4(7214), 10, 1000));
    lab.barrier();
    let dropped = watch.events().iter().filter(|event| event["destination_port"] == 7214).count();
    assert!((1..10).contains(&dropped), "{dropped} of 10 dropped");
    let want = Want {
        // By name from 6.18 or so on.
        reason: &["QDISC_DROP", "QDISC_OVERLIMIT"],
        function: &[
            "kfree_skb_list", "kfree_skb_list_reason", "__dev_queue_xmit", "__dev_xmit_skb",
            "tcf_kfree_skb_list", "__tcf_kfree_skb_list",
        ],
        class: "queue",
        interface: &["rb"],
        source: Some(WEB),
        ..FORWARDED
    };
    watch.expect(dropped, &to_port(7214), &want);
    // What still waits there goes with the discipline: nobody's harm.
    let watch = lab.watch();
    drop(qdisc);
    lab.barrier();
    let left = watch.events().into_iter().filter(|event| event["destination_port"] == json!(7214));
    received(&listening);
    let _larger = lab.router.meanwhile(
        "tc",
        "qdisc add dev rb root tbf rate 100mbit burst 16000 limit 64000\n",
        "qdisc del dev rb root\n",
    );
    lab.web.netns.inside(|| udp(db4(7214), 10, 1000));
    assert_eq!(received(&listening), 10, "cured by a larger limit");
    drop(listening);
    for event in left {
        assert_eq!(event["class"], "teardown", "{event:#}");
        assert_eq!(event["harm"], "benign", "{event:#}");
    }
}
