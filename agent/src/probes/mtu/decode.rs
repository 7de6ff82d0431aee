//! From a record of the kernel side to an event.

use std::sync::Arc;

use agent_common::mtu::{Fate, Kind, MtuRecord};
use agent_common::quote::Quote;

use super::event::TooBig;
use crate::kernel::Kernel;
use crate::kernel::clock::{self, Clock};
use crate::kernel::kallsyms::Kallsyms;
use crate::kernel::reasons::Reasons;
use crate::probe::DecodeError;

/// What decoding must know of the running kernel.
pub struct Decoder {
    symbols: Kallsyms,
    reasons: Reasons,
    clock: Clock,
    /// Of the kernel's tick.
    hertz: u32,
    /// Whether messages that arrive are seen, of IPv4 and of IPv6.
    arrivals: [bool; 2],
}

impl Decoder {
    /// With the names that `kernel` has.
    #[must_use]
    pub fn new(kernel: &Kernel) -> Self {
        Self {
            symbols: kernel.symbols().clone(),
            reasons: Reasons::load(kernel),
            clock: Clock::new(),
            hertz: clock::jiffies_a_second(),
            arrivals: [true; 2],
        }
    }

    /// Whether the hooks hold that see messages arrive.
    pub fn sees_arrivals(&mut self, ipv4: bool, ipv6: bool) {
        self.arrivals = [ipv4, ipv6];
    }

    /// The event in a record.
    ///
    /// # Errors
    /// It is of another length, or of a kind or fate that this version does not know.
    pub fn decode(&self, record: &[u8]) -> Result<TooBig, DecodeError> {
        let wrong = DecodeError::Length { got: record.len(), want: size_of::<MtuRecord>() };
        let record = MtuRecord::from_bytes(record).ok_or(wrong)?;
        let unknown = |what, number| DecodeError::Unknown { what, number };
        let kind = Kind::from_wire(record.kind).ok_or(unknown("kind", record.kind))?;
        let fate = Fate::from_wire(record.fate).ok_or(unknown("fate", record.fate))?;
        let header = record.header.get(..usize::from(record.header_len)).unwrap_or_default();
        let function = (record.location != 0).then(|| {
            self.symbols.find(|symbols| symbols.resolve(record.location).map(|place| place.function().into()))
        });
        let reason = self.reasons.name(record.reason).filter(|_| kind == Kind::Lost);
        Ok(TooBig {
            at: self.clock.to_wall(record.ktime_ns),
            kind,
            fate,
            quote: Quote::parse(header),
            function: function.flatten(),
            reason: reason.map(|reason| reason.as_ref().into()),
            hertz: self.hertz,
            sees_arrivals: self.arrivals[usize::from(record.ip_version == 6)],
            stuck: Arc::default(),
            wrapping: None,
            record,
        })
    }
}
