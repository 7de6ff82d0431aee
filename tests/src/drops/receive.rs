//! What dies where it was to be received: closed ports, wrong checksums, full buffers, states TCP does not expect.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};

use nix::libc;

use crate::harness::packet::{
    ipv4, send_on_wire, send_routed, set, tcp_segment, udp, udp_segment, with_options,
};
use crate::harness::{DEADLINE, UDP4_RCV, UDP6_RCV, until};

use super::{Lab, RECEIVED, RECEIVED_BY_TCP, Want, db4, db6, to_port};

/// `web` as a source.
fn web4(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 99, 1, 2], port))
}

#[test]
fn a_closed_udp_port() {
    let lab = Lab::lock();
    for (to, function) in [(db4(7101), &UDP4_RCV), (db6(7102), &UDP6_RCV)] {
        let watch = lab.watch();
        lab.web.netns.inside(|| udp(to, 3, 100));
        let want = Want { reason: &["NO_SOCKET"], function, class: "no_socket", ..RECEIVED };
        watch.expect(3, &to_port(to.port()), &want);
        let socket = lab.db.netns.inside(|| UdpSocket::bind(to).unwrap());
        lab.web.netns.inside(|| udp(to, 3, 100));
        lab.barrier();
        assert_eq!(drain(&socket), 3, "cured by who listens");
    }
}

/// Ports stand behind IPv4's options: read where they mostly are they would be the options' bytes.
#[test]
fn a_closed_udp_port_behind_options() {
    let lab = Lab::lock();
    for (words, port) in [(1, 7131), (10, 7132)] {
        let watch = lab.watch();
        let segment = udp_segment(web4(5131), db4(port), 100, true);
        let packet =
            with_options(&ipv4([10, 99, 1, 2].into(), [10, 99, 2, 2].into(), 17, &segment, true), words);
        lab.web.netns.inside(|| (0..3).for_each(|_| assert!(send_routed(db4(0).ip(), &packet).is_ok())));
        let want = Want { reason: &["NO_SOCKET"], function: &UDP4_RCV, class: "no_socket", ..RECEIVED };
        watch.expect(3, &[&to_port(port)[..], &[("source_port", 5131.into())]].concat(), &want);
    }
}

#[test]
fn a_closed_tcp_port() {
    let lab = Lab::lock();
    for (to, function) in [(db4(7103), "tcp_v4_rcv"), (db6(7104), "tcp_v6_rcv")] {
        let watch = lab.watch();
        let refused = lab.web.netns.inside(|| TcpStream::connect(to).unwrap_err().kind());
        assert_eq!(refused, std::io::ErrorKind::ConnectionRefused);
        let want = Want { reason: &["NO_SOCKET"], function: &[function], class: "no_socket", ..RECEIVED };
        watch.expect(1, &to_port(to.port()), &want);
        let _listener = lab.db.netns.inside(|| TcpListener::bind(to).unwrap());
        assert!(lab.web.netns.inside(|| TcpStream::connect(to).is_ok()), "cured by who listens");
    }
}

#[test]
fn a_wrong_udp_checksum() {
    let lab = Lab::lock();
    let watch = lab.watch();
    let segment = udp_segment(web4(5105), db4(7105), 100, false);
    let packet = ipv4([10, 99, 1, 2].into(), [10, 99, 2, 2].into(), 17, &segment, true);
    lab.web.netns.inside(|| (0..3).for_each(|_| assert!(send_routed(db4(0).ip(), &packet).is_ok())));
    let want = Want {
        reason: &["UDP_CSUM"],
        function: &UDP4_RCV,
        class: "checksum",
        // The same place as for a closed port.
        by_place: Some("no_socket"),
        ..RECEIVED
    };
    watch.expect(3, &to_port(7105), &want);
}

#[test]
fn a_wrong_ip_checksum() {
    let lab = Lab::lock();
    let segment = udp_segment(web4(5106), db4(7106), 100, true);
    let packet = ipv4([10, 99, 1, 2].into(), [10, 99, 2, 2].into(), 17, &segment, false);
    let router = station(&lab.router, "ra");
    let watch = lab.watch();
    lab.web.netns.inside(|| (0..3).for_each(|_| send_on_wire("eth0", router, &packet)));
    // It dies before it is routed: nobody knows yet that it was to be forwarded.
    let want = Want {
        reason: &["IP_CSUM"],
        function: &["ip_rcv_core"],
        class: "checksum",
        by_place: Some("malformed"),
        interface: &["ra"],
        ..RECEIVED
    };
    watch.expect(3, &to_port(7106), &want);
}

/// The link address of an interface.
fn station(netns: &crate::harness::netns::Netns, interface: &str) -> [u8; 6] {
    let shown = netns.run("ip", &["-o", "link", "show", interface]);
    let text = shown.split_once("link/ether ").and_then(|(_, rest)| rest.split(' ').next()).unwrap();
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

#[test]
fn a_full_receive_buffer() {
    let lab = Lab::lock();
    let socket = lab.db.netns.inside(|| UdpSocket::bind(db4(7107)).unwrap());
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, 0);
    let watch = lab.watch();
    let sent = 20;
    lab.web.netns.inside(|| udp(db4(7107), sent, 1000));
    lab.barrier();
    let queued = drain(&socket);
    let dropped = usize::try_from(sent).unwrap() - queued;
    assert!(dropped > 0, "the buffer took all");
    let want = Want {
        reason: &["SOCKET_RCVBUFF"],
        function: &["udp_queue_rcv_one_skb", "__udp_enqueue_schedule_skb"],
        class: "queue",
        // UDP keeps its own notes where the device was.
        interface: &["eth0", "-"],
        ..RECEIVED
    };
    watch.expect(dropped, &to_port(7107), &want);
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, 1 << 20);
    lab.web.netns.inside(|| udp(db4(7107), sent, 1000));
    lab.barrier();
    assert_eq!(u64::try_from(drain(&socket)), Ok(sent), "cured by a larger buffer");
}

fn drain(socket: &UdpSocket) -> usize {
    socket.set_nonblocking(true).unwrap();
    let mut bytes = [0; 2048];
    std::iter::from_fn(|| socket.recv(&mut bytes).ok()).count()
}

#[test]
fn what_a_closed_socket_left_unread() {
    let lab = Lab::lock();
    let socket = lab.db.netns.inside(|| UdpSocket::bind(db4(7108)).unwrap());
    lab.web.netns.inside(|| udp(db4(7108), 3, 100));
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.peek(&mut [0; 4]).unwrap();
    let watch = lab.watch();
    drop(socket);
    let want = Want {
        reason: &["NOT_SPECIFIED", "QUEUE_PURGE", "SOCKET_CLOSE"],
        function: &[
            "udp_destruct_common", "inet_sock_destruct", "skb_queue_purge", "skb_queue_purge_reason",
            "__skb_queue_purge",
        ],
        class: "teardown",
        harm: "benign",
        interface: &["eth0", "-"],
        ..RECEIVED
    };
    watch.expect(3, &to_port(7108), &want);
}

/// In a queue of UDP's a packet's device is a number of UDP's own, and no address: to follow it must not be the machine's end.
/// It was on 5.10, not every time: where a program calls another function, what mends such a load may not be found.
#[test]
fn what_many_closed_sockets_left_unread() {
    const SOCKETS: u64 = 20;
    let lab = Lab::lock();
    let counted = || {
        let labels = [("class", "teardown"), ("harm", "benign"), ("direction", "received")];
        lab.agent.scrape().sum("r2c_drop_packets_total", &labels)
    };
    let before = counted();
    lab.router.inside(|| {
        for _ in 0..SOCKETS {
            let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
            udp(socket.local_addr().unwrap(), 3, 100);
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            socket.peek(&mut [0; 4]).unwrap();
        }
    });
    until("all are counted", || (counted() >= before + 3 * SOCKETS).then_some(()));
}

#[test]
fn a_segment_tcp_does_not_expect() {
    const ACK: u8 = 0x10;
    let lab = Lab::lock();
    let listener = lab.db.netns.inside(|| TcpListener::bind(db4(7109)).unwrap());
    let segment = tcp_segment(web4(5109), db4(7109), ACK);
    let packet = ipv4([10, 99, 1, 2].into(), [10, 99, 2, 2].into(), 6, &segment, true);
    let watch = lab.watch();
    lab.web.netns.inside(|| send_routed(db4(0).ip(), &packet).unwrap());
    let want = Want {
        reason: &["NOT_SPECIFIED", "TCP_FLAGS"],
        function: &["tcp_v4_do_rcv", "tcp_v4_rcv"],
        class: "tcp_state",
        ..RECEIVED_BY_TCP
    };
    watch.expect(1, &to_port(7109), &want);
    drop(listener);
}

#[test]
fn data_for_a_reader_that_went_away() {
    let lab = Lab::lock();
    let listener = lab.db.netns.inside(|| TcpListener::bind(db4(7110)).unwrap());
    let mut client = lab.web.netns.inside(|| TcpStream::connect(db4(7110)).unwrap());
    let server = listener.accept().unwrap().0;
    let watch = lab.watch();
    // Not closed, or the connection would go on without its socket, and the kernel would say less.
    server.shutdown(Shutdown::Both).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    client.write_all(b"late").unwrap();
    let named = Want {
        reason: &["TCP_ABORT_ON_DATA"],
        function: &["tcp_v4_do_rcv"],
        class: "teardown",
        harm: "benign",
        ..RECEIVED_BY_TCP
    };
    // 6.1 resets the connection and does not say why.
    let unnamed = Want { reason: &["NOT_SPECIFIED"], class: "tcp_state", harm: "harmful", ..named };
    watch.expect_either(1, &to_port(7110), &[&named, &unnamed]);
}
