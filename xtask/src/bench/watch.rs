//! Who watches while packets are lost: the agent and its peers, each started as an operator starts it.

use std::fs::{self, File};
use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use crate::run::{Run as _, shown};

/// Where `r2c-agent run` serves by default.
pub(super) const AGENT: &str = "127.0.0.1:9436";

/// Where `node_exporter` is told to serve: this guest only, as the agent does.
pub(super) const EXPORTER: &str = "127.0.0.1:9100";

/// What people type today to see drops by reason.
const ONE_LINER: &str = "tracepoint:skb:kfree_skb { @[args->reason] = count(); }";

/// What the one that is watching writes to standard error.
const SAID: &str = "/run/bench-said";

/// How one is known to be at work.
#[derive(Clone, Copy)]
enum Ready {
    /// It writes a line with these words to standard error.
    Says(&'static str),
    /// It has nothing left to do but to wait.
    Waits,
}

/// One that is watching.
pub(super) struct Watcher {
    child: Child,
    /// Instructions it executed from exec to all attached; of peers, which do not say so, to being ready.
    pub(super) start: u64,
    /// Instructions it executed from exec to being ready.
    pub(super) ready: u64,
}

impl Watcher {
    /// `r2c-agent run` with one probe and these arguments.
    pub(super) fn agent(probe: &str, args: &[&str]) -> Result<Self> {
        Self::run(&[&["--probe", probe], args].concat())
    }

    /// `r2c-agent run` as it comes, with every probe.
    pub(super) fn whole() -> Result<Self> {
        Self::run(&[])
    }

    fn run(args: &[&str]) -> Result<Self> {
        let mut agent = Command::new("r2c-agent");
        agent.arg("run").args(args);
        let mut agent = Self::start(agent, None, Ready::Says("\"message\":\"all attached\""))?;
        agent.hear("\"message\":\"ready\"")?;
        agent.ready = agent.executed()?;
        Ok(agent)
    }

    pub(super) fn bpftrace() -> Result<Self> {
        let mut bpftrace = Command::new("bpftrace");
        bpftrace.args(["-e", ONE_LINER]);
        Self::start(bpftrace, None, Ready::Waits)
    }

    pub(super) fn dropwatch() -> Result<Self> {
        let mut dropwatch = Command::new("dropwatch");
        dropwatch.args(["-l", "kas"]);
        Self::start(dropwatch, Some("start\n"), Ready::Waits)
    }

    pub(super) fn node_exporter() -> Result<Self> {
        let mut exporter = Command::new("prometheus-node-exporter");
        exporter.arg(format!("--web.listen-address={EXPORTER}"));
        Self::start(exporter, None, Ready::Waits)
    }

    fn start(mut command: Command, order: Option<&str>, ready: Ready) -> Result<Self> {
        // To a file: a thread of ours that reads a pipe would make each of our system calls dearer, since descriptors
        // are then shared.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(File::create(SAID)?).dies_with_us();
        let mut child = command.spawn().with_context(|| shown(&command))?;
        if let (Some(order), Some(stdin)) = (order, &mut child.stdin) {
            stdin.write_all(order.as_bytes())?;
        }
        let mut watcher = Self { child, start: 0, ready: 0 };
        match ready {
            Ready::Says(words) => watcher.hear(words).with_context(|| shown(&command))?,
            Ready::Waits => watcher.settle().with_context(|| shown(&command))?,
        }
        watcher.start = watcher.executed()?;
        watcher.ready = watcher.start;
        Ok(watcher)
    }

    /// Waits until it says these words.
    fn hear(&mut self, words: &str) -> Result<()> {
        const LOOK: Duration = Duration::from_millis(1);
        loop {
            let said = fs::read_to_string(SAID)?;
            if said.contains(words) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("ended before it was ready, {status}:\n{said}");
            }
            thread::sleep(LOOK);
        }
    }

    /// Waits until it has nothing to do: a second in which it slept, but for a look whether there is anything.
    pub(super) fn settle(&self) -> Result<()> {
        const LOOK: Duration = Duration::from_millis(50);
        const QUIET: u32 = 20;
        // Bpftrace looks around ten times a second, and Go's runtime, too.
        const GLANCE: u64 = 200_000;
        // Of an emulated second, which passes in a moment while the guest is idle.
        const LIMIT: u32 = 20_000;
        let (mut quiet, mut before) = (0, self.executed()?);
        for _ in 0..LIMIT {
            thread::sleep(LOOK);
            let now = self.executed()?;
            // Time also passes while the host reads a file for it; it is then in state D.
            quiet = if now - before < GLANCE && self.state()? == 'S' { quiet + 1 } else { 0 };
            before = now;
            if quiet == QUIET {
                return Ok(());
            }
        }
        bail!("never came to rest")
    }

    fn state(&self) -> Result<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        // After the name, which may hold anything, also a parenthesis.
        let (_, after) = stat.rsplit_once(") ").context("/proc/pid/stat")?;
        after.chars().next().context("/proc/pid/stat")
    }

    pub(super) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Instructions all its threads have executed, those that ended included: nanoseconds of its processor time.
    pub(super) fn executed(&self) -> Result<u64> {
        let time = Duration::from(clock_gettime(clock_getcpuclockid(self.pid())?)?);
        Ok(u64::try_from(time.as_nanos())?)
    }

    /// Its resident memory in KiB. Not from `status`, whose counters lag behind.
    pub(super) fn resident(&self) -> Result<u64> {
        number(&fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid()))?, "Rss:")
    }

    /// How often it woke up so far, all threads.
    pub(super) fn woken(&self) -> Result<u64> {
        let mut woken = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            woken += number(&fs::read_to_string(task?.path().join("status"))?, "voluntary_ctxt_switches:")?;
        }
        Ok(woken)
    }

    /// Ends it as Ctrl-C would.
    pub(super) fn end(mut self) -> Result<()> {
        kill(self.pid(), Signal::SIGINT)?;
        // Dropwatch reads its orders to their end first.
        drop(self.child.stdin.take());
        self.child.wait()?;
        Ok(())
    }
}

/// The number after a word at a line's begin.
fn number(text: &str, word: &str) -> Result<u64> {
    let mut rest = text.lines().filter_map(|line| line.strip_prefix(word));
    let first = rest.next().and_then(|rest| rest.split_ascii_whitespace().next());
    first.and_then(|number| number.parse().ok()).with_context(|| format!("no number after {word:?}"))
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn a_number_is_its_own_line_s() {
        let status = "nonvoluntary_ctxt_switches:\t9\nvoluntary_ctxt_switches:\t7\n";
        assert_eq!(number(status, "voluntary_ctxt_switches:").unwrap(), 7);
        assert!(number(status, "VmRSS:").is_err());
    }
}
