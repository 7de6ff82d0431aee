//! Keeps a family within its share of series: what is over the cap is summed in one overflow series.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash, RandomState};

/// Rows over the cap that are remembered one by one, at most.
const MAX_FOLDED: usize = 65_536;

/// Decides which rows of a counter family have a series of their own.
///
/// First come, first kept, until [`Fold::retire`]: a series must not come and go with its rank, and a row that was
/// once in the overflow stays there, or the overflow would fall and Prometheus would take it for a restart. So the
/// overflow never falls, and kept rows and overflow always add up to all that was counted for them.
#[derive(Debug)]
pub struct Fold<K, S = RandomState> {
    max: usize,
    kept: HashSet<K, S>,
    /// Rows in the overflow, with their latest counts.
    folded: HashMap<K, u64, S>,
    /// What retired rows had counted when they were last seen.
    retired: u64,
    rows_folded: u64,
    overflow: u64,
}

/// One scrape's rows after folding.
#[derive(Debug, PartialEq, Eq)]
pub struct Folded<K> {
    /// Rows with a series of their own.
    pub own: Vec<(K, u64)>,
    /// The sum of all others, since the start; `None` while there has been none.
    pub overflow: Option<u64>,
}

impl<K: Eq + Hash + Clone, S: BuildHasher + Default> Fold<K, S> {
    /// At most `max` series besides the overflow one (`--max-series`).
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            max,
            kept: HashSet::default(),
            folded: HashMap::default(),
            retired: 0,
            rows_folded: 0,
            overflow: 0,
        }
    }

    /// Sorts one scrape's `rows`: each key once, with its count since the start.
    pub fn fold(&mut self, rows: impl IntoIterator<Item = (K, u64)>) -> Folded<K> {
        let rows = rows.into_iter();
        let mut own = Vec::with_capacity(rows.size_hint().0.min(self.max));
        let mut unremembered = 0_u64;
        for (key, count) in rows {
            if self.kept.contains(&key) {
                own.push((key, count));
            } else if let Some(latest) = self.folded.get_mut(&key) {
                *latest = count.max(*latest);
            } else if self.kept.len() < self.max && self.folded.len() < MAX_FOLDED {
                self.kept.insert(key.clone());
                own.push((key, count));
            } else if self.folded.len() < MAX_FOLDED {
                self.folded.insert(key, count);
                self.rows_folded += 1;
            } else {
                unremembered = unremembered.saturating_add(count);
            }
        }
        let folded = self.folded.values().fold(self.retired, |sum, count| sum.saturating_add(*count));
        self.overflow = self.overflow.max(folded.saturating_add(unremembered));
        Folded { own, overflow: (self.overflow > 0 || self.rows_folded > 0).then_some(self.overflow) }
    }

    /// Forgets the rows that are gone for good; their series end and make room. What they had put into the overflow
    /// stays in it.
    pub fn retire(&mut self, gone: impl Fn(&K) -> bool) {
        self.kept.retain(|key| !gone(key));
        let retired = &mut self.retired;
        self.folded.retain(|key, count| {
            let stays = !gone(key);
            if !stays {
                *retired = retired.saturating_add(*count);
            }
            stays
        });
    }

    /// Adds to the overflow what belongs to no row any more.
    pub const fn set_aside(&mut self, count: u64) {
        self.retired = self.retired.saturating_add(count);
    }

    /// Rows that were put into the overflow since the start (those beyond 65,536 at a time are not told apart).
    #[must_use]
    pub const fn rows_folded(&self) -> u64 {
        self.rows_folded
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn first_come_is_kept_whatever_grows_later() {
        let mut fold = Fold::<_>::new(2);
        assert_eq!(fold.fold([("a", 1), ("b", 1)]), Folded { own: vec![("a", 1), ("b", 1)], overflow: None });
        let later = fold.fold([("c", 900), ("b", 2), ("d", 50), ("a", 2)]);
        assert_eq!(later, Folded { own: vec![("b", 2), ("a", 2)], overflow: Some(950) });
        assert_eq!(fold.rows_folded(), 2);
    }

    #[test]
    fn room_goes_to_newcomers_not_to_the_folded() {
        let mut fold = Fold::<_>::new(1);
        fold.fold([("a", 1), ("b", 5)]);
        fold.retire(|key| *key == "a");
        let next = fold.fold([("b", 6), ("c", 3)]);
        assert_eq!(next, Folded { own: vec![("c", 3)], overflow: Some(6) });
    }

    #[test]
    fn a_retired_row_leaves_its_count_behind() {
        let mut fold = Fold::<_>::new(0);
        assert_eq!(fold.fold([("a", 7), ("b", 1)]).overflow, Some(8));
        fold.retire(|key| *key == "a");
        assert_eq!(fold.fold([("b", 2)]).overflow, Some(9));
        // The same key again is another row: its pod came back, its count began anew.
        assert_eq!(fold.fold([("a", 1), ("b", 2)]).overflow, Some(10));
    }

    #[test]
    fn memory_is_bounded_and_the_sum_still_right() {
        let mut fold = Fold::<_>::new(1);
        let rows = MAX_FOLDED as u64 + 1_000;
        let folded = fold.fold((0..rows).map(|key| (key, 1)));
        assert_eq!(folded.own.len(), 1);
        assert_eq!(folded.overflow, Some(rows - 1));
        assert_eq!(fold.folded.len(), MAX_FOLDED);
        // While no more can be remembered nobody is given a series: whoever was not remembered would fall out of the sum.
        fold.retire(|key| *key == 0);
        let folded = fold.fold([(rows, 1)]);
        assert_eq!((folded.own.len(), folded.overflow), (0, Some(rows - 1)));
    }

    #[test]
    fn the_overflow_is_there_once_anything_is_in_it() {
        assert_eq!(Fold::<_>::new(1).fold([("a", 0)]).overflow, None);
        assert_eq!(
            Fold::<_>::new(0).fold([("a", 0)]).overflow,
            Some(0),
            "a series of its own would be zero as well"
        );
        let mut fold = Fold::<_>::new(1);
        fold.set_aside(5);
        assert_eq!(fold.fold([("a", 1)]), Folded { own: vec![("a", 1)], overflow: Some(5) });
        fold.set_aside(2);
        assert_eq!(fold.fold([("b", 1)]).overflow, Some(8));
    }

    proptest! {
        #[test]
        fn the_parts_add_up_and_no_series_ever_falls(
            max in 0usize..5,
            steps in prop::collection::vec(prop::collection::vec((0u8..10, 0u64..100), 0..12), 1..20),
        ) {
            let mut fold = Fold::<_>::new(max);
            let mut counts = BTreeMap::<u8, u64>::new();
            let mut before = BTreeMap::new();
            let mut overflow = 0;
            for step in steps {
                for (key, more) in step {
                    *counts.entry(key).or_default() += more;
                }
                let folded = fold.fold(counts.clone());
                prop_assert!(folded.own.len() <= max);
                let sum: u64 = folded.own.iter().map(|(_, count)| count).sum();
                prop_assert_eq!(sum + folded.overflow.unwrap_or(0), counts.values().sum::<u64>());
                prop_assert!(folded.overflow.unwrap_or(0) >= overflow);
                overflow = folded.overflow.unwrap_or(0);
                let now: BTreeMap<u8, u64> = folded.own.into_iter().collect();
                prop_assert!(before.iter().all(|(key, count)| now.get(key) >= Some(count)));
                before = now;
            }
        }
    }
}
