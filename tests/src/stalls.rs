//! Readers of the agent's output that stall, a disk that is full, a pipe that is closed: none of them stops it.

use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::agent::{command, free_address};
use crate::harness::guest::is_guest;
use crate::harness::netns::Netns;
use crate::harness::pod::Node;
use crate::harness::scrape::{CLASSIC, Scrape, get};
use crate::harness::{reason, until};

/// A pipe with no room left, and the end that nobody reads.
pub(crate) fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = io::pipe().unwrap();
    let set = |writer: &PipeWriter, flags: i32| {
        // SAFETY: the descriptor is open, and only its flags change.
        assert_eq!(unsafe { libc::fcntl(writer.as_fd().as_raw_fd(), libc::F_SETFL, flags) }, 0);
    };
    set(&writer, libc::O_NONBLOCK);
    for size in [4096, 1] {
        while writer.write(&vec![b'\n'; size]).is_ok() {}
    }
    set(&writer, 0);
    (reader, writer)
}

/// An agent whose output goes where a test says. Dropped, it is killed.
pub(crate) struct Muted(Child);

impl Muted {
    pub(crate) fn start(mut command: Command, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Self {
        Self(command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn().unwrap())
    }

    /// Sends a signal; how long it took to end, and with which code.
    pub(crate) fn end(&mut self, signal: Signal) -> (Duration, Option<i32>) {
        let begun = Instant::now();
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).unwrap();
        (self.ended(begun).0, self.0.wait().unwrap().code())
    }

    /// The names of its threads.
    pub(crate) fn threads(&self) -> Vec<String> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap().flatten();
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok()).collect()
    }

    fn ended(&mut self, begun: Instant) -> (Duration, Option<i32>) {
        let status = until("the agent's end", || self.0.try_wait().unwrap());
        (begun.elapsed(), status.code())
    }
}

impl Drop for Muted {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The two seconds, and ten times that where the processor is emulated.
fn patience(seconds: u64) -> Duration {
    Duration::from_secs(if is_guest() { 10 * seconds } else { seconds })
}

/// `run`, ready, that describes all it sees.
fn run(node: &Node, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> (Muted, SocketAddr) {
    let address = free_address();
    let listen = address.to_string();
    let args =
        ["run", "--listen", &listen, "--events", "all", "--events-per-second", "65535", "--ring-kib", "4096"];
    let agent = Muted::start(command(node, &args), stdout, stderr);
    until("/readyz says ready", || get(address, "/readyz", "*/*").ok().filter(|(status, _)| *status == 200));
    (agent, address)
}

fn scrape(address: SocketAddr) -> Scrape {
    let (status, text) = get(address, "/metrics", CLASSIC).unwrap();
    assert_eq!(status, 200, "{text}");
    Scrape::parse(&text)
}

/// Drops counted for nobody's port.
fn dropped(scrape: &Scrape) -> u64 {
    scrape.sum("r2c_drop_packets_total", &[("reason", reason("NO_SOCKET"))])
}

fn lost(scrape: &Scrape) -> u64 {
    scrape.sum("r2c_log_lines_lost_total", &[("stream", "stdout")])
}

#[test]
fn run_counts_and_serves_and_ends_behind_a_reader_that_stalls() {
    const KNOCKS: u64 = 6_000;
    let (node, netns) = (Node::new(), Netns::looped());
    let (reader, writer) = full_pipe();
    // A container runtime reads both by one process.
    let (mut agent, address) = run(&node, writer.try_clone().unwrap(), writer.try_clone().unwrap());
    drop(writer);
    let before = dropped(&scrape(address));
    netns.knock(9401, KNOCKS);
    let after = until("lines are lost for want of room, and counted", || {
        assert_eq!(get(address, "/healthz", "*/*").unwrap().0, 200);
        Some(scrape(address)).filter(|scrape| lost(scrape) > 0)
    });
    assert!(dropped(&after) - before >= KNOCKS, "{}", dropped(&after) - before);
    let unwritten = after.sum("r2c_events_dropped_total", &[("probe", "drops"), ("stage", "unwritten")]);
    assert!(unwritten > 0, "an event without a line is in the account");
    let (took, code) = agent.end(Signal::SIGTERM);
    assert!(took <= patience(2), "{took:?}");
    assert_eq!(code, Some(0), "a reader that stalls is no failure of the agent's");
    drop(reader);
}

#[test]
fn run_goes_on_with_a_full_disk_and_does_not_end_as_if_all_were_well() {
    let (node, netns) = (Node::new(), Netns::looped());
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (mut agent, address) = run(&node, full, Stdio::null());
    netns.knock(9402, 5);
    let first = until("lines are lost", || Some(lost(&scrape(address))).filter(|lost| *lost > 0));
    netns.knock(9402, 5);
    until("and more are", || Some(lost(&scrape(address))).filter(|lost| *lost > first));
    assert_eq!(get(address, "/healthz", "*/*").unwrap().0, 200);
    let (took, code) = agent.end(Signal::SIGTERM);
    assert!(took <= patience(2), "{took:?}");
    assert_eq!(code, Some(1));
}

#[test]
fn run_goes_on_after_its_reader_is_gone() {
    let (node, netns) = (Node::new(), Netns::looped());
    let (reader, writer) = io::pipe().unwrap();
    let (mut agent, address) = run(&node, writer, Stdio::null());
    drop(reader);
    netns.knock(9403, 5);
    until("lines are lost", || Some(lost(&scrape(address))).filter(|lost| *lost > 0));
    assert_eq!(get(address, "/healthz", "*/*").unwrap().0, 200);
    assert_eq!(agent.end(Signal::SIGTERM).1, Some(1));
}

#[test]
fn a_trace_keeps_its_duration_behind_a_reader_that_stalls() {
    for (duration, signal) in [("1s", None), ("0", Some(Signal::SIGINT)), ("0", Some(Signal::SIGTERM))] {
        let (node, netns) = (Node::new(), Netns::looped());
        let ready = node.logs.with_file_name("ready");
        let (reader, writer) = full_pipe();
        let args =
            ["trace", "drops", "--all", "--duration", duration, "--ready-file", ready.to_str().unwrap()];
        let mut agent =
            Muted::start(command(&node, &args), writer.try_clone().unwrap(), writer.try_clone().unwrap());
        drop(writer);
        until("attached", || ready.exists().then_some(()));
        let begun = Instant::now();
        netns.knock(9404, 20);
        let (took, code) = match signal {
            Some(signal) => agent.end(signal),
            None => agent.ended(begun),
        };
        assert!(took <= patience(5), "{signal:?}: {took:?}");
        assert_eq!(code, Some(0), "{signal:?}");
        drop(reader);
    }
}

#[test]
fn a_trace_ends_at_once_when_its_reader_is_gone_or_the_disk_is_full() {
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let closed = || {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        writer
    };
    for (stdout, code) in [(Stdio::from(full()), 1), (Stdio::from(closed()), 0)] {
        let node = Node::new();
        // It has the heading to write, and waits for no event to notice.
        let args = ["trace", "drops", "--duration", "0"];
        let (said, stderr) = io::pipe().unwrap();
        let mut agent = Muted::start(command(&node, &args), stdout, stderr);
        assert_eq!(agent.ended(Instant::now()).1, Some(code));
        let said = io::read_to_string(said).unwrap();
        let losses = said.lines().filter(|line| line.contains("lost") || line.contains("not written"));
        assert!(losses.count() <= 1, "a loss is told once: {said}");
    }
}

#[test]
fn what_prints_once_can_be_interrupted_behind_a_reader_that_stalls() {
    // A thread is in write(2) to what stdout leads to. The file has the system call's number, then its arguments.
    let is_writing = |pid: u32| {
        let leads = |fd: u64| fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok();
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let mut calls = tasks.filter_map(|task| fs::read_to_string(task.path().join("syscall")).ok());
        calls.any(|call| {
            let mut words = call.split(' ');
            let is_write = words.next() == Some(&libc::SYS_write.to_string());
            let fd = words.next().and_then(|fd| u64::from_str_radix(fd.trim_start_matches("0x"), 16).ok());
            is_write && fd.is_some_and(|fd| leads(fd).is_some() && leads(fd) == leads(1))
        })
    };
    for args in [
        &["metrics"][..],
        &["audit", "mtu"],
        &["audit", "mtu", "-o", "json"],
        &["trace", "mtu", "--to", "127.0.0.1"],
        &["selftest", "--drops", "1000", "--runs", "1"],
        &["doctor"],
    ] {
        let node = Node::new();
        let (reader, writer) = full_pipe();
        let mut agent = Muted::start(command(&node, args), writer, Stdio::null());
        until(&format!("{args:?} writes"), || is_writing(agent.0.id()).then_some(()));
        let (took, code) = agent.end(Signal::SIGINT);
        assert!(took <= patience(5), "{args:?}: {took:?}");
        // `doctor` leaves the signal to the system: that it ended so is what a shell wants to know.
        assert_eq!(code, (args[0] != "doctor").then_some(1), "{args:?}");
        drop(reader);
    }
}

/// An exit code without a word leaves a person, and a script's log, with nothing to mend.
#[test]
fn why_it_failed_waits_for_a_reader_that_is_late() {
    let node = Node::new();
    let (mut reader, writer) = full_pipe();
    let mut agent = Muted::start(command(&node, &["trace", "drops", "-n", "shpo"]), Stdio::null(), writer);
    let begun = Instant::now();
    // It fails in a tenth of this, unless the machine is slow: then nobody is late.
    until("it is late", || (begun.elapsed() > Duration::from_millis(800)).then_some(()));
    let mut said = String::new();
    reader.read_to_string(&mut said).unwrap();
    assert_eq!(agent.ended(begun).1, Some(2));
    assert!(said.contains("no pod of namespace \"shpo\""), "{}", said.trim());
}
