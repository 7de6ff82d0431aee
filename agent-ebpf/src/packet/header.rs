//! IP headers as they lie in memory.

use super::{Address, Flow, lower, network_header, upper};
use crate::kernel::{self, Read};

/// IPv4's don't-fragment bit in [`Header::fragment`].
pub const DONT_FRAGMENT: u16 = 0x4000;
/// IPv4's fragment offset in [`Header::fragment`].
pub const FRAGMENT_OFFSET: u16 = 0x1fff;

/// What a header begins with: all of IPv4's, and four bytes more; of IPv6's all but the destination address.
pub type Begin = [u64; 3];

/// An IP header as it lies in memory, without options. Zeroes where there is none to be read.
#[derive(Clone, Copy)]
pub struct Header {
    begin: Begin,
    /// What else IPv6 has.
    end: [u64; 2],
}

impl Header {
    /// The network header of `skb`, judged by its own version nibble: `skb->protocol` is not set on every path.
    ///
    /// # Safety
    /// `skb` is the kernel's `struct sk_buff *` as `R` reads it.
    #[inline(always)]
    #[must_use]
    pub unsafe fn of<R: Read>(skb: *const u8) -> Self {
        // SAFETY: integers and pointers are valid for any bytes; the helper checks the address.
        unsafe { Self::at(network_header::<R>(skb)) }
    }

    /// What is at this address: as many bytes of any packet are there to be read, since `skb_shared_info` lies behind it.
    ///
    /// # Safety
    /// None beyond the helper's own checks: any address may be asked for.
    #[inline(always)]
    #[must_use]
    pub unsafe fn at(at: *const u8) -> Self {
        // SAFETY: integers are valid for any bytes.
        unsafe { Self::begun(kernel::copy(at.cast()), at) }
    }

    /// What is at this address and begins like this: its begin was read together with what is in front of it, since a read
    /// takes as long for eight bytes as for forty.
    ///
    /// # Safety
    /// As [`at`](Self::at).
    #[inline(always)]
    #[must_use]
    pub unsafe fn begun(begin: Begin, at: *const u8) -> Self {
        let mut header = Self { begin, end: [0; 2] };
        if header.version() == 6 {
            // SAFETY: integers are valid for any bytes.
            header.end = unsafe { kernel::copy(at.wrapping_add(size_of_val(&begin)).cast()) };
        }
        header
    }

    /// As [`of`](Self::of), but without an IPv6 packet's destination, which is a read of its own.
    ///
    /// # Safety
    /// `skb` is the kernel's `struct sk_buff *` as `R` reads it.
    #[inline(always)]
    #[must_use]
    pub unsafe fn begin_of<R: Read>(skb: *const u8) -> Self {
        // SAFETY: integers and pointers are valid for any bytes; the helper checks the address.
        Self { begin: unsafe { kernel::copy(network_header::<R>(skb).cast()) }, end: [0; 2] }
    }

    /// Source address, of a header of this version.
    #[inline(always)]
    #[must_use]
    pub fn source(&self, version: u8) -> Address {
        if version == 6 { self.ipv6_source() } else { Address::v4(self.ipv4().0) }
    }

    /// 4, 6, or 0 if it is neither, or an IPv4 header that says to be shorter than one is.
    #[inline(always)]
    #[must_use]
    pub fn version(&self) -> u8 {
        match self.byte(0) {
            0x45..=0x4f => 4,
            0x60..=0x6f => 6,
            _ => 0,
        }
    }

    /// Source and destination address of an IPv4 header, in network order.
    #[inline(always)]
    #[must_use]
    pub fn ipv4(&self) -> (u32, u32) {
        (upper(self.begin[1]), lower(self.begin[2]))
    }

    /// Source address of an IPv6 header.
    #[inline(always)]
    #[must_use]
    pub fn ipv6_source(&self) -> Address {
        Address([self.begin[1], self.begin[2]])
    }

    /// Destination address of an IPv6 header.
    #[inline(always)]
    #[must_use]
    pub fn ipv6_destination(&self) -> Address {
        Address(self.end)
    }

    /// Whether it is for a group or for all, by its destination address (`224.0.0.0/4`, `255.255.255.255`, `ff00::/8`).
    #[inline(always)]
    #[must_use]
    pub fn is_to_group(&self, version: u8) -> bool {
        match version {
            4 => self.ipv4().1.to_ne_bytes()[0] >= 224,
            6 => self.ipv6_destination().is_multicast(),
            _ => false,
        }
    }

    /// Whether both its ends have the same address.
    #[inline(always)]
    #[must_use]
    pub fn is_to_itself(&self, version: u8) -> bool {
        match version {
            4 => self.ipv4().0 == self.ipv4().1,
            6 => self.ipv6_source().words() == self.ipv6_destination().words(),
            _ => false,
        }
    }

    /// From where to where; `zero` is [`kernel::zero`].
    #[inline(always)]
    #[must_use]
    pub fn flow(&self, zero: u8) -> Flow {
        let (mut flow, nothing) = (Flow::none(zero), u64::from(zero));
        match self.version() {
            4 => {
                let (source, destination) = self.ipv4();
                flow.version |= 4;
                flow.source = Address([Address::v4(source).0[0], nothing]);
                flow.destination = Address([Address::v4(destination).0[0], nothing]);
            }
            6 => {
                flow.version |= 6;
                flow.source = self.ipv6_source();
                flow.destination = self.ipv6_destination();
            }
            _ => {}
        }
        flow
    }

    /// IP protocol or next header, of a header of this version.
    #[inline(always)]
    #[must_use]
    pub fn protocol(&self, version: u8) -> u8 {
        match version {
            4 => self.byte(9),
            6 => self.byte(6),
            _ => 0,
        }
    }

    /// TTL or hop limit, of a header of this version.
    #[inline(always)]
    #[must_use]
    pub fn ttl(&self, version: u8) -> u8 {
        match version {
            4 => self.byte(8),
            6 => self.byte(7),
            _ => 0,
        }
    }

    /// IPv4's flags and fragment offset in host order, 0 for any other version.
    #[inline(always)]
    #[must_use]
    pub fn fragment(&self, version: u8) -> u16 {
        if version == 4 { u16::from_be_bytes([self.byte(6), self.byte(7)]) } else { 0 }
    }

    /// How many bytes behind its begin the transport header is, if it is this packet that carries it, directly behind the
    /// header, of a protocol whose first four bytes say more: TCP, UDP, UDP-Lite, SCTP, DCCP, ICMP.
    #[inline(always)]
    #[must_use]
    pub fn transport(&self, version: u8) -> Option<usize> {
        const WITH_PORTS_OR_TYPE: [u8; 7] = [1, 6, 17, 33, 58, 132, 136];
        if self.fragment(version) & FRAGMENT_OFFSET != 0
            || !WITH_PORTS_OR_TYPE.contains(&self.protocol(version))
        {
            return None;
        }
        Some(if version == 4 { usize::from(self.byte(0) & 0xf) * 4 } else { 40 })
    }

    /// One of the first 24.
    #[inline(always)]
    const fn byte(&self, at: usize) -> u8 {
        self.begin[at / 8].to_ne_bytes()[at % 8]
    }
}
