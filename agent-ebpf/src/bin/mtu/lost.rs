//! Messages about a packet's size that this node drops: whoever sends too much never learns that it does.

use agent_common::NO_REASON;
use agent_common::mtu::{self, Fate, Kind, Stage, hook};
use agent_ebpf::device::fill;
use agent_ebpf::kernel::{
    self, DST_DEV, Probed, RT6_FLAGS, RTABLE_FLAGS, Read, SKB_CSUM_START, SKB_DEV, SKB_IP_SUMMED, SKB_NFCT,
    SKB_PROTOCOL, SKB_REFDST, SKB_SK,
};
use agent_ebpf::noted;
use agent_ebpf::packet::{self, Header, LinkType};
use agent_ebpf::tally::{called, passed};
use aya_ebpf::Global;
use aya_ebpf::helpers::generated::bpf_jiffies64;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray};

use crate::message::{Error, ICMP_HEADER, told_mtu};
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
/// `SKB_DROP_REASON_SOCKET_RCVBUFF`.
#[unsafe(no_mangle)]
static REASON_SOCKET_RCVBUFF: Global<u32> = Global::new(NO_REASON);

/// The bits of the byte at [`SKB_IP_SUMMED`] that are `sk_buff.ip_summed`; all of them are set for `CHECKSUM_PARTIAL`. Not zero:
/// of a kernel that has no such field, none is.
#[unsafe(no_mangle)]
static IP_SUMMED: Global<u32> = Global::new(1);
/// Where `nf_hook_slow` begins and ends: on 5.10, which has no reasons, what dies there was dropped by a rule. Zeros until
/// the symbols are read.
#[map]
static NETFILTER: Array<u64> = Array::with_max_entries(2, 0);

/// Where sockets free copies that they do not take begins and ends, place by place.
#[map]
static COPIES: Array<[[u64; 2]; mtu::COPIES]> = Array::with_max_entries(1, 0);

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// A packet as an ICMP error, before anything of it was read.
struct Message {
    header: Header,
    version: u8,
    /// Where ICMP begins, behind the IP header's begin.
    offset: usize,
    error: Error,
    /// Where it quotes the packet that is too large.
    quote: *const u8,
}

impl Message {
    /// `None` if it is neither ICMP nor ICMPv6.
    #[inline(always)]
    unsafe fn of<R: Read>(skb: *const u8) -> Option<Self> {
        // SAFETY: integers are valid for any bytes; the helpers check addresses.
        unsafe {
            let header = Header::begin_of::<R>(skb);
            let version = header.version();
            let protocol = header.protocol(version);
            if !(version == 4 && protocol == ICMP || version == 6 && protocol == ICMPV6) {
                return None;
            }
            let offset = header.transport(version)?;
            let icmp = packet::network_header::<R>(skb).wrapping_add(offset);
            let error = kernel::copy(icmp.cast());
            Some(Self { header, version, offset, error, quote: icmp.wrapping_add(ICMP_HEADER as usize) })
        }
    }

    /// Where the quote begins, from `skb->head` on.
    #[inline(always)]
    unsafe fn quote_offset<R: Read>(&self, skb: *const u8) -> u32 {
        // SAFETY: the caller's.
        let network = unsafe { packet::network_offset::<R>(skb) };
        #[expect(clippy::cast_possible_truncation, reason = "at most 60")]
        let header = self.offset as u32;
        u32::from(network) + header + ICMP_HEADER
    }
}

/// Whether this packet is an ICMP message about a packet's size. Of all that is dropped most is told apart by some loads.
///
/// No more than that: whoever wants more reads it again, which is dear and seldom. What would be handed on differs by the way
/// that it was found by, and the verifier would walk all that follows for each of these ways, past 20,000 instructions.
#[inline(always)]
pub(crate) unsafe fn is_message<R: Read>(skb: *const u8) -> bool {
    /// Bits of `sk_buff._nfct` that are `enum ip_conntrack_info`; the rest points to the connection.
    const INFO: u64 = 7;
    /// `IP_CT_RELATED`, and the same from the connection's other end: what conntrack says of ICMP errors.
    const RELATED: u64 = 1;
    const RELATED_REPLY: u64 = 4;
    // SAFETY: integers are valid for any bytes; the helpers check addresses.
    unsafe {
        if is_to_be_summed::<R>(skb) {
            return false;
        }
        let protocol = u16::from_be(kernel::field::<R, _>(skb, &SKB_PROTOCOL));
        if protocol != ETHERTYPE_IPV4 && protocol != ETHERTYPE_IPV6 {
            return false;
        }
        let connection: u64 = kernel::field::<R, _>(skb, &SKB_NFCT);
        if connection > INFO && !matches!(connection & INFO, RELATED | RELATED_REPLY) {
            return false;
        }
        // A bridge that does not know where a frame's station is floods it to all its ports, and all but one of these copies die.
        // The message itself does not.
        if packet::link_type::<R>(skb) == Some(LinkType::Others) {
            return false;
        }
        let Some(message) = Message::of::<R>(skb) else { return false };
        if told_mtu(message.version, message.error.icmp).is_none() {
            return false;
        }
        // A quote that is none, or not whole, is refused by the one it is for, which counts it.
        let whole = if message.version == 4 { 20 } else { 40 };
        Header::begun(message.error.quoted, message.quote).version() == message.version
            && packet::linear_from::<R>(skb, message.quote_offset::<R>(skb)) >= whole
    }
}

/// Whether the checksum of this packet's own transport is still to be filled in (`CHECKSUM_PARTIAL`), as it is of all TCP and
/// UDP that never left the node. The kernel makes ICMP with its checksum.
#[inline(always)]
unsafe fn is_to_be_summed<R: Read>(skb: *const u8) -> bool {
    let partial = IP_SUMMED.load();
    // SAFETY: integers are valid for any bytes.
    unsafe {
        // What was taken out of a tunnel may have that of the packet around it, which lies before.
        u32::from(kernel::field::<R, u8>(skb, &SKB_IP_SUMMED)) & partial == partial
            && kernel::field::<R, u16>(skb, &SKB_CSUM_START) >= packet::network_offset::<R>(skb)
    }
}

/// Such a message was freed at `location`.
#[inline(always)]
pub(crate) unsafe fn lost<R: Read>(skb: *const u8, location: u64, reason: u32) -> Option<()> {
    // Where there are no reasons both are the same.
    if reason == REASON_NOT_SPECIFIED.load() && underway::was_delivered(skb) {
        return passed(hook::KFREE_SKB);
    }
    // The copy of a raw socket, that refuses it or had no room: the message itself goes on.
    let copies = [REASON_SOCKET_FILTER.load(), REASON_SOCKET_RCVBUFF.load()];
    if reason != NO_REASON && copies.contains(&reason) || is_copy(location) {
        return passed(hook::KFREE_SKB);
    }
    // SAFETY: integers and pointers are valid for any bytes; the helpers check addresses.
    unsafe {
        // What has been received belongs to a socket only while it waits there to be read: a copy, of a raw or packet socket
        // that is closed. The message itself is nobody's, once IP has it: where a filter of its device frees it, it still is its
        // sender's, if that is in a namespace of this machine.
        if !is_filter(reason) && !packet::is_local::<R>(skb) && kernel::field::<R, u64>(skb, &SKB_SK) != 0 {
            return passed(hook::KFREE_SKB);
        }
        // Here, where one way leads to: each load of a pointer from a tracepoint's own argument has the verifier look through
        // all of the kernel's types, and again for each way that it comes by (`btf_nested_type_is_trusted`, seen on 6.12).
        let dev: *const u8 = kernel::field::<R, _>(skb, &SKB_DEV);
        let message = Message::of::<R>(skb)?;
        let mtu = told_mtu(message.version, message.error.icmp)?;
        let quoted = Header::begun(message.error.quoted, message.quote).flow(kernel::zero());
        // The lowest bit says that no reference is held (SKB_DST_NOREF).
        let route = (kernel::field::<R, u64>(skb, &SKB_REFDST) & !1) as *const u8;
        let mut netns = packet::device_netns::<R>(dev);
        if netns == 0 {
            netns = packet::socket_netns::<Probed>(kernel::field::<Probed, _>(skb, &SKB_SK));
        }
        if netns == 0 {
            netns = packet::device_netns::<Probed>(kernel::field::<Probed, _>(route, &DST_DEV));
        }
        let stage = kernel::unknown(stage::<R>(skb, route, message.version) as u8);
        let seen = Seen {
            hook: hook::KFREE_SKB,
            kind: Kind::Lost,
            fate: kernel::unknown(fate::<R>(skb, location, reason) as u8),
            netns,
            packet: quoted,
            len: 0,
            // A namespace's own INPUT: the message was for it.
            is_from_here: stage == Stage::Input as u8,
        };
        let (entry, record) = seen.admit()?;
        (*record).mtu = mtu;
        (*record).location = location;
        (*record).reason = reason;
        (*record).stage = stage;
        (*record).sender = message.header.source(message.version).bytes();
        fill::<R>(&raw mut (*record).device, dev);
        let quote = message.quote_offset::<R>(skb);
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
    if is_filter(reason) { Fate::Filtered } else { Fate::Dropped }
}

/// Whether a filter of a device (tc) freed it.
#[inline(always)]
fn is_filter(reason: u32) -> bool {
    reason != NO_REASON && [REASON_TC_INGRESS.load(), REASON_TC_EGRESS.load()].contains(&reason)
}

/// Whether a socket did not take it.
#[inline(always)]
fn is_copy(location: u64) -> bool {
    let Some(places) = COPIES.get(0) else { return false };
    let mut within = 0;
    // By the sign of differences, without a branch: each would double the ways that the verifier walks.
    for [begin, end] in places {
        within |= !location.wrapping_sub(*begin) & location.wrapping_sub(*end);
    }
    within >> 63 != 0
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

/// Whether conntrack has just found no connection for this packet.
#[inline(always)]
fn is_invalid(skb: *const u8) -> bool {
    tracked().is_some_and(|tracked| tracked.skb == skb as u64 && noted::is_just(tracked.at))
}
