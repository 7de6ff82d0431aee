//! Guards of tasks that come up, end, fail and panic.

use std::sync::mpsc;

use super::*;
use crate::metrics::{Format, Metrics};
use crate::shutdown::channel;

fn why(death: &Death) -> (&'static str, Loss, &str) {
    (death.part, death.loss, &death.why)
}

#[tokio::test]
async fn ready_once_every_part_is_up_and_alive_until_one_stops() {
    let health = Health::default();
    assert_eq!(health.ready(), Ok(()), "there is nothing to wait for");
    let [drops, mtu] = ["drops", "mtu"].map(|name| health.part(name, Loss::Fatal));
    let pods = health.part("pods", Loss::Tolerated);
    assert_eq!(health.ready(), Err("not ready: drops (starting), mtu (starting), pods (starting)".into()));
    assert_eq!(health.alive().await, Ok(()), "who starts is not dead");
    drops.up();
    pods.up();
    let waiting = tokio::spawn({
        let health = health.clone();
        async move { health.until_ready().await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished(), "one is not up");
    assert_eq!(health.ready(), Err("not ready: mtu (starting)".into()));
    // The kernel refused it: nobody waits for it.
    mtu.absent();
    waiting.await.unwrap();
    assert_eq!((health.ready(), health.alive().await), (Ok(()), Ok(())));

    drops.ended();
    assert_eq!(health.alive().await, Ok(()), "it was asked to");
    pods.stopped("no room");
    assert_eq!(health.alive().await, Err("not alive, stopped: pods".into()));
    assert_eq!(health.ready(), Err("not ready: drops (ended), pods (stopped)".into()));
    assert_eq!(health.deaths().iter().map(why).collect::<Vec<_>>(), [("pods", Loss::Tolerated, "no room")]);
}

/// The real thing: tasks under their guards, of which one panics, one returns and one goes on.
#[tokio::test]
async fn a_task_that_panics_or_returns_is_dead_unless_it_was_asked_to_end() {
    let (stop, drain) = channel();
    let health = Health::default();
    let [panics, returns, lives] = ["panics", "returns", "lives"].map(|name| health.part(name, Loss::Fatal));
    let mut asked = drain.clone();
    let tasks = [
        tokio::spawn(panics.over(async { panic!("a fault") }, drain.clone())),
        tokio::spawn(returns.over(async {}, drain.clone())),
        tokio::spawn(lives.over(async move { asked.wait().await }, drain.clone())),
    ];
    let mut known = Vec::new();
    while known.len() < 2 {
        let death = health.another_death(&known).await;
        known.push(death);
    }
    known.sort_by_key(|death| death.part);
    assert_eq!(
        known.iter().map(why).collect::<Vec<_>>(),
        [("panics", Loss::Fatal, SILENT), ("returns", Loss::Fatal, SILENT)]
    );
    assert_eq!(health.alive().await, Err("not alive, stopped: panics, returns".into()));
    stop.start();
    let [_, _, lives] = tasks;
    lives.await.unwrap();
    assert_eq!(health.deaths().len(), 2, "the third ended as it was asked to");
}

/// As the follower of pods is guarded: its task is spawned elsewhere, and panics there.
#[tokio::test]
async fn a_guard_over_anothers_task_sees_its_panic() {
    let (_stop, drain) = channel();
    let health = Health::default();
    let follower = tokio::spawn(async { panic!("no thread to read files on") });
    let ended = health.part("pods", Loss::Tolerated).over(follower, drain).await;
    assert!(ended.unwrap_err().is_panic());
    assert_eq!(health.alive().await, Err("not alive, stopped: pods".into()));
}

#[test]
fn a_thread_that_panics_is_dead() {
    let health = Health::default();
    let guard = health.part("lines", Loss::Fatal);
    let thread = std::thread::spawn(move || {
        guard.up();
        panic!("a fault");
    });
    assert!(thread.join().is_err());
    assert_eq!(health.deaths().iter().map(why).collect::<Vec<_>>(), [("lines", Loss::Fatal, SILENT)]);
}

#[test]
fn every_part_is_a_series() {
    let health = Health::default();
    let (drops, _pods) = (health.part("drops", Loss::Fatal), health.part("pods", Loss::Tolerated));
    drops.up();
    let mut metrics = Metrics::default();
    metrics.registry().register_collector(Box::new(health.clone()));
    let text = metrics.encode(Format::Classic).unwrap();
    assert!(text.contains("# TYPE r2c_part_up gauge\n"), "{text}");
    assert!(text.contains("r2c_part_up{part=\"drops\"} 1\nr2c_part_up{part=\"pods\"} 0\n"), "{text}");
    drop(drops);
    assert!(metrics.encode(Format::Classic).unwrap().contains("r2c_part_up{part=\"drops\"} 0\n"));
}

/// A thread that hangs in a system call runs no task any more, and none of its guards is dropped.
#[tokio::test(start_paused = true)]
async fn a_thread_that_hangs_is_not_alive() {
    let health = Health::default();
    let (hang, hangs) = mpsc::channel::<()>();
    let (tell, begun) = mpsc::channel();
    let beats = health.clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let beating = tokio::spawn(beats.beat());
            // Until it listens.
            tokio::task::yield_now().await;
            tell.send(()).unwrap();
            let _ = hangs.recv();
            drop(beating);
        });
    });
    begun.recv().unwrap();
    assert_eq!(health.alive().await, Err("not alive, hung: the thread of the paths".into()));
    drop(hang);
    thread.join().unwrap();
}

#[tokio::test]
async fn a_thread_that_works_is_alive_however_many_ask() {
    let health = Health::default();
    tokio::spawn(health.clone().beat());
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let health = health.clone();
        asking.spawn(async move { health.alive().await });
    }
    assert!(asking.join_all().await.iter().all(Result::is_ok));
}
