//! The token bucket filters of a device, by rtnetlink: `RTM_GETQDISC`.

use std::io;

use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::{Lists, Netlink, find, number};

/// `linux/rtnetlink.h`, `linux/pkt_sched.h`.
pub(super) const RTM_GETQDISC: u16 = 38;
pub(super) const TCA_KIND: u16 = 1;
pub(super) const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
/// `sizeof(struct tcmsg)`
pub(super) const TCMSG: usize = 20;
/// In `struct tc_tbf_qopt`: `rate.rate`, and `buffer`.
const RATE: usize = 8;
const BUFFER: usize = 28;

/// Bytes that are read: a node has a few hundred devices.
pub(super) const MOST: usize = 1 << 20;

/// The smallest burst of the device's filters of this kind, bytes; `None` if it has none.
pub(super) fn smallest_burst(ifindex: u32) -> io::Result<Option<u32>> {
    smallest_listed(&mut Netlink::open(NETLINK_ROUTE, MOST)?, ifindex)
}

fn smallest_listed(lists: &mut impl Lists, ifindex: u32) -> io::Result<Option<u32>> {
    let mut smallest = None;
    lists.dump(RTM_GETQDISC, &of_device(ifindex, 0), |payload| {
        smallest = smallest.into_iter().chain(burst(payload, ifindex)).min();
    })?;
    Ok(smallest)
}

/// A `struct tcmsg` that asks for what a device has below this parent.
pub(super) fn of_device(ifindex: u32, parent: u32) -> Vec<u8> {
    let mut body = vec![0; TCMSG];
    body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    body[12..16].copy_from_slice(&parent.to_ne_bytes());
    body
}

/// The burst of a `struct tcmsg` and its attributes, if it is a token bucket filter of this device.
fn burst(payload: &[u8], ifindex: u32) -> Option<u32> {
    if number(payload.get(4..)?)? != ifindex {
        return None;
    }
    let attributes = payload.get(TCMSG..)?;
    if find(attributes, TCA_KIND)? != b"tbf\0" {
        return None;
    }
    let options = find(attributes, TCA_OPTIONS)?;
    let parameters = find(options, TCA_TBF_PARMS)?;
    let rate = rate(find(options, TCA_TBF_RATE64), parameters.get(RATE..)?)?;
    in_bytes(rate, number(parameters.get(BUFFER..)?)?)
}

/// Bytes a second: of more than 32 bits, or else of 32.
pub(super) fn rate(rate64: Option<&[u8]>, rate: &[u8]) -> Option<u64> {
    let large = rate64.and_then(|rate| Some(u64::from_ne_bytes(rate.get(..8)?.try_into().ok()?)));
    large.or_else(|| number(rate).map(u64::from))
}

/// The bytes that pass at this rate in so many ticks.
pub(super) fn in_bytes(rate: u64, ticks: u32) -> Option<u32> {
    /// `PSCHED_SHIFT`
    const TICK_NS: u64 = 64;
    let nanoseconds = u64::from(ticks) * TICK_NS;
    u32::try_from(u128::from(rate) * u128::from(nanoseconds) / 1_000_000_000).ok()
}

#[cfg(test)]
mod tests {
    use super::super::netlink::{Answers, attribute as attr};
    use super::*;

    /// As the kernel answers of `tbf rate 10mbit burst 1400`.
    fn answer(kind: &[u8], rate: u32, more: &[u8]) -> Vec<u8> {
        let mut qopt = [0; 36];
        qopt[RATE..RATE + 4].copy_from_slice(&rate.to_ne_bytes());
        qopt[BUFFER..BUFFER + 4].copy_from_slice(&17_500_u32.to_ne_bytes());
        let options = [attr(TCA_TBF_PARMS, &qopt), more.to_vec()].concat();
        let mut payload = of_device(7, 0);
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
    fn the_smallest_of_a_device_counts() {
        let asked = [&[0; 4][..], &7_u32.to_ne_bytes(), &[0; 12]].concat();
        let listed = [(b"tbf\0", 2_500_000), (b"tbf\0", 1_250_000), (b"htb\0", 1_000), (b"tbf\0", 5_000_000)];
        let listed = listed.map(|(kind, rate)| answer(kind, rate, &[])).to_vec();
        let burst = |listed| smallest_listed(&mut Answers(vec![(38, asked.clone(), listed)]), 7).unwrap();
        assert_eq!((burst(listed), burst(Vec::new())), (Some(1400), None));
        assert_eq!(smallest_burst(u32::MAX >> 1).unwrap(), None, "there is no such device");
    }

    #[test]
    fn what_is_cut_off_is_nothing() {
        let whole = answer(b"tbf\0", 1_250_000, &[]);
        for length in 0..whole.len() {
            assert_eq!(burst(&whole[..length], 7), None, "{length} bytes");
        }
    }
}
