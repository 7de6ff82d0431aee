//! What is freed beside the way of packets between pods: another station's frame, a write that faults, a local socket's.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixStream};

use nix::libc;

use crate::harness::has_reasons;
use crate::harness::lab::DB;
use crate::harness::packet::{ipv4, send_on_wire, udp_segment};

use super::{Lab, RECEIVED, SENT, Want, db4, json, to_port};

#[test]
fn a_frame_for_another_station() {
    const NOBODY: [u8; 6] = [2, 0, 0, 0, 0, 9];
    let lab = Lab::lock();
    let segment = udp_segment(SocketAddr::from(([10, 99, 1, 2], 5401)), db4(7401), 100, true);
    let packet = ipv4([10, 99, 1, 2].into(), [10, 99, 2, 2].into(), 17, &segment, true);
    let watch = lab.watch();
    lab.web.netns.inside(|| (0..3).for_each(|_| send_on_wire("eth0", NOBODY, &packet)));
    // The pod has an old entry for its router: what it sends by a veth of its own is for nobody else.
    let want = Want {
        reason: &["OTHERHOST"],
        function: &["ip_rcv_core"],
        class: "neighbour",
        interface: &["ra"],
        ..RECEIVED
    };
    watch.expect(3, &to_port(7401), &want);
    // From the network to a pod that has this address no more, as where it is at home by now.
    let segment = udp_segment(db4(5401), SocketAddr::from(([10, 99, 1, 77], 7402)), 100, true);
    let packet = ipv4([10, 99, 2, 2].into(), [10, 99, 1, 77].into(), 17, &segment, true);
    let watch = lab.watch();
    lab.db.netns.inside(|| (0..3).for_each(|_| send_on_wire("eth0", NOBODY, &packet)));
    // Any shared segment is full of these.
    let want = Want {
        class: "other",
        harm: "benign",
        interface: &["rb"],
        source: Some(DB),
        destination: None,
        ..want
    };
    watch.expect(3, &to_port(7402), &want);
}

/// The kernel has made room for a packet and then cannot copy it: no memory to read it from.
#[test]
fn a_packet_whose_memory_is_not_there() {
    let lab = Lab::lock();
    let watch = lab.watch();
    lab.web.netns.inside(|| {
        let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
        // SAFETY: integers and bytes only, for which zero is valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(b"tun0") {
            // Signed or not, by architecture.
            *to = libc::c_char::from_ne_bytes([*from]);
        }
        request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI).unwrap();
        // SAFETY: the request is a whole `ifreq` and outlives the call.
        let made = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
        // The version nibble is looked at before the rest is copied.
        let first = [0x45_u8; 1];
        let parts = [
            libc::iovec { iov_base: first.as_ptr().cast_mut().cast(), iov_len: 1 },
            libc::iovec { iov_base: std::ptr::without_provenance_mut(8), iov_len: 99 },
        ];
        // SAFETY: the kernel checks every address; the second one is meant to be refused.
        let written = unsafe { libc::writev(tun.as_raw_fd(), parts.as_ptr(), 2) };
        assert_eq!((written, std::io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EFAULT)));
    });
    let want = Want {
        reason: &["SKB_UCOPY_FAULT"],
        function: &["tun_get_user"],
        class: "memory",
        // It is on no device yet, and has no header: only the device's socket says whose it is.
        interface: &["-"],
        destination: None,
        ..SENT
    };
    let unnamed = Want { class: "other", harm: "harmful", ..want };
    let key = if has_reasons() { ("reason", "SKB_UCOPY_FAULT") } else { ("function", "tun_get_user") };
    watch.expect_either(1, &[(key.0, json!(key.1))], &[&want, &unnamed]);
}

#[test]
fn what_a_local_socket_throws_away() {
    let lab = Lab::lock();
    let watch = lab.watch();
    let name =
        |name: &str| UnixAddr::from_abstract_name(format!("r2c-{name}-{}", std::process::id())).unwrap();
    // Kernels before 6.14 free the packet that they had made for a connection ..
    assert!(UnixStream::connect_addr(&name("nobody")).is_err());
    // .. later ones say that a datagram socket forgot what its last peer had sent.
    let [ours, first, second] =
        ["ours", "first", "second"].map(|is| UnixDatagram::bind_addr(&name(is)).unwrap());
    ours.connect_addr(&name("first")).unwrap();
    first.send_to_addr(b"unread", &name("ours")).unwrap();
    ours.connect_addr(&name("second")).unwrap();
    drop(second);
    lab.barrier();
    let events = watch.events();
    let local: Vec<_> = events.iter().filter(|event| event["class"] == "local_socket").collect();
    assert!(!local.is_empty(), "{events:#?}");
    for event in local {
        assert_eq!((&event["harm"], &event["source_ip"]), (&json!("benign"), &json!(null)), "{event:#}");
    }
}
