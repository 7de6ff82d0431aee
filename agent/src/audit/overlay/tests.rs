//! Readings made by hand: what no test can make a kernel show, and what must not be said.

use std::sync::Arc;

use super::finding::quoted;
use super::*;
use crate::links::{NetnsId, Tunnel, Unread};
use crate::pod::Pod;
use crate::sink::Confidence;

mod cure;
mod edges;
mod gaps;
mod inside;
mod outward;
mod ways;

fn tunnel(encapsulation: Encapsulation) -> Tunnel {
    Tunnel::plain(encapsulation)
}

fn over(link: Link, tunnel: Tunnel) -> Link {
    Link { tunnel: Some(tunnel), ..link }
}

fn route(to: &str, device: u32, gateway: Option<&str>) -> Route {
    Route {
        destination: to.parse().unwrap(),
        device,
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        table: MAIN,
        metric: 0,
        mtu: None,
        advmss: None,
        expires: false,
        object: None,
        dead: false,
        linkdown: false,
    }
}

fn host(links: Vec<Link>, routes: Vec<Route>) -> Namespace {
    let id = Some(NetnsId(0));
    Namespace { id, links, routes: Some(routes), exceptions: Some(Vec::new()), ..Namespace::default() }
}

/// A pod whose `eth0` is the other end of the host's device `near`.
fn pod(number: i32, near: u32, mtu: u32) -> Namespace {
    let name = format!("p{number}");
    let eth0 = Link { lower: Some(near), lower_netns: Some(NetnsId(0)), ..Link::up(2, "eth0", "veth", mtu) };
    Namespace {
        owner: Some(Arc::new(Pod { namespace: "shop".to_owned(), uid: name.clone(), name })),
        id: Some(NetnsId(number)),
        links: vec![eth0],
        routes: Some(vec![route("0.0.0.0/0", 2, Some("169.254.1.1")), route("::/0", 2, Some("fe80::1"))]),
        ..Namespace::default()
    }
}

/// The host's end of pod `number`'s veth.
fn near(index: u32, number: i32, mtu: u32) -> Link {
    Link {
        lower: Some(2),
        lower_netns: Some(NetnsId(number)),
        ..Link::up(index, &format!("cali{number}"), "veth", mtu)
    }
}

fn told(read: &[Namespace]) -> Vec<(&'static str, String, u32, Confidence)> {
    let findings = judge(read).findings.into_iter();
    findings.map(|found| (found.name.name(), found.interface, found.fits, found.confidence)).collect()
}

/// A Calico node by IPIP: `tunl0` has no end, routes to the pods have no network in common but the cluster's.
fn calico(tunnel_mtu: u32, pod_mtu: u32) -> Vec<Namespace> {
    vec![
        host(
            vec![
                Link::up(1, "eth0", "physical", 1500),
                over(Link::up(2, "tunl0", "ipip", tunnel_mtu), tunnel(Encapsulation::Ipip)),
                near(3, 1, pod_mtu),
                near(4, 2, pod_mtu),
            ],
            vec![
                route("0.0.0.0/0", 1, Some("192.168.1.1")),
                route("192.168.1.0/24", 1, None),
                route("10.42.1.5/32", 3, None),
                route("10.42.1.6/32", 4, None),
                route("10.42.77.0/26", 2, Some("192.168.1.5")),
                route("10.42.78.0/26", 2, Some("192.168.1.6")),
            ],
        ),
        pod(1, 3, pod_mtu),
        pod(2, 4, pod_mtu),
    ]
}

#[test]
fn a_node_that_fits_is_quiet() {
    assert!(told(&calico(1480, 1480)).is_empty());
    let sums = judge(&calico(1480, 1480)).sums;
    let sum = sums[&At { namespace: 0, index: 2 }];
    assert_eq!((sum.fits, sum.underlay.index, sum.confidence), (1480, 1, Confidence::Medium));
}

#[test]
fn a_tunnel_with_no_end_is_judged_by_its_next_hops() {
    let wanted = [("overlay_too_large", "tunl0".to_owned(), 1480, Confidence::Medium)];
    assert_eq!(told(&calico(1500, 1480)), wanted);
    let found = &judge(&calico(1500, 1480)).findings[0];
    assert_eq!(found.pods.len(), 2, "both send through it");
    assert!(found.fix.contains("ip link set tunl0 mtu 1480") && found.fix.contains("calicoNetwork.mtu"));
}

#[test]
fn the_narrowest_learned_path_counts() {
    let mut read = calico(1480, 1480);
    let learned = |last: u8, mtu| crate::links::Exception {
        destination: [192, 168, 1, last].into(),
        device: 1,
        mtu,
        expires: None,
    };
    read[0].exceptions = Some(vec![learned(9, 1300), learned(6, 1400)]);
    let judged = judge(&read);
    assert_eq!(judged.findings[0].fits, 1380, "192.168.1.9 is no end of it");
    assert!(judged.findings[0].what.contains("the path to 192.168.1.6 by eth0 is known to take 1400"));
}

#[test]
fn pods_larger_than_their_way() {
    let wanted = [("pod_larger_than_path", "eth0".to_owned(), 1480, Confidence::Medium)];
    assert_eq!(told(&calico(1480, 1500)), wanted);
    let mut read = calico(1480, 1500);
    assert_eq!(judge(&read).findings[0].pods.len(), 2);
    // One whose own route promises less is not hurt.
    let routes = read[1].routes.as_mut().unwrap();
    routes[0].mtu = Some(1450);
    assert_eq!(judge(&read).findings[0].pods.len(), 1);
    // One whose routes could not be read may have such a one.
    read[2].routes = None;
    read[2].unread = vec![Unread { what: "routes", why: "needs CAP_SYS_ADMIN".to_owned() }];
    assert_eq!(told(&read)[0].3, Confidence::Low);
}

#[test]
fn a_tunnel_that_leads_elsewhere_is_no_way_of_pods() {
    let mut read = calico(1480, 1500);
    read[0].routes.as_mut().unwrap().retain(|route| route.device != 2);
    // An operator's VPN.
    read[0].links.push(over(Link::up(9, "wg0", "wireguard", 1420), tunnel(Encapsulation::Wireguard)));
    read[0].routes.as_mut().unwrap().push(route("10.200.0.0/16", 9, None));
    assert!(told(&read).is_empty(), "{:?}", told(&read));
}

#[test]
fn ways_of_ipv6_are_ways_too() {
    let mut read = calico(1480, 1500);
    let routes = read[0].routes.as_mut().unwrap();
    routes.retain(|route| route.device != 2);
    routes.push(route("fd00:10:244:1::5/128", 3, None));
    read[0].links.push(Link { mtu: 1400, ..Link::up(9, "eth1", "physical", 1400) });
    read[0].routes.as_mut().unwrap().push(route("fd00:10:244:2::/64", 9, Some("fe80::9")));
    let found = judge(&read).findings;
    assert_eq!((found.len(), found[0].fits, found[0].pods.len()), (1, 1400, 1));
    read[0].routes.as_mut().unwrap().last_mut().unwrap().destination = "fd00:99::/64".parse().unwrap();
    assert!(told(&read).is_empty());
}

#[test]
fn what_is_not_known_is_not_judged() {
    let eth0 = || Link::up(1, "eth0", "physical", 1400);
    let external = Tunnel { external: true, ..tunnel(Encapsulation::Vxlan) };
    let to = |remote: &str| Tunnel { remote: Some(remote.parse().unwrap()), ..tunnel(Encapsulation::Vxlan) };
    for tunnel in [external, tunnel(Encapsulation::Vxlan), to("10.9.9.9"), to("239.1.1.1")] {
        let read = [host(vec![eth0(), over(Link::up(2, "v", "vxlan", 1500), tunnel)], Vec::new())];
        assert!(told(&read).is_empty(), "{tunnel:?}");
    }
    let on = Tunnel { underlay: Some(1), ..tunnel(Encapsulation::Vxlan) };
    let vxlan = || over(Link::up(2, "v", "vxlan", 1500), on);
    assert_eq!(told(&[host(vec![eth0(), vxlan()], Vec::new())]).len(), 1);
    let down = |link: Link| Link { up: false, ..link };
    assert!(told(&[host(vec![down(eth0()), vxlan()], Vec::new())]).is_empty());
    assert!(told(&[host(vec![eth0(), down(vxlan())], Vec::new())]).is_empty());
    // Made in a namespace that was not read.
    let far = Link { lower_netns: Some(NetnsId(77)), ..vxlan() };
    assert!(told(&[host(vec![eth0(), far], Vec::new())]).is_empty());
}

#[test]
fn of_tunnels_in_a_circle_nothing_is_said() {
    let on = |underlay| Tunnel { underlay: Some(underlay), ..tunnel(Encapsulation::Ipip) };
    let read = [host(
        vec![over(Link::up(1, "a", "ipip", 1480), on(2)), over(Link::up(2, "b", "ipip", 1480), on(1))],
        Vec::new(),
    )];
    let judged = judge(&read);
    assert!(judged.sums.is_empty() && judged.findings.is_empty(), "{judged:#?}");
}

/// Each of sixteen tunnels may lead into each other: gone through one by one, that would take for ever.
#[test]
fn tunnels_that_lead_into_each_other_end_soon() {
    let ends = || 1_u8..=16;
    let tunnels =
        ends().map(|n| over(Link::up(n.into(), &format!("t{n}"), "ipip", 1480), tunnel(Encapsulation::Ipip)));
    let routes = ends()
        .flat_map(|n| ends().map(move |end| route("10.9.0.0/16", n.into(), Some(&format!("10.{end}.0.1")))));
    let to_ends = ends().map(|end| route(&format!("10.{end}.0.0/24"), end.into(), None));
    let read = Namespace {
        owner: pod(1, 3, 1500).owner,
        ..host(tunnels.collect(), routes.chain(to_ends).collect())
    };
    assert!(judge(&[host(Vec::new(), Vec::new()), read]).findings.is_empty());
}

#[test]
fn a_number_that_only_looks_like_the_other_end_is_none() {
    let mut read = vec![host(vec![near(3, 1, 1400)], Vec::new()), pod(1, 3, 1500)];
    assert_eq!(told(&read), [("veth_unequal", "eth0".to_owned(), 1400, Confidence::High)]);
    read[0].links[0].lower = Some(9);
    assert!(told(&read).is_empty());
}

#[test]
fn one_pod_cannot_fill_the_list() {
    let mut noisy = pod(1, 3, 1500);
    let on = Tunnel { underlay: Some(2), ..tunnel(Encapsulation::Vxlan) };
    noisy
        .links
        .extend((100..600).map(|index| over(Link::up(index, &format!("v{index}"), "vxlan", 1500), on)));
    let judged = judge(&[host(vec![near(3, 1, 1500)], Vec::new()), noisy]);
    assert_eq!((judged.findings.len(), judged.left_out), (MAX_OF_POD, MAX_TUNNELS_OF_POD - MAX_OF_POD));
}

#[test]
fn a_command_is_one_that_can_be_pasted() {
    assert_eq!(quoted("flannel.1"), "flannel.1");
    assert_eq!(quoted("$(reboot)"), "dev '$(reboot)'");
    assert_eq!(quoted("-x"), "dev '-x'");
    assert_eq!(quoted("a'b"), r"dev 'a'\''b'");
}
