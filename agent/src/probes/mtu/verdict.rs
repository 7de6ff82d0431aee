//! What the events of one incident add up to: which hop or device, what it takes, who is hurt, what to set.

use std::time::{Duration, SystemTime};

use agent_common::mtu::{Fate, Kind};

use super::destinations::Destinations;
use super::event::{Absurd, Limit, TooBig};
use super::finding::{Finding, Judgement};
use super::heed::Heeds;
use super::labels::{fate_name, kind_name};
use super::stall::Stalls;
use super::told::Told;
use super::{blocked, fragments, words};
use crate::probe::{
    Absorb, Confidence, Event as _, Evidence, Field, Level, PATIENCE, Pods, SOON, Value, Verdict,
};

/// The evidence of one incident.
#[derive(Default)]
pub struct Findings {
    /// The event that says most of the cause, and whose it was. In a box, as all that few incidents have: a storm opens many.
    best: Option<Box<(TooBig, Pods)>>,
    /// The last message that was lost or not sent, and whom it was to tell.
    lost: Option<Box<(TooBig, Pods)>>,
    /// The last message about a packet that no socket sent, and whose it would be.
    stray: Option<Box<(TooBig, Pods)>>,
    /// Messages that reached whom they were for.
    taken: u64,
    /// Messages that were lost or not sent since the last that did.
    lost_since: u64,
    /// TCP connections that are stuck.
    stalls: Stalls,
    /// How often who sends too much was told.
    heeds: Heeds,
    /// MTUs that were told.
    told: Told,
    /// Events by kind and fate, in the order of the declarations: at least so many, or exactly.
    counts: [[u64; Fate::ALL.len()]; Kind::ALL.len()],
    first: Option<SystemTime>,
    last: Option<SystemTime>,
    /// The longest packet in question, bytes; of GSO packets only what was cut already.
    longest: u32,
    level: Level,
    /// Whether there may have been more than was told of.
    is_cut: bool,
    /// Where its packets were to go.
    destinations: Destinations,
}

impl Absorb for Findings {
    fn absorb(&mut self, other: Self) {
        for (ours, theirs) in self.counts.iter_mut().flatten().zip(other.counts.iter().flatten()) {
            *ours = ours.saturating_add(*theirs);
        }
        let more = |(event, _): &(TooBig, Pods)| (weight(event), smaller(event));
        if other.best.as_deref().map(more) > self.best.as_deref().map(more) {
            self.best = other.best;
        }
        self.lost = other.lost.or(self.lost.take());
        self.stray = other.stray.or(self.stray.take());
        self.heeds.absorb(other.heeds);
        self.told.absorb(&other.told);
        self.taken = self.taken.saturating_add(other.taken);
        self.lost_since = self.lost_since.saturating_add(other.lost_since);
        self.stalls.absorb(other.stalls);
        self.first = self.first.into_iter().chain(other.first).min();
        self.last = self.last.into_iter().chain(other.last).max();
        self.longest = self.longest.max(other.longest);
        self.level = self.level.max(other.level);
        self.is_cut |= other.is_cut;
        self.destinations.absorb(other.destinations);
    }
}

/// How much an event says of the cause: the place itself, then who tells of it, then what comes of what was told. A message
/// that may be forged must not hide what is known for certain.
fn weight(event: &TooBig) -> u8 {
    match (event.kind, event.fate) {
        (Kind::Oversize, _) => 7,
        // Nobody knows what it is about.
        (Kind::Made, _) if event.flow().is_none() => 0,
        (Kind::Made, _) if event.limit() != Some(Limit::Path) => 6,
        // More than what comes of it.
        (Kind::Received, Fate::NoSocket) => {
            if event.is_taken() {
                3
            } else {
                1
            }
        }
        // Unless the kernel believed it.
        (Kind::Received, fate) if fate != Fate::Learned && event.absurd().is_some() => 1,
        // Whatever takes less, who is told of it does not listen.
        (Kind::Received, Fate::Ignored) => 8,
        (Kind::Received, _) => 5,
        (Kind::Made, _) => 4,
        (Kind::Refused | Kind::Incomplete, _) => 3,
        (Kind::Learned, _) => 2,
        (Kind::Lost | Kind::Stalled, _) => 0,
    }
}

/// Whether it says of a path what may be so. What contradicts the packet that it quotes counts as well, unless nobody sent
/// that packet: by turns with another number it is what makes a path flap.
fn is_told_of_path(event: &TooBig) -> bool {
    let is_possible = match event.absurd() {
        None | Some(Absurd::Fits(_) | Absurd::Larger(_)) => event.fate != Fate::NoSocket,
        Some(Absurd::NoLink(_) | Absurd::NoPath(_)) => false,
    };
    event.kind == Kind::Received && is_possible
}

impl Evidence<TooBig> for Findings {
    const SUMS_UP: bool = true;

    fn add(&mut self, event: &TooBig, pods: &Pods) -> Option<Duration> {
        self.count(event);
        if event.kind == Kind::Stalled {
            return self.stalls.add(event, pods).then_some(SOON);
        }
        if matches!(event.kind, Kind::Made | Kind::Received | Kind::Oversize) && event.record.gso_size == 0 {
            self.longest = self.longest.max(event.record.len);
        }
        let was_blocked = self.is_blocked();
        let mut is_news = event.kind == Kind::Incomplete && self.incomplete() == fragments::NO_CHANCE;
        if event.kind == Kind::Lost || event.is_unsent() {
            self.lost = Some(Box::new((event.clone(), pods.clone())));
            self.lost_since = self.lost_since.saturating_add(1).saturating_add(event.record.held);
        }
        if event.kind == Kind::Received && event.fate == Fate::NoSocket {
            self.stray = Some(Box::new((event.clone(), pods.clone())));
        }
        if event.kind == Kind::Received && weight(event) > 3 {
            // Of a tunnel's packet its end is told, not who is inside.
            let reached = event.tunnel().is_none() && matches!(event.fate, Fate::Learned | Fate::Delivered);
            self.taken += u64::from(reached);
            self.lost_since = if reached { 0 } else { self.lost_since };
        }
        if is_told_of_path(event) {
            is_news |= self.told.add(event.record.mtu);
        }
        if event.kind == Kind::Made && event.fate == Fate::Unknown {
            self.heeds.add(event);
        }
        if event.kind != Kind::Lost {
            // Of those that one device is too small for, who does not heed it has more to tell than who does.
            let ignores = |event: &TooBig| self.heeds.ignored(event).is_some();
            let rank = |event: &TooBig| (weight(event), smaller(event), ignores(event));
            let more = |best: &TooBig| rank(event) > rank(best);
            if self.best.as_ref().is_none_or(|best| more(&best.0)) {
                is_news |= self.best.as_ref().is_some_and(|best| weight(&best.0) < weight(event));
                self.best = Some(Box::new((event.clone(), pods.clone())));
            }
        }
        is_news |= self.is_blocked() && !was_blocked;
        is_news.then_some(PATIENCE)
    }

    fn verdict(&self) -> Option<Verdict<'_>> {
        let (event, pods, judgement) = self.judge()?;
        let Judgement { finding, confidence, what, mut fix } = judgement;
        // Else the fix cures one of them.
        if let (Some(fix), Some(to)) = (&mut fix, event.destination())
            && self.destinations.count() > 1
            && fix.contains(&to.to_string())
        {
            fix.push_str("; do the same for the other destinations");
        }
        let mut message = format!("{what}{}; {}", self.destinations.text(), self.tally());
        if let Some(fix) = &fix {
            message = format!("{message}. Fix: {fix}");
        }
        let fits = event.fits().filter(|_| finding != Finding::AbsurdMtu);
        let mut fields: Vec<Field<'_>> = vec![
            ("finding", Value::Text(finding.name().into())),
            ("confidence", Value::Text(confidence.name().into())),
            ("count", Value::Number(self.counts.iter().flatten().sum())),
            ("count_is_exact", Value::Flag(!self.is_cut)),
            ("destinations", Value::Number(self.destinations.count())),
            ("fits", fits.map_or(Value::Absent, |fits| Value::Number(fits.into()))),
            ("longest", if self.longest == 0 { Value::Absent } else { Value::Number(self.longest.into()) }),
            ("fix", fix.map_or(Value::Absent, |fix| Value::Text(fix.into()))),
        ];
        event.fields(pods, &mut fields);
        let is_stall = matches!(finding, Finding::BlackHole | Finding::Suspect);
        let level = if is_stall { Level::Warn } else { self.level };
        Some(Verdict { at: self.last?, level, pod: event.about(pods), message, fields })
    }
}

/// The less an event says that fits, the more it says: the smallest hop decides. Unknown is none.
fn smaller(event: &TooBig) -> u32 {
    event.fits().map_or(0, |fits| u32::MAX - fits)
}

impl Findings {
    fn count(&mut self, event: &TooBig) {
        let fates = self.counts.get_mut(event.kind as usize - 1);
        if let Some(count) = fates.and_then(|fates| fates.get_mut(event.fate as usize)) {
            *count = count.saturating_add(1).saturating_add(event.record.held);
        }
        self.first = Some(self.first.map_or(event.at, |first| first.min(event.at)));
        self.last = Some(self.last.map_or(event.at, |last| last.max(event.at)));
        self.level = self.level.max(event.level());
        self.is_cut |= event.is_cut();
        self.destinations.add(event.destination());
    }

    /// Whether a route cache of this node has learned of it.
    fn has_learned(&self) -> bool {
        self.counts.get(Kind::Learned as usize - 1).is_some_and(|fates| fates.iter().any(|n| *n > 0))
    }

    /// Packets of which some fragments never came.
    fn incomplete(&self) -> u64 {
        self.counts.get(Kind::Incomplete as usize - 1).map_or(0, |fates| fates.iter().sum())
    }

    /// From the first event to the last.
    fn took(&self) -> Duration {
        let took = self.first.zip(self.last).and_then(|(first, last)| last.duration_since(first).ok());
        took.unwrap_or_default()
    }

    /// Whether who sends too much never learns it, or no longer does: one that was lost between others that arrived is chance.
    fn is_blocked(&self) -> bool {
        const NO_LONGER: u64 = 3;
        let never = self.taken == 0 && !self.has_learned();
        self.lost.is_some() && (never || self.lost_since >= NO_LONGER)
    }

    /// The event that says most, and what it comes to.
    fn judge(&self) -> Option<(&TooBig, &Pods, Judgement)> {
        if self.is_blocked()
            && let Some((lost, pods)) = self.lost.as_deref()
        {
            let cause = self.best.as_ref().map(|best| &best.0).filter(|event| weight(event) > 1);
            let mut judgement = blocked::judge(lost, pods, cause);
            if self.taken > 0 || self.has_learned() {
                judgement.confidence = Confidence::Medium;
                judgement.what.push_str(" now; earlier ones arrived");
            }
            return Some((lost, pods, judgement));
        }
        if let Some((stray, pods)) = self.stray.as_deref()
            && let Some(stuck) = self.stalls.of_port(stray.ports().0)
            && stuck.destination() != stray.destination()
        {
            return Some((stray, pods, words::untranslated(stray, pods, stuck)));
        }
        if let Some((event, pods)) = self.stalls.proof()
            && !self.explains(event)
        {
            return Some((event, pods, self.stalls.judge(event, pods)));
        }
        if let Some((event, pods)) = self.stalls.doubt()
            && !self.is_surer_than(event)
        {
            return Some((event, pods, self.stalls.judge_doubt(event, pods)));
        }
        let (event, pods) = self.best.as_deref()?;
        if self.told.is_flapping() && event.kind == Kind::Received && weight(event) > 3 {
            return Some((event, pods, words::flapping(event, pods, &self.told)));
        }
        if event.kind == Kind::Incomplete {
            return Some((event, pods, fragments::judge(event, pods, self.incomplete(), self.is_cut)));
        }
        let mut judgement = words::judge(event, pods, self.longest, self.heeds.ignored(event))?;
        if judgement.finding == Finding::SmallHop && self.is_disbelieved(event) {
            judgement.confidence = Confidence::Low;
            judgement.what.push_str(", but TCP has not acted on it: the message may be forged");
        }
        if let Some(stuck) = self.stalls.stuck() {
            judgement.what.push_str(&stuck);
        }
        Some((event, pods, judgement))
    }

    /// Whether TCP was told and nothing came of it. It hears only of segments that it has under way, which who forges messages
    /// must guess; and what it believes the route cache learns, if not at once.
    fn is_disbelieved(&self, event: &TooBig) -> bool {
        const TCP: u8 = 6;
        let learned = self.has_learned();
        event.kind == Kind::Received
            && event.fate == Fate::Delivered
            && event.flow().is_some_and(|flow| flow.protocol == TCP)
            && !learned
    }

    /// Whether a connection is stuck for a reason that is known: something takes less than the connection believes.
    fn explains(&self, stalled: &TooBig) -> bool {
        self.best.as_deref().is_some_and(|(best, _)| {
            weight(best) > 3 && best.fits().is_none_or(|fits| fits < stalled.record.stall.pmtu)
        })
    }

    /// Whether there is something that says more than a connection that is stuck for a reason that is not known. That a program
    /// was refused datagrams larger than what the connection sends does not.
    fn is_surer_than(&self, stalled: &TooBig) -> bool {
        self.best.as_deref().is_some_and(|(best, _)| {
            let pmtu = stalled.record.stall.pmtu;
            let is_beside =
                best.kind == Kind::Refused && pmtu != 0 && best.fits().is_some_and(|fits| fits >= pmtu);
            weight(best) >= 3 && !is_beside
        })
    }

    /// `3 made, 2 received (1 delivered, 1 learned) in 1.5 s`: what there was, and what became of it.
    fn tally(&self) -> String {
        let of_kind = |(kind, fates): (Kind, &[u64; Fate::ALL.len()])| {
            let sum: u64 = fates.iter().sum();
            let known = Fate::ALL.into_iter().zip(fates).skip(1).filter(|(_, count)| **count > 0);
            let known: Vec<String> =
                known.map(|(fate, count)| format!("{count} {}", fate_name(kind, fate))).collect();
            let name = kind_name(kind);
            match known.as_slice() {
                _ if sum == 0 => None,
                [] => Some(format!("{sum} {name}")),
                _ => Some(format!("{sum} {name} ({})", known.join(", "))),
            }
        };
        let counted: Vec<String> = Kind::ALL.into_iter().zip(&self.counts).filter_map(of_kind).collect();
        let took = self.took();
        let at_least = if self.is_cut { "at least " } else { "" };
        format!("{at_least}{} in {:.1} s", counted.join(", "), took.as_secs_f64())
    }
}
