//! `trace mtu --to` in a chain of five routers: which hop takes less, or after which packets vanish, in each place.

use std::net::TcpListener;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::agent::{Agent, command, without_capabilities};
use crate::harness::until;

mod chain;
mod cures;
mod hostile;
mod usage;

use chain::{Chain, FAR, NEAR, Walk, address};

#[test]
fn a_clear_path() {
    let chain = Chain::lock();
    for to in FAR {
        let walk = chain.walk(to, &["--fail-on-findings"]);
        walk.is(&[
            ("finding", json!("path_clear")),
            ("fits", json!(1500)),
            ("device", json!("r1")),
            ("reached", json!(true)),
        ]);
        assert_eq!((walk.code, walk.hops.len()), (0, 1), "{walk:#?}");
        assert_eq!(walk.hops[0]["hop_ip"], *to);
    }
}

#[test]
fn each_place_of_a_small_link_that_is_owned_up_to() {
    let chain = Chain::lock();
    for hop in 1..=5 {
        chain.small_behind(hop, 1400);
        for (to, v6) in FAR.into_iter().zip([false, true]) {
            let walk = chain.walk(to, &["--fail-on-findings"]);
            walk.is(&[
                ("finding", json!("small_hop")),
                ("hop", json!(hop)),
                ("hop_ip", json!(address(hop, v6))),
                ("fits", json!(1400)),
                ("says_mtu", json!(1400)),
                ("device_mtu", json!(1500)),
                ("method", json!("icmp")),
            ]);
            assert_eq!(walk.code, 4, "{walk:#?}");
            // A guest that stalls looks like loss: medium is no fault.
            assert_ne!(walk.verdict["confidence"], "low", "{walk:#?}");
            let text = walk.verdict["message"].as_str().unwrap();
            assert!(text.starts_with(&format!("hop {hop}, {}, says 1400", address(hop, v6))), "{text}");
            assert!(text.contains(" dev r1 mtu 1400`"), "{text}");
            assert_eq!(walk.hops.len(), hop + 1, "its hops and the destination: {walk:#?}");
            for (at, row) in walk.hops[..hop].iter().enumerate() {
                assert_eq!(
                    (&row["hop"], &row["hop_ip"]),
                    (&json!(at + 1), &json!(address(at + 1, v6))),
                    "{row:#}"
                );
                assert_eq!(row["says_mtu"], if at + 1 == hop { json!(1400) } else { Value::Null }, "{row:#}");
            }
        }
        chain.small_behind(hop, 1500);
    }
}

/// The verdict of packets that vanish behind this hop.
fn vanish(walk: &Walk, hop: usize, v6: bool, fits: u32) {
    walk.is(&[
        ("finding", json!("black_hole")),
        ("hop", json!(hop)),
        ("hop_ip", json!(address(hop, v6))),
        ("before_hop", json!(hop + 1)),
        ("fits", json!(fits)),
        ("size_dies", json!(fits + 1)),
        ("says_mtu", Value::Null),
    ]);
    let text = walk.verdict["message"].as_str().unwrap();
    let wanted = format!("packets over {fits} vanish after hop {hop} ({})", address(hop, v6));
    assert!(text.starts_with(&wanted), "{text}");
}

#[test]
fn each_place_of_a_small_link_that_is_kept_secret() {
    let chain = Chain::lock();
    for hop in 1..=5 {
        chain.small_behind(hop, 1372);
        chain.silence(hop);
        // Most of it is waiting: both at once.
        let [v4, v6] = FAR.map(|to| Agent::spawn(&mut chain.command(to, &["--fail-on-findings"])));
        for (agent, v6) in [(v4, false), (v6, true)] {
            let walk = Walk::ended(agent);
            vanish(&walk, hop, v6, 1372);
            assert_eq!(walk.code, 4, "{walk:#?}");
            assert_ne!(walk.verdict["confidence"], "low", "{walk:#?}");
        }
        chain.netns[hop].batch("nft", "flush ruleset\n");
        chain.small_behind(hop, 1500);
    }
}

#[test]
fn a_rule_that_drops_by_length_on_the_way_to_a_tcp_port() {
    let chain = Chain::lock();
    // What comes to hop 3 is dropped there before it looks at the TTL: hop 2 is the last to answer.
    chain.rules(3, "prerouting", &["meta length > 1372 drop"]);
    let listener = chain.netns[6].inside(|| TcpListener::bind("0.0.0.0:8080").unwrap());
    let open = Agent::spawn(&mut chain.command("10.64.6.2:8080", &[]));
    let closed = Agent::spawn(&mut chain.command("[fd64:6::2]:8081", &[]));
    let walk = Walk::ended(open);
    vanish(&walk, 2, false, 1372);
    walk.is(&[("method", json!("tcp")), ("tcp", json!("connects"))]);
    assert!(walk.verdict["tcp_mss"].as_u64().is_some_and(|mss| (1300..=1460).contains(&mss)), "{walk:#?}");
    // Nothing is left half open: state 3 is SYN_RECV.
    let table = chain.netns[6].inside(|| std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap());
    let half_open = |line: &str| line.split_whitespace().nth(3) == Some("03");
    assert!(!table.lines().any(half_open), "{table}");
    // The plain connection, and none of the SYNs.
    let (first, _) = listener.accept().unwrap();
    drop(first);
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "a SYN became a connection");
    let walk = Walk::ended(closed);
    vanish(&walk, 2, true, 1372);
    walk.is(&[("method", json!("tcp")), ("tcp", json!("refuses"))]);
}

#[test]
fn a_destination_that_answers_nothing() {
    let chain = Chain::lock();
    chain.rules(6, "input", &["meta l4proto { icmp, udp, tcp } drop", "icmpv6 type echo-request drop"]);
    // IPv6 needs its neighbours: the rest of ICMPv6 may pass.
    let [clear4, clear6] = FAR.map(|to| Agent::spawn(&mut chain.command(to, &["--fail-on-findings"])));
    for agent in [clear4, clear6] {
        let walk = Walk::ended(agent);
        walk.is(&[
            ("finding", json!("unreachable")),
            ("confidence", json!("low")),
            ("hop", json!(5)),
            ("fits", Value::Null),
            ("reached", json!(false)),
        ]);
        // Nothing was found, and that is no all-clear.
        assert_eq!(walk.code, 1);
        assert!(
            walk.verdict["message"].as_str().unwrap().contains("1500 bytes come as far as hop 5"),
            "{walk:#?}"
        );
    }
    chain.small_behind(3, 1400);
    let told = Agent::spawn(&mut chain.command(FAR[0], &[]));
    let walk = Walk::ended(told);
    walk.is(&[
        ("finding", json!("small_hop")),
        ("confidence", json!("medium")),
        ("hop", json!(3)),
        ("fits", json!(1400)),
    ]);
    chain.silence(3);
    let walk = chain.walk(FAR[1], &[]);
    walk.is(&[
        ("finding", json!("black_hole")),
        ("confidence", json!("low")),
        ("hop", json!(3)),
        ("size_dies", json!(1401)),
    ]);
    assert!(
        walk.verdict["message"].as_str().unwrap().starts_with("packets over 1400 vanish after hop 3"),
        "{walk:#?}"
    );
}

#[test]
fn routers_that_limit_their_answers_are_no_black_hole() {
    let chain = Chain::lock();
    for netns in &chain.netns {
        netns.sysctl("ipv4/icmp_ratelimit", "1000");
        netns.sysctl("ipv6/icmp/ratelimit", "1000");
    }
    chain.small_behind(4, 1400);
    chain.silence(4);
    // By UDP the destination's answers are limited as well.
    chain.rules(6, "input", &["icmp type echo-request drop", "icmpv6 type echo-request drop"]);
    let [v4, v6] = FAR.map(|to| Agent::spawn(&mut chain.command(to, &[])));
    let walks = [Walk::ended(v4), Walk::ended(v6)];
    for netns in &chain.netns {
        netns.sysctl("ipv4/icmp_ratelimit", "0");
        netns.sysctl("ipv6/icmp/ratelimit", "0");
    }
    for (walk, v6) in walks.iter().zip([false, true]) {
        vanish(walk, 4, v6, 1400);
        walk.is(&[("method", json!("udp"))]);
    }
    assert_ne!(walks[0].verdict["limited"], 0, "{walks:#?}");
}

#[test]
fn from_a_pod() {
    let chain = Chain::lock();
    chain.small_behind(2, 1400);
    let mut args = vec!["trace", "mtu", "--to", FAR[0], "--from-pod", NEAR, "-o", "json"];
    let walk = Walk::of(&mut command(&chain.node, &args));
    walk.is(&[
        ("finding", json!("small_hop")),
        ("hop", json!(2)),
        ("namespace", json!("shop")),
        ("pod_name", json!("near-0")),
        ("device", json!("r1")),
    ]);
    assert!(walk.hops.iter().all(|hop| hop["pod_name"] == "near-0"), "{walk:#?}");
    assert!(
        walk.verdict["message"].as_str().unwrap().contains("Fix: in shop/near-0, `ip route"),
        "{walk:#?}"
    );
    // The same as a table, within a terminal.
    args.truncate(6);
    let mut table = Agent::spawn(&mut command(&chain.node, &args));
    assert_eq!(table.ended(), 0);
    let text = table.stdout.text();
    assert!(text.starts_with("HOP  ADDRESS"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let row = text.lines().find(|line| line.starts_with("2 ")).unwrap();
    let cells: Vec<&str> = row.split_whitespace().take(5).collect();
    assert_eq!(cells, ["2", "10.64.2.2", "1500", "-", "1400"], "{text}");
    assert!(text.contains("\n=> hop 2, 10.64.2.2, says 1400:"), "{text}");
}

/// In the namespace already, and with no capability: UDP, and echo where the sysctl allows it.
#[test]
fn without_any_right() {
    let chain = Chain::lock();
    chain.small_behind(3, 1400);
    let walk = |to: &str, method: &str| {
        let mut command = command(&chain.node, &["trace", "mtu", "--to", to, "-o", "json"]);
        chain.netns[0].enter(&mut command);
        without_capabilities(&mut command, 0..64);
        let walk = Walk::of(&mut command);
        walk.is(&[
            ("finding", json!("small_hop")),
            ("hop", json!(3)),
            ("fits", json!(1400)),
            ("method", json!(method)),
            ("device", json!("r1")),
        ]);
        walk
    };
    chain.netns[0].sysctl("ipv4/ping_group_range", "1 0");
    for to in FAR {
        let said = walk(to, "udp").notes;
        assert!(said.contains("ping_group_range"), "{said}");
    }
    let said = walk("10.64.6.2:8080", "udp");
    assert!(said.notes.contains("no sizes by TCP") && said.verdict["tcp"] == "refuses", "{said:#?}");
    chain.netns[0].sysctl("ipv4/ping_group_range", "0 0");
    for to in FAR {
        walk(to, "icmp");
    }
    chain.netns[0].sysctl("ipv4/ping_group_range", "1 0");
}

#[test]
fn ctrl_c_tells_what_is_known() {
    let chain = Chain::lock();
    chain.rules(1, "prerouting", &["drop"]);
    for args in [&["--timeout", "90s"][..], &["--timeout", "90s", "--max-packets", "1000"]] {
        let args = [&["trace", "mtu", "--to", FAR[0], "-o", "json"], args].concat();
        let mut command = command(&chain.node, &args);
        chain.netns[0].enter(&mut command);
        let agent = Agent::spawn(&mut command);
        until("it says that it walks", || agent.stderr.text().contains("walking").then_some(()));
        agent.signal(Signal::SIGINT);
        let walk = Walk::ended(agent);
        assert_eq!(walk.code, 0, "{walk:#?}");
        let text = walk.verdict["message"].as_str().unwrap();
        assert!(text.contains("interrupted") && walk.verdict["confidence"] == "low", "{text}");
    }
}

/// What the agent says it sent is what was on the wire, and no more than it may be.
#[test]
fn packets_are_counted_and_bounded() {
    let chain = Chain::lock();
    chain.small_behind(2, 1372);
    chain.silence(2);
    let count = || {
        let text = chain.netns[1].run("nft", &["list", "counter", "inet", "path_prerouting", "seen"]);
        let packets =
            text.split_once("packets ").and_then(|(_, rest)| rest.split(' ').next()?.parse::<u64>().ok());
        packets.unwrap_or_else(|| panic!("{text}"))
    };
    chain.netns[1].batch(
        "nft",
        "table inet path_prerouting {\ncounter seen { }\nchain c {\ntype filter hook prerouting priority 0\n\
         iifname \"l1\" meta l4proto { icmp, tcp, udp } counter name seen\n}\n}\n",
    );
    let walk = chain.walk(FAR[0], &[]);
    let sent = count();
    assert_eq!(walk.verdict["packets"], sent, "{walk:#?}");
    assert!(sent <= 200, "{sent}");
    let (walk, before) = (chain.walk(FAR[0], &["--max-packets", "10"]), count());
    assert_eq!((&walk.verdict["packets"], before - sent), (&json!(10), 10), "{walk:#?}");
    assert!(walk.verdict["message"].as_str().unwrap().contains("ended after 10 packets"), "{walk:#?}");
    // A second is not enough for this path: the time ends it, and what is known is told.
    let walk = chain.walk(FAR[0], &["--timeout", "1s"]);
    assert!(walk.verdict["message"].as_str().unwrap().contains("the time was up"), "{walk:#?}");
    assert_eq!(walk.code, 0);
}
