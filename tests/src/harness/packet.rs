//! Packets that no polite program sends, and sockets with the options that ask for trouble.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6,
    SockaddrLike as _, sendto, setsockopt, socket, sockopt,
};

/// A UDP socket of the family of `to`, bound to nothing in particular.
pub(crate) fn udp_for(to: SocketAddr) -> UdpSocket {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    UdpSocket::bind((any, 0)).unwrap()
}

/// Sends `count` datagrams of `size` bytes of payload.
pub(crate) fn udp(to: SocketAddr, count: u64, size: usize) {
    let socket = udp_for(to);
    for _ in 0..count {
        // An ICMP error for the one before may be reported here; nothing is lost by it.
        let _ = socket.send_to(&vec![0; size], to);
    }
}

/// Sends as [`udp`], never fragmented here and whatever path MTU is known.
pub(crate) fn udp_unfragmented(to: SocketAddr, count: u64, size: usize) {
    let socket = udp_unfragmenting(to);
    for _ in 0..count {
        socket.send_to(&vec![0; size], to).unwrap();
    }
}

/// Sends a datagram of which the kernel refuses to make fragments: it is larger than its device takes.
pub(crate) fn udp_refused(to: SocketAddr, size: usize) {
    let refused = udp_unfragmenting(to).send_to(&vec![0; size], to).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EMSGSIZE), "{refused}");
}

fn udp_unfragmenting(to: SocketAddr) -> UdpSocket {
    let socket = udp_for(to);
    match to {
        SocketAddr::V4(_) => set(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE),
        SocketAddr::V6(_) => {
            set(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE);
        }
    }
    socket
}

/// Sends `count` datagrams with this TTL or hop limit.
pub(crate) fn udp_hops(to: SocketAddr, count: u64, hops: i32) {
    let socket = udp_for(to);
    match to {
        SocketAddr::V4(_) => set(&socket, libc::IPPROTO_IP, libc::IP_TTL, hops),
        SocketAddr::V6(_) => set(&socket, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, hops),
    }
    for _ in 0..count {
        let _ = socket.send_to(b"hops", to);
    }
}

/// Sets an option that is an `int`.
pub(crate) fn set(socket: &impl AsFd, level: i32, name: i32, value: i32) {
    let size = libc::socklen_t::try_from(size_of::<i32>()).unwrap();
    // SAFETY: the pointer is to an `int` of that size, which outlives the call.
    let status =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw const value).cast(), size) };
    assert_eq!(status, 0, "option {level}/{name}: {}", std::io::Error::last_os_error());
}

/// Has a connection be gone at once when it is closed: what is stuck in it would go on beside the tests after this one, and be told
/// things.
pub(crate) fn ends_at_once(socket: &impl AsFd) {
    setsockopt(socket, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
}

/// Attaches a classic BPF filter that lets nothing through.
pub(crate) fn refuse_all(socket: &impl AsFd) {
    let code = u16::try_from(libc::BPF_RET).unwrap();
    let mut program = [libc::sock_filter { code, jt: 0, jf: 0, k: 0 }];
    let filter = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
    let size = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).unwrap();
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `filter` and the program it points to outlive the call; the kernel copies them.
    let status = unsafe {
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, (&raw const filter).cast(), size)
    };
    assert_eq!(status, 0, "{}", std::io::Error::last_os_error());
}

/// A UDP datagram with its header; the checksum is right, or off by one.
pub(crate) fn udp_segment(source: SocketAddr, destination: SocketAddr, size: usize, right: bool) -> Vec<u8> {
    udp_around(source, destination, &vec![0; size], right)
}

/// As [`udp_segment`], with these bytes in it.
pub(crate) fn udp_around(
    source: SocketAddr,
    destination: SocketAddr,
    payload: &[u8],
    right: bool,
) -> Vec<u8> {
    let len = u16::try_from(payload.len() + 8).unwrap();
    let mut bytes = Vec::from(source.port().to_be_bytes());
    bytes.extend(destination.port().to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    let sum = checksum(&[&pseudo(source.ip(), destination.ip(), 17, len), &bytes]);
    let sum = if right { sum } else { sum ^ 1 };
    bytes[6..8].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// A TCP segment with these flags, without data.
pub(crate) fn tcp_segment(source: SocketAddr, destination: SocketAddr, flags: u8) -> Vec<u8> {
    let mut bytes = Vec::from(source.port().to_be_bytes());
    bytes.extend(destination.port().to_be_bytes());
    bytes.extend([0, 0, 0, 7, 0, 0, 0, 9, 5 << 4, flags, 1, 0, 0, 0, 0, 0]);
    let sum = checksum(&[&pseudo(source.ip(), destination.ip(), 6, 20), &bytes]);
    bytes[16..18].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// An `ICMPv4` message about `quote`, with `rest` as the second word of its header.
pub(crate) fn icmp_message(kind: u8, code: u8, rest: u32, quote: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, code, 0, 0];
    bytes.extend(rest.to_be_bytes());
    bytes.extend(quote);
    let sum = checksum(&[&bytes]);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// An `ICMPv6` message about `quote`, with `rest` as the second word of its header.
pub(crate) fn icmpv6_message(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    kind: u8,
    rest: u32,
    quote: &[u8],
) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0];
    bytes.extend(rest.to_be_bytes());
    bytes.extend(quote);
    let len = u16::try_from(bytes.len()).unwrap();
    let sum = checksum(&[&pseudo(source.into(), destination.into(), 58, len), &bytes]);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, len: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    for address in [source, destination] {
        match address {
            IpAddr::V4(address) => bytes.extend(address.octets()),
            IpAddr::V6(address) => bytes.extend(address.octets()),
        }
    }
    bytes.extend([0, protocol]);
    bytes.extend(len.to_be_bytes());
    bytes
}

/// RFC 1071, over parts of even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum = words.map(|word| u32::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)])));
    let mut sum: u32 = sum.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// An IPv4 packet around `segment`: don't fragment, TTL 64; the header's checksum is right, or off by one.
pub(crate) fn ipv4(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    segment: &[u8],
    right: bool,
) -> Vec<u8> {
    let len = u16::try_from(segment.len() + 20).unwrap();
    let mut bytes = vec![0x45, 0];
    bytes.extend(len.to_be_bytes());
    bytes.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
    let sum = checksum(&[&bytes]);
    let sum = if right { sum } else { sum ^ 1 };
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(segment);
    bytes
}

/// The IPv4 packet with so many words of options (NOP) behind its header of five.
pub(crate) fn with_options(packet: &[u8], words: u8) -> Vec<u8> {
    let mut header = packet[..20].to_vec();
    header[0] += words;
    let len = u16::from_be_bytes([header[2], header[3]]) + 4 * u16::from(words);
    header[2..4].copy_from_slice(&len.to_be_bytes());
    header[10..12].fill(0);
    header.extend(vec![1; 4 * usize::from(words)]);
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header.extend(&packet[20..]);
    header
}

/// An IPv6 packet around `segment`, hop limit 64.
pub(crate) fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, segment: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(u16::try_from(segment.len()).unwrap().to_be_bytes());
    bytes.extend([protocol, 64]);
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
    bytes.extend(segment);
    bytes
}

/// Hands a packet of our own making to routing.
pub(crate) fn send_routed(destination: IpAddr, packet: &[u8]) -> nix::Result<usize> {
    send_all_routed(destination, [packet])
}

/// The same of many packets to one address; the length of the last.
pub(crate) fn send_all_routed(
    destination: IpAddr,
    packets: impl IntoIterator<Item = impl AsRef<[u8]>>,
) -> nix::Result<usize> {
    let family = if destination.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let raw = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw).unwrap();
    let send = |packet: &[u8]| match destination {
        IpAddr::V4(address) => {
            let to = SockaddrIn::from(SocketAddrV4::new(address, 0));
            sendto(raw.as_raw_fd(), packet, &to, MsgFlags::empty())
        }
        IpAddr::V6(address) => {
            let to = SockaddrIn6::from(SocketAddrV6::new(address, 0, 0, 0));
            sendto(raw.as_raw_fd(), packet, &to, MsgFlags::empty())
        }
    };
    packets.into_iter().try_fold(0, |_, packet| send(packet.as_ref()))
}

/// Puts an IPv4 packet on the wire of `interface`, addressed to the station `to`.
pub(crate) fn send_on_wire(interface: &str, to: [u8; 6], packet: &[u8]) {
    let wire = socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::EthIp)
        .unwrap();
    let mut address = [0; 8];
    address[..6].copy_from_slice(&to);
    let ethertype = if packet[0] >> 4 == 6 { libc::ETH_P_IPV6 } else { libc::ETH_P_IP };
    let raw = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).unwrap(),
        sll_protocol: u16::try_from(ethertype).unwrap().to_be(),
        sll_ifindex: nix::net::if_::if_nametoindex(interface).unwrap().cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: address,
    };
    let size = libc::socklen_t::try_from(size_of_val(&raw)).unwrap();
    // SAFETY: `raw` is a whole sockaddr_ll of that size.
    let to = unsafe { LinkAddr::from_raw((&raw const raw).cast(), Some(size)) }.unwrap();
    assert_eq!(sendto(wire.as_raw_fd(), packet, &to, MsgFlags::empty()), Ok(packet.len()));
}

/// What a socket says of itself (`struct tcp_info`): timeouts since anything was acknowledged, and how often the timer
/// was doubled since.
pub(crate) fn timeouts(stream: &TcpStream) -> (u8, u8) {
    const RETRANSMITS: usize = 2;
    const BACKOFF: usize = 4;
    let mut facts = [0_u8; 8];
    let mut size = libc::socklen_t::try_from(facts.len()).unwrap();
    let to = facts.as_mut_ptr().cast();
    // SAFETY: the kernel writes at most `size` bytes to a buffer that has them.
    let got =
        unsafe { libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, to, &raw mut size) };
    assert_eq!(got, 0, "{}", io::Error::last_os_error());
    (facts[RETRANSMITS], facts[BACKOFF])
}
