//! Packets that are too large, where the message about them is the riddle: never sent, not heeded, or about another packet.

use std::io::Write as _;
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};

use serde_json::{Value, json};

use crate::harness::netns::Netns;
use crate::harness::packet::udp_unfragmented;
use crate::harness::{has_reasons, until};

use super::{EXT4, Scene, Trace, fix, is_guest};

/// A verdict like this.
pub(super) fn verdict(trace: &Trace, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    trace.expect(&format!("verdict: {what}"), |line| line["finding"].is_string() && is_it(line))
}

/// How many messages that a packet is too large the kernel says it has sent.
fn sent(netns: &Netns, ipv6: bool) -> u64 {
    let (file, name) = if ipv6 { ("snmp6", "Icmp6OutPktTooBigs") } else { ("snmp", "OutDestUnreachs") };
    let text = netns.inside(|| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap());
    if ipv6 {
        return text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().parse().unwrap();
    }
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("Icmp:")).collect();
    let mut columns = rows[0].split(' ').zip(rows[1].split(' '));
    columns.find(|(title, _)| *title == name).unwrap().1.parse().unwrap()
}

/// The verdict on echo replies from there that are too large: about the tunnel, not about the message.
fn judged_nested(scene: &Scene, from: &str) -> Value {
    let trace = scene.trace("mtu");
    // The question comes in fragments; the answer is one packet.
    until("the tunnel carries", || {
        // What the route has learned is never told again.
        for family in ["-4", "-6"] {
            scene.host.run("ip", &[family, "route", "flush", "cache"]);
        }
        let asked = format!("ping -c 1 -W 1 -s 1800 -M dont {from} || true");
        scene.ext.feed("sh", &["-c", &asked], "");
        let is_told = |line: &String| {
            ["no message is sent", "message is not sent"].iter().any(|told| line.contains(told))
        };
        trace.said().iter().any(is_told).then_some(())
    });
    let found = verdict(&trace, "the reply is too large", |line| {
        line["finding"] == "small_underlay" || line["finding"] == "messages_lost"
    });
    assert_eq!(found["finding"], "small_underlay", "{found:#}");
    let text = trace.said().join("\n");
    assert!(!text.contains("being eaten") && !text.contains("ratemask"), "{text}");
    found
}

/// An echo reply that is too large for what carries the tunnel: a message about it would be part of one that is being sent.
#[test]
fn an_answer_too_large_for_its_tunnel() {
    let scene = Scene::new();
    for (family, ends, inner, adds) in [
        ("4", ["10.97.9.1", "10.97.9.2"], ["10.97.6.1/24", "10.97.6.2/24"], 50),
        ("6", ["fd97:9::1", "fd97:9::2"], ["fd97:6::1/64", "fd97:6::2/64"], 70),
    ] {
        let df = if family == "4" { " df set" } else { "" };
        let end = |own: usize, mtu: u32| {
            format!(
                "link add vx type vxlan id 1 local {} remote {} dstport 4789{df}\nlink set vx mtu {mtu} up\n\
                 addr add {} dev vx{}\n",
                ends[own],
                ends[1 - own],
                inner[own],
                if family == "4" { "" } else { " nodad" }
            )
        };
        scene.ext.ip(&end(1, 1500 - adds));
        scene.host.ip(&end(0, 2000));
        // What waits for a neighbour's answer leaves later, in the middle of nothing.
        until("the ends know each other", || {
            let asked = format!("ping -c 1 -W 1 {} && echo yes || true", inner[0].split_once('/').unwrap().0);
            scene.ext.feed("sh", &["-c", &asked], "").contains("yes").then_some(())
        });
        if !scene.trace("mtu").sees_messages() {
            return;
        }
        let (before, to) = (sent(&scene.host, family == "6"), inner[0].split_once('/').unwrap().0);
        let nested = judged_nested(&scene, to);
        assert_eq!(nested["fits"], json!(1500 - adds), "{nested:#}");
        assert!(nested["message"].as_str().unwrap().contains("nobody is told"), "{nested:#}");
        assert_eq!(sent(&scene.host, family == "6"), before, "the kernel has sent none");
        scene.host.ip("link del vx\n");
        scene.ext.ip("link del vx\n");
    }
}

/// What is to be told cannot be reached from here.
#[test]
fn a_sender_without_a_route_back() {
    let scene = Scene::new();
    scene.host.ip("link set uplink mtu 1400\n");
    for (address, prefix, to, length) in
        [("10.98.0.9", "32", "10.97.9.2", 1420), ("fd98::9", "128", "fd97:9::2", 1400)]
    {
        let web = &scene.web.netns;
        web.ip(&format!("addr add {address}/{prefix} dev lo\n"));
        let is_ipv6 = address.contains(':');
        let (trace, before) = (scene.trace("mtu"), sent(&scene.host, is_ipv6));
        if !trace.sees_messages() {
            return;
        }
        web.inside(|| {
            let socket = UdpSocket::bind((address.parse::<IpAddr>().unwrap(), 0)).unwrap();
            crate::harness::packet::set(
                &socket,
                if is_ipv6 { 41 } else { 0 },
                if is_ipv6 { 23 } else { 10 },
                3,
            );
            for _ in 0..3 {
                socket.send_to(&vec![7; length], (to, 9)).unwrap();
            }
        });
        let lost = verdict(&trace, "no route back", |line| line["finding"] == "messages_lost");
        let message = lost["message"].as_str().unwrap();
        assert!(message.contains(&format!("has no route to {address}")), "{lost:#}");
        assert!(fix(&lost).starts_with(&format!("add a route to {address} in ")), "{lost:#}");
        assert_eq!(sent(&scene.host, is_ipv6), before, "the kernel has sent none");
        scene.host.ip(&format!("route add {address}/{prefix} dev veth-web\n"));
        if !is_ipv6 {
            scene.host.ip(&format!("neigh replace {address} lladdr {} dev veth-web\n", station(web)));
        }
        web.inside(|| {
            let socket = UdpSocket::bind((address.parse::<IpAddr>().unwrap(), 0)).unwrap();
            crate::harness::packet::set(
                &socket,
                if is_ipv6 { 41 } else { 0 },
                if is_ipv6 { 23 } else { 10 },
                3,
            );
            socket.send_to(&vec![7; length], (to, 9)).unwrap();
        });
        until("cured", || (sent(&scene.host, is_ipv6) > before).then_some(()));
    }
}

/// The link address of its `eth0`.
fn station(netns: &Netns) -> String {
    let shown = netns.run("ip", &["-o", "link", "show", "eth0"]);
    shown.split_once("link/ether ").unwrap().1.split(' ').next().unwrap().to_owned()
}

/// A hundred destinations behind one device that takes too little: one line.
#[test]
fn a_hundred_destinations_behind_one_device() {
    const COUNT: u8 = 101;
    let scene = Scene::new();
    scene.host.ip("link set uplink mtu 1400\n");
    let trace = scene.trace("mtu");
    if !trace.sees_messages() {
        return;
    }
    for last in 0..COUNT {
        scene
            .web
            .netns
            .inside(|| udp_unfragmented(format!("10.97.9.{}:9", 100 + last).parse().unwrap(), 1, 1420));
    }
    let all = verdict(&trace, "all are one", |line| line["destinations"] == json!(COUNT));
    assert_eq!((&all["finding"], &all["fits"]), (&json!("small_device"), &json!(1400)), "{all:#}");
    let message = all["message"].as_str().unwrap();
    assert!(
        message.contains("101 destinations in all: 10.97.9.100, 10.97.9.101, 10.97.9.102 and others"),
        "{all:#}"
    );
    let count = message.contains("at least") || all["count_is_exact"] == json!(true);
    assert!(count, "a count says whether it is exact: {all:#}");
    let verdicts = trace.lines(|line| line["finding"] == "small_device");
    let of_one: std::collections::BTreeSet<String> =
        verdicts.iter().map(|line| line["trace_id"].to_string()).collect();
    assert_eq!(of_one.len(), 1, "{verdicts:#?}");
    // It is told of each once, and heeds that.
    let goes_on = |line: &&serde_json::Value| line["message"].as_str().unwrap().contains("goes on");
    assert_eq!(verdicts.iter().find(goes_on), None);
}

/// The server is on the Internet, and does not hear that its packets are too large for the pod.
#[test]
fn a_sender_elsewhere_that_does_not_heed() {
    let scene = Scene::new();
    scene.host.ip("link set veth-web mtu 1450\n");
    let trace = scene.trace("mtu");
    if !trace.sees_messages() {
        return;
    }
    scene.ext.inside(|| {
        let socket = UdpSocket::bind("10.97.9.2:0").unwrap();
        // Whatever it is told, it sends the same.
        crate::harness::packet::set(&socket, 0, 10, 3);
        until("it goes on for two seconds", || {
            let begun = std::time::Instant::now();
            for _ in 0..25 {
                socket.send_to(&[7; 1460], "10.97.1.2:9").unwrap();
                let (_open, never) = std::sync::mpsc::channel::<()>();
                let _ = never.recv_timeout(std::time::Duration::from_millis(100));
            }
            (begun.elapsed() > std::time::Duration::from_secs(2)).then_some(())
        });
    });
    let small = verdict(&trace, "it goes on", |line| {
        line["finding"] == "small_device" && line["message"].as_str().unwrap().contains("goes on")
    });
    let fix = fix(&small);
    // It is not this operator's, and UDP cannot ask it for less.
    let told = "10.97.9.2, which is not known as a pod of this node, would have to send packets of at most 1450 bytes";
    assert!(fix.starts_with(told), "{fix}");
}

/// A load balancer without state, by tc: it translates what the pod sends and what comes back, but not what an ICMP error quotes.
#[test]
fn a_quote_that_is_not_translated_back() {
    let scene = Scene::new();
    let far = Netns::new();
    scene.ext.ip(&format!(
        "link add side mtu 1400 type veth peer name eth0 mtu 1400 netns {}\naddr add 10.97.7.1/24 dev side\nlink set side up\n",
        far.path()
    ));
    scene.ext.sysctl("ipv4/ip_forward", "1");
    // It says that it takes more than the way to it.
    far.ip("link set lo up\nlink set eth0 mtu 1500\naddr add 10.97.7.2/24 dev eth0\nlink set eth0 up\nroute add default via 10.97.7.1\n");
    scene.host.ip("route add 10.97.7.0/24 via 10.97.9.2\n");
    let balances = scene.host.tries(
        "tc",
        "qdisc add dev veth-web clsact\n\
         filter add dev veth-web ingress protocol ip flower ip_proto tcp dst_ip 10.97.10.1 action pedit ex munge ip dst set 10.97.7.2 pipe action csum ip tcp\n\
         filter add dev veth-web egress protocol ip flower ip_proto tcp src_ip 10.97.7.2 action pedit ex munge ip src set 10.97.10.1 pipe action csum ip tcp\n",
    );
    if !balances {
        return;
    }
    let listener = far.inside(|| TcpListener::bind("10.97.7.2:8080").unwrap());
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept() {
            kept.push(stream);
        }
    });
    let trace = scene.trace("mtu");
    if !trace.sees_messages() {
        return;
    }
    // Who asks for the service: the message is about another address.
    let asked = scene.trace_of("mtu", &["--ip", "10.97.10.1", "--port", "8080"]);
    let client = scene.web.netns.inside(|| TcpStream::connect("10.97.10.1:8080").unwrap());
    (&client).write_all(&vec![7; 20_000]).unwrap();
    verdict(&asked, "by the service's address", |line| line["finding"] == "untranslated_quote");
    let quote = verdict(&trace, "one of both", |line| line["finding"] == "untranslated_quote");
    let message = quote["message"].as_str().unwrap();
    assert!(message.contains("talks to 10.97.10.1:8080 and is stuck"), "{quote:#}");
    assert!(message.contains("10.97.7.2") && quote["fits"] == json!(1400), "{quote:#}");
    assert_eq!(quote["source_pod"]["pod"], "web-0", "{quote:#}");
    // Until the load balancer is mended.
    let told = "set the MTU of shop/web-0's route to 10.97.10.1, or of both ends of its interface, to at most 1400; ";
    assert!(fix(&quote).starts_with(told), "{quote:#}");
    scene.web.netns.ip("route add 10.97.10.1 via 10.97.1.1 mtu lock 1400\n");
    let client = scene.web.netns.inside(|| TcpStream::connect("10.97.10.1:8080").unwrap());
    (&client).write_all(&vec![7; 20_000]).unwrap();
    until("cured", || is_all_acknowledged(&client).then_some(()));
    // One that does translate what is quoted, instead.
    assert!(fix(&quote).ends_with(
        "; have the load balancer translate what ICMP errors quote (conntrack and NAT of netfilter do)"
    ));
    scene.web.netns.ip("route del 10.97.10.1\nroute flush cache\n");
    scene.host.batch("tc", "qdisc del dev veth-web clsact\n");
    let translates = scene.host.tries(
        "nft",
        "add table ip lb\nadd chain ip lb it { type nat hook prerouting priority -100; }\n\
         add rule ip lb it ip daddr 10.97.10.1 tcp dport 8080 dnat to 10.97.7.2\n",
    );
    assert!(translates || !is_guest(), "a guest's kernel has NAT");
    if translates {
        let client = scene.web.netns.inside(|| TcpStream::connect("10.97.10.1:8080").unwrap());
        (&client).write_all(&vec![7; 20_000]).unwrap();
        until("cured by NAT", || is_all_acknowledged(&client).then_some(()));
    }
}

/// Whether the peer has all that was sent (`SIOCOUTQ`).
pub(super) fn is_all_acknowledged(stream: &TcpStream) -> bool {
    use std::os::fd::AsRawFd as _;
    let mut left = 0;
    // SAFETY: the pointer is to an `int`, which outlives the call.
    let status = unsafe { nix::libc::ioctl(stream.as_raw_fd(), nix::libc::TIOCOUTQ, &raw mut left) };
    assert_eq!(status, 0, "{}", std::io::Error::last_os_error());
    left == 0
}

/// A policer with too small a burst or MTU, where packets come in and where they leave: small ones pass, full ones never.
#[test]
fn a_policer_smaller_than_a_packet() {
    let scene = Scene::new();
    if !scene.host.tries("tc", "qdisc add dev veth-web clsact\n") {
        return;
    }
    // Where it comes in a packet has no link header.
    for (side, filter, least, told, length) in [
        // As most write it.
        ("ingress", "ip u32 match ip src 0.0.0.0/0 flowid :1", "burst 1400 mtu 2000", "burst 1400", 1500),
        ("ingress", "all flower action", "burst 10000 mtu 1300", "mtu 1300", 1500),
        ("ingress", "ip basic action", "burst 1400 mtu 2000", "burst 1400", 1500),
        ("egress", "ip matchall action", "burst 10000 mtu 1300", "mtu 1300", 1514),
        ("egress", "all u32 match u32 0 0 action", "burst 1400 mtu 1300", "burst 1400, mtu 1300", 1514),
    ] {
        eprintln!("{side} {filter}");
        let police = |limits: &str| format!("police rate 10mbit {limits} conform-exceed drop");
        let add = format!("filter add dev veth-web {side} protocol {filter} {}\n", police(least));
        if !scene.host.tries("tc", &add) {
            assert!(!is_guest(), "a guest's kernel has {filter}");
            continue;
        }
        assert!(scene.is_answered_of(EXT4, 1000), "small ones pass");
        let trace = scene.trace("drops");
        assert!(!scene.is_answered_of(EXT4, 1472));
        let event = trace.expect_class("mtu", |event| event["interface"] == "veth-web");
        let told = format!(
            "a packet of {length} bytes is more than the policer of veth-web ever lets pass ({told})"
        );
        assert!(event["message"].as_str().unwrap().contains(&told), "{told}: {event:#}");
        let fix = fix(&event);
        let enough = fix.split_once(" bytes or more").unwrap().0.rsplit_once(' ').unwrap().1;
        let shown = scene.host.run("tc", &["filter", "show", "dev", "veth-web", side]);
        let index = shown.split_once(" police 0x").unwrap().1.split_once(' ').unwrap().0;
        let index = u32::from_str_radix(index, 16).unwrap();
        let mut mended = least.to_owned();
        for (what, small) in [("burst", "1400"), ("mtu", "1300")] {
            if fix.contains(&format!("{what} of ")) || fix.contains(&format!("{what} and ")) {
                mended = mended.replace(small, enough);
            }
        }
        scene.host.batch("tc", &format!("actions replace action {} index {index}\n", police(&mended)));
        until(&format!("cured by {mended}: {fix}"), || scene.is_answered_of(EXT4, 1472).then_some(()));
        scene.host.batch("tc", &format!("filter del dev veth-web {side}\n"));
    }
}

/// A policer of another flow, beside a filter that drops all that is long.
#[test]
fn a_policer_of_another_flow() {
    let scene = Scene::new();
    let police = "action police rate 10mbit burst 1400 mtu 1300 conform-exceed drop";
    // A classic BPF program that says TC_ACT_SHOT to all of 1000 bytes or more, and to all else that the next filter may look.
    let long = "bpf da bytecode '4,128 0 0 0,53 0 1 1000,6 0 0 2,6 0 0 4294967295,'";
    for others in [
        format!("prio 1 protocol ip u32 match ip dst 192.0.2.1 {police}"),
        format!("prio 1 protocol ipv6 matchall {police}"),
    ] {
        let lines = format!(
            "qdisc add dev veth-web clsact\nfilter add dev veth-web ingress {others}\n\
             filter add dev veth-web ingress prio 2 protocol ip {long}\n"
        );
        if !scene.host.tries("tc", &lines) {
            return;
        }
        assert!(scene.is_answered_of(EXT4, 500), "small ones pass");
        let trace = scene.trace("drops");
        assert!(!scene.is_answered_of(EXT4, 1472));
        let class = if has_reasons() { "policy" } else { "other" };
        let event = trace.expect_class(class, |event| event["interface"] == "veth-web");
        assert!(!event["message"].as_str().unwrap().contains("policer"), "{event:#}");
        scene.host.batch("tc", "qdisc del dev veth-web clsact\n");
    }
}
