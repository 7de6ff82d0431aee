//! What netfilter drops, and whether a rule does.

use crate::harness::packet::{ipv4, send_routed, tcp_segment};
use crate::harness::{has_reasons, until};

use super::{EXT4, Scene, fix, has_module};

/// `SYN` and `ACK`: the answer to a question that came another way.
const SYN_ACK: u8 = 0x12;

/// The node has not seen the connection begin, and drops what conntrack calls INVALID, as kube-proxy does.
#[test]
fn an_answer_to_what_came_another_way() {
    if !has_module("nf_conntrack") {
        return;
    }
    let scene = Scene::new();
    scene.host.batch(
        "nft",
        "add table ip filter\nadd chain ip filter forward { type filter hook forward priority 0; }\n\
         add rule ip filter forward ct state invalid counter drop\n",
    );
    assert!(scene.is_answered(EXT4), "what is known passes");
    let trace = scene.trace("drops");
    let segment = tcp_segment("10.97.1.2:8080".parse().unwrap(), "10.97.9.2:5000".parse().unwrap(), SYN_ACK);
    let packet = ipv4([10, 97, 1, 2].into(), [10, 97, 9, 2].into(), 6, &segment, true);
    let class = if has_reasons() { "policy" } else { "netfilter" };
    scene.web.netns.inside(|| send_routed([10, 97, 9, 2].into(), &packet).unwrap());
    let event = trace.expect_class(class, |event| event["destination_port"] == 5000);
    assert!(event["message"].as_str().unwrap().contains("conntrack calls it INVALID"), "{event:#}");
    assert!(fix(&event).contains("route both directions through this node"), "{event:#}");
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
    let class = if has_reasons() { "policy" } else { "netfilter" };
    let event = trace.expect_class(class, |event| event["destination_port"] == 7);
    assert!(!event["message"].as_str().unwrap().contains("INVALID"), "{event:#}");
    scene.host.batch("nft", "delete table ip filter\n");
    until("cured", || scene.is_answered(EXT4).then_some(()));
}
