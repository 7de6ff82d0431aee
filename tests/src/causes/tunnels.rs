//! Packets that a tunnel's own transmit function frees for their size: it gives no reason, but has just told their sender.

use std::net::UdpSocket;
use std::time::Duration;

use serde_json::Value;

use crate::harness::has_reasons;
use crate::harness::packet::{udp, udp_unfragmented};

use super::{Scene, Trace, fix, has_module};

/// A tunnel that takes more than what carries it.
struct Tunnel {
    module: &'static str,
    /// Makes `t0`, from the uplink's address.
    link: &'static str,
    /// What else it takes, by `ip -batch`.
    also: &'static str,
    /// Networks behind it, and somebody there.
    behind: &'static [(&'static str, &'static str)],
    /// Where it frees what is too large, as one of the kernels has it.
    frees: &'static [&'static str],
}

const TUNNELS: [Tunnel; 5] = [
    Tunnel {
        module: "ipip",
        link: "type ipip local 10.97.9.1 remote 10.97.9.2",
        also: "",
        behind: &[("10.97.5.0/24", "10.97.5.2:9")],
        frees: &["ip_tunnel_xmit"],
    },
    Tunnel {
        module: "sit",
        link: "type sit local 10.97.9.1 remote 10.97.9.2",
        also: "",
        behind: &[("fd97:5::/64", "[fd97:5::2]:9")],
        frees: &["sit_tunnel_xmit", "sit_tunnel_xmit__"],
    },
    Tunnel {
        module: "ip6_tunnel",
        link: "type ip6tnl mode any local fd97:9::1 remote fd97:9::2 encaplimit none",
        also: "",
        behind: &[("10.97.5.0/24", "10.97.5.2:9"), ("fd97:5::/64", "[fd97:5::2]:9")],
        frees: &["ip6_tnl_start_xmit"],
    },
    Tunnel {
        module: "ip_vti",
        link: "type vti local 10.97.9.1 remote 10.97.9.2 key 7",
        also: "xfrm state add src 10.97.9.1 dst 10.97.9.2 proto esp spi 7 mode tunnel mark 7 reqid 7 aead rfc4106(gcm(aes)) \
               0x000102030405060708090a0b0c0d0e0f10111213 128\n\
               xfrm policy add src 0.0.0.0/0 dst 0.0.0.0/0 dir out mark 7 tmpl src 10.97.9.1 dst 10.97.9.2 proto esp reqid 7 \
               mode tunnel\n",
        behind: &[("10.97.5.0/24", "10.97.5.2:9")],
        frees: &["vti_tunnel_xmit"],
    },
    Tunnel {
        module: "ip6_vti",
        link: "type vti6 local fd97:9::1 remote fd97:9::2 key 8",
        also: "xfrm state add src fd97:9::1 dst fd97:9::2 proto esp spi 8 mode tunnel mark 8 reqid 8 aead rfc4106(gcm(aes)) \
               0x000102030405060708090a0b0c0d0e0f10111213 128\n\
               xfrm policy add src ::/0 dst ::/0 dir out mark 8 tmpl src fd97:9::1 dst fd97:9::2 proto esp reqid 8 mode \
               tunnel\n",
        behind: &[("fd97:5::/64", "[fd97:5::2]:9")],
        frees: &["vti6_tnl_xmit"],
    },
];

#[test]
fn what_is_too_large_for_what_carries_the_tunnel() {
    let scene = Scene::new();
    // The device's own MTU says nothing of it.
    scene
        .host
        .ip("route add 10.97.9.2/32 dev uplink mtu 1400\nroute add fd97:9::2/128 dev uplink mtu 1400\n");
    for tunnel in TUNNELS.iter().filter(|tunnel| has_module(tunnel.module)) {
        let host = &scene.host;
        host.ip(&format!("link add t0 {}\nlink set t0 mtu 1460 up\n{}", tunnel.link, tunnel.also));
        let trace = scene.trace("drops");
        for (network, somebody) in tunnel.behind {
            let to: std::net::SocketAddr = somebody.parse().unwrap();
            if !trace.listens_at(if to.is_ipv4() { "__icmp_send" } else { "icmp6_send" }) {
                continue;
            }
            host.ip(&format!("route add {network} dev t0\n"));
            scene.web.netns.inside(|| udp_unfragmented(to, 3, 1400));
            let died = trace.expect(&format!("drop in {}", tunnel.module), |line| {
                line["destination_ip"] == to.ip().to_string()
                    && tunnel.frees.iter().any(|function| line["function"] == *function)
            });
            assert_eq!((&died["class"], &died["harm"]), (&"mtu".into(), &"harmful".into()), "{died:#}");
            let message = died["message"].as_str().unwrap();
            assert!(message.contains("the kernel made a message to its sender"), "{died:#}");
            assert!(fix(&died).contains("r2c-agent trace mtu"), "{died:#}");
            assert_eq!(died["source_pod"]["pod"], "web-0", "{died:#}");
            // What its sender goes on to send, heedless, is no other cause.
            let others =
                trace.lines(|line| line["destination_ip"] == to.ip().to_string() && line["class"] != "mtu");
            assert!(others.is_empty(), "{others:#?}");
        }
        host.ip("link del t0\nxfrm state flush\nxfrm policy flush\n");
    }
}

/// The ends of a tunnel have different keys, or the other end has none at all.
#[test]
fn what_comes_in_a_tunnel_and_no_tunnel_takes() {
    let scene = Scene::new();
    // With the last module IPsec takes plain tunnels as well.
    for (module, kind, other) in
        [("ip_gre", "gre", "key 7"), ("ipip", "ipip", ""), ("xfrm_interface", "ipip", "")]
    {
        if !has_module(module) {
            continue;
        }
        // Where a tunnel of another key is, the kernel looks for one that fits.
        scene.host.ip(&format!(
            "link add t0 type {kind} local 10.97.9.1 remote 10.97.9.9 {other}\nlink set t0 up\n"
        ));
        scene.ext.ip(&format!(
            "link add t0 type {kind} local 10.97.9.2 remote 10.97.9.1\naddr add 10.97.5.2/24 dev t0\nlink set t0 up\n"
        ));
        let trace = scene.trace("drops");
        scene.ext.inside(|| udp("10.97.5.1:7720".parse().unwrap(), 1, 10));
        let lost = trace.expect_class("routing", |line| {
            line["interface"] == "uplink" && line["destination_port"] == 7720
        });
        let text = lost["message"].as_str().unwrap();
        assert!(text.contains("no tunnel device here takes it"), "{kind}: {lost:#}");
        assert!(fix(&lost).contains("let both ends of the tunnel agree"), "{kind}: {lost:#}");
        scene.host.ip(&format!(
            "link del t0\nlink add t0 type {kind} local 10.97.9.1 remote 10.97.9.2\naddr add 10.97.5.1/24 dev t0\nlink set t0 up\n"
        ));
        let socket = scene.host.inside(|| UdpSocket::bind("10.97.5.1:7720").unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        scene.ext.inside(|| udp("10.97.5.1:7720".parse().unwrap(), 1, 10));
        assert!(socket.recv(&mut [0; 100]).is_ok(), "cured: {kind}");
        let send = || scene.ext.inside(|| udp("10.97.5.1:7720".parse().unwrap(), 1, 10));
        scene.host.ip("link set t0 down\n");
        send();
        let lost = trace.expect_class("routing", |line| {
            line["destination_port"] == 7720 && line["span_id"] != lost["span_id"]
        });
        assert!(fix(&lost).starts_with("see that its device is up"), "{kind}: {lost:#}");
        scene.host.ip("link set t0 up\n");
        send();
        assert!(socket.recv(&mut [0; 100]).is_ok(), "cured: {kind} that is up");
        if kind == "ipip" {
            a_rule_that_sees_the_outer_packet(&scene, &trace);
            send();
            assert!(socket.recv(&mut [0; 100]).is_ok(), "cured: {kind} that passes");
        }
        for netns in [&scene.host, &scene.ext] {
            netns.ip("link del t0\n");
        }
    }
}

/// Who looks for the pods inside in the rules finds nothing.
fn a_rule_that_sees_the_outer_packet(scene: &Scene, trace: &Trace) {
    scene.host.batch(
        "nft",
        "add table ip low\nadd chain ip low in { type filter hook input priority 0; }\nadd rule ip low in ip protocol 4 drop\n",
    );
    scene.ext.inside(|| udp("10.97.5.1:7720".parse().unwrap(), 1, 10));
    let refused = |line: &Value| line["tunnel"] == "IP-in-IP" && line["destination_port"] == 7720;
    let (class, place) =
        if has_reasons() { ("policy", "nft_do_chain") } else { ("netfilter", "nf_hook_slow") };
    let lost = trace.expect_class(class, refused);
    if class == "policy" {
        let told = "let pass what node 10.97.9.2 sends by IP-in-IP: rules see the outer packet";
        assert!(fix(&lost).contains(told), "{lost:#}");
    }
    assert_eq!(lost["function"], place, "{lost:#}");
    scene.host.batch("nft", "delete table ip low\n");
}

/// WireGuard knows no way there, and then one to a peer that does not answer.
#[test]
fn a_wireguard_peer_that_is_not_there() {
    const PEER: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    // Any 32 bytes in base64 will do.
    const KEYS: [&str; 2] = [PEER, "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="];
    if !has_module("wireguard") {
        return;
    }
    let scene = Scene::new();
    scene.host.ip("link add wg0 type wireguard\naddr add 10.97.5.1/24 dev wg0\nlink set wg0 up\n");
    let trace = scene.trace("drops");
    let lost = |class: &str, port: u16| {
        scene.web.netns.inside(|| udp(([10, 97, 5, 2], port).into(), 1, 10));
        if class == "neighbour" {
            // It gives up after a minute and a half, or when its peer goes.
            scene.host.run("wg", &["set", "wg0", "peer", PEER, "remove"]);
        }
        trace.expect_class(class, |line| line["destination_port"] == port && line["interface"] == "wg0")
    };
    let event = lost("routing", 7730);
    assert!(
        event["message"].as_str().unwrap().contains("no WireGuard peer has its destination"),
        "{event:#}"
    );
    assert!(fix(&event).ends_with("`wg show wg0`"), "{event:#}");
    scene.host.run(
        "wg",
        &["set", "wg0", "peer", PEER, "allowed-ips", "10.97.5.0/24", "endpoint", "10.97.9.2:51820"],
    );
    let event = lost("neighbour", 7731);
    assert!(event["message"].as_str().unwrap().contains("does not answer the handshake"), "{event:#}");
    assert_eq!(event["harm"], "harmful", "{event:#}");
    assert!(fix(&event).contains("both ends need each other's, and UDP must pass between them"), "{event:#}");
    // Both fixes: each has the other's key, endpoint and addresses.
    scene.ext.ip("link add wg0 type wireguard\naddr add 10.97.5.2/24 dev wg0\n");
    for (netns, own, other, endpoint, allowed) in [
        (&scene.host, 0, 1, "10.97.9.2:51820", "10.97.5.0/24"),
        (&scene.ext, 1, 0, "10.97.9.1:51820", "10.97.1.0/24"),
    ] {
        let public = netns.feed("wg", &["pubkey"], KEYS[other]);
        let key =
            ["set", "wg0", "listen-port", "51820", "private-key", "/proc/self/fd/0", "peer", public.trim()];
        netns.feed("wg", &[&key[..], &["endpoint", endpoint, "allowed-ips", allowed]].concat(), KEYS[own]);
    }
    scene.ext.ip("link set wg0 up\nroute add 10.97.1.0/24 dev wg0\n");
    assert!((0..5).any(|_| scene.is_answered("10.97.5.2:7")), "cured");
}

/// The ends have different numbers for the same network.
#[test]
fn a_vxlan_network_of_another_number() {
    const HERE: &str = "02:00:00:00:05:01";
    if !has_module("vxlan") {
        return;
    }
    let scene = Scene::new();
    let end = |own: u8, other: u8, number: u32| {
        format!(
            "link add vx0 address 02:00:00:00:05:0{own} type vxlan id {number} local 10.97.9.{own} remote 10.97.9.{other} dstport 4789\n\
             addr add 10.97.5.{own}/24 dev vx0\nlink set vx0 up\n"
        )
    };
    scene.host.ip(&end(1, 2, 1));
    let ext = |number| {
        scene.ext.ip(&end(2, 1, number));
        scene.ext.ip(&format!("neigh replace 10.97.5.1 lladdr {HERE} dev vx0 nud permanent\n"));
        scene.ext.inside(|| udp("10.97.5.1:7721".parse().unwrap(), 1, 10));
    };
    let socket = scene.host.inside(|| UdpSocket::bind("10.97.5.1:7721").unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let trace = scene.trace("drops");
    ext(2);
    let lost = trace.expect_class("routing", |line| line["destination_port"] == 7721);
    assert_eq!([&lost["tunnel"], &lost["interface"]], ["VXLAN", "uplink"], "{lost:#}");
    assert!(fix(&lost).contains("VNI"), "{lost:#}");
    scene.ext.ip("link del vx0\n");
    ext(1);
    assert!(socket.recv(&mut [0; 100]).is_ok(), "cured");
}

/// A node's tunnel device was made anew, and another node goes on sending to its old MAC.
#[test]
fn an_old_mac_of_a_tunnels_other_end() {
    if !has_module("vxlan") {
        return;
    }
    let scene = Scene::new();
    for (netns, own, other) in [(&scene.host, 1, 2), (&scene.ext, 2, 1)] {
        netns.ip(&format!(
            "link add vx0 address 02:00:00:00:05:0{own} type vxlan id 1 local 10.97.9.{own} remote 10.97.9.{other} dstport 4789\n\
             addr add 10.97.5.{own}/24 dev vx0\nlink set vx0 up\n"
        ));
    }
    scene.ext.ip("neigh replace 10.97.5.1 lladdr 02:00:00:00:05:99 dev vx0 nud permanent\n\
                  route add 10.97.1.2/32 via 10.97.5.1 dev vx0\n");
    let socket = scene.web.netns.inside(|| UdpSocket::bind("10.97.1.2:7722").unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let send = || scene.ext.inside(|| udp("10.97.1.2:7722".parse().unwrap(), 1, 10));
    let trace = scene.trace("drops");
    send();
    let lost = trace.expect_class("neighbour", |line| line["destination_port"] == 7722);
    assert_eq!([&lost["harm"], &lost["interface"]], ["harmful", "vx0"], "{lost:#}");
    let shown = scene.host.run("sh", &["-c", fix(&lost).split('`').nth(1).unwrap()]);
    assert!(shown.contains("02:00:00:00:05:01"), "{lost:#}: {shown}");
    scene.ext.ip("neigh replace 10.97.5.1 lladdr 02:00:00:00:05:01 dev vx0 nud permanent\n");
    send();
    assert!(socket.recv(&mut [0; 100]).is_ok(), "cured");
}

/// The network plugin's device has gone: no program is to listen for what another node's pods send.
#[test]
fn a_tunnel_whose_device_is_gone() {
    const HERE: &str = "02:00:00:00:05:01";
    for (kind, name, port) in
        [("vxlan id 1 local 10.97.9.OWN dstport 4789", "VXLAN", 7722), ("geneve id 1", "Geneve", 7723)]
    {
        let module = kind.split(' ').next().unwrap();
        if !has_module(module) {
            continue;
        }
        let scene = Scene::new();
        let end = |own: u8, other: u8| {
            let kind = kind.replace("OWN", &own.to_string());
            format!(
                "link add tun0 address 02:00:00:00:05:0{own} type {kind} remote 10.97.9.{other}\n\
                 addr add 10.97.5.{own}/24 dev tun0\nlink set tun0 up\n"
            )
        };
        scene.ext.ip(&end(2, 1));
        scene.ext.ip(&format!("neigh replace 10.97.5.1 lladdr {HERE} dev tun0 nud permanent\n"));
        let send = || scene.ext.inside(|| udp(([10, 97, 5, 1], port).into(), 1, 10));
        let trace = scene.trace("drops");
        send();
        let lost = trace.expect_class("routing", |line| line["destination_port"] == port);
        assert_eq!([&lost["tunnel"], &lost["interface"]], [name, "uplink"], "{lost:#}");
        let text = lost["message"].as_str().unwrap();
        assert!(text.contains("no device here takes it out of its tunnel"), "{lost:#}");
        let told = format!("see whether the device that ends its tunnel ({name}) is there and up");
        assert!(fix(&lost).starts_with(&told), "{lost:#}");
        scene.host.ip(&end(1, 2));
        let socket = scene.host.inside(|| UdpSocket::bind(("10.97.5.1", port)).unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        send();
        assert!(socket.recv(&mut [0; 100]).is_ok(), "cured: {name}");
    }
}
