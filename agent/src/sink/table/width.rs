//! How wide a table is: the terminal, its columns, and what of a name fits.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::libc;
use unicode_width::UnicodeWidthChar;

use super::GAP;
use crate::sink::{Cell, Column, escape};

/// Columns of a terminal that does not say how many it has, and what all columns fit in.
pub(super) const TERMINAL: usize = 80;
/// Widths that are believed; of others a table would be no table.
const SANE: std::ops::RangeInclusive<usize> = 40..=500;
/// Characters that are left of a name, however long what is behind it: less of it names nothing.
const LEAST_NAME: usize = 7;

/// The width of what is written to `out`: of the terminal it is, else of `columns` (the variable COLUMNS), else 80.
pub(super) fn terminal(out: BorrowedFd<'_>, columns: Option<&OsStr>) -> usize {
    let columns = || columns?.to_str()?.parse().ok();
    [window(out), columns()].into_iter().flatten().find(|width| SANE.contains(width)).unwrap_or(TERMINAL)
}

fn window(out: BorrowedFd<'_>) -> Option<usize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel writes one `winsize`, which outlives the call, or refuses what is no terminal.
    let status = unsafe { libc::ioctl(out.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (status == 0).then_some(size.ws_col.into())
}

/// Characters a row of these columns takes up to the last one, which is as long as its text.
///
/// A probe's test holds this against a terminal's 80 characters.
#[must_use]
pub fn width(columns: &[Column], wide: bool) -> usize {
    let shown = columns.iter().filter(|column| wide || !column.wide);
    shown.map(|column| least(*column) + GAP.len()).sum::<usize>().saturating_sub(GAP.len())
}

/// The width of each of these columns on a terminal of `room`: what is left over goes, one by one, to those that may grow.
pub(super) fn spread(columns: &[Column], room: usize) -> Vec<usize> {
    let mut widths: Vec<usize> = columns.iter().map(|column| least(*column)).collect();
    let gaps = GAP.len() * columns.len().saturating_sub(1);
    let mut left = room.saturating_sub(widths.iter().sum::<usize>() + gaps);
    while left > 0 {
        let before = left;
        for (width, column) in widths.iter_mut().zip(columns) {
            if *width < column.most && left > 0 {
                *width += 1;
                left -= 1;
            }
        }
        if left == before {
            break;
        }
    }
    widths
}

/// A column is never narrower than its title.
fn least(column: Column) -> usize {
    column.width.max(text_width(column.title))
}

/// A cell's text in `room`, escaped. What is not a name is whole, and may be longer.
pub(super) fn fitted<'a>(cell: &'a Cell<'_>, room: usize) -> Cow<'a, str> {
    let (name, tail) = (super::shown(&cell.text), super::shown(&cell.tail));
    let name = if cell.column.whole {
        name
    } else {
        let room = room.saturating_sub(text_width(&tail)).max(LEAST_NAME.min(room));
        cut_middle(name, room)
    };
    joined(name, tail)
}

/// Both parts of a cell; `-` where there is nothing, so that a row can still be split at spaces.
pub(super) fn joined<'a>(name: Cow<'a, str>, tail: Cow<'a, str>) -> Cow<'a, str> {
    match (name.is_empty(), tail.is_empty()) {
        (true, true) => "-".into(),
        (false, true) => name,
        (true, false) => tail,
        (false, false) => name + tail,
    }
}

/// Cells of a terminal that `text` takes.
pub(super) fn text_width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

fn char_width(c: char) -> usize {
    c.width().unwrap_or(0)
}

/// `text` in at most `room` cells: the start and the end, `…` for what is between. Names differ at their ends.
pub(super) fn cut_middle(text: Cow<'_, str>, room: usize) -> Cow<'_, str> {
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
