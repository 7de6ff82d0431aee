//! A BTF section of any bytes is refused or answers in bounded memory, and no answer contradicts another.
#![no_main]

use std::sync::LazyLock;

use agent::kernel::btf::Btf;
use fuzz::memory::Counted;
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static MEMORY: Counted = Counted::new();

/// Cut out of a real kernel's; modules' sections stand on it.
static KERNEL: LazyLock<Btf> = LazyLock::new(|| {
    let section = include_bytes!("../kernel/sys/kernel/btf/vmlinux");
    Btf::parse(section.to_vec()).expect("a sound section")
});

/// Bytes in use at most, for each byte of a section and in all: an enumerator is 8 bytes that can name 512.
const PER_BYTE: usize = 256;
const AT_LEAST: usize = 64 << 10;

/// Names tried of those a section has: each is asked for in every other one.
const MAX_NAMES: usize = 6;

fuzz_target!(|data: &[u8]| {
    let kernel = &*KERNEL;
    let ((), height) = MEMORY.height_of(|| {
        // As it is, and with the header that fits: few changes to a header leave it sound.
        for section in [Some(data.to_vec()), assembled(data)].into_iter().flatten() {
            let names = names(&section);
            for btf in [Btf::parse(section.clone()), kernel.parse_split(section)].into_iter().flatten() {
                ask_everything(&btf, &names);
            }
        }
    });
    let allowed = AT_LEAST + PER_BYTE * data.len();
    assert!(height <= allowed, "{height} bytes in use for {} bytes of input", data.len());
});

/// Two bytes say how long the types are, the strings follow them.
fn assembled(data: &[u8]) -> Option<Vec<u8>> {
    let (length, body) = data.split_first_chunk::<2>()?;
    let (types, strings) = body.split_at_checked(u16::from_le_bytes(*length).into())?;
    let words = [24, 0, types.len(), types.len(), strings.len() + 1];
    let mut section = 0xeb9f_u16.to_ne_bytes().to_vec();
    section.extend_from_slice(&[1, 0]);
    for word in words {
        section.extend_from_slice(&u32::try_from(word).ok()?.to_ne_bytes());
    }
    section.extend_from_slice(types);
    section.extend_from_slice(strings);
    section.push(0);
    Some(section)
}

/// Some that the agent asks for, and the last ones in the section, where its strings are.
fn names(section: &[u8]) -> Vec<String> {
    let known = ["sk_buff", "skb_drop_reason", "kfree_skb", "ns_common", ""].map(str::to_owned);
    let own = section.rsplit(|byte| *byte == 0).filter(|name| !name.is_empty());
    let own = own.filter_map(|name| str::from_utf8(name).ok()).take(MAX_NAMES);
    own.map(|name| name.strip_prefix("btf_trace_").unwrap_or(name).to_owned()).chain(known).collect()
}

fn ask_everything(btf: &Btf, names: &[String]) {
    for name in names {
        for member in names {
            ask_place(btf, name, member);
        }
        ask_place(btf, name, "ns.inum");
        let size = btf.size_of(name);
        if let Some(values) = btf.enum_values(name) {
            assert!(values.iter().all(|(_, name)| !name.is_empty()), "an enumerator without a name");
            assert!(size.is_some() || values.is_empty(), "an enum without a size");
        }
        for types in [btf.tracepoint_args(name), btf.func_params(name)].into_iter().flatten() {
            assert!(types.iter().all(|name| !name.is_empty()) && types.len() <= 64, "{types:?}");
        }
        assert!(btf.func_params(name).is_none() || btf.has_func(name), "parameters of no function");
    }
}

/// A byte offset is the start of a whole number of bytes, and what has one is never a bitfield.
fn ask_place(btf: &Btf, strukt: &str, path: &str) {
    let (offset, bits) = (btf.offset(strukt, path), btf.bits(strukt, path));
    let Some(bits) = bits else { return };
    let whole = bits.offset_bits % 8 == 0 && bits.size_bits % 8 == 0;
    match offset {
        Some(offset) => {
            assert!(whole && bits.offset_bits / 8 == offset, "{strukt}.{path}: {offset}, {bits:?}");
        }
        // A bitfield may be whole bytes by chance.
        None => assert!(!whole || bits.size_bits <= 255, "{strukt}.{path}: no offset, {bits:?}"),
    }
}
