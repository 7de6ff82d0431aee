//! What was read and is not judged: a program, a switch or a person decides where its packets go, or what they get around
//! them. That it fits is not known, and never said.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::{At, Nets};
use crate::links::{Encapsulation, Link, Namespace, Tunnel};
use crate::pod::Pod;

/// Kinds of devices that pass packets on as they are.
const PLAIN: [&str; 17] = [
    "physical", "loopback", "veth", "bridge", "bond", "team", "vlan", "macvlan", "macvtap", "ipvlan",
    "ipvtap", "vrf", "dummy", "ifb", "nlmon", "vcan", "netkit",
];

/// One thing that is not judged. Names in its texts are raw: whoever prints them escapes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotJudged {
    /// The pod whose namespace it is in; `None` for the host's.
    pub owner: Option<Arc<Pod>>,
    /// The interface, or the policy.
    pub subject: String,
    /// Its kind.
    pub kind: String,
    /// Why, as in `each packet says where it goes`.
    pub why: Cow<'static, str>,
    /// It could be judged, had more been read. Else nothing that is read would do.
    pub unread: bool,
}

impl NotJudged {
    pub(super) fn of(nets: &Nets<'_>, at: At, link: &Link, why: impl Into<Cow<'static, str>>) -> Self {
        let (subject, kind) = (link.name.clone(), link.kind.clone());
        Self { owner: nets.owner(at).cloned(), subject, kind, why: why.into(), unread: false }
    }
}

/// Devices that are not judged, at most `most` of one pod, and how many more there are.
pub(super) fn bounded(all: Vec<NotJudged>, most: usize) -> (Vec<NotJudged>, usize) {
    let (found, mut of_pod) = (all.len(), HashMap::<String, usize>::new());
    let mut kept = all;
    kept.retain(|one| {
        let Some(pod) = &one.owner else { return true };
        let kept = of_pod.entry(pod.uid.clone()).or_default();
        *kept += 1;
        *kept <= most
    });
    let left_out = found - kept.len();
    (kept, left_out)
}

/// Devices that are not judged. What is down carries nothing, and is none of them.
pub(super) fn devices(nets: &Nets<'_>) -> Vec<NotJudged> {
    let carrying = nets.all().filter(|(_, link)| link.up && !link.loopback);
    carrying.flat_map(|(at, link)| reasons(nets, at, link)).collect()
}

/// Routes by nexthop objects whose devices the kernel does not tell with them: one of each namespace stands for all.
pub(super) fn routes(nets: &Nets<'_>) -> Vec<NotJudged> {
    let of_namespace = |(namespace, read): (usize, &Namespace)| {
        let mut blind =
            read.routes.iter().flatten().filter(|route| route.object.is_some() && route.device == 0);
        let first = blind.next()?;
        let more = match blind.count() {
            0 => String::new(),
            more => format!(", nor do {more} more"),
        };
        Some(NotJudged {
            owner: nets.owner(At { namespace, index: 0 }).cloned(),
            subject: first.destination.to_string(),
            kind: "route".to_owned(),
            why: format!(
                "its nexthop object does not tell its device{more} (net.ipv4.nexthop_compat_mode is 0)"
            )
            .into(),
            unread: true,
        })
    };
    nets.namespaces.iter().enumerate().filter_map(of_namespace).collect()
}

fn reasons(nets: &Nets<'_>, at: At, link: &Link) -> Vec<NotJudged> {
    let not = |why: Cow<'static, str>, unread| NotJudged { unread, ..NotJudged::of(nets, at, link, why) };
    let mut reasons = Vec::new();
    let master = link.master.and_then(|index| nets.link(At { index, ..at }));
    if link.kind == "openvswitch" || master.is_some_and(|master| master.kind == "openvswitch") {
        // What its own tunnels do is the switch's affair, too.
        return vec![not("Open vSwitch decides where its packets go".into(), false)];
    }
    if let Some(program) = link.program {
        reasons.push(not(format!("a BPF program ({program}) may send its packets elsewhere").into(), false));
    } else if link.kind == "netkit" {
        reasons.push(not("a BPF program (netkit) may send its packets elsewhere".into(), false));
    }
    if let Some(acts) = link.filter {
        reasons.push(not(format!("a filter (tc) {acts} packets of it").into(), false));
    }
    match &link.tunnel {
        Some(tunnel) => {
            reasons.extend(of_tunnel(nets, at, link, tunnel).map(|(why, unread)| not(why, unread)));
        }
        None if !PLAIN.contains(&link.kind.as_str()) => {
            reasons.push(not(format!("what a device of kind {} adds is not known", link.kind).into(), false));
        }
        None if link.kind == "veth"
            && link.lower.is_some()
            && nets.peer(at, link).is_none()
            && link.far.is_none() =>
        {
            reasons.push(not("its other end is in a network namespace that was not read".into(), false));
        }
        None => {}
    }
    reasons
}

fn of_tunnel(nets: &Nets<'_>, at: At, link: &Link, tunnel: &Tunnel) -> Option<(Cow<'static, str>, bool)> {
    let sum = nets.sums.get(&at);
    let peers = link.peers.as_deref();
    if tunnel.encapsulation == Encapsulation::Wireguard {
        let silent = peers.map(|peers| peers.iter().filter(|peer| peer.is_none()).count());
        match (silent, peers.map(<[_]>::len)) {
            (Some(0), Some(1..)) => {
                let mut ends = peers.into_iter().flatten().flatten();
                let lost = ends.any(|end| nets.routed(at.namespace, *end, at.index).is_none());
                if lost && sum.is_some() {
                    return Some(("the way to one of its peers is not known".into(), false));
                }
            }
            (_, Some(0)) => return Some(("it has no peer".into(), false)),
            (Some(1), _) => return Some(("where one of its peers is is not known yet".into(), false)),
            (Some(some), _) => {
                return Some((format!("where {some} of its peers are is not known yet").into(), false));
            }
            (None, _) => return Some(("its peers were not read".into(), true)),
        }
    }
    if sum.is_some() {
        return None;
    }
    if tunnel.external {
        return Some(("each packet says where it goes".into(), false));
    }
    let Some(home) = nets.below(at, link) else {
        return Some(("what carries it is in a network namespace that was not read".into(), true));
    };
    let read = nets.namespaces.get(home)?;
    if !tunnel.encapsulation.is_of_link() && read.routes.is_none() {
        return Some(("the routes to its end were not read".into(), true));
    }
    if tunnel.encapsulation.is_ipsec() {
        return Some(match &read.ipsec {
            None => ("IPsec states were not read".into(), true),
            Some(_) => ("no IPsec state says what it adds".into(), false),
        });
    }
    let cut = read.fragments.map_or(0, |made| made.v4 + made.v6);
    let evidence = if cut > 0 { format!("; {cut} fragments were made there so far") } else { String::new() };
    Some((format!("the way of its packets is not known{evidence}").into(), false))
}
