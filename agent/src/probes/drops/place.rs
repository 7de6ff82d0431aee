//! Where a packet died: the kernel function around the address it was freed from.

use std::sync::Arc;

use super::class::{Verdict, judge};
use crate::kernel::Kernel;
use crate::kernel::kallsyms::{Kallsyms, Symbols};

/// Kernel functions by address; none where the kernel hides its addresses (`kptr_restrict`, no `CAP_SYSLOG`).
/// Cheap to clone: all share one table.
#[derive(Clone)]
pub struct Places(Kallsyms);

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

impl Places {
    /// By the symbols of `kernel`.
    #[must_use]
    pub fn of(kernel: &Kernel) -> Self {
        Self(kernel.symbols().clone())
    }

    /// The function around `location`: a whole address, or the low half of one as the counts keep it.
    #[must_use]
    pub fn at(&self, location: u64) -> Option<Place> {
        self.0.find(|symbols| place(symbols, location))
    }

    /// As [`Places::at`], among the symbols that have been read: a scrape must not wait for a file.
    #[must_use]
    pub fn known_at(&self, location: u64) -> Option<Place> {
        self.0.known(|symbols| place(symbols, location))
    }

    /// What a drop for `reason` at `location` under these `circumstances` means; for scrapes.
    #[must_use]
    pub fn verdict(&self, reason: &str, location: u64, circumstances: u16) -> Verdict {
        let place = self.known_at(location);
        judge(reason, place.as_ref().map_or("", |place| &*place.function), circumstances)
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

    #[test]
    fn no_function_is_as_long_as_this() {
        let symbols = Symbols::parse(&b"ffffffff81000000 T one\nffffffff81030000 T next\n"[..]).unwrap();
        let function = |location| place(&symbols, location).map(|place| place.function.to_string());
        assert_eq!(function(0xffff_ffff_8100_ffff).as_deref(), Some("one"));
        assert_eq!(function(0xffff_ffff_8101_0000), None);
    }

    #[test]
    fn a_scrape_does_not_wait_for_symbols_and_a_drop_does() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("proc")).unwrap();
        let symbols = "ffffffff81000000 t nft_do_chain\t[nf_tables]\nffffffff81000400 t next\t[nf_tables]\n";
        std::fs::write(root.path().join("proc/kallsyms"), symbols).unwrap();
        let places = Places::of(&Kernel::load_from(crate::kernel::Roots::under(root.path())));
        let there = Some(Place { function: "nft_do_chain".into(), module: Some("nf_tables".into()) });
        let verdict = || places.verdict("NETFILTER_DROP", 0x8100_0010, 0).class.name();
        assert_eq!((places.known_at(0x8100_0010), verdict()), (None, "netfilter"), "nobody has read them");
        assert_eq!(places.at(0xffff_ffff_8100_0010), there);
        assert_eq!((places.known_at(0x8100_0010), verdict()), (there, "policy"));
    }
}
