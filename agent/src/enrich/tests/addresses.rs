//! Whose the addresses of this node are, whether all are known, and how a pod's namespace is held.

use super::*;

/// Each with whose it is, in the order told.
fn told(node: &Node, running: &Running) -> (Vec<(String, String)>, bool) {
    let Addresses { known, in_part } = addresses(&node.at("proc"), &running.index);
    (known.into_iter().map(|(address, whose)| (address.to_string(), whose)).collect(), in_part)
}

fn is_in_part(node: &Node, running: &Running) -> bool {
    told(node, running).1
}

#[tokio::test]
async fn an_address_is_a_pods_or_the_hosts() {
    let node = Node::new();
    node.pod(2).run(60, 8, &["10.0.0.6"]);
    node.pod(1).run(50, 7, &["fd00::5", "10.0.0.5"]);
    node.pod(3).run(70, HOST_NETNS, &["192.0.2.1"]);
    let running = node.start().await;
    let (known, in_part) = told(&node, &running);
    let wanted = [
        ("10.0.0.5", "default/p1"),
        ("fd00::5", "default/p1"),
        ("10.0.0.6", "default/p2"),
        ("192.0.2.1", "host"),
    ];
    assert_eq!(known, wanted.map(|(address, whose)| (address.to_owned(), whose.to_owned())));
    assert!(!in_part, "all were seen");
    // What was hidden once may have been an address.
    running.index.stats().pids_hidden.store(1, Ordering::Relaxed);
    assert!(is_in_part(&node, &running));
    running.end().await;
}

/// Who takes a list in part for whole says of a pod's address that nobody has it.
#[tokio::test]
async fn a_list_is_in_part_while_some_pod_is_not_seen() {
    let node = Node::new();
    node.pod(1).run(50, 7, &["10.0.0.5"]);
    let starts = node.pod(2);
    let running = node.start().await;
    assert!(is_in_part(&node, &running), "no process of it yet");
    starts.run(60, 8, &["10.0.0.6"]);
    running.until("it has started", || running.now(ip("10.0.0.6")).is_some()).await;
    assert!(!is_in_part(&node, &running));
    starts.remove();
    running.until("it is gone", || running.index.pods().iter().any(|known| known.gone)).await;
    assert!(!is_in_part(&node, &running), "who is gone has no address");
    let third = node.pod(3);
    third.run(70, 7, &["10.0.0.5"]);
    running.until("the namespace is two pods'", || running.now(Subject::Netns(7)).is_none()).await;
    assert!(is_in_part(&node, &running), "neither has it to itself");
    running.end().await;
}

#[tokio::test]
async fn a_list_is_in_part_where_a_pod_has_no_name_ends_or_has_too_many() {
    let node = Node::new();
    node.pod(1).run(50, 7, &["10.0.0.5"]);
    fs::remove_dir(node.at("log/pods").join(format!("default_p1_{}", uid(1)))).unwrap();
    let running = node.start().await;
    assert_eq!(told(&node, &running), (vec![("192.0.2.1".to_owned(), "host".to_owned())], true));
    running.end().await;

    let node = Node::new();
    node.pod(1).run(50, 7, &["10.0.0.5"]);
    let running = node.start().await;
    let many: Vec<String> = (1..=65).map(|last| format!("10.0.1.{last}")).collect();
    node.addresses(50, &many.iter().map(String::as_str).collect::<Vec<_>>());
    let (known, in_part) = told(&node, &running);
    assert_eq!((known.len(), in_part), (65, true), "64 of the pod and one of the host");
    fs::remove_dir_all(node.at("proc/50")).unwrap();
    let (known, in_part) = told(&node, &running);
    assert_eq!((known.len(), in_part), (1, true), "its process has ended");
    running.end().await;
}

#[test]
fn a_pods_namespace_is_held_by_its_uid() {
    let node = Node::new();
    let pod = node.pod(1);
    pod.run(50, 7, &[]);
    // This process stands for the pod's.
    fs::remove_dir_all(node.at("proc/50")).unwrap();
    symlink(format!("/proc/{}", std::process::id()), node.at("proc/50")).unwrap();
    let held = hold_netns(&node.roots(), &uid(1)).unwrap().unwrap();
    assert_eq!(netns::inode_of(&held), netns::own());
    assert!(hold_netns(&node.roots(), &uid(2)).unwrap().is_none(), "it is another's");
    pod.remove();
    assert!(hold_netns(&node.roots(), &uid(1)).unwrap().is_none(), "it is gone");
}
