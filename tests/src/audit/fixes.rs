//! Each fix is a cure: its commands are run as they are, where it says, and then packets arrive and nothing is found.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use crate::harness::netns::Netns;
use crate::harness::packet::udp;
use crate::harness::pod::{Node, Pod};
use crate::harness::until;

use super::{DB, Flannel, Said, WEB, has_devices};

/// Runs all commands of a fix, each in the namespaces that it names; without a name it is the host's.
pub(super) fn apply(fix: &str, host: &Netns, places: &[(&str, &Netns)]) {
    let (mut rest, mut done) = (fix, 0);
    while let Some(start) = rest.find('`').into_iter().chain(rest.find("ip link set ")).min() {
        rest = &rest[start..];
        let command = match rest.strip_prefix('`') {
            Some(quoted) => quoted.split_once('`').expect("an end of the command").0,
            None => plain(rest),
        };
        rest = rest.trim_start_matches('`')[command.len()..].trim_start_matches('`');
        let place = rest.strip_prefix(" (in ").map(|place| place.split_once(')').unwrap().0);
        let named: Vec<&Netns> = match place {
            None => vec![host],
            Some(place) => {
                places.iter().filter(|(name, _)| place.contains(name)).map(|(_, netns)| *netns).collect()
            }
        };
        assert!(!named.is_empty(), "where is {place:?}? {fix}");
        for netns in named {
            netns.run("sh", &["-e", "-c", command]);
            done += 1;
        }
    }
    assert!(done > 0, "no command: {fix}");
}

/// `ip link set NAME mtu NUMBER` at the start of a text.
fn plain(text: &str) -> &str {
    let number = text.find(" mtu ").expect("an MTU") + " mtu ".len();
    let digits = text[number..].find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len() - number);
    &text[..number + digits]
}

/// Whether a datagram of so many bytes, with its headers, arrives, be it in fragments.
fn arrives(from: &Netns, at: &Netns, to: &str, bytes: usize) -> bool {
    let to: SocketAddr = to.parse().unwrap();
    let payload = bytes - if to.is_ipv4() { 28 } else { 48 };
    let socket = at.inside(|| UdpSocket::bind(to).unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    from.inside(|| udp(to, 1, payload));
    socket.recv(&mut vec![0; 10_000]).is_ok_and(|length| length == payload)
}

fn fix(finding: &serde_json::Value) -> &str {
    finding["fix"].as_str().unwrap()
}

fn expect_nothing(node: &Node) {
    let said = Said::json(node);
    assert!(said.events("finding").is_empty(), "{}", said.text);
}

#[test]
fn of_a_veth_either_end() {
    let [host, web] = std::array::from_fn(|_| Netns::new());
    host.ip(&format!(
        "link add va up mtu 1400 type veth peer name eth0 mtu 1500 netns {}\naddr add 10.1.0.1/24 dev va\n",
        web.path()
    ));
    web.ip("link set eth0 up\naddr add 10.1.0.2/24 dev eth0\n");
    let node = Node::routing(&host);
    let pod = Pod::start(&node, WEB, &web);
    let places = [(WEB, &web)];
    until("they reach each other", || arrives(&web, &host, "10.1.0.1:9", 1000).then_some(()));
    for variant in 0..2 {
        assert!(!arrives(&web, &host, "10.1.0.1:9", 1450), "it is freed at the smaller end");
        let said = Said::json(&node);
        let (lower, raise) = fix(said.only("veth_unequal")).split_once("; or ").unwrap();
        apply([lower, raise][variant], &host, &places);
        expect_nothing(&node);
        assert!(arrives(&web, &host, "10.1.0.1:9", 1450) && arrives(&host, &web, "10.1.0.2:9", 1450));
        web.ip("link set eth0 mtu 1500\n");
    }
    pod.stop();
}

#[test]
fn of_a_bridge_either_way() {
    if !has_devices() {
        return;
    }
    for variant in 0..2 {
        let flannel = Flannel::new();
        let db = flannel.pods[1].netns.clone();
        until("they reach each other", || arrives(&flannel.web, &db, "10.244.1.3:9", 1000).then_some(()));
        flannel.host.ip("link set vb mtu 1400\nlink set cni0 mtu 1450\n");
        db.ip("link set eth0 mtu 1400\n");
        assert!(!arrives(&flannel.web, &db, "10.244.1.3:9", 1450), "it is freed at the smaller port");
        let said = Said::json(&flannel.node);
        let (lower, raise) = fix(said.only("bridge_port_unequal")).split_once("; or ").unwrap();
        apply([lower, raise][variant], &flannel.host, &[(WEB, &flannel.web), (DB, &db)]);
        expect_nothing(&flannel.node);
        assert!(
            arrives(&flannel.web, &db, "10.244.1.3:9", 1450)
                && arrives(&db, &flannel.web, "10.244.1.2:9", 1450)
        );
        assert!(arrives(&flannel.host, &db, "10.244.1.3:9", 1450));
        flannel.pods.into_iter().for_each(Pod::stop);
    }
}

/// ```text
///  host eth0 10.99.0.1, 1400 --- eth0 10.99.0.2 ext, lo 10.98.0.2        eth1 10.89.0.1, 1300
/// ```
#[test]
fn of_a_route_only_its_mtu() {
    if !has_devices() {
        return;
    }
    let [host, ext] = std::array::from_fn(|_| Netns::new());
    host.ip(&format!(
        "link set lo up\nlink add eth0 up mtu 1400 type veth peer name eth0 mtu 1400 netns {}\n\
         addr add 10.99.0.1/24 dev eth0\naddr add fd99::1/64 dev eth0 nodad\n\
         link add eth1 up mtu 1300 type dummy\naddr add 10.89.0.1/24 dev eth1\naddr add fd89::1/64 dev eth1 nodad\n",
        ext.path()
    ));
    ext.ip("link set lo up\nlink set eth0 up\naddr add 10.99.0.2/24 dev eth0\naddr add fd99::2/64 dev eth0 nodad\n\
         addr add 10.98.0.2/32 dev lo\naddr add fd98::2/128 dev lo nodad\n");
    let node = Node::routing(&host);
    until("they reach each other", || {
        let both = ["10.99.0.2:9", "[fd99::2]:9"].map(|to| arrives(&host, &ext, to, 1000));
        (both == [true; 2]).then_some(())
    });
    host.ip("nexthop add id 12 via 10.99.0.2 dev eth0 onlink\nnexthop add id 13 via 10.89.0.2 dev eth1\n\
         nexthop add id 14 group 12,3/13\nnexthop add id 16 via fd99::2 dev eth0\n");
    let ways4 = "nexthop via 10.99.0.2 dev eth0 weight 3 nexthop via 10.89.0.2 dev eth1";
    let ways6 = "nexthop via fd99::2 dev eth0 weight 3 nexthop via fd89::2 dev eth1";
    let routes = [
        ("-4", "10.98.0.0/24", "via 10.99.0.2 mtu 9000".to_owned(), 1400),
        ("-4", "10.98.0.0/24", "via 10.99.0.2 dev eth0 onlink proto dhcp src 10.99.0.1 metric 100 mtu 9000 initcwnd 20 advmss 1200".into(), 1400),
        ("-4", "10.98.0.0/24", "via 10.99.0.2 mtu lock 9000".into(), 1400),
        ("-4", "10.98.0.0/24", format!("mtu 9000 {ways4}"), 1300),
        ("-4", "10.98.0.0/24", format!("mtu lock 9000 initcwnd 20 table 77 metric 5 proto bird {ways4}"), 1300),
        ("-4", "default", "via 10.99.0.2 mtu 9000".into(), 1400),
        // As FRR sets them.
        ("-4", "10.98.0.0/24", "nhid 12 proto bgp metric 20 mtu 9000".into(), 1400),
        ("-4", "10.98.0.0/24", "nhid 14 proto bgp metric 20 mtu lock 9000".into(), 1300),
        ("-6", "fd98::/64", "via fd99::2 mtu 9000".into(), 1400),
        ("-6", "fd98::/64", "nhid 16 proto bgp metric 20 mtu 9000".into(), 1400),
        ("-6", "fd98::/64", "via fd99::2 proto dhcp src fd99::1 metric 100 mtu 9000 initcwnd 20 pref high".into(), 1400),
        ("-6", "fd98::/64", format!("mtu 9000 {ways6}"), 1300),
        ("-6", "fd98::/64", format!("table 77 metric 5 mtu 9000 {ways6}"), 1300),
        ("-6", "default", "via fd99::2 metric 300 mtu 9000 expires 5000".into(), 1400),
    ];
    for (family, to, rest, least) in routes {
        let line = format!("{family} route add {to} {rest}");
        host.run("ip", &line.split_whitespace().collect::<Vec<_>>());
        let shown = || {
            let table = if rest.contains("table 77") { "77" } else { "main" };
            let shown = host.run("ip", &[family, "route", "show", "exact", to, "table", table]);
            let words = shown.split_whitespace().filter(|word| !word.ends_with("sec"));
            words.map(str::to_owned).collect::<Vec<_>>().join(" ")
        };
        let before = shown();
        assert!(before.contains("9000"), "{before}");
        let end = if family == "-4" { "10.98.0.2:9" } else { "[fd98::2]:9" };
        let is_used = !rest.contains("table 77") && !rest.contains("nexthop") && !rest.contains("nhid 14");
        assert!(!is_used || !arrives(&host, &ext, end, 1450), "{to} {rest}: it is freed at the other end");
        let said = Said::json(&node);
        let findings = said.findings("route_mtu");
        assert_eq!(findings.len(), if least == 1300 { 2 } else { 1 }, "{}", said.text);
        apply(fix(findings[0]), &host, &[]);
        expect_nothing(&node);
        assert_eq!(shown(), before.replacen("9000", &least.to_string(), 1), "{to} {rest}");
        assert!(!is_used || arrives(&host, &ext, end, 1450), "{to} {rest}");
        // A table that is not there has none, and what is by an object `flush` leaves.
        let flush = format!(
            "for t in main 77; do ip {family} route flush exact {to} table $t; ip {family} route del {to}; done 2>/dev/null; true"
        );
        host.run("sh", &["-c", &flush]);
    }
}

/// Another node is at the other end of the uplink: what pods send there fits, and what is beside them takes what it did.
#[test]
fn of_pods_their_routes() {
    if !has_devices() {
        return;
    }
    let flannel = Flannel::new();
    let (host, other, web) = (&flannel.host, &flannel.switch, &flannel.web);
    let db = flannel.pods[1].netns.clone();
    host.sysctl("ipv4/ip_forward", "1");
    other.ip("link set lo up\naddr add 10.99.0.2/24 dev eth0\naddr add 10.244.2.2/32 dev lo\n\
         link add flannel.1 type vxlan id 1 local 10.99.0.2 dev eth0 dstport 8472 nolearning\n\
         link set flannel.1 mtu 1450 up\naddr add 10.244.2.0/32 dev flannel.1\n\
         route add 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink\n");
    for (netns, end) in [(host, "10.99.0.2"), (other, "10.99.0.1")] {
        netns.run("bridge", &["fdb", "append", "00:00:00:00:00:00", "dev", "flannel.1", "dst", end]);
    }
    until("web reaches the other node", || arrives(web, other, "10.244.2.2:9", 1000).then_some(()));
    until("web reaches db", || arrives(web, &db, "10.244.1.3:9", 1000).then_some(()));
    expect_nothing(&flannel.node);
    host.ip("link set flannel.1 mtu 1350\n");
    assert!(!arrives(web, other, "10.244.2.2:9", 1450), "it does not fit");
    let said = Said::json(&flannel.node);
    let finding = said.only("pod_larger_than_path");
    assert_eq!(finding["hurt_pods"], 2);
    apply(fix(finding), host, &[(WEB, web), (DB, &db)]);
    expect_nothing(&flannel.node);
    // The first of them: no message was needed.
    assert!(arrives(web, other, "10.244.2.2:9", 1450) && arrives(&db, other, "10.244.2.2:9", 1450));
    assert!(arrives(web, &db, "10.244.1.3:9", 1450) && arrives(host, &db, "10.244.1.3:9", 1450));
    flannel.pods.into_iter().for_each(Pod::stop);
}
