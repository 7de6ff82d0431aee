//! The device that packets leave by on their way to an address: asked of the kernel without a right and without a packet.

use std::io;
use std::net::IpAddr;

use nix::libc::{AF_INET, AF_INET6, RTA_DST, RTA_OIF, RTA_SRC, RTM_GETLINK, RTM_GETROUTE};

use super::attributes::{find, number};
use super::socket::{Netlink, SocketError};
use super::{Link, link};

/// `struct rtmsg` of include/uapi/linux/rtnetlink.h.
const HEADER: usize = 12;

/// Looks for it in the calling thread's network namespace, for packets from its address `from`. Of a route with several ways
/// it is one: by which of them a flow leaves hangs on its ports.
///
/// # Errors
/// The kernel's: there is no route, or the device is gone.
pub fn towards(to: IpAddr, from: IpAddr) -> io::Result<Link> {
    let mut socket = Netlink::open()?;
    let mut index = None;
    socket.call(RTM_GETROUTE, &question(to, from), |payload| index = device(payload)).map_err(error)?;
    let mut found = None;
    if let Some(index) = index {
        let question = link::question_by(index);
        socket.call(RTM_GETLINK, &question, |payload| found = link::decode(payload)).map_err(error)?;
    }
    found.ok_or_else(|| io::Error::from_raw_os_error(nix::libc::ENODEV))
}

/// The body of `RTM_GETROUTE` for one way.
pub(super) fn question(to: IpAddr, from: IpAddr) -> Vec<u8> {
    let mut body = vec![0; HEADER];
    let family = if to.is_ipv4() { AF_INET } else { AF_INET6 };
    body[0] = u8::try_from(family).unwrap_or_default();
    for (length_at, kind, address) in [(1, RTA_DST, to), (2, RTA_SRC, from)] {
        let bytes = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let length = u8::try_from(bytes.len()).unwrap_or_default();
        // Of all of an address: its length in bits.
        body[length_at] = length * 8;
        body.extend((u16::from(length) + 4).to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(bytes);
    }
    body
}

/// The number of the device in an `RTM_NEWROUTE`.
fn device(payload: &[u8]) -> Option<u32> {
    find(payload.get(HEADER..)?, RTA_OIF).and_then(number)
}

fn error(error: SocketError) -> io::Error {
    match error {
        SocketError::Refused(code) => io::Error::from_raw_os_error(code),
        SocketError::Io(error) => error,
        SocketError::Garbled | SocketError::Restless => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn the_way_to_oneself_is_loopback() {
        let way = towards(Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()).unwrap();
        assert_eq!((way.name.as_str(), way.loopback), ("lo", true));
    }

    #[test]
    fn an_address_that_is_not_ours_has_no_way_from_here() {
        let documentation = Ipv4Addr::new(198, 51, 100, 1);
        assert!(towards(Ipv4Addr::LOCALHOST.into(), documentation.into()).is_err());
    }

    #[test]
    fn the_question_has_both_addresses_whole() {
        let v4 = question(Ipv4Addr::new(192, 0, 2, 1).into(), Ipv4Addr::new(192, 0, 2, 2).into());
        assert_eq!(v4[..4], [2, 32, 32, 0]);
        assert_eq!(find(&v4[HEADER..], RTA_DST), Some(&[192, 0, 2, 1][..]));
        assert_eq!(find(&v4[HEADER..], RTA_SRC), Some(&[192, 0, 2, 2][..]));
        let v6 = question(Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
        assert_eq!(v6[..4], [10, 128, 128, 0]);
        assert_eq!(find(&v6[HEADER..], RTA_SRC), Some(&Ipv6Addr::LOCALHOST.octets()[..]));
        assert_eq!(device(&v6), None);
    }
}
