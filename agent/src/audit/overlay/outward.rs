//! Which of the host's devices lead to other nodes: those that a route in use sends by, and behind which others can be.
//!
//! Most of a node's devices lead nowhere: a dummy that holds an address (`NodeLocal` DNS, IPVS), a bridge that only
//! containers of this node are on, a tunnel that is down. What fits through those hurts nobody.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{At, HOST, Nets};
use crate::links::{Link, Route, Unread};

/// The host's routes to other nodes, by device.
pub(super) struct Outward<'a>(BTreeMap<u32, Vec<&'a Route>>);

/// What a device leads to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Leads {
    /// Nobody outside of this node.
    Nowhere,
    /// Somebody whose place is not known: others are behind it if a gateway is.
    ToGateway,
    /// A kind of which that is not known: others are behind it if a gateway or a network is.
    ToNetwork,
    /// Others.
    Out,
}

impl<'a> Outward<'a> {
    /// The routes by this device.
    pub(super) fn by(&self, at: At) -> impl Iterator<Item = &'a Route> {
        let routes = self.0.get(&at.index).filter(|_| at.namespace == HOST);
        routes.into_iter().flatten().copied()
    }

    /// The devices.
    pub(super) fn devices(&self) -> impl Iterator<Item = At> {
        self.0.keys().map(|index| At { namespace: HOST, index: *index })
    }
}

/// Whether a network is never behind a router: link-local and multicast, which every device has.
pub(super) fn is_on_link(to: &IpNet) -> bool {
    match to.addr() {
        IpAddr::V4(address) => address.is_link_local() || address.is_multicast(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address.is_multicast(),
    }
}

/// Whether what is sent by a device of this kind goes nowhere.
pub(super) fn is_sink(link: &Link) -> bool {
    link.loopback || matches!(link.kind.as_str(), "dummy" | "ifb" | "nlmon" | "can" | "vcan" | "vxcan")
}

/// A network of this node whose addresses are its pods' alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Its addresses.
    pub network: IpNet,
    /// The bridge that leads to it.
    pub bridge: String,
}

impl<'a> Nets<'a> {
    /// The network that `address` is in, if the host sends to it by a bridge that has pods of the reading on its ports and
    /// nothing else: an uplink, a virtual machine or another container may have addresses that are not known here.
    pub(super) fn subnet_of_pods(&self, address: IpAddr) -> Option<Subnet> {
        let route = self.lookup(HOST, address, 0).filter(|route| route.gateway.is_none())?;
        let network = route.destination;
        let is_all = matches!(network, IpNet::V4(network) if [network.network(), network.broadcast()].map(IpAddr::from).contains(&address));
        if is_all || is_on_link(&network) {
            return None;
        }
        let bridge = self.link(At { namespace: HOST, index: route.device })?;
        let host = self.namespaces.get(HOST)?;
        let mut ports = host.links.iter().filter(|port| port.master == Some(bridge.index)).peekable();
        ports.peek()?;
        let is_pods = |port: &Link| {
            let peer = self.peer(At { namespace: HOST, index: port.index }, port);
            peer.is_some_and(|(at, peer)| {
                let pod = &self.namespaces[at.namespace];
                // A pod may share its device with what is in it: a virtual machine behind a bridge or a macvlan.
                let shares = |link: &Link| link.lower_netns.is_none() && link.lower == Some(at.index);
                pod.owner.is_some() && peer.master.is_none() && !pod.links.iter().any(shares)
            })
        };
        (bridge.kind == "bridge" && !host.unread.iter().any(Unread::is_of_ways) && ports.all(is_pods))
            .then(|| Subnet { network, bridge: bridge.name.clone() })
    }

    /// The host's routes that are in use and lead to other nodes.
    pub(super) fn outward(&self) -> Outward<'a> {
        let carries =
            |index| self.link(At { namespace: HOST, index }).is_some_and(|link| link.up && link.carrier);
        let is_used = |route: &&Route| !route.dead && !route.linkdown && !is_on_link(&route.destination);
        let used: Vec<&Route> =
            self.routes(HOST).filter(is_used).filter(|route| carries(route.device)).collect();
        // Of those to the same network only the ones of the lowest metric: the others wait for those to go.
        let mut lowest: HashMap<IpNet, u32> = HashMap::new();
        for route in &used {
            let metric = lowest.entry(route.destination).or_insert(route.metric);
            *metric = route.metric.min(*metric);
        }
        let mut leads: HashMap<u32, Leads> = HashMap::new();
        let mut by_device: BTreeMap<u32, Vec<&Route>> = BTreeMap::new();
        for route in used.into_iter().filter(|route| lowest.get(&route.destination) == Some(&route.metric)) {
            let at = At { namespace: HOST, index: route.device };
            let leads = *leads.entry(route.device).or_insert_with(|| self.leads(at, &mut HashSet::new()));
            let is_network = route.destination.prefix_len() < route.destination.max_prefix_len();
            let is_out = match leads {
                Leads::Nowhere => false,
                Leads::ToGateway => route.gateway.is_some(),
                Leads::ToNetwork => route.gateway.is_some() || is_network,
                Leads::Out => true,
            };
            if is_out {
                by_device.entry(route.device).or_default().push(route);
            }
        }
        Outward(by_device)
    }

    /// What one of the host's devices leads to. `seen` are those that were looked at before: bridges may be joined in a
    /// circle.
    fn leads(&self, at: At, seen: &mut HashSet<At>) -> Leads {
        let Some(link) = self.link(at).filter(|link| link.up && link.carrier && !is_sink(link)) else {
            return Leads::Nowhere;
        };
        if at.namespace != HOST || !seen.insert(at) {
            return Leads::Nowhere;
        }
        match link.kind.as_str() {
            "physical" => Leads::Out,
            "bridge" | "bond" | "team" => self.ports_lead(at, seen),
            "vlan" | "macsec" | "macvlan" | "macvtap" | "ipvlan" | "ipvtap" => {
                match (self.below(at, link), link.lower) {
                    (Some(HOST), Some(index)) => self.leads(At { namespace: HOST, index }, seen),
                    // It was moved in, as a container's are: what it is on is not to be seen.
                    (None, _) => Leads::Out,
                    (Some(_), _) => Leads::Nowhere,
                }
            }
            "veth" | "netkit" => self.pair_leads(at, link, seen),
            _ if link.tunnel.is_some() => Leads::Out,
            _ => Leads::ToNetwork,
        }
    }

    /// What is behind a device that has ports: containers and virtual machines of this node are not out.
    fn ports_lead(&self, at: At, seen: &mut HashSet<At>) -> Leads {
        let ports = self.namespaces.get(at.namespace).into_iter().flat_map(|namespace| &namespace.links);
        let ports = ports.filter(|port| port.master == Some(at.index));
        let mut leads = ports.map(|port| self.leads(At { index: port.index, ..at }, seen));
        if leads.any(|leads| leads == Leads::Out) { Leads::Out } else { Leads::Nowhere }
    }

    /// What is behind the other end of a pair: a pod of this node is not out, and what is on the host itself is where its
    /// other end is a port.
    fn pair_leads(&self, at: At, link: &Link, seen: &mut HashSet<At>) -> Leads {
        match (self.below(at, link), link.lower) {
            (Some(HOST), Some(index)) => {
                let peer = self.link(At { namespace: HOST, index });
                let master = peer.and_then(|peer| peer.master);
                master.map_or(Leads::Nowhere, |index| self.leads(At { namespace: HOST, index }, seen))
            }
            (Some(_), _) => Leads::Nowhere,
            // A container's, or what a node that is a container itself has to the world.
            (None, _) => Leads::ToGateway,
        }
    }
}
