//! The user's filter on packets: what it does not want is counted, and takes nothing of the budget of records.

use core::mem::MaybeUninit;

use agent_common::IFNAMSIZ;
use agent_common::filter::{INTERFACES, MAX_PATTERNS, NETWORKS, PORT_WORDS, Pattern};
use aya_ebpf::Global;
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;

use crate::kernel::{self, DEV_NAME, Read, SKB_DEV};
use crate::packet::{self, Address, Header};

/// How many networks are wanted; 0 if any.
#[unsafe(no_mangle)]
static FILTER_NETWORKS: Global<u32> = Global::new(0);
/// How many interfaces are wanted; 0 if any.
#[unsafe(no_mangle)]
static FILTER_INTERFACES: Global<u32> = Global::new(0);
/// 1 if only some ports are wanted.
#[unsafe(no_mangle)]
static FILTER_PORTS: Global<u32> = Global::new(0);

#[map]
static PATTERNS: Array<Pattern> = Array::with_max_entries(2 * MAX_PATTERNS, 0);
#[map]
static PORTS: Array<u64> = Array::with_max_entries(PORT_WORDS, 0);

/// Whether the user wants to see this packet: either end may have a wanted address, and either a wanted port. Without a
/// filter it is no code at all.
///
/// # Safety
/// `skb` is the kernel's `struct sk_buff *` as `R` reads it.
#[inline(always)]
#[must_use]
pub unsafe fn wants<R: Read>(skb: *const u8) -> bool {
    // SAFETY: the caller's.
    unsafe { wants_interface::<R>(skb) && wants_ends::<R>(skb) }
}

#[inline(always)]
unsafe fn wants_interface<R: Read>(skb: *const u8) -> bool {
    if FILTER_INTERFACES.load() == 0 {
        return true;
    }
    // SAFETY: pointers and bytes are valid whatever they are.
    let name = unsafe {
        let dev: *const u8 = kernel::field::<R, _>(skb, &SKB_DEV);
        if dev.is_null() {
            return false;
        }
        // Not zeroed first: for that the compiler would call a function.
        let mut name = MaybeUninit::<[u64; 2]>::uninit();
        packet::copy_field::<R, IFNAMSIZ>(name.as_mut_ptr().cast(), dev, &DEV_NAME);
        name.assume_init()
    };
    any(INTERFACES, FILTER_INTERFACES.load(), [name, name])
}

#[inline(always)]
unsafe fn wants_ends<R: Read>(skb: *const u8) -> bool {
    if FILTER_NETWORKS.load() == 0 && FILTER_PORTS.load() == 0 {
        return true;
    }
    // SAFETY: the helpers check addresses.
    unsafe {
        let header = Header::of::<R>(skb);
        let version = header.version();
        if FILTER_NETWORKS.load() != 0 {
            let flow = header.flow(kernel::zero());
            let ends = [as_ipv6(version, &flow.source), as_ipv6(version, &flow.destination)];
            if version == 0 || !any(NETWORKS, FILTER_NETWORKS.load(), ends) {
                return false;
            }
        }
        if FILTER_PORTS.load() == 0 {
            return true;
        }
        let Some(offset) = header.transport(version).filter(|_| has_ports(header.protocol(version))) else {
            return false;
        };
        let [source, destination]: [u16; 2] =
            kernel::copy(packet::network_header::<R>(skb).wrapping_add(offset).cast());
        is_wanted_port(u16::from_be(source)) || is_wanted_port(u16::from_be(destination))
    }
}

/// TCP, UDP, DCCP, SCTP, UDP-Lite.
#[inline(always)]
fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 17 | 33 | 132 | 136)
}

#[inline(always)]
fn is_wanted_port(port: u16) -> bool {
    PORTS.get(u32::from(port) / u64::BITS).is_some_and(|word| word >> (port % 64) & 1 != 0)
}

/// An address as the patterns have it.
#[inline(always)]
fn as_ipv6(version: u8, address: &Address) -> [u64; 2] {
    if version == 6 {
        return *address.words();
    }
    let [a, b, c, d] = address.first().to_ne_bytes();
    [0, u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d])]
}

/// Whether one of `count` patterns fits one of `values`. Each that fits leaves at once: an answer that is gathered would be
/// another one on each way through, and the verifier would walk them all.
#[inline(always)]
fn any(begin: u32, count: u32, values: [[u64; 2]; 2]) -> bool {
    for at in 0..MAX_PATTERNS {
        if at >= count {
            break;
        }
        let Some(pattern) = PATTERNS.get(begin + at) else { break };
        if pattern.fits(values[0]) || pattern.fits(values[1]) {
            return true;
        }
    }
    false
}
