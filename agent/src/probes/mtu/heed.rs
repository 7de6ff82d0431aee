//! Whether who sends too much heeds what it is told.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use super::event::TooBig;
use crate::probe::Absorb;

/// How often one sender was told of its packets to one destination. Another, or one that goes elsewhere, is told for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heed {
    ends: (IpAddr, IpAddr),
    /// Messages about its packets that left this node, of those that were told of: what was held back may be about others.
    pub(super) told: u64,
    /// Whether there may have been more.
    pub(super) is_cut: bool,
    first: SystemTime,
    last: SystemTime,
}

impl Heed {
    /// From the first message to the last.
    pub(super) fn took(&self) -> Duration {
        self.last.duration_since(self.first).unwrap_or_default()
    }

    /// Whether it goes on all the same. Who hears of it stops within a round trip: what was under way by then is told of at once.
    pub(super) fn is_none(&self) -> bool {
        self.told >= 3 && self.took() >= Duration::from_secs(1)
    }

    fn add(&mut self, other: &Self) {
        self.told = self.told.saturating_add(other.told);
        self.is_cut |= other.is_cut;
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }
}

/// Those of one incident.
#[derive(Default)]
pub(super) struct Heeds(Vec<Heed>);

impl Heeds {
    /// As many are kept, and for so long after the last message. Who does not heed comes again and again: one of many is enough, and
    /// would never be told twice if each made room for the next. (A route forgets what it was told in ten minutes.)
    const MOST: usize = 8;
    const KEPT: Duration = Duration::from_secs(10);

    /// Takes in a message that was sent.
    pub(super) fn add(&mut self, event: &TooBig) {
        if let Some(ends) = event.source().zip(event.destination()) {
            self.merge(Heed { ends, told: 1, is_cut: event.is_cut(), first: event.at, last: event.at });
        }
    }

    /// What the event's own sender does; `None` where it heeds, as far as that was seen.
    pub(super) fn ignored(&self, event: &TooBig) -> Option<Heed> {
        let ends = event.source().zip(event.destination())?;
        self.0.iter().find(|heed| heed.ends == ends && heed.is_none()).copied()
    }

    fn merge(&mut self, new: Heed) {
        self.0.retain(|heed| new.first.duration_since(heed.last).unwrap_or_default() < Self::KEPT);
        if let Some(known) = self.0.iter_mut().find(|heed| heed.ends == new.ends) {
            return known.add(&new);
        }
        if self.0.len() < Self::MOST {
            self.0.push(new);
        }
    }
}

impl Absorb for Heeds {
    fn absorb(&mut self, other: Self) {
        for heed in other.0 {
            self.merge(heed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heed(destination: u8, milliseconds: u64) -> Heed {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds);
        Heed {
            ends: ([10, 0, 0, 1].into(), [10, 0, 1, destination].into()),
            told: 1,
            is_cut: false,
            first: at,
            last: at,
        }
    }

    #[test]
    fn who_is_told_three_times_in_a_second_does_not_heed() {
        for (times, wanted) in
            [(&[0, 999][..], false), (&[0, 500, 999], false), (&[0, 1000], false), (&[0, 0, 1000], true)]
        {
            let mut heeds = Heeds::default();
            for at in times {
                heeds.merge(heed(1, *at));
            }
            assert_eq!(heeds.0[0].is_none(), wanted, "{times:?}");
        }
    }

    /// Each destination's path has a size of its own.
    #[test]
    fn who_sends_to_many_is_told_of_each() {
        let mut heeds = Heeds::default();
        (1..=3).for_each(|number| heeds.merge(heed(number, u64::from(number) * 1000)));
        assert!(heeds.0.iter().all(|heed| !heed.is_none()));
        // Two incidents that turn out to be one.
        let mut other = Heeds::default();
        for at in [0, 4000] {
            other.merge(heed(2, at));
        }
        heeds.absorb(other);
        let ignored: Vec<_> = heeds.0.iter().filter(|heed| heed.is_none()).collect();
        assert_eq!(
            ignored,
            [&Heed { told: 3, first: heed(2, 0).first, last: heed(2, 4000).last, ..heed(2, 0) }]
        );
    }

    /// Twenty that are told by turns, and many that are told once.
    #[test]
    fn who_goes_on_is_kept_among_many() {
        for ends in [20, 200] {
            let mut heeds = Heeds::default();
            for round in 0..2000_u64 {
                heeds.merge(heed(u8::try_from(round % ends).unwrap(), round * 50));
                assert!(heeds.0.len() <= Heeds::MOST);
            }
            let go_on = heeds.0.iter().filter(|heed| heed.is_none()).count();
            assert_eq!(go_on, if ends == 20 { Heeds::MOST } else { 0 }, "of {ends}");
        }
    }
}
