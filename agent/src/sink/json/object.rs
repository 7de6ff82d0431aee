//! Compact JSON, one object at a time, in which unsafe characters beyond ASCII are `\uXXXX` too: the value is the same to
//! a parser, and a terminal that shows the raw line has nothing to obey.

use std::fmt::Display;
use std::io::Write as _;
use std::net::IpAddr;

use crate::digits;
use crate::pod::Pod;
use crate::sink::escape;

/// An object being appended to a line.
pub(super) struct Object<'a> {
    out: &'a mut Vec<u8>,
    /// What stands before the next key.
    before: u8,
    limit: usize,
    cut: bool,
}

impl<'a> Object<'a> {
    /// Begins one in which a text has at most `limit` bytes.
    pub(super) fn begin(out: &'a mut Vec<u8>, limit: usize) -> Self {
        Self { out, before: b'{', limit, cut: false }
    }

    /// Whether a text was longer than that.
    pub(super) fn has_cut(&self) -> bool {
        self.cut
    }

    /// A key. One value must follow.
    pub(super) fn key(&mut self, key: &str) -> &mut Self {
        self.out.push(self.before);
        self.before = b',';
        string(self.out, key);
        self.out.push(b':');
        self
    }

    /// `text`, or as much of it as one text may have.
    pub(super) fn text(&mut self, text: &str) {
        match escape::cut(text, self.limit) {
            None => string(self.out, text),
            Some(start) => {
                self.cut = true;
                string(self.out, &format!("{start}{}", escape::CUT));
            }
        }
    }

    pub(super) fn text_or_null(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.text(text),
            None => self.raw(b"null"),
        }
    }

    /// The name of a pod, whole: it is Kubernetes' and short.
    pub(super) fn pod(&mut self, pod: &Pod) {
        self.raw(b"{\"namespace\":");
        string(self.out, &pod.namespace);
        self.raw(b",\"pod\":");
        string(self.out, &pod.name);
        self.raw(b"}");
    }

    pub(super) fn number(&mut self, number: u64) {
        self.raw(digits::decimal(number).as_bytes());
    }

    pub(super) fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => {
                self.raw(b"\"");
                self.raw(digits::ipv4(address).as_bytes());
                self.raw(b"\"");
            }
            IpAddr::V6(address) => self.quoted(&address),
        }
    }

    /// What is shown without any character that would have to be escaped.
    pub(super) fn quoted(&mut self, shown: &dyn Display) {
        // Writing to a Vec cannot fail.
        let _ = write!(self.out, "\"{shown}\"");
    }

    /// A value that is JSON already.
    pub(super) fn raw(&mut self, json: &[u8]) {
        self.out.extend_from_slice(json);
    }

    pub(super) fn end(self) {
        self.out.push(b'}');
    }
}

/// Whether a byte stands for itself in a string. What is beyond ASCII is looked at as a character.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0x20;
    while byte < 0x7f {
        plain[byte] = byte != b'"' as usize && byte != b'\\' as usize;
        byte += 1;
    }
    plain
};

fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text;
    while let Some(at) = rest.bytes().position(|byte| !PLAIN[usize::from(byte)]) {
        // All before it is ASCII, so it begins a character.
        let (plain, tail) = rest.split_at(at);
        out.extend_from_slice(plain.as_bytes());
        let mut chars = tail.chars();
        if let Some(c) = chars.next() {
            character(out, c);
        }
        rest = chars.as_str();
    }
    out.extend_from_slice(rest.as_bytes());
    out.push(b'"');
}

fn character(out: &mut Vec<u8>, c: char) {
    let short = match c {
        '"' | '\\' => c as u8,
        '\u{8}' => b'b',
        '\t' => b't',
        '\n' => b'n',
        '\u{c}' => b'f',
        '\r' => b'r',
        _ if escape::is_unsafe(c) => {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.extend_from_slice(b"\\u");
                out.extend_from_slice(digits::hex::<4>(u128::from(*unit)).as_bytes());
            }
            return;
        }
        _ => return out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    };
    out.extend_from_slice(&[b'\\', short]);
}

#[cfg(test)]
mod tests {
    use std::io;

    use proptest::prelude::*;
    use serde::Serialize as _;
    use serde_json::ser::Formatter;

    use super::*;

    /// What `serde_json` writes, with unsafe characters beyond what JSON escapes written out.
    fn expected(text: &str) -> Vec<u8> {
        struct Safe;
        impl Formatter for Safe {
            fn write_string_fragment<W: ?Sized + io::Write>(
                &mut self,
                out: &mut W,
                text: &str,
            ) -> io::Result<()> {
                for c in text.chars() {
                    if escape::is_unsafe(c) {
                        c.encode_utf16(&mut [0; 2])
                            .iter()
                            .try_for_each(|unit| write!(out, "\\u{unit:04x}"))?;
                    } else {
                        write!(out, "{c}")?;
                    }
                }
                Ok(())
            }
        }
        let mut out = Vec::new();
        text.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Safe)).unwrap();
        out
    }

    fn is_as_expected(text: &str) {
        let mut out = Vec::new();
        string(&mut out, text);
        assert_eq!(String::from_utf8(out).unwrap(), String::from_utf8(expected(text)).unwrap());
    }

    #[test]
    fn each_character_is_escaped_as_serde_json_would() {
        (char::MIN..=char::MAX).for_each(|c| is_as_expected(c.encode_utf8(&mut [0; 4])));
    }

    proptest! {
        #[test]
        fn each_text_is_escaped_as_serde_json_would(text: String) {
            is_as_expected(&text);
        }
    }

    #[test]
    fn an_object_is_what_serde_json_reads() {
        let pod = Pod { namespace: "shop".into(), name: "web-\"0".into(), uid: "u".into() };
        let mut out = Vec::new();
        let mut object = Object::begin(&mut out, 5);
        object.key("a\n").text("sixfold");
        object.key("b").text_or_null(None);
        object.key("c").pod(&pod);
        object.key("d").number(u64::MAX);
        object.key("e").address([10, 0, 0, 255].into());
        object.key("f").address("fe80::1".parse().unwrap());
        object.key("g").raw(b"true");
        assert!(object.has_cut());
        object.end();
        let expected = serde_json::json!({
            "a\n": "sixfo…", "b": null, "c": {"namespace": "shop", "pod": "web-\"0"}, "d": u64::MAX,
            "e": "10.0.0.255", "f": "fe80::1", "g": true,
        });
        assert_eq!(String::from_utf8(out).unwrap(), expected.to_string());
    }
}
