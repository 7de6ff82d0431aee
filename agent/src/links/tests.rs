//! Replies as the kernel makes them, cut, and of any bytes.

use std::time::Duration;

use proptest::prelude::*;

use super::link::{decode, is_of, question};
use super::*;

mod beside;
mod edges;

pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

pub(super) fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_ne_bytes())
}

pub(super) fn message(index: u32, flags: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    bytes.extend(index.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(attributes.concat());
    bytes
}

/// `IFLA_LINKINFO` with a kind and its own attributes.
pub(super) fn kind(name: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    let name = attribute(1, &[name.as_bytes(), b"\0"].concat());
    attribute(18, &[name, attribute(2, &attributes.concat())].concat())
}

fn tunnel(name: &str, attributes: &[Vec<u8>]) -> Tunnel {
    let message = message(9, 1, &[attribute(3, b"tun0\0"), number(4, 1450), kind(name, attributes)]);
    decode(&message).unwrap().tunnel.unwrap()
}

#[test]
fn a_veth_of_another_namespace() {
    let message = message(
        7,
        1,
        &[
            attribute(3, b"eth0\0"),
            number(4, 1500),
            number(5, 12),
            number(37, 3),
            number(10, 4),
            kind("veth", &[]),
        ],
    );
    let wanted = Link {
        index: 7,
        name: "eth0".to_owned(),
        kind: "veth".to_owned(),
        mtu: 1500,
        up: true,
        master: Some(4),
        lower: Some(12),
        lower_netns: Some(NetnsId(3)),
        ..Link::default()
    };
    assert_eq!(decode(&message), Some(wanted));
}

#[test]
fn a_name_that_is_no_text_hides_nothing() {
    let link = decode(&message(7, 0, &[attribute(3, b"a\xff\x1b[2J\0"), number(4, 1500)])).unwrap();
    assert_eq!((link.name.as_str(), link.kind.as_str(), link.mtu), ("a\\xff\x1b[2J", "physical", 1500));
    let lo = decode(&message(1, 8 | 1, &[attribute(3, b"lo\0"), number(4, 65536), number(5, 1)])).unwrap();
    assert_eq!((lo.kind.as_str(), lo.lower, lo.up, lo.carrier), ("loopback", None, true, false));
    assert!(decode(&message(1, 0x1_0000 | 8 | 1, &[])).unwrap().carrier);
}

#[test]
fn a_kernel_that_answers_for_itself_is_seen() {
    let ours = message(7, 1, &[]);
    let theirs = message(7, 1, &[number(46, 3)]);
    assert!(is_of(&ours, None) && is_of(&theirs, Some(NetnsId(3))));
    assert!(!is_of(&ours, Some(NetnsId(3))) && !is_of(&theirs, None) && !is_of(&theirs, Some(NetnsId(4))));
    assert_eq!(question(Some(NetnsId(3))).len(), 16 + 8 + 8);
}

#[test]
fn each_kind_adds_what_its_options_say() {
    let v4 = |last: u8| [10, 0, 0, last].to_vec();
    let vxlan =
        tunnel("vxlan", &[attribute(2, &v4(2)), number(3, 5), attribute(4, &v4(1)), attribute(25, &[0])]);
    assert_eq!((vxlan.local, vxlan.remote), (Some([10, 0, 0, 1].into()), Some([10, 0, 0, 2].into())));
    assert_eq!((vxlan.underlay, vxlan.external), (Some(5), false));
    assert_eq!([vxlan.overhead(false), vxlan.overhead(true)], [50, 70]);
    assert_eq!(tunnel("vxlan", &[attribute(27, &[])]).overhead(false), 36, "no inner Ethernet");
    assert!(
        tunnel("vxlan", &[attribute(25, &[1])]).external && tunnel("geneve", &[attribute(6, &[])]).external
    );

    let flags = |flags: u16| attribute(3, &flags.to_be_bytes());
    assert_eq!(tunnel("gre", &[flags(0)]).overhead(false), 24);
    assert_eq!(tunnel("gre", &[flags(0xb000)]).overhead(false), 36, "checksum, key, sequence");
    assert_eq!(tunnel("gretap", &[flags(0x2000)]).overhead(false), 42);
    assert_eq!(tunnel("ipip", &[attribute(15, &2_u16.to_ne_bytes())]).overhead(false), 32, "in GUE");
    assert_eq!(tunnel("ip6tnl", &[]).overhead(true), 48);
    assert_eq!(tunnel("ip6tnl", &[number(8, 1)]).overhead(true), 40, "no limit");
    assert_eq!(tunnel("ip6gretap", &[number(13, 1)]).overhead(true), 58);
    assert_eq!([tunnel("wireguard", &[]).overhead(false), tunnel("wireguard", &[]).overhead(true)], [60, 80]);
    assert_eq!(tunnel("vlan", &[]).overhead(false), 0);
    assert_eq!(tunnel("macsec", &[attribute(3, &[8])]).overhead(false), 24);
    let vti = tunnel("vti", &[number(1, 5), attribute(3, &7_u32.to_be_bytes()), attribute(5, &v4(2))]);
    assert_eq!((vti.key, vti.underlay, vti.remote), (7, Some(5), Some([10, 0, 0, 2].into())));
    let xfrm = tunnel("xfrm", &[number(1, 5), number(2, 9)]);
    assert_eq!((xfrm.key, xfrm.underlay, xfrm.external), (9, None, false));
    assert!(tunnel("xfrm", &[attribute(3, &[])]).external);
    assert!(decode(&message(9, 1, &[kind("tun", &[])])).unwrap().tunnel.is_none());
    let xdp = attribute(43, &attribute(2, &[1]));
    assert_eq!(decode(&message(9, 1, &[xdp])).unwrap().program, Some("XDP"));
    assert_eq!(decode(&message(9, 1, &[attribute(43, &attribute(2, &[0]))])).unwrap().program, None);
}

/// The kernel gives the end of a tunnel by one attribute a family: missed, IPv6 would be taken for twenty bytes less.
#[test]
fn each_end_is_read_of_each_family() {
    let (v4, v6) = ([10, 0, 0, 2].to_vec(), [vec![0xfd], vec![0; 14], vec![2]].concat());
    let address = |bytes: &[u8]| match *bytes {
        [a, b, c, d] => IpAddr::from([a, b, c, d]),
        _ => IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap()),
    };
    // Kind, its local and its remote attribute, which of both families it may have.
    for (name, local, remote, end) in [
        ("vxlan", Some(4), 2, &v4),
        ("vxlan", Some(17), 16, &v6),
        ("geneve", None, 2, &v4),
        ("geneve", None, 7, &v6),
        ("gre", Some(6), 7, &v4),
        ("gretap", Some(6), 7, &v4),
        ("ip6gre", Some(6), 7, &v6),
        ("ip6gretap", Some(6), 7, &v6),
        ("ipip", Some(2), 3, &v4),
        ("sit", Some(2), 3, &v4),
        ("ip6tnl", Some(2), 3, &v6),
    ] {
        let only_remote = tunnel(name, &[attribute(remote, end)]);
        assert_eq!((only_remote.local, only_remote.remote), (None, Some(address(end))), "{name}");
        if let Some(local) = local {
            let only_local = tunnel(name, &[attribute(local, end)]);
            assert_eq!((only_local.local, only_local.remote), (Some(address(end)), None), "{name}");
        }
    }
    let far = tunnel("vxlan", &[attribute(16, &v6)]);
    assert_eq!(far.overhead(far.remote.is_some_and(|remote| remote.is_ipv6())), 70);
}

/// All that each kind adds, by the family outside; see the sums in `tunnel.rs`.
#[test]
fn each_kind_adds_its_own_headers() {
    for (name, over_v4, over_v6) in [
        ("vxlan", 50, 70),
        ("geneve", 50, 70),
        ("gre", 24, 44),
        ("gretap", 38, 58),
        ("ip6gre", 32, 52),
        ("ip6gretap", 46, 66),
        ("ipip", 20, 40),
        ("sit", 20, 40),
        ("ip6tnl", 28, 48),
        ("wireguard", 60, 80),
        ("vlan", 0, 0),
        ("macsec", 32, 32),
    ] {
        let tunnel = tunnel(name, &[]);
        assert_eq!([tunnel.overhead(false), tunnel.overhead(true)], [over_v4, over_v6], "{name}");
    }
    // FOU, GUE, and GUE with a remote checksum; each of the flags of GRE alone.
    let within = |kind: u16, flags: u16| {
        tunnel("ipip", &[attribute(15, &kind.to_ne_bytes()), attribute(16, &flags.to_ne_bytes())])
            .overhead(false)
    };
    assert_eq!([within(0, 0), within(1, 0), within(2, 0), within(2, 4), within(1, 4)], [20, 28, 32, 36, 28]);
    for flag in [0x8000_u16, 0x2000, 0x1000] {
        assert_eq!(tunnel("gre", &[attribute(3, &flag.to_be_bytes())]).overhead(false), 28, "{flag:#x}");
    }
    assert_eq!(
        tunnel("gre", &[attribute(3, &0x4fff_u16.to_be_bytes())]).overhead(false),
        24,
        "no other flag"
    );
}

pub(super) fn route(length: u8, table: u8, flags: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![2, length, 0, 0, table, 2, 0, 1];
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(attributes.concat());
    bytes
}

fn routes(payload: &[u8]) -> Vec<Route> {
    let mut routes = Vec::new();
    route::decode(payload, &mut routes);
    routes
}

#[test]
fn routes_and_each_of_their_ways() {
    let metrics = attribute(8, &[number(2, 1400), number(8, 1360)].concat());
    let one = route(24, 254, 0, &[attribute(1, &[10, 1, 2, 0]), number(4, 3), number(15, 300), metrics]);
    let wanted = Route {
        destination: "10.1.2.0/24".parse().unwrap(),
        device: 3,
        gateway: None,
        table: 300,
        metric: 0,
        mtu: Some(1400),
        advmss: Some(1360),
        expires: false,
        object: None,
        dead: false,
        linkdown: false,
    };
    assert_eq!(routes(&one), [wanted]);
    let object = route(24, 254, 0, &[attribute(1, &[10, 1, 2, 0]), number(4, 3), number(30, 12)]);
    assert_eq!(routes(&object)[0].object, Some(12));

    let way = |device: u32, last: u8| {
        let mut way = vec![16, 0, 0, 0];
        way.extend(device.to_ne_bytes());
        way.extend(attribute(5, &[10, 0, 0, last]));
        way
    };
    let two = routes(&route(0, 254, 0, &[attribute(9, &[way(3, 1), way(4, 2)].concat())]));
    let ways: Vec<_> = two.iter().map(|route| (route.device, route.gateway)).collect();
    assert_eq!(ways, [(3, Some([10, 0, 0, 1].into())), (4, Some([10, 0, 0, 2].into()))]);
    assert!(two.iter().all(|route| !route.dead && !route.linkdown), "the ways' own flags count");
    // What the kernel says of a device without carrier, for the route and for one way of several.
    assert!(routes(&route(0, 254, 16, &[number(4, 3)]))[0].linkdown);
    let unplugged = [way(3, 1), [&[16, 0, 17, 0], &way(4, 2)[4..]].concat()].concat();
    let ways = routes(&route(0, 254, 0, &[attribute(9, &unplugged)]));
    let states: Vec<_> = ways.iter().map(|route| (route.dead, route.linkdown)).collect();
    assert_eq!(states, [(false, false), (true, true)]);
    // A length of nothing must not be gone through for ever.
    assert!(routes(&route(0, 254, 0, &[attribute(9, &[0; 64])])).is_empty());
    // A next hop of the other family: `struct rtvia`.
    let via = attribute(18, &[&10_u16.to_ne_bytes()[..], &[0xfd; 16]].concat());
    assert!(routes(&route(0, 254, 0, &[via]))[0].gateway.unwrap().is_ipv6());
}

#[test]
fn only_a_clone_with_an_mtu_is_a_learned_path() {
    let attributes = |mtu: u32| {
        let mut cache = vec![0; 8];
        cache.extend(59_900_i32.to_ne_bytes());
        let metrics = attribute(8, &number(2, mtu));
        [attribute(1, &[10, 1, 2, 3]), number(4, 3), metrics, attribute(12, &cache)]
    };
    let learned = route::exception(&route(32, 254, 0x200, &attributes(1400))).unwrap();
    assert_eq!((learned.destination, learned.device, learned.mtu), ([10, 1, 2, 3].into(), 3, 1400));
    assert_eq!(learned.expires, Some(Duration::from_secs(599)));
    assert_eq!(route::exception(&route(32, 254, 0x200, &attributes(0))), None, "a redirect");
    assert_eq!(route::exception(&route(32, 254, 0, &attributes(1400))), None, "a route");
    assert!(routes(&route(32, 254, 0x200, &attributes(1400))).is_empty());
}

/// This process's own namespace needs no right.
#[test]
fn our_own_namespace_is_read() {
    let place = Place { owner: None, file: "/proc/self/ns/net".into(), inode: None, doubt: None };
    let read = read(std::slice::from_ref(&place), Wants { pod_exceptions: false }).unwrap();
    assert!(read[0].links.iter().any(|link| link.loopback && link.kind == "loopback"), "{read:#?}");
    assert!(read[0].routes.is_some() && read[0].exceptions.is_some() && read[0].fragments.is_some());
    // What IPsec and tcx have is for who has CAP_NET_ADMIN.
    assert!(read[0].unread.iter().all(|unread| unread.why.contains("CAP_NET_ADMIN")), "{read:#?}");
    let other = Place { inode: Some(1), ..place };
    assert!(super::read(&[other], Wants { pod_exceptions: false }).unwrap_err().to_string().contains("gone"));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(raw in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = (decode(&raw), is_of(&raw, None), routes(&raw), route::exception(&raw));
        let _ = (super::ipsec::policy(&raw), super::ipsec::state(&raw));
        super::wireguard::endpoints(&raw, &mut Vec::new());
    }

    #[test]
    fn any_attributes_are_survived(kinds in prop::collection::vec((0_u16..60, prop::collection::vec(any::<u8>(), 0..40)), 0..12), name in "(vxlan|gre|ip6tnl|macsec)") {
        let attributes: Vec<_> = kinds.iter().map(|(kind, value)| attribute(*kind, value)).collect();
        let _ = decode(&message(7, 1, &[&attributes[..], &[kind(&name, &attributes)]].concat()));
        let _ = (routes(&route(24, 254, 0, &attributes)), route::exception(&route(32, 254, 0x200, &attributes)));
    }
}
