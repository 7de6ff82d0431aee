//! `cargo xtask build`: the agent with its BPF objects, and the tests that run on a real kernel.

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

/// Builds both. `release` is what ships; guests run the same build as everything else here, so that nothing is built
/// twice (its profile is optimised enough for an emulated CPU).
pub(crate) fn build(release: bool) -> Result<Built> {
    let agent = agent(release)?;
    let tests = executable(Command::new("cargo").args(["test", "--no-run", "--package", "tests", "--lib"]))?;
    Ok(Built { agent, tests })
}

/// As [`build`], for a machine of `arch`.
pub(crate) fn build_for(arch: Arch, release: bool) -> Result<Built> {
    if arch == Arch::Amd64 {
        return build(release);
    }
    setup::need(&[setup::Part::Build, setup::Part::Arm64])?;
    let profile: &[&str] = if release { &["--release"] } else { &[] };
    let agent = [&["build", "--package", "agent", "--bin", "r2c-agent"], profile].concat();
    Ok(Built {
        agent: executable(cross()?.args(agent))?,
        tests: executable(cross()?.args(["test", "--no-run", "--package", "tests", "--lib"]))?,
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
        Command::new("cargo").args(["build", "--package", "agent", "--bin", "r2c-agent"]).args(profile),
    )
}

/// Runs cargo, its progress and diagnostics on stderr, and gives the one executable it made.
fn executable(cargo: &mut Command) -> Result<PathBuf> {
    cargo.arg("--message-format=json-render-diagnostics");
    cargo.current_dir(tree::root()).stdout(Stdio::piped()).dies_with_us();
    let mut child = cargo.spawn().with_context(|| shown(cargo))?;
    let mut made = None;
    for line in BufReader::new(child.stdout.take().context("cargo's output")?).lines() {
        let Ok(message) = serde_json::from_str::<Value>(&line?) else { continue };
        if let Some(path) = message["executable"].as_str() {
            made = Some(PathBuf::from(path));
        }
    }
    if !child.wait()?.success() {
        bail!("`{}` failed", shown(cargo));
    }
    made.with_context(|| format!("`{}` made no executable", shown(cargo)))
}
