//! Routes and learned path MTUs out of the kernel's `RTM_NEWROUTE`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use nix::libc::{
    AF_INET, AF_INET6, RTA_CACHEINFO, RTA_DST, RTA_GATEWAY, RTA_METRICS, RTA_MULTIPATH, RTA_OIF,
    RTA_PRIORITY, RTA_TABLE, RTA_VIA, RTN_UNICAST,
};

use super::attributes::{address, all, any_address, find, number, short, signed};
use super::{Exception, Route};

/// `struct rtmsg` of include/uapi/linux/rtnetlink.h.
const HEADER: usize = 12;
/// `RTM_F_CLONED`: in a strict question, the exceptions and nothing else (`ip_valid_fib_dump_req`).
const RTM_F_CLONED: u32 = 0x200;
/// `RTAX_MTU` and `RTAX_ADVMSS`.
const RTAX_MTU: u16 = 2;
const RTAX_ADVMSS: u16 = 8;
/// Of a nexthop object.
const RTA_NH_ID: u16 = 30;
/// `RTNH_F_DEAD` and `RTNH_F_LINKDOWN`, in a route's flags, and in those of each of its ways where it has several.
const DEAD: u32 = 1;
const LINKDOWN: u32 = 16;
/// Ways of one route that are looked at.
const MAX_WAYS: usize = 64;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    Routes,
    Exceptions,
}

/// The body of `RTM_GETROUTE` for all of one family.
pub(super) fn question(v6: bool, of: Of) -> Vec<u8> {
    let mut body = vec![0; HEADER];
    body[0] = u8::try_from(if v6 { AF_INET6 } else { AF_INET }).unwrap_or_default();
    // Local and broadcast routes are most of a node's with many services: they stay in the kernel.
    body[7] = RTN_UNICAST;
    if of == Of::Exceptions {
        body[8..].copy_from_slice(&RTM_F_CLONED.to_ne_bytes());
    }
    body
}

/// What all messages have.
struct Message<'a> {
    destination: IpNet,
    table: u8,
    flags: u32,
    attributes: &'a [u8],
}

fn message(payload: &[u8]) -> Option<Message<'_>> {
    let &[family, length, _, _, table, _, _, kind] = payload.first_chunk()?;
    let attributes = payload.get(HEADER..)?;
    let any: IpAddr = match i32::from(family) {
        AF_INET => Ipv4Addr::UNSPECIFIED.into(),
        AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let to = find(attributes, RTA_DST).map_or(Some(any), any_address)?;
    let destination = IpNet::new(to, length).ok()?;
    let flags = number(payload.get(8..HEADER)?)?;
    (kind == RTN_UNICAST).then_some(Message { destination, table, flags, attributes })
}

fn metric(attributes: &[u8], kind: u16) -> Option<u32> {
    number(find(find(attributes, RTA_METRICS)?, kind)?).filter(|value| *value != 0)
}

/// A route, each of its ways by itself.
pub(super) fn decode(payload: &[u8], routes: &mut Vec<Route>) {
    let Some(message) = message(payload).filter(|message| message.flags & RTM_F_CLONED == 0) else { return };
    let get = |kind| find(message.attributes, kind);
    let route = Route {
        destination: message.destination,
        device: get(RTA_OIF).and_then(number).unwrap_or(0),
        gateway: gateway(message.attributes),
        table: get(RTA_TABLE).and_then(number).unwrap_or(message.table.into()),
        metric: get(RTA_PRIORITY).and_then(number).unwrap_or(0),
        mtu: metric(message.attributes, RTAX_MTU),
        advmss: metric(message.attributes, RTAX_ADVMSS),
        expires: get(RTA_CACHEINFO).and_then(expires).is_some(),
        object: get(RTA_NH_ID).and_then(number),
        dead: message.flags & DEAD != 0,
        linkdown: message.flags & LINKDOWN != 0,
    };
    let Some(mut ways) = get(RTA_MULTIPATH) else { return routes.push(route) };
    // `struct rtnexthop`: length, flags, hops, device; then its own attributes.
    for _ in 0..MAX_WAYS {
        let Some(length) = short(ways).map(usize::from).filter(|length| *length >= 8) else { return };
        let Some(way) = ways.get(..length) else { return };
        let (device, flags) = (number(&way[4..8]).unwrap_or(0), u32::from(way[2]));
        let (dead, linkdown) = (flags & DEAD != 0, flags & LINKDOWN != 0);
        routes.push(Route { device, gateway: gateway(&way[8..]), dead, linkdown, ..route.clone() });
        ways = ways.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

/// The next hop, be it of the other family.
fn gateway(attributes: &[u8]) -> Option<IpAddr> {
    let via = || find(attributes, RTA_VIA)?.get(2..).and_then(address);
    find(attributes, RTA_GATEWAY).and_then(address).or_else(via)
}

/// How long until it goes: the third number of `struct rta_cacheinfo`, in hundredths of a second.
fn expires(cache: &[u8]) -> Option<Duration> {
    let hundredths = u64::try_from(signed(cache.get(8..)?)?).ok().filter(|hundredths| *hundredths > 0)?;
    Some(Duration::from_millis(hundredths * 10))
}

/// A path MTU that was learned; `None` for a redirect, which has no MTU, and for a route.
pub(super) fn exception(payload: &[u8]) -> Option<Exception> {
    let message = message(payload).filter(|message| message.flags & RTM_F_CLONED != 0)?;
    Some(Exception {
        destination: message.destination.addr(),
        device: all(message.attributes)
            .find(|(kind, _)| *kind == RTA_OIF)
            .and_then(|(_, oif)| number(oif))?,
        mtu: metric(message.attributes, RTAX_MTU)?,
        expires: find(message.attributes, RTA_CACHEINFO).and_then(expires),
    })
}
