//! The policer (`tc-police(8)`) that every packet of a device comes to, by rtnetlink: `RTM_GETTFILTER`.
//!
//! Whether a filter that looks at packets matches one is not known: only the policer counts that is the first action of a
//! `matchall` that no other filter comes before.

use std::io;
use std::sync::Arc;

use netlink_sys::protocols::NETLINK_ROUTE;

use super::bucket::{MOST, RTM_GETQDISC, TCA_KIND, TCA_OPTIONS, TCMSG, in_bytes, of_device, rate};
use super::netlink::{Netlink, attributes, find, number, text};

/// `linux/if_ether.h`, `linux/rtnetlink.h`, `linux/pkt_sched.h`, `linux/pkt_cls.h`.
const ETH_P_ALL: u16 = 3;
const RTM_GETTFILTER: u16 = 46;
const TCA_CHAIN: u16 = 11;
const TCA_MATCHALL_ACT: u16 = 2;
/// In `struct tcmsg`: `tcm_info`, whose lower half is the protocol in the network's order.
const INFO: usize = 16;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
const ROOT: u32 = 0;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_POLICE_TBF: u16 = 1;
const TCA_POLICE_RATE64: u16 = 8;
/// In `struct tc_police`: `action`, `burst`, `mtu`, `rate.rate`.
const ACTION: usize = 4;
const BURST: usize = 12;
const MTU: usize = 16;
const RATE: usize = 28;
/// What is done to a packet that is too much. A packet that is reclassified without end is dropped too.
const TC_ACT_RECLASSIFY: u32 = 1;
const TC_ACT_SHOT: u32 = 2;

/// Where a device's filters see a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// As it comes in.
    Ingress,
    /// On its way out, before it is queued.
    Egress,
    /// By its queueing discipline.
    Queue,
}

/// What a policer lets pass at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policed {
    /// Bytes of its burst, if it counts bytes.
    pub burst: Option<u32>,
    /// Bytes of its MTU.
    pub mtu: Option<u32>,
}

/// The policers of a device on one side.
#[derive(Clone, Debug, Default)]
pub struct Policers(Arc<[First]>);

impl Policers {
    /// The one that every packet of this protocol comes to, if there is one.
    #[must_use]
    pub fn of(&self, ethertype: u16) -> Option<Policed> {
        self.0.iter().find(|first| [ETH_P_ALL, ethertype].contains(&first.protocol))?.policer
    }
}

/// The first filter of a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct First {
    protocol: u16,
    /// The policer that each packet of it comes to.
    policer: Option<Policed>,
}

/// The policers of a device on this side; nothing is said of those below classes.
pub(super) fn read(ifindex: u32, side: Side) -> io::Result<Policers> {
    let mut netlink = Netlink::open(NETLINK_ROUTE, MOST)?;
    let parent = match side {
        Side::Ingress => INGRESS,
        Side::Egress => EGRESS,
        Side::Queue => ROOT,
    };
    if side == Side::Egress {
        // Of `ingress` the kernel would show the filters for what comes in.
        let mut has_clsact = false;
        netlink.dump(RTM_GETQDISC, &of_device(ifindex, 0), |payload| {
            has_clsact |= is_clsact(payload, ifindex) == Some(true);
        })?;
        if !has_clsact {
            return Ok(Policers::default());
        }
    }
    let mut firsts: Vec<First> = Vec::new();
    netlink.dump(RTM_GETTFILTER, &of_device(ifindex, parent), |payload| note(&mut firsts, payload))?;
    Ok(Policers(firsts.into()))
}

/// Notes a filter down, unless one comes before it. They are listed in their order.
fn note(firsts: &mut Vec<First>, payload: &[u8]) {
    if let Some(filter) = filter(payload)
        && firsts.iter().all(|first| ![ETH_P_ALL, filter.protocol].contains(&first.protocol))
    {
        firsts.push(filter);
    }
}

fn is_clsact(payload: &[u8], ifindex: u32) -> Option<bool> {
    let is_its = number(payload.get(4..)?)? == ifindex;
    Some(is_its && text(find(payload.get(TCMSG..)?, TCA_KIND)?) == b"clsact")
}

/// A filter as it is listed, if packets come to it without being sent there by another.
fn filter(payload: &[u8]) -> Option<First> {
    let attributes_of = payload.get(TCMSG..)?;
    let protocol = u16::from_be(u16::try_from(number(payload.get(INFO..)?)? & 0xffff).ok()?);
    // A title comes before the filters of one priority.
    let options = find(attributes_of, TCA_OPTIONS)?;
    if find(attributes_of, TCA_CHAIN).and_then(number).is_some_and(|chain| chain != 0) {
        return None;
    }
    let matches_all = text(find(attributes_of, TCA_KIND)?) == b"matchall";
    let actions = find(options, TCA_MATCHALL_ACT).filter(|_| matches_all).unwrap_or_default();
    Some(First { protocol, policer: attributes(actions).next().and_then(|(_, action)| policer(action)) })
}

/// The action, if it is a policer that drops what is too much.
fn policer(action: &[u8]) -> Option<Policed> {
    if text(find(action, TCA_ACT_KIND)?) != b"police" {
        return None;
    }
    let options = find(action, TCA_ACT_OPTIONS)?;
    let parameters = find(options, TCA_POLICE_TBF)?;
    if ![TC_ACT_RECLASSIFY, TC_ACT_SHOT].contains(&number(parameters.get(ACTION..)?)?) {
        return None;
    }
    let rate = rate(find(options, TCA_POLICE_RATE64), parameters.get(RATE..)?)?;
    let burst = number(parameters.get(BURST..)?)?;
    // One that counts packets has no burst in bytes.
    let burst = (rate > 0).then(|| in_bytes(rate, burst)).flatten();
    Some(Policed { burst, mtu: number(parameters.get(MTU..)?).filter(|mtu| *mtu > 0) })
}

#[cfg(test)]
mod tests {
    use super::super::netlink::attribute as attr;
    use super::*;

    /// The protocol of a filter for IPv4.
    const IPV4: u16 = 0x0800;
    /// IPv6.
    const IPV6: u16 = 0x86dd;
    const BOTH: Policed = Policed { burst: Some(1400), mtu: Some(1200) };

    /// As the kernel answers of `police rate 10mbit burst 1400 mtu 1200`, as an action.
    fn police(action: u32, rate: u32, more: &[u8]) -> Vec<u8> {
        let mut police = [0; 56];
        for (at, value) in [(ACTION, action), (BURST, 17_500), (MTU, 1200), (RATE, rate)] {
            police[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        let options = [attr(TCA_POLICE_TBF, &police), more.to_vec()].concat();
        [attr(TCA_ACT_KIND, b"police\0"), attr(TCA_ACT_OPTIONS, &options)].concat()
    }

    fn drops() -> Vec<u8> {
        police(TC_ACT_SHOT, 1_250_000, &[])
    }

    /// As it answers of a filter of this kind, protocol and chain with these actions.
    fn answer(kind: &str, protocol: u16, chain: u32, actions: &[Vec<u8>]) -> Vec<u8> {
        let mut head = of_device(7, 0);
        let info = 1 << 16 | u32::from(protocol.to_be());
        head[INFO..INFO + 4].copy_from_slice(&info.to_ne_bytes());
        let actions: Vec<u8> = (1..).zip(actions).flat_map(|(at, action)| attr(at, action)).collect();
        let options = [attr(3, &[0; 4]), attr(TCA_MATCHALL_ACT, &actions)].concat();
        let kind = attr(TCA_KIND, format!("{kind}\0").as_bytes());
        [head, kind, attr(TCA_CHAIN, &chain.to_ne_bytes()), attr(TCA_OPTIONS, &options)].concat()
    }

    fn of(answers: &[Vec<u8>]) -> Policers {
        let mut firsts = Vec::new();
        for answer in answers {
            note(&mut firsts, answer);
        }
        Policers(firsts.into())
    }

    #[test]
    fn only_what_every_packet_comes_to_counts() {
        let all = |actions: &[Vec<u8>]| answer("matchall", ETH_P_ALL, 0, actions);
        let other = attr(TCA_ACT_KIND, b"csum\0");
        assert_eq!(of(&[all(&[drops(), other.clone()])]).of(IPV4), Some(BOTH));
        assert_eq!(of(&[all(&[other, drops()])]).of(IPV4), None, "another action comes before");
        for kind in ["u32", "flower", "bpf", "basic"] {
            let looks = answer(kind, ETH_P_ALL, 0, &[drops()]);
            assert_eq!(of(&[looks.clone(), all(&[drops()])]).of(IPV4), None, "{kind} may take it");
            assert_eq!(of(&[all(&[drops()]), looks]).of(IPV4), Some(BOTH), "{kind} comes later");
        }
        assert_eq!(of(&[answer("matchall", ETH_P_ALL, 1, &[drops()])]).of(IPV4), None, "a goto leads there");
    }

    #[test]
    fn each_protocol_has_its_first_filter() {
        let (four, six) =
            (answer("matchall", IPV4, 0, &[drops()]), answer("matchall", IPV6, 0, &[Vec::new()]));
        let both = of(&[six.clone(), four.clone()]);
        assert_eq!((both.of(IPV4), both.of(IPV6)), (Some(BOTH), None));
        let all = of(&[answer("u32", IPV6, 0, &[]), answer("matchall", ETH_P_ALL, 0, &[drops()]), four]);
        assert_eq!((all.of(IPV4), all.of(IPV6), all.of(0x0806)), (Some(BOTH), None, Some(BOTH)));
        // What is listed of a priority before its filters.
        let title = &six[..six.len() - attr(TCA_OPTIONS, &[0; 20]).len()];
        assert_eq!(of(&[title.to_vec(), six.clone()]).0.len(), 1);
    }

    #[test]
    fn a_policer_that_drops_is_told_from_one_that_does_not() {
        let of = |action, rate, more: &[u8]| policer(&police(action, rate, more));
        assert_eq!(of(TC_ACT_RECLASSIFY, 1_250_000, &[]), Some(BOTH));
        assert_eq!(of(0, 1_250_000, &[]), None, "`ok`");
        assert_eq!(of(TC_ACT_SHOT, 0, &[]), Some(Policed { burst: None, ..BOTH }), "it counts packets");
        let large = attr(TCA_POLICE_RATE64, &12_500_000_000_u64.to_ne_bytes());
        assert_eq!(of(TC_ACT_SHOT, u32::MAX, &large), Some(Policed { burst: Some(14_000_000), ..BOTH }));
    }

    #[test]
    fn what_is_cut_off_is_nothing() {
        let whole = answer("matchall", IPV4, 0, &[drops()]);
        for length in 0..whole.len() {
            assert_eq!(of(&[whole[..length].to_vec()]).of(IPV4), None, "{length} bytes");
        }
    }

    #[test]
    fn only_clsact_has_filters_of_its_own_on_the_way_out() {
        let qdisc = |kind: &[u8]| [of_device(7, 0), attr(TCA_KIND, kind)].concat();
        assert_eq!(is_clsact(&qdisc(b"clsact\0"), 7), Some(true));
        assert_eq!(is_clsact(&qdisc(b"clsact\0"), 8), Some(false));
        assert_eq!(is_clsact(&qdisc(b"ingress\0"), 7), Some(false));
    }
}
