//! Why the kernel refused something, and what cures it: the one place that tells refusals apart and words their remedies.
//!
//! A remedy is in the terms of whoever can apply it: a field of the manifest where the agent runs in a pod, a command
//! where a person started it.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::errno::Errno;

mod process;
#[cfg(test)]
mod tests;

pub use process::{Module, Process};

/// A right of capabilities(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Load programs and maps.
    Bpf,
    /// Attach to tracepoints and read kernel memory.
    Perfmon,
    /// Ask for other network namespaces' links.
    NetAdmin,
    /// See which network namespace another user's process lives in.
    SysPtrace,
    /// See kernel symbols' addresses.
    Syslog,
    /// Enter other network namespaces. The DaemonSet does without it.
    SysAdmin,
}

impl Right {
    /// Those that the DaemonSet has.
    pub const ALL: [Self; 5] = [Self::Bpf, Self::Perfmon, Self::NetAdmin, Self::SysPtrace, Self::Syslog];

    /// As capabilities(7) spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bpf => "CAP_BPF",
            Self::Perfmon => "CAP_PERFMON",
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::Syslog => "CAP_SYSLOG",
            Self::SysAdmin => "CAP_SYS_ADMIN",
        }
    }

    /// As a manifest spells it, in `capabilities.add`.
    fn in_manifest(self) -> &'static str {
        self.name().trim_start_matches("CAP_")
    }

    /// Its number in `include/uapi/linux/capability.h`.
    const fn bit(self) -> u32 {
        match self {
            Self::NetAdmin => 12,
            Self::SysPtrace => 19,
            Self::SysAdmin => 21,
            Self::Syslog => 34,
            Self::Perfmon => 38,
            Self::Bpf => 39,
        }
    }

    /// Whether it is in this set. `CAP_SYS_ADMIN` stands for the two that were once part of it; the kernel does not take
    /// it for the others.
    const fn is_in(self, set: u64) -> bool {
        let was_part = matches!(self, Self::Bpf | Self::Perfmon) as u64;
        set & (1 << self.bit() | was_part << Self::SysAdmin.bit()) != 0
    }

    /// Whether this process has it.
    #[must_use]
    pub fn held(self) -> bool {
        self.is_in(Process::own().effective)
    }
}

/// What the kernel was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// To load a BPF program, or to attach by bpf(2).
    Bpf,
    /// To create a BPF map.
    CreateMap,
    /// To open a perf event: what kprobes and classic tracepoints attach by.
    PerfEvent,
    /// To see another process's network namespace, below `/proc/<pid>/ns`.
    SeeNetns,
    /// To enter another network namespace.
    EnterNetns,
    /// To list another network namespace's links.
    ListLinks,
}

impl Act {
    /// The capabilities that it takes.
    const fn takes(self) -> &'static [Right] {
        match self {
            Self::Bpf | Self::CreateMap => &[Right::Bpf, Right::Perfmon],
            Self::PerfEvent => &[Right::Perfmon],
            Self::SeeNetns => &[Right::SysPtrace],
            Self::EnterNetns => &[Right::SysAdmin],
            Self::ListLinks => &[Right::NetAdmin],
        }
    }
}

/// What refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// These capabilities are not held.
    Capability(Vec<Right>),
    /// `kernel.perf_event_paranoid`, at this value. Level 3 and above are Debian's and Ubuntu's own.
    Paranoid(i32),
    /// Kernel lockdown, at `confidentiality`.
    Lockdown,
    /// A seccomp filter.
    Seccomp,
    /// `RLIMIT_MEMLOCK`: kernels before 5.11 count BPF maps against it.
    Memlock,
    /// Capabilities of a user namespace, which count for nothing outside of it.
    UserNamespace,
    /// The security module that confines this process.
    Module(Module),
    /// Every right is held: a sandbox, or a kernel built without it.
    Unknown,
}

/// A refusal that is understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What refused.
    pub cause: Cause,
    /// The same in words.
    pub why: String,
    /// What to set; `None` where there is nothing to be set.
    pub cure: Option<String>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)?;
        self.cure.iter().try_for_each(|cure| write!(f, "; {cure}"))
    }
}

/// Why the kernel answered `error` to `act`; `None` where that is no refusal but a fault or an absence. `lockdown`: the
/// kernel is known to let no program read its memory.
#[must_use]
pub fn why(act: Act, error: Errno, lockdown: bool) -> Option<Refused> {
    Process::own().why(act, error, lockdown)
}

/// As [`why`], where lockdown has no say.
#[must_use]
pub fn why_io(act: Act, error: &io::Error) -> Option<Refused> {
    why(act, Errno::from_raw(error.raw_os_error()?), false)
}

/// Opens a namespace's file, such as `/proc/<pid>/ns/net`.
///
/// # Errors
/// The kernel's.
pub fn open_namespace(file: &Path) -> io::Result<File> {
    // Linux 5.10 refuses by a link without a name, and then opens the link itself: a file that is no namespace.
    if fs::read_link(file).is_ok_and(|name| name.as_os_str().is_empty()) {
        return Err(io::Error::from(Errno::EACCES));
    }
    // A pipe in its place, which the user may name, would keep the agent waiting for a writer.
    File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(file)
}

/// Which capabilities for tracing are missing, or hold only inside a user namespace, and the cure; `None` if all are there.
#[must_use]
pub fn lacking() -> Option<Refused> {
    Process::own().lacking()
}

/// The cures of all of these, each once; `None` if there is no cure.
pub fn cures<'a>(refused: impl IntoIterator<Item = &'a Refused>) -> Option<String> {
    let mut cures: Vec<&str> = Vec::new();
    for cure in refused.into_iter().filter_map(|refused| refused.cure.as_deref()) {
        if !cures.contains(&cure) {
            cures.push(cure);
        }
    }
    (!cures.is_empty()).then(|| cures.join("; "))
}

/// Where the container is told to run in the host's pid namespace.
#[must_use]
pub fn cure_of_pids() -> &'static str {
    if Process::own().in_pod {
        "set hostPID: true in the pod's spec"
    } else {
        "run it in the host's pid namespace, or mount the host's /proc and name it with --host-proc"
    }
}

/// Where the agent is told to run in the host's network namespace.
#[must_use]
pub fn cure_of_network() -> &'static str {
    if Process::own().in_pod {
        "set hostNetwork: true in the pod's spec"
    } else {
        "run it in the host's network namespace"
    }
}

/// How this process is let lock more memory.
#[must_use]
pub fn cure_of_memlock() -> String {
    Process::own().cure(&Cause::Memlock).unwrap_or_default()
}

/// How this process is given a capability.
#[must_use]
pub fn cure_of(right: Right) -> String {
    Process::own().cure_of(&[right])
}

impl Process {
    /// `kernel.perf_event_paranoid` as it is now; `None` where it cannot be read.
    #[must_use]
    pub fn paranoid_now(&self) -> Option<i32> {
        (self.paranoid)()
    }

    fn lacking(&self) -> Option<Refused> {
        if self.user_namespace {
            return Some(self.refused(Act::Bpf, Cause::UserNamespace));
        }
        self.missing(Act::Bpf).map(|missing| self.lacks(missing))
    }

    fn missing(&self, act: Act) -> Option<Vec<Right>> {
        let missing = act.takes().iter().copied().filter(|right| !right.is_in(self.effective));
        let missing: Vec<Right> = missing.collect();
        (!missing.is_empty()).then_some(missing)
    }

    fn lacks(&self, missing: Vec<Right>) -> Refused {
        let why = format!("this process lacks {}", names(&missing, Right::name));
        let cure = Some(self.cure_of(&missing));
        Refused { cause: Cause::Capability(missing), why, cure }
    }

    fn cure_of(&self, rights: &[Right]) -> String {
        match self.in_pod {
            // A capability that was added is of no use to a user who is not root: Kubernetes raises none for him.
            true if !self.root && rights.iter().all(|right| right.is_in(self.bounding)) => {
                "set securityContext.runAsUser: 0".to_owned()
            }
            true => {
                let root = if self.root { "" } else { ", and set its runAsUser: 0" };
                format!("add {} to securityContext.capabilities.add{root}", names(rights, Right::in_manifest))
            }
            false => format!("run it as root, or with {}", names(rights, Right::name)),
        }
    }

    fn why(&self, act: Act, error: Errno, lockdown: bool) -> Option<Refused> {
        // A filter may answer as if the kernel did not know the call.
        let is_filtered = error == Errno::ENOSYS && self.filtered && (self.refuses)(act);
        if !matches!(error, Errno::EPERM | Errno::EACCES) && !is_filtered {
            return None;
        }
        // First: a capability that was added there would not reach the host either.
        if self.user_namespace && !is_filtered {
            return Some(self.refused(act, Cause::UserNamespace));
        }
        if let Some(missing) = self.missing(act) {
            return Some(self.lacks(missing));
        }
        Some(self.refused(act, self.cause(act, error, lockdown)))
    }

    /// A refusal in words.
    fn refused(&self, act: Act, cause: Cause) -> Refused {
        let why = match &cause {
            // [`Process::lacks`] has words for it.
            Cause::Capability(_) => String::new(),
            Cause::Paranoid(level) => format!(
                "kernel.perf_event_paranoid={level} refuses kprobes and tracepoints to those without CAP_SYS_ADMIN"
            ),
            Cause::Lockdown => "kernel lockdown (confidentiality) refuses it".to_owned(),
            Cause::Seccomp => "a seccomp filter refuses it".to_owned(),
            Cause::Memlock => {
                "the limit of locked memory (RLIMIT_MEMLOCK) is too low for this kernel".to_owned()
            }
            Cause::UserNamespace => {
                "this process runs in a user namespace, whose capabilities do not reach the host".to_owned()
            }
            Cause::Module(module) => format!("{module} refuses it"),
            Cause::Unknown => "a sandbox or the kernel's configuration refuses it".to_owned(),
        };
        // What is held is said: the reader is not to look for it.
        let why = match cause {
            Cause::Seccomp | Cause::Module(_) | Cause::Unknown => {
                format!("{why}, although {} {} held", names(act.takes(), Right::name), is(act.takes()))
            }
            _ => why,
        };
        let cure = self.cure(&cause);
        Refused { cause, why, cure }
    }

    /// What refuses one who has the capabilities.
    fn cause(&self, act: Act, error: Errno, lockdown: bool) -> Cause {
        let traces = matches!(act, Act::Bpf | Act::PerfEvent);
        // Its answer is EACCES; lockdown's and a filter's is EPERM.
        let paranoid = self.paranoid_now().filter(|level| *level > 2);
        if let Some(level) = paranoid
            && act == Act::PerfEvent
            && error == Errno::EACCES
            && !Right::SysAdmin.is_in(self.effective)
        {
            return Cause::Paranoid(level);
        }
        if self.filtered && (self.refuses)(act) {
            return Cause::Seccomp;
        }
        // Whatever else refuses a map asks not for its size.
        if act == Act::CreateMap && error == Errno::EPERM && (self.creates_small_maps)() {
            return Cause::Memlock;
        }
        if traces && lockdown && error == Errno::EPERM {
            return Cause::Lockdown;
        }
        match &self.module {
            Some(module) if module.confines() => Cause::Module(module.clone()),
            _ => Cause::Unknown,
        }
    }

    fn cure(&self, cause: &Cause) -> Option<String> {
        let cure = match (cause, self.in_pod) {
            (Cause::Capability(rights), _) => return Some(self.cure_of(rights)),
            (Cause::Paranoid(_), true) => {
                "set sysctl kernel.perf_event_paranoid=2 on the node, or add SYS_ADMIN to \
                 securityContext.capabilities.add"
            }
            (Cause::Paranoid(_), false) => {
                "set sysctl kernel.perf_event_paranoid=2, or run it with CAP_SYS_ADMIN"
            }
            (Cause::Lockdown, _) => "start the node's kernel with lockdown=integrity",
            (Cause::Seccomp, true) => {
                "set securityContext.seccompProfile: {type: Unconfined}, or a profile that allows bpf and \
                 perf_event_open"
            }
            (Cause::Seccomp, false) => {
                "run it without that filter (docker: --security-opt seccomp=unconfined)"
            }
            (Cause::Memlock, true) => {
                "add SYS_RESOURCE to securityContext.capabilities.add, or give the node's container runtime \
                 LimitMEMLOCK=infinity"
            }
            (Cause::Memlock, false) => "ulimit -l unlimited, or run it as root",
            (Cause::UserNamespace, true) => "set hostUsers: true in the pod's spec",
            (Cause::UserNamespace, false) => "run it in the host's user namespace",
            (Cause::Module(module), in_pod) => return Some(module.cure(in_pod)),
            (Cause::Unknown, _) => return None,
        };
        Some(cure.to_owned())
    }
}

fn names(rights: &[Right], name: impl Fn(Right) -> &'static str) -> String {
    rights.iter().map(|right| name(*right)).collect::<Vec<_>>().join(" and ")
}

const fn is(rights: &[Right]) -> &'static str {
    if rights.len() == 1 { "is" } else { "are" }
}
