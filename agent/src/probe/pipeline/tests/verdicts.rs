//! When verdicts are told, and whether.

use tokio::time::{Instant, timeout};

use super::*;

#[test]
fn a_verdict_is_told_when_it_is_due_and_no_sooner() {
    let kept = Kept::default();
    let (mut path, _) = path::<Sum>(kept.clone());
    path.sum_up().unwrap();
    path.carry(&[0]).unwrap();
    path.sum_up().unwrap();
    assert_eq!(kept.take(), ["0"], "what belongs to it may still come");
    path.carry(&[1]).unwrap();
    path.sum_up().unwrap();
    assert_eq!(kept.take(), ["1", "over, nothing more for a minute: 1 in all"]);
}

/// An incident whose verdict nobody has read owes nobody its end.
#[test]
fn a_verdict_is_told_if_there_is_one_and_it_is_wanted() {
    let tell = |answers, count, state| {
        let mut kept = Kept::that(answers);
        let wanted = tell::<Says4<Sum>>(&mut kept, Level::Warn, Span::root(), &Sum(count), state).unwrap();
        (wanted, kept.take())
    };
    let line = |text: &str| vec![text.to_owned()];
    assert_eq!(tell(Written::Yes, 2, State::Ongoing), (true, line("2 in all")));
    let over = "over, nothing more for a minute: 2 in all";
    assert_eq!(tell(Written::Last, 2, State::Over), (true, line(over)));
    for unwanted in [Written::Benign, Written::Filtered, Written::Refused] {
        assert!(!tell(unwanted, 2, State::Ongoing).0, "{unwanted:?}");
    }
    assert_eq!(tell(Written::Yes, 0, State::Over), (false, Vec::new()), "nothing to be said");
}

/// Where none is pending only a record ends the wait.
#[tokio::test(start_paused = true)]
async fn a_verdict_is_waited_for_until_it_is_due() {
    let (began, minute) = (Instant::now(), Duration::from_mins(1));
    reached(Some(long_ago())).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    reached(Some(SystemTime::now() + minute)).await;
    assert!((minute / 2..=minute * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert!(timeout(minute, reached(None)).await.is_err());
}
