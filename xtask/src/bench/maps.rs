//! What a process holds in the kernel: its BPF maps, what they take by formula and by bpftool, and its programs.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::unistd::Pid;
use serde::Deserialize;

use crate::run::Run as _;

/// A map as `bpftool map show` describes it.
#[derive(Deserialize)]
pub(super) struct Map {
    pub(super) id: u32,
    pub(super) name: String,
    #[serde(rename = "type")]
    kind: String,
    bytes_key: u64,
    bytes_value: u64,
    pub(super) max_entries: u64,
    /// What the kernel says it takes.
    pub(super) bytes_memlock: u64,
}

/// The maps that this process holds.
pub(super) fn maps(pid: Pid) -> Result<Vec<Map>> {
    let held = told(pid, "map_id:")?;
    let all: Vec<Map> = serde_json::from_str(&bpftool(&["--json", "map", "show"])?)?;
    let held: Vec<Map> = all.into_iter().filter(|map| held.contains(&map.id)).collect();
    if held.is_empty() {
        bail!("process {pid} holds no BPF map");
    }
    Ok(held)
}

/// Instructions the verifier walked through for the largest program that this process has loaded.
pub(super) fn verified(pid: Pid) -> Result<u32> {
    told(pid, "verified_insns:")?.into_iter().max().context("no program is loaded")
}

/// How often a program ran, and what it executed.
#[derive(Deserialize)]
pub(super) struct Ran {
    id: u32,
    #[serde(default)]
    name: String,
    /// With `kernel.bpf_stats_enabled`; 0 until it has run.
    #[serde(rename = "run_time_ns", default)]
    pub(super) nanoseconds: u64,
    /// How often.
    #[serde(rename = "run_cnt", default)]
    pub(super) times: u64,
}

/// What this process's program whose name begins so has executed so far: a name is cut after 15 bytes where bpftool is old.
pub(super) fn ran(pid: Pid, name: &str) -> Result<Ran> {
    let held = told(pid, "prog_id:")?;
    let all: Vec<Ran> = serde_json::from_str(&bpftool(&["--json", "prog", "show"])?)?;
    let ours = all.into_iter().find(|program| program.name.starts_with(name) && held.contains(&program.id));
    ours.with_context(|| format!("process {pid} holds no program {name}"))
}

/// The numbers after a word, in all that the kernel says of this process's descriptors.
fn told(pid: Pid, word: &str) -> Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for file in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor may be closed while we look.
        let text = fs::read_to_string(file?.path()).unwrap_or_default();
        let found = text.lines().filter_map(|line| line.strip_prefix(word)?.trim().parse::<u32>().ok());
        numbers.extend(found);
    }
    Ok(numbers)
}

/// The values of a map of half words.
pub(super) fn values(map: &Map) -> Result<Vec<u16>> {
    /// An entry as bpftool writes it: bytes in hexadecimal.
    #[derive(Deserialize)]
    struct Entry {
        value: [String; 2],
    }
    let dump = bpftool(&["--json", "map", "dump", "id", &map.id.to_string()])?;
    let entries: Vec<Entry> = serde_json::from_str(&dump)?;
    let byte = |text: &String| u8::from_str_radix(text.trim_start_matches("0x"), 16);
    entries
        .iter()
        .map(|entry| Ok(u16::from_le_bytes([byte(&entry.value[0])?, byte(&entry.value[1])?])))
        .collect()
}

fn bpftool(args: &[&str]) -> Result<String> {
    Command::new("bpftool").args(args).read()
}

/// bpftool's words, many at once: it starts slowly in a guest.
pub(super) fn batch(words: &str) -> Result<()> {
    let mut bpftool = Command::new("bpftool");
    bpftool.args(["batch", "file", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).dies_with_us();
    let mut child = bpftool.spawn().context("bpftool")?;
    child.stdin.take().context("a pipe to bpftool")?.write_all(words.as_bytes())?;
    if !child.wait()?.success() {
        bail!("bpftool refused a line");
    }
    Ok(())
}

impl Map {
    /// Bytes it takes in the kernel with this many possible processors, after kernel/bpf/{hashtab,arraymap,ringbuf}.c.
    pub(super) fn bytes(&self, cpus: u64) -> Result<u64> {
        /// `struct htab_elem` before the key, a bucket, `struct bpf_htab` and the like, a page.
        const ELEMENT: u64 = 48;
        const BUCKET: u64 = 16;
        const OWN: u64 = 320;
        const PAGE: u64 = 4096;
        /// A bucket's lock is guarded by as many counters a processor (6.12; 6.1 has eight).
        const LOCKS: u64 = 8;
        let (key, value) = (self.bytes_key.next_multiple_of(8), self.bytes_value.next_multiple_of(8));
        let entries = self.max_entries;
        let hash = OWN + BUCKET * entries.next_power_of_two() + 4 * LOCKS * cpus;
        Ok(match self.kind.as_str() {
            "hash" => hash + (entries + cpus) * (ELEMENT + key + value) + 8 * cpus,
            "percpu_hash" => hash + entries * (ELEMENT + key + 8 + value * cpus),
            "array" => (OWN + entries * value).next_multiple_of(PAGE),
            "percpu_array" => OWN + entries * (8 + value * cpus),
            // Data, the pages of positions and of the head, and a pointer to each page, twice to those of data.
            "ringbuf" => OWN + entries + 3 * PAGE + 8 * (3 + 2 * entries / PAGE),
            kind => bail!("no formula for a map of type {kind} ({})", self.name),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Map;

    fn map(kind: &str) -> Map {
        let text = format!(
            r#"{{"id":1,"type":"{kind}","name":"X","flags":0,"bytes_key":16,"bytes_value":32,"max_entries":4096,"bytes_memlock":1}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn per_cpu_maps_grow_with_the_processors() {
        let [one, many] = [1, 64].map(|cpus| map("percpu_hash").bytes(cpus).unwrap());
        assert_eq!(many - one, 63 * (4096 * 32 + 32));
        let [one, many] = [1, 64].map(|cpus| map("ringbuf").bytes(cpus).unwrap());
        assert_eq!(many, one);
        assert!(map("lpm_trie").bytes(1).is_err());
    }
}
