//! The memory that a protocol may use on the whole machine.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

use crate::harness::netns::Netns;
use crate::harness::packet::{set, udp};
use crate::harness::{has_reasons, until};

use super::size::is_all_acknowledged;
use super::tables::Setting;
use super::{Scene, fix, is_guest};

const UDP_MEM: &str = "/proc/sys/net/ipv4/udp_mem";
const TCP_MEM: &str = "/proc/sys/net/ipv4/tcp_mem";

/// Next to none: what each processor keeps in reserve (1 MB) comes on top.
const NONE: &str = "1 1 1";

const ENOUGH: &str = "100000 200000 400000";

/// Runs the commands of a fix that show the memory of a protocol; pages that it uses.
fn used(fix: &str, protocol: &str) -> u32 {
    let command = fix.split('`').find(|text| text.starts_with("cat /proc/net/sockstat")).unwrap();
    let shown = Netns::host().run("sh", &["-c", command]);
    let line = shown.lines().find(|line| line.starts_with(&format!("{protocol}:"))).unwrap();
    line.rsplit_once(" mem ").unwrap().1.trim().parse().unwrap()
}

#[test]
fn memory_of_udp_that_is_used_up() {
    // It is the machine's.
    if !is_guest() {
        return;
    }
    let scene = Scene::new();
    let to: SocketAddr = "10.97.1.2:7761".parse().unwrap();
    let socket = scene.web.netns.inside(|| UdpSocket::bind(to).unwrap());
    setsockopt(&socket, sockopt::RcvBufForce, &(1 << 26)).unwrap();
    let trace = scene.trace("drops");
    let memory = Setting::new(UDP_MEM, NONE);
    let event = until("memory of UDP is used up", || {
        scene.ext.inside(|| udp(to, 500, 1400));
        trace.lines(|line| line["destination_port"] == 7761).pop()
    });
    let (text, fix) = (event["message"].as_str().unwrap(), fix(&event));
    let (class, says) = if has_reasons() {
        ("memory", "all memory of its protocol was used")
    } else {
        ("queue", "all memory of UDP was used")
    };
    assert_eq!([&event["class"], &event["harm"]], [class, "harmful"], "{event:#}");
    assert!(text.contains(says), "{text}");
    assert!(used(&fix, "UDP") >= 1, "{fix}");
    // Nobody has read a byte meanwhile.
    scene.ext.inside(|| udp(to, 50, 701));
    memory.set(ENOUGH);
    scene.ext.inside(|| udp(to, 50, 702));
    socket.set_nonblocking(true).unwrap();
    let came: Vec<usize> = std::iter::from_fn(|| socket.recv(&mut [0; 2048]).ok()).collect();
    let [before, after] = [701, 702].map(|size| came.iter().filter(|came| **came == size).count());
    assert!(before < 50 && after == 50, "cured: {before}, then {after}");
}

#[test]
fn memory_of_tcp_that_is_used_up() {
    const BYTES: usize = 3_000_000;
    // Kernels without reasons free what TCP has no memory for like what is used.
    if !is_guest() || !has_reasons() {
        return;
    }
    let scene = Scene::new();
    let listener = scene.ext.inside(|| TcpListener::bind("10.97.9.2:7762").unwrap());
    let mut client = scene.web.netns.inside(|| TcpStream::connect("10.97.9.2:7762").unwrap());
    let (mut server, _) = listener.accept().unwrap();
    // All that it is to send at once.
    set(&client, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 1 << 24);
    let trace = scene.trace("drops");
    // It waits at its sender until all memory is used.
    scene.host.batch(
        "nft",
        "add table ip wait\nadd chain ip wait it { type filter hook forward priority 0; }\n\
         add rule ip wait it tcp dport 7762 ip length gt 100 drop\n",
    );
    client.write_all(&vec![7; BYTES]).unwrap();
    let memory = Setting::new(TCP_MEM, NONE);
    scene.host.batch("nft", "delete table ip wait\n");
    let event = trace.expect("drop for want of memory", |line| {
        line["destination_port"] == 7762 && line["direction"] == "received"
    });
    let (text, fix) = (event["message"].as_str().unwrap(), fix(&event));
    // Some close the window by then.
    let (class, says) = match event["reason"].as_str() {
        Some("TCP_ZEROWINDOW") => ("tcp_state", "all memory of TCP was used"),
        _ => ("memory", "all memory of its protocol was used"),
    };
    assert_eq!([&event["class"], &event["harm"]], [class, "harmful"], "{event:#}");
    assert!(text.contains(says), "{text}");
    assert!(used(&fix, "TCP") >= 1, "{fix}");
    memory.set(ENOUGH);
    let reader = thread::spawn(move || server.read_exact(&mut vec![0; BYTES]).is_ok());
    until("cured", || is_all_acknowledged(&client).then_some(()));
    assert!(reader.join().unwrap());
}
