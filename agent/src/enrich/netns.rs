//! The network namespace and the addresses a process lives with, read from `/proc` with no right to enter it.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, readlinkat};
use nix::sys::stat::{Mode, fstat};

/// Bytes read of one of a pod's files: a pod with `NET_ADMIN` may give itself a million addresses.
const MAX_FILE: u64 = 256 * 1024;

/// Bytes read of one of the host's files: a node with ipvs has thousands of service addresses.
const MAX_HOST_FILE: u64 = 16 * 1024 * 1024;

/// Addresses kept of one pod. Dual stack with a few secondary networks needs less than ten.
pub(super) const MAX_ADDRESSES: usize = 64;

/// Whether a list has all there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whole {
    Yes,
    No,
}

/// One process, held by its directory: when it ends, every read fails, even if its pid is given to another.
#[derive(Debug)]
pub(super) struct Process {
    dir: OwnedFd,
}

impl Process {
    /// Takes hold of process `pid` of the `/proc` mounted at `proc`.
    pub(super) fn open(proc: &Path, pid: u32) -> nix::Result<Self> {
        Self::open_dir(&proc.join(pid.to_string()))
    }

    /// Takes hold of this process.
    fn own() -> nix::Result<Self> {
        Self::open_dir(Path::new("/proc/self"))
    }

    fn open_dir(path: &Path) -> nix::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self { dir: open(path, flags, Mode::empty())? })
    }

    /// Inode of its network namespace. Needs `SYS_PTRACE` for a process of another user, and a security module that lets
    /// it: else `EACCES`.
    pub(super) fn netns(&self) -> nix::Result<u32> {
        // Linux 5.10 refuses with an empty name and no error.
        parse_netns(&readlinkat(&self.dir, "ns/net")?).ok_or(Errno::EACCES)
    }

    /// Its network namespace, held open: it lives as long as that, and cannot be taken for another.
    pub(super) fn hold_netns(&self) -> nix::Result<OwnedFd> {
        // Where it is refused, 5.10 opens what is no namespace.
        self.netns()?;
        openat(&self.dir, "ns/net", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
    }

    /// When it started, in clock ticks since boot: orders the processes of a pod.
    pub(super) fn started(&self) -> Option<u64> {
        parse_started(&self.read("stat", MAX_FILE)?)
    }

    /// The addresses that are local in the host's network namespace, of which this is a process.
    pub(super) fn addresses_of_host(&self) -> Option<(BTreeSet<IpAddr>, Whole)> {
        self.addresses_within(MAX_HOST_FILE, usize::MAX)
    }

    /// The addresses that are local in a pod's network namespace, at most [`MAX_ADDRESSES`].
    pub(super) fn addresses_of_pod(&self) -> Option<(BTreeSet<IpAddr>, Whole)> {
        self.addresses_within(MAX_FILE, MAX_ADDRESSES)
    }

    fn addresses_within(&self, bytes: u64, most: usize) -> Option<(BTreeSet<IpAddr>, Whole)> {
        let (mut addresses, mut whole) = (BTreeSet::new(), Whole::Yes);
        let mut keep = |address| {
            if addresses.len() < most {
                addresses.insert(address);
            } else if !addresses.contains(&address) {
                whole = Whole::No;
            }
        };
        let trie = self.read("net/fib_trie", bytes)?;
        local_v4(&trie, |address| keep(address.into()));
        // Not there on a kernel without IPv6.
        let listing = self.read("net/if_inet6", bytes).unwrap_or_default();
        global_v6(&listing, |address| keep(address.into()));
        if [trie, listing].iter().any(|file| file.len() as u64 >= bytes) {
            whole = Whole::No;
        }
        Some((addresses, whole))
    }

    fn read(&self, name: &str, limit: u64) -> Option<Vec<u8>> {
        let file = openat(&self.dir, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
        let mut bytes = Vec::new();
        File::from(file).take(limit).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }
}

/// What is the host's and therefore no pod's.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Host {
    /// The network namespaces of pid 1 and of this process.
    netns: BTreeSet<u32>,
    /// The addresses of the first: a pod that gives itself one of them does not get its packets.
    addresses: HashSet<IpAddr>,
}

impl Host {
    /// Reads it.
    ///
    /// # Errors
    /// The host's namespace cannot be seen: then no pod's can be told from it.
    pub(super) fn read(proc: &Path) -> nix::Result<Self> {
        let first = Process::open(proc, 1)?;
        let mut netns = BTreeSet::from([host_netns(proc)?]);
        netns.extend(Process::open_dir(&proc.join("self")).and_then(|own| own.netns()));
        let addresses = first.addresses_of_host().map(|(addresses, _)| addresses).unwrap_or_default();
        Ok(Self { netns, addresses: addresses.into_iter().collect() })
    }

    pub(super) fn has_netns(&self, netns: u32) -> bool {
        self.netns.contains(&netns)
    }

    pub(super) fn has_address(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }
}

/// Inode of the host's network namespace, pid 1's in `proc`; `None` if it cannot be seen.
#[must_use]
pub fn of_host(proc: &Path) -> Option<u32> {
    host_netns(proc).ok()
}

/// An agent that lives in it (`hostNetwork`) needs no right: its own is there for it to see.
fn host_netns(proc: &Path) -> nix::Result<u32> {
    if is_hosts(proc) == Some(true) { Process::own()?.netns() } else { Process::open(proc, 1)?.netns() }
}

/// Inode of this process's network namespace; `None` if it cannot be seen.
#[must_use]
pub fn own() -> Option<u32> {
    Process::own().and_then(|own| own.netns()).ok()
}

/// Holds the network namespace with this inode open, and names a process that lives in it; `None` if no process does that can
/// be seen. Reads all of `proc`: not for an async thread.
///
/// # Errors
/// None was found, and the kernel does not show where some process lives: that wants `CAP_SYS_PTRACE`.
pub fn hold(proc: &Path, inode: u32) -> nix::Result<Option<(u32, OwnedFd)>> {
    let mut refused = None;
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
        let held = Process::open(proc, pid).and_then(|process| {
            let lives_there = process.netns()? == inode;
            lives_there.then(|| process.hold_netns()).transpose()
        });
        match held {
            // It may have gone elsewhere since.
            Ok(Some(held)) if inode_of(&held) == Some(inode) => return Ok(Some((pid, held))),
            Err(error @ (Errno::EACCES | Errno::EPERM)) => refused = Some(error),
            // Elsewhere, or gone.
            Ok(_) | Err(_) => {}
        }
    }
    refused.map_or(Ok(None), Err)
}

/// Inode of a network namespace that is held open.
#[must_use]
pub fn inode_of(held: &OwnedFd) -> Option<u32> {
    u32::try_from(fstat(held).ok()?.st_ino).ok()
}

/// Whether this process lives in the network namespace of process 1 of `proc`; `None` if that cannot be seen. It takes no
/// right: a namespace has files of its own in each of its processes' `net`, with inodes of their own
/// (`proc_alloc_inum`, fs/proc/generic.c), and whoever sees a process may look at these.
#[must_use]
pub fn is_hosts(proc: &Path) -> Option<bool> {
    let inode = |path: &Path| fs::metadata(path).ok().map(|file| file.ino());
    Some(inode(&proc.join("1/net/dev"))? == inode(Path::new("/proc/self/net/dev"))?)
}

/// The inode in `net:[4026531840]`.
fn parse_netns(link: &OsStr) -> Option<u32> {
    let inode = link.as_bytes().strip_prefix(b"net:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(inode).ok()?.parse().ok()
}

/// Field 22 of `/proc/<pid>/stat`. The process chooses its own name, which may hold spaces, newlines and `)`: only
/// after the last `)` are the fields the kernel's alone.
fn parse_started(stat: &[u8]) -> Option<u64> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The local host entries of `/proc/<pid>/net/fib_trie`: a leaf `|-- 10.0.0.5` followed by `/32 host LOCAL`.
fn local_v4(trie: &[u8], mut found: impl FnMut(Ipv4Addr)) {
    let mut leaf = None;
    for line in trie.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii();
        if let Some(address) = line.strip_prefix(b"|-- ") {
            leaf = std::str::from_utf8(address).ok().and_then(|text| text.parse::<Ipv4Addr>().ok());
        } else if line == b"/32 host LOCAL"
            && let Some(address) = leaf
            && !address.is_loopback()
            && !address.is_unspecified()
        {
            found(address);
        }
    }
}

/// The global addresses of `/proc/<pid>/net/if_inet6`: address, ifindex, prefix length, scope, flags (hex), name.
fn global_v6(listing: &[u8], mut found: impl FnMut(Ipv6Addr)) {
    /// `IFA_F_DADFAILED`: someone else on the link holds it.
    const DUPLICATE: u32 = 0x08;
    let hex = |text: &str| u32::from_str_radix(text, 16).ok();
    for line in listing.split(|byte| *byte == b'\n') {
        // The interface's name, last on the line, may be anything but a slash.
        let line = String::from_utf8_lossy(line);
        let mut fields = line.split_ascii_whitespace();
        let (Some(address), Some(_ifindex), Some(_prefix), Some(scope), Some(flags)) =
            (fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let global = hex(scope) == Some(0) && hex(flags).is_some_and(|flags| flags & DUPLICATE == 0);
        if global
            && address.len() == 32
            && let Ok(address) = u128::from_str_radix(address, 16)
        {
            found(Ipv6Addr::from_bits(address));
        }
    }
}

#[cfg(test)]
mod tests;
