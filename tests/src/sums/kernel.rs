//! What the kernel itself counts of a network namespace: as `nstat` names it, and of each device.

use std::collections::BTreeMap;
use std::fs;

use crate::harness::netns::Netns;

/// Counters by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters(BTreeMap<String, u64>);

impl Counters {
    /// Of this namespace.
    pub(super) fn of(netns: &Netns) -> Self {
        let files = ["snmp", "netstat", "snmp6", "dev"];
        // A file of `/proc/net` is of the thread that reads it.
        let [snmp, netstat, snmp6, dev] = netns.inside(|| {
            files.map(|file| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap())
        });
        let mut counters = Self::default();
        counters.add_tables(&snmp);
        counters.add_tables(&netstat);
        counters.add_columns(&snmp6);
        counters.add_devices(&dev);
        counters
    }

    /// Of several together.
    pub(super) fn sum(all: &[Self]) -> Self {
        let mut sums = Self::default();
        for (name, value) in all.iter().flat_map(|counters| &counters.0) {
            *sums.0.entry(name.clone()).or_default() += value;
        }
        sums
    }

    fn add(&mut self, name: String, value: &str) {
        // Some are no counters and may be negative.
        if let Ok(value) = value.parse::<u64>() {
            *self.0.entry(name).or_default() += value;
        }
    }

    /// `Ip: InReceives ..`, and below it `Ip: 7 ..`.
    fn add_tables(&mut self, text: &str) {
        let rows: Vec<&str> = text.lines().collect();
        for pair in rows.chunks(2) {
            let [(table, names), (_, values)] = [pair[0], pair[1]].map(|row| row.split_once(':').unwrap());
            for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
                self.add(format!("{table}{name}"), value);
            }
        }
    }

    /// `Ip6InReceives 7`.
    fn add_columns(&mut self, text: &str) {
        for row in text.lines() {
            let (name, value) = row.split_once(char::is_whitespace).unwrap();
            self.add(name.to_owned(), value.trim());
        }
    }

    /// `eth0: ..`, eight numbers of what came and eight of what was sent.
    fn add_devices(&mut self, text: &str) {
        for row in text.lines().skip(2) {
            let (device, numbers) = row.split_once(':').unwrap();
            let numbers: Vec<&str> = numbers.split_whitespace().collect();
            for (name, at) in [("rx_dropped", 3), ("tx_errors", 10), ("tx_dropped", 11), ("tx_aborted", 14)] {
                self.add(format!("{} {name}", device.trim()), numbers[at]);
            }
        }
    }

    /// By how much these have grown since `before`, added up. What the kernel has not counted yet has no row.
    pub(super) fn since(&self, before: &Self, names: &[&str]) -> u64 {
        let by = |name: &&str| {
            let [before, now] = [before, self].map(|counters| counters.value(name));
            assert!(now >= before, "{name} was {before} and is {now}: a counter never falls");
            now - before
        };
        names.iter().map(by).sum()
    }

    fn value(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// All that has grown, for a person. What is no counter, as the number of connections, may fall.
    pub(super) fn grown(&self, before: &Self) -> String {
        let grown =
            self.0.iter().filter_map(|(name, now)| Some((name, now.checked_sub(before.value(name))?)));
        let words = grown.filter(|(_, by)| *by > 0).map(|(name, by)| format!("{name} {by}"));
        words.collect::<Vec<_>>().join(", ")
    }
}
