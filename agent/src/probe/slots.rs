//! The kernel side's slot maps of one probe, filled by the pod index.

use std::io;
use std::net::IpAddr;

use aya::maps::{HashMap, MapData};

use super::attach::{MapError, Maps};
use crate::pod::{PodSlots, Slot, SlotKey};

/// The three maps every object that names pods has (`agent-ebpf/src/slots.rs`), and what to do when a slot retires.
pub struct SlotMaps {
    ipv4: HashMap<MapData, u32, u16>,
    ipv6: HashMap<MapData, [u8; 16], u16>,
    netns: HashMap<MapData, u32, u16>,
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
            retired: Box::new(retired),
        })
    }
}

impl PodSlots for SlotMaps {
    fn bind(&mut self, key: SlotKey, slot: Slot) -> io::Result<()> {
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
