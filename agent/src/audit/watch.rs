//! The audit in `run`: read again every half minute and when pods change; a line when something stops to fit, one when
//! it fits again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

use super::gauges::Gauges;
use super::overlay::{self, Finding, Judgement, Name};
use super::row::Verdict;
use super::{places, unread};
use crate::enrich::PodIndex;
use crate::health::Guard;
use crate::incident::{Span, SpanId};
use crate::links::{self, ReadError, Wants};
use crate::pod::Pod;
use crate::shutdown::Drain;
use crate::sink::Sink;

/// Between two readings.
const PERIOD: Duration = Duration::from_secs(30);
/// From a pod's change to the reading: what comes with it comes within this.
const SETTLE: Duration = Duration::from_secs(1);
/// Between two readings while pods come and go.
const BETWEEN: Duration = Duration::from_secs(5);
/// A reading that takes long must not be made often: at rest it is to take a thousandth of a core, in a hurry a
/// hundredth.
const SHARE_AT_REST: u32 = 1000;
const SHARE_IN_HURRY: u32 = 100;
/// However long it takes, it is made this often.
const LONGEST: Duration = Duration::from_mins(5);

/// Reads again and again, until asked to finish.
pub struct Watch {
    /// The host's process directory.
    pub proc: PathBuf,
    /// The node's pods.
    pub pods: PodIndex,
    /// Where the numbers go.
    pub gauges: Gauges,
    /// Where the lines go.
    pub sink: Box<dyn Sink>,
    /// Stands for it: up once it has read, and told if it ends.
    pub guard: Guard,
}

/// What makes two findings the same incident.
type Cause = (Name, Option<Arc<Pod>>, String);

/// Findings that have been told, and are still so.
#[derive(Default)]
struct Open(HashMap<Cause, (Span, Finding)>);

impl Watch {
    /// Reads and tells until `drain`. Nothing is read on this thread.
    pub async fn follow(mut self, mut drain: Drain) {
        let (mut open, mut said) = (Open::default(), String::new());
        let mut version = self.pods.version();
        let (mut due, mut soonest, mut hurried) = (Instant::now(), Instant::now(), false);
        let (mut period_ends, mut homes) = (Instant::now(), Vec::new());
        loop {
            tokio::select! {
                () = drain.wait() => return self.guard.ended(),
                () = tokio::time::sleep_until(due) => {}
                changed = version.changed(), if !hurried => {
                    hurried = true;
                    if changed.is_ok() {
                        due = due.min((Instant::now() + SETTLE).max(soonest));
                    }
                    continue;
                }
            }
            hurried = false;
            version.mark_unchanged();
            // The index says so whenever it has looked at a pod: most often nothing has changed.
            let now_homes = self.pods.namespaces();
            if Instant::now() < period_ends && now_homes == homes {
                due = period_ends;
                continue;
            }
            homes = now_homes;
            let (proc, pods, gauges) = (self.proc.clone(), self.pods.clone(), self.gauges.clone());
            let reading = tokio::task::spawn_blocking(move || read(&proc, &pods, &gauges));
            let (judged, cost) = match reading.await {
                Ok(read) => read,
                Err(error) => return self.guard.stopped(error),
            };
            self.guard.up();
            let (now, (at_rest, in_hurry)) = (Instant::now(), pauses(cost));
            period_ends = now + at_rest;
            due = period_ends;
            soonest = now + in_hurry;
            match judged {
                Ok((judgement, missing)) => {
                    if said != missing {
                        tracing::info!(
                            "audit of MTUs: {}",
                            if missing.is_empty() { "all read" } else { &missing }
                        );
                        said = missing;
                    }
                    if let Err(error) = open.tell(judgement, self.sink.as_mut()) {
                        return self.guard.stopped(format_args!("no more findings: {error}"));
                    }
                }
                // What was found stays found: nothing says that it is mended.
                Err(error) => {
                    let missing = error.to_string();
                    if said != missing {
                        tracing::warn!("no audit of MTUs: {missing}");
                        said = missing;
                    }
                }
            }
        }
    }
}

/// How long after a reading of this `cost` the next one is made: at rest, and in a hurry at the soonest.
fn pauses(cost: Duration) -> (Duration, Duration) {
    let at_rest = PERIOD.max((cost * SHARE_AT_REST).min(LONGEST));
    let in_hurry = BETWEEN.max((cost * SHARE_IN_HURRY).min(LONGEST));
    (at_rest, in_hurry)
}

/// One reading for its numbers alone. Reads files and sockets: not for an async thread.
///
/// # Errors
/// The host's links cannot be read.
pub fn once(proc: &Path, pods: &PodIndex, gauges: &Gauges) -> Result<(), ReadError> {
    read(proc, pods, gauges).0.map(drop)
}

/// One reading: what it comes to, what is missing of it, and the processor's time it took.
fn read(proc: &Path, pods: &PodIndex, gauges: &Gauges) -> (Result<(Judgement, String), ReadError>, Duration) {
    // Of the whole process: part of it is done on a thread that enters namespaces. What else is done meanwhile makes it
    // seem dearer, and the next one later.
    let clock = || clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from).unwrap_or_default();
    let before = clock();
    let judged = links::read(&places(proc, pods), Wants { pod_exceptions: false }).map(|read| {
        let judgement = overlay::judge(&read);
        gauges.take(&read, &judgement);
        let missing = reasons(&read, &judgement);
        (judgement, missing)
    });
    (judged, clock().saturating_sub(before))
}

/// What could not be read and why, without whose it is: that changes with every pod.
fn reasons(read: &[links::Namespace], judgement: &Judgement) -> String {
    let lines = unread(read);
    let mut reasons: Vec<&str> =
        lines.iter().filter_map(|line| line.rsplit_once(": ").map(|(reason, _)| reason)).collect();
    // A pod may be root in its own namespace, and the number of what it has may change each second: only the host's is told.
    let of_host = super::clear::not_judged(judgement.not_judged.iter().filter(|one| one.owner.is_none()));
    reasons.extend(of_host.as_deref());
    reasons.dedup();
    reasons.join("; ")
}

impl Open {
    /// Tells what is new, what has other numbers, and what is gone.
    fn tell(&mut self, judgement: Judgement, sink: &mut dyn Sink) -> std::io::Result<()> {
        let now = SystemTime::now();
        let mut before = std::mem::take(&mut self.0);
        for finding in judgement.findings {
            let cause = (finding.name, finding.owner.clone(), finding.interface.clone());
            let known = before.remove(&cause);
            let same = known.as_ref().is_some_and(|(_, told)| {
                (told.promises, told.fits, told.confidence)
                    == (finding.promises, finding.fits, finding.confidence)
            });
            let span = known.map_or_else(Span::root, |(span, _)| next(span));
            if !same {
                sink.write(&Verdict { finding: &finding, gone: false }.line(span, now))?;
            }
            self.0.insert(cause, (span, finding));
        }
        for (span, finding) in before.into_values() {
            sink.write(&Verdict { finding: &finding, gone: true }.line(next(span), now))?;
        }
        sink.flush()
    }
}

/// The next event of the same incident.
fn next(span: Span) -> Span {
    Span { span_id: SpanId::random(), ..span }
}

#[cfg(test)]
mod tests;
