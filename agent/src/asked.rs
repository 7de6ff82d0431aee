//! The pods that the command line names, against those this node has: a name that no pod has is refused, since it would show nothing.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::cli::Host;
use crate::enrich::{self, KnownPod, Network, PodIndex, names};
use crate::failure::Failure;
use crate::log::note;
use crate::nearest;
use crate::pod::{Pod, PodPattern};

/// The pods asked for: those of one of these namespaces that one of these patterns matches. An empty list asks nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodsAsked {
    /// `-n`.
    pub namespaces: Vec<String>,
    /// `--pod`.
    pub pods: Vec<PodPattern>,
}

/// One thing asked for that no pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// As in `no pod of namespace "shpo" on this node`.
    pub what: String,
    /// What may have been meant, or why no pod is known at all.
    pub hint: String,
    /// The flags that ask for it.
    pub of: &'static [&'static str],
}

/// What is not there yet of the pods asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Early {
    /// No pod has the name.
    Name(Missing),
    /// Pods, by name, no process of which was seen: their networks are not known.
    Network(Vec<String>),
}

impl Early {
    /// What is said while it is waited for.
    #[must_use]
    pub fn waited_for(&self, patience: Duration) -> String {
        let most = if patience.is_zero() {
            String::new()
        } else {
            format!(" for at most {}", humantime::format_duration(patience))
        };
        let what = match self {
            Self::Name(missing) => missing.what.clone(),
            Self::Network(names) => format!("no process of {}", few(names)),
        };
        format!("{what} yet: waiting for it{most}; Ctrl-C ends it")
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.hint)
    }
}

impl From<Missing> for Failure {
    fn from(missing: Missing) -> Self {
        Self::usage(&missing).of(missing.of)
    }
}

impl PodsAsked {
    /// Whether any pod will do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty() && self.pods.is_empty()
    }

    /// Whether each pod asked for is: one whose name is not known may be of a namespace, or have a prefix, that is asked for.
    #[must_use]
    pub fn is_by_name(&self) -> bool {
        !self.pods.is_empty() && self.pods.iter().all(|pattern| !pattern.begins)
    }

    /// Whether this pod is asked for.
    #[must_use]
    pub fn wants(&self, pod: &Pod) -> bool {
        (self.namespaces.is_empty() || self.namespaces.contains(&pod.namespace))
            && (self.pods.is_empty() || self.pods.iter().any(|pattern| pattern.matches(pod)))
    }

    /// The first name that no pod of this node has.
    #[must_use]
    pub fn missing(&self, host: &Host, index: &PodIndex) -> Option<Missing> {
        let pods: Vec<Arc<Pod>> =
            index.pods().into_iter().filter(|known| !known.gone).map(|known| known.pod).collect();
        let mut missing = self.missing_of(&pods)?;
        if pods.is_empty() {
            missing.hint = format!("no pod is known here: {}", why_none(host));
        }
        Some(missing)
    }

    fn missing_of(&self, pods: &[Arc<Pod>]) -> Option<Missing> {
        for namespace in &self.namespaces {
            if !pods.iter().any(|pod| pod.namespace == *namespace) {
                let known = pods.iter().map(|pod| pod.namespace.as_str());
                return Some(Missing {
                    what: format!("no pod of namespace {namespace:?} on this node"),
                    hint: nearest::hint(namespace, known),
                    of: &["namespace"],
                });
            }
        }
        let one = |pattern: PodPattern| Self { namespaces: self.namespaces.clone(), pods: vec![pattern] };
        let missing = self.pods.iter().find(|pattern| {
            let asked = one((*pattern).clone());
            !pods.iter().any(|pod| asked.wants(pod))
        })?;
        if let Some(of) = &missing.namespace
            && !self.namespaces.is_empty()
            && !self.namespaces.contains(of)
        {
            return Some(Missing {
                what: format!(
                    "no pod {:?} of namespace {} on this node",
                    missing.to_string(),
                    one_of(&self.namespaces)
                ),
                hint: "--pod and -n exclude each other".to_owned(),
                of: &["pod", "namespace"],
            });
        }
        let of = match self.namespaces.as_slice() {
            [] => String::new(),
            names => format!(" of namespace {}", one_of(names)),
        };
        Some(Missing {
            what: format!("no pod {:?}{of} on this node", missing.to_string()),
            hint: like(missing, pods),
            of: if self.namespaces.is_empty() { &["pod"] } else { &["pod", "namespace"] },
        })
    }

    /// What of the pods asked for is not there yet; `None` as well where this process may not see their networks.
    #[must_use]
    pub fn early(&self, host: &Host, index: &PodIndex) -> Option<Early> {
        if self.is_empty() {
            return None;
        }
        if let Some(missing) = self.missing(host, index) {
            return Some(Early::Name(missing));
        }
        if index.has_hidden_namespaces() {
            return None;
        }
        let known: Vec<_> =
            index.pods().into_iter().filter(|known| !known.gone && self.wants(&known.pod)).collect();
        // Others of a namespace may never start, and must not hold up those that have. One that shares its network namespace has
        // been seen, and will not be known better.
        let unseen = self.each().into_iter().find_map(|one| {
            let its = || known.iter().filter(|known| one.wants(&known.pod));
            let is_dark = its().all(|known| known.network == Network::Unseen);
            is_dark.then(|| names_of(its().cloned()))
        });
        unseen.filter(|names| !names.is_empty()).map(Early::Network)
    }

    /// What is asked for, name by name.
    fn each(&self) -> Vec<Self> {
        let of = |namespaces: &[String], pods: &[PodPattern]| Self {
            namespaces: namespaces.to_vec(),
            pods: pods.to_vec(),
        };
        if self.pods.is_empty() {
            self.namespaces.iter().map(|one| of(std::slice::from_ref(one), &[])).collect()
        } else {
            self.pods.iter().map(|one| of(&self.namespaces, std::slice::from_ref(one))).collect()
        }
    }

    /// Makes sure that every name is a pod's, or waits for that and for the network of one of its pods if `wait` says how long.
    ///
    /// # Errors
    /// Usage: the first name that no pod has, with the nearest.
    pub async fn present(
        &self,
        host: &Host,
        index: &PodIndex,
        wait: Option<Duration>,
    ) -> Result<(), Failure> {
        let early = self.early(host, index);
        if let (Some(Early::Name(missing)), None) = (&early, wait) {
            return Err(missing.clone().into());
        }
        host.warn_of_missing();
        let Some((early, patience)) = early.zip(wait) else { return Ok(()) };
        note(&early.waited_for(patience));
        Ok(self.come(host, index, patience).await?)
    }

    /// Returns once every name is a pod's whose network is known, or `patience` later. Zero is for ever.
    ///
    /// # Errors
    /// The first name that no pod has by then.
    pub async fn come(&self, host: &Host, index: &PodIndex, patience: Duration) -> Result<(), Missing> {
        let mut version = index.version();
        let end = (!patience.is_zero()).then(|| Instant::now().checked_add(patience)).flatten();
        loop {
            version.borrow_and_update();
            let Some(early) = self.early(host, index) else { return Ok(()) };
            // An error is that nobody looks for pods any more: then none will come.
            let has_changed = match end {
                Some(end) => matches!(timeout_at(end, version.changed()).await, Ok(Ok(()))),
                None => version.changed().await.is_ok(),
            };
            match early {
                _ if has_changed => {}
                Early::Network(_) => return Ok(()),
                Early::Name(missing) if end.is_none() => return Err(missing),
                Early::Name(missing) => {
                    let after = humantime::format_duration(patience);
                    return Err(Missing { what: format!("{} within {after}", missing.what), ..missing });
                }
            }
        }
    }

    /// The pods asked for that have no network namespace of their own, as far as is known: no packet is theirs.
    #[must_use]
    pub fn homeless(&self, index: &PodIndex) -> Homeless {
        let homes = index.namespaces();
        let known = index.pods().into_iter().filter(|known| !known.gone && self.wants(&known.pod));
        let homeless = known.filter(|known| !homes.iter().any(|home| home.pod == known.pod));
        let (on_host, unseen): (Vec<KnownPod>, Vec<_>) =
            homeless.partition(|known| known.network == Network::Host);
        Homeless { on_host: names_of(on_host), unseen: names_of(unseen) }
    }
}

/// Their full names, in order.
fn names_of(pods: impl IntoIterator<Item = KnownPod>) -> Vec<String> {
    let mut names: Vec<String> = pods.into_iter().map(|known| full_name(&known.pod)).collect();
    names.sort_unstable();
    names
}

/// Pods without a network namespace of their own, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Homeless {
    /// They live in the host's.
    pub on_host: Vec<String>,
    /// No process of them was seen, or they share a namespace: none is known to be theirs.
    pub unseen: Vec<String>,
}

/// `shop/web-0`.
#[must_use]
pub fn full_name(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

fn one_of(names: &[String]) -> String {
    let names: Vec<&str> = names.iter().take(nearest::MOST).map(String::as_str).collect();
    nearest::one_of(&names)
}

/// Names, of which a sentence holds a few.
#[must_use]
pub fn few(names: &[String]) -> String {
    /// More do not help to find out what is wrong.
    const FEW: usize = 5;
    let shown = names.iter().take(FEW).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(FEW) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The pods that are much like a pattern that matches none.
fn like(pattern: &PodPattern, pods: &[Arc<Pod>]) -> String {
    let length = pattern.name.chars().count();
    let cut = |name: &str| -> String {
        if pattern.begins { name.chars().take(length).collect() } else { name.to_owned() }
    };
    match &pattern.namespace {
        Some(namespace) => {
            let wanted = format!("{namespace}/{}", pattern.name);
            let names =
                pods.iter().map(|pod| (format!("{}/{}", pod.namespace, cut(&pod.name)), full_name(pod)));
            nearest::hint_by(&wanted, names)
        }
        None => nearest::hint_by(&pattern.name, pods.iter().map(|pod| (cut(&pod.name), full_name(pod)))),
    }
}

/// Why no pod has a name: what kubelet makes is not where it is looked for.
fn why_none(host: &Host) -> String {
    if enrich::cgroups(&host.host_cgroup).kubepods.is_none() {
        return format!("there is no kubepods in {} (--host-cgroup)", host.host_cgroup.display());
    }
    let at = host.pod_logs.display();
    match has_names(&host.pod_logs) {
        Err(error) => format!("{at} (--pod-logs): {error}"),
        Ok(false) => format!("{at} (--pod-logs) has no directory of a pod"),
        Ok(true) => "kubelet runs none".to_owned(),
    }
}

fn has_names(logs: &Path) -> std::io::Result<bool> {
    use std::os::unix::ffi::OsStrExt as _;
    let mut entries = std::fs::read_dir(logs)?.flatten();
    Ok(entries.any(|entry| names::parse(entry.file_name().as_bytes()).is_some()))
}

#[cfg(test)]
mod tests;
