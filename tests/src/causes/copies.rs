//! What is freed after all has gone well: copies, pieces, originals.

use std::net::UdpSocket;
use std::time::Duration;

use super::{EXT4, LAST, Scene, ipsec};

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
    settle(&scene, &trace);
    assert_eq!(trace.harmful(), Vec::<String>::new());
}

/// The original is freed once it is cut into the segments that are encrypted.
#[test]
fn what_is_segmented_to_be_encrypted() {
    let Some(scene) = ipsec::encrypted() else { return };
    // The first learns how many bytes fit.
    ipsec::transfer(&scene);
    let trace = scene.trace("drops");
    ipsec::transfer(&scene);
    settle(&scene, &trace);
    assert_eq!(trace.harmful(), Vec::<String>::new());
}

/// Nothing is lost when a tunnel's device is made.
#[test]
fn a_device_that_is_made() {
    let scene = Scene::new();
    let trace = scene.trace("drops");
    for number in 0..3 {
        let vxlan = format!("vx{number} type vxlan id {number} dstport 4790 dev uplink");
        if !scene.host.tries("ip", &format!("link add {vxlan}\nlink del vx{number}\n")) {
            return;
        }
    }
    settle(&scene, &trace);
    assert_eq!(trace.harmful(), Vec::<String>::new());
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
    settle(&scene, &trace);
    let to_all = |line: &serde_json::Value| line["destination_ip"] == "10.97.12.255";
    assert!(!trace.lines(to_all).is_empty(), "the kernel dropped none: {}", trace.said().join("\n"));
    assert_eq!(trace.harmful(), Vec::<String>::new());
}

/// Waits until all that happened so far is told: one more drop is made, and awaited.
pub(super) fn settle(scene: &Scene, trace: &super::Trace) {
    assert!(scene.is_answered(EXT4));
    scene
        .ext
        .inside(|| UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"last", ("127.0.0.1", LAST)).unwrap());
    let is_last = |line: &serde_json::Value| line["destination_port"] == LAST;
    trace.expect("the last drop", is_last);
}
