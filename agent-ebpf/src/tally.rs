//! Counts what became of each event, per hook and CPU, so that every loss is known exactly.

use agent_common::{MAX_HOOKS, Tally};
use aya_ebpf::Global;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;

#[map]
static TALLY: PerCpuArray<Tally> = PerCpuArray::with_max_entries(MAX_HOOKS, 0);

/// 1 where calls that are no event are counted as well.
#[unsafe(no_mangle)]
static COUNT_PASSED: Global<u32> = Global::new(0);

/// This CPU's tally of a hook, by its place in the probe's list. A program runs to its end on one CPU and does not nest
/// (the kernel refuses recursion), so plain additions are exact.
#[inline(always)]
#[must_use]
pub fn tally(hook: u32) -> Option<&'static mut Tally> {
    // SAFETY: per-CPU memory: this CPU's alone while the program runs.
    unsafe { TALLY.get_ptr_mut(hook)?.as_mut() }
}

/// The hook was called for something that is no event of the probe: `None`, for who says so and leaves.
#[inline(always)]
#[must_use]
pub fn passed(hook: u32) -> Option<()> {
    if COUNT_PASSED.load() != 0
        && let Some(tally) = tally(hook)
    {
        tally.passed += 1;
    }
    None
}

/// The hook was called, and what it tells is part of another hook's event. Such hooks are called seldom.
#[inline(always)]
pub fn called(hook: u32) {
    if let Some(tally) = tally(hook) {
        tally.passed += 1;
    }
}

/// An event of the hook came to pass that its program did not get to see: it is in no row.
#[inline(always)]
pub fn unseen(hook: u32) {
    if let Some(tally) = tally(hook) {
        tally.seen += 1;
        tally.uncounted += 1;
        tally.limited += 1;
    }
}
