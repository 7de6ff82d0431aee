//! What a person asked for, by what the values of a line mean; knows no probe.

use std::io;
use std::net::IpAddr;
use std::num::NonZeroU64;

use ipnet::IpNet;

use super::{Field, Level, Line, Sink, Told, Value, Written};
use crate::pod::{Pod, PodPattern};

/// What a person wants to see. An empty list asks nothing; of several values in one list any will do; every list
/// that is not empty must be satisfied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Lines that matter less than this are not wanted.
    pub level: Level,
    /// Namespaces of the pods of interest (`-n`).
    pub namespace: Vec<String>,
    /// Which pods are of interest (`--pod`). With `namespace`, one and the same pod must satisfy both.
    pub pod: Vec<PodPattern>,
    /// Networks of the addresses of interest (`--ip`).
    pub ip: Vec<IpNet>,
    /// Transport ports at either end (`--port`).
    pub port: Vec<u16>,
    /// Interfaces (`-i`).
    pub interface: Vec<String>,
    /// Reasons, in either case (`--reason`).
    pub reason: Vec<String>,
}

/// What a filter says of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It is wanted.
    For,
    /// It is not, but it may tell more of what is: it has another reason, is at another interface, or does not say whose it is.
    Perhaps,
    /// It is about other pods, addresses or ports. What is wanted must not be told with it: of eight packets nobody is to read
    /// "10,000".
    Never,
}

/// What `--ip` accepts: an address or a network in CIDR notation, of either family.
///
/// # Errors
/// A sentence that says what would have been right.
pub fn parse_network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpAddr>()
        .map(|address| IpNet::from(address.to_canonical()))
        .or_else(|_| text.parse::<IpNet>().map(unmapped))
        .map_err(|_| "expected an address or a network such as 10.0.0.1, 10.0.0.0/8 or fd00::/8".to_owned())
}

/// A network of IPv4 addresses as IPv6 writes them (`::ffff:10.0.0.0/104`) is that network: lines have IPv4 addresses as such.
fn unmapped(network: IpNet) -> IpNet {
    let length = network.prefix_len().checked_sub(96);
    match (network.addr().to_canonical(), length) {
        (address @ IpAddr::V4(_), Some(length)) if network.addr().is_ipv6() => {
            IpNet::new(address, length).unwrap_or(network)
        }
        _ => network,
    }
}

impl Filter {
    /// Whether some value of a line decides, beside how much it matters.
    #[must_use]
    pub fn is_narrow(&self) -> bool {
        let Self { level, .. } = *self;
        *self != Self { level, ..Self::default() }
    }

    /// Whether events of these reasons are wanted, whatever else they are.
    #[must_use]
    pub fn wants_reasons(&self, reasons: &[String]) -> bool {
        self.reason.is_empty() || reasons.iter().any(|reason| self.wants_reason(reason))
    }

    /// Whether events with these pods at their ends are wanted, whatever else they are.
    #[must_use]
    pub fn wants_pods<'a>(&self, pods: impl IntoIterator<Item = &'a Pod>) -> bool {
        !self.is_about_pods() || pods.into_iter().any(|pod| self.wants_pod(pod))
    }

    /// Whether it asks for pods.
    #[must_use]
    pub fn is_about_pods(&self) -> bool {
        !(self.namespace.is_empty() && self.pod.is_empty())
    }

    /// Whether `line` is wanted. A value that is absent satisfies nothing.
    #[must_use]
    pub fn wants(&self, line: &Line<'_>) -> bool {
        line.level >= self.level && self.asks(line.pod, |fields| line.says.fields(fields)) == Asked::For
    }

    /// Whether what is about `pod` and has these `fields` is asked for, however much it matters.
    pub fn asks<'a>(&self, pod: Option<&Pod>, fields: impl FnOnce(&mut Vec<Field<'a>>)) -> Asked {
        // Most filters ask for a level alone: fields that nobody asks for are not made.
        if !self.is_narrow() {
            return Asked::For;
        }
        let mut made = Vec::new();
        fields(&mut made);
        let fields = made.iter().map(|(_, value)| value);
        // Whether one of the values of a kind is wanted; `None` if there is no such value.
        let any = |wants: &dyn Fn(&Value<'_>) -> Option<bool>| fields.clone().filter_map(wants).max();
        let pods = any(&|value| match value {
            Value::Pod(Some(pod)) => Some(self.wants_pod(pod)),
            _ => None,
        });
        let whose = [
            (self.is_about_pods(), pod.map(|pod| self.wants_pod(pod)).max(pods)),
            (
                !self.ip.is_empty(),
                any(&|value| match value {
                    Value::Ip(ip) => Some(self.wants_ip(*ip)),
                    _ => None,
                }),
            ),
            (
                !self.port.is_empty(),
                any(&|value| match value {
                    Value::Port(port) => Some(self.port.contains(port)),
                    Value::Portless => Some(false),
                    _ => None,
                }),
            ),
        ];
        let what = [
            (
                !self.interface.is_empty(),
                any(&|value| match value {
                    Value::Interface(name) => Some(self.interface.iter().any(|wanted| wanted == name)),
                    _ => None,
                }),
            ),
            (
                !self.reason.is_empty(),
                any(&|value| match value {
                    Value::Reason(why) => Some(self.wants_reason(why)),
                    _ => None,
                }),
            ),
        ];
        let mut asked = whose.iter().chain(&what).filter(|(is_asked, _)| *is_asked);
        if asked.all(|(_, has)| *has == Some(true)) {
            Asked::For
        } else if whose.iter().any(|(is_asked, has)| *is_asked && *has == Some(false)) {
            Asked::Never
        } else {
            Asked::Perhaps
        }
    }

    /// Whether a line about `pod` is wanted, as far as namespaces and pods go.
    #[must_use]
    pub fn wants_pod(&self, pod: &Pod) -> bool {
        (self.namespace.is_empty() || self.namespace.contains(&pod.namespace))
            && (self.pod.is_empty() || self.pod.iter().any(|pattern| pattern.matches(pod)))
    }

    /// An IPv4 address that the kernel saw through an IPv6 socket (`::ffff:10.0.0.1`) is that IPv4 address.
    fn wants_ip(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.ip.iter().any(|network| network.contains(&ip))
    }

    /// Whether a reason is one of those that are asked for.
    #[must_use]
    pub fn wants_reason(&self, reason: &str) -> bool {
        self.reason.iter().any(|wanted| wanted.eq_ignore_ascii_case(reason))
    }
}

/// Ends after so many lines have gone out (`--max-events`).
#[derive(Debug)]
pub struct Limited<S> {
    inner: S,
    left: u64,
}

impl<S: Sink> Limited<S> {
    /// `inner`, for `max` lines. Lines that do not go out are not counted.
    pub fn new(inner: S, max: NonZeroU64) -> Self {
        Self { inner, left: max.get() }
    }
}

impl<S: Sink> Sink for Limited<S> {
    /// As [`Sink::write`]; after the last event no more of them go out, only what they add up to.
    fn write(&mut self, line: &Line<'_>) -> io::Result<Written> {
        if line.told == Told::Incident {
            return self.inner.write(line);
        }
        if self.left == 0 {
            return Ok(Written::Filtered);
        }
        let written = self.inner.write(line)?;
        if written != Written::Yes {
            return Ok(written);
        }
        self.left -= 1;
        Ok(if self.left == 0 { Written::Last } else { Written::Yes })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::slice;
    use std::time::SystemTime;

    use super::*;
    use crate::incident::Span;
    use crate::sink::{Field, Level, Saying};

    fn pod(namespace: &str, name: &str) -> Pod {
        Pod { namespace: namespace.into(), name: name.into(), uid: "u".into() }
    }

    fn saying<'a>(fields: &'a [Field<'a>]) -> Saying<'a> {
        Saying { message: "m", fields, cells: &[] }
    }

    fn line<'a>(pod: Option<&'a Pod>, says: &'a Saying<'a>) -> Line<'a> {
        Line {
            told: Told::Event,
            at: SystemTime::UNIX_EPOCH,
            level: Level::Info,
            probe: "drops",
            span: Span::root(),
            pod,
            says,
        }
    }

    fn list<T: From<&'static str>>(values: &[&'static str]) -> Vec<T> {
        values.iter().map(|value| T::from(value)).collect()
    }

    /// Whether `filter` wants the one event all these tests ask about.
    fn wants(filter: &Filter) -> bool {
        let (web, db) = (pod("shop", "web"), pod("data", "db"));
        let fields = [
            ("src", Value::Ip("10.1.2.3".parse().unwrap())),
            ("dst", Value::Ip("::ffff:192.0.2.7".parse().unwrap())),
            ("dst_port", Value::Port(443)),
            ("pid", Value::Number(80)),
            ("dev", Value::Interface("eth0".into())),
            ("comm", Value::Text("lo".into())),
            ("reason", Value::Reason("NO_SOCKET".into())),
            ("dst_pod", Value::Pod(Some(&db))),
            ("ttl", Value::Absent),
        ];
        filter.wants(&line(Some(&web), &saying(&fields)))
    }

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| parse_network(text).unwrap()).collect()
    }

    #[test]
    fn nothing_asked_wants_everything() {
        assert!(wants(&Filter::default()));
        assert!(Filter::default().wants(&line(None, &saying(&[]))));
    }

    #[test]
    fn pods_at_both_ends_count_and_one_pod_must_satisfy_all() {
        let asked = |namespace: &[&'static str], pod: &[&'static str]| {
            let pod = pod.iter().map(|text| text.parse().unwrap()).collect();
            wants(&Filter { namespace: list(namespace), pod, ..Filter::default() })
        };
        assert!(asked(&["shop"], &[]));
        assert!(asked(&["data"], &[]));
        assert!(asked(&[], &["db"]));
        assert!(asked(&["none", "shop"], &["web"]));
        assert!(!asked(&["shop"], &["db"]), "web's namespace with db's name is nobody");
        assert!(!asked(&["sho"], &[]));
        assert!(asked(&[], &["shop/web"]) && asked(&[], &["cart", "we*"]) && asked(&["data"], &["data/*"]));
        assert!(!asked(&[], &["data/web"]) && !asked(&["data"], &["shop/*"]) && !asked(&[], &["WEB"]));
    }

    #[test]
    fn addresses_and_networks_of_both_families() {
        let asked = |texts: &[&str]| wants(&Filter { ip: networks(texts), ..Filter::default() });
        assert!(asked(&["10.1.2.3"]));
        assert!(asked(&["10.9.9.9/8"]));
        assert!(asked(&["192.0.2.7"]), "an IPv4 address inside IPv6 is itself");
        assert!(asked(&["fd00::/8", "192.0.2.0/24"]));
        assert!(!asked(&["10.1.2.4"]));
        assert!(!asked(&["::/0"]));
        for wrong in ["", "10.0.0", "10.0.0.0/33", "web", "10.0.0.1:80", "fe80::1%eth0"] {
            assert!(parse_network(wrong).unwrap_err().contains("10.0.0.0/8"), "{wrong}");
        }
    }

    #[test]
    fn values_match_by_meaning_not_by_text() {
        assert!(wants(&Filter { port: vec![80, 443], ..Filter::default() }));
        assert!(!wants(&Filter { port: vec![80], ..Filter::default() }), "a pid is no port");
        assert!(wants(&Filter { interface: list(&["eth0"]), ..Filter::default() }));
        assert!(!wants(&Filter { interface: list(&["lo"]), ..Filter::default() }), "a comm is no interface");
        assert!(wants(&Filter { reason: list(&["no_socket"]), ..Filter::default() }));
        assert!(!wants(&Filter { reason: list(&["NO_SOCKE"]), ..Filter::default() }));
    }

    #[test]
    fn every_kind_asked_must_match() {
        let both = Filter { port: vec![443], interface: list(&["eth1"]), ..Filter::default() };
        assert!(!wants(&both));
        let absent = [("p", Value::Absent)];
        let port = Filter { port: vec![443], ..Filter::default() };
        assert!(!port.wants(&line(None, &saying(&absent))));
    }

    /// What is about others is kept apart from what only does not say whom it is about, or tells another part of it.
    #[test]
    fn what_may_tell_more_of_what_is_asked_for_is_told_from_what_cannot() {
        let (web, db) = (pod("shop", "web"), pod("data", "db"));
        let filter = |filter: &Filter, whose: Option<&Pod>, fields: &[Field<'_>]| {
            filter.asks(whose, |made| made.extend_from_slice(fields))
        };
        let (ours, others) = (("port", Value::Port(443)), ("port", Value::Port(80)));
        let port = Filter { port: vec![443], ..Filter::default() };
        assert_eq!(filter(&port, None, &[others.clone(), ours.clone()]), Asked::For);
        assert_eq!(filter(&port, None, slice::from_ref(&others)), Asked::Never);
        assert_eq!(filter(&port, None, &[("port", Value::Absent)]), Asked::Perhaps);
        assert_eq!(filter(&port, None, &[("port", Value::Portless)]), Asked::Never);
        let address = |text: &str| ("ip", Value::Ip(text.parse().unwrap()));
        let ip = Filter { ip: networks(&["10.0.0.0/8"]), ..Filter::default() };
        let asked = [&[address("10.1.2.3"), address("::1")][..], &[address("::1")], &[]]
            .map(|fields| filter(&ip, None, fields));
        assert_eq!(asked, [Asked::For, Asked::Never, Asked::Perhaps]);
        let pods = Filter { namespace: list(&["shop"]), ..Filter::default() };
        let at_end = [("pod", Value::Pod(Some(&web)))];
        assert_eq!(filter(&pods, Some(&db), &at_end), Asked::For);
        assert_eq!(filter(&pods, Some(&db), &[("pod", Value::Pod(None))]), Asked::Never);
        assert_eq!(filter(&pods, None, &[("pod", Value::Pod(None))]), Asked::Perhaps);
        // Another event of the same conversation.
        let reason = Filter { reason: list(&["lost"]), port: vec![443], ..Filter::default() };
        let made = ("event", Value::Reason("made".into()));
        assert_eq!(filter(&reason, None, &[made.clone(), ours]), Asked::Perhaps);
        assert_eq!(filter(&reason, None, &[made, others]), Asked::Never);
        let device = Filter { interface: list(&["eth0"]), ..Filter::default() };
        assert_eq!(filter(&device, None, &[("dev", Value::Interface("eth1".into()))]), Asked::Perhaps);
    }

    #[test]
    fn what_a_level_alone_decides_is_not_put_into_words() {
        struct Mute;
        impl crate::sink::Says for Mute {
            fn message(&self, _: &mut String) {
                panic!("no filter reads messages");
            }

            fn fields<'a>(&'a self, _: &mut Vec<Field<'a>>) {
                panic!("nobody asked");
            }

            fn cells<'a>(&'a self, _: &mut Vec<crate::sink::Cell<'a>>) {
                panic!("no filter reads cells");
            }
        }
        let nothing = saying(&[]);
        let info = Line { says: &Mute, ..line(None, &nothing) };
        let from = |level| Filter { level, ..Filter::default() };
        assert!(from(Level::Info).wants(&info));
        assert!(!from(Level::Warn).wants(&info));
        assert!(!Filter { port: vec![443], ..from(Level::Warn) }.wants(&info));
    }

    /// Answers so, one by one; then that it is out.
    struct Answers(std::collections::VecDeque<Written>);

    impl Sink for Answers {
        fn write(&mut self, _: &Line<'_>) -> io::Result<Written> {
            Ok(self.0.pop_front().unwrap_or(Written::Yes))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_limit_counts_only_what_went_out() {
        let two = NonZeroU64::new(2).unwrap();
        let mut sink = Limited::new(Answers([Written::Yes, Written::Refused].into()), two);
        let says = saying(&[]);
        assert_eq!(sink.write(&line(None, &says)).unwrap(), Written::Yes);
        assert_eq!(sink.write(&line(None, &says)).unwrap(), Written::Refused);
        assert_eq!(sink.write(&line(None, &says)).unwrap(), Written::Last);
        assert_eq!(sink.write(&line(None, &says)).unwrap(), Written::Filtered);
        let verdict = Line { told: Told::Incident, ..line(None, &says) };
        assert_eq!(sink.write(&verdict).unwrap(), Written::Yes, "what they add up to is no event");
    }
}
