//! Packets whose checksum is wrong, inside of which are pods.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use serde_json::json;

use crate::harness::has_reasons;
use crate::harness::packet::{ipv4, send_routed, udp_around, udp_segment};

use super::{Scene, fix};

const HOST: Ipv4Addr = Ipv4Addr::new(10, 97, 9, 1);
const EXT: Ipv4Addr = Ipv4Addr::new(10, 97, 9, 2);
const VXLAN: u16 = 8472;

/// What a pod of another node sends to `web`, in VXLAN between the nodes, whose outer checksum is wrong.
fn in_vxlan(port: u16) -> Vec<u8> {
    let (from, to) = (Ipv4Addr::new(10, 97, 5, 2), Ipv4Addr::new(10, 97, 1, 2));
    let inner = udp_segment((from, 53).into(), (to, port).into(), 40, true);
    let header = [8, 0, 0, 0, 0, 0, 1, 0];
    let ethernet = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    let frame = [&header[..], &ethernet, &ipv4(from, to, 17, &inner, true)].concat();
    let ends: [SocketAddr; 2] = [(EXT, 40_000).into(), (HOST, VXLAN).into()];
    ipv4(EXT, HOST, 17, &udp_around(ends[0], ends[1], &frame, false), true)
}

/// The names of the pods, and whether a trace of their namespace shows it, hang on what is inside.
#[test]
fn a_tunnels_checksum_that_is_wrong() {
    if !has_reasons() {
        // The place alone is that of a full queue as well.
        return;
    }
    let scene = Scene::new();
    if !scene.host.tries(
        "ip",
        &format!(
            "link add vx type vxlan id 1 local {HOST} dstport {VXLAN} nolearning udpcsum\nlink set vx up\n"
        ),
    ) {
        return;
    }
    for (port, flags) in [(7711, ["-n", "shop"]), (7712, ["--pod", "shop/web-0"])] {
        let trace = scene.trace_of("drops", &flags);
        scene.ext.inside(|| send_routed(HOST.into(), &in_vxlan(port)).unwrap());
        let lost = trace.expect_class("checksum", |line| line["destination_port"] == port);
        assert_eq!(
            json!([
                lost["destination_pod"]["pod"], lost["source_ip"], lost["tunnel"], lost["outer_source_ip"]
            ]),
            json!(["web-0", "10.97.5.2", "VXLAN", EXT.to_string()]),
            "{lost:#}"
        );
        assert!(
            fix(&lost).contains(&format!("where no device of node {EXT} fills in"))
                && fix(&lost).contains("ethtool -K"),
            "{lost:#}"
        );
    }
}

/// Of a longer datagram the kernel looks at the checksum when a program reads it.
#[test]
fn a_checksum_that_is_wrong_is_found_by_who_reads() {
    const PORT: u16 = 7713;
    let scene = Scene::new();
    let reader = scene.web.netns.inside(|| UdpSocket::bind(("0.0.0.0", PORT)).unwrap());
    reader.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let web = Ipv4Addr::new(10, 97, 1, 2);
    let send = |is_right: bool| {
        let segment = udp_segment((EXT, 5000).into(), (web, PORT).into(), 200, is_right);
        scene.ext.inside(|| send_routed(web.into(), &ipv4(EXT, web, 17, &segment, true)).unwrap());
    };
    send(true);
    assert_eq!(reader.recv(&mut [0; 300]).unwrap(), 200);
    let trace = scene.trace("drops");
    send(false);
    assert!(reader.recv(&mut [0; 300]).is_err());
    let lost = trace.expect_class("checksum", |line| line["destination_port"] == PORT);
    assert_eq!(lost["harm"], "harmful", "{lost:#}");
    assert!(fix(&lost).contains("ethtool -K DEVICE tx off"), "{lost:#}");
}
