//! A healthy node on which pods come and go: nothing is harmed, and nothing is told.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::netns::Netns;
use crate::harness::pod::Pod;
use crate::harness::until;

use super::{EXT4, EXT6, Scene, Trace, has_module};

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
    let has_services = make_services(&scene);
    let has_overlay = make_overlay(&scene);
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
        if has_services {
            call_services(&scene, &pods);
        }
        if has_overlay {
            scene.web.netns.run("ping", &["-c", "1", "-W", "5", "10.97.20.1"]);
        }
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

/// Where the n-th pod that comes is reached by a service: NAT, as kube-proxy sets it up, and what a bridge needs for it. Whether
/// this kernel can.
fn make_services(scene: &Scene) -> bool {
    if !["nft_nat", "nft_masq", "br_netfilter"].into_iter().all(has_module) {
        return false;
    }
    scene.host.sysctl("bridge/bridge-nf-call-iptables", "1");
    // The address of a service is translated only once there is a route to it.
    scene.host.ip("route add default via 10.97.9.2\n");
    let rules = ["pre", "out"].into_iter().flat_map(|chain| {
        (0..3).map(move |own| {
            format!(
                "add rule ip svc {chain} ip daddr 10.96.0.10 tcp dport 800{own} dnat to 10.97.8.1{own}:8080\n"
            )
        })
    });
    scene.host.batch(
        "nft",
        &format!(
            "add table ip svc\n\
             add chain ip svc pre {{ type nat hook prerouting priority -100; }}\n\
             add chain ip svc out {{ type nat hook output priority -100; }}\n\
             add chain ip svc post {{ type nat hook postrouting priority 100; }}\n\
             add rule ip svc post oifname \"uplink\" masquerade\n\
             add rule ip svc post ip saddr 10.97.8.0/24 ip daddr 10.97.8.0/24 ct status dnat masquerade\n{}",
            rules.collect::<String>()
        ),
    );
    true
}

/// What services carry all day: a pod, its neighbour, itself, the node and its probes, each a connection that ends in its own way.
fn call_services(scene: &Scene, pods: &[Pod]) {
    let listen = |pod: &Pod| pod.netns.inside(|| TcpListener::bind("0.0.0.0:8080").unwrap());
    let servers: Vec<TcpListener> = pods.iter().map(listen).collect();
    let callers = [&scene.web.netns, &pods[0].netns, &pods[1].netns, &scene.host];
    for (own, server) in (0..).zip(&servers) {
        for from in callers {
            let mut client = from.inside(|| TcpStream::connect(("10.96.0.10", 8000 + own)).unwrap());
            client.write_all(&[1; 200]).unwrap();
            let (mut answers, _) = server.accept().unwrap();
            answers.read_exact(&mut [0; 200]).unwrap();
            answers.write_all(&[2; 3000]).unwrap();
            client.read_exact(&mut [0; 3000]).unwrap();
            // Either end closes first.
            let (first, mut last) = if own % 2 == 0 { (answers, client) } else { (client, answers) };
            drop(first);
            assert_eq!(last.read(&mut [0; 1]).unwrap(), 0);
        }
        // A probe of kubelet's: it connects and leaves.
        let at = (format!("10.97.8.1{own}"), 8080);
        drop(scene.host.inside(|| TcpStream::connect((at.0.as_str(), at.1)).unwrap()));
    }
}

/// An overlay between this node and another, as flannel makes it; 10.97.20.1 is a pod of the other. Whether this kernel can.
fn make_overlay(scene: &Scene) -> bool {
    if !has_module("vxlan") {
        return false;
    }
    let ends = [(&scene.host, "uplink", 1, 2), (&scene.ext, "eth0", 2, 1)];
    for (netns, under, own, other) in ends {
        netns.ip(&format!(
            "link add flannel.1 address 02:00:00:00:20:0{own} type vxlan id 1 local 10.97.9.{own} dstport 8472 nolearning dev {under}\n\
             addr add 10.97.2{own}.0/32 dev flannel.1\nlink set flannel.1 up\n\
             neigh add 10.97.2{other}.0 lladdr 02:00:00:00:20:0{other} dev flannel.1\n"
        ));
        let peer = format!("fdb add 02:00:00:00:20:0{other} dst 10.97.9.{other} dev flannel.1\n");
        netns.batch("bridge", &peer);
    }
    scene.host.ip("route add 10.97.20.0/24 via 10.97.22.0 dev flannel.1 onlink\n");
    scene.ext.ip("addr add 10.97.20.1/32 dev lo\nrule add from 10.97.20.1 lookup 20\n\
         route add default via 10.97.21.0 dev flannel.1 onlink table 20\n");
    true
}

fn findings(trace: &Trace) -> Vec<String> {
    let is_finding = |line: &Value| line["finding"].is_string() && trace.is_ours(line);
    trace.lines(is_finding).iter().map(|line| format!("{line:#}")).collect()
}

/// A pod on the bridge, in a CNI's order: the host's end is up before the pod's.
fn start(scene: &Scene, own: usize) -> Pod {
    let netns = Netns::new();
    scene.host.ip(&format!(
        "link add veth-{own} type veth peer name eth0 netns {}\nlink set veth-{own} master cni0\nlink set veth-{own} up\n\
         link set veth-{own} type bridge_slave hairpin on\n",
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
