//! Compares what was sent with what the agent tells: by its own metrics, as Prometheus would read them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::cause::{Cause, Plan};
use super::pods::{NAMES, NAMESPACE};
use crate::probe::flow::Account;
use crate::probes::drops::labels::NO_REASON;

/// The reason of a drop this kernel has no better one for.
const NOT_SPECIFIED: &str = "NOT_SPECIFIED";

/// Pod, end, reason.
type Key = (String, String, String);

/// The counts in one scrape.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pods: BTreeMap<Key, u64>,
    /// Every drop of the node that is in a row.
    node: u64,
    /// And those that are in none.
    uncounted: u64,
}

impl Counted {
    /// Reads a scrape in the classic text format.
    pub(super) fn parse(text: &str) -> Self {
        let mut counted = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<u64>() else { continue };
            match series.split('{').next() {
                Some("r2c_drop_packets_total") => counted.node += value,
                Some("r2c_drop_uncounted_packets_total") => counted.uncounted += value,
                Some("r2c_pod_drop_packets_total") if label(series, "namespace") == NAMESPACE => {
                    let key = ["pod", "end", "reason"].map(|name| label(series, name).to_owned());
                    *counted.pods.entry(key.into()).or_default() += value;
                }
                _ => {}
            }
        }
        counted
    }

    /// Drops of both pods.
    pub(super) fn total(&self) -> u64 {
        self.pods.iter().filter(|((_, end, _), _)| end == ENDS[1]).map(|(_, count)| count).sum()
    }
}

/// The value of a label. Those of these families are from closed sets: none needs escaping.
fn label<'a>(series: &'a str, name: &str) -> &'a str {
    let mut labels = series.split(['{', ',']).filter_map(|pair| pair.split_once('='));
    labels.find(|(key, _)| *key == name).map_or("", |(_, value)| value.trim_matches(['"', '}']))
}

/// What one pod's drops should be and are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    pub(super) namespace: &'static str,
    pub(super) pod: String,
    /// Which end of the packet the pod was: on loopback it is both.
    pub(super) end: String,
    pub(super) reason: String,
    pub(super) sent: u64,
    pub(super) counted: u64,
}

const ENDS: [&str; 2] = ["source", "destination"];

/// The reason a cause is counted under on a kernel that knows `reasons`.
fn reason(cause: Cause, reasons: &[String]) -> &'static str {
    let known = |name: &str| reasons.iter().any(|reason| reason == name);
    match cause.reason() {
        name if known(name) => name,
        _ if known(NOT_SPECIFIED) => NOT_SPECIFIED,
        // There are classes still, which need no reasons.
        _ => NO_REASON,
    }
}

/// Both ends of both pods, row by row. What was counted there and never sent is a row as well.
fn compare(sent: &Plan, counted: &Counted, reasons: &[String]) -> Vec<Row> {
    let mut expected: BTreeMap<Key, u64> = BTreeMap::new();
    for (pod, drops) in NAMES.iter().zip(sent) {
        for (cause, drops) in Cause::ALL.iter().zip(drops) {
            for end in ENDS {
                let key = ((*pod).to_owned(), end.to_owned(), reason(*cause, reasons).to_owned());
                *expected.entry(key).or_default() += drops;
            }
        }
    }
    let keys: BTreeSet<&Key> = expected.keys().chain(counted.pods.keys()).collect();
    let of = |counts: &BTreeMap<Key, u64>, key: &Key| counts.get(key).copied().unwrap_or(0);
    let row = |key: &Key| {
        let (pod, end, reason) = key.clone();
        let (sent, counted) = (of(&expected, key), of(&counted.pods, key));
        Row { namespace: NAMESPACE, pod, end, reason, sent, counted }
    };
    keys.into_iter().map(row).collect()
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    /// Every number is the number of drops made.
    Exact,
    /// What is short is no more than what the kernel says it did not hand to the probe.
    ExactButMissed,
    /// Some number is wrong.
    Mismatch,
}

/// What was counted in one run, and what it should be.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Run {
    #[serde(rename = "run")]
    pub(super) nth: u32,
    pub(super) verdict: Verdict,
    pub(super) sent: u64,
    pub(super) counted: u64,
    /// Events of the whole node that the kernel did not hand to the probe: its program was already running there.
    pub(super) missed: u64,
    /// Packets of the whole node in the rows of the exact counts, and in none for want of room.
    pub(super) rows: u64,
    pub(super) uncounted: u64,
    pub(super) events: Events,
    pub(super) seconds: f64,
    pub(super) pods: Vec<Row>,
}

/// `produced == emitted + sum(dropped)` once the ring is empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Events {
    pub(super) produced: u64,
    pub(super) emitted: u64,
    pub(super) dropped: BTreeMap<&'static str, u64>,
    /// What the identity is short by: written to the ring as the kernel side has it, and never read.
    pub(super) unaccounted: u64,
}

impl Events {
    /// Of a probe that is detached and whose ring was read to its end.
    fn new(account: &Account) -> Self {
        let dropped = BTreeMap::from(account.dropped());
        let told = account.emitted + dropped.values().sum::<u64>();
        let (produced, emitted) = (account.produced, account.emitted);
        Self { produced, emitted, unaccounted: produced.abs_diff(told), dropped }
    }

    /// Events one stage kept back.
    pub(super) fn dropped(&self, stage: &str) -> u64 {
        self.dropped.get(stage).copied().unwrap_or(0)
    }
}

/// What is known after a run.
pub(super) struct After<'a> {
    pub(super) nth: u32,
    pub(super) sent: &'a Plan,
    pub(super) counted: &'a Counted,
    pub(super) account: &'a Account,
    pub(super) missed: u64,
    pub(super) reasons: &'a [String],
    pub(super) seconds: f64,
}

impl Run {
    /// Judges a run.
    pub(super) fn judge(after: &After<'_>) -> Self {
        let pods = compare(after.sent, after.counted, after.reasons);
        let events = Events::new(after.account);
        let (rows, uncounted) = (after.counted.node, after.counted.uncounted);
        let complete = events.unaccounted == 0 && rows + uncounted == events.produced;
        let verdict = if complete { verdict(&pods, after.missed) } else { Verdict::Mismatch };
        Self {
            nth: after.nth,
            verdict,
            sent: after.sent.concat().iter().sum(),
            counted: after.counted.total(),
            missed: after.missed,
            rows,
            uncounted,
            events,
            seconds: after.seconds,
            pods,
        }
    }
}

fn verdict(pods: &[Row], missed: u64) -> Verdict {
    if pods.iter().all(|row| row.sent == row.counted) {
        return Verdict::Exact;
    }
    let short = |end| {
        pods.iter().filter(|row| row.end == end).map(|row| row.sent.saturating_sub(row.counted)).sum::<u64>()
    };
    let excess = pods.iter().any(|row| row.counted > row.sent);
    // A packet that was missed is missing at both its ends.
    if !excess && short(ENDS[0]) == short(ENDS[1]) && short(ENDS[0]) <= missed {
        Verdict::ExactButMissed
    } else {
        Verdict::Mismatch
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::super::cause::plan;
    use super::*;

    fn reasons() -> Vec<String> {
        Cause::ALL.map(|cause| cause.reason().to_owned()).to_vec()
    }

    /// A scrape that counts `sent`, as the drops probe writes it, with strangers' drops beside.
    fn scrape(sent: &Plan, name: impl Fn(Cause) -> String) -> String {
        let mut text = "# TYPE r2c_drop_packets_total counter\n".to_owned();
        for (pod, drops) in NAMES.iter().zip(sent) {
            for (cause, drops) in Cause::ALL.iter().zip(drops) {
                let rest = format!(
                    "reason=\"{}\",class=\"other\",harm=\"harmful\",direction=\"received\"}} {drops}\n",
                    name(*cause)
                );
                let _ = write!(text, "r2c_drop_packets_total{{{rest}");
                for end in ENDS {
                    let _ = write!(
                        text,
                        "r2c_pod_drop_packets_total{{namespace=\"{NAMESPACE}\",pod=\"{pod}\",end=\"{end}\",{rest}"
                    );
                }
            }
        }
        text + "r2c_pod_drop_packets_total{namespace=\"shop\",pod=\"a\",end=\"source\",reason=\"NO_SOCKET\"} 7\n\
            r2c_drop_packets_total{reason=\"TCP_OFO_DROP\"} 7\nr2c_drop_uncounted_packets_total 2\n"
    }

    fn judge(sent: &Plan, text: &str, missed: u64, account: Account, reasons: &[String]) -> Run {
        let counted = Counted::parse(text);
        Run::judge(&After {
            nth: 1,
            sent,
            counted: &counted,
            account: &account,
            missed,
            reasons,
            seconds: 0.5,
        })
    }

    fn account(produced: u64) -> Account {
        Account { produced, emitted: 30, limited: produced - 50, ring_full: 20, ..Account::default() }
    }

    #[test]
    fn equal_numbers_are_exact_whatever_strangers_drop() {
        let sent = plan(1000);
        let text = scrape(&sent, |cause| cause.reason().to_owned());
        let run = judge(&sent, &text, 5, account(1009), &reasons());
        assert_eq!(
            (run.verdict, run.sent, run.counted, run.events.unaccounted),
            (Verdict::Exact, 1000, 1000, 0)
        );
        assert_eq!((run.rows, run.uncounted, run.pods.len()), (1007, 2, 16));
        assert_eq!(run.events.dropped("ring_full"), 20);
    }

    #[test]
    fn one_packet_in_another_row_is_a_mismatch() {
        let sent = plan(1000);
        let text = scrape(&sent, |cause| cause.reason().to_owned());
        for (right, wrong) in [
            (" 220\n", " 219\n"),
            (" 220\n", " 221\n"),
            ("NO_SOCKET", "NOT_SPECIFIED"),
            ("pod=\"a\"", "pod=\"b\""),
        ] {
            assert!(text.contains(right), "{text}");
            let run = judge(&sent, &text.replace(right, wrong), 0, account(1009), &reasons());
            assert_eq!(run.verdict, Verdict::Mismatch, "{wrong}");
        }
    }

    #[test]
    fn what_is_short_may_be_what_the_kernel_missed_but_no_more() {
        let sent = plan(1000);
        let text = scrape(&sent, |cause| cause.reason().to_owned()).replace(" 220\n", " 218\n");
        assert_eq!(judge(&sent, &text, 2, account(1007), &reasons()).verdict, Verdict::ExactButMissed);
        assert_eq!(judge(&sent, &text, 1, account(1007), &reasons()).verdict, Verdict::Mismatch);
    }

    /// It is missing at both its ends; what is short at one of them alone was counted wrong.
    #[test]
    fn what_is_short_at_one_end_was_not_missed() {
        let sent = plan(1000);
        let text = scrape(&sent, |cause| cause.reason().to_owned());
        // The node's own row comes first, then the source's.
        let short = text.replacen(" 220\n", " 218\n", 2);
        assert_eq!(judge(&sent, &short, 2, account(1007), &reasons()).verdict, Verdict::Mismatch);
        assert_eq!(judge(&sent, &short, 5, account(1007), &reasons()).verdict, Verdict::Mismatch);
    }

    #[test]
    fn a_packet_is_counted_once_though_it_has_two_ends() {
        let row = |end: &str, count: u32| {
            format!(
                "r2c_pod_drop_packets_total{{namespace=\"{NAMESPACE}\",pod=\"a\",end=\"{end}\",reason=\"X\"}} {count}\n"
            )
        };
        let counted = Counted::parse(&[row("source", 3), row("destination", 5)].concat());
        assert_eq!(counted.total(), 5, "all arrive at the end that is looked at");
    }

    #[test]
    fn a_reason_is_looked_for_under_the_name_that_the_kernel_has_for_it() {
        let known = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        for (names, told) in [
            (&["NOT_SPECIFIED", "UDP_CSUM"][..], "UDP_CSUM"),
            (&["NOT_SPECIFIED", "NO_SOCKET"], "NOT_SPECIFIED"),
            (&["NO_SOCKET"], NO_REASON),
            (&[], NO_REASON),
        ] {
            assert_eq!(reason(Cause::Checksum, &known(names)), told, "{names:?}");
        }
    }

    #[test]
    fn an_event_lost_without_a_count_is_a_mismatch() {
        let sent = plan(1000);
        let text = scrape(&sent, |cause| cause.reason().to_owned());
        let lost = Account { emitted: 29, ..account(1009) };
        let run = judge(&sent, &text, 0, lost, &reasons());
        assert_eq!((run.verdict, run.events.unaccounted), (Verdict::Mismatch, 1));
        let run = judge(&sent, &text, 0, account(1010), &reasons());
        assert_eq!(run.verdict, Verdict::Mismatch, "the probe saw one more than its rows have");
    }

    #[test]
    fn a_kernel_without_reasons_is_compared_by_pod() {
        let sent = plan(1000);
        let text = scrape(&sent, |_| NO_REASON.to_owned());
        for known in [&[][..], &["no_socket".to_owned()]] {
            let run = judge(&sent, &text, 0, account(1009), known);
            assert_eq!((run.verdict, run.pods.len()), (Verdict::Exact, 4));
        }
        let mut known: Vec<String> = reasons().into_iter().filter(|reason| reason != "UDP_CSUM").collect();
        known.push(NOT_SPECIFIED.to_owned());
        let text = scrape(&sent, |cause| reason(cause, &known).to_owned());
        assert_eq!(judge(&sent, &text, 0, account(1009), &known).verdict, Verdict::Exact);
    }
}
