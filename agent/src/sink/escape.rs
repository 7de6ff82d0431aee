//! Makes hostile text safe to show: nothing a terminal or a log viewer would obey gets out raw.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The mark left where text was cut.
pub const CUT: char = '…';

/// Whether `c` must never be written raw: it would be obeyed (control, bidirectional), break a line, or be invisible.
///
/// Unicode's general categories Cc, Cf, Zl and Zp and the property `Default_Ignorable_Code_Point`, version 16.
#[must_use]
pub const fn is_unsafe(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    matches!(c,
        // C1 controls: a lone 0x9b is "escape [" to some terminals.
        '\u{80}'..='\u{9f}'
        // Soft hyphen, grapheme joiner, and the letters' own format marks.
        | '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}'
        | '\u{890}'..='\u{891}' | '\u{8e2}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}'
        // Zero width, line and paragraph separators, bidirectional marks, overrides and isolates.
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        // Fillers, variation selectors, byte order mark, interlinear annotation.
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
        // Format marks beyond the basic plane, musical and shorthand controls, tags.
        | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// `text` with each unsafe character written out: `\xNN` below 0x80, `\u{..}` above.
///
/// What it returns is left alone by a second call, so that text which [`bytes`] already treated is not escaped twice;
/// for this a backslash stays as it is.
#[must_use]
pub fn text(text: &str) -> Cow<'_, str> {
    let Some(first) = text.find(is_unsafe) else { return Cow::Borrowed(text) };
    let (clean, rest) = text.split_at(first);
    let mut shown = String::with_capacity(text.len() + 16);
    shown.push_str(clean);
    for c in rest.chars() {
        // Writing to a String cannot fail.
        let _ = match (is_unsafe(c), c.is_ascii()) {
            (false, _) => shown.write_char(c),
            (true, true) => write!(shown, "\\x{:02x}", u32::from(c)),
            (true, false) => write!(shown, "\\u{{{:x}}}", u32::from(c)),
        };
    }
    Cow::Owned(shown)
}

/// Bytes the kernel or a pod made, as text: each byte that is not UTF-8 becomes `\xNN`.
///
/// Control characters that are valid UTF-8 stay: each sink escapes them in its own way.
#[must_use]
pub fn bytes(raw: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = str::from_utf8(raw) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(raw.len() + 16);
    for chunk in raw.utf8_chunks() {
        shown.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(shown, "\\x{byte:02x}");
        }
    }
    Cow::Owned(shown)
}

/// The start of `text`, at most `max` bytes of it and whole characters only; `None` if all of it fits.
#[must_use]
pub fn cut(text: &str, max: usize) -> Option<&str> {
    (text.len() > max).then(|| &text[..text.floor_char_boundary(max)])
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What ends a line, moves a cursor or turns the text around: C0, DEL, C1, line and paragraph separator, and the marks,
    /// overrides and isolates of bidirectional text.
    pub(in crate::sink) fn obeyed() -> impl Iterator<Item = char> {
        let ranges =
            [0..=0x1f, 0x7f..=0x9f, 0x200e..=0x200f, 0x2028..=0x2029, 0x202a..=0x202e, 0x2066..=0x2069];
        ranges.into_iter().flatten().chain([0x61c]).filter_map(char::from_u32)
    }

    #[test]
    fn each_of_them_is_written_out_and_what_is_beside_them_is_not() {
        assert_eq!(obeyed().count(), 32 + 33 + 2 + 2 + 5 + 4 + 1);
        for c in obeyed() {
            assert!(is_unsafe(c), "{c:?}");
            assert!(!text(&format!("a{c}b")).contains(c), "{c:?}");
        }
        for c in [' ', '~', '\u{a0}', '\u{200a}', '\u{2010}', '\u{2027}', '\u{202f}'] {
            assert!(!is_unsafe(c), "{c:?} is a letter or a blank");
        }
    }

    #[test]
    fn what_a_terminal_obeys_is_written_out() {
        assert_eq!(text("web\x1b[2J\r\nok"), "web\\x1b[2J\\x0d\\x0aok");
        assert_eq!(text("\x7f\u{85}\u{9b}"), "\\x7f\\u{85}\\u{9b}");
        assert_eq!(text("a\u{202e}b\u{2066}\u{200f}\u{61c}"), "a\\u{202e}b\\u{2066}\\u{200f}\\u{61c}");
        assert_eq!(text("\u{2028}\u{200b}\u{feff}\u{e0041}"), "\\u{2028}\\u{200b}\\u{feff}\\u{e0041}");
    }

    #[test]
    fn what_is_harmless_stays_and_is_not_copied() {
        for harmless in ["", "default/web-0", "naïve 日本 🦀 \\x41", "a b"] {
            assert!(matches!(text(harmless), Cow::Borrowed(same) if same == harmless));
            assert!(matches!(bytes(harmless.as_bytes()), Cow::Borrowed(same) if same == harmless));
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_are_named() {
        assert_eq!(bytes(b"eth\xff\xfe0"), "eth\\xff\\xfe0");
        assert_eq!(bytes(b"\xe2\x82"), "\\xe2\\x82");
        assert_eq!(bytes(b"\xc3\xa9\x1b\xc3"), "é\u{1b}\\xc3");
    }

    #[test]
    fn a_cut_never_splits_a_character() {
        assert_eq!(cut("日本", 6), None);
        assert_eq!(cut("日本", 5), Some("日"));
        assert_eq!(cut("日本", 2), Some(""));
    }

    proptest! {
        #[test]
        fn nothing_unsafe_gets_through_and_once_is_enough(raw: Vec<u8>) {
            let decoded = bytes(&raw);
            let once = text(&decoded);
            prop_assert!(!once.contains(is_unsafe));
            prop_assert_eq!(text(&once), &once[..]);
        }

        #[test]
        fn every_control_character_is_unsafe(c: char) {
            prop_assert!(is_unsafe(c) || !c.is_control());
        }
    }
}
