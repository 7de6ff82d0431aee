//! What clusters and distributions put around the agent: a security module, a filter of system calls, Debian's level of
//! perf events. What refuses is named, and so is its cure.

use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output, Stdio};

use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use serde_json::Value;

use crate::harness::agent::{FIVE, Running, command, json, only_capabilities};
use crate::harness::netns::Netns;
use crate::harness::packet::udp;
use crate::harness::pod::{Node, Pod};
use crate::harness::{has_reasons, tool};

/// What `apparmor_parser` loads here. It goes with the test.
const PROFILE: &str = "r2c-test-containerd";
/// Said to the kernel, it has the next exec enter it.
const ENTER: &str = "exec r2c-test-containerd";

/// Whether this machine's own kernel is under test, which has no `AppArmor`, kprobes, or patches of Debian's.
fn is_here() -> bool {
    std::env::var("R2C_GUEST").is_ok_and(|guest| guest == "here")
}

/// A profile that allows and denies what matters here of containerd's default: it may read any file, but no namespace of a
/// process that is not in the same profile.
struct Profile;

impl Profile {
    /// Loads it; `None` where the kernel under test has no `AppArmor`, which no guest may lack.
    fn load() -> Option<Self> {
        let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled");
        if !enabled.is_ok_and(|enabled| enabled.trim() == "Y") {
            assert!(is_here(), "this guest's kernel has no AppArmor");
            return None;
        }
        let rules = format!(
            "profile {PROFILE} flags=(attach_disconnected, mediate_deleted) {{\n  capability, file, network, signal, umount,\n  \
             deny mount,\n  deny /sys/kernel/security/** rwklx,\n  ptrace (read, readby, trace, tracedby) \
             peer={PROFILE},\n}}\n"
        );
        Self::parser("--replace", &rules);
        Some(Self)
    }

    fn parser(action: &str, rules: &str) {
        let mut parser =
            tool("apparmor_parser").args([action, "--skip-cache"]).stdin(Stdio::piped()).spawn().unwrap();
        parser.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(parser.wait().unwrap().success(), "apparmor_parser {action}");
    }

    /// Has `command` enter it.
    fn confine(command: &mut Command) {
        // SAFETY: between fork and exec only system calls are made.
        unsafe {
            command.pre_exec(|| fs::write("/proc/self/attr/apparmor/exec", ENTER));
        }
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        Self::parser("--remove", &format!("profile {PROFILE} {{}}\n"));
    }
}

/// As in a pod of the DaemonSet, whose runtime sets no limit on locked memory.
fn in_pod(command: &mut Command) {
    locking(command, RLIM_INFINITY);
    command.env("POD_NAME", "r2c-agent-x");
    only_capabilities(command, FIVE);
}

/// Lets it lock so many bytes of memory. This machine's root may not raise the limit, and its kernel does not count by it.
fn locking(command: &mut Command, bytes: u64) {
    let is_here = is_here();
    // SAFETY: between fork and exec only one system call is made.
    unsafe {
        command.pre_exec(move || match setrlimit(Resource::RLIMIT_MEMLOCK, bytes, bytes) {
            Err(Errno::EPERM) if is_here => Ok(()),
            set => Ok(set?),
        });
    }
}

/// A check of the doctor's.
fn check<'a>(report: &'a Value, id: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["id"] == id).unwrap_or_else(|| panic!("no check {id}: {report:#}"))
}

/// What the doctor, limited, says; with its exit code and standard error.
fn doctor(node: &Node, args: &[&str], limit: impl FnOnce(&mut Command)) -> (Value, Option<i32>, String) {
    let mut command = command(node, &[&["doctor", "-o", "json"], args].concat());
    limit(&mut command);
    let Output { status, stdout, stderr } = command.output().unwrap();
    let said = String::from_utf8_lossy(&stderr).into_owned();
    (json(&stdout).unwrap_or_else(|| panic!("{said}")), status.code(), said)
}

/// Who `run`, limited, says was hurt by a drop in the pod's namespace; and all that it said on standard error.
fn hurt(node: &Node, pod: &Pod, port: u16, limit: impl FnOnce(&mut Command)) -> (Value, String) {
    let running = Running::start_limited(node, &["--probe", "drops", "--events", "all"], limit);
    pod.netns.inside(|| udp((Ipv4Addr::LOCALHOST, port).into(), 1, 10));
    let is_ours = |event: &Value| event["destination_port"] == port;
    let find = |lines: &[Vec<u8>]| lines.iter().filter_map(|line| json(line)).find(is_ours);
    let event = running.agent.stdout.wait(0, find);
    let said = running.agent.stderr.text();
    (event.unwrap_or_else(|| panic!("no event; {said}"))["destination_pod"]["pod"].clone(), said)
}

#[test]
fn a_profile_that_hides_namespaces_is_named_with_the_field_that_cures_it() {
    let node = Node::new();
    let netns = Netns::new();
    netns.ip("link set lo up\n");
    let pod = Pod::start(&node, "shop/web-0", &netns);
    let Some(_profile) = Profile::load() else {
        let (report, ..) = doctor(&node, &[], |_| ());
        assert_eq!(check(&report, "rights.module")["found"], "no security module confines it");
        return;
    };
    let confined = |command: &mut Command| {
        in_pod(command);
        Profile::confine(command);
    };

    let (name, said) = hurt(&node, &pod, 9511, confined);
    assert!(name.is_null(), "{name}: the profile denies nothing");
    let warnings: Vec<&str> = said.lines().filter(|line| line.contains("namespaces of pods")).collect();
    assert_eq!(warnings.len(), 1, "{said}");
    for words in [
        "AppArmor profile r2c-test-containerd (enforce) refuses it, although CAP_SYS_PTRACE is held",
        "set securityContext.appArmorProfile: {type: Unconfined}",
        "container.apparmor.security.beta.kubernetes.io/<container>: unconfined",
    ] {
        assert!(warnings[0].contains(words), "{words}: {said}");
    }
    assert!(!said.contains("hostPID") && !said.contains("run it as root"), "{said}");

    let (report, ..) = doctor(&node, &[], confined);
    let module = check(&report, "rights.module");
    assert_eq!(module["status"], "degraded", "{module:#}");
    assert!(module["found"].as_str().unwrap().contains(PROFILE), "{module:#}");
    assert!(module["advice"].as_str().unwrap().contains("appArmorProfile: {type: Unconfined}"), "{module:#}");
    let pids = check(&report, "host.pids");
    assert!(pids["advice"].as_str().unwrap().contains("see rights.module"), "{pids:#}");

    let audited = |limit: &dyn Fn(&mut Command)| {
        let mut audit = command(&node, &["audit", "mtu", "--fail-on-findings"]);
        limit(&mut audit);
        let ended = audit.output().unwrap();
        (String::from_utf8_lossy(&ended.stdout).replace("\n   ", " "), ended.status.code())
    };
    // A pod that was not read may not fit.
    let (text, code) = audited(&confined);
    assert!(text.contains("what was read fits") && text.contains("could not be seen"), "{text}");
    assert_eq!(code, Some(3), "{text}");

    // The cure, with the same five capabilities.
    let (text, _) = audited(&in_pod);
    assert!(text.contains("shop/web-0") && !text.contains("could not be seen"), "{text}");
    let (name, said) = hurt(&node, &pod, 9512, in_pod);
    assert_eq!(name, "web-0", "{said}");
    let (report, ..) = doctor(&node, &[], in_pod);
    assert_eq!(check(&report, "rights.module")["status"], "ok");
    assert_eq!(check(&report, "host.pids")["status"], "ok");
}

/// Sets `kernel.perf_event_paranoid` until it goes.
struct Paranoid(String);

const PARANOID: &str = "/proc/sys/kernel/perf_event_paranoid";

impl Paranoid {
    fn set(level: &str) -> Self {
        let before = Self(fs::read_to_string(PARANOID).unwrap());
        fs::write(PARANOID, level).unwrap();
        before
    }
}

impl Drop for Paranoid {
    fn drop(&mut self) {
        fs::write(PARANOID, &self.0).unwrap();
    }
}

/// Debian's and Ubuntu's kernels keep perf events from all but `CAP_SYS_ADMIN` at level 3; others know no such level.
#[test]
fn hooks_that_perf_event_paranoid_costs_are_named_and_counted() {
    const ID: &str = "kernel.perf_events";
    let node = Node::new();
    let netns = Netns::new();
    netns.ip("link set lo up\n");
    let _pod = Pod::start(&node, "shop/web-0", &netns);
    if is_here() {
        let (report, code, said) = doctor(&node, &["--fail-on-degraded"], |_| ());
        assert_eq!(check(&report, ID)["status"], "ok");
        // It has neither fentry nor kprobes.
        assert_eq!((check(&report, "hooks")["status"].as_str(), code), (Some("degraded"), Some(3)), "{said}");
        return;
    }
    // Its module must be there for it to be missed: it takes a kprobe on every kernel.
    netns.batch("nft", "add table ip t\nadd chain ip t c { type filter hook input priority 0; }\nadd rule ip t c ct state new accept\n");
    let three = Paranoid::set("3");
    let (report, code, said) = doctor(&node, &["--fail-on-degraded"], in_pod);
    let found = check(&report, ID);
    assert_eq!(found["status"], "degraded", "{report:#}");
    let advice = found["advice"].as_str().unwrap();
    for words in
        ["nf_conntrack_inet_error", " of mtu", "sysctl kernel.perf_event_paranoid=2", "add SYS_ADMIN"]
    {
        assert!(advice.contains(words), "{words}: {advice}");
    }
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains(ID) && said.contains("--fail-on-degraded"), "{said}");
    let hooks = report["hooks"].as_array().unwrap();
    let lost = hooks.iter().find(|hook| hook["hook"] == "nf_conntrack_inet_error").unwrap();
    let kprobe = lost["rungs"].as_array().unwrap().iter().find(|rung| rung["name"] == "kprobe").unwrap();
    assert!(kprobe["why"].as_str().unwrap().contains("kernel.perf_event_paranoid=3"), "{kprobe:#}");
    assert!(kprobe["cure"].as_str().unwrap().contains("perf_event_paranoid=2"), "{kprobe:#}");

    // The cure, with the same five capabilities.
    drop(three);
    let two = Paranoid::set("2");
    let (report, code, said) = doctor(&node, &["--fail-on-degraded"], in_pod);
    assert_eq!(check(&report, ID)["status"], "ok", "{report:#}");
    assert_eq!(check(&report, "hooks")["status"], "ok", "{report:#}");
    // 5.10 names no reasons, which is what it lacks.
    assert_eq!(code, Some(if has_reasons() { 0 } else { 3 }), "{said}{report:#}");
    drop(two);
}

/// A runtime whose filter knows nothing of `CAP_BPF`: the capabilities are there, and EPERM is the filter's.
#[test]
fn a_seccomp_filter_is_told_from_missing_capabilities() {
    let node = Node::new();
    let (report, code, said) = doctor(&node, &[], |command| {
        in_pod(command);
        // SAFETY: between fork and exec only system calls are made.
        unsafe {
            command.pre_exec(|| crate::rights::filter(None, nix::libc::EPERM.cast_unsigned()));
        }
    });
    assert_eq!(code, Some(3), "{said}");
    for rung in report["hooks"].as_array().unwrap().iter().flat_map(|hook| hook["rungs"].as_array().unwrap())
    {
        assert!(rung["why"].as_str().unwrap().contains("a seccomp filter refuses it"), "{rung:#}");
        assert!(rung["cure"].as_str().unwrap().contains("securityContext.seccompProfile"), "{rung:#}");
    }
}

/// A pod with `hostUsers: false`, or a rootless container: all capabilities are held, and none of them reaches the host.
#[test]
fn capabilities_of_a_user_namespace_are_told_from_those_of_the_host() {
    let node = Node::new();
    let (report, code, said) = doctor(&node, &[], |command| {
        in_pod(command);
        in_user_namespace(command);
    });
    assert_eq!(code, Some(3), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(
        said.contains("whose capabilities do not reach the host") && said.contains("hostUsers: true"),
        "{said}"
    );
    let check = check(&report, "rights.user_ns");
    assert_eq!(check["status"], "failed", "{check:#}");
    for rung in report["hooks"].as_array().unwrap().iter().flat_map(|hook| hook["rungs"].as_array().unwrap())
    {
        assert!(rung["cure"].is_null() || rung["cure"].as_str().unwrap().contains("hostUsers"), "{rung:#}");
        // No map is named: all rungs have one reason.
        assert!(!rung["why"].as_str().unwrap().contains('`'), "{rung:#}");
    }
    let mut trace = command(&node, &["trace", "drops"]);
    in_user_namespace(&mut trace);
    let said = trace.output().unwrap().stderr;
    let said = String::from_utf8_lossy(&said);
    assert!(said.lines().count() == 1 && said.ends_with("; run it in the host's user namespace\n"), "{said}");
}

/// Root there, and nobody on the host.
fn in_user_namespace(command: &mut Command) {
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        command.pre_exec(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)?;
            let map = std::fs::OpenOptions::new().write(true).open("/proc/self/uid_map")?;
            nix::unistd::write(&map, b"0 0 1")?;
            Ok(())
        });
    }
}

/// Before 5.11 a map that is too large for the limit is refused with EPERM, as if a right were missing.
#[test]
fn the_limit_of_locked_memory_is_told_from_missing_rights() {
    const LITTLE: u64 = 64 * 1024;
    let (report, code, said) = doctor(&Node::new(), &[], |command| {
        in_pod(command);
        locking(command, LITTLE);
    });
    if code == Some(0) {
        assert_eq!(check(&report, "rights.memlock")["status"], "ok", "{said}");
        return;
    }
    let rungs = report["hooks"].as_array().unwrap().iter().flat_map(|hook| hook["rungs"].as_array().unwrap());
    for rung in rungs {
        assert!(rung["why"].as_str().unwrap().contains("RLIMIT_MEMLOCK"), "{rung:#}");
        assert!(rung["cure"].as_str().unwrap().contains("SYS_RESOURCE"), "{rung:#}");
    }
}

/// In a pod, where nobody can run it as anything, the manifest's fields are named.
#[test]
fn a_missing_capability_is_cured_by_the_manifest_in_a_pod_and_by_root_elsewhere() {
    const SAYS: [&str; 2] = [
        "add BPF and PERFMON to securityContext.capabilities.add",
        "run it as root, or with CAP_BPF and CAP_PERFMON",
    ];
    let node = Node::new();
    for in_pod in [true, false] {
        let mut command = command(&node, &["trace", "drops", "--duration", "1s"]);
        only_capabilities(&mut command, &[]);
        if in_pod {
            command.env("POD_NAME", "r2c-agent-x");
        }
        let ended = command.output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(3), "{said}");
        assert_eq!(
            SAYS.map(|says| said.matches(says).count()),
            [usize::from(in_pod), usize::from(!in_pod)],
            "{said}"
        );
        assert!(said.contains("lacks CAP_BPF and CAP_PERFMON"), "{said}");
    }
}
