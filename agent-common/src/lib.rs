//! The wire between the kernel side and the user side: plain `#[repr(C)]` records and map keys, one module a probe.
#![no_std]

pub mod drops;
pub mod slots;

/// What one probe's kernel side did with the events it was handed, per CPU.
///
/// `seen == written to the ring + limited + ring_full`; the user side completes the identity with what it read.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Events the hook was called for and that the probe counts (the hook has *fired*, not only attached).
    pub seen: u64,
    /// Events counted but not described: their key's budget of records for this second was used up.
    pub limited: u64,
    /// Events counted but not described: the ring buffer had no room.
    pub ring_full: u64,
    /// Events whose row is missing from the counts: the map was full or its bucket busy.
    pub uncounted: u64,
}

/// Width of a kernel interface name (`IFNAMSIZ`), the terminating zero included.
pub const IFNAMSIZ: usize = 16;

#[cfg(feature = "user")]
mod user {
    // SAFETY: `#[repr(C)]`, only integers and byte arrays, no padding (asserted beside each type): any bytes are valid.
    unsafe impl aya::Pod for super::Tally {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::drops::DropKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::drops::DropCount {}
}
