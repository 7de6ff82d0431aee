//! What this process may do, and what confines it.

use std::path::Path;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use super::host::namespaces;
use crate::doctor::{Check, Status};
use crate::rights::{self, Act, Cause, Module, Process, Refused, Right};

/// What this process may do. `attached`: some hook could be attached to. `proc`: where the host's processes are.
pub(in crate::doctor) fn rights(attached: bool, proc: &Path) -> Vec<Check> {
    let mut checks: Vec<Check> = Right::ALL.into_iter().map(|right| of_right(right, right.held())).collect();
    checks.extend(user_namespace(rights::lacking()));
    let unseen = namespaces(proc).err().and_then(|error| rights::why(Act::SeeNetns, error, false));
    checks.push(module(Process::own().module.as_ref(), unseen));
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

/// Whether the capabilities are held where they are needed. `lacking`: what tracing takes and this process does not have.
fn user_namespace(lacking: Option<Refused>) -> Option<Check> {
    let refused = lacking.filter(|refused| refused.cause == Cause::UserNamespace)?;
    let advice = format!("lost: everything; {}", refused.cure.unwrap_or_default());
    Some(Check::not_ok("rights.user_ns", Status::Failed, refused.why, &advice))
}

/// What confines this process; `unseen`: why the host's namespaces cannot be seen, if they cannot.
fn module(own: Option<&Module>, unseen: Option<Refused>) -> Check {
    const ID: &str = "rights.module";
    let found = own.map_or("no security module confines it".to_owned(), ToString::to_string);
    match unseen {
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_this_process_may_do_has_stable_names() {
        let dir = tempfile::tempdir().unwrap();
        let checks = rights(true, dir.path());
        let ids: Vec<&str> =
            checks.iter().map(|check| check.id).filter(|id| *id != "rights.user_ns").collect();
        assert_eq!(
            ids,
            [
                "rights.bpf", "rights.perfmon", "rights.net_admin", "rights.sys_ptrace", "rights.syslog",
                "rights.module", "rights.memlock"
            ]
        );
    }

    fn refused(cause: Cause) -> Refused {
        Refused { cause, why: "it refuses it".to_owned(), cure: Some("do this".to_owned()) }
    }

    #[test]
    fn a_user_namespace_costs_everything() {
        assert_eq!(user_namespace(None), None);
        assert_eq!(user_namespace(Some(refused(Cause::Capability(vec![Right::Bpf])))), None);
        let check = user_namespace(Some(refused(Cause::UserNamespace)));
        let told =
            Check::not_ok("rights.user_ns", Status::Failed, "it refuses it", "lost: everything; do this");
        assert_eq!(check, Some(told));
    }

    #[test]
    fn a_security_module_is_degraded_only_where_it_refuses() {
        let profile = Module::AppArmor { profile: "web".to_owned(), mode: Some("enforce".to_owned()) };
        let of = |unseen: Option<Cause>| module(Some(&profile), unseen.map(refused));
        let found = "AppArmor profile web (enforce)";
        for harmless in [None, Some(Cause::Capability(vec![Right::SysPtrace])), Some(Cause::Unknown)] {
            assert_eq!(of(harmless), Check::ok("rights.module", found));
        }
        assert_eq!(
            of(Some(Cause::Module(profile.clone()))),
            Check::not_ok(
                "rights.module",
                Status::Degraded,
                format!("{found} refuses to show the host's namespaces"),
                "lost: the pods of events; do this"
            )
        );
        assert_eq!(module(None, None).found, "no security module confines it");
    }
}
