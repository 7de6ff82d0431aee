//! The overlay sum: what fits through each tunnel, from what it wraps around a packet and what carries it.
//!
//! Pure: it looks at nothing but the reading, and guesses nothing that the reading does not say.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;

use crate::links::{Encapsulation, Esp, Link, Namespace, NetnsId, Route, Tunnel};
use crate::sink::Confidence;

mod bucket;
mod cure;
mod finding;
mod inner;
mod ipsec;
mod ipv6;
mod outward;
mod path;
mod ports;
mod unjudged;

#[cfg(test)]
mod tests;

pub use finding::{Finding, Name};
pub use outward::Subnet;
pub use unjudged::NotJudged;

/// A device: the number of its namespace in the reading, and its own in that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct At {
    /// Number of the namespace in the reading.
    pub namespace: usize,
    /// Number of the device in the namespace.
    pub index: u32,
}

/// What fits through one device that wraps packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum {
    /// Bytes it adds.
    pub overhead: u32,
    /// The device that carries its packets.
    pub underlay: At,
    /// Bytes that the way takes: the device, its own underlay, the route, or a learned path MTU.
    pub takes: u32,
    /// What limits the way, if it is not the device itself.
    pub limit: Limit,
    /// Bytes of the largest packet that fits.
    pub fits: u32,
    /// How sure the way is.
    pub confidence: Confidence,
}

/// What limits a tunnel's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The MTU of the device that carries it.
    Device,
    /// What fits through that device, which is a tunnel itself.
    Nested,
    /// The MTU of the route to its end.
    Route,
    /// The path MTU that was learned of its end.
    Path(IpAddr),
}

/// What one reading comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Each device that wraps packets, if what carries it is known.
    pub sums: HashMap<At, Sum>,
    /// What is wrong, the most harmful first.
    pub findings: Vec<Finding>,
    /// Findings in pods that have more than are kept of one.
    pub left_out: usize,
    /// What the audit says nothing of, and why.
    pub not_judged: Vec<NotJudged>,
    /// The same in pods that have more than are kept of one.
    pub more_not_judged: usize,
}

/// Judges one reading; the host's namespace is the first.
#[must_use]
pub fn judge(namespaces: &[Namespace]) -> Judgement {
    let nets = Nets::new(namespaces);
    let mut findings = ports::veths(&nets);
    findings.extend(ports::far_ends(&nets));
    findings.extend(ports::bridges(&nets));
    findings.extend(bucket::small(&nets));
    findings.extend(path::overlays(&nets));
    findings.extend(path::routes(&nets));
    findings.extend(path::pods(&nets));
    let (inner, no_uplink) = inner::inner(&nets);
    let (ipsec, vague) = ipsec::of_policies(&nets);
    findings.extend(inner.into_iter().chain(ipsec).chain(ipv6::off(&nets)));
    let not_judged = unjudged::devices(&nets).into_iter().chain(unjudged::routes(&nets));
    let not_judged = not_judged.chain(no_uplink).chain(vague).collect();
    let (not_judged, more_not_judged) = unjudged::bounded(not_judged, MAX_OF_POD);
    let found = findings.len();
    let mut of_pod: HashMap<String, usize> = HashMap::new();
    findings.retain(|finding| {
        let Some(pod) = &finding.owner else { return true };
        let kept = of_pod.entry(pod.uid.clone()).or_default();
        *kept += 1;
        *kept <= MAX_OF_POD
    });
    let left_out = found - findings.len();
    Judgement { sums: nets.sums, findings, left_out, not_judged, more_not_judged }
}

/// The network of pods of this node alone that an address is in, as far as the reading tells; the host's namespace is the
/// first.
#[must_use]
pub fn subnet_of_pods(namespaces: &[Namespace], address: IpAddr) -> Option<Subnet> {
    Nets::new(namespaces).subnet_of_pods(address)
}

/// Findings, and devices that are not judged, kept of one pod: one with `NET_ADMIN` may make thousands of devices that do not fit.
const MAX_OF_POD: usize = 8;

/// Tunnels in tunnels that are followed: the kernel itself stops at fewer (`XMIT_RECURSION_LIMIT`).
const MAX_NESTED: u32 = 8;
/// Ends of one of the host's tunnels that are looked at.
const MAX_ENDS: usize = 256;
/// The same in a pod, whose own root may make what it likes, and tunnels of one pod that are judged.
const MAX_ENDS_OF_POD: usize = 16;
const MAX_TUNNELS_OF_POD: usize = 64;
/// `RT_TABLE_MAIN`: which rule leads to another table is not read.
const MAIN: u32 = 254;
/// The host's namespace in the reading.
const HOST: usize = 0;

/// The reading, by number.
struct Nets<'a> {
    namespaces: &'a [Namespace],
    by_index: Vec<HashMap<u32, &'a Link>>,
    by_id: HashMap<NetnsId, usize>,
    sums: HashMap<At, Sum>,
}

/// A tunnel, the namespace its outer packets are in, and the ways they may go.
struct Wrapped<'a> {
    at: At,
    tunnel: &'a Tunnel,
    home: usize,
    ways: Vec<Way<'a>>,
}

/// A way that a tunnel's packets go.
struct Way<'a> {
    device: u32,
    route: Option<&'a Route>,
    end: Option<IpAddr>,
    confidence: Confidence,
}

impl<'a> Nets<'a> {
    fn new(namespaces: &'a [Namespace]) -> Self {
        let by_index = namespaces
            .iter()
            .map(|namespace| namespace.links.iter().map(|link| (link.index, link)).collect())
            .collect();
        let ids = namespaces.iter().enumerate().filter_map(|(at, namespace)| Some((namespace.id?, at)));
        let mut nets = Self { namespaces, by_index, by_id: ids.collect(), sums: HashMap::new() };
        nets.add_up();
        nets
    }

    /// Makes the sum of every tunnel, those of tunnels in tunnels from the outermost inwards: what a round finds, the
    /// next one builds on. Tunnels that never settle form a circle; they get no sum.
    fn add_up(&mut self) {
        let wrapped: Vec<Wrapped<'a>> = (0..self.namespaces.len()).flat_map(|at| self.wrapped(at)).collect();
        let mut changed = Vec::new();
        for _ in 0..MAX_NESTED {
            changed.clear();
            for one in &wrapped {
                let sums = one.ways.iter().filter_map(|way| self.sum(one, way));
                if let Some(sum) = sums.min_by_key(|sum| sum.fits)
                    && self.sums.insert(one.at, sum) != Some(sum)
                {
                    changed.push(one.at);
                }
            }
        }
        self.sums.retain(|at, sum| sum.fits > 0 && !changed.contains(at));
    }

    /// The tunnels of one namespace.
    fn wrapped(&self, namespace: usize) -> Vec<Wrapped<'a>> {
        let read = &self.namespaces[namespace];
        let most = if read.owner.is_some() { MAX_TUNNELS_OF_POD } else { usize::MAX };
        let tunnels = read.links.iter().filter_map(|link| Some((link, link.tunnel.as_ref()?)));
        let wrapped = tunnels.take(most).filter_map(|(link, tunnel)| {
            let at = At { namespace, index: link.index };
            let home = self.below(at, link)?;
            Some(Wrapped { at, tunnel, home, ways: self.ways(home, at, link, tunnel) })
        });
        wrapped.collect()
    }

    fn all(&self) -> impl Iterator<Item = (At, &'a Link)> {
        self.namespaces.iter().enumerate().flat_map(|(namespace, read)| {
            read.links.iter().map(move |link| (At { namespace, index: link.index }, link))
        })
    }

    fn link(&self, at: At) -> Option<&'a Link> {
        self.by_index.get(at.namespace)?.get(&at.index).copied()
    }

    /// The namespace that what is below a device is in; `None` if it was not read.
    fn below(&self, at: At, link: &Link) -> Option<usize> {
        link.lower_netns.map_or(Some(at.namespace), |id| self.by_id.get(&id).copied())
    }

    /// The other end of a veth.
    fn peer(&self, at: At, link: &Link) -> Option<(At, &'a Link)> {
        let peer = At { namespace: self.below(at, link)?, index: link.lower? };
        let other = self.link(peer).filter(|other| link.kind == "veth" && other.kind == "veth")?;
        // A number that was not read is no proof: both must name each other.
        (self.below(peer, other) == Some(at.namespace) && other.lower == Some(at.index))
            .then_some((peer, other))
    }

    fn routes(&self, namespace: usize) -> impl Iterator<Item = &'a Route> {
        let routes = self.namespaces.get(namespace).and_then(|namespace| namespace.routes.as_deref());
        routes.unwrap_or_default().iter().filter(|route| route.table == MAIN)
    }

    /// The route to an address, but by another device than `not`. One that is linkdown counts: the kernel takes it.
    fn lookup(&self, namespace: usize, to: IpAddr, not: u32) -> Option<&'a Route> {
        self.routes(namespace)
            .filter(|route| !route.dead && route.device != not && route.destination.contains(&to))
            .max_by_key(|route| (route.destination.prefix_len(), Reverse(route.metric)))
    }

    /// What fits through a device, and the sum that says so if it is a tunnel that is too large.
    fn takes(&self, at: At) -> Option<(u32, Option<Sum>)> {
        let mtu = self.link(at)?.mtu;
        let sum = self.sums.get(&at).filter(|sum| sum.fits < mtu);
        Some((sum.map_or(mtu, |sum| sum.fits), sum.copied()))
    }

    fn sum(&self, of: &Wrapped<'_>, way: &Way<'_>) -> Option<Sum> {
        let added = ipsec::of_device(self, of.home, of.tunnel, way.end);
        self.sum_adding(of, way, &added)
    }

    /// The sum, with what these states of IPsec add if it is of IPsec.
    fn sum_adding(&self, of: &Wrapped<'_>, way: &Way<'_>, added: &[Esp]) -> Option<Sum> {
        let (home, tunnel) = (of.home, of.tunnel);
        let underlay = At { namespace: home, index: way.device };
        // What is down carries nothing, and what it will be when it is up is not known.
        self.link(underlay).filter(|link| link.up)?;
        let (mut takes, nested) = self.takes(underlay)?;
        let mut limit = if nested.is_some() { Limit::Nested } else { Limit::Device };
        let mut confidence = nested.map_or(way.confidence, |sum| sum.confidence.min(way.confidence));
        if let Some(mtu) = way.route.and_then(|route| route.mtu).filter(|mtu| *mtu < takes) {
            (takes, limit, confidence) = (mtu, Limit::Route, way.confidence);
        }
        let learned = self.namespaces.get(home).and_then(|home| home.exceptions.as_deref());
        let learned = learned.unwrap_or_default().iter().filter(|one| Some(one.destination) == way.end);
        if let Some(one) = learned.min_by_key(|one| one.mtu).filter(|one| one.mtu < takes) {
            // Who sends such a message is not proved: it may be forged.
            confidence = way.confidence.min(Confidence::Medium);
            (takes, limit) = (one.mtu, Limit::Path(one.destination));
        }
        let fits = if tunnel.encapsulation.is_ipsec() {
            added.iter().map(|esp| esp.fits(takes)).min()?
        } else {
            takes.saturating_sub(tunnel.overhead(outer_is_v6(tunnel, way.end)))
        };
        Some(Sum { overhead: takes - fits, underlay, takes, limit, fits, confidence })
    }

    /// The ways that a tunnel's packets may go; none where that is not known.
    fn ways(&self, home: usize, at: At, link: &'a Link, tunnel: &'a Tunnel) -> Vec<Way<'a>> {
        let own = if home == at.namespace { at.index } else { 0 };
        let certain =
            |device| vec![Way { device, route: None, end: tunnel.remote, confidence: Confidence::High }];
        if tunnel.encapsulation.is_of_link() {
            return link.lower.map(certain).unwrap_or_default();
        }
        let routed = |end: IpAddr| self.routed(home, end, own);
        if let Some(device) = tunnel.underlay.filter(|device| *device != own) {
            let mut ways = certain(device);
            let route = tunnel.remote.and_then(routed).and_then(|way| way.route);
            ways[0].route = route.filter(|route| route.device == device);
            return ways;
        }
        if tunnel.external {
            return Vec::new();
        }
        if let Some(end) = tunnel.remote {
            return routed(end).into_iter().collect();
        }
        if tunnel.encapsulation == Encapsulation::Wireguard {
            let mut ends: Vec<IpAddr> = link.peers.iter().flatten().copied().flatten().collect();
            ends.sort_unstable();
            ends.dedup();
            return ends.into_iter().filter_map(routed).collect();
        }
        if tunnel.encapsulation == Encapsulation::Xfrm {
            return ipsec::ends(self, home, tunnel).into_iter().filter_map(routed).collect();
        }
        // One with no end of its own goes to the next hop of each route that leads into it.
        let of_pod = self.namespaces[at.namespace].owner.is_some();
        let most = if of_pod { MAX_ENDS_OF_POD } else { MAX_ENDS };
        let v6 = tunnel.encapsulation.outer_is_v6();
        let into = self.routes(at.namespace).filter(|route| route.device == at.index);
        let mut ends: Vec<IpAddr> = into.filter_map(|route| route.gateway).collect();
        ends.retain(|end| v6 == Some(end.is_ipv6()));
        ends.sort_unstable();
        ends.dedup();
        let ways: Vec<Way<'_>> = ends.into_iter().take(most).filter_map(routed).collect();
        if !ways.is_empty() {
            return ways;
        }
        // Where it sends from is on the device that it sends by, if that network is on the link: an address that is kept
        // on a dummy device says nothing of the way.
        let is_sink = |device| self.link(At { namespace: home, index: device }).is_none_or(outward::is_sink);
        let on_link = tunnel.local.and_then(routed);
        let on_link = on_link.filter(|way| way.route.is_some_and(|route| route.gateway.is_none()));
        let on_link = on_link.filter(|way| !is_sink(way.device));
        on_link.map(|way| Way { end: None, ..way }).into_iter().collect()
    }
}

/// The family of the outer header: what the addresses say, if the kind does not.
fn outer_is_v6(tunnel: &Tunnel, end: Option<IpAddr>) -> bool {
    let by_address = || end.or(tunnel.local).is_some_and(|address| address.is_ipv6());
    tunnel.encapsulation.outer_is_v6().unwrap_or_else(by_address)
}
