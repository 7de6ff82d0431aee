//! The places of a listener: who holds one, what each does with it, and who has to leave when there is no room.
//!
//! Nobody is refused. When all places are taken, the one that makes us wait is closed for the newcomer: so connections
//! that are opened and left half-open, by one client or by hundreds, cost only each other.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

/// Connections at a time; Prometheus and kubelet need a handful.
pub const MAX_CONNECTIONS: usize = 64;

/// Places that one address may hold as well as any other. What it holds beyond, it loses first.
const FAIR_SHARE: usize = 8;

/// Who is there; a clone is another handle to the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Arc<Mutex<Vec<Arc<Place>>>>);

#[derive(Debug)]
struct Place {
    peer: IpAddr,
    doing: Mutex<Doing>,
    leave: Notify,
}

/// What a connection does, in the order in which they lose their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Doing {
    /// We wait for the whole of a request's head, since then.
    Waiting(Instant),
    /// It reads the text that was made then.
    Reading(Instant),
    /// It waits for us, since then.
    Asking(Instant),
}

impl Places {
    /// A place for a connection from `peer`: if there is none left, another has to leave.
    pub(super) fn take(&self, peer: IpAddr) -> Placed {
        let mut places = self.lock();
        let crowded = places.len() >= MAX_CONNECTIONS;
        if let Some(last) = crowded.then(|| last_wanted(&places)).flatten() {
            places.swap_remove(last).leave.notify_one();
        }
        let doing = Mutex::new(Doing::Waiting(Instant::now()));
        let place = Arc::new(Place { peer, doing, leave: Notify::new() });
        places.push(Arc::clone(&place));
        Placed { place, places: self.clone(), crowded }
    }

    /// How many are taken.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    /// When the oldest text was made that somebody reads.
    pub(super) fn oldest_text(&self) -> Option<Instant> {
        self.lock().iter().filter_map(|place| place.text()).min()
    }

    /// Whoever reads the text that was made then has to leave; how many did.
    pub(super) fn evict_readers(&self, text: Instant) -> u64 {
        let mut evicted = 0;
        self.lock().retain(|place| {
            let reads = place.text() == Some(text);
            if reads {
                place.leave.notify_one();
                evicted += 1;
            }
            !reads
        });
        evicted
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Place>>> {
        // Every change is one insertion or removal: a panic elsewhere cannot have left it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which place is wanted least: of an address with more than its share, then of who makes us wait, then the oldest.
fn last_wanted(places: &[Arc<Place>]) -> Option<usize> {
    let held = |peer: IpAddr| places.iter().filter(|place| place.peer == peer).count();
    let key = |place: &Place| (Reverse(held(place.peer).max(FAIR_SHARE)), place.doing());
    let last = places.iter().enumerate().min_by_key(|(_, place)| key(place));
    last.map(|(index, _)| index)
}

impl Place {
    fn doing(&self) -> Doing {
        *self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, doing: Doing) {
        *self.doing.lock().unwrap_or_else(PoisonError::into_inner) = doing;
    }

    fn text(&self) -> Option<Instant> {
        if let Doing::Reading(made) = self.doing() { Some(made) } else { None }
    }
}

/// One connection's place, given back when this goes.
#[derive(Debug)]
pub struct Placed {
    place: Arc<Place>,
    places: Places,
    crowded: bool,
}

impl Placed {
    /// Whether another had to leave for it.
    pub(super) const fn crowded(&self) -> bool {
        self.crowded
    }

    /// Returns when the connection has to leave.
    pub(super) async fn evicted(&self) {
        self.place.leave.notified().await;
    }

    /// It has sent the whole of a request's head.
    pub(super) fn asks(&self) {
        self.place.set(Doing::Asking(Instant::now()));
    }

    /// It has its answer, or what is left of that is its to take.
    pub(super) fn answered(&self) {
        self.place.set(Doing::Waiting(Instant::now()));
    }

    /// It reads the text that was `made` then, until the result goes.
    pub(super) fn reads(&self, made: Instant) -> Reading {
        self.place.set(Doing::Reading(made));
        Reading(Arc::clone(&self.place))
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.places.lock().retain(|place| !Arc::ptr_eq(place, &self.place));
    }
}

/// A connection is reading.
#[derive(Debug)]
pub(super) struct Reading(Arc<Place>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.set(Doing::Waiting(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    fn peer(number: u32) -> IpAddr {
        Ipv4Addr::from(0x0a00_0000 + number).into()
    }

    /// All places, each taken a moment after the one before it by `peers` in turn.
    async fn full(places: &Places, peers: u32) -> Vec<Placed> {
        let mut held = Vec::new();
        for number in 0..u32::try_from(MAX_CONNECTIONS).unwrap() {
            tokio::time::advance(Duration::from_millis(1)).await;
            held.push(places.take(peer(number % peers)));
            assert!(!held.last().unwrap().crowded());
        }
        held
    }

    fn left(places: &Places, held: &[Placed]) -> Vec<usize> {
        let there = places.lock().clone();
        let gone = |placed: &Placed| !there.iter().any(|place| Arc::ptr_eq(place, &placed.place));
        held.iter().enumerate().filter(|(_, placed)| gone(placed)).map(|(index, _)| index).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn who_makes_us_wait_longest_leaves_first() {
        let places = Places::default();
        let held = full(&places, 64).await;
        held[0].asks();
        let _reading = held[1].reads(Instant::now());
        held[2].asks();
        held[2].answered();
        let new = places.take(peer(1000));
        assert!(new.crowded());
        assert_eq!(left(&places, &held), [3], "the first three have shown that they can ask");
        held[3].evicted().await;
        assert_eq!(places.lock().len(), MAX_CONNECTIONS);
        drop(held);
        assert_eq!(places.lock().len(), 1);
        drop(new);
        assert_eq!(places.lock().len(), 0);
    }

    /// Else it would keep a place that it does nothing with from one that waits for its answer.
    #[tokio::test(start_paused = true)]
    async fn who_has_its_answer_or_its_text_leaves_before_who_waits_for_one() {
        type End = fn(&Placed);
        let ends: [End; 2] = [Placed::answered, |placed| drop(placed.reads(Instant::now()))];
        for end in ends {
            let places = Places::default();
            let held = full(&places, 64).await;
            held.iter().for_each(Placed::asks);
            tokio::time::advance(Duration::from_millis(1)).await;
            end(&held[5]);
            let _new = places.take(peer(1000));
            assert_eq!(left(&places, &held), [5]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_read_leaves_before_who_still_reads() {
        let places = Places::default();
        let held = full(&places, 64).await;
        held.iter().for_each(Placed::asks);
        let _reading = held[4].reads(Instant::now());
        tokio::time::advance(Duration::from_millis(1)).await;
        drop(held[5].reads(Instant::now()));
        let _new = places.take(peer(1000));
        assert_eq!(left(&places, &held), [5]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_leaves_before_who_waits_for_us() {
        let places = Places::default();
        let held = full(&places, 64).await;
        let mut reading = Vec::new();
        for (number, placed) in held.iter().enumerate() {
            tokio::time::advance(Duration::from_millis(1)).await;
            if number % 2 == 0 { placed.asks() } else { reading.push(placed.reads(Instant::now())) }
        }
        let new = places.take(peer(1000));
        new.asks();
        assert_eq!(left(&places, &held), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_with_many_places_crowds_out_only_itself() {
        let places = Places::default();
        // Idle from the beginning, as Prometheus is between two scrapes.
        let mut own = vec![places.take(peer(1000)), places.take(peer(1001))];
        own[1].asks();
        let mut others = Vec::new();
        for _ in 0..500 {
            tokio::time::advance(Duration::from_millis(1)).await;
            others.push(places.take(peer(1)));
            others.last().unwrap().asks();
        }
        assert!(left(&places, &own).is_empty());
        assert_eq!(left(&places, &others).len(), 500 - (MAX_CONNECTIONS - own.len()));
        // It may come again, and again it costs only the other.
        own.push(places.take(peer(1000)));
        assert!(left(&places, &own).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_readers_of_one_text_leave_together() {
        let places = Places::default();
        let held = full(&places, 64).await;
        assert_eq!(places.oldest_text(), None);
        let old = Instant::now();
        let new = old + Duration::from_secs(1);
        let reads = [new, old, new, old].into_iter().zip(&held);
        let _reading: Vec<Reading> = reads.map(|(text, placed)| placed.reads(text)).collect();
        assert_eq!(places.oldest_text(), Some(old));
        assert_eq!(places.evict_readers(old), 2);
        assert_eq!((left(&places, &held), places.oldest_text()), (vec![1, 3], Some(new)));
    }
}
