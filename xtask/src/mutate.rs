//! `cargo xtask mutate`: lines are broken one by one, and a test must notice each.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::run::{Run as _, shown};
use crate::setup::{self, Part};
use crate::tree;

mod ebpf;
mod table;

/// Break lines one by one and see which no test notices: by default in agent and agent-common, by their unit tests
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    side: Option<Side>,
    /// Only these files (globs): a whole run takes a day
    #[arg(long)]
    file: Vec<String>,
    /// Only this part of all, spread over all files: `0/8` to `7/8`. One of a hundred is a sample of an hour
    #[arg(long)]
    shard: Option<String>,
    /// So many at once, each with a tree and a build of its own
    #[arg(long, default_value_t = 1)]
    jobs: u8,
}

#[derive(clap::Subcommand)]
enum Side {
    Ebpf(ebpf::Args),
}

/// The most of what was broken that no test may notice, of a hundred.
const MOST_SURVIVORS: u64 = 10;

pub(crate) fn main(args: &Args) -> Result<u8> {
    match &args.side {
        Some(Side::Ebpf(args)) => ebpf::main(args),
        None => unit(args),
    }
}

/// How a run of cargo-mutants went; what does not compile is in none of these.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    caught: u64,
    /// What hangs is noticed, too.
    timeout: u64,
    missed: u64,
}

impl Counts {
    fn read(report: &str) -> Result<Self> {
        let report: Value = serde_json::from_str(report)?;
        let count = |name: &str| report[name].as_u64().with_context(|| format!("no number {name:?}"));
        Ok(Self { caught: count("caught")?, timeout: count("timeout")?, missed: count("missed")? })
    }

    const fn all(&self) -> u64 {
        self.caught + self.timeout + self.missed
    }

    /// Whether so many survive that the run fails; where nothing was broken nothing was shown.
    const fn is_too_many(&self) -> bool {
        self.all() == 0 || self.missed * 100 > self.all() * MOST_SURVIVORS
    }

    fn text(&self) -> String {
        let share = self.missed as f64 * 100.0 / self.all().max(1) as f64;
        format!(
            "{} of {} survive, {share:.1} % (at most {MOST_SURVIVORS} %): each wants a test, or a reason in {SURVIVORS}",
            self.missed,
            self.all()
        )
    }
}

/// What survives, and why it may.
const SURVIVORS: &str = "xtask/src/mutate/survivors.md";

fn unit(args: &Args) -> Result<u8> {
    setup::need(&[Part::Build, Part::Mutate])?;
    let out = tree::root().join("target/mutate");
    fs::create_dir_all(&out)?;
    // Of a run before: a run that breaks off must not be judged by it.
    let report = out.join("mutants.out/outcomes.json");
    let _ = fs::remove_file(&report);
    let mut cargo = Command::new("cargo");
    cargo.args(["mutants", "--package", "agent", "--package", "agent-common", "--no-shuffle"]);
    cargo.args(["--profile", "mutants"]);
    cargo.arg("--jobs").arg(args.jobs.to_string()).arg("--output").arg(&out);
    for file in &args.file {
        cargo.args(["--file", file]);
    }
    if let Some(shard) = &args.shard {
        cargo.args(["--sharding", "round-robin", "--shard", shard]);
    }
    let status = cargo.current_dir(tree::root()).dies_with_us().status().with_context(|| shown(&cargo))?;
    // 2: something was missed; 3: something hung. All else says that it did not come to an end.
    if !matches!(status.code(), Some(0 | 2 | 3)) {
        bail!("`{}` failed: {status}", shown(&cargo));
    }
    let counts = read(&report)?;
    println!("xtask mutate: {}", counts.text());
    Ok(u8::from(counts.is_too_many()))
}

fn read(report: &Path) -> Result<Counts> {
    let text = fs::read_to_string(report).with_context(|| report.display().to_string())?;
    Counts::read(&text).with_context(|| report.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_ten_may_survive_and_no_more() {
        let of = |caught, missed| Counts { caught, timeout: 0, missed };
        assert!(!of(9, 1).is_too_many() && of(8, 1).is_too_many());
        assert!(!of(5, 0).is_too_many() && of(0, 5).is_too_many());
        assert!(of(0, 0).is_too_many(), "nothing was broken, so nothing was shown");
        assert!(!Counts { timeout: 9, ..of(0, 1) }.is_too_many(), "what hangs is noticed");
    }

    #[test]
    fn a_report_is_read_or_refused() {
        let report = r#"{"caught": 90, "missed": 7, "timeout": 2, "unviable": 30, "outcomes": []}"#;
        assert_eq!(Counts::read(report).unwrap(), Counts { caught: 90, timeout: 2, missed: 7 });
        assert!(Counts::read(report).unwrap().text().starts_with("7 of 99 survive, 7.1 % "));
        assert!(Counts::read(r#"{"caught": 90}"#).is_err());
    }
}
