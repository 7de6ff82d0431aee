//! The programs of one probe while they are attached, and what they may have missed.

use std::sync::{Mutex, PoisonError};

use agent_common::BESIDE;
use aya::Ebpf;

/// A probe's loaded object. Its links die with it.
pub struct Attached(Mutex<Programs>);

struct Programs {
    bpf: Option<Ebpf>,
    missed: u64,
}

impl Attached {
    /// Of an object whose programs are attached.
    pub(super) const fn of(bpf: Ebpf) -> Self {
        Self(Mutex::new(Programs { bpf: Some(bpf), missed: 0 }))
    }

    /// Of an object that has gone, whose programs missed so many events.
    #[cfg(test)]
    pub(super) const fn gone(missed: u64) -> Self {
        Self(Mutex::new(Programs { bpf: None, missed }))
    }

    /// Detaches every program, once and for all. What they saw is in the ring and in the counts when this returns.
    pub fn detach(&self) {
        let mut programs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bpf) = programs.bpf.take() else { return };
        programs.missed = missed(Some(&bpf));
        drop(bpf);
        wait_for_programs();
    }

    /// Events the kernel did not hand to a program because it was already running on that CPU (an interrupt in the
    /// middle of it). They are in no other number. Zero where there are none, since the program is run again (raw and typed
    /// tracepoints up to 5.15), and where the kernel does not count them: breakpoints and classic tracepoints before 6.7,
    /// which miss what comes while any program of such a kind runs on that CPU, or a map is read there. What a kretprobe
    /// has no instance left for no kernel counts here.
    #[must_use]
    pub fn missed(&self) -> u64 {
        let programs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if programs.bpf.is_some() { missed(programs.bpf.as_ref()) } else { programs.missed }
    }
}

/// Waits until no CPU is in the middle of a program that was detached before: its record would come too late to be read.
fn wait_for_programs() {
    // Detaching does not wait for it; `MEMBARRIER_CMD_GLOBAL` does (membarrier(2): it is `synchronize_rcu`, and programs
    // run with preemption off). Where the kernel refuses it (nohz_full) a record may be missed, as it always may be.
    // SAFETY: takes no pointer.
    unsafe { nix::libc::syscall(nix::libc::SYS_membarrier, nix::libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
}

/// `recursion_misses` of every loaded program that sees events, from `/proc/self/fdinfo` (kernel/bpf/syscall.c, `bpf_prog_show_fdinfo`).
fn missed(bpf: Option<&Ebpf>) -> u64 {
    use std::os::fd::{AsFd, AsRawFd};
    let Some(bpf) = bpf else { return 0 };
    bpf.programs()
        .filter(|(name, _)| !name.starts_with(BESIDE))
        .filter_map(|(_, program)| program.fd().ok())
        .filter_map(|fd| {
            std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_fd().as_raw_fd())).ok()
        })
        .filter_map(|text| {
            text.lines().find_map(|line| line.strip_prefix("recursion_misses:")?.trim().parse::<u64>().ok())
        })
        .sum()
}
