//! What of the node can be seen: its processes, kubelet's cgroups and logs, its pods.

use std::fs;
use std::io;
use std::path::Path;

use nix::errno::Errno;

use crate::cli::Host;
use crate::digits::counted;
use crate::doctor::{Check, Status};
use crate::enrich::{self, Network, PodIndex};
use crate::rights::{self, Act, Cause, Right};

/// What of the node can be seen.
pub(in crate::doctor) fn host(host: &Host, pods: &PodIndex) -> Vec<Check> {
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
pub(super) enum Pids {
    Host,
    Container,
}

/// Whose processes `proc` shows, as the namespaces of the first of them tell.
pub(super) fn namespaces(proc: &Path) -> Result<Pids, Errno> {
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
    let of = |network| known.iter().filter(|known| known.network == network).count();
    let [own, on_host, unseen] = [Network::Own, Network::Host, Network::Unseen].map(of);
    let found =
        format!("{} by name, {own} with a network of their own, {on_host} on the host's", known.len());
    if known.is_empty() {
        return Check::not_ok(
            "host.pods",
            Status::Degraded,
            found,
            "lost: the pods of events until there are some",
        );
    }
    if unseen > 0 || pods.nameless() > 0 {
        // One without a name may only be starting, or is gone but for its cgroup.
        let status = if unseen > 0 { Status::Degraded } else { Status::Unknown };
        let (unseen, nameless) = (counted(unseen as u64, "pod"), counted(pods.nameless() as u64, "pod"));
        return Check::not_ok(
            "host.pods",
            status,
            format!("{found}; no network seen: {unseen}; no name: {nameless}"),
            "lost if that lasts: the pod of their events",
        );
    }
    Check::ok("host.pods", found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrich::tests::node::{HOST_NETNS, Node, uid};

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
        let dir = tempfile::tempdir().unwrap();
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

    #[test]
    fn what_of_the_node_is_looked_at_has_stable_names() {
        use clap::Parser as _;
        let dir = tempfile::tempdir().unwrap();
        let at = |flag: &str| format!("{flag}={}", dir.path().display());
        let args = ["r2c-agent", "doctor", &at("--host-proc"), &at("--host-cgroup"), &at("--pod-logs")];
        let cli = crate::cli::Cli::try_parse_from(args).unwrap();
        let checks = host(&cli.host, &PodIndex::new());
        let found: Vec<_> = checks.iter().map(|check| (check.id, check.status == Status::Ok)).collect();
        assert_eq!(
            found,
            [
                ("host.pids", false),
                ("host.hidepid", true),
                ("host.cgroup", false),
                ("host.pod_logs", true),
                ("host.pods", false)
            ]
        );
    }

    #[test]
    fn a_fault_is_told_in_words_without_its_number() {
        let missing = io::Error::from_raw_os_error(nix::libc::ENOENT);
        assert_eq!(described(&missing), "No such file or directory");
        assert_eq!(described(&io::Error::other("not by the kernel")), "not by the kernel");
    }

    #[test]
    fn a_proc_is_the_hosts_if_its_first_process_is() {
        let dir = tempfile::tempdir().unwrap();
        let first = dir.path().join("1/ns");
        fs::create_dir_all(&first).unwrap();
        let link = |name: &str, to: &str| {
            let _ = fs::remove_file(first.join(name));
            std::os::unix::fs::symlink(to, first.join(name)).unwrap();
        };
        assert_eq!(namespaces(dir.path()), Err(Errno::ENOENT));
        link("net", "net:[4026531840]");
        link("pid", "pid:[4026531836]");
        assert_eq!(namespaces(dir.path()), Ok(Pids::Host));
        link("pid", "pid:[4026532000]");
        assert_eq!(namespaces(dir.path()), Ok(Pids::Container));
    }

    /// A pod beside one on the host's network.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Beside {
        /// With a network of its own.
        Own,
        /// With no process yet.
        Unseen,
        /// With no name yet.
        Nameless,
        /// With a network of its own, until it went.
        Gone,
    }

    async fn found_of(beside: &[Beside]) -> Check {
        let node = Node::new();
        node.pod(1).run(50, HOST_NETNS, &[]);
        let [own, _unseen, nameless, gone] = [Beside::Own, Beside::Unseen, Beside::Nameless, Beside::Gone]
            .map(|kind| beside.contains(&kind).then(|| node.pod(2 + kind as u32)));
        if let Some(own) = own {
            own.run(60, 7, &["10.0.0.5"]);
        }
        if let Some(nameless) = nameless {
            nameless.run(70, 8, &["10.0.0.6"]);
            fs::remove_dir(node.at("log/pods").join(format!("default_p4_{}", uid(4)))).unwrap();
        }
        if let Some(gone) = &gone {
            gone.run(80, 9, &["10.0.0.7"]);
        }
        let running = node.start().await;
        if let Some(gone) = gone {
            gone.remove();
            running.until("it is gone", || running.index.pods().iter().any(|known| known.gone)).await;
        }
        let check = known_pods(&running.index);
        running.end().await;
        check
    }

    #[tokio::test]
    async fn pods_are_told_by_what_is_known_of_each() {
        use Beside::{Gone, Nameless, Own, Unseen};
        for (beside, status, found) in [
            (&[Own][..], Status::Ok, "2 by name, 1 with a network of their own, 1 on the host's"),
            (&[Gone], Status::Ok, "1 by name, 0 with a network of their own, 1 on the host's"),
            (
                &[Own, Unseen, Gone],
                Status::Degraded,
                "3 by name, 1 with a network of their own, 1 on the host's; no network seen: 1 pod; no name: 0 pods",
            ),
            (
                &[Nameless],
                Status::Unknown,
                "1 by name, 0 with a network of their own, 1 on the host's; no network seen: 0 pods; no name: 1 pod",
            ),
        ] {
            let check = found_of(beside).await;
            assert_eq!((check.status, check.found.as_str()), (status, found));
        }
    }
}
