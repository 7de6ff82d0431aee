//! When a follower looks at what, with the clock moved by hand; and what it says, once.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use crate::enrich::tests::node::{Node, SLICE, id, uid};
use crate::log::said::Said;

/// One that has no notifications, after its first reading.
fn blind(node: &Node) -> Follower {
    let mut follower = Follower::new(node.roots(), PodIndex::new(), None);
    follower.work();
    follower
}

fn wait(follower: &Follower) -> Duration {
    follower.next_wake().duration_since(Instant::now())
}

fn parsed(number: u32) -> Uid {
    Uid::parse(uid(number).as_bytes()).unwrap()
}

const MS: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn a_pod_that_starts_is_looked_at_ever_less_often() {
    let node = Node::new();
    node.pod(1);
    let mut follower = blind(&node);
    let mut waits = Vec::new();
    for _ in 0..7 {
        let wait = wait(&follower);
        waits.push(wait.as_millis());
        tokio::time::advance(wait).await;
        follower.work();
    }
    // Then everything is read again every ten seconds: what was not found by then is not looked for on its own.
    assert_eq!(waits, [50, 100, 500, 2000, 5000, 2350, 10_000]);
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_addresses_are_known_is_looked_at_when_it_loses_one() {
    let node = Node::new();
    node.pod(1).run(50, 7, &["10.0.0.5", "10.0.0.6"]);
    let mut follower = blind(&node);
    assert_eq!(wait(&follower), RESYNC_BLIND);
    node.addresses(50, &["10.0.0.5"]);
    tokio::time::advance(RESYNC_BLIND).await;
    follower.work();
    assert_eq!(wait(&follower), SETTLE);
    tokio::time::advance(SETTLE).await;
    follower.work();
    // A further loss leaves the looks as they are planned: at the second of them.
    tokio::time::advance(LOOKS[0]).await;
    node.addresses(50, &["10.0.0.7"]);
    follower.work();
    assert_eq!(wait(&follower), LOOKS[1]);
}

#[tokio::test(start_paused = true)]
async fn a_change_is_looked_at_once_it_has_settled() {
    let node = Node::new();
    let mut follower = blind(&node);
    let level = node.at("cgroup").join(SLICE);
    let (above, pods) = (Place::Above(node.at("cgroup")), Place::Level(level.clone()));
    let mut came = |place: &Place, name: &str| {
        follower.came(place, OsStr::new(name));
        let wait = wait(&follower);
        // As it was, for the next.
        follower.next_full = follower.last_full + RESYNC_BLIND;
        follower.plans.clear();
        wait
    };
    for (place, name, wanted) in [
        (&above, "kubepods.slice", BETWEEN_FULL),
        (&above, "system.slice", RESYNC_BLIND),
        (&Place::AboveLogs, "pods", BETWEEN_FULL),
        (&Place::AboveLogs, "journal", RESYNC_BLIND),
        (&pods, "kubepods-besteffort.slice", BETWEEN_FULL),
        (&pods, "junk", RESYNC_BLIND),
        (&pods, format!("pod{}", uid(1)).as_str(), SETTLE),
        (&Place::Pod(parsed(1)), id(1).as_str(), SETTLE),
        (&Place::Logs, "junk", RESYNC_BLIND),
    ] {
        assert_eq!(came(place, name), wanted, "{place:?} {name}");
    }
    assert_eq!(follower.pods.get(&parsed(1)), Some(&level.join(format!("pod{}", uid(1)))));
    // Long after a full reading the next need not wait for its time.
    tokio::time::advance(BETWEEN_FULL).await;
    follower.came(&above, OsStr::new("kubepods"));
    assert_eq!(wait(&follower), SETTLE);
    tokio::time::advance(30 * MS).await;
    follower.came(&above, OsStr::new("kubepods"));
    assert_eq!(wait(&follower), 20 * MS, "a burst of changes does not put it off");
}

#[tokio::test(start_paused = true)]
async fn what_goes_is_gone_at_once_and_only_where_it_was() {
    let node = Node::new();
    let pod = node.pod(1);
    pod.run(50, 7, &["10.0.0.5"]);
    let mut follower = blind(&node);
    let (level, name) = (pod.cgroup.parent().unwrap().to_owned(), pod.cgroup.file_name().unwrap().to_owned());
    for place in [Place::Above(level.clone()), Place::AboveLogs, Place::Logs, Place::Level("/other".into())] {
        follower.went(&place, &name);
        assert_eq!((follower.count(), wait(&follower)), (1, RESYNC_BLIND), "{place:?}");
    }
    follower.went(&Place::Pod(parsed(1)), OsStr::new(&id(50)));
    assert_eq!(wait(&follower), Duration::ZERO, "its container has ended");
    follower.work();
    assert_eq!(wait(&follower), LOOKS[0]);
    follower.came(&Place::Pod(parsed(1)), OsStr::new(&id(51)));
    tokio::time::advance(30 * MS).await;
    follower.came(&Place::Pod(parsed(1)), OsStr::new(&id(52)));
    assert_eq!(wait(&follower), 20 * MS, "an earlier look stays");
    follower.went(&Place::Level(level), &name);
    assert_eq!((follower.count(), follower.index.pods()[0].gone), (0, true));
    // Its slot is retired in a minute; until then there is nothing to do but to read again.
    assert_eq!(wait(&follower), Duration::from_millis(9970));
}

#[tokio::test(start_paused = true)]
async fn a_full_reading_finds_what_nobody_told() {
    let node = Node::new();
    let (goes, stays) = (node.pod(1), node.pod(2));
    goes.run(50, 7, &["10.0.0.5"]);
    stays.run(60, 8, &["10.0.0.6"]);
    let mut follower = blind(&node);
    goes.remove();
    node.pod(3).run(70, 9, &["10.0.0.7"]);
    tokio::time::advance(RESYNC_BLIND).await;
    follower.work();
    let mut known: Vec<_> =
        follower.index.pods().iter().map(|known| (known.pod.name.clone(), known.gone)).collect();
    known.sort_unstable();
    let wanted = [("p1", true), ("p2", false), ("p3", false)];
    assert_eq!(known, wanted.map(|(name, gone)| (name.to_owned(), gone)));
    assert_eq!((follower.count(), wait(&follower)), (2, RESYNC_BLIND));
}

#[tokio::test(start_paused = true)]
async fn who_is_told_of_changes_reads_everything_once_a_minute() {
    let node = Node::new();
    node.pod(1).run(50, 7, &["10.0.0.5"]);
    let (watches, _events) = Watches::new().unwrap();
    let mut follower = Follower::new(node.roots(), PodIndex::new(), Some(watches));
    follower.work();
    assert_eq!(wait(&follower), RESYNC);
    assert_eq!(follower.index.stats().watches_lost.load(Ordering::Relaxed), 0);
    follower.went(&Place::Level(node.at("cgroup").join(SLICE)), node.pod(1).cgroup.file_name().unwrap());
    // A slot is to be retired in a minute, by the wall clock.
    assert!(wait(&follower) > RESYNC / 2, "{:?}", wait(&follower));
}

/// What is watched now.
fn watched(follower: &mut Follower) -> HashSet<Place> {
    let places = RefCell::new(HashSet::new());
    let note = |place: &Place| places.borrow_mut().insert(place.clone());
    follower.watches.as_mut().unwrap().keep_only(note);
    places.into_inner()
}

/// What is not watched any more, or not yet, is not told; what is watched for nothing takes from the user's share.
#[tokio::test(start_paused = true)]
async fn only_directories_that_pods_may_come_into_are_watched() {
    let node = Node::bare();
    let (watches, _events) = Watches::new().unwrap();
    let mut follower = Follower::new(node.roots(), PodIndex::new(), Some(watches));
    let mut read_again = || {
        follower.next_full = Instant::now();
        follower.work();
        watched(&mut follower)
    };
    let above = Place::Above(node.at("cgroup"));
    assert_eq!(read_again(), HashSet::from([above.clone(), Place::AboveLogs]));
    let (kubepods, class) = (node.at("cgroup/kubepods.slice"), node.at("cgroup").join(SLICE));
    node.pod(1);
    let levels = [Place::Level(kubepods.clone()), Place::Level(class.clone())];
    let all = [&levels[..], &[above.clone(), Place::Logs, Place::Pod(parsed(1))]].concat();
    assert_eq!(read_again(), all.into_iter().collect::<HashSet<_>>());
    fs::remove_dir_all(&kubepods).unwrap();
    assert_eq!(read_again(), HashSet::from([above, Place::Logs]));
}

#[tokio::test(start_paused = true)]
async fn what_keeps_pods_from_being_seen_is_said_once_each() {
    let (said, _subscribed) = Said::from_now_on();
    let node = Node::new();
    let mut follower = blind(&node);
    let mut is_said = |wanted: usize, why: &str| {
        for _ in 0..2 {
            follower.next_full = Instant::now();
            follower.work();
            assert_eq!(said.times(), wanted, "{why}");
        }
    };
    is_said(1, "there are no notifications");
    node.pod(1).run(50, 7, &["10.0.0.5"]);
    is_said(1, "a pod as it should be");
    let hidden = node.pod(2).cgroup.join(id(2));
    fs::create_dir(&hidden).unwrap();
    fs::write(hidden.join("cgroup.procs"), "0\n").unwrap();
    is_said(2, "another pid namespace");
    node.pod(3).run(60, 8, &["10.0.0.6"]);
    fs::remove_file(node.at("proc/60/ns/net")).unwrap();
    symlink("x", node.at("proc/60/ns/net")).unwrap();
    is_said(3, "a namespace that is not shown");
    fs::remove_dir_all(node.at("proc/1")).unwrap();
    is_said(4, "the host's namespace");
    let stats = follower.index.stats();
    let counts = [&stats.pids_hidden, &stats.netns_refused].map(|count| count.load(Ordering::Relaxed));
    // Two looks at each while the host's namespace was seen; then three pods at each of two readings.
    assert_eq!(counts, [4, 2 + 2 * 3]);
}

#[tokio::test]
async fn without_pods_nobody_misses_the_hosts_namespace() {
    let (said, _subscribed) = Said::from_now_on();
    let node = Node::new();
    fs::remove_dir_all(node.at("proc/1")).unwrap();
    let follower = blind(&node);
    assert!(follower.host.is_err());
    assert_eq!(said.times(), 1, "that it has no notifications");
}

#[test]
fn a_fault_of_the_hosts_proc_is_told_from_a_refusal() {
    assert_eq!(
        unseen(Errno::ENOENT),
        "No such file or directory; --host-proc must be a proc file system of the host's pid namespace"
    );
    let refused = unseen(Errno::EACCES);
    assert!(!refused.is_empty() && !refused.contains("--host-proc"), "{refused}");
}

#[test]
fn kubepods_is_awaited_beside_the_one_there_is_or_anywhere() {
    let tree = |above: &[&str], levels: &[&str]| Tree {
        v2: true,
        above: above.iter().map(PathBuf::from).collect(),
        levels: levels.iter().map(PathBuf::from).collect(),
    };
    let told = |tree: &Tree| above_to_watch(tree).cloned().collect::<Vec<_>>();
    assert_eq!(told(&tree(&["/a", "/a/b"], &[])), [Path::new("/a"), Path::new("/a/b")]);
    let levels = ["/a/kubepods/burstable", "/a/kubepods"];
    assert_eq!(told(&tree(&["/", "/a", "/a/b"], &levels)), [Path::new("/a")]);
    let many: Vec<String> = (0..600).map(|number| format!("/{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(told(&tree(&many, &[])).len(), MAX_ABOVE);
}
