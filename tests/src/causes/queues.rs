//! Queues that are full between a device and a program: each is given what the fix says, and then takes all that came before.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

use crate::harness::netns::Netns;
use crate::harness::packet::udp;

use super::tables::Setting;
use super::{Scene, fix, is_guest};

/// How many datagrams wait at a socket.
fn waiting(socket: &UdpSocket) -> usize {
    socket.set_nonblocking(true).unwrap();
    std::iter::from_fn(|| socket.recv(&mut [0; 2048]).ok()).count()
}

/// Most programs set no buffer of their own: what they have is the node's.
#[test]
fn a_buffer_that_the_program_does_not_choose() {
    // The default is the machine's.
    if !is_guest() {
        return;
    }
    let scene = Scene::new();
    let bind = || scene.web.netns.inside(|| UdpSocket::bind("10.97.1.2:7741").unwrap());
    let send = || scene.ext.inside(|| udp("10.97.1.2:7741".parse().unwrap(), 20, 1000));
    let trace = scene.trace("drops");
    // The agent's own sockets have what they need by then.
    let default = Setting::new("/proc/sys/net/core/rmem_default", "4608");
    let socket = bind();
    send();
    let full = trace.expect_class("queue", |line| line["destination_port"] == 7741);
    let told = fix(&full);
    assert!(
        told.contains("where it sets none, by the node's `net.core.rmem_default`, and start it again"),
        "{told}"
    );
    assert!(waiting(&socket) < 20);
    default.set("212992");
    send();
    assert!(waiting(&socket) < 20, "a socket keeps the buffer that it began with");
    drop(socket);
    let again = bind();
    send();
    assert_eq!(waiting(&again), 20, "cured");
}

/// What comes in one go is more than a processor may keep.
#[test]
fn a_backlog_of_a_processor() {
    const BURST: usize = 40;
    // It is the machine's.
    if !is_guest() {
        return;
    }
    let scene = Scene::new();
    let reader = scene.ext.inside(|| UdpSocket::bind("10.97.9.2:7742").unwrap());
    // The kernel cuts a long send into its datagrams just before the device, which gets them without a pause.
    scene.host.run("ethtool", &["-K", "uplink", "tx-udp-segmentation", "off"]);
    let send = || {
        let socket = scene.host.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        setsockopt(&socket, sockopt::UdpGsoSegment, &1000).unwrap();
        let to: SocketAddr = "10.97.9.2:7742".parse().unwrap();
        assert_eq!(socket.send_to(&vec![7; BURST * 1000], to).unwrap(), BURST * 1000);
    };
    let backlog = Setting::new("/proc/sys/net/core/netdev_max_backlog", "10");
    let trace = scene.trace("drops");
    send();
    let full = trace.expect_class("queue", |line| line["destination_port"] == 7742);
    let told = fix(&full);
    assert!(told.starts_with("raise `net.core.netdev_max_backlog` on the node"), "{full:#}");
    assert!(waiting(&reader) < BURST);
    backlog.set("1000");
    send();
    assert_eq!(waiting(&reader), BURST, "cured");
}

/// A tunnel device of this namespace, whose program is this test: what is sent by it waits to be read.
fn tunnel(netns: &Netns, name: &str) -> File {
    netns.inside(|| {
        let mut options = OpenOptions::new();
        let tun = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun").unwrap();
        // SAFETY: integers and bytes only, for which zero is valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            // Signed or not, by architecture.
            *to = libc::c_char::from_ne_bytes([from]);
        }
        request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI).unwrap();
        // SAFETY: the request is a whole `ifreq` and outlives the call.
        let made = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
        tun
    })
}

/// A VPN's program that does not keep up.
#[test]
fn a_ring_that_a_program_reads() {
    const BURST: u64 = 700;
    let scene = Scene::new();
    if !super::has_module("tun") {
        return;
    }
    let mut tun = tunnel(&scene.web.netns, "vpn0");
    scene.web.netns.ip("link set vpn0 up\nroute add 10.97.43.0/24 dev vpn0\n");
    let trace = scene.trace("drops");
    let send = || scene.web.netns.inside(|| udp("10.97.43.2:7743".parse().unwrap(), BURST, 100));
    let mut read = || -> u64 {
        let mut bytes = [0; 2048];
        let mut to_port = 0;
        loop {
            match tun.read(&mut bytes) {
                // What the device announces itself by is IPv6.
                Ok(28..) if bytes[0] >> 4 == 4 => to_port += 1,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return to_port,
                Err(error) => panic!("{error}"),
            }
        }
    };
    send();
    let full = trace.expect_class("queue", |line| line["destination_port"] == 7743);
    let told = fix(&full);
    assert!(told.starts_with("have its reader read faster "), "{full:#}");
    assert!(read() < BURST);
    scene.apply(&told);
    send();
    assert_eq!(read(), BURST, "cured");
}
