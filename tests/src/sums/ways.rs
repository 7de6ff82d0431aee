//! The kinds of topology: who sends, and what is between the node and the tip.

/// One row of the table.
pub(super) struct Way {
    pub(super) name: &'static str,
    /// What the kernel needs for it.
    pub(super) modules: &'static [&'static str],
    /// IP versions that go this way.
    pub(super) families: &'static [u8],
    /// Whose pod sends: the third number of its address.
    pub(super) from: u8,
    pub(super) between: Between,
}

/// What is between the node and the tip.
pub(super) enum Between {
    /// The hop alone.
    Hop,
    /// The hop, and NAT to a service's address at the node.
    Nat,
    /// A tunnel over the hop.
    Tunnel(Tunnel),
    /// The same, where the ends have keys that `wg` sets.
    WireGuard,
}

/// Both ends alike: LOCAL and REMOTE stand for their addresses, OWN and OTHER for the networks behind them.
pub(super) struct Tunnel {
    /// IP version of what carries it.
    pub(super) over: u8,
    /// The rest of `ip link add tun0`; empty where no device shows that there is one.
    pub(super) link: &'static str,
    /// Lines of `ip` before and after that.
    pub(super) before: &'static str,
    pub(super) after: &'static str,
    /// Takes away what does not go with the device.
    pub(super) undo: &'static str,
    /// What its device counts that frees a packet.
    errors: &'static str,
}

const PLAIN: Tunnel = Tunnel { over: 4, link: "", before: "", after: "", undo: "", errors: "tun0 tx_errors" };

/// What counts the packets that the smaller end of a veth frees.
pub(super) const SILENT: &str = "lan6 rx_dropped";

const BOTH: &[u8] = &[4, 6];

const fn routed(name: &'static str, modules: &'static [&'static str], from: u8) -> Way {
    Way { name, modules, families: BOTH, from, between: Between::Hop }
}

const fn tunnel(
    name: &'static str,
    modules: &'static [&'static str],
    families: &'static [u8],
    tunnel: Tunnel,
) -> Way {
    Way { name, modules, families, from: 1, between: Between::Tunnel(tunnel) }
}

/// A tunnel that is a device and nothing else.
const fn device(
    name: &'static str,
    modules: &'static [&'static str],
    families: &'static [u8],
    over: u8,
    link: &'static str,
) -> Way {
    tunnel(name, modules, families, Tunnel { over, link, ..PLAIN })
}

/// A state for each direction, and policies by which they are used.
macro_rules! ipsec {
    ($chosen:literal, $own:literal, $other:literal) => {
        concat!(
            "xfrm state add src LOCAL dst REMOTE proto esp spi 7 mode tunnel ",
            $chosen,
            " aead rfc4106(gcm(aes)) 0x000102030405060708090a0b0c0d0e0f10111213 128\n\
             xfrm state add src REMOTE dst LOCAL proto esp spi 7 mode tunnel ",
            $chosen,
            " aead rfc4106(gcm(aes)) 0x000102030405060708090a0b0c0d0e0f10111213 128\n\
             xfrm policy add src ",
            $own,
            " dst ",
            $other,
            " dir out ",
            $chosen,
            " tmpl src LOCAL dst REMOTE proto esp mode tunnel\n\
             xfrm policy add src ",
            $other,
            " dst ",
            $own,
            " dir in ",
            $chosen,
            " tmpl src REMOTE dst LOCAL proto esp mode tunnel\n\
             xfrm policy add src ",
            $other,
            " dst ",
            $own,
            " dir fwd ",
            $chosen,
            " tmpl src REMOTE dst LOCAL proto esp mode tunnel\n"
        )
    };
}

const NO_IPSEC: &str = "xfrm state flush\nxfrm policy flush\n";

/// All of them.
pub(super) const WAYS: &[Way] = &[
    routed("a routed hop", &[], 1),
    routed("a bridge", &[], 2),
    routed("macvlan", &["dummy", "macvlan"], 3),
    routed("ipvlan", &["dummy", "ipvlan"], 4),
    routed("Open vSwitch", &["openvswitch"], 5),
    routed("a veth whose ends differ", &[], 6),
    routed("VRF", &["vrf"], 0),
    routed("a VLAN", &["8021q"], 14),
    Way {
        name: "NAT",
        modules: &["nf_tables", "nft_chain_nat"],
        families: BOTH,
        from: 1,
        between: Between::Nat,
    },
    device("vxlan", &["vxlan"], BOTH, 4, "type vxlan id 7 local LOCAL remote REMOTE dstport 4789 df set"),
    device("vxlan by IPv6", &["vxlan"], BOTH, 6, "type vxlan id 7 local LOCAL remote REMOTE dstport 4789"),
    device("geneve", &["geneve"], BOTH, 4, "type geneve id 7 remote REMOTE df set"),
    device("geneve by IPv6", &["geneve"], BOTH, 6, "type geneve id 7 remote REMOTE"),
    device("ipip", &["ipip"], &[4], 4, "type ipip local LOCAL remote REMOTE ttl 64"),
    device("sit", &["sit"], &[6], 4, "type sit local LOCAL remote REMOTE ttl 64"),
    device(
        "ip6tnl",
        &["ip6_tunnel"],
        BOTH,
        6,
        "type ip6tnl mode any local LOCAL remote REMOTE encaplimit none",
    ),
    device("gre", &["ip_gre"], BOTH, 4, "type gre local LOCAL remote REMOTE ttl 64"),
    device("gretap", &["ip_gre"], BOTH, 4, "type gretap local LOCAL remote REMOTE ttl 64"),
    device("ip6gre", &["ip6_gre"], BOTH, 6, "type ip6gre local LOCAL remote REMOTE encaplimit none"),
    tunnel(
        "FOU",
        &["fou", "ipip"],
        &[4],
        Tunnel {
            before: "fou add port 5563 ipproto 4\n",
            link: "type ipip local LOCAL remote REMOTE ttl 64 encap fou encap-sport auto encap-dport 5563",
            undo: "fou del port 5563\n",
            ..PLAIN
        },
    ),
    tunnel(
        "FOU of IPv6",
        &["fou", "sit"],
        &[6],
        Tunnel {
            before: "fou add port 5564 ipproto 41\n",
            link: "type sit local LOCAL remote REMOTE ttl 64 encap fou encap-sport auto encap-dport 5564",
            undo: "fou del port 5564\n",
            ..PLAIN
        },
    ),
    tunnel(
        "FOU by IPv6",
        &["fou", "fou6", "ip6_tunnel"],
        &[6],
        Tunnel {
            over: 6,
            before: "fou add port 5565 ipproto 41 -6\n",
            link: "type ip6tnl mode ip6ip6 local LOCAL remote REMOTE encaplimit none encap fou encap-sport auto encap-dport 5565",
            undo: "fou del port 5565 -6\n",
            ..PLAIN
        },
    ),
    tunnel(
        "GUE",
        &["fou", "ipip"],
        &[4],
        Tunnel {
            before: "fou add port 5566 gue\n",
            link: "type ipip local LOCAL remote REMOTE ttl 64 encap gue encap-sport auto encap-dport 5566",
            undo: "fou del port 5566\n",
            ..PLAIN
        },
    ),
    tunnel(
        "GUE of IPv6",
        &["fou", "sit"],
        &[6],
        Tunnel {
            before: "fou add port 5567 gue\n",
            link: "type sit local LOCAL remote REMOTE ttl 64 encap gue encap-sport auto encap-dport 5567",
            undo: "fou del port 5567\n",
            ..PLAIN
        },
    ),
    Way { name: "WireGuard", modules: &["wireguard"], families: BOTH, from: 1, between: Between::WireGuard },
    tunnel(
        "an IPsec policy",
        &["esp4", "xfrm_user"],
        &[4],
        Tunnel { after: ipsec!("", "OWN", "OTHER"), undo: NO_IPSEC, ..PLAIN },
    ),
    tunnel(
        "an IPsec policy of IPv6",
        &["esp6", "xfrm_user"],
        &[6],
        Tunnel { over: 6, after: ipsec!("", "OWN", "OTHER"), undo: NO_IPSEC, ..PLAIN },
    ),
    tunnel(
        "vti",
        &["ip_vti", "esp4", "xfrm_user"],
        &[4],
        Tunnel {
            link: "type vti local LOCAL remote REMOTE key 7",
            after: ipsec!("mark 7", "0.0.0.0/0", "0.0.0.0/0"),
            undo: NO_IPSEC,
            ..PLAIN
        },
    ),
    tunnel(
        "vti6",
        &["ip6_vti", "esp6", "xfrm_user"],
        &[6],
        Tunnel {
            over: 6,
            link: "type vti6 local LOCAL remote REMOTE key 7",
            after: ipsec!("mark 7", "::/0", "::/0"),
            undo: NO_IPSEC,
            ..PLAIN
        },
    ),
    tunnel(
        "an xfrm device",
        &["xfrm_interface", "esp4", "xfrm_user"],
        &[4],
        Tunnel {
            link: "type xfrm dev lo if_id 7",
            after: ipsec!("if_id 7", "0.0.0.0/0", "0.0.0.0/0"),
            // 5.10 shows no other.
            errors: "tun0 tx_dropped",
            undo: NO_IPSEC,
            ..PLAIN
        },
    ),
    tunnel(
        "an xfrm device of IPv6",
        &["xfrm_interface", "esp6", "xfrm_user"],
        &[6],
        Tunnel {
            over: 6,
            link: "type xfrm dev lo if_id 7",
            after: ipsec!("if_id 7", "::/0", "::/0"),
            // 5.10 shows no other.
            errors: "tun0 tx_dropped",
            undo: NO_IPSEC,
            ..PLAIN
        },
    ),
];

impl Way {
    /// What the tunnel's device counts of what it frees itself, and of that what the stack below has refused.
    pub(super) fn errors(&self) -> [&'static str; 2] {
        let errors = if let Between::Tunnel(tunnel) = &self.between { tunnel.errors } else { PLAIN.errors };
        [errors, "tun0 tx_aborted"]
    }

    /// The name of the pod that sends.
    pub(super) fn pod(&self) -> String {
        format!("shop/sum{}-0", self.from)
    }

    /// Whom the pod sends to: behind the hop, in the tunnel, or a service's address.
    pub(super) fn target(&self) -> u8 {
        match self.between {
            Between::Hop => 8,
            Between::Nat => 13,
            Between::Tunnel(_) | Between::WireGuard => 9,
        }
    }

    /// Whether the pod's packets are in others.
    pub(super) fn has_inside(&self) -> bool {
        matches!(self.between, Between::Tunnel(_) | Between::WireGuard)
    }

    /// Whether TCP is told at once what fits: a veth that frees in silence tells nobody, and of what is in a tunnel it takes a
    /// second segment.
    pub(super) fn takes_streams(&self) -> bool {
        !self.has_inside() && self.from != 6
    }

    /// Whether packets with a wrong checksum get there: conntrack calls them INVALID, and NAT leaves them alone.
    pub(super) fn takes_wrong_checksums(&self) -> bool {
        !matches!(self.between, Between::Nat)
    }
}
