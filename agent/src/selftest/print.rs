//! How the selftest's runs look: a line each for a person, one document for a program.

use serde::Serialize;

use super::THREADS;
use super::cause::Cause;
use super::compare::{Run, Verdict};
use crate::digits::counted;
use crate::failure::Failure;

/// All runs.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) version: &'static str,
    pub(super) kernel: Option<String>,
    pub(super) arch: &'static str,
    /// Hook and rung that counted.
    pub(super) hooks: Vec<Held>,
    pub(super) cpus: [usize; THREADS],
    pub(super) drops: u64,
    /// Runs asked for.
    pub(super) wanted: u32,
    /// Whether the kernel names the reasons, so that they could be compared, too.
    pub(super) reasons: bool,
    pub(super) runs: Vec<Run>,
}

/// A hook and the rung that held.
#[derive(Debug, Serialize)]
pub(super) struct Held {
    pub(super) hook: &'static str,
    pub(super) rung: &'static str,
}

impl Report {
    /// Runs in which nothing was wrong.
    pub(super) fn exact(&self) -> usize {
        self.runs.iter().filter(|run| run.verdict != Verdict::Mismatch).count()
    }

    /// What is about to be done, and what counts it.
    pub(super) fn announcement(&self) -> String {
        let hooks: Vec<String> =
            self.hooks.iter().map(|held| format!("{} ({})", held.hook, held.rung)).collect();
        let [first, second] = self.cpus;
        let cpus =
            if first == second { format!("CPU {first} alone") } else { format!("CPUs {first} and {second}") };
        format!(
            "{} drops a run, {} causes, 2 pods, from {cpus}; counted by {}",
            self.drops,
            Cause::ALL.len(),
            hooks.join(", ")
        )
    }

    /// What the command ends with.
    pub(super) fn outcome(&self) -> Result<(), Failure> {
        match (self.runs.len(), self.exact()) {
            (done, exact) if exact < done => Err(Failure::runtime(self.verdict())),
            (done, _) if done < self.wanted as usize => {
                Err(Failure::runtime(format!("interrupted after {done} of {} runs", self.wanted)))
            }
            _ => Ok(()),
        }
    }

    /// The last line.
    pub(super) fn verdict(&self) -> String {
        let missed: u64 = self
            .runs
            .iter()
            .filter(|run| run.verdict == Verdict::ExactButMissed)
            .map(|run| run.sent - run.counted)
            .sum();
        let stated = match missed {
            0 => String::new(),
            missed => format!(
                "; {} that the kernel says it did not hand to the probe {} not counted",
                counted(missed, "drop"),
                if missed == 1 { "is" } else { "are" }
            ),
        };
        format!("selftest: {} of {} runs exact{stated}", self.exact(), self.wanted)
    }
}

/// Heading and width of each column of numbers; the last column is what they come to.
const NUMBERS: [(&str, usize); 8] = [
    ("RUN", 4),
    ("SENT", 9),
    ("COUNTED", 9),
    ("MISSED", 6),
    ("EVENTS", 9),
    ("EMITTED", 8),
    ("LIMITED", 9),
    ("RING FULL", 9),
];

/// The heading of the runs.
pub(super) fn heading() -> String {
    line(&NUMBERS.map(|(title, _)| title.to_owned()), "RESULT")
}

/// One run, and where it went wrong.
pub(super) fn lines(run: &Run) -> Vec<String> {
    let result = match run.verdict {
        Verdict::Exact => "exact",
        Verdict::ExactButMissed => "missed",
        Verdict::Mismatch => "MISMATCH",
    };
    let (limited, full) = (run.events.dropped("limited"), run.events.dropped("ring_full"));
    let numbers = [
        u64::from(run.nth),
        run.sent,
        run.counted,
        run.missed,
        run.events.produced,
        run.events.emitted,
        limited,
        full,
    ];
    let mut lines = vec![line(&numbers.map(|number| number.to_string()), result)];
    if run.verdict != Verdict::Exact {
        lines.extend(differences(run));
    }
    lines
}

fn line(numbers: &[String; 8], result: &str) -> String {
    let cells = numbers.iter().zip(NUMBERS).map(|(number, (_, width))| format!("{number:>width$}"));
    format!("{}  {result}", cells.collect::<Vec<_>>().join(" "))
}

fn differences(run: &Run) -> Vec<String> {
    let mut lines = Vec::new();
    let wrong = run.pods.iter().filter(|row| row.sent != row.counted);
    for row in wrong {
        if lines.is_empty() {
            lines.push(format!(
                "     {:<15} {:<11} {:<14} {:>9} {:>9} {:>10}",
                "POD", "END", "REASON", "SENT", "COUNTED", "DIFFERENCE"
            ));
        }
        let pod = format!("{}/{}", row.namespace, row.pod);
        let difference = i128::from(row.counted) - i128::from(row.sent);
        lines.push(format!(
            "     {pod:<15} {:<11} {:<14} {:>9} {:>9} {difference:>+10}",
            row.end, row.reason, row.sent, row.counted
        ));
    }
    let events = &run.events;
    if events.unaccounted != 0 {
        let dropped: u64 = events.dropped.values().sum();
        lines.push(format!(
            "     events: {} produced, but {} emitted and {dropped} dropped by a stage: {} unaccounted for",
            events.produced, events.emitted, events.unaccounted
        ));
    }
    if run.rows + run.uncounted != events.produced {
        lines.push(format!(
            "     counts: {} produced, but {} in rows and {} in none",
            events.produced, run.rows, run.uncounted
        ));
    }
    if run.uncounted != 0 {
        lines.push(format!(
            "     {} of this node found no row in the kernel's map",
            counted(run.uncounted, "drop")
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::compare::{Events, Row};
    use super::*;

    fn run(counted: u64) -> Run {
        let row = |end: &str| Row {
            namespace: "r2c-selftest",
            pod: "a".into(),
            end: end.into(),
            reason: "NO_SOCKET".into(),
            sent: 100_000_000,
            counted,
        };
        let verdict = if counted == 100_000_000 { Verdict::Exact } else { Verdict::Mismatch };
        let events = Events {
            produced: counted,
            emitted: 1,
            dropped: BTreeMap::from([("limited", counted - 1)]),
            unaccounted: 0,
        };
        Run {
            nth: 1000,
            verdict,
            sent: 100_000_000,
            counted,
            missed: 0,
            rows: counted,
            uncounted: 0,
            events,
            seconds: 1.0,
            pods: vec![row("source"), row("destination")],
        }
    }

    #[test]
    fn the_largest_numbers_fit_80_columns_and_stand_under_their_headings() {
        let wrong = lines(&run(99_999_999));
        assert_eq!(wrong.len(), 4, "{wrong:?}");
        for line in wrong.iter().chain(&lines(&run(100_000_000))).chain([&heading()]) {
            assert!(line.chars().count() <= 80, "{line}");
        }
        assert!(wrong[2].ends_with("        -1"), "{wrong:?}");
        assert_eq!(heading().find("RESULT"), wrong[0].find("MISMATCH"));
    }

    fn report(wanted: u32, runs: Vec<Run>) -> Report {
        Report {
            version: "0",
            kernel: None,
            arch: "x86_64",
            hooks: vec![
                Held { hook: "kfree_skb", rung: "tp_btf" },
                Held { hook: "consume_skb", rung: "kprobe" },
            ],
            cpus: [0, 1],
            drops: 1000,
            wanted,
            reasons: true,
            runs,
        }
    }

    #[test]
    fn a_run_is_a_row_and_says_what_is_amiss() {
        assert_eq!(
            [heading(), lines(&run(100_000_000)).join("\n")],
            [
                " RUN      SENT   COUNTED MISSED    EVENTS  EMITTED   LIMITED RING FULL  RESULT",
                "1000 100000000 100000000      0 100000000        1  99999999         0  exact",
            ]
        );
        // Counted where it should be: what is amiss is beside the pods' rows.
        let mut amiss = run(100_000_000);
        amiss.verdict = Verdict::Mismatch;
        (amiss.rows, amiss.uncounted) = (99_999_995, 5);
        assert_eq!(lines(&amiss)[1..], ["     5 drops of this node found no row in the kernel's map"]);
        (amiss.rows, amiss.uncounted, amiss.events.unaccounted) = (100_000_001, 0, 3);
        assert_eq!(
            lines(&amiss)[1..],
            [
                "     events: 100000000 produced, but 1 emitted and 99999999 dropped by a stage: 3 unaccounted for",
                "     counts: 100000000 produced, but 100000001 in rows and 0 in none",
            ]
        );
    }

    #[test]
    fn what_is_done_is_said_before() {
        let mut report = report(1, Vec::new());
        assert_eq!(
            report.announcement(),
            "1000 drops a run, 4 causes, 2 pods, from CPUs 0 and 1; counted by kfree_skb (tp_btf), consume_skb \
             (kprobe)"
        );
        report.cpus = [3, 3];
        assert!(report.announcement().contains(" from CPU 3 alone; "));
    }

    /// A run that the kernel says it missed a part of is as good as exact: the counts are right.
    #[test]
    fn the_command_fails_for_a_wrong_number_and_for_a_run_that_was_not_made() {
        let missed = |counted| Run { verdict: Verdict::ExactButMissed, ..run(counted) };
        let (exact, wrong) = (|| run(100_000_000), || run(99_999_999));
        for (wanted, runs, verdict, outcome) in [
            (1, vec![exact()], "1 of 1 runs exact", None),
            (2, vec![exact(), exact()], "2 of 2 runs exact", None),
            (
                3,
                vec![exact(), missed(99_999_999)],
                "2 of 3 runs exact; 1 drop that the kernel says it did not hand to the probe is not counted",
                Some("interrupted after 2 of 3 runs"),
            ),
            (
                2,
                vec![missed(99_999_999), missed(99_999_998)],
                "2 of 2 runs exact; 3 drops that the kernel says it did not hand to the probe are not counted",
                None,
            ),
            (3, vec![exact(), exact(), wrong()], "2 of 3 runs exact", Some("selftest: 2 of 3 runs exact")),
            (3, vec![wrong()], "0 of 3 runs exact", Some("selftest: 0 of 3 runs exact")),
            (1, Vec::new(), "0 of 1 runs exact", Some("interrupted after 0 of 1 runs")),
        ] {
            let report = report(wanted, runs);
            assert_eq!(report.verdict(), format!("selftest: {verdict}"));
            let failed = report.outcome().err().map(|failure| (failure.code, failure.message));
            assert_eq!(failed, outcome.map(|message| (1, message.to_owned())));
        }
    }

    #[test]
    fn the_verdict_counts_the_runs_that_are_exact() {
        let report = report(2, vec![run(100_000_000), run(99_999_999)]);
        assert_eq!(report.verdict(), "selftest: 1 of 2 runs exact");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["runs"][1]["verdict"], "mismatch");
        assert_eq!(json["runs"][1]["pods"][0]["counted"], 99_999_999);
    }
}
