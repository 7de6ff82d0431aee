//! Packets of which some fragments never come: what came of them, and what that says of the path.

use agent_common::mtu::Fragments;

use super::ends::Ends;
use super::event::TooBig;
use super::finding::{Finding, Judgement};
use crate::digits::counted;
use crate::probe::{Confidence, Pods};

/// So often it is no chance any more: where one packet in twenty is lost, of three packets in a row that are cut in two each lose
/// a fragment one time in a thousand.
pub(super) const NO_CHANCE: u64 = 3;

/// What is missing, as programs may ask for it.
pub(super) const fn missing(came: &Fragments) -> &'static str {
    // One that came twice is counted twice.
    let is_one_run = came.bytes >= came.end;
    match (came.flags & Fragments::FIRST != 0, came.flags & Fragments::LAST != 0) {
        (true, false) if is_one_run => "later",
        (false, _) => "first",
        (true, _) => "middle",
    }
}

/// What arrived, as the end of a sentence.
pub(super) fn arrived(came: &Fragments) -> String {
    let Fragments { end, bytes, largest, count, flags } = *came;
    let of = if flags & Fragments::LAST == 0 { String::new() } else { format!(" of {end}") };
    let rest = match missing(came) {
        "later" => "the later ones did not",
        "first" => "the first did not",
        _ => "one in between did not",
    };
    let bytes = bytes.min(end);
    format!(
        "{} arrived ({bytes}{of} bytes of payload; the largest fragment has {largest} bytes), and {rest}",
        counted(count.into(), "fragment")
    )
}

/// What so many packets like this one come to.
pub(super) fn judge(event: &TooBig, pods: &Pods, count: u64, is_cut: bool) -> Judgement {
    let Ends { who, to, is_ours, .. } = Ends::of(event, pods);
    let fragments = &event.record.fragments;
    let many = if is_cut {
        format!("at least {} from {who} to {to} stay incomplete", counted(count, "packet"))
    } else if count == 1 {
        format!("a packet from {who} to {to} stays incomplete")
    } else {
        format!("{count} packets from {who} to {to} stay incomplete")
    };
    let why = match missing(fragments) {
        _ if count == 1 => "by chance, or something on the way drops fragments",
        "later" => {
            "something on the way drops all but the first, which alone has ports (a firewall, a load balancer, a cloud's network)"
        }
        "first" => "something on the way drops the first alone, or sends it another way",
        _ => "something on the way drops fragments",
    };
    // What one packet carries, without the headers of IP and UDP. The last fragment alone may be of any size.
    let whole = match fragments.flags & Fragments::LAST {
        0 => fragments.largest,
        _ if fragments.count > 1 => fragments.largest,
        _ => 0,
    };
    let whole = match whole.saturating_sub(if event.record.ip_version == 6 { 48 } else { 28 }) {
        0 => "no more than fits one packet".to_owned(),
        whole => format!("at most {whole} bytes"),
    };
    let until = match event.ports() {
        // DNS says how large an answer may be, and asks by TCP for more.
        (Some(53), _) => {
            "let the resolver ask for answers of at most 1232 bytes (CoreDNS: `bufsize 1232`)".to_owned()
        }
        _ if is_ours => format!("let {who} send {whole} at a time"),
        _ => format!("{who}, which is not known as a pod of this node, would have to send {whole} at a time"),
    };
    Judgement {
        finding: Finding::FragmentsLost,
        confidence: match count {
            1 => Confidence::Low,
            _ if count < NO_CHANCE => Confidence::Medium,
            _ => Confidence::High,
        },
        what: format!("{many}: of the last, {}: {why}", arrived(fragments)),
        fix: Some(format!(
            "let fragments pass on the way from {who} (unless `r2c-agent trace drops` tells of `memory` meanwhile: then this node has no room for more); until then {until}"
        )),
    }
}
