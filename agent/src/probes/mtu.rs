//! The mtu probe: packets too large for their path, who says so, who is told, who never learns, and who dies without a
//! word.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;

use agent_common::mtu::Kind;
use prometheus_client::collector::Collector;

use crate::kernel::Kernel;
use crate::kernel::sockets::Sockets;
use crate::pod::{FindPod, PodSlots};
use crate::probe::attach::{Climb, MapError, Maps};
use crate::probe::counts::{Counts, ReadLimited};
use crate::probe::flow::ReadTallies;
use crate::probe::globals::Globals;
use crate::probe::knock::knock;
use crate::probe::slots::SlotMaps;
use crate::probe::{Column, DecodeError, Enriched, Event as _, Hook, Probe, Summary};

pub mod blocked;
pub mod cause;
pub mod decode;
pub mod destinations;
pub mod encrypted;
pub mod ends;
pub mod event;
pub mod finding;
pub mod fragments;
pub mod heed;
pub mod hooks;
pub mod labels;
pub mod row;
pub mod silent;
pub mod stall;
#[cfg(test)]
mod tests;
pub mod told;
pub mod verdict;
pub mod words;

use decode::Decoder;
use encrypted::Policies;
use event::TooBig;
use labels::{MtuRows, kind_name};

/// The probe.
pub struct Mtu {
    counts: Counts<MtuRows>,
    decoder: Decoder,
    policies: Policies,
    sockets: Sockets,
}

impl Probe for Mtu {
    type Event = TooBig;

    const NAME: &'static str = "mtu";
    const ABOUT: &'static str =
        "packets too large for their path: which hop or device, what it takes, and whose they are";
    const HOOKS: &'static [Hook] = hooks::ALL;
    // A path MTU that is learned, and a connection that is stuck for another cause.
    const ASIDE: &'static str = "ordinary";
    const COLUMNS: &'static [Column] = row::COLUMNS;

    fn object() -> &'static [u8] {
        aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mtu"))
    }

    fn globals(kernel: &Kernel, globals: &mut Globals) {
        hooks::globals(kernel, globals);
    }

    fn open(kernel: &Kernel, maps: &mut Maps<'_>) -> Result<Self, MapError> {
        let counts = Counts::take(maps, MtuRows, Self::HOOKS.len())?;
        hooks::tell_places(kernel, maps)?;
        let sockets = kernel.sockets();
        Ok(Self { counts, decoder: Decoder::new(kernel), policies: Policies::default(), sockets })
    }

    fn listens(&mut self, climbs: &[Climb]) {
        let holds = |name| climbs.iter().any(|climb| climb.hook.name == name && climb.holds.is_some());
        self.decoder.sees_arrivals(holds("icmp_unreach"), holds("icmpv6_notify"));
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

    fn limited_reader(&self) -> ReadLimited {
        self.counts.limited_reader()
    }

    fn reasons(_: &Kernel) -> Vec<String> {
        Kind::ALL.map(|kind| kind_name(kind).to_owned()).into()
    }

    fn tallies_reader(&self) -> ReadTallies {
        let counts = self.counts.clone();
        Arc::new(move || counts.tallies())
    }

    fn decode(&mut self, record: &[u8]) -> Result<TooBig, DecodeError> {
        let mut event = self.decoder.decode(record)?;
        self.policies.look_up(&mut event);
        if event.may_have_company()
            && let Some(peer) = event.destination()
        {
            event.stuck = self.sockets.stuck(event.record.netns, peer);
        }
        Ok(event)
    }

    fn provoke() -> io::Result<()> {
        // Too much for any datagram, so for any device, though not for the socket.
        static TOO_MUCH: [u8; 65_535] = [0; 65_535];
        knock(|closed| {
            // The kernel is meant to refuse it.
            let _ = UdpSocket::bind((closed.ip(), 0))?.send_to(&TOO_MUCH, closed);
            Ok(())
        })
    }

    fn observe(&mut self, enriched: &Enriched<'_, TooBig>) {
        let event = enriched.event;
        self.counts.exemplify(event.labels(), enriched.span.trace_id, event.at());
    }
}
