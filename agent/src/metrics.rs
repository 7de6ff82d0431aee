//! Every metric of the agent in one registry, and the two texts it is given out in.

use std::fmt;

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

/// All metrics. Every name begins with `r2c_`.
#[derive(Debug)]
pub struct Metrics(Registry);

impl Default for Metrics {
    fn default() -> Self {
        Self(Registry::with_prefix("r2c"))
    }
}

impl Metrics {
    /// Where probes register theirs: counters without `_total`, ratios without a unit.
    pub fn registry(&mut self) -> &mut Registry {
        &mut self.0
    }

    /// One scrape: reads every collector and writes all of it down.
    ///
    /// # Errors
    /// A collector failed to encode itself.
    pub fn encode(&self, format: Format) -> Result<String, fmt::Error> {
        let mut out = String::new();
        match format {
            Format::OpenMetrics => text::encode(&mut out, &self.0)?,
            Format::Classic => {
                let mut lines = classic::Lines::new(&mut out);
                text::encode_registry(&mut lines, &self.0)?;
                lines.finish()?;
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests;
