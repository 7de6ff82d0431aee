//! Copies of messages that die, while the message itself arrives or is none of this host's: nothing is lost. And what is lost
//! where another has just arrived.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use crate::harness::lab::{Lab, WEB};
use crate::harness::netns::Netns;
use crate::harness::packet::{
    icmp_message, icmpv6_message, ipv4, ipv6, refuse_all, send_all_routed, send_on_wire, send_routed,
    udp_segment,
};
use crate::harness::{has_reasons, on_first_cpu, until};

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

/// The kernel keeps the next packet where the last one was. A message that is lost there has not arrived because the one before
/// it did: what was delivered is known for a moment only.
#[test]
fn a_message_that_is_lost_where_another_has_arrived() {
    const ROUNDS: u64 = 5;
    let lab = Lab::lock();
    if !sees_messages(&lab) {
        return;
    }
    let (hop, host) = (Netns::looped(), Netns::looped());
    hop.ip(&format!(
        "link add eth0 up type veth peer name eth0 netns {}\naddr add fd99:77::1/64 dev eth0 nodad\n\
         route add fd99:78::/64 via fd99:77::2\n",
        host.path()
    ));
    // An IPsec policy lets nothing through to elsewhere: it dies, and no reason is given.
    host.ip("link set eth0 up\naddr add fd99:77::2/64 dev eth0 nodad\nroute add fd99:78::/64 dev eth0\n\
         xfrm policy add dir fwd src ::/0 dst fd99:78::/64 action block\n");
    host.sysctl("ipv6/conf/all/forwarding", "1");
    let [hop6, host6, elsewhere] =
        ["fd99:77::1", "fd99:77::2", "fd99:78::9"].map(|address| address.parse::<Ipv6Addr>().unwrap());
    let to = |receiver: Ipv6Addr| {
        let segment = udp_segment((receiver, 4000).into(), (hop6, 4001).into(), 4, true);
        let message = icmpv6_message(hop6, receiver, 2, 1300, &ipv6(receiver, hop6, 17, &segment));
        send_routed(receiver.into(), &ipv6(hop6, receiver, 58, &message)).unwrap();
    };
    let watch = Watch::new(&lab);
    let lost = |count: u64| {
        until("it is lost", || {
            (watch.counted("r2c_mtu_events_total", &[("event", "lost")]) >= count).then_some(())
        });
    };
    hop.inside(|| {
        // Each CPU has packets of its own.
        on_first_cpu();
        for _ in 0..ROUNDS {
            to(host6);
            let arrived = Instant::now();
            // A moment is 25 jiffies, at most 250 ms.
            until("a moment later", || (arrived.elapsed() > Duration::from_millis(300)).then_some(()));
            to(elsewhere);
        }
    });
    lost(ROUNDS);
    assert_eq!(
        watch.counted("r2c_mtu_events_total", &[("event", "received")]),
        ROUNDS,
        "{:#?}",
        watch.messages()
    );
    assert_eq!(
        watch.counted("r2c_mtu_events_total", &[("event", "lost")]),
        ROUNDS,
        "{:#?}",
        watch.messages()
    );
}
