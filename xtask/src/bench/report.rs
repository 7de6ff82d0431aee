//! The table of figures, for a terminal and for the README.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result};

use super::Figures;
use super::baseline::Baseline;
use super::figures::{ALL, Figure, Target, Unit};
use crate::tree;

/// Between these lines the README holds the table.
const BEGIN: &str = "<!-- written by `cargo xtask bench --write` -->";
const END: &str = "<!-- end of the figures -->";

/// A Markdown table with a column a kernel.
pub(super) fn table(kernels: &[Baseline]) -> String {
    let mut text = "| what | target |".to_owned();
    for Baseline { kernel, .. } in kernels {
        let _ = write!(text, " {kernel} | beside |");
    }
    text.push_str("\n|---|---|");
    text.push_str(&"---|---|".repeat(kernels.len()));
    text.push('\n');
    for figure in ALL {
        let _ = write!(text, "| {} | {} |", figure.what, target(figure));
        for Baseline { figures, .. } in kernels {
            let _ = write!(text, " {} | {} |", measured(figure, figures), other(figure, figures));
        }
        text.push('\n');
    }
    text
}

/// Puts the table where the README has it.
pub(super) fn write_readme(table: &str) -> Result<()> {
    let path = tree::root().join("README.md");
    let text = fs::read_to_string(&path)?;
    fs::write(path, replaced(&text, table).context("the README has no place for the figures")?)?;
    Ok(())
}

fn replaced(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

fn target(figure: &Figure) -> String {
    let unit = figure.unit;
    match figure.target {
        Target::None => String::new(),
        Target::AtMost(0.) => "0".to_owned(),
        Target::AtMost(most) => format!("<= {}", shown(unit, most)),
        Target::AtLeast(least) => format!(">= {}", shown(unit, least)),
        Target::TimesAtMost(times, _, whose) => format!("<= {times} x {whose}"),
        Target::TimesAtLeast(times, _, whose) => format!(">= {times} x {whose}"),
        Target::Near(share, _, whose) => format!("{whose} +- {:.0} %", share * 100.),
    }
}

/// The figure, and in words if it is not what it must be.
fn measured(figure: &Figure, figures: &Figures) -> String {
    let Some(value) = figures.get(figure.name) else { return "not measured".to_owned() };
    let against = |of: &str| figures.get(of).copied().unwrap_or(f64::NAN);
    let (held, ratio) = match figure.target {
        Target::None => (true, None),
        // Nothing, as far as two runs of the same agree.
        Target::AtMost(0.) => (figure.tolerance.allows(0., value.max(0.)), None),
        Target::AtMost(most) => (*value <= most, None),
        Target::AtLeast(least) => (*value >= least, None),
        Target::TimesAtMost(times, of, _) => (value / against(of) <= times, Some(value / against(of))),
        Target::TimesAtLeast(times, of, _) => (value / against(of) >= times, Some(value / against(of))),
        Target::Near(share, of, _) => ((value / against(of) - 1.).abs() <= share, None),
    };
    let ratio = ratio.map_or_else(String::new, |ratio| format!(" ({ratio:.2} x)"));
    let verdict = if held { "" } else { ", **missed**" };
    format!("{}{ratio}{verdict}", shown(figure.unit, *value))
}

/// The peer's figure and how many times ours it is.
fn other(figure: &Figure, figures: &Figures) -> String {
    let Some((name, whose)) = figure.beside else { return String::new() };
    match (figures.get(name), figures.get(figure.name)) {
        (Some(theirs), Some(ours)) => {
            format!("{whose} {} ({:.1} x)", shown(figure.unit, *theirs), theirs / ours)
        }
        _ => String::new(),
    }
}

fn shown(unit: Unit, value: f64) -> String {
    match unit {
        // Minus nothing is nothing.
        Unit::Count | Unit::Kibibytes => format!("{:.0}", value.round() + 0.),
        Unit::Giga => format!("{:.2}", value / 1e9),
        Unit::Milliseconds | Unit::Megabytes => format!("{:.1}", value / 1e6),
        Unit::Mebibytes => format!("{:.1}", value / 1024.),
        Unit::Share => format!("{:.3} %", value / 1e7),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_target_is_said() {
        let figures: Figures = [("rule.counters", 360.), ("rule.dropwatch", 720.)]
            .map(|(name, value)| (name.to_owned(), value))
            .into();
        let text = table(&[Baseline { kernel: "6.12".to_owned(), figures }]);
        assert!(text.contains("| <= 350 | 360, **missed** | dropwatch 720 (2.0 x) |"), "{text}");
    }

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let text = format!("a\n{BEGIN}\nold\n{END}\nb\n");
        assert_eq!(replaced(&text, "new\n").unwrap(), format!("a\n{BEGIN}\nnew\n{END}\nb\n"));
        assert_eq!(replaced("a\nb\n", "new\n"), None);
    }
}
