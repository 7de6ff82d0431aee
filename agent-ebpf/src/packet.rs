//! What an `sk_buff` says of itself: headers, device and network namespace.

use aya_ebpf::Global;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel;

mod header;

pub use header::{Begin, DONT_FRAGMENT, FRAGMENT_OFFSET, Header};

use crate::kernel::{
    self, DEV_NET, NET_INUM, Probed, Read, SHINFO_GSO_SIZE, SKB_END, SKB_HEAD, SKB_IIF, SKB_NETWORK_HEADER,
    SKB_PKT_TYPE, SKB_PROTOCOL, SKB_TAIL, SKB_TRANSPORT_HEADER, SOCK_NET,
};

/// The bits of the byte at [`SKB_PKT_TYPE`] that are `sk_buff.pkt_type`, and how far they are from its lowest; 0 where the
/// kernel has no such field, which then reads as a frame for this host.
#[unsafe(no_mangle)]
static PKT_TYPE: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static PKT_TYPE_SHIFT: Global<u32> = Global::new(0);

/// Whom a frame is for, by its link-layer address (`PACKET_*`, `linux/if_packet.h`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum LinkType {
    /// `PACKET_BROADCAST`
    All,
    /// `PACKET_MULTICAST`
    Group,
    /// `PACKET_OTHERHOST`: another station's.
    Others,
}

/// An address as it lies in memory, IPv4 in the first four bytes. In words: of bytes the compiler makes a load and a
/// store each, which is a hundred instructions a drop.
#[derive(Clone, Copy)]
pub struct Address([u64; 2]);

impl Address {
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
    pub const fn first(&self) -> u32 {
        lower(self.0[0])
    }

    /// Whether this IPv6 address is a group's (`ff00::/8`).
    #[inline(always)]
    #[must_use]
    pub const fn is_multicast(&self) -> bool {
        self.0[0].to_ne_bytes()[0] == 0xff
    }

    /// Whether this IPv6 address stands for an IPv4 one (`::ffff:0:0/96`).
    #[inline(always)]
    #[must_use]
    pub const fn is_mapped(&self) -> bool {
        self.0[0] == 0 && lower(self.0[1]) == u32::from_ne_bytes([0, 0, 0xff, 0xff])
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

/// From where to where a packet is going, as far as that is known.
#[derive(Clone, Copy)]
pub struct Flow {
    /// IP version: 4, 6, or 0 if not IP or not readable.
    pub version: u8,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
}

impl Flow {
    /// A packet before anything of it was read; `zero` is [`kernel::zero`].
    #[inline(always)]
    #[must_use]
    pub fn none(zero: u8) -> Self {
        let none = Address([zero.into(); 2]);
        Self { version: zero, source: none, destination: none }
    }

    /// A packet of which only the destination is known.
    #[inline(always)]
    #[must_use]
    pub const fn to(version: u8, destination: Address) -> Self {
        Self { version, source: Address([0; 2]), destination }
    }
}

/// `skb->network_header` before it is set.
const UNSET: u16 = u16::MAX;

/// The half of a word that lies first in memory.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the first half is what is wanted")]
const fn lower(word: u64) -> u32 {
    if cfg!(target_endian = "little") { word as u32 } else { (word >> 32) as u32 }
}

/// The other half.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the other half is what is wanted")]
const fn upper(word: u64) -> u32 {
    if cfg!(target_endian = "little") { (word >> 32) as u32 } else { word as u32 }
}

/// Where the IP header of `skb` is; NULL where it has not been set.
///
/// # Safety
/// `skb` is the kernel's `struct sk_buff *` as `R` reads it.
#[inline(always)]
#[must_use]
pub unsafe fn network_header<R: Read>(skb: *const u8) -> *const u8 {
    // SAFETY: integers and pointers are valid for any bytes.
    unsafe {
        let network = network_offset::<R>(skb);
        // Zero as well: a packet that never met the network layer (a unix socket's) has no header there.
        if network == 0 || network == UNSET {
            return core::ptr::null();
        }
        kernel::field::<R, *const u8>(skb, &SKB_HEAD).wrapping_add(usize::from(network))
    }
}

/// Where in `skb`'s linear data the network header is; 0 where it is not known.
///
/// # Safety
/// `skb` is the kernel's `struct sk_buff *` as `R` reads it.
#[inline(always)]
#[must_use]
pub unsafe fn network_offset<R: Read>(skb: *const u8) -> u16 {
    // SAFETY: an integer is valid for any bytes.
    unsafe { kernel::field::<R, _>(skb, &SKB_NETWORK_HEADER) }
}

/// Where in `skb`'s linear data the transport header is, of a packet that has been received as far as that.
///
/// # Safety
/// `skb` is the kernel's `struct sk_buff *` as `R` reads it.
#[inline(always)]
#[must_use]
pub unsafe fn transport_offset<R: Read>(skb: *const u8) -> u16 {
    // SAFETY: an integer is valid for any bytes.
    unsafe { kernel::field::<R, _>(skb, &SKB_TRANSPORT_HEADER) }
}

/// `skb->protocol` in host order, 0 if not set.
///
/// # Safety
/// `skb` is the kernel's `struct sk_buff *` as `R` reads it.
#[inline(always)]
#[must_use]
pub unsafe fn ethertype<R: Read>(skb: *const u8) -> u16 {
    // SAFETY: an integer is valid for any bytes.
    u16::from_be(unsafe { kernel::field::<R, _>(skb, &SKB_PROTOCOL) })
}

/// Whom the frame of `skb` is for; `None` if that is this host, or if it has not been received.
///
/// # Safety
/// `skb` is the kernel's `struct sk_buff *` as `R` reads it.
#[inline(always)]
#[must_use]
pub unsafe fn link_type<R: Read>(skb: *const u8) -> Option<LinkType> {
    // SAFETY: an integer is valid for any bytes.
    let byte = unsafe { kernel::field::<R, u8>(skb, &SKB_PKT_TYPE) };
    match (u32::from(byte) & PKT_TYPE.load()) >> PKT_TYPE_SHIFT.load() {
        1 => Some(LinkType::All),
        // `PACKET_LOOPBACK` too: this host's own copy of what it has sent to a group or to all.
        2 | 5 => Some(LinkType::Group),
        3 => Some(LinkType::Others),
        _ => None,
    }
}

/// Inode of the namespace a `struct net_device *` lives in, 0 if it cannot be read.
///
/// # Safety
/// `dev` is the kernel's `struct net_device *` as `R` reads it.
#[inline(always)]
#[must_use]
pub unsafe fn device_netns<R: Read>(dev: *const u8) -> u32 {
    // SAFETY: pointers and integers are valid for any bytes.
    unsafe { kernel::field::<R, _>(kernel::field::<R, _>(dev, &DEV_NET), &NET_INUM) }
}

/// Inode of the namespace a `struct sock *` lives in, 0 if it cannot be read.
///
/// # Safety
/// `sk` is the kernel's `struct sock *` as `R` reads it.
#[inline(always)]
#[must_use]
pub unsafe fn socket_netns<R: Read>(sk: *const u8) -> u32 {
    // SAFETY: pointers and integers are valid for any bytes.
    unsafe { kernel::field::<R, _>(kernel::field::<R, _>(sk, &SOCK_NET), &NET_INUM) }
}

/// `skb_shinfo(skb)->gso_size`, 0 if the packet is not GSO or cannot be read: the shared info stands where the linear data
/// may at most end.
///
/// # Safety
/// `skb` is the kernel's `struct sk_buff *` as `R` reads it.
#[inline(always)]
#[must_use]
pub unsafe fn gso_size<R: Read>(skb: *const u8) -> u16 {
    // SAFETY: integers and pointers are valid for any bytes; the helper checks the address.
    unsafe {
        let head: *const u8 = kernel::field::<R, _>(skb, &SKB_HEAD);
        let end: u32 = kernel::field::<R, _>(skb, &SKB_END);
        kernel::field::<Probed, _>(head.wrapping_add(end as usize), &SHINFO_GSO_SIZE)
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
    SKB_IIF.load() != kernel::ABSENT && unsafe { kernel::field::<R, u32>(skb, &SKB_IIF) } == 0
}

/// The transport header of a packet that has been received as far as that.
///
/// # Safety
/// `skb` is the kernel's `struct sk_buff *` as `R` reads it.
#[inline(always)]
#[must_use]
pub unsafe fn transport_header<R: Read>(skb: *const u8) -> *const u8 {
    // SAFETY: integers and pointers are valid for any bytes.
    unsafe {
        let transport = usize::from(transport_offset::<R>(skb));
        kernel::field::<R, *const u8>(skb, &SKB_HEAD).wrapping_add(transport)
    }
}

/// Bytes that `skb`'s linear data have from `offset` on, 0 if they end before; `offset` counts from `skb->head`.
///
/// Lengths come of offsets: of pointers into packets the verifier takes no difference, from 6.17 on.
///
/// # Safety
/// `skb` is the kernel's `struct sk_buff *` as `R` reads it.
#[inline(always)]
#[must_use]
pub unsafe fn linear_from<R: Read>(skb: *const u8, offset: u32) -> u32 {
    // SAFETY: an integer is valid for any bytes.
    let there = unsafe { kernel::field::<R, u32>(skb, &SKB_TAIL) }.wrapping_sub(offset);
    // Wrapped around: it is said to begin behind the end.
    if there > u32::from(u16::MAX) { 0 } else { there }
}

/// Copies what `skb`'s linear data have from `offset` on, but no more than fits; gives how much that was. What is behind
/// their end is not the packet's: that memory is a stranger's.
///
/// # Safety
/// `to` is memory for `N` bytes, at most 255; `skb` is the kernel's `struct sk_buff *` as `R` reads it.
#[inline(always)]
#[must_use]
pub unsafe fn copy_linear<R: Read, const N: usize>(to: *mut [u8; N], skb: *const u8, offset: u32) -> u8 {
    const { assert!(N <= u8::MAX as usize) };
    // SAFETY: integers and pointers are valid for any bytes; there is room for `length` bytes.
    unsafe {
        let there = linear_from::<R>(skb, offset);
        if offset == 0 || there == 0 || !kernel::reads() {
            return 0;
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most 255")]
        let length = if there > N as u32 { N as u32 } else { there };
        let from = kernel::field::<R, *const u8>(skb, &SKB_HEAD).wrapping_add(offset as usize);
        #[expect(clippy::cast_possible_truncation, reason = "at most N")]
        if bpf_probe_read_kernel(to.cast(), length, from.cast()) == 0 { length as u8 } else { 0 }
    }
}

/// Copies the `N` bytes at `offset` of the kernel structure at `base`; zeroes where they cannot be read. Straight to where they
/// are wanted: sixteen bytes that are held in between are sixteen values to the verifier.
///
/// # Safety
/// `to` is memory for `N` bytes; `base` is the kernel's structure as `R` reads it, and has an array of `N` bytes at `offset`.
#[inline(always)]
pub unsafe fn copy_field<R: Read, const N: usize>(to: *mut [u8; N], base: *const u8, offset: &Global<u32>) {
    let offset = offset.load();
    // SAFETY: the caller's; bytes are valid whatever they are.
    unsafe {
        if offset == kernel::ABSENT {
            kernel::clear_bytes(to);
        } else if kernel::reads() {
            kernel::copy_to(to, base.wrapping_add(offset as usize).cast());
        } else {
            // A typed load takes no more than one element of an array.
            for at in 0..N {
                let byte = R::read(base.wrapping_add(at), offset);
                to.cast::<u8>().add(at).write_volatile(byte);
            }
        }
    }
}
