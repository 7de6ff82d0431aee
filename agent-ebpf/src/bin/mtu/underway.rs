//! The message that a CPU is working on, from a function's entry to its end: what happens in between is its fate.

use agent_common::mtu::Fate;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;

/// A message that is being worked on. Softirqs do not interrupt each other, so there is one a CPU at a time.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Underway {
    skb: u64,
    /// The MTU that it tells, if that is known before its end: of ICMPv6.
    pub(crate) mtu: u32,
    /// Bits: what has happened to it so far.
    done: u32,
}

/// The route cache learned from it.
pub(crate) const LEARNED: u32 = 1;
/// TCP or UDP found the socket that it is for.
pub(crate) const TAKEN: u32 = 1 << 1;
/// TCP or UDP found no such socket.
pub(crate) const STRAY: u32 = 1 << 2;
/// It was handed to the device.
pub(crate) const PUSHED: u32 = 1 << 3;

#[map]
static UNDERWAY: PerCpuArray<Underway> = PerCpuArray::with_max_entries(1, 0);

/// The last packet-too-big message on this CPU that has come to whom it is for.
#[map]
static DELIVERED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// It has come to whom it is for.
#[inline(always)]
pub(crate) fn delivered(skb: *const u8) {
    if let Some(last) = DELIVERED.get_ptr_mut(0) {
        // SAFETY: per-CPU memory: this CPU's alone while the program runs.
        unsafe { *last = skb as u64 };
    }
}

/// Whether this is the message that has just come to whom it is for: up to 6.1 `icmpv6_rcv` then frees it like one that is
/// lost, with no reason given.
#[inline(always)]
pub(crate) fn was_delivered(skb: *const u8) -> bool {
    // SAFETY: as above.
    let Some(last) = DELIVERED.get_ptr_mut(0).and_then(|last| unsafe { last.as_mut() }) else { return false };
    let is_it = *last == skb as u64;
    if is_it {
        *last = 0;
    }
    is_it
}

#[inline(always)]
fn slot() -> Option<&'static mut Underway> {
    // SAFETY: per-CPU memory: this CPU's alone while the program runs.
    unsafe { UNDERWAY.get_ptr_mut(0)?.as_mut() }
}

/// Work on a message begins; with NULL, on something that is none.
#[inline(always)]
pub(crate) fn begin(skb: *const u8, mtu: u32) -> Option<()> {
    *slot()? = Underway { skb: skb as u64, mtu, done: 0 };
    Some(())
}

/// Something happened; if that is in the middle of a message, to that. A task that learns a path MTU of its own accord is in
/// the middle of none: softirqs end before it goes on.
#[inline(always)]
pub(crate) fn note(done: u32) -> Option<()> {
    let slot = slot()?;
    if slot.skb == 0 {
        return None;
    }
    slot.done |= done;
    Some(())
}

/// The message whose work ends now; `None` if it is none.
#[inline(always)]
pub(crate) fn take() -> Option<Underway> {
    let slot = slot()?;
    let ended = *slot;
    slot.skb = 0;
    (ended.skb != 0).then_some(ended)
}

impl Underway {
    #[inline(always)]
    pub(crate) const fn skb(&self) -> *const u8 {
        self.skb as *const u8
    }

    #[inline(always)]
    pub(crate) const fn has(&self, done: u32) -> bool {
        self.done & done != 0
    }

    /// What became of a received message; `is_heard` says that whoever it is for would have been heard.
    #[inline(always)]
    pub(crate) const fn fate(&self, is_heard: bool) -> Fate {
        // Of UDP the route cache learns what nobody is there for, too (seen on 6.12.117: `udp_err` calls `ipv4_update_pmtu` and
        // fails). Who sent nothing is not to be believed a victim.
        if self.has(STRAY) && !self.has(TAKEN) {
            Fate::NoSocket
        } else if self.has(LEARNED) {
            Fate::Learned
        } else if self.has(TAKEN) {
            Fate::Delivered
        } else if is_heard {
            Fate::Ignored
        } else {
            Fate::Unknown
        }
    }
}
