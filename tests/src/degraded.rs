//! A kernel that tells less: each rung alone, no types, types cut short. A degraded start with one clear line, no panic.

use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use nix::mount::{MsFlags, mount};
use serde_json::Value;

use crate::harness::agent::{Agent, command, json};
use crate::harness::netns::Netns;
use crate::harness::packet::udp;
use crate::harness::pod::Node;
use crate::harness::{has_reasons, is_of_udp_rcv, until, with_tracefs};

/// What the agent finds in place of the kernel's types.
enum Types {
    /// The real ones.
    Real,
    /// `/sys/kernel/btf` is empty.
    None,
    /// The first half of the real ones.
    Half,
}

/// `trace drops` until two events on `port`, on a kernel that shows `types` only: the events and what it said.
fn traced(types: &Types, args: &[&str], port: u16) -> (Vec<Value>, String) {
    let node = Node::new();
    let temp = node.logs.parent().unwrap().to_owned();
    let ready = temp.join("ready");
    let port_arg = port.to_string();
    let mut args = args.to_vec();
    args.extend([
        "--ready-file",
        ready.to_str().unwrap(),
        "--duration",
        "0",
        "-o",
        "json",
        "--max-events",
        "2",
    ]);
    if matches!(types, Types::Real) {
        args.extend(["--port", &port_arg]);
    }
    let mut command = command(&node, &[&["trace", "drops"], args.as_slice()].concat());
    let hide = hide(types, &temp);
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        command.pre_exec(move || {
            with_tracefs()?;
            match &hide {
                Some((with, place)) => {
                    Ok(mount(Some(with), *place, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
                }
                None => io::Result::Ok(()),
            }
        });
    }
    let mut agent = Agent::spawn(&mut command);
    until(&format!("attached; {}", agent.stderr.text()), || fs::exists(&ready).unwrap().then_some(()));
    let netns = Netns::new();
    netns.ip("link set lo up\n");
    netns.inside(|| udp((Ipv4Addr::LOCALHOST, port).into(), 2, 10));
    assert_eq!(agent.ended(), 0, "{}", agent.stderr.text());
    let events = agent.stdout.text().lines().filter_map(|line| json(line.as_bytes())).collect();
    (events, agent.stderr.text())
}

/// What to mount where.
fn hide(types: &Types, temp: &Path) -> Option<(PathBuf, &'static str)> {
    const BTF: &str = "/sys/kernel/btf/vmlinux";
    match types {
        Types::Real => None,
        Types::None => {
            let empty = temp.join("empty");
            fs::create_dir(&empty).unwrap();
            Some((empty, "/sys/kernel/btf"))
        }
        Types::Half => {
            let (half, whole) = (temp.join("half"), fs::read(BTF).unwrap());
            fs::write(&half, &whole[..whole.len() / 2]).unwrap();
            Some((half, BTF))
        }
    }
}

#[test]
fn every_rung_alone_tells_the_same() {
    for rung in ["tp_btf", "raw_tp", "tracepoint"] {
        let (events, said) = traced(&Types::Real, &["--rung", rung], 9301);
        assert!(said.contains(&format!("kfree_skb ({rung})")), "{said}");
        assert_eq!(events.len(), 2, "{said}");
        for event in events {
            let told = ["reason", "direction", "interface", "source_ip"].map(|name| &event[name]);
            let mut want = ["NO_SOCKET", "received", "lo", "127.0.0.1"].map(Value::from);
            if !has_reasons() {
                want[0] = Value::Null;
            }
            assert_eq!(told, want.each_ref(), "{event:#}");
            assert!(is_of_udp_rcv(&event), "{event:#}");
            assert_eq!(event["destination_port"], 9301);
        }
    }
}

/// Reason and place come from the classic tracepoint, which says how to read itself; the packet cannot be read.
fn without_types(types: &Types, why: &str) {
    let (events, said) = traced(types, &["--reason", "NO_SOCKET"], 9302);
    let warnings: Vec<&str> = said.lines().filter(|line| line.contains("kernel types")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains(why), "{said}");
    assert!(said.contains("kfree_skb (tracepoint)") && !said.contains("panic"), "{said}");
    assert_eq!(events.len(), 2, "{said}");
    for event in events {
        assert!(is_of_udp_rcv(&event), "{event:#}");
        for unknown in ["source_ip", "interface", "netns", "length", "direction"] {
            let unknown = &event[unknown];
            assert!(unknown.is_null() || unknown == "unknown", "unknown is not zero: {event:#}");
        }
    }
}

#[test]
fn a_kernel_without_types() {
    without_types(&Types::None, "No such file");
}

#[test]
fn a_kernel_whose_types_are_cut_short() {
    without_types(&Types::Half, "vmlinux");
}
