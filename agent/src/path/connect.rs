//! What a plain TCP connection shows, with no right at all: whether it comes about, and what its ends agree on.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::PollFlags;
use nix::sys::socket::{
    SockFlag, SockProtocol, SockType, SockaddrStorage, connect, getsockopt, socket, sockopt,
};
use nix::{getsockopt_impl, sockopt_impl};

use super::hear::{family, wait};
use super::judge::Tcp;

sockopt_impl!(
    /// The path MTU of a connected socket (ipv6(7)).
    PathMtu6, GetOnly, libc::IPPROTO_IPV6, libc::IPV6_MTU, libc::c_int
);

/// How long to wait before `is_over` is asked again.
const SLICE: Duration = Duration::from_millis(50);

/// Connects, reads, closes. `is_over` ends it early.
pub(super) fn try_connect(
    to: SocketAddr,
    patience: Duration,
    is_over: &dyn Fn() -> bool,
) -> nix::Result<Tcp> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family(to), SockType::Stream, flags, SockProtocol::Tcp)?;
    let begun = Instant::now();
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) => return Ok(agreed(&fd, to)),
        Err(Errno::EINPROGRESS) => {}
        Err(Errno::ECONNREFUSED) => return Ok(Tcp::Refuses),
        Err(_) => return Ok(Tcp::Silent),
    }
    while begun.elapsed() < patience && !is_over() {
        if wait(&fd, PollFlags::POLLOUT, SLICE)? {
            return Ok(match getsockopt(&fd, sockopt::SocketError)? {
                0 => agreed(&fd, to),
                error if error == Errno::ECONNREFUSED as i32 => Tcp::Refuses,
                _ => Tcp::Silent,
            });
        }
    }
    Ok(Tcp::Silent)
}

fn agreed(fd: &OwnedFd, to: SocketAddr) -> Tcp {
    let path_mtu = if to.is_ipv4() { getsockopt(fd, sockopt::IpMtu) } else { getsockopt(fd, PathMtu6) };
    Tcp::Connects {
        mss: getsockopt(fd, sockopt::TcpMaxSeg).ok(),
        path_mtu: path_mtu.ok().and_then(|mtu| u32::try_from(mtu).ok()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use nix::sys::socket::{Backlog, SockaddrIn, bind, getsockname, listen};

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn a_listener_is_connected_to_and_a_closed_port_refuses() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(at) else {
                assert!(at.starts_with('['), "no IPv4 here?");
                continue;
            };
            let to = listener.local_addr().unwrap();
            let Tcp::Connects { mss, path_mtu } = try_connect(to, LONG, &|| false).unwrap() else {
                panic!("{to}");
            };
            assert!(mss.is_some_and(|mss| Some(mss) < path_mtu), "{mss:?} {path_mtu:?}");
            drop(listener);
            assert_eq!(try_connect(to, LONG, &|| false), Ok(Tcp::Refuses));
        }
    }

    /// A listener whose accept queue is full answers no SYN.
    #[test]
    fn who_does_not_answer_is_waited_for_until_the_time_is_up_or_it_is_over() {
        let fd = socket(
            family("127.0.0.1:0".parse().unwrap()),
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::Tcp,
        )
        .unwrap();
        bind(fd.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
        listen(&fd, Backlog::new(0).unwrap()).unwrap();
        let own: SockaddrIn = getsockname(fd.as_raw_fd()).unwrap();
        let to = SocketAddr::from((own.ip(), own.port()));
        let _held = std::net::TcpStream::connect(to).unwrap();
        assert_eq!(try_connect(to, Duration::ZERO, &|| false), Ok(Tcp::Silent));
        assert_eq!(try_connect(to, LONG, &|| true), Ok(Tcp::Silent));
        // It is asked again while it waits.
        let asked = std::cell::Cell::new(0);
        let is_over = || asked.replace(asked.get() + 1) == 2;
        assert_eq!((try_connect(to, LONG, &is_over), asked.get()), (Ok(Tcp::Silent), 3));
    }
}
