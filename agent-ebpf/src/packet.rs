//! What an `sk_buff` says of itself: headers, device and network namespace.

use aya_ebpf::Global;
use aya_ebpf::helpers::bpf_probe_read_kernel_buf;

use crate::kernel::{
    self, DEV_NET, NET_INUM, Read, SHINFO_GSO_SIZE, SKB_END, SKB_HEAD, SKB_NETWORK_HEADER, SKB_PROTOCOL,
    SOCK_NET,
};

/// The network header of an `sk_buff`, as far as it could be read.
#[derive(Clone, Copy)]
pub struct Packet {
    /// Source address; IPv4 in the first four bytes.
    pub source: [u8; 16],
    /// Destination address; IPv4 in the first four bytes.
    pub destination: [u8; 16],
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
        source: [0; 16],
        destination: [0; 16],
        ip_version: 0,
        protocol: 0,
        ttl: 0,
        fragment: 0,
        transport: 0,
    };

    /// The IP header of `skb`, judged by its own version nibble: `skb->protocol` is not set on every path.
    ///
    /// # Safety
    /// `skb` is the kernel's `struct sk_buff *` as `R` reads it.
    #[inline(always)]
    #[must_use]
    pub unsafe fn of<R: Read>(skb: *const u8) -> Self {
        // SAFETY: integers and pointers are valid for any bytes; the helpers check addresses.
        unsafe { Self::try_of::<R>(skb) }.unwrap_or(Self::NONE)
    }

    #[inline(always)]
    unsafe fn try_of<R: Read>(skb: *const u8) -> Option<Self> {
        // SAFETY: as above.
        unsafe {
            let network: u16 = kernel::field::<R, _>(skb, &SKB_NETWORK_HEADER)?;
            // Zero as well: a packet that never met the network layer (a unix socket's) has no header there.
            if network == 0 || network == UNSET {
                return None;
            }
            let head = kernel::pointer::<R>(skb, &SKB_HEAD)?;
            let at = head.add(usize::from(network));
            let mut first = [0_u8; 20];
            if !kernel::copy_to(&mut first, at.cast()) {
                return None;
            }
            match first[0] >> 4 {
                4 => Some(Self::ipv4(&first, at)),
                6 => Self::ipv6(&first, at),
                _ => None,
            }
        }
    }

    #[inline(always)]
    fn ipv4(header: &[u8; 20], at: *const u8) -> Self {
        let mut packet = Self::NONE;
        packet.ip_version = 4;
        packet.fragment = u16::from_be_bytes([header[6], header[7]]);
        packet.ttl = header[8];
        packet.protocol = header[9];
        packet.source[..4].copy_from_slice(&header[12..16]);
        packet.destination[..4].copy_from_slice(&header[16..20]);
        if packet.fragment & FRAGMENT_OFFSET == 0 {
            packet.transport = at as u64 + u64::from(header[0] & 0xf) * 4;
        }
        packet
    }

    #[inline(always)]
    unsafe fn ipv6(header: &[u8; 20], at: *const u8) -> Option<Self> {
        let mut packet = Self::NONE;
        packet.ip_version = 6;
        packet.protocol = header[6];
        packet.ttl = header[7];
        // SAFETY: the helper checks the address.
        let read = unsafe {
            kernel::copy_to(&mut packet.source, at.add(8).cast())
                && kernel::copy_to(&mut packet.destination, at.add(24).cast())
        };
        if !read {
            return None;
        }
        packet.transport = at as u64 + 40;
        Some(packet)
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
