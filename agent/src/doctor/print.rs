//! How the doctor's report looks to a person: 80 columns, the last one wrapped.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::hooks::{RungReport, RungStatus};
use super::{Report, Status};
use crate::sink::escape;

const WIDTH: usize = 80;
/// `CHECK  STATUS  FOUND`
const CHECK: [usize; 2] = [19, 8];
/// `RUNG  STATUS  FIRED  WHY`
const RUNG: [usize; 3] = [10, 7, 5];

/// The whole report.
pub(super) fn table(report: &Report) -> String {
    let mut out = String::new();
    row(&mut out, &CHECK, &["CHECK", "STATUS"], "FOUND");
    for check in &report.checks {
        row(&mut out, &CHECK, &[check.id, check.status.name()], &check.found);
        if let Some(advice) = &check.advice {
            row(&mut out, &CHECK, &["", ""], &format!("-> {advice}"));
        }
    }
    for hook in &report.hooks {
        out.push('\n');
        row(&mut out, &[], &[], &format!("HOOK {} of probe {}: {}", hook.hook, hook.probe, hook.tells));
        row(&mut out, &RUNG, &["RUNG", "STATUS", "FIRED"], "WHY");
        for rung in &hook.rungs {
            let status = match rung.status {
                RungStatus::Refused => "refused",
                RungStatus::Holds if hook.takes == Some(rung.name) => "taken",
                RungStatus::Holds => "holds",
            };
            row(&mut out, &RUNG, &[rung.name, status, fired(rung)], &rung.why);
        }
    }
    let _ = writeln!(out, "\n{}", verdict(report));
    out
}

fn fired(rung: &RungReport) -> &'static str {
    match rung.fired {
        Some(true) => "yes",
        Some(false) => "NO",
        None => "-",
    }
}

/// The last line: what it all comes to.
fn verdict(report: &Report) -> String {
    let mut taken: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for hook in &report.hooks {
        taken.entry((hook.probe, hook.takes.unwrap_or("nothing"))).or_default().push(hook.hook);
    }
    let taken = taken.into_iter().map(|((probe, rung), hooks)| match hooks[..] {
        [hook] => format!("{probe}: {hook} by {rung}"),
        _ => format!("{probe}: {} hooks by {rung}", hooks.len()),
    });
    let count = |status| report.checks.iter().filter(|check| check.status == status).count();
    let silent = report.hooks.iter().filter_map(|hook| {
        let taken = hook.rungs.iter().find(|rung| Some(rung.name) == hook.takes)?;
        (taken.fired == Some(false)).then(|| format!("; {} IS ATTACHED AND NEVER FIRES", hook.hook))
    });
    format!(
        "doctor: {}; {} checks failed, {} degraded, {} unknown{}",
        taken.collect::<Vec<_>>().join(", "),
        count(Status::Failed),
        count(Status::Degraded),
        count(Status::Unknown),
        silent.collect::<String>()
    )
}

impl Status {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Failed => "FAILED",
            Self::Unknown => "unknown",
        }
    }
}

/// One row: its cells under their headings, its text beside them in as many lines as it takes.
fn row(out: &mut String, widths: &[usize], cells: &[&str], text: &str) {
    let mut head = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        let _ = write!(head, "{cell:<width$}  ");
    }
    let indent = head.chars().count();
    let text = escape::text(text);
    let mut line = head;
    let mut used = indent;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let length = word.chars().count();
        if used > indent && used + length >= WIDTH {
            let _ = writeln!(out, "{}", line.trim_end());
            (line, used) = (" ".repeat(indent), indent);
        }
        if used > indent {
            line.push(' ');
            used += 1;
        }
        line.push_str(word);
        used += length;
    }
    let _ = writeln!(out, "{}", line.trim_end());
}

#[cfg(test)]
mod tests {
    use super::super::Check;
    use super::super::hooks::HookReport;
    use super::*;

    fn report(why: &str) -> Report {
        let rung = |name, status, why: &str, fired| RungReport { name, status, why: why.to_owned(), fired };
        Report {
            version: "0",
            kernel: Some("6.1".to_owned()),
            arch: "x86_64",
            checks: vec![
                Check::ok("kernel.release", "6.1"),
                Check::not_ok(
                    "kernel.drop_reasons",
                    Status::Degraded,
                    "x".repeat(48),
                    &"lost: much ".repeat(12),
                ),
            ],
            hooks: vec![HookReport {
                probe: "drops",
                hook: "kfree_skb",
                tells: "every packet the kernel frees as lost",
                rungs: vec![
                    rung("tp_btf", RungStatus::Refused, why, None),
                    rung("raw_tp", RungStatus::Holds, "", Some(false)),
                    rung("tracepoint", RungStatus::Holds, "less", Some(true)),
                ],
                takes: Some("raw_tp"),
            }],
        }
    }

    #[test]
    fn it_fits_80_columns_and_hostile_text_keeps_to_its_row() {
        let text = table(&report(&"refused\x1b[31m for\nthis ".repeat(20)));
        for line in text.lines().filter(|line| !line.starts_with("doctor:")) {
            assert!(line.chars().count() <= WIDTH, "{line}");
            assert!(!line.chars().any(char::is_control), "{line}");
        }
        assert!(text.contains("kernel.drop_reasons  degraded  xxx"), "{text}");
        assert!(text.contains("tracepoint  holds    yes    less\n"), "{text}");
        assert!(text.contains("raw_tp      taken    NO\n"), "{text}");
    }

    #[test]
    fn a_word_longer_than_the_column_is_not_cut() {
        let long = "y".repeat(200);
        assert!(table(&report(&format!("a {long} b"))).contains(&long));
    }

    #[test]
    fn the_last_line_names_what_is_taken_and_what_is_silent() {
        let text = table(&report("no"));
        let last = text.lines().last().unwrap();
        assert_eq!(
            last,
            "doctor: drops: kfree_skb by raw_tp; 0 checks failed, 1 degraded, 0 unknown; kfree_skb IS ATTACHED AND NEVER FIRES"
        );
    }
}
