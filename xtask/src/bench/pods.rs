//! The pods of a full node: what kubelet and a runtime leave of each, and a process in a namespace of its own.

use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, unshare};

use crate::run::Run as _;

/// Kubelet's own limit, unless told otherwise.
pub(super) const PODS: u8 = 110;

/// Where kubelet keeps pods' logs, and cgroup version 2 is mounted.
const LOGS: &str = "/var/log/pods";
const CGROUP: &str = "/sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice";

/// A pod's process, which lives until this is dropped.
pub(super) struct Pod {
    _process: Child,
    _life: ChildStdin,
}

/// Starts a full node's pods, each with an address.
pub(super) fn start() -> Result<Vec<Pod>> {
    (1..=PODS).map(one).collect()
}

fn one(number: u8) -> Result<Pod> {
    let uid = format!("{number:08x}-0000-4000-8000-000000000000");
    let slice = format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_"));
    let cgroup = Path::new(CGROUP).join(slice).join(format!("cri-containerd-{number:064x}.scope"));
    let logs = Path::new(LOGS).join(format!("bench_web-{number}_{uid}")).join("web");
    for directory in [&cgroup, &logs] {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    let procs = OpenOptions::new().write(true).open(cgroup.join("cgroup.procs"))?;
    let mut sh = Command::new("sh");
    let address = format!("10.244.1.{number}/32");
    sh.args(["-c", &format!("ip link set lo up && ip addr add {address} dev lo && echo up && exec cat")]);
    sh.stdin(Stdio::piped()).stdout(Stdio::piped()).dies_with_us();
    // SAFETY: between fork and exec only write(2) and unshare(2) are called, which take no lock and allocate nothing.
    unsafe {
        sh.pre_exec(move || {
            // 0 is the writing process itself.
            nix::unistd::write(&procs, b"0")?;
            Ok(unshare(CloneFlags::CLONE_NEWNET)?)
        })
    };
    let mut process = sh.spawn().context("the process of a pod")?;
    let life = process.stdin.take().context("a pipe to the pod")?;
    let mut said = String::new();
    BufReader::new(process.stdout.take().context("a pipe from the pod")?).read_line(&mut said)?;
    if said != "up\n" {
        bail!("pod {number} has no address");
    }
    Ok(Pod { _process: process, _life: life })
}
