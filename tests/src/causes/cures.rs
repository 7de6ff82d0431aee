//! What verdicts on packet sizes say is to be set, done as they say it: what was refused or stuck passes, in both directions.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::harness::netns::Netns;
use crate::harness::packet::udp_unfragmented;
use crate::harness::until;

use super::size::verdict;
use super::{EXT4, EXT6, Scene, apply, fix};

/// Whether a server in one namespace can send 100,000 bytes to a client in another.
fn sends(server: &Netns, client: &Netns, at: SocketAddr) -> bool {
    const BYTES: usize = 100_000;
    let listener = server.inside(|| TcpListener::bind(at).unwrap());
    let mut client = client.inside(|| TcpStream::connect(at).unwrap());
    let (mut server, _) = listener.accept().unwrap();
    // Else what is stuck goes on beside the tests after this one.
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&server, sockopt::Linger, &at_once).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    server.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    std::thread::scope(|scope| {
        let server = scope.spawn(move || {
            let _ = server.write_all(&vec![7; BYTES]);
            server
        });
        let is_all = client.read_exact(&mut vec![0; BYTES]).is_ok();
        drop(server.join().unwrap());
        is_all
    })
}

/// Whether `from` gets its datagram of so many bytes back. It may go in fragments.
fn is_answered(from: &Netns, to: &str, length: usize) -> bool {
    let to: SocketAddr = to.parse().unwrap();
    from.inside(|| {
        let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        socket.send_to(&vec![7; length], to).is_ok() && socket.recv(&mut [0; 2048]).is_ok()
    })
}

/// One end of a pod's veth alone would free without a word what the other still sends.
#[test]
fn a_smaller_interface_is_smaller_at_both_ends() {
    let scene = Scene::new();
    let web = &scene.web.netns;
    scene.answer(web.inside(|| UdpSocket::bind("[::]:7").unwrap()));
    scene.host.ip("link set uplink mtu 1400\n");
    scene.ext.ip("link set eth0 mtu 1400\n");
    let trace = scene.trace("mtu");
    if !trace.sees_messages() {
        return;
    }
    web.inside(|| udp_unfragmented("10.97.9.2:9".parse().unwrap(), 1, 1420));
    let small = verdict(&trace, "the uplink", |line| line["finding"] == "small_device");
    let told = "set the MTU of both ends of shop/web-0's interface to at most 1400, or raise uplink if ";
    assert!(fix(&small).starts_with(told), "{small:#}");
    web.ip("link set eth0 mtu 1400\nroute flush cache\n");
    scene.host.ip("link set veth-web mtu 1400\n");
    for (from, to) in [
        (web, EXT4),
        (web, EXT6),
        (&scene.host, "10.97.1.2:7"),
        (&scene.host, "[fd97:1::2]:7"),
        (&scene.ext, "10.97.1.2:7"),
    ] {
        assert!(is_answered(from, to, 1472), "{to} from {}", from.path());
    }
    // Who asks with DF is refused at once, and nothing dies on the way.
    let refused = web.inside(|| {
        let socket = UdpSocket::bind("10.97.1.2:0").unwrap();
        crate::harness::packet::set(&socket, 0, 10, 2);
        socket.send_to(&[7; 1420], "10.97.9.2:9").unwrap_err().raw_os_error()
    });
    assert_eq!(refused, Some(nix::libc::EMSGSIZE));
    assert!(sends(web, &scene.ext, "10.97.1.2:7501".parse().unwrap()));
    // The other way to mend it.
    for (netns, device) in
        [(web, "eth0"), (&scene.host, "veth-web"), (&scene.host, "uplink"), (&scene.ext, "eth0")]
    {
        netns.ip(&format!("link set {device} mtu 1500\n"));
    }
    web.ip("route flush cache\n");
    let receiver = scene.ext.inside(|| UdpSocket::bind("10.97.9.2:9").unwrap());
    receiver.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    web.inside(|| udp_unfragmented("10.97.9.2:9".parse().unwrap(), 1, 1472));
    assert_eq!(receiver.recv(&mut [0; 2048]).ok(), Some(1472), "cured");
}

/// A hop takes less on the way to one destination: a route for that destination alone cures it.
#[test]
fn a_route_keeps_packets_at_what_a_hop_takes() {
    let scene = Scene::new();
    let (web, far) = (&scene.web.netns, Netns::new());
    scene.ext.ip(&format!(
        "link add side mtu 1400 type veth peer name eth0 mtu 1400 netns {}\naddr add 10.97.7.1/24 dev side\n\
         addr add fd97:7::1/64 dev side nodad\nlink set side up\n",
        far.path()
    ));
    scene.ext.sysctl("ipv4/ip_forward", "1");
    scene.ext.sysctl("ipv6/conf/all/forwarding", "1");
    far.ip(
        "link set lo up\naddr add 10.97.7.2/24 dev eth0\naddr add fd97:7::2/64 dev eth0 nodad\nlink set eth0 up\n\
         route add default via 10.97.7.1\nroute add default via fd97:7::1\n",
    );
    scene.host.ip("route add 10.97.7.0/24 via 10.97.9.2\nroute add fd97:7::/64 via fd97:9::2\n");
    let trace = scene.trace("mtu");
    if !trace.sees_messages() {
        return;
    }
    for (to, gateway) in [("10.97.7.2", "10.97.1.1"), ("fd97:7::2", "fd97:1::1")] {
        let at = SocketAddr::new(to.parse().unwrap(), 7502);
        web.inside(|| udp_unfragmented(at, 1, 1420));
        let small =
            verdict(&trace, "a hop", |line| line["finding"] == "small_hop" && line["destination_ip"] == to);
        let told = format!(
            "set the MTU of shop/web-0's route to {to}, or of both ends of its interface, to at most 1400"
        );
        assert_eq!(fix(&small), told, "{small:#}");
        web.ip(&format!("route add {to} via {gateway} mtu 1400\n"));
        let made = || trace.lines(|line| line["event"] == "made" && line["destination_ip"] == to).len();
        let before = made();
        let far_end = std::thread::scope(|scope| {
            let listener = far.inside(|| TcpListener::bind(at).unwrap());
            let server = scope.spawn(move || {
                let mut bytes = Vec::new();
                listener.accept().unwrap().0.read_to_end(&mut bytes).map(|_| bytes.len())
            });
            let mut client = web.inside(|| TcpStream::connect(at).unwrap());
            client.write_all(&vec![7; 100_000]).unwrap();
            drop(client);
            server.join().unwrap().unwrap()
        });
        assert_eq!((far_end, made()), (100_000, before), "{to}: all arrives, and no hop says a word");
    }
}

/// A server that heeds no message, and a pod that takes less than it asks for.
#[test]
fn a_stranger_is_asked_for_less_by_tcp() {
    let scene = Scene::new();
    let web = &scene.web.netns;
    scene.host.ip("link set veth-web mtu 1450\n");
    // What drops the messages would be seen here: they become answers that nobody has asked for.
    let is_deaf = scene.ext.tries(
        "tc",
        "qdisc add dev eth0 clsact\n\
         filter add dev eth0 ingress protocol ip flower ip_proto icmp type 3 action pedit munge offset 20 u8 set 0\n\
         filter add dev eth0 ingress protocol ipv6 flower ip_proto icmpv6 type 2 action pedit munge offset 40 u8 set 129\n",
    );
    if !is_deaf {
        return;
    }
    let trace = scene.trace("mtu");
    if !trace.sees_messages() {
        return;
    }
    for (ip, port, mss) in [("10.97.9.2", 7503, 1410), ("fd97:9::2", 7504, 1390)] {
        let at = SocketAddr::new(ip.parse().unwrap(), port);
        assert!(!sends(&scene.ext, web, at));
        let small = verdict(&trace, "for the pod", |line| {
            line["finding"] == "small_device" && line["source_ip"] == ip
        });
        let fix = fix(&small);
        assert!(fix.contains("let TCP ask it for less: in shop/web-0, give"), "{small:#}");
        assert!(fix.contains(&format!("--set-mss {mss}`")), "{small:#}");
        apply(&scene.host, &fix);
        assert!(sends(&scene.ext, web, SocketAddr::new(at.ip(), port + 10)), "cured by a clamp: {fix}");
    }
    for tables in ["iptables", "ip6tables"] {
        scene.host.run(tables, &["-t", "mangle", "-F"]);
    }
    assert!(!sends(&scene.ext, web, "10.97.9.2:7505".parse().unwrap()));
    web.ip("link set eth0 mtu 1450\n");
    assert!(sends(&scene.ext, web, "10.97.9.2:7506".parse().unwrap()), "cured by its interface");
}

/// A pod's kernel that is told not to listen to such messages.
#[test]
fn path_mtu_discovery_that_is_off() {
    let scene = Scene::new();
    let web = &scene.web.netns;
    scene.host.ip("link set uplink mtu 1400\n");
    web.sysctl("ipv4/ip_no_pmtu_disc", "2");
    let trace = scene.trace("mtu");
    if !trace.sees_messages() {
        return;
    }
    let to: SocketAddr = "10.97.9.2:9".parse().unwrap();
    web.inside(|| udp_unfragmented(to, 1, 1420));
    let off = verdict(&trace, "it is off", |line| {
        line["finding"] == "messages_lost" && line["message"].as_str().unwrap().contains("is off")
    });
    assert_eq!(off["fate"], "ignored", "{off:#}");
    apply(web, &fix(&off));
    let learns = || web.run("ip", &["route", "get", "10.97.9.2"]).contains("mtu 1400");
    assert!(!learns());
    web.inside(|| udp_unfragmented(to, 1, 1420));
    until("cured", || learns().then_some(()));
}
