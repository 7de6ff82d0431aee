//! Rows as they look: how they are cut, how they grow, and what cannot break them.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::SystemTime;

use proptest::prelude::*;

use super::width::{cut_middle, terminal};
use super::*;
use crate::incident::Span;
use crate::sink::Saying;

const COLUMNS: [Column; 4] = [
    Column::new("TIME", 8, false),
    Column::new("POD", 12, false).growing(30),
    Column::new("NETNS", 5, true),
    Column::new("WHY", 10, false).growing(14),
];

/// A table of 40, which these columns and their gaps fill.
const NARROW: Style = Style { wide: false, colour: false, width: 34 };

fn cells(texts: [&str; 4]) -> Vec<Cell<'_>> {
    COLUMNS.into_iter().zip(texts).map(|(column, text)| Cell::new(column, text)).collect()
}

fn saying<'a>(cells: &'a [Cell<'a>]) -> Saying<'a> {
    Saying { message: "m", fields: &[], cells }
}

fn line<'a>(level: Level, says: &'a Saying<'a>) -> Line<'a> {
    Line {
        told: Told::Event,
        at: SystemTime::UNIX_EPOCH,
        level,
        probe: "drops",
        span: Span::root(),
        pod: None,
        says,
    }
}

fn table(style: Style, rows: &[(Level, [&str; 4])]) -> String {
    let mut out = Vec::new();
    let mut sink = TableSink::new(&mut out, style);
    for (level, texts) in rows {
        let cells = cells(*texts);
        assert_eq!(sink.write(&line(*level, &saying(&cells))).unwrap(), Written::Yes);
    }
    sink.flush().unwrap();
    drop(sink);
    String::from_utf8(out).unwrap()
}

#[test]
fn one_heading_aligned_rows_and_the_last_cell_whole() {
    let rows = [
        (Level::Info, ["03:04:05", "shop/web-0", "4026531840", "no socket at all"]),
        (Level::Warn, ["03:04:06", "kube-system/coredns-7c65d-x2x9z", "1", ""]),
    ];
    let expected = "\
        TIME      POD           WHY\n\
        03:04:05  shop/web-0    no socket at all\n\
        03:04:06  kube-s…x2x9z  -\n";
    assert_eq!(table(NARROW, &rows), expected);
    assert_eq!(width(&COLUMNS, false), 8 + 2 + 12 + 2 + 10);
}

#[test]
fn wide_hides_and_cuts_nothing() {
    let rows = [(Level::Info, ["03:04:06", "kube-system/coredns-7c65d-x2x9z", "1", "why"])];
    let expected = "\
        TIME      POD           NETNS  WHY\n\
        03:04:06  kube-system/coredns-7c65d-x2x9z  1      why\n";
    assert_eq!(table(Style { wide: true, ..Style::default() }, &rows), expected);
}

#[test]
fn only_severity_is_coloured() {
    let row = ["t", "p", "n", "w"];
    let style = Style { colour: true, ..Style::default() };
    let text = table(style, &[(Level::Info, row), (Level::Warn, row), (Level::Error, row)]);
    let rows: Vec<&str> = text.lines().collect();
    assert!(!rows[0].contains('\x1b') && !rows[1].contains('\x1b'));
    assert!(rows[2].starts_with("\x1b[33mt") && rows[2].ends_with("\x1b[0m"));
    assert!(rows[3].starts_with("\x1b[31mt"));
}

#[test]
fn colour_is_for_terminals_that_want_it() {
    let term = Some(OsStr::new("xterm"));
    assert!(wants_colour(true, None, term));
    assert!(wants_colour(true, Some(OsStr::new("")), term), "no-color.org: empty is unset");
    assert!(!wants_colour(false, None, term));
    assert!(!wants_colour(true, Some(OsStr::new("1")), term));
    assert!(!wants_colour(true, None, Some(OsStr::new("dumb"))));
    assert!(!wants_colour(true, None, None));
}

#[test]
fn wide_characters_keep_the_columns() {
    let rows = [(Level::Info, ["日本", "a日本語日本語日本語b", "n", "x"])];
    let text = table(NARROW, &rows);
    assert_eq!(text.lines().nth(1).unwrap(), "日本      a日本…本語b   x");
}

#[test]
fn hostile_cells_cannot_make_a_row() {
    let rows = [(Level::Info, ["\x1b[2J", "a\nroot", "n", "w\r\n\u{202e}x\u{9b}"])];
    let text = table(Style::default(), &rows);
    assert_eq!(text.lines().count(), 2);
    assert!(text.ends_with("w\\x0d\\x0a\\u{202e}x\\u{9b}\n"));
}

#[test]
fn each_character_that_a_terminal_obeys_is_written_out() {
    for c in escape::tests::obeyed() {
        let code = u32::from(c);
        let shown = if code < 0x80 { format!("a\\x{code:02x}b") } else { format!("a\\u{{{code:x}}}b") };
        let text = format!("a{c}b");
        let wide = Style { wide: true, ..Style::default() };
        let row = row(wide, &cells([&text, &text, &text, &text]));
        assert_eq!(row.matches(&shown).count(), 4, "{c:?}: {row:?}");
        assert!(!row.contains(c), "{c:?} is raw in {row:?}");
        // A verdict is told below its row, folded to the width.
        let says = Saying { message: &text, fields: &[], cells: &[] };
        let mut out = Vec::new();
        let mut sink = TableSink::new(&mut out, wide);
        sink.write(&Line { told: Told::Incident, ..line(Level::Info, &says) }).unwrap();
        sink.flush().unwrap();
        drop(sink);
        let folded = String::from_utf8(out).unwrap();
        assert!(folded.contains(&shown) && folded.lines().count() == 1, "{c:?}: {folded:?}");
    }
}

#[test]
fn a_row_is_bounded() {
    let long = "\x1b".repeat(1 << 20);
    let text = table(
        Style { wide: true, colour: true, ..Style::default() },
        &[(Level::Error, [&long, &long, &long, &long])],
    );
    assert!(text.lines().nth(1).unwrap().len() <= MAX_LINE);
    assert!(text.ends_with("…\x1b[0m\n"));
}

/// A reader that has gone.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_closed_pipe_is_passed_up() {
    let mut sink = TableSink::new(Closed, Style::default());
    assert_eq!(sink.heading("drops", COLUMNS).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

proptest! {
    #[test]
    fn a_cut_fits_and_keeps_both_ends(text: String, room in 1usize..40) {
        prop_assume!(!text.contains(escape::CUT));
        let text = escape::text(&text).into_owned();
        let cut = cut_middle(text.clone().into(), room);
        prop_assert!(text_width(&cut) <= room);
        if cut != text {
            let (start, end) = cut.split_once(escape::CUT).unwrap();
            prop_assert!(text.starts_with(start) && text.ends_with(end));
        }
    }
}

/// The row of these cells, behind its heading.
fn row(style: Style, cells: &[Cell<'_>]) -> String {
    let mut out = Vec::new();
    let mut sink = TableSink::new(&mut out, style);
    sink.write(&line(Level::Info, &saying(cells))).unwrap();
    sink.flush().unwrap();
    drop(sink);
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    text.lines().nth(1).unwrap().to_owned()
}

fn ended<'a>(column: Column, name: &'a str, tail: &'a str) -> Cell<'a> {
    Cell { column, text: name.into(), tail: tail.into() }
}

const ENDS: [Column; 4] = [
    Column::new("TIME", 9, false).whole(),
    Column::new("SOURCE", 15, false).growing(60),
    Column::new("DESTINATION", 19, false).growing(60),
    Column::new("WHY", 3, false),
];

/// Of an address or a port a part is another one; of a name it is still a name.
#[test]
fn a_name_is_cut_and_no_port_and_no_address() {
    const POD: &str = "kube-system/coredns-7c65d6cfc9-x2x9z";
    let of = |source: Cell<'static>, destination: Cell<'static>| {
        let cells = [Cell::new(ENDS[0], "03:04:05Z"), source, destination, Cell::new(ENDS[3], "x")];
        row(Style { width: 52, ..Style::default() }, &cells)
    };
    let [source, destination] = [ENDS[1], ENDS[2]];
    assert_eq!(
        of(ended(source, POD, ""), ended(destination, POD, ":53")),
        "03:04:05Z  kube-sy…9-x2x9z  kube-sys…9-x2x9z:53  x"
    );
    assert_eq!(
        of(ended(source, POD, ":65535 +1234567"), ended(destination, "shop/db", ":53")),
        "03:04:05Z  kub…x9z:65535 +1234567  shop/db:53    x",
        "blanks behind it give it room"
    );
    assert_eq!(
        of(ended(source, "", "10.0.0.1"), ended(destination, "", "[2001:db8:1:2:3:4:5:6]:443")),
        "03:04:05Z  10.0.0.1         [2001:db8:1:2:3:4:5:6]:443  x"
    );
    let number = Column::new("MTU", 3, false).whole();
    let cells = [Cell::new(number, "65535"), Cell::new(ENDS[3], "x")];
    assert_eq!(row(NARROW, &cells), "65535  x");
}

#[test]
fn names_have_the_room_that_is_there() {
    let pod = "kube-system/coredns-7c65d6cfc9-x2x9z";
    let cells = [Cell::new(COLUMNS[0], "t"), Cell::new(COLUMNS[1], pod), Cell::new(COLUMNS[3], "w")];
    let at = |width| row(Style { width, ..Style::default() }, &cells);
    assert_eq!(at(34), "t         kube-s…x2x9z  w");
    assert_eq!(at(20), at(34), "less than all columns take changes nothing");
    assert_eq!(
        at(44),
        "t         kube-syst…c9-x2x9z  w",
        "by turns with the last one, up to what that may have"
    );
    assert_eq!(at(500), format!("t         {}  w", cut_middle(pod.into(), 30)), "as far as it may");
}

#[test]
fn an_incident_is_folded_to_the_width() {
    let says =
        Saying { message: "a bb ccc dddd eeeee ffffff ggggggg hhhhhhhh iiiiiiiii", fields: &[], cells: &[] };
    let lines = |style: Style| {
        let mut out = Vec::new();
        let mut sink = TableSink::new(&mut out, style);
        sink.write(&Line { told: Told::Incident, ..line(Level::Info, &says) }).unwrap();
        sink.flush().unwrap();
        drop(sink);
        let text = String::from_utf8(out).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let folded = lines(Style { width: 40, ..Style::default() });
    assert!(folded.len() == 2 && folded.iter().all(|line| line.len() <= 40), "{folded:?}");
    assert_eq!(lines(Style { width: 120, ..Style::default() }).len(), 1);
}

#[test]
fn the_width_is_the_terminals_or_what_is_said_of_it() {
    let null = std::fs::File::open("/dev/null").unwrap();
    let at = |columns: Option<&str>| terminal(null.as_fd(), columns.map(OsStr::new));
    assert_eq!([at(None), at(Some("132")), at(Some("40")), at(Some("500"))], [80, 132, 40, 500]);
    for wrong in ["", "0", "39", "501", "-1", "wide", "99999999999999999999"] {
        assert_eq!(at(Some(wrong)), 80, "{wrong}");
    }
    // A real terminal's word wins, unless it has none.
    let (mut ends, null) = ([-1; 2], std::ptr::null_mut());
    let [master, slave] = &mut ends;
    // SAFETY: two numbers are written, which outlive the call; of name and settings nothing is asked.
    let opened =
        unsafe { nix::libc::openpty(master, slave, null, std::ptr::null_mut(), std::ptr::null_mut()) };
    assert_eq!(opened, 0, "a terminal");
    // SAFETY: just opened, and nobody else's.
    let [master, slave] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
    let size = |columns| nix::libc::winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    for (columns, width) in [(120, 120), (0, 132)] {
        let size = size(columns);
        // SAFETY: the kernel reads one `winsize`, which outlives the call.
        let set = unsafe { nix::libc::ioctl(master.as_raw_fd(), nix::libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(set, 0);
        assert_eq!(terminal(slave.as_fd(), Some(OsStr::new("132"))), width);
    }
}

proptest! {
    #[test]
    fn a_port_and_an_address_are_whole_whatever_the_name(
        name in "\\PC{0,60}", hostile: String, port: u16, address: std::net::IpAddr, width in 40_usize..200,
    ) {
        let (port, address) = (format!(":{port}"), std::net::SocketAddr::new(address, 7).to_string());
        for name in [name.as_str(), hostile.as_str()] {
            let cells = [
                Cell::new(ENDS[0], "03:04:05Z"), ended(ENDS[1], name, &port), ended(ENDS[2], "", &address),
                Cell::new(ENDS[3], "why"),
            ];
            let row = row(Style { width, ..Style::default() }, &cells);
            prop_assert!(!row.chars().any(escape::is_unsafe), "{:?}", row);
            let rest = row.strip_prefix("03:04:05Z  ").unwrap().strip_suffix("  why").unwrap().trim_end();
            let source = rest.strip_suffix(&address).unwrap();
            prop_assert!(source.ends_with("  ") && source.trim_end().ends_with(&port), "{:?}", row);
            // The row is no wider than what could not be cut makes it.
            let more = text_width(&address).saturating_sub(19);
            prop_assert!(text_width(&row) <= width.max(52) + more, "{:?}", row);
        }
    }

    #[test]
    fn columns_fill_the_terminal_and_no_more(room in 0_usize..600, most in prop::collection::vec(1_usize..80, 1..9)) {
        let columns: Vec<Column> = most.iter().map(|most| Column::new("T", 5, false).growing(*most)).collect();
        let widths = spread(&columns, room);
        let (least, gaps) = (5 * columns.len(), GAP.len() * (columns.len() - 1));
        let taken = widths.iter().sum::<usize>() + gaps;
        prop_assert!(widths.iter().zip(&most).all(|(width, most)| *width >= 5 && *width <= (*most).max(5)));
        let all: usize = most.iter().map(|most| (*most).max(5)).sum();
        prop_assert_eq!(taken, room.clamp(least + gaps, all + gaps));
    }
}

/// An incident's words as a table of 34 shows them.
fn folded(text: &str) -> Vec<String> {
    let says = Saying { message: text, fields: &[], cells: &[] };
    let mut out = Vec::new();
    let mut sink = TableSink::new(&mut out, NARROW);
    sink.write(&Line { told: Told::Incident, ..line(Level::Info, &says) }).unwrap();
    drop(sink);
    String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn words_are_folded_where_they_no_longer_fit() {
    let (fits, longer, long) = ("b".repeat(15), "b".repeat(16), "a".repeat(40));
    let first = "a".repeat(15);
    assert_eq!(folded(&format!("{first} {fits}")), [format!("=> {first} {fits}")], "34 characters");
    assert_eq!(folded(&format!("{first} {longer}")), [format!("=> {first}"), format!("   {longer}")]);
    assert_eq!(folded(&long), [format!("=> {long}")], "a word is not cut");
    assert_eq!(folded(&format!("a {long} b")), ["=> a".to_owned(), format!("   {long}"), "   b".to_owned()]);
}

/// What a person pastes is one line.
#[test]
fn a_command_is_not_folded() {
    let command = "`ip route replace 10.0.0.9/32 via 10.0.0.1 mtu 1400`";
    let first = "a".repeat(20);
    assert_eq!(
        folded(&format!("{first} {command}, b")),
        [format!("=> {first}"), format!("   {command},"), "   b".to_owned()]
    );
    assert_eq!(folded("a `b c` d"), ["=> a `b c` d"]);
    assert_eq!(folded(&format!("a ` {}", "b ".repeat(20))).len(), 2, "one that does not end");
}

#[test]
fn a_row_that_is_too_long_keeps_what_a_line_may_have() {
    let long = "x".repeat(2 * MAX_LINE);
    let text = row(Style { wide: true, ..Style::default() }, &cells(["t", "p", "n", &long]));
    assert!((MAX_LINE - 20..=MAX_LINE).contains(&text.len()), "{}", text.len());
}

#[test]
fn what_the_stream_fails_to_flush_is_said() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }
    let mut sink = TableSink::new(Full, Style::default());
    assert_eq!(sink.flush().unwrap_err().kind(), io::ErrorKind::StorageFull);
}
