//! Questions byte for byte, and answers that differ from the usual by one thing.

use super::super::link::question_of;
use super::*;

#[test]
fn one_device_of_another_namespace_is_asked_for() {
    let wanted =
        [vec![0; 4], 12_u32.to_ne_bytes().to_vec(), vec![0; 8], number(29, 8), number(46, 3)].concat();
    assert_eq!(question_of(NetnsId(3), 12), wanted);
}

#[test]
fn routes_and_learned_paths_are_different_questions() {
    let asked = |v6, of| {
        let body = route::question(v6, of);
        (body.len(), body[0], body[7], u32::from_ne_bytes(body[8..].try_into().unwrap()))
    };
    assert_eq!(asked(false, route::Of::Routes), (12, 2, 1, 0));
    assert_eq!(asked(true, route::Of::Routes), (12, 10, 1, 0));
    assert_eq!(asked(true, route::Of::Exceptions), (12, 10, 1, 0x200));
}

#[test]
fn a_device_that_is_down_is_nothing_else() {
    let wanted =
        Link { index: 7, name: "eth0".to_owned(), kind: "physical".to_owned(), mtu: 1500, ..Link::default() };
    let told = |flags, more: &[Vec<u8>]| {
        decode(&message(7, flags, &[&[attribute(3, b"eth0\0"), number(4, 1500)], more].concat())).unwrap()
    };
    assert_eq!(told(0, &[]), wanted);
    // IFF_BROADCAST, IFF_RUNNING and IFF_MULTICAST say nothing of what is asked.
    assert_eq!(told(0x1042, &[]), wanted);
    assert_eq!(told(1, &[]), Link { up: true, ..wanted.clone() });
    assert_eq!(told(0x1_0000, &[]), Link { carrier: true, ..wanted.clone() });
}

/// `ARPHRD_ETHER`, `ARPHRD_LOOPBACK`, and `ARPHRD_NONE` of a tunnel that carries IP.
#[test]
fn a_frame_of_ethernet_has_a_header() {
    let mut answer = message(7, 1, &[number(4, 1500)]);
    for (kind, header) in [(1_u16, 14), (0xfffe, 0), (772, 14)] {
        answer[2..4].copy_from_slice(&kind.to_ne_bytes());
        assert_eq!(decode(&answer).unwrap().header, header, "{kind}");
    }
}

/// Numbers are each namespace's own: the other end of a veth may have the same.
#[test]
fn a_device_is_below_itself_only_in_another_namespace() {
    let lower = |attributes: &[Vec<u8>]| decode(&message(7, 1, attributes)).unwrap().lower;
    assert_eq!(lower(&[number(5, 7)]), None, "nothing is below it");
    assert_eq!(lower(&[number(5, 8)]), Some(8), "in this one");
    assert_eq!(lower(&[number(5, 7), number(37, 3)]), Some(7), "a veth's other end");
    assert_eq!(lower(&[number(5, 0), number(37, 3)]), None);
}

#[test]
fn a_route_of_ipv6_is_read_as_one() {
    let mut message = route(64, 254, 0, &[attribute(1, &[0xfd; 16]), number(4, 3)]);
    message[0] = 10;
    let destinations =
        |payload: &[u8]| routes(payload).iter().map(|one| one.destination.to_string()).collect();
    let told: Vec<String> = destinations(&message);
    assert_eq!(told, ["fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd/64"]);
    let mut default = route(0, 254, 0, &[number(4, 3)]);
    default[0] = 10;
    assert_eq!(destinations(&default) as Vec<String>, ["::/0"]);
    default[0] = 7;
    assert_eq!(routes(&default), [], "of no family that has routes");
}

#[test]
fn a_learned_path_may_never_expire() {
    let learned = |hundredths: i32| {
        let cache = [&[0; 8][..], &hundredths.to_ne_bytes()].concat();
        let metrics = attribute(8, &number(2, 1400));
        let attributes = [attribute(1, &[10, 1, 2, 3]), number(4, 3), metrics, attribute(12, &cache)];
        route::exception(&route(32, 254, 0x200, &attributes)).unwrap().expires
    };
    assert_eq!([learned(0), learned(-1)], [None, None]);
    assert_eq!(learned(1), Some(Duration::from_millis(10)));
}

/// Where each kind has the device below it, its own flag for `external`, and what wraps it in UDP.
#[test]
fn each_kind_of_tunnel_says_what_is_around_it_in_its_own_attributes() {
    let short = |kind: Option<u16>, value: u16| kind.map(|kind| attribute(kind, &value.to_ne_bytes()));
    for (name, underlay, external, encap_type, encap_flags) in [
        ("vxlan", Some(3), Some(25), None, None),
        ("geneve", None, Some(6), None, None),
        ("gre", Some(1), Some(18), Some(14), Some(15)),
        ("ip6gretap", Some(1), Some(18), Some(14), Some(15)),
        ("ipip", Some(1), Some(19), Some(15), Some(16)),
        ("ip6tnl", Some(1), Some(19), Some(15), Some(16)),
        ("vti", Some(1), None, None, None),
        ("vti6", Some(1), None, None, None),
        ("xfrm", None, Some(3), None, None),
    ] {
        let plain = tunnel(name, &[]);
        let below = |device| underlay.map(|kind| tunnel(name, &[number(kind, device)]).underlay);
        assert_eq!((below(5), below(0)), (underlay.map(|_| Some(5)), underlay.map(|_| None)), "{name}");
        let by_packet = external.map(|kind| tunnel(name, &[attribute(kind, &[])]));
        assert_eq!(by_packet, external.map(|_| Tunnel { external: true, ..plain }), "{name}");
        // GUE with a remote checksum.
        let around: Vec<_> = [short(encap_type, 2), short(encap_flags, 4)].into_iter().flatten().collect();
        let more = if around.is_empty() { 0 } else { 16 };
        assert_eq!(tunnel(name, &around), Tunnel { extra: plain.extra + more, ..plain }, "{name}");
    }
}

#[test]
fn tunnels_of_ipsec_are_known_by_their_key() {
    let (v4, v6) = ([10, 0, 0, 2], [0xfd; 16]);
    let vti = |name, local: &[u8], remote: &[u8]| {
        tunnel(name, &[attribute(3, &7_u32.to_be_bytes()), attribute(4, local), attribute(5, remote)])
    };
    let keyed = |encapsulation| Tunnel { key: 7, ..Tunnel::plain(encapsulation) };
    let ends = |end: IpAddr, of| Tunnel { local: Some(end), remote: Some(end), ..keyed(of) };
    assert_eq!(vti("vti", &v4, &v4), ends(v4.into(), Encapsulation::Vti));
    assert_eq!(vti("vti6", &v6, &v6), ends(v6.into(), Encapsulation::Vti6));
    assert_eq!(tunnel("xfrm", &[number(2, 7)]), keyed(Encapsulation::Xfrm));
}

#[test]
fn a_tunnel_of_ip_carries_no_inner_ethernet_header() {
    assert_eq!(tunnel("geneve", &[attribute(14, &[])]).overhead(false), 36);
    assert_eq!(tunnel("vxlan", &[attribute(14, &[])]).overhead(false), 50, "another kind's attribute");
}
