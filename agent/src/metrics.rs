//! Every metric of the agent in one registry, and the two texts it is given out in.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

mod classic;
pub mod fold;
mod negotiate;

pub use negotiate::negotiate;

/// A text Prometheus reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `OpenMetrics` 1.0.0: exemplars carry the `trace_id` of an incident.
    OpenMetrics,
    /// The text format 0.0.4, which everything reads.
    Classic,
}

impl Format {
    /// The value of `Content-Type`, version and charset included: without the version Prometheus guesses.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// What every name begins with, before an underscore.
pub const PREFIX: &str = "r2c";

/// All metrics. Every name begins with [`PREFIX`].
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Bytes of the last scrape.
    last: AtomicUsize,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { registry: Registry::with_prefix(PREFIX), last: AtomicUsize::new(0) }
    }
}

impl Metrics {
    /// Where probes register theirs: counters without `_total`, ratios without a unit.
    pub fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }

    /// One scrape: reads every collector and writes all of it down.
    ///
    /// # Errors
    /// A collector failed to encode itself.
    pub fn encode(&self, format: Format) -> Result<String, fmt::Error> {
        // Room for as much as last time: a text of megabytes that grows step by step is copied at each.
        let mut out = String::with_capacity(self.last.load(Relaxed));
        match format {
            Format::OpenMetrics => text::encode(&mut out, &self.registry)?,
            Format::Classic => {
                let mut lines = classic::Lines::new(&mut out);
                text::encode_registry(&mut lines, &self.registry)?;
                lines.finish()?;
            }
        }
        // And some more, for counts grow longer.
        self.last.store(out.len() + out.len() / 8, Relaxed);
        Ok(out)
    }
}

#[cfg(test)]
mod tests;
