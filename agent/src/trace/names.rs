//! What the filters name, before anything is attached: a name that nothing has would silently show nothing.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::asked::{Early, Homeless, PodsAsked, few, full_name};
use crate::audit::{self, overlay::Subnet};
use crate::cli::{Host, Trace};
use crate::digits::counted;
use crate::enrich::{self, Addresses, PodIndex};
use crate::failure::Failure;
use crate::kernel::Kernel;
use crate::log::note;
use crate::nearest;
use crate::node::{self, Node};
use crate::probe::start::Entry;
use crate::probes;
use crate::sink::escape;

/// Addresses that a note names.
const NEAREST: usize = 3;

/// The flags whose values are refused here, as the parser calls them.
const OF_REASON: &[&str] = &["reason"];
const OF_INTERFACE: &[&str] = &["interface"];

/// The pods that the filters ask for.
pub(super) fn pods(args: &Trace) -> PodsAsked {
    PodsAsked { namespaces: args.namespace.clone(), pods: args.pod.clone() }
}

/// Refuses what nothing here has, and notes what nothing here may have; the pods whose packets cannot be known, or `None` where
/// pods are waited for.
///
/// # Errors
/// Usage: the filter and the nearest names there are.
pub(super) async fn check(
    entry: &Entry,
    node: &Node,
    host: &Host,
    args: &Trace,
) -> Result<Option<Dark>, Failure> {
    reasons(entry, &node.kernel, &args.reason)?;
    let asked = pods(args);
    let waits = match (asked.early(host, &node.pods), args.wait) {
        (Some(Early::Name(missing)), None) => return Err(missing.into()),
        (Some(early), Some(patience)) => {
            note(&early.waited_for(patience));
            true
        }
        _ => false,
    };
    interfaces(host, args, waits)?;
    addresses(host, &node.pods, args).await?;
    if waits { Ok(None) } else { Dark::told(&asked, &node.pods, args.fail_on_findings).map(Some) }
}

/// Pods asked for whose packets cannot be told from others'.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Dark {
    homeless: Homeless,
    /// Namespaces of pods are hidden from this process.
    hidden: bool,
    /// Pods that have no name here.
    nameless: usize,
    /// No packet can be known to be of a pod that is asked for.
    all: bool,
}

impl Dark {
    /// As of now.
    fn of(asked: &PodsAsked, pods: &PodIndex) -> Self {
        if asked.is_empty() {
            return Self::default();
        }
        let homeless = asked.homeless(pods);
        let hidden = !homeless.unseen.is_empty() && pods.has_hidden_namespaces();
        let nameless = if asked.is_by_name() { 0 } else { pods.nameless() };
        let all = !pods.namespaces().iter().any(|home| asked.wants(&home.pod));
        Self { homeless, hidden, nameless, all }
    }

    /// The same, each cause noted.
    ///
    /// # Errors
    /// Unsupported, where findings are asked for (`fails`) and none could be made.
    pub(super) fn told(asked: &PodsAsked, pods: &PodIndex, fails: bool) -> Result<Self, Failure> {
        let dark = Self::of(asked, pods);
        let why = dark.why();
        if fails && !why.is_empty() && (dark.hidden || dark.all) {
            return Err(Failure::unsupported(why.join("; ")));
        }
        for line in &why {
            note(line);
        }
        Ok(dark)
    }

    /// At the end of what began like this: with those that were not known then and are not now, be they gone.
    pub(super) fn until_now(mut self, asked: &PodsAsked, pods: &PodIndex) -> Self {
        let now = Self::of(asked, pods);
        let known: Vec<String> = pods.namespaces().iter().map(|home| full_name(&home.pod)).collect();
        let both = |mut names: Vec<String>, more: Vec<String>| {
            names.extend(more);
            names.retain(|name| !known.contains(name));
            names.sort_unstable();
            names.dedup();
            names
        };
        self.homeless.on_host = both(self.homeless.on_host, now.homeless.on_host);
        // It may turn out to be on the host's network.
        self.homeless.unseen = both(self.homeless.unseen, now.homeless.unseen);
        self.homeless.unseen.retain(|name| !self.homeless.on_host.contains(name));
        let hidden = now.hidden || self.hidden && !self.homeless.unseen.is_empty();
        Self { hidden, nameless: self.nameless.max(now.nameless), all: self.all && now.all, ..self }
    }

    /// Why, in a line for each cause; empty if the packets of all are known.
    pub(super) fn why(&self) -> Vec<String> {
        unknown(&self.homeless, self.hidden, self.nameless)
    }

    /// Why nothing of what was asked for could be seen, if so.
    pub(super) fn blind(&self) -> Option<String> {
        let why = self.why();
        let is_blind = self.all && !why.is_empty();
        is_blind.then(|| format!("nothing of what was asked for could be seen: {}", why.join("; ")))
    }
}

/// Whose packets are not known, and why: one line for each cause. Namespaces of pods may be `hidden` from this process, and
/// pods may have no name here.
fn unknown(homeless: &Homeless, hidden: bool, nameless: usize) -> Vec<String> {
    let Homeless { on_host, unseen } = homeless;
    let mut why = Vec::new();
    if hidden {
        why.push(format!(
            "the network namespaces of pods cannot be seen here, so their packets may not be known: {}",
            few(unseen)
        ));
    } else if !unseen.is_empty() {
        why.push(format!(
            "no process of them was seen, or they share a network namespace, so their packets are not known: {}",
            few(unseen)
        ));
    }
    if !on_host.is_empty() {
        why.push(format!("on the host's network, so their packets are not known: {}", few(on_host)));
    }
    if nameless > 0 {
        let nameless = counted(u64::try_from(nameless).unwrap_or(u64::MAX), "pod");
        why.push(format!("--pod-logs has no name for them, so their packets are not known: {nameless}"));
    }
    why
}

fn reasons(entry: &Entry, kernel: &Kernel, asked: &[String]) -> Result<(), Failure> {
    let has =
        |reasons: &[String], wanted: &str| reasons.iter().any(|known| known.eq_ignore_ascii_case(wanted));
    let known = (entry.reasons)(kernel);
    // Where none are known any may come.
    let Some(wrong) = asked.iter().find(|wanted| !known.is_empty() && !has(&known, wanted)) else {
        return Ok(());
    };
    let others = probes::ALL.iter().filter(|other| other.name != entry.name);
    for other in others {
        if has(&(other.reasons)(kernel), wrong) {
            return Err(Failure::usage(format!(
                "{wrong} is a reason of {0}: r2c-agent trace {0} --reason {wrong}",
                other.name
            ))
            .of(OF_REASON));
        }
    }
    let hint = nearest::hint(wrong, known.iter().map(String::as_str));
    Err(Failure::usage(format!("no reason {wrong:?} of {} on this kernel; {hint}", entry.name)).of(OF_REASON))
}

fn interfaces(host: &Host, args: &Trace, waits: bool) -> Result<(), Failure> {
    let asked = &args.interface;
    if asked.is_empty() {
        return Ok(());
    }
    let there = node::interfaces(&host.host_proc);
    let Some(wrong) = asked.iter().find(|name| !there.names.contains(*name)) else { return Ok(()) };
    let hint = nearest::hint(wrong, there.names.iter().map(String::as_str));
    let no = format!("no interface {wrong:?} in this node's or its pods' network namespaces");
    // If it is a typing error, nothing can be found, and that would look as if all were well.
    if there.hidden && !waits {
        return Err(Failure::unsupported(format!(
            "{no} that this process may look into; {hint}; if one that is hidden has it, leave out -i"
        ))
        .of(OF_INTERFACE));
    }
    if waits {
        note(&format!("{no} yet; {hint}"));
        return Ok(());
    }
    Err(Failure::usage(format!("{no}; {hint}")).of(OF_INTERFACE))
}

/// Refuses an address that nothing has and that only a pod of this node could have, and notes one that nothing here has: it may
/// well be that of a peer elsewhere.
async fn addresses(host: &Host, pods: &PodIndex, args: &Trace) -> Result<(), Failure> {
    // A network (`10.0.0.1/32`) is taken as it is.
    let single = args.ip.iter().filter(|asked| !asked.as_network);
    let single: Vec<IpAddr> = single.map(|asked| asked.network.addr()).filter(is_somebodys).collect();
    if single.is_empty() {
        return Ok(());
    }
    let (here, absent) = absent(host, pods, single).await?;
    let waits = args.wait.is_some();
    let notes = absent.iter().map(|(address, subnet)| absent_here(*address, subnet.as_ref(), &here, waits));
    let notes = notes.collect::<Result<Vec<String>, String>>();
    for line in capped(notes.map_err(|refused| Failure::usage(refused).of(&["ip"]))?) {
        note(&line);
    }
    Ok(())
}

/// What is noted of addresses, and of those beyond the first few only how many there are.
fn capped(mut notes: Vec<String>) -> Vec<String> {
    let more = notes.len().saturating_sub(nearest::MOST);
    notes.truncate(nearest::MOST);
    if more > 0 {
        notes.push(format!("and {more} more that nothing here is known to have"));
    }
    notes
}

/// Those of the addresses that nothing here has, each with the network of this node's pods alone that it is in; and what there is.
async fn absent(
    host: &Host,
    pods: &PodIndex,
    addresses: Vec<IpAddr>,
) -> Result<(Addresses, Vec<(IpAddr, Option<Subnet>)>), Failure> {
    let (proc, pods) = (host.host_proc.clone(), pods.clone());
    let read = tokio::task::spawn_blocking(move || {
        let here = enrich::addresses(&proc, &pods);
        let is_here = |address: &IpAddr| here.known.iter().any(|(known, _)| known == address);
        let absent: Vec<IpAddr> = addresses.into_iter().filter(|address| !is_here(address)).collect();
        let subnets =
            if absent.is_empty() { Vec::new() } else { audit::subnets_of_pods(&proc, &pods, &absent) };
        (here, absent.into_iter().zip(subnets).collect())
    });
    Ok(read.await?)
}

/// Refuses to walk to an address that no pod has and that only a pod of this node could have. Any other may be elsewhere's.
///
/// # Errors
/// Usage: it, and the nearest that there are.
pub(super) async fn destination(host: &Host, pods: &PodIndex, address: IpAddr) -> Result<(), Failure> {
    if !is_somebodys(&address) {
        return Ok(());
    }
    let (here, absent) = absent(host, pods, vec![address]).await?;
    let refused = absent.iter().find_map(|(address, subnet)| {
        let subnet = subnet.as_ref().filter(|_| !here.in_part)?;
        Some(nobodys(*address, subnet, &here.known, "r2c-agent trace drops --ip"))
    });
    refused.map_or(Ok(()), |refused| Err(Failure::usage(refused).of(&["to"])))
}

/// What is noted of an address that nothing here has, which may be in a `subnet` that is the pods' alone.
///
/// # Errors
/// Only a pod of this node could have it.
fn absent_here(
    address: IpAddr,
    subnet: Option<&Subnet>,
    here: &Addresses,
    waits: bool,
) -> Result<String, String> {
    match subnet {
        // A pod that is waited for may get it.
        Some(subnet) if !here.in_part && !waits => Err(nobodys(address, subnet, &here.known, "--ip")),
        _ => Ok(elsewhere(address, here)),
    }
}

fn is_somebodys(address: &IpAddr) -> bool {
    // Each device has link-local addresses of its own: they are not read.
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(is_link_local
        || address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || *address == IpAddr::from([255; 4]))
}

fn elsewhere(address: IpAddr, here: &Addresses) -> String {
    let no = if here.in_part {
        format!(
            "{address} is not among the addresses of this node and its pods that could be read; not all could"
        )
    } else {
        format!(
            "neither this node nor one of its pods has {address}: only packets to and from elsewhere match it"
        )
    };
    let named = nearest_to(address, &here.known);
    if named.is_empty() { no } else { format!("{no}; nearest here: {}", named.join(", ")) }
}

fn nobodys(address: IpAddr, subnet: &Subnet, there: &[(IpAddr, String)], trace: &str) -> String {
    let Subnet { network, bridge } = subnet;
    format!(
        "no pod of this node has {address}, and {network} ({}) is its pods' alone; nearest: {}; to trace who still sends \
         there: {trace} {}",
        escape::text(bridge),
        nearest_to(address, there).join(", "),
        IpNet::from(address),
    )
}

/// Those of the addresses that are nearest by number, with whose they are.
fn nearest_to(address: IpAddr, there: &[(IpAddr, String)]) -> Vec<String> {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    let of_family = there.iter().filter(|(known, _)| known.is_ipv4() == address.is_ipv4());
    let mut nearest: Vec<_> =
        of_family.map(|(known, whose)| (bits(*known).abs_diff(bits(address)), *known, whose)).collect();
    nearest.sort_unstable();
    nearest.iter().take(NEAREST).map(|(_, known, whose)| format!("{known} ({whose})")).collect()
}

#[cfg(test)]
mod tests;
