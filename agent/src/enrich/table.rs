//! The pods of this node as last seen, their slots, and which keys the kernel side should know: no I/O, no clock.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::enrich::cgroup::Uid;
use crate::enrich::holds::{GRACE, Holds, Key};
use crate::enrich::pods::{KnownPod, Network};
use crate::pod::{MAX_SLOTS, Pod, Slot, SlotKey, Subject};

/// Pods known at once, those of the last minute included. Kubelet's default limit is 110 running.
const MAX_PODS: usize = 4_096;

/// The kernel's clock and the wall clock may disagree by this much when a slot's first event is dated.
const CLOCK_SLACK: Duration = Duration::from_secs(1);

/// What one look at a pod found.
#[derive(Debug)]
pub(super) struct Sighting {
    /// Not after the pod's cgroup was first seen in memory, not before it was made.
    pub(super) born: SystemTime,
    /// When the look ended.
    pub(super) at: SystemTime,
    /// Inodes of its cgroup v2 directories.
    pub(super) cgroups: Vec<u64>,
    /// Its network.
    pub(super) net: Net,
}

/// The network a pod lives in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Net {
    /// No process of it could be read.
    Unknown,
    /// The host's: no key of it is the pod's.
    Host,
    /// Its own.
    Own {
        /// Inode of the namespace.
        netns: u32,
        /// A process that lives in it; by the time it is looked for, its number may be another's.
        pid: u32,
        /// Its local addresses that are not the host's as well.
        addresses: BTreeSet<IpAddr>,
    },
}

/// What the kernel side must be told, in this order, and what is worth counting.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Effects {
    /// `Some`: bind; `None`: unbind.
    pub(super) keys: Vec<(SlotKey, Option<Slot>)>,
    /// Keys that have become two pods'.
    pub(super) ambiguous: u64,
    /// Pods that wanted a slot when all were taken, or a place in the table.
    pub(super) full: u64,
    /// Names for a pod that has others.
    pub(super) contested: u64,
    /// An address or the namespace of a pod that is still there is no longer its own.
    pub(super) left: bool,
}

#[derive(Debug)]
struct Entry {
    pod: Option<Arc<Pod>>,
    slot: Option<Slot>,
    keys: HashSet<Key>,
    /// When its own network was last seen: what it did not hold then, it has not held since its birth.
    net_seen: Option<SystemTime>,
    gone: Option<SystemTime>,
    /// Its network namespace, and a process in it, at the last look.
    home: Option<(u32, u32)>,
    /// It lived in the host's network namespace then.
    on_host: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Table {
    pods: HashMap<Uid, Entry>,
    holds: Holds,
    bound: HashMap<SlotKey, Slot>,
    owners: HashMap<Slot, (Uid, SystemTime)>,
    /// First those never used, then those out of use for longest.
    free: VecDeque<Slot>,
}

impl Default for Table {
    fn default() -> Self {
        // Slot numbers index arrays of MAX_SLOTS entries and zero is "no pod".
        let free = (1..MAX_SLOTS).filter_map(NonZeroU16::new).map(Slot).collect();
        Self {
            pods: HashMap::new(),
            holds: Holds::default(),
            bound: HashMap::new(),
            owners: HashMap::new(),
            free,
        }
    }
}

impl Table {
    /// `uid` was looked at.
    pub(super) fn observe(&mut self, uid: &Uid, seen: &Sighting) -> Effects {
        let mut effects = Effects::default();
        if !self.pods.contains_key(uid) && self.pods.len() >= MAX_PODS {
            effects.full += 1;
            return effects;
        }
        let entry = self.pods.entry(uid.clone()).or_insert_with(Entry::new);
        if entry.gone.take().is_some() {
            entry.net_seen = None;
        }
        entry.home = match seen.net {
            Net::Own { netns, pid, .. } => Some((netns, pid)),
            Net::Unknown | Net::Host => None,
        };
        entry.on_host = seen.net == Net::Host;
        let wanted = seen.keys();
        let before = std::mem::replace(&mut entry.keys, wanted.clone());
        let net_born = entry.net_seen.unwrap_or(seen.born);
        if matches!(seen.net, Net::Own { .. }) {
            entry.net_seen = Some(seen.at);
        }
        for key in before.difference(&wanted) {
            effects.left |= matches!(key, Key::Net(_));
            self.holds.end(*key, uid, seen.at);
            self.rebind(*key, seen.at, &mut effects);
        }
        for key in wanted.difference(&before) {
            let shared = self.holds.is_shared(*key);
            let born = if matches!(key, Key::Net(_)) { net_born } else { seen.born };
            self.holds.begin(*key, uid, born);
            effects.ambiguous += u64::from(!shared && self.holds.is_shared(*key));
        }
        // Also the keys it had: its name or a free slot may have come since.
        for key in wanted {
            self.rebind(key, seen.at, &mut effects);
        }
        // What is no longer certain goes first.
        effects.keys.sort_by_key(|(_, slot)| slot.is_some());
        effects
    }

    /// `uid`'s names were found. A pod keeps its first; one that is not known yet is asked for when it is.
    pub(super) fn name(&mut self, uid: &Uid, pod: Pod, now: SystemTime) -> Effects {
        let mut effects = Effects::default();
        let Some(entry) = self.pods.get_mut(uid) else { return effects };
        if let Some(known) = &entry.pod {
            effects.contested += u64::from(**known != pod);
            return effects;
        }
        entry.pod = Some(Arc::new(pod));
        for key in entry.keys.clone() {
            self.rebind(key, now, &mut effects);
        }
        effects
    }

    /// `uid`'s cgroup is no more.
    pub(super) fn gone(&mut self, uid: &Uid, now: SystemTime) -> Effects {
        let mut effects = Effects::default();
        let Some(entry) = self.pods.get_mut(uid) else { return effects };
        entry.gone.get_or_insert(now);
        for key in std::mem::take(&mut entry.keys) {
            self.holds.end(key, uid, now);
            self.rebind(key, now, &mut effects);
        }
        effects
    }

    /// Pods gone for longer than the grace period, with the slots to be retired before [`Table::forget`].
    pub(super) fn due(&self, now: SystemTime) -> Vec<(Uid, Option<Slot>)> {
        let is_due = |at: SystemTime| now.duration_since(at).is_ok_and(|since| since >= GRACE);
        let due = self.pods.iter().filter(|(_, entry)| entry.gone.is_some_and(is_due));
        due.map(|(uid, entry)| (uid.clone(), entry.slot)).collect()
    }

    /// Forgets `uids` and hands their slots back.
    pub(super) fn forget(&mut self, uids: &[(Uid, Option<Slot>)], now: SystemTime) {
        self.holds.expire(now);
        for (uid, slot) in uids {
            self.pods.remove(uid);
            if let Some(slot) = slot {
                self.owners.remove(slot);
                self.free.push_back(*slot);
            }
        }
    }

    /// The time at which the next pod is due.
    pub(super) fn next_due(&self) -> Option<SystemTime> {
        self.pods.values().filter_map(|entry| entry.gone).min().map(|gone| gone + GRACE)
    }

    /// The pod that `subject` was at `at`.
    pub(super) fn find(&self, subject: Subject, at: SystemTime) -> Option<Arc<Pod>> {
        let uid = match subject {
            Subject::Slot(slot) => {
                let (uid, since) = self.owners.get(&slot)?;
                (*since <= at + CLOCK_SLACK).then_some(uid)?
            }
            Subject::Address(address) => {
                self.holds.find(Key::Net(SlotKey::Address(address.to_canonical())), at)?
            }
            Subject::Netns(inode) => self.holds.find(Key::Net(SlotKey::Netns(inode)), at)?,
            Subject::Cgroup(inode) => self.holds.find(Key::Cgroup(inode), at)?,
        };
        self.pods.get(uid)?.pod.clone()
    }

    /// All keys the kernel side should know now.
    pub(super) fn bound(&self) -> impl Iterator<Item = (SlotKey, Slot)> {
        self.bound.iter().map(|(key, slot)| (*key, *slot))
    }

    /// Uids of the pods there are, and whether each has its names.
    pub(super) fn alive(&self) -> impl Iterator<Item = (&Uid, bool)> {
        let alive = self.pods.iter().filter(|(_, entry)| entry.gone.is_none());
        alive.map(|(uid, entry)| (uid, entry.pod.is_some()))
    }

    /// Pods that are there and have no name, and are not known to live in the host's network.
    pub(super) fn nameless(&self) -> usize {
        let is_one = |entry: &&Entry| entry.gone.is_none() && entry.pod.is_none() && !entry.on_host;
        self.pods.values().filter(is_one).count()
    }

    /// Every pod with a name.
    pub(super) fn named(&self) -> impl Iterator<Item = KnownPod> {
        self.pods.values().filter_map(|entry| {
            let pod = Arc::clone(entry.pod.as_ref()?);
            let network = match (entry.on_host, entry.home) {
                (true, _) => Network::Host,
                (false, Some(_)) => Network::Own,
                (false, None) => Network::Unseen,
            };
            Some(KnownPod { pod, slot: entry.slot, network, gone: entry.gone.is_some() })
        })
    }

    /// Every pod with a name and a network namespace that it alone lives in: that, and a process in it.
    pub(super) fn homes(&self) -> impl Iterator<Item = (&Arc<Pod>, u32, u32)> {
        let alive = self.pods.iter().filter(|(_, entry)| entry.gone.is_none());
        alive.filter_map(|(uid, entry)| {
            let (netns, pid) = entry.home?;
            let alone = self.holds.sole(Key::Net(SlotKey::Netns(netns))) == Some(uid);
            Some((entry.pod.as_ref().filter(|_| alone)?, netns, pid))
        })
    }

    /// Brings `bound` in line with who holds `key`: its sole holder if that has a name, else nobody.
    fn rebind(&mut self, key: Key, now: SystemTime, effects: &mut Effects) {
        let Key::Net(key) = key else { return };
        let holder = self.holds.sole(Key::Net(key)).cloned();
        let wanted = holder.and_then(|uid| self.slot(&uid, now, effects));
        let changed = match wanted {
            Some(slot) => self.bound.insert(key, slot) != wanted,
            None => self.bound.remove(&key).is_some(),
        };
        if changed {
            effects.keys.push((key, wanted));
        }
    }

    /// `uid`'s slot, given to it at its first key. A pod with no name gets none: its events could not be told.
    fn slot(&mut self, uid: &Uid, now: SystemTime, effects: &mut Effects) -> Option<Slot> {
        let entry = self.pods.get_mut(uid)?;
        entry.pod.as_ref()?;
        if entry.slot.is_none() {
            entry.slot = self.free.pop_front();
            match entry.slot {
                Some(slot) => drop(self.owners.insert(slot, (uid.clone(), now))),
                None => effects.full += 1,
            }
        }
        entry.slot
    }
}

impl Entry {
    fn new() -> Self {
        Self {
            pod: None,
            slot: None,
            keys: HashSet::new(),
            net_seen: None,
            gone: None,
            home: None,
            on_host: false,
        }
    }
}

impl Sighting {
    fn keys(&self) -> HashSet<Key> {
        let mut keys: HashSet<Key> = self.cgroups.iter().map(|inode| Key::Cgroup(*inode)).collect();
        if let Net::Own { netns, addresses, .. } = &self.net {
            keys.insert(Key::Net(SlotKey::Netns(*netns)));
            keys.extend(addresses.iter().map(|address| Key::Net(SlotKey::Address(address.to_canonical()))));
        }
        keys
    }
}

#[cfg(test)]
mod tests;
