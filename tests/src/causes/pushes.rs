//! Uploads whose full-size segments vanish beyond this node: nothing smaller is under way that could tell.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::size::verdict;
use super::{Scene, is_guest};
use crate::harness::DEADLINE;
use crate::harness::packet::ends_at_once;

/// A registry behind a hop that swallows large packets. The first upload is a suspect; a request in between is answered; the second
/// upload is stuck as the first still is, and that is proof, long before either is sent again.
#[test]
fn a_second_upload_proves_what_the_first_lets_suspect() {
    let scene = Scene::new();
    let registry = scene.ext.inside(|| TcpListener::bind("[::]:5000").unwrap());
    for (to, family) in [("10.97.9.2:5000", "ip"), ("[fd97:9::2]:5000", "ip6")] {
        scene.ext.batch(
            "nft",
            &format!(
                "add table {family} hole\nadd chain {family} hole it {{ type filter hook prerouting priority -450; }}\n\
                 add rule {family} hole it meta length gt 1372 drop\n"
            ),
        );
        let trace = scene.trace("mtu");
        let connect = || {
            let client = scene.web.netns.inside(|| TcpStream::connect(to).unwrap());
            ends_at_once(&client);
            (client, registry.accept().unwrap().0)
        };
        let push = || {
            let (mut client, server) = connect();
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
        let first = push();
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
        let is_proven = |line: &serde_json::Value| line["finding"] == "black_hole";
        assert!(trace.lines(is_proven).is_empty(), "that peer may be one of several with this address");
        let second = push();
        let (proven, took) = judged("black_hole");
        assert!(took < Duration::from_secs(5) || !is_guest(), "{took:?}");
        assert_eq!(proven["confidence"], "medium", "{proven:#}");
        assert_eq!(proven["trace_id"], suspect["trace_id"], "{proven:#}");
        drop((first, second));
    }
}
