//! What the kernel's tables and queues say, at the moment a packet died, of why it did.

use std::net::SocketAddr;
use std::sync::Arc;

use agent_common::drops::{Direction, DropRecord, circumstance};

use super::class::{Class, Harm, Verdict};
use crate::kernel::limits::{Chain, Fill, Limits, Loss, Policed, Side};
use crate::kernel::sockets::Sockets;

/// What is looked at: an echo reply that nobody waits for any more is none of it.
const NOBODY_LISTENS: Verdict = Verdict { class: Class::NoSocket, harm: Harm::Harmful };

/// What speaks for a cause beside the kernel's reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The neighbour table is full.
    Neighbours(Fill),
    /// Conntrack's table is full.
    Conntrack(Fill),
    /// Conntrack is in use, has called packets INVALID, and knows no connection that this one belongs to.
    /// These chains have a rule that drops such packets; none are named where it is not known, or there are too many.
    Invalid(Arc<[Chain]>),
    /// It answers a socket there that has asked another address.
    NotTranslated(SocketAddr),
    /// A token bucket of the device never holds enough for such a packet: its burst, bytes.
    Burst(u32),
    /// The device loses packets on purpose.
    Loses(Loss),
    /// A policer of the device never lets such a packet pass.
    Policer {
        /// Bytes of the packet that it has measured.
        length: u32,
        /// What of the policer is less.
        less: Policed,
    },
}

/// Where evidence is looked for.
pub(super) struct Sources {
    pub(super) limits: Limits,
    pub(super) sockets: Sockets,
}

/// The evidence there is for a drop, and what it means by that. `function` is where the packet died, `from` who sent it, of
/// protocols with ports.
pub(super) fn gather(
    Sources { limits, sockets }: &Sources,
    record: &DropRecord,
    reason: &str,
    function: &str,
    from: Option<SocketAddr>,
    verdict: Verdict,
) -> (Verdict, Option<Evidence>) {
    if verdict == NOBODY_LISTENS
        && let Some(from) = from
    {
        let expects = sockets.expects(record.netns, record.protocol, record.destination_port, from);
        return (verdict, expects.map(Evidence::NotTranslated));
    }
    // All namespaces share one neighbour table.
    if verdict.class == Class::NeighbourTable {
        let fill = limits.neighbours(record.ip_version).filter(|fill| fill.is_full());
        return (verdict, fill.map(Evidence::Neighbours));
    }
    if !limits.are_of(record.netns) {
        return (verdict, None);
    }
    if let Some(evidence) = too_long(limits, record, reason, function, verdict) {
        return (Verdict { class: Class::Mtu, ..verdict }, Some(evidence));
    }
    if verdict == (Verdict { class: Class::Queue, harm: Harm::Harmful })
        && side(reason, function) == Some(Side::Queue)
    {
        return (verdict, limits.queueing(record.ifindex).loss.map(Evidence::Loses));
    }
    match verdict.class {
        Class::Netfilter | Class::Policy => {
            let conntrack = limits.conntrack();
            let is_untracked = record.circumstances & circumstance::UNTRACKED != 0;
            let full = conntrack.filter(|now| verdict.class == Class::Netfilter && now.fill.is_full());
            let invalid = conntrack.filter(|now| is_untracked && now.invalid > 0);
            let evidence = full.map(|now| Evidence::Conntrack(now.fill)).or_else(|| {
                let direction = Direction::from_wire(record.direction).unwrap_or(Direction::Unknown);
                let chains = |_| limits.chains_dropping_invalid(record.ip_version, direction, function);
                invalid.and_then(chains).map(Evidence::Invalid)
            });
            (verdict, evidence)
        }
        _ => (verdict, None),
    }
}

/// What never lets a packet of its size pass, where it died.
fn too_long(
    limits: &Limits,
    record: &DropRecord,
    reason: &str,
    function: &str,
    verdict: Verdict,
) -> Option<Evidence> {
    let side = side_of_size(reason, function, verdict)?;
    let burst = || limits.queueing(record.ifindex).burst.filter(|burst| frame(record) > *burst);
    let burst = if side == Side::Queue { burst() } else { None };
    burst.map(Evidence::Burst).or_else(|| {
        let policer = limits.policers(record.ifindex, side).of(record.ethertype);
        policer.and_then(|policer| policed(record, policer))
    })
}

/// Whether evidence may yet show that packets which die so are too long.
pub(super) fn size_may_be_why(reason: &str, function: &str, verdict: Verdict) -> bool {
    side_of_size(reason, function, verdict).is_some()
}

/// Where it is that the packet was, if what is there may refuse it for its size.
fn side_of_size(reason: &str, function: &str, verdict: Verdict) -> Option<Side> {
    let side = side(reason, function)?;
    let unnamed = if side == Side::Ingress { Class::Other } else { Class::Queue };
    let is_open = verdict.harm == Harm::Harmful && [Class::Policy, unnamed].contains(&verdict.class);
    is_open.then_some(side)
}

/// Where the packet was that died here, if that was where filters or a queueing discipline refuse packets. Kernels without reasons
/// have only the function.
fn side(reason: &str, function: &str) -> Option<Side> {
    match (reason, function) {
        ("TC_INGRESS", _)
        | ("" | "TC_RECLASSIFY_LOOP", "sch_handle_ingress" | "__netif_receive_skb_core") => {
            Some(Side::Ingress)
        }
        ("TC_EGRESS", _) | ("" | "TC_RECLASSIFY_LOOP", "sch_handle_egress" | "__dev_queue_xmit") => {
            Some(Side::Egress)
        }
        (
            "" | "TC_RECLASSIFY_LOOP",
            "__dev_xmit_skb"
            | "kfree_skb_list"
            | "kfree_skb_list_reason"
            | "tcf_kfree_skb_list"
            | "__tcf_kfree_skb_list",
        ) => Some(Side::Queue),
        _ => reason.starts_with("QDISC_").then_some(Side::Queue),
    }
}

/// Whether the policer lets a packet of its size pass at all (`tcf_police_act`).
fn policed(record: &DropRecord, policer: Policed) -> Option<Evidence> {
    // The burst must hold all segments at once. The MTU must as well in kernels before 5.12; in others a segment.
    let burst = policer.burst.filter(|burst| record.len > *burst);
    let mtu = policer.mtu.filter(|mtu| frame(record) > *mtu);
    let length = if burst.is_some() { record.len } else { frame(record) };
    (burst.is_some() || mtu.is_some()).then_some(Evidence::Policer { length, less: Policed { burst, mtu } })
}

/// Bytes of the largest frame that is made of the packet.
pub(super) fn frame(record: &DropRecord) -> u32 {
    /// Ethernet, IP and TCP without options: no segment is shorter than that and its payload.
    const HEADERS: u32 = 14 + 20 + 20;
    if record.gso_size == 0 { record.len } else { record.len.min(u32::from(record.gso_size) + HEADERS) }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    /// An advice to make a table larger that has room, or that is another namespace's, would send a person the wrong way.
    #[test]
    fn a_table_is_to_blame_if_it_is_full_and_the_packets_own() {
        let proc = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(proc.path().join("self/ns")).unwrap();
        std::os::unix::fs::symlink("/proc/self/ns/net", proc.path().join("self/ns/net")).unwrap();
        let own = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata("/proc/self/ns/net").unwrap());
        let own = DropRecord { netns: own.try_into().unwrap(), ip_version: 4, ..record(1500, 0) };
        let told = |record: &DropRecord, class| {
            let sources =
                Sources { limits: Limits::below(proc.path()), sockets: Sockets::below(proc.path()) };
            let verdict = Verdict { class, harm: Harm::Harmful };
            let (same, evidence) = gather(&sources, record, "", "", None, verdict);
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
        let proc = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(proc.path().join("self/ns")).unwrap();
        std::os::unix::fs::symlink("/proc/self/ns/net", proc.path().join("self/ns/net")).unwrap();
        let own = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata("/proc/self/ns/net").unwrap());
        let own = DropRecord { netns: own.try_into().unwrap(), ip_version: 4, ..record(1500, 0) };
        // Which rules there are is not known: no module of nftables is loaded.
        let invalid = Some(Evidence::Invalid([].into()));
        let untracked = circumstance::UNTRACKED;
        for (calls, circumstances, wanted) in
            [("1", untracked, invalid), ("1", !untracked, None), ("0", untracked, None)]
        {
            write(
                proc.path(),
                &[
                    ("net/stat/nf_conntrack", &format!("entries invalid\n00000001 {calls}\n")),
                    ("sys/net/netfilter/nf_conntrack_count", "1"),
                    ("sys/net/netfilter/nf_conntrack_max", "16"),
                ],
            );
            let sources =
                Sources { limits: Limits::below(proc.path()), sockets: Sockets::below(proc.path()) };
            let record = DropRecord { circumstances, ..own };
            for class in [Class::Policy, Class::Netfilter] {
                let verdict = Verdict { class, harm: Harm::Harmful };
                let told = gather(&sources, &record, "", "", None, verdict);
                assert_eq!(told, (verdict, wanted.clone()), "{calls} {circumstances:#x}");
            }
        }
    }
}
