//! `cargo xtask test`: everything CI runs, in stages, with a table of them at the end.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::unistd::Uid;

use crate::build::{self, Built};
use crate::run::{Run as _, shown};
use crate::setup::{self, Part};
use crate::vm::Guest;
use crate::{fuzz, kernels, lint, tree};

mod log;
mod reach;

use log::Log;

/// Run all that CI runs: lint, unit tests, fuzzing, build, and the tests on real kernels; ends with a table
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these stages, and what they need
    #[arg(value_parser = STAGES)]
    stages: Vec<String>,
    /// The stages 5.10, 7.2 and 6.12-arm64 as well, and the table of what was attached and seen on each kernel, in README
    #[arg(long)]
    all: bool,
    /// Arguments of the test binary on real kernels: a filter, `--nocapture`
    #[arg(last = true)]
    tests: Vec<String>,
}

/// `lockdown` is 6.12 with a kernel that lets no program read its memory, `here` this machine's own kernel, with what its
/// rungs allow, `reach` the doctor on each kernel and the table of it in README. From 5.10 on they run only if they are
/// named, or with `--all`.
const STAGES: [&str; 13] = [
    "setup", "lint", "unit", "fuzz", "build", "6.1", "6.12", "lockdown", "here", "5.10", "7.2", "6.12-arm64",
    "reach",
];

/// Seconds for each fuzz target: the committed corpus, and a look around it. `cargo xtask fuzz` looks for longer.
const FUZZ_SECONDS: u64 = 10;

/// What the tests in guests have of this process's environment.
const QUIET_SECONDS: &str = "R2C_QUIET_SECONDS";

/// How the stages went, in the order in which they ended.
#[derive(Default)]
struct Table(Vec<(String, Result<()>, Duration)>);

pub(crate) fn main(args: &Args) -> u8 {
    let reached = |stage: &str| args.all || !kernels::REACHED.contains(&stage) && stage != "reach";
    let unnamed = args.stages.is_empty();
    let chosen =
        |stage: &str| if unnamed { reached(stage) } else { args.stages.iter().any(|name| name == stage) };
    let guests: Vec<&'static str> = GUESTS.into_iter().filter(|guest| chosen(guest)).collect();
    let kernels = !guests.is_empty() || chosen("here") || chosen("reach");
    let mut table = Table::default();

    if table.stage("setup", || set_up(args, &guests, chosen("reach"))).is_some() {
        if chosen("lint") {
            table.stage("lint", lint::lint);
        }
        if chosen("unit") {
            table.stage("unit", unit);
        }
        if chosen("fuzz") {
            table.stage("fuzz", || fuzz::all(FUZZ_SECONDS));
        }
        if chosen("build") || kernels {
            match table.stage("build", || build::build(false)) {
                Some(built) => {
                    on_kernels(&mut table, &guests, chosen("here"), &built, &args.tests);
                    if chosen("reach") {
                        table.stage("reach", || reach::write(&built));
                    }
                }
                None => STAGES[5..]
                    .iter()
                    .filter(|stage| chosen(stage))
                    .for_each(|stage| table.not_run(stage, "build")),
            }
        }
    } else {
        STAGES.iter().skip(1).filter(|stage| chosen(stage)).for_each(|stage| table.not_run(stage, "setup"));
    }
    table.close()
}

/// The stages that boot a guest, quickest first where they are many.
const GUESTS: [&str; 6] = ["6.1", "6.12", "lockdown", "5.10", "7.2", "6.12-arm64"];

fn set_up(args: &Args, guests: &[&'static str], reach: bool) -> Result<()> {
    setup::need(&parts(&args.stages))?;
    if reach {
        setup::need(&[Part::Guests])?;
    }
    let booted = kernels::ALL.iter().filter(|kernel| reach || guests.contains(&kernel.name));
    booted.into_iter().try_for_each(setup::need_kernel)
}

/// The parts of setup that these stages need.
fn parts(stages: &[String]) -> Vec<Part> {
    let any =
        |names: &[&str]| stages.is_empty() || stages.iter().any(|stage| names.contains(&stage.as_str()));
    let mut parts = vec![Part::Build];
    for (part, users) in [
        (Part::Lint, &["lint"][..]),
        (Part::Fuzz, &["lint", "fuzz"]),
        (Part::Guests, &GUESTS),
        (Part::Oracles, &[&["unit"][..], &STAGES[5..]].concat()),
    ] {
        if any(users) || stages.iter().any(|stage| stage == "setup") {
            parts.push(part);
        }
    }
    parts
}

/// All but those that need a kernel of their own.
fn unit() -> Result<()> {
    // In CI a test that finds no promtool fails; ours is unpacked in the cache.
    let path = format!("{}:{}", std::env::var("PATH").unwrap_or_default(), setup::search_path());
    for targets in [&["--lib", "--bins", "--test", "objects"][..], &["--doc"]] {
        build::cargo_test().arg("--quiet").args(targets).env("PATH", &path).dies_with_us().run()?;
    }
    Ok(())
}

/// The guests two by two, as each takes one core; then this machine's kernel, which they would disturb.
fn on_kernels(table: &mut Table, guests: &[&'static str], here: bool, built: &Built, filter: &[String]) {
    let left = Mutex::new(guests.iter());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let in_turn = || {
        let mut ended = Vec::new();
        while let Some(guest) = next() {
            eprintln!("== {guest}");
            ended.push((guest, timed(|| in_guest(guest, built, filter))));
        }
        ended
    };
    let ended = thread::scope(|scope| {
        let two = [scope.spawn(in_turn), scope.spawn(in_turn)];
        two.map(|thread| thread.join().unwrap_or_default())
    });
    for (guest, (result, took)) in ended.into_iter().flatten() {
        table.add(guest, result, took);
    }
    if here {
        table.stage("here", || on_this_kernel(built, filter));
    }
}

fn in_guest(name: &str, built: &Built, filter: &[String]) -> Result<()> {
    let mut guest = Guest::new(if name == "lockdown" { "6.12" } else { name })?;
    // On one of two busy processors they take close to half an hour.
    guest.timeout = guest.timeout.max(Duration::from_mins(50));
    let cross = guest.build_if_foreign()?;
    guest.carry(cross.as_ref().unwrap_or(built));
    // For how long `mtu::quiet` listens to what is no black hole.
    if let Ok(text) = std::env::var(QUIET_SECONDS) {
        let seconds: u32 =
            text.parse().with_context(|| format!("{QUIET_SECONDS}={text}: expected seconds"))?;
        // All ways at once and then each alone, and a guest's clock is slower than ours.
        guest.timeout += 4 * Duration::from_secs(seconds.into());
        guest.env.push((QUIET_SECONDS.to_owned(), text));
    }
    let mut log = Log::new(name)?;
    let mut command = vec!["r2c-tests".to_owned(), "--test-threads=1".to_owned()];
    if name == "lockdown" {
        "lockdown=confidentiality".clone_into(&mut guest.append);
        command.extend(["--ignored", "lockdown"].map(str::to_owned));
    }
    if filter.is_empty() {
        command.extend(left_out(name).iter().flat_map(|test| skip(test)));
    }
    if cross.is_some() {
        // Prometheus and bpftrace are not among the programs unpacked for it, and it is slower by half.
        command.extend(["scrapes", "bpftrace", "many_times"].iter().flat_map(|test| skip(test)));
    }
    command.extend_from_slice(filter);
    let code = guest.run(&command, &mut |line| log.line(line))?;
    log.judge(code == 0, filter)
}

/// What CI leaves out of a guest because no BPF program has a part in it: `here` has all of it, and what only reads and configures
/// the network is in one of the two guests.
fn left_out(guest: &str) -> &'static [&'static str] {
    match guest {
        "6.1" => &["http::", "lines::", "typos::", "usage::", "audit::"],
        "6.12" => &["http::", "lines::", "typos::", "usage::", "path::"],
        _ => &[],
    }
}

/// Arguments that leave a test out.
fn skip(test: &str) -> [String; 2] {
    ["--skip".to_owned(), test.to_owned()]
}

fn on_this_kernel(built: &Built, filter: &[String]) -> Result<()> {
    if !Uid::effective().is_root() {
        bail!("the tests on this machine's kernel need root");
    }
    let mut log = Log::new("here")?;
    let (reader, writer) = std::io::pipe()?;
    let mut tests = Command::new(&built.tests);
    tests.arg("--test-threads=1").args(filter).current_dir(tree::root());
    tests.env("PATH", setup::search_path()).env("R2C_GUEST", "here").env("R2C_AGENT", &built.agent);
    tests.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).dies_with_us();
    let mut child = tests.spawn().with_context(|| shown(&tests))?;
    // It holds both writing ends: with them open here the pipe would never end.
    drop(tests);
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        log.line(&line)?;
        line.clear();
    }
    log.judge(child.wait()?.success(), filter)
}

fn timed<T>(act: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let done = act();
    (done, start.elapsed())
}

impl Table {
    /// Runs a stage and keeps how it went; what it gave if it went well.
    fn stage<T>(&mut self, name: &str, act: impl FnOnce() -> Result<T>) -> Option<T> {
        eprintln!("== {name}");
        let (result, took) = timed(act);
        let (given, result) = match result {
            Ok(given) => (Some(given), Ok(())),
            Err(error) => (None, Err(error)),
        };
        self.add(name, result, took);
        given
    }

    fn add(&mut self, name: &str, result: Result<()>, took: Duration) {
        if let Err(error) = &result {
            eprintln!("== {name} failed: {}", format!("{error:#}").lines().next().unwrap_or_default());
        }
        self.0.push((name.to_owned(), result, took));
    }

    fn not_run(&mut self, name: &str, because: &str) {
        let error = anyhow::anyhow!("not run, {because} failed");
        self.0.push((name.to_owned(), Err(error), Duration::ZERO));
    }

    /// Prints why stages failed, which the others' lines have buried, and the table; gives the exit code.
    fn close(&self) -> u8 {
        println!("\n{}{}", self.reasons(), self.text());
        u8::from(self.0.iter().any(|(_, result, _)| result.is_err()))
    }

    fn reasons(&self) -> String {
        let failed = self.0.iter().filter_map(|(name, result, _)| Some((name, result.as_ref().err()?)));
        failed.map(|(name, error)| format!("== {name} failed: {error:#}\n\n")).collect::<Vec<_>>().concat()
    }

    fn text(&self) -> String {
        let mut text = format!("{:<12}{:>8}  result\n", "stage", "seconds");
        for (name, result, took) in &self.0 {
            let result = match result {
                Ok(()) => "ok".to_owned(),
                Err(error) => format!("FAILED: {}", error.to_string().lines().next().unwrap_or_default()),
            };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{name:<12}{:>8.1}  {result}", took.as_secs_f64());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Table;

    #[test]
    fn a_stage_that_did_not_run_fails_the_run() {
        let mut table = Table::default();
        table.add("build", Ok(()), Duration::from_secs(3));
        assert_eq!(table.close(), 0);
        table.not_run("here", "build");
        assert_eq!(table.close(), 1);
        assert!(
            table.text().contains("here             0.0  FAILED: not run, build failed"),
            "{}",
            table.text()
        );
    }

    /// In CI the end of the output may be all there is.
    #[test]
    fn why_it_failed_stands_before_the_table() {
        let mut table = Table::default();
        table.add("unit", Ok(()), Duration::ZERO);
        table.add("6.1", Err(anyhow::anyhow!("tests failed, see log\nfailures:\nit is 4")), Duration::ZERO);
        assert_eq!(table.reasons(), "== 6.1 failed: tests failed, see log\nfailures:\nit is 4\n\n");
        assert!(table.text().ends_with("6.1              0.0  FAILED: tests failed, see log\n"));
    }
}
