//! Where the mtu probe listens, and what its kernel side must know of the running kernel's structures.

use agent_common::NO_REASON;
use agent_common::mtu::hook;
use aya::maps::{Array, MapData};

use crate::kernel::Kernel;
use crate::probe::attach::{MapError, Maps};
use crate::probe::globals::{Globals, Offset};
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
const OFFSETS: [Offset; 8] = [
    ("LINK_OPS_KIND", "rtnl_link_ops", "kind"),
    ("DST_DEV", "dst_entry", "dev"),
    ("NHC_DEV", "fib_nh_common", "nhc_dev"),
    ("RT6_DEV", "rt6_info", "dst.dev"),
    ("RT6_FLAGS", "rt6_info", "rt6i_flags"),
    ("RT6_DESTINATION", "rt6_info", "rt6i_dst.addr"),
    ("FL6_DESTINATION", "flowi6", "daddr"),
    ("FL6_DPORT", "flowi6", "uli.ports.dport"),
];

/// The constants of the running kernel.
pub fn globals(kernel: &Kernel, globals: &mut Globals) {
    globals.set_offsets(kernel, &OFFSETS);
    // A bitfield of 31 bits: the kernel side reads the word it is in.
    let pmtu = kernel.bits("rtable", "rt_pmtu").filter(|bits| bits.size_bits == 31);
    globals.set_offset("RTABLE_PMTU", pmtu.map(|bits| bits.offset_bits / 32 * 4));
    globals.set_offset("VETH_PEER", veth_peer(kernel));
    // A bitfield that is a whole word, since 6.12 or so.
    let flags = kernel.bits("net_device", "priv_flags").filter(|bits| bits.size_bits >= 32);
    globals.set_offset("DEV_PRIV_FLAGS", flags.map(|bits| bits.offset_bits / 8));
    let flags = kernel.enum_values("netdev_priv_flags", None);
    let port = flags.iter().find(|(_, name)| name == "IFF_BRIDGE_PORT");
    globals.set("BRIDGE_PORT", port.and_then(|(bit, _)| u32::try_from(*bit).ok()).unwrap_or(0));
    // The prototype alone says what arguments there are: stable kernels backport them.
    let args = kernel.tracepoint_args("kfree_skb");
    let has_reason = args.get(2).is_some_and(|arg| arg.contains("skb_drop_reason"));
    globals.set("HAS_REASON", has_reason.into());
    let reasons = kernel.enum_values("skb_drop_reason", None);
    let unspecified = reasons.iter().find(|(_, name)| name == "SKB_DROP_REASON_NOT_SPECIFIED");
    let unspecified = unspecified.and_then(|(number, _)| u32::try_from(*number).ok());
    globals.set("REASON_NOT_SPECIFIED", unspecified.filter(|_| has_reason).unwrap_or(NO_REASON));
}

/// Has the kernel side told where a device hands a packet to another, as soon as the symbols are read.
///
/// # Errors
/// A broken build.
pub fn tell_forward(kernel: &Kernel, maps: &mut Maps<'_>) -> Result<(), MapError> {
    let mut forward: Array<MapData, u64> = maps.take("FORWARD")?;
    kernel.symbols().when_read(move |symbols| {
        // Which of them is inlined differs by release.
        let mut names = ["__dev_forward_skb2", "__dev_forward_skb"].into_iter();
        let Some((begin, length)) = names.find_map(|name| symbols.extent(name)) else { return };
        let ends = (0..).zip([begin, begin + u64::from(length)]);
        if let Err(error) = ends.into_iter().try_for_each(|(at, end)| forward.set(at, end, 0)) {
            tracing::warn!("what a device forwards and frees for its size is not seen: {error}");
        }
    });
    Ok(())
}

/// Where a veth's `net_device` is followed by the pointer to its other end; `None` where veth's types are not to be had
/// (5.10's modules have none, and a module that is not loaded neither).
fn veth_peer(kernel: &Kernel) -> Option<u32> {
    /// `NETDEV_ALIGN` (include/linux/netdevice.h): `netdev_priv` begins there.
    const ALIGNMENT: u32 = 32;
    let private = kernel.size_of("net_device")?.checked_next_multiple_of(ALIGNMENT)?;
    private.checked_add(kernel.module_offset("veth", "veth_priv", "peer")?)
}
