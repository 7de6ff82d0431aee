//! A path that is only arithmetic: routers in a row, each with what it takes, says and loses, and a clock of its own.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::{Answer, Ask, Halt, Method, Refusal, Reply, Step};

/// A router.
#[derive(Clone, Debug)]
pub(crate) struct Router {
    /// What the link behind it takes.
    pub(crate) mtu: u32,
    /// Whether it says so when it is asked for more.
    pub(crate) tells: bool,
    /// What it says instead.
    pub(crate) claims: Option<u32>,
    /// Whether it answers a TTL that ends at it.
    pub(crate) answers: bool,
    /// The largest packet for which it does.
    pub(crate) answers_up_to: u32,
    /// Whether its answers to a TTL are limited: six at once, one a second.
    pub(crate) limited: bool,
    /// It drops SYNs longer than this.
    pub(crate) syns_up_to: u32,
    /// It refuses everything.
    pub(crate) refuses: Option<Refusal>,
    pub(crate) tokens: f64,
    pub(crate) filled: Duration,
}

impl Default for Router {
    fn default() -> Self {
        Self {
            mtu: 1500,
            tells: true,
            claims: None,
            answers: true,
            answers_up_to: u32::MAX,
            limited: false,
            syns_up_to: u32::MAX,
            refuses: None,
            tokens: 6.0,
            filled: Duration::ZERO,
        }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    pub(crate) routers: Vec<Router>,
    /// What the destination answers.
    pub(crate) answered: Vec<Method>,
    /// What may be asked.
    pub(crate) allowed: Vec<Method>,
    /// One packet or answer in so many is lost; 0 is none.
    loss: u64,
    /// There and back.
    pub(crate) rtt: Duration,
    /// Ctrl-C at this packet.
    pub(crate) stop_at: Option<u32>,
    /// Sent so far.
    pub(crate) sent: Vec<Step>,
    clock: Duration,
    random: fastrand::Rng,
}

impl Path {
    /// Five routers that take 1500 bytes and say everything, and a destination that answers echo and UDP.
    pub(crate) fn new() -> Self {
        Self {
            routers: vec![Router::default(); 5],
            answered: vec![Method::Echo, Method::Udp],
            allowed: vec![Method::Echo, Method::Udp],
            loss: 0,
            rtt: Duration::from_millis(4),
            stop_at: None,
            sent: Vec::new(),
            clock: Duration::ZERO,
            random: fastrand::Rng::with_seed(7),
        }
    }

    /// A router's address: hop 1 is `10.64.1.1`.
    pub(crate) fn address(hop: usize) -> IpAddr {
        Ipv4Addr::new(10, 64, u8::try_from(hop).unwrap(), 1).into()
    }

    /// The destination's.
    pub(crate) fn destination() -> IpAddr {
        Ipv4Addr::new(10, 64, 99, 9).into()
    }

    /// Loses one packet or answer in so many, others with each seed.
    pub(crate) fn lose(&mut self, one_in: u64, seed: u64) {
        self.loss = one_in;
        self.random = fastrand::Rng::with_seed(seed);
    }

    /// Time that has passed.
    pub(crate) fn clock(&self) -> Duration {
        self.clock
    }

    fn is_lost(&mut self) -> bool {
        self.loss > 0 && self.random.u64(0..self.loss) == 0
    }

    fn reply(&mut self, step: Step) -> (Reply, Option<IpAddr>) {
        let clock = self.clock;
        for (at, router) in self.routers.iter_mut().enumerate() {
            let from = Some(Self::address(at + 1));
            if let Some(why) = router.refuses {
                return (Reply::Refused(why), from);
            }
            if usize::from(step.ttl) == at + 1 {
                let answers = router.answers && step.size <= router.answers_up_to && router.may_answer(clock);
                return if answers { (Reply::Expired, from) } else { (Reply::Silent, None) };
            }
            if step.method == Method::Syn && step.size > router.syns_up_to {
                return (Reply::Silent, None);
            }
            if step.size > router.mtu {
                let says = router.claims.unwrap_or(router.mtu);
                return if router.tells { (Reply::TooBig(says), from) } else { (Reply::Silent, None) };
            }
        }
        if self.answered.contains(&step.method) {
            (Reply::Arrived, Some(Self::destination()))
        } else {
            (Reply::Silent, None)
        }
    }
}

impl Router {
    fn may_answer(&mut self, now: Duration) -> bool {
        if !self.limited {
            return true;
        }
        self.tokens = (self.tokens + now.saturating_sub(self.filled).as_secs_f64()).min(6.0);
        self.filled = now;
        let may = self.tokens >= 1.0;
        self.tokens -= if may { 1.0 } else { 0.0 };
        may
    }
}

impl Ask for Path {
    fn methods(&self) -> Vec<Method> {
        self.allowed.clone()
    }

    fn ask(&mut self, step: Step) -> Result<Answer, Halt> {
        if self.stop_at.is_some_and(|at| self.sent.len() >= at as usize) {
            return Err(Halt::Asked);
        }
        self.sent.push(step);
        let (reply, from) = if self.is_lost() { (Reply::Silent, None) } else { self.reply(step) };
        let silent = reply == Reply::Silent || self.is_lost() || self.rtt > step.patience;
        let took = if silent { step.patience } else { self.rtt };
        self.clock += took;
        let (reply, from) = if silent { (Reply::Silent, None) } else { (reply, from) };
        Ok(Answer { reply, from, rtt: took })
    }

    fn pause(&mut self, time: Duration) -> Result<(), Halt> {
        self.clock += time;
        Ok(())
    }

    fn elapsed(&self) -> Duration {
        self.clock
    }
}
