//! Which pod an address or a network namespace is: small numbers the user side keeps in two kinds of map.

use agent_common::slots::{HINT_WORDS, slot_hint};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap};

use crate::packet::Address;

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

/// Whether the address with this hint may be a pod's; if not, it is none's.
#[inline(always)]
fn may_be_bound(hint: u32) -> bool {
    SLOT_HINTS.get(hint / u64::BITS).is_some_and(|bits| bits >> (hint % u64::BITS) & 1 != 0)
}

/// The slot of the pod that holds the IPv4 address, 0 if none does.
#[inline(always)]
#[must_use]
pub fn by_ipv4(address: &Address) -> u16 {
    let address = address.first();
    if !may_be_bound(slot_hint(u64::from(address))) {
        return 0;
    }
    // SAFETY: the value is one aligned half word; a concurrent update leaves the old or the new slot.
    unsafe { SLOTS_BY_IPV4.get(address) }.map_or(0, |slot| *slot)
}

/// The slot of the pod that holds this IPv6 address, 0 if none does.
#[inline(always)]
#[must_use]
pub fn by_ipv6(address: &Address) -> u16 {
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
pub fn by_netns(inode: u32) -> u16 {
    // SAFETY: as above.
    unsafe { SLOTS_BY_NETNS.get(inode) }.map_or(0, |slot| *slot)
}
