//! `cargo xtask setup`: installs what is below rustup, on Debian; elsewhere says exactly what is missing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use std::{env, fs};

use anyhow::{Context as _, Result, bail};
use nix::unistd::Uid;

use crate::run::Run as _;
use crate::{kernels, tree};

mod items;

use items::{Install, Item};

/// Install what the other verbs need below rustup: on Debian, as root; does nothing where all is there
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these parts; all of them if none is named
    parts: Vec<Part>,
}

/// What one kind of work needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Part {
    /// The BPF toolchain, to build the agent
    Build,
    /// QEMU and kernels, to boot guests
    Guests,
    /// What the demo makes its node with
    Demo,
    /// What the tests compare the agent with and make traffic with
    Oracles,
    /// What the benchmark compares the agent with
    Bench,
    /// Linters beyond rustup's
    Lint,
    /// The compiler of libFuzzer
    Fuzz,
}

const ALL: [Part; 7] =
    [Part::Build, Part::Guests, Part::Demo, Part::Oracles, Part::Bench, Part::Lint, Part::Fuzz];

pub(crate) fn main(args: &Args) -> Result<u8> {
    let parts = if args.parts.is_empty() { &ALL[..] } else { &args.parts };
    need(parts)?;
    println!(
        "xtask setup: {} there",
        list(parts.iter().map(|part| format!("{part:?}").to_lowercase()), "is", "are")
    );
    Ok(0)
}

/// Makes sure that these parts are here: installs what is missing, or names it and fails.
pub(crate) fn need(parts: &[Part]) -> Result<()> {
    let mut missing = Vec::new();
    for part in parts {
        missing.extend(items::of(*part)?.into_iter().filter(|item| !item.present));
    }
    if missing.is_empty() {
        return Ok(());
    }
    let what = missing.iter().fold(String::new(), |what, item| what + "\n  " + &item.to_string());
    if !is_debian() {
        bail!("this is not a Debian with apt-get, so nothing was installed; missing:{what}");
    }
    if !Uid::effective().is_root() {
        bail!("root is needed to install what is missing (`cargo xtask setup`):{what}");
    }
    eprintln!("xtask setup: installs{what}");
    install(&missing)?;
    verify(parts)
}

/// The toolchain that builds for the BPF target, which [`need`]`(&[Part::Build])` makes sure of.
pub(crate) fn bpf_toolchain() -> Result<String> {
    items::bpf_toolchain().context("no toolchain for the BPF target: run `cargo xtask setup build`")
}

fn install(missing: &[Item]) -> Result<()> {
    step("apt-get update", || apt().arg("update").read().map(drop))?;
    let packages: Vec<&str> = missing.iter().flat_map(|item| item.packages).copied().collect();
    if !packages.is_empty() {
        step(&format!("apt-get install {}", packages.join(" ")), || {
            apt().args(["install", "--yes", "--no-install-recommends"]).args(&packages).read().map(drop)
        })?;
    }
    for item in missing {
        match item.install {
            Install::Packages => {}
            Install::Link => step("rustup toolchain link", link_toolchain)?,
            Install::Linker => step("bpf-linker, from source (1 to 3 minutes)", install_linker)?,
            Install::Deny => step("cargo-deny, from source (3 to 5 minutes)", install_deny)?,
            Install::Kernel(series) => step(&format!("kernel {series}"), || kernels::fetch(series))?,
            Install::Unpack(package) => step(&format!("unpacking {package}"), || unpack(package))?,
        }
    }
    Ok(())
}

/// What was installed must be found: a package that no longer has the program would else surface much later.
fn verify(parts: &[Part]) -> Result<()> {
    for part in parts {
        if let Some(item) = items::of(*part)?.iter().find(|item| !item.present) {
            bail!("installed, but still not found: {item}");
        }
    }
    Ok(())
}

fn step(what: &str, act: impl FnOnce() -> Result<()>) -> Result<()> {
    eprint!("xtask setup: {what} ... ");
    let start = Instant::now();
    let done = act();
    eprintln!("{} in {:.0} s", if done.is_ok() { "done" } else { "failed" }, start.elapsed().as_secs_f64());
    done.with_context(|| what.to_owned())
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("--quiet");
    command
}

fn is_debian() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let named = |line: &str| line.split(['=', '"', ' ']).any(|word| word == "debian");
    release.lines().any(|line| line.starts_with("ID") && named(line)) && find("apt-get").is_some()
}

/// Debian's compiler comes with the source of its `core`; as a toolchain it must have a name.
fn link_toolchain() -> Result<()> {
    Command::new("rustup").args(["toolchain", "link", items::TOOLCHAIN, "/usr"]).read().map(drop)
}

fn install_linker() -> Result<()> {
    let llvm = "/usr/lib/llvm-22";
    let mut cargo = Command::new("cargo");
    cargo.args(["install", "--quiet", "bpf-linker", "--version", "0.13.0", "--locked", "--force"]);
    cargo.args(["--no-default-features", "--features", "llvm-22"]);
    // Without the first it asks whatever llvm-config is in PATH and fails to link.
    cargo.env("LLVM_PREFIX", llvm).env("LLVM_SYS_221_PREFIX", llvm).dies_with_us().read().map(drop)
}

fn install_deny() -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(["install", "--quiet", "--locked", "cargo-deny", "--version", items::DENY]);
    cargo.dies_with_us().read().map(drop)
}

/// Unpacks a package whose installation would start a service.
fn unpack(package: &str) -> Result<()> {
    let into = tree::cache("oracles")?;
    let fetched = into.join(".fetched");
    let _ = fs::remove_dir_all(&fetched);
    fs::create_dir_all(&fetched)?;
    apt().args(["download", package]).current_dir(&fetched).read()?;
    let archive = fs::read_dir(&fetched)?.next().context("apt-get download left no file")??.path();
    Command::new("dpkg").arg("--extract").arg(archive).arg(&into).read()?;
    Ok(fs::remove_dir_all(&fetched)?)
}

/// Where programs of packages are, here and in a guest: also those that root's PATH often lacks.
pub(crate) fn search_path() -> String {
    let system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    match tree::cache("oracles") {
        Ok(oracles) => format!("{system}:{}", oracles.join("usr/bin").display()),
        Err(_) => system.to_owned(),
    }
}

/// The program of this name, in PATH or where packages put theirs.
fn find(program: &str) -> Option<PathBuf> {
    let path = env::var("PATH").unwrap_or_default() + ":" + &search_path();
    path.split(':').map(|directory| Path::new(directory).join(program)).find(|file| file.is_file())
}

/// "build is", "build and lint are", "build, guests and lint are".
fn list(names: impl Iterator<Item = String>, one: &str, many: &str) -> String {
    let names: Vec<String> = names.collect();
    match names.split_last() {
        Some((last, [])) => format!("{last} {one}"),
        Some((last, rest)) => format!("{} and {last} {many}", rest.join(", ")),
        None => String::new(),
    }
}
