//! What looks like a black hole and is none, all at once and one at a time: clean traffic, loss, reordering, a peer that dies, a
//! receiver that pauses.
//!
//! ```text
//!  near 10.98.N.1 eth0 --- sa switch sb --- eth0 10.98.N.2 far        one such way N for each
//! ```
//! `R2C_QUIET_SECONDS` says for how long (default: 20), a quarter of it for each alone. IPv6 has `fd98:N::` where IPv4 has
//! `10.98.N.`.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use nix::libc;
use serde_json::Value;

use crate::harness::agent::{Running, json};
use crate::harness::guest::has_module;
use crate::harness::netns::Netns;
use crate::harness::packet::{set, timeouts};
use crate::harness::pod::{Node, Pod};
use crate::harness::scrape::Scrape;
use crate::harness::until;

mod talk;

use talk::{MANNERS, PORT, connect, listen, serve, talk};

/// What its ends do.
#[derive(Clone, Copy, PartialEq)]
enum Does {
    Talk,
    Die,
    Pause,
}

/// Each way: its name, its netem, what its ends do.
const WAYS: [(&str, &str, Does); 5] = [
    ("clean", "", Does::Talk),
    ("loss", "loss 5%", Does::Talk),
    ("reorder", "delay 20ms reorder 25% 50%", Does::Talk),
    ("dead", "", Does::Die),
    ("paused", "", Does::Pause),
];

/// Two pods and a switch between them.
struct Way {
    number: u8,
    name: &'static str,
    does: Does,
    near: Pod,
    far: Pod,
    switch: Netns,
    listener: TcpListener,
    /// What was exchanged, or how many rounds there were.
    done: AtomicU64,
}

impl Way {
    /// With `netem` on both ends, if that is not empty; then segments are not cut by the last device only, but each is a
    /// packet.
    fn new(node: &Node, number: u8, (name, netem, does): (&'static str, &str, Does)) -> Self {
        let [near, far, switch] = std::array::from_fn(|_| Netns::new());
        switch.ip("link add br0 up type bridge\n");
        for (own, netns, port) in [(1, &near, "sa"), (2, &far, "sb")] {
            let cut = if netem.is_empty() { "" } else { "gso_max_segs 1" };
            switch.ip(&format!(
                "link add {port} master br0 up type veth peer name eth0 {cut} netns {}\n",
                netns.path()
            ));
            netns.sysctl("ipv6/conf/all/keep_addr_on_down", "1");
            netns.ip(&format!(
                "link set lo up\nlink set eth0 up\naddr add 10.98.{number}.{own}/24 dev eth0\n\
                 addr add fd98:{number}::{own}/64 dev eth0 nodad\n"
            ));
            if !netem.is_empty() {
                netns.batch("tc", &format!("qdisc add dev eth0 root netem {netem}\n"));
            }
        }
        let listener = listen(&far);
        let [near, far] = [("near", near), ("far", far)]
            .map(|(end, netns)| Pod::start(node, &format!("quiet/{name}-{end}"), &netns));
        Self { number, name, does, near, far, switch, listener, done: AtomicU64::new(0) }
    }

    /// The far end in both families.
    fn ends(&self) -> [SocketAddr; 2] {
        let v6 = [0xfd98, self.number.into(), 0, 0, 0, 0, 0, 2];
        [SocketAddr::from(([10, 98, self.number, 2], PORT)), SocketAddr::from((v6, PORT))]
    }

    /// A new connection and its other end.
    fn pair(&self, to: SocketAddr) -> (TcpStream, TcpStream) {
        let near = self.near.netns.inside(|| connect(to).unwrap());
        (near, self.listener.accept().unwrap().0)
    }

    /// Conversations in every manner.
    fn talk<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        end: Instant,
        over: &'scope AtomicBool,
    ) -> Vec<thread::ScopedJoinHandle<'scope, ()>> {
        serve(scope, &self.listener, over);
        let each = self.ends().into_iter().flat_map(|to| MANNERS.map(|manner| (to, manner)));
        let talks = each.map(|(to, manner)| {
            scope.spawn(move || {
                let said = self.near.netns.inside(|| talk(manner, to, end, &self.done));
                said.unwrap_or_else(|error| panic!("{} {manner:?} {to}: {error}", self.name));
            })
        });
        talks.collect()
    }

    /// The far end goes away and comes back, again and again: what it had taken before, and for how long it is away, differ.
    fn die(&self, end: Instant) {
        for round in 0.. {
            let away = 3 + [1, 0, 2][round % 3];
            let mut pairs = Vec::new();
            for to in self.ends() {
                // Two that have exchanged a few bytes, two that have exchanged much.
                for (index, taken) in [5, 5, 1 << 18, 1 << 18].into_iter().enumerate() {
                    let (mut near, mut far) = self.pair(to);
                    pass(&mut near, &mut far, taken);
                    pass(&mut far, &mut near, taken);
                    pairs.push((near, far, index));
                }
            }
            let is_silent = round % 2 == 0;
            self.sever(is_silent);
            let mut waiting = Vec::new();
            for (near, far, index) in &mut pairs {
                let push = |stream: &mut TcpStream, size: usize| {
                    stream.set_nonblocking(true).unwrap();
                    let written = stream.write(&vec![0; size]).unwrap();
                    stream.set_nonblocking(false).unwrap();
                    written
                };
                let up = push(near, if *index % 2 == 0 { 200_000 } else { 3000 });
                let down = if *index % 2 == 0 { push(far, 3000) } else { 0 };
                waiting.push((up, down));
            }
            until("it is sent again and again", || {
                pairs.iter().all(|(near, ..)| timeouts(near).0 >= away).then_some(())
            });
            if is_silent {
                self.switch.batch("tc", "qdisc del dev sb root\n");
                // The way there first: for a while the peer is heard and hears nothing itself. That takes long.
                let before = timeouts(&pairs[0].0).0;
                let is_heard = || round == 0 || timeouts(&pairs[0].0).0 != before;
                until("it is sent once more", || is_heard().then_some(()));
            }
            self.mend(is_silent);
            // Back again, it talks before it is sent what it has missed.
            for (_, far, _) in &mut pairs {
                far.write_all(b"back").unwrap();
            }
            for ((mut near, mut far, _), (up, down)) in pairs.into_iter().zip(waiting) {
                far.read_exact(&mut vec![0; up]).unwrap();
                near.read_exact(&mut vec![0; down + 4]).unwrap();
            }
            self.done.fetch_add(1, Ordering::Relaxed);
            if Instant::now() >= end {
                return;
            }
        }
    }

    /// Without a word, or so that the neighbour is missed.
    fn sever(&self, is_silent: bool) {
        if is_silent {
            self.switch.batch("tc", "qdisc add dev sb root netem loss 100%\n");
            self.far.netns.batch("tc", "qdisc add dev eth0 root netem loss 100%\n");
        } else {
            self.far.netns.ip("link set eth0 down\n");
        }
    }

    fn mend(&self, is_silent: bool) {
        if is_silent {
            self.far.netns.batch("tc", "qdisc del dev eth0 root\n");
        } else {
            self.far.netns.ip("link set eth0 up\n");
        }
    }

    /// The far end does not read for long, then reads all.
    fn pause(&self, end: Instant) {
        for round in 0.. {
            let mut pairs = self.ends().map(|to| self.pair(to));
            let is_small = round % 2 == 1;
            thread::scope(|scope| {
                for (near, far) in &mut pairs {
                    if is_small {
                        set(far, libc::SOL_SOCKET, libc::SO_RCVBUF, 8192);
                    }
                    let mut to = near.try_clone().unwrap();
                    scope.spawn(move || {
                        // Small ones need more of the receiver's memory than their bytes say.
                        (0..if is_small { 1000 } else { 0 }).for_each(|_| to.write_all(&[0; 60]).unwrap());
                        to.write_all(&vec![0; if is_small { 1 << 16 } else { 8 << 20 }]).unwrap();
                        to.shutdown(std::net::Shutdown::Write).unwrap();
                    });
                }
                let doubled = 2 + [1, 3, 2, 4][round % 4];
                until("the receiver is asked again and again", || {
                    pairs.iter().all(|(near, _)| timeouts(near).1 >= doubled).then_some(())
                });
                for (_, far) in &mut pairs {
                    far.read_to_end(&mut Vec::new()).unwrap();
                }
            });
            self.done.fetch_add(1, Ordering::Relaxed);
            if Instant::now() >= end {
                return;
            }
        }
    }

    /// What the kernel has counted in both ends' namespaces.
    fn counters(&self) -> HashMap<String, u64> {
        let mut counters = HashMap::new();
        for netns in [&self.near.netns, &self.far.netns] {
            for (name, value) in netns.inside(counters_here) {
                *counters.entry(name).or_default() += value;
            }
        }
        counters
    }

    /// How many stalled segments of it were counted with this fate.
    fn stalled(&self, scrape: &Scrape, fate: &str) -> u64 {
        let pods = [format!("{}-near", self.name), format!("{}-far", self.name)];
        let of = |pod: &String| {
            let labels = [("pod", pod.as_str()), ("end", "source"), ("event", "stalled"), ("fate", fate)];
            scrape.sum("r2c_pod_mtu_events_total", &labels)
        };
        pods.iter().map(of).sum()
    }

    /// Says what there was to be silent about.
    fn tell(&self, scrape: &Scrape) {
        let counters = self.counters();
        let names = [
            "OutSegs", "RetransSegs", "TCPTimeouts", "TCPLostRetransmit", "TCPSACKReorder", "TCPOFOQueue",
            "TCPToZeroWindowAdv", "TCPWinProbe", "TCPRcvQDrop",
        ];
        let told = names.map(|name| format!("{name} {}", counters.get(name).copied().unwrap_or(0)));
        let fates = ["black_hole", "suspect", "ordinary"];
        let fates = fates.map(|fate| format!("{fate} {}", self.stalled(scrape, fate)));
        let done = self.done.load(Ordering::Relaxed);
        eprintln!("{}: done {done}, {}; stalled: {}", self.name, told.join(", "), fates.join(", "));
    }

    /// And that there was something.
    fn check(&self, scrape: &Scrape) {
        let counters = self.counters();
        let counted = |name: &str| counters.get(name).copied().unwrap_or(0);
        assert!(self.done.load(Ordering::Relaxed) >= 1, "{} did nothing", self.name);
        match self.name {
            "loss" => {
                assert!(counted("RetransSegs") > 0 && counted("TCPTimeouts") > 0, "nothing was lost");
            }
            "reorder" => assert!(counted("TCPOFOQueue") > 0, "nothing was out of order"),
            "dead" => {
                assert!(counted("TCPTimeouts") >= 8 * 3, "the dead peer was not missed");
                let stalled = self.stalled(scrape, "suspect") + self.stalled(scrape, "ordinary");
                assert!(stalled > 0, "the probe does not see stalled segments");
            }
            "paused" => assert!(counted("TCPToZeroWindowAdv") > 0, "the receiver had room all the time"),
            _ => {}
        }
    }
}

/// Sends `size` bytes from one end to the other.
fn pass(from: &mut TcpStream, to: &mut TcpStream, size: usize) {
    thread::scope(|scope| {
        scope.spawn(|| from.write_all(&vec![0; size]).unwrap());
        to.read_exact(&mut vec![0; size]).unwrap();
    });
}

/// `Tcp:` and `TcpExt:` of this thread's namespace.
fn counters_here() -> Vec<(String, u64)> {
    let mut counters = Vec::new();
    for file in ["snmp", "netstat"] {
        let text = std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("Tcp")).collect();
        for pair in lines.chunks(2) {
            let columns = pair[0].split(' ').zip(pair[1].split(' ')).skip(1);
            counters.extend(columns.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))));
        }
    }
    counters
}

#[test]
fn no_black_hole_where_there_is_none() {
    if has_modules() {
        expect_silence(&WAYS, seconds());
    }
}

// Where nothing is lost a verdict takes less, so each has to be silent where nothing else is sent again.

#[test]
fn no_black_hole_of_reordering_alone() {
    expect_silence_alone("reorder");
}

#[test]
fn no_black_hole_of_a_dead_peer_alone() {
    expect_silence_alone("dead");
}

#[test]
fn no_black_hole_of_a_paused_receiver_alone() {
    expect_silence_alone("paused");
}

/// A quarter as long: there are three, one after another.
fn expect_silence_alone(name: &str) {
    if has_modules() {
        let way = WAYS.iter().find(|way| way.0 == name).unwrap();
        expect_silence(std::slice::from_ref(way), seconds() / 4);
    }
}

/// For how long.
fn seconds() -> u64 {
    std::env::var("R2C_QUIET_SECONDS").map_or(20, |seconds| seconds.parse().unwrap())
}

fn has_modules() -> bool {
    ["sch_netem", "bridge"].into_iter().all(has_module)
}

fn expect_silence(ways: &[(&'static str, &str, Does)], seconds: u64) {
    let node = Node::new();
    let ways: Vec<Way> = (1..).zip(ways).map(|(number, way)| Way::new(&node, number, *way)).collect();
    let args = ["--probe", "mtu", "--events", "all", "--events-per-second", "200"];
    let mut running = Running::start(&node, &args);
    let pods = u64::try_from(2 * ways.len()).unwrap();
    assert_eq!(running.scrape().sum("r2c_pods", &[]), pods, "{}", running.agent.stderr.text());

    let end = Instant::now() + Duration::from_secs(seconds);
    let over = AtomicBool::new(false);
    let that = |does: Does| ways.iter().filter(move |way| way.does == does);
    thread::scope(|scope| {
        let talks: Vec<_> = that(Does::Talk).flat_map(|way| way.talk(scope, end, &over)).collect();
        for way in that(Does::Die) {
            scope.spawn(move || way.die(end));
        }
        for way in that(Does::Pause) {
            scope.spawn(move || way.pause(end));
        }
        let ended: Vec<_> = talks.into_iter().map(thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        for way in that(Does::Talk) {
            way.near.netns.inside(|| connect(way.ends()[0]).map(drop)).unwrap();
        }
        assert!(ended.iter().all(Result::is_ok), "a conversation broke off");
    });

    let scrape = running.scrape();
    for way in &ways {
        way.tell(&scrape);
    }
    assert_eq!(running.terminate().1, 0);
    let lines: Vec<Value> = running.agent.stdout.since(0).iter().filter_map(|line| json(line)).collect();
    let blamed: Vec<&Value> = lines.iter().filter(|line| line["finding"] == "black_hole").collect();
    if !blamed.is_empty() {
        eprintln!("{}", running.agent.stderr.text());
    }
    for verdict in &blamed {
        for line in lines.iter().filter(|line| line["trace_id"] == verdict["trace_id"]) {
            eprintln!("{line}");
        }
    }
    assert!(blamed.is_empty(), "{} of {} lines are verdicts of a black hole", blamed.len(), lines.len());
    for way in ways {
        way.check(&scrape);
        way.near.stop();
        way.far.stop();
    }
}
