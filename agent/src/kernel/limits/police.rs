//! The policers (`tc-police(8)`) among the actions of a device's filters, by rtnetlink: `RTM_GETTFILTER`.

use std::io;

use netlink_sys::protocols::NETLINK_ROUTE;

use super::bucket::{MOST, RTM_GETQDISC, TCA_KIND, TCA_OPTIONS, TCMSG, in_bytes, of_device, rate};
use super::netlink::{Netlink, attributes, find, number, text};

/// `linux/rtnetlink.h`, `linux/pkt_sched.h`, `linux/pkt_cls.h`.
const RTM_GETTFILTER: u16 = 46;
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
/// What is done to a packet that is too much. It is dropped as well that is classified again and again.
const TC_ACT_RECLASSIFY: u32 = 1;
const TC_ACT_SHOT: u32 = 2;

/// The actions of each kind of filter.
const ACTIONS: [(&[u8], u16); 8] = [
    (b"basic", 3),
    (b"bpf", 1),
    (b"cgroup", 1),
    (b"flower", 3),
    (b"fw", 4),
    (b"matchall", 2),
    (b"route", 6),
    (b"u32", 7),
];

/// Where a device's filters see a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// As it comes in.
    Ingress,
    /// On its way out: by the filters of its queueing discipline as well.
    Egress,
}

/// What policers let pass at all: the least of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policed {
    /// Bytes of the smallest burst.
    pub burst: Option<u32>,
    /// Bytes of the smallest MTU.
    pub mtu: Option<u32>,
}

impl Policed {
    fn and(self, other: Self) -> Self {
        let least = |a: Option<u32>, b: Option<u32>| a.into_iter().chain(b).min();
        Self { burst: least(self.burst, other.burst), mtu: least(self.mtu, other.mtu) }
    }
}

/// What the policers of a device on this side let pass; nothing is said of those below classes.
pub(super) fn smallest(ifindex: u32, side: Side) -> io::Result<Policed> {
    let mut netlink = Netlink::open(NETLINK_ROUTE, MOST)?;
    let mut parents = match side {
        Side::Ingress => vec![INGRESS],
        Side::Egress => vec![ROOT],
    };
    if side == Side::Egress {
        // Of `ingress` the kernel would show the filters for what comes in.
        netlink.dump(RTM_GETQDISC, &of_device(ifindex, 0), |payload| {
            if is_clsact(payload, ifindex) == Some(true) {
                parents.push(EGRESS);
            }
        })?;
    }
    let mut all = Policed::default();
    for parent in parents {
        netlink.dump(RTM_GETTFILTER, &of_device(ifindex, parent), |payload| {
            all = policers(payload).fold(all, Policed::and);
        })?;
    }
    Ok(all)
}

fn is_clsact(payload: &[u8], ifindex: u32) -> Option<bool> {
    let is_its = number(payload.get(4..)?)? == ifindex;
    Some(is_its && text(find(payload.get(TCMSG..)?, TCA_KIND)?) == b"clsact")
}

/// The policers of a filter.
fn policers(payload: &[u8]) -> impl Iterator<Item = Policed> {
    let attributes_of = payload.get(TCMSG..).unwrap_or_default();
    let kind = find(attributes_of, TCA_KIND).map(text);
    let actions = ACTIONS.iter().find(|(of, _)| Some(*of) == kind).and_then(|(_, actions)| {
        let options = find(attributes_of, TCA_OPTIONS)?;
        find(options, *actions)
    });
    attributes(actions.unwrap_or_default()).filter_map(|(_, action)| policer(action))
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

    /// As the kernel answers of `police rate 10mbit burst 1400 mtu 1200 drop` in a filter of this kind.
    fn answer(kind: &str, actions: u16, action: u32, rate: u32, more: &[u8]) -> Vec<u8> {
        let mut police = [0; 56];
        for (at, value) in [(ACTION, action), (BURST, 17_500), (MTU, 1200), (RATE, rate)] {
            police[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        let options = [attr(TCA_POLICE_TBF, &police), more.to_vec()].concat();
        let police = [attr(TCA_ACT_KIND, b"police\0"), attr(TCA_ACT_OPTIONS, &options)].concat();
        let other = attr(TCA_ACT_KIND, b"csum\0");
        let actions = attr(actions, &[attr(1, &other), attr(2, &police)].concat());
        let kind = attr(TCA_KIND, format!("{kind}\0").as_bytes());
        [of_device(7, 0), kind, attr(TCA_OPTIONS, &[attr(11, &[0; 4]), actions].concat())].concat()
    }

    fn of(answer: &[u8]) -> Vec<Policed> {
        policers(answer).collect()
    }

    const BOTH: Policed = Policed { burst: Some(1400), mtu: Some(1200) };

    #[test]
    fn each_kind_of_filter_has_its_policers() {
        for (kind, actions) in ACTIONS {
            let kind = str::from_utf8(kind).unwrap();
            assert_eq!(of(&answer(kind, actions, TC_ACT_SHOT, 1_250_000, &[])), [BOTH], "{kind}");
        }
        assert_eq!(of(&answer("flow", 3, TC_ACT_SHOT, 1_250_000, &[])), [], "one that is not known");
    }

    #[test]
    fn a_policer_that_drops_is_told_from_one_that_does_not() {
        let answer = |action, rate, more: &[u8]| of(&answer("u32", 7, action, rate, more));
        assert_eq!(answer(TC_ACT_RECLASSIFY, 1_250_000, &[]), [BOTH]);
        assert_eq!(answer(0, 1_250_000, &[]), [], "`ok`");
        assert_eq!(answer(TC_ACT_SHOT, 0, &[]), [Policed { burst: None, ..BOTH }], "it counts packets");
        let large = attr(TCA_POLICE_RATE64, &12_500_000_000_u64.to_ne_bytes());
        assert_eq!(answer(TC_ACT_SHOT, u32::MAX, &large), [Policed { burst: Some(14_000_000), ..BOTH }]);
        let least = BOTH.and(Policed { burst: None, mtu: Some(1000) }).and(Policed::default());
        assert_eq!(least, Policed { burst: Some(1400), mtu: Some(1000) });
    }

    #[test]
    fn what_is_cut_off_is_nothing() {
        let whole = answer("matchall", 2, TC_ACT_SHOT, 1_250_000, &[]);
        for length in 0..whole.len() {
            assert_eq!(of(&whole[..length]), [], "{length} bytes");
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
