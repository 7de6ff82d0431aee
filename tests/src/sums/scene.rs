//! The node and all around it that each topology shares, and the one agent that watches.
//!
//! ```text
//!  pod eth0 10.96.N.2 --- lanN 10.96.N.1 node out 10.96.7.1 --- 10.96.7.2 hop 10.96.8.1 --- eth0 10.96.8.2 tip
//! ```
//! The hop's way to the tip has MTU 1400; the tip does not forward. IPv6 has `fd96:N::`, N in hexadecimal.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::harness::agent::{Running, json};
use crate::harness::guest::has_module;
use crate::harness::netns::Netns;
use crate::harness::ovs::Bridge;
use crate::harness::packet::udp_for;
use crate::harness::pod::{Node, Pod};
use crate::harness::scrape::Scrape;
use crate::harness::until;

use super::kernel::Counters;
use super::ways::{WAYS, Way};

/// Where the tip sends back what is short.
pub(super) const ECHO: u16 = 7960;

/// Name of the pod behind the hop.
pub(super) const TIP: &str = "edge/sum-0";

/// Routes to where nobody is, at the tip.
pub(super) const ELSEWHERE_BY_HOP: &str =
    "route replace 10.96.12.0/24 via 10.96.7.2\nroute replace fd96:c::/64 via fd96:7::2\n";

/// See the module.
pub(super) struct Scene {
    /// Those that this kernel knows.
    pub(super) ways: Vec<&'static Way>,
    pub(super) node: Netns,
    /// Each with the third number of its address.
    pods: Vec<(u8, Pod)>,
    hop: Netns,
    pub(super) tip: Pod,
    pub(super) agent: Running,
    ends: Arc<AtomicBool>,
    _directories: Node,
    _bridge: Option<Bridge>,
}

/// An address: of net N the one that ends in `last`.
pub(super) fn address(family: u8, net: u8, last: u8) -> IpAddr {
    if family == 4 {
        Ipv4Addr::new(10, 96, net, last).into()
    } else {
        Ipv6Addr::new(0xfd96, net.into(), 0, 0, 0, 0, 0, last.into()).into()
    }
}

impl Scene {
    pub(super) fn new() -> Self {
        // Before the agent: it reads the names of a module's functions some time after the first drop in one, and until then
        // may count that drop by another class.
        let ways: Vec<&Way> = WAYS.iter().filter(|way| way.is_known()).collect();
        let [node, hop, tip] = std::array::from_fn(|_| namespace());
        node.ip(&format!(
            "link set lo up\nlink add out type veth peer name in netns {}\nlink set out up\n\
             addr add 10.96.7.1/24 dev out\naddr add fd96:7::1/64 dev out nodad\n\
             route add 10.96.8.0/24 via 10.96.7.2\nroute add fd96:8::/64 via fd96:7::2\n\
             {ELSEWHERE_BY_HOP}",
            hop.path()
        ));
        hop.ip(&format!(
            "link set lo up\nlink set in up\naddr add 10.96.7.2/24 dev in\naddr add fd96:7::2/64 dev in nodad\n\
             link add mtu 1400 name on type veth peer name eth0 netns {}\nlink set on up\n\
             addr add 10.96.8.1/24 dev on\naddr add fd96:8::1/64 dev on nodad\n\
             route add 10.96.0.0/21 via 10.96.7.1\nroute add fd96::/29 via fd96:7::1\n\
             route add 10.96.14.0/24 via 10.96.7.1\nroute add fd96:e::/64 via fd96:7::1\n\
             route add 10.96.12.0/24 via 10.96.8.2\nroute add fd96:c::/64 via fd96:8::2\n",
            tip.path()
        ));
        tip.ip("link set lo up\nlink set eth0 up\naddr add 10.96.8.2/24 dev eth0\naddr add fd96:8::2/64 dev eth0 nodad\n\
             route add default via 10.96.8.1\nroute add default via fd96:8::1\n");
        for (netns, forwards) in [(&node, "1"), (&hop, "1"), (&tip, "0")] {
            netns.sysctl("ipv4/ip_forward", forwards);
            netns.sysctl("ipv6/conf/all/forwarding", forwards);
        }
        let (homes, bridge) = pods(&node, &ways);
        let directories = Node::routing(&node);
        let start = |name: &str, netns: &Netns| Pod::start(&directories, name, netns);
        let pods: Vec<_> =
            homes.into_iter().map(|(way, home)| (way.from, start(&way.pod(), &home))).collect();
        let tip = start(TIP, &tip);
        let agent = Running::start(&directories, &[]);
        assert_eq!(usize::try_from(agent.scrape().sum("r2c_pods", &[])), Ok(pods.len() + 1));
        let ends = Arc::default();
        echo(&tip.netns, Arc::clone(&ends));
        Self { ways, node, pods, hop, tip, agent, ends, _directories: directories, _bridge: bridge }
    }

    /// Whether this kernel lets the agent see messages at all; where it does not, the agent must have said so.
    pub(super) fn sees_messages(&self) -> bool {
        let hook = [("probe", "mtu"), ("hook", "__icmp_send"), ("rung", "none")];
        let sees = self.agent.scrape().sum("r2c_hook_rung", &hook) == 0;
        let said = self.agent.agent.stderr.text();
        assert!(sees || said.contains("__icmp_send"), "it does not attach, and does not say so: {said}");
        sees
    }

    /// Whose packets go this way.
    pub(super) fn pod(&self, way: &Way) -> &Pod {
        &self.pods.iter().find(|(net, _)| *net == way.from).unwrap().1
    }

    /// Waits for an answer, by which time what was sent before has come to its end, and what it was answered as well: the
    /// order is kept both ways. Also makes the neighbours known.
    pub(super) fn echo(&self, way: &Way, family: u8) {
        let to = SocketAddr::new(address(family, way.target(), 2), ECHO);
        self.pod(way).netns.inside(|| {
            let socket = udp_for(to);
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            until(&format!("{to} answers by {}", way.name), || {
                let sent = socket.send_to(b"there?", to);
                sent.and_then(|_| socket.recv(&mut [0; 100])).ok()
            });
        });
    }

    /// Does it while the hop has no route to the tip.
    pub(super) fn while_the_hop_is_lost(&self, work: impl FnOnce()) {
        self.hop.ip("route del 10.96.8.0/24 dev on\nroute del fd96:8::/64 dev on\n");
        work();
        self.hop.ip("route add 10.96.8.0/24 dev on src 10.96.8.1\nroute add fd96:8::/64 dev on\n");
    }

    /// What the kernel counts and what the agent does, at a time when nothing happens in between.
    pub(super) fn counts(&self, way: &Way) -> Counts {
        let all = [&self.pod(way).netns, &self.node, &self.hop, &self.tip.netns];
        until("nothing is under way", || {
            let [pod, node, hop, tip] = all.map(Counters::of);
            let scrape = self.agent.scrape();
            let again = all.map(Counters::of);
            let all = [&pod, &node, &hop, &tip].map(Clone::clone);
            let lines = self.agent.agent.stdout.count();
            (again == all).then(|| Counts { pod, tip, all: Counters::sum(&all), scrape, lines })
        })
    }

    /// How many harmful drops since line `from` are told of namespaces that are none of ours: what earlier tests have left there
    /// says a word now and then. As many as `wanted` are waited for, for a moment.
    pub(super) fn strangers(&self, from: usize, (label, value): (&str, &str), wanted: u64) -> u64 {
        let pods = self.pods.iter().map(|(_, pod)| &pod.netns);
        let ours: Vec<u64> = pods.chain([&self.node, &self.hop, &self.tip.netns]).map(Netns::inode).collect();
        let is_strange = |line: &Value| {
            let told = if label == "class" { line["counted_as"].as_str() } else { None };
            line["probe"] == "drops"
                && line["harm"] == "harmful"
                && told.or(line[label].as_str()) == Some(value)
                && line["netns"].as_u64().is_some_and(|netns| netns != 0 && !ours.contains(&netns))
        };
        let count = |lines: &[Vec<u8>]| {
            let strange = lines.iter().filter_map(|line| json(line)).filter(is_strange);
            strange.map(|line| 1 + line["suppressed"].as_u64().unwrap_or(0)).sum::<u64>()
        };
        let stdout = &self.agent.agent.stdout;
        let _ = stdout.wait_for(Duration::from_secs(2), from, |new| (count(new) >= wanted).then_some(()));
        count(&stdout.since(from))
    }
}

/// At one moment.
pub(super) struct Counts {
    /// What the kernel counts in the pod that sends, at the tip, and in all namespaces that its packets come to.
    pub(super) pod: Counters,
    pub(super) tip: Counters,
    pub(super) all: Counters,
    /// What the agent counts.
    pub(super) scrape: Scrape,
    /// How many lines it has written.
    pub(super) lines: usize,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

/// One that says nothing of its own accord, and answers whatever is to be answered at once.
fn namespace() -> Netns {
    let netns = Netns::new();
    for kind in ["all", "default"] {
        netns.sysctl(&format!("ipv6/conf/{kind}/router_solicitations"), "0");
        netns.sysctl(&format!("ipv4/conf/{kind}/rp_filter"), "0");
    }
    netns.sysctl("ipv4/icmp_ratelimit", "0");
    netns.sysctl("ipv6/icmp/ratelimit", "0");
    netns
}

/// The pods, each at the node in a way of its own.
fn pods(node: &Netns, ways: &[&'static Way]) -> (Vec<(&'static Way, Netns)>, Option<Bridge>) {
    let mut pods: Vec<(&Way, Netns)> = Vec::new();
    let mut bridge = None;
    for way in ways {
        let (net, pod) = (way.from, namespace());
        if pods.iter().any(|(known, _)| known.from == net) {
            continue;
        }
        let peer = format!("type veth peer name eth0 netns {}", pod.path());
        let sub = |kind: &str| {
            format!(
                "link add shared{net} up type dummy\nlink add link shared{net} name lan{net} type {kind}\n\
                 link add link shared{net} name eth0 netns {} type {kind}\n",
                pod.path()
            )
        };
        node.ip(&match net {
            2 => format!("link add lan2 type bridge\nlink add port2 {peer}\nlink set port2 master lan2 up\n"),
            3 => sub("macvlan mode bridge"),
            4 => sub("ipvlan mode l2"),
            5 => format!(
                "link add lan5 type veth peer name pa\nlink add pb {peer}\nlink set pa up\nlink set pb up\n\
                 link set lan5 address 02:00:00:00:96:01\n"
            ),
            6 => format!("link add lan6 mtu 1440 {peer}\n"),
            14 => format!(
                "link add trunk type veth peer name trunk netns {}\nlink set trunk up\n\
                 link add link trunk name lan14 type vlan id 14\n",
                pod.path()
            ),
            0 => format!(
                "link add red type vrf table 10\nlink set red up\nlink add lan0 {peer}\nlink set lan0 master red\n"
            ),
            _ => format!("link add lan{net} {peer}\n"),
        });
        node.ip(&format!(
            "addr add 10.96.{net}.1/24 dev lan{net}\naddr add fd96:{net:x}::1/64 dev lan{net} nodad\nlink set lan{net} up\n"
        ));
        match net {
            5 => pod.ip("link set eth0 address 02:00:00:00:96:02\n"),
            14 => pod.ip("link set trunk up\nlink add link trunk name eth0 type vlan id 14\n"),
            _ => {}
        }
        pod.ip(&format!(
            "link set lo up\naddr add 10.96.{net}.2/24 dev eth0\naddr add fd96:{net:x}::2/64 dev eth0 nodad\n\
             link set eth0 up\nroute add default via 10.96.{net}.1\nroute add default via fd96:{net:x}::1\n"
        ));
        match net {
            5 => bridge = Some(switch(node, &pod)),
            0 => node.ip("route add 10.96.8.0/21 via 10.96.7.2 dev out onlink table 10\n\
                 route add fd96:8::/29 via fd96:7::2 dev out onlink table 10\n\
                 route add 10.96.0.0/24 dev lan0\nroute add fd96::/64 dev lan0\n"),
            _ => {}
        }
        pods.push((way, pod));
    }
    (pods, bridge)
}

/// Its flows take no ARP and know no groups, so the neighbours are told.
fn switch(node: &Netns, pod: &Netns) -> Bridge {
    for (netns, device, other) in [(node, "lan5", 2), (pod, "eth0", 1)] {
        netns.ip(&format!(
            "neigh add 10.96.5.{other} lladdr 02:00:00:00:96:0{other} dev {device}\n\
             neigh add fd96:5::{other} lladdr 02:00:00:00:96:0{other} dev {device}\n"
        ));
    }
    let bridge = Bridge::new(node, &["pa", "pb"]).expect("Open vSwitch");
    for (from, to) in [(1, 2), (2, 1)] {
        bridge.connect(from, to);
        bridge.connect_ipv6(from, to);
    }
    bridge
}

/// Sends back what is short, in both families. What is long only has to arrive.
fn echo(tip: &Netns, ends: Arc<AtomicBool>) {
    let socket = tip.inside(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, ECHO)).unwrap());
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    thread::spawn(move || {
        let mut bytes = [0; 2048];
        while !ends.load(Ordering::Relaxed) {
            match socket.recv_from(&mut bytes) {
                Ok((length, from)) if length < 100 => {
                    let _ = socket.send_to(&bytes[..length], from);
                }
                _ => {}
            }
        }
    });
}

impl Way {
    /// Whether this kernel has what it needs.
    pub(super) fn is_known(&self) -> bool {
        self.modules.iter().all(|module| has_module(module))
    }
}
