//! Sockets of a network namespace: what they wait for, where a packet came that none of them took; which are stuck.

use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::namespaces::Namespaces;

mod list;

/// Questions are counted for this long.
const FRESH: Duration = Duration::from_secs(1);

/// Questions a second for which lists of sockets are read.
const QUESTIONS: u32 = 8;

/// Questions a second that are answered at all: those above [`QUESTIONS`] by what was read of the same namespace just before, so that a
/// burst is told by the same cause as its first packet.
const ANSWERS: u32 = 128;

/// Bytes of lists that are kept for that, of each question that read some.
const KEPT: usize = 64 << 10;

/// Bytes of a list that are read: some 10,000 sockets. Of a longer one the rest is not looked at.
const MOST: u64 = 1536 << 10;

const TCP: u8 = 6;

const UDP: u8 = 17;

/// What sockets say of a packet that none of them took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// One that has the packet's destination port waits for an answer from this address, which is not the packet's source. Its port
    /// may be another as well: a Kubernetes service often has another than its pods.
    Expects(SocketAddr),
    /// A program listens at that port, at this address.
    ListensAt(SocketAddr),
    /// Nobody listens at that port, but programs do at these (TCP).
    Ports(Arc<[u16]>),
    /// It opens no connection, and the socket that has its port is connected to this peer (TCP): the packet's source, or another, whose
    /// connection this may be if its addresses are no longer translated.
    Connected(SocketAddr),
}

/// A connection whose oldest segment is sent again and not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// Its own port and the peer's.
    pub ports: (u16, u16),
    /// How often that segment was sent again: from the first again once anything is acknowledged.
    pub retransmits: u32,
}

/// Finds them. Cheap to clone: all share what was found.
#[derive(Clone, Debug)]
pub struct Sockets(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    namespaces: Namespaces,
    asked: Mutex<Asked>,
}

/// The questions of a second.
#[derive(Debug)]
struct Asked {
    since: Instant,
    count: u32,
    /// What was read for them.
    read: Vec<Lists>,
}

/// A protocol's sockets in a namespace, as the kernel lists them, of IPv4 and of IPv6.
#[derive(Clone, Debug)]
struct Lists {
    netns: u32,
    name: &'static str,
    texts: Arc<[Option<String>; 2]>,
}

impl Sockets {
    /// By the processes in `proc`.
    #[must_use]
    pub fn below(proc: &Path) -> Self {
        Self(Arc::new(Shared {
            namespaces: Namespaces::below(proc),
            asked: Mutex::new(Asked { since: Instant::now(), count: 0, read: Vec::new() }),
        }))
    }

    /// What the sockets of this namespace say of a packet from `from` to `to`, which none of them took. `opens` is whether it opens a
    /// connection. `None` if they say nothing, or cannot be seen: the namespace is nobody's that we see, or its sockets are too many.
    #[must_use]
    pub fn explain(
        &self,
        netns: u32,
        protocol: u8,
        to: SocketAddr,
        from: SocketAddr,
        opens: bool,
    ) -> Option<Seen> {
        let name = match protocol {
            TCP => "tcp",
            UDP => "udp",
            _ => return None,
        };
        let lists = self.lists(netns, name, ANSWERS)?;
        let sockets = || lists.iter().flatten().flat_map(|text| list::sockets(text));
        let has_states = protocol == TCP;
        let listener = list::listener(sockets(), to, has_states);
        // A server's port has many peers: another of them may have the port that this one had.
        let is_servers = has_states && listener.is_some();
        let expected = || list::expected(sockets().filter(|_| !is_servers), to.port(), from, has_states);
        expected().map(Seen::Expects).or(listener.map(Seen::ListensAt)).or_else(|| {
            if !has_states {
                None
            } else if opens {
                list::ports(sockets(), to.ip()).map(Seen::Ports)
            } else {
                list::connected(sockets(), to.port(), from).map(Seen::Connected)
            }
        })
    }

    /// The TCP connections of this namespace to `peer` that are stuck at this moment. None, too, where they cannot be seen.
    #[must_use]
    pub fn stuck(&self, netns: u32, peer: IpAddr) -> Arc<[Stuck]> {
        let lists = self.lists(netns, "tcp", QUESTIONS);
        let texts = lists.iter().flat_map(|texts| texts.iter().flatten());
        list::stuck(texts.flat_map(|text| list::sockets(text)), peer)
    }

    /// A namespace's lists of a protocol's sockets, of IPv4 and of IPv6; `None` if they may not be read now, or the namespace is nobody's
    /// that we see. A storm of packets to closed ports must not hold up what is told of others: at most `most` are answered a second.
    fn lists(&self, netns: u32, name: &'static str, most: u32) -> Option<Arc<[Option<String>; 2]>> {
        let mut asked = self.0.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.since.elapsed() >= FRESH {
            *asked = Asked { since: Instant::now(), count: 0, read: Vec::new() };
        }
        asked.count += 1;
        if asked.count > most {
            return None;
        }
        if asked.count > QUESTIONS {
            let is_it = |lists: &&Lists| (lists.netns, lists.name) == (netns, name);
            return asked.read.iter().rfind(is_it).map(|lists| lists.texts.clone());
        }
        let texts = Arc::new(self.read(netns, name)?);
        if texts.iter().flatten().map(String::len).sum::<usize>() <= KEPT {
            asked.read.push(Lists { netns, name, texts: texts.clone() });
        }
        Some(texts)
    }

    fn read(&self, netns: u32, name: &str) -> Option<[Option<String>; 2]> {
        let net = self.0.namespaces.net(netns)?;
        // Without IPv6 there is one list.
        Some([name.to_owned(), format!("{name}6")].map(|list| {
            let mut text = String::new();
            let file = File::open(net.join(list)).ok()?;
            file.take(MOST).read_to_string(&mut text).ok()?;
            Some(text)
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::UdpSocket;

    use super::*;
    use crate::kernel::namespaces::tests::{inode, proc};

    /// A few questions a second read lists; more of the same namespace and protocol get what was read, and there is an end to these.
    #[test]
    #[cfg(target_endian = "little")]
    fn a_storm_is_answered_by_what_was_read_for_its_first_packets() {
        let proc = proc(&[("7", "net")]);
        fs::create_dir(proc.path().join("7/net")).unwrap();
        let listen = |port: u16| {
            let text = format!("title\n 0: 00000000:{port:04X} 00000000:0000 0A 0 0\n");
            fs::write(proc.path().join("7/net/tcp"), text).unwrap();
        };
        let sockets = Sockets::below(proc.path());
        let ask = |protocol| {
            let [to, from] = ["10.1.0.2:80", "10.1.0.3:5432"].map(|end| end.parse().unwrap());
            sockets.explain(inode("net"), protocol, to, from, true)
        };
        let listens_on = |port: u16| Some(Seen::Ports([port].into()));
        let times = |count: u32| (0..count).map(|_| ask(TCP)).collect::<Vec<_>>();
        listen(1);
        assert_eq!(ask(TCP), listens_on(1));
        listen(2);
        assert_eq!(times(QUESTIONS - 2), vec![listens_on(2); QUESTIONS as usize - 2], "read anew");
        listen(4);
        assert_eq!(ask(TCP), listens_on(4), "the last of these as well");
        listen(3);
        assert_eq!(ask(UDP), None, "another list, which was not read");
        let rest = ANSWERS - QUESTIONS - 1;
        assert_eq!(times(rest), vec![listens_on(4); rest as usize], "the last that was read");
        assert_eq!(ask(TCP), None);
        sockets.0.asked.lock().unwrap().since -= FRESH;
        assert_eq!(ask(TCP), listens_on(3), "the next second");
        // What is long is not kept.
        fs::write(proc.path().join("7/net/tcp"), " ".repeat(KEPT + 1)).unwrap();
        ask(TCP);
        assert_eq!(sockets.0.asked.lock().unwrap().read.len(), 1);
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
            let to = "10.1.0.2:8080".parse().unwrap();
            match sockets.explain(inode("net"), protocol, to, answer.parse().unwrap(), true) {
                Some(Seen::Expects(peer)) => Some(peer.to_string()),
                other => other.map(|other| panic!("{other:?}")),
            }
        };
        assert_eq!(expects(17, "10.1.0.3:5432").as_deref(), Some("10.96.0.10:5432"));
        assert_eq!(expects(17, "10.1.0.3:80").as_deref(), Some("10.96.0.10:5432"), "UDP has no handshake");
        assert_eq!(expects(TCP, "10.1.0.3:5432").as_deref(), Some("10.96.0.11:5432"), "by an IPv6 socket");
        assert_eq!(expects(TCP, "10.1.0.3:80"), None, "an earlier connection's");
        assert_eq!(expects(1, "10.1.0.3:5432"), None, "ICMP has no ports");
    }

    /// A late segment of a client that is forgotten, while another has a connection from the same port.
    #[test]
    #[cfg(target_endian = "little")]
    fn a_client_of_a_server_is_nobody_that_was_asked() {
        let proc = proc(&[("7", "net")]);
        fs::create_dir(proc.path().join("7/net")).unwrap();
        let connected = " 0: 0200010A:1F90 0A00600A:1538 01 0 0\n";
        let explained = |listens: &str| {
            fs::write(proc.path().join("7/net/tcp"), format!("title\n{connected}{listens}")).unwrap();
            let [to, from] = ["10.1.0.2:8080", "10.1.0.3:5432"].map(|end| end.parse().unwrap());
            Sockets::below(proc.path()).explain(inode("net"), TCP, to, from, false)
        };
        assert!(matches!(explained(""), Some(Seen::Expects(_))), "a client's own port");
        let listens = " 1: 0200010A:1F90 00000000:0000 0A 0 0\n";
        assert!(matches!(explained(listens), Some(Seen::ListensAt(_))), "{:?}", explained(listens));
    }

    #[test]
    fn the_sockets_of_this_process_are_seen() {
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(peer.local_addr().unwrap()).unwrap();
        let netns = inode("net");
        let answer = SocketAddr::new("127.0.0.9".parse().unwrap(), peer.local_addr().unwrap().port());
        let sockets = Sockets::below(Path::new("/proc"));
        let (asked, own) = (peer.local_addr().unwrap(), socket.local_addr().unwrap());
        let explain = |netns, to| sockets.explain(netns, UDP, to, answer, false);
        assert_eq!(explain(netns, own), Some(Seen::Expects(asked)));
        let elsewhere = SocketAddr::new("127.0.0.9".parse().unwrap(), asked.port());
        assert_eq!(explain(netns, elsewhere), Some(Seen::ListensAt(asked)));
        assert_eq!(explain(1, own), None, "a namespace of nobody");
    }
}
