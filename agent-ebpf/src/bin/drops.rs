//! Kernel side of the drops probe: every packet the kernel frees as lost is counted; a few a second are described.
#![no_std]
#![no_main]
#![expect(
    clippy::inline_always,
    reason = "a call between BPF functions costs, and an untyped argument loses the BTF type"
)]
#![expect(clippy::needless_pass_by_value, reason = "the program macros hand the context over")]

use agent_common::drops::{Direction, DropKey, DropRecord, flags};
use agent_common::{Count, NO_REASON};
use agent_ebpf::counts::count;
use agent_ebpf::kernel::{
    self, DEV_IFINDEX, DEV_MTU, DEV_NAME, DST_INPUT, Probed, Read, SKB_DEV, SKB_IIF, SKB_LEN, SKB_REFDST,
    SKB_SK, Typed,
};
use agent_ebpf::packet::{self, DONT_FRAGMENT, FRAGMENT_OFFSET, Packet};
use agent_ebpf::slots::{self, Here};
use agent_ebpf::tally::tally;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{btf_tracepoint, map, raw_tracepoint, tracepoint};
use aya_ebpf::maps::{PerCpuHashMap, RingBuf};
use aya_ebpf::programs::{BtfTracePointContext, RawTracePointContext, TracePointContext};
use aya_ebpf::{EbpfContext, Global};
use aya_log_ebpf::debug;

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
/// `SKB_CONSUMED` of the running kernel: a packet that was used up, not lost.
#[unsafe(no_mangle)]
static REASON_CONSUMED: Global<u32> = Global::new(NO_REASON);
/// Addresses of the functions that take a routed packet in: `dst_entry.input` of a route to this host. 0 if unknown.
#[unsafe(no_mangle)]
static IP_LOCAL_DELIVER: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static IP6_INPUT: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static IP6_MC_INPUT: Global<u64> = Global::new(0);

/// Offsets of the classic tracepoint's fields, from tracefs.
#[unsafe(no_mangle)]
static TP_SKBADDR: Global<u32> = Global::new(kernel::ABSENT);
#[unsafe(no_mangle)]
static TP_LOCATION: Global<u32> = Global::new(kernel::ABSENT);
#[unsafe(no_mangle)]
static TP_REASON: Global<u32> = Global::new(kernel::ABSENT);

/// The loopback device has this index in every network namespace (`LOOPBACK_IFINDEX`, include/net/flow.h).
const LOOPBACK: u32 = 1;

/// The probe's one hook.
const KFREE_SKB: u32 = 0;

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

/// What the key and the record both need.
struct Seen {
    packet: Packet,
    dev: *const u8,
    netns: u32,
    here: Here,
    ifindex: u32,
    input_ifindex: u32,
    len: u32,
    has_socket: bool,
}

#[inline(always)]
fn try_kfree_skb<R: Read, C: EbpfContext>(ctx: &C, freed: &Freed) -> Result<(), i64> {
    if freed.reason == REASON_CONSUMED.load() && freed.reason != NO_REASON {
        return Ok(());
    }
    let tally = tally(KFREE_SKB).ok_or(0)?;
    tally.seen += 1;

    // SAFETY: `skb` is the tracepoint's own argument, read the way this kind of program may.
    let seen = unsafe { look::<R>(freed) };
    // SAFETY: as above.
    let direction = unsafe { direction::<R>(freed.skb, &seen) };
    let (source, destination) = ends(&seen, direction);
    let key = DropKey {
        place: low(freed.location),
        reason: freed.reason,
        source,
        destination,
        direction: direction as u8,
        ip_version: seen.packet.ip_version,
        zero: 0,
    };
    // SAFETY: no argument.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some(held) = count(&COUNTS, tally, &key, seen.len, now) else {
        return Ok(());
    };
    let Some(mut entry) = RECORDS.reserve::<DropRecord>(0) else {
        tally.ring_full += 1;
        debug!(ctx, "ring full: a drop at {:x} is counted, not described", freed.location);
        return Ok(());
    };
    // SAFETY: as above.
    unsafe { record::<R>(entry.as_mut_ptr(), freed, &seen, &key, held, now) };
    entry.submit(0);
    Ok(())
}

#[inline(always)]
unsafe fn look<R: Read>(freed: &Freed) -> Seen {
    // SAFETY: integers and pointers are valid for any bytes; an address that cannot be read gives None or zero.
    unsafe {
        let skb = freed.skb;
        let dev = kernel::pointer::<R>(skb, &SKB_DEV);
        let sk = kernel::pointer::<R>(skb, &SKB_SK);
        // UDP's receive path reuses skb->dev as scratch space before it may drop: ask the receiving socket first.
        let mut netns = 0;
        if !freed.rx_sk.is_null() {
            netns = packet::socket_netns::<R>(freed.rx_sk);
        }
        if netns == 0
            && let Some(dev) = dev
        {
            netns = packet::device_netns::<R>(dev);
        }
        if netns == 0
            && let Some(sk) = sk
        {
            netns = packet::socket_netns::<R>(sk);
        }
        Seen {
            here: Here::of(netns),
            packet: Packet::of::<R>(skb),
            dev: dev.unwrap_or(core::ptr::null()),
            netns,
            ifindex: dev.and_then(|dev| kernel::field::<R, _>(dev, &DEV_IFINDEX)).unwrap_or(0),
            input_ifindex: kernel::field::<R, _>(skb, &SKB_IIF).unwrap_or(0),
            len: kernel::field::<R, _>(skb, &SKB_LEN).unwrap_or(0),
            has_socket: sk.is_some() || !freed.rx_sk.is_null(),
        }
    }
}

/// A packet that came in by no device was made here. One that did is for this host if its route says so; it was on
/// its way out if its route says anything else, or if it already is on another device (a bridge has no routes).
#[inline(always)]
unsafe fn direction<R: Read>(skb: *const u8, seen: &Seen) -> Direction {
    if SKB_IIF.load() == kernel::ABSENT {
        return Direction::Unknown;
    }
    if seen.input_ifindex == 0 {
        return Direction::Sent;
    }
    // SAFETY: integers are valid for any bytes; the helper checks the address.
    unsafe {
        // The lowest bit says that no reference is held (SKB_DST_NOREF).
        let dst = kernel::field::<R, u64>(skb, &SKB_REFDST).unwrap_or(0) & !1;
        let offset = DST_INPUT.load();
        if dst != 0 && offset != kernel::ABSENT {
            if IP_LOCAL_DELIVER.load() == 0 {
                return Direction::Unknown;
            }
            let Some(input) = kernel::copy((dst + u64::from(offset)) as *const u64) else {
                return Direction::Unknown;
            };
            let local =
                input == IP_LOCAL_DELIVER.load() || input == IP6_INPUT.load() || input == IP6_MC_INPUT.load();
            return if local { Direction::Received } else { Direction::Forwarded };
        }
    }
    if seen.ifindex != 0 && seen.ifindex != seen.input_ifindex {
        return Direction::Forwarded;
    }
    Direction::Received
}

/// The pods at both ends: the namespace the packet died in is one of them for certain, addresses say the rest. They do
/// so only where the host's routing holds.
#[inline(always)]
fn ends(seen: &Seen, direction: Direction) -> (u16, u16) {
    if seen.here.foreign {
        return (0, 0);
    }
    let here = seen.here.slot;
    let (mut source, mut destination) = (0, 0);
    if here != 0 {
        if seen.ifindex == LOOPBACK || seen.input_ifindex == LOOPBACK {
            return (here, here);
        }
        match direction {
            Direction::Sent => source = here,
            Direction::Received => destination = here,
            _ => {}
        }
    }
    let packet = &seen.packet;
    if source == 0 {
        source = slots::by_address(packet.ip_version, &packet.source);
    }
    if destination == 0 {
        destination = slots::by_address(packet.ip_version, &packet.destination);
    }
    (source, destination)
}

/// The low half, all of the number that a key needs.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
const fn low(number: u64) -> u32 {
    number as u32
}

/// Fills every byte of the record: ring memory is not zeroed, and what is left in it would be a stranger's.
#[inline(always)]
unsafe fn record<R: Read>(
    record: *mut DropRecord,
    freed: &Freed,
    seen: &Seen,
    key: &DropKey,
    held: u64,
    ktime_ns: u64,
) {
    let packet = &seen.packet;
    let transport = packet.transport();
    let [a, b, c, d] = transport.unwrap_or([0; 4]);
    let mut bits = 0;
    for (bit, set) in [
        (flags::HAS_IP, packet.ip_version != 0),
        (flags::HAS_TRANSPORT, transport.is_some()),
        (flags::DONT_FRAGMENT, packet.fragment & DONT_FRAGMENT != 0),
        (flags::LATER_FRAGMENT, packet.fragment & FRAGMENT_OFFSET != 0),
        (flags::HAS_SOCKET, seen.has_socket),
        (flags::FOREIGN, seen.here.foreign),
    ] {
        if set {
            bits |= bit;
        }
    }
    // SAFETY: integers are valid for any bytes, `record` is the ring's own memory for one record.
    unsafe {
        let (mut mtu, mut ifname) = (0, [0; 16]);
        if !seen.dev.is_null() {
            mtu = kernel::field::<R, _>(seen.dev, &DEV_MTU).unwrap_or(0);
            ifname = packet::bytes::<R, _>(seen.dev, &DEV_NAME);
        }
        record.write(DropRecord {
            ktime_ns,
            location: freed.location,
            held,
            reason: freed.reason,
            len: seen.len,
            netns: seen.netns,
            ifindex: seen.ifindex,
            mtu,
            input_ifindex: seen.input_ifindex,
            source: packet.source.bytes(),
            destination: packet.destination.bytes(),
            ethertype: packet::ethertype::<R>(freed.skb),
            source_port: u16::from_be_bytes([a, b]),
            destination_port: u16::from_be_bytes([c, d]),
            source_slot: key.source,
            destination_slot: key.destination,
            gso_size: packet::gso_size::<R>(freed.skb),
            direction: key.direction,
            ip_version: packet.ip_version,
            protocol: packet.protocol,
            ttl: packet.ttl,
            flags: bits,
            zero: [0; 7],
            ifname,
        });
    }
}
