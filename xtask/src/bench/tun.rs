//! Another machine, played by hand: what is written to this device comes in from outside, and what goes there can be read.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;

use anyhow::{Context as _, Result};
use nix::libc;

nix::ioctl_write_ptr_bad!(set_interface, libc::TUNSETIFF, libc::ifreq);

/// Protocols' numbers.
pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

/// The device, as long as this lives.
pub(super) struct Tun(File);

impl Tun {
    /// A device of this name, that has neither address nor route yet.
    pub(super) fn new(name: &str) -> Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun");
        let file = file.context("/dev/net/tun")?;
        // SAFETY: zeroes are a valid `ifreq`.
        let mut interface: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in interface.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
            *to = from.cast_signed();
        }
        interface.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI)?;
        // SAFETY: the descriptor is open, and the kernel reads an `ifreq`.
        unsafe { set_interface(file.as_raw_fd(), &raw const interface) }.context("TUNSETIFF")?;
        Ok(Self(file))
    }

    /// A packet comes in; its fate is known when this returns.
    pub(super) fn send(&self, packet: &[u8]) -> io::Result<()> {
        (&self.0).write_all(packet)
    }

    /// The next packet that went out, if there is one.
    pub(super) fn next(&self) -> io::Result<Option<Vec<u8>>> {
        let mut packet = vec![0; 2048];
        match (&self.0).read(&mut packet) {
            Ok(length) => {
                packet.truncate(length);
                Ok(Some(packet))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// An IPv4 packet with DF and checksum.
pub(super) fn ipv4(protocol: u8, source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    let mut packet = vec![0x45, 0, length[0], length[1], 0, 1, 0x40, 0, 64, protocol, 0, 0];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum);
    packet.extend(payload);
    packet
}

/// A UDP datagram without checksum.
pub(super) fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
    let mut datagram: Vec<u8> = [from, to, length, 0].iter().flat_map(|word| word.to_be_bytes()).collect();
    datagram.extend(payload);
    datagram
}

/// An ICMP message that says that of `packet` only this many bytes fit.
pub(super) fn frag_needed(mtu: u16, packet: &[u8]) -> Vec<u8> {
    let [high, low] = mtu.to_be_bytes();
    let mut message = vec![3, 4, 0, 0, 0, 0, high, low];
    message.extend(packet);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum);
    message
}

/// The Internet's checksum (RFC 1071).
pub(super) fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [.., high, low] = (!sum).to_be_bytes();
    [high, low]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_with_its_checksum_sums_up_to_nothing() {
        let packet = ipv4(UDP, Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST, &udp(1, 2, b"odd"));
        assert_eq!(checksum(&packet[..20]), [0, 0]);
        assert_eq!(packet[2..4], 31_u16.to_be_bytes());
        assert_eq!(checksum(&frag_needed(1280, &packet)), [0, 0]);
    }
}
