//! The exact counts: read from the kernel's per-CPU rows at each scrape, never fed from events.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use agent_common::Tally;
use agent_common::drops::{Direction, DropCount, DropKey};
use aya::maps::{MapData, PerCpuArray, PerCpuHashMap};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::exemplar::CounterWithExemplar;

use super::class::{Harm, Verdict};
use super::place::Places;
use super::reasons::Reasons;
use crate::metrics::fold::{Fold, Folded};
use crate::pod::{FindPod, Pod, Slot, Subject};
use crate::probe::TraceId;

/// Rows of one family before further ones are folded into an overflow row.
pub const MAX_SERIES: usize = 10_000;

/// What a drop is counted under, node-wide. All from closed sets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels {
    reason: String,
    verdict: Verdict,
    direction: Direction,
}

/// What a pod's drops are counted under.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct PodLabels {
    pod: Arc<Pod>,
    end: &'static str,
    labels: Labels,
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Lost {
    fn add(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

/// The maps and what turns their keys into labels. Cheap to clone: all share one.
#[derive(Clone)]
pub struct Counts(Arc<Shared>);

struct Shared {
    reasons: Reasons,
    places: Places,
    state: Mutex<State>,
}

struct State {
    rows: PerCpuHashMap<MapData, DropKey, DropCount>,
    tally: PerCpuArray<MapData, Tally>,
    /// Node-wide counts of rows whose slots were retired: those series must not go backwards.
    retired: BTreeMap<Labels, Lost>,
    exemplars: HashMap<Labels, (TraceId, SystemTime)>,
    pods: Option<Arc<dyn FindPod>>,
    /// Which pods' rows have a series of their own.
    fold: Fold<PodLabels>,
}

/// The label of a drop for which the kernel gives no reason (5.10).
pub const NO_REASON: &str = "NONE";

impl Counts {
    /// Of the loaded object's maps.
    #[must_use]
    pub fn new(
        rows: PerCpuHashMap<MapData, DropKey, DropCount>,
        tally: PerCpuArray<MapData, Tally>,
        reasons: Reasons,
        places: Places,
    ) -> Self {
        let state = State {
            rows,
            tally,
            retired: BTreeMap::new(),
            exemplars: HashMap::new(),
            pods: None,
            fold: Fold::new(MAX_SERIES),
        };
        Self(Arc::new(Shared { reasons, places, state: Mutex::new(state) }))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names slots in the per-pod families.
    pub fn name_pods_by(&self, pods: Arc<dyn FindPod>) {
        self.state().pods = Some(pods);
    }

    /// What the kernel side did with the events so far, over all CPUs.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let mut sum = Tally::default();
        let Ok(values) = self.state().tally.get(&0, 0) else { return sum };
        for tally in values.iter() {
            sum.seen += tally.seen;
            sum.limited += tally.limited;
            sum.ring_full += tally.ring_full;
            sum.uncounted += tally.uncounted;
        }
        sum
    }

    /// Remembers an event's incident as the example of its series.
    pub fn exemplify(&self, labels: Labels, trace_id: TraceId, at: SystemTime) {
        let mut state = self.state();
        if state.exemplars.len() < MAX_SERIES || state.exemplars.contains_key(&labels) {
            state.exemplars.insert(labels, (trace_id, at));
        }
    }

    /// Folds a gone pod's rows into the node-wide counts and clears them, so that its slot can be another pod's.
    pub fn retire(&self, slot: Slot) {
        let mut state = self.state();
        for (key, lost) in rows(&state.rows) {
            let is_its = [key.source, key.destination].contains(&slot.0.get());
            if is_its && state.rows.remove(&key).is_ok() {
                state.retired.entry(self.0.labels(&key)).or_default().add(lost);
            }
        }
        if let Some(pod) = state.pod(slot.0.get()) {
            state.fold.retire(|row| row.pod == pod);
        }
    }
}

impl State {
    /// The pod of a slot on the wire.
    fn pod(&self, slot: u16) -> Option<Arc<Pod>> {
        self.pods.as_ref()?.find_pod(Subject::Slot(Slot::from_wire(slot)?), SystemTime::now())
    }
}

impl Shared {
    fn labels(&self, key: &DropKey) -> Labels {
        let reason =
            self.reasons.name(key.reason).map_or_else(|| NO_REASON.to_owned(), std::borrow::Cow::into_owned);
        let verdict = self.places.verdict(&reason, u64::from(key.place));
        Labels { reason, verdict, direction: Direction::from_wire(key.direction) }
    }
}

impl Shared {
    fn may_be_forged(&self, key: &DropKey) -> bool {
        let reason = self.reasons.name(key.reason);
        // Only where there is no reason the place is asked for, which costs more.
        let place = if reason.is_none() { self.places.at(u64::from(key.place)) } else { None };
        super::may_be_forged(reason.as_deref(), place.as_ref().map(|place| place.function.as_ref()))
    }
}

impl Labels {
    /// The series an event belongs to.
    #[must_use]
    pub fn new(reason: &str, verdict: Verdict, direction: Direction) -> Self {
        Self { reason: reason.to_owned(), verdict, direction }
    }
}

/// Every row, summed over CPUs. A row that goes while we read is simply not there.
fn rows(map: &PerCpuHashMap<MapData, DropKey, DropCount>) -> Vec<(DropKey, Lost)> {
    map.iter()
        .filter_map(Result::ok)
        .map(|(key, values)| {
            let mut lost = Lost::default();
            for count in values.iter() {
                lost.add(Lost { packets: count.packets, bytes: count.bytes });
            }
            (key, lost)
        })
        .collect()
}

/// A direction's name in metrics, JSON and tables.
#[must_use]
pub const fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Unknown => "unknown",
        Direction::Received => "received",
        Direction::Sent => "sent",
        Direction::Forwarded => "forwarded",
    }
}

impl Labels {
    fn set(&self) -> [(&'static str, &str); 4] {
        [
            ("reason", &self.reason),
            ("class", self.verdict.class.name()),
            ("harm", self.verdict.harm.name()),
            ("direction", direction_name(self.direction)),
        ]
    }
}

impl PodLabels {
    fn set(&self) -> [(&'static str, &str); 7] {
        let [reason, class, harm, direction] = self.labels.set();
        let (namespace, pod) = (self.pod.namespace.as_str(), self.pod.name.as_str());
        [("namespace", namespace), ("pod", pod), ("end", self.end), reason, class, harm, direction]
    }
}

/// The series of all rows beyond [`MAX_SERIES`]: its sum is right, its names are not to be had.
const OVERFLOW: [(&str, &str); 7] = [
    ("namespace", ""),
    ("pod", "other"),
    ("end", "other"),
    ("reason", "other"),
    ("class", "other"),
    ("harm", "other"),
    ("direction", "other"),
];

/// One scrape's worth of counts.
struct Snapshot {
    node: BTreeMap<Labels, Lost>,
    pods: Folded<PodLabels>,
    folded: u64,
}

impl State {
    fn snapshot(&mut self, shared: &Shared) -> Snapshot {
        let (mut node, mut pods) = (self.retired.clone(), BTreeMap::<PodLabels, u64>::new());
        for (key, lost) in rows(&self.rows) {
            let labels = shared.labels(&key);
            node.entry(labels.clone()).or_default().add(lost);
            // A packet that died for its source address says nothing true about its source.
            let source = if shared.may_be_forged(&key) { 0 } else { key.source };
            for (end, slot) in [("source", source), ("destination", key.destination)] {
                if let Some(pod) = self.pod(slot) {
                    *pods.entry(PodLabels { pod, end, labels: labels.clone() }).or_default() += lost.packets;
                }
            }
        }
        let pods = self.fold.fold(pods);
        Snapshot { node, pods, folded: self.fold.rows_folded() }
    }
}

/// Rows of [`Counts::summary`].
const SUMMARY_ROWS: usize = 8;

impl Counts {
    /// The largest counts by class, reason, place and direction, benign ones last.
    #[must_use]
    pub fn summary(&self) -> Vec<String> {
        let mut sums: BTreeMap<(Labels, String), u64> = BTreeMap::new();
        for (key, lost) in rows(&self.state().rows) {
            let place = self.0.places.at(key.place.into()).map(|place| format!(" in {}", place.function));
            *sums.entry((self.0.labels(&key), place.unwrap_or_default())).or_default() += lost.packets;
        }
        let mut sums: Vec<_> = sums.into_iter().collect();
        sums.sort_by_key(|((labels, _), packets)| (labels.verdict.harm, std::cmp::Reverse(*packets)));
        let more = sums.len().saturating_sub(SUMMARY_ROWS);
        let mut lines: Vec<String> = sums
            .iter()
            .take(SUMMARY_ROWS)
            .map(|((Labels { reason, verdict, direction }, place), packets)| {
                let benign = if verdict.harm == Harm::Benign { " (benign)" } else { "" };
                let (class, direction) = (verdict.class.name(), direction_name(*direction));
                format!("{packets:>6} {class}{benign}: {reason}{place}, {direction}")
            })
            .collect();
        if more > 0 {
            lines.push(format!("       and {more} more kinds"));
        }
        lines
    }
}

impl fmt::Debug for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("drops::Counts")
    }
}

impl Collector for Counts {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let tally = self.tally();
        let mut state = self.state();
        let snapshot = state.snapshot(&self.0);

        let mut packets = encoder.encode_descriptor(
            "drop_packets",
            "Packets the kernel dropped, by its reason, what that means, and the way they were going",
            None,
            MetricType::Counter,
        )?;
        for (labels, lost) in &snapshot.node {
            let counter = CounterWithExemplar::<[(&str, String); 1]>::default();
            let example = state.exemplars.get(labels);
            counter.inc_by(lost.packets.saturating_sub(u64::from(example.is_some())), None, None);
            if let Some((trace_id, at)) = example {
                counter.inc_by(1, Some([("trace_id", trace_id.to_string())]), Some(*at));
            }
            counter.encode(packets.encode_family(&labels.set())?)?;
        }
        let mut bytes = encoder.encode_descriptor(
            "drop_bytes",
            "Their length added up (skb->len: from the header the kernel was at)",
            None,
            MetricType::Counter,
        )?;
        for (labels, lost) in &snapshot.node {
            ConstCounter::new(lost.bytes).encode(bytes.encode_family(&labels.set())?)?;
        }
        let mut pods = encoder.encode_descriptor(
            "pod_drop_packets",
            "Packets dropped with a pod of this node at one end; a packet between two of them counts at both ends",
            None,
            MetricType::Counter,
        )?;
        for (labels, packets) in &snapshot.pods.own {
            ConstCounter::new(*packets).encode(pods.encode_family(&labels.set())?)?;
        }
        if let Some(packets) = snapshot.pods.overflow {
            ConstCounter::new(packets).encode(pods.encode_family(&OVERFLOW)?)?;
        }
        let uncounted = encoder.encode_descriptor(
            "drop_uncounted_packets",
            "Packets dropped that are in no row: the kernel's map of counts was full or busy",
            None,
            MetricType::Counter,
        )?;
        ConstCounter::new(tally.uncounted).encode(uncounted)?;
        let folded = encoder.encode_descriptor(
            "drop_folded_series",
            "Pods' rows that were folded into the overflow series since the start",
            None,
            MetricType::Counter,
        )?;
        ConstCounter::new(snapshot.folded).encode(folded)
    }
}
