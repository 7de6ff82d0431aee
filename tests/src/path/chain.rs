//! A chain of five routers between two hosts, whose small link can be put in any place, and be owned up to or not.
//!
//! ```text
//!  0 near --- 1 --- 2 --- 3 --- 4 --- 5 --- 6 far        link N is 10.64.N.0/24 and fd64:N::/64, .1 and ::1 nearer
//! ```
//! Router N is hop N: `10.64.N.2`, `fd64:N::2`. Its small link is the one behind it, N + 1.

use std::fmt::Write as _;
use std::process::Command;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use crate::harness::agent::{Agent, command, json};
use crate::harness::netns::Netns;
use crate::harness::pod::{Node, Pod};
use crate::lines::assert_valid;

/// Name of the pod that lives in namespace 0.
pub(super) const NEAR: &str = "shop/near-0";
/// The far host.
pub(super) const FAR: [&str; 2] = ["10.64.6.2", "fd64:6::2"];

/// See the module.
pub(super) struct Chain {
    pub(super) netns: [Netns; 7],
    pub(super) node: Node,
    _pod: Pod,
}

static CHAIN: LazyLock<Mutex<Chain>> = LazyLock::new(|| Mutex::new(Chain::build()));

impl Chain {
    /// The chain, alone, as it was built: what a test before has changed is undone.
    pub(super) fn lock() -> MutexGuard<'static, Self> {
        let chain = CHAIN.lock().unwrap_or_else(PoisonError::into_inner);
        for netns in &chain.netns {
            netns.batch("nft", "flush ruleset\n");
        }
        (0..=5).for_each(|hop| chain.small_behind(hop, 1500));
        chain.as_it_was();
        chain
    }

    fn build() -> Self {
        let netns: [Netns; 7] = std::array::from_fn(|_| Netns::new());
        for netns in &netns {
            netns.sysctl("ipv4/ip_forward", "1");
            netns.sysctl("ipv6/conf/all/forwarding", "1");
            // Limits would make the pace of one test a matter of the one before.
            netns.sysctl("ipv4/icmp_ratelimit", "0");
            netns.sysctl("ipv6/icmp/ratelimit", "0");
            netns.ip("link set lo up\n");
        }
        for (near, far) in
            netns.iter().zip(&netns[1..]).zip(1..).map(|((near, far), link)| ((near, link), far))
        {
            let (near, link) = near;
            near.ip(&format!(
                "link add r{link} up type veth peer name l{link} netns {}\naddr add 10.64.{link}.1/24 dev r{link}\n\
                 addr add fd64:{link}::1/64 dev r{link} nodad\n",
                far.path()
            ));
            far.ip(&format!(
                "link set l{link} up\naddr add 10.64.{link}.2/24 dev l{link}\naddr add fd64:{link}::2/64 dev l{link} nodad\n"
            ));
        }
        for (at, netns) in netns.iter().enumerate() {
            let mut routes = String::new();
            for link in 1..=6 {
                // Links at and at + 1 are its own.
                let via = if link < at {
                    Some((at, 1))
                } else if link > at + 1 {
                    Some((at + 1, 2))
                } else {
                    None
                };
                if let Some((by, end)) = via {
                    writeln!(routes, "route add 10.64.{link}.0/24 via 10.64.{by}.{end}").unwrap();
                    writeln!(routes, "route add fd64:{link}::/64 via fd64:{by}::{end}").unwrap();
                }
            }
            netns.ip(&routes);
        }
        let node = Node::new();
        let pod = Pod::start(&node, NEAR, &netns[0]);
        Self { netns, node, _pod: pod }
    }

    /// Takes back what a fix, or a test of one, has set.
    pub(super) fn as_it_was(&self) {
        self.netns[1].shell("ip addr del 10.64.1.8/24 dev l1 2>/dev/null || true");
        self.netns[1].shell("ip addr del fd64:1::8/64 dev l1 2>/dev/null || true");
        for line in [
            "route flush 10.64.6.2/32",
            "route flush 10.64.1.2/32",
            "route flush table 100",
            "rule del pref 99",
            "route replace 10.64.6.0/24 via 10.64.1.2",
            "addr del 10.64.1.7/24 dev r1",
            "-6 route flush fd64:6::2/128",
            "-6 route flush fd64:1::2/128",
            "-6 route flush table 100",
            "-6 rule del pref 99",
            "-6 route replace fd64:6::/64 via fd64:1::2",
            "-6 addr del fd64:1::7/64 dev r1",
        ] {
            // Most of it is not there.
            self.netns[0].shell(&format!("ip {line} 2>/dev/null || true"));
        }
        self.forget();
    }

    /// Lets namespace 0 forget what hops have told it.
    pub(super) fn forget(&self) {
        self.netns[0].shell("ip route flush cache; ip -6 route flush cache");
    }

    /// Sets both ends of the link behind a router.
    pub(super) fn small_behind(&self, hop: usize, mtu: u32) {
        let link = hop + 1;
        self.netns[hop].ip(&format!("link set r{link} mtu {mtu}\n"));
        self.netns[link].ip(&format!("link set l{link} mtu {mtu}\n"));
    }

    /// Lets a router keep to itself that packets are too large.
    pub(super) fn silence(&self, hop: usize) {
        self.rules(
            hop,
            "output",
            &[
                "icmp type destination-unreachable icmp code frag-needed drop",
                "icmpv6 type packet-too-big drop",
            ],
        );
    }

    /// Adds rules to a hook of a namespace.
    pub(super) fn rules(&self, at: usize, hook: &str, rules: &[&str]) {
        let rules = rules.join("\n");
        let chain = format!("type filter hook {hook} priority 0\n{rules}\n");
        self.netns[at].batch("nft", &format!("table inet path_{hook} {{\nchain c {{\n{chain}}}\n}}\n"));
    }

    /// `trace mtu --to` with further arguments, from namespace 0.
    pub(super) fn walk(&self, to: &str, args: &[&str]) -> Walk {
        Walk::of(&mut self.command(to, args))
    }

    /// As [`Chain::walk`], not started yet.
    pub(super) fn command(&self, to: &str, args: &[&str]) -> Command {
        let netns = self.netns[0].path();
        // In a slow guest the default time could end a walk that has much to wait for.
        let common = ["trace", "mtu", "--to", to, "--netns", &netns, "-o", "json"];
        let patient = if args.contains(&"--timeout") { &[][..] } else { &["--timeout", "60s"] };
        command(&self.node, &[&common, patient, args].concat())
    }
}

/// What a walk said.
#[derive(Debug)]
pub(super) struct Walk {
    pub(super) code: i32,
    pub(super) hops: Vec<Value>,
    pub(super) verdict: Value,
    pub(super) notes: String,
}

impl Walk {
    pub(super) fn of(command: &mut Command) -> Self {
        Self::ended(Agent::spawn(command))
    }

    /// Waits for its end; every line must be of the schema, and of one incident.
    pub(super) fn ended(mut agent: Agent) -> Self {
        let code = agent.ended();
        let notes = agent.stderr.text();
        let lines = agent.stdout.since(0);
        for line in &lines {
            assert_valid(line);
        }
        let mut hops: Vec<Value> = lines.iter().filter_map(|line| json(line)).collect();
        let verdict = hops.pop().unwrap_or_else(|| panic!("no verdict: {code}: {notes}"));
        assert!(hops.iter().all(|hop| hop["trace_id"] == verdict["trace_id"] && hop["finding"].is_null()));
        Self { code, hops, verdict, notes }
    }

    /// Fails the test unless the verdict has these fields.
    #[track_caller]
    pub(super) fn is(&self, fields: &[(&str, Value)]) {
        for (name, value) in fields {
            assert_eq!(self.verdict[*name], *value, "{name}: {self:#?}");
        }
    }
}

/// A hop's address.
pub(super) fn address(hop: usize, v6: bool) -> String {
    if v6 { format!("fd64:{hop}::2") } else { format!("10.64.{hop}.2") }
}
