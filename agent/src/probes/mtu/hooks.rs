//! Where the mtu probe listens, and what its kernel side must know of the running kernel's structures.

use agent_common::NO_REASON;
use agent_common::mtu::{self, hook};
use aya::maps::{Array, MapData};

use crate::kernel::Kernel;
use crate::kernel::kallsyms::Symbols;
use crate::probe::attach::{MapError, Maps};
use crate::probe::globals::{Globals, InByte, Offset, in_byte};
use crate::probe::ladder::on_functions;
use crate::probe::{Attach, Hook, Rung, Target};

/// In the order of [`hook`]: the kernel side's tallies go by it.
pub const ALL: &[Hook] = &[
    on_functions!("__icmp_send", "frag-needed messages that this node makes, and whether it sends them", true, [
        entry "__icmp_send": "icmp_begin_fentry", "icmp_begin_kprobe";
        entry "__ip_options_echo": "icmp_options_fentry", "icmp_options_kprobe";
        entry "icmp_push_reply": "icmp_push_fentry", "icmp_push_kprobe";
        end "icmp_push_reply": "icmp_push_fexit", "icmp_push_kretprobe";
        end "__icmp_send": "icmp_send_fexit", "icmp_send_kretprobe";
    ] or, "does not tell whether they are sent": [
        entry "__icmp_send": "icmp_send_fentry", "icmp_send_kprobe";
    ]),
    on_functions!("icmp6_send", "packet-too-big messages that this node makes, and whether it sends them", true, [
        entry "icmp6_send": "icmp6_send_fentry", "icmp6_send_kprobe";
        entry "icmpv6_route_lookup": "icmpv6_route_fentry", "icmpv6_route_kprobe";
        entry "icmpv6_push_pending_frames": "icmpv6_push_fentry", "icmpv6_push_kprobe";
        end "icmpv6_push_pending_frames": "icmpv6_push_fexit", "icmpv6_push_kretprobe";
        end "icmp6_send": "icmp6_send_fexit", "icmp6_send_kretprobe";
    ] or, "does not tell why one is not sent": [
        entry "icmp6_send": "icmp6_send_fentry", "icmp6_send_kprobe";
        entry "icmpv6_push_pending_frames": "icmpv6_push_fentry", "icmpv6_push_kprobe";
        end "icmp6_send": "icmp6_end_fexit", "icmp6_end_kretprobe";
    ]),
    on_functions!(
        "icmp_unreach",
        "frag-needed messages that this node or a pod receives, and what becomes of them",
        true,
        [
            entry "icmp_unreach": "icmp_unreach_fentry", "icmp_unreach_kprobe";
            end "tcp_v4_err": "tcp_v4_err_fexit", "tcp_v4_err_kretprobe";
            end "udp_err": "udp_err_fexit", "udp_err_kretprobe";
            end "icmp_unreach": "icmp_unreach_fexit", "icmp_unreach_kretprobe";
        ]
    ),
    on_functions!(
        "icmpv6_notify",
        "packet-too-big messages that this node or a pod receives, and what becomes of them",
        true,
        [
            entry "icmpv6_notify": "icmpv6_notify_fentry", "icmpv6_notify_kprobe";
            end "tcp_v6_err": "tcp_v6_err_fexit", "tcp_v6_err_kretprobe";
            end "icmpv6_notify": "icmpv6_notify_fexit", "icmpv6_notify_kretprobe";
        ]
    ),
    KFREE_SKB,
    on_functions!("ip_local_error", "IPv4 sockets that ask for too much (EMSGSIZE)", true, [
        entry "ip_local_error": "ip_local_error_fentry", "ip_local_error_kprobe";
    ]),
    on_functions!("ipv6_local_error", "IPv6 sockets that ask for too much (EMSGSIZE)", true, [
        entry "ipv6_local_error": "ipv6_local_error_fentry", "ipv6_local_error_kprobe";
    ]),
    on_functions!("update_or_create_fnhe", "path MTUs that an IPv4 route cache learns", false, [
        entry "update_or_create_fnhe": "update_fnhe_fentry", "update_fnhe_kprobe";
    ]),
    on_functions!("rt6_do_update_pmtu", "path MTUs that an IPv6 route cache learns", false, [
        entry "rt6_do_update_pmtu": "rt6_update_pmtu_fentry", "rt6_update_pmtu_kprobe";
    ]),
    TCP_RETRANSMIT,
    Hook {
        module: Some("nf_conntrack"),
        ..on_functions!(
            "nf_conntrack_inet_error",
            "messages that conntrack knows no connection for (INVALID)",
            false,
            [
                entry "nf_conntrack_inet_error": "conntrack_error_fentry", "conntrack_error_kprobe";
                end "nf_conntrack_inet_error": "conntrack_error_fexit", "conntrack_error_kretprobe";
            ]
        )
    },
    UDPV6_ERR,
    on_functions!("inet_frag_queue_insert", "fragments whose packet never becomes whole", false, [
        entry "inet_frag_queue_insert": "fragment_fentry", "fragment_kprobe";
        entry "inet_frag_destroy": "fragments_end_fentry", "fragments_end_kprobe";
        clock "ten times a second": "fragments_clock", "fragments_clock";
    ]),
];

const _: () = assert!(ALL.len() == hook::COUNT);

const UDPV6_ERR: Hook = Hook {
    name: "udpv6_err",
    tells: "what becomes of packet-too-big messages about UDP",
    module: None,
    provoked: true,
    ladder: &[
        Rung {
            name: "fentry",
            loses: "",
            attach: &[Attach { program: "udpv6_err_fexit", target: Target::Fexit("udpv6_err") }],
        },
        Rung {
            name: "kprobe",
            loses: "costs more per call",
            attach: &[Attach { program: "udpv6_err_kretprobe", target: Target::Kretprobe("udpv6_err") }],
        },
        // Before 7 it is inline, and not traced; what it calls has more arguments than fexit takes on some of those.
        Rung {
            name: "kretprobe",
            loses: "costs more per call",
            attach: &[Attach { program: "udpv6_err_kretprobe", target: Target::Kretprobe("__udp6_lib_err") }],
        },
    ],
};

const TCP_RETRANSMIT: Hook = Hook {
    name: "tcp_retransmit_skb",
    tells: "TCP segments that are sent again and again, what their socket knows of it, and what others beside it (tcp_destroy_sock)",
    module: None,
    provoked: false,
    ladder: &[
        Rung {
            name: "tp_btf",
            loses: "",
            attach: &[
                Attach { program: "tcp_retransmit_btf", target: Target::BtfTracepoint("tcp_retransmit_skb") },
                Attach { program: "beside_tcp_btf", target: Target::BtfTracepoint("tcp_destroy_sock") },
            ],
        },
        Rung {
            name: "raw_tp",
            loses: "costs more per segment and per connection",
            attach: &[
                Attach { program: "tcp_retransmit_raw", target: Target::RawTracepoint("tcp_retransmit_skb") },
                Attach { program: "beside_tcp_raw", target: Target::RawTracepoint("tcp_destroy_sock") },
            ],
        },
    ],
};

const KFREE_SKB: Hook = Hook {
    name: "kfree_skb",
    tells: "packets that a bridge or a veth frees for their size, without a message; messages that are dropped",
    module: None,
    provoked: true,
    ladder: &[
        Rung {
            name: "tp_btf",
            loses: "",
            attach: &[Attach { program: "kfree_skb_btf", target: Target::BtfTracepoint("kfree_skb") }],
        },
        Rung {
            name: "raw_tp",
            loses: "costs more per drop",
            attach: &[Attach { program: "kfree_skb_raw", target: Target::RawTracepoint("kfree_skb") }],
        },
    ],
};

/// Offsets that only this probe reads through.
const OFFSETS: [Offset; 34] = [
    ("LINK_OPS_KIND", "rtnl_link_ops", "kind"),
    ("DST_DEV", "dst_entry", "dev"),
    ("DST_XFRM", "dst_entry", "xfrm"),
    ("XFRM_CHILD_MTU", "xfrm_dst", "child_mtu_cached"),
    ("NHC_DEV", "fib_nh_common", "nhc_dev"),
    ("RT6_DEV", "rt6_info", "dst.dev"),
    ("RTABLE_FLAGS", "rtable", "rt_flags"),
    ("RT6_FLAGS", "rt6_info", "rt6i_flags"),
    ("RT6_DESTINATION", "rt6_info", "rt6i_dst.addr"),
    ("FL6_DESTINATION", "flowi6", "daddr"),
    ("FL6_PROTOCOL", "flowi6", "__fl_common.flowic_proto"),
    ("FL6_DPORT", "flowi6", "uli.ports.dport"),
    ("SKB_NFCT", "sk_buff", "_nfct"),
    ("SKB_CSUM_START", "sk_buff", "csum_start"),
    ("SOCK_FAMILY", "sock", "__sk_common.skc_family"),
    ("SOCK_PORT", "sock", "__sk_common.skc_num"),
    ("SOCK_DPORT", "sock", "__sk_common.skc_dport"),
    ("SOCK_SADDR", "sock", "__sk_common.skc_rcv_saddr"),
    ("SOCK_DADDR", "sock", "__sk_common.skc_daddr"),
    ("SOCK_SADDR6", "sock", "__sk_common.skc_v6_rcv_saddr"),
    ("SOCK_DADDR6", "sock", "__sk_common.skc_v6_daddr"),
    ("ICSK_RETRANSMITS", "inet_connection_sock", "icsk_retransmits"),
    ("ICSK_RTO", "inet_connection_sock", "icsk_rto"),
    ("ICSK_PMTU", "inet_connection_sock", "icsk_pmtu_cookie"),
    ("TCP_ACKED", "tcp_sock", "bytes_acked"),
    ("TCP_RECEIVED", "tcp_sock", "bytes_received"),
    ("TCP_ARRIVED", "tcp_sock", "rack.mstamp"),
    ("TCP_MSS", "tcp_sock", "mss_cache"),
    ("TCP_SACKED", "tcp_sock", "sacked_out"),
    ("TCP_SACKS", "tcp_sock", "recv_sack_cache"),
    ("TCP_UNACKED", "tcp_sock", "snd_una"),
    ("TCP_WRITTEN", "tcp_sock", "write_seq"),
    ("TCP_WINDOW", "tcp_sock", "snd_wnd"),
    ("TCP_HEARD", "tcp_sock", "rcv_tstamp"),
];

/// Reasons to drop that the kernel side tells apart.
const REASONS: [(&str, &str); 6] = [
    ("REASON_NOT_SPECIFIED", "NOT_SPECIFIED"),
    ("REASON_NETFILTER", "NETFILTER_DROP"),
    ("REASON_TC_INGRESS", "TC_INGRESS"),
    ("REASON_TC_EGRESS", "TC_EGRESS"),
    ("REASON_SOCKET_FILTER", "SOCKET_FILTER"),
    ("REASON_SOCKET_RCVBUFF", "SOCKET_RCVBUFF"),
];

/// Where a raw, ping or packet socket frees a copy that it does not take.
const COPIES: [&[&str]; mtu::COPIES] = [
    &["raw_rcv_skb"],
    &["rawv6_rcv_skb"],
    &["rawv6_rcv"],
    &["__ping_queue_rcv_skb", "ping_queue_rcv_skb"],
    &["packet_rcv"],
    &["tpacket_rcv"],
];

/// So many bits of a word from this one on, as a little-endian machine has them.
const fn mask(from: u32, bits: u32) -> u32 {
    let ones = if bits >= 32 { u32::MAX } else { (1 << bits) - 1 };
    ones << from
}

/// The constants of the running kernel.
pub fn globals(kernel: &Kernel, globals: &mut Globals) {
    globals.set_offsets(kernel, &OFFSETS);
    // A bitfield of 31 bits: the kernel side reads the word it is in.
    let pmtu = kernel.bits("rtable", "rt_pmtu").filter(|bits| bits.size_bits == 31);
    globals.set_offset("RTABLE_PMTU", pmtu.map(|bits| bits.offset_bits / 32 * 4));
    globals.set_offset("VETH_PEER", veth_peer(kernel));
    // CHECKSUM_PARTIAL is 3 (include/linux/skbuff.h) of two bits.
    let summed = in_byte(kernel, "ip_summed").filter(|field| field.bits == 2);
    globals.set_offset("SKB_IP_SUMMED", summed.map(|field| field.offset));
    globals.set("IP_SUMMED", summed.map_or(1, InByte::mask));
    globals.set_link_type(kernel);
    globals.set_device_flags(kernel, &[("BRIDGE_PORT", "IFF_BRIDGE_PORT")]);
    globals.set_device_states(kernel, &[("NO_CARRIER", "__LINK_STATE_NOCARRIER")]);
    // The prototype alone says what arguments there are: stable kernels backport them.
    let args = kernel.tracepoint_args("kfree_skb");
    let has_reason = args.get(2).is_some_and(|arg| arg.contains("skb_drop_reason"));
    globals.set("HAS_REASON", has_reason.into());
    let has_error = has_error(&kernel.tracepoint_args("tcp_retransmit_skb"));
    globals.set("HAS_ERROR", has_error.into());
    let reasons = kernel.enum_values("skb_drop_reason", None);
    for (constant, name) in REASONS {
        let number = reasons.iter().find(|(_, known)| known.strip_prefix("SKB_DROP_REASON_") == Some(name));
        let number = number.and_then(|(number, _)| u32::try_from(*number).ok());
        globals.set(constant, number.filter(|_| has_reason).unwrap_or(NO_REASON));
    }
    // `enabled` of 1 or 31 bits, behind or in front of the size that is tried.
    let probing = kernel.bits("inet_connection_sock", "icsk_mtup.enabled");
    globals.set_offset("ICSK_MTU_PROBING", probing.map(|bits| bits.offset_bits / 32 * 4));
    globals.set("MTU_PROBING_ENABLED", probing.map_or(0, |bits| mask(bits.offset_bits % 32, bits.size_bits)));
}

/// Whether `tcp_retransmit_skb`, with these arguments, says that a segment was not sent.
pub(super) fn has_error(args: &[String]) -> bool {
    args.get(2).is_some_and(|arg| arg == "int")
}

/// Has the kernel side told where certain functions are, as soon as the symbols are read.
///
/// # Errors
/// A broken build.
pub fn tell_places(kernel: &Kernel, maps: &mut Maps<'_>) -> Result<(), MapError> {
    // Of the first two one is inlined, which differs by release.
    for (map, names, unseen) in [
        (
            "FORWARD",
            &["__dev_forward_skb2", "__dev_forward_skb"][..],
            "what a device forwards and frees for its size",
        ),
        ("NETFILTER", &["nf_hook_slow"], "which messages a netfilter rule drops"),
    ] {
        let mut place: Array<MapData, u64> = maps.take(map)?;
        kernel.symbols().when_read(move |symbols| {
            let Some(ends) = ends(symbols, names) else { return };
            if let Err(error) = (0..).zip(ends).try_for_each(|(at, end)| place.set(at, end, 0)) {
                tracing::warn!("{unseen} is not seen: {error}");
            }
        });
    }
    let mut copies: Array<MapData, [[u64; 2]; mtu::COPIES]> = maps.take("COPIES")?;
    kernel.symbols().when_read(move |symbols| {
        // Where there is no such function nothing is between zero and zero.
        let places = COPIES.map(|names| ends(symbols, names).unwrap_or_default());
        if let Err(error) = copies.set(0, places, 0) {
            tracing::warn!("which messages are copies that a socket does not take is not seen: {error}");
        }
    });
    Ok(())
}

/// Where the first of these functions that there is begins and ends.
fn ends(symbols: &Symbols, names: &[&str]) -> Option<[u64; 2]> {
    let (begin, length) = names.iter().find_map(|name| symbols.extent(name))?;
    Some([begin, begin + u64::from(length)])
}

/// Where a veth's `net_device` is followed by the pointer to its other end; `None` where the kernel gives no types of veth
/// (5.10's modules have none, and a module that is not loaded neither).
fn veth_peer(kernel: &Kernel) -> Option<u32> {
    /// `NETDEV_ALIGN` (include/linux/netdevice.h): `netdev_priv` begins there.
    const ALIGNMENT: u32 = 32;
    let private = kernel.size_of("net_device")?.checked_next_multiple_of(ALIGNMENT)?;
    private.checked_add(kernel.module_offset("veth", "veth_priv", "peer")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Roots;
    use crate::probe::globals::ABSENT;
    use crate::probe::globals::tests::kernel;

    #[test]
    fn a_function_ends_where_the_next_begins() {
        let dir = tempfile::tempdir().unwrap();
        let text = "ffffffff81000000 T _stext\nffffffff81000100 T raw_rcv_skb\nffffffff81000180 T next\n\
                    ffffffff81000400 T packet_rcv\nffffffff81000500 T _etext\n";
        let file = dir.path().join("kallsyms");
        std::fs::write(&file, text).unwrap();
        let symbols = Symbols::load_from(&file, &dir.path().join("modules")).unwrap();
        let raw = Some([0xffff_ffff_8100_0100, 0xffff_ffff_8100_0180]);
        assert_eq!(ends(&symbols, &["raw_rcv_skb"]), raw);
        assert_eq!(ends(&symbols, &["inlined", "raw_rcv_skb", "packet_rcv"]), raw, "the first that there is");
        assert_eq!(ends(&symbols, &["inlined"]), None);
    }

    /// Sockets end in processes and in interrupts all the time: one that the kernel does not hand over is no event that was missed.
    #[test]
    fn that_a_socket_ends_is_no_event() {
        let attached = TCP_RETRANSMIT.ladder.iter().flat_map(|rung| rung.attach);
        let (ends, others): (Vec<&Attach>, Vec<&Attach>) =
            attached.partition(|one| format!("{:?}", one.target).contains("tcp_destroy_sock"));
        assert!(ends.len() == 2 && ends.iter().all(|one| one.program.starts_with(agent_common::BESIDE)));
        assert!(others.len() == 2 && others.iter().all(|one| !one.program.starts_with(agent_common::BESIDE)));
    }

    #[test]
    fn a_bitfield_is_masked_in_its_word() {
        for (from, bits, wanted) in
            [(0, 1, 1), (31, 1, 1 << 31), (0, 31, u32::MAX >> 1), (1, 31, u32::MAX - 1), (0, 32, u32::MAX)]
        {
            assert_eq!(mask(from, bits), wanted, "{bits} bits from {from}");
        }
    }

    /// A bitfield is read by the word that it is in, whose bits are counted from the lowest.
    #[test]
    fn bitfields_are_told_by_their_words() {
        for (pmtu_bits, summed_bits, pmtu, summed) in
            [(31, 2, 12, [12, 3 << 3]), (30, 3, ABSENT, [ABSENT, 1])]
        {
            let kernel = kernel(
                &[
                    ("rtable", &[("rt_pmtu", "", 3 * 32 + 1, pmtu_bits)]),
                    ("sk_buff", &[("ip_summed", "", 12 * 8 + 3, summed_bits)]),
                    ("icsk_mtup", &[("enabled", "", 32 + 31, 1)]),
                    ("inet_connection_sock", &[("icsk_mtup", "icsk_mtup", 10 * 32, 0)]),
                ],
                &[],
            );
            let mut set = Globals::default();
            globals(&kernel, &mut set);
            let value = |name| set.value(name).unwrap();
            assert_eq!(value("RTABLE_PMTU"), pmtu);
            assert_eq!(["SKB_IP_SUMMED", "IP_SUMMED"].map(value), summed);
            assert_eq!(["ICSK_MTU_PROBING", "MTU_PROBING_ENABLED"].map(value), [44, 1 << 31]);
            // Without its prototype nothing is known of a tracepoint.
            assert_eq!(["HAS_REASON", "HAS_ERROR", "REASON_NETFILTER"].map(value), [0, 0, NO_REASON]);
        }
    }

    /// The numbers are the running kernel's: each release has others.
    #[test]
    fn reasons_are_told_by_their_names() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/kernel");
        let mut set = Globals::default();
        globals(&Kernel::load_from(Roots::under(&root)), &mut set);
        let names = ["HAS_REASON", "REASON_NOT_SPECIFIED", "REASON_SOCKET_FILTER", "REASON_SOCKET_RCVBUFF"];
        assert_eq!(names.map(|name| set.value(name)), [1, 2, 5, 6].map(Some));
    }
}
