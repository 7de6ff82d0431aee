//! The agent's account of its own probes as metrics: which are up, on which rung, and what became of each event.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use super::attached::Attached;
use super::flow::{Account, ReadTallies};
use super::start::{ReadAccount, Started};
use super::{Hook, attach::Climb};

/// What is kept of a started probe for its report, and of one that is not up.
pub struct Report {
    name: &'static str,
    up: Option<Up>,
}

struct Up {
    climbs: Vec<Climb>,
    tallies: ReadTallies,
    account: ReadAccount,
    attached: Arc<Attached>,
}

impl Report {
    /// Of a probe that is up.
    #[must_use]
    pub fn of(started: &Started) -> Self {
        let up = Up {
            climbs: started.climbs.clone(),
            tallies: Arc::clone(&started.tallies),
            account: Arc::clone(&started.account),
            attached: Arc::clone(&started.attached),
        };
        Self { name: started.name, up: Some(up) }
    }

    /// Of a probe that the kernel refused.
    #[must_use]
    pub fn down(name: &'static str) -> Self {
        Self { name, up: None }
    }
}

/// All probes' reports: one collector, since rows of one family must stand together.
pub struct Reports(pub Vec<Report>);

impl fmt::Debug for Reports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|report| report.name)).finish()
    }
}

impl Collector for Reports {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let mut up = encoder.encode_descriptor(
            "probe_up",
            "1 if the probe is attached, 0 if the kernel refused it",
            None,
            MetricType::Gauge,
        )?;
        for report in &self.0 {
            let labels = [("probe", report.name)];
            up.encode_family(&labels)?.encode_gauge(&i64::from(report.up.is_some()))?;
        }

        let mut rungs = encoder.encode_descriptor(
            "hook_rung",
            "1 for the rung of the hook's ladder that holds; rung \"none\" if all were refused",
            None,
            MetricType::Gauge,
        )?;
        for (report, up) in self.up() {
            for Climb { hook: Hook { name: hook, .. }, holds, .. } in &up.climbs {
                let labels = [
                    ("probe", report.name),
                    ("hook", *hook),
                    ("rung", holds.map_or("none", |rung| rung.name)),
                ];
                rungs.encode_family(&labels)?.encode_gauge(&1_i64)?;
            }
        }

        counters(
            &mut encoder,
            "hook_events",
            "Events each hook saw; 0 after hours says that the hook is attached and does not fire here",
            self.up().flat_map(|(report, up)| {
                let hooks = up.climbs.iter().map(|climb| climb.hook.name);
                hooks.zip((up.tallies)()).map(|(hook, tally)| {
                    ([("probe", report.name), ("hook", hook)], tally.seen + tally.passed)
                })
            }),
        )?;

        let accounts: Vec<_> = self.up().map(|(report, up)| (report.name, (up.account)())).collect();
        let of = |count: fn(&Account) -> u64| {
            accounts.iter().map(move |(probe, account)| ([("probe", *probe)], count(account)))
        };
        counters(
            &mut encoder,
            "events_produced",
            "Events the kernel side saw; equals emitted plus the sum of dropped over all stages, plus what is in the ring",
            of(|account| account.produced),
        )?;
        counters(&mut encoder, "events_emitted", "Events written as a line", of(|account| account.emitted))?;
        counters(
            &mut encoder,
            "events_dropped",
            "Events counted but not written, by the stage that dropped them: limited (the key's budget for the second), ring_full, undecoded, unwritten, benign, filtered, merged (into its incident's verdict)",
            accounts.iter().flat_map(|(probe, account)| {
                account.dropped().map(|(stage, count)| ([("probe", *probe), ("stage", stage)], count))
            }),
        )?;
        counters(
            &mut encoder,
            "events_missed",
            "Events the kernel did not hand to the probe because a program was already running on that CPU; in no other count. 0 where none are missed (tp_btf and raw_tp up to 5.15) and where the kernel does not count them (kprobe and tracepoint before 6.7)",
            self.up().map(|(report, up)| ([("probe", report.name)], up.attached.missed())),
        )?;
        let mut in_ring = encoder.encode_descriptor(
            "events_in_ring",
            "Records in the ring buffer, not read yet",
            None,
            MetricType::Gauge,
        )?;
        for (probe, account) in &accounts {
            in_ring.encode_family(&[("probe", *probe)])?.encode_gauge(&account.in_ring)?;
        }
        Ok(())
    }
}

/// Writes one family of counters.
fn counters<const LABELS: usize>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    rows: impl Iterator<Item = ([(&'static str, &'static str); LABELS], u64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, count) in rows {
        ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

impl Reports {
    fn up(&self) -> impl Iterator<Item = (&Report, &Up)> {
        self.0.iter().filter_map(|report| report.up.as_ref().map(|up| (report, up)))
    }
}

#[cfg(test)]
mod tests {
    use agent_common::Tally;
    use prometheus_client::encoding::text;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::probe::{Attach, Rung, Target};

    const ATTACH: [Attach; 1] = [Attach { program: "free", target: Target::RawTracepoint("kfree_skb") }];
    const LADDER: [Rung; 1] = [Rung { name: "raw_tp", loses: "", attach: &ATTACH }];
    const HOOKS: [Hook; 2] = [
        Hook { name: "kfree_skb", tells: "", module: None, provoked: true, ladder: &LADDER },
        Hook { name: "icmp6_send", tells: "", module: None, provoked: true, ladder: &LADDER },
    ];

    /// Without which nobody can tell a quiet node from a probe that sees nothing.
    #[test]
    fn each_probe_tells_whether_it_is_up_and_what_became_of_its_events() {
        let climbs = vec![
            Climb { hook: &HOOKS[0], holds: Some(&LADDER[0]), refused: Vec::new() },
            Climb { hook: &HOOKS[1], holds: None, refused: Vec::new() },
        ];
        let tally = |seen, passed| Tally { seen, passed, ..Tally::default() };
        let account = Account {
            produced: 20,
            emitted: 1,
            benign: 2,
            filtered: 3,
            limited: 4,
            ring_full: 5,
            undecoded: 0,
            unwritten: 0,
            merged: 0,
            in_ring: 6,
        };
        let up = Up {
            climbs,
            tallies: Arc::new(move || vec![tally(20, 3), tally(0, 0)]),
            account: Arc::new(move || account),
            attached: Arc::new(Attached::gone(7)),
        };
        let reports = Reports(vec![Report { name: "drops", up: Some(up) }, Report::down("mtu")]);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(reports));
        let mut scraped = String::new();
        text::encode(&mut scraped, &registry).unwrap();
        let series: Vec<&str> = scraped.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            series,
            [
                "probe_up{probe=\"drops\"} 1",
                "probe_up{probe=\"mtu\"} 0",
                "hook_rung{probe=\"drops\",hook=\"kfree_skb\",rung=\"raw_tp\"} 1",
                "hook_rung{probe=\"drops\",hook=\"icmp6_send\",rung=\"none\"} 1",
                "hook_events_total{probe=\"drops\",hook=\"kfree_skb\"} 23",
                "hook_events_total{probe=\"drops\",hook=\"icmp6_send\"} 0",
                "events_produced_total{probe=\"drops\"} 20",
                "events_emitted_total{probe=\"drops\"} 1",
                "events_dropped_total{probe=\"drops\",stage=\"limited\"} 4",
                "events_dropped_total{probe=\"drops\",stage=\"ring_full\"} 5",
                "events_dropped_total{probe=\"drops\",stage=\"undecoded\"} 0",
                "events_dropped_total{probe=\"drops\",stage=\"unwritten\"} 0",
                "events_dropped_total{probe=\"drops\",stage=\"benign\"} 2",
                "events_dropped_total{probe=\"drops\",stage=\"filtered\"} 3",
                "events_dropped_total{probe=\"drops\",stage=\"merged\"} 0",
                "events_missed_total{probe=\"drops\"} 7",
                "events_in_ring{probe=\"drops\"} 6",
            ]
        );
    }
}
