//! One scrape of exact counts: rows are added up by small numbers, and only the sums get their labels.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, LabelSetEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::exemplar::CounterWithExemplar;

use super::names::{Quick, Text, index, text_of};
use super::{Counts, Rows, State, Sum};
use crate::digits;
use crate::metrics::PREFIX;
use crate::metrics::fold::Folded;
use crate::pod::{MAX_SLOTS, Pod, Slot, Subject};
use crate::probe::Ends;

/// A pod as its series name it. Its uid is no label: a pod that comes back under its name has the same series.
pub(super) struct PodName(pub(super) Arc<Pod>);

impl PodName {
    fn labels(&self) -> [&str; 2] {
        [&self.0.namespace, &self.0.name]
    }
}

impl Ord for PodName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.labels().cmp(&other.labels())
    }
}

impl PartialOrd for PodName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for PodName {
    fn eq(&self, other: &Self) -> bool {
        self.labels() == other.labels()
    }
}

impl Eq for PodName {}

/// Which end of an event a pod is at, in the order of the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum End {
    Destination = 0,
    Source = 1,
}

impl End {
    const fn name(self) -> &'static str {
        match self {
            Self::Destination => "destination",
            Self::Source => "source",
        }
    }
}

/// What a pod's events are counted under, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PodRow {
    pub(super) pod: u32,
    pub(super) end: End,
    pub(super) labels: u32,
}

/// One scrape's worth of counts.
struct Snapshot {
    /// By the numbers of their labels, in the order of those.
    node: Vec<(u32, Sum)>,
    pods: Folded<PodRow>,
    folded: u64,
}

/// What a kind of rows is counted under.
#[derive(Clone, Copy)]
struct Named {
    /// The labels, and whether the source is believed.
    now: (u32, bool),
    /// The same at the last scrape, if that was something else.
    before: Option<(u32, bool)>,
}

/// The numbers of the pods that slots belong to: each slot is looked up once a scrape, not once a row.
pub(super) struct Slots(Vec<Slotted>);

#[derive(Clone, Copy)]
enum Slotted {
    NotLookedUp,
    Nobody,
    Pod(u32),
}

impl Slots {
    pub(super) fn new() -> Self {
        Self(vec![Slotted::NotLookedUp; usize::from(MAX_SLOTS)])
    }

    pub(super) fn pod(&mut self, slot: u16, look_up: impl FnOnce() -> Option<u32>) -> Option<u32> {
        let slotted = self.0.get_mut(usize::from(slot))?;
        if matches!(slotted, Slotted::NotLookedUp) {
            *slotted = look_up().map_or(Slotted::Nobody, Slotted::Pod);
        }
        if let Slotted::Pod(pod) = slotted { Some(*pod) } else { None }
    }
}

impl<R: Rows> State<R> {
    /// The pod of a slot on the wire.
    pub(super) fn pod(&self, slot: u16, now: SystemTime) -> Option<Arc<Pod>> {
        self.pods.as_ref()?.find_pod(Subject::Slot(Slot::from_wire(slot)?), now)
    }

    /// The number of a slot's pod.
    pub(super) fn pod_id(&mut self, slot: u16, now: SystemTime) -> Option<u32> {
        let pod = self.pod(slot, now)?;
        let text = |PodName(pod): &PodName| {
            text_of([("namespace", pod.namespace.clone()), ("pod", pod.name.clone())])
        };
        Some(self.pod_names.id(PodName(pod), text))
    }

    /// The numbers of the pods at a row's ends, as far as they are known; of its source only where that may be believed.
    pub(super) fn ends(
        &mut self,
        trusts_source: bool,
        key: &R::Key,
        slots: &mut Slots,
        now: SystemTime,
    ) -> impl Iterator<Item = (End, u32)> + use<R> {
        let Ends { source, destination } = R::slots(key);
        let source = if trusts_source { source } else { 0 };
        [(End::Source, source), (End::Destination, destination)]
            .map(|(end, slot)| Some((end, slots.pod(slot, || self.pod_id(slot, now))?)))
            .into_iter()
            .flatten()
    }

    /// What a kind is counted under now.
    fn name(&mut self, meaning: &R, kind: R::Kind) -> Named {
        let now = (self.labels_id(meaning.labels(&kind)), meaning.trusts_source(&kind));
        let before = self.named.insert(kind, now).filter(|before| *before != now);
        Named { now, before }
    }

    fn snapshot(&mut self, meaning: &R) -> Snapshot {
        let rows = self.source.rows();
        let now = SystemTime::now();
        // For this scrape only: a module loaded since may have given a place its name.
        let mut kinds = HashMap::<R::Kind, Named, Quick>::default();
        let mut slots = Slots::new();
        let mut sums: Vec<Option<Sum>> = Vec::new();
        let mut ends: Vec<(PodRow, u64)> = Vec::with_capacity(rows.len());
        for (key, all) in rows {
            let Named { now: (labels, trusts_source), before } = match kinds.entry(R::kind(&key)) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(new) => {
                    let kind = *new.key();
                    *new.insert(self.name(meaning, kind))
                }
            };
            let mut sum = self.unmoved(&key, all);
            if let Some((before, trusted_source)) = before {
                // What was counted under the old labels stays there, or those series would fall.
                self.retired.entry(before).or_default().add(sum);
                for (end, pod) in self.ends(trusted_source, &key, &mut slots, now) {
                    self.leave(PodRow { pod, end, labels: before }, sum.events);
                }
                self.moved.insert(key, all);
                sum = Sum::default();
            }
            add(&mut sums, labels, sum);
            let of_row = self.ends(trusts_source, &key, &mut slots, now);
            ends.extend(of_row.map(|(end, pod)| (PodRow { pod, end, labels }, sum.events)));
        }
        // What kinds without rows had is in `retired`.
        self.named.retain(|kind, _| kinds.contains_key(kind));
        ends.extend(self.left.iter().map(|(row, events)| (*row, *events)));
        for (labels, sum) in &self.retired {
            add(&mut sums, *labels, *sum);
        }
        let sum_of = |labels: u32| sums.get(index(labels)).copied().flatten().map(|sum| (labels, sum));
        let node = self.label_names.in_order().filter_map(sum_of).collect();
        let pods = self.in_order(&ends);
        let pods = self.fold.fold(pods);
        Snapshot { node, pods, folded: self.fold.rows_folded() }
    }

    /// Pods' rows in the order of their names, each once.
    fn in_order(&self, ends: &[(PodRow, u64)]) -> Vec<(PodRow, u64)> {
        let (pods, labels) = (self.pod_names.ranks(), self.label_names.ranks());
        let by_labels = ends.iter().map(|(row, _)| labels[index(row.labels)]).collect::<Vec<_>>();
        let by_pod =
            ends.iter().map(|(row, _)| 2 * pods[index(row.pod)] + row.end as u32).collect::<Vec<_>>();
        let order = sorted((0..).take(ends.len()), &by_labels, labels.len());
        let order = sorted(order.into_iter(), &by_pod, 2 * pods.len());
        let mut rows: Vec<(PodRow, u64)> = Vec::with_capacity(ends.len());
        for (row, events) in order.into_iter().map(|at| ends[index(at)]) {
            match rows.last_mut() {
                Some((last, sum)) if *last == row => *sum += events,
                _ => rows.push((row, events)),
            }
        }
        rows
    }
}

/// `items` by their places, which are below `end`; those of one place in the order they came in. With so few places this
/// takes a sixth of what comparing takes.
fn sorted(items: impl Iterator<Item = u32>, places: &[u32], end: usize) -> Vec<u32> {
    let mut begins = vec![0; end + 1];
    for place in places {
        begins[index(*place) + 1] += 1;
    }
    for at in 1..begins.len() {
        begins[at] += begins[at - 1];
    }
    let mut sorted = vec![0; places.len()];
    for item in items {
        let at = &mut begins[index(places[index(item)])];
        sorted[*at] = item;
        *at += 1;
    }
    sorted
}

fn add(sums: &mut Vec<Option<Sum>>, labels: u32, sum: Sum) {
    let labels = index(labels);
    if labels >= sums.len() {
        sums.resize(labels + 1, None);
    }
    sums[labels].get_or_insert_default().add(sum);
}

/// Bytes handed over together: a handful of lines. More would save nothing, and from two KiB on memory is copied by `rep
/// movsb`, which is an instruction a byte where instructions are counted.
const PIECE: usize = 1 << 10;

/// All series of pods, from the labels of the first to those of the last: it passes for one label set, of which
/// prometheus-client writes what is before and behind. One by one, a series would pass through it in a dozen pieces, and
/// there are thousands.
struct Series<'a, R: Rows> {
    /// With prefix, suffix and opening brace.
    name: &'a str,
    rows: &'a [(PodRow, u64)],
    state: &'a State<R>,
}

impl<R: Rows> EncodeLabelSet for Series<'_, R> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let mut label = encoder.encode_label();
        let mut out = label.encode_label_key()?;
        let Self { name, rows, state } = self;
        let Some(((last, _), before)) = rows.split_last() else { return Ok(()) };
        let mut text = String::with_capacity(2 * PIECE);
        // Rows of one end of one pod stand together: what they share is put together once.
        let (mut shared, mut of) = (String::new(), None);
        let mut begin = |text: &mut String, row: &PodRow| -> fmt::Result {
            let PodRow { pod, end, labels } = *row;
            if of.replace((pod, end)) != Some((pod, end)) {
                shared.clear();
                shared.extend([state.pod_names.text(pod)?, ",end=\"", end.name(), "\","]);
            }
            text.push_str(&shared);
            text.push_str(state.label_names.text(labels)?);
            Ok(())
        };
        for (row, events) in before {
            begin(&mut text, row)?;
            text.push_str("} ");
            text.push_str(digits::decimal(*events).as_str());
            text.push('\n');
            // Ended where a line is, a piece can be converted right away.
            if text.len() >= PIECE {
                out.write_str(&text)?;
                text.clear();
            }
            text.push_str(name);
        }
        begin(&mut text, last)?;
        out.write_str(&text)?;
        Ok(())
    }
}

impl<R: Rows> Collector for Counts<R> {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let families = R::FAMILIES;
        let uncounted = self.tallies().iter().map(|tally| tally.uncounted).sum();
        let mut state = self.state();
        let snapshot = state.snapshot(&self.0.meaning);
        let state = &*state;

        let (name, help) = families.events;
        let mut events = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, sum) in &snapshot.node {
            let series = Text(state.label_names.text(*labels)?);
            let series = events.encode_family(&series)?;
            let Some((trace_id, at)) = state.exemplars.get(labels) else {
                ConstCounter::new(sum.events).encode(series)?;
                continue;
            };
            let counter = CounterWithExemplar::<[(&str, String); 1]>::default();
            counter.inc_by(sum.events.saturating_sub(1), None, None);
            counter.inc_by(1, Some([("trace_id", trace_id.to_string())]), Some(*at));
            counter.encode(series)?;
        }
        if let Some((name, help)) = families.bytes {
            let mut bytes = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (labels, sum) in &snapshot.node {
                let series = Text(state.label_names.text(*labels)?);
                ConstCounter::new(sum.bytes).encode(bytes.encode_family(&series)?)?;
            }
        }
        let (name, help) = families.pods;
        let mut pods = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        if let Some((_, last)) = snapshot.pods.own.last() {
            let name = format!("{PREFIX}_{name}_total{{");
            let series = Series { name: &name, rows: &snapshot.pods.own, state };
            ConstCounter::new(*last).encode(pods.encode_family(&series)?)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A pod of a `StatefulSet` comes back with another uid.
    #[test]
    fn a_pod_is_named_by_its_namespace_and_name_alone() {
        let named = |namespace: &str, name: &str, uid: &str| {
            PodName(Arc::new(Pod { namespace: namespace.into(), name: name.into(), uid: uid.into() }))
        };
        let [one, again, next, other] = [("a", "z", "1"), ("a", "z", "2"), ("b", "a", "1"), ("b", "b", "1")]
            .map(|(namespace, name, uid)| named(namespace, name, uid));
        assert!(one == again && next != other && one != next);
        assert!(one < next && next < other && one <= again);
    }
}
