//! A hop that lies about what it takes, with quotes that the sender's kernel accepts.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use serde_json::{Value, json};

use crate::harness::packet::{icmp_message, ipv4, send_routed};

use super::chain::{Chain, FAR, Walk};

const NEAR: Ipv4Addr = Ipv4Addr::new(10, 64, 1, 1);
const LIAR: Ipv4Addr = Ipv4Addr::new(10, 64, 2, 2);

/// Answers every large packet of `NEAR`'s that comes to router 2 with this MTU, until `over`.
fn lie(mtu: u16, over: &AtomicBool) {
    let wire = socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::EthIp)
        .unwrap();
    setsockopt(&wire, sockopt::ReceiveTimeout, &TimeVal::new(0, 20_000)).unwrap();
    let mut packet = [0; 2048];
    while !over.load(Ordering::Relaxed) {
        match recv(wire.as_raw_fd(), &mut packet, MsgFlags::empty()) {
            Ok(length) if length > 1400 && packet[12..16] == NEAR.octets() => {
                let message = icmp_message(3, 4, u32::from(mtu), &packet[..28]);
                send_routed(NEAR.into(), &ipv4(LIAR, NEAR, 1, &message, true)).unwrap();
            }
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// A walk while router 2 takes 1400 bytes, keeps it secret, and says this instead.
fn walk_past(chain: &Chain, mtu: u16) -> Walk {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let liar = scope.spawn(|| chain.netns[2].inside(|| lie(mtu, &over)));
        let walk = chain.walk(FAR[0], &[]);
        over.store(true, Ordering::Relaxed);
        liar.join().unwrap();
        walk
    })
}

#[test]
fn numbers_that_no_link_has_are_named_and_not_followed() {
    let chain = Chain::lock();
    chain.rules(2, "forward", &["meta length > 1400 drop"]);
    // No MTU, less than a link may have, more than was sent.
    for mtu in [0, 67, 9000] {
        let walk = walk_past(&chain, mtu);
        walk.is(&[
            ("finding", json!("absurd_mtu")),
            ("says_mtu", json!(mtu)),
            ("fits", json!(1400)),
            ("hop", json!(2)),
            ("hop_ip", json!("10.64.2.2")),
        ]);
        let text = walk.verdict["message"].as_str().unwrap();
        assert!(
            text.contains(&format!("claims to take {mtu} bytes")) && text.contains("not believed"),
            "{text}"
        );
        assert!(!walk.hops.iter().any(|hop| hop["says_mtu"] != Value::Null), "{walk:#?}");
    }
}

#[test]
fn a_number_too_small_is_found_out() {
    let chain = Chain::lock();
    chain.rules(2, "forward", &["meta length > 1400 drop"]);
    let walk = walk_past(&chain, 600);
    walk.is(&[
        ("finding", json!("absurd_mtu")),
        ("says_mtu", json!(600)),
        ("fits", json!(1400)),
        ("hop", json!(2)),
    ]);
    assert!(walk.verdict["message"].as_str().unwrap().contains("more than that arrives"), "{walk:#?}");
}
