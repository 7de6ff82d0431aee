//! `cargo xtask setup`: installs what is below rustup, on Debian; elsewhere says exactly what is missing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use std::{env, fs};

use anyhow::{Context as _, Result, bail};
use nix::unistd::Uid;

use crate::apt::Apt;
use crate::kernels::{self, Arch, Guested};
use crate::run::Run as _;
use crate::tree;

pub(crate) mod arm64;
mod items;

use items::{Install, Item};

/// Install what the other verbs need below rustup: on Debian, as root; does nothing where all is there
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these parts; all that `demo` and `test` need if none is named
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
    /// What the benchmark compares the agent with; not among the parts that are installed unasked
    Bench,
    /// Linters beyond rustup's
    Lint,
    /// The compiler of libFuzzer
    Fuzz,
    /// What breaks lines one by one, for `mutate`; not among the parts that are installed unasked
    Mutate,
    /// Kernels of other releases of Debian, for `test --all`; not among the parts that are installed unasked
    Reach,
    /// What builds for arm64 and boots it; not among the parts that are installed unasked
    Arm64,
}

const ALL: [Part; 6] = [Part::Build, Part::Guests, Part::Demo, Part::Oracles, Part::Lint, Part::Fuzz];

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
    need_items(&|| {
        let items = parts.iter().map(|part| items::of(*part)).collect::<Result<Vec<_>>>()?;
        Ok(items.into_iter().flatten().collect())
    })
}

/// Makes sure that a guest can have this kernel.
pub(crate) fn need_kernel(kernel: &'static Guested) -> Result<()> {
    if kernel.arch == Arch::Arm64 {
        need(&[Part::Arm64])?;
    }
    need_items(&|| Ok(vec![items::kernel(kernel.name)?]))
}

fn need_items(look: &dyn Fn() -> Result<Vec<Item>>) -> Result<()> {
    let missing: Vec<Item> = look()?.into_iter().filter(|item| !item.present).collect();
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
    // What was installed must be found: a package that no longer has the program would else surface much later.
    if let Some(item) = look()?.iter().find(|item| !item.present) {
        bail!("installed, but still not found: {item}");
    }
    Ok(())
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
            Install::Deny => {
                step("cargo-deny, from source (3 to 5 minutes)", || install_tool("cargo-deny", items::DENY))?;
            }
            Install::Mutants => step("cargo-mutants, from source (2 to 4 minutes)", || {
                install_tool("cargo-mutants", items::MUTANTS)
            })?,
            Install::Kernel(name) => step(&format!("kernel {name}"), || kernels::fetch(name))?,
            Install::Std => step("Rust's standard library for arm64", arm64::fetch_std)?,
            Install::Root => step("an arm64 machine's programs", arm64::fetch_root)?,
            Install::Unpack(package) => step(&format!("unpacking {package}"), || unpack(package))?,
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

fn install_tool(name: &str, version: &str) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(["install", "--quiet", "--locked", name, "--version", version]);
    cargo.dies_with_us().read().map(drop)
}

/// Unpacks a package whose installation would start a service.
fn unpack(package: &str) -> Result<()> {
    Apt::own().unpack(&[package.to_owned()], &tree::cache("oracles")?)
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
