//! `cargo xtask mutate ebpf`: the kernel side with one line broken, on a real kernel, and the test that must fail.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::table::{MUTATIONS, Mutation};
use crate::build::{self, Built};
use crate::run::Run as _;
use crate::setup::{self, Part};
use crate::vm::Guest;
use crate::{kernels, tree};

/// Break lines of the kernel side one by one, and see that the test which must notice does
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The kernel of the guests; lines that it does not come by are tried on one that does
    #[arg(short, long, default_value = "6.12")]
    kernel: String,
    /// Only those whose name has this in it
    filter: Option<String>,
}

/// How a guest's tests ended.
#[derive(Debug, PartialEq, Eq)]
struct Ended {
    passed: u64,
    failed: u64,
}

pub(crate) fn main(args: &Args) -> Result<u8> {
    setup::need(&[Part::Build, Part::Guests, Part::Oracles])?;
    let wanted =
        |mutation: &&Mutation| args.filter.as_deref().is_none_or(|part| mutation.name.contains(part));
    let chosen: Vec<&Mutation> = MUTATIONS.iter().filter(wanted).collect();
    if chosen.is_empty() {
        let names: Vec<&str> = MUTATIONS.iter().map(|mutation| mutation.name).collect();
        bail!("no such mutation; there are {}", names.join(", "));
    }
    let kernel_of = |mutation: &Mutation| mutation.kernel.unwrap_or(&args.kernel);
    let mut tests = BTreeMap::<&str, BTreeSet<&str>>::new();
    for mutation in &chosen {
        tests.entry(kernel_of(mutation)).or_default().insert(mutation.test);
    }
    for kernel in tests.keys() {
        setup::need_kernel(kernels::named(kernel)?)?;
    }
    let built = build::build(false)?;
    // A test that fails anyhow notices nothing.
    for (kernel, tests) in &tests {
        let whole = run(kernel, &built.agent, &built, tests)?;
        if whole.failed > 0 || whole.passed < tests.len() as u64 {
            bail!("{kernel}: with no line broken {} of {} tests pass", whole.passed, tests.len());
        }
    }
    let copy = Copy::make()?;
    let mut survivors = Vec::new();
    for mutation in &chosen {
        let agent = copy.build(mutation)?;
        let ended = run(kernel_of(mutation), &agent, &built, &[mutation.test].into())?;
        let survives = ended.failed == 0;
        println!(
            "xtask mutate: {}: {} by {}",
            mutation.name,
            if survives { "NOT NOTICED" } else { "noticed" },
            mutation.test
        );
        if survives {
            survivors.push(mutation.name);
        }
    }
    println!("xtask mutate: {} of {} survive", survivors.len(), chosen.len());
    Ok(u8::from(!survivors.is_empty()))
}

/// These tests in a guest with this agent.
fn run(kernel: &str, agent: &Path, built: &Built, tests: &BTreeSet<&str>) -> Result<Ended> {
    let mut guest = Guest::new(kernel)?;
    guest.timeout = Duration::from_mins(15);
    guest.carry(&Built { agent: agent.to_owned(), tests: built.tests.clone() });
    let mut command = ["r2c-tests", "--test-threads=1", "--exact"].map(str::to_owned).to_vec();
    command.extend(tests.iter().map(|test| (*test).to_owned()));
    let mut ended = None;
    guest.run(&command, &mut |line| {
        let line = String::from_utf8_lossy(line);
        ended = Ended::read(&line).or(ended.take());
        eprint!("[{kernel}] {line}");
        Ok(())
    })?;
    // A guest that died has shown nothing.
    ended.context("the tests did not come to their end")
}

impl Ended {
    /// `test result: FAILED. 3 passed; 1 failed; ...`
    fn read(line: &str) -> Option<Self> {
        let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let mut counts = counts.split("; ").map(|count| count.split(' ').next()?.parse().ok());
        Some(Self { passed: counts.next()??, failed: counts.next()?? })
    }
}

/// The tree again, with a target directory of its own: a line that is broken here is nobody's, however this ends.
struct Copy {
    root: PathBuf,
}

impl Copy {
    fn make() -> Result<Self> {
        let root = tree::root().join("target/mutate/tree");
        match fs::remove_dir_all(&root) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let mut git = Command::new("git");
        git.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(tree::root());
        for file in git.read()?.lines() {
            let (from, to) = (tree::root().join(file), root.join(file));
            // What is deleted and not committed is still listed.
            if !from.is_file() {
                continue;
            }
            fs::create_dir_all(to.parent().context("a file in a directory")?)?;
            fs::copy(&from, &to).with_context(|| file.to_owned())?;
        }
        Ok(Self { root })
    }

    /// The agent with one line broken, which is mended afterwards.
    fn build(&self, mutation: &Mutation) -> Result<PathBuf> {
        let file = self.root.join(mutation.file);
        let whole = fs::read_to_string(&file).with_context(|| mutation.file.to_owned())?;
        fs::write(&file, mutation.apply(&whole)?)?;
        let target = tree::root().join("target/mutate/target");
        let mut cargo = Command::new("cargo");
        cargo
            .args(["build", "--quiet", "--package", "agent", "--bin", "r2c-agent", "--target-dir"])
            .arg(&target);
        let done = cargo.current_dir(&self.root).dies_with_us().run();
        fs::write(&file, whole)?;
        done.with_context(|| format!("{}: it must compile", mutation.name))?;
        Ok(target.join("debug/r2c-agent"))
    }
}

#[cfg(test)]
mod tests {
    use super::Ended;

    #[test]
    fn the_result_of_tests_is_read() {
        let failed = "test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 9 filtered out; finished in 1s\n";
        assert_eq!(Ended::read(failed), Some(Ended { passed: 3, failed: 1 }));
        assert_eq!(Ended::read("test result: ok. 1 passed; 0 failed;"), Some(Ended { passed: 1, failed: 0 }));
        assert_eq!(Ended::read("test mtu::ring::a ... ok"), None);
    }
}
