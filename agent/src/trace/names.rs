//! What the filters name, before anything is attached: a name that nothing has would silently show nothing.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::asked::{PodsAsked, few};
use crate::audit::{self, overlay::Subnet};
use crate::cli::{Host, IpAsked, Trace};
use crate::enrich::{self, PodIndex};
use crate::failure::Failure;
use crate::log::note;
use crate::nearest;
use crate::node::{self, Node};
use crate::probe::start::Entry;
use crate::probes;
use crate::sink::escape;

/// Addresses that a note names.
const NEAREST: usize = 3;

/// The pods that the filters ask for.
pub(super) fn pods(args: &Trace) -> PodsAsked {
    PodsAsked { namespaces: args.namespace.clone(), pods: args.pod.clone() }
}

/// Refuses what nothing here has, and notes what nothing here may have; whether pods are waited for.
///
/// # Errors
/// Usage: the filter and the nearest names there are.
pub(super) fn check(entry: &Entry, node: &Node, host: &Host, args: &Trace) -> Result<bool, Failure> {
    reasons(entry, node, &args.reason)?;
    interfaces(host, &args.interface)?;
    addresses(host, &node.pods, &args.ip)?;
    let asked = pods(args);
    let waits = match (asked.missing(host, &node.pods), args.wait) {
        (Some(missing), None) => return Err(Failure::usage(missing)),
        (Some(missing), Some(patience)) => {
            note(&missing.waited_for(patience));
            true
        }
        (None, _) => false,
    };
    let homeless = if asked.is_empty() { Vec::new() } else { asked.homeless(&node.pods) };
    if !homeless.is_empty() && node.pods.has_hidden_namespaces() {
        let why = format!(
            "the network namespaces of pods cannot be seen here, so packets may not be known to be theirs: {}",
            few(&homeless)
        );
        // To say that nothing was found would be untrue.
        if args.fail_on_findings {
            return Err(Failure::unsupported(why));
        }
        note(&why);
    } else if !homeless.is_empty() {
        note(&format!(
            "on the host's network, or without one of their own yet: {}; no packet is known to be theirs",
            few(&homeless)
        ));
    }
    Ok(waits)
}

fn reasons(entry: &Entry, node: &Node, asked: &[String]) -> Result<(), Failure> {
    let has =
        |reasons: &[String], wanted: &str| reasons.iter().any(|known| known.eq_ignore_ascii_case(wanted));
    let known = (entry.reasons)(&node.kernel);
    // Where none are known any may come.
    let Some(wrong) = asked.iter().find(|wanted| !known.is_empty() && !has(&known, wanted)) else {
        return Ok(());
    };
    let others = probes::ALL.iter().filter(|other| other.name != entry.name);
    for other in others {
        if has(&(other.reasons)(&node.kernel), wrong) {
            return Err(Failure::usage(format!(
                "{wrong} is a reason of {0}: r2c-agent trace {0} --reason {wrong}",
                other.name
            )));
        }
    }
    let hint = nearest::hint(wrong, known.iter().map(String::as_str));
    Err(Failure::usage(format!("no reason {wrong:?} of {} on this kernel; {hint}", entry.name)))
}

fn interfaces(host: &Host, asked: &[String]) -> Result<(), Failure> {
    if asked.is_empty() {
        return Ok(());
    }
    let there = node::interfaces(&host.host_proc);
    let Some(wrong) = asked.iter().find(|name| !there.names.contains(*name)) else { return Ok(()) };
    let hint = nearest::hint(wrong, there.names.iter().map(String::as_str));
    let no = format!("no interface {wrong:?} in this node's or its pods' network namespaces");
    if there.hidden {
        note(&format!("{no} that this process may look into; {hint}"));
        return Ok(());
    }
    Err(Failure::usage(format!("{no}; {hint}")))
}

/// Refuses an address that nothing has and that only a pod of this node could have, and notes one that nothing here has: it may
/// well be that of a peer elsewhere.
fn addresses(host: &Host, pods: &PodIndex, asked: &[IpAsked]) -> Result<(), Failure> {
    // A network is one of many addresses, or meant to hold for an address whoever has it.
    let single = asked.iter().filter(|asked| !asked.as_network);
    let single: Vec<IpAddr> = single.map(|asked| asked.network.addr()).filter(is_somebodys).collect();
    if single.is_empty() {
        return Ok(());
    }
    let there = enrich::addresses(&host.host_proc, pods);
    for address in single.iter().filter(|address| !there.iter().any(|(known, _)| known == *address)) {
        if let Some(subnet) = audit::subnet_of_pods(&host.host_proc, pods, *address) {
            return Err(Failure::usage(nobodys(*address, &subnet, &there)));
        }
        note(&elsewhere(*address, &there));
    }
    Ok(())
}

fn is_somebodys(address: &IpAddr) -> bool {
    !(address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || *address == IpAddr::from([255; 4]))
}

fn elsewhere(address: IpAddr, there: &[(IpAddr, String)]) -> String {
    let no = format!(
        "neither this node nor one of its pods has {address}: only packets to and from elsewhere match it"
    );
    let named = nearest_to(address, there);
    if named.is_empty() { no } else { format!("{no}; nearest here: {}", named.join(", ")) }
}

fn nobodys(address: IpAddr, subnet: &Subnet, there: &[(IpAddr, String)]) -> String {
    let Subnet { network, bridge } = subnet;
    format!(
        "no pod of this node has {address}, and {network} ({}) is its pods' alone; nearest: {}; to trace who still sends \
         there: --ip {}",
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
mod tests {
    use super::*;

    #[test]
    fn an_address_of_elsewhere_names_the_nearest_here() {
        let there = [
            ("10.244.1.2", "shop/web"),
            ("10.244.1.30", "shop/db"),
            ("fd00::2", "shop/web"),
            ("10.0.0.5", "host"),
        ]
        .map(|(address, whose)| (address.parse().unwrap(), whose.to_owned()));
        let said = elsewhere("10.244.1.29".parse().unwrap(), &there);
        assert!(said.contains("has 10.244.1.29"), "{said}");
        assert!(said.ends_with("10.244.1.30 (shop/db), 10.244.1.2 (shop/web), 10.0.0.5 (host)"), "{said}");
        let said = elsewhere("2001:db8::1".parse().unwrap(), &there);
        assert!(said.ends_with("nearest here: fd00::2 (shop/web)"), "{said}");
        assert!(!elsewhere("10.0.0.1".parse().unwrap(), &[]).contains("nearest"));
    }
}
