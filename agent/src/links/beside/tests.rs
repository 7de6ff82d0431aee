//! What is read beside the routes, and which device gets it.

use super::super::{Link, Namespace};
use super::*;

#[test]
fn each_device_is_given_what_was_read_of_it() {
    let mut namespace = Namespace {
        links: [(1, "lo"), (2, "eth0"), (3, "wg0"), (4, "wg1"), (5, "eth1")]
            .map(|(index, name)| Link::up(index, name, "physical", 1500))
            .into(),
        ..Namespace::default()
    };
    namespace.links[4].program = Some("XDP");
    let unread = Unread { what: PEERS, why: "needs CAP_NET_ADMIN".to_owned() };
    let small = Bucket::of(1400);
    let beside = Beside {
        peers: vec![(3, vec![Some([10, 0, 0, 2].into()), None]), (9, vec![None])],
        filtered: Filtered { bpf: [2, 5].into(), acting: [(3, "polices"), (5, "redirects")].into() },
        tcx: [2, 4].into(),
        buckets: [(5, small)].into(),
        ipsec: Some(Ipsec { cut: true, ..Ipsec::default() }),
        unread: vec![unread.clone()],
    };
    beside.give(&mut namespace);
    let programs: Vec<_> = namespace.links.iter().map(|link| link.program).collect();
    assert_eq!(programs, [None, Some("tc"), None, Some("tcx"), Some("XDP")]);
    let filters: Vec<_> = namespace.links.iter().map(|link| link.filter).collect();
    assert_eq!(filters, [None, None, Some("polices"), None, Some("redirects")]);
    let buckets: Vec<_> = namespace.links.iter().map(|link| link.bucket).collect();
    assert_eq!(buckets, [None, None, None, None, Some(small)]);
    let peers: Vec<_> = namespace.links.iter().map(|link| link.peers.clone()).collect();
    assert_eq!(peers, [None, None, Some(vec![Some([10, 0, 0, 2].into()), None]), None, None]);
    assert_eq!(namespace.ipsec.map(|ipsec| ipsec.cut), Some(true));
    assert_eq!(namespace.unread, [unread]);
}

#[test]
fn fragments_of_both_families_are_counted() {
    let net = tempfile::tempdir().unwrap();
    assert_eq!(fragments(net.path()), None);
    fs::write(net.path().join("snmp"), "Ip: Forwarding FragCreates\nIp: 1 5\n").unwrap();
    assert_eq!(fragments(net.path()), Some(Fragments { v4: 5, v6: 0 }), "a kernel without IPv6");
    fs::write(net.path().join("snmp6"), "Ip6FragOKs \t3\nIp6FragCreates      \t7\n").unwrap();
    assert_eq!(fragments(net.path()), Some(Fragments { v4: 5, v6: 7 }));
}
