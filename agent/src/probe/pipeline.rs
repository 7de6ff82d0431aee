//! The straight path: next, decode, enrich, correlate, observe, write. It fits one screen and has no branches back.

use std::io;
use std::sync::Arc;

use super::flow::{Fate, Flow};
use super::ring::Ring;
use super::{Ends, Enriched, Event, Pods, Probe};
use crate::incident::Incidents;
use crate::pod::{FindPod, Pod, Subject};
use crate::shutdown::Drain;
use crate::sink::{Line, Sink, Written};

/// Everything an event of one probe passes on its way.
pub struct Path<P: Probe> {
    pub(super) probe: P,
    pub(super) ring: Ring,
    pub(super) pods: Arc<dyn FindPod>,
    pub(super) sink: Box<dyn Sink>,
    pub(super) flow: Arc<Flow>,
    pub(super) incidents: Incidents<<P::Event as Event>::Cause>,
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
    /// Carries records until `drain`; then detaches the programs and carries what is left in the ring.
    pub async fn run(mut self, mut drain: Drain, detach: impl FnOnce()) -> Ended {
        let ended = loop {
            let record = if let Some(record) = self.ring.try_next() {
                record
            } else {
                // Nothing more to add to this write: let the reader of stdout have it now.
                if let Err(error) = self.sink.flush() {
                    break Ended::Failed(error);
                }
                tokio::select! {
                    biased;
                    () = drain.wait() => break Ended::Drained,
                    record = self.ring.next() => match record {
                        Ok(record) => record,
                        Err(error) => break Ended::Failed(error),
                    },
                }
            };
            match self.carry(&record) {
                Ok(Written::Last) => break Ended::Last,
                Ok(Written::Yes | Written::Filtered) => {}
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
            while let Some(record) = self.ring.try_next() {
                if let Err(error) = self.carry(&record) {
                    return Ended::Failed(error);
                }
            }
        }
        match self.sink.flush() {
            Ok(()) => ended,
            Err(error) => Ended::Failed(error),
        }
    }

    fn carry(&mut self, record: &[u8]) -> io::Result<Written> {
        self.flow.read();
        let Ok(event) = self.probe.decode(record) else {
            self.flow.ended(Fate::Undecoded);
            return Ok(Written::Filtered);
        };
        let pods = self.enrich(&event);
        let span = self.incidents.span(event.cause(&pods), event.at());
        let enriched = Enriched { event: &event, pods: &pods, span };
        self.probe.observe(&enriched);
        let written = write::<P>(&enriched, self.sink.as_mut());
        self.flow.ended(match &written {
            Ok(Written::Yes | Written::Last) => Fate::Emitted,
            Ok(Written::Filtered) => Fate::Filtered,
            Err(_) => Fate::Unwritten,
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
}

/// The last step: an event that has its names, as one line of the sink's.
///
/// # Errors
/// The sink's.
pub fn write<P: Probe>(enriched: &Enriched<'_, P::Event>, sink: &mut dyn Sink) -> io::Result<Written> {
    let Enriched { event, pods, span } = *enriched;
    let (mut fields, mut cells) = (Vec::new(), Vec::new());
    event.fields(pods, &mut fields);
    event.cells(pods, &mut cells);
    sink.write(&Line {
        at: event.at(),
        level: event.level(),
        probe: P::NAME,
        message: event.message(pods).into(),
        span,
        pod: event.about(pods),
        fields: &fields,
        cells: &cells,
    })
}
