//! What is not judged is named; containers in a pod, IPv6 and IPsec are judged.

use super::*;
use crate::links::{Esp, Far, Fragments, Ipsec, Policy, State};

/// Why each device of this name is not judged.
pub(super) fn why(read: &[Namespace], subject: &str) -> Vec<String> {
    let all = judge(read).not_judged.into_iter().filter(|one| one.subject == subject);
    all.map(|one| one.why.into_owned()).collect()
}

fn eth0() -> Link {
    Link::up(1, "eth0", "physical", 1500)
}

#[test]
fn what_nothing_here_decides_is_not_judged() {
    let port = |index, name: &str, kind: &str| Link { master: Some(2), ..Link::up(index, name, kind, 1500) };
    let external = Tunnel { external: true, ..tunnel(Encapsulation::Vxlan) };
    let read = [host(
        vec![
            eth0(),
            Link::up(2, "ovs-system", "openvswitch", 1500),
            over(port(3, "vxlan_sys", "vxlan"), external),
            port(4, "p1", "physical"),
            over(Link::up(5, "cilium_vxlan", "vxlan", 1500), external),
            Link { program: Some("tc"), ..Link::up(6, "lxc1", "dummy", 1500) },
            Link::up(7, "tun0", "tun", 1500),
            Link { lower: Some(9), lower_netns: Some(NetnsId(44)), ..Link::up(8, "far", "veth", 1500) },
            Link::up(9, "nk0", "netkit", 1500),
            Link { filter: Some("polices"), ..Link::up(11, "bw0", "veth", 1500) },
            Link { up: false, ..Link::up(10, "tunl0", "tun", 1500) },
        ],
        Vec::new(),
    )];
    for subject in ["ovs-system", "vxlan_sys", "p1"] {
        assert_eq!(why(&read, subject), ["Open vSwitch decides where its packets go"], "{subject}");
    }
    assert_eq!(why(&read, "cilium_vxlan"), ["each packet says where it goes"]);
    assert_eq!(why(&read, "lxc1"), ["a BPF program (tc) may send its packets elsewhere"]);
    assert_eq!(why(&read, "bw0"), ["a filter (tc) polices packets of it"]);
    assert_eq!(why(&read, "nk0"), ["a BPF program (netkit) may send its packets elsewhere"]);
    assert_eq!(why(&read, "tun0"), ["what a device of kind tun adds is not known"]);
    assert_eq!(why(&read, "far"), ["its other end is in a network namespace that was not read"]);
    assert!(why(&read, "eth0").is_empty() && why(&read, "tunl0").is_empty(), "it is down");
    assert!(judge(&read).not_judged.iter().all(|one| !one.unread));
}

#[test]
fn of_wireguard_every_peers_way_counts() {
    let wg = |peers| {
        let wg0 = over(Link::up(2, "wg0", "wireguard", 1440), tunnel(Encapsulation::Wireguard));
        let mut narrow = route("10.8.0.0/24", 1, Some("10.9.0.9"));
        narrow.mtu = Some(1400);
        let mut host = host(vec![eth0(), Link { peers, ..wg0 }], vec![route("10.9.0.0/24", 1, None), narrow]);
        host.fragments = Some(Fragments { v4: 7, v6: 1 });
        [host]
    };
    let end = |text: &str| Some(text.parse().unwrap());
    assert_eq!(why(&wg(None), "wg0"), ["its peers were not read"]);
    assert!(judge(&wg(None)).not_judged[0].unread, "that is no all-clear");
    assert_eq!(why(&wg(Some(vec![])), "wg0"), ["it has no peer"]);
    assert!(told(&wg(Some(vec![end("10.9.0.2")]))).is_empty());
    assert!(judge(&wg(Some(vec![end("10.9.0.2")]))).not_judged.is_empty());
    let both = wg(Some(vec![end("10.9.0.2"), end("10.8.0.2"), None]));
    assert_eq!(told(&both), [("overlay_too_large", "wg0".to_owned(), 1340, Confidence::Medium)]);
    assert_eq!(why(&both, "wg0"), ["where one of its peers is is not known yet"]);
    let said = judge(&both).findings[0].sentence();
    assert!(said.contains("8 fragments were made there so far"), "{said}");
    let lost = why(&wg(Some(vec![end("10.9.0.2"), end("192.0.2.1")])), "wg0");
    assert_eq!(lost, ["the way to one of its peers is not known"]);
    // A way that no route leads is not taken for the default one's.
    let lost = why(&wg(Some(vec![end("192.0.2.1")])), "wg0");
    assert_eq!(lost, ["the way of its packets is not known; 8 fragments were made there so far"]);
}

/// A pod of 1450 bytes with docker in it: `docker0`, a container behind `vjob`.
pub(super) fn docker(bridge: u32, port: u32, container: u32) -> Vec<Namespace> {
    let far = Far { name: "eth0".to_owned(), mtu: container, up: true };
    let mut runner = pod(1, 3, 1450);
    runner.links.extend([
        Link::up(4, "docker0", "bridge", bridge),
        Link {
            master: Some(4),
            lower: Some(2),
            lower_netns: Some(NetnsId(9)),
            far: Some(far),
            ..Link::up(5, "vjob", "veth", port)
        },
    ]);
    vec![host(vec![Link::up(1, "eth0", "physical", 1500), near(3, 1, 1450)], Vec::new()), runner]
}

#[test]
fn containers_in_a_pod_are_judged_by_its_uplink() {
    let found = |read: &[Namespace]| {
        let judged = judge(read);
        let inner = judged.findings.into_iter().filter(|one| one.name == Name::InnerLargerThanUplink);
        inner.collect::<Vec<_>>()
    };
    let read = docker(1500, 1500, 1500);
    let [one] = &found(&read)[..] else { panic!("{:?}", told(&read)) };
    assert_eq!((one.interface.as_str(), one.fits, one.confidence), ("docker0", 1450, Confidence::Medium));
    assert!(
        one.fix.starts_with(
            "ip link set eth0 mtu 1450 (in the container behind vjob), `for i in docker0 vjob; do ip link set dev \"$i\" \
             mtu 1450; done` (in shop/p1); docker sets it for containers to come: dockerd --mtu 1450; or clamp"
        ),
        "{}",
        one.fix
    );
    assert!(judge(&read).not_judged.is_empty() && judge(&docker(1450, 1450, 1450)).not_judged.is_empty());
    assert!(told(&docker(1450, 1450, 1450)).is_empty());
    // What is behind a smaller port still announces what it has, and its own port frees it.
    assert_eq!(found(&docker(1450, 1450, 1500)).len(), 1);
    let veth = |read: &[Namespace]| told(read).into_iter().filter(|one| one.0 == "veth_unequal").count();
    assert_eq!([veth(&docker(1450, 1450, 1500)), veth(&docker(1450, 1450, 1400)), veth(&read)], [1, 1, 0]);
    // A bridge that has had no container yet.
    let mut idle = docker(1500, 1500, 1500);
    idle[1].links.pop();
    assert_eq!(found(&idle).len(), 1);
    // One that the uplink is a port of is the way out itself, as in a pod with a virtual machine.
    let mut machine = docker(1450, 1450, 1450);
    machine[1].links[0].master = Some(4);
    machine[1].links[1].mtu = 9000;
    assert!(found(&machine).is_empty());
    // Routes that were not read may promise less; a pod that nothing leads out of is not judged.
    let mut blind = docker(1500, 1500, 1500);
    blind[1].routes = None;
    assert_eq!(found(&blind)[0].confidence, Confidence::Low);
    let mut alone = docker(1500, 1500, 1500);
    alone[1].routes = Some(Vec::new());
    alone[1].links[0].lower = None;
    assert_eq!(why(&alone, "docker0"), ["no route leads out of its pod"]);
    // The way out may be a tunnel of the pod's own.
    let mut private = docker(1450, 1450, 1450);
    let on = Tunnel { underlay: Some(2), ..tunnel(Encapsulation::Vxlan) };
    private[1].links.push(over(Link::up(8, "v", "vxlan", 1400), on));
    private[1].routes = Some(vec![route("0.0.0.0/0", 8, None)]);
    assert_eq!(found(&private)[0].fits, 1400);
}

#[test]
fn ipv6_is_off_below_its_least() {
    let eth1 = || Link::up(2, "eth1", "physical", 1000);
    let v4 = || route("10.98.0.0/24", 2, None);
    let off = |routes: Vec<Route>| told(&[host(vec![eth0(), eth1()], routes)]);
    assert_eq!(
        off(vec![route("fd99::/64", 1, None), v4()]),
        [("ipv6_off", "eth1".to_owned(), 1000, Confidence::Medium)]
    );
    assert!(off(vec![route("fe80::/64", 1, None), v4()]).is_empty(), "no IPv6 but the link's own");
    assert!(off(vec![route("fd99::/64", 1, None)]).is_empty(), "nothing is sent by it");
    // A pod whose only device is too small, where others have IPv6.
    let mut small = pod(2, 4, 1200);
    small.routes.as_mut().unwrap().pop();
    let read = [host(vec![near(3, 1, 1500), near(4, 2, 1200)], Vec::new()), pod(1, 3, 1500), small];
    assert_eq!(
        told(&read).iter().filter(|one| one.0 == "ipv6_off" && one.2 == 1200).count(),
        1,
        "{:?}",
        told(&read)
    );
    // What carries it must take more first; and a fix that turns IPv6 off says so.
    let on = Tunnel { underlay: Some(1), ..tunnel(Encapsulation::Vxlan) };
    let vxlan = |mtu| over(Link::up(2, "v", "vxlan", mtu), on);
    let read = |mtu| {
        let small = Link { mtu: 1300, ..eth0() };
        [host(vec![small, vxlan(mtu)], vec![route("fd99::/64", 1, None), v4()])]
    };
    assert!(
        judge(&read(1250)).findings[0].fix.contains("raise eth0 to 1330"),
        "{:?}",
        judge(&read(1250)).findings
    );
    assert!(judge(&read(1300)).findings[0].fix.contains("IPv6, which needs 1280, is off on them then"));
}

pub(super) const GCM: Esp = Esp { before: 36, proof: 16, block: 4 };

pub(super) fn state(peer: &str, esp: Option<Esp>) -> State {
    let local = Some([192, 168, 1, 1].into());
    State { local, peer: peer.parse().unwrap(), reqid: 1, if_id: 0, mark: (0, 0), tunnel: true, esp }
}

pub(super) fn policy(to: &str) -> Policy {
    Policy {
        wraps: true,
        priority: 0,
        is_partial: false,
        source: "10.42.1.0/24".parse().unwrap(),
        destination: "10.42.77.0/26".parse().unwrap(),
        local: None,
        peer: Some(to.parse().unwrap()),
        is_tunnel: true,
        reqid: 1,
        if_id: 0,
        mark: (0, 0),
    }
}

#[test]
fn ipsec_policies_add_what_their_states_say() {
    let node = |policies: Vec<Policy>, states: Vec<State>, pods: u32| {
        let mut read = calico(1480, pods);
        read[0].links.retain(|link| link.kind != "ipip");
        read[0].routes.as_mut().unwrap().retain(|route| route.device != 2);
        read[0].ipsec = Some(Ipsec { policies, states, cut: false });
        read
    };
    let peer = "192.168.1.5";
    let gcm = || vec![state(peer, Some(GCM)), state("192.168.1.9", None)];
    let read = node(vec![policy(peer)], gcm(), 1500);
    let found: Vec<_> = told(&read).into_iter().filter(|one| one.0 == "pod_larger_than_ipsec").collect();
    assert_eq!(
        found,
        [("pod_larger_than_ipsec", "eth0".to_owned(), 1446, Confidence::Medium)],
        "{:?}",
        told(&read)
    );
    assert!(told(&node(vec![policy(peer)], gcm(), 1446)).is_empty());
    let subject = "IPsec policy to 10.42.77.0/26";
    assert!(why(&read, subject).is_empty());
    let other = Policy { is_tunnel: false, ..policy(peer) };
    for (policy, states, wanted) in [
        (policy(peer), Vec::new(), "no IPsec state says what it adds"),
        (policy(peer), vec![state(peer, None)], "no IPsec state says what it adds"),
        (
            policy(peer),
            vec![State { reqid: 2, ..state(peer, Some(GCM)) }],
            "no IPsec state says what it adds",
        ),
        (other, gcm(), "it is not one ESP tunnel to one peer"),
    ] {
        let read = node(vec![policy], states, 1500);
        assert_eq!(why(&read, subject), [wanted]);
        assert!(told(&read).iter().all(|one| one.0 != "pod_larger_than_ipsec"));
    }
}

#[test]
fn tunnels_of_ipsec_add_what_their_states_say() {
    let read = |encapsulation, key, ipsec| {
        let (local, remote) = (Some([192, 168, 1, 1].into()), Some([192, 168, 1, 5].into()));
        let remote = remote.filter(|_| encapsulation != Encapsulation::Xfrm);
        let tunnel = Tunnel { local, remote, key, ..tunnel(encapsulation) };
        let mut host = host(
            vec![eth0(), over(Link::up(2, "t0", "t", 1480), tunnel)],
            vec![route("192.168.1.0/24", 1, None)],
        );
        host.ipsec = ipsec;
        [host]
    };
    let ipsec = |policies, state| Some(Ipsec { policies, states: vec![state], cut: false });
    let marked = State { mark: (7, u32::MAX), ..state("192.168.1.5", Some(GCM)) };
    let wanted = [("overlay_too_large", "t0".to_owned(), 1446, Confidence::Medium)];
    assert_eq!(told(&read(Encapsulation::Vti, 7, ipsec(vec![], marked.clone()))), wanted);
    let of_vti = Policy { mark: (7, u32::MAX), ..policy("192.168.1.5") };
    assert!(judge(&read(Encapsulation::Vti, 7, ipsec(vec![of_vti], marked.clone()))).not_judged.is_empty());
    let none = ["no IPsec state says what it adds"];
    assert_eq!(why(&read(Encapsulation::Vti, 8, ipsec(vec![], marked.clone())), "t0"), none);
    assert_eq!(why(&read(Encapsulation::Vti6, 7, ipsec(vec![], State { esp: None, ..marked })), "t0"), none);
    let unread = read(Encapsulation::Vti, 7, None);
    assert!(why(&unread, "t0") == ["IPsec states were not read"] && judge(&unread).not_judged[0].unread);
    let numbered = State { if_id: 9, ..state("192.168.1.5", Some(GCM)) };
    let policies = vec![Policy { if_id: 9, ..policy("192.168.1.5") }];
    let xfrm = read(Encapsulation::Xfrm, 9, ipsec(policies, numbered.clone()));
    assert!(told(&xfrm) == wanted && judge(&xfrm).not_judged.is_empty(), "{:?}", judge(&xfrm));
    assert_eq!(why(&read(Encapsulation::Xfrm, 9, ipsec(vec![], numbered)), "t0"), none, "no policy");
}

#[test]
fn one_pod_cannot_fill_what_is_not_judged() {
    let mut noisy = pod(1, 3, 1500);
    noisy.links.extend((100..600).map(|index| Link::up(index, &format!("t{index}"), "tun", 1500)));
    let judged = judge(&[host(vec![near(3, 1, 1500)], Vec::new()), noisy]);
    assert_eq!((judged.not_judged.len(), judged.more_not_judged), (MAX_OF_POD, 500 - MAX_OF_POD));
}

/// A route by a nexthop object comes without its device where the kernel is told to leave that out.
#[test]
fn a_route_whose_device_is_not_told() {
    let by_object = |to: &str, device| Route { object: Some(12), ..route(to, device, None) };
    let read = |routes| [host(vec![Link::up(1, "eth0", "physical", 1500)], routes)];
    assert!(judge(&read(vec![by_object("10.9.0.0/24", 1)])).not_judged.is_empty());
    let blind = ["10.9.0.0/24", "10.9.1.0/24", "10.9.2.0/24"].map(|to| by_object(to, 0));
    let said = judge(&read(blind.to_vec())).not_judged;
    let [one] = &*said else { panic!("{said:?}") };
    assert_eq!((&*one.subject, &*one.kind, one.unread), ("10.9.0.0/24", "route", true));
    let why =
        "its nexthop object does not tell its device, nor do 2 more (net.ipv4.nexthop_compat_mode is 0)";
    assert_eq!(one.why, why);
}
