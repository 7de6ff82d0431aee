//! A packet that one hook has just seen, for another hook of the same CPU to know again.

use aya_ebpf::helpers::generated::bpf_jiffies64;
use aya_ebpf::maps::PerCpuArray;

/// The packet, and when it was noted.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Noted {
    skb: u64,
    /// In jiffies.
    at: u64,
}

/// Whether that was a moment ago, in jiffies. An skb's address may be another's later, but an interrupt may have come in
/// between.
#[inline(always)]
#[must_use]
pub fn is_just(at: u64) -> bool {
    // 25 to 250 ms.
    is_within(at, 25)
}

/// Whether that was at most so many jiffies ago.
#[inline(always)]
#[must_use]
pub fn is_within(at: u64, jiffies: u64) -> bool {
    // SAFETY: no argument.
    let now = unsafe { bpf_jiffies64() };
    now.wrapping_sub(at) <= jiffies
}

/// Notes a packet in the place of the one before.
#[inline(always)]
pub fn note(noted: &PerCpuArray<Noted>, skb: *const u8) -> Option<()> {
    let noted = noted.get_ptr_mut(0)?;
    // SAFETY: per-CPU memory; `bpf_jiffies64` has no argument.
    unsafe { *noted = Noted { skb: skb as u64, at: bpf_jiffies64() } };
    Some(())
}

/// Whether this packet has just been noted. It is not noted any more then.
#[inline(always)]
#[must_use]
pub fn take(noted: &PerCpuArray<Noted>, skb: *const u8) -> bool {
    // SAFETY: per-CPU memory.
    let Some(noted) = noted.get_ptr_mut(0).and_then(|noted| unsafe { noted.as_mut() }) else { return false };
    let is_it = noted.skb == skb as u64 && is_just(noted.at);
    if is_it {
        // No moment ago: jiffies begin near the end of 32 bits.
        *noted = Noted { skb: 0, at: 0 };
    }
    is_it
}
