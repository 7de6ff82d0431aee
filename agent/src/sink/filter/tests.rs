//! What is asked for, by value and not by text, and what the limit counts.

use std::slice;
use std::time::SystemTime;

use super::*;
use crate::incident::Span;
use crate::sink::{Field, Level, Saying};

fn pod(namespace: &str, name: &str) -> Pod {
    Pod { namespace: namespace.into(), name: name.into(), uid: "u".into() }
}

fn saying<'a>(fields: &'a [Field<'a>]) -> Saying<'a> {
    Saying { message: "m", fields, cells: &[] }
}

fn line<'a>(pod: Option<&'a Pod>, says: &'a Saying<'a>) -> Line<'a> {
    Line {
        told: Told::Event,
        at: SystemTime::UNIX_EPOCH,
        level: Level::Info,
        probe: "drops",
        span: Span::root(),
        pod,
        says,
    }
}

fn list<T: From<&'static str>>(values: &[&'static str]) -> Vec<T> {
    values.iter().map(|value| T::from(value)).collect()
}

/// Whether `filter` wants the one event all these tests ask about.
fn wants(filter: &Filter) -> bool {
    let (web, db) = (pod("shop", "web"), pod("data", "db"));
    let fields = [
        ("src", Value::Ip("10.1.2.3".parse().unwrap())),
        ("dst", Value::Ip("::ffff:192.0.2.7".parse().unwrap())),
        ("dst_port", Value::Port(443)),
        ("pid", Value::Number(80)),
        ("dev", Value::Interface("eth0".into())),
        ("comm", Value::Text("lo".into())),
        ("reason", Value::Reason("NO_SOCKET".into())),
        ("dst_pod", Value::Pod(Some(&db))),
        ("ttl", Value::Absent),
    ];
    filter.wants(&line(Some(&web), &saying(&fields)))
}

fn networks(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| parse_network(text).unwrap()).collect()
}

#[test]
fn nothing_asked_wants_everything() {
    assert!(wants(&Filter::default()));
    assert!(Filter::default().wants(&line(None, &saying(&[]))));
}

#[test]
fn pods_at_both_ends_count_and_one_pod_must_satisfy_all() {
    let asked = |namespace: &[&'static str], pod: &[&'static str]| {
        let pod = pod.iter().map(|text| text.parse().unwrap()).collect();
        wants(&Filter { namespace: list(namespace), pod, ..Filter::default() })
    };
    assert!(asked(&["shop"], &[]));
    assert!(asked(&["data"], &[]));
    assert!(asked(&[], &["db"]));
    assert!(asked(&["none", "shop"], &["web"]));
    assert!(!asked(&["shop"], &["db"]), "web's namespace with db's name is nobody");
    assert!(!asked(&["sho"], &[]));
    assert!(asked(&[], &["shop/web"]) && asked(&[], &["cart", "we*"]) && asked(&["data"], &["data/*"]));
    assert!(!asked(&[], &["data/web"]) && !asked(&["data"], &["shop/*"]) && !asked(&[], &["WEB"]));
}

#[test]
fn addresses_and_networks_of_both_families() {
    let asked = |texts: &[&str]| wants(&Filter { ip: networks(texts), ..Filter::default() });
    assert!(asked(&["10.1.2.3"]));
    assert!(asked(&["10.9.9.9/8"]));
    assert!(asked(&["192.0.2.7"]), "an IPv4 address inside IPv6 is itself");
    assert!(asked(&["fd00::/8", "192.0.2.0/24"]));
    assert!(!asked(&["10.1.2.4"]));
    assert!(!asked(&["::/0"]));
    for wrong in ["", "10.0.0", "10.0.0.0/33", "web", "10.0.0.1:80", "fe80::1%eth0"] {
        assert!(parse_network(wrong).unwrap_err().contains("10.0.0.0/8"), "{wrong}");
    }
}

#[test]
fn values_match_by_meaning_not_by_text() {
    assert!(wants(&Filter { port: vec![80, 443], ..Filter::default() }));
    assert!(!wants(&Filter { port: vec![80], ..Filter::default() }), "a pid is no port");
    assert!(wants(&Filter { interface: list(&["eth0"]), ..Filter::default() }));
    assert!(!wants(&Filter { interface: list(&["lo"]), ..Filter::default() }), "a comm is no interface");
    assert!(wants(&Filter { reason: list(&["no_socket"]), ..Filter::default() }));
    assert!(!wants(&Filter { reason: list(&["NO_SOCKE"]), ..Filter::default() }));
}

#[test]
fn every_kind_asked_must_match() {
    let both = Filter { port: vec![443], interface: list(&["eth1"]), ..Filter::default() };
    assert!(!wants(&both));
    let absent = [("p", Value::Absent)];
    let port = Filter { port: vec![443], ..Filter::default() };
    assert!(!port.wants(&line(None, &saying(&absent))));
}

/// What is about others is kept apart from what only does not say whom it is about, or tells another part of it.
#[test]
fn what_may_tell_more_of_what_is_asked_for_is_told_from_what_cannot() {
    let (web, db) = (pod("shop", "web"), pod("data", "db"));
    let filter = |filter: &Filter, whose: Option<&Pod>, fields: &[Field<'_>]| {
        filter.asks(whose, |made| made.extend_from_slice(fields))
    };
    let (ours, others) = (("port", Value::Port(443)), ("port", Value::Port(80)));
    let port = Filter { port: vec![443], ..Filter::default() };
    assert_eq!(filter(&port, None, &[others.clone(), ours.clone()]), Asked::For);
    assert_eq!(filter(&port, None, slice::from_ref(&others)), Asked::Never);
    assert_eq!(filter(&port, None, &[("port", Value::Absent)]), Asked::Perhaps);
    assert_eq!(filter(&port, None, &[("port", Value::Portless)]), Asked::Never);
    let address = |text: &str| ("ip", Value::Ip(text.parse().unwrap()));
    let ip = Filter { ip: networks(&["10.0.0.0/8"]), ..Filter::default() };
    let asked = [&[address("10.1.2.3"), address("::1")][..], &[address("::1")], &[]]
        .map(|fields| filter(&ip, None, fields));
    assert_eq!(asked, [Asked::For, Asked::Never, Asked::Perhaps]);
    let pods = Filter { namespace: list(&["shop"]), ..Filter::default() };
    let at_end = [("pod", Value::Pod(Some(&web)))];
    assert_eq!(filter(&pods, Some(&db), &at_end), Asked::For);
    assert_eq!(filter(&pods, Some(&db), &[("pod", Value::Pod(None))]), Asked::Never);
    assert_eq!(filter(&pods, None, &[("pod", Value::Pod(None))]), Asked::Perhaps);
    // Another event of the same conversation.
    let reason = Filter { reason: list(&["lost"]), port: vec![443], ..Filter::default() };
    let made = ("event", Value::Reason("made".into()));
    assert_eq!(filter(&reason, None, &[made.clone(), ours]), Asked::Perhaps);
    assert_eq!(filter(&reason, None, &[made, others]), Asked::Never);
    let device = Filter { interface: list(&["eth0"]), ..Filter::default() };
    assert_eq!(filter(&device, None, &[("dev", Value::Interface("eth1".into()))]), Asked::Perhaps);
}

#[test]
fn what_a_level_alone_decides_is_not_put_into_words() {
    struct Mute;
    impl crate::sink::Says for Mute {
        fn message(&self, _: &mut String) {
            panic!("no filter reads messages");
        }

        fn fields<'a>(&'a self, _: &mut Vec<Field<'a>>) {
            panic!("nobody asked");
        }

        fn cells<'a>(&'a self, _: &mut Vec<crate::sink::Cell<'a>>) {
            panic!("no filter reads cells");
        }
    }
    let nothing = saying(&[]);
    let info = Line { says: &Mute, ..line(None, &nothing) };
    let from = |level| Filter { level, ..Filter::default() };
    assert!(from(Level::Info).wants(&info));
    assert!(!from(Level::Warn).wants(&info));
    assert!(!Filter { port: vec![443], ..from(Level::Warn) }.wants(&info));
}

/// Answers so, one by one; then that it is out.
struct Answers(std::collections::VecDeque<Written>);

impl Sink for Answers {
    fn write(&mut self, _: &Line<'_>) -> io::Result<Written> {
        Ok(self.0.pop_front().unwrap_or(Written::Yes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(io::Error::other("flushed"))
    }
}

#[test]
fn the_limit_counts_only_what_went_out() {
    let two = NonZeroU64::new(2).unwrap();
    let mut sink = Limited::new(Answers([Written::Yes, Written::Refused].into()), two);
    let says = saying(&[]);
    assert_eq!(sink.write(&line(None, &says)).unwrap(), Written::Yes);
    assert_eq!(sink.write(&line(None, &says)).unwrap(), Written::Refused);
    assert_eq!(sink.write(&line(None, &says)).unwrap(), Written::Last);
    assert_eq!(sink.write(&line(None, &says)).unwrap(), Written::Filtered);
    let verdict = Line { told: Told::Incident, ..line(None, &says) };
    assert_eq!(sink.write(&verdict).unwrap(), Written::Yes, "what they add up to is no event");
    assert!(sink.flush().is_err(), "what was not flushed is said");
}

/// Lines have IPv4 addresses as such, however a network of them is written.
#[test]
fn a_network_of_mapped_addresses_is_one_of_ipv4() {
    for (text, network) in [
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.1.2.3/128", "10.1.2.3/32"),
        ("::ffff:10.1.2.3", "10.1.2.3/32"),
        ("::ffff:0.0.0.0/96", "0.0.0.0/0"),
        ("::ffff:0.0.0.0/95", "::ffff:0.0.0.0/95"),
        ("fd00::/104", "fd00::/104"),
        ("10.0.0.0/8", "10.0.0.0/8"),
    ] {
        assert_eq!(parse_network(text).unwrap(), network.parse().unwrap(), "{text}");
    }
}

#[test]
fn a_level_alone_is_no_narrow_filter() {
    let level = Filter { level: Level::Error, ..Filter::default() };
    assert!(!level.is_narrow() && !Filter::default().is_narrow());
    assert!(Filter { port: vec![443], ..level }.is_narrow());
}
