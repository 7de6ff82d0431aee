//! The mtu probe: packets too large for their path, who says so, who is told, and who dies without a word.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;
use std::time::SystemTime;

use agent_common::IFNAMSIZ;
use agent_common::mtu::quote::{Flow, Inner, Quote};
use agent_common::mtu::{Device, Kind, MtuRecord, flags};
use prometheus_client::collector::Collector;

use crate::kernel::Kernel;
use crate::kernel::clock::Clock;
use crate::kernel::kallsyms::Kallsyms;
use crate::pod::{FindPod, Pod, PodSlots, Slot, Subject};
use crate::probe::attach::{MapError, Maps};
use crate::probe::counts::Counts;
use crate::probe::flow::ReadTallies;
use crate::probe::globals::Globals;
use crate::probe::slots::SlotMaps;
use crate::probe::{Cell, Column, Field, Level};
use crate::probe::{DecodeError, Ends, Enriched, Event, Hook, Pods, Probe, Summary};

pub mod hooks;
pub mod labels;
pub mod row;
#[cfg(test)]
mod tests;
pub mod verdict;

use labels::{Labels, MtuRows, kind_name};
use verdict::Findings;

/// The probe.
pub struct Mtu {
    counts: Counts<MtuRows>,
    symbols: Kallsyms,
    clock: Clock,
}

/// Something that was too large, as the kernel saw it.
#[derive(Clone, Debug)]
pub struct TooBig {
    at: SystemTime,
    kind: Kind,
    record: MtuRecord,
    /// The packet in question, as far as it was to be had.
    quote: Option<Quote>,
    /// Where an oversize packet was freed; `None` where symbols are hidden.
    function: Option<Arc<str>>,
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
    /// The route: an `mtu` of its own, or the sysctl of its family.
    Route,
}

impl Limit {
    /// Its name in JSON and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Tunnel => "tunnel",
            Self::Path => "path",
            Self::Route => "route",
        }
    }
}

/// Kinds of devices that carry packets in packets (`rtnl_link_ops.kind`).
const TUNNELS: [&str; 15] = [
    "vxlan", "geneve", "ipip", "sit", "gre", "gretap", "erspan", "ip6tnl", "ip6gre", "ip6gretap",
    "ip6erspan", "vti", "vti6", "wireguard", "bareudp",
];

impl Probe for Mtu {
    type Event = TooBig;

    const NAME: &'static str = "mtu";
    const ABOUT: &'static str =
        "packets too large for their path: which hop or device, what it takes, and whose they are";
    const HOOKS: &'static [Hook] = hooks::ALL;
    const COLUMNS: &'static [Column] = row::COLUMNS;

    fn object() -> &'static [u8] {
        aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mtu"))
    }

    fn globals(kernel: &Kernel, globals: &mut Globals) {
        hooks::globals(kernel, globals);
    }

    fn open(kernel: &Kernel, maps: &mut Maps<'_>) -> Result<Self, MapError> {
        let counts = Counts::take(maps, MtuRows, Self::HOOKS.len())?;
        hooks::tell_forward(kernel, maps)?;
        Ok(Self { counts, symbols: kernel.symbols().clone(), clock: Clock::new() })
    }

    fn slots(&self, maps: &mut Maps<'_>) -> Result<Box<dyn PodSlots>, MapError> {
        let counts = self.counts.clone();
        Ok(Box::new(SlotMaps::take(maps, move |slot| counts.retire(slot))?))
    }

    fn collector(&self, pods: Arc<dyn FindPod>) -> Box<dyn Collector> {
        self.counts.name_pods_by(pods);
        Box::new(self.counts.clone())
    }

    fn summary(&self) -> Summary {
        let counts = self.counts.clone();
        Box::new(move || labels::summary(&counts))
    }

    fn reasons(_: &Kernel) -> Vec<String> {
        Kind::ALL.map(|kind| kind_name(kind).to_owned()).into()
    }

    fn tallies_reader(&self) -> ReadTallies {
        let counts = self.counts.clone();
        Arc::new(move || counts.tallies())
    }

    fn decode(&mut self, record: &[u8]) -> Result<TooBig, DecodeError> {
        TooBig::decode(record, &self.clock, &self.symbols)
    }

    fn provoke() -> io::Result<()> {
        // Too much for any datagram, so for any device, though not for the socket.
        static TOO_MUCH: [u8; 65_535] = [0; 65_535];
        for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let socket = match UdpSocket::bind((address, 0)) {
                // A host without IPv6.
                Err(_) if address.is_ipv6() => continue,
                bound => bound?,
            };
            // A port that was free a moment ago: the answer is an ICMP message, made and received here.
            let closed = UdpSocket::bind((address, 0))?.local_addr()?;
            socket.send_to(b"r2c-agent", closed)?;
            // It is meant to be refused.
            let _ = UdpSocket::bind((address, 0))?.send_to(&TOO_MUCH, closed);
        }
        Ok(())
    }

    fn observe(&mut self, enriched: &Enriched<'_, TooBig>) {
        let event = enriched.event;
        self.counts.exemplify(
            Labels::of(event.kind, event.record.ip_version),
            enriched.span.trace_id,
            event.at,
        );
    }
}

/// What makes two events one incident: somebody's packets to somewhere exceed one MTU, whoever says so.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cause {
    sender: Who,
    destination: Option<IpAddr>,
    mtu: u32,
}

/// Who sends too much, as far as that is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    Pod(Arc<Pod>),
    Address(IpAddr),
    Netns(u32),
}

impl TooBig {
    /// The event in a record.
    ///
    /// # Errors
    /// It is of another length, or of a kind that this version does not know.
    pub fn decode(record: &[u8], clock: &Clock, symbols: &Kallsyms) -> Result<Self, DecodeError> {
        let wrong = DecodeError { got: record.len(), want: size_of::<MtuRecord>() };
        let record = MtuRecord::from_bytes(record).ok_or(wrong)?;
        let kind = Kind::from_wire(record.kind).ok_or(wrong)?;
        let header = record.header.get(..usize::from(record.header_len)).unwrap_or_default();
        let function = (record.location != 0).then(|| {
            symbols.find(|symbols| symbols.resolve(record.location).map(|place| place.function().into()))
        });
        Ok(Self {
            at: clock.to_wall(record.ktime_ns),
            kind,
            quote: Quote::parse(header),
            function: function.flatten(),
            record,
        })
    }

    /// The conversation it is about: the one inside of a tunnel where that can be seen.
    fn flow(&self) -> Option<&Flow> {
        self.quote.as_ref().map(Quote::innermost)
    }

    /// The tunnel that the packet in question belongs to.
    fn tunnel(&self) -> Option<Inner> {
        self.quote.and_then(|quote| quote.inner)
    }

    fn source(&self) -> Option<IpAddr> {
        self.flow().map(|flow| flow.source)
    }

    fn destination(&self) -> Option<IpAddr> {
        match self.flow() {
            Some(flow) => Some(flow.destination),
            None if self.is_without_packet() => self.address(self.record.destination),
            // Of a header that makes no sense nothing is believed.
            None => None,
        }
    }

    /// Whether there is no packet to be asked: only an address was given to the kernel.
    fn is_without_packet(&self) -> bool {
        matches!(self.kind, Kind::Refused | Kind::Learned)
    }

    fn ports(&self) -> (Option<u16>, Option<u16>) {
        let told = Some(self.record.destination_port).filter(|port| *port != 0);
        match self.flow() {
            Some(flow) => flow.ports.unzip(),
            None => (None, told),
        }
    }

    /// Who sent a received message.
    fn sender(&self) -> Option<IpAddr> {
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

    fn has(&self, flag: u8) -> bool {
        self.record.flags & flag != 0
    }

    /// The largest packet that fits, for who sends the conversation's packets: less than what was announced by what the
    /// tunnel adds. `None` if no MTU is known.
    fn fits(&self) -> Option<u32> {
        let mtu = Some(self.record.mtu).filter(|mtu| *mtu != 0)?;
        Some(mtu.saturating_sub(self.tunnel().map_or(0, |inner| inner.overhead.into())))
    }

    /// What set the MTU of a message that this node made.
    fn limit(&self) -> Option<Limit> {
        let MtuRecord { mtu, route, route_pmtu, .. } = &self.record;
        if self.kind != Kind::Made || route.ifindex == 0 {
            return None;
        }
        Some(match route.mtu {
            device if device == *mtu => Limit::Device,
            _ if is_tunnel(route) => Limit::Tunnel,
            _ if *route_pmtu == *mtu => Limit::Path,
            _ => Limit::Route,
        })
    }

    /// Whether the numbers cannot be a router's: less than any link may have (RFC 791, RFC 8200).
    fn is_absurd(&self) -> bool {
        let least = if self.record.ip_version == 4 { 68 } else { 1280 };
        self.kind == Kind::Received && self.record.mtu < least
    }

    /// Device or hop that says what fits: what an operator looks for.
    fn by(&self) -> Option<Cow<'_, str>> {
        let MtuRecord { device, route, .. } = &self.record;
        match self.kind {
            Kind::Received => self.sender().map(|sender| sender.to_string().into()),
            Kind::Made | Kind::Oversize => name(route).or_else(|| name(device)),
            Kind::Learned => name(device),
            Kind::Refused => None,
        }
    }
}

/// A device's name with what is not UTF-8 replaced; `None` if there is no device.
fn name(device: &Device) -> Option<Cow<'_, str>> {
    text(&device.name)
}

/// Its kind, as `ip link` has it.
fn kind_of(device: &Device) -> Option<Cow<'_, str>> {
    text(&device.kind)
}

fn text(bytes: &[u8; IFNAMSIZ]) -> Option<Cow<'_, str>> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(IFNAMSIZ);
    (end > 0).then(|| String::from_utf8_lossy(&bytes[..end]))
}

fn is_tunnel(device: &Device) -> bool {
    kind_of(device).is_some_and(|kind| TUNNELS.contains(&kind.as_ref()))
}

impl Event for TooBig {
    type Cause = Cause;
    type Evidence = Findings;

    fn at(&self) -> SystemTime {
        self.at
    }

    fn level(&self) -> Level {
        match self.kind {
            // It is how a path MTU is meant to be found.
            Kind::Learned => Level::Info,
            _ => Level::Warn,
        }
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
        let sender = match (&pods.source, self.source()) {
            (Some(pod), _) => Who::Pod(Arc::clone(pod)),
            (None, Some(address)) => Who::Address(address),
            (None, None) => Who::Netns(self.record.netns),
        };
        Cause { sender, destination: self.destination(), mtu: self.record.mtu }
    }

    fn about<'a>(&self, pods: &'a Pods) -> Option<&'a Pod> {
        pods.source.as_deref().or(pods.destination.as_deref())
    }

    fn message(&self, pods: &Pods, text: &mut String) {
        text.push_str(match self.kind {
            Kind::Made => "told that it is too large: ",
            Kind::Received => "was told that it is too large: ",
            Kind::Oversize => "too large, and nobody is told: ",
            Kind::Refused => "a socket asked for too large a datagram: ",
            Kind::Learned => "path MTU learned: ",
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
