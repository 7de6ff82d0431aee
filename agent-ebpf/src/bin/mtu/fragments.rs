//! Fragments whose packet does not become whole, noted as they are queued and looked at a few times a second.

use core::mem::offset_of;

use agent_common::mtu::{Device, Fragments, Kind, hook};
use agent_common::quote::HEADER;
use agent_ebpf::device;
use agent_ebpf::kernel::{self, Read, SKB_DEV};
use agent_ebpf::packet::{self, FRAGMENT_OFFSET, Header};
use agent_ebpf::tally::tally;
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap};

use crate::seen::Seen;

/// Packets that are watched at a time. Of a healthy node hardly any is waited for; of others that find no place the fragments are
/// counted ([`agent_common::Tally::uncounted`]).
const WATCHED: u32 = 256;

/// A queue is watched at one of so many places.
const PLACES: u32 = 8;

/// So many places are looked at in a turn: the verifier walks the loop once for each.
const TURN: u32 = 64;
const _: () = assert!(WATCHED.is_multiple_of(TURN));

/// A turn lasts 2^27 ns, 0.13 s: a little longer than from one look to the next, so that none is left out.
const TURN_SHIFT: u32 = 27;

/// The kernel gives up after a minute at most, unless a sysctl says otherwise: what is older was missed.
const FORGOTTEN_NS: u64 = 120_000_000_000;

/// What has come of one packet.
#[repr(C)]
#[derive(Clone, Copy)]
struct Waiting {
    /// Address of its `inet_frag_queue`; 0 if the place is free.
    queue: u64,
    /// When its first fragment came.
    since_ns: u64,
    netns: u32,
    fragments: Fragments,
    /// Device by which the first of them came.
    device: Device,
    is_told: u8,
    header_len: u8,
    zero: [u8; 2],
    /// A fragment of it from its IP header on: the first one, once that is there.
    header: [u8; HEADER],
}

/// By the address of the queue, see [`places`].
#[map]
static WAITING: Array<Waiting> = Array::with_max_entries(WATCHED, 0);

/// Places that are taken: two CPUs that begin a packet each at one place would mix them up.
#[map]
static TAKEN: HashMap<u32, u64> = HashMap::with_max_entries(WATCHED, 0);

/// An address as a number, which the verifier lets nobody make of a typed pointer. `None` where programs may not read memory:
/// there the packet could not be read either.
#[inline(always)]
fn number(queue: *const u8) -> Option<u64> {
    // SAFETY: a number is valid for any bytes.
    let number: u64 = unsafe { kernel::copy((&raw const queue).cast()) };
    (number != 0).then_some(number)
}

/// Where a queue may be watched. Its address is a multiple of its allocation's size.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the lower bits differ most")]
fn places(queue: u64) -> impl Iterator<Item = u32> {
    // Knuth's multiplicative hash: the upper bits of the product hang on all of the factor.
    let first = ((queue >> 6) as u32).wrapping_mul(0x9e37_79b1) >> (32 - WATCHED.ilog2());
    (0..PLACES).map(move |next| (first + next) % WATCHED)
}

/// Where it is watched.
#[inline(always)]
fn watched(queue: u64) -> Option<(u32, *mut Waiting)> {
    for place in places(queue) {
        let waiting = WAITING.get_ptr_mut(place)?;
        // SAFETY: the map's own memory.
        if unsafe { (*waiting).queue } == queue {
            return Some((place, waiting));
        }
    }
    None
}

/// Takes a free place for it.
#[inline(always)]
fn take(queue: u64) -> Option<*mut Waiting> {
    // SAFETY: no argument.
    let now = unsafe { bpf_ktime_get_ns() };
    for place in places(queue) {
        let waiting = WAITING.get_ptr_mut(place)?;
        // SAFETY: the map's own memory.
        unsafe {
            if (*waiting).queue != 0 && now.saturating_sub((*waiting).since_ns) > FORGOTTEN_NS {
                free(place, waiting);
            }
            if (*waiting).queue == 0 && TAKEN.insert(place, queue, BPF_NOEXIST.into()).is_ok() {
                return Some(waiting);
            }
        }
    }
    None
}

/// A fragment is put into its packet's queue, from `offset` to `end` of the payload. The kernel holds the queue's lock.
#[inline(always)]
pub(crate) unsafe fn queued<R: Read>(queue: *const u8, skb: *const u8, offset: i32, end: i32) -> Option<()> {
    let queue = number(queue)?;
    // SAFETY: the map's own memory; only the CPU that holds the queue's lock writes to its place. Fields of the packet are
    // integers and pointers, valid for any bytes.
    unsafe {
        let waiting = if let Some((_, waiting)) = watched(queue) {
            waiting
        } else {
            let Some(waiting) = take(queue) else {
                tally(hook::FRAGMENTS)?.uncounted();
                return None;
            };
            begin::<R>(waiting, skb);
            (*waiting).queue = queue;
            waiting
        };
        let header = Header::begin_of::<R>(skb);
        let version = header.version();
        let (of_header, is_last) = match version {
            4 => (20, header.fragment(4) & MORE == 0),
            6 => (48, is_last::<R>(skb)),
            _ => (0, false),
        };
        let (offset, end) = (offset.cast_unsigned(), end.cast_unsigned());
        let length = end.wrapping_sub(offset);
        let came = &raw mut (*waiting).fragments;
        (*came).count = (*came).count.wrapping_add(1);
        (*came).bytes = (*came).bytes.wrapping_add(length);
        if end > (*came).end {
            (*came).end = end;
        }
        if length + of_header > (*came).largest {
            (*came).largest = length + of_header;
        }
        if is_last {
            (*came).flags |= Fragments::LAST;
        }
        if offset == 0 {
            (*came).flags |= Fragments::FIRST;
        }
        // Ports are in the first one alone.
        if offset == 0 || (*waiting).header_len == 0 {
            const { assert!(offset_of!(Waiting, header).is_multiple_of(8)) };
            #[expect(clippy::cast_ptr_alignment, reason = "asserted above")]
            kernel::clear((&raw mut (*waiting).header).cast::<[u64; HEADER / 8]>());
            let network = packet::network_offset::<R>(skb).into();
            (*waiting).header_len = packet::copy_linear::<R, _>(&raw mut (*waiting).header, skb, network);
        }
    }
    tally(hook::FRAGMENTS)?.passed();
    Some(())
}

/// IPv4's bit of a fragment that others follow.
const MORE: u16 = 0x2000;
const _: () = assert!(MORE & FRAGMENT_OFFSET == 0);

/// Whether no fragment follows, by IPv6's fragment header, which the transport header is taken for until the packet is whole.
#[inline(always)]
unsafe fn is_last<R: Read>(skb: *const u8) -> bool {
    // SAFETY: bytes are valid whatever they are; the helper checks the address.
    let bits: [u8; 2] = unsafe { kernel::copy(packet::transport_header::<R>(skb).wrapping_add(2).cast()) };
    kernel::reads() && bits[1] & 1 == 0
}

/// Takes a place for the packet that a fragment belongs to.
#[inline(always)]
unsafe fn begin<R: Read>(waiting: *mut Waiting, skb: *const u8) {
    // SAFETY: the caller's.
    unsafe {
        let dev: *const u8 = kernel::field::<R, _>(skb, &SKB_DEV);
        (*waiting).since_ns = bpf_ktime_get_ns();
        (*waiting).netns = packet::device_netns::<R>(dev);
        (*waiting).fragments = Fragments { end: 0, bytes: 0, largest: 0, count: 0, flags: 0 };
        (*waiting).is_told = 0;
        (*waiting).header_len = 0;
        device::fill::<R>(&raw mut (*waiting).device, dev);
    }
}

/// A queue is freed: its packet has become whole, or the kernel has given it up.
#[inline(always)]
pub(crate) fn ended(queue: *const u8) -> Option<()> {
    let (place, waiting) = watched(number(queue)?)?;
    // SAFETY: the map's own memory.
    unsafe { free(place, waiting) };
    None
}

#[inline(always)]
unsafe fn free(place: u32, waiting: *mut Waiting) {
    // SAFETY: the caller's.
    unsafe { (*waiting).queue = 0 };
    let _ = TAKEN.remove(place);
}

/// Looks at a part of the places, by turns, and reports one packet that has been waited for too long: the next is looked at
/// when it is their turn again.
#[inline(always)]
pub(crate) unsafe fn late() -> Option<()> {
    // SAFETY: as for `tell`; no argument.
    unsafe {
        let now = bpf_ktime_get_ns();
        #[expect(clippy::cast_possible_truncation, reason = "turns go round")]
        let first = (now >> TURN_SHIFT) as u32 % (WATCHED / TURN) * TURN;
        // The place is compared with nothing behind the loop: the verifier would look at what follows once for each of them.
        for next in 0..TURN {
            let waiting = WAITING.get_ptr_mut(first + next)?;
            let is_late = now.saturating_sub((*waiting).since_ns) > Fragments::PATIENCE_NS;
            if (*waiting).queue != 0 && (*waiting).is_told == 0 && is_late {
                return tell(waiting);
            }
        }
    }
    None
}

/// Counts and records a packet of which too little has come.
#[inline(always)]
unsafe fn tell(waiting: *mut Waiting) -> Option<()> {
    // SAFETY: the map's own memory, and the ring's; integers are valid for any bytes.
    unsafe {
        (*waiting).is_told = 1;
        let seen = Seen {
            hook: hook::FRAGMENTS,
            kind: Kind::Incomplete,
            fate: kernel::unknown(0),
            netns: (*waiting).netns,
            packet: Header::at((&raw const (*waiting).header).cast()).flow(kernel::zero()),
            len: (*waiting).fragments.end,
            is_from_here: false,
        };
        let (entry, record) = seen.admit()?;
        kernel::copy_to(&raw mut (*record).device, &raw const (*waiting).device);
        (*record).fragments = (*waiting).fragments;
        (*record).header_len = (*waiting).header_len;
        kernel::copy_to(&raw mut (*record).header, &raw const (*waiting).header);
        entry.submit(0);
        Some(())
    }
}
