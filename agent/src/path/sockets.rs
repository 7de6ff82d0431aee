//! Sends the packets of a walk and listens, with as few rights as will do.
//!
//! UDP needs none. Echo needs `net.ipv4.ping_group_range` or `CAP_NET_RAW`, SYNs with padding `CAP_NET_RAW`. Sockets
//! stay in the network namespace they were opened in.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::PollFlags;
use nix::sys::socket::{MsgFlags, SockProtocol, SockType, send, setsockopt};
use nix::{setsockopt_impl, sockopt_impl};

use super::packet::{self, Flow};
use super::{Answer, Ask, Halt, Method, Reply, Step, connect, hear};
use crate::path::judge::Tcp;

/// Where UDP goes: where traceroute(8) begins, and nobody listens.
const CLOSED_PORT: u16 = 33_434;
/// Between two packets at least, whatever the answers' pace.
const GAP: Duration = Duration::from_millis(5);
/// How long to wait before it is looked at whether the walk is to end.
const SLICE: Duration = Duration::from_millis(50);

sockopt_impl!(
    /// A classic BPF program that says what is received (socket(7)).
    AttachFilter, SetOnly, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, libc::sock_fprog
);

/// The sockets of a walk.
#[derive(Debug)]
pub struct Sockets {
    to: IpAddr,
    lanes: Vec<Lane>,
    stop: Arc<AtomicBool>,
    begun: Instant,
    sent: Option<Instant>,
    number: u32,
}

/// One method's socket.
#[derive(Debug)]
struct Lane {
    fd: OwnedFd,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Udp,
    /// The kernel has an id of its own for it and compares it.
    Echo,
    RawEcho(u16),
    /// Nobody else gets the port while it is held; nobody connects to it either, as it does not listen.
    Syn {
        flow: Flow,
        _port: OwnedFd,
    },
}

impl Kind {
    const fn method(&self) -> Method {
        match self {
            Self::Udp => Method::Udp,
            Self::Echo | Self::RawEcho(_) => Method::Echo,
            Self::Syn { .. } => Method::Syn,
        }
    }
}

impl Sockets {
    /// Opens what may be opened towards `to` in the calling thread's network namespace; SYNs only if there is a port.
    /// `source` is the address packets leave with. What is not allowed is said to `note`.
    ///
    /// # Errors
    /// No route, or no socket at all.
    pub fn open(
        to: IpAddr,
        port: Option<u16>,
        source: IpAddr,
        stop: Arc<AtomicBool>,
        note: &mut dyn FnMut(&str),
    ) -> nix::Result<Self> {
        let mut lanes = Vec::new();
        match port.map(|port| syn(to, port, source)) {
            Some(Ok(lane)) => lanes.push(lane),
            Some(Err(error)) => note(&format!("no sizes by TCP ({error}): that needs CAP_NET_RAW")),
            None => {}
        }
        match echo(to) {
            Ok(lane) => lanes.push(lane),
            Err(error) => note(&format!(
                "no ICMP echo ({error}): that needs CAP_NET_RAW or a group in net.ipv4.ping_group_range"
            )),
        }
        let udp = hear::open(SocketAddr::new(to, CLOSED_PORT), SockType::Datagram, SockProtocol::Udp)?;
        lanes.push(Lane { fd: udp, kind: Kind::Udp });
        Ok(Self { to, lanes, stop, begun: Instant::now(), sent: None, number: 0 })
    }

    /// A plain connection to a port.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub fn try_connect(&self, port: u16, patience: Duration) -> nix::Result<Tcp> {
        connect::try_connect(SocketAddr::new(self.to, port), patience, &|| self.stop.load(Ordering::Relaxed))
    }

    fn check(&self) -> Result<(), Halt> {
        if self.stop.load(Ordering::Relaxed) { Err(Halt::Asked) } else { Ok(()) }
    }
}

fn echo(to: IpAddr) -> nix::Result<Lane> {
    let protocol = if to.is_ipv4() { SockProtocol::Icmp } else { SockProtocol::IcmpV6 };
    let to = SocketAddr::new(to, 0);
    match hear::open(to, SockType::Datagram, protocol) {
        Ok(fd) => Ok(Lane { fd, kind: Kind::Echo }),
        Err(Errno::EACCES | Errno::EPERM | Errno::EPROTONOSUPPORT) => {
            let fd = hear::open(to, SockType::Raw, protocol)?;
            Ok(Lane { fd, kind: Kind::RawEcho(fastrand::u16(1..)) })
        }
        Err(error) => Err(error),
    }
}

fn syn(to: IpAddr, port: u16, source: IpAddr) -> nix::Result<Lane> {
    let fd = hear::open(SocketAddr::new(to, 0), SockType::Raw, SockProtocol::Tcp)?;
    let (held, source_port) = hold_port(source)?;
    only_to(&fd, to.is_ipv6(), source_port)?;
    let flow = Flow { source, source_port, destination: to, destination_port: port };
    Ok(Lane { fd, kind: Kind::Syn { flow, _port: held } })
}

/// A port that is nobody else's, and on which nobody listens: the kernel itself answers each SYN-ACK with an RST, so that
/// the destination is left with nothing half open.
fn hold_port(source: IpAddr) -> nix::Result<(OwnedFd, u16)> {
    use nix::sys::socket::{SockFlag, SockaddrStorage, bind, getsockname, socket};
    let to = SocketAddr::new(source, 0);
    let fd = socket(hear::family(to), SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    let own: SockaddrStorage = getsockname(fd.as_raw_fd())?;
    let v4 = own.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::port);
    let port = v4.or_else(|| own.as_sockaddr_in6().map(nix::sys::socket::SockaddrIn6::port));
    Ok((fd, port.ok_or(Errno::EAFNOSUPPORT)?))
}

/// Receives only segments to this port: a raw socket would get those of every connection with the destination.
fn only_to(fd: &OwnedFd, v6: bool, port: u16) -> nix::Result<()> {
    // BPF_LDX | BPF_B | BPF_MSH, BPF_LD | BPF_H | BPF_ABS or BPF_IND, BPF_JMP | BPF_JEQ | BPF_K, BPF_RET | BPF_K.
    const HEADER_LENGTH: u16 = 0xb1;
    const HALF_AT: u16 = 0x28;
    const HALF_BEHIND: u16 = 0x48;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let step = |code, k, jf| libc::sock_filter { code, jt: 0, jf, k };
    // An IPv4 raw socket's packets begin with the IP header, an IPv6 one's do not.
    let mut program =
        if v6 { vec![step(HALF_AT, 2, 0)] } else { vec![step(HEADER_LENGTH, 0, 0), step(HALF_BEHIND, 2, 0)] };
    program.extend([step(EQUAL, port.into(), 1), step(RETURN, u32::MAX, 0), step(RETURN, 0, 0)]);
    let length = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    // The kernel copies the program, which outlives the call.
    setsockopt(fd, AttachFilter, &libc::sock_fprog { len: length, filter: program.as_mut_ptr() })
}

impl Lane {
    /// What to send so that the IP packet is `size` bytes long.
    fn packet(&self, v6: bool, number: u32, size: u32) -> Option<Vec<u8>> {
        let length = (size as usize).checked_sub(packet::ip_header(v6))?;
        match &self.kind {
            Kind::Udp => Some(packet::udp(number, length)),
            Kind::Echo => Some(packet::echo(v6, 0, number, length)),
            Kind::RawEcho(id) => Some(packet::echo(v6, *id, number, length)),
            Kind::Syn { flow, .. } => packet::syn(flow, number, length),
        }
    }

    /// Whether a message is about packet `number`.
    fn quotes(&self, v6: bool, quote: &[u8], number: u32) -> bool {
        match &self.kind {
            Kind::Udp => packet::quotes_udp(quote, number),
            Kind::Echo => packet::quotes_echo(quote, v6, None, number),
            Kind::RawEcho(id) => packet::quotes_echo(quote, v6, Some(*id), number),
            Kind::Syn { flow, .. } => packet::quotes_syn(quote, flow, number),
        }
    }

    /// Whether what the destination sent answers packet `number` of `size` bytes.
    fn answers(&self, v6: bool, bytes: &[u8], number: u32, size: u32) -> bool {
        let raw = |bytes| if v6 { Some(bytes) } else { packet::behind_ipv4(bytes) };
        match &self.kind {
            // Somebody listens there after all.
            Kind::Udp => true,
            Kind::Echo => packet::is_echo_reply(bytes, v6, None, number),
            Kind::RawEcho(id) => {
                raw(bytes).is_some_and(|bytes| packet::is_echo_reply(bytes, v6, Some(*id), number))
            }
            Kind::Syn { flow, .. } => {
                let length = (size as usize).saturating_sub(packet::ip_header(v6));
                raw(bytes).is_some_and(|bytes| packet::answers_syn(bytes, flow, number, length))
            }
        }
    }

    /// What has been heard of packet `number` by now.
    fn heard(&self, to: IpAddr, number: u32, size: u32) -> Option<(Reply, Option<IpAddr>)> {
        /// Read at one time: more is left for the next look, so that a flood cannot keep us from the clock.
        const AT_ONCE: usize = 64;
        let v6 = to.is_ipv6();
        for _ in 0..AT_ONCE {
            if let Some(message) = hear::message(&self.fd, to) {
                // The kernel's own refusals were taken off the queue before this packet, and quote what was not sent.
                let is_ours = message.is_own || self.quotes(v6, &message.quote, number);
                if let Some(reply) = message.reply.filter(|_| is_ours) {
                    return Some((reply, message.from));
                }
            } else if let Some(bytes) = hear::answer(&self.fd) {
                if self.answers(v6, &bytes, number, size) {
                    return Some((Reply::Arrived, Some(to)));
                }
            } else {
                hear::clear(&self.fd);
                break;
            }
        }
        None
    }
}

impl Ask for Sockets {
    fn methods(&self) -> Vec<Method> {
        self.lanes.iter().map(|lane| lane.kind.method()).collect()
    }

    fn ask(&mut self, step: Step) -> Result<Answer, Halt> {
        let since = self.sent.map(|sent| sent.elapsed());
        if let Some(rest) = since.and_then(|since| GAP.checked_sub(since)) {
            self.pause(rest)?;
        }
        self.check()?;
        let v6 = self.to.is_ipv6();
        let lane = self.lanes.iter().find(|lane| lane.kind.method() == step.method);
        let lane = lane.ok_or(Halt::Broken("no way to ask is allowed".to_owned()))?;
        self.number = self.number.wrapping_add(1);
        let broken = |error: Errno| Halt::Broken(hear::failed(error).to_string());
        let bytes = lane.packet(v6, self.number, step.size);
        let bytes = bytes.ok_or_else(|| Halt::Broken(format!("no packet of {} bytes", step.size)))?;
        hear::drain(&lane.fd, self.to);
        hear::set_ttl(&lane.fd, v6, step.ttl).map_err(broken)?;
        let sent = Instant::now();
        self.sent = Some(sent);
        // What a hop said of the packet before may be the result of this call: then nothing was sent. What is refused for
        // its size stands in the error queue; a rule of this host's own that drops it is as silent as any.
        for _ in 0..2 {
            match send(lane.fd.as_raw_fd(), &bytes, MsgFlags::empty()) {
                Err(Errno::EHOSTUNREACH | Errno::ECONNREFUSED | Errno::EPROTO | Errno::EACCES) => {
                    hear::clear(&lane.fd);
                }
                Err(Errno::ENOBUFS | Errno::EPERM | Errno::EMSGSIZE | Errno::EAGAIN) | Ok(_) => break,
                Err(error) => return Err(broken(error)),
            }
        }
        loop {
            if let Some((reply, from)) = lane.heard(self.to, self.number, step.size) {
                return Ok(Answer { reply, from, rtt: sent.elapsed() });
            }
            self.check()?;
            let Some(left) = step.patience.checked_sub(sent.elapsed()).filter(|left| !left.is_zero()) else {
                return Ok(Answer { reply: Reply::Silent, from: None, rtt: sent.elapsed() });
            };
            hear::wait(&lane.fd, PollFlags::POLLIN, left.min(SLICE)).map_err(broken)?;
        }
    }

    fn pause(&mut self, time: Duration) -> Result<(), Halt> {
        let begun = Instant::now();
        while let Some(left) = time.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
            self.check()?;
            thread::sleep(left.min(SLICE));
        }
        self.check()
    }

    fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}
