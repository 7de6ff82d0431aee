//! Messages that never reach whom they are for: who eats them, where, and what would let them pass.

use std::borrow::Cow;

use agent_common::mtu::{Fate, flags};

use super::ends::Ends;
use super::event::{TooBig, name};
use super::finding::{Finding, Judgement};
use super::row::stage_name;
use crate::links::shell_word;
use crate::probe::row::device_sysctl;
use crate::probe::{Confidence, Pods};

/// What a lost message comes to; `cause` is the event that tells what it was about.
pub(super) fn judge(lost: &TooBig, pods: &Pods, cause: Option<&TooBig>) -> Judgement {
    let ends = Ends::of(lost, pods);
    let mtu = lost.record.mtu;
    let fits = cause.and_then(TooBig::fits).or_else(|| lost.fits()).unwrap_or(mtu);
    let from = lost.by().or_else(|| cause.and_then(TooBig::by));
    let from = from.map_or_else(String::new, |by| format!(" of {by}"));
    let Ends { who, to, .. } = &ends;
    let is_other_nodes = lost.fate == Fate::Invalid && pods.source.is_none();
    let (culprit, fix) = if is_other_nodes { other_nodes(lost, &ends, fits) } else { culprit(lost, who) };
    // Nothing on this node alone helps a connection that does not go through it.
    let until =
        if is_other_nodes { String::new() } else { format!("; until then {}", ends.sends_less_there(fits)) };
    let (confidence, end) = if lost.sees_arrivals {
        (Confidence::High, format!("and {who} waits in vain"))
    } else {
        (
            Confidence::Medium,
            "and whether others arrive is not seen (no hook on icmp_unreach or icmpv6_notify)".to_owned(),
        )
    };
    Judgement {
        finding: Finding::MessagesLost,
        confidence,
        what: format!(
            "path MTU discovery of {who} is being eaten: the message{from} that {mtu} bytes fit on the way to {to} {culprit}, {end}"
        ),
        fix: Some(fix + &until),
    }
}

/// Of an address that several nodes announce, the router that tells chooses one, and not by the packet that it quotes.
fn other_nodes(lost: &TooBig, ends: &Ends, fits: u32) -> (String, String) {
    let (place, hook) = (place(lost), lost.stage().map_or("unknown", stage_name));
    // Else two that have none send it to each other as long as it lives.
    let others = format!(
        "have each node pass on to the others what it has no connection for, unless one of them has passed it on, or {}",
        ends.asks_at_its_address(fits)
    );
    (
        format!(
            "is dropped by a netfilter rule in {place}, hook {hook}, since conntrack there calls it INVALID: no known pod of this node has sent the packet, so it belongs to a connection of another node that answers at the same address, or to one that this node has forgotten or never saw"
        ),
        format!(
            "if other nodes answer there, too, {others}; if none does, put `{}` before the rule that drops `ct state invalid`",
            accept(lost)
        ),
    )
}

/// Who eats it, and what would let it pass.
fn culprit(lost: &TooBig, who: &str) -> (String, String) {
    let reason = reason(lost);
    if lost.is_unsent() {
        return unsent(lost, who);
    }
    let place = place(lost);
    let hook = lost.stage().map_or("unknown", stage_name);
    let accept = accept(lost);
    match lost.fate {
        Fate::Invalid => (
            format!(
                "is dropped by a netfilter rule in {place}, hook {hook}, since conntrack there calls it INVALID: it never saw the connection (an asymmetric path, or an entry that is gone)"
            ),
            format!(
                "put `{accept}` before the rule that drops `ct state invalid`, or route both directions through this node"
            ),
        ),
        Fate::Filtered if reason.as_deref().is_none_or(|reason| reason == "NETFILTER_DROP") => (
            format!("is dropped by a netfilter rule in {place}, hook {hook}"),
            format!("put `{accept}` before the rule that drops it"),
        ),
        Fate::Filtered => (
            format!("is dropped by a filter in {place}{}", on(lost)),
            format!("let {} pass there{}", errors(lost), filter_of(lost)),
        ),
        _ if reason.as_deref() == Some("IP_RPFILTER") => (
            format!(
                "is dropped by the reverse path filter in {place}{}: it comes in by another way than the one back to its sender",
                on(lost)
            ),
            match name(&lost.record.device) {
                Some(device) => format!(
                    "`sysctl -w {}=2` in {}",
                    shell_word(&device_sysctl("ipv4", &device, "rp_filter")),
                    namespace(lost)
                ),
                None => format!("set net.ipv4.conf.*.rp_filter to 2 in {}", namespace(lost)),
            },
        ),
        _ => (
            format!("is dropped in {place}{}", on(lost)),
            "mend what drops it (`r2c-agent trace drops` shows what else dies there)".to_owned(),
        ),
    }
}

/// What lets such messages pass where nft's rules are.
const fn accept(lost: &TooBig) -> &'static str {
    match lost.record.ip_version {
        4 => "icmp type destination-unreachable accept",
        6 => "icmpv6 type packet-too-big accept",
        _ => "meta l4proto { icmp, icmpv6 } accept",
    }
}

/// What a filter is to let pass, as it knows them.
const fn errors(lost: &TooBig) -> &'static str {
    match lost.record.ip_version {
        4 => "ICMP errors of type 3, code 4",
        6 => "ICMPv6 errors of type 2",
        _ => "ICMP errors of type 3, code 4, and ICMPv6 errors of type 2",
    }
}

/// How to find the filter of the device.
fn filter_of(lost: &TooBig) -> String {
    let way = match reason(lost).as_deref() {
        Some("TC_INGRESS") => "ingress",
        Some("TC_EGRESS") => "egress",
        _ => return String::new(),
    };
    name(&lost.record.device).map_or_else(String::new, |device| {
        let device = shell_word(&device);
        format!(" (`tc filter show dev {device} {way}` and `bpftool net show dev {device}` name the filter)")
    })
}

/// Why this node does not send it.
fn unsent(lost: &TooBig, who: &str) -> (String, String) {
    let (place, there) = (place(lost), namespace(lost));
    let to = lost.source().map_or_else(|| who.to_owned(), |address| address.to_string());
    match lost.fate {
        Fate::NoRoute => (
            format!("is not sent: {place} has no route to {to}"),
            format!("add a route to {to} in {there} (`ip route get {to}` tells what there is)"),
        ),
        Fate::Limited => (
            format!("is not sent: {place} limits the rate of such messages"),
            format!("in {there}, `sysctl -w net.ipv6.icmp.ratemask=0-1,3-127` (without 2), or a smaller net.ipv6.icmp.ratelimit, which is the time between two"),
        ),
        _ => (
            "is not sent: the kernel answers no such packet (a later fragment, one that is for all, or one that it has no route of), or cannot".to_owned(),
            format!("see what {there} is to do with packets to {to}"),
        ),
    }
}

fn reason(lost: &TooBig) -> Option<Cow<'_, str>> {
    lost.reason.as_deref().map(Cow::Borrowed)
}

/// ` on eth0 (IP_RPFILTER in ip_rcv_finish_core)`, as far as it is known.
fn on(lost: &TooBig) -> String {
    let device = name(&lost.record.device).map_or_else(String::new, |device| format!(" on {device}"));
    let why: Vec<&str> = [lost.reason.as_deref(), lost.function.as_deref()].into_iter().flatten().collect();
    if why.is_empty() { device } else { format!("{device} ({})", why.join(" in ")) }
}

/// Whose namespace it died in, and how to find it.
fn place(lost: &TooBig) -> String {
    let (name, netns) = (namespace(lost), lost.record.netns);
    if is_anybodys(lost) { format!("{name} (`lsns {netns}` lists its processes)") } else { name }
}

/// Whose namespace it died in.
fn namespace(lost: &TooBig) -> String {
    if lost.has(flags::IN_POD) && lost.has(flags::LOCAL_ORIGIN) {
        "the pod's own namespace".to_owned()
    } else if is_anybodys(lost) {
        format!("network namespace {}", lost.record.netns)
    } else {
        "this node's own namespace".to_owned()
    }
}

/// Whether that is neither the sender's nor this node's.
fn is_anybodys(lost: &TooBig) -> bool {
    lost.has(flags::IN_POD | flags::FOREIGN) && !(lost.has(flags::IN_POD) && lost.has(flags::LOCAL_ORIGIN))
}
