//! What the reader does at the edges: types printed in every form, fields as narrow as they come, sections of the last size.

use super::super::section::MAX_BYTES;
use super::*;

/// The parameters of a function that takes one of each of these types.
fn printed(build: impl FnOnce(&mut Builder) -> Vec<u32>) -> Vec<String> {
    let mut b = Builder::new();
    let types = build(&mut b);
    let proto = b.proto(0, &types);
    b.add("f", FUNC, 0, proto, &[]);
    b.btf().func_params("f").unwrap()
}

#[test]
fn every_kind_of_type_prints_as_c_writes_it() {
    const VOLATILE: u32 = 9;
    const RESTRICT: u32 = 11;
    let printed = printed(|b| {
        let int = b.int("int", 4, 0, 32);
        let union = b.strukt("addr", UNION, 4, &[("a", int, 0)]);
        let pointer = b.add("", PTR, 0, union, &[]);
        let array = b.add("", ARRAY, 0, 0, &[int, int, 16]);
        let of_array = b.add("", PTR, 0, array, &[]);
        let twice = b.add("", PTR, 0, pointer, &[]);
        vec![
            union,
            pointer,
            twice,
            array,
            of_array,
            b.add("", VOLATILE, 0, int, &[]),
            b.add("", RESTRICT, 0, pointer, &[]),
            b.add("rcu", TYPE_TAG, 0, pointer, &[]),
            b.add("", CONST, 0, pointer, &[]),
            b.add("sock", FWD, 0, 0, &[]),
            b.add("either", FWD | FLAG, 0, 0, &[]),
            b.values("wide", ENUM64, &[("BIG", 1 << 40)]),
        ]
    });
    assert_eq!(
        printed,
        [
            "union addr", "union addr *", "union addr **", "int[16]", "int[16] *", "volatile int",
            "union addr *", "union addr *", "union addr * const", "struct sock", "union either", "enum wide",
        ]
    );
}

/// Compilers before `kflag` tell a bitfield by its integer type alone, also where it begins with its bytes.
#[test]
fn an_integer_of_few_bits_is_a_bitfield_wherever_it_begins() {
    let mut b = Builder::new();
    let whole = b.int("int", 4, 0, 32);
    let five = b.int("unsigned int", 4, 0, 5);
    let upper = b.int("unsigned int", 4, 5, 27);
    let pointer = b.add("", PTR, 0, whole, &[]);
    let members = [("whole", whole, 0), ("five", five, 32), ("upper", upper, 32), ("next", pointer, 64)];
    b.strukt("old_style", STRUCT, 16, &members);
    let btf = b.btf();
    let bits = |path| btf.bits("old_style", path).map(|bits| (bits.offset_bits, bits.size_bits));
    assert_eq!(bits("whole"), Some((0, 32)));
    assert_eq!(bits("five"), Some((32, 5)));
    assert_eq!(bits("upper"), Some((37, 27)));
    assert_eq!(bits("next"), Some((64, usize::BITS)), "a pointer is a word of the machine");
    assert_eq!(btf.offset("old_style", "five"), None, "its byte has neighbours in it");
    assert_eq!(btf.offset("old_style", "next"), Some(8));
}

#[test]
fn what_has_no_name_is_not_found_by_none() {
    let btf = small_kernel().btf();
    assert_eq!((btf.size_of(""), btf.offset("", "next"), btf.enum_values("")), (None, None, None));
}

/// A look-up that went through all types of a kernel would take as long as reading them.
#[test]
fn a_name_is_looked_for_among_few_of_many_types() {
    let mut b = Builder::new();
    let names: Vec<String> = (0..64).map(|number| format!("type_{number}")).collect();
    for name in &names {
        b.int(name, 4, 0, 32);
    }
    let section = b.btf().own;
    for (id, name) in (1..).zip(&names) {
        let candidates: Vec<u32> = section.candidates(name.as_bytes()).collect();
        assert!(candidates.contains(&id) && candidates.len() < 16, "{name}: {candidates:?}");
    }
}

#[test]
fn a_module_goes_on_where_its_kernel_ends() {
    let mut b = Builder::new();
    b.int("int", 4, 0, 32);
    let btf = b.btf();
    // Type 1, and an empty string before "int" with its end.
    assert_eq!((btf.own.end_id(), btf.own.end_string()), (2, 5));
}

#[test]
fn a_kernel_without_any_string_is_broken_and_a_module_is_not() {
    let empty = Builder::on(&small_kernel().btf()).bytes();
    assert_eq!(Btf::parse(empty.clone()).unwrap_err(), Flaw::Strings);
    assert!(small_kernel().btf().parse_split(empty).is_ok());
}

#[test]
fn a_section_is_read_up_to_the_largest_that_a_kernel_has() {
    assert_eq!(Btf::parse(vec![0; MAX_BYTES]).unwrap_err(), Flaw::Magic(0), "it is looked at");
    assert_eq!(Btf::parse(vec![0; MAX_BYTES + 1]).unwrap_err(), Flaw::TooLarge((64 << 20) + 1));
}

#[test]
fn a_file_of_nothing_is_broken() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("vmlinux"), "").unwrap();
    let empty = Btf::from_dir(dir.path()).unwrap_err().to_string();
    assert!(empty.ends_with("vmlinux ends within the header (0 bytes)"), "{empty}");
}

/// It is not cut to what a kernel may have, and then taken for one.
#[test]
fn a_file_that_is_too_large_is_no_kernels() {
    let dir = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(dir.path().join("vmlinux")).unwrap();
    // All of it is a hole.
    file.set_len((64 << 20) + 1).unwrap();
    let large = Btf::from_dir(dir.path()).unwrap_err().to_string();
    assert!(large.ends_with("vmlinux has 67108865 bytes, more than any kernel's"), "{large}");
}
