//! Where the drops probe listens, and what its kernel side must know of the running kernel's structures.

use agent_common::drops::hook;

use crate::kernel::Kernel;
use crate::kernel::reasons::Reasons;
use crate::probe::globals::Globals;
use crate::probe::ladder::on_functions;
use crate::probe::{Attach, Hook, Rung, Target};

/// The hook without which no drop is seen.
pub const SOURCE: &str = KFREE_SKB.name;

const KFREE_SKB: Hook = Hook {
    name: "kfree_skb",
    tells: "every packet the kernel frees as lost",
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
        Rung {
            name: "tracepoint",
            loses: "costs much more per drop; the receiving socket is not told",
            attach: &[Attach {
                program: "kfree_skb_classic",
                target: Target::Tracepoint { category: "skb", name: "kfree_skb" },
            }],
        },
    ],
};

/// In the order of [`hook`]: the kernel side's tallies go by it.
pub const ALL: &[Hook] = &[
    KFREE_SKB,
    on_functions!("__icmp_send", "which IPv4 packet was too large where the kernel gives no reason (tunnels)", true, [
        entry "__icmp_send": "icmp_send_fentry", "icmp_send_kprobe";
    ]),
    on_functions!("icmp6_send", "which IPv6 packet was too large where the kernel gives no reason (tunnels)", true, [
        entry "icmp6_send": "icmp6_send_fentry", "icmp6_send_kprobe";
    ]),
];

const _: () = assert!(ALL.len() == hook::COUNT);

/// What the kernel side is told before it is loaded.
pub(super) fn globals(kernel: &Kernel, globals: &mut Globals) {
    globals.set_offsets(
        kernel,
        &[
            ("RTABLE_FLAGS", "rtable", "rt_flags"),
            ("RT6_FLAGS", "rt6_info", "rt6i_flags"),
            ("LINK_OPS_KIND", "rtnl_link_ops", "kind"),
            ("DEV_LOWER", "net_device", "adj_list.lower"),
            ("SKB_NFCT", "sk_buff", "_nfct"),
            ("DEV_TX", "net_device", "_tx"),
            ("TX_QDISC", "netdev_queue", "qdisc"),
            ("QDISC_FLAGS", "Qdisc", "flags"),
        ],
    );
    globals.set_link_type(kernel);
    globals.set_device_flags(kernel, &[("BRIDGE", "IFF_EBRIDGE"), ("BRIDGE_PORT", "IFF_BRIDGE_PORT")]);
    globals.set_device_states(
        kernel,
        &[("STARTED", "__LINK_STATE_START"), ("NO_CARRIER", "__LINK_STATE_NOCARRIER")],
    );
    // The prototype alone says what arguments there are: stable kernels backport them.
    let args = kernel.tracepoint_args("kfree_skb");
    let has = |at: usize, what: &str| u32::from(args.get(at).is_some_and(|arg| arg.contains(what)));
    globals.set("HAS_REASON", has(2, "skb_drop_reason"));
    globals.set("HAS_RX_SK", has(3, "struct sock"));
    let reasons = Reasons::load(kernel);
    for (constant, name) in [
        ("REASON_CONSUMED", "CONSUMED"),
        ("REASON_NETFILTER", "NETFILTER_DROP"),
        ("REASON_QDISC", "QDISC_DROP"),
        ("REASON_NO_SOCKET", "NO_SOCKET"),
    ] {
        if let Some(number) = reasons.number(name) {
            globals.set(constant, number);
        }
    }
    let format = kernel.tracepoint_format("skb", "kfree_skb");
    for (constant, field) in [("TP_SKBADDR", "skbaddr"), ("TP_LOCATION", "location"), ("TP_REASON", "reason")]
    {
        let field = format.as_ref().and_then(|format| format.field(field));
        globals.set_offset(constant, field.map(|field| field.offset));
    }
}
