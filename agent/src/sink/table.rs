//! One table row an event, for a terminal.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io::{self, IsTerminal as _, Write};
use std::os::fd::AsFd as _;

use super::{Cell, Column, Level, Line, Sink, Told, Written, escape, json::MAX_LINE};

mod width;

pub use width::width;
use width::{TERMINAL, fitted, joined, spread, text_width};

/// Between two columns.
const GAP: &str = "  ";

/// What begins an incident's words, and their further lines.
const MARKS: [&str; 2] = ["=> ", "   "];

/// How a table looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// All columns, and no cell cut (`-o wide`).
    pub wide: bool,
    /// Rows that matter in colour: see [`wants_colour`].
    pub colour: bool,
    /// Characters of a line, which columns grow to and incidents are folded to.
    pub width: usize,
}

impl Default for Style {
    /// For a terminal of 80, plain.
    fn default() -> Self {
        Self { wide: false, colour: false, width: TERMINAL }
    }
}

/// Whether to colour: only a terminal, and only if `NO_COLOR` is empty or unset and `TERM` can do it.
#[must_use]
pub fn wants_colour(is_terminal: bool, no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    is_terminal
        && no_color.is_none_or(OsStr::is_empty)
        && term.is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// Writes each line as a row under the heading of its probe, all of its text with one call of `write`.
#[derive(Debug)]
pub struct TableSink<W: Write> {
    out: W,
    style: Style,
    /// The tables that have their heading, and the widths of the columns that each shows.
    headed: Vec<(&'static str, Vec<usize>)>,
    row: String,
    /// Whole rows that are to be written.
    text: String,
}

/// Characters of a line on stdout: the terminal's, else those of the variable COLUMNS, else 80.
#[must_use]
pub fn width_of_stdout() -> usize {
    width::terminal(io::stdout().as_fd(), std::env::var_os("COLUMNS").as_deref())
}

impl<W: Write> TableSink<W> {
    /// On `out`, which leads to stdout: as wide as that is, in colour if it is a terminal that can do it and nobody objects.
    #[must_use]
    pub fn like_stdout(out: W, wide: bool) -> Self {
        let stdout = io::stdout();
        let (no_color, term) = (std::env::var_os("NO_COLOR"), std::env::var_os("TERM"));
        let colour = wants_colour(stdout.is_terminal(), no_color.as_deref(), term.as_deref());
        let width = width_of_stdout();
        Self::new(out, Style { wide, colour, width })
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

    fn write_text(&mut self) -> io::Result<()> {
        let written = self.out.write_all(self.text.as_bytes());
        self.text.clear();
        written
    }

    fn put_heading(&mut self, probe: &'static str, columns: impl IntoIterator<Item = Column>) {
        if self.headed.iter().any(|(headed, _)| *headed == probe) {
            return;
        }
        let shown = columns.into_iter().filter(|column| self.style.wide || !column.wide);
        let shown: Vec<Column> = shown.collect();
        // In a wide table nothing is cut: what is longer moves what is behind it.
        let room = if self.style.wide { 0 } else { self.style.width };
        let widths = spread(&shown, room);
        let titles: Vec<Cell<'_>> =
            shown.into_iter().map(|column| Cell::whole(column, column.title)).collect();
        self.put(&titles, &widths, None);
        self.headed.push((probe, widths));
    }

    /// One row. What is too long and may not be cut takes its room from the blanks behind it.
    fn put(&mut self, cells: &[Cell<'_>], widths: &[usize], colour: Option<&str>) {
        self.row.clear();
        let wide = self.style.wide;
        let mut cells = cells.iter().filter(|cell| wide || !cell.column.wide).zip(widths).peekable();
        let mut late = 0_usize;
        while let Some((cell, room)) = cells.next() {
            if cells.peek().is_none() {
                self.row.push_str(&joined(shown(&cell.text), shown(&cell.tail)));
                break;
            }
            let text = if wide { joined(shown(&cell.text), shown(&cell.tail)) } else { fitted(cell, *room) };
            let taken = text_width(&text);
            let blanks = room.saturating_sub(taken);
            self.row.push_str(&text);
            self.row.extend(std::iter::repeat_n(' ', blanks.saturating_sub(late)));
            self.row.push_str(GAP);
            if !wide {
                late = late.saturating_sub(blanks) + taken.saturating_sub(*room);
            }
        }
        self.put_row(colour);
    }

    /// An incident in words, folded to fit the terminal unless it may be wide. A command stays on one line, however long: half
    /// of one, pasted, may do something else.
    fn words(&mut self, text: &str, colour: Option<&str>) {
        let room = if self.style.wide { usize::MAX } else { self.style.width };
        let [mut mark, further] = MARKS;
        self.row.clear();
        let mut used = 0;
        let shown = joined(shown(text), "".into());
        let mut is_command = false;
        let words = shown.split(|c| {
            is_command ^= c == '`';
            c == ' ' && !is_command
        });
        for word in words {
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
            let headed = self.headed.iter().find(|(headed, _)| *headed == line.probe);
            let widths = headed.map(|(_, widths)| widths.clone()).unwrap_or_default();
            self.put(&cells, &widths, colour);
        }
        Written::of(self.write_text())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A cell's text as a terminal may have it.
fn shown(text: &str) -> Cow<'_, str> {
    // A cell is cut before it is escaped: a long one must not grow six-fold first.
    let short = escape::cut(text, MAX_LINE).unwrap_or(text);
    escape::text(short)
}

#[cfg(test)]
mod tests;
