//! What is too large for a device that tells nobody.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::DEADLINE;
use crate::harness::guest::has_module;
use crate::harness::lab::{DB, Lab, WEB};
use crate::harness::netns::Meanwhile;
use crate::harness::packet::{udp_for, udp_unfragmented};

use super::{Watch, knows_veth, pod, v4};

#[test]
fn a_veth_whose_other_end_takes_less() {
    let lab = Lab::lock();
    // A number of its own: for a minute what a test before has found there is one incident with it.
    let _takes = lab.db.netns.meanwhile("ip", "link set eth2 mtu 1301\n", "link set eth2 mtu 1300\n");
    for (to, wanted) in [
        (SocketAddr::from(([10, 99, 6, 2], 7601)), "10.99.6.2"),
        (SocketAddr::from(([0xfd99, 6, 0, 0, 0, 0, 0, 2], 7602)), "fd99:6::2"),
    ] {
        let watch = Watch::new(&lab);
        lab.web.netns.inside(|| udp_unfragmented(to, 3, 1400));
        let first = watch.first(&[("destination_ip", json!(wanted))]);
        assert_eq!(first["event"], "oversize", "{first:#}");
        assert_eq!([&first["interface"], &first["interface_mtu"]], [&json!("eth2"), &json!(1500)]);
        assert_eq!(
            (pod(&first, "source_pod").as_deref(), pod(&first, "destination_pod").as_deref()),
            (Some(WEB), Some(DB))
        );
        assert_eq!(watch.of_pod(WEB, "oversize"), 3);
        if !knows_veth() {
            assert_eq!([&first["mtu"], &first["route_interface"]], [&json!(null); 2], "unknown is not zero");
            continue;
        }
        assert_eq!(first["mtu"], 1301);
        assert_eq!(
            [&first["route_interface"], &first["route_interface_mtu"]],
            [&json!("eth2"), &json!(1301)]
        );
        let verdict = watch.verdict_in_time(&[("destination_ip", json!(wanted))]);
        assert_eq!(
            [&verdict["finding"], &verdict["fits"]],
            [&json!("silent_drop"), &json!(1301)],
            "{verdict:#}"
        );
        let told = "give both ends of the veth one MTU: 1301, or 1500 if all behind it takes that";
        assert_eq!(verdict["fix"], told, "{verdict:#}");
        assert_eq!(watch.of_pod(WEB, "oversize"), 3);
        for mtu in [1301, 1500] {
            lab.web.netns.ip(&format!("link set eth2 mtu {mtu}\n"));
            lab.db.netns.ip(&format!("link set eth2 mtu {mtu}\n"));
            // It may be cut where it is sent.
            assert!(arrives(&lab, to), "{to}: cured by {mtu}");
            assert_eq!(watch.of_pod(WEB, "oversize"), 3);
        }
        lab.db.netns.ip("link set eth2 mtu 1301\n");
    }
}

/// Whether `db` gets a datagram of 1,400 bytes that `web` sends to it.
fn arrives(lab: &Lab, to: SocketAddr) -> bool {
    let receiver = lab.db.netns.inside(|| UdpSocket::bind(to).unwrap());
    receiver.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    lab.web.netns.inside(|| {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        UdpSocket::bind(any).unwrap().send_to(&[7; 1400], to).unwrap();
    });
    receiver.recv(&mut [0; 2000]).ok() == Some(1400)
}

#[test]
fn a_bridge_port_that_takes_less() {
    let lab = Lab::lock();
    // A number of its own: for a minute what a test before has found there is one incident with it.
    let _takes = lab.router.meanwhile("ip", "link set pb mtu 1402\n", "link set pb mtu 1400\n");
    let watch = Watch::new(&lab);
    lab.web.netns.inside(|| udp_unfragmented(SocketAddr::from(([10, 99, 5, 2], 7603)), 3, 1450));
    let first = watch.first(&[("destination_ip", json!("10.99.5.2"))]);
    assert_eq!([&first["event"], &first["mtu"]], [&json!("oversize"), &json!(1402)], "{first:#}");
    assert_eq!([&first["interface"], &first["interface_mtu"]], [&json!("pb"), &json!(1402)]);
    assert_eq!(
        (pod(&first, "source_pod").as_deref(), pod(&first, "destination_pod").as_deref()),
        (Some(WEB), Some(DB))
    );
    let verdict = watch.verdict_in_time(&[("destination_ip", json!("10.99.5.2"))]);
    assert!(verdict["message"].as_str().unwrap().contains("bridge port pb takes 1402"), "{verdict:#}");
    let told = "give all ports of the bridge, and what sends through it, one MTU: 1402, or raise pb's";
    assert_eq!(verdict["fix"], told, "{verdict:#}");
    assert_eq!(watch.of_pod(WEB, "oversize"), 3);
    lab.router.ip("link set pb mtu 1500\n");
    let to = SocketAddr::from(([10, 99, 5, 2], 7603));
    assert!(arrives(&lab, to), "cured by a larger port");
    lab.router.ip("link set pb mtu 1402\nlink set pa mtu 1402\n");
    lab.web.netns.ip("link set eth1 mtu 1402\n");
    assert!(arrives(&lab, to), "cured by smaller ones");
    lab.router.ip("link set pa mtu 1500\n");
    lab.web.netns.ip("link set eth1 mtu 1500\n");
    assert_eq!(watch.of_pod(WEB, "oversize"), 3);
}

/// A veth between `web` and `db` whose other end takes 1300, in a net of its own: what is said of another link stays news there.
pub(super) fn narrow(lab: &Lab, net: u8) -> Meanwhile {
    let link = lab.web.netns.meanwhile(
        "ip",
        &format!(
            "link add eth5 type veth peer name eth5 mtu 1300 netns {}\naddr add 10.99.{net}.1/24 dev eth5\n\
             link set eth5 up\n",
            lab.db.netns.path()
        ),
        "link del eth5\n",
    );
    lab.db.netns.ip(&format!("addr add 10.99.{net}.2/24 dev eth5\nlink set eth5 up\n"));
    // Few packets may wait for the neighbour's address.
    lab.web.netns.inside(|| udp_unfragmented(v4([10, 99, net, 2], 9), 1, 10));
    link
}

/// The kernel grants a frame room for a VLAN tag on top of the MTU: so much passes, and one byte more is dropped and told.
#[test]
fn a_byte_more_than_a_vlan_tag_has_room_for() {
    /// IPv4 and UDP.
    const HEADERS: usize = 28;
    const VLAN_TAG: usize = 4;
    let lab = Lab::lock();
    let _link = narrow(&lab, 21);
    // Where `br_netfilter` is there, a bridge fragments as a router does, and grants no room.
    lab.router.feed("sh", &["-c", "sysctl -w net.bridge.bridge-nf-call-iptables=0 || true"], "");
    // A veth's other end, and a bridge's port.
    for (net, mtu, port) in [(21, 1300, 7606), (5, 1400, 7607)] {
        let to = v4([10, 99, net, 2], port);
        let largest = mtu + VLAN_TAG - HEADERS;
        let socket = lab.db.netns.inside(|| UdpSocket::bind(to).unwrap());
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let watch = Watch::new(&lab);
        lab.web.netns.inside(|| udp_unfragmented(to, 3, largest));
        for _ in 0..3 {
            assert_eq!(socket.recv(&mut [0; 2000]).ok(), Some(largest), "{mtu}");
        }
        lab.barrier();
        assert_eq!(watch.of_pod(WEB, "oversize"), 0, "{mtu}: {:#?}", watch.messages());
        lab.web.netns.inside(|| udp_unfragmented(to, 3, largest + 1));
        lab.barrier();
        assert_eq!(watch.of_pod(WEB, "oversize"), 3, "{mtu}: {:#?}", watch.messages());
        socket.set_nonblocking(true).unwrap();
        assert!(socket.recv(&mut [0; 2000]).is_err(), "{mtu}: a byte more has come all the same");
    }
}

/// Which device an ipvlan hands its packets to, no field of theirs says; that they were too large for it, the place does.
#[test]
fn an_ipvlan_beside_it_that_takes_less() {
    if !["dummy", "ipvlan"].iter().all(|module| has_module(module)) {
        return;
    }
    let lab = Lab::lock();
    lab.router.ip("link add shared up type dummy\n");
    for (pod, setup) in [
        (&lab.web, "addr add 10.99.7.1/24 dev eth3\nlink set eth3 up\n"),
        (&lab.db, "addr add 10.99.7.2/24 dev eth3\nlink set eth3 up mtu 1300\n"),
    ] {
        let netns = pod.netns.path();
        lab.router.ip(&format!("link add link shared name eth3 netns {netns} type ipvlan mode l2\n"));
        pod.netns.ip(setup);
    }
    let watch = Watch::new(&lab);
    let to = SocketAddr::from(([10, 99, 7, 2], 7605));
    lab.web.netns.inside(|| udp_unfragmented(to, 3, 1400));
    let first = watch.first(&[("destination_ip", json!("10.99.7.2"))]);
    assert_eq!([&first["event"], &first["mtu"]], [&json!("oversize"), &json!(null)], "{first:#}");
    assert_eq!([&first["interface"], &first["interface_mtu"]], [&json!("eth3"), &json!(1500)]);
    assert_eq!(pod(&first, "source_pod").as_deref(), Some(WEB));
    let verdict = watch.verdict_in_time(&[("destination_ip", json!("10.99.7.2"))]);
    assert_eq!([&verdict["finding"], &verdict["fits"]], [&json!("silent_drop"), &json!(null)], "{verdict:#}");
    assert_eq!(watch.of_pod(WEB, "oversize"), 3);
    // What fits arrives, and nothing is said of it.
    lab.web.netns.inside(|| udp_unfragmented(to, 1, 1200));
    lab.barrier();
    assert_eq!(watch.of_pod(WEB, "oversize"), 3);
    lab.router.ip("link del shared\n");
}

/// A packet that fits is not too large, whatever it dies of: also while the kernel is about to tell the sender's device.
#[test]
fn a_veth_whose_other_end_is_down() {
    let lab = Lab::lock();
    // A link of its own: the agent may look at the pod while it is down, and does not know the addresses on it then.
    let db = lab.db.netns.path();
    lab.web.netns.ip(&format!(
        "link add eth4 type veth peer name eth4 mtu 1300 netns {db}\n\
         addr add 10.99.19.1/24 dev eth4\nlink set eth4 up\n"
    ));
    lab.db.netns.ip("addr add 10.99.19.2/24 dev eth4\nlink set eth4 up\n");
    let watch = Watch::new(&lab);
    let to = SocketAddr::from(([10, 99, 19, 2], 7604));
    let over = AtomicBool::new(false);
    // Should `ip` fail, and this thread with it, the other one is not to wait for ever.
    let end = Instant::now() + Duration::from_mins(1);
    thread::scope(|scope| {
        scope.spawn(|| {
            lab.web.netns.inside(|| {
                let socket = udp_for(to);
                // The largest that fits has room for a VLAN tag; where the other end is not seen no more is known to fit
                // than what every device takes.
                let largest = if knows_veth() { 1300 + 4 - 28 } else { 1172 };
                while !over.load(Ordering::Relaxed) && Instant::now() < end {
                    // Once the other end is known to be down it may be refused.
                    let _ = socket.send_to(&vec![0; largest], to);
                }
            });
        });
        for _ in 0..5 {
            lab.db.netns.ip("link set eth4 down\n");
            lab.db.netns.ip("link set eth4 up\n");
        }
        over.store(true, Ordering::Relaxed);
    });
    lab.barrier();
    assert_eq!(watch.counted("r2c_mtu_events_total", &[("event", "oversize")]), 0, "{:#?}", watch.messages());
    lab.web.netns.ip("link del eth4\n");
}
