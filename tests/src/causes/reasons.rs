//! Causes for which the kernel gives no reason, or the reason of another.

use std::net::UdpSocket;
use std::time::Duration;

use serde_json::Value;

use super::{Scene, apply, fix, has_module, is_guest};
use crate::harness::has_reasons;
use crate::harness::packet::udp;

/// Whether a datagram of so many bytes comes from `ext` to the pod.
fn arrives(scene: &Scene, port: u16, size: usize) -> bool {
    let socket = scene.web.netns.inside(|| UdpSocket::bind(("10.97.1.2", port)).unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    scene.ext.inside(|| udp(([10, 97, 1, 2], port).into(), 1, size));
    socket.recv(&mut [0; 4000]).is_ok()
}

/// A pod calls its own service, and the node sends that back as it came: from the pod's address to the pod's address.
#[test]
fn a_pod_that_calls_its_own_service_without_masquerade() {
    let scene = Scene::new();
    let web = &scene.web.netns;
    scene.host.batch(
        "nft",
        "add table ip own\nadd chain ip own pre { type nat hook prerouting priority -100; }\n\
         add chain ip own post { type nat hook postrouting priority 100; }\n\
         add rule ip own pre ip daddr 10.97.10.3 udp dport 7 dnat to 10.97.1.2:7731\n",
    );
    let server = web.inside(|| UdpSocket::bind("0.0.0.0:7731").unwrap());
    scene.answer(server);
    let calls = || {
        web.inside(|| {
            let socket = UdpSocket::bind("10.97.1.2:0").unwrap();
            socket.connect("10.97.10.3:7").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            socket.send(b"me").is_ok() && socket.recv(&mut [0; 100]).is_ok()
        })
    };
    let trace = scene.trace("drops");
    assert!(!calls());
    let ours = |line: &Value| line["source_ip"] == "10.97.1.2" && line["destination_ip"] == "10.97.1.2";
    let lost = trace.expect("it comes back", |line| ours(line) && line["harm"] == "harmful");
    if has_reasons() {
        assert_eq!(lost["class"], "routing", "{lost:#}");
        assert!(fix(&lost).starts_with("masquerade what a pod sends to its own service"), "{lost:#}");
    }
    scene.host.batch("nft", "add rule ip own post ip saddr 10.97.1.2 ip daddr 10.97.1.2 masquerade\n");
    assert!(calls(), "cured");
}

/// A rule hands packets to a program that does not run.
#[test]
fn a_queue_that_no_program_reads() {
    if !has_module("nfnetlink_queue") {
        return;
    }
    let scene = Scene::new();
    scene
        .host
        .batch("nft", "add table ip ids\nadd chain ip ids it { type filter hook forward priority 0; }\n");
    if !scene.host.tries("nft", "add rule ip ids it udp dport 7732 queue num 7\n") {
        assert!(!is_guest(), "a guest's nftables has queues");
        return;
    }
    let trace = scene.trace("drops");
    assert!(!arrives(&scene, 7732, 10));
    let lost = trace.expect_class("netfilter", |line| line["destination_port"] == 7732);
    assert!(fix(&lost).starts_with("start the program that reads the queue"), "{lost:#}");
    scene.host.batch("nft", "flush chain ip ids it\nadd rule ip ids it udp dport 7732 queue num 7 bypass\n");
    assert!(arrives(&scene, 7732, 10), "cured");
}

/// Docker's idle bridge has the network of what the pods are to reach.
#[test]
fn an_idle_bridge_whose_network_is_elsewhere() {
    let scene = Scene::new();
    let echo = scene.ext.inside(|| UdpSocket::bind("10.97.9.2:7733").unwrap());
    scene.answer(echo);
    assert!(scene.is_answered("10.97.9.2:7733"));
    scene.host.ip("link add docker0 type bridge\naddr add 10.97.9.3/31 dev docker0\nlink set docker0 up\n");
    let trace = scene.trace("drops");
    assert!(!scene.is_answered("10.97.9.2:7733"));
    let lost = trace.expect("it waits for a neighbour", |line| {
        line["interface"] == "docker0" && line["destination_port"] == 7733
    });
    assert_eq!([&lost["class"], &lost["harm"]], ["neighbour", "harmful"], "{lost:#}");
    assert!(lost["message"].as_str().unwrap().contains("the bridge docker0, which has no ports"), "{lost:#}");
    let commands = fix(&lost);
    assert!(commands.contains("`ip link del docker0`"), "{commands}");
    scene.host.ip("link del docker0\n");
    assert!(scene.is_answered("10.97.9.2:7733"), "cured");
}

/// The pod's namespace has no room for fragments.
#[test]
fn fragments_for_which_there_is_no_room() {
    let scene = Scene::new();
    assert!(arrives(&scene, 7734, 3000), "fragments come together");
    let room = scene.web.netns.run("sysctl", &["-n", "net.ipv4.ipfrag_high_thresh"]);
    // The lower bound may not be above it.
    scene.web.netns.sysctl("ipv4/ipfrag_low_thresh", "0");
    scene.web.netns.sysctl("ipv4/ipfrag_high_thresh", "1");
    let trace = scene.trace("drops");
    assert!(!arrives(&scene, 7734, 3000));
    let lost = trace.expect_class("memory", |line| line["destination_ip"] == "10.97.1.2");
    assert_eq!(lost["function"], "ip_defrag", "{lost:#}");
    let told = fix(&lost);
    assert!(
        told.starts_with("raise `net.ipv4.ipfrag_high_thresh` there") && told.ends_with("(in shop/web-0)"),
        "{told}"
    );
    apply(&scene.web.netns, &format!("`sysctl -w net.ipv4.ipfrag_high_thresh={}`", room.trim()));
    assert!(arrives(&scene, 7734, 3000), "cured");
}
