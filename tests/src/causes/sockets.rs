//! A port that looks closed: the program listens, but not there.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};
use serde_json::Value;

use crate::harness::has_reasons;
use crate::harness::packet::set;

use super::{Scene, Trace, fix, has_module};

/// Where `web` is asked for this port.
fn web(port: u16) -> [SocketAddr; 2] {
    [format!("10.97.1.2:{port}"), format!("[fd97:1::2]:{port}")].map(|address| address.parse().unwrap())
}

impl Scene {
    /// Whether `ext` is let in there.
    fn is_let_in(&self, to: SocketAddr) -> bool {
        self.ext.inside(|| TcpStream::connect_timeout(&to, Duration::from_secs(1)).is_ok())
    }

    fn listen(&self, at: &str) -> TcpListener {
        self.web.netns.inside(|| TcpListener::bind(at).unwrap())
    }
}

impl Trace {
    /// What is said of a packet to there that nobody took, and its fix.
    fn closed(&self, to: SocketAddr) -> (String, String) {
        let is_it = |event: &Value| {
            event["destination_port"] == to.port() && event["destination_ip"] == to.ip().to_string()
        };
        let event = self.expect_class("no_socket", is_it);
        assert_eq!([&event["harm"], &event["pod_name"]], ["harmful", "web-0"], "{event:#}");
        (event["message"].as_str().unwrap().to_owned(), fix(&event))
    }
}

/// A server that listens on the loopback address serves its own pod alone.
#[test]
fn a_program_that_listens_on_another_address() {
    let scene = Scene::new();
    let trace = scene.trace("drops");
    for (at, to, any) in [("127.0.0.1:7301", web(7301)[0], "0.0.0.0"), ("[::1]:7302", web(7302)[1], "[::]")] {
        let listener = scene.listen(at);
        assert!(!scene.is_let_in(to));
        let (said, fix) = trace.closed(to);
        assert!(said.contains(&format!("a program listens on {at} alone")), "{said}");
        let instead = at.parse::<SocketAddr>().unwrap().ip();
        let told = format!("let the program listen on {any} or {} instead of {instead}", to.ip());
        assert!(fix.contains(&told), "{told}? {fix}");
        drop(listener);
        for ip in [any.to_owned(), SocketAddr::new(to.ip(), 0).to_string().trim_end_matches(":0").to_owned()]
        {
            let _listener = scene.listen(&format!("{ip}:{}", to.port()));
            assert!(scene.is_let_in(to), "cured by {ip}");
        }
    }
    let resolver = scene.web.netns.inside(|| UdpSocket::bind("127.0.0.53:7303").unwrap());
    let to = web(7303)[0];
    scene.ext.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"who", to).unwrap());
    let (said, _) = trace.closed(to);
    assert!(said.contains("a program listens on 127.0.0.53:7303 alone"), "{said}");
    drop(resolver);
}

/// `0.0.0.0` takes no IPv6, and an IPv6 socket may be told to take no IPv4.
#[test]
fn a_program_that_listens_for_the_other_family() {
    let scene = Scene::new();
    let trace = scene.trace("drops");
    let [to4, to6] = web(7304);
    let only_six = scene.web.netns.inside(|| {
        let socket = socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        setsockopt(&socket, sockopt::Ipv6V6Only, &true).unwrap();
        let any: SocketAddr = "[::]:7304".parse().unwrap();
        bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrStorage::from(any)).unwrap();
        listen(&socket, Backlog::new(8).unwrap()).unwrap();
        socket
    });
    assert!(!scene.is_let_in(to4));
    let (said, fix) = trace.closed(to4);
    assert!(said.contains("a program listens on [::]:7304 now: its socket takes IPv6 alone, "), "{said}");
    assert!(fix.contains("let the program listen on 0.0.0.0 as well"), "{fix}");
    let shown = scene.web.netns.run("sh", &["-c", fix.split('`').nth(1).unwrap()]);
    assert!(shown.contains("[::]:7304"), "not `*`: {shown}");
    assert!(scene.is_let_in(to6), "cured by the other address");
    let as_well = scene.listen("0.0.0.0:7304");
    assert!(scene.is_let_in(to4), "cured");
    drop(only_six);
    assert!(!scene.is_let_in(to6));
    let (said, fix) = trace.closed(to6);
    assert!(
        said.contains(
            "nobody listens there by IPv6: a program listens on 0.0.0.0:7304, which takes IPv4 alone"
        ),
        "{said}"
    );
    assert!(fix.contains("listen on [::] as well, or the sender use its IPv4 address"), "{fix}");
    drop(as_well);
    let _both = scene.listen("[::]:7304");
    assert!(scene.is_let_in(to6) && scene.is_let_in(to4), "cured");
}

/// A Service whose `targetPort` is not the program's.
#[test]
fn a_program_that_listens_on_another_port() {
    let scene = Scene::new();
    let trace = scene.trace("drops");
    let [to, _] = web(7306);
    let _listeners = ["0.0.0.0:7305", "[::]:7307", "127.0.0.1:7308"].map(|at| scene.listen(at));
    assert!(!scene.is_let_in(to));
    let (said, fix) = trace.closed(to);
    assert!(
        said.contains("nobody listens on port 7306 there; programs there listen on ports 7305 and 7307"),
        "{said}"
    );
    assert!(fix.contains("targetPort"), "{fix}");
    for port in [7305, 7307] {
        assert!(scene.is_let_in(web(port)[0]), "cured by {port}");
    }
}

/// A server that is gone without a word, as with its node, and one that was never asked: data are no call to a closed port.
#[test]
fn data_of_a_connection_that_is_gone() {
    const REPAIR: i32 = 19;
    let scene = Scene::new();
    let trace = scene.trace("drops");
    let [to, _] = web(7309);
    let listener = scene.listen("0.0.0.0:7309");
    let mut client = scene.ext.inside(|| TcpStream::connect(to).unwrap());
    let (server, _) = listener.accept().unwrap();
    // A socket that is closed under repair says nothing.
    set(&server, libc::IPPROTO_TCP, REPAIR, 1);
    drop((server, listener));
    client.write_all(b"late").unwrap();
    let (said, fix) = trace.closed(to);
    assert!(
        said.contains(if has_reasons() {
            "it belongs to no connection that is open there: that has ended"
        } else {
            "no connection there takes it: that has ended"
        }),
        "{said}"
    );
    assert!(fix.starts_with("see why the program closed the connection early, or ended"), "{fix}");
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let told = client.read(&mut [0; 1]).unwrap_err();
    assert_eq!(told.kind(), ErrorKind::ConnectionReset, "as the line says");
    // A call is to a closed port, and its fix is another.
    assert!(!scene.is_let_in(web(7310)[0]));
    let (said, fix) = trace.closed(web(7310)[0]);
    assert!(said.contains("nobody listens there"), "{said}");
    assert!(fix.starts_with("start what should listen there"), "{fix}");
}

/// Its socket's address would take it, but not from that device.
#[test]
fn a_program_that_is_bound_to_a_device() {
    let scene = Scene::new();
    let trace = scene.trace("drops");
    let [to, _] = web(7309);
    let listener = scene.listen("0.0.0.0:7309");
    let bind_to = |device: &str| {
        setsockopt(&listener.as_fd(), sockopt::BindToDevice, &device.into()).unwrap();
    };
    bind_to("lo");
    assert!(!scene.is_let_in(to));
    let (said, fix) = trace.closed(to);
    assert!(said.contains("a program listens on 0.0.0.0:7309 now") && said.contains("bound to"), "{said}");
    let shown = fix.split('`').nth(1).unwrap();
    let shown = scene.web.netns.run("sh", &["-c", shown]);
    assert!(shown.contains("%lo"), "{shown}");
    bind_to("");
    assert!(scene.is_let_in(to), "cured");
}

/// A VRF's packets reach sockets that are bound to it; `tcp_l3mdev_accept` lets them reach unbound ones, too.
#[test]
fn a_program_outside_of_a_vrf() {
    if !has_module("vrf") {
        return;
    }
    let scene = Scene::new();
    scene.web.netns.ip("link add red type vrf table 10\nlink set red up\nlink set eth0 master red\n\
         route add default via 10.97.1.1 dev eth0 table 10\n");
    let trace = scene.trace("drops");
    let [to, _] = web(7310);
    let _listener = scene.listen("0.0.0.0:7310");
    assert!(!scene.is_let_in(to));
    let (said, fix) = trace.closed(to);
    assert!(said.contains("a program listens on 0.0.0.0:7310 now"), "{said}");
    let sysctl = fix.split('`').find(|command| command.starts_with("sysctl")).unwrap();
    scene.web.netns.run("sh", &["-c", sysctl]);
    assert!(scene.is_let_in(to), "cured by {sysctl}");
}
