//! Copies of messages that die, while the message itself arrives or is none of this host's: nothing is lost.

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use crate::harness::lab::{Lab, WEB};
use crate::harness::packet::{icmp_message, ipv4, refuse_all, send_all_routed, send_on_wire};
use crate::harness::{has_reasons, until};

use super::forged::{FAR4, WEB4, quoted};
use super::{Watch, sees_messages};

/// Messages a test.
const COUNT: u64 = 20;

fn message(last: u8) -> Vec<u8> {
    ipv4(FAR4, WEB4, 1, &icmp_message(3, 4, 1300, &quoted(last, 17)), true)
}

/// A bridge that does not know where a host is floods its frames to all ports; at all but one they are another's.
#[test]
fn a_frame_for_another_host() {
    let lab = Lab::lock();
    if !sees_messages(&lab) {
        return;
    }
    let watch = Watch::new(&lab);
    let message = message(181);
    lab.web.netns.inside(|| {
        for _ in 0..COUNT {
            send_on_wire("eth0", [2, 0, 0, 0, 0x99, 0x99], &message);
        }
    });
    lab.barrier();
    if has_reasons() {
        let dropped = watch.counted("r2c_drop_packets_total", &[("reason", "OTHERHOST")]);
        assert!(dropped >= COUNT, "{dropped} were dropped");
    }
    assert_eq!(watch.counted("r2c_mtu_events_total", &[("event", "lost")]), 0, "{:#?}", watch.messages());
}

/// A raw socket that listens to ICMP has a copy of each message; what its filter refuses has reached TCP and UDP all the same.
/// Without reasons such a copy is not told apart.
#[test]
fn a_raw_socket_that_refuses_them() {
    let lab = Lab::lock();
    if !sees_messages(&lab) || !has_reasons() {
        return;
    }
    let watch = Watch::new(&lab);
    let deaf = lab.web.netns.inside(|| {
        let deaf = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp);
        let deaf = deaf.unwrap();
        refuse_all(&deaf);
        deaf
    });
    let messages = (0..COUNT).map(|_| message(182));
    lab.far.netns.inside(|| send_all_routed(WEB4.into(), messages).unwrap());
    until("all are received", || (watch.of_pod(WEB, "received") == COUNT).then_some(()));
    drop(deaf);
    let refused = watch.counted("r2c_drop_packets_total", &[("reason", "SOCKET_FILTER")]);
    assert!(refused >= COUNT, "{refused} copies were refused");
    assert_eq!(watch.counted("r2c_mtu_events_total", &[("event", "lost")]), 0, "{:#?}", watch.messages());
}
