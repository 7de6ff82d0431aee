//! What is taken for a pod's cgroup or log directory keeps Kubernetes' rules, and is written back as it was read.
#![no_main]

use agent::enrich::cgroup::{self, Container, PodCgroup, Qos, Runtime, Uid};
use agent::enrich::names as log_directory;
use fuzz::names::{is_label, is_subdomain, is_uid};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(pod) = log_directory::parse(data) {
        assert!(is_label(&pod.namespace) && is_subdomain(&pod.name) && is_uid(&pod.uid), "{pod:?}");
        assert_eq!(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid).as_bytes(), data);
    }
    if let Some(found) = cgroup::parse(data) {
        assert!(is_uid(found.uid.as_str()), "{found:?}");
        assert!(says(data, &found), "{found:?} is not in {}", data.escape_ascii());
        for path in [plain(&found), sliced(&found)] {
            assert_eq!(cgroup::parse(path.as_bytes()).as_ref(), Some(&found), "{path}");
        }
    }
    if !data.contains(&b'/') {
        one_directory(data);
    }
});

/// One directory's name, as the walk through the tree reads it.
fn one_directory(name: &[u8]) {
    if let Some((uid, _)) = cgroup::pod_dir(name) {
        assert!(is_uid(uid.as_str()), "{uid}");
        assert!(!cgroup::is_kubepods(name) && cgroup::qos_dir(name).is_none(), "one name, two levels");
        let found = cgroup::parse(name).expect("a pod's directory is a path to a pod");
        assert_eq!(found.uid, uid);
    }
    if let Some(container) = cgroup::container_dir(name) {
        assert!(
            container.id.len() == 64 && container.id.chars().all(|c| c.is_ascii_hexdigit()),
            "{container:?}"
        );
        let path = [b"/kubepods/pod5c2f8b1d9e7a4f3c6b0d1e2f3a4b5c6d/", name].concat();
        assert_eq!(cgroup::parse(&path).and_then(|found| found.container), Some(container));
    }
    if let Some(uid) = Uid::parse(name) {
        assert!(is_uid(uid.as_str()) && uid.as_str().as_bytes() == name, "{uid}");
    }
}

/// Whether the path itself has the uid and the container's id: nothing is made up.
fn says(path: &[u8], found: &PodCgroup) -> bool {
    let has = |text: &str| path.windows(text.len()).any(|window| window == text.as_bytes());
    let uid = found.uid.as_str();
    let id = found.container.as_ref().is_none_or(|container| has(&container.id));
    id && (has(&format!("pod{uid}")) || has(&format!("pod{}", uid.replace('-', "_"))))
}

/// As kubelet with the cgroupfs driver has it.
fn plain(found: &PodCgroup) -> String {
    let class = class(found.qos).map_or(String::new(), |class| format!("{class}/"));
    let below = match &found.container {
        None => String::new(),
        Some(Container { id, runtime: Runtime::Unsaid }) => format!("/{id}"),
        Some(Container { id, runtime }) => format!("/{}{id}", prefix(*runtime)),
    };
    format!("/kubepods/{class}pod{}{below}", found.uid)
}

/// As kubelet with the systemd driver has it; what no scope says keeps its bare id.
fn sliced(found: &PodCgroup) -> String {
    let (above, class) = match class(found.qos) {
        None => (String::new(), String::new()),
        Some(class) => (format!("kubepods-{class}.slice/"), format!("-{class}")),
    };
    let uid = found.uid.as_str().replace('-', "_");
    let below = match &found.container {
        None => String::new(),
        Some(Container { id, runtime: Runtime::Unsaid }) => format!("/{id}"),
        Some(Container { id, runtime }) => format!("/{}{id}.scope", prefix(*runtime)),
    };
    format!("/kubepods.slice/{above}kubepods{class}-pod{uid}.slice{below}")
}

fn class(qos: Qos) -> Option<&'static str> {
    match qos {
        Qos::Guaranteed => None,
        Qos::Burstable => Some("burstable"),
        Qos::BestEffort => Some("besteffort"),
    }
}

fn prefix(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Containerd => "cri-containerd-",
        Runtime::Crio => "crio-",
        Runtime::Docker => "docker-",
        Runtime::Unsaid => "",
    }
}
