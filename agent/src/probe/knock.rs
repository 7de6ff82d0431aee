//! Datagrams to closed ports of this host, which make hooks fire.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Sends a datagram to a closed port of the loopback address, by IPv4 and IPv6: the kernel drops it, and makes and receives an
/// ICMP message about it. `then` gets each port.
///
/// # Errors
/// No socket on the loopback address (IPv6 may be missing), or the kernel refuses to send.
pub fn knock(mut then: impl FnMut(SocketAddr) -> io::Result<()>) -> io::Result<()> {
    for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let socket = match UdpSocket::bind((address, 0)) {
            // A host without IPv6.
            Err(_) if address.is_ipv6() => continue,
            bound => bound?,
        };
        // A port that was free a moment ago.
        let closed = UdpSocket::bind((address, 0))?.local_addr()?;
        socket.send_to(b"r2c-agent", closed)?;
        then(closed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ports_of_this_host_are_knocked_at() {
        let mut knocked = Vec::new();
        let knock_at = |closed| {
            knocked.push(closed);
            Ok(())
        };
        knock(knock_at).unwrap();
        assert_eq!(knocked.first().map(SocketAddr::ip), Some(Ipv4Addr::LOCALHOST.into()));
        assert!(knocked.iter().all(|closed| closed.ip().is_loopback() && closed.port() != 0), "{knocked:?}");
        let refused = knock(|_| Err(io::ErrorKind::PermissionDenied.into())).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    }
}
