//! `r2c-agent selftest`: makes known drops in network namespaces of its own and compares every count.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::answer;
use crate::cli::{Host, Report as Output, Selftest};
use crate::failure::Failure;
use crate::kernel::Kernel;
use crate::log::note;
use crate::metrics::{Format, Metrics};
use crate::node;
use crate::probe::Probe as _;
use crate::probe::loader::Loader;
use crate::probe::pipeline::Ended;
use crate::probe::start::{Context, Entry, Settings, Started};
use crate::probes::drops::Drops;
use crate::shutdown::{self, Drain, Signals};
use crate::sink::filter::Filter;
use crate::sink::json::JsonSink;

mod cause;
mod compare;
mod ground;
mod pods;
mod print;

use cause::{BURST, Cause, Plan};
use compare::{After, Counted, Run};
use ground::{GroundError, Lane, Netns};
use pods::TestPods;
use print::{Held, Report};

/// The probe that it tests.
pub const PROBE: &str = Drops::NAME;

/// Threads that make drops, each on a CPU of its own where there are two.
const THREADS: usize = 2;

/// How long a count may lag behind the drop: a softirq put off, a CPU taken away.
const LAG: Duration = Duration::from_secs(2);

/// Between two notes of a long run.
const NOTE: Duration = Duration::from_secs(5);

/// Runs until all runs are done or Ctrl-C.
///
/// # Errors
/// Unsupported: no right to make namespaces, or the kernel refuses the probe. Runtime: some run was not exact, or it was
/// interrupted.
pub async fn selftest(host: &Host, args: &Selftest) -> Result<(), Failure> {
    let (interrupt, interrupted) = shutdown::channel();
    let mut signals = Signals::listen()?;
    tokio::spawn(async move {
        signals.first().await;
        interrupt.start();
    });
    let kernel = Kernel::load_from(node::kernel_roots(host));
    if kernel.offset("net", "ns.inum").is_none() {
        let why = kernel.missing().iter().map(|missing| format!(": {missing}")).next().unwrap_or_default();
        return Err(Failure::unsupported(format!("selftest cannot tell its own drops from others'{why}")));
    }
    let netns = ground::make(THREADS).map_err(|error| match error {
        GroundError::Forbidden(_) => Failure::unsupported(error),
        GroundError::Refused { .. } => error.into(),
    })?;
    let bench = Bench {
        entry: Entry::of::<Drops>(),
        reasons: Drops::reasons(&kernel),
        settings: node::settings(&args.limits),
        cpus: cpus()?,
        netns: Arc::new(netns),
        loader: Loader::new(&kernel, Drops::HOOKS),
        kernel,
        interrupted,
    };
    let report = bench.runs(host, args).await?;
    let said = if args.output == Output::Json { serde_json::to_string(&report)? } else { report.verdict() };
    bench.say(said).await?;
    report.outcome()
}

/// The CPUs to make drops on: the first two this process may use.
fn cpus() -> Result<[usize; THREADS], Failure> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let mut allowed = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let first = allowed.next().ok_or_else(|| Failure::unsupported("no CPU to run on"))?;
    Ok([first, allowed.next().unwrap_or(first)])
}

/// What every run needs.
struct Bench {
    entry: Entry,
    kernel: Kernel,
    loader: Loader,
    settings: Settings,
    reasons: Vec<String>,
    cpus: [usize; THREADS],
    netns: Arc<[Netns; 2]>,
    interrupted: Drain,
}

impl Bench {
    async fn runs(&self, host: &Host, args: &Selftest) -> Result<Report, Failure> {
        let mut report = Report {
            version: crate::version::VERSION,
            kernel: self.kernel.release().version.clone(),
            arch: self.kernel.release().arch,
            hooks: Vec::new(),
            cpus: self.cpus,
            drops: args.drops,
            wanted: args.runs,
            reasons: !self.reasons.is_empty(),
            runs: Vec::new(),
        };
        if !report.reasons {
            note("this kernel gives no reasons: drops are compared by pod alone");
        }
        let table = args.output == Output::Table;
        for run in 1..=args.runs {
            let started = self.start()?;
            if run == 1 {
                report.hooks.extend(
                    started
                        .climbs
                        .iter()
                        .filter_map(|climb| Some(Held { hook: climb.hook.name, rung: climb.holds?.name })),
                );
                note(&report.announcement());
                if table {
                    self.say(print::heading()).await?;
                }
            }
            let Some(run) = self.run(host, run, args, started).await? else { break };
            if table {
                self.say(print::lines(&run).join("\n")).await?;
            }
            report.runs.push(run);
        }
        Ok(report)
    }

    /// Lines on stdout.
    async fn say(&self, lines: impl Into<String>) -> Result<(), Failure> {
        let mut interrupted = self.interrupted.clone();
        answer::write(lines.into() + "\n", interrupted.wait()).await
    }

    /// Brings the probe up anew: a run begins with empty counts.
    fn start(&self) -> Result<Started, Failure> {
        let [a, b] = &*self.netns;
        let pods = Arc::new(TestPods::new([a.inode, b.inode]));
        let refused = std::cell::Cell::new(None);
        let context = Context {
            kernel: &self.kernel,
            loader: &self.loader,
            settings: &self.settings,
            pods: Arc::clone(&pods) as _,
            host_netns: None,
            register: &|slots| refused.set(pods.register(slots).err()),
        };
        let probe = (self.entry.start)(&context).map_err(|error| node::refused(&[error]))?;
        match refused.take() {
            Some(error) => {
                Err(anyhow::anyhow!("the probe's slot maps refuse the test's pods: {error}").into())
            }
            None => Ok(probe),
        }
    }

    /// One run; `None` if it was interrupted.
    async fn run(
        &self,
        host: &Host,
        nth: u32,
        args: &Selftest,
        probe: Started,
    ) -> Result<Option<Run>, Failure> {
        let began = Instant::now();
        let plan = cause::plan(args.drops);
        let Started { collector, account, attached, carry, .. } = probe;
        let mut metrics = Metrics::default();
        metrics.registry().register_collector(collector);
        let (stop, drain) = shutdown::channel();
        // Every event is written out as `run` would, to nowhere.
        let path = tokio::spawn(carry(
            Box::new(JsonSink::new(io::sink(), node::identity(host))),
            Filter::default(),
            drain,
        ));

        let made = self.make(&plan, nth, args).await;
        if made.is_ok() {
            catch_up(&metrics, args.drops, &self.interrupted).await?;
        }
        stop.start();
        // From here on nothing is attached, so that counts and account are of one moment; the ring is read to its end.
        if let Ended::Failed(error) = path.await? {
            return Err(error.into());
        }
        made?;
        if self.interrupted.asked() {
            return Ok(None);
        }
        let counted = Counted::parse(&metrics.encode(Format::Classic)?);
        Ok(Some(Run::judge(&After {
            nth,
            sent: &plan,
            counted: &counted,
            account: &account(),
            missed: attached.missed(),
            reasons: &self.reasons,
            seconds: began.elapsed().as_secs_f64(),
        })))
    }

    /// Makes the drops of one run from all threads; stops early when interrupted.
    async fn make(&self, plan: &Plan, nth: u32, args: &Selftest) -> Result<(), Failure> {
        let sent = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..THREADS)
            .map(|lane| {
                let plan = cause::part(plan, lane as u64, THREADS as u64);
                let (netns, cpu) = (Arc::clone(&self.netns), self.cpus[lane]);
                let (sent, interrupted) = (Arc::clone(&sent), self.interrupted.clone());
                thread::spawn(move || {
                    let lanes = [&netns[0].lanes[lane], &netns[1].lanes[lane]];
                    pin(cpu).and_then(|()| lose_all(lanes, plan, &sent, &interrupted))
                })
            })
            .collect();
        let done = tokio::task::spawn_blocking(move || {
            threads.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread that makes drops panicked")))
            })
        });
        tokio::pin!(done);
        loop {
            tokio::select! {
                result = &mut done => return Ok(result??),
                () = tokio::time::sleep(NOTE) => {
                    note(&format!("run {nth} of {}: {} of {} drops", args.runs, sent.load(Relaxed), args.drops));
                }
            }
        }
    }
}

/// Waits until the counts are all there, or do not grow any more.
async fn catch_up(metrics: &Metrics, drops: u64, interrupted: &Drain) -> Result<(), Failure> {
    let (mut before, mut since) = (0, tokio::time::Instant::now());
    loop {
        let counted = Counted::parse(&metrics.encode(Format::Classic)?).total();
        if counted >= drops || since.elapsed() > LAG || interrupted.asked() {
            return Ok(());
        }
        if counted != before {
            (before, since) = (counted, tokio::time::Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Makes one thread's part: both pods and all causes in turn, so that every row is counted on every CPU.
fn lose_all(lanes: [&Lane; 2], mut left: Plan, sent: &AtomicU64, interrupted: &Drain) -> io::Result<()> {
    while left.concat().iter().any(|left| *left > 0) && !interrupted.asked() {
        for (lane, left) in lanes.iter().zip(&mut left) {
            for (cause, left) in Cause::ALL.into_iter().zip(left).filter(|(_, left)| **left > 0) {
                let made = lane.lose(cause, (*left).min(BURST as u64))?;
                lane.settle()?;
                *left -= made;
                sent.fetch_add(made, Relaxed);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
