//! Brings a probe up: constants in, object loaded, slots filled, hooks climbed; then its path is ready to run.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use agent_common::Tally;
use aya::Ebpf;
use aya_log::EbpfLogger;
use nix::errno::Errno;
use prometheus_client::collector::Collector;
use tokio::io::unix::AsyncFd;

use super::attach::{Climb, Ground, MapError, Maps, Refusal, Why, climb, may_read};
use super::attached::Attached;
use super::counts::ReadLimited;
use super::filter::PacketFilter;
use super::flow::{Account, Flow, ReadTallies};
use super::globals::Globals;
use super::loader::Loader;
use super::pipeline::{Ended, Path};
use super::ring::Ring;
use super::{Hook, Probe};
use crate::incident::Incidents;
use crate::kernel::{Kernel, clock};
use crate::pod::{FindPod, PodSlots};
use crate::rights::{self, Act, Refused};
use crate::shutdown::Drain;
use crate::sink::filter::Filter;
use crate::sink::{Column, Sink};

/// What the user may set of a probe.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Records a key and CPU may write in about a second: [`window_shift`].
    pub records_per_second: u32,
    /// Size of the ring in bytes: a power of two, at least a page.
    pub ring_bytes: u32,
    /// Turns the BPF programs' own diagnostics on.
    pub bpf_log: bool,
    /// Tries only the rung of this name.
    pub rung: Option<String>,
    /// Counts calls of hooks that are no event of the probe, too.
    pub count_passed: bool,
    /// What the user wants to see of packets: applied before the budget of records where the probe's kernel side can.
    pub filter: PacketFilter,
    /// The user wants to see certain pods alone.
    pub by_pod: bool,
}

impl Settings {
    /// Whether filters of the user's are left to the user side: then it must get all events, to look at each.
    fn leaves_filters<P: Probe>(&self) -> bool {
        // The kernel side knows packets by their outer headers; that of a probe that looks into tunnels does not know
        // whose they are.
        if P::FILTERS { !self.filter.is_whole() } else { self.by_pod || !self.filter.is_empty() }
    }
}

/// Records a row and CPU may write in a window where the user side is to look at all events: as many as are counted.
const ALL_RECORDS: u32 = u16::MAX as u32;

/// The ring they go through, in bytes.
const RING_OF_ALL: u32 = 4 << 20;

/// What starting needs of its surroundings.
pub struct Context<'a> {
    /// The running kernel.
    pub kernel: &'a Kernel,
    /// Loads its objects.
    pub loader: &'a Loader,
    /// The user's settings.
    pub settings: &'a Settings,
    /// Whose subjects are whose.
    pub pods: Arc<dyn FindPod>,
    /// Inode of the host's network namespace; `None` where it cannot be seen.
    pub host_netns: Option<u32>,
    /// Hands the probe's slot maps to the pod index, before anything is attached: the first event has its pod.
    pub register: &'a dyn Fn(Box<dyn PodSlots>),
}

/// One entry of the list of probes: the type behind it erased.
#[derive(Clone, Copy)]
pub struct Entry {
    /// [`Probe::NAME`].
    pub name: &'static str,
    /// [`Probe::ABOUT`].
    pub about: &'static str,
    /// [`Probe::ASIDE`].
    pub aside: &'static str,
    /// [`Probe::HOOKS`].
    pub hooks: &'static [Hook],
    /// [`Probe::SOURCE`].
    pub source: Option<&'static str>,
    /// [`Probe::COLUMNS`].
    pub columns: &'static [Column],
    /// [`Probe::provoke`].
    pub provoke: fn() -> std::io::Result<()>,
    /// [`Probe::reasons`].
    pub reasons: fn(&Kernel) -> Vec<String>,
    /// Brings it up.
    pub start: fn(&Context<'_>) -> Result<Started, StartError>,
}

impl Entry {
    /// The entry of a probe.
    #[must_use]
    pub const fn of<P: Probe>() -> Self {
        Self {
            name: P::NAME,
            about: P::ABOUT,
            aside: P::ASIDE,
            hooks: P::HOOKS,
            source: P::SOURCE,
            columns: P::COLUMNS,
            provoke: P::provoke,
            reasons: P::reasons,
            start: start::<P>,
        }
    }
}

/// A probe that is up: attached and counting.
pub struct Started {
    /// Its name.
    pub name: &'static str,
    /// How far up each hook's ladder the kernel let us.
    pub climbs: Vec<Climb>,
    /// Its exact counts.
    pub collector: Box<dyn Collector>,
    /// What each hook's kernel side did so far, in the order of [`Probe::HOOKS`].
    pub tallies: ReadTallies,
    /// What became of its events so far.
    pub account: ReadAccount,
    /// The exact counts in a few lines for a person, largest first.
    pub summary: super::Summary,
    /// Events that were counted only.
    pub limited: ReadLimited,
    /// The user's filters are applied by the user side: of what was counted only it is not known whether they want it.
    pub filters_late: bool,
    /// The attached programs.
    pub attached: Arc<Attached>,
    /// Runs its path.
    pub carry: Carry,
}

/// Reads a probe's account.
pub type ReadAccount = Arc<dyn Fn() -> Account + Send + Sync>;

/// A path, ready to run until drained: to its sink goes what its filter asks for.
pub type Carry = Box<dyn FnOnce(Box<dyn Sink>, Filter, Drain) -> Running + Send>;

/// A running path.
pub type Running = Pin<Box<dyn Future<Output = Ended> + Send>>;

/// Why a probe is not up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kernel refused the object as a whole: no rights, or no BPF.
    #[error("probe {probe}: the kernel refused its maps: {why}")]
    Load {
        /// The probe.
        probe: &'static str,
        /// The kernel's reason.
        why: Box<Why>,
    },
    /// A map is not what the code expects.
    #[error("probe {probe}: {source}")]
    Map {
        /// The probe.
        probe: &'static str,
        /// Which map.
        source: MapError,
    },
    /// The runtime refused the ring's descriptor.
    #[error("probe {probe}: ring: {source}")]
    Ring {
        /// The probe.
        probe: &'static str,
        /// The runtime's reason.
        source: std::io::Error,
    },
    /// Every rung of every hook was refused, or of the one that all events come from.
    #[error("probe {probe}: {}", refusals(.climbs))]
    Refused {
        /// The probe.
        probe: &'static str,
        /// Each hook that was refused, with each rung's refusal.
        climbs: Vec<Climb>,
    },
}

impl StartError {
    /// The refusals of rights that it comes of.
    #[must_use]
    pub fn refused(&self) -> Vec<&Refused> {
        match self {
            Self::Load { why, .. } => why.refused.iter().collect(),
            Self::Refused { climbs, .. } => {
                let refusals = climbs.iter().flat_map(|climb| &climb.refused);
                refusals.filter_map(|Refusal { why, .. }| why.refused.as_ref()).collect()
            }
            Self::Map { .. } | Self::Ring { .. } => Vec::new(),
        }
    }
}

/// Hooks that were refused for the same reason are one part of the line: there may be a dozen.
fn refusals(climbs: &[Climb]) -> String {
    let mut reasons: Vec<(String, Vec<&str>)> = Vec::new();
    for climb in climbs {
        let why = match climb.refused.as_slice() {
            [] => "it has none of that name".to_owned(),
            refused => refused.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        };
        match reasons.iter_mut().find(|(other, _)| *other == why) {
            Some((_, hooks)) => hooks.push(climb.hook.name),
            None => reasons.push((why, vec![climb.hook.name])),
        }
    }
    let of_hooks = |(why, hooks): (String, Vec<&str>)| {
        let hook = if hooks.len() == 1 { "hook" } else { "hooks" };
        format!("no rung of {hook} {} holds: {why}", hooks.join(", "))
    };
    reasons.into_iter().map(of_hooks).collect::<Vec<_>>().join("; ")
}

fn start<P: Probe>(context: &Context<'_>) -> Result<Started, StartError> {
    let probe_name = P::NAME;
    let mut bpf = load::<P>(context)?;
    if context.settings.bpf_log {
        forward_bpf_log(&mut bpf, probe_name);
    }
    let map_error = |source| StartError::Map { probe: probe_name, source };
    let ring = Maps(&mut bpf).take("RECORDS").map_err(map_error)?;
    let ring = Ring::new(ring).map_err(|source| StartError::Ring { probe: probe_name, source })?;
    let mut probe = P::open(context.kernel, &mut Maps(&mut bpf)).map_err(map_error)?;
    (context.register)(probe.slots(&mut Maps(&mut bpf)).map_err(map_error)?);
    let filled = P::FILTERS.then(|| context.settings.filter.fill(&mut Maps(&mut bpf)));
    let _until_loaded = filled.transpose().map_err(map_error)?;

    let only = context.settings.rung.as_deref();
    let ground = Ground { types: context.loader.types(), reads: may_read(context.kernel) };
    let climbs: Vec<Climb> = P::HOOKS.iter().map(|hook| climb(&mut bpf, hook, ground, only)).collect();
    if is_blind(&climbs, P::SOURCE.filter(|_| only.is_none())) {
        let climbs = climbs.into_iter().filter(|climb| climb.holds.is_none()).collect();
        return Err(StartError::Refused { probe: probe_name, climbs });
    }
    probe.listens(&climbs);

    let flow = Arc::new(Flow::default());
    let tallies = probe.tallies_reader();
    let account: ReadAccount = {
        let (flow, tallies) = (Arc::clone(&flow), Arc::clone(&tallies));
        Arc::new(move || flow.account(tallies().into_iter().fold(Tally::default(), Tally::plus)))
    };
    let (summary, limited) = (probe.summary(), probe.limited_reader());
    let collector = probe.collector(Arc::clone(&context.pods));
    let attached = Arc::new(Attached::of(bpf));
    let carry: Carry = {
        let (attached, pods) = (Arc::clone(&attached), Arc::clone(&context.pods));
        Box::new(move |sink, filter, drain| {
            let path = Path { probe, pods, filter, sink, flow, incidents: Incidents::default() };
            Box::pin(path.run(ring, drain, move || attached.detach()))
        })
    };
    let filters_late = context.settings.leaves_filters::<P>();
    Ok(Started {
        name: probe_name,
        climbs,
        collector,
        tallies,
        account,
        summary,
        limited,
        filters_late,
        attached,
        carry,
    })
}

/// Whether nothing is seen: no hook holds, or not the one that all events come from.
fn is_blind(climbs: &[Climb], source: Option<&str>) -> bool {
    let mut needed = climbs.iter().filter(|climb| source.is_none_or(|source| climb.hook.name == source));
    needed.all(|climb| climb.holds.is_none())
}

fn load<P: Probe>(context: &Context<'_>) -> Result<Ebpf, StartError> {
    let mut globals = Globals::default();
    P::globals(context.kernel, &mut globals);
    globals.set("READS", u32::from(may_read(context.kernel)));
    globals.set("HOST_NETNS", context.host_netns.unwrap_or(0));
    let mut settings = context.settings.clone();
    if settings.leaves_filters::<P>() {
        settings.records_per_second = ALL_RECORDS;
        settings.ring_bytes = settings.ring_bytes.max(RING_OF_ALL);
    }
    if P::FILTERS {
        settings.filter.set(&mut globals);
    }
    globals.set("RECORDS_PER_WINDOW", settings.records_per_second.min(ALL_RECORDS));
    globals.set("WINDOW_SHIFT", window_shift(clock::jiffies_a_second()));
    globals.set("COUNT_PASSED", context.settings.count_passed.into());
    context.loader.load(P::object(), globals, &settings).map_err(|error| {
        let refused = errno(&error).and_then(|errno| rights::why(Act::CreateMap, errno, false));
        // Which map came first is chance: hooks that were refused alike are to be told together.
        let text = errno(&error)
            .filter(|_| refused.is_some())
            .map_or_else(|| one_line(&error), |errno| errno.desc().to_owned());
        StartError::Load { probe: P::NAME, why: Box::new(Why { text, refused }) }
    })
}

/// What the kernel answered, if an answer of the kernel is at the bottom of this.
fn errno(error: &(dyn std::error::Error + 'static)) -> Option<Errno> {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let io = causes.filter_map(|cause| cause.downcast_ref::<std::io::Error>()).last();
    io?.raw_os_error().map(Errno::from_raw)
}

/// The power of two of jiffies that is nearest to a second: 1.02 s at 250 or 1,000 Hz, 0.85 s at 300, 1.28 s at 100.
const fn window_shift(jiffies_a_second: u32) -> u32 {
    let below = jiffies_a_second.ilog2();
    // Nearer to the next one by ratio, as powers are.
    below + (jiffies_a_second as u64 * jiffies_a_second as u64 > 2 << (2 * below)) as u32
}

/// An error and its causes in one line.
pub(super) fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text.replace('\n', " ")
}

/// Reads the programs' own diagnostics into the agent's log for as long as the object lives.
fn forward_bpf_log(bpf: &mut Ebpf, probe: &'static str) {
    let logger = match EbpfLogger::init(bpf) {
        Ok(logger) => logger,
        Err(error) => {
            tracing::warn!(probe, "no BPF log: {error}");
            return;
        }
    };
    // SAFETY: the logger owns its ring's descriptor and is never replaced in the `AsyncFd`.
    let Ok(mut logger) = (unsafe { AsyncFd::register(logger) }) else { return };
    tokio::spawn(async move {
        while let Ok(mut guard) = logger.readable_mut().await {
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::{Climb, is_blind, window_shift};
    use crate::probe::{Hook, Rung};

    const RUNG: Rung = Rung { name: "fentry", loses: "", attach: &[] };
    const SOURCE: Hook = Hook { name: "source", tells: "", module: None, provoked: false, ladder: &[RUNG] };
    const MORE: Hook = Hook { name: "more", ..SOURCE };

    #[test]
    fn a_probe_without_the_hook_that_its_events_come_from_is_blind() {
        let climb = |hook, holds: bool| Climb { hook, holds: holds.then_some(&RUNG), refused: Vec::new() };
        for (source, more, blind) in
            [(false, false, [true, true]), (false, true, [true, false]), (true, false, [false, false])]
        {
            let climbs = [climb(&SOURCE, source), climb(&MORE, more)];
            let of = [Some(SOURCE.name), None].map(|source| is_blind(&climbs, source));
            assert_eq!(of, blind, "{source} {more}");
        }
    }

    #[test]
    fn a_window_is_about_a_second() {
        for (hertz, shift) in [(1, 0), (100, 7), (250, 8), (300, 8), (1000, 10), (1024, 10)] {
            assert_eq!(window_shift(hertz), shift, "{hertz} Hz");
        }
    }
}
