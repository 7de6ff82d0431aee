//! What a device wraps around each packet, out of its kind's own attributes (`IFLA_INFO_DATA`).
//!
//! Numbers are of `if_link.h` and `if_tunnel.h`, which are stable; sizes are of the kernel's own sums.

use super::attributes::{address, find, number, short};
use super::{Encapsulation, Tunnel};

/// Where the attributes of a kind have the same things.
struct Places {
    underlay: Option<u16>,
    local: &'static [u16],
    remote: &'static [u16],
    /// A flag or a number that is not zero.
    external: Option<u16>,
    encap_type: Option<u16>,
    encap_flags: Option<u16>,
    flags: Option<u16>,
    key: Option<u16>,
}

const NOWHERE: Places = Places {
    underlay: None,
    local: &[],
    remote: &[],
    external: None,
    encap_type: None,
    encap_flags: None,
    flags: None,
    key: None,
};
/// `IFLA_VXLAN_*`
const VXLAN: Places =
    Places { underlay: Some(3), local: &[4, 17], remote: &[2, 16], external: Some(25), ..NOWHERE };
const VXLAN_GPE: u16 = 27;
/// `IFLA_GENEVE_*`
const GENEVE: Places = Places { remote: &[2, 7], external: Some(6), ..NOWHERE };
const GENEVE_INNER_PROTO_INHERIT: u16 = 14;
/// `IFLA_GRE_*`
const GRE: Places = Places {
    underlay: Some(1),
    local: &[6],
    remote: &[7],
    external: Some(18),
    encap_type: Some(14),
    encap_flags: Some(15),
    flags: Some(13),
    ..NOWHERE
};
const GRE_OFLAGS: u16 = 3;
/// `IFLA_IPTUN_*`
const IPTUN: Places = Places {
    underlay: Some(1),
    local: &[2],
    remote: &[3],
    external: Some(19),
    encap_type: Some(15),
    encap_flags: Some(16),
    flags: Some(8),
    ..NOWHERE
};
/// `IFLA_VTI_*`; the key is the outgoing one.
const VTI: Places = Places { underlay: Some(1), local: &[4], remote: &[5], key: Some(3), ..NOWHERE };
/// `IFLA_XFRM_*`: its device is for offload, its packets go by the route to the peer.
const XFRM: Places = Places { key: Some(2), external: Some(3), ..NOWHERE };
/// `IFLA_MACSEC_ICV_LEN`
const MACSEC_ICV_LEN: u16 = 3;

/// An inner Ethernet header.
const ETHERNET: i32 = 14;

/// The tunnel a device of this kind is, if it is one whose sum can be made.
pub(super) fn decode(kind: &[u8], attributes: &[u8]) -> Option<Tunnel> {
    use Encapsulation as E;
    let (encapsulation, places) = match kind {
        b"vxlan" => (E::Vxlan, VXLAN),
        b"geneve" => (E::Geneve, GENEVE),
        b"gre" => (E::Gre, GRE),
        b"gretap" => (E::Gretap, GRE),
        b"ip6gre" => (E::Ip6gre, GRE),
        b"ip6gretap" => (E::Ip6gretap, GRE),
        b"ipip" => (E::Ipip, IPTUN),
        b"sit" => (E::Sit, IPTUN),
        b"ip6tnl" => (E::Ip6tnl, IPTUN),
        b"wireguard" => (E::Wireguard, NOWHERE),
        b"vlan" => (E::Vlan, NOWHERE),
        b"macsec" => (E::Macsec, NOWHERE),
        b"vti" => (E::Vti, VTI),
        b"vti6" => (E::Vti6, VTI),
        b"xfrm" => (E::Xfrm, XFRM),
        _ => return None,
    };
    let first = |kinds: &[u16]| kinds.iter().find_map(|kind| address(find(attributes, *kind)?));
    let external = places.external.and_then(|kind| find(attributes, kind));
    let key = places.key.and_then(|kind| number(find(attributes, kind)?)).unwrap_or_default();
    Some(Tunnel {
        // Of vti it is in the network's order.
        key: if encapsulation == E::Xfrm { key } else { u32::from_be(key) },
        encapsulation,
        local: first(places.local),
        remote: first(places.remote),
        underlay: places
            .underlay
            .and_then(|kind| number(find(attributes, kind)?))
            .filter(|underlay| *underlay != 0),
        // A flag without a value in most kinds, one byte in vxlan.
        external: external.is_some_and(|value| value.first().is_none_or(|byte| *byte != 0)),
        extra: extra(encapsulation, &places, attributes),
    })
}

fn extra(encapsulation: Encapsulation, places: &Places, attributes: &[u8]) -> i32 {
    use Encapsulation as E;
    let has = |kind: u16| find(attributes, kind).is_some();
    let mut extra = match encapsulation {
        E::Vxlan if has(VXLAN_GPE) => -ETHERNET,
        E::Geneve if has(GENEVE_INNER_PROTO_INHERIT) => -ETHERNET,
        E::Gre | E::Gretap | E::Ip6gre | E::Ip6gretap => {
            let flags = find(attributes, GRE_OFLAGS).and_then(short).map_or(0, u16::from_be);
            // GRE_CSUM, GRE_KEY and GRE_SEQ: each is four bytes more.
            [0x8000, 0x2000, 0x1000].iter().map(|flag| if flags & flag == 0 { 0 } else { 4 }).sum()
        }
        // SecTAG with SCI, its EtherType, and what proves the packet (drivers/net/macsec.c, macsec_extra_len).
        E::Macsec => {
            let icv = find(attributes, MACSEC_ICV_LEN).and_then(|value| value.first().copied());
            16 + i32::from(icv.unwrap_or(16))
        }
        _ => 0,
    };
    // The destination option with the encapsulation limit, unless IP6_TNL_F_IGN_ENCAP_LIMIT.
    if matches!(encapsulation, E::Ip6tnl | E::Ip6gre | E::Ip6gretap) {
        let flags = places.flags.and_then(|kind| number(find(attributes, kind)?)).unwrap_or(0);
        extra += if flags & 1 == 0 { 8 } else { 0 };
    }
    extra + outer_udp(places, attributes)
}

/// Bytes of UDP and of GUE around the tunnel's own header (`gue_encap_hlen`).
fn outer_udp(places: &Places, attributes: &[u8]) -> i32 {
    let value = |kind: Option<u16>| kind.and_then(|kind| short(find(attributes, kind)?)).unwrap_or(0);
    // TUNNEL_ENCAP_FLAG_REMCSUM takes four bytes more.
    let remote_checksum = if value(places.encap_flags) & 4 == 0 { 0 } else { 4 };
    match value(places.encap_type) {
        1 => 8,
        2 => 8 + 4 + remote_checksum,
        _ => 0,
    }
}

impl Encapsulation {
    /// The family of the outer header, where the kind alone says it: true is IPv6.
    #[must_use]
    pub const fn outer_is_v6(self) -> Option<bool> {
        match self {
            Self::Gre | Self::Gretap | Self::Ipip | Self::Sit | Self::Vti => Some(false),
            Self::Ip6gre | Self::Ip6gretap | Self::Ip6tnl | Self::Vti6 => Some(true),
            Self::Vxlan | Self::Geneve | Self::Wireguard | Self::Vlan | Self::Macsec | Self::Xfrm => None,
        }
    }

    /// Whether it is of the link, with no outer address.
    #[must_use]
    pub const fn is_of_link(self) -> bool {
        matches!(self, Self::Vlan | Self::Macsec)
    }

    /// As people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "VXLAN",
            Self::Geneve => "Geneve",
            Self::Gre | Self::Gretap | Self::Ip6gre | Self::Ip6gretap => "GRE",
            Self::Ipip => "IPIP",
            Self::Sit => "SIT",
            Self::Ip6tnl => "IP in IPv6",
            Self::Wireguard => "WireGuard",
            Self::Vlan => "VLAN",
            Self::Macsec => "MACsec",
            Self::Vti | Self::Vti6 | Self::Xfrm => "ESP",
        }
    }

    /// Whether an IPsec state says what is added.
    #[must_use]
    pub const fn is_ipsec(self) -> bool {
        matches!(self, Self::Vti | Self::Vti6 | Self::Xfrm)
    }
}

impl Tunnel {
    /// Bytes it adds to each packet as its MTU counts them, with this family outside. Of IPsec the state says it.
    #[must_use]
    pub fn overhead(&self, v6: bool) -> u32 {
        use Encapsulation as E;
        const UDP: i32 = 8;
        let ip = if v6 { 40 } else { 20 };
        let plain = match self.encapsulation {
            E::Vxlan | E::Geneve => ip + UDP + 8 + ETHERNET,
            E::Gre | E::Ip6gre => ip + 4,
            E::Gretap | E::Ip6gretap => ip + 4 + ETHERNET,
            E::Ipip | E::Sit | E::Ip6tnl => ip,
            // Type, receiver and counter, and what proves the packet (drivers/net/wireguard/messages.h).
            E::Wireguard => ip + UDP + 16 + 16,
            E::Vlan | E::Macsec | E::Vti | E::Vti6 | E::Xfrm => 0,
        };
        u32::try_from(plain.saturating_add(self.extra)).unwrap_or(0)
    }
}
