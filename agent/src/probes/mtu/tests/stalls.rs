//! What stuck connections prove, and what they leave open.

use super::*;
use crate::kernel::sockets::Stuck;

#[test]
fn a_suspect_that_chance_hardly_explains_is_told_and_made_sure_of() {
    let (mut findings, pods) = (Findings::default(), Pods::default());
    let mut add = |fate: Fate, stall: Stall| {
        let news = findings.add(&event(&stalled(4000, fate, stall)), &pods).is_some();
        let verdict = findings.verdict();
        let field = |name: &str| {
            let (_, value) = verdict.as_ref()?.fields.iter().find(|(field, _)| *field == name)?;
            Some(format!("{value:?}"))
        };
        (news, field("confidence"), verdict.as_ref().map(|verdict| verdict.message.clone()))
    };
    let small = Stall { sacked: 1, longest_run: 104, hole: 1448, ..stuck() };
    let (news, confidence, text) = add(Fate::Suspect, small);
    assert!(news && confidence.is_some_and(|it| it.contains("low")), "it is told, and what would prove it");
    assert!(text.is_some_and(|text| {
        text.contains("arrive: a black hole, or loss by chance (0 other segments were sent again lately); ")
            && text.contains(". Fix: `r2c-agent trace mtu --to ")
    }));
    let lossy = Stall { retransmits: 4, lost: 100, ..small };
    let (news, confidence, _) = add(Fate::Suspect, lossy);
    assert!(!news && confidence.is_some_and(|it| it.contains("low")), "much is lost on this node");
    let (news, confidence, text) = add(Fate::Suspect, Stall { lost: 0, ..lossy });
    assert!(news && confidence.is_some_and(|it| it.contains("medium")));
    assert!(text.is_some_and(|text| text.contains("(up to 104 bytes) arrive")));
    let (news, confidence, _) = add(Fate::BlackHole, Stall { retransmits: 5, ..small });
    assert!(news && confidence.is_some_and(|it| it.contains("high")));
    assert!(!add(Fate::BlackHole, Stall { retransmits: 6, ..small }).0, "nothing new");
}

fn is_black_hole(findings: &Findings) -> bool {
    let verdict = findings.verdict();
    let fields = verdict.iter().flat_map(|verdict| &verdict.fields);
    fields.into_iter().any(|(name, value)| *name == "finding" && format!("{value:?}").contains("black_hole"))
}

#[test]
fn one_suspect_proves_nothing_and_two_do_if_the_peer_lived() {
    let (mut findings, pods) = (Findings::default(), Pods::default());
    let mut add = |port: u16, stall: Stall| {
        let news = findings.add(&event(&stalled(port, Fate::Suspect, stall)), &pods).is_some();
        (news, is_black_hole(&findings))
    };
    assert_eq!(add(4000, stuck()), (true, false), "the first is told");
    assert_eq!(add(4000, stuck()), (false, false), "the same connection again");
    // What last arrived was sent before the other's segment was: both died with their peer.
    assert_eq!(add(4001, stuck()), (false, false));
    // A peer that has come back a moment ago: the copies that would tell are still to be sent.
    let back = Stall { arrived: 500_000, ..stuck() };
    assert_eq!(add(4002, back), (false, false));
    // The last copy was sent 0.8 s ago, or, since timers are late by up to an eighth, 0.9.
    assert_eq!(add(4006, Stall { arrived: 940_000, ..stuck() }), (false, false));
    assert_eq!(
        add(4003, Stall { heard: 0, ..stuck() }),
        (false, false),
        "what is heard says nothing of the way there"
    );
    // It took small ones while the first were stuck, and their next copies vanished.
    let small = Stall { arrived: 1_000_000, ..stuck() };
    assert_eq!(add(4004, small), (true, true));
    assert_eq!(add(4005, small), (false, true), "nothing new");
}

#[test]
fn a_peer_that_talks_on_proves_it_if_full_segments_vanish_all_the_while() {
    let hertz = crate::kernel::clock::jiffies_a_second();
    let proven_at = |received: [u64; 5]| {
        let (mut findings, pods) = (Findings::default(), Pods::default());
        let (mut after, mut timeout) = (0, 800);
        received.into_iter().zip(3_u32..).find_map(|(received, retransmits)| {
            let stall = Stall {
                retransmits,
                received,
                timeout: hertz * timeout / 1000,
                acked: 1 << 20,
                heard: 0,
                ..stuck()
            };
            let record = stalled(4000, Fate::Suspect, stall);
            let record = MtuRecord { ktime_ns: record.ktime_ns + after, ..record };
            timeout *= 2;
            after += u64::from(timeout) * 1_000_000;
            findings.add(&event(&record), &pods);
            is_black_hole(&findings).then_some(retransmits)
        })
    };
    assert_eq!(proven_at([0, 0, 0, 0, 0]), None);
    assert_eq!(proven_at([0, 9, 9, 9, 9]), None, "it has come back a moment ago, or hears nothing itself");
    assert_eq!(proven_at([0, 9, 18, 18, 18]), Some(6));
    assert_eq!(proven_at([0, 9, 9, 18, 18]), Some(7));
}

/// A handshake is acknowledged, and what follows it is not: a black hole, or a peer that died in between. Both leave the same
/// sockets behind, on however many connections and for however long.
#[test]
fn what_was_acknowledged_before_proves_nothing() {
    let hertz = crate::kernel::clock::jiffies_a_second();
    let (mut findings, pods) = (Findings::default(), Pods::default());
    let (mut after, mut timeout, mut since) = (0_u64, 800_u32, 1_400_000_u64);
    for retransmits in 3..9 {
        for port in 4000..4004 {
            // The last small one was acknowledged a moment before the first full one was sent.
            let moment = u64::from(port - 4000) * 100;
            let stall = Stall {
                retransmits,
                acked: 517,
                received: 4_000,
                timeout: hertz * timeout / 1000,
                arrived: since + moment,
                heard: hertz * u32::try_from(since / 1000).unwrap() / 1000,
                ..stuck()
            };
            assert_eq!(stall.fate(1448), Some(Fate::Suspect));
            let record = stalled(port, Fate::Suspect, stall);
            let mut event = event(&MtuRecord { ktime_ns: record.ktime_ns + after, ..record });
            // All of them are stuck at once.
            event.stuck = (4000..4004).map(|port| Stuck { ports: (port, 443), retransmits }).collect();
            findings.add(&event, &pods);
            assert!(!is_black_hole(&findings), "{retransmits} timeouts of {port}");
        }
        timeout *= 2;
        after += u64::from(timeout) * 1_000_000;
        since += u64::from(timeout) * 1000;
    }
}

/// A connection that is stuck for 1.4 s, then for 3 s: between the two events a copy vanished.
#[test]
fn one_that_ends_well_proves_it_if_a_copy_vanishes_after_it() {
    let hertz = crate::kernel::clock::jiffies_a_second();
    let proven = |first: Stall| {
        let mut findings = Findings::default();
        let (one, timeout) = (stalled(4000, Fate::Suspect, first), first.timeout * 2);
        let next = Stall { retransmits: 4, timeout, heard: first.heard + timeout, ..first };
        let other = stalled(4000, Fate::Suspect, Stall { acknowledged: 100_000, ..next });
        let other = MtuRecord { ktime_ns: one.ktime_ns + 1_600_000_000, ..other };
        findings.add(&event(&one), &Pods::default());
        assert!(!is_black_hole(&findings), "its next copy may arrive");
        findings.add(&event(&other), &Pods::default());
        (is_black_hole(&findings), findings.verdict().unwrap().message)
    };
    let with = |acknowledged| Stall { acknowledged, ..stuck() };
    let (is_proven, text) = proven(with(500_000));
    assert!(is_proven && text.contains("while the peer answers smaller ones"), "{text}");
    assert!(!proven(with(1_500_000)).0, "it was not stuck yet");
    assert!(!proven(with(Stall::NEVER)).0, "what ended a moment ago has no copy behind it");
    let handshake = Stall { acked: 1, ..with(500_000) };
    assert!(proven(handshake).0, "nothing of its own need have passed");
    for (why, not) in [
        ("full ones did pass", Stall { acked: 1 << 20, heard: 0, ..with(500_000) }),
        ("much else is lost", Stall { lost: 5, ..with(500_000) }),
        ("the peer was silent for long before", Stall { heard: hertz * 9 / 2, ..with(500_000) }),
    ] {
        assert!(!proven(not).0, "{why}");
    }
}

/// The later one was made, or took something, when the earlier was already stuck, which it is all the time since.
#[test]
fn a_later_one_proves_it_if_the_earlier_is_still_stuck() {
    let pods = Pods::default();
    // The first was sent 1.4 s before it was told at its third timeout; the other is told 20 s later.
    let is_proven = |arrived: u64, still: &[(u16, u16, u32)], later: Stall, between: Option<MtuRecord>| {
        let mut findings = Findings::default();
        for record in [Some(stalled(4000, Fate::Suspect, stuck())), between].into_iter().flatten() {
            findings.add(&event(&record), &pods);
        }
        let record = stalled(4001, Fate::Suspect, Stall { arrived, ..later });
        let record = MtuRecord { ktime_ns: record.ktime_ns + 20_000_000_000, ..record };
        let mut event = event(&record);
        let stuck = |(own, peer, retransmits): &(u16, u16, u32)| Stuck {
            ports: (*own, *peer),
            retransmits: *retransmits,
        };
        event.stuck = still.iter().map(stuck).collect();
        findings.add(&event, &pods);
        is_black_hole(&findings)
    };
    // Copies of the first were due after 1.6, 4.8 and 11.2 s.
    assert!(is_proven(1_400_000, &[(4000, 443, 6), (4001, 443, 3)], stuck(), None));
    assert!(!is_proven(1_400_000, &[(4000, 443, 5)], stuck(), None), "it has recovered, and is stuck again");
    assert!(!is_proven(1_400_000, &[(4001, 443, 6)], stuck(), None), "the earlier one has recovered");
    assert!(!is_proven(1_400_000, &[(4000, 80, 6)], stuck(), None), "that is another");
    assert!(!is_proven(1_400_000, &[], stuck(), None), "its sockets are not seen");
    assert!(is_proven(21_300_000, &[(4000, 443, 6)], stuck(), None), "a moment after");
    assert!(!is_proven(21_360_000, &[(4000, 443, 6)], stuck(), None), "at the same moment");
    // The later one has no more than its handshake; a third one ended well before its last copy.
    let mute = |acknowledged| Stall { acked: 1, acknowledged, ..stuck() };
    assert!(is_proven(21_300_000, &[(4000, 443, 6)], mute(5_000_000), None));
    assert!(!is_proven(21_300_000, &[(4000, 443, 5)], mute(5_000_000), None), "it has recovered");
    assert!(!is_proven(21_300_000, &[(4000, 443, 6)], mute(21_500_000), None), "before both");
    assert!(!is_proven(21_300_000, &[(4000, 443, 6)], mute(500_000), None), "after that");
    assert!(!is_proven(21_300_000, &[(4000, 443, 6)], mute(Stall::NEVER), None));
    let passed = Stall { acked: 1 << 20, heard: 0, ..stuck() };
    assert!(!is_proven(1_400_000, &[(4000, 443, 6)], passed, None), "full ones did pass");
    let over = stalled(4000, Fate::Ordinary, Stall { acked: 1 << 20, ..stuck() });
    assert!(!is_proven(1_400_000, &[(4000, 443, 6)], stuck(), Some(over)), "the earlier one went on");
}

/// Only such events have the sockets of their namespace looked at.
#[test]
fn a_suspect_of_which_nothing_full_passed_may_have_company() {
    let may = |fate, stall| event(&stalled(4000, fate, stall)).may_have_company();
    assert!(may(Fate::Suspect, stuck()));
    for (fate, stall) in [
        (Fate::BlackHole, stuck()),
        (Fate::Ordinary, stuck()),
        (Fate::Suspect, Stall { acked: 1448, ..stuck() }),
        (Fate::Suspect, Stall { lost: 5, ..stuck() }),
    ] {
        assert!(!may(fate, stall), "{fate:?} {stall:?}");
    }
}

#[test]
fn a_servers_connections_are_told_apart() {
    let (mut findings, pods) = (Findings::default(), Pods::default());
    for turn in 0..8_u32 {
        let stall = Stall { received: if turn % 2 == 0 { 5 } else { 1 << 18 }, ..stuck() };
        let server = stalled(443, Fate::Suspect, stall);
        let client = 50_000 + u16::try_from(turn % 2).unwrap();
        let ktime_ns = server.ktime_ns + u64::from(turn) * 500_000_000;
        let record = MtuRecord { ktime_ns, destination_port: client, ..server };
        findings.add(&event(&record), &pods);
        assert!(!is_black_hole(&findings), "neither peer has said more than before");
    }
}

#[test]
fn loss_is_no_black_hole() {
    let (mut findings, pods) = (Findings::default(), Pods::default());
    for port in 0..100 {
        assert_eq!(findings.add(&event(&stalled(port, Fate::Ordinary, stuck())), &pods), None);
    }
    assert!(findings.verdict().is_none());
}

/// One incident has both, if one pod sends both to one address: the larger datagrams say nothing of the connection.
#[test]
fn datagrams_that_were_refused_do_not_hide_a_stuck_connection() {
    let stalled = stalled(4000, Fate::Suspect, stuck());
    let pmtu = stalled.stall.pmtu;
    for (fits, wanted) in
        [(pmtu - 1, "large_datagrams"), (pmtu, "suspect"), (pmtu + 1, "suspect"), (0, "large_datagrams")]
    {
        let refused = record(Kind::Refused, fits);
        for records in [[stalled, refused], [refused, stalled]] {
            let (finding, _, text) = verdict(&records);
            assert_eq!(finding, wanted, "{fits} of {pmtu}: {text}");
        }
    }
}
