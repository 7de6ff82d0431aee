//! Which devices lead to other nodes: nodes as they are met, whose pods are larger than a device that leads nowhere.

use super::*;

/// A cluster by its own routing, pods of 9000 behind `eth0` of 9001; and `more` devices and routes.
fn node(more: Vec<Link>, routes: Vec<Route>) -> Vec<Namespace> {
    let mut links = vec![Link::up(1, "eth0", "physical", 9001), near(3, 1, 9000)];
    let mut all = vec![
        route("0.0.0.0/0", 1, Some("172.18.0.1")),
        route("172.18.0.0/16", 1, None),
        route("fe80::/64", 1, None),
        route("172.20.1.5/32", 3, None),
        route("fd00:10:244:1::5/128", 3, None),
        // Each device with IPv6 has this one; it is in the pod's network and leads nowhere.
        route("fe80::/64", 3, None),
    ];
    links.extend(more);
    all.extend(routes);
    let mut pod = pod(1, 3, 9000);
    pod.routes.as_mut().unwrap().push(route("fe80::/64", 2, None));
    vec![host(links, all), pod]
}

/// What is said of pods that are larger than their way: how much fits, and of which device.
fn said(read: &[Namespace]) -> Vec<(u32, String)> {
    let findings = judge(read).findings.into_iter();
    let findings = findings.filter(|found| found.name == Name::PodLargerThanPath);
    findings
        .map(|found| {
            let by = found.what.split_once("fit through ").unwrap().1.split_once(' ').unwrap().0.to_owned();
            (found.fits, by)
        })
        .collect()
}

fn quiet(what: &str, more: Vec<Link>, routes: Vec<Route>) {
    let read = node(more, routes);
    assert!(said(&read).is_empty(), "{what}: {:?}", said(&read));
    // And it hides nothing: the uplink is still the uplink.
    let mut narrow = read;
    narrow[0].links[0].mtu = 1500;
    assert_eq!(said(&narrow), [(1500, "eth0".to_owned())], "{what}");
}

fn port(index: u32, name: &str, kind: &str, of: u32) -> Link {
    Link { master: Some(of), ..Link::up(index, name, kind, 1500) }
}

fn without_carrier(link: Link) -> Link {
    Link { carrier: false, ..link }
}

fn linkdown(mut route: Route) -> Route {
    route.linkdown = true;
    route
}

#[test]
fn a_dummy_that_holds_an_address_leads_nowhere() {
    for name in ["nodelocaldns", "kube-ipvs0"] {
        // Bound to a cluster IP as well; IPv6 gives it a route to its own address, and one to the link.
        let routes = vec![
            route("fe80::/64", 9, None),
            route("fd00:10:244:1::a/128", 9, None),
            route("169.254.20.0/24", 9, None),
            route("172.20.0.0/24", 9, None),
        ];
        quiet(name, vec![Link::up(9, name, "dummy", 1500)], routes);
    }
    quiet("ifb", vec![Link::up(9, "ifb0", "ifb", 1500)], vec![route("172.20.0.0/24", 9, None)]);
}

#[test]
fn a_bridge_leads_where_its_ports_lead() {
    let docker0 = || Link::up(9, "docker0", "bridge", 1500);
    let network = || route("172.17.0.0/16", 9, None);
    quiet("no ports, no carrier", vec![without_carrier(docker0())], vec![linkdown(network())]);
    quiet("never had a port", vec![docker0()], vec![network()]);
    // A container's end is in a namespace that was not read.
    let foreign =
        |of| Link { lower: Some(2), lower_netns: Some(NetnsId(77)), ..port(10, "veth1", "veth", of) };
    quiet("containers", vec![docker0(), foreign(9)], vec![network()]);
    quiet("virbr0", vec![docker0(), port(10, "vnet0", "tun", 9)], vec![network()]);
    quiet("lxcbr0", vec![docker0(), port(10, "d0", "dummy", 9)], vec![network()]);
    // The pods' own, with another one's pods beside it.
    quiet("cni0", vec![docker0(), foreign(9)], vec![route("172.20.2.0/24", 9, None)]);
    // A pair into another bridge, and back: a circle.
    let pair = |index, other, of| Link { lower: Some(other), ..port(index, "p", "veth", of) };
    let other = || Link::up(20, "br1", "bridge", 1500);
    quiet("joined", vec![docker0(), other(), pair(10, 11, 9), pair(11, 10, 20)], vec![network()]);

    let uplink = || port(10, "eth1", "physical", 9);
    let out = [(1500, "docker0".to_owned())];
    assert_eq!(said(&node(vec![docker0(), uplink()], vec![network()])), out, "a port that leads out");
    let joined =
        vec![docker0(), other(), pair(11, 12, 9), pair(12, 11, 20), port(10, "eth1", "physical", 20)];
    assert_eq!(said(&node(joined, vec![network()])), out, "by way of the other bridge");
    let read = node(vec![docker0(), without_carrier(uplink())], vec![network()]);
    assert!(said(&read).is_empty(), "an unplugged one");
}

#[test]
fn a_pair_of_the_host_leads_nowhere() {
    // As Cilium routes to other nodes' pods, which a program sends by another device.
    let cilium = vec![
        Link { lower: Some(9), ..Link::up(8, "cilium_net", "veth", 1500) },
        Link { lower: Some(8), ..Link::up(9, "cilium_host", "veth", 1500) },
    ];
    quiet("cilium_host", cilium, vec![route("172.20.2.0/24", 9, Some("172.20.1.7"))]);
    // A pod of this node whose routes were read, and one that could not be found.
    quiet("a pod's", vec![near(9, 7, 1500)], vec![route("172.20.1.9/32", 9, None)]);
}

/// A node that is a container itself has such an uplink (kind, k3d).
#[test]
fn a_pair_to_a_gateway_is_an_uplink() {
    let mut read = node(Vec::new(), Vec::new());
    let eth0 = Link { lower: Some(40), lower_netns: Some(NetnsId(77)), ..Link::up(1, "eth0", "veth", 1500) };
    read[0].links[0] = eth0;
    assert_eq!(said(&read), [(1500, "eth0".to_owned())]);
}

#[test]
fn what_is_down_leads_nowhere() {
    let tunl0 = || over(Link::up(9, "tunl0", "ipip", 1480), tunnel(Encapsulation::Ipip));
    let to = || route("172.20.2.0/24", 9, Some("172.18.0.7"));
    quiet("no route", vec![tunl0()], Vec::new());
    quiet("down", vec![Link { up: false, ..tunl0() }], vec![to()]);
    quiet("no carrier", vec![without_carrier(tunl0())], vec![to()]);
    quiet("linkdown", vec![tunl0()], vec![linkdown(to())]);
    quiet("dead", vec![tunl0()], vec![Route { dead: true, ..to() }]);
    assert_eq!(said(&node(vec![tunl0()], vec![to()])), [(1480, "tunl0".to_owned())]);
}

#[test]
fn of_routes_to_one_network_the_lowest_metric_is_used() {
    let default = |metric| Route { metric, ..route("0.0.0.0/0", 9, Some("192.168.1.1")) };
    let wlan0 = || Link::up(9, "wlan0", "physical", 1500);
    quiet("a way that waits", vec![wlan0()], vec![default(600)]);
    assert_eq!(
        said(&node(vec![wlan0()], vec![default(0)])),
        [(1500, "wlan0".to_owned())],
        "both of one route"
    );
    // The better one is down: the other is used.
    let mut read = node(vec![wlan0()], vec![default(600)]);
    read[0].routes.as_mut().unwrap()[0].linkdown = true;
    read[0].links[0].carrier = false;
    assert_eq!(said(&read), [(1500, "wlan0".to_owned())]);
}

#[test]
fn what_is_on_another_device_leads_where_that_leads() {
    let default = || vec![route("172.30.0.0/16", 9, Some("172.30.0.1"))];
    let on = |kind: &str, lower| Link { lower: Some(lower), ..Link::up(9, "x0", kind, 1500) };
    for kind in ["vlan", "macvlan", "ipvlan"] {
        let dummy = || Link::up(8, "d0", "dummy", 1500);
        quiet(kind, vec![dummy(), on(kind, 8)], vec![route("172.30.0.0/16", 9, None)]);
        assert_eq!(said(&node(vec![on(kind, 1)], default())), [(1500, "x0".to_owned())], "{kind}");
    }
    let bond = || {
        vec![
            Link::up(9, "bond0", "bond", 1500),
            port(10, "eth1", "physical", 9),
            port(11, "eth2", "physical", 9),
        ]
    };
    assert_eq!(said(&node(bond(), default())), [(1500, "bond0".to_owned())], "its members have no routes");
}

#[test]
fn a_host_beside_is_no_other_node() {
    // A virtual machine's device, and a tunnel by a program of a user (flannel's `udp`).
    let tun = || Link::up(9, "tap0", "tun", 1500);
    quiet("tap0", vec![tun()], vec![route("172.20.1.77/32", 9, None)]);
    assert_eq!(said(&node(vec![tun()], vec![route("172.20.0.0/16", 9, None)])), [(1500, "tap0".to_owned())]);
}

#[test]
fn a_tunnels_own_address_on_a_dummy_says_nothing() {
    let local = Tunnel { local: Some([10, 9, 0, 1].into()), ..tunnel(Encapsulation::Ipip) };
    let links = |kind| vec![Link::up(8, "lo1", kind, 1400), over(Link::up(9, "t0", "ipip", 1480), local)];
    let sums = |kind| judge(&[host(links(kind), vec![route("10.9.0.0/24", 8, None)])]).sums.len();
    assert_eq!([sums("dummy"), sums("physical")], [0, 1]);
}

/// The addresses of a bridge are pods' alone where every port leads into a pod that was read.
#[test]
fn a_subnet_is_pods_alone_only_where_nobody_else_can_be_on_it() {
    let cni0 = || vec![Link::up(9, "cni0", "bridge", 1500), Link { master: Some(9), ..near(10, 1, 1500) }];
    let routes = || vec![route("10.244.1.0/24", 9, None), route("fd00:1::/64", 9, None)];
    let read = |more: Vec<Link>, routes: Vec<Route>| {
        let links = cni0().into_iter().chain(more).collect();
        vec![host(links, routes), pod(1, 10, 1500)]
    };
    let of = |read: &[Namespace], address: &str| {
        subnet_of_pods(read, address.parse().unwrap()).map(|subnet| subnet.network.to_string())
    };
    let clear = read(Vec::new(), routes());
    assert_eq!(of(&clear, "10.244.1.9").as_deref(), Some("10.244.1.0/24"));
    assert_eq!(of(&clear, "fd00:1::9").as_deref(), Some("fd00:1::/64"));
    assert_eq!(of(&clear, "10.244.2.9"), None);
    // A virtual machine, the uplink, a container that is no pod, a port whose other end was not read.
    for (name, kind) in [("tap0", "tun"), ("eth0", "physical"), ("veth0", "veth")] {
        assert_eq!(of(&read(vec![port(11, name, kind, 9)], routes()), "10.244.1.9"), None, "{name}");
    }
    let unread = Link { master: Some(9), ..near(11, 7, 1500) };
    assert_eq!(of(&read(vec![unread], routes()), "10.244.1.9"), None);
    // Behind a gateway is another node; a longer route goes elsewhere.
    assert_eq!(of(&read(Vec::new(), vec![route("10.244.1.0/24", 9, Some("10.0.0.2"))]), "10.244.1.9"), None);
    let longer = [routes(), vec![route("10.244.1.8/29", 12, None)]].concat();
    assert_eq!(of(&read(vec![Link::up(12, "eth1", "physical", 1500)], longer), "10.244.1.9"), None);
    // Nobody has the network's own address, or its broadcast: what is sent there is worth a look.
    assert_eq!([of(&clear, "10.244.1.0"), of(&clear, "10.244.1.255")], [None, None]);
    // A virtual machine shares the pod's device.
    let mut shared = clear.clone();
    shared[1].links.push(Link { lower: Some(2), ..Link::up(5, "macvtap0", "macvtap", 1500) });
    assert_eq!(of(&shared, "10.244.1.9"), None);
    let mut bridged = clear.clone();
    bridged[1].links[0].master = Some(5);
    assert_eq!(of(&bridged, "10.244.1.9"), None);
    let mut part = clear;
    part[0].unread.push(Unread { what: "links", why: "there are too many".to_owned() });
    assert_eq!(of(&part, "10.244.1.9"), None);
}

#[test]
fn a_subnet_is_that_of_a_bridge_and_no_links_own() {
    let read = |kind: &str| {
        let to = ["10.244.1.0/24", "169.254.9.0/24", "224.0.0.0/4", "fe80::/64", "ff00::/8"];
        let routes = to.iter().map(|to| route(to, 9, None)).collect();
        let port = Link { master: Some(9), ..near(10, 1, 1500) };
        let mut pod = pod(1, 10, 1500);
        // Neither is on the pod's own device: the other end of the second is number 2 elsewhere.
        let far = Link { lower: Some(2), lower_netns: Some(NetnsId(9)), ..Link::up(6, "v", "veth", 1500) };
        pod.links.extend([Link::up(5, "d0", "dummy", 1500), far]);
        vec![host(vec![Link::up(9, "cni0", kind, 1500), port], routes), pod]
    };
    let of = |kind, address: &str| subnet_of_pods(&read(kind), address.parse().unwrap());
    let subnet = Subnet { network: "10.244.1.0/24".parse().unwrap(), bridge: "cni0".to_owned() };
    assert_eq!(of("bridge", "10.244.1.9"), Some(subnet));
    assert_eq!(of("team", "10.244.1.9"), None, "it does not learn who is behind which port");
    for address in ["169.254.9.9", "224.0.0.9", "fe80::9", "ff02::9"] {
        assert_eq!(of("bridge", address), None, "{address}");
    }
}

#[test]
fn a_better_route_by_a_device_that_is_down_hides_no_other() {
    let wlan0 = Link { up: false, ..Link::up(9, "wlan0", "physical", 1500) };
    let mut read = node(vec![wlan0], vec![route("0.0.0.0/0", 9, Some("192.168.1.1"))]);
    let routes = read[0].routes.as_mut().unwrap();
    routes[0].metric = 600;
    // Else its own network's route would lead there as well.
    routes.remove(1);
    read[0].links[0].mtu = 1400;
    assert_eq!(said(&read), [(1400, "eth0".to_owned())]);
}

#[test]
fn a_tunnel_leads_out_even_to_one_address() {
    let tunl0 = over(Link::up(9, "tunl0", "ipip", 1480), tunnel(Encapsulation::Ipip));
    assert_eq!(said(&node(vec![tunl0], vec![route("172.20.2.5/32", 9, None)])), [(1480, "tunl0".to_owned())]);
}
