//! Rows as a person and a program read them.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::audit::overlay::{self, Limit};
use crate::links::{Encapsulation, NetnsId, Tunnel};
use crate::sink::Confidence;

fn pod(name: &str) -> Arc<Pod> {
    Arc::new(Pod { namespace: "shop".into(), name: name.into(), uid: name.into() })
}

fn route(to: &str, gateway: Option<&str>, mtu: Option<u32>, advmss: Option<u32>) -> Route {
    Route {
        destination: to.parse().unwrap(),
        device: 1,
        gateway: gateway.map(|gateway| gateway.parse().unwrap()),
        table: 254,
        metric: 0,
        mtu,
        advmss,
        expires: false,
        object: None,
        dead: false,
        linkdown: false,
    }
}

fn learned(last: u8, expires: Option<u64>) -> Exception {
    let expires = expires.map(Duration::from_secs);
    Exception { destination: [198, 51, 100, last].into(), device: 1, mtu: 1400, expires }
}

/// A host with a tunnel, whose second device leads to a pod; the pod's only device is the other end of that.
fn reading() -> (Vec<Namespace>, Judgement) {
    let (near, far) = ((Some(2), Some(NetnsId(5))), (Some(3), Some(NetnsId(0))));
    let veth = |index, name, (lower, lower_netns)| Link {
        lower,
        lower_netns,
        ..Link::up(index, name, "veth", 1500)
    };
    let tunnel = Tunnel {
        local: Some([192, 0, 2, 1].into()),
        remote: Some([192, 0, 2, 2].into()),
        ..Tunnel::plain(Encapsulation::Vxlan)
    };
    let host = Namespace {
        id: Some(NetnsId(0)),
        links: vec![
            Link { loopback: true, ..Link::up(9, "lo", "loopback", 65_536) },
            Link { up: false, ..Link::up(1, "eth0", "physical", 1500) },
            Link { lower: Some(1), tunnel: Some(tunnel), ..Link::up(2, "vx", "vxlan", 1450) },
            veth(3, "cali1", near),
            veth(4, "cali2", (Some(2), Some(NetnsId(77)))),
            Link { lower: Some(1), ..Link::up(5, "eth0.7", "vlan", 1500) },
        ],
        routes: Some(vec![
            route("10.0.0.0/8", Some("192.0.2.9"), None, None),
            route("10.1.0.0/16", Some("192.0.2.9"), Some(1400), None),
            route("10.2.0.0/16", None, None, Some(1300)),
        ]),
        exceptions: Some(vec![learned(2, Some(590)), learned(3, None)]),
        ..Namespace::default()
    };
    let pod = Namespace {
        owner: Some(pod("web")),
        id: Some(NetnsId(5)),
        links: vec![veth(2, "eth0", far)],
        ..Namespace::default()
    };
    let sum = Sum {
        overhead: 50,
        underlay: At { namespace: 0, index: 1 },
        takes: 1500,
        limit: Limit::Device,
        fits: 1450,
        confidence: Confidence::High,
    };
    let sums = [(At { namespace: 0, index: 2 }, sum)].into();
    (vec![host, pod], Judgement { sums, ..Judgement::default() })
}

fn shown(read: &[Namespace], at: usize, judgement: &Judgement, all: bool) -> Vec<String> {
    let row = |row: &Row<'_>| {
        let mut cells = Vec::new();
        row.cells(&mut cells);
        let texts: Vec<&str> = cells.iter().map(|cell| &*cell.text).collect();
        format!("{} {}", row.table(), texts.join(" "))
    };
    rows(read, at, judgement, all).iter().map(row).collect()
}

/// What is wrong is found in these rows by eye: `-` is what there is not, `?` what could not be seen.
#[test]
fn a_row_has_what_was_read_and_a_dash_for_what_there_is_not() {
    let (read, judgement) = reading();
    let links = [
        "links host eth0 physical 1500 down - - - - -",
        "links host vx vxlan 1450 up 192.0.2.1 192.0.2.2 eth0 50 1450",
        "links host cali1 veth 1500 up - - eth0@shop/web - -",
        "links host cali2 veth 1500 up - - ? - -",
        "links host eth0.7 vlan 1500 up - - eth0 - -",
    ];
    let others = [
        "routes host 10.1.0.0/16 192.0.2.9 254 eth0 1400 -",
        "routes host 10.2.0.0/16 - 254 eth0 - 1300",
        "exceptions host 198.51.100.2 eth0 1400 590 s",
        "exceptions host 198.51.100.3 eth0 1400 -",
    ];
    assert_eq!(shown(&read, 0, &judgement, false), [&links[..], &others].concat());
    let lo = ["links host lo loopback 65536 up - - - - -"];
    assert_eq!(shown(&read, 0, &judgement, true), [&lo[..], &links, &others].concat());
    let pods = ["links shop/web eth0 veth 1500 up - - cali1@host - -"];
    assert_eq!(shown(&read, 1, &judgement, false), pods);
    assert!(shown(&read, 2, &judgement, true).is_empty());
}

/// The value of this name, as JSON would have it.
fn field(says: &dyn Says, name: &str) -> String {
    let mut fields = Vec::new();
    says.fields(&mut fields);
    match fields.into_iter().find(|(is, _)| *is == name).unwrap().1 {
        Value::Absent | Value::Portless | Value::Pod(None) => "null".to_owned(),
        Value::Text(text) | Value::Interface(text) | Value::Reason(text) => text.into_owned(),
        Value::Number(number) => number.to_string(),
        Value::Flag(flag) => flag.to_string(),
        Value::Ip(ip) => ip.to_string(),
        Value::Pod(Some(pod)) => pod.name.clone(),
        other => panic!("{other:?}"),
    }
}

fn fields(says: &dyn Says, names: &[&str]) -> String {
    names.iter().map(|name| field(says, name)).collect::<Vec<_>>().join(" ")
}

fn message(says: &dyn Says) -> String {
    let mut text = String::new();
    says.message(&mut text);
    text
}

#[test]
fn a_program_reads_the_same_by_name() {
    const LINK: [&str; 12] = [
        "event", "pod", "interface", "interface_kind", "interface_mtu", "up", "lower", "local_ip",
        "remote_ip", "overhead", "takes", "fits",
    ];
    let (read, judgement) = reading();
    let rows_of = |at| rows(&read, at, &judgement, false);
    let host = rows_of(0);
    assert_eq!(fields(&host[0], &LINK), "link null eth0 physical 1500 false null null null null null null");
    assert_eq!(field(&host[0], "confidence"), "null");
    assert_eq!(fields(&host[1], &LINK), "link null vx vxlan 1450 true eth0 192.0.2.1 192.0.2.2 50 1500 1450");
    assert_eq!(field(&host[1], "confidence"), "high");
    let route = ["event", "destination", "gateway_ip", "table", "interface", "mtu", "advmss"];
    assert_eq!(fields(&host[5], &route), "route 10.1.0.0/16 192.0.2.9 254 eth0 1400 null");
    assert_eq!(fields(&host[6], &route), "route 10.2.0.0/16 null 254 eth0 null 1300");
    let exception = ["event", "destination_ip", "interface", "mtu", "expires_seconds"];
    assert_eq!(fields(&host[7], &exception), "exception 198.51.100.2 eth0 1400 590");
    assert_eq!(field(&host[8], "expires_seconds"), "null");
    assert_eq!(field(&rows_of(1)[0], "pod"), "web");
    assert_eq!(message(&rows_of(1)[0]), "eth0 (veth) of shop/web has MTU 1500");
    assert_eq!(message(&host[5]), "route 10.1.0.0/16 by eth0 of host has numbers of its own");
    assert_eq!(message(&host[7]), "the path of host to 198.51.100.2 by eth0 takes 1400 bytes");
}

fn finding(owner: Option<Arc<Pod>>, pods: Vec<Arc<Pod>>) -> Finding {
    Finding {
        name: overlay::Name::VethUnequal,
        confidence: Confidence::High,
        owner,
        interface: "eth0".to_owned(),
        kind: "veth".to_owned(),
        interface_mtu: 1500,
        promises: 1500,
        fits: 1400,
        what: "eth0 takes too much".to_owned(),
        fix: "set it".to_owned(),
        fragments: None,
        pods,
    }
}

/// What has ended must not look like a finding, and a finding is about the pod that it is in, else about one that it hurts.
#[test]
fn a_finding_is_a_warning_until_it_is_gone() {
    let (web, db) = (pod("web"), pod("db"));
    for (owner, pods, about) in [
        (None, vec![], None),
        (None, vec![Arc::clone(&db)], Some("db")),
        (Some(Arc::clone(&web)), vec![db], Some("web")),
    ] {
        let (finding, hurt) = (finding(owner, pods.clone()), pods.len().to_string());
        for (gone, event, level) in [(false, "finding", Level::Warn), (true, "gone", Level::Info)] {
            let verdict = Verdict { finding: &finding, gone };
            let line = verdict.line(Span::root(), SystemTime::UNIX_EPOCH);
            assert_eq!((line.level, line.pod.map(|pod| pod.name.as_str())), (level, about));
            let told = fields(&verdict, &["event", "finding", "fits", "fragments", "hurt_pods", "fix"]);
            assert_eq!(told, format!("{event} veth_unequal 1400 null {hurt} set it"));
        }
    }
    let of_pod = finding(Some(web), Vec::new());
    let said = |gone| message(&Verdict { finding: &of_pod, gone });
    assert_eq!(said(true), "veth_unequal of eth0 (shop/web) is gone: it fits, or is no more");
    assert_eq!(said(false), of_pod.sentence());
}

#[test]
fn a_gap_says_whose_it_is_and_whether_it_could_be_read() {
    let device = NotJudged {
        owner: Some(pod("web")),
        subject: "br-int".to_owned(),
        kind: "openvswitch".to_owned(),
        why: "a switch decides".into(),
        unread: false,
    };
    let judged = Gap::NotJudged(&device);
    assert_eq!(message(&judged), "br-int (openvswitch) of shop/web is not judged: a switch decides");
    let names = ["event", "pod", "subject", "interface_kind", "why", "unread"];
    assert_eq!(fields(&judged, &names), "not_judged web br-int openvswitch a switch decides false");
    let host = Namespace::default();
    let unread = Unread { what: "routes", why: "needs CAP_SYS_ADMIN".to_owned() };
    let gap = Gap::of(&host, &unread);
    assert_eq!(message(&gap), "routes of host not read: needs CAP_SYS_ADMIN");
    assert_eq!(fields(&gap, &names), "not_judged null routes null needs CAP_SYS_ADMIN true");
    let of_pod = Namespace { owner: Some(pod("web")), ..Namespace::default() };
    assert_eq!(Gap::of(&of_pod, &unread).owner().map(|pod| pod.name.as_str()), Some("web"));
}
