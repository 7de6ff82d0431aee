//! Messages about a packet's size that this node drops: whoever sends too much never learns that it does.

use agent_common::NO_REASON;
use agent_common::mtu::{Fate, Kind, Stage, hook};
use agent_ebpf::device::fill;
use agent_ebpf::kernel::{
    self, DST_DEV, Probed, RT6_FLAGS, RTABLE_FLAGS, Read, SKB_DEV, SKB_NFCT, SKB_PROTOCOL, SKB_REFDST, SKB_SK,
};
use agent_ebpf::packet::{self, Header};
use agent_ebpf::tally::{called, passed};
use aya_ebpf::Global;
use aya_ebpf::helpers::generated::bpf_jiffies64;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray};

use crate::message::{ICMP_HEADER, told_mtu};
use crate::oversize::REASON_NOT_SPECIFIED;
use crate::seen::Seen;
use crate::underway;

/// `SKB_DROP_REASON_NETFILTER_DROP` of the running kernel.
#[unsafe(no_mangle)]
static REASON_NETFILTER: Global<u32> = Global::new(NO_REASON);
/// `SKB_DROP_REASON_TC_INGRESS`.
#[unsafe(no_mangle)]
static REASON_TC_INGRESS: Global<u32> = Global::new(NO_REASON);
/// `SKB_DROP_REASON_TC_EGRESS`.
#[unsafe(no_mangle)]
static REASON_TC_EGRESS: Global<u32> = Global::new(NO_REASON);
/// `SKB_DROP_REASON_SOCKET_FILTER`.
#[unsafe(no_mangle)]
static REASON_SOCKET_FILTER: Global<u32> = Global::new(NO_REASON);

/// Where `nf_hook_slow` begins and ends: on 5.10, which has no reasons, what dies there was dropped by a rule. Zeros until
/// the symbols are read.
#[map]
static NETFILTER: Array<u64> = Array::with_max_entries(2, 0);

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Whether this packet is an ICMP message about a packet's size. Of all that is dropped most is told apart by two loads.
#[inline(always)]
pub(crate) unsafe fn is_message<R: Read>(skb: *const u8) -> bool {
    /// Bits of `sk_buff._nfct` that are `enum ip_conntrack_info`; the rest points to the connection.
    const INFO: u64 = 7;
    /// `IP_CT_RELATED`, and the same from the connection's other end: what conntrack says of ICMP errors.
    const RELATED: u64 = 1;
    const RELATED_REPLY: u64 = 4;
    // SAFETY: integers are valid for any bytes; the helpers check addresses.
    unsafe {
        let protocol = u16::from_be(kernel::field::<R, _>(skb, &SKB_PROTOCOL));
        if protocol != ETHERTYPE_IPV4 && protocol != ETHERTYPE_IPV6 {
            return false;
        }
        let connection: u64 = kernel::field::<R, _>(skb, &SKB_NFCT);
        if connection > INFO && !matches!(connection & INFO, RELATED | RELATED_REPLY) {
            return false;
        }
        let header = Header::of::<R>(skb);
        let version = header.version();
        let protocol = header.protocol(version);
        if !(version == 4 && protocol == ICMP || version == 6 && protocol == ICMPV6) {
            return false;
        }
        let Some(offset) = header.transport(version) else { return false };
        let icmp = packet::network_header::<R>(skb).wrapping_add(offset);
        if told_mtu(version, kernel::copy(icmp.cast())).is_none() {
            return false;
        }
        // A quote that is none, or not whole, is refused by the one it is for, which counts it.
        Header::at(icmp.wrapping_add(ICMP_HEADER as usize)).version() == version
            && packet::linear_from::<R>(skb, quote_offset::<R>(skb, offset))
                >= if version == 4 { 20 } else { 40 }
    }
}

/// Where the quote begins, from `skb->head` on, behind an IP header of this length.
#[inline(always)]
unsafe fn quote_offset<R: Read>(skb: *const u8, header: usize) -> u32 {
    // SAFETY: the caller's.
    let network = unsafe { packet::network_offset::<R>(skb) };
    #[expect(clippy::cast_possible_truncation, reason = "at most 60")]
    let header = header as u32;
    u32::from(network) + header + ICMP_HEADER
}

/// Such a message was freed at `location`.
#[inline(always)]
pub(crate) unsafe fn lost<R: Read>(skb: *const u8, location: u64, reason: u32) -> Option<()> {
    // Where there are no reasons both are the same.
    if reason == REASON_NOT_SPECIFIED.load() && underway::was_delivered(skb) {
        return passed(hook::KFREE_SKB);
    }
    // SAFETY: integers and pointers are valid for any bytes; the helpers check addresses.
    unsafe {
        let header = Header::of::<R>(skb);
        let message = header.flow(kernel::zero());
        let offset = header.transport(message.version)?;
        let icmp = packet::network_header::<R>(skb).wrapping_add(offset);
        let mtu = told_mtu(message.version, kernel::copy(icmp.cast()))?;
        let quoted = Header::at(icmp.wrapping_add(ICMP_HEADER as usize)).flow(kernel::zero());

        let dev: *const u8 = kernel::field::<R, _>(skb, &SKB_DEV);
        // The lowest bit says that no reference is held (SKB_DST_NOREF).
        let route = (kernel::field::<R, u64>(skb, &SKB_REFDST) & !1) as *const u8;
        let mut netns = packet::device_netns::<R>(dev);
        if netns == 0 {
            let sk: *const u8 = kernel::field::<R, _>(skb, &SKB_SK);
            // The verifier wants it asked.
            if !sk.is_null() {
                netns = packet::socket_netns::<R>(sk);
            }
        }
        if netns == 0 {
            netns = packet::device_netns::<Probed>(kernel::field::<Probed, _>(route, &DST_DEV));
        }
        let stage = stage::<R>(skb, route, message.version);
        let seen = Seen {
            hook: hook::KFREE_SKB,
            kind: Kind::Lost,
            fate: fate::<R>(skb, location, reason),
            netns,
            packet: quoted,
            len: 0,
            // A namespace's own INPUT: the message was for it.
            is_from_here: stage as u8 == Stage::Input as u8,
        };
        let (entry, record) = seen.admit()?;
        (*record).mtu = mtu;
        (*record).location = location;
        (*record).reason = reason;
        (*record).stage = stage as u8;
        (*record).sender = message.source.bytes();
        fill::<R>(&raw mut (*record).device, dev);
        let quote = quote_offset::<R>(skb, offset);
        (*record).header_len = packet::copy_linear::<R, _>(&raw mut (*record).header, skb, quote);
        entry.submit(0);
        Some(())
    }
}

#[inline(always)]
unsafe fn fate<R: Read>(skb: *const u8, location: u64, reason: u32) -> Fate {
    let by_rule =
        if reason == NO_REASON { is_netfilter(location) } else { reason == REASON_NETFILTER.load() };
    if by_rule {
        // SAFETY: an integer is valid for any bytes.
        let tracked = unsafe { kernel::field::<R, u64>(skb, &SKB_NFCT) } != 0;
        return if !tracked && is_invalid(skb) { Fate::Invalid } else { Fate::Filtered };
    }
    let filters = [REASON_TC_INGRESS.load(), REASON_TC_EGRESS.load(), REASON_SOCKET_FILTER.load()];
    if reason != NO_REASON && filters.contains(&reason) { Fate::Filtered } else { Fate::Dropped }
}

#[inline(always)]
fn is_netfilter(location: u64) -> bool {
    NETFILTER.get(0).zip(NETFILTER.get(1)).is_some_and(|(begin, end)| (*begin..*end).contains(&location))
}

/// How far it had come: netfilter's hooks are where a packet has no route yet, one to this host, or another.
#[inline(always)]
unsafe fn stage<R: Read>(skb: *const u8, route: *const u8, ip_version: u8) -> Stage {
    /// `RTCF_LOCAL` of `rtable.rt_flags` (`linux/in_route.h`) and `RTF_LOCAL` of `rt6_info.rt6i_flags`.
    const LOCAL: u32 = 1 << 31;
    // SAFETY: integers are valid for any bytes; the helper checks the address.
    unsafe {
        if packet::is_local::<R>(skb) {
            return Stage::Output;
        }
        if route.is_null() {
            return Stage::Prerouting;
        }
        let flags = if ip_version == 4 { &RTABLE_FLAGS } else { &RT6_FLAGS };
        if kernel::field::<Probed, u32>(route, flags) & LOCAL == 0 { Stage::Forward } else { Stage::Input }
    }
}

/// The last ICMP error that conntrack looked at on this CPU.
#[repr(C)]
#[derive(Clone, Copy)]
struct Tracked {
    skb: u64,
    /// When, in jiffies; 0 if it found the connection.
    at: u64,
}

#[map]
static TRACKED: PerCpuArray<Tracked> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
fn tracked() -> Option<&'static mut Tracked> {
    // SAFETY: per-CPU memory: this CPU's alone while the program runs.
    unsafe { TRACKED.get_ptr_mut(0)?.as_mut() }
}

/// Conntrack looks up the connection that an ICMP error is about.
#[inline(always)]
pub(crate) fn conntrack_error(skb: *const u8) -> Option<()> {
    *tracked()? = Tracked { skb: skb as u64, at: 0 };
    Some(())
}

/// And this is what it says: a verdict, negative if there is no such connection.
#[inline(always)]
pub(crate) fn conntrack_judged(verdict: i32) -> Option<()> {
    // SAFETY: no argument.
    let now = unsafe { bpf_jiffies64() };
    called(hook::CONNTRACK_ERROR);
    tracked()?.at = if verdict < 0 { now } else { 0 };
    Some(())
}

/// Whether conntrack has just found no connection for this packet. Its address may be another's later, but an interrupt may
/// have come in between.
#[inline(always)]
fn is_invalid(skb: *const u8) -> bool {
    /// Jiffies: 25 to 250 ms.
    const JUST: u64 = 25;
    // SAFETY: no argument.
    let now = unsafe { bpf_jiffies64() };
    tracked().is_some_and(|tracked| tracked.skb == skb as u64 && now.wrapping_sub(tracked.at) <= JUST)
}
