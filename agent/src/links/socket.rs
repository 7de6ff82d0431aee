//! One netlink socket: a question, and the kernel's whole answer or an error; bounded in size, time and tries.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_ROUTE, NETLINK_XFRM};
use netlink_sys::{Socket, SocketAddr};
use nix::libc::{NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NLMSG_OVERRUN};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use crate::netlink::request;

/// Bytes of one reply: the kernel makes none longer than 32 KiB (`netlink_dump`), but for a
/// device with thousands of virtual functions, which are not asked for.
const BUFFER: usize = 64 * 1024;

/// Bytes of all replies to one question. A node with a full routing table of the Internet has more: then what was read is
/// said to be a part.
const MOST: usize = 32 * 1024 * 1024;

/// Tries at what changes while it is read.
const TRIES: usize = 4;

/// The kernel answers within the call; this is for one that does not.
const PATIENCE: TimeVal = TimeVal::new(5, 0);
/// As above, while a packet's record waits for the answer.
pub(super) const SHORT_PATIENCE: TimeVal = TimeVal::new(0, 200_000);

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocketError {
    /// The kernel said no.
    #[error("{}", nix::errno::Errno::from_raw(*.0).desc())]
    Refused(i32),
    /// The socket did not work.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A reply that is none.
    #[error("the kernel's reply makes no sense")]
    Garbled,
    /// It changed each time it was read.
    #[error("it changed each of {TRIES} times it was read")]
    Restless,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whole {
    /// All of it was read.
    Yes,
    /// There was more than is wanted.
    No,
}

/// Whom a socket asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Devices, routes, queues.
    Route,
    /// Families by name, such as `WireGuard`'s. Answers may have keys in them.
    Generic,
    /// IPsec. Answers may have keys in them.
    Ipsec,
}

/// A socket in the namespace of the thread that opened it.
pub(super) struct Netlink {
    socket: Socket,
    protocol: Protocol,
    patience: TimeVal,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        if self.protocol != Protocol::Route {
            self.wipe();
        }
    }
}

impl Netlink {
    /// Opens one that refuses questions it does not understand: without strict checks the kernel answers with
    /// something else.
    pub(super) fn open() -> io::Result<Self> {
        Self::asking(Protocol::Route)
    }

    /// As [`Netlink::open`], of somebody else.
    pub(super) fn asking(protocol: Protocol) -> io::Result<Self> {
        Self::waiting(protocol, PATIENCE)
    }

    /// As [`Netlink::asking`], waiting so long for each answer.
    pub(super) fn waiting(protocol: Protocol, patience: TimeVal) -> io::Result<Self> {
        let socket = Socket::new(match protocol {
            Protocol::Route => NETLINK_ROUTE,
            Protocol::Generic => NETLINK_GENERIC,
            Protocol::Ipsec => NETLINK_XFRM,
        })?;
        socket.set_netlink_get_strict_chk(true)?;
        // SAFETY: the descriptor is the socket's, which lives for the whole call.
        let descriptor = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
        setsockopt(&descriptor, sockopt::ReceiveTimeout, &patience)?;
        Ok(Self { socket, protocol, patience, sequence: 0, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Asks for a list; `each` gets the payload of each message, and says whether it wants more. What changed meanwhile
    /// is asked for again: `begin` is called before each try.
    pub(super) fn dump<T>(
        &mut self,
        kind: u16,
        body: &[u8],
        begin: impl Fn() -> T,
        mut each: impl FnMut(&mut T, &[u8]) -> bool,
    ) -> Result<(T, Whole), SocketError> {
        for _ in 0..TRIES {
            let mut list = begin();
            let outcome = self.ask(kind, NLM_F_DUMP, body, |payload| each(&mut list, payload))?;
            match outcome {
                Outcome::Whole => return Ok((list, Whole::Yes)),
                Outcome::Part => {
                    // The rest of the answer goes with the socket: what a pod made a million of is not read to its end.
                    *self = Self::waiting(self.protocol, self.patience)?;
                    return Ok((list, Whole::No));
                }
                Outcome::Interrupted => {}
            }
        }
        Err(SocketError::Restless)
    }

    /// Asks for one thing, or for something to be done; `each` gets the payload of the answer, if there is one.
    pub(super) fn call(
        &mut self,
        kind: u16,
        body: &[u8],
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), SocketError> {
        let more = |payload: &[u8]| {
            each(payload);
            true
        };
        self.ask(kind, NLM_F_ACK, body, more).map(drop)
    }

    fn ask(
        &mut self,
        kind: u16,
        flags: i32,
        body: &[u8],
        each: impl FnMut(&[u8]) -> bool,
    ) -> Result<Outcome, SocketError> {
        let outcome = self.ask_raw(kind, flags, body, each);
        if self.protocol != Protocol::Route {
            self.wipe();
        }
        outcome
    }

    /// Leaves nothing of an answer in memory: a key in it would be there for whoever reads a dump of this process.
    fn wipe(&mut self) {
        self.buffer.clear();
        self.buffer.resize(self.buffer.capacity(), 0);
        // Else the compiler may see that nobody reads the zeros, and not write them.
        std::hint::black_box(self.buffer.as_mut_slice());
    }

    fn ask_raw(
        &mut self,
        kind: u16,
        flags: i32,
        body: &[u8],
        mut each: impl FnMut(&[u8]) -> bool,
    ) -> Result<Outcome, SocketError> {
        self.sequence = self.sequence.wrapping_add(1);
        let question = request(kind, flags, self.sequence, body).map_err(|_| SocketError::Garbled)?;
        self.socket.send_to(&question, &SocketAddr::new(0, 0), 0)?;
        let (mut outcome, mut read) = (Outcome::Whole, 0);
        loop {
            self.buffer.clear();
            let (length, from) = match self.socket.recv_from(&mut self.buffer, nix::libc::MSG_TRUNC) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if length > self.buffer.len() {
                return Err(SocketError::Garbled);
            }
            // Only the kernel is 0: whoever else may send here is not believed.
            if from.port_number() != 0 {
                continue;
            }
            read += length;
            let mut rest = self.buffer.as_slice();
            while !rest.is_empty() {
                let message = NetlinkBuffer::new_checked(rest).map_err(|_| SocketError::Garbled)?;
                let next = usize::try_from(message.length()).unwrap_or(usize::MAX).next_multiple_of(4);
                // A late answer to a question that was given up.
                let ours = message.sequence_number() == self.sequence;
                if ours {
                    if i32::from(message.flags()) & NLM_F_DUMP_INTR != 0 {
                        outcome = Outcome::Interrupted;
                    }
                    match i32::from(message.message_type()) {
                        NLMSG_DONE | NLMSG_ERROR => return done(message.payload(), outcome),
                        NLMSG_OVERRUN => return Err(SocketError::Garbled),
                        _ if !each(message.payload()) => return Ok(Outcome::Part),
                        _ => {}
                    }
                }
                rest = rest.get(next..).unwrap_or_default();
            }
            if read > MOST {
                return Ok(Outcome::Part);
            }
        }
    }
}

enum Outcome {
    Whole,
    Part,
    Interrupted,
}

/// The end of an answer: zero, or an error number below it.
fn done(payload: &[u8], outcome: Outcome) -> Result<Outcome, SocketError> {
    let code = super::attributes::signed(payload).ok_or(SocketError::Garbled)?;
    if code < 0 { Err(SocketError::Refused(code.saturating_neg())) } else { Ok(outcome) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_an_answer_stays_that_may_have_keys() {
        let mut socket = Netlink::asking(Protocol::Generic).unwrap();
        // CTRL_CMD_GETFAMILY of all families: nobody needs a right for it.
        let all = socket.dump(16, &[3, 1, 0, 0], Vec::new, |lengths, payload| {
            lengths.push(payload.len());
            true
        });
        assert!(all.is_ok_and(|(lengths, whole)| whole == Whole::Yes && !lengths.is_empty()));
        assert_eq!(socket.buffer.len(), socket.buffer.capacity());
        assert!(socket.buffer.iter().all(|byte| *byte == 0));
    }
}
