//! Packets whose addresses may not be seen where they come from, or that are somebody else's there.

use std::net::UdpSocket;
use std::time::Duration;

use crate::harness::has_reasons;
use crate::harness::packet::{ipv4, send_routed, udp, udp_segment};

use super::{Scene, apply, fix};

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

/// Another pod had the address a moment ago, and the node still sends to its MAC.
#[test]
fn an_old_neighbour_entry() {
    let scene = Scene::new();
    let trace = scene.trace("drops");
    for (address, to, state) in [
        ("10.97.1.2", "10.97.1.2:5002", "reachable"),
        ("10.97.1.2", "10.97.1.2:5003", "permanent"),
        ("fd97:1::2", "[fd97:1::2]:5002", "reachable"),
    ] {
        scene
            .host
            .ip(&format!("neigh replace {address} lladdr 02:00:00:00:99:02 dev veth-web nud {state}\n"));
        let socket = scene.web.netns.inside(|| UdpSocket::bind(to).unwrap());
        scene.host.inside(|| udp(to.parse().unwrap(), 1, 10));
        let port: std::net::SocketAddr = to.parse().unwrap();
        let is_it = |event: &serde_json::Value| {
            event["destination_ip"] == address && event["destination_port"] == port.port()
        };
        let event = trace.expect_class("neighbour", is_it);
        assert_eq!([&event["harm"], &event["pod_name"]], ["harmful", "web-0"], "{event:#}");
        assert!(event["message"].as_str().unwrap().contains("for another station"), "{event:#}");
        apply(&scene.host, &fix(&event));
        let entry = scene.host.run("ip", &["neigh", "show", address]);
        assert!(!entry.contains("02:00:00:00:99:02"), "cured: {entry}");
        scene.host.inside(|| udp(to.parse().unwrap(), 1, 10));
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert!(socket.recv(&mut [0; 100]).is_ok(), "cured: {to}");
        // What is for somebody else in the pod's network is missed by nobody, as ever.
        let other = to.replace(":2", ":3").replace(".1.2", ".1.3");
        let address = other.parse::<std::net::SocketAddr>().unwrap().ip();
        scene
            .host
            .ip(&format!("neigh replace {address} lladdr 02:00:00:00:99:03 dev veth-web nud reachable\n"));
        scene.host.inside(|| udp(other.parse().unwrap(), 1, 10));
        let event = trace.expect("it is dropped", |event| event["destination_ip"] == address.to_string());
        assert_eq!([&event["class"], &event["harm"]], ["other", "benign"], "{event:#}");
    }
}
