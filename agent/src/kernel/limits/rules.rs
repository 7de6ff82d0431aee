//! The chains of nftables whose rules drop what conntrack calls INVALID, by nfnetlink. What `iptables-nft` writes is among them.
//!
//! A rule is followed as the kernel does (`nft_do_chain`), for a packet whose state is INVALID. One that asks for anything else is
//! none of them; what other rules do before is left open.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use agent_common::drops::Direction;
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::netlink::{Lists, Netlink, attribute, attributes, find, number, text};

mod expression;

use expression::{Asks, asks, asks_for_state, jumps};

/// `linux/netfilter/nfnetlink.h`, `linux/netfilter/nf_tables.h`, `linux/netfilter.h`.
const NFNL_SUBSYS_NFTABLES: u16 = 10 << 8;
const NFT_MSG_GETTABLE: u16 = NFNL_SUBSYS_NFTABLES + 1;
const NFT_MSG_GETCHAIN: u16 = NFNL_SUBSYS_NFTABLES + 4;
const NFT_MSG_GETRULE: u16 = NFNL_SUBSYS_NFTABLES + 7;
const NFT_MSG_GETSETELEM: u16 = NFNL_SUBSYS_NFTABLES + 13;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFT_TABLE_F_DORMANT: u32 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_CHAIN_USE: u16 = 6;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
/// Hooks as bits, `NF_INET_LOCAL_IN` and so on.
const INPUT: u8 = 1 << 1;
const FORWARD: u8 = 1 << 2;
const OUTPUT: u8 = 1 << 3;
const POSTROUTING: u8 = 1 << 4;
/// Those that a packet comes to once it is routed: before that none is known to be INVALID.
const ROUTED: u8 = INPUT | FORWARD | OUTPUT | POSTROUTING;
/// `sizeof(struct nfgenmsg)`
const NFGENMSG: usize = 4;

/// Bytes that are read, some 20,000 rules: where there are more, nothing is known.
const MOST: usize = 8 * 1024 * 1024;

/// More chains than this name nothing.
const MOST_CHAINS: usize = 3;

/// A chain of nftables. Who is root in its namespace has named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The family of its table: `ip`, `ip6` or `inet`.
    pub family: &'static str,
    /// Its table's name, safe to show.
    pub table: String,
    /// Its own name, safe to show.
    pub name: String,
}

/// A chain with a rule that drops what is INVALID, and the hooks that lead to it.
pub(super) type Found = (Chain, u8);

/// Rules that are remembered: of more, which may be any tenant's, none.
const MOST_FOUND: usize = 256;

/// What the rules do to packets of one IP version that are INVALID.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    /// The chains whose rules drop them all.
    pub(super) found: Arc<[Found]>,
    /// No rule asks for the state of a connection: what they drop, they drop for something else.
    pub(super) is_stateless: bool,
}

/// Those of them that a packet that goes this way may have come to; none if there are more than can be named.
pub(super) fn named(found: &[Found], direction: Direction) -> Arc<[Chain]> {
    let passed = match direction {
        Direction::Received => INPUT | FORWARD,
        Direction::Forwarded => FORWARD | POSTROUTING,
        Direction::Sent => OUTPUT | POSTROUTING,
        Direction::Unknown => ROUTED,
    };
    let chains: Vec<&Chain> =
        found.iter().filter(|(_, hooks)| hooks & passed != 0).map(|(chain, _)| chain).collect();
    if chains.len() > MOST_CHAINS { Arc::default() } else { chains.into_iter().cloned().collect() }
}

/// The chains that a routed packet of this IP version may come to and whose rules drop it if it is INVALID.
pub(super) fn dropping_invalid(ip_version: u8) -> io::Result<Rules> {
    found_in(&mut Netlink::open(NETLINK_NETFILTER, MOST)?, ip_version)
}

fn found_in(lists: &mut impl Lists, ip_version: u8) -> io::Result<Rules> {
    let own = if ip_version == 6 { (NFPROTO_IPV6, "ip6") } else { (NFPROTO_IPV4, "ip") };
    let (mut found, mut is_stateless) = (Vec::new(), true);
    for (number, family) in [own, (NFPROTO_INET, "inet")] {
        for table in tables(lists, number)? {
            if table.chains.iter().all(|chain| chain.hooks == 0) {
                continue;
            }
            let ruled = rules(lists, number, &table.name)?;
            let hooks = leading(&table.chains, &ruled);
            is_stateless &= !ruled.iter().any(|one| one.asks_for_state);
            for one in &ruled {
                let hooks = hooks.get(&one.chain[..]).copied().unwrap_or_default();
                if hooks != 0 && one.drops(lists, number, &table.name)? {
                    let chain = Chain { family, table: shown(&table.name), name: shown(&one.chain) };
                    found.push((chain, hooks));
                }
            }
        }
    }
    // More are never named, and stay in memory.
    if found.len() > MOST_FOUND {
        found.clear();
    }
    Ok(Rules { found: found.into(), is_stateless })
}

/// A table that is not dormant.
struct Table {
    name: Vec<u8>,
    chains: Vec<Listed>,
}

fn tables(lists: &mut impl Lists, family: u8) -> io::Result<Vec<Table>> {
    let mut tables = Vec::new();
    lists.dump(NFT_MSG_GETTABLE, &question(family, &[]), |payload| tables.extend(awake(payload)))?;
    lists.dump(NFT_MSG_GETCHAIN, &question(family, &[]), |payload| {
        if let Some((of, chain)) = Listed::read(payload)
            && let Some(table) = tables.iter_mut().find(|table| table.name == of)
        {
            table.chains.push(chain);
        }
    })?;
    Ok(tables)
}

/// A table as it is listed, unless it is dormant: then netfilter calls none of its chains.
fn awake(payload: &[u8]) -> Option<Table> {
    let attributes = payload.get(NFGENMSG..)?;
    let is_dormant = big(find(attributes, NFTA_TABLE_FLAGS)?)? & NFT_TABLE_F_DORMANT != 0;
    let name = text(find(attributes, NFTA_TABLE_NAME)?).to_vec();
    (!is_dormant).then_some(Table { name, chains: Vec::new() })
}

/// A chain as it is listed.
struct Listed {
    name: Vec<u8>,
    /// Whether netfilter calls it; others are jumped to.
    is_base: bool,
    /// Where netfilter shows it packets that are INVALID: it shows none to NAT.
    hooks: u8,
    /// Its rules and the jumps to it.
    uses: u32,
}

impl Listed {
    /// It and its table's name.
    fn read(payload: &[u8]) -> Option<(&[u8], Self)> {
        let attributes = payload.get(NFGENMSG..)?;
        let name = |kind| find(attributes, kind).map(text);
        let hook = find(attributes, NFTA_CHAIN_HOOK);
        let number = hook.and_then(|hook| find(hook, NFTA_HOOK_HOOKNUM)).and_then(big);
        let bit = number.and_then(|number| 1_u8.checked_shl(number)).unwrap_or_default() & ROUTED;
        let chain = Self {
            name: name(NFTA_CHAIN_NAME)?.to_vec(),
            is_base: hook.is_some(),
            hooks: if name(NFTA_CHAIN_TYPE) == Some(b"nat") { 0 } else { bit },
            uses: big(find(attributes, NFTA_CHAIN_USE)?)?,
        };
        Some((name(NFTA_CHAIN_TABLE)?, chain))
    }
}

/// A chain's rules.
struct Ruled {
    chain: Vec<u8>,
    rules: u32,
    /// Whether one of them asks for the state of the connection.
    asks_for_state: bool,
    /// How each of those asks that may drop what is INVALID.
    asks: Vec<Asks>,
    /// The chains that they lead to.
    jumps: Vec<Vec<u8>>,
}

impl Ruled {
    /// Whether one of them drops what is INVALID.
    fn drops(&self, lists: &mut impl Lists, family: u8, table: &[u8]) -> io::Result<bool> {
        for asks in &self.asks {
            let Some(set) = asks.set() else { return Ok(true) };
            let names = [(NFTA_SET_ELEM_LIST_TABLE, table), (NFTA_SET_ELEM_LIST_SET, set)];
            let mut holds = false;
            lists.dump(NFT_MSG_GETSETELEM, &question(family, &names), |payload| {
                let elements =
                    payload.get(NFGENMSG..).and_then(|list| find(list, NFTA_SET_ELEM_LIST_ELEMENTS));
                holds |= elements.is_some_and(|elements| asks.is_invalid_among(elements));
            })?;
            if asks.drops(holds) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn rules(lists: &mut impl Lists, family: u8, table: &[u8]) -> io::Result<Vec<Ruled>> {
    let mut ruled = Vec::new();
    lists.dump(NFT_MSG_GETRULE, &question(family, &[(NFTA_RULE_TABLE, table)]), |payload| {
        note(&mut ruled, payload, table);
    })?;
    Ok(ruled)
}

/// Notes a rule down with its chain; the rules of one chain come one after the other.
fn note(ruled: &mut Vec<Ruled>, payload: &[u8], table: &[u8]) -> Option<()> {
    let attributes = payload.get(NFGENMSG..)?;
    if text(find(attributes, NFTA_RULE_TABLE)?) != table {
        return None;
    }
    let chain = text(find(attributes, NFTA_RULE_CHAIN)?);
    if ruled.last().is_none_or(|last| last.chain != chain) {
        let (asks, jumps) = (Vec::new(), Vec::new());
        ruled.push(Ruled { chain: chain.to_vec(), rules: 0, asks_for_state: false, asks, jumps });
    }
    let last = ruled.last_mut()?;
    last.rules += 1;
    let expressions = find(attributes, NFTA_RULE_EXPRESSIONS)?;
    last.asks_for_state |= asks_for_state(expressions);
    last.asks.extend(asks(expressions));
    last.jumps.extend(jumps(expressions).map(<[u8]>::to_vec));
    Some(())
}

/// The hooks that lead to each chain of a table.
fn leading<'a>(chains: &'a [Listed], ruled: &[Ruled]) -> HashMap<&'a [u8], u8> {
    let mut seen: HashMap<&[u8], u32> = HashMap::new();
    for one in ruled {
        *seen.entry(&one.chain).or_default() += one.rules;
        one.jumps.iter().for_each(|to| *seen.entry(to).or_default() += 1);
    }
    let any = chains.iter().fold(0, |any, chain| any | chain.hooks);
    let mut hooks: HashMap<&[u8], u8> = HashMap::new();
    for chain in chains {
        // No rule has the jump: a map has, and which hook leads to that is not known.
        let is_in_map = !chain.is_base && chain.uses > seen.get(&chain.name[..]).copied().unwrap_or_default();
        hooks.insert(&chain.name, if is_in_map { any } else { chain.hooks });
    }
    loop {
        let mut is_all = true;
        for one in ruled {
            let from = hooks.get(&one.chain[..]).copied().unwrap_or_default();
            for to in &one.jumps {
                if let Some(to) = hooks.get_mut(&to[..])
                    && *to | from != *to
                {
                    *to |= from;
                    is_all = false;
                }
            }
        }
        if is_all {
            return hooks;
        }
    }
}

/// A `struct nfgenmsg` and names.
fn question(family: u8, names: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = vec![family, 0, 0, 0];
    for (kind, name) in names {
        body.extend(attribute(*kind, &[name, &b"\0"[..]].concat()));
    }
    body
}

/// A number in the network's order, as nftables has its own.
fn big(value: &[u8]) -> Option<u32> {
    number(value).map(u32::from_be)
}

/// A name as it may stand in a sentence: nothing that a terminal obeys or that ends a quotation, and not too long.
fn shown(name: &[u8]) -> String {
    const LONGEST: usize = 64;
    let mut shown = String::new();
    for byte in name.iter().take(LONGEST) {
        match byte {
            b'`' => shown.push_str("\\x60"),
            b'!'..=b'~' => shown.push(char::from(*byte)),
            _ => shown.extend(byte.escape_ascii().map(char::from)),
        }
    }
    if name.len() > LONGEST {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests;
