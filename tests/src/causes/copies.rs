//! What is freed after all has gone well: copies, pieces, originals.

use std::net::UdpSocket;
use std::time::Duration;

use serde_json::Value;

use crate::harness::packet::udp;

use super::{EXT4, LAST, Scene, Trace, has_module, ipsec};

/// Where nobody listens: what is sent there is lost, and counts as harm.
const CLOSED: u16 = 7798;

/// Datagrams that come in fragments are freed in pieces, after the whole has been read.
#[test]
fn fragments_that_became_whole() {
    let scene = Scene::new();
    let trace = scene.trace("drops");
    scene.web.netns.run("ping", &["-c", "3", "-i", "0.2", "-s", "4000", "10.97.9.2"]);
    let reader = scene.ext.inside(|| UdpSocket::bind("10.97.9.2:7700").unwrap());
    reader.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    scene.web.netns.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for _ in 0..10 {
            socket.send_to(&[7; 4000], "10.97.9.2:7700").unwrap();
            assert_eq!(reader.recv(&mut [0; 5000]).unwrap(), 4000);
        }
    });
    expect_no_harm(&scene, &trace);
    // A piece that is lost, as there is no room for it. The lower bound may not be above the other.
    scene.ext.sysctl("ipv4/ipfrag_low_thresh", "0");
    scene.ext.sysctl("ipv4/ipfrag_high_thresh", "1");
    scene.web.netns.inside(|| udp(([10, 97, 9, 2], 7700).into(), 1, 4000));
    trace.expect_class("memory", |line| line["harm"] == "harmful" && line["destination_ip"] == "10.97.9.2");
}

/// The original is freed once it is cut into the segments that are encrypted.
#[test]
fn what_is_segmented_to_be_encrypted() {
    let Some(scene) = ipsec::encrypted() else { return };
    // The first learns how many bytes fit.
    ipsec::transfer(&scene);
    let trace = scene.trace("drops");
    ipsec::transfer(&scene);
    expect_no_harm(&scene, &trace);
    // Without a key at the other end it is lost in the same way.
    scene.ext.ip("xfrm state deleteall src 10.97.9.1\n");
    assert!(!scene.is_answered("10.97.5.2:7"));
    trace.expect_class("policy", |line| line["harm"] == "harmful" && line["netns"] == scene.ext.inode());
}

/// Nothing is lost when a tunnel's device is made.
#[test]
fn a_device_that_is_made() {
    if !has_module("vxlan") {
        return;
    }
    let scene = Scene::new();
    let trace = scene.trace("drops");
    for number in 0..3 {
        let vxlan = format!("vx{number} type vxlan id {number} dstport 4790 dev uplink");
        scene.host.ip(&format!("link add {vxlan}\nlink del vx{number}\n"));
    }
    expect_no_harm(&scene, &trace);
}

/// `icmp_echo_ignore_broadcasts`: nobody answers.
#[test]
fn a_ping_to_all() {
    let scene = Scene::new();
    for (netns, device, own) in [(&scene.host, "uplink", 1), (&scene.ext, "eth0", 2)] {
        netns.ip(&format!("addr add 10.97.12.{own}/24 brd + dev {device}\n"));
    }
    let trace = scene.trace("drops");
    scene.host.feed("sh", &["-c", "ping -b -c 2 -i 0.2 -W 1 10.97.12.255 || true"], "");
    expect_no_harm(&scene, &trace);
    let to_all = |line: &Value| line["destination_ip"] == "10.97.12.255";
    assert!(!trace.lines(to_all).is_empty(), "the kernel dropped none: {}", trace.said().join("\n"));
}

/// Nothing of harm is told of what happened so far; of what is lost now, in each of the namespaces where it happened, it is.
fn expect_no_harm(scene: &Scene, trace: &Trace) {
    settle(scene, trace);
    assert_eq!(trace.harmful(), Vec::<String>::new());
    let all = [&scene.host, &scene.web.netns, &scene.ext];
    for netns in all {
        netns.inside(|| udp(([127, 0, 0, 1], CLOSED).into(), 1, 10));
        trace.expect("a lost datagram", |line| {
            line["destination_port"] == CLOSED && line["netns"] == netns.inode()
        });
    }
    let harmful = trace.harmful();
    assert_eq!(harmful.len(), all.len(), "{harmful:#?}");
}

/// Waits until all that happened so far is told: one more drop is made, and awaited.
pub(super) fn settle(scene: &Scene, trace: &Trace) {
    assert!(scene.is_answered(EXT4));
    scene
        .ext
        .inside(|| UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"last", ("127.0.0.1", LAST)).unwrap());
    let is_last = |line: &Value| line["destination_port"] == LAST;
    trace.expect("the last drop", is_last);
}
