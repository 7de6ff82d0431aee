//! Keeps the index true as pods come and go: told by the kernel, looking only at what changed.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::sys::inotify::InotifyEvent;
use tokio::time::Instant;

use crate::enrich::Roots;
use crate::enrich::cgroup::{self, Uid};
use crate::enrich::names;
use crate::enrich::netns::Host;
use crate::enrich::pods::{PodIndex, PodStats};
use crate::enrich::scan::{self, Tally, Tree};
use crate::enrich::table::Net;
use crate::enrich::watch::{Change, Events, Place, Watches};
use crate::rights::{self, Act};
use crate::shutdown::Drain;

/// A burst of changes is looked at once, this long after its first.
const SETTLE: Duration = Duration::from_millis(50);
/// Waits between the looks that follow a change: a container's process comes after its cgroup, enters its namespace
/// after that, and with some runtimes has its address only later still.
const LOOKS: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5)];
/// Everything is read again this often, in case the kernel told us nothing.
const RESYNC: Duration = Duration::from_mins(1);
/// The same while directories could not be watched.
const RESYNC_BLIND: Duration = Duration::from_secs(10);
/// Least time between two full readings: whoever makes the queue overflow must not make us poll.
const BETWEEN_FULL: Duration = Duration::from_secs(1);
/// Directories watched for `kubepods` to appear.
const MAX_ABOVE: usize = 512;

/// When a pod is to be looked at next.
#[derive(Debug)]
struct Plan {
    at: Instant,
    /// How many of [`LOOKS`] have been begun.
    step: usize,
}

/// What is known of the trees, between one look and the next.
#[derive(Debug)]
pub(super) struct Follower {
    roots: Roots,
    index: PodIndex,
    watches: Option<Watches>,
    host: Result<Host, Errno>,
    v2: bool,
    pods: HashMap<Uid, PathBuf>,
    plans: HashMap<Uid, Plan>,
    last_full: Instant,
    next_full: Instant,
    told: HashSet<Once>,
}

/// What is said once, and need not be said again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Once {
    Blind,
    Host,
    Hidden,
    Refused,
}

impl Follower {
    pub(super) fn new(roots: Roots, index: PodIndex, watches: Option<Watches>) -> Self {
        let now = Instant::now();
        Self {
            roots,
            index,
            watches,
            // Until it is read.
            host: Err(Errno::ENOENT),
            v2: false,
            pods: HashMap::new(),
            plans: HashMap::new(),
            last_full: now,
            next_full: now,
            told: HashSet::new(),
        }
    }

    /// How many pods have a cgroup.
    pub(super) fn count(&self) -> usize {
        self.pods.len()
    }

    /// When [`Follower::work`] has something to do.
    pub(super) fn next_wake(&self) -> Instant {
        let planned = self.plans.values().map(|plan| plan.at).min();
        // A slot is retired by the wall clock; should that be set back, the next resync finds it.
        let reap = self.index.next_reap().map(|at| {
            let wait = at.duration_since(SystemTime::now()).unwrap_or_default();
            Instant::now() + wait.min(RESYNC)
        });
        [planned, reap].into_iter().flatten().fold(self.next_full, Instant::min)
    }

    /// Does what is due. Reads files: not for an async thread.
    pub(super) fn work(&mut self) {
        let now = Instant::now();
        if now >= self.next_full {
            self.read_all();
        }
        let due: Vec<Uid> =
            self.plans.iter().filter(|(_, plan)| plan.at <= now).map(|(uid, _)| uid.clone()).collect();
        for uid in &due {
            self.look(uid);
            self.plan_next(uid);
        }
        let (_, nameless) = self.index.alive();
        if !due.is_empty() && !nameless.is_empty() {
            self.read_names(&nameless);
        }
        self.index.reap(SystemTime::now());
    }

    /// Takes note of what the kernel told.
    pub(super) fn take(&mut self, events: Vec<InotifyEvent>) {
        for event in events {
            match self.watches.as_mut().and_then(|watches| watches.read(event)) {
                Some(Change::Came(place, name)) => self.came(&place, &name),
                Some(Change::Went(place, name)) => self.went(&place, &name),
                Some(Change::Gone(Place::Above(_) | Place::Pod(_))) | None => {}
                Some(Change::Gone(_)) => self.plan_full(),
                Some(Change::Lost) => {
                    PodStats::add(&self.index.stats().watches_lost, 1);
                    self.plan_full();
                }
            }
        }
    }

    fn came(&mut self, place: &Place, name: &OsStr) {
        match place {
            Place::Above(_) if cgroup::may_hold_kubepods(name.as_bytes()) => self.plan_full(),
            Place::AboveLogs if Some(name) == self.roots.pod_logs.file_name() => self.plan_full(),
            Place::Above(_) | Place::AboveLogs => {}
            Place::Level(level) => {
                if let Some((uid, _)) = cgroup::pod_dir(name.as_bytes()) {
                    self.pods.insert(uid.clone(), level.join(name));
                    self.plan(&uid, SETTLE);
                } else if cgroup::qos_dir(name.as_bytes()).is_some() {
                    self.plan_full();
                }
            }
            Place::Pod(uid) => self.plan(uid, SETTLE),
            Place::Logs => {
                if let Some((uid, pod)) = names::parse(name.as_bytes()).and_then(names::with_uid) {
                    self.index.name(&uid, pod);
                }
            }
        }
    }

    fn went(&mut self, place: &Place, name: &OsStr) {
        match place {
            // At once: the next holder of its address may be on its way.
            Place::Level(level) => {
                if let Some((uid, _)) = cgroup::pod_dir(name.as_bytes())
                    && self.pods.get(&uid).is_some_and(|dir| *dir == level.join(name))
                {
                    self.gone(&uid);
                }
            }
            Place::Pod(uid) => self.plan(uid, Duration::ZERO),
            Place::Above(_) | Place::AboveLogs | Place::Logs => {}
        }
    }

    /// Looks at `uid` after `wait` and then as often as [`LOOKS`] says. An earlier look that is planned stays.
    fn plan(&mut self, uid: &Uid, wait: Duration) {
        let at = Instant::now() + wait;
        let plan = self.plans.entry(uid.clone()).or_insert(Plan { at, step: 0 });
        *plan = Plan { at: plan.at.min(at), step: 0 };
    }

    fn plan_next(&mut self, uid: &Uid) {
        let Some(plan) = self.plans.get_mut(uid) else { return };
        if let Some(wait) = LOOKS.get(plan.step) {
            *plan = Plan { at: Instant::now() + *wait, step: plan.step + 1 };
        } else {
            self.plans.remove(uid);
        }
    }

    fn plan_full(&mut self) {
        let soonest = (Instant::now() + SETTLE).max(self.last_full + BETWEEN_FULL);
        self.next_full = self.next_full.min(soonest);
    }

    fn gone(&mut self, uid: &Uid) {
        self.pods.remove(uid);
        self.plans.remove(uid);
        self.index.gone(uid);
    }

    /// Reads everything: the first time, as a safety net, and after changes were lost.
    fn read_all(&mut self) {
        self.host = Host::read(&self.roots.proc);
        let mut blind = self.watches.is_none();
        let tree = self.watch_tree(&mut blind);
        self.v2 = tree.v2;
        let found: HashMap<Uid, PathBuf> =
            tree.levels.iter().flat_map(|level| scan::pods_in(level)).collect();
        let (alive, _) = self.index.alive();
        for uid in alive.iter().chain(self.pods.keys()).filter(|uid| !found.contains_key(*uid)) {
            self.index.gone(uid);
        }
        self.plans.retain(|uid, _| found.contains_key(uid));
        if let Some(watches) = &mut self.watches {
            watches.keep_only(|place| !matches!(place, Place::Pod(uid) if !found.contains_key(uid)));
        }
        self.pods = found;
        let uids: Vec<Uid> = self.pods.keys().cloned().collect();
        for uid in uids {
            let settled = self.look(&uid);
            if !settled && !alive.contains(&uid) {
                self.plan(&uid, SETTLE);
            }
        }
        let (_, nameless) = self.index.alive();
        self.read_names(&nameless);
        self.last_full = Instant::now();
        self.next_full = self.last_full + if blind { RESYNC_BLIND } else { RESYNC };
        self.tell(blind);
    }

    /// Finds kubelet's tree and watches it, in that order until nothing came in between.
    fn watch_tree(&mut self, blind: &mut bool) -> Tree {
        let mut tree = scan::tree(&self.roots.cgroup);
        let mut wanted = HashSet::new();
        for _ in 0..3 {
            wanted.clear();
            for dir in above_to_watch(&tree) {
                *blind |= !self.watch(dir, Place::Above(dir.to_owned()), &mut wanted);
            }
            for level in &tree.levels {
                *blind |= !self.watch(level, Place::Level(level.clone()), &mut wanted);
            }
            let again = scan::tree(&self.roots.cgroup);
            let same = again.levels == tree.levels;
            tree = again;
            if same {
                break;
            }
        }
        let logs = self.roots.pod_logs.clone();
        if !self.watch(&logs, Place::Logs, &mut wanted)
            && let Some(parent) = logs.parent()
        {
            self.watch(parent, Place::AboveLogs, &mut wanted);
        }
        if let Some(watches) = &mut self.watches {
            watches.keep_only(|place| matches!(place, Place::Pod(_)) || wanted.contains(place));
        }
        tree
    }

    /// Whether `dir` is watched, or is not there to be.
    fn watch(&mut self, dir: &Path, place: Place, wanted: &mut HashSet<Place>) -> bool {
        let Some(watches) = &mut self.watches else { return false };
        wanted.insert(place.clone());
        watches.add(dir, place).is_ok()
    }

    /// Looks at one pod; whether its addresses are known.
    fn look(&mut self, uid: &Uid) -> bool {
        let Some(dir) = self.pods.get(uid).cloned() else { return true };
        // Watched before it is read: what comes after the reading is told.
        let unwatched = self.watches.as_mut().is_some_and(|watches| {
            let outcome = watches.add(&dir, Place::Pod(uid.clone()));
            outcome.is_err() && dir.exists()
        });
        let stats = self.index.stats();
        PodStats::add(&stats.watches_lost, u64::from(unwatched));
        let mut tally = Tally::default();
        let seen = scan::look(&dir, self.v2, &self.roots.proc, self.host.as_ref().ok(), &mut tally);
        PodStats::add(&stats.readings_raced, tally.raced);
        PodStats::add(&stats.pids_hidden, tally.hidden);
        PodStats::add(&stats.addresses_of_host, tally.of_host);
        PodStats::add(&stats.netns_refused, tally.refused);
        if tally.hidden > 0 && self.told.insert(Once::Hidden) {
            tracing::warn!(
                "processes of pods are in another pid namespace than the agent's: no pod has an address; {}",
                rights::cure_of_pids()
            );
        }
        if tally.refused > 0 && self.told.insert(Once::Refused) {
            tracing::warn!(
                "network namespaces of pods cannot be seen, so events carry no pod and the audit leaves these pods out: {}",
                unseen(Errno::EACCES)
            );
        }
        let Some(seen) = seen else {
            self.gone(uid);
            return true;
        };
        // A link that goes down takes its addresses with it, and no notification tells when they are back. Looks that are
        // planned go on as they are: a pod that takes its addresses away over and over is not read over and over.
        if self.index.observe(uid, &seen) && !self.plans.contains_key(uid) {
            self.plan(uid, SETTLE);
        }
        matches!(seen.net, Net::Own { addresses, .. } if !addresses.is_empty())
    }

    /// Looks the pods that have no name up in kubelet's log directory.
    fn read_names(&self, nameless: &HashSet<Uid>) {
        let names = names::find(&self.roots.pod_logs, nameless);
        let stats = self.index.stats();
        stats.names_ignored.store(names.ignored, Ordering::Relaxed);
        PodStats::add(&stats.names_contested, u64::try_from(names.contested.len()).unwrap_or(u64::MAX));
        for (uid, pod) in names.found {
            self.index.name(&uid, pod);
        }
    }

    fn tell(&mut self, blind: bool) {
        if blind && self.told.insert(Once::Blind) {
            tracing::warn!(
                "inotify refused a watch (fs.inotify.max_user_instances or max_user_watches): \
                 pods are looked for every {} s instead",
                RESYNC_BLIND.as_secs()
            );
        }
        if self.host.is_err() {
            let unseen = u64::try_from(self.pods.len()).unwrap_or(u64::MAX);
            PodStats::add(&self.index.stats().netns_refused, unseen);
        }
        if let Err(error) = self.host
            && !self.pods.is_empty()
            && self.told.insert(Once::Host)
        {
            tracing::warn!(
                "the host's network namespace cannot be seen, no pod has an address: {}",
                unseen(error)
            );
        }
    }
}

/// Why a process's network namespace cannot be seen.
fn unseen(error: Errno) -> String {
    rights::why(Act::SeeNetns, error, false).map_or_else(
        || format!("{}; --host-proc must be a proc file system of the host's pid namespace", error.desc()),
        |refused| refused.to_string(),
    )
}

/// Where `kubepods` may still come: beside the one there is, or anywhere.
fn above_to_watch(tree: &Tree) -> impl Iterator<Item = &PathBuf> {
    let has_one = |dir: &PathBuf| tree.levels.iter().any(|level| level.parent() == Some(dir.as_path()));
    tree.above.iter().filter(move |dir| tree.levels.is_empty() || has_one(dir)).take(MAX_ABOVE)
}

/// Follows until asked to finish.
pub(super) async fn follow(mut follower: Follower, mut events: Option<Events>, mut drain: Drain) {
    loop {
        let wake = follower.next_wake();
        tokio::select! {
            () = drain.wait() => return,
            told = next(events.as_ref()) => match told {
                Ok(told) => follower.take(told),
                Err(error) => {
                    tracing::warn!(%error, "the kernel's notifications ended: pods are looked for by reading");
                    events = None;
                    follower.watches = None;
                }
            },
            () = tokio::time::sleep_until(wake) => {
                match tokio::task::spawn_blocking(move || { follower.work(); follower }).await {
                    Ok(back) => follower = back,
                    Err(error) => {
                        tracing::error!(%error, "looking for pods failed: later pods stay unknown");
                        return;
                    }
                }
            }
        }
    }
}

async fn next(events: Option<&Events>) -> std::io::Result<Vec<InotifyEvent>> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
