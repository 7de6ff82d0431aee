//! The device a path begins with: its name and what it takes, asked of the kernel without a right and without a packet.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::sys::socket::{SockProtocol, SockType, SockaddrStorage, getsockname};

use super::hear;
use crate::links::{self, Taken};

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
    /// The route that leads there; `None` where it is no plain one, or is not known.
    pub route: Option<Taken>,
}

impl Device {
    /// One without a route.
    #[cfg(test)]
    pub(crate) fn plain(name: &str) -> Self {
        Self { mtu: 1500, name: name.into(), source: [10, 0, 0, 2].into(), route: None }
    }

    /// The largest packet that may leave, bytes: all that the device takes, or less if the route says so.
    #[must_use]
    pub fn promises(&self) -> u32 {
        self.route.as_ref().and_then(|route| route.mtu).map_or(self.mtu, |mtu| mtu.min(self.mtu))
    }
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
    Ok(Device { mtu: link.mtu.min(LARGEST), name: link.name, source, route: links::taken(to.ip(), source) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found() {
        let device = towards("127.0.0.1:9".parse().unwrap()).unwrap();
        let wanted = Device { mtu: LARGEST, name: "lo".into(), source: [127, 0, 0, 1].into(), route: None };
        assert_eq!(device, wanted);
    }

    #[test]
    fn a_route_promises_no_more_than_its_device_takes() {
        let promises = |mtu| {
            let route = Some(Taken { mtu, ..Taken::default() });
            Device { route, ..Device::plain("eth0") }.promises()
        };
        assert_eq!([None, Some(1427), Some(9000)].map(promises), [1500, 1427, 1500]);
    }
}
