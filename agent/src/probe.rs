//! The vocabulary of probes: a probe asks one question of the kernel through hooks, each with a ladder of rungs.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus_client::collector::Collector;

use crate::kernel::Kernel;
use crate::pod::{FindPod, Pod, PodSlots, Subject};
use crate::sink::Says;

/// What a probe's event says of itself. The words are the sinks'; probes have them from here and know no sink.
pub use crate::incident::{Absorb, PATIENCE, SOON, Span, State, TraceId};
/// As above.
pub use crate::sink::{Cell, Column, Confidence, Field, Level, Value, time_of_day};

pub mod attach;
pub mod attached;
pub mod counts;
pub mod filter;
pub mod flow;
pub mod globals;
pub mod knock;
pub mod ladder;
pub mod loader;
pub mod pipeline;
pub mod report;
pub mod ring;
pub mod row;
pub mod slots;
pub mod start;

/// A place in the kernel where a probe listens, and the ways to get there: most information first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The kernel's own name of the place.
    pub name: &'static str,
    /// What it tells, in a few words.
    pub tells: &'static str,
    /// The module it is in, of those that are not always there; `None` if it is the kernel's own.
    pub module: Option<&'static str>,
    /// Whether [`Probe::provoke`] makes it fire.
    pub provoked: bool,
    /// Rungs in the order they are tried. One holds, the rest are never loaded.
    pub ladder: &'static [Rung],
}

/// One way to a hook: attachments that stand or fall together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rung {
    /// The kind of attachment, as operators know it: `tp_btf`, `raw_tp`, `tracepoint`, `fentry`, `kprobe`.
    pub name: &'static str,
    /// What is lost on this rung against the one above; empty on the first.
    pub loses: &'static str,
    /// Its programs.
    pub attach: &'static [Attach],
}

impl Rung {
    /// Whether the arguments of all its programs have types: these may be read where memory may not (lockdown).
    #[must_use]
    pub fn is_typed(&self) -> bool {
        self.attach.iter().all(|attach| {
            matches!(attach.target, Target::BtfTracepoint(_) | Target::Fentry(_) | Target::Fexit(_))
        })
    }

    /// What of it may miss events, which not every kernel counts.
    #[must_use]
    pub fn misses(&self) -> Option<Misses> {
        self.attach.iter().find_map(|attach| match attach.target {
            Target::Kprobe(_) | Target::Kretprobe(_) => Some(Misses::Kprobes),
            Target::Tracepoint { .. } => Some(Misses::Tracepoints),
            _ => None,
        })
    }

    /// What it tells less than the rung above, on a kernel that counts such misses, or does not.
    #[must_use]
    pub fn loss(&self, counts: bool) -> String {
        let misses = self.misses().map(|_| {
            if counts { "may miss some" } else { "may miss some, which this kernel does not count" }
        });
        let losses = [Some(self.loses).filter(|loses| !loses.is_empty()), misses];
        losses.into_iter().flatten().collect::<Vec<_>>().join("; ")
    }
}

/// What is not run for an event that comes while a program runs on that CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misses {
    /// Breakpoints.
    Kprobes,
    /// Classic tracepoints.
    Tracepoints,
}

/// One program of the probe's object and what it attaches to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attach {
    /// The program's name in the object.
    pub program: &'static str,
    /// What it attaches to.
    pub target: Target,
}

/// What a program attaches to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A tracepoint with BTF-typed arguments; needs vmlinux BTF and no trampoline.
    BtfTracepoint(&'static str),
    /// A tracepoint's bare arguments.
    RawTracepoint(&'static str),
    /// A function's entry with BTF-typed arguments; needs BPF trampolines, and the function in vmlinux BTF.
    Fentry(&'static str),
    /// A function's return with BTF-typed arguments; needs what [`Target::Fentry`] needs.
    Fexit(&'static str),
    /// A breakpoint on a function's entry, arguments in registers; needs kprobes and `perf_event_open`.
    Kprobe(&'static str),
    /// A breakpoint where a function returns to; only what it returns is known there.
    Kretprobe(&'static str),
    /// Ten times a second on one CPU (`PERF_COUNT_SW_CPU_CLOCK`); needs `perf_event_open`.
    Clock,
    /// The classic tracepoint with its formatted fields; needs tracefs and `perf_event_open`.
    Tracepoint {
        /// Its subsystem.
        category: &'static str,
        /// Its name.
        name: &'static str,
    },
}

/// What both ends of an event have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ends<T> {
    /// The end the packet came from.
    pub source: T,
    /// The end it was going to.
    pub destination: T,
}

/// The pods at both ends, as far as they are known.
pub type Pods = Ends<Option<Arc<Pod>>>;

/// An event that has its names and its place in an incident.
#[derive(Debug)]
pub struct Enriched<'a, E> {
    /// What happened.
    pub event: &'a E,
    /// To whom.
    pub pods: &'a Pods,
    /// In which incident.
    pub span: Span,
}

/// What one record means. Decoded once; it travels the path unchanged.
pub trait Event: Send {
    /// What makes two events one incident.
    type Cause: Eq + std::hash::Hash + Clone + Send;
    /// What the events of one incident add up to; `()` where each event is told for itself.
    type Evidence: Evidence<Self>;

    /// When the kernel saw it.
    fn at(&self) -> SystemTime;
    /// How much it matters.
    fn level(&self) -> Level;
    /// Whom to ask for at each end: the first subject that is somebody's wins.
    fn subjects(&self) -> Ends<[Option<Subject>; 2]>;
    /// What makes it the same incident as another event.
    fn cause(&self, pods: &Pods) -> Self::Cause;
    /// Where it happened, if all events there that have another cause are one incident with it; `None` if not.
    fn place(&self, _: &Pods) -> Option<Self::Cause> {
        None
    }
    /// Whether it may be of a conversation with other addresses and ports than its own: one that is translated on the way.
    fn may_be_translated(&self) -> bool {
        false
    }
    /// The pod the line is about: the one that is hurt.
    fn about<'a>(&self, pods: &'a Pods) -> Option<&'a Pod>;
    /// Appends one sentence for a person.
    fn message(&self, pods: &Pods, text: &mut String);
    /// Its fields, in a fixed order.
    fn fields<'a>(&'a self, pods: &'a Pods, fields: &mut Vec<Field<'a>>);
    /// Its table row, one cell for each of the probe's [`Probe::COLUMNS`].
    fn cells<'a>(&'a self, pods: &'a Pods, cells: &mut Vec<Cell<'a>>);
}

impl<E: Event> Says for Enriched<'_, E> {
    fn message(&self, text: &mut String) {
        self.event.message(self.pods, text);
    }

    fn fields<'a>(&'a self, fields: &mut Vec<Field<'a>>) {
        self.event.fields(self.pods, fields);
    }

    fn cells<'a>(&'a self, cells: &mut Vec<Cell<'a>>) {
        self.event.cells(self.pods, cells);
    }
}

/// What the events of one incident add up to.
pub trait Evidence<E: ?Sized>: Default + Absorb + Send {
    /// Whether an incident is told by its first event, one more every so often, and a verdict. Else every event is a line.
    const SUMS_UP: bool;

    /// Takes one more event in. If it says something that the incident's lines have not said so far it is a line, and this is
    /// how soon its verdict is to follow.
    fn add(&mut self, event: &E, pods: &Pods) -> Option<Duration>;
    /// What it all means. `None` if there is nothing to be said beyond the events.
    fn verdict(&self) -> Option<Verdict<'_>>;
}

impl<E: ?Sized> Evidence<E> for () {
    const SUMS_UP: bool = false;

    fn add(&mut self, _: &E, _: &Pods) -> Option<Duration> {
        None
    }

    fn verdict(&self) -> Option<Verdict<'_>> {
        None
    }
}

/// What is wrong, with whom, in which numbers, and what to set.
#[derive(Debug)]
pub struct Verdict<'a> {
    /// When the last event of the incident was seen.
    pub at: SystemTime,
    /// How much it matters.
    pub level: Level,
    /// The pod that is hurt.
    pub pod: Option<&'a Pod>,
    /// In words.
    pub message: String,
    /// In fields, in a fixed order.
    pub fields: Vec<Field<'a>>,
}

impl Says for Verdict<'_> {
    fn message(&self, text: &mut String) {
        text.push_str(&self.message);
    }

    fn fields<'a>(&'a self, fields: &mut Vec<Field<'a>>) {
        fields.extend_from_slice(&self.fields);
    }

    /// None: a table has it in words.
    fn cells<'a>(&'a self, _: &mut Vec<Cell<'a>>) {}
}

/// Makes a few lines of a probe's exact counts, largest first.
pub type Summary = Box<dyn Fn() -> Vec<String> + Send>;

/// Why a record is not an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It is of another length than this probe's.
    #[error("a record of {got} bytes where {want} were expected")]
    Length {
        /// Bytes in the record.
        got: usize,
        /// Bytes a record of this probe has.
        want: usize,
    },
    /// It says something that this version has no word for.
    #[error("a record whose {what} is {number}, which this version does not know")]
    Unknown {
        /// What it says it of.
        what: &'static str,
        /// What it says.
        number: u8,
    },
}

/// One question asked of the kernel.
pub trait Probe: Sized + Send + 'static {
    /// What its records mean.
    type Event: Event;

    /// Its name on the command line, in metrics and in logs.
    const NAME: &'static str;
    /// The question, in one line.
    const ABOUT: &'static str;
    /// Where it listens.
    const HOOKS: &'static [Hook];
    /// The columns of its table.
    const COLUMNS: &'static [Column];
    /// What an event below [`Level::Warn`] is, in a summary for a person.
    const ASIDE: &'static str = "benign";
    /// Whether its kernel side applies the user's filter on packets.
    const FILTERS: bool = false;
    /// The hook that all events come from, if the others only tell more of them: without it nothing is seen.
    const SOURCE: Option<&'static str> = None;

    /// Its BPF object.
    fn object() -> &'static [u8];
    /// The constants its programs need of the running kernel.
    fn globals(kernel: &Kernel, globals: &mut globals::Globals);
    /// Takes its maps out of the loaded object.
    ///
    /// # Errors
    /// A map is missing or of another type than the code expects: a broken build.
    fn open(kernel: &Kernel, maps: &mut attach::Maps<'_>) -> Result<Self, attach::MapError>;
    /// Learns which of its hooks hold: how sure it is may depend on those that do not.
    fn listens(&mut self, _climbs: &[attach::Climb]) {}
    /// Its slot maps, for the pod index to fill.
    ///
    /// # Errors
    /// As [`Probe::open`].
    fn slots(&self, maps: &mut attach::Maps<'_>) -> Result<Box<dyn PodSlots>, attach::MapError>;
    /// Its exact counts as metrics, read at each scrape; `pods` names their slots.
    fn collector(&self, pods: Arc<dyn FindPod>) -> Box<dyn Collector>;
    /// Sums the exact counts up for a person.
    fn summary(&self) -> Summary;
    /// Reads which events were counted only, since their budget of records was used up.
    fn limited_reader(&self) -> counts::ReadLimited;
    /// The values `--reason` can match on this kernel; empty if any may.
    fn reasons(kernel: &Kernel) -> Vec<String>;
    /// Reads what its kernel side did with the events so far.
    fn tallies_reader(&self) -> flow::ReadTallies;
    /// The event in a record.
    ///
    /// # Errors
    /// The record is not one of this probe's.
    fn decode(&mut self, record: &[u8]) -> Result<Self::Event, DecodeError>;
    /// Makes hooks of this probe fire once, harmlessly and on this host's own loopback: what is attached and stays silent
    /// then will stay silent when it matters. Those with [`Hook::provoked`] are expected to.
    ///
    /// # Errors
    /// It could not be done here (loopback is down); nothing is known of the hooks then.
    fn provoke() -> std::io::Result<()>;
    /// Notes what metrics want of an event (exemplars); never counts what a map already counts.
    fn observe(&mut self, enriched: &Enriched<'_, Self::Event>);
}

#[cfg(test)]
mod tests;
