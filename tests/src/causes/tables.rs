//! Tables of the kernel that are full.

use std::fs;
use std::net::{IpAddr, UdpSocket};

use nix::sys::signal::Signal;

use crate::harness::netns::Netns;
use crate::harness::until;

use super::{EXT4, EXT6, Scene, apply, fix, has_module, is_guest};

/// A number of the kernel's, for all namespaces, that is put back at the end.
pub(super) struct Setting {
    path: &'static str,
    was: String,
}

impl Setting {
    pub(super) fn new(path: &'static str, value: &str) -> Self {
        let was = fs::read_to_string(path).unwrap();
        fs::write(path, value).unwrap_or_else(|error| panic!("{path} = {value}: {error}"));
        Self { path, was }
    }

    /// Sets it anew.
    pub(super) fn set(&self, value: &str) {
        fs::write(self.path, value).unwrap_or_else(|error| panic!("{} = {value}: {error}", self.path));
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = fs::write(self.path, &self.was);
    }
}

const NEIGHBOURS: [&str; 3] = [
    "/proc/sys/net/ipv4/neigh/default/gc_thresh1",
    "/proc/sys/net/ipv4/neigh/default/gc_thresh2",
    "/proc/sys/net/ipv4/neigh/default/gc_thresh3",
];

const NEIGHBOURS_OF_IPV6: [&str; 3] = [
    "/proc/sys/net/ipv6/neigh/default/gc_thresh1",
    "/proc/sys/net/ipv6/neigh/default/gc_thresh2",
    "/proc/sys/net/ipv6/neigh/default/gc_thresh3",
];

#[test]
fn a_full_neighbour_table() {
    full_of_neighbours("ipv4", NEIGHBOURS, "10.97.9.", EXT4);
}

#[test]
fn a_full_neighbour_table_of_ipv6() {
    full_of_neighbours("ipv6", NEIGHBOURS_OF_IPV6, "fd97:9::", EXT6);
}

/// Somebody on the node asks for all addresses of a net.
fn full_of_neighbours(family: &str, limits: [&'static str; 3], net: &str, to: &str) {
    // Its limits are the machine's.
    if !is_guest() {
        return;
    }
    let scene = Scene::new();
    // The limits are the first namespace's, and so is who may read them.
    let trace = first_namespace(&scene);
    let _limits = [Setting::new(limits[0], "4"), Setting::new(limits[1], "8"), Setting::new(limits[2], "16")];
    scene.host.inside(|| {
        let socket = UdpSocket::bind("[::]:0").unwrap();
        for last in 20..120 {
            let neighbour: IpAddr = format!("{net}{last}").parse().unwrap();
            let neighbour = match neighbour {
                IpAddr::V4(address) => address.to_ipv6_mapped(),
                IpAddr::V6(address) => address,
            };
            // Refused at once where the table is full.
            let _ = socket.send_to(b"anybody?", (neighbour, 9));
        }
    });
    let event = trace.expect_class("neighbour_table", |event| event["interface"] == "uplink");
    let message = event["message"].as_str().unwrap();
    assert!(
        message.contains("the neighbour table is full: ")
            && message.contains(&format!(" of 16 (net.{family}.")),
        "{event:#}"
    );
    apply(&Netns::host(), &fix(&event));
    assert_eq!(fs::read_to_string(limits[2]).unwrap().trim(), "32");
    // Room for as many again; those that nobody answers for go in some seconds.
    assert!((0..5).any(|_| scene.is_answered(to)), "cured");
}

#[test]
fn a_full_conntrack_table() {
    const MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
    if !is_guest() || !has_module("nf_conntrack") || !fs::exists(MAX).unwrap() {
        return;
    }
    let scene = Scene::new();
    scene.host.batch(
        "nft",
        "add table ip track\nadd chain ip track it { type filter hook forward priority 0; }\n\
         add rule ip track it ct state new counter\n",
    );
    let mut trace = scene.trace("drops");
    let limit = Setting::new(MAX, "20");
    // Another program of the node fills it.
    scene.host.inside(|| {
        for port in 9000..9100_u16 {
            let _ = UdpSocket::bind("10.97.9.1:0").unwrap().send_to(b"x", ("10.97.9.2", port));
        }
    });
    // A full table makes room where it finds a connection that nobody has answered near the new one's place.
    until("a connection is refused", || (!scene.is_answered(EXT4)).then_some(()));
    let event = trace.expect_class("netfilter", |event| event["interface"] == "veth-web");
    let message = event["message"].as_str().unwrap();
    assert!(
        message.contains("conntrack's table is full: 2") && message.contains(" connections of 20 "),
        "{event:#}"
    );
    let fix = fix(&event);
    assert!(fix.starts_with("`sysctl -w net.netfilter.nf_conntrack_max=40`"), "{fix}");
    apply(&Netns::host(), &fix);
    until("cured", || scene.is_answered(EXT4).then_some(()));
    drop(limit);
    trace.agent.signal(Signal::SIGINT);
    trace.agent.ended();
    let summary = trace.agent.stderr.text();
    assert!(summary.contains("cause of netfilter: conntrack's table is full: 2"), "{summary}");
    assert!(summary.contains("fix of netfilter: `sysctl -w net.netfilter.nf_conntrack_max=40`"), "{summary}");
}

/// A trace in the first network namespace, whose settings hold for all.
fn first_namespace(scene: &Scene) -> super::Trace {
    use crate::harness::agent::{Agent, command};
    let ready = scene.node.logs.with_file_name("ready-first");
    let args =
        ["trace", "drops", "--all", "--duration", "0", "-o", "json", "--ready-file", ready.to_str().unwrap()];
    let agent = Agent::spawn(&mut command(&scene.node, &args));
    until("attached", || fs::exists(&ready).unwrap().then_some(()));
    super::Trace { agent, probe: "drops".to_owned(), of: vec![scene.host.inode()] }
}
