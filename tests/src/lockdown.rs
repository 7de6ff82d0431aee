//! A kernel that lets no program read its memory (lockdown's confidentiality): what helper-free programs still tell.
//!
//! Ignored but in a guest that was started so: `cargo xtask test lockdown`.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use crate::harness::agent::{Running, command, json};
use crate::harness::netns::Netns;
use crate::harness::packet::udp;
use crate::harness::pod::{Node, Pod};
use crate::harness::{is_of_udp_rcv, until};

/// The test has shown nothing on a kernel that is not locked down.
fn is_locked_down() {
    let modes = fs::read_to_string("/sys/kernel/security/lockdown").unwrap();
    assert!(modes.contains("[confidentiality]"), "{modes}");
}

#[test]
#[ignore = "needs a kernel started with lockdown=confidentiality"]
fn drops_are_counted_by_reason_place_and_pod_without_reading_a_packet() {
    const SENT: u64 = 500;
    is_locked_down();
    let (router, netns) = (Netns::new(), Netns::new());
    netns.ip("link set lo up\n");
    let node = Node::routing(&router);
    let _pod = Pod::start(&node, "shop/web-0", &netns);
    let running = Running::start(&node, &["--events", "all", "--events-per-second", "4"]);
    netns.inside(|| udp(SocketAddr::from((Ipv4Addr::LOCALHOST, 9401)), SENT, 10));
    let labels = [("reason", "NO_SOCKET"), ("class", "no_socket"), ("namespace", "shop"), ("pod", "web-0")];
    let counted = until("all are counted", || {
        let counted = running.scrape().sum("r2c_pod_drop_packets_total", &labels);
        // On the loopback device it is the pod at both ends.
        (counted >= 2 * SENT).then_some(counted)
    });
    assert_eq!(counted, 2 * SENT);

    let find = |lines: &[Vec<u8>]| lines.iter().filter_map(|line| json(line)).find(is_of_udp_rcv);
    let event = running.agent.stdout.wait(0, find).expect("a line");
    let told = ["reason", "class", "direction", "interface"].map(|name| &event[name]);
    assert_eq!(told, ["NO_SOCKET", "no_socket", "unknown", "lo"], "{event:#}");
    assert_eq!(event["destination_pod"]["pod"], "web-0", "{event:#}");
    for unknown in ["source_ip", "destination_ip", "source_port", "destination_port", "ttl"] {
        assert!(event[unknown].is_null(), "unknown is not zero: {event:#}");
    }

    let said = running.agent.stderr.text();
    let warnings: Vec<&str> = said.lines().filter(|line| line.contains("\"level\":\"WARN\"")).collect();
    // What became of messages about UDP over IPv6 takes a breakpoint before 7, which is refused as well.
    let (of_udp, others): (Vec<&str>, Vec<&str>) =
        warnings.into_iter().partition(|line| line.contains("does without hook udpv6_err: "));
    assert!(of_udp.len() <= 1 && others.len() == 1 && others[0].contains("lockdown"), "{said}");
    assert!(said.contains("hook kfree_skb of drops by tp_btf\""), "{said}");
}

#[test]
#[ignore = "needs a kernel started with lockdown=confidentiality"]
fn the_doctor_says_what_is_lost() {
    is_locked_down();
    let ended = command(&Node::new(), &["doctor", "-o", "json"]).output().unwrap();
    let report = json(&ended.stdout).expect("a report");
    assert!(ended.status.success(), "{report:#}");
    let checks = report["checks"].as_array().unwrap();
    let lockdown = checks.iter().find(|check| check["id"] == "kernel.lockdown").unwrap();
    assert_eq!(lockdown["status"], "degraded", "{lockdown:#}");
    assert!(lockdown["advice"].as_str().unwrap().contains("addresses"), "{lockdown:#}");
    for hook in report["hooks"].as_array().unwrap().iter().filter(|hook| hook["hook"] == "kfree_skb") {
        assert_eq!(hook["takes"], "tp_btf", "{hook:#}");
    }
    // Its EPERM is told from that of rights.
    let rungs = report["hooks"].as_array().unwrap().iter().flat_map(|hook| hook["rungs"].as_array().unwrap());
    let kprobes: Vec<_> = rungs.filter(|rung| rung["name"] == "kprobe" && !rung["cure"].is_null()).collect();
    assert!(!kprobes.is_empty(), "{report:#}");
    for kprobe in kprobes {
        assert!(kprobe["why"].as_str().unwrap().contains("kernel lockdown (confidentiality)"), "{kprobe:#}");
    }
}

/// On a hook whose arguments have no types a filter by place would hide everything, and look like an all-clear.
#[test]
#[ignore = "needs a kernel started with lockdown=confidentiality"]
fn a_filter_by_place_is_refused_where_no_place_is_known() {
    is_locked_down();
    let node = Node::new();
    for (args, code) in [
        (&["-i", "lo", "--rung", "raw_tp"][..], 3),
        (&["--port", "53"], 3),
        (&["-i", "lo"], 0),
        (&["--rung", "raw_tp"], 0),
    ] {
        let args = [&["trace", "drops", "--duration", "1s"], args].concat();
        let ended = command(&node, &args).output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(code), "{args:?}: {said}");
        assert_eq!(said.contains("would hide everything"), code == 3, "{args:?}: {said}");
    }
}
