use std::sync::Mutex;
use std::time::Duration;

use agent_common::Tally;
use prometheus_client::collector::Collector;

use super::*;
use crate::kernel::Kernel;
use crate::pod::PodSlots;
use crate::probe::attach::{MapError, Maps};
use crate::probe::counts::ReadLimited;
use crate::probe::flow::ReadTallies;
use crate::probe::globals::Globals;
use crate::probe::{Cell, Column, DecodeError, Field, Hook, Level, Summary};

/// What a record of one byte says: a number up to 3.
struct Said(u8);

struct Says3;

impl Event for Said {
    type Cause = u8;
    type Evidence = ();

    fn at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1)
    }

    fn level(&self) -> Level {
        Level::Warn
    }

    fn subjects(&self) -> Ends<[Option<Subject>; 2]> {
        Ends::default()
    }

    fn cause(&self, _: &Pods) -> u8 {
        self.0
    }

    fn about<'a>(&self, _: &'a Pods) -> Option<&'a Pod> {
        None
    }

    fn message(&self, _: &Pods, text: &mut String) {
        text.push_str(&self.0.to_string());
    }

    fn fields<'a>(&'a self, _: &'a Pods, _: &mut Vec<Field<'a>>) {}

    fn cells<'a>(&'a self, _: &'a Pods, _: &mut Vec<Cell<'a>>) {}
}

impl Probe for Says3 {
    type Event = Said;

    const NAME: &'static str = "says3";
    const ABOUT: &'static str = "numbers up to 3";
    const HOOKS: &'static [Hook] = &[];
    const COLUMNS: &'static [Column] = &[];

    fn object() -> &'static [u8] {
        &[]
    }

    fn globals(_: &Kernel, _: &mut Globals) {}

    fn open(_: &Kernel, _: &mut Maps<'_>) -> Result<Self, MapError> {
        Ok(Self)
    }

    fn slots(&self, _: &mut Maps<'_>) -> Result<Box<dyn PodSlots>, MapError> {
        unreachable!("a path asks for no slots")
    }

    fn collector(&self, _: Arc<dyn FindPod>) -> Box<dyn Collector> {
        unreachable!("a path is not scraped")
    }

    fn summary(&self) -> Summary {
        Box::new(Vec::new)
    }

    fn limited_reader(&self) -> ReadLimited {
        unreachable!("a path does not ask what was limited")
    }

    fn reasons(_: &Kernel) -> Vec<String> {
        Vec::new()
    }

    fn tallies_reader(&self) -> ReadTallies {
        Arc::new(Vec::new)
    }

    fn decode(&mut self, record: &[u8]) -> Result<Said, DecodeError> {
        match *record {
            [number @ ..=3] => Ok(Said(number)),
            [number] => Err(DecodeError::Unknown { what: "number", number }),
            _ => Err(DecodeError::Length { got: record.len(), want: 1 }),
        }
    }

    fn provoke() -> io::Result<()> {
        Ok(())
    }

    fn observe(&mut self, _: &Enriched<'_, Said>) {}
}

struct NoPods;

impl FindPod for NoPods {
    fn find_pod(&self, _: Subject, _: SystemTime) -> Option<Arc<Pod>> {
        None
    }
}

/// Keeps what each line says.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<String>>>);

impl Sink for Kept {
    fn write(&mut self, line: &Line<'_>) -> io::Result<Written> {
        let mut text = String::new();
        line.says.message(&mut text);
        self.0.lock().unwrap().push(text);
        Ok(Written::Yes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Of a kernel side that is newer or older than this agent: what it cannot read is counted, and ends nothing.
#[test]
fn a_record_of_an_unknown_kind_is_counted_and_the_next_is_carried() {
    let (kept, flow) = (Kept::default(), Arc::new(Flow::default()));
    let mut path = Path {
        probe: Says3,
        pods: Arc::new(NoPods),
        sink: Box::new(kept.clone()),
        flow: Arc::clone(&flow),
        incidents: Incidents::default(),
    };
    for (record, written) in [
        (&[1][..], Written::Yes),
        (&[4], Written::Filtered),
        (&[1, 2], Written::Filtered),
        (&[], Written::Filtered),
        (&[3], Written::Yes),
    ] {
        assert_eq!(path.carry(record).unwrap(), written, "{record:?}");
    }
    assert_eq!(*kept.0.lock().unwrap(), ["1", "3"]);
    let account = flow.account(Tally { seen: 5, ..Tally::default() });
    assert_eq!((account.emitted, account.undecoded, account.in_ring), (2, 3, 0));
}
