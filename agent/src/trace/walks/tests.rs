//! Which lines ask for a walk.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::path::device::Device;
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
    assert_eq!((who, held.is_none()), (Who::node(), true));
}

#[test]
fn a_walk_is_the_senders_where_that_is_a_pod() {
    let pod = Pod { namespace: "shop".into(), name: "web-0".into(), uid: "u".into() };
    let mut fields: Vec<Field<'_>> = fields("suspect");
    assert_eq!(asked(Told::Incident, PROBE, &fields).unwrap().pod, None);
    fields.iter_mut().find(|(field, _)| *field == "source_pod").unwrap().1 = Value::Pod(Some(&pod));
    assert_eq!(asked(Told::Incident, PROBE, &fields).unwrap().pod.as_ref(), Some(&pod));
}

/// Where a test finds what was written.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl io::Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(io::Error::other("flushed"))
    }
}

fn walker(page: &Page, shared: &Arc<Shared>) -> Walker {
    let nowhere = std::path::PathBuf::from("/nowhere");
    let identity = crate::sink::Identity::new(Some("n".into()), None, None);
    Walker {
        shared: Arc::clone(shared),
        roots: Roots { proc: nowhere.clone(), cgroup: nowhere.clone(), pod_logs: nowhere },
        limits: Limits { packets: 1, time: Duration::from_secs(1) },
        sink: Box::new(JsonSink::new(page.clone(), Arc::new(identity))),
        says_lacks: false,
    }
}

#[test]
fn what_a_walk_found_is_a_further_line_of_its_incident() {
    let pod = Pod { namespace: "shop".into(), name: "web-0".into(), uid: "u".into() };
    let order = Order { pod: Some(pod), ..asked(Told::Incident, PROBE, &fields("suspect")).unwrap() };
    let about = About {
        who: Who::pod("shop/web-0".into()),
        to: "10.9.8.7 port 443".into(),
        address: IpAddr::V4(Ipv4Addr::new(10, 9, 8, 7)),
        device: Device::plain("eth0"),
        tcp: None,
    };
    let out = Outcome { reached: true, first: 1500, passes: Some(1500), ..Outcome::default() };
    let page = Page::default();
    walker(&page, &Arc::default()).tell(&order, &out, &about);
    let line = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
    let line = crate::sink::schema::check(line.trim_end());
    let message = line["message"].as_str().unwrap();
    assert!(
        message.starts_with(
            "walk from shop/web-0 to 10.9.8.7 port 443: the path from shop/web-0 to 10.9.8.7 port 443 takes 1500 bytes"
        ),
        "{message}"
    );
    assert_eq!(line["trace_id"], order.trace_id.to_string());
    assert_eq!(
        [&line["probe"], &line["walk_from"], &line["finding"], &line["pod_name"]],
        ["mtu", "shop/web-0", "path_clear", "web-0"]
    );
}

/// A trace that ends makes no further walk, and says how many it did not make.
#[tokio::test]
async fn a_walk_that_the_end_overtakes_is_not_begun() {
    let (stop, drain) = crate::shutdown::channel();
    stop.start();
    let shared = Arc::<Shared>::default();
    let order = asked(Told::Incident, PROBE, &fields("suspect")).unwrap();
    shared.queue().offer(order, Instant::now());
    walker(&Page::default(), &shared).run(drain).await;
    assert_eq!(shared.queue().text(), "no walk was made; 1 not made: the trace ended first");
    let walks = Walks { shared, task: tokio::spawn(async {}) };
    let text = walks.end().await;
    assert_eq!(text, "no walk was made; 1 not made: the trace ended first");
}

/// One whose sender is gone fails, and the next one is not kept from its walk.
#[tokio::test]
async fn walks_that_cannot_be_made_are_counted() {
    let (stop, drain) = crate::shutdown::channel();
    let shared = Arc::<Shared>::default();
    for last in [1, 2] {
        let order = asked(Told::Incident, PROBE, &fields("suspect")).unwrap();
        let to = IpAddr::V4(Ipv4Addr::new(10, 9, 8, last));
        let order = Order { to, netns: None, trace_id: Span::root().trace_id, ..order };
        shared.queue().offer(order, Instant::now());
    }
    let task = tokio::spawn(walker(&Page::default(), &shared).run(drain));
    let failed = async {
        while shared.queue().text() != "no walk was made; 2 could not be made" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), failed).await.unwrap();
    stop.start();
    task.await.unwrap();
}

#[test]
fn what_the_watched_sink_fails_to_flush_is_said() {
    let identity = Arc::new(crate::sink::Identity::new(Some("n".into()), None, None));
    let inner = Box::new(JsonSink::new(Page::default(), identity));
    let mut watched = Watched { inner, shared: Arc::default() };
    assert!(watched.flush().is_err());
}
