//! Names kernel text addresses from `/proc/kallsyms`: where a packet was dropped, as a function and an offset.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::ControlFlow;
use std::path::Path;

use thiserror::Error;

mod line;
mod live;
#[cfg(test)]
mod tests;

use line::{Line, each};
pub use live::Kallsyms;

/// Kernels with every module loaded have some 300,000 text symbols; names are 25 bytes long in the mean.
const MAX_SYMBOLS: usize = 2_000_000;
const MAX_NAMES: usize = 128 << 20;

/// The largest functions of the kernel are below 100 KiB. Beyond this an address has left its symbol.
const MAX_FUNCTION: u64 = 256 << 10;

/// Different modules never share a page of text.
const PAGE_BITS: u32 = 12;

/// Why addresses cannot be named.
#[derive(Debug, Error)]
pub enum SymbolsError {
    /// The file cannot be read.
    #[error("kallsyms cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Every address reads as zero: `kernel.kptr_restrict` is 2, or `CAP_SYSLOG` is missing.
    #[error("kallsyms hides addresses")]
    Hidden,
    /// No line is a text symbol.
    #[error("kallsyms has no text symbols")]
    Empty,
    /// More than any kernel has.
    #[error("kallsyms has more symbols than any kernel")]
    TooMany,
}

/// The kernel's text symbols, about 35 bytes each (2 to 4 MB on a node).
#[derive(Debug)]
pub struct Symbols {
    /// Runs of symbols whose upper 32 address bits are the same: one to three on real machines.
    segments: Vec<Segment>,
    /// Lower halves of the addresses, in the order of whole addresses.
    lows: Vec<u32>,
    /// Where in `names` each symbol's name begins.
    names_at: Vec<u32>,
    /// Index into `modules`; 0 is the kernel itself.
    modules_of: Vec<u16>,
    /// Names, each ended by a newline.
    names: String,
    modules: Vec<String>,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    high: u32,
    /// Index of its first symbol.
    first: usize,
}

/// What an address is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The symbol as the kernel has it, with the compiler's suffix.
    pub symbol: &'a str,
    /// The module it is in; `bpf` for compiled BPF programs; `None` for the kernel itself.
    pub module: Option<&'a str>,
    /// Bytes from the symbol's start.
    pub offset: u64,
}

impl<'a> Place<'a> {
    /// The function in the source: without `.constprop.0`, `.isra.0`, `.part.0`, `.cold`, `.llvm.123`.
    ///
    /// No C name has a dot in it. Names of BPF programs may, so those stay whole.
    #[must_use]
    pub fn function(&self) -> &'a str {
        match self.symbol.split_once('.') {
            Some((function, _)) if !function.is_empty() && self.module != Some("bpf") => function,
            _ => self.symbol,
        }
    }
}

/// As the kernel prints it: `nf_hook_slow+0xa1` or `br_forward+0x10 [bridge]`.
impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:#x}", self.symbol, self.offset)?;
        self.module.map_or(Ok(()), |module| write!(f, " [{module}]"))
    }
}

impl Symbols {
    /// The running kernel's symbols, as they are now: modules loaded later need another load.
    ///
    /// # Errors
    /// The file cannot be read, or hides its addresses.
    pub fn load() -> Result<Self, SymbolsError> {
        Self::load_from(Path::new("/proc/kallsyms"), Path::new("/proc/modules"))
    }

    /// The symbols in `file`, of the modules that `modules` lists.
    ///
    /// # Errors
    /// As [`Symbols::load`].
    pub fn load_from(file: &Path, modules: &Path) -> Result<Self, SymbolsError> {
        // After the list: of a module that comes in between nothing is known, and nothing is left out.
        let modules = std::fs::read_to_string(modules).unwrap_or_default();
        Self::parse_among(open(file)?, &modules)
    }

    /// Whether `file` has symbols and shows where they are. Reads no further than the first.
    ///
    /// # Errors
    /// As [`Symbols::load`].
    pub fn check(file: &Path) -> Result<(), SymbolsError> {
        let mut first = None;
        each(open(file)?, |symbol| {
            first = Some(symbol.address);
            Ok(ControlFlow::Break(()))
        })?;
        match first {
            None => Err(SymbolsError::Empty),
            Some(0) => Err(SymbolsError::Hidden),
            Some(_) => Ok(()),
        }
    }

    /// The symbols in text of the form of `/proc/kallsyms`. Lines of another form are passed over.
    ///
    /// # Errors
    /// As [`Symbols::load`].
    pub fn parse(reader: impl BufRead) -> Result<Self, SymbolsError> {
        Self::parse_among(reader, "")
    }

    /// As [`Symbols::parse`], with text of the form of `/proc/modules`: what is outside of its module is left out.
    ///
    /// # Errors
    /// As [`Symbols::load`].
    pub fn parse_among(reader: impl BufRead, modules: &str) -> Result<Self, SymbolsError> {
        let mut draft = Draft { bounds: bounds(modules), ..Draft::default() };
        each(reader, |symbol| draft.add(symbol).map(ControlFlow::Continue))?;
        draft.finish()
    }

    /// The symbol `address` is in: the nearest start at or below it, unless that symbol ended before.
    ///
    /// `None` also for what was loaded after these symbols were: [`Symbols::load`] again may know it.
    #[must_use]
    pub fn resolve(&self, address: u64) -> Option<Place<'_>> {
        let last = self.until(address).checked_sub(1)?;
        let start = self.start(last)?;
        let offset = address.checked_sub(start)?;
        // A module's last symbol does not say where it ends, and a module loaded since may follow on the next page.
        let ends_module = self.modules_of.get(last) != self.modules_of.get(last + 1);
        if offset > MAX_FUNCTION || ends_module && start >> PAGE_BITS != address >> PAGE_BITS {
            return None;
        }
        // Of several names for one address the kernel prints the first; so do we.
        let first = start.checked_sub(1).map_or(0, |before| self.until(before));
        Some(Place { symbol: self.name(first)?, module: self.module(first), offset })
    }

    /// The symbol that the address with these lower 32 bits is in, if only one can be meant.
    #[must_use]
    pub fn resolve_low32(&self, low: u32) -> Option<Place<'_>> {
        let whole = |segment: &Segment| self.resolve(u64::from(segment.high) << 32 | u64::from(low));
        let mut places = self.segments.iter().filter_map(whole);
        let only = places.next()?;
        places.next().is_none().then_some(only)
    }

    /// The address of a symbol, if all symbols of that name are at one address. Reads every name: not for hot paths.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<u64> {
        let mut found = (0..self.len()).filter(|index| self.name(*index) == Some(name));
        let address = self.start(found.next()?)?;
        found.all(|index| self.start(index) == Some(address)).then_some(address)
    }

    /// Where a function begins, and how many bytes there are until the next symbol; `None` as for [`Symbols::address`].
    #[must_use]
    pub fn extent(&self, name: &str) -> Option<(u64, u32)> {
        let address = self.address(name)?;
        let next = self.start(self.until(address))?;
        let length = next.checked_sub(address).filter(|length| *length <= MAX_FUNCTION)?;
        Some((address, u32::try_from(length).ok()?))
    }

    /// How many symbols there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lows.len()
    }

    /// Never true of loaded symbols: none at all is [`SymbolsError::Empty`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lows.is_empty()
    }

    /// How many symbols begin at or below `address`.
    fn until(&self, address: u64) -> usize {
        let (high, low) = halves(address);
        let after = self.segments.partition_point(|segment| segment.high <= high);
        let end = self.segments.get(after).map_or(self.lows.len(), |segment| segment.first);
        match after.checked_sub(1).and_then(|index| self.segments.get(index)) {
            None => 0,
            Some(segment) if segment.high < high => end,
            Some(segment) => {
                let lows = self.lows.get(segment.first..end).unwrap_or_default();
                segment.first + lows.partition_point(|start| *start <= low)
            }
        }
    }

    fn start(&self, index: usize) -> Option<u64> {
        let segment = self.segments.partition_point(|segment| segment.first <= index).checked_sub(1)?;
        let high = self.segments.get(segment)?.high;
        Some(u64::from(high) << 32 | u64::from(*self.lows.get(index)?))
    }

    fn name(&self, index: usize) -> Option<&str> {
        let at = usize::try_from(*self.names_at.get(index)?).ok()?;
        self.names.get(at..)?.split('\n').next()
    }

    fn module(&self, index: usize) -> Option<&str> {
        let module = usize::from(*self.modules_of.get(index)?).checked_sub(1)?;
        self.modules.get(module).map(String::as_str)
    }
}

/// Where each module's memory begins and how long it is. Of one whose address is hidden nothing is known.
fn bounds(modules: &str) -> HashMap<String, (u64, u64)> {
    let bound = |line: &str| {
        // name, size, references, dependants, state, address
        let mut words = line.split(' ');
        let (name, size) = (words.next()?, words.next()?.parse().ok()?);
        let address = words.nth(3)?.strip_prefix("0x")?;
        let address = u64::from_str_radix(address, 16).ok().filter(|address| *address != 0)?;
        Some((name.to_owned(), (address, size)))
    };
    modules.lines().filter_map(bound).collect()
}

fn open(file: &Path) -> io::Result<impl BufRead> {
    Ok(BufReader::with_capacity(64 << 10, File::open(file)?))
}

/// Symbols in the order of the file, which is sorted for the kernel but not for modules.
///
/// A module's own symbols stand together. While functions are traced the file names them again behind all modules' own, for
/// what a module freed after its initialisation (`ftrace_mod_get_kallsym`, kernel/trace/ftrace.c): that memory may be
/// another module's now, so these are left out. So is what is outside of its module: the last module's own symbols and those
/// are not told apart by their order.
#[derive(Default)]
struct Draft {
    bounds: HashMap<String, (u64, u64)>,
    /// Address, where the name is, module.
    symbols: Vec<(u64, u32, u16)>,
    names: String,
    modules: Vec<String>,
    seen: HashSet<String>,
    hidden: bool,
}

impl Draft {
    fn add(&mut self, line: &Line<'_>) -> Result<(), SymbolsError> {
        if line.address == 0 {
            self.hidden = true;
            return Ok(());
        }
        if self.symbols.len() >= MAX_SYMBOLS || self.names.len() >= MAX_NAMES {
            return Err(SymbolsError::TooMany);
        }
        let bounds = line.module.and_then(|name| self.bounds.get(name));
        if bounds.is_some_and(|(begin, size)| !(*begin..begin.saturating_add(*size)).contains(&line.address))
        {
            return Ok(());
        }
        let Some(module) = line.module.map_or(Ok(Some(0)), |name| self.module(name))? else { return Ok(()) };
        let at = u32::try_from(self.names.len()).map_err(|_| SymbolsError::TooMany)?;
        self.symbols.push((line.address, at, module));
        self.names.push_str(line.name);
        self.names.push('\n');
        Ok(())
    }

    /// The module's index; `None` if others have come since its own symbols.
    fn module(&mut self, name: &str) -> Result<Option<u16>, SymbolsError> {
        if self.modules.last().is_none_or(|last| last != name) {
            if !self.seen.insert(name.to_owned()) {
                return Ok(None);
            }
            self.modules.push(name.to_owned());
        }
        u16::try_from(self.modules.len()).map(Some).map_err(|_| SymbolsError::TooMany)
    }

    fn finish(mut self) -> Result<Symbols, SymbolsError> {
        if self.symbols.is_empty() {
            return Err(if self.hidden { SymbolsError::Hidden } else { SymbolsError::Empty });
        }
        // Stable: names of one address stay in the file's order.
        self.symbols.sort_by_key(|(address, ..)| *address);
        self.names.shrink_to_fit();
        let mut segments: Vec<Segment> = Vec::new();
        for (first, (address, ..)) in self.symbols.iter().enumerate() {
            let (high, _) = halves(*address);
            if segments.last().is_none_or(|segment| segment.high != high) {
                segments.push(Segment { high, first });
            }
        }
        Ok(Symbols {
            segments,
            lows: self.symbols.iter().map(|(address, ..)| halves(*address).1).collect(),
            names_at: self.symbols.iter().map(|(_, at, _)| *at).collect(),
            modules_of: self.symbols.iter().map(|(.., module)| *module).collect(),
            names: self.names,
            modules: self.modules,
        })
    }
}

fn halves(address: u64) -> (u32, u32) {
    ((address >> 32) as u32, (address & 0xffff_ffff) as u32)
}
