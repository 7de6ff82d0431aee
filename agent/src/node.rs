//! What every command needs of the node it runs on: its kernel, its pods, and probes brought up on both.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use crate::cli::{Host, Limits};
use crate::enrich::{self, PodIndex, Roots};
use crate::failure::Failure;
use crate::kernel::{self, Kernel, Part, trim_heap};
use crate::probe::attach::{Climb, may_read, uncounted};
use crate::probe::filter::PacketFilter;
use crate::probe::loader::Loader;
use crate::probe::start::{Context, Entry, Settings, StartError, Started};
use crate::probes;
use crate::rights::{self, Right, cure_of};
use crate::shutdown::Drain;
use crate::sink::{Identity, escape};

pub mod paths;

/// What a kernel costs that lets no program read its memory.
pub const LOCKED_DOWN: &str = "no program may read kernel memory, so events have no addresses, ports or protocol, pods only \
                               by network namespace, and no direction where a route would tell it";

/// The node as the agent sees it.
pub struct Node {
    /// The running kernel.
    pub kernel: Kernel,
    /// The node's pods.
    pub pods: PodIndex,
    /// Inode of the host's network namespace; `None` where it cannot be seen.
    host_netns: Option<u32>,
    /// Loads the probes' objects.
    pub loader: Loader,
    /// The task that follows the pods: it ends when it is asked to, or has failed.
    pub follower: Option<JoinHandle<()>>,
}

impl Node {
    /// Reads kernel and pods, and warns of what the kernel does not tell; both are followed from then on.
    pub async fn look(host: &Host, drain: Drain) -> Self {
        let node = Self::read(host, drain).await;
        let powerless = rights::lacking().is_some();
        for missing in node.kernel.missing() {
            // Without rights there will be a refusal that says what is lacking: one line, not a line for each consequence.
            if powerless || is_needless(missing.part, node.kernel.btf().is_some()) {
                debug!("{missing}");
            } else {
                let cure = (missing.part == Part::Symbols).then(|| cure_of_symbols(&kernel_roots(host).proc));
                let cure = cure.filter(|cure| !cure.is_empty());
                warn!("{missing}{}", cure.map_or(String::new(), |cure| format!("; {cure}")));
            }
        }
        if !powerless && !may_read(&node.kernel) {
            warn!("kernel lockdown (confidentiality): {LOCKED_DOWN}");
        }
        node
    }

    /// As [`Node::look`], without a word: for who reports what is missing in a way of its own.
    pub async fn read(host: &Host, drain: Drain) -> Self {
        let kernel = Kernel::load_from(kernel_roots(host));
        let loader = Loader::new(&kernel, probes::ALL.iter().flat_map(|entry| entry.hooks));
        let (pods, follower) = enrich::start(pod_roots(host), drain).await;
        let host_netns = enrich::netns::of_host(&host.host_proc);
        Self { kernel, pods, host_netns, loader, follower: Some(follower) }
    }

    /// Brings one probe up and says which rungs hold.
    ///
    /// # Errors
    /// The kernel refused every rung of a hook, or the object as a whole.
    pub fn start(&self, entry: &Entry, limits: &Limits) -> Result<Started, StartError> {
        self.start_by(entry, &settings(limits))
    }

    /// As [`Node::start`], by settings that say more than limits do.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn start_by(&self, entry: &Entry, settings: &Settings) -> Result<Started, StartError> {
        let context = Context {
            kernel: &self.kernel,
            loader: &self.loader,
            settings,
            pods: Arc::new(self.pods.clone()),
            host_netns: self.host_netns,
            register: &|slots| self.pods.register(slots),
        };
        let started = (entry.start)(&context)?;
        let told = told(&self.kernel, entry.name, &started.climbs);
        told.held.iter().for_each(|line| info!("{line}"));
        if let Some(uncounted) = uncounted(&started.climbs, self.kernel.counts_misses()) {
            info!("probe {}: {uncounted}", entry.name);
        }
        told.refused.iter().for_each(|line| warn!("{line}"));
        Ok(started)
    }

    /// Gives back what only attaching needed, and reads what only describing needs: the symbols.
    pub fn settle(&mut self) {
        self.loader.drop_types();
        self.kernel.drop_btf();
        let _ = self.kernel.symbols().get();
        trim_heap();
    }
}

/// The kernel's `kptr_restrict`, in a word.
#[must_use]
pub fn kptr_restrict(proc: &Path) -> String {
    let restrict = fs::read_to_string(proc.join("sys/kernel/kptr_restrict"));
    restrict.map_or_else(|_| "unknown".to_owned(), |value| value.trim().to_owned())
}

/// What shows the addresses of the kernel's symbols to this process; empty if nothing of that is missing.
#[must_use]
pub fn cure_of_symbols(proc: &Path) -> String {
    show_symbols(&kptr_restrict(proc), Right::Syslog.held())
}

/// The same where `kptr_restrict` is this, and `CAP_SYSLOG` is `held`, or not.
fn show_symbols(restrict: &str, held: bool) -> String {
    let right = (!held).then(|| cure_of(Right::Syslog));
    let setting = (!matches!(restrict, "0" | "1")).then(|| "set kernel.kptr_restrict below 2".to_owned());
    [right, setting].into_iter().flatten().collect::<Vec<_>>().join(", and ")
}

/// Formats are only asked for where there are no types; a container seldom has tracefs mounted.
fn is_needless(part: Part, has_types: bool) -> bool {
    part == Part::Tracefs && has_types
}

/// What is told of a probe's hooks.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    held: Vec<String>,
    refused: Vec<String>,
}

/// One line a hook, but for those that were refused for the same reason: these are one, with what cures it.
fn told(kernel: &Kernel, probe: &str, climbs: &[Climb]) -> Told {
    let mut told = Told::default();
    let mut refused: Vec<(String, Vec<&str>)> = Vec::new();
    for climb in climbs {
        let (hook, why) = (climb.hook.name, climb.why());
        match climb.holds {
            Some(rung) if why.is_empty() => {
                told.held.push(format!("hook {hook} of {probe} by {}", rung.name));
            }
            Some(rung) => {
                told.held.push(format!("hook {hook} of {probe} by {}; refused {why}", rung.name));
            }
            // The module is looked for at the start only.
            None if !climb.is_lost(kernel) => {
                told.held.push(format!("hook {hook} of {probe} is in a module that is not loaded"));
            }
            None => match refused.iter_mut().find(|(other, _)| *other == why) {
                Some((_, hooks)) => hooks.push(hook),
                None => refused.push((why, vec![hook])),
            },
        }
    }
    for (why, hooks) in refused {
        // Only one rung was to be tried.
        let why = if why.is_empty() { "no rung of that name".to_owned() } else { why };
        let (what, hooks) = (if hooks.len() == 1 { "hook" } else { "hooks" }, hooks.join(", "));
        told.refused.push(format!("probe {probe} does without {what} {hooks}: {why}"));
    }
    told
}

/// Where the kernel's files are.
#[must_use]
pub fn kernel_roots(host: &Host) -> kernel::Roots {
    kernel::Roots {
        sys: host.host_sys.clone(),
        processes: host.host_proc.clone(),
        ..kernel::Roots::default()
    }
}

/// Where the files are that tell of pods.
#[must_use]
pub fn pod_roots(host: &Host) -> Roots {
    Roots { proc: host.host_proc.clone(), cgroup: host.host_cgroup.clone(), pod_logs: host.pod_logs.clone() }
}

/// A probe's settings as the user gave them.
#[must_use]
pub fn settings(limits: &Limits) -> Settings {
    Settings {
        records_per_second: limits.events_per_second,
        ring_bytes: limits.ring_kib * 1024,
        bpf_log: limits.bpf_log,
        rung: limits.rung.clone(),
        count_passed: false,
        filter: PacketFilter::default(),
        by_pod: false,
    }
}

/// Who the agent is in its lines.
#[must_use]
pub fn identity(host: &Host) -> Arc<Identity> {
    Arc::new(Identity::new(host.node_name.clone(), host.pod_name.clone(), host.pod_namespace.clone()))
}

/// Refused starts as one line that says what would help.
#[must_use]
pub fn refused(errors: &[StartError]) -> Failure {
    let refused = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let cures = rights::cures(errors.iter().flat_map(StartError::refused));
    Failure::unsupported(cures.map_or(refused.clone(), |cures| format!("{refused}; {cures}")))
}

/// The network interfaces of every network namespace that some process of this node lives in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interfaces {
    /// Their names.
    pub names: BTreeSet<String>,
    /// Whether there are processes that this one may not look into: there may be more.
    pub hidden: bool,
}

/// Looks for them in the processes of `proc`.
#[must_use]
pub fn interfaces(proc: &Path) -> Interfaces {
    let Namespaces { there, hidden } = namespaces(proc);
    let mut found = Interfaces { hidden, ..Interfaces::default() };
    for (_, process) in there {
        let devices = fs::read(process.join("net/dev")).unwrap_or_default();
        let devices = escape::bytes(&devices);
        // Two lines of headings, then `  name: counters`.
        found.names.extend(
            devices.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())),
        );
    }
    found
}

/// The network namespaces that some process of this node lives in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Inode, and the directory of one of its processes.
    pub there: BTreeMap<u32, PathBuf>,
    /// Whether there are processes that this one may not look into: there may be more.
    pub hidden: bool,
}

/// Looks for them in the processes of `proc`.
#[must_use]
pub fn namespaces(proc: &Path) -> Namespaces {
    let mut found = Namespaces::default();
    let is_process = |entry: &fs::DirEntry| entry.file_name().as_bytes().iter().all(u8::is_ascii_digit);
    let processes = fs::read_dir(proc).into_iter().flatten().flatten().filter(is_process);
    for process in processes.map(|entry| entry.path()) {
        match fs::read_link(process.join("ns/net")) {
            // 5.10 gives an empty name where it refuses.
            Ok(netns) if netns.as_os_str().is_empty() => found.hidden = true,
            Ok(netns) => {
                if let Some(inode) = inode(&netns) {
                    found.there.entry(inode).or_insert(process);
                }
            }
            Err(error) => found.hidden |= error.kind() == std::io::ErrorKind::PermissionDenied,
        }
    }
    found
}

/// The inode of the network namespace of the process with this directory.
#[must_use]
pub fn namespace(process: &Path) -> Option<u32> {
    inode(&fs::read_link(process.join("ns/net")).ok()?)
}

/// 4026531840 of `net:[4026531840]`.
fn inode(netns: &Path) -> Option<u32> {
    netns.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

/// The pod index as metrics: how many pods are known, and what was left out and why.
#[derive(Debug)]
pub struct PodsReport(pub PodIndex);

impl Collector for PodsReport {
    fn encode(&self, mut encoder: DescriptorEncoder) -> std::fmt::Result {
        let known = self.0.pods().iter().filter(|known| !known.gone).count();
        encoder
            .encode_descriptor("pods", "Pods of this node whose names are known", None, MetricType::Gauge)?
            .encode_gauge(&u32::try_from(known).unwrap_or(u32::MAX))?;
        let stats = self.0.stats();
        let mut left_out = encoder.encode_descriptor(
            "pods_left_out",
            "What the pod index could not use, by why: events of such pods carry no pod rather than a wrong one",
            None,
            MetricType::Counter,
        )?;
        for (why, count) in [
            ("name_contested", &stats.names_contested),
            ("key_ambiguous", &stats.keys_ambiguous),
            ("address_of_host", &stats.addresses_of_host),
            ("slots_full", &stats.full),
            ("bind_refused", &stats.binds_refused),
            ("reading_raced", &stats.readings_raced),
            ("pids_hidden", &stats.pids_hidden),
            ("netns_refused", &stats.netns_refused),
            ("watch_lost", &stats.watches_lost),
        ] {
            let count = ConstCounter::new(count.load(Relaxed));
            count.encode(left_out.encode_family(&[("why", why)])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
