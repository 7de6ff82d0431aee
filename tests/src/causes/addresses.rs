//! Packets whose addresses may not be seen where they come from.

use crate::harness::has_reasons;
use crate::harness::packet::{ipv4, send_routed, udp_segment};

use super::{Scene, fix};

/// A pod sends with an address of the node: somebody gave both the same, or forges it. No route cures that.
#[test]
fn a_source_that_is_the_nodes_own() {
    let scene = Scene::new();
    let trace = scene.trace("drops");
    let segment = udp_segment("10.97.9.1:4000".parse().unwrap(), "10.97.9.2:5001".parse().unwrap(), 4, true);
    let packet = ipv4([10, 97, 9, 1].into(), [10, 97, 9, 2].into(), 17, &segment, true);
    scene.web.netns.inside(|| send_routed([10, 97, 9, 2].into(), &packet).unwrap());
    let event = trace.expect("it is refused", |event| event["destination_port"] == 5001);
    assert_eq!(event["interface"], "veth-web", "{event:#}");
    // Without reasons it dies where what the reverse path filter refuses does.
    if has_reasons() {
        assert_eq!(event["class"], "routing", "{event:#}");
        assert!(fix(&event).contains("same address"), "{event:#}");
    }
}
