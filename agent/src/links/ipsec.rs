//! IPsec policies and states of a network namespace, without their keys: what a packet must leave by, and what that adds.

use std::fs;
use std::net::IpAddr;

use ipnet::IpNet;
use nix::libc::{AF_INET, AF_INET6};

use super::attributes::{address, all, any_address, find, number, short, text};
use super::socket::{Netlink, Protocol, SHORT_PATIENCE, SocketError, Whole};

// include/uapi/linux/xfrm.h
const XFRM_MSG_GETSA: u16 = 0x12;
const XFRM_MSG_GETPOLICY: u16 = 0x15;
const XFRMA_ALG_CRYPT: u16 = 2;
const XFRMA_ENCAP: u16 = 4;
const XFRMA_TMPL: u16 = 5;
const XFRMA_ALG_AEAD: u16 = 18;
const XFRMA_ALG_AUTH_TRUNC: u16 = 20;
const XFRMA_MARK: u16 = 21;
const XFRMA_IF_ID: u16 = 31;
/// `struct xfrm_userpolicy_info`, `struct xfrm_user_tmpl`, `struct xfrm_usersa_info`: bytes.
const POLICY: usize = 168;
const TEMPLATE: usize = 64;
const STATE: usize = 224;
const OUT: u8 = 1;
const ALLOW: u8 = 0;
const ESP: u8 = 50;
const MODE_TRANSPORT: u8 = 0;
const MODE_TUNNEL: u8 = 1;

/// Policies and states kept of one namespace: whoever is root there may make as many as it likes.
const MOST: usize = 4096;

/// What a namespace has of IPsec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ipsec {
    /// Policies of packets that leave.
    pub policies: Vec<Policy>,
    /// What packets are made with, both ways.
    pub states: Vec<State>,
    /// There are more than were kept.
    pub cut: bool,
}

/// What packets between two networks must leave by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// They are to be wrapped; else they pass as they are, or are refused.
    pub wraps: bool,
    /// Of the policies for a packet the one with the lowest decides.
    pub priority: u32,
    /// It is of one protocol, port or device only.
    pub is_partial: bool,
    /// Where they come from.
    pub source: IpNet,
    /// Where they go.
    pub destination: IpNet,
    /// The outer packet's ends, where the policy says so.
    pub local: Option<IpAddr>,
    /// Where the outer packet goes.
    pub peer: Option<IpAddr>,
    /// It is one ESP tunnel, and nothing else.
    pub is_tunnel: bool,
    /// States of this number are its own; 0 is any.
    pub reqid: u32,
    /// The xfrm device it belongs to; 0 is none.
    pub if_id: u32,
    /// It is of packets with this mark, under this mask.
    pub mark: (u32, u32),
}

/// What packets to one peer are made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Where the outer packet comes from.
    pub local: Option<IpAddr>,
    /// Where it goes.
    pub peer: IpAddr,
    /// See [`Policy::reqid`].
    pub reqid: u32,
    /// See [`Policy::if_id`].
    pub if_id: u32,
    /// Packets with this mark, under this mask, are its own.
    pub mark: (u32, u32),
    /// It wraps the whole packet.
    pub tunnel: bool,
    /// What it adds; `None` where its algorithms are not known.
    pub esp: Option<Esp>,
}

/// What ESP adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Esp {
    /// Bytes before the packet: outer header, UDP, ESP's own, initialization vector.
    pub before: u32,
    /// Bytes that prove it.
    pub proof: u32,
    /// What is encrypted is a multiple of this.
    pub block: u32,
}

/// What encrypts the packets from one address to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrapping {
    /// The policy that says so.
    pub policy: Policy,
    /// Bytes that ESP adds to each packet, at least; `None` where that is not known.
    pub adds: Option<u32>,
}

impl Ipsec {
    /// The states of the tunnel that a policy sends its packets through.
    pub fn states_of(&self, policy: &Policy) -> impl Iterator<Item = &State> {
        self.states.iter().filter(|state| {
            state.tunnel
                && Some(state.peer) == policy.peer
                && (state.if_id, state.mark) == (policy.if_id, policy.mark)
                && (policy.reqid == 0 || state.reqid == policy.reqid)
                && (policy.local.is_none() || state.local == policy.local)
        })
    }

    /// The policy that encrypts all packets between these; `None` where one that decides before it is of some packets only.
    #[must_use]
    pub fn wrapping(&self, source: IpAddr, destination: IpAddr) -> Option<Wrapping> {
        let is_its = |policy: &&Policy| {
            policy.if_id == 0 && policy.source.contains(&source) && policy.destination.contains(&destination)
        };
        let first = self.policies.iter().filter(is_its).map(|policy| policy.priority).min()?;
        // Of one priority the older decides, which nobody tells.
        let deciding = || self.policies.iter().filter(is_its).filter(|policy| policy.priority == first);
        let is_of_all = |policy: &Policy| policy.is_tunnel && !policy.is_partial && policy.mark.1 == 0;
        if self.cut || !deciding().all(is_of_all) {
            return None;
        }
        let narrow = |policy: &&Policy| (policy.destination.prefix_len(), policy.source.prefix_len());
        let policy = deciding().max_by_key(narrow)?;
        let adds = self.states_of(policy).filter_map(|state| state.esp).map(Esp::least).min();
        Some(Wrapping { policy: policy.clone(), adds })
    }
}

impl Esp {
    /// Bytes that it adds to a packet that needs no filling up.
    #[must_use]
    pub const fn least(self) -> u32 {
        self.before + 2 + self.proof
    }

    /// The largest packet that fits (`__xfrm_state_mtu`): its two last bytes say how much was filled up, and with what.
    #[must_use]
    pub const fn fits(self, takes: u32) -> u32 {
        let room = takes.saturating_sub(self.before).saturating_sub(self.proof);
        (room - room % self.block).saturating_sub(2)
    }
}

/// Whether the kernel has the part that answers in this thread's namespace: to ask would load its module.
fn is_there() -> bool {
    fs::read_to_string("/proc/thread-self/net/netlink").map_or(true, |sockets| has_its(&sockets))
}

/// Whether its socket is among these.
fn has_its(sockets: &str) -> bool {
    // Socket, protocol, port: the kernel's own has port 0.
    sockets.lines().any(|line| line.split_whitespace().skip(1).take(2).eq(["6", "0"]))
}

/// What this thread's namespace has; states are asked for where a policy, or a device (`devices`), needs them.
pub(super) fn read(devices: bool) -> Result<Ipsec, SocketError> {
    if is_there() { ask(Netlink::asking(Protocol::Ipsec)?, devices) } else { Ok(Ipsec::default()) }
}

/// As [`read`] without devices, while a packet's record waits.
pub(super) fn read_soon() -> Result<Ipsec, SocketError> {
    if is_there() {
        ask(Netlink::waiting(Protocol::Ipsec, SHORT_PATIENCE)?, false)
    } else {
        Ok(Ipsec::default())
    }
}

fn ask(mut socket: Netlink, devices: bool) -> Result<Ipsec, SocketError> {
    let mut ipsec = Ipsec::default();
    let (policies, whole) = socket
        .dump(XFRM_MSG_GETPOLICY, &[], Vec::new, |policies, payload| keep(policies, policy(payload)))?;
    ipsec.policies = policies;
    ipsec.cut = whole == Whole::No;
    if devices || ipsec.policies.iter().any(|policy| policy.wraps) {
        let (states, whole) =
            socket.dump(XFRM_MSG_GETSA, &[], Vec::new, |states, payload| keep(states, state(payload)))?;
        ipsec.states = states;
        ipsec.cut |= whole == Whole::No;
    }
    Ok(ipsec)
}

/// Keeps it, if it is one; whether there is room for more.
fn keep<T>(kept: &mut Vec<T>, one: Option<T>) -> bool {
    kept.extend(one);
    kept.len() < MOST
}

/// An address of a field that has room for either family.
fn of_family(bytes: &[u8], family: u16) -> Option<IpAddr> {
    let length = match i32::from(family) {
        AF_INET => 4,
        AF_INET6 => 16,
        _ => return None,
    };
    any_address(bytes.get(..length)?)
}

/// A policy of packets that leave.
pub(super) fn policy(payload: &[u8]) -> Option<Policy> {
    let fixed = payload.get(..POLICY)?;
    if fixed[160] != OUT {
        return None;
    }
    let attributes = payload.get(POLICY..)?;
    let family = short(&fixed[40..])?;
    let net = |at: usize, length: u8| IpNet::new(of_family(&fixed[at..], family)?, length).ok();
    let templates = find(attributes, XFRMA_TMPL).filter(|_| fixed[161] == ALLOW).unwrap_or_default();
    let first = templates.get(..TEMPLATE);
    let end = |at: usize| {
        let outer = short(&first?[24..])?;
        of_family(&first?[at..], outer).filter(|end| !end.is_unspecified())
    };
    // Protocol, mode, and whether it may be left out.
    let is_tunnel = first.is_some_and(|first| (first[20], first[48], first[50]) == (ESP, MODE_TUNNEL, 0));
    Some(Policy {
        wraps: first.is_some(),
        priority: number(&fixed[152..])?,
        // Masks of both ports, the protocol, the device.
        is_partial: [&fixed[34..36], &fixed[38..40], &fixed[44..45], &fixed[48..52]]
            .concat()
            .iter()
            .any(|byte| *byte != 0),
        source: net(16, fixed[43])?,
        destination: net(0, fixed[42])?,
        local: end(28),
        peer: end(0),
        is_tunnel: is_tunnel && templates.len() == TEMPLATE,
        reqid: first.and_then(|first| number(&first[44..])).unwrap_or(0),
        if_id: find(attributes, XFRMA_IF_ID).and_then(number).unwrap_or(0),
        mark: mark(attributes)?,
    })
}

/// `struct xfrm_mark`; without one all packets are meant. `None` if it is garbled.
fn mark(attributes: &[u8]) -> Option<(u32, u32)> {
    let Some(mark) = find(attributes, XFRMA_MARK) else { return Some((0, 0)) };
    Some((number(mark)?, number(mark.get(4..)?)?))
}

/// A state; of its algorithms only names and lengths are looked at.
pub(super) fn state(payload: &[u8]) -> Option<State> {
    let fixed = payload.get(..STATE)?;
    let attributes = payload.get(STATE..)?;
    let family = short(&fixed[212..])?;
    let (v6, mode) = (i32::from(family) == AF_INET6, fixed[214]);
    let esp = (fixed[76] == ESP && matches!(mode, MODE_TUNNEL | MODE_TRANSPORT))
        .then(|| esp(attributes, v6, mode == MODE_TUNNEL));
    Some(State {
        local: address(fixed.get(80..80 + if v6 { 16 } else { 4 })?),
        peer: of_family(&fixed[56..], family)?,
        reqid: number(&fixed[208..])?,
        if_id: find(attributes, XFRMA_IF_ID).and_then(number).unwrap_or(0),
        mark: mark(attributes)?,
        tunnel: mode == MODE_TUNNEL,
        esp: esp.flatten(),
    })
}

/// `None` where an algorithm, or what it is in, is not known: a guess would clear what does not fit.
fn esp(attributes: &[u8], v6: bool, tunnel: bool) -> Option<Esp> {
    let (mut vector, mut proof, mut block) = (0, 0, 4);
    for (kind, value) in all(attributes) {
        // `char alg_name[64]`, key and other length in bits.
        let name = || Some(text(value.get(..64)?));
        let bits = || number(value.get(68..)?);
        match kind {
            XFRMA_ALG_AEAD => {
                vector = match name()? {
                    b"rfc4106(gcm(aes))"
                    | b"rfc4309(ccm(aes))"
                    | b"rfc4543(gcm(aes))"
                    | b"rfc7539esp(chacha20,poly1305)" => 8,
                    _ => return None,
                };
                proof = bits()? / 8;
            }
            XFRMA_ALG_CRYPT => {
                (vector, block) = match name()? {
                    b"cbc(aes)" | b"cbc(camellia)" | b"cbc(serpent)" | b"cbc(twofish)" | b"cbc(sm4)" => {
                        (16, 16)
                    }
                    b"cbc(des)" | b"cbc(des3_ede)" | b"cbc(blowfish)" | b"cbc(cast5)" => (8, 8),
                    b"rfc3686(ctr(aes))" => (8, 4),
                    b"ecb(cipher_null)" => (0, 4),
                    _ => return None,
                };
            }
            XFRMA_ALG_AUTH_TRUNC => proof = bits()? / 8,
            _ => {}
        }
    }
    let udp = match find(attributes, XFRMA_ENCAP).map(short) {
        None => 0,
        // UDP_ENCAP_ESPINUDP
        Some(Some(2)) => 8,
        Some(_) => return None,
    };
    let outer = match (tunnel, v6) {
        (false, _) => 0,
        (true, false) => 20,
        (true, true) => 40,
    };
    Some(Esp { before: outer + udp + 8 + vector, proof, block })
}

#[cfg(test)]
mod tests;
