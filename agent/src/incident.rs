//! Joins events with one cause into an incident: one `trace_id` for its life, one `span_id` an event.
//!
//! Ids follow W3C Trace Context: 16 and 8 random bytes, lower-case hex, never all zero.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::time::{Duration, SystemTime};

use crate::digits;

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
        f.write_str(digits::hex::<32>(self.0).as_str())
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(digits::hex::<16>(u128::from(self.0)).as_str())
    }
}

/// What two incidents add up to that turn out to be one.
pub trait Absorb {
    /// Takes in what the other has.
    fn absorb(&mut self, other: Self);
}

impl Absorb for () {
    fn absorb(&mut self, (): Self) {}
}

/// Open incidents by cause, each with what its events add up to. Bounded: a storm of distinct causes pushes out the one
/// quiet for longest.
#[derive(Debug)]
pub struct Incidents<K, V> {
    open: HashMap<K, Open<V>>,
    /// Causes whose events belong to another's incident: both have met at one place.
    joined: HashMap<K, K>,
    /// The cause that a place's incident is under.
    places: HashMap<K, K>,
    /// No verdict is due before this; `None` if none is pending.
    due: Option<SystemTime>,
}

#[derive(Debug)]
struct Open<V> {
    trace_id: TraceId,
    last: SystemTime,
    /// When an event of it was last told; `None` while none was wanted.
    told: Option<SystemTime>,
    /// When its verdict is to be told; `None` while that would be nothing new, or nobody has asked.
    due: Option<SystemTime>,
    interest: Interest,
    /// Whether there were events since.
    more: bool,
    /// Whether it has a place of its own.
    is_placed: bool,
    evidence: V,
}

/// Whom an incident's verdict is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Interest {
    /// Nobody: no event of it was asked for.
    None,
    /// Somebody has asked for an event of it.
    Asked,
    /// A verdict was told, so that its end is to be told as well.
    Told,
}

/// An event's place in its incident.
#[derive(Debug)]
pub struct Standing<'a, K, V> {
    /// The cause that its incident is under.
    pub cause: K,
    /// Its ids.
    pub span: Span,
    /// Whether its incident has not been told for [`AGAIN`]: of incidents that are summed up, such an event is a line.
    pub news: bool,
    /// What the incident adds up to so far.
    pub evidence: &'a mut V,
}

/// Open incidents kept for one probe.
pub const MAX_OPEN: usize = 1024;

/// Causes remembered that belong to another's incident. Of what does not fit each is an incident of its own.
pub const MAX_JOINED: usize = 4096;

/// An incident with no event for this long is closed; the next event with its cause opens a new one.
pub const QUIET: Duration = Duration::from_mins(1);

/// An incident that goes on is told again after this long.
pub const AGAIN: Duration = Duration::from_secs(10);

/// A verdict is told this long after the event that made it due: what belongs to it comes within milliseconds, and
/// retransmissions within a second.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Verdicts told at a time: a flood's thousand incidents end at once, and records must not wait for a thousand lines.
pub const BATCH: usize = 32;

/// A verdict that needs nothing more to be sure is told this long after the event that made it due.
pub const SOON: Duration = Duration::from_millis(300);

impl<K: Eq + Hash + Clone, V: Default> Default for Incidents<K, V> {
    fn default() -> Self {
        Self { open: HashMap::new(), joined: HashMap::new(), places: HashMap::new(), due: None }
    }
}

impl<K: Eq + Hash + Clone, V: Default + Absorb> Incidents<K, V> {
    /// The place of an event with `cause` at time `at`: in its open incident, or as the first of a new one. Those that meet at
    /// one `place` (a device that takes too little, whatever the destination) are one incident, from there on and with all
    /// that they had.
    ///
    /// Nothing is told of an incident of which no event `is_asked` for; one that is not only adds to what the others say.
    pub fn join(&mut self, cause: K, place: Option<K>, at: SystemTime, is_asked: bool) -> Standing<'_, K, V> {
        let has_place = place.is_some();
        let cause = self.meet(cause, place, at);
        // Looked up twice only where there is no room: a cause can be long, and every event has one.
        if self.open.len() >= MAX_OPEN && !self.open.contains_key(&cause) {
            self.make_room(at);
        }
        let fresh = || Open {
            trace_id: TraceId::random(),
            last: at,
            told: None,
            due: None,
            interest: Interest::None,
            more: false,
            is_placed: false,
            evidence: V::default(),
        };
        let open = self.open.entry(cause.clone()).or_insert_with(fresh);
        if is_quiet(open.last, at) {
            *open = fresh();
        }
        open.last = open.last.max(at);
        let news = open.told.is_none_or(|told| at.duration_since(told).is_ok_and(|since| since >= AGAIN));
        open.more = true;
        open.is_placed |= has_place;
        if is_asked {
            open.interest = open.interest.max(Interest::Asked);
        }
        if news && is_asked {
            open.told = Some(at);
            open.owe(at + PATIENCE, &mut self.due);
        }
        Standing {
            cause,
            span: Span { trace_id: open.trace_id, span_id: SpanId::random() },
            news,
            evidence: &mut open.evidence,
        }
    }

    /// The cause under which an event is an incident's.
    fn meet(&mut self, cause: K, place: Option<K>, at: SystemTime) -> K {
        let own = self.joined.get(&cause).cloned().unwrap_or_else(|| cause.clone());
        let Some(place) = place else { return own };
        // One that has been at another place before stays: that it is now here, now there may be what is wrong with it.
        if self.open.get(&own).is_some_and(|open| open.is_placed && !is_quiet(open.last, at)) {
            if self.places.len() < MAX_JOINED {
                self.places.entry(place).or_insert_with(|| own.clone());
            }
            return own;
        }
        let met = self
            .places
            .get(&place)
            .filter(|met| self.open.get(*met).is_some_and(|open| !is_quiet(open.last, at)));
        let Some(met) = met.filter(|met| **met != own).cloned() else {
            if self.places.len() < MAX_JOINED || self.places.contains_key(&place) {
                self.places.insert(place, own.clone());
            }
            return own;
        };
        if self.joined.len() >= MAX_JOINED {
            return own;
        }
        // What has been told stays one's own: its end is owed to whoever has read its begin.
        if self.open.get(&own).is_some_and(|open| open.interest == Interest::Told) {
            return own;
        }
        if let (Some(was), Some(open)) = (self.open.remove(&own), self.open.get_mut(&met)) {
            open.interest = open.interest.max(was.interest);
            open.told = open.told.max(was.told);
            if let Some(due) = was.due {
                open.owe(due, &mut self.due);
            }
            open.evidence.absorb(was.evidence);
        }
        self.joined.insert(cause, met.clone());
        met
    }

    /// An event at time `at` says more than was told of this incident so far: it is news, and a verdict follows `soon`.
    pub fn hasten(&mut self, cause: &K, at: SystemTime, soon: Duration, is_asked: bool) {
        let asked = |open: &&mut Open<V>| open.interest >= Interest::Asked;
        let Some(open) = self.open.get_mut(cause).filter(asked) else { return };
        if is_asked {
            open.told = Some(at);
        }
        open.owe(at + soon, &mut self.due);
    }

    /// The news about this incident was not wanted: its next event is news again, for it may be.
    pub fn unsaid(&mut self, cause: &K) {
        if let Some(open) = self.open.get_mut(cause) {
            open.told = None;
        }
    }

    /// When the next verdict is due; `None` if none is pending.
    #[must_use]
    pub const fn due(&self) -> Option<SystemTime> {
        self.due
    }

    /// Hands out the incidents whose verdict is due at `now`, then those that are over and of which something was told, and
    /// forgets the latter: [`BATCH`] of them, and the others at the next calls. `tell` says whether there was anything to be
    /// told.
    pub fn sum_up<E>(
        &mut self,
        now: SystemTime,
        mut tell: impl FnMut(Span, &V, State) -> Result<bool, E>,
    ) -> Result<(), E> {
        self.due = None;
        let mut left = BATCH;
        for open in self.open.values_mut().filter(|open| !is_over(open.last, now)) {
            if left > 0 && open.due.is_some_and(|due| due <= now) {
                left -= 1;
                (open.due, open.more) = (None, false);
                if tell(open.span(), &open.evidence, State::Ongoing)? {
                    open.interest = Interest::Told;
                }
            }
            let next = open.due.or_else(|| (open.interest == Interest::Told).then(|| open.last + QUIET));
            self.due = self.due.into_iter().chain(next).min();
        }
        let mut failed = Ok(());
        self.open.retain(|_, open| {
            let is_owed = open.interest == Interest::Told || open.due.is_some();
            if !is_over(open.last, now) || (is_owed && left == 0) {
                return true;
            }
            if is_owed && failed.is_ok() {
                left -= 1;
                failed = tell(open.span(), &open.evidence, State::Over).map(drop);
            }
            false
        });
        if left == 0 {
            // There may be more.
            self.due = Some(now);
        }
        failed?;
        let open = &self.open;
        self.joined.retain(|_, cause| open.contains_key(cause));
        self.places.retain(|_, cause| open.contains_key(cause));
        Ok(())
    }

    /// Hands out each incident of which there is more to be told: nobody listens any longer.
    pub fn close<E>(self, mut tell: impl FnMut(Span, &V, State) -> Result<bool, E>) -> Result<(), E> {
        let is_asked = |open: &&Open<V>| open.interest >= Interest::Asked;
        for open in self.open.values().filter(is_asked).filter(|open| open.due.is_some() || open.more) {
            tell(open.span(), &open.evidence, State::Ongoing)?;
        }
        Ok(())
    }

    /// Closes what is quiet; if nothing is, the one that has been quiet for longest.
    fn make_room(&mut self, now: SystemTime) {
        self.open.retain(|_, open| !is_quiet(open.last, now));
        if self.open.len() >= MAX_OPEN {
            let oldest = self.open.iter().min_by_key(|(_, open)| open.last).map(|(cause, _)| cause.clone());
            if let Some(cause) = oldest {
                self.open.remove(&cause);
            }
        }
    }
}

impl<V> Open<V> {
    /// Its verdict is to be told by then; `earliest` is the earliest of all.
    fn owe(&mut self, due: SystemTime, earliest: &mut Option<SystemTime>) {
        self.due = Some(self.due.map_or(due, |before| before.min(due)));
        *earliest = earliest.iter().copied().chain(self.due).min();
    }

    fn span(&self) -> Span {
        Span { trace_id: self.trace_id, span_id: SpanId::random() }
    }
}

/// Whether an incident goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// There was an event within [`QUIET`].
    Ongoing,
    /// There was none; the next with its cause opens a new one.
    Over,
}

impl State {
    /// As lines spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ongoing => "ongoing",
            Self::Over => "over",
        }
    }
}

/// Whether nothing has happened for as long as closes it.
fn is_over(last: SystemTime, now: SystemTime) -> bool {
    now.duration_since(last).is_ok_and(|since| since >= QUIET)
}

fn is_quiet(last: SystemTime, now: SystemTime) -> bool {
    now.duration_since(last).is_ok_and(|since| since > QUIET)
}

#[cfg(test)]
mod tests;
