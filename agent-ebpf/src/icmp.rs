//! The two ICMP messages that say that a packet is too large, by type and code.

const DEST_UNREACH: u8 = 3;
const FRAG_NEEDED: u8 = 4;
const PKT_TOOBIG: u8 = 2;

/// Whether this is IPv4's (RFC 1191).
#[inline(always)]
#[must_use]
pub const fn is_frag_needed(kind: u8, code: u8) -> bool {
    kind == DEST_UNREACH && code == FRAG_NEEDED
}

/// Whether this is IPv6's (RFC 4443, 3.2), whose code says nothing.
#[inline(always)]
#[must_use]
pub const fn is_packet_too_big(kind: u8) -> bool {
    kind == PKT_TOOBIG
}
