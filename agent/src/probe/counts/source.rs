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
