//! Sections built by hand, type by type, and a small kernel of them.

use super::super::Btf;

pub(super) const INT: u32 = 1;
pub(super) const PTR: u32 = 2;
pub(super) const ARRAY: u32 = 3;
pub(super) const STRUCT: u32 = 4;
pub(super) const UNION: u32 = 5;
pub(super) const ENUM: u32 = 6;
pub(super) const FWD: u32 = 7;
pub(super) const TYPEDEF: u32 = 8;
pub(super) const CONST: u32 = 10;
pub(super) const FUNC: u32 = 12;
pub(super) const FUNC_PROTO: u32 = 13;
pub(super) const VAR: u32 = 14;
pub(super) const DECL_TAG: u32 = 17;
pub(super) const TYPE_TAG: u32 = 18;
pub(super) const ENUM64: u32 = 19;
pub(super) const FLAG: u32 = 1 << 31;

/// Builds a section type by type; each call returns the id of the type it made.
pub(in crate::kernel) struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
    next_id: u32,
    first_string: u32,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self { types: Vec::new(), strings: vec![0], next_id: 1, first_string: 0 }
    }

    pub(super) fn on(base: &Btf) -> Self {
        let (next_id, first_string) = (base.own.end_id(), base.own.end_string());
        Self { types: Vec::new(), strings: Vec::new(), next_id, first_string }
    }

    pub(super) fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = self.first_string + u32::try_from(self.strings.len()).unwrap();
        self.strings.extend_from_slice(name.as_bytes());
        self.strings.push(0);
        at
    }

    pub(super) fn add(&mut self, name: &str, info: u32, count: usize, value: u32, tail: &[u32]) -> u32 {
        let name = self.name(name);
        let info = info & FLAG | (info & 0x7f) << 24 | u32::try_from(count).unwrap();
        for word in [name, info, value].iter().chain(tail) {
            self.types.extend_from_slice(&word.to_ne_bytes());
        }
        self.next_id += 1;
        self.next_id - 1
    }

    pub(super) fn int(&mut self, name: &str, bytes: u32, skip: u32, bits: u32) -> u32 {
        self.add(name, INT, 0, bytes, &[skip << 16 | bits])
    }

    /// `members`: name, type, offset word.
    pub(super) fn strukt(&mut self, name: &str, kind: u32, bytes: u32, members: &[(&str, u32, u32)]) -> u32 {
        let tail: Vec<u32> =
            members.iter().flat_map(|(name, ty, offset)| [self.name(name), *ty, *offset]).collect();
        self.add(name, kind, members.len(), bytes, &tail)
    }

    pub(super) fn values(&mut self, name: &str, kind: u32, values: &[(&str, u64)]) -> u32 {
        let wide = kind & 0x7f == ENUM64;
        let mut tail = Vec::new();
        for (name, value) in values {
            tail.push(self.name(name));
            tail.push(u32::try_from(value & 0xffff_ffff).unwrap());
            tail.extend(wide.then(|| u32::try_from(value >> 32).unwrap()));
        }
        self.add(name, kind, values.len(), if wide { 8 } else { 4 }, &tail)
    }

    pub(super) fn proto(&mut self, returns: u32, params: &[u32]) -> u32 {
        let tail: Vec<u32> = params.iter().flat_map(|ty| [0, *ty]).collect();
        self.add("", FUNC_PROTO, params.len(), returns, &tail)
    }

    pub(in crate::kernel) fn bytes(&self) -> Vec<u8> {
        let types = u32::try_from(self.types.len()).unwrap();
        let strings = u32::try_from(self.strings.len()).unwrap();
        let mut bytes = 0xeb9f_u16.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&[1, 0]);
        for word in [24, 0, types, types, strings] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(&self.types);
        bytes.extend_from_slice(&self.strings);
        bytes
    }

    pub(super) fn btf(&self) -> Btf {
        Btf::parse(self.bytes()).unwrap()
    }
}

/// A kernel in small: one of everything the queries look through.
pub(in crate::kernel) fn small_kernel() -> Builder {
    let mut b = Builder::new();
    let int = b.int("int", 4, 0, 32);
    let byte = b.int("unsigned char", 1, 0, 8);
    let device = b.strukt("net_device", STRUCT, 8, &[("ifindex", int, 0), ("mtu", int, 32)]);
    let device_pointer = b.add("", PTR, 0, device, &[]);
    let tagged = b.add("rcu", TYPE_TAG, 0, device_pointer, &[]);
    let ns = b.strukt("ns_common", STRUCT, 8, &[("stashed", int, 0), ("inum", int, 32)]);
    let ns_const = b.add("", CONST, 0, ns, &[]);
    let ns_alias = b.add("ns_t", TYPEDEF, 0, ns_const, &[]);
    let buffer = b.add("", ARRAY, 0, 0, &[byte, int, 16]);
    let inner = b.strukt("", STRUCT, 16, &[("next", device_pointer, 0), ("dev", tagged, 64)]);
    let outer = b.strukt("", UNION, 16, &[("", inner, 0), ("rbnode", int, 0)]);
    // With kflag: size in the top byte.
    let flags = [
        ("", outer, 0),
        ("len", int, 128),
        ("pkt_type", byte, 3 << 24 | 0xa0),
        ("ca", byte, 5 << 24 | 0xa3),
        ("ns", ns_alias, 192),
        ("cb", buffer, 256),
    ];
    let skb = b.strukt("sk_buff", STRUCT | FLAG, 48, &flags);
    // Without: an integer type of few bits.
    let five = b.int("unsigned int", 4, 3, 5);
    b.strukt("old_style", STRUCT, 8, &[("a", int, 0), ("b", five, 32)]);
    let reason =
        b.values("skb_drop_reason", ENUM, &[("NOT_SPECIFIED", 2), ("NO_SOCKET", 3), ("SUBSYS", 0x3_0001)]);
    b.values("signed", ENUM | FLAG, &[("MINUS", 0xffff_ffff), ("ONE", 1)]);
    b.values("wide", ENUM64, &[("BIG", 1 << 40)]);
    let void_pointer = b.add("", PTR, 0, 0, &[]);
    let skb_pointer = b.add("", PTR, 0, skb, &[]);
    let sock = b.add("sock", FWD, 0, 0, &[]);
    let sock_const = b.add("", CONST, 0, sock, &[]);
    let sock_pointer = b.add("", PTR, 0, sock_const, &[]);
    let proto = b.proto(0, &[void_pointer, skb_pointer, reason, sock_pointer, int]);
    let proto_pointer = b.add("", PTR, 0, proto, &[]);
    b.add("btf_trace_kfree_skb", TYPEDEF, 0, proto_pointer, &[]);
    let on_device = b.proto(int, &[device_pointer, proto_pointer]);
    b.add("dev_up", FUNC, 0, on_device, &[]);
    b.add("jiffies", VAR, 0, int, &[0]);
    b.add("tag", DECL_TAG, 0, skb, &[u32::MAX]);
    b
}

/// A module `bridge` on top of it, with a struct and an enum of its own.
pub(in crate::kernel) fn small_module() -> Vec<u8> {
    let mut b = Builder::on(&small_kernel().btf());
    // Ids below the module's own are the kernel's: type 1 is "int".
    b.strukt("net_bridge", STRUCT, 16, &[("hash_max", 1, 96)]);
    b.values("br_drop", ENUM, &[("BR_NO_PORT", 7)]);
    b.bytes()
}
