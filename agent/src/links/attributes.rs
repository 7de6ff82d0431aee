//! Netlink attributes out of the kernel's replies and into requests: what does not parse is not there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) use crate::netlink::{attributes as all, find, number, text};

/// A signed number in this machine's order.
pub(super) fn signed(value: &[u8]) -> Option<i32> {
    number(value).map(u32::cast_signed)
}

/// A number of two bytes in this machine's order.
pub(super) fn short(value: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(value.get(..2)?.try_into().ok()?))
}

/// An address; all zeros, which is how the kernel says that there is none, is none.
pub(super) fn address(value: &[u8]) -> Option<IpAddr> {
    any_address(value).filter(|address| !address.is_unspecified())
}

/// An address, all zeros included.
pub(super) fn any_address(value: &[u8]) -> Option<IpAddr> {
    match *value {
        [a, b, c, d] => Some(Ipv4Addr::new(a, b, c, d).into()),
        _ => Some(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into()),
    }
}

/// Appends an attribute with a number.
pub(super) fn put_number(message: &mut Vec<u8>, kind: u16, value: u32) {
    const LENGTH: u16 = 8;
    message.extend(LENGTH.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value.to_ne_bytes());
}
