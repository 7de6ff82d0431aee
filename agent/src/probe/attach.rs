//! Climbs a hook's ladder: tries each rung and keeps the kernel's reason for each one it refused.

use std::fmt;

use aya::maps::Map;
use aya::programs::perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent};
use aya::programs::{
    BtfTracePoint, FEntry, FExit, KProbe, PerfEvent, ProgramError, ProgramType, RawTracePoint, TracePoint,
};
use aya::sys::{BpfHelper, is_helper_supported};
use aya::util::online_cpus;
use aya::{Btf, Ebpf};
use nix::errno::Errno;

use super::{Attach, Hook, Misses, Rung, Target};
use crate::kernel::{Kernel, Lockdown};
use crate::rights::{self, Act, Refused};

/// How far up a hook's ladder the running kernel let us.
#[derive(Clone, Debug)]
pub struct Climb {
    /// The hook.
    pub hook: &'static Hook,
    /// The rung that holds; `None` if every one was refused.
    pub holds: Option<&'static Rung>,
    /// The rungs tried before it and why each was refused.
    pub refused: Vec<Refusal>,
}

impl Climb {
    /// Each refused rung and why, then what cures that; empty if none was refused.
    #[must_use]
    pub fn why(&self) -> String {
        let refused = self.refused.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let cures = rights::cures(self.refused.iter().filter_map(|refusal| refusal.why.refused.as_ref()));
        cures.map_or(refused.clone(), |cures| format!("{refused}; {cures}"))
    }

    /// Whether nothing tells what the hook would. What is in a module that is not loaded does nothing that would have to be
    /// seen.
    #[must_use]
    pub fn is_lost(&self, kernel: &Kernel) -> bool {
        self.holds.is_none() && self.hook.module.is_none_or(|module| kernel.has_module(module))
    }
}

/// Hooks that do not hold, so that what they would tell is seen by no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// So many do not,
    pub hooks: usize,
    /// of so many that there are.
    pub of: usize,
    /// So many of them the kernel refused: the others have no rung of the name that was asked for.
    pub refused: usize,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match (self.refused, self.hooks) {
            (0, 1) => "is left out (--rung)",
            (0, _) => "are left out (--rung)",
            (1, 1) => "was refused",
            (refused, hooks) if refused == hooks => "were refused",
            _ => "were refused or left out (--rung)",
        };
        write!(f, "{} of {} hooks {why}", self.hooks, self.of)
    }
}

impl Lost {
    /// Those of a probe all of whose events come from one hook, `source`, lose no event: without that one it is not up.
    #[must_use]
    pub fn of(climbs: &[Climb], source: Option<&str>, kernel: &Kernel) -> Option<Self> {
        let lost = || climbs.iter().filter(|climb| climb.is_lost(kernel));
        let (hooks, refused) = (lost().count(), lost().filter(|climb| !climb.refused.is_empty()).count());
        let there = climbs.iter().filter(|climb| climb.holds.is_some()).count();
        (hooks > 0 && source.is_none()).then_some(Self { hooks, of: there + hooks, refused })
    }
}

/// What of these hooks may miss events that this kernel does not count; `counts` is whether it does.
#[must_use]
pub fn uncounted(climbs: &[Climb], counts: bool) -> Option<&'static str> {
    let misses = |what| climbs.iter().any(|climb| climb.holds.and_then(Rung::misses) == Some(what));
    match (misses(Misses::Kprobes), misses(Misses::Tracepoints)) {
        _ if counts => None,
        (true, true) => Some("this kernel does not count what its kprobes and tracepoints miss"),
        (true, false) => Some("this kernel does not count what its kprobes miss"),
        (false, true) => Some("this kernel does not count what its tracepoints miss"),
        (false, false) => None,
    }
}

/// A rung the kernel refused.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The rung.
    pub rung: &'static Rung,
    /// Why.
    pub why: Why,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rung.name, self.why)
    }
}

/// Why something could not be attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// The kernel's reason, in one line.
    pub text: String,
    /// Where the kernel refused it for lack of a right: what refused, and what cures it.
    pub refused: Option<Refused>,
}

impl From<&str> for Why {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), refused: None }
    }
}

/// Without the cure, which is one for many.
impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        self.refused.iter().try_for_each(|refused| write!(f, ": {}", refused.why))
    }
}

/// Whether programs may read kernel memory by helper: lockdown's confidentiality forbids it. Asked of the verifier, since
/// many a container has no securityfs; where even that may not be asked, the answer is yes, and loading will say more.
#[must_use]
pub fn may_read(kernel: &Kernel) -> bool {
    kernel.lockdown() != Lockdown::Confidentiality
        && is_helper_supported(ProgramType::RawTracePoint, BpfHelper::BPF_FUNC_probe_read_kernel)
            .unwrap_or(true)
}

/// What attaching needs to know of the kernel.
#[derive(Clone, Copy)]
pub struct Ground<'a> {
    /// Its types.
    pub types: Option<&'a Btf>,
    /// [`may_read`].
    pub reads: bool,
}

/// Climbs one hook. `only` names the single rung to try (tests climb each alone).
pub fn climb(bpf: &mut Ebpf, hook: &'static Hook, ground: Ground<'_>, only: Option<&str>) -> Climb {
    let mut refused = Vec::new();
    for rung in hook.ladder.iter().filter(|rung| only.is_none_or(|only| only == rung.name)) {
        match hold(bpf, rung, ground) {
            Ok(()) => return Climb { hook, holds: Some(rung), refused },
            Err(why) => refused.push(Refusal { rung, why }),
        }
    }
    Climb { hook, holds: None, refused }
}

/// Attaches all of a rung, or none of it.
fn hold(bpf: &mut Ebpf, rung: &Rung, ground: Ground<'_>) -> Result<(), Why> {
    for (done, attach) in rung.attach.iter().enumerate() {
        if let Err(why) = attach_one(bpf, attach, ground) {
            // What is left attached would count twice beside a lower rung, and what is left loaded could not be tried again
            // on one.
            for attached in &rung.attach[..=done] {
                detach_one(bpf, attached);
            }
            return Err(why);
        }
    }
    Ok(())
}

const NO_BTF: &str = "the kernel has no BTF (/sys/kernel/btf/vmlinux)";
const NO_ARGUMENTS: &str = "what its arguments are is not known without the kernel's BTF";

const CLOCK: PerfEventConfig = PerfEventConfig::Software(SoftwareEvent::CpuClock);
/// Of a second, in nanoseconds.
const TENTH: SamplePolicy = SamplePolicy::Period(100_000_000);

fn attach_one(bpf: &mut Ebpf, attach: &Attach, ground: Ground<'_>) -> Result<(), Why> {
    let btf = ground.types;
    let program = bpf.program_mut(attach.program);
    let program = program.ok_or_else(|| Why::from(format!("no program {}", attach.program).as_str()))?;
    let attached = match attach.target {
        Target::Fentry(function) => {
            let btf = btf.ok_or(NO_BTF)?;
            <&mut FEntry>::try_from(program).and_then(|program| {
                program.load(function, btf)?;
                program.attach().map(drop)
            })
        }
        Target::Fexit(function) => {
            let btf = btf.ok_or(NO_BTF)?;
            <&mut FExit>::try_from(program).and_then(|program| {
                program.load(function, btf)?;
                program.attach().map(drop)
            })
        }
        // The object says of its programs which of the two each is.
        Target::Kprobe(function) | Target::Kretprobe(function) => {
            // As below: the function's prototype says what is where.
            btf.ok_or(NO_ARGUMENTS)?;
            <&mut KProbe>::try_from(program).and_then(|program| {
                program.load()?;
                program.attach(function, 0).map(drop)
            })
        }
        Target::BtfTracepoint(name) => {
            let btf = btf.ok_or(NO_BTF)?;
            <&mut BtfTracePoint>::try_from(program).and_then(|program| {
                program.load(name, btf)?;
                program.attach().map(drop)
            })
        }
        Target::RawTracepoint(name) => {
            // It would attach, and know neither how many arguments there are nor what is where in them.
            btf.ok_or(NO_ARGUMENTS)?;
            <&mut RawTracePoint>::try_from(program).and_then(|program| {
                program.load()?;
                program.attach(name).map(drop)
            })
        }
        Target::Tracepoint { category, name } => <&mut TracePoint>::try_from(program).and_then(|program| {
            program.load()?;
            program.attach(category, name).map(drop)
        }),
        Target::Clock => <&mut PerfEvent>::try_from(program).and_then(|program| {
            program.load()?;
            let cpu = online_cpus().ok().and_then(|cpus| cpus.first().copied()).unwrap_or_default();
            program.attach(CLOCK, PerfEventScope::AllProcessesOneCpu { cpu }, TENTH, false).map(drop)
        }),
    };
    attached.map_err(|error| why(&error, !ground.reads))
}

fn detach_one(bpf: &mut Ebpf, attach: &Attach) {
    let Some(program) = bpf.program_mut(attach.program) else { return };
    // It was tried a moment ago: there is nothing that could be done about a refusal now.
    let _ = match attach.target {
        Target::Fentry(_) => <&mut FEntry>::try_from(program).and_then(FEntry::unload),
        Target::Fexit(_) => <&mut FExit>::try_from(program).and_then(FExit::unload),
        Target::Kprobe(_) | Target::Kretprobe(_) => <&mut KProbe>::try_from(program).and_then(KProbe::unload),
        Target::BtfTracepoint(_) => <&mut BtfTracePoint>::try_from(program).and_then(BtfTracePoint::unload),
        Target::RawTracepoint(_) => <&mut RawTracePoint>::try_from(program).and_then(RawTracePoint::unload),
        Target::Tracepoint { .. } => <&mut TracePoint>::try_from(program).and_then(TracePoint::unload),
        Target::Clock => <&mut PerfEvent>::try_from(program).and_then(PerfEvent::unload),
    };
}

/// The kernel's reason in one line: of a verifier's log its last words, which say what it refused. `lockdown`: programs may
/// not read kernel memory here.
fn why(error: &ProgramError, lockdown: bool) -> Why {
    // The verifier ends every log with these, whatever it refused before.
    const STATISTICS: [&str; 3] = ["processed ", "verification time", "stack depth"];
    /// `include/linux/errno.h`; the C library has no words for it. What attaches by a trampoline gets it where none can be
    /// made (arm64 before 6.4).
    const ENOTSUPP: i32 = 524;
    let mut refused = None;
    let mut refusal = |act, error: &std::io::Error| {
        let errno = error.raw_os_error().map(Errno::from_raw);
        refused = errno.and_then(|errno| rights::why(act, errno, lockdown));
        errno.map_or_else(|| error.to_string(), |errno| errno.desc().to_owned())
    };
    let text = match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let verdict = log.lines().map(str::trim).rfind(|line| {
                !line.is_empty() && !STATISTICS.iter().any(|statistic| line.starts_with(statistic))
            });
            let why = refusal(Act::Bpf, io_error);
            // What the verifier found is not about rights.
            if verdict.is_some() {
                refused = None;
            }
            let verdict = verdict.map(|line| format!(" ({line})")).unwrap_or_default();
            format!("not loaded: {why}{verdict}")
        }
        ProgramError::SyscallError(error) if error.io_error.raw_os_error() == Some(ENOTSUPP) => {
            format!("{} failed: not supported by this kernel (ENOTSUPP)", error.call)
        }
        ProgramError::SyscallError(error) => {
            // Of aya's names for its calls: perf_event_open and perf_event_open_trace_point, else bpf_*.
            let act = if error.call.starts_with("perf_event") { Act::PerfEvent } else { Act::Bpf };
            format!("{} failed: {}", error.call, refusal(act, &error.io_error))
        }
        other => no_kprobes(other).unwrap_or_else(|| super::start::one_line(other)),
    };
    let text = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    Why { text, refused }
}

/// The loader asks for the number of the kernel's source of breakpoints; where there is none it names a file alone.
fn no_kprobes(error: &ProgramError) -> Option<String> {
    let text = super::start::one_line(error);
    text.contains("devices/kprobe").then(|| "this kernel has no kprobes".to_owned())
}

/// The maps of a loaded object, to be taken out: they outlive its programs, so what was counted can be read after
/// everything is detached.
pub struct Maps<'a>(pub &'a mut Ebpf);

/// A map that the object does not have as the code expects it: a broken build.
#[derive(Debug, thiserror::Error)]
#[error("BPF map {name}: {why}")]
pub struct MapError {
    name: &'static str,
    why: String,
}

impl MapError {
    /// The kernel refuses an entry of the map called `name`.
    pub(super) fn refused(name: &'static str, error: &aya::maps::MapError) -> Self {
        Self { name, why: error.to_string() }
    }
}

impl Maps<'_> {
    /// Takes the map called `name`.
    ///
    /// # Errors
    /// It is missing or of another type.
    pub fn take<T>(&mut self, name: &'static str) -> Result<T, MapError>
    where
        T: TryFrom<Map>,
        <T as TryFrom<Map>>::Error: fmt::Display,
    {
        let map = self.0.take_map(name).ok_or(MapError { name, why: "not in the object".to_owned() })?;
        T::try_from(map).map_err(|error| MapError { name, why: error.to_string() })
    }
}
