//! Formats of several kernels' `skb:kfree_skb`, and texts that are none.

use proptest::prelude::*;

use super::*;

const COMMON: &str = "name: kfree_skb
ID: 1454
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:void * skbaddr;\toffset:8;\tsize:8;\tsigned:0;
\tfield:void * location;\toffset:16;\tsize:8;\tsigned:0;
";

fn v5_10() -> String {
    format!(
        "{COMMON}\tfield:unsigned short protocol;\toffset:24;\tsize:2;\tsigned:0;

print fmt: \"skbaddr=%p protocol=%u location=%p\", REC->skbaddr, REC->protocol, REC->location
"
    )
}

fn v6_1() -> String {
    format!(
        "{COMMON}\tfield:unsigned short protocol;\toffset:24;\tsize:2;\tsigned:0;
\tfield:enum skb_drop_reason reason;\toffset:28;\tsize:4;\tsigned:0;

print fmt: \"skbaddr=%p protocol=%u location=%p reason: %s\", REC->skbaddr, REC->protocol, REC->location, \
         __print_symbolic(REC->reason, {{ 1, \"NOT_SPECIFIED\" }}, {{ 2, \"NO_SOCKET\" }}, {{ 64, \"PKT_TOO_BIG\" }}, {{ 65, \"MAX\" }})
"
    )
}

fn v6_12() -> String {
    format!(
        "{COMMON}\tfield:void * rx_sk;\toffset:24;\tsize:8;\tsigned:0;
\tfield:unsigned short protocol;\toffset:32;\tsize:2;\tsigned:0;
\tfield:enum skb_drop_reason reason;\toffset:36;\tsize:4;\tsigned:0;

print fmt: \"skbaddr=%p rx_sk=%p protocol=%u location=%pS reason: %s\", REC->skbaddr, REC->rx_sk, REC->protocol, \
         REC->location, __print_symbolic(REC->reason, {{ 2, \"NOT_SPECIFIED\" }}, {{ 3, \"NO_SOCKET\" }}, {{ 80, \"PKT_TOO_BIG\" }})
"
    )
}

fn parse(text: &str) -> Format {
    Format::parse(text.as_bytes()).unwrap()
}

#[test]
fn offsets_move_between_kernels() {
    let (old, middle, new) = (parse(&v5_10()), parse(&v6_1()), parse(&v6_12()));
    assert_eq!(old.id, 1454);
    let offset = |format: &Format, name| format.field(name).map(|field| field.offset);
    assert_eq!(
        [&old, &middle, &new].map(|format| (offset(format, "location"), offset(format, "reason"))),
        [(Some(16), None), (Some(16), Some(28)), (Some(16), Some(36))]
    );
    assert_eq!((offset(&middle, "rx_sk"), offset(&new, "rx_sk")), (None, Some(24)));
    let pid = Field { name: "common_pid".to_owned(), offset: 4, size: 4, signed: true };
    assert_eq!(old.field("common_pid"), Some(&pid));
}

#[test]
fn names_of_reasons_are_in_the_format() {
    let name = |value, name: &str| (value, name.to_owned());
    assert_eq!(parse(&v5_10()).symbols("reason"), []);
    assert_eq!(
        parse(&v6_1()).symbols("reason"),
        [name(1, "NOT_SPECIFIED"), name(2, "NO_SOCKET"), name(64, "PKT_TOO_BIG"), name(65, "MAX")]
    );
    assert_eq!(parse(&v6_12()).symbols("reason").last(), Some(&name(80, "PKT_TOO_BIG")));
    assert_eq!(parse(&v6_12()).symbols("rea"), []);
    assert_eq!(parse(&v6_12()).symbols("protocol"), []);
}

#[test]
fn of_several_tables_the_fields_own_is_read() {
    let print = "print fmt: \"%s %s\", __print_symbolic(REC->family, { 2, \"AF_INET\" }, { 0xa, \"AF_INET6\" }), \
                 __print_symbolic(REC->state , {-1,\"ERROR\"}, { TCP_OPEN, \"OPEN\" }, { 7UL , \"CLOSE\" } ), REC->x";
    let format = parse(&format!("{COMMON}\n{print}\n"));
    assert_eq!(format.symbols("family"), [(2, "AF_INET".to_owned()), (10, "AF_INET6".to_owned())]);
    assert_eq!(format.symbols("state"), [(u64::MAX, "ERROR".to_owned()), (7, "CLOSE".to_owned())]);
}

#[test]
fn declarations_of_all_kinds_are_named() {
    let name = |declaration: &str| {
        Field::parse(&format!("\tfield:{declaration};\toffset:8;\tsize:16;\tsigned:0;"))
            .map(|field| field.name)
    };
    for declaration in [
        "char x[16]", "__data_loc char[] x", "const struct sock *x", "u8 x[4 * sizeof(u32)]",
        "__rel_loc u8[] x", "x",
    ] {
        assert_eq!(name(declaration).as_deref(), Some("x"), "{declaration}");
    }
    assert_eq!(name(""), None);
    assert_eq!(Field::parse("field:int x;\toffset:-1;\tsize:4;\tsigned:1;"), None);
    assert_eq!(Field::parse("field:int x;\toffset:4;"), None);
}

#[test]
fn what_is_no_format_is_said_to_be_none() {
    let flaw = |text: &str| Format::parse(text.as_bytes()).unwrap_err();
    assert_eq!(flaw(""), FormatFlaw::NoId);
    assert_eq!(flaw("ID: many\n"), FormatFlaw::NoId);
    assert_eq!(flaw("name: x\nID: 7\nformat:\n"), FormatFlaw::NoFields);
    assert_eq!(Format::parse(b"ID: 7\n\xff\xfe").unwrap_err(), FormatFlaw::NotText);
    for cut in ["{", "{ 1", "{ 1,", "{ 1, \"", "{ 1, \"A", "{ 1, \"A\"", "", ",,,", "{{{"] {
        let text = format!("{COMMON}\nprint fmt: __print_symbolic(REC->reason, {cut}");
        assert_eq!(parse(&text).symbols("reason"), [], "{cut}");
    }
}

#[test]
fn tracefs_is_found_in_both_places() {
    let sys = tempfile::tempdir().unwrap();
    assert!(Tracefs::find(sys.path()).is_none());
    let event = sys.path().join("kernel/debug/tracing/events/skb/kfree_skb");
    std::fs::create_dir_all(&event).unwrap();
    std::fs::write(event.join("format"), v6_1()).unwrap();
    // An empty directory is where tracefs would be mounted; it is not tracefs.
    std::fs::create_dir_all(sys.path().join("kernel/tracing")).unwrap();
    let tracefs = Tracefs::find(sys.path()).unwrap();
    assert_eq!(tracefs.format("skb", "kfree_skb").unwrap(), parse(&v6_1()));
    let missing = tracefs.format("skb", "gone").unwrap_err().to_string();
    assert!(missing.contains("skb/gone/format: No such file"), "{missing}");
    std::fs::write(event.join("format"), "nonsense").unwrap();
    let broken = tracefs.format("skb", "kfree_skb").unwrap_err().to_string();
    assert!(broken.ends_with("kfree_skb/format has no ID"), "{broken}");
}

#[test]
fn the_running_kernels_formats_agree_with_its_types() {
    let (Some(tracefs), Ok(btf)) = (Tracefs::find(Path::new("/sys")), super::super::btf::Btf::from_sys_fs())
    else {
        return;
    };
    let Ok(format) = tracefs.format("skb", "kfree_skb") else { return };
    assert_eq!(format.field("location").unwrap().size, 8);
    let typed = btf.enum_values("skb_drop_reason").unwrap_or_default();
    for (value, name) in format.symbols("reason").into_iter().filter(|(_, name)| name != "MAX") {
        assert!(typed.contains(&(value, format!("SKB_DROP_REASON_{name}"))), "{value} {name}");
    }
}

proptest! {
    #[test]
    fn no_text_panics(noise in ".{0,200}", at in 0_usize..2000, field in "[a-z]{0,8}") {
        let mut text = v6_12();
        let at = (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap();
        text.insert_str(at, &noise);
        if let Ok(format) = Format::parse(text.as_bytes()) {
            let _ = (format.symbols("reason"), format.symbols(&field), format.field(&field));
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Format::parse(&bytes);
    }
}
