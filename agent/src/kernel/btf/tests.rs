//! The reader against sections built by hand, the running kernel's own, and broken ones.

use proptest::prelude::*;

use super::*;

pub(in crate::kernel) mod builder;
mod edges;

use builder::*;

#[test]
fn members_are_found_as_in_c() {
    let btf = small_kernel().btf();
    assert_eq!(btf.offset("sk_buff", "len"), Some(16));
    assert_eq!(btf.offset("sk_buff", "dev"), Some(8), "through a union and a struct without names");
    assert_eq!(btf.offset("sk_buff", "ns.inum"), Some(28), "through typedef and const");
    assert_eq!(btf.offset("ns_t", "inum"), Some(4), "a typedef's name will do");
    assert_eq!(btf.offset("sk_buff", "dev.mtu"), None, "pointers are not followed");
    assert_eq!(btf.offset("sk_buff", "gone"), None);
    assert_eq!(btf.offset("sk_buff", ""), None, "an anonymous member has no name");
    assert_eq!(btf.offset("sk_buff", "ns."), None);
    assert_eq!(btf.offset("gone", "len"), None);
    assert_eq!(btf.offset("skb_drop_reason", "len"), None);
}

#[test]
fn bitfields_of_both_styles() {
    let btf = small_kernel().btf();
    assert_eq!(btf.bits("sk_buff", "pkt_type"), Some(Bits { offset_bits: 160, size_bits: 3 }));
    assert_eq!(btf.bits("sk_buff", "ca"), Some(Bits { offset_bits: 163, size_bits: 5 }));
    assert_eq!(btf.bits("old_style", "b"), Some(Bits { offset_bits: 35, size_bits: 5 }));
    assert_eq!(btf.bits("sk_buff", "ns.inum"), Some(Bits { offset_bits: 224, size_bits: 32 }));
    assert_eq!(btf.bits("sk_buff", "cb"), Some(Bits { offset_bits: 256, size_bits: 128 }));
    assert_eq!(btf.offset("sk_buff", "pkt_type"), None, "its byte has neighbours in it");
    assert_eq!(btf.offset("old_style", "b"), None);
}

#[test]
fn sizes_and_enums() {
    let btf = small_kernel().btf();
    assert_eq!(btf.size_of("sk_buff"), Some(48));
    assert_eq!(btf.size_of("ns_t"), Some(8));
    assert_eq!(btf.size_of("int"), Some(4));
    assert_eq!(btf.size_of("dev_up"), None);
    let named = |value, name: &str| (value, name.to_owned());
    let reasons = vec![named(2, "NOT_SPECIFIED"), named(3, "NO_SOCKET"), named(0x3_0001, "SUBSYS")];
    assert_eq!(btf.enum_values("skb_drop_reason"), Some(reasons));
    assert_eq!(btf.enum_values("signed"), Some(vec![named(u64::MAX, "MINUS"), named(1, "ONE")]));
    assert_eq!(btf.enum_values("wide"), Some(vec![named(1 << 40, "BIG")]));
    assert_eq!(btf.enum_values("sk_buff"), None);
}

#[test]
fn prototypes_print_as_c() {
    let btf = small_kernel().btf();
    let args = ["struct sk_buff *", "enum skb_drop_reason", "const struct sock *", "int"];
    assert_eq!(btf.tracepoint_args("kfree_skb").unwrap(), args);
    assert_eq!(btf.tracepoint_args("consume_skb"), None);
    assert!(btf.has_func("dev_up") && !btf.has_func("sk_buff"));
    assert_eq!(btf.func_params("dev_up").unwrap(), ["struct net_device *", "void (*)()"]);
}

#[test]
fn a_module_stands_on_its_kernel() {
    let base = small_kernel().btf();
    let mut b = Builder::on(&base);
    // Ids and strings below the module's own are the kernel's: type 1 is "int".
    let own = b.strukt("nf_conntrack_net", STRUCT, 8, &[("count", 1, 32)]);
    let pointer = b.add("", PTR, 0, own, &[]);
    let proto = b.proto(1, &[pointer]);
    b.add("nf_conntrack_in", FUNC, 0, proto, &[]);
    let module = base.parse_split(b.bytes()).unwrap();
    assert_eq!(module.offset("nf_conntrack_net", "count"), Some(4));
    assert_eq!(module.bits("nf_conntrack_net", "count").unwrap().size_bits, 32);
    assert_eq!(module.func_params("nf_conntrack_in").unwrap(), ["struct nf_conntrack_net *"]);
    assert_eq!(module.offset("sk_buff", "dev"), Some(8), "the kernel's own are found too");
    assert!(!base.has_func("nf_conntrack_in"));
    // A second module stands on the kernel, not on the first.
    assert!(!module.parse_split(Builder::on(&base).bytes()).unwrap().has_func("nf_conntrack_in"));
}

#[test]
fn an_outline_keeps_ids_of_what_is_attached_to_and_nothing_else() {
    let btf = small_kernel().btf();
    let outline = Btf::parse(btf.outline(["dev_up", "btf_trace_kfree_skb", "sk_buff", "none", ""])).unwrap();
    assert_eq!(Some(outline.own.end_id() - 1), btf.id("dev_up", &[Kind::Func]), "the last of them");
    for (name, kind) in [("dev_up", Kind::Func), ("btf_trace_kfree_skb", Kind::Typedef)] {
        assert_eq!(outline.id(name, &[kind]), btf.id(name, &[kind]));
        assert!(outline.id(name, &[kind]).is_some());
    }
    assert_eq!(outline.id("sk_buff", &[Kind::Struct]), None, "nothing attaches to it");
    assert!(!outline.has_func("none") && !outline.has_func("sk_buff"));
}

#[test]
fn names_that_begin_alike_are_told_apart_and_the_first_of_a_name_wins() {
    let mut b = Builder::new();
    for (name, bytes) in
        [("kfree_skb", 1), ("kfree_skb_list", 2), ("kfree_sk", 3), ("k", 4), ("kf", 5), ("kfree_skb", 6)]
    {
        b.int(name, bytes, 0, 8);
    }
    let btf = b.btf();
    let sizes =
        ["kfree_skb", "kfree_skb_list", "kfree_sk", "k", "kf", "kfree_s"].map(|name| btf.size_of(name));
    assert_eq!(sizes, [Some(1), Some(2), Some(3), Some(4), Some(5), None]);
}

#[test]
fn endless_types_end() {
    let mut b = Builder::new();
    b.add("round", TYPEDEF, 0, 1, &[]);
    b.strukt("ring", STRUCT, 8, &[("", 2, 0), ("", 2, 0), ("", 2, 0), ("end", 1, 0)]);
    b.add("", ARRAY, 0, 0, &[3, 3, 2]);
    b.add("", PTR, 0, 4, &[]);
    b.proto(5, &[0, 4, 3, 5]);
    b.add("f", FUNC, 0, 5, &[]);
    b.strukt("sizes", STRUCT, 8, &[("array", 3, 0)]);
    let btf = b.btf();
    assert_eq!(btf.offset("round", "x"), None);
    assert_eq!(btf.size_of("round"), None);
    assert_eq!(btf.offset("ring", "gone"), None);
    assert_eq!(btf.bits("ring", "end"), None);
    assert_eq!(btf.bits("sizes", "array"), None);
    assert!(btf.func_params("f").unwrap()[1].contains('?'));
}

#[test]
fn broken_sections_say_what_is_wrong() {
    let good = small_kernel().bytes();
    let broken = |at: usize, with: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        Btf::parse(bytes).unwrap_err()
    };
    assert_eq!(Btf::parse(Vec::new()).unwrap_err(), Flaw::Header(0));
    assert_eq!(Btf::parse(good[..23].to_vec()).unwrap_err(), Flaw::Header(23));
    assert_eq!(broken(0, b"\x7fELF"), Flaw::Magic(u16::from_ne_bytes(*b"\x7fE")));
    assert_eq!(broken(0, &0x9feb_u16.to_ne_bytes()), Flaw::ByteOrder);
    assert_eq!(broken(2, &[9]), Flaw::Version(9));
    assert_eq!(broken(4, &4_u32.to_ne_bytes()), Flaw::Header(good.len()));
    assert!(matches!(broken(12, &u32::MAX.to_ne_bytes()), Flaw::Bounds { part: "types", .. }));
    assert!(matches!(broken(20, &u32::MAX.to_ne_bytes()), Flaw::Bounds { part: "strings", .. }));
    assert_eq!(broken(good.len() - 1, b"x"), Flaw::Strings);
    // Type 1 begins at 24; its kind is the top byte of its second word.
    assert_eq!(broken(28, &(99_u32 << 24).to_ne_bytes()), Flaw::Kind { id: 1, kind: 99 });
    assert_eq!(broken(28, &(STRUCT << 24 | 0xffff).to_ne_bytes()), Flaw::CutType { id: 1 });
    assert!(
        matches!(Btf::parse(good[..good.len() - 1].to_vec()), Err(Flaw::Bounds { file, .. }) if file + 1 == good.len())
    );
}

#[test]
fn errors_name_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Btf::from_dir(dir.path()).unwrap_err().to_string();
    assert!(missing.contains("vmlinux: No such file"), "{missing}");
    std::fs::write(dir.path().join("vmlinux"), &small_kernel().bytes()[..100]).unwrap();
    let cut = Btf::from_dir(dir.path()).unwrap_err().to_string();
    assert!(cut.contains("vmlinux types end at byte") && cut.ends_with("the file at 100"), "{cut}");
    std::fs::write(dir.path().join("vmlinux"), small_kernel().bytes()).unwrap();
    let btf = Btf::from_dir(dir.path()).unwrap();
    assert!(btf.module("nf_conntrack").unwrap_err().to_string().contains("nf_conntrack: No such file"));
}

/// Every query, for what it may do and not for what it answers.
fn ask_everything(btf: &Btf) {
    for name in
        ["sk_buff", "net_device", "ns_t", "old_style", "skb_drop_reason", "wide", "dev_up", "kfree_skb", ""]
    {
        for path in ["dev", "ns.inum", "cb", "b", ""] {
            let _ = (btf.offset(name, path), btf.bits(name, path));
        }
        let _ = (btf.size_of(name), btf.enum_values(name), btf.tracepoint_args(name), btf.func_params(name));
        Btf::parse(btf.outline([name])).unwrap();
    }
}

/// The running kernel's section, where it has one.
fn running() -> Option<Vec<u8>> {
    std::fs::read("/sys/kernel/btf/vmlinux").ok()
}

#[test]
fn the_running_kernel_makes_sense() {
    let Some(bytes) = running() else { return };
    let btf = Btf::parse(bytes).unwrap();
    // Facts of C, true in any build of any version.
    let word = u32::try_from(size_of::<usize>()).unwrap();
    assert_eq!(btf.offset("list_head", "prev"), Some(word));
    assert_eq!(btf.offset("sk_buff", "next"), Some(0), "in a struct in a union");
    assert_eq!(btf.offset("tcp_sock", "inet_conn.icsk_inet.sk.__sk_common"), Some(0));
    assert_eq!(btf.size_of("list_head"), Some(2 * word));
    assert_eq!(btf.size_of("u32"), Some(4));
    assert_eq!(btf.bits("sk_buff", "pkt_type").unwrap().size_bits, 3);
    assert_eq!(btf.bits("iphdr", "ihl").unwrap().size_bits, 4);
    assert_eq!(btf.bits("sk_buff", "cb").unwrap().size_bits, 48 * 8);
    assert_eq!(btf.tracepoint_args("kfree_skb").unwrap()[0], "struct sk_buff *");
    assert_eq!(btf.func_params("kfree").unwrap(), ["const void *"]);
    assert!(btf.has_func("ip_rcv") && !btf.has_func("no_such_function"));
    assert!(btf.enum_values("pid_type").unwrap().contains(&(0, "PIDTYPE_PID".to_owned())));
}

proptest! {
    #[test]
    fn no_mutation_of_a_small_kernel_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        keep in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = small_kernel().bytes();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if cut {
            bytes.truncate(keep.index(bytes.len()));
        }
        if let Ok(btf) = Btf::parse(bytes) {
            ask_everything(&btf);
        }
    }

    #[test]
    fn no_noise_panics(mut bytes in prop::collection::vec(any::<u8>(), 24..400)) {
        // A sound header, so that the noise is read as types.
        let header = [&0xeb9f_u16.to_ne_bytes()[..], &[1, 0]].concat();
        bytes[..4].copy_from_slice(&header);
        let body = u32::try_from(bytes.len() - 24).unwrap();
        for (word, value) in [24, 0, body, 0, body].into_iter().enumerate() {
            bytes[4 + word * 4..8 + word * 4].copy_from_slice(&u32::to_ne_bytes(value));
        }
        *bytes.last_mut().unwrap() = 0;
        if let Ok(btf) = Btf::parse(bytes) {
            ask_everything(&btf);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn no_mutation_of_the_running_kernel_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..200),
        keep in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let Some(mut bytes) = running() else { return Ok(()) };
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if cut {
            bytes.truncate(keep.index(bytes.len()));
        }
        if let Ok(btf) = Btf::parse(bytes) {
            ask_everything(&btf);
        }
    }
}
