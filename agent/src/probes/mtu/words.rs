//! Verdicts in words: the hop or device, what it takes, who is hurt, and what to set.

use std::borrow::Cow;

use agent_common::mtu::{Fate, Kind, flags};
use agent_common::quote::{Inner, Tunnel};

use super::ends::{Ends, goes_off};
use super::event::{Absurd, Limit, TooBig, is_tunnel, kind_of, name};
use super::finding::{Finding, Judgement};
use super::heed::Heed;
use super::silent::silent;
use super::told::Told;
use crate::probe::row::socket;
use crate::probe::{Confidence, Pods};

/// What the event that says most comes to; `None` of one that says nothing of the cause.
pub(super) fn judge(event: &TooBig, pods: &Pods, longest: u32, ignored: Option<Heed>) -> Option<Judgement> {
    let ends = Ends::of(event, pods);
    let Ends { who, to, .. } = &ends;
    let (finding, what, fix) = match event.kind {
        Kind::Oversize => silent(event, &ends),
        // What is no packet was sent by nobody: the kernel itself misreads what it relays (FOU of IPv6).
        Kind::Made if event.flow().is_none() => return None,
        Kind::Made => made(event, &ends, longest, ignored),
        Kind::Received => received(event, &ends),
        Kind::Refused => refused(event, &ends),
        Kind::Learned => (
            Finding::PathLearned,
            format!(
                "the path from {who} to {to} by {} takes {} bytes, and the route cache knows it",
                name(&event.record.device).unwrap_or("-".into()),
                event.record.mtu
            ),
            None,
        ),
        // They have judges of their own.
        Kind::Lost | Kind::Stalled | Kind::Incomplete => return None,
    };
    Some(Judgement { finding, confidence: confidence(event, finding), what, fix })
}

fn confidence(event: &TooBig, finding: Finding) -> Confidence {
    match finding {
        // Which device it was is not to be seen, or who is told of by a name that may be another's.
        Finding::SilentDrop if event.record.mtu == 0 => Confidence::Medium,
        Finding::SmallHop if event.sender() == event.destination() => Confidence::Medium,
        // Anybody may have written it.
        Finding::SmallHop if event.fate == Fate::Unknown => Confidence::Low,
        _ => Confidence::High,
    }
}

/// One path is said to take now this, now that.
pub(super) fn flapping(event: &TooBig, pods: &Pods, told: &Told) -> Judgement {
    let ends = Ends::of(event, pods);
    let Ends { who, to, .. } = &ends;
    let by = event.by().unwrap_or("-".into());
    Judgement {
        finding: Finding::FlappingMtu,
        confidence: Confidence::Medium,
        what: format!(
            "the way from {who} to {to} is said to take now {}, now {} bytes, the last time by {by}: its packets go by turns over paths that differ, or somebody forges messages",
            told.least, told.most
        ),
        fix: Some(format!("give the paths one MTU; until then {}", ends.sends_less_there(told.least))),
    }
}

/// A message quotes what left the load balancer, and the socket that is stuck knows what it sent to it.
pub(super) fn untranslated(stray: &TooBig, pods: &Pods, stuck: &TooBig) -> Judgement {
    let MtuLimits { device: hop, mtu, fits } = MtuLimits::of(stray);
    let Ends { who, to, .. } = Ends::of(stray, pods);
    let service = socket(stuck.destination(), stuck.ports().1);
    let sender = Ends::of(stuck, pods).sends_less_there(fits);
    let port = stray.ports().0.unwrap_or_default();
    Judgement {
        finding: Finding::UntranslatedQuote,
        confidence: Confidence::High,
        what: format!(
            "{hop} says that {mtu} bytes fit on the way from {who} to {to}, but the socket there with port {port} talks to {service} and is stuck: what translates {service} to {to} does not translate the packet that such a message quotes, so nobody heeds it"
        ),
        fix: Some(format!(
            "{sender}; have the load balancer translate what ICMP errors quote (conntrack and NAT of netfilter do)"
        )),
    }
}

/// What becomes of a message that is never to be sent.
const NESTED: &str =
    "; nobody is told, since the packet is part of an ICMP message, but the route has learned it";

fn made(
    event: &TooBig,
    ends: &Ends,
    longest: u32,
    ignored: Option<Heed>,
) -> (Finding, String, Option<String>) {
    let Ends { who, to, .. } = ends;
    let MtuLimits { device, mtu, fits } = MtuLimits::of(event);
    let up_to = if longest > mtu { format!(" up to {longest} bytes") } else { String::new() };
    let told = if event.fate == Fate::Nested {
        NESTED.to_owned()
    } else if let Some(heed) = ignored {
        format!(
            "; it was told so {}{} times in {:.0} s and goes on: the messages do not reach it, or it does not heed them",
            if heed.is_cut { "at least " } else { "" },
            heed.told,
            heed.took().as_secs_f64()
        )
    } else {
        " and gets a message that says so".to_owned()
    };
    let sends = format!("{who} sends{up_to} with DF to {to}{told}");
    let takes = match event.limit() {
        Some(Limit::Path) => format!("the path behind {device} is known to take {mtu} bytes"),
        _ => format!("{device} takes {mtu} bytes"),
    };
    let sender = ends.sends_less_there(fits);
    // Where a tunnel's own packet is too large, the message goes to the tunnel's end: some tell who is inside by one of their own.
    if let Some(inner) = event.tunnel() {
        let tunnel = inner.name();
        let told = if event.fate == Fate::Nested {
            NESTED.to_owned()
        } else {
            format!(", and the message goes to the tunnel's end, which has to tell {who} in turn")
        };
        return (
            Finding::SmallUnderlay,
            format!(
                "{takes}, {tunnel} adds {}: only {fits} of {who}'s bytes to {to} fit{told}",
                inner.overhead
            ),
            Some(format!(
                "set {} and the interfaces behind it to {fits}{}",
                device_of(&inner),
                goes_off(fits)
            )),
        );
    }
    let encrypted = event.quote.and_then(|quote| quote.encrypted);
    match (event.limit(), encrypted) {
        (Some(Limit::Device) | None, Some(encrypted)) => (
            Finding::SmallUnderlay,
            format!("{takes}, and {} adds to what is inside: {sends}", encrypted.name()),
            Some(format!("{}, or raise {device} if what is behind it takes more", encrypts_less(ends, fits))),
        ),
        (Some(Limit::Tunnel), _) => (
            Finding::SmallUnderlay,
            format!(
                "what carries {device} ({}, MTU {}) takes {mtu} bytes: {sends}",
                kind_of(&event.record.route).unwrap_or("-".into()),
                event.record.route.mtu
            ),
            Some(format!("set {device} and the interfaces behind it to {mtu}{}", goes_off(mtu))),
        ),
        (Some(Limit::Ipsec), _) => {
            let path = event.record.route_pmtu;
            let adds = match path.checked_sub(mtu).filter(|adds| path != 0 && *adds > 0) {
                Some(adds) => format!(
                    "IPsec adds up to {adds} bytes, and the path to its peer by {device} takes {path}"
                ),
                None => {
                    format!("IPsec adds to each packet, and the path to its peer by {device} takes no more")
                }
            };
            (
                Finding::SmallUnderlay,
                format!("{adds}: {mtu} bytes of what it encrypts fit, and {sends}"),
                Some(format!(
                    "{sender} (`ip xfrm policy` names all whose packets are encrypted), or clamp the MSS of their TCP to {}",
                    fits.saturating_sub(if event.record.ip_version == 6 { 60 } else { 40 })
                )),
            )
        }
        (Some(Limit::Route), _) => (
            Finding::SmallRoute,
            format!(
                "the route to {} by {device} has an MTU of {mtu}, {device} {}: {sends}",
                ends.address, event.record.route.mtu
            ),
            Some(format!("{sender}, or take the mtu off the route")),
        ),
        (Some(Limit::Path), _) => (Finding::SmallHop, format!("{takes}: {sends}"), Some(sender)),
        (Some(Limit::Device) | None, None) => {
            let kind = if is_tunnel(&event.record.route) {
                format!(" ({})", kind_of(&event.record.route).unwrap_or_default())
            } else {
                String::new()
            };
            (
                Finding::SmallDevice,
                format!("{device}{kind} takes {mtu} bytes: {sends}"),
                Some(format!("{}, or raise {device} if what is behind it takes more", ends.sends_less(fits))),
            )
        }
    }
}

/// Only the end that encrypts knows how much fits inside.
fn encrypts_less(ends: &Ends, fits: u32) -> String {
    format!("{}: IPsec then tells whose packets it encrypts how many bytes fit", ends.route(fits))
}

/// The device whose packets are in a tunnel. FOU and GUE are no devices: others use them.
fn device_of(inner: &Inner) -> String {
    let tunnel = inner.name();
    match inner.tunnel {
        Tunnel::Fou | Tunnel::Gue => {
            format!("the device that uses {tunnel} (`ip -d link show` says `encap`)")
        }
        _ => format!("the {tunnel} device"),
    }
}

/// The numbers most verdicts need.
struct MtuLimits<'a> {
    device: Cow<'a, str>,
    mtu: u32,
    fits: u32,
}

impl<'a> MtuLimits<'a> {
    fn of(event: &'a TooBig) -> Self {
        let mtu = event.record.mtu;
        Self { device: event.by().unwrap_or("this node".into()), mtu, fits: event.fits().unwrap_or(mtu) }
    }
}

/// A socket's own kernel does not take what it was to send.
fn refused(event: &TooBig, ends: &Ends) -> (Finding, String, Option<String>) {
    let (Ends { who, to, .. }, mtu) = (ends, event.record.mtu);
    // IPv6 has no DF: what is not to be fragmented is told by options alone, and there are two.
    let allow = match event.record.ip_version {
        6 => "IPV6_MTU_DISCOVER to IPV6_PMTUDISC_WANT, and IPV6_DONTFRAG off",
        _ => "IP_MTU_DISCOVER to IP_PMTUDISC_WANT",
    };
    (
        Finding::LargeDatagrams,
        format!(
            "{who} asks for larger datagrams to {to} than {mtu} bytes, and does not allow to fragment them, or asks for more than 65535 bytes (EMSGSIZE)"
        ),
        // What writes IP headers itself fragments itself as well.
        Some(format!(
            "send datagrams of at most {mtu} bytes with their headers, or, unless they are sent with IP headers of their own, let the kernel fragment them, up to 65535 bytes (socket option {allow})"
        )),
    )
}

fn received(event: &TooBig, ends: &Ends) -> (Finding, String, Option<String>) {
    let Ends { who, to, .. } = ends;
    let MtuLimits { device: hop, mtu, fits } = MtuLimits::of(event);
    let (taken, fix) = taken(event);
    if let Some(absurd) = event.absurd() {
        let why = match absurd {
            Absurd::NoLink(least) => format!("no link may take less than {least}"),
            Absurd::NoPath(least) => format!("of no path the kernel believes less than {least}"),
            Absurd::Fits(length) => {
                format!("but the packet that it quotes has {length} bytes, and would have fit")
            }
            Absurd::Larger(device) => format!("but {device} bytes are all that leave here"),
        };
        return (
            Finding::AbsurdMtu,
            format!(
                "{hop} claims that {mtu} bytes fit on the way from {who} to {to}; {why}: a broken router, or a forged message{taken}"
            ),
            fix,
        );
    }
    if event.fate == Fate::NoSocket {
        return (
            Finding::StrayMessage,
            format!(
                "{hop} says that {mtu} bytes fit on the way from {who} to {to}, but no socket there has sent such a packet: the message is forged, or what translated the packet's address has forgotten it, or its socket is closed, or it belongs to a connection of another node that answers at the same address{taken}"
            ),
            fix,
        );
    }
    if event.fate == Fate::Ignored {
        return (
            Finding::MessagesLost,
            format!(
                "path MTU discovery of {who} is off: the message of {hop} that {mtu} bytes fit on the way to {to} arrived and was not heeded"
            ),
            Some(format!("`sysctl -w net.ipv4.ip_no_pmtu_disc=0` in {who}'s network namespace")),
        );
    }
    if let Some(inner) = event.tunnel() {
        let tunnel = inner.name();
        return (
            Finding::SmallUnderlay,
            format!(
                "hop {hop} of the underlay takes {mtu} bytes, {tunnel} adds {}: only {fits} of {who}'s bytes to {to} fit",
                inner.overhead
            ),
            Some(format!(
                "set {} and the interfaces behind it to {fits}{}",
                device_of(&inner),
                goes_off(fits)
            )),
        );
    }
    if let Some(encrypted) = event.quote.and_then(|quote| quote.encrypted) {
        let name = encrypted.name();
        return (
            Finding::SmallUnderlay,
            format!(
                "hop {hop} of the underlay takes {mtu} bytes on the way from {who} to {to}, and {name} adds to what is inside: fewer of its bytes fit"
            ),
            Some(encrypts_less(ends, mtu)),
        );
    }
    // Tunnels under a bridge answer in the name of the far end (net/ipv4/ip_tunnel_core.c, iptunnel_pmtud_build_icmp).
    let hop = if event.sender().is_some() && event.sender() == event.destination() {
        format!("{hop}, or a tunnel on the way that answers in its name,")
    } else {
        format!("hop {hop}")
    };
    (
        Finding::SmallHop,
        format!("{hop} takes {mtu} bytes on the way from {who} to {to}, and {who} was told so"),
        Some(ends.sends_less_there(fits)),
    )
}

/// What the route cache made of a message that is not to be believed, and what undoes it.
fn taken(event: &TooBig) -> (String, Option<String>) {
    if !event.is_taken() {
        return Default::default();
    }
    let family = match event.record.ip_version {
        4 => Some(""),
        6 => Some(" -6"),
        _ => None,
    };
    let place = if event.has(flags::IN_POD) {
        "the pod's network namespace"
    } else {
        "the network namespace that got it"
    };
    let said = match event.least_taken() {
        Some(least) if event.record.mtu < least => format!(". The route cache took it for {least}"),
        _ => ". The route cache took it".to_owned(),
    };
    (said, family.map(|family| format!("`ip{family} route flush cache` in {place} forgets it")))
}
