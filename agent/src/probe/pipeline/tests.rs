use std::marker::PhantomData;
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
use crate::probe::{Absorb, Cell, Column, DecodeError, Evidence, Field, Hook, Level, SOON, Summary, Verdict};

mod verdicts;

/// What a record of one byte says: a number up to 4, which is its cause; `V` is what such numbers add up to.
struct Said<V>(u8, PhantomData<V>);

struct Says4<V>(PhantomData<V>);

/// How many there were; the third of them is news.
#[derive(Default)]
struct Sum(u32);

impl Absorb for Sum {
    fn absorb(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl Evidence<Said<Self>> for Sum {
    const SUMS_UP: bool = true;

    fn add(&mut self, _: &Said<Self>, _: &Pods) -> Option<Duration> {
        self.0 += 1;
        (self.0 == 3).then_some(SOON)
    }

    fn verdict(&self) -> Option<Verdict<'_>> {
        let message = format!("{} in all", self.0);
        let fields = vec![("count", Value::Number(self.0.into()))];
        let verdict = Verdict { at: long_ago(), level: Level::Warn, pod: None, message, fields };
        (self.0 > 0).then_some(verdict)
    }
}

fn long_ago() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1)
}

impl<V: Evidence<Self>> Event for Said<V> {
    type Cause = u8;
    type Evidence = V;

    /// A zero is said now.
    fn at(&self) -> SystemTime {
        if self.0 == 0 { SystemTime::now() } else { long_ago() }
    }

    fn level(&self) -> Level {
        Level::Warn
    }

    /// 2 is of somebody.
    fn subjects(&self) -> Ends<[Option<Subject>; 2]> {
        let [seven, eight] = [7, 8].map(|inode| Some(Subject::Netns(inode)).filter(|_| self.0 == 2));
        Ends { source: [eight, seven], destination: [None, eight] }
    }

    /// 3 and 4 are other conversations with the cause of 1.
    fn cause(&self, _: &Pods) -> u8 {
        if self.0 > 2 { 1 } else { self.0 }
    }

    /// 4 may be that of 1, translated.
    fn may_be_translated(&self) -> bool {
        self.0 == 4
    }

    fn about<'a>(&self, _: &'a Pods) -> Option<&'a Pod> {
        None
    }

    fn message(&self, _: &Pods, text: &mut String) {
        text.push_str(&self.0.to_string());
    }

    /// 2 has no port.
    fn fields<'a>(&'a self, _: &'a Pods, fields: &mut Vec<Field<'a>>) {
        fields.extend((self.0 != 2).then_some(("port", Value::Port(self.0.into()))));
        fields.push(("reason", Value::Reason(self.0.to_string().into())));
    }

    fn cells<'a>(&'a self, _: &'a Pods, _: &mut Vec<Cell<'a>>) {}
}

impl<V: Evidence<Said<V>> + 'static> Probe for Says4<V> {
    type Event = Said<V>;

    const NAME: &'static str = "says4";
    const ABOUT: &'static str = "numbers up to 4";
    const HOOKS: &'static [Hook] = &[];
    const COLUMNS: &'static [Column] = &[];

    fn object() -> &'static [u8] {
        &[]
    }

    fn globals(_: &Kernel, _: &mut Globals) {}

    fn open(_: &Kernel, _: &mut Maps<'_>) -> Result<Self, MapError> {
        Ok(Self(PhantomData))
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

    fn decode(&mut self, record: &[u8]) -> Result<Said<V>, DecodeError> {
        match *record {
            [number @ ..=4] => Ok(Said(number, PhantomData)),
            [number] => Err(DecodeError::Unknown { what: "number", number }),
            _ => Err(DecodeError::Length { got: record.len(), want: 1 }),
        }
    }

    fn provoke() -> io::Result<()> {
        Ok(())
    }

    fn observe(&mut self, _: &Enriched<'_, Said<V>>) {}
}

struct NoPods;

impl FindPod for NoPods {
    fn find_pod(&self, _: Subject, _: SystemTime) -> Option<Arc<Pod>> {
        None
    }
}

/// One pod's namespace has the number 7.
struct OnePod;

impl FindPod for OnePod {
    fn find_pod(&self, subject: Subject, _: SystemTime) -> Option<Arc<Pod>> {
        let pod = || Pod { namespace: "shop".into(), name: "web".into(), uid: "1".into() };
        (subject == Subject::Netns(7)).then(|| Arc::new(pod()))
    }
}

#[test]
fn an_end_is_whose_the_first_subject_that_is_somebodys_is() {
    let (mut path, _) = path::<()>(Kept::default());
    path.pods = Arc::new(OnePod);
    let pods = path.enrich(&Said(2, PhantomData));
    assert_eq!((pods.source.map(|pod| pod.name.clone()), pods.destination), (Some("web".to_owned()), None));
    assert_eq!(path.enrich(&Said(1, PhantomData)), Pods::default());
}

/// Keeps what each line says, and when all of them left.
#[derive(Clone)]
struct Kept {
    lines: Arc<Mutex<Vec<String>>>,
    answers: Written,
}

impl Default for Kept {
    fn default() -> Self {
        Self::that(Written::Yes)
    }
}

impl Kept {
    /// One that answers so to each line.
    fn that(answers: Written) -> Self {
        Self { lines: Arc::default(), answers }
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lines.lock().unwrap())
    }
}

impl Sink for Kept {
    fn write(&mut self, line: &Line<'_>) -> io::Result<Written> {
        let mut text = String::new();
        line.says.message(&mut text);
        self.lines.lock().unwrap().push(text);
        Ok(self.answers)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lines.lock().unwrap().push("flush".to_owned());
        Ok(())
    }
}

/// Nothing leaves by it.
struct Full;

impl Sink for Full {
    fn write(&mut self, _: &Line<'_>) -> io::Result<Written> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::StorageFull.into())
    }
}

fn path<V: Evidence<Said<V>> + 'static>(sink: impl Sink + 'static) -> (Path<Says4<V>>, Arc<Flow>) {
    let flow = Arc::new(Flow::default());
    let path = Path {
        probe: Says4(PhantomData),
        pods: Arc::new(NoPods),
        filter: Filter::default(),
        sink: Box::new(sink),
        flow: Arc::clone(&flow),
        incidents: Incidents::default(),
    };
    (path, flow)
}

/// Of a kernel side that is newer or older than this agent: what it cannot read is counted, and ends nothing.
#[test]
fn a_record_of_an_unknown_kind_is_counted_and_the_next_is_carried() {
    let kept = Kept::default();
    let (mut path, flow) = path::<()>(kept.clone());
    for (record, written) in [
        (&[1][..], Written::Yes),
        (&[5], Written::Filtered),
        (&[1, 2], Written::Filtered),
        (&[], Written::Filtered),
        (&[3], Written::Yes),
    ] {
        assert_eq!(path.carry(record).unwrap(), written, "{record:?}");
    }
    assert_eq!(kept.take(), ["1", "3"]);
    let account = flow.account(Tally { seen: 5, ..Tally::default() });
    assert_eq!((account.emitted, account.undecoded, account.in_ring), (2, 3, 0));
}

/// A trace that ends while lines are still held back has lost them.
#[test]
fn at_the_end_all_lines_leave_or_the_end_is_a_failure() {
    let kept = Kept::default();
    path::<()>(kept.clone()).0.close().unwrap();
    assert_eq!(kept.take(), ["flush"]);
    assert_eq!(path::<()>(Full).0.close().unwrap_err().kind(), io::ErrorKind::StorageFull);
    let (mut summed, _) = path::<Sum>(Full);
    assert!(summed.carry(&[1]).is_err());
    assert_eq!(summed.close().unwrap_err().kind(), io::ErrorKind::StorageFull);
}

/// A flood is a line and a verdict, not a line each.
#[test]
fn of_an_incident_that_is_summed_up_only_what_is_news_is_a_line() {
    let kept = Kept::default();
    let (mut path, flow) = path::<Sum>(kept.clone());
    let carried: Vec<Written> = [1, 1, 2, 1, 1].map(|number| path.carry(&[number]).unwrap()).into();
    assert_eq!(kept.take(), ["1", "2", "1"], "the first of each, and the third, which says more");
    let (line, merged) = (Written::Yes, Written::Filtered);
    assert_eq!(carried, [line, merged, line, line, merged]);
    let account = flow.account(Tally { seen: 5, ..Tally::default() });
    assert_eq!((account.emitted, account.merged), (3, 2));
    path.close().unwrap();
    let mut told = kept.take();
    told.sort_unstable();
    assert_eq!(told, ["1 in all", "4 in all", "flush"], "what is pending at the end is told");
}

#[test]
fn where_events_are_lines_each_is_one() {
    let kept = Kept::default();
    let (mut path, flow) = path::<()>(kept.clone());
    for _ in 0..3 {
        assert_eq!(path.carry(&[1]).unwrap(), Written::Yes);
    }
    path.sum_up().unwrap();
    path.close().unwrap();
    assert_eq!(kept.take(), ["1", "1", "1", "flush"], "and no verdict");
    assert_eq!(flow.account(Tally::default()).merged, 0);
}

/// Its first event did not reach the user: the next must not be taken for one that is told already.
#[test]
fn news_that_nobody_wanted_is_still_news() {
    for (answers, is_told_again) in
        [(Written::Yes, false), (Written::Benign, true), (Written::Filtered, true), (Written::Refused, true)]
    {
        let kept = Kept::that(answers);
        let (mut path, flow) = path::<Sum>(kept.clone());
        for _ in 0..2 {
            path.carry(&[1]).unwrap();
        }
        assert_eq!(kept.take().len() == 2, is_told_again, "{answers:?}");
        let account = flow.account(Tally::default());
        let became = [account.emitted, account.benign, account.filtered, account.unwritten, account.merged];
        let wanted = match answers {
            Written::Yes | Written::Last => [1, 0, 0, 0, 1],
            Written::Benign => [0, 2, 0, 0, 0],
            Written::Filtered => [0, 0, 2, 0, 0],
            Written::Refused => [0, 0, 0, 2, 0],
        };
        assert_eq!(became, wanted, "{answers:?}");
    }
}

/// A storm to one port and a packet to another, for one cause: what is asked for is not told with the storm, nor hidden by it.
#[test]
fn what_an_incident_adds_up_to_is_of_what_was_asked_for() {
    let kept = Kept::default();
    let (mut path, flow) = path::<Sum>(kept.clone());
    path.filter.port = vec![1];
    for number in [3, 3, 2, 1, 3, 3] {
        path.carry(&[number]).unwrap();
    }
    assert_eq!(kept.take(), ["1"]);
    let account = flow.account(Tally::default());
    assert_eq!([account.emitted, account.filtered, account.merged], [1, 5, 0]);
    path.close().unwrap();
    assert_eq!(kept.take(), ["1 in all", "flush"], "what has no port is told of no port");
}

/// A load balancer answers from a port of its own: that is no line, and part of what is told of the port asked for.
#[test]
fn what_may_be_translated_adds_to_what_was_asked_for() {
    let kept = Kept::default();
    let (mut path, _) = path::<Sum>(kept.clone());
    path.filter.port = vec![1];
    for number in [4, 3, 1] {
        path.carry(&[number]).unwrap();
    }
    path.close().unwrap();
    assert_eq!(kept.take(), ["1", "2 in all", "flush"]);
}

/// An event that matters less than what is shown may add up to what matters.
#[test]
fn what_an_incident_adds_up_to_is_told_whichever_of_its_events_are_shown() {
    for (level, benign, told) in [(Level::Warn, 0, true), (Level::Error, 1, false)] {
        let kept = Kept::default();
        let (mut path, flow) = path::<Sum>(kept.clone());
        path.filter.level = level;
        path.filter.reason = vec!["1".to_owned()];
        path.carry(&[1]).unwrap();
        path.carry(&[3]).unwrap();
        assert_eq!(flow.account(Tally::default()).benign, benign, "{level:?}");
        kept.take();
        path.close().unwrap();
        assert_eq!(kept.take() == ["2 in all", "flush"], told, "{level:?}");
    }
}
