//! A storm of packets that nobody asked for, and what somebody did ask for in the middle of it.

use std::net::{Ipv4Addr, SocketAddr};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::agent::{Agent, command, json};
use crate::harness::netns::Netns;
use crate::harness::packet::udp;
use crate::harness::pod::{Node, Pod};
use crate::harness::{lines_of, until};

const STORM: u64 = 10_000;
const NEEDLES: u64 = 8;
const NEEDLE: u16 = 7777;

fn loopback(last: u8, port: u16) -> SocketAddr {
    (Ipv4Addr::new(127, 0, 0, last), port).into()
}

/// A trace of drops, attached.
fn trace(node: &Node, args: &[&str]) -> Agent {
    let ready = node.logs.with_file_name("ready");
    let always = ["trace", "drops", "-o", "json", "--duration", "0", "--ready-file", ready.to_str().unwrap()];
    let agent = Agent::spawn(&mut command(node, &[&always, args].concat()));
    until(&format!("attached; {}", agent.stderr.text()), || ready.exists().then_some(()));
    agent
}

/// Ten thousand packets that are dropped, and in between a few to somewhere else, for the same reason in the same place.
fn storm(netns: &Netns, needle: SocketAddr) {
    netns.inside(|| {
        for _ in 0..NEEDLES {
            udp(loopback(1, 7001), STORM / NEEDLES, 10);
            udp(needle, 1, 10);
        }
    });
}

/// The lines of a trace with these filters that has seen the storm, and what it says at its end.
fn traced(args: &[&str], needle: SocketAddr) -> (Agent, String) {
    let (node, netns) = (Node::new(), Netns::new());
    netns.ip("link set lo up\n");
    let mut agent = trace(&node, args);
    storm(&netns, needle);
    until("all are shown", || (lines_of(&agent.stdout, needle.port()) as u64 >= NEEDLES).then_some(()));
    agent.signal(Signal::SIGINT);
    assert_eq!(agent.ended(), 0, "{}", agent.stderr.text());
    let said = agent.stderr.text();
    (agent, said)
}

#[test]
fn what_is_asked_for_is_shown_whatever_else_is_dropped() {
    let port = NEEDLE.to_string();
    for (args, needle) in [
        (&["--port", &port][..], loopback(1, NEEDLE)),
        (&["--ip", "127.0.0.9"], loopback(9, NEEDLE)),
        (&["--ip", "127.0.0.9/32", "--ip", "10.0.0.0/8", "--port", &port, "-i", "lo"], loopback(9, NEEDLE)),
    ] {
        let (agent, said) = traced(args, needle);
        assert_eq!(lines_of(&agent.stdout, NEEDLE) as u64, NEEDLES, "{args:?}: {said}");
        assert_eq!(agent.stdout.count() as u64, NEEDLES, "{args:?}: nothing else");
        assert!(said.contains(&format!(" {NEEDLES} shown, ")) && said.contains(" filtered out"), "{said}");
        assert!(said.contains("no event lost") && !said.contains("not examined"), "{said}");
    }
}

#[test]
fn no_interface_but_the_one_that_is_asked_for() {
    let (node, netns) = (Node::new(), Netns::new());
    netns.ip("link set lo up\nlink add lo2 type veth peer name lo3\n");
    // The agent knows interfaces by the processes that live beside them.
    let _pod = Pod::start(&node, "shop/web-0", &netns);
    // The name that is asked for begins like the other, and one that is longer does not fit.
    let mut agent = trace(&node, &["-i", "lo2", "--all"]);
    storm(&netns, loopback(1, NEEDLE));
    agent.signal(Signal::SIGINT);
    assert_eq!(agent.ended(), 0, "{}", agent.stderr.text());
    assert_eq!(agent.stdout.count(), 0, "{}", agent.stdout.text());
    let said = agent.stderr.text();
    assert!(said.contains("filtered out") && !said.contains("not examined"), "{said}");
}

/// More networks than the kernel side compares: then the user side does, and must get all there is.
#[test]
fn a_filter_that_is_too_long_for_the_kernel_still_hides_nothing() {
    let networks: Vec<String> = (9..40).map(|last| format!("127.0.0.{last}")).collect();
    let networks: Vec<&str> = networks.iter().flat_map(|network| ["--ip", network]).collect();
    let (node, netns) = (Node::new(), Netns::new());
    netns.ip("link set lo up\n");
    let mut agent = trace(&node, &[&networks[..], &["--fail-on-findings"]].concat());
    storm(&netns, loopback(9, NEEDLE));
    until("all are shown", || (lines_of(&agent.stdout, NEEDLE) as u64 >= NEEDLES).then_some(()));
    agent.signal(Signal::SIGINT);
    assert_eq!(agent.ended(), 4, "{}", agent.stderr.text());
    assert_eq!(lines_of(&agent.stdout, NEEDLE) as u64, NEEDLES, "{}", agent.stderr.text());
}

/// With a ring of four pages most of a storm finds no room in it: what was not looked at may be what was looked for.
#[test]
fn what_was_not_examined_is_no_all_clear() {
    let (node, netns) = (Node::new(), Netns::new());
    netns.ip("link set lo up\n");
    let args =
        ["--events-per-second", "65535", "--ring-kib", "4", "--reason", "policy", "--fail-on-findings"];
    let mut agent = trace(&node, &args);
    // It reads nothing for as long as it is stopped.
    agent.signal(Signal::SIGSTOP);
    netns.inside(|| udp(loopback(1, 7001), 2_000, 10));
    agent.signal(Signal::SIGCONT);
    agent.signal(Signal::SIGINT);
    assert_eq!(agent.ended(), 1, "{}", agent.stderr.text());
    let said = agent.stderr.text();
    assert!(said.contains(" not examined as the ring was full; raise --ring-kib"), "{said}");
    assert!(said.contains("nothing of what was examined is shown"), "{said}");
    assert!(!said.contains("no event lost") && !said.contains("all of it was"), "{said}");
}

#[test]
fn a_line_says_how_many_like_it_were_held_back() {
    let (node, netns) = (Node::new(), Netns::new());
    netns.ip("link set lo up\n");
    let port = NEEDLE.to_string();
    let mut agent = trace(&node, &["--port", &port, "--events-per-second", "1"]);
    until("a later line speaks for those before", || {
        netns.inside(|| udp(loopback(1, NEEDLE), 20, 10));
        let lines = agent.stdout.since(0);
        let events: Vec<Value> = lines.iter().filter_map(|line| json(line)).collect();
        events.iter().any(|event| event["suppressed"].as_u64().unwrap() > 0).then_some(())
    });
    agent.signal(Signal::SIGINT);
    assert_eq!(agent.ended(), 0);
    let said = agent.stderr.text();
    assert!(said.contains(" only counted"), "{said}");
    assert!(said.contains("no event lost"), "they are of a kind that was shown: {said}");
}
