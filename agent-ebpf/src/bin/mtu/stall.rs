//! TCP segments that are sent again and again: what the socket knows of them.

use agent_common::mtu::stall::{SACK_BLOCKS, Stall, TIMEOUTS};
use agent_common::mtu::{Fate, Kind, hook};
use agent_ebpf::kernel::{
    self, ICSK_MTU_PROBING, ICSK_PMTU, ICSK_RETRANSMITS, ICSK_RTO, Probed, Read, SKB_LEN, SOCK_DADDR,
    SOCK_DADDR6, SOCK_DPORT, SOCK_FAMILY, SOCK_PORT, SOCK_SADDR, SOCK_SADDR6, TCP_ACKED, TCP_ARRIVED,
    TCP_HEARD, TCP_MSS, TCP_RECEIVED, TCP_SACKED, TCP_SACKS, TCP_UNACKED, TCP_WINDOW, TCP_WRITTEN, Typed,
};
use agent_ebpf::packet::{self, Address, Flow};
use agent_ebpf::tally::passed;
use aya_ebpf::Global;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_skc_to_tcp_sock};

use crate::again;
use crate::answered::{self, Place};
use crate::seen::Seen;

const AF_INET6: u16 = 10;

/// The bit of the word at `ICSK_MTU_PROBING`; 0 if unknown.
#[unsafe(no_mangle)]
static MTU_PROBING_ENABLED: Global<u32> = Global::new(0);

/// By typed pointers: the socket's as TCP has it is asked for, since the tracepoint's is of any socket's type.
#[inline(always)]
pub(crate) unsafe fn retransmit_typed(sk: *const u8, skb: *const u8, error: i32) -> Option<()> {
    if error != 0 {
        return not_sent();
    }
    // SAFETY: the verifier knows the type of `sk`; the helper gives NULL for what is no TCP socket.
    unsafe {
        let tcp: *const u8 = bpf_skc_to_tcp_sock(sk.cast_mut().cast()).cast();
        if tcp.is_null() { None } else { retransmit::<Typed>(sk, tcp, skb) }
    }
}

/// By helper.
#[inline(always)]
pub(crate) unsafe fn retransmit_probed(sk: *const u8, skb: *const u8, error: i32) -> Option<()> {
    if error != 0 {
        return not_sent();
    }
    // SAFETY: the caller's.
    unsafe { retransmit::<Probed>(sk, sk, skb) }
}

/// The segment did not leave this host (a rule, a full queue, no route, no memory): that it is not acknowledged says nothing
/// of the path, and it is no copy that was lost.
#[inline(always)]
fn not_sent() -> Option<()> {
    passed(hook::TCP_RETRANSMIT)
}

#[inline(always)]
unsafe fn retransmit<R: Read>(sk: *const u8, tcp: *const u8, skb: *const u8) -> Option<()> {
    // SAFETY: integers are valid for any bytes; the helpers check addresses.
    unsafe {
        // Of all that is sent again most is the first copy: it is counted.
        let retransmits: u8 = kernel::field::<R, _>(tcp, &ICSK_RETRANSMITS);
        again::add(retransmits.into());
        if u32::from(retransmits) < TIMEOUTS {
            return passed(hook::TCP_RETRANSMIT);
        }
        let len: u32 = kernel::field::<R, _>(skb, &SKB_LEN);
        let written: u32 = kernel::field::<R, _>(tcp, &TCP_WRITTEN);
        let unacked: u32 = kernel::field::<R, _>(tcp, &TCP_UNACKED);
        #[expect(clippy::cast_possible_truncation, reason = "TCP keeps the lower half of jiffies")]
        let now = bpf_jiffies64() as u32;
        let arrived: u64 = kernel::field::<R, _>(tcp, &TCP_ARRIVED);
        let mut stall = Stall {
            acked: kernel::field::<R, _>(tcp, &TCP_ACKED),
            received: kernel::field::<R, _>(tcp, &TCP_RECEIVED),
            // Of a paced segment it may be a moment to come.
            arrived: (bpf_ktime_get_ns() / 1000).saturating_sub(arrived),
            mss: kernel::field::<R, _>(tcp, &TCP_MSS),
            pmtu: kernel::field::<R, _>(tcp, &ICSK_PMTU),
            retransmits: retransmits.into(),
            sacked: kernel::field::<R, _>(tcp, &TCP_SACKED),
            longest_run: 0,
            waiting: written.wrapping_sub(unacked),
            window: kernel::field::<R, _>(tcp, &TCP_WINDOW),
            timeout: kernel::field::<R, _>(tcp, &ICSK_RTO),
            heard: now.wrapping_sub(kernel::field::<R, _>(tcp, &TCP_HEARD)),
            acknowledged: Stall::NEVER,
            flags: u32::from(
                kernel::field::<R, u32>(tcp, &ICSK_MTU_PROBING) & MTU_PROBING_ENABLED.load() != 0,
            ),
            hole: 0,
            lost: again::lost(),
        };
        if stall.sacked != 0 {
            let mut blocks = [[0_u32; 2]; SACK_BLOCKS];
            if TCP_SACKS.load() != kernel::ABSENT {
                blocks = kernel::copy(tcp.wrapping_add(TCP_SACKS.load() as usize).cast());
            }
            stall.report(blocks, unacked);
        }
        let Some(fate) = stall.fate(len) else { return passed(hook::TCP_RETRANSMIT) };
        let (flow, netns) = (flow::<R>(sk), netns::<R>(sk));
        let port: u16 = kernel::field::<R, _>(sk, &SOCK_DPORT);
        if matches!(fate, Fate::Suspect)
            && let Some(place) = Place::of(&flow, netns, port)
        {
            stall.acknowledged = answered::stuck_at(&place);
        }
        let seen = Seen {
            hook: hook::TCP_RETRANSMIT,
            kind: Kind::Stalled,
            fate: kernel::unknown(fate as u8),
            netns,
            packet: flow,
            len,
            is_from_here: true,
        };
        let (entry, record) = seen.admit()?;
        (*record).stall = stall;
        (*record).source_port = kernel::field::<R, _>(sk, &SOCK_PORT);
        (*record).destination_port = u16::from_be(port);
        entry.submit(0);
        Some(())
    }
}

/// Its network namespace, by helper where that may be: a pointer that is loaded by its type from a tracepoint's own argument has
/// the verifier look through all of the kernel's types.
#[inline(always)]
pub(crate) unsafe fn netns<R: Read>(sk: *const u8) -> u32 {
    // SAFETY: the caller's.
    unsafe {
        if kernel::reads() { packet::socket_netns::<Probed>(sk) } else { packet::socket_netns::<R>(sk) }
    }
}

/// The connection's addresses: of an IPv6 socket that speaks IPv4 both kinds are there, and the first is what it sends.
#[inline(always)]
pub(crate) unsafe fn flow<R: Read>(sk: *const u8) -> Flow {
    // SAFETY: as above.
    unsafe {
        let mut flow = Flow::none(kernel::zero());
        if kernel::field::<R, u16>(sk, &SOCK_FAMILY) == AF_INET6 {
            let destination: Address = kernel::field::<Probed, _>(sk, &SOCK_DADDR6);
            if !destination.is_mapped() {
                flow.version |= 6;
                flow.source = kernel::field::<Probed, _>(sk, &SOCK_SADDR6);
                flow.destination = destination;
                return flow;
            }
        }
        flow.version |= 4;
        flow.source = Address::v4(kernel::field::<R, _>(sk, &SOCK_SADDR));
        flow.destination = Address::v4(kernel::field::<R, _>(sk, &SOCK_DADDR));
        flow
    }
}
