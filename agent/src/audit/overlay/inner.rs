//! Containers in a pod: what is behind its own bridges and veths against the device that leads out of it.

use super::cure::lowers;
use super::finding::{Finding, Name, full_name, list};
use super::unjudged::NotJudged;
use super::{At, HOST, Nets};
use crate::links::Link;
use crate::sink::Confidence;

/// The device that leads out of a pod.
struct Uplink<'a> {
    link: &'a Link,
    takes: u32,
    confidence: Confidence,
}

/// What is too large in pods, and what could not be judged.
pub(super) fn inner(nets: &Nets<'_>) -> (Vec<Finding>, Vec<NotJudged>) {
    let (mut findings, mut not_judged) = (Vec::new(), Vec::new());
    for (namespace, read) in nets.namespaces.iter().enumerate().filter(|(_, read)| read.owner.is_some()) {
        let uplinks = uplinks(nets, namespace);
        let is_uplink = |link: &Link| uplinks.iter().any(|uplink| uplink.link.index == link.index);
        for link in read.links.iter().filter(|link| link.up && !is_uplink(link)) {
            let at = At { namespace, index: link.index };
            let ports: Vec<&Link> =
                read.links.iter().filter(|port| port.up && port.master == Some(link.index)).collect();
            let is_group = match link.kind.as_str() {
                // One that the uplink is a port of is the way out itself.
                "bridge" => !ports.iter().any(|port| is_uplink(port)),
                "veth" => link.master.is_none() && link.lower.is_some() && nets.peer(at, link).is_none(),
                _ => false,
            };
            if !is_group {
                continue;
            }
            match uplinks.iter().min_by_key(|uplink| uplink.takes) {
                Some(uplink) => findings.extend(too_large(nets, at, link, &ports, uplink)),
                None => not_judged.push(NotJudged::of(nets, at, link, "no route leads out of its pod")),
            }
        }
    }
    (findings, not_judged)
}

/// The devices of the default routes, or of any gateway; where no route was read, those with their other end on the host.
fn uplinks<'a>(nets: &Nets<'a>, namespace: usize) -> Vec<Uplink<'a>> {
    let takes = |index: u32, route: Option<u32>, confidence| {
        let at = At { namespace, index };
        let link = nets.link(at).filter(|link| link.up && !link.loopback)?;
        let (takes, _) = nets.takes(at)?;
        Some(Uplink { link, takes: route.map_or(takes, |route| route.min(takes)), confidence })
    };
    let used = || nets.routes(namespace).filter(|route| !route.dead);
    let leading = |is_out: fn(&crate::links::Route) -> bool| {
        let out = used().filter(|route| is_out(route));
        out.filter_map(|route| takes(route.device, route.mtu, Confidence::Medium)).collect::<Vec<_>>()
    };
    let mut uplinks = leading(|route| route.destination.prefix_len() == 0);
    if uplinks.is_empty() {
        uplinks = leading(|route| route.gateway.is_some());
    }
    let is_read = nets.namespaces.get(namespace).is_some_and(|read| read.routes.is_some());
    if uplinks.is_empty() {
        let confidence = if is_read { Confidence::Medium } else { Confidence::Low };
        let here = nets.all().filter(|(at, _)| at.namespace == namespace);
        let to_host =
            here.filter(|(at, link)| nets.peer(*at, link).is_some_and(|(peer, _)| peer.namespace == HOST));
        uplinks.extend(to_host.filter_map(|(at, _)| takes(at.index, None, confidence)));
    }
    uplinks
}

fn too_large(nets: &Nets<'_>, at: At, link: &Link, ports: &[&Link], uplink: &Uplink<'_>) -> Option<Finding> {
    let owner = nets.owner(at)?;
    let own = std::iter::once(link).chain(ports.iter().copied());
    let mut larger: Vec<(String, u32)> = Vec::new();
    let devices: Vec<At> = own.clone().map(|one| At { index: one.index, ..at }).collect();
    for one in own.filter(|one| one.mtu > uplink.takes) {
        larger.push((one.name.clone(), one.mtu));
    }
    for (near, far) in
        std::iter::once(link).chain(ports.iter().copied()).filter_map(|one| Some((one, one.far.as_ref()?)))
    {
        if far.up && far.mtu > uplink.takes {
            larger.push((format!("{} behind {}", far.name, near.name), far.mtu));
        }
    }
    let most = larger.iter().map(|(_, mtu)| *mtu).max()?;
    let fix = lowers(nets, &devices, uplink.takes);
    let name = full_name(owner);
    Some(Finding {
        name: Name::InnerLargerThanUplink,
        confidence: uplink.confidence,
        owner: Some(owner.clone()),
        interface: link.name.clone(),
        kind: link.kind.clone(),
        interface_mtu: link.mtu,
        promises: most,
        fits: uplink.takes,
        what: format!(
            "in {name} {} take up to {most} bytes, but only {} fit through {}, which leads out of it; who answers from outside \
             sends as much, and often is not told",
            list(
                larger
                    .iter()
                    .map(|(name, mtu)| format!("{name} (MTU {mtu})"))
                    .collect::<Vec<_>>()
                    .into_iter()
            ),
            uplink.takes,
            uplink.link.name
        ),
        fix: format!(
            "{fix}; docker sets it for containers to come: dockerd --mtu {}; or clamp the MSS: `for i in iptables \
             ip6tables; do $i -t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu; done` (in \
             {name})",
            uplink.takes
        ),
        fragments: None,
        pods: vec![owner.clone()],
    })
}
