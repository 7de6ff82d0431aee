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
mod tests;
