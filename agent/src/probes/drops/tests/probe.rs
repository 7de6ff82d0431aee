//! The probe as a whole: what it takes from a kernel, and what it tells at its end.

use agent_common::Tally;
use agent_common::drops::DropKey;

use super::*;
use crate::kernel::Roots;
use crate::probe::Span;
use crate::probe::counts::{Source, Sum};

/// A kernel without BTF, whose tracepoint names two reasons.
fn kernel() -> (tempfile::TempDir, Kernel) {
    let format = "ID: 7\n\tfield:void * location;\toffset:16;\tsize:8;\tsigned:0;\nprint fmt: \"%s\", \
        __print_symbolic(REC->reason, { 2, \"NO_SOCKET\" }, { 3, \"QDISC_DROP\" })\n";
    let root = tempfile::tempdir().unwrap();
    for (file, text) in [
        ("sys/kernel/tracing/events/skb/kfree_skb/format", format),
        ("proc/kallsyms", "ffffffff81000000 T ip_rcv_core\nffffffff81000400 T next\n"),
    ] {
        let file = root.path().join(file);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
    let kernel = Kernel::load_from(Roots::under(root.path()));
    (root, kernel)
}

/// `--reason` must know what it is given.
#[test]
fn reasons_that_may_be_asked_for_are_classes_and_the_kernels_own() {
    let (_root, named) = kernel();
    let reasons = Drops::reasons(&named);
    assert_eq!(reasons.len(), 25 + 2);
    assert_eq!(
        [&reasons[0], &reasons[24], &reasons[25], &reasons[26]],
        ["mtu", "other", "NO_SOCKET", "QDISC_DROP"]
    );
    let unknown = Kernel::load_from(Roots::under("/nonexistent".as_ref()));
    assert_eq!(Drops::reasons(&unknown), Vec::<String>::new(), "any will do");
}

#[test]
fn the_kernel_side_is_told_what_this_kernel_has() {
    assert!(Drops::object().starts_with(b"\x7fELF"));
    let (_root, kernel) = kernel();
    let mut globals = Globals::default();
    Drops::globals(&kernel, &mut globals);
    let is_set = |name| globals.names().any(|set| set == name);
    for name in ["SKB_NFCT", "SKB_PKT_TYPE", "BRIDGE", "NO_CARRIER", "HAS_REASON", "HAS_RX_SK", "TP_LOCATION"]
    {
        assert!(is_set(name), "{name}");
    }
    assert!(is_set("REASON_QDISC") && is_set("REASON_NO_SOCKET"));
    assert!(!is_set("REASON_CONSUMED"), "this kernel has none");
}

struct Held(Vec<(DropKey, Sum)>);

impl Source<DropKey> for Held {
    fn rows(&self) -> Vec<(DropKey, Sum)> {
        self.0.clone()
    }

    fn remove(&mut self, _: &DropKey) -> bool {
        false
    }

    fn tallies(&self) -> Vec<Tally> {
        Vec::new()
    }
}

/// The reasons of the rows, by number.
const REASONS: [(u32, &str); 5] =
    [(1, "NO_SOCKET"), (2, "PKT_TOO_BIG"), (3, "QUEUE_PURGE"), (4, "CPU_BACKLOG"), (5, "XDP")];

/// The probe with so many events by reason and direction in its counts, for the pod in this slot.
fn probe(rows: &[(u32, u8, u16, u64)]) -> Drops {
    let (_root, kernel) = kernel();
    let row = |(reason, direction, source, events): &(u32, u8, u16, u64)| {
        let key = DropKey {
            place: 0x8100_0010,
            reason: *reason,
            source: *source,
            direction: *direction,
            ip_version: 4,
            ..DropKey::default()
        };
        (key, Sum { events: *events, bytes: 0, limited: 0 })
    };
    let mut decoder = Decoder::new(&kernel);
    decoder.reasons = Reasons::named(&REASONS);
    decoder.places.at(0x8100_0010).unwrap();
    let meaning = DropRows { reasons: decoder.reasons.clone(), places: decoder.places.clone() };
    let counts = Counts::new(Box::new(Held(rows.iter().map(row).collect())), meaning);
    Drops { counts, decoder, fixes: Fixes::default(), pods: OnceLock::new() }
}

#[test]
fn a_summary_has_the_largest_counts_first_and_what_cures_them() {
    // Of two pods: what they have in common is one line.
    let rows = [(1, 1, 1, 3), (1, 1, 2, 4), (4, 2, 0, 9), (3, 4, 0, 1000)];
    assert_eq!(
        probe(&rows).summary()(),
        [
            "     9 queue: CPU_BACKLOG in ip_rcv_core, sent",
            "     7 no_socket: NO_SOCKET in ip_rcv_core, received",
            "  1000 teardown (benign): QUEUE_PURGE in ip_rcv_core, other",
            "fix of queue: raise `net.core.netdev_max_backlog` on the node, or spread receiving over more processors (RPS)",
            "fix of no_socket: start what should listen there, or mend the address or port that the sender uses",
        ]
    );
    assert_eq!(probe(&[]).summary()(), Vec::<String>::new());
}

#[test]
fn a_summary_of_many_kinds_says_how_many_are_left_out() {
    let last = |kinds: usize| {
        let kinds = [1, 2]
            .iter()
            .flat_map(|reason| (0..=4).map(move |direction| (*reason, direction, 0, 1)))
            .take(kinds);
        let lines = probe(&kinds.collect::<Vec<_>>()).summary()();
        lines.into_iter().filter(|line| !line.starts_with("fix of")).skip(8).collect::<Vec<_>>()
    };
    assert_eq!(last(8), Vec::<String>::new());
    assert_eq!(last(9), ["       and 1 more kind"]);
    assert_eq!(last(10), ["       and 2 more kinds"]);
}

/// What was evident of an event cures what was counted with it.
#[test]
fn what_events_said_is_told_of_what_they_were_counted_under() {
    let mut probe = probe(&[(5, 1, 0, 1)]);
    let event = but(|packet| {
        packet.reason = Some("XDP".into());
        packet.counted = Verdict { class: Class::Policy, harm: Harm::Harmful };
        packet.verdict = Verdict { class: Class::DeviceDown, harm: Harm::Harmful };
    });
    let pods = Pods::default();
    let span = Span::root();
    probe.observe(&Enriched { event: &event, pods: &pods, span });
    assert_eq!(
        probe.summary()(),
        [
            "     1 policy: XDP in ip_rcv_core, received",
            "fix of device_down: `ip link set eth7 up`; its IPv6 addresses and the routes by it may be gone, and must be set again",
        ]
    );
    let mut metrics = crate::metrics::Metrics::default();
    metrics.registry().register_collector(Box::new(probe.counts.clone()));
    let text = metrics.encode(crate::metrics::Format::OpenMetrics).unwrap();
    assert!(text.contains(&format!("trace_id=\"{}\"", span.trace_id)), "its example: {text}");
}
