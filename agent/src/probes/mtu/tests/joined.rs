//! Two incidents that turn out to be one: what each had seen counts, whichever takes in the other.

use super::*;
use crate::probe::Absorb as _;

fn findings(records: &[MtuRecord]) -> Findings {
    let (mut findings, pods) = (Findings::default(), Pods::default());
    for record in records {
        findings.add(&event(record), &pods);
    }
    findings
}

/// The verdict of what both have seen: `ours` takes in `theirs`.
fn joined(ours: &[MtuRecord], theirs: &[MtuRecord]) -> String {
    let mut all = findings(ours);
    all.absorb(findings(theirs));
    let verdict = all.verdict().unwrap();
    let field = |name: &str| format!("{:?}", verdict.fields.iter().find(|(is, _)| *is == name).unwrap().1);
    let fields = ["finding", "fits", "count", "count_is_exact", "longest", "destinations"].map(field);
    format!("{} {:?} {}", fields.join(" "), verdict.level, verdict.message)
}

#[test]
fn what_is_joined_comes_to_the_same_either_way_round() {
    let small = MtuRecord { mtu: 1300, route: device("uplink", "", 1300), ..record(Kind::Made, 1300) };
    let larger = MtuRecord { held: 5, len: 9000, ..record(Kind::Made, 1400) };
    let hop = fated(Kind::Received, Fate::Learned, 1200);
    let (both, turned) = (joined(&[small], &[larger]), joined(&[larger], &[small]));
    assert_eq!(both, turned);
    assert!(
        both.starts_with("Text(\"small_device\") Number(1300) Number(7) Flag(false) Number(9000)"),
        "{both}"
    );
    // The place says more than who tells of it, whatever it says that fits.
    let (both, turned) = (joined(&[small], &[hop]), joined(&[hop], &[small]));
    assert_eq!(both, turned);
    assert!(both.starts_with("Text(\"small_device\") Number(1300)"), "{both}");
    // Of the same weight and the same number the first stays: it was told.
    let first = MtuRecord { route: device("uplink", "", 1400), ..larger };
    let second = MtuRecord { route: device("eth1", "", 1400), ..larger };
    assert!(joined(&[first], &[second]).contains("uplink takes 1400"), "{}", joined(&[first], &[second]));
}

/// A message that arrived before both were one proves that the sender can be told.
#[test]
fn messages_that_arrived_and_those_that_were_lost_are_summed_up() {
    let lost = lost(Fate::Filtered, Stage::Forward, 0);
    let heard = fated(Kind::Received, Fate::Learned, 1400);
    let finding = |ours: &[MtuRecord], theirs: &[MtuRecord]| {
        let text = joined(ours, theirs);
        text.split('"').nth(1).unwrap().to_owned()
    };
    for (ours, theirs, wanted) in [
        (&[heard][..], &[lost][..], "small_hop"),
        (&[lost], &[heard], "small_hop"),
        (&[lost, lost], &[lost], "messages_lost"),
        // Three in a row are no chance, though earlier ones arrived.
        (&[heard, lost, lost], &[lost], "messages_lost"),
        (&[heard, lost], &[lost], "small_hop"),
        (&[heard, heard], &[heard, lost, lost, lost], "messages_lost"),
        (&[heard], &[heard, lost], "small_hop"),
    ] {
        assert_eq!(finding(ours, theirs), wanted, "{} and {}", ours.len(), theirs.len());
    }
}

/// That one knows no longer whom else it concerns must not make the number of both look exact.
#[test]
fn a_count_that_was_cut_stays_cut_in_both() {
    let whole = record(Kind::Made, 1400);
    let cut = MtuRecord { flags: flags::LAST_OF_BUDGET, ..whole };
    let is_exact = |ours, theirs| joined(&[ours], &[theirs]).contains("Flag(true)");
    assert!(is_exact(whole, whole));
    assert!(!is_exact(whole, cut) && !is_exact(cut, whole) && !is_exact(cut, cut));
}

/// The time that is told is from the first event of either to the last.
#[test]
fn both_lasted_from_the_first_event_to_the_last() {
    let at = |seconds: u64| MtuRecord { ktime_ns: seconds * 1_000_000_000, ..record(Kind::Made, 1400) };
    for (ours, theirs) in [([at(10)], [at(13)]), ([at(13)], [at(10)])] {
        let text = joined(&ours, &theirs);
        assert!(text.contains("2 made in 3.0 s"), "{text}");
    }
}

/// A path that rises once in each has risen twice: it flaps.
#[test]
fn numbers_that_both_were_told_make_one_path_flap() {
    let told = |mtu| fated(Kind::Received, Fate::Learned, mtu);
    let (ours, theirs) = ([told(1300), told(1400)], [told(1280), told(1400)]);
    for text in [joined(&ours, &theirs), joined(&theirs, &ours)] {
        assert!(text.starts_with("Text(\"flapping_mtu\") Number(1280)"), "{text}");
        assert!(text.contains(" now 1280, now 1400 bytes"), "{text}");
    }
    let none: [MtuRecord; 0] = [];
    assert!(joined(&[told(1300), told(1400)], &none).starts_with("Text(\"small_hop\")"), "one rise is none");
    assert!(joined(&none, &[told(1300), told(1400)]).starts_with("Text(\"small_hop\")"));
    let flaps = [1300, 1400, 1280, 1400].map(told);
    let text = joined(&none, &flaps);
    assert!(text.contains(" now 1280, now 1400 bytes"), "nothing was told before: {text}");
}

/// What proves a black hole in one proves it in both, with all that either knows of it.
#[test]
fn stuck_connections_of_both_are_summed_up() {
    let stall = Stall { sacked: 1, longest_run: 104, ..stuck() };
    let proof = stalled(4000, Fate::BlackHole, stall);
    let later = MtuRecord { ktime_ns: proof.ktime_ns + 3_000_000_000, ..proof };
    let more = MtuRecord { stall: Stall { longest_run: 300, ..stall }, ..later };
    let suspect = stalled(4001, Fate::Suspect, stuck());
    for (ours, theirs, wanted) in [
        (suspect, proof, "for 1.4 s and never acknowledged, while smaller ones (up to 104 bytes) arrive"),
        (proof, suspect, "for 1.4 s and never acknowledged, while smaller ones (up to 104 bytes) arrive"),
        (proof, more, "for 4.4 s and never acknowledged, while smaller ones (up to 300 bytes) arrive"),
        (more, proof, "for 4.4 s and never acknowledged, while smaller ones (up to 300 bytes) arrive"),
    ] {
        let text = joined(&[ours], &[theirs]);
        assert!(text.starts_with("Text(\"black_hole\")") && text.contains(wanted), "{text}");
    }
    // Neither proves it, and one of each together do.
    let lives = stalled(4001, Fate::Suspect, Stall { arrived: 1_000_000, ..stuck() });
    let mut both = findings(&[proof_of_nothing()]);
    both.absorb(findings(&[lives]));
    both.add(&event(&proof_of_nothing()), &Pods::default());
    assert_eq!(both.verdict().unwrap().fields[0].1, Value::Text("black_hole".into()));
}

/// A connection that is stuck, and no more is known.
fn proof_of_nothing() -> MtuRecord {
    stalled(4000, Fate::Suspect, stuck())
}
