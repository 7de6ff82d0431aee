//! Which pod an address or a network namespace is: small numbers the user side keeps in two kinds of map.

use agent_common::slots::{HINT_WORDS, slot_hint};
use aya_ebpf::Global;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap};

use crate::packet::{Address, Flow, Header};

/// Entries a map: two addresses of each family for every slot there is, and a node runs some 110 pods.
const ENTRIES: u32 = 4096;

#[map]
static SLOTS_BY_IPV4: HashMap<u32, u16> = HashMap::with_max_entries(ENTRIES, 0);
#[map]
static SLOTS_BY_IPV6: HashMap<[u64; 2], u16> = HashMap::with_max_entries(ENTRIES, 0);
#[map]
static SLOTS_BY_NETNS: HashMap<u32, u16> = HashMap::with_max_entries(ENTRIES, 0);

/// Bits that are set for every address ever bound, at [`slot_hint`]: most addresses are nobody's, and to learn that from
/// a hash map takes several times as long.
#[map]
static SLOT_HINTS: Array<u64> = Array::with_max_entries(HINT_WORDS, 0);

/// Inode of the host's network namespace; 0 if it cannot be seen.
#[unsafe(no_mangle)]
static HOST_NETNS: Global<u32> = Global::new(0);

/// Whose network namespace something happened in.
#[derive(Clone, Copy)]
pub struct Here {
    /// Slot of the pod that it is, 0 if none.
    pub slot: u16,
    /// It is neither the host's nor a known pod's (a container's of another runtime, a pod's that is younger than our
    /// maps): the same addresses may be anybody's there.
    pub foreign: bool,
}

impl Here {
    /// The namespace of this inode; 0 is an unknown one, which is taken for the host's.
    #[inline(always)]
    #[must_use]
    pub fn of(netns: u32) -> Self {
        // The host's namespace is no pod's, and most packets die there.
        if netns == 0 || netns == HOST_NETNS.load() {
            return Self { slot: 0, foreign: false };
        }
        let slot = by_netns(netns);
        Self { slot, foreign: slot == 0 }
    }
}

/// The slots of the pods that hold a header's source and destination address, 0 where none does; `zero` is
/// [`kernel::zero`](crate::kernel::zero).
#[inline(always)]
#[must_use]
pub fn of_header(header: &Header, version: u8, zero: u8) -> (u16, u16) {
    let zero = u16::from(zero);
    match version {
        4 => {
            let (source, destination) = header.ipv4();
            (by_ipv4(source) | zero, by_ipv4(destination) | zero)
        }
        6 => (by_ipv6(&header.ipv6_source()) | zero, by_ipv6(&header.ipv6_destination()) | zero),
        _ => (zero, zero),
    }
}

/// The slots of the pods that hold a flow's source and destination address, 0 where none does; `zero` is
/// [`kernel::zero`](crate::kernel::zero).
#[inline(always)]
#[must_use]
pub fn of_flow(flow: &Flow, zero: u8) -> (u16, u16) {
    let zero = u16::from(zero);
    match flow.version {
        4 => (by_ipv4(flow.source.first()) | zero, by_ipv4(flow.destination.first()) | zero),
        6 => (by_ipv6(&flow.source) | zero, by_ipv6(&flow.destination) | zero),
        _ => (zero, zero),
    }
}

/// Whether the address with this hint may be a pod's; if not, it is none's.
#[inline(always)]
fn may_be_bound(hint: u32) -> bool {
    SLOT_HINTS.get(hint / u64::BITS).is_some_and(|bits| bits >> (hint % u64::BITS) & 1 != 0)
}

/// The slot of the pod that holds this IPv4 address, 0 if none does.
#[inline(always)]
fn by_ipv4(address: u32) -> u16 {
    if !may_be_bound(slot_hint(u64::from(address))) {
        return 0;
    }
    // SAFETY: the value is one aligned half word; a concurrent update leaves the old or the new slot.
    unsafe { SLOTS_BY_IPV4.get(address) }.map_or(0, |slot| *slot)
}

/// The slot of the pod that holds this IPv6 address, 0 if none does.
#[inline(always)]
#[must_use]
fn by_ipv6(address: &Address) -> u16 {
    let address = address.words();
    if !may_be_bound(slot_hint(address[0] ^ address[1])) {
        return 0;
    }
    // SAFETY: as above.
    unsafe { SLOTS_BY_IPV6.get(address) }.map_or(0, |slot| *slot)
}

/// The slot of the pod that lives in this network namespace, 0 if none does (the host's never does).
#[inline(always)]
#[must_use]
fn by_netns(inode: u32) -> u16 {
    // SAFETY: as above.
    unsafe { SLOTS_BY_NETNS.get(inode) }.map_or(0, |slot| *slot)
}
