//! Guest kernels: Debian's packages, unpacked in the cache and never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::run::Run as _;
use crate::tree;

/// The kernels that `cargo xtask test` boots.
pub(crate) const TESTED: [&str; 2] = ["6.1", "6.12"];

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
    /// The unpacked kernel of this series (`6.12`), if it is here.
    pub(crate) fn cached(series: &str) -> Result<Option<Self>> {
        let root = tree::cache("kernels")?.join(series);
        let Ok(release) = fs::read_to_string(root.join("release")) else { return Ok(None) };
        Ok(Some(Self { root, release: release.trim().to_owned() }))
    }

    pub(crate) fn image(&self) -> PathBuf {
        self.root.join("boot").join(format!("vmlinuz-{}", self.release))
    }
}

/// Fetches and unpacks the newest package of a series (`6.12`) that apt knows.
pub(crate) fn fetch(series: &str) -> Result<()> {
    let package = package(series)?;
    let release = package.trim_start_matches("linux-image-").to_owned();
    let kernels = tree::cache("kernels")?;
    let partial = kernels.join(format!(".{series}-{}", std::process::id()));
    fs::create_dir_all(&partial)?;
    let done = unpack(&package, &release, &partial).and_then(|()| {
        let root = kernels.join(series);
        let _ = fs::remove_dir_all(&root);
        fs::rename(&partial, &root).with_context(|| root.display().to_string())
    });
    if done.is_err() {
        let _ = fs::remove_dir_all(&partial);
    }
    done
}

/// The versioned package that Debian's metapackage for this series stands for.
fn package(series: &str) -> Result<String> {
    let wanted = format!("linux-image-{series}.");
    for meta in [format!("linux-image-{series}-amd64"), "linux-image-amd64".to_owned()] {
        let listed =
            Command::new("apt-cache").args(["depends", "--important", &meta]).read().unwrap_or_default();
        let mut names = listed.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        if let Some(name) = names.find(|name| name.starts_with(&wanted)) {
            return Ok(name.to_owned());
        }
    }
    bail!("apt knows no kernel {series} for amd64: it is in Debian 12 (bookworm) with its security updates")
}

fn unpack(package: &str, release: &str, into: &Path) -> Result<()> {
    Command::new("apt-get").args(["download", "--quiet", package]).current_dir(into).read()?;
    let fetched = fs::read_dir(into)?.next().context("apt-get download left no file")??.path();
    Command::new("dpkg").arg("--extract").arg(&fetched).arg(into).read()?;
    fs::remove_file(fetched)?;

    prune(&into.join("lib/modules").join(release).join("kernel"))?;
    decompress(&into.join("lib/modules"))?;
    Command::new("/sbin/depmod").arg("--basedir").arg(into).arg(release).read()?;
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
