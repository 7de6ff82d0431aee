//! The user's filter on packets, as far as the kernel side can apply it before its budget of records.

use std::net::IpAddr;

use agent_common::IFNAMSIZ;
use agent_common::filter::{INTERFACES, MAX_PATTERNS, NETWORKS, PORT_WORDS, Pattern};
use aya::maps::{Array, MapData};
use ipnet::IpNet;

use super::attach::{MapError, Maps};
use super::globals::Globals;

/// What is wanted of a packet: one of each list that is not empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PacketFilter {
    networks: Vec<Pattern>,
    ports: Vec<u16>,
    interfaces: Vec<Pattern>,
    /// A list is longer than the kernel side takes, and left to the user side.
    is_cut: bool,
}

impl PacketFilter {
    /// Networks of addresses, ports, and names of interfaces.
    #[must_use]
    pub fn new(networks: &[IpNet], ports: &[u16], interfaces: &[String]) -> Self {
        let fits = |length: usize| length <= MAX_PATTERNS as usize;
        let is_whole = fits(networks.len()) && fits(interfaces.len());
        let (networks, interfaces) =
            (networks.iter().map(network), interfaces.iter().map(|name| interface(name)));
        Self {
            networks: if fits(networks.len()) { networks.collect() } else { Vec::new() },
            ports: ports.to_vec(),
            interfaces: if fits(interfaces.len()) { interfaces.collect() } else { Vec::new() },
            is_cut: !is_whole,
        }
    }

    /// Whether all packets are wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the kernel side can apply all of it.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        !self.is_cut
    }

    /// Tells the kernel side which parts of it there are: the rest is no code.
    pub(super) fn set(&self, globals: &mut Globals) {
        let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        globals.set("FILTER_NETWORKS", count(self.networks.len()));
        globals.set("FILTER_INTERFACES", count(self.interfaces.len()));
        globals.set("FILTER_PORTS", u32::from(!self.ports.is_empty()));
    }

    /// Fills the kernel side's maps, to be kept until its programs are loaded: they refer to them.
    ///
    /// # Errors
    /// One is missing, or the kernel refuses an entry.
    pub(super) fn fill(&self, maps: &mut Maps<'_>) -> Result<Filled, MapError> {
        let mut filled = Filled { patterns: maps.take(PATTERNS)?, ports: maps.take(PORTS)? };
        self.write(&mut filled)?;
        Ok(filled)
    }

    fn write(&self, to: &mut Filled) -> Result<(), MapError> {
        let wanted = (NETWORKS..).zip(&self.networks).chain((INTERFACES..).zip(&self.interfaces));
        for (at, pattern) in wanted {
            to.patterns.set(at, pattern, 0).map_err(|error| MapError::refused(PATTERNS, &error))?;
        }
        for (at, word) in (0..PORT_WORDS).zip(bits(&self.ports)) {
            if word != 0 {
                to.ports.set(at, word, 0).map_err(|error| MapError::refused(PORTS, &error))?;
            }
        }
        Ok(())
    }
}

const PATTERNS: &str = "PATTERNS";
const PORTS: &str = "PORTS";

/// The kernel side's maps.
pub(super) struct Filled {
    patterns: Array<MapData, Pattern>,
    ports: Array<MapData, u64>,
}

/// A bit for each port.
fn bits(ports: &[u16]) -> Vec<u64> {
    let mut words = vec![0; PORT_WORDS as usize];
    for port in ports {
        words[usize::from(port / 64)] |= 1 << (port % 64);
    }
    words
}

fn words(bytes: [u8; 16]) -> [u64; 2] {
    let (words, _) = bytes.as_chunks::<8>();
    [0, 1].map(|at| u64::from_ne_bytes(words[at]))
}

fn pattern(value: [u8; 16], mask: [u8; 16]) -> Pattern {
    let (value, mask) = (words(value), words(mask));
    Pattern { value: [value[0] & mask[0], value[1] & mask[1]], mask }
}

fn network(network: &IpNet) -> Pattern {
    let (address, length) = match network.addr() {
        IpAddr::V4(address) => (address.to_ipv6_mapped(), 96 + network.prefix_len()),
        IpAddr::V6(address) => (address, network.prefix_len()),
    };
    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    pattern(address.octets(), mask.to_be_bytes())
}

/// The name and its terminating zero: what is behind that is left from another name.
fn interface(name: &str) -> Pattern {
    let (mut value, mut mask) = ([0; IFNAMSIZ], [0; IFNAMSIZ]);
    for (to, byte) in value.iter_mut().zip(name.bytes()) {
        *to = byte;
    }
    for byte in mask.iter_mut().take(name.len() + 1) {
        *byte = u8::MAX;
    }
    pattern(value, mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> [u64; 2] {
        let address: IpAddr = text.parse().unwrap();
        words(match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        })
    }

    #[test]
    fn networks_are_compared_as_the_kernel_side_has_them() {
        for (net, inside, outside) in [
            ("10.1.2.3/32", "10.1.2.3", "10.1.2.2"),
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.3.4.5/8", "10.0.0.0", "a03::"),
            ("0.0.0.0/0", "1.2.3.4", "102:304::"),
            ("fd00::/8", "fdff::1", "fe00::"),
            ("::/0", "10.0.0.1", ""),
        ] {
            let pattern = network(&net.parse().unwrap());
            assert!(pattern.fits(address(inside)), "{net} {inside}");
            assert!(outside.is_empty() || !pattern.fits(address(outside)), "{net} {outside}");
        }
    }

    #[test]
    fn what_is_behind_a_name_is_not_compared() {
        let pattern = interface("eth0");
        assert!(pattern.fits(words(*b"eth0\0left-behind")));
        assert!(!pattern.fits(words(*b"eth01\0\0\0\0\0\0\0\0\0\0\0")));
        assert!(!pattern.fits(words(*b"eth\0\0\0\0\0\0\0\0\0\0\0\0\0")));
    }

    #[test]
    fn each_port_is_a_bit() {
        let words = bits(&[0, 63, 64, 65_535]);
        assert_eq!((words[0], words[1], words[1023]), (1 | 1 << 63, 1, 1 << 63));
        assert_eq!(words.iter().map(|word| word.count_ones()).sum::<u32>(), 4);
    }

    #[test]
    fn a_list_that_is_too_long_is_the_user_sides() {
        let ports: Vec<u16> = (0..1_000).collect();
        assert!(PacketFilter::new(&[], &ports, &[]).is_whole(), "ports are bits");
        let networks = vec!["10.0.0.0/8".parse().unwrap(); MAX_PATTERNS as usize + 1];
        let filter = PacketFilter::new(&networks, &[7], &[]);
        assert!(!filter.is_whole() && !filter.is_empty() && filter.networks.is_empty());
        assert!(PacketFilter::new(&[], &[], &[]).is_empty());
    }

    /// As many as there is room for are the kernel side's; one more is not.
    #[test]
    fn a_list_is_the_kernel_sides_up_to_its_room() {
        let networks = |count: u32| vec!["10.0.0.0/8".parse().unwrap(); count as usize];
        let names = |count: u32| vec!["eth0".to_owned(); count as usize];
        let set = |filter: &PacketFilter| {
            let mut globals = Globals::default();
            filter.set(&mut globals);
            ["FILTER_NETWORKS", "FILTER_INTERFACES", "FILTER_PORTS"].map(|name| globals.value(name).unwrap())
        };
        for (ranges, interfaces, ports, is_whole, counts) in [
            (0, 0, &[][..], true, [0, 0, 0]),
            (16, 1, &[], true, [16, 1, 0]),
            (1, 16, &[80, 443], true, [1, 16, 1]),
            (17, 2, &[80], false, [0, 2, 1]),
            (2, 17, &[], false, [2, 0, 0]),
        ] {
            let filter = PacketFilter::new(&networks(ranges), ports, &names(interfaces));
            assert_eq!((filter.is_whole(), set(&filter)), (is_whole, counts));
            assert_eq!(filter.is_empty(), counts == [0; 3]);
        }
    }

    /// Networks and names have a half of the patterns each. Skipped where this process may not make maps.
    #[test]
    fn the_kernel_side_finds_each_part_in_its_place() {
        let (Ok(patterns), Ok(ports)) = (Array::create(2 * MAX_PATTERNS, 0), Array::create(PORT_WORDS, 0))
        else {
            return;
        };
        let mut filled = Filled { patterns, ports };
        let net: IpNet = "10.0.0.0/8".parse().unwrap();
        PacketFilter::new(&[net], &[65, 65_535], &["eth0".to_owned()]).write(&mut filled).unwrap();
        let at = [NETWORKS, NETWORKS + 1, INTERFACES, INTERFACES + 1];
        let patterns = at.map(|at| filled.patterns.get(&at, 0).unwrap());
        assert_eq!(patterns, [network(&net), Pattern::default(), interface("eth0"), Pattern::default()]);
        let words = [0, 1, PORT_WORDS - 1].map(|at| filled.ports.get(&at, 0).unwrap());
        assert_eq!(words, [0, 2, 1 << 63]);
    }
}
