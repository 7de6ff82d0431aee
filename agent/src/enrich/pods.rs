//! The index of this node's pods: answers whose a subject is and keeps every probe's slot maps filled.

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::SystemTime;

use tokio::sync::watch;

use crate::enrich::cgroup::Uid;
use crate::enrich::table::{Effects, Sighting, Table};
use crate::pod::{FindPod, Pod, PodSlots, Slot, SlotKey, Subject};

/// The pods of this node. A clone is another handle to the same index.
#[derive(Clone, Default)]
pub struct PodIndex(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Taken first and held while the kernel side is told: writers and registrations are one after the other.
    slots: Mutex<Vec<Box<dyn PodSlots>>>,
    /// Never held while anything outside this file runs.
    table: RwLock<Table>,
    stats: PodStats,
    version: watch::Sender<u64>,
}

/// What the index left out, and why. Each is a count since the start unless it says otherwise.
#[derive(Debug, Default)]
pub struct PodStats {
    /// Entries of `/var/log/pods` that are no pod's, at the last reading.
    pub names_ignored: AtomicU64,
    /// Times two names claimed one uid.
    pub names_contested: AtomicU64,
    /// Times an address or network namespace became two pods'.
    pub keys_ambiguous: AtomicU64,
    /// Addresses of pods that the host has as well, seen in readings.
    pub addresses_of_host: AtomicU64,
    /// Times a pod found no free slot or no place in the table.
    pub full: AtomicU64,
    /// Bindings a probe's map refused.
    pub binds_refused: AtomicU64,
    /// Readings thrown away because the process had gone meanwhile.
    pub readings_raced: AtomicU64,
    /// Containers whose processes are of another pid namespace (the agent lacks `hostPID`), seen in readings.
    pub pids_hidden: AtomicU64,
    /// Processes of pods whose network namespace the kernel refused to show (`CAP_SYS_PTRACE`, or a security module), seen in
    /// readings.
    pub netns_refused: AtomicU64,
    /// Times the kernel's notification queue overflowed or a directory could not be watched.
    pub watches_lost: AtomicU64,
}

impl PodStats {
    pub(super) fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Ordering::Relaxed);
    }
}

/// One pod as [`PodIndex::pods`] tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPod {
    /// Whose.
    pub pod: Arc<Pod>,
    /// Its slot. `None` for a pod that never had an address or namespace of its own.
    pub slot: Option<Slot>,
    /// Where it lived at the last look.
    pub network: Network,
    /// Its cgroup is gone; its slot is not yet retired.
    pub gone: bool,
}

/// The network of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// A namespace of its own.
    Own,
    /// The host's (`hostNetwork`).
    Host,
    /// No process of it was seen: it has not started yet, or its namespace is hidden from this process.
    Unseen,
}

/// A pod's network namespace as [`PodIndex::namespaces`] tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodNetns {
    /// Whose.
    pub pod: Arc<Pod>,
    /// Inode of the namespace.
    pub netns: u32,
    /// A process that lived in it at the last look. Its number may be another's by now: check the inode.
    pub pid: u32,
}

impl PodIndex {
    /// An index that knows no pod.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Fills `slots` with what is known and keeps it filled. Called back from then on by whichever thread learns of
    /// a change; an implementation may look pods up in this index, but not register another.
    pub fn register(&self, mut slots: Box<dyn PodSlots>) {
        let mut registered = self.slots();
        let bound: Vec<_> = self.read().bound().collect();
        for (key, slot) in bound {
            self.bind(slots.as_mut(), key, slot);
        }
        registered.push(slots);
    }

    /// Every pod whose names are known, those that left in the last minute included.
    #[must_use]
    pub fn pods(&self) -> Vec<KnownPod> {
        let table = self.read();
        table.named().collect()
    }

    /// The network namespaces of the pods that have one to themselves, in order of the pods' names.
    #[must_use]
    pub fn namespaces(&self) -> Vec<PodNetns> {
        let table = self.read();
        let homes = table.homes().map(|(pod, netns, pid)| PodNetns { pod: Arc::clone(pod), netns, pid });
        let mut homes: Vec<PodNetns> = homes.collect();
        homes.sort_unstable_by(|one, other| one.pod.cmp(&other.pod));
        homes
    }

    /// Pods whose cgroup is there and whose name is not known, but for those on the host's network.
    #[must_use]
    pub fn nameless(&self) -> usize {
        self.read().nameless()
    }

    /// What was left out.
    #[must_use]
    pub fn stats(&self) -> &PodStats {
        &self.0.stats
    }

    /// Whether network namespaces of pods could not be seen: then pods that have one seem to have none.
    #[must_use]
    pub fn has_hidden_namespaces(&self) -> bool {
        let PodStats { pids_hidden, netns_refused, .. } = &self.0.stats;
        [pids_hidden, netns_refused].iter().any(|count| count.load(Ordering::Relaxed) > 0)
    }

    /// A number that changes whenever the index has been told something: for those who must wait for a pod.
    #[must_use]
    pub fn version(&self) -> watch::Receiver<u64> {
        self.0.version.subscribe()
    }

    /// `uid` was looked at; whether an address or namespace that it had is no longer its own.
    pub(super) fn observe(&self, uid: &Uid, seen: &Sighting) -> bool {
        self.update(|table| table.observe(uid, seen))
    }

    /// `uid`'s names were found.
    pub(super) fn name(&self, uid: &Uid, pod: Pod) {
        self.update(|table| table.name(uid, pod, SystemTime::now()));
    }

    /// `uid`'s cgroup is gone.
    pub(super) fn gone(&self, uid: &Uid) {
        self.update(|table| table.gone(uid, SystemTime::now()));
    }

    /// Retires the slots of pods that are gone for long enough at `now`.
    pub(super) fn reap(&self, now: SystemTime) {
        let mut registered = self.slots();
        let due = self.read().due(now);
        // Told before the slot is forgotten: a probe may still ask whose it was.
        for slot in due.iter().filter_map(|(_, slot)| *slot) {
            registered.iter_mut().for_each(|slots| slots.retire(slot));
        }
        self.write().forget(&due, now);
        drop(registered);
        if !due.is_empty() {
            self.changed();
        }
    }

    /// When the next slot is to be retired.
    pub(super) fn next_reap(&self) -> Option<SystemTime> {
        self.read().next_due()
    }

    /// Uids of the pods whose cgroup is there, and those of them that still have no name.
    pub(super) fn alive(&self) -> (HashSet<Uid>, HashSet<Uid>) {
        let table = self.read();
        let nameless = table.alive().filter(|(_, named)| !named).map(|(uid, _)| uid.clone()).collect();
        (table.alive().map(|(uid, _)| uid.clone()).collect(), nameless)
    }

    fn update(&self, change: impl FnOnce(&mut Table) -> Effects) -> bool {
        let mut registered = self.slots();
        let effects = change(&mut self.write());
        for (key, slot) in effects.keys {
            for slots in registered.iter_mut() {
                match slot {
                    Some(slot) => self.bind(slots.as_mut(), key, slot),
                    None => slots.unbind(key),
                }
            }
        }
        drop(registered);
        PodStats::add(&self.0.stats.keys_ambiguous, effects.ambiguous);
        PodStats::add(&self.0.stats.full, effects.full);
        PodStats::add(&self.0.stats.names_contested, effects.contested);
        self.changed();
        effects.left
    }

    fn bind(&self, slots: &mut dyn PodSlots, key: SlotKey, slot: Slot) {
        if let Err(error) = slots.bind(key, slot) {
            // What the map may still have under this key is another pod's slot.
            slots.unbind(key);
            PodStats::add(&self.0.stats.binds_refused, 1);
            tracing::debug!(?key, %error, "a probe's map refused a pod");
        }
    }

    fn changed(&self) {
        self.0.version.send_modify(|version| *version = version.wrapping_add(1));
    }

    // A panic elsewhere while a lock was held must not end enrichment: the table is whole between its calls.
    fn slots(&self) -> MutexGuard<'_, Vec<Box<dyn PodSlots>>> {
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.0.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.0.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FindPod for PodIndex {
    fn find_pod(&self, subject: Subject, at: SystemTime) -> Option<Arc<Pod>> {
        self.read().find(subject, at)
    }
}

impl fmt::Debug for PodIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodIndex").field("pods", &self.pods().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::enrich::table::Net;

    fn uid(digit: char) -> Uid {
        Uid::parse(digit.to_string().repeat(32).as_bytes()).unwrap()
    }

    fn pod(name: &str, uid: &Uid) -> Pod {
        Pod { namespace: "shop".to_owned(), name: name.to_owned(), uid: uid.to_string() }
    }

    fn seen(netns: u32) -> Sighting {
        let now = SystemTime::now();
        let net = Net::Own { netns, pid: netns + 1, addresses: [].into() };
        Sighting { born: now, at: now, cgroups: Vec::new(), net }
    }

    #[test]
    fn namespaces_are_told_in_order_of_their_pods_names() {
        let index = PodIndex::new();
        for (digit, name, netns) in [('a', "web", 7), ('b', "cart", 8), ('c', "pay", 9)] {
            index.observe(&uid(digit), &seen(netns));
            index.name(&uid(digit), pod(name, &uid(digit)));
        }
        let told: Vec<_> = index
            .namespaces()
            .into_iter()
            .map(|home| (home.pod.name.clone(), home.netns, home.pid))
            .collect();
        let wanted = [("cart", 8, 9), ("pay", 9, 10), ("web", 7, 8)];
        assert_eq!(told, wanted.map(|(name, netns, pid)| (name.to_owned(), netns, pid)));
    }

    #[test]
    fn a_namespace_is_hidden_once_one_was_refused_or_of_another_pid_namespace() {
        let index = PodIndex::new();
        assert!(!index.has_hidden_namespaces());
        let stats = index.stats();
        for counter in [&stats.pids_hidden, &stats.netns_refused] {
            PodStats::add(counter, 1);
            assert!(index.has_hidden_namespaces());
            counter.store(0, Ordering::Relaxed);
        }
        PodStats::add(&stats.readings_raced, 1);
        assert!(!index.has_hidden_namespaces());
    }

    /// Who waits for a pod is woken by what was told, and by nothing else.
    #[test]
    fn whoever_waits_is_told_of_every_change() {
        let index = PodIndex::new();
        let mut version = index.version();
        let mut is_new = || {
            let changed = version.has_changed().unwrap();
            version.mark_unchanged();
            changed
        };
        let a = uid('a');
        assert!(!index.observe(&a, &seen(7)) && is_new());
        assert_eq!((index.nameless(), index.next_reap()), (1, None));
        assert_eq!(index.alive(), ([a.clone()].into(), [a.clone()].into()));
        index.name(&a, pod("web", &a));
        assert!(is_new());
        assert_eq!((index.nameless(), index.alive()), (0, ([a.clone()].into(), [].into())));
        assert!(index.observe(&a, &seen(8)), "its namespace is another");
        assert!(is_new());
        let before = SystemTime::now();
        index.gone(&a);
        assert!(is_new());
        let due = index.next_reap().unwrap();
        assert!(due >= before + Duration::from_mins(1), "what the ring holds still is told");
        index.reap(due - Duration::from_secs(1));
        assert!(!is_new(), "nobody is due");
        index.reap(due);
        assert!(is_new());
        assert_eq!((index.pods(), index.next_reap()), (vec![], None));
    }
}
