//! Where the packets of one incident were to go.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::probe::Absorb;

/// The addresses that packets of one incident were to go to.
#[derive(Default)]
pub(super) struct Destinations {
    all: BTreeSet<IpAddr>,
    /// Whether there are more than are kept.
    more: bool,
}

impl Destinations {
    /// As many as are kept, and as are named.
    const MOST: usize = 1024;
    const NAMED: usize = 3;

    pub(super) fn add(&mut self, destination: Option<IpAddr>) {
        let Some(destination) = destination.filter(|address| !self.all.contains(address)) else { return };
        if self.all.len() < Self::MOST {
            self.all.insert(destination);
        } else {
            self.more = true;
        }
    }

    /// `; 101 destinations in all: 10.0.0.1, 10.0.0.2, 10.0.0.3 and others`; nothing of one.
    pub(super) fn text(&self) -> String {
        if self.all.len() < 2 {
            return String::new();
        }
        let named: Vec<String> = self.all.iter().take(Self::NAMED).map(IpAddr::to_string).collect();
        let at_least = if self.more { "at least " } else { "" };
        let others = if self.all.len() > Self::NAMED { " and others" } else { "" };
        format!("; {at_least}{} destinations in all: {}{others}", self.all.len(), named.join(", "))
    }

    /// How many there are, as far as they are kept.
    pub(super) fn count(&self) -> u64 {
        u64::try_from(self.all.len()).unwrap_or(u64::MAX)
    }
}

impl Absorb for Destinations {
    fn absorb(&mut self, other: Self) {
        for destination in other.all {
            self.add(Some(destination));
        }
        self.more |= other.more;
    }
}
