//! `cargo xtask build`: the agent with its BPF objects, and the tests that run on a real kernel.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::run::{Run as _, shown};
use crate::{setup, tree};

/// Build the agent (with its BPF objects) and the tests that run on a real kernel
#[derive(clap::Args)]
pub(crate) struct Args {
    /// With optimisation, as guests and images run it
    #[arg(long)]
    release: bool,
}

/// What a build left behind.
pub(crate) struct Built {
    /// The binary `r2c-agent`.
    pub(crate) agent: PathBuf,
    /// The one test binary of the crate `tests`.
    pub(crate) tests: PathBuf,
}

pub(crate) fn main(args: &Args) -> Result<u8> {
    let built = build(args.release)?;
    println!("{}\n{}", built.agent.display(), built.tests.display());
    Ok(0)
}

/// Builds both. `release` is what ships; guests run the same build as everything else here, so that nothing is built
/// twice (its profile is optimised enough for an emulated CPU).
pub(crate) fn build(release: bool) -> Result<Built> {
    let agent = agent(release)?;
    let tests = executable(&["test", "--no-run", "--package", "tests", "--lib"])?;
    Ok(Built { agent, tests })
}

/// Builds the agent alone.
pub(crate) fn agent(release: bool) -> Result<PathBuf> {
    setup::need(&[setup::Part::Build])?;
    let profile: &[&str] = if release { &["--release"] } else { &[] };
    executable(&[&["build", "--package", "agent", "--bin", "r2c-agent"], profile].concat())
}

/// Runs cargo, its progress and diagnostics on stderr, and gives the one executable it made.
fn executable(args: &[&str]) -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo.args(args).arg("--message-format=json-render-diagnostics");
    cargo.current_dir(tree::root()).stdout(Stdio::piped()).dies_with_us();
    let mut child = cargo.spawn().with_context(|| shown(&cargo))?;
    let mut made = None;
    for line in BufReader::new(child.stdout.take().context("cargo's output")?).lines() {
        let Ok(message) = serde_json::from_str::<Value>(&line?) else { continue };
        if let Some(path) = message["executable"].as_str() {
            made = Some(PathBuf::from(path));
        }
    }
    if !child.wait()?.success() {
        bail!("`{}` failed", shown(&cargo));
    }
    made.with_context(|| format!("`{}` made no executable", shown(&cargo)))
}
