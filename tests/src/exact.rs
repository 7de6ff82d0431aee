//! Counts are exact at any rate, whatever is described of them and whoever else watches.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::agent::{Lines, Running, command};
use crate::harness::guest::is_guest;
use crate::harness::lab::{Lab, WEB};
use crate::harness::netns::Netns;
use crate::harness::packet::{udp, udp_hops};
use crate::harness::pod::Node;
use crate::harness::scrape::Scrape;
use crate::harness::{has_reasons, on_first_cpu, reason, tool, until, with_tracefs};

/// Drops of one kind; each test makes four kinds.
const EACH: u64 = 5_000;

/// From `web`, on two processors: two closed ports, a rule, and no hops left. All for reasons of their own but the
/// first two, which IPv4 and IPv6 have in common.
fn storm(lab: &Lab) {
    let to = |port| SocketAddr::from(([10, 99, 2, 2], port));
    let to6 = SocketAddr::from(([0xfd99, 2, 0, 0, 0, 0, 0, 2], 7502));
    let web = &lab.web.netns;
    thread::scope(|scope| {
        scope.spawn(|| web.inside(|| (udp(to(7501), EACH, 50), udp(to6, EACH, 50))));
        scope.spawn(|| web.inside(|| (udp(to(7503), EACH, 50), udp_hops(to(7504), EACH, 1))));
    });
}

/// What was counted between two scrapes for the pod `web`, by reason; then all that hurt.
fn counted(before: &Scrape, after: &Scrape) -> [u64; 4] {
    let (namespace, pod) = WEB.split_once('/').unwrap();
    let pod = [("namespace", namespace), ("pod", pod), ("end", "source")];
    let of = |more: &[(&str, &str)]| {
        let labels = [pod.as_slice(), more].concat();
        after.since(before, "r2c_pod_drop_packets_total", &labels)
    };
    // Where the kernel gives no reason, the place tells them apart as well: of `ip_forward` it says no more.
    let kinds = if has_reasons() {
        [("reason", "NO_SOCKET"), ("reason", "NETFILTER_DROP"), ("reason", "IP_INHDR")]
    } else {
        [("class", "no_socket"), ("class", "netfilter"), ("class", "other")]
    };
    let [closed, refused, expired] = kinds.map(|kind| of(&[kind, ("harm", "harmful")]));
    [
        closed,
        refused,
        expired,
        // Without the benign: 6.1 frees each ICMPv6 message that it has used up as if it were lost.
        of(&[("harm", "harmful")]),
    ]
}

fn storm_is_counted(lab: &Lab) {
    let _rule = lab.router.meanwhile(
        "nft",
        "add table inet r2c\nadd chain inet r2c forward { type filter hook forward priority 0; }\n\
         add rule inet r2c forward udp dport 7503 drop\n",
        "delete table inet r2c\n",
    );
    // Ahead of the storm: a neighbour who is still being asked for has room for few packets.
    for to in ["10.99.2.2", "fd99:2::2"] {
        lab.web.netns.run("ping", &["-c", "1", to]);
    }
    let before = lab.agent.scrape();
    storm(lab);
    // Softirq may still be at it, on the other processor.
    let wanted = [2 * EACH, EACH, EACH, 4 * EACH];
    until("all are counted", || (counted(&before, &lab.agent.scrape())[3] >= wanted[3]).then_some(()));
    // None comes after that.
    until("the ring is empty", || (lab.agent.scrape().sum("r2c_events_in_ring", &[]) == 0).then_some(()));
    lab.barrier();
    let after = lab.agent.scrape();
    let grown = after.grown(&before, "r2c_pod_drop_packets_total");
    assert_eq!(counted(&before, &after), wanted, "{grown}");
    assert_eq!(after.sum("r2c_drop_uncounted_packets_total", &[]), 0);
    // Of the storm: the agent of the lab has seen the tests before it as well.
    assert_eq!(after.since(&before, "r2c_events_missed_total", &[]), 0);
}

#[test]
fn a_storm_from_two_processors() {
    storm_is_counted(&Lab::lock());
}

/// What one processor drops for a process is interrupted by what it drops for a timer: the second finds the program at work,
/// and the kernel leaves it out. Each is counted as missed, so that nothing is lost without a number.
#[test]
fn what_the_kernel_leaves_out_is_counted_as_missed() {
    /// By a process, then when the device's clock lets them go.
    const PORTS: [u16; 2] = [7511, 7512];
    const ROUND: u64 = 100;
    let lab = Lab::lock();
    let _rule = lab.web.netns.meanwhile(
        "nft",
        "add table inet r2c\nadd chain inet r2c output { type filter hook output priority 0; }\n\
         add rule inet r2c output udp dport 7511 drop\n",
        "delete table inet r2c\n",
    );
    let _rule_of_router = lab.router.meanwhile(
        "nft",
        "add table inet r2c\nadd chain inet r2c forward { type filter hook forward priority 0; }\n\
         add rule inet r2c forward udp dport 7512 drop\n",
        "delete table inet r2c\n",
    );
    // One of 128 bytes a millisecond.
    let _pace = lab.web.netns.meanwhile(
        "tc",
        "qdisc add dev eth0 root tbf rate 1mbit burst 1600 limit 100000\n",
        "qdisc del dev eth0 root\n",
    );
    let before = lab.agent.scrape();
    let counted = |after: &Scrape| {
        let kind = if has_reasons() { ("reason", "NETFILTER_DROP") } else { ("class", "netfilter") };
        let harmful = [kind, ("harm", "harmful")];
        let since = |name, labels: &[_]| after.since(&before, name, labels);
        (since("r2c_drop_packets_total", &harmful), since("r2c_events_missed_total", &[("probe", "drops")]))
    };
    // A neighbour who is still being asked for has room for few packets.
    lab.web.netns.run("ping", &["-c", "1", "10.99.2.2"]);
    let mut sent = 0;
    let mut round = || {
        let web = &lab.web.netns;
        let [by_process, by_clock] = PORTS.map(|port| SocketAddr::from(([10, 99, 2, 2], port)));
        sent += web.inside(|| {
            on_first_cpu();
            udp(by_clock, ROUND, 100);
            let (begun, mut count) = (Instant::now(), ROUND);
            // The clock takes half as long.
            while begun.elapsed() < Duration::from_millis(200) {
                udp(by_process, 10, 100);
                count += 10;
            }
            count
        });
    };
    let missed = until("a program is interrupted by a drop", || {
        round();
        let (_, missed) = counted(&lab.agent.scrape());
        (missed > 0 || !leaves_out()).then_some(missed)
    });
    let all = until("all are counted", || {
        let (dropped, missed) = counted(&lab.agent.scrape());
        (dropped + missed >= sent).then_some((dropped, missed))
    });
    lab.barrier();
    assert_eq!(counted(&lab.agent.scrape()), all, "none comes after that");
    assert_eq!(all.0 + all.1, sent, "dropped and missed");
    assert_eq!(missed > 0, leaves_out());
}

/// Whether this kernel runs no program of a tracepoint in the middle of itself. Up to 5.15 it does.
fn leaves_out() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    (numbers.next().unwrap(), numbers.next().unwrap()) > (5, 15)
}

#[test]
fn a_storm_that_bpftrace_watches_as_well() {
    let lab = Lab::lock();
    let (mut other, printed) = bpftrace();
    until("bpftrace counts, too", || {
        lab.barrier();
        let counts = printed.text();
        counts.lines().any(|line| line.starts_with("@: ") && line != "@: 0").then_some(())
    });
    storm_is_counted(&lab);
    kill(Pid::from_raw(other.id().cast_signed()), Signal::SIGINT).unwrap();
    other.wait().unwrap();
}

/// bpftrace on the same hook; what it prints.
fn bpftrace() -> (Child, Lines) {
    let script = "tracepoint:skb:kfree_skb { @ = count(); } interval:s:1 { print(@); }";
    let mut bpftrace = tool("bpftrace");
    bpftrace.args(["-e", script]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        bpftrace.pre_exec(|| Ok(with_tracefs()?));
    }
    let mut child = bpftrace.spawn().unwrap();
    crate::harness::undo::at_end(&format!("kill {} 2>/dev/null", child.id()));
    let printed = Lines::collect(child.stdout.take().unwrap());
    (child, printed)
}

#[test]
fn a_ring_that_is_far_too_small() {
    const SENT: u64 = 5_000;
    let netns = Netns::new();
    netns.ip("link set lo up\n");
    let args = ["--events", "all", "--events-per-second", "1000000", "--ring-kib", "4"];
    let mut running = Running::start(&Node::new(), &args);
    let before = running.scrape();
    netns.inside(|| udp(SocketAddr::from((Ipv4Addr::LOCALHOST, 7505)), SENT, 10));
    let labels = [("reason", reason("NO_SOCKET")), ("direction", "received")];
    let dropped = |now: &Scrape| now.sum("r2c_drop_packets_total", &labels);
    // One scrape does not stop the clock for all its parts, so it is repeated until the packets have all come and
    // nothing is under way.
    let settled = |now: &Scrape| {
        let ends = ["r2c_events_emitted_total", "r2c_events_dropped_total"].map(|name| now.sum(name, &[]));
        let [in_ring, produced] =
            ["r2c_events_in_ring", "r2c_events_produced_total"].map(|name| now.sum(name, &[]));
        dropped(now) >= dropped(&before) + SENT && in_ring == 0 && produced == ends.iter().sum::<u64>()
    };
    let after = until("every event is in one count", || Some(running.scrape()).filter(settled));
    let of = |name: &str| after.sum(name, &[]);
    let lost = after.sum("r2c_events_dropped_total", &[("stage", "ring_full")]);
    assert!(lost > 0, "the ring was large enough: nothing was tested");
    let emitted = of("r2c_events_emitted_total");
    assert_eq!(running.terminate().1, 0);
    assert!(u64::try_from(running.agent.stdout.count()).unwrap() >= emitted, "fewer lines than counted");
}

/// The agent's own proof, as an operator runs it: 100,000 drops a run on two processors, two pods, four causes; twenty runs on
/// this machine's own kernel, five in a guest, which shares a processor with the other.
#[test]
fn the_selftest_many_times() {
    let runs = if is_guest() { 5 } else { 20 };
    let mut selftest = command(&Node::new(), &["selftest", "--drops", "100000", "--runs", &runs.to_string()]);
    let ended = selftest.output().unwrap();
    let (printed, said) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{printed}{said}");
    assert!(printed.contains(&format!("selftest: {runs} of {runs} runs exact")), "{printed}{said}");
}
