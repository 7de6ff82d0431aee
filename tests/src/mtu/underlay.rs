//! A way out of the node over a hop that takes less: routed, or with a tunnel between its ends.
//!
//! ```text
//!  web - router - rh 10.99.7.1 - 10.99.7.2 hop 10.99.8.1 - 10.99.8.2 tip        hop's way to tip has MTU 1400
//! ```

use std::fmt::Write as _;

use crate::harness::lab::Lab;
use crate::harness::netns::Netns;
use crate::harness::packet::udp;
use crate::harness::pod::Pod;
use crate::harness::until;

use super::v4;

/// Name of the pod behind the hop.
pub(super) const TIP: &str = "edge/tip-0";

/// The tip's own, in both families. A sender and a destination are one incident: tests have theirs apart.
const ADDRESSES: std::ops::RangeInclusive<u8> = 2..=11;

/// See the module. The hop is nobody's namespace that the agent knows.
pub(super) struct Underlay<'a> {
    lab: &'a Lab,
    tip: Option<Pod>,
    pub(super) hop: Netns,
    has_tunnel: bool,
}

impl<'a> Underlay<'a> {
    /// With a tunnel between its ends: `link` is the rest of `ip link add tun0 ..`, with LOCAL and REMOTE; inside of it
    /// is 10.99.`net`.0/24.
    pub(super) fn tunnelled(lab: &'a Lab, link: &str, net: u8) -> Self {
        let (hop, tip) = build(lab);
        let end = |local: &str, remote: &str, own: u8| {
            let link = link.replace("LOCAL", local).replace("REMOTE", remote);
            format!(
                "link add tun0 {link}\nlink set tun0 mtu 1500 up\naddr add 10.99.{net}.{own}/24 dev tun0\n"
            )
        };
        let [near, far] =
            if link.contains("udp6") { ["fd99:7::1", "fd99:8::2"] } else { ["10.99.7.1", "10.99.8.2"] };
        lab.router.ip(&end(near, far, 1));
        tip.ip(&(end(far, near, 2) + "route add 10.99.1.0/24 dev tun0\n"));
        Self::with_pod(lab, hop, &tip, true)
    }

    /// Without one: what `web` sends is what the hop is to forward.
    pub(super) fn routed(lab: &'a Lab) -> Self {
        let (hop, tip) = build(lab);
        hop.ip("route add 10.99.1.0/24 via 10.99.7.1\nroute add fd99:1::/64 via fd99:7::1\n");
        Self::with_pod(lab, hop, &tip, false)
    }

    /// The pod comes once its namespace has all its addresses: the agent looks at a pod's when it comes.
    fn with_pod(lab: &'a Lab, hop: Netns, tip: &Netns, has_tunnel: bool) -> Self {
        let tip = Pod::start(&lab.node, TIP, tip);
        let before = lab.agent.scrape();
        let its = [("namespace", "edge"), ("pod", "tip-0")];
        until("the pod is known by its namespace and addresses", || {
            tip.netns.inside(|| udp(v4([127, 0, 0, 1], 7701), 1, 4));
            let name = "r2c_pod_drop_packets_total";
            (lab.agent.scrape().sum(name, &its) > before.sum(name, &its)).then_some(())
        });
        Self { lab, tip: Some(tip), hop, has_tunnel }
    }

    /// With WireGuard between its ends, over the node's own device, which takes `takes` bytes, and a hop that drops what was
    /// cut up, as many firewalls and load balancers do. `None` where the kernel has none.
    pub(super) fn encrypted(lab: &'a Lab, net: u8, takes: u32) -> Option<Self> {
        // Any 32 bytes in base64 will do.
        const KEYS: [&str; 2] =
            ["AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="];
        if !lab.router.tries(
            "ip", "link add tun0 type wireguard
",
        ) {
            return None;
        }
        let (hop, tip) = build(lab);
        hop.ip("link set hb mtu 1500
");
        // Before what puts fragments together again: on 6.1 that is there once Open vSwitch is loaded.
        hop.batch(
            "nft",
            "add table inet hole\nadd chain inet hole it { type filter hook prerouting priority -450; }\n\
             add rule inet hole it ip frag-off & 0x3fff != 0 drop\n",
        );
        lab.router.ip(&format!("link set rh mtu {takes}\n"));
        tip.ip("link add tun0 type wireguard\n");
        let ends = [(&lab.router, "10.99.7.1"), (&tip, "10.99.8.2")];
        for own in 0..2 {
            let (netns, other) = (ends[own].0, 1 - own);
            let public = netns.feed("wg", &["pubkey"], KEYS[other]);
            let (public, endpoint) = (public.trim(), format!("{}:51820", ends[other].1));
            let peer = ["peer", public, "endpoint", &endpoint, "allowed-ips", "10.99.0.0/16"];
            let args =
                [&["set", "tun0", "listen-port", "51820", "private-key", "/proc/self/fd/0"], &peer[..]];
            netns.feed("wg", &args.concat(), KEYS[own]);
            netns.ip(&format!("link set tun0 mtu 1500 up\naddr add 10.99.{net}.{}/24 dev tun0\n", own + 1));
        }
        tip.ip("route add 10.99.1.0/24 dev tun0\n");
        Some(Self::with_pod(lab, hop, &tip, true))
    }

    /// The namespace behind the hop.
    pub(super) fn tip(&self) -> &Netns {
        &self.tip.as_ref().unwrap().netns
    }
}

fn build(lab: &Lab) -> (Netns, Netns) {
    let (hop, tip) = (Netns::new(), Netns::new());
    lab.router.ip(&format!(
        "link add rh up type veth peer name ha netns {}\naddr add 10.99.7.1/24 dev rh\n\
         route add 10.99.8.0/24 via 10.99.7.2\naddr add fd99:7::1/64 dev rh nodad\n\
         route add fd99:8::/64 via fd99:7::2\n",
        hop.path()
    ));
    hop.ip(&format!(
        "link set lo up\nlink set ha up\naddr add 10.99.7.2/24 dev ha\naddr add fd99:7::2/64 dev ha nodad\n\
         link add mtu 1400 name hb up type veth peer name eth0 netns {}\naddr add 10.99.8.1/24 dev hb\n\
         addr add fd99:8::1/64 dev hb nodad\n",
        tip.path()
    ));
    hop.sysctl("ipv4/ip_forward", "1");
    hop.sysctl("ipv6/conf/all/forwarding", "1");
    hop.sysctl("ipv4/icmp_ratelimit", "0");
    hop.sysctl("ipv6/icmp/ratelimit", "0");
    let mut lines = "link set lo up\nlink set eth0 up\n".to_owned();
    for own in ADDRESSES {
        let _ =
            write!(lines, "addr add 10.99.8.{own}/24 dev eth0\naddr add fd99:8::{own}/64 dev eth0 nodad\n");
    }
    tip.ip(&(lines + "route add default via 10.99.8.1\nroute add default via fd99:8::1\n"));
    (hop, tip)
}

impl Drop for Underlay<'_> {
    fn drop(&mut self) {
        if let Some(tip) = self.tip.take() {
            tip.stop();
        }
        // The tunnel goes with the pod's namespace; the router's end of it does not.
        let tunnel = if self.has_tunnel { "link del tun0\n" } else { "" };
        self.lab.router.ip(&format!("{tunnel}link del rh\n"));
        until("the pod is gone", || (self.lab.agent.scrape().sum("r2c_pods", &[]) == 3).then_some(()));
    }
}
