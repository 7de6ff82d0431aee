//! Constants of kernels that are made up: each field where no other has it.

use std::fs;

use super::*;
use crate::kernel::Roots;

/// A structure: its name and its members, each with its name, its type, its first bit, and its bits if it is a bitfield. A type
/// is a structure that stands before, or a number of 32 bits if it has no name.
pub(crate) type Struct<'a> = (&'a str, &'a [(&'a str, &'a str, u32, u32)]);

/// An enumeration: its name, and the names of its numbers.
pub(crate) type Enum<'a> = (&'a str, &'a [(&'a str, u32)]);

/// Types as the kernel writes them (Documentation/bpf/btf.rst).
#[derive(Default)]
struct Types {
    types: Vec<u32>,
    strings: Vec<u8>,
}

impl Types {
    fn string(&mut self, text: &str) -> u32 {
        let at = u32::try_from(self.strings.len()).unwrap();
        self.strings.extend(text.bytes().chain([0]));
        at
    }

    fn add(&mut self, name: &str, info: u32, size: u32) {
        let name = self.string(name);
        self.types.extend([name, info, size]);
    }
}

/// A kernel that has these types and says nothing else.
pub(crate) fn kernel(structs: &[Struct<'_>], enums: &[Enum<'_>]) -> Kernel {
    const INT: u32 = 1 << 24;
    const STRUCT: u32 = 1 << 31 | 4 << 24;
    const ENUM: u32 = 6 << 24;
    let count = |length: usize| u32::try_from(length).unwrap();
    let mut all = Types::default();
    all.string("");
    all.add("u32", INT, 4);
    all.types.push(32);
    for (name, members) in structs {
        all.add(name, STRUCT | count(members.len()), 1024);
        for (member, of, bit, bits) in *members {
            let of = structs.iter().position(|(name, _)| name == of).map_or(1, |at| count(at) + 2);
            let member = all.string(member);
            all.types.extend([member, of, bits << 24 | bit]);
        }
    }
    for (name, numbers) in enums {
        all.add(name, ENUM | count(numbers.len()), 4);
        for (number, value) in *numbers {
            let number = all.string(number);
            all.types.extend([number, *value]);
        }
    }
    let (types, strings) = (count(all.types.len() * 4), count(all.strings.len()));
    let mut bytes = [&0xeb9f_u16.to_ne_bytes()[..], &[1, 0]].concat();
    let words = [24, 0, types, types, strings].into_iter().chain(all.types);
    bytes.extend(words.flat_map(u32::to_ne_bytes));
    bytes.extend(all.strings);
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("sys/kernel/btf");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("vmlinux"), bytes).unwrap();
    Kernel::load_from(Roots::under(root.path()))
}

fn values<const N: usize>(globals: &Globals, names: [&str; N]) -> [Option<u32>; N] {
    names.map(|name| globals.value(name))
}

#[test]
fn offsets_are_the_kernels_and_absent_where_it_has_no_such_field() {
    let kernel = kernel(&[("sk_buff", &[("len", "", 112 * 8, 0)])], &[]);
    let mut globals = Globals::default();
    globals.set_offsets(&kernel, &[("MORE", "sk_buff", "len"), ("NONE", "sk_buff", "none")]);
    let found = values(&globals, ["SKB_LEN", "SKB_DEV", "MORE", "NONE", "NOT_ASKED"]);
    assert_eq!(found, [Some(112), Some(ABSENT), Some(112), Some(ABSENT), None]);
}

/// Older kernels have a number there, newer ones a bitfield of all its bits; fewer than all are something else.
#[test]
fn flags_of_a_device_are_read_where_they_are_a_whole_word() {
    let flags: Enum<'_> = ("netdev_priv_flags", &[("IFF_EBRIDGE", 2), ("IFF_BRIDGE_PORT", 512)]);
    for (bits, offset) in [(0, 24), (32, 24), (31, ABSENT)] {
        let kernel = kernel(&[("net_device", &[("priv_flags", "", 24 * 8, bits)])], &[flags]);
        let mut globals = Globals::default();
        globals.set_device_flags(&kernel, &[("BRIDGE_PORT", "IFF_BRIDGE_PORT"), ("NEW", "IFF_NEW")]);
        let found = values(&globals, ["DEV_PRIV_FLAGS", "BRIDGE_PORT", "NEW"]);
        assert_eq!(found, [Some(offset), Some(512), Some(0)], "{bits} bits");
    }
}

/// A state is the number of its bit.
#[test]
fn states_of_a_device_are_bits() {
    let states: Enum<'_> = ("netdev_state_t", &[("__LINK_STATE_START", 0), ("__LINK_STATE_NOCARRIER", 2)]);
    let kernel = kernel(&[("net_device", &[("state", "", 40 * 8, 0)])], &[states]);
    let mut globals = Globals::default();
    let wanted = [("START", "__LINK_STATE_START"), ("NO_CARRIER", "__LINK_STATE_NOCARRIER"), ("NEW", "NEW")];
    globals.set_device_states(&kernel, &wanted);
    let found = values(&globals, ["DEV_STATE", "START", "NO_CARRIER", "NEW"]);
    assert_eq!(found, [Some(40), Some(1), Some(4), Some(0)]);
}

#[test]
fn a_bitfield_is_read_where_it_is_in_one_byte() {
    for (bit, found) in [(85, [10, 7 << 5, 5]), (80, [10, 7, 0]), (86, [ABSENT, 0, 0]), (87, [ABSENT, 0, 0])]
    {
        let kernel = kernel(&[("sk_buff", &[("pkt_type", "", bit, 3)])], &[]);
        let mut globals = Globals::default();
        globals.set_link_type(&kernel);
        let names = ["SKB_PKT_TYPE", "PKT_TYPE", "PKT_TYPE_SHIFT"];
        assert_eq!(values(&globals, names), found.map(Some), "from bit {bit}");
    }
}
