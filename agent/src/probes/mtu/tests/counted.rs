//! What is counted, as a scrape has it, and what its rows mean to who asks only for some.

use agent_common::mtu::{Fate, Kind, MtuKey};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

use super::summed::{Held, row};
use super::{decoder, event, record};
use crate::kernel::sockets::Sockets;
use crate::probe::counts::{Counts, Rows as _, Sum};
use crate::probe::{Enriched, Level, Pods, Probe as _, Span};
use crate::probes::mtu::Mtu;
use crate::probes::mtu::encrypted::Policies;
use crate::probes::mtu::labels::MtuRows;

/// The series of events, without those of pods.
fn scraped(counts: &Counts<MtuRows>) -> Vec<String> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(counts.clone()));
    let mut scraped = String::new();
    text::encode(&mut scraped, &registry).unwrap();
    scraped.lines().filter(|line| line.starts_with("mtu_events_total{")).map(str::to_owned).collect()
}

/// Of a message that arrived it may be unknown what became of it; of what is no message that is no question.
#[test]
fn a_series_is_labelled_by_event_fate_and_family() {
    let unknown = MtuKey { kind: 9, fate: 99, ip_version: 5, ..MtuKey::default() };
    let rows = vec![
        row(Kind::Made, Fate::Unknown, 4, 0, 3),
        row(Kind::Received, Fate::Unknown, 6, 0, 2),
        row(Kind::Received, Fate::NoSocket, 4, 0, 4),
        (unknown, Sum { events: 1, ..Sum::default() }),
    ];
    assert_eq!(
        scraped(&Counts::new(Box::new(Held(rows)), MtuRows)),
        [
            "mtu_events_total{event=\"other\",fate=\"other\",family=\"other\"} 1",
            "mtu_events_total{event=\"made\",fate=\"none\",family=\"ipv4\"} 3",
            "mtu_events_total{event=\"received\",fate=\"unknown\",family=\"ipv6\"} 2",
            "mtu_events_total{event=\"received\",fate=\"no_socket\",family=\"ipv4\"} 4",
        ]
    );
}

/// What is not known is not hidden.
#[test]
fn a_row_matters_as_much_as_its_event_does() {
    for (kind, fate, level, reasons) in [
        (Kind::Made as u8, Fate::Unknown as u8, Level::Warn, &["made"][..]),
        (Kind::Learned as u8, Fate::Unknown as u8, Level::Info, &["learned"]),
        (Kind::Stalled as u8, Fate::Ordinary as u8, Level::Info, &["stalled"]),
        (Kind::Stalled as u8, 99, Level::Warn, &["stalled"]),
        (9, Fate::Unknown as u8, Level::Warn, &[]),
    ] {
        let (is, names) = MtuRows.matters(&(kind, fate, 4));
        assert_eq!((is, names.iter().map(String::as_str).collect::<Vec<_>>()), (level, reasons.to_vec()));
    }
}

/// From a series' number to the incident's lines.
#[test]
fn a_series_has_its_last_incident_as_the_example() {
    let rows = vec![row(Kind::Made, Fate::Unknown, 4, 0, 3), row(Kind::Oversize, Fate::Unknown, 4, 0, 1)];
    let counts = Counts::new(Box::new(Held(rows)), MtuRows);
    let (decoder, sockets) = (decoder(), Sockets::below(std::path::Path::new("/nonexistent")));
    let mut probe = Mtu { counts: counts.clone(), decoder, policies: Policies::default(), sockets };
    let (event, pods) = (event(&record(Kind::Made, 1400)), Pods::default());
    let spans = [Span::root(), Span::root()];
    for span in spans {
        probe.observe(&Enriched { event: &event, pods: &pods, span });
    }
    let lines = scraped(&counts);
    let example = format!(" 3 # {{trace_id=\"{}\"}} 1.0", spans[1].trace_id);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].starts_with("mtu_events_total{event=\"made\"") && lines[0].contains(&example),
        "{lines:?}"
    );
    assert!(!lines[1].contains("trace_id"), "{lines:?}");
}
