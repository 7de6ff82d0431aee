//! A device out of the kernel's `RTM_NEWLINK`: only what an MTU depends on.

use nix::libc::{
    IFF_LOOPBACK, IFF_LOWER_UP, IFF_UP, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINK,
    IFLA_LINK_NETNSID, IFLA_LINKINFO, IFLA_MASTER, IFLA_MTU,
};

use super::attributes::{all, find, number, put_number, short, signed, text};
use super::{Link, NetnsId, tunnel};

/// `struct ifinfomsg` of include/uapi/linux/rtnetlink.h.
const HEADER: usize = 16;

/// `ARPHRD_ETHER` and `ARPHRD_LOOPBACK` of `include/uapi/linux/if_arp.h`, and the bytes of their header.
const ETHERNETS: [u16; 2] = [1, 772];
const ETHERNET: u32 = 14;

/// `IFLA_TARGET_NETNSID` of `include/uapi/linux/if_link.h`: not one of the C library's.
const IFLA_TARGET_NETNSID: u16 = 46;
/// `IFLA_EXT_MASK` and its `RTEXT_FILTER_SKIP_STATS`: counters are most of a reply.
const IFLA_EXT_MASK: u16 = 29;
const SKIP_STATS: u32 = 1 << 3;
/// `IFLA_XDP` and its `IFLA_XDP_ATTACHED`.
const IFLA_XDP: u16 = 43;
const IFLA_XDP_ATTACHED: u16 = 2;

/// The body of `RTM_GETLINK` for all devices, of this namespace or of another.
pub(super) fn question(target: Option<NetnsId>) -> Vec<u8> {
    let mut body = vec![0; HEADER];
    put_number(&mut body, IFLA_EXT_MASK, SKIP_STATS);
    if let Some(NetnsId(id)) = target {
        put_number(&mut body, IFLA_TARGET_NETNSID, id.cast_unsigned());
    }
    body
}

/// The body of `RTM_GETLINK` for one device of another namespace.
pub(super) fn question_of(target: NetnsId, index: u32) -> Vec<u8> {
    numbered(question(Some(target)), index)
}

/// The body of `RTM_GETLINK` for one device of this namespace.
pub(super) fn question_by(index: u32) -> Vec<u8> {
    numbered(question(None), index)
}

fn numbered(mut body: Vec<u8>, index: u32) -> Vec<u8> {
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body
}

/// Whether an answer comes from another namespace: a kernel that does not know the question would answer with its own.
pub(super) fn is_of(payload: &[u8], target: Option<NetnsId>) -> bool {
    let said = payload.get(HEADER..).and_then(|attributes| find(attributes, IFLA_TARGET_NETNSID));
    said.and_then(signed) == target.map(|NetnsId(id)| id)
}

/// The device; `None` if its number is missing.
pub(super) fn decode(payload: &[u8]) -> Option<Link> {
    let index = signed(payload.get(4..8)?)?;
    let flags = number(payload.get(8..12)?)?.cast_signed();
    let mut link = Link {
        index: u32::try_from(index).ok()?,
        up: flags & IFF_UP != 0,
        carrier: flags & IFF_LOWER_UP != 0,
        loopback: flags & IFF_LOOPBACK != 0,
        header: if ETHERNETS.contains(&short(payload.get(2..4)?)?) { ETHERNET } else { 0 },
        ..Link::default()
    };
    for (kind, value) in all(payload.get(HEADER..)?) {
        match kind {
            IFLA_IFNAME => link.name = shown(text(value)),
            IFLA_MTU => link.mtu = number(value)?,
            IFLA_LINK => link.lower = number(value).filter(|lower| *lower != 0),
            IFLA_LINK_NETNSID => link.lower_netns = signed(value).map(NetnsId),
            IFLA_MASTER => link.master = number(value),
            IFLA_LINKINFO => kind_of(value, &mut link),
            IFLA_XDP => {
                let attached = find(value, IFLA_XDP_ATTACHED).and_then(|value| value.first().copied());
                link.program = attached.filter(|how| *how != 0).map(|_| "XDP");
            }
            _ => {}
        }
    }
    if link.kind.is_empty() {
        link.kind.push_str(if link.loopback { "loopback" } else { "physical" });
    }
    // What has nothing below it names itself.
    if link.lower_netns.is_none() && link.lower == Some(link.index) {
        link.lower = None;
    }
    Some(link)
}

fn kind_of(value: &[u8], link: &mut Link) {
    let kind = find(value, IFLA_INFO_KIND).map(text).unwrap_or_default();
    link.kind = shown(kind);
    link.tunnel = tunnel::decode(kind, find(value, IFLA_INFO_DATA).unwrap_or_default());
}

/// Bytes as text, those that are none as `\xNN`: to leave such a device out would hide it.
fn shown(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}
