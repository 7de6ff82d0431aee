//! What decoding and attaching must know of the running kernel: types, symbols, clock, and what it allows.
//!
//! Nothing here fails for want of a part: [`Kernel::load`] notes what is missing and why, and answers `None` for it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use self::btf::Btf;
use self::clock::Clock;
use self::kallsyms::Kallsyms;
use self::limits::Limits;
use self::sockets::Sockets;
use self::tracefs::{Format, Tracefs};

pub mod btf;
pub mod clock;
pub mod kallsyms;
pub mod limits;
pub mod namespaces;
pub mod reasons;
pub mod sockets;
#[cfg(test)]
mod tests;
pub mod tracefs;

/// Where the kernel's files are: tests have them elsewhere.
#[derive(Clone, Debug)]
pub struct Roots {
    /// `/proc`
    pub proc: PathBuf,
    /// The `/proc` that shows the host's processes: in a container that is another than its own.
    pub processes: PathBuf,
    /// `/sys`
    pub sys: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self::under(Path::new("/"))
    }
}

impl Roots {
    /// `proc` and `sys` below `root`.
    #[must_use]
    pub fn under(root: &Path) -> Self {
        Self { proc: root.join("proc"), processes: root.join("proc"), sys: root.join("sys") }
    }
}

/// What the agent would like to know of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Types: without them no offset is known, and nothing attaches by BTF.
    Btf,
    /// Names of text addresses: without them a drop has no place.
    Symbols,
    /// Tracepoint formats: only kernels without BTF are asked for them.
    Tracefs,
    /// The kernel's release.
    Release,
    /// How many CPUs there may ever be.
    Cpus,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Btf => "kernel types (BTF)",
            Self::Symbols => "kernel symbols",
            Self::Tracefs => "tracepoint formats (tracefs)",
            Self::Release => "kernel release",
            Self::Cpus => "possible CPUs",
        })
    }
}

/// A part that could not be had: one line for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What.
    pub part: Part,
    /// Why, naming the file or the right that would help.
    pub why: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no {}: {}", self.part, self.why)
    }
}

/// How far the kernel locks out even root (`lockdown(7)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lockdown {
    /// Not at all.
    None,
    /// No change to the running kernel; tracing is not affected.
    Integrity,
    /// No reading of kernel memory: BPF programs with `bpf_probe_read*` are refused at load, kprobes at attach.
    Confidentiality,
    /// securityfs is not mounted here, or says something new.
    Unknown,
}

/// The kernel the agent runs on, as `uname -rm` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// For people and labels only: nothing is chosen by it. `None` if `/proc` does not say.
    pub version: Option<String>,
    /// `x86_64`, `aarch64`.
    pub arch: &'static str,
}

impl Release {
    fn is_at_least(&self, major: u32, minor: u32) -> bool {
        let mut numbers = self.version.as_deref().unwrap_or_default().split(|c: char| !c.is_ascii_digit());
        let mut number = || numbers.next()?.parse::<u32>().ok();
        number().zip(number()).is_some_and(|release| release >= (major, minor))
    }
}

/// What is known of the running kernel. Shared by all probes.
#[derive(Debug)]
pub struct Kernel {
    roots: Roots,
    btf: Option<Btf>,
    symbols: Kallsyms,
    tracefs: Option<Tracefs>,
    clock: Clock,
    release: Release,
    possible_cpus: Option<usize>,
    missing: Vec<Missing>,
}

impl Kernel {
    /// Reads all that attaching needs of the running kernel.
    #[must_use]
    pub fn load() -> Self {
        Self::load_from(Roots::default())
    }

    /// As [`Kernel::load`], of the kernel whose files are in `roots`.
    #[must_use]
    pub fn load_from(roots: Roots) -> Self {
        let mut missing = Missings::default();
        let btf = missing.note(Part::Btf, Btf::from_dir(&roots.sys.join("kernel/btf")));
        let symbols = Kallsyms::below(&roots.proc);
        missing.note(Part::Symbols, symbols.check());
        let tracefs = Tracefs::find(&roots.sys).ok_or("not mounted, or this process may not see it");
        let release = line(&roots.proc.join("sys/kernel/osrelease"));
        let cpus = line(&roots.sys.join("devices/system/cpu/possible"));
        let cpus =
            cpus.and_then(|list| count_cpus(&list).ok_or_else(|| format!("{list:?} is not a list of CPUs")));
        Self {
            btf,
            symbols,
            tracefs: missing.note(Part::Tracefs, tracefs),
            clock: Clock::new(),
            release: Release { version: missing.note(Part::Release, release), arch: std::env::consts::ARCH },
            possible_cpus: missing.note(Part::Cpus, cpus),
            missing: missing.0,
            roots,
        }
    }

    /// What could not be had when the kernel was loaded, and why.
    #[must_use]
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }

    /// The kernel's types; `None` if it has none, or after [`Kernel::drop_btf`].
    #[must_use]
    pub fn btf(&self) -> Option<&Btf> {
        self.btf.as_ref()
    }

    /// Gives the types' memory back (6 MB or so). Call when all is attached and all names are looked up.
    pub fn drop_btf(&mut self) {
        self.btf = None;
    }

    /// Offset of a field in bytes, from the kernel's types; `None` if there is no such field or there are no types.
    #[must_use]
    pub fn offset(&self, strukt: &str, path: &str) -> Option<u32> {
        self.btf()?.offset(strukt, path)
    }

    /// As [`Kernel::offset`], of a field in a module's type: of a module that is loaded, or built in.
    #[must_use]
    pub fn module_offset(&self, module: &str, strukt: &str, path: &str) -> Option<u32> {
        let btf = self.btf()?;
        match btf.module(module) {
            Ok(of_module) => of_module.offset(strukt, path),
            Err(_) => btf.offset(strukt, path),
        }
    }

    /// Offset and size in bits of a field, bitfields included; `None` as for [`Kernel::offset`].
    #[must_use]
    pub fn bits(&self, strukt: &str, path: &str) -> Option<btf::Bits> {
        self.btf()?.bits(strukt, path)
    }

    /// Size of a type in bytes, from the kernel's types.
    #[must_use]
    pub fn size_of(&self, name: &str) -> Option<u32> {
        self.btf()?.size_of(name)
    }

    /// Values and names of an enum, from the kernel's types or those of a module that is loaded; empty if unknown.
    #[must_use]
    pub fn enum_values(&self, name: &str, module: Option<&str>) -> Vec<(u64, String)> {
        let Some(btf) = self.btf() else { return Vec::new() };
        let values = match module {
            Some(module) => btf.module(module).ok().and_then(|btf| btf.enum_values(name)),
            None => btf.enum_values(name),
        };
        values.unwrap_or_default()
    }

    /// The argument types of a tracepoint, from the kernel's types; empty if unknown.
    #[must_use]
    pub fn tracepoint_args(&self, name: &str) -> Vec<String> {
        self.btf().and_then(|btf| btf.tracepoint_args(name)).unwrap_or_default()
    }

    /// The format of a classic tracepoint, if tracefs can be read.
    #[must_use]
    pub fn tracepoint_format(&self, category: &str, name: &str) -> Option<Format> {
        self.tracefs()?.format(category, name).ok()
    }

    /// The symbols: read when they are first asked for.
    #[must_use]
    pub fn symbols(&self) -> &Kallsyms {
        &self.symbols
    }

    /// How full its tables are, and what its rules and devices refuse.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits::below(&self.roots.proc, &self.roots.processes)
    }

    /// Sockets that wait for an answer, in any network namespace with a process that this one sees.
    #[must_use]
    pub fn sockets(&self) -> Sockets {
        Sockets::below(&self.roots.processes)
    }

    /// Tracepoint formats.
    #[must_use]
    pub fn tracefs(&self) -> Option<&Tracefs> {
        self.tracefs.as_ref()
    }

    /// Wall-clock times of events.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Release and architecture.
    #[must_use]
    pub fn release(&self) -> &Release {
        &self.release
    }

    /// How many CPUs there may ever be: the values of a per-CPU map's entry.
    #[must_use]
    pub fn possible_cpus(&self) -> Option<usize> {
        self.possible_cpus
    }

    /// How far the kernel is locked down, as of now: it can be tightened while it runs.
    #[must_use]
    pub fn lockdown(&self) -> Lockdown {
        let security = self.roots.sys.join("kernel/security");
        match line(&security.join("lockdown")) {
            Ok(modes) => selected_mode(&modes),
            // securityfs is there but has no such file: the kernel was built without lockdown.
            Err(_) if fs::read_dir(&security).is_ok_and(|mut entries| entries.next().is_some()) => {
                Lockdown::None
            }
            Err(_) => Lockdown::Unknown,
        }
    }

    /// Whether the kernel counts what programs at breakpoints and at classic tracepoints miss: those do (6.7 and later) that have
    /// a field for the same of a breakpoint's link.
    #[must_use]
    pub fn counts_misses(&self) -> bool {
        match &self.btf {
            Some(btf) => btf.offset("bpf_link_info", "kprobe_multi.missed").is_some(),
            None => self.release.is_at_least(6, 7),
        }
    }

    /// Whether this module is there: loaded, or built in.
    #[must_use]
    pub fn has_module(&self, name: &str) -> bool {
        self.roots.sys.join("module").join(name).exists()
    }

    /// Whether the kernel was built with kprobes that `perf_event_open` can make.
    #[must_use]
    pub fn has_kprobes(&self) -> bool {
        self.roots.sys.join("bus/event_source/devices/kprobe/type").exists()
    }
}

#[derive(Default)]
struct Missings(Vec<Missing>);

impl Missings {
    /// Keeps the reason of a failure, passes on the rest.
    fn note<T, E: fmt::Display>(&mut self, part: Part, result: Result<T, E>) -> Option<T> {
        result.map_err(|why| self.0.push(Missing { part, why: why.to_string() })).ok()
    }
}

/// Hands the heap's free pages back to the machine, once start-up's large tables are gone.
///
/// aya's copy of the kernel's types leaves 1.5 MB or more of freed pieces behind that glibc would keep for good; other
/// C libraries give theirs back unasked.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer and may be called at any time from any thread; it moves nothing that is in use.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// A file of one line, without its end.
fn line(file: &Path) -> Result<String, String> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(text.trim_end().to_owned()),
        Err(why) => Err(format!("{}: {why}", file.display())),
    }
}

/// Counts a list such as `0-3,8-11,16`.
fn count_cpus(ranges: &str) -> Option<usize> {
    ranges.split(',').try_fold(0_usize, |count, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        count.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

/// The mode in brackets: `none [integrity] confidentiality`.
fn selected_mode(modes: &str) -> Lockdown {
    match modes.split_ascii_whitespace().find(|mode| mode.starts_with('[')) {
        Some("[none]") => Lockdown::None,
        Some("[integrity]") => Lockdown::Integrity,
        Some("[confidentiality]") => Lockdown::Confidentiality,
        _ => Lockdown::Unknown,
    }
}
