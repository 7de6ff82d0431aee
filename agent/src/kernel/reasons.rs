//! Names of drop reasons, from the running kernel alone: numbers move with every release.

use std::borrow::Cow;
use std::collections::BTreeMap;

use agent_common::NO_REASON;

use super::Kernel;

/// Upper half of a reason: which subsystem's enumeration the lower half is of (include/net/dropreason.h).
const SUBSYSTEM_SHIFT: u32 = 16;

/// Subsystems' enumerations and the modules whose BTF has them (`None`: the kernel's own).
const ENUMS: [(&str, Option<&str>); 4] = [
    ("skb_drop_reason", None),
    ("qdisc_drop_reason", None),
    ("mac80211_drop_reason", Some("mac80211")),
    ("ovs_drop_reason", Some("openvswitch")),
];

/// Reason numbers of the running kernel and their names.
#[derive(Clone, Debug, Default)]
pub struct Reasons {
    names: BTreeMap<u32, String>,
}

impl Reasons {
    /// From the kernel's BTF, else from the tracepoint's own format; empty where neither can be read.
    #[must_use]
    pub fn load(kernel: &Kernel) -> Self {
        let mut names = BTreeMap::new();
        for (name, module) in ENUMS {
            for (value, text) in kernel.enum_values(name, module) {
                if let Ok(value) = u32::try_from(value) {
                    names.insert(value, strip(&text).to_owned());
                }
            }
        }
        if names.is_empty() {
            let format = kernel.tracepoint_format("skb", "kfree_skb");
            for (value, text) in format.map(|format| format.symbols("reason")).unwrap_or_default() {
                if let Ok(value) = u32::try_from(value) {
                    names.insert(value, strip(&text).to_owned());
                }
            }
        }
        // Not reasons: the count of them and the mask of the subsystem.
        names.retain(|_, name| name != "MAX" && name != "SUBSYS_MASK");
        Self { names }
    }

    /// The number of a name, if this kernel has it.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u32> {
        self.names.iter().find(|(_, known)| *known == name).map(|(number, _)| *number)
    }

    /// The name of a number; numbers the kernel does not name keep their parts. `None` where the kernel gave no reason.
    #[must_use]
    pub fn name(&self, reason: u32) -> Option<Cow<'_, str>> {
        if reason == NO_REASON {
            return None;
        }
        let unknown = || {
            let (subsystem, reason) = (reason >> SUBSYSTEM_SHIFT, reason & 0xffff);
            Cow::Owned(format!("subsys:{subsystem}/reason:{reason}"))
        };
        Some(self.names.get(&reason).map_or_else(unknown, |name| Cow::Borrowed(name.as_str())))
    }

    /// Whether this kernel names no reason at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Every name this kernel has, for `--reason`'s error message.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.values().map(String::as_str)
    }
}

/// `SKB_DROP_REASON_NETFILTER_DROP` is `NETFILTER_DROP` to everybody; the two oldest lack half of the prefix.
fn strip(name: &str) -> &str {
    name.strip_prefix("SKB_DROP_REASON_").or_else(|| name.strip_prefix("SKB_")).unwrap_or(name)
}

#[cfg(test)]
impl Reasons {
    /// Of a kernel made up by a test.
    pub(crate) fn named(names: &[(u32, &str)]) -> Self {
        Self { names: names.iter().map(|(number, name)| (*number, (*name).to_owned())).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Roots;
    use crate::kernel::btf::tests::builder::small_kernel;

    fn reasons() -> Reasons {
        Reasons::named(&[(1, "CONSUMED"), (2, "NOT_SPECIFIED")])
    }

    #[test]
    fn unknown_numbers_keep_their_parts() {
        assert_eq!(reasons().name(2).as_deref(), Some("NOT_SPECIFIED"));
        assert_eq!(reasons().name(0x0003_0007).as_deref(), Some("subsys:3/reason:7"));
        assert_eq!(reasons().name(NO_REASON), None);
    }

    #[test]
    fn names_lose_their_prefix() {
        assert_eq!(strip("SKB_DROP_REASON_PKT_TOO_BIG"), "PKT_TOO_BIG");
        assert_eq!(strip("SKB_CONSUMED"), "CONSUMED");
        assert_eq!(strip("QDISC_DROP_OVERLIMIT"), "QDISC_DROP_OVERLIMIT");
    }

    /// What a kernel with these files names.
    fn load(files: &[(&str, &[u8])]) -> Reasons {
        let root = tempfile::tempdir().unwrap();
        for (file, bytes) in files {
            let file = root.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, bytes).unwrap();
        }
        Reasons::load(&Kernel::load_from(Roots::under(root.path())))
    }

    #[test]
    fn reasons_are_named_by_the_kernels_types_or_else_by_the_tracepoint() {
        const FORMAT: &[u8] =
            b"ID: 7\n\tfield:int reason;\toffset:28;\tsize:4;\tsigned:0;\nprint fmt: \"%s\", \
            __print_symbolic(REC->reason, { 2, \"NO_SOCKET\" }, { 64, \"SKB_DROP_REASON_PKT_TOO_BIG\" }, \
            { 65, \"MAX\" }, { 0xffff0000, \"SUBSYS_MASK\" })\n";
        let format = ("sys/kernel/tracing/events/skb/kfree_skb/format", FORMAT);
        let types = small_kernel().bytes();
        let types = ("sys/kernel/btf/vmlinux", &types[..]);
        let names = |reasons: &Reasons| reasons.names().map(str::to_owned).collect::<Vec<_>>();
        let by_format = load(&[format]);
        assert_eq!(names(&by_format), ["NO_SOCKET", "PKT_TOO_BIG"], "the others are no reasons");
        assert_eq!([by_format.number("PKT_TOO_BIG"), by_format.number("MAX")], [Some(64), None]);
        let by_types = load(&[format, types]);
        assert_eq!(names(&by_types), ["NOT_SPECIFIED", "NO_SOCKET", "SUBSYS"]);
        assert_eq!(by_types.number("NO_SOCKET"), Some(3));
        assert_eq!([&by_types, &load(&[])].map(Reasons::is_empty), [false, true]);
    }
}
