//! The packets a walk sends, and whether what comes back is about one of them. Pure: bytes in, bytes out.

use std::net::IpAddr;

use etherparse::{IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Ipv4HeaderSlice, TcpHeader, TcpHeaderSlice};

/// Begins what a UDP datagram carries, the packet's number after it: an answer that quotes it is about that packet.
const TAG: [u8; 4] = *b"r2c~";
/// ICMP's fixed part, UDP's header, and TCP's without options, in bytes.
const ICMP: usize = 8;
const UDP: usize = 8;
const TCP: usize = 20;
/// `ICMPv6` types of RFC 4443.
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
/// ICMP types of RFC 792.
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;

/// Length of the IP header the kernel puts before what is sent, in bytes: no options.
pub(super) const fn ip_header(v6: bool) -> usize {
    if v6 { 40 } else { 20 }
}

/// Between which ends TCP's segments go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    pub(super) source: IpAddr,
    pub(super) source_port: u16,
    pub(super) destination: IpAddr,
    pub(super) destination_port: u16,
}

/// An echo request of `length` bytes in all. A kernel that knows better overwrites id and checksum.
pub(super) fn echo(v6: bool, id: u16, number: u32, length: usize) -> Vec<u8> {
    let seq = low(number);
    let rest = vec![0; length.saturating_sub(ICMP)];
    let mut bytes = if v6 {
        let [id, seq] = [id, seq].map(u16::to_be_bytes);
        vec![ECHO_REQUEST_V6, 0, 0, 0, id[0], id[1], seq[0], seq[1]]
    } else {
        let kind = Icmpv4Type::EchoRequest(IcmpEchoHeader { id, seq });
        Icmpv4Header::with_checksum(kind, &rest).to_bytes().to_vec()
    };
    bytes.extend(rest);
    bytes
}

/// What a UDP datagram carries that is `length` bytes long with its header.
pub(super) fn udp(number: u32, length: usize) -> Vec<u8> {
    let mut bytes = [TAG, number.to_be_bytes()].concat();
    bytes.resize(length.saturating_sub(UDP), 0);
    bytes
}

/// A SYN of `length` bytes in all; `None` if no such segment can be.
pub(super) fn syn(flow: &Flow, number: u32, length: usize) -> Option<Vec<u8>> {
    let rest = vec![0; length.checked_sub(TCP)?];
    let mut header = TcpHeader::new(flow.source_port, flow.destination_port, sequence(number), u16::MAX);
    header.syn = true;
    header.checksum = match (flow.source, flow.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            header.calc_checksum_ipv4_raw(source.octets(), destination.octets(), &rest).ok()?
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            header.calc_checksum_ipv6_raw(source.octets(), destination.octets(), &rest).ok()?
        }
        _ => return None,
    };
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend(rest);
    Some(bytes)
}

/// Whether an ICMP message is the reply to echo request `number`; `id` is `None` where the kernel has compared it.
pub(super) fn is_echo_reply(bytes: &[u8], v6: bool, id: Option<u16>, number: u32) -> bool {
    let kind = if v6 { ECHO_REPLY_V6 } else { ECHO_REPLY };
    is_echo(bytes, kind, id, number)
}

/// Whether a quote begins with echo request `number`.
pub(super) fn quotes_echo(bytes: &[u8], v6: bool, id: Option<u16>, number: u32) -> bool {
    let kind = if v6 { ECHO_REQUEST_V6 } else { ECHO_REQUEST };
    is_echo(bytes, kind, id, number)
}

fn is_echo(bytes: &[u8], kind: u8, id: Option<u16>, number: u32) -> bool {
    let Some(&[first, 0, _, _, id0, id1, seq0, seq1]) = bytes.get(..ICMP) else { return false };
    first == kind
        && id.is_none_or(|id| id == u16::from_be_bytes([id0, id1]))
        && u16::from_be_bytes([seq0, seq1]) == low(number)
}

/// Whether what a datagram carried, as far as it is quoted, is number `number`'s. Routers need not quote any of it
/// (RFC 792): then the ports, which the kernel has compared, must do.
pub(super) fn quotes_udp(bytes: &[u8], number: u32) -> bool {
    let whole = [TAG, number.to_be_bytes()].concat();
    let length = bytes.len().min(whole.len());
    bytes.get(..length) == whole.get(..length)
}

/// Whether a quote begins with SYN `number`.
pub(super) fn quotes_syn(bytes: &[u8], flow: &Flow, number: u32) -> bool {
    let Some(&[s0, s1, d0, d1, a, b, c, d]) = bytes.get(..8) else { return false };
    u16::from_be_bytes([s0, s1]) == flow.source_port
        && u16::from_be_bytes([d0, d1]) == flow.destination_port
        && u32::from_be_bytes([a, b, c, d]) == sequence(number)
}

/// Whether a segment answers SYN `number`, `length` bytes long: SYN-ACK or RST that acknowledges it, its data or not.
pub(super) fn answers_syn(bytes: &[u8], flow: &Flow, number: u32, length: usize) -> bool {
    let Ok(header) = TcpHeaderSlice::from_slice(bytes) else { return false };
    let of_flow =
        (header.source_port(), header.destination_port()) == (flow.destination_port, flow.source_port);
    let acknowledged = header.acknowledgment_number().wrapping_sub(sequence(number)) as usize;
    let data = length.saturating_sub(TCP);
    of_flow && header.ack() && (header.syn() || header.rst()) && (1..=1 + data).contains(&acknowledged)
}

/// What a raw IPv4 socket receives, without its IP header; `None` if that is no whole header.
pub(super) fn behind_ipv4(bytes: &[u8]) -> Option<&[u8]> {
    let header = Ipv4HeaderSlice::from_slice(bytes).ok()?;
    bytes.get(header.slice().len()..)
}

/// Numbers of sequence far enough from each other that no answer fits two packets.
const fn sequence(number: u32) -> u32 {
    number.wrapping_mul(1 << 17).wrapping_add(0x5233_4321)
}

fn low(number: u32) -> u16 {
    u16::try_from(number & 0xffff).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn flow(v6: bool) -> Flow {
        let [source, destination] = if v6 {
            [Ipv6Addr::LOCALHOST.into(); 2]
        } else {
            [Ipv4Addr::new(10, 0, 0, 1).into(), Ipv4Addr::new(10, 0, 0, 2).into()]
        };
        Flow { source, source_port: 40_000, destination, destination_port: 443 }
    }

    #[test]
    fn packets_are_as_long_as_asked_and_recognised() {
        for v6 in [false, true] {
            for length in [36, 56, 1480, 65_515] {
                let request = echo(v6, 7, 9, length);
                assert_eq!(request.len(), length);
                assert!(
                    quotes_echo(&request[..8], v6, Some(7), 9) && !quotes_echo(&request[..8], v6, Some(7), 8)
                );
                assert!(!is_echo_reply(&request, v6, Some(7), 9), "a request is no reply");
                assert_eq!(udp(3, length).len() + 8, length);
                let segment = syn(&flow(v6), 5, length).unwrap();
                assert_eq!(segment.len(), length);
                assert!(quotes_syn(&segment[..8], &flow(v6), 5) && !quotes_syn(&segment[..8], &flow(v6), 6));
            }
            assert_eq!(syn(&flow(v6), 5, 19), None);
        }
        assert!(quotes_udp(&udp(3, 100), 3) && quotes_udp(&[], 3) && quotes_udp(b"r2", 3));
        assert!(!quotes_udp(&udp(4, 100), 3) && !quotes_udp(b"x", 3));
    }

    #[test]
    fn a_reply_is_its_request_with_another_type() {
        let mut reply = echo(false, 7, 9, 64);
        reply[0] = ECHO_REPLY;
        assert!(is_echo_reply(&reply, false, Some(7), 9) && is_echo_reply(&reply, false, None, 9));
        assert!(!is_echo_reply(&reply, false, Some(8), 9));
    }

    #[test]
    fn a_syn_is_answered_by_who_acknowledges_it() {
        let flow = flow(false);
        let answer = |acknowledged: u32, syn: bool, rst: bool| {
            let mut header = TcpHeader::new(flow.destination_port, flow.source_port, 77, 1);
            (header.syn, header.rst, header.ack) = (syn, rst, true);
            header.acknowledgment_number = sequence(5).wrapping_add(acknowledged);
            answers_syn(&header.to_bytes(), &flow, 5, 120)
        };
        assert!(answer(1, true, false) && answer(1, false, true));
        assert!(answer(101, false, true), "a closed port acknowledges the data as well");
        assert!(!answer(0, true, false) && !answer(102, true, false) && !answer(1, false, false));
        assert!(!answers_syn(&[0; 12], &flow, 5, 120));
    }

    /// As RFC 792 and RFC 4443 have it: type, code, checksum, id, the low half of the number.
    #[test]
    fn an_echo_request_is_as_the_standards_lay_it_out() {
        assert_eq!(echo(false, 7, 0x0001_0005, 8), [8, 0, 0xf7, 0xf3, 0, 7, 0, 5]);
        // The kernel makes the checksum of ICMPv6.
        assert_eq!(echo(true, 7, 0x0001_0005, 10), [128, 0, 0, 0, 0, 7, 0, 5, 0, 0]);
    }

    /// Whose of these differs is of another packet.
    #[test]
    fn a_quote_of_another_flow_or_number_is_not_ours() {
        let flow = flow(false);
        let sent = syn(&flow, 5, 60).unwrap();
        assert!(quotes_syn(&sent[..8], &flow, 5));
        for other in [
            Flow { source_port: 40_001, ..flow },
            Flow { destination_port: 444, ..flow },
            Flow { source_port: 443, destination_port: 40_000, ..flow },
        ] {
            assert!(!quotes_syn(&sent[..8], &other, 5), "{other:?}");
        }
        assert!(!quotes_syn(&sent[..7], &flow, 5), "too short to tell");
        let answer = |source, destination, ack| {
            let mut header = TcpHeader::new(source, destination, 77, 1);
            (header.syn, header.ack) = (true, ack);
            header.acknowledgment_number = sequence(5).wrapping_add(1);
            answers_syn(&header.to_bytes(), &flow, 5, 120)
        };
        assert!(answer(443, 40_000, true));
        assert!(!answer(444, 40_000, true) && !answer(443, 40_001, true) && !answer(443, 40_000, false));
    }

    #[test]
    fn what_a_raw_socket_hears_begins_behind_the_header_and_its_options() {
        let mut plain = vec![0x45, 0, 0, 23, 0, 0, 0, 0, 64, 1, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        plain.extend([8, 9, 10]);
        assert_eq!(behind_ipv4(&plain), Some(&[8, 9, 10][..]));
        assert_eq!(behind_ipv4(&plain[..20]), Some(&[][..]));
        assert_eq!(behind_ipv4(&plain[..19]), None);
        // Four bytes of options.
        plain[0] = 0x46;
        plain.extend([11, 12]);
        assert_eq!(behind_ipv4(&plain), Some(&[12][..]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..100), number: u32, length in 0usize..70_000) {
            for v6 in [false, true] {
                let _ = (is_echo_reply(&bytes, v6, None, number), quotes_echo(&bytes, v6, Some(1), number));
                let _ = (syn(&flow(v6), number, length), echo(v6, 1, number, length));
            }
            let _ = (quotes_udp(&bytes, number), quotes_syn(&bytes, &flow(false), number));
            let _ = (answers_syn(&bytes, &flow(false), number, length), behind_ipv4(&bytes));
        }
    }
}
