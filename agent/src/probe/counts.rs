//! Exact counts: a probe's per-CPU rows in the kernel, read at each scrape, never fed from events.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use agent_common::{Count, Tally};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, LabelSetEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::exemplar::CounterWithExemplar;

use super::attach::{MapError, Maps};
use super::{Ends, TraceId};
use crate::metrics::fold::{Fold, Folded};
use crate::pod::{FindPod, Pod, Slot, Subject};

mod batch;
mod source;

use source::KernelMaps;
pub(crate) use source::Source;

/// Rows of one family before further ones are folded into an overflow row.
pub const MAX_SERIES: usize = 10_000;

/// What the rows of one probe's map `COUNTS` mean.
pub trait Rows: Send + Sync + 'static {
    /// The map's key.
    type Key: aya::Pod + Send;
    /// What a row is counted under, node-wide. All from closed sets.
    type Labels: EncodeLabelSet + Clone + Eq + Hash + Ord + fmt::Debug + Send;

    /// Names and helps of the metrics.
    const FAMILIES: Families;

    /// The labels of a row.
    fn labels(&self, key: &Self::Key) -> Self::Labels;
    /// The slots of the pods at both ends of a row.
    fn slots(key: &Self::Key) -> Ends<u16>;
    /// Whether the source of such rows may be believed.
    fn trusts_source(labels: &Self::Labels) -> bool {
        let _ = labels;
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
    /// The labels of the overflow series beside namespace, pod and end: its sum is right, its names are not to be had.
    pub other: &'static [(&'static str, &'static str)],
}

/// Events and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Events.
    pub events: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Sum {
    /// Over all CPUs.
    fn over(counts: &[Count]) -> Self {
        let mut sum = Self::default();
        for count in counts {
            sum.add(Self { events: count.events, bytes: count.bytes });
        }
        sum
    }

    /// Adds another.
    pub const fn add(&mut self, other: Self) {
        self.events += other.events;
        self.bytes += other.bytes;
    }
}

/// What a pod's events are counted under.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct PodLabels<L> {
    pod: Arc<Pod>,
    end: &'static str,
    labels: L,
}

impl<L: EncodeLabelSet> EncodeLabelSet for PodLabels<L> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let (namespace, pod) = (self.pod.namespace.as_str(), self.pod.name.as_str());
        [("namespace", namespace), ("pod", pod), ("end", self.end)].encode(encoder)?;
        self.labels.encode(encoder)
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
    /// Node-wide counts of rows whose slots were retired: those series must not go backwards.
    retired: BTreeMap<R::Labels, Sum>,
    exemplars: HashMap<R::Labels, (TraceId, SystemTime)>,
    pods: Option<Arc<dyn FindPod>>,
    /// Which pods' rows have a series of their own.
    fold: Fold<PodLabels<R::Labels>>,
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
            retired: BTreeMap::new(),
            exemplars: HashMap::new(),
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

    /// Remembers an event's incident as the example of its series.
    pub fn exemplify(&self, labels: R::Labels, trace_id: TraceId, at: SystemTime) {
        let mut state = self.state();
        if state.exemplars.len() < MAX_SERIES || state.exemplars.contains_key(&labels) {
            state.exemplars.insert(labels, (trace_id, at));
        }
    }

    /// Folds a gone pod's rows into the node-wide counts and clears them, so that its slot can be another pod's.
    pub fn retire(&self, slot: Slot) {
        let mut state = self.state();
        for (key, sum) in state.source.rows() {
            let Ends { source, destination } = R::slots(&key);
            let is_its = [source, destination].contains(&slot.0.get());
            if is_its && state.source.remove(&key) {
                state.retired.entry(self.0.meaning.labels(&key)).or_default().add(sum);
            }
        }
        if let Some(pod) = state.pod(slot.0.get()) {
            state.fold.retire(|row| row.pod == pod);
        }
    }
}

/// One scrape's worth of counts.
struct Snapshot<L> {
    node: BTreeMap<L, Sum>,
    pods: Folded<PodLabels<L>>,
    folded: u64,
}

impl<R: Rows> State<R> {
    /// The pod of a slot on the wire.
    fn pod(&self, slot: u16) -> Option<Arc<Pod>> {
        self.pods.as_ref()?.find_pod(Subject::Slot(Slot::from_wire(slot)?), SystemTime::now())
    }

    fn snapshot(&mut self, meaning: &R) -> Snapshot<R::Labels> {
        let (mut node, mut pods) = (self.retired.clone(), BTreeMap::<PodLabels<R::Labels>, u64>::new());
        for (key, sum) in self.source.rows() {
            let labels = meaning.labels(&key);
            node.entry(labels.clone()).or_default().add(sum);
            let Ends { source, destination } = R::slots(&key);
            let source = if R::trusts_source(&labels) { source } else { 0 };
            for (end, slot) in [("source", source), ("destination", destination)] {
                if let Some(pod) = self.pod(slot) {
                    *pods.entry(PodLabels { pod, end, labels: labels.clone() }).or_default() += sum.events;
                }
            }
        }
        let pods = self.fold.fold(pods);
        Snapshot { node, pods, folded: self.fold.rows_folded() }
    }
}

impl<R: Rows> Collector for Counts<R> {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let families = R::FAMILIES;
        let uncounted = self.tallies().iter().map(|tally| tally.uncounted).sum();
        let mut state = self.state();
        let snapshot = state.snapshot(&self.0.meaning);

        let (name, help) = families.events;
        let mut events = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, sum) in &snapshot.node {
            let counter = CounterWithExemplar::<[(&str, String); 1]>::default();
            let example = state.exemplars.get(labels);
            counter.inc_by(sum.events.saturating_sub(u64::from(example.is_some())), None, None);
            if let Some((trace_id, at)) = example {
                counter.inc_by(1, Some([("trace_id", trace_id.to_string())]), Some(*at));
            }
            counter.encode(events.encode_family(labels)?)?;
        }
        if let Some((name, help)) = families.bytes {
            let mut bytes = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (labels, sum) in &snapshot.node {
                ConstCounter::new(sum.bytes).encode(bytes.encode_family(labels)?)?;
            }
        }
        let (name, help) = families.pods;
        let mut pods = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, events) in &snapshot.pods.own {
            ConstCounter::new(*events).encode(pods.encode_family(labels)?)?;
        }
        if let Some(events) = snapshot.pods.overflow {
            let own = [("namespace", ""), ("pod", "other"), ("end", "other")];
            ConstCounter::new(events).encode(pods.encode_family(&(own, families.other))?)?;
        }
        for ((name, help), count) in [(families.uncounted, uncounted), (families.folded, snapshot.folded)] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(count).encode(metric)?;
        }
        Ok(())
    }
}
