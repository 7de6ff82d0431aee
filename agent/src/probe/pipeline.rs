//! The straight path: next, decode, enrich, filter, correlate, observe, write. It fits one screen and has no branches back.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use super::flow::{Fate, Flow};
use super::ring::Ring;
use super::{Ends, Enriched, Event, Evidence as _, Level, Pods, Probe, State, Value};
use crate::incident::{Incidents, Span};
use crate::pod::{FindPod, Pod, Subject};
use crate::shutdown::Drain;
use crate::sink::filter::{Asked, Filter};
use crate::sink::{Line, Sink, Told, Written};

/// What the events of one probe's incidents add up to.
pub type EvidenceOf<P> = <<P as Probe>::Event as Event>::Evidence;

/// Everything an event of one probe passes on its way from the ring.
pub struct Path<P: Probe> {
    pub(super) probe: P,
    pub(super) pods: Arc<dyn FindPod>,
    pub(super) filter: Filter,
    pub(super) sink: Box<dyn Sink>,
    pub(super) flow: Arc<Flow>,
    pub(super) incidents: Incidents<<P::Event as Event>::Cause, EvidenceOf<P>>,
}

/// Why a path ended.
#[derive(Debug)]
pub enum Ended {
    /// It was asked to.
    Drained,
    /// It wrote the last event that was wanted.
    Last,
    /// Its stream or its ring failed.
    Failed(io::Error),
}

impl<P: Probe> Path<P> {
    /// Carries the records of `ring` until `drain`; then detaches the programs and carries what is left in the ring.
    pub async fn run(mut self, mut ring: Ring, mut drain: Drain, detach: impl FnOnce()) -> Ended {
        let ended = loop {
            let record = if let Some(record) = ring.try_next() {
                record
            } else {
                // Nothing more to add to this write: let the reader of stdout have it now.
                if let Err(error) = self.sink.flush() {
                    break Ended::Failed(error);
                }
                let verdict = reached(self.incidents.due().filter(|_| EvidenceOf::<P>::SUMS_UP));
                tokio::select! {
                    biased;
                    () = drain.wait() => break Ended::Drained,
                    record = ring.next() => match record {
                        Ok(record) => record,
                        Err(error) => break Ended::Failed(error),
                    },
                    () = verdict => match self.sum_up() {
                        Ok(()) => continue,
                        Err(error) => break Ended::Failed(error),
                    },
                }
            };
            match self.carry(&record).and_then(|written| self.sum_up().map(|()| written)) {
                Ok(Written::Last) => break Ended::Last,
                Ok(_) => {}
                Err(error) => break Ended::Failed(error),
            }
            // A storm keeps the ring full: Ctrl-C must be heard all the same.
            tokio::task::consume_budget().await;
            if drain.asked() {
                break Ended::Drained;
            }
        };
        detach();
        if matches!(ended, Ended::Drained) {
            while let Some(record) = ring.try_next() {
                if let Err(error) = self.carry(&record) {
                    return Ended::Failed(error);
                }
            }
        }
        if matches!(ended, Ended::Failed(_)) {
            return ended;
        }
        match self.close() {
            Ok(()) => ended,
            Err(error) => Ended::Failed(error),
        }
    }

    fn carry(&mut self, record: &[u8]) -> io::Result<Written> {
        self.flow.read();
        let event = match self.probe.decode(record) {
            Ok(event) => event,
            Err(error) => {
                self.flow.undecoded(P::NAME, error);
                return Ok(Written::Filtered);
            }
        };
        let pods = self.enrich(&event);
        let asked = match self.filter.asks(event.about(&pods), |fields| event.fields(&pods, fields)) {
            Asked::Never if event.may_be_translated() => Asked::Perhaps,
            asked => asked,
        };
        if asked == Asked::Never {
            // The summary is of the whole node. Its span goes nowhere.
            self.probe.observe(&Enriched { event: &event, pods: &pods, span: Span::root() });
            self.flow.ended(Fate::Filtered);
            return Ok(Written::Filtered);
        }
        let is_asked = asked == Asked::For;
        let standing = self.incidents.join(event.cause(&pods), event.place(&pods), event.at(), is_asked);
        let more = standing.evidence.add(&event, &pods);
        let (cause, span, news) = (standing.cause, standing.span, standing.news || more.is_some());
        if let Some(soon) = more {
            self.incidents.hasten(&cause, event.at(), soon, is_asked);
        }
        let enriched = Enriched { event: &event, pods: &pods, span };
        self.probe.observe(&enriched);
        if EvidenceOf::<P>::SUMS_UP && !news {
            self.flow.ended(Fate::Merged);
            return Ok(Written::Filtered);
        }
        let written = if !is_asked {
            Ok(Written::Filtered)
        } else if event.level() < self.filter.level {
            Ok(Written::Benign)
        } else {
            write::<P>(&enriched, self.sink.as_mut())
        };
        if is_asked && matches!(written, Ok(Written::Benign | Written::Filtered | Written::Refused)) {
            self.incidents.unsaid(&cause);
        }
        self.flow.ended(match &written {
            Ok(Written::Yes | Written::Last) => Fate::Emitted,
            Ok(Written::Benign) => Fate::Benign,
            Ok(Written::Filtered) => Fate::Filtered,
            Ok(Written::Refused) | Err(_) => Fate::Unwritten,
        });
        written
    }

    fn enrich(&self, event: &P::Event) -> Pods {
        let at = event.at();
        let find = |subjects: [Option<Subject>; 2]| -> Option<Arc<Pod>> {
            subjects.into_iter().flatten().find_map(|subject| self.pods.find_pod(subject, at))
        };
        let subjects = event.subjects();
        Ends { source: find(subjects.source), destination: find(subjects.destination) }
    }

    /// Tells the verdicts that are due.
    fn sum_up(&mut self) -> io::Result<()> {
        let Some(due) = self.incidents.due().filter(|_| EvidenceOf::<P>::SUMS_UP) else { return Ok(()) };
        let now = SystemTime::now();
        if due > now {
            return Ok(());
        }
        let (sink, level) = (&mut self.sink, self.filter.level);
        self.incidents
            .sum_up(now, |span, evidence, state| tell::<P>(sink.as_mut(), level, span, evidence, state))
    }

    /// Tells the verdicts that are pending, and lets the reader have it all.
    fn close(mut self) -> io::Result<()> {
        if EvidenceOf::<P>::SUMS_UP {
            let (sink, level) = (&mut self.sink, self.filter.level);
            self.incidents
                .close(|span, evidence, state| tell::<P>(sink.as_mut(), level, span, evidence, state))?;
        }
        self.sink.flush()
    }
}

/// Waits for that moment; for ever if there is none.
async fn reached(due: Option<SystemTime>) {
    match due {
        Some(due) => tokio::time::sleep(due.duration_since(SystemTime::now()).unwrap_or_default()).await,
        None => std::future::pending().await,
    }
}

/// Writes what an incident's evidence adds up to, if that matters as much as `level`; says whether it was wanted.
///
/// # Errors
/// The sink's.
pub fn tell<P: Probe>(
    sink: &mut dyn Sink,
    level: Level,
    span: Span,
    evidence: &EvidenceOf<P>,
    state: State,
) -> io::Result<bool> {
    let Some(mut verdict) = evidence.verdict().filter(|verdict| verdict.level >= level) else {
        return Ok(false);
    };
    if state == State::Over {
        verdict.message.insert_str(0, "over, nothing more for a minute: ");
    }
    verdict.fields.push(("state", Value::Text(state.name().into())));
    let line = Line {
        told: Told::Incident,
        at: verdict.at,
        level: verdict.level,
        probe: P::NAME,
        span,
        pod: verdict.pod,
        says: &verdict,
    };
    sink.write(&line).map(|written| matches!(written, Written::Yes | Written::Last))
}

/// The last step: an event that has its names, as one line of the sink's.
///
/// # Errors
/// The sink's.
pub fn write<P: Probe>(enriched: &Enriched<'_, P::Event>, sink: &mut dyn Sink) -> io::Result<Written> {
    let Enriched { event, pods, span } = *enriched;
    sink.write(&Line {
        told: Told::Event,
        at: event.at(),
        level: event.level(),
        probe: P::NAME,
        span,
        pod: event.about(pods),
        says: enriched,
    })
}

#[cfg(test)]
mod tests;
