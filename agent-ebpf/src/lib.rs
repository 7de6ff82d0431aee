//! What every probe's kernel side needs: reading kernel memory, pod slots, counts and tallies.
#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![expect(
    clippy::inline_always,
    reason = "a call between BPF functions costs, and an untyped argument loses the BTF type"
)]

pub mod counts;
pub mod device;
pub mod filter;
pub mod icmp;
pub mod kernel;
pub mod noted;
pub mod packet;
pub mod programs;
pub mod slots;
pub mod tally;

/// A BPF program cannot unwind; the verifier proves that this is never reached.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel lets only GPL-compatible programs call the tracing helpers.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
