//! How the selftest's runs look: a line each for a person, one document for a program.

use serde::Serialize;

use super::compare::{Run, Verdict};
use crate::digits::counted;

/// All runs.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) version: &'static str,
    pub(super) kernel: Option<String>,
    pub(super) arch: &'static str,
    /// Hook and rung that counted.
    pub(super) hooks: Vec<Held>,
    pub(super) cpus: Vec<usize>,
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

    #[test]
    fn the_verdict_counts_the_runs_that_are_exact() {
        let report = Report {
            version: "0",
            kernel: None,
            arch: "x86_64",
            hooks: Vec::new(),
            cpus: vec![0, 1],
            drops: 1,
            wanted: 2,
            reasons: true,
            runs: vec![run(100_000_000), run(99_999_999)],
        };
        assert_eq!(report.verdict(), "selftest: 1 of 2 runs exact");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["runs"][1]["verdict"], "mismatch");
        assert_eq!(json["runs"][1]["pods"][0]["counted"], 99_999_999);
    }
}
