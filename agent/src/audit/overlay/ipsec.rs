//! What IPsec adds: states of a tunnel device, and policies of the host that wrap what pods send.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::cure::{self, Promises};
use super::finding::{Finding, Name, full_name};
use super::path::{Home, Sent, homes, in_order};
use super::unjudged::NotJudged;
use super::{At, HOST, Nets, Sum, Way, Wrapped};
use crate::links::{Encapsulation, Esp, Policy, State, Tunnel};
use crate::sink::Confidence;

/// What a tunnel device's states add to packets to this end; none where one of them is not known.
pub(super) fn of_device(nets: &Nets<'_>, home: usize, tunnel: &Tunnel, end: Option<IpAddr>) -> Vec<Esp> {
    let is_its = |state: &&State| {
        Some(state.peer) == end
            && (tunnel.local.is_none() || state.local == tunnel.local)
            && match tunnel.encapsulation {
                Encapsulation::Xfrm => state.if_id == tunnel.key,
                _ => tunnel.key & state.mark.1 == state.mark.0,
            }
    };
    known(states(nets, home).iter().filter(is_its))
}

fn states<'a>(nets: &Nets<'a>, home: usize) -> &'a [State] {
    let ipsec = nets.namespaces.get(home).and_then(|read| read.ipsec.as_ref());
    ipsec.map_or(&[], |ipsec| &ipsec.states)
}

/// The policies that wrap.
fn policies<'a>(nets: &Nets<'a>, home: usize) -> impl Iterator<Item = &'a Policy> {
    let ipsec = nets.namespaces.get(home).and_then(|read| read.ipsec.as_ref());
    let all = ipsec.map_or(&[][..], |ipsec| &ipsec.policies);
    all.iter().filter(|policy| policy.wraps)
}

/// Where an xfrm device's policies send to.
pub(super) fn ends(nets: &Nets<'_>, home: usize, tunnel: &Tunnel) -> Vec<IpAddr> {
    let own = policies(nets, home).filter(|policy| policy.is_tunnel && policy.if_id == tunnel.key);
    let mut ends: Vec<IpAddr> = own.filter_map(|policy| policy.peer).collect();
    ends.sort_unstable();
    ends.dedup();
    ends
}

/// All of what these add, or nothing.
fn known<'a>(states: impl Iterator<Item = &'a State>) -> Vec<Esp> {
    states.map(|state| state.esp).collect::<Option<Vec<Esp>>>().unwrap_or_default()
}

/// What a policy comes to.
fn sum(nets: &Nets<'_>, policy: &Policy) -> Result<Sum, &'static str> {
    let peer = policy.peer.filter(|_| policy.is_tunnel).ok_or("it is not one ESP tunnel to one peer")?;
    let ipsec = nets.namespaces.get(HOST).and_then(|host| host.ipsec.as_ref());
    let added = known(ipsec.into_iter().flat_map(|ipsec| ipsec.states_of(policy)));
    if added.is_empty() {
        return Err("no IPsec state says what it adds");
    }
    let way = nets.routed(HOST, peer, 0).ok_or("the way to its peer is not known")?;
    let tunnel = Tunnel { key: policy.if_id, ..Tunnel::plain(Encapsulation::Xfrm) };
    let at = At { namespace: HOST, index: 0 };
    let of = Wrapped { at, tunnel: &tunnel, home: HOST, ways: Vec::new() };
    nets.sum_adding(&of, &way, &added).ok_or("what carries it is down, or takes too little")
}

/// A policy by which what pods send is too large.
struct Narrow<'a, 'h> {
    policy: &'a Policy,
    sum: Sum,
    hurt: Vec<(&'h Home<'a>, Sent<'a>)>,
}

/// Pods that send larger packets than fit by the host's policies, one finding a device; and what is not judged.
pub(super) fn of_policies(nets: &Nets<'_>) -> (Vec<Finding>, Vec<NotJudged>) {
    let homes: Vec<Home<'_>> = homes(nets).collect();
    let (mut by_device, mut not_judged) = (BTreeMap::<At, Vec<Narrow<'_, '_>>>::new(), Vec::new());
    for (namespace, read) in nets.namespaces.iter().enumerate() {
        // What is of a tunnel device is judged with the device.
        let is_of_vti = |policy: &Policy| {
            let (value, mask) = policy.mark;
            let vti =
                |tunnel: Tunnel| matches!(tunnel.encapsulation, Encapsulation::Vti | Encapsulation::Vti6);
            let keys = read.links.iter().filter_map(|link| link.tunnel.filter(|tunnel| vti(*tunnel)));
            mask != 0 && keys.into_iter().any(|tunnel| tunnel.key & mask == value)
        };
        let alone = policies(nets, namespace).filter(|policy| policy.if_id == 0 && !is_of_vti(policy));
        for policy in alone {
            let mut not = |why: &'static str| {
                not_judged.push(NotJudged {
                    owner: read.owner.clone(),
                    subject: format!("IPsec policy to {}", policy.destination),
                    kind: "ipsec".to_owned(),
                    why: why.into(),
                    unread: false,
                });
            };
            if namespace != HOST {
                not("it is a pod's own");
                continue;
            }
            let sum = match sum(nets, policy) {
                Ok(sum) => sum,
                Err(why) => {
                    not(why);
                    continue;
                }
            };
            let sent = homes.iter().filter(|home| home.is_in(&policy.source)).filter_map(|home| {
                let sent = home.sends(nets, policy.destination.addr())?;
                (sent.mtu > sum.fits).then_some((home, sent))
            });
            let hurt: Vec<_> = sent.collect();
            if !hurt.is_empty() {
                by_device.entry(sum.underlay).or_default().push(Narrow { policy, sum, hurt });
            }
        }
    }
    let worst = by_device.into_values().filter_map(|narrow| finding(nets, narrow));
    (worst.collect(), not_judged)
}

fn finding(nets: &Nets<'_>, narrow: Vec<Narrow<'_, '_>>) -> Option<Finding> {
    let all = || narrow.iter().flat_map(|one| one.hurt.iter());
    let pods = in_order(all().map(|(home, _)| *home));
    // What fits by the narrowest fits by all.
    let mut routes: Vec<(&Home<'_>, Vec<_>)> =
        all().map(|(home, sent)| (*home, sent.route.into_iter().collect())).collect();
    routes.sort_by_key(|(home, _)| (home.pod.clone(), home.link.index));
    let Narrow { policy, sum, hurt } = narrow.into_iter().min_by_key(|one| one.sum.fits)?;
    let (first, Sent { mtu, .. }) =
        *hurt.iter().min_by_key(|(home, ..)| (home.pod.clone(), home.link.index))?;
    let link = nets.link(sum.underlay)?;
    let least = hurt.iter().map(|(_, sent)| sent.confidence).min()?;
    Some(Finding {
        name: Name::PodLargerThanIpsec,
        confidence: least.min(sum.confidence),
        owner: Some(first.pod.clone()),
        interface: first.link.name.clone(),
        kind: first.link.kind.clone(),
        interface_mtu: first.link.mtu,
        promises: mtu,
        fits: sum.fits,
        what: format!(
            "{} of {} sends packets of up to {mtu} bytes, but ESP adds {} on the way to {}, which takes {} bytes by {}: only {} fit",
            first.link.name,
            full_name(&first.pod),
            sum.overhead,
            policy.destination,
            sum.takes,
            link.name,
            sum.fits
        ),
        fix: cure::pods(nets, &routes, sum.fits, &Promises::new()),
        fragments: None,
        pods,
    })
}

impl<'a> Nets<'a> {
    /// The way of packets to an address, but by another device than `not`.
    pub(super) fn routed(&self, home: usize, end: IpAddr, not: u32) -> Option<Way<'a>> {
        let route = self.lookup(home, end, not)?;
        Some(Way { device: route.device, route: Some(route), end: Some(end), confidence: Confidence::Medium })
    }
}
