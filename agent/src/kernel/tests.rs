//! Kernels with parts missing, made of plain files.

use std::fs;

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
    assert!(why(&kernel, Part::Symbols).contains("CAP_SYSLOG"));
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
