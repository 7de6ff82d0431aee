//! What this node itself says is too large: a device, a route, a socket.

use std::net::{SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, socket,
};
use serde_json::json;

use crate::harness::lab::{FAR, Lab, WEB};
use crate::harness::packet::{set, udp, udp_unfragmented};
use crate::harness::{DEADLINE, until};

use super::{Watch, forget, pod, sees_messages, v4, v6};

/// The path MTU that `web` has learned for an address.
fn learned(lab: &Lab, to: SocketAddr) -> Option<u64> {
    let shown = lab.web.netns.run("ip", &["route", "get", &to.ip().to_string()]);
    shown.split_once(" mtu ").and_then(|(_, rest)| rest.split(' ').next()?.trim().parse().ok())
}

/// The labels of what `web` sends.
const PLACE_OF_WEB: [(&str, &str); 3] = [("namespace", "shop"), ("pod", "web-0"), ("end", "source")];

#[test]
fn a_device_that_takes_less() {
    let lab = Lab::lock();
    if !sees_messages(&lab) {
        return;
    }
    // A number of its own: with others who were told of 1400 it would be one incident.
    let _takes = lab.router.meanwhile("ip", "link set rc mtu 1398\n", "link set rc mtu 1400\n");
    for (to, sender, family) in
        [(v4([10, 99, 3, 2], 7501), "10.99.1.1", "ipv4"), (v6(3, 7502), "fd99:1::1", "ipv6")]
    {
        forget(&lab);
        let watch = Watch::new(&lab);
        lab.web.netns.inside(|| udp_unfragmented(to, 3, 1400));
        let destination = json!(to.ip().to_string());
        let first = watch.first(&[("destination_ip", destination.clone()), ("event", json!("made"))]);
        assert_eq!(first["mtu"], 1398, "{first:#}");
        assert_eq!(
            [&first["limit"], &first["route_interface"], &first["route_interface_mtu"]],
            [&json!("device"), &json!("rc"), &json!(1398)]
        );
        assert_eq!(
            (pod(&first, "source_pod").as_deref(), pod(&first, "destination_pod").as_deref()),
            (Some(WEB), Some(FAR))
        );
        assert_eq!(first["destination_port"], to.port());
        assert_eq!(first["length"], if to.is_ipv4() { 1428 } else { 1448 });

        let verdict = watch.verdict_in_time(&[("destination_ip", destination)]);
        assert_eq!(
            (&verdict["finding"], &verdict["fits"]),
            (&json!("small_device"), &json!(1398)),
            "{verdict:#}"
        );
        assert_eq!(verdict["trace_id"], first["trace_id"], "one incident");
        assert_eq!(verdict["namespace"], "shop");
        let text = verdict["message"].as_str().unwrap();
        assert!(
            text.contains("rc takes 1398 bytes") && text.contains(WEB) && text.contains("at most 1398"),
            "{text}"
        );
        assert_eq!(watch.of_pod(WEB, "made"), 3);
        assert_eq!(watch.of_pod(WEB, "received"), 3, "{sender} told it");
        assert_eq!(watch.of_pod(WEB, "lost"), 0, "and what it is told is not lost");
        assert!(watch.counted("r2c_mtu_events_total", &[("event", "learned"), ("family", family)]) >= 1);
        // The first taught the route cache, the rest said nothing new to it.
        for (fate, count) in [("learned", 1), ("delivered", 2)] {
            let labels = [("event", "received"), ("fate", fate), ("family", family)];
            assert_eq!(watch.of(&PLACE_OF_WEB, &labels), count, "{fate}, {family}");
        }
        assert_eq!(learned(&lab, to), Some(1398), "what the kernel itself says");
        let ours = watch.lines().into_iter().filter(|line| line["trace_id"] == first["trace_id"]).count();
        assert_eq!(ours, 2, "an event and a verdict: {:#?}", watch.messages());
    }
}

#[test]
fn a_route_that_takes_less() {
    let lab = Lab::lock();
    if !sees_messages(&lab) {
        return;
    }
    let _route = lab.router.meanwhile(
        "ip",
        "route add 10.99.2.2/32 dev rb mtu 1280\n",
        "route del 10.99.2.2/32 dev rb\n",
    );
    let watch = Watch::new(&lab);
    let to = v4([10, 99, 2, 2], 7503);
    lab.web.netns.inside(|| udp_unfragmented(to, 2, 1300));
    let first = watch.first(&[("destination_port", json!(7503))]);
    assert_eq!(
        [&first["event"], &first["limit"], &first["mtu"]],
        [&json!("made"), &json!("route"), &json!(1280)]
    );
    assert_eq!([&first["route_interface"], &first["route_interface_mtu"]], [&json!("rb"), &json!(1500)]);
    let verdict = watch.verdict_in_time(&[("destination_port", json!(7503))]);
    assert_eq!(verdict["finding"], "small_route", "{verdict:#}");
    assert!(verdict["fix"].as_str().unwrap().ends_with(", or take the mtu off the route"), "{verdict:#}");
    lab.router.ip("route change 10.99.2.2/32 dev rb\n");
    forget(&lab);
    let to = v4([10, 99, 2, 2], 7508);
    let receiver = lab.db.netns.inside(|| UdpSocket::bind(to).unwrap());
    receiver.set_read_timeout(Some(DEADLINE)).unwrap();
    lab.web.netns.inside(|| udp_unfragmented(to, 1, 1300));
    assert_eq!(receiver.recv(&mut [0; 2000]).ok(), Some(1300), "cured");
}

#[test]
fn what_may_be_cut_is_cut() {
    let lab = Lab::lock();
    if !sees_messages(&lab) {
        return;
    }
    forget(&lab);
    // A number of its own: with others who were told of 1400 it would be one incident.
    let _takes = lab.router.meanwhile("ip", "link set rc mtu 1394\n", "link set rc mtu 1400\n");
    let watch = Watch::new(&lab);
    let to = v4([10, 99, 3, 40], 7504);
    lab.web.netns.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        set(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT);
        for _ in 0..3 {
            socket.send_to(&[0; 1400], to).unwrap();
        }
    });
    // The same with DF is said, after them.
    lab.web.netns.inside(|| udp_unfragmented(v4([10, 99, 3, 40], 7505), 1, 1400));
    watch.first(&[("destination_port", json!(7505))]);
    assert_eq!(watch.of_pod(WEB, "made"), 1, "{:#?}", watch.messages());
}

#[test]
fn a_socket_that_asks_for_too_much() {
    let lab = Lab::lock();
    if !sees_messages(&lab) {
        return;
    }
    for (to, option, value) in [
        (v4([10, 99, 2, 42], 7506), libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO),
        (
            SocketAddr::from(([0xfd99, 2, 0, 0, 0, 0, 0, 42], 7507)),
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DO,
        ),
    ] {
        let watch = Watch::new(&lab);
        lab.web.netns.inside(|| {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).unwrap();
            let level = if to.is_ipv4() { libc::IPPROTO_IP } else { libc::IPPROTO_IPV6 };
            set(&socket, level, option, value);
            for _ in 0..2 {
                let refused = socket.send_to(&[0; 1490], to).unwrap_err();
                assert_eq!(refused.raw_os_error(), Some(Errno::EMSGSIZE as i32));
            }
        });
        let to = [("destination_ip", json!(to.ip().to_string())), ("event", json!("refused"))];
        let first = watch.first(&to);
        // What `ip link` says of the device.
        assert_eq!(first["mtu"], 1500, "{first:#}");
        assert_eq!(pod(&first, "source_pod").as_deref(), Some(WEB));
        let verdict = watch.verdict(&to);
        assert_eq!(verdict["finding"], "large_datagrams");
        assert_eq!(watch.of_pod(WEB, "refused"), 2);
    }

    // A ping has no ports: where a datagram has its own, the kernel keeps the type of a ping.
    let to = SockaddrIn6::from(SocketAddrV6::new("fd99:2::43".parse().unwrap(), 0, 0, 0));
    let watch = Watch::new(&lab);
    lab.web.netns.inside(|| {
        let (family, kind) = (AddressFamily::Inet6, SockType::Raw);
        let ping = socket(family, kind, SockFlag::SOCK_CLOEXEC, SockProtocol::IcmpV6).unwrap();
        set(&ping, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO);
        let mut echo = [0; 1490];
        echo[0] = 128;
        assert_eq!(sendto(ping.as_raw_fd(), &echo, &to, MsgFlags::empty()), Err(Errno::EMSGSIZE));
    });
    let refused = watch.first(&[("destination_ip", json!("fd99:2::43")), ("event", json!("refused"))]);
    assert_eq!((&refused["mtu"], &refused["destination_port"]), (&json!(1500), &json!(null)), "{refused:#}");
}

#[test]
fn ten_thousand_messages_a_second() {
    const SENT: u64 = 10_000;
    let lab = Lab::lock();
    if !sees_messages(&lab) {
        return;
    }
    let watch = Watch::new(&lab);
    let to = v4([10, 99, 3, 50], 7508);
    lab.web.netns.inside(|| udp_unfragmented(to, SENT, 1400));
    until("all are counted", || (watch.of_pod(WEB, "made") >= SENT).then_some(()));
    let first = watch.first(&[("destination_ip", json!("10.99.3.50"))]);
    watch.verdict(&[("trace_id", first["trace_id"].clone())]);
    // Packets of a closed port, after them: their incident is another.
    lab.web.netns.inside(|| udp(v4([10, 99, 2, 2], 7509), 1, 10));
    assert_eq!(watch.of_pod(WEB, "made"), SENT, "counts are exact");
    assert_eq!(watch.counted("r2c_mtu_uncounted_events_total", &[]), 0);
    let ours = watch.lines().into_iter().filter(|line| line["trace_id"] == first["trace_id"]).count();
    // A row and a verdict, and once more for every ten seconds that it takes.
    assert!((2..=12).contains(&ours), "{ours} lines: {:#?}", watch.messages());
    let settled = || {
        let now = lab.agent.scrape();
        let of = |name: &str| now.sum(name, &[("probe", "mtu")]);
        let ends = of("r2c_events_emitted_total") + of("r2c_events_dropped_total");
        (of("r2c_events_in_ring") == 0 && of("r2c_events_produced_total") == ends).then_some(())
    };
    until("every event has one fate", settled);
}
