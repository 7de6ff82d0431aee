//! The search for the size that arrives, and for the hop behind which larger ones stay, packet by packet.

use Reply::{Arrived, Expired, Silent, TooBig};

use super::*;
use crate::path::Edge;

/// A size that vanishes though small ones arrive: asked twice two times, since closed ports limit their answers.
const DIES: [Reply; 6] = [Silent, Silent, Arrived, Silent, Silent, Arrived];

/// Sizes that were sent but the small ones.
fn tried(script: &Script) -> Vec<u32> {
    script.sent.iter().map(|(size, ..)| *size).filter(|size| *size != 68).collect()
}

fn ttls(script: &Script) -> Vec<u8> {
    script.sent.iter().map(|(_, ttl, _)| *ttl).collect()
}

#[test]
fn what_a_hop_says_on_the_way_is_tried_next() {
    let answers = [TooBig(1000), Arrived, TooBig(1000), TooBig(1000)];
    let ((), out, script) = with(Method::Udp, &answers, |walker| walker.search(68, 1500, FAR).unwrap());
    assert_eq!(tried(&script), [1280, 1000, 1140, 1001]);
    assert_eq!((out.passes, out.dies), (Some(1000), None), "it owns up to taking no more");
}

#[test]
fn the_usual_size_is_tried_first_only_if_it_is_not_known_to_arrive() {
    for (passes, first) in [(1279, 1280), (1280, 1390), (1281, 1390)] {
        let (_, _, script) = with(Method::Udp, &[], |walker| walker.search(passes, 1500, FAR));
        assert_eq!(script.sent[0].0, first, "{passes}");
    }
}

#[test]
fn a_size_that_was_only_lost_does_not_end_the_search() {
    let answers = [&DIES[..], &[Arrived; 4], &DIES, &[Arrived], &DIES].concat();
    let ((), out, script) = with(Method::Udp, &answers, |walker| walker.search(1000, 1010, FAR).unwrap());
    let sizes = [&[1005; 4][..], &[1002, 1003, 1004, 1005], &[1007; 4], &[1006], &[1007; 4]].concat();
    assert_eq!(tried(&script), sizes);
    assert_eq!((out.passes, out.dies, out.lost), (Some(1006), Some(1007), 2));
}

#[test]
fn if_the_size_that_died_arrives_after_all_nothing_dies() {
    let answers = [Arrived; 2];
    let ((), out, script) = with(Method::Udp, &answers, |walker| walker.search(1000, 1002, FAR).unwrap());
    assert_eq!(tried(&script), [1001, 1002]);
    assert_eq!((out.passes, out.dies, out.lost), (Some(1002), None, 0));
}

/// What is known when the packets are used up.
#[test]
fn only_what_a_hop_owns_up_to_has_not_vanished() {
    for (low, high, dies) in [
        (1300, 1450, Some(1450)),
        (1399, 1450, Some(1450)),
        (1400, 1450, None),
        (1400, 1500, None),
        (1400, 1501, Some(1501)),
    ] {
        let (ended, out, _) = with(Method::Udp, &[], |walker| {
            walker.limits.packets = 0;
            walker.out.told = vec![says(1, 1400)];
            walker.search(low, high, FAR)
        });
        assert_eq!(ended, Err(Halt::Packets));
        assert_eq!((out.passes, out.dies), (Some(low), dies), "{low} {high}");
    }
}

#[test]
fn a_claim_that_more_than_it_arrives_is_not_followed() {
    let claim = [TooBig(600), Arrived, Arrived];
    let walked = |more: &[Reply], packets| {
        with(Method::Udp, &[&claim, more].concat(), |walker| {
            walker.limits.packets = packets;
            walker.out.reached = true;
            walker.walk_to_destination()
        })
    };
    let (ended, out, script) = walked(&[Arrived], 100);
    assert_eq!((ended, tried(&script)), (Ok(()), vec![1500, 600, 601, 1500]));
    assert_eq!((out.passes, out.dies, out.told.len(), out.absurd.len()), (Some(1500), None, 0, 1));
    // Cut short before the whole packet was tried again, and after it.
    let (ended, out, _) = walked(&[], 3);
    assert_eq!((ended, out.passes, out.dies), (Err(Halt::Packets), Some(601), None));
    let (ended, out, _) = walked(&DIES, 9);
    assert_eq!((ended, out.passes, out.dies), (Err(Halt::Packets), Some(601), Some(1500)));
}

/// A claim of one byte less needs no further packet: the size that it was about is the next one.
#[test]
fn a_claim_is_checked_only_where_there_is_a_size_between() {
    for (mtu, sizes) in [(1499, &[1500, 1499][..]), (1498, &[1500, 1498, 1499])] {
        let answers = [TooBig(mtu), Arrived, Silent];
        let ((), _, script) = with(Method::Udp, &answers, |walker| {
            walker.out.reached = true;
            walker.walk_to_destination().unwrap();
        });
        let to_end = script.sent.iter().filter(|(_, ttl, _)| *ttl == FAR).map(|(size, ..)| *size);
        assert_eq!(to_end.collect::<Vec<_>>(), sizes, "{mtu}");
    }
}

#[test]
fn few_claims_are_followed_before_sizes_are_tried() {
    let noted = |claims: u32| {
        let answers: Vec<Reply> = (1..=claims).map(|less| TooBig(1500 - less)).collect();
        let mut script =
            Script { answers: answers.into_iter().chain([Arrived]).collect(), ..Script::default() };
        let mut notes = Vec::new();
        let mut walker = Walker {
            ask: &mut script,
            note: &mut |text| notes.push(text.to_owned()),
            limits: Limits { packets: claims + 1, time: Duration::from_secs(15) },
            least: 68,
            small: 68,
            method: Method::Udp,
            patience: MILLI,
            liars: Vec::new(),
            out: Outcome { first: 1500, reached: true, ..Outcome::default() },
        };
        let _ = walker.walk_to_destination();
        notes.iter().any(|text| text.ends_with("bytes vanish; looking for the size that arrives"))
    };
    assert_eq!([noted(1), noted(7), noted(8)], [false, false, true]);
}

#[test]
fn a_silent_hop_is_asked_twice_and_four_of_them_are_the_end() {
    let ((), out, script) = with(Method::Udp, &[], |walker| {
        walker.out.told = vec![says(1, 1400)];
        walker.name_tellers().unwrap();
    });
    assert_eq!(ttls(&script), [1, 1, 2, 2, 3, 3, 4, 4]);
    assert_eq!(out.hops.len(), 4, "each has its row");
}

/// The edge, and up to which size each hop is known to answer.
fn edge(answers: &[Reply], reached: bool) -> (Option<Edge>, Vec<Option<u32>>, usize) {
    let ((), out, _) = with(Method::Udp, answers, |walker| {
        (walker.out.reached, walker.out.farthest) = (reached, 9);
        walker.find_edge(1500).unwrap();
    });
    (out.edge, out.hops.iter().map(|hop| hop.dies).collect(), out.packets as usize)
}

#[test]
fn the_place_where_packets_vanish_is_confirmed_by_who_is_behind_it() {
    let at = |after, before, confirmed| Some(Edge { after, before, confirmed });
    // Large ones come to the first hop; the next one is the destination.
    assert_eq!(edge(&[Expired, Silent, Arrived], true), (at(1, Some(2), true), vec![None], 3));
    // Two hops that answer small ones only: the second is asked once less.
    let mute = [Silent, Expired, Silent, Silent, Expired, Silent, Silent, Expired];
    let (first, second) = (&mute[..], &mute[..5]);
    let both = edge(&[first, second].concat(), true);
    assert_eq!(both, (at(0, Some(1), true), vec![Some(1500), Some(1500)], 13));
    // One behind it gets the large ones: the first was only mute for them.
    let passed = edge(&[first, &[Expired, Silent, Arrived]].concat(), true);
    assert_eq!(passed, (at(2, Some(3), true), vec![None, None], 11));
}

#[test]
fn a_destination_that_was_not_known_to_answer_may_be_the_end() {
    let at = |after, before, confirmed| Some(Edge { after, before, confirmed });
    assert_eq!(edge(&[Silent, Arrived, Arrived], false), (None, vec![], 3), "it arrives after all");
    let small_only = [&[Silent, Arrived][..], &DIES].concat();
    assert_eq!(edge(&small_only, false), (at(0, Some(1), true), vec![], 8));
}

#[test]
fn a_walk_to_a_silent_destination_asks_silent_hops_once_more() {
    let ((), out, script) = with(Method::Udp, &[Expired, Silent, Expired], |walker| {
        walker.walk_as_far_as_possible().unwrap();
    });
    let hops = [1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6];
    assert_eq!(ttls(&script), [&hops[..], &[FAR; 2], &[2; 9]].concat());
    assert_eq!((out.farthest, out.hops.len(), out.passes), (2, 2, Some(68)));
}
