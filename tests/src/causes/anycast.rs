//! One address at which several nodes answer: what a router says of a connection of one may come to another.

use std::net::SocketAddr;

use crate::harness::netns::Netns;
use crate::harness::packet::{icmp_message, ipv4, send_routed, tcp_segment};

use super::cures::sends;
use super::size::verdict;
use super::{EXT4, Scene, apply, fix, has_module, is_guest};

/// Several nodes answer at one address, and the router tells one that does not have the connection.
#[test]
fn a_message_about_another_nodes_connection() {
    if !has_module("nf_conntrack") {
        return;
    }
    let scene = Scene::new();
    scene.host.batch(
        "nft",
        "add table ip filter\nadd chain ip filter forward { type filter hook forward priority 0; }\n\
         add rule ip filter forward ct state invalid counter drop\n",
    );
    scene.host.ip("route add 203.0.113.0/24 via 10.97.1.2\n");
    scene.ext.ip("route add 203.0.113.0/24 via 10.97.9.1\n");
    assert!(scene.is_answered(EXT4));
    let (trace, drops) = (scene.trace("mtu"), scene.trace("drops"));
    if !trace.sees_messages() {
        return;
    }
    let segment =
        tcp_segment("203.0.113.1:443".parse().unwrap(), "198.51.100.7:50000".parse().unwrap(), 0x10);
    let quoted = ipv4([203, 0, 113, 1].into(), [198, 51, 100, 7].into(), 6, &segment, true);
    let message =
        ipv4([10, 97, 9, 2].into(), [203, 0, 113, 1].into(), 1, &icmp_message(3, 4, 1400, &quoted), true);
    scene.ext.inside(|| (0..3).for_each(|_| assert!(send_routed([203, 0, 113, 1].into(), &message).is_ok())));
    let lost = verdict(&trace, "it is another node's", |line| line["finding"] == "messages_lost");
    assert!(lost["message"].as_str().unwrap().contains("a connection of another node"), "{lost:#}");
    let fix = fix(&lost);
    assert!(
        fix.starts_with("if other nodes answer there, too, have each node pass on to the others"),
        "{fix}"
    );
    // Conntrack has counted nothing INVALID so far: it does not count messages.
    let refused =
        drops.expect("it is dropped", |line| line["protocol"] == "ICMP" && line["harm"] == "harmful");
    assert!(refused["message"].as_str().unwrap().contains("INVALID"), "{refused:#}");
}

/// What the fix names, done on both nodes of a real connection: what one has no connection for it passes on, or both clamp.
///
/// ```text
///  client 10.97.31.2 --- side ext eth0 --- uplink host (the connection's messages come here)
///                             eth1 --- eth0 other (the connection is here) eth1 --- peer host
/// ```
#[test]
fn a_message_that_the_other_node_needs() {
    if !has_module("nf_conntrack") {
        return;
    }
    let scene = Scene::new();
    let [other, client] = std::array::from_fn(|_| Netns::new());
    let (host, ext) = (&scene.host, &scene.ext);
    link(ext, ("side", 1404), &client, 31);
    link(ext, ("eth1", 1500), &other, 32);
    host.ip(&format!(
        "link add peer type veth peer name eth1 netns {}\naddr add 10.97.33.1/24 dev peer\n\
         addr add fd97:33::1/64 dev peer nodad\nlink set peer up\n\
         route add 203.0.113.0/24 via 10.97.1.2\nroute add fd97:203::/64 via fd97:1::2\n",
        other.path()
    ));
    other.ip("addr add 10.97.33.2/24 dev eth1\naddr add fd97:33::2/64 dev eth1 nodad\nlink set eth1 up\n\
         addr add 203.0.113.7/32 dev lo\naddr add fd97:203::7/128 dev lo nodad\n");
    ext.sysctl("ipv4/ip_forward", "1");
    ext.sysctl("ipv6/conf/all/forwarding", "1");
    // The client's packets go to one node, what the router says itself to the other.
    ext.ip(
        "route add 203.0.113.0/24 via 10.97.9.1\nroute add fd97:203::/64 via fd97:9::1\n\
         route add 203.0.113.0/24 via 10.97.32.2 table 32\nroute add fd97:203::/64 via fd97:32::2 table 32\n",
    );
    for family in ["-4", "-6"] {
        ext.run("ip", &[family, "rule", "add", "iif", "side", "lookup", "32"]);
    }
    host.batch(
        "nft",
        "add table inet wall\nadd chain inet wall it { type filter hook forward priority 0; }\n\
         add rule inet wall it ct state invalid drop\n",
    );
    let trace = scene.trace("mtu");
    if !trace.sees_messages() || !trace.listens_at("nf_conntrack_inet_error") {
        return;
    }
    for (address, port, family, of, tables, mss) in [
        ("203.0.113.7", 7540, "ip", "icmp type destination-unreachable", "iptables", 1404 - 40),
        ("fd97:203::7", 7550, "ip6", "icmpv6 type packet-too-big", "ip6tables", 1404 - 60),
    ] {
        let answers = |port: u16| sends(&other, &client, SocketAddr::new(address.parse().unwrap(), port));
        assert!(!answers(port), "{address}: the message has come to the other node");
        let lost = verdict(&trace, "it is another node's", |line| {
            line["finding"] == "messages_lost" && line["source_ip"] == address
        });
        assert_eq!(lost["fate"], "invalid", "{lost:#}");
        let fix = fix(&lost);
        let told = format!(
            "if other nodes answer there, too, have each node pass on to the others what it has no connection for, unless one of them has passed it on, or clamp the MSS of what comes for {address} on all of them (`{tables} -t mangle -A PREROUTING -d {address} -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss {mss}`); if none does, put `{of} accept` before the rule that drops `ct state invalid`"
        );
        assert_eq!(fix, told, "{lost:#}");
        let peer = if family == "ip" { "10.97.33.2" } else { "fd97:33::2" };
        // In its chain before the one that drops.
        let passes = host.tries(
            "nft",
            &format!(
                "add table {family} pass\nadd chain {family} pass it {{ type filter hook prerouting priority -100; }}\n\
                 add rule {family} pass it iifname != \"peer\" {of} ct state invalid dup to {peer} device \"peer\"\n"
            ),
        );
        assert!(passes || !is_guest(), "a guest's kernel has dup");
        if passes {
            assert!(answers(port + 1), "{address}: cured by what is passed on");
            host.batch("nft", &format!("delete table {family} pass\n"));
            forget(&other);
            assert!(!answers(port + 2), "{address}: it needs what is passed on");
        }
        for node in [host, &other] {
            apply(node, &fix);
        }
        forget(&other);
        assert!(answers(port + 3), "{address}: cured by a clamp");
        assert!(
            !other.run("ip", &["route", "get", client_of(address)]).contains(" mtu "),
            "{address}: it was told"
        );
    }
}

/// What was learned would keep packets short.
fn forget(netns: &Netns) {
    for family in ["-4", "-6"] {
        netns.run("ip", &[family, "route", "flush", "cache"]);
    }
}

/// The client's address of the same family.
fn client_of(address: &str) -> &'static str {
    if address.contains(':') { "fd97:31::2" } else { "10.97.31.2" }
}

/// A link from a device of `router` that takes so much to `eth0` of `netns`, which has its default route there, in net `net`.
fn link(router: &Netns, (device, mtu): (&str, u32), netns: &Netns, net: u8) {
    router.ip(&format!(
        "link add {device} type veth peer name eth0 netns {}\nlink set {device} mtu {mtu} up\n\
         addr add 10.97.{net}.1/24 dev {device}\naddr add fd97:{net}::1/64 dev {device} nodad\n",
        netns.path()
    ));
    netns.ip(&format!(
        "link set lo up\naddr add 10.97.{net}.2/24 dev eth0\naddr add fd97:{net}::2/64 dev eth0 nodad\nlink set eth0 up\n\
         route add default via 10.97.{net}.1\nroute add default via fd97:{net}::1\n"
    ));
}
