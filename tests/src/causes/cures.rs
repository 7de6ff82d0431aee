//! What verdicts on packet sizes say is to be set, done as they say it: what was refused or stuck passes, in both directions.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use nix::libc;

use crate::harness::netns::Netns;
use crate::harness::packet::{ends_at_once, set, udp_for, udp_unfragmented};
use crate::harness::until;

use super::size::verdict;
use super::{EXT4, EXT6, Scene, apply, fix};

/// Whether a server in one namespace can send 100,000 bytes to a client in another.
pub(super) fn sends(server: &Netns, client: &Netns, at: SocketAddr) -> bool {
    const BYTES: usize = 100_000;
    let listener = server.inside(|| TcpListener::bind(at).unwrap());
    let mut client = client.inside(|| TcpStream::connect(at).unwrap());
    let (mut server, _) = listener.accept().unwrap();
    ends_at_once(&server);
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
        set(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO);
        socket.send_to(&[7; 1420], "10.97.9.2:9").unwrap_err().raw_os_error()
    });
    assert_eq!(refused, Some(libc::EMSGSIZE));
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

/// What a socket does not let its kernel fragment is refused beyond exactly so many bytes; what it lets be fragmented arrives.
#[test]
fn datagrams_that_a_socket_does_not_let_be_fragmented() {
    const V4: (i32, i32) = (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER);
    const V6: (i32, i32) = (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER);
    const DONTFRAG: (i32, i32) = (libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG);
    let scene = Scene::new();
    let web = &scene.web.netns;
    for (netns, device) in
        [(web, "eth0"), (&scene.host, "veth-web"), (&scene.host, "uplink"), (&scene.ext, "eth0")]
    {
        netns.ip(&format!("link set {device} mtu 1437\n"));
    }
    // Each has a destination of its own: of one and the same there would be one verdict.
    for last in ["12", "13", "14"] {
        scene
            .ext
            .ip(&format!("addr add 10.97.9.{last}/32 dev lo\naddr add fd97:9::{last}/128 dev lo nodad\n"));
        scene
            .host
            .ip(&format!("route add 10.97.9.{last} via 10.97.9.2\nroute add fd97:9::{last} via fd97:9::2\n"));
    }
    web.ip("route add 10.97.9.12 via 10.97.1.1 mtu 1391\nroute add fd97:9::12 via fd97:1::1 mtu 1391\n");
    let trace = scene.trace("mtu");
    if !trace.sees_messages() {
        return;
    }
    let told = |to: SocketAddr| {
        let refused = verdict(&trace, "it is refused", |line| {
            line["finding"] == "large_datagrams" && line["destination_ip"] == to.ip().to_string()
        });
        fix(&refused)
    };
    for (to, headers, refuses) in [
        ("10.97.9.13:7", 28, (V4, libc::IP_PMTUDISC_DO)),
        ("10.97.9.12:7", 28, (V4, libc::IP_PMTUDISC_DO)),
        ("[fd97:9::13]:7", 48, (V6, libc::IPV6_PMTUDISC_DO)),
        ("[fd97:9::12]:7", 48, (DONTFRAG, 1)),
    ] {
        let to: SocketAddr = to.parse().unwrap();
        let socket = web.inside(|| udp_for(to));
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let set = |((level, name), value): ((i32, i32), i32)| set(&socket, level, name, value);
        let asks = |length: usize| match socket.send_to(&vec![7; length], to) {
            Ok(_) => Ok(socket.recv(&mut [0; 2048]).ok()),
            Err(error) => Err(error.raw_os_error()),
        };
        set(refuses);
        assert_eq!(asks(2000), Err(Some(libc::EMSGSIZE)), "{to}");
        let fix = told(to);
        let (most, options) =
            fix.strip_prefix("send datagrams of at most ").unwrap().split_once(" bytes").unwrap();
        let most = most.parse::<usize>().unwrap() - headers;
        assert_eq!(asks(most), Ok(Some(most)), "{to}: {fix}");
        assert_eq!(asks(most + 1), Err(Some(libc::EMSGSIZE)), "{to}: it may be more than {fix}");
        if to.is_ipv4() {
            assert!(options.ends_with("(socket option IP_MTU_DISCOVER to IP_PMTUDISC_WANT)"), "{fix}");
            set((V4, libc::IP_PMTUDISC_WANT));
        } else {
            let wanted = "(socket option IPV6_MTU_DISCOVER to IPV6_PMTUDISC_WANT, and IPV6_DONTFRAG off)";
            assert!(options.ends_with(wanted), "{fix}");
            set((V6, libc::IPV6_PMTUDISC_WANT));
            set((DONTFRAG, 0));
        }
        assert_eq!(asks(2000), Ok(Some(2000)), "{to}: cured by fragments");
    }
    // Who lets all be fragmented is refused what no fragments can carry, and what they can is told.
    for (to, beyond, headers) in [("10.97.9.14:7", 65_508, 28), ("[fd97:9::14]:7", 65_528, 48)] {
        let to: SocketAddr = to.parse().unwrap();
        let socket = web.inside(|| udp_for(to));
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let refused = socket.send_to(&vec![7; beyond], to).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EMSGSIZE));
        let fix = told(to);
        assert!(fix.contains("let the kernel fragment them, up to 65535 bytes"), "{fix}");
        socket.send_to(&vec![7; 65_535 - headers], to).unwrap();
        assert!(socket.recv(&mut [0; 2048]).is_ok(), "{to}: it arrives");
    }
}

/// Two paths by turns, of which each takes its own: the least of both fits either, and one MTU is no riddle.
#[test]
fn paths_that_take_now_this_now_that() {
    let scene = Scene::new();
    let (web, far) = (&scene.web.netns, Netns::new());
    far.ip("link set lo up\naddr add 10.97.23.1/32 dev lo\naddr add fd97:23::1/128 dev lo nodad\n");
    for (net, mtu) in [(21, 1407), (22, 1307)] {
        scene.ext.ip(&format!(
            "link add side{net} mtu {mtu} type veth peer name eth{net} mtu {mtu} netns {}\n\
             addr add 10.97.{net}.1/24 dev side{net}\naddr add fd97:{net}::1/64 dev side{net} nodad\nlink set side{net} up\n",
            far.path()
        ));
        far.ip(&format!(
            "addr add 10.97.{net}.2/24 dev eth{net}\naddr add fd97:{net}::2/64 dev eth{net} nodad\nlink set eth{net} up\n"
        ));
    }
    far.ip(
        "route add default via 10.97.21.1 src 10.97.23.1\nroute add default via fd97:21::1 src fd97:23::1\n",
    );
    for family in ["ipv4", "ipv6"] {
        // By ports, so that each socket has its own.
        scene.ext.sysctl(&format!("{family}/fib_multipath_hash_policy"), "1");
    }
    scene.ext.sysctl("ipv4/ip_forward", "1");
    scene.ext.sysctl("ipv6/conf/all/forwarding", "1");
    scene.ext.sysctl("ipv6/icmp/ratelimit", "0");
    scene.ext.ip("route add 10.97.23.0/24 nexthop via 10.97.21.2 nexthop via 10.97.22.2\n\
         route add fd97:23::/64 nexthop via fd97:21::2 nexthop via fd97:22::2\n");
    scene.host.ip("route add 10.97.23.0/24 via 10.97.9.2\nroute add fd97:23::/64 via fd97:9::2\n");
    let families = [("10.97.23.1", "10.97.1.1", "10.97.1.2"), ("fd97:23::1", "fd97:1::1", "fd97:1::2")];
    let trace = scene.trace("mtu");
    if !trace.sees_messages() {
        return;
    }
    let ask = |to: &str| {
        let to = SocketAddr::new(to.parse().unwrap(), 9);
        web.inside(|| (0..30).for_each(|_| udp_unfragmented(to, 1, 1440)));
    };
    for (to, gateway, own) in families {
        ask(to);
        let by_turns = verdict(&trace, "by turns", |line| {
            line["finding"] == "flapping_mtu" && line["destination_ip"] == to && line["fits"] == 1307
        });
        let told = format!(
            "give the paths one MTU; until then set the MTU of shop/web-0's route to {to}, or of both ends of its interface, to at most 1307"
        );
        assert_eq!(fix(&by_turns), told, "{by_turns:#}");
        web.ip(&format!("route flush cache\nroute add {to} via {gateway} mtu 1307\n"));
        let is_told = |line: &serde_json::Value| line["event"] == "received" && line["destination_ip"] == to;
        let before = trace.lines(is_told).len();
        for port in 7520..7526 {
            assert!(
                sends(web, &far, SocketAddr::new(own.parse().unwrap(), port)),
                "{to}: cured by its route"
            );
        }
        assert_eq!(trace.lines(is_told).len(), before, "{to}: no hop says a word");
        web.ip(&format!("route del {to}\n"));
    }
    scene.ext.ip("link set side22 mtu 1407\n");
    far.ip("link set eth22 mtu 1407\n");
    let trace = scene.trace("mtu");
    for (to, _, own) in families {
        for family in ["-4", "-6"] {
            web.run("ip", &[family, "route", "flush", "cache"]);
        }
        ask(to);
        let is_one =
            |line: &serde_json::Value| line["finding"] == "small_hop" && line["destination_ip"] == to;
        let one = verdict(&trace, "one MTU", is_one);
        assert_eq!(one["fits"], 1407, "{one:#}");
        for port in 7530..7536 {
            assert!(sends(web, &far, SocketAddr::new(own.parse().unwrap(), port)), "{to}: cured by one MTU");
        }
    }
    assert!(trace.lines(|line| line["finding"] == "flapping_mtu").is_empty(), "{:#?}", trace.said());
}
