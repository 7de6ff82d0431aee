//! What tables, queues and sockets say of why a packet died, and when they are asked.

use std::path::Path;

use super::*;
use crate::kernel::limits::{Loss, Queueing};

mod shaped;

mod segments;

#[test]
fn a_side_is_told_by_the_reason_or_else_by_the_place() {
    for (reason, function, told) in [
        ("TC_INGRESS", "__netif_receive_skb_core", Some(Side::Ingress)),
        ("TC_EGRESS", "__dev_queue_xmit", Some(Side::Egress)),
        ("QDISC_DROP", "__dev_queue_xmit", Some(Side::Queue)),
        ("QDISC_OVERLIMIT", "tcf_kfree_skb_list", Some(Side::Queue)),
        ("TC_RECLASSIFY_LOOP", "__netif_receive_skb_core", Some(Side::Ingress)),
        ("TC_RECLASSIFY_LOOP", "__dev_queue_xmit", Some(Side::Egress)),
        ("TC_RECLASSIFY_LOOP", "kfree_skb_list_reason", Some(Side::Queue)),
        ("", "sch_handle_ingress", Some(Side::Ingress)),
        ("", "__dev_queue_xmit", Some(Side::Egress)),
        ("", "kfree_skb_list", Some(Side::Queue)),
        ("", "__udp_enqueue_schedule_skb", None),
        ("", "udp_queue_rcv_one_skb", None),
        ("", "tcp_add_backlog", None),
        ("", "enqueue_to_backlog", None),
        ("NOT_SPECIFIED", "__netif_receive_skb_core", None),
        ("SOCKET_RCVBUFF", "kfree_skb_list", None),
    ] {
        assert_eq!(side(reason, function), told, "{reason} {function}");
    }
}

/// `--reason mtu` has not seen what was only counted under such a class.
#[test]
fn size_may_be_why_where_a_queue_or_a_filter_refuses_it() {
    let verdict = |class| Verdict { class, harm: Harm::Harmful };
    assert!(size_may_be_why("QDISC_DROP", "", verdict(Class::Queue)));
    assert!(size_may_be_why("TC_EGRESS", "", verdict(Class::Policy)));
    assert!(size_may_be_why("", "sch_handle_ingress", verdict(Class::Other)));
    assert!(!size_may_be_why("TC_INGRESS", "", verdict(Class::Queue)));
    assert!(!size_may_be_why("NETFILTER_DROP", "nft_do_chain", verdict(Class::Policy)));
    assert!(!size_may_be_why("QDISC_DROP", "", Verdict { class: Class::Queue, harm: Harm::Benign }));
}

fn record(len: u32, gso_size: u16) -> DropRecord {
    let zero = DropRecord::from_bytes(&[0; size_of::<DropRecord>()]).unwrap();
    DropRecord { len, gso_size, ..zero }
}

/// A packet that is cut later is judged by its pieces: a device takes them one by one.
#[test]
fn the_largest_frame_of_a_packet_is_a_segment_of_it() {
    assert_eq!(frame(&record(60_000, 0)), 60_000);
    assert_eq!(frame(&record(60_000, 1400)), 1400 + 54);
    assert_eq!(frame(&record(1000, 1400)), 1000, "the last piece of it");
}

#[test]
fn a_policer_that_never_lets_it_pass_is_told_by_what_is_less() {
    let told = |record: DropRecord, burst, mtu| match policed(&record, Policed { burst, mtu })? {
        Evidence::Policer { length, less } => Some((length, less.burst, less.mtu)),
        other => panic!("{other:?}"),
    };
    let whole = record(1500, 0);
    assert_eq!(told(whole, Some(1500), Some(1500)), None, "what fits to the byte passes");
    assert_eq!(told(whole, None, None), None);
    assert_eq!(told(whole, Some(1499), Some(1500)), Some((1500, Some(1499), None)));
    assert_eq!(told(whole, Some(1500), Some(1499)), Some((1500, None, Some(1499))));
    // The burst holds all segments at once, the MTU one of them.
    let cut = record(60_000, 1400);
    assert_eq!(told(cut, Some(50_000), Some(1453)), Some((60_000, Some(50_000), Some(1453))));
    assert_eq!(told(cut, Some(60_000), Some(1453)), Some((1454, None, Some(1453))));
    assert_eq!(told(cut, Some(60_000), Some(1454)), None);
}

fn write(proc: &std::path::Path, files: &[(&str, &str)]) {
    for (file, text) in files {
        let file = proc.join(file);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
}

/// What is read below this `/proc`, of all namespaces.
fn below(proc: &Path) -> Sources {
    Sources { limits: Limits::below(proc, proc), sockets: Sockets::below(proc) }
}

/// An advice to make a table larger that has room, or that is another namespace's, would send a person the wrong way.
#[test]
fn a_table_is_to_blame_if_it_is_full_and_the_packets_own() {
    let (proc, own) = own_namespace();
    let told = |record: &DropRecord, class| {
        let sources = below(proc.path());
        let verdict = Verdict { class, harm: Harm::Harmful };
        // Who sent it matters only where nobody listens.
        let from = Some(([10, 1, 0, 3], 5432).into());
        let (same, evidence) = gather(&sources, record, "", "", from, false, verdict);
        assert_eq!(same, verdict);
        evidence
    };
    let full = Fill { entries: 16, limit: 16 };
    write(
        proc.path(),
        &[
            ("net/stat/arp_cache", "entries\n00000010\n"),
            ("sys/net/ipv4/neigh/default/gc_thresh3", "16"),
            ("sys/net/netfilter/nf_conntrack_count", "16"),
            ("sys/net/netfilter/nf_conntrack_max", "16"),
        ],
    );
    let elsewhere = DropRecord { netns: 1, ..own };
    assert_eq!(told(&elsewhere, Class::NeighbourTable), Some(Evidence::Neighbours(full)), "all share it");
    assert_eq!(told(&own, Class::Netfilter), Some(Evidence::Conntrack(full)));
    assert_eq!(told(&elsewhere, Class::Netfilter), None);
    // What is forwarded and has a connection a rule refuses, however full the table is.
    let netfilter = Verdict { class: Class::Netfilter, harm: Harm::Harmful };
    let says = |reason, direction: Direction, circumstances| {
        let mut record = own;
        (record.direction, record.circumstances) = (direction as u8, circumstances);
        let sources = below(proc.path());
        gather(&sources, &record, reason, "nf_hook_slow", None, false, netfilter).1.is_some()
    };
    let untracked = circumstance::UNTRACKED;
    for (reason, direction, circumstances, is_full) in [
        ("NETFILTER_DROP", Direction::Forwarded, 0, false),
        ("NETFILTER_DROP", Direction::Sent, 0, false),
        ("NETFILTER_DROP", Direction::Sent, untracked, true),
        ("NETFILTER_DROP", Direction::Received, 0, true),
        ("", Direction::Forwarded, 0, true),
    ] {
        assert_eq!(
            says(reason, direction, circumstances),
            is_full,
            "{reason} {direction:?} {circumstances:#x}"
        );
    }
    assert_eq!(told(&own, Class::Policy), None, "a rule has refused it");
    assert_eq!(told(&own, Class::Routing), None);
    write(
        proc.path(),
        &[("net/stat/arp_cache", "entries\n00000001\n"), ("sys/net/netfilter/nf_conntrack_count", "1")],
    );
    assert_eq!([Class::NeighbourTable, Class::Netfilter].map(|class| told(&own, class)), [None, None]);
}

#[test]
fn a_packet_of_no_connection_is_invalid_where_conntrack_calls_some_that() {
    let (proc, own) = own_namespace();
    // Which rules there are is not known: no module of nftables is loaded.
    let invalid = Some(Evidence::Invalid([].into()));
    let message = Some(Evidence::InvalidMessage([].into()));
    let untracked = circumstance::UNTRACKED;
    let about = |protocol, kind: u16| {
        let mut record = own;
        (record.protocol, record.source_port, record.flags) = (protocol, kind << 8, flags::HAS_TRANSPORT);
        record
    };
    let unread = DropRecord { flags: 0, ..about(1, 3) };
    for (calls, circumstances, record, wanted) in [
        ("1", untracked, own, invalid),
        ("1", !untracked, own, None),
        ("0", untracked, own, None),
        ("1", untracked, about(1, 3), message.clone()),
        ("0", untracked, about(1, 3), message.clone()),
        ("0", untracked, about(1, 11), message.clone()),
        ("0", untracked, about(58, 2), message),
        ("0", untracked, about(1, 8), None),
        ("0", untracked, about(58, 128), None),
        ("0", untracked, about(58, 135), None),
        ("0", untracked, about(6, 3), None),
        ("0", untracked, unread, None),
        ("0", !untracked, about(1, 3), None),
    ] {
        write(
            proc.path(),
            &[
                ("net/stat/nf_conntrack", &format!("entries invalid\n00000001 {calls}\n")),
                ("sys/net/netfilter/nf_conntrack_count", "1"),
                ("sys/net/netfilter/nf_conntrack_max", "16"),
            ],
        );
        let sources = below(proc.path());
        let record = DropRecord { circumstances, ..record };
        for class in [Class::Policy, Class::Netfilter] {
            let verdict = Verdict { class, harm: Harm::Harmful };
            let told = gather(&sources, &record, "", "", None, false, verdict);
            assert_eq!(told, (verdict, wanted.clone()), "{calls} {circumstances:#x}");
        }
    }
    // A pod's table is its own, and it may have rules of its own.
    std::fs::create_dir_all(proc.path().join("8/ns")).unwrap();
    std::os::unix::fs::symlink("/proc/self/ns/uts", proc.path().join("8/ns/net")).unwrap();
    write(proc.path(), &[("8/net/stat/nf_conntrack", "entries invalid\n00000001 00000001\n")]);
    // Which, though, are not read: this process cannot enter that.
    let pods = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata("/proc/self/ns/uts").unwrap());
    let pods = DropRecord { netns: pods.try_into().unwrap(), circumstances: untracked, ..own };
    let sources = below(proc.path());
    let policy = Verdict { class: Class::Policy, harm: Harm::Harmful };
    assert_eq!(gather(&sources, &pods, "", "", None, false, policy), (policy, None));
    // It is full, whatever the node's is.
    write(proc.path(), &[("8/net/stat/nf_conntrack", "entries invalid\n00000010 00000001\n")]);
    let sources = below(proc.path());
    let netfilter = Verdict { class: Class::Netfilter, harm: Harm::Harmful };
    let full = Evidence::Conntrack(Fill { entries: 16, limit: 16 });
    assert_eq!(gather(&sources, &pods, "", "", None, false, netfilter), (netfilter, Some(full)));
}

/// A `/proc` of this process's own network namespace, and a record of a packet in that.
fn own_namespace() -> (tempfile::TempDir, DropRecord) {
    let proc = tempfile::tempdir().unwrap();
    for process in ["self", "1"] {
        std::fs::create_dir_all(proc.path().join(process).join("ns")).unwrap();
        let file = proc.path().join(process).join("ns/net");
        std::os::unix::fs::symlink("/proc/self/ns/net", file).unwrap();
    }
    let own = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata("/proc/self/ns/net").unwrap());
    let record = DropRecord { netns: own.try_into().unwrap(), ip_version: 4, ifindex: 7, ..record(1500, 0) };
    (proc, record)
}

#[test]
fn a_frame_for_another_station_tells_whose_address_it_has() {
    let sources = below(Path::new("/"));
    let gathered = |ip_version, circumstances, class| {
        let mut record = DropRecord { ip_version, circumstances, netns: 1, ..record(100, 0) };
        record.destination[..4].copy_from_slice(&[10, 244, 1, 10]);
        let verdict = Verdict { class, harm: Harm::Harmful };
        gather(&sources, &record, "OTHERHOST", "ip_rcv_core", None, false, verdict).1
    };
    let own = circumstance::OTHERS | circumstance::OWN_ADDRESS;
    assert_eq!(gathered(4, own, Class::Neighbour), Some(Evidence::OtherStation([10, 244, 1, 10].into())));
    let six = "af4:10a::".parse().unwrap();
    assert_eq!(gathered(6, own, Class::Neighbour), Some(Evidence::OtherStation(six)));
    assert_eq!(gathered(4, circumstance::OTHERS, Class::Neighbour), None);
    assert_eq!(gathered(4, own, Class::Other), None);
    // In the host's namespace it was on its way to the pod.
    let (proc, mut record) = own_namespace();
    let sources = below(proc.path());
    record.circumstances = own;
    record.destination[..4].copy_from_slice(&[10, 244, 1, 10]);
    let verdict = Verdict { class: Class::Neighbour, harm: Harm::Harmful };
    let gathered = gather(&sources, &record, "OTHERHOST", "ip_rcv_core", None, false, verdict);
    assert_eq!(gathered, (verdict, Some(Evidence::OtherHop([10, 244, 1, 10].into()))));
}

/// A port of a switch is not told by the packet: each that takes less may be the one.
#[test]
fn ports_of_open_vswitch_that_take_less_make_it_too_long() {
    let (proc, own) = own_namespace();
    let port = |name: &str, mtu| Port { name: name.to_owned(), mtu };
    let ports = [port("pb", 1400), port("pc", 1485), port("pd", 1486), port("pa", 1500)];
    let gathered = |record: &DropRecord, place: (&str, &str), class| {
        let limits = Limits::below(proc.path(), proc.path()).with_ports(&ports);
        let sources = Sources { limits, sockets: Sockets::below(proc.path()) };
        let verdict = Verdict { class, harm: Harm::Harmful };
        let (verdict, evidence) = gather(&sources, record, place.0, place.1, None, false, verdict);
        (verdict.class, evidence)
    };
    let (named, unnamed) = (("NOT_SPECIFIED", "ovs_vport_send"), ("", "do_execute_actions"));
    let less = Evidence::Ports { length: 1486, less: ports[..2].into() };
    for place in [named, unnamed] {
        assert_eq!(gathered(&own, place, Class::Routing), (Class::Mtu, Some(less.clone())), "{place:?}");
        assert!(size_may_be_why(place.0, place.1, Verdict { class: Class::Routing, harm: Harm::Harmful }));
    }
    let routing = (Class::Routing, None);
    for (len, class) in [(1418, Class::Routing), (1419, Class::Mtu)] {
        let tagged = DropRecord { ethertype: 0x8100, len, ..own };
        assert_eq!(gathered(&tagged, named, Class::Routing).0, class, "a tag is none of its length");
    }
    let small = DropRecord { len: 1414, ..own };
    assert_eq!(gathered(&small, named, Class::Routing), routing, "each takes it: a port is down");
    assert_eq!(gathered(&DropRecord { gso_size: 1400, ..own }, named, Class::Routing), routing);
    assert_eq!(gathered(&DropRecord { netns: 1, ..own }, named, Class::Routing), routing, "of a pod");
    let explicit = ("OVS_DROP_EXPLICIT", "do_execute_actions");
    assert_eq!(gathered(&own, explicit, Class::Policy), (Class::Policy, None));
}

/// Where IPsec's devices are, plain tunnels end at its door.
#[test]
fn a_plain_tunnels_packet_that_ipsec_refuses_is_no_policy() {
    let sources = below(Path::new("/"));
    let refused = Verdict { class: Class::Policy, harm: Harm::Harmful };
    for (protocol, function, class) in [
        (4, "xfrm_input", Class::Routing),
        (41, "xfrm_input", Class::Routing),
        (50, "xfrm_input", Class::Policy),
        (4, "nft_do_chain", Class::Policy),
    ] {
        let record = DropRecord { protocol, ..record(100, 0) };
        let told = gather(&sources, &record, "NOT_SPECIFIED", function, None, false, refused);
        assert_eq!(told, (Verdict { class, ..refused }, None), "{protocol} in {function}");
    }
}

/// Only where a socket waits for another: else nobody listens, and that is all.
#[test]
fn an_answer_from_another_address_is_not_translated_back() {
    let (proc, own) = own_namespace();
    // From port 47222 to 10.10.10.10:53.
    let list = "  sl  local_address rem_address   st\n   1: 0A0A0A0A:B876 0A0A0A0A:0035 07\n";
    write(proc.path(), &[("1/net/udp", list)]);
    let own = DropRecord { protocol: 17, destination_port: 47_222, ..own };
    let told = |record: &DropRecord, from: Option<SocketAddr>, verdict| {
        let sources = below(proc.path());
        let (same, evidence) = gather(&sources, record, "NO_SOCKET", "__udp4_lib_rcv", from, false, verdict);
        assert_eq!(same, verdict);
        evidence
    };
    let pod = Some(([10, 1, 0, 3], 53).into());
    let asked = Some(Evidence::NotTranslated(([10, 10, 10, 10], 53).into()));
    assert_eq!(told(&own, pod, NOBODY_LISTENS), asked);
    assert_eq!(told(&own, None, NOBODY_LISTENS), None);
    assert_eq!(told(&own, pod, Verdict { harm: Harm::Benign, ..NOBODY_LISTENS }), None);
    let another = DropRecord { destination_port: 47_223, ..own };
    assert_eq!(told(&another, pod, NOBODY_LISTENS), None);
}

/// What IPv6 does not forward for its source dies where it does when forwarding is off.
#[test]
fn a_source_that_ipv6_forwards_nothing_from_is_why() {
    let sources = below(Path::new("/"));
    let told = |source: &str, reason, function, class| {
        let mut record = record(100, 0);
        (record.ip_version, record.source) = (6, source.parse::<Ipv6Addr>().unwrap().octets());
        gather(&sources, &record, reason, function, None, false, Verdict { class, harm: Harm::Harmful })
            .0
            .class
    };
    let off = |source| told(source, "IP_INADDRERRORS", "ip6_forward", Class::ForwardingOff);
    for source in ["fe80::1", "febf::1", "::1", "::", "ff02::1"] {
        assert_eq!(off(source), Class::Routing, "{source}");
        assert_eq!(told(source, "", "ip6_forward", Class::Other), Class::Routing, "{source}, no reason");
        assert_eq!(told(source, "PKT_TOO_BIG", "ip6_forward", Class::Mtu), Class::Mtu, "{source}");
        assert_eq!(told(source, "", "ip_forward", Class::Other), Class::Other, "{source}: of IPv4");
    }
    for source in ["fd97:1::2", "2001:db8::1", "::2", "fec0::1"] {
        assert_eq!(off(source), Class::ForwardingOff, "{source}");
    }
    let four = DropRecord { ip_version: 4, ..record(100, 0) };
    let verdict = Verdict { class: Class::ForwardingOff, harm: Harm::Harmful };
    assert_eq!(gather(&sources, &four, "IP_INADDRERRORS", "ip_error", None, false, verdict).0, verdict);
}
