//! Packets written by hand, cut off anywhere, and bytes that are none.

use super::*;

extern crate std;
use std::vec::Vec;

fn ipv4(protocol: u8, fragment: u16, source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
    let [high, low] = fragment.to_be_bytes();
    let mut bytes = Vec::from([0x45, 0, 0, 0, 0, 0, high, low, 64, protocol, 0, 0]);
    bytes.extend(source);
    bytes.extend(destination);
    bytes
}

fn ipv6(next: u8) -> Vec<u8> {
    let mut bytes = Vec::from([0x60, 0, 0, 0, 0, 0, next, 64]);
    bytes.extend([0xfd; 16]);
    bytes.extend([0xfe; 16]);
    bytes
}

fn frame(ethertype: u16) -> Vec<u8> {
    let mut bytes = Vec::from([2; 12]);
    bytes.extend(ethertype.to_be_bytes());
    bytes
}

const POD: [u8; 4] = [10, 1, 0, 5];
const PEER: [u8; 4] = [10, 2, 0, 7];
const PORTS: [u8; 8] = [0x9c, 0x40, 0x01, 0xbb, 0, 0, 0, 0];

fn inner() -> Vec<u8> {
    [ipv4(TCP, 0x4000, POD, PEER), PORTS.to_vec()].concat()
}

#[test]
fn a_flow_has_its_ports() {
    let flow = Quote::parse(&inner()).unwrap().flow;
    assert_eq!((flow.source, flow.destination), (Ipv4Addr::from(POD).into(), Ipv4Addr::from(PEER).into()));
    assert_eq!((flow.protocol, flow.ports, flow.dont_fragment), (TCP, Some((40000, 443)), true));
    let six = [ipv6(60), [UDP, 0, 0, 0, 0, 0, 0, 0].to_vec(), PORTS.to_vec()].concat();
    let flow = Quote::parse(&six).unwrap().flow;
    assert_eq!((flow.protocol, flow.ports), (UDP, Some((40000, 443))), "behind destination options");
}

/// The same with this many words of options, which are all one byte long (NOP).
fn with_options(mut packet: Vec<u8>, words: u8) -> Vec<u8> {
    packet[0] += words;
    let rest = packet.split_off(20);
    packet.extend(Vec::from([1; 4]).repeat(words.into()));
    packet.extend(rest);
    packet
}

/// IPv4's options stand in front of the ports: a router alert is one word, and ten are the most there can be.
#[test]
fn ports_are_behind_options() {
    for words in 0..=10 {
        let bytes = with_options(inner(), words);
        let flow = Quote::parse(&bytes).unwrap().flow;
        assert_eq!((flow.protocol, flow.ports), (TCP, Some((40000, 443))), "{words} words");
        assert_eq!((flow.source, flow.destination), (POD.into(), PEER.into()), "{words} words");
        // As a router quotes it that keeps the law: eight bytes behind the header.
        assert_eq!(Quote::parse(&bytes[..20 + 4 * usize::from(words) + 3]).unwrap().flow.ports, None);
        let tunnel = [with_options(ipv4(4, 0x4000, [192, 0, 2, 1], [192, 0, 2, 2]), words), bytes].concat();
        let found = Quote::parse(&tunnel).unwrap().inner.unwrap();
        assert_eq!((found.overhead, found.flow.ports), (20 + 4 * u16::from(words), Some((40000, 443))));
    }
}

/// As operators call them, and as labels of what they search for.
#[test]
fn each_way_to_carry_a_packet_has_its_name() {
    let names =
        [Tunnel::Vxlan, Tunnel::Geneve, Tunnel::Ip, Tunnel::Gre, Tunnel::Fou, Tunnel::Gue].map(Tunnel::name);
    assert_eq!(names, ["VXLAN", "Geneve", "IP-in-IP", "GRE", "FOU", "GUE"]);
    assert_eq!([Encrypted::Esp, Encrypted::EspInUdp].map(Encrypted::name), ["ESP", "ESP in UDP"]);
    let flow = Quote::parse(&inner()).unwrap().flow;
    let one = Inner { tunnel: Tunnel::Vxlan, within: None, overhead: 50, flow };
    let two = Inner { within: Some(Tunnel::Ip), ..one };
    assert_eq!([one, two].map(|inner| std::format!("{}", inner.name())), ["VXLAN", "VXLAN in IP-in-IP"]);
}

#[test]
fn what_is_cut_off_is_absent() {
    let whole = inner();
    for length in 0..20 {
        assert_eq!(Quote::parse(&whole[..length]), None);
    }
    for length in 20..24 {
        assert_eq!(Quote::parse(&whole[..length]).unwrap().flow.ports, None);
    }
    let later = [ipv4(TCP, 0x00b9, POD, PEER), PORTS.to_vec()].concat();
    assert_eq!(Quote::parse(&later).unwrap().flow.ports, None, "a later fragment's bytes are data");
    let cut = ipv6(43);
    assert_eq!(Quote::parse(&cut).unwrap().flow.protocol, 43);
}

/// Of IPv6 the first fragment has the ports behind the fragment header, and a later one has none.
#[test]
fn fragments_of_ipv6_are_told_apart() {
    let fragment = |offset: [u8; 2]| {
        [ipv6(44), [&[UDP, 0][..], &offset, &[0, 0, 0, 9]].concat(), PORTS.to_vec()].concat()
    };
    let flow = |bytes: &[u8]| Quote::parse(bytes).unwrap().flow;
    let first = flow(&fragment([0, 1]));
    assert_eq!((first.protocol, first.ports), (UDP, Some((40000, 443))));
    for offset in [[0, 8], [0, 9], [1, 0]] {
        let later = flow(&fragment(offset));
        assert_eq!((later.protocol, later.ports), (44, None), "{offset:?}");
    }
    assert_eq!(flow(&fragment([0, 1])[..42]).protocol, 44, "cut off before its offset");
}

#[test]
fn whether_it_may_be_fragmented_is_the_headers_word() {
    let may = |fragment: u16| {
        !Quote::parse(&[ipv4(TCP, fragment, POD, PEER), PORTS.to_vec()].concat()).unwrap().flow.dont_fragment
    };
    assert_eq!([0, 0x2000, 0x8000, 0x4000, 0xe000].map(may), [true, true, true, false, false]);
}

#[test]
fn an_absurd_header_is_no_header() {
    let mut short = inner();
    short[0] = 0x44;
    assert_eq!(Quote::parse(&short), None, "IHL below its own header");
    short[0] = 0x4f;
    assert_eq!(Quote::parse(&short).unwrap().flow.ports, None, "options that are not there");
    short[0] = 0x15;
    assert_eq!(Quote::parse(&short), None, "no version of IP");
}

#[test]
fn tunnels_show_what_they_carry_and_what_they_cost() {
    let udp = |port: u16| [&[0x80, 0][..], &port.to_be_bytes(), &[0, 0, 0, 0]].concat();
    let outer = |protocol| ipv4(protocol, 0x4000, [192, 0, 2, 1], [192, 0, 2, 2]);
    let vxlan = [0x08, 0, 0, 0, 0, 0, 1, 0].to_vec();
    let geneve = [0x02, 0, 0x65, 0x58, 0, 0, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8].to_vec();
    let (v4, v6) = (frame(ETHERTYPE_IPV4), ipv6(UDP));
    for (bytes, tunnel, overhead) in [
        ([outer(UDP), udp(8472), vxlan.clone(), v4.clone(), inner()].concat(), Tunnel::Vxlan, 50),
        ([outer(UDP), udp(4789), vxlan.clone(), v4.clone(), inner()].concat(), Tunnel::Vxlan, 50),
        ([v6, udp(4789), vxlan.clone(), v4.clone(), inner()].concat(), Tunnel::Vxlan, 70),
        ([outer(UDP), udp(6081), geneve, v4.clone(), inner()].concat(), Tunnel::Geneve, 58),
        ([outer(4), inner()].concat(), Tunnel::Ip, 20),
        ([outer(GRE), [0, 0, 8, 0].to_vec(), inner()].concat(), Tunnel::Gre, 24),
        ([outer(GRE), [0x20, 0, 8, 0, 0, 0, 0, 9].to_vec(), inner()].concat(), Tunnel::Gre, 28),
        ([outer(GRE), [0, 0, 0x65, 0x58].to_vec(), v4.clone(), inner()].concat(), Tunnel::Gre, 38),
    ] {
        let quote = Quote::parse(&bytes).unwrap();
        let found = quote.inner.unwrap();
        assert_eq!((found.tunnel, found.overhead), (tunnel, overhead));
        assert_eq!(quote.innermost().source, IpAddr::from(POD));
        assert_eq!(quote.innermost().ports, Some((40000, 443)));
    }
    let nested = [outer(4), outer(UDP), udp(8472), vxlan.clone(), v4.clone(), inner()].concat();
    let found = Quote::parse(&nested).unwrap().inner.unwrap();
    assert_eq!((found.tunnel, found.within, found.overhead), (Tunnel::Vxlan, Some(Tunnel::Ip), 70));
    assert_eq!(found.flow.source, IpAddr::from(POD));
    let twice = [outer(4), outer(4), outer(4), inner()].concat();
    let found = Quote::parse(&twice).unwrap().inner.unwrap();
    assert_eq!(found.overhead, 40, "no deeper than anybody goes");
    let other = [outer(UDP), udp(53), vxlan, v4.clone(), inner()].concat();
    assert_eq!(Quote::parse(&other).unwrap().inner, None, "a port that is no tunnel's");
    let without = [outer(UDP), udp(4789), [0x10, 0, 0, 0, 0, 0, 1, 0].to_vec(), v4, inner()].concat();
    assert_eq!(Quote::parse(&without).unwrap().inner, None, "no network identifier, no VXLAN");
}

#[test]
fn no_bytes_are_too_strange() {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..200_000 {
        let mut bytes = [0; super::HEADER];
        for byte in &mut bytes {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = seed.to_be_bytes()[0];
        }
        bytes[0] = [0x45, 0x4f, 0x60][usize::from(bytes[0]) % 3];
        let length = usize::from(bytes[1]) % bytes.len();
        if let Some(Inner { overhead, .. }) = Quote::parse(&bytes[..length]).and_then(|quote| quote.inner) {
            assert!(usize::from(overhead) < length);
        }
    }
}

fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    [&[0x80, 0][..], &port.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat()
}

/// An inner packet that says how long it is, as each does that is on its way.
fn whole(mut packet: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(packet.len()).unwrap();
    if packet[0] >> 4 == 4 {
        packet[2..4].copy_from_slice(&length.to_be_bytes());
    } else {
        packet[4..6].copy_from_slice(&(length - 40).to_be_bytes());
    }
    packet
}

#[test]
fn a_packet_in_udp_is_known_by_its_length() {
    let outer = || ipv4(UDP, 0x4000, [192, 0, 2, 1], [192, 0, 2, 2]);
    let four = whole([inner(), Vec::from([7; 100])].concat());
    let six = whole([ipv6(UDP), PORTS.to_vec(), Vec::from([7; 100])].concat());
    let gue = |proto: u8, words: u8, inner: &[u8]| {
        [&[words, proto, 0, 0][..], &Vec::from([0; 4]).repeat(words.into()), inner].concat()
    };
    for (bytes, tunnel, overhead) in [
        ([outer(), udp(5555, &four)].concat(), Tunnel::Fou, 28),
        ([ipv6(UDP), udp(5555, &six)].concat(), Tunnel::Fou, 48),
        ([outer(), udp(6080, &gue(4, 0, &four))].concat(), Tunnel::Gue, 32),
        ([outer(), udp(6080, &gue(41, 2, &six))].concat(), Tunnel::Gue, 40),
    ] {
        let found = Quote::parse(&bytes).unwrap().inner.unwrap();
        assert_eq!((found.tunnel, found.overhead), (tunnel, overhead));
        // As a router quotes it: the rest is cut off, what it says of its length stays.
        let found = Quote::parse(&bytes[..bytes.len() - 90]).unwrap().inner.unwrap();
        assert_eq!((found.tunnel, found.overhead), (tunnel, overhead));
    }
    // What only looks like a header, or is control.
    let longer = [&four[..], &[0]].concat();
    for payload in
        [longer, gue(4, 1, &four)[..].to_vec(), gue(6, 0, &four), [&[0x20, 4, 0, 0][..], &four].concat()]
    {
        let mut bytes = [outer(), udp(5555, &payload)].concat();
        if payload.len() == gue(4, 1, &four).len() && payload[0] == 1 {
            // One word less than it says.
            bytes.truncate(bytes.len() - 4);
            let length = u16::from_be_bytes([bytes[24], bytes[25]]) - 4;
            bytes[24..26].copy_from_slice(&length.to_be_bytes());
        }
        assert_eq!(Quote::parse(&bytes).unwrap().inner, None, "{payload:?}");
    }
}

/// What is above the length of the options is GUE's version and its control bit, no more words of them.
#[test]
fn the_longest_options_are_looked_behind_and_a_control_message_is_not() {
    for (first, tunnel) in [(0x1f, Some(Tunnel::Gue)), (0x20, None), (0x21, None)] {
        let options = Vec::from([0; 4]).repeat(usize::from(first));
        let payload = [&[first, 4, 0, 0][..], &options, &whole(inner())].concat();
        let bytes = [ipv4(UDP, 0x4000, POD, PEER), udp(6080, &payload)].concat();
        assert_eq!(Quote::parse(&bytes).unwrap().inner.map(|inner| inner.tunnel), tunnel, "{first:#x}");
    }
}

#[test]
fn what_is_encrypted_is_told_from_what_is_not() {
    let outer = |protocol| ipv4(protocol, 0x4000, [192, 0, 2, 1], [192, 0, 2, 2]);
    let esp = [0, 0, 0, 9, 0, 0, 0, 1, 0xaa, 0xbb];
    let encrypted = |bytes: &[u8]| Quote::parse(bytes).unwrap().encrypted;
    assert_eq!(encrypted(&[outer(50), esp.to_vec()].concat()), Some(Encrypted::Esp));
    assert_eq!(encrypted(&[ipv6(50), esp.to_vec()].concat()), Some(Encrypted::Esp));
    assert_eq!(encrypted(&[outer(UDP), udp(4500, &esp)].concat()), Some(Encrypted::EspInUdp));
    let from = [&4500_u16.to_be_bytes()[..], &4501_u16.to_be_bytes(), &[0, 18, 0, 0], &esp].concat();
    assert_eq!(encrypted(&[outer(UDP), from].concat()), Some(Encrypted::EspInUdp), "behind a NAT");
    // IKE has no index there, a keepalive is one byte.
    assert_eq!(encrypted(&[outer(UDP), udp(4500, &[0, 0, 0, 0, 1, 2, 3, 4])].concat()), None);
    assert_eq!(encrypted(&[outer(UDP), udp(4500, &[0xff])].concat()), None);
    assert_eq!(encrypted(&inner()), None);
    assert_eq!(encrypted(&[outer(UDP), udp(4501, &esp)].concat()), None, "another port");
    assert_eq!(encrypted(&[outer(TCP), udp(4500, &esp)].concat()), None, "another protocol");
    let nested = [outer(4), outer(50), esp.to_vec()].concat();
    assert_eq!(encrypted(&nested), Some(Encrypted::Esp));
}
