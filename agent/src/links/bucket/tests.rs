//! Answers as the kernel gives them of `tc qdisc add .. tbf`.

use super::super::tests::attribute;
use super::*;

/// Of device 7: `rate 10mbit burst 1400`, with this peak rate and its ticks, below this parent.
fn answer(kind: &[u8], rate: u32, peak: (u32, u32), parent: u32, more: &[u8]) -> Vec<u8> {
    let mut qopt = [0; 36];
    let fields = [(RATE, rate), (PEAK_RATE, peak.0), (BUFFER, 17_500), (PEAK_BUFFER, peak.1)];
    for (at, value) in fields {
        qopt[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    let options = [attribute(TCA_TBF_PARMS, &qopt), more.to_vec()].concat();
    let header = [&[0; 4][..], &7_u32.to_ne_bytes(), &[0; 4], &parent.to_ne_bytes(), &[0; 4]].concat();
    [header, attribute(TCA_KIND, kind), attribute(TCA_OPTIONS, &options)].concat()
}

fn root(rate: u32, more: &[u8]) -> Vec<u8> {
    answer(b"tbf\0", rate, (0, 0), u32::MAX, more)
}

#[test]
fn a_burst_is_the_rate_times_the_buffer() {
    let of = |burst| Some((7, Bucket::of(burst)));
    assert_eq!(bucket(&root(1_250_000, &[])), of(1400));
    let large = attribute(TCA_TBF_RATE64, &12_500_000_000_u64.to_ne_bytes());
    assert_eq!(bucket(&root(u32::MAX, &large)), of(14_000_000));
    assert_eq!(bucket(&answer(b"fq_codel\0", 1_250_000, (0, 0), u32::MAX, &[])), None);
    let below = bucket(&answer(b"tbf\0", 1_250_000, (0, 0), 0x0001_0001, &[])).unwrap();
    assert!(!below.1.is_root, "it takes what a class gives it");
}

#[test]
fn a_peak_rate_has_a_bucket_of_its_own() {
    let (_, small) = bucket(&answer(b"tbf\0", 1_250_000, (2_500_000, 8_000), u32::MAX, &[])).unwrap();
    assert_eq!((small.burst, small.minburst, small.holds()), (1400, Some(1280), 1280));
    assert_eq!(small.less(1400).collect::<Vec<_>>(), [("minburst", 1280)]);
    assert_eq!(small.less(1401).collect::<Vec<_>>(), [("burst", 1400), ("minburst", 1280)]);
    assert_eq!(small.less(1280).count(), 0, "what it holds passes");
    let told = |frame| (small.lacks(frame), small.wants(frame));
    assert_eq!(told(1400), ("minburst 1280".into(), "a minburst of 2800 bytes or more".into()));
    let both = ("burst 1400, minburst 1280".into(), "a burst and a minburst of 3028 bytes or more".into());
    assert_eq!(told(1514), both);
    let (_, large) = bucket(&answer(b"tbf\0", 1_250_000, (2_500_000, 80_000), u32::MAX, &[])).unwrap();
    assert_eq!((large.minburst, large.holds()), (Some(12_800), 1400));
    let fast = attribute(TCA_TBF_PRATE64, &12_500_000_000_u64.to_ne_bytes());
    let (_, fast) = bucket(&answer(b"tbf\0", 1_250_000, (u32::MAX, 8_000), u32::MAX, &fast)).unwrap();
    assert_eq!(fast.minburst, Some(6_400_000));
}

#[test]
fn what_is_cut_off_is_nothing() {
    let whole = root(1_250_000, &[]);
    for length in 0..whole.len() {
        assert_eq!(bucket(&whole[..length]), None, "{length} bytes");
    }
}
