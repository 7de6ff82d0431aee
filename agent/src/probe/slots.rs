//! The kernel side's slot maps of one probe, filled by the pod index.

use std::io;
use std::net::IpAddr;

use agent_common::slots::slot_hint;
use aya::maps::{Array, HashMap, MapData};

use super::attach::{MapError, Maps};
use crate::pod::{PodSlots, Slot, SlotKey};

/// The four maps every object that names pods has (`agent-ebpf/src/slots.rs`), and what to do when a slot retires.
pub struct SlotMaps {
    ipv4: HashMap<MapData, u32, u16>,
    ipv6: HashMap<MapData, [u8; 16], u16>,
    netns: HashMap<MapData, u32, u16>,
    hints: Array<MapData, u64>,
    retired: Box<dyn FnMut(Slot) + Send>,
}

impl SlotMaps {
    /// Takes the maps; `retired` folds the counts of a slot that is about to be reused.
    ///
    /// # Errors
    /// A map is missing.
    pub fn take(maps: &mut Maps<'_>, retired: impl FnMut(Slot) + Send + 'static) -> Result<Self, MapError> {
        Ok(Self {
            ipv4: maps.take("SLOTS_BY_IPV4")?,
            ipv6: maps.take("SLOTS_BY_IPV6")?,
            netns: maps.take("SLOTS_BY_NETNS")?,
            hints: maps.take("SLOT_HINTS")?,
            retired: Box::new(retired),
        })
    }
}

/// The number that an address's hint is taken of.
fn hinted(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => u64::from(u32::from_ne_bytes(address.octets())),
        IpAddr::V6(address) => {
            let octets = address.octets();
            let (words, _) = octets.as_chunks::<8>();
            words.iter().fold(0, |hint, word| hint ^ u64::from_ne_bytes(*word))
        }
    }
}

/// The word of the set that an address marks, and the bit in it.
fn mark(address: IpAddr) -> (u32, u64) {
    let hint = slot_hint(hinted(address));
    (hint / u64::BITS, 1 << (hint % u64::BITS))
}

impl SlotMaps {
    /// Leaves an address's mark. It stays when the address is unbound: another's may be the same, and a mark too many
    /// costs a look-up, while one too few would lose a pod.
    fn hint(&mut self, address: IpAddr) -> Result<(), aya::maps::MapError> {
        let (word, bit) = mark(address);
        let bits = self.hints.get(&word, 0)?;
        if bits & bit == 0 { self.hints.set(word, bits | bit, 0) } else { Ok(()) }
    }
}

impl PodSlots for SlotMaps {
    fn bind(&mut self, key: SlotKey, slot: Slot) -> io::Result<()> {
        if let SlotKey::Address(address) = key {
            self.hint(address).map_err(io::Error::other)?;
        }
        let slot = slot.0.get();
        let bound = match key {
            SlotKey::Address(IpAddr::V4(address)) => {
                self.ipv4.insert(u32::from_ne_bytes(address.octets()), slot, 0)
            }
            SlotKey::Address(IpAddr::V6(address)) => self.ipv6.insert(address.octets(), slot, 0),
            SlotKey::Netns(inode) => self.netns.insert(inode, slot, 0),
        };
        bound.map_err(io::Error::other)
    }

    fn unbind(&mut self, key: SlotKey) {
        // A key that is not there is as unbound as can be.
        let _ = match key {
            SlotKey::Address(IpAddr::V4(address)) => self.ipv4.remove(&u32::from_ne_bytes(address.octets())),
            SlotKey::Address(IpAddr::V6(address)) => self.ipv6.remove(&address.octets()),
            SlotKey::Netns(inode) => self.netns.remove(&inode),
        };
    }

    fn retire(&mut self, slot: Slot) {
        (self.retired)(slot);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::sync::mpsc;

    use agent_common::slots::HINT_WORDS;

    use super::*;

    /// The kernel side takes the numbers as they are in memory, and of IPv6 the exclusive or of both halves.
    #[test]
    fn an_address_marks_the_bit_that_the_kernel_side_looks_at() {
        let four = |word: u32| IpAddr::from(word.to_ne_bytes());
        let six = |words: [u64; 2]| {
            let octets: Vec<u8> = words.into_iter().flat_map(u64::to_ne_bytes).collect();
            IpAddr::from(<[u8; 16]>::try_from(octets).unwrap())
        };
        assert_eq!([four(0), four(1), four(u32::MAX)].map(hinted), [0, 1, 0xffff_ffff]);
        assert_eq!([six([3, 2]), six([1 << 40, 5]), six([7, 7])].map(hinted), [1, 1 << 40 | 5, 0]);
        // The upper 16 bits of 2^64 by the golden ratio: 0x9e37 is 632 words and 55 bits.
        assert_eq!([four(0), four(1), six([3, 2])].map(mark), [(0, 1), (632, 1 << 55), (632, 1 << 55)]);
    }

    /// `None` where this process may not make maps.
    fn maps(retired: impl FnMut(Slot) + Send + 'static) -> Option<SlotMaps> {
        Some(SlotMaps {
            ipv4: HashMap::create(4, 0).ok()?,
            ipv6: HashMap::create(4, 0).ok()?,
            netns: HashMap::create(4, 0).ok()?,
            hints: Array::create(HINT_WORDS, 0).ok()?,
            retired: Box::new(retired),
        })
    }

    #[test]
    fn a_pod_is_found_by_what_is_bound_until_it_is_unbound() {
        let Some(mut maps) = maps(|_| ()) else { return };
        let (four, six) = (Ipv4Addr::new(10, 0, 0, 7), Ipv6Addr::LOCALHOST);
        let keys = [SlotKey::Address(four.into()), SlotKey::Address(six.into()), SlotKey::Netns(9)];
        let found = |maps: &SlotMaps| {
            let four = maps.ipv4.get(&u32::from_ne_bytes(four.octets()), 0);
            [four.ok(), maps.ipv6.get(&six.octets(), 0).ok(), maps.netns.get(&9, 0).ok()]
        };
        for (key, slot) in keys.into_iter().zip(1..) {
            maps.bind(key, Slot::from_wire(slot).unwrap()).unwrap();
        }
        assert_eq!(found(&maps), [Some(1), Some(2), Some(3)]);
        for key in keys {
            maps.unbind(key);
        }
        assert_eq!(found(&maps), [None; 3]);
        let marked = [four.into(), six.into()].map(|address| {
            let (word, bit) = mark(address);
            maps.hints.get(&word, 0).unwrap() & bit != 0
        });
        assert_eq!(marked, [true; 2], "a mark stays");
    }

    /// Of two addresses in one word of the set the second leaves the first one's mark alone.
    #[test]
    fn marks_add_up() {
        let Some(mut maps) = maps(|_| ()) else { return };
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        let (word, first) = mark(address(0));
        let other = (1..u32::MAX).map(address).find(|other| mark(*other).0 == word).unwrap();
        for address in [address(0), other, address(0)] {
            maps.bind(SlotKey::Address(address), Slot::from_wire(1).unwrap()).unwrap();
        }
        assert_ne!(mark(other).1, first);
        assert_eq!(maps.hints.get(&word, 0).unwrap(), first | mark(other).1);
    }

    #[test]
    fn who_counts_is_told_that_a_slot_retires() {
        let (retired, told) = mpsc::channel();
        let Some(mut maps) = maps(move |slot| retired.send(slot).unwrap()) else { return };
        let slot = Slot::from_wire(5).unwrap();
        maps.retire(slot);
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [slot]);
    }
}
