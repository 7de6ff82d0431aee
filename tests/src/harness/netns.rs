//! Network namespaces without names: they live as long as something holds them, so a killed test leaves none behind.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::gettid;

use super::packet::udp;
use super::tool;

/// A network namespace, held open.
#[derive(Clone, Debug)]
pub(crate) struct Netns(Arc<File>);

impl Netns {
    /// A new one, in which nothing but `lo` exists.
    pub(crate) fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: are we root?");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let netns = Self(Arc::new(made.join().unwrap()));
        // Duplicate address detection would keep addresses from use for a second or two.
        netns.sysctl("ipv6/conf/default/accept_dad", "0");
        netns.sysctl("ipv6/conf/all/accept_dad", "0");
        netns
    }

    /// A new one in which packets can be dropped on the loopback device.
    pub(crate) fn looped() -> Self {
        let netns = Self::new();
        netns.ip("link set lo up\n");
        netns
    }

    /// Sends UDP packets to a port of its loopback address that nobody listens on.
    pub(crate) fn knock(&self, port: u16, count: u64) {
        self.inside(|| udp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), count, 10));
    }

    /// This process's own: the host's.
    pub(crate) fn host() -> Self {
        Self(Arc::new(File::open("/proc/self/ns/net").unwrap()))
    }

    /// Runs `work` in it. Sockets made there stay there.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let netns = Arc::clone(&self.0);
        thread::scope(|scope| {
            let worker = scope.spawn(move || {
                setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).expect("enter the namespace");
                work()
            });
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Its number, as events have it.
    pub(crate) fn inode(&self) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        self.0.metadata().unwrap().ino()
    }

    /// Directory in `/proc` of a thread that lives in it until the tests end.
    pub(crate) fn thread(&self) -> String {
        let (tell, told) = mpsc::channel();
        let netns = Arc::clone(&self.0);
        thread::spawn(move || {
            setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).expect("enter the namespace");
            tell.send(gettid()).unwrap();
            loop {
                thread::park();
            }
        });
        format!("/proc/{}/task/{}", std::process::id(), told.recv().unwrap())
    }

    /// Sets `/proc/sys/net/<name>`.
    pub(crate) fn sysctl(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/net/{name}");
        self.inside(|| fs::write(&path, value).unwrap_or_else(|error| panic!("{path} = {value}: {error}")));
    }

    /// Sets `/proc/sys/net/<name>`, and puts it back when the result goes: also when the test fails.
    #[must_use]
    pub(crate) fn sysctl_meanwhile(&self, name: &str, value: &str) -> Setting {
        let path = format!("/proc/sys/net/{name}");
        let before =
            self.inside(|| fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")));
        let setting = Setting { netns: self.clone(), path, before };
        self.sysctl(name, value);
        setting
    }

    /// `command`, to be started in it.
    pub(crate) fn enter(&self, command: &mut Command) {
        let netns = Arc::clone(&self.0);
        // SAFETY: between fork and exec only one system call is made.
        unsafe {
            command.pre_exec(move || Ok(setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?));
        }
    }

    /// Runs a tool in it with `input` on its standard input; a failure fails the test with what the tool said.
    pub(crate) fn feed(&self, name: &str, args: &[&str], input: &str) -> String {
        self.try_feed(name, args, input).unwrap_or_else(|said| panic!("{name} {args:?}: {said}\n{input}"))
    }

    fn try_feed(&self, name: &str, args: &[&str], input: &str) -> Result<String, String> {
        let mut command = tool(name);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.enter(&mut command);
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        // A tool that does not read it says why on its own.
        let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
        let Output { status, stdout, stderr } =
            child.wait_with_output().map_err(|error| error.to_string())?;
        let said = format!("{status}: {}", String::from_utf8_lossy(&stderr));
        if status.success() { Ok(String::from_utf8_lossy(&stdout).into_owned()) } else { Err(said) }
    }

    /// Runs a tool in it.
    pub(crate) fn run(&self, name: &str, args: &[&str]) -> String {
        self.feed(name, args, "")
    }

    /// Runs a command in it as a person would.
    pub(crate) fn shell(&self, command: &str) -> String {
        self.run("sh", &["-ec", command])
    }

    /// Runs lines of `ip`, `tc` or `nft` in one process.
    pub(crate) fn batch(&self, name: &str, lines: &str) {
        self.feed(name, stdin_of(name), lines);
    }

    /// Runs such lines; whether it was done.
    pub(crate) fn tries(&self, name: &str, lines: &str) -> bool {
        self.try_feed(name, stdin_of(name), lines).is_ok()
    }

    /// Runs lines of `ip`.
    pub(crate) fn ip(&self, lines: &str) {
        self.batch("ip", lines);
    }

    /// Runs lines of `ip`, `tc` or `nft`, and others when the result goes: also when the test fails.
    #[must_use]
    pub(crate) fn meanwhile(&self, name: &'static str, lines: &str, undo: &'static str) -> Meanwhile {
        self.batch(name, lines);
        Meanwhile { netns: self.clone(), name, undo }
    }

    /// A path that `ip link .. netns <path>` takes for it.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// Something that is so for a while.
pub(crate) struct Meanwhile {
    netns: Netns,
    name: &'static str,
    undo: &'static str,
}

impl Drop for Meanwhile {
    fn drop(&mut self) {
        if let Err(said) = self.netns.try_feed(self.name, stdin_of(self.name), self.undo) {
            eprintln!("{} {}: {said}", self.name, self.undo);
        }
    }
}

/// A sysctl that has another value for a while.
pub(crate) struct Setting {
    netns: Netns,
    path: String,
    before: String,
}

impl Drop for Setting {
    fn drop(&mut self) {
        if let Err(error) = self.netns.inside(|| fs::write(&self.path, &self.before)) {
            eprintln!("{} = {}: {error}", self.path, self.before);
        }
    }
}

/// The arguments with which a tool reads its commands from standard input.
fn stdin_of(name: &str) -> &'static [&'static str] {
    if name == "nft" { &["-f", "-"] } else { &["-batch", "-"] }
}
