//! Network namespaces that are not this process's: their numbers, and a thread that may enter them.
//!
//! Devices are asked for by the namespace's number, which needs `CAP_NET_ADMIN`. What has no such question (routes) is
//! asked by a socket made inside, which needs `CAP_SYS_ADMIN`; the thread that enters ends there and never comes back.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use nix::errno::Errno;
use nix::libc::{RTM_GETNSID, RTM_NEWNSID};
use nix::sched::{CloneFlags, setns};

use super::NetnsId;
use super::attributes::{find, put_number, signed};
use super::socket::{Netlink, SocketError};
use crate::pod::Pod;
use crate::rights::{self, Act, Cause, Refused, Right};

/// A namespace to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Whose it is; `None` for the host's.
    pub owner: Option<Arc<Pod>>,
    /// `/proc/<pid>/ns/net` of a process that lives in it.
    pub file: PathBuf,
    /// What its inode must be: the process may have ended, and its number may be another's now.
    pub inode: Option<u32>,
    /// Why it may be another than it is taken for; told with what was read of it.
    pub doubt: Option<&'static str>,
}

/// What could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// What, as in `routes and PMTU exceptions`.
    pub what: &'static str,
    /// Why, as in `needs CAP_SYS_ADMIN`.
    pub why: String,
}

impl Unread {
    /// Whether devices or routes are missing.
    #[must_use]
    pub fn is_of_ways(&self) -> bool {
        !super::beside::NAMES.contains(&self.what)
    }
}

/// A namespace held open: it stays that namespace whatever becomes of its processes.
pub(super) struct Held {
    pub(super) file: File,
    inode: u64,
}

impl Held {
    /// This process's own.
    pub(super) fn own() -> io::Result<Self> {
        Self::of(File::open("/proc/self/ns/net")?)
    }

    /// The one at this place.
    pub(super) fn open(place: &Place) -> Result<Self, String> {
        let held = rights::open_namespace(&place.file).and_then(Self::of).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                return "its process is gone".to_owned();
            }
            rights::why_io(Act::SeeNetns, &error)
                .map_or_else(|| error.to_string(), |refused| refused.to_string())
        })?;
        let other = place.inode.is_some_and(|inode| u64::from(inode) != held.inode);
        if other { Err("its process is gone".to_owned()) } else { Ok(held) }
    }

    fn of(file: File) -> io::Result<Self> {
        let inode = file.metadata()?.ino();
        Ok(Self { file, inode })
    }

    /// Whether a process's namespace is still this one.
    pub(super) fn is_at(&self, file: &std::path::Path) -> bool {
        std::fs::metadata(file).is_ok_and(|now| now.ino() == self.inode)
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        self.inode == other.inode
    }
}

// include/uapi/linux/net_namespace.h
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;

/// `struct rtgenmsg`, padded, and which namespace is meant.
fn body(held: &Held) -> Vec<u8> {
    let mut body = vec![0; 4];
    put_number(&mut body, NETNSA_FD, held.file.as_raw_fd().cast_unsigned());
    body
}

/// The number that a namespace has in the socket's; `None` if it has none.
pub(super) fn number(socket: &mut Netlink, held: &Held) -> Result<Option<NetnsId>, SocketError> {
    let mut id = None;
    socket.call(RTM_GETNSID, &body(held), |payload| {
        id = payload.get(4..).and_then(|attributes| find(attributes, NETNSA_NSID)).and_then(signed);
    })?;
    // NETNSA_NSID_NOT_ASSIGNED is -1.
    Ok(id.filter(|id| *id >= 0).map(NetnsId))
}

/// The number that a namespace has in the socket's; it is given one if it has none, as any veth into it would.
pub(super) fn numbered(socket: &mut Netlink, held: &Held) -> Result<NetnsId, SocketError> {
    if let Some(id) = number(socket, held)? {
        return Ok(id);
    }
    let mut body = body(held);
    put_number(&mut body, NETNSA_NSID, (-1_i32).cast_unsigned());
    match socket.call(RTM_NEWNSID, &body, |_| ()) {
        // Somebody else was quicker.
        Err(SocketError::Refused(code)) if code == Errno::EEXIST as i32 => {}
        other => other?,
    }
    number(socket, held)?.ok_or(SocketError::Garbled)
}

/// Does `work` with a number in the list and a socket in each of these namespaces, on a thread that ends with it; what came of each, in order.
pub(super) fn inside<T: Send>(
    namespaces: &[&Held],
    work: impl Fn(usize, &mut Netlink) -> Result<T, SocketError> + Sync,
) -> Vec<Result<T, SocketError>> {
    let one = |(at, held): (usize, &&Held)| {
        setns(held.file.as_fd(), CloneFlags::CLONE_NEWNET)
            .map_err(|errno| SocketError::Refused(errno as i32))?;
        work(at, &mut Netlink::open()?)
    };
    let all = || namespaces.iter().enumerate().map(one).collect();
    let failed = || namespaces.iter().map(|_| Err(SocketError::Garbled)).collect();
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, all);
        worker.map_or_else(|_| failed(), |worker| worker.join().unwrap_or_else(|_| failed()))
    })
}

/// Why something could not be read, for a person.
pub(super) fn why(error: &SocketError, act: Act) -> String {
    let refused = match error {
        SocketError::Refused(code) => rights::why(act, Errno::from_raw(*code), false),
        _ => None,
    };
    worded(error, refused)
}

fn worded(error: &SocketError, refused: Option<Refused>) -> String {
    match refused {
        // The DaemonSet does without it on purpose: it is not told to take it.
        Some(Refused { cause: Cause::Capability(rights), .. }) if rights == [Right::SysAdmin] => {
            "needs CAP_SYS_ADMIN".to_owned()
        }
        Some(refused) => refused.to_string(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
