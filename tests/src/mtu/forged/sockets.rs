//! Forged messages that quote what a real socket sends: the kernel may believe them, and then that is what is said.

use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use serde_json::{Value, json};

use crate::harness::lab::{Lab, WEB};
use crate::harness::packet::{
    icmp_message, icmpv6_message, ipv4, ipv6, send_all_routed, udp_for, udp_segment,
};

use super::super::{Watch, forget, has_learned, pod, sees_messages, v4};
use super::{FAR4, WEB4};

const WEB6: Ipv6Addr = Ipv6Addr::new(0xfd99, 1, 0, 0, 0, 0, 0, 2);
const FAR6: Ipv6Addr = Ipv6Addr::new(0xfd99, 3, 0, 0, 0, 0, 0, 2);

/// Nobody's addresses behind `far`'s link, in both families.
fn beyond(last: u8) -> [SocketAddr; 2] {
    [v4([10, 99, 3, last], 4001), SocketAddr::from(([0xfd99, 3, 0, 0, 0, 0, 0, last.into()], 4001))]
}

/// A socket of `web` that is connected to `to`, and its own end.
fn connected(lab: &Lab, to: SocketAddr) -> (UdpSocket, SocketAddr) {
    lab.web.netns.inside(|| {
        let socket = udp_for(to);
        socket.connect(to).unwrap();
        let own = socket.local_addr().unwrap();
        (socket, own)
    })
}

/// The beginning of a datagram of 1400 bytes.
fn quote(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let segment = udp_segment(from, to, 1400, true);
    match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            ipv4(*from.ip(), *to.ip(), 17, &segment, true)[..28].to_vec()
        }
        (SocketAddr::V6(from), SocketAddr::V6(to)) => ipv6(*from.ip(), *to.ip(), 17, &segment)[..48].to_vec(),
        _ => panic!("{from} and {to}"),
    }
}

/// What `far` would send to `web` to say this of a packet.
fn message(mtu: u32, quote: &[u8]) -> Vec<u8> {
    if quote[0] >> 4 == 4 {
        return ipv4(FAR4, WEB4, 1, &icmp_message(3, 4, mtu, quote), true);
    }
    ipv6(FAR6, WEB6, 58, &icmpv6_message(FAR6, WEB6, 2, mtu, quote))
}

/// And does send.
fn forge(lab: &Lab, quote: &[u8], mtus: impl IntoIterator<Item = u32> + Send) {
    let to = if quote[0] >> 4 == 4 { WEB4.into() } else { WEB6.into() };
    lab.far.netns.inside(|| {
        send_all_routed(to, mtus.into_iter().map(|mtu| message(mtu, quote))).unwrap();
    });
}

/// Whether this kernel lets the agent see what UDP says of a message: that of IPv6 may be inline.
fn hears(lab: &Lab, to: SocketAddr) -> bool {
    to.is_ipv4() || lab.has_hook("mtu", "udpv6_err")
}

fn family(to: SocketAddr) -> &'static str {
    if to.is_ipv4() { "ipv4" } else { "ipv6" }
}

/// The verdict on what `web` sends to `to`.
fn verdict(watch: &Watch<'_>, to: SocketAddr, finding: &str) -> Value {
    watch.verdict(&[("finding", json!(finding)), ("destination_ip", json!(to.ip().to_string()))])
}

#[test]
fn a_number_that_the_kernel_believed() {
    let lab = Lab::lock();
    if !sees_messages(&lab) {
        return;
    }
    for (last, mtu) in [(151, 0), (152, 68), (153, 551)] {
        for to in beyond(last) {
            let watch = Watch::new(&lab);
            let (_socket, own) = connected(&lab, to);
            forge(&lab, &quote(own, to), [mtu]);
            let verdict = verdict(&watch, to, "absurd_mtu");
            let sender = if to.is_ipv4() { FAR4.to_string() } else { FAR6.to_string() };
            assert_eq!(verdict["sender_ip"], json!(sender));
            assert_eq!(pod(&verdict, "source_pod").as_deref(), Some(WEB));
            assert_eq!(verdict["pod_name"], "web-0", "it is hurt: {verdict:#}");
            let text = verdict["message"].as_str().unwrap();
            assert!(text.contains(&format!("{sender} claims that {mtu} bytes fit")), "{text}");
            // What is said of the kernel is so.
            let route = lab.web.netns.run("ip", &["route", "get", &to.ip().to_string()]);
            let taken = if to.is_ipv4() { 552 } else { 1280 };
            let is_taken = route.contains("mtu") && route.contains(&taken.to_string());
            assert!(is_taken || to.is_ipv6(), "{route}");
            assert_eq!(text.contains(&format!("took it for {taken}")), is_taken, "{route}: {text}");
            assert_eq!(verdict["fate"] == "learned", is_taken, "{route}: {verdict:#}");
            let labels = [("event", "received"), ("family", family(to))];
            assert_eq!(watch.counted("r2c_mtu_events_total", &labels), 1);
            if is_taken {
                let fix = verdict["fix"].as_str().unwrap();
                assert!(fix.ends_with("` in the pod's network namespace forgets it"), "{fix}");
                lab.web.netns.shell(fix.split('`').nth(1).unwrap());
                assert!(!has_learned(&lab, to.ip()), "cured: {fix}");
            }
        }
    }
    forget(&lab);
}

#[test]
fn a_number_larger_than_the_link() {
    let lab = Lab::lock();
    if !sees_messages(&lab) {
        return;
    }
    for (last, mtu) in [(155, 1501), (156, 9000), (157, 65_535)] {
        for to in beyond(last) {
            let watch = Watch::new(&lab);
            let (_socket, own) = connected(&lab, to);
            forge(&lab, &quote(own, to), [mtu]);
            let verdict = verdict(&watch, to, "absurd_mtu");
            let fate = if hears(&lab, to) { "delivered" } else { "unknown" };
            assert_eq!([&verdict["fate"], &verdict["fits"]], [&json!(fate), &json!(null)], "{verdict:#}");
            assert_eq!(verdict["fix"], json!(null), "no fix: {verdict:#}");
            assert_eq!(
                watch.counted("r2c_mtu_events_total", &[("event", "lost")]),
                0,
                "it came to the socket"
            );
            let route = lab.web.netns.run("ip", &["route", "get", &to.ip().to_string()]);
            assert!(!route.contains("mtu"), "{route}");
        }
    }
}

/// The quote names a port, or an end, that is not the socket's.
#[test]
fn a_quote_that_is_no_sockets() {
    let lab = Lab::lock();
    if !sees_messages(&lab) {
        return;
    }
    for to in beyond(161).into_iter().filter(|to| hears(&lab, *to)) {
        let (_socket, own) = connected(&lab, to);
        let watch = Watch::new(&lab);
        let other = SocketAddr::new(own.ip(), own.port() ^ 1);
        forge(&lab, &quote(other, to), [1300]);
        let verdict = verdict(&watch, to, "stray_message");
        assert_eq!(
            [&verdict["pod_name"], &verdict["fate"]],
            [&json!(null), &json!("no_socket")],
            "{verdict:#}"
        );
        // Some kernels believe it all the same.
        let text = verdict["message"].as_str().unwrap();
        let is_believed = text.contains("The route cache took it");
        assert_eq!(is_believed, has_learned(&lab, to.ip()), "{text}; {:#?}", watch.messages());
        assert!(!text.contains("set the MTU"), "{text}");
        assert_eq!(watch.of_pod(WEB, "received"), 1);
        assert_eq!(watch.of(&[], &[("event", "received")]), 1, "nobody else is counted");
    }
    // A packet of another pod's: it is not told, and nothing is said of it.
    let watch = Watch::new(&lab);
    let to = beyond(162)[0];
    forge(&lab, &quote(v4([10, 99, 2, 2], 4000), to), [1300]);
    let stray = verdict(&watch, to, "stray_message");
    assert_eq!(stray["pod_name"], json!(null), "{stray:#}");
    assert_eq!(watch.of_pod("shop/db-0", "received"), 0, "{stray:#}");
}

/// TCP asks for more than addresses and ports: of a segment that it has not under way it believes nothing.
#[test]
fn a_quote_of_a_segment_that_is_not_under_way() {
    let lab = Lab::lock();
    if !sees_messages(&lab) {
        return;
    }
    let _address = lab.far.netns.meanwhile(
        "ip",
        "addr add 10.99.3.163/32 dev eth0\n",
        "addr del 10.99.3.163/32 dev eth0\n",
    );
    let to = v4([10, 99, 3, 163], 4003);
    let listener = lab.far.netns.inside(|| TcpListener::bind(to).unwrap());
    let mut near = lab.web.netns.inside(|| TcpStream::connect(to).unwrap());
    let (mut far, _) = listener.accept().unwrap();
    let watch = Watch::new(&lab);
    let mut quote = quote(near.local_addr().unwrap(), to);
    quote[9] = 6;
    forge(&lab, &quote, [1300]);
    let line = watch.first(&[("destination_ip", json!("10.99.3.163")), ("event", json!("received"))]);
    assert_eq!([&line["protocol"], &line["fate"]], [&json!("TCP"), &json!("delivered")], "{line:#}");
    let verdict = watch.verdict(&[("destination_ip", json!("10.99.3.163"))]);
    assert_eq!(verdict["confidence"], "low", "the kernel did not believe it: {verdict:#}");
    assert!(!lab.web.netns.run("ip", &["route", "get", "10.99.3.163"]).contains("mtu"));
    near.write_all(b"alive").unwrap();
    far.read_exact(&mut [0; 5]).unwrap();
}

/// Now this, now that, hundreds of times within seconds: one incident, a handful of lines.
#[test]
fn numbers_by_turns() {
    let lab = Lab::lock();
    if !sees_messages(&lab) {
        return;
    }
    for (last, high) in [(171, 1500), (172, 1400)] {
        for to in beyond(last) {
            let watch = Watch::new(&lab);
            let (_socket, own) = connected(&lab, to);
            forge(&lab, &quote(own, to), (0..600).map(|turn| if turn % 2 == 0 { high } else { 1280 }));
            let verdict = verdict(&watch, to, "flapping_mtu");
            assert_eq!([&verdict["fits"], &verdict["level"]], [&json!(1280), &json!("WARN")], "{verdict:#}");
            let text = verdict["message"].as_str().unwrap();
            assert!(text.contains(&format!("now 1280, now {high} bytes")), "{text}");
            let labels = [("event", "received"), ("family", family(to))];
            assert_eq!(watch.counted("r2c_mtu_events_total", &labels), 600);
            assert_eq!(watch.of_pod(WEB, "received"), 600);
            let mut lines = watch.lines();
            lines.retain(|line| line["destination_ip"] == to.ip().to_string());
            assert!(lines.len() <= 10, "{} lines: {:#?}", lines.len(), watch.messages());
        }
    }
    forget(&lab);
}
