//! `cargo xtask fuzz`: each reader of foreign bytes against any bytes, from the committed corpus on.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::run::{Run as _, shown};
use crate::setup::{self, Part};
use crate::tree;

mod status;

use status::Status;

/// Run the fuzz targets of tests/fuzz; a finding ends its target, and the whole with exit code 1
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these targets; all of them if none is named
    targets: Vec<String>,
    /// For each target
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// Afterwards, add to the committed corpus what reaches code that it does not
    #[arg(long)]
    keep: bool,
}

/// What the compiler must add for libFuzzer to see where it has been. All of it is in the stable compiler; the
/// sanitizers themselves are not, and safe code has less need of them.
const COVERAGE: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(10);

/// For one input: a hundred times what the slowest takes on a busy machine.
const TIMEOUT_SECONDS: u32 = 10;

pub(crate) fn main(args: &Args) -> Result<u8> {
    let targets = chosen(&args.targets)?;
    let reports = fuzz(&targets, args.seconds)?;
    if args.keep {
        for report in &reports {
            keep(&report.target)?;
        }
    }
    print!("{}", table(&reports));
    Ok(u8::from(reports.iter().any(|report| report.finding.is_some())))
}

/// Every target for so long; a finding is an error.
pub(crate) fn all(seconds: u64) -> Result<()> {
    let reports = fuzz(&chosen(&[])?, seconds)?;
    print!("{}", table(&reports));
    let found: Vec<&str> = reports
        .iter()
        .filter(|report| report.finding.is_some())
        .map(|report| report.target.as_str())
        .collect();
    if !found.is_empty() {
        bail!("findings in {}", found.join(", "));
    }
    Ok(())
}

/// How one target went.
struct Report {
    target: String,
    took: Duration,
    last: Status,
    /// The input that broke a promise.
    finding: Option<PathBuf>,
}

/// The named targets, or all there are.
fn chosen(named: &[String]) -> Result<Vec<String>> {
    let mut there = Vec::new();
    for entry in fs::read_dir(tests().join("fuzz_targets"))? {
        there.extend(entry?.path().file_stem().map(|name| name.to_string_lossy().into_owned()));
    }
    there.sort_unstable();
    if let Some(unknown) = named.iter().find(|name| !there.contains(name)) {
        bail!("no fuzz target {unknown}: there are {}", there.join(", "));
    }
    Ok(if named.is_empty() { there } else { named.to_vec() })
}

/// One after the other: each takes one core.
fn fuzz(targets: &[String], seconds: u64) -> Result<Vec<Report>> {
    setup::need(&[Part::Build, Part::Fuzz])?;
    build(targets)?;
    targets.iter().map(|target| run(target, seconds)).collect()
}

fn build(targets: &[String]) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--locked", "--manifest-path"]).arg(tests().join("Cargo.toml"));
    // With a target named, build scripts are compiled without these flags: nobody would link them to libFuzzer.
    cargo.args(["--target", &host()?, "--target-dir"]).arg(built());
    for target in targets {
        cargo.args(["--bin", target]);
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\x1f"));
    cargo.current_dir(tree::root()).dies_with_us().run()
}

fn run(target: &str, seconds: u64) -> Result<Report> {
    let (found, grown) = (built().join("findings").join(target), grown(target));
    fs::create_dir_all(&found)?;
    fs::create_dir_all(&grown)?;
    let mut fuzzer = Command::new(binary(target)?);
    fuzzer.arg(format!("-max_total_time={seconds}")).arg(format!("-timeout={TIMEOUT_SECONDS}"));
    // The slash makes it a directory. Without these handlers Ctrl-C is the shell's business, as for any other program.
    fuzzer.arg(format!("-artifact_prefix={}/", found.display())).args(["-handle_int=0", "-handle_term=0"]);
    // New inputs go into the first directory; the committed corpus is only read.
    fuzzer.arg(&grown).arg(committed(target));
    fuzzer.current_dir(tree::root()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let start = Instant::now();
    let mut child = fuzzer.dies_with_us().spawn().with_context(|| shown(&fuzzer))?;
    let mut report =
        Report { target: target.to_owned(), took: Duration::ZERO, last: Status::default(), finding: None };
    let mut said = String::new();
    let mut next = PROGRESS;
    for line in BufReader::new(child.stderr.take().context("libFuzzer's output")?).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        if let Some(status) = Status::parse(&line) {
            report.last = status;
        } else if let Some(path) = line.split("Test unit written to ").nth(1) {
            report.finding = Some(path.into());
        } else {
            // Shown only if there is a finding: libFuzzer introduces itself at length.
            let _ = writeln!(said, "{line}");
        }
        if start.elapsed() >= next {
            eprintln!(
                "xtask fuzz: {target}: {:.0} of {seconds} s, {}",
                start.elapsed().as_secs_f64(),
                report.last
            );
            next = start.elapsed() + PROGRESS;
        }
    }
    report.took = start.elapsed();
    let status = child.wait()?;
    match &report.finding {
        Some(input) => eprintln!(
            "{said}xtask fuzz: {target}: FOUND {0}\n  again: {1} {0}\n  kept:  cp {0} {2}",
            input.display(),
            binary(target)?.display(),
            committed(target).display(),
        ),
        None if !status.success() => bail!("{said}`{}` failed: {status}", shown(&fuzzer)),
        None => eprintln!("xtask fuzz: {target}: clean, {}", report.last),
    }
    Ok(report)
}

/// Of what was found since, the few inputs that reach places which the committed ones do not. How often they are
/// reached is left out: it would keep ten times as many.
fn keep(target: &str) -> Result<()> {
    let mut fuzzer = Command::new(binary(target)?);
    fuzzer
        .args(["-set_cover_merge=1", "-use_counters=0", "-verbosity=0"])
        .arg(committed(target))
        .arg(grown(target));
    fuzzer.read().map(drop)
}

fn table(reports: &[Report]) -> String {
    let mut text = format!(
        "{:<10}{:>8}{:>12}{:>9}{:>10}{:>10}{:>8}  result\n",
        "target", "seconds", "runs", "runs/s", "coverage", "features", "corpus"
    );
    for Report { target, took, last, finding } in reports {
        let result =
            finding.as_ref().map_or("clean".to_owned(), |input| format!("FOUND {}", input.display()));
        let seconds = took.as_secs_f64();
        let Status { runs, coverage, features, corpus } = last;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{target:<10}{seconds:>8.0}{runs:>12}{:>9.0}{coverage:>10}{features:>10}{corpus:>8}  {result}",
            *runs as f64 / seconds
        );
    }
    text
}

/// The triple of this machine's compiler.
pub(crate) fn host() -> Result<String> {
    let version = Command::new("rustc").arg("-vV").read()?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

fn tests() -> PathBuf {
    tree::root().join("tests/fuzz")
}

fn built() -> PathBuf {
    tree::root().join("target/fuzz")
}

fn binary(target: &str) -> Result<PathBuf> {
    Ok(built().join(host()?).join("release").join(target))
}

/// The inputs that every run begins with.
fn committed(target: &str) -> PathBuf {
    Path::new("tests/fuzz/corpus").join(target)
}

/// The inputs that runs on this machine have found; kept from run to run.
fn grown(target: &str) -> PathBuf {
    built().join("corpus").join(target)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::fs;

    use super::{chosen, committed, tests};
    use crate::tree;

    /// Names of a lock file's packages, each with its versions.
    fn versions(lock: &str) -> HashMap<String, HashSet<String>> {
        let mut versions: HashMap<_, HashSet<_>> = HashMap::new();
        let value = |line: Option<&str>, key| {
            line.and_then(|line| line.strip_prefix(key)).map(|value| value.trim_matches('"').to_owned())
        };
        for package in lock.split("[[package]]\n").skip(1) {
            let mut lines = package.lines();
            let (name, version) = (value(lines.next(), "name = "), value(lines.next(), "version = "));
            versions.entry(name.unwrap()).or_default().insert(version.unwrap());
        }
        versions
    }

    #[test]
    fn what_is_fuzzed_is_what_ships() {
        let read = |path| versions(&fs::read_to_string(tree::root().join(path)).unwrap());
        let (ours, fuzzed) = (read("Cargo.lock"), read("tests/fuzz/Cargo.lock"));
        for (name, versions) in fuzzed {
            let same = ours.get(&name).is_none_or(|ours| versions.is_subset(ours));
            assert!(
                same,
                "{name} {versions:?}: copy Cargo.lock to tests/fuzz and run `cargo metadata` there for the rest"
            );
        }
    }

    #[test]
    fn every_target_is_built_and_has_a_corpus() {
        let manifest = fs::read_to_string(tests().join("Cargo.toml")).unwrap();
        for target in chosen(&[]).unwrap() {
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target}");
            let inputs = fs::read_dir(tree::root().join(committed(&target))).unwrap();
            assert!(inputs.count() > 0, "{target} has no corpus");
        }
    }

    #[test]
    fn only_targets_that_there_are() {
        let error = chosen(&["http".into(), "htpt".into()]).err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.starts_with("no fuzz target htpt: there are btf, http, ")));
    }
}
