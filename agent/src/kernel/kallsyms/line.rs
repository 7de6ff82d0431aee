//! The lines of `/proc/kallsyms` that are text symbols.

use std::io::{BufRead, Read as _};
use std::ops::ControlFlow;

use super::SymbolsError;

/// A line is an address, a letter, a name (`KSYM_NAME_LEN`, 512) and a module (64). A longer one is not the kernel's.
const MAX_LINE: u64 = 1024;

/// Padding that compilers put before each function, with a name but without code of its own: half of all symbols.
const PADDING: [&str; 2] = ["__pfx_", "__cfi_"];

/// Goes through the text symbols for as long as `visit` wants more.
pub(super) fn each(
    mut reader: impl BufRead,
    mut visit: impl FnMut(&Line<'_>) -> Result<ControlFlow<()>, SymbolsError>,
) -> Result<(), SymbolsError> {
    let mut line = Vec::new();
    while reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? > 0 {
        if let Some(symbol) = Line::parse(&line)
            && visit(&symbol)?.is_break()
        {
            break;
        }
        line.clear();
    }
    Ok(())
}

/// A line that is a text symbol.
pub(super) struct Line<'a> {
    pub(super) address: u64,
    pub(super) name: &'a str,
    pub(super) module: Option<&'a str>,
}

impl<'a> Line<'a> {
    /// What a line is not kept for is looked at first: half of the hundreds of thousands read at each start are padding.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let (digits, rest) = line.split_at(line.iter().position(|byte| *byte == b' ')?);
        let [b' ', b't' | b'T' | b'w' | b'W', b' ', rest @ ..] = rest else { return None };
        if PADDING.iter().any(|prefix| rest.starts_with(prefix.as_bytes())) {
            return None;
        }
        let rest = rest.strip_suffix(b"\n").unwrap_or(rest);
        let (name, module) = match rest.strip_suffix(b"]") {
            Some(both) => {
                let tab = both.iter().position(|byte| *byte == b'\t')?;
                (both.get(..tab)?, both.get(tab + 1..)?.strip_prefix(b"["))
            }
            None => (rest, None),
        };
        let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty())?;
        Some(Self {
            address: hex(digits)?,
            name,
            module: module.and_then(|name| std::str::from_utf8(name).ok()),
        })
    }
}

fn hex(digits: &[u8]) -> Option<u64> {
    if !(1..=16).contains(&digits.len()) {
        return None;
    }
    digits.iter().try_fold(0, |number, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u64::from(digit))
    })
}
