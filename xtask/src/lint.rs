//! `cargo xtask lint`: format, clippy on both targets, the design's rooms, and what may be depended on.

use std::process::Command;

use anyhow::{Result, bail};

use crate::run::Run as _;
use crate::setup::{self, Part};
use crate::tree;

mod rooms;
mod source;

/// Check format, clippy (host and BPF target), the design's rooms and doors, and dependencies
#[derive(clap::Args)]
pub(crate) struct Args {}

type Check = (&'static str, fn() -> Result<()>);

const CHECKS: [Check; 5] = [
    ("rustfmt", format),
    ("rooms and doors", rooms_and_doors),
    ("clippy, host", clippy_host),
    ("clippy, BPF target", clippy_bpf),
    ("licences, bans and sources", deny),
];

pub(crate) fn main(_: &Args) -> Result<u8> {
    lint()?;
    Ok(0)
}

/// Makes every check, also after one has failed; the error names those that did.
pub(crate) fn lint() -> Result<()> {
    setup::need(&[Part::Build, Part::Lint])?;
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
    cargo(&["fmt", "--all", "--check"]).run()
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
    cargo(&["deny", "--log-level", "error", "check", "bans", "licenses", "sources"]).run()
}

fn cargo(args: &[&str]) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.args(args).current_dir(tree::root()).dies_with_us();
    cargo
}
