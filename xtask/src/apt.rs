//! Debian's packages that are not installed: of another suite or architecture, fetched and unpacked in the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::run::Run as _;
use crate::tree;

/// Debian's own keys, as its package `debian-archive-keyring` has them on every Debian.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An apt that looks where we say; the machine's own settings are never touched.
pub(crate) struct Apt {
    options: Vec<String>,
}

impl Apt {
    /// As the machine is set up.
    pub(crate) const fn own() -> Self {
        Self { options: Vec::new() }
    }

    /// Another architecture (`arm64`) of these suites, or of the machine's own where `suites` is empty, from the mirrors
    /// that the machine itself uses; its package lists are fetched anew.
    ///
    /// # Errors
    /// The machine has no Debian mirror among its sources, or that mirror lacks a suite.
    pub(crate) fn of(suites: &[&str], arch: &str) -> Result<Self> {
        let mirrors = Mirrors::configured()?;
        let sources = if suites.is_empty() { mirrors.own() } else { mirrors.of(suites)? };
        let name = if suites.is_empty() { arch.to_owned() } else { format!("{}-{arch}", suites.join("+")) };
        let state = tree::cache("apt")?.join(name);
        for directory in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(state.join(directory))?;
        }
        let list = state.join("sources.list");
        fs::write(&list, sources)?;
        // Nothing is installed there: each package is complete only with all it depends on.
        fs::write(state.join("status"), "")?;
        let path = |name: &str| state.join(name).display().to_string();
        let options = [
            format!("Dir::Etc::sourcelist={}", list.display()),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("Dir::State::lists={}", path("lists")),
            format!("Dir::State::status={}", path("status")),
            format!("Dir::Cache={}", path("cache")),
            format!("APT::Architecture={arch}"),
            format!("APT::Architectures={arch}"),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            // The cache is root's, and apt's own user would have to write there.
            "APT::Sandbox::User=root".to_owned(),
        ];
        let apt = Self { options: options.to_vec() };
        apt.command("apt-get").arg("update").read().with_context(|| {
            format!("this machine's Debian mirror seems to have no {} for {arch}", suites.join(", "))
        })?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("DEBIAN_FRONTEND", "noninteractive").arg("--quiet");
        command.args(self.options.iter().flat_map(|option| ["-o", option]));
        command
    }

    /// Packages that `package` depends on, by name; none if there is no such package.
    pub(crate) fn depends(&self, package: &str) -> Vec<String> {
        let mut apt = self.command("apt-cache");
        let listed = apt.args(["depends", "--important", package]).read().unwrap_or_default();
        let names = listed.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        names.map(str::to_owned).collect()
    }

    /// Unpacks these packages into a directory.
    pub(crate) fn unpack(&self, packages: &[String], into: &Path) -> Result<()> {
        let fetched = into.join(".fetched");
        let _ = fs::remove_dir_all(&fetched);
        fs::create_dir_all(&fetched)?;
        self.command("apt-get").arg("download").args(packages).current_dir(&fetched).read()?;
        extract(&archives(&fetched)?, into)?;
        Ok(fs::remove_dir_all(&fetched)?)
    }

    /// Unpacks these packages and all they depend on. Only for an [`Apt::of`]: what is installed here is left out.
    pub(crate) fn unpack_with_dependencies(&self, packages: &[&str], into: &Path) -> Result<()> {
        let mut apt = self.command("apt-get");
        apt.args(["install", "--yes", "--download-only", "--no-install-recommends"]).args(packages).read()?;
        let cache = self.options.iter().find_map(|option| option.strip_prefix("Dir::Cache="));
        let fetched = Path::new(cache.context("this machine's own packages")?).join("archives");
        extract(&archives(&fetched)?, into)?;
        self.command("apt-get").arg("clean").read().map(drop)
    }
}

fn archives(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            found.push(path);
        }
    }
    if found.is_empty() {
        bail!("apt-get left no package in {}", directory.display());
    }
    Ok(found)
}

fn extract(archives: &[PathBuf], into: &Path) -> Result<()> {
    archives
        .iter()
        .try_for_each(|archive| Command::new("dpkg").arg("--extract").arg(archive).arg(into).read().map(drop))
}

/// Debian's repositories among the machine's sources.
struct Mirrors(Vec<Mirror>);

struct Mirror {
    /// `Debian` or `Debian-Security`.
    label: String,
    /// `bookworm-updates`.
    suite: String,
    uri: String,
}

impl Mirrors {
    fn configured() -> Result<Self> {
        let format = "$(ORIGIN)|$(LABEL)|$(CODENAME)|$(REPO_URI)";
        let listed = Command::new("apt-get")
            .args(["indextargets", "--format", format, "Created-By: Packages"])
            .read()?;
        Ok(Self(listed.lines().filter_map(Mirror::parse).collect()))
    }

    /// The machine's own suites.
    fn own(&self) -> String {
        self.0.iter().map(|mirror| line(&mirror.uri, &mirror.suite)).collect()
    }

    /// Other suites; those called `..-security` have a repository of their own.
    fn of(&self, suites: &[&str]) -> Result<String> {
        let mut lines = String::new();
        for suite in suites {
            let label = if suite.ends_with("-security") { "Debian-Security" } else { "Debian" };
            let mirror = self.0.iter().find(|mirror| mirror.label == label).with_context(|| {
                format!(
                    "{suite} is to come from the mirror this machine uses, and it has no {label} among its \
                     sources (or no `apt-get update` was run)"
                )
            })?;
            lines.push_str(&line(&mirror.uri, suite));
        }
        Ok(lines)
    }
}

impl Mirror {
    fn parse(line: &str) -> Option<Self> {
        let mut parts = line.split('|').map(str::to_owned);
        parts.next().filter(|origin| origin == "Debian")?;
        Some(Self { label: parts.next()?, suite: parts.next()?, uri: parts.next()? })
    }
}

fn line(uri: &str, suite: &str) -> String {
    format!("deb [signed-by={KEYS}] {uri} {suite} main\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_suites_come_from_the_mirrors_in_use() {
        let listed = "Debian|Debian|stable|file:/mirror/\nDebian|Debian-Security|stable-security|file:/safe/\n\
                      Other|Debian|stable|file:/other/\n";
        let mirrors = Mirrors(listed.lines().filter_map(Mirror::parse).collect());
        assert_eq!(
            mirrors.of(&["old", "old-security"]).unwrap(),
            format!("{}{}", line("file:/mirror/", "old"), line("file:/safe/", "old-security"))
        );
        assert_eq!(mirrors.own().lines().count(), 2);
        let error = Mirrors(Vec::new()).of(&["old"]).unwrap_err().to_string();
        assert!(error.contains("no Debian among its sources"), "{error}");
    }
}
