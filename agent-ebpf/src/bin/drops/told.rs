//! Packets about which the kernel has just made a message that they are too large: a tunnel then frees them, and gives no
//! reason.

use agent_common::drops::hook;
use agent_ebpf::icmp;
use agent_ebpf::noted::{self, Noted};
use agent_ebpf::tally::{called, passed};
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;

/// The last such packet of this CPU. One about which a message is made inside another's takes its place: that one is then
/// dropped as ever.
#[map]
static TOLD: PerCpuArray<Noted> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
pub(crate) fn icmp_send(skb: *const u8, kind: u8, code: u8) -> Option<()> {
    if !icmp::is_frag_needed(kind, code) {
        return passed(hook::ICMP_SEND);
    }
    called(hook::ICMP_SEND);
    noted::note(&TOLD, skb)
}

#[inline(always)]
pub(crate) fn icmp6_send(skb: *const u8, kind: u8) -> Option<()> {
    if !icmp::is_packet_too_big(kind) {
        return passed(hook::ICMP6_SEND);
    }
    called(hook::ICMP6_SEND);
    noted::note(&TOLD, skb)
}

/// Whether this is that packet.
#[inline(always)]
pub(crate) fn has(skb: *const u8) -> bool {
    noted::take(&TOLD, skb)
}
