//! Lines of a child as it writes them, and lines folded to fit a terminal.

use std::io::{BufRead as _, BufReader, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};

/// Silence that means a failure. The longest is that of two agents which start at once: an emulated 6.1 takes two seconds
/// a hook, one after another; all else comes within seconds.
pub(super) const LIMIT: Duration = Duration::from_secs(90);

/// What begins a folded line's further rows.
const INDENT: &str = "  ";

/// Columns of the narrowest terminal that is to show everything.
const WIDTH: usize = 80;

/// What a child writes to one of its streams. Read all the time, so that the child never blocks on a full pipe.
pub(super) struct Lines(Receiver<String>);

impl Lines {
    pub(super) fn of(stream: impl Read + Send + 'static) -> Self {
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self(lines)
    }

    /// Waits for the next line; `None` at the stream's end.
    pub(super) fn next(&self) -> Result<Option<String>> {
        match self.0.recv_timeout(LIMIT) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!("nothing was said for {} s", LIMIT.as_secs()),
        }
    }

    /// All that still comes, to the stream's end.
    pub(super) fn rest(&self) -> Result<Vec<String>> {
        let mut rest = Vec::new();
        while let Some(line) = self.next()? {
            rest.push(line);
        }
        Ok(rest)
    }
}

/// Folds a line at commas and spaces so that it fits the terminal; what follows its first row is indented.
pub(super) fn fold(line: &str) -> String {
    let mut folded = String::new();
    let mut used = 0;
    for piece in line.split_inclusive([',', ' ']) {
        let width = piece.trim_end().chars().count();
        if used > 0 && used + width > WIDTH {
            folded.truncate(folded.trim_end().len());
            folded.push('\n');
            folded.push_str(INDENT);
            used = INDENT.len();
        }
        folded.push_str(piece);
        used += piece.chars().count();
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::{Lines, WIDTH, fold};

    #[test]
    fn a_folded_line_fits_and_loses_nothing() {
        let line = format!("{{\"message\":\"{}\",\"last\":1}}", "some words, ".repeat(30));
        let folded = fold(&line);
        assert!(folded.lines().count() > 4);
        assert!(folded.lines().all(|row| row.len() <= WIDTH), "{folded}");
        let bare = |text: &str| text.replace([' ', '\n'], "");
        assert_eq!(bare(&folded), bare(&line));
        assert_eq!(fold("short, line"), "short, line");
    }

    #[test]
    fn the_end_is_told_from_a_line() {
        let lines = Lines::of(&b"one\ntwo"[..]);
        assert_eq!(lines.next().unwrap().as_deref(), Some("one"));
        assert_eq!(lines.next().unwrap().as_deref(), Some("two"));
        assert_eq!(lines.next().unwrap(), None);
    }
}
