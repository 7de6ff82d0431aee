//! What a packet costs: packets of one fate, as data, and the time that each takes.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

use crate::run::Run as _;

/// Packets of one fate, all over this guest's loopback.
pub(super) struct Load {
    /// As in the figures' names.
    pub(super) name: &'static str,
    /// Sends one packet, whose fate is known when this returns: loopback is synchronous.
    packet: fn(&Ends) -> io::Result<()>,
}

/// A row a load. What is dropped for another reason, or seen by another hook, is one more row.
pub(super) const LOADS: [Load; 4] = [
    Load { name: "rule", packet: |ends| ends.send(RULED) },
    Load { name: "closed_port", packet: |ends| ends.send(CLOSED) },
    Load { name: "delivered", packet: |ends| ends.send(OPEN).and_then(|()| ends.receive()) },
    Load { name: "frag_needed", packet: |ends| ends.send_too_much() },
];

/// Where a route of a small MTU leads to, by the loopback device.
const SMALL: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// Ports: refused by a rule, closed, open.
const RULED: u16 = 7009;
const CLOSED: u16 = 7010;
const OPEN: u16 = 7011;

/// Always the same, too: with a port that the kernel picks a packet costs some 15 instructions more or less.
const FROM: u16 = 7012;

/// What every load sends from, and where what arrives does.
struct Ends {
    from: UdpSocket,
    open: UdpSocket,
    raw: OwnedFd,
    too_much: Vec<u8>,
}

impl Ends {
    fn new() -> io::Result<Self> {
        let bind = |port| UdpSocket::bind((Ipv4Addr::LOCALHOST, port));
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
        Ok(Self { from: bind(FROM)?, open: bind(OPEN)?, raw, too_much: too_much() })
    }

    /// A packet that is too large for its route and must not be cut: the message about it is made here and, as the
    /// packet's source is this host, received here.
    fn send_too_much(&self) -> io::Result<()> {
        let to = SockaddrIn::from(SocketAddrV4::new(SMALL, 0));
        match sendto(self.raw.as_raw_fd(), &self.too_much, &to, MsgFlags::empty()) {
            // It is told so in the same call.
            Err(Errno::EMSGSIZE) => Ok(()),
            Ok(_) => Err(io::Error::other("the packet was not too large")),
            Err(error) => Err(error.into()),
        }
    }

    fn send(&self, port: u16) -> io::Result<()> {
        self.from.send_to(b"a packet", SocketAddr::from((Ipv4Addr::LOCALHOST, port))).map(drop)
    }

    fn receive(&self) -> io::Result<()> {
        self.open.recv(&mut [0; 16]).map(drop)
    }
}

/// An IPv4 packet of UDP with DF, longer than the route to [`SMALL`] takes. The kernel fills in length and checksum.
fn too_much() -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 17, 0, 0, 127, 0, 0, 1];
    packet.extend(SMALL.octets());
    packet.resize(1200, 0);
    packet
}

/// Lays what the loads run into: a rule, and a route that takes little and is not taught otherwise.
pub(super) fn lay_rule() -> Result<()> {
    Command::new("ip")
        .args(["route", "add", &SMALL.to_string(), "dev", "lo", "mtu", "lock", "1000"])
        .run()?;
    let chain = "add chain ip bench input { type filter hook input priority 0; }";
    let rule = format!("add rule ip bench input udp dport {RULED} drop");
    Command::new("nft").arg(format!("add table ip bench; {chain}; {rule}")).run()
}

/// Packets a batch, and batches: the middle one has no timer's tick in it.
const BATCH: u32 = 50;
const BATCHES: usize = 201;

/// Instructions a packet, of a load that costs the same each time.
pub(super) fn one(load: &Load) -> Result<f64> {
    let ends = Ends::new()?;
    let mut batches = Vec::with_capacity(BATCHES);
    for _ in 0..BATCHES {
        let start = Instant::now();
        for _ in 0..BATCH {
            (load.packet)(&ends)?;
        }
        batches.push(start.elapsed());
    }
    batches.sort_unstable();
    Ok(nanoseconds(batches[BATCHES / 2]) / f64::from(BATCH))
}

/// What a load made in a while, and how long that took to the nanosecond.
pub(super) struct Made {
    pub(super) packets: u64,
    pub(super) took: Duration,
}

impl Made {
    /// Instructions a packet, all that ran meanwhile included.
    pub(super) fn each(&self) -> f64 {
        nanoseconds(self.took) / self.packets as f64
    }
}

/// Sends packet after packet for this long.
pub(super) fn all(load: &Load, long: Duration) -> Result<Made> {
    let ends = Ends::new()?;
    let start = Instant::now();
    let mut packets = 0;
    loop {
        for _ in 0..BATCH {
            (load.packet)(&ends)?;
        }
        packets += u64::from(BATCH);
        let took = start.elapsed();
        if took >= long {
            return Ok(Made { packets, took });
        }
    }
}

fn nanoseconds(time: Duration) -> f64 {
    time.as_nanos() as f64
}
