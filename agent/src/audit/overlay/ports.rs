//! Ends that must agree: a veth's two, a bridge's ports. Where they do not, the smaller frees in silence.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::cure::{lowers, raises};
use super::finding::{Finding, Name, full_name, list, set};
use super::{At, Nets};
use crate::links::Link;
use crate::pod::Pod;
use crate::sink::Confidence;

/// The kernel lets so many bytes more pass: room for a VLAN tag (include/linux/netdevice.h, `__is_skb_forwardable`).
const ROOM: u32 = 4;

fn exceeds(one: u32, other: u32) -> bool {
    one.saturating_sub(other) > ROOM
}

/// Veths with ends of different MTUs, both up.
pub(super) fn veths(nets: &Nets<'_>) -> Vec<Finding> {
    let unequal = nets.all().filter_map(|(at, link)| {
        let (peer_at, peer) = nets.peer(at, link)?;
        if !(link.up && peer.up && exceeds(link.mtu, peer.mtu)) {
            return None;
        }
        let (owner, theirs) = (nets.owner(at), nets.owner(peer_at));
        Some(Finding {
            name: Name::VethUnequal,
            confidence: Confidence::High,
            owner: owner.cloned(),
            interface: link.name.clone(),
            kind: link.kind.clone(),
            interface_mtu: link.mtu,
            promises: link.mtu,
            fits: peer.mtu,
            what: format!(
                "{} has MTU {}; its other end, {}, takes {} bytes and frees what is longer without telling anybody",
                placed(link, owner),
                link.mtu,
                placed(peer, theirs),
                peer.mtu
            ),
            fix: format!(
                "{}; or {}, if all behind it takes that",
                set(&link.name, peer.mtu, owner.map(AsRef::as_ref)),
                set(&peer.name, link.mtu, theirs.map(AsRef::as_ref))
            ),
            fragments: None,
            pods: owner.or(theirs).cloned().into_iter().collect(),
        })
    });
    unequal.collect()
}

/// Bridges with ports of different MTUs, all up; by one without carrier nothing is forwarded.
pub(super) fn bridges(nets: &Nets<'_>) -> Vec<Finding> {
    let mut ports: BTreeMap<At, Vec<(At, &Link)>> = BTreeMap::new();
    for (at, link) in nets.all().filter(|(_, link)| link.up && link.carrier) {
        if let Some(master) = link.master {
            ports.entry(At { index: master, ..at }).or_default().push((at, link));
        }
    }
    ports.into_iter().filter_map(|(at, ports)| bridge(nets, at, ports)).collect()
}

fn bridge<'a>(nets: &Nets<'a>, at: At, mut ports: Vec<(At, &'a Link)>) -> Option<Finding> {
    let bridge = nets.link(at).filter(|bridge| bridge.up && bridge.kind == "bridge")?;
    let (_, least) = ports.iter().copied().min_by_key(|(_, port)| port.mtu)?;
    let smaller = ports.clone();
    // The host itself sends through the bridge as through a port.
    ports.push((at, bridge));
    ports.retain(|(_, port)| exceeds(port.mtu, least.mtu));
    ports.sort_by_key(|(at, port)| (Reverse(port.mtu), *at));
    let (largest_at, largest) = ports.first().copied()?;
    let larger_at: Vec<At> = ports.iter().map(|(at, _)| *at).collect();
    let smaller = smaller.into_iter().filter(|(_, port)| exceeds(largest.mtu, port.mtu));
    let smaller: Vec<At> = smaller.map(|(at, _)| at).collect();
    let owner = nets.owner(largest_at);
    let behind = ports.iter().filter_map(|(at, port)| nets.owner(nets.peer(*at, port)?.0).cloned());
    let mut pods: Vec<Arc<Pod>> = behind.collect();
    pods.sort_unstable();
    pods.dedup();
    let larger = list(ports.iter().map(|(_, port)| format!("{} (MTU {})", port.name, port.mtu)));
    Some(Finding {
        name: Name::BridgePortUnequal,
        confidence: Confidence::High,
        owner: owner.cloned(),
        interface: largest.name.clone(),
        kind: largest.kind.clone(),
        interface_mtu: largest.mtu,
        promises: largest.mtu,
        fits: least.mtu,
        what: format!(
            "port {} of bridge {} takes {} bytes and frees what is longer without telling anybody; larger: {larger}",
            least.name,
            placed(bridge, owner),
            least.mtu
        ),
        fix: format!(
            "{}, and all else that sends through the bridge; or {}, if what is behind takes that",
            lowers(nets, &larger_at, least.mtu),
            raises(nets, &smaller, largest.mtu)
        ),
        fragments: None,
        pods,
    })
}

/// `eth0 of shop/web-0`, or the name alone on the host.
pub(super) fn placed(link: &Link, owner: Option<&Arc<Pod>>) -> String {
    match owner {
        Some(pod) => format!("{} of {}", link.name, full_name(pod)),
        None => link.name.clone(),
    }
}

/// Veths of pods whose other end, in a container there, has another MTU, both up.
pub(super) fn far_ends(nets: &Nets<'_>) -> Vec<Finding> {
    let unequal = nets.all().filter_map(|(at, link)| {
        let (owner, far) = (nets.owner(at)?, link.far.as_ref().filter(|far| far.up && link.up)?);
        if !exceeds(link.mtu, far.mtu) && !exceeds(far.mtu, link.mtu) {
            return None;
        }
        let (near, there) = (placed(link, Some(owner)), format!("{}, in the container behind it,", far.name));
        let (larger, smaller) = (link.mtu.max(far.mtu), link.mtu.min(far.mtu));
        let (first, second, command) = if link.mtu > far.mtu {
            (near, there, set(&link.name, smaller, Some(owner)))
        } else {
            let command = set(&far.name, smaller, None);
            (there, near, format!("{command} (in the container behind {} of {})", link.name, full_name(owner)))
        };
        Some(Finding {
            name: Name::VethUnequal,
            confidence: Confidence::High,
            owner: Some(Arc::clone(owner)),
            interface: link.name.clone(),
            kind: link.kind.clone(),
            interface_mtu: link.mtu,
            promises: larger,
            fits: smaller,
            what: format!(
                "{first} has MTU {larger}; its other end, {second} takes {smaller} bytes and frees what is longer without \
                 telling anybody"
            ),
            fix: command,
            fragments: None,
            pods: vec![Arc::clone(owner)],
        })
    });
    unequal.collect()
}

impl<'a> Nets<'a> {
    /// Fragments that were made in a namespace.
    pub(super) fn fragments(&self, namespace: usize) -> Option<u64> {
        let made = self.namespaces.get(namespace)?.fragments?;
        Some(made.v4.saturating_add(made.v6))
    }

    /// The pod whose namespace a device is in.
    pub(super) fn owner(&self, at: At) -> Option<&'a Arc<Pod>> {
        self.namespaces.get(at.namespace)?.owner.as_ref()
    }
}
