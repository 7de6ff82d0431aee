//! Counts what became of each event, per CPU, so that every loss is known exactly.

use agent_common::Tally;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;

#[map]
static TALLY: PerCpuArray<Tally> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's tally. A program runs to its end on one CPU and does not nest (the kernel refuses recursion),
/// so plain additions are exact.
#[inline(always)]
#[must_use]
pub fn tally() -> Option<&'static mut Tally> {
    // SAFETY: index 0 of a one-entry per-CPU array; the memory is this CPU's alone while the program runs.
    unsafe { TALLY.get_ptr_mut(0)?.as_mut() }
}
