//! A token bucket filter (`tc-tbf(8)`) out of the kernel's `RTM_NEWQDISC`: how long a packet it ever lets pass.

use super::tc::{DEVICE, HEADER, PARENT, TCA_KIND, TCA_OPTIONS};
use super::{find, number, text};

/// `linux/pkt_sched.h`.
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_PRATE64: u16 = 5;
/// In `struct tc_tbf_qopt`: `rate.rate`, `peakrate.rate`, `buffer`, `mtu`.
const RATE: usize = 8;
const PEAK_RATE: usize = 20;
const BUFFER: usize = 28;
const PEAK_BUFFER: usize = 32;

/// What a token bucket holds when it is full: a frame that is longer never passes. What its rate adds for headers (`overhead`,
/// ATM cells) is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Its `burst`.
    pub burst: Size,
    /// Its `minburst` (`mtu`), if it has a peak rate.
    pub minburst: Option<Size>,
    /// It takes all that leaves by its device, and is not below another queue, which gives it some.
    pub is_root: bool,
}

/// A size in bytes. The kernel tells it by the time that so much takes, in whole ticks: of fast rates a tick is many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size {
    /// The most that it may be.
    pub most: u32,
    /// What `tc` shows.
    pub shown: u32,
}

impl Size {
    /// What passes at this rate in so many ticks.
    fn of(rate: u64, ticks: u32) -> Option<Self> {
        Some(Self { most: in_bytes(rate, ticks.saturating_add(1))?, shown: in_bytes(rate, ticks)? })
    }
}

impl Bucket {
    /// Bytes of the longest frame that may pass.
    #[must_use]
    pub fn holds(self) -> u32 {
        self.minburst.map_or(self.burst, |minburst| minburst.min(self.burst)).most
    }

    /// The one that holds less.
    #[must_use]
    pub fn smaller(self, other: Self) -> Self {
        if other.holds() < self.holds() { other } else { self }
    }

    /// What gives it enough for such frames; `named` is the bucket.
    #[must_use]
    pub fn cure(self, named: &str, frame: u32) -> String {
        format!(
            "give the token bucket of {named} {} (`tc qdisc replace`; the bandwidth plugin's burst is in bits)",
            self.wants(frame)
        )
    }

    /// What it must be given for such frames, as in `a burst of 3028 bytes or more`.
    fn wants(self, frame: u32) -> String {
        let names: Vec<_> = self.less(frame).map(|(name, _)| format!("a {name}")).collect();
        // Programs that hand it over as a time lose a part of it.
        format!("{} of {} bytes or more", names.join(" and "), frame.saturating_mul(2))
    }

    /// Which of its sizes are too small for such frames, as in `burst 1400`.
    #[must_use]
    pub fn lacks(self, frame: u32) -> String {
        let sizes: Vec<_> = self.less(frame).map(|(name, bytes)| format!("{name} {bytes}")).collect();
        sizes.join(", ")
    }

    /// Which of its sizes keep a frame of so many bytes from passing, by the names that `tc` has for them.
    fn less(self, frame: u32) -> impl Iterator<Item = (&'static str, u32)> {
        let both = [("burst", Some(self.burst)), ("minburst", self.minburst)];
        let less =
            move |(name, size): (_, Option<Size>)| Some((name, size.filter(|size| size.most < frame)?.shown));
        both.into_iter().filter_map(less)
    }
}

#[cfg(test)]
impl Bucket {
    /// One of this burst that takes all.
    pub(crate) const fn of(burst: u32) -> Self {
        Self { burst: Size { most: burst, shown: burst }, minburst: None, is_root: true }
    }
}

/// The device that a message of a queue is about, and its token bucket, if it is one.
#[must_use]
pub fn bucket(payload: &[u8]) -> Option<(u32, Bucket)> {
    /// `TC_H_ROOT`
    const ROOT: u32 = u32::MAX;
    let device = number(payload.get(DEVICE..)?)?;
    let is_root = number(payload.get(PARENT..)?)? == ROOT;
    let attributes = payload.get(HEADER..)?;
    let options =
        find(attributes, TCA_OPTIONS).filter(|_| find(attributes, TCA_KIND).map(text) == Some(b"tbf"))?;
    let parameters = find(options, TCA_TBF_PARMS)?;
    let burst = Size::of(
        rate(find(options, TCA_TBF_RATE64), parameters.get(RATE..)?)?,
        number(parameters.get(BUFFER..)?)?,
    )?;
    let peak = rate(find(options, TCA_TBF_PRATE64), parameters.get(PEAK_RATE..)?)?;
    let peak_buffer = number(parameters.get(PEAK_BUFFER..)?)?;
    let minburst = (peak > 0).then(|| Size::of(peak, peak_buffer)).flatten();
    Some((device, Bucket { burst, minburst, is_root }))
}

/// Bytes a second: of more than 32 bits, or else of 32.
#[must_use]
pub fn rate(rate64: Option<&[u8]>, rate: &[u8]) -> Option<u64> {
    let large = rate64.and_then(|rate| Some(u64::from_ne_bytes(rate.get(..8)?.try_into().ok()?)));
    large.or_else(|| number(rate).map(u64::from))
}

/// The bytes that pass at this rate in so many ticks.
#[must_use]
pub fn in_bytes(rate: u64, ticks: u32) -> Option<u32> {
    /// `PSCHED_SHIFT`
    const TICK_NS: u64 = 64;
    let nanoseconds = u64::from(ticks) * TICK_NS;
    u32::try_from(u128::from(rate) * u128::from(nanoseconds) / 1_000_000_000).ok()
}

#[cfg(test)]
mod tests;
