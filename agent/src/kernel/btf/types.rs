//! One type of a BTF section: its kind, its header, and what follows that.

/// `name_off`, `info`, `size` or `type`.
pub(super) const TYPE_HEADER: usize = 12;

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
    pub(super) fn is_indexed(self) -> bool {
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
    pub(super) fn read(types: &'a [u8], at: usize) -> Result<(Self, usize), BadType> {
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

/// Why there is no type to be read.
pub(super) enum BadType {
    /// The bytes end within it.
    Cut,
    /// Of a kind that this reader does not know.
    Kind(u32),
}

/// The words that fill `bytes` from its start.
pub(super) fn words<const BYTES: usize, const WORDS: usize>(bytes: &[u8; BYTES]) -> [u32; WORDS] {
    const { assert!(BYTES == WORDS * 4) };
    let mut words = [0; WORDS];
    for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = u32::from_ne_bytes(*chunk);
    }
    words
}
