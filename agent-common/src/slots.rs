//! Where in a small set of bits an address of a pod leaves its mark: both sides must agree on it.

/// Words of 64 bits in the set.
pub const HINT_WORDS: u32 = 1024;

/// The bit of an address: an IPv4 one as a native word, an IPv6 one as the exclusive or of its two native words.
///
/// A multiplication spreads what neighbours differ in, the last bits of an address, over all of the number.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "sixteen bits are left of it")]
pub const fn slot_hint(address: u64) -> u32 {
    /// 2^64 divided by the golden ratio.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let bits = (HINT_WORDS * u64::BITS).trailing_zeros();
    (address.wrapping_mul(SPREAD) >> (u64::BITS - bits)) as u32
}
