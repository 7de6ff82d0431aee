//! What is freed after all has gone well: copies, pieces, originals.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use super::{EXT4, LAST, Scene, ipsec};

/// Datagrams that come in fragments are freed in pieces, after the whole has been read.
#[test]
fn fragments_that_became_whole() {
    let scene = Scene::new();
    let trace = scene.trace("drops");
    scene.web.netns.run("ping", &["-c", "3", "-i", "0.2", "-s", "4000", "10.97.9.2"]);
    let reader = scene.ext.inside(|| UdpSocket::bind("10.97.9.2:7700").unwrap());
    reader.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    scene.web.netns.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for _ in 0..10 {
            socket.send_to(&[7; 4000], "10.97.9.2:7700").unwrap();
            assert_eq!(reader.recv(&mut [0; 5000]).unwrap(), 4000);
        }
    });
    settle(&scene, &trace);
    assert_eq!(trace.harmful(), Vec::<String>::new());
}

/// The original is freed once it is cut into the segments that are encrypted.
#[test]
fn what_is_segmented_to_be_encrypted() {
    let Some(scene) = ipsec::encrypted() else { return };
    // The first learns how many bytes fit.
    transfer(&scene);
    let trace = scene.trace("drops");
    transfer(&scene);
    settle(&scene, &trace);
    assert_eq!(trace.harmful(), Vec::<String>::new());
}

/// 300,000 bytes from `web` to `ext`, through the tunnel.
fn transfer(scene: &Scene) {
    let listener = scene.ext.inside(|| TcpListener::bind("10.97.5.2:7703").unwrap());
    let server = thread::spawn(move || {
        let mut bytes = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut bytes).unwrap();
        bytes.len()
    });
    let mut client = scene.web.netns.inside(|| TcpStream::connect("10.97.5.2:7703").unwrap());
    client.write_all(&vec![7; 300_000]).unwrap();
    drop(client);
    assert_eq!(server.join().unwrap(), 300_000);
}

/// Nothing is lost when a tunnel's device is made.
#[test]
fn a_device_that_is_made() {
    let scene = Scene::new();
    let trace = scene.trace("drops");
    for number in 0..3 {
        let vxlan = format!("vx{number} type vxlan id {number} dstport 4790 dev uplink");
        if !scene.host.tries("ip", &format!("link add {vxlan}\nlink del vx{number}\n")) {
            return;
        }
    }
    settle(&scene, &trace);
    assert_eq!(trace.harmful(), Vec::<String>::new());
}

/// Waits until all that happened so far is told: one more drop is made, and awaited.
pub(super) fn settle(scene: &Scene, trace: &super::Trace) {
    assert!(scene.is_answered(EXT4));
    scene
        .ext
        .inside(|| UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"last", ("127.0.0.1", LAST)).unwrap());
    let is_last = |line: &serde_json::Value| line["destination_port"] == LAST;
    trace.expect("the last drop", is_last);
}
