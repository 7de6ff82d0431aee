//! What building for arm64 and booting it needs, unpacked in the cache: Rust's standard library, and a machine's programs.

use std::path::PathBuf;

use anyhow::Result;

use crate::apt::Apt;
use crate::tree;

/// The target as rustc names it.
pub(crate) const TARGET: &str = "aarch64-unknown-linux-gnu";

/// Debian's compiler: the library is of the same build, and no other compiler takes it.
pub(crate) const TOOLCHAIN: &str = super::items::TOOLCHAIN;

/// What the tests on a real kernel run, and what a guest begins with.
const PROGRAMS: [&str; 10] = [
    "busybox-static", "ethtool", "iproute2", "iptables", "iputils-ping", "kmod", "netcat-openbsd",
    "nftables", "socat", "wireguard-tools",
];

/// A file of the one that was added last: a root without it is an older one.
const NEWEST: &str = "usr/bin/wg";

/// Where Debian's compiler finds the standard library for [`TARGET`], as its `--sysroot`.
pub(crate) fn sysroot() -> Result<PathBuf> {
    Ok(tree::cache("arm64")?.join("rust/usr"))
}

/// The root of a guest's file system.
pub(crate) fn root() -> Result<PathBuf> {
    Ok(tree::cache("arm64")?.join("root"))
}

/// Whether it is there, with all its programs.
pub(super) fn has_root() -> Result<bool> {
    Ok(root()?.join(NEWEST).exists())
}

/// The library itself.
pub(super) fn std_library() -> Result<PathBuf> {
    Ok(sysroot()?.join("lib/rustlib").join(TARGET))
}

pub(super) fn fetch_std() -> Result<()> {
    let into = tree::cache("arm64")?.join("rust");
    // The same version as the compiler's, which comes from the same suites.
    Apt::of(&[], "arm64")?.unpack(&["libstd-rust-web-dev".to_owned()], &into)
}

pub(super) fn fetch_root() -> Result<()> {
    let into = root()?;
    let _ = std::fs::remove_dir_all(&into);
    std::fs::create_dir_all(&into)?;
    Apt::of(&[], "arm64")?.unpack_with_dependencies(&PROGRAMS, &into)
}
