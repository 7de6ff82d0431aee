//! A walk along the path to a destination: which size arrives, which hop takes less, after which hop packets vanish.
//!
//! [`walk::walk`] decides what to send next and learns from what comes back; it knows no socket. [`sockets`] sends and
//! listens; it knows no path. [`judge`] says what a walk adds up to, [`fix`] what to set, and [`row`] puts that into lines.

use std::net::IpAddr;
use std::time::Duration;

mod connect;
pub mod device;
mod fix;
mod hear;
pub mod judge;
mod packet;
pub mod row;
#[cfg(test)]
mod simulated;
pub mod sockets;
pub mod walk;
pub mod who;

#[cfg(test)]
mod tests;

/// How a packet asks for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// A TCP SYN with padding; SYN-ACK or RST says that it arrived.
    Syn,
    /// An ICMP echo request.
    Echo,
    /// A UDP datagram to a port nobody listens on; port-unreachable says that it arrived.
    Udp,
}

impl Method {
    /// As lines spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Syn => "tcp",
            Self::Echo => "icmp",
            Self::Udp => "udp",
        }
    }
}

/// One packet to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// How it asks.
    pub method: Method,
    /// Length of the whole IP packet in bytes.
    pub size: u32,
    /// TTL or hop limit: routers it may pass, plus one.
    pub ttl: u8,
    /// How long to wait for an answer.
    pub patience: Duration,
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What it says.
    pub reply: Reply,
    /// Who says so; `None` for silence and for this host's own kernel.
    pub from: Option<IpAddr>,
    /// From sending to hearing; of silence, how long was waited.
    pub rtt: Duration,
}

/// What an answer says. Whoever knows the packet, or guesses well, can say any of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The destination itself answered.
    Arrived,
    /// It came to this hop, and its TTL ended there (RFC 792 type 11, RFC 4443 type 3).
    Expired,
    /// It is too large for what is behind this hop, which takes so many bytes (RFC 1191, RFC 8201). Any number.
    TooBig(u32),
    /// A hop will not pass it on, whatever its size.
    Refused(Refusal),
    /// Nothing came.
    Silent,
}

/// Why a hop refuses a packet: codes of ICMP's destination-unreachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No route.
    Network,
    /// The destination does not answer ARP or neighbour discovery.
    Host,
    /// A firewall says so.
    Prohibited,
    /// Another code.
    Other,
}

impl Refusal {
    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Network => "has no route to it",
            Self::Host => "does not reach it",
            Self::Prohibited => "says that a rule prohibits it",
            Self::Other => "refuses to pass it on",
        }
    }
}

/// Why a walk ended before it was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halt {
    /// Ctrl-C.
    Asked,
    /// As many packets were sent as may be.
    Packets,
    /// The time is up.
    Time,
    /// A socket failed; the kernel's words.
    Broken(String),
}

/// Sends one packet and waits for what comes back. One packet is on its way at a time.
pub trait Ask {
    /// The ways to ask that are allowed here, the one that tells most first.
    fn methods(&self) -> Vec<Method>;
    /// Sends it and waits.
    ///
    /// # Errors
    /// [`Halt::Asked`] and [`Halt::Broken`].
    fn ask(&mut self, step: Step) -> Result<Answer, Halt>;
    /// Lets time pass: a router that limits its answers gives new ones after a second.
    ///
    /// # Errors
    /// [`Halt::Asked`].
    fn pause(&mut self, time: Duration) -> Result<(), Halt>;
    /// Time since the walk began.
    fn elapsed(&self) -> Duration;
}

/// One hop, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hop {
    /// Who answered there.
    pub address: Option<IpAddr>,
    /// The largest packet that came to it, bytes.
    pub passes: Option<u32>,
    /// The smallest that did not though smaller ones did.
    pub dies: Option<u32>,
    /// What it says of the link behind it.
    pub says: Option<u32>,
    /// The fastest answer.
    pub rtt: Option<Duration>,
}

/// A hop's word about the link behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Who says so; `None` for this host's own kernel.
    pub from: Option<IpAddr>,
    /// Which hop that is, once it is known; 0 is this host.
    pub hop: Option<u8>,
    /// The MTU it claims.
    pub mtu: u32,
    /// The length of the packet it was about.
    pub size: u32,
}

/// Between which hops packets vanish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edge {
    /// The last hop to which the large ones come; 0 is this host.
    pub after: u8,
    /// The first hop that answers small ones only.
    pub before: Option<u8>,
    /// Whether a hop behind that one, or the destination, agrees.
    pub confirmed: bool,
}

/// What a walk found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// How it asked; `None` if it could not.
    pub method: Option<Method>,
    /// Whether the destination answers small packets.
    pub reached: bool,
    /// Whether sizes were tried against the destination, or else the hop that was the farthest to answer.
    pub farthest: u8,
    /// What may leave, bytes: all that the first device takes, or less if the route says so.
    pub first: u32,
    /// Hops by distance, from 1 on.
    pub hops: Vec<Hop>,
    /// The destination's fastest answer.
    pub rtt: Option<Duration>,
    /// The largest packet that came all the way (or to [`Outcome::farthest`]).
    pub passes: Option<u32>,
    /// The smallest that vanished without a word.
    pub dies: Option<u32>,
    /// What was told and believed, each smaller than the one before.
    pub told: Vec<Told>,
    /// What was told and not believed.
    pub absurd: Vec<Told>,
    /// Where packets vanish.
    pub edge: Option<Edge>,
    /// Packets of [`Outcome::first`] bytes arrive by echo though SYNs of that size do not.
    pub only_syns: bool,
    /// Who refused, and why.
    pub refused: Option<(Option<IpAddr>, Refusal)>,
    /// Packets sent.
    pub packets: u32,
    /// Packets that vanished though others of their size came through.
    pub lost: u32,
    /// Times a hop fell silent as routers do that limit their answers.
    pub limited: u32,
    /// Why it ended early, if it did.
    pub halt: Option<Halt>,
}
