//! The device a path begins with: its name and what it takes, asked of the kernel without a right and without a packet.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::sys::socket::{MsgFlags, SockProtocol, SockType, SockaddrStorage, getsockname, send};

use super::{Reply, hear};

/// The largest IP packet, bytes: IPv4's limit.
const LARGEST: u32 = 65_535;

/// A path's first device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// What it takes, bytes.
    pub mtu: u32,
    /// Its name; `None` if its address is on none, or on several.
    pub name: Option<String>,
    /// The address packets leave with.
    pub source: IpAddr,
}

/// Looks for the device on the way to `to` in the calling thread's network namespace.
///
/// # Errors
/// The kernel's: mostly that there is no route.
pub fn towards(to: SocketAddr) -> nix::Result<Device> {
    let fd = hear::open(to, SockType::Datagram, SockProtocol::Udp)?;
    let own: SockaddrStorage = getsockname(fd.as_raw_fd())?;
    let source = (own.as_sockaddr_in().map(|own| own.ip().into()))
        .or_else(|| own.as_sockaddr_in6().map(|own| own.ip().into()))
        .ok_or(Errno::EAFNOSUPPORT)?;
    let mtu = takes(&fd, to)?;
    Ok(Device { mtu, name: named(source, mtu), source })
}

/// What the device takes: refused a datagram of the largest size, the kernel says what it would have taken. It does so
/// before it sends anything. A loopback device takes it.
fn takes(fd: &OwnedFd, to: SocketAddr) -> nix::Result<u32> {
    let header = if to.is_ipv4() { 28 } else { 8 };
    let all = vec![0; LARGEST as usize - header];
    match send(fd.as_raw_fd(), &all, MsgFlags::empty()) {
        Ok(_) => Ok(LARGEST),
        Err(Errno::EMSGSIZE) => match hear::message(fd, to.ip()).and_then(|heard| heard.reply) {
            Some(Reply::TooBig(mtu)) => Ok(mtu.min(LARGEST)),
            _ => Err(Errno::EMSGSIZE),
        },
        Err(error) => Err(error),
    }
}

/// The one device that has this address and this MTU.
fn named(source: IpAddr, mtu: u32) -> Option<String> {
    let mut names: Vec<String> = Vec::new();
    for entry in getifaddrs().ok()? {
        let Some(address) = entry.address else { continue };
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        let own = v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()));
        if own == Some(source) && !names.contains(&entry.interface_name) {
            names.push(entry.interface_name);
        }
    }
    let [name] = &names[..] else { return None };
    // The route may leave by another device than the one that has the address.
    (mtu_of(name)? == mtu).then(|| name.clone())
}

mod ioctl {
    use nix::libc;

    nix::ioctl_read_bad!(mtu, libc::SIOCGIFMTU, libc::ifreq);
}

/// What a device takes (netdevice(7)).
fn mtu_of(name: &str) -> Option<u32> {
    // SAFETY: integers and pointers, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte is left over: the name ends with a zero.
    if name.len() >= request.ifr_name.len() {
        return None;
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let any = std::net::UdpSocket::bind("0.0.0.0:0").or_else(|_| std::net::UdpSocket::bind("[::]:0")).ok()?;
    // SAFETY: the request is whole and the name in it ends with a zero.
    unsafe { ioctl::mtu(any.as_raw_fd(), &raw mut request) }.ok()?;
    // SAFETY: what SIOCGIFMTU has filled in.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    // Of lo, where packets of 65,536 bytes cannot be made.
    u32::try_from(mtu).ok().map(|mtu| mtu.min(LARGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found() {
        let device = towards("127.0.0.1:9".parse().unwrap()).unwrap();
        assert_eq!(device.source, IpAddr::from([127, 0, 0, 1]));
        assert_eq!(Some(device.mtu), mtu_of("lo"));
        assert_eq!(device.name.as_deref(), Some("lo"));
        assert_eq!(mtu_of("no-such-device"), None);
        assert_eq!(mtu_of("a name that is too long"), None);
    }
}
