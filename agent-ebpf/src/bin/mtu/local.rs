//! What this node's own sockets and route caches do about packets that are too large.

use agent_common::mtu::{Fate, Kind, flags, hook};
use agent_ebpf::device::fill;
use agent_ebpf::kernel::{
    self, FL6_DESTINATION, FL6_DPORT, FL6_PROTOCOL, NHC_DEV, Probed, RT6_DESTINATION, RT6_DEV, Read,
};
use agent_ebpf::packet::{self, Address, Flow};
use agent_ebpf::tally::passed;

use crate::message;
use crate::seen::{Entry, Seen};

const EMSGSIZE: i32 = 90;
const UDP: u8 = 17;
const UDP_LITE: u8 = 136;

#[inline(always)]
pub(crate) unsafe fn ip_local_error<R: Read>(
    sk: *const u8,
    error: i32,
    to: u32,
    port: u16,
    mtu: u32,
) -> Option<()> {
    if error != EMSGSIZE {
        return passed(hook::IP_LOCAL_ERROR);
    }
    // SAFETY: the function's own argument.
    let netns = unsafe { packet::socket_netns::<R>(sk) };
    // SAFETY: as above.
    unsafe { refused(hook::IP_LOCAL_ERROR, netns, Flow::to(4, Address::v4(to)), port, mtu) }
}

#[inline(always)]
pub(crate) unsafe fn ipv6_local_error<R: Read>(
    sk: *const u8,
    error: i32,
    flow: *const u8,
    mtu: u32,
) -> Option<()> {
    if error != EMSGSIZE {
        return passed(hook::IPV6_LOCAL_ERROR);
    }
    // SAFETY: the function's own arguments; the flow is on its caller's stack.
    unsafe {
        let to = Flow::to(6, kernel::field::<Probed, _>(flow, &FL6_DESTINATION));
        // A ping has its ICMP type in the same place.
        let port = match kernel::field::<Probed, u8>(flow, &FL6_PROTOCOL) {
            UDP | UDP_LITE => kernel::field::<Probed, u16>(flow, &FL6_DPORT),
            _ => 0,
        };
        refused(hook::IPV6_LOCAL_ERROR, packet::socket_netns::<R>(sk), to, port, mtu)
    }
}

#[inline(always)]
pub(crate) unsafe fn update_fnhe<R: Read>(
    hop: *const u8,
    to: u32,
    gateway: u32,
    mtu: u32,
    locked: u8,
) -> Option<()> {
    // A redirect learns a gateway by the same function.
    if mtu == 0 {
        return passed(hook::UPDATE_FNHE);
    }
    message::learned();
    // SAFETY: the function's own argument.
    unsafe {
        let dev: *const u8 = kernel::field::<R, _>(hop, &NHC_DEV);
        let record = learned::<R>(hook::UPDATE_FNHE, dev, Flow::to(4, Address::v4(to)), mtu)?;
        (*record.1).sender = Address::v4(gateway).bytes();
        if locked & 1 != 0 {
            (*record.1).flags |= flags::LOCKED;
        }
        record.0.submit(0);
        Some(())
    }
}

#[inline(always)]
pub(crate) unsafe fn rt6_update_pmtu<R: Read>(route: *const u8, mtu: u32) -> Option<()> {
    message::learned();
    // SAFETY: the function's own argument.
    unsafe {
        let dev: *const u8 = kernel::field::<R, _>(route, &RT6_DEV);
        let to = Flow::to(6, kernel::field::<Probed, _>(route, &RT6_DESTINATION));
        learned::<R>(hook::RT6_UPDATE_PMTU, dev, to, mtu)?.0.submit(0);
        Some(())
    }
}

/// A socket of namespace `netns` asked for more than fits.
#[inline(always)]
unsafe fn refused(hook: u32, netns: u32, flow: Flow, port: u16, mtu: u32) -> Option<()> {
    let seen = Seen {
        hook,
        kind: Kind::Refused,
        fate: Fate::Unknown as u8,
        netns,
        packet: flow,
        len: 0,
        is_from_here: true,
    };
    // SAFETY: the ring's own memory for one record.
    unsafe {
        let (entry, record) = seen.admit()?;
        (*record).mtu = mtu;
        (*record).destination_port = u16::from_be(port);
        entry.submit(0);
    }
    Some(())
}

/// The path by `dev` was learned to take `mtu`.
#[inline(always)]
unsafe fn learned<R: Read>(hook: u32, dev: *const u8, flow: Flow, mtu: u32) -> Option<Entry> {
    // SAFETY: as above.
    unsafe {
        let netns = packet::device_netns::<R>(dev);
        let seen = Seen {
            hook,
            kind: Kind::Learned,
            fate: Fate::Unknown as u8,
            netns,
            packet: flow,
            len: 0,
            is_from_here: true,
        };
        let (entry, record) = seen.admit()?;
        (*record).mtu = mtu;
        fill::<R>(&raw mut (*record).device, dev);
        Some((entry, record))
    }
}
