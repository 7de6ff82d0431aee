//! A healthy node on which pods come and go: nothing is harmed, and nothing is told.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::netns::Netns;
use crate::harness::pod::Pod;
use crate::harness::until;

use super::{EXT4, EXT6, Scene, Trace};

/// How long it is watched: a release is, for ten minutes (`R2C_QUIET_SECONDS=600`).
fn long() -> Duration {
    let seconds = std::env::var("R2C_QUIET_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(5))
}

/// Links and pods as a CNI makes and removes them, while the pods that stay talk to each other and the world.
#[test]
fn pods_that_come_and_go() {
    let scene = Scene::new();
    scene.host.ip("link add cni0 type bridge\naddr add 10.97.8.1/24 dev cni0\naddr add fd97:8::1/64 dev cni0 nodad\nlink set cni0 up\n");
    let [mut drops, mtu] = ["drops", "mtu"].map(|probe| scene.trace(probe));
    let begun = Instant::now();
    let mut round = 0;
    while begun.elapsed() < long() {
        round += 1;
        let pods: Vec<Pod> = (0..3).map(|own| start(&scene, own)).collect();
        drops.of.extend(pods.iter().map(|pod| pod.netns.inode()));
        for pod in &pods {
            pod.netns.run("ping", &["-c", "1", "-W", "5", "10.97.8.1"]);
            pod.netns.run("ping", &["-c", "1", "-W", "5", "fd97:8::1"]);
        }
        assert!(scene.is_answered(EXT4) && scene.is_answered(EXT6));
        scene.web.netns.run("ping", &["-c", "2", "-i", "0.2", "-s", "1400", "10.97.9.2"]);
        scene.web.netns.run("ping", &["-c", "1", "-s", "3000", "10.97.9.2"]);
        scene.web.netns.run("ping", &["-c", "1", "fd97:9::2"]);
        // Nobody answers a ping to all.
        scene.web.netns.feed("sh", &["-c", "ping -b -c 1 -W 1 10.97.1.255 || true"], "");
        for (own, pod) in pods.into_iter().enumerate() {
            scene.host.ip(&format!("link del veth-{own}\n"));
            pod.stop();
        }
    }
    super::copies::settle(&scene, &drops);
    eprintln!("{round} rounds in {:?}: {} lines", begun.elapsed(), drops.said().len());
    assert_eq!(drops.harmful(), Vec::<String>::new());
    assert_eq!(findings(&mtu), Vec::<String>::new());
    drop(scene);
}

fn findings(trace: &Trace) -> Vec<String> {
    let is_finding = |line: &Value| line["finding"].is_string() && trace.is_ours(line);
    trace.lines(is_finding).iter().map(|line| format!("{line:#}")).collect()
}

/// A pod on the bridge, in a CNI's order: the host's end is up before the pod's.
fn start(scene: &Scene, own: usize) -> Pod {
    let netns = Netns::new();
    scene.host.ip(&format!(
        "link add veth-{own} type veth peer name eth0 netns {}\nlink set veth-{own} master cni0\nlink set veth-{own} up\n",
        netns.path()
    ));
    let last = 10 + own;
    netns.ip(&format!(
        "link set lo up\nlink set eth0 up\naddr add 10.97.8.{last}/24 dev eth0\naddr add fd97:8::{last}/64 dev eth0\n\
         route add default via 10.97.8.1\n"
    ));
    let pod = Pod::start(&scene.node, &format!("shop/come-{own}"), &netns);
    // Until its address is known to be nobody else's it does not use it.
    until("its IPv6 address is its own", || {
        (!netns.run("ip", &["-6", "addr", "show", "tentative"]).contains("fd97:8::")).then_some(())
    });
    pod
}
