//! What the tests stand on: network namespaces, pods as kubelet makes them, the agent as a child, and one shared lab.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, mpsc};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::unistd::Pid;

pub(crate) mod agent;
pub(crate) mod bpf;
pub(crate) mod crowd;
pub(crate) mod guest;
pub(crate) mod lab;
pub(crate) mod netns;
pub(crate) mod ovs;
pub(crate) mod packet;
pub(crate) mod pod;
pub(crate) mod scrape;
pub(crate) mod undo;

/// Nothing that is awaited takes this long, not even in a guest twenty times slower than its host.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);

/// The agent under test.
pub(crate) fn agent_binary() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug/r2c-agent");
    let path = std::env::var_os("R2C_AGENT").map_or(built, PathBuf::from);
    assert!(path.exists(), "no agent at {}: build it, or set R2C_AGENT", path.display());
    path
}

/// Asks again and again until `found` says something; fails, naming `what`, after [`DEADLINE`].
pub(crate) fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    let (_open, never) = mpsc::channel::<()>();
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(begun.elapsed() < DEADLINE, "in vain: {what}");
        // Not a guess at how long it takes: only to leave the processor to whom we wait for.
        let _ = never.recv_timeout(Duration::from_millis(20));
    }
}

/// Whether the kernel's own types name reasons of drops (from 5.15 on). Without them a class comes from the place alone,
/// and the tests want no reason.
pub(crate) fn has_reasons() -> bool {
    static HAS: LazyLock<bool> = LazyLock::new(|| {
        const NAME: &[u8] = b"SKB_DROP_REASON_NOT_SPECIFIED\0";
        let types = std::fs::read("/sys/kernel/btf/vmlinux").unwrap();
        types.windows(NAME.len()).any(|window| window == NAME)
    });
    *HAS
}

/// Where a UDP packet dies that nobody waits for: from 7 on compilers put it into its only caller.
pub(crate) const UDP4_RCV: [&str; 2] = ["__udp4_lib_rcv", "udp_rcv"];
/// The same of IPv6.
pub(crate) const UDP6_RCV: [&str; 2] = ["__udp6_lib_rcv", "udpv6_rcv"];

/// Whether an event is of a UDP packet for nobody.
pub(crate) fn is_of_udp_rcv(event: &serde_json::Value) -> bool {
    event["function"].as_str().is_some_and(|function| UDP4_RCV.contains(&function))
}

/// The label of a drop for this reason on the kernel under test.
pub(crate) fn reason(name: &str) -> &str {
    if has_reasons() { name } else { "NONE" }
}

/// How many lines are events of packets to this port.
pub(crate) fn lines_of(lines: &agent::Lines, port: u16) -> usize {
    let events = lines.since(0);
    events
        .iter()
        .filter_map(|line| agent::json(line))
        .filter(|event| event["destination_port"] == port)
        .count()
}

/// A command that fails the test by name if this machine lacks it: a test that is left out must not look passed.
pub(crate) fn tool(name: &str) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let found = std::env::split_paths(&path).chain(sbin).map(|dir| dir.join(name)).find(|path| path.exists());
    Command::new(found.unwrap_or_else(|| panic!("{name} is needed and not in PATH: `cargo xtask setup`")))
}

/// Gives this process alone what not every machine has mounted, and bpftrace needs.
pub(crate) fn with_tracefs() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    for (kind, place) in [("debugfs", "/sys/kernel/debug"), ("tracefs", "/sys/kernel/tracing")] {
        // Refused where it is mounted already.
        let _ = mount(Some(kind), place, Some(kind), MsFlags::empty(), None::<&str>);
    }
    Ok(())
}

/// Keeps this thread to one processor.
pub(crate) fn on_first_cpu() {
    let mut cpus = CpuSet::new();
    cpus.set(0).unwrap();
    sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();
}
