//! How full the kernel's tables are, what a device's queueing disciplines and policers and a switch's ports take, and which rules drop
//! what is INVALID, at this moment: evidence for why a packet died.
//!
//! Conntrack's table and the rules are those of any network namespace with a process that we see; to read the rules of another than the
//! agent's own needs `CAP_SYS_ADMIN`. The rest is the agent's own namespace's: a node's, where the agent uses the host's network. Of a
//! namespace each is read once a second at most, and rules more rarely, however many packets die; of all others together, [`OTHERS`].

use std::collections::HashMap;
use std::fs;
use std::hash::Hash;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agent_common::drops::Direction;

use super::namespaces::Namespaces;

mod netlink;
mod police;
mod ports;
mod qdisc;
mod rules;

pub use crate::netlink::bucket::Bucket;
pub use police::{Policed, Policers, Side};
pub use ports::Port;
pub use qdisc::{Loss, Netem, Queueing};
pub use rules::Chain;

/// A reading is as good as a new one for this long.
const FRESH: Duration = Duration::from_secs(1);

/// Rules are good for this long: a node may have thousands.
const RULES_FRESH: Duration = Duration::from_secs(5);

/// What could not be read of them is not tried again for this long: they are too many, or the kernel does not let us.
const RULES_UNREAD: Duration = Duration::from_mins(1);

/// Devices whose queueing disciplines and policers are remembered, and namespaces whose conntrack is: more are forgotten all at once.
const MAX_REMEMBERED: usize = 256;

/// What is read a second of other namespaces than the agent's own, whose number and rules are tenants'.
const OTHERS: u32 = 24;

/// What reading conntrack's table takes of that, and reading rules.
const TABLE: u32 = 1;
const RULES: u32 = 8;

/// Entries of a table, and how many it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Entries there are.
    pub entries: u64,
    /// Entries it takes.
    pub limit: u64,
}

impl Fill {
    /// Whether it takes no more. What makes room for one more entry does so a moment later: the last hundredth counts as
    /// full.
    #[must_use]
    pub const fn is_full(self) -> bool {
        self.limit > 0 && self.entries >= self.limit - self.limit / 100
    }
}

/// Conntrack's table of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conntrack {
    /// How full it is.
    pub fill: Fill,
    /// Packets it called INVALID since it was loaded; 0 where the kernel does not tell.
    pub invalid: u64,
}

/// Reads them. Cheap to clone: all share what was read.
#[derive(Clone, Debug)]
pub struct Limits(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    proc: PathBuf,
    /// Inode of this process's network namespace; `None` if it cannot be read.
    netns: Option<u64>,
    others: Namespaces,
    read: Mutex<Read>,
}

#[derive(Debug, Default)]
struct Read {
    neighbours: [Option<(Instant, Option<Fill>)>; 2],
    conntrack: HashMap<u32, (Instant, Option<Conntrack>)>,
    queueing: HashMap<u32, (Instant, Queueing)>,
    policed: HashMap<(u32, Side), (Instant, Policers)>,
    ports: Option<(Instant, Option<Arc<[Port]>>)>,
    /// Of a namespace and an IP version, each with when it is read again.
    chains: HashMap<(u32, u8), (Instant, rules::Rules)>,
    /// The second that [`OTHERS`] is counted in, and what was read.
    others: Option<(Instant, u32)>,
}

impl Read {
    /// Whether so much more may be read of another namespace: what is read holds up what is told of all others.
    fn may_take(&mut self, cost: u32) -> bool {
        let (since, taken) =
            self.others.filter(|(since, _)| since.elapsed() < FRESH).unwrap_or((Instant::now(), 0));
        let is_left = taken + cost <= OTHERS;
        self.others = Some((since, if is_left { taken + cost } else { taken }));
        is_left
    }
}

impl Limits {
    /// Of the kernel whose `/proc` is `proc`, and whose processes `processes` has.
    #[must_use]
    pub fn below(proc: &Path, processes: &Path) -> Self {
        let netns = fs::metadata(proc.join("self/ns/net")).ok().map(|file| file.ino());
        let others = Namespaces::below(processes);
        Self(Arc::new(Shared { proc: proc.to_owned(), netns, others, read: Mutex::default() }))
    }

    /// Whether they are those of the network namespace with this inode.
    #[must_use]
    pub fn are_of(&self, netns: u32) -> bool {
        self.0.netns == Some(netns.into())
    }

    /// The neighbour table of a family (4 or 6), which all namespaces share; `None` if it cannot be read.
    #[must_use]
    pub fn neighbours(&self, ip_version: u8) -> Option<Fill> {
        let (at, table, family) =
            if ip_version == 6 { (1, "ndisc_cache", "ipv6") } else { (0, "arp_cache", "ipv4") };
        let mut read = self.lock();
        fresh(&mut read.neighbours[at], || {
            // A row a processor, each with the table's entries first, in hex.
            let stat = fs::read_to_string(self.0.proc.join("net/stat").join(table)).ok()?;
            let entries = column(&stat, "entries").next()?;
            let limit = self.number(&format!("sys/net/{family}/neigh/default/gc_thresh3"))?;
            Some(Fill { entries, limit })
        })
    }

    /// Conntrack's table of this network namespace; `None` if it is not in use there or cannot be read.
    #[must_use]
    pub fn conntrack(&self, netns: u32) -> Option<Conntrack> {
        let mut read = self.lock();
        let is_known = read.conntrack.get(&netns).is_some_and(|(at, _)| at.elapsed() < FRESH);
        if !is_known && !self.are_of(netns) && !read.may_take(TABLE) {
            return None;
        }
        remembered(&mut read.conntrack, netns, || self.read_conntrack(netns))
    }

    fn read_conntrack(&self, netns: u32) -> Option<Conntrack> {
        let stat = fs::read_to_string(self.net(netns)?.join("stat/nf_conntrack"));
        // A row a processor, each with the table's entries first. `/proc/sys` is always that of who reads it.
        let entries = if self.are_of(netns) {
            self.number("sys/net/netfilter/nf_conntrack_count")?
        } else {
            column(stat.as_ref().ok()?, "entries").next()?
        };
        let limit = self.number("sys/net/netfilter/nf_conntrack_max")?;
        let invalid = column(&stat.unwrap_or_default(), "invalid").fold(0_u64, u64::saturating_add);
        Some(Conntrack { fill: Fill { entries, limit }, invalid })
    }

    /// What a device's queueing disciplines never let pass, or lose on purpose: nothing if that cannot be read.
    #[must_use]
    pub fn queueing(&self, ifindex: u32) -> Queueing {
        remembered(&mut self.lock().queueing, ifindex, || qdisc::read(ifindex).unwrap_or_default())
    }

    /// The policers (`tc-police(8)`) of a device that all packets on this side come to: none where it has none, or they cannot be
    /// read.
    #[must_use]
    pub fn policers(&self, ifindex: u32, side: Side) -> Policers {
        remembered(&mut self.lock().policed, (ifindex, side), || {
            police::read(ifindex, side).unwrap_or_default()
        })
    }

    /// The ports of Open vSwitch that are up, those that take least first: none where it is not used, or they cannot be read.
    #[must_use]
    pub fn switch_ports(&self) -> Arc<[Port]> {
        fresh(&mut self.lock().ports, || ports::read().ok()).unwrap_or_default()
    }

    /// The chains of nftables in this network namespace that have a rule that drops what conntrack calls INVALID and that packets of this
    /// IP version that go this way may come to, if they are few enough to be named. It is empty where the kernel does not show its rules,
    /// or where another kind of rule may be to blame: `function` is where the packet died, or empty. `None` where no rule asks for the
    /// state of a connection.
    #[must_use]
    pub fn chains_dropping_invalid(
        &self,
        netns: u32,
        ip_version: u8,
        direction: Direction,
        function: &str,
    ) -> Option<Arc<[Chain]>> {
        self.chains_by(netns, ip_version, direction, function, |ip_version| {
            if self.are_of(netns) {
                rules::dropping_invalid(ip_version)
            } else {
                self.0.others.inside(netns, || rules::dropping_invalid(ip_version))
            }
        })
    }

    /// The same, where `read_rules` reads the rules of an IP version.
    fn chains_by(
        &self,
        netns: u32,
        ip_version: u8,
        direction: Direction,
        function: &str,
        read_rules: impl Fn(u8) -> io::Result<rules::Rules>,
    ) -> Option<Arc<[Chain]>> {
        if !self.is_nftables(netns, ip_version, function) {
            return Some(Arc::default());
        }
        let named =
            |rules: &rules::Rules| (!rules.is_stateless).then(|| rules::named(&rules.found, direction));
        let mut read = self.lock();
        if let Some((until, found)) = read.chains.get(&(netns, ip_version))
            && Instant::now() < *until
        {
            return named(found);
        }
        let is_own = self.are_of(netns);
        if !is_own && !read.may_take(RULES) {
            return Some(Arc::default());
        }
        let has_changed = |error: &io::Error| error.kind() == ErrorKind::Interrupted;
        let mut found = read_rules(ip_version);
        if is_own && found.as_ref().is_err_and(has_changed) {
            found = read_rules(ip_version);
        }
        let is_read = found.as_ref().map_or_else(has_changed, |_| true);
        let found = found.unwrap_or_default();
        let chains = named(&found);
        if read.chains.len() >= MAX_REMEMBERED {
            read.chains.clear();
        }
        let again = if is_read { RULES_FRESH } else { RULES_UNREAD };
        read.chains.insert((netns, ip_version), (Instant::now() + again, found));
        chains
    }

    /// Whether rules that netfilter drops a packet by can only be nftables'.
    fn is_nftables(&self, netns: u32, ip_version: u8, function: &str) -> bool {
        match function {
            "nft_do_chain" => true,
            // Where rules of another kind drop.
            "ipt_do_table" | "ip6t_do_table" | "arpt_do_table" | "ebt_do_table" | "nf_hook_bpf" => false,
            _ => {
                let legacy = if ip_version == 6 { "ip6_tables_names" } else { "ip_tables_names" };
                // A question about rules would load it.
                let loaded = fs::read_to_string(self.0.proc.join("modules")).unwrap_or_default();
                let Some(net) = self.net(netns) else { return false };
                let has_legacy = match fs::read_to_string(net.join(legacy)) {
                    Ok(tables) => !tables.is_empty(),
                    Err(error) => error.kind() != ErrorKind::NotFound,
                };
                !has_legacy && loaded.lines().any(|line| line.starts_with("nf_tables "))
            }
        }
    }

    /// Where the files of this network namespace are.
    fn net(&self, netns: u32) -> Option<PathBuf> {
        if self.are_of(netns) { Some(self.0.proc.join("net")) } else { self.0.others.net(netns) }
    }

    fn number(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.0.proc.join(file)).ok()?.trim().parse().ok()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Read> {
        self.0.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was read a moment ago, or what `read` reads now.
fn fresh<T: Clone>(known: &mut Option<(Instant, Option<T>)>, read: impl FnOnce() -> Option<T>) -> Option<T> {
    if let Some((at, value)) = known
        && at.elapsed() < FRESH
    {
        return value.clone();
    }
    let value = read();
    *known = Some((Instant::now(), value.clone()));
    value
}

/// The same of one of many.
fn remembered<K: Eq + Hash, T: Clone>(
    known: &mut HashMap<K, (Instant, T)>,
    of: K,
    read: impl FnOnce() -> T,
) -> T {
    if known.len() >= MAX_REMEMBERED {
        known.clear();
    }
    if let Some((at, value)) = known.get(&of)
        && at.elapsed() < FRESH
    {
        return value.clone();
    }
    let value = read();
    known.insert(of, (Instant::now(), value.clone()));
    value
}

/// The numbers below a title of a file of `/proc/net/stat`, in hex, one a processor. Columns move between kernels.
fn column<'a>(text: &'a str, title: &str) -> impl Iterator<Item = u64> + use<'a> {
    let mut lines = text.lines();
    let at = lines.next().and_then(|titles| titles.split_whitespace().position(|word| word == title));
    lines.filter_map(move |line| u64::from_str_radix(line.split_whitespace().nth(at?)?, 16).ok())
}

#[cfg(test)]
impl Limits {
    /// As if these had been read of a device, this moment and for the whole test.
    pub(crate) fn knowing(self, ifindex: u32, queueing: Queueing, policed: &[(Side, Policed)]) -> Self {
        let now = Instant::now() + Duration::from_hours(1);
        let mut read = self.lock();
        read.queueing.insert(ifindex, (now, queueing));
        for side in [Side::Ingress, Side::Egress, Side::Queue] {
            let its = policed.iter().find(|(of, _)| *of == side).map(|(_, policed)| *policed);
            read.policed.insert((ifindex, side), (now, Policers::all_come_to(its)));
        }
        drop(read);
        self
    }

    /// As if Open vSwitch had these ports.
    pub(crate) fn with_ports(self, ports: &[Port]) -> Self {
        self.lock().ports = Some((Instant::now() + Duration::from_hours(1), Some(ports.into())));
        self
    }
}

#[cfg(test)]
mod tests;
