//! `trace mtu --walk`: a suspect is walked to from its sender, and what that comes to is a line of its incident.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::agent::{Agent, command, without_capabilities};
use crate::harness::lab::{Lab, WEB};
use crate::harness::until;
use crate::stalls::{Muted, full_pipe};

use super::black_hole::{PASSES, Server, swallow, way};
use super::ladder::trace;
use super::{Watch, has, of, v4};

/// A connection of `web` with full segments under way and nothing else: nothing smaller is acknowledged, ever.
fn fill(lab: &Lab, server: &mut Server, to: SocketAddr) -> TcpStream {
    let mut client = server.connect(lab, to);
    client.set_nonblocking(true).unwrap();
    let _ = client.write(&vec![0; 200_000]);
    client
}

/// Waits for the verdict that has these fields.
fn verdict(agent: &Agent, fields: &[(&str, Value)]) -> Value {
    let found = agent
        .stdout
        .wait(0, |lines| lines.iter().filter_map(|line| of(line, true)).find(|line| has(line, fields)));
    found.unwrap_or_else(|| panic!("none has {fields:?}: {}{}", agent.stdout.text(), agent.stderr.text()))
}

/// The summary's line about walks, after Ctrl-C.
fn ended(agent: &mut Agent) -> String {
    agent.signal(Signal::SIGINT);
    assert_eq!(agent.ended(), 0, "{}", agent.stderr.text());
    let said = agent.stderr.text();
    let about = said.lines().find(|line| line.contains(" walk was made") || line.contains("walks were made"));
    about.unwrap_or_else(|| panic!("{said}")).trim_start_matches("r2c-agent: ").to_owned()
}

#[test]
fn a_suspect_is_walked_to_from_its_sender() {
    let lab = Lab::lock();
    let underlay = way(&lab);
    let _swallows = swallow(&underlay.hop);
    let to = v4([10, 99, 8, 3], 7920);
    let watch = Watch::new(&lab);
    let mut server = Server::start(underlay.tip(), to.port());
    let mut agents =
        [&["--walk", "-o", "json"][..], &["--walk"], &["-o", "json"]].map(|args| trace(&lab, args));
    let _client = fill(&lab, &mut server, to);
    let [lines, table, without] = &agents;
    let ours = [("destination_ip", json!("10.99.8.3")), ("destination_port", json!(to.port()))];
    let suspect = verdict(lines, &[&[("finding", json!("suspect"))], &ours[..]].concat());
    let walk = verdict(
        lines,
        &[
            ("trace_id", suspect["trace_id"].clone()),
            ("walk_from", json!(WEB)),
            ("finding", json!("black_hole")),
            ("destination_ip", json!("10.99.8.3")),
            ("hop", json!(2)),
            ("hop_ip", json!("10.99.7.2")),
            ("fits", json!(PASSES)),
            ("size_dies", json!(PASSES + 1)),
            ("tcp", json!("connects")),
            ("level", json!("WARN")),
            ("pod_name", json!("web-0")),
        ],
    );
    assert!(walk["packets"].as_u64().is_some_and(|packets| packets <= 200), "{walk:#}");
    let told = format!("walk from {WEB} to 10.99.8.3 port 7920: packets over {PASSES} vanish after hop 2");
    assert!(walk["message"].as_str().unwrap().starts_with(&told), "{walk:#}");
    let in_table = |lines: &[Vec<u8>]| {
        let text =
            String::from_utf8_lossy(&lines.join(&b'\n')).split_whitespace().collect::<Vec<_>>().join(" ");
        text.contains(&format!("=> {told}")).then_some(())
    };
    assert!(table.stdout.wait(0, in_table).is_some(), "{}", table.stdout.text());
    verdict(without, &[&[("finding", json!("suspect"))], &ours[..]].concat());
    assert!(!without.stdout.text().contains("walk_from"), "nobody asked for packets");
    for agent in &mut agents[..2] {
        assert!(ended(agent).starts_with("1 walk was made"), "{}", agent.stderr.text());
    }
    let refused = watch.counted("r2c_mtu_events_total", &[("event", "refused")]);
    assert_eq!(refused, 0, "a walk that is refused a datagram puts the blame on the pod that it walks from");
    let walks = agents[0].stdout.text().matches("\"walk_from\"").count();
    assert_eq!(walks, 1, "one an incident: {}", agents[0].stdout.text());
}

#[test]
fn ctrl_c_ends_a_walk_and_tells_what_is_known() {
    let lab = Lab::lock();
    let underlay = way(&lab);
    let _swallows = swallow(&underlay.hop);
    let to = v4([10, 99, 8, 6], 7921);
    let mut server = Server::start(underlay.tip(), to.port());
    let mut agent = trace(&lab, &["--walk", "-o", "json", "--timeout", "20s"]);
    let _client = fill(&lab, &mut server, to);
    until("it walks", || agent.threads().iter().any(|thread| thread.trim() == "walk").then_some(()));
    let begun = Instant::now();
    ended(&mut agent);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    let walk = verdict(&agent, &[("walk_from", json!(WEB)), ("destination_ip", json!("10.99.8.6"))]);
    assert!(walk["message"].as_str().unwrap().contains("; it was interrupted"), "{walk:#}");
}

#[test]
fn a_reader_that_stalls_holds_up_no_walk() {
    let lab = Lab::lock();
    let underlay = way(&lab);
    let _swallows = swallow(&underlay.hop);
    let to = v4([10, 99, 8, 9], 7923);
    let mut server = Server::start(underlay.tip(), to.port());
    let [ready, notes] =
        ["ready-walk-stalled", "notes-walk-stalled"].map(|name| lab.node.logs.with_file_name(name));
    let args = ["trace", "mtu", "--walk", "-o", "json", "--duration", "0", "--ready-file"];
    let (_reader, writer) = full_pipe();
    let command = command(&lab.node, &[&args[..], &[ready.to_str().unwrap()]].concat());
    let mut agent = Muted::start(command, writer, fs::File::create(&notes).unwrap());
    let said = || fs::read_to_string(&notes).unwrap();
    until("attached", || fs::exists(&ready).unwrap().then_some(()));
    let _client = fill(&lab, &mut server, to);
    let walks = || agent.threads().iter().any(|thread| thread.trim() == "walk");
    until("it walks", || walks().then_some(()));
    until("it has walked", || (!walks()).then_some(()));
    let (took, code) = agent.end(Signal::SIGINT);
    assert_eq!(code, Some(0), "{}", said());
    assert!(took < Duration::from_secs(7), "{took:?}");
    assert!(
        said().contains("1 walk was made") && said().contains("the reader of stdout stalls"),
        "{}",
        said()
    );
}

/// Without the right to enter a namespace there is no walk, and a line says what it takes.
#[test]
fn a_walk_that_may_not_be_made_is_said() {
    let lab = Lab::lock();
    let underlay = way(&lab);
    let _swallows = swallow(&underlay.hop);
    let to = v4([10, 99, 8, 7], 7922);
    let mut server = Server::start(underlay.tip(), to.port());
    let ready = lab.node.logs.with_file_name("ready-walk-refused");
    let args = ["trace", "mtu", "--walk", "-o", "json", "--duration", "0", "--ready-file"];
    let mut command = command(&lab.node, &[&args[..], &[ready.to_str().unwrap()]].concat());
    // Of linux/capability.h: CAP_SYS_ADMIN.
    without_capabilities(&mut command, 21..22);
    let mut agent = Agent::spawn(&mut command);
    until(&format!("attached; {}", agent.stderr.text()), || fs::exists(&ready).unwrap().then_some(()));
    let _client = fill(&lab, &mut server, to);
    verdict(&agent, &[("finding", json!("suspect")), ("destination_ip", json!("10.99.8.7"))]);
    let lacks = until("it says why", || {
        let said = agent.stderr.text();
        said.lines().find(|line| line.contains("no walk: ")).map(str::to_owned)
    });
    assert!(lacks.contains(WEB) && lacks.contains("CAP_SYS_ADMIN"), "{lacks}");
    agent.signal(Signal::SIGINT);
    assert_eq!(agent.ended(), 0);
    let said = agent.stderr.text();
    assert!(said.contains("no walk was made; 1 could not be made"), "{said}");
}
