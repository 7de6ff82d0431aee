//! What an event is about and whose it is: plain types that every other room may use.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::SystemTime;

mod pattern;

pub use pattern::PodPattern;

/// A Kubernetes pod on this node, as kubelet's own files name it.
///
/// The three parts come from `/var/log/pods/<namespace>_<name>_<uid>` and the pod's cgroup, so they are there with
/// no API server. All three are checked against Kubernetes' own name rules before a `Pod` is made: no byte of them
/// can break a line or a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pod {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Pod name.
    pub name: String,
    /// Pod uid as the cgroup has it (for a static pod: kubelet's config hash, not the mirror pod's uid).
    pub uid: String,
}

/// What an event is about. Only what the kernel itself said; never a guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// The slot the kernel side read from the maps at the moment of the event: exact even if the pod has gone since.
    Slot(Slot),
    /// An address in the host's routing domain.
    Address(IpAddr),
    /// Inode number of a network namespace.
    Netns(u32),
    /// Inode number of a cgroup v2 directory.
    Cgroup(u64),
}

/// A small number that stands for one pod in the kernel side's map keys. Zero is "no pod" on the wire.
///
/// A slot is given to another pod only after the pod is gone, its grace period has passed and
/// [`PodSlots::retire`] was called for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub NonZeroU16);

/// Slots in all: the pods of one node (kubelet's default limit is 110) and those not yet reaped.
pub const MAX_SLOTS: u16 = 2048;

impl Slot {
    /// The slot a record carries; `None` for zero.
    #[must_use]
    pub fn from_wire(raw: u16) -> Option<Self> {
        NonZeroU16::new(raw).map(Self)
    }
}

/// Answers whose a subject is. A look-up in memory: never waits, never guesses.
pub trait FindPod: Send + Sync {
    /// The pod that `subject` was at the time `at`, if that is known for certain.
    fn find_pod(&self, subject: Subject, at: SystemTime) -> Option<Arc<Pod>>;
}

/// What the kernel side can see of a pod without help: the keys of the slot maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SlotKey {
    /// A pod address that exactly one pod of this node holds.
    Address(IpAddr),
    /// The inode of a network namespace that exactly one pod of this node lives in (never the host's).
    Netns(u32),
}

/// The kernel side's slot maps of one probe, as the pod index fills them.
pub trait PodSlots: Send {
    /// From now on `key` is `slot`'s.
    ///
    /// # Errors
    /// The kernel refused the update (map full); the pod's events then fall back to user-space look-ups.
    fn bind(&mut self, key: SlotKey, slot: Slot) -> std::io::Result<()>;
    /// `key` is nobody's.
    fn unbind(&mut self, key: SlotKey);
    /// The pod of `slot` is gone for good: its series may go, its counts must be folded, the slot will be reused.
    fn retire(&mut self, slot: Slot);
}
