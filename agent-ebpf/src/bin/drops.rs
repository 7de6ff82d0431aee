//! Kernel side of the drops probe: every packet the kernel frees as lost is counted; a few a second are described.
#![no_std]
#![no_main]
#![expect(
    clippy::inline_always,
    reason = "a call between BPF functions costs, and an untyped argument loses the BTF type"
)]
#![expect(clippy::needless_pass_by_value, reason = "the program macros hand the context over")]

use core::mem::offset_of;

use agent_common::drops::{Direction, DropKey, DropRecord, flags, hook};
use agent_common::quote::HEADER;
use agent_common::{Count, NO_REASON};
use agent_ebpf::counts::count;
use agent_ebpf::filter;
use agent_ebpf::kernel::{
    self, DEV_IFINDEX, DEV_MTU, DEV_NAME, Probed, RT6_FLAGS, RTABLE_FLAGS, Read, SKB_DEV, SKB_IIF, SKB_LEN,
    SKB_REFDST, SKB_SK, Typed,
};
use agent_ebpf::on_begin;
use agent_ebpf::packet::{self, DONT_FRAGMENT, FRAGMENT_OFFSET, Header};
use agent_ebpf::slots::{self, Here};
use agent_ebpf::tally::tally;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{btf_tracepoint, map, raw_tracepoint, tracepoint};
use aya_ebpf::maps::{PerCpuHashMap, RingBuf};
use aya_ebpf::programs::{BtfTracePointContext, RawTracePointContext, TracePointContext};
use aya_ebpf::{EbpfContext, Global};
use aya_log_ebpf::debug;

// Cargo would take files beside this one for binaries of their own.
#[path = "drops/circumstances.rs"]
mod circumstances;
#[path = "drops/told.rs"]
mod told;

/// Rows of exact counts. A row is a (place, reason, pods, direction) that has dropped something; a busy node has a
/// few hundred. What does not fit is counted in [`agent_common::Tally::uncounted`]. Each row takes memory for every CPU
/// that may ever be there: for 64 of them these take 9 MB.
#[map]
static COUNTS: PerCpuHashMap<DropKey, Count> = PerCpuHashMap::with_max_entries(4096, 0);

/// The only queue of the probe.
#[map]
static RECORDS: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// Number of the reason argument of `kfree_skb`'s prototype plus one; 0 where the kernel has none (5.10).
#[unsafe(no_mangle)]
static HAS_REASON: Global<u32> = Global::new(0);
/// 1 where the prototype ends with the receiving socket (6.11 and later).
#[unsafe(no_mangle)]
static HAS_RX_SK: Global<u32> = Global::new(0);
/// `SKB_CONSUMED` of the running kernel: a packet that was used up, not lost. No kernel's reason, not even
/// [`NO_REASON`], where it has none of that name.
#[unsafe(no_mangle)]
static REASON_CONSUMED: Global<u32> = Global::new(NO_REASON - 1);
/// Offsets of the classic tracepoint's fields, from tracefs.
#[unsafe(no_mangle)]
static TP_SKBADDR: Global<u32> = Global::new(kernel::ABSENT);
#[unsafe(no_mangle)]
static TP_LOCATION: Global<u32> = Global::new(kernel::ABSENT);
#[unsafe(no_mangle)]
static TP_REASON: Global<u32> = Global::new(kernel::ABSENT);

/// The loopback device has this index in every network namespace (`LOOPBACK_IFINDEX`, include/net/flow.h).
const LOOPBACK: u32 = 1;

/// What the tracepoint was called with.
struct Freed {
    skb: *const u8,
    location: u64,
    reason: u32,
    rx_sk: *const u8,
}

// include/trace/events/skb.h: TP_PROTO(struct sk_buff *skb, void *location)                              5.10
//                             TP_PROTO(struct sk_buff *skb, void *location, enum skb_drop_reason reason) 5.15.y, 5.17
//                             TP_PROTO(.., enum skb_drop_reason reason, struct sock *rx_sk)              6.11
#[btf_tracepoint(function = "kfree_skb")]
fn kfree_skb_btf(ctx: BtfTracePointContext) -> i32 {
    let freed = Freed {
        skb: ctx.arg(0),
        location: ctx.arg(1),
        reason: if HAS_REASON.load() == 0 { NO_REASON } else { ctx.arg(2) },
        rx_sk: if HAS_RX_SK.load() == 0 { core::ptr::null() } else { ctx.arg(3) },
    };
    let _ = try_kfree_skb::<Typed, _>(&ctx, &freed);
    0
}

// The same arguments as plain numbers.
#[raw_tracepoint(tracepoint = "kfree_skb")]
fn kfree_skb_raw(ctx: RawTracePointContext) -> i32 {
    let freed = Freed {
        skb: ctx.arg(0),
        location: ctx.arg(1),
        reason: if HAS_REASON.load() == 0 { NO_REASON } else { ctx.arg(2) },
        rx_sk: if HAS_RX_SK.load() == 0 { core::ptr::null() } else { ctx.arg(3) },
    };
    let _ = try_kfree_skb::<Probed, _>(&ctx, &freed);
    0
}

// events/skb/kfree_skb/format: skbaddr, location, [rx_sk], protocol, [reason]; offsets move, so they are injected.
#[tracepoint(category = "skb", name = "kfree_skb")]
fn kfree_skb_classic(ctx: TracePointContext) -> u32 {
    let _ = try_classic(&ctx);
    0
}

// include/net/icmp.h: void __icmp_send(struct sk_buff *skb_in, int type, int code, ..)              5.10 to 7.2
on_begin!(icmp_send_fentry, icmp_send_kprobe: told::icmp_send => (0, 1, 2));
// include/linux/icmpv6.h: void icmp6_send(struct sk_buff *skb, u8 type, u8 code, ..)                 5.10 to 7.2
on_begin!(icmp6_send_fentry, icmp6_send_kprobe: told::icmp6_send => (0, 1));

fn try_classic(ctx: &TracePointContext) -> Result<(), i64> {
    if TP_LOCATION.load() == kernel::ABSENT {
        return Ok(());
    }
    // SAFETY: the user side takes the offsets from this tracepoint's own format.
    let freed = unsafe {
        Freed {
            skb: match TP_SKBADDR.load() {
                kernel::ABSENT => core::ptr::null(),
                offset => ctx.read_at(offset as usize)?,
            },
            location: ctx.read_at(TP_LOCATION.load() as usize)?,
            reason: match TP_REASON.load() {
                kernel::ABSENT => NO_REASON,
                offset => ctx.read_at(offset as usize)?,
            },
            rx_sk: core::ptr::null(),
        }
    };
    try_kfree_skb::<Probed, _>(ctx, &freed)
}

/// Where it died.
struct Site {
    dev: *const u8,
    /// Inode of the network namespace, 0 if unknown.
    netns: u32,
    ifindex: u32,
    /// Device it had come in by, 0 if it had not.
    input_ifindex: u32,
}

#[inline(always)]
fn try_kfree_skb<R: Read, C: EbpfContext>(ctx: &C, freed: &Freed) -> Result<(), i64> {
    if freed.reason == REASON_CONSUMED.load() {
        return Ok(());
    }
    let tally = tally(hook::KFREE_SKB).ok_or(0)?;
    tally.seen();

    // SAFETY: `skb` is the tracepoint's own argument, read the way this kind of program may.
    let (key, len) = unsafe { (key::<R>(freed), kernel::field::<R, u32>(freed.skb, &SKB_LEN)) };
    // SAFETY: as above.
    let wanted = || unsafe { filter::wants::<R>(freed.skb) };
    let Some(admitted) = count(&COUNTS, tally, &key, len, wanted) else {
        return Ok(());
    };
    let Some(mut entry) = RECORDS.reserve::<DropRecord>(0) else {
        tally.ring_full();
        debug!(ctx, "ring full: a drop at {:x} is counted, not described", freed.location);
        return Ok(());
    };
    // SAFETY: as above.
    unsafe { record::<R>(entry.as_mut_ptr(), freed, &key, admitted.held.into()) };
    entry.submit(0);
    Ok(())
}

/// What the drop is counted under.
#[inline(always)]
unsafe fn key<R: Read>(freed: &Freed) -> DropKey {
    let zero = kernel::zero();
    // SAFETY: as the caller has it.
    let (site, header) = unsafe { (site::<R>(freed, zero), Header::of::<R>(freed.skb)) };
    let ip_version = header.version() | zero;
    // SAFETY: as above.
    let direction = unsafe { direction::<R>(freed.skb, &site, &header, ip_version) } as u8 | zero;
    let ends = ends(&site, &header, ip_version, direction, zero);
    // SAFETY: as above.
    let circumstances =
        unsafe { circumstances::of::<R>(freed, &site, &header, ip_version, direction, &ends) };
    #[expect(clippy::cast_possible_truncation, reason = "the low half is all that a key needs")]
    let place = freed.location as u32;
    let Ends { source, destination, .. } = ends;
    DropKey { place, reason: freed.reason, source, destination, direction, ip_version, circumstances }
}

#[inline(always)]
unsafe fn site<R: Read>(freed: &Freed, zero: u8) -> Site {
    // SAFETY: integers and pointers are valid for any bytes; what cannot be read is zero.
    unsafe {
        let dev: *const u8 = kernel::field::<R, _>(freed.skb, &SKB_DEV);
        let (mut netns, mut ifindex) = (u32::from(zero), u32::from(zero));
        // Not left to the reads, which would see zeroes: where a fault is how they see them, it is dear, and many a
        // packet dies on no device.
        if !dev.is_null() {
            netns = packet::device_netns::<R>(dev);
            ifindex = kernel::field::<R, _>(dev, &DEV_IFINDEX);
        }
        // UDP's receive path reuses skb->dev as scratch space before it may drop: the receiving socket knows better.
        if !freed.rx_sk.is_null() {
            netns = packet::socket_netns::<R>(freed.rx_sk);
        } else if netns == 0 {
            let sk: *const u8 = kernel::field::<R, _>(freed.skb, &SKB_SK);
            if !sk.is_null() {
                netns = packet::socket_netns::<R>(sk);
            }
        }
        Site { dev, netns, ifindex, input_ifindex: kernel::field::<R, _>(freed.skb, &SKB_IIF) }
    }
}

/// A packet that came in by no device was made here. One that did is for this host if its route says so; it was on
/// its way out if its route says anything else, or if it already is on another device (a bridge has no routes).
#[inline(always)]
unsafe fn direction<R: Read>(skb: *const u8, site: &Site, header: &Header, ip_version: u8) -> Direction {
    /// `RTCF_LOCAL` of `rtable.rt_flags` (`linux/in_route.h`) and `RTF_LOCAL` of `rt6_info.rt6i_flags`
    /// (`linux/ipv6_route.h`).
    const LOCAL: u32 = 1 << 31;
    /// `RTF_ANYCAST`.
    const ANYCAST: u32 = 1 << 20;
    if site.input_ifindex == 0 {
        // Not even that is known where there are no types.
        return if SKB_IIF.load() == kernel::ABSENT { Direction::Unknown } else { Direction::Sent };
    }
    // SAFETY: integers are valid for any bytes; the helper checks the address.
    let received = unsafe {
        // The lowest bit says that no reference is held (SKB_DST_NOREF).
        let route = (kernel::field::<R, u64>(skb, &SKB_REFDST) & !1) as *const u8;
        if route.is_null() {
            site.ifindex == 0 || site.ifindex == site.input_ifindex
        } else if !kernel::reads() || ip_version == 6 && RT6_FLAGS.load() == kernel::ABSENT {
            return Direction::Unknown;
        } else if ip_version == 6 {
            // A multicast group's route does not say that it is for this host as well.
            kernel::field::<Probed, u32>(route, &RT6_FLAGS) & (LOCAL | ANYCAST) != 0
                || header.ipv6_destination().is_multicast()
        } else {
            kernel::field::<Probed, u32>(route, &RTABLE_FLAGS) & LOCAL != 0
        }
    };
    if received { Direction::Received } else { Direction::Forwarded }
}

/// The slots of pods at both ends, 0 where there is none.
struct Ends {
    source: u16,
    destination: u16,
    /// By the destination address alone.
    addressed: u16,
    /// The pod in whose namespace it died; [`FOREIGN`] in one that is neither the host's nor a known pod's.
    here: u16,
}

/// No slot: there are fewer.
const FOREIGN: u16 = u16::MAX;

/// The pods at both ends: the namespace the packet died in is one of them for certain, addresses say the rest. They do
/// so only where the host's routing holds.
#[inline(always)]
fn ends(site: &Site, header: &Header, ip_version: u8, direction: u8, zero: u8) -> Ends {
    let here = Here::of(site.netns);
    let nobody = u16::from(zero);
    // Zero as well; but any number for the verifier, that would otherwise know what `FOREIGN` is not.
    let any = nobody.wrapping_mul(u16::MAX);
    if here.foreign {
        return Ends { source: nobody, destination: nobody, addressed: nobody, here: FOREIGN ^ any };
    }
    let here = here.slot ^ any;
    let (mut source, mut destination) = (nobody, nobody);
    if here != 0 {
        if site.ifindex == LOOPBACK || site.input_ifindex == LOOPBACK {
            return Ends { source: here, destination: here, addressed: here, here };
        }
        if direction == Direction::Sent as u8 {
            source = here;
        } else if direction == Direction::Received as u8 {
            destination = here;
        }
    }
    let (from, to) = slots::of_header(header, ip_version, zero);
    Ends {
        source: if source == 0 { from } else { source },
        destination: if destination == 0 { to } else { destination },
        addressed: to,
        here,
    }
}

/// Fills every byte of the record: ring memory is not zeroed, and what is left in it would be a stranger's. All is read
/// again: few drops come as far, and what is kept for them every drop would pay for.
#[inline(always)]
unsafe fn record<R: Read>(record: *mut DropRecord, freed: &Freed, key: &DropKey, held: u64) {
    let version = key.ip_version;
    // SAFETY: integers are valid for any bytes, `record` is the ring's own memory for one record.
    unsafe {
        (*record).ktime_ns = bpf_ktime_get_ns();
        (*record).location = freed.location;
        (*record).held = held;
        (*record).reason = freed.reason;
        (*record).len = kernel::field::<R, _>(freed.skb, &SKB_LEN);
        (*record).ethertype = packet::ethertype::<R>(freed.skb);
        (*record).gso_size = packet::gso_size::<R>(freed.skb);
        (*record).source_slot = key.source;
        (*record).destination_slot = key.destination;
        (*record).direction = key.direction;
        (*record).ip_version = version;
        // From `flags` to `padding`: for them the compiler would call a function.
        const { assert!(offset_of!(DropRecord, flags) == 96 && offset_of!(DropRecord, ifname) == 104) };
        #[expect(
            clippy::cast_ptr_alignment,
            reason = "the offset is a multiple of eight, as is the record's address"
        )]
        (&raw mut (*record).flags).cast::<u64>().write_volatile(0);
        (*record).circumstances = key.circumstances;

        // Each pointer that is loaded from a trusted one (a tracepoint's argument) has the verifier look through all of the
        // kernel's types, again for each way to the load (`btf_nested_type_is_trusted`, seen on 6.12).
        if kernel::reads() {
            record_site::<Probed>(record, freed);
        } else {
            record_site::<R>(record, freed);
        }

        let header = Header::of::<R>(freed.skb);
        let flow = header.flow(kernel::zero());
        (*record).source = flow.source.bytes();
        (*record).destination = flow.destination.bytes();
        (*record).protocol = header.protocol(version);
        (*record).ttl = header.ttl(version);
        if version != 0 {
            (*record).flags |= flags::HAS_IP;
        }
        let fragment = header.fragment(version);
        if fragment & DONT_FRAGMENT != 0 {
            (*record).flags |= flags::DONT_FRAGMENT;
        }
        if fragment & FRAGMENT_OFFSET != 0 {
            (*record).flags |= flags::LATER_FRAGMENT;
        }
        let mut ports = [0_u16; 2];
        if let Some(offset) = header.transport(version) {
            ports = kernel::copy(packet::network_header::<R>(freed.skb).wrapping_add(offset).cast());
            (*record).flags |= flags::HAS_TRANSPORT;
        }
        const { assert!(offset_of!(DropRecord, header).is_multiple_of(8)) };
        #[expect(clippy::cast_ptr_alignment, reason = "asserted above")]
        kernel::clear((&raw mut (*record).header).cast::<[u64; HEADER / 8]>());
        if version != 0 {
            let network = packet::network_offset::<R>(freed.skb).into();
            (*record).header_len = packet::copy_linear::<R, _>(&raw mut (*record).header, freed.skb, network);
        }
        (*record).source_port = u16::from_be(ports[0]);
        (*record).destination_port = u16::from_be(ports[1]);
    }
}

/// Where it died and whether a socket had it.
#[inline(always)]
unsafe fn record_site<R: Read>(record: *mut DropRecord, freed: &Freed) {
    // SAFETY: as above.
    unsafe {
        let site = site::<R>(freed, 0);
        (*record).netns = site.netns;
        (*record).ifindex = site.ifindex;
        (*record).input_ifindex = site.input_ifindex;
        let foreign = Here::of(site.netns).foreign;
        (*record).flags = if foreign { flags::FOREIGN } else { 0 };
        if site.dev.is_null() {
            (*record).mtu = 0;
            const { assert!(offset_of!(DropRecord, ifname).is_multiple_of(8)) };
            #[expect(clippy::cast_ptr_alignment, reason = "asserted above")]
            kernel::clear((&raw mut (*record).ifname).cast::<[u64; 2]>());
        } else {
            (*record).mtu = kernel::field::<R, _>(site.dev, &DEV_MTU);
            packet::copy_field::<R, _>(&raw mut (*record).ifname, site.dev, &DEV_NAME);
        }
        if !freed.rx_sk.is_null() || kernel::field::<R, u64>(freed.skb, &SKB_SK) != 0 {
            (*record).flags |= flags::HAS_SOCKET;
        }
    }
}

const _: () = assert!(hook::COUNT <= agent_common::MAX_HOOKS as usize);
