//! The policer (`tc-police(8)`) that every packet of a device comes to, by rtnetlink: `RTM_GETTFILTER`.
//!
//! Whether a filter that looks at packets matches one is not known: only the policer counts that is the first action of a filter
//! that takes every packet (a `matchall`; a `u32`, `flower` or `basic` that looks at nothing) and that no other comes before.

use std::io;
use std::sync::Arc;

use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::{Lists, Netlink, attributes, find, number, text};
use super::qdisc::MOST;
use crate::netlink::bucket::{in_bytes, rate};
use crate::netlink::tc::{self, DEVICE, HEADER, RTM_GETQDISC, RTM_GETTFILTER, TCA_KIND, TCA_OPTIONS};

/// `linux/if_ether.h`, `linux/rtnetlink.h`, `linux/pkt_sched.h`, `linux/pkt_cls.h`.
const ETH_P_ALL: u16 = 3;
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

#[cfg(test)]
impl Policers {
    /// One that packets of every protocol come to, if there is one.
    pub(super) fn all_come_to(policer: Option<Policed>) -> Self {
        Self([First { protocol: ETH_P_ALL, policer }].into())
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
    listed(&mut Netlink::open(NETLINK_ROUTE, MOST)?, ifindex, side)
}

fn listed(lists: &mut impl Lists, ifindex: u32, side: Side) -> io::Result<Policers> {
    let parent = match side {
        Side::Ingress => INGRESS,
        Side::Egress => EGRESS,
        Side::Queue => ROOT,
    };
    if side == Side::Egress {
        // Of `ingress` the kernel would show the filters for what comes in.
        let mut has_clsact = false;
        lists.dump(RTM_GETQDISC, &tc::question(ifindex, 0), |payload| {
            has_clsact |= is_clsact(payload, ifindex) == Some(true);
        })?;
        if !has_clsact {
            return Ok(Policers::default());
        }
    }
    let mut firsts: Vec<First> = Vec::new();
    lists.dump(RTM_GETTFILTER, &tc::question(ifindex, parent), |payload| note(&mut firsts, payload))?;
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
    let is_its = number(payload.get(DEVICE..)?)? == ifindex;
    Some(is_its && text(find(payload.get(HEADER..)?, TCA_KIND)?) == b"clsact")
}

/// A filter as it is listed, if packets come to it without being sent there by another.
fn filter(payload: &[u8]) -> Option<First> {
    let attributes_of = payload.get(HEADER..)?;
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
        TCA_FLOWER_CLASSID, TCA_FLOWER_ACT, TCA_FLOWER_KEY_ETH_TYPE, TCA_FLOWER_FLAGS, TCA_FLOWER_IN_HW_COUNT,
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
mod tests;
