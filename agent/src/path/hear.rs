//! What a socket hears: answers in its receive queue, and what hops say in its error queue (ip(7), `IP_RECVERR`).
//!
//! The kernel gives a socket only messages that quote a packet of its own. Who wrote the rest of them is not known.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SetSockOpt, SockFlag, SockProtocol, SockType,
    SockaddrStorage, connect, getsockopt, recv, recvmsg, setsockopt, socket, sockopt,
};
use nix::{setsockopt_impl, sockopt_impl};

use super::{Refusal, Reply};

/// Bytes of a message that are read: headers, and what tells packets apart.
const HEAD: usize = 128;

sockopt_impl!(
    /// Whether DF is set, and whether what the kernel knows of the path counts (ip(7)).
    MtuDiscover4, SetOnly, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::c_int
);
sockopt_impl!(
    /// The same of IPv6 (ipv6(7)).
    MtuDiscover6, SetOnly, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::c_int
);

/// Opens a socket that is told of errors, sets DF, sends any size its device takes, and speaks with `to` alone.
pub(super) fn open(to: SocketAddr, kind: SockType, protocol: SockProtocol) -> nix::Result<OwnedFd> {
    let (family, flags) = (family(to), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK);
    let fd = socket(family, kind, flags, protocol)?;
    if to.is_ipv4() {
        setsockopt(&fd, sockopt::Ipv4RecvErr, &true)?;
        setsockopt(&fd, MtuDiscover4, &libc::IP_PMTUDISC_PROBE)?;
    } else {
        setsockopt(&fd, sockopt::Ipv6RecvErr, &true)?;
        setsockopt(&fd, MtuDiscover6, &libc::IPV6_PMTUDISC_PROBE)?;
    }
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(fd)
}

/// The family of an address.
pub(super) const fn family(of: SocketAddr) -> AddressFamily {
    if of.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// Sets TTL or hop limit.
pub(super) fn set_ttl(fd: &OwnedFd, v6: bool, ttl: u8) -> nix::Result<()> {
    if v6 { sockopt::Ipv6Ttl.set(fd, &ttl.into()) } else { sockopt::Ipv4Ttl.set(fd, &ttl.into()) }
}

/// Waits until there is something to be heard, for as long at most; says whether there is.
pub(super) fn wait(fd: &impl AsFd, flags: PollFlags, time: Duration) -> nix::Result<bool> {
    // Rounded up: zero would not wait at all, and again and again.
    let millis = u16::try_from(time.as_millis() + 1).unwrap_or(u16::MAX);
    let mut polled = [PollFd::new(fd.as_fd(), flags)];
    match poll(&mut polled, PollTimeout::from(millis)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The next answer's first bytes; `None` if there is none. An error that waits is taken off the socket instead.
pub(super) fn answer(fd: &OwnedFd) -> Option<Vec<u8>> {
    let mut bytes = vec![0; HEAD];
    let read = recv(fd.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT).ok()?;
    bytes.truncate(read);
    Some(bytes)
}

/// A message about a packet that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// What it says; `None` for kinds that say nothing of the path.
    pub(super) reply: Option<Reply>,
    /// Who says so; `None` for this host's own kernel.
    pub(super) from: Option<IpAddr>,
    /// Whether this host's own kernel says so, about what it was asked to send.
    pub(super) is_own: bool,
    /// What it quotes behind the IP header; of UDP, behind that header as well.
    pub(super) quote: Vec<u8>,
}

/// The next message of the error queue; `None` if it is empty.
pub(super) fn message(fd: &OwnedFd, to: IpAddr) -> Option<Message> {
    let mut bytes = [0; HEAD];
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let mut control = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let heard = recvmsg::<SockaddrStorage>(fd.as_raw_fd(), &mut parts, Some(&mut control), flags).ok()?;
    let (mut reply, mut from, mut is_own) = (None, None, false);
    for part in heard.cmsgs().into_iter().flatten() {
        let error = match part {
            ControlMessageOwned::Ipv4RecvErr(error, address) => {
                from =
                    address.map(|address| Ipv4Addr::from_bits(u32::from_be(address.sin_addr.s_addr)).into());
                error
            }
            ControlMessageOwned::Ipv6RecvErr(error, address) => {
                from = address.map(|address| Ipv6Addr::from(address.sin6_addr.s6_addr).into());
                error
            }
            _ => continue,
        };
        reply = meaning(error.ee_origin, error.ee_type, error.ee_code, error.ee_info, from == Some(to));
        // The kernel's own word comes with no address, or an empty one.
        if error.ee_origin == libc::SO_EE_ORIGIN_LOCAL {
            (from, is_own) = (None, true);
            reply = (error.ee_errno == Errno::EMSGSIZE as u32).then_some(Reply::TooBig(error.ee_info));
        }
    }
    let length = heard.bytes.min(HEAD);
    Some(Message { reply, from, is_own, quote: bytes[..length].to_vec() })
}

/// What an ICMP message means for a walk (RFC 792, RFC 1812, RFC 4443); `None`: nothing.
fn meaning(origin: u8, kind: u8, code: u8, word: u32, is_destination: bool) -> Option<Reply> {
    let refusal = match (origin, kind, code) {
        (libc::SO_EE_ORIGIN_ICMP, 3, 4) | (libc::SO_EE_ORIGIN_ICMP6, 2, _) => {
            return Some(Reply::TooBig(word));
        }
        (libc::SO_EE_ORIGIN_ICMP, 11, 0) | (libc::SO_EE_ORIGIN_ICMP6, 3, 0) => return Some(Reply::Expired),
        (libc::SO_EE_ORIGIN_ICMP, 3, 0 | 6 | 11) | (libc::SO_EE_ORIGIN_ICMP6, 1, 0) => Refusal::Network,
        (libc::SO_EE_ORIGIN_ICMP, 3, 1 | 7 | 12) | (libc::SO_EE_ORIGIN_ICMP6, 1, 3) => Refusal::Host,
        (libc::SO_EE_ORIGIN_ICMP, 3, 9 | 10 | 13) | (libc::SO_EE_ORIGIN_ICMP6, 1, 1 | 5 | 6) => {
            Refusal::Prohibited
        }
        (libc::SO_EE_ORIGIN_ICMP, 3, _) | (libc::SO_EE_ORIGIN_ICMP6, 1, _) => Refusal::Other,
        _ => return None,
    };
    // Whatever the destination has against it, it has got it.
    Some(if is_destination { Reply::Arrived } else { Reply::Refused(refusal) })
}

/// Takes everything off the socket: what is late for one packet must not answer the next. Bounded, as whoever floods us
/// could keep us here.
pub(super) fn drain(fd: &OwnedFd, to: IpAddr) {
    const AT_MOST: usize = 256;
    for _ in 0..AT_MOST {
        if message(fd, to).is_none() && answer(fd).is_none() {
            break;
        }
    }
    clear(fd);
}

/// Takes an error off the socket that would be the result of the next call.
pub(super) fn clear(fd: &OwnedFd) {
    let _ = getsockopt(fd, sockopt::SocketError);
}

/// An error of the kernel's as the standard library has it.
pub(super) fn failed(error: Errno) -> io::Error {
    error.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: u8 = libc::SO_EE_ORIGIN_ICMP;
    const V6: u8 = libc::SO_EE_ORIGIN_ICMP6;

    #[test]
    fn types_and_codes_mean_what_the_standards_say() {
        let refused = |why| Some(Reply::Refused(why));
        for (origin, kind, code, meant) in [
            (V4, 3, 4, Some(Reply::TooBig(1400))),
            (V6, 2, 0, Some(Reply::TooBig(1400))),
            (V4, 11, 0, Some(Reply::Expired)),
            (V6, 3, 0, Some(Reply::Expired)),
            (V4, 3, 0, refused(Refusal::Network)),
            (V4, 3, 6, refused(Refusal::Network)),
            (V4, 3, 11, refused(Refusal::Network)),
            (V6, 1, 0, refused(Refusal::Network)),
            (V4, 3, 1, refused(Refusal::Host)),
            (V4, 3, 7, refused(Refusal::Host)),
            (V4, 3, 12, refused(Refusal::Host)),
            (V6, 1, 3, refused(Refusal::Host)),
            (V4, 3, 9, refused(Refusal::Prohibited)),
            (V4, 3, 10, refused(Refusal::Prohibited)),
            (V4, 3, 13, refused(Refusal::Prohibited)),
            (V6, 1, 1, refused(Refusal::Prohibited)),
            (V6, 1, 5, refused(Refusal::Prohibited)),
            (V6, 1, 6, refused(Refusal::Prohibited)),
            (V4, 3, 3, refused(Refusal::Other)),
            (V6, 1, 4, refused(Refusal::Other)),
            // A reassembly that took too long, a source quench, a redirect.
            (V4, 11, 1, None),
            (V4, 4, 0, None),
            (V6, 137, 0, None),
            (libc::SO_EE_ORIGIN_NONE, 3, 4, None),
        ] {
            assert_eq!(meaning(origin, kind, code, 1400, false), meant, "{origin} {kind} {code}");
        }
        assert_eq!(meaning(V4, 3, 3, 0, true), Some(Reply::Arrived));
        assert_eq!(meaning(V6, 1, 4, 0, true), Some(Reply::Arrived));
        assert_eq!(meaning(V4, 3, 4, 1, true), Some(Reply::TooBig(1)), "tunnels answer in its name");
    }

    #[test]
    fn a_closed_port_on_loopback_is_heard() {
        for to in ["127.0.0.1:9", "[::1]:9"] {
            let to: SocketAddr = to.parse().unwrap();
            let Ok(fd) = open(to, SockType::Datagram, SockProtocol::Udp) else {
                assert!(to.is_ipv6(), "no IPv4 here?");
                continue;
            };
            nix::sys::socket::send(fd.as_raw_fd(), b"r2c~1234", MsgFlags::empty()).unwrap();
            assert!(wait(&fd, PollFlags::POLLIN, Duration::from_secs(5)).unwrap());
            let heard = message(&fd, to.ip()).unwrap();
            assert_eq!((heard.reply, heard.from), (Some(Reply::Arrived), Some(to.ip())));
            assert_eq!(heard.quote, b"r2c~1234");
            drain(&fd, to.ip());
            assert_eq!(message(&fd, to.ip()), None);
        }
    }

    /// A socket that speaks with another one on loopback.
    fn pair() -> (OwnedFd, std::net::UdpSocket) {
        let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let fd = open(other.local_addr().unwrap(), SockType::Datagram, SockProtocol::Udp).unwrap();
        (fd, other)
    }

    fn send(fd: &OwnedFd, bytes: &[u8]) -> nix::Result<usize> {
        nix::sys::socket::send(fd.as_raw_fd(), bytes, MsgFlags::empty())
    }

    #[test]
    fn an_answer_is_heard_once_and_its_head_is_enough() {
        let (fd, other) = pair();
        assert_eq!(answer(&fd), None, "nobody has said anything");
        assert!(!wait(&fd, PollFlags::POLLIN, Duration::ZERO).unwrap());
        send(&fd, b"ping").unwrap();
        let (_, from) = other.recv_from(&mut [0; 8]).unwrap();
        other.send_to(b"pong", from).unwrap();
        other.send_to(&[7; 200], from).unwrap();
        assert!(wait(&fd, PollFlags::POLLIN, Duration::from_secs(5)).unwrap());
        assert_eq!(answer(&fd).as_deref(), Some(&b"pong"[..]));
        assert_eq!(answer(&fd).as_deref(), Some(&[7; 128][..]));
        assert_eq!(answer(&fd), None);
    }

    #[test]
    fn what_is_late_does_not_answer_the_next_packet() {
        let (fd, other) = pair();
        send(&fd, b"ping").unwrap();
        let (_, from) = other.recv_from(&mut [0; 8]).unwrap();
        for late in [b"1", b"2", b"3"] {
            other.send_to(late, from).unwrap();
        }
        let to = other.local_addr().unwrap().ip();
        drain(&fd, to);
        assert_eq!((answer(&fd), message(&fd, to)), (None, None));
    }

    #[test]
    fn an_error_that_was_taken_off_is_not_the_next_ones() {
        let (fd, other) = pair();
        drop(other);
        send(&fd, b"ping").unwrap();
        assert!(wait(&fd, PollFlags::POLLIN, Duration::from_secs(5)).unwrap());
        clear(&fd);
        assert_eq!(send(&fd, b"ping"), Ok(4));
    }

    #[test]
    fn a_socket_has_the_ttl_that_it_is_given_and_is_no_childs() {
        use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
        let (fd, _other) = pair();
        set_ttl(&fd, false, 7).unwrap();
        assert_eq!(getsockopt(&fd, sockopt::Ipv4Ttl), Ok(7));
        let of_descriptor = FdFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFD).unwrap());
        assert!(of_descriptor.contains(FdFlag::FD_CLOEXEC));
        let of_file = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL).unwrap());
        assert!(of_file.contains(OFlag::O_NONBLOCK), "a send must not wait");
    }
}
