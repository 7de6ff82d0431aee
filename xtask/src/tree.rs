//! Where things are: the checkout, its target directory and this machine's cache.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::run::Run as _;

/// The root of the checkout.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// `cache/<name>`: what is too dear to fetch again for each fresh clone, shared by all clones of this user.
pub(crate) fn cache(name: &str) -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|path| Path::new(path).is_absolute()) {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?)
            .join(".cache"),
    };
    Ok(base.join("r2c-agent").join(name))
}

/// Fails with one line where rustc is older than the workspace says; cargo's own message is a page.
pub(crate) fn check_rustc() -> Result<()> {
    let least = env!("CARGO_PKG_RUST_VERSION");
    let version = Command::new("rustc").arg("--version").read()?;
    let found = version.split(' ').nth(1).unwrap_or_default();
    if parts(found) < parts(least) {
        bail!("rustc {least} or newer is needed, this is {found}: run `rustup update stable`");
    }
    Ok(())
}

/// `1.95.0-nightly` as numbers, for comparing.
fn parts(version: &str) -> Vec<u32> {
    version.split(['.', '-']).map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(parts("1.100.0") > parts("1.95"));
        assert!(parts("1.95.0-nightly") >= parts("1.95"));
        assert!(parts("1.94.1") < parts("1.95"));
    }
}
