//! Packets of which some fragments never come: what came of them, and what that says of the path.

use agent_common::mtu::Fragments;

use super::event::TooBig;
use super::verdict::{Finding, Judgement};
use super::words::Ends;
use crate::digits::counted;
use crate::probe::{Confidence, Pods};

/// So often it is no chance any more: where one packet in twenty is lost, of three packets in a row that are cut in two each lose
/// a fragment one time in a thousand.
pub(super) const NO_CHANCE: u64 = 3;

/// What is missing, as programs may ask for it.
pub(super) const fn missing(came: &Fragments) -> &'static str {
    let is_one_run = came.bytes == came.end;
    match (came.flags & Fragments::FIRST != 0, came.flags & Fragments::LAST != 0) {
        (true, false) if is_one_run => "later",
        (false, _) => "first",
        (true, _) => "middle",
    }
}

/// What came, as the end of a sentence.
pub(super) fn came(came: &Fragments) -> String {
    let Fragments { end, bytes, largest, count, flags } = *came;
    let of = if flags & Fragments::LAST == 0 { "at least " } else { "" };
    let which = match missing(came) {
        "later" => "what follows does not",
        "first" => "the first does not",
        _ => "what is between them does not",
    };
    // What follows is at least something.
    let end = if flags & Fragments::LAST == 0 { end + 1 } else { end };
    format!(
        "{} came ({bytes} of {of}{end} bytes of payload, the largest with {largest} bytes), and {which}",
        counted(count.into(), "fragment")
    )
}

/// What so many packets like this one come to.
pub(super) fn judge(event: &TooBig, pods: &Pods, count: u64, is_cut: bool) -> Judgement {
    let Ends { who, to, is_ours, .. } = Ends::of(event, pods);
    let fragments = &event.record.fragments;
    let at_least = if is_cut { "at least " } else { "" };
    let often = if count == 1 && !is_cut {
        ": by chance, or since something on the way drops fragments"
    } else {
        match missing(fragments) {
            "later" => ": something on the way drops all but the first, which alone has ports (a firewall, a load balancer, a cloud's network)",
            "first" => ": something on the way drops the first alone, or sends it another way",
            _ => ": something on the way drops fragments",
        }
    };
    // DNS says how large an answer may be, and asks by TCP for more.
    let less = match event.ports() {
        (Some(53), _) => format!(
            "have the resolver ask for answers of at most 1232 bytes (CoreDNS: `bufsize 1232`), which {who} then sends whole"
        ),
        _ if is_ours => format!("have {who} send at most {} bytes at a time", fragments.largest.saturating_sub(28)),
        _ => format!(
            "have {who} send at most {} bytes at a time, which is not for this node to set",
            fragments.largest.saturating_sub(28)
        ),
    };
    Judgement {
        finding: Finding::FragmentsLost,
        confidence: match count {
            1 => Confidence::Low,
            _ if count < NO_CHANCE => Confidence::Medium,
            _ => Confidence::High,
        },
        what: format!(
            "of {at_least}{} that {who} sends to {to} some fragments never come: of the last {}{often}",
            counted(count, "packet"),
            came(fragments)
        ),
        fix: Some(format!("let fragments pass on the way from {who}; until then {less}")),
    }
}
