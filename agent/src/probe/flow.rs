//! What became of every event: the identity `produced == emitted + sum(dropped{stage})`, as counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use agent_common::Tally;

use super::DecodeError;

/// The user side's half of the identity. One a probe, shared by its pipeline and its metrics.
#[derive(Debug, Default)]
pub struct Flow {
    read: AtomicU64,
    undecoded: AtomicU64,
    emitted: AtomicU64,
    benign: AtomicU64,
    filtered: AtomicU64,
    unwritten: AtomicU64,
    merged: AtomicU64,
}

/// The whole identity at one moment.
///
/// `produced == emitted + benign + filtered + limited + ring_full + undecoded + unwritten + merged + in_ring`, always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Events the kernel side saw and counted.
    pub produced: u64,
    /// Events that reached the sink.
    pub emitted: u64,
    /// Events that hurt nobody, where only those that do are wanted.
    pub benign: u64,
    /// Events the user's filter did not want, on either side.
    pub filtered: u64,
    /// Events counted only: their key's budget of records was used up.
    pub limited: u64,
    /// Events counted only: the ring had no room.
    pub ring_full: u64,
    /// Records that were not the probe's.
    pub undecoded: u64,
    /// Events the sink's stream refused.
    pub unwritten: u64,
    /// Events that are part of an incident's verdict and not a line of their own.
    pub merged: u64,
    /// Records written by the kernel side and not read yet.
    pub in_ring: u64,
}

impl Account {
    /// Events counted but not written, by stage. The stages are a closed set: they are a metric's label.
    #[must_use]
    pub fn dropped(&self) -> [(&'static str, u64); 7] {
        [
            ("limited", self.limited),
            ("ring_full", self.ring_full),
            ("undecoded", self.undecoded),
            ("unwritten", self.unwritten),
            ("benign", self.benign),
            ("filtered", self.filtered),
            ("merged", self.merged),
        ]
    }
}

/// One thing that happens to a record on the user side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It reached the sink.
    Emitted,
    /// It hurts nobody, and only what does is wanted.
    Benign,
    /// The user's filter did not want it.
    Filtered,
    /// It was not a record of this probe.
    Undecoded,
    /// The sink's stream refused it.
    Unwritten,
    /// It is part of its incident's verdict.
    Merged,
}

impl Flow {
    /// A record was taken from the ring.
    pub fn read(&self) {
        self.read.fetch_add(1, Relaxed);
    }

    /// And this is what became of it.
    pub fn ended(&self, fate: Fate) {
        let counter = match fate {
            Fate::Emitted => &self.emitted,
            Fate::Benign => &self.benign,
            Fate::Filtered => &self.filtered,
            Fate::Undecoded => &self.undecoded,
            Fate::Unwritten => &self.unwritten,
            Fate::Merged => &self.merged,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// A record that is no event of the probe's. Only of the first it is said why: a broken build would make each of them one.
    pub fn undecoded(&self, probe: &str, why: DecodeError) {
        if self.undecoded.load(Relaxed) == 0 {
            tracing::warn!("probe {probe} read {why}; all such are counted as undecoded");
        }
        self.ended(Fate::Undecoded);
    }

    /// Both halves together.
    #[must_use]
    pub fn account(&self, tally: Tally) -> Account {
        // Read the user's half after the kernel's was: a record read meanwhile must not make `in_ring` negative.
        let held_back = tally.filtered + tally.limited + tally.ring_full;
        let written = tally.seen.saturating_sub(held_back);
        Account {
            produced: tally.seen,
            emitted: self.emitted.load(Relaxed),
            benign: self.benign.load(Relaxed),
            filtered: tally.filtered + self.filtered.load(Relaxed),
            limited: tally.limited,
            ring_full: tally.ring_full,
            undecoded: self.undecoded.load(Relaxed),
            unwritten: self.unwritten.load(Relaxed),
            merged: self.merged.load(Relaxed),
            in_ring: written.saturating_sub(self.read.load(Relaxed)),
        }
    }
}

/// Reads a probe's tallies, summed over CPUs: one a hook, in the order of its list.
pub type ReadTallies = Arc<dyn Fn() -> Vec<Tally> + Send + Sync>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::said::Said;

    #[test]
    fn a_record_that_is_no_event_is_counted_and_only_the_first_is_told() {
        let (said, _subscribed) = Said::from_now_on();
        let flow = Flow::default();
        for number in [9, 10, 11] {
            flow.read();
            flow.undecoded("mtu", DecodeError::Unknown { what: "kind", number });
        }
        assert_eq!(said.times(), 1);
        let account = flow.account(Tally { seen: 3, ..Tally::default() });
        assert_eq!((account.undecoded, account.in_ring), (3, 0));
    }

    #[test]
    fn the_identity_holds_while_records_are_in_the_ring() {
        let flow = Flow::default();
        let tally = Tally { passed: 7, seen: 120, filtered: 20, limited: 60, ring_full: 30, uncounted: 5 };
        flow.read();
        flow.ended(Fate::Emitted);
        flow.read();
        flow.ended(Fate::Filtered);
        let account = flow.account(tally);
        assert_eq!(account.in_ring, 8);
        assert_eq!(
            account.produced,
            account.emitted + account.filtered + account.limited + account.ring_full + account.in_ring
        );
    }

    /// Each event under one name, and none under another's.
    #[test]
    fn what_was_dropped_is_told_by_stage() {
        let flow = Flow::default();
        let ends = [
            (Fate::Emitted, 1),
            (Fate::Benign, 2),
            (Fate::Filtered, 3),
            (Fate::Undecoded, 4),
            (Fate::Unwritten, 5),
            (Fate::Merged, 6),
        ];
        for (fate, times) in ends {
            for _ in 0..times {
                flow.read();
                flow.ended(fate);
            }
        }
        let tally = Tally { passed: 9, seen: 1000, filtered: 70, limited: 80, ring_full: 90, uncounted: 8 };
        let account = flow.account(tally);
        assert_eq!((account.produced, account.emitted, account.in_ring), (1000, 1, 739));
        assert_eq!(
            account.dropped(),
            [
                ("limited", 80),
                ("ring_full", 90),
                ("undecoded", 4),
                ("unwritten", 5),
                ("benign", 2),
                ("filtered", 73),
                ("merged", 6),
            ]
        );
    }
}
