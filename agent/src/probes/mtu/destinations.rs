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

#[cfg(test)]
mod tests {
    use super::*;

    /// A count that is no count any more says so.
    #[test]
    fn what_is_not_kept_makes_it_at_least() {
        let many = |count: u32| {
            let mut destinations = Destinations::default();
            for number in 0..count {
                // Each comes twice.
                let address = Some(IpAddr::from(number.to_be_bytes()));
                destinations.add(address);
                destinations.add(address);
            }
            destinations
        };
        assert_eq!(many(1).text(), "");
        assert_eq!(many(2).text(), "; 2 destinations in all: 0.0.0.0, 0.0.0.1");
        assert_eq!(many(3).text(), "; 3 destinations in all: 0.0.0.0, 0.0.0.1, 0.0.0.2");
        assert!(many(4).text().ends_with("0.0.0.2 and others"));
        assert!(many(1024).text().starts_with("; 1024 destinations"));
        let most = many(1025);
        assert!(most.text().starts_with("; at least 1024 destinations"));
        let mut one = many(1);
        one.absorb(most);
        assert_eq!(one.count(), 1024);
        assert!(one.text().contains("at least"), "what the other did not keep is not forgotten");
    }
}
