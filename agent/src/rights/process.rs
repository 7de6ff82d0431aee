//! What this process may do and what confines it, as the kernel tells it of itself in `/proc/self`.

use std::env;
use std::fmt;
use std::fs;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::LazyLock;

use nix::errno::Errno;
use nix::libc;

use super::Act;

/// This process's rights and limits. All but [`Process::paranoid`] stay what they are for its life.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own that the kernel tells")]
pub struct Process {
    /// Its effective capabilities, a bit each.
    pub(super) effective: u64,
    /// Those it may ever get.
    pub(super) bounding: u64,
    /// Its user is root.
    pub(super) root: bool,
    /// A seccomp filter is in force.
    pub(super) filtered: bool,
    /// It is not in the first user namespace: its capabilities do not reach the host.
    pub user_namespace: bool,
    /// What a security module says of it.
    pub module: Option<Module>,
    /// It runs in a pod.
    pub in_pod: bool,
    /// `kernel.perf_event_paranoid` now.
    pub(super) paranoid: fn() -> Option<i32>,
    /// Whether the call behind an act is refused before it reaches the kernel.
    pub(super) refuses: fn(Act) -> bool,
    /// Whether a map that takes next to no memory can be created.
    pub(super) creates_small_maps: fn() -> bool,
}

/// A security module, and what it calls this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Module {
    /// `AppArmor`: the profile, and its mode.
    AppArmor {
        /// The profile's name.
        profile: String,
        /// `enforce`, `complain`, ..; `None` if it has none: then the process is unconfined.
        mode: Option<String>,
    },
    /// `SELinux`: the context.
    SeLinux {
        /// As `system_u:system_r:container_t:s0:c1,c2`.
        context: String,
        /// The kernel only logs what it would refuse.
        permissive: bool,
    },
}

impl Module {
    /// By what `/proc/self/attr/apparmor/current` and `/proc/self/attr/current` say: the second is of whichever module is
    /// first, and the first is there from 5.8 on.
    pub(super) fn parse(apparmor: Option<&str>, first: Option<&str>, permissive: bool) -> Option<Self> {
        let trim = |label: &str| label.trim_end_matches(['\0', '\n', ' ']).trim_start().to_owned();
        let apparmor = apparmor.map(trim).filter(|label| !label.is_empty());
        let first = first.map(trim).filter(|label| !label.is_empty());
        match (apparmor, first) {
            // Both may be there; what confines is told.
            (_, Some(context)) if is_context(&context) => Some(Self::SeLinux { context, permissive }),
            (Some(label), _) | (None, Some(label)) => Some(Self::profile(&label)),
            (None, None) => None,
        }
    }

    /// `cri-containerd.apparmor.d (enforce)`, or `unconfined`.
    fn profile(label: &str) -> Self {
        let parts = label.strip_suffix(')').and_then(|label| label.rsplit_once(" ("));
        match parts {
            Some((profile, mode)) => {
                Self::AppArmor { profile: profile.to_owned(), mode: Some(mode.to_owned()) }
            }
            None => Self::AppArmor { profile: label.to_owned(), mode: None },
        }
    }

    /// Whether it may refuse something.
    #[must_use]
    pub fn confines(&self) -> bool {
        match self {
            Self::AppArmor { mode, .. } => {
                mode.as_deref().is_some_and(|mode| !matches!(mode, "complain" | "unconfined"))
            }
            Self::SeLinux { context, permissive } => {
                const FREE: [&str; 5] =
                    ["spc_t", "unconfined_t", "unconfined_service_t", "init_t", "kernel_t"];
                !permissive && context.split(':').nth(2).is_none_or(|domain| !FREE.contains(&domain))
            }
        }
    }

    /// What takes this process out of it.
    pub(super) fn cure(&self, in_pod: bool) -> String {
        let cure = match (self, in_pod) {
            (Self::AppArmor { .. }, true) => {
                "set securityContext.appArmorProfile: {type: Unconfined} (before Kubernetes 1.30 the annotation \
                 container.apparmor.security.beta.kubernetes.io/<container>: unconfined)"
            }
            (Self::AppArmor { .. }, false) => {
                "run it outside of that profile (docker: --security-opt apparmor=unconfined)"
            }
            (Self::SeLinux { .. }, true) => "set securityContext.seLinuxOptions: {type: spc_t}",
            (Self::SeLinux { .. }, false) => {
                "run it outside of that domain (podman: --security-opt label=disable)"
            }
        };
        cure.to_owned()
    }
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AppArmor { profile, mode: Some(mode) } => write!(f, "AppArmor profile {profile} ({mode})"),
            Self::AppArmor { profile, mode: None } => write!(f, "AppArmor: {profile}"),
            Self::SeLinux { context, permissive } => {
                write!(f, "SELinux domain {context}{}", if *permissive { " (permissive)" } else { "" })
            }
        }
    }
}

/// `user:role:type`, and mostly a level. A profile of an `AppArmor` namespace begins with a colon.
fn is_context(label: &str) -> bool {
    let parts: Vec<&str> = label.split(':').collect();
    parts.len() >= 3 && parts.iter().take(3).all(|part| !part.is_empty() && !part.contains(['/', ' ']))
}

impl Process {
    /// This one.
    #[must_use]
    pub fn own() -> &'static Self {
        static OWN: LazyLock<Process> =
            LazyLock::new(|| Process::read(Path::new("/proc/self"), Path::new("/sys/fs/selinux/enforce")));
        &OWN
    }

    /// By its directory in `/proc`, and by what `SELinux` says of itself.
    pub(super) fn read(own: &Path, enforce: &Path) -> Self {
        let status = fs::read_to_string(own.join("status")).unwrap_or_default();
        let field = |name: &str| {
            status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        let set = |name: &str| field(name).and_then(|set| u64::from_str_radix(set, 16).ok()).unwrap_or(0);
        // Lossy: a module may call a process what it likes.
        let label = |name: &str| {
            let bytes = fs::read(own.join("attr").join(name)).ok()?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        };
        let permissive = fs::read_to_string(enforce).is_ok_and(|mode| mode.trim() == "0");
        let module =
            Module::parse(label("apparmor/current").as_deref(), label("current").as_deref(), permissive);
        let users = fs::read_to_string(own.join("uid_map")).unwrap_or_default();
        let cgroup = fs::read_to_string(own.join("cgroup")).unwrap_or_default();
        Self {
            effective: set("CapEff"),
            bounding: set("CapBnd"),
            root: nix::unistd::geteuid().is_root(),
            // SECCOMP_MODE_FILTER of include/uapi/linux/seccomp.h.
            filtered: field("Seccomp") == Some("2"),
            user_namespace: maps_some(&users),
            module,
            in_pod: is_pod(|name| env::var_os(name).is_some(), &cgroup),
            paranoid,
            refuses,
            creates_small_maps,
        }
    }
}

/// `kernel.perf_event_paranoid`; `None` where it cannot be read.
#[must_use]
pub(super) fn paranoid() -> Option<i32> {
    fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").ok()?.trim().parse().ok()
}

/// Whether `/proc/self/uid_map` maps less than all users to themselves, as the first user namespace does.
pub(super) fn maps_some(map: &str) -> bool {
    let mut fields = map.split_ascii_whitespace();
    map.lines().count() > 1
        || !map.is_empty() && !["0", "0", "4294967295"].iter().all(|all| fields.next() == Some(all))
}

/// Kubernetes gives every container the address of its API, our manifest the pod's name, kubelet the cgroup.
pub(super) fn is_pod(has: impl Fn(&str) -> bool, cgroup: &str) -> bool {
    has("KUBERNETES_SERVICE_HOST") || has("POD_NAME") || cgroup.contains("kubepods")
}

/// Makes the call with arguments that the kernel itself finds invalid before it looks at rights, so that EPERM (or, of
/// some runtimes, ENOSYS) is a filter's. It does nothing either way.
pub(super) fn refuses(act: Act) -> bool {
    const INVALID: libc::c_long = 0x7fff_ffff;
    let status = match act {
        Act::Bpf | Act::CreateMap => {
            // SAFETY: no pointer is passed, and there is no such command.
            unsafe { libc::syscall(libc::SYS_bpf, INVALID, 0, 0) }
        }
        Act::PerfEvent => {
            // SAFETY: as above; flags are looked at before the pointer.
            unsafe { libc::syscall(libc::SYS_perf_event_open, 0, 0, -1, -1, INVALID) }
        }
        Act::EnterNetns => {
            // SAFETY: takes no pointer, and there is no such descriptor.
            unsafe { libc::syscall(libc::SYS_setns, -1, 0) }
        }
        // No call that a filter could tell from others.
        Act::SeeNetns | Act::ListLinks => return false,
    };
    status == -1 && matches!(Errno::last(), Errno::EPERM | Errno::ENOSYS)
}

/// Creates a map of one element, and closes it.
fn creates_small_maps() -> bool {
    // enum bpf_cmd and enum bpf_map_type of include/uapi/linux/bpf.h.
    const BPF_MAP_CREATE: libc::c_long = 0;
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    // The head of union bpf_attr: map_type, key_size, value_size, max_entries; what is not passed is zero.
    let attributes: [u32; 4] = [BPF_MAP_TYPE_ARRAY, 4, 8, 1];
    // SAFETY: the kernel reads as many bytes as it is told there are, during the call.
    let map = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, attributes.as_ptr(), size_of_val(&attributes))
    };
    let Ok(map @ 0..) = i32::try_from(map) else { return false };
    // SAFETY: the kernel has just given it to us, and nobody else knows of it.
    drop(unsafe { OwnedFd::from_raw_fd(map) });
    true
}
