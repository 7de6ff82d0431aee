//! What the reason of a drop does not tell: the state of the device, to whom the packet was sent, whether it is whole.

use agent_common::NO_REASON;
use agent_common::drops::{Direction, circumstance};
use agent_ebpf::device;
use agent_ebpf::kernel::{
    self, DEV_MTU, DEV_STATE, DEV_TX, Probed, QDISC_FLAGS, Read, SKB_DATA, SKB_HEAD, SKB_LEN, SKB_NFCT,
    SKB_REFDST, TX_QDISC,
};
use agent_ebpf::packet::{self, Header, LinkType};
use aya_ebpf::Global;

use super::{Ends, FOREIGN, Freed, Site, told};

/// `SKB_DROP_REASON_NETFILTER_DROP` of the running kernel.
#[unsafe(no_mangle)]
static REASON_NETFILTER: Global<u32> = Global::new(NO_REASON);

/// `SKB_DROP_REASON_QDISC_DROP` of the running kernel.
#[unsafe(no_mangle)]
static REASON_QDISC: Global<u32> = Global::new(NO_REASON);

/// `SKB_DROP_REASON_NO_SOCKET` of the running kernel; of one without reasons, what every packet has.
#[unsafe(no_mangle)]
static REASON_NO_SOCKET: Global<u32> = Global::new(NO_REASON);

/// The bit of `net_device.state` that is set for a device that is up (`__LINK_STATE_START`); 0 if unknown.
#[unsafe(no_mangle)]
static STARTED: Global<u32> = Global::new(0);

/// The bit that is set for a device without carrier (`__LINK_STATE_NOCARRIER`); 0 if unknown.
#[unsafe(no_mangle)]
static NO_CARRIER: Global<u32> = Global::new(0);

/// RFC 8200, 5: what every device takes that speaks IPv6.
const IPV6_MIN_MTU: u32 = 1280;

/// The bits of [`circumstance`] that hold for a packet.
#[inline(always)]
pub(super) unsafe fn of<R: Read>(
    freed: &Freed,
    site: &Site,
    header: &Header,
    ip_version: u8,
    direction: u8,
    ends: &Ends,
) -> u16 {
    let mut bits = u16::from(kernel::zero());
    // SAFETY: integers and pointers are valid for any bytes; what cannot be read is zero.
    unsafe {
        let link_type = packet::link_type::<R>(freed.skb);
        if header.is_to_group(ip_version) || matches!(link_type, Some(LinkType::All | LinkType::Group)) {
            bits |= circumstance::GROUP;
        } else if link_type == Some(LinkType::Others) {
            bits |= circumstance::OTHERS;
            // Here, and not where the bit is set, which would keep the ways to it apart.
            if !site.dev.is_null() && site.ifindex != 0 {
                bits |= of_others::<R>(site, ends);
            }
        }
        bits |= discovery::<R>(freed.skb, header, ip_version);
        if header.is_to_itself(ip_version) {
            bits |= circumstance::TO_ITSELF;
        }
        if site.dev.is_null() {
            if is_pulled::<R>(freed.skb) {
                bits |= circumstance::PIECE;
            }
            if is_no_packet::<R>(freed.skb) {
                bits |= circumstance::NO_PACKET;
            }
        } else if site.ifindex != 0 {
            // Where the pointer is none any more (UDP's receive path reuses it) there is no index either.
            bits |= of_device::<R>(freed, site, ip_version, direction);
        }
        if freed.reason == REASON_NO_SOCKET.load() && is_ending::<R>(freed.skb, header, ip_version) {
            bits |= circumstance::ENDING;
        }
        if told::has(freed.skb) {
            bits |= circumstance::TOLD;
        }
        let by_netfilter = freed.reason == REASON_NETFILTER.load();
        if by_netfilter && is_untracked::<R>(freed.skb) {
            bits |= circumstance::UNTRACKED;
        }
    }
    bits
}

/// This bit, if that holds: of which the verifier knows nothing, that would walk all that follows once for each.
#[inline(always)]
fn bit(bit: u16, holds: bool) -> u16 {
    bit * u16::from(kernel::unknown(holds.into()))
}

/// Whether a frame for another station was lost, or only passed by.
#[inline(always)]
unsafe fn of_others<R: Read>(site: &Site, ends: &Ends) -> u16 {
    let Ends { source, destination, addressed, here } = *ends;
    // SAFETY: the caller's.
    let (leads, is_port) = unsafe { (device::Leads::of(site.dev), device::is_bridge_port::<R>(site.dev)) };
    // The host sees more than what is for it: a bridge that tcpdump listens on shows it all that its pods say to each other.
    let is_own = addressed != 0 && (addressed == here || here == 0 && leads.to_the_host());
    let is_nobodys = (source | destination) == 0 && here != FOREIGN;
    let is_strangers = is_nobodys && is_port && leads.outside();
    bit(circumstance::OWN_ADDRESS, is_own) | bit(circumstance::STRANGERS, is_strangers)
}

/// What its device has to do with it.
#[inline(always)]
unsafe fn of_device<R: Read>(freed: &Freed, site: &Site, ip_version: u8, direction: u8) -> u16 {
    let mut bits = 0;
    // SAFETY: the caller's.
    unsafe {
        #[expect(clippy::cast_possible_truncation, reason = "the states are the lowest bits")]
        let state = kernel::field::<R, u64>(site.dev, &DEV_STATE) as u32;
        if state & STARTED.load() != STARTED.load() {
            bits |= circumstance::DOWN;
        } else if state & NO_CARRIER.load() != 0 {
            bits |= circumstance::NO_CARRIER;
        } else if freed.reason == REASON_QDISC.load() && has_no_queue::<R>(site.dev) {
            bits |= circumstance::DOWN;
        }
        let mtu: u32 = kernel::field::<R, _>(site.dev, &DEV_MTU);
        if ip_version == 6 && mtu < IPV6_MIN_MTU {
            bits |= circumstance::BELOW_IPV6;
        }
        // What has been received was for this host, whatever the bridge has. In numbers: a branch on the direction would have the
        // verifier walk all that follows once for each.
        let other = direction ^ Direction::Received as u8;
        if device::is_portless_bridge::<R>(site.dev) {
            bits |= circumstance::PORTLESS * u16::from((other | other >> 1) & 1);
        }
        // Few packets are so long; only these are measured without their link header.
        if kernel::field::<R, u32>(freed.skb, &SKB_LEN) > mtu && device::frame::<R>(freed.skb).packet > mtu {
            bits |= circumstance::LONG;
        }
    }
    bits
}

/// Whether the kernel has attached no queue to a device yet, or none any more: what is sent by it ends in `noop_qdisc`, one of
/// the kernel's own that no device shows.
#[inline(always)]
unsafe fn has_no_queue<R: Read>(dev: *const u8) -> bool {
    /// `TCQ_F_BUILTIN` (`include/net/sch_generic.h`, 5.10 to 7.2).
    const BUILTIN: u32 = 1;
    if QDISC_FLAGS.load() == kernel::ABSENT || !kernel::reads() {
        return false;
    }
    // SAFETY: pointers and integers are valid for any bytes. By helper: for a pointer the verifier would look through all types.
    unsafe {
        let queue: *const u8 = kernel::field::<R, _>(dev, &DEV_TX);
        let qdisc: *const u8 = kernel::field::<Probed, _>(queue, &TX_QDISC);
        kernel::field::<Probed, u32>(qdisc, &QDISC_FLAGS) & BUILTIN != 0
    }
}

/// Whether it is ARP, one of IPv6's messages about neighbours and routers, or a redirect.
#[inline(always)]
unsafe fn discovery<R: Read>(skb: *const u8, header: &Header, ip_version: u8) -> u16 {
    const ICMP: u8 = 1;
    const ICMPV6: u8 = 58;
    const ARP: u16 = 0x0806;
    let protocol = header.protocol(ip_version);
    // SAFETY: integers are valid for any bytes.
    unsafe {
        let is_arp = ip_version == 0 && packet::ethertype::<R>(skb) == ARP;
        // An echo reply, and none of IPv6.
        let mut kind = kernel::zero();
        if protocol == if ip_version == 6 { ICMPV6 } else { ICMP }
            && let Some(transport) = header.transport(ip_version)
        {
            kind = kernel::copy(packet::network_header::<R>(skb).wrapping_add(transport));
        }
        // RFC 792; RFC 4861, 4: from router solicitation to redirect.
        let (first, redirect) = if ip_version == 6 { (133, 137) } else { (5, 5) };
        let is_discovery = is_arp || (first..=redirect).contains(&kind);
        bit(circumstance::DISCOVERY, is_discovery) | bit(circumstance::REDIRECT, kind == redirect)
    }
}

/// Whether it is a TCP segment that resets a connection, or has neither payload nor SYN: such segments come to a connection in
/// `TIME_WAIT`, and after its end. TCP has taken the IP header off it by then.
#[inline(always)]
unsafe fn is_ending<R: Read>(skb: *const u8, header: &Header, ip_version: u8) -> bool {
    const TCP: u8 = 6;
    const RST: u8 = 1 << 2;
    const SYN: u8 = 1 << 1;
    let Some(transport) = header.transport(ip_version).filter(|_| header.protocol(ip_version) == TCP) else {
        return false;
    };
    // SAFETY: integers are valid for any bytes.
    unsafe {
        let [offset, bits]: [u8; 2] =
            kernel::copy(packet::network_header::<R>(skb).wrapping_add(transport + 12).cast());
        let length = u32::from(offset >> 4) * 4;
        bits & RST != 0 || bits & SYN == 0 && kernel::field::<R, u32>(skb, &SKB_LEN) == length
    }
}

/// Whether its data begin behind its IP header. A fragment that was received loses its header once its packet is whole.
#[inline(always)]
unsafe fn is_pulled<R: Read>(skb: *const u8) -> bool {
    // SAFETY: integers are valid for any bytes.
    unsafe {
        let network = u64::from(packet::network_offset::<R>(skb));
        let head: u64 = kernel::field::<R, _>(skb, &SKB_HEAD);
        network != 0 && kernel::field::<R, u64>(skb, &SKB_DATA) > head.wrapping_add(network)
    }
}

/// Whether it is nothing that the network carries.
#[inline(always)]
unsafe fn is_no_packet<R: Read>(skb: *const u8) -> bool {
    // SAFETY: integers are valid for any bytes.
    unsafe {
        kernel::field::<R, u32>(skb, &SKB_LEN) == 0
            || packet::ethertype::<R>(skb) == 0 && packet::network_header::<R>(skb).is_null()
    }
}

/// Whether it has a route, which what comes in gets after conntrack has seen it, and no connection, though nobody exempted it. (What is
/// sent here has its route before: a rule of `raw` may drop it unseen.)
#[inline(always)]
unsafe fn is_untracked<R: Read>(skb: *const u8) -> bool {
    /// `IP_CT_UNTRACKED` (`linux/netfilter/nf_conntrack_common.h`): a rule says that conntrack is to ignore it.
    const EXEMPT: u64 = 7;
    if SKB_NFCT.load() == kernel::ABSENT {
        return false;
    }
    // SAFETY: integers are valid for any bytes.
    unsafe {
        let connection: u64 = kernel::field::<R, _>(skb, &SKB_NFCT);
        connection < EXEMPT && kernel::field::<R, u64>(skb, &SKB_REFDST) != 0
    }
}
