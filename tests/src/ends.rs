//! How the agent ends: asked to, interrupted, with nobody reading, and where it may not even begin.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::time::Duration;

use nix::libc;
use nix::sys::signal::Signal;

use crate::harness::agent::{Agent, Running, command, json, without_capabilities};
use crate::harness::guest::is_guest;
use crate::harness::netns::Netns;
use crate::harness::pod::Node;
use crate::harness::{UDP4_RCV, lines_of, reason, until};

/// Time to end in: issue 3's two seconds, and ten times that where the processor is emulated.
fn patience() -> Duration {
    Duration::from_secs(if is_guest() { 20 } else { 2 })
}

#[test]
fn sigterm_leaves_nothing_behind_and_loses_nothing() {
    let netns = Netns::looped();
    let mut running = Running::start(&Node::new(), &["--events", "all", "--events-per-second", "100"]);
    let kept = running.agent.kernel_objects();
    assert!(kept.iter().any(|(kind, _)| *kind == "prog"), "{kept:?}");
    assert!(kept.iter().any(|(kind, _)| *kind == "link"), "{kept:?}");
    assert!(kept.iter().all(|(kind, id)| exists(kind, *id)), "{kept:?}");
    netns.knock(9101, 5);
    let (took, code) = running.terminate();
    assert_eq!(code, 0, "{}", running.agent.stderr.text());
    assert!(took <= patience(), "{took:?}");
    assert_eq!(lines_of(&running.agent.stdout, 9101), 5, "the last events were not written");
    for (kind, id) in kept {
        // The kernel lets go a moment after the last descriptor has.
        until(&format!("{kind} {id} is gone"), || (!exists(kind, id)).then_some(()));
    }
}

/// A terminal that is closed ends it as SIGTERM does, unless it was started to outlive that (nohup).
#[test]
fn a_hangup_ends_it_unless_it_is_ignored() {
    let mut running = Running::start(&Node::new(), &[]);
    running.agent.signal(Signal::SIGHUP);
    assert_eq!(running.agent.ended(), 0, "{}", running.agent.stderr.text());
    assert!(running.agent.stderr.text().contains("\"stopped\""), "{}", running.agent.stderr.text());
    let ignoring = |command: &mut std::process::Command| {
        // SAFETY: between fork and exec only one system call is made.
        unsafe {
            command.pre_exec(|| {
                libc::signal(libc::SIGHUP, libc::SIG_IGN);
                Ok(())
            });
        }
    };
    let mut running = Running::start_limited(&Node::new(), &[], ignoring);
    running.agent.signal(Signal::SIGHUP);
    // The kernel has thrown it away when kill(2) returns.
    assert!(!running.text("/healthz", "*/*").is_empty());
    assert_eq!(running.terminate().1, 0, "{}", running.agent.stderr.text());
}

/// Whether the kernel has the program, link or map of this number.
fn exists(kind: &str, id: u32) -> bool {
    // enum bpf_cmd: BPF_PROG_GET_FD_BY_ID, BPF_MAP_GET_FD_BY_ID, BPF_LINK_GET_FD_BY_ID
    let command = match kind {
        "prog" => 13,
        "map" => 14,
        _ => 30,
    };
    let attributes = [id, 0, 0];
    // SAFETY: the attributes outlive the call, and their size is theirs.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(&attributes)) };
    if let Ok(fd) = i32::try_from(fd)
        && fd >= 0
    {
        // SAFETY: the descriptor was just made, and is ours alone.
        drop(unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) });
        return true;
    }
    false
}

/// `trace drops`, attached.
fn trace(args: &[&str]) -> (Agent, Node) {
    let node = Node::new();
    let ready = node.logs.with_file_name("ready");
    let args = [&["trace", "drops", "--ready-file", ready.to_str().unwrap()], args].concat();
    let agent = Agent::spawn(&mut command(&node, &args));
    until(&format!("attached; {}", agent.stderr.text()), || fs::exists(&ready).unwrap().then_some(()));
    (agent, node)
}

#[test]
fn ctrl_c_ends_a_trace_with_a_summary_as_a_closed_terminal_does() {
    let netns = Netns::looped();
    for (output, signal) in [("json", Signal::SIGINT), ("table", Signal::SIGHUP), ("wide", Signal::SIGTERM)] {
        let (mut agent, _node) = trace(&["--all", "--duration", "0", "-o", output]);
        netns.knock(9102, 3);
        agent.stdout.wait(0, |lines| {
            (lines.iter().filter(|line| String::from_utf8_lossy(line).contains("9102")).count() >= 3)
                .then_some(())
        });
        agent.signal(signal);
        assert_eq!(agent.ended(), 0, "{}", agent.stderr.text());
        let said = agent.stderr.text();
        assert!(said.contains(" events in ") && said.contains("shown"), "{said}");
        let rows = UDP4_RCV.map(|place| format!("{} in {place}, received", reason("NO_SOCKET")));
        assert!(rows.iter().any(|row| said.contains(row)), "{said}");
        assert!(said.contains("no event lost"), "{said}");
        assert!(said.lines().all(|line| line.starts_with("r2c-agent: ")), "{said}");
        assert!(!agent.stdout.text().contains("events in"), "data and notes are mixed");
    }
}

#[test]
fn a_trace_stops_by_itself_after_so_many_events() {
    let netns = Netns::looped();
    let (mut agent, _node) = trace(&["--duration", "0", "-o", "json", "--port", "9103", "--max-events", "2"]);
    netns.knock(9104, 3);
    netns.knock(9103, 3);
    assert_eq!(agent.ended(), 0, "{}", agent.stderr.text());
    assert_eq!(agent.stdout.count(), 2, "{}", agent.stdout.text());
    assert_eq!(lines_of(&agent.stdout, 9103), 2);
}

#[test]
fn a_reader_that_has_seen_enough() {
    let netns = Netns::looped();
    let node = Node::new();
    let mut trace = command(&node, &["trace", "drops", "--all", "--duration", "0", "-o", "json"]);
    let mut child = trace.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut port = 9200;
    let mut more = || {
        netns.knock(port, 1);
        port += 1;
    };
    until("attached", || {
        more();
        attached(child.id()).then_some(())
    });
    more();
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(json(line.as_bytes()).is_some(), "{line}");
    drop(stdout);
    let status = until("it ends", || {
        more();
        child.try_wait().unwrap()
    });
    assert!(status.success(), "{status}");
}

/// Whether a process holds a link to a kernel hook.
fn attached(pid: u32) -> bool {
    crate::harness::agent::kernel_objects(pid).iter().any(|(kind, _)| *kind == "link")
}

#[test]
fn without_rights_there_is_one_line_and_exit_code_3() {
    for args in [&["run", "--listen", "127.0.0.1:0"][..], &["trace", "drops"], &["metrics"]] {
        let mut powerless = command(&Node::new(), args);
        // Those beyond the kernel's last are refused, which is as good.
        without_capabilities(&mut powerless, 0..64);
        let mut agent = Agent::spawn(&mut powerless);
        assert_eq!(agent.ended(), 3, "{args:?}: {}", agent.stderr.text());
        assert_eq!(agent.stdout.count(), 0, "{}", agent.stdout.text());
        let said = agent.stderr.text();
        // The rest of what `run` says are notes.
        let is_note = |line: &&str| line.contains("\"level\":\"INFO\"");
        let lines: Vec<&str> = said.lines().filter(|line| !is_note(line)).collect();
        assert_eq!(lines.len(), 1, "{args:?}: {said}");
        assert!(lines[0].contains("CAP_BPF") && lines[0].contains("CAP_PERFMON"), "{said}");
        if args[0] == "run" {
            agent.stderr.since(0).iter().for_each(|line| crate::lines::assert_valid(line));
        }
    }
}
