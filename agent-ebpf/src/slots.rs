//! Which pod an address or a network namespace is: small numbers the user side keeps in two kinds of map.

use aya_ebpf::Global;
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
        let slot = by_netns(netns);
        Self { slot, foreign: slot == 0 && netns != 0 && netns != HOST_NETNS.load() }
    }
}

/// The slot of the pod that holds this address, IPv4 in its first four bytes; 0 if none does.
#[inline(always)]
#[must_use]
pub fn by_address(ip_version: u8, address: &[u8; 16]) -> u16 {
    match ip_version {
        4 => by_ipv4(address),
        6 => by_ipv6(address),
        _ => 0,
    }
}

/// The slot of the pod that holds the IPv4 address in the first four bytes, 0 if none does.
#[inline(always)]
#[must_use]
fn by_ipv4(address: &[u8; 16]) -> u16 {
    let address = u32::from_ne_bytes([address[0], address[1], address[2], address[3]]);
    // SAFETY: the value is one aligned half word; a concurrent update leaves the old or the new slot.
    unsafe { SLOTS_BY_IPV4.get(address) }.map_or(0, |slot| *slot)
}

/// The slot of the pod that holds this IPv6 address, 0 if none does.
#[inline(always)]
#[must_use]
fn by_ipv6(address: &[u8; 16]) -> u16 {
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
