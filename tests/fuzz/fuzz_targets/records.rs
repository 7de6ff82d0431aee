//! A record of any bytes is an event of one line in every sink, and says of its pods only what the kernel said.
#![no_main]

use std::sync::{Arc, LazyLock};

use agent::incident::Incidents;
use agent::kernel::{Kernel, Roots};
use agent::pod::{Pod, Subject};
use agent::probe::pipeline;
use agent::probe::{Ends, Enriched, Event as _, Pods};
use agent::probes::drops::decode::Decoder;
use agent::probes::drops::{Drops, PacketDrop, RPFILTER};
use agent::sink::json::JsonSink;
use agent::sink::table::{Style, TableSink};
use agent::sink::{Identity, Sink, Written};
use agent_common::drops::{DropRecord, flags};
use fuzz::line;
use libfuzzer_sys::fuzz_target;

/// With a small kernel's names: types cut out of a real one's, and symbols in its shape.
static DECODER: LazyLock<Decoder> = LazyLock::new(|| {
    let kernel = Kernel::load_from(Roots::under(concat!(env!("CARGO_MANIFEST_DIR"), "/kernel").as_ref()));
    assert!(kernel.btf().is_some() && kernel.symbols().is_some(), "{:?}", kernel.missing());
    Decoder::new(&kernel)
});

static IDENTITY: LazyLock<Arc<Identity>> =
    LazyLock::new(|| Arc::new(Identity::new(Some("node-1".into()), None, None)));

fuzz_target!(|data: &[u8]| {
    let Some((choice, record)) = data.split_first() else { return };
    let event = match DECODER.decode(record) {
        Ok(event) => event,
        Err(error) => {
            assert_eq!((error.got, error.want), (record.len(), size_of::<DropRecord>()));
            return;
        }
    };
    let pods = Pods { source: pod(choice & 3), destination: pod(choice >> 2 & 3) };
    let span = Incidents::default().span(event.cause(&pods), event.at());
    let enriched = Enriched { event: &event, pods: &pods, span };

    let mut json = Vec::new();
    write(&enriched, &mut JsonSink::new(&mut json, Arc::clone(&IDENTITY)));
    let line = line::check_json(&json);
    for name in ["mtu", "length", "gso_size", "netns"] {
        assert_ne!(line[name], 0, "{name}: what is unknown is null");
    }
    let record = DropRecord::from_bytes(record).expect("it was decoded");
    let Ends { source, destination } = event.subjects();
    if line["reason"] == RPFILTER {
        assert_eq!(source, [None, None], "a forged source is nobody's");
    }
    if record.flags & flags::FOREIGN != 0 {
        let is_address = |subject: &Option<Subject>| matches!(subject, Some(Subject::Address(_)));
        assert!(!source.iter().chain(&destination).any(is_address), "an address of another network");
    }
    for style in [Style::default(), Style { wide: true, colour: false }] {
        let mut table = Vec::new();
        write(&enriched, &mut TableSink::new(&mut table, style));
        assert_eq!(line::check(&table).len(), 2, "a heading and a row");
    }
});

fn write(enriched: &Enriched<'_, PacketDrop>, sink: &mut dyn Sink) {
    let written = pipeline::write::<Drops>(enriched, sink).expect("memory takes every line");
    assert_eq!(written, Written::Yes);
    sink.flush().expect("memory takes every line");
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
