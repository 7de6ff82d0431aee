//! Trees of directories as kubelet and its runtimes make them, and processes as `/proc` shows them.

use std::net::IpAddr;
use std::os::unix::fs::symlink;

use super::*;
use crate::enrich::tests::node::{HOST_NETNS, Node, id};

fn dirs(top: &Path, names: &[&str]) {
    for name in names {
        fs::create_dir_all(top.join(name)).unwrap();
    }
}

/// The directories of a tree relative to `top`, in order.
fn told(top: &Path, found: &[PathBuf]) -> Vec<String> {
    let relative = |dir: &PathBuf| dir.strip_prefix(top).unwrap().display().to_string();
    let mut told: Vec<String> = found.iter().map(relative).collect();
    told.sort_unstable();
    told
}

#[test]
fn kubelets_tree_is_looked_for_five_levels_deep() {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path();
    fs::write(top.join("cgroup.controllers"), "").unwrap();
    dirs(top, &["a/b/c/d/kubepods/burstable", "a/b/c/d/e/kubepods", "a/b/c/d/kubepods/other"]);
    let found = tree(top);
    assert!(found.v2);
    assert_eq!(told(top, &found.above), ["", "a", "a/b", "a/b/c", "a/b/c/d"]);
    assert_eq!(told(top, &found.levels), ["a/b/c/d/kubepods", "a/b/c/d/kubepods/burstable"]);
}

#[test]
fn of_version_one_the_hierarchy_with_pods_counts_or_else_the_first_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let top = dir.path();
    assert_eq!(tree(top), Tree::default());
    dirs(top, &["memory/a", "systemd/b"]);
    let found = tree(top);
    assert_eq!(
        (found.v2, told(top, &found.above)),
        (false, vec!["memory".to_owned(), "memory/a".to_owned()])
    );
    dirs(top, &["systemd/kubepods"]);
    let found = tree(top);
    assert_eq!(told(top, &found.levels), ["systemd/kubepods"]);
    assert_eq!(told(top, &found.above), ["systemd", "systemd/b"]);
}

/// Whoever may make cgroups is not to make us look into them all.
#[test]
fn no_more_directories_are_looked_into_than_there_may_be() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..MAX_DIRS + 10 {
        fs::create_dir(dir.path().join(number.to_string())).unwrap();
    }
    for number in 0..40 {
        fs::create_dir(dir.path().join(format!("{number}/child"))).unwrap();
    }
    assert_eq!(below(dir.path()).above.len(), MAX_DIRS + 1, "with the top itself");
}

/// A look at the pod at `dir`, and what was counted.
fn look_at(node: &Node, dir: &Path) -> (Net, Tally) {
    let (host, mut tally) = (Host::read(&node.at("proc")).unwrap(), Tally::default());
    let seen = look(dir, true, &node.at("proc"), Some(&host), &mut tally).unwrap();
    (seen.net, tally)
}

fn own(netns: u32, pid: u32, addresses: &[&str]) -> Net {
    let addresses = addresses.iter().map(|address| address.parse::<IpAddr>().unwrap()).collect();
    Net::Own { netns, pid, addresses }
}

#[test]
fn a_pods_network_is_its_oldest_processs_without_what_is_the_hosts() {
    let node = Node::new();
    let pod = node.pod(1);
    pod.run(60, 8, &["10.0.0.6"]);
    pod.run(50, 7, &["10.0.0.5", "192.0.2.1", "10.0.0.9"]);
    let of_host = Tally { of_host: 1, ..Tally::default() };
    assert_eq!(look_at(&node, &pod.cgroup), (own(7, 50, &["10.0.0.5", "10.0.0.9"]), of_host));
    node.process(40, HOST_NETNS, &[]);
    pod.run(40, HOST_NETNS, &[]);
    assert_eq!(look_at(&node, &pod.cgroup), (Net::Host, Tally::default()));
}

#[test]
fn what_cannot_be_read_of_a_pod_is_counted_by_why() {
    let node = Node::new();
    let unknown = |dir: &Path, tally: Tally| assert_eq!(look_at(&node, dir), (Net::Unknown, tally));
    let empty = node.pod(1);
    unknown(&empty.cgroup, Tally::default());
    let hidden = node.pod(2);
    let dir = hidden.cgroup.join(id(2));
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("cgroup.procs"), "0\n0\n").unwrap();
    unknown(&hidden.cgroup, Tally { hidden: 1, ..Tally::default() });
    // As Linux 5.10 refuses: by a link that names nothing.
    let refused = node.pod(3);
    refused.run(50, 7, &["10.0.0.5"]);
    fs::remove_file(node.at("proc/50/ns/net")).unwrap();
    symlink("x", node.at("proc/50/ns/net")).unwrap();
    unknown(&refused.cgroup, Tally { refused: 1, ..Tally::default() });
    // Its addresses are gone before they are read, at every try.
    let raced = node.pod(4);
    raced.run(60, 8, &["10.0.0.6"]);
    fs::remove_file(node.at("proc/60/net/fib_trie")).unwrap();
    unknown(&raced.cgroup, Tally { raced: 3, ..Tally::default() });
}

#[test]
fn a_process_counts_where_it_is_still_the_pods_and_where_it_was() {
    let node = Node::new();
    let pod = node.pod(1);
    pod.run(50, 7, &[]);
    let container = pod.cgroup.join(format!("cri-containerd-{}.scope", id(50)));
    let member = Member::open(container.clone(), 50, &node.at("proc")).unwrap();
    assert_eq!([7, 8].map(|netns| member.is_still_here(netns)), [true, false], "it may have gone elsewhere");
    fs::write(container.join("cgroup.procs"), "51\n").unwrap();
    assert!(!member.is_still_here(7), "it may have left");
}

#[test]
fn a_containers_process_is_its_own_or_the_oldest_nested_in_it() {
    let node = Node::new();
    let dir = tempfile::tempdir().unwrap();
    let container = dir.path();
    let procs = |name: &str, text: &str| {
        fs::create_dir_all(container.join(name)).unwrap();
        fs::write(container.join(name).join("cgroup.procs"), text).unwrap();
    };
    let oldest = || {
        let mut tally = Tally::default();
        let member = oldest(container, &node.at("proc"), &mut tally);
        (member.map(|member| member.pid), tally.hidden)
    };
    for pid in [50, 60, 70] {
        node.process(pid, 7, &[]);
    }
    procs("", "");
    assert_eq!(oldest(), (None, 0));
    procs("init", "70\n");
    procs("other", "60\n");
    assert_eq!(oldest(), (Some(60), 0));
    // What has a process of its own is not looked into; who has ended is passed over, however many.
    procs("", &("4000000\n".repeat(400) + "70\n"));
    assert_eq!(oldest(), (Some(70), 0));
    procs("", "0\n50\n");
    assert_eq!(oldest(), (Some(50), 1));
}

#[test]
fn a_pod_is_as_old_as_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    // Later than its making, as an entry in it makes it.
    fs::create_dir(dir.path().join("a")).unwrap();
    let made = fs::metadata(dir.path().join("a")).unwrap();
    assert_eq!(born(&made), made.modified().unwrap());
}
