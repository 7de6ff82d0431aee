//! The chains of nftables whose rules drop what conntrack calls INVALID, by nfnetlink. What `iptables-nft` writes is among them.
//!
//! A rule is followed as the kernel does (`nft_do_chain`), for a packet whose state is INVALID: what its other conditions say
//! is left open.

use std::io;
use std::sync::Arc;

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::netlink::{Netlink, attribute, attributes, find, number, text};

mod expression;

use expression::{Asks, asks};

/// `linux/netfilter/nfnetlink.h`, `linux/netfilter/nf_tables.h`, `linux/netfilter.h`.
const NFNL_SUBSYS_NFTABLES: u16 = 10 << 8;
const NFT_MSG_GETCHAIN: u16 = NFNL_SUBSYS_NFTABLES + 4;
const NFT_MSG_GETRULE: u16 = NFNL_SUBSYS_NFTABLES + 7;
const NFT_MSG_GETSETELEM: u16 = NFNL_SUBSYS_NFTABLES + 13;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
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
const NFPROTO_BRIDGE: u8 = 7;
const NFPROTO_IPV6: u8 = 10;
/// `sizeof(struct nfgenmsg)`
const NFGENMSG: usize = 4;

/// Bytes that are read, some 20,000 rules: where there are more, nothing is known.
const MOST: usize = 8 * 1024 * 1024;

/// More chains than this name nothing.
const MOST_CHAINS: usize = 3;

/// A chain of nftables. Who is root in its namespace has named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The family of its table: `ip`, `ip6`, `inet` or `bridge`.
    pub family: &'static str,
    /// Its table's name, safe to show.
    pub table: String,
    /// Its own name, safe to show.
    pub name: String,
}

/// The chains that a packet of this IP version may pass and whose rules drop it if it is INVALID; none if there are more than
/// can be named.
pub(super) fn dropping_invalid(ip_version: u8) -> io::Result<Arc<[Chain]>> {
    let mut netlink = Netlink::open(NETLINK_NETFILTER, MOST)?;
    let own = if ip_version == 6 { (NFPROTO_IPV6, "ip6") } else { (NFPROTO_IPV4, "ip") };
    let mut found = Vec::new();
    for (number, family) in [own, (NFPROTO_INET, "inet"), (NFPROTO_BRIDGE, "bridge")] {
        let chains = chains(&mut netlink, number)?;
        let mut tables: Vec<&[u8]> =
            chains.iter().filter(|chain| chain.is_filter()).map(|chain| &chain.table[..]).collect();
        tables.dedup();
        for table in tables {
            for suspect in suspects(&mut netlink, number, table)? {
                let listed = chains.iter().find(|chain| chain.table == table && chain.name == suspect.chain);
                if !listed.is_some_and(|chain| chain.is_passed(suspect.rules))
                    || !suspect.drops(&mut netlink, number, table)?
                {
                    continue;
                }
                if found.len() == MOST_CHAINS {
                    return Ok(Arc::default());
                }
                found.push(Chain { family, table: shown(table), name: shown(&suspect.chain) });
            }
        }
    }
    Ok(found.into())
}

/// A chain as it is listed.
struct Listed {
    table: Vec<u8>,
    name: Vec<u8>,
    /// Its type, if netfilter calls it; others are jumped to.
    base: Option<Vec<u8>>,
    /// Its rules and the jumps to it.
    uses: u32,
}

impl Listed {
    fn read(payload: &[u8]) -> Option<Self> {
        let attributes = payload.get(NFGENMSG..)?;
        let name = |kind| find(attributes, kind).map(|name| text(name).to_vec());
        let is_base = find(attributes, NFTA_CHAIN_HOOK).is_some();
        Some(Self {
            table: name(NFTA_CHAIN_TABLE)?,
            name: name(NFTA_CHAIN_NAME)?,
            base: is_base.then(|| name(NFTA_CHAIN_TYPE)).flatten(),
            uses: big(find(attributes, NFTA_CHAIN_USE)?)?,
        })
    }

    /// Whether netfilter shows it packets of no connection: it shows none to NAT.
    fn is_filter(&self) -> bool {
        self.base.as_ref().is_some_and(|kind| kind != b"nat")
    }

    /// Whether packets come to it at all, given how many rules it has.
    fn is_passed(&self, rules: u32) -> bool {
        if self.base.is_some() { self.is_filter() } else { self.uses > rules }
    }
}

fn chains(netlink: &mut Netlink, family: u8) -> io::Result<Vec<Listed>> {
    let mut chains = Vec::new();
    netlink.dump(NFT_MSG_GETCHAIN, &question(family, &[]), |payload| chains.extend(Listed::read(payload)))?;
    Ok(chains)
}

/// A chain with rules that may drop what is INVALID.
struct Suspect {
    chain: Vec<u8>,
    rules: u32,
    /// How each of those rules asks.
    asks: Vec<Asks>,
}

impl Suspect {
    /// Whether one of them does.
    fn drops(&self, netlink: &mut Netlink, family: u8, table: &[u8]) -> io::Result<bool> {
        for asks in &self.asks {
            let Some(set) = asks.set() else { return Ok(true) };
            let names = [(NFTA_SET_ELEM_LIST_TABLE, table), (NFTA_SET_ELEM_LIST_SET, set)]
                .map(|(kind, name)| (kind, name));
            let mut holds = false;
            netlink.dump(NFT_MSG_GETSETELEM, &question(family, &names), |payload| {
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

fn suspects(netlink: &mut Netlink, family: u8, table: &[u8]) -> io::Result<Vec<Suspect>> {
    let mut suspects = Vec::new();
    netlink.dump(NFT_MSG_GETRULE, &question(family, &[(NFTA_RULE_TABLE, table)]), |payload| {
        note(&mut suspects, payload, table);
    })?;
    suspects.retain(|suspect| !suspect.asks.is_empty());
    Ok(suspects)
}

/// Notes a rule down with its chain; the rules of one chain come one after the other.
fn note(suspects: &mut Vec<Suspect>, payload: &[u8], table: &[u8]) -> Option<()> {
    let attributes = payload.get(NFGENMSG..)?;
    if text(find(attributes, NFTA_RULE_TABLE)?) != table {
        return None;
    }
    let chain = text(find(attributes, NFTA_RULE_CHAIN)?);
    if suspects.last().is_none_or(|last| last.chain != chain) {
        suspects.pop_if(|last| last.asks.is_empty());
        suspects.push(Suspect { chain: chain.to_vec(), rules: 0, asks: Vec::new() });
    }
    let last = suspects.last_mut()?;
    last.rules += 1;
    last.asks.extend(asks(find(attributes, NFTA_RULE_EXPRESSIONS)?));
    Some(())
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
