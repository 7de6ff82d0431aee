//! The drops probe: every packet the kernel frees as lost, with its reason, place, class and the pods it hurts.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use agent_common::IFNAMSIZ;
use agent_common::drops::{Direction, DropRecord, flags};
use agent_common::quote::{Encrypted, Inner};
use prometheus_client::collector::Collector;

use crate::kernel::Kernel;
use crate::pod::{FindPod, Pod, PodSlots, Slot, Subject};
use crate::probe::attach::{MapError, Maps};
use crate::probe::counts::{Counts, ReadLimited};
use crate::probe::flow::ReadTallies;
use crate::probe::globals::Globals;
use crate::probe::knock::knock;
use crate::probe::slots::SlotMaps;
use crate::probe::{Cell, Column, Field, Level};
use crate::probe::{DecodeError, Ends, Enriched, Event, Hook, Pods, Probe, Summary};

mod advice;
pub mod class;
pub mod decode;
pub mod evidence;
pub mod hooks;
pub mod labels;
pub mod place;
pub mod row;
pub mod summary;

use crate::kernel::reasons::Reasons;
use class::words::{Home, Late, Refused};
use class::{Class, Verdict};
use decode::Decoder;
use evidence::Evidence;
use labels::{DropRows, Labels};
use place::Place;
use summary::Fixes;

/// Whether a packet's source address may be anybody's, because it cannot have come from where it did.
///
/// Where the kernel gives no reason, all that dies before it is routed might have died for that.
#[must_use]
pub fn may_be_forged(reason: Option<&str>, function: Option<&str>) -> bool {
    match reason {
        Some(reason) => reason == "IP_RPFILTER",
        None => function.is_none_or(|function| ["ip_rcv_finish", "ip_rcv_finish_core"].contains(&function)),
    }
}

/// The probe.
pub struct Drops {
    counts: Counts<DropRows>,
    decoder: Decoder,
    fixes: Fixes,
    /// Whose network namespaces are whose.
    pods: OnceLock<Arc<dyn FindPod>>,
}

/// One packet dropped, as the kernel saw it.
#[derive(Clone, Debug)]
pub struct PacketDrop {
    at: SystemTime,
    /// The kernel's reason by name; `None` where the kernel gives none (5.10).
    reason: Option<Arc<str>>,
    /// Kernel function it died in; `None` where symbols are hidden.
    place: Option<Place>,
    /// What the exact counts have it under: they know reason, place and circumstances.
    counted: Verdict,
    /// What it means, by the evidence as well.
    verdict: Verdict,
    evidence: Option<Evidence>,
    direction: Direction,
    /// Where it died; `None` where that is not known.
    home: Option<Home>,
    /// The packet inside, if it is a tunnel's: whom it hurts.
    inner: Option<Inner>,
    /// How its payload is encrypted; what is inside is then unreadable.
    encrypted: Option<Encrypted>,
    record: DropRecord,
}

impl Probe for Drops {
    type Event = PacketDrop;

    const NAME: &'static str = "drops";
    const ABOUT: &'static str = "packets the kernel drops: reason, place, cause, and the pods at both ends";
    const HOOKS: &'static [Hook] = hooks::ALL;
    const COLUMNS: &'static [Column] = row::COLUMNS;
    const FILTERS: bool = true;
    const SOURCE: Option<&'static str> = Some(hooks::SOURCE);

    fn object() -> &'static [u8] {
        aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/drops"))
    }

    fn globals(kernel: &Kernel, globals: &mut Globals) {
        hooks::globals(kernel, globals);
    }

    fn open(kernel: &Kernel, maps: &mut Maps<'_>) -> Result<Self, MapError> {
        let decoder = Decoder::new(kernel);
        let meaning = DropRows { reasons: decoder.reasons.clone(), places: decoder.places.clone() };
        let counts = Counts::take(maps, meaning, Self::HOOKS.len())?;
        Ok(Self { counts, decoder, fixes: Fixes::default(), pods: OnceLock::new() })
    }

    fn slots(&self, maps: &mut Maps<'_>) -> Result<Box<dyn PodSlots>, MapError> {
        let counts = self.counts.clone();
        Ok(Box::new(SlotMaps::take(maps, move |slot| counts.retire(slot))?))
    }

    fn collector(&self, pods: Arc<dyn FindPod>) -> Box<dyn Collector> {
        let _ = self.pods.set(Arc::clone(&pods));
        self.counts.name_pods_by(pods);
        Box::new(self.counts.clone())
    }

    fn summary(&self) -> Summary {
        let (counts, fixes) = (self.counts.clone(), self.fixes.clone());
        Box::new(move || summary::of(&counts, &fixes))
    }

    fn limited_reader(&self) -> ReadLimited {
        self.counts.limited_reader()
    }

    fn reasons(kernel: &Kernel) -> Vec<String> {
        let reasons = Reasons::load(kernel);
        // A kernel that has the hook and gives no reasons still has classes; where even that is not known, any will do.
        if reasons.is_empty() && kernel.tracepoint_args("kfree_skb").is_empty() {
            return Vec::new();
        }
        let classes = Class::ALL.iter().map(|class| class.name());
        classes.chain(reasons.names()).map(str::to_owned).collect()
    }

    fn tallies_reader(&self) -> ReadTallies {
        let counts = self.counts.clone();
        Arc::new(move || counts.tallies())
    }

    fn decode(&mut self, record: &[u8]) -> Result<PacketDrop, DecodeError> {
        let mut event = self.decoder.decode(record)?;
        event.home = self.pods.get().and_then(|pods| event.home(&**pods));
        Ok(event)
    }

    fn provoke() -> std::io::Result<()> {
        knock(|_| Ok(()))
    }

    fn observe(&mut self, enriched: &Enriched<'_, PacketDrop>) {
        let event = enriched.event;
        let labels = Labels::new(event.reason_name(), event.counted, event.direction);
        event.learned_by(&self.fixes, &labels);
        self.counts.exemplify(labels, enriched.span.trace_id, event.at);
    }
}

/// What makes two drops one incident: the same cause in the same place hurting the same pods.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cause {
    reason: u32,
    location: u64,
    direction: Direction,
    pods: Pods,
    /// Whom it is about where no pod is known: an address of the far end, so that strangers' drops stay apart.
    address: Option<IpAddr>,
}

/// An address of a packet of this IP version; `None` of any other packet.
fn address(ip_version: u8, bytes: [u8; 16]) -> Option<IpAddr> {
    let [a, b, c, d, ..] = bytes;
    match ip_version {
        4 => Some(Ipv4Addr::new(a, b, c, d).into()),
        6 => Some(Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

impl PacketDrop {
    fn reason_name(&self) -> &str {
        self.reason.as_deref().unwrap_or(labels::NO_REASON)
    }

    fn has(&self, flag: u8) -> bool {
        self.record.flags & flag != 0
    }

    /// Who sent it; of a tunnel's packet, who sent what is inside.
    fn source(&self) -> Option<IpAddr> {
        self.inner.map(|inner| inner.flow.source).or_else(|| self.outer_source())
    }

    /// To whom; of a tunnel's packet, to whom what is inside was sent.
    fn destination(&self) -> Option<IpAddr> {
        self.inner.map(|inner| inner.flow.destination).or_else(|| self.outer_destination())
    }

    /// By its own header: of a tunnel's packet, the node that sent it.
    fn outer_source(&self) -> Option<IpAddr> {
        address(self.record.ip_version, self.record.source)
    }

    fn outer_destination(&self) -> Option<IpAddr> {
        address(self.record.ip_version, self.record.destination)
    }

    /// Whether this holds for it: a bit of [`circumstance`].
    fn is(&self, circumstance: u16) -> bool {
        self.record.circumstances & circumstance != 0
    }

    /// Whose network namespace it died in. The kernel side knows the host's.
    fn home(&self, pods: &dyn FindPod) -> Option<Home> {
        let netns = Some(self.record.netns).filter(|netns| *netns != 0)?;
        Some(match pods.find_pod(Subject::Netns(netns), self.at) {
            Some(pod) => Home::Pod(pod),
            None if self.has(flags::FOREIGN) => Home::Netns(netns),
            None => Home::Host,
        })
    }

    /// What refused it, as the place tells it, and for IPsec and IPv6's forwarding what it is.
    fn refused(&self) -> Option<Refused> {
        let function = &self.place.as_ref()?.function;
        if self.verdict.class == Class::Routing && evidence::stays_for_its_source(&self.record, function) {
            return Some(Refused::Source);
        }
        if self.verdict.class == Class::Routing && self.counted.class == Class::NoSocket {
            return Some(Refused::NoTunnelDevice);
        }
        if self.verdict.class == Class::Routing && evidence::is_on_loopbacks_network(&self.record, function) {
            return Some(Refused::Localnet);
        }
        let is_itself = self.record.source == self.record.destination && self.record.ip_version != 0;
        if self.verdict.class == Class::Routing && is_itself && self.direction == Direction::Received {
            return Some(Refused::Itself);
        }
        let refused = Refused::by_place(self.reason.as_deref(), function)?;
        let is_plain = refused == Refused::Ipsec && evidence::is_ip_in_ip(self.record.protocol);
        Some(if is_plain { Refused::NoTunnel } else { refused })
    }

    /// What of TCP and UDP may come when nobody waits for it any more. An answer over UDP goes from a port that servers have to one that
    /// the kernel gives to who asks (`net.ipv4.ip_local_port_range` begins there unless it is set).
    fn late(&self) -> Option<Late> {
        const UDP: u8 = 17;
        const FIRST_GIVEN: u16 = 32_768;
        let is_answer = |(from, to)| from < FIRST_GIVEN && to >= FIRST_GIVEN;
        if self.inner.is_some() {
            None
        } else if self.record.protocol == UDP && self.ports().is_some_and(is_answer) {
            Some(Late::Answer)
        } else {
            (evidence::opens_connection(&self.record) == Some(false)).then_some(Late::Segment)
        }
    }

    /// How it carries what is inside, as far as that can be seen.
    fn carries(&self) -> Option<Cow<'static, str>> {
        let inner = self.inner.map(|inner| inner.name().to_string().into());
        inner.or_else(|| self.encrypted.map(|encrypted| encrypted.name().into()))
    }

    /// The device's name with what is not UTF-8 replaced; `None` if the packet was on no device.
    fn interface(&self) -> Option<Cow<'_, str>> {
        let name = &self.record.ifname;
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(IFNAMSIZ);
        (end > 0).then(|| String::from_utf8_lossy(&name[..end]))
    }

    /// Ports, for protocols that have them.
    fn ports(&self) -> Option<(u16, u16)> {
        if let Some(inner) = self.inner {
            return inner.flow.ports;
        }
        let has_ports = matches!(self.record.protocol, 6 | 17 | 33 | 132 | 136);
        (self.has(flags::HAS_TRANSPORT) && has_ports)
            .then_some((self.record.source_port, self.record.destination_port))
    }

    /// ICMP's type and code.
    fn icmp(&self) -> Option<(u8, u8)> {
        let is_icmp = matches!(self.record.protocol, 1 | 58) && self.inner.is_none();
        let [kind, code] = self.record.source_port.to_be_bytes();
        (self.has(flags::HAS_TRANSPORT) && is_icmp).then_some((kind, code))
    }

    /// The protocol by name where it has one everybody knows.
    fn protocol(&self) -> Cow<'static, str> {
        if let Some(inner) = self.inner {
            crate::probe::row::protocol(inner.flow.protocol)
        } else if self.has(flags::HAS_IP) {
            crate::probe::row::protocol(self.record.protocol)
        } else {
            match self.record.ethertype {
                0 => "-".into(),
                0x0806 => "ARP".into(),
                0x0800 => "IPv4".into(),
                0x86dd => "IPv6".into(),
                0x88cc => "LLDP".into(),
                other => format!("eth:{other:#06x}").into(),
            }
        }
    }
}

impl Event for PacketDrop {
    type Cause = Cause;
    // Each drop is told for itself: what was dropped is the question.
    type Evidence = ();

    fn at(&self) -> SystemTime {
        self.at
    }

    fn level(&self) -> Level {
        self.verdict.harm.level()
    }

    fn subjects(&self) -> Ends<[Option<Subject>; 2]> {
        // A packet that died for its source address says nothing true about its source.
        let function = self.place.as_ref().map(|place| place.function.as_ref());
        let trusted = !may_be_forged(self.reason.as_deref(), function);
        let told =
            |address: Option<IpAddr>| address.filter(|_| !self.has(flags::FOREIGN)).map(Subject::Address);
        let netns = (self.record.netns != 0).then_some(Subject::Netns(self.record.netns));
        // The kernel side looked at the outer addresses.
        let slot = |raw| Slot::from_wire(raw).filter(|_| self.inner.is_none()).map(Subject::Slot);
        let here = |is_here: bool| if is_here { netns } else { None };
        let source =
            slot(self.record.source_slot).or(here(self.direction == Direction::Sent)).filter(|_| trusted);
        let destination = slot(self.record.destination_slot).or(here(self.direction == Direction::Received));
        let by_address =
            Ends { source: told(self.source()).filter(|_| trusted), destination: told(self.destination()) };
        // Where it died is an end of the tunnel, if anything; who is inside is hurt.
        let order = |first, second| if self.inner.is_some() { [second, first] } else { [first, second] };
        Ends {
            source: order(source, by_address.source),
            destination: order(destination, by_address.destination),
        }
    }

    fn cause(&self, pods: &Pods) -> Cause {
        let known = pods.source.is_some() || pods.destination.is_some();
        Cause {
            reason: self.record.reason,
            location: self.record.location,
            direction: self.direction,
            pods: pods.clone(),
            address: if known { None } else { self.destination() },
        }
    }

    fn about<'a>(&self, pods: &'a Pods) -> Option<&'a Pod> {
        let Ends { source, destination } = pods;
        // Who waits for an answer is hurt by what it sent; who is sent to, by what it does not get.
        let first =
            if self.direction == Direction::Sent { [source, destination] } else { [destination, source] };
        first.into_iter().find_map(|pod| pod.as_deref())
    }

    fn message(&self, pods: &Pods, text: &mut String) {
        text.push_str("dropped ");
        row::flow(self, pods, text);
        text.extend([" (", self.reason_name()]);
        if let Some(place) = &self.place {
            text.extend([" in ", &*place.function]);
        }
        text.extend(["): ", &*self.means()]);
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

#[cfg(test)]
mod tests;
