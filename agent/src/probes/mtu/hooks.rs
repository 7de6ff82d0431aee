//! Where the mtu probe listens, and what its kernel side must know of the running kernel's structures.

use agent_common::mtu::hook;

use crate::kernel::Kernel;
use crate::probe::globals::Offset;
use crate::probe::{Attach, Hook, Rung, Target};

/// A hook on a function's entry: by BTF, or by a breakpoint.
macro_rules! on_entry {
    ($function:literal, $fentry:literal, $kprobe:literal, $provoked:literal, $tells:literal) => {
        Hook {
            name: $function,
            tells: $tells,
            provoked: $provoked,
            ladder: &[
                Rung {
                    name: "fentry",
                    loses: "",
                    attach: &[Attach { program: $fentry, target: Target::Fentry($function) }],
                },
                Rung {
                    name: "kprobe",
                    loses: "costs more per call",
                    attach: &[Attach { program: $kprobe, target: Target::Kprobe($function) }],
                },
            ],
        }
    };
}

/// In the order of [`hook`]: the kernel side's tallies go by it.
pub const ALL: &[Hook] = &[
    on_entry!(
        "__icmp_send",
        "icmp_send_fentry",
        "icmp_send_kprobe",
        true,
        "frag-needed messages that this node makes"
    ),
    on_entry!(
        "icmp6_send",
        "icmp6_send_fentry",
        "icmp6_send_kprobe",
        true,
        "packet-too-big messages that this node makes"
    ),
    on_entry!(
        "icmp_unreach",
        "icmp_unreach_fentry",
        "icmp_unreach_kprobe",
        true,
        "frag-needed messages that this node or a pod receives"
    ),
    on_entry!(
        "icmpv6_notify",
        "icmpv6_notify_fentry",
        "icmpv6_notify_kprobe",
        true,
        "packet-too-big messages that this node or a pod receives"
    ),
    KFREE_SKB,
    on_entry!(
        "ip_local_error",
        "ip_local_error_fentry",
        "ip_local_error_kprobe",
        true,
        "IPv4 sockets that ask for too much (EMSGSIZE)"
    ),
    on_entry!(
        "ipv6_local_error",
        "ipv6_local_error_fentry",
        "ipv6_local_error_kprobe",
        true,
        "IPv6 sockets that ask for too much (EMSGSIZE)"
    ),
    on_entry!(
        "update_or_create_fnhe",
        "update_fnhe_fentry",
        "update_fnhe_kprobe",
        false,
        "path MTUs that an IPv4 route cache learns"
    ),
    on_entry!(
        "rt6_do_update_pmtu",
        "rt6_update_pmtu_fentry",
        "rt6_update_pmtu_kprobe",
        false,
        "path MTUs that an IPv6 route cache learns"
    ),
];

const KFREE_SKB: Hook = Hook {
    name: "kfree_skb",
    tells: "packets that a bridge or a veth frees for their size, without a message",
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

const _: () = assert!(ALL.len() == hook::RT6_UPDATE_PMTU as usize + 1);

/// Offsets that only this probe reads through.
pub const OFFSETS: [Offset; 8] = [
    ("LINK_OPS_KIND", "rtnl_link_ops", "kind"),
    ("DST_DEV", "dst_entry", "dev"),
    ("NHC_DEV", "fib_nh_common", "nhc_dev"),
    ("RT6_DEV", "rt6_info", "dst.dev"),
    ("RT6_FLAGS", "rt6_info", "rt6i_flags"),
    ("RT6_DESTINATION", "rt6_info", "rt6i_dst.addr"),
    ("FL6_DESTINATION", "flowi6", "daddr"),
    ("FL6_DPORT", "flowi6", "uli.ports.dport"),
];

/// Where a veth's `net_device` is followed by the pointer to its other end; `None` where veth's types are not to be had
/// (5.10's modules have none, and a module that is not loaded neither).
pub fn veth_peer(kernel: &Kernel) -> Option<u32> {
    /// `NETDEV_ALIGN` (include/linux/netdevice.h): `netdev_priv` begins there.
    const ALIGNMENT: u32 = 32;
    let private = kernel.size_of("net_device")?.checked_next_multiple_of(ALIGNMENT)?;
    private.checked_add(kernel.module_offset("veth", "veth_priv", "peer")?)
}
