//! Joins events with one cause into an incident: one `trace_id` for its life, one `span_id` an event.
//!
//! Ids follow W3C Trace Context: 16 and 8 random bytes, lower-case hex, never all zero.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::time::{Duration, SystemTime};

/// An incident's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId(u128);

/// One event's id within its incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanId(u64);

/// Where a line stands: its incident and itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// The incident.
    pub trace_id: TraceId,
    /// The event.
    pub span_id: SpanId,
}

impl TraceId {
    /// A new random id, never zero (W3C calls all zero invalid).
    #[must_use]
    pub fn random() -> Self {
        Self(fastrand::u128(1..))
    }
}

impl SpanId {
    /// A new random id, never zero.
    #[must_use]
    pub fn random() -> Self {
        Self(fastrand::u64(1..))
    }
}

impl Span {
    /// A new incident and its first span.
    #[must_use]
    pub fn root() -> Self {
        Self { trace_id: TraceId::random(), span_id: SpanId::random() }
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Open incidents by cause. Bounded: a storm of distinct causes pushes out the one quiet for longest.
#[derive(Debug)]
pub struct Incidents<K> {
    open: HashMap<K, Open>,
}

#[derive(Debug)]
struct Open {
    trace_id: TraceId,
    last: SystemTime,
}

/// Open incidents kept for one probe.
pub const MAX_OPEN: usize = 1024;

/// An incident with no event for this long is closed; the next event with its cause opens a new one.
pub const QUIET: Duration = Duration::from_mins(1);

impl<K: Eq + Hash + Clone> Default for Incidents<K> {
    fn default() -> Self {
        Self { open: HashMap::new() }
    }
}

impl<K: Eq + Hash + Clone> Incidents<K> {
    /// The span of an event with `cause` at time `at`: in its open incident, or in a new one.
    pub fn span(&mut self, cause: K, at: SystemTime) -> Span {
        let span_id = SpanId::random();
        if let Some(open) = self.open.get_mut(&cause) {
            let quiet = at.duration_since(open.last).is_ok_and(|since| since > QUIET);
            if quiet {
                open.trace_id = TraceId::random();
            }
            open.last = open.last.max(at);
            return Span { trace_id: open.trace_id, span_id };
        }
        if self.open.len() >= MAX_OPEN {
            self.make_room(at);
        }
        let trace_id = TraceId::random();
        self.open.insert(cause, Open { trace_id, last: at });
        Span { trace_id, span_id }
    }

    /// Closes what is quiet; if nothing is, the one that has been quiet for longest.
    fn make_room(&mut self, now: SystemTime) {
        self.open.retain(|_, open| now.duration_since(open.last).is_ok_and(|since| since <= QUIET));
        if self.open.len() >= MAX_OPEN {
            let oldest = self.open.iter().min_by_key(|(_, open)| open.last).map(|(cause, _)| cause.clone());
            if let Some(cause) = oldest {
                self.open.remove(&cause);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cause_is_one_incident_until_it_is_quiet() {
        let mut incidents = Incidents::default();
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let first = incidents.span("a", start);
        let second = incidents.span("a", start + QUIET);
        let other = incidents.span("b", start + QUIET);
        let later = incidents.span("a", start + QUIET * 2 + Duration::from_secs(1));
        assert_eq!(first.trace_id, second.trace_id);
        assert_ne!(first.span_id, second.span_id);
        assert_ne!(first.trace_id, other.trace_id);
        assert_ne!(first.trace_id, later.trace_id);
    }

    #[test]
    fn a_storm_of_causes_stays_bounded() {
        let mut incidents = Incidents::default();
        let now = SystemTime::now();
        for cause in 0..MAX_OPEN * 3 {
            incidents.span(cause, now);
        }
        assert_eq!(incidents.open.len(), MAX_OPEN);
    }

    #[test]
    fn ids_print_as_w3c_wants() {
        let span = Span { trace_id: TraceId(1), span_id: SpanId(2) };
        assert_eq!(span.trace_id.to_string(), "00000000000000000000000000000001");
        assert_eq!(span.span_id.to_string(), "0000000000000002");
    }
}
