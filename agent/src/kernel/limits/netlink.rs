//! Questions to the kernel by netlink while a packet's record waits: an answer is whole, or it is an error (`Interrupted`: it has
//! changed while it was read); all of them together are bounded in bytes and time.

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::{Socket, SocketAddr};
use nix::libc::{NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NLMSG_OVERRUN};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use crate::netlink::request;
pub(super) use crate::netlink::{attributes, find, number, text};

/// Bytes of one reply: the kernel makes none longer than 32 KiB (`netlink_dump`).
const REPLY: usize = 64 * 1024;

/// How long all answers may take.
const PATIENCE: Duration = Duration::from_millis(300);

/// A socket in this thread's network namespace.
pub(super) struct Netlink {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
    /// Bytes that are still read.
    left: usize,
    until: Instant,
}

/// What answers questions for lists: the kernel, or a test.
pub(super) trait Lists {
    /// Asks for a list; `each` gets the payload of each message.
    fn dump(&mut self, kind: u16, body: &[u8], each: impl FnMut(&[u8])) -> io::Result<()>;
}

impl Netlink {
    /// Opens one that reads so many bytes at most.
    pub(super) fn open(protocol: isize, most: usize) -> io::Result<Self> {
        let socket = Socket::new(protocol)?;
        // SAFETY: the descriptor is the socket's, which lives for the whole call.
        let descriptor = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
        // The kernel answers within the call; this is for one that does not.
        setsockopt(&descriptor, sockopt::ReceiveTimeout, &TimeVal::new(0, 200_000))?;
        let until = Instant::now() + PATIENCE;
        Ok(Self { socket, buffer: Vec::with_capacity(REPLY), sequence: 0, left: most, until })
    }
}

impl Lists for Netlink {
    fn dump(&mut self, kind: u16, body: &[u8], mut each: impl FnMut(&[u8])) -> io::Result<()> {
        self.sequence += 1;
        self.socket.send_to(
            &request(kind, NLM_F_DUMP, self.sequence, body).map_err(io::Error::other)?,
            &SocketAddr::new(0, 0),
            0,
        )?;
        loop {
            if self.left == 0 || Instant::now() > self.until {
                return Err(ErrorKind::FileTooLarge.into());
            }
            self.buffer.clear();
            let (length, from) = match self.socket.recv_from(&mut self.buffer, nix::libc::MSG_TRUNC) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                other => other?,
            };
            if length > self.buffer.len() {
                return Err(ErrorKind::InvalidData.into());
            }
            // Only the kernel is 0: whoever else may send here is not believed.
            if from.port_number() != 0 {
                continue;
            }
            self.left = self.left.saturating_sub(length);
            if read(&self.buffer, self.sequence, &mut each)? {
                return Ok(());
            }
        }
    }
}

/// Takes the messages of one reply; whether it was the last.
fn read(mut reply: &[u8], sequence: u32, each: &mut impl FnMut(&[u8])) -> io::Result<bool> {
    while !reply.is_empty() {
        let message = NetlinkBuffer::new_checked(reply).map_err(|_| ErrorKind::InvalidData)?;
        if message.sequence_number() == sequence {
            if i32::from(message.flags()) & NLM_F_DUMP_INTR != 0 {
                return Err(ErrorKind::Interrupted.into());
            }
            match i32::from(message.message_type()) {
                NLMSG_DONE | NLMSG_ERROR => {
                    let code = number(message.payload()).unwrap_or_default().cast_signed();
                    return if code < 0 {
                        Err(io::Error::from_raw_os_error(code.saturating_neg()))
                    } else {
                        Ok(true)
                    };
                }
                NLMSG_OVERRUN => return Err(ErrorKind::InvalidData.into()),
                _ => each(message.payload()),
            }
        }
        let next = usize::try_from(message.length()).unwrap_or(usize::MAX).checked_next_multiple_of(4);
        reply = next.and_then(|next| reply.get(next..)).unwrap_or_default();
    }
    Ok(false)
}

/// An attribute as it goes into a question, padded.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A kernel that gives these answers: to this kind of question, with this body, these payloads.
#[cfg(test)]
#[derive(Default)]
pub(super) struct Answers(pub(super) Vec<(u16, Vec<u8>, Vec<Vec<u8>>)>);

#[cfg(test)]
impl Lists for Answers {
    fn dump(&mut self, kind: u16, body: &[u8], each: impl FnMut(&[u8])) -> io::Result<()> {
        let found = self.0.iter().find(|(of, asked, _)| (*of, &asked[..]) == (kind, body));
        let (.., payloads) = found.ok_or(ErrorKind::NotFound)?;
        payloads.iter().map(Vec::as_slice).for_each(each);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of a dump, as the kernel numbers it.
    fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = request(kind, NLM_F_DUMP, sequence, payload).unwrap();
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn taken(reply: &[u8]) -> io::Result<(bool, Vec<Vec<u8>>)> {
        let mut payloads = Vec::new();
        let is_last = read(reply, 7, &mut |payload| payloads.push(payload.to_vec()))?;
        Ok((is_last, payloads))
    }

    #[test]
    fn an_answer_is_whole_or_an_error() {
        let (one, other) = (message(36, 2, 7, b"one"), message(36, 2, 6, b"late"));
        let done = message(3, 2, 7, &[0; 4]);
        let whole = taken(&[&other[..], &one, &done].concat()).unwrap();
        assert_eq!(whole, (true, vec![b"one".to_vec()]));
        assert_eq!(taken(&one).unwrap(), (false, vec![b"one".to_vec()]));
        let changed = taken(&message(36, 0x12, 7, b"one")).unwrap_err();
        assert_eq!(changed.kind(), ErrorKind::Interrupted);
        let refused = taken(&message(2, 0, 7, &(-1_i32).to_ne_bytes())).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
        let overrun = taken(&[&one[..], &message(4, 2, 7, b"")].concat()).unwrap_err();
        assert_eq!(overrun.kind(), ErrorKind::InvalidData, "the kernel could not send it all");
        assert!(taken(&[8, 0, 0, 0, 3, 0]).is_err(), "cut off");
    }

    #[test]
    fn an_attribute_that_is_cut_off_is_none() {
        let two = [attribute(1, b"odd"), attribute(0x8002, b"nested")].concat();
        assert_eq!(find(&two, 2), Some(&b"nested"[..]));
        assert_eq!(find(&two[..two.len() - 4], 2), None);
        // A length that leads nowhere.
        assert_eq!(find(&[0, 0, 1, 0, 0, 0, 0, 0], 2), None);
    }

    #[test]
    fn no_more_is_read_than_is_allowed() {
        // RTM_GETQDISC: each namespace has at least its loopback device's.
        let body = [0; 20];
        assert!(Netlink::open(0, 1 << 20).unwrap().dump(38, &body, |_| {}).is_ok());
        assert!(Netlink::open(0, 1).unwrap().dump(38, &body, |_| {}).is_err());
        let mut late = Netlink::open(0, 1 << 20).unwrap();
        late.until = Instant::now().checked_sub(Duration::from_millis(1)).unwrap();
        assert_eq!(late.dump(38, &body, |_| {}).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }

    /// A late answer is told from that to the next question by its number.
    #[test]
    fn each_question_has_a_number_of_its_own() {
        let mut netlink = Netlink::open(0, 1 << 20).unwrap();
        for _ in 0..2 {
            netlink.dump(38, &[0; 20], |_| {}).unwrap();
        }
        assert_eq!(netlink.sequence, 2);
    }
}
