//! Whole scrapes of made-up rows: what they say, and (by hand) what they cost.

use std::collections::HashMap;
use std::fs;
use std::num::NonZeroU16;
use std::sync::{Arc, RwLock};
use std::time::SystemTime;

use agent_common::Tally;

use super::*;
use crate::kernel::{Kernel, Roots};
use crate::metrics::{Format, Metrics};
use crate::pod::{FindPod, Pod, Slot, Subject};
use crate::probe::counts::Counts;
use crate::probe::counts::{Source, Sum};

/// Reasons the made-up kernel knows, by number.
const REASONS: [&str; 25] = [
    "NO_SOCKET", "PKT_TOO_BIG", "NETFILTER_DROP", "IP_RPFILTER", "NOT_SPECIFIED", "TCP_OLD_DATA",
    "QUEUE_PURGE", "OTHERHOST", "SOCKET_RCVBUFF", "TCP_CSUM", "UDP_CSUM", "IP_INHDR", "IP_OUTNOROUTES",
    "NEIGH_FAILED", "CPU_BACKLOG", "NOMEM", "XDP", "TC_INGRESS", "TCP_RESET", "SOCKET_CLOSE",
    "UNHANDLED_PROTO", "TCP_ZEROWINDOW", "TCP_FLAGS", "UNIX_DISCONNECT", "PROTO_MEM",
];

const TEXT: u64 = 0xffff_ffff_8100_0000;
const FUNCTIONS: [&str; 4] = ["ip_rcv_core", "nf_hook_slow", "tcp_v4_rcv", "some_function"];

/// What the kernel would hold.
#[derive(Clone, Default)]
struct Held(Vec<(DropKey, Sum)>);

impl Source<DropKey> for Held {
    fn rows(&self) -> Vec<(DropKey, Sum)> {
        self.0.clone()
    }

    fn remove(&mut self, key: &DropKey) -> bool {
        let before = self.0.len();
        self.0.retain(|(held, _)| held != key);
        self.0.len() < before
    }

    fn tallies(&self) -> Vec<Tally> {
        vec![Tally { uncounted: 3, ..Tally::default() }; 2]
    }
}

/// Behind a lock, as the index of pods is.
struct Pods(RwLock<HashMap<Slot, Arc<Pod>>>);

impl FindPod for Pods {
    fn find_pod(&self, subject: Subject, _: SystemTime) -> Option<Arc<Pod>> {
        let Subject::Slot(slot) = subject else { return None };
        self.0.read().unwrap().get(&slot).cloned()
    }
}

fn slot(number: u16) -> Slot {
    Slot(NonZeroU16::new(number).unwrap())
}

/// Pods of slots 1 to `count`, not in the order of their names.
fn pods(count: u16) -> Arc<Pods> {
    let pod = |number: u16| Pod {
        namespace: format!("team-{}", number % 7),
        name: format!("checkout-backend-5d9c7b9f4-{:05}", 99_999 - u32::from(number)),
        uid: format!("0f0e2ab4-6a2b-4c57-9f7a-0000{number:08}"),
    };
    let pods = (1..=count).map(|number| (slot(number), Arc::new(pod(number)))).collect();
    Arc::new(Pods(RwLock::new(pods)))
}

fn meaning() -> DropRows {
    let root = tempfile::tempdir().unwrap();
    let symbols: String = (0_u64..)
        .zip(FUNCTIONS)
        .map(|(at, function)| format!("{:x} T {function}\n", TEXT + 0x400 * at))
        .chain(["ffffffff81001000 T _etext\n".to_owned()])
        .collect();
    fs::create_dir(root.path().join("proc")).unwrap();
    fs::write(root.path().join("proc/kallsyms"), symbols).unwrap();
    let names: Vec<(u32, &str)> = (1..).zip(REASONS).collect();
    let kernel = Kernel::load_from(Roots::under(root.path()));
    DropRows { reasons: Reasons::named(&names), places: Places::of(&kernel) }
}

/// A filter of tc may be a policer that is too small for the packet: only evidence tells, which a row has none of.
#[test]
fn a_row_says_what_its_packets_may_have_died_of_as_well() {
    let rows = meaning();
    let may_be =
        |reason: u32| rows.may_be(&Kind { place: 0, reason: reason + 1, direction: 1, circumstances: 0 });
    let number = |name| REASONS.iter().zip(0..).find(|(reason, _)| **reason == name).unwrap().1;
    assert_eq!(may_be(number("TC_INGRESS")), Some("mtu"));
    assert_eq!(may_be(number("NETFILTER_DROP")), None);
    assert_eq!(may_be(number("SOCKET_RCVBUFF")), None);
}

#[test]
fn a_row_matters_as_its_verdict_does_and_is_found_by_class_and_reason() {
    let rows = meaning();
    let matters =
        |reason: u32| rows.matters(&Kind { place: 0, reason: reason + 1, direction: 1, circumstances: 0 });
    let names = |class: &str, reason: &str| vec![class.to_owned(), reason.to_owned()];
    assert_eq!(matters(1), (Level::Warn, names("mtu", "PKT_TOO_BIG")));
    assert_eq!(matters(6), (Level::Info, names("teardown", "QUEUE_PURGE")));
}

/// A row of each of 50 kinds for each pod, at one or the other end.
fn storm(pods: u16) -> Held {
    let kinds = (0_u8..50).map(|kind| (kind, u32::from(kind) % 25));
    let row = |slot: u16, kind: u8, reason: u32| {
        let (source, destination) = if kind.is_multiple_of(2) { (slot, 0) } else { (0, slot) };
        let place = u32::try_from(TEXT & 0xffff_ffff).unwrap() + 0x400 * (reason % 4) + 0x20;
        let key = DropKey {
            place,
            reason: reason + 1,
            source,
            destination,
            direction: 1 + kind / 25,
            ip_version: 4,
            circumstances: 0,
        };
        (key, Sum { events: 1_000_000 + u64::from(slot), bytes: 1_500_000_000, limited: 0 })
    };
    Held(
        (1..=pods)
            .flat_map(|slot| kinds.clone().map(move |(kind, reason)| row(slot, kind, reason)))
            .collect(),
    )
}

fn metrics(counts: &Counts<DropRows>, pods: Arc<Pods>) -> Metrics {
    counts.name_pods_by(pods);
    let mut metrics = Metrics::default();
    metrics.registry().register_collector(Box::new(counts.clone()));
    metrics
}

/// Instructions a series are those under `callgrind` with `R2C_SCRAPES=11` less those with `R2C_SCRAPES=1`, by ten
/// and by the series printed.
#[test]
#[ignore = "a measurement, to be run by hand in a release build"]
fn what_a_scrape_costs() {
    let number =
        |name: &str, otherwise| std::env::var(name).map_or(otherwise, |value| value.parse().unwrap());
    let format = if number("R2C_OPEN", 0) == 1 { Format::OpenMetrics } else { Format::Classic };
    let counts = Counts::new(Box::new(storm(100)), meaning());
    let metrics = metrics(&counts, pods(100));
    let mut text = String::new();
    for _ in 0..number("R2C_SCRAPES", 1) {
        text = metrics.encode(format).unwrap();
    }
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    if let Ok(file) = std::env::var("R2C_OUT") {
        fs::write(file, &text).unwrap();
    }
    println!("{series} series, {} bytes", text.len());
}

#[test]
fn a_storm_of_rows_is_a_whole_line_each_in_both_texts() {
    let storm = storm(100);
    let meaning = meaning();
    // A source that is not to be believed is nobody's.
    let is_of_pod = |key: &DropKey| key.source == 0 || meaning.trusts_source(&DropRows::kind(key));
    let of_pods = storm.0.iter().filter(|(key, _)| is_of_pod(key));
    let packets: u64 = of_pods.map(|(_, sum)| sum.events).sum();
    let rows = storm.0.len();
    let counts = Counts::new(Box::new(storm), meaning);
    let metrics = metrics(&counts, pods(100));
    let text = |format| metrics.encode(format).unwrap();
    let samples = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    };
    let classic = samples(&text(Format::Classic));
    assert_eq!(classic, samples(&text(Format::OpenMetrics)));
    let of_pods: Vec<(&str, u64)> = classic
        .iter()
        .filter(|line| line.starts_with("r2c_pod_drop_packets_total{namespace=\"team-"))
        .map(|line| line.rsplit_once("\"} ").unwrap())
        .map(|(series, count)| (series, count.parse().unwrap()))
        .collect();
    assert!(of_pods.iter().all(|(series, _)| series.matches('{').count() == 1), "two lines ran into one");
    assert!(of_pods.len() > rows / 2 && of_pods.is_sorted_by(|(one, _), (next, _)| one < next));
    assert_eq!(of_pods.iter().map(|(_, count)| count).sum::<u64>(), packets);
}

#[test]
fn rows_are_added_up_by_what_they_say_and_stand_in_the_order_of_names() {
    let key = |place: u64, reason, source, destination, ip_version| DropKey {
        place: u32::try_from((TEXT + 0x400 * place) & 0xffff_ffff).unwrap() + 4,
        reason,
        source,
        destination,
        direction: 1,
        ip_version,
        circumstances: 0,
    };
    let sum = |events| Sum { events, bytes: 10 * events, limited: 0 };
    // The first two differ in what no label says; the third pod's source is not to be believed; slot 9 is nobody's.
    let rows = vec![
        (key(0, 2, 1, 2, 4), sum(1)),
        (key(3, 2, 1, 2, 6), sum(2)),
        (key(0, 4, 3, 1, 4), sum(4)),
        (key(0, 1, 9, 0, 4), sum(8)),
    ];
    let counts = Counts::new(Box::new(Held(rows)), meaning());
    let metrics = metrics(&counts, pods(3));
    let trace_id = crate::probe::TraceId::random();
    counts.exemplify(
        Labels::new("PKT_TOO_BIG", super::super::class::judge("PKT_TOO_BIG", "", 0), Direction::Received),
        trace_id,
        SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(5),
    );
    let text = metrics.encode(Format::OpenMetrics).unwrap();
    let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let labels = |reason: &str, class: &str| {
        format!("reason=\"{reason}\",class=\"{class}\",harm=\"harmful\",direction=\"received\"")
    };
    let (socket, big, filter) = (
        labels("NO_SOCKET", "no_socket"),
        labels("PKT_TOO_BIG", "mtu"),
        labels("IP_RPFILTER", "reverse_path"),
    );
    let pod = |number: u16, end: &str| {
        let name = format!("checkout-backend-5d9c7b9f4-{:05}", 99_999 - u32::from(number));
        format!("r2c_pod_drop_packets_total{{namespace=\"team-{number}\",pod=\"{name}\",end=\"{end}\"")
    };
    let expected = [
        format!("r2c_drop_packets_total{{{filter}}} 4"),
        format!("r2c_drop_packets_total{{{socket}}} 8"),
        format!("r2c_drop_packets_total{{{big}}} 3 # {{trace_id=\"{trace_id}\"}} 1.0 5.0"),
        format!("r2c_drop_bytes_total{{{filter}}} 40"),
        format!("r2c_drop_bytes_total{{{socket}}} 80"),
        format!("r2c_drop_bytes_total{{{big}}} 30"),
        format!("{},{filter}}} 4", pod(1, "destination")),
        format!("{},{big}}} 3", pod(1, "source")),
        format!("{},{big}}} 3", pod(2, "destination")),
        "r2c_drop_uncounted_packets_total 6".to_owned(),
        "r2c_drop_folded_series_total 0".to_owned(),
    ];
    assert_eq!(samples, expected);

    counts.retire(slot(1));
    let after = metrics.encode(Format::Classic).unwrap();
    let samples: Vec<&str> = after.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(samples[..2], expected[..2], "no series goes back");
    assert_eq!(samples[2], format!("r2c_drop_packets_total{{{big}}} 3"));
    let rest = [format!("{},{big}}} 3", pod(2, "destination")), expected[9].clone(), expected[10].clone()];
    assert_eq!(samples[6..], rest, "the gone pod's are gone, and those of the pod at the other end stay");

    counts.retire(slot(2));
    let after = metrics.encode(Format::Classic).unwrap();
    let samples: Vec<&str> = after.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(samples[6..], expected[9..], "until that is gone as well");
}

/// One series for both: two samples of one series in a scrape are an error to Prometheus.
#[test]
fn a_pod_that_comes_back_under_its_name_goes_on_with_its_series() {
    let to = |destination| DropKey {
        place: u32::try_from(TEXT & 0xffff_ffff).unwrap() + 4,
        reason: 1,
        destination,
        direction: 1,
        ip_version: 4,
        ..DropKey::default()
    };
    let sum = |events| Sum { events, bytes: 10 * events, limited: 0 };
    let counts = Counts::new(Box::new(Held(vec![(to(1), sum(5)), (to(2), sum(2))])), meaning());
    let of = |uid: &str| Pod { namespace: "shop".to_owned(), name: "db-0".to_owned(), uid: uid.to_owned() };
    // The third has no row yet.
    let all = [(slot(1), Arc::new(of("a"))), (slot(2), Arc::new(of("b"))), (slot(3), Arc::new(of("c")))];
    let pods = Arc::new(Pods(RwLock::new(HashMap::from(all))));
    let metrics = metrics(&counts, Arc::clone(&pods));
    let of_pod = || -> Vec<String> {
        let text = metrics.encode(Format::Classic).unwrap();
        let lines = text.lines().filter(|line| line.starts_with("r2c_pod_drop_packets_total{"));
        lines.map(|line| line.rsplit_once(' ').unwrap().1.to_owned()).collect()
    };
    assert_eq!(of_pod(), ["7"]);
    counts.retire(slot(1));
    pods.0.write().unwrap().remove(&slot(1));
    assert_eq!(of_pod(), ["7"], "what the first had counted stays");
    counts.retire(slot(2));
    assert_eq!(of_pod(), ["7"], "nor does what the second had");
    pods.0.write().unwrap().retain(|at, _| *at == slot(3));
    counts.retire(slot(3));
    assert_eq!(of_pod(), Vec::<String>::new());
}

/// What is counted under such a number is counted, and not as one of which the kernel does not say.
#[test]
fn an_unknown_direction_is_another() {
    let kernel = Kernel::load_from(Roots::under("/nonexistent".as_ref()));
    let rows = DropRows { reasons: Reasons::load(&kernel), places: Places::of(&kernel) };
    let labels = |direction| rows.labels(&DropRows::kind(&DropKey { direction, ..DropKey::default() }));
    assert_eq!(labels(0).direction, Some(Direction::Unknown));
    assert_eq!(labels(4).direction, None);
    assert_ne!(labels(0), labels(4));
}

/// A row of which all events were described is none that was counted only.
#[test]
fn rows_that_lack_nothing_are_not_limited() {
    let mut held = storm(1);
    let counts = |held: &Held| Counts::new(Box::new(held.clone()), meaning()).limited();
    assert!(counts(&held).is_empty());
    held.0[7].1.limited = 5;
    let limited = counts(&held);
    assert_eq!(limited.iter().map(|limited| limited.events).collect::<Vec<_>>(), [5]);
}
