//! What a trace came to: how many events there were, what became of them, and which of them nobody has looked at.

use std::time::Duration;

use crate::digits::counted;
use crate::probe::Level;
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
        if losses.is_empty() { "nothing lost".to_owned() } else { losses.join("; ") }
    }

    /// Why nothing of what was `asked` for was shown, if so. Silence alone would look as if all were well.
    pub(super) fn hint(&self, all: bool, asked: &str, aside: &str) -> Option<String> {
        if self.shown > 0 {
            return None;
        }
        let hint = match (self.produced, self.not_examined()) {
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
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pod::Pod;
    use crate::probe::Ends;

    fn limited(level: Level, reason: &str, pod: Option<&str>, events: u64) -> Limited {
        let pod =
            pod.map(|name| Arc::new(Pod { namespace: "shop".into(), name: name.into(), uid: name.into() }));
        let pods = Ends { source: None, destination: pod };
        Limited { level, reasons: vec![reason.to_owned()], may_be: None, pods, events }
    }

    fn rows() -> Vec<Limited> {
        vec![
            limited(Level::Info, "teardown", Some("web"), 1),
            limited(Level::Warn, "queue", Some("web"), 10),
            limited(Level::Warn, "policy", Some("db"), 100),
            limited(Level::Warn, "policy", Some("web"), 1_000),
        ]
    }

    fn sums(filters_late: bool, lost: u64) -> Sums {
        let filter = Filter {
            level: Level::Warn,
            pod: vec!["web".parse().unwrap()],
            reason: vec!["policy".into()],
            ..Filter::default()
        };
        let account = Account { produced: 2_000, emitted: 7, limited: 1_111 + lost, ..Account::default() };
        Sums::of(&account, 0, &rows(), &filter, filters_late)
    }

    #[test]
    fn what_was_counted_only_is_sorted_by_what_is_known_of_it() {
        let early = sums(false, 0);
        assert_eq!((early.benign, early.filtered, early.only_counted), (0, 111, 1_000));
        assert_eq!(early.harmful_counted(), 1_000);
        assert_eq!(early.not_examined(), 0, "kernel and key have told all that the filter asks for");
        let late = sums(true, 0);
        assert_eq!((late.benign, late.filtered, late.only_counted), (0, 11, 0));
        assert_eq!(late.not_examined(), 1_100, "an address may be in any of them");
        assert_eq!(sums(false, 5).not_examined(), 5, "of what is in no row nothing is known");
    }

    /// A queue that refuses what is too long counts it as its own.
    #[test]
    fn what_may_have_been_what_was_asked_for_is_not_filtered_out() {
        let queue = || limited(Level::Warn, "queue", Some("web"), 10);
        let rows = [Limited { may_be: Some("mtu"), ..queue() }, queue()];
        let filter = Filter { reason: vec!["MTU".into()], ..Filter::default() };
        let account = Account { produced: 20, limited: 20, ..Account::default() };
        let sums = Sums::of(&account, 0, &rows, &filter, false);
        assert_eq!((sums.not_examined(), sums.filtered, sums.harmful_counted()), (10, 10, 0));
    }

    #[test]
    fn what_was_not_examined_is_named_with_what_helps() {
        let took = Duration::from_millis(1_500);
        let lines = sums(true, 0).lines(took, &[], "benign");
        assert_eq!(lines[0], "2000 events in 1.5 s: 7 shown, 11 filtered out, 1100 not examined");
        assert_eq!(lines[1], "1100 not examined: too many of one kind a second; raise --events-per-second");
        // With a budget of none there is no event to be shown.
        let counted = Sums { produced: 9, only_counted: 9, ..Sums::default() };
        assert!(counted.hint(false, "", "benign").unwrap().contains("raise --events-per-second"));
        let silent = Sums { produced: 3, ring_full: 3, ..Sums::default() };
        let mut lines = silent.lines(took, &[], "benign");
        lines.extend(silent.hint(false, "--pod web", "benign"));
        assert!(lines[1].contains("--ring-kib"), "{lines:?}");
        assert!(
            !lines.iter().any(|line| line.contains("benign") || line.contains("nothing lost")),
            "{lines:?}"
        );
    }

    #[test]
    fn all_that_nobody_has_looked_at_is_not_examined() {
        let sums = Sums {
            over_budget: 1,
            no_row: 10,
            ring_full: 100,
            undecoded: 1_000,
            missed: 10_000,
            ..Sums::default()
        };
        assert_eq!((sums.not_examined(), sums.not_looked_at()), (11_111, 11_111));
        let last = Sums { after_last: 5, ..sums };
        assert_eq!((last.not_examined(), last.not_looked_at()), (11_111, 11_116));
    }

    #[test]
    fn silence_says_what_it_means() {
        let hint = |sums: Sums, all| sums.hint(all, "--port 7", "benign").unwrap();
        assert!(hint(Sums::default(), false).contains("doctor"));
        assert!(
            hint(Sums { produced: 1, benign: 1, ..Sums::default() }, false)
                .starts_with("all of it was benign;")
        );
        assert_eq!(
            hint(Sums { produced: 1, filtered: 1, ..Sums::default() }, false),
            "nothing matched --port 7"
        );
        let one = Sums { produced: 1, shown: 1, ..Sums::default() };
        assert_eq!(one.lines(Duration::ZERO, &[], "benign"), ["1 event in 0.0 s: 1 shown", "nothing lost"]);
        assert_eq!(one.hint(false, "", "benign"), None);
    }

    #[test]
    fn its_parts_add_up_to_all_there_was() {
        let first = |sums: &Sums| sums.lines(Duration::ZERO, &[], "benign").remove(0);
        // A reader that stalled took 83 lines; what waited behind them was never shown.
        let mut stalled = Sums { produced: 11_700, shown: 1_550, unwritten: 10_150, ..Sums::default() };
        stalled.take_back(1_467, 11_617);
        assert_eq!(first(&stalled), "11700 events in 0.0 s: 83 shown, 11617 not written");
        let mut headless = Sums { produced: 3, benign: 3, ..Sums::default() };
        headless.take_back(0, 1);
        assert_eq!(
            headless.lines(Duration::ZERO, &[], "benign"),
            ["3 events in 0.0 s: 0 shown, 3 benign", "1 line not written"],
            "a heading on a full disk"
        );
        let mut enough = Sums { produced: 100, shown: 2, benign: 8, only_counted: 50, ..Sums::default() };
        enough.end_at_last();
        assert_eq!(
            first(&enough),
            "100 events in 0.0 s: 2 shown, 8 benign, 50 only counted, 40 after the last one asked for"
        );
    }

    #[test]
    fn each_number_of_the_account_has_its_own_part() {
        let account = Account {
            produced: 1,
            emitted: 2,
            benign: 3,
            filtered: 4,
            merged: 5,
            ring_full: 6,
            undecoded: 7,
            unwritten: 8,
            limited: 9,
            ..Account::default()
        };
        let sums = Sums::of(&account, 10, &[], &Filter::default(), false);
        assert_eq!(
            sums.lines(Duration::from_secs(2), &["5 resets".to_owned()], "benign"),
            [
                "1 event in 2.0 s: 2 shown, 3 benign, 4 filtered out, 5 part of their incidents, 32 not examined, 8 not written",
                "on the whole node:",
                "5 resets",
                "9 not examined as no row was free to count them by; ask for less (--port, --ip, -i); 6 not examined as the ring \
                 was full; raise --ring-kib; 7 not examined as their records were not understood; 10 not examined as the kernel \
                 did not hand them over; 8 not written",
            ]
        );
    }

    #[test]
    fn a_hint_names_what_would_show_more() {
        let unlooked = "nothing of what was examined is shown; what was not may hold what you look for";
        let mixed = "nothing matched --port 7, or all that did was benign: --all shows that, too";
        let none = "nothing matched --port 7";
        let of = |produced| Sums { produced, ..Sums::default() };
        let benign = Sums { benign: 2, ..of(2) };
        let both = Sums { filtered: 1, benign: 2, ..of(3) };
        for (sums, all, wanted) in [
            (Sums { missed: 1, ..of(0) }, false, Some(unlooked)),
            (Sums { ring_full: 3, ..of(3) }, false, Some(unlooked)),
            (Sums { unwritten: 2, ..of(2) }, false, None),
            (benign, false, Some("all of it was benign; --all shows that, too")),
            (benign, true, Some(none)),
            (both, false, Some(mixed)),
            (both, true, Some(none)),
            (Sums { filtered: 1, ..of(1) }, false, Some(none)),
            (Sums { merged: 1, ..of(1) }, false, Some(none)),
            (
                Sums { only_counted: 1, ..both },
                false,
                Some("all that matched was only counted; raise --events-per-second"),
            ),
        ] {
            assert_eq!(sums.hint(all, "--port 7", "benign").as_deref(), wanted, "{sums:?} {all}");
        }
    }
}
