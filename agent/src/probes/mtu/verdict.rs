//! What the events of one incident add up to: which hop or device, what it takes, who is hurt, what to set.

use std::time::SystemTime;

use agent_common::mtu::Kind;

use super::labels::kind_name;
use super::{Limit, TooBig, is_tunnel, kind_of, name};
use crate::pod::Pod;
use crate::probe::row::end;
use crate::probe::{Event as _, Evidence, Field, Level, Pods, Value, Verdict};

/// The evidence of one incident.
#[derive(Default)]
pub struct Findings {
    /// The event that says most of the cause, and whose it was.
    best: Option<(TooBig, Pods)>,
    /// Events by kind, in the order of [`Kind::ALL`]: at least so many (the exact counts are the metrics').
    counts: [u64; Kind::ALL.len()],
    first: Option<SystemTime>,
    last: Option<SystemTime>,
    /// The longest packet in question, bytes; of GSO packets only what was cut already.
    longest: u32,
    level: Level,
}

/// What is wrong, as programs may ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    /// A device frees what is too large for it and tells nobody.
    SilentDrop,
    /// A device of this node takes less than is sent through it.
    SmallDevice,
    /// A tunnel's underlay takes less than the tunnel's device promises.
    SmallUnderlay,
    /// A route has a smaller MTU than its device.
    SmallRoute,
    /// A hop elsewhere takes less than is sent through it.
    SmallHop,
    /// An MTU that no link may have.
    AbsurdMtu,
    /// A program asks for larger datagrams than fit.
    LargeDatagrams,
    /// A path takes less than its first device, and that is known.
    PathLearned,
}

impl Finding {
    const fn name(self) -> &'static str {
        match self {
            Self::SilentDrop => "silent_drop",
            Self::SmallDevice => "small_device",
            Self::SmallUnderlay => "small_underlay",
            Self::SmallRoute => "small_route",
            Self::SmallHop => "small_hop",
            Self::AbsurdMtu => "absurd_mtu",
            Self::LargeDatagrams => "large_datagrams",
            Self::PathLearned => "path_learned",
        }
    }
}

/// How much an event says of the cause: the place itself, then who tells of it, then what comes of what was told.
fn weight(event: &TooBig) -> u8 {
    match event.kind {
        Kind::Oversize => 6,
        Kind::Made if event.limit() != Some(Limit::Path) => 5,
        Kind::Received => 4,
        Kind::Made => 3,
        Kind::Refused => 2,
        Kind::Learned => 1,
    }
}

impl Evidence<TooBig> for Findings {
    const SUMS_UP: bool = true;

    fn add(&mut self, event: &TooBig, pods: &Pods) {
        if self.best.as_ref().is_none_or(|(best, _)| weight(best) < weight(event)) {
            self.best = Some((event.clone(), pods.clone()));
        }
        if let Some(count) = self.counts.get_mut(event.kind as usize - 1) {
            *count = count.saturating_add(1).saturating_add(event.record.held);
        }
        self.first = Some(self.first.map_or(event.at, |first| first.min(event.at)));
        self.last = Some(self.last.map_or(event.at, |last| last.max(event.at)));
        if event.record.gso_size == 0 {
            self.longest = self.longest.max(event.record.len);
        }
        self.level = self.level.max(event.level());
    }

    fn verdict(&self) -> Option<Verdict<'_>> {
        let (event, pods) = self.best.as_ref()?;
        let (finding, what, fix) = self.judge(event, pods);
        let count = self.counts.iter().sum();
        let mut message = format!("{what}; {}", self.tally());
        if let Some(fix) = &fix {
            message = format!("{message}. Fix: {fix}");
        }
        let mut fields: Vec<Field<'_>> = vec![
            ("finding", Value::Text(finding.name().into())),
            ("count", Value::Number(count)),
            ("fits", event.fits().map_or(Value::Absent, |fits| Value::Number(fits.into()))),
            ("longest", if self.longest == 0 { Value::Absent } else { Value::Number(self.longest.into()) }),
            ("fix", fix.map_or(Value::Absent, |fix| Value::Text(fix.into()))),
        ];
        event.fields(pods, &mut fields);
        Some(Verdict { at: self.last?, level: self.level, pod: event.about(pods), message, fields })
    }
}

impl Findings {
    fn count(&self, kind: Kind) -> u64 {
        self.counts.get(kind as usize - 1).copied().unwrap_or(0)
    }

    /// `3 made, 2 received, 1 learned in 1.5 s`: what there was, and whether who sends has been told.
    fn tally(&self) -> String {
        let counted =
            Kind::ALL.into_iter().map(|kind| (kind, self.count(kind))).filter(|(_, count)| *count > 0);
        let counted: Vec<String> =
            counted.map(|(kind, count)| format!("{count} {}", kind_name(kind))).collect();
        let took = self.first.zip(self.last).and_then(|(first, last)| last.duration_since(first).ok());
        let took = took.unwrap_or_default().as_secs_f64();
        format!("{} in {took:.1} s", counted.join(", "))
    }

    fn judge(&self, event: &TooBig, pods: &Pods) -> (Finding, String, Option<String>) {
        let (_, port) = event.ports();
        let who = match (&pods.source, event.source()) {
            (Some(pod), _) => full_name(pod),
            (None, Some(address)) => address.to_string(),
            (None, None) => "this node".to_owned(),
        };
        let to = end(pods.destination.as_deref(), event.destination(), port).to_string();
        match event.kind {
            Kind::Oversize => silent(event, &who),
            Kind::Made => self.made(event, &who, &to),
            Kind::Received => received(event, &who, &to),
            Kind::Refused => (
                Finding::LargeDatagrams,
                format!(
                    "{who} asks for larger datagrams to {to} than {} bytes, and does not allow to fragment them (EMSGSIZE)",
                    event.record.mtu
                ),
                Some(format!(
                    "send datagrams of at most {} bytes with their headers, or without DF",
                    event.record.mtu
                )),
            ),
            Kind::Learned => (
                Finding::PathLearned,
                format!(
                    "the path from {who} to {to} by {} takes {} bytes, and the route cache knows it",
                    name(&event.record.device).unwrap_or("-".into()),
                    event.record.mtu
                ),
                None,
            ),
        }
    }

    fn made(&self, event: &TooBig, who: &str, to: &str) -> (Finding, String, Option<String>) {
        let MtuLimits { device, mtu, fits } = MtuLimits::of(event);
        let up_to = if self.longest > mtu { format!(" up to {} bytes", self.longest) } else { String::new() };
        let sends = format!("{who} sends{up_to} with DF to {to} and is told so");
        let takes = match event.limit() {
            Some(Limit::Path) => format!("the path behind {device} is known to take {mtu} bytes"),
            _ => format!("{device} takes {mtu} bytes"),
        };
        let sender = format!("set the MTU of {who}'s interface to at most {fits}");
        // Where a tunnel's own packet is too large, who is inside is not told: the message goes to the tunnel's end.
        if let Some(inner) = event.tunnel() {
            let tunnel = inner.tunnel.name();
            return (
                Finding::SmallUnderlay,
                format!(
                    "{takes}, {tunnel} adds {}: only {fits} of {who}'s bytes to {to} fit, and the message goes to the tunnel's end, not to {who}",
                    inner.overhead
                ),
                Some(format!("set the {tunnel} device and the interfaces behind it to {fits}")),
            );
        }
        match event.limit() {
            Some(Limit::Tunnel) => (
                Finding::SmallUnderlay,
                format!(
                    "what carries {device} ({}, MTU {}) takes {mtu} bytes: {sends}",
                    kind_of(&event.record.route).unwrap_or("-".into()),
                    event.record.route.mtu
                ),
                Some(format!("set {device} and the interfaces behind it to {mtu}")),
            ),
            Some(Limit::Route) => (
                Finding::SmallRoute,
                format!(
                    "the route to {to} by {device} has an MTU of {mtu}, {device} {}: {sends}",
                    event.record.route.mtu
                ),
                Some(format!("{sender}, or take the mtu off the route")),
            ),
            Some(Limit::Path) => (Finding::SmallHop, format!("{takes}: {sends}"), Some(sender)),
            Some(Limit::Device) | None => {
                let kind = if is_tunnel(&event.record.route) {
                    format!(" ({})", kind_of(&event.record.route).unwrap_or_default())
                } else {
                    String::new()
                };
                (
                    Finding::SmallDevice,
                    format!("{device}{kind} takes {mtu} bytes: {sends}"),
                    Some(format!("{sender}, or raise {device} if what is behind it takes more")),
                )
            }
        }
    }
}

/// The numbers most verdicts need.
struct MtuLimits<'a> {
    device: std::borrow::Cow<'a, str>,
    mtu: u32,
    fits: u32,
}

impl<'a> MtuLimits<'a> {
    fn of(event: &'a TooBig) -> Self {
        let mtu = event.record.mtu;
        Self { device: event.by().unwrap_or("this node".into()), mtu, fits: event.fits().unwrap_or(mtu) }
    }
}

fn silent(event: &TooBig, who: &str) -> (Finding, String, Option<String>) {
    let record = &event.record;
    let device = name(&record.device).unwrap_or("-".into());
    let (what, fix) = match (name(&record.route), record.mtu) {
        (Some(peer), mtu) => (
            format!(
                "{device} (MTU {}) hands packets to {peer}, which takes {mtu} bytes and frees what is longer without telling anybody: {who} waits in vain",
                record.device.mtu
            ),
            Some(format!(
                "give both ends of the veth one MTU: {mtu}, or {} if all behind it takes that",
                record.device.mtu
            )),
        ),
        (None, 0) => (
            format!(
                "packets are freed on {device} because the device they go to takes less, and nobody is told: {who} waits in vain"
            ),
            None,
        ),
        (None, mtu) => (
            format!(
                "bridge port {device} takes {mtu} bytes and frees what is longer without telling anybody: {who} waits in vain"
            ),
            Some(format!(
                "give all ports of the bridge, and what sends through it, one MTU: {mtu}, or raise {device}'s"
            )),
        ),
    };
    (Finding::SilentDrop, what, fix)
}

fn received(event: &TooBig, who: &str, to: &str) -> (Finding, String, Option<String>) {
    let MtuLimits { device: hop, mtu, fits } = MtuLimits::of(event);
    if event.is_absurd() {
        let least = if event.record.ip_version == 4 { 68 } else { 1280 };
        return (
            Finding::AbsurdMtu,
            format!(
                "{hop} claims that {mtu} bytes fit on the way from {who} to {to}; no link may take less than {least}: a broken router, or a forged message"
            ),
            None,
        );
    }
    if let Some(inner) = event.tunnel() {
        let tunnel = inner.tunnel.name();
        return (
            Finding::SmallUnderlay,
            format!(
                "hop {hop} of the underlay takes {mtu} bytes, {tunnel} adds {}: only {fits} of {who}'s bytes to {to} fit",
                inner.overhead
            ),
            Some(format!("set the {tunnel} device and the interfaces behind it to {fits}")),
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
        Some(format!("set the MTU of {who}'s interface, or of its route to {to}, to at most {fits}")),
    )
}

fn full_name(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}
