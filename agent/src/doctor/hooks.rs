//! Tries every rung of every hook alone, and whether it fires: what attaches is not yet seen.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use agent_common::Tally;
use serde::Serialize;

use crate::kernel::Kernel;
use crate::node::Node;
use crate::probe::attach::{Climb, Why};
use crate::probe::filter::PacketFilter;
use crate::probe::start::{Context, Entry, Settings, StartError, Started};
use crate::probe::{Hook, Rung};
use crate::probes;
use crate::rights::{Cause, Refused};

/// One hook and all of its ladder.
#[derive(Debug, Serialize)]
pub(super) struct HookReport {
    pub(super) probe: &'static str,
    pub(super) hook: &'static str,
    pub(super) tells: &'static str,
    pub(super) rungs: Vec<RungReport>,
    /// The rung the probe would run on: the first that holds.
    pub(super) takes: Option<&'static str>,
    /// The kernel module that it is in, if that is not loaded: what is not there does nothing that would have to be seen.
    pub(super) module_absent: Option<&'static str>,
}

impl HookReport {
    /// Nothing tells what it would.
    pub(super) fn is_lost(&self) -> bool {
        self.takes.is_none() && self.module_absent.is_none()
    }

    /// It is attached, was provoked, and the kernel did not call it.
    pub(super) fn is_silent(&self) -> bool {
        self.rungs.iter().any(|rung| Some(rung.name) == self.takes && rung.fired == Some(false))
    }

    /// The level of `kernel.perf_event_paranoid` that keeps it from a rung, or from a better one.
    pub(super) fn paranoid(&self) -> Option<i32> {
        if self.module_absent.is_some() {
            return None;
        }
        let above = self.rungs.iter().take_while(|rung| Some(rung.name) != self.takes);
        above.into_iter().find_map(|rung| match rung.refused.as_ref()?.cause {
            Cause::Paranoid(level) => Some(level),
            _ => None,
        })
    }
}

/// One rung, tried alone.
#[derive(Debug, Serialize)]
pub(super) struct RungReport {
    pub(super) name: &'static str,
    pub(super) status: RungStatus,
    /// Refused: the kernel's reason. Held: what it tells less than the rung above; empty on the first.
    pub(super) why: String,
    /// What to set, where a right was refused and something can be set.
    pub(super) cure: Option<String>,
    /// Whether the kernel called it when it should have; `None` if it is not attached or nothing could be provoked.
    pub(super) fired: Option<bool>,
    /// What refused it, where that is understood.
    #[serde(skip)]
    pub(super) refused: Option<Refused>,
}

impl RungReport {
    fn refused(name: &'static str, why: String, refused: Option<Refused>) -> Self {
        let cure = refused.as_ref().and_then(|refused| refused.cure.clone());
        Self { name, status: RungStatus::Refused, why, cure, fired: None, refused }
    }

    fn holds(rung: &Rung, fired: Option<bool>, counts: bool) -> Self {
        let why = rung.loss(counts);
        Self { name: rung.name, status: RungStatus::Holds, why, cure: None, fired, refused: None }
    }
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
        let mut names: Vec<&str> =
            entry.hooks.iter().flat_map(|hook| hook.ladder).map(|rung| rung.name).collect();
        names.sort_unstable();
        names.dedup();
        let mut tries = Vec::new();
        for name in names {
            tries.push(Try::of(node, entry, name).await);
        }
        reports.extend(entry.hooks.iter().map(|hook| report(&node.kernel, entry, hook, &tries)));
    }
    reports
}

fn report(kernel: &Kernel, entry: &Entry, hook: &'static Hook, tries: &[Try]) -> HookReport {
    let counts = kernel.counts_misses();
    let of_rung = |rung: &Rung| {
        let attempt = tries.iter().find(|attempt| attempt.rung == rung.name);
        attempt.map(|attempt| attempt.hook(hook, rung, counts))
    };
    let rungs: Vec<RungReport> = hook.ladder.iter().filter_map(of_rung).collect();
    let takes = rungs.iter().find(|rung| rung.status == RungStatus::Holds).map(|rung| rung.name);
    let module_absent = hook.module.filter(|module| takes.is_none() && !kernel.has_module(module));
    HookReport { probe: entry.name, hook: hook.name, tells: hook.tells, rungs, takes, module_absent }
}

/// The whole probe with nothing but rungs of one name, and what came of it.
struct Try {
    rung: &'static str,
    outcome: Result<Vec<(Climb, Option<bool>)>, Why>,
}

impl Try {
    async fn of(node: &Node, entry: &Entry, rung: &'static str) -> Self {
        let outcome = match start(node, entry, rung) {
            Ok(started) => {
                let fired = fires(entry, &started).await;
                Ok(started.climbs.into_iter().zip(fired).collect())
            }
            Err(StartError::Refused { climbs, .. }) => {
                Ok(climbs.into_iter().map(|climb| (climb, None)).collect())
            }
            Err(error) => {
                let refused = error.refused().first().map(|refused| (*refused).clone());
                Err(Why { text: error.to_string(), refused })
            }
        };
        Self { rung, outcome }
    }

    /// What it says of one hook.
    fn hook(&self, hook: &'static Hook, rung: &Rung, counts: bool) -> RungReport {
        let climbs = match &self.outcome {
            Ok(climbs) => climbs,
            // It says why.
            Err(why) => return RungReport::refused(rung.name, why.text.clone(), why.refused.clone()),
        };
        match climbs.iter().find(|(climb, _)| climb.hook == hook) {
            Some((climb, fired)) if climb.holds.is_some() => RungReport::holds(rung, *fired, counts),
            Some((climb, _)) => match climb.refused.first() {
                Some(refusal) => {
                    RungReport::refused(rung.name, refusal.why.to_string(), refusal.why.refused.clone())
                }
                None => RungReport::refused(rung.name, "not tried".to_owned(), None),
            },
            None => RungReport::refused(rung.name, "not tried".to_owned(), None),
        }
    }
}

fn start(node: &Node, entry: &Entry, rung: &str) -> Result<Started, StartError> {
    const RECORDS: u32 = 1;
    const SMALLEST_RING: u32 = 64 * 1024;
    let settings = Settings {
        records_per_second: RECORDS,
        ring_bytes: SMALLEST_RING,
        bpf_log: false,
        rung: Some(rung.to_owned()),
        count_passed: true,
        filter: PacketFilter::default(),
        by_pod: false,
    };
    // Kept until the programs are loaded: they refer to these maps.
    let slots = RefCell::new(Vec::new());
    (entry.start)(&Context {
        kernel: &node.kernel,
        loader: &node.loader,
        settings: &settings,
        pods: Arc::new(node.pods.clone()),
        host_netns: None,
        register: &|maps| slots.borrow_mut().push(maps),
    })
}

/// Provokes the probe's hooks and looks which were called. `None` of a hook that holds no rung, and of one that cannot be
/// provoked and was not called by chance.
async fn fires(entry: &Entry, started: &Started) -> Vec<Option<bool>> {
    let provoked = match (entry.provoke)() {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!(probe = entry.name, "nothing to see, it could not be provoked: {error}");
            false
        }
    };
    fired(provoked, &started.climbs, &*started.tallies).await
}

/// As [`fires`], of hooks that were provoked or not.
async fn fired(
    provoked: bool,
    climbs: &[Climb],
    tallies: &(dyn Fn() -> Vec<Tally> + Send + Sync),
) -> Vec<Option<bool>> {
    let called = || -> Vec<bool> { tallies().iter().map(|tally| tally.seen + tally.passed > 0).collect() };
    let expected = |at: usize| provoked && climbs[at].holds.is_some() && climbs[at].hook.provoked;
    let all_seen = async {
        while called().iter().enumerate().any(|(at, called)| expected(at) && !called) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // What is not called by then is not called.
    let _ = tokio::time::timeout(PATIENCE, all_seen).await;
    let told = |(at, called): (usize, bool)| match (climbs[at].holds, called) {
        (Some(_), true) => Some(true),
        (Some(_), false) if expected(at) => Some(false),
        _ => None,
    };
    called().into_iter().enumerate().map(told).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;
    use crate::{rights, shutdown};

    async fn node(args: &[&str]) -> Node {
        let cli = Cli::try_parse_from(["r2c-agent", "doctor"].iter().chain(args)).unwrap();
        let (_stop, drain) = shutdown::channel();
        Node::read(&cli.host, drain).await
    }

    #[test]
    fn a_hook_that_is_refused_is_named_with_its_probe() {
        for entry in probes::ALL {
            let climbs = vec![Climb { hook: &entry.hooks[0], holds: None, refused: Vec::new() }];
            let said = StartError::Refused { probe: entry.name, climbs }.to_string();
            let begins = format!("probe {}: no rung of hook {} holds: ", entry.name, entry.hooks[0].name);
            assert!(said.starts_with(&begins), "{said}");
        }
    }

    const RUNG: Rung = Rung { name: "only", loses: "", attach: &[] };
    const PROVOKED: Hook = Hook { name: "p", tells: "", module: None, provoked: true, ladder: &[RUNG] };
    const BY_CHANCE: Hook = Hook { provoked: false, ..PROVOKED };

    fn climb(hook: &'static Hook, holds: bool) -> Climb {
        Climb { hook, holds: holds.then(|| &hook.ladder[0]), refused: Vec::new() }
    }

    /// Seen and passed, in this order.
    fn tally((seen, passed): (u64, u64)) -> Tally {
        Tally { seen, passed, ..Tally::default() }
    }

    /// A hook that is called silent without cause fails a node that is well; one that is silent for real must be told.
    #[tokio::test(start_paused = true)]
    async fn a_hook_is_silent_if_it_was_provoked_holds_and_is_not_called() {
        let (holds, refused, chance) =
            (climb(&PROVOKED, true), climb(&PROVOKED, false), climb(&BY_CHANCE, true));
        for (provoked, climb, counts, told) in [
            (true, &holds, (0, 0), Some(false)),
            (true, &holds, (1, 0), Some(true)),
            (true, &holds, (0, 1), Some(true)),
            (false, &holds, (0, 0), None),
            (false, &holds, (1, 1), Some(true)),
            (true, &refused, (0, 0), None),
            (true, &refused, (1, 0), None),
            (true, &chance, (0, 0), None),
            (true, &chance, (2, 2), Some(true)),
        ] {
            let found = fired(provoked, std::slice::from_ref(climb), &move || vec![tally(counts)]).await;
            assert_eq!(found, [told], "{provoked} {} {counts:?}", climb.hook.provoked);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_waits_for_what_was_provoked_and_for_nothing_else() {
        let climbs = [climb(&PROVOKED, true), climb(&PROVOKED, false), climb(&BY_CHANCE, true)];
        let began = tokio::time::Instant::now();
        let late = Duration::from_millis(100);
        let counted = || vec![tally((u64::from(began.elapsed() >= late), 0)), tally((0, 0)), tally((0, 0))];
        let found = fired(true, &climbs, &counted);
        assert_eq!(found.await, [Some(true), None, None]);
        assert!((late..PATIENCE / 2).contains(&began.elapsed()), "{:?}", began.elapsed());
        let began = tokio::time::Instant::now();
        let found = fired(true, &climbs, &|| [(1, 0), (0, 0), (0, 0)].map(tally).to_vec()).await;
        assert_eq!((found, began.elapsed()), (vec![Some(true), None, None], Duration::ZERO));
        let found = fired(true, &climbs, &|| vec![Tally::default(); 3]).await;
        assert_eq!((found[0], began.elapsed()), (Some(false), PATIENCE), "it has had its time");
    }

    fn rung_report(name: &'static str, fired: Option<bool>, cause: Option<Cause>) -> RungReport {
        let refused = cause.map(|cause| Refused { cause, why: String::new(), cure: None });
        let status = if refused.is_some() { RungStatus::Refused } else { RungStatus::Holds };
        RungReport { name, status, why: String::new(), cure: None, fired, refused }
    }

    fn hook_report(rungs: Vec<RungReport>, takes: Option<&'static str>) -> HookReport {
        HookReport { probe: "drops", hook: "p", tells: "", rungs, takes, module_absent: None }
    }

    #[test]
    fn a_hook_is_judged_by_the_rung_that_it_takes() {
        let rungs = || {
            vec![
                rung_report("first", None, Some(Cause::Paranoid(3))),
                rung_report("second", Some(true), None),
                rung_report("third", Some(false), None),
            ]
        };
        let second = hook_report(rungs(), Some("second"));
        assert_eq!((second.is_lost(), second.is_silent(), second.paranoid()), (false, false, Some(3)));
        let third = hook_report(rungs(), Some("third"));
        assert!(third.is_silent(), "what another rung has seen helps nobody");
        let none = hook_report(vec![rung_report("first", None, Some(Cause::Paranoid(4)))], None);
        assert_eq!((none.is_lost(), none.is_silent(), none.paranoid()), (true, false, Some(4)));
        let absent = HookReport { module_absent: Some("nf_conntrack"), ..none };
        assert_eq!((absent.is_lost(), absent.paranoid()), (false, None), "no right brings a module back");
        let below = vec![
            rung_report("first", Some(true), None),
            rung_report("second", None, Some(Cause::Paranoid(3))),
        ];
        assert_eq!(hook_report(below, Some("first")).paranoid(), None, "what lies below is not missed");
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
        }
    }

    #[tokio::test]
    async fn every_probe_has_a_hook_that_holds_where_root_may_attach() {
        if rights::lacking().is_some() {
            return;
        }
        let reports = try_all(&node(&[]).await).await;
        for entry in probes::ALL {
            let holds = |report: &HookReport| report.probe == entry.name && report.takes.is_some();
            assert!(reports.iter().any(holds), "{reports:?}");
        }
    }

    #[tokio::test]
    async fn without_types_the_rung_that_needs_them_is_refused_for_it() {
        let empty = tempfile::tempdir().unwrap();
        let reports = try_all(&node(&["--host-sys", empty.path().to_str().unwrap()]).await).await;
        let first = &reports[0].rungs[0];
        assert_eq!((first.name, first.status), ("tp_btf", RungStatus::Refused));
        assert!(first.why.contains("BTF") || rights::lacking().is_some(), "{first:?}");
    }

    /// What is in a module that is there would be seen: that it is refused is a loss.
    #[test]
    fn a_module_is_absent_where_it_is_not_loaded_and_nothing_holds() {
        const IN_MODULE: Hook = Hook { module: Some("nf_conntrack"), ..PROVOKED };
        let dir = tempfile::tempdir().unwrap();
        let absent = |holds| {
            let kernel = Kernel::load_from(crate::kernel::Roots::under(dir.path()));
            let attempt = Try { rung: "only", outcome: Ok(vec![(climb(&IN_MODULE, holds), None)]) };
            report(&kernel, &probes::ALL[0], &IN_MODULE, &[attempt]).module_absent
        };
        assert_eq!([false, true].map(absent), [Some("nf_conntrack"), None]);
        std::fs::create_dir_all(dir.path().join("sys/module/nf_conntrack")).unwrap();
        assert_eq!([false, true].map(absent), [None, None]);
    }
}
