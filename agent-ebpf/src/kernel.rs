//! Reads of kernel structures at offsets the user side took from the running kernel's BTF.
//!
//! Each offset is a frozen constant to the verifier. [`ABSENT`] says that the running kernel has no such field: the
//! branch that would read it is then dead code, helper calls included.

use core::mem::MaybeUninit;

use aya_ebpf::Global;
use aya_ebpf::helpers::generated;

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

/// The `T` at any kernel address, by helper; zero where it cannot be read.
///
/// Whether it could is not to be asked, here as with [`Read`]: each such question doubles the ways that the verifier has to
/// walk, and the answer would be the same. The helper clears what it cannot fill (`bpf_probe_read_kernel_common`,
/// `kernel/trace/bpf_trace.c`).
///
/// # Safety
/// `T` is valid for any bytes.
#[inline(always)]
#[must_use]
pub unsafe fn copy<T: Copy>(at: *const T) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper checks the address and writes all of `value`, for which any bytes are valid.
    unsafe {
        if !reads() {
            if size_of::<T>() <= size_of::<u64>() {
                return MaybeUninit::zeroed().assume_init();
            }
            clear_bytes(value.as_mut_ptr());
            return value.assume_init();
        }
        #[expect(clippy::cast_possible_truncation, reason = "a field or a header of some bytes")]
        let size = size_of::<T>() as u32;
        generated::bpf_probe_read_kernel(value.as_mut_ptr().cast(), size, at.cast());
        value.assume_init()
    }
}

/// As [`copy`], straight to where it is wanted.
///
/// # Safety
/// `to` is memory for a `T`, which is valid for any bytes.
#[inline(always)]
pub unsafe fn copy_to<T: Copy>(to: *mut T, at: *const T) {
    // SAFETY: the helper checks the address and writes all of `to`.
    unsafe {
        if !reads() {
            clear_bytes(to);
            return;
        }
        #[expect(clippy::cast_possible_truncation, reason = "a field or a header of some bytes")]
        let size = size_of::<T>() as u32;
        generated::bpf_probe_read_kernel(to.cast(), size, at.cast());
    }
}

/// Zeroes all of `to`, word by word: of `write_bytes` the compiler makes a loop over bytes, and the verifier walks through
/// every turn of it.
///
/// # Safety
/// `to` is memory for a `T` of whole words, which is valid for any bytes.
#[inline(always)]
pub unsafe fn clear<T>(to: *mut T) {
    const { assert!(size_of::<T>().is_multiple_of(size_of::<u64>()) && align_of::<T>() == align_of::<u64>()) };
    for word in 0..size_of::<T>() / size_of::<u64>() {
        // SAFETY: the caller's. Volatile, so that it does not become a loop over bytes again.
        unsafe { to.cast::<u64>().add(word).write_volatile(0) };
    }
}

/// As [`clear`], byte by byte.
///
/// Of `write_bytes` the compiler makes a call of its own `memset`, and of a program that calls another function kernels
/// before 6.4 lose the table of what a load through a wild pointer is to be mended by (`aux->extable` of the main program,
/// `jit_subprogs`): the first such load is then a panic. UDP's receive path leaves wild pointers in `skb->dev`.
///
/// # Safety
/// As for [`clear`].
#[inline(always)]
pub unsafe fn clear_bytes<T>(to: *mut T) {
    for byte in 0..size_of::<T>() {
        // SAFETY: the caller's.
        unsafe { to.cast::<u8>().add(byte).write_volatile(0) };
    }
}

/// How a program may look at kernel memory. What cannot be read is zero, so that a chain of pointers may be followed
/// blindly: behind a NULL is nothing but zeroes.
pub trait Read {
    /// The `T` at `base + offset`.
    ///
    /// # Safety
    /// `T` is valid for any bytes.
    unsafe fn read<T: Copy>(base: *const u8, offset: u32) -> T;
}

/// Direct loads through a BTF-typed pointer (`tp_btf`, fentry): no helper.
pub struct Typed;

/// `bpf_probe_read_kernel`, for programs whose arguments are plain numbers (raw tracepoints, kprobes).
pub struct Probed;

impl Read for Typed {
    #[inline(always)]
    unsafe fn read<T: Copy>(base: *const u8, offset: u32) -> T {
        // SAFETY: the verifier knows the type of `base` and refuses a load outside of it; volatile keeps the compiler
        // from widening or merging loads into shapes it would refuse.
        unsafe { base.wrapping_add(offset as usize).cast::<T>().read_volatile() }
    }
}

impl Read for Probed {
    #[inline(always)]
    unsafe fn read<T: Copy>(base: *const u8, offset: u32) -> T {
        // SAFETY: the caller's.
        unsafe { copy(base.wrapping_add(offset as usize).cast()) }
    }
}

/// Zero, of which the verifier does not know that it is: or-ed to a value, it makes that unknown.
///
/// What differs by the path, and is a constant on each, keeps the paths apart for good: on 6.1 a zero that is put on the
/// stack is compared exactly from there on, and so is all that a branch was decided by. Each such value doubles what is
/// walked, past 100,000 instructions. Of an unknown value all paths are one.
#[inline(always)]
#[must_use]
pub fn zero() -> u8 {
    // A machine would have to run for some hundred million years. It is a load, where helpers are calls.
    // SAFETY: no argument.
    (unsafe { generated::bpf_jiffies64() } >> 63) as u8
}

/// The same number, of which the verifier knows nothing: for one that is a constant on each path and that branches depend on,
/// where [`zero`] would leave the paths apart.
#[inline(always)]
#[must_use]
pub fn unknown(number: u8) -> u8 {
    // SAFETY: no argument.
    let jiffies = unsafe { generated::bpf_jiffies64() };
    let [zero, ..] = (jiffies.cast_signed() >> 63).to_ne_bytes();
    number ^ zero
}

/// The `T` in the field at `offset`; zero if the kernel has no such field.
///
/// # Safety
/// `T` is valid for any bytes.
#[inline(always)]
#[must_use]
pub unsafe fn field<R: Read, T: Copy>(base: *const u8, offset: &Global<u32>) -> T {
    let offset = offset.load();
    // SAFETY: the caller's.
    unsafe { if offset == ABSENT { MaybeUninit::zeroed().assume_init() } else { R::read(base, offset) } }
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
    /// `sk_buff._nfct`
    SKB_NFCT
    /// `sk_buff.csum_start`
    SKB_CSUM_START
    /// The byte that `sk_buff.ip_summed` is in
    SKB_IP_SUMMED
    /// The byte that `sk_buff.pkt_type` is in
    SKB_PKT_TYPE
    /// `skb_shared_info.gso_size`
    SHINFO_GSO_SIZE
    /// `net_device.ifindex`
    DEV_IFINDEX
    /// `net_device.mtu`
    DEV_MTU
    /// `net_device.state`
    DEV_STATE
    /// `net_device._tx`: its transmit queues
    DEV_TX
    /// `netdev_queue.qdisc`
    TX_QDISC
    /// `Qdisc.flags`
    QDISC_FLAGS
    /// `net_device.name`
    DEV_NAME
    /// `net_device.nd_net.net`
    DEV_NET
    /// `net_device.priv_flags`
    DEV_PRIV_FLAGS
    /// `net_device.adj_list.lower`: the devices below it, which a bridge's ports are
    DEV_LOWER
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
    /// `sock.__sk_common.skc_family`
    SOCK_FAMILY
    /// `sock.__sk_common.skc_num`, in host order
    SOCK_PORT
    /// `sock.__sk_common.skc_dport`, in network order
    SOCK_DPORT
    /// `sock.__sk_common.skc_rcv_saddr`
    SOCK_SADDR
    /// `sock.__sk_common.skc_daddr`
    SOCK_DADDR
    /// `sock.__sk_common.skc_v6_rcv_saddr`
    SOCK_SADDR6
    /// `sock.__sk_common.skc_v6_daddr`
    SOCK_DADDR6
    /// `inet_connection_sock.icsk_retransmits`
    ICSK_RETRANSMITS
    /// `inet_connection_sock.icsk_rto`
    ICSK_RTO
    /// `inet_connection_sock.icsk_pmtu_cookie`
    ICSK_PMTU
    /// The word of `inet_connection_sock` that `icsk_mtup.enabled` is in
    ICSK_MTU_PROBING
    /// `tcp_sock.bytes_acked`
    TCP_ACKED
    /// `tcp_sock.mss_cache`
    TCP_MSS
    /// `tcp_sock.sacked_out`
    TCP_SACKED
    /// `tcp_sock.recv_sack_cache`
    TCP_SACKS
    /// `tcp_sock.snd_una`
    TCP_UNACKED
    /// `tcp_sock.write_seq`
    TCP_WRITTEN
    /// `tcp_sock.snd_wnd`
    TCP_WINDOW
    /// `tcp_sock.rcv_tstamp`
    TCP_HEARD
    /// `tcp_sock.bytes_received`
    TCP_RECEIVED
    /// `tcp_sock.rack.mstamp`
    TCP_ARRIVED
    /// `dst_entry.dev`
    DST_DEV
    /// `dst_entry.xfrm`
    DST_XFRM
    /// `xfrm_dst.child_mtu_cached`
    XFRM_CHILD_MTU
    /// `rtable.rt_flags`
    RTABLE_FLAGS
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
    /// `flowi6.__fl_common.flowic_proto`
    FL6_PROTOCOL
    /// `flowi6.uli.ports.dport`
    FL6_DPORT
}
