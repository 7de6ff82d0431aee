//! Whether the host's files are where they are looked for: a wrong path finds no pod, and says nothing about it.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, FsType, PROC_SUPER_MAGIC, statfs};

use crate::cli::Host;
use crate::enrich::names;
use crate::failure::Failure;

/// Entries of a directory that are looked at: with cgroup version 1 there are a dozen.
const MOST: usize = 256;

/// Checks the host's paths. One line for each that is a default and is not there.
///
/// # Errors
/// Usage: one that the user named is not what it should be.
pub fn check(host: &Host) -> Result<Vec<String>, Failure> {
    let mut missing = Vec::new();
    let paths = [
        (proc(&host.host_proc), &host.named.proc, "--host-proc", &host.host_proc),
        (cgroup(&host.host_cgroup), &host.named.cgroup, "--host-cgroup", &host.host_cgroup),
        (logs(&host.pod_logs), &host.named.pod_logs, "--pod-logs", &host.pod_logs),
    ];
    for (wrong, named, flag, path) in paths {
        match (wrong, named) {
            (None, _) => {}
            (Some(why), Some(by)) => return Err(Failure::usage(format!("{by} {}: {why}", path.display()))),
            (Some(why), None) => missing.push(format!("{} {why}: {flag} names another", path.display())),
        }
    }
    Ok(missing)
}

/// What is wrong with a path that should be a proc file system, or a directory with processes of one.
fn proc(path: &Path) -> Option<String> {
    directory(path).or_else(|| {
        let is_proc = |path: &Path| is_of(path, &[PROC_SUPER_MAGIC]);
        let found = is_proc(path) || is_proc(&path.join("1")) || is_proc(&path.join("self"));
        (!found).then(|| "is no proc file system".to_owned())
    })
}

/// The same of cgroups: version 2's hierarchy, or the directory with version 1's.
fn cgroup(path: &Path) -> Option<String> {
    directory(path).or_else(|| {
        let is_cgroup = |path: &Path| is_of(path, &[CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC]);
        let children = || fs::read_dir(path).into_iter().flatten().flatten().take(MOST);
        let found = is_cgroup(path) || children().any(|child| is_cgroup(&child.path()));
        (!found).then(|| "is no cgroup file system, and has none in it".to_owned())
    })
}

/// The same of kubelet's log directory. An empty one is of a node without pods; one full of other things is another directory.
fn logs(path: &Path) -> Option<String> {
    directory(path).or_else(|| {
        let mut entries = match fs::read_dir(path) {
            Ok(entries) => entries.flatten().peekable(),
            Err(error) => return Some(format!("cannot be read: {error}")),
        };
        entries.peek()?;
        let is_pods = |entry: fs::DirEntry| names::parse(entry.file_name().as_bytes()).is_some();
        (!entries.any(is_pods)).then(|| "has no directory of a pod, but other things".to_owned())
    })
}

fn directory(path: &Path) -> Option<String> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => None,
        Ok(_) => Some("is no directory".to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some("does not exist".to_owned()),
        Err(error) => Some(format!("cannot be seen: {error}")),
    }
}

fn is_of(path: &Path, kinds: &[FsType]) -> bool {
    statfs(path).is_ok_and(|found| kinds.contains(&found.filesystem_type()))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Named};

    fn host(proc: &Path, cgroup: &Path, logs: &Path, named: bool) -> Host {
        let mut host = Cli::parse_from(["r2c-agent", "doctor"]).host;
        host.host_proc = proc.to_owned();
        host.host_cgroup = cgroup.to_owned();
        host.pod_logs = logs.to_owned();
        let by = |flag: &str| named.then(|| flag.to_owned());
        host.named =
            Named { proc: by("--host-proc"), cgroup: by("--host-cgroup"), pod_logs: by("R2C_POD_LOGS") };
        host
    }

    #[test]
    fn a_path_that_was_named_must_be_what_it_is_for() {
        let empty = tempfile::tempdir().unwrap();
        let empty = empty.path();
        let own = tempfile::tempdir().unwrap();
        let own = own.path();
        std::os::unix::fs::symlink("/proc/self", own.join("1")).unwrap();
        let (proc, cgroup) = (Path::new("/proc"), Path::new("/sys/fs/cgroup"));
        for (paths, wants) in [
            ((proc, cgroup, empty), ""),
            ((own, cgroup, empty), ""),
            ((empty, cgroup, empty), "is no proc file system"),
            ((Path::new("/nowhere"), cgroup, empty), "--host-proc /nowhere: does not exist"),
            ((Path::new("/etc/passwd"), cgroup, empty), "--host-proc /etc/passwd: is no directory"),
            ((proc, empty, empty), "is no cgroup file system"),
            ((proc, Path::new("/nowhere"), empty), "--host-cgroup /nowhere: does not exist"),
            ((proc, cgroup, Path::new("/etc/passwd")), "R2C_POD_LOGS /etc/passwd: is no directory"),
            ((proc, cgroup, Path::new("/etc")), "R2C_POD_LOGS /etc: has no directory of a pod"),
            ((proc, cgroup, Path::new("/nowhere")), "R2C_POD_LOGS /nowhere: does not exist"),
        ] {
            let said = check(&host(paths.0, paths.1, paths.2, true))
                .err()
                .map(|failure| (failure.code, failure.message));
            match said {
                None => assert_eq!(wants, ""),
                Some((code, line)) => {
                    assert!(code == 2 && !wants.is_empty() && line.contains(wants), "{line}");
                }
            }
        }
        let missing = check(&host(proc, cgroup, Path::new("/nowhere"), false)).unwrap();
        assert_eq!(missing, ["/nowhere does not exist: --pod-logs names another"]);
    }
}
