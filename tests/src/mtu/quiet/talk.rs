//! TCP conversations of all shapes, each until a moment: long ones, short ones, and by turns.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Scope;
use std::time::{Duration, Instant};

use crate::harness::netns::Netns;

/// Where servers listen.
pub(super) const PORT: u16 = 7920;

/// Nobody waits for longer than this: what hangs is to fail.
const HANGS: Duration = Duration::from_mins(2);

/// A listener for both families.
pub(super) fn listen(netns: &Netns) -> TcpListener {
    netns.inside(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).unwrap())
}

/// A connection that sends at once what is written to it.
pub(super) fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(HANGS))?;
    stream.set_write_timeout(Some(HANGS))?;
    Ok(stream)
}

/// Asks for `down` bytes with `up` bytes.
fn exchange(stream: &mut TcpStream, up: u32, down: u32) -> io::Result<()> {
    let mut request = vec![0; 8 + up as usize];
    request[..4].copy_from_slice(&up.to_be_bytes());
    request[4..8].copy_from_slice(&down.to_be_bytes());
    stream.write_all(&request)?;
    stream.read_exact(&mut vec![0; down as usize])
}

/// Answers [`exchange`] until the other end has enough.
fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(HANGS))?;
    loop {
        let mut head = [0; 8];
        match stream.read_exact(&mut head) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        let [up, down] = [0, 4].map(|at| u32::from_be_bytes(head[at..at + 4].try_into().unwrap()) as usize);
        stream.read_exact(&mut vec![0; up])?;
        stream.write_all(&vec![0; down])?;
    }
}

/// Accepts until `over`, which is looked at after each.
pub(super) fn serve<'scope>(
    scope: &'scope Scope<'scope, '_>,
    listener: &'scope TcpListener,
    over: &'scope AtomicBool,
) {
    scope.spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            if over.load(Ordering::Relaxed) {
                return;
            }
            scope.spawn(|| answer(stream).unwrap());
        }
    });
}

/// How a client talks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Manner {
    /// A megabyte up, a megabyte down, on one connection.
    Bulk,
    /// A connection for each request: two full segments and a rest, each way.
    Short,
    /// Requests and answers of all sizes up to a few segments, on one connection.
    ByTurns,
}

/// Every manner.
pub(super) const MANNERS: [Manner; 4] = [Manner::Bulk, Manner::Short, Manner::Short, Manner::ByTurns];

/// Talks until `end`; counts what was exchanged.
pub(super) fn talk(manner: Manner, to: SocketAddr, end: Instant, exchanges: &AtomicU64) -> io::Result<()> {
    let mut stream = connect(to)?;
    let mut size = 1_u32;
    while Instant::now() < end {
        match manner {
            Manner::Bulk => {
                exchange(&mut stream, 1 << 20, 1)?;
                exchange(&mut stream, 1, 1 << 20)?;
            }
            Manner::Short => {
                exchange(&mut stream, 3000, 3000)?;
                stream = connect(to)?;
            }
            Manner::ByTurns => {
                // Any sequence will do that comes by all sizes.
                size = (size * 7 + 1201) % 5003;
                exchange(&mut stream, size, 5003 - size)?;
            }
        }
        exchanges.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
