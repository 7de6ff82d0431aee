//! What is freed and nobody misses: by a bridge that has no ports, and between a machine and its virtual ones. And what
//! looks like it, and is missed.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, VsockAddr, accept, bind, connect, listen, recv,
    send, socket,
};
use serde_json::Value;

use crate::harness::netns::Netns;
use crate::harness::{tool, until};

use super::{Lab, json};

/// A node's idle `docker0`, and what is sent by it all day: to all, to a group, and to one who is not there.
///
/// As it is made it has a carrier, and frees what no port takes; after its last port has gone it has none, and its queue is
/// closed. Neither harms; that its port takes nothing does.
#[test]
fn a_bridge_without_ports() {
    const BRIDGE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
    let lab = Lab::lock();
    let netns = Netns::new();
    netns.ip("link add docker0 type bridge\naddr add 10.77.0.1/24 brd + dev docker0\nlink set docker0 up\n\
         route add 239.0.0.0/8 dev docker0\n");
    for (port, carrier) in [(7601, true), (7602, false)] {
        if !carrier {
            netns.ip("link add d0 up type veth peer name d1\nlink set d1 up\nlink set d0 master docker0\nlink set d0 nomaster\n");
            // It has forgotten nobody.
            netns.ip("neigh flush dev docker0\n");
        }
        let (watch, before) = (lab.watch(), benign(&lab));
        netns.inside(|| {
            let socket = UdpSocket::bind((BRIDGE, 0)).unwrap();
            socket.set_broadcast(true).unwrap();
            for to in [[10, 77, 0, 255], [239, 1, 2, 3], [10, 77, 0, 9]] {
                socket.send_to(b"anybody?", SocketAddr::from((to, port))).unwrap();
            }
        });
        lab.barrier();
        let events = watch.events();
        let sent: Vec<_> = events
            .iter()
            .filter(|event| event["interface"] == "docker0" && event["direction"] == "sent")
            .collect();
        let is = |what: &str, is: &dyn Fn(&Value) -> bool| {
            let found: Vec<_> = sent.iter().filter(|event| is(event)).collect();
            assert!(!found.is_empty(), "no {what}, carrier {carrier}: {sent:#?}");
            for event in found {
                assert_eq!((&event["harm"], &event["fix"]), (&json!("benign"), &json!(null)), "{event:#}");
                assert!(event["message"].as_str().unwrap().contains("the bridge has no ports"), "{event:#}");
            }
        };
        is("broadcast", &|event| {
            event["destination_ip"] == "10.77.0.255" && event["destination_port"] == port
        });
        is("group", &|event| event["destination_ip"] == "239.1.2.3" && event["destination_port"] == port);
        is("ARP", &|event| event["protocol"] == "ARP");
        assert!(benign(&lab) >= before + 3, "they are counted as what they are told as");
    }

    // It has a port now, to which nothing may be flooded: a packet to a station that is not known is lost.
    netns.ip("link set d0 master docker0\nlink set d0 type bridge_slave flood off\n\
         neigh replace 10.77.0.9 lladdr 02:00:00:00:00:09 dev docker0\n");
    let watch = lab.watch();
    netns.inside(|| {
        let socket = UdpSocket::bind((BRIDGE, 0)).unwrap();
        socket.send_to(b"anybody?", SocketAddr::from(([10, 77, 0, 9], 7603))).unwrap();
    });
    lab.barrier();
    let events = watch.events();
    let lost = events.iter().find(|event| event["destination_port"] == 7603);
    let lost = lost.unwrap_or_else(|| panic!("it was not dropped: {events:#?}"));
    assert_eq!((&lost["harm"], &lost["interface"]), (&json!("harmful"), &json!("docker0")), "{lost:#}");
}

/// Packets counted that went out and that nobody misses.
fn benign(lab: &Lab) -> u64 {
    lab.agent.scrape().sum("r2c_drop_packets_total", &[("harm", "benign"), ("direction", "sent")])
}

/// A stream of vsock to this machine itself.
fn vsock() -> Option<OwnedFd> {
    socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).ok()
}

/// Since 6.3 each packet of vsock is a buffer like the network's, and the kernel frees those that it has used as it
/// frees lost ones.
#[test]
fn a_virtual_machines_socket() {
    /// `VMADDR_CID_LOCAL`.
    const HERE: u32 = 1;
    let lab = Lab::lock();
    let _ = tool("modprobe").args(["-q", "vsock_loopback"]).status();
    let symbols = std::fs::read_to_string("/proc/kallsyms").unwrap();
    let (Some(server), true) = (vsock(), symbols.contains(" vsock_loopback_")) else { return };
    let watch = lab.watch();
    // Nobody is there; then somebody is, and all goes well.
    let refused = connect(vsock().unwrap().as_raw_fd(), &VsockAddr::new(HERE, 7604));
    assert_eq!(refused, Err(nix::errno::Errno::ECONNRESET));
    let address = VsockAddr::new(HERE, 7605);
    bind(server.as_raw_fd(), &address).unwrap();
    listen(&server, Backlog::new(1).unwrap()).unwrap();
    let client = vsock().unwrap();
    connect(client.as_raw_fd(), &address).unwrap();
    // SAFETY: just made, and nobody else's.
    let accepted: OwnedFd =
        unsafe { std::os::fd::FromRawFd::from_raw_fd(accept(server.as_raw_fd()).unwrap()) };
    assert_eq!(send(client.as_raw_fd(), b"hello", MsgFlags::empty()).unwrap(), 5);
    assert_eq!(recv(accepted.as_raw_fd(), &mut [0; 8], MsgFlags::empty()).unwrap(), 5);
    drop((accepted, client, server));
    let is_vsock = |event: &Value| {
        ["function", "module"].iter().any(|key| {
            event[*key]
                .as_str()
                .is_some_and(|name| name.contains("vsock") || name.contains("virtio_transport"))
        })
    };
    let of_vsock = || watch.events().into_iter().filter(is_vsock).collect::<Vec<_>>();
    if symbols.contains(" virtio_transport_purge_skbs") {
        // A worker frees them.
        until("this kernel's vsock frees buffers like the network's", || {
            (!of_vsock().is_empty()).then_some(())
        });
    }
    lab.barrier();
    let ours = of_vsock();
    for event in &ours {
        assert_eq!(
            (&event["harm"], &event["class"]),
            (&json!("benign"), &json!("local_socket")),
            "{event:#}"
        );
    }
}
