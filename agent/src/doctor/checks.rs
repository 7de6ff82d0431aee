//! The checks beside the hooks: what the kernel tells, what this process may do, what of the node it can see.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use super::hooks::HookReport;
use super::{Check, Status};
use crate::cli::Host;
use crate::enrich::{self, PodIndex};
use crate::kernel::reasons::Reasons;
use crate::kernel::{Kernel, Lockdown, Part, Roots};
use crate::probe::attach::may_read;
use crate::rights::{self, Act, Cause, Process, Right};

/// What the kernel tells of itself.
pub(super) fn kernel(kernel: &Kernel, roots: &Roots) -> Vec<Check> {
    vec![
        release(kernel),
        btf(kernel, roots),
        drop_reasons(kernel),
        symbols(kernel, roots),
        tracefs(kernel),
        lockdown(kernel.lockdown(), may_read(kernel)),
        kprobes(kernel),
        cpus(kernel),
    ]
}

/// Why a part could not be had.
fn why(kernel: &Kernel, part: Part) -> String {
    let missing = kernel.missing().iter().find(|missing| missing.part == part);
    missing.map_or_else(|| "not there".to_owned(), |missing| missing.why.clone())
}

fn release(kernel: &Kernel) -> Check {
    let release = kernel.release();
    match &release.version {
        Some(version) => Check::ok("kernel.release", format!("{version} {}", release.arch)),
        None => Check::not_ok(
            "kernel.release",
            Status::Unknown,
            why(kernel, Part::Release),
            "nothing is lost: no choice hangs on it",
        ),
    }
}

fn btf(kernel: &Kernel, roots: &Roots) -> Check {
    const ID: &str = "kernel.btf";
    if kernel.btf().is_none() {
        return Check::not_ok(
            ID,
            Status::Degraded,
            why(kernel, Part::Btf),
            "lost: addresses, device, direction and pods of every event; needs a kernel with CONFIG_DEBUG_INFO_BTF",
        );
    }
    let bytes = fs::metadata(roots.sys.join("kernel/btf/vmlinux")).map_or(0, |file| file.len());
    Check::ok(ID, format!("{} KiB of types, read without a flaw", bytes / 1024))
}

fn drop_reasons(kernel: &Kernel) -> Check {
    if Reasons::load(kernel).is_empty() {
        return Check::not_ok(
            "kernel.drop_reasons",
            Status::Degraded,
            "the kernel names none",
            "lost: the reason of a drop; its class comes from the place alone. Kernels from 5.15 on give reasons",
        );
    }
    Check::ok("kernel.drop_reasons", "named by the kernel")
}

fn symbols(kernel: &Kernel, roots: &Roots) -> Check {
    const ID: &str = "kernel.symbols";
    let restrict = fs::read_to_string(roots.proc.join("sys/kernel/kptr_restrict"));
    let restrict = restrict.map_or_else(|_| "unknown".to_owned(), |value| value.trim().to_owned());
    match kernel.symbols().get() {
        Some(symbols) => Check::ok(ID, format!("{} functions, kptr_restrict {restrict}", symbols.len())),
        None => Check::not_ok(
            ID,
            Status::Degraded,
            format!("{}; kptr_restrict {restrict}", why(kernel, Part::Symbols)),
            &format!(
                "lost: the function a packet died in, and all that follows from it; {}, and set \
                 kernel.kptr_restrict below 2",
                rights::cure_of(Right::Syslog)
            ),
        ),
    }
}

fn tracefs(kernel: &Kernel) -> Check {
    const ID: &str = "kernel.tracefs";
    match (kernel.tracefs(), kernel.btf()) {
        (Some(_), _) => Check::ok(ID, "mounted"),
        (None, Some(_)) => Check::ok(ID, "not seen; only kernels without BTF need it"),
        (None, None) => Check::not_ok(
            ID,
            Status::Degraded,
            why(kernel, Part::Tracefs),
            "lost: the last rung, and reasons by name; mount -t tracefs tracefs /sys/kernel/tracing",
        ),
    }
}

fn lockdown(mode: Lockdown, reads: bool) -> Check {
    const ID: &str = "kernel.lockdown";
    match mode {
        _ if !reads => Check::not_ok(
            ID,
            Status::Degraded,
            "confidentiality: no program may read kernel memory",
            "lost: addresses, ports and protocol of every event, pods but those whose network namespace it is, and \
             all rungs but tp_btf and raw_tp; start the kernel with lockdown=integrity",
        ),
        Lockdown::None => Check::ok(ID, "none"),
        Lockdown::Integrity => Check::ok(ID, "integrity: tracing is not affected"),
        Lockdown::Confidentiality | Lockdown::Unknown => {
            Check::ok(ID, "not seen; programs may read kernel memory")
        }
    }
}

fn kprobes(kernel: &Kernel) -> Check {
    // The hooks below say what that costs: nothing where fentry is to be had.
    let found = if kernel.has_kprobes() { "built in" } else { "not seen; functions need fentry then" };
    Check::ok("kernel.kprobes", found)
}

fn cpus(kernel: &Kernel) -> Check {
    match kernel.possible_cpus() {
        Some(count) => {
            Check::ok("kernel.cpus", format!("{count} possible: each row of counts is kept so often"))
        }
        None => Check::not_ok(
            "kernel.cpus",
            Status::Unknown,
            why(kernel, Part::Cpus),
            "without /sys/devices/system/cpu/possible per-CPU counts cannot be read",
        ),
    }
}

/// What the hooks' ladders come to.
pub(super) fn hooks(hooks: &[HookReport]) -> Vec<Check> {
    vec![paranoid(hooks, Process::own().paranoid_now()), rungs(hooks)]
}

/// Hooks by name, each probe named after its own.
fn named(hooks: &[&HookReport]) -> String {
    let mut probes: Vec<(&str, Vec<&str>)> = Vec::new();
    for hook in hooks {
        match probes.iter_mut().find(|(probe, _)| *probe == hook.probe) {
            Some((_, names)) => names.push(hook.hook),
            None => probes.push((hook.probe, vec![hook.hook])),
        }
    }
    let of_probe = |(probe, names): &(&str, Vec<&str>)| format!("{} of {probe}", names.join(", "));
    probes.iter().map(of_probe).collect::<Vec<_>>().join("; ")
}

/// From 3 on, on Debian and Ubuntu, kprobes and tracepoints are for `CAP_SYS_ADMIN` alone.
fn paranoid(hooks: &[HookReport], level: Option<i32>) -> Check {
    const ID: &str = "kernel.perf_events";
    let hurt: Vec<&HookReport> = hooks.iter().filter(|hook| hook.paranoid().is_some()).collect();
    let level = level.map_or("unknown".to_owned(), |level| level.to_string());
    let found = format!("kernel.perf_event_paranoid {level}");
    if hurt.is_empty() {
        return Check::ok(ID, found);
    }
    let (lost, lesser): (Vec<_>, Vec<_>) = hurt.iter().partition(|hook| hook.takes.is_none());
    let mut advice = Vec::new();
    if !lost.is_empty() {
        advice.push(format!("lost: {}", named(&lost)));
    }
    if !lesser.is_empty() {
        advice.push(format!("on a lesser rung: {}", named(&lesser)));
    }
    let refusals = hurt.iter().flat_map(|hook| &hook.rungs).filter_map(|rung| rung.refused.as_ref());
    advice.extend(rights::cures(refusals.filter(|refused| matches!(refused.cause, Cause::Paranoid(_)))));
    Check::not_ok(ID, Status::Degraded, format!("{found} refuses kprobes"), &advice.join("; "))
}

/// Few enough for their words to be read.
const FEW: usize = 3;

/// Hooks that hold no rung, or one that does not fire.
fn rungs(hooks: &[HookReport]) -> Check {
    const ID: &str = "hooks";
    let absent = hooks.iter().filter(|hook| hook.module_absent.is_some()).count();
    let there = hooks.len() - absent;
    let lost: Vec<&HookReport> = hooks.iter().filter(|hook| hook.is_lost()).collect();
    let silent: Vec<&HookReport> = hooks.iter().filter(|hook| hook.is_silent()).collect();
    let mut found = format!("{} of {there} attached", there - lost.len());
    if absent > 0 {
        // Writing to a String cannot fail.
        let _ = write!(found, ", {absent} in a module that is not loaded");
    }
    if lost.is_empty() && silent.is_empty() {
        return Check::ok(ID, found);
    }
    let mut advice = Vec::new();
    match lost.len() {
        0 => {}
        1..=FEW => advice.extend(
            lost.iter().map(|hook| format!("lost by {} of {}: {}", hook.hook, hook.probe, hook.tells)),
        ),
        many => advice.push(format!("lost: what the other {many} tell, see below")),
    }
    if !silent.is_empty() {
        advice.push(format!("attached and never called: {}", named(&silent)));
    }
    Check::not_ok(ID, Status::Degraded, found, &advice.join("; "))
}

/// What this process may do. `attached`: some hook could be attached to. `proc`: where the host's processes are.
pub(super) fn rights(attached: bool, proc: &Path) -> Vec<Check> {
    let mut checks: Vec<Check> = Right::ALL.into_iter().map(|right| of_right(right, right.held())).collect();
    checks.push(module(Process::own(), namespaces(proc)));
    checks.push(memlock(getrlimit(Resource::RLIMIT_MEMLOCK).ok().map(|(soft, _)| soft), attached));
    checks
}

fn of_right(right: Right, held: bool) -> Check {
    let (id, status, lost) = match right {
        Right::Bpf => ("rights.bpf", Status::Failed, "everything"),
        Right::Perfmon => ("rights.perfmon", Status::Failed, "everything"),
        Right::NetAdmin => ("rights.net_admin", Status::Degraded, "the MTUs of pods' interfaces (audit mtu)"),
        Right::SysPtrace => (
            "rights.sys_ptrace",
            Status::Degraded,
            "which pod a network namespace is, and so the pod of most events",
        ),
        Right::Syslog => ("rights.syslog", Status::Degraded, "kernel symbols (see kernel.symbols)"),
        Right::SysAdmin => ("rights.sys_admin", Status::Degraded, "routes and learned path MTUs of pods"),
    };
    if held {
        return Check::ok(id, format!("{} held", right.name()));
    }
    let advice = format!("lost: {lost}; {}", rights::cure_of(right));
    Check::not_ok(id, status, format!("no {}", right.name()), &advice)
}

/// What confines this process; `seen`: what came of looking at the host's namespaces.
fn module(own: &Process, seen: Result<Pids, Errno>) -> Check {
    const ID: &str = "rights.module";
    let found = own.module.as_ref().map_or("no security module confines it".to_owned(), ToString::to_string);
    let refused = seen.err().and_then(|error| rights::why(Act::SeeNetns, error, false));
    match refused {
        Some(refused) if matches!(refused.cause, Cause::Module(_)) => Check::not_ok(
            ID,
            Status::Degraded,
            format!("{found} refuses to show the host's namespaces"),
            &format!("lost: the pods of events; {}", refused.cure.unwrap_or_default()),
        ),
        _ => Check::ok(ID, found),
    }
}

/// Kernels before 5.11 count BPF maps against the limit of locked memory; where a probe attached it cannot matter.
fn memlock(limit: Option<u64>, attached: bool) -> Check {
    const ID: &str = "rights.memlock";
    let found = match limit {
        Some(RLIM_INFINITY) => "unlimited".to_owned(),
        Some(bytes) => format!("{} KiB", bytes / 1024),
        None => "cannot be read".to_owned(),
    };
    if attached || limit == Some(RLIM_INFINITY) {
        return Check::ok(ID, found);
    }
    Check::not_ok(
        ID,
        Status::Unknown,
        found,
        &format!("kernels before 5.11 count BPF maps against it; {}", rights::cure_of_memlock()),
    )
}

/// What of the node can be seen.
pub(super) fn host(host: &Host, pods: &PodIndex) -> Vec<Check> {
    vec![
        pids(&host.host_proc),
        hidepid(&host.host_proc, Right::SysPtrace.held()),
        cgroups(&host.host_cgroup),
        pod_logs(&host.pod_logs),
        known_pods(pods),
    ]
}

/// Whose pid namespace a proc file system shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pids {
    Host,
    Container,
}

/// Whose processes `proc` shows, as the namespaces of the first of them tell.
fn namespaces(proc: &Path) -> Result<Pids, Errno> {
    // `PROC_PID_INIT_INO` (include/linux/proc_ns.h): the same on every kernel.
    const INITIAL: &str = "pid:[4026531836]";
    let first = proc.join("1/ns");
    let link = |name: &str| match fs::read_link(first.join(name)) {
        // So Linux 5.10 refuses.
        Ok(link) if link.as_os_str().is_empty() => Err(Errno::EACCES),
        Ok(link) => Ok(link),
        Err(error) => Err(Errno::from_raw(error.raw_os_error().unwrap_or_default())),
    };
    link("net")?;
    Ok(if link("pid")?.as_os_str() == INITIAL { Pids::Host } else { Pids::Container })
}

fn pids(proc: &Path) -> Check {
    const ID: &str = "host.pids";
    let error = match namespaces(proc) {
        Ok(Pids::Host) => return Check::ok(ID, "the host's; network namespaces can be seen"),
        Ok(Pids::Container) => {
            let advice = format!("lost: the pods of events; {}", rights::cure_of_pids());
            return Check::not_ok(ID, Status::Degraded, "a container's pid namespace", &advice);
        }
        Err(error) => error,
    };
    let first = proc.join("1/ns");
    let Some(refused) = rights::why(Act::SeeNetns, error, false) else {
        return Check::not_ok(
            ID,
            Status::Degraded,
            format!("{}: {}", first.display(), error.desc()),
            "lost: the pods of events; --host-proc must be a proc file system of the host's pid namespace",
        );
    };
    let advice = match (&refused.cause, &refused.cure) {
        (Cause::Module(_), _) => "lost: the pods of events; see rights.module".to_owned(),
        (_, Some(cure)) => format!("lost: the pods of events; {cure}"),
        (_, None) => "lost: the pods of events".to_owned(),
    };
    let found = format!("{} cannot be seen: {}", first.display(), refused.why);
    Check::not_ok(ID, Status::Degraded, found, &advice)
}

fn hidepid(proc: &Path, sees_all: bool) -> Check {
    const ID: &str = "host.hidepid";
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    match (hidden_by(&mounts, proc), sees_all) {
        (None, _) => Check::ok(ID, "processes are not hidden"),
        (Some(option), true) => Check::ok(ID, format!("{option}; CAP_SYS_PTRACE sees past it")),
        (Some(option), false) => {
            let advice = format!("lost: the pods of events; {}", rights::cure_of(Right::SysPtrace));
            Check::not_ok(ID, Status::Degraded, option, &advice)
        }
    }
}

/// The option of the proc file system mounted last at `proc` that hides other users' processes (proc(5)).
fn hidden_by(mountinfo: &str, proc: &Path) -> Option<String> {
    let at_proc = |line: &&str| line.split(' ').nth(4).is_some_and(|point| Path::new(point) == proc);
    let (_, file_system) = mountinfo.lines().rfind(at_proc)?.split_once(" - ")?;
    let options = file_system.rsplit(' ').next()?;
    let hides =
        |option: &&str| option.starts_with("hidepid=") && !matches!(*option, "hidepid=0" | "hidepid=off");
    options.split(',').find(hides).map(str::to_owned)
}

fn cgroups(root: &Path) -> Check {
    const ID: &str = "host.cgroup";
    let found = enrich::cgroups(root);
    let version = if found.v2 { "version 2" } else { "version 1" };
    match found.kubepods {
        Some(kubepods) => Check::ok(ID, format!("{version}, pods in {}", kubepods.display())),
        None => Check::not_ok(
            ID,
            Status::Degraded,
            format!("{version}, no kubepods in {}", root.display()),
            "lost: the pods of events; --host-cgroup names the host's cgroups",
        ),
    }
}

/// Without the number that no operator looks up.
fn described(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |code| Errno::from_raw(code).desc().to_owned())
}

fn pod_logs(dir: &Path) -> Check {
    const ID: &str = "host.pod_logs";
    match fs::read_dir(dir) {
        Ok(entries) => Check::ok(ID, format!("{}: {} entries", dir.display(), entries.count())),
        Err(error) => Check::not_ok(
            ID,
            Status::Degraded,
            format!("{}: {}", dir.display(), described(&error)),
            "lost: names of pods; --pod-logs names kubelet's log directory",
        ),
    }
}

fn known_pods(pods: &PodIndex) -> Check {
    let known: Vec<_> = pods.pods().into_iter().filter(|known| !known.gone).collect();
    let own = known.iter().filter(|known| known.slot.is_some()).count();
    let found = format!("{} by name, {own} with a network of their own", known.len());
    if known.is_empty() {
        return Check::not_ok(
            "host.pods",
            Status::Degraded,
            found,
            "lost: the pods of events until there are some",
        );
    }
    Check::ok("host.pods", found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<'a>(checks: &'a [Check], id: &str) -> &'a Check {
        checks.iter().find(|check| check.id == id).unwrap()
    }

    fn fake(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Roots) {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let file = dir.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        let roots = Roots::under(dir.path());
        (dir, roots)
    }

    #[test]
    fn a_kernel_that_tells_nothing_is_degraded_and_says_what_is_lost() {
        let (_dir, roots) = fake(&[]);
        let checks = kernel(&Kernel::load_from(roots.clone()), &roots);
        for check in &checks {
            assert_eq!(check.status == Status::Ok, check.advice.is_none(), "{check:?}");
            assert_ne!(check.status, Status::Failed, "{check:?}");
        }
        for id in ["kernel.btf", "kernel.symbols", "kernel.tracefs", "kernel.drop_reasons"] {
            assert_eq!(of(&checks, id).status, Status::Degraded);
        }
        assert!(of(&checks, "kernel.lockdown").found.starts_with("not seen"));
    }

    #[test]
    fn truncated_types_and_hidden_symbols_are_one_line_each() {
        let (_dir, roots) = fake(&[
            ("sys/kernel/btf/vmlinux", b"\x9f\xeb\x01\x00"),
            ("proc/kallsyms", b"0000000000000000 T _stext\n"),
            ("proc/sys/kernel/kptr_restrict", b"2\n"),
            ("sys/kernel/security/lockdown", b"none integrity [confidentiality]\n"),
        ]);
        let checks = kernel(&Kernel::load_from(roots.clone()), &roots);
        assert!(of(&checks, "kernel.btf").found.contains("ends within the header"));
        assert!(of(&checks, "kernel.symbols").found.ends_with("kptr_restrict 2"));
        assert_eq!(of(&checks, "kernel.lockdown").status, Status::Degraded);
        assert!(checks.iter().all(|check| !check.found.contains('\n')));
    }

    #[test]
    fn only_the_rights_to_bpf_are_vital() {
        for right in Right::ALL {
            let (held, lacking) = (of_right(right, true), of_right(right, false));
            assert_eq!((held.status, held.id), (Status::Ok, lacking.id));
            let vital = matches!(right, Right::Bpf | Right::Perfmon);
            assert_eq!(lacking.status == Status::Failed, vital, "{lacking:?}");
            assert!(lacking.found.contains(right.name()));
        }
    }

    #[test]
    fn the_memory_limit_matters_only_where_nothing_attached() {
        assert_eq!(memlock(Some(65536), true).status, Status::Ok);
        assert_eq!(memlock(Some(RLIM_INFINITY), false).status, Status::Ok);
        let check = memlock(Some(65536), false);
        assert_eq!((check.status, check.found.as_str()), (Status::Unknown, "64 KiB"));
    }

    #[test]
    fn hidepid_is_read_of_the_mount_that_counts() {
        let line = |point: &str, options: &str| {
            format!("22 1 0:21 / {point} rw,nosuid shared:5 - proc proc {options}\n")
        };
        let hidden = line("/proc", "rw,gid=4,hidepid=invisible");
        assert_eq!(hidden_by(&hidden, Path::new("/proc")).as_deref(), Some("hidepid=invisible"));
        assert_eq!(hidden_by(&hidden, Path::new("/host/proc")), None);
        assert_eq!(hidden_by(&(hidden + &line("/proc", "rw,hidepid=0")), Path::new("/proc")), None);
        assert_eq!(hidden_by("nonsense\n1 2 3 4 /proc\n", Path::new("/proc")), None);
    }

    #[test]
    fn a_proc_that_is_none_and_a_cgroup_that_is_none_are_degraded() {
        let (dir, _) = fake(&[]);
        assert_eq!(pids(dir.path()).status, Status::Degraded);
        assert_eq!(cgroups(dir.path()).status, Status::Degraded);
        assert_eq!(pod_logs(&dir.path().join("none")).status, Status::Degraded);
        assert_eq!(known_pods(&PodIndex::new()).status, Status::Degraded);
        fs::create_dir_all(dir.path().join("kubepods.slice")).unwrap();
        fs::write(dir.path().join("cgroup.controllers"), "cpu").unwrap();
        let found = cgroups(dir.path());
        assert_eq!(found.status, Status::Ok);
        assert!(found.found.starts_with("version 2, pods in "), "{found:?}");
    }
}
