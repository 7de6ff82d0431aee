//! The largest counts in words, and what cures them.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::class::words::{About, Home};
use super::class::{Class, Harm};
use super::labels::{DropRows, Labels, direction_name};
use crate::digits::counted;
use crate::probe::counts::{Counts, Rows as _};

/// Fixes of events that are counted under the same; of further ones the class is told.
const MAX_FIXES: usize = 3;

/// Classes and fixes by what is counted.
type ByLabels = BTreeMap<Labels, Known>;

/// What is known of the events that are counted under the same.
#[derive(Clone, Default)]
struct Known {
    /// So many said their fix.
    described: u64,
    /// One of them was cured by what cures all of its reason.
    is_plain: bool,
    /// One more than is told says that there are too many.
    fixes: Vec<Fix>,
}

/// A fix, and where it is to be made.
#[derive(Clone)]
struct Fix {
    class: Class,
    /// What was evident of the first event that had it.
    cause: Option<String>,
    /// With a mark for the places.
    text: String,
    /// One more than is told says that there are more.
    places: Vec<String>,
}

/// Stands in a fix for the places where it is to be made.
const MARK: &str = "\u{1}";

/// A place that is named later.
pub(super) const PLACE: Home = Home::Named(MARK);

/// Places of a fix that are named.
const MAX_PLACES: usize = 3;

/// What one event said of itself.
pub(super) struct Said<'a> {
    pub(super) class: Class,
    /// With [`PLACE`] for where it is to be made.
    pub(super) fix: &'a str,
    pub(super) place: Option<String>,
}

/// What the summary says of a class: why, where that was evident, and what cures it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cure {
    class: Class,
    cause: Option<String>,
    /// The cause is one of several places', with its addresses.
    is_of_many: bool,
    fix: String,
    /// It is the class's own: of events that were only counted, beside others that were described.
    is_rest: bool,
}

impl Cure {
    fn lines(&self) -> impl Iterator<Item = String> {
        let class = self.class.name();
        let rest = if self.is_rest { " (of those only counted)" } else { "" };
        let first = if self.is_of_many { " (the first one's)" } else { "" };
        let cause = self.cause.as_ref().map(|cause| format!("cause of {class}{first}: {cause}"));
        cause.into_iter().chain([format!("fix of {class}{rest}: {}", self.fix)])
    }
}

impl Fix {
    fn told(&self) -> String {
        let more = if self.places.len() > MAX_PLACES { " and others" } else { "" };
        let named = self.places.iter().take(MAX_PLACES).cloned().collect::<Vec<_>>().join(", ");
        self.text.replace(MARK, &(named + more))
    }
}

/// The fixes that single events had, by what they are counted under: counts know neither their devices nor what was evident.
#[derive(Clone, Default)]
pub(super) struct Fixes(Arc<Mutex<ByLabels>>);

impl Fixes {
    /// One more event's. `cause` tells what was evident of it beside the kernel's reason, and `is_plain` whether its fix cures all of its
    /// reason; they are asked once for each fix.
    pub(super) fn learn(
        &self,
        labels: &Labels,
        said: Said<'_>,
        cause: impl FnOnce() -> Option<String>,
        is_plain: impl FnOnce() -> bool,
    ) {
        let Said { class, fix, place } = said;
        let mut all = self.lock();
        if !all.contains_key(labels) {
            all.insert(labels.clone(), Known::default());
        }
        let Some(known) = all.get_mut(labels) else { return };
        known.described += 1;
        if let Some(same) = known.fixes.iter_mut().find(|known| known.text == fix) {
            let place = place.filter(|place| same.places.len() <= MAX_PLACES && !same.places.contains(place));
            same.places.extend(place);
        } else if known.fixes.len() <= MAX_FIXES {
            known.is_plain |= is_plain();
            let places = place.into_iter().collect();
            known.fixes.push(Fix { class, cause: cause(), text: fix.to_owned(), places });
        }
    }

    /// What cures what was counted under these so many times: what its events said; and what the class does, if some of them
    /// were only counted and none that was described is like all, or too many need something of their own.
    fn of(&self, labels: &Labels, events: u64) -> Vec<Cure> {
        let Labels { reason, verdict, .. } = labels;
        let mut known = self.lock().get(labels).cloned().unwrap_or_default();
        if known.fixes.len() > MAX_FIXES {
            known = Known::default();
        }
        let of_event = |fix: &Fix| Cure {
            class: fix.class,
            cause: fix.cause.clone(),
            is_of_many: fix.places.len() > 1,
            fix: fix.told(),
            is_rest: false,
        };
        let mut cures: Vec<_> = known.fixes.iter().map(of_event).collect();
        if known.described < events && !known.is_plain && verdict.harm == Harm::Harmful {
            let about = About { reason, home: Some(&Home::Any), ..About::default() };
            let is_rest = !cures.is_empty();
            let fix = verdict.class.fix(&about).map(Cow::into_owned);
            cures.extend(fix.map(|fix| Cure {
                class: verdict.class,
                cause: None,
                is_of_many: false,
                fix,
                is_rest,
            }));
        }
        cures
    }

    fn lock(&self) -> MutexGuard<'_, ByLabels> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rows of it.
const SUMMARY_ROWS: usize = 8;

/// The largest counts by class, reason, place and direction, benign ones last; and what cures the others, a line a fix.
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
    for ((labels, _), events) in sums.iter().take(SUMMARY_ROWS) {
        for cure in fixes.of(labels, *events) {
            if cured.insert(cure.fix.clone()) {
                lines.extend(cure.lines());
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
    fn what_events_said_is_told_unless_it_is_too_much() {
        let netfilter = Verdict { class: Class::Netfilter, harm: Harm::Harmful };
        let labels = Labels::new("NETFILTER_DROP", netfilter, Direction::Received);
        let fixes = Fixes::default();
        let told = |events| fixes.of(&labels, events).into_iter().map(|cure| cure.fix).collect::<Vec<_>>();
        let of_class = told(1);
        assert!(
            matches!(&of_class[..], [fix] if fix.contains("`conntrack -S`")),
            "only counted: {of_class:?}"
        );
        let learn = |fix: &str, place: Option<&str>, is_plain| {
            let place = place.map(str::to_owned);
            fixes.learn(&labels, Said { class: Class::Netfilter, fix, place }, || None, || is_plain);
        };
        for (at, (fix, count)) in (1..).zip([("max=60", 1), ("max=60", 1), ("max=120", 2), ("max=240", 3)]) {
            learn(fix, None, false);
            assert_eq!(told(at).len(), count, "{fix}");
        }
        assert_eq!(told(4), ["max=60", "max=120", "max=240"]);
        assert_eq!(told(5)[3..], of_class, "one was only counted");
        learn("max=480", None, false);
        assert_eq!(told(5), of_class);
        let benign = Labels::new("", Verdict { harm: Harm::Benign, ..netfilter }, Direction::Received);
        assert_eq!(fixes.of(&benign, 1), []);
    }

    /// Pods alike are one line, and what is only counted beside them needs no other.
    #[test]
    fn a_fix_is_told_once_with_where_it_is_to_be_made() {
        let netfilter = Verdict { class: Class::Netfilter, harm: Harm::Harmful };
        let labels = Labels::new("NETFILTER_DROP", netfilter, Direction::Received);
        let fixes = Fixes::default();
        let fix = format!("mend it (in {MARK})");
        for (pod, told) in [
            ("a", "mend it (in a)"),
            ("b", "mend it (in a, b)"),
            ("a", "mend it (in a, b)"),
            ("c", "mend it (in a, b, c)"),
            ("d", "mend it (in a, b, c and others)"),
            ("e", "mend it (in a, b, c and others)"),
        ] {
            let place = Some(pod.to_owned());
            // What was evident of the first stands for all: numbers change from one to the next.
            let cause = Some(format!("16 of 16, {pod}"));
            fixes.learn(&labels, Said { class: Class::Netfilter, fix: &fix, place }, || cause, || true);
            let lines: Vec<_> = fixes.of(&labels, 1000).iter().flat_map(Cure::lines).collect();
            let first = if told == "mend it (in a)" { "" } else { " (the first one's)" };
            let wanted =
                [format!("cause of netfilter{first}: 16 of 16, a"), format!("fix of netfilter: {told}")];
            assert_eq!(lines, wanted, "{pod}");
        }
    }

    /// What is only counted may be something else than what was described.
    #[test]
    fn what_was_only_counted_is_told_apart() {
        let netfilter = Verdict { class: Class::Netfilter, harm: Harm::Harmful };
        let labels = Labels::new("NETFILTER_DROP", netfilter, Direction::Received);
        let fixes = Fixes::default();
        let lines = || fixes.of(&labels, 2).iter().flat_map(Cure::lines).collect::<Vec<_>>();
        assert!(matches!(&lines()[..], [fix] if fix.starts_with("fix of netfilter: ")), "{:?}", lines());
        let said = Said { class: Class::Netfilter, fix: "mend", place: None };
        fixes.learn(&labels, said, || None, || false);
        let told = lines();
        assert_eq!(told[0], "fix of netfilter: mend");
        assert!(told[1].starts_with("fix of netfilter (of those only counted): "), "{told:?}");
    }
}
