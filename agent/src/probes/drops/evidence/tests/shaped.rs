//! What queues and policers never let pass, or lose on purpose.

use super::*;

/// Where device 7 shapes and polices so.
fn shaping(proc: &Path, burst: Option<u32>, netem: Option<Netem>, policed: &[(Side, Policed)]) -> Sources {
    let queueing = Queueing { bucket: burst.map(Bucket::of), netem };
    let limits = Limits::below(proc, proc).knowing(7, queueing, policed);
    Sources { limits, sockets: Sockets::below(proc) }
}

/// What never lets it pass is why it died, whatever else the queue or the filter there may refuse.
#[test]
fn a_bucket_or_a_policer_that_is_too_small_makes_it_too_long() {
    let (proc, own) = own_namespace();
    let gathered = |record: &DropRecord, place: (&str, &str), class, burst: Option<u32>, policed: &[_]| {
        let sources = shaping(proc.path(), burst, None, policed);
        let verdict = Verdict { class, harm: Harm::Harmful };
        let (verdict, evidence) = gather(&sources, record, place.0, place.1, None, false, verdict);
        assert_eq!(verdict.harm, Harm::Harmful);
        (verdict.class, evidence)
    };
    let (queue, ingress) = (("QDISC_DROP", "__dev_queue_xmit"), ("TC_INGRESS", ""));
    for (burst, is_told) in [(1499, true), (1000, true), (1500, false), (1501, false)] {
        let told = is_told.then(|| Evidence::Burst(Bucket::of(burst)));
        let class = if is_told { Class::Mtu } else { Class::Queue };
        assert_eq!(gathered(&own, queue, Class::Queue, Some(burst), &[]), (class, told), "{burst}");
    }
    assert_eq!(gathered(&own, ingress, Class::Policy, Some(1000), &[]), (Class::Policy, None), "it comes in");
    let less = Policed { burst: None, mtu: Some(1200) };
    let policer = Some(Evidence::Policer { length: 1500, less });
    for (place, class, side, other) in [
        (ingress, Class::Policy, Side::Ingress, Side::Egress),
        (("TC_EGRESS", ""), Class::Policy, Side::Egress, Side::Queue),
        (queue, Class::Queue, Side::Queue, Side::Ingress),
    ] {
        let told = gathered(&own, place, class, None, &[(side, less)]);
        assert_eq!(told, (Class::Mtu, policer.clone()), "{side:?}");
        assert_eq!(gathered(&own, place, class, None, &[(other, less)]), (class, None), "{other:?}");
    }
    let elsewhere = DropRecord { netns: 1, ..own };
    assert_eq!(gathered(&elsewhere, queue, Class::Queue, Some(1000), &[]), (Class::Queue, None));
}

/// A packet that no bucket is too small for may have been lost on purpose: only by a queue.
#[test]
fn what_an_emulator_loses_is_told_where_a_queue_frees_it() {
    let (proc, own) = own_namespace();
    let netem = Netem { loss: Loss::Random(1 << 31), parent: Some((1, 2)) };
    let gathered = |burst: Option<u32>, place: (&str, &str), class, harm| {
        let sources = shaping(proc.path(), burst, Some(netem), &[]);
        gather(&sources, &own, place.0, place.1, None, false, Verdict { class, harm }).1
    };
    let (queue, ring) = (("QDISC_DROP", "__dev_queue_xmit"), ("FULL_RING", "tun_net_xmit"));
    let told = Some(Evidence::Loses(netem));
    assert_eq!(gathered(None, queue, Class::Queue, Harm::Harmful), told);
    assert_eq!(
        gathered(Some(100), queue, Class::Queue, Harm::Harmful),
        Some(Evidence::Burst(Bucket::of(100)))
    );
    assert_eq!(gathered(None, queue, Class::Queue, Harm::Benign), None);
    assert_eq!(gathered(None, queue, Class::NoCarrier, Harm::Harmful), None);
    assert_eq!(gathered(None, ring, Class::Queue, Harm::Harmful), None, "another queue");
}
