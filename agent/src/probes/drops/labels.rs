//! What a row of the exact counts is counted under.

use std::borrow::Cow;
use std::fmt;

use agent_common::drops::{Direction, DropKey};
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};

use super::class::{Class, Verdict};
use super::evidence::size_may_be_why;
use super::may_be_forged;
use super::place::Places;
use crate::kernel::reasons::Reasons;
use crate::probe::counts::{Families, Rows};
use crate::probe::{Ends, Level};

/// The label of a drop for which the kernel gives no reason (5.10).
pub const NO_REASON: &str = "NONE";

/// What a drop is counted under, node-wide. All from closed sets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels {
    pub(super) reason: String,
    pub(super) verdict: Verdict,
    /// `None` for one that this version does not know.
    pub(super) direction: Option<Direction>,
}

impl Labels {
    /// The series an event belongs to.
    #[must_use]
    pub fn new(reason: &str, verdict: Verdict, direction: Direction) -> Self {
        Self { reason: reason.to_owned(), verdict, direction: Some(direction) }
    }
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        [
            ("reason", self.reason.as_str()),
            ("class", self.verdict.class.name()),
            ("harm", self.verdict.harm.name()),
            ("direction", self.direction.map_or("other", direction_name)),
        ]
        .encode(encoder)
    }
}

/// What the labels of a drop hang on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    place: u32,
    reason: u32,
    direction: u8,
    circumstances: u16,
}

/// Turns keys into labels, by the running kernel's names.
pub struct DropRows {
    /// Its reasons.
    pub reasons: Reasons,
    /// Its functions.
    pub places: Places,
}

impl Rows for DropRows {
    type Key = DropKey;
    type Kind = Kind;
    type Labels = Labels;

    const FAMILIES: Families = Families {
        events: (
            "drop_packets",
            "Packets the kernel dropped, by its reason, what that means, and the way they were going",
        ),
        bytes: Some(("drop_bytes", "Their length added up (skb->len: from the header the kernel was at)")),
        pods: (
            "pod_drop_packets",
            "Packets dropped with a pod of this node at one end; a packet between two of them counts at both ends",
        ),
        uncounted: (
            "drop_uncounted_packets",
            "Packets dropped that are in no row: the kernel's map of counts was full or busy",
        ),
        folded: (
            "drop_folded_series",
            "Pods' rows that were folded into the overflow series since the start",
        ),
        other: &[("reason", "other"), ("class", "other"), ("harm", "other"), ("direction", "other")],
    };

    fn kind(key: &DropKey) -> Kind {
        Kind {
            place: key.place,
            reason: key.reason,
            direction: key.direction,
            circumstances: key.circumstances,
        }
    }

    fn labels(&self, kind: &Kind) -> Labels {
        let reason = self.reasons.name(kind.reason).map_or_else(|| NO_REASON.to_owned(), Cow::into_owned);
        let known = if reason == NO_REASON { "" } else { &reason };
        let verdict = self.places.verdict(known, u64::from(kind.place), kind.circumstances);
        Labels { reason, verdict, direction: Direction::from_wire(kind.direction) }
    }

    fn matters(&self, kind: &Kind) -> (Level, Vec<String>) {
        let Labels { reason, verdict, .. } = self.labels(kind);
        (verdict.harm.level(), vec![verdict.class.name().to_owned(), reason])
    }

    fn may_be(&self, kind: &Kind) -> Option<&'static str> {
        let Labels { reason, verdict, .. } = self.labels(kind);
        let place = self.places.known_at(u64::from(kind.place));
        let function = place.as_ref().map_or("", |place| place.function.as_ref());
        let reason = if reason == NO_REASON { "" } else { &reason };
        size_may_be_why(reason, function, verdict).then(|| Class::Mtu.name())
    }

    fn slots(key: &DropKey) -> Ends<u16> {
        Ends { source: key.source, destination: key.destination }
    }

    fn trusts_source(&self, kind: &Kind) -> bool {
        // A packet that died for its source address says nothing true about its source. Only where there is no reason
        // the place is asked for, which costs more.
        let reason = self.reasons.name(kind.reason);
        let place = if reason.is_none() { self.places.known_at(u64::from(kind.place)) } else { None };
        !may_be_forged(reason.as_deref(), place.as_ref().map(|place| place.function.as_ref()))
    }
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

#[cfg(test)]
mod tests;
