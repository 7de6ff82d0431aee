//! What was read, as rows of a table and as JSON lines: links, routes with numbers of their own, learned path MTUs.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::SystemTime;

use super::overlay::{At, Finding, Judgement, NotJudged, Sum};
use crate::incident::Span;
use crate::links::{Exception, Link, Namespace, Route, Unread};
use crate::pod::Pod;
use crate::sink::{Cell, Column, Field, Level, Line, Says, Told, Value};

/// One thing that was read.
pub(super) enum Row<'a> {
    /// A device, what is below it, and what fits.
    Link { owner: Option<&'a Pod>, link: &'a Link, lower: Option<String>, sum: Option<&'a Sum> },
    /// A route that has an MTU or an MSS of its own.
    Route { owner: Option<&'a Pod>, route: &'a Route, device: &'a str },
    /// A path MTU that was learned.
    Exception { owner: Option<&'a Pod>, learned: &'a Exception, device: &'a str },
}

const WHERE: Column = Column::new("WHERE", 18, false).growing(64);
const INTERFACE: Column = Column::new("INTERFACE", 15, false);
const MTU: Column = Column::new("MTU", 5, false).whole();
const LINKS: [Column; 10] = [
    WHERE,
    INTERFACE,
    Column::new("KIND", 9, false).growing(12),
    MTU,
    Column::new("STATE", 5, true),
    Column::new("LOCAL", 15, true).whole(),
    Column::new("REMOTE", 15, true).whole(),
    Column::new("LOWER", 13, false).growing(64),
    Column::new("ADDS", 4, false).whole(),
    Column::new("FITS", 5, false).whole(),
];
const ROUTES: [Column; 7] = [
    WHERE,
    Column::new("ROUTE", 20, false).growing(43).whole(),
    Column::new("GATEWAY", 15, true).whole(),
    Column::new("TABLE", 5, true).whole(),
    INTERFACE,
    MTU,
    Column::new("ADVMSS", 6, false).whole(),
];
const EXCEPTIONS: [Column; 5] = [
    WHERE,
    Column::new("LEARNED PATH TO", 22, false).growing(39).whole(),
    INTERFACE,
    MTU,
    Column::new("EXPIRES", 7, false).whole(),
];

/// All rows of one namespace. Loopback says nothing to a person, and is left out where `all` is not asked for.
pub(super) fn rows<'a>(
    read: &'a [Namespace],
    at: usize,
    judgement: &'a Judgement,
    all: bool,
) -> Vec<Row<'a>> {
    let Some(namespace) = read.get(at) else { return Vec::new() };
    let owner = namespace.owner.as_deref();
    let name = |index: u32| {
        let device = namespace.links.iter().find(|link| link.index == index);
        device.map_or("", |link| link.name.as_str())
    };
    let links = namespace.links.iter().filter(|link| all || !link.loopback).map(|link| {
        let sum = judgement.sums.get(&At { namespace: at, index: link.index });
        Row::Link { owner, link, lower: lower(read, at, link, sum), sum }
    });
    let routes = namespace.routes.iter().flatten();
    let routes = routes.filter(|route| route.mtu.is_some() || route.advmss.is_some());
    let routes = routes.map(|route| Row::Route { owner, route, device: name(route.device) });
    let learned = namespace.exceptions.iter().flatten();
    let learned = learned.map(|learned| Row::Exception { owner, learned, device: name(learned.device) });
    links.chain(routes).chain(learned).collect()
}

/// What is below a device, or at its other end: `eth0`, `eth0@shop/web-0`; `?` where its namespace was not read.
fn lower(read: &[Namespace], at: usize, link: &Link, sum: Option<&Sum>) -> Option<String> {
    let known = |namespace: usize, index: u32| {
        let other = read.get(namespace)?;
        let name = &other.links.iter().find(|link| link.index == index)?.name;
        Some(match &other.owner {
            _ if namespace == at => name.clone(),
            Some(pod) => format!("{name}@{}/{}", pod.namespace, pod.name),
            None => format!("{name}@host"),
        })
    };
    if let Some(sum) = sum {
        return known(sum.underlay.namespace, sum.underlay.index);
    }
    let index = link.lower.filter(|_| link.tunnel.is_none())?;
    let there = link.lower_netns.map_or(Some(at), |id| read.iter().position(|other| other.id == Some(id)));
    Some(there.and_then(|there| known(there, index)).unwrap_or_else(|| "?".to_owned()))
}

fn place(owner: Option<&Pod>) -> Cow<'static, str> {
    owner.map_or("host".into(), |pod| format!("{}/{}", pod.namespace, pod.name).into())
}

fn digits(number: Option<u32>) -> Cow<'static, str> {
    number.map_or("-".into(), |number| number.to_string().into())
}

fn shown(value: Option<impl ToString>) -> Cow<'static, str> {
    value.map_or("-".into(), |value| value.to_string().into())
}

fn number(number: Option<u32>) -> Value<'static> {
    number.map_or(Value::Absent, |number| Value::Number(number.into()))
}

impl Row<'_> {
    /// The table that it is a row of.
    pub(super) const fn table(&self) -> &'static str {
        match self {
            Self::Link { .. } => "links",
            Self::Route { .. } => "routes",
            Self::Exception { .. } => "exceptions",
        }
    }

    /// Whose namespace it is of.
    pub(super) const fn owner(&self) -> Option<&Pod> {
        match self {
            Self::Link { owner, .. } | Self::Route { owner, .. } | Self::Exception { owner, .. } => *owner,
        }
    }
}

impl Says for Row<'_> {
    fn message(&self, text: &mut String) {
        let place = place(self.owner());
        let said = match self {
            Self::Link { link, .. } => {
                format!("{} ({}) of {place} has MTU {}", link.name, link.kind, link.mtu)
            }
            Self::Route { route, device, .. } => {
                format!("route {} by {device} of {place} has numbers of its own", route.destination)
            }
            Self::Exception { learned, device, .. } => {
                format!(
                    "the path of {place} to {} by {device} takes {} bytes",
                    learned.destination, learned.mtu
                )
            }
        };
        text.push_str(&said);
    }

    fn fields<'a>(&'a self, fields: &mut Vec<Field<'a>>) {
        let owner = ("pod", Value::Pod(self.owner()));
        match self {
            Self::Link { link, lower, sum, .. } => {
                let ip = |ip: Option<_>| ip.map_or(Value::Absent, Value::Ip);
                let text = |text: &'a Option<String>| match text {
                    Some(text) => Value::Interface(text.as_str().into()),
                    None => Value::Absent,
                };
                fields.extend([
                    ("event", Value::Reason("link".into())),
                    owner,
                    ("interface", Value::Interface(link.name.as_str().into())),
                    ("interface_index", Value::Number(link.index.into())),
                    ("interface_kind", Value::Text(link.kind.as_str().into())),
                    ("interface_mtu", Value::Number(link.mtu.into())),
                    ("up", Value::Flag(link.up)),
                    ("lower", text(lower)),
                    ("local_ip", ip(link.tunnel.and_then(|tunnel| tunnel.local))),
                    ("remote_ip", ip(link.tunnel.and_then(|tunnel| tunnel.remote))),
                    ("overhead", number(sum.map(|sum| sum.overhead))),
                    ("takes", number(sum.map(|sum| sum.takes))),
                    ("fits", number(sum.map(|sum| sum.fits))),
                    (
                        "confidence",
                        sum.map_or(Value::Absent, |sum| Value::Text(sum.confidence.name().into())),
                    ),
                ]);
            }
            Self::Route { route, device, .. } => fields.extend([
                ("event", Value::Reason("route".into())),
                owner,
                ("destination", Value::Text(route.destination.to_string().into())),
                ("gateway_ip", route.gateway.map_or(Value::Absent, Value::Ip)),
                ("table", Value::Number(route.table.into())),
                ("interface", Value::Interface((*device).into())),
                ("mtu", number(route.mtu)),
                ("advmss", number(route.advmss)),
            ]),
            Self::Exception { learned, device, .. } => fields.extend([
                ("event", Value::Reason("exception".into())),
                owner,
                ("destination_ip", Value::Ip(learned.destination)),
                ("interface", Value::Interface((*device).into())),
                ("mtu", Value::Number(learned.mtu.into())),
                (
                    "expires_seconds",
                    learned.expires.map_or(Value::Absent, |expires| Value::Number(expires.as_secs())),
                ),
            ]),
        }
    }

    fn cells<'a>(&'a self, cells: &mut Vec<Cell<'a>>) {
        let place = place(self.owner());
        let mut put = |columns: &[Column], texts: &mut dyn Iterator<Item = Cow<'a, str>>| {
            cells.extend(columns.iter().zip(texts).map(|(column, text)| Cell::new(*column, text)));
        };
        match self {
            Self::Link { link, lower, sum, .. } => {
                let state = if link.up { "up" } else { "down" };
                let texts = [
                    place,
                    link.name.as_str().into(),
                    link.kind.as_str().into(),
                    digits(Some(link.mtu)),
                    state.into(),
                    shown(link.tunnel.and_then(|tunnel| tunnel.local)),
                    shown(link.tunnel.and_then(|tunnel| tunnel.remote)),
                    lower.as_deref().unwrap_or("-").into(),
                    digits(sum.map(|sum| sum.overhead)),
                    digits(sum.map(|sum| sum.fits)),
                ];
                put(&LINKS, &mut texts.into_iter());
            }
            Self::Route { route, device, .. } => {
                let texts = [
                    place,
                    route.destination.to_string().into(),
                    shown(route.gateway),
                    digits(Some(route.table)),
                    (*device).into(),
                    digits(route.mtu),
                    digits(route.advmss),
                ];
                put(&ROUTES, &mut texts.into_iter());
            }
            Self::Exception { learned, device, .. } => {
                let texts = [
                    place,
                    learned.destination.to_string().into(),
                    (*device).into(),
                    digits(Some(learned.mtu)),
                    shown(learned.expires.map(|expires| format!("{} s", expires.as_secs()))),
                ];
                put(&EXCEPTIONS, &mut texts.into_iter());
            }
        }
    }
}

/// A finding as a line: that it is so, or that it is so no more.
pub(super) struct Verdict<'a> {
    /// What is wrong.
    pub(super) finding: &'a Finding,
    /// It is not any more.
    pub(super) gone: bool,
}

impl Says for Verdict<'_> {
    fn message(&self, text: &mut String) {
        if self.gone {
            let Finding { name, interface, owner, .. } = self.finding;
            let place = place(owner.as_deref());
            // Writing to a String cannot fail.
            let _ = write!(text, "{} of {interface} ({place}) is gone: it fits, or is no more", name.name());
        } else {
            text.push_str(&self.finding.sentence());
        }
    }

    fn fields<'a>(&'a self, fields: &mut Vec<Field<'a>>) {
        let finding = self.finding;
        let count = u64::try_from(finding.pods.len()).unwrap_or(u64::MAX);
        fields.extend([
            ("event", Value::Reason(if self.gone { "gone" } else { "finding" }.into())),
            ("finding", Value::Text(finding.name.name().into())),
            ("confidence", Value::Text(finding.confidence.name().into())),
            ("pod", Value::Pod(finding.owner.as_deref())),
            ("interface", Value::Interface(finding.interface.as_str().into())),
            ("interface_kind", Value::Text(finding.kind.as_str().into())),
            ("interface_mtu", Value::Number(finding.interface_mtu.into())),
            ("promises", Value::Number(finding.promises.into())),
            ("fits", Value::Number(finding.fits.into())),
            ("fragments", finding.fragments.map_or(Value::Absent, Value::Number)),
            ("hurt_pods", Value::Number(count)),
            ("fix", Value::Text(finding.fix.as_str().into())),
        ]);
    }

    fn cells<'a>(&'a self, _: &mut Vec<Cell<'a>>) {}
}

impl Verdict<'_> {
    /// The line that says it.
    pub(super) fn line(&self, span: Span, at: SystemTime) -> Line<'_> {
        let finding = self.finding;
        Line {
            told: Told::Incident,
            at,
            level: if self.gone { Level::Info } else { Level::Warn },
            probe: super::ORIGIN,
            span,
            pod: finding.owner.as_deref().or(finding.pods.first().map(AsRef::as_ref)),
            says: self,
        }
    }
}

/// What the audit says nothing of: a device or policy that is not judged, or a part of a namespace that was not read.
pub(super) enum Gap<'a> {
    /// It is not judged.
    NotJudged(&'a NotJudged),
    /// It was not read.
    Unread { owner: Option<&'a Pod>, what: &'a str, why: &'a str },
}

impl<'a> Gap<'a> {
    /// Of everything of a namespace that was not read.
    pub(super) fn of(namespace: &'a Namespace, unread: &'a Unread) -> Self {
        Self::Unread { owner: namespace.owner.as_deref(), what: unread.what, why: &unread.why }
    }

    /// Whose namespace it is of.
    pub(super) fn owner(&self) -> Option<&'a Pod> {
        match self {
            Self::NotJudged(one) => one.owner.as_deref(),
            Self::Unread { owner, .. } => *owner,
        }
    }
}

impl Says for Gap<'_> {
    fn message(&self, text: &mut String) {
        let place = place(self.owner());
        let said = match self {
            Self::NotJudged(one) => {
                format!("{} ({}) of {place} is not judged: {}", one.subject, one.kind, one.why)
            }
            Self::Unread { what, why, .. } => format!("{what} of {place} not read: {why}"),
        };
        text.push_str(&said);
    }

    fn fields<'a>(&'a self, fields: &mut Vec<Field<'a>>) {
        let (subject, kind, why, unread) = match self {
            Self::NotJudged(one) => {
                let subject = Value::Interface(one.subject.as_str().into());
                (subject, Value::Text(one.kind.as_str().into()), one.why.as_ref(), one.unread)
            }
            Self::Unread { what, why, .. } => (Value::Text((*what).into()), Value::Absent, *why, true),
        };
        fields.extend([
            ("event", Value::Reason("not_judged".into())),
            ("pod", Value::Pod(self.owner())),
            ("subject", subject),
            ("interface_kind", kind),
            ("why", Value::Text(why.into())),
            ("unread", Value::Flag(unread)),
        ]);
    }

    fn cells<'a>(&'a self, _: &mut Vec<Cell<'a>>) {}
}

#[cfg(test)]
mod tests;
