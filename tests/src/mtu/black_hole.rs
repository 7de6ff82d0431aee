//! Full-size segments that vanish while small ones arrive, and all that looks like it.

use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::lab::{Lab, WEB};
use crate::harness::netns::{Meanwhile, Netns};
use crate::harness::packet::{ends_at_once, timeouts};
use crate::harness::{DEADLINE, until};

use super::underlay::{TIP, Underlay};
use super::{Watch, forget, pod, v4, v6};

/// The hop drops what is longer than this, and says nothing.
pub(super) const PASSES: u32 = 1372;

/// The way to the tip, with nothing on it that takes less than the rest, and nothing known of it from before.
pub(super) fn way(lab: &Lab) -> Underlay<'_> {
    let underlay = Underlay::routed(lab);
    underlay.hop.ip("link set hb mtu 1500\n");
    forget(lab);
    underlay
}

/// Lets the hop swallow what is too long for it.
pub(super) fn swallow(hop: &Netns) -> Meanwhile {
    hop.meanwhile(
        "nft",
        &format!(
            "add table inet hole\nadd chain inet hole it {{ type filter hook forward priority 0; }}\n\
             add rule inet hole it meta length gt {PASSES} drop\n"
        ),
        "delete table inet hole\n",
    )
}

/// A server that reads what comes; and connections to it from `web`.
pub(super) struct Server {
    listener: TcpListener,
    pub(super) kept: Vec<TcpStream>,
}

impl Server {
    pub(super) fn start(netns: &Netns, port: u16) -> Self {
        let listener = netns.inside(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap());
        Self { listener, kept: Vec::new() }
    }

    /// A connection that is made and has exchanged a few bytes.
    pub(super) fn connect(&mut self, lab: &Lab, to: SocketAddr) -> TcpStream {
        let mut client = lab.web.netns.inside(|| TcpStream::connect(to).unwrap());
        client.set_nodelay(true).unwrap();
        ends_at_once(&client);
        let (mut server, _) = self.listener.accept().unwrap();
        client.write_all(b"hello").unwrap();
        let mut hello = [0; 5];
        server.read_exact(&mut hello).unwrap();
        server.write_all(&hello).unwrap();
        client.read_exact(&mut hello).unwrap();
        self.kept.push(server);
        client
    }

    /// A connection that sends no more than this, and ends as programs end theirs.
    fn asked(&self, lab: &Lab, to: SocketAddr, request: &[u8]) {
        let mut client = lab.web.netns.inside(|| TcpStream::connect(to).unwrap());
        let (mut server, _) = self.listener.accept().unwrap();
        client.write_all(request).unwrap();
        server.read_exact(&mut vec![0; request.len()]).unwrap();
    }
}

/// The verdict on connections of `web` to `to`.
fn verdict(watch: &Watch<'_>, to: SocketAddr) -> Value {
    let verdict = watch.verdict(&[
        ("finding", json!("black_hole")),
        ("destination_ip", json!(to.ip().to_canonical().to_string())),
        ("destination_port", json!(to.port())),
    ]);
    let ends = (pod(&verdict, "source_pod"), pod(&verdict, "destination_pod"));
    assert_eq!((ends.0.as_deref(), ends.1.as_deref()), (Some(WEB), Some(TIP)), "{verdict:#}");
    assert_eq!([&verdict["level"], &verdict["pod_name"]], [&json!("WARN"), &json!("web-0")]);
    assert_eq!([&verdict["path_mtu"], &verdict["fits"]], [&json!(1500), &json!(null)], "{verdict:#}");
    assert!(verdict["fix"].as_str().unwrap().contains(&format!("--from-pod {WEB}")), "{verdict:#}");
    verdict
}

#[test]
fn small_segments_arrive_and_full_ones_do_not() {
    let lab = Lab::lock();
    let underlay = way(&lab);
    let _swallows = swallow(&underlay.hop);
    let mapped = SocketAddr::from(([0, 0, 0, 0, 0, 0xffff, 0x0a63, 0x0803], 7912));
    for to in [v4([10, 99, 8, 2], 7910), v6(8, 7911), mapped] {
        let mut server = Server::start(underlay.tip(), to.port());
        let mut client = server.connect(&lab, to);
        // The fix of one is not the next one's.
        let _as_before = lab.web.netns.sysctl_meanwhile("ipv4/tcp_mtu_probing", "0");
        let watch = Watch::new(&lab);
        let begun = Instant::now();
        // Two full segments and a rest that fits.
        client.write_all(&[0; 3000]).unwrap();
        let verdict = verdict(&watch, to);
        assert_eq!(verdict["confidence"], "high", "{verdict:#}");
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
        let text = verdict["message"].as_str().unwrap();
        let rest = verdict["longest_received"].as_u64().unwrap();
        assert!((1..1000).contains(&rest) && text.contains(&format!("up to {rest} bytes) arrive")), "{text}");
        assert_eq!(verdict["length"], verdict["mss"], "a full segment");
        let labels = [("event", "stalled"), ("fate", "black_hole")];
        assert!(watch.of(&[("namespace", "shop"), ("pod", "web-0"), ("end", "source")], &labels) >= 1);
        // Until the hop is mended, by the one or the other.
        let (_, until) =
            verdict["fix"].as_str().unwrap().split_once("names the hop; until it is mended ").unwrap();
        let (route, probing) = until.split_once(", or `").unwrap();
        let address = to.ip().to_canonical();
        let told = format!(
            "set the MTU of {WEB}'s route to {address}, or of both ends of its interface, to what passes there (1280 "
        );
        assert!(route.starts_with(&told), "{route}");
        if address.is_ipv4() {
            lab.web.netns.ip(&format!("route add {address} via 10.99.1.1 mtu 1280\n"));
        } else {
            lab.web.netns.shell(probing.strip_suffix("` in its network namespace").unwrap());
        }
        server.kept[0].set_read_timeout(Some(DEADLINE)).unwrap();
        assert!(server.kept[0].read_exact(&mut [0; 3000]).is_ok(), "{to}: what was stuck arrives");
        if address.is_ipv4() {
            lab.web.netns.ip(&format!("route del {address}\n"));
        }
    }
}

/// Waits until what the tests before have sent again is forgotten: where much else is lost it takes more timeouts.
fn settle(lab: &Lab, server: &mut Server, to: SocketAddr) {
    until("what the tests before have sent again is forgotten", || {
        let watch = Watch::new(lab);
        let mut client = server.connect(lab, to);
        client.write_all(&[0; 1700]).unwrap();
        let line = watch.first(&[("event", json!("stalled")), ("destination_port", json!(to.port()))]);
        line["sent_again_elsewhere"].as_u64().is_some_and(|sent| sent <= 4).then_some(())
    });
}

/// What a TLS client says first, with its keys: a full segment and a rest. Where little else is lost it is said in time, and
/// then again when the timeouts have proven it, whether full ones did pass on this connection before or not.
#[test]
fn a_single_full_segment_and_a_small_one() {
    let lab = Lab::lock();
    let underlay = way(&lab);
    let v6 = SocketAddr::from(([0xfd99, 8, 0, 0, 0, 0, 0, 8], 7918));
    let mut made = [v6, v4([10, 99, 8, 9], 7919)].map(|to| {
        let mut server = Server::start(underlay.tip(), to.port());
        let client = server.connect(&lab, to);
        (to, server, client)
    });
    // The path of one was wide, and is no more.
    let (_, server, client) = &mut made[1];
    client.write_all(&[0; 10_000]).unwrap();
    server.kept[0].read_exact(&mut [0; 10_000]).unwrap();
    let _swallows = swallow(&underlay.hop);
    let to = v4([10, 99, 8, 8], 7917);
    let mut server = Server::start(underlay.tip(), to.port());
    settle(&lab, &mut server, to);
    for (to, _, client) in &mut made {
        let watch = Watch::new(&lab);
        let begun = Instant::now();
        client.write_all(&[0; 1700]).unwrap();
        let line = watch.first(&[("event", json!("stalled")), ("destination_port", json!(to.port()))]);
        assert_eq!(line["timeouts"], 3, "{line:#}");
        let early = verdict(&watch, *to);
        let took = begun.elapsed();
        eprintln!("a verdict after {took:?}");
        assert_eq!(early["confidence"], "medium", "{early:#}");
        assert!(took < Duration::from_secs(5), "{took:?}");
        let rest = early["longest_received"].as_u64().unwrap();
        let text = early["message"].as_str().unwrap();
        assert!((1..1000).contains(&rest) && text.contains(&format!("up to {rest} bytes) arrive")), "{text}");
        let proven = watch.verdict(&[
            ("finding", json!("black_hole")),
            ("destination_port", json!(to.port())),
            ("confidence", json!("high")),
        ]);
        assert_eq!(proven["trace_id"], early["trace_id"], "{proven:#}");
    }
}

/// Nothing small is under way when it begins: the next connection tells.
#[test]
fn a_second_connection_proves_that_the_peer_lives() {
    let lab = Lab::lock();
    let underlay = way(&lab);
    let _swallows = swallow(&underlay.hop);
    let to = v4([10, 99, 8, 4], 7913);
    let mut server = Server::start(underlay.tip(), to.port());
    let watch = Watch::new(&lab);
    let mut first = server.connect(&lab, to);
    first.set_nonblocking(true).unwrap();
    let _ = first.write(&vec![0; 200_000]);
    let line = watch.first(&[
        ("event", json!("stalled")),
        ("fate", json!("suspect")),
        ("destination_port", json!(7913)),
    ]);
    assert_eq!(line["timeouts"], 3, "no later than that, and no sooner: {line:#}");
    assert!(watch.lines().iter().all(|line| line["finding"] != "black_hole"), "{:#?}", watch.messages());
    let mut second = server.connect(&lab, to);
    second.set_nonblocking(true).unwrap();
    let _ = second.write(&vec![0; 200_000]);
    let verdict = verdict(&watch, to);
    assert_eq!(verdict["confidence"], "medium", "{verdict:#}");
    assert!(
        verdict["message"].as_str().unwrap().contains("while the peer answers smaller ones"),
        "{verdict:#}"
    );
}

/// What is stuck alone is suspected; a small request to the same place that is answered, and the next copy that vanishes, tell.
#[test]
fn a_request_that_is_answered_proves_that_the_peer_lives() {
    let lab = Lab::lock();
    let underlay = way(&lab);
    let _swallows = swallow(&underlay.hop);
    let v6 = SocketAddr::from(([0xfd99, 8, 0, 0, 0, 0, 0, 0x11], 7931));
    let first = v4([10, 99, 8, 10], 7929);
    settle(&lab, &mut Server::start(underlay.tip(), first.port()), first);
    for to in [v4([10, 99, 8, 11], 7930), v6] {
        let mut server = Server::start(underlay.tip(), to.port());
        let elsewhere = SocketAddr::new(to.ip(), to.port() + 10);
        let other = Server::start(underlay.tip(), elsewhere.port());
        let watch = Watch::new(&lab);
        let mut stuck = server.connect(&lab, to);
        stuck.set_nonblocking(true).unwrap();
        let _ = stuck.write(&vec![0; 200_000]);
        watch.first(&[
            ("event", json!("stalled")),
            ("fate", json!("suspect")),
            ("destination_port", json!(to.port())),
        ]);
        if to.is_ipv4() {
            // Another program there says nothing of this one, nor does a handshake.
            other.asked(&lab, elsewhere, b"hello");
            server.asked(&lab, to, b"");
            until("it is sent again in vain", || (timeouts(&stuck).0 >= 5).then_some(()));
        }
        let begun = Instant::now();
        server.asked(&lab, to, b"hello");
        let verdict = verdict(&watch, to);
        let took = begun.elapsed();
        eprintln!("a verdict {took:?} after the request");
        // Of the two before it would have come with the sixth timeout, and of this with the fifth, or the seventh.
        assert!(took > Duration::from_secs(if to.is_ipv4() { 10 } else { 1 }), "{took:?}");
        assert_eq!(verdict["confidence"], "medium", "{verdict:#}");
        assert!(
            verdict["message"].as_str().unwrap().contains("while the peer answers smaller ones"),
            "{verdict:#}"
        );
    }
}

/// The kernel finds a size that passes by itself; it is said that it looks.
#[test]
fn a_kernel_that_looks_for_a_smaller_size() {
    let lab = Lab::lock();
    let underlay = way(&lab);
    let _swallows = swallow(&underlay.hop);
    let to = v4([10, 99, 8, 5], 7914);
    let mut server = Server::start(underlay.tip(), to.port());
    // It looks after as many timeouts as prove it where nothing else is lost, and then the segment arrives.
    let other = v4([10, 99, 8, 10], 7929);
    settle(&lab, &mut Server::start(underlay.tip(), other.port()), other);
    let probing = lab.web.netns.sysctl_meanwhile("ipv4/tcp_mtu_probing", "1");
    let mut client = server.connect(&lab, to);
    let watch = Watch::new(&lab);
    client.write_all(&[0; 3000]).unwrap();
    let mut all = [0; 3000];
    server.kept[0].read_exact(&mut all).unwrap();
    drop(probing);
    let tries = watch.verdict(&[
        ("finding", json!("black_hole")),
        ("destination_port", json!(7914)),
        ("mtu_probing", json!(true)),
    ]);
    let text = tries["message"].as_str().unwrap();
    let mss = tries["mss"].as_u64().unwrap();
    assert!(mss < 1448 && text.contains(&format!("(tcp_mtu_probing), now {mss} bytes")), "{text}");
}

/// A peer that is gone, however much it had taken before.
#[test]
fn a_dead_peer_is_no_black_hole() {
    let lab = Lab::lock();
    let underlay = way(&lab);
    let watch = Watch::new(&lab);
    let mut kept = Vec::new();
    for (port, last, before) in [(7915, 6, 0), (7916, 7, 1 << 20)] {
        let to = v4([10, 99, 8, last], port);
        let mut server = Server::start(underlay.tip(), port);
        let mut client = server.connect(&lab, to);
        let reader = server.kept.pop().unwrap();
        let taken =
            std::thread::spawn(move || (&reader).take(before).read_to_end(&mut Vec::new()).map(|_| reader));
        client.write_all(&vec![0; usize::try_from(before).unwrap()]).unwrap();
        let reader = taken.join().unwrap().unwrap();
        underlay.hop.ip("link set hb down\n");
        client.set_nonblocking(true).unwrap();
        let _ = client.write(&[0; 3000]);
        let stalled = [("event", json!("stalled")), ("destination_port", json!(port))];
        let line = watch.first(&stalled);
        let level = if line["fate"] == "suspect" { "WARN" } else { "INFO" };
        assert_eq!(line["level"], level, "{line:#}");
        until("it has been tried in vain for long", || {
            let lines = watch.lines();
            let mut ours = lines.iter().filter(|line| line["destination_port"] == port);
            ours.any(|line| line["timeouts"].as_u64() >= Some(3)).then_some(())
        });
        // Back again, the peer talks before it is sent what it has missed.
        underlay.hop.ip("link set hb up\n");
        kept.push((client, reader));
    }
    for (_, mut server) in kept {
        server.write_all(b"back").unwrap();
        server.read_exact(&mut [0; 3000]).unwrap();
    }
    assert!(watch.lines().iter().all(|line| line["finding"] != "black_hole"), "{:#?}", watch.lines());
}
