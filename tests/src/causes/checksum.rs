//! Packets whose checksum is wrong, inside of which are pods.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use serde_json::json;

use crate::harness::packet::{ipv4, send_routed, udp, udp_around, udp_segment};
use crate::harness::{has_reasons, until};

use super::{Scene, fix};

const HOST: Ipv4Addr = Ipv4Addr::new(10, 97, 9, 1);
const EXT: Ipv4Addr = Ipv4Addr::new(10, 97, 9, 2);
const VXLAN: u16 = 8472;

/// What a pod of another node sends to `web`, in VXLAN between the nodes, whose outer checksum is wrong.
fn in_vxlan(port: u16) -> Vec<u8> {
    let (from, to) = (Ipv4Addr::new(10, 97, 5, 2), Ipv4Addr::new(10, 97, 1, 2));
    let inner = udp_segment((from, 53).into(), (to, port).into(), 40, true);
    let header = [8, 0, 0, 0, 0, 0, 1, 0];
    let ethernet = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    let frame = [&header[..], &ethernet, &ipv4(from, to, 17, &inner, true)].concat();
    let ends: [SocketAddr; 2] = [(EXT, 40_000).into(), (HOST, VXLAN).into()];
    ipv4(EXT, HOST, 17, &udp_around(ends[0], ends[1], &frame, false), true)
}

/// The names of the pods, and whether a trace of their namespace shows it, hang on what is inside.
#[test]
fn a_tunnels_checksum_that_is_wrong() {
    if !has_reasons() {
        // The place alone is that of a full queue as well.
        return;
    }
    let scene = Scene::new();
    if !scene.host.tries(
        "ip",
        &format!(
            "link add vx type vxlan id 1 local {HOST} dstport {VXLAN} nolearning udpcsum\nlink set vx up\n"
        ),
    ) {
        return;
    }
    for (port, flags) in [(7711, ["-n", "shop"]), (7712, ["--pod", "shop/web-0"])] {
        let trace = scene.trace_of("drops", &flags);
        scene.ext.inside(|| send_routed(HOST.into(), &in_vxlan(port)).unwrap());
        let lost = trace.expect_class("checksum", |line| line["destination_port"] == port);
        assert_eq!(
            json!([
                lost["destination_pod"]["pod"], lost["source_ip"], lost["tunnel"], lost["outer_source_ip"]
            ]),
            json!(["web-0", "10.97.5.2", "VXLAN", EXT.to_string()]),
            "{lost:#}"
        );
        assert!(
            fix(&lost).contains(&format!("where no device of node {EXT} fills in"))
                && fix(&lost).contains("ethtool -K"),
            "{lost:#}"
        );
    }
}

/// Of a longer datagram the kernel looks at the checksum when a program reads it.
#[test]
fn a_checksum_that_is_wrong_is_found_by_who_reads() {
    const PORT: u16 = 7713;
    let scene = Scene::new();
    let reader = scene.web.netns.inside(|| UdpSocket::bind(("0.0.0.0", PORT)).unwrap());
    reader.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let web = Ipv4Addr::new(10, 97, 1, 2);
    let send = |is_right: bool| {
        let segment = udp_segment((EXT, 5000).into(), (web, PORT).into(), 200, is_right);
        scene.ext.inside(|| send_routed(web.into(), &ipv4(EXT, web, 17, &segment, true)).unwrap());
    };
    send(true);
    assert_eq!(reader.recv(&mut [0; 300]).unwrap(), 200);
    let trace = scene.trace("drops");
    send(false);
    assert!(reader.recv(&mut [0; 300]).is_err());
    let lost = trace.expect_class("checksum", |line| line["destination_port"] == PORT);
    assert_eq!(lost["harm"], "harmful", "{lost:#}");
    assert!(fix(&lost).contains("ethtool -K DEVICE tx off"), "{lost:#}");
}

/// A program that carries packets from one device to another finds in them the checksum that the device was to fill in.
#[test]
fn a_checksum_that_was_left_to_the_device() {
    const PORT: u16 = 7744;
    let scene = Scene::new();
    let reader = scene.ext.inside(|| UdpSocket::bind((EXT, PORT)).unwrap());
    reader.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let passing = scene.host.inside(packets);
    let trace = scene.trace("drops");
    let send = || {
        scene.web.netns.inside(|| udp((EXT, PORT).into(), 1, 200));
        let packet = until("the program gets it", || {
            let mut bytes = [0; 2048];
            let length = nix::unistd::read(&passing, &mut bytes).ok()?;
            let is_it = bytes[22..24] == PORT.to_be_bytes() && length == 228;
            is_it.then(|| bytes[..length].to_vec())
        });
        // The kernel has forwarded the packet itself.
        assert_eq!(reader.recv(&mut [0; 300]).unwrap(), 200);
        scene.host.inside(|| send_routed(EXT.into(), &packet).unwrap());
    };
    send();
    assert!(reader.recv(&mut [0; 300]).is_err());
    let lost = trace.expect_class("checksum", |line| line["destination_port"] == PORT);
    let told = "switch checksum offload off on the device that sends it (`ethtool -K DEVICE tx off`;";
    assert!(fix(&lost).starts_with(told), "{lost:#}");
    scene.web.netns.run("ethtool", &["-K", "eth0", "tx", "off"]);
    send();
    assert_eq!(reader.recv(&mut [0; 300]).unwrap(), 200, "cured");
}

/// All IP packets of a namespace, as they go by its devices.
fn packets() -> OwnedFd {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Packet, SockType::Datagram, flags, SockProtocol::EthIp).unwrap()
}
