//! What a `net_device` says of itself: name, kind, MTU, and for veth the device at its other end.

use agent_common::mtu::Device;

use crate::kernel::{
    self, ABSENT, DEV_HARD_HEADER_LEN, DEV_IFINDEX, DEV_LINK_OPS, DEV_MTU, DEV_NAME, LINK_OPS_KIND, Probed,
    Read, SKB_DATA, SKB_HEAD, SKB_LEN, SKB_NETWORK_HEADER, VETH_PEER,
};
use crate::packet;

/// Describes a device in a record.
///
/// # Safety
/// `to` is memory for a `Device`; `dev` is the kernel's `struct net_device *` as `R` reads it.
#[inline(always)]
pub unsafe fn fill<R: Read>(to: *mut Device, dev: *const u8) {
    // SAFETY: integers are valid for any bytes, the helpers check addresses.
    unsafe {
        (*to).ifindex = kernel::field::<R, _>(dev, &DEV_IFINDEX).unwrap_or(0);
        (*to).mtu = kernel::field::<R, _>(dev, &DEV_MTU).unwrap_or(0);
        if DEV_NAME.load() != ABSENT {
            (*to).name = packet::bytes(dev.add(DEV_NAME.load() as usize));
        }
        if let Some(kind) = kind::<R>(dev) {
            (*to).kind = packet::bytes(kind);
        }
    }
}

/// The name of the device's kind: a string of the kernel's own.
#[inline(always)]
unsafe fn kind<R: Read>(dev: *const u8) -> Option<*const u8> {
    // SAFETY: pointers are valid for any bytes.
    unsafe { kernel::pointer::<Probed>(kernel::pointer::<R>(dev, &DEV_LINK_OPS)?, &LINK_OPS_KIND) }
}

/// The other end of a veth; `None` for any other device, and where the kernel does not tell.
///
/// # Safety
/// `dev` is the kernel's `struct net_device *` as `R` reads it.
#[inline(always)]
#[must_use]
pub unsafe fn veth_peer<R: Read>(dev: *const u8) -> Option<*const u8> {
    if VETH_PEER.load() == ABSENT {
        return None;
    }
    // SAFETY: as above. The private part lies behind what the device's type covers: only a helper may read there.
    unsafe {
        if packet::bytes::<5>(kind::<R>(dev)?) != *b"veth\0" {
            return None;
        }
        kernel::pointer::<Probed>(dev, &VETH_PEER)
    }
}

/// The packet's length with its link header; `None` if it has none in front, or if it is GSO and will be cut to size.
///
/// # Safety
/// `skb` is the kernel's `struct sk_buff *` as `R` reads it.
#[inline(always)]
#[must_use]
pub unsafe fn frame_length<R: Read>(skb: *const u8) -> Option<u32> {
    const ETHERNET: u64 = 14;
    // SAFETY: as above.
    unsafe {
        let head = kernel::pointer::<R>(skb, &SKB_HEAD)?;
        let network: u16 = kernel::field::<R, _>(skb, &SKB_NETWORK_HEADER)?;
        let data = kernel::pointer::<R>(skb, &SKB_DATA)?;
        let before = (head as u64).wrapping_add(u64::from(network)).wrapping_sub(data as u64);
        // Also where the data begin behind the network header: then this is a huge number.
        if before < ETHERNET || before > u64::from(u8::MAX) || packet::gso_size::<R>(skb) != 0 {
            return None;
        }
        kernel::field::<R, _>(skb, &SKB_LEN)
    }
}

/// The device's MTU, if a frame of this length is too much for it: as `is_skb_forwardable` (net/core/dev.c) has it, which
/// grants room for a VLAN tag.
///
/// # Safety
/// `dev` is the kernel's `struct net_device *` as `R` reads it.
#[inline(always)]
#[must_use]
pub unsafe fn mtu_exceeded<R: Read>(dev: *const u8, length: u32) -> Option<u32> {
    const VLAN_TAG: u32 = 4;
    // SAFETY: as above.
    unsafe {
        let mtu: u32 = kernel::field::<R, _>(dev, &DEV_MTU)?;
        let link: u16 = kernel::field::<R, _>(dev, &DEV_HARD_HEADER_LEN)?;
        if length > mtu.saturating_add(u32::from(link) + VLAN_TAG) { Some(mtu) } else { None }
    }
}
