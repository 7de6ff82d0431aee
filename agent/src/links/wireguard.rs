//! Where `WireGuard`'s peers are. The kernel's answer has the keys in it: they are never copied, and the answer is wiped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::libc::{AF_INET, AF_INET6};

use super::attributes::{all, find, put_number, short};
use super::socket::{Netlink, Protocol, SocketError};

// include/uapi/linux/genetlink.h
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// `struct genlmsghdr`
const HEADER: usize = 4;

// include/uapi/linux/wireguard.h
const WG_CMD_GET_DEVICE: u8 = 0;
const WGDEVICE_A_IFINDEX: u16 = 1;
const WGDEVICE_A_PEERS: u16 = 8;
const WGPEER_A_PUBLIC_KEY: u16 = 1;
const WGPEER_A_ENDPOINT: u16 = 4;

/// Peers kept of one device.
const MOST: usize = 4096;

/// Asks in the namespace of the thread that made it.
pub(super) struct Wireguard {
    socket: Netlink,
    family: u16,
}

impl Wireguard {
    /// Finds the family by its name.
    pub(super) fn open() -> Result<Self, SocketError> {
        let mut socket = Netlink::asking(Protocol::Generic)?;
        let mut family = None;
        socket.call(GENL_ID_CTRL, &question()?, |payload| family = number_of(payload))?;
        Ok(Self { socket, family: family.ok_or(SocketError::Garbled)? })
    }

    /// Where each peer of a device is; `None` for one that has not been heard of.
    pub(super) fn peers(&mut self, index: u32) -> Result<Vec<Option<IpAddr>>, SocketError> {
        let mut body = vec![WG_CMD_GET_DEVICE, 1, 0, 0];
        put_number(&mut body, WGDEVICE_A_IFINDEX, index);
        let (peers, _) =
            self.socket.dump(self.family, &body, Vec::new, |peers, payload| keep(payload, peers))?;
        Ok(peers)
    }
}

/// What asks for the family's number.
fn question() -> Result<Vec<u8>, SocketError> {
    const NAME: &[u8] = b"wireguard\0";
    let mut body = vec![CTRL_CMD_GETFAMILY, 1, 0, 0];
    let length = u16::try_from(HEADER + NAME.len()).map_err(|_| SocketError::Garbled)?;
    body.extend(length.to_ne_bytes());
    body.extend(CTRL_ATTR_FAMILY_NAME.to_ne_bytes());
    body.extend(NAME);
    body.resize(body.len().next_multiple_of(4), 0);
    Ok(body)
}

/// The number in the answer.
fn number_of(payload: &[u8]) -> Option<u16> {
    payload.get(HEADER..).and_then(|attributes| find(attributes, CTRL_ATTR_FAMILY_ID)).and_then(short)
}

/// Adds the peers of one message; whether there is room for more.
fn keep(payload: &[u8], peers: &mut Vec<Option<IpAddr>>) -> bool {
    endpoints(payload, peers);
    peers.len() < MOST
}

/// Adds the peers of one message: those of a long list come in several, and one peer may be in two, the second time
/// without its place.
pub(super) fn endpoints(payload: &[u8], peers: &mut Vec<Option<IpAddr>>) {
    let lists = payload.get(HEADER..).and_then(|attributes| find(attributes, WGDEVICE_A_PEERS));
    for (at, (_, peer)) in lists.into_iter().flat_map(all).enumerate() {
        let end = find(peer, WGPEER_A_ENDPOINT).and_then(end);
        // The first of a later message goes on with the last one's networks: only the key says so, and is not kept.
        let goes_on =
            at == 0 && !peers.is_empty() && end.is_none() && find(peer, WGPEER_A_PUBLIC_KEY).is_some();
        if !goes_on {
            peers.push(end);
        }
    }
}

/// The address of a `struct sockaddr_in` or `struct sockaddr_in6`.
fn end(value: &[u8]) -> Option<IpAddr> {
    match i32::from(short(value)?) {
        AF_INET => Some(Ipv4Addr::from(<[u8; 4]>::try_from(value.get(4..8)?).ok()?).into()),
        AF_INET6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(value.get(8..24)?).ok()?).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_family_is_asked_for_by_its_name_and_told_by_its_number() {
        let attribute = [&14_u16.to_ne_bytes()[..], &2_u16.to_ne_bytes(), b"wireguard\0\0\0"].concat();
        assert_eq!(question().unwrap(), [&[3, 1, 0, 0][..], &attribute].concat());
        let number =
            [&6_u16.to_ne_bytes()[..], &1_u16.to_ne_bytes(), &31_u16.to_ne_bytes(), &[0; 2]].concat();
        assert_eq!(number_of(&[&[1, 2, 0, 0][..], &attribute, &number].concat()), Some(31));
        assert_eq!(number_of(&[&[1, 2, 0, 0][..], &attribute].concat()), None);
    }

    #[test]
    fn no_more_peers_are_kept_than_there_is_room_for() {
        // One peer without attributes.
        let list =
            [&8_u16.to_ne_bytes()[..], &0x8008_u16.to_ne_bytes(), &4_u16.to_ne_bytes(), &[0; 2]].concat();
        let message = [&[0, 1, 0, 0][..], &list].concat();
        for (before, has_room) in [(4094, true), (4095, false), (4096, false)] {
            let mut peers = vec![None; before];
            assert_eq!((keep(&message, &mut peers), peers.len()), (has_room, before + 1));
        }
    }
}
