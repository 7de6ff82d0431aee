//! What both sides take for granted of the wire: a number that one of them reads as another is a lie without an error.

extern crate std;

use std::vec::Vec;

use crate::drops::{self, Direction, DropRecord, circumstance};
use crate::filter::{PORT_WORDS, Pattern};
use crate::mtu::{self, Fate, Kind, MtuRecord, Stage};
use crate::slots::{HINT_WORDS, slot_hint};
use crate::{IFNAMSIZ, Tally};

#[test]
fn tallies_add_up_each_by_itself() {
    let one = Tally { passed: 1, seen: 2, filtered: 3, limited: 4, ring_full: 5, uncounted: 6 };
    let other = Tally { passed: 10, seen: 20, filtered: 30, limited: 40, ring_full: 50, uncounted: 60 };
    let sum = Tally { passed: 11, seen: 22, filtered: 33, limited: 44, ring_full: 55, uncounted: 66 };
    assert_eq!((one.plus(other), other.plus(one)), (sum, sum));
}

/// The numbers are on the wire between an agent's two sides, and in its committed fuzz corpus.
#[test]
fn each_number_on_the_wire_is_one_thing_or_none() {
    for raw in 0..=u8::MAX {
        let direction = [Direction::Unknown, Direction::Received, Direction::Sent, Direction::Forwarded];
        assert_eq!(Direction::from_wire(raw), direction.get(usize::from(raw)).copied(), "{raw}");
        let kind = usize::from(raw).checked_sub(1).and_then(|at| Kind::ALL.get(at).copied());
        assert_eq!(Kind::from_wire(raw), kind, "{raw}");
        assert_eq!(Fate::from_wire(raw), Fate::ALL.get(usize::from(raw)).copied(), "{raw}");
        let stage =
            [None, Some(Stage::Prerouting), Some(Stage::Input), Some(Stage::Forward), Some(Stage::Output)];
        assert_eq!(Stage::from_wire(raw), stage.get(usize::from(raw)).copied().flatten(), "{raw}");
    }
}

/// One bit each, and none twice: two facts in one bit would be told of each other's packets.
#[test]
fn each_fact_has_a_bit_of_its_own() {
    use drops::flags as drop;
    use mtu::flags as size;
    let circumstances = [
        circumstance::PORTLESS,
        circumstance::GROUP,
        circumstance::DOWN,
        circumstance::NO_CARRIER,
        circumstance::PIECE,
        circumstance::LONG,
        circumstance::BELOW_IPV6,
        circumstance::UNTRACKED,
        circumstance::TO_ITSELF,
        circumstance::NO_PACKET,
        circumstance::OTHERS,
        circumstance::STRANGERS,
        circumstance::DISCOVERY,
        circumstance::TOLD,
        circumstance::ENDING,
    ];
    let drops = [
        drop::HAS_IP,
        drop::HAS_TRANSPORT,
        drop::DONT_FRAGMENT,
        drop::LATER_FRAGMENT,
        drop::HAS_SOCKET,
        drop::FOREIGN,
    ];
    let sizes = [
        size::FOREIGN,
        size::LOCAL_ORIGIN,
        size::LOCKED,
        size::IN_POD,
        size::TAKEN,
        size::LAST_OF_BUDGET,
        size::ENCRYPTED,
    ];
    let fragments = [mtu::Fragments::FIRST, mtu::Fragments::LAST];
    let narrow = [drops.map(u16::from).to_vec(), sizes.map(u16::from).to_vec()];
    for bits in narrow.into_iter().chain([circumstances.to_vec(), fragments.to_vec()]) {
        assert!(bits.iter().all(|bit| bit.is_power_of_two()), "{bits:?}");
        assert_eq!(bits.iter().fold(0, |all, bit| all | bit).count_ones() as usize, bits.len(), "{bits:?}");
    }
}

#[test]
fn a_record_is_as_long_as_it_is_and_what_it_was() {
    let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(size_of::<MtuRecord>() + 1).collect();
    for length in 0..bytes.len() {
        assert_eq!(MtuRecord::from_bytes(&bytes[..length]).is_some(), length == size_of::<MtuRecord>());
        assert_eq!(DropRecord::from_bytes(&bytes[..length]).is_some(), length == size_of::<DropRecord>());
    }
    let whole = MtuRecord::from_bytes(&bytes[..size_of::<MtuRecord>()]).unwrap();
    assert_eq!(whole.ktime_ns.to_ne_bytes(), bytes[..8]);
    let whole = DropRecord::from_bytes(&bytes[..size_of::<DropRecord>()]).unwrap();
    assert_eq!(whole.ktime_ns.to_ne_bytes(), bytes[..8]);
    assert_eq!(IFNAMSIZ, 16);
}

#[test]
fn a_pattern_compares_both_its_words_and_the_bits_that_count() {
    let pattern = Pattern { value: [0x0a00, 0x5], mask: [0xff00, 0xf] };
    assert!(pattern.fits([0x0a12, 0x15]));
    for other in [[0x0b12, 0x15], [0x0a12, 0x14], [0x0a12, 0x1d], [0x0b12, 0x14], [0, 0], [0x1a12, 0x15]] {
        assert!(!pattern.fits(other), "{other:x?}");
    }
    // What one word has too much the other does not take back.
    let twice = Pattern { value: [1, 1], mask: [1, 1] };
    assert!(twice.fits([1, 1]) && !twice.fits([0, 0]) && !twice.fits([0, 1]) && !twice.fits([1, 0]));
    assert_eq!(PORT_WORDS, 1024, "a bit for each port");
}

#[test]
fn a_hint_is_within_the_set_and_neighbours_have_others() {
    let hints: Vec<u32> = (0..4096).map(|last| slot_hint(0x0a00_0000 + last)).collect();
    assert!(hints.iter().all(|hint| *hint < HINT_WORDS * u64::BITS));
    let mut others = hints.clone();
    others.sort_unstable();
    others.dedup();
    assert!(others.len() > 3800, "{} of 4096", others.len());
    assert!(hints.iter().any(|hint| *hint >= HINT_WORDS * u64::BITS / 2), "all of the set is used");
    assert_eq!((slot_hint(0), slot_hint(1)), (0, 0x9e37));
}
