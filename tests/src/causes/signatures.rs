//! TCP's signatures, as BGP uses them: both ends have the same key, or none.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd as _};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrLike as _, SockaddrStorage, connect, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::harness::has_reasons;

use super::{Scene, fix, is_guest};

/// `struct tcp_md5sig` of `linux/tcp.h`.
#[repr(C)]
struct Signature {
    peer: libc::sockaddr_storage,
    flags: u8,
    prefix: u8,
    length: u16,
    device: i32,
    key: [u8; 80],
}

/// Has a socket sign what it sends to a peer, and ask for the same; whether this kernel can.
fn sign(socket: &impl AsFd, peer: &str, key: &str) -> bool {
    let peer: SocketAddr = format!("{peer}:0").parse().unwrap();
    let peer = SockaddrStorage::from(peer);
    // SAFETY: integers only, for which zero is valid.
    let mut signature: Signature = unsafe { std::mem::zeroed() };
    // SAFETY: the address is a whole one of its length, which a `sockaddr_storage` has room for.
    unsafe {
        std::ptr::copy_nonoverlapping(
            peer.as_ptr().cast::<u8>(),
            (&raw mut signature.peer).cast(),
            usize::try_from(peer.len()).unwrap(),
        );
    }
    signature.length = u16::try_from(key.len()).unwrap();
    signature.key[..key.len()].copy_from_slice(key.as_bytes());
    let size = libc::socklen_t::try_from(size_of::<Signature>()).unwrap();
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the pointer is to a `tcp_md5sig` of that size, which outlives the call.
    let status = unsafe {
        libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_MD5SIG, (&raw const signature).cast(), size)
    };
    status == 0
}

/// A server of `web` with this key for `ext`.
fn listen(scene: &Scene, port: u16, key: Option<&str>) -> Option<TcpListener> {
    let listener = scene.web.netns.inside(|| TcpListener::bind(("10.97.1.2", port)).unwrap());
    key.is_none_or(|key| sign(&listener, "10.97.9.2", key)).then_some(listener)
}

/// Whether `ext` gets a connection there with this key.
fn connects(scene: &Scene, port: u16, key: Option<&str>) -> bool {
    let to: SocketAddr = ([10, 97, 1, 2], port).into();
    scene.ext.inside(|| {
        let client = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        setsockopt(&client, sockopt::SendTimeout, &TimeVal::seconds(1)).unwrap();
        assert!(key.is_none_or(|key| sign(&client, "10.97.1.2", key)));
        connect(client.as_raw_fd(), &SockaddrStorage::from(to)).is_ok()
    })
}

#[test]
fn keys_of_tcp_that_are_not_the_same() {
    const USES: &str = "TCP signature (MD5 or AO, as BGP uses them)";
    let scene = Scene::new();
    if listen(&scene, 1790, Some("same")).is_none() {
        assert!(!is_guest(), "a guest's kernel has signatures");
        return;
    }
    let trace = scene.trace("drops");
    for (port, client, server, counter, says) in [
        (1791, None, Some("one"), "TCPMD5NotFound", format!("it has no {USES}, and the receiver has a key")),
        (
            1792,
            Some("one"),
            None,
            "TCPMD5Unexpected",
            format!("it has a {USES}, and the receiver has no key"),
        ),
        (1793, Some("one"), Some("two"), "TCPMD5Failure", format!("its {USES} is wrong")),
    ] {
        let listener = listen(&scene, port, server).unwrap();
        assert!(!connects(&scene, port, client), "{counter}");
        let lost = trace.expect(counter, |line| line["destination_port"] == port);
        let text = lost["message"].as_str().unwrap();
        let command = if has_reasons() {
            assert_eq!([&lost["class"], &lost["harm"]], ["tcp_state", "harmful"], "{lost:#}");
            assert!(text.contains(&says), "{says}? {text}");
            assert!(fix(&lost).starts_with("give both ends the same key (of BGP: its password), or none; "));
            fix(&lost).split('`').nth(1).unwrap().to_owned()
        } else {
            // All that TCP refuses before it looks at the connection ends in one place.
            assert!(
                text.contains("or refuses it (of TCP: a signature, as BGP uses them, that is missing, wrong or not expected)"),
                "{text}"
            );
            let fix = fix(&lost);
            fix.split('`').find(|text| text.starts_with("nstat")).unwrap().to_owned()
        };
        let shown = scene.web.netns.run("sh", &["-c", &command]);
        let counted = shown.lines().find(|line| line.starts_with(&format!("TcpExt{counter} "))).unwrap();
        assert_ne!(counted.split_whitespace().nth(1), Some("0"), "{shown}");
        drop(listener);
        for (port, key) in [(port + 10, client.or(server)), (port + 20, None)] {
            let _listener = listen(&scene, port, key).unwrap();
            assert!(connects(&scene, port, key), "cured by {key:?} at both ends");
        }
    }
}
