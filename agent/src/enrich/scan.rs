//! Reads kubelet's cgroup tree: where it is, which pods are in it, and what network each lives in.

use std::collections::VecDeque;
use std::fs::{self, DirEntry, File, Metadata};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::sys::stat::fstat;

use crate::enrich::cgroup::{self, Uid};
use crate::enrich::netns::{Host, Process};
use crate::enrich::table::{Net, Sighting};

/// How deep below the hierarchy's top `kubepods` is looked for: a nested node's is
/// `system.slice/docker-<id>.scope/kubelet/kubepods`.
const MAX_DEPTH: usize = 5;
/// Directories looked into for it.
const MAX_DIRS: usize = 4_096;
/// Containers of one pod that are read.
const MAX_CONTAINERS: usize = 64;
/// Directories below one container that are looked into for its processes.
const MAX_NESTED: usize = 32;
/// Bytes read of one `cgroup.procs`.
const MAX_PROCS: u64 = 1024 * 1024;
/// Looks at a pod whose oldest process keeps vanishing; whoever comes later is read at the next occasion.
const MAX_TRIES: usize = 3;

/// Kubelet's tree as it stands.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tree {
    /// Whether it is cgroup v2's, where an inode identifies a cgroup to the kernel side as well.
    pub(super) v2: bool,
    /// Directories that `kubepods` may appear in.
    pub(super) above: Vec<PathBuf>,
    /// Directories that hold pods: `kubepods` and its class levels.
    pub(super) levels: Vec<PathBuf>,
}

/// Finds kubelet's tree in what is mounted at `cgroup`.
pub(super) fn tree(cgroup: &Path) -> Tree {
    if cgroup.join("cgroup.controllers").exists() {
        return Tree { v2: true, ..below(cgroup) };
    }
    // With version 1 kubelet makes each pod in every hierarchy; one of them is enough.
    let mut first = None;
    for name in ["pids", "memory", "systemd"] {
        let found = below(&cgroup.join(name));
        if !found.levels.is_empty() {
            return found;
        }
        if first.is_none() && !found.above.is_empty() {
            first = Some(found);
        }
    }
    first.unwrap_or_default()
}

fn below(top: &Path) -> Tree {
    let mut tree = Tree::default();
    let mut todo = VecDeque::from([(top.to_owned(), 0)]);
    while let Some((dir, depth)) = todo.pop_front() {
        let Some(children) = subdirs(&dir) else { continue };
        for child in children {
            let name = child.file_name();
            if cgroup::is_kubepods(name.as_bytes()) {
                add_levels(&mut tree.levels, child.path());
            } else if depth + 1 < MAX_DEPTH && todo.len() + tree.above.len() < MAX_DIRS {
                todo.push_back((child.path(), depth + 1));
            }
        }
        tree.above.push(dir);
    }
    tree
}

fn add_levels(levels: &mut Vec<PathBuf>, root: PathBuf) {
    let classes = subdirs(&root).into_iter().flatten();
    let classes = classes.filter(|child| cgroup::qos_dir(child.file_name().as_bytes()).is_some());
    levels.extend(classes.map(|child| child.path()));
    levels.push(root);
}

/// The pods directly in one level.
pub(super) fn pods_in(level: &Path) -> Vec<(Uid, PathBuf)> {
    let children = subdirs(level).into_iter().flatten();
    children
        .filter_map(|child| Some((cgroup::pod_dir(child.file_name().as_bytes())?.0, child.path())))
        .collect()
}

/// What is worth counting of one look.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Processes that had gone before they were read to the end.
    pub(super) raced: u64,
    /// Containers whose processes show as pid 0: they are of another pid namespace.
    pub(super) hidden: u64,
    /// Processes whose network namespace the kernel refuses to show.
    pub(super) refused: u64,
    /// Addresses left out because the host has them as well.
    pub(super) of_host: u64,
}

/// Looks at the pod whose cgroup is `dir`. `None` if it is not there any more.
pub(super) fn look(
    dir: &Path,
    v2: bool,
    proc: &Path,
    host: Option<&Host>,
    tally: &mut Tally,
) -> Option<Sighting> {
    let own = fs::metadata(dir).ok()?;
    let containers = containers(dir);
    let cgroups = if v2 {
        let inodes = containers.iter().filter_map(|container| fs::metadata(container).ok());
        std::iter::once(own.ino()).chain(inodes.map(|found| found.ino())).collect()
    } else {
        Vec::new()
    };
    let net = host.map_or(Net::Unknown, |host| network(&containers, proc, host, tally));
    Some(Sighting { born: born(&own), at: SystemTime::now(), cgroups, net })
}

/// The network of a pod's oldest process: its sandbox's, unless the runtime keeps none, then its first container's.
/// A younger one may be a privileged container that went elsewhere, or a runtime's child on its way in.
fn network(containers: &[PathBuf], proc: &Path, host: &Host, tally: &mut Tally) -> Net {
    for _ in 0..MAX_TRIES {
        let mut members = Vec::new();
        for container in containers {
            members.extend(oldest(container, proc, tally));
        }
        let Some(member) = members.into_iter().min_by_key(|member| (member.started, member.pid)) else {
            return Net::Unknown;
        };
        if let Some(net) = member.network(host, tally) {
            return net;
        }
        tally.raced += 1;
    }
    Net::Unknown
}

/// The network namespace of the pod whose cgroup is `dir`, held open; `None` if it has no process that stays.
pub(super) fn hold_netns(dir: &Path, proc: &Path) -> nix::Result<Option<OwnedFd>> {
    let mut tally = Tally::default();
    for _ in 0..MAX_TRIES {
        let found = containers(dir);
        let members = found.iter().filter_map(|container| oldest(container, proc, &mut tally));
        let Some(member) = members.min_by_key(|member| (member.started, member.pid)) else { break };
        match member.process.hold_netns() {
            Ok(held) => {
                let inode = u32::try_from(fstat(&held)?.st_ino).unwrap_or_default();
                if member.is_still_here(inode) {
                    return Ok(Some(held));
                }
            }
            Err(Errno::ENOENT | Errno::ESRCH) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// A process and the cgroup it was found in.
#[derive(Debug)]
struct Member {
    pid: u32,
    started: u64,
    process: Process,
    cgroup: PathBuf,
}

impl Member {
    fn open(cgroup: PathBuf, pid: u32, proc: &Path) -> Option<Self> {
        let process = Process::open(proc, pid).ok()?;
        Some(Self { pid, started: process.started()?, process, cgroup })
    }

    /// `None` if the process ended, left its cgroup or changed its namespace meanwhile.
    fn network(&self, host: &Host, tally: &mut Tally) -> Option<Net> {
        let netns = match self.process.netns() {
            Ok(netns) => netns,
            // It would be refused again.
            Err(Errno::EACCES | Errno::EPERM) => {
                tally.refused += 1;
                return Some(Net::Unknown);
            }
            Err(_) => return None,
        };
        if host.has_netns(netns) {
            return self.is_still_here(netns).then_some(Net::Host);
        }
        let (mut addresses, _) = self.process.addresses_of_pod()?;
        if !self.is_still_here(netns) {
            return None;
        }
        let all = addresses.len();
        addresses.retain(|address| !host.has_address(*address));
        tally.of_host += u64::try_from(all - addresses.len()).unwrap_or_default();
        Some(Net::Own { netns, pid: self.pid, addresses })
    }

    /// The process is held by its directory, so if it lives and its pid is in the cgroup, it is the one in the cgroup.
    fn is_still_here(&self, netns: u32) -> bool {
        let listed = pids(&self.cgroup).is_some_and(|pids| pids.contains(&self.pid));
        listed && self.process.netns() == Ok(netns)
    }
}

/// The oldest of the first processes of a container's cgroup and, if that is empty, of those nested in it.
fn oldest(container: &Path, proc: &Path, tally: &mut Tally) -> Option<Member> {
    let mut members = Vec::new();
    let mut todo = VecDeque::from([container.to_owned()]);
    for _ in 0..MAX_NESTED {
        let Some(dir) = todo.pop_front() else { break };
        let pids = pids(&dir).unwrap_or_default();
        if pids.first() == Some(&0) {
            tally.hidden += 1;
        }
        let member =
            pids.iter().filter(|pid| **pid != 0).find_map(|pid| Member::open(dir.clone(), *pid, proc));
        if let Some(member) = member {
            // Nested below a cgroup with processes is what the container itself started.
            if dir == container {
                return Some(member);
            }
            members.push(member);
        } else {
            todo.extend(subdirs(&dir).into_iter().flatten().take(MAX_NESTED).map(|child| child.path()));
        }
    }
    members.into_iter().min_by_key(|member| (member.started, member.pid))
}

fn containers(pod: &Path) -> Vec<PathBuf> {
    let children = subdirs(pod).into_iter().flatten();
    let containers = children.filter(|child| cgroup::container_dir(child.file_name().as_bytes()).is_some());
    containers.map(|child| child.path()).take(MAX_CONTAINERS).collect()
}

fn pids(cgroup: &Path) -> Option<Vec<u32>> {
    let mut text = String::new();
    let file = File::open(cgroup.join("cgroup.procs")).ok()?;
    file.take(MAX_PROCS).read_to_string(&mut text).ok()?;
    Some(text.lines().filter_map(|line| line.parse().ok()).collect())
}

/// The earliest time a directory bears. A cgroup's are not before it was made, and may be later when the kernel had
/// dropped its inode from memory: then an early event has no pod, never another's.
fn born(dir: &Metadata) -> SystemTime {
    let changed = u64::try_from(dir.ctime()).ok().map(|seconds| {
        let nanos = u64::try_from(dir.ctime_nsec()).unwrap_or_default();
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_nanos(nanos)
    });
    let times = [changed, dir.modified().ok(), dir.created().ok()];
    times.into_iter().flatten().min().unwrap_or_else(SystemTime::now)
}

fn subdirs(dir: &Path) -> Option<impl Iterator<Item = DirEntry>> {
    let entries = fs::read_dir(dir).ok()?;
    Some(entries.filter_map(Result::ok).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())))
}

#[cfg(test)]
mod tests;
