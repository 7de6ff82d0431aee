//! IPv6 where no packet of it may be: the kernel takes IPv6 off a device whose MTU is less than its least.

use super::finding::{Finding, Name, full_name, set};
use super::outward::{is_on_link, is_sink};
use super::{At, HOST, Nets};
use crate::links::{Link, Route};
use crate::sink::Confidence;

/// `IPV6_MIN_MTU`: bytes that every link of IPv6 must take.
pub(super) const LEAST: u32 = 1280;

/// Devices that are too small for IPv6, where the namespace has IPv6 elsewhere, or other pods have it.
pub(super) fn off(nets: &Nets<'_>) -> Vec<Finding> {
    let is_ipv6 =
        |route: &&Route| route.destination.addr().is_ipv6() && !route.dead && !is_on_link(&route.destination);
    let has: Vec<bool> = (0..nets.namespaces.len())
        .map(|namespace| nets.routes(namespace).any(|route| is_ipv6(&route)))
        .collect();
    let of_pods = |not: usize| (0..has.len()).any(|at| at != HOST && at != not && has[at]);
    let small = nets.all().filter(|(at, link)| {
        let expected = has[at.namespace] || at.namespace != HOST && of_pods(at.namespace);
        expected && is_small(nets, *at, link)
    });
    small.map(|(at, link)| finding(nets, at, link, has[at.namespace])).collect()
}

/// Whether a device carries routed packets, and is too small for IPv6. Of a pod's veth the pod's end is told.
fn is_small(nets: &Nets<'_>, at: At, link: &Link) -> bool {
    let carries = |route: &Route| route.device == at.index && !route.dead;
    let is_told =
        |(peer, other): (At, &Link)| at.namespace == HOST && peer.namespace != HOST && other.mtu < LEAST;
    link.mtu < LEAST
        && link.up
        && !is_sink(link)
        && link.master.is_none()
        && nets.routes(at.namespace).any(carries)
        && !nets.peer(at, link).is_some_and(is_told)
}

fn finding(nets: &Nets<'_>, at: At, link: &Link, has: bool) -> Finding {
    let owner = nets.owner(at);
    let whose = match (owner, has) {
        (None, _) => "the host has".to_owned(),
        (Some(pod), true) => format!("{} has", full_name(pod)),
        (Some(_), false) => "other pods have".to_owned(),
    };
    let own = set(&link.name, LEAST, owner.map(AsRef::as_ref));
    let sum = nets.sums.get(&at).filter(|sum| sum.fits < LEAST);
    let lower = sum.and_then(|sum| Some((sum, nets.link(sum.underlay)?)));
    let fix = match lower {
        Some((sum, lower)) => format!(
            "raise {} to {} if all behind it takes that, then {own}",
            lower.name,
            LEAST.saturating_add(sum.overhead)
        ),
        None => format!("{own}, if all behind it takes that"),
    };
    Finding {
        name: Name::Ipv6Off,
        confidence: Confidence::Medium,
        owner: owner.cloned(),
        interface: link.name.clone(),
        kind: link.kind.clone(),
        interface_mtu: link.mtu,
        promises: LEAST,
        fits: link.mtu,
        what: format!(
            "{} takes {} bytes, and IPv6, which {whose}, needs {LEAST}: the kernel has turned IPv6 off on it",
            link.name, link.mtu
        ),
        fix: format!("{fix}; its IPv6 addresses and routes are gone, and must be set again"),
        fragments: None,
        pods: owner.cloned().into_iter().collect(),
    }
}
