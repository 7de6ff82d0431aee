//! The checks beside the hooks: what the kernel tells, what this process may do, what of the node it can see.

use std::fs;
use std::io;
use std::path::Path;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use super::{Check, Status};
use crate::cli::Host;
use crate::enrich::{self, PodIndex};
use crate::kernel::reasons::Reasons;
use crate::kernel::{Kernel, Lockdown, Part, Roots};
use crate::node::Right;
use crate::probe::attach::may_read;

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
            "lost: the function a packet died in, and all that follows from it; add CAP_SYSLOG, and set \
             kernel.kptr_restrict below 2",
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
            Check::ok(ID, "securityfs is not seen here; programs may read kernel memory")
        }
    }
}

fn kprobes(kernel: &Kernel) -> Check {
    // The hooks below say what that costs: nothing where fentry is to be had.
    let found = if kernel.has_kprobes() {
        "built in"
    } else {
        "not seen: what listens on a function needs fentry then"
    };
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

/// What this process may do. `attached`: some hook could be attached to.
pub(super) fn rights(attached: bool) -> Vec<Check> {
    let mut checks: Vec<Check> = Right::ALL.into_iter().map(|right| of_right(right, right.held())).collect();
    checks.push(memlock(getrlimit(Resource::RLIMIT_MEMLOCK).ok().map(|(soft, _)| soft), attached));
    checks
}

fn of_right(right: Right, held: bool) -> Check {
    let (id, status, lost) = match right {
        Right::Bpf => ("rights.bpf", Status::Failed, "lost: everything; add CAP_BPF or run as root"),
        Right::Perfmon => {
            ("rights.perfmon", Status::Failed, "lost: everything; add CAP_PERFMON or run as root")
        }
        Right::NetAdmin => (
            "rights.net_admin",
            Status::Degraded,
            "lost: the MTUs of pods' interfaces (audit mtu); add CAP_NET_ADMIN",
        ),
        Right::SysPtrace => (
            "rights.sys_ptrace",
            Status::Degraded,
            "lost: which pod a network namespace is, and so the pod of most events; add CAP_SYS_PTRACE",
        ),
        Right::Syslog => {
            ("rights.syslog", Status::Degraded, "lost: kernel symbols (see kernel.symbols); add CAP_SYSLOG")
        }
    };
    match (held, status) {
        (true, _) => Check::ok(id, format!("{} held", right.name())),
        (false, status) => Check::not_ok(id, status, format!("no {}", right.name()), lost),
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
        "kernels before 5.11 count BPF maps against it: ulimit -l unlimited, or add CAP_SYS_RESOURCE",
    )
}

/// What of the node can be seen.
pub(super) fn host(host: &Host, pods: &PodIndex) -> Vec<Check> {
    vec![
        pids(&host.host_proc, Right::SysPtrace.held()),
        hidepid(&host.host_proc, Right::SysPtrace.held()),
        cgroups(&host.host_cgroup),
        pod_logs(&host.pod_logs),
        known_pods(pods),
    ]
}

fn pids(proc: &Path, sees_all: bool) -> Check {
    const ID: &str = "host.pids";
    // `PROC_PID_INIT_INO` (include/linux/proc_ns.h): the same on every kernel.
    const INITIAL: &str = "pid:[4026531836]";
    let first = proc.join("1/ns");
    let seen = fs::read_link(first.join("net")).and_then(|_| fs::read_link(first.join("pid")));
    match seen {
        Ok(namespace) if namespace.as_os_str() == INITIAL => {
            Check::ok(ID, "the host's; network namespaces can be seen")
        }
        Ok(_) => Check::not_ok(
            ID,
            Status::Degraded,
            "a container's pid namespace",
            "lost: the pods of events; set hostPID: true, or mount the host's /proc and name it with --host-proc",
        ),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Check::not_ok(
            ID,
            Status::Degraded,
            format!("{}: not allowed to see", first.display()),
            if sees_all {
                "lost: the pods of events; CAP_SYS_PTRACE is held, so a security module or sandbox refuses it"
            } else {
                "lost: the pods of events; add CAP_SYS_PTRACE"
            },
        ),
        Err(error) => Check::not_ok(
            ID,
            Status::Degraded,
            format!("{}: {error}", first.display()),
            "lost: the pods of events; --host-proc must be a proc file system of the host's pid namespace",
        ),
    }
}

fn hidepid(proc: &Path, sees_all: bool) -> Check {
    const ID: &str = "host.hidepid";
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    match (hidden_by(&mounts, proc), sees_all) {
        (None, _) => Check::ok(ID, "processes are not hidden"),
        (Some(option), true) => Check::ok(ID, format!("{option}; CAP_SYS_PTRACE sees past it")),
        (Some(option), false) => {
            Check::not_ok(ID, Status::Degraded, option, "lost: the pods of events; add CAP_SYS_PTRACE")
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
    let version = if found.v2 { "version 2" } else { "version 1 or hybrid" };
    match found.kubepods {
        Some(kubepods) => Check::ok(ID, format!("{version}, pods in {}", kubepods.display())),
        None => Check::not_ok(
            ID,
            Status::Degraded,
            format!("{version}, no kubepods in {}", root.display()),
            "lost: the pods of events. On a Kubernetes node, name the host's cgroups with --host-cgroup",
        ),
    }
}

fn pod_logs(dir: &Path) -> Check {
    const ID: &str = "host.pod_logs";
    match fs::read_dir(dir) {
        Ok(entries) => Check::ok(ID, format!("{}: {} entries", dir.display(), entries.count())),
        Err(error) => Check::not_ok(
            ID,
            Status::Degraded,
            format!("{}: {error}", dir.display()),
            "lost: names of pods. On a Kubernetes node, name kubelet's log directory with --pod-logs",
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
            "events are told without pods until there are some",
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
        assert!(of(&checks, "kernel.lockdown").found.starts_with("securityfs is not seen"));
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
        assert_eq!(pids(dir.path(), true).status, Status::Degraded);
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
