//! Ten thousand forged messages, each about another packet: all are counted, few are told, and memory stays.

use std::net::Ipv4Addr;
use std::thread::available_parallelism;
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::harness::agent::json;
use crate::harness::lab::Lab;
use crate::harness::packet::{icmp_message, ipv4, send_all_routed, udp_segment};
use crate::harness::until;

use super::super::ladder::trace;
use super::super::{Watch, of, sees_messages, v4};
use super::{FAR4, WEB4};

const COUNT: u32 = 10_000;
/// `--events-per-second` of a trace by default.
const DESCRIBED: u64 = 8;
/// What an agent may grow by meanwhile, KiB: 1,024 incidents, and what an allocator keeps.
const GROWTH: u64 = 6 * 1024;

/// A message about a packet of `web` to the outside, to an address of its own.
fn message(number: u32) -> Vec<u8> {
    let to = Ipv4Addr::from(u32::from(Ipv4Addr::new(203, 0, 0, 0)) + number);
    let segment = udp_segment(v4(WEB4.octets(), 4000), v4(to.octets(), 4001), 4, true);
    let mut quote = ipv4(WEB4, to, 17, &segment, true);
    quote.truncate(28);
    ipv4(FAR4, WEB4, 1, &icmp_message(3, 4, 1300, &quote), true)
}

#[test]
fn ten_thousand_messages_about_as_many_packets() {
    let lab = Lab::lock();
    if !sees_messages(&lab) {
        return;
    }
    let watch = Watch::new(&lab);
    let mut agent = trace(&lab, &["-o", "json"]);
    let before = [agent.resident(), lab.agent.agent.resident()];
    let begun = Instant::now();
    lab.far.netns.inside(|| send_all_routed(WEB4.into(), (0..COUNT).map(message)).unwrap());
    let count = u64::from(COUNT);
    let labels = [("event", "received"), ("fate", "no_socket"), ("family", "ipv4")];
    until("all are counted", || (watch.counted("r2c_mtu_events_total", &labels) >= count).then_some(()));
    let seconds = begun.elapsed().as_secs() + 1;
    assert_eq!(watch.counted("r2c_mtu_events_total", &labels), count);
    assert_eq!(watch.of_pod("shop/web-0", "received"), count);
    assert_eq!(watch.of(&[], &[("event", "received")]), count, "nobody else is counted");
    // A window of the kernel side may be shorter than a second, and begins when it does.
    let cpus = u64::try_from(available_parallelism().unwrap().get()).unwrap();
    let most = DESCRIBED * cpus * (2 * seconds + 2);
    agent.stdout.wait(0, |lines| lines.iter().any(|line| is_verdict(line)).then_some(())).expect("a verdict");
    let after = [agent.resident(), lab.agent.agent.resident()];
    agent.signal(Signal::SIGINT);
    assert_eq!(agent.ended(), 0, "{}", agent.stderr.text());
    // What the lab's links would be blamed for whatever happens is told as well.
    let lines = agent.stdout.since(0);
    let lines: Vec<_> =
        lines.iter().filter_map(|line| json(line)).filter(|line| line["probe"] == "mtu").collect();
    let told = u64::try_from(lines.len()).unwrap();
    eprintln!("{told} lines of at most {} in {seconds} s; memory {before:?}, then {after:?} KiB", 2 * most);
    assert!(told <= 2 * most, "an event and a verdict each: {told} lines in {seconds} s");
    assert!(lines.iter().all(|line| line["finding"].is_null() || line["finding"] == "stray_message"));
    assert!(lines.iter().all(|line| line["pod_name"].is_null()), "nobody is hurt");
    for (before, after) in before.into_iter().zip(after) {
        assert!(after <= before + GROWTH, "{before} KiB have become {after}");
    }
    let said = agent.stderr.text();
    assert!(said.contains(" 10000 were told so (no_socket), ipv4"), "{said}");
    assert!(said.contains("no event lost"), "{said}");
}

fn is_verdict(line: &[u8]) -> bool {
    of(line, true).is_some()
}
