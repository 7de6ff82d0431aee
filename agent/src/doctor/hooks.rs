//! Tries every rung of every hook alone, and whether it fires: what attaches is not yet seen.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::node::Node;
use crate::probe::attach::Climb;
use crate::probe::start::{Context, Entry, Settings, StartError, Started};
use crate::probe::{Hook, Rung};
use crate::probes;

/// One hook and all of its ladder.
#[derive(Debug, Serialize)]
pub(super) struct HookReport {
    pub(super) probe: &'static str,
    pub(super) hook: &'static str,
    pub(super) tells: &'static str,
    pub(super) rungs: Vec<RungReport>,
    /// The rung the probe would run on: the first that holds.
    pub(super) takes: Option<&'static str>,
}

/// One rung, tried alone.
#[derive(Debug, Serialize)]
pub(super) struct RungReport {
    pub(super) name: &'static str,
    pub(super) status: RungStatus,
    /// Refused: the kernel's reason. Held: what it tells less than the rung above; empty on the first.
    pub(super) why: String,
    /// Whether the kernel called it when it should have; `None` if it is not attached or nothing could be provoked.
    pub(super) fired: Option<bool>,
}

/// Whether a rung holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RungStatus {
    /// It attached.
    Holds,
    /// The kernel refused it.
    Refused,
}

/// How long a provoked event may take to be counted.
const PATIENCE: Duration = Duration::from_secs(1);

/// Every hook of every probe.
pub(super) async fn try_all(node: &Node) -> Vec<HookReport> {
    let mut reports = Vec::new();
    for entry in probes::ALL {
        for hook in entry.hooks {
            let mut rungs = Vec::new();
            for rung in hook.ladder {
                rungs.push(try_rung(node, entry, hook, rung).await);
            }
            let takes = rungs.iter().find(|rung| rung.status == RungStatus::Holds).map(|rung| rung.name);
            reports.push(HookReport { probe: entry.name, hook: hook.name, tells: hook.tells, rungs, takes });
        }
    }
    reports
}

async fn try_rung(node: &Node, entry: &Entry, hook: &Hook, rung: &Rung) -> RungReport {
    let refused = |why: String| RungReport { name: rung.name, status: RungStatus::Refused, why, fired: None };
    let climbs = match start(node, entry, rung) {
        Ok(started) => {
            if holds(&started.climbs, hook) {
                let (why, fired) = (rung.loses.to_owned(), fires(entry, &started).await);
                return RungReport { name: rung.name, status: RungStatus::Holds, why, fired };
            }
            started.climbs
        }
        Err(StartError::Refused { climbs, .. }) => climbs,
        Err(error) => return refused(error.to_string()),
    };
    let of_hook = climbs.into_iter().filter(|climb| climb.hook == hook).flat_map(|climb| climb.refused);
    refused(of_hook.map(|refusal| refusal.why).collect::<Vec<_>>().join("; "))
}

/// The whole probe with nothing but rungs of this name.
fn start(node: &Node, entry: &Entry, rung: &Rung) -> Result<Started, StartError> {
    const RECORDS: u32 = 1;
    const SMALLEST_RING: u32 = 64 * 1024;
    let settings = Settings {
        records_per_second: RECORDS,
        ring_bytes: SMALLEST_RING,
        bpf_log: false,
        rung: Some(rung.name.to_owned()),
    };
    // Kept until the programs are loaded: they refer to these maps.
    let slots = RefCell::new(Vec::new());
    (entry.start)(&Context {
        kernel: &node.kernel,
        btf: node.btf.as_ref(),
        settings: &settings,
        pods: Arc::new(node.pods.clone()),
        host_netns: None,
        register: &|maps| slots.borrow_mut().push(maps),
    })
}

fn holds(climbs: &[Climb], hook: &Hook) -> bool {
    climbs.iter().any(|climb| climb.hook == hook && climb.holds.is_some())
}

/// Provokes an event and looks whether it is counted.
async fn fires(entry: &Entry, started: &Started) -> Option<bool> {
    if let Err(error) = (entry.provoke)() {
        tracing::debug!(probe = entry.name, "nothing to see, it could not be provoked: {error}");
        return None;
    }
    let seen = async {
        while (started.account)().produced == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, seen).await.is_err() {
        return Some(false);
    }
    // The tally is the probe's: with more than one hook attached it does not say which was called.
    let attached = started.climbs.iter().filter(|climb| climb.holds.is_some()).count();
    (attached == 1).then_some(true)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;
    use crate::{node, shutdown};

    async fn node(args: &[&str]) -> Node {
        let cli = Cli::try_parse_from(["r2c-agent", "doctor"].iter().chain(args)).unwrap();
        let (_stop, drain) = shutdown::channel();
        Node::read(&cli.host, drain).await
    }

    #[tokio::test]
    async fn every_rung_says_that_it_holds_or_why_not() {
        let reports = try_all(&node(&[]).await).await;
        assert_eq!(reports.len(), probes::ALL.iter().map(|entry| entry.hooks.len()).sum::<usize>());
        for report in reports {
            let takes =
                report.rungs.iter().find(|rung| rung.status == RungStatus::Holds).map(|rung| rung.name);
            assert_eq!(report.takes, takes);
            for rung in &report.rungs {
                let refused = rung.status == RungStatus::Refused;
                assert!(!refused || (!rung.why.is_empty() && rung.fired.is_none()), "{rung:?}");
            }
            if node::lacking_rights().is_empty() {
                assert_ne!(report.takes, None, "{report:?}");
            }
        }
    }

    #[tokio::test]
    async fn without_types_the_rung_that_needs_them_is_refused_for_it() {
        let empty = tempfile::tempdir().unwrap();
        let reports = try_all(&node(&["--host-sys", empty.path().to_str().unwrap()]).await).await;
        let first = &reports[0].rungs[0];
        assert_eq!((first.name, first.status), ("tp_btf", RungStatus::Refused));
        assert!(first.why.contains("BTF") || !node::lacking_rights().is_empty(), "{first:?}");
    }
}
