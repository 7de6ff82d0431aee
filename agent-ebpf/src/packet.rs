//! What an `sk_buff` says of itself: headers, device and network namespace.

use aya_ebpf::Global;
use aya_ebpf::helpers::bpf_probe_read_kernel_buf;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;

use crate::kernel::{
    self, DEV_NET, NET_INUM, Read, SHINFO_GSO_SIZE, SKB_END, SKB_HEAD, SKB_IIF, SKB_NETWORK_HEADER,
    SKB_PROTOCOL, SKB_TAIL, SKB_TRANSPORT_HEADER, SOCK_NET,
};

/// An address as it lies in memory, IPv4 in the first four bytes. In words: of bytes the compiler makes a load and a
/// store each, which is a hundred instructions a drop.
#[derive(Clone, Copy)]
pub struct Address([u64; 2]);

impl Address {
    const NONE: Self = Self([0; 2]);

    /// An IPv4 address in network order.
    #[inline(always)]
    #[must_use]
    pub fn v4(word: u32) -> Self {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&word.to_ne_bytes());
        Self([u64::from_ne_bytes(bytes), 0])
    }

    /// The first four bytes: all of an IPv4 address.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the first half is what is wanted")]
    pub const fn first(&self) -> u32 {
        if cfg!(target_endian = "little") { self.0[0] as u32 } else { (self.0[0] >> 32) as u32 }
    }

    /// All sixteen bytes, as two words.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> &[u64; 2] {
        &self.0
    }

    /// All sixteen bytes.
    #[inline(always)]
    #[must_use]
    pub fn bytes(&self) -> [u8; 16] {
        // SAFETY: both are sixteen bytes of which any are valid.
        unsafe { core::mem::transmute(self.0) }
    }
}

/// The network header of an `sk_buff`, as far as it could be read.
#[derive(Clone, Copy)]
pub struct Packet {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// 4, 6, or 0 if not IP or not readable.
    pub ip_version: u8,
    /// IP protocol or next header.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IPv4's flags and fragment offset, host order.
    pub fragment: u16,
    /// Where the transport header begins, 0 if there is none to read.
    transport: u64,
}

/// IPv4's don't-fragment bit in [`Packet::fragment`].
pub const DONT_FRAGMENT: u16 = 0x4000;
/// IPv4's fragment offset in [`Packet::fragment`].
pub const FRAGMENT_OFFSET: u16 = 0x1fff;

/// `skb->network_header` before it is set.
const UNSET: u16 = u16::MAX;

impl Packet {
    const NONE: Self = Self {
        source: Address::NONE,
        destination: Address::NONE,
        ip_version: 0,
        protocol: 0,
        ttl: 0,
        fragment: 0,
        transport: 0,
    };

    /// A packet of which nothing is known but where it was to go.
    #[inline(always)]
    #[must_use]
    pub const fn to(ip_version: u8, destination: Address) -> Self {
        Self { destination, ip_version, ..Self::NONE }
    }

    /// The IP header of `skb`, judged by its own version nibble: `skb->protocol` is not set on every path.
    ///
    /// # Safety
    /// `skb` is the kernel's `struct sk_buff *` as `R` reads it.
    #[inline(always)]
    #[must_use]
    pub unsafe fn of<R: Read>(skb: *const u8) -> Self {
        // SAFETY: integers and pointers are valid for any bytes; the helpers check addresses.
        unsafe { header::<R>(skb).map_or(Self::NONE, |at| Self::at(at)) }
    }

    /// The IP header at this address; nothing is known where there is none.
    ///
    /// Never an `Option` of it: 5.10 refuses the reads that the compiler makes of the empty one.
    ///
    /// # Safety
    /// None beyond the helper's own checks: any address may be asked for.
    #[inline(always)]
    #[must_use]
    pub unsafe fn at(at: *const u8) -> Self {
        let mut first = [0_u32; 5];
        // SAFETY: the helper checks the address.
        if !unsafe { kernel::copy_to(&mut first, at.cast()) } {
            return Self::NONE;
        }
        let [version_length, _, _, _] = first[0].to_ne_bytes();
        match version_length >> 4 {
            // Shorter than itself: what follows is not where it says.
            4 if version_length & 0xf < 5 => Self::NONE,
            4 => Self::ipv4(&first, at),
            // SAFETY: as above.
            6 => unsafe { Self::ipv6(&first, at) },
            _ => Self::NONE,
        }
    }

    #[inline(always)]
    fn ipv4(header: &[u32; 5], at: *const u8) -> Self {
        let [version_length, _, _, _] = header[0].to_ne_bytes();
        let [_, _, fragment, offset] = header[1].to_ne_bytes();
        let [ttl, protocol, _, _] = header[2].to_ne_bytes();
        let fragment = u16::from_be_bytes([fragment, offset]);
        let transport =
            if fragment & FRAGMENT_OFFSET == 0 { at as u64 + u64::from(version_length & 0xf) * 4 } else { 0 };
        let (source, destination) = (Address::v4(header[3]), Address::v4(header[4]));
        Self { source, destination, ip_version: 4, protocol, ttl, fragment, transport }
    }

    #[inline(always)]
    unsafe fn ipv6(header: &[u32; 5], at: *const u8) -> Self {
        let mut packet = Self::NONE;
        packet.ip_version = 6;
        [_, _, packet.protocol, packet.ttl] = header[1].to_ne_bytes();
        // SAFETY: the helper checks the address.
        let read = unsafe {
            kernel::copy_to(&mut packet.source.0, at.add(8).cast())
                && kernel::copy_to(&mut packet.destination.0, at.add(24).cast())
        };
        if !read {
            return Self::NONE;
        }
        packet.transport = at as u64 + 40;
        packet
    }

    /// The first four bytes of the transport header, where one can be there: TCP, UDP, UDP-Lite, SCTP, DCCP, ICMP.
    #[inline(always)]
    #[must_use]
    pub fn transport(&self) -> Option<[u8; 4]> {
        const WITH_PORTS_OR_TYPE: [u8; 7] = [1, 6, 17, 33, 58, 132, 136];
        if self.transport == 0 || !WITH_PORTS_OR_TYPE.contains(&self.protocol) {
            return None;
        }
        // SAFETY: the helper checks the address.
        unsafe { kernel::copy(self.transport as *const [u8; 4]) }
    }
}

/// Where the IP header of `skb` is; `None` where it has not been set.
#[inline(always)]
unsafe fn header<R: Read>(skb: *const u8) -> Option<*const u8> {
    // SAFETY: integers and pointers are valid for any bytes.
    unsafe {
        let network: u16 = kernel::field::<R, _>(skb, &SKB_NETWORK_HEADER)?;
        // Zero as well: a packet that never met the network layer (a unix socket's) has no header there.
        if network == 0 || network == UNSET {
            return None;
        }
        Some(kernel::pointer::<R>(skb, &SKB_HEAD)?.add(usize::from(network)))
    }
}

/// `skb->protocol` in host order, 0 if not set.
///
/// # Safety
/// `skb` is the kernel's `struct sk_buff *` as `R` reads it.
#[inline(always)]
#[must_use]
pub unsafe fn ethertype<R: Read>(skb: *const u8) -> u16 {
    // SAFETY: an integer is valid for any bytes.
    u16::from_be(unsafe { kernel::field::<R, _>(skb, &SKB_PROTOCOL) }.unwrap_or(0))
}

/// Inode of the namespace a `struct net_device *` lives in, 0 if it cannot be read.
///
/// # Safety
/// `dev` is the kernel's `struct net_device *` as `R` reads it.
#[inline(always)]
#[must_use]
pub unsafe fn device_netns<R: Read>(dev: *const u8) -> u32 {
    // SAFETY: pointers and integers are valid for any bytes.
    unsafe { kernel::pointer::<R>(dev, &DEV_NET).map_or(0, |net| netns::<R>(net)) }
}

/// Inode of the namespace a `struct sock *` lives in, 0 if it cannot be read.
///
/// # Safety
/// `sk` is the kernel's `struct sock *` as `R` reads it.
#[inline(always)]
#[must_use]
pub unsafe fn socket_netns<R: Read>(sk: *const u8) -> u32 {
    // SAFETY: pointers and integers are valid for any bytes.
    unsafe { kernel::pointer::<R>(sk, &SOCK_NET).map_or(0, |net| netns::<R>(net)) }
}

#[inline(always)]
unsafe fn netns<R: Read>(net: *const u8) -> u32 {
    // SAFETY: an integer is valid for any bytes.
    unsafe { kernel::field::<R, u32>(net, &NET_INUM) }.unwrap_or(0)
}

/// `skb_shinfo(skb)->gso_size`, 0 if the packet is not GSO or cannot be read: the shared info stands where the linear data end.
///
/// # Safety
/// `skb` is the kernel's `struct sk_buff *` as `R` reads it.
#[inline(always)]
#[must_use]
pub unsafe fn gso_size<R: Read>(skb: *const u8) -> u16 {
    // SAFETY: integers and pointers are valid for any bytes; the helper checks the address.
    unsafe {
        let (Some(head), Some(end)) =
            (kernel::pointer::<R>(skb, &SKB_HEAD), kernel::field::<R, u32>(skb, &SKB_END))
        else {
            return 0;
        };
        if SHINFO_GSO_SIZE.load() == kernel::ABSENT {
            return 0;
        }
        let at = head.add(end as usize).add(SHINFO_GSO_SIZE.load() as usize);
        kernel::copy(at.cast()).unwrap_or(0)
    }
}

/// Whether the packet had come in by no device, so that a socket of this namespace sent it.
///
/// # Safety
/// `skb` is the kernel's `struct sk_buff *` as `R` reads it.
#[inline(always)]
#[must_use]
pub unsafe fn is_local<R: Read>(skb: *const u8) -> bool {
    // SAFETY: an integer is valid for any bytes.
    unsafe { kernel::field::<R, u32>(skb, &SKB_IIF) == Some(0) }
}

/// The packet's IP header, and where its linear data end: both null where they cannot be read. Not an `Option` of two, whose
/// empty half the compiler reads, which 5.10 refuses.
///
/// # Safety
/// `skb` is the kernel's `struct sk_buff *` as `R` reads it.
#[inline(always)]
#[must_use]
pub unsafe fn network_header<R: Read>(skb: *const u8) -> (*const u8, *const u8) {
    // SAFETY: pointers and integers are valid for any bytes.
    unsafe {
        let Some(head) = kernel::pointer::<R>(skb, &SKB_HEAD) else {
            return (core::ptr::null(), core::ptr::null());
        };
        let network: u16 = kernel::field::<R, _>(skb, &SKB_NETWORK_HEADER).unwrap_or(0);
        let tail: u32 = kernel::field::<R, _>(skb, &SKB_TAIL).unwrap_or(0);
        (head.add(usize::from(network)), head.add(tail as usize))
    }
}

/// The transport header of a packet that has been received as far as that.
///
/// # Safety
/// `skb` is the kernel's `struct sk_buff *` as `R` reads it.
#[inline(always)]
#[must_use]
pub unsafe fn transport_header<R: Read>(skb: *const u8) -> Option<*const u8> {
    // SAFETY: as above.
    unsafe {
        let head = kernel::pointer::<R>(skb, &SKB_HEAD)?;
        let transport: u16 = kernel::field::<R, _>(skb, &SKB_TRANSPORT_HEADER)?;
        if transport == UNSET { None } else { Some(head.add(usize::from(transport))) }
    }
}

/// Copies what there is from `from` to `end`, but no more than fits; gives how much that was. What is behind the end is not
/// the packet's: that memory is a stranger's.
///
/// # Safety
/// `to` is memory for `N` bytes, at most 255.
#[inline(always)]
#[must_use]
pub unsafe fn copy<const N: usize>(to: *mut [u8; N], from: *const u8, end: *const u8) -> u8 {
    let there = (end as u64).wrapping_sub(from as u64);
    // Wrapped around: it is said to begin behind the end.
    if there > u64::from(u16::MAX) || !kernel::reads() {
        return 0;
    }
    let length = if there > N as u64 { N as u64 } else { there };
    // SAFETY: there is room for `length` bytes; the helper checks the address.
    #[expect(clippy::cast_possible_truncation, reason = "at most N")]
    unsafe {
        if bpf_probe_read_kernel(to.cast(), length as u32, from.cast()) == 0 { length as u8 } else { 0 }
    }
}

/// Copies `N` bytes of the kernel structure at `base`; zeroes where they cannot be read.
///
/// # Safety
/// `base` is the kernel's structure as `R` reads it, and has an array of `N` bytes at `offset`.
#[inline(always)]
#[must_use]
pub unsafe fn bytes<R: Read, const N: usize>(base: *const u8, offset: &Global<u32>) -> [u8; N] {
    let offset = offset.load();
    // Written before all else: the compiler may read it on every path, and 5.10 refuses a read of stack never written.
    let mut copy = [0; N];
    if offset == kernel::ABSENT {
        return copy;
    }
    // SAFETY: the caller's; bytes are valid whatever they are, and on an error the helper zeroes them.
    unsafe {
        if kernel::reads() {
            let _ = bpf_probe_read_kernel_buf(base.add(offset as usize), &mut copy);
        } else {
            // A typed load takes no more than one element of an array.
            for (at, byte) in (offset..).zip(&mut copy) {
                *byte = R::read(base, at).unwrap_or(0);
            }
        }
    }
    copy
}
