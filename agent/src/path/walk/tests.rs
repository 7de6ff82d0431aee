//! Single answers, and what a walk makes of each: whom it believes, how often it asks again, and how long it waits.

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use super::*;
use crate::path::Refusal;

mod narrowing;

/// Gives these answers, one by one; then silence.
#[derive(Default)]
struct Script {
    answers: VecDeque<Reply>,
    /// Size, TTL and patience of each packet, patience in milliseconds.
    sent: Vec<(u32, u8, u128)>,
    /// Milliseconds of each pause.
    pauses: Vec<u128>,
    clock: Duration,
}

const MILLI: Duration = Duration::from_millis(1);

fn router(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

impl Ask for Script {
    fn methods(&self) -> Vec<Method> {
        vec![Method::Syn]
    }

    fn ask(&mut self, step: Step) -> Result<Answer, Halt> {
        self.sent.push((step.size, step.ttl, step.patience.as_millis()));
        let reply = self.answers.pop_front().unwrap_or(Reply::Silent);
        self.clock += MILLI;
        Ok(Answer { reply, from: Some(router(1)), rtt: MILLI })
    }

    fn pause(&mut self, time: Duration) -> Result<(), Halt> {
        self.pauses.push(time.as_millis());
        self.clock += time;
        Ok(())
    }

    fn elapsed(&self) -> Duration {
        self.clock
    }
}

/// What `then` makes of these answers, by `method`, on a path of 1,500 bytes; and what is known and was sent after that.
fn with<T>(
    method: Method,
    answers: &[Reply],
    then: impl FnOnce(&mut Walker<'_>) -> T,
) -> (T, Outcome, Script) {
    let mut script = Script { answers: answers.iter().copied().collect(), ..Script::default() };
    let mut walker = Walker {
        ask: &mut script,
        note: &mut |_| (),
        limits: Limits { packets: 100, time: Duration::from_secs(15) },
        least: 68,
        small: 68,
        method,
        patience: MILLI,
        liars: Vec::new(),
        out: Outcome { first: 1500, ..Outcome::default() },
    };
    let made = then(&mut walker);
    let out = walker.out;
    (made, out, script)
}

fn says(last: u8, mtu: u32) -> Told {
    Told { from: Some(router(last)), hop: None, mtu, size: 1500 }
}

/// The destination's SYN-ACKs are not limited; what routers and closed ports answer is, so that silence is asked twice.
#[test]
fn silence_is_asked_again_where_answers_are_limited() {
    use Reply::{Arrived, Expired, Silent};
    for (method, ttl, rounds) in [(Method::Syn, FAR, 1), (Method::Udp, FAR, 2), (Method::Syn, 3, 2)] {
        let small = if ttl == FAR { Arrived } else { Expired };
        let answers = [Silent, Silent, small].repeat(rounds);
        let (fate, out, script) = with(method, &answers, |walker| walker.fate(1500, ttl).unwrap());
        assert_eq!(fate, Fate::Dies, "{method:?} {ttl}");
        let sizes: Vec<u32> = script.sent.iter().map(|(size, ..)| *size).collect();
        assert_eq!(sizes, [1500, 1500, 68].repeat(rounds), "{method:?} {ttl}");
        assert_eq!((out.lost, out.limited, script.pauses.len()), (0, 0, 0));
    }
}

#[test]
fn each_packet_that_vanished_before_one_of_its_size_arrives_was_lost() {
    use Reply::{Arrived, Silent};
    for (answers, lost, packets) in [
        (&[Arrived][..], 0, 1),
        (&[Silent, Arrived], 1, 2),
        (&[Silent, Silent, Arrived, Silent, Arrived], 3, 5),
    ] {
        let (fate, out, _) = with(Method::Udp, answers, |walker| walker.fate(1500, FAR).unwrap());
        assert_eq!((fate, out.lost, out.packets), (Fate::Arrives, lost, packets), "{answers:?}");
    }
}

/// A router that limits its answers gets two rests; after that nothing is known.
#[test]
fn who_answers_nothing_at_all_is_given_two_rests() {
    use Reply::{Expired, Silent};
    let (fate, out, script) = with(Method::Udp, &[], |walker| walker.fate(1500, 3).unwrap());
    assert_eq!((fate, out.limited, out.packets), (Fate::Unclear, 3, 9));
    assert_eq!(script.pauses, [1050, 1050]);
    // What was silent before a rest says nothing any more: two rounds are asked for anew.
    let answers =
        [[Silent, Silent, Expired], [Silent; 3], [Silent, Silent, Expired], [Silent, Silent, Expired]];
    let (fate, out, script) =
        with(Method::Udp, answers.as_flattened(), |walker| walker.fate(1500, 3).unwrap());
    assert_eq!((fate, out.limited, out.packets), (Fate::Dies, 1, 12));
    assert_eq!(script.pauses, [1050]);
}

#[test]
fn a_refusal_is_no_silence() {
    let refused = Reply::Refused(Refusal::Host);
    let (fate, out, _) = with(Method::Udp, &[refused], |walker| walker.fate(1500, FAR).unwrap());
    assert_eq!((fate, out.packets), (Fate::Dies, 1));
    assert_eq!(out.refused, Some((Some(router(1)), Refusal::Host)));
    let (fate, ..) = with(Method::Udp, &[Reply::TooBig(1400)], |walker| walker.fate(1500, FAR).unwrap());
    assert_eq!(fate, Fate::Told(1400));
}

/// Routers make their answers beside their work: they are waited for a little longer.
#[test]
fn the_least_wait_is_longer_for_routers() {
    let ((), _, script) = with(Method::Udp, &[], |walker| {
        walker.send(100, FAR).unwrap();
        walker.send(100, 63).unwrap();
        walker.patience = Duration::from_millis(900);
        walker.send(100, 1).unwrap();
    });
    assert_eq!(script.sent, [(100, FAR, 200), (100, 63, 250), (100, 1, 900)]);
}

#[test]
fn only_a_claim_below_the_last_is_kept_and_few_of_them() {
    let believed = |claims: &[(u8, u32)]| {
        let ((), out, _) = with(Method::Udp, &[], |walker| {
            for (last, mtu) in claims {
                walker.believe(says(*last, *mtu), FAR);
            }
        });
        out.told.iter().map(|told| told.mtu).collect::<Vec<_>>()
    };
    assert_eq!(believed(&[(1, 1400), (2, 1399)]), [1400, 1399]);
    assert_eq!(believed(&[(1, 1400), (2, 1400), (3, 1401)]), [1400]);
    let many: Vec<_> = (0..12).map(|number| (number, 1400 - u32::from(number))).collect();
    assert_eq!(believed(&many), [1400, 1399, 1398, 1397, 1396, 1395, 1394, 1393, 1392]);
}

#[test]
fn a_claim_that_a_small_ttl_brings_has_its_hop() {
    let ((), out, _) = with(Method::Udp, &[], |walker| {
        walker.believe(says(1, 1400), FAR);
        walker.believe(says(2, 1300), 3);
        // Heard again by one TTL after the other: the first that hears it counts.
        walker.believe(says(1, 1400), 2);
        walker.believe(says(1, 1400), 5);
    });
    let hops: Vec<_> = out.told.iter().map(|told| (told.mtu, told.hop)).collect();
    assert_eq!(hops, [(1400, Some(1)), (1300, Some(2))]);
    let known: Vec<_> = out.hops.iter().map(|hop| (hop.address, hop.says)).collect();
    assert_eq!(known[..2], [(Some(router(1)), Some(1400)), (Some(router(2)), Some(1300))]);
}

/// Whoever floods the walk with lies does not fill its memory.
#[test]
fn each_lie_is_kept_once_and_few_of_them() {
    let lies = |lies: &[(u8, u32)]| {
        let ((), out, _) = with(Method::Udp, &[], |walker| {
            for (last, mtu) in lies {
                walker.disbelieve(says(*last, *mtu));
            }
        });
        out.absurd.iter().map(|lie| (lie.from.unwrap(), lie.mtu)).collect::<Vec<_>>()
    };
    let kept = lies(&[(1, 7), (1, 7), (2, 7), (1, 8)]);
    assert_eq!(kept, [(router(1), 7), (router(2), 7), (router(1), 8)]);
    let many: Vec<_> = (0..12).map(|number| (number, 7)).collect();
    assert_eq!(lies(&many).len(), 8);
}
