//! The bytes of one BTF section: every length checked once at [`Section::parse`], every read checked again.
//!
//! Layout: `include/uapi/linux/btf.h`. Numbers are in the byte order of the machine that wrote the section.

use std::ffi::CStr;
use std::ops::Range;

use thiserror::Error;

/// vmlinux BTF of a distribution's kernel is 4 to 10 MB; four times the largest is not a kernel's.
pub(super) const MAX_BYTES: usize = 64 << 20;

/// The kernel's longest name (`KSYM_NAME_LEN`). Longer ones are none: a hostile section could otherwise point every type
/// at one long string and make a look-up quadratic.
const MAX_NAME: usize = 512;

/// Bits of a bucket's number, at most: twice as many of a kernel's types have a name as there are buckets then.
const MAX_BUCKET_BITS: u32 = 15;

/// Bytes a type has in the mean.
const TYPE: usize = 20;

const MAGIC: u16 = 0xeb9f;
const VERSION: u8 = 1;
/// magic, version, flags, `hdr_len`, then offset and length of types and of strings.
const HEADER: usize = 24;
/// `name_off`, `info`, `size` or `type`.
const TYPE_HEADER: usize = 12;

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

/// `BTF_KIND_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Int,
    Ptr,
    Array,
    Struct,
    Union,
    Enum,
    Fwd,
    Typedef,
    Volatile,
    Const,
    Restrict,
    Func,
    FuncProto,
    Var,
    Datasec,
    Float,
    DeclTag,
    TypeTag,
    Enum64,
}

impl Kind {
    const ALL: [Self; 19] = [
        Self::Int,
        Self::Ptr,
        Self::Array,
        Self::Struct,
        Self::Union,
        Self::Enum,
        Self::Fwd,
        Self::Typedef,
        Self::Volatile,
        Self::Const,
        Self::Restrict,
        Self::Func,
        Self::FuncProto,
        Self::Var,
        Self::Datasec,
        Self::Float,
        Self::DeclTag,
        Self::TypeTag,
        Self::Enum64,
    ];

    fn from_raw(raw: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(raw).ok()?.checked_sub(1)?).copied()
    }

    /// Bytes that follow the type's header. At most 24 bits of `entries` times 12: no overflow.
    fn tail(self, entries: usize) -> usize {
        match self {
            Self::Int | Self::Var | Self::DeclTag => 4,
            Self::Array => 12,
            Self::Struct | Self::Union | Self::Datasec | Self::Enum64 => entries * 12,
            Self::Enum | Self::FuncProto => entries * 8,
            _ => 0,
        }
    }

    /// Whether types of this kind are looked up by name.
    fn is_indexed(self) -> bool {
        matches!(
            self,
            Self::Struct | Self::Union | Self::Enum | Self::Enum64 | Self::Typedef | Self::Func | Self::Int
        )
    }
}

/// One type: its header's fields, and the bytes that follow the header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Type<'a> {
    /// Offset into the strings.
    pub(super) name: u32,
    pub(super) kind: Kind,
    /// Bitfields carry their size in the member (structs), or the values are signed (enums).
    pub(super) flag: bool,
    /// `size` or `type`, whichever the kind has.
    pub(super) value: u32,
    tail: &'a [u8],
}

/// A struct's or union's member.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) name: u32,
    pub(super) ty: u32,
    /// From the start of the struct.
    pub(super) offset_bits: u32,
    /// Size in bits of a bitfield, as far as the member itself says so.
    pub(super) bitfield: Option<u32>,
}

impl<'a> Type<'a> {
    fn read(types: &'a [u8], at: usize) -> Result<(Self, usize), BadType> {
        let header = types.get(at..).and_then(<[u8]>::first_chunk::<TYPE_HEADER>).ok_or(BadType::Cut)?;
        let [name, info, value] = words(header);
        // 24 bits of count and 7 of kind: older formats have 16 and 5, with the bits between always zero.
        let (entries, kind) = (info & 0x00ff_ffff, (info >> 24) & 0x7f);
        let kind = Kind::from_raw(kind).ok_or(BadType::Kind(kind))?;
        let start = at + TYPE_HEADER;
        let end = start + kind.tail(usize::try_from(entries).map_err(|_| BadType::Cut)?);
        let tail = types.get(start..end).ok_or(BadType::Cut)?;
        Ok((Self { name, kind, flag: info >> 31 != 0, value, tail }, end))
    }

    /// Members of a struct or union; none of any other kind.
    pub(super) fn members(self) -> impl Iterator<Item = Member> + 'a {
        let composite = matches!(self.kind, Kind::Struct | Kind::Union);
        let tail = if composite { self.tail } else { &[] };
        tail.as_chunks::<12>().0.iter().map(move |bytes| {
            let [name, ty, offset] = words(bytes);
            if self.flag {
                let size = offset >> 24;
                Member { name, ty, offset_bits: offset & 0x00ff_ffff, bitfield: (size != 0).then_some(size) }
            } else {
                Member { name, ty, offset_bits: offset, bitfield: None }
            }
        })
    }

    /// Names (offsets) and values of an enum; none of any other kind. Negative values are sign-extended.
    pub(super) fn values(self) -> impl Iterator<Item = (u32, u64)> + 'a {
        let (narrow, wide): (&[u8], &[u8]) = match self.kind {
            Kind::Enum => (self.tail, &[]),
            Kind::Enum64 => (&[], self.tail),
            _ => (&[], &[]),
        };
        let narrow = narrow.as_chunks::<8>().0.iter().map(move |bytes| {
            let [name, value] = words(bytes);
            let signed = i64::from(value.cast_signed()).cast_unsigned();
            (name, if self.flag { signed } else { u64::from(value) })
        });
        let wide = wide.as_chunks::<12>().0.iter().map(|bytes| {
            let [name, low, high] = words(bytes);
            (name, u64::from(high) << 32 | u64::from(low))
        });
        narrow.chain(wide)
    }

    /// Types of a function prototype's parameters; none of any other kind.
    pub(super) fn params(self) -> impl ExactSizeIterator<Item = u32> + 'a {
        let tail = if self.kind == Kind::FuncProto { self.tail } else { &[] };
        tail.as_chunks::<8>().0.iter().map(|bytes| {
            let [_name, ty] = words(bytes);
            ty
        })
    }

    /// Element type and number of elements of an array.
    pub(super) fn array(self) -> Option<(u32, u32)> {
        let bytes = self.tail.first_chunk::<12>().filter(|_| self.kind == Kind::Array)?;
        let [element, _index, count] = words(bytes);
        Some((element, count))
    }

    /// Where an integer's bits begin and how many they are: how compilers before `kflag` said "bitfield".
    pub(super) fn int_bits(self) -> Option<(u32, u32)> {
        let bytes = self.tail.first_chunk::<4>().filter(|_| self.kind == Kind::Int)?;
        let [encoding] = words(bytes);
        Some(((encoding >> 16) & 0xff, encoding & 0xff))
    }
}

enum BadType {
    Cut,
    Kind(u32),
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

/// A section whose types end with the last of `kept`: those have their kind and name, and nothing else; all others are forward
/// declarations of nothing.
pub(super) fn outline(kept: &[(u32, Kind, &str)]) -> Vec<u8> {
    // Id 0 is void, and not in the section.
    let count = kept.iter().map(|(id, ..)| *id as usize).max().unwrap_or(0);
    let names: usize = kept.iter().map(|(_, _, name)| name.len() + 1).sum();
    let strings = HEADER + count * TYPE_HEADER;
    // In one piece: it has a megabyte and more, and each copy of that is as much to be had from the kernel, and cleared.
    let mut bytes = vec![0; strings + 1 + names];
    let (mut at, mut name_at) = (strings + 1, 1);
    let types = bytes.get_mut(HEADER..strings).unwrap_or_default().as_chunks_mut::<TYPE_HEADER>().0;
    types.fill(type_header(0, Kind::Fwd));
    for (id, kind, name) in kept {
        if let Some(ty) = (*id as usize).checked_sub(1).and_then(|index| types.get_mut(index)) {
            *ty = type_header(small(name_at), *kind);
        }
        name_at += name.len() + 1;
    }
    for (_, _, name) in kept {
        if let Some(to) = bytes.get_mut(at..at + name.len()) {
            to.copy_from_slice(name.as_bytes());
        }
        at += name.len() + 1;
    }
    let [first, second] = MAGIC.to_ne_bytes();
    let magic = u32::from_ne_bytes([first, second, VERSION, 0]);
    let types = small(count * TYPE_HEADER);
    let header = [magic, small(HEADER), 0, types, types, small(1 + names)];
    if let Some(to) = bytes.first_chunk_mut::<HEADER>() {
        to.copy_from_slice(header.map(u32::to_ne_bytes).as_flattened());
    }
    bytes
}

/// The header of a type without entries, size or type.
fn type_header(name: u32, kind: Kind) -> [u8; TYPE_HEADER] {
    let mut bytes = [0; TYPE_HEADER];
    bytes.as_chunks_mut().0[..2].copy_from_slice(&[name, (kind as u32 + 1) << 24].map(u32::to_ne_bytes));
    bytes
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

/// The words that fill `bytes` from its start.
fn words<const BYTES: usize, const WORDS: usize>(bytes: &[u8; BYTES]) -> [u32; WORDS] {
    const { assert!(BYTES == WORDS * 4) };
    let mut words = [0; WORDS];
    for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_ne_bytes(*chunk);
    }
    words
}

/// Every length here is below [`MAX_BYTES`].
fn small(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
