//! How the doctor's report looks to a person: as wide as the terminal, the last column wrapped.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::hooks::{HookReport, RungReport, RungStatus};
use super::{Check, Report, Status};
use crate::sink::escape;

/// Widths that it is laid out for. Below 60 the last column is unreadable; lines longer than 120 are hard to read.
const LEAST: usize = 60;
const MOST: usize = 120;
/// `CHECK  STATUS  FOUND`
const CHECK: [usize; 2] = [19, 8];
/// `PROBE  RUNG  FIRED  HOOKS`
const HOOKS: [usize; 3] = [5, 10, 5];

/// The whole report on a terminal of `width`. What is the same of many is said once: a kernel without fentry and kprobes is to
/// fit a screen.
pub(super) fn table(report: &Report, width: usize) -> String {
    let mut out = Page { text: String::new(), width: width.clamp(LEAST, MOST) };
    out.row(&CHECK, &["CHECK", "STATUS"], "FOUND");
    for check in held_as_one(&report.checks) {
        out.row(&CHECK, &[check.id, check.status.name()], &check.found);
        if let Some(advice) = &check.advice {
            out.row(&CHECK, &["", ""], &format!("-> {advice}"));
        }
    }
    out.text.push('\n');
    hooks(&mut out, &report.hooks);
    out.text.push('\n');
    out.row(&[], &[], &verdict(report));
    out.text
}

/// What is written so far, and the characters of a line.
struct Page {
    text: String,
    width: usize,
}

/// The checks, with capabilities that are held in one row.
fn held_as_one(checks: &[Check]) -> Vec<Check> {
    let held = |check: &Check| check.status == Status::Ok && check.found.ends_with(" held");
    let names = checks.iter().filter(|check| held(check)).map(|check| check.found.trim_end_matches(" held"));
    let mut all = Some(Check::ok("rights", format!("{} held", names.collect::<Vec<_>>().join(", "))));
    let one = |check: &Check| if held(check) { all.take() } else { Some(check.clone()) };
    checks.iter().filter_map(one).collect()
}

/// Hooks that are alike in all but their names are one row; each reason is told once, below.
fn hooks(out: &mut Page, hooks: &[HookReport]) {
    let mut reasons = Reasons::default();
    let mut rows: Vec<([&str; 3], Vec<&str>, String)> = Vec::new();
    for hook in hooks {
        let taken = hook.rungs.iter().find(|rung| Some(rung.name) == hook.takes);
        let cells = [hook.probe, hook.takes.unwrap_or("NONE"), fired(taken)];
        let beside = beside(hook, &mut reasons);
        match rows.iter_mut().find(|(other, _, same)| *other == cells && *same == beside) {
            Some((_, names, _)) => names.push(hook.hook),
            None => rows.push((cells, vec![hook.hook], beside)),
        }
    }
    out.row(&HOOKS, &["PROBE", "RUNG", "FIRED"], "HOOKS");
    for (cells, names, beside) in rows {
        let names = names.join(", ");
        let text = if beside.is_empty() { names } else { format!("{names} ({beside})") };
        out.row(&HOOKS, &cells, &text);
    }
    for (at, (why, cure)) in reasons.0.iter().enumerate() {
        let number = format!("[{}]", at + 1);
        out.row(&[3], &[&number], why);
        if let Some(cure) = cure {
            out.row(&[3], &[""], &format!("-> {cure}"));
        }
    }
}

/// What was refused and why, numbered from one.
#[derive(Default)]
struct Reasons<'a>(Vec<(&'a str, Option<&'a str>)>);

impl<'a> Reasons<'a> {
    fn number(&mut self, rung: &'a RungReport) -> usize {
        let reason = (rung.why.as_str(), rung.cure.as_deref());
        let known = self.0.iter().position(|other| *other == reason);
        known.unwrap_or_else(|| {
            self.0.push(reason);
            self.0.len() - 1
        }) + 1
    }
}

/// What the hook's rung tells less than the first, and what became of the others.
fn beside<'a>(hook: &'a HookReport, reasons: &mut Reasons<'a>) -> String {
    // Why a module's function cannot be found is no riddle.
    if let Some(module) = hook.module_absent {
        return format!("module {module} is not loaded");
    }
    let (mut parts, mut refused): (Vec<String>, Vec<String>) = <_>::default();
    for rung in &hook.rungs {
        match rung.status {
            RungStatus::Holds if Some(rung.name) != hook.takes => parts.push(format!("{} holds", rung.name)),
            RungStatus::Holds if rung.why.is_empty() => {}
            RungStatus::Holds => parts.push(rung.why.clone()),
            RungStatus::Refused => refused.push(format!("{} [{}]", rung.name, reasons.number(rung))),
        }
    }
    if !refused.is_empty() {
        parts.push(format!("refused: {}", refused.join(", ")));
    }
    parts.join("; ")
}

fn fired(taken: Option<&RungReport>) -> &'static str {
    match taken.and_then(|rung| rung.fired) {
        Some(true) => "yes",
        Some(false) => "NO",
        None => "-",
    }
}

/// The last line: what it all comes to.
fn verdict(report: &Report) -> String {
    let mut taken: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for hook in report.hooks.iter().filter(|hook| hook.module_absent.is_none()) {
        taken.entry((hook.probe, hook.takes.unwrap_or("nothing"))).or_default().push(hook.hook);
    }
    let taken = taken.into_iter().map(|((probe, rung), hooks)| match hooks[..] {
        [hook] => format!("{probe}: {hook} by {rung}"),
        _ => format!("{probe}: {} hooks by {rung}", hooks.len()),
    });
    let count = |status| report.checks.iter().filter(|check| check.status == status).count();
    let silent = report.hooks.iter().filter(|hook| hook.is_silent());
    let silent = silent.map(|hook| format!("; {} of {} IS ATTACHED AND NEVER FIRES", hook.hook, hook.probe));
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

impl Page {
    /// One row: its cells under their headings, its text beside them in as many lines as it takes.
    fn row(&mut self, widths: &[usize], cells: &[&str], text: &str) {
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
            if used > indent && used + length >= self.width {
                let _ = writeln!(self.text, "{}", line.trim_end());
                (line, used) = (" ".repeat(indent), indent);
            }
            if used > indent {
                line.push(' ');
                used += 1;
            }
            line.push_str(word);
            used += length;
        }
        let _ = writeln!(self.text, "{}", line.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rung(name: &'static str, status: RungStatus, why: &str, fired: Option<bool>) -> RungReport {
        RungReport { name, status, why: why.to_owned(), cure: None, fired, refused: None }
    }

    fn hook(probe: &'static str, hook: &'static str, rungs: Vec<RungReport>) -> HookReport {
        let takes = rungs.iter().find(|rung| rung.status == RungStatus::Holds).map(|rung| rung.name);
        HookReport { probe, hook, tells: "what it tells", rungs, takes, module_absent: None }
    }

    fn report(why: &str) -> Report {
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
            hooks: vec![hook(
                "drops",
                "kfree_skb",
                vec![
                    rung("tp_btf", RungStatus::Refused, why, None),
                    rung("raw_tp", RungStatus::Holds, "costs more", Some(false)),
                    rung("tracepoint", RungStatus::Holds, "less", Some(true)),
                ],
            )],
        }
    }

    #[test]
    fn it_fits_the_terminal_and_hostile_text_keeps_to_its_row() {
        let report = report(&"refused\x1b[31m for\nthis ".repeat(20));
        let lines = |width: usize| {
            let text = table(&report, width);
            // A word is not cut.
            for line in text.lines().filter(|line| !line.contains("xxx")) {
                assert!(line.chars().count() <= width.clamp(60, 120), "{line}");
                assert!(!line.chars().any(char::is_control), "{line}");
            }
            text.lines().count()
        };
        assert!(lines(120) < lines(80) && lines(80) < lines(60));
        assert_eq!((lines(40), lines(500)), (lines(60), lines(120)));
        let text = table(&report, 80);
        assert!(text.contains("kernel.drop_reasons  degraded  xxx"), "{text}");
        assert!(
            text.contains("drops  raw_tp      NO     kfree_skb (costs more; tracepoint holds; refused:\n"),
            "{text}"
        );
        assert!(text.contains("\n[1]  refused"), "{text}");
    }

    #[test]
    fn a_word_longer_than_the_column_is_not_cut() {
        let long = "y".repeat(200);
        assert!(table(&report(&format!("a {long} b")), 80).contains(&long));
    }

    #[test]
    fn the_last_line_names_what_is_taken_and_what_is_silent() {
        let text = table(&report("no"), 80);
        let (_, last) = text.rsplit_once("\n\n").unwrap();
        assert_eq!(
            last,
            "doctor: drops: kfree_skb by raw_tp; 0 checks failed, 1 degraded, 0 unknown;\n\
             kfree_skb of drops IS ATTACHED AND NEVER FIRES\n"
        );
    }

    #[test]
    fn a_dozen_hooks_refused_for_one_reason_are_one_row_and_one_reason() {
        const NAMES: [&str; 12] = ["a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9", "b1", "b2", "b3"];
        let refused = |name| {
            let mut fentry = rung("fentry", RungStatus::Refused, "not loaded", None);
            fentry.cure = Some("add it".to_owned());
            hook("mtu", name, vec![fentry, rung("kprobe", RungStatus::Refused, "no kprobes", None)])
        };
        let mut out = Page { text: String::new(), width: 80 };
        hooks(&mut out, &NAMES.map(refused));
        assert_eq!(
            out.text,
            "PROBE  RUNG        FIRED  HOOKS\n\
             mtu    NONE        -      a1, a2, a3, a4, a5, a6, a7, a8, a9, b1, b2, b3\n\
             \x20                         (refused: fentry [1], kprobe [2])\n\
             [1]  not loaded\n\
             \x20    -> add it\n\
             [2]  no kprobes\n"
        );
        // Another probe's, and one with a rung, are told apart.
        let mut others = NAMES.map(refused);
        others[0].probe = "drops";
        others[1].module_absent = Some("nf_conntrack");
        let mut out = Page { text: String::new(), width: 80 };
        hooks(&mut out, &others);
        assert!(out.text.contains("drops  NONE        -      a1 (refused: fentry [1]"), "{}", out.text);
        assert!(out.text.contains("a2 (module nf_conntrack is not loaded)"), "{}", out.text);
    }

    #[test]
    fn capabilities_that_are_held_are_one_row() {
        let checks = [Check::ok("a", "A held"), Check::ok("b", "other"), Check::ok("c", "C held")];
        let rows: Vec<String> = held_as_one(&checks).into_iter().map(|check| check.found).collect();
        assert_eq!(rows, ["A, C held", "other"]);
    }

    #[test]
    fn what_there_is_nothing_to_say_of_has_nothing_beside_it() {
        let best = || rung("tp_btf", RungStatus::Holds, "", Some(true));
        let lower = rung("raw_tp", RungStatus::Refused, "no", None);
        let mut out = Page { text: String::new(), width: 80 };
        hooks(&mut out, &[hook("drops", "a", vec![best()]), hook("drops", "b", vec![best(), lower])]);
        assert_eq!(
            out.text,
            "PROBE  RUNG        FIRED  HOOKS\n\
             drops  tp_btf      yes    a\n\
             drops  tp_btf      yes    b (refused: raw_tp [1])\n\
             [1]  no\n"
        );
    }

    #[test]
    fn a_word_that_does_not_fit_begins_where_its_column_does() {
        let long = "y".repeat(70);
        let mut out = Page { text: String::new(), width: 60 };
        out.row(&[3], &["[1]"], &format!("{long} b"));
        assert_eq!(out.text, format!("[1]  {long}\n     b\n"));
    }
}
