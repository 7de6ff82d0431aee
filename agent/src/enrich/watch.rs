//! The kernel's word that a directory has changed (inotify), with what each watched directory means.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::enrich::cgroup::Uid;

/// What a watched directory is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// `kubepods` may appear in it.
    Above(PathBuf),
    /// It holds pods.
    Level(PathBuf),
    /// A pod's cgroup: it holds containers.
    Pod(Uid),
    /// `/var/log/pods` may appear in it.
    AboveLogs,
    /// `/var/log/pods`.
    Logs,
}

/// A change in a watched directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// A directory of that name is there.
    Came(Place, OsString),
    /// It is not there any more.
    Went(Place, OsString),
    /// The watched directory itself is gone.
    Gone(Place),
    /// Changes were lost.
    Lost,
}

#[derive(Debug)]
struct Queue(Inotify);

impl AsRawFd for Queue {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// The watched directories.
#[derive(Debug)]
pub(super) struct Watches {
    queue: Arc<Queue>,
    places: HashMap<WatchDescriptor, Place>,
}

/// The end that changes come out of.
#[derive(Debug)]
pub(super) struct Events(AsyncFd<Arc<Queue>>);

impl Watches {
    /// None yet.
    ///
    /// # Errors
    /// The user's inotify instances are used up (`fs.inotify.max_user_instances`), or there is no tokio runtime.
    pub(super) fn new() -> io::Result<(Self, Events)> {
        let queue = Arc::new(Queue(Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?));
        // SAFETY: the queue owns its descriptor, shows no one a way to close or replace it, and lives as long as the
        // `AsyncFd` that shares it.
        let events = unsafe { AsyncFd::register_with_interest(Arc::clone(&queue), Interest::READABLE) }?;
        Ok((Self { queue, places: HashMap::new() }, Events(events)))
    }

    /// Watches `dir`. Once this has returned, whatever comes into `dir` is told.
    ///
    /// # Errors
    /// It is no directory, or the user's watches are used up (`fs.inotify.max_user_watches`).
    pub(super) fn add(&mut self, dir: &Path, place: Place) -> io::Result<()> {
        let flags = AddWatchFlags::IN_ONLYDIR
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE_SELF;
        let descriptor = self.queue.0.add_watch(dir, flags)?;
        self.places.insert(descriptor, place);
        Ok(())
    }

    /// Ends the watches of all other places.
    pub(super) fn keep_only(&mut self, wanted: impl Fn(&Place) -> bool) {
        let queue = &self.queue.0;
        self.places.retain(|descriptor, place| {
            let keep = wanted(place);
            if !keep {
                // The directory may be gone, and the watch with it.
                let _ = queue.rm_watch(*descriptor);
            }
            keep
        });
    }

    /// What `event` means.
    pub(super) fn read(&mut self, event: InotifyEvent) -> Option<Change> {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            return Some(Change::Lost);
        }
        if event.mask.intersects(AddWatchFlags::IN_IGNORED | AddWatchFlags::IN_DELETE_SELF) {
            return self.places.remove(&event.wd).map(Change::Gone);
        }
        let place = self.places.get(&event.wd)?.clone();
        let name = event.name.filter(|_| event.mask.contains(AddWatchFlags::IN_ISDIR))?;
        if event.mask.intersects(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO) {
            Some(Change::Came(place, name))
        } else {
            Some(Change::Went(place, name))
        }
    }
}

impl Events {
    /// The next events, as many as the kernel gives at once.
    ///
    /// # Errors
    /// The queue cannot be read any more.
    pub(super) async fn next(&self) -> io::Result<Vec<InotifyEvent>> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(events) = ready.try_io(|queue| queue.get_ref().0.read_events().map_err(io::Error::from))
            {
                return events;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// What is told until the kernel has no more to tell.
    async fn told(watches: &mut Watches, events: &Events) -> Vec<Change> {
        // One more change, in a directory of its own, comes after all others.
        let last = tempfile::tempdir().unwrap();
        watches.add(last.path(), Place::AboveLogs).unwrap();
        fs::create_dir(last.path().join("last")).unwrap();
        let mut told = Vec::new();
        loop {
            for event in events.next().await.unwrap() {
                match watches.read(event) {
                    Some(Change::Came(Place::AboveLogs, name)) if name == "last" => {
                        watches.keep_only(|place| *place != Place::AboveLogs);
                        return told;
                    }
                    change => told.extend(change),
                }
            }
        }
    }

    #[tokio::test]
    async fn directories_that_come_and_go_are_told_and_files_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let [logs, beside] = ["logs", "beside"].map(|name| dir.path().join(name));
        fs::create_dir(&logs).unwrap();
        fs::create_dir_all(beside.join("moved")).unwrap();
        let (mut watches, events) = Watches::new().unwrap();
        watches.add(&logs, Place::Logs).unwrap();
        assert!(watches.add(&dir.path().join("none"), Place::Logs).is_err());
        fs::write(logs.join("file"), "").unwrap();
        fs::create_dir(logs.join("made")).unwrap();
        fs::rename(beside.join("moved"), logs.join("moved")).unwrap();
        fs::rename(logs.join("moved"), beside.join("moved")).unwrap();
        fs::remove_dir(logs.join("made")).unwrap();
        fs::remove_file(logs.join("file")).unwrap();
        let came = |name: &str| Change::Came(Place::Logs, name.into());
        let went = |name: &str| Change::Went(Place::Logs, name.into());
        assert_eq!(
            told(&mut watches, &events).await,
            [came("made"), came("moved"), went("moved"), went("made")]
        );
        fs::remove_dir(&logs).unwrap();
        assert_eq!(told(&mut watches, &events).await, [Change::Gone(Place::Logs)]);
        assert!(watches.places.is_empty());
    }

    #[tokio::test]
    async fn what_is_not_kept_is_not_told() {
        let [kept, other] = [(), ()].map(|()| tempfile::tempdir().unwrap());
        let (mut watches, events) = Watches::new().unwrap();
        watches.add(kept.path(), Place::Logs).unwrap();
        watches.add(other.path(), Place::Level("a".into())).unwrap();
        watches.keep_only(|place| *place == Place::Logs);
        for dir in [&kept, &other] {
            fs::create_dir(dir.path().join("made")).unwrap();
        }
        assert_eq!(told(&mut watches, &events).await, [Change::Came(Place::Logs, "made".into())]);
    }
}
