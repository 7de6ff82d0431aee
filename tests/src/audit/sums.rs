//! The overlay sum of each kind of tunnel, held against what the kernel puts on the underlay.

use std::net::{Ipv4Addr, SocketAddr};

use crate::harness::netns::Netns;
use crate::harness::packet::{udp, udp_unfragmented};
use crate::harness::pod::{Node, Pod};
use crate::harness::until;

use super::{Flannel, Said, has_devices};

/// What the underlay takes after all tunnels were made on one that takes 1500.
const TAKES: u64 = 1400;

/// An IP header and a UDP header.
const INNER: usize = 28;

/// A host with one uplink, which answers nobody and counts.
fn host() -> Netns {
    let host = Netns::new();
    host.ip("link set lo up\nlink add eth0 up mtu 1500 type dummy\naddr add 10.99.0.1/24 dev eth0\n\
         addr add fd99::1/64 dev eth0 nodad\nroute add default via 10.99.0.254\n");
    host
}

/// Bytes that went out by a device, as the kernel counted them.
pub(super) fn sent(host: &Netns, device: &str) -> u64 {
    let counters = host.inside(|| std::fs::read_to_string("/proc/thread-self/net/dev").unwrap());
    let line = counters.lines().find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':')).unwrap();
    line.split_whitespace().nth(8).unwrap().parse().unwrap()
}

/// Bytes that a tunnel adds to each packet to this address, measured on the underlay.
fn measured(host: &Netns, to: [u8; 4]) -> u64 {
    const PACKETS: u64 = 100;
    const PAYLOAD: usize = 500;
    const ETHERNET: u64 = 14;
    let to = SocketAddr::from((Ipv4Addr::from(to), 9));
    // What else is sent meanwhile, such as IPv6's own messages, makes the sum uneven.
    until("the underlay is quiet", || {
        let before = sent(host, "eth0");
        host.inside(|| udp(to, PACKETS, PAYLOAD));
        let bytes = sent(host, "eth0") - before;
        let alone = bytes > 0 && bytes.is_multiple_of(PACKETS);
        alone.then_some(bytes / PACKETS - ETHERNET - (PAYLOAD + INNER) as u64)
    })
}

/// Makes the tunnel, measures it, takes the underlay down to [`TAKES`], and compares.
fn expect(name: &str, kind: &str, confidence: &str) {
    let host = host();
    host.ip(&format!("link add tun0 {kind}\nlink set tun0 up\naddr add 10.99.9.1/24 dev tun0\n"));
    // A tunnel that carries Ethernet would ask who has it; one that does not refuses the answer.
    if host.run("ip", &["link", "show", "dev", "tun0"]).contains("link/ether") {
        host.ip("neigh add 10.99.9.2 lladdr 02:00:00:00:00:02 dev tun0\n");
    }
    let adds = measured(&host, [10, 99, 9, 2]);
    host.ip(&format!("link set eth0 mtu {TAKES}\n"));
    check(&host, name, adds, confidence);
}

fn check(host: &Netns, name: &str, adds: u64, confidence: &str) {
    let said = Said::json(&Node::routing(host));
    let of = |line: &&&serde_json::Value| line["interface"] == "tun0";
    let findings = said.findings("overlay_too_large");
    let finding = findings.iter().find(of).unwrap_or_else(|| panic!("{name}: {}\n{}", said.text, said.notes));
    let fits = TAKES - adds;
    assert_eq!(finding["fits"], fits, "{name} adds {adds}: {finding:#}");
    assert_eq!(finding["confidence"], confidence, "{name}: {finding:#}");
    assert!(
        finding["fix"].as_str().unwrap().starts_with(&format!("ip link set tun0 mtu {fits}")),
        "{finding:#}"
    );
    let link = said.link(None, "tun0");
    assert_eq!([&link["overhead"], &link["lower"]], [&adds.into(), &serde_json::json!("eth0")], "{name}");
    // What it says to do is what helps.
    host.ip(&format!("link set tun0 mtu {fits}\n"));
    let said = Said::json(&Node::routing(host));
    assert!(said.events("finding").is_empty(), "{name}: {}", said.text);
}

#[test]
fn vxlan() {
    if !has_devices() {
        return;
    }
    expect("vxlan", "type vxlan id 7 local 10.99.0.1 remote 10.99.0.2 dev eth0 dstport 4789", "high");
}

#[test]
fn vxlan_by_route() {
    if !has_devices() {
        return;
    }
    expect("vxlan by route", "type vxlan id 7 local 10.99.0.1 remote 10.98.0.2 dstport 4789", "medium");
}

#[test]
fn vxlan_by_ipv6() {
    if !has_devices() {
        return;
    }
    expect(
        "vxlan by IPv6",
        "type vxlan id 7 local fd99::1 remote fd99::2 dstport 4789 udp6zerocsumtx udp6zerocsumrx",
        "medium",
    );
}

#[test]
fn geneve() {
    if !has_devices() {
        return;
    }
    expect("geneve", "type geneve id 7 remote 10.99.0.2", "medium");
    expect("geneve by IPv6", "type geneve id 7 remote fd99::2", "medium");
}

#[test]
fn gre() {
    if !has_devices() {
        return;
    }
    expect("gre", "type gre local 10.99.0.1 remote 10.99.0.2 dev eth0", "high");
    expect("gre with options", "type gre local 10.99.0.1 remote 10.99.0.2 key 7 ocsum oseq", "medium");
    expect("gretap", "type gretap local 10.99.0.1 remote 10.99.0.2", "medium");
    expect("ip6gre", "type ip6gre local fd99::1 remote fd99::2", "medium");
}

#[test]
fn ip_in_ip() {
    if !has_devices() {
        return;
    }
    expect("ipip", "type ipip local 10.99.0.1 remote 10.99.0.2", "medium");
    expect("ip6tnl", "type ip6tnl mode any local fd99::1 remote fd99::2", "medium");
    expect("ip6tnl, no limit", "type ip6tnl mode any local fd99::1 remote fd99::2 encaplimit none", "medium");
}

/// Calico's: one device with no end of its own; the next hop of each route is where its packets go.
#[test]
fn ip_in_ip_to_the_next_hop() {
    if !has_devices() {
        return;
    }
    let host = host();
    host.ip("link add tun0 type ipip local 10.99.0.1\nlink set tun0 up\n\
         route add 10.97.0.0/24 via 10.99.0.7 dev tun0 onlink\n");
    let adds = measured(&host, [10, 97, 0, 2]);
    host.ip(&format!("link set eth0 mtu {TAKES}\n"));
    check(&host, "ipip to the next hop", adds, "medium");
}

/// Where each peer is says its way, and the narrowest counts. Some of its packets have been cut up.
#[test]
fn wireguard() {
    if !has_devices() {
        return;
    }
    let host = host();
    host.ip(&format!(
        "link add tun0 type wireguard\nlink set tun0 mtu 1420 up\nlink set eth0 mtu 1500\n\
         route add 10.98.0.0/24 via 10.99.0.7 mtu {TAKES}\n"
    ));
    // Any 32 bytes in base64 will do.
    for (key, endpoint, findings) in [
        ("AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "10.99.0.2:51820", 0),
        ("AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=", "10.98.0.2:51820", 1),
    ] {
        host.run("wg", &["set", "tun0", "peer", key, "endpoint", endpoint]);
        let said = Said::json(&Node::routing(&host));
        assert_eq!(said.events("finding").len(), findings, "{endpoint}: {}", said.text);
        assert!(said.events("not_judged").is_empty(), "{}", said.text);
    }
    let said = Said::json(&Node::routing(&host));
    assert_eq!(said.only("overlay_too_large")["fragments"], 0);
    host.inside(|| udp("10.99.0.9:9".parse().unwrap(), 3, 4000));
    let said = Said::json(&Node::routing(&host));
    let finding = said.only("overlay_too_large");
    assert_eq!(finding["fragments"], 9, "{finding:#}");
    assert!(
        finding["message"].as_str().unwrap().contains("9 fragments were made there so far"),
        "{finding:#}"
    );
    // Header and what proves the packet, in UDP in IPv4 (drivers/net/wireguard/messages.h).
    check(&host, "wireguard", 16 + 16 + 8 + 20, "medium");
}

/// The kernel takes these along when what is below gets smaller; that they fit, and what they add, is said.
#[test]
fn vlan_and_macsec() {
    if !has_devices() {
        return;
    }
    let host = host();
    host.ip(&format!(
        "link add link eth0 name eth0.5 type vlan id 5\nlink set eth0.5 up\n\
         link add link eth0 macsec0 type macsec encrypt on\nlink set macsec0 up\nlink set eth0 mtu {TAKES}\n"
    ));
    let said = Said::json(&Node::routing(&host));
    for (name, adds) in [("eth0.5", 0), ("macsec0", 32)] {
        let link = said.link(None, name);
        let sum = [&link["lower"], &link["overhead"], &link["fits"], &link["confidence"]];
        let wanted = serde_json::json!(["eth0", adds, TAKES - adds, "high"]);
        assert_eq!(serde_json::json!(sum), wanted, "{link:#}");
        // 6.1 forgets some: then it is too large, and that must be found.
        let too_large = link["interface_mtu"].as_u64().unwrap() > TAKES - adds;
        assert_eq!(said.findings("overlay_too_large").len(), usize::from(too_large), "{}", said.text);
    }
}

#[test]
fn a_tunnel_in_a_tunnel() {
    if !has_devices() {
        return;
    }
    let host = host();
    host.ip("link add outer type ipip local 10.99.0.1 remote 10.99.0.2\nlink set outer mtu 1480 up\n\
         addr add 10.99.8.1/24 dev outer\n\
         link add link eth0 name eth0.5 type vlan id 5\nlink set eth0.5 up\n\
         link add tun0 type vxlan id 7 local 10.99.8.1 remote 10.99.8.2 dstport 4789\n\
         link set tun0 mtu 1430 up\naddr add 10.99.9.1/24 dev tun0\n\
         neigh add 10.99.9.2 lladdr 02:00:00:00:00:02 dev tun0\n");
    let adds = measured(&host, [10, 99, 9, 2]);
    host.ip(&format!("link set eth0 mtu {TAKES}\n"));
    let said = Said::json(&Node::routing(&host));
    let findings = said.findings("overlay_too_large");
    let fits = |name: &str| findings.iter().find(|line| line["interface"] == name).map(|line| &line["fits"]);
    assert_eq!(fits("tun0"), Some(&(TAKES - adds).into()), "{adds}: {}", said.text);
    assert_eq!(fits("outer"), Some(&(TAKES - 20).into()), "{}", said.text);
    assert_eq!(said.link(None, "tun0")["lower"], "outer");
}

/// What one device of the node says is not all: a path that was learned counts, for the tunnel and by itself.
///
/// ```text
///  host rh 10.99.7.1 --- 10.99.7.2 ha hop hb 10.99.8.1, MTU 1400
/// ```
#[test]
fn a_learned_path_is_shown_and_counts() {
    if !has_devices() {
        return;
    }
    let [host, hop] = std::array::from_fn(|_| Netns::new());
    host.ip(&format!(
        "link set lo up\nlink add rh up type veth peer name ha netns {}\naddr add 10.99.7.1/24 dev rh\n\
         addr add fd99:7::1/64 dev rh nodad\nroute add 10.99.8.0/24 via 10.99.7.2\n\
         route add fd99:8::/64 via fd99:7::2\n\
         link add tun0 type ipip local 10.99.7.1 remote 10.99.8.2\nlink set tun0 mtu 1480 up\n",
        hop.path()
    ));
    hop.ip(&format!(
        "link set ha up\naddr add 10.99.7.2/24 dev ha\naddr add fd99:7::2/64 dev ha nodad\n\
         link add hb up mtu {TAKES} type dummy\naddr add 10.99.8.1/24 dev hb\naddr add fd99:8::1/64 dev hb nodad\n"
    ));
    for (name, value) in
        [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1"), ("ipv4/icmp_ratelimit", "0")]
    {
        hop.sysctl(name, value);
    }
    let node = Node::routing(&host);
    let before = Said::json(&node);
    assert!(before.events("exception").is_empty() && before.events("finding").is_empty(), "{}", before.text);
    let ends = ["10.99.8.2:9", "[fd99:8::2]:9"].map(|to| to.parse::<SocketAddr>().unwrap());
    let said = until("both paths are learned", || {
        for to in ends {
            host.inside(|| udp_unfragmented(to, 1, 1430));
        }
        let said = Said::json(&node);
        (said.events("exception").len() == 2).then_some(said)
    });
    for to in ends {
        let learned = said.events("exception");
        let learned = learned.iter().find(|line| line["destination_ip"] == to.ip().to_string()).unwrap();
        assert_eq!([&learned["interface"], &learned["mtu"]], [&serde_json::json!("rh"), &TAKES.into()]);
        assert!(
            learned["expires_seconds"].as_u64().is_some_and(|left| (1..=600).contains(&left)),
            "{learned:#}"
        );
    }
    let finding = said.only("overlay_too_large");
    assert_eq!([&finding["interface"], &finding["fits"]], [&serde_json::json!("tun0"), &(TAKES - 20).into()]);
    assert!(finding["message"].as_str().unwrap().contains("the path to 10.99.8.2"), "{finding:#}");
}

/// The tunnel's finding names the pods behind it; theirs says what they are to be set to.
#[test]
fn pods_behind_a_tunnel() {
    if !has_devices() {
        return;
    }
    let flannel = Flannel::new();
    flannel.host.ip(&format!("link set eth0 mtu {TAKES}\n"));
    let said = Said::json(&flannel.node);
    let [tunnel] = said.findings("overlay_too_large")[..] else { panic!("{}", said.text) };
    assert_eq!(
        [&tunnel["interface"], &tunnel["fits"], &tunnel["hurt_pods"]],
        [&serde_json::json!("flannel.1"), &1350.into(), &2.into()]
    );
    assert_eq!(tunnel["confidence"], "high");
    let pods = said.findings("pod_larger_than_path");
    // Both are larger than the tunnel, and than the uplink, by which they reach what is not of the cluster.
    let fits: Vec<_> = pods.iter().map(|line| &line["fits"]).collect();
    assert_eq!(fits, [&1400, &1350], "{}", said.text);
    assert!(
        pods.iter().all(|line| line["confidence"] == "medium" && line["hurt_pods"] == 2),
        "{}",
        said.text
    );

    // As Cilium has it: the pod's own route promises no more than fits, so its interface may be larger.
    flannel.host.ip("link set flannel.1 mtu 1350\n");
    flannel.web.ip("route change default via 10.244.1.1 mtu 1350\n");
    let said = Said::json(&flannel.node);
    let pods = said.findings("pod_larger_than_path");
    assert!(!pods.is_empty() && pods.iter().all(|line| line["hurt_pods"] == 1), "{}", said.text);
    assert!(pods.iter().all(|line| line["pod_name"] == "db-0"), "{}", said.text);
    assert_eq!(said.events("route").len(), 1, "{}", said.text);
    flannel.pods.into_iter().for_each(Pod::stop);
}
