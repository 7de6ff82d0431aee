//! The token bucket filters of a device, by rtnetlink: `RTM_GETQDISC`.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

/// `linux/rtnetlink.h`, `linux/netlink.h`, `linux/pkt_sched.h`.
const RTM_NEWQDISC: u16 = 36;
const RTM_GETQDISC: u16 = 38;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
/// `sizeof(struct nlmsghdr)`, `sizeof(struct tcmsg)`
const HEADER: usize = 16;
const TCMSG: usize = 20;
/// In `struct tc_tbf_qopt`: `rate.rate`, and `buffer`, in ticks of 64 ns (`PSCHED_SHIFT`).
const RATE: usize = 8;
const BUFFER: usize = 28;
const TICK_NS: u64 = 64;

/// Replies that are read: a node has a few hundred devices.
const MAX_REPLIES: usize = 1000;

/// The smallest burst of the device's filters of this kind, bytes; `None` if it has none.
pub(super) fn smallest_burst(ifindex: u32) -> io::Result<Option<u32>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    // SAFETY: the descriptor is the socket's, which lives for the whole call.
    let descriptor = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    // The kernel answers within the call; this is for one that does not: packets wait meanwhile.
    setsockopt(&descriptor, sockopt::ReceiveTimeout, &TimeVal::new(0, 200_000))?;
    socket.send_to(&question(ifindex), &SocketAddr::new(0, 0), 0)?;
    let mut smallest = None;
    for _ in 0..MAX_REPLIES {
        let (reply, _) = socket.recv_from_full()?;
        let mut rest = reply.as_slice();
        while let Some((kind, payload, next)) = message(rest) {
            match kind {
                NLMSG_DONE | NLMSG_ERROR => return Ok(smallest),
                RTM_NEWQDISC => {
                    let burst = burst(payload, ifindex);
                    smallest = smallest.into_iter().chain(burst).min();
                }
                _ => {}
            }
            rest = next;
        }
    }
    Ok(smallest)
}

fn question(ifindex: u32) -> Vec<u8> {
    let length = u32::try_from(HEADER + TCMSG).unwrap_or_default();
    let mut bytes = Vec::with_capacity(HEADER + TCMSG);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(RTM_GETQDISC.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([0; 4]);
    bytes.extend(ifindex.to_ne_bytes());
    bytes.extend([0; 12]);
    bytes
}

/// The first message: its type, its payload, and what is behind it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let payload = bytes.get(HEADER..length)?;
    Some((kind, payload, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The burst of a `struct tcmsg` and its attributes, if it is a token bucket filter of this device.
fn burst(payload: &[u8], ifindex: u32) -> Option<u32> {
    if u32_at(payload, 4)? != ifindex {
        return None;
    }
    let attributes = payload.get(TCMSG..)?;
    if attribute(attributes, TCA_KIND)? != b"tbf\0" {
        return None;
    }
    let options = attribute(attributes, TCA_OPTIONS)?;
    let parameters = attribute(options, TCA_TBF_PARMS)?;
    let rate64 = attribute(options, TCA_TBF_RATE64)
        .and_then(|rate| Some(u64::from_ne_bytes(rate.get(..8)?.try_into().ok()?)));
    let rate = rate64.or_else(|| u32_at(parameters, RATE).map(u64::from))?;
    let nanoseconds = u64::from(u32_at(parameters, BUFFER)?) * TICK_NS;
    u32::try_from(u128::from(rate) * u128::from(nanoseconds) / 1_000_000_000).ok()
}

/// The value of the first attribute of this type.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    /// `NLA_TYPE_MASK`: the upper two bits are flags.
    const TYPE: u16 = 0x3fff;
    loop {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..length)?;
        if kind & TYPE == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attr(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// As the kernel answers of `tbf rate 10mbit burst 1400`.
    fn answer(kind: &[u8], rate: u32, more: &[u8]) -> Vec<u8> {
        let mut qopt = [0; 36];
        qopt[RATE..RATE + 4].copy_from_slice(&rate.to_ne_bytes());
        qopt[BUFFER..BUFFER + 4].copy_from_slice(&17_500_u32.to_ne_bytes());
        let options = [attr(TCA_TBF_PARMS, &qopt), more.to_vec()].concat();
        let mut payload = vec![0; TCMSG];
        payload[4..8].copy_from_slice(&7_u32.to_ne_bytes());
        payload.extend(attr(TCA_KIND, kind));
        payload.extend(attr(TCA_OPTIONS, &options));
        payload
    }

    #[test]
    fn a_burst_is_the_rate_times_the_buffer() {
        assert_eq!(burst(&answer(b"tbf\0", 1_250_000, &[]), 7), Some(1400));
        let large = attr(TCA_TBF_RATE64, &12_500_000_000_u64.to_ne_bytes());
        assert_eq!(burst(&answer(b"tbf\0", u32::MAX, &large), 7), Some(14_000_000));
        assert_eq!(burst(&answer(b"fq_codel\0", 1_250_000, &[]), 7), None);
        assert_eq!(burst(&answer(b"tbf\0", 1_250_000, &[]), 8), None, "another device's");
    }

    #[test]
    fn what_is_cut_off_is_nothing() {
        let whole = answer(b"tbf\0", 1_250_000, &[]);
        for length in 0..whole.len() {
            assert_eq!(burst(&whole[..length], 7), None, "{length} bytes");
        }
        // A length that leads nowhere.
        assert_eq!(attribute(&[0, 0, 1, 0, 0, 0, 0, 0], TCA_OPTIONS), None);
        assert_eq!(message(&[8, 0, 0, 0, 3, 0]), None);
    }
}
