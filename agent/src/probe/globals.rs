//! Constants for the kernel side: offsets, enum values and settings, injected before load.

use aya::EbpfLoader;

use crate::kernel::Kernel;

/// The offset that tells the kernel side "this kernel has no such field".
pub const ABSENT: u32 = u32::MAX;

/// Offsets that the kernel side's common code reads packets, devices and sockets through (`agent-ebpf/src/kernel.rs`): the
/// constant, the struct and the path of the field.
const PACKET: [Offset; 21] = [
    ("SKB_DEV", "sk_buff", "dev"),
    ("SKB_SK", "sk_buff", "sk"),
    ("SKB_LEN", "sk_buff", "len"),
    ("SKB_PROTOCOL", "sk_buff", "protocol"),
    ("SKB_HEAD", "sk_buff", "head"),
    ("SKB_DATA", "sk_buff", "data"),
    ("SKB_TAIL", "sk_buff", "tail"),
    ("SKB_END", "sk_buff", "end"),
    ("SKB_NETWORK_HEADER", "sk_buff", "network_header"),
    ("SKB_TRANSPORT_HEADER", "sk_buff", "transport_header"),
    ("SKB_IIF", "sk_buff", "skb_iif"),
    ("SKB_REFDST", "sk_buff", "_skb_refdst"),
    ("SHINFO_GSO_SIZE", "skb_shared_info", "gso_size"),
    ("DEV_IFINDEX", "net_device", "ifindex"),
    ("DEV_MTU", "net_device", "mtu"),
    ("DEV_NAME", "net_device", "name"),
    ("DEV_NET", "net_device", "nd_net.net"),
    ("DEV_HARD_HEADER_LEN", "net_device", "hard_header_len"),
    ("DEV_LINK_OPS", "net_device", "rtnl_link_ops"),
    ("NET_INUM", "net", "ns.inum"),
    ("SOCK_NET", "sock", "__sk_common.skc_net.net"),
];

/// A constant of the kernel side, and the field whose offset it is: struct and path.
pub type Offset = (&'static str, &'static str, &'static str);

/// Named constants of one object. A name the object does not use is no error: the linker drops unused ones.
#[derive(Debug, Default)]
pub struct Globals(Vec<(&'static str, u32)>);

impl Globals {
    /// Sets a 32-bit constant.
    pub fn set(&mut self, name: &'static str, value: u32) {
        self.0.push((name, value));
    }

    /// Sets an offset; `None` becomes [`ABSENT`].
    pub fn set_offset(&mut self, name: &'static str, offset: Option<u32>) {
        self.set(name, offset.unwrap_or(ABSENT));
    }

    /// Sets the offsets that the common code needs, and `more` of the probe's own.
    pub fn set_offsets(&mut self, kernel: &Kernel, more: &[Offset]) {
        for (constant, of, field) in PACKET.iter().chain(more) {
            self.set_offset(constant, kernel.offset(of, field));
        }
    }

    /// Sets where a device's `priv_flags` are, and each of these flags: the constant, and the kernel's name of it.
    pub fn set_device_flags(&mut self, kernel: &Kernel, flags: &[(&'static str, &str)]) {
        // A bitfield that is a whole word, since 6.12 or so.
        let word = kernel.bits("net_device", "priv_flags").filter(|bits| bits.size_bits >= 32);
        self.set_offset("DEV_PRIV_FLAGS", word.map(|bits| bits.offset_bits / 8));
        let known = kernel.enum_values("netdev_priv_flags", None);
        for (constant, name) in flags {
            let flag = known.iter().find(|(_, known)| known == name);
            self.set(constant, flag.and_then(|(bit, _)| u32::try_from(*bit).ok()).unwrap_or(0));
        }
    }

    /// Sets where an skb says whom its frame is for.
    pub fn set_link_type(&mut self, kernel: &Kernel) {
        let field = in_byte(kernel, "pkt_type");
        self.set_offset("SKB_PKT_TYPE", field.map(|field| field.offset));
        self.set("PKT_TYPE", field.map_or(0, InByte::mask));
        self.set("PKT_TYPE_SHIFT", field.map_or(0, |field| field.shift));
    }

    /// Sets bits of a device's `state`: the constant, and the kernel's name of it; 0 where that is unknown.
    pub fn set_device_states(&mut self, kernel: &Kernel, states: &[(&'static str, &str)]) {
        self.set_offset("DEV_STATE", kernel.offset("net_device", "state"));
        let known = kernel.enum_values("netdev_state_t", None);
        for (constant, name) in states {
            let bit = known.iter().find(|(_, known)| known == name);
            let bit = bit.and_then(|(bit, _)| 1_u32.checked_shl(u32::try_from(*bit).ok()?));
            self.set(constant, bit.unwrap_or(0));
        }
    }

    /// The constants that are set.
    #[cfg(test)]
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|(name, _)| *name)
    }

    /// What a constant is set to.
    #[cfg(test)]
    #[must_use]
    pub fn value(&self, name: &str) -> Option<u32> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    /// Hands every constant to the loader. It keeps them for as long as it lives, so they are never freed: some hundred
    /// bytes an object.
    pub fn inject(self, loader: &mut EbpfLoader<'static>) {
        for (name, value) in &*self.0.leak() {
            loader.override_global(name, value, false);
        }
    }
}

/// A bitfield that is within one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InByte {
    /// The byte's offset.
    pub offset: u32,
    /// The lowest of its bits, as a little-endian machine has them.
    pub shift: u32,
    /// How many bits it has.
    pub bits: u32,
}

impl InByte {
    /// Its bits of the byte.
    #[must_use]
    pub const fn mask(self) -> u32 {
        ((1 << self.bits) - 1) << self.shift
    }
}

/// Where a bitfield of an `sk_buff` is; `None` if the kernel has none of that name, or has it in two bytes.
#[must_use]
pub fn in_byte(kernel: &Kernel, field: &str) -> Option<InByte> {
    let bits = kernel.bits("sk_buff", field)?;
    let (offset, shift) = (bits.offset_bits / 8, bits.offset_bits % 8);
    (shift + bits.size_bits <= 8).then_some(InByte { offset, shift, bits: bits.size_bits })
}

#[cfg(test)]
pub(crate) mod tests;
