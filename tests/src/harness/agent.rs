//! The agent as a child process: what it writes, line by line, and how it ends.

use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::pod::Node;
use super::scrape::{CLASSIC, Scrape, get};
use super::{DEADLINE, agent_binary, undo, until};

/// Lines as they come in, raw: nothing says yet that they are valid text.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<(Mutex<Vec<Vec<u8>>>, Condvar)>);

impl Lines {
    /// Collects until the stream ends.
    pub(crate) fn collect(stream: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let ours = lines.clone();
        thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while stream.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                ours.lock().push(std::mem::take(&mut line));
                ours.0.1.notify_all();
            }
        });
        lines
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Those from number `from` on, each with its end of line.
    pub(crate) fn since(&self, from: usize) -> Vec<Vec<u8>> {
        self.lock().get(from..).unwrap_or_default().to_vec()
    }

    /// All, as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock().concat()).into_owned()
    }

    /// Waits until what came since number `from` gives an answer.
    pub(crate) fn wait<T>(&self, from: usize, found: impl FnMut(&[Vec<u8>]) -> Option<T>) -> Option<T> {
        self.wait_for(DEADLINE, from, found)
    }

    /// As [`Lines::wait`], with a deadline of its own.
    pub(crate) fn wait_for<T>(
        &self,
        deadline: Duration,
        from: usize,
        mut found: impl FnMut(&[Vec<u8>]) -> Option<T>,
    ) -> Option<T> {
        let begun = Instant::now();
        let mut lines = self.lock();
        loop {
            if let Some(found) = found(lines.get(from..).unwrap_or_default()) {
                return Some(found);
            }
            let left = deadline.checked_sub(begun.elapsed())?;
            lines = self.0.1.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A line as JSON; `None` if it is not.
pub(crate) fn json(line: &[u8]) -> Option<Value> {
    serde_json::from_slice(line).ok()
}

/// A started agent. Dropped, it is killed.
pub(crate) struct Agent {
    child: Child,
    /// Its standard output.
    pub(crate) stdout: Lines,
    /// Its standard error.
    pub(crate) stderr: Lines,
}

/// The command line of an agent that sees `node` and nothing else of this machine's pods.
pub(crate) fn command(node: &Node, args: &[&str]) -> Command {
    let mut command = Command::new(agent_binary());
    command.args(args).arg("--host-cgroup").arg(&node.cgroup).arg("--pod-logs").arg(&node.logs);
    command.arg("--host-proc").arg(&node.proc);
    command.env("NODE_NAME", "r2c-test").env_remove("R2C_LOG_LEVEL");
    // Whoever runs the tests may ignore them (nohup, a shell's background job), and a child inherits that.
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        command.pre_exec(|| {
            for signal in [libc::SIGHUP, libc::SIGINT] {
                libc::signal(signal, libc::SIG_DFL);
            }
            Ok(())
        });
    }
    command
}

/// Root without these capabilities of `linux/capability.h`, and no way to them.
pub(crate) fn without_capabilities(command: &mut Command, capabilities: std::ops::Range<u64>) {
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        command.pre_exec(move || {
            for capability in capabilities.clone() {
                libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
            }
            Ok(())
        });
    }
}

/// Root with these capabilities of `linux/capability.h` alone, and no way to others.
pub(crate) fn only_capabilities(command: &mut Command, capabilities: &'static [u64]) {
    // Whatever this kernel knows: of others the call fails.
    const MORE_THAN_ANY: u64 = 64;
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        command.pre_exec(move || {
            for capability in (0..MORE_THAN_ANY).filter(|capability| !capabilities.contains(capability)) {
                libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
            }
            Ok(())
        });
    }
}

/// What the DaemonSet gives: `NET_ADMIN`, `SYS_PTRACE`, `SYSLOG`, `PERFMON`, `BPF`.
pub(crate) const FIVE: &[u64] = &[12, 19, 34, 38, 39];

impl Agent {
    /// Starts a command.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        undo::at_end(&format!("kill -9 {} 2>/dev/null", child.id()));
        let stdout = Lines::collect(child.stdout.take().unwrap());
        let stderr = Lines::collect(child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Its BPF programs, links and maps, by kind and number.
    pub(crate) fn kernel_objects(&self) -> Vec<(&'static str, u32)> {
        kernel_objects(self.child.id())
    }

    /// Moves it into this cgroup.
    pub(crate) fn join(&self, cgroup: &Path) {
        fs::write(cgroup.join("cgroup.procs"), self.child.id().to_string()).unwrap();
    }

    /// The names of its threads.
    pub(crate) fn threads(&self) -> Vec<String> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap().flatten();
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok()).collect()
    }

    /// Its memory, as much as is in RAM, KiB.
    pub(crate) fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB"));
        kilobytes.and_then(|number| number.trim().parse().ok()).unwrap()
    }

    /// Waits for its end. Its last lines may come in a moment later.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let what = format!("the agent's end; it says {}", self.stderr.text());
        until(&what, || self.child.try_wait().unwrap())
    }

    /// Waits for its end and for the last of its lines; the exit code, or 128 + the signal that ended it.
    pub(crate) fn ended(&mut self) -> i32 {
        let status = self.end();
        // The collecting threads hold the other half of each list until they have read to the end.
        until("the end of its output", || {
            let done = [&self.stdout, &self.stderr].iter().all(|lines| Arc::strong_count(&lines.0) == 1);
            done.then_some(())
        });
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `r2c-agent run`, ready.
pub(crate) struct Running {
    /// The process.
    pub(crate) agent: Agent,
    /// Where it answers.
    pub(crate) address: SocketAddr,
}

impl Running {
    /// Starts it with further arguments and waits until it is ready.
    pub(crate) fn start(node: &Node, args: &[&str]) -> Self {
        Self::start_limited(node, args, |_| ())
    }

    /// As [`Running::start`], after `limit` has taken something from the process to be.
    pub(crate) fn start_limited(node: &Node, args: &[&str], limit: impl FnOnce(&mut Command)) -> Self {
        let address = free_address();
        let listen = address.to_string();
        let args = [&["run", "--listen", &listen], args].concat();
        let mut command = command(node, &args);
        limit(&mut command);
        Self::ready(Agent::spawn(&mut command), address)
    }

    /// Waits until one that was started is ready.
    pub(crate) fn ready(mut agent: Agent, address: SocketAddr) -> Self {
        until("/readyz says ready", || {
            let ended = agent.child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", agent.stderr.text());
            get(address, "/readyz", "*/*").ok().filter(|(status, _)| *status == 200)
        });
        Self { agent, address }
    }

    /// One scrape.
    pub(crate) fn scrape(&self) -> Scrape {
        Scrape::parse(&self.text("/metrics", CLASSIC))
    }

    /// The body of an answer that must be 200.
    pub(crate) fn text(&self, path: &str, accept: &str) -> String {
        let (status, body) = get(self.address, path, accept).unwrap();
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// SIGTERM; how long it took to end, and with which code.
    pub(crate) fn terminate(&mut self) -> (Duration, i32) {
        let begun = Instant::now();
        self.agent.signal(Signal::SIGTERM);
        self.agent.end();
        (begun.elapsed(), self.agent.ended())
    }
}

/// A loopback port that is free now.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).unwrap()
}

/// The BPF programs, links and maps a process holds, by kind and number: what `fdinfo` of its descriptors says.
pub(crate) fn kernel_objects(pid: u32) -> Vec<(&'static str, u32)> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
    let texts = descriptors.filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let mut objects = Vec::new();
    for text in texts {
        for (kind, field) in [("prog", "prog_id:"), ("link", "link_id:"), ("map", "map_id:")] {
            let id = text.lines().find_map(|line| line.strip_prefix(field)?.trim().parse().ok());
            objects.extend(id.map(|id| (kind, id)));
        }
    }
    objects
}
