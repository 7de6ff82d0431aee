//! A record's meaning: names for its numbers, by what the running kernel says of itself. No map is needed for it.

use std::net::SocketAddr;

use agent_common::drops::{Direction, DropRecord};
use agent_common::quote::Quote;

use super::PacketDrop;
use super::class::judge;
use super::evidence::{self, Sources};
use super::place::Places;
use crate::kernel::Kernel;
use crate::kernel::clock::Clock;
use crate::kernel::reasons::Reasons;
use crate::probe::DecodeError;

/// What turns records into events.
pub struct Decoder {
    pub(super) reasons: Reasons,
    pub(super) places: Places,
    sources: Sources,
    clock: Clock,
}

impl Decoder {
    /// With the names that `kernel` has.
    #[must_use]
    pub fn new(kernel: &Kernel) -> Self {
        Self {
            reasons: Reasons::load(kernel),
            places: Places::of(kernel),
            sources: Sources { limits: kernel.limits(), sockets: kernel.sockets() },
            clock: Clock::new(),
        }
    }

    /// The event in a record, whatever its bytes are.
    ///
    /// # Errors
    /// It is not exactly one record long, or its direction is one that this version does not know.
    pub fn decode(&self, record: &[u8]) -> Result<PacketDrop, DecodeError> {
        let want = size_of::<DropRecord>();
        let record = DropRecord::from_bytes(record).ok_or(DecodeError::Length { got: record.len(), want })?;
        let unknown = DecodeError::Unknown { what: "direction", number: record.direction };
        let direction = Direction::from_wire(record.direction).ok_or(unknown)?;
        let place = self.places.at(record.location);
        let reason = self.reasons.name(record.reason);
        let function = place.as_ref().map_or("", |place| place.function.as_ref());
        let named = reason.as_deref().unwrap_or("");
        let counted = judge(named, function, record.circumstances);
        let header = record.header.get(..record.header_len.into()).unwrap_or_default();
        let packet = Quote::parse(header);
        let from = packet.and_then(|packet| {
            let flow = packet.flow;
            Some(SocketAddr::new(flow.source, flow.ports?.0))
        });
        let inner = packet.and_then(|packet| packet.inner);
        let (verdict, evidence) =
            evidence::gather(&self.sources, &record, named, function, from, inner.is_some(), counted);
        Ok(PacketDrop {
            at: self.clock.to_wall(record.ktime_ns),
            reason: reason.map(|reason| reason.as_ref().into()),
            place,
            counted,
            verdict,
            evidence,
            direction,
            home: None,
            inner,
            encrypted: packet.and_then(|packet| packet.encrypted),
            record,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Roots;

    #[test]
    fn a_record_of_an_unknown_direction_says_so() {
        let decoder = Decoder::new(&Kernel::load_from(Roots::under("/nonexistent".as_ref())));
        let mut record = [0; size_of::<DropRecord>()];
        assert!(decoder.decode(&record).is_ok_and(|event| event.direction == Direction::Unknown));
        record[std::mem::offset_of!(DropRecord, direction)] = 4;
        let unknown = DecodeError::Unknown { what: "direction", number: 4 };
        assert_eq!(decoder.decode(&record).err(), Some(unknown));
        let want = record.len();
        let short = DecodeError::Length { got: want - 1, want };
        assert_eq!(decoder.decode(&record[1..]).err(), Some(short));
    }
}
