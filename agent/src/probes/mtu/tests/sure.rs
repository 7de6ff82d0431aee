//! How sure a verdict is, and how many events it speaks for.

use super::*;

/// A verdict's own fields.
fn fields(records: &[MtuRecord], names: [&str; 3]) -> [Value<'static>; 3] {
    let (mut findings, pods) = (Findings::default(), Pods::default());
    for record in records {
        findings.add(&event(record), &pods);
    }
    let verdict = findings.verdict().unwrap();
    names.map(|name| {
        let (_, value) = verdict.fields.iter().find(|(is, _)| *is == name).unwrap();
        match value {
            Value::Text(text) => Value::Text(text.clone().into_owned().into()),
            Value::Number(number) => Value::Number(*number),
            Value::Flag(flag) => Value::Flag(*flag),
            other => panic!("{name} is {other:?}"),
        }
    })
}

/// Each destination is told of once: nobody goes on. The one that is told of again and again does, and the line is about it.
#[test]
fn who_is_told_of_each_destination_once_heeds_it() {
    let to = |last: u8, seconds: u64| {
        let mut made = MtuRecord { ktime_ns: seconds * 1_000_000_000, ..record(Kind::Made, 1400) };
        made.header[19] = last;
        made
    };
    let each_once: Vec<_> = (1..=9).map(|last| to(last, last.into())).collect();
    let (_, _, message) = verdict(&each_once);
    assert!(
        message.contains("10.244.1.10 sends up to 1428 bytes with DF to 198.51.100.1:443 and gets a message"),
        "{message}"
    );
    let and_one_again = [each_once, vec![to(5, 10), to(5, 12)]].concat();
    let (_, _, message) = verdict(&and_one_again);
    let told = "10.244.1.10 sends up to 1428 bytes with DF to 198.51.100.5:443; it was told so 3 times in 7 s and goes on";
    assert!(message.contains(told), "{message}");
    // One record that speaks for more, wherever it is, and it is a least number.
    let three = [to(5, 1), to(5, 2), to(5, 4)];
    for cut in 0..3 {
        for more in
            [MtuRecord { held: 1, ..three[cut] }, MtuRecord { flags: flags::LAST_OF_BUDGET, ..three[cut] }]
        {
            let mut records = three;
            records[cut] = more;
            let (_, _, message) = verdict(&records);
            assert!(
                message.contains("it was told so at least 3 times in 3 s and goes on"),
                "{cut}: {message}"
            );
        }
    }
}

/// A record speaks for those that were held back before it, and one that uses the budget up for nobody knows how many.
#[test]
fn a_record_speaks_for_those_that_were_held_back() {
    let made = record(Kind::Made, 1400);
    for (records, count, is_exact, text) in [
        (vec![made], 1, true, "; 1 made in 0.0 s"),
        (vec![made, made], 2, true, "; 2 made in 0.0 s"),
        (vec![MtuRecord { held: 5, ..made }], 6, false, "; at least 6 made in 0.0 s"),
        (vec![MtuRecord { held: 5, ..made }, made], 7, false, "; at least 7 made in 0.0 s"),
        (
            vec![MtuRecord { held: u64::MAX, ..made }, made],
            u64::MAX,
            false,
            "; at least 18446744073709551615 made",
        ),
        (vec![MtuRecord { flags: flags::LAST_OF_BUDGET, ..made }], 1, false, "; at least 1 made in 0.0 s"),
    ] {
        let found = fields(&records, ["count", "count_is_exact", "finding"]);
        assert_eq!(found[..2], [Value::Number(count), Value::Flag(is_exact)], "{text}");
        assert!(verdict(&records).2.contains(text), "{} lacks {text}", verdict(&records).2);
    }
}

/// Anybody may have written what nobody acted on.
#[test]
fn how_sure_a_verdict_is_follows_what_became_of_the_message() {
    let received = |fate| fated(Kind::Received, fate, 1400);
    let learned = fated(Kind::Learned, Fate::Unknown, 1400);
    let udp = |mut record: MtuRecord| {
        record.header[9] = 17;
        record
    };
    let far = MtuRecord { sender: ipv4([198, 51, 100, 2]), ..received(Fate::Learned) };
    let small = MtuRecord { route: device("eth0", "veth", 1300), ..record(Kind::Oversize, 1300) };
    let nowhere = MtuRecord { route: Device::default(), ..record(Kind::Oversize, 0) };
    let incomplete = record(Kind::Incomplete, 0);
    for (records, finding, confidence) in [
        (vec![received(Fate::Unknown)], "small_hop", "low"),
        (vec![received(Fate::Unknown), received(Fate::Unknown)], "small_hop", "low"),
        (vec![received(Fate::Learned)], "small_hop", "high"),
        (vec![received(Fate::Delivered)], "small_hop", "low"),
        (vec![received(Fate::Delivered), learned], "small_hop", "high"),
        (vec![udp(received(Fate::Delivered))], "small_hop", "high"),
        (vec![far], "small_hop", "medium"),
        (vec![record(Kind::Made, 1400)], "small_device", "high"),
        (vec![small], "silent_drop", "high"),
        (vec![nowhere], "silent_drop", "medium"),
        (vec![received(Fate::NoSocket)], "stray_message", "high"),
        (vec![lost(Fate::Filtered, Stage::Forward, 0)], "messages_lost", "high"),
        (vec![incomplete], "fragments_lost", "low"),
        (vec![incomplete; 2], "fragments_lost", "medium"),
        (vec![incomplete; 3], "fragments_lost", "high"),
        (vec![incomplete; 4], "fragments_lost", "high"),
    ] {
        let found = fields(&records, ["finding", "confidence", "count"]);
        let wanted = [finding, confidence].map(|text| Value::Text(text.into()));
        assert_eq!(found[..2], wanted, "{records:?}");
    }
}

/// Whether one of many messages was lost or each, only those hooks tell that see them arrive, each of its family.
#[test]
fn where_arrivals_are_not_seen_a_lost_message_is_no_certainty() {
    let record = lost(Fate::Filtered, Stage::Forward, 0);
    for (ipv4, ipv6, confidence, end) in [
        (true, true, "high", " waits in vain"),
        (true, false, "high", " waits in vain"),
        (
            false,
            true,
            "medium",
            "and whether others arrive is not seen (no hook on icmp_unreach or icmpv6_notify)",
        ),
    ] {
        let mut decoder = decoder();
        decoder.sees_arrivals(ipv4, ipv6);
        let mut findings = Findings::default();
        findings.add(&decoded(&decoder, &record), &Pods::default());
        let verdict = findings.verdict().unwrap();
        let is_said = verdict.fields.contains(&("confidence", Value::Text(confidence.into())));
        assert!(is_said && verdict.message.contains(end), "{ipv4} {ipv6}: {verdict:?}");
    }
}
