//! Reads the kernel's own description of its types (BTF): offsets, bitfields, enums, prototypes.
//!
//! aya keeps its reader private, and eBPF written in Rust has no CO-RE relocations: what a program must know of a
//! struct is looked up here and injected before it is loaded. The input is checked as if it were hostile.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

mod outline;
mod print;
mod section;
#[cfg(test)]
pub(super) mod tests;
mod types;

pub use section::Flaw;
use section::{MAX_BYTES, Section};
use types::{Kind, Type};

/// Typedefs, qualifiers, arrays and nested anonymous structs one look-up goes through. Real types stay below 10; a
/// cycle of typedefs ends here.
const MAX_DEPTH: u32 = 32;

/// Members one look-up visits. `task_struct` with all that is embedded in it has some 300; anonymous unions that
/// contain themselves would multiply without end, and do until here, at some 10 ns a member.
const MAX_VISITS: u32 = 8_192;

/// Parameters a prototype may have to be listed. A BPF tracepoint has at most 12.
const MAX_PARAMS: usize = 64;

/// Enumerators an enum may have to be listed (BTF's own limit for most of its life).
const MAX_VALUES: usize = 65_535;

/// Why a kernel's BTF cannot be used.
#[derive(Debug, Error)]
pub enum BtfError {
    /// Not there (a kernel without `CONFIG_DEBUG_INFO_BTF`, a module not loaded) or not readable.
    #[error("{}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// There, but broken.
    #[error("{} {flaw}", file.display())]
    Broken {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        flaw: Flaw,
    },
}

/// Where a member's bits are in its struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits {
    /// From the struct's first byte, in bits. On little-endian machines bit `n` is bit `n % 8` of byte `n / 8`.
    pub offset_bits: u32,
    /// Width in bits.
    pub size_bits: u32,
}

/// The types of a kernel, or of one of its modules on top of the kernel's.
///
/// Holds the raw section (5 MB or so for vmlinux) and about 10 bytes a type; clones share both.
#[derive(Clone, Debug)]
pub struct Btf {
    own: Arc<Section>,
    base: Option<Arc<Section>>,
    /// Where the modules' sections are.
    dir: PathBuf,
}

impl Btf {
    /// The running kernel's types, from `/sys/kernel/btf/vmlinux`.
    ///
    /// # Errors
    /// The file is not there, not readable or broken.
    pub fn from_sys_fs() -> Result<Self, BtfError> {
        Self::from_dir(Path::new("/sys/kernel/btf"))
    }

    /// A kernel's types from `vmlinux` in `dir`, where modules' files are too.
    ///
    /// # Errors
    /// As [`Btf::from_sys_fs`].
    pub fn from_dir(dir: &Path) -> Result<Self, BtfError> {
        let own = load(dir.join("vmlinux"), None)?;
        Ok(Self { own: Arc::new(own), base: None, dir: dir.to_owned() })
    }

    /// The types of module `name` on top of these; queries find both, the module's own first.
    ///
    /// # Errors
    /// The module is not loaded or has no BTF (Debian's 5.10 modules have none), or its file is broken.
    pub fn module(&self, name: &str) -> Result<Self, BtfError> {
        let base = self.kernel();
        let own = load(self.dir.join(name), Some(base))?;
        Ok(Self { own: Arc::new(own), base: Some(Arc::clone(base)), dir: self.dir.clone() })
    }

    /// A whole kernel's types from memory.
    ///
    /// # Errors
    /// `bytes` are not a sound BTF section.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, Flaw> {
        let own = Section::parse(bytes, None)?;
        Ok(Self { own: Arc::new(own), base: None, dir: PathBuf::from("/sys/kernel/btf") })
    }

    /// A module's types from memory, on top of these.
    ///
    /// # Errors
    /// `bytes` are not a sound BTF section.
    pub fn parse_split(&self, bytes: Vec<u8>) -> Result<Self, Flaw> {
        let base = self.kernel();
        let own = Section::parse(bytes, Some(base))?;
        Ok(Self { own: Arc::new(own), base: Some(Arc::clone(base)), dir: self.dir.clone() })
    }

    /// Offset in bytes of a member, by a dotted path through embedded structs: `offset("sock", "__sk_common.skc_net.net")`.
    ///
    /// Members of anonymous structs and unions are found as in C; typedefs and qualifiers are looked through; pointers
    /// are not followed. `strukt` names a struct, a union or a typedef of one. `None` if there is no such member, or if
    /// it is a bitfield: reading its byte would read its neighbours ([`Btf::bits`] has those).
    #[must_use]
    pub fn offset(&self, strukt: &str, path: &str) -> Option<u32> {
        let found = self.locate(strukt, path)?;
        let whole = found.bitfield.is_none() && found.offset_bits.is_multiple_of(8);
        whole.then_some(found.offset_bits / 8)
    }

    /// Offset and size in bits of any member, bitfields included; `path` as for [`Btf::offset`].
    #[must_use]
    pub fn bits(&self, strukt: &str, path: &str) -> Option<Bits> {
        let found = self.locate(strukt, path)?;
        let size_bits = match found.bitfield {
            Some(bits) => bits,
            None => self.size(found.ty)?.checked_mul(8)?,
        };
        Some(Bits { offset_bits: found.offset_bits, size_bits })
    }

    /// Size in bytes of a struct, union, enum, integer or typedef of one.
    #[must_use]
    pub fn size_of(&self, name: &str) -> Option<u32> {
        let ty = self
            .composite(name)
            .or_else(|| self.find(name, &[Kind::Enum, Kind::Enum64, Kind::Int]))
            .or_else(|| self.strip(self.find(name, &[Kind::Typedef])?.value))?;
        self.size_of_type(ty, MAX_DEPTH)
    }

    /// Values and names of an enum (or typedef of one) in the kernel's order; negative values as two's complement.
    #[must_use]
    pub fn enum_values(&self, name: &str) -> Option<Vec<(u64, String)>> {
        let is_enum = |ty: &Type<'_>| matches!(ty.kind, Kind::Enum | Kind::Enum64);
        let ty = self
            .find(name, &[Kind::Enum, Kind::Enum64])
            .or_else(|| self.strip(self.find(name, &[Kind::Typedef])?.value).filter(is_enum))?;
        let values = ty.values().take(MAX_VALUES);
        Some(values.filter_map(|(name, value)| Some((value, self.text(name)?.to_owned()))).collect())
    }

    /// The types of a tracepoint's arguments, as a raw tracepoint or `tp_btf` program gets them: `struct sk_buff *`,
    /// `enum skb_drop_reason`, `int`. From `btf_trace_<name>`, whose first parameter (`void *`) is not passed on.
    #[must_use]
    pub fn tracepoint_args(&self, name: &str) -> Option<Vec<String>> {
        let typedef = self.find(&format!("btf_trace_{name}"), &[Kind::Typedef])?;
        let pointer = self.strip(typedef.value).filter(|ty| ty.kind == Kind::Ptr)?;
        let mut args = self.params(pointer.value)?;
        (!args.is_empty()).then(|| args.remove(0))?;
        Some(args)
    }

    /// Whether there is a function of this name to attach to by BTF. It may still be inlined where it matters.
    #[must_use]
    pub fn has_func(&self, name: &str) -> bool {
        self.find(name, &[Kind::Func]).is_some()
    }

    /// The types of a function's parameters, printed as by [`Btf::tracepoint_args`].
    #[must_use]
    pub fn func_params(&self, name: &str) -> Option<Vec<String>> {
        self.params(self.find(name, &[Kind::Func])?.value)
    }

    /// These types as a section in which only the functions and typedefs of these names are left, each with its id: all that
    /// a loader asks a kernel's types for. What lies between is blank, and costs a reader next to nothing; what lies behind is
    /// left out.
    pub fn outline<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
        let kept = names.into_iter().flat_map(|name| {
            let found = [Kind::Func, Kind::Typedef].map(|kind| Some((self.id(name, &[kind])?, kind)));
            found.into_iter().flatten().map(move |(id, kind)| (id, kind, name))
        });
        outline::outline(&kept.collect::<Vec<_>>())
    }

    /// The kernel's own section, below any module's.
    fn kernel(&self) -> &Arc<Section> {
        self.base.as_ref().unwrap_or(&self.own)
    }

    /// A type by id; `None` for 0 (void) and ids out of range.
    fn ty(&self, id: u32) -> Option<Type<'_>> {
        self.own.ty(id).or_else(|| self.base.as_ref()?.ty(id))
    }

    fn string(&self, offset: u32) -> Option<&[u8]> {
        self.own.string(offset).or_else(|| self.base.as_ref()?.string(offset))
    }

    /// A name as text; C identifiers are ASCII, so anything else is not a name.
    fn text(&self, offset: u32) -> Option<&str> {
        std::str::from_utf8(self.string(offset)?).ok().filter(|name| !name.is_empty())
    }

    /// The first type of this name and one of these kinds.
    fn find(&self, name: &str, kinds: &[Kind]) -> Option<Type<'_>> {
        self.ty(self.id(name, kinds)?)
    }

    /// The id of it.
    fn id(&self, name: &str, kinds: &[Kind]) -> Option<u32> {
        let is = |ty: Type<'_>| kinds.contains(&ty.kind) && self.string(ty.name) == Some(name.as_bytes());
        let mut sections = [Some(&self.own), self.base.as_ref()].into_iter().flatten();
        sections.find_map(|section| {
            section.candidates(name.as_bytes()).filter(|id| self.ty(*id).is_some_and(is)).last()
        })
    }

    /// The struct or union of this name, or behind the typedef of this name.
    fn composite(&self, name: &str) -> Option<Type<'_>> {
        let is_composite = |ty: &Type<'_>| matches!(ty.kind, Kind::Struct | Kind::Union);
        self.find(name, &[Kind::Struct, Kind::Union])
            .or_else(|| self.strip(self.find(name, &[Kind::Typedef])?.value).filter(is_composite))
    }

    /// Looks through typedefs and qualifiers. `None` for void, and for a chain that does not end.
    fn strip(&self, mut id: u32) -> Option<Type<'_>> {
        for _ in 0..MAX_DEPTH {
            let ty = self.ty(id)?;
            match ty.kind {
                Kind::Typedef | Kind::Volatile | Kind::Const | Kind::Restrict | Kind::TypeTag => {
                    id = ty.value;
                }
                _ => return Some(ty),
            }
        }
        None
    }

    fn locate(&self, strukt: &str, path: &str) -> Option<Found> {
        let mut visits = MAX_VISITS;
        let mut outer = self.composite(strukt)?;
        let mut steps = path.split('.').peekable();
        let mut start = 0_u32;
        while let Some(step) = steps.next() {
            let mut found = self.member(outer, step.as_bytes(), MAX_DEPTH, &mut visits)?;
            found.offset_bits = found.offset_bits.checked_add(start)?;
            if steps.peek().is_none() {
                return self.narrow(found);
            }
            start = found.offset_bits;
            outer = self.strip(found.ty)?;
        }
        None
    }

    /// Finds a member of `outer`, or of what is anonymous in it.
    fn member(&self, outer: Type<'_>, name: &[u8], depth: u32, visits: &mut u32) -> Option<Found> {
        let deeper = depth.checked_sub(1)?;
        for member in outer.members() {
            *visits = visits.checked_sub(1)?;
            let found = match self.string(member.name) {
                Some([]) => {
                    let inner = self.strip(member.ty);
                    inner.and_then(|inner| self.member(inner, name, deeper, visits)).and_then(|mut found| {
                        found.offset_bits = found.offset_bits.checked_add(member.offset_bits)?;
                        Some(found)
                    })
                }
                Some(own) if own == name && !name.is_empty() => {
                    Some(Found { offset_bits: member.offset_bits, bitfield: member.bitfield, ty: member.ty })
                }
                _ => None,
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Without `kflag` a bitfield is a member whose integer type has fewer bits than its bytes hold.
    fn narrow(&self, mut found: Found) -> Option<Found> {
        let ty = self.strip(found.ty);
        if found.bitfield.is_none()
            && let Some((ty, (skip, bits))) = ty.and_then(|ty| Some((ty, ty.int_bits()?)))
            && (skip != 0 || bits < ty.value.saturating_mul(8))
        {
            found.offset_bits = found.offset_bits.checked_add(skip)?;
            found.bitfield = Some(bits);
        }
        Some(found)
    }

    fn size(&self, id: u32) -> Option<u32> {
        self.size_of_type(self.strip(id)?, MAX_DEPTH)
    }

    fn size_of_type(&self, ty: Type<'_>, depth: u32) -> Option<u32> {
        match ty.kind {
            Kind::Int | Kind::Float | Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64 => {
                Some(ty.value)
            }
            // BTF does not say: the agent runs on the kernel it asks about, and in its word size.
            Kind::Ptr => u32::try_from(size_of::<usize>()).ok(),
            Kind::Array => {
                let (element, count) = ty.array()?;
                self.size_of_type(self.strip(element)?, depth.checked_sub(1)?)?.checked_mul(count)
            }
            _ => None,
        }
    }

    /// Printed types of a prototype's parameters.
    fn params(&self, proto: u32) -> Option<Vec<String>> {
        let proto = self.strip(proto).filter(|ty| ty.kind == Kind::FuncProto)?;
        let params = proto.params();
        (params.len() <= MAX_PARAMS).then(|| params.map(|ty| self.print(ty, MAX_DEPTH)).collect())
    }
}

/// A member as a look-up finds it.
struct Found {
    offset_bits: u32,
    bitfield: Option<u32>,
    ty: u32,
}

fn load(file: PathBuf, base: Option<&Section>) -> Result<Section, BtfError> {
    let bytes = match read(&file) {
        Ok(bytes) => bytes,
        Err(source) => return Err(BtfError::Read { file, source }),
    };
    Section::parse(bytes, base).map_err(|flaw| BtfError::Broken { file, flaw })
}

/// The whole file, but never more than one byte too many.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(file)?;
    let expected = usize::try_from(file.metadata()?.len()).unwrap_or(MAX_BYTES).min(MAX_BYTES);
    let mut bytes = Vec::with_capacity(expected + 1);
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
