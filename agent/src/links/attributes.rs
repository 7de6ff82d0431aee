//! Netlink attributes out of the kernel's replies and into requests: what does not parse is not there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::NlasIterator;

/// Kind and value of each attribute, up to the first that is cut off.
pub(super) fn all(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let attributes = NlasIterator::new(bytes).map_while(Result::ok);
    attributes.filter_map(|attribute| {
        let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
        Some((kind, attribute.into_inner().get(4..length)?))
    })
}

/// The value of the first attribute of this kind.
pub(super) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    all(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// A number in this machine's order.
pub(super) fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
}

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

/// Text up to its first zero byte.
pub(super) fn text(value: &[u8]) -> &[u8] {
    value.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Appends an attribute with a number.
pub(super) fn put_number(message: &mut Vec<u8>, kind: u16, value: u32) {
    const LENGTH: u16 = 8;
    message.extend(LENGTH.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value.to_ne_bytes());
}
