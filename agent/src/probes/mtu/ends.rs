//! Whose packets are too large, in words, and what keeps them smaller.

use std::fmt::Display;
use std::net::IpAddr;

use agent_common::mtu::flags;

use super::event::TooBig;
use crate::pod::Pod;
use crate::probe::Pods;
use crate::probe::row::end;

/// What IPv6 needs of a device.
const IPV6_LEAST: u32 = 1280;

/// Both ends in words.
pub(super) struct Ends {
    /// Who sends too much.
    pub(super) who: String,
    /// To whom.
    pub(super) to: String,
    /// The address that a route leads to: it has no port.
    pub(super) address: String,
    /// Whether the sender is this node or a pod of it: what its operator can set.
    pub(super) is_ours: bool,
    /// Whether it is a pod, whose interface has another end on the node.
    is_pod: bool,
    /// Whose route leads there: `this node`, where the address is one of its own.
    routes: String,
    /// The pod it sends to.
    pub(super) receiver: Option<String>,
    /// Bytes of the headers of IP and TCP, if it sends TCP.
    headers: Option<u32>,
}

impl Ends {
    pub(super) fn of(event: &TooBig, pods: &Pods) -> Self {
        let (_, port) = event.ports();
        let who = match (&pods.source, event.source()) {
            (Some(pod), _) => full_name(pod),
            (None, Some(address)) => address.to_string(),
            (None, None) => "this node".to_owned(),
        };
        let is_pod = pods.source.is_some();
        let is_ours = is_pod || event.source().is_none() || event.has_local_sender();
        let is_node = is_ours && !is_pod && !event.has(flags::IN_POD | flags::FOREIGN);
        let routes = if is_node { "this node".to_owned() } else { who.clone() };
        let is_tcp = event.stall().is_some() || event.flow().is_some_and(|flow| flow.protocol == TCP);
        let headers = if event.destination().is_some_and(|to| IpAddr::is_ipv6(&to)) { 60 } else { 40 };
        Self {
            who,
            to: end(pods.destination.as_deref(), event.destination(), port).to_string(),
            address: event.destination().map_or_else(|| "-".to_owned(), |address| address.to_string()),
            is_ours,
            is_pod,
            routes,
            receiver: pods.destination.as_deref().map(full_name),
            headers: is_tcp.then_some(headers),
        }
    }

    /// What keeps all its packets at `fits` bytes: a device takes less, whatever goes by it.
    pub(super) fn sends_less(&self, fits: u32) -> String {
        let Self { who, is_ours, .. } = self;
        if *is_ours {
            // One end of a veth alone drops without a word what the other sends.
            let both = if self.is_pod { "both ends of " } else { "" };
            format!("set the MTU of {both}{who}'s interface to at most {fits}{}", goes_off(fits))
        } else {
            self.asks_for_less(fits)
        }
    }

    /// What keeps its packets to that destination at `fits` bytes.
    pub(super) fn sends_less_there(&self, fits: u32) -> String {
        if !self.is_ours {
            return self.asks_for_less(fits);
        }
        let off = if self.is_pod { goes_off(fits) } else { "" };
        self.route(format_args!("at most {fits}{off}"))
    }

    /// How its route is told what fits.
    pub(super) fn route(&self, fits: impl Display) -> String {
        let Self { routes, address, .. } = self;
        let or = if self.is_pod { ", or of both ends of its interface," } else { "" };
        format!("set the MTU of {routes}'s route to {address}{or} to {fits}")
    }

    /// What keeps its packets at `fits` bytes where several nodes answer at its address: each asks for less in its name. Before
    /// anything translates the address: what comes through a Service has another one behind that.
    pub(super) fn asks_at_its_address(&self, fits: u32) -> String {
        let Self { who, headers, .. } = self;
        match headers {
            Some(headers) => format!(
                "clamp the MSS of what comes for {who} on all of them (`{} -t mangle -A PREROUTING -d {who} -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss {}`)",
                tables(*headers),
                fits.saturating_sub(*headers)
            ),
            None => format!("have all that answer at {who} send packets of at most {fits} bytes"),
        }
    }

    /// What is elsewhere cannot be set from here; but TCP tells it at its begin how much to send, and that can be.
    fn asks_for_less(&self, fits: u32) -> String {
        let Self { who, to, .. } = self;
        let Some(headers) = self.headers else {
            return format!(
                "{who}, which is not known as a pod of this node, would have to send packets of at most {fits} bytes"
            );
        };
        let clamp = format!(
            "`{} -t mangle -A FORWARD -s {} -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss {}`",
            tables(headers),
            self.address,
            fits.saturating_sub(headers)
        );
        match &self.receiver {
            Some(pod) => format!(
                "{who} is not known as a pod of this node, so let TCP ask it for less: in {pod}, give every interface and bridge that its connections come from an MTU of {fits}, or clamp their MSS on this node ({clamp})"
            ),
            None => format!(
                "{who} is not known as a pod of this node, so let TCP ask it for less: clamp the MSS of what {to} opens or answers through this node ({clamp})"
            ),
        }
    }
}

const TCP: u8 = 6;

/// The tool that clamps where the headers of IP and TCP have so many bytes.
const fn tables(headers: u32) -> &'static str {
    if headers == 60 { "ip6tables" } else { "iptables" }
}

/// What such an MTU of a device costs.
pub(super) const fn goes_off(mtu: u32) -> &'static str {
    if mtu < IPV6_LEAST { " (IPv6 goes off on a device below 1280)" } else { "" }
}

fn full_name(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}
