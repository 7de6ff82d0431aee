//! The checks beside the hooks: what the kernel tells, what this process may do, what of the node it can see.

use std::fmt::Write as _;
use std::fs;

use super::hooks::HookReport;
use super::{Check, Status};
use crate::kernel::reasons::Reasons;
use crate::kernel::{Kernel, Lockdown, Part, Roots};
use crate::node::{cure_of_symbols, kptr_restrict};
use crate::probe::attach::may_read;
use crate::rights::{Cause, Process, cures};

mod host;
mod rights;

pub(super) use self::host::host;
pub(super) use self::rights::rights;

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
    let restrict = kptr_restrict(&roots.proc);
    match kernel.symbols().get() {
        Some(symbols) => Check::ok(ID, format!("{} functions, kptr_restrict {restrict}", symbols.len())),
        None => Check::not_ok(
            ID,
            Status::Degraded,
            format!("{}; kptr_restrict {restrict}", why(kernel, Part::Symbols)),
            &format!(
                "lost: the function a packet died in, and all that follows from it; {}",
                cure_of_symbols(&roots.proc)
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
    // The hooks below say what that costs: nothing where fentry works.
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
    advice.extend(cures(refusals.filter(|refused| matches!(refused.cause, Cause::Paranoid(_)))));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::hooks::{RungReport, RungStatus};
    use crate::rights::Refused;

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

    /// A hook of a probe whose only rung was refused by this level, or by nothing, or did not fire.
    fn hook(probe: &'static str, hook: &'static str, level: Option<i32>, fired: Option<bool>) -> HookReport {
        let refused = level.map(|level| Refused {
            cause: Cause::Paranoid(level),
            why: String::new(),
            cure: Some("set it to 2".to_owned()),
        });
        let status = if level.is_some() { RungStatus::Refused } else { RungStatus::Holds };
        let rung = RungReport { name: "kprobe", status, why: String::new(), cure: None, fired, refused };
        let takes = level.is_none().then_some("kprobe");
        HookReport { probe, hook, tells: "what it tells", rungs: vec![rung], takes, module_absent: None }
    }

    fn said(check: &Check) -> (Status, &str, &str) {
        (check.status, &check.found, check.advice.as_deref().unwrap_or_default())
    }

    #[test]
    fn a_setting_that_refuses_kprobes_is_told_with_the_hooks_it_costs() {
        let well = paranoid(&[hook("drops", "a", None, None)], Some(3));
        assert_eq!(said(&well), (Status::Ok, "kernel.perf_event_paranoid 3", ""));
        assert_eq!(paranoid(&[], None).found, "kernel.perf_event_paranoid unknown");
        let lost = [
            hook("drops", "a", Some(3), None),
            hook("mtu", "c", Some(3), None),
            hook("drops", "b", Some(3), None),
        ];
        assert_eq!(
            said(&paranoid(&lost, Some(3))),
            (
                Status::Degraded,
                "kernel.perf_event_paranoid 3 refuses kprobes",
                "lost: a, b of drops; c of mtu; set it to 2"
            )
        );
        let mut lesser = hook("drops", "a", Some(3), None);
        lesser.takes = Some("raw_tp");
        let advice = |hooks: &[HookReport]| paranoid(hooks, Some(3)).advice.unwrap();
        assert_eq!(advice(&[lesser]), "on a lesser rung: a of drops; set it to 2");
    }

    #[test]
    fn hooks_that_are_lost_or_silent_are_told_and_absent_modules_are_not_missed() {
        let well = || hook("drops", "a", None, Some(true));
        let lost = |name| hook("mtu", name, Some(3), None);
        let absent = |name| HookReport { module_absent: Some("ip_set"), ..lost(name) };
        assert_eq!(said(&rungs(&[well(), well()])), (Status::Ok, "2 of 2 attached", ""));
        assert_eq!(
            said(&rungs(&[well(), absent("b"), absent("c")])),
            (Status::Ok, "1 of 1 attached, 2 in a module that is not loaded", "")
        );
        assert_eq!(
            said(&rungs(&[well(), lost("b"), absent("c")])),
            (
                Status::Degraded,
                "1 of 2 attached, 1 in a module that is not loaded",
                "lost by b of mtu: what it tells"
            )
        );
        assert_eq!(
            said(&rungs(&[well(), hook("drops", "s", None, Some(false))])),
            (Status::Degraded, "2 of 2 attached", "attached and never called: s of drops")
        );
        let many: Vec<HookReport> = ["b", "c", "d", "e"].map(lost).into();
        assert_eq!(
            said(&rungs(&many)),
            (Status::Degraded, "0 of 4 attached", "lost: what the other 4 tell, see below")
        );
        let few = rungs(&many[..FEW]).advice.unwrap();
        assert_eq!(few.matches("lost by ").count(), 3, "{few}");
        let ids: Vec<&str> = hooks(&many).iter().map(|check| check.id).collect();
        assert_eq!(ids, ["kernel.perf_events", "hooks"]);
    }
}
