//! Messages that say that a packet is too large: made by this node, and received by a namespace of it.

use agent_common::mtu::{Fate, Kind, flags, hook};
use agent_ebpf::device::fill;
use agent_ebpf::icmp;
use agent_ebpf::kernel::{
    self, DST_DEV, DST_XFRM, Probed, RT6_FLAGS, RTABLE_PMTU, Read, SKB_DEV, SKB_LEN, SKB_REFDST,
    XFRM_CHILD_MTU,
};
use agent_ebpf::packet::{self, Begin, Header};
use agent_ebpf::tally::{called, passed};

use crate::seen::Seen;
use crate::underway::{self, Family, LEARNED, PUSHED, ROUTING, STRAY, TAKEN, Underway};

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Bytes of an ICMP or ICMPv6 error before the packet it quotes.
pub(crate) const ICMP_HEADER: u32 = 8;

/// What an ICMP error has behind its IP header: a read takes as long for eight bytes as for forty.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Error {
    pub(crate) icmp: [u8; 8],
    pub(crate) quoted: Begin,
}

/// The MTU that an ICMP message tells, by its first eight bytes; `None` if it is about something else.
#[inline(always)]
pub(crate) fn told_mtu(ip_version: u8, icmp: [u8; 8]) -> Option<u32> {
    let [kind, code, _, _, mtu @ ..] = icmp;
    match ip_version {
        // RFC 1191: the lower half; the upper is unused.
        4 if icmp::is_frag_needed(kind, code) => Some(u16::from_be_bytes([mtu[2], mtu[3]]).into()),
        6 if icmp::is_packet_too_big(kind) => Some(u32::from_be_bytes(mtu)),
        _ => None,
    }
}

#[inline(always)]
pub(crate) unsafe fn icmp_send<R: Read>(skb: *const u8, kind: u8, code: u8, info: u32) -> Option<()> {
    if !icmp::is_frag_needed(kind, code) {
        return passed(hook::ICMP_SEND);
    }
    // SAFETY: the caller's.
    unsafe { made::<R>(hook::ICMP_SEND, skb, u32::from_be(info), Fate::Unknown as u8) }
}

/// As [`icmp_send`], where its end is seen as well.
#[inline(always)]
pub(crate) fn icmp_begin(skb: *const u8, kind: u8, code: u8, info: u32) -> Option<()> {
    if !icmp::is_frag_needed(kind, code) {
        underway::begin_other(hook::ICMP_SEND, skb);
        return passed(hook::ICMP_SEND);
    }
    underway::begin_making(hook::ICMP_SEND, skb, u32::from_be(info), Family::V4)
}

#[inline(always)]
pub(crate) unsafe fn icmp_sent<R: Read>(skb: *const u8, underway: &Underway) -> Option<()> {
    let fate = kernel::unknown(underway.made(Family::V4) as u8);
    // SAFETY: the caller's.
    unsafe { made::<R>(hook::ICMP_SEND, skb, underway.mtu, fate) }
}

/// Called right after the ICMP socket is locked, and before a route is looked for.
#[inline(always)]
pub(crate) fn icmp_options(_: *const u8) -> Option<()> {
    underway::note(ROUTING)
}

#[inline(always)]
pub(crate) fn icmp_push(_: *const u8) -> Option<()> {
    underway::sending(Family::V4)
}

#[inline(always)]
pub(crate) fn icmp_pushed(_: i32) -> Option<()> {
    underway::sent(Family::V4)
}

#[inline(always)]
pub(crate) fn icmp6_send(skb: *const u8, kind: u8, info: u32) -> Option<()> {
    if !icmp::is_packet_too_big(kind) {
        underway::begin_other(hook::ICMP6_SEND, skb);
        return passed(hook::ICMP6_SEND);
    }
    underway::begin_making(hook::ICMP6_SEND, skb, info, Family::V6)
}

/// Called once such messages are past the limits.
#[inline(always)]
pub(crate) fn icmpv6_route(_: *const u8) -> Option<()> {
    underway::note(ROUTING)
}

/// A message of this CPU's is past all limits and has a route.
#[inline(always)]
pub(crate) fn icmpv6_push(_: *const u8) -> Option<()> {
    underway::sending(Family::V6)
}

#[inline(always)]
pub(crate) fn icmpv6_pushed(_: i32) -> Option<()> {
    underway::sent(Family::V6)
}

#[inline(always)]
pub(crate) unsafe fn icmp6_sent<R: Read>(skb: *const u8, underway: &Underway) -> Option<()> {
    let fate = kernel::unknown(underway.made(Family::V6) as u8);
    // SAFETY: the caller's.
    unsafe { made::<R>(hook::ICMP6_SEND, skb, underway.mtu, fate) }
}

/// As [`icmp6_sent`], where it is not seen why one is not sent.
#[inline(always)]
pub(crate) unsafe fn icmp6_ended<R: Read>(skb: *const u8, underway: &Underway) -> Option<()> {
    let fate = kernel::unknown(if underway.has(PUSHED) { Fate::Unknown } else { Fate::Unsent } as u8);
    // SAFETY: the caller's.
    unsafe { made::<R>(hook::ICMP6_SEND, skb, underway.mtu, fate) }
}

/// What it is about is looked at once, at its end.
#[inline(always)]
pub(crate) fn icmp_unreach(skb: *const u8) -> Option<()> {
    underway::begin(hook::ICMP_UNREACH, skb, 0)
}

#[inline(always)]
pub(crate) unsafe fn icmp_unreached<R: Read>(skb: *const u8, underway: &Underway) -> Option<()> {
    // SAFETY: the helpers check addresses.
    unsafe {
        let icmp = packet::transport_header::<R>(skb);
        let error: Error = kernel::copy(icmp.cast());
        let Some(mtu) = told_mtu(4, error.icmp) else { return passed(hook::ICMP_UNREACH) };
        let quoted = Header::begun(error.quoted, icmp.wrapping_add(ICMP_HEADER as usize));
        received::<R>(hook::ICMP_UNREACH, skb, underway, mtu, &quoted)
    }
}

#[inline(always)]
pub(crate) fn icmpv6_notify(skb: *const u8, kind: u8, info: u32) -> Option<()> {
    if !icmp::is_packet_too_big(kind) {
        underway::begin_other(hook::ICMPV6_NOTIFY, skb);
        return passed(hook::ICMPV6_NOTIFY);
    }
    underway::begin(hook::ICMPV6_NOTIFY, skb, u32::from_be(info))
}

#[inline(always)]
pub(crate) unsafe fn icmpv6_notified<R: Read>(skb: *const u8, underway: &Underway) -> Option<()> {
    underway::delivered(skb);
    // SAFETY: the helpers check addresses.
    unsafe {
        let quoted = Header::at(packet::transport_header::<R>(skb).wrapping_add(ICMP_HEADER as usize));
        received::<R>(hook::ICMPV6_NOTIFY, skb, underway, underway.mtu, &quoted)
    }
}

/// TCP's or UDP's error handler has returned: 0 if a socket sent what the message quotes.
#[inline(always)]
pub(crate) fn judged(error: i32) -> Option<()> {
    underway::note(if error == 0 { TAKEN } else { STRAY })
}

/// As [`judged`], by a hook of its own.
#[inline(always)]
pub(crate) fn udpv6_judged(error: i32) -> Option<()> {
    called(hook::UDPV6_ERR);
    judged(error)
}

/// The route cache has learned a path MTU.
#[inline(always)]
pub(crate) fn learned() {
    underway::note(LEARNED);
}

/// This node says that `skb` is too large: where it was, where its route would have taken it.
#[inline(always)]
unsafe fn made<R: Read>(hook: u32, skb: *const u8, mtu: u32, fate: u8) -> Option<()> {
    // SAFETY: integers and pointers are valid for any bytes; the helpers check addresses.
    unsafe {
        let dev: *const u8 = kernel::field::<R, _>(skb, &SKB_DEV);
        // The lowest bit says that no reference is held (SKB_DST_NOREF).
        let route = (kernel::field::<R, u64>(skb, &SKB_REFDST) & !1) as *const u8;
        // A packet of this namespace's own may be on no device yet.
        let mut netns = packet::device_netns::<R>(dev);
        if netns == 0 {
            netns = packet::device_netns::<Probed>(kernel::field::<Probed, _>(route, &DST_DEV));
        }
        let seen = Seen {
            hook,
            kind: Kind::Made,
            fate,
            netns,
            packet: Header::of::<R>(skb).flow(kernel::zero()),
            len: kernel::field::<R, _>(skb, &SKB_LEN),
            is_from_here: packet::is_local::<R>(skb),
        };
        let (entry, record) = seen.admit()?;
        (*record).mtu = mtu;
        (*record).gso_size = packet::gso_size::<R>(skb);
        fill::<R>(&raw mut (*record).device, dev);
        // NULL where there is no route.
        let out: *const u8 = kernel::field::<Probed, _>(route, &DST_DEV);
        if !out.is_null() {
            fill::<Probed>(&raw mut (*record).route, out);
            if kernel::field::<Probed, u64>(route, &DST_XFRM) == 0 {
                (*record).route_pmtu = learned_pmtu(route, seen.packet.version, mtu);
            } else {
                (*record).route_pmtu = kernel::field::<Probed, _>(route, &XFRM_CHILD_MTU);
                (*record).flags |= flags::ENCRYPTED;
            }
        }
        let network = packet::network_offset::<R>(skb).into();
        (*record).header_len = packet::copy_linear::<R, _>(&raw mut (*record).header, skb, network);
        entry.submit(0);
        Some(())
    }
}

/// The path MTU that a route has from an earlier message, 0 if none.
#[inline(always)]
unsafe fn learned_pmtu(route: *const u8, ip_version: u8, mtu: u32) -> u32 {
    /// `RTF_CACHE` (`linux/ipv6_route.h`): a route of one destination, made for what was learned of it.
    const LEARNED: u32 = 0x0100_0000;
    // SAFETY: integers are valid for any bytes; the helper checks the address.
    unsafe {
        if ip_version == 4 {
            // The lowest bit is rt_mtu_locked.
            return kernel::field::<Probed, u32>(route, &RTABLE_PMTU) >> 1;
        }
        if kernel::field::<Probed, u32>(route, &RT6_FLAGS) & LEARNED == 0 { 0 } else { mtu }
    }
}

/// A namespace of this node was told by `skb` that of the packet it quotes only `mtu` bytes fit.
#[inline(always)]
unsafe fn received<R: Read>(
    hook: u32,
    skb: *const u8,
    underway: &Underway,
    mtu: u32,
    quoted: &Header,
) -> Option<()> {
    // SAFETY: as above.
    unsafe {
        let dev: *const u8 = kernel::field::<R, _>(skb, &SKB_DEV);
        let version = quoted.version();
        let quote = u32::from(packet::transport_offset::<R>(skb)) + ICMP_HEADER;
        // IPv6 has no such setting, and UDP's handler may not be hooked there. The kernel asks no handler about what is cut off
        // (`icmp_socket_deliver` wants eight bytes behind the header).
        let is_heard = version == 4
            && matches!(quoted.protocol(version), TCP | UDP)
            && quoted
                .transport(version)
                .is_some_and(|length| packet::linear_from::<R>(skb, quote) as usize >= length + 8);
        let seen = Seen {
            hook,
            kind: Kind::Received,
            fate: kernel::unknown(underway.fate(is_heard) as u8),
            netns: packet::device_netns::<R>(dev),
            packet: quoted.flow(kernel::zero()),
            len: 0,
            // It was sent to whoever sent the packet.
            is_from_here: true,
        };
        let (entry, record) = seen.admit()?;
        let message = Header::of::<R>(skb).flow(kernel::zero());
        (*record).mtu = mtu;
        if underway.has(LEARNED) {
            (*record).flags |= flags::TAKEN;
        }
        (*record).sender = message.source.bytes();
        // Of the message, so that a quote that is none still has a family.
        (*record).ip_version = message.version;
        fill::<R>(&raw mut (*record).device, dev);
        (*record).header_len = packet::copy_linear::<R, _>(&raw mut (*record).header, skb, quote);
        entry.submit(0);
        Some(())
    }
}
