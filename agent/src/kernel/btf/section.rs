//! The bytes of one BTF section: every length checked once at [`Section::parse`], every read checked again.
//!
//! Layout: `include/uapi/linux/btf.h`. Numbers are in the byte order of the machine that wrote the section.

use std::ffi::CStr;
use std::ops::Range;

use thiserror::Error;

use super::types::{BadType, Type, words};

/// vmlinux BTF of a distribution's kernel is 4 to 10 MB; four times the largest is not a kernel's.
pub(super) const MAX_BYTES: usize = 64 << 20;

/// The kernel's longest name (`KSYM_NAME_LEN`). Longer ones are none: a hostile section could otherwise point every type
/// at one long string and make a look-up quadratic.
const MAX_NAME: usize = 512;

/// Bits of a bucket's number, at most: twice as many of a kernel's types have a name as there are buckets then.
const MAX_BUCKET_BITS: u32 = 15;

/// Bytes a type has in the mean.
const TYPE: usize = 20;

pub(super) const MAGIC: u16 = 0xeb9f;
pub(super) const VERSION: u8 = 1;
/// magic, version, flags, `hdr_len`, then offset and length of types and of strings.
pub(super) const HEADER: usize = 24;

/// What is wrong with a BTF section.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Flaw {
    /// Fewer bytes than a header, or a header that says it is shorter than a header.
    #[error("ends within the header ({0} bytes)")]
    Header(usize),
    /// The first two bytes are not BTF's.
    #[error("begins with {0:#06x}, not with BTF's magic number")]
    Magic(u16),
    /// Written on a machine of the other byte order.
    #[error("is of the other byte order")]
    ByteOrder,
    /// A version of the format this reader does not know.
    #[error("has version {0}, this reader knows 1")]
    Version(u8),
    /// Type or string part reaches beyond the file.
    #[error("{part} end at byte {end}, the file at {file}")]
    Bounds {
        /// "types" or "strings".
        part: &'static str,
        /// Where the header says the part ends.
        end: u64,
        /// Bytes there are.
        file: usize,
    },
    /// The string part does not end with a zero byte.
    #[error("its strings do not end with a zero byte")]
    Strings,
    /// The type part ends within a type.
    #[error("type {id} is cut off")]
    CutType {
        /// Which type, counted from 1 in vmlinux.
        id: u32,
    },
    /// A kind of type this reader does not know, so that the types after it cannot be found.
    #[error("type {id} is of unknown kind {kind}")]
    Kind {
        /// Which type, counted from 1 in vmlinux.
        id: u32,
        /// `BTF_KIND_*`.
        kind: u32,
    },
    /// More than any kernel has.
    #[error("has {0} bytes, more than any kernel's")]
    TooLarge(usize),
}

/// A checked BTF section with its two indexes. No string is copied.
#[derive(Debug)]
pub(super) struct Section {
    bytes: Vec<u8>,
    /// Where in `bytes` the types are.
    types: Range<usize>,
    /// Where in `bytes` the strings are.
    strings: Range<usize>,
    /// Where among the types each one begins.
    starts: Vec<u32>,
    /// The last type in each bucket, as its index plus one; 0 if there is none. Types whose names begin alike share one.
    last: Vec<u32>,
    /// The type before each one in its bucket, likewise.
    before: Vec<u32>,
    /// Id of the first type: 1, or the one after the base's last.
    first_id: u32,
    /// String offset of the first string: 0, or the length of the base's strings.
    first_string: u32,
}

impl Section {
    /// Checks `bytes` and indexes them; on top of `base` for a module's section.
    pub(super) fn parse(bytes: Vec<u8>, base: Option<&Self>) -> Result<Self, Flaw> {
        if bytes.len() > MAX_BYTES {
            return Err(Flaw::TooLarge(bytes.len()));
        }
        let (types, strings) = split(&bytes)?;
        // A module may have no name of its own; a kernel has at least the empty one.
        match bytes.get(strings.clone()).unwrap_or_default().last() {
            Some(0) => {}
            None if base.is_some() => {}
            _ => return Err(Flaw::Strings),
        }
        let mut section = Self {
            bytes,
            types,
            strings,
            starts: Vec::new(),
            last: Vec::new(),
            before: Vec::new(),
            first_id: base.map_or(1, Self::end_id),
            first_string: base.map_or(0, Self::end_string),
        };
        section.index(base)?;
        Ok(section)
    }

    fn index(&mut self, base: Option<&Self>) -> Result<(), Flaw> {
        let types = self.types();
        let some = types.len() / TYPE;
        let (mut starts, mut before) = (Vec::with_capacity(some), Vec::with_capacity(some));
        // A module's section has a few types, and there are a hundred modules.
        let bits = (some / 2).max(2).ilog2().min(MAX_BUCKET_BITS);
        let mut last = vec![0; 1 << bits];
        let mut at = 0;
        while at < types.len() {
            let index = small(starts.len());
            let id = self.first_id.saturating_add(index);
            let (ty, end) = Type::read(types, at).map_err(|bad| match bad {
                BadType::Cut => Flaw::CutType { id },
                BadType::Kind(kind) => Flaw::Kind { id, kind },
            })?;
            let name = || self.strings_from(ty.name).or_else(|| base?.strings_from(ty.name));
            before.push(match ty.kind.is_indexed().then(name).flatten().and_then(hash) {
                Some(hash) => std::mem::replace(&mut last[bucket(hash, bits)], index.saturating_add(1)),
                None => 0,
            });
            starts.push(small(at));
            at = end;
        }
        starts.shrink_to_fit();
        before.shrink_to_fit();
        (self.starts, self.last, self.before) = (starts, last, before);
        Ok(())
    }

    fn types(&self) -> &[u8] {
        self.bytes.get(self.types.clone()).unwrap_or_default()
    }

    /// The id after the last.
    pub(super) fn end_id(&self) -> u32 {
        self.first_id.saturating_add(small(self.starts.len()))
    }

    pub(super) fn end_string(&self) -> u32 {
        self.first_string.saturating_add(small(self.strings.len()))
    }

    /// The type with this id, if it is of this section.
    pub(super) fn ty(&self, id: u32) -> Option<Type<'_>> {
        let index = usize::try_from(id.checked_sub(self.first_id)?).ok()?;
        let at = usize::try_from(*self.starts.get(index)?).ok()?;
        Type::read(self.types(), at).ok().map(|(ty, _)| ty)
    }

    /// The strings from this offset on, if it is of this section.
    fn strings_from(&self, offset: u32) -> Option<&[u8]> {
        let at = usize::try_from(offset.checked_sub(self.first_string)?).ok()?;
        self.bytes.get(self.strings.clone())?.get(at..)
    }

    /// The string at this offset, if it is of this section and no longer than a kernel's name may be.
    pub(super) fn string(&self, offset: u32) -> Option<&[u8]> {
        let rest = self.strings_from(offset)?;
        let name = rest.get(..MAX_NAME).unwrap_or(rest);
        CStr::from_bytes_until_nul(name).ok().map(CStr::to_bytes)
    }

    /// Ids of this section's types whose name may be `name`, highest first.
    pub(super) fn candidates(&self, name: &[u8]) -> impl Iterator<Item = u32> + '_ {
        let index = |plus_one: Option<&u32>| plus_one?.checked_sub(1);
        let bits = self.last.len().checked_ilog2();
        let last = hash(name).zip(bits).and_then(|(hash, bits)| index(self.last.get(bucket(hash, bits))));
        let indexes = std::iter::successors(last, move |at| index(self.before.get(*at as usize)));
        indexes.map(|index| self.first_id.saturating_add(index))
    }
}

/// A number for a name, which may have a zero byte and anything after it; `None` if it is empty. It goes by the first
/// eight bytes: where the rest of a name ends is of no interest for nearly all of a kernel's types.
fn hash(name: &[u8]) -> Option<u64> {
    let mut first = [0; 8];
    let len = name.len().min(8);
    first[..len].copy_from_slice(&name[..len]);
    let first = u64::from_le_bytes(first);
    // The lowest of these bits is that of the first zero byte.
    let zeros = first.wrapping_sub(0x0101_0101_0101_0101) & !first & 0x8080_8080_8080_8080;
    let before_zero = if zeros == 0 { u64::MAX } else { ((zeros & zeros.wrapping_neg()) - 1) >> 7 };
    let name = first & before_zero;
    // Multiplied by 2^64 divided by the golden ratio, numbers that differ anywhere differ in the upper bits.
    (name != 0).then(|| name.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// One of 2^`bits` buckets, of which there are two or more.
#[expect(clippy::cast_possible_truncation, reason = "at most fifteen bits")]
fn bucket(hash: u64, bits: u32) -> usize {
    (hash >> (u64::BITS - bits)) as usize
}

/// Where the header places types and strings; both are within `bytes`.
fn split(bytes: &[u8]) -> Result<(Range<usize>, Range<usize>), Flaw> {
    let short = Flaw::Header(bytes.len());
    let header = bytes.first_chunk::<HEADER>().ok_or(short.clone())?;
    let [magic, header_len, type_offset, type_len, string_offset, string_len] = words(header);
    let [first, second, version, _flags] = magic.to_ne_bytes();
    match u16::from_ne_bytes([first, second]) {
        MAGIC => {}
        other if other.swap_bytes() == MAGIC => return Err(Flaw::ByteOrder),
        other => return Err(Flaw::Magic(other)),
    }
    if version != VERSION {
        return Err(Flaw::Version(version));
    }
    if u64::from(header_len) < HEADER as u64 {
        return Err(short);
    }
    let part = |part, offset: u32, len: u32| {
        let start = u64::from(header_len) + u64::from(offset);
        let end = start + u64::from(len);
        let range = usize::try_from(start).unwrap_or(usize::MAX)..usize::try_from(end).unwrap_or(usize::MAX);
        if range.end > bytes.len() {
            return Err(Flaw::Bounds { part, end, file: bytes.len() });
        }
        Ok(range)
    };
    Ok((part("types", type_offset, type_len)?, part("strings", string_offset, string_len)?))
}

/// Every length here is below [`MAX_BYTES`].
pub(super) fn small(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
