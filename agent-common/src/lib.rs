//! The wire between the kernel side and the user side: plain `#[repr(C)]` records and map keys, one module a probe.
#![no_std]

pub mod drops;
pub mod filter;
pub mod mtu;
pub mod quote;
pub mod slots;
#[cfg(test)]
mod tests;

/// What one hook's kernel side did with the events it was handed, per CPU.
///
/// `seen == written to the ring + filtered + limited + ring_full`; the user side completes the identity with what it read.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Calls of the hook that were no event of the probe. Where such calls can be many they are counted only where the loader
    /// asks (`doctor`): all that they show is that the hook *fires*.
    pub passed: u64,
    /// Events the hook was called for and that the probe counts.
    pub seen: u64,
    /// Events counted but not described: the user's filter does not want them.
    pub filtered: u64,
    /// Events counted but not described: their key's budget of records for this second was used up.
    pub limited: u64,
    /// Events counted but not described: the ring buffer had no room.
    pub ring_full: u64,
    /// Events whose row is missing from the counts: the map was full or its bucket busy.
    pub uncounted: u64,
}

impl Tally {
    /// Both added up.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            seen: self.seen + other.seen,
            filtered: self.filtered + other.filtered,
            limited: self.limited + other.limited,
            ring_full: self.ring_full + other.ring_full,
            uncounted: self.uncounted + other.uncounted,
        }
    }
}

/// Programs whose names begin so see no event, but what is worth knowing beside one: what the kernel leaves out of them is no event
/// that was missed.
pub const BESIDE: &str = "beside_";

/// Hooks one probe can have: entries of its array of [`Tally`].
pub const MAX_HOOKS: u32 = 16;

/// What is counted in one row of a probe's exact counts on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Events (packets, where an event is a packet; a GSO packet is one: it is one `sk_buff`).
    pub events: u64,
    /// Their lengths added up, in bytes (`skb->len`).
    pub bytes: u64,
    /// Of these, events that the user's filter wants and that are not described: the budget of records was used up.
    pub limited: u64,
    /// The lower half of `limited` when the last record was written: what has come since, that record did not speak for.
    pub limited_before: u32,
    /// The lower half of the window's number, in powers of two of jiffies since boot, that `recorded` belongs to.
    pub window: u16,
    /// Records written in that window.
    pub recorded: u16,
}

const _: () = assert!(size_of::<Count>() == 32);

/// A drop's reason where the kernel's tracepoint has no reason argument (5.10).
pub const NO_REASON: u32 = u32::MAX;

/// Width of a kernel interface name (`IFNAMSIZ`), the terminating zero included.
pub const IFNAMSIZ: usize = 16;

#[cfg(feature = "user")]
mod user {
    // SAFETY: `#[repr(C)]`, only integers and byte arrays, no padding (asserted beside each type): any bytes are valid.
    unsafe impl aya::Pod for super::Tally {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::drops::DropKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Count {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::mtu::MtuKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::filter::Pattern {}
}
