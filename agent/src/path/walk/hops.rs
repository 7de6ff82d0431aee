//! Which hop it is: one TTL after the other, until the one that takes less, or the last that large packets come to.

use super::{FAR, Fate, Walker};
use crate::path::{Edge, Halt, Reply};

/// Hops looked at, one by one.
const MAX_HOPS: u8 = 30;
/// Hops in a row that answer nothing after which no more are tried.
const MAX_QUIET: u8 = 4;

/// What a hop answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    /// Packets of the size come to it.
    Large,
    /// It is the destination, and they come to it.
    End,
    /// Only small ones do.
    Small,
    /// Only small ones do, and it is the destination.
    SmallEnd,
    /// It answers nothing.
    Quiet,
}

impl Walker<'_> {
    /// Gives each hop that said what it takes its number. Ends there: the hops behind it cannot be measured.
    pub(super) fn name_tellers(&mut self) -> Result<(), Halt> {
        let mut size = self.out.first;
        let mut quiet = 0;
        for ttl in 1..=MAX_HOPS {
            // Kept, so that a hop without an answer has its row.
            let _ = self.hop(ttl);
            let mut silent = false;
            quiet = loop {
                match self.send(size, ttl)?.reply {
                    Reply::Expired => break 0,
                    Reply::TooBig(mtu) => size = mtu,
                    Reply::Silent if silent => break quiet + 1,
                    Reply::Silent => silent = true,
                    Reply::Arrived | Reply::Refused(_) => return Ok(()),
                }
                if self.out.told.iter().all(|told| told.hop.is_some()) {
                    // Those behind it were seen only if the destination was not.
                    self.out.hops.truncate(self.last_teller().max(self.out.farthest.into()));
                    return Ok(());
                }
            };
            if quiet == MAX_QUIET {
                break;
            }
        }
        Ok(())
    }

    /// The farthest hop that said what it takes.
    fn last_teller(&self) -> usize {
        self.out.told.iter().filter_map(|told| told.hop).max().unwrap_or(0).into()
    }

    /// Between which hops packets of `dies` bytes vanish. A hop that answers no large packet may only be mute for them:
    /// the next one that answers at all is asked as well.
    pub(super) fn find_edge(&mut self, dies: u32) -> Result<(), Halt> {
        (self.note)(&format!("looking for the hop after which {dies} bytes vanish"));
        let mut edge = Edge::default();
        self.out.edge = Some(edge);
        let mut quiet = 0;
        for ttl in 1..=MAX_HOPS {
            let sight = self.sight(dies, ttl, edge.before.is_some())?;
            match sight {
                Sight::Large => {
                    edge = Edge { after: ttl, ..Edge::default() };
                    // Those before it were only mute for large packets.
                    self.out.hops.iter_mut().for_each(|hop| hop.dies = None);
                }
                // It arrived after all: there is no such place.
                Sight::End => {
                    self.out.edge = None;
                    return Ok(());
                }
                Sight::Small | Sight::SmallEnd => {
                    edge.confirmed = edge.before.is_some() || sight == Sight::SmallEnd;
                    edge.before = edge.before.or(Some(ttl));
                    if sight == Sight::Small
                        && let Some(hop) = self.hop(ttl)
                    {
                        hop.dies = Some(dies);
                    }
                }
                Sight::Quiet => {}
            }
            quiet = if sight == Sight::Quiet { quiet + 1 } else { 0 };
            self.out.edge = Some(edge);
            let end = !self.out.reached && ttl >= self.out.farthest;
            if edge.confirmed || quiet == MAX_QUIET || end {
                break;
            }
        }
        Ok(())
    }

    /// What a hop answers. One that is to confirm what another has shown is asked less often.
    fn sight(&mut self, size: u32, ttl: u8, confirms: bool) -> Result<Sight, Halt> {
        match self.send(size, ttl)?.reply {
            Reply::Expired => return Ok(Sight::Large),
            Reply::Arrived => return Ok(Sight::End),
            Reply::TooBig(_) | Reply::Refused(_) | Reply::Silent => {}
        }
        let mut end = None;
        for _ in 0..2 {
            match self.send(self.small, ttl)?.reply {
                Reply::Silent => {}
                reply => {
                    end = Some(reply == Reply::Arrived);
                    break;
                }
            }
        }
        let Some(end) = end else {
            // Kept, so that a hop without an answer has its row.
            let _ = self.hop(ttl);
            return Ok(Sight::Quiet);
        };
        // The destination has been asked that before.
        if end && self.out.reached {
            return Ok(Sight::SmallEnd);
        }
        Ok(match self.fate_in(if confirms { 1 } else { 2 }, size, ttl)? {
            Fate::Arrives if end => Sight::End,
            Fate::Arrives => Sight::Large,
            Fate::Told(_) | Fate::Dies | Fate::Unclear if end => Sight::SmallEnd,
            Fate::Told(_) | Fate::Dies | Fate::Unclear => Sight::Small,
        })
    }

    /// The destination answers nothing: see how far small packets come, then whether large ones come as far.
    pub(super) fn walk_as_far_as_possible(&mut self) -> Result<(), Halt> {
        let mut quiet = 0;
        for ttl in 1..=MAX_HOPS {
            let mut answer = self.send(self.small, ttl)?;
            if answer.reply == Reply::Silent {
                answer = self.send(self.small, ttl)?;
            }
            match answer.reply {
                Reply::Expired => {
                    self.out.farthest = ttl;
                    self.wait_as_for(answer.rtt);
                    quiet = 0;
                }
                Reply::Silent | Reply::TooBig(_) => quiet += 1,
                // Beyond the one who says so there is nothing to be seen.
                Reply::Arrived | Reply::Refused(_) => break,
            }
            if quiet == MAX_QUIET {
                break;
            }
        }
        // Those that answer nothing behind it are not known to be there.
        self.out.hops.truncate(self.out.farthest.into());
        let last = self.out.farthest;
        if last == 0 {
            return Ok(());
        }
        self.out.passes = Some(self.small);
        // Beyond the last hop that answers somebody may still say what it takes.
        let mut size = self.out.first;
        for _ in 0..2 {
            if let Reply::TooBig(mtu) = self.send(size, FAR)?.reply {
                size = mtu;
            }
        }
        if !self.out.told.is_empty() {
            self.name_tellers()?;
        }
        match self.fate(size, last)? {
            Fate::Arrives => self.out.passes = Some(size),
            Fate::Told(mtu) => self.out.passes = Some(mtu),
            Fate::Dies => {
                self.out.dies = Some(size);
                self.find_edge(size)?;
                // The nearest of those that answer small packets only: its answers cost least.
                let at = self.out.edge.and_then(|edge| edge.before).unwrap_or(last);
                self.search(self.small, size, at)?;
            }
            Fate::Unclear => {}
        }
        Ok(())
    }
}
