//! Ways that are narrower than who sends on them thinks: tunnels, routes, and the pods before them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::finding::{Finding, Name, full_name, list, quoted, set, set_by};
use super::outward::{Outward, is_on_link};
use super::{At, HOST, Limit, MAIN, Nets, ipv6};
use crate::links::{Link, Route};
use crate::pod::Pod;
use crate::sink::Confidence;

/// Leading bits that a route must have in common with a pod's own network to lead to other nodes' pods: a cluster's
/// network is seldom larger than a /12, and what else a node reaches by tunnel (an operator's VPN) is seldom in it.
const SIBLING_V4: u8 = 12;
/// The same of IPv6, where a node has a /64 of a /56 or /48.
const SIBLING_V6: u8 = 48;

/// Tunnels that promise more than what carries them takes.
pub(super) fn overlays(nets: &Nets<'_>) -> Vec<Finding> {
    let (homes, outward) = (homes(nets).collect::<Vec<_>>(), nets.outward());
    let too_large = nets.all().filter_map(|(at, link)| {
        let sum = nets.sums.get(&at).filter(|sum| link.up && sum.fits < link.mtu)?;
        let name = &nets.link(sum.underlay)?.name;
        let takes = match sum.limit {
            Limit::Device => format!("{name} takes {} bytes", sum.takes),
            Limit::Nested => format!("only {} fit through {name}, a tunnel itself,", sum.takes),
            Limit::Route => format!("the route to its end by {name} takes {} bytes", sum.takes),
            Limit::Path(end) => format!("the path to {end} by {name} is known to take {} bytes", sum.takes),
        };
        let owner = nets.owner(at);
        let mut fix = set(&link.name, sum.fits, owner.map(AsRef::as_ref));
        fix += ", and the interfaces behind it";
        if sum.fits < ipv6::LEAST {
            let _ = write!(fix, " (IPv6, which needs {}, is off on them then)", ipv6::LEAST);
        }
        if let Some(hint) = set_by(&link.name) {
            let _ = write!(fix, "; {hint}");
        }
        let behind = homes.iter().filter(|home| home.sends_by(&outward, at).is_some());
        Some(Finding {
            name: Name::OverlayTooLarge,
            confidence: sum.confidence,
            owner: owner.cloned(),
            interface: link.name.clone(),
            kind: link.kind.clone(),
            interface_mtu: link.mtu,
            promises: link.mtu,
            fits: sum.fits,
            what: format!(
                "{} has MTU {}, but {takes} and {} adds {}: only {} fit",
                link.name,
                link.mtu,
                link.tunnel?.encapsulation.name(),
                sum.overhead,
                sum.fits
            ),
            fix,
            fragments: nets.fragments(sum.underlay.namespace),
            pods: in_order(behind),
        })
    });
    too_large.collect()
}

pub(super) fn in_order<'a>(homes: impl Iterator<Item = &'a Home<'a>>) -> Vec<Arc<Pod>> {
    let mut pods: Vec<Arc<Pod>> = homes.map(|home| Arc::clone(&home.pod)).collect();
    pods.sort_unstable();
    pods.dedup();
    pods
}

/// Routes that promise more than their device takes, one finding a device.
pub(super) fn routes(nets: &Nets<'_>) -> Vec<Finding> {
    let mut larger: BTreeMap<At, Vec<&Route>> = BTreeMap::new();
    for (namespace, read) in nets.namespaces.iter().enumerate() {
        for route in read.routes.iter().flatten() {
            let at = At { namespace, index: route.device };
            let Some(link) = nets.link(at).filter(|link| link.up && !link.loopback) else { continue };
            if route.mtu.is_some_and(|mtu| mtu > link.mtu) {
                larger.entry(at).or_default().push(route);
            }
        }
    }
    larger.into_iter().filter_map(|(at, routes)| route(nets, at, &routes)).collect()
}

fn route(nets: &Nets<'_>, at: At, routes: &[&Route]) -> Option<Finding> {
    let (link, owner) = (nets.link(at)?, nets.owner(at));
    let worst = routes.iter().max_by_key(|route| route.mtu)?;
    let mtu = worst.mtu?;
    let via = worst.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
    let table = if worst.table == MAIN { String::new() } else { format!(" table {}", worst.table) };
    let place = owner.map(|pod| format!(" (in {})", full_name(pod))).unwrap_or_default();
    Some(Finding {
        name: Name::RouteMtu,
        confidence: Confidence::High,
        owner: owner.cloned(),
        interface: link.name.clone(),
        kind: link.kind.clone(),
        interface_mtu: link.mtu,
        promises: mtu,
        fits: link.mtu,
        what: format!(
            "{} takes {} bytes, but routes by it promise up to {mtu}: {}",
            link.name,
            link.mtu,
            list(routes.iter().map(|route| route.destination.to_string()))
        ),
        fix: format!(
            "ip route change {}{via} dev {}{table} mtu {}{place}",
            worst.destination,
            quoted(&link.name).trim_start_matches("dev "),
            link.mtu
        ),
        fragments: None,
        pods: owner.cloned().into_iter().collect(),
    })
}

/// A pod's device, and how the host reaches it.
pub(super) struct Home<'a> {
    pub(super) pod: Arc<Pod>,
    namespace: usize,
    pub(super) link: &'a Link,
    pub(super) near: At,
    reached: Vec<IpNet>,
}

/// Each pod's devices that have their other end on the host.
pub(super) fn homes<'a>(nets: &Nets<'a>) -> impl Iterator<Item = Home<'a>> {
    nets.all().filter_map(|(at, link)| {
        let pod = nets.owner(at)?;
        let (near, host) = nets.peer(at, link).filter(|(peer, _)| peer.namespace == HOST)?;
        let by = |route: &&Route| route.device == near.index || Some(route.device) == host.master;
        let reached = nets.routes(HOST).filter(by).map(|route| route.destination);
        let reached: Vec<IpNet> = reached.filter(|to| to.prefix_len() > 0 && !is_on_link(to)).collect();
        let (namespace, pod) = (at.namespace, Arc::clone(pod));
        // Where no route of the host's leads to it, its packets go a way that no route tells.
        let routed = link.up && host.up && !reached.is_empty();
        routed.then_some(Home { pod, namespace, link, near, reached })
    })
}

impl Home<'_> {
    /// Whether its own network, or a part of it, is in this one.
    pub(super) fn is_in(&self, source: &IpNet) -> bool {
        self.reached.iter().any(|own| source.contains(own) || own.contains(source))
    }

    /// The route by which the host sends this pod's packets to other nodes' pods, if it is by this device.
    fn sends_by<'n>(&self, outward: &Outward<'n>, at: At) -> Option<&'n Route> {
        let leads = |to: &IpNet| self.reached.iter().any(|own| are_siblings(own, to));
        outward.by(at).find(|route| leads(&route.destination))
    }

    /// Bytes of the largest packet it sends there; `None` if it sends it by another device. Not certain where its own
    /// routes are not known.
    pub(super) fn sends(&self, nets: &Nets<'_>, to: IpAddr) -> Option<(u32, Confidence)> {
        if nets.namespaces.get(self.namespace)?.routes.is_none() {
            return Some((self.link.mtu, Confidence::Low));
        }
        let route = nets.lookup(self.namespace, to, 0)?;
        let mtu = route.mtu.map_or(self.link.mtu, |mtu| mtu.min(self.link.mtu));
        (route.device == self.link.index).then_some((mtu, Confidence::Medium))
    }
}

/// Whether the second network is everything, or so near to the first that both are the cluster's.
fn are_siblings(own: &IpNet, other: &IpNet) -> bool {
    let v6 = own.addr().is_ipv6();
    let least = if v6 { SIBLING_V6 } else { SIBLING_V4 };
    let start = |net: &IpNet| IpNet::new(net.addr(), least).map(|net| net.trunc()).ok();
    let near = own.prefix_len().min(other.prefix_len()) >= least && start(own) == start(other);
    v6 == other.addr().is_ipv6() && (near || other.prefix_len() == 0)
}

/// Pods that send larger packets than the device that leads to the other nodes takes, one finding a device.
pub(super) fn pods(nets: &Nets<'_>) -> Vec<Finding> {
    let (homes, outward) = (homes(nets).collect::<Vec<_>>(), nets.outward());
    outward.devices().filter_map(|at| too_large(nets, &outward, at, &homes)).collect()
}

fn too_large(nets: &Nets<'_>, outward: &Outward<'_>, at: At, homes: &[Home<'_>]) -> Option<Finding> {
    let link = nets.link(at)?;
    // Pods of this node beside each other: which of them is too large, nothing says.
    let is_near = |near: At| near == at || nets.link(near).is_some_and(|near| near.master == Some(at.index));
    if homes.iter().any(|home| is_near(home.near)) {
        return None;
    }
    let (takes, _) = nets.takes(at)?;
    let mut hurt: Vec<(&Home<'_>, u32, Confidence)> = homes
        .iter()
        .filter_map(|home| {
            let to = home.sends_by(outward, at)?.destination.addr();
            let (mtu, confidence) = home.sends(nets, to)?;
            (mtu > takes).then_some((home, mtu, confidence))
        })
        .collect();
    hurt.sort_by_key(|(home, ..)| (Arc::clone(&home.pod), home.link.index));
    let (first, mtu, _) = hurt.first()?;
    let near = nets.link(first.near)?;
    Some(Finding {
        name: Name::PodLargerThanPath,
        confidence: hurt.iter().map(|(.., confidence)| *confidence).min()?,
        owner: Some(Arc::clone(&first.pod)),
        interface: first.link.name.clone(),
        kind: first.link.kind.clone(),
        interface_mtu: first.link.mtu,
        promises: *mtu,
        fits: takes,
        what: format!(
            "{} of {} sends packets of up to {mtu} bytes, but only {takes} fit through {} ({}), which leads to other nodes",
            first.link.name,
            full_name(&first.pod),
            link.name,
            link.kind
        ),
        fix: format!(
            "{} and {}; for pods to come, the CNI's MTU",
            set(&first.link.name, takes, Some(&first.pod)),
            set(&near.name, takes, None)
        ),
        fragments: None,
        pods: in_order(hurt.iter().map(|(home, ..)| *home)),
    })
}
