//! The last lines of a trace: what was counted, in words.

use agent_common::Tally;
use agent_common::mtu::{Fate, Kind, MtuKey};

use crate::probe::Probe as _;
use crate::probe::counts::{Counts, Source, Sum};
use crate::probes::mtu::labels::{MtuRows, summary};

/// What the kernel would hold.
pub(super) struct Held(pub(super) Vec<(MtuKey, Sum)>);

impl Source<MtuKey> for Held {
    fn rows(&self) -> Vec<(MtuKey, Sum)> {
        self.0.clone()
    }

    fn remove(&mut self, _: &MtuKey) -> bool {
        false
    }

    fn tallies(&self) -> Vec<Tally> {
        Vec::new()
    }
}

pub(super) fn row(kind: Kind, fate: Fate, ip_version: u8, source: u16, events: u64) -> (MtuKey, Sum) {
    let key = MtuKey { kind: kind as u8, ip_version, source, destination: 0, fate: fate as u8, zero: 0 };
    (key, Sum { events, bytes: 0, limited: 0 })
}

fn told(rows: Vec<(MtuKey, Sum)>) -> Vec<String> {
    summary(&Counts::new(Box::new(Held(rows)), MtuRows))
}

#[test]
fn what_was_counted_is_told_in_words_and_the_most_first() {
    let lines = told(vec![
        row(Kind::Received, Fate::Learned, 6, 0, 1),
        row(Kind::Oversize, Fate::Unknown, 4, 1, 8),
        // The same of another pod.
        row(Kind::Oversize, Fate::Unknown, 4, 2, 992),
        row(Kind::Made, Fate::Unknown, 4, 0, 30),
        row(Kind::Made, Fate::Nested, 4, 0, 20),
        row(Kind::Stalled, Fate::Unknown, 0, 0, 10),
    ]);
    assert_eq!(
        lines,
        [
            "  1000 dropped for their size without a word, ipv4",
            "    30 told somebody that a packet is too large, ipv4",
            "    20 too large, and nobody is told (nested), ipv4",
            "    10 segments sent again after many timeouts, other",
            "     1 was told so (learned), ipv6",
        ]
    );
}

#[test]
fn one_of_each_kind_is_told_as_one() {
    for (kind, one, two) in [
        (Kind::Oversize, "dropped for its size", "dropped for their size"),
        (Kind::Refused, "1 send refused", "2 sends refused"),
        (Kind::Learned, "1 path MTU learned", "2 path MTUs learned"),
        (Kind::Lost, "1 message about it", "2 messages about it"),
        (Kind::Stalled, "1 segment sent", "2 segments sent"),
        (Kind::Incomplete, "1 packet that stays", "2 packets that stay"),
        (Kind::Received, "1 was told so", "2 were told so"),
    ] {
        for (events, wanted) in [(1, one), (2, two)] {
            let lines = told(vec![row(kind, Fate::Unknown, 4, 0, events)]);
            assert!(lines.len() == 1 && lines[0].contains(wanted), "{lines:?}");
        }
    }
}

/// `--reason` is checked against these before anything is attached.
#[test]
fn every_kind_is_a_reason() {
    let kernel = crate::kernel::Kernel::load_from(crate::kernel::Roots::under("/nowhere".as_ref()));
    let reasons = crate::probes::mtu::Mtu::reasons(&kernel);
    assert_eq!(reasons.len(), Kind::ALL.len());
    for name in ["made", "received", "oversize", "refused", "learned", "lost", "stalled", "partial"] {
        assert!(reasons.iter().any(|reason| reason == name), "{name}: {reasons:?}");
    }
}
