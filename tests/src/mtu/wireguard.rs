//! WireGuard over an underlay that takes less: it lets its packets be cut up, so that no message says anything. What does not
//! fit is told as the trace begins, what comes of it when it does.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::agent::{Agent, json as parse};
use crate::harness::lab::{Lab, WEB};

use super::black_hole::Server;
use super::ladder::trace;
use super::underlay::{TIP, Underlay};
use super::{forget, has, pod, v4};

/// What WireGuard adds in IPv4: its header, what proves the packet, UDP, IP.
const ADDS: u32 = 16 + 16 + 8 + 20;
/// What the node's own device takes.
const TAKES: u32 = 1400;

#[test]
fn wireguard_over_a_smaller_underlay() {
    let lab = Lab::lock();
    let Some(underlay) = Underlay::encrypted(&lab, 18, TAKES) else { return };
    forget(&lab);
    let to = v4([10, 99, 18, 2], 7920);
    let mut server = Server::start(underlay.tip(), to.port());
    let mut client = server.connect(&lab, to);
    let mut agent = trace(&lab, &["-o", "json", "-n", "shop", "-i", "tun0"]);
    let named = wait(&agent, &[("finding", json!("overlay_too_large"))]);
    let about = [&named["interface"], &named["interface_kind"], &named["namespace"], &named["fits"]];
    assert_eq!(json!(about), json!(["tun0", "wireguard", "shop", TAKES - ADDS]), "{named:#}");
    let fix = named["fix"].as_str().unwrap();
    assert!(fix.starts_with("ip link set tun0 mtu 1340"), "{fix}");
    agent.signal(Signal::SIGINT);
    assert_eq!(agent.ended(), 0, "{}", agent.stderr.text());

    let mut agent = trace(&lab, &["-o", "json", "-n", "shop"]);
    let begun = Instant::now();
    client.write_all(&[0; 3000]).unwrap();
    let stuck = wait(&agent, &[("finding", json!("black_hole")), ("destination_ip", json!("10.99.18.2"))]);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    let ends = (pod(&stuck, "source_pod"), pod(&stuck, "destination_pod"));
    assert_eq!((ends.0.as_deref(), ends.1.as_deref()), (Some(WEB), Some(TIP)), "{stuck:#}");
    assert_eq!(stuck["confidence"], "high", "{stuck:#}");

    // What it said to do is what helps.
    lab.router.ip("link set tun0 mtu 1340\n");
    server.kept[0].read_exact(&mut [0; 3000]).unwrap();
    agent.signal(Signal::SIGINT);
    assert_eq!(agent.ended(), 0, "{}", agent.stderr.text());
}

/// The first line with these fields.
fn wait(agent: &Agent, fields: &[(&str, Value)]) -> Value {
    let found = agent
        .stdout
        .wait(0, |lines| lines.iter().filter_map(|line| parse(line)).find(|line| has(line, fields)));
    found.unwrap_or_else(|| panic!("none has {fields:?}: {}", agent.stdout.text()))
}
