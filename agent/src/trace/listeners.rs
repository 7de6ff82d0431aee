//! Accept queues that were full while a trace ran. Of a connection that finds its listener's full the kernel frees the packet as if
//! it were used (`tcp_conn_request`), or keeps it with the request: no drop, so that no probe sees it. It only counts them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::asked::full_name;
use crate::digits::counted;
use crate::enrich::PodIndex;
use crate::node;
use crate::probe::start::Entry;
use crate::sink::filter::Filter;

/// The probe that whoever looks for lost packets asks.
const PROBE: &str = "drops";

/// The reason of the newest kernels, which drop by it some of such packets like others.
const REASON: &str = "TCP_LISTEN_OVERFLOW";

/// The class that they would have.
const CLASS: &str = "queue";

/// Namespaces that are named: the rest are counted.
const MOST: usize = 3;

/// A namespace's counters are 4 KiB long.
const MOST_BYTES: u64 = 64 << 10;

/// Network namespaces, and how many packets found an accept queue full there.
type Overflows = BTreeMap<u32, u64>;

/// The counters as they were when the trace began.
pub(super) struct Listeners {
    proc: PathBuf,
    before: Overflows,
}

impl Listeners {
    /// Reads them, if what they count is asked for.
    pub(super) async fn watch(proc: &Path, entry: &Entry, filter: &Filter) -> Option<Self> {
        if entry.name != PROBE || !filter.wants_reasons(&[CLASS.to_owned(), REASON.to_owned()]) {
            return None;
        }
        let proc = proc.to_owned();
        tokio::task::spawn_blocking(move || Self { before: read(&proc), proc }).await.ok()
    }

    /// What they have come to since, in namespaces of this node, or of the pods that `filter` asks for.
    pub(super) async fn end(self, pods: &PodIndex, filter: &Filter) -> Full {
        let Self { proc, before } = self;
        let own = node::namespace(&proc.join("1"));
        let after = tokio::task::spawn_blocking(move || read(&proc)).await.unwrap_or_default();
        let homes = pods.namespaces();
        let grown = since(&before, &after).into_iter().filter_map(|(netns, packets)| {
            let home = homes.iter().find(|home| home.netns == netns);
            let name = match home {
                Some(home) => full_name(&home.pod),
                None if Some(netns) == own => "this node's own network namespace".to_owned(),
                None => format!("network namespace {netns} (`lsns {netns}` lists its processes)"),
            };
            filter.wants_pods(home.map(|home| &*home.pod)).then_some((name, packets))
        });
        Full(grown.collect())
    }
}

/// Where accept queues were full, and how many packets found them so, most first.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Full(Vec<(String, u64)>);

impl Full {
    /// How many packets found one full.
    pub(super) fn packets(&self) -> u64 {
        self.0.iter().map(|(_, packets)| packets).sum()
    }

    /// In lines for a person.
    pub(super) fn lines(&self) -> Vec<String> {
        let Self(places) = self;
        let mut lines: Vec<String> = places
            .iter()
            .take(MOST)
            .map(|(name, packets)| {
                format!(
                    "harmful, and in no row or not in all: {} of new connections found the accept queue of a listener in \
                     {name} full (TcpExtListenOverflows; `ss -ltn` there shows the queues): make its program accept \
                     faster; or raise its listen() backlog and `net.core.somaxconn` there (of a pod: \
                     `securityContext.sysctls`), and start it again: they count from the next listen()",
                    counted(*packets, "packet")
                )
            })
            .collect();
        if let more @ 1.. = places.len().saturating_sub(MOST) {
            lines.push(format!("and in {}", counted(more as u64, "more network namespace")));
        }
        lines
    }
}

/// What came on since, most first. A namespace that was not there began at none, as does one whose number another had before.
fn since(before: &Overflows, after: &Overflows) -> Vec<(u32, u64)> {
    let mut grown: Vec<(u32, u64)> = after
        .iter()
        .map(|(netns, now)| {
            let then = before.get(netns).filter(|then| *then <= now).copied().unwrap_or(0);
            (*netns, now - then)
        })
        .filter(|(_, packets)| *packets > 0)
        .collect();
    grown.sort_unstable_by_key(|(_, packets)| std::cmp::Reverse(*packets));
    grown
}

fn read(proc: &Path) -> Overflows {
    let there = node::namespaces(proc).there;
    there
        .into_iter()
        .filter_map(|(netns, process)| {
            let mut text = String::new();
            File::open(process.join("net/netstat")).ok()?.take(MOST_BYTES).read_to_string(&mut text).ok()?;
            Some((netns, overflows(&text)?))
        })
        .collect()
}

/// `ListenOverflows` of `/proc/net/netstat`: a line of names, and one of their values.
fn overflows(text: &str) -> Option<u64> {
    let mut tcp = text.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let (names, values) = (tcp.next()?, tcp.next()?);
    let at = names.split_whitespace().position(|name| name == "ListenOverflows")?;
    values.split_whitespace().nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrich::tests::node::Node;

    #[test]
    fn the_kernels_counter_is_found_by_its_name() {
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 48 50\nIpExt: InOctets\nIpExt: 9\n";
        assert_eq!(overflows(text), Some(48));
        assert_eq!(overflows("TcpExt: SyncookiesSent\nTcpExt: 1\n"), None);
        assert_eq!(overflows("TcpExt: ListenOverflows\n"), None);
        assert_eq!(overflows(""), None);
    }

    #[test]
    fn what_was_there_before_the_trace_is_not_of_it() {
        let before = Overflows::from([(1, 40), (2, 7), (3, 9)]);
        let after = Overflows::from([(1, 41), (2, 7), (3, 2), (4, 5)]);
        assert_eq!(
            since(&before, &after),
            [(4, 5), (3, 2), (1, 1)],
            "3 is another's number by now, 4 is new"
        );
    }

    #[test]
    fn many_places_are_a_few_lines() {
        let place = |at: u64| (format!("shop/web-{at}"), 9 - at);
        let full = Full((0..5).map(place).collect());
        assert_eq!(full.packets(), 35);
        let lines = full.lines();
        assert_eq!(lines.len(), 4);
        assert!(
            lines[0].contains("harmful, and in no row or not in all: 9 packets of new connections found"),
            "{lines:?}"
        );
        assert_eq!(lines[3], "and in 2 more network namespaces");
        assert!(Full::default().lines().is_empty());
    }

    fn entry(name: &str) -> &'static Entry {
        crate::probes::ALL.iter().find(|entry| entry.name == name).unwrap()
    }

    fn filter(reasons: &[&str], pods: &[&str]) -> Filter {
        Filter {
            reason: reasons.iter().map(|reason| (*reason).to_owned()).collect(),
            pod: pods.iter().map(|pod| pod.parse().unwrap()).collect(),
            ..Filter::default()
        }
    }

    fn count(node: &Node, process: u32, full: u64) {
        let text = format!("TcpExt: ListenOverflows\nTcpExt: {full}\n");
        std::fs::write(node.at(&format!("proc/{process}/net/netstat")), text).unwrap();
    }

    #[tokio::test]
    async fn the_place_of_a_full_queue_is_named_by_who_lives_there() {
        let node = Node::new();
        node.pod(1).run(50, 7, &[]);
        node.process(60, 9, &[]);
        for process in [1, 50, 60] {
            count(&node, process, 10);
        }
        let running = node.start().await;
        let proc = node.roots().proc;
        let watch = async || Listeners::watch(&proc, entry(PROBE), &Filter::default()).await.unwrap();
        let watched = [watch().await, watch().await, watch().await];
        for (process, full) in [(1, 13), (50, 15), (60, 11)] {
            count(&node, process, full);
        }
        let [all, ours, others] = watched;
        let places = |places: &[(&str, u64)]| {
            Full(places.iter().map(|(name, packets)| ((*name).to_owned(), *packets)).collect())
        };
        assert_eq!(
            all.end(&running.index, &filter(&[], &[])).await,
            places(&[
                ("default/p1", 5),
                ("this node's own network namespace", 3),
                ("network namespace 9 (`lsns 9` lists its processes)", 1),
            ])
        );
        assert_eq!(ours.end(&running.index, &filter(&[], &["p1"])).await, places(&[("default/p1", 5)]));
        assert_eq!(others.end(&running.index, &filter(&[], &["p2"])).await, Full::default());
        running.end().await;
    }

    #[tokio::test]
    async fn they_are_watched_for_who_asks_for_such_drops() {
        let proc = tempfile::tempdir().unwrap();
        for (probe, reasons, watched) in [
            ("drops", &[][..], true),
            ("drops", &["QUEUE"], true),
            ("drops", &["policy", "tcp_listen_overflow"], true),
            ("drops", &["policy"], false),
            ("mtu", &[], false),
        ] {
            let listeners = Listeners::watch(proc.path(), entry(probe), &filter(reasons, &[])).await;
            assert_eq!(listeners.is_some(), watched, "{probe} {reasons:?}");
        }
    }
}
