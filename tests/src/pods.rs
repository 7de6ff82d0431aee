//! Whose a drop is while pods come and go: the right pod or none, never another.

use std::sync::atomic::{AtomicU16, Ordering};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::agent::Running;
use crate::harness::lab::{Lab, WEB};
use crate::harness::netns::Netns;
use crate::harness::packet::udp;
use crate::harness::pod::{Names, Node, Pod};
use crate::harness::until;

/// Puts `netns` at 10.99.4.2 behind the router, whoever was there before.
fn settle(lab: &Lab, netns: &Netns) {
    lab.router.ip(&format!(
        "link add rd up type veth peer name eth0 netns {}\naddr add 10.99.4.1/24 dev rd\n",
        netns.path()
    ));
    netns.ip("link set eth0 up\naddr add 10.99.4.2/24 dev eth0\nroute add default via 10.99.4.1\n");
}

fn unsettle(lab: &Lab) {
    lab.router.ip("link del rd\n");
}

/// Sends from `web` to a closed port at 10.99.4.2; the port.
fn knock(lab: &Lab) -> u16 {
    static PORTS: AtomicU16 = AtomicU16::new(9000);
    let port = PORTS.fetch_add(1, Ordering::Relaxed);
    lab.web.netns.inside(|| udp(([10, 99, 4, 2], port).into(), 1, 10));
    port
}

/// The name of the pod at one end of the event of `port`.
fn pod_of(lab: &Lab, from: usize, port: u16, end: &str) -> Option<String> {
    lab.barrier();
    let events = lab.events(from);
    let event =
        events.iter().find(|event| event["destination_port"] == port).expect("the event of our knock");
    name(&event[end])
}

fn name(pod: &Value) -> Option<String> {
    Some(format!("{}/{}", pod["namespace"].as_str()?, pod["pod"].as_str()?))
}

/// Knocks until the pod there is named `wanted`; on the way it may have no name, but no other.
fn named(lab: &Lab, wanted: &str) {
    until(&format!("{wanted} is named"), || {
        let from = lab.agent.agent.stdout.count();
        let port = knock(lab);
        let found = pod_of(lab, from, port, "destination_pod");
        assert!(
            found.is_none() || found.as_deref() == Some(wanted),
            "{found:?} is named instead of {wanted}"
        );
        found
    });
}

#[test]
fn an_address_that_moves_to_another_pod() {
    let lab = Lab::lock();
    let first = Netns::new();
    settle(&lab, &first);
    let pod = Pod::start(&lab.node, "shop/first-0", &first);
    named(&lab, "shop/first-0");
    pod.stop();
    unsettle(&lab);

    let second = Netns::new();
    settle(&lab, &second);
    let pod = Pod::start(&lab.node, "shop/second-0", &second);
    named(&lab, "shop/second-0");
    pod.stop();
    unsettle(&lab);
}

/// Datagrams to closed ports, as the kernel counts them in this namespace.
fn refused(netns: &Netns) -> u64 {
    let snmp = netns.inside(|| std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
    let mut udp = snmp.lines().filter_map(|line| line.strip_prefix("Udp: ")).map(str::split_whitespace);
    let (names, values) = (udp.next().unwrap(), udp.next().unwrap());
    let found = names.zip(values).find(|(name, _)| *name == "NoPorts");
    found.unwrap().1.parse().unwrap()
}

#[test]
fn a_pod_that_is_gone_before_its_event_is_read() {
    let lab = Lab::lock();
    let netns = Netns::new();
    settle(&lab, &netns);
    let pod = Pod::start(&lab.node, "shop/brief-0", &netns);
    named(&lab, "shop/brief-0");
    let from = lab.agent.agent.stdout.count();
    let before = refused(&netns);
    lab.agent.agent.signal(Signal::SIGSTOP);
    let port = knock(&lab);
    until("the kernel has dropped it", || (refused(&netns) > before).then_some(()));
    pod.stop();
    unsettle(&lab);
    lab.agent.agent.signal(Signal::SIGCONT);
    let found = pod_of(&lab, from, port, "destination_pod");
    assert_eq!(found.as_deref(), Some("shop/brief-0"), "the kernel side knew it when it happened");
}

#[test]
fn a_pod_on_the_hosts_network() {
    let lab = Lab::lock();
    let known = || lab.agent.scrape().sum("r2c_pods", &[]);
    let before = known();
    let host = Netns::host();
    let pod = Pod::start(&lab.node, "kube-system/proxy-0", &host);
    until("its name is known", || (known() > before).then_some(()));
    let from = lab.agent.agent.stdout.count();
    let port = 9900;
    udp(([127, 0, 0, 1], port).into(), 3, 10);
    lab.barrier();
    let events = lab.events(from);
    let ours: Vec<&Value> = events.iter().filter(|event| event["destination_port"] == port).collect();
    assert_eq!(ours.len(), 3);
    for event in ours {
        assert!(event["source_pod"].is_null() && event["destination_pod"].is_null(), "{event:#}");
        assert!(event["pod_name"].is_null(), "{event:#}");
    }
    pod.stop();
}

#[test]
fn the_same_address_in_a_namespace_nobody_knows() {
    let lab = Lab::lock();
    let stranger = Netns::new();
    stranger.ip("link set lo up\naddr add 10.99.2.2/32 dev lo\n");
    let from = lab.agent.agent.stdout.count();
    let port = 9901;
    stranger.inside(|| udp(([10, 99, 2, 2], port).into(), 3, 10));
    lab.barrier();
    let events = lab.events(from);
    let theirs: Vec<&Value> = events.iter().filter(|event| event["destination_port"] == port).collect();
    assert_eq!(theirs.len(), 3);
    for event in theirs {
        assert_eq!(event["destination_ip"], "10.99.2.2", "db's, on the node's network: {event:#}");
        assert!(event["source_pod"].is_null() && event["destination_pod"].is_null(), "{event:#}");
    }
}

#[test]
fn two_pods_that_claim_one_address() {
    let lab = Lab::lock();
    let netns = Netns::new();
    settle(&lab, &netns);
    let honest = Pod::start(&lab.node, "shop/honest-0", &netns);
    named(&lab, "shop/honest-0");
    // Not connected to anything, but it has the address.
    let forger = Netns::new();
    forger.ip("link set lo up\naddr add 10.99.4.2/32 dev lo\n");
    let forging = Pod::start(&lab.node, "evil/forger-0", &forger);
    let ambiguous = || lab.agent.scrape().sum("r2c_pods_left_out_total", &[("why", "key_ambiguous")]);
    until("the claim is seen", || (ambiguous() > 0).then_some(()));
    let from = lab.agent.agent.stdout.count();
    // Its own namespace still says whose it is.
    let port = knock(&lab);
    assert_eq!(pod_of(&lab, from, port, "destination_pod").as_deref(), Some("shop/honest-0"));
    assert_eq!(pod_of(&lab, from, port, "source_pod").as_deref(), Some(WEB));
    honest.stop();
    forging.stop();
    unsettle(&lab);
}

/// Both of kubelet's cgroup drivers, three runtimes, and a guaranteed pod, which has no class of its own.
const NAMES: [Names; 6] = [
    Names {
        pod: "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU_I_D.slice",
        container: "cri-containerd-ID.scope",
    },
    Names {
        pod: "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_I_D.slice",
        container: "crio-ID.scope",
    },
    Names { pod: "kubepods.slice/kubepods-podU_I_D.slice", container: "docker-ID.scope" },
    Names { pod: "kubepods/burstable/podUID", container: "ID" },
    Names { pod: "kubepods/besteffort/podUID", container: "crio-ID" },
    Names { pod: "kubelet/kubepods/podUID", container: "ID" },
];

#[test]
fn every_way_to_name_cgroups() {
    for node in [Node::new(), Node::v1()] {
        let pods: Vec<(String, Pod)> = NAMES
            .iter()
            .enumerate()
            .map(|(number, names)| {
                let name = format!("layout/pod-{number}");
                let netns = Netns::new();
                netns.ip("link set lo up\n");
                let pod = Pod::start_as(names, &node, &name, &netns);
                (name, pod)
            })
            .collect();
        let mut running = Running::start(&node, &["--events", "all"]);
        for (_, pod) in &pods {
            pod.netns.inside(|| udp(([127, 0, 0, 1], 9905).into(), 1, 10));
        }
        running.terminate();
        let lines = running.agent.stdout.since(0);
        let events = lines.iter().filter_map(|line| serde_json::from_slice::<Value>(line).ok());
        let ours = events.filter(|event| event["destination_port"] == 9905);
        let mut found: Vec<Option<String>> = ours.map(|event| name(&event["destination_pod"])).collect();
        found.sort();
        let wanted: Vec<Option<String>> = pods.iter().map(|(name, _)| Some(name.clone())).collect();
        assert_eq!(found, wanted, "under {}", node.cgroup.display());
        for (_, pod) in pods {
            pod.stop();
        }
    }
}
