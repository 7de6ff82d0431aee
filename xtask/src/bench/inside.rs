//! What happens in the guests: each thing is started, measured and ended, one after another.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::loads::{self, Ends, LOADS, Load, MTU_LOADS};
use super::peer::Connection;
use super::watch::{AGENT, Watcher};
use super::{maps, pods, scrapes};
use crate::page::get;
use crate::run::Run as _;

/// Nanoseconds in which a kind of drop may be described a number of times: what the agent calls a second.
const WINDOW: Duration = Duration::from_nanos(1 << 30);

/// Idle time watched. An idle guest's clock jumps, so it costs little.
const IDLE: Duration = Duration::from_mins(1);

/// Possible processors of a large node.
const LARGE: u64 = 64;

/// Tells the host a figure.
fn figure(name: &str, value: f64) {
    println!("{}", json!({ "figure": name, "value": value }));
}

/// A part of what is measured: its name, whether it is of a node full of pods, and how.
type Part = (&'static str, bool, fn() -> Result<()>);

/// In this order: pods stay once they are there.
pub(super) const PARTS: [Part; 8] = [
    ("programs", false, programs),
    ("starts", false, starts),
    ("node", true, full_node),
    ("drops", true, drops),
    ("mtu", true, mtu),
    ("stalls", true, stalls),
    ("limit", true, at_the_limit),
    ("events", true, events),
];

/// All that one processor can tell, or only some parts of it.
pub(super) fn costs(only: &[String]) -> Result<()> {
    // Counting drops costs dropwatch a module.
    Command::new("modprobe").arg("drop_monitor").run()?;
    loads::lay_out()?;
    let mut pods = Vec::new();
    for (name, with_pods, measure) in PARTS {
        if only.is_empty() || only.iter().any(|part| part == name) {
            if with_pods && pods.is_empty() {
                pods = pods::start()?;
            }
            measure()?;
        }
    }
    Ok(())
}

/// The binary's size, and what the verifier walked through, rung by rung.
fn programs() -> Result<()> {
    figure("binary.size", fs::metadata("/r2c/bin/r2c-agent")?.len() as f64);
    for (probe, rungs) in
        [("drops", &["tp_btf", "raw_tp", "tracepoint"][..]), ("mtu", &["tp_btf", "fentry", "kprobe"])]
    {
        for rung in rungs {
            let agent = Watcher::agent(probe, &["--rung", rung])?;
            figure(&format!("verifier.{probe}.{rung}"), f64::from(maps::verified(agent.pid())?));
            agent.end()?;
        }
    }
    Ok(())
}

/// From exec to all attached, and at rest. Each is started twice: the first time its files come from the host.
fn starts() -> Result<()> {
    type Start = fn() -> Result<Watcher>;
    let start: [(&str, Start); 3] = [
        ("agent", Watcher::whole),
        ("bpftrace", Watcher::bpftrace),
        ("node_exporter", Watcher::node_exporter),
    ];
    for (name, start) in start {
        start()?.end()?;
        let watcher = start()?;
        figure(&format!("start.{name}"), watcher.start as f64);
        watcher.settle()?;
        figure(&format!("resident.{name}"), watcher.resident()? as f64);
        idle(name, &watcher)?;
        if name == "node_exporter" {
            let scraped = scrapes::node_exporter(&watcher)?;
            figure("scrape.node_exporter", scraped.of_ten_thousand());
            figure("scrape.node_exporter.series", scraped.series as f64);
            figure("resident.node_exporter.scraped", watcher.resident()? as f64);
        }
        if name == "agent" {
            figure("ready.agent", watcher.ready as f64);
            figure("resident.agent.growth", scrapes::growth(&watcher)?);
        }
        watcher.end()?;
    }
    Ok(())
}

fn idle(name: &str, watcher: &Watcher) -> Result<()> {
    let (executed, woken) = (watcher.executed()?, watcher.woken()?);
    thread::sleep(IDLE);
    let seconds = IDLE.as_secs_f64();
    figure(&format!("idle.{name}"), (watcher.executed()? - executed) as f64 / seconds);
    figure(&format!("idle.{name}.wakeups"), (watcher.woken()? - woken) as f64 / seconds);
    Ok(())
}

/// With all the pods that a node may have.
fn full_node() -> Result<()> {
    let agent = Watcher::whole()?;
    agent.settle()?;
    ensure!(counter("r2c_pods")? >= f64::from(pods::PODS), "the agent does not know all pods");
    figure("resident.pods", agent.resident()? as f64);
    agent.end()?;
    // The map that is filled is found by its name, so there must be one of it.
    let agent = Watcher::agent("drops", &[])?;
    agent.settle()?;
    let scraped = scrapes::full_agent(&agent)?;
    figure("scrape.agent", scraped.of_ten_thousand());
    figure("scrape.agent.series", scraped.series as f64);
    figure("resident.full", agent.resident()? as f64);
    agent.end()
}

/// One who watches: as in the figures' names, and how it is started.
type Watch = (&'static str, fn() -> Result<Watcher>);

/// Added to each packet by each watcher of drops.
fn drops() -> Result<()> {
    let watchers: [Watch; 4] = [
        ("counters", || Watcher::agent("drops", &["--events-per-second", "0"])),
        ("events", || Watcher::agent("drops", &[])),
        ("bpftrace", Watcher::bpftrace),
        ("dropwatch", Watcher::dropwatch),
    ];
    added(&LOADS, &watchers)
}

/// Added by the probe mtu to each packet, message and segment.
fn mtu() -> Result<()> {
    let watchers: [Watch; 2] = [
        ("mtu_counters", || Watcher::agent("mtu", &["--events-per-second", "0"])),
        ("mtu_events", || Watcher::agent("mtu", &[])),
    ];
    added(&MTU_LOADS, &watchers)
}

fn added(loads: &[Load], watchers: &[Watch]) -> Result<()> {
    let ends = Ends::new()?;
    let mut alone = Vec::new();
    // What one leaves behind for good (a path MTU that was learned) is there for all.
    for load in loads {
        loads::one(&ends, load)?;
    }
    for load in loads {
        loads::one(&ends, load)?;
        alone.push(loads::one(&ends, load)?);
        figure(&format!("{}.alone", load.name), alone[alone.len() - 1]);
    }
    for (name, start) in watchers {
        let watcher = start()?;
        watcher.settle()?;
        for (load, alone) in loads.iter().zip(&alone) {
            // Its row is made, and what may be described of this second is.
            loads::one(&ends, load)?;
            figure(&format!("{}.{name}", load.name), loads::one(&ends, load)? - alone);
        }
        watcher.end()?;
    }
    for (load, before) in loads.iter().zip(&alone) {
        figure(&format!("{}.drift", load.name), loads::one(&ends, load)? - before);
    }
    Ok(())
}

/// What the program at a segment's retransmission executes each time that the segment's timer runs out: until when it has
/// nothing to say, and from then on. Of it alone, as the kernel counts it: timers cannot be asked for.
fn stalls() -> Result<()> {
    /// Doubled each time, from a fifth of a second on, up to two minutes (`TCP_RTO_MAX`). How many run out while bpftool is
    /// read from the host depends on the host.
    const LONGEST: Duration = Duration::from_secs(130);
    const TIMEOUTS: usize = 6;
    const MSS: usize = 1460;
    fs::write("/proc/sys/kernel/bpf_stats_enabled", "1")?;
    let ends = Ends::new()?;
    let agent = Watcher::agent("mtu", &["--events-per-second", "0"])?;
    agent.settle()?;
    let from = SocketAddrV4::new(loads::HOST, loads::FROM);
    let connection = Connection::open(&ends.tun, from, SocketAddrV4::new(loads::PEER, loads::OPEN))?;
    let _ = (connection.send(MSS)?, connection.send(MSS)?);
    let tail = connection.send(100)?;
    // A black hole: of all that was sent the small segment alone arrives.
    ends.tun.send(&connection.report(tail, tail.wrapping_add(100)))?;
    // For that alone the first is sent again at once.
    connection.wait(Duration::ZERO)?;
    let mut executed = Vec::new();
    while executed.len() < TIMEOUTS {
        // bpftool takes its time, in which a timer may run out.
        connection.forget()?;
        let before = maps::ran(agent.pid(), "tcp_retransmit_")?;
        connection.wait(LONGEST)?;
        let after = maps::ran(agent.pid(), "tcp_retransmit_")?;
        executed.push((after.nanoseconds - before.nanoseconds) as f64);
    }
    figure("stalls.last", executed[TIMEOUTS - 1]);
    figure("closed.quiet", closed(agent.pid())?);
    fs::write("/proc/sys/kernel/bpf_stats_enabled", "0")?;
    agent.end()
}

/// What the program at a TCP socket's end executes for each, where no connection is suspected to be stuck.
fn closed(agent: nix::unistd::Pid) -> Result<f64> {
    const PAIRS: u8 = 8;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let to = listener.local_addr()?;
    let before = maps::ran(agent, "beside_tcp_")?;
    for _ in 0..PAIRS {
        let (one, other) = (TcpStream::connect(to)?, listener.accept()?);
        drop(one);
        drop(other);
    }
    let after = maps::ran(agent, "beside_tcp_")?;
    let ended = after.times - before.times;
    ensure!(ended >= u64::from(2 * PAIRS), "{ended} sockets ended");
    Ok((after.nanoseconds - before.nanoseconds) as f64 / ended as f64)
}

/// One drop in a hundred is described: what that adds to each drop, on the packet's own path and all in all.
fn at_the_limit() -> Result<()> {
    const LONG: Duration = Duration::from_nanos(3 << 30);
    let [load, ..] = &LOADS;
    let ends = Ends::new()?;
    let alone = loads::all(&ends, load, LONG)?.each();
    let agent = Watcher::agent("drops", &["--events-per-second", "0"])?;
    agent.settle()?;
    let counted = loads::all(&ends, load, LONG)?.each();
    agent.end()?;
    let budget = (WINDOW.as_nanos() as f64 / counted / 100.).round();
    let agent = Watcher::agent("drops", &["--events-per-second", &budget.to_string()])?;
    let emitted = counter("r2c_events_emitted_total")?;
    // Not until it has answered: a scrape is no part of what is measured.
    agent.settle()?;
    let executed = agent.executed()?;
    let made = loads::all(&ends, load, LONG)?;
    let executed = agent.executed()? - executed;
    let emitted = counter("r2c_events_emitted_total")? - emitted;
    agent.end()?;
    let described = emitted / made.packets as f64;
    let (all, own) = (made.each() - alone, executed as f64 / made.packets as f64);
    figure("limit.counters", counted - alone);
    // There is one processor, so what the agent executed is in the time that the load took. Switching to it and back
    // is nobody's own, and stays with the packet.
    figure("limit.events.path", all - own);
    figure("limit.events", all);
    figure("limit.events.own", own);
    figure("limit.described", described * 100.);
    Ok(())
}

/// Events to JSON lines a second of processor time, when nothing bounds them.
fn events() -> Result<()> {
    let [load, ..] = &LOADS;
    let ends = Ends::new()?;
    let agent = Watcher::agent("drops", &["--events", "all", "--events-per-second", "1000000"])?;
    agent.settle()?;
    let (executed, emitted) = (agent.executed()?, counter("r2c_events_emitted_total")?);
    loads::all(&ends, load, WINDOW)?;
    agent.settle()?;
    let executed = agent.executed()? - executed;
    let emitted = counter("r2c_events_emitted_total")? - emitted;
    agent.end()?;
    figure("events.json", emitted * 1e9 / executed as f64);
    Ok(())
}

/// The sum of a family in the agent's metrics.
fn counter(name: &str) -> Result<f64> {
    let page = get(AGENT, "/metrics")?;
    let rows =
        page.lines().filter(|row| row.strip_prefix(name).is_some_and(|row| row.starts_with(['{', ' '])));
    let values: Result<Vec<f64>, _> =
        rows.map(|row| row.rsplit(' ').next().unwrap_or_default().parse()).collect();
    let values = values.with_context(|| format!("{name} in\n{page}"))?;
    ensure!(!values.is_empty(), "no {name} in\n{page}");
    Ok(values.iter().sum())
}

/// What the kernel holds for the agent: a row a map, and the sums.
pub(super) fn memory() -> Result<()> {
    let possible = fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last: u64 =
        possible.trim().rsplit('-').next().unwrap_or_default().parse().context("possible CPUs")?;
    let agent = Watcher::whole()?;
    let (mut formula, mut bpftool, mut large) = (0, 0, 0);
    for map in maps::maps(agent.pid())? {
        let bytes = map.bytes(last + 1)?;
        println!(
            "{:<16} {:>8} entries {bytes:>12} by formula {:>12} by bpftool",
            map.name, map.max_entries, map.bytes_memlock
        );
        formula += bytes;
        large += map.bytes(LARGE)?;
        bpftool += map.bytes_memlock;
    }
    figure("kernel.formula", formula as f64);
    figure("kernel.bpftool", bpftool as f64);
    figure("kernel.large", large as f64);
    agent.end()
}
