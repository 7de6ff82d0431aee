//! Every line the agent writes: of the documented schema, one line each, whatever names the node is full of.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::LazyLock;

use boon::{Compiler, SchemaIndex, Schemas};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::agent::{Agent, Running, command};
use crate::harness::lab::Lab;
use crate::harness::netns::Netns;
use crate::harness::packet::udp;
use crate::harness::pod::{Node, Pod};
use crate::harness::{lines_of, tool, until};

static SCHEMA: LazyLock<(Schemas, SchemaIndex)> = LazyLock::new(|| {
    let text = include_str!("../schema/line.schema.json");
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    compiler.add_resource("line.json", serde_json::from_str(text).unwrap()).unwrap();
    let index = compiler.compile("line.json", &mut schemas).unwrap();
    (schemas, index)
});

/// One JSON object of the schema, on one line, with nothing in it that a terminal would obey.
pub(crate) fn assert_valid(line: &[u8]) {
    let text = std::str::from_utf8(line).unwrap_or_else(|_| panic!("not UTF-8: {line:?}"));
    assert!(text.ends_with('\n') && line.len() <= 16_384, "{} bytes: {text}", line.len());
    assert_plain(text);
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let (schemas, index) = &*SCHEMA;
    schemas.validate(&value, *index).unwrap_or_else(|error| panic!("{error}: {text}"));
}

fn assert_plain(text: &str) {
    let control = text.trim_end_matches('\n').chars().find(|char| char.is_control());
    assert!(control.is_none(), "{control:?} in {text:?}");
}

#[test]
fn every_line_of_a_run_is_of_the_schema() {
    let netns = Netns::new();
    netns.ip("link set lo up\n");
    let mut running = Running::start(&Node::new(), &["--events", "all", "--log-level", "trace"]);
    netns.inside(|| udp(SocketAddr::from((Ipv4Addr::LOCALHOST, 9301)), 100, 10));
    assert_eq!(running.terminate().1, 0);
    let agent = &running.agent;
    assert!(lines_of(&agent.stdout, 9301) > 0, "{}", agent.stdout.text());
    assert!(agent.stderr.count() >= 4, "{}", agent.stderr.text());
    for stream in [&agent.stdout, &agent.stderr] {
        stream.since(0).iter().for_each(|line| assert_valid(line));
    }
    let events = agent.stdout.since(0);
    let spans: Vec<Value> = events.iter().map(|line| serde_json::from_slice(line).unwrap()).collect();
    assert!(spans.iter().all(|line: &Value| line["node_name"] == "r2c-test"));
}

#[test]
fn every_line_of_the_day_so_far_is_of_the_schema() {
    let lab = Lab::lock();
    lab.barrier();
    for stream in [&lab.agent.agent.stdout, &lab.agent.agent.stderr] {
        assert!(stream.count() > 0);
        let mut seen: HashMap<String, u32> = HashMap::new();
        for line in stream.since(0) {
            let times = seen.entry(shape(&line)).or_default();
            *times += 1;
            if *times <= 100 {
                assert_valid(&line);
            }
        }
    }
}

/// What the schema looks at, in brief: of a hundred thousand lines of a flood each takes it a millisecond.
fn shape(line: &[u8]) -> String {
    assert_plain(std::str::from_utf8(line).unwrap());
    let value: Value = serde_json::from_slice(line).unwrap();
    let part = |(name, value): (&String, &Value)| match value {
        Value::String(text) if ["class", "event", "finding", "fate", "level"].contains(&name.as_str()) => {
            text.clone()
        }
        Value::Null => String::new(),
        _ => name.clone(),
    };
    value.as_object().unwrap().iter().map(part).collect::<Vec<_>>().join(" ")
}

/// As long as a name may be: a colour, quotes, a line's beginning, and a byte that is no character.
const INTERFACE: &[u8] = b"\x1b[31m\"'\\\xff\xc2\x9b{}";

/// A namespace whose loopback device has that name.
fn hostile() -> Netns {
    let netns = Netns::new();
    let mut ip = tool("ip");
    ip.args(["link", "set", "lo", "name"]).arg(OsStr::from_bytes(INTERFACE));
    netns.enter(&mut ip);
    assert!(ip.status().unwrap().success());
    let mut ip = tool("ip");
    ip.args(["link", "set", "up", "dev"]).arg(OsStr::from_bytes(INTERFACE));
    netns.enter(&mut ip);
    assert!(ip.status().unwrap().success());
    netns
}

#[test]
fn an_interface_named_to_forge_a_line() {
    let netns = hostile();
    let mut running = Running::start(&Node::new(), &["--events", "all"]);
    netns.inside(|| udp(SocketAddr::from((Ipv4Addr::LOCALHOST, 9302)), 3, 10));
    running.terminate();
    let lines = running.agent.stdout.since(0);
    for line in &lines {
        assert_valid(line);
    }
    let lines = lines.iter().map(|line| serde_json::from_slice::<Value>(line).unwrap());
    let ours: Vec<Value> = lines.filter(|line| line["destination_port"] == 9302).collect();
    assert_eq!(ours.len(), 3);
    let name = String::from_utf8_lossy(INTERFACE);
    assert!(ours.iter().all(|line| line["interface"] == *name), "{:#}", ours[0]);
    assert!(!running.agent.stderr.text().contains('\x1b'));
}

#[test]
fn a_table_of_such_names() {
    let netns = hostile();
    for output in ["table", "wide"] {
        let node = Node::new();
        let ready = node.logs.with_file_name("ready");
        let args =
            ["trace", "drops", "--all", "--duration", "0", "--port", "9303", "-o", output, "--ready-file"];
        let mut agent = Agent::spawn(&mut command(&node, &[&args[..], &[ready.to_str().unwrap()]].concat()));
        until("attached", || fs::exists(&ready).unwrap().then_some(()));
        netns.inside(|| udp(SocketAddr::from((Ipv4Addr::LOCALHOST, 9303)), 3, 10));
        // A heading and a row each.
        agent.stdout.wait(0, |lines| (lines.len() >= 4).then_some(()));
        agent.signal(Signal::SIGINT);
        assert_eq!(agent.ended(), 0, "{}", agent.stderr.text());
        let table = agent.stdout.text();
        assert_eq!(table.lines().count(), 4, "{table}");
        table.lines().for_each(assert_plain);
        agent.stderr.text().lines().for_each(assert_plain);
    }
}

#[test]
fn a_log_directory_full_of_nonsense() {
    let node = Node::new();
    let netns = Netns::new();
    netns.ip("link set lo up\n");
    let pod = Pod::start(&node, "shop/real-0", &netns);
    let uid = "00000000-0000-4000-8000-000000000000";
    for name in [
        b"x\n{\"level\":\"ERROR\"}_y_".as_slice(),
        b"\x1b[2Jshop_web_",
        b"shop_\xff\xfe_",
        b"shop_\"quoted\"_",
        b"..._",
        b"_",
    ] {
        let name = [name, uid.as_bytes()].concat();
        fs::create_dir(node.logs.join(OsStr::from_bytes(&name))).unwrap();
    }
    fs::write(node.logs.join("shop_file_00000000-0000-4000-8000-000000000001"), "not a directory").unwrap();
    let mut running = Running::start(&node, &["--events", "all"]);
    netns.inside(|| udp(SocketAddr::from((Ipv4Addr::LOCALHOST, 9304)), 3, 10));
    assert_eq!(running.scrape().sum("r2c_pods", &[]), 1);
    assert_eq!(running.terminate().1, 0);
    for stream in [&running.agent.stdout, &running.agent.stderr] {
        stream.since(0).iter().for_each(|line| assert_valid(line));
    }
    let lines = running.agent.stdout.since(0);
    let ours = lines.iter().map(|line| serde_json::from_slice::<Value>(line).unwrap());
    let ours: Vec<Value> = ours.filter(|line| line["destination_port"] == 9304).collect();
    assert_eq!(ours.len(), 3);
    assert!(
        ours.iter().all(|line| line["pod_name"] == "real-0" && line["namespace"] == "shop"),
        "{:#}",
        ours[0]
    );
    pod.stop();
}
