//! Packets that a device frees for their size, and nobody is told.

use core::ptr;

use agent_common::NO_REASON;
use agent_common::mtu::{Fate, Kind, hook};
use agent_ebpf::device::{self, fill};
use agent_ebpf::kernel::{self, DEV_STATE, Probed, Read, SKB_DEV};
use agent_ebpf::packet::{self, Header};
use agent_ebpf::tally::passed;
use aya_ebpf::Global;
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;

use crate::seen::Seen;

/// `SKB_DROP_REASON_NOT_SPECIFIED` of the running kernel: devices that refuse a packet for its size say no more.
#[unsafe(no_mangle)]
pub(crate) static REASON_NOT_SPECIFIED: Global<u32> = Global::new(NO_REASON);

/// The bit of `net_device.state` that is set for a device without carrier; 0 if unknown.
#[unsafe(no_mangle)]
static NO_CARRIER: Global<u32> = Global::new(0);

/// Where `__dev_forward_skb` and its like, which free what does not fit the receiving device, begin and end. A map, for it
/// is known only after this is loaded; zeros until then.
#[map]
static FORWARD: Array<u64> = Array::with_max_entries(2, 0);

/// RFC 8200, 5: what every device takes that speaks IPv6.
const IPV6_MIN_MTU: u32 = 1280;

/// A packet that `is_skb_forwardable` refused for its size: by a bridge's port, which it is on with its link header in
/// front, or by the device at the other end of the one it is on.
#[inline(always)]
pub(crate) unsafe fn oversize<R: Read>(skb: *const u8, location: u64, reason: u32) -> Option<()> {
    // Of all that is dropped on a node: one comparison each.
    if reason != REASON_NOT_SPECIFIED.load() {
        return passed(hook::KFREE_SKB);
    }
    // SAFETY: integers and pointers are valid for any bytes; the helpers check addresses.
    unsafe {
        let dev: *const u8 = kernel::field::<R, _>(skb, &SKB_DEV);
        if dev.is_null() {
            return passed(hook::KFREE_SKB);
        }
        let frame = device::frame::<R>(skb);
        let mut mtu = device::mtu_exceeded::<R>(dev, &frame);
        // A bridge's port refuses by its own MTU, even if it is a veth. A packet has passed its sender's.
        let peer = if mtu == 0 { device::veth_peer::<R>(dev) } else { ptr::null() };
        if !peer.is_null() {
            mtu = device::mtu_exceeded::<Probed>(peer, &frame);
        }
        // Which device another kind than veth forwards to is not to be seen from the packet. That place frees for one that is
        // down as well: a veth whose other end is has no carrier, but for a moment while it comes up, and what every device
        // takes was not too large.
        let elsewhere = peer.is_null()
            && is_forward(location)
            && frame.packet > IPV6_MIN_MTU
            && kernel::field::<R, u64>(dev, &DEV_STATE) & u64::from(NO_CARRIER.load()) == 0;
        if mtu == 0 && !elsewhere {
            return passed(hook::KFREE_SKB);
        }
        let seen = Seen {
            hook: hook::KFREE_SKB,
            kind: Kind::Oversize,
            fate: Fate::Unknown as u8,
            netns: packet::device_netns::<R>(dev),
            packet: Header::of::<R>(skb).flow(kernel::zero()),
            len: frame.packet,
            is_from_here: packet::is_local::<R>(skb),
        };
        let (entry, record) = seen.admit()?;
        (*record).mtu = mtu;
        (*record).location = location;
        (*record).gso_size = packet::gso_size::<R>(skb);
        fill::<R>(&raw mut (*record).device, dev);
        if !peer.is_null() {
            fill::<Probed>(&raw mut (*record).route, peer);
        }
        let network = packet::network_offset::<R>(skb).into();
        (*record).header_len = packet::copy_linear::<R, _>(&raw mut (*record).header, skb, network);
        entry.submit(0);
        Some(())
    }
}

#[inline(always)]
fn is_forward(location: u64) -> bool {
    FORWARD.get(0).zip(FORWARD.get(1)).is_some_and(|(begin, end)| (*begin..*end).contains(&location))
}
