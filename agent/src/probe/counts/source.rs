//! Where the rows of exact counts come from: the kernel's maps, or a test's list.

use agent_common::{Count, Tally};
use aya::maps::{MapData, PerCpuArray, PerCpuHashMap};

use super::{Sum, batch};
use crate::probe::attach::{MapError, Maps};

/// Rows and tallies of one probe.
pub(crate) trait Source<K>: Send {
    /// Every row, summed over CPUs. A row that goes while we read is simply not there.
    fn rows(&self) -> Vec<(K, Sum)>;
    /// Takes a row out; whether it was there.
    fn remove(&mut self, key: &K) -> bool;
    /// Each hook's tally, summed over CPUs, by the hook's place in the probe's list.
    fn tallies(&self) -> Vec<Tally>;
}

/// The maps `COUNTS` and `TALLY` of a probe's object.
pub(super) struct KernelMaps<K: aya::Pod> {
    rows: PerCpuHashMap<MapData, K, Count>,
    tally: PerCpuArray<MapData, Tally>,
    hooks: usize,
}

impl<K: aya::Pod> KernelMaps<K> {
    pub(super) fn take(maps: &mut Maps<'_>, hooks: usize) -> Result<Self, MapError> {
        Ok(Self { rows: maps.take("COUNTS")?, tally: maps.take("TALLY")?, hooks })
    }
}

impl<K: aya::Pod + Send> Source<K> for KernelMaps<K> {
    fn rows(&self) -> Vec<(K, Sum)> {
        batch::rows(&self.rows).unwrap_or_else(|_| {
            let all = self.rows.iter().filter_map(Result::ok);
            all.map(|(key, counts)| (key, Sum::over(&counts))).collect()
        })
    }

    fn remove(&mut self, key: &K) -> bool {
        self.rows.remove(key).is_ok()
    }

    fn tallies(&self) -> Vec<Tally> {
        let of_hook = |hook| {
            let values = self.tally.get(&hook, 0).ok();
            values.iter().flat_map(|values| values.iter()).fold(Tally::default(), |sum, one| sum.plus(*one))
        };
        (0..).take(self.hooks).map(of_hook).collect()
    }
}

#[cfg(test)]
mod tests {
    use aya::maps::PerCpuValues;

    use super::*;

    /// `None` where this process may not make maps.
    fn maps() -> Option<KernelMaps<u32>> {
        let (rows, tally) = (PerCpuHashMap::create(4, 0).ok()?, PerCpuArray::create(3, 0).ok()?);
        Some(KernelMaps { rows, tally, hooks: 2 })
    }

    fn on_each_cpu<T: aya::Pod>(value: T) -> PerCpuValues<T> {
        PerCpuValues::try_from(vec![value; aya::util::nr_cpus().unwrap()]).unwrap()
    }

    #[test]
    fn what_the_kernel_counted_is_read_and_a_row_goes_once() {
        let Some(mut maps) = maps() else { return };
        let cpus = aya::util::nr_cpus().unwrap() as u64;
        for (key, events) in [(5, 1), (6, 20)] {
            maps.rows.insert(key, on_each_cpu(Count { events, ..Count::default() }), 0).unwrap();
        }
        let read = |maps: &KernelMaps<u32>| {
            let mut rows: Vec<_> = maps.rows().into_iter().map(|(key, sum)| (key, sum.events)).collect();
            rows.sort_unstable();
            rows
        };
        assert_eq!(read(&maps), [(5, cpus), (6, 20 * cpus)]);
        assert!(maps.remove(&5) && !maps.remove(&5));
        assert_eq!(read(&maps), [(6, 20 * cpus)]);
    }

    /// The map may have room for more hooks than the probe has.
    #[test]
    fn each_hook_has_a_tally() {
        let Some(mut maps) = maps() else { return };
        let cpus = aya::util::nr_cpus().unwrap() as u64;
        for (hook, seen) in [(0, 3), (1, 40), (2, 500)] {
            maps.tally.set(hook, on_each_cpu(Tally { seen, ..Tally::default() }), 0).unwrap();
        }
        let seen: Vec<u64> = maps.tallies().iter().map(|tally| tally.seen).collect();
        assert_eq!(seen, [3 * cpus, 40 * cpus]);
    }
}
