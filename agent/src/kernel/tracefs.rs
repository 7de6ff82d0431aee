//! Reads tracepoint formats from tracefs: where the fields are, and which names their values have.
//!
//! For kernels without BTF; those with it answer the same questions through [`super::btf`].

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

#[cfg(test)]
mod tests;

/// The kernel's largest format (with a table of a thousand names) is some 60 KB.
const MAX_BYTES: u64 = 1 << 20;

/// Why a tracepoint's format is not known.
#[derive(Debug, Error)]
pub enum TracefsError {
    /// No such tracepoint, or no right to read it.
    #[error("{}: {source}", file.display())]
    Read {
        /// The format file.
        file: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Not a format.
    #[error("{} {flaw}", file.display())]
    Broken {
        /// The format file.
        file: PathBuf,
        /// What is wrong with it.
        flaw: FormatFlaw,
    },
}

/// What is wrong with a format's text.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum FormatFlaw {
    /// Not UTF-8; the kernel writes ASCII.
    #[error("is not text")]
    NotText,
    /// No line `ID: <number>`.
    #[error("has no ID")]
    NoId,
    /// No line is a field.
    #[error("has no fields")]
    NoFields,
}

/// A mounted tracefs.
#[derive(Clone, Debug)]
pub struct Tracefs {
    root: PathBuf,
}

impl Tracefs {
    /// Finds tracefs below `sys` (`/sys`): on its own, or in debugfs as before 4.1.
    #[must_use]
    pub fn find(sys: &Path) -> Option<Self> {
        let places = ["kernel/tracing", "kernel/debug/tracing"];
        places
            .into_iter()
            .map(|place| sys.join(place))
            .find(|root| root.join("events").is_dir())
            .map(|root| Self { root })
    }

    /// Reads the format of one tracepoint: `format("skb", "kfree_skb")`.
    ///
    /// # Errors
    /// There is no such tracepoint, the agent may not read it, or its text is not a format.
    pub fn format(&self, category: &str, name: &str) -> Result<Format, TracefsError> {
        let file = self.root.join("events").join(category).join(name).join("format");
        let mut bytes = Vec::new();
        let read = File::open(&file).and_then(|open| open.take(MAX_BYTES).read_to_end(&mut bytes));
        match read {
            Ok(_) => Format::parse(&bytes).map_err(|flaw| TracefsError::Broken { file, flaw }),
            Err(source) => Err(TracefsError::Read { file, source }),
        }
    }
}

/// A tracepoint's record, as perf and BPF's `tracepoint` programs see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    /// What `perf_event_open` wants in `config`.
    pub id: u32,
    /// In the order of the record, the `common_` ones first.
    pub fields: Vec<Field>,
    /// How the kernel prints a record.
    print: String,
}

/// One field of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name, without type and array length.
    pub name: String,
    /// Bytes from the record's start.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
    /// Whether the kernel calls it signed.
    pub signed: bool,
}

impl Format {
    /// Parses the text of a `format` file. Lines that are not understood are passed over.
    ///
    /// # Errors
    /// It has no id or no field.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatFlaw> {
        let text = std::str::from_utf8(bytes).map_err(|_| FormatFlaw::NotText)?;
        let id = text.lines().find_map(|line| line.strip_prefix("ID:")?.trim().parse().ok());
        let fields: Vec<Field> = text.lines().filter_map(Field::parse).collect();
        // The last part of the file, and the only one that may hold more than one line.
        let print = text.split_once("print fmt:").map_or("", |(_, print)| print.trim());
        match id {
            None => Err(FormatFlaw::NoId),
            Some(_) if fields.is_empty() => Err(FormatFlaw::NoFields),
            Some(id) => Ok(Self { id, fields, print: print.to_owned() }),
        }
    }

    /// The field of this name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// Values and names of a field printed by `__print_symbolic(REC-><field>, { 1, "ONE" }, ...)`; empty if it is not.
    ///
    /// Values that the kernel left as C names are passed over: what they are is not in the text.
    #[must_use]
    pub fn symbols(&self, field: &str) -> Vec<(u64, String)> {
        let tables = self.print.split("__print_symbolic(").skip(1);
        let table = tables.filter_map(|call| {
            call.trim_start().strip_prefix("REC->")?.strip_prefix(field)?.trim_start().strip_prefix(',')
        });
        table.take(1).flat_map(pairs).collect()
    }
}

impl Field {
    /// A line such as `field:char comm[16]; offset:8; size:16; signed:0;`, with tabs between its parts.
    fn parse(line: &str) -> Option<Self> {
        let mut parts = line.trim().strip_prefix("field:")?.split(';').map(str::trim);
        let declaration = parts.next()?;
        let (mut offset, mut size, mut signed) = (None, None, None);
        for (key, value) in parts.filter_map(|part| part.split_once(':')) {
            match key {
                "offset" => offset = value.parse().ok(),
                "size" => size = value.parse().ok(),
                "signed" => signed = Some(value == "1"),
                _ => {}
            }
        }
        // `__data_loc char[] name` has its brackets at the type, `char comm[16]` at the name.
        let named =
            declaration.split('[').next().filter(|_| declaration.ends_with(']')).unwrap_or(declaration);
        let name = named.rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_').next()?;
        (!name.is_empty()).then_some(())?;
        Some(Self { name: name.to_owned(), offset: offset?, size: size?, signed: signed? })
    }
}

/// The `{ value, "NAME" }` at the start of `text`, up to the first thing that is none.
fn pairs(text: &str) -> impl Iterator<Item = (u64, String)> {
    let mut rest = text;
    let pair = std::iter::from_fn(move || {
        let (value, after) = rest.trim_start().strip_prefix('{')?.split_once(',')?;
        let (name, after) = after.trim_start().strip_prefix('"')?.split_once('"')?;
        let after = after.trim_start().strip_prefix('}')?.trim_start();
        rest = after.strip_prefix(',').unwrap_or_default();
        Some((number(value), name))
    });
    pair.filter_map(|(value, name)| Some((value?, name.to_owned())))
}

/// A C number: decimal or hexadecimal, perhaps negative (then two's complement), perhaps with a suffix.
fn number(text: &str) -> Option<u64> {
    let digits = text.trim().trim_end_matches(['u', 'U', 'l', 'L']);
    match (digits.strip_prefix("0x"), digits.starts_with('-')) {
        (Some(hex), _) => u64::from_str_radix(hex, 16).ok(),
        (None, true) => digits.parse::<i64>().ok().map(i64::cast_unsigned),
        (None, false) => digits.parse().ok(),
    }
}
