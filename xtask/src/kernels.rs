//! Guest kernels: Debian's packages, unpacked in the cache and never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::apt::Apt;
use crate::run::Run as _;
use crate::tree;

/// What a processor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    /// As Debian spells it.
    pub(crate) const fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

/// A kernel that guests can have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Guested {
    /// As the command line and the tables name it.
    pub(crate) name: &'static str,
    /// The release it begins with.
    series: &'static str,
    pub(crate) arch: Arch,
    /// Debian's suites that have it; none where the machine's own do.
    suites: &'static [&'static str],
}

/// Every one of them, oldest first.
pub(crate) const ALL: [Guested; 5] = [
    Guested { name: "5.10", series: "5.10", arch: Arch::Amd64, suites: &["bullseye", "bullseye-security"] },
    Guested { name: "6.1", series: "6.1", arch: Arch::Amd64, suites: &[] },
    Guested { name: "6.12", series: "6.12", arch: Arch::Amd64, suites: &[] },
    Guested { name: "7.2", series: "7.2", arch: Arch::Amd64, suites: &["forky"] },
    Guested { name: "6.12-arm64", series: "6.12", arch: Arch::Arm64, suites: &[] },
];

/// The kernels that `cargo xtask test` boots.
pub(crate) const TESTED: [&str; 2] = ["6.1", "6.12"];

/// What `cargo xtask test --all` boots beside them.
pub(crate) const REACHED: [&str; 3] = ["5.10", "7.2", "6.12-arm64"];

/// The kernel of this name.
pub(crate) fn named(name: &str) -> Result<&'static Guested> {
    ALL.iter().find(|kernel| kernel.name == name).with_context(|| {
        let names: Vec<&str> = ALL.iter().map(|kernel| kernel.name).collect();
        format!("no guest has a kernel {name}; there are {}", names.join(", "))
    })
}

/// What of the modules a guest of ours can use; the rest (sound, graphics, hardware) is two thirds of the bytes.
const KEPT: [&str; 12] = [
    "arch", "block", "crypto", "drivers/block", "drivers/char", "drivers/net", "drivers/virtio", "fs",
    "kernel", "lib", "mm", "net",
];

/// A kernel that is unpacked here.
pub(crate) struct Kernel {
    /// The directory that has `boot` and `lib/modules`.
    pub(crate) root: PathBuf,
    /// As in `uname -r`.
    pub(crate) release: String,
}

impl Kernel {
    /// The unpacked kernel of this name (`6.12`), if it is here.
    pub(crate) fn cached(name: &str) -> Result<Option<Self>> {
        let root = tree::cache("kernels")?.join(name);
        let Ok(release) = fs::read_to_string(root.join("release")) else { return Ok(None) };
        Ok(Some(Self { root, release: release.trim().to_owned() }))
    }

    pub(crate) fn image(&self) -> PathBuf {
        image(&self.root, &self.release)
    }
}

fn image(root: &Path, release: &str) -> PathBuf {
    root.join("boot").join(format!("vmlinuz-{release}"))
}

/// Fetches and unpacks the newest package of a kernel's series that its suites have.
pub(crate) fn fetch(name: &str) -> Result<()> {
    let kernel = named(name)?;
    let own = kernel.suites.is_empty() && kernel.arch == Arch::Amd64;
    let apt = if own { Apt::own() } else { Apt::of(kernel.suites, kernel.arch.debian())? };
    let package = package(&apt, kernel)?;
    let kernels = tree::cache("kernels")?;
    let partial = kernels.join(format!(".{name}-{}", std::process::id()));
    fs::create_dir_all(&partial)?;
    let done = unpack(&apt, &package, &partial).and_then(|()| {
        let root = kernels.join(name);
        let _ = fs::remove_dir_all(&root);
        fs::rename(&partial, &root).with_context(|| root.display().to_string())
    });
    if done.is_err() {
        let _ = fs::remove_dir_all(&partial);
    }
    done
}

/// The versioned package that Debian's metapackage for this series stands for.
fn package(apt: &Apt, kernel: &Guested) -> Result<String> {
    let (series, arch) = (kernel.series, kernel.arch.debian());
    let wanted = format!("linux-image-{series}.");
    for meta in [format!("linux-image-{series}-{arch}"), format!("linux-image-{arch}")] {
        if let Some(name) = apt.depends(&meta).into_iter().find(|name| name.starts_with(&wanted)) {
            return Ok(name);
        }
    }
    let suites = if kernel.suites.is_empty() {
        "Debian 12 (bookworm) with its security updates".to_owned()
    } else {
        kernel.suites.join(", ")
    };
    bail!("apt knows no kernel {series} for {arch}: it was last seen in {suites}")
}

fn unpack(apt: &Apt, package: &str, into: &Path) -> Result<()> {
    let release = package.trim_start_matches("linux-image-").to_owned();
    // From 7 on the package is empty, and stands for others: the kernel, its modules, and what is built in.
    let parts = apt
        .depends(package)
        .into_iter()
        .filter(|name| {
            ["linux-binary-", "linux-modules-", "linux-base-"].iter().any(|part| name.starts_with(part))
        })
        .filter(|name| name.ends_with(&release));
    let packages: Vec<String> = std::iter::once(package.to_owned()).chain(parts).collect();
    apt.unpack(&packages, into)?;

    let modules = into.join("lib/modules");
    let merged = into.join("usr/lib/modules");
    if merged.exists() {
        fs::create_dir_all(into.join("lib"))?;
        fs::rename(merged, &modules)?;
    }
    let image = image(into, &release);
    if !image.exists() {
        fs::create_dir_all(into.join("boot"))?;
        fs::rename(modules.join(&release).join("vmlinuz"), image)?;
    }
    prune(&modules.join(&release).join("kernel"))?;
    decompress(&modules)?;
    Command::new("/sbin/depmod").arg("--basedir").arg(into).arg(&release).read()?;
    Ok(fs::write(into.join("release"), release)?)
}

/// Removes the directories under `modules` that no entry of [`KEPT`] names or leads to.
fn prune(modules: &Path) -> Result<()> {
    for parent in ["", "drivers"] {
        for entry in fs::read_dir(modules.join(parent))? {
            let path = entry?.path();
            let name = path.strip_prefix(modules)?;
            if !KEPT.iter().any(|kept| Path::new(kept).starts_with(name)) {
                fs::remove_dir_all(&path)?;
            }
        }
    }
    for hardware in ["ethernet", "wireless"] {
        let _ = fs::remove_dir_all(modules.join("drivers/net").join(hardware));
    }
    Ok(())
}

/// Decompresses once what each guest would else decompress under emulation.
fn decompress(modules: &Path) -> Result<()> {
    Command::new("find")
        .arg(modules)
        .args(["-name", "*.ko.xz", "-exec", "xz", "--decompress", "{}", "+"])
        .run()
}
