//! Counts of a made-up probe, whose rows say a number and the slots at both ends.

use std::num::NonZeroU16;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use super::scrape::End;
use super::*;
use crate::metrics::{Format, Metrics};
use crate::pod::{Pod, Subject};

/// So much is added to each number once something is learned.
#[derive(Clone, Default)]
struct Numbers(Arc<AtomicU16>);

/// The number, and the slots of source and destination.
type Key = [u16; 3];

impl Rows for Numbers {
    type Key = Key;
    type Kind = u16;
    type Labels = [(&'static str, u16); 1];

    const FAMILIES: Families = Families {
        events: ("numbers", "Numbers"),
        bytes: None,
        pods: ("pod_numbers", "Numbers of pods"),
        uncounted: ("uncounted_numbers", "Numbers in no row"),
        folded: ("folded_numbers", "Rows in the overflow"),
        other: &[("number", "other")],
    };

    fn kind(key: &Key) -> u16 {
        key[0]
    }

    fn labels(&self, number: &u16) -> Self::Labels {
        [("number", *number + self.0.load(Ordering::Relaxed))]
    }

    fn slots(key: &Key) -> Ends<u16> {
        Ends { source: key[1], destination: key[2] }
    }

    fn matters(&self, number: &u16) -> (Level, Vec<String>) {
        (Level::Warn, vec![number.to_string()])
    }
}

/// What the kernel would hold.
struct Held(Vec<(Key, Sum)>);

impl Source<Key> for Held {
    fn rows(&self) -> Vec<(Key, Sum)> {
        self.0.clone()
    }

    fn remove(&mut self, key: &Key) -> bool {
        let before = self.0.len();
        self.0.retain(|(held, _)| held != key);
        self.0.len() < before
    }

    fn tallies(&self) -> Vec<Tally> {
        Vec::new()
    }
}

/// Rows of two events each, of which one was counted only.
fn counts(keys: &[Key]) -> Counts<Numbers> {
    let sum = Sum { events: 2, bytes: 0, limited: 1 };
    Counts::new(Box::new(Held(keys.iter().map(|key| (*key, sum)).collect())), Numbers::default())
}

/// The names of the pods of slots 1, 2, ..
struct Pods(&'static [&'static str]);

impl FindPod for Pods {
    fn find_pod(&self, subject: Subject, _: SystemTime) -> Option<Arc<Pod>> {
        let Subject::Slot(slot) = subject else { return None };
        let name = self.0.get(usize::from(slot.0.get()) - 1)?;
        let pod = Pod { namespace: "shop".into(), name: (*name).to_owned(), uid: (*name).to_owned() };
        Some(Arc::new(pod))
    }
}

/// Who has a series of its own, with its number.
fn own_series(counts: &Counts<Numbers>) -> Vec<String> {
    let mut metrics = Metrics::default();
    metrics.registry().register_collector(Box::new(counts.clone()));
    let text = metrics.encode(Format::Classic).unwrap();
    let series = text.lines().filter_map(|line| {
        let labels = line.strip_prefix("r2c_pod_numbers_total{namespace=\"shop\",pod=\"")?;
        let (pod, rest) = labels.split_once('"')?;
        Some(format!("{pod} {}", rest.split_once("number=\"")?.1.split_once('"')?.0))
    });
    series.collect()
}

#[test]
fn a_row_is_the_sum_of_all_cpus() {
    let of_cpu = |events, bytes, limited| Count { events, bytes, limited, ..Count::default() };
    let sum = Sum::over(&[of_cpu(1, 20, 300), of_cpu(4, 50, 600), Count::default()]);
    assert_eq!(sum, Sum { events: 5, bytes: 70, limited: 900 });
}

#[test]
fn what_was_counted_only_is_told_with_the_pods_at_both_ends() {
    let counts = counts(&[[7, 2, 1], [8, 0, 9]]);
    counts.name_pods_by(Arc::new(Pods(&["a", "b"])));
    let told: Vec<_> = counts
        .limited()
        .into_iter()
        .map(|limited| {
            let name = |pod: Option<Arc<Pod>>| pod.map(|pod| pod.name.clone());
            let ends = [limited.pods.source, limited.pods.destination].map(name);
            (limited.reasons.join(" "), limited.may_be, ends, limited.events)
        })
        .collect();
    let [a, b] = ["a", "b"].map(|name| Some(name.to_owned()));
    assert_eq!(told, [("7".to_owned(), None, [b, a], 1), ("8".to_owned(), None, [None, None], 1)]);
}

/// A pod that has gone leaves its place to a newcomer, and the others keep theirs.
#[test]
fn a_series_that_ends_makes_room_for_another() {
    let counts = counts(&[[7, 1, 0], [7, 2, 0], [8, 3, 0]]);
    counts.state().fold = Fold::new(2);
    counts.name_pods_by(Arc::new(Pods(&["a", "b"])));
    assert_eq!(own_series(&counts), ["a 7", "b 7"]);
    counts.retire(Slot(NonZeroU16::MIN));
    counts.name_pods_by(Arc::new(Pods(&["", "b", "c"])));
    assert_eq!(own_series(&counts), ["b 7", "c 8"]);
}

/// Pods come and go for as long as the node is up.
#[test]
fn what_gone_pods_leave_to_others_stays_bounded_and_none_of_it_is_lost() {
    let counts = counts(&[]);
    let mut state = counts.state();
    let row = |labels| PodRow { pod: 0, end: End::Source, labels };
    for labels in (0..=MAX_LEFT).map(|number| u32::try_from(number).unwrap()) {
        state.leave(row(labels), 1);
    }
    state.leave(row(0), 5);
    assert_eq!((state.left.len(), state.left[&row(0)]), (MAX_LEFT, 6));
    assert_eq!(state.fold.fold([]).overflow, Some(1));
}

#[test]
fn examples_stay_bounded_and_those_that_are_there_are_renewed() {
    let counts = counts(&[]);
    let [first, last] = [1, 2].map(|second| SystemTime::UNIX_EPOCH + Duration::from_secs(second));
    let exemplify = |number: usize, at| {
        counts.exemplify([("number", u16::try_from(number).unwrap())], TraceId::random(), at);
    };
    for number in 0..=MAX_SERIES {
        exemplify(number, first);
    }
    exemplify(0, last);
    let examples = &counts.state().exemplars;
    let renewed = examples.values().filter(|(_, at)| *at == last).count();
    assert_eq!((examples.len(), renewed), (MAX_SERIES, 1));
}

/// A source that grows.
#[derive(Clone, Default)]
struct Growing(Arc<Mutex<Vec<(Key, Sum)>>>);

impl Source<Key> for Growing {
    fn rows(&self) -> Vec<(Key, Sum)> {
        self.0.lock().unwrap().clone()
    }

    fn remove(&mut self, key: &Key) -> bool {
        self.0.lock().unwrap().retain(|(held, _)| held != key);
        true
    }

    fn tallies(&self) -> Vec<Tally> {
        Vec::new()
    }
}

/// A place gets its name when its module's symbols are read, and its rows other labels: no series falls, and nothing is counted twice.
#[test]
fn what_was_counted_under_another_name_stays_there() {
    let (rows, names) = (Growing::default(), Numbers::default());
    let counts = Counts::new(Box::new(rows.clone()), names.clone());
    counts.name_pods_by(Arc::new(Pods(&["a", "b"])));
    let mut metrics = Metrics::default();
    metrics.registry().register_collector(Box::new(counts.clone()));
    let scraped = || {
        let text = metrics.encode(Format::Classic).unwrap();
        let of = |series: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{series} ")));
            line.map(|value| value.parse::<u64>().unwrap())
        };
        let pod = |number| {
            format!(
                "r2c_pod_numbers_total{{namespace=\"shop\",pod=\"a\",end=\"source\",number=\"{number}\"}}"
            )
        };
        [1, 11].map(|number| (of(&format!("r2c_numbers_total{{number=\"{number}\"}}")), of(&pod(number))))
    };
    let grow = |events| *rows.0.lock().unwrap() = vec![([1, 1, 2], Sum { events, ..Sum::default() })];
    let both = |events| (Some(events), Some(events));
    grow(2);
    assert_eq!(scraped(), [both(2), (None, None)]);
    grow(3);
    names.0.store(10, Ordering::Relaxed);
    assert_eq!(scraped(), [both(3), both(0)]);
    grow(7);
    assert_eq!(scraped(), [both(3), both(4)]);
    assert_eq!(scraped(), [both(3), both(4)], "nothing has come");
    // The pod at its other end goes.
    grow(9);
    counts.retire(Slot(NonZeroU16::new(2).unwrap()));
    assert_eq!(scraped(), [both(3), both(6)]);
    // Its row begins anew.
    grow(1);
    assert_eq!(scraped(), [both(3), both(7)]);
}
