//! What netfilter drops, and whether a rule does.

use std::fs;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::harness::netns::Netns;
use crate::harness::packet::{ipv4, ipv6, send_routed, tcp_segment};
use crate::harness::{has_reasons, until};

use super::{EXT4, EXT6, Scene, fix, has_module};

/// `SYN` and `ACK`: the answer to a question that came another way.
const SYN_ACK: u8 = 0x12;

/// What a rule of nftables makes of a packet.
fn class() -> &'static str {
    if has_reasons() { "policy" } else { "netfilter" }
}

/// A rule in the way of what leaves by a namespace.
pub(super) struct Refuses<'a> {
    netns: &'a Netns,
    what: &'a str,
}

impl<'a> Refuses<'a> {
    pub(super) fn new(netns: &'a Netns, what: &'a str) -> Self {
        netns.batch(
            "nft",
            &format!(
                "add table inet wall\nadd chain inet wall out {{ type filter hook output priority 0; }}\n\
                 add rule inet wall out {what} drop\n"
            ),
        );
        Self { netns, what }
    }

    /// What is told of a packet that it has dropped names a command that shows it; then it is taken away.
    pub(super) fn mend(self, lost: &Value) {
        assert_eq!([&lost["class"], &lost["harm"]], [class(), "harmful"], "{lost:#}");
        let fix = fix(lost);
        assert!(fix.contains("find the rule (`nft list ruleset`"), "{fix}");
        let shown = self.netns.run("nft", &["list", "ruleset"]);
        assert!(shown.contains(&format!("{} drop", self.what)), "{shown}");
        self.netns.batch("nft", "delete table inet wall\n");
    }
}

/// From where and to where an answer goes, by IPv4 and by IPv6.
const ANSWERS: [[&str; 2]; 2] =
    [["10.97.1.2:8080", "10.97.9.2:5000"], ["[fd97:1::2]:8080", "[fd97:9::2]:5000"]];

/// An answer to a connection that nobody has seen begin, from this namespace.
fn answer_from(netns: &Netns, ends: [&str; 2]) {
    let [from, to] = ends.map(|end| end.parse::<SocketAddr>().unwrap());
    let segment = tcp_segment(from, to, SYN_ACK);
    let packet = match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => ipv4(*from.ip(), *to.ip(), 6, &segment, true),
        (SocketAddr::V6(from), SocketAddr::V6(to)) => ipv6(*from.ip(), *to.ip(), 6, &segment),
        _ => unreachable!("both are of one family"),
    };
    netns.inside(|| send_routed(to.ip(), &packet).unwrap());
}

/// The same from the pod, by the node.
fn answer_from_elsewhere(scene: &Scene, ends: [&str; 2]) {
    answer_from(&scene.web.netns, ends);
}

/// What is told of an answer to what came another way: the node has not seen the connection begin, and drops what conntrack
/// calls INVALID.
fn refused(scene: &Scene, class: &str) -> Value {
    refused_of(scene, class, ANSWERS[0])
}

/// The same of this answer.
fn refused_of(scene: &Scene, class: &str, ends: [&str; 2]) -> Value {
    assert!(scene.is_answered(EXT4) && scene.is_answered(EXT6), "what is known passes");
    let trace = scene.trace("drops");
    answer_from_elsewhere(scene, ends);
    let event = trace.expect_class(class, |event| event["destination_port"] == 5000);
    let [from, to] = ends.map(|end| end.parse::<SocketAddr>().unwrap().ip().to_string());
    assert_eq!(json!([event["source_ip"], event["destination_ip"]]), json!([from, to]), "{event:#}");
    assert!(event["message"].as_str().unwrap().contains("INVALID"), "{event:#}");
    assert!(fix(&event).contains("route both directions through this node"), "{event:#}");
    event
}

/// Whether a message and its fix name these chains, and no others. A kernel without reasons that has nftables built in does not
/// say that it has.
fn names(event: &Value, chains: Option<&str>) {
    let (message, fix) = (event["message"].as_str().unwrap(), fix(event));
    let is_known = has_reasons() || fs::exists("/sys/module/nf_tables").unwrap();
    match chains.filter(|_| is_known) {
        Some(chains) => {
            assert!(
                message.contains(&format!("chain {chains} has a rule that drops such packets:")),
                "{event:#}"
            );
            assert!(fix.contains(&format!("look first in chain {chains}")), "{event:#}");
        }
        None => assert!(!message.contains("and chain") && !fix.contains("in chain"), "{event:#}"),
    }
}

/// By kube-proxy's chain and others, as `nft` writes their rules.
#[test]
fn an_answer_to_what_came_another_way() {
    if !has_module("nf_conntrack") {
        return;
    }
    let scene = Scene::new();
    // Beside what drops there is a chain that nothing leads to, one of another hook, and a table that sleeps.
    scene.host.batch(
        "nft",
        "add table ip filter\nadd chain ip filter KUBE-FORWARD\nadd chain ip filter idle\n\
         add chain ip filter forward { type filter hook forward priority 0; }\n\
         add rule ip filter forward jump KUBE-FORWARD\nadd rule ip filter KUBE-FORWARD ct state new counter\n\
         add rule ip filter KUBE-FORWARD ct state invalid counter drop\n\
         add rule ip filter idle ct state invalid drop\n\
         add chain ip filter sent { type filter hook output priority 0; }\n\
         add rule ip filter sent ct state invalid drop\n\
         add table ip asleep { flags dormant; }\n\
         add chain ip asleep forward { type filter hook forward priority 0; }\n\
         add rule ip asleep forward ct state invalid drop\n\
         add table ip6 filter\nadd chain ip6 filter forward { type filter hook forward priority 0; }\n\
         add rule ip6 filter forward ct state invalid drop\n",
    );
    names(&refused(&scene, class()), Some("KUBE-FORWARD (nft table ip filter)"));
    scene.host.batch(
        "nft",
        "add table inet wall\nadd chain inet wall wide { type filter hook forward priority 10; }\n\
         add rule inet wall wide ct state vmap { established : accept, invalid : drop }\n",
    );
    names(
        &refused(&scene, class()),
        Some("KUBE-FORWARD (nft table ip filter) or wide (nft table inet wall)"),
    );
    scene.host.batch("nft", "delete table ip filter\n");
    names(&refused(&scene, class()), Some("wide (nft table inet wall)"));
    scene.host.batch(
        "nft",
        "flush chain inet wall wide\nadd rule inet wall wide ct state { invalid, untracked } drop\n\
         add chain inet wall tight\nadd rule inet wall tight ct state != { established, related, new } drop\n\
         add rule inet wall wide jump tight\n",
    );
    names(&refused(&scene, class()), Some("wide (nft table inet wall) or tight (nft table inet wall)"));
    // The chains that ask for more than the state may be about other packets.
    scene.host.batch(
        "nft",
        "flush chain inet wall wide\nadd rule inet wall wide iifname \"veth-web\" ct state invalid drop\n",
    );
    names(&refused(&scene, class()), None);
    scene.host.batch(
        "nft",
        "flush chain inet wall wide\nadd rule inet wall wide ct state { invalid, untracked } drop\n\
         add rule inet wall wide jump tight\n",
    );
    // More than are named.
    for chain in ["a", "b"] {
        scene.host.batch(
            "nft",
            &format!(
                "add chain inet wall {chain}\nadd rule inet wall {chain} ct state invalid drop\n\
                 add rule inet wall wide jump {chain}\n"
            ),
        );
    }
    names(&refused(&scene, class()), None);
}

/// The same by IPv6: a chain of IPv4's drops none of it, one of both families does.
#[test]
fn an_answer_by_ipv6_to_what_came_another_way() {
    if !has_module("nf_conntrack") {
        return;
    }
    let scene = Scene::new();
    let drops = |family: &str, table: &str, chain: &str| {
        format!(
            "add table {family} {table}\nadd chain {family} {table} {chain} {{ type filter hook forward priority 0; }}\n\
             add rule {family} {table} {chain} ct state invalid counter drop\n"
        )
    };
    scene.host.batch("nft", &[drops("ip", "filter", "four"), drops("ip6", "filter", "six")].concat());
    let refused = || refused_of(&scene, class(), ANSWERS[1]);
    names(&refused(), Some("six (nft table ip6 filter)"));
    scene
        .host
        .batch("nft", &["delete table ip6 filter\n".to_owned(), drops("inet", "wall", "wide")].concat());
    names(&refused(), Some("wide (nft table inet wall)"));
    // Who has its connection passes.
    assert!(scene.is_answered(EXT6));
}

/// The same by both kinds of iptables. The older one's rules are not read: nobody says that it has none.
#[test]
fn an_answer_that_iptables_refuses() {
    if !has_module("nf_conntrack") {
        return;
    }
    let scene = Scene::new();
    let refuse = |iptables: &str| {
        let lines = format!(
            "{iptables} -N KUBE-FORWARD && {iptables} -A FORWARD -j KUBE-FORWARD && \
             {iptables} -A KUBE-FORWARD -m conntrack --ctstate INVALID -m comment --comment x -j DROP"
        );
        scene.host.feed("sh", &["-c", &format!("{{ {lines}; }} && echo done || true")], "").contains("done")
    };
    if has_module("nft_compat") {
        assert!(refuse("iptables-nft"));
        names(&refused(&scene, class()), Some("KUBE-FORWARD (nft table ip filter)"));
        scene.host.batch("nft", "delete table ip filter\n");
    }
    if refuse("iptables-legacy") {
        names(&refused(&scene, "netfilter"), None);
    }
}

/// A rule that asks for no state, where conntrack has called packets INVALID before: what it drops was never looked at.
#[test]
fn a_rule_without_a_state() {
    if !has_module("nf_conntrack") {
        return;
    }
    let scene = Scene::new();
    let chain = "add table ip filter\nadd chain ip filter forward { type filter hook forward priority 0; }\n";
    scene.host.batch("nft", &format!("{chain}add rule ip filter forward ct state invalid drop\n"));
    refused(&scene, class());
    scene
        .host
        .batch("nft", "flush chain ip filter forward\nadd rule ip filter forward tcp dport 5000 drop\n");
    let trace = scene.trace("drops");
    answer_from_elsewhere(&scene, ANSWERS[0]);
    let event = trace.expect_class(class(), |event| event["destination_port"] == 5000);
    // Whether a kernel without reasons has nftables, which it may have built in, is not seen.
    let is_known = has_reasons() || fs::exists("/sys/module/nf_tables").unwrap();
    let message = event["message"].as_str().unwrap();
    assert!(!is_known || !message.contains("INVALID"), "{event:#}");
}

/// A rule that drops what conntrack knows well.
#[test]
fn a_rule_is_a_rule() {
    let scene = Scene::new();
    scene.host.batch(
        "nft",
        "add table ip filter\nadd chain ip filter forward { type filter hook forward priority 0; }\n\
         add rule ip filter forward ct state new udp dport 7 drop\n",
    );
    let trace = scene.trace("drops");
    assert!(!scene.is_answered(EXT4));
    let event = trace.expect_class(class(), |event| event["destination_port"] == 7);
    assert!(!event["message"].as_str().unwrap().contains("INVALID"), "{event:#}");
    scene.host.batch("nft", "delete table ip filter\n");
    until("cured", || scene.is_answered(EXT4).then_some(()));
}

/// By a pod's own rules, as a service mesh's.
#[test]
fn an_answer_that_the_pod_itself_refuses() {
    if !has_module("nf_conntrack") {
        return;
    }
    let scene = Scene::new();
    let pod = &scene.web.netns;
    let chain = "add table inet mesh\nadd chain inet mesh in { type filter hook input priority 0; }\n";
    pod.batch("nft", &format!("{chain}add rule inet mesh in ct state invalid drop\n"));
    let trace = scene.trace("drops");
    let told = |ends: [&str; 2]| {
        answer_from(&scene.ext, ends);
        let port = ends[1].parse::<SocketAddr>().unwrap().port();
        trace.expect_class(class(), |event| event["destination_port"] == port)
    };
    for ends in [["10.97.9.2:8080", "10.97.1.2:5000"], ["[fd97:9::2]:8080", "[fd97:1::2]:5001"]] {
        let event = told(ends);
        let is_known = has_reasons() || fs::exists("/sys/module/nf_tables").unwrap();
        let is_named = event["message"].as_str().unwrap().contains("INVALID");
        assert_eq!(is_named, is_known, "{event:#}");
        names(&event, Some("in (nft table inet mesh)"));
        assert!(fix(&event).ends_with("(in shop/web-0)"), "{event:#}");
    }
    // What a rule drops that does not ask is not INVALID, whatever was before: rules are read again every few seconds.
    pod.batch("nft", "flush chain inet mesh in\nadd rule inet mesh in tcp sport 8080 drop\n");
    drop(trace);
    let trace = scene.trace("drops");
    answer_from(&scene.ext, ["10.97.9.2:8080", "10.97.1.2:5002"]);
    let event = trace.expect_class(class(), |event| event["destination_port"] == 5002);
    let is_known = has_reasons() || fs::exists("/sys/module/nf_tables").unwrap();
    assert!(!is_known || !event["message"].as_str().unwrap().contains("INVALID"), "{event:#}");
}
