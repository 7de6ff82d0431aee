//! Routes that are missing or lead elsewhere, and routes and rules that refuse packets: no new route helps against those.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use crate::harness::packet::{icmpv6_message, ipv6, send_on_wire};
use crate::harness::{has_reasons, until};

use super::{EXT4, EXT6, Scene, fix, link_local};

/// A network plugin keeps a blackhole for its block of addresses: what is sent to a pod that has gone ends there.
#[test]
fn a_route_or_rule_that_refuses() {
    let scene = Scene::new();
    let refuses = |text: &str| text.contains("refuses it (blackhole, prohibit, unreachable)");
    let discards = |text: &str| text.contains("a blackhole route took it");
    for (add, delete, to, is_told) in [
        (
            "route add blackhole 10.97.9.2",
            "route del blackhole 10.97.9.2",
            EXT4,
            &refuses as &dyn Fn(&str) -> bool,
        ),
        ("route add unreachable 10.97.9.2", "route del unreachable 10.97.9.2", EXT4, &refuses),
        ("rule add from 10.97.1.2 prohibit", "rule del from 10.97.1.2 prohibit", EXT4, &refuses),
        ("-6 route add blackhole fd97:9::2", "-6 route del blackhole fd97:9::2", EXT6, &discards),
        ("-6 route add prohibit fd97:9::2", "-6 route del prohibit fd97:9::2", EXT6, &refuses),
    ] {
        scene.host.run("ip", &add.split(' ').collect::<Vec<_>>());
        let trace = scene.trace("drops");
        assert!(!scene.is_answered(to), "{add}");
        let event = trace.expect_class("routing", |event| event["destination_port"] == 7);
        let text = event["message"].as_str().unwrap();
        assert!(is_told(text), "{add}: {event:#}");
        // Where the kernel tells them from a missing route, the fix is another.
        let is_sure = !text.contains("no route to its destination");
        assert_eq!(fix(&event).contains("take it away"), is_sure, "{add}: {event:#}");
        assert_eq!(
            fix(&event).contains("or take away the one that refuses it"),
            !is_sure,
            "{add}: {event:#}"
        );
        scene.host.run("ip", &delete.split(' ').collect::<Vec<_>>());
        assert!(scene.is_answered(to), "cured: {add}");
    }
}

#[test]
fn a_route_that_is_missing() {
    let scene = Scene::new();
    for (network, somebody, via, from) in [
        ("203.0.113.0/24", "203.0.113.9", "10.97.9.2", "10.97.1.2"),
        ("2001:db8:9::/64", "2001:db8:9::9", "fd97:9::2", "fd97:1::2"),
    ] {
        scene.ext.ip(&format!("addr add {somebody} dev lo\n"));
        let to = SocketAddr::new(somebody.parse().unwrap(), 7).to_string();
        let trace = scene.trace("drops");
        assert!(!scene.is_answered(&to));
        let event = trace.expect_class("routing", |event| {
            event["destination_ip"] == somebody && event["interface"] == "veth-web"
        });
        let fix = fix(&event);
        assert!(fix.contains("add the route"), "{fix}");
        let command = fix.split('`').find(|command| command.starts_with("ip route get")).unwrap();
        assert_eq!(command, "ip route get ADDRESS from SOURCE iif veth-web", "{fix}");
        let command = command.replace("ADDRESS", somebody).replace("SOURCE", from);
        let ask = || scene.host.run("sh", &["-c", &format!("{command} 2>&1 || true")]);
        assert!(!ask().contains("via"), "{}", ask());
        scene.host.ip(&format!("route add {network} via {via}\n"));
        assert!(ask().contains(&format!("via {via}")), "{}", ask());
        assert!(scene.is_answered(&to), "cured: {to}");
        // The node's own packets have that route all the same.
        let family = if from.contains(':') { "-6" } else { "-4" };
        scene.host.run("ip", &[family, "rule", "add", "from", from, "prohibit"]);
        assert!(!ask().contains("via"), "{}", ask());
        scene.host.run("ip", &[family, "rule", "del", "from", from, "prohibit"]);
    }
}

/// The node would answer its source by another device than it came by.
#[test]
fn a_way_back_by_another_device() {
    let scene = Scene::new();
    scene.web.netns.ip("addr add 10.98.0.9/32 dev lo\n");
    scene.host.ip("route add 10.98.0.0/24 via 10.97.9.2\n");
    scene.host.sysctl("ipv4/conf/all/rp_filter", "0");
    scene.host.sysctl("ipv4/conf/veth-web/rp_filter", "1");
    let socket = scene.ext.inside(|| UdpSocket::bind("10.97.9.2:7741").unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let arrives = || {
        let from = scene.web.netns.inside(|| UdpSocket::bind("10.98.0.9:0").unwrap());
        from.send_to(b"hello", "10.97.9.2:7741").unwrap();
        socket.recv(&mut [0; 100]).is_ok()
    };
    let trace = scene.trace("drops");
    assert!(!arrives());
    let class = if has_reasons() { "reverse_path" } else { "routing" };
    let told = fix(&trace.expect_class(class, |event| event["interface"] == "veth-web"));
    assert!(told.contains("route the source's address back by veth-web; "), "{told}");
    let sysctl = told.split('`').find(|command| command.starts_with("sysctl -w ")).unwrap();
    scene.host.ip("route add 10.98.0.9/32 dev veth-web\n");
    assert!(arrives(), "cured by a route");
    scene.host.ip("route del 10.98.0.9/32 dev veth-web\n");
    assert!(!arrives(), "it is as it was");
    scene.apply(&format!("`{sysctl}`"));
    assert!(arrives(), "cured: {sysctl}");
}

/// A node that forwards ignores advertised routes unless `accept_ra` is 2.
#[test]
fn forwarding_where_the_default_route_is_advertised() {
    if !has_reasons() {
        return;
    }
    let scene = Scene::new();
    let has_default = || scene.host.run("ip", &["-6", "route", "show", "default"]).contains("proto ra");
    let advertise = || {
        scene.host.sysctl("ipv6/conf/all/forwarding", "0");
        let (from, all) = (link_local(&scene.ext, "eth0"), "ff02::1".parse().unwrap());
        // A router for half an hour.
        let message = icmpv6_message(from, all, 134, 0x4000_0708, &[0; 8]);
        let mut packet = ipv6(from, all, 58, &message);
        packet[7] = 255;
        until("a default route", || {
            scene.ext.inside(|| send_on_wire("eth0", [0x33, 0x33, 0, 0, 0, 1], &packet));
            has_default().then_some(())
        });
    };
    advertise();
    let trace = scene.trace("drops");
    assert!(!scene.is_answered(EXT6));
    let event = trace.expect_class("forwarding_off", |event| event["interface"] == "veth-web");
    let fix = fix(&event);
    assert!(fix.contains("before that accept_ra=2 on the uplink"), "{fix}");
    scene.apply(&fix);
    assert!(scene.is_answered(EXT6) && !has_default(), "half of it: the node has lost its own way out");
    advertise();
    scene.host.sysctl("ipv6/conf/uplink/accept_ra", "2");
    scene.apply(&fix);
    assert!(scene.is_answered(EXT6) && has_default(), "cured");
}

/// A service of the node itself that pods reach by one of the node's addresses: it is rewritten to 127.0.0.1.
#[test]
fn a_service_that_listens_on_the_loopback_alone() {
    let scene = Scene::new();
    scene.host.batch(
        "nft",
        "add table ip own\nadd chain ip own pre { type nat hook prerouting priority -100; }\n\
         add rule ip own pre udp dport 7745 dnat to 127.0.0.1:7745\n",
    );
    scene.answer(scene.host.inside(|| UdpSocket::bind("127.0.0.1:7745").unwrap()));
    let trace = scene.trace("drops");
    assert!(!scene.is_answered("10.97.1.1:7745"));
    let event = trace.expect_class("routing", |event| event["destination_ip"] == "127.0.0.1");
    let told = fix(&event);
    assert!(told.contains("if a rule rewrites it to 127.0.0.1 on purpose (a hostPort, a nodePort, a service of the node), `sysctl -w "), "{event:#}");
    scene.apply(&told);
    assert!(scene.is_answered("10.97.1.1:7745"), "cured");
}
