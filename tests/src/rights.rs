//! A process that may do less, or a kernel with less to attach to: the agent starts, and one line says what is lost.

use std::net::Ipv4Addr;
use std::ops::Range;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::{fs, io};

use nix::libc;
use nix::mount::{MsFlags, mount};
use serde_json::Value;

use crate::harness::agent::{Agent, Running, command, json, without_capabilities};
use crate::harness::netns::Netns;
use crate::harness::packet::udp;
use crate::harness::pod::Node;
use crate::harness::{has_reasons, is_of_udp_rcv, with_tracefs};

/// Of `linux/capability.h`.
const NET_ADMIN: Range<u64> = 12..13;
const SYS_PTRACE: Range<u64> = 19..20;
const SYSLOG: Range<u64> = 34..35;

/// `run`, limited, and one drop at `port`: its event, and what was said above INFO.
fn told(limit: impl FnOnce(&mut Command), port: u16) -> (Value, Vec<String>) {
    let netns = Netns::new();
    netns.ip("link set lo up\n");
    // Of one probe: what another does without on this kernel is not the question.
    let args = ["--probe", "drops", "--events", "all"];
    let running = Running::start_limited(&Node::new(), &args, limit);
    netns.inside(|| udp((Ipv4Addr::LOCALHOST, port).into(), 1, 10));
    let is_ours = |event: &Value| event["destination_port"] == port;
    let find = |lines: &[Vec<u8>]| lines.iter().filter_map(|line| json(line)).find(is_ours);
    let event = running.agent.stdout.wait(0, find);
    let said = running.agent.stderr.text();
    // Nor is it what the kernel refuses whoever asks: fentry, and kprobes.
    let is_asked = |line: &&str| {
        !line.contains("\"level\":\"INFO\"") && !line.contains("does without hooks __icmp_send, ")
    };
    let above_info = said.lines().filter(is_asked).map(str::to_owned);
    (event.unwrap_or_else(|| panic!("no event; {said}")), above_info.collect())
}

#[test]
fn without_cap_syslog_the_reason_alone_gives_the_class() {
    let (event, said) = told(|command| without_capabilities(command, SYSLOG), 9501);
    assert!(said.len() == 1 && said[0].contains("CAP_SYSLOG"), "{said:#?}");
    assert!(event["function"].is_null(), "{event:#}");
    assert_eq!(event["class"], if has_reasons() { "no_socket" } else { "other" }, "{event:#}");
    // The route tells it, not the address of a function.
    assert_eq!(event["direction"], "received", "{event:#}");
}

#[test]
fn without_cap_net_admin_nothing_is_lost() {
    let (event, said) = told(|command| without_capabilities(command, NET_ADMIN), 9502);
    assert!(said.is_empty(), "{said:#?}");
    assert!(is_of_udp_rcv(&event), "{event:#}");
}

/// An interface that a namespace out of its sight may have is not "nothing happened" when it is a typing error.
#[test]
fn without_cap_sys_ptrace_an_interface_that_nothing_seen_has_is_refused() {
    let traced = |interface: &str, limit: fn(&mut Command)| {
        let args = ["trace", "drops", "-i", interface, "--duration", "1s", "--fail-on-findings"];
        let mut command = command(&Node::new(), &args);
        limit(&mut command);
        let mut agent = Agent::spawn(&mut command);
        (agent.ended(), agent.stderr.text())
    };
    let (code, said) = traced("loo", |command| without_capabilities(command, SYS_PTRACE));
    assert_eq!(code, 3, "{said}");
    for words in ["no interface \"loo\"", "that this process may look into; ", "leave out -i"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains("tracing drops"), "nothing is attached for it: {said}");
    // Where all are seen it is a typing error.
    let (code, said) = traced("loo", |_| ());
    assert!(code == 2 && said.contains("namespaces; did you mean lo?"), "{code}: {said}");
}

/// What the doctor, limited, says.
fn doctor(limit: impl FnOnce(&mut Command)) -> Value {
    let mut doctor = command(&Node::new(), &["doctor", "-o", "json"]);
    limit(&mut doctor);
    let ended = doctor.output().unwrap();
    json(&ended.stdout).unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&ended.stderr)))
}

/// A hook's rungs as (name, holds), and the one it takes.
type Ladder = (Vec<(String, bool)>, Option<String>);

/// Every hook's.
fn ladders(report: &Value) -> Vec<Ladder> {
    let rung = |rung: &Value| (rung["name"].as_str().unwrap().to_owned(), rung["status"] == "holds");
    let ladder = |hook: &Value| {
        let rungs = hook["rungs"].as_array().unwrap().iter().map(rung).collect();
        (rungs, hook["takes"].as_str().map(str::to_owned))
    };
    report["hooks"].as_array().unwrap().iter().map(ladder).collect()
}

/// Programs are loaded and refused when they attach with ENOTSUPP, as fentry is on arm64 before 6.4: the next rung holds.
#[test]
fn where_attaching_is_refused_a_lower_rung_holds() {
    let report = doctor(|command| {
        // SAFETY: between fork and exec only system calls are made.
        unsafe {
            command.pre_exec(|| {
                with_tracefs()?;
                refuse_raw_attachment()
            });
        }
    });
    for (rungs, takes) in ladders(&report) {
        let refused = |name: &str| ["tp_btf", "raw_tp", "fentry"].contains(&name);
        assert!(rungs.iter().all(|(name, holds)| !(refused(name) && *holds)), "{report:#}");
        let left = rungs.iter().find(|(_, holds)| *holds).map(|(name, _)| name.clone());
        assert_eq!(takes, left, "{report:#}");
        assert!(takes.is_some() || !rungs.iter().any(|(name, _)| name == "tracepoint"), "{report:#}");
    }
    let why = &report["hooks"][0]["rungs"][0]["why"];
    assert!(why.as_str().is_some_and(|why| why.contains("ENOTSUPP")), "{why}");
}

/// Makes the kernel answer as one without BPF trampolines to whoever attaches by `BPF_RAW_TRACEPOINT_OPEN`, which
/// fentry, `tp_btf` and raw tracepoints do.
fn refuse_raw_attachment() -> io::Result<()> {
    /// `enum bpf_cmd` of include/uapi/linux/bpf.h.
    const BPF_RAW_TRACEPOINT_OPEN: u32 = 17;
    /// include/linux/errno.h: not one of the C library's.
    const ENOTSUPP: u32 = 524;
    filter(Some(BPF_RAW_TRACEPOINT_OPEN), ENOTSUPP)
}

/// Has bpf(2) answer `error` from now on: to this command, or to all.
pub(crate) fn filter(command: Option<u32>, error: u32) -> io::Result<()> {
    // BPF_LD | BPF_W | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K and BPF_RET | BPF_K of linux/bpf_common.h.
    const LOAD: u16 = 0x20;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    // struct seccomp_data: the call's number at 0, the low half of its first argument at 16.
    let is_meant = match command {
        Some(command) => step(EQUAL, command, 0, 1),
        // Either way on to the next.
        None => step(EQUAL, 0, 0, 0),
    };
    let mut steps = [
        step(LOAD, 0, 0, 0),
        step(EQUAL, u32::try_from(libc::SYS_bpf).unwrap_or(u32::MAX), 0, 3),
        step(LOAD, 16, 0, 0),
        is_meant,
        step(RETURN, libc::SECCOMP_RET_ERRNO | error, 0, 0),
        step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let filter = libc::sock_fprog { len: 6, filter: steps.as_mut_ptr() };
    // SAFETY: `filter` and its steps outlive the call; the kernel copies them. Root needs no PR_SET_NO_NEW_PRIVS.
    let status = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A kernel without kprobes: no rung of that name holds, and the others do as ever.
#[test]
fn without_kprobes_the_other_rungs_hold() {
    let with = ladders(&doctor(|_| ()));
    let node = Node::new();
    let empty: PathBuf = node.logs.with_file_name("empty");
    fs::create_dir(&empty).unwrap();
    let kprobes = fs::canonicalize("/sys/bus/event_source/devices/kprobe");
    let report = doctor(|command| {
        // SAFETY: between fork and exec only system calls are made.
        unsafe {
            command.pre_exec(move || {
                with_tracefs()?;
                match &kprobes {
                    Ok(place) => {
                        Ok(mount(Some(&empty), place, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
                    }
                    // This kernel has none anyway.
                    Err(_) => Ok(()),
                }
            });
        }
    });
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["id"] == "kernel.kprobes").unwrap();
    assert!(check["found"].as_str().unwrap().starts_with("not seen"), "{check:#}");
    for ((before, _), (rungs, takes)) in with.iter().zip(ladders(&report)) {
        let left = before
            .iter()
            .map(|(name, held)| (name.clone(), *held && !name.ends_with("kprobe") && name != "kretprobe"));
        // Mounted where it was not, tracefs lets one more hold.
        let left: Vec<_> = left.filter(|(name, _)| name != "tracepoint").collect();
        let now: Vec<_> = rungs.iter().filter(|(name, _)| name != "tracepoint").cloned().collect();
        assert_eq!(now, left, "{report:#}");
        assert_eq!(
            takes.as_ref(),
            rungs.iter().find(|(_, holds)| *holds).map(|(name, _)| name),
            "{report:#}"
        );
    }
}
