//! What to set: commands for each route and device, of a bounded length. That they work as they are, a kernel says.

use super::gaps::docker;
use super::*;

fn eth0(mtu: u32) -> Link {
    Link::up(1, "eth0", "physical", mtu)
}

fn fixes(read: &[Namespace], name: Name) -> Vec<String> {
    let findings = judge(read).findings.into_iter().filter(|found| found.name == name);
    findings.map(|found| found.fix).collect()
}

#[test]
fn a_route_of_several_ways_is_lowered_to_the_least_of_them() {
    let way = |device, mtu| Route { mtu, metric: 5, ..route("10.9.0.0/24", device, Some("10.0.0.1")) };
    let read = |eth1, mtu: Option<u32>| {
        let links = vec![eth0(1400), Link::up(2, "eth1", "physical", eth1)];
        [host(links, vec![way(1, mtu), way(2, mtu)])]
    };
    let edited = |to| {
        let edit = format!(r"sed -E 's/(mtu |lock )9000/\1{to}/'");
        format!("`ip route change metric 5 $(ip route show exact 10.9.0.0/24 metric 5 | {edit})`")
    };
    assert_eq!(fixes(&read(1300, Some(9000)), Name::RouteMtu), [edited(1300), edited(1300)]);
    assert_eq!(fixes(&read(9000, Some(9000)), Name::RouteMtu), [edited(1400)]);
    let [mut down] = read(1300, Some(9000));
    down.routes.as_mut().unwrap()[1].dead = true;
    assert_eq!(fixes(&[down], Name::RouteMtu), ["lower the MTU of 10.9.0.0/24 once all its ways are up"]);
}

#[test]
fn each_route_of_a_device_is_told_up_to_three() {
    let routes =
        |many: u8| (0..many).map(|n| Route { mtu: Some(9000), ..route(&format!("10.9.{n}.0/24"), 1, None) });
    let fix = |many| fixes(&[host(vec![eth0(1400)], routes(many).collect())], Name::RouteMtu).remove(0);
    assert_eq!(fix(3).matches("ip route change").count(), 3, "{}", fix(3));
    assert!(fix(5).ends_with(" and 2 more") && fix(5).matches("ip route change").count() == 3, "{}", fix(5));
}

#[test]
fn a_route_of_ipv6_that_expires_is_given_back_as_ip_takes_it() {
    let read = |expires| {
        let default = Route { mtu: Some(9000), metric: 1024, expires, ..route("::/0", 1, Some("fe80::9")) };
        fixes(&[host(vec![eth0(1400)], vec![default])], Name::RouteMtu).remove(0)
    };
    let change = |edit| {
        format!(
            "`ip -6 route change metric 1024 $(ip -6 route show exact default metric 1024{edit}) mtu 1400`"
        )
    };
    assert_eq!(read(false), change(""));
    assert_eq!(read(true), change(r" | sed -E 's/(expires [0-9]+)sec/\1/'"));
}

/// As FRR sets them: the command keeps the object.
#[test]
fn a_route_by_a_nexthop_object_stays_one() {
    let way = |device, gateway| Route {
        mtu: Some(9000),
        object: Some(12),
        ..route("10.9.0.0/24", device, Some(gateway))
    };
    let links = || vec![eth0(1400), Link::up(2, "eth1", "physical", 1300)];
    let fix = |ways| fixes(&[host(links(), ways)], Name::RouteMtu).remove(0);
    let change = |mtu| {
        let edit = "sed -E '2,$d; s/ (via (inet6 )?[^ ]+ )?dev [^ ]+( onlink)?//'";
        format!("`ip route change metric 0 $(ip route show exact 10.9.0.0/24 metric 0 | {edit}) mtu {mtu}`")
    };
    assert_eq!(fix(vec![way(1, "10.0.0.1")]), change(1400));
    assert_eq!(fix(vec![way(1, "10.0.0.1"), way(2, "10.0.1.1")]), change(1300));
}

const CNI: &str = "; for pods to come, the CNI's MTU";

/// Pods alike are told together, and no bridge's ports become unequal by it: only the route changes.
#[test]
fn pods_are_told_what_their_routes_should_promise() {
    let change = "`ip route change metric 0 $(ip route show exact default metric 0) mtu 1480`";
    let mut read = calico(1480, 1500);
    let said = |read: &[Namespace]| fixes(read, Name::PodLargerThanPath);
    assert_eq!(said(&read), [format!("{change} (in shop/p1, shop/p2){CNI}")]);
    // One has the cluster's own route, and one whose routes could not be read may have anything.
    read[1].routes.as_mut().unwrap()[0].destination = "10.42.0.0/16".parse().unwrap();
    let other = change.replace("default", "10.42.0.0/16");
    assert_eq!(said(&read), [format!("{other} (in shop/p1), {change} (in shop/p2){CNI}")]);
    read[2].routes = None;
    let vague = "lower the MTU of the route that leads out to 1480";
    assert_eq!(said(&read), [format!("{other} (in shop/p1), {vague} (in shop/p2){CNI}")]);
    // Several ways out of a pod: what is behind `nexthop` is of one of them.
    let mut second = read[1].routes.as_ref().unwrap()[0].clone();
    second.gateway = Some([10, 42, 0, 9].into());
    read[1].routes.as_mut().unwrap().push(second);
    assert!(
        said(&read)[0].contains("metric 0 | sed -E '1s/ / mtu 1480 /')` (in shop/p1)"),
        "{:?}",
        said(&read)
    );
}

#[test]
fn many_pods_make_no_long_line() {
    let pods = 1..=40;
    let near_of = |number: i32| u32::try_from(number).unwrap() + 10;
    let mut node = calico(1480, 1500).remove(0);
    for number in pods.clone() {
        node.links.push(near(near_of(number), number, 1500));
        node.routes.as_mut().unwrap().push(route(&format!("10.42.2.{number}/32"), near_of(number), None));
    }
    node.links.retain(|link| !(3..=4).contains(&link.index));
    let read: Vec<_> =
        std::iter::once(node).chain(pods.map(|number| pod(number, near_of(number), 1500))).collect();
    let [fix] = &fixes(&read, Name::PodLargerThanPath)[..] else { panic!("{:?}", told(&read)) };
    assert!(fix.contains("(in shop/p1, shop/p10, shop/p11 and 37 more)") && fix.len() < 250, "{fix}");
}

/// A route that leads to two devices gets what both take, and both families' routes are told.
#[test]
fn a_pods_route_gets_what_all_it_leads_to_takes() {
    let mut read = calico(1400, 1500);
    read[0].links[0].mtu = 1450;
    let fix = fixes(&read, Name::PodLargerThanPath);
    assert_eq!(fix.len(), 2, "{:?}", told(&read));
    assert!(fix.iter().all(|fix| fix.contains("mtu 1400`")), "{fix:?}");
    let routes = read[0].routes.as_mut().unwrap();
    routes.push(route("fd00:42:0:1::5/128", 3, None));
    routes.push(route("::/0", 1, Some("fe80::9")));
    let fix = fixes(&read, Name::PodLargerThanPath);
    let v6 = "`ip -6 route change metric 0 $(ip -6 route show exact default metric 0) mtu 1450`";
    assert!(fix[0].contains(v6) && fix[0].contains("mtu 1400` (in shop/p1)"), "{fix:?}");
    // One of two is not the cure.
    read[1].routes.as_mut().unwrap()[0].mtu = Some(1400);
    assert!(fixes(&read, Name::PodLargerThanPath)[0].contains(&format!("{v6} (in shop/p1)")));
}

/// A bridge `b` with as many ports, each with a pod behind; the first port and its pod take this much.
fn bridge(first: u32, ports: i32) -> Vec<Namespace> {
    let port = |number: i32| {
        let mtu = if number == 1 { first } else { 1450 };
        let link = Link { master: Some(2), ..near(10 + u32::try_from(number).unwrap(), number, mtu) };
        (link, mtu)
    };
    let mut links = vec![Link::up(2, "b", "bridge", 1450)];
    links.extend((1..=ports).map(|number| port(number).0));
    let pods = (1..=ports).map(|number| pod(number, port(number).0.index, port(number).1));
    std::iter::once(host(links, Vec::new())).chain(pods).collect()
}

#[test]
fn both_cures_of_a_bridge_name_all_its_ports_and_their_other_ends() {
    let fix = |read: &[Namespace]| fixes(read, Name::BridgePortUnequal).remove(0);
    let lower = "ip link set eth0 mtu 1400 (in shop/p2), `for i in b cali2; do ip link set dev \"$i\" mtu 1400; done`";
    let raise =
        "ip link set cali1 mtu 1450, ip link set eth0 mtu 1450 (in shop/p1), if what is behind takes that";
    let other = "and all else that sends through the bridge";
    assert_eq!(fix(&bridge(1400, 2)), format!("{lower}, {other}; or {raise}"));
    let many = fix(&bridge(1400, 60));
    assert!(many.contains("(in shop/p2, shop/p3, shop/p4 and 56 more)"), "{many}");
    assert!(many.contains("; done` and 44 devices more alike, and"), "{many}");
}

#[test]
fn all_that_is_too_large_in_a_pod_is_set() {
    let mut read = docker(1500, 1500, 1500);
    let port = read[1].links.last().unwrap().clone();
    read[1].links.extend((6..=9).map(|index| Link { index, name: format!("v{index} x"), ..port.clone() }));
    let fix = fixes(&read, Name::InnerLargerThanUplink).remove(0);
    assert!(
        fix.starts_with("ip link set eth0 mtu 1450 (in the container behind vjob, v6 x, v7 x and 2 more), "),
        "{fix}"
    );
    assert!(
        fix.contains("`for i in docker0 vjob 'v6 x' 'v7 x' 'v8 x' 'v9 x'; do ip link set dev \"$i\" mtu"),
        "{fix}"
    );
}
