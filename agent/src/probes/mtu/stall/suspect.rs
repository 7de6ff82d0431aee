//! A connection that may be stuck in a black hole, and what two of them prove of each other.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use agent_common::mtu::stall::Stall;

use super::{before, jiffies, passed_before, since_sent};
use crate::kernel::sockets::Stuck;
use crate::probes::mtu::event::TooBig;

/// What is left of clocks and ticks that do not agree.
const MARGIN: Duration = Duration::from_millis(50);

/// The peer was heard so shortly before the segment was first sent.
const RECENT: Duration = Duration::from_secs(2);

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
    /// When the last segment was sent of another connection to the same address and port that has ended well, if one did lately.
    acknowledged: Option<SystemTime>,
    /// What such a one proves may be of this one: next to nothing else is lost, nothing behind the segment arrived, and the peer was heard
    /// shortly before. Who was silent for long may be gone for as long, or a translator on the way may have forgotten the connection.
    may_have_a_witness: bool,
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
            acknowledged: Some(stall.acknowledged).filter(|before| *before != Stall::NEVER).and_then(sent),
            may_have_a_witness: stall.never_passed()
                && stall.is_alone()
                && stall.sacked == 0
                && ago(stall.heard.into()) + RECENT > ago(since_sent(stall)),
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

    /// When a third connection took small data, if that was while this one was stuck.
    fn witness(&self, acknowledged: Option<SystemTime>) -> Option<SystemTime> {
        acknowledged.filter(|at| self.may_have_a_witness && *at > self.since + MARGIN)
    }

    /// `later` is of the same connection: a third one took small data before a copy of it was sent that has vanished. A peer that was away
    /// and came back for that would have taken the copy.
    pub(super) fn vanishes_beside_a_witness(&self, later: &Self) -> bool {
        later.may_have_a_witness && self.witness(self.acknowledged).is_some_and(|at| self.at > at + MARGIN)
    }

    /// Two connections that are stuck, and a third one took small data when the earlier was, before a copy of the later one vanished.
    pub(super) fn has_a_witness_with(&self, later: &Self) -> bool {
        let is_same_place = (self.destination, self.ports.1) == (later.destination, later.ports.1);
        let proves = |acknowledged| self.witness(acknowledged).is_some_and(|at| later.vanished > at + MARGIN);
        is_same_place && later.may_have_a_witness && (proves(self.acknowledged) || proves(later.acknowledged))
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
            acknowledged: None,
            may_have_a_witness: true,
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

    /// A small one must have been sent after this one was stuck, and before its next copy, which is seen at 4 s.
    #[test]
    fn a_third_connection_proves_that_the_peer_lives() {
        let with = |milliseconds| Suspect { acknowledged: Some(at(milliseconds)), ..suspect() };
        for (milliseconds, wanted) in
            [(900, false), (1_050, false), (1_051, true), (3_949, true), (3_950, false)]
        {
            assert_eq!(with(milliseconds).vanishes_beside_a_witness(&suspect()), wanted, "at {milliseconds}");
        }
        assert!(!suspect().vanishes_beside_a_witness(&with(2_000)), "which its next copy may not show yet");
        let not = |suspect: Suspect| Suspect { may_have_a_witness: false, ..suspect };
        assert!(!not(with(2_000)).vanishes_beside_a_witness(&suspect()));
        assert!(!with(2_000).vanishes_beside_a_witness(&not(suspect())));
    }

    /// Of the later one a copy vanished that was sent at 3 s.
    #[test]
    fn two_that_are_stuck_and_a_third_between_them() {
        let another = |port| Suspect { ports: (Some(4001), Some(port)), ..suspect() };
        for (milliseconds, wanted) in [(1_050, false), (1_051, true), (2_949, true), (2_950, false)] {
            let with = |suspect| Suspect { acknowledged: Some(at(milliseconds)), ..suspect };
            assert_eq!(suspect().has_a_witness_with(&with(another(443))), wanted, "later, {milliseconds}");
            assert_eq!(with(suspect()).has_a_witness_with(&another(443)), wanted, "before, {milliseconds}");
            assert!(!with(suspect()).has_a_witness_with(&with(another(80))), "another program");
            let not = |suspect| Suspect { may_have_a_witness: false, ..with(suspect) };
            assert!(!not(suspect()).has_a_witness_with(&with(another(443))));
            assert!(!with(suspect()).has_a_witness_with(&not(another(443))));
        }
        assert!(!suspect().has_a_witness_with(&another(443)), "there is none");
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
