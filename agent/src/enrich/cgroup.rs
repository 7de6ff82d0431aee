//! Which pod and container a cgroup path names: pure parsing of bytes, no file is opened.
//!
//! The shapes are kubelet's (`pkg/kubelet/cm`: cgroupfs and systemd driver) and those of containerd, CRI-O and
//! Docker. Whatever stands before `kubepods` is skipped: kubelet's `--cgroup-root`, kind's `kubelet.slice`, the outer
//! container of a nested node. A name is a pod's only if its uid is one that Kubernetes makes: anyone with a
//! delegated cgroup may make directories called `pod-something`.

use std::fmt;
use std::sync::Arc;

/// A pod's uid as its cgroup has it: a lower-case UUID, or a static pod's 32 hex digits (kubelet's config hash).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid(Arc<str>);

impl Uid {
    /// The uid these bytes are, if they are exactly one.
    #[must_use]
    pub fn parse(raw: &[u8]) -> Option<Self> {
        let valid = match raw.len() {
            32 => raw.iter().all(|byte| is_hex(*byte)),
            36 => raw.iter().enumerate().all(|(at, byte)| match at {
                8 | 13 | 18 | 23 => *byte == b'-',
                _ => is_hex(*byte),
            }),
            _ => false,
        };
        // Checked to be ASCII above, so this cannot refuse; it keeps the type honest without unsafe code.
        valid.then(|| std::str::from_utf8(raw).ok()).flatten().map(|text| Self(text.into()))
    }

    /// The uid as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Kubernetes' quality-of-service class, as kubelet's tree has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Qos {
    /// Directly below `kubepods`: the level has no name of its own.
    Guaranteed,
    /// Below `burstable`.
    Burstable,
    /// Below `besteffort`.
    BestEffort,
}

/// What made a container, where its cgroup's name says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Runtime {
    /// `cri-containerd-<id>.scope`.
    Containerd,
    /// `crio-<id>.scope` or `crio-<id>`.
    Crio,
    /// `docker-<id>.scope`.
    Docker,
    /// A bare id: containerd or Docker with the cgroupfs driver.
    Unsaid,
}

/// A container of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Container {
    /// Its 64 lower-case hex digits.
    pub id: String,
    /// Its runtime.
    pub runtime: Runtime,
}

/// What a path says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodCgroup {
    /// The pod.
    pub uid: Uid,
    /// Its class.
    pub qos: Qos,
    /// The container, if the path goes that deep.
    pub container: Option<Container>,
}

/// The pod (and container) whose cgroup is at `path`, or whose cgroup an ancestor of `path` is.
///
/// With a pod inside a pod (a nested cluster) the outer one counts: it is the one of this node's kubelet.
#[must_use]
pub fn parse(path: &[u8]) -> Option<PodCgroup> {
    let mut parts = path.split(|byte| *byte == b'/');
    let mut above: &[u8] = b"";
    while let Some(part) = parts.next() {
        if let Some((uid, said)) = pod_dir(part) {
            let qos = said.or_else(|| qos_dir(above)).unwrap_or(Qos::Guaranteed);
            return Some(PodCgroup { uid, qos, container: parts.next().and_then(container_dir) });
        }
        if let Some(found) = flat(part) {
            return Some(found);
        }
        above = part;
    }
    None
}

/// Whether a directory of this name is the top of kubelet's pods: `kubepods`, `kubepods.slice`, `…-kubepods.slice`.
#[must_use]
pub fn is_kubepods(name: &[u8]) -> bool {
    match name.strip_suffix(b".slice") {
        Some(stem) => stem == b"kubepods" || stem.ends_with(b"-kubepods"),
        None => name == b"kubepods",
    }
}

/// Whether a new directory of this name may be, or soon hold, `kubepods`. Other services come and go all the time.
#[must_use]
pub fn may_hold_kubepods(name: &[u8]) -> bool {
    is_kubepods(name) || name == b"kubelet" || name == b"kubelet.slice"
}

/// The class a directory between `kubepods` and the pods stands for.
#[must_use]
pub fn qos_dir(name: &[u8]) -> Option<Qos> {
    let class = match name.strip_suffix(b".slice") {
        Some(stem) => {
            let (above, class) = split_last(stem, b'-')?;
            ends_in_kubepods(above).then_some(class)?
        }
        None => name,
    };
    qos(class)
}

/// The pod that a directory of this name is, and its class where the name says it (systemd's does).
#[must_use]
pub fn pod_dir(name: &[u8]) -> Option<(Uid, Option<Qos>)> {
    let Some(stem) = name.strip_suffix(b".slice") else {
        return Some((Uid::parse(name.strip_prefix(b"pod")?)?, None));
    };
    // systemd reads `-` in a slice's name as a level, so kubelet writes the uid's own dashes as `_`.
    let (above, pod) = split_last(stem, b'-')?;
    let escaped = pod.strip_prefix(b"pod")?;
    let uid: Vec<u8> = escaped.iter().map(|byte| if *byte == b'_' { b'-' } else { *byte }).collect();
    let class = if ends_in_kubepods(above) {
        Qos::Guaranteed
    } else {
        let (above, class) = split_last(above, b'-')?;
        ends_in_kubepods(above).then(|| qos(class)).flatten()?
    };
    Some((Uid::parse(&uid)?, Some(class)))
}

/// The container that a directory in a pod's is.
///
/// `crio-conmon-<id>` is `None`: it holds CRI-O's monitor, which lives in the host's network namespace.
#[must_use]
pub fn container_dir(name: &[u8]) -> Option<Container> {
    let (stem, scope) = match name.strip_suffix(b".scope") {
        Some(stem) => (stem, true),
        None => (name, false),
    };
    let named: [(&[u8], Runtime); 3] =
        [(b"cri-containerd-", Runtime::Containerd), (b"crio-", Runtime::Crio), (b"docker-", Runtime::Docker)];
    for (prefix, runtime) in named {
        if let Some(id) = stem.strip_prefix(prefix) {
            return container(id, runtime);
        }
    }
    // Only a driver that knows no scopes writes a bare id.
    if scope { None } else { container(stem, Runtime::Unsaid) }
}

/// `kubepods-burstable-pod<uid>.slice:cri-containerd:<id>`: containerd told to use cgroupfs below a kubelet that uses
/// systemd takes systemd's triple for a directory's name.
fn flat(name: &[u8]) -> Option<PodCgroup> {
    let mut parts = name.split(|byte| *byte == b':');
    let (uid, qos) = pod_dir(parts.next()?)?;
    let runtime = match parts.next()? {
        b"cri-containerd" => Runtime::Containerd,
        b"crio" => Runtime::Crio,
        b"docker" => Runtime::Docker,
        _ => return None,
    };
    let container = Some(container(parts.next()?, runtime)?);
    parts.next().is_none().then_some(PodCgroup { uid, qos: qos?, container })
}

fn container(id: &[u8], runtime: Runtime) -> Option<Container> {
    if id.len() != 64 || !id.iter().all(|byte| is_hex(*byte)) {
        return None;
    }
    Some(Container { id: std::str::from_utf8(id).ok()?.to_owned(), runtime })
}

fn qos(class: &[u8]) -> Option<Qos> {
    match class {
        b"burstable" => Some(Qos::Burstable),
        b"besteffort" => Some(Qos::BestEffort),
        _ => None,
    }
}

fn ends_in_kubepods(stem: &[u8]) -> bool {
    stem == b"kubepods" || stem.ends_with(b"-kubepods")
}

fn split_last(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let found = text.iter().rposition(|byte| *byte == at)?;
    Some((text.get(..found)?, text.get(found + 1..)?))
}

fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UUID: &str = "0f9c1d2e-3b4a-4c5d-8e6f-7a8b9c0d1e2f";
    const SYSTEMD_UUID: &str = "0f9c1d2e_3b4a_4c5d_8e6f_7a8b9c0d1e2f";
    const HASH: &str = "5c2f8b1d9e7a4f3c6b0d1e2f3a4b5c6d";

    fn id() -> String {
        "ab01".repeat(16)
    }

    fn told(path: &str) -> Option<(String, Qos, Option<Runtime>)> {
        let found = parse(path.as_bytes())?;
        if let Some(container) = &found.container {
            assert_eq!(container.id, id(), "{path}");
        }
        Some((found.uid.to_string(), found.qos, found.container.map(|container| container.runtime)))
    }

    #[test]
    fn kubepods_comes_below_itself_or_what_is_kubelets() {
        let held = ["kubepods", "kubepods.slice", "kubelet-kubepods.slice", "kubelet", "kubelet.slice"];
        assert!(held.iter().all(|name| may_hold_kubepods(name.as_bytes())));
        let others = ["", "system.slice", "kubelet.service", "docker", "kubepods.scope", "notkubepods"];
        assert!(!others.iter().any(|name| may_hold_kubepods(name.as_bytes())));
    }

    #[test]
    fn every_driver_runtime_and_prefix_is_read() {
        let id = id();
        let slice = format!("kubepods-burstable-pod{SYSTEMD_UUID}.slice");
        let nested = format!("kubelet-{slice}");
        let cases = [
            (format!("/kubepods/burstable/pod{UUID}/{id}"), UUID, Qos::Burstable, Some(Runtime::Unsaid)),
            (format!("/kubepods/besteffort/pod{UUID}"), UUID, Qos::BestEffort, None),
            (format!("/kubepods/pod{UUID}/{id}"), UUID, Qos::Guaranteed, Some(Runtime::Unsaid)),
            (format!("/kubepods/burstable/pod{HASH}/{id}"), HASH, Qos::Burstable, Some(Runtime::Unsaid)),
            (format!("/kubepods/burstable/pod{UUID}/crio-{id}"), UUID, Qos::Burstable, Some(Runtime::Crio)),
            (format!("/kubepods/burstable/pod{UUID}/crio-conmon-{id}"), UUID, Qos::Burstable, None),
            (
                format!("/kubepods.slice/kubepods-burstable.slice/{slice}/cri-containerd-{id}.scope"),
                UUID,
                Qos::Burstable,
                Some(Runtime::Containerd),
            ),
            (
                format!("/kubepods.slice/kubepods-pod{SYSTEMD_UUID}.slice/crio-{id}.scope/container"),
                UUID,
                Qos::Guaranteed,
                Some(Runtime::Crio),
            ),
            (
                format!(
                    "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{HASH}.slice/docker-{id}.scope"
                ),
                HASH,
                Qos::BestEffort,
                Some(Runtime::Docker),
            ),
            (format!("/kubepods.slice/{slice}/crio-conmon-{id}.scope"), UUID, Qos::Burstable, None),
            (
                format!(
                    "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/{nested}/cri-containerd-{id}.scope"
                ),
                UUID,
                Qos::Burstable,
                Some(Runtime::Containerd),
            ),
            (
                format!("/system.slice/docker-{id}.scope/kubelet/kubepods/burstable/pod{UUID}/{id}"),
                UUID,
                Qos::Burstable,
                Some(Runtime::Unsaid),
            ),
            (
                format!("/system.slice/containerd.service/{slice}:cri-containerd:{id}"),
                UUID,
                Qos::Burstable,
                Some(Runtime::Containerd),
            ),
            (
                format!("/../../kubepods/pod{UUID}/{id}/docker/{id}"),
                UUID,
                Qos::Guaranteed,
                Some(Runtime::Unsaid),
            ),
            (
                format!("kubepods/pod{UUID}/{id}/kubepods/pod{HASH}"),
                UUID,
                Qos::Guaranteed,
                Some(Runtime::Unsaid),
            ),
        ];
        for (path, uid, qos, runtime) in cases {
            assert_eq!(told(&path), Some((uid.to_owned(), qos, runtime)), "{path}");
        }
    }

    #[test]
    fn a_container_is_64_digits_of_whatever_runtime() {
        let (id, slice) = (id(), format!("kubepods-burstable-pod{SYSTEMD_UUID}.slice"));
        let runtime = |path: &str| told(path).unwrap().2;
        for (name, wanted) in [("crio", Runtime::Crio), ("docker", Runtime::Docker)] {
            assert_eq!(runtime(&format!("/x/{slice}:{name}:{id}")), Some(wanted));
        }
        for id in [&id[1..], &id.replace('a', "g")] {
            assert_eq!(runtime(&format!("/kubepods/pod{UUID}/{id}")), None, "{id}");
        }
    }

    #[test]
    fn what_is_no_pod_is_refused() {
        let upper = UUID.to_uppercase();
        for path in [
            String::new(),
            "/".to_owned(),
            "/kubepods/burstable".to_owned(),
            format!("/kubepods/pod{upper}"),
            format!("/kubepods/pod{UUID}x"),
            format!("/kubepods/pod{SYSTEMD_UUID}"),
            format!("/kubepods/{UUID}"),
            format!("/x.slice/x-pod{SYSTEMD_UUID}.slice"),
            format!("/kubepods.slice/kubepods-golden-pod{SYSTEMD_UUID}.slice"),
            format!("/machine.slice/notkubepods-pod{SYSTEMD_UUID}.slice"),
            format!("/kubepods/pod{}", HASH.replace('5', "g")),
            "/machine.slice/libpod_pod_0f9c.slice".to_owned(),
            format!("/kubepods-pod{SYSTEMD_UUID}.slice:libpod:{}", id()),
            "/kubepods/pod../../../etc".to_owned(),
        ] {
            assert_eq!(told(&path), None, "{path}");
        }
    }

    #[test]
    fn kubelet_levels_are_told_from_others() {
        for name in ["kubepods", "kubepods.slice", "kubelet-kubepods.slice"] {
            assert!(is_kubepods(name.as_bytes()), "{name}");
        }
        for name in ["kubepods-burstable.slice", "notkubepods.slice", "kubepods.scope", "kubelet", ""] {
            assert!(!is_kubepods(name.as_bytes()), "{name}");
        }
        assert_eq!(qos_dir(b"burstable"), Some(Qos::Burstable));
        assert_eq!(qos_dir(b"kubelet-kubepods-besteffort.slice"), Some(Qos::BestEffort));
        assert_eq!(qos_dir(b"user-burstable.slice"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_valid_uid_or_nothing(path in prop::collection::vec(any::<u8>(), 0..400)) {
            if let Some(found) = parse(&path) {
                prop_assert_eq!(Uid::parse(found.uid.as_str().as_bytes()), Some(found.uid));
            }
        }

        #[test]
        fn mutated_paths_never_yield_another_uid(at in 0_usize..120, byte in any::<u8>()) {
            let mut path = format!("/kubepods.slice/kubepods-pod{SYSTEMD_UUID}.slice/crio-{}.scope", id()).into_bytes();
            if let Some(place) = path.get_mut(at) {
                *place = byte;
            }
            if let Some(found) = parse(&path) {
                let changed = found.uid.as_str().bytes().zip(UUID.bytes()).filter(|(left, right)| left != right);
                prop_assert!(changed.count() <= 1);
            }
        }

        #[test]
        fn every_uid_survives_both_drivers(raw in "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}") {
            let plain = format!("/kubepods/pod{raw}");
            let slice = format!("/kubepods.slice/kubepods-pod{}.slice", raw.replace('-', "_"));
            prop_assert_eq!(parse(plain.as_bytes()).map(|found| found.uid.to_string()), Some(raw.clone()));
            prop_assert_eq!(parse(slice.as_bytes()).map(|found| found.uid.to_string()), Some(raw));
        }
    }
}
