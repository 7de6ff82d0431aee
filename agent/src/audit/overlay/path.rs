//! Ways that are narrower than who sends on them thinks: tunnels, routes, and the pods before them.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::cure::{self, Promises, key};
use super::finding::{Finding, Name, full_name, list, set, set_by};
use super::outward::{Outward, is_on_link};
use super::{At, HOST, Limit, Nets, ipv6};
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
        let behind = homes.iter().filter(|home| home.sends_by(&outward, at).next().is_some());
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
            if !route.dead && route.mtu.is_some_and(|mtu| mtu > link.mtu) {
                larger.entry(at).or_default().push(route);
            }
        }
    }
    larger.into_iter().filter_map(|(at, routes)| route(nets, at, &routes)).collect()
}

fn route(nets: &Nets<'_>, at: At, routes: &[&Route]) -> Option<Finding> {
    let (link, owner) = (nets.link(at)?, nets.owner(at));
    let mtu = routes.iter().filter_map(|route| route.mtu).max()?;
    // One with several ways has one MTU for all of them.
    let least = |route: &Route| {
        let ways =
            nets.ways_of(at.namespace, route).filter_map(|way| nets.link(At { index: way.device, ..at }));
        ways.map(|link| link.mtu).min().unwrap_or(link.mtu)
    };
    let place = owner.map(|pod| format!(" (in {})", full_name(pod))).unwrap_or_default();
    let mut seen = HashSet::new();
    let each: Vec<&&Route> = routes.iter().filter(|route| seen.insert(key(at.namespace, route))).collect();
    let changes = each.iter().map(|route| {
        let vague = || format!("lower the MTU of {} once all its ways are up", route.destination);
        cure::route(nets, at.namespace, route, least(route)).unwrap_or_else(vague) + &place
    });
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
        fix: list(changes),
        fragments: None,
        pods: owner.cloned().into_iter().collect(),
    })
}

/// A pod's device, and how the host reaches it.
pub(super) struct Home<'a> {
    pub(super) pod: Arc<Pod>,
    pub(super) namespace: usize,
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

    /// A route of each family by which the host sends this pod's packets to other nodes' pods, of those by this device.
    fn sends_by<'n>(&self, outward: &Outward<'n>, at: At) -> impl Iterator<Item = &'n Route> {
        let leads = |to: &IpNet| self.reached.iter().any(|own| are_siblings(own, to));
        let first =
            |v6| outward.by(at).find(|to| to.destination.addr().is_ipv6() == v6 && leads(&to.destination));
        [first(false), first(true)].into_iter().flatten()
    }

    /// What it sends there; `None` if it sends it by another device. Not certain where its own routes are not known.
    pub(super) fn sends<'n>(&self, nets: &Nets<'n>, to: IpAddr) -> Option<Sent<'n>> {
        if nets.namespaces.get(self.namespace)?.routes.is_none() {
            return Some(Sent { mtu: self.link.mtu, confidence: Confidence::Low, route: None });
        }
        let route = nets.lookup(self.namespace, to, 0)?;
        let mtu = route.mtu.map_or(self.link.mtu, |mtu| mtu.min(self.link.mtu));
        let sent = Sent { mtu, confidence: Confidence::Medium, route: Some(route) };
        (route.device == self.link.index).then_some(sent)
    }
}

/// What a pod sends somewhere.
#[derive(Clone, Copy)]
pub(super) struct Sent<'a> {
    /// Bytes of the largest packet.
    pub(super) mtu: u32,
    pub(super) confidence: Confidence,
    /// The pod's own route there, if those were read.
    pub(super) route: Option<&'a Route>,
}

/// Whether the second network is everything, or so near to the first that both are the cluster's.
fn are_siblings(own: &IpNet, other: &IpNet) -> bool {
    let v6 = own.addr().is_ipv6();
    let least = if v6 { SIBLING_V6 } else { SIBLING_V4 };
    let start = |net: &IpNet| IpNet::new(net.addr(), least).map(|net| net.trunc()).ok();
    let near = own.prefix_len().min(other.prefix_len()) >= least && start(own) == start(other);
    v6 == other.addr().is_ipv6() && (near || other.prefix_len() == 0)
}

/// A device that leads to other nodes and takes less than pods send by it.
struct Narrow<'a, 'h> {
    link: &'a Link,
    takes: u32,
    hurt: Vec<(&'h Home<'a>, Vec<Sent<'a>>)>,
}

/// Pods that send larger packets than the device that leads to the other nodes takes, one finding a device.
pub(super) fn pods(nets: &Nets<'_>) -> Vec<Finding> {
    let (homes, outward) = (homes(nets).collect::<Vec<_>>(), nets.outward());
    let narrow: Vec<Narrow<'_, '_>> =
        outward.devices().filter_map(|at| narrow(nets, &outward, at, &homes)).collect();
    // A pod's route may lead to several of them.
    let mut promises = Promises::new();
    for one in &narrow {
        for (home, sent) in &one.hurt {
            for route in sent.iter().filter_map(|sent| sent.route) {
                let most = promises.entry(key(home.namespace, route)).or_insert(one.takes);
                *most = one.takes.min(*most);
            }
        }
    }
    narrow.iter().filter_map(|one| too_large(nets, one, &promises)).collect()
}

fn narrow<'a, 'h>(
    nets: &Nets<'a>,
    outward: &Outward<'a>,
    at: At,
    homes: &'h [Home<'a>],
) -> Option<Narrow<'a, 'h>> {
    let link = nets.link(at)?;
    // Pods of this node beside each other: which of them is too large, nothing says.
    let is_near = |near: At| near == at || nets.link(near).is_some_and(|near| near.master == Some(at.index));
    if homes.iter().any(|home| is_near(home.near)) {
        return None;
    }
    let (takes, _) = nets.takes(at)?;
    let mut hurt: Vec<(&Home<'_>, Vec<Sent<'_>>)> = Vec::new();
    for home in homes {
        let sent = home.sends_by(outward, at).filter_map(|to| home.sends(nets, to.destination.addr()));
        let sent: Vec<Sent<'_>> = sent.filter(|sent| sent.mtu > takes).collect();
        if !sent.is_empty() {
            hurt.push((home, sent));
        }
    }
    hurt.sort_by_key(|(home, ..)| (Arc::clone(&home.pod), home.link.index));
    Some(Narrow { link, takes, hurt })
}

fn too_large(nets: &Nets<'_>, narrow: &Narrow<'_, '_>, promises: &Promises) -> Option<Finding> {
    let Narrow { link, takes, hurt } = narrow;
    let (first, sent) = hurt.first()?;
    let mtu = sent.iter().map(|sent| sent.mtu).max()?;
    let routes: Vec<_> = hurt
        .iter()
        .map(|(home, sent)| (*home, sent.iter().filter_map(|sent| sent.route).collect()))
        .collect();
    Some(Finding {
        name: Name::PodLargerThanPath,
        confidence: hurt.iter().flat_map(|(_, sent)| sent).map(|sent| sent.confidence).min()?,
        owner: Some(Arc::clone(&first.pod)),
        interface: first.link.name.clone(),
        kind: first.link.kind.clone(),
        interface_mtu: first.link.mtu,
        promises: mtu,
        fits: *takes,
        what: format!(
            "{} of {} sends packets of up to {mtu} bytes, but only {takes} fit through {} ({}), which leads to other nodes",
            first.link.name,
            full_name(&first.pod),
            link.name,
            link.kind
        ),
        fix: cure::pods(nets, &routes, *takes, promises),
        fragments: None,
        pods: in_order(hurt.iter().map(|(home, ..)| *home)),
    })
}
