//! The command line: what a person may ask for, and what each default is.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};

use crate::pod::PodPattern;
use crate::probes;

mod environment;
mod host;
mod mistake;
pub mod to;
mod together;
mod values;

pub use environment::Variable;
pub use host::{Host, Named};
pub use values::IpAsked;
use values::{drops, duration, events, listen, log_level, name, number, port, ring_kib, runs};

/// Names the cause behind a Kubernetes node's network and storage failures, on the node, while they happen.
#[derive(Debug, Parser)]
#[command(name = "r2c-agent", version = crate::version::SHORT, long_version = crate::version::LONG.as_str(), max_term_width = 100)]
#[command(arg_required_else_help = false)]
#[command(
    after_help = "Every flag can be set by environment, too: --pod-logs by R2C_POD_LOGS. A variable that is empty counts as not set."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// Diagnostics to write to stderr: a level (error, warn, info, debug, trace) or target=level,...
    #[arg(long, global = true, env = "R2C_LOG_LEVEL", value_name = "FILTER", value_parser = log_level)]
    pub log_level: Option<String>,

    /// What the agent reads of the host.
    #[command(flatten)]
    pub host: Host,

    /// The variables that a flag has its value from.
    #[arg(skip)]
    pub variables: Vec<Variable>,
}

/// The agent's commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run as the node's agent: metrics over HTTP, one JSON line per event on stdout
    Run(Run),
    /// Show one probe's events as they happen
    Trace(Box<Trace>),
    /// Check what this kernel allows: each hook, the rung it takes, and why better ones are refused
    Doctor(Doctor),
    /// Attach, wait, and print one scrape of the metrics
    Metrics(Metrics),
    /// Make known drops in a network namespace of its own and compare every count
    Selftest(Selftest),
    /// Read what the kernel has set and say what does not fit
    Audit(Audit),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// The limits of a command that starts probes.
    #[must_use]
    pub fn limits(&self) -> Option<&Limits> {
        match self {
            Self::Run(args) => Some(&args.limits),
            Self::Trace(args) => Some(&args.limits),
            Self::Metrics(args) => Some(&args.limits),
            Self::Selftest(args) => Some(&args.limits),
            Self::Doctor(_) | Self::Audit(_) | Self::Completions { .. } => None,
        }
    }
}

/// How much a probe describes. Counting is always complete; this bounds descriptions only.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct Limits {
    /// Events described per second, CPU and kind (place, reason, pods, direction); the rest are counted
    #[arg(long, env = "R2C_EVENTS_PER_SECOND", default_value_t = 8, value_name = "N", value_parser = number)]
    pub events_per_second: u32,
    /// Ring buffer in KiB: a power of two, at least 4
    #[arg(long, env = "R2C_RING_KIB", default_value_t = 256, value_name = "KIB", value_parser = ring_kib)]
    pub ring_kib: u32,
    /// Write the BPF programs' own diagnostics to the log
    #[arg(long, env = "R2C_BPF_LOG")]
    pub bpf_log: bool,
    /// Try only this rung of each hook's ladder, such as tracepoint
    #[arg(long, env = "R2C_RUNG", value_name = "NAME", hide_short_help = true, value_parser = name)]
    pub rung: Option<String>,
}

/// `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Probes to run [default: all that the kernel allows]
    #[arg(long = "probe", env = "R2C_PROBE", value_name = "NAME", value_delimiter = ',', value_parser = probe_names())]
    pub probes: Vec<String>,
    /// Address that serves /metrics, /healthz and /readyz
    #[arg(long, env = "R2C_LISTEN", default_value = "127.0.0.1:9436", value_name = "ADDR:PORT", value_parser = listen)]
    pub listen: SocketAddr,
    /// Address that serves /healthz and /readyz alone, out of reach of whoever crowds the other
    #[arg(long, env = "R2C_HEALTH_LISTEN", value_name = "ADDR:PORT", value_parser = listen)]
    pub health_listen: Option<SocketAddr>,
    /// Which events become a JSON line on stdout
    #[arg(long, env = "R2C_EVENTS", default_value = "harmful", value_enum)]
    pub events: Events,
    /// Limits.
    #[command(flatten)]
    pub limits: Limits,
}

/// Which events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Events {
    /// Those that hurt somebody
    Harmful,
    /// Those that a healthy node makes all day, too
    All,
    /// None: metrics only
    None,
}

/// `trace`.
#[derive(Debug, Args)]
pub struct Trace {
    /// What to trace
    #[arg(value_parser = probe_names(), value_name = WHICH_PROBE.as_str())]
    pub probe: String,
    /// Only pods of these namespaces, at either end
    #[arg(short, long, env = "R2C_NAMESPACE", value_name = "NAME", value_delimiter = ',', value_parser = name, help_heading = "Filters")]
    pub namespace: Vec<String>,
    /// Only these pods, at either end: NAME, PREFIX*, NAMESPACE/NAME or NAMESPACE/PREFIX*
    #[arg(long, env = "R2C_POD", value_name = "POD", value_delimiter = ',', help_heading = "Filters")]
    pub pod: Vec<PodPattern>,
    /// Only these addresses or networks, at either end
    #[arg(long, env = "R2C_IP", value_name = "IP[/LEN]", value_delimiter = ',', help_heading = "Filters")]
    pub ip: Vec<IpAsked>,
    /// Only these ports, at either end
    #[arg(long, env = "R2C_PORT", value_name = "PORT", value_delimiter = ',', value_parser = port, help_heading = "Filters")]
    pub port: Vec<u16>,
    /// Only these network interfaces
    #[arg(short, long, env = "R2C_INTERFACE", value_name = "NAME", value_delimiter = ',', value_parser = name, help_heading = "Filters")]
    pub interface: Vec<String>,
    /// Only these: of drops a class, such as policy, or the kernel's own reason; of mtu an event, such as received
    #[arg(long, env = "R2C_REASON", value_name = "NAME", value_delimiter = ',', value_parser = name, help_heading = "Filters")]
    pub reason: Vec<String>,
    /// Show what a healthy node drops all day, too
    #[arg(long, env = "R2C_ALL", help_heading = "Filters")]
    pub all: bool,
    /// Wait for pods that have not started yet, at most this long; then the duration begins
    #[arg(long, env = "R2C_WAIT", value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "0", value_parser = duration, help_heading = "Filters")]
    pub wait: Option<Duration>,
    /// How to print
    #[arg(short, long, env = "R2C_OUTPUT", default_value = "table", value_enum)]
    pub output: Output,
    /// Stop after this long, such as 30s or 5m; 0 runs until Ctrl-C
    #[arg(long, env = "R2C_DURATION", value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub duration: Duration,
    /// Stop after this many events
    #[arg(long, env = "R2C_MAX_EVENTS", value_name = "N", value_parser = events)]
    pub max_events: Option<NonZeroU64>,
    /// Create this file once everything is attached
    #[arg(long, env = "R2C_READY_FILE", value_name = "PATH")]
    pub ready_file: Option<PathBuf>,
    /// Exit with 4 if anything harmful was told
    #[arg(long, env = "R2C_FAIL_ON_FINDINGS")]
    pub fail_on_findings: bool,
    /// A walk instead of waiting for events.
    #[command(flatten)]
    pub walk: to::Walk,
    /// Limits.
    #[command(flatten)]
    pub limits: Limits,
}

/// How `trace` and `audit` print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Fits 80 columns
    Table,
    /// Every column, nothing cut
    Wide,
    /// One JSON line per event, or per thing that was read
    Json,
}

/// `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// How to print
    #[arg(short, long, env = "R2C_OUTPUT", default_value = "table", value_enum)]
    pub output: Report,
    /// Exit with 3 if anything is degraded
    #[arg(long, env = "R2C_FAIL_ON_DEGRADED")]
    pub fail_on_degraded: bool,
}

/// How `doctor` and `selftest` print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Report {
    /// For a person
    Table,
    /// For a program
    Json,
}

/// `audit`.
#[derive(Debug, Args)]
#[command(arg_required_else_help = false)]
pub struct Audit {
    /// What to audit
    #[command(subcommand)]
    pub of: AuditOf,
}

/// What can be audited.
#[derive(Debug, Subcommand)]
pub enum AuditOf {
    /// Every MTU of the host and of its pods: links, what tunnels add, routes, learned path MTUs
    Mtu(AuditMtu),
}

/// `audit mtu`.
#[derive(Debug, Args)]
pub struct AuditMtu {
    /// Only pods of these namespaces, and findings that hurt them
    #[arg(short, long, env = "R2C_NAMESPACE", value_name = "NAME", value_delimiter = ',', value_parser = name, help_heading = "Filters")]
    pub namespace: Vec<String>,
    /// Only these pods, and findings that hurt them: NAME, PREFIX*, NAMESPACE/NAME or NAMESPACE/PREFIX*
    #[arg(long, env = "R2C_POD", value_name = "POD", value_delimiter = ',', help_heading = "Filters")]
    pub pod: Vec<PodPattern>,
    /// Wait for pods that have not started yet, at most this long
    #[arg(long, env = "R2C_WAIT", value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "0", value_parser = duration, help_heading = "Filters")]
    pub wait: Option<Duration>,
    /// How to print
    #[arg(short, long, env = "R2C_OUTPUT", default_value = "table", value_enum)]
    pub output: Output,
    /// Exit with 4 if something does not fit
    #[arg(long, env = "R2C_FAIL_ON_FINDINGS")]
    pub fail_on_findings: bool,
}

/// `metrics`.
#[derive(Debug, Args)]
pub struct Metrics {
    /// Count for this long before printing
    #[arg(long, env = "R2C_WAIT", value_name = "TIME", default_value = "0s", value_parser = duration)]
    pub wait: Duration,
    /// Text format
    #[arg(long, env = "R2C_FORMAT", default_value = "classic", value_enum)]
    pub format: Format,
    /// Limits.
    #[command(flatten)]
    pub limits: Limits,
}

/// The metrics' text formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Prometheus text 0.0.4
    Classic,
    /// `OpenMetrics` 1.0, with exemplars
    Openmetrics,
}

/// `selftest`.
#[derive(Debug, Args)]
pub struct Selftest {
    /// Drops to make in each run, shared by all causes
    #[arg(long, env = "R2C_DROPS", default_value_t = 100_000, value_name = "N", value_parser = drops)]
    pub drops: u64,
    /// Runs
    #[arg(long, env = "R2C_RUNS", default_value_t = 1, value_name = "N", value_parser = runs)]
    pub runs: u32,
    /// How to print
    #[arg(short, long, env = "R2C_OUTPUT", default_value = "table", value_enum)]
    pub output: Report,
    /// Limits.
    #[command(flatten)]
    pub limits: Limits,
}

/// What is to be named where nothing was.
static WHICH_PROBE: LazyLock<String> =
    LazyLock::new(|| probes::ALL.iter().map(|probe| probe.name).collect::<Vec<_>>().join("|"));

fn probe_names() -> PossibleValuesParser {
    PossibleValuesParser::new(
        probes::ALL.iter().map(|probe| clap::builder::PossibleValue::new(probe.name).help(probe.about)),
    )
}

/// What became of a command line that is not to be carried out.
#[derive(Debug)]
pub enum Refused {
    /// Help or the version was asked for, and this is it.
    Answer(clap::Error),
    /// What is wrong with it, in one line.
    Mistake(String),
}

/// Reads a command line, and the environment where that says nothing.
///
/// # Errors
/// It is a mistake, or asks for help.
pub fn read(args: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Cli, Refused> {
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let refused = |error: clap::Error| {
        if error.use_stderr() {
            Refused::Mistake(mistake::line(&error, &args))
        } else {
            Refused::Answer(error)
        }
    };
    let matches = environment::apply(Cli::command()).try_get_matches_from(&args).map_err(refused)?;
    let mut cli = Cli::from_arg_matches(&matches).map_err(refused)?;
    together::check(&mut cli, &matches).map_err(Refused::Mistake)?;
    cli.variables = environment::used(&environment::apply(Cli::command()), &matches);
    Ok(cli)
}

#[cfg(test)]
mod tests;
