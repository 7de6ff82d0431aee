//! The device a path begins with: its name and what it takes, asked of the kernel without a right and without a packet.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::sys::socket::{SockProtocol, SockType, SockaddrStorage, getsockname};

use super::hear;
use crate::links;

/// The largest IP packet, bytes: IPv4's limit.
const LARGEST: u32 = 65_535;

/// A path's first device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// What it takes, bytes.
    pub mtu: u32,
    /// Its name.
    pub name: String,
    /// The address packets leave with.
    pub source: IpAddr,
}

/// Looks for the device on the way to `to` in the calling thread's network namespace.
///
/// It asks rather than try a datagram that is too large: the mtu probe would see the kernel refuse it, and blame the pod that
/// is walked from.
///
/// # Errors
/// The kernel's: mostly that there is no route.
pub fn towards(to: SocketAddr) -> nix::Result<Device> {
    let fd = hear::open(to, SockType::Datagram, SockProtocol::Udp)?;
    let own: SockaddrStorage = getsockname(fd.as_raw_fd())?;
    let source = (own.as_sockaddr_in().map(|own| own.ip().into()))
        .or_else(|| own.as_sockaddr_in6().map(|own| own.ip().into()))
        .ok_or(Errno::EAFNOSUPPORT)?;
    let link = links::towards(to.ip(), source)
        .map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    // lo takes 65,536 bytes, of which no packet can be made.
    Ok(Device { mtu: link.mtu.min(LARGEST), name: link.name, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found() {
        let device = towards("127.0.0.1:9".parse().unwrap()).unwrap();
        let wanted = Device { mtu: LARGEST, name: "lo".into(), source: [127, 0, 0, 1].into() };
        assert_eq!(device, wanted);
    }
}
