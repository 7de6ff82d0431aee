//! What a `net_device` says of itself: name, kind, MTU, and for veth the device at its other end.

use core::ptr;

use agent_common::mtu::Device;
use aya_ebpf::Global;

use crate::kernel::{
    self, ABSENT, DEV_HARD_HEADER_LEN, DEV_IFINDEX, DEV_LINK_OPS, DEV_LOWER, DEV_MTU, DEV_NAME,
    DEV_PRIV_FLAGS, LINK_OPS_KIND, Probed, Read, SKB_DATA, SKB_HEAD, SKB_LEN, SKB_NETWORK_HEADER, VETH_PEER,
};
use crate::packet;

/// `IFF_BRIDGE_PORT` of the running kernel in `net_device.priv_flags`; 0 if unknown.
#[unsafe(no_mangle)]
static BRIDGE_PORT: Global<u32> = Global::new(0);

/// `IFF_EBRIDGE` of the running kernel in `net_device.priv_flags`; 0 if unknown.
#[unsafe(no_mangle)]
static BRIDGE: Global<u32> = Global::new(0);

/// What a device leads to, by its kind's first four bytes, which no other kind of the kernel's begins with.
#[derive(Clone, Copy)]
pub struct Leads(u32);

impl Leads {
    /// Where the kernel does not tell.
    const UNKNOWN: u32 = u32::MAX;

    /// # Safety
    /// `dev` is the kernel's `struct net_device *`.
    #[inline(always)]
    #[must_use]
    pub unsafe fn of(dev: *const u8) -> Self {
        if DEV_LINK_OPS.load() == ABSENT || !kernel::reads() {
            return Self(Self::UNKNOWN);
        }
        // SAFETY: pointers are valid for any bytes. By helper: for a pointer the verifier would look through all types.
        unsafe {
            let ops: *const u8 = kernel::field::<Probed, _>(dev, &DEV_LINK_OPS);
            let name: *const u8 = kernel::field::<Probed, _>(ops, &LINK_OPS_KIND);
            // A NIC has no kind: what cannot be read is zero.
            Self(kernel::copy(name.cast()))
        }
    }

    /// Whether all that comes by it is for this host, as what a tunnel or the routed veth of a pod carries. False where the kernel
    /// does not tell. (A port of a bridge hands what it takes to the bridge.)
    #[inline(always)]
    #[must_use]
    pub fn to_the_host(self) -> bool {
        self.is_one_of([*b"vxla", *b"gene", *b"veth"])
    }

    /// Whether the network outside of this node may be behind it: it is a NIC, a bond, a team or a VLAN. False where the kernel does not
    /// tell.
    #[inline(always)]
    #[must_use]
    pub fn outside(self) -> bool {
        self.0 == 0 || self.is_one_of([*b"bond", *b"team", *b"vlan"])
    }

    #[inline(always)]
    fn is_one_of(self, kinds: [[u8; 4]; 3]) -> bool {
        kinds.iter().any(|kind| self.0 == u32::from_ne_bytes(*kind))
    }
}

/// Whether a device is a bridge's port; false where the kernel does not tell.
///
/// # Safety
/// `dev` is the kernel's `struct net_device *` as `R` reads it.
#[inline(always)]
#[must_use]
pub unsafe fn is_bridge_port<R: Read>(dev: *const u8) -> bool {
    // SAFETY: integers are valid for any bytes.
    unsafe { kernel::field::<R, u32>(dev, &DEV_PRIV_FLAGS) & BRIDGE_PORT.load() != 0 }
}

/// Whether a device is a bridge that has no ports (an idle `docker0`); false where the kernel does not tell.
///
/// # Safety
/// `dev` is the kernel's `struct net_device *` as `R` reads it.
#[inline(always)]
#[must_use]
pub unsafe fn is_portless_bridge<R: Read>(dev: *const u8) -> bool {
    // SAFETY: integers are valid for any bytes, helpers check addresses.
    unsafe {
        if DEV_LOWER.load() == ABSENT || kernel::field::<R, u32>(dev, &DEV_PRIV_FLAGS) & BRIDGE.load() == 0 {
            return false;
        }
        // An empty list is a head that points at itself. By helper, where that may be: few packets come as far, and for a
        // pointer the verifier would look through all types.
        let first: u64 = if kernel::reads() {
            kernel::field::<Probed, _>(dev, &DEV_LOWER)
        } else {
            kernel::field::<R, _>(dev, &DEV_LOWER)
        };
        first == dev.wrapping_add(DEV_LOWER.load() as usize) as u64
    }
}

/// Describes a device in a record.
///
/// # Safety
/// `to` is memory for a `Device`; `dev` is the kernel's `struct net_device *` as `R` reads it.
#[inline(always)]
pub unsafe fn fill<R: Read>(to: *mut Device, dev: *const u8) {
    // SAFETY: integers are valid for any bytes, the helpers check addresses.
    unsafe {
        (*to).ifindex = kernel::field::<R, _>(dev, &DEV_IFINDEX);
        (*to).mtu = kernel::field::<R, _>(dev, &DEV_MTU);
        packet::copy_field::<R, _>(&raw mut (*to).name, dev, &DEV_NAME);
        kernel::copy_to(&raw mut (*to).kind, kind::<R>(dev).cast());
    }
}

/// The name of the device's kind: a string of the kernel's own.
#[inline(always)]
unsafe fn kind<R: Read>(dev: *const u8) -> *const u8 {
    // SAFETY: pointers are valid for any bytes.
    unsafe { kernel::field::<Probed, _>(kernel::field::<R, _>(dev, &DEV_LINK_OPS), &LINK_OPS_KIND) }
}

/// The other end of a veth; NULL for any other device, and where the kernel does not tell.
///
/// # Safety
/// `dev` is the kernel's `struct net_device *` as `R` reads it.
#[inline(always)]
#[must_use]
pub unsafe fn veth_peer<R: Read>(dev: *const u8) -> *const u8 {
    const VETH: [u8; 8] = *b"veth\0\0\0\0";
    // SAFETY: as above. The private part lies behind what the device's type covers: only a helper may read there.
    unsafe {
        if VETH_PEER.load() == ABSENT {
            return ptr::null();
        }
        // Five bytes of it: what is behind the name's end is not the name's.
        let name = kernel::copy::<u64>(kind::<R>(dev).cast())
            & u64::from_ne_bytes([255, 255, 255, 255, 255, 0, 0, 0]);
        if name == u64::from_ne_bytes(VETH) {
            kernel::field::<Probed, _>(dev, &VETH_PEER)
        } else {
            ptr::null()
        }
    }
}

/// What of a packet would go out in one piece.
#[derive(Clone, Copy)]
pub struct Frame {
    /// Bytes of its link header, 0 if it is not in front.
    link: u32,
    /// Bytes of the IP packet; 0 if it is GSO and will be cut to size, or if its data do not begin where a frame's do.
    pub packet: u32,
}

/// The packet as a frame.
///
/// # Safety
/// `skb` is the kernel's `struct sk_buff *` as `R` reads it.
#[inline(always)]
#[must_use]
pub unsafe fn frame<R: Read>(skb: *const u8) -> Frame {
    // SAFETY: as above.
    unsafe {
        let head: u64 = kernel::field::<R, _>(skb, &SKB_HEAD);
        let network: u16 = kernel::field::<R, _>(skb, &SKB_NETWORK_HEADER);
        let data: u64 = kernel::field::<R, _>(skb, &SKB_DATA);
        let link = head.wrapping_add(u64::from(network)).wrapping_sub(data);
        // Also where the data begin behind the network header: then this is a huge number.
        if link > u64::from(u8::MAX) || packet::gso_size::<R>(skb) != 0 {
            return Frame { link: 0, packet: 0 };
        }
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let link = link as u32;
        Frame { link, packet: kernel::field::<R, u32>(skb, &SKB_LEN).saturating_sub(link) }
    }
}

/// The device's MTU, if a frame is too much for it; 0 if not.
///
/// With its link header in front it is judged as `is_skb_forwardable` does (net/core/dev.c), which grants room for a VLAN
/// tag. Without it only a bridge's port is asked, as `br_nf_dev_queue_xmit` does (in `br_netfilter_hooks.c`): for any
/// other device IP itself looks at the size, and says so.
///
/// # Safety
/// `dev` is the kernel's `struct net_device *` as `R` reads it.
#[inline(always)]
#[must_use]
pub unsafe fn mtu_exceeded<R: Read>(dev: *const u8, frame: &Frame) -> u32 {
    const VLAN_TAG: u32 = 4;
    // SAFETY: as above.
    unsafe {
        let mtu: u32 = kernel::field::<R, _>(dev, &DEV_MTU);
        let room = if frame.link != 0 {
            u32::from(kernel::field::<R, u16>(dev, &DEV_HARD_HEADER_LEN)) + VLAN_TAG
        } else if kernel::field::<R, u32>(dev, &DEV_PRIV_FLAGS) & BRIDGE_PORT.load() != 0 {
            0
        } else {
            return 0;
        };
        if frame.packet + frame.link > mtu.saturating_add(room) { mtu } else { 0 }
    }
}
