//! Which lines ask for a walk.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::sink::{Level, Saying};

const TO: Value<'static> = Value::Ip(IpAddr::V4(Ipv4Addr::new(10, 9, 8, 7)));

fn fields(finding: &'static str) -> Vec<Field<'static>> {
    vec![
        ("finding", Value::Text(Cow::Borrowed(finding))),
        ("destination_ip", TO),
        ("destination_port", Value::Port(443)),
        ("source_pod", Value::Pod(None)),
        ("netns", Value::Number(4_026_531_840)),
        ("state", Value::Text("ongoing".into())),
    ]
}

fn asked(told: Told, probe: &'static str, fields: &[Field<'_>]) -> Option<Order> {
    let says = Saying { message: "m", fields, cells: &[] };
    let (at, span) = (SystemTime::UNIX_EPOCH, Span::root());
    order(&Line { told, at, level: Level::Warn, probe, span, pod: None, says: &says })
}

#[test]
fn only_a_verdict_whose_fix_is_a_walk_asks_for_one() {
    for finding in ASKING {
        let order = asked(Told::Incident, PROBE, &fields(finding)).unwrap();
        assert_eq!((order.to.to_string(), order.port), ("10.9.8.7".to_owned(), Some(443)));
        assert_eq!(order.netns, Some(4_026_531_840));
        assert!(asked(Told::Event, PROBE, &fields(finding)).is_none(), "a row");
        assert!(asked(Told::Incident, "drops", &fields(finding)).is_none(), "another probe's");
    }
    assert!(asked(Told::Incident, PROBE, &fields("small_hop")).is_none());
    let with = |name: &str, value: Value<'static>| {
        let mut fields = fields("suspect");
        fields.iter_mut().find(|(field, _)| *field == name).unwrap().1 = value;
        asked(Told::Incident, PROBE, &fields)
    };
    assert!(with("state", Value::Text("over".into())).is_none());
    assert!(with("destination_ip", Value::Absent).is_none());
    for many in ["224.0.0.1", "255.255.255.255", "0.0.0.0", "ff02::1", "::"] {
        assert!(with("destination_ip", Value::Ip(many.parse().unwrap())).is_none(), "{many}");
    }
    let mapped = with("destination_ip", Value::Ip("::ffff:10.0.0.1".parse().unwrap())).unwrap();
    assert_eq!(mapped.to.to_string(), "10.0.0.1");
    assert_eq!(with("netns", Value::Absent).unwrap().netns, None);
}

#[test]
fn a_namespace_that_is_not_to_be_found_is_one_line() {
    let proc = tempfile::tempdir().unwrap();
    let roots = Roots { proc: proc.path().into(), cgroup: proc.path().into(), pod_logs: proc.path().into() };
    let pod = Pod { namespace: "shop".into(), name: "web-0".into(), uid: "u".into() };
    let refused = |inode, pod: Option<&Pod>| departure(&roots, inode, pod).unwrap_err().message;
    assert_eq!(refused(None, Some(&pod)), "the network namespace of shop/web-0 is not known");
    assert_eq!(refused(Some(1), Some(&pod)), "no process of shop/web-0 is to be seen any more");
    assert_eq!(refused(Some(1), None), "no process is left in network namespace net:[1]");
    let (who, held) = departure(&roots, netns::own(), None).unwrap();
    assert_eq!((who.as_str(), held.is_none()), ("this node", true));
}
