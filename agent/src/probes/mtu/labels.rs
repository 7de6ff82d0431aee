//! What a row of the exact counts is counted under, and all of them in words.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use agent_common::mtu::{Fate, Kind, MtuKey};
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};

use super::event::level;
use crate::probe::counts::{Counts, Families, Rows};
use crate::probe::{Ends, Level};

/// What an event is counted under, node-wide. All from closed sets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels {
    /// `None` for one that this version does not know, as below.
    kind: Option<Kind>,
    fate: Option<Fate>,
    ip_version: u8,
}

impl Labels {
    /// The series an event belongs to.
    #[must_use]
    pub fn of(kind: Kind, fate: Fate, ip_version: u8) -> Self {
        Self { kind: Some(kind), fate: Some(fate), ip_version }
    }
}

impl Labels {
    fn fate_name(&self) -> &'static str {
        self.kind.zip(self.fate).map_or("other", |(kind, fate)| fate_name(kind, fate))
    }
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        [
            ("event", self.kind.map_or("other", kind_name)),
            ("fate", self.fate_name()),
            ("family", family_name(self.ip_version)),
        ]
        .encode(encoder)
    }
}

/// Turns keys into labels.
pub struct MtuRows;

impl Rows for MtuRows {
    type Key = MtuKey;
    type Kind = (u8, u8, u8);
    type Labels = Labels;

    const FAMILIES: Families = Families {
        events: (
            "mtu_events",
            "Packets too large for their path: messages made and received about them, drops without a message, refused sends, path MTUs learned, and packets that stay incomplete",
        ),
        bytes: None,
        pods: (
            "pod_mtu_events",
            "The same with a pod of this node at one end; between two of them an event counts at both ends",
        ),
        uncounted: (
            "mtu_uncounted_events",
            "Events that are in no row: the kernel's map of counts was full or busy",
        ),
        folded: ("mtu_folded_series", "Pods' rows that were folded into the overflow series since the start"),
        other: &[("event", "other"), ("fate", "other"), ("family", "other")],
    };

    fn kind(key: &MtuKey) -> (u8, u8, u8) {
        (key.kind, key.fate, key.ip_version)
    }

    fn labels(&self, (kind, fate, ip_version): &(u8, u8, u8)) -> Labels {
        Labels { kind: Kind::from_wire(*kind), fate: Fate::from_wire(*fate), ip_version: *ip_version }
    }

    fn matters(&self, (kind, fate, _): &(u8, u8, u8)) -> (Level, Vec<String>) {
        let kind = Kind::from_wire(*kind);
        // What is not known is not hidden.
        let level = kind.zip(Fate::from_wire(*fate)).map_or(Level::Warn, |(kind, fate)| level(kind, fate));
        (level, kind.map(|kind| kind_name(kind).to_owned()).into_iter().collect())
    }

    fn slots(key: &MtuKey) -> Ends<u16> {
        Ends { source: key.source, destination: key.destination }
    }
}

/// A kind's name in metrics, JSON and tables.
#[must_use]
pub const fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Made => "made",
        Kind::Received => "received",
        Kind::Oversize => "oversize",
        Kind::Refused => "refused",
        Kind::Learned => "learned",
        Kind::Lost => "lost",
        Kind::Stalled => "stalled",
        Kind::Incomplete => "partial",
    }
}

/// What became of it, in metrics, JSON and tables; `none` of kinds of which that is no question.
#[must_use]
pub const fn fate_name(kind: Kind, fate: Fate) -> &'static str {
    match fate {
        Fate::Unknown if matches!(kind, Kind::Received) => "unknown",
        Fate::Unknown => "none",
        Fate::Learned => "learned",
        Fate::Delivered => "delivered",
        Fate::NoSocket => "no_socket",
        Fate::Ignored => "ignored",
        Fate::Unsent => "unsent",
        Fate::Filtered => "filtered",
        Fate::Invalid => "invalid",
        Fate::Dropped => "dropped",
        Fate::BlackHole => "black_hole",
        Fate::Suspect => "suspect",
        Fate::Ordinary => "ordinary",
        Fate::Nested => "nested",
        Fate::NoRoute => "no_route",
        Fate::Limited => "limited",
    }
}

const fn family_name(ip_version: u8) -> &'static str {
    match ip_version {
        4 => "ipv4",
        6 => "ipv6",
        _ => "other",
    }
}

/// What was counted, by kind and family, the most first.
#[must_use]
pub fn summary(counts: &Counts<MtuRows>) -> Vec<String> {
    let mut sums: BTreeMap<Labels, u64> = BTreeMap::new();
    for (key, sum) in counts.rows() {
        *sums.entry(MtuRows.labels(&MtuRows::kind(&key))).or_default() += sum.events;
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(_, events)| Reverse(*events));
    let line = |(labels, events): &(Labels, u64)| {
        let one = *events == 1;
        let what = match labels.kind {
            Some(Kind::Made) if labels.fate != Some(Fate::Unknown) => "too large, and nobody is told",
            Some(Kind::Made) => "told somebody that a packet is too large",
            Some(Kind::Received) if one => "was told so",
            Some(Kind::Received) => "were told so",
            Some(Kind::Oversize) if one => "dropped for its size without a word",
            Some(Kind::Oversize) => "dropped for their size without a word",
            Some(Kind::Refused) if one => "send refused (EMSGSIZE)",
            Some(Kind::Refused) => "sends refused (EMSGSIZE)",
            Some(Kind::Learned) if one => "path MTU learned",
            Some(Kind::Learned) => "path MTUs learned",
            Some(Kind::Lost) if one => "message about it dropped on its way",
            Some(Kind::Lost) => "messages about it dropped on their way",
            Some(Kind::Stalled) if one => "segment sent again after many timeouts",
            Some(Kind::Stalled) => "segments sent again after many timeouts",
            Some(Kind::Incomplete) if one => "packet that stays incomplete",
            Some(Kind::Incomplete) => "packets that stay incomplete",
            None => "of another kind",
        };
        let fate = match labels.fate {
            Some(Fate::Unknown) => String::new(),
            _ => format!(" ({})", labels.fate_name()),
        };
        format!("{events:>6} {what}{fate}, {}", family_name(labels.ip_version))
    };
    sums.iter().map(line).collect()
}
