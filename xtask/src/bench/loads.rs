//! What a packet costs: packets of one fate, as data, and the time that each takes.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::peer::Connection;
use super::tun::{ICMP, Tun, UDP, frag_needed, ipv4, udp};
use crate::run::Run as _;

/// Packets of one fate.
pub(super) struct Load {
    /// As in the figures' names.
    pub(super) name: &'static str,
    /// Sends packets, whose fate is known when this returns, and gives how long they took.
    batch: fn(&Ends) -> Result<Duration>,
}

/// Packets over this guest's loopback, as whoever watches drops sees them. What is dropped for another reason is one more row.
pub(super) const LOADS: [Load; 3] =
    [RULE, Load { name: "closed_port", batch: |ends| ends.each(|ends| ends.send(CLOSED)) }, DELIVERED];

/// What the probe mtu sees, besides.
pub(super) const MTU_LOADS: [Load; 8] = [
    RULE,
    DELIVERED,
    Load { name: "other_rule", batch: |ends| ends.each(|ends| ends.tun.send(&ends.packets.ruled)) },
    Load { name: "forwarded", batch: |ends| ends.each(|ends| ends.tun.send(&ends.packets.forwarded)) },
    Load { name: "made", batch: |ends| ends.each(|ends| ends.tun.send(&ends.packets.too_much)) },
    Load { name: "received", batch: |ends| ends.each(|ends| ends.tun.send(&ends.packets.told)) },
    Load { name: "lost", batch: |ends| ends.each(|ends| ends.tun.send(&ends.packets.ruled_message)) },
    Load { name: "sent_again", batch: Ends::send_again },
];

const RULE: Load = Load { name: "rule", batch: |ends| ends.each(|ends| ends.send(RULED)) };
const DELIVERED: Load =
    Load { name: "delivered", batch: |ends| ends.each(|ends| ends.send(OPEN).and_then(|()| ends.receive())) };

/// Ports: refused by a rule, closed, open.
const RULED: u16 = 7009;
const CLOSED: u16 = 7010;
pub(super) const OPEN: u16 = 7011;

/// Always the same, too: with a port that the kernel picks a packet costs some 15 instructions more or less.
pub(super) const FROM: u16 = 7012;

/// This host, and others: one whose packets come in by a device of our own, and one whose packets a rule drops.
pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 1);
pub(super) const PEER: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 2);
const RULED_OUT: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 3);
/// Behind devices that swallow what they are to send, without a drop: one takes little.
const SMALL: Ipv4Addr = Ipv4Addr::new(198, 18, 2, 2);
const WIDE: Ipv4Addr = Ipv4Addr::new(198, 18, 3, 2);
/// What the device takes that takes little.
const LITTLE: u16 = 1000;

/// What every load sends from, and where what arrives does.
pub(super) struct Ends {
    from: UdpSocket,
    open: UdpSocket,
    /// Whose packets messages are about.
    _told: UdpSocket,
    pub(super) tun: Tun,
    packets: Packets,
}

/// Packets that come in from outside.
struct Packets {
    ruled: Vec<u8>,
    forwarded: Vec<u8>,
    too_much: Vec<u8>,
    told: Vec<u8>,
    ruled_message: Vec<u8>,
}

impl Packets {
    fn new() -> Self {
        let sent = ipv4(UDP, HOST, WIDE, &udp(FROM, CLOSED, &[0; 1400]));
        // As routers quote: the header and eight bytes.
        let told = frag_needed(1200, &sent[..28]);
        Self {
            ruled: ipv4(UDP, PEER, HOST, &udp(FROM, RULED, b"a packet")),
            forwarded: ipv4(UDP, PEER, WIDE, &udp(FROM, OPEN, b"a packet")),
            too_much: ipv4(UDP, WIDE, SMALL, &udp(FROM, OPEN, &[0; 1200])),
            told: ipv4(ICMP, PEER, HOST, &told),
            ruled_message: ipv4(ICMP, RULED_OUT, HOST, &told),
        }
    }
}

impl Ends {
    pub(super) fn new() -> Result<Self> {
        let bind = |address, port| UdpSocket::bind((address, port));
        let tun = Tun::new(TUN)?;
        ip(&["link", "set", TUN, "up"])?;
        ip(&["addr", "replace", &format!("{HOST}/24"), "dev", TUN])?;
        Ok(Self {
            from: bind(Ipv4Addr::LOCALHOST, FROM)?,
            open: bind(Ipv4Addr::LOCALHOST, OPEN)?,
            _told: bind(HOST, FROM)?,
            tun,
            packets: Packets::new(),
        })
    }

    fn send(&self, port: u16) -> io::Result<()> {
        self.from.send_to(b"a packet", SocketAddr::from((Ipv4Addr::LOCALHOST, port))).map(drop)
    }

    fn receive(&self) -> io::Result<()> {
        self.open.recv(&mut [0; 16]).map(drop)
    }

    /// A batch of packets, one by one.
    #[inline]
    fn each(&self, packet: impl Fn(&Self) -> io::Result<()>) -> Result<Duration> {
        let start = Instant::now();
        for _ in 0..BATCH {
            packet(self)?;
        }
        Ok(start.elapsed())
    }

    /// A batch of segments that are sent again, each because three behind it are reported as received.
    fn send_again(&self) -> Result<Duration> {
        let mut took = Duration::ZERO;
        for _ in 0..BATCH {
            let from = SocketAddrV4::new(HOST, FROM);
            let connection = Connection::open(&self.tun, from, SocketAddrV4::new(PEER, OPEN))?;
            connection.send(100)?;
            let begin = connection.send(100)?;
            connection.send(100)?;
            let end = connection.send(100)?.wrapping_add(100);
            // Made before the clock starts: what an allocation costs this program depends on what it did before.
            let report = connection.report(begin, end);
            let start = Instant::now();
            self.tun.send(&report)?;
            took += start.elapsed();
            connection.wait(Duration::ZERO).context("a segment that was reported as missing")?;
        }
        Ok(took)
    }
}

/// The device by which other machines' packets come in.
const TUN: &str = "bench0";

/// Lays what the loads run into: rules, and devices behind which nobody is.
pub(super) fn lay_out() -> Result<()> {
    for module in ["tun", "dummy"] {
        Command::new("modprobe").arg(module).run()?;
    }
    for (device, mtu, to) in [("bench1", LITTLE, SMALL), ("bench2", 1500, WIDE)] {
        ip(&["link", "add", device, "mtu", &mtu.to_string(), "type", "dummy"])?;
        ip(&["link", "set", device, "up"])?;
        ip(&["route", "add", &to.to_string(), "dev", device])?;
    }
    // What comes in from WIDE does so by another device than the one to it.
    for (name, value) in [("ip_forward", "1"), ("conf/all/rp_filter", "0"), ("conf/default/rp_filter", "0")] {
        fs::write(format!("/proc/sys/net/ipv4/{name}"), value).with_context(|| name.to_owned())?;
    }
    let chain = "add chain ip bench input { type filter hook input priority 0; }";
    let rules = format!(
        "add rule ip bench input udp dport {RULED} drop; add rule ip bench input ip saddr {RULED_OUT} drop"
    );
    Command::new("nft").arg(format!("add table ip bench; {chain}; {rules}")).run()
}

fn ip(args: &[&str]) -> Result<()> {
    Command::new("ip").args(args).run()
}

/// Packets a batch, and batches: the middle one has no timer's tick in it.
const BATCH: u32 = 50;
const BATCHES: usize = 201;

/// Instructions a packet, of a load that costs the same each time.
pub(super) fn one(ends: &Ends, load: &Load) -> Result<f64> {
    let mut batches = Vec::with_capacity(BATCHES);
    for _ in 0..BATCHES {
        batches.push((load.batch)(ends)?);
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
pub(super) fn all(ends: &Ends, load: &Load, long: Duration) -> Result<Made> {
    let start = Instant::now();
    let mut packets = 0;
    loop {
        (load.batch)(ends)?;
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
