//! Pods as kubelet and a runtime leave them on a node: cgroup, process, network namespace and log directory.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MsFlags, mount};

use super::netns::Netns;
use super::undo;

/// A node's directories, apart from the real ones.
#[derive(Debug)]
pub(crate) struct Node {
    /// What the agent gets as `--host-cgroup`.
    pub(crate) cgroup: PathBuf,
    /// Where in that kubelet makes its tree.
    hierarchy: PathBuf,
    /// What the agent gets as `--pod-logs`.
    pub(crate) logs: PathBuf,
    /// What the agent gets as `--host-proc`: the real one, unless process 1 is hidden from us
    /// there or another is to be taken for it.
    pub(crate) proc: PathBuf,
}

impl Node {
    /// With cgroup version 2.
    pub(crate) fn new() -> Self {
        let name = unique();
        let cgroup = cgroup_v2().join(&name);
        Self::cgroup(&cgroup);
        Self::with(&name, &cgroup, &cgroup, None)
    }

    fn cgroup(cgroup: &Path) {
        fs::create_dir(cgroup).expect("a cgroup: are we root?");
        // A killed process leaves its cgroup a moment later.
        let at = cgroup.display();
        let remove = format!("find {at} -depth -type d -exec rmdir {{}} + 2>/dev/null && break; sleep 0.1");
        undo::at_end(&format!("echo 1 >{at}/cgroup.kill; for i in 1 2 3 4 5 6 7 8 9; do {remove}; done"));
    }

    /// As [`Node::new`], with `netns` as the host's own: a router there routes for the pods as a node does.
    pub(crate) fn routing(netns: &Netns) -> Self {
        let name = unique();
        let cgroup = cgroup_v2().join(&name);
        Self::cgroup(&cgroup);
        Self::with(&name, &cgroup, &cgroup, Some(netns))
    }

    /// With a hierarchy of cgroup version 1, which holds no controller: kubelet's tree is in each alike.
    pub(crate) fn v1() -> Self {
        let name = unique();
        let cgroup = std::env::temp_dir().join(&name).join("cgroup");
        let hierarchy = cgroup.join("systemd");
        fs::create_dir_all(&hierarchy).unwrap();
        let options = format!("none,name={name}");
        mount(Some("r2c"), &hierarchy, Some("cgroup"), MsFlags::empty(), Some(options.as_str()))
            .expect("a hierarchy of cgroup version 1");
        // It goes with its last cgroup, which goes with the last process: these are gone with our end of their pipes.
        let at = hierarchy.display();
        let remove = format!(
            "find {at} -mindepth 1 -depth -type d -exec rmdir {{}} + 2>/dev/null && break; sleep 0.1"
        );
        undo::at_end(&format!("for i in 1 2 3 4 5 6 7 8 9; do {remove}; done; umount {at}"));
        Self::with(&name, &cgroup, &hierarchy, None)
    }

    fn with(name: &str, cgroup: &Path, hierarchy: &Path, host: Option<&Netns>) -> Self {
        let temp = std::env::temp_dir().join(name);
        let logs = temp.join("pods");
        fs::create_dir_all(&logs).unwrap();
        let own = format!("/proc/{}", std::process::id());
        let first = match host {
            Some(netns) => Some(netns.thread()),
            // In a container of its own this process is as much the host's as process 1.
            None => fs::read_link("/proc/1/ns/net").is_err().then(|| own.clone()),
        };
        let proc = if first.is_some() { temp.join("proc") } else { "/proc".into() };
        if let Some(first) = first {
            fs::create_dir(&proc).unwrap();
            symlink(first, proc.join("1")).unwrap();
            symlink(own, proc.join("self")).unwrap();
        }
        Self { cgroup: cgroup.to_owned(), hierarchy: hierarchy.to_owned(), logs, proc }
    }

    /// Lets the agent see a process.
    fn show(&self, pid: u32) {
        if self.proc != Path::new("/proc") {
            symlink(format!("/proc/{pid}"), self.proc.join(pid.to_string())).unwrap();
        }
    }
}

/// A name no other node has, in this run or another; the directory of that name goes last of all.
fn unique() -> String {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let name = format!("r2c-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
    undo::at_end(&format!("rm -rf --one-file-system {}", std::env::temp_dir().join(&name).display()));
    name
}

/// A cgroup that bounds the threads in it by `pids.max`, as kubelet bounds a pod's.
pub(crate) fn bounding_threads() -> PathBuf {
    let v1 = Path::new("/sys/fs/cgroup/pids");
    let root = if v1.join("cgroup.procs").exists() {
        v1.to_owned()
    } else {
        let root = cgroup_v2();
        fs::write(root.join("cgroup.subtree_control"), "+pids").expect("the kernel bounds threads");
        root
    };
    let cgroup = root.join(unique());
    fs::create_dir(&cgroup).expect("a cgroup: are we root?");
    undo::at_end(&format!(
        "for i in 1 2 3 4 5 6 7 8 9; do rmdir {} && break; sleep 0.1; done",
        cgroup.display()
    ));
    cgroup
}

/// Where cgroup v2 is mounted here.
fn cgroup_v2() -> PathBuf {
    let places = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(PathBuf::from);
    places.into_iter().find(|path| path.join("cgroup.controllers").exists()).expect("cgroup v2 is mounted")
}

/// How kubelet's cgroup driver and the runtime name a pod's cgroup and, in that, a container's.
#[derive(Debug)]
pub(crate) struct Names {
    /// `UID` and, with underscores, `U_I_D` are the pod's uid.
    pub(crate) pod: &'static str,
    /// `ID` is the container's.
    pub(crate) container: &'static str,
}

/// What most nodes have.
const SYSTEMD_CONTAINERD: Names = Names {
    pod: "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_I_D.slice",
    container: "cri-containerd-ID.scope",
};

/// A pod with one container, which does nothing.
#[derive(Debug)]
pub(crate) struct Pod {
    /// Where it lives; the host's for a pod with `hostNetwork`.
    pub(crate) netns: Netns,
    cgroup: PathBuf,
    logs: PathBuf,
    process: Child,
}

impl Pod {
    /// Starts one as kubelet does: log directory, cgroup, then a process in the network namespace `netns`.
    pub(crate) fn start(node: &Node, name: &str, netns: &Netns) -> Self {
        Self::start_as(&SYSTEMD_CONTAINERD, node, name, netns)
    }

    /// As [`Pod::start`], with cgroups named this way.
    pub(crate) fn start_as(names: &Names, node: &Node, name: &str, netns: &Netns) -> Self {
        static BORN: AtomicU32 = AtomicU32::new(1);
        let number = BORN.fetch_add(1, Ordering::Relaxed);
        let uid = format!("{number:08x}-0000-4000-8000-{:012x}", std::process::id());
        let logs = node.logs.join(format!("{}_{uid}", name.replace('/', "_")));
        fs::create_dir(&logs).unwrap();
        let fill = |name: &str| name.replace("UID", &uid).replace("U_I_D", &uid.replace('-', "_"));
        let cgroup = node.hierarchy.join(fill(names.pod));
        let container = cgroup.join(names.container.replace("ID", &format!("{number:064x}")));
        fs::create_dir_all(&container).unwrap();
        let process = sleeper(netns, &container);
        node.show(process.id());
        Self { netns: netns.clone(), cgroup, logs, process }
    }

    /// Ends its process; its cgroup stays, as before the runtime has started one.
    pub(crate) fn end_process(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Takes its name away: kubelet's log directory.
    pub(crate) fn end_logs(&self) {
        fs::remove_dir(&self.logs).unwrap();
    }

    /// Ends it as kubelet does, its log directory included.
    pub(crate) fn stop(mut self) {
        self.end_process();
        for container in fs::read_dir(&self.cgroup).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
            fs::remove_dir(container.path()).unwrap();
        }
        fs::remove_dir(&self.cgroup).unwrap();
        if self.logs.exists() {
            self.end_logs();
        }
    }
}

/// A process in this namespace and cgroup that ends when this one does: then its standard input ends.
fn sleeper(netns: &Netns, cgroup: &Path) -> Child {
    let procs = OpenOptions::new().write(true).open(cgroup.join("cgroup.procs")).unwrap();
    let mut cat = Command::new("/bin/cat");
    cat.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    netns.enter(&mut cat);
    // SAFETY: between fork and exec only one system call is made. Zero is the process that writes it.
    unsafe {
        cat.pre_exec(move || Ok(nix::unistd::write(&procs, b"0").map(drop)?));
    }
    cat.spawn().expect("a process in the pod's cgroup")
}
