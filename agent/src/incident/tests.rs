//! Incidents against a clock of the tests' own.

use super::*;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000 + seconds)
}

impl<K: Eq + std::hash::Hash + Clone, V: Default + Absorb> Incidents<K, V> {
    /// Joins an event that was asked for.
    fn asked(&mut self, cause: K, place: Option<K>, at: SystemTime) -> Standing<'_, K, V> {
        self.join(cause, place, at, true)
    }
}

#[test]
fn one_cause_is_one_incident_until_it_is_quiet() {
    let mut incidents = Incidents::<_, ()>::default();
    let first = incidents.asked("a", None, at(0)).span;
    let second = incidents.asked("a", None, at(60)).span;
    let other = incidents.asked("b", None, at(60)).span;
    let later = incidents.asked("a", None, at(121)).span;
    assert_eq!(first.trace_id, second.trace_id);
    assert_ne!(first.span_id, second.span_id);
    assert_ne!(first.trace_id, other.trace_id);
    assert_ne!(first.trace_id, later.trace_id);
}

impl Absorb for u32 {
    fn absorb(&mut self, other: Self) {
        *self += other;
    }
}

#[test]
fn causes_that_meet_at_one_place_are_one_incident() {
    let mut incidents = Incidents::<_, u32>::default();
    *incidents.asked("a", Some("hop"), at(0)).evidence += 1;
    // Another had begun before it was seen where it leads.
    *incidents.asked("b", None, at(0)).evidence += 10;
    let first = incidents.asked("a", None, at(1)).span.trace_id;
    let standing = incidents.asked("b", Some("hop"), at(1));
    assert_eq!((standing.cause, standing.span.trace_id, *standing.evidence), ("a", first, 11));
    let standing = incidents.asked("b", None, at(2));
    assert_eq!((standing.cause, standing.span.trace_id), ("a", first), "from then on");
    assert_ne!(incidents.asked("c", Some("other hop"), at(2)).span.trace_id, first);
    // By turns at two places: both are what is wrong with it.
    assert_eq!(incidents.asked("c", Some("hop"), at(3)).cause, "c");
    // What has been told on its own goes on so.
    assert_eq!(told(&mut incidents, at(4)).len(), 2);
    assert_eq!(incidents.asked("c", Some("hop"), at(4)).cause, "c");
    assert_eq!(told(&mut incidents, at(120)).len(), 2);
    assert!(incidents.joined.is_empty() && incidents.places.is_empty());
}

#[test]
fn a_storm_of_causes_that_meet_stays_bounded() {
    let mut incidents = Incidents::<_, u32>::default();
    for cause in 0..2 * MAX_JOINED {
        incidents.asked(cause, Some(usize::MAX), at(0));
    }
    assert!(incidents.joined.len() <= MAX_JOINED && incidents.open.len() <= MAX_OPEN);
}

#[test]
fn a_storm_of_causes_stays_bounded() {
    let mut incidents = Incidents::<_, ()>::default();
    for cause in 0..MAX_OPEN * 3 {
        incidents.asked(cause, None, at(0));
    }
    assert_eq!(incidents.open.len(), MAX_OPEN);
}

/// A minute after a flood all its incidents are over at once, and somebody's packet has just stalled.
#[test]
fn many_ends_do_not_keep_a_verdict_waiting() {
    let mut incidents = Incidents::<_, u32>::default();
    let many = 3 * BATCH + 1;
    for cause in 0..many {
        *incidents.asked(cause, None, at(0)).evidence = 1;
    }
    let told = |incidents: &mut Incidents<usize, u32>, now| {
        let mut told = Vec::new();
        let tell = |_, evidence: &u32, state| {
            told.push((*evidence, state));
            Ok::<_, ()>(true)
        };
        incidents.sum_up(now, tell).unwrap();
        told
    };
    let mut all = 0;
    while incidents.due().is_some_and(|due| due <= at(2)) {
        let batch = told(&mut incidents, at(2));
        assert!(batch.len() <= BATCH && batch.iter().all(|told| *told == (1, State::Ongoing)), "{batch:?}");
        all += batch.len();
    }
    assert_eq!(all, many, "each once");

    *incidents.asked(many, None, at(60)).evidence = 7;
    let first = told(&mut incidents, at(62));
    assert_eq!(first.len(), BATCH);
    assert_eq!(first[0], (7, State::Ongoing), "what goes on comes first");
    let mut over = BATCH - 1;
    while incidents.due().is_some_and(|due| due <= at(62)) {
        over += told(&mut incidents, at(62)).len();
    }
    assert_eq!((over, incidents.open.len()), (many, 1), "none is forgotten");
    assert_eq!(incidents.due(), Some(at(120)));
}

/// What verdicts are told at `now`: the events of each incident so far, and whether it goes on.
fn told(incidents: &mut Incidents<&'static str, u32>, now: SystemTime) -> Vec<(u32, State)> {
    let mut told = Vec::new();
    incidents
        .sum_up(now, |_, events, state| {
            told.push((*events, state));
            Ok::<_, ()>(true)
        })
        .unwrap();
    told
}

#[test]
fn an_incident_is_news_at_first_and_then_every_ten_seconds() {
    let mut incidents = Incidents::<_, u32>::default();
    let mut news = 0;
    for millisecond in 0..30_000 {
        let standing = incidents.asked("a", None, at(0) + Duration::from_millis(millisecond));
        news += u32::from(standing.news);
    }
    assert_eq!(news, 3);
    let later = at(29) + Duration::from_millis(999);
    assert!(!incidents.asked("a", None, later).news);
    incidents.unsaid(&"a");
    assert!(incidents.asked("a", None, later).news, "what a filter held back was not told");
}

/// Its end is owed to whoever has read its begin: where there is room nobody closes it before.
#[test]
fn what_is_quiet_ends_in_words_though_another_begins() {
    let mut incidents = Incidents::<_, u32>::default();
    *incidents.asked("a", None, at(0)).evidence += 1;
    assert_eq!(told(&mut incidents, at(2)), [(1, State::Ongoing)]);
    incidents.asked("b", None, at(90));
    assert_eq!(told(&mut incidents, at(90)), [(1, State::Over)]);
}

/// Where there is no room what is quiet goes first, and else what has been quiet for longest.
#[test]
fn room_is_made_by_what_is_quiet() {
    let mut incidents = Incidents::<usize, ()>::default();
    for cause in 0..MAX_OPEN {
        incidents.asked(cause, None, at(if cause < 2 { 0 } else { 50 + (cause as u64 & 1) }));
    }
    let keeps = |incidents: &Incidents<usize, ()>, cause| incidents.open.contains_key(&cause);
    incidents.asked(MAX_OPEN, None, at(61));
    assert_eq!(
        [0, 1, 2, 3, MAX_OPEN].map(|cause| keeps(&incidents, cause)),
        [false, false, true, true, true]
    );
    incidents.asked(MAX_OPEN + 1, None, at(61));
    // Now it is full again, of nothing that is quiet.
    incidents.asked(4, None, at(61));
    let before = incidents.open.len();
    incidents.asked(MAX_OPEN + 2, None, at(62));
    assert_eq!((before, incidents.open.len()), (MAX_OPEN, MAX_OPEN));
    assert!(
        keeps(&incidents, MAX_OPEN + 2) && keeps(&incidents, 4) && keeps(&incidents, 3),
        "the oldest goes"
    );
}

#[test]
fn places_stay_bounded() {
    let mut incidents = Incidents::<usize, ()>::default();
    for cause in 0..MAX_JOINED + 10 {
        incidents.asked(cause, Some(usize::MAX - cause), at(0));
    }
    assert_eq!(incidents.places.len(), MAX_JOINED);
    // Nor does one incident fill them that is now here, now there.
    let mut incidents = Incidents::<usize, ()>::default();
    for place in 0..MAX_JOINED + 10 {
        incidents.asked(usize::MAX, Some(place), at(0));
    }
    assert_eq!(incidents.places.len(), MAX_JOINED);
    assert_eq!(
        incidents.asked(0, Some(7), at(1)).cause,
        usize::MAX,
        "whoever comes there later belongs to it"
    );
}

#[test]
fn a_verdict_comes_soon_after_news_and_once_more_at_the_end() {
    let mut incidents = Incidents::<_, u32>::default();
    assert_eq!(incidents.due(), None);
    *incidents.asked("a", None, at(0)).evidence += 1;
    *incidents.asked("a", None, at(1)).evidence += 1;
    assert_eq!(incidents.due(), Some(at(2)));
    assert!(told(&mut incidents, at(1)).is_empty());
    assert_eq!(told(&mut incidents, at(2)), [(2, State::Ongoing)]);
    assert_eq!(incidents.due(), Some(at(61)), "it may be over then");
    *incidents.asked("a", None, at(3)).evidence += 1;
    assert!(told(&mut incidents, at(61)).is_empty());
    assert_eq!(incidents.due(), Some(at(63)));
    assert_eq!(told(&mut incidents, at(63)), [(3, State::Over)]);
    assert!(incidents.open.is_empty());
    assert_eq!(incidents.due(), None);
}

#[test]
fn what_proved_nothing_ends_without_a_word() {
    let mut incidents = Incidents::<_, u32>::default();
    incidents.asked("a", None, at(0));
    incidents.sum_up(at(2), |_, _, _| Ok::<_, ()>(false)).unwrap();
    assert_eq!(incidents.due(), None);
    assert!(told(&mut incidents, at(60)).is_empty());
    assert!(incidents.open.is_empty());
}

#[test]
fn what_cannot_wait_is_told_soon() {
    let mut incidents = Incidents::<_, u32>::default();
    incidents.asked("a", None, at(0));
    incidents.hasten(&"a", at(0), SOON, true);
    assert_eq!(incidents.due(), Some(at(0) + SOON));
    assert_eq!(told(&mut incidents, at(1)), [(0, State::Ongoing)]);
    incidents.asked("a", None, at(2));
    incidents.hasten(&"a", at(2), PATIENCE, true);
    assert_eq!(told(&mut incidents, at(4)), [(0, State::Ongoing)], "it says more than before");
}

#[test]
fn the_end_tells_what_is_pending() {
    let mut incidents = Incidents::<_, u32>::default();
    *incidents.asked("a", None, at(0)).evidence += 1;
    *incidents.asked("b", None, at(0)).evidence += 5;
    told(&mut incidents, at(2));
    *incidents.asked("b", None, at(4)).evidence += 1;
    let mut last = Vec::new();
    incidents
        .close(|_, events, state| {
            last.push((*events, state));
            Ok::<_, ()>(true)
        })
        .unwrap();
    assert_eq!(last, [(6, State::Ongoing)]);
}

#[test]
fn a_verdict_says_whether_it_goes_on() {
    assert_eq!([State::Ongoing, State::Over].map(State::name), ["ongoing", "over"]);
}

#[test]
fn ids_print_as_w3c_wants() {
    let span = Span { trace_id: TraceId(1), span_id: SpanId(2) };
    assert_eq!(span.trace_id.to_string(), "00000000000000000000000000000001");
    assert_eq!(span.span_id.to_string(), "0000000000000002");
}

/// What a filter takes in as evidence alone is told of nobody; with one that was asked for all of it is.
#[test]
fn an_incident_of_which_no_event_was_asked_for_is_not_told() {
    let mut incidents = Incidents::<_, u32>::default();
    *incidents.join("a", None, at(0), false).evidence += 1;
    assert_eq!(told(&mut incidents, at(3)), []);
    *incidents.join("b", None, at(3), false).evidence += 5;
    *incidents.asked("a", None, at(3)).evidence += 1;
    *incidents.join("a", None, at(4), false).evidence += 1;
    // What it meets at a place is asked for with it.
    *incidents.join("c", Some("hop"), at(4), false).evidence += 10;
    *incidents.asked("d", None, at(4)).evidence += 10;
    *incidents.join("d", Some("hop"), at(4), false).evidence += 10;
    let mut ongoing = told(&mut incidents, at(14));
    ongoing.sort_unstable_by_key(|(count, _)| *count);
    assert_eq!(ongoing, [(3, State::Ongoing), (30, State::Ongoing)]);
    let mut over = told(&mut incidents, at(90));
    over.sort_unstable_by_key(|(count, _)| *count);
    assert_eq!(over, [(3, State::Over), (30, State::Over)]);
    let mut left = Incidents::<_, u32>::default();
    *left.join("a", None, at(0), false).evidence += 1;
    let told = left.close(|_, _, _| Err("told"));
    assert_eq!(told, Ok(()));
}

/// Every ten seconds is often enough: what was not asked for makes no verdict due, unless it says more.
#[test]
fn what_was_not_asked_for_makes_nothing_due() {
    let mut incidents = Incidents::<_, u32>::default();
    *incidents.asked("a", None, at(0)).evidence += 1;
    assert_eq!(told(&mut incidents, at(2)), [(1, State::Ongoing)]);
    for second in 11..20 {
        *incidents.join("a", None, at(second), false).evidence += 1;
        assert_eq!(told(&mut incidents, at(second)), []);
    }
    incidents.hasten(&"a", at(20), SOON, false);
    assert_eq!(told(&mut incidents, at(21)), [(10, State::Ongoing)]);
    assert!(incidents.asked("a", None, at(21)).news, "of what was asked for nothing was told for long");
    // Of an incident that nobody has asked for not even that is told.
    *incidents.join("b", None, at(21), false).evidence += 1;
    incidents.hasten(&"b", at(21), SOON, false);
    assert_eq!(told(&mut incidents, at(22)), []);
}
