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

    /// Processes by their number, each in a namespace of this process's: its network's, or another that stands for one.
    fn proc(processes: &[(&str, &str)]) -> tempfile::TempDir {
        let proc = tempfile::tempdir().unwrap();
        for (process, of) in processes {
            enter(proc.path(), process, of);
        }
        proc
    }

    fn enter(proc: &Path, process: &str, of: &str) {
        fs::create_dir_all(proc.join(process).join("ns")).unwrap();
        std::os::unix::fs::symlink(format!("/proc/self/ns/{of}"), proc.join(process).join("ns/net")).unwrap();
    }

    fn inode(of: &str) -> u32 {
        fs::metadata(format!("/proc/self/ns/{of}")).unwrap().ino().try_into().unwrap()
    }

    #[test]
    fn a_namespace_has_the_process_that_lives_in_it_now() {
        let proc = proc(&[("self", "net"), ("7", "net"), ("8", "uts")]);
        let sockets = Sockets::below(proc.path());
        assert_eq!(sockets.process(1), None, "nobody's");
        assert_eq!(
            sockets.process(inode("net")).as_deref(),
            Some("7"),
            "that another is nobody's is no matter"
        );
        assert_eq!(sockets.process(inode("uts")).as_deref(), Some("8"));
        fs::rename(proc.path().join("7"), proc.path().join("9")).unwrap();
        enter(proc.path(), "7", "uts");
        assert_eq!(sockets.process(inode("net")).as_deref(), Some("9"), "the number is another's by now");
    }

    /// To look for one goes through all processes.
    #[test]
    fn a_namespace_of_nobody_is_not_looked_for_again_at_once() {
        let proc = proc(&[]);
        let sockets = Sockets::below(proc.path());
        let remembered = || sockets.0.processes.lock().unwrap();
        assert_eq!(sockets.process(inode("net")), None);
        enter(proc.path(), "7", "net");
        assert_eq!(sockets.process(inode("net")), None);
        remembered()[0].1 -= AGAIN;
        assert_eq!(sockets.process(inode("net")).as_deref(), Some("7"));
        assert_eq!(remembered().len(), 1, "one line a namespace");
        // Else each that is gone would stay in memory.
        let most = u32::try_from(MAX_NAMESPACES).unwrap();
        let lengths: Vec<usize> = (1..=most)
            .map(|nobodys| {
                sockets.process(nobodys);
                remembered().len()
            })
            .collect();
        assert_eq!(lengths.iter().max(), Some(&MAX_NAMESPACES));
        assert_eq!(lengths.last(), Some(&1), "one more, and it begins again");
    }

    #[test]
    fn a_storm_is_asked_about_a_few_times_a_second() {
        let sockets = Sockets::below(Path::new("/nonexistent"));
        let asked = |times: u32| (0..times).filter(|_| sockets.may_ask()).count();
        assert_eq!(asked(100), QUESTIONS as usize);
        sockets.0.asked.lock().unwrap().0 -= FRESH;
        assert_eq!(asked(100), QUESTIONS as usize, "and again in the next second");
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_protocols_own_lists_are_read_of_both_families() {
        let proc = proc(&[("7", "net")]);
        fs::create_dir(proc.path().join("7/net")).unwrap();
        let line = |list: &str, peer: &str| {
            let text = format!("title\n 0: 0200010A:1F90 {peer}:1538 01 0 0\n");
            fs::write(proc.path().join("7/net").join(list), text).unwrap();
        };
        line("udp", "0A00600A");
        let v6 = "0000000000000000FFFF00000B00600A";
        line("tcp", "00000000");
        line("tcp6", v6);
        let expects = |protocol, answer: &str| {
            let sockets = Sockets::below(proc.path());
            let peer = sockets.expects(inode("net"), protocol, 0x1f90, answer.parse().unwrap());
            peer.map(|peer| peer.to_string())
        };
        assert_eq!(expects(17, "10.1.0.3:5432").as_deref(), Some("10.96.0.10:5432"));
        assert_eq!(expects(17, "10.1.0.3:80").as_deref(), Some("10.96.0.10:5432"), "UDP has no handshake");
        assert_eq!(expects(TCP, "10.1.0.3:5432").as_deref(), Some("10.96.0.11:5432"), "by an IPv6 socket");
        assert_eq!(expects(TCP, "10.1.0.3:80"), None, "an earlier connection's");
        assert_eq!(expects(1, "10.1.0.3:5432"), None, "ICMP has no ports");
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
