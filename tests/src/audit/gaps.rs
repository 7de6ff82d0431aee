//! What the audit cannot judge: it is named, and keeps the last line from saying that everything fits.

use nix::errno::Errno;
use serde_json::json;

use crate::harness::agent::without_capabilities;
use crate::harness::bpf::{TCX, TWO, XDP, attach};
use crate::harness::guest::has_module;
use crate::harness::netns::Netns;
use crate::harness::pod::{Node, Pod};

use super::rights::SYS_ADMIN;
use super::{Flannel, Said, WEB, has_devices};

/// A host with an uplink that carries.
fn host() -> Netns {
    let host = Netns::new();
    host.ip("link set lo up\nlink add eth0 up mtu 1500 type dummy\naddr add 10.99.0.1/24 dev eth0\n\
         addr add fd99::1/64 dev eth0 nodad\nroute add default via 10.99.0.254\n");
    host
}

/// Nothing is found, and the audit says of `subject`, in JSON and in words, that it is not judged and why.
fn expect(node: &Node, subject: &str, why: &str) {
    let said = Said::of(node, &["-o", "json", "--fail-on-findings"]);
    assert!(said.events("finding").is_empty(), "{}", said.text);
    let gaps = said.events("not_judged");
    let gap = gaps.iter().find(|line| line["subject"] == subject);
    let gap = gap.unwrap_or_else(|| panic!("no {subject}: {}\n{}", said.text, said.notes));
    assert_eq!(json!([gap["why"], gap["unread"]]), json!([why, false]), "{gap:#}");
    // What no reading would judge is no failure of the audit.
    assert_eq!(said.code, Some(0), "{}", said.notes);
    let said = Said::of(node, &[]);
    let text = said.text.replace("\n   ", " ");
    assert!(text.contains("all that was judged fits: ") && !text.contains("everything fits"), "{text}");
    assert!(
        text.contains("not judged: ") && text.contains(subject) && text.contains(&format!("({why})")),
        "{text}"
    );
}

#[test]
fn a_tunnel_of_ipsec_without_a_state() {
    if !has_devices() {
        return;
    }
    for (name, link) in [
        ("vti", "type vti local 10.99.0.1 remote 10.99.0.2 key 7"),
        ("vti6", "type vti6 local fd99::1 remote fd99::2 key 7"),
        ("xfrm", "type xfrm dev eth0 if_id 9"),
    ] {
        let host = host();
        host.ip(&format!("link add t0 {link}\nlink set t0 mtu 9000 up\n"));
        let said = Said::json(&Node::routing(&host));
        assert_eq!(said.link(None, "t0")["interface_kind"], name, "{}", said.text);
        expect(&Node::routing(&host), "t0", "no IPsec state says what it adds");
    }
}

#[test]
fn wireguard_whose_peers_are_nowhere() {
    if !has_devices() {
        return;
    }
    let host = host();
    host.ip("link add wg0 type wireguard\nlink set wg0 mtu 1420 up\n");
    expect(&Node::routing(&host), "wg0", "it has no peer");
    host.run("wg", &["set", "wg0", "peer", "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="]);
    expect(&Node::routing(&host), "wg0", "where one of its peers is is not known yet");
}

#[test]
fn a_tunnel_whose_packets_say_where_they_go() {
    if !has_devices() {
        return;
    }
    let host = host();
    host.ip("link add v0 type vxlan external dstport 4789\nlink set v0 mtu 1500 up\n");
    expect(&Node::routing(&host), "v0", "each packet says where it goes");
}

#[test]
fn a_device_of_a_program() {
    if !has_devices() {
        return;
    }
    let host = host();
    host.ip("tuntap add dev tun9 mode tun\nlink set tun9 up\n");
    expect(&Node::routing(&host), "tun9", "what a device of kind tun adds is not known");
}

#[test]
fn bpf_programs_on_a_device() {
    if !has_devices() {
        return;
    }
    let host = host();
    host.ip("link add va up type veth peer name vb\nlink set vb up\n");
    let node = Node::routing(&host);
    host.batch(
        "tc",
        "qdisc add dev va clsact\nfilter add dev va egress bpf bytecode \"1,6 0 0 4294967295\"\n",
    );
    expect(&node, "va", "a BPF program (tc) may send its packets elsewhere");
    host.batch("tc", "qdisc del dev va clsact\n");
    assert!(Said::json(&node).events("not_judged").is_empty());
    host.batch("tc", "qdisc add dev va clsact\nfilter add dev va ingress matchall action pass\n");
    assert!(Said::json(&node).events("not_judged").is_empty(), "that is no program");
    if has_module("act_police") {
        host.batch(
            "tc",
            "filter del dev va ingress\n\
             filter add dev va ingress matchall action police rate 10mbit burst 1400 conform-exceed drop\n",
        );
        expect(&node, "va", "a filter (tc) polices packets of it");
    }
    host.batch("tc", "qdisc del dev va clsact\n");

    // What passes at XDP drops at tc, which here hurts nobody.
    for (program, name) in [(XDP, "XDP"), (TCX, "tcx")] {
        match host.inside(|| attach(program, TWO, "va")) {
            Ok(_held) => {
                expect(&node, "va", &format!("a BPF program ({name}) may send its packets elsewhere"));
            }
            // There is no tcx before 6.6.
            Err(errno) => assert_eq!((name, errno), ("tcx", Errno::EINVAL)),
        }
    }
}

/// What could be judged with more rights is no all-clear: the exit code says so.
#[test]
fn what_was_not_read_is_no_all_clear() {
    if !has_devices() {
        return;
    }
    let flannel = Flannel::new();
    let args = ["-o", "json", "--fail-on-findings"];
    let said = Said::limited(&flannel.node, &args, |command| without_capabilities(command, SYS_ADMIN));
    assert!(said.events("finding").is_empty() && said.code == Some(3), "{}\n{}", said.text, said.notes);
    let gaps = said.events("not_judged");
    let of_web = |line: &&&serde_json::Value| super::pod_of(line).as_deref() == Some(WEB);
    let gap = gaps.iter().find(of_web).unwrap_or_else(|| panic!("{}", said.text));
    assert_eq!(gap["unread"], true, "{gap:#}");
    for words in ["routes", "IPsec policies", "WireGuard peers", "BPF programs"] {
        assert!(gap["subject"].as_str().unwrap().contains(words), "{gap:#}");
    }
    flannel.pods.into_iter().for_each(Pod::stop);
}

/// Routers that keep many routes have the kernel leave out what a nexthop object says.
#[test]
fn a_route_by_an_object_alone() {
    if !has_devices() {
        return;
    }
    let host = host();
    host.ip("nexthop add id 7 via 10.99.0.9 dev eth0\nroute add 10.98.0.0/24 nhid 7 mtu 9000\n");
    let node = Node::routing(&host);
    assert_eq!(Said::json(&node).findings("route_mtu").len(), 1);
    host.sysctl("ipv4/nexthop_compat_mode", "0");
    let said = Said::of(&node, &["-o", "json", "--fail-on-findings"]);
    let gaps = said.events("not_judged");
    let gap = gaps.iter().find(|line| line["subject"] == "10.98.0.0/24");
    let gap = gap.unwrap_or_else(|| panic!("{}\n{}", said.text, said.notes));
    let why = "its nexthop object does not tell its device (net.ipv4.nexthop_compat_mode is 0)";
    assert_eq!(
        json!([gap["why"], gap["unread"], gap["interface_kind"]]),
        json!([why, true, "route"]),
        "{gap:#}"
    );
    assert_eq!(said.code, Some(3), "{}", said.notes);
}
