//! Builds the kernel side, one BPF object a probe, into `OUT_DIR`, and records what was built for `--version`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result, bail, ensure};
use aya_build::{Package, Toolchain};
use sha2::{Digest as _, Sha256};

#[path = "build/strip.rs"]
mod strip;

/// The toolchain that `cargo xtask setup` links to Debian's compiler, which comes with the source of its `core`.
const LINKED: &str = "r2c-bpf";

fn main() {
    if let Err(error) = build() {
        // One line: cargo marks it as this package's error and stops.
        println!("cargo::error={}", format!("{error:#}").replace('\n', " "));
    }
}

fn build() -> Result<()> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("..").canonicalize()?;
    let ebpf = root.join("agent-ebpf");
    for input in ["agent-common", "agent-ebpf", "Cargo.lock", "agent/build.rs", "agent/build/strip.rs"] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    println!("cargo::rustc-env=R2C_GIT_HASH={}", git_hash(&root).as_deref().unwrap_or("unknown"));

    let toolchain = toolchain()?;
    if Command::new("bpf-linker").arg("--version").output().is_err() {
        bail!("bpf-linker is not in PATH: run `cargo xtask setup build`");
    }
    set_environment_of_inner_build();
    let package = Package {
        name: "agent-ebpf",
        root_dir: ebpf.to_str().context("the path of this checkout is not UTF-8")?,
        ..Package::default()
    };
    aya_build::build_ebpf([package], Toolchain::Custom(&toolchain))?;
    write_objects(&ebpf.join("src/bin"), Path::new(&env::var("OUT_DIR")?))
}

/// A toolchain that has the source of its own `core`: the BPF target has no ready-made one.
///
/// The source is looked for, not the name: a nightly without its `rust-src` component is common.
fn toolchain() -> Result<String> {
    let listed = stdout(Command::new("rustup").args(["toolchain", "list", "--quiet"]))
        .context("rustup is not in PATH: see https://rustup.rs")?;
    let nightlies = listed.lines().filter(|name| name.starts_with("nightly"));
    listed
        .lines()
        .filter(|name| *name == LINKED)
        .chain(nightlies)
        .find(|name| has_core_source(name))
        .map(str::to_owned)
        .context("no toolchain with the source of `core` for the BPF target: run `cargo xtask setup build`")
}

fn has_core_source(toolchain: &str) -> bool {
    stdout(Command::new("rustup").args(["run", toolchain, "rustc", "--print", "sysroot"])).is_some_and(
        |sysroot| Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/src/lib.rs").exists(),
    )
}

/// What the inner cargo must see; aya-build offers no other way in than this process's environment.
fn set_environment_of_inner_build() {
    let variables = [
        // `-Z build-std` on a compiler that calls itself stable.
        ("RUSTC_BOOTSTRAP", "1"),
        // Else every progress line comes out as a warning of this build.
        ("CARGO_TERM_QUIET", "true"),
        // The workspace's release profile is the agent's; these are what the verifier and the BTF need.
        ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
        ("CARGO_PROFILE_RELEASE_DEBUG", "2"),
        ("CARGO_PROFILE_RELEASE_LTO", "fat"),
        ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
        ("CARGO_PROFILE_RELEASE_STRIP", "none"),
    ];
    for (name, value) in variables {
        // SAFETY: the build script has started no thread, so nothing reads the environment meanwhile.
        unsafe { env::set_var(name, value) };
    }
}

/// Leaves of each object what the loader reads, and writes `objects.rs`: each object's name and the SHA-256 of its bytes, in the order of the names.
fn write_objects(sources: &Path, out_dir: &Path) -> Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(sources)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
        }
    }
    names.sort_unstable();

    let mut code = String::from(
        "/// Each BPF object of this build: its name and the SHA-256 of its bytes, in hex.\n\
         pub const OBJECTS: &[(&str, &str)] = &[\n",
    );
    for name in names {
        let path = out_dir.join(&name);
        let bytes = fs::read(&path).with_context(|| format!("no object {}", path.display()))?;
        let bytes = strip::debug_info(&bytes).with_context(|| format!("{}", path.display()))?;
        let callers = strip::callers(&bytes).with_context(|| format!("{}", path.display()))?;
        let caller = callers.first();
        ensure!(caller.is_none(), "{name} calls a function in {caller:?}: old kernels panic of that");
        fs::write(&path, &bytes)?;
        let mut digest = String::new();
        for byte in Sha256::digest(&bytes) {
            write!(digest, "{byte:02x}")?;
        }
        writeln!(code, "    (\"{name}\", \"{digest}\"),")?;
    }
    code.push_str("];\n");
    Ok(fs::write(out_dir.join("objects.rs"), code)?)
}

/// The commit this was built from. Whether the tree was clean is left out: it would be stale after the next edit.
fn git_hash(root: &Path) -> Option<String> {
    let git = |args: &[&str]| stdout(Command::new("git").current_dir(root).args(args));
    for name in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--path-format=absolute", "--git-path", name])?;
        // A path that does not exist would make cargo run this script every time.
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

/// What a command printed, if it ran and succeeded.
fn stdout(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
