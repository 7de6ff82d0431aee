//! The route that packets to one address take, with all that a route for that address alone must repeat.

use std::net::IpAddr;

use nix::libc::{
    AF_INET6, RTA_ENCAP, RTA_GATEWAY, RTA_METRICS, RTA_MULTIPATH, RTA_OIF, RTA_PREFSRC, RTA_PRIORITY,
    RTA_TABLE, RTA_VIA, RTM_GETLINK, RTM_GETROUTE, RTN_UNICAST,
};

use super::attributes::{address, all, find, number, short};
use super::link;
use super::socket::Netlink;
use super::way::question;

/// `struct rtmsg` of include/uapi/linux/rtnetlink.h.
const HEADER: usize = 12;
/// `RTM_F_FIB_MATCH`: the route as it was set. And `RTM_F_LOOKUP_TABLE`: with its table, which IPv6 always tells, and takes no
/// flag for (`inet6_rtm_valid_getroute_req`).
const AS_SET: u32 = 0x2000;
const AND_TABLE: u32 = 0x1000;
/// `RTNH_F_DEAD`.
const DEAD: u8 = 1;
/// `RTNH_F_ONLINK`.
const ONLINK: u32 = 4;
/// `RTAX_LOCK` and `RTAX_MTU`.
const LOCK: u16 = 1;
const MTU: u16 = 2;
/// Ways of one route that are repeated.
const MAX_WAYS: usize = 16;

/// A unicast route as it was set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Bytes of the largest packet, where it says so.
    pub mtu: Option<u32>,
    /// Its routing table; 254 is the main one.
    pub table: u32,
    /// Its metric, if it is for one address alone: a route with another would stand beside it.
    pub metric: Option<u32>,
    /// The address that packets leave with, where it says so.
    pub source: Option<IpAddr>,
    /// What else it says of connections, as ip-route(8) names it.
    pub options: Vec<(&'static str, u32)>,
    /// Where it leads; several share the packets. Empty where it has what cannot be repeated.
    pub ways: Vec<Way>,
}

/// One way of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// The next hop; `None` if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The device's number.
    pub device: u32,
    /// Its name, as [`super::Link::name`].
    pub name: String,
    /// The next hop is taken to be on the link, whatever routes say.
    pub onlink: bool,
    /// Its share of the packets, from 1 on.
    pub weight: u32,
}

/// Looks for it in the calling thread's network namespace, for packets from its address `from`; `None` where there is none, or
/// the kernel does not say it.
#[must_use]
pub fn taken(to: IpAddr, from: IpAddr) -> Option<Taken> {
    let mut socket = Netlink::open().ok()?;
    let mut body = question(to, from);
    let flags = if to.is_ipv4() { AS_SET | AND_TABLE } else { AS_SET };
    body.get_mut(8..HEADER)?.copy_from_slice(&flags.to_ne_bytes());
    let mut found = None;
    socket.call(RTM_GETROUTE, &body, |payload| found = decode(payload)).ok()?;
    let mut found = found?;
    for way in &mut found.ways {
        let mut link = None;
        socket
            .call(RTM_GETLINK, &link::question_by(way.device), |payload| link = link::decode(payload))
            .ok()?;
        way.name = link?.name;
    }
    Some(found)
}

/// The route in an `RTM_NEWROUTE`; its ways' names are still to be asked for.
fn decode(payload: &[u8]) -> Option<Taken> {
    let &[family, length, _, tos, table, _, _, kind] = payload.first_chunk()?;
    let attributes = payload.get(HEADER..)?;
    let get = |kind| find(attributes, kind);
    let metrics = get(RTA_METRICS).unwrap_or_default();
    let is_one_address = length == if i32::from(family) == AF_INET6 { 128 } else { 32 };
    let options = options(metrics);
    let is_whole = tos == 0 && options.is_some();
    let flags = number(payload.get(8..HEADER)?)?;
    (kind == RTN_UNICAST).then(|| Taken {
        mtu: find(metrics, MTU).and_then(number).filter(|mtu| *mtu > 0),
        table: get(RTA_TABLE).and_then(number).unwrap_or(table.into()),
        metric: get(RTA_PRIORITY).and_then(number).filter(|metric| is_one_address && *metric > 0),
        source: get(RTA_PREFSRC).and_then(address),
        options: options.unwrap_or_default(),
        ways: ways(attributes, flags).filter(|_| is_whole).unwrap_or_default(),
    })
}

/// What a route says of connections beside the MTU; `None` if that has what is no plain number.
fn options(metrics: &[u8]) -> Option<Vec<(&'static str, u32)>> {
    let named = all(metrics).filter(|(kind, value)| match *kind {
        // A lock on the MTU would keep what hops tell from being believed: it is not repeated.
        LOCK => number(value) != Some(1 << MTU),
        kind => kind != MTU,
    });
    named
        .map(|(kind, value)| {
            // `RTAX_*` of include/uapi/linux/rtnetlink.h.
            let name = match kind {
                3 => "window",
                8 => "advmss",
                9 => "reordering",
                10 => "hoplimit",
                11 => "initcwnd",
                14 => "initrwnd",
                15 => "quickack",
                _ => return None,
            };
            Some((name, number(value)?))
        })
        .collect()
}

/// Where a route leads; `None` if packets are wrapped there, or it leads nowhere.
fn ways(attributes: &[u8], flags: u32) -> Option<Vec<Way>> {
    let Some(mut rest) = find(attributes, RTA_MULTIPATH) else {
        let device = find(attributes, RTA_OIF).and_then(number)?;
        return Some(vec![way(attributes, device, flags, 1)?]);
    };
    let mut ways = Vec::new();
    while !rest.is_empty() {
        // `struct rtnexthop`: length, flags, weight less one, device; then its own attributes.
        let length = usize::from(short(rest)?);
        let one = rest.get(..length).filter(|one| one.len() >= 8 && ways.len() < MAX_WAYS)?;
        // The kernel takes no way by a device that is down.
        if one[2] & DEAD == 0 {
            ways.push(way(&one[8..], number(&one[4..8])?, one[2].into(), u32::from(one[3]) + 1)?);
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    (!ways.is_empty()).then_some(ways)
}

fn way(attributes: &[u8], device: u32, flags: u32, weight: u32) -> Option<Way> {
    if find(attributes, RTA_ENCAP).is_some() {
        return None;
    }
    let via = || find(attributes, RTA_VIA)?.get(2..).and_then(address);
    let gateway = find(attributes, RTA_GATEWAY).and_then(address).or_else(via);
    Some(Way { gateway, device, name: String::new(), onlink: flags & ONLINK != 0, weight })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::links::tests::{attribute, number as word};

    const GATEWAY: [u8; 4] = [10, 0, 0, 1];

    fn message(family: u8, length: u8, flags: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut message = vec![family, length, 0, 0, 254, 0, 0, RTN_UNICAST];
        message.extend(flags.to_ne_bytes());
        message.extend(attributes.concat());
        message
    }

    /// IPv4 by a gateway on device 7, with further attributes.
    fn by_gateway(length: u8, further: &[Vec<u8>]) -> Taken {
        let plain = [attribute(RTA_GATEWAY, &GATEWAY), word(RTA_OIF, 7)];
        decode(&message(2, length, 0, &[&plain[..], further].concat())).unwrap()
    }

    fn plain() -> Way {
        Way { gateway: Some(GATEWAY.into()), device: 7, weight: 1, ..Way::default() }
    }

    #[test]
    fn a_route_is_read_with_all_that_it_says() {
        let metrics =
            [word(MTU, 1450), word(8, 1300), word(10, 64), word(11, 20), word(14, 30), word(15, 1)].concat();
        let source = attribute(RTA_PREFSRC, &[10, 0, 0, 9]);
        let further =
            [word(RTA_TABLE, 1000), source, word(RTA_PRIORITY, 50), attribute(RTA_METRICS, &metrics)];
        let wanted = Taken {
            mtu: Some(1450),
            table: 1000,
            metric: None,
            source: Some(Ipv4Addr::new(10, 0, 0, 9).into()),
            options: vec![
                ("advmss", 1300),
                ("hoplimit", 64),
                ("initcwnd", 20),
                ("initrwnd", 30),
                ("quickack", 1),
            ],
            ways: vec![plain()],
        };
        assert_eq!(by_gateway(16, &further), wanted);
        assert_eq!(by_gateway(32, &further), Taken { metric: Some(50), ..wanted });
        assert_eq!(by_gateway(0, &[]), Taken { table: 254, ways: vec![plain()], ..Taken::default() });
        let rest = [word(3, 8000), word(9, 5)].concat();
        let rest = by_gateway(0, &[attribute(RTA_METRICS, &rest)]).options;
        assert_eq!(rest, [("window", 8000), ("reordering", 5)]);
    }

    #[test]
    fn what_is_on_the_link_has_no_gateway_and_what_is_said_to_be_has_a_flag() {
        let device = word(RTA_OIF, 7);
        let direct = decode(&message(10, 128, 0, &[device.clone(), word(RTA_PRIORITY, 256)])).unwrap();
        assert_eq!((direct.metric, direct.ways), (Some(256), vec![Way { gateway: None, ..plain() }]));
        let onlink = message(2, 0, ONLINK, &[device.clone(), attribute(RTA_GATEWAY, &GATEWAY)]);
        assert_eq!(decode(&onlink).unwrap().ways, [Way { onlink: true, ..plain() }]);
        let v6 = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
        let via = [&10_u16.to_ne_bytes()[..], &v6.octets()].concat();
        let via = decode(&message(2, 0, 0, &[device, attribute(RTA_VIA, &via)])).unwrap();
        assert_eq!(via.ways, [Way { gateway: Some(v6.into()), ..plain() }]);
    }

    #[test]
    fn each_way_of_several_is_kept_with_its_share() {
        let way = |flags: u8, weight: u8, device: u32, attributes: &[u8]| {
            let length = u16::try_from(8 + attributes.len()).unwrap();
            [&length.to_ne_bytes()[..], &[flags, weight], &device.to_ne_bytes(), attributes].concat()
        };
        let gateway = attribute(RTA_GATEWAY, &GATEWAY);
        let several = |ways: &[Vec<u8>]| {
            decode(&message(2, 0, 0, &[attribute(RTA_MULTIPATH, &ways.concat())])).unwrap().ways
        };
        let found = several(&[way(0, 0, 7, &gateway), way(4, 2, 8, &gateway)]);
        assert_eq!(found, [plain(), Way { device: 8, onlink: true, weight: 3, ..plain() }]);
        assert_eq!(several(&[way(1, 0, 7, &gateway), way(16, 0, 7, &gateway)]), [plain()], "one is down");
        let wrapped = [gateway.clone(), attribute(RTA_ENCAP, &[0; 4])].concat();
        assert_eq!(several(&[way(0, 0, 7, &gateway), way(0, 0, 8, &wrapped)]), []);
        assert_eq!(several(&[way(0, 0, 7, &gateway)[..12].to_vec()]), [], "cut off");
        assert_eq!(several(&vec![way(0, 0, 7, &gateway); MAX_WAYS + 1]), []);
        assert_eq!(several(&vec![way(0, 0, 7, &gateway); MAX_WAYS]).len(), MAX_WAYS);
    }

    #[test]
    fn what_cannot_be_repeated_has_no_way() {
        let ways = |further: Vec<u8>| by_gateway(0, &[further]).ways;
        assert_eq!(ways(attribute(RTA_ENCAP, &[0; 4])), []);
        assert_eq!(ways(attribute(RTA_METRICS, &attribute(16, b"bbr\0"))), []);
        assert_eq!(ways(attribute(RTA_METRICS, &word(LOCK, 1 << 10))), []);
        assert_eq!(ways(attribute(RTA_METRICS, &word(LOCK, 1 << MTU))), [plain()]);
        let mut other = message(2, 0, 0, &[word(RTA_OIF, 7)]);
        other[3] = 8;
        assert_eq!(decode(&other).unwrap().ways, [], "for one kind of service");
        other[7] = 2;
        assert_eq!(decode(&other), None, "local");
        assert_eq!(decode(&[2; 11]), None);
    }

    #[test]
    fn there_is_no_unicast_route_to_oneself() {
        assert_eq!(taken(Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()), None);
    }
}
