//! What the queueing disciplines of a device never let pass, or lose on purpose, by rtnetlink: `RTM_GETQDISC`.

use std::io;

use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::{Lists, Netlink, find, number, text};
use crate::netlink::bucket::{Bucket, bucket};
use crate::netlink::tc::{self, DEVICE, HEADER, PARENT, RTM_GETQDISC, TCA_KIND, TCA_OPTIONS};

/// `linux/pkt_sched.h`.
const TCA_NETEM_LOSS: u16 = 5;
/// In `struct tc_netem_qopt`: `loss`; and its size, behind which its attributes begin.
const LOSS: usize = 8;
const NETEM: usize = 24;

/// Bytes that are read: a node has a few hundred devices.
pub(super) const MOST: usize = 1 << 20;

/// What a device's queueing disciplines do to packets of any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queueing {
    /// The smallest of its token bucket filters (`tc-tbf(8)`).
    pub bucket: Option<Bucket>,
    /// Its network emulator (`tc-netem(8)`) that loses packets on purpose.
    pub netem: Option<Netem>,
}

/// A network emulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Netem {
    /// How it loses packets.
    pub loss: Loss,
    /// The class of another discipline that it is below, as `tc` has it: major and minor number. `None` if it is the device's own.
    pub parent: Option<(u16, u16)>,
}

/// How a network emulator loses packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Each with the same probability, of 2^32.
    Random(u32),
    /// In bursts, by a model of several states.
    Model,
}

/// Those of a device.
pub(super) fn read(ifindex: u32) -> io::Result<Queueing> {
    listed(&mut Netlink::open(NETLINK_ROUTE, MOST)?, ifindex)
}

fn listed(lists: &mut impl Lists, ifindex: u32) -> io::Result<Queueing> {
    let mut read = Queueing::default();
    lists.dump(RTM_GETQDISC, &tc::question(ifindex, 0), |payload| {
        if let Some((_, found)) = bucket(payload).filter(|(device, _)| *device == ifindex) {
            read.bucket = Some(read.bucket.map_or(found, |least| least.smaller(found)));
        }
        read.netem =
            read.netem.or_else(|| Some(Netem { loss: loss(payload, ifindex)?, parent: parent(payload) }));
    })?;
    Ok(read)
}

/// The options of a `struct tcmsg` and its attributes, if it is of this kind and device.
fn options<'a>(payload: &'a [u8], ifindex: u32, kind: &[u8]) -> Option<&'a [u8]> {
    let attributes = payload.get(HEADER..)?;
    let is_it = number(payload.get(DEVICE..)?)? == ifindex && text(find(attributes, TCA_KIND)?) == kind;
    find(attributes, TCA_OPTIONS).filter(|_| is_it)
}

/// What is lost, if it is a network emulator that loses any.
fn loss(payload: &[u8], ifindex: u32) -> Option<Loss> {
    let options = options(payload, ifindex, b"netem")?;
    if find(options.get(NETEM..)?, TCA_NETEM_LOSS).is_some() {
        return Some(Loss::Model);
    }
    Some(number(options.get(LOSS..)?)?).filter(|share| *share > 0).map(Loss::Random)
}

/// The class that a discipline is below; `None` if it is the root.
fn parent(payload: &[u8]) -> Option<(u16, u16)> {
    /// `TC_H_ROOT`
    const ROOT: u32 = u32::MAX;
    let parent = number(payload.get(PARENT..)?).filter(|parent| *parent != ROOT)?;
    let [a, b, c, d] = parent.to_be_bytes();
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

#[cfg(test)]
mod tests {
    use super::super::netlink::{Answers, attribute as attr};
    use super::*;

    /// As the kernel answers of `tbf rate 10mbit burst 1400`.
    fn answer(kind: &[u8], rate: u32) -> Vec<u8> {
        let mut qopt = [0; 36];
        // Its rate, and its buffer in ticks.
        qopt[8..12].copy_from_slice(&rate.to_ne_bytes());
        qopt[28..32].copy_from_slice(&17_500_u32.to_ne_bytes());
        let options = attr(1, &qopt);
        let mut payload = tc::question(7, 0);
        payload.extend(attr(TCA_KIND, kind));
        payload.extend(attr(TCA_OPTIONS, &options));
        payload
    }

    #[test]
    fn the_smallest_burst_and_the_first_loss_of_a_device_count() {
        let asked = [&[0; 4][..], &7_u32.to_ne_bytes(), &[0; 12]].concat();
        let listed = [(b"tbf\0", 2_500_000), (b"tbf\0", 1_250_000), (b"htb\0", 1_000), (b"tbf\0", 5_000_000)];
        let listed = listed.map(|(kind, rate)| answer(kind, rate)).to_vec();
        let all = |listed| super::listed(&mut Answers(vec![(38, asked.clone(), listed)]), 7).unwrap();
        let lossy = [listed, vec![netem(0, &[]), netem(7, &[]), netem(9, &[])]].concat();
        let netem = Some(Netem { loss: Loss::Random(7), parent: Some((0, 0)) });
        let small = Bucket { is_root: false, ..Bucket::of(1400) };
        assert_eq!(all(lossy), Queueing { bucket: Some(small), netem });
        assert_eq!(all(Vec::new()), Queueing::default());
        assert_eq!(read(u32::MAX >> 1).unwrap(), Queueing::default(), "there is no such device");
    }

    #[test]
    fn a_discipline_is_the_root_or_below_a_class() {
        assert_eq!(parent(&tc::question(7, u32::MAX)), None);
        assert_eq!(parent(&tc::question(7, 0x8001_000a)), Some((0x8001, 10)));
        assert_eq!(parent(&tc::question(7, 0x8001_000a)[..15]), None, "cut off");
    }

    /// As it answers of `netem delay 20ms` with this loss, and more.
    fn netem(share: u32, more: &[u8]) -> Vec<u8> {
        let mut qopt = vec![0xff; NETEM];
        qopt[LOSS..LOSS + 4].copy_from_slice(&share.to_ne_bytes());
        qopt.extend(more);
        let mut payload = tc::question(7, 0);
        payload.extend(attr(TCA_KIND, b"netem\0"));
        payload.extend(attr(TCA_OPTIONS, &qopt));
        payload
    }

    #[test]
    fn an_emulator_tells_what_it_loses_on_purpose() {
        assert_eq!(loss(&netem(1 << 30, &[]), 7), Some(Loss::Random(1 << 30)));
        assert_eq!(loss(&netem(0, &[]), 7), None, "it delays only");
        assert_eq!(loss(&netem(0, &attr(TCA_NETEM_LOSS, &[0; 20])), 7), Some(Loss::Model));
        assert_eq!(loss(&netem(0, &attr(1, &[0; 12])), 7), None, "its delay is correlated");
        assert_eq!(loss(&netem(1 << 30, &[]), 8), None, "another device's");
        assert_eq!(loss(&answer(b"tbf\0", 1_250_000), 7), None);
        let whole = netem(1 << 30, &[]);
        for length in 0..whole.len() {
            assert_eq!(loss(&whole[..length], 7), None, "{length} bytes");
        }
    }
}
