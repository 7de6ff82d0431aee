//! Reads the beginning of a packet: its flow, and the flow inside of the tunnel that it may be.
//!
//! What comes here was quoted by an ICMP message, so anybody may have written it, and it may end anywhere (RFC 792 asks for
//! eight bytes behind the IP header, RFC 1812 for as much as fits in 576). What is not there is absent, never guessed.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of the packet in question that a record keeps: enough for IPv6, UDP, VXLAN, Ethernet, IPv6 and ports, and for
/// the largest IPv4 options before a tunnel.
pub const HEADER: usize = 144;

/// One direction of one conversation, as far as it can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Who sent the packet.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// IP protocol, behind IPv6's extension headers as far as they can be read.
    pub protocol: u8,
    /// Source and destination port, of protocols that have them.
    pub ports: Option<(u16, u16)>,
    /// IPv4's don't-fragment bit; always set in effect with IPv6, which does not fragment on the way.
    pub dont_fragment: bool,
}

/// How a packet carries another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tunnel {
    /// UDP port 4789, or 8472 as Linux and flannel have it.
    Vxlan,
    /// UDP port 6081.
    Geneve,
    /// IP in IP, any of the four combinations (protocols 4 and 41).
    Ip,
    /// Protocol 47.
    Gre,
    /// Foo over UDP: an IP packet is all that is behind UDP's header (linux/fou.h), at any port.
    Fou,
    /// Generic UDP encapsulation, at any port.
    Gue,
}

impl Tunnel {
    /// As operators call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vxlan => "VXLAN",
            Self::Geneve => "Geneve",
            Self::Ip => "IP-in-IP",
            Self::Gre => "GRE",
            Self::Fou => "FOU",
            Self::Gue => "GUE",
        }
    }
}

/// What a tunnel carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// How.
    pub tunnel: Tunnel,
    /// The tunnel that this one goes through.
    pub within: Option<Tunnel>,
    /// What all tunnels together add to each packet: bytes from the outermost IP header to the innermost.
    pub overhead: u16,
    /// The packet inside.
    pub flow: Flow,
}

impl Inner {
    /// As operators call it: `VXLAN`, `VXLAN in IP-in-IP`.
    #[must_use]
    pub fn name(&self) -> impl fmt::Display + use<> {
        let (tunnel, within) = (self.tunnel, self.within);
        fmt::from_fn(move |f| {
            f.write_str(tunnel.name())?;
            within.map_or(Ok(()), |within| write!(f, " in {}", within.name()))
        })
    }
}

/// How a packet is encrypted: what it carries, and how much that takes, is not to be read from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encrypted {
    /// IP protocol 50.
    Esp,
    /// The same in UDP, to pass a NAT (port 4500, RFC 3948).
    EspInUdp,
}

impl Encrypted {
    /// As operators call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Esp => "ESP",
            Self::EspInUdp => "ESP in UDP",
        }
    }
}

/// A packet's flow, and what it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// The packet's own.
    pub flow: Flow,
    /// The one inside, if it is a tunnel's and can be seen.
    pub inner: Option<Inner>,
    /// Whether the innermost that can be seen carries another that cannot.
    pub encrypted: Option<Encrypted>,
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const DCCP: u8 = 33;
const GRE: u8 = 47;
const ESP: u8 = 50;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;
const IPV4_IN_IP: u8 = 4;
const IPV6_IN_IP: u8 = 41;

const ETHERNET: usize = 14;
/// `ETH_P_TEB`: a whole Ethernet frame.
const FRAME: u16 = 0x6558;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// Tunnels in tunnels that are looked into.
const MAX_NESTED: usize = 2;

/// IPv6 extension headers that are looked through.
const MAX_EXTENSIONS: usize = 4;

impl Quote {
    /// Reads the packet that begins at `bytes`; `None` if that is not even an IP header.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut packet = Packet::parse(bytes)?;
        let mut quote = Self { flow: packet.flow, inner: None, encrypted: None };
        let (mut rest, mut overhead) = (bytes, 0);
        for _ in 0..MAX_NESTED {
            let carried = packet.payload.and_then(|payload| {
                let (tunnel, at) = packet.carries(payload, rest)?;
                Some((tunnel, at, Packet::parse(rest.get(at..)?)?))
            });
            let Some((tunnel, at, inner)) = carried else { break };
            (rest, overhead) = (rest.get(at..)?, overhead + at);
            let within = quote.inner.map(|inner| inner.tunnel);
            quote.inner =
                Some(Inner { tunnel, within, overhead: u16::try_from(overhead).ok()?, flow: inner.flow });
            packet = inner;
        }
        quote.encrypted = packet.payload.and_then(|payload| packet.encrypted(payload, rest));
        Some(quote)
    }

    /// The flow of the conversation that the packet is part of: the one inside where it is a tunnel's.
    #[must_use]
    pub fn innermost(&self) -> &Flow {
        self.inner.as_ref().map_or(&self.flow, |inner| &inner.flow)
    }
}

/// One IP header and where its payload begins; `None` in a later fragment, which has no header of the payload.
struct Packet {
    flow: Flow,
    payload: Option<usize>,
}

impl Packet {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut packet = match bytes.first()? >> 4 {
            4 => Self::ipv4(bytes)?,
            6 => Self::ipv6(bytes)?,
            _ => return None,
        };
        let with_ports = matches!(packet.flow.protocol, TCP | UDP | DCCP | SCTP | UDP_LITE);
        packet.flow.ports = packet
            .payload
            .filter(|_| with_ports)
            .and_then(|at| Some((half_word(bytes, at)?, half_word(bytes, at + 2)?)));
        Some(packet)
    }

    fn ipv4(bytes: &[u8]) -> Option<Self> {
        let header: &[u8; 20] = bytes.get(..20)?.try_into().ok()?;
        let length = usize::from(header[0] & 0xf) * 4;
        // Shorter than itself: no router made this, and what follows is not where it says.
        if length < 20 {
            return None;
        }
        let fragment = u16::from_be_bytes([header[6], header[7]]);
        let offset = fragment & 0x1fff;
        Some(Self {
            flow: Flow {
                source: Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(),
                destination: Ipv4Addr::new(header[16], header[17], header[18], header[19]).into(),
                protocol: header[9],
                ports: None,
                dont_fragment: fragment & 0x4000 != 0,
            },
            payload: (offset == 0).then_some(length),
        })
    }

    fn ipv6(bytes: &[u8]) -> Option<Self> {
        let header: &[u8; 40] = bytes.get(..40)?.try_into().ok()?;
        let address = |at: usize| header.get(at..at + 16)?.try_into().ok().map(|octets: [u8; 16]| octets);
        let (source, destination) = (Ipv6Addr::from(address(8)?), Ipv6Addr::from(address(24)?));
        let (protocol, payload) = behind_extensions(bytes, header[6]);
        let flow = Flow {
            source: source.into(),
            destination: destination.into(),
            protocol,
            ports: None,
            dont_fragment: true,
        };
        Some(Self { flow, payload })
    }

    /// If this is a tunnel's packet: which kind's, and where in `bytes` the inner IP header begins.
    fn carries(&self, payload: usize, bytes: &[u8]) -> Option<(Tunnel, usize)> {
        match self.flow.protocol {
            IPV4_IN_IP | IPV6_IN_IP => Some((Tunnel::Ip, payload)),
            GRE => Some((Tunnel::Gre, gre(bytes, payload)?)),
            UDP => match self.flow.ports?.1 {
                4789 | 8472 => Some((Tunnel::Vxlan, vxlan(bytes, payload + 8)?)),
                6081 => Some((Tunnel::Geneve, geneve(bytes, payload + 8)?)),
                _ => in_udp(bytes, payload),
            },
            _ => None,
        }
    }

    /// Whether what it carries is encrypted.
    fn encrypted(&self, payload: usize, bytes: &[u8]) -> Option<Encrypted> {
        /// Of IPsec where a NAT is on the way.
        const PORT: u16 = 4500;
        match (self.flow.protocol, self.flow.ports) {
            (ESP, _) => Some(Encrypted::Esp),
            (UDP, Some((from, to))) if from == PORT || to == PORT => {
                // IKE has four zeroes here.
                let index = bytes.get(payload + 8..payload + 12)?;
                index.iter().any(|byte| *byte != 0).then_some(Encrypted::EspInUdp)
            }
            _ => None,
        }
    }
}

/// The protocol behind IPv6's extension headers, and where it begins. A header that is cut off or fragmented away ends
/// the search: the protocol is then that header's own number, and there is no payload to read.
fn behind_extensions(bytes: &[u8], mut next: u8) -> (u8, Option<usize>) {
    let mut at = 40;
    for _ in 0..MAX_EXTENSIONS {
        let length = match next {
            // Hop-by-hop, routing, destination options: length in 8 bytes, the first not counted.
            0 | 43 | 60 => bytes.get(at + 1).map(|length| (usize::from(*length) + 1) * 8),
            // Fragment.
            44 => half_word(bytes, at + 2).filter(|offset| offset & 0xfff8 == 0).map(|_| 8),
            _ => return (next, Some(at)),
        };
        let (Some(length), Some(following)) = (length, bytes.get(at)) else { return (next, None) };
        next = *following;
        at += length;
    }
    (next, None)
}

/// RFC 2784 and 2890: flags, protocol, then what the flags say is there.
fn gre(bytes: &[u8], at: usize) -> Option<usize> {
    let flags = half_word(bytes, at)?;
    // Version 1 is PPTP's.
    if flags & 0x7 != 0 {
        return None;
    }
    let optional = [0x8000, 0x2000, 0x1000].into_iter().filter(|flag| flags & flag != 0).count() * 4;
    carried(bytes, half_word(bytes, at + 2)?, at + 4 + optional)
}

/// RFC 7348: flags, of which one says that there is a network identifier, and that; then a frame.
fn vxlan(bytes: &[u8], at: usize) -> Option<usize> {
    const HAS_IDENTIFIER: u8 = 0x08;
    (bytes.get(at)? & HAS_IDENTIFIER != 0).then_some(())?;
    carried(bytes, FRAME, at + 8)
}

/// RFC 8926: version and length of the options, flags, protocol, identifier, options.
fn geneve(bytes: &[u8], at: usize) -> Option<usize> {
    let first = bytes.get(at)?;
    (first >> 6 == 0).then_some(())?;
    carried(bytes, half_word(bytes, at + 2)?, at + 8 + usize::from(first & 0x3f) * 4)
}

/// FOU and GUE have no port of their own, and FOU no header. An IP packet that is exactly as long as UDP says that its payload
/// is (of GUE behind four bytes and what these say, draft-ietf-intarea-gue-09) is hardly chance.
fn in_udp(bytes: &[u8], at: usize) -> Option<(Tunnel, usize)> {
    let end = at + usize::from(half_word(bytes, at + 4)?);
    let ends_there = |inner: usize| {
        let length = match bytes.get(inner)? {
            0x45..=0x4f => half_word(bytes, inner + 2)?.into(),
            0x60..=0x6f => 40 + usize::from(half_word(bytes, inner + 4)?),
            _ => return None,
        };
        (inner + length == end).then_some(inner)
    };
    let begin = at + 8;
    if let Some(inner) = ends_there(begin) {
        return Some((Tunnel::Fou, inner));
    }
    // Version 0, no control message, length of the options in words; the protocol inside.
    let (first, protocol) = (*bytes.get(begin)?, *bytes.get(begin + 1)?);
    if first > 0x1f || !matches!(protocol, IPV4_IN_IP | IPV6_IN_IP) {
        return None;
    }
    ends_there(begin + 4 + usize::from(first) * 4).map(|inner| (Tunnel::Gue, inner))
}

/// Where the IP header is in what begins at `at` and is of this ethertype.
fn carried(bytes: &[u8], ethertype: u16, at: usize) -> Option<usize> {
    match ethertype {
        ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => Some(at),
        FRAME => {
            let inside = half_word(bytes, at + 12)?;
            matches!(inside, ETHERTYPE_IPV4 | ETHERTYPE_IPV6).then_some(at + ETHERNET)
        }
        _ => None,
    }
}

fn half_word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

#[cfg(test)]
mod tests;
