//! Causes that the kernel's reason does not name: each made for real on a node of its own, told, and cured by what is told.
//!
//! ```text
//!  web eth0 10.97.1.2 --- veth-web host uplink --- eth0 10.97.9.2 ext        fd97:N:: where IPv4 has 10.97.N.
//! ```

use std::fs;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::harness::agent::{Agent, command, json};
use crate::harness::guest::{has_module, is_guest};
use crate::harness::netns::Netns;
use crate::harness::pod::{Node, Pod};
use crate::harness::until;

mod addresses;
mod anycast;
mod bridge;
mod checksum;
mod copies;
mod cures;
mod device;
mod fragments;
mod ipsec;
mod listeners;
mod memory;
mod modules;
mod netfilter;
mod pushes;
mod queues;
mod quiet;
mod reasons;
mod routes;
mod shared;
mod signatures;
mod size;
mod sockets;
mod tables;
mod tunnels;
mod underlay;
mod vswitch;

/// Where nobody listens: what is sent there is the last drop that a test makes.
const LAST: u16 = 7799;

/// Where `ext` answers what it is sent.
const ECHO: u16 = 7;

/// See the module.
struct Scene {
    /// What the agent takes for the host's namespace, and is in.
    host: Netns,
    web: Pod,
    ext: Netns,
    node: Node,
    ends: Arc<AtomicBool>,
}

impl Scene {
    fn new() -> Self {
        let [host, web, ext] = std::array::from_fn(|_| Netns::new());
        host.ip(&format!(
            "link set lo up\n\
             link add veth-web type veth peer name eth0 netns {}\nlink add uplink type veth peer name eth0 netns {}\n\
             addr add 10.97.1.1/24 dev veth-web\naddr add fd97:1::1/64 dev veth-web nodad\nlink set veth-web up\n\
             addr add 10.97.9.1/24 dev uplink\naddr add fd97:9::1/64 dev uplink nodad\nlink set uplink up\n",
            web.path(),
            ext.path()
        ));
        for (netns, net) in [(&web, 1), (&ext, 9)] {
            netns.ip(&format!(
                "link set lo up\naddr add 10.97.{net}.2/24 dev eth0\naddr add fd97:{net}::2/64 dev eth0 nodad\n\
                 link set eth0 up\nroute add default via 10.97.{net}.1\nroute add default via fd97:{net}::1\n"
            ));
        }
        host.sysctl("ipv4/ip_forward", "1");
        host.sysctl("ipv6/conf/all/forwarding", "1");
        let node = Node::routing(&host);
        let web = Pod::start(&node, "shop/web-0", &web);
        let scene = Self { host, web, ext, node, ends: Arc::default() };
        // Both families: an IPv6 socket takes IPv4 as well.
        scene.answer(scene.ext.inside(|| UdpSocket::bind(("::", ECHO)).unwrap()));
        until("web reaches ext", || (scene.is_answered(EXT4) && scene.is_answered(EXT6)).then_some(()));
        scene
    }

    /// Sends back whatever the socket gets.
    fn answer(&self, socket: UdpSocket) {
        let ends = Arc::clone(&self.ends);
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        thread::spawn(move || {
            let mut bytes = [0; 2048];
            while !ends.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut bytes) {
                    let _ = socket.send_to(&bytes[..length], from);
                }
            }
        });
    }

    /// Whether `web` gets an answer from there within a second.
    fn is_answered(&self, to: &str) -> bool {
        self.is_answered_of(to, 4)
    }

    /// The same of a datagram of so many bytes.
    fn is_answered_of(&self, to: &str, length: usize) -> bool {
        let to: SocketAddr = to.parse().unwrap();
        self.web.netns.inside(|| {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            socket.send_to(&vec![7; length], to).is_ok() && socket.recv(&mut [0; 2048]).is_ok()
        })
    }

    /// Does what the first command in a fix says, in the network namespace that it names: the host's if it names none.
    fn apply(&self, fix: &str) {
        let ext = format!("network namespace {}:", self.ext.inode());
        let netns = match fix.rsplit_once(" (in ").map_or("", |(_, there)| there) {
            "" => &self.host,
            "shop/web-0)" => &self.web.netns,
            there if there.starts_with(&ext) => &self.ext,
            there => panic!("where is {there}? {fix}"),
        };
        apply(netns, fix);
    }

    /// A trace of a probe in the host's namespace, attached.
    fn trace(&self, probe: &str) -> Trace {
        self.trace_of(probe, &["--all"])
    }

    /// The same of what these flags choose.
    fn trace_of(&self, probe: &str, flags: &[&str]) -> Trace {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let ready = self.node.logs.with_file_name(format!("ready-{number}"));
        let args = ["trace", probe, "--duration", "0", "-o", "json", "--events-per-second", "200"];
        let mut command =
            command(&self.node, &[&args[..], flags, &["--ready-file", ready.to_str().unwrap()]].concat());
        self.host.enter(&mut command);
        let agent = Agent::spawn(&mut command);
        until(&format!("attached; {}", agent.stderr.text()), || fs::exists(&ready).unwrap().then_some(()));
        Trace {
            agent,
            probe: probe.to_owned(),
            of: [&self.host, &self.web.netns, &self.ext].map(Netns::inode).to_vec(),
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

const EXT4: &str = "10.97.9.2:7";
const EXT6: &str = "[fd97:9::2]:7";

/// A running `trace -o json`.
struct Trace {
    agent: Agent,
    /// What it traces.
    probe: String,
    /// Namespaces that it is about: in others something of an earlier test may still end.
    of: Vec<u64>,
}

impl Trace {
    /// Waits for an event or a verdict like this.
    fn expect(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let found = self
            .agent
            .stdout
            .wait(0, |lines| lines.iter().filter_map(|line| json(line)).find(|line| is_it(line)));
        found.unwrap_or_else(|| panic!("no {what}; {}\n{}", self.said().join("\n"), self.agent.stderr.text()))
    }

    /// Waits for a dropped packet of this class.
    fn expect_class(&self, class: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        self.expect(&format!("drop of class {class}"), |line| line["class"] == class && is_it(line))
    }

    /// What it has said so far, in brief.
    fn said(&self) -> Vec<String> {
        let brief = |line: Value| format!("{} [{} {}]", line["message"], line["class"], line["harm"]);
        self.agent.stdout.since(0).iter().filter_map(|line| json(line)).map(brief).collect()
    }

    /// Whether this kernel lets it see messages about packets that are too large.
    fn sees_messages(&self) -> bool {
        self.listens_at("__icmp_send")
    }

    /// Whether it has this hook of its probe.
    fn listens_at(&self, hook: &str) -> bool {
        until("it says where it listens", || {
            self.agent.stderr.text().contains(&format!("tracing {} by ", self.probe)).then_some(())
        });
        self.agent.stderr.text().contains(&format!(" {hook} ("))
    }

    /// Lines like this so far.
    fn lines(&self, is_it: impl Fn(&Value) -> bool) -> Vec<Value> {
        let lines = self.agent.stdout.since(0);
        lines.iter().filter_map(|line| json(line)).filter(|line| is_it(line)).collect()
    }

    /// What it has said of harm so far.
    fn harmful(&self) -> Vec<String> {
        let is_harmful = |line: &Value| {
            line["harm"] == "harmful" && line["destination_port"] != LAST && self.is_ours(line)
        };
        self.lines(is_harmful).iter().map(|line| format!("{line:#}")).collect()
    }

    /// Whether it is not about the namespace of another test.
    fn is_ours(&self, line: &Value) -> bool {
        line["netns"].as_u64().is_none_or(|netns| self.of.contains(&netns))
    }
}

/// The fix that a line tells.
fn fix(line: &Value) -> String {
    line["fix"].as_str().unwrap_or_else(|| panic!("no fix: {line:#}")).to_owned()
}

/// Does what the first command in a fix says.
fn apply(netns: &Netns, fix: &str) {
    let command = fix.split('`').nth(1).unwrap_or_else(|| panic!("no command: {fix}"));
    netns.run("sh", &["-c", command]);
}

/// The address that a device has given itself.
fn link_local(netns: &Netns, device: &str) -> Ipv6Addr {
    let shown = netns.run("ip", &["-6", "-o", "address", "show", "dev", device, "scope", "link"]);
    let address = shown.split_once(" inet6 ").and_then(|(_, rest)| rest.split('/').next());
    address.unwrap_or_else(|| panic!("none on {device}: {shown}")).parse().unwrap()
}
