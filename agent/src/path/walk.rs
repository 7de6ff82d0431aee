//! Decides what to send next: first whether anybody answers, then which size arrives, then where the larger ones stay.

use std::net::IpAddr;
use std::time::Duration;

use super::{Answer, Ask, Halt, Hop, Method, Outcome, Reply, Step, Told};

mod hops;
mod sizes;

/// What a walk may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Packets, answers not counted.
    pub packets: u32,
    /// Time in all.
    pub time: Duration,
}

/// Far enough for any destination: most systems' own default.
const FAR: u8 = 64;
/// Claims believed one after the other, and lies kept: hops that take less each would be a strange path.
const MAX_CLAIMS: usize = 8;
/// The wait for the first answer, when nothing is known of the path.
const FIRST_PATIENCE: Duration = Duration::from_millis(800);
/// The least wait for any other: of the destination, and of a router, which makes its answers beside its work.
const LEAST_PATIENCE: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(250)];
/// The most.
const MOST_PATIENCE: Duration = Duration::from_secs(1);
/// Routers answer one source once a second by default, and a few at once after a rest (Linux: `icmp_ratelimit`).
const REFILL: Duration = Duration::from_millis(1050);
/// Rests given to one question.
const MAX_RESTS: u32 = 2;

/// The smallest MTU a link may have (RFC 791, RFC 8200).
#[must_use]
pub const fn least_mtu(v6: bool) -> u32 {
    if v6 { 1280 } else { 68 }
}

/// A packet that any link passes and every method can make.
const fn small(v6: bool) -> u32 {
    if v6 { 96 } else { 68 }
}

/// Walks to a destination; packets of up to `first` bytes may leave. `note` is told of progress.
pub fn walk(ask: &mut dyn Ask, first: u32, v6: bool, limits: Limits, note: &mut dyn FnMut(&str)) -> Outcome {
    let mut walker = Walker {
        ask,
        note,
        limits,
        least: least_mtu(v6),
        small: small(v6).min(first),
        method: Method::Udp,
        patience: FIRST_PATIENCE,
        liars: Vec::new(),
        out: Outcome { first, ..Outcome::default() },
    };
    if let Err(halt) = walker.walk() {
        walker.out.halt = Some(halt);
    }
    walker.out
}

struct Walker<'a> {
    ask: &'a mut dyn Ask,
    note: &'a mut dyn FnMut(&str),
    limits: Limits,
    least: u32,
    small: u32,
    method: Method,
    patience: Duration,
    /// Whose claims were found untrue.
    liars: Vec<Option<IpAddr>>,
    out: Outcome,
}

/// What became of a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It arrives.
    Arrives,
    /// It is said to be too large, credibly.
    Told(u32),
    /// It vanishes while small ones are answered.
    Dies,
    /// Small ones are not answered either, or not for now.
    Unclear,
}

impl Walker<'_> {
    fn walk(&mut self) -> Result<(), Halt> {
        self.reach()?;
        if self.out.reached { self.walk_to_destination() } else { self.walk_as_far_as_possible() }
    }

    /// Sends one packet. What it teaches of a hop is kept; a claim that cannot be true is kept as such and is silence.
    fn send(&mut self, size: u32, ttl: u8) -> Result<Answer, Halt> {
        if self.out.packets >= self.limits.packets {
            return Err(Halt::Packets);
        }
        let left = self.limits.time.checked_sub(self.ask.elapsed()).filter(|left| !left.is_zero());
        let least = LEAST_PATIENCE[usize::from(ttl != FAR)];
        let patience = self.patience.max(least).min(left.ok_or(Halt::Time)?);
        self.out.packets += 1;
        let mut answer = self.ask.ask(Step { method: self.method, size, ttl, patience })?;
        match answer.reply {
            Reply::TooBig(mtu) if !self.is_credible(mtu, size, answer.from) => {
                let told = Told { from: answer.from, hop: None, mtu, size };
                self.disbelieve(told);
                answer.reply = Reply::Silent;
            }
            Reply::Expired => self.came_to(ttl, size, &answer),
            Reply::Arrived => {
                self.out.rtt = Some(self.out.rtt.map_or(answer.rtt, |rtt| rtt.min(answer.rtt)));
            }
            Reply::Refused(why) => self.out.refused = Some((answer.from, why)),
            Reply::TooBig(mtu) => self.believe(Told { from: answer.from, hop: None, mtu, size }, ttl),
            Reply::Silent => {}
        }
        Ok(answer)
    }

    /// A link's MTU is at least what the standards demand, and less than what did not fit.
    fn is_credible(&self, mtu: u32, size: u32, from: Option<IpAddr>) -> bool {
        (self.least..size).contains(&mtu) && !self.liars.contains(&from)
    }

    /// Keeps what a hop says. Asked by one TTL after the other, the first that hears it is one more than the hop's number.
    fn believe(&mut self, told: Told, ttl: u8) {
        let hop = (ttl != FAR).then(|| ttl.saturating_sub(1));
        let is_known = |known: &Told| (known.from, known.mtu) == (told.from, told.mtu);
        let known = self.out.told.iter().position(is_known);
        if let Some(known) = known.and_then(|at| self.out.told.get_mut(at)) {
            known.hop = known.hop.or(hop);
        } else if self.out.told.len() <= MAX_CLAIMS
            && self.out.told.last().is_none_or(|last| told.mtu < last.mtu)
        {
            let who = told.from.map_or("this host".to_owned(), |from| from.to_string());
            (self.note)(&format!("{who} says {}", told.mtu));
            self.out.told.push(Told { hop, ..told });
        }
        let says = hop.and_then(|hop| self.hop(hop));
        if let Some(says) = says {
            says.address = told.from.or(says.address);
            says.says = says.says.or(Some(told.mtu));
        }
    }

    fn disbelieve(&mut self, told: Told) {
        let known = |lie: &Told| (lie.from, lie.mtu) == (told.from, told.mtu);
        if self.out.absurd.len() < MAX_CLAIMS && !self.out.absurd.iter().any(known) {
            self.out.absurd.push(told);
        }
    }

    fn hop(&mut self, ttl: u8) -> Option<&mut Hop> {
        let at = usize::from(ttl.checked_sub(1)?);
        if self.out.hops.len() <= at {
            self.out.hops.resize(at + 1, Hop::default());
        }
        self.out.hops.get_mut(at)
    }

    fn came_to(&mut self, ttl: u8, size: u32, answer: &Answer) {
        if let Some(hop) = self.hop(ttl) {
            hop.address = hop.address.or(answer.from);
            hop.passes = hop.passes.max(Some(size));
            hop.rtt = Some(hop.rtt.map_or(answer.rtt, |rtt| rtt.min(answer.rtt)));
        }
    }

    /// Whether the destination answers anything at all, and by which method.
    fn reach(&mut self) -> Result<(), Halt> {
        let methods = self.ask.methods();
        self.out.method = methods.first().copied();
        for again in [false, true] {
            for (at, method) in methods.iter().enumerate() {
                if self.is_answered(*method)? {
                    // On a path that was idle the first packet may have waited for neighbours: the better methods get
                    // another chance.
                    for better in methods.iter().take(if again { 0 } else { at }) {
                        if self.is_answered(*better)? {
                            break;
                        }
                        self.method = *method;
                    }
                    self.settle_on();
                    return Ok(());
                }
            }
        }
        self.method = methods.first().copied().ok_or(Halt::Broken("no way to ask is allowed".into()))?;
        (self.note)("it does not answer; looking how far packets come");
        Ok(())
    }

    /// Asks with a small packet; an answer makes the wait for others as long as this path needs.
    fn is_answered(&mut self, method: Method) -> Result<bool, Halt> {
        self.method = method;
        let answer = self.send(self.small, FAR)?;
        if answer.reply != Reply::Arrived {
            return Ok(false);
        }
        self.wait_as_for(answer.rtt);
        Ok(true)
    }

    /// The method of the moment is the walk's.
    fn settle_on(&mut self) {
        self.out.method = Some(self.method);
        self.out.reached = true;
        self.out.passes = Some(self.small);
        (self.note)(&format!(
            "it answers {} after {:.2} ms; {} bytes may leave",
            self.method.name(),
            self.out.rtt.unwrap_or_default().as_secs_f64() * 1e3,
            self.out.first
        ));
    }

    fn wait_as_for(&mut self, rtt: Duration) {
        self.patience = rtt.saturating_mul(4).min(MOST_PATIENCE);
    }

    /// What becomes of `size` on its way to hop `ttl`, or to the destination. Whatever is silent is asked again, with
    /// small packets in between, so that neither loss nor a router's limit on its answers is taken for a black hole.
    fn fate(&mut self, size: u32, ttl: u8) -> Result<Fate, Halt> {
        // These answers are what routers and hosts limit: a second round, for the first may have hit a pause.
        let rounds = if ttl != FAR || self.method == Method::Udp { 2 } else { 1 };
        self.fate_in(rounds, size, ttl)
    }

    /// As [`Walker::fate`], sure after so many rounds.
    fn fate_in(&mut self, rounds: u32, size: u32, ttl: u8) -> Result<Fate, Halt> {
        let (mut silent, mut rests, mut unanswered) = (0, 0, 0);
        loop {
            // Twice the same, then the small one: in turns, each small one could get the answer of the second that the
            // large one before it did not.
            for _ in 0..2 {
                match self.send(size, ttl)?.reply {
                    Reply::Arrived | Reply::Expired => {
                        self.out.lost += unanswered;
                        return Ok(Fate::Arrives);
                    }
                    Reply::TooBig(mtu) => return Ok(Fate::Told(mtu)),
                    Reply::Refused(_) => return Ok(Fate::Dies),
                    Reply::Silent => unanswered += 1,
                }
            }
            match self.send(self.small, ttl)?.reply {
                Reply::Silent => {
                    rests += 1;
                    self.out.limited += 1;
                    if rests > MAX_RESTS {
                        return Ok(Fate::Unclear);
                    }
                    silent = 0;
                    let left = self.limits.time.saturating_sub(self.ask.elapsed());
                    self.ask.pause(REFILL.min(left))?;
                }
                _ => silent += 1,
            }
            if silent == rounds {
                return Ok(Fate::Dies);
            }
        }
    }
}

#[cfg(test)]
mod tests;
