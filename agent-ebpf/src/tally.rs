//! Counts what became of each event, per hook and CPU, so that every loss is known exactly.

use core::mem::offset_of;

use agent_common::{MAX_HOOKS, Tally};
use aya_ebpf::Global;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;

#[map]
static TALLY: PerCpuArray<Tally> = PerCpuArray::with_max_entries(MAX_HOOKS, 0);

/// 1 where calls that are no event are counted as well.
#[unsafe(no_mangle)]
static COUNT_PASSED: Global<u32> = Global::new(0);

/// Adds to the number at `base + AT`, which an interrupt may be adding to as well: see [`tally`].
///
/// One instruction, which every kernel has. The compiler has no word for it: of the target it knows that there is no
/// compare-and-swap before 5.12 (`BPF_FETCH`), and so it offers no atomic addition either.
///
/// # Safety
/// There is an aligned number in a map's memory.
#[inline(always)]
pub(crate) unsafe fn add<const AT: usize>(base: *mut u8, number: u64) {
    // SAFETY: the caller's; whoever else writes to it does so by this function.
    #[cfg(target_arch = "bpf")]
    unsafe {
        core::arch::asm!(
            "lock *(u64 *)({base} + {at}) += {number}",
            base = in(reg) base,
            at = const AT,
            number = in(reg) number,
            options(nostack),
        );
    }
    // Only looked at by lints, never run.
    // SAFETY: the caller's.
    #[cfg(not(target_arch = "bpf"))]
    unsafe {
        *base.add(AT).cast::<u64>() += number;
    }
}

/// This CPU's tally of a hook.
#[derive(Clone, Copy)]
pub struct HookTally(*mut Tally);

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident)*) => {
        impl HookTally {
            $($(#[$doc])*
            #[inline(always)]
            pub fn $name(self) {
                // SAFETY: made by `tally`, of the map's own memory.
                unsafe { add::<{ offset_of!(Tally, $name) }>(self.0.cast(), 1) };
            })*
        }
    };
}

counters! {
    /// Counts a call that was no event.
    passed
    /// Counts an event.
    seen
    /// Counts an event that the user's filter does not want.
    filtered
    /// Counts an event whose row's budget of records was used up.
    limited
    /// Counts a record that the ring had no room for.
    ring_full
    /// Counts an event that is in no row.
    uncounted
}

/// This CPU's tally of a hook, by its place in the probe's list.
///
/// A program runs to its end on one CPU, but an interrupt in the middle of it may free another packet and run it again there.
/// Up to 5.15 nothing keeps a program on a raw or typed tracepoint from that, and 5.10 none on a function's entry either:
/// plain additions would lose what was added in between. From 6.1 on (functions' entries: 5.12) the kernel passes over such an
/// event, and counts it (`recursion_misses`). On breakpoints and classic tracepoints every kernel passes over it
/// (`trace_call_bpf`), also while a map is being read on this CPU (`bpf_disable_instrumentation`), and counts it from 6.7 on.
#[inline(always)]
#[must_use]
pub fn tally(hook: u32) -> Option<HookTally> {
    TALLY.get_ptr_mut(hook).map(HookTally)
}

/// The hook was called for something that is no event of the probe: `None`, so that the caller can return it.
#[inline(always)]
#[must_use]
pub fn passed(hook: u32) -> Option<()> {
    if COUNT_PASSED.load() != 0 {
        tally(hook)?.passed();
    }
    None
}

/// The hook was called, and what it tells is part of another hook's event. Such hooks are called seldom.
#[inline(always)]
pub fn called(hook: u32) {
    if let Some(tally) = tally(hook) {
        tally.passed();
    }
}

/// An event of the hook came to pass that its program did not get to see: it is in no row.
#[inline(always)]
pub fn unseen(hook: u32) {
    if let Some(tally) = tally(hook) {
        tally.seen();
        tally.uncounted();
        tally.limited();
    }
}
