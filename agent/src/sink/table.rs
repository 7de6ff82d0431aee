//! One table row an event, for a terminal.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io::{self, BufWriter, IsTerminal as _, Stdout, Write};

use unicode_width::UnicodeWidthChar;

use super::{Cell, Column, Level, Line, Sink, Told, Written, escape, json::MAX_LINE};

/// Between two columns.
const GAP: &str = "  ";

/// Columns of the narrowest terminal that is to show everything.
const TERMINAL: usize = 80;

/// What begins an incident's words, and their further lines.
const MARKS: [&str; 2] = ["=> ", "   "];

/// How a table looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// All columns, and no cell cut (`-o wide`).
    pub wide: bool,
    /// Rows that matter in colour: see [`wants_colour`].
    pub colour: bool,
}

/// Whether to colour: only a terminal, and only if `NO_COLOR` is empty or unset and `TERM` can do it.
#[must_use]
pub fn wants_colour(is_terminal: bool, no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    is_terminal
        && no_color.is_none_or(OsStr::is_empty)
        && term.is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// Characters a row of these columns takes up to the last one, which is as long as its text.
///
/// A probe's test holds this against a terminal's 80 characters.
#[must_use]
pub fn width(columns: &[Column], wide: bool) -> usize {
    let shown = columns.iter().filter(|column| wide || !column.wide);
    shown.map(|column| column_width(*column) + GAP.len()).sum::<usize>().saturating_sub(GAP.len())
}

/// Writes each line as a row under the heading of its probe, all of its text with one call of `write`.
#[derive(Debug)]
pub struct TableSink<W: Write> {
    out: W,
    style: Style,
    headed: Vec<&'static str>,
    row: String,
    /// Whole rows that are to be written.
    text: String,
}

impl TableSink<BufWriter<Stdout>> {
    /// On this process's stdout, which may make it wait.
    #[must_use]
    pub fn on_stdout(wide: bool) -> Self {
        Self::like_stdout(BufWriter::new(io::stdout()), wide)
    }
}

impl<W: Write> TableSink<W> {
    /// On `out`, which leads to stdout: in colour if that is a terminal that can do it and nobody objects.
    #[must_use]
    pub fn like_stdout(out: W, wide: bool) -> Self {
        let (no_color, term) = (std::env::var_os("NO_COLOR"), std::env::var_os("TERM"));
        let colour = wants_colour(io::stdout().is_terminal(), no_color.as_deref(), term.as_deref());
        Self::new(out, Style { wide, colour })
    }

    /// A table on `out`.
    pub fn new(out: W, style: Style) -> Self {
        Self { out, style, headed: Vec::new(), row: String::new(), text: String::new() }
    }

    /// Writes the heading of `probe`'s table unless it is there already; its first row would do the same.
    ///
    /// # Errors
    /// The underlying stream's.
    pub fn heading(
        &mut self,
        probe: &'static str,
        columns: impl IntoIterator<Item = Column>,
    ) -> io::Result<()> {
        self.put_heading(probe, columns);
        self.write_text()
    }

    fn put_heading(&mut self, probe: &'static str, columns: impl IntoIterator<Item = Column>) {
        if !self.headed.contains(&probe) {
            self.headed.push(probe);
            let titles = columns.into_iter().map(|column| Cell { column, text: column.title.into() });
            self.put(titles, None);
        }
    }

    fn write_text(&mut self) -> io::Result<()> {
        let written = self.out.write_all(self.text.as_bytes());
        self.text.clear();
        written
    }

    fn put<'a>(&mut self, cells: impl Iterator<Item = Cell<'a>>, colour: Option<&str>) {
        self.row.clear();
        let mut cells = cells.filter(|cell| self.style.wide || !cell.column.wide).peekable();
        while let Some(cell) = cells.next() {
            let text = shown(&cell.text);
            if cells.peek().is_none() {
                self.row.push_str(&text);
                break;
            }
            let room = column_width(cell.column);
            let text = if self.style.wide { text } else { cut_middle(text, room) };
            self.row.push_str(&text);
            self.row.extend(std::iter::repeat_n(' ', room.saturating_sub(text_width(&text))));
            self.row.push_str(GAP);
        }
        self.put_row(colour);
    }

    /// An incident in words, folded to fit the terminal unless it may be wide.
    fn words(&mut self, text: &str, colour: Option<&str>) {
        let room = if self.style.wide { usize::MAX } else { TERMINAL };
        let [mut mark, further] = MARKS;
        self.row.clear();
        let mut used = 0;
        for word in shown(text).split(' ') {
            let width = text_width(word);
            if used > 0 && used + 1 + width > room {
                self.put_row(colour);
                self.row.clear();
                used = 0;
            }
            let before = if used == 0 { std::mem::replace(&mut mark, further) } else { " " };
            self.row.push_str(before);
            self.row.push_str(word);
            used += text_width(before) + width;
        }
        self.put_row(colour);
    }

    fn put_row(&mut self, colour: Option<&str>) {
        if let Some(start) = escape::cut(&self.row, MAX_LINE - 16) {
            let length = start.len();
            self.row.truncate(length);
            self.row.push(escape::CUT);
        }
        match colour {
            Some(code) => self.text.extend(["\x1b[", code, "m", &self.row, "\x1b[0m\n"]),
            None => self.text.extend([&self.row, "\n"]),
        }
    }
}

impl<W: Write + Send> Sink for TableSink<W> {
    fn write(&mut self, line: &Line<'_>) -> io::Result<Written> {
        let colour = match line.level {
            _ if !self.style.colour => None,
            Level::Info => None,
            Level::Warn => Some("33"),
            Level::Error => Some("31"),
        };
        if line.told == Told::Incident {
            let mut message = String::new();
            line.says.message(&mut message);
            self.words(&message, colour);
        } else {
            let mut cells = Vec::new();
            line.says.cells(&mut cells);
            self.put_heading(line.probe, cells.iter().map(|cell| cell.column));
            self.put(cells.into_iter(), colour);
        }
        Written::of(self.write_text())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A cell's text as a terminal may have it; `-` where there is none, so that a row can still be split at spaces.
fn shown(text: &str) -> Cow<'_, str> {
    // A cell is cut before it is escaped: a long one must not grow six-fold first.
    let short = escape::cut(text, MAX_LINE).unwrap_or(text);
    if short.is_empty() { "-".into() } else { escape::text(short) }
}

/// A column is never narrower than its title.
fn column_width(column: Column) -> usize {
    column.width.max(text_width(column.title))
}

/// Cells of a terminal that `text` takes.
fn text_width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

fn char_width(c: char) -> usize {
    c.width().unwrap_or(0)
}

/// `text` in at most `room` cells: the start and the end, `…` for what is between. Names differ at their ends.
fn cut_middle(text: Cow<'_, str>, room: usize) -> Cow<'_, str> {
    if text_width(&text) <= room {
        return text;
    }
    let left = room.saturating_sub(1).div_ceil(2);
    let right = room.saturating_sub(1) - left;
    let start = fitting(text.char_indices().map(|(at, c)| (at + c.len_utf8(), c)), left).unwrap_or(0);
    let end = fitting(text.char_indices().rev(), right).unwrap_or(text.len());
    Cow::Owned(format!("{}{}{}", &text[..start], escape::CUT, &text[end..]))
}

/// The last position of `chars` up to which they take no more than `room` cells.
fn fitting(chars: impl Iterator<Item = (usize, char)>, room: usize) -> Option<usize> {
    let mut taken = 0;
    chars
        .take_while(|(_, c)| {
            taken += char_width(*c);
            taken <= room
        })
        .last()
        .map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;
    use crate::incident::Span;
    use crate::sink::Saying;

    const COLUMNS: [Column; 4] = [
        Column { title: "TIME", width: 8, wide: false },
        Column { title: "POD", width: 12, wide: false },
        Column { title: "NETNS", width: 5, wide: true },
        Column { title: "WHY", width: 10, wide: false },
    ];

    fn cells(texts: [&str; 4]) -> Vec<Cell<'_>> {
        COLUMNS.into_iter().zip(texts).map(|(column, text)| Cell { column, text: text.into() }).collect()
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
        assert_eq!(table(Style::default(), &rows), expected);
        assert_eq!(width(&COLUMNS, false), 8 + 2 + 12 + 2 + 10);
    }

    #[test]
    fn wide_hides_and_cuts_nothing() {
        let rows = [(Level::Info, ["03:04:06", "kube-system/coredns-7c65d-x2x9z", "1", "why"])];
        let expected = "\
            TIME      POD           NETNS  WHY\n\
            03:04:06  kube-system/coredns-7c65d-x2x9z  1      why\n";
        assert_eq!(table(Style { wide: true, colour: false }, &rows), expected);
    }

    #[test]
    fn only_severity_is_coloured() {
        let row = ["t", "p", "n", "w"];
        let style = Style { wide: false, colour: true };
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
        let text = table(Style::default(), &rows);
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
    fn a_row_is_bounded() {
        let long = "\x1b".repeat(1 << 20);
        let text = table(Style { wide: true, colour: true }, &[(Level::Error, [&long, &long, &long, &long])]);
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
}
