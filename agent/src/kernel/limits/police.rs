//! The policer (`tc-police(8)`) that every packet of a device comes to, by rtnetlink: `RTM_GETTFILTER`.
//!
//! Whether a filter that looks at packets matches one is not known: only the policer counts that is the first action of a filter
//! that takes every packet (a `matchall`; a `u32`, `flower` or `basic` that looks at nothing) and that no other comes before.

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
const TCA_BASIC_EMATCHES: u16 = 2;
const TCA_BASIC_ACT: u16 = 3;
const TCA_BASIC_POLICE: u16 = 4;
/// `struct tcf_ematch_tree_hdr`, which begins with the number of matches.
const TCA_EMATCH_TREE_HDR: u16 = 1;
const TCA_FLOWER_CLASSID: u16 = 1;
const TCA_FLOWER_ACT: u16 = 3;
const TCA_FLOWER_KEY_ETH_TYPE: u16 = 8;
const TCA_FLOWER_FLAGS: u16 = 22;
const TCA_FLOWER_IN_HW_COUNT: u16 = 86;
const TCA_U32_LINK: u16 = 3;
const TCA_U32_DIVISOR: u16 = 4;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_POLICE: u16 = 6;
const TCA_U32_ACT: u16 = 7;
const TCA_U32_INDEV: u16 = 8;
const TCA_U32_MARK: u16 = 10;
/// In `struct tc_u32_sel`: `flags`, `nkeys`, and the keys with their masks.
const FLAGS: usize = 0;
const NKEYS: usize = 2;
const KEYS: usize = 16;
const KEY: usize = 16;
const TC_U32_TERMINAL: u8 = 1;
/// In `struct tcmsg`: `tcm_handle`. The tables of `u32` that the kernel makes itself have numbers from this one on; to those
/// that the user makes packets are sent by other filters.
const HANDLE: usize = 8;
const TCA_U32_OWN_TABLES: u32 = 0x800;
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
    let policer = match text(find(attributes_of, TCA_KIND)?) {
        b"matchall" => first(find(options, TCA_MATCHALL_ACT), None),
        b"u32" if is_table(options) => return None,
        b"u32" if takes_all_u32(payload, options) == Some(true) => {
            first(find(options, TCA_U32_ACT), find(options, TCA_U32_POLICE))
        }
        b"flower" if takes_all_flower(options) => first(find(options, TCA_FLOWER_ACT), None),
        b"basic" if takes_all_basic(options) == Some(true) => {
            first(find(options, TCA_BASIC_ACT), find(options, TCA_BASIC_POLICE))
        }
        _ => None,
    };
    Some(First { protocol, policer })
}

/// Of `u32` the tables are listed as well.
fn is_table(options: &[u8]) -> bool {
    find(options, TCA_U32_DIVISOR).is_some()
}

fn takes_all_u32(payload: &[u8], options: &[u8]) -> Option<bool> {
    let selector = find(options, TCA_U32_SEL)?;
    let keys = selector.get(KEYS..KEYS + KEY * usize::from(*selector.get(NKEYS)?))?;
    let mut masks = keys.chunks_exact(KEY).map(number);
    Some(
        masks.all(|mask| mask == Some(0))
            && selector.get(FLAGS)? & TC_U32_TERMINAL != 0
            && number(payload.get(HANDLE..)?)? >> 20 >= TCA_U32_OWN_TABLES
            && attributes(options)
                .all(|(kind, _)| ![TCA_U32_LINK, TCA_U32_INDEV, TCA_U32_MARK].contains(&kind)),
    )
}

/// It shows each field that it looks at; its Ethernet type is the filter's protocol.
fn takes_all_flower(options: &[u8]) -> bool {
    let others = [
        TCA_FLOWER_CLASSID,
        TCA_FLOWER_ACT,
        TCA_FLOWER_KEY_ETH_TYPE,
        TCA_FLOWER_FLAGS,
        TCA_FLOWER_IN_HW_COUNT,
    ];
    attributes(options).all(|(kind, _)| others.contains(&kind))
}

/// It shows its tree of matches also where that is empty.
fn takes_all_basic(options: &[u8]) -> Option<bool> {
    let tree = find(find(options, TCA_BASIC_EMATCHES)?, TCA_EMATCH_TREE_HDR)?;
    Some(u16::from_ne_bytes(tree.get(..2)?.try_into().ok()?) == 0)
}

/// The first of a filter's actions, or the policer of the kind that filters had before there were actions.
fn first(actions: Option<&[u8]>, police: Option<&[u8]>) -> Option<Policed> {
    match actions.and_then(|actions| attributes(actions).next()) {
        Some((_, action)) => policer(action),
        None => policed(police?),
    }
}

/// The action, if it is a policer that drops what is too much.
fn policer(action: &[u8]) -> Option<Policed> {
    if text(find(action, TCA_ACT_KIND)?) != b"police" {
        return None;
    }
    policed(find(action, TCA_ACT_OPTIONS)?)
}

/// What it lets pass, if it drops what is too much.
fn policed(options: &[u8]) -> Option<Policed> {
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

    /// As it answers of a filter of this kind, protocol and chain with these options.
    fn written(kind: &str, protocol: u16, chain: u32, handle: u32, options: &[Vec<u8>]) -> Vec<u8> {
        let mut head = of_device(7, 0);
        let info = 1 << 16 | u32::from(protocol.to_be());
        head[INFO..INFO + 4].copy_from_slice(&info.to_ne_bytes());
        head[HANDLE..HANDLE + 4].copy_from_slice(&handle.to_ne_bytes());
        let kind = attr(TCA_KIND, format!("{kind}\0").as_bytes());
        let options = attr(TCA_OPTIONS, &options.concat());
        [head, kind, attr(TCA_CHAIN, &chain.to_ne_bytes()), options].concat()
    }

    fn in_order(actions: &[Vec<u8>]) -> Vec<u8> {
        (1..).zip(actions).flat_map(|(at, action)| attr(at, action)).collect()
    }

    /// With these actions where `matchall` has them.
    fn answer(kind: &str, protocol: u16, chain: u32, actions: &[Vec<u8>]) -> Vec<u8> {
        let options = [attr(3, &[0; 4]), attr(TCA_MATCHALL_ACT, &in_order(actions))];
        written(kind, protocol, chain, 1, &options)
    }

    /// With one policer where `kind` has its actions.
    fn polices(kind: &str, at: u16, handle: u32, looks: &[Vec<u8>]) -> Option<Policed> {
        let options = [looks, &[attr(at, &in_order(&[drops()]))]].concat();
        of(&[written(kind, IPV4, 0, handle, &options)]).of(IPV4)
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

    /// The selector of `match u32 0 0`, as many times as there are masks.
    fn selector(flags: u8, masks: &[u32]) -> Vec<u8> {
        let mut selector = vec![0; KEYS + KEY * masks.len()];
        selector[FLAGS] = flags;
        selector[NKEYS] = u8::try_from(masks.len()).unwrap();
        for (key, mask) in selector[KEYS..].chunks_exact_mut(KEY).zip(masks) {
            key[..4].copy_from_slice(&mask.to_be_bytes());
        }
        attr(TCA_U32_SEL, &selector)
    }

    #[test]
    fn a_u32_that_looks_at_nothing_takes_every_packet() {
        const OWN: u32 = 0x800_00_800;
        let of_u32 = |handle, looks: &[Vec<u8>]| polices("u32", TCA_U32_ACT, handle, looks);
        let all = selector(TC_U32_TERMINAL, &[0, 0]);
        assert_eq!(of_u32(OWN, std::slice::from_ref(&all)), Some(BOTH));
        assert_eq!(of_u32(OWN, &[selector(TC_U32_TERMINAL, &[])]), Some(BOTH));
        assert_eq!(of_u32(OWN, &[selector(TC_U32_TERMINAL, &[0, 0xffff_ff00])]), None, "at an address");
        assert_eq!(of_u32(OWN, &[selector(0, &[0])]), None, "it does nothing");
        assert_eq!(of_u32(0x7ff_ff_fff, std::slice::from_ref(&all)), None, "packets are sent to its table");
        for kind in [TCA_U32_LINK, TCA_U32_INDEV, TCA_U32_MARK] {
            assert_eq!(of_u32(OWN, &[all.clone(), attr(kind, &[0; 8])]), None, "{kind}");
        }
        // A key is missing.
        let mut cut = selector(TC_U32_TERMINAL, &[0]);
        cut[4 + NKEYS] = 2;
        assert_eq!(of_u32(OWN, &[cut]), None);
        // Its table is listed before it.
        let table = written("u32", IPV4, 0, 0x800 << 20, &[attr(TCA_U32_DIVISOR, &[1, 0, 0, 0])]);
        let act = attr(TCA_U32_ACT, &in_order(&[drops()]));
        let filter = written("u32", IPV4, 0, OWN, &[all.clone(), act]);
        assert_eq!(of(&[table, filter]).of(IPV4), Some(BOTH));
        // As before there were actions.
        let old = find(&drops(), TCA_ACT_OPTIONS).unwrap().to_vec();
        let filter = written("u32", IPV4, 0, OWN, &[all, attr(TCA_U32_POLICE, &old)]);
        assert_eq!(of(&[filter]).of(IPV4), Some(BOTH));
    }

    #[test]
    fn a_flower_and_a_basic_that_look_at_nothing_take_every_packet() {
        let flower = |looks: &[Vec<u8>]| polices("flower", TCA_FLOWER_ACT, 1, looks);
        let always = [TCA_FLOWER_CLASSID, TCA_FLOWER_KEY_ETH_TYPE, TCA_FLOWER_FLAGS, TCA_FLOWER_IN_HW_COUNT];
        let always = always.map(|kind| attr(kind, &[0; 4]));
        assert_eq!(flower(&always), Some(BOTH));
        // At the destination's address.
        assert_eq!(flower(&[&always[..], &[attr(12, &[0; 4])]].concat()), None);
        let tree = |matches| attr(TCA_BASIC_EMATCHES, &attr(TCA_EMATCH_TREE_HDR, &[matches, 0, 0, 0]));
        let basic = |looks: &[Vec<u8>]| polices("basic", TCA_BASIC_ACT, 1, looks);
        assert_eq!([basic(&[tree(0)]), basic(&[tree(1)]), basic(&[])], [Some(BOTH), None, None]);
        let old = find(&drops(), TCA_ACT_OPTIONS).unwrap().to_vec();
        let filter = written("basic", IPV4, 0, 1, &[tree(0), attr(TCA_BASIC_POLICE, &old)]);
        assert_eq!(of(&[filter]).of(IPV4), Some(BOTH));
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
