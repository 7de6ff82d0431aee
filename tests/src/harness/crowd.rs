//! Clients that take places and give nothing for them: each connects again as soon as it has been hung up on.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};

/// How they behave.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rude {
    /// Sends half a head.
    HalfOpen,
    /// Sends a head a byte at a time.
    Drips,
    /// Sends a head every four seconds.
    Keeps,
    /// Asks for a scrape and does not read it.
    ReadsNothing,
}

/// All of them.
pub(crate) const RUDE: [Rude; 4] = [Rude::HalfOpen, Rude::Drips, Rude::Keeps, Rude::ReadsNothing];

const SCRAPE: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";

/// Many clients at once, until this goes.
pub(crate) struct Crowd {
    over: Arc<AtomicBool>,
    connected: Arc<AtomicU64>,
    clients: Vec<JoinHandle<()>>,
}

impl Crowd {
    /// One client of `to` from each of these addresses, in the network namespace of the caller.
    pub(crate) fn gather(how: Rude, to: SocketAddrV4, from: impl Iterator<Item = Ipv4Addr>) -> Self {
        let (over, connected) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients = from.map(|from| {
            let (over, connected) = (Arc::clone(&over), Arc::clone(&connected));
            thread::spawn(move || {
                while !over.load(Relaxed) {
                    let Ok(stream) = connection(from, to) else { continue };
                    connected.fetch_add(1, Relaxed);
                    how.act(stream, &over);
                }
            })
        });
        let clients = clients.collect();
        Self { over, connected, clients }
    }

    /// How many connections they have made.
    pub(crate) fn connected(&self) -> u64 {
        self.connected.load(Relaxed)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        for client in self.clients.drain(..) {
            let _ = client.join();
        }
    }
}

impl Rude {
    /// Holds one connection until it is hung up on.
    fn act(self, mut stream: TcpStream, over: &AtomicBool) {
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut sent = 0;
        for tick in 0.. {
            let more: &[u8] = match self {
                Self::HalfOpen if tick == 0 => &SCRAPE[..12],
                Self::Drips => &SCRAPE[sent % SCRAPE.len()..][..1],
                Self::Keeps if tick % 40 == 0 => b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
                Self::ReadsNothing if tick == 0 => SCRAPE,
                // So it learns that it has been hung up on without reading.
                Self::ReadsNothing => b"x",
                Self::HalfOpen | Self::Keeps => b"",
            };
            sent += more.len();
            if over.load(Relaxed) || stream.write_all(more).is_err() {
                return;
            }
            if matches!(self, Self::ReadsNothing) {
                thread::sleep(Duration::from_millis(100));
                continue;
            }
            match stream.read(&mut [0; 4096]) {
                Ok(1..) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return,
            }
        }
    }
}

fn connection(from: Ipv4Addr, to: SocketAddrV4) -> nix::Result<TcpStream> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::RcvBuf, &4096)?;
    bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(from, 0)))?;
    connect(socket.as_raw_fd(), &SockaddrIn::from(to))?;
    Ok(socket.into())
}
