//! Pods that come, go and lie, in trees made on the spot and followed by real notifications.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use super::*;
use crate::pod::{SlotKey, Subject};
use crate::shutdown;

mod addresses;
pub(crate) mod node;

use node::{HOST_NETNS, Kernel, Node, Running, SLICE, Scratch, Started, id, ip, ip_key, uid};

#[tokio::test]
async fn pods_that_are_there_are_known_at_once_with_every_driver_and_runtime() {
    let long = id(9);
    let uid_of = |number: u32| uid(number).replace('-', "_");
    let cases = [
        ("cgroup", format!("kubepods/burstable/pod{}", uid(1)), long.clone()),
        ("cgroup", format!("kubepods/pod{}", uid(1)), format!("crio-{long}")),
        (
            "cgroup",
            format!("{SLICE}/kubepods-burstable-pod{}.slice", uid_of(1)),
            format!("cri-containerd-{long}.scope"),
        ),
        (
            "cgroup",
            format!("kubepods.slice/kubepods-pod{}.slice", uid_of(1)),
            format!("crio-{long}.scope/container"),
        ),
        (
            "cgroup",
            format!("kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{}.slice", uid_of(1)),
            format!("docker-{long}.scope"),
        ),
        (
            "cgroup",
            format!("system.slice/docker-{long}.scope/kubelet/kubepods/besteffort/pod{}", uid(1)),
            long.clone(),
        ),
        ("cgroup/pids", format!("kubepods/besteffort/pod{}", uid(1)), long.clone()),
        (
            "cgroup/systemd",
            format!("kubepods.slice/kubepods-pod{}.slice", uid_of(1)),
            format!("docker-{long}.scope"),
        ),
    ];
    for (mount, path, container) in cases {
        let node = Node::bare();
        let v1 = mount != "cgroup";
        if v1 {
            fs::remove_file(node.at("cgroup/cgroup.controllers")).unwrap();
            fs::create_dir_all(node.at("cgroup/memory/system.slice")).unwrap();
        }
        let pod = node.pod_at(1, node.at(mount).join(&path));
        pod.run_as(&container, 50, 7, &["10.0.0.5", "fd00::5"]);
        // CRI-O's monitor lives in the host's namespace and is older than all.
        node.process(40, HOST_NETNS, &[]);
        let monitor = pod.cgroup.join(format!("crio-conmon-{}.scope", id(8)));
        fs::create_dir(&monitor).unwrap();
        fs::write(monitor.join("cgroup.procs"), "40\n").unwrap();
        let running = node.start().await;
        for subject in [ip("10.0.0.5"), ip("fd00::5"), Subject::Netns(7)] {
            assert_eq!(running.now(subject).as_deref(), Some("p1"), "{path} {subject:?}");
        }
        for dir in [pod.cgroup.clone(), pod.cgroup.join(container.split('/').next().unwrap())] {
            let inode = fs::metadata(dir).unwrap().ino();
            let wanted = (!v1).then_some("p1");
            assert_eq!(running.now(Subject::Cgroup(inode)).as_deref(), wanted, "{path}");
        }
        running.end().await;
    }
}

#[tokio::test]
async fn where_there_is_no_kubelet_the_index_is_empty_until_there_is_one() {
    let node = Node::bare();
    let running = node.start().await;
    assert_eq!(running.index.pods(), []);
    let pod = node.pod_at(1, node.at("cgroup/kubepods").join(format!("pod{}", uid(1))));
    pod.run_as(&id(1), 50, 7, &["10.0.0.5"]);
    running.until("a pod of a later kubelet", || running.now(ip("10.0.0.5")).is_some()).await;
    assert_eq!(running.now(Subject::Netns(7)).as_deref(), Some("p1"));
    running.end().await;
}

#[tokio::test]
async fn nothing_at_all_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let none = dir.path().join("none");
    let (shutdown, drain) = shutdown::channel();
    let roots = Roots { proc: none.clone(), cgroup: none.clone(), pod_logs: none.join("pods") };
    let (index, task) = start(roots, drain).await;
    assert_eq!(index.pods(), []);
    shutdown.start();
    task.await.unwrap();
}

#[tokio::test]
async fn a_pod_is_followed_through_its_start() {
    let node = Node::new();
    let running = node.start().await;
    let kernel = running.slots();
    let pod = node.pod(1);
    let born = SystemTime::now();
    // As a runtime does it: the cgroup, then a process still in the host's namespace, then its own, then addresses.
    let container = pod.cgroup.join(format!("crio-{}.scope", id(1)));
    fs::create_dir(&container).unwrap();
    fs::write(container.join("cgroup.procs"), "").unwrap();
    running.until("the pod is known by its names", || running.index.pods().len() == 1).await;
    pod.run_as(&format!("crio-{}.scope", id(1)), 50, HOST_NETNS, &["192.0.2.1"]);
    node.process(50, 7, &[]);
    running.until("the namespace is bound", || kernel.slot(SlotKey::Netns(7)).is_some()).await;
    node.addresses(50, &["10.0.0.5", "192.0.2.1"]);
    running.until("the address is bound", || kernel.slot(ip_key("10.0.0.5")).is_some()).await;
    assert_eq!(kernel.slot(ip_key("10.0.0.5")), kernel.slot(SlotKey::Netns(7)));
    assert_eq!(running.who(Subject::Netns(7), born).as_deref(), Some("p1"), "younger than its first event");
    assert_eq!(kernel.slot(ip_key("192.0.2.1")), None, "the host's address is no pod's");
    let second = running.slots();
    assert_eq!(second.0.lock().unwrap().bound, kernel.0.lock().unwrap().bound, "a later probe is filled");
    running.end().await;
}

#[tokio::test]
async fn an_address_passes_to_another_pod_within_a_second() {
    let node = Node::new();
    let first = node.pod(1);
    first.run(50, 7, &["10.0.0.5"]);
    let running = node.start().await;
    let kernel = running.slots();
    let old_slot = kernel.slot(ip_key("10.0.0.5")).unwrap();
    let before = SystemTime::now();
    node.tick();
    first.remove();
    running.until("the first is unbound", || kernel.slot(ip_key("10.0.0.5")).is_none()).await;
    let between = SystemTime::now();
    let second = node.pod(2);
    second.run(60, 8, &["10.0.0.5"]);
    running.until("the second is bound", || kernel.slot(ip_key("10.0.0.5")).is_some()).await;
    assert_ne!(kernel.slot(ip_key("10.0.0.5")), Some(old_slot));
    assert!(SystemTime::now().duration_since(before).unwrap() < Duration::from_secs(10));
    assert_eq!(running.who(ip("10.0.0.5"), before).as_deref(), Some("p1"));
    assert_ne!(running.who(ip("10.0.0.5"), between).as_deref(), Some("p1"));
    assert_eq!(running.now(ip("10.0.0.5")).as_deref(), Some("p2"));
    assert_eq!(running.now(Subject::Slot(old_slot)).as_deref(), Some("p1"));
    running.end().await;
}

/// The clock is moved by hand: what is told within its 20 seconds was not found by the reading of every minute.
#[tokio::test(start_paused = true)]
async fn an_address_that_was_away_for_a_moment_is_known_again() {
    let node = Node::new();
    node.pod(1).run(50, 7, &["10.0.0.5", "fd00::5"]);
    let running = node.start().await;
    node.addresses(50, &["10.0.0.5"]);
    tokio::time::advance(Duration::from_mins(1)).await;
    running.until("the reading of every minute misses it", || running.now(ip("fd00::5")).is_none()).await;
    node.addresses(50, &["10.0.0.5", "fd00::5"]);
    running.until("it is looked for", || running.now(ip("fd00::5")).is_some()).await;
    running.end().await;
}

#[tokio::test]
async fn an_address_of_two_pods_is_nobodys() {
    let node = Node::new();
    let first = node.pod(1);
    first.run(50, 7, &["10.0.0.5"]);
    let running = node.start().await;
    let kernel = running.slots();
    let alone = SystemTime::now();
    node.tick();
    let second = node.pod(2);
    second.run(60, 8, &["10.0.0.5", "10.0.0.6"]);
    running.until("the second is bound", || kernel.slot(ip_key("10.0.0.6")).is_some()).await;
    assert_eq!(kernel.slot(ip_key("10.0.0.5")), None);
    let both = SystemTime::now();
    assert_eq!(running.who(ip("10.0.0.5"), both), None);
    first.remove();
    running.until("it is the second's", || kernel.slot(ip_key("10.0.0.5")).is_some()).await;
    assert_eq!(running.who(ip("10.0.0.5"), alone).as_deref(), Some("p1"));
    assert_eq!(running.who(ip("10.0.0.5"), both), None, "also afterwards");
    assert_eq!(running.now(ip("10.0.0.5")).as_deref(), Some("p2"));
    running.end().await;
}

#[tokio::test]
async fn a_pod_in_the_hosts_network_is_never_mapped() {
    let node = Node::new();
    let pod = node.pod(1);
    pod.run(50, HOST_NETNS, &["192.0.2.1", "198.51.100.7"]);
    // A container of it that made a namespace of its own later on.
    pod.run(60, 9, &["172.17.0.1"]);
    let running = node.start().await;
    let kernel = running.slots();
    assert_eq!(running.index.pods().len(), 1);
    assert_eq!(running.index.pods()[0].slot, None);
    assert!(kernel.0.lock().unwrap().bound.is_empty());
    for subject in [ip("192.0.2.1"), ip("172.17.0.1"), Subject::Netns(HOST_NETNS), Subject::Netns(9)] {
        assert_eq!(running.now(subject), None, "{subject:?}");
    }
    running.end().await;
}

#[tokio::test]
async fn with_no_sight_of_the_hosts_namespace_no_pod_has_an_address() {
    let node = Node::new();
    fs::remove_dir_all(node.at("proc/1")).unwrap();
    node.pod(1).run(50, HOST_NETNS, &["10.0.0.5"]);
    let running = node.start().await;
    assert_eq!(running.index.pods().len(), 1);
    assert_eq!(running.now(ip("10.0.0.5")), None);
    running.end().await;
}

#[tokio::test]
async fn a_pod_that_is_gone_is_told_until_its_slot_is_retired() {
    let node = Node::new();
    let pod = node.pod(1);
    pod.run(50, 7, &["10.0.0.5"]);
    let running = node.start().await;
    let kernel = running.slots();
    kernel.0.lock().unwrap().asks = Some(running.index.clone());
    let slot = kernel.slot(SlotKey::Netns(7)).unwrap();
    let event = SystemTime::now();
    pod.remove();
    running.until("the pod is gone", || running.index.pods()[0].gone).await;
    assert!(kernel.0.lock().unwrap().bound.is_empty());
    for subject in [Subject::Slot(slot), Subject::Netns(7), ip("10.0.0.5")] {
        assert_eq!(running.who(subject, event).as_deref(), Some("p1"), "{subject:?}");
    }
    assert_eq!(running.now(ip("10.0.0.5")), None);
    running.index.reap(SystemTime::now() + Duration::from_secs(61));
    assert_eq!(
        kernel.0.lock().unwrap().retired,
        [(slot, Some("p1".to_owned()))],
        "told before it is forgotten"
    );
    assert_eq!(running.who(Subject::Slot(slot), event), None);
    assert_eq!(running.index.pods(), []);
    running.end().await;
}

#[tokio::test]
async fn a_full_map_of_one_probe_leaves_user_space_right() {
    let node = Node::new();
    node.pod(1).run(50, 7, &["10.0.0.5"]);
    let running = node.start().await;
    let kernel = Kernel::default();
    kernel.0.lock().unwrap().refuses = true;
    running.index.register(Box::new(kernel));
    assert_eq!(running.index.stats().binds_refused.load(Ordering::Relaxed), 2);
    assert_eq!(running.now(ip("10.0.0.5")).as_deref(), Some("p1"));
    running.end().await;
}

#[tokio::test]
async fn a_process_that_is_no_longer_the_pods_gives_nothing() {
    let node = Node::new();
    let pod = node.pod(1);
    // In the list when it was opened, gone from /proc, or of another pid namespace.
    pod.run(50, 7, &["10.0.0.5"]);
    fs::remove_dir_all(node.at("proc/50")).unwrap();
    let hidden = pod.cgroup.join(format!("docker-{}.scope", id(2)));
    fs::create_dir(&hidden).unwrap();
    fs::write(hidden.join("cgroup.procs"), "0\n0\n").unwrap();
    let running = node.start().await;
    assert_eq!(running.now(ip("10.0.0.5")), None);
    assert!(running.index.stats().pids_hidden.load(Ordering::Relaxed) > 0);
    running.end().await;
}

#[tokio::test]
async fn nonsense_among_kubelets_directories_is_ignored() {
    let node = Node::new();
    let running = node.start().await;
    for junk in ["a\nb", "\u{1b}[2J", "default_\"x\"_y", "a_b_c_d"] {
        fs::create_dir(node.at("log/pods").join(junk)).unwrap();
        fs::create_dir(node.at("cgroup").join(SLICE).join(junk)).unwrap();
    }
    let upper = uid(0xabc).to_uppercase();
    fs::create_dir(node.at("cgroup").join(SLICE).join(format!("pod{upper}"))).unwrap();
    node.pod(1).run(50, 7, &["10.0.0.5"]);
    running.until("the real pod", || running.now(ip("10.0.0.5")).is_some()).await;
    assert_eq!(running.index.pods().len(), 1);
    // Once named, a pod keeps its name.
    fs::create_dir(node.at("log/pods").join(format!("default_forged_{}", uid(1)))).unwrap();
    let contested = &running.index.stats().names_contested;
    running.until("the forgery", || contested.load(Ordering::Relaxed) == 1).await;
    assert_eq!(running.now(ip("10.0.0.5")).as_deref(), Some("p1"));
    running.end().await;
}

#[tokio::test]
async fn an_overflow_of_notifications_ends_in_a_full_reading() {
    let node = Node::new();
    let running = node.start().await;
    // The test's only thread makes more changes than the kernel's queue holds before the follower can read any.
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    let (one, other) = (node.at("log/pods/one"), node.at("log/pods/other"));
    fs::create_dir(&one).unwrap();
    for _ in 0..=limit / 4 {
        fs::rename(&one, &other).unwrap();
        fs::rename(&other, &one).unwrap();
    }
    node.pod(1).run(50, 7, &["10.0.0.5"]);
    running.until("the pod whose notification was lost", || running.now(ip("10.0.0.5")).is_some()).await;
    assert_eq!(running.index.stats().watches_lost.load(Ordering::Relaxed), 1);
    running.end().await;
}

#[tokio::test]
async fn a_container_that_ends_takes_the_address_with_it() {
    let node = Node::new();
    let pod = node.pod(1);
    pod.run(50, 7, &["10.0.0.5"]);
    let running = node.start().await;
    let kernel = running.slots();
    let scope = pod.cgroup.join(format!("cri-containerd-{}.scope", id(50)));
    fs::remove_dir_all(&scope).unwrap();
    running.until("unbound", || kernel.slot(ip_key("10.0.0.5")).is_none()).await;
    pod.run(70, 9, &["10.0.0.9"]);
    running.until("the new sandbox", || kernel.slot(ip_key("10.0.0.9")).is_some()).await;
    assert_eq!(kernel.slot(SlotKey::Netns(7)), None);
    running.end().await;
}

/// Real processes in real network namespaces and real cgroups of either version, as far as the machine has them.
#[tokio::test]
async fn a_real_process_is_found_by_its_real_namespace() {
    let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    let v2 = mounts.into_iter().find(|mount| mount.join("cgroup.controllers").exists());
    let v1 = Path::new("/sys/fs/cgroup/pids");
    if !nix::unistd::geteuid().is_root() || v2.is_none() {
        assert!(std::env::var_os("CI").is_none(), "CI runs this as root on a machine with cgroup version 2");
    } else if let Some(mount) = v2 {
        follow_a_real_process(mount, mount).await;
        if v1.join("cgroup.procs").exists() {
            follow_a_real_process(mounts[0], v1).await;
        }
    }
}

async fn follow_a_real_process(mount: &Path, hierarchy: &Path) {
    let node = Node::new();
    let top = Scratch::new(hierarchy.join(format!("r2c-test-{}", std::process::id())));
    // This test's namespace stands for the host's: who may not look at process 1 can still run it.
    fs::remove_dir_all(node.at("proc/1")).unwrap();
    symlink("/proc/self", node.at("proc/1")).unwrap();
    fs::create_dir(top.0.join("kubepods")).unwrap();
    let (shutdown, drain) = shutdown::channel();
    let (index, task) = start(Roots { cgroup: mount.to_owned(), ..node.roots() }, drain).await;
    let running = Running { index, task, shutdown };
    let kernel = running.slots();
    let pod = node.pod_at(1, top.0.join("kubepods").join(format!("pod{}", uid(1))));
    let container = pod.cgroup.join(id(1));
    fs::create_dir(&container).unwrap();
    let script = "ip addr add 10.213.7.5/32 dev lo && ip link set lo up && exec sleep 600";
    let mut child =
        Started(std::process::Command::new("unshare").args(["--net", "sh", "-c", script]).spawn().unwrap());
    let pid = child.0.id();
    symlink(format!("/proc/{pid}"), node.at("proc").join(pid.to_string())).unwrap();
    fs::write(container.join("cgroup.procs"), pid.to_string()).unwrap();
    running.until("the address", || kernel.slot(ip_key("10.213.7.5")).is_some()).await;
    let link = fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    let text = link.to_str().unwrap();
    let netns = text.trim_start_matches("net:[").trim_end_matches(']').parse().unwrap();
    assert_eq!(running.now(Subject::Netns(netns)).as_deref(), Some("p1"));
    let inode = fs::metadata(&container).unwrap().ino();
    // An inode of version 1 is nothing the kernel side would name a pod by.
    let wanted = (mount == hierarchy).then_some("p1");
    assert_eq!(running.now(Subject::Cgroup(inode)).as_deref(), wanted);
    child.end();
    // A process that has ended leaves its cgroup a moment later.
    running.until("the container is empty", || fs::remove_dir(&container).is_ok()).await;
    fs::remove_dir(&pod.cgroup).unwrap();
    running.until("the end", || running.index.pods()[0].gone).await;
    assert_eq!(kernel.slot(SlotKey::Netns(netns)), None);
    running.end().await;
}
