//! Lists of sockets, in text of the form of `/proc/net/tcp`, and what is in them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::Stuck;

/// Ports that are told. A namespace where programs listen at more is a host's, where that helps nobody.
const MAX_PORTS: usize = 5;

/// Stuck connections to one peer that are known; one tells as much as the next.
const MAX_STUCK: usize = 32;

/// States of sockets (`include/net/tcp_states.h`); of UDP, one without a peer is closed.
mod state {
    pub(super) const SYN_SENT: &str = "02";
    pub(super) const SYN_RECV: &str = "03";
    pub(super) const TIME_WAIT: &str = "06";
    pub(super) const CLOSE: &str = "07";
    pub(super) const LISTEN: &str = "0A";
}

/// One line of a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Socket<'a> {
    local: SocketAddr,
    peer: SocketAddr,
    state: &'a str,
    /// How often the oldest segment was sent again that the peer has not acknowledged.
    retransmits: u32,
}

impl Socket<'_> {
    /// Whether it takes what anybody sends to it. `has_states` is whether it is TCP's.
    fn listens(&self, has_states: bool) -> bool {
        self.state == if has_states { state::LISTEN } else { state::CLOSE } && self.peer.ip().is_unspecified()
    }
}

/// The sockets of a list; a line that makes no sense is none.
pub(super) fn sockets(text: &str) -> impl Iterator<Item = Socket<'_>> {
    text.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (local, peer) = (address(words.next()?)?, address(words.next()?)?);
        let state = words.next()?;
        // Behind both queues and the timer.
        let retransmits = words.nth(2).and_then(|word| u32::from_str_radix(word, 16).ok()).unwrap_or(0);
        Some(Socket { local, peer, state, retransmits })
    })
}

/// The peer of the socket with this local port, if that has another address than `answer`. With another port it must be one
/// that has no answer yet, if `has_states`: a connection's local port may have been an earlier one's, whose peer still sends.
pub(super) fn expected<'a>(
    mut sockets: impl Iterator<Item = Socket<'a>>,
    local: u16,
    answer: SocketAddr,
    has_states: bool,
) -> Option<SocketAddr> {
    let is_it = |socket: &Socket<'_>| {
        let waits = !has_states || socket.state == state::SYN_SENT;
        socket.local.port() == local
            && (waits || socket.peer.port() == answer.port())
            && socket.peer.ip() != answer.ip()
            && !socket.peer.ip().is_unspecified()
    };
    sockets.find(is_it).map(|socket| socket.peer)
}

/// The peer of the socket that has this local port and is connected: `from`, if one is connected to that.
pub(super) fn connected<'a>(
    sockets: impl Iterator<Item = Socket<'a>>,
    local: u16,
    from: SocketAddr,
) -> Option<SocketAddr> {
    let is_connected = |socket: &Socket<'_>| {
        socket.local.port() == local && !socket.peer.ip().is_unspecified() && socket.state != state::TIME_WAIT
    };
    sockets.filter(is_connected).map(|socket| socket.peer).max_by_key(|peer| *peer == from)
}

/// Connections to `peer` that are made, and whose oldest segment is sent again and not acknowledged.
pub(super) fn stuck<'a>(sockets: impl Iterator<Item = Socket<'a>>, peer: IpAddr) -> Arc<[Stuck]> {
    let is_made = |socket: &Socket<'_>| ![state::SYN_SENT, state::SYN_RECV].contains(&socket.state);
    let there =
        sockets.filter(|socket| socket.peer.ip() == peer && socket.retransmits > 0 && is_made(socket));
    let stuck = |socket: Socket<'_>| Stuck {
        ports: (socket.local.port(), socket.peer.port()),
        retransmits: socket.retransmits,
    };
    there.map(stuck).take(MAX_STUCK).collect()
}

/// Where a program listens at the port of `to`. Of several the one that is nearest to take what goes there.
pub(super) fn listener<'a>(
    sockets: impl Iterator<Item = Socket<'a>>,
    to: SocketAddr,
    has_states: bool,
) -> Option<SocketAddr> {
    let there = sockets.filter(|socket| socket.local.port() == to.port() && socket.listens(has_states));
    there.map(|socket| socket.local).max_by_key(|at| {
        let is_same_family = at.is_ipv4() == to.is_ipv4();
        (is_same_family && takes(at.ip(), to.ip()), is_same_family)
    })
}

/// The ports at which programs listen for TCP connections to this address, if they are few.
pub(super) fn ports<'a>(sockets: impl Iterator<Item = Socket<'a>>, to: IpAddr) -> Option<Arc<[u16]>> {
    let there = sockets.filter(|socket| socket.listens(true) && takes(socket.local.ip(), to));
    let ports: BTreeSet<u16> = there.map(|socket| socket.local.port()).collect();
    (1..=MAX_PORTS).contains(&ports.len()).then(|| ports.into_iter().collect())
}

/// Whether a socket that is bound to `at` may take what goes to `to`. One that is bound to `::` takes IPv4, too, unless it is told not
/// to, which the lists do not say.
fn takes(at: IpAddr, to: IpAddr) -> bool {
    at == to || at == IpAddr::from(Ipv6Addr::UNSPECIFIED) || at.is_unspecified() && to.is_ipv4()
}

/// An address as the kernel prints it: words of four bytes in the machine's order, and a port.
fn address(text: &str) -> Option<SocketAddr> {
    let (words, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(words.get(8 * at..8 * at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match words.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (at, to) in bytes.chunks_exact_mut(4).enumerate() {
                to.copy_from_slice(&word(at)?);
            }
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests;
