//! TCP connections that are stuck: what their sockets know proves a black hole, or proves nothing.
//!
//! Only what the peer took after the full segment was first sent proves that size is the matter. Of the same connection that is
//! what SACK reports behind it, or what the peer goes on to say as often as [`TALKS`] asks. Bytes before it prove nothing,
//! however late they were acknowledged: each such acknowledgement starts the timeouts anew, so that all of them come before
//! the first that counts, and a peer that dies between its handshake and the first full segment leaves the same socket behind,
//! field by field. On a busy node there is always a connection in between.
//!
//! Of another connection to the same address it takes full segments that vanish as well. Either both vanished after something small
//! of one arrived; or the later one took something small while the earlier was stuck, which it still is, as its socket says.
//!
//! One that sends small ones only, and is well, says less: an address of a Service leads to several hosts, and one of these may be
//! gone. So it must go to the same port as well, and end well while this one is stuck, whose next copy vanishes too. And of this one
//! less than a full segment may ever have been acknowledged, and the peer must have been heard shortly before the first that vanishes: its
//! host would have to die in these two seconds.
//!
//! What no socket can tell a walk does (`trace mtu --walk`): it sends small and large to the same place at the same time.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use agent_common::mtu::stall::Stall;
use agent_common::mtu::{Fate, flags};

use super::encrypted;
use super::ends::Ends;
use super::event::TooBig;
use super::finding::{Finding, Judgement};
use crate::probe::row::socket;
use crate::probe::{Confidence, Pods};

mod suspect;

use suspect::Suspect;

/// Connections that are remembered: two prove what there is to prove, and any may be the other one.
const MAX_FLOWS: usize = 8;

/// So often the peer must be found to have sent more before the last copy vanished. Once, it may have come back a moment ago.
/// The second time it has been told that what it sent before has arrived, or it would have sent that again: the way there is
/// open. The copy that was sent then vanished as well.
const TALKS: u32 = 2;

/// The stuck connections of one incident.
#[derive(Default)]
pub(super) struct Stalls {
    /// The last event whose own socket proves it, else one that chance hardly explains or another connection proves; and whose
    /// it was.
    proof: Option<Box<(TooBig, Pods)>>,
    /// The last event that proves nothing: a full segment is not acknowledged, and nothing smaller is under way, or so much else
    /// is lost that this may be chance as well.
    doubt: Option<Box<(TooBig, Pods)>>,
    /// Connections of which no full-size segment was ever acknowledged.
    suspects: Vec<Suspect>,
    /// When the first of the proven ones was sent.
    since: Option<SystemTime>,
    last: Option<SystemTime>,
    /// Payload of the segment that vanishes, when that was first certain.
    dies: u32,
    /// Payload of the largest that arrived meanwhile, 0 if unknown.
    passes: u32,
    /// Payload of a segment when it was last sent, once the kernel looks for a smaller size; else 0.
    tries: u32,
}

impl Stalls {
    /// Whether this is the first that is proven, or the first that a socket proves by itself, or the first since the kernel does
    /// something about it.
    pub(super) fn add(&mut self, event: &TooBig, pods: &Pods) -> bool {
        let Some(stall) = event.stall() else { return false };
        if event.fate == Fate::Ordinary {
            // It has gone on since, or is no full-size segment: what was known of it is over.
            let over = (event.ports(), event.destination());
            self.suspects.retain(|suspect| (suspect.ports, suspect.destination) != over);
        }
        let is_proven = match event.fate {
            Fate::BlackHole => true,
            Fate::Suspect => self.suspect(event, stall) || stall.is_hardly_chance(),
            _ => false,
        };
        let is_of_it = is_proven || self.proof.is_some() && event.fate != Fate::Ordinary;
        if !is_of_it {
            return self.doubts(event, pods, stall);
        }
        let since = before(event.at, since_sent(stall), event.hertz);
        self.since = Some(self.since.map_or(since, |first| first.min(since)));
        self.last = Some(event.at);
        if self.dies == 0 {
            self.dies = event.record.len;
        }
        if stall.longest_run < self.dies {
            self.passes = self.passes.max(stall.longest_run);
        }
        let begins_to_try = self.tries == 0 && stall.flags & Stall::PROBING != 0;
        if stall.flags & Stall::PROBING != 0 {
            self.tries = stall.mss;
        }
        // What a socket knows by itself says more than what two say of each other.
        let before = self.proof.as_ref().map(|proof| proof.0.fate);
        let is_surer = before != Some(Fate::BlackHole) && event.fate == Fate::BlackHole;
        if before.is_none() || event.fate == Fate::BlackHole {
            self.proof = Some(Box::new((event.clone(), pods.clone())));
        }
        before.is_none() || is_surer || begins_to_try
    }

    /// Remembers what proves nothing; whether it is the first.
    fn doubts(&mut self, event: &TooBig, pods: &Pods, stall: &Stall) -> bool {
        if event.fate != Fate::Suspect {
            return false;
        }
        let since = before(event.at, since_sent(stall), event.hertz);
        self.since = Some(self.since.map_or(since, |first| first.min(since)));
        self.last = Some(event.at);
        let is_first = self.doubt.is_none();
        self.doubt = Some(Box::new((event.clone(), pods.clone())));
        is_first
    }

    /// The event that nothing proves anything of; `None` if there is none.
    pub(super) fn doubt(&self) -> Option<(&TooBig, &Pods)> {
        self.doubt.as_deref().map(|(event, pods)| (event, pods))
    }

    /// What that comes to: what would prove it.
    pub(super) fn judge_doubt(&self, event: &TooBig, pods: &Pods) -> Judgement {
        let Ends { who, to, .. } = Ends::of(event, pods);
        let stall = &event.record.stall;
        let (beside, or) = match stall.longest_run {
            0 => {
                let before = if passed_before(stall) { "; smaller ones passed before" } else { "" };
                (format!("and nothing smaller is under way{before}"), "a peer that is gone".to_owned())
            }
            passes => (
                format!("while smaller ones (up to {passes} bytes) arrive"),
                format!("loss by chance ({} other segments were sent again lately)", stall.lost),
            ),
        };
        Judgement {
            finding: Finding::Suspect,
            confidence: Confidence::Low,
            what: format!(
                "full-size segments ({} bytes, packets of {}) from {who} to {to} are sent again for {:.1} s and not acknowledged, {beside}: a black hole, or {or}{}",
                event.record.len,
                stall.pmtu,
                self.took().as_secs_f64(),
                encrypted(event)
            ),
            fix: Some(format!("{} tells which", walk(event, pods, &who))),
        }
    }

    /// Takes in what another incident has that turns out to be the same.
    pub(super) fn absorb(&mut self, other: Self) {
        self.suspects.extend(other.suspects);
        self.suspects.truncate(MAX_FLOWS);
        self.since = self.since.into_iter().chain(other.since).min();
        self.last = self.last.into_iter().chain(other.last).max();
        if self.proof.is_none() {
            (self.proof, self.dies, self.tries) = (other.proof, other.dies, other.tries);
        }
        self.passes = self.passes.max(other.passes);
        self.doubt = other.doubt.or(self.doubt.take());
    }

    /// Remembers it; whether it is proven now that small segments do reach the peer, and full-size ones do not.
    fn suspect(&mut self, event: &TooBig, stall: &Stall) -> bool {
        let mut new = Suspect::of(event, stall);
        let is_stuck = |old: &Suspect| event.stuck.iter().any(|stuck| old.is_stuck_since(*stuck, event.at));
        let mut is_proven = false;
        for old in &self.suspects {
            if !old.is_of(&new) {
                is_proven |= old.lived_with(&new)
                    || is_stuck(old) && (old.outlived_by(&new) || old.has_a_witness_with(&new));
            } else if old.goes_on(&new) {
                is_proven |= old.talks >= TALKS || old.vanishes_beside_a_witness(&new);
                new.talks = old.talks + u32::from(new.received > old.received);
            }
        }
        self.suspects.retain(|old| !old.is_of(&new));
        if self.suspects.len() >= MAX_FLOWS {
            self.suspects.remove(0);
        }
        self.suspects.push(new);
        is_proven
    }

    /// The event that proves it; `None` if nothing does.
    pub(super) fn proof(&self) -> Option<(&TooBig, &Pods)> {
        self.proof.as_deref().map(|(event, pods)| (event, pods))
    }

    /// The stuck connection from this port.
    pub(super) fn of_port(&self, port: Option<u16>) -> Option<&TooBig> {
        let known = self.proof.iter().chain(&self.doubt).map(|known| &known.0);
        known.into_iter().find(|stuck| port.is_some() && stuck.ports().0 == port)
    }

    /// What a proven one comes to.
    pub(super) fn judge(&self, event: &TooBig, pods: &Pods) -> Judgement {
        let ends = Ends::of(event, pods);
        let Ends { who, to, .. } = &ends;
        let stall = &event.record.stall;
        let meanwhile = match self.passes {
            0 => "while the peer answers smaller ones".to_owned(),
            passes => format!("while smaller ones (up to {passes} bytes) arrive"),
        };
        let mut what = format!(
            "packets of {} bytes from {who} to {to} vanish, and no message says why: segments of {} bytes are sent again and again for {:.1} s and never acknowledged, {meanwhile}",
            stall.pmtu,
            self.dies,
            self.took().as_secs_f64()
        );
        if self.tries != 0 {
            let _ = write!(
                what,
                "; the kernel looks for a smaller size by itself (tcp_mtu_probing), now {} bytes",
                self.tries
            );
        }
        what.push_str(&encrypted(event));
        let others = event.wrapping.as_deref().map_or_else(String::new, |wrapping| {
            format!("; all that {} sends there is encrypted and needs the same", wrapping.policy.source)
        });
        let walk = walk(event, pods, who);
        let lower = ends.route("what passes there (1280 does nearly everywhere)");
        let confidence = if event.fate == Fate::BlackHole { Confidence::High } else { Confidence::Medium };
        Judgement {
            finding: Finding::BlackHole,
            confidence,
            what,
            fix: Some(format!(
                "{walk} names the hop; until it is mended {lower}, or `sysctl -w net.ipv4.tcp_mtu_probing=1` in its network namespace{others}"
            )),
        }
    }

    /// `; its connections are stuck for 3.1 s`, if one is.
    pub(super) fn stuck(&self) -> Option<String> {
        self.proof.as_ref()?;
        Some(format!("; a connection is stuck since {:.1} s", self.took().as_secs_f64()))
    }

    fn took(&self) -> Duration {
        self.since
            .zip(self.last)
            .and_then(|(since, last)| last.duration_since(since).ok())
            .unwrap_or_default()
    }
}

/// The walk that goes where the event's packets went.
fn walk(event: &TooBig, pods: &Pods, who: &str) -> String {
    let (_, port) = event.ports();
    let address = socket(event.destination(), port);
    let from = match &pods.source {
        Some(_) => format!(" --from-pod {who}"),
        // It is not the node's, and whose it is is not known: from the node it would be another way.
        None if event.has(flags::FOREIGN | flags::IN_POD) => {
            format!(" --netns $(lsns -no PID {} | head -n 1)", event.record.netns)
        }
        None => String::new(),
    };
    format!("`r2c-agent trace mtu --to {address}{from}`")
}

/// The IPsec policy on the way, if there is one.
fn encrypted(event: &TooBig) -> String {
    event.wrapping.as_deref().map(encrypted::told).unwrap_or_default()
}

/// Jiffies since the segment was first sent: each timeout was twice as long as the one before.
fn since_sent(stall: &Stall) -> u64 {
    let last = u64::from(stall.timeout);
    2 * last - ((2 * last) >> stall.retransmits.clamp(1, 63))
}

/// Whether smaller segments were acknowledged before, and no full-size one.
pub(super) fn passed_before(stall: &Stall) -> bool {
    // The SYN counts as a byte (net/ipv4/tcp_input.c, `tcp_snd_una_update`).
    const SYN: u64 = 1;
    stall.acked > SYN && stall.never_passed()
}

/// So many jiffies before `at`.
fn before(at: SystemTime, count: u64, hertz: u32) -> SystemTime {
    at.checked_sub(jiffies(count, hertz)).unwrap_or(at)
}

/// So many jiffies.
fn jiffies(count: u64, hertz: u32) -> Duration {
    Duration::from_millis(count.saturating_mul(1000) / u64::from(hertz.max(1)))
}
