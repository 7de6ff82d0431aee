//! What a scrape costs when the kernel's map of counts is full, and whether a thousand of them leave anything behind.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result};

use super::maps::{self, Map};
use super::pods::PODS;
use super::watch::{AGENT, EXPORTER, Watcher};
use crate::page::get;

/// Scrapes whose cost is averaged.
const COSTED: u64 = 10;

/// Scrapes in which resident memory must not grow.
const MANY: u64 = 1_000;

/// What scrapes of one server cost.
pub(super) struct Scraped {
    pub(super) series: u64,
    /// Instructions of the server a scrape.
    pub(super) each: f64,
}

impl Scraped {
    /// What it would cost if the page had ten thousand series, each as dear as these.
    pub(super) fn of_ten_thousand(&self) -> f64 {
        self.each / self.series as f64 * 10_000.
    }
}

/// Scrapes `address` until it is warm, then [`COSTED`] times.
fn cost(server: &Watcher, address: &str) -> Result<Scraped> {
    let page = get(address, "/metrics")?;
    let series = page.lines().filter(|line| line.contains(' ') && !line.starts_with('#')).count() as u64;
    let before = server.executed()?;
    for _ in 0..COSTED {
        get(address, "/metrics")?;
    }
    server.settle()?;
    let executed = server.executed()? - before;
    Ok(Scraped { series, each: executed as f64 / COSTED as f64 })
}

/// Of an agent whose every row is in use.
pub(super) fn full_agent(agent: &Watcher) -> Result<Scraped> {
    fill(agent)?;
    cost(agent, AGENT)
}

pub(super) fn node_exporter(exporter: &Watcher) -> Result<Scraped> {
    cost(exporter, EXPORTER)
}

/// KiB by which resident memory has grown after [`MANY`] scrapes.
pub(super) fn growth(agent: &Watcher) -> Result<f64> {
    for _ in 0..COSTED {
        get(AGENT, "/metrics")?;
    }
    let before = agent.resident()?;
    for _ in 0..MANY {
        get(AGENT, "/metrics")?;
    }
    Ok(agent.resident()? as f64 - before as f64)
}

/// Fills every row of the counts: all pods, many reasons, all directions. Rows of the kernel's own remain.
fn fill(agent: &Watcher) -> Result<()> {
    /// Reasons that every kernel of ours has names for, from the first that is a drop.
    const REASONS: u64 = 60;
    const FIRST_REASON: u64 = 2;
    const IPV4: u8 = 4;
    let held = maps::maps(agent.pid())?;
    let of = |name: &str| held.iter().find(|map| map.name == name).with_context(|| format!("no map {name}"));
    let counts: &Map = of("COUNTS")?;
    let slots = slots(of("SLOTS_BY_NETNS")?)?;
    let place = place()?;
    let mut words = String::new();
    // One row in sixteen is left to those that are there already: a map that is full refuses the line.
    for row in 0..counts.max_entries - counts.max_entries / 16 {
        let reason = u32::try_from(FIRST_REASON + row % REASONS)?;
        let nth = usize::try_from(row / REASONS)?;
        let direction = u8::try_from(1 + row / REASONS % 3)?;
        let slot = |nth: usize| slots[nth % slots.len()].to_le_bytes();
        let key: Vec<u8> = [
            &place.to_le_bytes()[..],
            &reason.to_le_bytes(),
            &slot(nth),
            &slot(nth + 1 + nth / slots.len()),
            &[direction, IPV4, 0, 0],
        ]
        .concat();
        let value = [&7_u64.to_le_bytes()[..], &700_u64.to_le_bytes(), &[0; 16]].concat();
        writeln!(words, "map update id {} key {} value {}", counts.id, bytes(&key), bytes(&value))?;
    }
    maps::batch(&words)
}

/// Slots that the agent has given to pods.
fn slots(map: &Map) -> Result<Vec<u16>> {
    let slots = maps::values(map)?;
    anyhow::ensure!(slots.len() == usize::from(PODS), "{} of {PODS} pods have a slot", slots.len());
    Ok(slots)
}

/// The low half of an address in a function of the kernel.
fn place() -> Result<u32> {
    let symbols = fs::read_to_string("/proc/kallsyms")?;
    let line = symbols.lines().find(|line| line.ends_with(" ip_rcv")).context("no function ip_rcv")?;
    let address = u64::from_str_radix(line.split(' ').next().unwrap_or_default(), 16)?;
    Ok(u32::try_from(address & u64::from(u32::MAX))? + 1)
}

fn bytes(bytes: &[u8]) -> String {
    bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(" ")
}
