//! Each refusal has its cause and its remedy, in the terms of whoever can apply it.

use super::process::{is_pod, maps_some, paranoid, refuses};
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
    let refusing = Process { filtered: true, refuses: |_| true, ..process() };
    for error in [Errno::ENOENT, Errno::EINVAL, Errno::ENOTSUP, Errno::EBUSY] {
        assert_eq!(process().why(Act::Bpf, error, true), None);
        assert_eq!(refusing.why(Act::Bpf, error, true), None, "a filter says ENOSYS or refuses");
    }
    // No filter is in force, so the kernel itself does not know the call.
    let old = Process { refuses: |_| true, ..process() };
    assert_eq!(old.why(Act::Bpf, Errno::ENOSYS, false), None);
}

/// Level 2 is the kernel's own highest, and asks no more than `CAP_PERFMON`.
#[test]
fn what_only_watches_is_not_blamed() {
    let level = |level: fn() -> Option<i32>| {
        let process = Process { paranoid: level, ..process() };
        refused(&process, Act::PerfEvent, Errno::EACCES).cause
    };
    assert_eq!((level(|| Some(2)), level(|| Some(3))), (Cause::Unknown, Cause::Paranoid(3)));
    let complains = Module::parse(Some("web (complain)"), None, false);
    let watched = Process { module: complains, ..process() };
    assert_eq!(refused(&watched, Act::Bpf, Errno::EPERM).cause, Cause::Unknown);
    // Lockdown has no say in maps, nor in what is refused otherwise than it does.
    assert_eq!(process().why(Act::CreateMap, Errno::EPERM, true).unwrap().cause, Cause::Unknown);
    assert_eq!(process().why(Act::Bpf, Errno::EACCES, true).unwrap().cause, Cause::Unknown);
}

#[test]
fn what_is_lacking_is_told_before_anything_is_tried() {
    assert_eq!(process().lacking(), None);
    let some = Process { effective: FIVE & !(1 << 38), ..process() };
    assert_eq!(
        some.lacking().unwrap().to_string(),
        "this process lacks CAP_PERFMON; add PERFMON to securityContext.capabilities.add"
    );
    let inside = Process { user_namespace: true, ..process() };
    assert_eq!(
        inside.lacking().unwrap().to_string(),
        "this process runs in a user namespace, whose capabilities do not reach the host; set hostUsers: true in the \
         pod's spec"
    );
}

#[test]
fn several_refusals_have_each_cure_once() {
    let refused = |cure: Option<&str>| Refused {
        cause: Cause::Unknown,
        why: String::new(),
        cure: cure.map(str::to_owned),
    };
    let all = [refused(Some("a")), refused(None), refused(Some("b")), refused(Some("a"))];
    assert_eq!(cures(&all).as_deref(), Some("a; b"));
    assert_eq!(cures(&all[1..2]), None);
    assert_eq!(cures([]), None);
}

#[test]
fn this_process_is_advised_by_where_it_runs() {
    let own = Process::own();
    let expected = if own.in_pod {
        [
            "set hostPID: true in the pod's spec",
            "set hostNetwork: true in the pod's spec",
            "add SYS_RESOURCE to securityContext.capabilities.add, or give the node's container runtime \
             LimitMEMLOCK=infinity",
        ]
    } else {
        [
            "run it in the host's pid namespace, or mount the host's /proc and name it with --host-proc",
            "run it in the host's network namespace",
            "ulimit -l unlimited, or run it as root",
        ]
    };
    assert_eq!([cure_of_pids(), cure_of_network(), &cure_of_memlock()], expected);
    let right = cure_of(Right::Syslog);
    assert!(right.contains("SYSLOG") || right == "set securityContext.runAsUser: 0", "{right}");
    // A refusal is one whoever asks; a fault is none.
    assert!(why(Act::Bpf, Errno::EPERM, false).is_some());
    assert!(why_io(Act::SeeNetns, &io::Error::from_raw_os_error(nix::libc::EACCES)).is_some());
    assert_eq!(why_io(Act::SeeNetns, &io::Error::from_raw_os_error(nix::libc::ENOENT)), None);
    assert_eq!(why_io(Act::SeeNetns, &io::Error::other("no number")), None);
}

#[test]
fn this_process_holds_what_the_kernel_says_of_it() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    let set = u64::from_str_radix(set, 16).unwrap();
    // Numbers of include/uapi/linux/capability.h; nothing else stands for these.
    for (right, number) in
        [(Right::NetAdmin, 12), (Right::SysPtrace, 19), (Right::SysAdmin, 21), (Right::Syslog, 34)]
    {
        assert_eq!(right.held(), set >> number & 1 == 1, "{right:?} of {set:x}");
    }
    let level = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").ok();
    assert_eq!(paranoid().map(|level| format!("{level}\n")), level);
    assert_eq!(Process::own().paranoid_now(), paranoid());
    // There is no call of its own that a filter could refuse.
    assert!(!refuses(Act::SeeNetns) && !refuses(Act::ListLinks));
}

#[test]
fn a_process_is_read_from_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (own, enforce) = (dir.path().join("self"), dir.path().join("enforce"));
    fs::create_dir_all(own.join("attr/apparmor")).unwrap();
    let write = |name: &str, text: &str| fs::write(own.join(name), text).unwrap();
    let read = || {
        let process = Process::read(&own, &enforce);
        (process.effective, process.bounding, process.filtered, process.user_namespace, process.module)
    };
    write(
        "status",
        "Name:\ta\nCapEff:\t000000c400081000\nCapBnd:\t0000000000200000\nSeccomp:\t2\nSeccomp_filters:\t0\n",
    );
    write("uid_map", "         0     100000      65536\n");
    write("attr/apparmor/current", "web (enforce)\n");
    let profile = Module::AppArmor { profile: "web".to_owned(), mode: Some("enforce".to_owned()) };
    assert_eq!(read(), (FIVE, SYS_ADMIN, true, true, Some(profile)));
    // SECCOMP_MODE_STRICT is no filter, and SELinux may be told to refuse nothing.
    write("status", "CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nSeccomp:\t1\n");
    write("uid_map", "         0          0 4294967295\n");
    let context = "system_u:system_r:container_t:s0";
    write("attr/current", context);
    for (mode, permissive) in [("0", true), ("1", false), ("0\n", true)] {
        fs::write(&enforce, mode).unwrap();
        let domain = Module::SeLinux { context: context.to_owned(), permissive };
        assert_eq!(read(), (0, 0, false, false, Some(domain)), "{mode:?}");
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
    // Neither of a module that calls it after a file, nor with a part missing, is it a context.
    for label in ["/opt/a:b:c", "a::c", "a:b"] {
        assert_eq!(confines(None, Some(label), false), told(&format!("AppArmor: {label}"), false));
    }
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
