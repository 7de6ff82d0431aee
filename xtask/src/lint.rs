//! `cargo xtask lint`: format, clippy on both targets, the design's rooms, and what may be depended on.

use std::process::Command;

use anyhow::{Result, bail};

use crate::run::Run as _;
use crate::setup::{self, Part};
use crate::{fuzz, tree};

mod rooms;
mod source;

/// Check format, clippy (host and BPF target), the design's rooms and doors, and dependencies
#[derive(clap::Args)]
pub(crate) struct Args {}

/// The workspace of the fuzz targets.
const FUZZ: &str = "tests/fuzz/Cargo.toml";

type Check = (&'static str, fn() -> Result<()>);

const CHECKS: [Check; 6] = [
    ("rustfmt", format),
    ("rooms and doors", rooms_and_doors),
    ("clippy, host", clippy_host),
    ("clippy, fuzz targets", clippy_fuzz),
    ("clippy, BPF target", clippy_bpf),
    ("licences, bans and sources", deny),
];

pub(crate) fn main(_: &Args) -> Result<u8> {
    lint()?;
    Ok(0)
}

/// Makes every check, also after one has failed; the error names those that did.
pub(crate) fn lint() -> Result<()> {
    setup::need(&[Part::Build, Part::Lint, Part::Fuzz])?;
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        eprintln!("xtask lint: {name}");
        if let Err(error) = check() {
            eprintln!("xtask lint: {name}: {error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("lint failed: {}", failed.join("; "));
    }
    Ok(())
}

fn format() -> Result<()> {
    cargo(&["fmt", "--all", "--check"]).run()?;
    cargo(&["fmt", "--check", "--manifest-path", FUZZ]).run()
}

fn rooms_and_doors() -> Result<()> {
    let found = rooms::check(tree::root())?;
    if !found.is_empty() {
        bail!("{} findings\n{}", found.len(), found.join("\n"));
    }
    Ok(())
}

fn clippy_host() -> Result<()> {
    let scope = ["clippy", "--quiet", "--workspace", "--exclude", "agent-ebpf", "--all-targets"];
    cargo(&scope).args(["--", "--deny", "warnings"]).run()
}

/// Not in the workspace, as they are built in another way; see their manifest. What runs during the build is the same as of
/// `cargo xtask fuzz`, and compiled once.
fn clippy_fuzz() -> Result<()> {
    let scope = ["clippy", "--quiet", "--locked", "--manifest-path", FUZZ, "--target-dir", "target/fuzz"];
    cargo(&scope).args(["--release", "--target", &fuzz::host()?]).args(["--", "--deny", "warnings"]).run()
}

/// Debian's compiler has a clippy of its own; a nightly may lack the component, and then the compiler's warnings
/// must do.
fn clippy_bpf() -> Result<()> {
    let toolchain = setup::bpf_toolchain()?;
    let in_toolchain = |args: &[&str]| {
        let mut command = Command::new("rustup");
        command.args(["run", &toolchain, "cargo"]).args(args).current_dir(tree::root()).dies_with_us();
        command
    };
    let verb = if in_toolchain(&["clippy", "--version"]).read().is_ok() { "clippy" } else { "check" };
    eprintln!("xtask lint: with `cargo {verb}` of the toolchain {toolchain}");
    let mut command =
        in_toolchain(&[verb, "--quiet", "--package", "agent-ebpf", "--lib", "--bins", "--release"]);
    command.args(["--target", "bpfel-unknown-none", "-Z", "build-std=core"]);
    command.arg("--target-dir").arg(tree::root().join("target/lint-bpf"));
    let arch = format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH);
    command
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", format!("{arch}\x1f--deny\x1fwarnings"));
    // Set by the cargo that runs xtask, these would bring the wrong compiler in.
    command.env_remove("RUSTC").env_remove("RUSTC_WORKSPACE_WRAPPER").run()
}

/// Advisories are left out: they need the network, and change without a commit.
fn deny() -> Result<()> {
    for manifest in ["Cargo.toml", FUZZ] {
        let place = ["deny", "--log-level", "error", "--config", "deny.toml", "--manifest-path", manifest];
        cargo(&place).args(["check", "bans", "licenses", "sources"]).run()?;
    }
    Ok(())
}

fn cargo(args: &[&str]) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.args(args).current_dir(tree::root()).dies_with_us();
    cargo
}
