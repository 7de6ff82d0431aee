//! Devices that share a parent: what is too large for the parent, or for one beside it, dies without a word.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use serde_json::json;

use crate::harness::netns::Netns;
use crate::harness::packet::udp_unfragmented;
use crate::mtu::knows_veth;

use super::size::verdict;
use super::{Scene, Trace, fix, has_module};

/// A node whose kernel knows this kind of device.
fn scene_with(kind: &str) -> Option<Scene> {
    has_module(kind).then(Scene::new)
}

/// Whether a datagram of 1,428 bytes comes from one namespace to another. It may be cut where it is sent.
fn arrives(from: &Netns, to: &Netns, at: &str) -> bool {
    let at: SocketAddr = at.parse().unwrap();
    let receiver = to.inside(|| UdpSocket::bind(at).unwrap());
    receiver.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    from.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(&[7; 1400], at).unwrap());
    receiver.recv(&mut [0; 2000]).ok() == Some(1400)
}

/// Gives a namespace a device of this kind on the uplink, with an address of its net.
fn child(scene: &Scene, netns: &Netns, kind: &str, last: u8) {
    scene.host.ip(&format!("link add link uplink name shared netns {} type {kind}\n", netns.path()));
    netns.ip(&format!("addr add 10.97.9.{last}/24 dev shared\nlink set shared up\n"));
}

/// The class of what dies so, in a trace of drops.
fn is_of_size(drops: &Trace, device: &str) {
    let lost = drops.expect_class("mtu", |line| line["interface"] == device && line["harm"] == "harmful");
    assert!(fix(&lost).starts_with("`r2c-agent trace mtu` names the device, the size that fits"), "{lost:#}");
}

/// A pod on the node's own network: who sends to it sends to the node's device first, and that takes less.
#[test]
fn what_a_macvlan_does_not_get_by_a_smaller_parent() {
    let Some(scene) = scene_with("macvlan") else { return };
    let (web, ext) = (&scene.web.netns, &scene.ext);
    scene.host.ip("link set uplink mtu 1400\n");
    child(&scene, web, "macvlan mode bridge", 5);
    assert!(web.run("ip", &["link", "show", "shared"]).contains("mtu 1400"), "as its parent");
    let (trace, drops) = (scene.trace("mtu"), scene.trace("drops"));
    assert!(!arrives(ext, web, "10.97.9.5:7751"));
    let silent = verdict(&trace, "the parent", |line| line["finding"] == "silent_drop");
    let text = silent["message"].as_str().unwrap();
    // Where the kernel gives no types of veth, what it hands packets to is not seen.
    let (says, told) = if knows_veth() {
        (
            "eth0 (MTU 1500) hands packets to uplink, which takes 1400 bytes and frees what is longer without telling anybody",
            "give both ends of the veth one MTU: 1400, or 1500 if all behind it takes that",
        )
    } else {
        (
            "packets are freed on eth0 because the device they go to takes less, and nobody is told",
            "give both one MTU: eth0 (MTU 1500) and the device that it hands packets to, which `ip -d link show eth0` tells",
        )
    };
    assert!(text.starts_with(says), "{text}");
    assert_eq!(fix(&silent), told, "{silent:#}");
    is_of_size(&drops, "eth0");
    ext.ip("link set eth0 mtu 1400\n");
    assert!(arrives(ext, web, "10.97.9.5:7751"), "cured by the smaller");
    ext.ip("link set eth0 mtu 1500\n");
    assert!(!arrives(ext, web, "10.97.9.5:7751"));
    scene.host.ip("link set uplink mtu 1500\n");
    assert!(arrives(ext, web, "10.97.9.5:7751"), "cured by the larger");
}

/// The kernel lets an ipvlan promise more than its parent takes.
#[test]
fn an_ipvlan_larger_than_its_parent() {
    let Some(scene) = scene_with("ipvlan") else { return };
    let (web, ext) = (&scene.web.netns, &scene.ext);
    scene.host.ip("link set uplink mtu 1400\n");
    ext.ip("link set eth0 mtu 1400\n");
    child(&scene, web, "ipvlan mode l2", 6);
    web.ip("link set shared mtu 1500\n");
    let (trace, drops) = (scene.trace("mtu"), scene.trace("drops"));
    assert!(!arrives(web, ext, "10.97.9.2:7752"));
    let silent = verdict(&trace, "the parent", |line| line["finding"] == "silent_drop");
    let text = silent["message"].as_str().unwrap();
    let told = "uplink takes 1400 bytes, gets longer ones to send, and frees them without telling anybody: shop/web-0 waits in vain";
    assert!(text.starts_with(told), "{text}");
    let told = "give what sends by uplink (an ipvlan or another device above it, a bridge, a program that redirects packets to it) an MTU of 1400, or raise uplink's";
    assert!(fix(&silent).starts_with(told), "{silent:#}");
    is_of_size(&drops, "uplink");
    // The command in it shows what is above it.
    let shown = scene.host.run("ip", &["-o", "link", "show", "uplink"]);
    let above = format!("shared@if{}:", shown.split(':').next().unwrap());
    assert!(web.run("ip", &["-d", "link", "show"]).contains(&above));
    web.ip("link set shared mtu 1400\n");
    assert!(arrives(web, ext, "10.97.9.2:7752"), "cured");
    web.ip("link set shared mtu 1500\n");
    scene.host.ip("link set uplink mtu 1500\n");
    ext.ip("link set eth0 mtu 1500\n");
    assert!(arrives(web, ext, "10.97.9.2:7752"), "cured by a larger parent");
}

/// Two pods on one parent: the kernel hands packets from one to the other, and the parent never sees them.
#[test]
fn an_ipvlan_beside_it_that_takes_less() {
    let Some(scene) = scene_with("ipvlan") else { return };
    let (web, other) = (&scene.web.netns, &Netns::new());
    child(&scene, web, "ipvlan mode l2", 6);
    child(&scene, other, "ipvlan mode l2", 7);
    other.ip("link set shared mtu 1300\n");
    let (trace, drops) = (scene.trace("mtu"), scene.trace("drops"));
    web.inside(|| udp_unfragmented("10.97.9.7:7753".parse().unwrap(), 3, 1400));
    let silent = verdict(&trace, "the one beside it", |line| line["finding"] == "silent_drop");
    let text = silent["message"].as_str().unwrap();
    assert!(text.starts_with("packets are freed on shared because the device they go to takes less, and nobody is told: shop/web-0 waits"), "{text}");
    assert_eq!(
        [&silent["source_pod"]["pod"], &silent["fits"]],
        [&json!("web-0"), &json!(null)],
        "{silent:#}"
    );
    let told = "give both one MTU: shared (MTU 1500) and the device that it hands packets to, which is another ipvlan of the same parent (`ip -d link show type ipvlan` in each network namespace tells its MTU)";
    assert_eq!(fix(&silent), told, "{silent:#}");
    is_of_size(&drops, "shared");
    let shown = other.run("ip", &["-d", "link", "show", "type", "ipvlan"]);
    assert!(shown.contains("mtu 1300"), "{shown}");
    web.ip("link set shared mtu 1300\n");
    assert!(arrives(web, other, "10.97.9.7:7753"), "cured by the smaller");
    for netns in [web, other] {
        netns.ip("link set shared mtu 1500\n");
    }
    assert!(arrives(web, other, "10.97.9.7:7753"), "cured by the larger");
}
