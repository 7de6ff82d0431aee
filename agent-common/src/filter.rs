//! What a trace's user wants to see, as the kernel side compares it: before the budget of records, so that a storm of what is
//! not wanted hides nothing.

/// Sixteen bytes, and the bits of them that count.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pattern {
    /// What they must be; zero where `mask` is.
    pub value: [u64; 2],
    /// The bits that are compared.
    pub mask: [u64; 2],
}

const _: () = assert!(size_of::<Pattern>() == 32);

impl Pattern {
    /// Whether these sixteen bytes fit.
    #[inline(always)]
    #[expect(
        clippy::inline_always,
        reason = "a BPF program may not call it: old kernels panic of such programs"
    )]
    #[must_use]
    pub const fn fits(&self, words: [u64; 2]) -> bool {
        ((words[0] & self.mask[0]) ^ self.value[0]) | ((words[1] & self.mask[1]) ^ self.value[1]) == 0
    }
}

/// Patterns of each kind. The kernel side walks through them for each event.
pub const MAX_PATTERNS: u32 = 16;

/// Where the patterns of addresses begin in the map: an IPv4 address is compared as IPv6 writes it, `::ffff:10.0.0.1`.
pub const NETWORKS: u32 = 0;

/// Where those of interfaces' names begin: the terminating zero is part of what is compared, what is behind it is not.
pub const INTERFACES: u32 = MAX_PATTERNS;

/// Words of the map of ports, of which each bit is one.
pub const PORT_WORDS: u32 = 65_536 / u64::BITS;

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn only_the_bits_that_count_are_compared() {
        let pattern = Pattern { value: [0x0a00, 0], mask: [0xff00, 0] };
        assert!(pattern.fits([0x0a12, 99]));
        assert!(!pattern.fits([0x0b12, 99]));
        assert!(Pattern::default().fits([1, 2]));
    }
}
