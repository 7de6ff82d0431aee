//! The demo on this machine's own kernel: in network, mount and pid namespaces of its own, which end with it.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use anyhow::{Context as _, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, Uid};

use crate::run::{Run as _, shown};
use crate::{build, setup};

/// A shell's exit code for what Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Runs the scene as the first process of a new pid namespace: when it ends, or is made to, all others end with it.
pub(super) fn main() -> Result<u8> {
    if !Uid::effective().is_root() {
        bail!("root is needed to make namespaces and to load BPF programs");
    }
    setup::need(&[setup::Part::Demo])?;
    let agent = build::agent(false)?;

    // Blocked before anything is to be cleaned up, and before the first thread starts, so that all of them leave these
    // signals to the one that waits for them.
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block()?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let (tell, told) = channel();
    let flag = Arc::clone(&interrupted);
    thread::spawn(move || {
        let _ = signals.wait();
        flag.store(true, Ordering::SeqCst);
        // No scene, nothing to end.
        let Ok(scene) = told.recv() else { return };
        let _ = kill(scene, Signal::SIGKILL);
    });
    let cgroup = Cgroup::make()?;

    let mut scene = Command::new(std::env::current_exe()?);
    scene.args(["demo", "scene", "--here", "--cgroup"]).arg(&cgroup.0).env("PATH", path(&agent));
    // A group of its own: Ctrl-C is for this process, whose word is the scene's end.
    scene.stdin(Stdio::null()).process_group(0).dies_with_us();
    // Children from here on are in the new namespace; this process stays where it is and starts no more threads.
    unshare(CloneFlags::CLONE_NEWPID).context("a pid namespace")?;
    let mut child = scene.spawn().with_context(|| shown(&scene))?;
    tell.send(Pid::from_raw(child.id().cast_signed()))?;
    let status = child.wait()?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(match code {
        _ if interrupted.load(Ordering::SeqCst) => INTERRUPTED,
        Some(code) => code,
        None => bail!("the scene was ended: {status}"),
    })
}

/// The scene's first steps: namespaces of its own, with its own `/proc` and a `/run` that is gone with them. Gives the
/// directory for pods' logs.
pub(super) fn enter() -> Result<PathBuf> {
    // Inherited from the process that waits for signals; the agents of the scene are to hear theirs.
    SigSet::empty().thread_set_mask()?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).context("mount and network namespaces")?;
    let none = None::<&str>;
    // Else what is mounted below would show up in the machine's own namespace.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("private mounts")?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none).context("/proc")?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).context("/run")?;
    let pod_logs = PathBuf::from("/run/log/pods");
    fs::create_dir_all(&pod_logs)?;
    Ok(pod_logs)
}

/// With the agent's directory first.
fn path(agent: &Path) -> String {
    let directory = agent.parent().unwrap_or(Path::new("."));
    format!("{}:{}", directory.display(), setup::search_path())
}

/// A cgroup for all pods of the demo. Its processes are gone when it is dropped: they were of the scene's namespace.
struct Cgroup(PathBuf);

impl Cgroup {
    fn make() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts")?;
        let mount =
            cgroup2(&mounts).context("no cgroup version 2 is mounted here: pods cannot be told apart")?;
        let cgroup = Path::new(mount).join(format!("r2c-demo-{}", std::process::id()));
        fs::create_dir(&cgroup).with_context(|| format!("a cgroup for the pods: {}", cgroup.display()))?;
        Ok(Self(cgroup))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            eprintln!("xtask: {} stays behind: {error}", self.0.display());
        }
    }
}

/// The directories from below: a cgroup's files are the kernel's, and `remove_dir_all` would try to delete them.
fn remove(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

/// Where version 2 is mounted: on its own, or beside version 1.
fn cgroup2(mounts: &str) -> Option<&str> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let at = fields.next()?;
        (fields.next()? == "cgroup2").then_some(at)
    })
}

#[cfg(test)]
mod tests {
    use super::cgroup2;

    #[test]
    fn version_2_is_found_alone_and_beside_version_1() {
        let alone = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        let beside =
            "cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(cgroup2(alone), Some("/sys/fs/cgroup"));
        assert_eq!(cgroup2(beside), Some("/sys/fs/cgroup/unified"));
        assert_eq!(cgroup2("cgroup /sys/fs/cgroup/pids cgroup rw 0 0\n"), None);
    }
}
