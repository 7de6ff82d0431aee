//! A program that does not accept: no drop tells of what its connections lose.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::until;

use super::Scene;

const PORT: u16 = 8080;

#[test]
fn an_accept_queue_that_is_full() {
    let scene = Scene::new();
    scene.web.netns.sysctl("core/somaxconn", "1");
    let listener = scene.web.netns.inside(|| TcpListener::bind(("10.97.1.2", PORT)).unwrap());
    // What these find counts: the namespace's pod, and whether it is asked for.
    let mut traces = [&["--fail-on-findings"][..], &["--fail-on-findings", "-n", "nowhere", "--wait"]]
        .map(|flags| scene.trace_of("drops", flags));
    let to = SocketAddr::from(([10, 97, 1, 2], PORT));
    let overflows = || {
        let said = scene.web.netns.run("nstat", &["-asz", "TcpExtListenOverflows"]);
        said.split_whitespace().rev().nth(1).unwrap().parse::<u64>().unwrap()
    };
    // The queue takes one more than the backlog; whoever comes then waits, and asks again.
    let taken: Vec<TcpStream> = scene.ext.inside(|| {
        let connect = |_| TcpStream::connect_timeout(&to, Duration::from_millis(500)).ok();
        (0..6).filter_map(connect).collect()
    });
    until("a full accept queue", || (overflows() > 0).then_some(()));
    let ends = traces.each_mut().map(|trace| {
        trace.agent.signal(Signal::SIGINT);
        (trace.agent.ended(), trace.agent.stderr.text())
    });
    let (code, said) = &ends[0];
    let told = format!("{} packet", overflows());
    let is_told =
        |line: &str| line.contains(&told) && line.contains("accept queue of a listener in shop/web-0 full");
    assert!(said.lines().any(is_told), "{told}? {said}");
    assert!(!said.contains("all of it was benign"), "{said}");
    assert_eq!(*code, 4, "{said}");
    assert!(!ends[1].1.contains("shop/web-0"), "it is nobody's that was asked for: {}", ends[1].1);
    drop((taken, listener));
    // As it says: a larger number there, and a program that starts again.
    assert!(said.contains("and start it again: they count from the next listen()"), "{said}");
    scene.web.netns.sysctl("core/somaxconn", "128");
    let before = overflows();
    let listener = scene.web.netns.inside(|| TcpListener::bind(("10.97.1.2", PORT)).unwrap());
    let taken: Vec<TcpStream> = scene.ext.inside(|| {
        let connect = |_| TcpStream::connect_timeout(&to, Duration::from_millis(500)).ok();
        (0..6).filter_map(connect).collect()
    });
    assert_eq!((taken.len(), overflows()), (6, before), "cured");
    drop(listener);
}
