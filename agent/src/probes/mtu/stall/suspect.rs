//! A connection that may be stuck in a black hole, and what two of them prove of each other.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use agent_common::mtu::stall::Stall;

use super::{before, jiffies, passed_before, since_sent};
use crate::kernel::sockets::Stuck;
use crate::probes::mtu::event::TooBig;

/// What is left of clocks and ticks that do not agree.
const MARGIN: Duration = Duration::from_millis(50);

/// One connection, as its socket was at an event.
#[derive(Clone, Copy)]
pub(super) struct Suspect {
    /// Both: of a server's connections the one alone is the same for all.
    pub(super) ports: (Option<u16>, Option<u16>),
    /// An incident may have several.
    pub(super) destination: Option<IpAddr>,
    at: SystemTime,
    /// When its segment was first sent.
    since: SystemTime,
    /// When it was sent the last time before this: that copy has vanished.
    vanished: SystemTime,
    /// The timeout that had passed, and how many there were.
    timeout: Duration,
    retransmits: u32,
    /// When the last of its segments was sent that is known to have arrived.
    arrived: SystemTime,
    /// When the last segment was sent of another connection to the same address and port that has closed well, with small data and
    /// without a full segment; `None` if none did of late.
    answered: Option<SystemTime>,
    /// What the peer had sent so far, bytes.
    pub(super) received: u64,
    /// How often the peer was found to have sent more since the copy before.
    pub(super) talks: u32,
    /// No full-size segment of it was ever acknowledged.
    never_passed: bool,
    /// But smaller ones were: a handshake alone may be made by a balancer, or a firewall that lets no data pass.
    passed_smaller: bool,
}

impl Suspect {
    /// What the event and its socket say of it.
    pub(super) fn of(event: &TooBig, stall: &Stall) -> Self {
        let ago = |jiffies: u64| before(event.at, jiffies, event.hertz);
        let sent = |before: u64| event.at.checked_sub(Duration::from_micros(before));
        Self {
            ports: event.ports(),
            destination: event.destination(),
            at: event.at,
            since: ago(since_sent(stall)),
            // The kernel's timers are late by up to an eighth (kernel/time/timer.c): that copy may have been sent so early.
            vanished: ago(stall.timeout.saturating_add(stall.timeout / 8).into()),
            timeout: jiffies(stall.timeout.into(), event.hertz),
            retransmits: stall.retransmits,
            arrived: sent(stall.arrived).unwrap_or(SystemTime::UNIX_EPOCH),
            answered: Some(stall.answered).filter(|answered| *answered != Stall::NEVER).and_then(sent),
            received: stall.received,
            talks: 0,
            never_passed: stall.never_passed(),
            passed_smaller: passed_before(stall),
        }
    }

    /// Whether both are one connection.
    pub(super) fn is_of(&self, other: &Self) -> bool {
        (self.ports, self.destination) == (other.ports, other.destination)
    }

    /// Whether `later` is of the same connection and the same segment.
    pub(super) fn goes_on(&self, later: &Self) -> bool {
        later.at > self.at + MARGIN && later.since < self.at
    }

    /// Whether it is stuck all the time since: each timeout is twice the one before (and no longer than two minutes), and what is
    /// acknowledged has them counted from the first again.
    pub(super) fn is_stuck_since(&self, stuck: Stuck, now: SystemTime) -> bool {
        let since = now.duration_since(self.at).unwrap_or_default();
        let mut timeout = self.timeout;
        let (mut due, mut count) = (Duration::ZERO, self.retransmits);
        while !timeout.is_zero() {
            timeout *= 2;
            due += timeout;
            if due + MARGIN > since {
                break;
            }
            count += 1;
        }
        self.ports.0.zip(self.ports.1) == Some(stuck.ports) && stuck.retransmits >= count
    }

    /// Two connections, of which no full-size segment ever passed, and which both are stuck: data of the later one, smaller than that,
    /// arrived since the earlier one is. If the peer was away and came back just for that, it would have to be gone again before the first
    /// full-size segment.
    pub(super) fn outlived_by(&self, later: &Self) -> bool {
        let is_same_peer = self.destination == later.destination;
        is_same_peer && self.never_passed && later.passed_smaller && later.arrived > self.since + MARGIN
    }

    /// A third connection took small data while this one was stuck, of which no full-size segment ever passed, and then another copy of
    /// it vanished. A peer that was away and has just come back would have taken that.
    pub(super) fn vanished_beside_an_answer(&self) -> bool {
        let between = |answered| answered > self.since + MARGIN && self.vanished > answered + MARGIN;
        self.never_passed && self.answered.is_some_and(between)
    }

    /// Two connections that are stuck, of which no full-size segment ever passed, and between the beginnings of both a third one took
    /// small data.
    pub(super) fn answered_before(&self, later: &Self) -> bool {
        let is_same_place = (self.destination, self.ports.1) == (later.destination, later.ports.1);
        let between = |answered| answered > self.since + MARGIN && later.since + MARGIN > answered;
        is_same_place && self.never_passed && later.never_passed && later.answered.is_some_and(between)
    }

    /// Two connections, of which no full-size segment ever passed: smaller data of one arrived while the other was stuck,
    /// and then full-size segments of both vanished. A peer that was away and has just come back would have taken those.
    pub(super) fn lived_with(&self, other: &Self) -> bool {
        let proves = |one: &Self, stuck: &Self| {
            one.passed_smaller && one.arrived > stuck.since + MARGIN && stuck.vanished > one.arrived + MARGIN
        };
        // A peer that lives says nothing of another.
        let is_same_peer = self.destination == other.destination;
        is_same_peer
            && self.never_passed
            && other.never_passed
            && (proves(self, other) || proves(other, self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many milliseconds after some moment.
    fn at(milliseconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000 + milliseconds)
    }

    /// Stuck since 1 s, its last copy but one sent at 3 s, seen at 4 s; of what arrived nothing was sent since.
    fn suspect() -> Suspect {
        Suspect {
            ports: (Some(4000), Some(443)),
            destination: Some([198, 51, 100, 2].into()),
            at: at(4_000),
            since: at(1_000),
            vanished: at(3_000),
            timeout: Duration::from_secs(1),
            retransmits: 3,
            arrived: at(0),
            answered: None,
            received: 0,
            talks: 0,
            never_passed: true,
            passed_smaller: true,
        }
    }

    /// From 4 s on copies are due after 2, 6, 14 s: whoever was sent fewer has been acknowledged something meanwhile.
    #[test]
    fn it_is_stuck_all_the_time_if_no_timeout_is_missing() {
        let counted = |retransmits, now| {
            let stuck = Stuck { ports: (4000, 443), retransmits };
            suspect().is_stuck_since(stuck, at(now))
        };
        for (now, least) in
            [(4_000, 3), (6_049, 3), (6_050, 4), (10_049, 4), (10_050, 5), (18_050, 6), (3_000, 3)]
        {
            assert!(counted(least, now) && counted(least + 9, now), "{least} at {now}");
            assert!(!counted(least - 1, now), "{least} at {now}");
        }
        let another = Stuck { ports: (4001, 443), retransmits: 9 };
        assert!(!suspect().is_stuck_since(another, at(5_000)));
        let unknown = Suspect { timeout: Duration::ZERO, ..suspect() };
        let stuck = Stuck { ports: (4000, 443), retransmits: 3 };
        assert!(unknown.is_stuck_since(stuck, at(90_000)), "no timeout is known");
    }

    /// Clocks and ticks need not agree: what is within the margin is the same moment.
    #[test]
    fn a_segment_goes_on_if_it_is_seen_later_and_was_sent_before() {
        let goes_on =
            |seen, since| suspect().goes_on(&Suspect { at: at(seen), since: at(since), ..suspect() });
        for (seen, since, wanted) in [
            (4_000, 1_000, false),
            (4_050, 1_000, false),
            (4_051, 1_000, true),
            (9_000, 3_999, true),
            (9_000, 4_000, false),
            (3_000, 5_000, false),
        ] {
            assert_eq!(goes_on(seen, since), wanted, "seen at {seen}, sent at {since}");
        }
    }

    /// It must have been answered after this one was stuck, and before a copy of it vanished.
    #[test]
    fn a_third_connection_proves_that_the_peer_lives() {
        let answered = |milliseconds| Suspect { answered: Some(at(milliseconds)), ..suspect() };
        for (milliseconds, wanted) in
            [(900, false), (1_050, false), (1_051, true), (2_949, true), (2_950, false), (3_500, false)]
        {
            assert_eq!(answered(milliseconds).vanished_beside_an_answer(), wanted, "at {milliseconds}");
        }
        assert!(!suspect().vanished_beside_an_answer(), "nobody was");
        let passed = Suspect { never_passed: false, ..answered(2_000) };
        assert!(!passed.vanished_beside_an_answer(), "a full one did pass");
    }

    /// The later one began after that, at 5 s, to the same place.
    #[test]
    fn two_that_are_stuck_and_a_third_that_is_answered_between_them() {
        let ports = (Some(4001), Some(443));
        let later =
            |milliseconds| Suspect { ports, since: at(5_000), answered: Some(at(milliseconds)), ..suspect() };
        for (milliseconds, wanted) in
            [(1_050, false), (1_051, true), (5_049, true), (5_050, false), (6_000, false)]
        {
            assert_eq!(suspect().answered_before(&later(milliseconds)), wanted, "at {milliseconds}");
        }
        let to = |port| Suspect { ports: (Some(4001), Some(port)), ..later(3_000) };
        assert!(
            suspect().answered_before(&to(443)) && !suspect().answered_before(&to(80)),
            "another program"
        );
        for none in [Suspect { answered: None, ..later(0) }, Suspect { never_passed: false, ..later(3_000) }]
        {
            assert!(!suspect().answered_before(&none));
        }
        let passed = Suspect { never_passed: false, ..suspect() };
        assert!(!passed.answered_before(&later(3_000)), "a full one did pass");
    }

    /// Something small of the other must have arrived after this one was stuck, and before a copy of this one vanished.
    #[test]
    fn a_peer_lives_if_it_took_something_between_two_that_vanish() {
        let with = |other: Suspect| (suspect().lived_with(&other), other.lived_with(&suspect()));
        let arrived = |milliseconds| Suspect { arrived: at(milliseconds), ..suspect() };
        for (milliseconds, wanted) in
            [(1_050, false), (1_051, true), (2_000, true), (2_949, true), (2_950, false), (3_020, false)]
        {
            assert_eq!(with(arrived(milliseconds)), (wanted, wanted), "it arrived at {milliseconds}");
        }
        let passed = Suspect { never_passed: false, ..arrived(2_000) };
        assert_eq!(with(passed), (false, false), "a full one did pass");
        let another = Suspect { destination: Some([198, 51, 100, 3].into()), ..arrived(2_000) };
        assert_eq!(with(another), (false, false), "another peer");
        let greeted = Suspect { passed_smaller: false, ..arrived(2_000) };
        assert_eq!(with(greeted), (false, false), "no more than a handshake");
        assert!(!suspect().outlived_by(&greeted) && suspect().outlived_by(&arrived(2_000)));
    }
}
