//! Kernel side of the mtu probe: messages about packets that are too large, made, received and lost; such packets that die
//! without one; and segments that vanish for their size.
#![no_std]
#![no_main]
#![expect(
    clippy::inline_always,
    reason = "a call between BPF functions costs, and an untyped argument loses the BTF type"
)]
#![expect(clippy::needless_pass_by_value, reason = "the program macros hand the context over")]

use agent_common::NO_REASON;
use agent_common::mtu::hook;
use agent_ebpf::kernel::{Probed, Read, Typed};
use agent_ebpf::on_begin;
use aya_ebpf::Global;
use aya_ebpf::macros::{btf_tracepoint, fentry, fexit, kprobe, kretprobe, perf_event, raw_tracepoint};
use aya_ebpf::programs::{
    BtfTracePointContext, FEntryContext, FExitContext, PerfEventContext, ProbeContext, RawTracePointContext,
    RetProbeContext,
};

// Cargo would take files beside this one for binaries of their own.
#[path = "mtu/again.rs"]
mod again;
#[path = "mtu/answered.rs"]
mod answered;
#[path = "mtu/fragments.rs"]
mod fragments;
#[path = "mtu/local.rs"]
mod local;
#[path = "mtu/lost.rs"]
mod lost;
#[path = "mtu/message.rs"]
mod message;
#[path = "mtu/oversize.rs"]
mod oversize;
#[path = "mtu/seen.rs"]
mod seen;
#[path = "mtu/stall.rs"]
mod stall;
#[path = "mtu/underway.rs"]
mod underway;

/// 1 where `kfree_skb` has a reason argument (not on 5.10).
#[unsafe(no_mangle)]
static HAS_REASON: Global<u32> = Global::new(0);
/// 1 where `tcp_retransmit_skb` has an error argument: it is called for what was not sent as well.
#[unsafe(no_mangle)]
static HAS_ERROR: Global<u32> = Global::new(0);

/// Two programs for one hook on a function's entry: by BTF, and by registers.
macro_rules! on_entry {
    ($fentry:ident, $kprobe:ident: $event:path => ($($arg:literal),*)) => {
        #[fentry]
        fn $fentry(ctx: FEntryContext) -> i32 {
            use $event as event;
            // SAFETY: the function's own arguments, read the way this kind of program may.
            let _ = unsafe { event::<Typed>($(ctx.arg($arg)),*) };
            0
        }

        #[kprobe]
        fn $kprobe(ctx: ProbeContext) -> u32 {
            use $event as event;
            // SAFETY: as above.
            let _ = (|| unsafe { event::<Probed>($(ctx.arg($arg)?),*) })();
            0
        }
    };
}

/// Two programs for what a function returns: by BTF, as the argument behind its last (what asks for it by helper is refused
/// on 5.10), and by register.
macro_rules! on_return {
    ($fexit:ident, $kretprobe:ident: $event:path => $arg:literal) => {
        #[fexit]
        fn $fexit(ctx: FExitContext) -> i32 {
            let _ = $event(ctx.arg($arg));
            0
        }

        #[kretprobe]
        fn $kretprobe(ctx: RetProbeContext) -> u32 {
            let _ = $event(ctx.ret());
            0
        }
    };
}

/// Two programs for a function's return, whatever it returns.
macro_rules! at_return {
    ($fexit:ident, $kretprobe:ident: $event:path) => {
        #[fexit]
        fn $fexit(_: FExitContext) -> i32 {
            let _ = $event(0);
            0
        }

        #[kretprobe]
        fn $kretprobe(_: RetProbeContext) -> u32 {
            let _ = $event(0);
            0
        }
    };
}

/// Two programs for the end of a function that works on a packet: by BTF its first argument is still there, else it is what
/// was noted at the function's entry.
macro_rules! at_end {
    ($fexit:ident, $kretprobe:ident: $hook:path, $event:path) => {
        #[fexit]
        fn $fexit(ctx: FExitContext) -> i32 {
            use $event as event;
            let skb = ctx.arg(0);
            if let Some(underway) = underway::end($hook, skb) {
                // SAFETY: the function's own argument, and the kernel holds the packet until it is done with it.
                let _ = unsafe { event::<Typed>(skb, &underway) };
            }
            0
        }

        #[kretprobe]
        fn $kretprobe(_: RetProbeContext) -> u32 {
            use $event as event;
            if let Some(underway) = underway::end($hook, core::ptr::null()) {
                // SAFETY: as above.
                let _ = unsafe { event::<Probed>(underway.skb(), &underway) };
            }
            0
        }
    };
}

// include/net/icmp.h: void __icmp_send(struct sk_buff *skb_in, int type, int code, __be32 info, ..)   5.10 to 7.2
// (the fifth argument is struct ip_options * up to 6.12, struct inet_skb_parm * later: not read)
on_entry!(icmp_send_fentry, icmp_send_kprobe: message::icmp_send => (0, 1, 2, 3));
on_begin!(icmp_begin_fentry, icmp_begin_kprobe: message::icmp_begin => (0, 1, 2, 3));
at_end!(icmp_send_fexit, icmp_send_kretprobe: hook::ICMP_SEND, message::icmp_sent);

// include/net/ip.h: int __ip_options_echo(struct net *net, struct ip_options *dopt, struct sk_buff *skb, ..)  5.10 to 7.2
on_begin!(icmp_options_fentry, icmp_options_kprobe: message::icmp_options => (0));

// net/ipv4/icmp.c: static void icmp_push_reply(struct sock *sk, struct icmp_bxm *icmp_param, struct flowi4 *fl4,
// struct ipcm_cookie *ipc, struct rtable **rt) (5.10 has icmp_param first): messages and echo replies alike.
on_begin!(icmp_push_fentry, icmp_push_kprobe: message::icmp_push => (0));
at_return!(icmp_push_fexit, icmp_push_kretprobe: message::icmp_pushed);

// include/linux/icmpv6.h: void icmp6_send(struct sk_buff *skb, u8 type, u8 code, __u32 info, ..)      5.10 to 7.2
on_begin!(icmp6_send_fentry, icmp6_send_kprobe: message::icmp6_send => (0, 1, 3));
at_end!(icmp6_send_fexit, icmp6_send_kretprobe: hook::ICMP6_SEND, message::icmp6_sent);

at_end!(icmp6_end_fexit, icmp6_end_kretprobe: hook::ICMP6_SEND, message::icmp6_ended);

// net/ipv6/icmp.c: static struct dst_entry *icmpv6_route_lookup(struct net *net, struct sk_buff *skb, struct sock *sk, ..)
on_begin!(icmpv6_route_fentry, icmpv6_route_kprobe: message::icmpv6_route => (0));

// include/net/ipv6.h: int icmpv6_push_pending_frames(struct sock *sk, struct flowi6 *fl6, struct icmp6hdr *thdr, int len)
// (5.10 to 7.2): called once a message is past all limits and has a route.
on_begin!(icmpv6_push_fentry, icmpv6_push_kprobe: message::icmpv6_push => (0));
at_return!(icmpv6_push_fexit, icmpv6_push_kretprobe: message::icmpv6_pushed);

// net/ipv4/icmp.c: bool (later enum skb_drop_reason) icmp_unreach(struct sk_buff *skb)                5.10 to 7.2
on_begin!(icmp_unreach_fentry, icmp_unreach_kprobe: message::icmp_unreach => (0));
at_end!(icmp_unreach_fexit, icmp_unreach_kretprobe: hook::ICMP_UNREACH, message::icmp_unreached);

// net/ipv6/icmp.c: void (later enum) icmpv6_notify(struct sk_buff *skb, u8 type, u8 code, __be32 info) 5.10 to 7.2
on_begin!(icmpv6_notify_fentry, icmpv6_notify_kprobe: message::icmpv6_notify => (0, 1, 3));
at_end!(icmpv6_notify_fexit, icmpv6_notify_kretprobe: hook::ICMPV6_NOTIFY, message::icmpv6_notified);

// net/ipv4/tcp_ipv4.c: int tcp_v4_err(struct sk_buff *skb, u32 info)                                   5.10 to 7.2
on_return!(tcp_v4_err_fexit, tcp_v4_err_kretprobe: message::judged => 2);
// net/ipv4/udp.c: int udp_err(struct sk_buff *skb, u32 info)                                           5.10 to 7.2
on_return!(udp_err_fexit, udp_err_kretprobe: message::judged => 2);
// net/ipv6/tcp_ipv6.c: static int tcp_v6_err(struct sk_buff *skb, struct inet6_skb_parm *opt, u8 type, u8 code, int offset,
//                                            __be32 info)                                              5.10 to 7.2
on_return!(tcp_v6_err_fexit, tcp_v6_err_kretprobe: message::judged => 6);
// net/ipv6/udp.c: static int udpv6_err(.. the same ..), inline and so not traced before 7; then by what it calls:
// int __udp6_lib_err(.. the same .., struct udp_table *)                                               5.10 to 6.18
on_return!(udpv6_err_fexit, udpv6_err_kretprobe: message::udpv6_judged => 6);

// net/netfilter/nf_conntrack_proto_icmp.c: int nf_conntrack_inet_error(struct nf_conn *tmpl, struct sk_buff *skb, ..5)
// (5.10 to 7.2): looks up the connection that an ICMP error is about.
on_begin!(conntrack_error_fentry, conntrack_error_kprobe: lost::conntrack_error => (1));
on_return!(conntrack_error_fexit, conntrack_error_kretprobe: lost::conntrack_judged => 6);

// include/trace/events/skb.h: kfree_skb(struct sk_buff *skb, void *location[, enum skb_drop_reason reason, ..])
// Inlined here and below: the body is large, and of a program that calls a function old kernels panic (`kernel::clear_bytes`).
#[btf_tracepoint(function = "kfree_skb")]
#[inline(always)]
fn kfree_skb_btf(ctx: BtfTracePointContext) -> i32 {
    let reason = if HAS_REASON.load() == 0 { NO_REASON } else { ctx.arg(2) };
    // SAFETY: the tracepoint's own arguments, read the way this kind of program may.
    let _ = unsafe { kfree_skb::<Typed>(ctx.arg(0), ctx.arg(1), reason) };
    0
}

#[raw_tracepoint(tracepoint = "kfree_skb")]
#[inline(always)]
fn kfree_skb_raw(ctx: RawTracePointContext) -> i32 {
    let reason = if HAS_REASON.load() == 0 { NO_REASON } else { ctx.arg(2) };
    // SAFETY: as above.
    let _ = unsafe { kfree_skb::<Probed>(ctx.arg(0), ctx.arg(1), reason) };
    0
}

/// Of all that is dropped on a node: a message about a packet's size, or a packet that is too large for a device.
#[inline(always)]
unsafe fn kfree_skb<R: Read>(skb: *const u8, location: u64, reason: u32) -> Option<()> {
    // SAFETY: the caller's.
    unsafe {
        if lost::is_message::<R>(skb) {
            return lost::lost::<R>(skb, location, reason);
        }
        oversize::oversize::<R>(skb, location, reason)
    }
}

// include/trace/events/tcp.h: tcp_retransmit_skb(const struct sock *sk, const struct sk_buff *skb[, int err])  5.10 to 7.2
// (err on 6.18 and 7.2; on 6.12 and before the tracepoint is reached only if the segment was sent)
#[btf_tracepoint(function = "tcp_retransmit_skb")]
fn tcp_retransmit_btf(ctx: BtfTracePointContext) -> i32 {
    let error = if HAS_ERROR.load() == 0 { 0 } else { ctx.arg(2) };
    // SAFETY: the tracepoint's own arguments.
    let _ = unsafe { stall::retransmit_typed(ctx.arg(0), ctx.arg(1), error) };
    0
}

#[raw_tracepoint(tracepoint = "tcp_retransmit_skb")]
fn tcp_retransmit_raw(ctx: RawTracePointContext) -> i32 {
    let error = if HAS_ERROR.load() == 0 { 0 } else { ctx.arg(2) };
    // SAFETY: as above.
    let _ = unsafe { stall::retransmit_probed(ctx.arg(0), ctx.arg(1), error) };
    0
}

// include/trace/events/tcp.h: tcp_destroy_sock(struct sock *sk): once for each TCP socket that ends          5.10 to 7.2
// (`beside_`: that one ends is no event, see `agent_common::BESIDE`)
#[btf_tracepoint(function = "tcp_destroy_sock")]
fn beside_tcp_btf(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the tracepoint's own argument.
    unsafe { answered::ended_typed(ctx.arg(0)) };
    0
}

#[raw_tracepoint(tracepoint = "tcp_destroy_sock")]
fn beside_tcp_raw(ctx: RawTracePointContext) -> i32 {
    // SAFETY: as above.
    unsafe { answered::ended_probed(ctx.arg(0)) };
    0
}

// include/net/ip.h: void ip_local_error(struct sock *sk, int err, __be32 daddr, __be16 dport, u32 info)  5.10 to 7.2
on_entry!(ip_local_error_fentry, ip_local_error_kprobe: local::ip_local_error => (0, 1, 2, 3, 4));

// include/linux/ipv6.h: void ipv6_local_error(struct sock *sk, int err, struct flowi6 *fl6, u32 info)   5.10 to 7.2
on_entry!(ipv6_local_error_fentry, ipv6_local_error_kprobe: local::ipv6_local_error => (0, 1, 2, 3));

// net/ipv4/route.c: static void update_or_create_fnhe(struct fib_nh_common *nhc, __be32 daddr, __be32 gw, u32 pmtu,
//                                                     bool lock, unsigned long expires)              5.10 to 7.2
on_entry!(update_fnhe_fentry, update_fnhe_kprobe: local::update_fnhe => (0, 1, 2, 3, 4));

// net/ipv6/route.c: static void rt6_do_update_pmtu(struct rt6_info *rt, u32 mtu)                        5.10 to 7.2
on_entry!(rt6_update_pmtu_fentry, rt6_update_pmtu_kprobe: local::rt6_update_pmtu => (0, 1));

// include/net/inet_frag.h: int inet_frag_queue_insert(struct inet_frag_queue *q, struct sk_buff *skb, int offset, int end)
// (5.10 to 7.2): each fragment of IPv4 and IPv6 that is queued, here or by conntrack, for this host or on its way through.
on_entry!(fragment_fentry, fragment_kprobe: fragments::queued => (0, 1, 2, 3));
// include/net/inet_frag.h: void inet_frag_destroy(struct inet_frag_queue *q)                            5.10 to 7.2
on_begin!(fragments_end_fentry, fragments_end_kprobe: fragments::ended => (0));

/// A few times a second, on one CPU.
#[perf_event]
fn fragments_clock(_: PerfEventContext) -> u32 {
    // SAFETY: what is read is the probe's own.
    let _ = unsafe { fragments::late() };
    0
}

const _: () = assert!(hook::COUNT <= agent_common::MAX_HOOKS as usize);
