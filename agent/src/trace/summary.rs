//! What a trace came to: how many events there were, what became of them, and which of them nobody has looked at.

use std::time::Duration;

use crate::digits::counted;
use crate::probe::Level;
use crate::probe::attach::Lost;
use crate::probe::counts::Limited;
use crate::probe::flow::Account;
use crate::sink::filter::Filter;

/// What became of the events of a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    /// Events of the probe on the whole node.
    produced: u64,
    shown: u64,
    benign: u64,
    filtered: u64,
    /// Told by the row or the verdict of their incident.
    merged: u64,
    /// Wanted, and of a kind that was shown.
    only_counted: u64,
    /// Of these, those that hurt somebody.
    harmful: u64,
    /// It is not known whether they were wanted: the user side looks at each, and there were too many of one kind.
    over_budget: u64,
    /// The same, for no row was free to count them by.
    no_row: u64,
    /// The same, for the ring had no room.
    ring_full: u64,
    /// The same, for the record was not understood.
    undecoded: u64,
    /// The same, for the kernel did not hand them over: these are in no other number.
    missed: u64,
    /// Wanted and not written: the reader of stdout stalls.
    unwritten: u64,
    /// Lines of any kind that were not written.
    lines_lost: u64,
    /// Came after the last one that was asked for (`--max-events`).
    after_last: u64,
    /// What may have missed events that are in no number at all.
    uncounted: Option<&'static str>,
    /// Hooks that would have told more.
    lost: Option<Lost>,
}

impl Sums {
    /// Sorts what was counted only by what is known of it. With `filters_late` that is not enough to tell whether `filter`
    /// wants it.
    pub(super) fn of(
        account: &Account,
        missed: u64,
        limited: &[Limited],
        filter: &Filter,
        filters_late: bool,
    ) -> Self {
        let mut sums = Self {
            produced: account.produced,
            shown: account.emitted,
            benign: account.benign,
            filtered: account.filtered,
            merged: account.merged,
            ring_full: account.ring_full,
            undecoded: account.undecoded,
            missed,
            unwritten: account.unwritten,
            ..Self::default()
        };
        for Limited { level, reasons, may_be, pods, events } in limited {
            let pods = [&pods.source, &pods.destination].into_iter().flatten();
            let is_wanted = filter.wants_reasons(reasons);
            let sum = if !is_wanted && !may_be.is_some_and(|reason| filter.wants_reason(reason))
                || !filters_late && !filter.wants_pods(pods.map(|pod| &**pod))
            {
                &mut sums.filtered
            } else if *level < filter.level {
                &mut sums.benign
            } else if filters_late || !is_wanted {
                &mut sums.over_budget
            } else {
                if *level >= Level::Warn {
                    sums.harmful += events;
                }
                &mut sums.only_counted
            };
            *sum += events;
        }
        // In no row: the map was full, or the pod of the row is gone.
        let in_rows: u64 = limited.iter().map(|limited| limited.events).sum();
        sums.no_row += account.limited.saturating_sub(in_rows);
        sums
    }

    /// There may be more than these numbers hold: `uncounted` says what may have missed it, and `lost` hooks see nothing.
    pub(super) const fn do_not_hold(&mut self, uncounted: Option<&'static str>, lost: Option<Lost>) {
        (self.uncounted, self.lost) = (uncounted, lost);
    }

    /// Hooks that would have told more.
    pub(super) const fn lost_hooks(&self) -> Option<Lost> {
        self.lost
    }

    /// So many lines were not written, of which the writer had taken `taken` as shown.
    pub(super) fn take_back(&mut self, taken: u64, lost: u64) {
        self.lines_lost = lost;
        // Some may have been a heading or a verdict.
        let events = taken.min(self.shown);
        self.shown -= events;
        self.unwritten += events;
    }

    /// What was not carried any more came after the last event that was asked for.
    pub(super) fn end_at_last(&mut self) {
        let known = [
            self.shown, self.benign, self.filtered, self.merged, self.only_counted, self.over_budget,
            self.no_row, self.ring_full, self.undecoded, self.unwritten,
        ];
        self.after_last = self.produced.saturating_sub(known.iter().sum());
    }

    /// Events that nobody has looked at and that may be findings.
    pub(super) const fn not_examined(&self) -> u64 {
        self.over_budget + self.no_row + self.ring_full + self.undecoded + self.missed
    }

    /// The same, with what came after the last event that was asked for.
    pub(super) const fn not_looked_at(&self) -> u64 {
        self.not_examined() + self.after_last
    }

    /// Events that were wanted, hurt somebody, and were counted only.
    pub(super) const fn harmful_counted(&self) -> u64 {
        self.harmful
    }

    /// In lines for a person: the events, `counts` of the whole node, and every loss.
    ///
    /// `aside` is what the events are called that only `--all` shows.
    pub(super) fn lines(&self, took: Duration, counts: &[String], aside: &str) -> Vec<String> {
        let mut parts = vec![format!("{} shown", self.shown)];
        for (events, became) in [
            (self.benign, aside),
            (self.filtered, "filtered out"),
            (self.merged, "part of their incidents"),
            (self.only_counted, "only counted"),
            (self.not_examined(), "not examined"),
            (self.after_last, "after the last one asked for"),
            (self.unwritten, "not written"),
        ] {
            if events > 0 {
                parts.push(format!("{events} {became}"));
            }
        }
        let (events, seconds) = (counted(self.produced, "event"), took.as_secs_f64());
        let mut lines = vec![format!("{events} in {seconds:.1} s: {}", parts.join(", "))];
        if !counts.is_empty() {
            lines.push("on the whole node:".to_owned());
            lines.extend(counts.iter().cloned());
        }
        lines.push(self.losses());
        lines
    }

    fn losses(&self) -> String {
        let mut losses = Vec::new();
        if self.over_budget > 0 {
            losses.push(format!(
                "{} not examined: too many of one kind a second; raise --events-per-second",
                self.over_budget
            ));
        }
        if self.no_row > 0 {
            losses.push(format!(
                "{} not examined as no row was free to count them by; ask for less (--port, --ip, -i)",
                self.no_row
            ));
        }
        if self.ring_full > 0 {
            losses.push(format!("{} not examined as the ring was full; raise --ring-kib", self.ring_full));
        }
        if self.undecoded > 0 {
            losses.push(format!("{} not examined as their records were not understood", self.undecoded));
        }
        if self.missed > 0 {
            losses.push(format!("{} not examined as the kernel did not hand them over", self.missed));
        }
        match (self.unwritten, self.lines_lost) {
            (0, 0) => {}
            // A heading, a verdict, or what stands.
            (0, lines) => losses.push(format!("{} not written", counted(lines, "line"))),
            (events, _) => losses.push(format!("{events} not written")),
        }
        match (losses.is_empty(), self.uncounted) {
            (true, None) => losses.push("no event lost".to_owned()),
            (true, Some(uncounted)) => losses.push(format!("no event lost that is counted: {uncounted}")),
            (false, uncounted) => losses.extend(uncounted.map(str::to_owned)),
        }
        let unseen = |lost: Lost| {
            let look = if lost.refused > 0 { ": `r2c-agent doctor` says what is missing" } else { "" };
            format!("{lost}, so not all is seen{look}")
        };
        losses.extend(self.lost.map(unseen));
        losses.join("; ")
    }

    /// Why nothing of what was `asked` for was shown, if so. Silence alone would look as if all were well.
    pub(super) fn hint(&self, all: bool, asked: &str, aside: &str) -> Option<String> {
        if self.shown > 0 {
            return None;
        }
        let hint = match (self.produced, self.not_examined()) {
            (0, 0) if self.lost.is_some() => "nothing happened that the hooks that hold can see",
            (0, 0) => {
                "nothing happened that it traces; `r2c-agent doctor` shows whether its hooks can fire here"
            }
            (_, 1..) => "nothing of what was examined is shown; what was not may hold what you look for",
            _ if self.unwritten > 0 => return None,
            _ if self.only_counted > 0 => "all that matched was only counted; raise --events-per-second",
            _ if !all && self.benign > 0 && self.filtered == 0 => {
                return Some(format!("all of it was {aside}; --all shows that, too"));
            }
            _ if !all && self.benign > 0 => {
                return Some(format!(
                    "nothing matched {asked}, or all that did was {aside}: --all shows that, too"
                ));
            }
            _ => return Some(format!("nothing matched {asked}")),
        };
        Some(hint.to_owned())
    }
}

#[cfg(test)]
mod tests;
