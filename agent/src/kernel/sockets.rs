//! Sockets of a network namespace that wait for an answer: evidence that one came from an address that none of them asked.

use std::fs::{self, File};
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Questions are counted for this long.
const FRESH: Duration = Duration::from_secs(1);

/// A namespace that is nobody's is not looked for again before: that goes through all processes.
const AGAIN: Duration = Duration::from_secs(10);

/// Questions that are answered a second: each reads a list of sockets.
const QUESTIONS: u32 = 8;

/// Namespaces that are remembered: more are forgotten all at once.
const MAX_NAMESPACES: usize = 64;

/// Bytes of a list that are read: some 10,000 sockets. Of a longer one the rest is not looked at.
const MOST: u64 = 1536 << 10;

/// Processes that are looked at to find one of a namespace.
const MAX_PROCESSES: usize = 32_768;

const TCP: u8 = 6;

/// Finds them. Cheap to clone: all share what was found.
#[derive(Clone, Debug)]
pub struct Sockets(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    proc: PathBuf,
    /// The namespace, when it was looked for, and a process in it.
    processes: Mutex<Vec<(u32, Instant, Option<String>)>>,
    /// Since when questions are counted, and how many there were.
    asked: Mutex<(Instant, u32)>,
}

impl Sockets {
    /// By the processes in `proc`.
    #[must_use]
    pub fn below(proc: &Path) -> Self {
        Self(Arc::new(Shared {
            proc: proc.to_owned(),
            processes: Mutex::default(),
            asked: Mutex::new((Instant::now(), 0)),
        }))
    }

    /// Whom a socket of this namespace waits for that has the port `local`, and that does not talk to the address of `answer`. Its
    /// port may be another as well: a Kubernetes service often has another than its pods. `None` if there is none, or it cannot
    /// be seen: the namespace is nobody's that we see, or its sockets are too many.
    #[must_use]
    pub fn expects(&self, netns: u32, protocol: u8, local: u16, answer: SocketAddr) -> Option<SocketAddr> {
        let name = match protocol {
            TCP => "tcp",
            17 => "udp",
            _ => return None,
        };
        if !self.may_ask() {
            return None;
        }
        let process = self.process(netns)?;
        [name.to_owned(), format!("{name}6")].into_iter().find_map(|list| {
            let mut text = String::new();
            let file = File::open(self.0.proc.join(&process).join("net").join(list)).ok()?;
            file.take(MOST).read_to_string(&mut text).ok()?;
            expected(&text, local, answer, protocol == TCP)
        })
    }

    /// Whether a list may be read now: a storm of packets to closed ports must not hold up what is told of others.
    fn may_ask(&self) -> bool {
        let mut asked = self.0.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.0.elapsed() >= FRESH {
            *asked = (Instant::now(), 0);
        }
        asked.1 += 1;
        asked.1 <= QUESTIONS
    }

    /// The number of a process in the namespace.
    fn process(&self, netns: u32) -> Option<String> {
        let is_in = |name: &str| {
            let link = self.0.proc.join(name).join("ns/net");
            fs::metadata(link).is_ok_and(|file| file.ino() == u64::from(netns))
        };
        let mut known = self.0.processes.lock().unwrap_or_else(PoisonError::into_inner);
        match known.iter().find(|(of, ..)| *of == netns) {
            // A process may have ended, and its number may be another's.
            Some((_, _, Some(process))) if is_in(process) => return Some(process.clone()),
            Some((_, at, None)) if at.elapsed() < AGAIN => return None,
            _ => {}
        }
        let entries = fs::read_dir(&self.0.proc).ok()?.flatten().take(MAX_PROCESSES);
        let mut names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let process = names.find(|name| name.bytes().all(|byte| byte.is_ascii_digit()) && is_in(name));
        known.retain(|(of, ..)| *of != netns);
        if known.len() >= MAX_NAMESPACES {
            known.clear();
        }
        known.push((netns, Instant::now(), process.clone()));
        process
    }
}

/// The peer of the socket with this local port, in text of the form of `/proc/net/tcp`, if that has another address than
/// `answer`. With another port it must be one that has no answer yet, if `has_states`: a connection's local port may have been
/// an earlier one's, whose peer still sends.
fn expected(text: &str, local: u16, answer: SocketAddr, has_states: bool) -> Option<SocketAddr> {
    /// `TCP_SYN_SENT` (`include/net/tcp_states.h`)
    const SYN_SENT: &str = "02";
    text.lines().skip(1).find_map(|line| {
        let mut words = line.split_whitespace();
        let (ours, peer) = (words.nth(1)?, address(words.next()?)?);
        let waits = !has_states || words.next()? == SYN_SENT;
        let (_, port) = ours.rsplit_once(':')?;
        let is_it = u16::from_str_radix(port, 16).ok()? == local
            && (waits || peer.port() == answer.port())
            && peer.ip() != answer.ip()
            && !peer.ip().is_unspecified();
        is_it.then_some(peer)
    })
}

/// An address as the kernel prints it: words of four bytes in the machine's order, and a port.
fn address(text: &str) -> Option<SocketAddr> {
    let (words, port) = text.split_once(':')?;
    let word = |at: usize| u32::from_str_radix(words.get(8 * at..8 * at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match words.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (at, to) in bytes.chunks_exact_mut(4).enumerate() {
                to.copy_from_slice(&word(at)?);
            }
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    const LIST: &str = "  sl  local_address rem_address   st tx_queue rx_queue\n\
        \x20  0: 0200010A:1F90 00000000:0000 0A 00000000:00000000\n\
        \x20  1: 0200010A:B876 0A00600A:1538 02 00000000:00000000\n\
        \x20  2: 0200010A:B877 0A00600A:1538 01 00000000:00000000\n";

    #[test]
    #[cfg(target_endian = "little")]
    fn a_socket_that_waits_for_another_is_found() {
        let answer = |text: &str| text.parse().unwrap();
        let expected = |local, from| expected(LIST, local, answer(from), true).map(|peer| peer.to_string());
        assert_eq!(expected(0xb876, "10.1.0.3:5432").as_deref(), Some("10.96.0.10:5432"));
        assert_eq!(expected(0xb876, "10.96.0.10:5432"), None, "that is whom it asked");
        assert_eq!(expected(0xb876, "10.1.0.3:8080").as_deref(), Some("10.96.0.10:5432"), "a service's pod");
        assert_eq!(expected(0xb877, "10.1.0.3:5432").as_deref(), Some("10.96.0.10:5432"));
        assert_eq!(
            expected(0xb877, "10.1.0.3:8080"),
            None,
            "it has its connection: that is an earlier one's"
        );
        assert_eq!(expected(8080, "10.1.0.3:5432"), None, "it listens");
        let list = LIST.replace(" 02 ", " 01 ");
        let of_udp = super::expected(&list, 0xb876, answer("10.1.0.3:8080"), false);
        assert!(of_udp.is_some(), "a socket of UDP that has a peer waits for it alone");
    }

    #[test]
    fn a_line_that_makes_no_sense_is_none() {
        let answer = "10.1.0.3:5432".parse().unwrap();
        for line in
            ["", "x", "0: a b c", "0: 0200010A:B876 0A00600A 02", "0: :: :: ::", "0: 0200010A:FFFFF é:1 02"]
        {
            assert_eq!(expected(&format!("title\n{line}\n"), 1, answer, true), None, "{line}");
        }
    }

    #[test]
    fn the_sockets_of_this_process_are_seen() {
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(peer.local_addr().unwrap()).unwrap();
        let netns = fs::metadata("/proc/self/ns/net").unwrap().ino().try_into().unwrap();
        let answer = SocketAddr::new("127.0.0.9".parse().unwrap(), peer.local_addr().unwrap().port());
        let sockets = Sockets::below(Path::new("/proc"));
        let expects = sockets.expects(netns, 17, socket.local_addr().unwrap().port(), answer);
        assert_eq!(expects, Some(peer.local_addr().unwrap()));
        assert_eq!(sockets.expects(1, 17, 1, answer), None, "a namespace of nobody");
    }
}
