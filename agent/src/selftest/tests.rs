//! Where drops are made, how many, and how long their counts are waited for.

use std::net::{Ipv4Addr, UdpSocket};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::*;

#[test]
fn drops_are_made_on_the_first_two_cpus_that_may_be_used() {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:\t")).unwrap();
    // As 0-1,4: the first of the list, and the next after it.
    let ranges = list.split(',').map(|range| range.split_once('-').unwrap_or((range, range)));
    let allowed: Vec<usize> = ranges
        .flat_map(|(first, last)| first.parse::<usize>().unwrap()..=last.parse().unwrap())
        .take(THREADS)
        .collect();
    let [first, second] = cpus().unwrap();
    assert_eq!((first, second), (allowed[0], allowed[allowed.len() - 1]), "{list}");
}

#[test]
fn a_thread_makes_drops_on_its_cpu_alone() {
    let [first, _] = cpus().unwrap();
    let allowed = thread::spawn(move || {
        pin(first).unwrap();
        sched_getaffinity(Pid::from_raw(0)).unwrap()
    });
    let allowed = allowed.join().unwrap();
    let allowed: Vec<usize> = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap()).collect();
    assert_eq!(allowed, [first]);
}

/// Its datagrams, which in a namespace of its own would be lost, arrive.
#[test]
fn a_thread_makes_as_many_drops_as_its_part_of_the_plan() {
    let end = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    end.set_nonblocking(true).unwrap();
    let [one, other] = [(), ()].map(|()| Lane::to(&end));
    let (interrupt, interrupted) = shutdown::channel();
    let sent = AtomicU64::new(0);
    // More than a burst, and one of a cause.
    let plan = [[70, 0, 1, 2], [0, 3, 0, 0]];
    lose_all([&one, &other], plan, &sent, &interrupted).unwrap();
    let arrived = std::iter::from_fn(|| end.recv(&mut [0; 64]).ok()).count();
    assert_eq!((sent.load(Relaxed), arrived), (76, 76));
    interrupt.start();
    lose_all([&one, &other], plan, &sent, &interrupted).unwrap();
    assert_eq!(sent.load(Relaxed), 76, "nothing more once it is interrupted");
}

#[tokio::test(start_paused = true)]
async fn counts_are_waited_for_while_they_grow() {
    let drops = Family::<Vec<(&str, &str)>, Counter>::default();
    let labels =
        vec![("namespace", pods::NAMESPACE), ("pod", "a"), ("end", "destination"), ("reason", "NO_SOCKET")];
    let mut metrics = Metrics::default();
    metrics.registry().register("pod_drop_packets", "", drops.clone());
    let (interrupt, interrupted) = shutdown::channel();
    let counter = drops.get_or_create_owned(&labels);
    let catches_up = async |count: u64| {
        let began = tokio::time::Instant::now();
        catch_up(&metrics, count, &interrupted).await.unwrap();
        began.elapsed()
    };
    assert_eq!(catches_up(0).await, Duration::ZERO, "all are there");
    let given_up = catches_up(1).await;
    assert!((LAG..LAG + Duration::from_millis(30)).contains(&given_up), "{given_up:?}");
    // One more each time before it would give up.
    let meanwhile = async {
        for _ in 0..3 {
            tokio::time::sleep(LAG * 3 / 4).await;
            counter.inc();
        }
    };
    let (grown, ()) = tokio::join!(catches_up(3), meanwhile);
    assert!((LAG * 9 / 4..LAG * 9 / 4 + Duration::from_millis(30)).contains(&grown), "{grown:?}");
    interrupt.start();
    assert_eq!(catches_up(9).await, Duration::ZERO, "interrupted");
}
