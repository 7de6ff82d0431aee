//! Connections that close well where others are stuck: small data arrives at the same address and port.

use agent_common::mtu::hook;
use agent_common::mtu::stall::Stall;
use agent_ebpf::kernel::{self, Probed, Read, SOCK_DPORT, TCP_ACKED, TCP_ARRIVED, TCP_MSS, Typed};
use agent_ebpf::packet::{self, Address};
use agent_ebpf::tally::passed;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_skc_to_tcp_sock;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, LruHashMap};

use crate::stall::flow;

/// Places that are remembered: of those that nobody is stuck at any more the oldest make room.
const PLACES: u32 = 64;

/// TCP waits no longer than two minutes between two copies (`TCP_RTO_MAX`): who is stuck is seen as often as that.
const STALE_US: u64 = 150_000_000;

/// Where connections lead.
#[repr(C)]
#[derive(Clone, Copy)]
struct Place {
    address: [u64; 2],
    netns: u32,
    /// As it is on the wire.
    port: u16,
    zero: u16,
}

/// What is known of one, in microseconds since the system began.
#[repr(C)]
#[derive(Clone, Copy)]
struct Known {
    /// When a segment was last sent there again, and is suspected.
    stuck: u64,
    /// When the last segment was sent of a connection that closed well, 0 if none did.
    answered: u64,
}

/// Places at which a connection is stuck.
#[map]
static STUCK_AT: LruHashMap<Place, Known> = LruHashMap::with_max_entries(PLACES, 0);

/// When the last of all entries was made: of a node where nothing is stuck each connection that closes costs this one look.
#[map]
static LAST_STUCK: Array<u64> = Array::with_max_entries(1, 0);

#[inline(always)]
fn now_us() -> u64 {
    // SAFETY: no argument.
    (unsafe { bpf_ktime_get_ns() }) / 1000
}

/// Remembers that a connection is stuck there; microseconds since one that closed well sent its last segment there.
#[inline(always)]
pub(crate) fn stuck_at(netns: u32, address: &Address, port: u16) -> u64 {
    let place = Place { address: *address.words(), netns, port, zero: 0 };
    let now = now_us();
    if let Some(last) = LAST_STUCK.get_ptr_mut(0) {
        // SAFETY: the map's own memory, a plain number.
        unsafe { *last = now };
    }
    let Some(known) = STUCK_AT.get_ptr_mut(&place) else {
        // Without a place what answers there is not seen, and the segment stays suspected.
        let _ = STUCK_AT.insert(place, Known { stuck: now, answered: 0 }, 0);
        return Stall::NEVER;
    };
    // SAFETY: the map's own memory, of plain numbers: another CPU may write to it as well.
    unsafe {
        let answered = (*known).answered;
        (*known).stuck = now;
        if answered == 0 { Stall::NEVER } else { now.saturating_sub(answered) }
    }
}

/// By typed pointers, as [`crate::stall::retransmit_typed`].
#[inline(always)]
pub(crate) unsafe fn closed_typed(sk: *const u8) -> Option<()> {
    if is_quiet() {
        return passed(hook::TCP_RETRANSMIT);
    }
    // SAFETY: the verifier knows the type of `sk`; the helper gives NULL for what is no TCP socket.
    unsafe {
        let tcp: *const u8 = bpf_skc_to_tcp_sock(sk.cast_mut().cast()).cast();
        if tcp.is_null() { None } else { closed::<Typed>(sk, tcp) }
    }
}

/// By helper.
#[inline(always)]
pub(crate) unsafe fn closed_probed(sk: *const u8) -> Option<()> {
    if is_quiet() {
        return passed(hook::TCP_RETRANSMIT);
    }
    // SAFETY: the caller's.
    unsafe { closed::<Probed>(sk, sk) }
}

/// Whether nothing is stuck on this node, or was of late.
#[inline(always)]
fn is_quiet() -> bool {
    // SAFETY: the map's own memory, a plain number.
    let last = LAST_STUCK.get_ptr(0).map_or(0, |last| unsafe { *last });
    last == 0 || now_us().saturating_sub(last) > STALE_US
}

#[inline(always)]
unsafe fn closed<R: Read>(sk: *const u8, tcp: *const u8) -> Option<()> {
    // SAFETY: integers are valid for any bytes; the helpers check addresses.
    unsafe {
        let acked: u64 = kernel::field::<R, _>(tcp, &TCP_ACKED);
        let mss: u32 = kernel::field::<R, _>(tcp, &TCP_MSS);
        if Stall::took_small_alone(acked, mss) {
            let place = Place {
                address: *flow::<R>(sk).destination.words(),
                netns: netns::<R>(sk),
                port: kernel::field::<R, _>(sk, &SOCK_DPORT),
                zero: 0,
            };
            let arrived: u64 = kernel::field::<R, _>(tcp, &TCP_ARRIVED);
            if let Some(known) = STUCK_AT.get_ptr_mut(&place)
                && now_us().saturating_sub((*known).stuck) <= STALE_US
            {
                (*known).answered = arrived;
            }
        }
    }
    passed(hook::TCP_RETRANSMIT)
}

/// By helper where that may be, as in [`crate::stall`].
#[inline(always)]
pub(crate) unsafe fn netns<R: Read>(sk: *const u8) -> u32 {
    // SAFETY: the caller's.
    unsafe {
        if kernel::reads() { packet::socket_netns::<Probed>(sk) } else { packet::socket_netns::<R>(sk) }
    }
}
