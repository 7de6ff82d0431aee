//! Answers as the kernel gives them of `tc qdisc add .. tbf`.

use super::*;

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

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

/// What is shown, and the most that it may be.
type Sizes = (u32, u32);

fn sizes(bucket: Option<(u32, Bucket)>) -> Option<(u32, Sizes, Option<Sizes>)> {
    let told = |size: Size| (size.shown, size.most);
    bucket.map(|(device, bucket)| (device, told(bucket.burst), bucket.minburst.map(told)))
}

#[test]
fn a_burst_is_the_rate_times_the_buffer() {
    assert_eq!(sizes(bucket(&root(1_250_000, &[]))), Some((7, (1400, 1400), None)));
    // A tick of 64 ns is 8 bytes at 1 Gbit/s, 800 at 100: what was asked for may be up to a tick more.
    assert_eq!(sizes(bucket(&root(125_000_000, &[]))), Some((7, (140_000, 140_008), None)));
    let large = attribute(TCA_TBF_RATE64, &12_500_000_000_u64.to_ne_bytes());
    assert_eq!(sizes(bucket(&root(u32::MAX, &large))), Some((7, (14_000_000, 14_000_800), None)));
    assert_eq!(bucket(&answer(b"fq_codel\0", 1_250_000, (0, 0), u32::MAX, &[])), None);
    assert!(bucket(&root(1_250_000, &[])).unwrap().1.is_root);
    let below = bucket(&answer(b"tbf\0", 1_250_000, (0, 0), 0x0001_0001, &[])).unwrap();
    assert!(!below.1.is_root, "it takes what another queue gives it");
}

#[test]
fn a_peak_rate_has_a_bucket_of_its_own() {
    let of = |peak, more: &[u8]| bucket(&answer(b"tbf\0", 1_250_000, peak, u32::MAX, more));
    assert_eq!(sizes(of((2_500_000, 8_000), &[])), Some((7, (1400, 1400), Some((1280, 1280)))));
    let (_, small) = of((2_500_000, 8_000), &[]).unwrap();
    assert_eq!(small.holds(), 1280);
    let told = |frame| (small.lacks(frame), small.wants(frame));
    assert_eq!(told(1280), (String::new(), " of 2560 bytes or more".into()), "what it holds passes");
    assert_eq!(told(1400), ("minburst 1280".into(), "a minburst of 2800 bytes or more".into()));
    let both = ("burst 1400, minburst 1280".into(), "a burst and a minburst of 2802 bytes or more".into());
    assert_eq!(told(1401), both);
    let (_, large) = of((2_500_000, 80_000), &[]).unwrap();
    assert_eq!((large.holds(), large.lacks(1500).as_str()), (1400, "burst 1400"));
    let fast = attribute(TCA_TBF_PRATE64, &12_500_000_000_u64.to_ne_bytes());
    let minburst = Some((6_400_000, 6_400_800));
    assert_eq!(sizes(of((u32::MAX, 8_000), &fast)), Some((7, (1400, 1400), minburst)));
}

#[test]
fn what_is_cut_off_is_nothing() {
    let whole = root(1_250_000, &[]);
    for length in 0..whole.len() {
        assert_eq!(bucket(&whole[..length]), None, "{length} bytes");
    }
}
