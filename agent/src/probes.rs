//! Every probe, one line each.

use crate::probe::start::Entry;

pub mod drops;
pub mod mtu;

/// Every probe of the agent. Adding one is one line here.
pub const ALL: &[Entry] = &[Entry::of::<drops::Drops>(), Entry::of::<mtu::Mtu>()];

#[cfg(test)]
mod tests;
