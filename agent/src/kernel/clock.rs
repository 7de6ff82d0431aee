//! Turns the kernel's event times into wall-clock time.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_getres, clock_gettime};

/// How long one sample of the clocks is good for. Wall time may be stepped and monotonic time stands still in suspend:
/// older samples would be wrong by that much. Within a sample, events keep the distances the kernel gave them.
const MAX_AGE: Duration = Duration::from_secs(10);

/// Readings per sample; the one least disturbed by preemption counts.
const READINGS: usize = 3;

/// `CLOCK_MONOTONIC` (what `bpf_ktime_get_ns` reads) to wall-clock time.
#[derive(Debug)]
pub struct Clock(Mutex<Sample>);

#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Wall-clock time minus monotonic time, in ns: when the machine booted, less the time it was suspended.
    offset: i128,
    /// `CLOCK_BOOTTIME` of the sample: it goes on in suspend, so a sample from before it is old.
    taken: Duration,
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    /// A clock with a fresh sample.
    #[must_use]
    pub fn new() -> Self {
        Self(Mutex::new(Sample::take()))
    }

    /// The wall-clock time of `ktime_ns`, as far as the machine's clocks tell it now.
    ///
    /// Any number will do; what is no time at all becomes the epoch.
    #[must_use]
    pub fn to_wall(&self, ktime_ns: u64) -> SystemTime {
        let mut sample = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if read(ClockId::CLOCK_BOOTTIME).saturating_sub(sample.taken) > MAX_AGE {
            *sample = Sample::take();
        }
        sample.to_wall(ktime_ns)
    }
}

/// How often a second the kernel's tick comes (`CONFIG_HZ`): it is what the coarse clocks go by.
#[must_use]
pub fn jiffies_a_second() -> u32 {
    hertz(clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map(Duration::from).unwrap_or_default())
}

/// How many of these ticks are a second.
fn hertz(tick: Duration) -> u32 {
    /// What most distributions set.
    const USUAL: u32 = 250;
    let a_second = Duration::from_secs(1).as_nanos().checked_div(tick.as_nanos());
    a_second.and_then(|hertz| u32::try_from(hertz).ok()).filter(|hertz| *hertz > 0).unwrap_or(USUAL)
}

impl Sample {
    fn take() -> Self {
        let readings = (0..READINGS).map(|_| {
            let before = ns(read(ClockId::CLOCK_MONOTONIC));
            let wall = ns(read(ClockId::CLOCK_REALTIME));
            (before, wall, ns(read(ClockId::CLOCK_MONOTONIC)))
        });
        Self { offset: offset(readings), taken: read(ClockId::CLOCK_BOOTTIME) }
    }

    fn to_wall(self, ktime_ns: u64) -> SystemTime {
        let since_epoch = u64::try_from(i128::from(ktime_ns).saturating_add(self.offset));
        let wall =
            since_epoch.ok().and_then(|ns| SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(ns)));
        wall.unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

/// Wall-clock time minus monotonic time, by the reading that took least: monotonic time before and after it, wall-clock time
/// between.
fn offset(readings: impl Iterator<Item = (i128, i128, i128)>) -> i128 {
    let offsets =
        readings.map(|(before, wall, after)| (after - before, wall - i128::midpoint(before, after)));
    offsets.min_by_key(|(took, _)| *took).map_or(0, |(_, offset)| offset)
}

/// Zero only if the kernel does not know the clock, which none that runs BPF is.
fn read(clock: ClockId) -> Duration {
    clock_gettime(clock).map_or(Duration::ZERO, Duration::from)
}

fn ns(time: Duration) -> i128 {
    i128::try_from(time.as_nanos()).unwrap_or(i128::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn monotonic() -> u64 {
        u64::try_from(read(ClockId::CLOCK_MONOTONIC).as_nanos()).unwrap()
    }

    #[test]
    fn now_is_now() {
        let clock = Clock::new();
        let before = SystemTime::now();
        let converted = clock.to_wall(monotonic());
        let after = SystemTime::now();
        let slack = Duration::from_millis(50);
        assert!(
            converted + slack > before && converted < after + slack,
            "{before:?} {converted:?} {after:?}"
        );
    }

    #[test]
    fn distances_are_kept() {
        let clock = Clock::new();
        let distance = clock.to_wall(2_000_000_123).duration_since(clock.to_wall(1_000_000_000)).unwrap();
        assert_eq!(distance, Duration::from_nanos(1_000_000_123));
    }

    #[test]
    fn an_old_sample_is_taken_again() {
        // As after a step of the wall clock or a suspend: the offset is wrong by an hour.
        let fresh = Sample::take();
        let hour = 3_600_000_000_000;
        let wrong = |taken| Clock(Mutex::new(Sample { offset: fresh.offset - hour, taken }));
        let (young, old) = (wrong(fresh.taken), wrong(fresh.taken.saturating_sub(MAX_AGE * 2)));
        let now = SystemTime::now();
        let error = |clock: &Clock| now.duration_since(clock.to_wall(monotonic())).unwrap_or_default();
        assert!(error(&young) > Duration::from_mins(50));
        assert!(error(&old) < Duration::from_mins(1), "{:?}", error(&old));
    }

    /// Who is interrupted between two clocks reads one of them late.
    #[test]
    fn the_reading_that_was_disturbed_least_counts() {
        let readings = [(0, 5_090, 100), (200, 5_205, 210), (300, 5_390, 400)];
        assert_eq!(offset(readings.into_iter()), 5_000);
    }

    #[test]
    fn ticks_a_second_are_told_by_their_length() {
        for (nanoseconds, wanted) in [
            (4_000_000, 250),
            (1_000_000, 1000),
            (3_333_333, 300),
            (10_000_000, 100),
            (1_000_000_000, 1),
            // No length of a tick: the usual.
            (0, 250),
            (2_000_000_000, 250),
        ] {
            assert_eq!(hertz(Duration::from_nanos(nanoseconds)), wanted, "{nanoseconds} ns");
        }
        assert!(jiffies_a_second() > 1, "no kernel ticks once a second");
    }

    proptest! {
        #[test]
        fn any_number_will_do(ktime_ns: u64, offset: i128) {
            let _ = Sample { offset, taken: Duration::ZERO }.to_wall(ktime_ns);
            prop_assert!(Clock::new().to_wall(ktime_ns) >= SystemTime::UNIX_EPOCH);
        }
    }
}
