//! Devices that are not ready, or that take less than a packet.

use std::net::{SocketAddrV6, UdpSocket};
use std::time::Duration;

use crate::harness::netns::Netns;
use crate::harness::packet::udp;
use crate::harness::{has_reasons, until};

use super::{EXT4, EXT6, Scene, apply, fix, is_guest, link_local};

#[test]
fn forwarding_that_is_off() {
    let scene = Scene::new();
    for (sysctl, off, to, version) in [
        ("ipv4/ip_forward", "0", EXT4, "ipv4"),
        ("ipv4/conf/veth-web/forwarding", "0", EXT4, "ipv4 of one device"),
        ("ipv6/conf/all/forwarding", "0", EXT6, "ipv6"),
    ] {
        let trace = scene.trace("drops");
        scene.host.sysctl(sysctl, off);
        assert!(!scene.is_answered(to), "{version}");
        // Without reasons all that IPv4 does not route ends in one place.
        let class = if has_reasons() || to == EXT6 { "forwarding_off" } else { "routing" };
        let event = trace.expect_class(class, |event| event["interface"] == "veth-web");
        assert!(event["message"].as_str().unwrap().contains("forwarding is off"), "{event:#}");
        // What it has one look at tells that it is that: the route is there, and not to be seen now.
        let looks = fix(&event);
        let look = looks.split('`').find(|command| command.starts_with("sysctl net."));
        let shown = look.map(|look| scene.host.run("sh", &["-c", look]));
        assert!(has_reasons() || to == EXT6 || shown.is_some_and(|shown| shown.contains("= 0")), "{looks}");
        // One after the other, as they are read.
        for command in
            fix(&event).split('`').skip(1).step_by(2).filter(|command| command.starts_with("sysctl"))
        {
            scene.host.run("sh", &["-c", command]);
        }
        assert!(scene.is_answered(to), "{version} is cured");
    }
}

/// A pod gets what is for another: it is no router, and who sends to it is wrong, or an address is missing there.
#[test]
fn what_a_pod_gets_for_another() {
    let scene = Scene::new();
    scene.web.netns.sysctl("ipv4/ip_forward", "0");
    scene.host.ip("route add 10.98.0.9/32 via 10.97.1.2\n");
    let trace = scene.trace("drops");
    let send = || scene.ext.inside(|| udp("10.98.0.9:7703".parse().unwrap(), 1, 10));
    send();
    let event = trace.expect("it dies there", |event| event["destination_port"] == 7703);
    if has_reasons() {
        assert_eq!(event["class"], "forwarding_off", "{event:#}");
        let fix = fix(&event);
        assert!(fix.starts_with("see who sends it there, where nothing has its address"), "{fix}");
        assert!(fix.ends_with(" (in shop/web-0)"), "{fix}");
    }
    scene.web.netns.ip("addr add 10.98.0.9/32 dev lo\n");
    let socket = scene.web.netns.inside(|| UdpSocket::bind("10.98.0.9:7703").unwrap());
    send();
    assert!(arrives(&socket), "cured");
}

/// Whether something comes within some seconds.
fn arrives(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.recv(&mut [0; 100]).is_ok()
}

/// Forwarding is on, and would not help: no router passes on what comes from an address of the link alone.
#[test]
fn a_source_that_ipv6_does_not_forward() {
    let scene = Scene::new();
    let trace = scene.trace("drops");
    let own = scene.web.netns.inside(|| {
        let index = nix::net::if_::if_nametoindex("eth0").unwrap();
        let address = link_local(&scene.web.netns, "eth0");
        // The kernel may not be sure of it yet.
        until("it may be used", || UdpSocket::bind(SocketAddrV6::new(address, 0, 0, index)).ok())
    });
    own.send_to(b"far", "[fd97:9::2]:7704").unwrap();
    let event = trace.expect_class("routing", |event| event["destination_port"] == 7704);
    assert_eq!([&event["interface"], &event["harm"]], ["veth-web", "harmful"], "{event:#}");
    let text = event["message"].as_str().unwrap();
    assert!(text.contains("IPv6 forwards nothing from such a source"), "{event:#}");
    assert!(fix(&event).starts_with("let its sender use an address that is routed"), "{event:#}");
    let socket = scene.ext.inside(|| UdpSocket::bind("[fd97:9::2]:7704").unwrap());
    let routed = scene.web.netns.inside(|| UdpSocket::bind("[fd97:1::2]:0").unwrap());
    routed.send_to(b"far", "[fd97:9::2]:7704").unwrap();
    assert!(arrives(&socket), "cured");
}

#[test]
fn a_cable_that_is_out() {
    let scene = Scene::new();
    let trace = scene.trace("drops");
    scene.ext.ip("link set eth0 down\n");
    // A neighbour that was known a moment ago is still sent to.
    assert!(!scene.is_answered(EXT4));
    let event = trace
        .expect_class("no_carrier", |event| event["interface"] == "uplink" && event["harm"] == "harmful");
    assert!(fix(&event).starts_with("bring up the other end of uplink"), "{event:#}");
    scene.ext.ip("link set eth0 up\nroute add default via 10.97.9.1\n");
    assert!((0..5).any(|_| scene.is_answered(EXT4)), "cured");
}

#[test]
fn a_device_that_is_down() {
    let scene = Scene::new();
    let netns = Netns::new();
    netns.ip(
        "link add d0 type veth peer name d1\nlink set d1 up\nlink set d0 up\naddr add 10.97.3.1/24 dev d0\n",
    );
    let trace = scene.trace("drops");
    netns.inside(|| udp("10.97.3.1:7701".parse().unwrap(), 1, 10));
    let event = trace.expect_class("device_down", |event| event["destination_port"] == 7701);
    assert_eq!((&event["interface"], &event["harm"]), (&"lo".into(), &"harmful".into()), "{event:#}");
    let told = format!(" (in network namespace {0}: `lsns {0}` lists its processes)", netns.inode());
    assert!(fix(&event).ends_with(&told), "{event:#}");
    apply(&netns, &fix(&event));
    netns.inside(|| {
        let socket = UdpSocket::bind("10.97.3.1:7702").unwrap();
        udp("10.97.3.1:7702".parse().unwrap(), 1, 10);
        assert!(arrives(&socket), "cured");
    });
}

/// The bandwidth plugin's token bucket with too small a burst: small packets pass, full ones never.
#[test]
fn a_token_bucket_smaller_than_a_packet() {
    let scene = Scene::new();
    if !scene.host.tries("tc", "qdisc add dev veth-web root tbf rate 10mbit burst 1400 latency 50ms\n") {
        return;
    }
    assert!(scene.is_answered_of(EXT4, 1000), "small ones pass");
    let trace = scene.trace("drops");
    assert!(!scene.is_answered_of(EXT4, 1472));
    let event = trace.expect_class("mtu", |event| event["interface"] == "veth-web");
    let message = event["message"].as_str().unwrap();
    assert!(
        message.contains(
            "a frame of 1514 bytes is more than the token bucket of veth-web ever holds (burst 1400)"
        ),
        "{event:#}"
    );
    let burst = fix(&event).split_once("a burst of ").unwrap().1.split_once(' ').unwrap().0.to_owned();
    scene.host.batch(
        "tc",
        &format!("qdisc replace dev veth-web root tbf rate 10mbit burst {burst} latency 50ms\n"),
    );
    assert!(scene.is_answered_of(EXT4, 1472), "cured by {burst}");
}

#[test]
fn ipv6_on_a_device_that_takes_too_little_for_it() {
    let scene = Scene::new();
    let trace = scene.trace("drops");
    scene.host.ip("link set veth-web mtu 1000\n");
    assert!(!scene.is_answered(EXT6));
    let event = trace
        .expect_class("ipv6_off", |event| event["interface"] == "veth-web" && event["harm"] == "harmful");
    assert!(
        event["message"].as_str().unwrap().contains("it takes 1000 bytes, and IPv6 needs 1280"),
        "{event:#}"
    );
    scene.apply(&fix(&event));
    assert!(
        fix(&event).contains("its IPv6 addresses and routes are gone, and must be set again"),
        "{event:#}"
    );
    scene.host.ip("addr add fd97:1::1/64 dev veth-web nodad\n");
    assert!((0..5).any(|_| scene.is_answered(EXT6)), "cured");
}

/// On a node's device, and on a pod's, whose name the node's uplink has as well.
#[test]
fn ipv6_that_is_off_on_a_device() {
    let scene = Scene::new();
    for (netns, device, there, again) in [
        (&scene.host, "veth-web", "", "addr add fd97:1::1/64 dev veth-web nodad\n"),
        (
            &scene.web.netns,
            "eth0",
            " (in shop/web-0)",
            "addr add fd97:1::2/64 dev eth0 nodad\nroute add default via fd97:1::1\n",
        ),
    ] {
        let trace = scene.trace("drops");
        netns.sysctl(&format!("ipv6/conf/{device}/disable_ipv6"), "1");
        if device == "eth0" {
            scene.ext.inside(|| udp("[fd97:1::2]:7705".parse().unwrap(), 1, 10));
        } else {
            assert!(!scene.is_answered(EXT6));
        }
        // Without reasons a wrong header ends in the same place.
        let class = if has_reasons() { "ipv6_off" } else { "malformed" };
        let event =
            trace.expect_class(class, |event| event["interface"] == device && event["harm"] == "harmful");
        let cured = if has_reasons() {
            fix(&event)
        } else {
            let looks = format!("see whether IPv6 is off: `sysctl net.ipv6.conf.{device}.disable_ipv6`; ");
            assert!(fix(&event).starts_with(&looks) && fix(&event).ends_with(there), "{event:#}");
            format!(
                "`sysctl -w net.ipv6.conf.{device}.disable_ipv6=0`; its IPv6 addresses and routes are gone, and must be set again{there}"
            )
        };
        assert!(cured.ends_with(&format!("must be set again{there}")), "{cured}");
        scene.apply(&cured);
        netns.ip(again);
        assert!((0..5).any(|_| scene.is_answered(EXT6)), "cured: {cured}");
    }
}

/// What a chaos test has left behind in a pod, whose queues are not looked at.
#[test]
fn a_network_emulator_in_a_pod() {
    let scene = Scene::new();
    let web = &scene.web.netns;
    if !web.tries("tc", "qdisc add dev eth0 root netem loss 100%\n") {
        assert!(!is_guest(), "a guest's kernel has netem");
        return;
    }
    let trace = scene.trace("drops");
    assert!(!scene.is_answered(EXT4));
    let event = trace.expect_class("queue", |event| event["interface"] == "eth0");
    assert_eq!([&event["harm"], &event["pod_name"]], ["harmful", "web-0"], "{event:#}");
    let text = event["message"].as_str().unwrap();
    assert!(
        text.contains("a queue was full, or one that shapes (tbf) or emulates (netem) dropped it"),
        "{event:#}"
    );
    let fix = fix(&event);
    let told =
        "`tc -s qdisc show dev eth0` tells which dropped it: take away an emulator that no test wants, ";
    assert!(fix.starts_with(told) && fix.ends_with(" (in shop/web-0)"), "{fix}");
    let shown = web.run("sh", &["-c", fix.split('`').nth(1).unwrap()]);
    assert!(
        shown.contains("netem") && shown.contains("(dropped ") && !shown.contains("(dropped 0,"),
        "{shown}"
    );
    web.batch("tc", "qdisc del dev eth0 root\n");
    assert!(scene.is_answered(EXT4), "cured");
}

/// What a chaos test has left behind.
#[test]
fn a_network_emulator_that_loses_packets() {
    let scene = Scene::new();
    if !scene.host.tries("tc", "qdisc add dev uplink root netem loss 100%\n") {
        assert!(!is_guest(), "a guest's kernel has netem");
        return;
    }
    let trace = scene.trace("drops");
    assert!(!scene.is_answered(EXT4));
    let event = trace.expect_class("queue", |event| event["interface"] == "uplink");
    let text = event["message"].as_str().unwrap();
    assert!(text.contains("(netem) of uplink loses packets on purpose (loss 100%)"), "{event:#}");
    scene.apply(&fix(&event));
    assert!(scene.is_answered(EXT4), "cured");
    drop(trace);
    // Below a token bucket, which would lose all with nothing below it.
    scene.host.batch(
        "tc",
        "qdisc add dev uplink root handle 1: tbf rate 100mbit burst 20kb latency 50ms\n\
         qdisc add dev uplink parent 1:1 netem loss 100%\n",
    );
    let trace = scene.trace("drops");
    assert!(!scene.is_answered(EXT4));
    let event = trace.expect_class("queue", |event| event["interface"] == "uplink");
    assert!(fix(&event).starts_with("`tc qdisc replace dev uplink parent 1:1 pfifo`"), "{event:#}");
    scene.apply(&fix(&event));
    assert!(scene.is_answered(EXT4), "cured");
    let left = scene.host.run("tc", &["qdisc", "show", "dev", "uplink"]);
    assert!(left.contains("tbf") && !left.contains("netem"), "{left}");
}
