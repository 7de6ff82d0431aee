//! The command line: what a person may ask for, and what each default is.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use crate::probes;
use crate::sink::filter::parse_network;

pub mod to;

/// Names the cause behind a Kubernetes node's network and storage failures, on the node, while they happen.
#[derive(Debug, Parser)]
#[command(name = "r2c-agent", version = crate::version::SHORT, long_version = crate::version::LONG.as_str(), max_term_width = 100)]
#[command(arg_required_else_help = false)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// Diagnostics to write to stderr: a level (error, warn, info, debug, trace) or target=level,...
    #[arg(long, global = true, env = "R2C_LOG_LEVEL", value_name = "FILTER")]
    pub log_level: Option<String>,

    /// What the agent reads of the host.
    #[command(flatten)]
    pub host: Host,
}

/// Where the host's files are, and who the agent is. A DaemonSet sets these by environment.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Host")]
pub struct Host {
    /// Name of this node in logs [default: the host's name]
    #[arg(long, global = true, env = "NODE_NAME", hide_env = true, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Name of the agent's own pod in logs
    #[arg(long, global = true, env = "POD_NAME", hide_env = true, hide = true)]
    pub pod_name: Option<String>,
    /// Namespace of the agent's own pod in logs
    #[arg(long, global = true, env = "POD_NAMESPACE", hide_env = true, hide = true)]
    pub pod_namespace: Option<String>,
    /// The host's process directory: in a container without hostPID, a mount of the host's
    #[arg(long, global = true, env = "R2C_HOST_PROC", default_value = "/proc", value_name = "DIR")]
    pub host_proc: PathBuf,
    /// The system directory that describes the kernel: tests have broken ones
    #[arg(
        long,
        global = true,
        env = "R2C_HOST_SYS",
        hide = true,
        default_value = "/sys",
        value_name = "DIR"
    )]
    pub host_sys: PathBuf,
    /// The host's cgroup root
    #[arg(
        long,
        global = true,
        env = "R2C_HOST_CGROUP",
        default_value = "/sys/fs/cgroup",
        value_name = "DIR"
    )]
    pub host_cgroup: PathBuf,
    /// kubelet's pod log directory: it names pods without an API server
    #[arg(long, global = true, env = "R2C_POD_LOGS", default_value = "/var/log/pods", value_name = "DIR")]
    pub pod_logs: PathBuf,
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
    #[arg(long, env = "R2C_EVENTS_PER_SECOND", default_value_t = 8, value_name = "N")]
    pub events_per_second: u32,
    /// Ring buffer in KiB: a power of two, at least 4
    #[arg(long, env = "R2C_RING_KIB", default_value_t = 256, value_name = "KIB", value_parser = ring_kib)]
    pub ring_kib: u32,
    /// Write the BPF programs' own diagnostics to the log
    #[arg(long, env = "R2C_BPF_LOG")]
    pub bpf_log: bool,
    /// Try only this rung of each hook's ladder, such as tracepoint
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    pub rung: Option<String>,
}

/// `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Probes to run [default: all that the kernel allows]
    #[arg(long = "probe", value_name = "NAME", value_delimiter = ',', value_parser = probe_names())]
    pub probes: Vec<String>,
    /// Address that serves /metrics, /healthz and /readyz
    #[arg(long, env = "R2C_LISTEN", default_value = "127.0.0.1:9436", value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
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
    /// Only pods of this namespace, at either end
    #[arg(short, long, value_name = "NAME", help_heading = "Filters")]
    pub namespace: Vec<String>,
    /// Only pods of this name, at either end
    #[arg(long, value_name = "NAME", help_heading = "Filters")]
    pub pod: Vec<String>,
    /// Only this address or network, at either end
    #[arg(long, value_name = "IP[/LEN]", value_parser = parse_network, help_heading = "Filters")]
    pub ip: Vec<IpNet>,
    /// Only this port, at either end
    #[arg(long, value_name = "PORT", help_heading = "Filters")]
    pub port: Vec<u16>,
    /// Only this network interface
    #[arg(short, long, value_name = "NAME", help_heading = "Filters")]
    pub interface: Vec<String>,
    /// Only this: of drops a class, such as policy, or the kernel's own reason; of mtu an event, such as received
    #[arg(long, value_name = "NAME", help_heading = "Filters")]
    pub reason: Vec<String>,
    /// Show what a healthy node drops all day, too
    #[arg(long, help_heading = "Filters")]
    pub all: bool,
    /// How to print
    #[arg(short, long, default_value = "table", value_enum)]
    pub output: Output,
    /// Stop after this long, such as 30s or 5m; 0 runs until Ctrl-C
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub duration: Duration,
    /// Stop after this many events
    #[arg(long, value_name = "N")]
    pub max_events: Option<NonZeroU64>,
    /// Create this file once everything is attached
    #[arg(long, value_name = "PATH")]
    pub ready_file: Option<PathBuf>,
    /// Exit with 4 if anything harmful was told
    #[arg(long)]
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
    #[arg(short, long, default_value = "table", value_enum)]
    pub output: Report,
    /// Exit with 3 if anything is degraded
    #[arg(long)]
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
    /// Only pods of this namespace, and findings that hurt them
    #[arg(short, long, value_name = "NAME", help_heading = "Filters")]
    pub namespace: Vec<String>,
    /// Only pods of this name, and findings that hurt them
    #[arg(long, value_name = "NAME", help_heading = "Filters")]
    pub pod: Vec<String>,
    /// How to print
    #[arg(short, long, default_value = "table", value_enum)]
    pub output: Output,
    /// Exit with 4 if something does not fit
    #[arg(long)]
    pub fail_on_findings: bool,
}

/// `metrics`.
#[derive(Debug, Args)]
pub struct Metrics {
    /// Count for this long before printing
    #[arg(long, default_value = "0s", value_parser = duration)]
    pub wait: Duration,
    /// Text format
    #[arg(long, default_value = "classic", value_enum)]
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
    #[arg(long, default_value_t = 100_000, value_name = "N", value_parser = clap::value_parser!(u64).range(100..=100_000_000))]
    pub drops: u64,
    /// Runs
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,
    /// How to print
    #[arg(short, long, default_value = "table", value_enum)]
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

fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    text.parse::<u64>()
        .map(Duration::from_secs)
        .or_else(|_| humantime::parse_duration(text))
        .map_err(|_| "expected a time such as 30s, 5m or 0".to_owned())
}

fn ring_kib(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(kib) if kib.is_power_of_two() && (4..=1 << 20).contains(&kib) => Ok(kib),
        _ => Err("expected a power of two from 4 to 1048576".to_owned()),
    }
}

/// A refused command line in one line, which names the valid values.
#[must_use]
pub fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<&str> =
        lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more")).collect();
    let line = lines.join(" ").trim_start_matches("error: ").to_owned();
    // Clap names those there are only where one of them is much like it.
    if error.kind() == ErrorKind::InvalidSubcommand && lines.len() == 1 {
        return format!("{line}; --help lists those there are");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_mistake_is_one_line_that_names_what_is_valid() {
        for (args, wants) in [
            (&["trace", "dropz"][..], "drops"),
            (&["trace", "drops", "--ip", "10.0.0"], "10.0.0.0/8"),
            (&["trace", "drops", "--port", "http"], "--port"),
            (&["trace", "drops", "--duration", "soon"], "30s"),
            (&["trace", "drops", "-o", "xml"], "json"),
            (&["trace", "drops", "--ring-kib", "5"], "power of two"),
            (&["trace", "mtu", "--to", "a:http"], "10.0.0.1:443"),
            (&["trace", "mtu", "--to", "a", "--from-pod", "web"], "shop/cart-0"),
            (&["trace", "mtu", "--to", "a", "--ip", "10.0.0.1"], "--ip"),
            (&["trace", "mtu", "--to", "a", "--duration", "5s"], "--duration"),
            (&["trace", "mtu", "--to", "a", "-4", "-6"], "--ipv6"),
            (&["trace", "mtu", "--netns", "a"], "--to"),
            (&["trace", "mtu", "--to", "a", "--timeout", "0"], "10m"),
            (&["frobnicate"], "'frobnicate'; --help lists"),
            (&["audit", "nothing"], "'nothing'; --help lists"),
            (&["audit"], "mtu"),
            (&["trace"], "<drops|mtu>"),
            (&[], "trace"),
        ] {
            let error = Cli::try_parse_from([&["r2c-agent"], args].concat()).unwrap_err();
            let line = one_line(&error);
            assert!(line.contains(wants) && !line.contains('\n'), "{line}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2m"), Ok(Duration::from_mins(2)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert!(duration("-1s").is_err());
    }
}
