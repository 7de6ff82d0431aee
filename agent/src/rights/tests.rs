//! Each refusal has its cause and its remedy, in the terms of whoever can apply it.

use super::process::{is_pod, maps_some};
use super::*;

const FIVE: u64 = 0xc4_0008_1000;
const SYS_ADMIN: u64 = 1 << 21;

fn process() -> Process {
    Process {
        effective: FIVE,
        bounding: FIVE,
        root: true,
        filtered: false,
        user_namespace: false,
        module: None,
        in_pod: true,
        paranoid: || Some(2),
        refuses: |_| false,
        creates_small_maps: || false,
    }
}

fn containerd() -> Module {
    Module::parse(Some("cri-containerd.apparmor.d (enforce)\n"), None, false).unwrap()
}

fn refused(process: &Process, act: Act, error: Errno) -> Refused {
    process.why(act, error, false).unwrap()
}

#[test]
fn the_five_are_the_daemon_sets() {
    let set = Right::ALL.iter().fold(0, |set, right| set | 1_u64 << right.bit());
    assert_eq!(set, FIVE);
    assert!(Right::Bpf.is_in(SYS_ADMIN) && Right::Perfmon.is_in(SYS_ADMIN));
    assert!(!Right::SysPtrace.is_in(SYS_ADMIN) && !Right::SysAdmin.is_in(FIVE));
}

/// Who applies the manifest as it is needs none of the remedies.
#[test]
fn the_daemon_set_has_what_the_remedies_name() {
    const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/daemonset.yaml");
    let manifest = std::fs::read_to_string(MANIFEST).unwrap();
    let lines: Vec<&str> = manifest.lines().map(str::trim).filter(|line| !line.starts_with('#')).collect();
    let rights = Right::ALL.map(|right| format!("{:?}", right.in_manifest())).join(", ");
    for wanted in [
        &["appArmorProfile:", "type: Unconfined"][..],
        &[&format!("add: [{rights}]")],
        &["runAsUser: 0"],
        &["hostPID: true"],
        &["hostNetwork: true"],
    ] {
        assert!(lines.windows(wanted.len()).any(|lines| lines == wanted), "no {wanted:?}");
    }
}

#[test]
fn a_missing_capability_is_named_with_its_field() {
    let none = Process { effective: 0, bounding: 0, ..process() };
    let bpf = refused(&none, Act::Bpf, Errno::EPERM);
    assert_eq!(bpf.cause, Cause::Capability(vec![Right::Bpf, Right::Perfmon]));
    assert_eq!(
        bpf.to_string(),
        "this process lacks CAP_BPF and CAP_PERFMON; add BPF and PERFMON to securityContext.capabilities.add"
    );
    let by_hand = Process { in_pod: false, ..none.clone() };
    let bpf = refused(&by_hand, Act::Bpf, Errno::EPERM).to_string();
    assert!(bpf.ends_with("run it as root, or with CAP_BPF and CAP_PERFMON"), "{bpf}");
    // In a pod nobody is told to run it as root but by the field that does.
    let user = Process { bounding: FIVE, root: false, ..none.clone() };
    let netns = refused(&user, Act::SeeNetns, Errno::EACCES).to_string();
    assert!(netns.ends_with("; set securityContext.runAsUser: 0"), "{netns}");
    let user = Process { root: false, ..none };
    let netns = refused(&user, Act::SeeNetns, Errno::EACCES).to_string();
    assert!(netns.contains("add SYS_PTRACE") && netns.ends_with("runAsUser: 0"), "{netns}");
}

#[test]
fn a_profile_is_blamed_only_where_the_capability_is_held() {
    let confined = Process { module: Some(containerd()), ..process() };
    let netns = refused(&confined, Act::SeeNetns, Errno::EACCES);
    assert_eq!(netns.cause, Cause::Module(containerd()));
    let text = netns.to_string();
    for word in [
        "AppArmor profile cri-containerd.apparmor.d (enforce)",
        "although CAP_SYS_PTRACE is held",
        "securityContext.appArmorProfile: {type: Unconfined}",
        "container.apparmor.security.beta.kubernetes.io/<container>: unconfined",
    ] {
        assert!(text.contains(word), "{text}");
    }
    let lacking = Process { effective: 0, ..confined };
    assert!(matches!(refused(&lacking, Act::SeeNetns, Errno::EACCES).cause, Cause::Capability(_)));
}

#[test]
fn debians_level_three_is_told_from_the_rest() {
    let debian = Process { paranoid: || Some(3), module: Some(containerd()), ..process() };
    let kprobe = refused(&debian, Act::PerfEvent, Errno::EACCES);
    assert_eq!(kprobe.cause, Cause::Paranoid(3));
    let text = kprobe.to_string();
    assert!(text.contains("perf_event_paranoid=3") && text.contains("perf_event_paranoid=2"), "{text}");
    assert!(text.contains("SYS_ADMIN to securityContext.capabilities.add"), "{text}");
    let by_hand = Process { in_pod: false, ..debian.clone() };
    assert!(!refused(&by_hand, Act::PerfEvent, Errno::EACCES).to_string().contains("securityContext"));
    // It does not say EPERM, has no say in bpf(2), and none over who has the right to it.
    assert_ne!(refused(&debian, Act::PerfEvent, Errno::EPERM).cause, Cause::Paranoid(3));
    assert_ne!(refused(&debian, Act::Bpf, Errno::EACCES).cause, Cause::Paranoid(3));
    let admin = Process { effective: FIVE | SYS_ADMIN, ..debian };
    assert_ne!(refused(&admin, Act::PerfEvent, Errno::EACCES).cause, Cause::Paranoid(3));
}

#[test]
fn lockdown_seccomp_and_sandboxes_are_told_apart() {
    let why = |process: &Process, lockdown| process.why(Act::Bpf, Errno::EPERM, lockdown).unwrap();
    let free = process();
    assert_eq!(why(&free, true).cause, Cause::Lockdown);
    let unknown = why(&free, false);
    assert_eq!((unknown.cause, unknown.cure), (Cause::Unknown, None));
    assert!(unknown.why.contains("CAP_BPF and CAP_PERFMON are held"), "{}", unknown.why);
    // A filter that lets the call through is not what refused it.
    let filtered = Process { filtered: true, ..process() };
    assert_eq!(why(&filtered, false).cause, Cause::Unknown);
    let refusing = Process { refuses: |act| act == Act::Bpf, ..filtered };
    assert_eq!(why(&refusing, true).cause, Cause::Seccomp);
    assert!(why(&refusing, true).cure.unwrap().contains("seccompProfile: {type: Unconfined}"));
    // A map that is refused for its size alone; a program is not.
    let limited = Process { creates_small_maps: || true, module: Some(containerd()), ..process() };
    let map = refused(&limited, Act::CreateMap, Errno::EPERM);
    assert_eq!(map.cause, Cause::Memlock);
    assert!(map.cure.unwrap().contains("SYS_RESOURCE"));
    assert_eq!(why(&limited, false).cause, Cause::Module(containerd()));
    // Whatever else is missing: a capability that is added inside does not reach the host.
    let inside = Process { user_namespace: true, effective: 0, paranoid: || Some(3), ..process() };
    assert_eq!(why(&inside, false).cause, Cause::UserNamespace);
    assert_eq!(refused(&inside, Act::PerfEvent, Errno::EACCES).cause, Cause::UserNamespace);
    // Some filters say that there is no such call.
    let absent = Process { filtered: true, refuses: |act| act == Act::Bpf, ..process() };
    assert_eq!(refused(&absent, Act::Bpf, Errno::ENOSYS).cause, Cause::Seccomp);
    assert_eq!(absent.why(Act::PerfEvent, Errno::ENOSYS, false), None);
    assert_eq!(process().why(Act::Bpf, Errno::ENOSYS, false), None);
}

#[test]
fn what_is_no_refusal_has_no_cause() {
    for error in [Errno::ENOENT, Errno::EINVAL, Errno::ENOTSUP, Errno::EBUSY] {
        assert_eq!(process().why(Act::Bpf, error, true), None);
    }
}

#[test]
fn modules_are_told_apart_by_their_labels() {
    let confines = |apparmor: Option<&str>, first: Option<&str>, permissive| {
        Module::parse(apparmor, first, permissive).map(|module| (module.to_string(), module.confines()))
    };
    let told = |text: &str, confines| Some((text.to_owned(), confines));
    assert_eq!(confines(None, None, false), None);
    // Before 5.8, and of a kernel whose first module it is.
    for first in [None, Some("docker-default (enforce)\n")] {
        let apparmor = Some("docker-default (enforce)\n").filter(|_| first.is_none());
        assert_eq!(confines(apparmor, first, false), told("AppArmor profile docker-default (enforce)", true));
    }
    assert_eq!(
        confines(Some("unconfined\n"), Some("unconfined\n"), false),
        told("AppArmor: unconfined", false)
    );
    assert_eq!(
        confines(Some("a (b) (complain)"), None, false),
        told("AppArmor profile a (b) (complain)", false)
    );
    assert_eq!(
        confines(Some(":k8s://web:a:b (enforce)"), None, false),
        told("AppArmor profile :k8s://web:a:b (enforce)", true)
    );
    let container = "system_u:system_r:container_t:s0:c1,c2";
    assert_eq!(
        confines(None, Some("system_u:system_r:container_t:s0:c1,c2\0"), false),
        told(&format!("SELinux domain {container}"), true)
    );
    assert!(!confines(None, Some(container), true).unwrap().1);
    assert!(!confines(None, Some("system_u:system_r:spc_t:s0"), false).unwrap().1);
    let selinux = Module::parse(Some(""), Some(container), false).unwrap();
    assert_eq!(selinux.cure(true), "set securityContext.seLinuxOptions: {type: spc_t}");
}

#[test]
fn a_pod_is_known_by_what_kubernetes_gives_it() {
    assert!(is_pod(|name| name == "KUBERNETES_SERVICE_HOST", "0::/\n"));
    assert!(is_pod(|name| name == "POD_NAME", ""));
    assert!(is_pod(|_| false, "0::/kubepods.slice/kubepods-podx.slice/cri-containerd-y.scope\n"));
    assert!(!is_pod(|_| false, "0::/user.slice/session-1.scope\n"));
}

#[test]
fn the_first_user_namespace_maps_all() {
    assert!(!maps_some("         0          0 4294967295\n"));
    assert!(!maps_some(""), "a kernel without them");
    assert!(maps_some("         0     100000      65536\n"));
    assert!(maps_some("0 1000 1\n1 100000 65536\n"));
}
