//! Exact counts, and the budget of records each row of them has: one look-up for both.

use agent_common::{Count, Tally};
use aya_ebpf::Global;
use aya_ebpf::helpers::generated::bpf_jiffies64;
use aya_ebpf::maps::PerCpuHashMap;

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

/// Adds one event of `len` bytes to its row. `Some(events held back since the last record)` if it may be
/// described too: it is `wanted`, and the row's budget is not used up.
#[inline(always)]
pub fn count<K>(
    counts: &PerCpuHashMap<K, Count>,
    tally: &mut Tally,
    key: &K,
    len: u32,
    wanted: impl Fn() -> bool,
) -> Option<u32> {
    // A row is looked at again within its window or soon after. One that has rested for just so many windows as there are
    // numbers is held back for a second too long.
    #[expect(clippy::cast_possible_truncation, reason = "a window is compared with its neighbours only")]
    let window = window() as u16;
    // SAFETY: per-CPU memory; the program does not nest on this CPU.
    let Some(row) = counts.get_ptr_mut(key).and_then(|row| unsafe { row.as_mut() }) else {
        let wanted = wanted();
        let bytes = u64::from(len);
        let first =
            Count { events: 1, bytes, limited: 0, limited_before: 0, window, recorded: u16::from(wanted) };
        // BPF_ANY: if another CPU made the row meanwhile, this sets only our own, still empty, part of it.
        let counted = counts.insert(key, first, 0).is_ok();
        if !counted {
            tally.uncounted += 1;
        }
        if !wanted {
            tally.filtered += 1;
        } else if !counted {
            tally.limited += 1;
        }
        return if wanted && counted { Some(0) } else { None };
    };
    row.events += 1;
    row.bytes += u64::from(len);
    if !wanted() {
        tally.filtered += 1;
        return None;
    }
    if row.window != window {
        row.window = window;
        row.recorded = 0;
    }
    if u32::from(row.recorded) >= RECORDS_PER_WINDOW.load() {
        tally.limited += 1;
        row.limited += 1;
        return None;
    }
    row.recorded += 1;
    #[expect(clippy::cast_possible_truncation, reason = "the difference of two lower halves")]
    let limited = row.limited as u32;
    let held = limited.wrapping_sub(row.limited_before);
    row.limited_before = limited;
    Some(held)
}
