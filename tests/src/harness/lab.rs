//! The lab all tests of drops share: three pods around a node that routes and bridges, and one agent that watches all day.
//!
//! ```text
//!  web eth0 10.99.1.2 --- ra router rc --- eth0 10.99.3.2 far     rc has MTU 1400, the rest 1500
//!   |  |                      rb
//!   |  |                      |
//!   |  eth2 10.99.6.1         eth0 10.99.2.2
//!   |         \------- eth2 --- db                                db's eth2 has MTU 1300
//!   eth1 10.99.5.1 - pa bridge pb - eth1      br0 of the router; pb has MTU 1400
//! ```
//! IPv6 has `fd99:N::` where IPv4 has `10.99.N.`.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::agent::{Running, json};
use super::netns::Netns;
use super::packet;
use super::pod::{Node, Pod};
use super::scrape::Scrape;
use super::{DEADLINE, has_reasons, tool};

/// Name of the pod `web`.
pub(crate) const WEB: &str = "shop/web-0";
/// Name of the pod `db`.
pub(crate) const DB: &str = "shop/db-0";
/// Name of the pod `far`.
pub(crate) const FAR: &str = "edge/far-0";

/// See the module.
pub(crate) struct Lab {
    /// The node: what the agent takes for the host's namespace.
    pub(crate) router: Netns,
    /// `10.99.1.2` and `fd99:1::2`
    pub(crate) web: Pod,
    /// `10.99.2.2` and `fd99:2::2`
    pub(crate) db: Pod,
    /// The pods' directories.
    pub(crate) node: Node,
    /// `run --events all`, with so many events a second that none of a test's are held back.
    pub(crate) agent: Running,
    /// `10.99.3.2` and `fd99:3::2`
    pub(crate) far: Pod,
}

static LAB: LazyLock<Mutex<Lab>> = LazyLock::new(|| Mutex::new(Lab::build()));

impl Lab {
    /// The lab, alone: what one test does to it no other sees.
    pub(crate) fn lock() -> MutexGuard<'static, Self> {
        LAB.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn build() -> Self {
        // What listens in a module needs it to be there. Where it is built in there is nothing to load.
        for module in ["nf_conntrack", "tun"] {
            let _ = tool("modprobe").args(["-q", module]).status();
        }
        let [router, web, db, far] = std::array::from_fn(|_| Netns::new());
        router.ip(&spokes(&[("ra", 1, &web), ("rb", 2, &db), ("rc", 3, &far)]));
        router.ip("link set rc mtu 1400\n");
        router.ip(&format!(
            "link add br0 type bridge\nlink set br0 up\n\
             link add pa master br0 up type veth peer name eth1 netns {}\n\
             link add pb master br0 mtu 1400 up type veth peer name eth1 netns {}\n",
            web.path(),
            db.path()
        ));
        web.ip(&format!("link add eth2 type veth peer name eth2 mtu 1300 netns {}\n", db.path()));
        for (netns, number) in [(&web, 1), (&db, 2), (&far, 3)] {
            netns.ip(&home(number, if number == 3 { &[] } else { &[(5, "eth1"), (6, "eth2")] }));
        }
        router.sysctl("ipv4/ip_forward", "1");
        router.sysctl("ipv6/conf/all/forwarding", "1");
        // Replies to what was dropped are limited by default, and a limit would make counts depend on the pace.
        router.sysctl("ipv4/icmp_ratelimit", "0");

        let node = Node::routing(&router);
        let web = Pod::start(&node, WEB, &web);
        let db = Pod::start(&node, DB, &db);
        let far = Pod::start(&node, FAR, &far);
        let agent = Running::start(&node, &["--events", "all", "--events-per-second", "200"]);
        let lab = Self { router, web, db, node, agent, far };
        assert_eq!(lab.agent.scrape().sum("r2c_pods", &[]), 3, "{}", lab.agent.agent.stderr.text());
        lab
    }

    /// From now on.
    pub(crate) fn watch(&self) -> Watch<'_> {
        Watch { lab: self, from: self.agent.agent.stdout.count(), before: self.agent.scrape() }
    }

    /// Waits until every event up to now is written: the ring keeps their order, so one more is made and awaited.
    pub(crate) fn barrier(&self) {
        static PORTS: AtomicU16 = AtomicU16::new(40_000);
        let lines = &self.agent.agent.stdout;
        // Others may have used up this second's budget for events of its kind: then the next second's will do.
        let came = (0..DEADLINE.as_secs()).any(|_| {
            let port = PORTS.fetch_add(1, Ordering::Relaxed);
            let from = lines.count();
            self.router.inside(|| packet::udp(SocketAddr::from(([127, 0, 0, 1], port)), 1, 4));
            let is_it = |line: &Vec<u8>| event(line).is_some_and(|event| event["destination_port"] == port);
            let found = |new: &[Vec<u8>]| new.iter().any(is_it).then_some(());
            lines.wait_for(Duration::from_secs(1), from, found).is_some()
        });
        assert!(came, "no event of our own; stderr: {}", self.agent.agent.stderr.text());
    }

    /// Events since line `from`.
    pub(crate) fn events(&self, from: usize) -> Vec<Value> {
        self.agent.agent.stdout.since(from).iter().filter_map(|line| event(line)).collect()
    }

    /// Whether the agent could attach to this hook of a probe: not every kernel lets it.
    pub(crate) fn has_hook(&self, probe: &str, hook: &str) -> bool {
        let labels = [("probe", probe), ("hook", hook)];
        let none = [labels.as_slice(), &[("rung", "none")]].concat();
        let scrape = self.agent.scrape();
        assert_eq!(scrape.sum("r2c_hook_rung", &labels), 1, "no word of hook {hook} of probe {probe}");
        scrape.sum("r2c_hook_rung", &none) == 0
    }
}

/// The router's end of its links, each to a pod.
fn spokes(pods: &[(&str, u8, &Netns)]) -> String {
    let mut lines = "link set lo up\n".to_owned();
    let mut add = |line: std::fmt::Arguments<'_>| lines.write_fmt(line).unwrap();
    for (name, number, pod) in pods {
        add(format_args!(
            "link add {name} up type veth peer name eth0 netns {}\naddr add 10.99.{number}.1/24 dev {name}\n\
             addr add fd99:{number}::1/64 dev {name} nodad\n",
            pod.path()
        ));
    }
    lines
}

/// A pod's end: its links up, its addresses, its default routes.
fn home(number: u8, others: &[(u8, &str)]) -> String {
    let mut lines = format!(
        "link set lo up\nlink set eth0 up\naddr add 10.99.{number}.2/24 dev eth0\n\
         addr add fd99:{number}::2/64 dev eth0 nodad\nroute add default via 10.99.{number}.1\n\
         route add default via fd99:{number}::1\n"
    );
    let mut add = |line: std::fmt::Arguments<'_>| lines.write_fmt(line).unwrap();
    for (net, device) in others {
        add(format_args!(
            "link set {device} up\naddr add 10.99.{net}.{number}/24 dev {device}\n\
             addr add fd99:{net}::{number}/64 dev {device} nodad\n"
        ));
    }
    lines
}

/// The line's event, if it is one of the drops probe.
fn event(line: &[u8]) -> Option<Value> {
    json(line).filter(|line| line["probe"] == "drops")
}

/// What the agent should say of a drop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want<'a> {
    /// The reason by name, one of these; the test says which kernel has which.
    pub(crate) reason: &'a [&'a str],
    /// The function it died in, one of these.
    pub(crate) function: &'a [&'a str],
    pub(crate) class: &'a str,
    /// The class where the kernel gives no reason and the place alone says something else.
    pub(crate) by_place: Option<&'a str>,
    pub(crate) harm: &'a str,
    pub(crate) direction: &'a str,
    /// The device it was on, one of these; `-` where the kernel does not tell.
    pub(crate) interface: &'a [&'a str],
    /// Pods, as namespace/name.
    pub(crate) source: Option<&'a str>,
    pub(crate) destination: Option<&'a str>,
}

/// What has happened since [`Lab::watch`].
pub(crate) struct Watch<'a> {
    lab: &'a Lab,
    from: usize,
    before: Scrape,
}

impl Watch<'_> {
    /// Exactly `count` events have these fields, each a line of its own as wanted, and the metrics counted as many.
    pub(crate) fn expect(&self, count: usize, keys: &[(&str, Value)], want: &Want<'_>) {
        self.expect_either(count, keys, &[want]);
    }

    /// As [`Watch::expect`], where kernels tell different things: the first of `wants` with the reason given counts; the
    /// last, where kernels give none.
    pub(crate) fn expect_either(&self, count: usize, keys: &[(&str, Value)], wants: &[&Want<'_>]) {
        let is_ours = |event: &Value| keys.iter().all(|(key, value)| event[*key] == *value);
        let ours = |lines: &[Vec<u8>]| lines.iter().filter_map(|line| event(line)).filter(is_ours).count();
        let lines = &self.lab.agent.agent.stdout;
        let came = lines.wait(self.from, |new| (ours(new) >= count).then_some(()));
        self.lab.barrier();
        let (ours, others): (Vec<Value>, Vec<Value>) =
            self.lab.events(self.from).into_iter().partition(|event| is_ours(event));
        let others: Vec<String> = others.iter().map(brief).collect();
        let brief: Vec<String> = ours.iter().map(brief).collect();
        assert!(came.is_some() && ours.len() == count, "{count} wanted, got {brief:#?}; others: {others:#?}");
        let has_reason =
            |want: &&&Want<'_>| ours[0]["reason"].as_str().is_some_and(|is| want.reason.contains(&is));
        let unnamed = if has_reasons() { 0 } else { wants.len() - 1 };
        let want = wants.iter().find(has_reason).unwrap_or(&wants[unnamed]);
        for event in &ours {
            let wrong = want.differences(event);
            assert!(wrong.is_empty(), "{}\nof {event:#}", wrong.join("\n"));
        }
        self.expect_counts(&ours, want);
    }

    /// The same packets in the metrics: per pod exactly, node-wide at least (others may drop as well).
    fn expect_counts(&self, ours: &[Value], want: &Want<'_>) {
        let after = self.lab.agent.scrape();
        let labels = ["reason", "class", "harm", "direction"];
        // What a packet says beside reason and place no count is kept by.
        let of = |label: &str| if label == "class" { ours[0]["counted_as"].as_str() } else { None };
        let labels = labels.map(|label| (label, of(label).or(ours[0][label].as_str()).unwrap_or("NONE")));
        let delta = |name: &str, labels: &[(&str, &str)]| after.since(&self.before, name, labels);
        let count = u64::try_from(ours.len()).unwrap();
        let node = delta("r2c_drop_packets_total", &labels);
        assert!(node >= count, "{node} of {count} counted under {labels:?}");
        for (end, pod) in [("source", want.source), ("destination", want.destination)] {
            let Some((namespace, pod)) = pod.and_then(|pod| pod.split_once('/')) else { continue };
            let labels =
                [labels.as_slice(), &[("end", end), ("namespace", namespace), ("pod", pod)]].concat();
            let counted = delta("r2c_pod_drop_packets_total", &labels);
            assert_eq!(counted, count, "counted under {labels:?}");
        }
    }

    /// Nobody's harm: no event since then is harmful and has `address` at an end.
    pub(crate) fn expect_no_harm(&self, addresses: &[&str]) {
        self.lab.barrier();
        let about = |event: &Value| {
            ["source_ip", "destination_ip"].iter().any(|end| addresses.iter().any(|ip| event[*end] == *ip))
        };
        let harmful = |event: &Value| event["harm"] == "harmful" && about(event);
        let harm = self.lab.events(self.from).into_iter().filter(harmful);
        let harm: Vec<String> = harm.map(|event| brief(&event)).collect();
        assert!(harm.is_empty(), "nothing was dropped, yet {harm:#?}");
    }

    /// Events since then.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.lab.events(self.from)
    }
}

impl Want<'_> {
    fn differences(&self, event: &Value) -> Vec<String> {
        let text = |key: &str| event[key].as_str().unwrap_or("-").to_owned();
        let pod = |key: &str| {
            let pod = event[key].as_object()?;
            Some(format!("{}/{}", pod["namespace"].as_str()?, pod["pod"].as_str()?))
        };
        let one_of = |key: &str, wanted: &[&str]| {
            let found = text(key);
            (!wanted.contains(&found.as_str()))
                .then(|| format!("{key} is {found}, not {}", wanted.join(" or ")))
        };
        let pod_is = |key: &str, wanted: Option<&str>| {
            let found = pod(key);
            (found.as_deref() != wanted).then(|| format!("{key} is {found:?}, not {wanted:?}"))
        };
        [
            one_of("reason", if has_reasons() { self.reason } else { &["-"] }),
            one_of("function", self.function),
            one_of("class", &[if has_reasons() { self.class } else { self.by_place.unwrap_or(self.class) }]),
            one_of("harm", &[self.harm]),
            one_of("direction", &[self.direction]),
            one_of("interface", self.interface),
            pod_is("source_pod", self.source),
            pod_is("destination_pod", self.destination),
            (event["suppressed"] != 0).then(|| format!("suppressed is {}, not 0", event["suppressed"])),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

fn brief(event: &Value) -> String {
    format!("{} [{} {} {}]", event["message"], event["class"], event["harm"], event["direction"])
}
