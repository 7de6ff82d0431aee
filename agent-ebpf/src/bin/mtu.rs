//! Kernel side of the mtu probe: messages about packets that are too large, made and received, and such packets that
//! die without one.
#![no_std]
#![no_main]
#![expect(
    clippy::inline_always,
    reason = "a call between BPF functions costs, and an untyped argument loses the BTF type"
)]
#![expect(clippy::needless_pass_by_value, reason = "the program macros hand the context over")]

use core::ptr;

use agent_common::mtu::{Kind, MtuKey, MtuRecord, flags, hook};
use agent_common::{Count, NO_REASON};
use agent_ebpf::counts::count;
use agent_ebpf::device::{self, fill};
use agent_ebpf::kernel::{
    self, DST_DEV, FL6_DESTINATION, FL6_DPORT, NHC_DEV, Probed, RT6_DESTINATION, RT6_DEV, RT6_FLAGS,
    RTABLE_PMTU, Read, SKB_DEV, SKB_LEN, SKB_REFDST, Typed,
};
use agent_ebpf::packet::{self, Address, Flow, Header};
use agent_ebpf::slots::{self, Here};
use agent_ebpf::tally::{passed, tally};
use aya_ebpf::Global;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{btf_tracepoint, fentry, kprobe, map, raw_tracepoint};
use aya_ebpf::maps::ring_buf::RingBufEntry;
use aya_ebpf::maps::{Array, PerCpuHashMap, RingBuf};
use aya_ebpf::programs::{BtfTracePointContext, FEntryContext, ProbeContext, RawTracePointContext};

/// Rows of exact counts: what happened, and to which two pods. What does not fit is counted in
/// [`agent_common::Tally::uncounted`].
#[map]
static COUNTS: PerCpuHashMap<MtuKey, Count> = PerCpuHashMap::with_max_entries(1024, 0);

/// The only queue of the probe.
#[map]
static RECORDS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// 1 where `kfree_skb` has a reason argument (not on 5.10).
#[unsafe(no_mangle)]
static HAS_REASON: Global<u32> = Global::new(0);
/// `SKB_DROP_REASON_NOT_SPECIFIED` of the running kernel: devices that refuse a packet for its size say no more.
#[unsafe(no_mangle)]
static REASON_NOT_SPECIFIED: Global<u32> = Global::new(NO_REASON);

/// Where `__dev_forward_skb` and its like, which free what does not fit the receiving device, begin and end. A map, for it
/// is known only after this is loaded; zeros until then.
#[map]
static FORWARD: Array<u64> = Array::with_max_entries(2, 0);

const ICMP_DEST_UNREACH: u8 = 3;
const ICMP_FRAG_NEEDED: u8 = 4;
const ICMPV6_PKT_TOOBIG: u8 = 2;
const EMSGSIZE: i32 = 90;
/// Bytes of an ICMP or ICMPv6 error before the packet it quotes.
const ICMP_HEADER: u32 = 8;

/// Two programs for one hook on a function's entry: by BTF, and by registers.
macro_rules! on_entry {
    ($fentry:ident, $kprobe:ident: $event:ident($($arg:literal),*)) => {
        #[fentry]
        fn $fentry(ctx: FEntryContext) -> i32 {
            // SAFETY: the function's own arguments, read the way this kind of program may.
            let _ = unsafe { $event::<Typed>($(ctx.arg($arg)),*) };
            0
        }

        #[kprobe]
        fn $kprobe(ctx: ProbeContext) -> u32 {
            // SAFETY: as above.
            let _ = (|| unsafe { $event::<Probed>($(ctx.arg($arg)?),*) })();
            0
        }
    };
}

// include/net/icmp.h: void __icmp_send(struct sk_buff *skb_in, int type, int code, __be32 info, ..)   5.10 to 7.2
// (the fifth argument is struct ip_options * up to 6.12, struct inet_skb_parm * later: not read)
on_entry!(icmp_send_fentry, icmp_send_kprobe: icmp_send(0, 1, 2, 3));

#[inline(always)]
unsafe fn icmp_send<R: Read>(skb: *const u8, kind: u8, code: u8, info: u32) -> Option<()> {
    if kind != ICMP_DEST_UNREACH || code != ICMP_FRAG_NEEDED {
        return passed(hook::ICMP_SEND);
    }
    // SAFETY: the caller's.
    unsafe { made::<R>(hook::ICMP_SEND, skb, u32::from_be(info)) }
}

// include/linux/icmpv6.h: void icmp6_send(struct sk_buff *skb, u8 type, u8 code, __u32 info, ..)      5.10 to 7.2
on_entry!(icmp6_send_fentry, icmp6_send_kprobe: icmp6_send(0, 1, 3));

#[inline(always)]
unsafe fn icmp6_send<R: Read>(skb: *const u8, kind: u8, info: u32) -> Option<()> {
    if kind != ICMPV6_PKT_TOOBIG {
        return passed(hook::ICMP6_SEND);
    }
    // SAFETY: the caller's.
    unsafe { made::<R>(hook::ICMP6_SEND, skb, info) }
}

// net/ipv4/icmp.c: bool (later enum skb_drop_reason) icmp_unreach(struct sk_buff *skb)                5.10 to 7.2
on_entry!(icmp_unreach_fentry, icmp_unreach_kprobe: icmp_unreach(0));

#[inline(always)]
unsafe fn icmp_unreach<R: Read>(skb: *const u8) -> Option<()> {
    // SAFETY: the helper checks the address.
    unsafe {
        let icmp = packet::transport_header::<R>(skb);
        let [kind, code, _, _, _, _, mtu @ ..]: [u8; 8] = kernel::copy(icmp.cast());
        if kind != ICMP_DEST_UNREACH || code != ICMP_FRAG_NEEDED {
            return passed(hook::ICMP_UNREACH);
        }
        let mtu = u16::from_be_bytes(mtu).into();
        received::<R>(hook::ICMP_UNREACH, skb, mtu)
    }
}

// net/ipv6/icmp.c: void (later enum) icmpv6_notify(struct sk_buff *skb, u8 type, u8 code, __be32 info) 5.10 to 7.2
on_entry!(icmpv6_notify_fentry, icmpv6_notify_kprobe: icmpv6_notify(0, 1, 3));

#[inline(always)]
unsafe fn icmpv6_notify<R: Read>(skb: *const u8, kind: u8, info: u32) -> Option<()> {
    if kind != ICMPV6_PKT_TOOBIG {
        return passed(hook::ICMPV6_NOTIFY);
    }
    // SAFETY: the helper checks the address.
    unsafe { received::<R>(hook::ICMPV6_NOTIFY, skb, u32::from_be(info)) }
}

// include/trace/events/skb.h: kfree_skb(struct sk_buff *skb, void *location[, enum skb_drop_reason reason, ..])
#[btf_tracepoint(function = "kfree_skb")]
fn kfree_skb_btf(ctx: BtfTracePointContext) -> i32 {
    let reason = if HAS_REASON.load() == 0 { NO_REASON } else { ctx.arg(2) };
    // SAFETY: the tracepoint's own arguments, read the way this kind of program may.
    let _ = unsafe { kfree_skb::<Typed>(ctx.arg(0), ctx.arg(1), reason) };
    0
}

#[raw_tracepoint(tracepoint = "kfree_skb")]
fn kfree_skb_raw(ctx: RawTracePointContext) -> i32 {
    let reason = if HAS_REASON.load() == 0 { NO_REASON } else { ctx.arg(2) };
    // SAFETY: as above.
    let _ = unsafe { kfree_skb::<Probed>(ctx.arg(0), ctx.arg(1), reason) };
    0
}

/// A packet that `is_skb_forwardable` refused for its size: by a bridge's port, which it is on with its link header in
/// front, or by the device at the other end of the one it is on.
#[inline(always)]
unsafe fn kfree_skb<R: Read>(skb: *const u8, location: u64, reason: u32) -> Option<()> {
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
        // Which device another kind than veth forwards to is not to be seen from the packet.
        let elsewhere = peer.is_null() && is_forward(location);
        if mtu == 0 && !elsewhere {
            return passed(hook::KFREE_SKB);
        }
        let seen = Seen {
            hook: hook::KFREE_SKB,
            kind: Kind::Oversize,
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

// include/net/ip.h: void ip_local_error(struct sock *sk, int err, __be32 daddr, __be16 dport, u32 info)  5.10 to 7.2
on_entry!(ip_local_error_fentry, ip_local_error_kprobe: ip_local_error(0, 1, 2, 3, 4));

#[inline(always)]
unsafe fn ip_local_error<R: Read>(sk: *const u8, error: i32, to: u32, port: u16, mtu: u32) -> Option<()> {
    if error != EMSGSIZE {
        return passed(hook::IP_LOCAL_ERROR);
    }
    // SAFETY: the function's own argument.
    let netns = unsafe { packet::socket_netns::<R>(sk) };
    // SAFETY: as above.
    unsafe { refused(hook::IP_LOCAL_ERROR, netns, Flow::to(4, Address::v4(to)), port, mtu) }
}

// include/linux/ipv6.h: void ipv6_local_error(struct sock *sk, int err, struct flowi6 *fl6, u32 info)   5.10 to 7.2
on_entry!(ipv6_local_error_fentry, ipv6_local_error_kprobe: ipv6_local_error(0, 1, 2, 3));

#[inline(always)]
unsafe fn ipv6_local_error<R: Read>(sk: *const u8, error: i32, flow: *const u8, mtu: u32) -> Option<()> {
    if error != EMSGSIZE {
        return passed(hook::IPV6_LOCAL_ERROR);
    }
    // SAFETY: the function's own arguments; the flow is on its caller's stack.
    unsafe {
        let to = Flow::to(6, kernel::field::<Probed, _>(flow, &FL6_DESTINATION));
        let port: u16 = kernel::field::<Probed, _>(flow, &FL6_DPORT);
        refused(hook::IPV6_LOCAL_ERROR, packet::socket_netns::<R>(sk), to, port, mtu)
    }
}

// net/ipv4/route.c: static void update_or_create_fnhe(struct fib_nh_common *nhc, __be32 daddr, __be32 gw, u32 pmtu,
//                                                     bool lock, unsigned long expires)              5.10 to 7.2
on_entry!(update_fnhe_fentry, update_fnhe_kprobe: update_fnhe(0, 1, 2, 3, 4));

#[inline(always)]
unsafe fn update_fnhe<R: Read>(hop: *const u8, to: u32, gateway: u32, mtu: u32, locked: u8) -> Option<()> {
    // A redirect learns a gateway by the same function.
    if mtu == 0 {
        return passed(hook::UPDATE_FNHE);
    }
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

// net/ipv6/route.c: static void rt6_do_update_pmtu(struct rt6_info *rt, u32 mtu)                        5.10 to 7.2
on_entry!(rt6_update_pmtu_fentry, rt6_update_pmtu_kprobe: rt6_update_pmtu(0, 1));

#[inline(always)]
unsafe fn rt6_update_pmtu<R: Read>(route: *const u8, mtu: u32) -> Option<()> {
    // SAFETY: the function's own argument.
    unsafe {
        let dev: *const u8 = kernel::field::<R, _>(route, &RT6_DEV);
        let to = Flow::to(6, kernel::field::<Probed, _>(route, &RT6_DESTINATION));
        learned::<R>(hook::RT6_UPDATE_PMTU, dev, to, mtu)?.0.submit(0);
        Some(())
    }
}

/// A record in the ring, to be filled and submitted.
type Entry = (RingBufEntry<MtuRecord>, *mut MtuRecord);

/// What every event is counted by.
struct Seen {
    hook: u32,
    kind: Kind,
    netns: u32,
    /// Version and addresses of the packet that is too large, as far as they are known.
    packet: Flow,
    len: u32,
    /// The namespace it happened in is the one whose pod sends too much.
    is_from_here: bool,
}

impl Seen {
    /// Counts the event; a record for it, zeroed but for what is known here, if it may be described.
    #[inline(always)]
    unsafe fn admit(&self) -> Option<Entry> {
        let tally = tally(self.hook)?;
        tally.seen += 1;
        let zero = kernel::zero();
        let here = Here::of(self.netns);
        let (mut source, mut destination) = (u16::from(zero), u16::from(zero));
        if !here.foreign {
            (source, destination) = slots::of_flow(&self.packet, zero);
            if self.is_from_here && here.slot != 0 {
                source = here.slot;
            }
        }
        let key =
            MtuKey { kind: self.kind as u8, ip_version: self.packet.version, source, destination, zero: 0 };
        let held = count(&COUNTS, tally, &key, self.len)?;
        let Some(mut entry) = RECORDS.reserve::<MtuRecord>(0) else {
            tally.ring_full += 1;
            return None;
        };
        let record = entry.as_mut_ptr();
        // SAFETY: the ring's own memory for one record. Ring memory is not zeroed: what is left in it is a stranger's.
        unsafe {
            kernel::clear(record);
            (*record).ktime_ns = bpf_ktime_get_ns();
            (*record).held = held;
            (*record).len = self.len;
            (*record).netns = self.netns;
            (*record).source = self.packet.source.bytes();
            (*record).destination = self.packet.destination.bytes();
            (*record).source_slot = source;
            (*record).destination_slot = destination;
            (*record).kind = key.kind;
            (*record).ip_version = key.ip_version;
            if here.foreign {
                (*record).flags |= flags::FOREIGN;
            }
            if self.is_from_here {
                (*record).flags |= flags::LOCAL_ORIGIN;
            }
        }
        Some((entry, record))
    }
}

/// This node is about to say that `skb` is too large: where it was, where its route would have taken it.
#[inline(always)]
unsafe fn made<R: Read>(hook: u32, skb: *const u8, mtu: u32) -> Option<()> {
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
            (*record).route_pmtu = learned_pmtu(route, seen.packet.version, mtu);
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

/// A namespace of this node is told by `skb` that the packet it quotes was too large.
#[inline(always)]
unsafe fn received<R: Read>(hook: u32, skb: *const u8, mtu: u32) -> Option<()> {
    // SAFETY: as above.
    unsafe {
        let dev: *const u8 = kernel::field::<R, _>(skb, &SKB_DEV);
        let seen = Seen {
            hook,
            kind: Kind::Received,
            netns: packet::device_netns::<R>(dev),
            packet: Header::at(packet::transport_header::<R>(skb).wrapping_add(ICMP_HEADER as usize))
                .flow(kernel::zero()),
            len: 0,
            // It was sent to whoever sent the packet.
            is_from_here: true,
        };
        let (entry, record) = seen.admit()?;
        let message = Header::of::<R>(skb).flow(kernel::zero());
        (*record).mtu = mtu;
        (*record).sender = message.source.bytes();
        // Of the message, so that a quote that is none still has a family.
        (*record).ip_version = message.version;
        fill::<R>(&raw mut (*record).device, dev);
        let quote = u32::from(packet::transport_offset::<R>(skb)) + ICMP_HEADER;
        (*record).header_len = packet::copy_linear::<R, _>(&raw mut (*record).header, skb, quote);
        entry.submit(0);
        Some(())
    }
}

/// A socket of namespace `netns` asked for more than fits.
#[inline(always)]
unsafe fn refused(hook: u32, netns: u32, flow: Flow, port: u16, mtu: u32) -> Option<()> {
    let seen = Seen { hook, kind: Kind::Refused, netns, packet: flow, len: 0, is_from_here: true };
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
        let seen = Seen { hook, kind: Kind::Learned, netns, packet: flow, len: 0, is_from_here: true };
        let (entry, record) = seen.admit()?;
        (*record).mtu = mtu;
        fill::<R>(&raw mut (*record).device, dev);
        Some((entry, record))
    }
}
