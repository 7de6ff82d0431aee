//! Where a packet died: the kernel function around the address it was freed from.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::class::{Verdict, classify};
use crate::kernel::Kernel;
use crate::kernel::kallsyms::Symbols;

/// Kernel functions by address; none where the kernel hides its addresses (`kptr_restrict`, no `CAP_SYSLOG`).
/// Cheap to clone: all share one table.
#[derive(Clone)]
pub struct Places(Arc<Shared>);

struct Shared {
    /// Where the symbols are from, and are read again from.
    file: PathBuf,
    symbols: RwLock<Option<Arc<Symbols>>>,
    /// Lists the modules that are loaded.
    modules: PathBuf,
    reread: Mutex<Option<Reread>>,
}

/// When the symbols were read again, and what was there then.
struct Reread {
    at: Instant,
    /// When the modules were last compared.
    compared: Instant,
    /// Bytes of the list of modules: it changes with every module that comes or goes.
    modules: usize,
}

/// A named place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The function, without the compiler's suffixes.
    pub function: Arc<str>,
    /// The module it is in; `None` for the kernel proper.
    pub module: Option<Arc<str>>,
}

/// No function is as long as this: an address further from the symbol below it is in a module that was loaded after
/// the symbols were read, and the symbol below it is a stranger.
const LONGEST_FUNCTION: u64 = 0x1_0000;

/// Symbols are read again for an address without a name, at most this often unless modules have come: it costs some
/// 30 ms.
const REREAD: Duration = Duration::from_secs(30);

/// And modules are compared at most this often: some addresses never get a name.
const COMPARE: Duration = Duration::from_secs(1);

impl Places {
    /// With the kernel's symbols, if they are to be had.
    #[must_use]
    pub fn of(kernel: &Kernel) -> Self {
        let symbols = RwLock::new(kernel.symbols());
        let (file, modules) = (kernel.kallsyms(), kernel.modules());
        Self(Arc::new(Shared { file, symbols, modules, reread: Mutex::new(None) }))
    }

    /// The function around `location`: a whole address, or the low half of one as the counts keep it.
    #[must_use]
    pub fn at(&self, location: u64) -> Option<Place> {
        let symbols = self.0.symbols.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        place(&symbols, location).or_else(|| self.reread().and_then(|symbols| place(&symbols, location)))
    }

    /// What a drop for `reason` at `location` means.
    #[must_use]
    pub fn verdict(&self, reason: &str, location: u64) -> Verdict {
        self.at(location).map_or_else(|| classify(reason, ""), |place| classify(reason, &place.function))
    }

    fn reread(&self) -> Option<Arc<Symbols>> {
        let mut last = self.0.reread.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        // The first is free: modules are loaded when they are first asked for, often by what is just starting.
        if last.as_ref().is_some_and(|last| now - last.compared < COMPARE) {
            return None;
        }
        let modules = std::fs::read(&self.0.modules).map_or(0, |list| list.len());
        if let Some(last) = last.as_mut()
            && last.modules == modules
            && now - last.at < REREAD
        {
            last.compared = now;
            return None;
        }
        *last = Some(Reread { at: now, compared: now, modules });
        let symbols = Arc::new(Symbols::load_from(&self.0.file).ok()?);
        *self.0.symbols.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&symbols));
        Some(symbols)
    }
}

fn place(symbols: &Symbols, location: u64) -> Option<Place> {
    let place = match u32::try_from(location) {
        Ok(low) => symbols.resolve_low32(low),
        Err(_) => symbols.resolve(location),
    }?;
    (place.offset < LONGEST_FUNCTION)
        .then(|| Place { function: place.function().into(), module: place.module.map(Into::into) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_far_from_any_symbol_has_no_name() {
        let text = "ffffffff81000000 T ip_forward\nffffffff81000400 T ip_rcv\n";
        let symbols = Symbols::parse(text.as_bytes()).unwrap();
        let function = |location| place(&symbols, location).map(|place| place.function.to_string());
        assert_eq!(function(0xffff_ffff_8100_0010).as_deref(), Some("ip_forward"));
        assert_eq!(function(0x8100_0010).as_deref(), Some("ip_forward"), "the low half is enough");
        assert_eq!(function(0xffff_ffff_c100_0000), None);
    }
}
