//! Naming addresses against texts written by hand, a slow search, and the running kernel.

use std::io::Read as _;

use proptest::prelude::*;

use super::*;

const TEXT: &str = "\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _stext
ffffffff81000000 T _text
ffffffff81000040 t __pfx_ip_rcv_core
ffffffff81000050 t ip_rcv_core.constprop.0
ffffffff81000400 T nf_hook_slow
ffffffff81000500 W weak_one
ffffffff81000600 D some_data
ffffffff81002000 T _etext
ffffffffc0a00000 t nf_conntrack_in\t[nf_conntrack]
ffffffffc0a00800 t early_drop\t[nf_conntrack]
ffffffffc0a00100 t twice\t[nf_conntrack]
ffffffffc0900000 t br_forward\t[bridge]
ffffffffc0900100 t twice\t[bridge]
ffffffffc0b00000 t bpf_prog_6deef7357e7b4530_a.b\t[bpf]
";

fn symbols(text: &str) -> Result<Symbols, SymbolsError> {
    Symbols::parse(text.as_bytes())
}

fn at(symbols: &Symbols, address: u64) -> String {
    symbols.resolve(address).map_or_else(|| "?".to_owned(), |place| place.to_string())
}

#[test]
fn an_address_is_in_the_symbol_before_it() {
    let symbols = symbols(TEXT).unwrap();
    assert_eq!(at(&symbols, 0xffff_ffff_8100_0400), "nf_hook_slow+0x0");
    assert_eq!(at(&symbols, 0xffff_ffff_8100_04ff), "nf_hook_slow+0xff");
    assert_eq!(at(&symbols, 0xffff_ffff_8100_0510), "weak_one+0x10");
    assert_eq!(at(&symbols, 0xffff_ffff_8100_0610), "weak_one+0x110", "data has no code in it");
    assert_eq!(at(&symbols, 0xffff_ffff_8100_0048), "_stext+0x48", "padding is not a place");
    assert_eq!(at(&symbols, 0xffff_ffff_8100_0001), "_stext+0x1", "the first of two names");
    assert_eq!(at(&symbols, 0xffff_ffff_c090_0010), "br_forward+0x10 [bridge]", "though later in the file");
}

/// While functions are traced the file ends with those that modules freed after their initialisation.
#[test]
fn what_a_module_has_freed_is_not_its_own() {
    let text = "\
ffffffff81000000 T _stext
ffffffffc0a00000 t vti_tunnel_xmit\t[ip_vti]
ffffffffc0a00800 t vti_rcv\t[ip_vti]
ffffffffc0900000 t ip6_tnl_xmit\t[ip6_tunnel]
ffffffffc0a00400 T ip6_tunnel_init\t[ip6_tunnel]
ffffffffc0a00500 T vti_init\t[ip_vti]
ffffffffc0a00600 T other_init\t[ip6_tunnel]
ffffffffc0b00000 t bpf_prog_6deef7357e7b4530\t[bpf]
";
    // 5.10 to 6.3: a module's text is at its address; later it is so for all that a module has, in pieces.
    let modules = "ip_vti 16384 0 - Live 0xffffffffc0a00000\nip6_tunnel 40960 0 - Live 0xffffffffc0900000\nhidden 1 0 - Live 0x0000000000000000\n";
    let symbols = Symbols::parse_among(text.as_bytes(), modules).unwrap();
    assert_eq!(at(&symbols, 0xffff_ffff_c0a0_0410), "vti_tunnel_xmit+0x410 [ip_vti]", "the last module's");
    assert_eq!(at(&symbols, 0xffff_ffff_c0a0_0510), "vti_tunnel_xmit+0x510 [ip_vti]");
    assert_eq!(at(&symbols, 0xffff_ffff_c0a0_0610), "vti_tunnel_xmit+0x610 [ip_vti]");
    assert_eq!(at(&symbols, 0xffff_ffff_c0b0_0010), "bpf_prog_6deef7357e7b4530+0x10 [bpf]");
}

#[test]
fn an_address_beyond_a_symbol_is_not_named() {
    let symbols = symbols(TEXT).unwrap();
    for unknown in [0, 1, 0xffff_ffff_80ff_ffff, 0xffff_ffff_8100_3000, 0xffff_ffff_c0a0_1000, u64::MAX] {
        assert_eq!(at(&symbols, unknown), "?", "{unknown:#x}");
    }
    assert_eq!(at(&symbols, 0xffff_ffff_c0a0_0fff), "early_drop+0x7ff [nf_conntrack]");
}

#[test]
fn the_lower_half_is_enough_where_only_one_can_be_meant() {
    let text = "\
ffff800010000000 T low_one
ffff800080000100 T here
ffff800080000200 T here_end
ffff800180000100 t there\t[m]
ffff800180000200 t there_end\t[m]
";
    let symbols = symbols(text).unwrap();
    let place = |low| symbols.resolve_low32(low).map(|place| place.to_string());
    assert_eq!(place(0x1000_0010).as_deref(), Some("low_one+0x10"));
    assert_eq!(place(0x8000_0110), None, "here or there");
    assert_eq!(place(0x7000_0000), None);
    let kernel = Symbols::parse(TEXT.as_bytes()).unwrap();
    let early = kernel.resolve_low32(0xc0a0_0810).unwrap();
    assert_eq!((early.symbol, early.module, early.offset), ("early_drop", Some("nf_conntrack"), 0x10));
}

#[test]
fn a_symbol_may_reach_over_four_gigabytes() {
    let text = "ffff8000fffffff0 T over\nffff800100000100 T next\n";
    let symbols = symbols(text).unwrap();
    assert_eq!(at(&symbols, 0xffff_8001_0000_0010), "over+0x20");
    assert_eq!(symbols.resolve_low32(0x10).unwrap().to_string(), "over+0x20");
}

#[test]
fn functions_are_named_as_in_the_source() {
    let function = |symbol, module| Place { symbol, module, offset: 0 }.function();
    for symbol in [
        "ip_fragment", "ip_fragment.constprop.0", "ip_fragment.isra.0.cold", "ip_fragment.part.0",
        "ip_fragment.llvm.1234",
    ] {
        assert_eq!(function(symbol, None), "ip_fragment");
    }
    assert_eq!(function("bpf_prog_6deef7357e7b4530_a.b", Some("bpf")), "bpf_prog_6deef7357e7b4530_a.b");
    assert_eq!(function(".slowpath", None), ".slowpath");
}

#[test]
fn a_name_has_an_address_if_only_one() {
    let symbols = symbols(TEXT).unwrap();
    assert_eq!(symbols.address("nf_hook_slow"), Some(0xffff_ffff_8100_0400));
    assert_eq!(symbols.address("_text"), Some(0xffff_ffff_8100_0000));
    assert_eq!(symbols.address("twice"), None);
    assert_eq!(symbols.address("some_data"), None);
    assert_eq!(symbols.address(""), None);
}

/// What a function is compiled to ends where the next one begins.
#[test]
fn a_function_reaches_to_the_next_symbol() {
    let text = "\
ffffffff81000000 T small
ffffffff81000123 T largest
ffffffff81040123 T too_large
ffffffff81080124 t twice
ffffffff81080224 t twice
ffffffff81080324 T last
";
    let symbols = symbols(text).unwrap();
    for (name, extent) in [
        ("small", Some((0xffff_ffff_8100_0000, 0x123))),
        ("largest", Some((0xffff_ffff_8100_0123, 0x4_0000))),
        ("too_large", None),
        ("twice", None),
        ("last", None),
        ("gone", None),
    ] {
        assert_eq!(symbols.extent(name), extent, "{name}");
    }
    assert_eq!((symbols.len(), symbols.is_empty()), (6, false));
}

/// Different runs of upper halves: the address may be between two of them.
#[test]
fn a_symbol_may_reach_to_where_no_other_begins() {
    let symbols = symbols("ffff8000fffffff0 T over\nffff800200000000 T next\n").unwrap();
    assert_eq!(at(&symbols, 0xffff_8001_0000_0010), "over+0x20");
    assert_eq!(at(&symbols, 0xffff_8001_0003_fff0), "over+0x40000", "as long as a function may be");
    assert_eq!(at(&symbols, 0xffff_8001_0003_fff1), "?");
}

#[test]
fn no_more_symbols_are_kept_than_a_kernel_has() {
    let line = Line { address: 1, name: "f", module: None };
    let add = |kept: usize| Draft { symbols: vec![(0, 0, 0); kept], ..Draft::default() }.add(&line);
    assert!(add(1_999_999).is_ok());
    assert!(matches!(add(2_000_000), Err(SymbolsError::TooMany)));
}

#[test]
fn hidden_and_empty_are_told_apart() {
    let hidden = symbols("0000000000000000 T _stext\n0000000000000000 t ip_rcv\n").unwrap_err();
    assert!(matches!(hidden, SymbolsError::Hidden), "{hidden}");
    for text in ["", "\n\n", "ffffffff81000000 D data\n", "not a symbol\n"] {
        assert!(matches!(symbols(text), Err(SymbolsError::Empty)), "{text:?}");
    }
    let shown = |text: &str| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Symbols::check(file.path())
    };
    shown(TEXT).unwrap();
    assert!(matches!(
        shown("0000000000000000 A data\n0000000000000000 T _stext\n"),
        Err(SymbolsError::Hidden)
    ));
    assert!(matches!(shown("ffffffff81000000 D data\n"), Err(SymbolsError::Empty)));
    let absent = Symbols::load_from(Path::new("/nonexistent/kallsyms"), Path::new("/nonexistent/modules"))
        .unwrap_err();
    assert!(matches!(absent, SymbolsError::Read(_)) && absent.to_string().contains("No such file"));
}

#[test]
fn an_endless_line_does_not_fill_memory() {
    let endless = io::repeat(b'a').take(8 << 20).chain(&b"\nffffffff81000000 T _stext\n"[..]);
    let symbols = Symbols::parse(BufReader::new(endless)).unwrap();
    assert_eq!(symbols.len(), 1);
}

#[test]
fn the_running_kernel_is_named_or_says_why_not() {
    match Symbols::load() {
        Ok(symbols) => {
            Symbols::check(Path::new("/proc/kallsyms")).unwrap();
            let address = symbols.address("ip_rcv").unwrap();
            assert_eq!(symbols.resolve(address + 4).unwrap().function(), "ip_rcv");
            let low = halves(address).1;
            assert_eq!(symbols.resolve_low32(low).unwrap().symbol, "ip_rcv");
        }
        Err(why) => assert!(matches!(why, SymbolsError::Hidden | SymbolsError::Read(_)), "{why}"),
    }
}

proptest! {
    #[test]
    fn resolving_is_the_plain_search(
        starts in prop::collection::vec((0_u64..4, 0_u64..64), 1..40),
        asked in (0_u64..5, 0_u64..80),
    ) {
        let whole = |(high, low): (u64, u64)| (high << 32) + low * 16 + 1;
        let line = |(index, start): (usize, &(u64, u64))| format!("{:x} t s{index}", whole(*start));
        let text = starts.iter().enumerate().map(line).collect::<Vec<_>>().join("\n");
        let asked = whole(asked);
        // The slow way: of the greatest starts at or below, the first in the file.
        let nearest = starts.iter().map(|start| whole(*start)).filter(|start| *start <= asked).max();
        let last = starts.iter().map(|start| whole(*start)).max();
        let expected = nearest
            .filter(|start| asked - start <= MAX_FUNCTION && (Some(*start) != last || start >> 12 == asked >> 12))
            .and_then(|near| starts.iter().position(|start| whole(*start) == near))
            .map(|index| format!("s{index}"));
        let symbols = symbols(&text).unwrap();
        prop_assert_eq!(symbols.resolve(asked).map(|place| place.symbol.to_owned()), expected);
    }

    #[test]
    fn no_text_panics(text in prop::collection::vec(any::<u8>(), 0..400), low in any::<u32>()) {
        if let Ok(symbols) = Symbols::parse(&text[..]) {
            let _ = (symbols.resolve_low32(low), symbols.address("a"));
        }
    }
}
