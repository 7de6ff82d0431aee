//! Which way a tunnel's packets go, what limits it, and what that is called.

use super::*;
use crate::links::{Exception, Fragments};

fn eth0(mtu: u32) -> Link {
    Link::up(1, "eth0", "physical", mtu)
}

fn to(remote: &str) -> Tunnel {
    Tunnel { remote: Some(remote.parse().unwrap()), ..tunnel(Encapsulation::Vxlan) }
}

fn vxlan(mtu: u32, tunnel: Tunnel) -> Link {
    over(Link::up(2, "v", "vxlan", mtu), tunnel)
}

/// What fits through the tunnel, and what is said of the device that carries it.
fn of(read: &[Namespace]) -> (u32, String) {
    let judged = judge(read);
    let found = judged.findings.iter().find(|found| found.name == Name::OverlayTooLarge).unwrap();
    let what = found.what.split_once("but ").unwrap().1.split_once(" and ").unwrap().0;
    (found.fits, what.to_owned())
}

#[test]
fn a_header_of_ipv6_adds_twenty_bytes_more() {
    let read = |remote, way| [host(vec![eth0(1500), vxlan(1500, to(remote))], vec![route(way, 1, None)])];
    assert_eq!(of(&read("10.9.0.9", "10.9.0.0/24")), (1450, "eth0 takes 1500 bytes".to_owned()));
    assert_eq!(of(&read("fd00::9", "fd00::/64")), (1430, "eth0 takes 1500 bytes".to_owned()));
}

/// A limit that takes nothing away is not named.
#[test]
fn a_route_or_a_learned_path_is_named_only_where_it_takes_less() {
    let read = |mtu: Option<u32>, learned: Option<u32>| {
        let way = Route { mtu, ..route("10.9.0.0/24", 1, None) };
        let mut host = host(vec![eth0(1500), vxlan(1500, to("10.9.0.9"))], vec![way]);
        let destination = [10, 9, 0, 9].into();
        let one = |mtu| Exception { destination, device: 1, mtu, expires: None };
        host.exceptions = Some(learned.map(one).into_iter().collect());
        [host]
    };
    let (device, route) = ("eth0 takes", "the route to its end by eth0 takes");
    let path = "the path to 10.9.0.9 by eth0 is known to take";
    for (mtu, learned, fits, said) in [
        (Some(1500), Some(1500), 1450, format!("{device} 1500 bytes")),
        (Some(1499), None, 1449, format!("{route} 1499 bytes")),
        (None, Some(1499), 1449, format!("{path} 1499 bytes")),
        (Some(1499), Some(1499), 1449, format!("{route} 1499 bytes")),
        (Some(1499), Some(1498), 1448, format!("{path} 1498 bytes")),
    ] {
        assert_eq!(of(&read(mtu, learned)), (fits, said));
    }
}

#[test]
fn a_tunnel_that_carries_another_is_named_as_one_only_where_it_is_too_large() {
    let on = |underlay| Tunnel { underlay: Some(underlay), ..tunnel(Encapsulation::Ipip) };
    let read = |lower| {
        let outer = over(Link::up(2, "t1", "ipip", lower), on(1));
        let inner = over(Link::up(3, "t2", "ipip", 1500), on(2));
        judge(&[host(vec![eth0(1500), outer, inner], Vec::new())]).findings.last().unwrap().what.clone()
    };
    assert!(read(1480).contains("but t1 takes 1480 bytes and IPIP adds 20: only 1460 fit"), "{}", read(1480));
    assert!(read(1481).contains("but only 1480 fit through t1, a tunnel itself,"), "{}", read(1481));
}

/// The route into a tunnel is not the way of its own packets, nor is one that is dead.
#[test]
fn a_tunnels_packets_go_by_a_live_route_of_another_device() {
    let into = route("10.9.0.0/24", 2, None);
    let out = route("10.0.0.0/8", 1, None);
    let read = [host(vec![eth0(1500), vxlan(1500, to("10.9.0.9"))], vec![into, out.clone()])];
    assert_eq!(of(&read), (1450, "eth0 takes 1500 bytes".to_owned()));
    let dead = Route { dead: true, ..route("10.9.0.8/29", 3, None) };
    let elsewhere = route("10.8.0.0/29", 3, None);
    let links = vec![eth0(1500), vxlan(1500, to("10.9.0.9")), Link::up(3, "eth1", "physical", 1300)];
    assert_eq!(of(&[host(links, vec![dead, elsewhere, out])]), (1450, "eth0 takes 1500 bytes".to_owned()));
}

#[test]
fn of_a_tunnel_on_a_device_only_that_devices_route_counts() {
    let on = Tunnel { underlay: Some(1), ..to("10.9.0.9") };
    let narrow = |device| Route { mtu: Some(1400), ..route("10.9.0.0/24", device, None) };
    let links = || vec![eth0(1500), vxlan(1500, on), Link::up(3, "eth1", "physical", 1500)];
    let by_own = of(&[host(links(), vec![narrow(1)])]);
    assert_eq!(by_own, (1350, "the route to its end by eth0 takes 1400 bytes".to_owned()));
    assert_eq!(of(&[host(links(), vec![narrow(3)])]), (1450, "eth0 takes 1500 bytes".to_owned()));
}

/// Where it sends from is no end of it: what was learned of that address is another's path.
#[test]
fn what_is_known_of_the_way_to_its_own_address_is_not_the_tunnels() {
    let local = Tunnel { local: Some([10, 9, 0, 1].into()), ..tunnel(Encapsulation::Ipip) };
    let t0 = over(Link::up(2, "t0", "ipip", 1500), local);
    let mut host = host(vec![eth0(1500), t0], vec![route("10.9.0.0/24", 1, None)]);
    let destination = [10, 9, 0, 1].into();
    host.exceptions = Some(vec![Exception { destination, device: 1, mtu: 1300, expires: None }]);
    assert_eq!(of(&[host]), (1480, "eth0 takes 1500 bytes".to_owned()));
}

#[test]
fn a_fix_says_that_ipv6_is_off_only_below_its_least() {
    let on = Tunnel { underlay: Some(1), ..tunnel(Encapsulation::Vxlan) };
    let fix = |lower| judge(&[host(vec![eth0(lower), vxlan(1500, on)], Vec::new())]).findings[0].fix.clone();
    assert_eq!(fix(1330), "ip link set v mtu 1280, and the interfaces behind it");
    assert!(fix(1329).ends_with(" (IPv6, which needs 1280, is off on them then)"), "{}", fix(1329));
}

#[test]
fn what_was_not_read_of_a_tunnels_way_is_no_all_clear() {
    let not = |change: &dyn Fn(&mut Namespace)| {
        let mut host = host(vec![eth0(1500), vxlan(1500, to("10.9.0.9"))], Vec::new());
        change(&mut host);
        let judged = judge(&[host]).not_judged;
        judged.into_iter().map(|one| (one.why.into_owned(), one.unread)).collect::<Vec<_>>()
    };
    let unread = "the routes to its end were not read".to_owned();
    assert_eq!(not(&|host| host.routes = None), [(unread, true)]);
    let unknown = "the way of its packets is not known".to_owned();
    assert_eq!(not(&|_| ()), [(unknown.clone(), false)]);
    assert_eq!(not(&|host| host.fragments = Some(Fragments { v4: 0, v6: 0 })), [(unknown.clone(), false)]);
    let made = format!("{unknown}; 3 fragments were made there so far");
    assert_eq!(not(&|host| host.fragments = Some(Fragments { v4: 1, v6: 2 })), [(made, false)]);
}

#[test]
fn no_fragments_are_no_evidence() {
    let said = |v4| {
        let on = Tunnel { underlay: Some(1), ..tunnel(Encapsulation::Vxlan) };
        let mut host = host(vec![eth0(1500), vxlan(1500, on)], Vec::new());
        host.fragments = Some(Fragments { v4, v6: 0 });
        judge(&[host]).findings[0].sentence()
    };
    let end = ": only 1450 fit (high confidence). Fix: ip link set v mtu 1450, and the interfaces behind it";
    assert!(said(0).ends_with(end), "{}", said(0));
    assert!(said(1).contains("; 1 fragments were made there so far, of these or of other packets (high"));
}
