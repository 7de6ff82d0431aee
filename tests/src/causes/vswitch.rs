//! Packets that Open vSwitch drops: a flow says so, the port takes less, or nobody tells it where to.

use std::fs;

use crate::harness::ovs::Bridge;
use crate::harness::until;

use super::{Scene, fix, has_module};

/// Where `ext` is reached by the bridge.
const BEHIND: &str = "10.97.4.2:7";

/// `web` and `ext` with a port of the bridge each.
fn bridged() -> Option<(Scene, Bridge)> {
    if !has_module("openvswitch") {
        return None;
    }
    let scene = Scene::new();
    for (port, netns, own, other) in [("pa", &scene.web.netns, 1_u8, 2_u8), ("pb", &scene.ext, 2, 1)] {
        scene.host.ip(&format!(
            "link add {port} type veth peer name ovs netns {}\nlink set {port} up\n",
            netns.path()
        ));
        netns.ip(&format!(
            "link set ovs address 02:00:00:00:04:0{own} up\naddr add 10.97.4.{own}/24 dev ovs\n\
             neigh add 10.97.4.{other} lladdr 02:00:00:00:04:0{other} dev ovs\n"
        ));
    }
    let bridge = Bridge::new(&scene.host, &["pa", "pb"])?;
    Some((scene, bridge))
}

#[test]
fn what_open_vswitch_drops() {
    let Some((scene, bridge)) = bridged() else { return };
    let trace = scene.trace("drops");
    let expect = |class: &str, words: &str, cure: &str| {
        let event = trace.expect_class(class, |event| {
            event["destination_port"] == 7
                && event["message"].as_str().is_some_and(|text| text.contains(words))
        });
        assert!(fix(&event).contains(cure) && event["harm"] == "harmful", "{event:#}");
    };

    assert!(!scene.is_answered(BEHIND));
    expect("routing", "Open vSwitch has no flow for it, and ovs-vswitchd", "see that ovs-vswitchd runs");

    bridge.connect(1, 2);
    bridge.connect(2, 1);
    assert!(scene.is_answered_of(BEHIND, 1472), "cured by flows");

    scene.host.ip("link set pb mtu 1400\n");
    assert!(scene.is_answered_of(BEHIND, 1300) && !scene.is_answered_of(BEHIND, 1472));
    let words = "a packet of 1500 bytes is more than a port of Open vSwitch takes, which tells nobody: pb (1400) takes less";
    expect("mtu", words, "give it, and who sends through it, one MTU");
    scene.host.ip("link set pb mtu 1500\n");
    assert!(scene.is_answered_of(BEHIND, 1472), "cured by the MTU");

    bridge.refuse(1);
    assert!(!scene.is_answered(BEHIND));
    // Until 6.7 such a packet is freed like one that is used.
    let types = fs::read("/sys/kernel/btf/openvswitch").unwrap_or_default();
    let name = b"OVS_DROP_LAST_ACTION";
    if !types.windows(name.len()).any(|window| window == name) {
        return;
    }
    expect("policy", "a flow of Open vSwitch drops it", "`ovs-dpctl dump-flows` shows the flow");

    bridge.connect_at_most(1, 2, 1);
    // By then it has let one pass.
    until("more than it lets pass", || (!scene.is_answered(BEHIND)).then_some(()));
    expect("policy", "a meter of Open vSwitch lets no more pass", "see whether its rate is what is meant");
    bridge.connect_at_most(1, 2, 1000);
    assert!((0..10).all(|_| scene.is_answered(BEHIND)), "cured by a higher rate");
}
