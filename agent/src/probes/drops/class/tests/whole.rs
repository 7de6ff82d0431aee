//! What each class means and what mends it, word for word.

use std::sync::Arc;

use agent_common::quote::Tunnel;

use super::tables::{IPV6_INPUT, NO_FRAGMENTS, UDP_SOCKET};
use super::words::{About, Home, Late, Refused};
use super::*;
use crate::kernel::limits::{Bucket, Chain, Fill, Loss, Netem, Policed, Port};
use crate::pod::Pod;
use crate::probes::drops::evidence::Evidence;

/// What is said of each case, in their order: class and case, and below them its meaning and its fix (`-` if it has none).
const WORDS: &str = include_str!("words.txt");

const ON_ETH7: About<'static> = About {
    reason: "",
    device: Some("eth7"),
    mtu: 1500,
    ip_version: 4,
    frame: 0,
    tunnel: None,
    told: false,
    refused: None,
    late: None,
    is_portless: false,
    home: None,
    evidence: None,
};
const NOTHING: About<'static> = About { device: None, mtu: 0, ip_version: 0, ..ON_ETH7 };

/// The reasons of which a class says more than of others.
const REASONS: [(Class, &[&str]); 9] = [
    (
        Class::Policy,
        &[
            "SOCKET_FILTER", "BPF_CGROUP_EGRESS", "TC_INGRESS", "TC_EGRESS", "TC_RECLASSIFY_LOOP", "XDP",
            "XFRM_POLICY", "SECURITY_HOOK", "PSP_INPUT", "PSP_OUTPUT", "NETFILTER_DROP", "OVS_DROP_EXPLICIT",
            "OVS_DROP_ACTION_ERROR", "OVS_DROP_METER",
        ],
    ),
    (
        Class::Routing,
        &[
            "IP_LOCAL_SOURCE", "IP_INVALID_SOURCE", "IP_INVALID_DEST", "IP_LOCALNET", "IP_INADDRERRORS",
            "VXLAN_VNI_NOT_FOUND", "TUNNEL_TXINFO", "NO_TX_TARGET", "IP_INNOROUTES", "IP_OUTNOROUTES",
        ],
    ),
    (
        Class::Queue,
        &[
            "CPU_BACKLOG", "SOCKET_RCVBUFF", "SOCKET_BACKLOG", "TCP_LISTEN_OVERFLOW", "NEIGH_QUEUEFULL",
            "FULL_RING", "QDISC_DROP", UDP_SOCKET,
        ],
    ),
    (Class::NoSocket, &["IP_NOPROTO"]),
    (Class::Ttl, &["IPV6_NDISC_HOP_LIMIT", "TCP_MINTTL"]),
    (Class::Fragment, &["FRAG_TOO_FAR"]),
    (Class::Memory, &["TCP_OFO_QUEUE_PRUNE", "PROTO_MEM", NO_FRAGMENTS]),
    (Class::Malformed, &[IPV6_INPUT]),
    (
        Class::TcpState,
        &["TCP_ZEROWINDOW", "TCP_OVERWINDOW", "TCP_MD5FAILURE", "TCP_AONOTFOUND", "TCP_MD5UNEXPECTED"],
    ),
];

fn case(class: Class, name: &str, about: About<'_>) -> String {
    let fix = class.fix(&about).unwrap_or("-".into());
    format!("{} {name}:\n  {}\n  {fix}\n", class.name(), class.means(&about))
}

/// What refuses a packet that is routed.
fn of_routing() -> [String; 13] {
    [
        ("martian", Refused::Martian),
        ("to itself", Refused::Itself),
        ("of the loopback's network", Refused::Localnet),
        ("by its source", Refused::Source),
        ("refused by a route", Refused::ByRoute),
        ("perhaps refused by a route", Refused::PerhapsByRoute),
        ("discarded", Refused::Discarded),
        ("without a tunnel", Refused::NoTunnel),
        ("without a tunnel's device", Refused::NoTunnelDevice),
        ("without a way back", Refused::NoWayBack),
        ("without a peer", Refused::NoPeer),
        ("without a flow", Refused::NoFlow),
        ("without a port", Refused::Port),
    ]
    .map(|(name, refused)| case(Class::Routing, name, About { refused: Some(refused), ..ON_ETH7 }))
}

/// What is known of a drop, in every way that changes a word.
fn told() -> Vec<String> {
    let mut told: Vec<String> = Class::ALL.into_iter().flat_map(of_class).collect();
    let v6 = About { ip_version: 6, ..ON_ETH7 };
    for class in [Class::Policy, Class::Netfilter, Class::ForwardingOff, Class::NeighbourTable] {
        told.push(case(class, "IPv6", v6));
    }
    for mtu in [1279, 1280] {
        told.push(case(Class::Ipv6Off, &format!("at {mtu}"), About { mtu, ..v6 }));
        told.push(case(Class::Ipv6Off, &format!("at {mtu}, unnamed"), About { mtu, device: None, ..v6 }));
    }
    for tunnel in [Tunnel::Vxlan, Tunnel::Geneve] {
        let tunnel = Some((tunnel, [192, 0, 2, 1].into()));
        told.push(case(Class::Checksum, "in a tunnel", About { tunnel, ..ON_ETH7 }));
    }
    told.extend(of_routing());
    let source = About { reason: "IP_INADDRERRORS", refused: Some(Refused::Source), ..v6 };
    told.push(case(Class::Routing, "by its source, IPv6", source));
    for refused in [Refused::ByRoute, Refused::PerhapsByRoute] {
        told.push(case(Class::Routing, "refused, IPv6", About { refused: Some(refused), ..v6 }));
    }
    told.push(case(Class::Routing, "on lo", About { device: Some("lo"), ..ON_ETH7 }));
    told.push(case(Class::Policy, "IPsec", About { refused: Some(Refused::Ipsec), ..ON_ETH7 }));
    let tunnel = Some((Tunnel::Ip, [10, 9, 0, 2].into()));
    told.push(case(Class::Policy, "of a tunnel's packet", About { tunnel, ..ON_ETH7 }));
    told.push(case(Class::Policy, "IPsec's device", About { refused: Some(Refused::NoPolicy), ..ON_ETH7 }));
    told.push(case(Class::Neighbour, "WireGuard", About { refused: Some(Refused::NoHandshake), ..ON_ETH7 }));
    told.push(case(Class::NoSocket, "an answer", About { late: Some(Late::Answer), ..ON_ETH7 }));
    for reason in ["NO_SOCKET", ""] {
        told.push(case(
            Class::NoSocket,
            "no connection",
            About { late: Some(Late::Segment), reason, ..ON_ETH7 },
        ));
    }
    told.push(case(Class::Mtu, "told", About { told: true, ..ON_ETH7 }));
    told.push(case(Class::Memory, "of fragments, IPv6", About { reason: NO_FRAGMENTS, ..v6 }));
    told.push(case(Class::Netfilter, "of a queue", About { refused: Some(Refused::NoQueue), ..ON_ETH7 }));
    told.push(case(Class::Neighbour, "at an idle bridge", About { is_portless: true, ..ON_ETH7 }));
    let chain =
        |family, table: &str, name: &str| Chain { family, table: table.to_owned(), name: name.to_owned() };
    let chains = [chain("ip", "filter", "KUBE-FORWARD"), chain("inet", "firewalld", "filter_FORWARD")];
    let policer = |burst, mtu| Evidence::Policer { length: 1400, less: Policed { burst, mtu } };
    let fill = Fill { entries: 1023, limit: 1024 };
    let ports = |ports: &[(&str, u32)]| Evidence::Ports {
        length: 1500,
        less: ports.iter().map(|(name, mtu)| Port { name: (*name).to_owned(), mtu: *mtu }).collect(),
    };
    let listens =
        |at: &str, asked: &str| Evidence::Listens { at: at.parse().unwrap(), asked: asked.parse().unwrap() };
    let other_ports = |listen: &[u16]| Evidence::OtherPorts { asked: 6379, listen: listen.into() };
    let four = [("pb", 1400), ("pc", 1450), ("pd", 1450), ("pe", 1499)];
    for (class, name, evidence) in [
        (Class::NeighbourTable, "full", Evidence::Neighbours(fill)),
        (Class::Netfilter, "full", Evidence::Conntrack(fill)),
        (Class::Policy, "INVALID", Evidence::Invalid([].into())),
        (Class::Policy, "INVALID by one chain", Evidence::Invalid(chains[..1].into())),
        (Class::Policy, "INVALID by one of two chains", Evidence::Invalid(chains.clone().into())),
        (Class::Policy, "INVALID message", Evidence::InvalidMessage([].into())),
        (Class::Policy, "INVALID message by one chain", Evidence::InvalidMessage(chains[..1].into())),
        (Class::NoSocket, "not translated back", Evidence::NotTranslated(([10, 96, 0, 1], 53).into())),
        (Class::NoSocket, "elsewhere", listens("127.0.0.1:8080", "10.244.1.10")),
        (Class::NoSocket, "elsewhere by IPv6", listens("[::1]:8080", "fd00::10")),
        (Class::NoSocket, "IPv6 alone", listens("[::]:8080", "10.244.1.10")),
        (Class::NoSocket, "IPv4 alone", listens("0.0.0.0:8080", "fd00::10")),
        (Class::NoSocket, "not ready", listens("0.0.0.0:8080", "10.244.1.10")),
        (Class::NoSocket, "another port", other_ports(&[8080])),
        (Class::NoSocket, "three other ports", other_ports(&[80, 8080, 9090])),
        (Class::NoSocket, "another connection", Evidence::TalksTo(([10, 96, 0, 1], 80).into())),
        (Class::Neighbour, "another station's", Evidence::OtherStation([10, 244, 1, 10].into())),
        (Class::Neighbour, "another hop's", Evidence::OtherHop([10, 244, 1, 10].into())),
        (Class::Mtu, "burst", Evidence::Burst(Bucket::of(1000))),
        (Class::Queue, "netem", Evidence::Loses(Netem { loss: Loss::Random(u32::MAX / 8), parent: None })),
        (
            Class::Queue,
            "netem's model",
            Evidence::Loses(Netem { loss: Loss::Model, parent: Some((0x8001, 10)) }),
        ),
        (Class::Mtu, "policer's burst", policer(Some(1000), None)),
        (Class::Mtu, "policer's mtu", policer(None, Some(1200))),
        (Class::Mtu, "both of a policer", policer(Some(1000), Some(1200))),
        (Class::Mtu, "a port", ports(&four[..1])),
        (Class::Mtu, "three ports", ports(&four[..3])),
        (Class::Mtu, "four ports", ports(&four)),
    ] {
        let about = About { evidence: Some(&evidence), frame: 1400, ..ON_ETH7 };
        told.push(case(class, name, about));
        told.push(case(class, &format!("{name}, IPv6"), About { ip_version: 6, ..about }));
        told.push(case(
            class,
            &format!("{name}, unnamed, larger"),
            About { device: None, frame: 1515, ..about },
        ));
    }
    let evidence = listens("0.0.0.0:8080", "10.244.1.10");
    let named = About { reason: "NO_SOCKET", evidence: Some(&evidence), ..ON_ETH7 };
    told.push(case(Class::NoSocket, "not ready, by its reason", named));
    told.extend(at_homes());
    told
}

/// What is said of a class, and of its reasons.
fn of_class(class: Class) -> Vec<String> {
    let mut told = vec![case(class, "without details", NOTHING), case(class, "on eth7", ON_ETH7)];
    let reasons = REASONS.iter().filter(|(of, _)| *of == class).flat_map(|(_, reasons)| *reasons);
    told.extend(reasons.map(|reason| case(class, reason, About { reason, ..ON_ETH7 })));
    told
}

/// What is said of each class that died in a pod's network namespace, in another and in the host's.
fn at_homes() -> Vec<String> {
    let pod = Pod { namespace: "shop".into(), name: "web-0".into(), uid: "u".into() };
    let [pod, netns, host] = [Home::Pod(Arc::new(pod)), Home::Netns(4_026_532_301), Home::Host];
    let mut told: Vec<String> = Class::ALL
        .into_iter()
        .filter(|class| class.fix(&ON_ETH7).is_some())
        .map(|class| case(class, "in a pod", About { home: Some(&pod), ..ON_ETH7 }))
        .collect();
    let of = |(class, reasons): &(Class, &[&'static str])| {
        let class = *class;
        reasons.iter().map(move |reason| (class, *reason)).collect::<Vec<_>>()
    };
    for (class, reason) in REASONS.iter().flat_map(of) {
        told.push(case(class, &format!("{reason} in a pod"), About { reason, home: Some(&pod), ..ON_ETH7 }));
    }
    let v6 = About { ip_version: 6, ..ON_ETH7 };
    for (name, home) in [("in a pod", &pod), ("in another namespace", &netns), ("on the node", &host)] {
        for class in [Class::DeviceDown, Class::ForwardingOff, Class::ReversePath] {
            told.push(case(class, name, About { home: Some(home), ..ON_ETH7 }));
        }
        told.push(case(Class::ForwardingOff, &format!("IPv6 {name}"), About { home: Some(home), ..v6 }));
        let small = About { mtu: 1000, home: Some(home), ..v6 };
        told.push(case(Class::Ipv6Off, &format!("at 1000 {name}"), small));
    }
    told
}

/// A command that names a device, or a setting of a network namespace, says whose: the node has an `eth0` as well.
#[test]
fn what_is_to_be_set_in_a_pod_says_so() {
    let pod = Home::Pod(Arc::new(Pod { namespace: "shop".into(), name: "web-0".into(), uid: "u".into() }));
    for class in Class::ALL {
        for reason in REASONS.iter().flat_map(|(_, reasons)| *reasons).chain([&""]) {
            let about = About { reason, home: Some(&pod), ..ON_ETH7 };
            let Some(fix) = class.fix(&about) else { continue };
            let is_of_namespace = fix.contains("eth7") || fix.contains("`ip ") || fix.contains("`nft ");
            let says = fix.ends_with(" (in shop/web-0)");
            assert!(says || !is_of_namespace, "{class:?} {reason}: {fix}");
            assert!(says || !fix.contains("sysctl -w"), "{class:?} {reason}: {fix}");
        }
    }
}

/// Who may make a network namespace names its devices, and a person pastes what is told.
#[test]
fn no_shell_obeys_a_devices_name() {
    let evidence = [
        None,
        Some(Evidence::Loses(Netem { loss: Loss::Model, parent: None })),
        Some(Evidence::Burst(Bucket::of(1000))),
        Some(Evidence::Policer { length: 1400, less: Policed { burst: Some(1000), mtu: None } }),
    ];
    let reasons = || REASONS.iter().flat_map(|(_, reasons)| *reasons).chain([&""]);
    for (class, reason) in Class::ALL.into_iter().flat_map(|class| reasons().map(move |one| (class, one))) {
        for (ip_version, evidence) in evidence.iter().flat_map(|one| [(4, one), (6, one)]) {
            let evidence = evidence.as_ref();
            let about = About { reason, device: Some("$(reboot)"), ip_version, evidence, ..ON_ETH7 };
            let fix = class.fix(&about).unwrap_or_default();
            for command in fix.split('`').skip(1).step_by(2) {
                let bare = command.split('\'').step_by(2).any(|bare| bare.contains("reboot"));
                assert!(!bare, "{class:?} {reason}: {command}");
            }
        }
    }
}

#[test]
fn every_class_is_worded_as_it_is_written() {
    let told = told();
    let written: Vec<&str> = WORDS.split_inclusive('\n').collect();
    let written: Vec<String> = written.chunks(3).map(<[&str]>::concat).collect();
    for (told, written) in told.iter().zip(&written) {
        assert_eq!(told, written);
    }
    assert_eq!(told.len(), written.len());
}
