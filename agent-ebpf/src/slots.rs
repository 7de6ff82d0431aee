//! Which pod an address or a network namespace is: small numbers the user side keeps in two kinds of map.

use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;

/// Entries a map: two addresses of each family for every slot there is, and a node runs some 110 pods.
const ENTRIES: u32 = 4096;

#[map]
static SLOTS_BY_IPV4: HashMap<u32, u16> = HashMap::with_max_entries(ENTRIES, 0);
#[map]
static SLOTS_BY_IPV6: HashMap<[u8; 16], u16> = HashMap::with_max_entries(ENTRIES, 0);
#[map]
static SLOTS_BY_NETNS: HashMap<u32, u16> = HashMap::with_max_entries(ENTRIES, 0);

/// The slot of the pod that holds the IPv4 address in the first four bytes, 0 if none does.
#[inline(always)]
#[must_use]
pub fn by_ipv4(address: &[u8; 16]) -> u16 {
    let address = u32::from_ne_bytes([address[0], address[1], address[2], address[3]]);
    // SAFETY: the value is one aligned half word; a concurrent update leaves the old or the new slot.
    unsafe { SLOTS_BY_IPV4.get(address) }.map_or(0, |slot| *slot)
}

/// The slot of the pod that holds this IPv6 address, 0 if none does.
#[inline(always)]
#[must_use]
pub fn by_ipv6(address: &[u8; 16]) -> u16 {
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
