//! The known drops: how each is made, and the reason the kernel has for it.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use nix::libc;

/// A way to lose a packet that needs no firewall, is lost always, and is lost on the spot.
///
/// None hangs on who else listens on the node: `UNHANDLED_PROTO`, which looks as easy, is consumed instead of dropped
/// while any `tcpdump -i any` runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// A UDP datagram to a port nobody listens on.
    ClosedPort,
    /// A UDP datagram to a socket whose filter refuses everything.
    Filter,
    /// A UDP datagram whose checksum is wrong.
    Checksum,
    /// An IP packet of version 5.
    Header,
}

impl Cause {
    /// All of them.
    pub(super) const ALL: [Self; 4] = [Self::ClosedPort, Self::Filter, Self::Checksum, Self::Header];

    /// The kernel's reason for it, where the kernel names reasons.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::ClosedPort => "NO_SOCKET",
            Self::Filter => "SOCKET_FILTER",
            Self::Checksum => "UDP_CSUM",
            Self::Header => "IP_INHDR",
        }
    }

    /// Its part of all drops in per cent. All differ: equal parts would hide reasons that were mixed up.
    const fn share(self) -> u64 {
        match self {
            Self::ClosedPort => 40,
            Self::Filter => 30,
            Self::Checksum => 20,
            Self::Header => 10,
        }
    }
}

/// Drops to make in each of the two pods by each of [`Cause::ALL`].
pub(super) type Plan = [[u64; 4]; 2];

/// Shares `drops` out: all numbers differ, all are above zero from 100 on, and they add up.
pub(super) fn plan(drops: u64) -> Plan {
    let first = drops / 2 + drops / 20;
    [first, drops - first].map(|drops| {
        let mut parts = Cause::ALL.map(|cause| drops * cause.share() / 100);
        parts[3] = drops - parts[..3].iter().sum::<u64>();
        parts
    })
}

/// The part of a plan that the `nth` of `of` threads makes.
pub(super) fn part(plan: &Plan, nth: u64, of: u64) -> Plan {
    plan.map(|pod| pod.map(|drops| drops / of + u64::from(nth < drops % of)))
}

const PAYLOAD: &[u8; 16] = b"r2c-agent drops!";

/// What a UDP socket sends.
pub(super) const fn payload() -> &'static [u8] {
    PAYLOAD
}

/// A datagram to `to` with its IP header, whose UDP checksum is wrong.
pub(super) fn wrong_checksum(to: SocketAddrV4) -> Vec<u8> {
    const UDP: u8 = 17;
    let length = 8 + PAYLOAD.len();
    let mut udp =
        [to.port(), to.port(), u16::try_from(length).unwrap_or(0), 0].map(u16::to_be_bytes).concat();
    udp.extend_from_slice(PAYLOAD);
    let right = udp_checksum(*to.ip(), &udp);
    // Zero would mean "no checksum".
    let wrong = if right == u16::MAX { 1 } else { right + 1 };
    udp[6..8].copy_from_slice(&wrong.to_be_bytes());
    ip(4, UDP, *to.ip(), &udp)
}

/// A packet to `to` that calls itself IP version 5.
pub(super) fn wrong_version(to: Ipv4Addr) -> Vec<u8> {
    // RFC 3692: for experiments.
    const EXPERIMENT: u8 = 253;
    ip(5, EXPERIMENT, to, PAYLOAD)
}

/// An IP header from and to `to`, and what follows it. The kernel fills in length, identification and checksum.
fn ip(version: u8, protocol: u8, to: Ipv4Addr, rest: &[u8]) -> Vec<u8> {
    const WORDS: u8 = 5;
    const TTL: u8 = 64;
    let mut packet = vec![version << 4 | WORDS, 0, 0, 0, 0, 0, 0, 0, TTL, protocol, 0, 0];
    packet.extend_from_slice(&to.octets());
    packet.extend_from_slice(&to.octets());
    packet.extend_from_slice(rest);
    packet
}

/// The checksum (RFC 768) of a datagram from and to `ip`, whose own checksum field is zero.
fn udp_checksum(ip: Ipv4Addr, udp: &[u8]) -> u16 {
    let pseudo =
        [&ip.octets()[..], &ip.octets(), &[0, 17], &u16::try_from(udp.len()).unwrap_or(0).to_be_bytes()];
    let bytes = [pseudo.concat().as_slice(), udp].concat();
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded).unwrap_or(0)
}

/// Packets one call sends, at most. With the answers to them they are a fraction of what a CPU's backlog takes (1,000).
pub(super) const BURST: usize = 64;

/// Sends `packet` to `to` up to [`BURST`] times in one call; says how often it was sent.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    to: SocketAddrV4,
    packet: &[u8],
    times: usize,
) -> io::Result<usize> {
    let mut to = libc::sockaddr_in {
        sin_family: libc::sa_family_t::try_from(libc::AF_INET).map_err(io::Error::other)?,
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*to.ip()).to_be() },
        sin_zero: [0; 8],
    };
    let mut part = libc::iovec { iov_base: packet.as_ptr().cast_mut().cast(), iov_len: packet.len() };
    // SAFETY: integers and pointers, for which zero is valid; some C libraries have padding fields that cannot be named.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = ptr::from_mut(&mut to).cast();
    header.msg_namelen = libc::socklen_t::try_from(size_of_val(&to)).map_err(io::Error::other)?;
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    let mut headers = [libc::mmsghdr { msg_hdr: header, msg_len: 0 }; BURST];
    let times = libc::c_uint::try_from(times.min(BURST)).map_err(io::Error::other)?;
    // SAFETY: `headers` has at least `times` entries, all of which point to `to`, `part` and `packet`, which outlive the
    // call; sending only reads them.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), times, 0) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_plan_adds_up_and_no_two_numbers_of_it_are_equal(drops in 100u64..=100_000_000, threads in 1u64..5) {
            let plan = plan(drops);
            let mut all = plan.concat();
            prop_assert_eq!(all.iter().sum::<u64>(), drops);
            prop_assert!(all.iter().all(|part| *part > 0));
            all.sort_unstable();
            all.dedup();
            prop_assert_eq!(all.len(), 8, "{:?}", plan);
            let parts: Vec<Plan> = (0..threads).map(|nth| part(&plan, nth, threads)).collect();
            for pod in 0..2 {
                for cause in 0..4 {
                    prop_assert_eq!(parts.iter().map(|part| part[pod][cause]).sum::<u64>(), plan[pod][cause]);
                }
            }
        }

        #[test]
        fn the_wrong_checksum_is_wrong_for_every_port(port in 1u16..) {
            let packet = wrong_checksum(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
            let mut udp = packet[20..].to_vec();
            let carried = u16::from_be_bytes([udp[6], udp[7]]);
            udp[6..8].fill(0);
            prop_assert_ne!(carried, 0);
            prop_assert_ne!(carried, udp_checksum(Ipv4Addr::LOCALHOST, &udp));
        }
    }

    #[test]
    fn the_right_checksum_is_the_rfcs() {
        // 127.0.0.1:9 -> 127.0.0.1:9, "ab": 7f00+0001 twice, 0011, 000a, ports 9 and 9, length 10, 6162, folded.
        let udp = [0, 9, 0, 9, 0, 10, 0, 0, b'a', b'b'];
        let sum: u32 = 0x7f00 + 1 + 0x7f00 + 1 + 0x11 + 10 + 9 + 9 + 10 + 0x6162;
        assert_eq!(u32::from(udp_checksum(Ipv4Addr::LOCALHOST, &udp)), !(sum % 0xffff) & 0xffff);
    }

    #[test]
    fn a_sum_that_overflows_twice_is_folded_twice() {
        // 7f00+0001 twice, 0011, 0008, ffff and 01e5 are 1ffff: 1 after the second fold.
        let udp = [0xff, 0xff, 0x01, 0xe5, 0, 0, 0, 0];
        assert_eq!(udp_checksum(Ipv4Addr::LOCALHOST, &udp), 0xfffe);
    }

    /// But for the checksum it is a datagram that any socket would take: aa4f would be right.
    #[test]
    fn a_packet_is_wrong_in_one_thing_alone() {
        let ip = |version: u8, protocol: u8| {
            vec![version, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1]
        };
        let checksum = [ip(0x45, 17), vec![0, 9, 0, 9, 0, 24, 0xaa, 0x50], PAYLOAD.to_vec()].concat();
        assert_eq!(wrong_checksum(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9)), checksum);
        let version = [ip(0x55, 253), PAYLOAD.to_vec()].concat();
        assert_eq!(wrong_version(Ipv4Addr::LOCALHOST), version);
    }

    #[test]
    fn a_plan_is_shared_out_between_pods_causes_and_threads() {
        let whole = [[220, 165, 110, 55], [180, 135, 90, 45]];
        assert_eq!(plan(1000), whole);
        assert_eq!(part(&whole, 0, 2), [[110, 83, 55, 28], [90, 68, 45, 23]]);
        assert_eq!(part(&whole, 1, 2), [[110, 82, 55, 27], [90, 67, 45, 22]]);
    }

    #[test]
    fn a_burst_arrives_as_often_as_it_says() {
        let receiver = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let std::net::SocketAddr::V4(to) = receiver.local_addr().unwrap() else { panic!("not IPv4") };
        let sender = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let sent = send(std::os::fd::AsFd::as_fd(&sender), to, payload(), 3).unwrap();
        assert_eq!(sent, 3);
        let mut got = [0; 64];
        for _ in 0..sent {
            assert_eq!(receiver.recv(&mut got).unwrap(), PAYLOAD.len());
        }
        receiver.set_nonblocking(true).unwrap();
        assert_eq!(receiver.recv(&mut got).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
