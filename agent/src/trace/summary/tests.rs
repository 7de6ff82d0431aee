//! What a trace came to, in words.

use std::sync::Arc;

use super::*;
use crate::pod::Pod;
use crate::probe::Ends;

fn limited(level: Level, reason: &str, pod: Option<&str>, events: u64) -> Limited {
    let pod = pod.map(|name| Arc::new(Pod { namespace: "shop".into(), name: name.into(), uid: name.into() }));
    let pods = Ends { source: None, destination: pod };
    Limited { level, reasons: vec![reason.to_owned()], may_be: None, pods, events }
}

fn rows() -> Vec<Limited> {
    vec![
        limited(Level::Info, "teardown", Some("web"), 1),
        limited(Level::Warn, "queue", Some("web"), 10),
        limited(Level::Warn, "policy", Some("db"), 100),
        limited(Level::Warn, "policy", Some("web"), 1_000),
    ]
}

fn sums(filters_late: bool, lost: u64) -> Sums {
    let filter = Filter {
        level: Level::Warn,
        pod: vec!["web".parse().unwrap()],
        reason: vec!["policy".into()],
        ..Filter::default()
    };
    let account = Account { produced: 2_000, emitted: 7, limited: 1_111 + lost, ..Account::default() };
    Sums::of(&account, 0, &rows(), &filter, filters_late)
}

#[test]
fn what_was_counted_only_is_sorted_by_what_is_known_of_it() {
    let early = sums(false, 0);
    assert_eq!((early.benign, early.filtered, early.only_counted), (0, 111, 1_000));
    assert_eq!(early.harmful_counted(), 1_000);
    assert_eq!(early.not_examined(), 0, "kernel and key have told all that the filter asks for");
    let late = sums(true, 0);
    assert_eq!((late.benign, late.filtered, late.only_counted), (0, 11, 0));
    assert_eq!(late.not_examined(), 1_100, "an address may be in any of them");
    assert_eq!(sums(false, 5).not_examined(), 5, "of what is in no row nothing is known");
}

/// A queue that refuses what is too long counts it as its own.
#[test]
fn what_may_have_been_what_was_asked_for_is_not_filtered_out() {
    let queue = || limited(Level::Warn, "queue", Some("web"), 10);
    let rows = [Limited { may_be: Some("mtu"), ..queue() }, queue()];
    let filter = Filter { reason: vec!["MTU".into()], ..Filter::default() };
    let account = Account { produced: 20, limited: 20, ..Account::default() };
    let sums = Sums::of(&account, 0, &rows, &filter, false);
    assert_eq!((sums.not_examined(), sums.filtered, sums.harmful_counted()), (10, 10, 0));
}

#[test]
fn what_was_not_examined_is_named_with_what_helps() {
    let took = Duration::from_millis(1_500);
    let lines = sums(true, 0).lines(took, &[], "benign");
    assert_eq!(lines[0], "2000 events in 1.5 s: 7 shown, 11 filtered out, 1100 not examined");
    assert_eq!(lines[1], "1100 not examined: too many of one kind a second; raise --events-per-second");
    // With a budget of none there is no event to be shown.
    let counted = Sums { produced: 9, only_counted: 9, ..Sums::default() };
    assert!(counted.hint(false, "", "benign").unwrap().contains("raise --events-per-second"));
    let silent = Sums { produced: 3, ring_full: 3, ..Sums::default() };
    let mut lines = silent.lines(took, &[], "benign");
    lines.extend(silent.hint(false, "--pod web", "benign"));
    assert!(lines[1].contains("--ring-kib"), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("benign") || line.contains("no event lost")), "{lines:?}");
}

#[test]
fn all_that_nobody_has_looked_at_is_not_examined() {
    let sums = Sums {
        over_budget: 1,
        no_row: 10,
        ring_full: 100,
        undecoded: 1_000,
        missed: 10_000,
        ..Sums::default()
    };
    assert_eq!((sums.not_examined(), sums.not_looked_at()), (11_111, 11_111));
    let last = Sums { after_last: 5, ..sums };
    assert_eq!((last.not_examined(), last.not_looked_at()), (11_111, 11_116));
}

#[test]
fn silence_says_what_it_means() {
    let hint = |sums: Sums, all| sums.hint(all, "--port 7", "benign").unwrap();
    assert!(hint(Sums::default(), false).contains("doctor"));
    assert!(
        hint(Sums { produced: 1, benign: 1, ..Sums::default() }, false).starts_with("all of it was benign;")
    );
    assert_eq!(hint(Sums { produced: 1, filtered: 1, ..Sums::default() }, false), "nothing matched --port 7");
    let one = Sums { produced: 1, shown: 1, ..Sums::default() };
    assert_eq!(one.lines(Duration::ZERO, &[], "benign"), ["1 event in 0.0 s: 1 shown", "no event lost"]);
    assert_eq!(one.hint(false, "", "benign"), None);
}

#[test]
fn what_is_not_counted_may_be_lost() {
    let last = |sums: Sums| sums.lines(Duration::ZERO, &[], "benign").pop().unwrap();
    let uncounted = Some("this kernel does not count what its kprobes miss");
    let mut sums = Sums { uncounted, ..Sums::default() };
    assert_eq!(last(sums), "no event lost that is counted: this kernel does not count what its kprobes miss");
    sums.undecoded = 2;
    assert_eq!(
        last(sums),
        "2 not examined as their records were not understood; this kernel does not count what its kprobes miss"
    );
    sums.do_not_hold(None, None);
    assert_eq!(last(sums), "2 not examined as their records were not understood");
}

#[test]
fn what_lost_hooks_would_tell_is_not_seen() {
    let last = |sums: Sums| sums.lines(Duration::ZERO, &[], "benign").pop().unwrap();
    let mut sums = Sums::default();
    sums.do_not_hold(None, Some(Lost { hooks: 11, of: 13, refused: 11 }));
    let unseen = "11 of 13 hooks were refused, so not all is seen: `r2c-agent doctor` says what is missing";
    assert_eq!(last(sums), format!("no event lost; {unseen}"));
    assert_eq!(
        sums.hint(false, "", "benign").as_deref(),
        Some("nothing happened that the hooks that hold can see")
    );
    sums.undecoded = 2;
    assert_eq!(last(sums), format!("2 not examined as their records were not understood; {unseen}"));
    let said = |hooks, refused| Lost { hooks, of: 13, refused }.to_string();
    assert_eq!(said(1, 1), "1 of 13 hooks was refused");
    assert_eq!(said(1, 0), "1 of 13 hooks is left out (--rung)");
    assert_eq!(said(2, 1), "2 of 13 hooks were refused or left out (--rung)");
    sums.do_not_hold(None, Some(Lost { hooks: 11, of: 13, refused: 0 }));
    assert!(last(sums).ends_with("; 11 of 13 hooks are left out (--rung), so not all is seen"));
}

#[test]
fn its_parts_add_up_to_all_there_was() {
    let first = |sums: &Sums| sums.lines(Duration::ZERO, &[], "benign").remove(0);
    // A reader that stalled took 83 lines; what waited behind them was never shown.
    let mut stalled = Sums { produced: 11_700, shown: 1_550, unwritten: 10_150, ..Sums::default() };
    stalled.take_back(1_467, 11_617);
    assert_eq!(first(&stalled), "11700 events in 0.0 s: 83 shown, 11617 not written");
    let mut headless = Sums { produced: 3, benign: 3, ..Sums::default() };
    headless.take_back(0, 1);
    assert_eq!(
        headless.lines(Duration::ZERO, &[], "benign"),
        ["3 events in 0.0 s: 0 shown, 3 benign", "1 line not written"],
        "a heading on a full disk"
    );
    let mut enough = Sums { produced: 100, shown: 2, benign: 8, only_counted: 50, ..Sums::default() };
    enough.end_at_last();
    assert_eq!(
        first(&enough),
        "100 events in 0.0 s: 2 shown, 8 benign, 50 only counted, 40 after the last one asked for"
    );
}

#[test]
fn each_number_of_the_account_has_its_own_part() {
    let account = Account {
        produced: 1,
        emitted: 2,
        benign: 3,
        filtered: 4,
        merged: 5,
        ring_full: 6,
        undecoded: 7,
        unwritten: 8,
        limited: 9,
        ..Account::default()
    };
    let sums = Sums::of(&account, 10, &[], &Filter::default(), false);
    assert_eq!(
        sums.lines(Duration::from_secs(2), &["5 resets".to_owned()], "benign"),
        [
            "1 event in 2.0 s: 2 shown, 3 benign, 4 filtered out, 5 part of their incidents, 32 not examined, 8 not written",
            "on the whole node:",
            "5 resets",
            "9 not examined as no row was free to count them by; ask for less (--port, --ip, -i); 6 not examined as the ring \
             was full; raise --ring-kib; 7 not examined as their records were not understood; 10 not examined as the kernel \
             did not hand them over; 8 not written",
        ]
    );
}

#[test]
fn a_hint_names_what_would_show_more() {
    let unlooked = "nothing of what was examined is shown; what was not may hold what you look for";
    let mixed = "nothing matched --port 7, or all that did was benign: --all shows that, too";
    let none = "nothing matched --port 7";
    let of = |produced| Sums { produced, ..Sums::default() };
    let benign = Sums { benign: 2, ..of(2) };
    let both = Sums { filtered: 1, benign: 2, ..of(3) };
    for (sums, all, wanted) in [
        (Sums { missed: 1, ..of(0) }, false, Some(unlooked)),
        (Sums { ring_full: 3, ..of(3) }, false, Some(unlooked)),
        (Sums { unwritten: 2, ..of(2) }, false, None),
        (benign, false, Some("all of it was benign; --all shows that, too")),
        (benign, true, Some(none)),
        (both, false, Some(mixed)),
        (both, true, Some(none)),
        (Sums { filtered: 1, ..of(1) }, false, Some(none)),
        (Sums { merged: 1, ..of(1) }, false, Some(none)),
        (
            Sums { only_counted: 1, ..both },
            false,
            Some("all that matched was only counted; raise --events-per-second"),
        ),
    ] {
        assert_eq!(sums.hint(all, "--port 7", "benign").as_deref(), wanted, "{sums:?} {all}");
    }
}
