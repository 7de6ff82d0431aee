//! Packets in packets: the hop says one number, the tunnel costs another, and who is inside is to be named.
//!
//! ```text
//!  web - router ------------------- hop -------------------- tip        hop's way to tip has MTU 1400
//!          tun0 10.99.9.1 ============================== 10.99.9.2 tun0
//! ```

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;

use serde_json::{Value, json};

use crate::harness::lab::{Lab, WEB};
use crate::harness::netns::Netns;
use crate::harness::packet::udp_unfragmented;

use super::underlay::{TIP, Underlay};
use super::{Watch, forget, pod, sees_messages, v4};

/// The verdict on what `web` sends through a tunnel.
fn verdict(lab: &Lab, link: &str, net: u8, event: &str) -> Value {
    let underlay = Underlay::tunnelled(lab, link, net);
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
    let verdict = watch.verdict_in_time(&wanted);
    let ends = (pod(&verdict, "source_pod"), pod(&verdict, "destination_pod"));
    assert_eq!((ends.0.as_deref(), ends.1.as_deref()), (Some(WEB), Some(TIP)), "{verdict:#}");
    assert_eq!(verdict["finding"], "small_underlay", "{verdict:#}");
    is_cured(&watch, underlay.tip(), net, &verdict);
    verdict
}

/// Does what it says is to be set, at both nodes: then `web` sends what it likes there, and nobody says a word.
fn is_cured(watch: &Watch<'_>, tip: &Netns, net: u8, verdict: &Value) {
    let (lab, fits, at) = (watch.lab, &verdict["fits"], v4([10, 99, net, 2], 7701));
    let device = match verdict["limit"].as_str() {
        Some("tunnel") => "tun0".to_owned(),
        _ => format!("the {} device", verdict["tunnel"].as_str().unwrap()),
    };
    let told = format!("set {device} and the interfaces behind it to {fits}");
    assert_eq!(verdict["fix"], told, "{verdict:#}");
    for node in [&lab.router, tip] {
        node.ip(&format!("link set tun0 mtu {fits}\n"));
    }
    // Nobody answers ARP for the pod in the tunnel.
    tip.ip(&format!("route replace 10.99.1.0/24 via 10.99.{net}.1 dev tun0\n"));
    let _behind =
        [(&lab.router, "ra", "link set ra mtu 1500\n"), (&lab.web.netns, "eth0", "link set eth0 mtu 1500\n")]
            .map(|(netns, device, back)| {
                netns.meanwhile("ip", &format!("link set {device} mtu {fits}\n"), back)
            });
    forget(lab);
    let told = || ["made", "received"].map(|event| watch.of_pod(WEB, event));
    let before = told();
    let listener = tip.inside(|| TcpListener::bind(at).unwrap());
    let server = thread::spawn(move || {
        let mut bytes = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut bytes).map(|_| bytes.len())
    });
    let mut client = lab.web.netns.inside(|| TcpStream::connect(at).unwrap());
    client.write_all(&vec![7; 100_000]).unwrap();
    drop(client);
    assert_eq!(server.join().unwrap().ok(), Some(100_000));
    assert_eq!(told(), before, "{:#?}", watch.messages());
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

/// The pod's packets are in VXLAN, and that is in IP-in-IP: what the hop says costs both.
#[test]
fn vxlan_in_ipip_over_a_smaller_underlay() {
    let lab = Lab::lock();
    if !sees_messages(&lab) {
        return;
    }
    let underlay = Underlay::tunnelled(&lab, "type ipip local LOCAL remote REMOTE", 16);
    let nested = |local: &str, remote: &str, own: u8| {
        format!(
            "link add vx0 type vxlan id 7 local {local} remote {remote} dstport 4789 df set\n\
             link set vx0 mtu 1500 up\naddr add 10.99.17.{own}/24 dev vx0\n"
        )
    };
    lab.router.ip(&nested("10.99.16.1", "10.99.16.2", 1));
    underlay.tip().ip(&(nested("10.99.16.2", "10.99.16.1", 2) + "route replace 10.99.1.0/24 dev vx0\n"));
    let watch = Watch::new(&lab);
    // 1,328 bytes, 1,398 with both tunnels: more than the hop takes only with another 20.
    lab.web.netns.inside(|| udp_unfragmented(v4([10, 99, 17, 2], 7716), 5, 1320));
    let verdict = watch.verdict_in_time(&[
        ("destination_ip", json!("10.99.17.2")),
        ("pod_name", json!("web-0")),
        ("finding", json!("small_underlay")),
    ]);
    lab.router.ip("link del vx0\n");
    assert_eq!(verdict["fits"], 1400 - 20 - 50, "{verdict:#}");
    assert_eq!(pod(&verdict, "source_pod").as_deref(), Some(WEB), "{verdict:#}");
}
