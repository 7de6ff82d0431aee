//! Exact counts: a probe's per-CPU rows in the kernel, read at each scrape, never fed from events.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use agent_common::{Count, Tally};
use prometheus_client::encoding::EncodeLabelSet;

use super::attach::{MapError, Maps};
use super::{Ends, Level, Pods, TraceId};
use crate::metrics::fold::Fold;
use crate::pod::{FindPod, MAX_SLOTS, Slot};

mod batch;
mod names;
mod scrape;
mod source;

use names::{Names, Quick};
use scrape::{PodName, PodRow, Slots};
use source::KernelMaps;
pub(crate) use source::Source;

/// Rows of one family before further ones are folded into an overflow row.
pub const MAX_SERIES: usize = 10_000;

/// Rows of pods that are kept here after they left the kernel; further ones go into the overflow row.
const MAX_LEFT: usize = 65_536;

/// What the rows of one probe's map `COUNTS` mean.
pub trait Rows: Send + Sync + 'static {
    /// The map's key.
    type Key: aya::Pod + Eq + Hash + Send;
    /// The part of a key that its labels hang on: there are few of them, so a scrape finds the labels of each once.
    type Kind: Copy + Eq + Hash + Send;
    /// What a row is counted under, node-wide. All from closed sets.
    type Labels: EncodeLabelSet + Clone + Eq + Hash + Ord + fmt::Debug + Send + Sync;

    /// Names and helps of the metrics.
    const FAMILIES: Families;

    /// What the labels of a row hang on.
    fn kind(key: &Self::Key) -> Self::Kind;
    /// The labels of such rows.
    fn labels(&self, kind: &Self::Kind) -> Self::Labels;
    /// The slots of the pods at both ends of a row.
    fn slots(key: &Self::Key) -> Ends<u16>;
    /// How much such events matter, and what `--reason` matches of them.
    fn matters(&self, kind: &Self::Kind) -> (Level, Vec<String>);
    /// What else `--reason` may match of such an event once it is looked at.
    fn may_be(&self, kind: &Self::Kind) -> Option<&'static str> {
        let _ = kind;
        None
    }
    /// Whether the source of such rows may be believed.
    fn trusts_source(&self, kind: &Self::Kind) -> bool {
        let _ = kind;
        true
    }
}

/// One metric family's name, without prefix and `_total`, and help.
pub type Family = (&'static str, &'static str);

/// The metric families of a probe's counts.
#[derive(Debug)]
pub struct Families {
    /// Events on the whole node.
    pub events: Family,
    /// Their bytes, where that says something.
    pub bytes: Option<Family>,
    /// Events with a pod of this node at one end.
    pub pods: Family,
    /// Events that are in no row.
    pub uncounted: Family,
    /// Pods' rows that went into the overflow series.
    pub folded: Family,
    /// The labels of the overflow series beside namespace, pod and end: its sum is right, its names are not kept.
    pub other: &'static [(&'static str, &'static str)],
}

/// Events that were counted only, and what is known of them all the same.
#[derive(Clone, Debug)]
pub struct Limited {
    /// How much they matter.
    pub level: Level,
    /// What `--reason` matches of them.
    pub reasons: Vec<String>,
    /// And of some of them, perhaps.
    pub may_be: Option<&'static str>,
    /// The pods at both ends, as far as the kernel side knew them.
    pub pods: Pods,
    /// How many.
    pub events: u64,
}

/// Reads a probe's [`Limited`], by kind and pods.
pub type ReadLimited = Arc<dyn Fn() -> Vec<Limited> + Send + Sync>;

/// Events and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Events.
    pub events: u64,
    /// Bytes.
    pub bytes: u64,
    /// Of the events, those that were wanted and not described.
    pub limited: u64,
}

impl Sum {
    /// Over all CPUs.
    fn over(counts: &[Count]) -> Self {
        let mut sum = Self::default();
        for count in counts {
            sum.add(Self { events: count.events, bytes: count.bytes, limited: count.limited });
        }
        sum
    }

    /// Adds another.
    pub const fn add(&mut self, other: Self) {
        self.events += other.events;
        self.bytes += other.bytes;
        self.limited += other.limited;
    }

    /// What has come since it was `before`.
    const fn since(self, before: Self) -> Self {
        Self {
            events: self.events.saturating_sub(before.events),
            bytes: self.bytes.saturating_sub(before.bytes),
            limited: self.limited.saturating_sub(before.limited),
        }
    }
}

/// A probe's maps of counts and what turns their keys into labels. Cheap to clone: all share one.
pub struct Counts<R: Rows>(Arc<Shared<R>>);

impl<R: Rows> Clone for Counts<R> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<R: Rows> fmt::Debug for Counts<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Counts").field(&R::FAMILIES.events.0).finish()
    }
}

struct Shared<R: Rows> {
    meaning: R,
    state: Mutex<State<R>>,
}

struct State<R: Rows> {
    source: Box<dyn Source<R::Key>>,
    label_names: Names<R::Labels>,
    pod_names: Names<PodName>,
    /// Node-wide counts of rows whose slots were retired, by labels: those series must not go backwards.
    retired: BTreeMap<u32, Sum>,
    /// What pods that are still there had in rows that went with a pod at the other end: nor must theirs.
    left: HashMap<PodRow, u64, Quick>,
    /// What the kinds of the last scrape were counted under, and whether their source was believed. A module that is loaded later
    /// gives places names, and kinds other labels: what came until the next scrape still counts under the old ones.
    named: HashMap<R::Kind, (u32, bool), Quick>,
    /// What rows had when the labels of their kind changed: that stays with the old ones.
    moved: HashMap<R::Key, Sum, Quick>,
    /// By labels.
    exemplars: HashMap<u32, (TraceId, SystemTime), Quick>,
    pods: Option<Arc<dyn FindPod>>,
    /// Which pods' rows have a series of their own.
    fold: Fold<PodRow, Quick>,
}

impl<R: Rows> State<R> {
    fn labels_id(&mut self, labels: R::Labels) -> u32 {
        self.label_names.id(labels, |labels| names::text_of(labels.clone()))
    }

    /// What a row counts under the present labels of its kind.
    fn unmoved(&self, key: &R::Key, sum: Sum) -> Sum {
        self.moved.get(key).map_or(sum, |moved| sum.since(*moved))
    }

    /// Keeps what a pod had in a row that goes.
    fn leave(&mut self, row: PodRow, events: u64) {
        if self.left.len() < MAX_LEFT || self.left.contains_key(&row) {
            *self.left.entry(row).or_default() += events;
        } else {
            self.fold.set_aside(events);
        }
    }
}

impl<R: Rows> Counts<R> {
    /// Takes the maps `COUNTS` and `TALLY` out of the loaded object of a probe with so many hooks.
    ///
    /// # Errors
    /// One is missing or of another type.
    pub fn take(maps: &mut Maps<'_>, meaning: R, hooks: usize) -> Result<Self, MapError> {
        Ok(Self::new(Box::new(KernelMaps::take(maps, hooks)?), meaning))
    }

    /// Reads its rows from `source`.
    pub(crate) fn new(source: Box<dyn Source<R::Key>>, meaning: R) -> Self {
        let state = State {
            source,
            label_names: Names::default(),
            pod_names: Names::default(),
            retired: BTreeMap::new(),
            left: HashMap::default(),
            named: HashMap::default(),
            moved: HashMap::default(),
            exemplars: HashMap::default(),
            pods: None,
            fold: Fold::new(MAX_SERIES),
        };
        Self(Arc::new(Shared { meaning, state: Mutex::new(state) }))
    }

    fn state(&self) -> MutexGuard<'_, State<R>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the rows mean.
    #[must_use]
    pub fn meaning(&self) -> &R {
        &self.0.meaning
    }

    /// Names slots in the per-pod families.
    pub fn name_pods_by(&self, pods: Arc<dyn FindPod>) {
        self.state().pods = Some(pods);
    }

    /// What each hook's kernel side did with its events so far, over all CPUs, by the hook's place in the probe's list.
    #[must_use]
    pub fn tallies(&self) -> Vec<Tally> {
        self.state().source.tallies()
    }

    /// Every row, summed over CPUs.
    #[must_use]
    pub fn rows(&self) -> Vec<(R::Key, Sum)> {
        self.state().source.rows()
    }

    /// Events that were counted only, row by row.
    #[must_use]
    pub fn limited(&self) -> Vec<Limited> {
        let state = self.state();
        let (meaning, now) = (self.meaning(), SystemTime::now());
        let rows = state.source.rows().into_iter().filter(|(_, sum)| sum.limited > 0);
        rows.map(|(key, sum)| {
            let kind = R::kind(&key);
            let (level, reasons) = meaning.matters(&kind);
            let Ends { source, destination } = R::slots(&key);
            let pods = Ends { source: state.pod(source, now), destination: state.pod(destination, now) };
            Limited { level, reasons, may_be: meaning.may_be(&kind), pods, events: sum.limited }
        })
        .collect()
    }

    /// [`Counts::limited`], to be called later.
    #[must_use]
    pub fn limited_reader(&self) -> ReadLimited {
        let counts = self.clone();
        Arc::new(move || counts.limited())
    }

    /// Remembers an event's incident as the example of its series.
    pub fn exemplify(&self, labels: R::Labels, trace_id: TraceId, at: SystemTime) {
        let mut state = self.state();
        let labels = state.labels_id(labels);
        if state.exemplars.len() < MAX_SERIES || state.exemplars.contains_key(&labels) {
            state.exemplars.insert(labels, (trace_id, at));
        }
    }

    /// Takes a gone pod's rows out, so that its slot can be another pod's. The node and the pods at their other ends keep what
    /// they had in them, for a counter that falls passes for one that began anew.
    pub fn retire(&self, slot: Slot) {
        let (mut state, now) = (self.state(), SystemTime::now());
        let (state, mut slots) = (&mut *state, Slots::new());
        let meaning = self.meaning();
        let is_its = |(key, _): &(R::Key, Sum)| {
            let Ends { source, destination } = R::slots(key);
            [source, destination].contains(&slot.0.get())
        };
        let its: Vec<_> = state.source.rows().into_iter().filter(is_its).collect();
        let name = state.pod(slot.0.get(), now).map(PodName);
        let gone = state.pod_id(slot.0.get(), now);
        // A pod of a StatefulSet comes back under its name, and goes on with its series.
        let comes_back = gone.is_some()
            && (1..MAX_SLOTS)
                .filter(|other| *other != slot.0.get())
                .any(|other| slots.pod(other, || state.pod_id(other, now)) == gone);
        for (key, sum) in its {
            if !state.source.remove(&key) {
                continue;
            }
            let (kind, sum) = (R::kind(&key), state.unmoved(&key, sum));
            state.moved.remove(&key);
            let (labels, trusts_source) = match state.named.get(&kind) {
                Some(named) => *named,
                None => (state.labels_id(meaning.labels(&kind)), meaning.trusts_source(&kind)),
            };
            state.retired.entry(labels).or_default().add(sum);
            for (end, pod) in state.ends(trusts_source, &key, &mut slots, now) {
                if comes_back || Some(pod) != gone {
                    state.leave(PodRow { pod, end, labels }, sum.events);
                }
            }
        }
        // Its number may be another pod's next, so no row may keep it.
        if let Some(name) = name.filter(|_| !comes_back)
            && let Some(gone) = state.pod_names.forget(&name)
        {
            state.fold.retire(|row| row.pod == gone);
            state.left.retain(|row, _| row.pod != gone);
        }
    }
}

#[cfg(test)]
mod tests;
