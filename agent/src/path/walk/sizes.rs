//! The largest size that arrives: followed down where hops say it, halved where they say nothing.

use super::{FAR, Fate, MAX_CLAIMS, Walker};
use crate::path::{Halt, Method, Reply};

/// What every link must take (RFC 8200): the first guess when larger packets vanish.
const USUAL: u32 = 1280;
/// Times a size that had died is found alive before it is left at that.
const MAX_AGAIN: u32 = 3;

impl Walker<'_> {
    /// The destination answers: find what it can be sent, then who stands in the way of more.
    pub(super) fn walk_to_destination(&mut self) -> Result<(), Halt> {
        let mut size = self.out.first;
        loop {
            match self.fate(size, FAR)? {
                Fate::Arrives => break self.out.passes = Some(size),
                Fate::Told(mtu) if self.out.told.len() < MAX_CLAIMS => size = mtu,
                Fate::Told(_) | Fate::Dies | Fate::Unclear => {
                    (self.note)(&format!("{size} bytes vanish; looking for the size that arrives"));
                    self.search(self.small, size, FAR)?;
                    break;
                }
            }
        }
        self.check_claim()?;
        self.check_syns()?;
        if !self.out.told.is_empty() {
            self.name_tellers()?;
        }
        match self.out.dies {
            Some(dies) => self.find_edge(dies),
            None => Ok(()),
        }
    }

    /// One byte more than a hop claims to take must not arrive: else the claim is untrue, or a forgery.
    fn check_claim(&mut self) -> Result<(), Halt> {
        let Some(told) = self.out.told.last().copied().filter(|told| self.out.passes == Some(told.mtu))
        else {
            return Ok(());
        };
        if told.size <= told.mtu + 1 || self.send(told.mtu + 1, FAR)?.reply != Reply::Arrived {
            return Ok(());
        }
        self.out.told.retain(|other| other.from != told.from);
        self.liars.push(told.from);
        self.disbelieve(told);
        self.out.passes = Some(told.mtu + 1);
        match self.fate(told.size, FAR)? {
            Fate::Arrives => self.out.passes = Some(told.size),
            _ => self.search(told.mtu + 1, told.size, FAR)?,
        }
        Ok(())
    }

    /// SYNs with data are unusual, and a firewall may drop them for that: what another method brings there is no matter of
    /// size.
    fn check_syns(&mut self) -> Result<(), Halt> {
        if self.method != Method::Syn
            || self.out.dies.is_none()
            || !self.ask.methods().contains(&Method::Echo)
        {
            return Ok(());
        }
        self.method = Method::Echo;
        let answer = self.send(self.out.first, FAR);
        self.method = Method::Syn;
        self.out.only_syns = answer?.reply == Reply::Arrived;
        Ok(())
    }

    /// Halves the range from `passes`, which arrives at hop `ttl`, to `dies`, which does not. What is known so far is
    /// in the outcome at any time.
    pub(super) fn search(&mut self, passes: u32, dies: u32, ttl: u8) -> Result<(), Halt> {
        let (mut low, mut high, mut above) = (passes, dies, dies);
        let mut guess = Some(USUAL);
        for _ in 0..MAX_AGAIN {
            while high - low > 1 {
                self.narrowed(low, high);
                let size = guess.take().filter(|size| (low + 1..high).contains(size));
                let size = size.unwrap_or(low + (high - low) / 2);
                match self.fate(size, ttl)? {
                    Fate::Arrives => low = size,
                    // The hop takes what is known to arrive, and owns up to taking no more.
                    Fate::Told(mtu) if mtu == low => high = low + 1,
                    Fate::Told(mtu) => (high, guess) = (size, Some(mtu)),
                    Fate::Dies | Fate::Unclear => (above, high) = (high, size),
                }
            }
            self.narrowed(low, high);
            // Once more: a size that was only lost has made the range too low.
            match self.fate(high, ttl)? {
                Fate::Arrives if high < above => {
                    self.out.lost += 2;
                    (low, high) = (high, above);
                    above = dies;
                }
                Fate::Arrives => {
                    self.out.passes = Some(high);
                    self.out.dies = None;
                    return Ok(());
                }
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    fn narrowed(&mut self, low: u32, high: u32) {
        self.out.passes = Some(low);
        // What a hop owns up to has not vanished without a word.
        let told = self.out.told.iter().any(|told| (told.mtu..=told.size).contains(&high) && told.mtu <= low);
        self.out.dies = (!told).then_some(high);
    }
}
