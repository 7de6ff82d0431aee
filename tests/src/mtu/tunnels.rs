//! Packets in packets: the hop says one number, the tunnel costs another, and who is inside is to be named.
//!
//! ```text
//!  web - router ------------------- hop -------------------- tip        hop's way to tip has MTU 1400
//!          tun0 10.99.9.1 ============================== 10.99.9.2 tun0
//! ```

use serde_json::{Value, json};

use crate::harness::lab::{Lab, WEB};
use crate::harness::packet::udp_unfragmented;

use super::underlay::{TIP, Underlay};
use super::{Watch, pod, sees_messages, v4};

/// The verdict on what `web` sends through a tunnel.
fn verdict(lab: &Lab, link: &str, net: u8, event: &str) -> Value {
    let _underlay = Underlay::tunnelled(lab, link, net);
    let watch = Watch::new(lab);
    let to = v4([10, 99, net, 2], 7700);
    // 1428 bytes: with the tunnel's more than the hop takes, but not more than the node's own device.
    lab.web.netns.inside(|| udp_unfragmented(to, 5, 1400));
    // The hop's own side is seen as well, but its namespace is nobody's, so its addresses may be anybody's.
    let wanted = [
        ("destination_ip", json!(to.ip().to_string())),
        ("pod_name", json!("web-0")),
        ("event", json!(event)),
    ];
    let verdict = watch.verdict(&wanted);
    let ends = (pod(&verdict, "source_pod"), pod(&verdict, "destination_pod"));
    assert_eq!((ends.0.as_deref(), ends.1.as_deref()), (Some(WEB), Some(TIP)), "{verdict:#}");
    assert_eq!(verdict["finding"], "small_underlay", "{verdict:#}");
    verdict
}

/// The hop's word is quoted with its number; what is inside of the quote is who is hurt, and must send less.
fn expect_hop(verdict: &Value, tunnel: &str, overhead: u64, hop: &str) {
    assert_eq!([&verdict["event"], &verdict["sender_ip"]], [&json!("received"), &json!(hop)], "{verdict:#}");
    assert_eq!(
        [&verdict["tunnel"], &verdict["tunnel_overhead"]],
        [&json!(tunnel), &json!(overhead)],
        "{verdict:#}"
    );
    assert_eq!([&verdict["mtu"], &verdict["fits"]], [&json!(1400), &json!(1400 - overhead)], "{verdict:#}");
}

/// These tunnels learn from the hop and then tell the sender themselves.
fn expect_fit(verdict: &Value, kind: &str, fits: u64) {
    let told = [&verdict["event"], &verdict["limit"], &verdict["route_interface_kind"]];
    assert_eq!(told, [&json!("made"), &json!("tunnel"), &json!(kind)], "{verdict:#}");
    assert_eq!(
        [&verdict["mtu"], &verdict["fits"], &verdict["route_interface_mtu"]],
        [&json!(fits), &json!(fits), &json!(1500)]
    );
}

#[test]
fn vxlan_over_a_smaller_underlay() {
    let lab = Lab::lock();
    if sees_messages(&lab) {
        let verdict =
            verdict(&lab, "type vxlan id 7 local LOCAL remote REMOTE dstport 4789 df set", 11, "received");
        expect_hop(&verdict, "VXLAN", 50, "10.99.7.2");
    }
}

#[test]
fn vxlan_by_ipv6_over_a_smaller_underlay() {
    let lab = Lab::lock();
    if sees_messages(&lab) {
        let verdict = verdict(
            &lab,
            "type vxlan id 7 local LOCAL remote REMOTE dstport 8472 udp6zerocsumrx",
            12,
            "received",
        );
        expect_hop(&verdict, "VXLAN", 70, "fd99:7::2");
    }
}

#[test]
fn geneve_over_a_smaller_underlay() {
    let lab = Lab::lock();
    if sees_messages(&lab) {
        let verdict = verdict(&lab, "type geneve id 7 remote REMOTE df set", 13, "received");
        expect_hop(&verdict, "Geneve", 50, "10.99.7.2");
    }
}

#[test]
fn ipip_over_a_smaller_underlay() {
    let lab = Lab::lock();
    if sees_messages(&lab) {
        let verdict = verdict(&lab, "type ipip local LOCAL remote REMOTE", 14, "made");
        expect_fit(&verdict, "ipip", 1400 - 20);
    }
}

#[test]
fn gre_over_a_smaller_underlay() {
    let lab = Lab::lock();
    if sees_messages(&lab) {
        let verdict = verdict(&lab, "type gre local LOCAL remote REMOTE", 15, "made");
        expect_fit(&verdict, "gre", 1400 - 24);
    }
}
