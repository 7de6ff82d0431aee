//! Where a packet died: the kernel function around the address it was freed from.

use std::sync::Arc;

use super::class::{Verdict, classify};
use crate::kernel::kallsyms::{Place, Symbols};

/// Kernel functions by address; empty where the kernel hides its addresses (`kptr_restrict`, no `CAP_SYSLOG`).
#[derive(Clone, Default)]
pub struct Places(Option<Arc<Symbols>>);

impl Places {
    /// With the kernel's symbols, if they are to be had.
    #[must_use]
    pub fn new(symbols: Option<Arc<Symbols>>) -> Self {
        Self(symbols)
    }

    /// The function around `location`: a whole address, or the low half of one as the counts keep it.
    #[must_use]
    pub fn at(&self, location: u64) -> Option<Place<'_>> {
        let symbols = self.0.as_deref()?;
        match u32::try_from(location) {
            Ok(low) => symbols.resolve_low32(low),
            Err(_) => symbols.resolve(location),
        }
    }

    /// What a drop for `reason` at `location` means.
    #[must_use]
    pub fn verdict(&self, reason: &str, location: u64) -> Verdict {
        classify(reason, self.at(location).map_or("", |place| place.function()))
    }
}
