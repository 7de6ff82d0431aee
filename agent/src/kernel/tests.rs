//! Kernels with parts missing, made of plain files.

use std::fs;

use super::btf::Bits;
use super::btf::tests::builder::{small_kernel, small_module};
use super::*;

struct Fake(tempfile::TempDir);

impl Fake {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn with(self, file: &str, text: &[u8]) -> Self {
        let file = self.0.path().join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
        self
    }

    fn load(&self) -> Kernel {
        Kernel::load_from(Roots::under(self.0.path()))
    }
}

fn why(kernel: &Kernel, part: Part) -> String {
    kernel.missing().iter().find(|missing| missing.part == part).map(ToString::to_string).unwrap_or_default()
}

#[test]
fn a_kernel_of_nothing_is_a_list_of_what_is_missing() {
    let kernel = Fake::new().load();
    let parts: Vec<Part> = kernel.missing().iter().map(|missing| missing.part).collect();
    assert_eq!(parts, [Part::Btf, Part::Symbols, Part::Tracefs, Part::Release, Part::Cpus]);
    assert!(why(&kernel, Part::Btf).starts_with("no kernel types (BTF): "));
    assert!(why(&kernel, Part::Btf).contains("sys/kernel/btf/vmlinux: No such file"));
    assert!(kernel.btf().is_none() && kernel.symbols().get().is_none() && kernel.tracefs().is_none());
    assert!(kernel.enum_values("skb_drop_reason", None).is_empty());
    assert!(kernel.tracepoint_args("kfree_skb").is_empty());
    assert_eq!((kernel.release().version.as_deref(), kernel.possible_cpus()), (None, None));
    assert_eq!(kernel.lockdown(), Lockdown::Unknown);
    assert!(!kernel.has_kprobes());
}

#[test]
fn a_cut_btf_and_hidden_symbols_are_one_clear_line_each() {
    let fake = Fake::new()
        .with("sys/kernel/btf/vmlinux", b"\x9f\xeb\x01")
        .with("proc/kallsyms", b"0000000000000000 T _stext\n");
    let kernel = fake.load();
    assert!(why(&kernel, Part::Btf).ends_with("vmlinux ends within the header (3 bytes)"));
    assert!(why(&kernel, Part::Symbols).ends_with("kallsyms hides addresses"));
    assert!(kernel.missing().iter().all(|missing| !missing.to_string().contains('\n')));
}

#[test]
fn lockdown_is_read_as_the_kernel_writes_it() {
    let mode = |text: &[u8]| Fake::new().with("sys/kernel/security/lockdown", text).load().lockdown();
    assert_eq!(mode(b"[none] integrity confidentiality\n"), Lockdown::None);
    assert_eq!(mode(b"none [integrity] confidentiality\n"), Lockdown::Integrity);
    assert_eq!(mode(b"none integrity [confidentiality]\n"), Lockdown::Confidentiality);
    assert_eq!(mode(b"none [total]\n"), Lockdown::Unknown);
    let without = Fake::new().with("sys/kernel/security/lsm", b"capability");
    assert_eq!(without.load().lockdown(), Lockdown::None);
}

#[test]
fn cpus_are_counted_over_gaps() {
    for (list, count) in [
        ("0", Some(1)),
        ("0-3", Some(4)),
        ("0-3,8-11,16", Some(9)),
        ("", None),
        ("3-0", None),
        ("0-x", None),
        ("0-18446744073709551615", None),
    ] {
        let fake = Fake::new().with("sys/devices/system/cpu/possible", format!("{list}\n").as_bytes());
        assert_eq!(fake.load().possible_cpus(), count, "{list:?}");
    }
}

/// One whose types and tracepoints are known.
fn known() -> Fake {
    let format = "ID: 7\n\tfield:void * location;\toffset:16;\tsize:8;\tsigned:0;\n";
    Fake::new()
        .with("sys/kernel/btf/vmlinux", &small_kernel().bytes())
        .with("sys/kernel/btf/bridge", &small_module())
        .with("sys/kernel/tracing/events/skb/kfree_skb/format", format.as_bytes())
}

#[test]
fn types_are_those_of_the_kernel_and_its_modules() {
    let fake = known();
    let mut kernel = fake.load();
    assert!(kernel.missing().iter().all(|missing| ![Part::Btf, Part::Tracefs].contains(&missing.part)));
    assert_eq!((kernel.offset("sk_buff", "len"), kernel.offset("sk_buff", "gone")), (Some(16), None));
    assert_eq!(kernel.bits("sk_buff", "ca"), Some(Bits { offset_bits: 163, size_bits: 5 }));
    assert_eq!((kernel.size_of("sk_buff"), kernel.size_of("gone")), (Some(48), None));
    assert_eq!(kernel.module_offset("bridge", "net_bridge", "hash_max"), Some(12));
    assert_eq!(kernel.offset("net_bridge", "hash_max"), None, "it is the module's");
    assert_eq!(kernel.module_offset("built_in", "sk_buff", "len"), Some(16), "its types are the kernel's");
    let value = |value, name: &str| (value, name.to_owned());
    assert_eq!(
        kernel.enum_values("skb_drop_reason", None),
        [value(2, "NOT_SPECIFIED"), value(3, "NO_SOCKET"), value(0x3_0001, "SUBSYS")]
    );
    assert_eq!(kernel.enum_values("br_drop", Some("bridge")), [value(7, "BR_NO_PORT")]);
    assert_eq!(kernel.enum_values("br_drop", None), []);
    assert_eq!(kernel.enum_values("skb_drop_reason", Some("not_loaded")), []);
    assert_eq!(
        kernel.tracepoint_args("kfree_skb"),
        ["struct sk_buff *", "enum skb_drop_reason", "const struct sock *", "int"]
    );
    assert!(kernel.btf().is_some());
    kernel.drop_btf();
    assert_eq!((kernel.offset("sk_buff", "len"), kernel.bits("sk_buff", "len")), (None, None));
}

#[test]
fn a_tracepoint_has_its_format_where_tracefs_is_mounted() {
    let fake = known();
    let kernel = fake.load();
    let location = |format: Format| format.field("location").map(|field| field.offset);
    assert_eq!(kernel.tracepoint_format("skb", "kfree_skb").and_then(location), Some(16));
    assert_eq!(kernel.tracepoint_format("skb", "gone"), None);
    assert!(kernel.tracefs().is_some());
}

#[test]
fn modules_and_kprobes_are_seen_in_sysfs() {
    let fake = Fake::new()
        .with("sys/module/nf_tables/refcnt", b"0\n")
        .with("sys/bus/event_source/devices/kprobe/type", b"8\n");
    let kernel = fake.load();
    assert!(kernel.has_module("nf_tables") && !kernel.has_module("vxlan"));
    assert!(kernel.has_kprobes());
}

#[test]
fn the_running_kernel_loads() {
    let mut kernel = Kernel::load();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(kernel.release().version.as_deref(), Some(release.trim_end()));
    assert!(kernel.possible_cpus().unwrap() >= 1);
    for missing in kernel.missing() {
        assert!(matches!(missing.part, Part::Btf | Part::Symbols | Part::Tracefs), "{missing}");
    }
    kernel.drop_btf();
    trim_heap();
    assert!(kernel.btf().is_none());
}

#[test]
fn a_release_is_compared_by_its_numbers() {
    for (version, is) in [
        ("6.7.0", true),
        ("6.12.117+deb12-amd64", true),
        ("7.0", true),
        ("6.6.99", false),
        ("5.10.0-32-amd64", false),
        ("6", false),
        ("next", false),
    ] {
        let release = Release { version: Some(version.to_owned()), arch: "x86_64" };
        assert_eq!(release.is_at_least(6, 7), is, "{version}");
    }
}
