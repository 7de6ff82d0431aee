//! The mtu probe: one test a cause, made for real; what is said of it, what is counted, and what is to be set.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::agent::json;
use crate::harness::lab::Lab;
use crate::harness::scrape::Scrape;

mod black_hole;
mod blocked;
mod copies;
mod exit;
mod forged;
mod here;
mod ladder;
mod nested;
mod quiet;
mod ring;
mod silent;
mod tunnels;
mod underlay;
mod unsent;
mod walks;
mod wireguard;

/// What has been said and counted since a moment.
struct Watch<'a> {
    lab: &'a Lab,
    begun: Instant,
    from: usize,
    before: Scrape,
}

impl<'a> Watch<'a> {
    fn new(lab: &'a Lab) -> Self {
        let (from, before) = (lab.agent.agent.stdout.count(), lab.agent.scrape());
        Self { lab, begun: Instant::now(), from, before }
    }

    /// Waits for the incident's first line that has these fields.
    fn first(&self, fields: &[(&str, Value)]) -> Value {
        self.wait(false, fields)
    }

    /// Waits for the incident's verdict that has these fields.
    fn verdict(&self, fields: &[(&str, Value)]) -> Value {
        self.wait(true, fields)
    }

    /// The same within five seconds from now on, when the first packet stalls.
    fn verdict_in_time(&self, fields: &[(&str, Value)]) -> Value {
        let verdict = self.verdict(fields);
        let took = self.begun.elapsed();
        eprintln!("a verdict after {took:?}");
        assert!(took < Duration::from_secs(5), "{took:?}: {:#?}", self.messages());
        verdict
    }

    fn wait(&self, verdict: bool, fields: &[(&str, Value)]) -> Value {
        let lines = &self.lab.agent.agent.stdout;
        // Each line is looked at once: a thousand incidents may end meanwhile, and a verdict must not wait for them here.
        let mut seen = 0;
        let found = lines.wait(self.from, |new| {
            let fresh = new.get(seen..).unwrap_or_default();
            seen = new.len();
            fresh.iter().filter_map(|line| of(line, verdict)).find(|line| has(line, fields))
        });
        found.unwrap_or_else(|| panic!("none has {fields:?}; there are {:#?}", self.messages()))
    }

    /// All lines of the probe.
    fn lines(&self) -> Vec<Value> {
        let lines = self.lab.agent.agent.stdout.since(self.from);
        lines.iter().filter_map(|line| json(line)).filter(|line| line["probe"] == "mtu").collect()
    }

    fn messages(&self) -> Vec<Value> {
        self.lines().iter().map(|line| line["message"].clone()).collect()
    }

    /// How many events were counted, node-wide or of a pod, by `event` and further labels.
    fn counted(&self, family: &str, labels: &[(&str, &str)]) -> u64 {
        self.lab.agent.scrape().since(&self.before, family, labels)
    }

    /// How many of such events are counted of a pod.
    fn of(&self, pod: &[(&str, &str)], labels: &[(&str, &str)]) -> u64 {
        self.counted("r2c_pod_mtu_events_total", &[pod, labels].concat())
    }

    /// How many of an event a pod has at its sending end.
    fn of_pod(&self, pod: &str, event: &str) -> u64 {
        let (namespace, pod) = pod.split_once('/').unwrap();
        let labels = [("namespace", namespace), ("pod", pod), ("end", "source"), ("event", event)];
        self.counted("r2c_pod_mtu_events_total", &labels)
    }
}

/// The line, if it is of this probe, and a verdict or not.
fn of(line: &[u8], verdict: bool) -> Option<Value> {
    json(line).filter(|line| line["probe"] == "mtu" && line["finding"].is_string() == verdict)
}

fn has(line: &Value, fields: &[(&str, Value)]) -> bool {
    fields.iter().all(|(name, value)| line[*name] == *value)
}

/// The name of a pod in a field.
fn pod(line: &Value, field: &str) -> Option<String> {
    Some(format!("{}/{}", line[field]["namespace"].as_str()?, line[field]["pod"].as_str()?))
}

fn v4(address: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from(address), port))
}

fn v6(net: u16, port: u16) -> SocketAddr {
    SocketAddr::from(([0xfd99, net, 0, 0, 0, 0, 0, 2], port))
}

/// Whether this kernel lets the agent see messages at all; where it does not, the agent must have said so.
fn sees_messages(lab: &Lab) -> bool {
    let sees = lab.has_hook("mtu", "__icmp_send");
    let said = lab.agent.agent.stderr.text();
    assert!(sees || said.contains("__icmp_send"), "it does not attach, and does not say so: {said}");
    sees
}

/// Whether this kernel says where a veth keeps its other end: modules of 5.10 have no types.
pub(crate) fn knows_veth() -> bool {
    let btf = std::path::Path::new("/sys/kernel/btf/veth");
    btf.exists() || !std::path::Path::new("/sys/module/veth/holders").exists()
}

/// Whether the route cache of `web` has learned what fits on the way there: by what others learn, that cannot be told.
fn has_learned(lab: &Lab, to: IpAddr) -> bool {
    lab.web.netns.run("ip", &["route", "get", &to.to_string()]).contains(" mtu ")
}

/// What a test before has taught the route cache would keep packets short.
fn forget(lab: &Lab) {
    for family in ["-4", "-6"] {
        lab.web.netns.run("ip", &[family, "route", "flush", "cache"]);
    }
}
