//! The largest counts in words, and what cures them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::class::words::About;
use super::class::{Class, Harm};
use super::labels::{DropRows, Labels, direction_name};
use crate::digits::counted;
use crate::probe::counts::{Counts, Rows as _};

/// What single events had evidence of, by what they are counted under: counts do not know it.
#[derive(Clone, Default)]
pub(super) struct Fixes(Arc<Mutex<BTreeMap<Labels, Known>>>);

/// What is known of the events counted under the same.
#[derive(Clone, Default)]
struct Known {
    /// The class and the fix that the last evidence speaks for.
    proven: Option<(Class, String)>,
    /// Some had no evidence.
    is_plain: bool,
}

impl Fixes {
    /// One more event: what its evidence speaks for, if it has any.
    pub(super) fn learn(&self, labels: &Labels, proven: Option<(Class, String)>) {
        let mut known = self.lock();
        if !known.contains_key(labels) {
            known.insert(labels.clone(), Known::default());
        }
        if let Some(known) = known.get_mut(labels) {
            known.is_plain |= proven.is_none();
            known.proven = proven.or_else(|| known.proven.take());
        }
    }

    /// What cures what is counted under these: what the evidence speaks for, and what the class does where there was none.
    fn of(&self, labels: &Labels) -> impl Iterator<Item = (Class, String)> {
        let Labels { reason, verdict, .. } = labels;
        let known = self.lock().get(labels).cloned().unwrap_or_default();
        let about = About { reason, ..About::default() };
        let is_plain = verdict.harm == Harm::Harmful && (known.is_plain || known.proven.is_none());
        let of_class = verdict.class.fix(&about).filter(|_| is_plain);
        known.proven.into_iter().chain(of_class.map(|fix| (verdict.class, fix.into_owned())))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Labels, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rows of it.
const SUMMARY_ROWS: usize = 8;

/// The largest counts by class, reason, place and direction, benign ones last; and what cures the others, a line a class.
pub(super) fn of(counts: &Counts<DropRows>, fixes: &Fixes) -> Vec<String> {
    let meaning = counts.meaning();
    let mut sums: BTreeMap<(Labels, String), u64> = BTreeMap::new();
    for (key, sum) in counts.rows() {
        let place = meaning.places.at(key.place.into()).map(|place| format!(" in {}", place.function));
        *sums.entry((meaning.labels(&DropRows::kind(&key)), place.unwrap_or_default())).or_default() +=
            sum.events;
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|((labels, _), packets)| (labels.verdict.harm, Reverse(*packets)));
    let more = u64::try_from(sums.len().saturating_sub(SUMMARY_ROWS)).unwrap_or(u64::MAX);
    let mut lines: Vec<String> = sums
        .iter()
        .take(SUMMARY_ROWS)
        .map(|((Labels { reason, verdict, direction }, place), packets)| {
            let benign = if verdict.harm == Harm::Benign { " (benign)" } else { "" };
            let (class, direction) = (verdict.class.name(), direction.map_or("other", direction_name));
            format!("{packets:>6} {class}{benign}: {reason}{place}, {direction}")
        })
        .collect();
    if more > 0 {
        lines.push(format!("       and {}", counted(more, "more kind")));
    }
    let mut cured = BTreeSet::new();
    for ((labels, _), _) in sums.iter().take(SUMMARY_ROWS) {
        for (class, fix) in fixes.of(labels) {
            if cured.insert(fix.clone()) {
                lines.push(format!("fix of {}: {fix}", class.name()));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use agent_common::drops::Direction;

    use super::super::class::Verdict;
    use super::*;

    #[test]
    fn what_is_proven_is_told_and_what_is_not_beside_it() {
        let netfilter = Verdict { class: Class::Netfilter, harm: Harm::Harmful };
        let labels = Labels::new("NETFILTER_DROP", netfilter, Direction::Received);
        let fixes = Fixes::default();
        let told = || fixes.of(&labels).map(|(class, fix)| (class, fix.contains("=60"))).collect::<Vec<_>>();
        assert_eq!(told(), [(Class::Netfilter, false)], "only counted");
        let full = || Some((Class::Netfilter, "`sysctl -w net.netfilter.nf_conntrack_max=60`".to_owned()));
        fixes.learn(&labels, full());
        assert_eq!(told(), [(Class::Netfilter, true)]);
        fixes.learn(&labels, None);
        fixes.learn(&labels, full());
        assert_eq!(told(), [(Class::Netfilter, true), (Class::Netfilter, false)]);
        let benign = Labels::new("", Verdict { harm: Harm::Benign, ..netfilter }, Direction::Received);
        assert_eq!(fixes.of(&benign).count(), 0);
    }
}
