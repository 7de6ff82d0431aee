//! What a TCP segment's flags and the sockets there say.

use super::*;

/// A segment that opens no connection is not told of servers that are missing, but of the socket that has its port.
#[test]
#[cfg(target_endian = "little")]
fn a_segment_without_a_connection_is_told_from_a_call_to_a_closed_port() {
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    let (proc, own) = own_namespace();
    let sources = below(proc.path());
    std::fs::create_dir(proc.path().join("1/net")).unwrap();
    // A server at another port, and a client's socket with a service (10.96.0.10:80).
    let lists = "title\n 0: 00000000:1F90 00000000:0000 0A 0 0\n 1: 0A01F40A:9C40 0A00600A:0050 01 0 0\n";
    std::fs::write(proc.path().join("1/net/tcp"), lists).unwrap();
    let gathered = |flags, port, from: &str| {
        let mut record = own;
        (record.protocol, record.header_len, record.destination_port) = (6, 40, port);
        (record.header[0], record.header[33]) = (0x45, flags);
        record.destination[..4].copy_from_slice(&[10, 244, 1, 10]);
        let from = Some(from.parse().unwrap());
        gather(&sources, &record, "NO_SOCKET", "tcp_v4_rcv", from, false, NOBODY_LISTENS).1
    };
    let (peer, backend) = ("10.96.0.10:80", "10.244.2.5:8080");
    assert_eq!(gathered(ACK, 40_000, backend), Some(Evidence::TalksTo(peer.parse().unwrap())));
    assert_eq!(gathered(ACK, 40_000, peer), None, "that connection is open");
    assert_eq!(gathered(ACK, 40_001, backend), None, "nobody's port");
    assert_eq!(gathered(SYN | ACK, 40_001, backend), None, "an answer that comes too late");
    let ports = Evidence::OtherPorts { asked: 40_001, listen: [8080].into() };
    assert_eq!(gathered(SYN, 40_001, backend), Some(ports), "a call");
}

/// Who asked and who was asked is told by the segment's flags, of either family.
#[test]
fn a_syn_alone_opens_a_connection() {
    let opens = |protocol, ip_version, flags: u8| {
        let mut record = DropRecord { ip_version, protocol, header_len: 64, ..record(100, 0) };
        if ip_version == 4 {
            (record.header[0], record.header[33]) = (0x45, flags);
        } else {
            (record.header[6], record.header[53]) = (6, flags);
        }
        opens_connection(&record)
    };
    for (flags, wanted) in [(0b10, true), (0b1_0010, false), (0b1_1000, false), (0, false)] {
        assert_eq!([opens(6, 4, flags), opens(6, 6, flags)], [Some(wanted); 2], "{flags:b}");
    }
    assert_eq!(opens(17, 4, 0b10), None, "UDP has no flags");
}
