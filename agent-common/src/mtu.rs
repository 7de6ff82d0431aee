//! What the mtu probe's kernel side counts and records of a packet that is too large for its path.

use crate::IFNAMSIZ;

pub mod stall;

use crate::quote::HEADER;
use stall::Stall;

/// Hooks by their place in the probe's list: each has a tally of its own.
pub mod hook {
    /// `__icmp_send`
    pub const ICMP_SEND: u32 = 0;
    /// `icmp6_send`
    pub const ICMP6_SEND: u32 = 1;
    /// `icmp_unreach`
    pub const ICMP_UNREACH: u32 = 2;
    /// `icmpv6_notify`
    pub const ICMPV6_NOTIFY: u32 = 3;
    /// `kfree_skb`
    pub const KFREE_SKB: u32 = 4;
    /// `ip_local_error`
    pub const IP_LOCAL_ERROR: u32 = 5;
    /// `ipv6_local_error`
    pub const IPV6_LOCAL_ERROR: u32 = 6;
    /// `update_or_create_fnhe`
    pub const UPDATE_FNHE: u32 = 7;
    /// `rt6_do_update_pmtu`
    pub const RT6_UPDATE_PMTU: u32 = 8;
    /// `tcp_retransmit_skb`
    pub const TCP_RETRANSMIT: u32 = 9;
    /// `nf_conntrack_inet_error`
    pub const CONNTRACK_ERROR: u32 = 10;
    /// `udpv6_err`
    pub const UDPV6_ERR: u32 = 11;
    /// `inet_frag_queue_insert`
    pub const FRAGMENTS: u32 = 12;
    /// How many there are.
    pub const COUNT: usize = 13;
}

/// Functions in which copies of packets are freed: the kernel side is told where each begins and ends.
pub const COPIES: usize = 6;

/// What happened.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// This node made a frag-needed or packet-too-big message about a packet.
    Made = 1,
    /// A namespace of this node received one.
    Received = 2,
    /// A device freed a packet that was too large for it, and nobody is told.
    Oversize = 3,
    /// A socket of this node asked to send more than fits, and was told (`EMSGSIZE`).
    Refused = 4,
    /// A route cache of this node learned a path MTU.
    Learned = 5,
    /// A frag-needed or packet-too-big message was dropped on this node, on its way to whoever sends too much.
    Lost = 6,
    /// A TCP segment was sent again and again, and is still not acknowledged.
    Stalled = 7,
    /// Fragments of a packet came to this node, and the others have not for [`Fragments::PATIENCE_NS`].
    Incomplete = 8,
}

impl Kind {
    /// Every kind, in the order of its declaration.
    pub const ALL: [Self; 8] = [
        Self::Made,
        Self::Received,
        Self::Oversize,
        Self::Refused,
        Self::Learned,
        Self::Lost,
        Self::Stalled,
        Self::Incomplete,
    ];

    /// The kind a record or key carries; `None` for a value this version does not know.
    #[must_use]
    pub fn from_wire(raw: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == raw)
    }
}

/// What became of a message, or of a segment that is sent again.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fate {
    /// Not known, or not a question of this kind of event.
    #[default]
    Unknown = 0,
    /// Received: the route cache took what it says.
    Learned = 1,
    /// Received: a socket sent such a packet, and what the message says was nothing new to the route cache, or TCP will tell
    /// it as soon as the socket is free.
    Delivered = 2,
    /// Received: nobody here sent such a packet. It is forged, or what it quotes is not translated back, or the socket is
    /// gone. Of UDP newer kernels believe it all the same: [`flags::TAKEN`].
    NoSocket = 3,
    /// Received: not handed to TCP or UDP at all (`net.ipv4.ip_no_pmtu_disc` of 2 or 3).
    Ignored = 4,
    /// Made: not sent, and it is not seen why.
    Unsent = 5,
    /// Lost: a netfilter rule, a filter of a device or a socket's filter dropped it.
    Filtered = 6,
    /// Lost: netfilter dropped it, and conntrack knows of no connection that it could be about.
    Invalid = 7,
    /// Lost: it died of something else: the kernel's reason says of what.
    Dropped = 8,
    /// Stalled: full-size segments vanish while smaller ones arrive.
    BlackHole = 9,
    /// Stalled: a full-size segment is not acknowledged; whether the peer still lives is not known, or whether it is chance.
    Suspect = 10,
    /// Stalled: nothing that speaks for the segment's size.
    Ordinary = 11,
    /// Made: not sent, and never to be. The kernel has one ICMP socket a CPU, and the packet in question is itself part of an
    /// ICMP message that is just being sent by it.
    Nested = 12,
    /// Made: not sent, since there is no route back to whoever sends too much.
    NoRoute = 13,
    /// Made: not sent, since the rate of such messages is limited.
    Limited = 14,
}

impl Fate {
    /// Every fate, in the order of its declaration.
    pub const ALL: [Self; 15] = [
        Self::Unknown,
        Self::Learned,
        Self::Delivered,
        Self::NoSocket,
        Self::Ignored,
        Self::Unsent,
        Self::Filtered,
        Self::Invalid,
        Self::Dropped,
        Self::BlackHole,
        Self::Suspect,
        Self::Ordinary,
        Self::Nested,
        Self::NoRoute,
        Self::Limited,
    ];

    /// The fate a record or key carries; `None` for a value this version does not know, which is not [`Fate::Unknown`].
    #[must_use]
    pub fn from_wire(raw: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|fate| *fate as u8 == raw)
    }
}

/// How far a dropped message had come.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It had come in, and was not routed yet (netfilter's PREROUTING, the reverse path filter, a device's filter).
    Prerouting = 1,
    /// It was for this namespace (INPUT).
    Input = 2,
    /// It was on its way through (FORWARD, POSTROUTING).
    Forward = 3,
    /// It was made here (OUTPUT, POSTROUTING).
    Output = 4,
}

impl Stage {
    /// The stage a record carries; `None` for a value this version does not know, and where it is not known.
    #[must_use]
    pub fn from_wire(raw: u8) -> Option<Self> {
        [Self::Prerouting, Self::Input, Self::Forward, Self::Output]
            .into_iter()
            .find(|stage| *stage as u8 == raw)
    }
}

/// One row of the exact counts.
///
/// No address is in it: a peer who forges ICMP chooses those, and would fill the map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MtuKey {
    /// [`Kind`].
    pub kind: u8,
    /// IP version (4, 6), or 0 for a packet that is not IP or could not be read.
    pub ip_version: u8,
    /// Slot of the pod that sends too much, 0 if none is known.
    pub source: u16,
    /// Slot of the pod it sends to, 0 if none is known.
    pub destination: u16,
    /// [`Fate`].
    pub fate: u8,
    /// Always zero: the kernel compares keys byte by byte.
    pub zero: u8,
}

/// Bits of [`MtuRecord::flags`].
pub mod flags {
    /// It happened in a network namespace that is neither the host's nor a known pod's: the same addresses may be
    /// somebody else's there.
    pub const FOREIGN: u8 = 1;
    /// The packet had not come in by a device: a socket of this namespace sent it.
    pub const LOCAL_ORIGIN: u8 = 1 << 1;
    /// The learned MTU is locked: the peer asked for less than `net.ipv4.route.min_pmtu`, and DF is no longer set.
    pub const LOCKED: u8 = 1 << 2;
    /// It happened in a pod's network namespace.
    pub const IN_POD: u8 = 1 << 3;
    /// The route cache took what a received message says.
    pub const TAKEN: u8 = 1 << 4;
    /// More events like it may follow at once without a record.
    pub const LAST_OF_BUDGET: u8 = 1 << 5;
    /// The packet's route leads through IPsec, and [`MtuRecord::route_pmtu`](super::MtuRecord::route_pmtu) is what the path of
    /// the encrypted packets takes.
    pub const ENCRYPTED: u8 = 1 << 6;
}

/// A network device, as far as it says something about a packet's size.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Its index in its namespace, 0 if unknown.
    pub ifindex: u32,
    /// Its MTU in bytes, 0 if unknown.
    pub mtu: u32,
    /// Its name, zero-terminated, as the kernel has it (any bytes but `/` and space).
    pub name: [u8; IFNAMSIZ],
    /// `rtnl_link_ops.kind`: `veth`, `vxlan`, `ipip`; empty for hardware and loopback.
    pub kind: [u8; IFNAMSIZ],
}

/// What has come of a packet whose other fragments have not. Lengths are of the IP payload, in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragments {
    /// Where the last of those that came ends.
    pub end: u32,
    /// How much of it came.
    pub bytes: u32,
    /// The largest that came, with its IP header.
    pub largest: u32,
    /// How many came.
    pub count: u16,
    /// [`FIRST`](Self::FIRST), [`LAST`](Self::LAST).
    pub flags: u16,
}

impl Fragments {
    /// The first one is among them.
    pub const FIRST: u16 = 1;
    /// The last one is among them.
    pub const LAST: u16 = 1 << 1;
    /// How long the others may take, ns: longer than any path and its reordering do, and much shorter than the 30 s (IPv6: 60 s)
    /// after which the kernel gives up.
    pub const PATIENCE_NS: u64 = 2_000_000_000;
}

/// One event, as the kernel saw it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MtuRecord {
    /// `bpf_ktime_get_ns`: `CLOCK_MONOTONIC`, ns.
    pub ktime_ns: u64,
    /// Events with the same key on the same CPU since the last record, which this record speaks for too.
    pub held: u64,
    /// Kernel text address an oversize packet or a message was freed from, else 0.
    pub location: u64,
    /// The MTU that was announced, learned or exceeded, in bytes of IP packet. For [`Kind::Oversize`] the device's that
    /// refused, 0 if that is unknown.
    pub mtu: u32,
    /// `skb->len` of the packet in question, bytes; 0 where there is none.
    pub len: u32,
    /// Inode of the network namespace, 0 if unknown.
    pub netns: u32,
    /// Path MTU that the packet's route had learned, 0 if none; see also [`flags::ENCRYPTED`].
    pub route_pmtu: u32,
    /// Who sent the received message; the gateway of a learned one. IPv4 in the first four bytes; zero if none.
    pub sender: [u8; 16],
    /// Source of the packet in question; zero if unknown.
    pub source: [u8; 16],
    /// Its destination; zero if unknown.
    pub destination: [u8; 16],
    /// Where it happened: the device that the packet was on, that the message came in by, or that the path leaves by.
    pub device: Device,
    /// For [`Kind::Made`] the device of the packet's route: the way it was to go. Zero if there is none.
    pub route: Device,
    /// `skb_shared_info.gso_size`: payload bytes a segment, 0 if the packet is not GSO.
    pub gso_size: u16,
    /// Destination port, where there is no header to read it from.
    pub destination_port: u16,
    /// Slot of the pod that sends too much, 0 if none.
    pub source_slot: u16,
    /// Slot of the pod it sends to, 0 if none.
    pub destination_slot: u16,
    /// [`Kind`].
    pub kind: u8,
    /// IP version, 0 if not IP or not read.
    pub ip_version: u8,
    /// [`flags`].
    pub flags: u8,
    /// Bytes of `header` that are the packet's.
    pub header_len: u8,
    /// [`Fate`].
    pub fate: u8,
    /// [`Stage`] of a dropped message, else 0.
    pub stage: u8,
    /// Source port, where there is no header to read it from.
    pub source_port: u16,
    /// The kernel's reason to drop a message; [`NO_REASON`](crate::NO_REASON) where it has none.
    pub reason: u32,
    /// Always zero.
    pub zero: u32,
    /// What the socket of a stalled segment knows; zero for any other event.
    pub stall: Stall,
    /// What came of an incomplete packet; zero for any other event.
    pub fragments: Fragments,
    /// The packet in question from its IP header on, as far as it could be read; zero behind that.
    pub header: [u8; HEADER],
}

// A padding byte would be stale kernel memory in a record, and a key that never matches itself.
const _: () = assert!(size_of::<MtuKey>() == 8);
const _: () = assert!(size_of::<Device>() == 8 + 2 * IFNAMSIZ);
const _: () =
    assert!(size_of::<MtuRecord>() == 24 + 16 + 48 + 80 + 8 + 8 + 8 + size_of::<Stall>() + 16 + HEADER);
const _: () = assert!(size_of::<MtuRecord>().is_multiple_of(8));

impl MtuRecord {
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
