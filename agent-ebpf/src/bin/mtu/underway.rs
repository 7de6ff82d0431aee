//! The messages that a CPU is working on, from a function's entry to its end: what happens in between is their fate.

use agent_common::mtu::Fate;
use agent_ebpf::noted::{self, Noted};
use agent_ebpf::tally::unseen;
use aya_ebpf::helpers::generated::bpf_jiffies64;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;

/// A message that is being worked on, or something else by the same function.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Underway {
    /// NULL in an empty slot.
    skb: u64,
    /// Whose function works on it: an [`agent_common::mtu::hook`].
    hook: u32,
    /// The MTU that it tells, if that is known before its end: of ICMPv6.
    pub(crate) mtu: u32,
    /// Bits: what has happened to it so far.
    done: u32,
    zero: u32,
}

/// The route cache learned from it.
pub(crate) const LEARNED: u32 = 1;
/// TCP or UDP found the socket that it is for.
pub(crate) const TAKEN: u32 = 1 << 1;
/// TCP or UDP found no such socket.
pub(crate) const STRAY: u32 = 1 << 2;
/// It was handed to the device.
pub(crate) const PUSHED: u32 = 1 << 3;
/// The kernel has locked its ICMP socket for it, and looks for a way back.
pub(crate) const ROUTING: u32 = 1 << 4;
/// It began while the kernel was sending another of its family, so that the ICMP socket was locked.
pub(crate) const NESTED: u32 = 1 << 5;
/// It is not about a packet's size: it only keeps what happens in it from the message around it.
const OTHER: u32 = 1 << 31;

/// What a CPU works on, the innermost first. Two, because one message can be worked on inside another: `ip6ip6_err`, which
/// `icmpv6_notify` calls, sends one of its own (`icmp6_send`), and a softirq may receive one while a task sends one.
///
/// A third pushes the outermost out. So does, in time, whatever fills a slot whose end never came (a kretprobe that had no
/// instance left, a task that went on on another CPU).
#[repr(C)]
struct Nested {
    inner: Underway,
    outer: Underway,
}

#[map]
static UNDERWAY: PerCpuArray<Nested> = PerCpuArray::with_max_entries(1, 0);

/// The last packet-too-big message on this CPU that reached its receiver.
#[map]
static DELIVERED: PerCpuArray<Noted> = PerCpuArray::with_max_entries(1, 0);

/// When this CPU began to send an ICMP message of the kernel's that it has not handed on yet, in jiffies; 0 if there is none.
/// IPv4's and IPv6's have a socket each.
#[map]
static SENDING: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);

/// Which of them.
#[derive(Clone, Copy)]
pub(crate) enum Family {
    V4 = 0,
    V6 = 1,
}

/// The kernel hands an ICMP message to the stack: one that is underway is past all limits. Until that returns its socket is
/// locked.
#[inline(always)]
pub(crate) fn sending(family: Family) -> Option<()> {
    let sending = SENDING.get_ptr_mut(family as u32)?;
    // SAFETY: per-CPU memory; no argument. Never 0: jiffies begin near the end of 32 bits.
    unsafe { *sending = bpf_jiffies64() | 1 };
    note(PUSHED)
}

/// It is handed on.
#[inline(always)]
pub(crate) fn sent(family: Family) -> Option<()> {
    let sending = SENDING.get_ptr_mut(family as u32)?;
    // SAFETY: per-CPU memory.
    unsafe { *sending = 0 };
    Some(())
}

/// [`NESTED`] if such a message is being sent. One whose end was missed is forgotten after a moment.
#[inline(always)]
fn nested_in(family: Family) -> u32 {
    // SAFETY: per-CPU memory.
    let since = SENDING.get_ptr_mut(family as u32).map_or(0, |since| unsafe { *since });
    // A virtual CPU may be taken away in the middle of one: 1 to 10 s. Only a kretprobe that runs out of instances misses an end.
    // Its lowest bit is set: without it a message in the same even jiffy would begin before the one around it.
    if since != 0 && noted::is_within(since & !1, 1000) { NESTED } else { 0 }
}

/// It reached its receiver.
#[inline(always)]
pub(crate) fn delivered(skb: *const u8) {
    let _ = noted::note(&DELIVERED, skb);
}

/// Whether this is the message that has just reached its receiver: up to 6.1 `icmpv6_rcv` then frees it like one that is
/// lost, with no reason given. Later kernels do not, and the address stays until another message's takes its place.
#[inline(always)]
pub(crate) fn was_delivered(skb: *const u8) -> bool {
    noted::take(&DELIVERED, skb)
}

#[inline(always)]
fn nested() -> Option<&'static mut Nested> {
    // SAFETY: per-CPU memory. A softirq that interrupts this leaves it as it was.
    unsafe { UNDERWAY.get_ptr_mut(0)?.as_mut() }
}

/// Work on a message about a packet's size begins, or on one that may be about it.
#[inline(always)]
pub(crate) fn begin(hook: u32, skb: *const u8, mtu: u32) -> Option<()> {
    push(Underway { skb: skb as u64, hook, mtu, done: 0, zero: 0 })
}

/// The kernel begins to make such a message.
#[inline(always)]
pub(crate) fn begin_making(hook: u32, skb: *const u8, mtu: u32, family: Family) -> Option<()> {
    push(Underway { skb: skb as u64, hook, mtu, done: nested_in(family), zero: 0 })
}

/// Work on something else begins.
#[inline(always)]
pub(crate) fn begin_other(hook: u32, skb: *const u8) {
    push(Underway { skb: skb as u64, hook, mtu: 0, done: OTHER, zero: 0 });
}

#[inline(always)]
fn push(begun: Underway) -> Option<()> {
    let nested = nested()?;
    let (hook, mtu) = (nested.outer.hook, nested.outer.mtu);
    nested.outer = nested.inner;
    nested.inner = begun;
    // Its end will find nothing. Of what is known to be a message that must be said.
    if mtu != 0 {
        unseen(hook);
    }
    Some(())
}

/// Something happened; if that is in the middle of a message, to that. A task that learns a path MTU of its own accord is in
/// the middle of none: softirqs end before it goes on.
#[inline(always)]
pub(crate) fn note(done: u32) -> Option<()> {
    let inner = &mut nested()?.inner;
    if inner.skb == 0 {
        return None;
    }
    inner.done |= done;
    Some(())
}

/// The message whose work by the function of `hook` ends now; `None` if it is none. `skb` is NULL where it cannot be told any
/// more: then it is the innermost of that function's.
#[inline(always)]
pub(crate) fn end(hook: u32, skb: *const u8) -> Option<Underway> {
    let nested = nested()?;
    let ended = if nested.inner.is_of(hook, skb) {
        let ended = nested.inner;
        nested.inner = nested.outer;
        ended
    } else if nested.outer.is_of(hook, skb) {
        // The inner one's end never came, or it is another task's that was preempted.
        nested.outer
    } else {
        return None;
    };
    nested.outer = Underway { skb: 0, hook: 0, mtu: 0, done: 0, zero: 0 };
    (!ended.has(OTHER)).then_some(ended)
}

impl Underway {
    /// Whether this is the function's work on `skb`, or its work on anything if that is NULL.
    #[inline(always)]
    fn is_of(&self, hook: u32, skb: *const u8) -> bool {
        self.skb != 0 && self.hook == hook && (skb.is_null() || self.skb == skb as u64)
    }

    #[inline(always)]
    pub(crate) const fn skb(&self) -> *const u8 {
        self.skb as *const u8
    }

    #[inline(always)]
    pub(crate) const fn has(&self, done: u32) -> bool {
        self.done & done != 0
    }

    /// What became of a message that was made, where all that tells of it is attached.
    #[inline(always)]
    pub(crate) const fn made(&self, family: Family) -> Fate {
        if self.has(PUSHED) {
            Fate::Unknown
        } else if self.has(ROUTING) {
            Fate::NoRoute
        } else if self.has(NESTED) {
            Fate::Nested
        } else if matches!(family, Family::V6) {
            // Before the lock only the limits are asked; IPv4 knows none for these (`icmpv4_mask_allow`), but refuses to answer
            // some packets.
            Fate::Limited
        } else {
            Fate::Unsent
        }
    }

    /// What became of a received message; `is_heard` says that whoever it is for would have been heard.
    #[inline(always)]
    pub(crate) const fn fate(&self, is_heard: bool) -> Fate {
        // For UDP the route cache learns even if no socket matches (seen on 6.12.117: `udp_err` calls `ipv4_update_pmtu` and
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
