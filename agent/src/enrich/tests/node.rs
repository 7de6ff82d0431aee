//! A node's files made on the spot, a stand-in for a probe's maps, and what must go when a test ends.

use std::collections::HashMap;
use std::fmt::Write;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::enrich::{PodIndex, Roots, start};
use crate::pod::{FindPod, PodSlots, Slot, SlotKey, Subject};
use crate::shutdown::{self, Shutdown};

pub(crate) const HOST_NETNS: u32 = 4_026_531_840;
pub(crate) const SLICE: &str = "kubepods.slice/kubepods-burstable.slice";

/// A node's files.
pub(crate) struct Node {
    pub(crate) dir: TempDir,
}

impl Node {
    /// With cgroup version 2, no kubelet yet.
    pub(crate) fn bare() -> Self {
        let node = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(node.at("cgroup")).unwrap();
        fs::write(node.at("cgroup/cgroup.controllers"), "memory pids").unwrap();
        fs::create_dir(node.at("log")).unwrap();
        node.process(1, HOST_NETNS, &["192.0.2.1"]);
        symlink("1", node.at("proc/self")).unwrap();
        node
    }

    pub(crate) fn new() -> Self {
        let node = Self::bare();
        fs::create_dir_all(node.at("cgroup").join(SLICE)).unwrap();
        fs::create_dir(node.at("log/pods")).unwrap();
        node
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    pub(crate) fn roots(&self) -> Roots {
        Roots { proc: self.at("proc"), cgroup: self.at("cgroup"), pod_logs: self.at("log/pods") }
    }

    pub(crate) fn process(&self, pid: u32, netns: u32, addresses: &[&str]) {
        let dir = self.at("proc").join(pid.to_string());
        fs::create_dir_all(dir.join("ns")).unwrap();
        fs::create_dir_all(dir.join("net")).unwrap();
        let _ = fs::remove_file(dir.join("ns/net"));
        symlink(format!("net:[{netns}]"), dir.join("ns/net")).unwrap();
        let filler = vec!["0"; 18].join(" ");
        fs::write(dir.join("stat"), format!("{pid} (a b) c) S {filler} {pid} 0\n")).unwrap();
        self.addresses(pid, addresses);
    }

    pub(crate) fn addresses(&self, pid: u32, addresses: &[&str]) {
        let (mut trie, mut v6) = (String::from("Main:\n"), String::new());
        for address in addresses {
            match address.parse().unwrap() {
                IpAddr::V4(address) => writeln!(trie, "     |-- {address}\n        /32 host LOCAL").unwrap(),
                IpAddr::V6(address) => {
                    writeln!(v6, "{:032x} 02 40 00 80     eth0", address.to_bits()).unwrap();
                }
            }
        }
        let dir = self.at("proc").join(pid.to_string());
        fs::write(dir.join("net/fib_trie"), trie).unwrap();
        fs::write(dir.join("net/if_inet6"), v6).unwrap();
    }

    /// Waits until a new directory is dated later than now: the kernel dates them by the last clock tick, and an
    /// event of the tick in which an address changed hands is nobody's.
    pub(crate) fn tick(&self) {
        let now = SystemTime::now();
        let file = self.at("tick");
        while fs::write(&file, "x").and_then(|()| fs::metadata(&file)?.modified()).unwrap() <= now {}
    }

    /// A pod by systemd's driver: its cgroup and its log directory.
    pub(crate) fn pod(&self, number: u32) -> FakePod<'_> {
        let name = format!("kubepods-burstable-pod{}.slice", uid(number).replace('-', "_"));
        let cgroup = self.at("cgroup").join(SLICE).join(name);
        self.pod_at(number, cgroup)
    }

    pub(crate) fn pod_at(&self, number: u32, cgroup: PathBuf) -> FakePod<'_> {
        fs::create_dir_all(&cgroup).unwrap();
        fs::create_dir_all(self.at("log/pods").join(format!("default_p{number}_{}", uid(number)))).unwrap();
        FakePod { node: self, cgroup }
    }

    pub(crate) async fn start(&self) -> Running {
        let (shutdown, drain) = shutdown::channel();
        let (index, task) = start(self.roots(), drain).await;
        Running { index, task, shutdown }
    }
}

pub(crate) struct FakePod<'a> {
    pub(crate) node: &'a Node,
    pub(crate) cgroup: PathBuf,
}

impl FakePod<'_> {
    pub(crate) fn run(&self, pid: u32, netns: u32, addresses: &[&str]) {
        self.run_as(&format!("cri-containerd-{}.scope", id(pid)), pid, netns, addresses);
    }

    pub(crate) fn run_as(&self, container: &str, pid: u32, netns: u32, addresses: &[&str]) {
        self.node.process(pid, netns, addresses);
        let dir = self.cgroup.join(container);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("cgroup.procs"), format!("{pid}\n")).unwrap();
    }

    pub(crate) fn remove(self) {
        fs::remove_dir_all(&self.cgroup).unwrap();
    }
}

pub(crate) struct Running {
    pub(crate) index: PodIndex,
    pub(crate) task: JoinHandle<()>,
    pub(crate) shutdown: Shutdown,
}

impl Running {
    /// Waits until `done` says so.
    pub(crate) async fn until(&self, what: &str, done: impl Fn() -> bool) {
        let mut version = self.index.version();
        let wait = async {
            while !done() {
                version.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
    }

    pub(crate) fn who(&self, subject: Subject, at: SystemTime) -> Option<String> {
        self.index.find_pod(subject, at).map(|pod| pod.name.clone())
    }

    pub(crate) fn now(&self, subject: Subject) -> Option<String> {
        self.who(subject, SystemTime::now())
    }

    pub(crate) fn slots(&self) -> Kernel {
        let kernel = Kernel::default();
        self.index.register(Box::new(kernel.clone()));
        kernel
    }

    pub(crate) async fn end(self) {
        self.shutdown.start();
        self.task.await.unwrap();
    }
}

/// Stands for a probe's maps.
#[derive(Clone, Default)]
pub(crate) struct Kernel(pub(crate) Arc<Mutex<Maps>>);

#[derive(Default)]
pub(crate) struct Maps {
    pub(crate) bound: HashMap<SlotKey, Slot>,
    pub(crate) retired: Vec<(Slot, Option<String>)>,
    pub(crate) asks: Option<PodIndex>,
    pub(crate) refuses: bool,
}

impl Kernel {
    pub(crate) fn slot(&self, key: SlotKey) -> Option<Slot> {
        self.0.lock().unwrap().bound.get(&key).copied()
    }
}

impl PodSlots for Kernel {
    fn bind(&mut self, key: SlotKey, slot: Slot) -> std::io::Result<()> {
        let mut maps = self.0.lock().unwrap();
        if maps.refuses {
            return Err(std::io::Error::from_raw_os_error(7));
        }
        maps.bound.insert(key, slot);
        Ok(())
    }

    fn unbind(&mut self, key: SlotKey) {
        self.0.lock().unwrap().bound.remove(&key);
    }

    fn retire(&mut self, slot: Slot) {
        let mut maps = self.0.lock().unwrap();
        let asks = maps.asks.clone();
        let name = asks.and_then(|index| index.find_pod(Subject::Slot(slot), SystemTime::now()));
        maps.retired.push((slot, name.map(|pod| pod.name.clone())));
    }
}

pub(crate) fn uid(number: u32) -> String {
    format!("{number:08x}-0000-4000-8000-000000000000")
}

pub(crate) fn id(number: u32) -> String {
    format!("{number:064x}")
}

pub(crate) fn ip(text: &str) -> Subject {
    Subject::Address(text.parse().unwrap())
}

pub(crate) fn ip_key(text: &str) -> SlotKey {
    SlotKey::Address(text.parse().unwrap())
}

/// A process that ends with the test.
pub(crate) struct Started(pub(crate) Child);

impl Started {
    pub(crate) fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        self.end();
    }
}

/// A cgroup that goes with the test, with what is below it.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fn remove(dir: &Path) {
            for child in fs::read_dir(dir).into_iter().flatten().flatten() {
                if child.file_type().is_ok_and(|kind| kind.is_dir()) {
                    remove(&child.path());
                }
            }
            let _ = fs::remove_dir(dir);
        }
        remove(&self.0);
    }
}
