//! `cargo xtask build`: the agent with its BPF objects, and the tests that run on a real kernel.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::kernels::Arch;
use crate::run::{Run as _, shown};
use crate::setup::arm64;
use crate::{setup, tree};

/// Build the agent (with its BPF objects) and the tests that run on a real kernel
#[derive(clap::Args)]
pub(crate) struct Args {
    /// With optimisation, as guests and images run it
    #[arg(long)]
    release: bool,
    /// For this architecture; for another one than this machine's, linked statically
    #[arg(long, value_enum, default_value_t = Arch::Amd64)]
    arch: Arch,
}

/// What a build left behind.
pub(crate) struct Built {
    /// The binary `r2c-agent`.
    pub(crate) agent: PathBuf,
    /// The one test binary of the crate `tests`.
    pub(crate) tests: PathBuf,
}

pub(crate) fn main(args: &Args) -> Result<u8> {
    let built = build_for(args.arch, args.release)?;
    println!("{}\n{}", built.agent.display(), built.tests.display());
    Ok(0)
}

/// The agent's executable.
const AGENT: &str = "r2c-agent";

/// The tests' executable, and nothing else.
const TESTS: [&str; 2] = ["--test", "kernel"];

/// `cargo test` for all that has tests. Cargo chooses the features of what is shared for the packages that are named together,
/// development dependencies included: with others named it would compile most of them again.
pub(crate) fn cargo_test() -> Command {
    let mut cargo = Command::new("cargo");
    cargo.arg("test");
    for package in ["agent", "agent-common", "xtask", "tests"] {
        cargo.args(["--package", package]);
    }
    cargo.current_dir(tree::root());
    cargo
}

/// Builds both. `release` is what ships; guests run the same build as the unit tests, so that nothing is built twice (its
/// profile is optimised enough for an emulated CPU).
pub(crate) fn build(release: bool) -> Result<Built> {
    if release {
        return Ok(Built {
            agent: agent(true)?,
            tests: executable(cargo_test().arg("--no-run").args(TESTS), "kernel")?,
        });
    }
    setup::need(&[setup::Part::Build])?;
    // For a test of the agent's, cargo builds the agent as well.
    let mut cargo = cargo_test();
    let mut made = executables(cargo.args(["--no-run", "--test", "objects"]).args(TESTS))?;
    let mut take = |name| made.remove(name).with_context(|| format!("`{}` made no {name}", shown(&cargo)));
    Ok(Built { agent: take(AGENT)?, tests: take("kernel")? })
}

/// As [`build`], for a machine of `arch`.
pub(crate) fn build_for(arch: Arch, release: bool) -> Result<Built> {
    if arch == Arch::Amd64 {
        return build(release);
    }
    setup::need(&[setup::Part::Build, setup::Part::Arm64])?;
    let profile: &[&str] = if release { &["--release"] } else { &[] };
    let agent = [&["build", "--package", "agent", "--bin", AGENT], profile].concat();
    Ok(Built {
        agent: executable(cross()?.args(agent), AGENT)?,
        tests: executable(cross()?.args(["test", "--no-run", "--package", "tests"]).args(TESTS), "kernel")?,
    })
}

/// Cargo of Debian's toolchain, told how to build for arm64. The library for it lies in the cache, so that nothing is
/// written where packages put theirs; what runs here during the build uses the toolchain's own.
fn cross() -> Result<Command> {
    const VARIABLES: &str = "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU";
    let mut cargo = Command::new("rustup");
    cargo.args(["run", arm64::TOOLCHAIN, "cargo"]);
    let flags = format!("-Ctarget-feature=+crt-static\x1f--sysroot={}", arm64::sysroot()?.display());
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags);
    cargo.env(format!("{VARIABLES}_LINKER"), "aarch64-linux-gnu-gcc");
    cargo.env("CARGO_BUILD_TARGET", arm64::TARGET);
    // Another compiler's artifacts: one would push the other's out.
    cargo.env("CARGO_TARGET_DIR", tree::root().join("target/arm64"));
    Ok(cargo)
}

/// Builds the agent alone.
pub(crate) fn agent(release: bool) -> Result<PathBuf> {
    setup::need(&[setup::Part::Build])?;
    let profile: &[&str] = if release { &["--release"] } else { &[] };
    executable(
        Command::new("cargo").args(["build", "--package", "agent", "--bin", AGENT]).args(profile),
        AGENT,
    )
}

/// The one of [`executables`] that has this name.
fn executable(cargo: &mut Command, name: &str) -> Result<PathBuf> {
    let made = executables(cargo)?.remove(name);
    made.with_context(|| format!("`{}` made no {name}", shown(cargo)))
}

/// Runs cargo, its progress and diagnostics on stderr, and gives the executables it made, by the names of their targets.
fn executables(cargo: &mut Command) -> Result<HashMap<String, PathBuf>> {
    cargo.arg("--message-format=json-render-diagnostics");
    cargo.current_dir(tree::root()).stdout(Stdio::piped()).dies_with_us();
    let mut child = cargo.spawn().with_context(|| shown(cargo))?;
    let mut made = HashMap::new();
    for line in BufReader::new(child.stdout.take().context("cargo's output")?).lines() {
        let Ok(message) = serde_json::from_str::<Value>(&line?) else { continue };
        if let (Some(path), Some(name)) = (message["executable"].as_str(), message["target"]["name"].as_str())
        {
            made.insert(name.to_owned(), PathBuf::from(path));
        }
    }
    if !child.wait()?.success() {
        bail!("`{}` failed", shown(cargo));
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::tree;

    /// The stage `unit` and [`super::build`] name each of them.
    #[test]
    fn the_agent_has_one_test_beside_its_unit_tests() {
        let there: Vec<_> = fs::read_dir(tree::root().join("agent/tests")).unwrap().collect();
        let names: Vec<_> = there.into_iter().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["objects.rs"]);
    }
}
