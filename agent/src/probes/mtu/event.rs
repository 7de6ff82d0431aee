//! Something that was too large for its path, and what can be said of it alone.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::SystemTime;

use agent_common::IFNAMSIZ;
use agent_common::mtu::stall::Stall;
use agent_common::mtu::{Device, Fate, Kind, MtuRecord, Stage, flags};
use agent_common::quote::{Flow, Inner, Quote};

use super::cause::Cause;
use super::labels::Labels;
use super::row;
use super::verdict::Findings;
use crate::kernel::sockets::Stuck;
use crate::links::Wrapping;
use crate::pod::{Pod, Slot, Subject};
use crate::probe::{Cell, Ends, Event, Field, Level, Pods};

/// Something that was too large, as the kernel saw it.
#[derive(Clone, Debug)]
pub struct TooBig {
    pub(super) at: SystemTime,
    pub(super) kind: Kind,
    pub(super) fate: Fate,
    pub(super) record: MtuRecord,
    /// The packet in question, as far as it could be read.
    pub(super) quote: Option<Quote>,
    /// Where an oversize packet or a message was freed; `None` where symbols are hidden.
    pub(super) function: Option<Arc<str>>,
    /// The kernel's reason to drop a message.
    pub(super) reason: Option<Arc<str>>,
    /// Jiffies a second.
    pub(super) hertz: u32,
    /// Whether it is seen that messages of its family arrive: if not, one that is lost may be one of many.
    pub(super) sees_arrivals: bool,
    /// Of a suspect: connections to the same peer that were stuck when it was told.
    pub(super) stuck: Arc<[Stuck]>,
    /// The IPsec policy that encrypts it, where that was looked up.
    pub(super) wrapping: Option<Arc<Wrapping>>,
}

/// What set the MTU that a packet exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The device it was to leave by.
    Device,
    /// The tunnel it was to leave by: what carries that takes less than the tunnel's device promises.
    Tunnel,
    /// The path, as an earlier message had it.
    Path,
    /// IPsec: what carries the encrypted packets takes so much less.
    Ipsec,
    /// The route: an `mtu` of its own, or the sysctl of its family.
    Route,
}

/// Why no honest router says such a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absurd {
    /// No link may take less than this.
    NoLink(u32),
    /// The kernel believes no less of any path.
    NoPath(u32),
    /// The packet that it quotes has so many bytes, which is not more.
    Fits(u32),
    /// Not more leaves here anyway.
    Larger(u32),
}

impl Limit {
    /// Its name in JSON and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Tunnel => "tunnel",
            Self::Path => "path",
            Self::Ipsec => "ipsec",
            Self::Route => "route",
        }
    }
}

/// How much an event matters.
pub(super) const fn level(kind: Kind, fate: Fate) -> Level {
    match (kind, fate) {
        (Kind::Stalled, Fate::BlackHole | Fate::Suspect) => Level::Warn,
        // A path MTU is meant to be learned; loss, or a peer that is gone, is by itself no matter of size.
        (Kind::Learned | Kind::Stalled, _) => Level::Info,
        _ => Level::Warn,
    }
}

/// Kinds of devices that carry packets in packets (`rtnl_link_ops.kind`).
const TUNNELS: [&str; 15] = [
    "vxlan", "geneve", "ipip", "sit", "gre", "gretap", "erspan", "ip6tnl", "ip6gre", "ip6gretap",
    "ip6erspan", "vti", "vti6", "wireguard", "bareudp",
];

impl TooBig {
    /// The series that counts it.
    #[must_use]
    pub fn labels(&self) -> Labels {
        Labels::of(self.kind, self.fate, self.record.ip_version)
    }

    /// How far a dropped message had come.
    pub(super) fn stage(&self) -> Option<Stage> {
        Stage::from_wire(self.record.stage)
    }

    /// What the socket of a segment that is sent again knows.
    pub(super) fn stall(&self) -> Option<&Stall> {
        (self.kind == Kind::Stalled).then_some(&self.record.stall)
    }

    /// Whether another connection to the same peer that is stuck, too, would say more of it.
    pub(super) fn may_have_company(&self) -> bool {
        self.fate == Fate::Suspect
            && self.stall().is_some_and(|stall| stall.never_passed() && stall.is_alone())
    }

    /// Bytes of the packet in question by its own header; `None` if that could not be read or makes no sense.
    pub(super) fn quoted_length(&self) -> Option<u32> {
        let header = self.record.header.get(..usize::from(self.record.header_len))?;
        let half_word =
            |at: usize| Some(u32::from(u16::from_be_bytes([*header.get(at)?, *header.get(at + 1)?])));
        self.quote?;
        let length = match header.first()? >> 4 {
            4 => half_word(2)?,
            6 => half_word(4)? + 40,
            _ => return None,
        };
        (length > 40).then_some(length)
    }

    /// The conversation it is about: the one inside of a tunnel where that can be seen.
    pub(super) fn flow(&self) -> Option<&Flow> {
        self.quote.as_ref().map(Quote::innermost)
    }

    /// The tunnel that the packet in question belongs to.
    pub(super) fn tunnel(&self) -> Option<Inner> {
        self.quote.and_then(|quote| quote.inner)
    }

    pub(super) fn source(&self) -> Option<IpAddr> {
        match self.flow() {
            Some(flow) => Some(flow.source),
            None if self.is_without_packet() => self.address(self.record.source),
            None => None,
        }
    }

    /// Whether a socket of this machine sent the packet in question.
    pub(super) fn has_local_sender(&self) -> bool {
        let has_socket = matches!(self.fate, Fate::Learned | Fate::Delivered);
        self.has(flags::LOCAL_ORIGIN) || self.kind == Kind::Received && has_socket
    }

    pub(super) fn destination(&self) -> Option<IpAddr> {
        match self.flow() {
            Some(flow) => Some(flow.destination),
            None if self.is_without_packet() => self.address(self.record.destination),
            // Of a header that makes no sense nothing is believed.
            None => None,
        }
    }

    /// Whether there is no packet to be asked: only an address was given to the kernel.
    pub(super) fn is_without_packet(&self) -> bool {
        matches!(self.kind, Kind::Refused | Kind::Learned | Kind::Stalled)
    }

    pub(super) fn ports(&self) -> (Option<u16>, Option<u16>) {
        let told = |port: u16| Some(port).filter(|port| *port != 0);
        match self.flow() {
            Some(flow) => flow.ports.unzip(),
            None => (told(self.record.source_port), told(self.record.destination_port)),
        }
    }

    /// Whether its packet is of a protocol that has no ports.
    pub(super) fn is_portless(&self) -> bool {
        // TCP, UDP, DCCP, SCTP, UDP-Lite: of these it may be a piece behind the first.
        self.flow().is_some_and(|flow| !matches!(flow.protocol, 6 | 17 | 33 | 132 | 136))
    }

    /// Who sent a message that was received or lost.
    pub(super) fn sender(&self) -> Option<IpAddr> {
        self.address(self.record.sender)
    }

    /// An address of the record's family; `None` where the kernel side had none.
    fn address(&self, bytes: [u8; 16]) -> Option<IpAddr> {
        let [a, b, c, d, ..] = bytes;
        let address = match self.record.ip_version {
            4 => IpAddr::from(Ipv4Addr::new(a, b, c, d)),
            6 => Ipv6Addr::from(bytes).into(),
            _ => return None,
        };
        (!address.is_unspecified()).then_some(address)
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.record.flags & flag != 0
    }

    /// The largest packet that fits, for who sends the conversation's packets: less than what was announced by what the
    /// tunnel adds. `None` if no MTU is known.
    pub(super) fn fits(&self) -> Option<u32> {
        let mtu = Some(self.record.mtu).filter(|mtu| *mtu != 0)?;
        Some(mtu.saturating_sub(self.tunnel().map_or(0, |inner| inner.overhead.into())))
    }

    /// What set the MTU of a message that this node made.
    pub(super) fn limit(&self) -> Option<Limit> {
        let MtuRecord { mtu, route, route_pmtu, .. } = &self.record;
        if self.kind != Kind::Made || route.ifindex == 0 {
            return None;
        }
        if self.has(flags::ENCRYPTED) {
            return Some(Limit::Ipsec);
        }
        Some(match route.mtu {
            device if device == *mtu => Limit::Device,
            _ if is_tunnel(route) => Limit::Tunnel,
            _ if *route_pmtu == *mtu => Limit::Path,
            _ => Limit::Route,
        })
    }

    /// Whether more events like it may not have been told.
    pub(super) fn is_cut(&self) -> bool {
        self.record.held > 0 || self.has(flags::LAST_OF_BUDGET)
    }

    /// Whether it is a message that was to tell somebody, and that was not sent.
    pub(super) fn is_unsent(&self) -> bool {
        self.kind == Kind::Made && matches!(self.fate, Fate::Unsent | Fate::NoRoute | Fate::Limited)
    }

    /// Whether the route cache took what a message says.
    pub(super) fn is_taken(&self) -> bool {
        self.fate == Fate::Learned || self.has(flags::TAKEN)
    }

    /// What the kernel takes any smaller number for: `net.ipv4.route.min_pmtu` as it is unless somebody sets it, and the least
    /// of IPv6. `None` of a family that is not known.
    pub(super) const fn least_taken(&self) -> Option<u32> {
        match self.record.ip_version {
            4 => Some(552),
            6 => Some(1280),
            _ => None,
        }
    }

    /// Why the number cannot be a router's; `None` if it can.
    pub(super) fn absurd(&self) -> Option<Absurd> {
        let (mtu, device) = (self.record.mtu, self.record.device.mtu);
        let least_taken = self.least_taken()?;
        // RFC 791, RFC 8200.
        let least = if self.record.ip_version == 4 { 68 } else { 1280 };
        if self.kind != Kind::Received {
            return None;
        }
        if mtu < least {
            return Some(Absurd::NoLink(least));
        }
        if mtu < least_taken {
            return Some(Absurd::NoPath(least_taken));
        }
        let fits = self.quoted_length().filter(|length| *length <= mtu).map(Absurd::Fits);
        // Where packets leave by a larger device the message is news to the route cache.
        let larger = self.fate == Fate::Delivered && device != 0 && mtu > device;
        fits.or(larger.then_some(Absurd::Larger(device)))
    }

    /// Device or hop that says what fits: what an operator looks for.
    pub(super) fn by(&self) -> Option<Cow<'_, str>> {
        let MtuRecord { device, route, .. } = &self.record;
        match self.kind {
            Kind::Received | Kind::Lost => self.sender().map(|sender| sender.to_string().into()),
            Kind::Made | Kind::Oversize => name(route).or_else(|| name(device)),
            Kind::Learned => name(device),
            Kind::Refused | Kind::Stalled | Kind::Incomplete => None,
        }
    }
}

/// A device's name with what is not UTF-8 replaced; `None` if there is no device.
pub(super) fn name(device: &Device) -> Option<Cow<'_, str>> {
    text(&device.name)
}

/// Its kind, as `ip link` has it.
pub(super) fn kind_of(device: &Device) -> Option<Cow<'_, str>> {
    text(&device.kind)
}

fn text(bytes: &[u8; IFNAMSIZ]) -> Option<Cow<'_, str>> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(IFNAMSIZ);
    (end > 0).then(|| String::from_utf8_lossy(&bytes[..end]))
}

pub(super) fn is_tunnel(device: &Device) -> bool {
    kind_of(device).is_some_and(|kind| TUNNELS.contains(&kind.as_ref()))
}

impl Event for TooBig {
    type Cause = Cause;
    type Evidence = Findings;

    fn at(&self) -> SystemTime {
        self.at
    }

    fn level(&self) -> Level {
        level(self.kind, self.fate)
    }

    fn subjects(&self) -> Ends<[Option<Subject>; 2]> {
        let told =
            |address: Option<IpAddr>| address.filter(|_| !self.has(flags::FOREIGN)).map(Subject::Address);
        // The kernel side looked at the outer addresses, and at the first bytes only.
        let looked = self.tunnel().is_none() && (self.quote.is_some() || self.is_without_packet());
        let slot = |raw| Slot::from_wire(raw).filter(|_| looked).map(Subject::Slot);
        let netns = Some(self.record.netns).filter(|netns| *netns != 0 && self.has(flags::LOCAL_ORIGIN));
        Ends {
            source: [slot(self.record.source_slot).or(netns.map(Subject::Netns)), told(self.source())],
            destination: [slot(self.record.destination_slot), told(self.destination())],
        }
    }

    fn cause(&self, pods: &Pods) -> Cause {
        Cause::of(self, pods)
    }

    fn place(&self, pods: &Pods) -> Option<Cause> {
        Cause::at_place(self, pods)
    }

    /// A load balancer that does not translate what a message quotes: the client's own port is all that both have.
    fn may_be_translated(&self) -> bool {
        self.kind == Kind::Received && self.fate == Fate::NoSocket
    }

    fn about<'a>(&self, pods: &'a Pods) -> Option<&'a Pod> {
        // Who did not send what is quoted is not hurt by it.
        if self.fate == Fate::NoSocket {
            return None;
        }
        pods.source.as_deref().or(pods.destination.as_deref())
    }

    fn message(&self, pods: &Pods, text: &mut String) {
        text.push_str(match self.kind {
            Kind::Made => "told that it is too large: ",
            Kind::Received => "was told that it is too large: ",
            Kind::Oversize => "too large, and nobody is told: ",
            Kind::Refused => "a socket asked for too large a datagram: ",
            Kind::Learned => "path MTU learned: ",
            Kind::Lost => "a message that it is too large is dropped: ",
            Kind::Stalled if self.fate == Fate::BlackHole => "full-size segments vanish: ",
            Kind::Stalled => "a segment is not acknowledged: ",
            Kind::Incomplete => "a packet stays incomplete: ",
        });
        row::flow(self, pods, text);
        match (self.by(), self.record.mtu) {
            (Some(by), 0) => write!(text, "; by {by}"),
            (Some(by), mtu) if self.limit() == Some(Limit::Path) => {
                write!(text, "; the path behind {by} is known to take {mtu} bytes")
            }
            (Some(by), mtu) => write!(text, "; {by} takes {mtu} bytes"),
            (None, 0) => Ok(()),
            (None, mtu) => write!(text, "; {mtu} bytes fit"),
        }
        .unwrap_or_default();
        row::fate(self, text);
        if self.record.held > 0 {
            let _ = write!(text, "; {} more like it before", self.record.held);
        }
    }

    fn fields<'a>(&'a self, pods: &'a Pods, fields: &mut Vec<Field<'a>>) {
        row::fields(self, pods, fields);
    }

    fn cells<'a>(&'a self, pods: &'a Pods, cells: &mut Vec<Cell<'a>>) {
        row::cells(self, pods, cells);
    }
}
