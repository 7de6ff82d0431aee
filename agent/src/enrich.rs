//! Whose an event is: the pods of this node, from kubelet's own files, with no API server.
//!
//! A pod's uid is in its cgroup's path, its namespace and name in `/var/log/pods`, its network namespace and
//! addresses in `/proc`. Every answer is right or absent: what two pods hold at once is nobody's.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use tokio::task::JoinHandle;

use crate::shutdown::Drain;

pub mod cgroup;
mod follow;
mod holds;
pub mod names;
pub mod netns;
pub mod pods;
mod scan;
mod table;
mod watch;

#[cfg(test)]
pub(crate) mod tests;

pub use pods::{KnownPod, Network, PodIndex, PodNetns, PodStats};

/// Where the host's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// A proc file system of the host's pid namespace.
    pub proc: PathBuf,
    /// What the host has at `/sys/fs/cgroup`: version 2, or the directory of version 1's hierarchies.
    pub cgroup: PathBuf,
    /// Kubelet's directory of container logs.
    pub pod_logs: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { proc: "/proc".into(), cgroup: "/sys/fs/cgroup".into(), pod_logs: "/var/log/pods".into() }
    }
}

/// What is mounted at [`Roots::cgroup`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroups {
    /// Version 2's single hierarchy, where an inode identifies a cgroup to the kernel side as well.
    pub v2: bool,
    /// The directory of kubelet's pods, if there is one.
    pub kubepods: Option<PathBuf>,
}

/// Looks for kubelet's pods in what is mounted at `cgroup`.
#[must_use]
pub fn cgroups(cgroup: &Path) -> Cgroups {
    let tree = scan::tree(cgroup);
    Cgroups { v2: tree.v2, kubepods: tree.levels.last().cloned() }
}

/// Holds the network namespace of the pod with this uid open; `None` if no process of it is there to be seen. Reads files:
/// not for an async thread.
///
/// # Errors
/// The kernel's: for another user's process it wants `CAP_SYS_PTRACE`.
pub fn hold_netns(roots: &Roots, uid: &str) -> nix::Result<Option<OwnedFd>> {
    let tree = scan::tree(&roots.cgroup);
    let pods = tree.levels.iter().flat_map(|level| scan::pods_in(level));
    for (_, dir) in pods.filter(|(known, _)| known.as_str() == uid) {
        if let Some(held) = scan::hold_netns(&dir, &roots.proc)? {
            return Ok(Some(held));
        }
    }
    Ok(None)
}

/// The addresses of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Each with whose it is: `host`, or a pod's full name.
    pub known: Vec<(IpAddr, String)>,
    /// Some could not be seen, or were too many to keep: an address that is not in the list may still be of this node.
    pub in_part: bool,
}

/// Reads the addresses of the host and of its pods. Blocks on files.
#[must_use]
pub fn addresses(proc: &Path, index: &PodIndex) -> Addresses {
    let homes = index.namespaces();
    // One that shares its namespace has no home of its own.
    let is_unseen = |known: &KnownPod| {
        !known.gone && known.network != Network::Host && !homes.iter().any(|home| home.pod == known.pod)
    };
    let in_part = index.has_hidden_namespaces() || index.nameless() > 0 || index.pods().iter().any(is_unseen);
    let mut found = Addresses { known: Vec::new(), in_part };
    let pods = homes.iter().map(|home| (Some(home), home.pid));
    for (home, pid) in pods.chain([(None, 1)]) {
        let process = netns::Process::open(proc, pid).ok();
        let read = process.and_then(|process| match home {
            Some(_) => process.addresses_of_pod(),
            None => process.addresses_of_host(),
        });
        let whose =
            home.map_or("host".to_owned(), |home| format!("{}/{}", home.pod.namespace, home.pod.name));
        let Some((addresses, all)) = read else {
            found.in_part = true;
            continue;
        };
        found.in_part |= all == netns::Whole::No;
        found.known.extend(addresses.into_iter().map(|address| (address.to_canonical(), whose.clone())));
    }
    found
}

/// Starts following the pods of this node until `drain`. The pods that are there are known when this returns.
///
/// Where there is no kubelet the index stays empty until there is one. Call it on a tokio runtime; files are read on
/// its blocking threads.
pub async fn start(roots: Roots, drain: Drain) -> (PodIndex, JoinHandle<()>) {
    let index = PodIndex::new();
    let (watches, events) = match watch::Watches::new() {
        Ok((watches, events)) => (Some(watches), Some(events)),
        Err(error) => {
            tracing::warn!(%error, "inotify refused to start: pods are looked for by reading");
            (None, None)
        }
    };
    let mut follower = follow::Follower::new(roots.clone(), index.clone(), watches);
    let first = tokio::task::spawn_blocking(move || {
        follower.work();
        follower
    });
    let task = match first.await {
        Ok(follower) => {
            if follower.count() == 0 && !roots.pod_logs.exists() {
                tracing::info!("no pod of a kubelet here yet: events are told without pod names");
            } else {
                tracing::info!(pods = follower.count(), named = index.pods().len(), "pods of this node read");
            }
            tokio::spawn(follow::follow(follower, events, drain))
        }
        Err(error) => {
            tracing::error!(%error, "looking for pods failed: no pod is known");
            tokio::spawn(async {})
        }
    };
    (index, task)
}
