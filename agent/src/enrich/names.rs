//! Namespace and name of a pod from kubelet's own `/var/log/pods/<namespace>_<name>_<uid>`.
//!
//! Kubelet makes the directory before it starts the pod's sandbox, so the names are there with no API server.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::enrich::cgroup::Uid;
use crate::pod::Pod;

/// Directory entries looked at in one reading: a directory stuffed by whoever may write there must not stall us.
const MAX_ENTRIES: usize = 65_536;

/// What one reading of the directory found.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// The pods asked for, by uid.
    pub(super) found: HashMap<Uid, Pod>,
    /// Uids that two different names claim: neither is believed.
    pub(super) contested: HashSet<Uid>,
    /// Entries that are no pod's, or were beyond [`MAX_ENTRIES`].
    pub(super) ignored: u64,
}

/// The pod whose log directory has this name, if every part keeps Kubernetes' rules.
///
/// `_` occurs in none of the three parts, so the name is taken apart from both ends.
#[must_use]
pub fn parse(name: &[u8]) -> Option<Pod> {
    let text = std::str::from_utf8(name).ok()?;
    let (namespace, rest) = text.split_once('_')?;
    let (name, uid) = rest.rsplit_once('_')?;
    let uid = Uid::parse(uid.as_bytes())?;
    if !is_label(namespace) || namespace.len() > 63 || !is_subdomain(name) {
        return None;
    }
    Some(Pod { namespace: namespace.to_owned(), name: name.to_owned(), uid: uid.as_str().to_owned() })
}

/// Looks the names of `wanted` up in the directory `logs`. Nothing else is kept, whatever the directory holds.
pub(super) fn find(logs: &Path, wanted: &HashSet<Uid>) -> Names {
    let mut names = Names::default();
    let Ok(entries) = fs::read_dir(logs) else {
        return names;
    };
    for (at, entry) in entries.enumerate() {
        if at == MAX_ENTRIES {
            names.ignored += 1;
            break;
        }
        // Kubelet makes directories; a file or a symbolic link of that name is someone else's.
        let Some(entry) = entry.ok().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) else {
            names.ignored += 1;
            continue;
        };
        let Some((uid, pod)) = parse(entry.file_name().as_bytes()).and_then(with_uid) else {
            names.ignored += 1;
            continue;
        };
        if wanted.contains(&uid) {
            names.claim(uid, pod);
        }
    }
    names
}

impl Names {
    fn claim(&mut self, uid: Uid, pod: Pod) {
        if self.contested.contains(&uid) {
            return;
        }
        // One uid in one directory can have two entries only with two names.
        if self.found.remove(&uid).is_some() {
            self.contested.insert(uid);
        } else {
            self.found.insert(uid, pod);
        }
    }
}

pub(super) fn with_uid(pod: Pod) -> Option<(Uid, Pod)> {
    Some((Uid::parse(pod.uid.as_bytes())?, pod))
}

/// RFC 1123 label, without the limit of 63 that subdomains do not put on their parts.
fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use proptest::prelude::*;

    use super::*;

    const UUID: &str = "0f9c1d2e-3b4a-4c5d-8e6f-7a8b9c0d1e2f";
    const HASH: &str = "5c2f8b1d9e7a4f3c6b0d1e2f3a4b5c6d";

    #[test]
    fn kubelets_names_are_read() {
        let pod = parse(format!("kube-system_coredns-5d78c9869d-x7k2p_{UUID}").as_bytes()).unwrap();
        assert_eq!(
            (pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_str()),
            ("kube-system", "coredns-5d78c9869d-x7k2p", UUID)
        );
        let fixed = parse(format!("kube-system_etcd-node1.example.org_{HASH}").as_bytes()).unwrap();
        assert_eq!(fixed.name, "etcd-node1.example.org");
    }

    #[test]
    fn nonsense_is_refused() {
        let long = "a".repeat(64);
        for name in [
            String::new(),
            "_".to_owned(),
            "__".to_owned(),
            format!("_a_{UUID}"),
            format!("a__{UUID}"),
            format!("a_b_c_{UUID}"),
            format!("a_b\n_{UUID}"),
            format!("a_b\u{1b}[2J_{UUID}"),
            format!("a_\"b\"_{UUID}"),
            format!("A_b_{UUID}"),
            format!("-a_b_{UUID}"),
            format!("a_b-_{UUID}"),
            format!("a_b..c_{UUID}"),
            format!("a.b_c_{UUID}"),
            format!("{long}_b_{UUID}"),
            format!("a_{}_{UUID}", "b".repeat(254)),
            format!("a_b_{UUID}\n"),
            "a_b_c".to_owned(),
            format!("a_\u{fc}_{UUID}"),
        ] {
            assert_eq!(parse(name.as_bytes()), None, "{name:?}");
        }
        assert_eq!(parse(b"a_\xff\xfe_0f9c1d2e-3b4a-4c5d-8e6f-7a8b9c0d1e2f"), None);
    }

    #[test]
    fn a_directory_full_of_junk_yields_only_what_was_asked_for() {
        let logs = tempfile::tempdir().unwrap();
        for number in 0..10_000 {
            let junk = logs.path().join(format!("junk\n\u{1b}[31m{number}"));
            if number % 10 == 0 { fs::create_dir(junk) } else { fs::write(junk, "") }.unwrap();
        }
        fs::create_dir(logs.path().join(OsStr::from_bytes(b"a_\xff_b"))).unwrap();
        fs::write(logs.path().join(format!("file_web_{UUID}")), "").unwrap();
        fs::create_dir(logs.path().join(format!("default_web_{UUID}"))).unwrap();
        fs::create_dir(logs.path().join(format!("default_other_{HASH}"))).unwrap();
        let wanted = HashSet::from([Uid::parse(UUID.as_bytes()).unwrap()]);
        let names = find(logs.path(), &wanted);
        assert_eq!(names.found.values().map(|pod| pod.name.as_str()).collect::<Vec<_>>(), ["web"]);
        assert_eq!(names.ignored, 10_002);
        assert!(names.contested.is_empty());
    }

    #[test]
    fn a_name_is_as_long_as_kubernetes_lets_it_be() {
        let is_read = |namespace: usize, name: usize| {
            let (namespace, name) = ("n".repeat(namespace), "a".repeat(name));
            parse(format!("{namespace}_{name}_{UUID}").as_bytes()).is_some()
        };
        assert_eq!([is_read(63, 1), is_read(64, 1)], [true, false]);
        assert_eq!([is_read(1, 253), is_read(1, 254)], [true, false]);
    }

    #[test]
    fn a_uid_with_two_names_has_none() {
        let logs = tempfile::tempdir().unwrap();
        for name in ["default_web", "default_forged", "other_web"] {
            fs::create_dir(logs.path().join(format!("{name}_{UUID}"))).unwrap();
        }
        let uid = Uid::parse(UUID.as_bytes()).unwrap();
        let names = find(logs.path(), &HashSet::from([uid.clone()]));
        assert!(names.found.is_empty());
        assert!(names.contested.contains(&uid));
    }

    proptest! {
        #[test]
        fn any_bytes_give_clean_names_or_nothing(raw in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Some(pod) = parse(&raw) {
                prop_assert!(pod.namespace.chars().chain(pod.name.chars()).all(|c| c.is_ascii_graphic()));
            }
        }

        #[test]
        fn what_kubernetes_allows_is_read(namespace in "[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", name in "[a-z0-9]([-a-z0-9]{0,9}[a-z0-9])?(\\.[a-z0-9]{1,9}){0,3}") {
            let pod = parse(format!("{namespace}_{name}_{UUID}").as_bytes());
            prop_assert_eq!(pod, Some(Pod { namespace, name, uid: UUID.to_owned() }));
        }
    }
}
