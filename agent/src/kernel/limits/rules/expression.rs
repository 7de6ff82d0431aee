//! What the expressions of one rule do to every packet that conntrack calls INVALID.

use super::{attributes, big, find, number, text};

/// `linux/netfilter/nf_tables.h`, `linux/netfilter/nf_tables_compat.h`.
pub(super) const NFTA_LIST_ELEM: u16 = 1;
pub(super) const NFTA_EXPR_NAME: u16 = 1;
pub(super) const NFTA_EXPR_DATA: u16 = 2;
pub(super) const NFTA_DATA_VALUE: u16 = 1;
pub(super) const NFTA_DATA_VERDICT: u16 = 2;
pub(super) const NFTA_VERDICT_CODE: u16 = 1;
pub(super) const NFTA_VERDICT_CHAIN: u16 = 2;
pub(super) const NFTA_SET_ELEM_KEY: u16 = 1;
pub(super) const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_CT_DREG: u16 = 1;
const NFTA_CT_KEY: u16 = 2;
const NFTA_SREG: u16 = 1;
const NFTA_BITWISE_DREG: u16 = 2;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_BITWISE_XOR: u16 = 5;
const NFTA_BITWISE_OP: u16 = 6;
const NFTA_CMP_OP: u16 = 2;
const NFTA_CMP_DATA: u16 = 3;
const NFTA_LOOKUP_SET: u16 = 1;
const NFTA_LOOKUP_SREG: u16 = 2;
const NFTA_LOOKUP_DREG: u16 = 3;
const NFTA_LOOKUP_FLAGS: u16 = 5;
const NFTA_IMMEDIATE_DREG: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_XT_NAME: u16 = 1;
const NFTA_XT_REV: u16 = 2;
const NFTA_XT_INFO: u16 = 3;
const NFT_CT_STATE: u32 = 0;
const NFT_CMP_EQ: u32 = 0;
const NFT_CMP_NEQ: u32 = 1;
const NFT_REG_VERDICT: u32 = 0;
const NFT_LOOKUP_F_INV: u32 = 1;
const NF_DROP: u32 = 0;
/// `NF_CT_STATE_INVALID_BIT`, `XT_CONNTRACK_STATE_INVALID` and `XT_STATE_INVALID`
const INVALID: u32 = 1;

/// How a rule that drops asks whether a packet is INVALID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    /// It asks for that.
    Itself,
    /// It looks it up in the set of this name, where it must be, or must not be.
    Set { name: Vec<u8>, inverted: bool },
    /// It looks up what is to be done, in the map of this name.
    Map { name: Vec<u8> },
}

impl Asks {
    /// The name of the set or map that must be looked into.
    pub(super) fn set(&self) -> Option<&[u8]> {
        match self {
            Self::Itself => None,
            Self::Set { name, .. } | Self::Map { name } => Some(name),
        }
    }

    /// Whether INVALID is among these elements, and of a map: whether it is dropped.
    pub(super) fn is_invalid_among(&self, elements: &[u8]) -> bool {
        let mut elements = attributes(elements).filter(|(kind, _)| *kind == NFTA_LIST_ELEM);
        elements.any(|(_, element)| {
            let key = find(element, NFTA_SET_ELEM_KEY).and_then(value);
            let drops = || find(element, NFTA_SET_ELEM_DATA).and_then(verdict) == Some(NF_DROP);
            key == Some(INVALID) && (!matches!(self, Self::Map { .. }) || drops())
        })
    }

    /// Whether the rule drops what is INVALID, if that is among the elements or is not.
    pub(super) fn drops(&self, holds: bool) -> bool {
        match self {
            Self::Itself => true,
            Self::Set { inverted, .. } => holds != *inverted,
            Self::Map { .. } => holds,
        }
    }
}

/// How the rule of these expressions asks; `None` if it lets INVALID pass, does not ask, or asks for anything else as well: then it
/// may be about other packets.
pub(super) fn asks(expressions: &[u8]) -> Option<Asks> {
    // The register that holds the state, and what is in it.
    let mut state: Option<(u32, u32)> = None;
    let mut asks = None;
    for (name, content) in expressions_of(expressions) {
        let field = |kind| find(content, kind).and_then(big);
        // Of another register nothing is known.
        let of_state = |source| state.filter(|(register, _)| field(source) == Some(*register));
        match name {
            b"counter" | b"log" => {}
            b"ct" if field(NFTA_CT_KEY)? == NFT_CT_STATE => state = Some((field(NFTA_CT_DREG)?, INVALID)),
            b"bitwise" => state = Some(masked(content, of_state(NFTA_SREG)?.1)?),
            b"cmp" => {
                let equal = find(content, NFTA_CMP_DATA).and_then(value)? == of_state(NFTA_SREG)?.1;
                let passes = match field(NFTA_CMP_OP)? {
                    NFT_CMP_EQ => equal,
                    NFT_CMP_NEQ => !equal,
                    _ => return None,
                };
                if !passes {
                    return None;
                }
                asks = asks.or(Some(Asks::Itself));
            }
            // What a mask has left of the state is not what is looked up here.
            b"lookup" if of_state(NFTA_LOOKUP_SREG)?.1 == INVALID => {
                let name = text(find(content, NFTA_LOOKUP_SET)?).to_vec();
                match field(NFTA_LOOKUP_DREG) {
                    Some(NFT_REG_VERDICT) => return Some(Asks::Map { name }),
                    Some(_) => return None,
                    None => {}
                }
                let inverted = field(NFTA_LOOKUP_FLAGS).is_some_and(|flags| flags & NFT_LOOKUP_F_INV != 0);
                asks = Some(Asks::Set { name, inverted });
            }
            b"match" => match text(find(content, NFTA_XT_NAME)?) {
                b"comment" => {}
                name if is_matched(name, content)? => asks = asks.or(Some(Asks::Itself)),
                _ => return None,
            },
            b"immediate" if field(NFTA_IMMEDIATE_DREG)? == NFT_REG_VERDICT => {
                let drops = find(content, NFTA_IMMEDIATE_DATA).and_then(verdict) == Some(NF_DROP);
                return asks.filter(|_| drops);
            }
            b"target" => return asks.filter(|_| find(content, NFTA_XT_NAME).map(text) == Some(b"DROP")),
            _ => return None,
        }
    }
    None
}

/// Whether the rule of these expressions asks for the state of the connection, whatever else it asks and does.
pub(super) fn asks_for_state(expressions: &[u8]) -> bool {
    expressions_of(expressions).any(|(name, content)| match name {
        b"ct" => find(content, NFTA_CT_KEY).and_then(big) == Some(NFT_CT_STATE),
        b"match" => find(content, NFTA_XT_NAME)
            .is_some_and(|name| [&b"state"[..], b"conntrack"].contains(&text(name))),
        _ => false,
    })
}

/// The chains that the rule of these expressions leads to, whatever it asks. Those that a map leads to are not told.
pub(super) fn jumps(expressions: &[u8]) -> impl Iterator<Item = &[u8]> {
    expressions_of(expressions).filter(|(name, _)| *name == b"immediate").filter_map(|(_, content)| {
        let verdict = find(find(content, NFTA_IMMEDIATE_DATA)?, NFTA_DATA_VERDICT)?;
        find(verdict, NFTA_VERDICT_CHAIN).map(text)
    })
}

/// Name and content of each expression. One without a name is like one of a name that nobody knows.
fn expressions_of(expressions: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    attributes(expressions).filter(|(kind, _)| *kind == NFTA_LIST_ELEM).map(|(_, expression)| {
        let of = |kind| find(expression, kind).unwrap_or_default();
        (text(of(NFTA_EXPR_NAME)), of(NFTA_EXPR_DATA))
    })
}

/// The register that a bitwise expression writes, and what is in it then.
fn masked(content: &[u8], held: u32) -> Option<(u32, u32)> {
    // Shifts, and what ors.
    if find(content, NFTA_BITWISE_OP).and_then(big).is_some_and(|operation| operation != 0) {
        return None;
    }
    let of = |kind| find(content, kind).and_then(value);
    let register = find(content, NFTA_BITWISE_DREG).and_then(big)?;
    Some((register, held & of(NFTA_BITWISE_MASK)? ^ of(NFTA_BITWISE_XOR)?))
}

/// What a match of iptables says of a packet that is INVALID; `None` if it asks for more than the state, or for something else.
fn is_matched(name: &[u8], content: &[u8]) -> Option<bool> {
    /// In `struct xt_conntrack_mtinfo{1,2,3}`: `match_flags`, `invert_flags`, `state_mask`.
    const FLAGS: usize = 146;
    const INVERTED: usize = 148;
    const STATES: usize = 150;
    /// `XT_CONNTRACK_STATE`
    const BY_STATE: u16 = 1;
    /// `XT_CONNTRACK_STATE_ALIAS`: it was written as `-m state`.
    const ALIAS: u16 = 1 << 13;
    let content_of = find(content, NFTA_XT_INFO)?;
    let short = |at: usize| Some(u16::from_ne_bytes(content_of.get(at..at + 2)?.try_into().ok()?));
    match name {
        b"state" => Some(number(content_of)? & INVALID != 0),
        b"conntrack" if short(FLAGS)? & !ALIAS == BY_STATE => {
            // One byte in its first form, which is the lower one only on some machines.
            let states = match big(find(content, NFTA_XT_REV)?)? {
                1 => u32::from(*content_of.get(STATES)?),
                _ => u32::from(short(STATES)?),
            };
            Some((states & INVALID != 0) != (short(INVERTED)? & BY_STATE != 0))
        }
        _ => None,
    }
}

/// The number in a register's worth of bytes.
fn value(content: &[u8]) -> Option<u32> {
    find(content, NFTA_DATA_VALUE).filter(|value| value.len() == 4).and_then(number)
}

/// The code of a verdict.
fn verdict(content: &[u8]) -> Option<u32> {
    find(find(content, NFTA_DATA_VERDICT)?, NFTA_VERDICT_CODE).and_then(big)
}
