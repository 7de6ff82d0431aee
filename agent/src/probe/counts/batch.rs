//! Reads a per-CPU hash map by the thousand rows a call, where one by one takes two calls and two allocations a row.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use agent_common::Count;
use aya::maps::{IterableMap, MapData, PerCpuHashMap, PerCpuValues};
use nix::libc;

use super::Sum;

/// `BPF_MAP_LOOKUP_BATCH` of `enum bpf_cmd` (include/uapi/linux/bpf.h); per-CPU hash maps have it since 5.6.
const LOOKUP_BATCH: libc::c_int = 24;

/// Bytes of values a call: a row has a value for each CPU there may ever be. So few that the allocator has them at hand:
/// for more, each scrape would have pages mapped and cleared.
const VALUES: usize = 64 << 10;

/// Rows a call, at least: the kernel gives out whole buckets, which hold one or two rows each.
const MIN_ROWS: usize = 64;

/// More rows than any bucket has: the kernel's answer must be wrong.
const MAX_ROWS: usize = 1 << 20;

/// `struct { } batch` of `union bpf_attr`.
#[repr(C)]
struct Batch {
    /// `in_batch`
    begin: u64,
    /// `out_batch`
    end: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Every row, summed over CPUs.
pub(super) fn rows<K: aya::Pod>(map: &PerCpuHashMap<MapData, K, Count>) -> io::Result<Vec<(K, Sum)>> {
    let cpus = aya::util::nr_cpus().map_err(|(_, fault)| fault)?;
    read_all(IterableMap::<K, PerCpuValues<Count>>::map(map), cpus, rows_a_call(cpus))
}

fn rows_a_call(cpus: usize) -> usize {
    (VALUES / (size_of::<Count>() * cpus)).max(MIN_ROWS)
}

fn read_all<K: aya::Pod>(map: &MapData, cpus: usize, mut at_once: usize) -> io::Result<Vec<(K, Sum)>> {
    let mut rows = Vec::new();
    // Where the last call ended: a bucket, to the kernel.
    let (mut before, mut after) = (None::<u32>, 0_u32);
    let mut keys = Vec::<K>::new();
    let mut values = Vec::<Count>::new();
    loop {
        keys.clear();
        keys.reserve(at_once);
        values.resize(at_once * cpus, Count::default());
        let mut batch = Batch {
            begin: before.as_ref().map_or(0, address),
            end: (&raw mut after).expose_provenance() as u64,
            keys: keys.as_mut_ptr().expose_provenance() as u64,
            values: values.as_mut_ptr().expose_provenance() as u64,
            count: u32::try_from(at_once).map_err(io::Error::other)?,
            map_fd: u32::try_from(map.fd().as_fd().as_raw_fd()).map_err(io::Error::other)?,
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the layout is the kernel's. `begin` and `end` point to four bytes, as hash maps have them;
        // there is room for `count` keys, and for `count` values of each possible CPU (of a multiple of eight bytes,
        // so the kernel pads none); all of it lives until the call returns.
        let done = unsafe { libc::syscall(libc::SYS_bpf, LOOKUP_BATCH, &raw mut batch, size_of::<Batch>()) };
        let fault = (done < 0).then(io::Error::last_os_error);
        match fault.as_ref().map(io::Error::raw_os_error) {
            // More than fits is in the next bucket alone, and nothing was read.
            Some(Some(libc::ENOSPC)) if at_once < MAX_ROWS => {
                at_once *= 2;
                continue;
            }
            // ENOENT: these were the last.
            None | Some(Some(libc::ENOENT)) => {}
            Some(_) => return Err(fault.unwrap_or_else(io::Error::last_os_error)),
        }
        let read = (batch.count as usize).min(at_once);
        // SAFETY: the kernel wrote that many keys, and any bytes are a key.
        unsafe { keys.set_len(read) };
        rows.extend(keys.iter().copied().zip(values.chunks_exact(cpus).map(Sum::over)));
        if fault.is_some() {
            return Ok(rows);
        }
        before = Some(after);
    }
}

fn address<T>(of: &T) -> u64 {
    std::ptr::from_ref(of).expose_provenance() as u64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Instant;

    use super::*;

    /// A map of so many rows; `None` where this process may not make maps, which only a run outside of CI may shrug at.
    fn map(rows: u32) -> Option<PerCpuHashMap<MapData, [u32; 4], Count>> {
        let Ok(mut map) = PerCpuHashMap::create(20_000, 0) else {
            return None;
        };
        let cpus = aya::util::nr_cpus().unwrap();
        for row in 0..rows {
            let of_cpu = |cpu: usize| Count { events: u64::from(row), bytes: cpu as u64, ..Count::default() };
            let counts = PerCpuValues::try_from((0..cpus).map(of_cpu).collect::<Vec<_>>()).unwrap();
            map.insert([row, 0, 0, 7], counts, 0).unwrap();
        }
        Some(map)
    }

    fn one_by_one(map: &PerCpuHashMap<MapData, [u32; 4], Count>) -> BTreeMap<[u32; 4], Sum> {
        let rows = map.iter().map(Result::unwrap);
        rows.map(|(key, counts)| (key, Sum::over(&counts))).collect()
    }

    #[test]
    fn every_row_is_read_once_however_many_a_call() {
        let cpus = aya::util::nr_cpus().unwrap();
        for count in [0, 1, 63, 64, 5_000] {
            let Some(map) = map(count) else { return };
            let expected = one_by_one(&map);
            assert_eq!(expected.len(), count as usize);
            let data = IterableMap::<[u32; 4], PerCpuValues<Count>>::map(&map);
            // One at a time: a bucket of two does not fit at first.
            for at_once in [1, 64, 8_192] {
                let read: Vec<([u32; 4], Sum)> = read_all(data, cpus, at_once).unwrap();
                assert_eq!(read.len(), expected.len(), "{count} rows, {at_once} at once");
                assert_eq!(read.into_iter().collect::<BTreeMap<_, _>>(), expected);
            }
        }
    }

    /// A value has 32 bytes, and a call 64 KiB of them.
    #[test]
    fn the_more_cpus_there_may_be_the_fewer_rows_a_call_has() {
        assert_eq!([1, 2, 16, 32, 33, 1024].map(rows_a_call), [2048, 1024, 128, 64, 64, 64]);
    }

    #[test]
    #[ignore = "a measurement, to be run by hand in a release build"]
    fn what_reading_costs() {
        let map = map(10_000).unwrap();
        let begun = Instant::now();
        assert_eq!(one_by_one(&map).len(), 10_000);
        let singly = begun.elapsed();
        let begun = Instant::now();
        assert_eq!(rows(&map).unwrap().len(), 10_000);
        println!("10,000 rows: one by one {singly:?}, in batches {:?}", begun.elapsed());
    }
}
