//! Exact counts, and the budget of records each row of them has: one look-up for both.

use core::mem::{MaybeUninit, offset_of};

use agent_common::Count;
use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::generated::bpf_jiffies64;
use aya_ebpf::maps::PerCpuHashMap;

use crate::kernel;
use crate::tally::{HookTally, add};

/// Records a row and CPU may write in a window.
#[unsafe(no_mangle)]
static RECORDS_PER_WINDOW: Global<u32> = Global::new(8);
/// A window's length: so often jiffies must be halved for windows to be counted. About a second, which is a power of two
/// of jiffies or close to it. Jiffies are two loads, where a clock is fifty instructions.
#[unsafe(no_mangle)]
static WINDOW_SHIFT: Global<u32> = Global::new(8);

/// The window that is going on, by number.
#[inline(always)]
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "a window is compared with its neighbours only")]
pub fn window() -> u32 {
    // SAFETY: no argument.
    (unsafe { bpf_jiffies64() } >> WINDOW_SHIFT.load()) as u32
}

/// An event that may be described.
#[derive(Clone, Copy)]
pub struct Admitted {
    /// Events of its row and CPU that were held back since the last record.
    pub held: u32,
    /// It uses the budget up: what follows in this window is held back.
    pub is_last: bool,
}

/// Adds one event of `len` bytes to its row. `Some` if it may be described too: it is `wanted`, and the row's budget is not
/// used up.
///
/// An interrupt in the middle of this may count another event in the same row (see [`tally`](crate::tally::tally)). The
/// counts are exact all the same. The budget is not: then one more record is written than it allows, or two records speak for
/// the same events that were held back. No count is made of what records speak for.
#[inline(always)]
pub fn count<K>(
    counts: &PerCpuHashMap<K, Count>,
    tally: HookTally,
    key: &K,
    len: u32,
    wanted: impl Fn() -> bool,
) -> Option<Admitted> {
    // A row is looked at again within its window or soon after. One that has rested for just so many windows as there are
    // numbers is held back for a second too long.
    #[expect(clippy::cast_possible_truncation, reason = "a window is compared with its neighbours only")]
    let window = window() as u16;
    let row = counts.get_ptr_mut(key).or_else(|| make(counts, key));
    // SAFETY: this CPU's part of the row. No reference is made: an interrupt writes to it as well.
    unsafe {
        if let Some(row) = row {
            add::<{ offset_of!(Count, events) }>(row.cast(), 1);
            add::<{ offset_of!(Count, bytes) }>(row.cast(), len.into());
        } else {
            tally.uncounted();
        }
        if !wanted() {
            tally.filtered();
            return None;
        }
        let Some(row) = row else {
            tally.limited();
            return None;
        };
        if (*row).window != window {
            (*row).window = window;
            (*row).recorded = 0;
        }
        if u32::from((*row).recorded) >= RECORDS_PER_WINDOW.load() {
            tally.limited();
            add::<{ offset_of!(Count, limited) }>(row.cast(), 1);
            return None;
        }
        (*row).recorded += 1;
        #[expect(clippy::cast_possible_truncation, reason = "the difference of two lower halves")]
        let limited = (*row).limited as u32;
        let held = limited.wrapping_sub((*row).limited_before);
        (*row).limited_before = limited;
        let is_last = u32::from((*row).recorded) >= RECORDS_PER_WINDOW.load();
        Some(Admitted { held, is_last })
    }
}

/// The row of a key that had none; `None` if the map is full or busy.
#[inline(always)]
fn make<K>(counts: &PerCpuHashMap<K, Count>, key: &K) -> Option<*mut Count> {
    let mut empty = MaybeUninit::<Count>::uninit();
    // SAFETY: all of it is cleared, and zeroes are a valid count.
    let empty = unsafe {
        kernel::clear(empty.as_mut_ptr());
        empty.assume_init_ref()
    };
    // What an interrupt has made and counted in meanwhile must stay: it is found as well as what is made here.
    let _ = counts.insert(key, empty, u64::from(BPF_NOEXIST));
    counts.get_ptr_mut(key)
}
