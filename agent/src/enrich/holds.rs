//! Who held which key when: the present holders and those of the last minute.
//!
//! An address or a namespace's inode passes from pod to pod. An event is attributed only if exactly one pod's hold
//! covers its time; where two overlap, nobody is named.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, SystemTime};

use crate::enrich::cgroup::Uid;
use crate::pod::SlotKey;

/// How long what has ended is remembered: events are read from the ring long before.
pub(super) const GRACE: Duration = Duration::from_mins(1);

/// Ended holds remembered. When there are more, the oldest go and with them every answer for their time.
const MAX_ENDED: usize = 8_192;

/// What an event can name a pod by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// A key the kernel side knows too.
    Net(SlotKey),
    /// Inode of a cgroup v2 directory.
    Cgroup(u64),
}

/// One pod's time with a key.
#[derive(Debug)]
struct Hold {
    uid: Uid,
    born: SystemTime,
    until: Option<SystemTime>,
}

impl Hold {
    fn covers(&self, at: SystemTime) -> bool {
        self.born <= at && self.until.is_none_or(|until| at <= until)
    }
}

/// All holds.
#[derive(Debug)]
pub(super) struct Holds {
    by_key: HashMap<Key, Vec<Hold>>,
    /// Ended holds in the order they ended, for forgetting.
    ended: VecDeque<(SystemTime, Key)>,
    /// Up to here holds have been forgotten: what was then is not known any more.
    forgotten: SystemTime,
}

impl Default for Holds {
    fn default() -> Self {
        Self { by_key: HashMap::new(), ended: VecDeque::new(), forgotten: SystemTime::UNIX_EPOCH }
    }
}

impl Holds {
    /// `uid` holds `key`, and may have since `born`.
    pub(super) fn begin(&mut self, key: Key, uid: &Uid, born: SystemTime) {
        self.by_key.entry(key).or_default().push(Hold { uid: uid.clone(), born, until: None });
    }

    /// `uid` was seen without `key` at `now`.
    pub(super) fn end(&mut self, key: Key, uid: &Uid, now: SystemTime) {
        let holds = self.by_key.get_mut(&key).into_iter().flatten();
        for hold in holds.filter(|hold| hold.uid == *uid && hold.until.is_none()) {
            hold.until = Some(now);
            self.ended.push_back((now, key));
        }
        while self.ended.len() > MAX_ENDED {
            self.forget_oldest();
        }
    }

    /// The only pod that holds `key` now.
    pub(super) fn sole(&self, key: Key) -> Option<&Uid> {
        only(self.present(key))
    }

    /// Whether more than one pod holds `key` now.
    pub(super) fn is_shared(&self, key: Key) -> bool {
        let mut present = self.present(key);
        present.next().is_some_and(|first| present.any(|other| other != first))
    }

    /// The pod that alone held `key` at `at`.
    pub(super) fn find(&self, key: Key, at: SystemTime) -> Option<&Uid> {
        if at <= self.forgotten {
            return None;
        }
        only(self.by_key.get(&key)?.iter().filter(|hold| hold.covers(at)).map(|hold| &hold.uid))
    }

    /// Forgets what ended more than [`GRACE`] ago.
    pub(super) fn expire(&mut self, now: SystemTime) {
        let is_old = |at: &SystemTime| now.duration_since(*at).is_ok_and(|since| since > GRACE);
        while self.ended.front().is_some_and(|(at, _)| is_old(at)) {
            self.forget_oldest();
        }
    }

    fn present(&self, key: Key) -> impl Iterator<Item = &Uid> {
        self.by_key.get(&key).into_iter().flatten().filter(|hold| hold.until.is_none()).map(|hold| &hold.uid)
    }

    fn forget_oldest(&mut self) {
        let Some((until, key)) = self.ended.pop_front() else { return };
        self.forgotten = self.forgotten.max(until);
        if let Some(holds) = self.by_key.get_mut(&key) {
            if let Some(at) = holds.iter().position(|hold| hold.until == Some(until)) {
                holds.remove(at);
            }
            if holds.is_empty() {
                self.by_key.remove(&key);
            }
        }
    }
}

/// The one value that all of `uids` are, if there is any.
fn only<'a>(mut uids: impl Iterator<Item = &'a Uid>) -> Option<&'a Uid> {
    let first = uids.next()?;
    uids.all(|other| other == first).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key::Net(SlotKey::Netns(7));

    fn uid(digit: char) -> Uid {
        Uid::parse(digit.to_string().repeat(32).as_bytes()).unwrap()
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn an_overlap_is_nobodys() {
        let (a, b) = (uid('a'), uid('b'));
        let mut holds = Holds::default();
        holds.begin(KEY, &a, at(10));
        assert_eq!(holds.sole(KEY), Some(&a));
        holds.begin(KEY, &b, at(20));
        assert!(holds.is_shared(KEY));
        assert_eq!(holds.sole(KEY), None);
        holds.end(KEY, &a, at(22));
        assert_eq!(holds.sole(KEY), Some(&b));
        for (second, wanted) in [
            (9, None),
            (10, Some(&a)),
            (19, Some(&a)),
            (20, None),
            (22, None),
            (23, Some(&b)),
            (99, Some(&b)),
        ] {
            assert_eq!(holds.find(KEY, at(second)), wanted, "second {second}");
        }
    }

    #[test]
    fn what_was_forgotten_makes_nothing_certain() {
        let (a, b) = (uid('a'), uid('b'));
        let mut holds = Holds::default();
        holds.begin(KEY, &a, at(10));
        holds.begin(KEY, &b, at(15));
        holds.end(KEY, &a, at(20));
        holds.expire(at(80));
        assert_eq!(holds.find(KEY, at(18)), None, "still remembered, and shared");
        holds.expire(at(81));
        assert_eq!(holds.find(KEY, at(18)), None, "forgotten, not b's");
        assert_eq!(holds.find(KEY, at(21)), Some(&b));
    }

    #[test]
    fn what_has_ended_is_known_for_a_minute() {
        let a = uid('a');
        let mut holds = Holds::default();
        holds.begin(KEY, &a, at(10));
        holds.end(KEY, &a, at(20));
        holds.expire(at(80));
        assert_eq!(holds.find(KEY, at(15)), Some(&a));
        holds.expire(at(81));
        assert_eq!((holds.find(KEY, at(15)), holds.by_key.len()), (None, 0));
    }

    #[test]
    fn churn_stays_bounded() {
        let a = uid('a');
        let mut holds = Holds::default();
        for second in 0..30_000 {
            let key = Key::Cgroup(second % 9_000);
            holds.begin(key, &a, at(second));
            holds.end(key, &a, at(second));
        }
        assert_eq!(holds.ended.len(), MAX_ENDED);
        assert!(holds.by_key.values().map(Vec::len).sum::<usize>() <= MAX_ENDED);
    }
}
