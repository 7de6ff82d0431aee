//! Connections that end well where another is stuck: small data arrives at the same address and port.

use agent_common::mtu::stall::Stall;
use agent_ebpf::kernel::{self, Probed, Read, SOCK_DPORT, TCP_ACKED, TCP_ARRIVED, TCP_MSS, Typed};
use agent_ebpf::packet::Flow;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::bpf_skc_to_tcp_sock;
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;

use crate::stall::{flow, netns};

/// Places that are remembered at a time. Where two fall together the later one is not, and what is stuck there stays suspected.
const PLACES: u32 = 256;

/// TCP waits no longer than two minutes between two copies (`TCP_RTO_MAX`): a connection that is stuck is seen as often as that.
const STALE_US: u64 = 150_000_000;

/// Between which addresses connections are, and to which port.
#[derive(Clone, Copy)]
pub(crate) struct Place([u64; 5]);

impl Place {
    /// `port` is as it is on the wire. `None` where the addresses cannot be read.
    #[inline(always)]
    pub(crate) fn of(flow: &Flow, netns: u32, port: u16) -> Option<Self> {
        let ([a, b], [c, d]) = (*flow.source.words(), *flow.destination.words());
        // All that cannot be read would be one place.
        if c | d == 0 { None } else { Some(Self([a, b, c, d, u64::from(netns) << 16 | u64::from(port)])) }
    }

    /// Where it is remembered.
    #[inline(always)]
    fn slot(&self) -> Option<*mut Known> {
        let [a, b, c, d, rest] = self.0;
        // Knuth's multiplicative hash: the upper bits of the product hang on all of the factor.
        let hash = (a ^ b ^ c.rotate_left(7) ^ d.rotate_left(13) ^ rest).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        #[expect(clippy::cast_possible_truncation, reason = "eight bits are left")]
        STUCK_AT.get_ptr_mut((hash >> (64 - PLACES.ilog2())) as u32)
    }

    /// By words: arrays are compared by a function.
    #[inline(always)]
    fn is(&self, other: &[u64; 5]) -> bool {
        self.0.iter().zip(other).fold(0, |differs, (own, its)| differs | (own ^ its)) == 0
    }
}

/// What is known of one, in microseconds since the system began.
#[repr(C)]
#[derive(Clone, Copy)]
struct Known {
    place: [u64; 5],
    /// When a suspected segment was last sent there again.
    stuck: u64,
    /// When the last segment was sent of a connection that ended well, 0 if none did.
    acknowledged: u64,
}

/// Places at which a connection is stuck, each at one slot. Two CPUs that write at once may mix two up: that is no place that any
/// connection has.
#[map]
static STUCK_AT: Array<Known> = Array::with_max_entries(PLACES, 0);

/// When a segment was last suspected. Where none is, the end of a connection costs this one look.
#[map]
static LAST_STUCK: Array<u64> = Array::with_max_entries(1, 0);

#[inline(always)]
fn now_us() -> u64 {
    // SAFETY: no argument.
    (unsafe { bpf_ktime_get_ns() }) / 1000
}

/// Remembers that a connection is stuck there; microseconds since one that ended well sent its last segment there.
#[inline(always)]
pub(crate) fn stuck_at(place: &Place) -> u64 {
    let now = now_us();
    let (Some(last), Some(known)) = (LAST_STUCK.get_ptr_mut(0), place.slot()) else { return Stall::NEVER };
    // SAFETY: the maps' own memory, of plain numbers. No reference is made: other CPUs write to it as well.
    unsafe {
        *last = now;
        let is_recent = now.saturating_sub((*known).stuck) <= STALE_US;
        if place.is(&(*known).place) && is_recent {
            (*known).stuck = now;
            let acknowledged = (*known).acknowledged;
            return if acknowledged == 0 { Stall::NEVER } else { now.saturating_sub(acknowledged) };
        }
        if !is_recent || (*known).stuck == 0 {
            *known = Known { place: place.0, stuck: now, acknowledged: 0 };
        }
    }
    Stall::NEVER
}

/// By typed pointers, as [`crate::stall::retransmit_typed`].
#[inline(always)]
pub(crate) unsafe fn ended_typed(sk: *const u8) {
    if is_any_stuck() {
        // SAFETY: the verifier knows the type of `sk`; the helper gives NULL for what is no TCP socket.
        unsafe {
            let tcp: *const u8 = bpf_skc_to_tcp_sock(sk.cast_mut().cast()).cast();
            if !tcp.is_null() {
                ended::<Typed>(sk, tcp);
            }
        }
    }
}

/// By helper.
#[inline(always)]
pub(crate) unsafe fn ended_probed(sk: *const u8) {
    if is_any_stuck() {
        // SAFETY: the caller's.
        unsafe { ended::<Probed>(sk, sk) }
    }
}

/// Whether a connection of this node is suspected to be stuck, or was lately.
#[inline(always)]
fn is_any_stuck() -> bool {
    // SAFETY: the map's own memory, a plain number.
    let last = LAST_STUCK.get_ptr(0).map_or(0, |last| unsafe { *last });
    last != 0 && now_us().saturating_sub(last) <= STALE_US
}

/// A socket that its own program has reset knows nothing any more (`tcp_disconnect`), and is passed over.
#[inline(always)]
unsafe fn ended<R: Read>(sk: *const u8, tcp: *const u8) {
    // SAFETY: integers are valid for any bytes; the helpers check addresses.
    unsafe {
        let acked: u64 = kernel::field::<R, _>(tcp, &TCP_ACKED);
        let mss: u32 = kernel::field::<R, _>(tcp, &TCP_MSS);
        if !Stall::took_small_alone(acked, mss) {
            return;
        }
        let port: u16 = kernel::field::<R, _>(sk, &SOCK_DPORT);
        let Some(place) = Place::of(&flow::<R>(sk), netns::<R>(sk), port) else { return };
        let Some(known) = place.slot() else { return };
        // What was stuck itself, and is given up, has sent nothing later that arrived.
        let arrived: u64 = kernel::field::<R, _>(tcp, &TCP_ARRIVED);
        if place.is(&(*known).place) && arrived > (*known).acknowledged {
            (*known).acknowledged = arrived;
        }
    }
}
