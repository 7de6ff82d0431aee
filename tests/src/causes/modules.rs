//! Places in modules that came after the agent.

use crate::harness::netns::Netns;
use crate::harness::packet::udp;
use crate::harness::{tool, until};

use super::{Scene, has_module, is_guest};

/// Their initialisation's memory is given back and becomes another's, and while functions are traced the kernel goes on to name
/// what was there.
const ONE_AFTER_ANOTHER: [&str; 5] = ["ip_vti", "ip_gre", "sit", "ip6_gre", "ip6_tunnel"];

#[test]
fn a_place_has_the_name_of_the_module_that_owns_it() {
    if !is_guest() {
        return;
    }
    let scene = Scene::new();
    for module in ONE_AFTER_ANOTHER {
        let _ = tool("modprobe").args(["-r", "-q", module]).status();
    }
    // With both probes: functions are traced, and packets that die are named.
    let traces = ["mtu", "drops"].map(|probe| scene.trace(probe));
    for module in ONE_AFTER_ANOTHER.iter().rev() {
        if !has_module(module) {
            return;
        }
    }
    let netns = Netns::new();
    netns.ip(
        "link set lo up\nlink add d0 type veth peer name d1\nlink set d1 up\nlink set d0 up\naddr add 10.97.3.1/24 dev d0\n\
         link add v0 type vti local 10.97.3.1 remote 10.97.3.2 key 7\nlink set v0 up\naddr add 10.97.2.1/24 dev v0\n",
    );
    // No state says how to encrypt it. Until the names of new modules are read a place has none.
    let is_named =
        |event: &serde_json::Value| event["destination_port"] == 7703 && !event["function"].is_null();
    until("a drop in the tunnel has a place", || {
        netns.inside(|| udp("10.97.2.2:7703".parse().unwrap(), 1, 100));
        (!traces[1].lines(is_named).is_empty()).then_some(())
    });
    let event = traces[1].lines(is_named).remove(0);
    assert_eq!(
        (&event["function"], &event["module"]),
        (&"vti_tunnel_xmit".into(), &"ip_vti".into()),
        "{event:#}"
    );
    assert_eq!(event["class"], "policy", "{event:#}");
}
