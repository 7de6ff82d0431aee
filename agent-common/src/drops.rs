//! What the drops probe's kernel side counts and records of a dropped packet.

use crate::IFNAMSIZ;
#[cfg(doc)]
use crate::NO_REASON;
use crate::quote::HEADER;

/// The probe's hooks, by their place in its list, which the tallies go by.
pub mod hook {
    /// `kfree_skb`
    pub const KFREE_SKB: u32 = 0;
    /// `__icmp_send`
    pub const ICMP_SEND: u32 = 1;
    /// `icmp6_send`
    pub const ICMP6_SEND: u32 = 2;
    /// How many there are.
    pub const COUNT: usize = 3;
}

/// Which way a dropped packet was going, seen from the network namespace it died in.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// The kernel did not say.
    Unknown = 0,
    /// It had come in by a device and was for this namespace (or not yet routed).
    Received = 1,
    /// It was made by a socket or the kernel of this namespace.
    Sent = 2,
    /// It had come in by a device and was to leave by another.
    Forwarded = 3,
}

impl Direction {
    /// The direction a record or key carries; `None` for a value this version does not know, which is not
    /// [`Direction::Unknown`].
    #[must_use]
    pub const fn from_wire(raw: u8) -> Option<Self> {
        Some(match raw {
            0 => Self::Unknown,
            1 => Self::Received,
            2 => Self::Sent,
            3 => Self::Forwarded,
            _ => return None,
        })
    }
}

/// One row of the exact counts.
///
/// Sixteen bytes and no more: the hash of the key is the larger part of what a counted drop costs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DropKey {
    /// Low half of the kernel text address the packet was freed from. Kernel and modules lie within 4 GiB of each
    /// other on x86_64 and arm64, so it names one place.
    pub place: u32,
    /// `enum skb_drop_reason` of the running kernel, subsystem in the upper half; [`NO_REASON`] where the kernel gives none.
    pub reason: u32,
    /// Slot of the pod the packet came from, 0 if none is known.
    pub source: u16,
    /// Slot of the pod the packet was going to, 0 if none is known.
    pub destination: u16,
    /// [`Direction`].
    pub direction: u8,
    /// IP version (4, 6), or 0 for a packet that is not IP or could not be read.
    pub ip_version: u8,
    /// [`circumstance`]: facts about the packet and its device that the reason does not tell.
    pub circumstances: u16,
}

/// Bits of [`DropKey::circumstances`]. Each is a fact the kernel side has read; what it means together with the reason and the
/// place is for the user side to say.
pub mod circumstance {
    /// It was on its way out by a bridge that has no ports, which reaches nobody.
    pub const PORTLESS: u16 = 1;
    /// It was sent to a group or to all: by its link-layer type, or by its IP destination.
    pub const GROUP: u16 = 1 << 1;
    /// Its device is not up, or the kernel has attached no queue to it yet (`noop`).
    pub const DOWN: u16 = 1 << 2;
    /// Its device is up and has no carrier.
    pub const NO_CARRIER: u16 = 1 << 3;
    /// Its data begin behind its own IP header, and it is on no device: a piece of a reassembled packet.
    pub const PIECE: u16 = 1 << 4;
    /// It is larger than its device's MTU, and will not be segmented.
    pub const LONG: u16 = 1 << 5;
    /// It is IPv6, and its device's MTU is below what IPv6 needs: the kernel turns IPv6 off there.
    pub const BELOW_IPV6: u16 = 1 << 6;
    /// It was routed, so conntrack has looked at it, and it belongs to no connection: what rules call INVALID, where conntrack
    /// is in use at all. Only told of what netfilter dropped.
    pub const UNTRACKED: u16 = 1 << 7;
    /// Its source and its destination are the same address.
    pub const TO_ITSELF: u16 = 1 << 8;
    /// It is empty, or it is on no device and has neither a protocol nor a header: a message of netlink or a unix socket.
    pub const NO_PACKET: u16 = 1 << 9;
    /// Its frame was for another station.
    pub const OTHERS: u16 = 1 << 10;
    /// It is ARP, IPv6's neighbour discovery, or an ICMP redirect, with which kernels tell each other the way.
    pub const DISCOVERY: u16 = 1 << 11;
    /// The kernel has just made a message about it: it is too large.
    pub const TOLD: u16 = 1 << 12;
    /// It is a TCP segment that resets a connection, or one without payload and SYN. The kernel side sets this only if the reason
    /// is `NO_SOCKET`, or there is none.
    pub const ENDING: u16 = 1 << 13;
    /// Both of these, which no TCP segment has: it is an ICMP or ICMPv6 redirect. All 16 bits are taken.
    pub const REDIRECT: u16 = DISCOVERY | ENDING;

    /// Whether these bits say that it is a redirect.
    #[must_use]
    pub const fn is_redirect(bits: u16) -> bool {
        bits & REDIRECT == REDIRECT
    }
    /// Its frame was for another station, and its destination is the address of the pod in whose namespace it died, or, in the host's,
    /// of any pod of this node.
    pub const OWN_ADDRESS: u16 = 1 << 14;
    /// Its frame was for another station and came in by a bridge's port that leads out of this node (a NIC, a bond, a team, a VLAN),
    /// and by its addresses neither end is a pod here.
    pub const STRANGERS: u16 = 1 << 15;
}

/// Bits of [`DropRecord::flags`].
pub mod flags {
    /// The IP header was read: addresses, protocol and TTL are valid.
    pub const HAS_IP: u8 = 1;
    /// The first four bytes of the transport header were read: ports, or ICMP type and code.
    pub const HAS_TRANSPORT: u8 = 1 << 1;
    /// IPv4's don't-fragment bit.
    pub const DONT_FRAGMENT: u8 = 1 << 2;
    /// An IPv4 fragment other than the first.
    pub const LATER_FRAGMENT: u8 = 1 << 3;
    /// A socket owned the packet or was to receive it.
    pub const HAS_SOCKET: u8 = 1 << 4;
    /// It died in a network namespace that is neither the host's nor a known pod's: the same addresses may be somebody
    /// else's there.
    pub const FOREIGN: u8 = 1 << 5;
}

/// One dropped packet, as the kernel saw it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropRecord {
    /// `bpf_ktime_get_ns`: `CLOCK_MONOTONIC`, ns.
    pub ktime_ns: u64,
    /// Kernel text address the packet was freed from.
    pub location: u64,
    /// Packets with the same key on the same CPU since the last record, which this record speaks for too.
    pub held: u64,
    /// As [`DropKey::reason`].
    pub reason: u32,
    /// `skb->len`, bytes.
    pub len: u32,
    /// Inode of the network namespace, 0 if unknown.
    pub netns: u32,
    /// Device the packet was on, 0 if unknown.
    pub ifindex: u32,
    /// That device's MTU, 0 if unknown.
    pub mtu: u32,
    /// Device the packet had come in by (`skb->skb_iif`), 0 if it had not.
    pub input_ifindex: u32,
    /// Source address; IPv4 in the first four bytes.
    pub source: [u8; 16],
    /// Destination address; IPv4 in the first four bytes.
    pub destination: [u8; 16],
    /// `skb->protocol` in host order (`ETH_P_*`), 0 if not set.
    pub ethertype: u16,
    /// Source port; for ICMP the type in the upper and the code in the lower byte.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Slot of the pod the packet came from, 0 if none.
    pub source_slot: u16,
    /// Slot of the pod the packet was going to, 0 if none.
    pub destination_slot: u16,
    /// `skb_shared_info.gso_size`: payload bytes a segment, 0 if the packet is not GSO.
    pub gso_size: u16,
    /// [`Direction`].
    pub direction: u8,
    /// IP version, 0 if not IP or not read.
    pub ip_version: u8,
    /// IP protocol or IPv6 next header.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// [`flags`].
    pub flags: u8,
    /// Bytes of `header` that are the packet's.
    pub header_len: u8,
    /// As [`DropKey::circumstances`].
    pub circumstances: u16,
    /// Always zero.
    pub padding: u32,
    /// Name of the device the packet was on, zero-terminated, as the kernel has it (any bytes but `/` and space).
    pub ifname: [u8; IFNAMSIZ],
    /// The packet from its IP header on, as far as it could be read; zero behind that.
    pub header: [u8; HEADER],
}

// A padding byte would be stale kernel memory in a record, and a key that never matches itself.
const _: () = assert!(size_of::<DropKey>() == 16);
const _: () = assert!(size_of::<DropRecord>() == 24 + 24 + 32 + 12 + 5 + 7 + IFNAMSIZ + HEADER);
const _: () = assert!(size_of::<DropRecord>().is_multiple_of(8));

impl DropRecord {
    /// The record in `bytes`; `None` unless they are exactly one record long.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != size_of::<Self>() {
            return None;
        }
        // SAFETY: the length was checked, the type is `repr(C)` of integers without padding, and the read is unaligned.
        Some(unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() })
    }
}
