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
