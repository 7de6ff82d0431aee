//! What the agent counts between two scrapes, held against what the kernel itself counts, in each kind of topology.

use std::net::{IpAddr, SocketAddr};

use crate::harness::packet::{ipv4, ipv6, send_all_routed, udp, udp_hops, udp_segment, udp_unfragmented};

mod kernel;
mod scene;
mod ways;

use scene::{ECHO, Scene, address};
use ways::{WAYS, Way};

/// Nobody listens there.
const CLOSED: u16 = 7961;

#[test]
fn what_is_counted_is_what_the_kernel_counts() {
    let scene = Scene::new();
    let begun = std::time::Instant::now();
    for way in WAYS.iter().filter(|way| way.is_known()) {
        way.open(&scene);
        for family in way.families {
            scene.forget();
            scene.echo(way, *family);
            let before = scene.counts();
            too_large(&scene, way, *family);
            let between = scene.counts();
            dropped(&scene, way, *family);
            let after = scene.counts();
            for (from, to) in [(&before, &between), (&between, &after)] {
                eprintln!("== {} {family} {:?}\n{}", way.name, begun.elapsed(), to.0.grown(&from.0));
                for name in ["r2c_mtu_events_total", "r2c_drop_packets_total"] {
                    eprintln!("{}", to.1.grown(&from.1, name));
                }
            }
        }
        way.close(&scene);
    }
}

/// Sends what is larger than the hop takes, and what is larger than the tunnel's device takes.
fn too_large(scene: &Scene, way: &Way, family: u8) {
    let to = SocketAddr::new(address(family, way.target(), 2), ECHO);
    scene.pod(way).netns.inside(|| {
        for size in [1400, 1450, 1400, 1450, 1400] {
            udp_unfragmented(to, 1, size);
        }
    });
    scene.echo(way, family);
}

/// Sends what is dropped for a cause that the kernel counts.
fn dropped(scene: &Scene, way: &Way, family: u8) {
    let [own, tip, elsewhere] = [way.from, way.target(), 12].map(|net| address(family, net, 2));
    let nowhere: IpAddr =
        if family == 4 { [203, 0, 113, 96].into() } else { "2001:db8::96".parse().unwrap() };
    let closed = |ip: IpAddr| SocketAddr::new(ip, CLOSED);
    // So short that its checksum is looked at before anybody reads it.
    let wrong = udp_segment(closed(own), SocketAddr::new(tip, ECHO), 40, false);
    let packet = |protocol: u8, segment: &[u8]| match (own, tip) {
        (IpAddr::V4(own), IpAddr::V4(tip)) => ipv4(own, tip, protocol, segment, true),
        (IpAddr::V6(own), IpAddr::V6(tip)) => ipv6(own, tip, protocol, segment),
        _ => unreachable!(),
    };
    scene.pod(way).netns.inside(|| {
        udp(closed(tip), 3, 100);
        udp_hops(closed(tip), 2, 1);
        udp(closed(nowhere), 4, 100);
        udp(closed(elsewhere), 5, 100);
        send_all_routed(tip, vec![packet(253, &[0; 100]); 6]).unwrap();
        if way.takes_wrong_checksums() {
            send_all_routed(tip, vec![packet(17, &wrong); 7]).unwrap();
        }
    });
    scene.echo(way, family);
}
