//! What IPsec adds, held against the number that the kernel itself tells who sends too much.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::harness::netns::Netns;
use crate::harness::packet::{udp, udp_unfragmented};
use crate::harness::pod::{Node, Pod};
use crate::harness::until;

use super::fixes::apply;
use super::sums::sent;
use super::{Said, WEB, has_devices};

const KEY: &str = "0x000102030405060708090a0b0c0d0e0f10111213";

/// A host with one uplink, which answers nobody.
fn host(takes: u32) -> Netns {
    let host = Netns::new();
    host.ip(&format!(
        "link set lo up\nlink add eth0 up mtu {takes} type dummy\naddr add 10.99.0.1/24 dev eth0\n\
         addr add fd99::1/64 dev eth0 nodad\nroute add default via 10.99.0.254\n"
    ));
    host.sysctl("ipv4/ip_forward", "1");
    host
}

/// A policy to `network` by an ESP tunnel, with its state; both have `also`.
fn wrap(host: &Netns, v6: bool, network: &str, also: &str) {
    let [ours, theirs] = if v6 { ["fd99::1", "fd99::2"] } else { ["10.99.0.1", "10.99.0.2"] };
    let source = if network.contains(':') { "::/0" } else { "0.0.0.0/0" };
    host.ip(&format!(
        "xfrm state add src {ours} dst {theirs} proto esp spi 1 mode tunnel reqid 1 {also} aead rfc4106(gcm(aes)) {KEY} 128\n\
         xfrm policy add src {source} dst {network} dir out {also} tmpl src {ours} dst {theirs} proto esp reqid 1 mode tunnel\n"
    ));
}

/// The path MTU to `to` that a packet of `size` bytes is told.
fn told(node: &Node, netns: &Netns, to: SocketAddr, size: usize) -> Value {
    let headers = if to.is_ipv6() { 48 } else { 28 };
    until("a path MTU is learned", || {
        netns.inside(|| udp_unfragmented(to, 1, size - headers));
        let said = Said::json(node);
        let learned = said.events("exception");
        Some(learned.iter().find(|line| line["destination_ip"] == to.ip().to_string())?["mtu"].clone())
    })
}

#[test]
fn a_policy_adds_to_what_pods_send() {
    if !has_devices() {
        return;
    }
    let (host, web) = (host(1500), Netns::new());
    host.ip(&format!(
        "link add va up type veth peer name eth0 netns {}\naddr add 10.1.0.1/24 dev va\n",
        web.path()
    ));
    web.ip(
        "link set lo up\nlink set eth0 up\naddr add 10.1.0.2/24 dev eth0\nroute add default via 10.1.0.1\n",
    );
    let node = Node::routing(&host);
    let pod = Pod::start(&node, WEB, &web);
    assert!(Said::json(&node).events("finding").is_empty());
    wrap(&host, false, "10.2.0.0/24", "");
    let said = Said::of(&node, &["-o", "json", "--fail-on-findings"]);
    let finding = said.only("pod_larger_than_ipsec");
    assert_eq!(
        json!([finding["interface"], finding["promises"], finding["hurt_pods"]]),
        json!(["eth0", 1500, 1])
    );
    assert!(
        finding["message"].as_str().unwrap().contains("ESP adds 54 on the way to 10.2.0.0/24"),
        "{finding:#}"
    );
    assert_eq!(said.code, Some(4), "{}", said.notes);
    assert!(said.events("not_judged").is_empty(), "{}", said.text);
    assert_eq!(
        finding["fits"],
        told(&node, &web, "10.2.0.9:9".parse().unwrap(), 1500),
        "the kernel's number"
    );
    assert!(!said.text.contains(&KEY[2..]), "{}", said.text);

    let fix = finding["fix"].as_str().unwrap();
    apply(fix, &host, &[(WEB, &web)]);
    let before = sent(&host, "eth0");
    web.inside(|| udp("10.2.0.9:9".parse().unwrap(), 1, 1472));
    until("it is sent in fragments that fit", || (sent(&host, "eth0") - before > 1500).then_some(()));
    let said = Said::json(&node);
    assert!(said.events("finding").is_empty() && said.events("not_judged").is_empty(), "{}", said.text);
    assert!(said.events("exception").is_empty(), "no message was needed: {}", said.text);

    host.ip("xfrm state flush\n");
    let said = Said::of(&node, &[]);
    let text = said.text.replace("\n   ", " ");
    let gap = "not judged: IPsec policy to 10.2.0.0/24 (no IPsec state says what it adds)";
    assert!(text.contains("all that was judged fits: ") && text.contains(gap), "{text}");
    pod.stop();
}

/// Without `CAP_NET_ADMIN` nobody knows whether there is one.
#[test]
fn policies_that_were_not_read_are_no_all_clear() {
    if !has_devices() {
        return;
    }
    let node = Node::new();
    // The kernel's part that answers is there now.
    Netns::new().run("ip", &["xfrm", "policy"]);
    let said = Said::limited(&node, &["--fail-on-findings"], |command| {
        crate::harness::agent::only_capabilities(command, &[]);
    });
    assert!(
        said.notes.contains("IPsec policies not read: ") && said.notes.contains("CAP_NET_ADMIN"),
        "{}",
        said.notes
    );
    assert!(!said.text.contains("everything fits") && said.code != Some(0), "{}\n{}", said.text, said.notes);
}

#[test]
fn devices_of_ipsec() {
    if !has_devices() {
        return;
    }
    for (name, v6, link, also) in [
        ("vti", false, "type vti local 10.99.0.1 remote 10.99.0.2 key 7", "mark 7"),
        ("vti6", true, "type vti6 local fd99::1 remote fd99::2 key 7", "mark 7"),
        ("xfrm", false, "type xfrm dev eth0 if_id 9", "if_id 9"),
    ] {
        let host = host(1400);
        host.ip(&format!("link add t0 {link}\nlink set t0 mtu 1390 up\n"));
        // An address that the device's own family carries.
        let to = if v6 {
            host.ip("addr add fd97::1/64 dev t0 nodad\n");
            wrap(&host, true, "::/0", also);
            "[fd97::2]:9"
        } else {
            host.ip("addr add 10.97.0.1/24 dev t0\n");
            wrap(&host, false, "0.0.0.0/0", also);
            "10.97.0.2:9"
        };
        let node = Node::routing(&host);
        let said = Said::json(&node);
        let finding = said.only("overlay_too_large").clone();
        assert_eq!(
            json!([finding["interface"], finding["interface_kind"]]),
            json!(["t0", name]),
            "{finding:#}"
        );
        assert!(said.events("not_judged").is_empty(), "{}", said.text);
        let fits = &finding["fits"];
        assert_eq!(*fits, told(&node, &host, to.parse().unwrap(), 1390), "{name}: the kernel's number");
        assert!(
            finding["fix"].as_str().unwrap().starts_with(&format!("ip link set t0 mtu {fits}")),
            "{finding:#}"
        );
        host.ip(&format!("link set t0 mtu {fits}\n"));
        let said = Said::json(&node);
        assert!(
            said.events("finding").is_empty() && said.events("not_judged").is_empty(),
            "{name}: {}",
            said.text
        );
    }
}
