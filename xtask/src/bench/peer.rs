//! TCP connections whose other end is played by hand, so that segments are sent again when they are to be.

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::sys::socket::sockopt::{Linger, ReuseAddr};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, bind, connect, setsockopt, socket,
};

use super::tun::{TCP, Tun, checksum, ipv4};

/// Bits of a segment.
const SYN: u8 = 1 << 1;
const ACK: u8 = 1 << 4;

/// Where the peer's bytes begin.
const ITS_BEGIN: u32 = 1;

/// MSS of 1460 bytes, and SACK.
const OPTIONS: [u8; 8] = [2, 4, 5, 180, 1, 1, 4, 2];

/// A connection, from this host's side, and what its peer must know.
pub(super) struct Connection<'a> {
    tun: &'a Tun,
    pub(super) stream: TcpStream,
    from: SocketAddrV4,
    to: SocketAddrV4,
    /// Sequence number of the first byte that is sent.
    pub(super) begin: u32,
}

impl<'a> Connection<'a> {
    /// Opens one; both ends are given, so that each costs the same.
    pub(super) fn open(tun: &'a Tun, from: SocketAddrV4, to: SocketAddrV4) -> Result<Self> {
        // What is left of the one before.
        forget(tun)?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd: OwnedFd = socket(AddressFamily::Inet, SockType::Stream, flags, SockProtocol::Tcp)?;
        setsockopt(&fd, ReuseAddr, &true)?;
        // It ends without a word that would have to be answered.
        setsockopt(&fd, Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?;
        bind(fd.as_raw_fd(), &SockaddrIn::from(from))?;
        match connect(fd.as_raw_fd(), &SockaddrIn::from(to)) {
            Err(Errno::EINPROGRESS) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
        let syn = next(tun)?;
        let begin = sequence(&syn).wrapping_add(1);
        let connection = Self { tun, stream: TcpStream::from(fd), from, to, begin };
        tun.send(&connection.packet(SYN | ACK, ITS_BEGIN.wrapping_sub(1), begin, &OPTIONS))?;
        connection.stream.set_nodelay(true)?;
        // What answers the SYN.
        next(tun)?;
        Ok(connection)
    }

    /// Sends a segment of so many bytes; gives its sequence number.
    pub(super) fn send(&self, bytes: usize) -> Result<u32> {
        ensure!((&self.stream).write(&vec![0; bytes])? == bytes, "the socket takes no more");
        Ok(sequence(&next(self.tun)?))
    }

    /// A packet that says: the peer has received what lies between these two, and nothing before. What follows from it happens
    /// while it is sent.
    pub(super) fn report(&self, begin: u32, end: u32) -> Vec<u8> {
        let mut options = vec![1, 1, 5, 10];
        options.extend(begin.to_be_bytes());
        options.extend(end.to_be_bytes());
        self.packet(ACK, ITS_BEGIN, self.begin, &options)
    }

    /// What was sent so far is not waited for any more.
    pub(super) fn forget(&self) -> io::Result<()> {
        forget(self.tun)
    }

    /// Waits for the next segment that is sent: asleep, so that the guest's clock jumps.
    pub(super) fn wait(&self, limit: Duration) -> Result<()> {
        const LOOK: Duration = Duration::from_millis(1);
        let start = Instant::now();
        while segment(self.tun)?.is_none() {
            ensure!(start.elapsed() < limit, "nothing was sent again in {limit:?}");
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// A packet of the peer's.
    fn packet(&self, flags: u8, sequence: u32, acknowledged: u32, options: &[u8]) -> Vec<u8> {
        let (from, to) = (*self.to.ip(), *self.from.ip());
        let mut segment: Vec<u8> =
            [self.to.port(), self.from.port()].iter().flat_map(|port| port.to_be_bytes()).collect();
        segment.extend(sequence.to_be_bytes());
        segment.extend(acknowledged.to_be_bytes());
        let words = u8::try_from((20 + options.len()) / 4).unwrap_or(u8::MAX);
        segment.extend([words << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        segment.extend(options);
        let sum = checksum(&[&pseudo(from, to, segment.len())[..], &segment[..]].concat());
        segment[16..18].copy_from_slice(&sum);
        ipv4(TCP, from, to, &segment)
    }
}

/// What the checksum covers in front of a segment (RFC 9293, 3.1).
fn pseudo(from: Ipv4Addr, to: Ipv4Addr, length: usize) -> Vec<u8> {
    let [.., high, low] = length.to_be_bytes();
    [&from.octets()[..], &to.octets(), &[0, TCP, high, low]].concat()
}

fn forget(tun: &Tun) -> io::Result<()> {
    while tun.next()?.is_some() {}
    Ok(())
}

/// The segment that has just gone out.
fn next(tun: &Tun) -> Result<Vec<u8>> {
    segment(tun)?.context("nothing was sent")
}

/// The next TCP segment that went out, if one has: the device speaks IPv6 of its own accord.
fn segment(tun: &Tun) -> io::Result<Option<Vec<u8>>> {
    while let Some(packet) = tun.next()? {
        if packet.first() == Some(&0x45) && packet.get(9) == Some(&TCP) {
            return Ok(Some(packet));
        }
    }
    Ok(None)
}

/// The sequence number of an IPv4 packet's segment.
fn sequence(packet: &[u8]) -> u32 {
    packet.get(24..28).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes)
}
