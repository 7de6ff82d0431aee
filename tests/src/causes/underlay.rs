//! Tunnels over what takes less than they promise: the number is the tunnel's.

use std::net::UdpSocket;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::netns::Netns;
use crate::harness::packet::{udp_refused, udp_unfragmented};

use super::copies::settle;
use super::netfilter::Refuses;
use super::size::verdict;
use super::{Scene, fix, has_module};

/// 10.97.7.2, behind `ext`, which takes so many bytes on the way there.
pub(super) fn behind(scene: &Scene, takes: u32) -> Netns {
    let far = Netns::new();
    scene.ext.ip(&format!(
        "link add side mtu {takes} type veth peer name eth0 mtu {takes} netns {}\naddr add 10.97.7.1/24 dev side\n\
         link set side up\n",
        far.path()
    ));
    scene.ext.sysctl("ipv4/ip_forward", "1");
    far.ip(
        "link set lo up\naddr add 10.97.7.2/24 dev eth0\nlink set eth0 up\nroute add default via 10.97.7.1\n",
    );
    scene.host.ip("route add 10.97.7.0/24 via 10.97.9.2\n");
    far
}

/// IP in UDP at a port that says nothing, told by what is in it: where a rule drops it, and where a hop takes less. The number is
/// the tunnel's, not the node's own device's.
fn tunnel_in_udp(name: &str, carries: &str, adds: u32) {
    if !has_module("fou") {
        return;
    }
    let scene = Scene::new();
    let far = behind(&scene, 1400);
    let encap = name.to_lowercase();
    let end = |local: &str, remote: &str, own: u8| {
        format!(
            "fou add port 5555 {carries}\n\
             link add t0 type ipip local {local} remote {remote} encap {encap} encap-sport auto encap-dport 5555\n\
             link set t0 mtu {} up\naddr add 10.97.6.{own}/24 dev t0\n",
            1500 - adds
        )
    };
    scene.host.ip(&end("10.97.9.1", "10.97.7.2", 1));
    far.ip(&end("10.97.7.2", "10.97.9.1", 2));
    far.ip("route add 10.97.1.0/24 dev t0\n");
    scene.answer(far.inside(|| UdpSocket::bind("10.97.6.2:7").unwrap()));
    assert!(scene.is_answered("10.97.6.2:7"));

    // A node's firewall that has forgotten the port.
    let drops = scene.trace("drops");
    let refuses = Refuses::new(&scene.host, "udp dport 5555");
    assert!(!scene.is_answered("10.97.6.2:7"));
    let lost = drops.expect("drop by the rule", |line| line["tunnel"] == name);
    assert_eq!([&lost["source_pod"]["pod"], &lost["destination_ip"]], ["web-0", "10.97.6.2"], "{lost:#}");
    assert_eq!(
        [&lost["outer_source_ip"], &lost["outer_destination_ip"]],
        ["10.97.9.1", "10.97.7.2"],
        "{lost:#}"
    );
    assert!(
        lost["message"].as_str().unwrap().contains(&format!(" in {name} from 10.97.9.1 to 10.97.7.2 on ")),
        "{lost:#}"
    );
    refuses.mend(&lost);
    assert!(scene.is_answered("10.97.6.2:7"), "cured");
    drop(drops);

    let trace = scene.trace("mtu");
    if !trace.sees_messages() {
        return;
    }
    // One: of a second the tunnel itself knows by then how much fits.
    scene.web.netns.inside(|| udp_unfragmented("10.97.6.2:9".parse().unwrap(), 1, 1400));
    let under = verdict(&trace, "the underlay takes less", |line| line["finding"] == "small_underlay");
    let fits = 1400 - adds;
    assert_eq!(under["fits"], json!(fits), "{under:#}");
    assert!(under["message"].as_str().unwrap().contains(&format!("{name} adds {adds}")), "{under:#}");
    let told = format!(
        "set the device that uses {name} (`ip -d link show` says `encap`) and the interfaces behind it to {fits}"
    );
    assert!(fix(&under).starts_with(&told), "{under:#}");
    assert!(scene.host.run("ip", &["-d", "link", "show"]).contains(&format!("encap {encap}")));
    // What the message has taught is to have no part in the cure.
    scene.host.ip(&format!("link set t0 mtu {fits}\nlink set veth-web mtu {fits}\nroute flush cache\n"));
    scene.web.netns.ip(&format!("link set eth0 mtu {fits}\nroute flush cache\n"));
    assert!(scene.is_answered_of("10.97.6.2:7", fits as usize - 28), "cured");
}

#[test]
fn fou_over_a_smaller_hop() {
    tunnel_in_udp("FOU", "ipproto 4", 28);
}

#[test]
fn gue_over_a_smaller_hop() {
    tunnel_in_udp("GUE", "gue", 32);
}

/// A relay inside the kernel is no hop, and what it relays there is no packet (`ip6ip6_err` does not know FOU's header): the number
/// is the tunnel's, and the device that the message came by is well.
#[test]
fn a_tunnel_in_udp_of_ipv6_over_a_smaller_hop() {
    if !has_module("fou6") || !has_module("ip6_tunnel") {
        return;
    }
    let scene = Scene::new();
    let far = Netns::new();
    scene.ext.ip(&format!(
        "link add side mtu 1400 type veth peer name eth0 mtu 1400 netns {}\naddr add fd97:7::1/64 dev side nodad\n\
         link set side up\n",
        far.path()
    ));
    scene.ext.sysctl("ipv6/conf/all/forwarding", "1");
    far.ip(
        "link set lo up\naddr add fd97:7::2/64 dev eth0 nodad\nlink set eth0 up\nroute add default via fd97:7::1\n",
    );
    scene.host.ip("route add fd97:7::/64 via fd97:9::2\n");
    let end = |local: &str, remote: &str, own: u8| {
        format!(
            "fou add port 5556 ipproto 41 -6\n\
             link add t0 type ip6tnl mode ip6ip6 local {local} remote {remote} encap fou encap-sport auto encap-dport 5556 encaplimit none\n\
             link set t0 mtu 1460 up\naddr add fd97:6::{own}/64 dev t0 nodad\n"
        )
    };
    scene.host.ip(&end("fd97:9::1", "fd97:7::2", 1));
    far.ip(&end("fd97:7::2", "fd97:9::1", 2));
    let mut trace = scene.trace("mtu");
    if !trace.sees_messages() {
        return;
    }
    scene.host.feed("sh", &["-c", "ping -6 -M do -c 3 -i 0.5 -W 1 -s 1400 fd97:6::2 || true"], "");
    let under = verdict(&trace, "the underlay takes less", |line| line["finding"] == "small_underlay");
    assert_eq!(under["fits"], json!(1352), "{under:#}");
    assert!(fix(&under).contains("1352") && !fix(&under).contains("raise"), "{under:#}");
    // At its end it says all that it has to say.
    trace.agent.signal(Signal::SIGINT);
    trace.agent.ended();
    let wrong = trace.lines(|line| line["finding"] == "small_device" || line["finding"] == "small_hop");
    assert_eq!(wrong, Vec::<Value>::new());
}

/// A raw socket keeps a copy of each message until it is closed. That is freed then, and nothing was lost.
#[test]
fn a_ping_too_large_for_its_tunnel() {
    let scene = Scene::new();
    let end = |own: u8, other: u8| {
        format!(
            "link add t0 type ipip local 10.97.9.{own} remote 10.97.9.{other}\nlink set t0 mtu 1600 up\n\
             addr add 10.97.6.{own}/24 dev t0\n"
        )
    };
    if !scene.host.tries("ip", &end(1, 2)) {
        return;
    }
    scene.ext.ip(&end(2, 1));
    let (trace, drops) = (scene.trace("mtu"), scene.trace("drops"));
    if !trace.sees_messages() {
        return;
    }
    scene.host.feed("sh", &["-c", "ping -M do -c 1 -W 1 -s 1500 10.97.6.2 || true"], "");
    let under = verdict(&trace, "the underlay takes less", |line| line["finding"] == "small_underlay");
    assert_eq!(under["fits"], json!(1480), "{under:#}");
    settle(&scene, &drops);
    // What would be told by now comes before this.
    scene.host.inside(|| udp_refused("10.97.6.2:10".parse().unwrap(), 1700));
    trace.expect("a datagram too large for the device", |line| line["event"] == "refused");
    let lost = trace.lines(|line| line["event"] == "lost" || line["finding"] == "messages_lost");
    assert_eq!(lost, Vec::<Value>::new());
}
