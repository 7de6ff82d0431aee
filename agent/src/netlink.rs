//! What every netlink question and answer has in common: a message around the question, attributes in the answer. What does not
//! parse is not there.

use std::num::TryFromIntError;

use netlink_packet_core::NlasIterator;
use nix::libc::NLM_F_REQUEST;

pub mod bucket;
pub mod tc;

/// A question of this kind, with further flags.
///
/// # Errors
/// It is too long, or a flag is none.
pub fn request(kind: u16, flags: i32, sequence: u32, body: &[u8]) -> Result<Vec<u8>, TryFromIntError> {
    /// `sizeof(struct nlmsghdr)`
    const HEADER: usize = 16;
    let length = u32::try_from(HEADER + body.len())?;
    let flags = u16::try_from(NLM_F_REQUEST | flags)?;
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend([0; 4]);
    message.extend(body);
    Ok(message)
}

/// Kind and value of each attribute, up to the first that is cut off.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(Result::ok).filter_map(|attribute| {
        let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
        Some((kind, attribute.into_inner().get(4..length)?))
    })
}

/// The value of the first attribute of this kind.
#[must_use]
pub fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// A number in this machine's order.
#[must_use]
pub fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
}

/// Text up to its first zero byte.
#[must_use]
pub fn text(value: &[u8]) -> &[u8] {
    value.split(|byte| *byte == 0).next().unwrap_or_default()
}
