//! The text of a scrape, made once for all who wait for it.
//!
//! Who comes while a text is made waits for the next: no text is older than the request it answers, and however many ask
//! at once, they share one. A text lives as long as somebody reads it, and at most [`MAX_TEXTS`] live at a time.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::places::{Placed, Places, Reading};
use crate::metrics::{Format, Metrics};

/// Texts at a time: 1.5 MB each where the kernel's map of counts is full.
pub(super) const MAX_TEXTS: usize = 4;

/// For a text to be read in, should others wait for its memory.
pub(super) const READ_TIME: Duration = Duration::from_secs(2);

/// For the memory to be free once its readers have been told to leave.
const PATIENCE: Duration = Duration::from_secs(1);

/// After a scrape as long is rested as it took, but no longer than this: a storm of scrapes takes half a core.
const MAX_REST: Duration = Duration::from_secs(1);

/// Why there is no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Not all probes are up yet.
    Early,
    /// Too many texts are being read.
    Crowded,
    /// A collector failed.
    Failed,
}

type Outcome = Result<Arc<Text>, Refusal>;

/// One scrape's text.
#[derive(Debug)]
pub(super) struct Text {
    bytes: String,
    made: Instant,
    _room: OwnedSemaphorePermit,
}

impl Text {
    /// As a body, which tells the reader's place when it has been read.
    pub(super) fn read_by(self: Arc<Self>, placed: &Placed) -> Bytes {
        let reading = placed.reads(self.made);
        Bytes::from_owner(Read { text: self, _reading: reading })
    }
}

/// One reader's share of a text.
struct Read {
    text: Arc<Text>,
    _reading: Reading,
}

impl AsRef<[u8]> for Read {
    fn as_ref(&self) -> &[u8] {
        self.text.bytes.as_bytes()
    }
}

/// Makes the texts.
pub(super) struct Scrapes {
    metrics: OnceLock<Metrics>,
    waiting: Mutex<Vec<(Format, oneshot::Sender<Outcome>)>>,
    /// Held by the one who makes a text: when the last was made, and for how long is rested after it.
    making: tokio::sync::Mutex<(Instant, Duration)>,
    room: Arc<Semaphore>,
}

impl fmt::Debug for Scrapes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrapes").finish_non_exhaustive()
    }
}

impl Default for Scrapes {
    fn default() -> Self {
        Self {
            metrics: OnceLock::new(),
            waiting: Mutex::default(),
            making: tokio::sync::Mutex::new((Instant::now(), Duration::ZERO)),
            room: Arc::new(Semaphore::new(MAX_TEXTS)),
        }
    }
}

impl Scrapes {
    /// What there is to be scraped from now on; what was given before stays.
    pub(super) fn offer(&self, metrics: Metrics) {
        let _ = self.metrics.set(metrics);
    }

    /// A text whose making began after this was called. `evicted` counts who had to leave for it.
    pub(super) async fn text(&self, format: Format, places: &Places, evicted: &Counter) -> Outcome {
        let metrics = self.metrics.get().ok_or(Refusal::Early)?;
        let (tell, mut told) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            // Who was to be told and has left leaves nothing behind.
            waiting.retain(|(_, tell)| !tell.is_closed());
            waiting.push((format, tell));
        }
        // Whoever has the lock makes the text for all who wait for one of that format. If it leaves before, the next does.
        let mut last = tokio::select! {
            biased;
            text = &mut told => return text.unwrap_or(Err(Refusal::Failed)),
            last = self.making.lock() => last,
        };
        if let Ok(text) = told.try_recv() {
            return text;
        }
        let (ended, rest) = *last;
        sleep(rest.saturating_sub(ended.elapsed())).await;
        let room = self.room(places, evicted).await;
        // From here on nothing waits.
        let begun = Instant::now();
        let made = room.ok_or(Refusal::Crowded).and_then(|room| {
            // A collector's panic costs its scrape, not the server.
            let text = catch_unwind(AssertUnwindSafe(|| metrics.encode(format)));
            let bytes = text.ok().and_then(Result::ok).ok_or(Refusal::Failed)?;
            Ok(Arc::new(Text { bytes, made: begun, _room: room }))
        });
        *last = (Instant::now(), begun.elapsed().min(MAX_REST));
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, tell) in waiting.extract_if(.., |(wanted, _)| *wanted == format) {
            let _ = tell.send(made.clone());
        }
        made
    }

    /// Memory for one more text: who reads the oldest has to leave for it once it has had the time to read.
    async fn room(&self, places: &Places, evicted: &Counter) -> Option<OwnedSemaphorePermit> {
        let room = || Arc::clone(&self.room).acquire_owned();
        if let Some(made) = places.oldest_text().filter(|_| self.room.available_permits() == 0) {
            if let Ok(room) = timeout_at(made + READ_TIME, room()).await {
                return room.ok();
            }
            evicted.inc_by(places.evict_readers(made));
        }
        timeout(PATIENCE, room()).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use prometheus_client::collector::Collector;
    use prometheus_client::encoding::DescriptorEncoder;
    use tokio::task::{JoinSet, yield_now};

    use super::*;

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// Counts the scrapes that are made.
    #[derive(Clone, Debug, Default)]
    struct Made(Arc<AtomicUsize>);

    impl Collector for Made {
        fn encode(&self, _: DescriptorEncoder<'_>) -> fmt::Result {
            self.0.fetch_add(1, SeqCst);
            Ok(())
        }
    }

    struct Asked {
        scrapes: Scrapes,
        places: Places,
        evicted: Counter,
        made: Made,
    }

    impl Asked {
        fn new() -> Arc<Self> {
            let (scrapes, made, mut metrics) = (Scrapes::default(), Made::default(), Metrics::default());
            metrics.registry().register_collector(Box::new(made.clone()));
            scrapes.offer(metrics);
            Arc::new(Self { scrapes, places: Places::default(), evicted: Counter::default(), made })
        }

        async fn text(&self, format: Format) -> Outcome {
            self.scrapes.text(format, &self.places, &self.evicted).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_at_the_same_time_shares_a_text() {
        let asked = Asked::new();
        let making = asked.scrapes.making.lock().await;
        let mut waiting = JoinSet::new();
        for number in 0..20 {
            let asked = Arc::clone(&asked);
            let format = if number < 10 { Format::Classic } else { Format::OpenMetrics };
            waiting.spawn(async move { (number < 10, asked.text(format).await.unwrap()) });
        }
        yield_now().await;
        drop(making);
        let texts = waiting.join_all().await;
        assert_eq!(asked.made.0.load(SeqCst), 2, "one of each format");
        let (classic, open): (Vec<_>, Vec<_>) = texts.into_iter().partition(|(classic, _)| *classic);
        for texts in [classic, open] {
            assert_eq!(texts.len(), 10);
            assert!(texts.iter().all(|(_, text)| Arc::ptr_eq(text, &texts[0].1)));
        }
        // No answer is older than its question.
        asked.text(Format::Classic).await.unwrap();
        assert_eq!(asked.made.0.load(SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_while_it_makes_the_text_takes_none_with_it() {
        let asked = Asked::new();
        let making = asked.scrapes.making.lock().await;
        let ask = || {
            let asked = Arc::clone(&asked);
            tokio::spawn(async move { asked.text(Format::Classic).await })
        };
        let (first, second) = (ask(), ask());
        yield_now().await;
        first.abort();
        drop(making);
        second.await.unwrap().unwrap();
        assert!(asked.scrapes.waiting.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_texts_live_at_a_time_and_the_oldest_is_taken_from_its_readers() {
        let asked = Asked::new();
        let started = Instant::now();
        let mut readers = Vec::new();
        for number in 0..MAX_TEXTS {
            let placed = asked.places.take(PEER);
            let body = asked.text(Format::Classic).await.unwrap().read_by(&placed);
            readers.push((number, placed, body));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(started.elapsed() < READ_TIME, "there was room for all");
        let waiting = tokio::spawn({
            let asked = Arc::clone(&asked);
            async move { asked.text(Format::Classic).await.map(|_| ()) }
        });
        readers[0].1.evicted().await;
        assert!(started.elapsed() >= READ_TIME, "it had the time to read");
        // As its connection does.
        drop(readers.remove(0));
        assert_eq!(waiting.await.unwrap(), Ok(()));
        assert_eq!(asked.evicted.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn without_memory_it_says_so_and_counts_nothing() {
        let asked = Asked::new();
        let all = Arc::clone(&asked.scrapes.room)
            .acquire_many_owned(u32::try_from(MAX_TEXTS).unwrap())
            .await
            .unwrap();
        let mut waiting = JoinSet::new();
        for _ in 0..10 {
            let asked = Arc::clone(&asked);
            waiting.spawn(async move { asked.text(Format::Classic).await.err() });
        }
        let started = Instant::now();
        assert_eq!(waiting.join_all().await, [Some(Refusal::Crowded); 10]);
        assert!(started.elapsed() < 2 * PATIENCE, "all at once, not one after the other");
        drop(all);
        assert!(asked.text(Format::Classic).await.is_ok());
        assert_eq!(asked.made.0.load(SeqCst), 1);
    }

    #[tokio::test]
    async fn before_there_is_anything_it_is_early() {
        let scrapes = Scrapes::default();
        let text = scrapes.text(Format::Classic, &Places::default(), &Counter::default()).await;
        assert_eq!(text.err(), Some(Refusal::Early));
    }
}
