//! What is inside pods, IPv6 and IPsec, each just at what decides.

use super::gaps::{GCM, docker, policy, state, why};
use super::*;
use crate::links::{Ipsec, Policy, State};

fn eth0() -> Link {
    Link::up(1, "eth0", "physical", 1500)
}

/// Interfaces that something of this name is said of, and what fits.
fn named(read: &[Namespace], name: &str) -> Vec<(String, u32)> {
    let told = told(read).into_iter().filter(|one| one.0 == name);
    told.map(|(_, interface, fits, _)| (interface, fits)).collect()
}

fn off(read: &[Namespace]) -> Vec<(String, u32)> {
    named(read, "ipv6_off")
}

fn v4_only(mut pod: Namespace) -> Namespace {
    pod.routes.as_mut().unwrap().pop();
    pod
}

#[test]
fn ipv6_is_expected_only_where_somebody_like_it_has_it() {
    let v4 = || route("10.98.0.0/24", 1, None);
    let small = || vec![Link { mtu: 1000, ..eth0() }];
    // No pod has it, nor has the host.
    let nowhere =
        [host(vec![near(3, 1, 1200)], Vec::new()), v4_only(pod(1, 3, 1200)), v4_only(pod(2, 4, 1500))];
    assert!(off(&nowhere).is_empty(), "{:?}", told(&nowhere));
    // That pods have it is no reason for the host.
    assert!(off(&[host(small(), vec![v4()]), pod(1, 3, 1500)]).is_empty());
    assert_eq!(off(&[host(small(), vec![v4()]), pod(1, 3, 1000)]), [("eth0".to_owned(), 1000)], "the pod's");
    // The host's is none for pods.
    let of_host = host(small(), vec![v4(), route("fd99::/64", 1, None)]);
    assert_eq!(off(&[of_host, v4_only(pod(1, 3, 1000))]), [("eth0".to_owned(), 1000)], "the host's");
    let dead = Route { dead: true, ..route("fd99::/64", 1, None) };
    assert!(off(&[host(small(), vec![v4(), dead])]).is_empty());
}

#[test]
fn ipv6_needs_1280_bytes_and_no_more() {
    let read = |mtu| {
        let routes = vec![route("10.98.0.0/24", 1, None), route("fd99::/64", 1, None)];
        [host(vec![Link { mtu, ..eth0() }], routes)]
    };
    assert_eq!(off(&read(1279)), [("eth0".to_owned(), 1279)]);
    assert!(off(&read(1280)).is_empty());
    let [mut port] = read(1279);
    port.links[0].master = Some(9);
    assert!(off(&[port]).is_empty(), "a port has no addresses");
    let [mut down] = read(1279);
    down.links[0].up = false;
    assert!(off(&[down]).is_empty());
}

/// Of a veth the pod's end is told, since that is set first; the host's alone if only that is too small.
#[test]
fn of_a_veth_too_small_for_ipv6_one_end_is_told() {
    let read = |of_host, of_pod| {
        let routes = vec![route("fd99::/64", 1, None), route("10.42.1.5/32", 3, None)];
        [host(vec![eth0(), near(3, 1, of_host)], routes), pod(1, 3, of_pod)]
    };
    assert_eq!(off(&read(1279, 1279)), [("eth0".to_owned(), 1279)]);
    assert_eq!(off(&read(1279, 1280)), [("cali1".to_owned(), 1279)]);
    assert_eq!(off(&read(1280, 1279)), [("eth0".to_owned(), 1279)]);
    // Both ends on the host are the host's.
    let pair = |index, other| Link { lower: Some(other), ..Link::up(index, "p", "veth", 1000) };
    let routes =
        vec![route("fd99::/64", 1, None), route("10.1.0.0/24", 5, None), route("10.2.0.0/24", 6, None)];
    assert_eq!(off(&[host(vec![eth0(), pair(5, 6), pair(6, 5)], routes)]).len(), 2);
}

#[test]
fn what_carries_a_tunnel_is_raised_first_only_where_it_takes_too_little() {
    let on = Tunnel { underlay: Some(1), ..tunnel(Encapsulation::Vxlan) };
    let fix = |lower| {
        let v = over(Link::up(2, "v", "vxlan", 1250), on);
        let routes = vec![route("fd99::/64", 1, None), route("10.98.0.0/24", 2, None)];
        let read = [host(vec![Link { mtu: lower, ..eth0() }, v], routes)];
        judge(&read).findings.into_iter().find(|found| found.name == Name::Ipv6Off).unwrap().fix
    };
    let end = "; its IPv6 addresses and routes are gone, and must be set again";
    assert_eq!(fix(1330), format!("ip link set v mtu 1280, if all behind it takes that{end}"));
    let raised = "raise eth0 to 1330 if all behind it takes that, then ip link set v mtu 1280";
    assert_eq!(fix(1329), format!("{raised}{end}"));
}

#[test]
fn a_containers_veth_without_a_bridge_is_judged_by_the_uplink() {
    let inner = |read: &[Namespace]| named(read, "inner_larger_than_uplink");
    let mut read = docker(1450, 1500, 1500);
    read[1].links[2].master = None;
    assert_eq!(inner(&read), [("vjob".to_owned(), 1450)]);
    // A port is judged with its bridge; what is down carries nothing.
    assert_eq!(inner(&docker(1450, 1500, 1500)), [("docker0".to_owned(), 1450)]);
    let mut down = docker(1500, 1450, 1450);
    down[1].links[1].up = false;
    assert!(inner(&down).is_empty());
    read[1].links[2].up = false;
    assert!(inner(&read).is_empty());
}

#[test]
fn a_device_that_is_down_leads_out_of_no_pod() {
    let mut read = docker(1450, 1450, 1450);
    let narrow = |index| Link::up(index, "net1", "macvlan", 1400);
    read[1].links.push(Link { up: false, ..narrow(8) });
    read[1].routes = Some(vec![route("0.0.0.0/0", 8, None)]);
    assert!(named(&read, "inner_larger_than_uplink").is_empty());
    read[1].links[3] = Link { loopback: true, ..narrow(8) };
    assert!(named(&read, "inner_larger_than_uplink").is_empty());
    read[1].links[3] = narrow(8);
    assert_eq!(named(&read, "inner_larger_than_uplink"), [("docker0".to_owned(), 1400)]);
}

/// A tunnel of IPsec, and the one state there is.
fn tunnelled(encapsulation: Encapsulation, key: u32, state: State, policies: Vec<Policy>) -> [Namespace; 1] {
    let remote = Some([192, 168, 1, 5].into()).filter(|_| encapsulation != Encapsulation::Xfrm);
    let tunnel = Tunnel { local: Some([192, 168, 1, 1].into()), remote, key, ..tunnel(encapsulation) };
    let t0 = over(Link::up(2, "t0", "t", 1480), tunnel);
    let mut host = host(vec![eth0(), t0], vec![route("192.168.1.0/24", 1, None)]);
    host.ipsec = Some(Ipsec { policies, states: vec![state], cut: false });
    [host]
}

#[test]
fn a_state_of_another_end_key_or_number_adds_nothing() {
    let peer = "192.168.1.5";
    let none = ["no IPsec state says what it adds"];
    let marked = |peer| State { mark: (7, u32::MAX), ..state(peer, Some(GCM)) };
    let vti = |state| why(&tunnelled(Encapsulation::Vti, 7, state, Vec::new()), "t0");
    assert!(vti(marked(peer)).is_empty());
    assert_eq!(vti(marked("192.168.1.9")), none);
    assert_eq!(vti(State { local: Some([192, 168, 1, 2].into()), ..marked(peer) }), none);
    assert_eq!(vti(State { mark: (6, u32::MAX), ..marked(peer) }), none);
    assert!(vti(State { mark: (1, 1), ..marked(peer) }).is_empty(), "of what the mask leaves");
    let numbered = |if_id| State { if_id, ..state(peer, Some(GCM)) };
    let to = |if_id, is_tunnel| Policy { is_tunnel, if_id, ..policy(peer) };
    let xfrm = |state, policy| why(&tunnelled(Encapsulation::Xfrm, 9, state, vec![policy]), "t0");
    assert!(xfrm(numbered(9), to(9, true)).is_empty());
    assert_eq!(xfrm(numbered(8), to(9, true)), none);
    assert_eq!(xfrm(numbered(9), to(8, true)), none, "another device's policy");
    assert_eq!(xfrm(numbered(9), to(9, false)), none, "it names no end");
}

/// What a tunnel device's policy wraps is judged with the device; any other policy by itself.
#[test]
fn a_policy_is_a_devices_only_by_its_mark_or_number() {
    let peer = "192.168.1.5";
    let read = |policy: Policy, key| {
        let mut read = calico(1480, 1500);
        read[0].routes.as_mut().unwrap().retain(|route| route.device != 2);
        let remote = Some([192, 168, 1, 5].into());
        let vti = Tunnel { remote, key, ..tunnel(Encapsulation::Vti) };
        read[0].links[1] = over(Link::up(2, "vti0", "vti", 1400), vti);
        let states = vec![State { mark: policy.mark, if_id: policy.if_id, ..state(peer, Some(GCM)) }];
        read[0].ipsec = Some(Ipsec { policies: vec![policy], states, cut: false });
        named(&read, "pod_larger_than_ipsec").len()
    };
    let marked = |mark| Policy { mark, ..policy(peer) };
    assert_eq!(read(marked((7, u32::MAX)), 7), 0, "the device's");
    assert_eq!(read(marked((7, u32::MAX)), 8), 1, "another mark");
    assert_eq!(read(marked((3, 3)), 7), 0, "of what the mask leaves");
    assert_eq!(read(marked((0, 0)), 7), 1, "no mark");
    assert_eq!(read(marked((0, 0)), 0), 1);
    assert_eq!(read(Policy { if_id: 9, ..policy(peer) }, 7), 0, "an xfrm device's");
    let elsewhere = Policy { source: "10.99.0.0/16".parse().unwrap(), ..policy(peer) };
    assert_eq!(read(elsewhere, 7), 0, "no pod is in it");
}
