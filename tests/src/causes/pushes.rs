//! Uploads whose full-size segments vanish beyond this node: nothing smaller is under way that could tell.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use super::size::{is_all_acknowledged, verdict};
use super::{Scene, Trace, is_guest};
use crate::harness::packet::{ends_at_once, timeouts, udp_refused};
use crate::harness::{DEADLINE, until};

impl Scene {
    /// Waits until the agent has looked at all that has happened: of what is refused now it tells behind that, if it sees that.
    fn caught_up(&self, trace: &Trace) {
        if !trace.listens_at("ip_local_error") {
            assert!(!is_guest(), "a guest's kernel lets it listen there");
            return;
        }
        self.web.netns.inside(|| udp_refused("10.97.1.10:9".parse().unwrap(), 1700));
        trace.expect("a datagram too large for the device", |line| {
            line["event"] == "refused" && line["destination_ip"] == "10.97.1.10"
        });
    }

    /// Lets `ext` take nothing that is longer than 1372 bytes, and say nothing.
    fn swallow(&self, family: &str) {
        self.ext.batch(
            "nft",
            &format!(
                "add table {family} hole\nadd chain {family} hole it {{ type filter hook prerouting priority -450; }}\n\
                 add rule {family} hole it meta length gt 1372 drop\n"
            ),
        );
    }
}

/// As HTTP puts it: the head arrives and is acknowledged, and of the body, which begins behind it, nothing. What arrived before
/// proves nothing; that it hangs is told in time, and how to find out why.
#[test]
fn a_body_that_vanishes_behind_its_head() {
    let scene = Scene::new();
    let store = scene.ext.inside(|| TcpListener::bind("[::]:5001").unwrap());
    for (to, family) in [("10.97.9.2:5001", "ip"), ("[fd97:9::2]:5001", "ip6")] {
        scene.swallow(family);
        let trace = scene.trace("mtu");
        let mut client = scene.web.netns.inside(|| TcpStream::connect(to).unwrap());
        ends_at_once(&client);
        let mut server = store.accept().unwrap().0;
        client.write_all(&[1; 200]).unwrap();
        server.set_read_timeout(Some(DEADLINE)).unwrap();
        server.read_exact(&mut [0; 200]).unwrap();
        until("the head is acknowledged", || is_all_acknowledged(&client).then_some(()));
        client.set_nonblocking(true).unwrap();
        let begun = Instant::now();
        let length = client.write(&vec![7; 200_000]).unwrap();
        let port = json!(client.local_addr().unwrap().port());
        let row = trace.expect("a row", |line| {
            line["event"] == "stalled" && line["finding"].is_null() && line["source_port"] == port
        });
        assert_eq!([&row["fate"], &row["level"]], ["suspect", "WARN"], "{row:#}");
        let suspect =
            verdict(&trace, "a suspect", |line| line["finding"] == "suspect" && line["source_port"] == port);
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(5) || !is_guest(), "{took:?}");
        assert_eq!(suspect["trace_id"], row["trace_id"], "{suspect:#}");
        let walk = format!("`r2c-agent trace mtu --to {to} --from-pod shop/web-0` tells which");
        assert!(suspect["fix"].as_str().unwrap().contains(&walk), "{suspect:#}");
        // It was the hop.
        scene.ext.batch("nft", &format!("delete table {family} hole\n"));
        server.read_exact(&mut vec![0; length]).unwrap();
    }
}

/// A registry behind a hop that swallows large packets. The first upload is a suspect; a request in between is answered, and the
/// first is sent again, which proves nothing; the second upload is stuck as the first still is, and that is proof at once.
#[test]
fn a_second_upload_proves_what_the_first_lets_suspect() {
    let scene = Scene::new();
    let registry = scene.ext.inside(|| TcpListener::bind("[::]:5000").unwrap());
    for (to, family) in [("10.97.9.2:5000", "ip"), ("[fd97:9::2]:5000", "ip6")] {
        scene.swallow(family);
        let trace = scene.trace("mtu");
        let connect = || {
            let client = scene.web.netns.inside(|| TcpStream::connect(to).unwrap());
            ends_at_once(&client);
            (client, registry.accept().unwrap().0)
        };
        let push = |greeting: &[u8]| {
            let (mut client, mut server) = connect();
            server.set_read_timeout(Some(DEADLINE)).unwrap();
            client.write_all(greeting).unwrap();
            server.read_exact(&mut vec![0; greeting.len()]).unwrap();
            client.set_nonblocking(true).unwrap();
            let _ = client.write(&vec![7; 200_000]);
            (client, server)
        };
        let judged = |finding: &'static str| {
            let begun = Instant::now();
            let found = verdict(&trace, finding, |line| {
                line["finding"] == finding && line["destination_port"] == 5000
            });
            (found, begun.elapsed())
        };
        let first = push(&[]);
        let (suspect, took) = judged("suspect");
        assert!(took < Duration::from_secs(5) || !is_guest(), "{took:?}");
        assert!(
            suspect["fix"].as_str().unwrap().contains("--from-pod shop/web-0` tells which"),
            "{suspect:#}"
        );
        let (mut client, mut server) = connect();
        client.write_all(&[1; 100]).unwrap();
        server.set_read_timeout(Some(DEADLINE)).unwrap();
        server.read_exact(&mut [0; 100]).unwrap();
        // What the agent makes of the next timeout it has made before what is refused now; what is proven it says at once.
        let so_far = timeouts(&first.0).0;
        until("the first is sent again", || (timeouts(&first.0).0 > so_far).then_some(()));
        scene.caught_up(&trace);
        let told = trace.lines(|line| line["event"] == "stalled" && line["finding"] != "suspect");
        assert_eq!(told.len(), 1, "that peer may be one of several with this address: {told:#?}");
        // Its handshake alone may be a balancer's, or a firewall's that lets no data pass: the proof is not about this one.
        let mute = push(&[]);
        let port = |(client, _): &(TcpStream, TcpStream)| client.local_addr().unwrap().port();
        until("the mute is stuck as well", || (timeouts(&mute.0).0 >= 3).then_some(()));
        let second = push(&[1; 100]);
        let (proven, took) = judged("black_hole");
        // Where the first proves nothing by being stuck, it is the next copies of the first itself that do, seconds later.
        assert_eq!(
            [&proven["source_port"], &proven["timeouts"]],
            [&json!(port(&second)), &json!(3)],
            "the second, as soon as it is told of: {proven:#}"
        );
        assert!(took < Duration::from_secs(5) || !is_guest(), "{took:?}");
        assert_eq!(proven["confidence"], "medium", "{proven:#}");
        assert_eq!(proven["trace_id"], suspect["trace_id"], "{proven:#}");
        drop((first, mute, second));
    }
}
