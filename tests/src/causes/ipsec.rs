//! Packets that IPsec encrypts on their way: no device shows that it does.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use nix::libc;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::netns::Netns;
use crate::harness::packet::{icmp_message, ipv4, send_routed, set, udp_around, udp_unfragmented};
use crate::harness::until;

use super::netfilter::Refuses;
use super::size::is_all_acknowledged;
use super::underlay::behind;
use super::{Scene, fix, has_module};

/// `linux/udp.h`
const UDP_ENCAP: i32 = 100;
const UDP_ENCAP_ESPINUDP: i32 = 2;

const KEY: &str = "0x000102030405060708090a0b0c0d0e0f10111213";

/// The rest of a state whose packets go in UDP.
const IN_UDP: &str = "encap espinudp 4500 4500 0.0.0.0";

/// The line of `ip` that adds a state.
fn state(from: &str, to: &str, spi: u32, also: &str) -> String {
    format!(
        "xfrm state add src {from} dst {to} proto esp spi {spi} mode tunnel reqid 1 aead rfc4106(gcm(aes)) {KEY} 128 {also}\n"
    )
}

/// What `web` sends to 10.97.5.2 at `ext`, and its answers, encrypted on the way; `None` where the kernel has no ESP.
pub(super) fn encrypted() -> Option<Scene> {
    encrypted_with("")
}

/// The same by states with this in addition.
fn encrypted_with(also: &str) -> Option<Scene> {
    if !has_module("esp4") || !has_module("xfrm_user") {
        return None;
    }
    let scene = Scene::new();
    protect([&scene.host, &scene.ext], ["10.97.9.1", "10.97.9.2"], also);
    scene.ext.ip("addr add 10.97.5.2/32 dev lo\n");
    scene.host.ip("route add 10.97.5.0/24 via 10.97.9.2\n");
    Some(scene)
}

/// Has both ends encrypt what goes from the pods of the one to 10.97.5.0/24 behind the other, and back.
fn protect(ends: [&Netns; 2], addresses: [&str; 2], also: &str) {
    let networks = ["10.97.1.0/24", "10.97.5.0/24"];
    for own in [0, 1] {
        let (netns, other) = (ends[own], 1 - own);
        for (from, spi) in [(0, 1), (1, 2)] {
            netns.ip(&state(addresses[from], addresses[1 - from], spi, also));
        }
        let tunnel = |from: usize, to: usize| {
            format!("tmpl src {} dst {} proto esp reqid 1 mode tunnel", addresses[from], addresses[to])
        };
        netns.ip(&format!(
            "xfrm policy add src {own_net} dst {other_net} dir out {}\n\
             xfrm policy add src {other_net} dst {own_net} dir in {there}\n\
             xfrm policy add src {other_net} dst {own_net} dir fwd {there}\n",
            tunnel(own, other),
            own_net = networks[own],
            other_net = networks[other],
            there = tunnel(other, own)
        ));
    }
}

/// ESP adds to each packet, and what carries those takes less than the pod's interface: the number that fits is told by the
/// policy, not by a route.
#[test]
fn a_path_that_takes_less_than_what_is_encrypted() {
    let Some(scene) = encrypted() else { return };
    scene.host.ip("route add 10.97.9.2/32 dev uplink mtu 1400\n");
    let mut trace = scene.trace("mtu");
    if !trace.sees_messages() {
        return;
    }
    scene.web.netns.inside(|| udp_unfragmented("10.97.5.2:9".parse().unwrap(), 1, 1400));
    let under = trace.expect("verdict on the policy", |line| line["finding"] == "small_underlay");
    let text = under["message"].as_str().unwrap();
    assert!(
        text.contains("IPsec adds up to 54 bytes, and the path to its peer by uplink takes 1400"),
        "{text}"
    );
    assert_eq!(under["fits"], json!(1346), "{under:#}");
    let told =
        "set the MTU of shop/web-0's route to 10.97.5.2, or of both ends of its interface, to at most 1346";
    assert!(fix(&under).starts_with(told), "{under:#}");
    // Which cures.
    scene.web.netns.ip("route flush cache\nroute add 10.97.5.2 via 10.97.1.1 mtu 1346\n");
    transfer(&scene);
    // So does the other way: its peer asks for less. That only one message was made in all is seen below.
    let fix = fix(&under);
    let (_, mss) = fix.rsplit_once(", or clamp the MSS of their TCP to ").unwrap();
    scene.web.netns.ip("route del 10.97.5.2\nroute flush cache\n");
    let clamp =
        format!("-t mangle -A FORWARD -s 10.97.5.2 -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss {mss}");
    scene.host.run("iptables", &clamp.split(' ').collect::<Vec<_>>());
    transfer(&scene);
    // At its end it counts all that was told.
    trace.agent.signal(Signal::SIGINT);
    trace.agent.ended();
    let last = trace.lines(|line| line["finding"] == "small_underlay").pop().unwrap();
    assert!(last["message"].as_str().unwrap().contains("; 1 made, "), "{}", trace.said().join("\n"));
}

/// A hop between both ends of IPsec takes less, and says so to the end that encrypts.
#[test]
fn a_hop_below_what_is_encrypted() {
    let of_esp = [&1_u32.to_be_bytes()[..], &[0; 60]].concat();
    hop_below("ESP", "", &of_esp, 54);
}

/// The same behind a NAT, where UDP's header comes on top.
#[test]
fn a_hop_below_what_is_encrypted_in_udp() {
    let [from, to] = ["10.97.9.1:4500", "10.97.9.2:4500"].map(|end| end.parse().unwrap());
    let of_esp = [&1_u32.to_be_bytes()[..], &[0; 60]].concat();
    hop_below("ESP in UDP", IN_UDP, &udp_around(from, to, &of_esp, true), 62);
}

/// The hop quotes this of the packet's payload, whose headers and so on add so many bytes.
fn hop_below(name: &str, also: &str, quoted: &[u8], adds: u64) {
    let Some(scene) = encrypted_with(also) else { return };
    let _takers = [taker(&scene.host, "10.97.9.1"), taker(&scene.ext, "10.97.9.2")];
    let [hop, own, peer] = [9, 1, 2].map(|last| Ipv4Addr::new(10, 97, 9, last));
    scene.ext.ip("addr add 10.97.9.9/24 dev eth0\n");
    scene.ext.batch("nft", &frees_esp_from(1400));
    let mut trace = scene.trace("mtu");
    if !trace.sees_messages() {
        return;
    }
    assert!(!scene.is_answered_of("10.97.5.2:7", 1380), "it is larger than the hop takes");
    let mut quote = ipv4(own, peer, if also.is_empty() { 50 } else { 17 }, quoted, true);
    quote[2..4].copy_from_slice(&1484_u16.to_be_bytes());
    let message = ipv4(hop, own, 1, &icmp_message(3, 4, 1400, &quote), true);
    scene.ext.inside(|| send_routed(own.into(), &message).unwrap());
    let under = trace.expect("verdict on the hop", |line| line["finding"] == "small_underlay");
    let text = under["message"].as_str().unwrap();
    let port = if also.is_empty() { "" } else { ":4500" };
    let told = format!(
        "hop 10.97.9.9 of the underlay takes 1400 bytes on the way from 10.97.9.1 to 10.97.9.2{port}, and {name} adds to what is inside"
    );
    assert!(text.starts_with(&told), "{text}");
    let told = "set the MTU of this node's route to 10.97.9.2 to 1400: IPsec then tells whose packets it encrypts how many bytes fit";
    assert_eq!(fix(&under), told, "{under:#}");
    // What the message has taught is to have no part in the cure.
    scene.host.ip("route flush cache\nroute add 10.97.9.2/32 dev uplink mtu 1400\n");
    assert!(!scene.is_answered_of("10.97.5.2:7", 1380), "IPsec tells by this one");
    assert!(scene.is_answered_of("10.97.5.2:7", 1380), "cured");
    trace.expect("IPsec tells", |line| line["event"] == "made" && line["mtu"] == 1400 - adds);
    transfer(&scene);
    trace.agent.signal(Signal::SIGINT);
    trace.agent.ended();
}

/// Frees, like a hop that takes less, what is encrypted and longer than `most` bytes.
fn frees_esp_from(most: u32) -> String {
    format!(
        "add table ip hole\nadd chain ip hole it {{ type filter hook prerouting priority -400; }}\n\
         add rule ip hole it ip protocol esp ip length gt {most} drop\n\
         add rule ip hole it udp dport 4500 ip length gt {most} drop\n"
    )
}

/// What carries the encrypted packets takes less than it promises, and tells nobody.
#[test]
fn a_black_hole_behind_a_policy() {
    let Some(scene) = encrypted() else { return };
    let listener = scene.ext.inside(|| TcpListener::bind("10.97.5.2:7704").unwrap());
    let server = thread::spawn(move || listener.accept().unwrap().0);
    let mut client = scene.web.netns.inside(|| TcpStream::connect("10.97.5.2:7704").unwrap());
    let mut server = server.join().unwrap();
    client.set_nodelay(true).unwrap();
    // The first learns how many bytes fit beside what ESP adds.
    client.write_all(&vec![7; 20_000]).unwrap();
    server.read_exact(&mut vec![0; 20_000]).unwrap();
    scene.ext.batch("nft", &frees_esp_from(1400));
    let trace = scene.trace("mtu");
    client.write_all(&[7; 3000]).unwrap();
    let verdict = trace.expect("black hole", |line| line["finding"] == "black_hole");
    let text = verdict["message"].as_str().unwrap();
    let policy = "; an IPsec policy encrypts what goes from 10.97.1.0/24 to 10.97.5.0/24, which adds at least 54 bytes, and sends it to 10.97.9.2";
    assert!(text.contains(policy), "{text}");
    assert_eq!(verdict["destination_ip"], json!("10.97.5.2"));
    assert!(fix(&verdict).contains("all that 10.97.1.0/24 sends there is encrypted"), "{verdict:#}");
    // What the fix says for until it is mended.
    scene.web.netns.ip("link set eth0 mtu 1280\n");
    server.read_exact(&mut [0; 3000]).unwrap();
}

/// A socket as the key exchange's program has it, by which the kernel takes what is ESP in UDP.
fn taker(netns: &Netns, address: &str) -> UdpSocket {
    let socket = netns.inside(|| UdpSocket::bind((address, 4500)).unwrap());
    set(&socket, libc::IPPROTO_UDP, UDP_ENCAP, UDP_ENCAP_ESPINUDP);
    socket
}

/// ESP in UDP, as behind a NAT: its other end is behind a hop that takes less, and who is inside cannot be seen on the way.
#[test]
fn what_is_encrypted_in_udp_on_its_way() {
    if !has_module("esp4") || !has_module("xfrm_user") {
        return;
    }
    let scene = Scene::new();
    let far = behind(&scene, 1400);
    let addresses = ["10.97.9.1", "10.97.7.2"];
    protect([&scene.host, &far], addresses, IN_UDP);
    scene.host.ip("route add 10.97.5.0/24 via 10.97.9.2\n");
    far.ip("addr add 10.97.5.2/32 dev lo\n");
    let (_near, other) = (taker(&scene.host, addresses[0]), taker(&far, addresses[1]));
    scene.answer(far.inside(|| UdpSocket::bind("10.97.5.2:7").unwrap()));
    assert!(scene.is_answered("10.97.5.2:7"), "both have their keys");

    // A node's firewall that has forgotten the port.
    let drops = scene.trace("drops");
    let refuses = Refuses::new(&scene.host, "udp dport 4500");
    assert!(!scene.is_answered("10.97.5.2:7"));
    let lost = drops.expect("drop by the rule", |line| line["tunnel"] == "ESP in UDP");
    assert!(
        lost["message"].as_str().unwrap().contains(" 10.97.9.1:4500 -> 10.97.7.2:4500 as ESP in UDP on "),
        "{lost:#}"
    );
    refuses.mend(&lost);
    assert!(scene.is_answered("10.97.5.2:7"), "cured");

    // The other end has no key, and then nobody who takes it.
    let lost_there = |class: &str| {
        assert!(!scene.is_answered("10.97.5.2:7"));
        drops.expect_class(class, |line| line["tunnel"] == "ESP in UDP" && line["netns"] == far.inode())
    };
    far.ip("xfrm state deleteall src 10.97.9.1\n");
    let lost = lost_there("policy");
    assert!(
        lost["message"].as_str().unwrap().contains("IPsec has no state (SPI and key) for it"),
        "{lost:#}"
    );
    assert!(fix(&lost).starts_with("give both ends the same state (`ip xfrm state`;"), "{lost:#}");
    far.ip(&state(addresses[0], addresses[1], 1, IN_UDP));
    assert!(scene.is_answered("10.97.5.2:7"), "cured by its key");
    drop(other);
    let lost = lost_there("no_socket");
    assert!(fix(&lost).starts_with("start what should listen there, "), "{lost:#}");
    let _other = taker(&far, addresses[1]);
    assert!(scene.is_answered("10.97.5.2:7"), "cured by who takes it");
    drop(drops);

    let mut trace = scene.trace("mtu");
    if !trace.sees_messages() {
        return;
    }
    assert!(!scene.is_answered_of("10.97.5.2:7", 1370), "it is larger than the hop takes");
    let under = trace.expect("verdict on the hop", |line| line["finding"] == "small_underlay");
    let text = under["message"].as_str().unwrap();
    // The hop is of this kernel as well: it is seen to take less.
    let told = "side takes 1400 bytes, and ESP in UDP adds to what is inside: 10.97.9.1 sends up to ";
    assert!(text.starts_with(told), "{text}");
    let told = "set the MTU of 10.97.9.1's route to 10.97.7.2 to 1400: IPsec then tells whose packets it encrypts how many bytes fit, or raise side if what is behind it takes more";
    assert_eq!(fix(&under), told, "{under:#}");
    // What the message has taught is to have no part in the cure.
    scene.host.ip("route flush cache\nroute add 10.97.7.2/32 via 10.97.9.2 mtu 1400\n");
    assert!(!scene.is_answered_of("10.97.5.2:7", 1370), "IPsec tells by this one");
    assert!(scene.is_answered_of("10.97.5.2:7", 1370), "cured");
    // Eight bytes of UDP's header less than ESP alone lets pass.
    trace.expect("IPsec tells", |line| line["event"] == "made" && line["mtu"] == 1338);
    transfer_to(&scene, &far);
    trace.agent.signal(Signal::SIGINT);
    trace.agent.ended();
}

/// 300,000 bytes from `web` to `ext`, through the tunnel.
pub(super) fn transfer(scene: &Scene) {
    transfer_to(scene, &scene.ext);
}

/// The same to who is at 10.97.5.2.
fn transfer_to(scene: &Scene, there: &Netns) {
    let listener = there.inside(|| TcpListener::bind("10.97.5.2:7703").unwrap());
    let server = thread::spawn(move || {
        let mut bytes = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut bytes).unwrap();
        bytes.len()
    });
    let mut client = scene.web.netns.inside(|| TcpStream::connect("10.97.5.2:7703").unwrap());
    client.write_all(&vec![7; 300_000]).unwrap();
    // What is sent again after its end would find no socket.
    until("all has arrived", || is_all_acknowledged(&client).then_some(()));
    drop(client);
    assert_eq!(server.join().unwrap(), 300_000);
}

/// A key exchange that has failed, or a node that has restarted: one end encrypts, the other has no key.
#[test]
fn what_is_encrypted_and_has_no_state_here() {
    let Some(scene) = encrypted() else { return };
    let trace = scene.trace("drops");
    assert!(scene.is_answered("10.97.5.2:7"), "both have their keys");
    scene.ext.ip("xfrm state deleteall src 10.97.9.1\n");
    assert!(!scene.is_answered("10.97.5.2:7"));
    let lost = trace.expect_class("policy", |line| line["protocol"] == "ESP");
    let text = lost["message"].as_str().unwrap();
    assert!(text.contains("IPsec has no state (SPI and key) for it"), "{lost:#}");
    let fix = fix(&lost);
    assert!(fix.starts_with("give both ends the same state (`ip xfrm state`;"), "{fix}");
    assert!(fix.contains(&format!("(in network namespace {}:", scene.ext.inode())), "{fix}");
    scene.ext.ip(&state("10.97.9.1", "10.97.9.2", 1, ""));
    assert!(scene.is_answered("10.97.5.2:7"), "cured");
}

/// Its device is there, and no key exchange has set up what it encrypts with.
#[test]
fn a_device_of_ipsec_without_a_policy() {
    let Some(scene) = encrypted() else { return };
    let trace = scene.trace("drops");
    for (module, device, chosen, spi) in [
        ("ip_vti", "vti local 10.97.9.1 remote 10.97.9.2 key 5", "mark 5 mask 0xffffffff", 5),
        ("xfrm_interface", "xfrm dev uplink if_id 7", "if_id 7", 7),
    ] {
        if !has_module(module) {
            continue;
        }
        scene.host.ip(&format!(
            "link add dev secret type {device}\nlink set secret up\nroute add 10.97.6.0/24 dev secret\n"
        ));
        let to = format!("10.97.6.{spi}:7");
        scene.is_answered(&to);
        let lost = trace.expect_class("policy", |line| line["destination_ip"] == to[..to.len() - 2]);
        let text = lost["message"].as_str().unwrap();
        assert!(text.contains("no policy with a state for what leaves by this device"), "{lost:#}");
        assert_eq!([&lost["harm"], &lost["pod_name"], &lost["interface"]], ["harmful", "web-0", "secret"]);
        assert!(fix(&lost).contains("`ip -d link show secret`"), "{lost:#}");
        // As the fix says: then it leaves, and the other end, which has no state for it, is to blame.
        scene.host.ip(&format!(
            "xfrm policy add dst 10.97.6.0/24 dir out {chosen} tmpl src 10.97.9.1 dst 10.97.9.2 proto esp spi {spi} mode tunnel\n\
             xfrm state add src 10.97.9.1 dst 10.97.9.2 proto esp spi {spi} mode tunnel {chosen} aead rfc4106(gcm(aes)) {KEY} 128\n"
        ));
        scene.is_answered(&to);
        let esp = |line: &serde_json::Value| line["protocol"] == "ESP" && line["class"] == "policy";
        trace.expect("it leaves, encrypted", |line| esp(line) && line["netns"] == scene.ext.inode());
        // With the same state there it arrives, in a packet to this end of the tunnel.
        scene.ext.ip(&format!(
            "xfrm state add src 10.97.9.1 dst 10.97.9.2 proto esp spi {spi} mode tunnel aead rfc4106(gcm(aes)) {KEY} 128\n\
             xfrm policy add dst 10.97.6.{spi}/32 dir in tmpl src 10.97.9.1 dst 10.97.9.2 proto esp mode tunnel\n\
             addr add 10.97.6.{spi}/32 dev lo\n"
        ));
        assert!(scene.is_answered(&to), "cured");
        scene.host.ip("link del secret\n");
    }
}
