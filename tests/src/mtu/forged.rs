//! Messages that no honest router sends, from a hop beyond the node: named or ignored, never believed of others.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::harness::lab::{Lab, WEB};
use crate::harness::packet::{icmp_message, ipv4, send_routed, udp_segment, with_options};
use crate::harness::until;

use super::{Watch, has_learned, pod, sees_messages, v4};

mod flood;
mod sockets;

pub(super) const WEB4: Ipv4Addr = Ipv4Addr::new(10, 99, 1, 2);
pub(super) const FAR4: Ipv4Addr = Ipv4Addr::new(10, 99, 3, 2);

/// `far` sends `web` a frag-needed message with this MTU and quote.
fn forge(lab: &Lab, mtu: u16, quote: &[u8]) {
    let message = icmp_message(3, 4, u32::from(mtu), quote);
    let packet = ipv4(FAR4, WEB4, 1, &message, true);
    lab.far.netns.inside(|| send_routed(WEB4.into(), &packet).unwrap());
}

/// The first bytes of a packet that `web` might have sent to 10.99.3.`last`.
pub(super) fn quoted(last: u8, protocol: u8) -> Vec<u8> {
    let to = Ipv4Addr::new(10, 99, 3, last);
    let segment = udp_segment(v4(WEB4.octets(), 4000), v4(to.octets(), 4001), 4, true);
    ipv4(WEB4, to, protocol, &segment, true)[..28].to_vec()
}

/// The line of the message that quotes a packet to 10.99.3.`last`.
fn line(watch: &Watch<'_>, last: u8) -> Value {
    watch.first(&[("destination_ip", json!(format!("10.99.3.{last}"))), ("event", json!("received"))])
}

#[test]
fn numbers_that_no_link_has() {
    let lab = Lab::lock();
    if !sees_messages(&lab) {
        return;
    }
    for (last, mtu, shown) in [(101, 0, json!(null)), (102, 67, json!(67))] {
        let watch = Watch::new(&lab);
        forge(&lab, mtu, &quoted(last, 17));
        let first = line(&watch, last);
        assert_eq!((&first["mtu"], &first["sender_ip"]), (&shown, &json!("10.99.3.2")), "{first:#}");
        assert_eq!(first["destination_port"], 4001);
        let verdict = watch.verdict(&[("trace_id", first["trace_id"].clone())]);
        assert_eq!(verdict["finding"], "absurd_mtu", "{verdict:#}");
        assert_eq!(
            verdict["fix"].is_string(),
            has_learned(&lab, [10, 99, 3, last].into()),
            "only what the kernel believed is to be forgotten"
        );
    }
}

#[test]
fn quotes_of_other_protocols() {
    let lab = Lab::lock();
    if !sees_messages(&lab) {
        return;
    }
    // GRE whose header is not there, ESP, a number nobody uses.
    for (last, protocol, name) in [(111, 47, "GRE"), (112, 50, "ESP"), (113, 253, "proto:253")] {
        let watch = Watch::new(&lab);
        // What one hop says in one number is one incident.
        let mtu = 1200 + u16::from(last);
        forge(&lab, mtu, &quoted(last, protocol));
        let first = line(&watch, last);
        assert_eq!([&first["protocol"], &first["mtu"]], [&json!(name), &json!(mtu)], "{first:#}");
        assert_eq!([&first["source_port"], &first["destination_port"]], [&json!(null); 2], "no ports there");
        assert_eq!(pod(&first, "source_pod").as_deref(), Some(WEB));
    }
}

#[test]
fn quotes_cut_short_or_absurd() {
    let lab = Lab::lock();
    if !sees_messages(&lab) {
        return;
    }
    let whole = quoted(121, 17);
    let change = |at: usize, byte: u8| {
        let mut quote = whole.clone();
        quote[at] = byte;
        quote
    };
    let watch = Watch::new(&lab);
    // Half a header; a header shorter than itself; another version's. To nowhere, so they are one incident.
    for quote in [whole[..12].to_vec(), change(0, 0x42), change(0, 0x65)] {
        forge(&lab, 1301, &quote);
    }
    let first = watch.first(&[("mtu", json!(1301)), ("event", json!("received"))]);
    // The kernel may take half a header for none at all and not come to the hook.
    until("they are counted", || {
        (watch.counted("r2c_mtu_events_total", &[("event", "received")]) >= 2).then_some(())
    });
    // It came to the pod's own namespace: that much is certain.
    assert_eq!(pod(&first, "source_pod").as_deref(), Some(WEB), "{first:#}");
    assert_eq!(first["sender_ip"], "10.99.3.2");
    let unknown = ["source_ip", "destination_ip", "source_port", "destination_port", "destination_pod"];
    // What a test before has forged may be told only now.
    let ours = |line: &&Value| line["event"] == "received" && line["mtu"] == 1301;
    for line in watch.lines().iter().filter(ours) {
        assert!(unknown.iter().all(|field| line[field].is_null()), "believed: {line:#}");
    }
    // Options that are there: the ports are behind them.
    for (last, words) in [(122, 1), (123, 10)] {
        let watch = Watch::new(&lab);
        forge(&lab, 1303, &with_options(&quoted(last, 17), words));
        let first = line(&watch, last);
        assert_eq!(
            [&first["source_port"], &first["destination_port"]],
            [4000, 4001],
            "{words} words: {first:#}"
        );
    }
    // Options that are not there: the addresses stand, ports do not.
    let watch = Watch::new(&lab);
    forge(&lab, 1304, &change(0, 0x4f));
    let first = line(&watch, 121);
    assert_eq!([&first["source_port"], &first["destination_port"]], [&json!(null); 2], "{first:#}");
}

/// What a stranger quotes is what the message is about, not who got it.
#[test]
fn a_quote_of_somebody_elses_packet() {
    let lab = Lab::lock();
    if !sees_messages(&lab) {
        return;
    }
    let strangers = Ipv4Addr::new(198, 51, 100, 7);
    let segment = udp_segment(v4(strangers.octets(), 4000), v4([10, 99, 3, 131], 4001), 4, true);
    let quote = ipv4(strangers, Ipv4Addr::new(10, 99, 3, 131), 17, &segment, true);
    let watch = Watch::new(&lab);
    forge(&lab, 1305, &quote[..28]);
    let first = line(&watch, 131);
    assert_eq!(first["source_ip"], "198.51.100.7", "{first:#}");
    assert_eq!(first["destination_pod"], json!(null));
}
