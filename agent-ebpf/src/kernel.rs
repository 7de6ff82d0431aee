//! Reads of kernel structures at offsets the user side took from the running kernel's BTF.
//!
//! Each offset is a frozen constant to the verifier. [`ABSENT`] says that the running kernel has no such field: the
//! branch that would read it is then dead code, helper calls included.

use core::mem::MaybeUninit;

use aya_ebpf::Global;
use aya_ebpf::helpers::{bpf_probe_read_kernel, generated};

/// Offset of a field the running kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// 0 where the kernel lets no program read its memory by helper (lockdown's confidentiality): every such call is then
/// dead code, and a program that has none left is loaded.
#[unsafe(no_mangle)]
static READS: Global<u32> = Global::new(1);

/// Whether [`copy`] and [`Probed`] can read anything.
#[inline(always)]
#[must_use]
pub fn reads() -> bool {
    READS.load() != 0
}

/// The `T` at any kernel address, by helper; `None` where it cannot be read.
///
/// # Safety
/// `T` is valid for any bytes.
#[inline(always)]
#[must_use]
pub unsafe fn copy<T: Copy>(at: *const T) -> Option<T> {
    if !reads() {
        return None;
    }
    // SAFETY: the helper checks the address; the rest is the caller's.
    unsafe { bpf_probe_read_kernel(at) }.ok()
}

/// As [`copy`], over what `to` was before, which 5.10 must have seen written: it refuses reads of any other stack, and
/// the compiler makes such reads of an `Option`'s empty half. False where it cannot be read.
///
/// # Safety
/// `T` is valid for any bytes.
#[inline(always)]
#[must_use]
pub unsafe fn copy_to<T: Copy>(to: &mut T, at: *const T) -> bool {
    #[expect(clippy::cast_possible_truncation, reason = "a header of some bytes")]
    let size = size_of::<T>() as u32;
    // SAFETY: the helper checks the address and writes all of `to`.
    reads() && unsafe { generated::bpf_probe_read_kernel((&raw mut *to).cast(), size, at.cast()) } == 0
}

/// How a program may look at kernel memory.
pub trait Read {
    /// The `T` at `base + offset`; `None` where it cannot be read.
    ///
    /// # Safety
    /// `T` is valid for any bytes.
    unsafe fn read<T: Copy>(base: *const u8, offset: u32) -> Option<T>;
}

/// Direct loads through a BTF-typed pointer (`tp_btf`, fentry): no helper, a fault reads zero.
pub struct Typed;

/// `bpf_probe_read_kernel`, for programs whose arguments are plain numbers (raw tracepoints, kprobes): a fault reads
/// zero as well.
pub struct Probed;

impl Read for Typed {
    #[inline(always)]
    unsafe fn read<T: Copy>(base: *const u8, offset: u32) -> Option<T> {
        // SAFETY: the verifier knows the type of `base` and refuses a load outside of it; volatile keeps the compiler
        // from widening or merging loads into shapes it would refuse.
        Some(unsafe { base.add(offset as usize).cast::<T>().read_volatile() })
    }
}

impl Read for Probed {
    #[inline(always)]
    unsafe fn read<T: Copy>(base: *const u8, offset: u32) -> Option<T> {
        if !reads() {
            return None;
        }
        let mut value = MaybeUninit::<T>::uninit();
        // A fault reads zero, as with a typed load: the helper clears the destination (kernel/trace/bpf_trace.c). To ask
        // whether it did would double the verifier's paths with every read, beyond what 6.1 walks.
        // SAFETY: the helper checks the address and writes all of `value`, for which any bytes are valid.
        unsafe {
            #[expect(clippy::cast_possible_truncation, reason = "a field of some bytes")]
            let size = size_of::<T>() as u32;
            generated::bpf_probe_read_kernel(
                value.as_mut_ptr().cast(),
                size,
                base.add(offset as usize).cast(),
            );
            Some(value.assume_init())
        }
    }
}

/// The `T` in the field at `offset`, unless the kernel lacks the field.
///
/// # Safety
/// `T` is valid for any bytes.
#[inline(always)]
#[must_use]
pub unsafe fn field<R: Read, T: Copy>(base: *const u8, offset: &Global<u32>) -> Option<T> {
    let offset = offset.load();
    if offset == ABSENT {
        return None;
    }
    // SAFETY: the caller's.
    unsafe { R::read(base, offset) }
}

/// As [`field`], for a field that holds a pointer: `None` for NULL and for what cannot be a kernel address.
///
/// # Safety
/// None beyond [`field`]'s.
#[inline(always)]
#[must_use]
pub unsafe fn pointer<R: Read>(base: *const u8, offset: &Global<u32>) -> Option<*const u8> {
    // SAFETY: a pointer is valid for any bytes.
    let pointer: *const u8 = unsafe { field::<R, _>(base, offset) }?;
    if pointer.is_null() { None } else { Some(pointer) }
}

macro_rules! offsets {
    ($($(#[$doc:meta])* $name:ident)*) => {
        $($(#[$doc])* #[unsafe(no_mangle)] pub static $name: Global<u32> = Global::new(ABSENT);)*
    };
}

offsets! {
    /// `sk_buff.dev`
    SKB_DEV
    /// `sk_buff.sk`
    SKB_SK
    /// `sk_buff.len`
    SKB_LEN
    /// `sk_buff.protocol`
    SKB_PROTOCOL
    /// `sk_buff.head`
    SKB_HEAD
    /// `sk_buff.end`
    SKB_END
    /// `sk_buff.tail`
    SKB_TAIL
    /// `sk_buff.data`
    SKB_DATA
    /// `sk_buff.network_header`
    SKB_NETWORK_HEADER
    /// `sk_buff.transport_header`
    SKB_TRANSPORT_HEADER
    /// `sk_buff.skb_iif`
    SKB_IIF
    /// `sk_buff._skb_refdst`
    SKB_REFDST
    /// `skb_shared_info.gso_size`
    SHINFO_GSO_SIZE
    /// `net_device.ifindex`
    DEV_IFINDEX
    /// `net_device.mtu`
    DEV_MTU
    /// `net_device.name`
    DEV_NAME
    /// `net_device.nd_net.net`
    DEV_NET
    /// `net_device.priv_flags`
    DEV_PRIV_FLAGS
    /// `net_device.hard_header_len`
    DEV_HARD_HEADER_LEN
    /// `net_device.rtnl_link_ops`
    DEV_LINK_OPS
    /// `rtnl_link_ops.kind`
    LINK_OPS_KIND
    /// `veth_priv.peer` of the private part behind a `net_device`
    VETH_PEER
    /// `net.ns.inum`
    NET_INUM
    /// `sock.__sk_common.skc_net.net`
    SOCK_NET
    /// `dst_entry.input`
    DST_INPUT
    /// `dst_entry.dev`
    DST_DEV
    /// The word of `rtable` whose upper 31 bits are `rt_pmtu`
    RTABLE_PMTU
    /// `fib_nh_common.nhc_dev`
    NHC_DEV
    /// `rt6_info.dst.dev`
    RT6_DEV
    /// `rt6_info.rt6i_flags`
    RT6_FLAGS
    /// `rt6_info.rt6i_dst.addr`
    RT6_DESTINATION
    /// `flowi6.daddr`
    FL6_DESTINATION
    /// `flowi6.uli.ports.dport`
    FL6_DPORT
}
