//! Where the drops are made: two network namespaces of its own that stand for two pods and die with their sockets.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::Duration;

use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use super::cause::{self, BURST, Cause};

/// How long a datagram may take through one loopback device before something is wrong.
const PASSES: Duration = Duration::from_secs(10);

/// Why there is no ground to test on.
#[derive(Debug, thiserror::Error)]
pub(super) enum GroundError {
    /// No right to it.
    #[error(
        "selftest makes its drops in network namespaces of its own, which needs {0}, more than the DaemonSet is given: run it on the node itself, as root (`sudo r2c-agent selftest`)"
    )]
    Forbidden(&'static str),
    /// The kernel refused a step.
    #[error("network namespace for the selftest: {step}: {source}")]
    Refused {
        /// Which.
        step: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// A network namespace that stands for a pod. It lives as long as its sockets.
pub(super) struct Netns {
    /// Its inode: what the kernel side knows it by.
    pub(super) inode: u32,
    /// Refuses every datagram by its filter.
    _filtered: UdpSocket,
    /// One for each thread that sends.
    pub(super) lanes: Vec<Lane>,
}

/// One thread's way into one namespace: a socket stays in the namespace it was made in, whoever uses it.
pub(super) struct Lane {
    /// Not connected: a connected one would be told of each closed port instead of sending.
    udp: UdpSocket,
    own: SocketAddrV4,
    raw: OwnedFd,
    closed: SocketAddrV4,
    filtered: SocketAddrV4,
    wrong_checksum: Vec<u8>,
    wrong_version: Vec<u8>,
}

/// Two namespaces with `threads` lanes each.
pub(super) fn make(threads: usize) -> Result<[Netns; 2], GroundError> {
    // A thread of its own: the namespace is the thread's, and the rest of the agent must stay where it is.
    let made = thread::scope(|scope| scope.spawn(|| Ok([enter_new(threads)?, enter_new(threads)?])).join());
    made.unwrap_or_else(|_| refused("thread")(io::Error::other("it panicked")))
}

fn refused<T>(step: &'static str) -> impl Fn(io::Error) -> Result<T, GroundError> {
    move |source| Err(GroundError::Refused { step, source })
}

fn enter_new(threads: usize) -> Result<Netns, GroundError> {
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(io::Error::from)
        .or_else(forbidden("unshare", "CAP_SYS_ADMIN"))?;
    let inode = fs::metadata("/proc/thread-self/ns/net").or_else(refused("its inode"))?.ino();
    let inode = u32::try_from(inode).map_err(io::Error::other).or_else(refused("its inode"))?;
    bring_loopback_up().or_else(forbidden("loopback up", "CAP_NET_ADMIN"))?;
    let filtered = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).or_else(refused("socket"))?;
    refuse_all(&filtered).or_else(refused("socket filter"))?;
    let filtered_at = address(&filtered).or_else(refused("socket"))?;
    let mut lanes = Vec::new();
    for _ in 0..threads {
        lanes.push(Lane::new(filtered_at)?);
    }
    // Last: a port that is free now stays free, nobody else is here.
    let closed = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|socket| address(&socket))
        .or_else(refused("socket"))?;
    for lane in &mut lanes {
        lane.closed = closed;
        lane.wrong_checksum = cause::wrong_checksum(closed);
    }
    Ok(Netns { inode, _filtered: filtered, lanes })
}

fn forbidden<T>(step: &'static str, needs: &'static str) -> impl Fn(io::Error) -> Result<T, GroundError> {
    move |source| match source.kind() {
        io::ErrorKind::PermissionDenied => Err(GroundError::Forbidden(needs)),
        _ => Err(GroundError::Refused { step, source }),
    }
}

fn address(socket: &UdpSocket) -> io::Result<SocketAddrV4> {
    match socket.local_addr()? {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(_) => Err(io::Error::other("not IPv4")),
    }
}

mod ioctl {
    use nix::libc;

    nix::ioctl_write_ptr_bad!(set_flags, libc::SIOCSIFFLAGS, libc::ifreq);
}

/// A new namespace has one device, and it is down (netdevice(7)).
fn bring_loopback_up() -> io::Result<()> {
    // SAFETY: integers and pointers, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).map_err(io::Error::other)?;
    let any = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: the request is whole and the name in it ends with a zero.
    unsafe { ioctl::set_flags(any.as_raw_fd(), &raw const request) }?;
    Ok(())
}

/// A filter of one instruction: `ret 0`, "keep nothing" (socket(7), `SO_ATTACH_FILTER`).
fn refuse_all(socket: &UdpSocket) -> io::Result<()> {
    let mut refuse = libc::sock_filter {
        code: u16::try_from(libc::BPF_RET | libc::BPF_K).map_err(io::Error::other)?,
        jt: 0,
        jf: 0,
        k: 0,
    };
    let program = libc::sock_fprog { len: 1, filter: &raw mut refuse };
    let length = libc::socklen_t::try_from(size_of_val(&program)).map_err(io::Error::other)?;
    // SAFETY: the program points to its one instruction; both outlive the call, which copies them.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            length,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Lane {
    fn new(filtered: SocketAddrV4) -> Result<Self, GroundError> {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).or_else(refused("socket"))?;
        udp.set_read_timeout(Some(PASSES)).or_else(refused("socket"))?;
        let own = address(&udp).or_else(refused("socket"))?;
        // Protocol 255 (raw(7)): it sends whole IP packets and receives none.
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, Some(SockProtocol::Raw))
            .map_err(io::Error::from)
            .or_else(forbidden("raw socket", "CAP_NET_RAW"))?;
        let wrong_version = cause::wrong_version(Ipv4Addr::LOCALHOST);
        Ok(Self { udp, own, raw, closed: own, filtered, wrong_checksum: Vec::new(), wrong_version })
    }

    /// One whose packets all go to this socket and are packets of UDP: it takes no rights.
    #[cfg(test)]
    pub(super) fn to(socket: &UdpSocket) -> Self {
        let to = address(socket).unwrap();
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let own = address(&udp).unwrap();
        let raw = udp.try_clone().unwrap().into();
        Self { udp, own, raw, closed: to, filtered: to, wrong_checksum: vec![1], wrong_version: vec![2] }
    }

    /// Loses up to [`BURST`] packets by `cause`; says how many.
    pub(super) fn lose(&self, cause: Cause, drops: u64) -> io::Result<u64> {
        let times = usize::try_from(drops).unwrap_or(BURST);
        let sent = match cause {
            Cause::ClosedPort => cause::send(self.udp.as_fd(), self.closed, cause::payload(), times),
            Cause::Filter => cause::send(self.udp.as_fd(), self.filtered, cause::payload(), times),
            Cause::Checksum => cause::send(self.raw.as_fd(), self.closed, &self.wrong_checksum, times),
            Cause::Header => cause::send(self.raw.as_fd(), self.closed, &self.wrong_version, times),
        };
        Ok(sent? as u64)
    }

    /// Waits until all that was sent has been through: a datagram to itself is last in the CPU's queue. Without it the
    /// queue overflows while its softirq is put off, and packets are dropped for that instead.
    pub(super) fn settle(&self) -> io::Result<()> {
        self.udp.send_to(cause::payload(), self.own)?;
        let mut received = [0; 64];
        match self.udp.recv(&mut received) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("loopback keeps a datagram for {PASSES:?}"),
            )),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_asks_for_a_right() {
        let of =
            |kind: io::ErrorKind| forbidden::<()>("loopback up", "CAP_NET_ADMIN")(kind.into()).unwrap_err();
        assert!(matches!(of(io::ErrorKind::PermissionDenied), GroundError::Forbidden("CAP_NET_ADMIN")));
        let GroundError::Refused { step, source } = of(io::ErrorKind::NotFound) else { panic!("a right") };
        assert_eq!((step, source.kind()), ("loopback up", io::ErrorKind::NotFound));
    }

    #[test]
    fn a_socket_that_refuses_all_gets_nothing() {
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (refuses, takes) =
            (UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), sender.try_clone().unwrap());
        refuse_all(&refuses).unwrap();
        for to in [&refuses, &takes] {
            sender.send_to(b"x", address(to).unwrap()).unwrap();
        }
        // Loopback delivers in order: what came last is here, so what came first would be.
        assert_eq!(takes.recv(&mut [0; 8]).unwrap(), 1);
        refuses.set_nonblocking(true).unwrap();
        assert_eq!(refuses.recv(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_lane_that_is_not_through_says_so() {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let other = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (own, elsewhere) = (address(&udp).unwrap(), address(&other).unwrap());
        udp.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        let raw = other.try_clone().unwrap().into();
        let (wrong_checksum, wrong_version) = (Vec::new(), Vec::new());
        let mut lane =
            Lane { udp, own: elsewhere, raw, closed: own, filtered: own, wrong_checksum, wrong_version };
        // Its datagram goes to another, and none comes.
        let error = lane.settle().unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (io::ErrorKind::TimedOut, "loopback keeps a datagram for 10s")
        );
        // A fault of another kind is told as it is: nobody listens there any more.
        drop((other, std::mem::replace(&mut lane.raw, lane.udp.try_clone().unwrap().into())));
        lane.udp.connect(elsewhere).unwrap();
        lane.udp.set_read_timeout(Some(PASSES)).unwrap();
        assert_eq!(lane.settle().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_namespace_of_its_own_or_one_clear_line() {
        let inode_here = fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
        match make(2) {
            Ok([a, b]) => {
                assert_ne!(a.inode, b.inode);
                for netns in [&a, &b] {
                    for lane in &netns.lanes {
                        for cause in Cause::ALL {
                            assert_eq!(lane.lose(cause, 3).unwrap(), 3, "{cause:?}");
                        }
                        lane.settle().unwrap();
                    }
                }
            }
            Err(GroundError::Forbidden(right)) => assert!(right.starts_with("CAP_")),
            Err(error) => panic!("{error}"),
        }
        assert_eq!(fs::metadata("/proc/thread-self/ns/net").unwrap().ino(), inode_here);
    }
}
