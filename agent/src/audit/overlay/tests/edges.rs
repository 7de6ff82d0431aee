//! Ends that must agree and routes that promise too much, exactly at what is allowed and one byte beyond.

use super::*;
use crate::links::{Bucket, Far};

fn eth0(mtu: u32) -> Link {
    Link::up(1, "eth0", "physical", mtu)
}

fn down(link: Link) -> Link {
    Link { up: false, ..link }
}

/// The findings of this name: the interface, what it promises, what fits, and the sentence.
fn found(read: &[Namespace], name: Name) -> Vec<(String, u32, u32, String)> {
    let findings = judge(read).findings.into_iter().filter(|found| found.name == name);
    findings.map(|found| (found.interface, found.promises, found.fits, found.what)).collect()
}

/// The kernel lets four bytes more pass, for a VLAN tag.
#[test]
fn a_veth_may_be_four_bytes_larger_than_its_other_end() {
    let read = |pod_mtu| [host(vec![near(3, 1, 1400)], Vec::new()), pod(1, 3, pod_mtu)];
    assert!(found(&read(1404), Name::VethUnequal).is_empty());
    let said = "eth0 of shop/p1 has MTU 1405; its other end, cali1, takes 1400 bytes and frees what is longer without \
                telling anybody";
    assert_eq!(found(&read(1405), Name::VethUnequal), [("eth0".to_owned(), 1405, 1400, said.to_owned())]);
    let [mut host, mut pod] = read(1500);
    host.links[0].up = false;
    assert!(found(&[host.clone(), pod.clone()], Name::VethUnequal).is_empty(), "what is down frees nothing");
    host.links[0].up = true;
    pod.links[0].up = false;
    assert!(found(&[host, pod], Name::VethUnequal).is_empty());
    // A device on another one names that by its number as well.
    let [host, mut macvlan] = read(1500);
    macvlan.links[0].kind = "macvlan".to_owned();
    assert!(found(&[host, macvlan], Name::VethUnequal).is_empty());
}

#[test]
fn the_smallest_port_of_a_bridge_frees_what_is_longer() {
    let port = |index, name: &str, mtu| Link { master: Some(9), ..Link::up(index, name, "physical", mtu) };
    let br0 = || Link::up(9, "br0", "bridge", 1500);
    let bridge = |links: Vec<Link>| found(&[host(links, Vec::new())], Name::BridgePortUnequal);
    let both = |small: Link| bridge(vec![br0(), port(10, "p0", 9000), small]);
    let said = "port p1 of bridge br0 takes 1400 bytes and frees what is longer without telling anybody; larger: p0 (MTU 9000), \
                br0 (MTU 1500)";
    assert_eq!(both(port(11, "p1", 1400)), [("p0".to_owned(), 9000, 1400, said.to_owned())]);
    assert!(both(down(port(11, "p1", 1400))).is_empty(), "it is down");
    let unplugged = Link { carrier: false, ..port(11, "p1", 1400) };
    assert!(both(unplugged).is_empty(), "nothing is forwarded by it");
    // Of the same size all is well, and what is no bridge forwards nothing.
    assert!(bridge(vec![br0(), port(10, "p0", 1500), port(11, "p1", 1500)]).is_empty());
    let on = |master: Link| bridge(vec![master, port(10, "p0", 9000), port(11, "p1", 1400)]);
    assert!(on(Link { kind: "bond".to_owned(), ..br0() }).is_empty());
    assert!(on(down(br0())).is_empty());
}

/// The queue of a device counts the link header as well, where it has one.
#[test]
fn a_token_bucket_holds_a_full_frame_or_drops_it() {
    let on = |link: Link| {
        let read = [host(vec![near(3, 1, 1500), link], Vec::new()), pod(1, 3, 1500)];
        let found = judge(&read).findings.into_iter().filter(|found| found.name == Name::BurstTooSmall);
        found.map(|found| (found.what, found.fix, found.fits, found.confidence)).collect::<Vec<_>>()
    };
    let with = |bucket| Link { header: 14, bucket: Some(bucket), ..eth0(1500) };
    let what = "eth0 has MTU 1500, frames of 1514 bytes, but its token bucket holds 1513 at most (burst 1513) and drops what \
                is longer without telling anybody: only 1499 fit";
    let fix = "give the token bucket of eth0 a burst of 3028 bytes or more (`tc qdisc replace`; the bandwidth plugin's burst \
               is in bits)";
    let told = (what.to_owned(), fix.to_owned(), 1499, Confidence::High);
    assert_eq!(on(with(Bucket::of(1513))), [told]);
    assert!(on(with(Bucket::of(1514))).is_empty());
    assert!(on(down(with(Bucket::of(1513)))).is_empty(), "what is down drops nothing");
    assert!(on(Link { header: 0, ..with(Bucket::of(1500)) }).is_empty(), "it has no link header");
    let [below] = &on(with(Bucket { is_root: false, ..Bucket::of(1400) }))[..] else { panic!("not told") };
    assert!(below.0.contains("but a token bucket below another queue holds 1400"), "{}", below.0);
    assert_eq!(below.3, Confidence::Medium);
}

/// Of the node's end of a pod's veth the pod is hurt, as by its own.
#[test]
fn a_token_bucket_before_a_pod_hurts_the_pod() {
    for own in [false, true] {
        let mut read = [host(vec![near(3, 1, 1500)], Vec::new()), pod(1, 3, 1500)];
        read[usize::from(own)].links[0].bucket = Some(Bucket::of(1400));
        let found = &judge(&read).findings[0];
        assert_eq!(found.pods.iter().map(|pod| pod.name.as_str()).collect::<Vec<_>>(), ["p1"], "{own}");
        assert!(found.what.starts_with(if own { "eth0 of shop/p1 has" } else { "cali1 has" }));
    }
}

#[test]
fn a_containers_end_and_its_pods_must_agree() {
    let read = |near: u32, far: u32, far_up: bool, near_up: bool| {
        let far = Far { name: "eth0".to_owned(), mtu: far, up: far_up };
        let mut pod = pod(1, 3, 1500);
        pod.links.push(Link { far: Some(far), up: near_up, ..Link::up(5, "vjob", "veth", near) });
        [host(vec![super::near(3, 1, 1500)], Vec::new()), pod]
    };
    let said = |near, far, far_up, near_up| {
        let found = judge(&read(near, far, far_up, near_up)).findings.into_iter();
        let found = found.filter(|found| found.name == Name::VethUnequal);
        found.map(|found| (found.promises, found.fits, found.what, found.fix)).collect::<Vec<_>>()
    };
    let frees = "bytes and frees what is longer without telling anybody";
    assert_eq!(
        said(1450, 1400, true, true),
        [(
            1450,
            1400,
            format!(
                "vjob of shop/p1 has MTU 1450; its other end, eth0, in the container behind it, takes 1400 {frees}"
            ),
            "ip link set vjob mtu 1400 (in shop/p1)".to_owned()
        )]
    );
    assert_eq!(
        said(1400, 1450, true, true),
        [(
            1450,
            1400,
            format!(
                "eth0, in the container behind it, has MTU 1450; its other end, vjob of shop/p1 takes 1400 {frees}"
            ),
            "ip link set eth0 mtu 1400 (in the container behind vjob of shop/p1)".to_owned()
        )]
    );
    assert!(said(1400, 1450, false, true).is_empty() && said(1400, 1450, true, false).is_empty());
    assert!(said(1404, 1400, true, true).is_empty() && said(1400, 1404, true, true).is_empty());
}

#[test]
fn a_route_that_promises_more_than_its_device_takes_is_told() {
    let promising = |mtu, table| {
        let to = route("10.9.0.0/24", 1, Some("192.168.1.9"));
        Route { mtu: Some(mtu), table, ..to }
    };
    let read = |link: Link, route: Route| [host(vec![link], vec![route])];
    let said = |read: &[Namespace]| found(read, Name::RouteMtu);
    let fix = |read: &[Namespace]| judge(read).findings[0].fix.clone();
    let one = read(eth0(1500), promising(1501, MAIN));
    let what = "eth0 takes 1500 bytes, but routes by it promise up to 1501: 10.9.0.0/24";
    assert_eq!(said(&one), [("eth0".to_owned(), 1501, 1500, what.to_owned())]);
    assert_eq!(fix(&one), "`ip route change metric 0 $(ip route show exact 10.9.0.0/24 metric 0) mtu 1500`");
    let other = read(eth0(1500), promising(9000, 100));
    assert_eq!(
        fix(&other),
        "`ip route change table 100 metric 0 $(ip route show exact 10.9.0.0/24 table 100 metric 0) mtu 1500`"
    );
    assert!(said(&read(eth0(1500), promising(1500, MAIN))).is_empty(), "as much as it takes");
    assert!(said(&read(eth0(1500), Route { mtu: None, ..promising(0, MAIN) })).is_empty());
    assert!(said(&read(down(eth0(1500)), promising(9000, MAIN))).is_empty());
    assert!(said(&read(eth0(1500), Route { dead: true, ..promising(9000, MAIN) })).is_empty());
    let lo = Link { loopback: true, ..eth0(1500) };
    assert!(said(&read(lo, promising(9000, MAIN))).is_empty());
}

/// The host's default route, or a link's own, says nothing of where a pod is.
#[test]
fn a_pod_that_no_route_of_its_own_leads_to_is_not_judged_by_the_hosts_way() {
    let read = |to: &str| {
        let mut way = route(to, 3, None);
        way.metric = 10;
        let routes = vec![route("0.0.0.0/0", 1, Some("192.168.1.1")), route("::/0", 1, Some("fe80::9")), way];
        [host(vec![eth0(1400), near(3, 1, 1500)], routes), pod(1, 3, 1500)]
    };
    let said = |read: &[Namespace]| found(read, Name::PodLargerThanPath).len();
    assert_eq!(said(&read("10.42.1.5/32")), 1);
    assert_eq!(said(&read("fd00::5/128")), 1);
    for to in ["0.0.0.0/0", "::/0", "fe80::/64"] {
        assert_eq!(said(&read(to)), 0, "{to}");
    }
    let [mut host, pod] = read("10.42.1.5/32");
    host.links[1].up = false;
    assert_eq!(said(&[host, pod]), 0, "its end on the host is down");
    let [host, mut pod] = read("10.42.1.5/32");
    pod.links[0].up = false;
    assert_eq!(said(&[host, pod]), 0, "its own is");
}

/// Pods beside each other on a bridge that leads out, too: which of them is too large nothing says.
#[test]
fn pods_on_the_bridge_that_leads_out_are_not_judged_by_it() {
    let read = |master| {
        let links = vec![
            Link::up(9, "br0", "bridge", 1400),
            Link { master: Some(9), ..eth0(1400) },
            Link { master, ..near(3, 1, 1500) },
        ];
        let routes = vec![route("10.42.0.0/16", 9, None), route("10.42.1.5/32", 3, None)];
        [host(links, routes), pod(1, 3, 1500)]
    };
    assert!(found(&read(Some(9)), Name::PodLargerThanPath).is_empty());
    assert_eq!(found(&read(None), Name::PodLargerThanPath).len(), 1);
}

#[test]
fn a_list_tells_three_and_how_many_more() {
    let pods = |count: i32| {
        let links = (1..=count).map(|number| near(number.unsigned_abs() + 2, number, 1500));
        let ways =
            (1..=count).map(|number| route(&format!("10.42.1.{number}/32"), number.unsigned_abs() + 2, None));
        let routes = ways.chain([route("0.0.0.0/0", 1, Some("192.168.1.1"))]).collect();
        let mut read = vec![host([eth0(1400)].into_iter().chain(links).collect(), routes)];
        read.extend((1..=count).map(|number| pod(number, number.unsigned_abs() + 2, 1500)));
        let findings = judge(&read).findings;
        findings.iter().find(|found| found.name == Name::PodLargerThanPath).unwrap().sentence()
    };
    assert!(pods(3).contains("; hurt: shop/p1, shop/p2, shop/p3 (medium confidence). Fix: "), "{}", pods(3));
    assert!(pods(5).contains("; hurt: shop/p1, shop/p2, shop/p3 and 2 more (medium"), "{}", pods(5));
}
