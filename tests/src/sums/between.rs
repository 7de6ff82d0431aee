//! Makes what is between the node and the tip, and takes it away again.

use std::fmt::Write as _;

use crate::harness::netns::Netns;

use super::scene::{ELSEWHERE_BY_HOP, Scene};
use super::ways::{Between, Tunnel, Way};

/// The tunnel's ends in both families: the node's and the tip's.
const ENDS: [[&str; 2]; 2] = [["10.96.7.1", "10.96.8.2"], ["fd96:7::1", "fd96:8::2"]];

impl Way {
    /// Makes it.
    pub(super) fn open(&self, scene: &Scene) {
        for (own, netns) in [&scene.node, &scene.tip.netns].into_iter().enumerate() {
            match &self.between {
                Between::Nat if own == 0 => netns.batch("nft", NAT),
                Between::Hop | Between::Nat => {}
                Between::Tunnel(tunnel) => netns.ip(&format!(
                    "{}{}",
                    tunnel.end(own, self.families),
                    far_side(own, self.families, !tunnel.link.is_empty())
                )),
                Between::WireGuard => {
                    wireguard(netns, own);
                    netns.ip(&format!("link set tun0 mtu 1460 up\n{}", far_side(own, self.families, true)));
                }
            }
        }
    }

    /// What the route caches have learned of one family's way would keep packets of the other from the hop. That is the node's:
    /// the pod heeds nothing, and the tip sends nothing that is large.
    pub(super) fn forget(&self, scene: &Scene) {
        if !matches!(self.between, Between::Hop) {
            scene.node.sysctl("ipv4/route/flush", "1");
            scene.node.run("ip", &["-6", "route", "flush", "cache"]);
        }
    }

    /// Takes it away.
    pub(super) fn close(&self, scene: &Scene) {
        let (device, undo) = match &self.between {
            Between::Hop => return,
            Between::Nat => return scene.node.batch("nft", "delete table inet sums\n"),
            Between::Tunnel(tunnel) if tunnel.link.is_empty() => ("", tunnel.undo),
            Between::Tunnel(tunnel) => ("link del tun0\n", tunnel.undo),
            Between::WireGuard => ("link del tun0\n", ""),
        };
        let [node, tip] = match (device, self.families) {
            ("", [4]) => ["route del 10.96.9.2\n", "addr del 10.96.9.2/32 dev lo\n"],
            ("", _) => ["route del fd96:9::2\n", "addr del fd96:9::2/128 dev lo\n"],
            _ => [ELSEWHERE_BY_HOP, ""],
        };
        scene.node.ip(&format!("{device}{undo}{node}"));
        scene.tip.netns.ip(&format!("{device}{undo}{tip}"));
    }
}

const NAT: &str = "add table inet sums\n\
     add chain inet sums pre { type nat hook prerouting priority -100; }\n\
     add rule inet sums pre ip daddr 10.96.13.2 dnat ip to 10.96.8.2\n\
     add rule inet sums pre ip6 daddr fd96:d::2 dnat ip6 to fd96:8::2\n\
     add chain inet sums post { type nat hook postrouting priority 100; }\n\
     add rule inet sums post oifname \"out\" masquerade\n";

impl Tunnel {
    /// One of its ends: 0 is the node's.
    fn end(&self, own: usize, families: &[u8]) -> String {
        let [local, remote] = [own, 1 - own].map(|end| ENDS[usize::from(self.over == 6)][end]);
        let networks =
            if families == [6] { ["fd96:1::/64", "fd96:8::/29"] } else { ["10.96.1.0/24", "10.96.8.0/21"] };
        let device = if self.link.is_empty() {
            String::new()
        } else {
            format!("link add tun0 {}\nlink set tun0 mtu 1460 up\n", self.link)
        };
        let lines = format!("{}{device}{}", self.before, self.after);
        let lines = lines.replace("LOCAL", local).replace("REMOTE", remote);
        lines.replace("OWN", networks[own]).replace("OTHER", networks[1 - own])
    }
}

/// The addresses in a tunnel, and the routes by it.
fn far_side(own: usize, families: &[u8], has_device: bool) -> String {
    let mut lines = String::new();
    for family in families {
        let [ends, pods, elsewhere, prefixes, hop] = if *family == 4 {
            [
                ["10.96.9.1", "10.96.9.2"],
                ["10.96.1.0/24"; 2],
                ["10.96.12.0/24"; 2],
                ["24", "32"],
                ["10.96.7.2"; 2],
            ]
        } else {
            [
                ["fd96:9::1", "fd96:9::2"],
                ["fd96:1::/64"; 2],
                ["fd96:c::/64"; 2],
                ["64", "128"],
                ["fd96:7::2"; 2],
            ]
        };
        let [here, other] = [ends[own], ends[1 - own]];
        let behind = if own == 0 { elsewhere[0] } else { pods[0] };
        let _ = match (has_device, own) {
            (true, _) => write!(
                lines,
                "addr add {here}/{} dev tun0 NODAD\nroute replace {behind} via {other} dev tun0\n",
                prefixes[0]
            ),
            // IPsec takes what goes by the hop; the tip's address in it is on no device.
            (false, 0) => writeln!(lines, "route add {other} via {}", hop[0]),
            (false, _) => writeln!(lines, "addr add {here}/{} dev lo", prefixes[1]),
        };
        lines = lines.replace("NODAD", if *family == 4 { "" } else { "nodad" });
    }
    lines
}

/// One of its ends: any 32 bytes in base64 will do for a key.
fn wireguard(netns: &Netns, own: usize) {
    const KEYS: [&str; 2] =
        ["AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=", "BAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ="];
    netns.ip("link add tun0 type wireguard\n");
    let public = netns.feed("wg", &["pubkey"], KEYS[1 - own]);
    let endpoint = format!("{}:51827", ENDS[0][1 - own]);
    let own_key = ["set", "tun0", "listen-port", "51827", "private-key", "/proc/self/fd/0"];
    let peer = ["peer", public.trim(), "endpoint", &endpoint, "allowed-ips", "0.0.0.0/0,::/0"];
    netns.feed("wg", &[&own_key[..], &peer].concat(), KEYS[own]);
}
