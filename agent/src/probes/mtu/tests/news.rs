//! Which events are a line of their own, and which of them the verdict goes by.

use std::time::Duration;

use super::packets::{in_vxlan, web};
use super::*;
use crate::probe::{PATIENCE, SOON};

/// How soon a verdict is to follow each of these; `None` where it says nothing new.
fn news(records: &[MtuRecord]) -> Vec<Option<Duration>> {
    let (mut findings, pods) = (Findings::default(), Pods::default());
    records.iter().map(|record| findings.add(&event(record), &pods)).collect()
}

/// Who sends messages may choose their numbers: three smaller ones are lines, the rest is summed up.
#[test]
fn a_smaller_number_is_news_three_times() {
    let told = |mtu| fated(Kind::Received, Fate::Learned, mtu);
    let numbers = [1400, 1400, 1300, 1350, 1300, 1290, 1280, 1270, 1260];
    let [none, some] = [None, Some(PATIENCE)];
    assert_eq!(news(&numbers.map(told)), [none, none, some, none, none, some, some, none, none]);
    // What nobody sent, and what no path may have, says nothing of the path.
    let forged = [told(1400), fated(Kind::Received, Fate::NoSocket, 1300), told(60), told(1300)];
    assert_eq!(news(&forged), [none, none, none, some]);
}

#[test]
fn what_says_more_of_the_cause_is_news() {
    let (hop, device) = (fated(Kind::Received, Fate::Learned, 1400), record(Kind::Made, 1400));
    let [none, some] = [None, Some(PATIENCE)];
    assert_eq!(news(&[hop, device]), [none, some], "the place itself");
    assert_eq!(news(&[device, hop]), [none, none], "who only tells of it");
    assert_eq!(news(&[device, MtuRecord { mtu: 1300, ..device }]), [none, none], "a smaller device");
}

#[test]
fn that_the_messages_are_lost_is_news_once_and_that_a_third_packet_stays_incomplete() {
    let lost = lost(Fate::Filtered, Stage::Forward, 0);
    let [none, some] = [None, Some(PATIENCE)];
    assert_eq!(news(&[lost; 3]), [some, none, none]);
    let heard = fated(Kind::Received, Fate::Learned, 1400);
    assert_eq!(news(&[heard, lost, lost, lost, lost]), [none, none, none, some, none], "no chance any more");
    assert_eq!(news(&[record(Kind::Incomplete, 0); 5]), [none, none, some, none, none]);
}

#[test]
fn a_stuck_connection_is_news_when_it_is_proven_and_when_the_kernel_begins_to_try() {
    let small = Stall { sacked: 1, longest_run: 104, ..stuck() };
    let proven = |stall| stalled(4000, Fate::BlackHole, stall);
    let tries = Stall { flags: Stall::PROBING, mss: 1024, ..small };
    let unproven = stalled(4001, Fate::Suspect, stuck());
    let records = [proven(small), proven(small), unproven, proven(tries), proven(tries)];
    assert_eq!(news(&records), [Some(SOON), None, None, Some(SOON), None]);
}

/// The same socket twice is no second connection: what arrived may have arrived before the segment that is stuck.
#[test]
fn a_connection_does_not_bear_witness_to_itself() {
    let small = Stall { arrived: 1_000_000, ..stuck() };
    let one = [stalled(4000, Fate::Suspect, stuck()), stalled(4000, Fate::Suspect, small)];
    assert_eq!(verdict(&one).0, "suspect");
    let two = [one[0], stalled(4001, Fate::Suspect, small)];
    assert_eq!(verdict(&two).0, "black_hole");
}

/// A run as long as the segment that vanishes may be one that did arrive: it is no size that passes.
#[test]
fn only_what_is_smaller_than_what_vanishes_is_said_to_arrive() {
    for (longest_run, text) in [
        (1447, "while smaller ones (up to 1447 bytes) arrive"),
        (1448, "while the peer answers smaller ones"),
    ] {
        let stall = Stall { sacked: 1, longest_run, ..stuck() };
        let (_, _, told) = verdict(&[stalled(4000, Fate::BlackHole, stall)]);
        assert!(told.contains(text), "{told}");
    }
}

/// What left the load balancer has the port of the connection to it. Another port is another connection.
#[test]
fn a_stray_message_is_not_of_the_stuck_connection_if_its_port_is_another() {
    let stuck = stalled(4000, Fate::BlackHole, Stall { sacked: 1, longest_run: 104, ..stuck() });
    let quoted = |fate, port: u16| {
        let mut record = fated(Kind::Received, fate, 1400);
        record.header[19] = 9;
        record.header[20..22].copy_from_slice(&port.to_be_bytes());
        record
    };
    for (message, finding) in [
        (quoted(Fate::NoSocket, 4000), "untranslated_quote"),
        (quoted(Fate::NoSocket, 4001), "black_hole"),
        // Its socket is there, and heeds it.
        (quoted(Fate::Learned, 4000), "small_hop"),
    ] {
        assert_eq!(verdict(&[message, stuck]).0, finding);
    }
}

/// A program that asks for too much, or a path that is known, is no reason why full segments vanish.
#[test]
fn what_proves_little_neither_explains_a_stuck_connection_nor_hides_it() {
    let proven = stalled(4000, Fate::BlackHole, Stall { sacked: 1, longest_run: 104, ..stuck() });
    let suspect = stalled(4000, Fate::Suspect, stuck());
    for (other, beside_proof, beside_doubt) in [
        (record(Kind::Refused, 1400), "black_hole", "large_datagrams"),
        (record(Kind::Learned, 1400), "black_hole", "suspect"),
        (record(Kind::Made, 1400), "small_device", "small_device"),
    ] {
        assert_eq!(verdict(&[other, proven]).0, beside_proof, "{:?}", other.kind);
        assert_eq!(verdict(&[other, suspect]).0, beside_doubt, "{:?}", other.kind);
    }
}

#[test]
fn of_two_that_say_the_same_the_first_is_told() {
    let by = |name, mtu| MtuRecord { route: device(name, "", mtu), ..record(Kind::Made, mtu) };
    let begins = |records: &[MtuRecord], text: &str| {
        let (_, _, told) = verdict(records);
        assert!(told.starts_with(text), "{told}");
    };
    begins(&[by("uplink", 1400), by("eth1", 1400)], "uplink takes 1400 bytes");
    begins(&[by("uplink", 1400), by("eth1", 1399)], "eth1 takes 1399 bytes");
    begins(&[by("lo", 100_001), by("eth1", 100_000)], "eth1 takes 100000 bytes");
    // Less than the tunnel adds: nothing fits, which is as small as can be.
    let nothing = in_vxlan(&by("eth1", 40));
    assert_eq!(verdict(&[in_vxlan(&by("uplink", 1400)), nothing]).1, Value::Number(0));
}

/// What this node or a hop says of a packet is how long it was; of what was lost on its way, and of what is cut later, it is not.
#[test]
fn the_longest_packet_is_one_that_was_too_large() {
    let longest = |other: MtuRecord| {
        let (mut findings, pods) = (Findings::default(), Pods::default());
        for record in [record(Kind::Made, 1400), MtuRecord { len: 9000, ..other }] {
            findings.add(&event(&record), &pods);
        }
        let verdict = findings.verdict().unwrap();
        verdict.fields.iter().find(|(name, _)| *name == "longest").map(|(_, value)| format!("{value:?}"))
    };
    let gso = MtuRecord { gso_size: 1448, ..record(Kind::Made, 1400) };
    for (other, wanted) in [
        (record(Kind::Made, 1400), "Number(9000)"),
        (fated(Kind::Received, Fate::Learned, 1400), "Number(9000)"),
        (record(Kind::Oversize, 1400), "Number(9000)"),
        (gso, "Number(1428)"),
        (record(Kind::Refused, 1400), "Number(1428)"),
        (record(Kind::Learned, 1400), "Number(1428)"),
    ] {
        assert_eq!(longest(other).as_deref(), Some(wanted), "{:?}", other.kind);
    }
}

/// One that arrived at its socket, and that no packet of a tunnel is about, proves that the sender can be told.
#[test]
fn only_a_message_that_reached_the_sender_makes_a_lost_one_chance() {
    let received = |fate, mtu| fated(Kind::Received, fate, mtu);
    let lost = lost(Fate::Filtered, Stage::Forward, 0);
    for (other, finding) in [
        (received(Fate::Learned, 1400), "small_hop"),
        (received(Fate::Delivered, 1400), "small_hop"),
        (received(Fate::Unknown, 1400), "messages_lost"),
        (received(Fate::Delivered, 60), "messages_lost"),
        (in_vxlan(&received(Fate::Learned, 1400)), "messages_lost"),
    ] {
        assert_eq!(verdict(&[other, lost]).0, finding, "{other:?}");
    }
}

/// What fits is what the place says. A number that is forged, or no cause, must not be what an operator sets.
#[test]
fn where_messages_are_lost_the_cause_says_what_fits() {
    let lost = lost(Fate::Filtered, Stage::Forward, 0);
    for (cause, fits) in
        [(record(Kind::Made, 1300), 1300), (fated(Kind::Received, Fate::Delivered, 60), 1400)]
    {
        let (mut findings, pods) = (Findings::default(), web());
        for record in [cause, lost] {
            findings.add(&event(&record), &pods);
        }
        let message = findings.verdict().unwrap().message;
        assert!(message.ends_with(&format!("both ends of its interface, to at most {fits}")), "{message}");
    }
}

/// Nobody sent what a stray message quotes: that other numbers contradict what they quote makes no path of it that flaps.
#[test]
fn a_stray_message_that_the_kernel_took_outweighs_numbers_that_cannot_be() {
    let stray = MtuRecord { flags: flags::TAKEN, ..fated(Kind::Received, Fate::NoSocket, 1300) };
    let high = |mtu| fated(Kind::Received, Fate::Delivered, mtu);
    let records = [stray, high(1500), high(9000), high(1500), high(9000)];
    assert_eq!(verdict(&records).0, "stray_message");
}

/// The least that the kernel takes is taken as it is.
#[test]
fn what_the_kernel_took_is_named_only_where_it_is_another_number() {
    for (mtu, text) in [(551, "The route cache took it for 552."), (552, "The route cache took it. Fix")] {
        let stray = MtuRecord { flags: flags::TAKEN, ..fated(Kind::Received, Fate::NoSocket, mtu) };
        let (_, _, told) = verdict(&[stray]);
        let told = told.replace("; 1 received (1 no_socket) in 0.0 s", "");
        assert!(told.contains(text), "{told}");
    }
}

/// Why no router says so: each bound at its last number.
#[test]
fn an_mtu_is_absurd_up_to_the_least_that_may_be() {
    use crate::probes::mtu::event::Absurd;
    let absurd = |record: MtuRecord| event(&record).absurd();
    let four = |mtu| absurd(fated(Kind::Received, Fate::Learned, mtu));
    assert_eq!(
        [67, 68, 551, 552].map(four),
        [Some(Absurd::NoLink(68)), Some(Absurd::NoPath(552)), Some(Absurd::NoPath(552)), None]
    );
    assert_eq!([1425, 1426].map(four), [None, Some(Absurd::Fits(1426))]);
    let six = |mtu| absurd(super::packets::six(&fated(Kind::Received, Fate::Learned, mtu)));
    assert_eq!(
        [1279, 1280, 1447, 1448].map(six),
        [Some(Absurd::NoLink(1280)), None, None, Some(Absurd::Fits(1448))]
    );
    let beside = |mtu| {
        let device = device("eth0", "", 1350);
        absurd(MtuRecord { device, ..fated(Kind::Received, Fate::Delivered, mtu) })
    };
    assert_eq!([1350, 1351].map(beside), [None, Some(Absurd::Larger(1350))]);
    assert_eq!(absurd(record(Kind::Made, 60)), None, "it is this node's own word");
}
