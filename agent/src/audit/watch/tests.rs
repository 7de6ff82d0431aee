//! What is told of one reading after another.

use std::io;
use std::sync::{Arc, Mutex};

use super::*;
use crate::sink::Confidence;
use crate::sink::json::JsonSink;
use crate::sink::{Identity, schema};

/// Where a test finds what was written.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl io::Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn finding(interface: &str, fits: u32) -> Finding {
    Finding {
        name: Name::OverlayTooLarge,
        confidence: Confidence::High,
        owner: None,
        interface: interface.to_owned(),
        kind: "vxlan".to_owned(),
        interface_mtu: 1450,
        promises: 1450,
        fits,
        what: "it does not fit".to_owned(),
        fix: "ip link set it".to_owned(),
        fragments: None,
        pods: Vec::new(),
    }
}

#[test]
fn a_finding_is_one_incident_from_its_first_line_to_its_last() {
    let page = Page::default();
    let mut sink = JsonSink::new(page.clone(), Arc::new(Identity::new(Some("n".to_owned()), None, None)));
    let mut open = Open::default();
    let mut tell = |findings: &[Finding]| {
        open.tell(Judgement { findings: findings.to_vec(), ..Judgement::default() }, &mut sink).unwrap();
        let lines = std::mem::take(&mut *page.0.lock().unwrap());
        String::from_utf8(lines).unwrap().lines().map(schema::check).collect::<Vec<_>>()
    };
    let first = tell(&[finding("a\x1b", 1350), finding("b", 1350)]);
    assert_eq!(first.len(), 2);
    assert_ne!(first[0]["trace_id"], first[1]["trace_id"]);
    assert!(tell(&[finding("a\x1b", 1350), finding("b", 1350)]).is_empty(), "nothing new");
    let other = tell(&[finding("a\x1b", 1300), finding("b", 1350)]);
    assert_eq!(
        (other.len(), &other[0]["trace_id"], &other[0]["fits"]),
        (1, &first[0]["trace_id"], &1300.into())
    );
    let gone = tell(&[finding("b", 1350)]);
    assert_eq!(
        (gone.len(), &gone[0]["trace_id"], &gone[0]["event"]),
        (1, &first[0]["trace_id"], &"gone".into())
    );
    assert_eq!([&first[0]["level"], &gone[0]["level"]], ["WARN", "INFO"]);
    let again = tell(&[finding("a\x1b", 1350), finding("b", 1350)]);
    assert_ne!(again[0]["trace_id"], first[0]["trace_id"], "a new one");
}

/// A log that names each pod would have a new line with every pod.
#[test]
fn why_something_is_missing_is_said_without_whose_it_is() {
    let unread = |what, why: &str| crate::links::Unread { what, why: why.to_owned() };
    let read = [vec![unread("routes", "a: b")], vec![unread("links", "c"), unread("routes", "a: b")]]
        .map(|unread| links::Namespace { unread, ..links::Namespace::default() });
    let pod = crate::pod::Pod { namespace: "shop".to_owned(), name: "web".to_owned(), uid: "u".to_owned() };
    let not = |subject: &str, owner: Option<crate::pod::Pod>| crate::audit::NotJudged {
        owner: owner.map(Arc::new),
        subject: subject.to_owned(),
        kind: "k".to_owned(),
        why: "w".into(),
        unread: false,
    };
    let not_judged = vec![not("ovs", None), not("tun0", Some(pod))];
    let said = reasons(&read, &Judgement { not_judged, ..Judgement::default() });
    assert_eq!(said, "links not read: c; routes not read: a: b; not judged: ovs (w)");
    assert_eq!(reasons(&read[..0], &Judgement::default()), "");
}

#[test]
fn each_line_of_an_incident_is_an_event_of_its_own() {
    let span = Span::root();
    let following = next(span);
    assert_eq!(following.trace_id, span.trace_id);
    assert_ne!(following.span_id, span.span_id);
}

/// At rest a thousandth of a core, in a hurry a hundredth, and never more than five minutes.
#[test]
fn a_reading_that_takes_long_is_not_made_often() {
    let seconds = |cost| {
        let (at_rest, in_hurry) = pauses(Duration::from_millis(cost));
        (at_rest.as_secs(), in_hurry.as_secs())
    };
    assert_eq!(seconds(0), (30, 5));
    assert_eq!(seconds(50), (50, 5));
    assert_eq!(seconds(100), (100, 10));
    assert_eq!(seconds(1_000), (300, 100));
    assert_eq!(seconds(10_000), (300, 300));
}
