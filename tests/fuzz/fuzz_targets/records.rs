//! A record of any bytes is an event of one line in every sink, and says of its pods only what the kernel said.
#![no_main]

use std::sync::{Arc, LazyLock};

use agent::incident::{Incidents, Span, State};
use agent::kernel::{Kernel, Roots};
use agent::pod::{Pod, Subject};
use agent::probe::pipeline::{self, EvidenceOf};
use agent::probe::{Ends, Enriched, Event, Evidence as _, Level, Pods, Probe};
use agent::probes::drops::Drops;
use agent::probes::drops::decode::Decoder;
use agent::probes::mtu::Mtu;
use agent::probes::mtu::decode as mtu_decode;
use agent::sink::json::JsonSink;
use agent::sink::table::{Style, TableSink};
use agent::sink::{Identity, Sink, Written};
use agent_common::drops::DropRecord;
use agent_common::mtu::MtuRecord;
use agent_common::{drops, mtu};
use fuzz::line;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// A small kernel's names: types cut out of a real one's, and symbols in its shape.
static KERNEL: LazyLock<(Decoder, mtu_decode::Decoder)> = LazyLock::new(|| {
    let kernel = Kernel::load_from(Roots::under(concat!(env!("CARGO_MANIFEST_DIR"), "/kernel").as_ref()));
    assert!(kernel.btf().is_some(), "{:?}", kernel.missing());
    assert!(kernel.symbols().get().is_some(), "the kernel's symbols are beside its types");
    (Decoder::new(&kernel), mtu_decode::Decoder::new(&kernel))
});

static IDENTITY: LazyLock<Arc<Identity>> =
    LazyLock::new(|| Arc::new(Identity::new(Some("node-1".into()), None, None)));

fuzz_target!(|data: &[u8]| {
    let Some((choice, record)) = data.split_first() else { return };
    let pods = Pods { source: pod(choice & 3), destination: pod(choice >> 2 & 3) };
    drop_record(record, &pods);
    mtu_record(record, &pods);
});

fn drop_record(record: &[u8], pods: &Pods) {
    let event = match KERNEL.0.decode(record) {
        Ok(event) => event,
        Err(error) => {
            let direction = DropRecord::from_bytes(record)
                .and_then(|record| drops::Direction::from_wire(record.direction));
            assert_eq!(direction, None, "a record of its length and a known direction is an event: {error}");
            return;
        }
    };
    let line = told::<Drops>(&event, pods);
    let record = DropRecord::from_bytes(record).expect("it was decoded");
    if line["reason"] == "IP_RPFILTER" {
        assert_eq!(event.subjects().source, [None, None], "a forged source is nobody's");
    }
    if record.flags & drops::flags::FOREIGN != 0 {
        assert_no_address(&event.subjects());
    }
}

fn mtu_record(record: &[u8], pods: &Pods) {
    let Ok(event) = KERNEL.1.decode(record) else {
        let known = MtuRecord::from_bytes(record)
            .and_then(|record| mtu::Kind::from_wire(record.kind).zip(mtu::Fate::from_wire(record.fate)));
        assert_eq!(known, None, "a record of its length, of a known kind and fate, is an event");
        return;
    };
    told::<Mtu>(&event, pods);
    let record = MtuRecord::from_bytes(record).expect("it was decoded");
    if record.flags & mtu::flags::FOREIGN != 0 {
        assert_no_address(&event.subjects());
    }
}

/// The event in every sink, and what it adds up to by itself; gives its JSON.
fn told<P: Probe>(event: &P::Event, pods: &Pods) -> Value {
    let mut incidents = Incidents::<_, ()>::default();
    let span = incidents.join(event.cause(pods), event.place(pods), event.at(), true).span;
    let enriched = Enriched { event, pods, span };
    let write = |sink: &mut dyn Sink| {
        let written = pipeline::write::<P>(&enriched, sink).expect("memory takes every line");
        assert_eq!(written, Written::Yes);
        sink.flush().expect("memory takes every line");
    };
    let mut json = Vec::new();
    write(&mut JsonSink::new(&mut json, Arc::clone(&IDENTITY)));
    let line = line::check_json(&json);
    for name in ["mtu", "length", "gso_size", "netns"] {
        assert_ne!(line[name], 0, "{name}: what is unknown is null");
    }
    for style in [Style::default(), Style { wide: true, ..Style::default() }] {
        let mut table = Vec::new();
        write(&mut TableSink::new(&mut table, style));
        assert_eq!(line::check(&table).len(), 2, "a heading and a row");
    }
    if EvidenceOf::<P>::SUMS_UP {
        let mut evidence = EvidenceOf::<P>::default();
        evidence.add(event, pods);
        let may_prove_nothing = match line["event"].as_str() {
            // A segment that is sent again is a line of its own.
            Some("stalled") => true,
            // A message about what is no packet blames nobody.
            Some("made") => line["destination_ip"].is_null(),
            _ => false,
        };
        if evidence.verdict().is_some() || !may_prove_nothing {
            sum_up::<P>(span, &evidence);
        }
    }
    line
}

fn sum_up<P: Probe>(span: Span, evidence: &EvidenceOf<P>) {
    let tell = |sink: &mut dyn Sink| {
        pipeline::tell::<P>(sink, Level::Info, span, evidence, State::Over).expect("memory takes every line");
        sink.flush().expect("memory takes every line");
    };
    let (mut json, mut table) = (Vec::new(), Vec::new());
    tell(&mut JsonSink::new(&mut json, Arc::clone(&IDENTITY)));
    assert!(line::check_json(&json)["finding"].is_string(), "a verdict names its finding");
    tell(&mut TableSink::new(&mut table, Style::default()));
    assert!(!line::check(&table).is_empty(), "a verdict is told");
}

fn assert_no_address(ends: &Ends<[Option<Subject>; 2]>) {
    let Ends { source, destination } = ends;
    let is_address = |subject: &Option<Subject>| matches!(subject, Some(Subject::Address(_)));
    assert!(!source.iter().chain(destination).any(is_address), "an address of another network");
}

/// Nobody, or a pod: with a short name and with the longest that Kubernetes allows.
fn pod(choice: u8) -> Option<Arc<Pod>> {
    let (namespace, name) = match choice {
        0 | 1 => return None,
        2 => ("shop".to_owned(), "web-0".to_owned()),
        _ => ("n".repeat(63), "p".repeat(253)),
    };
    Some(Arc::new(Pod { namespace, name, uid: "5c2f8b1d9e7a4f3c6b0d1e2f3a4b5c6d".to_owned() }))
}
