//! The committed figures of a kernel, and what is another than these.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::figures::{self, Figure};
use super::{Figures, report};
use crate::{kernels, tree};

/// One kernel's figures.
pub(super) struct Baseline {
    /// Its series: `6.12`.
    pub(super) kernel: String,
    pub(super) figures: Figures,
}

impl Baseline {
    fn path(kernel: &str) -> PathBuf {
        tree::root().join("xtask/bench").join(format!("{kernel}.json"))
    }

    /// The committed one.
    pub(super) fn read(kernel: &str) -> Result<Self> {
        let path = Self::path(kernel);
        let text = fs::read_to_string(&path)
            .with_context(|| format!("no figures of {kernel} are committed ({})", path.display()))?;
        let figures = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        Ok(Self { kernel: kernel.to_owned(), figures })
    }

    /// Keeps the raw figures of this run beside the build.
    pub(super) fn keep(&self) -> Result<()> {
        let directory = tree::root().join("target/bench");
        fs::create_dir_all(&directory)?;
        self.save(&directory.join(format!("{}.json", self.kernel)))
    }

    /// Makes these figures the committed ones, and the README say so.
    pub(super) fn commit(&self) -> Result<()> {
        let path = Self::path(&self.kernel);
        fs::create_dir_all(path.parent().context("a directory")?)?;
        self.save(&path)?;
        let all: Vec<Self> = kernels::TESTED.iter().filter_map(|kernel| Self::read(kernel).ok()).collect();
        report::write_readme(&report::table(&all))
    }

    fn save(&self, path: &std::path::Path) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.figures)? + "\n";
        fs::write(path, text).with_context(|| path.display().to_string())
    }

    /// What of `measured` is not what this says, a line each.
    pub(super) fn changes(&self, measured: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        for Figure { name, tolerance, .. } in figures::ALL {
            let change = match (self.figures.get(*name), measured.figures.get(*name)) {
                (Some(was), Some(is)) if tolerance.allows(*was, *is) => continue,
                (Some(was), Some(is)) => {
                    let percent = (is - was) / was.abs() * 100.;
                    format!("was {was:.1}, is {is:.1} ({percent:+.1} %, {tolerance} is allowed)")
                }
                (None, Some(is)) => format!("is {is:.1}, and was not measured before"),
                (Some(was), None) => format!("was {was:.1}, and is not measured any more"),
                (None, None) => continue,
            };
            changes.push(format!("{}: {name} {change}", self.kernel));
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::super::Figures;
    use super::Baseline;

    fn of(figures: &[(&str, f64)]) -> Baseline {
        let figures: Figures = figures.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        Baseline { kernel: "6.12".to_owned(), figures }
    }

    #[test]
    fn what_changed_by_more_than_its_tolerance_is_named() {
        let was = of(&[("rule.counters", 300.), ("resident.agent", 10_000.)]);
        assert!(was.changes(&of(&[("rule.counters", 302.), ("resident.agent", 10_200.)])).is_empty());
        let changes = was.changes(&of(&[("rule.counters", 310.), ("resident.agent", 10_200.)]));
        assert_eq!(changes, ["6.12: rule.counters was 300.0, is 310.0 (+3.3 %, 1 % is allowed)"]);
        assert_eq!(was.changes(&of(&[("rule.counters", 300.)])).len(), 1);
    }
}
