//! How much this node sends again at all: where little is lost, five copies of one segment are no matter of chance.

use agent_common::mtu::stall::{FIRST_COPIES, TIMEOUTS};
use agent_ebpf::counts::window;
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;

/// A window of this is so many windows of the counts', as a power of two: eight of about a second.
const WINDOWS_SHIFT: u32 = 3;

/// What all CPUs have sent again, in the window that is going on and in the one before. Two that add at once may lose one of
/// the two, and what is compared with it has room for that: an atomic addition would cost more than it is worth.
#[repr(C)]
#[derive(Clone, Copy)]
struct Again {
    window: u32,
    /// Before a third timeout: what is lost by chance is sent again like this, and is done with.
    first: [u32; 2],
    /// At a third timeout, which each segment that is stuck has once.
    stuck: [u32; 2],
    zero: u32,
}

#[map]
static AGAIN: Array<Again> = Array::with_max_entries(1, 0);

/// A segment is sent again, after so many timeouts.
#[inline(always)]
pub(crate) fn add(timeouts: u32) {
    let Some(again) = AGAIN.get_ptr_mut(0) else { return };
    let now = window() >> WINDOWS_SHIFT;
    // SAFETY: the map's own memory, of plain numbers. No reference is made: other CPUs write to it as well.
    unsafe {
        if now != (*again).window {
            let is_next = now == (*again).window.wrapping_add(1);
            (*again).first[1] = if is_next { (*again).first[0] } else { 0 };
            (*again).stuck[1] = if is_next { (*again).stuck[0] } else { 0 };
            (*again).first[0] = 0;
            (*again).stuck[0] = 0;
            (*again).window = now;
        }
        if timeouts < TIMEOUTS {
            (*again).first[0] += 1;
        } else if timeouts == TIMEOUTS {
            (*again).stuck[0] += 1;
        }
    }
}

/// Segments that were sent again for the first times, beyond those that got stuck, in the last 8 to 16 seconds.
#[inline(always)]
pub(crate) fn lost() -> u32 {
    let Some(again) = AGAIN.get_ptr(0) else { return u32::MAX };
    // SAFETY: as above.
    let ([first, first_before], [stuck, stuck_before]) = unsafe { ((*again).first, (*again).stuck) };
    let stuck = stuck.wrapping_add(stuck_before).wrapping_mul(FIRST_COPIES);
    first.wrapping_add(first_before).saturating_sub(stuck)
}
