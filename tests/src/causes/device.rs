//! Devices that are not ready, or that take less than a packet.

use crate::harness::has_reasons;
use crate::harness::netns::Netns;
use crate::harness::packet::udp;

use super::{EXT4, EXT6, Scene, apply, fix, is_guest};

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
        if has_reasons() {
            let event = trace.expect_class("forwarding_off", |event| event["interface"] == "veth-web");
            assert!(event["message"].as_str().unwrap().contains("forwarding is off"), "{event:#}");
            // One after the other, as they are read.
            for command in fix(&event).split('`').skip(1).step_by(2) {
                scene.host.run("sh", &["-c", command]);
            }
        } else {
            // All that is not routed ends in one place.
            trace.expect("drop without a route", |event| {
                event["function"] == "ip_error" || event["function"] == "ip6_forward"
            });
            scene.host.sysctl(sysctl, "1");
        }
        assert!(scene.is_answered(to), "{version} is cured");
    }
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
    apply(&netns, &fix(&event));
    netns.inside(|| {
        let socket = std::net::UdpSocket::bind("10.97.3.1:7702").unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        udp("10.97.3.1:7702".parse().unwrap(), 1, 10);
        assert!(socket.recv(&mut [0; 100]).is_ok(), "cured");
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
    apply(&scene.host, &fix(&event));
    // With IPv6 its addresses had gone.
    scene.host.ip("addr add fd97:1::1/64 dev veth-web nodad\n");
    assert!((0..5).any(|_| scene.is_answered(EXT6)), "cured");
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
    apply(&scene.host, &fix(&event));
    assert!(scene.is_answered(EXT4), "cured");
}
