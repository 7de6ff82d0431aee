//! Small programs on a device, as network plugins put there larger ones.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

/// `union bpf_attr` of `BPF_PROG_LOAD`, and of `BPF_LINK_CREATE`.
const LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;

/// A kind of program and where it is attached.
#[derive(Clone, Copy)]
pub(crate) struct Hook {
    kind: u64,
    at: u64,
    flags: u64,
}

/// Ingress of tcx.
pub(crate) const TCX: Hook = Hook { kind: 3, at: 46, flags: 0 };
/// XDP, by the device's driver.
pub(crate) const XDP: Hook = Hook { kind: 6, at: 37, flags: 0 };
/// XDP on packets that the driver has made already (`xdpgeneric`).
pub(crate) const XDP_GENERIC: Hook = Hook { flags: 1 << 1, ..XDP };

/// A program as the kernel takes it: an operation, two registers, an offset and a number in each word.
pub(crate) type Program = &'static [u64];

/// XDP: drops UDP of IPv4 and no more (no question of the kernel's own about a neighbour, which may come at any time).
pub(crate) const DROP_UDP: Program = &[
    // `r2 = data`, `r3 = data_end`; if there are not 24 bytes, pass.
    0x61 | 2 << 8 | 1 << 12,
    0x61 | 3 << 8 | 1 << 12 | 4 << 16,
    0xbf | 4 << 8 | 2 << 12,
    0x07 | 4 << 8 | 24 << 32,
    0x2d | 4 << 8 | 3 << 12 | 4 << 16,
    // Unless the protocol is 17, pass. (Of ARP this is a byte of an address.)
    0x71 | 4 << 8 | 2 << 12 | 23 << 16,
    0x55 | 4 << 8 | 2 << 16 | 17 << 32,
    // `XDP_DROP`.
    0xb7 | 1 << 32,
    0x95,
    // `XDP_PASS`.
    0xb7 | 2 << 32,
    0x95,
];

/// `XDP_PASS`; at tc `TC_ACT_SHOT`.
pub(crate) const TWO: Program = &[0xb7 | 2 << 32, 0x95];

fn bpf(command: libc::c_int, attributes: &[u64; 16]) -> Result<OwnedFd, Errno> {
    // SAFETY: the kernel reads no more than the size it is given.
    let made = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(attributes)) };
    let made = Errno::result(made)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(made).unwrap()) })
}

/// A program on a device of this thread's namespace, for as long as the file is open.
pub(crate) fn attach(hook: Hook, program: Program, device: &str) -> Result<OwnedFd, Errno> {
    // Before 5.11 programs count as locked memory of their user, who has the agent's as well.
    setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY)?;
    let mut attributes = [0; 16];
    attributes[0] = hook.kind | (program.len() as u64) << 32;
    attributes[1] = program.as_ptr().addr() as u64;
    attributes[2] = c"GPL".as_ptr().addr() as u64;
    let program = bpf(LOAD, &attributes)?;
    let index = nix::net::if_::if_nametoindex(device)?;
    let mut attributes = [0; 16];
    attributes[0] = u64::from(program.as_raw_fd().cast_unsigned()) | u64::from(index) << 32;
    attributes[1] = hook.at | hook.flags << 32;
    bpf(LINK_CREATE, &attributes)
}
