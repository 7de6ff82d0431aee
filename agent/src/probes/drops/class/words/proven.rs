//! What the evidence proves, and what cures that.

use std::net::{IpAddr, SocketAddr};

use super::{About, Home};
use crate::kernel::limits::{Chain, Fill, Loss, Netem, Policed, Port};
use crate::probes::drops::evidence::Evidence;

/// What the evidence says, as the end of a sentence.
pub(super) fn means(evidence: &Evidence, about: &About<'_>) -> String {
    match evidence {
        Evidence::Neighbours(Fill { entries, limit }) => format!(
            "the neighbour table is full: {entries} entries of {limit} (net.{}.neigh.default.gc_thresh3)",
            about.family()
        ),
        Evidence::Conntrack(Fill { entries, limit }) => format!(
            "conntrack's table is full: {entries} connections of {limit} (net.netfilter.nf_conntrack_max)"
        ),
        Evidence::Invalid(chains) if chains.is_empty() => {
            "a rule refused it, and conntrack knows no connection of it: it may call it INVALID (it has not seen the connection begin, by an asymmetric path, or has forgotten it)".to_owned()
        }
        Evidence::Invalid(chains) => format!(
            "conntrack calls it INVALID, and chain {} has a rule that drops such packets: it has not seen the connection begin (an asymmetric path), or has forgotten it",
            named(chains)
        ),
        Evidence::InvalidMessage(chains) if chains.is_empty() => {
            "a rule refused this message about a packet whose connection conntrack does not know: conntrack may call the message INVALID (the connection is another node's that answers at the same address, takes another way, or is forgotten)".to_owned()
        }
        Evidence::InvalidMessage(chains) => format!(
            "conntrack calls it INVALID, and chain {} has a rule that drops such packets: it is a message about a packet whose connection is not known here (it is another node's that answers at the same address, takes another way, or is forgotten)",
            named(chains)
        ),
        Evidence::NotTranslated(expected) => format!(
            "not translated back, or sent from another of the server's addresses: a socket with that port waits for an answer from {expected}, and this one comes from another address"
        ),
        Evidence::Listens { at, asked } => listens(*at, *asked, about),
        Evidence::OtherPorts { asked, listen } => format!(
            "nobody listens on port {asked} there; programs there listen on {}",
            match listen.iter().map(u16::to_string).collect::<Vec<_>>().as_slice() {
                [one] => format!("port {one}"),
                [all @ .., last] => format!("ports {} and {last}", all.join(", ")),
                [] => "none".to_owned(),
            }
        ),
        Evidence::TalksTo(peer) => format!(
            "it belongs to no connection that is open there: the socket with that port talks to {peer}; if that is a service of the sender's, its packets are no longer translated back, else they are late ones of an earlier connection"
        ),
        Evidence::OtherStation(address) => format!(
            "{address} is this pod's, and its frame is for another station: who sent it has an old neighbour entry (the address was another pod's before), or two have the address"
        ),
        Evidence::OtherHop(address) => format!(
            "it came by {} for {address}, a pod of this node, and its frame is for another station: who sent it has an old neighbour entry for this node, as when that device was made anew with another MAC",
            about.device()
        ),
        Evidence::Burst(bucket) => format!(
            "a frame of {} bytes is more than the token bucket of {} ever holds ({})",
            about.frame,
            about.device(),
            bucket.lacks(about.frame)
        ),
        Evidence::Loses(Netem { loss, .. }) => format!(
            "the network emulator (netem) of {} loses packets on purpose ({}), or its queue was full",
            about.device(),
            match loss {
                Loss::Random(share) => format!("loss {}%", percent(*share)),
                Loss::Model => "by a model of loss".to_owned(),
            }
        ),
        Evidence::Policer { length, less } => format!(
            "a packet of {length} bytes is more than the policer of {} ever lets pass ({})",
            about.device(),
            of_policer(*less, |what, bytes| format!("{what} {bytes}"), ", ")
        ),
        Evidence::Ports { length, less } => format!(
            "a packet of {length} bytes is more than a port of Open vSwitch takes, which tells nobody: {} less; or the port that it was to leave by is down",
            of_ports(less)
        ),
    }
}

/// What an operator can do about it.
pub(super) fn fix(evidence: &Evidence, about: &About<'_>) -> String {
    match evidence {
        Evidence::Neighbours(Fill { limit, .. }) => format!(
            "`sysctl -w net.{family}.neigh.default.gc_thresh3={} net.{family}.neigh.default.gc_thresh2={limit}` on the node, and more if it fills up again",
            2 * limit,
            family = about.family()
        ),
        Evidence::Conntrack(Fill { limit, .. }) => format!(
            "`sysctl -w net.netfilter.nf_conntrack_max={}` on the node, and more if it fills up again; `conntrack -L`{} shows who fills it",
            2 * limit,
            // All namespaces have the node's limit, and a table each.
            about.home.filter(|home| **home != Home::Host).map(|home| format!(" in {home}")).unwrap_or_default()
        ),
        Evidence::Invalid(chains) => {
            format!("{}{}", let_pass(about, "it"), first_in(chains))
        }
        Evidence::InvalidMessage(chains) => format!(
            "`r2c-agent trace mtu` says whose connection a message about size belongs to, and what cures. If it is another node's, no rule here helps; if it is this node's, {}{}",
            let_pass(about, "the message"),
            first_in(chains)
        ),
        Evidence::NotTranslated(expected) => format!(
            "let the answer pass where the packets to {expected} are translated: between pods of one bridge `modprobe br_netfilter` and `sysctl -w net.bridge.bridge-nf-call-iptables=1` (net.bridge.bridge-nf-call-ip6tables=1); if nothing translates them, let the server answer from the address that it is asked at"
        ),
        Evidence::Listens { at, asked } => listens_fix(*at, *asked, about),
        Evidence::OtherPorts { .. } => "start what should listen there, or mend the port that the sender uses (of a Service: its targetPort)".to_owned(),
        Evidence::TalksTo(peer) => format!(
            "if {peer} is a service of the sender's, see why NAT has forgotten the connection: a conntrack table that is full or was flushed (`conntrack -S`), or an answer that goes past the node that translates"
        ),
        Evidence::OtherStation(address) => format!(
            "`ip neigh flush to {address} nud all` where it was sent (an entry that the network plugin set for good it must set anew); if the old one comes back, another has the address, too: `ip neigh show {address}` there tells its MAC"
        ),
        Evidence::OtherHop(_) => format!(
            "`ip link show {}` on this node tells the MAC that it must be sent to: where it was sent, `ip neigh` shows another for the next hop; `ip neigh flush to NEXT-HOP nud all` there, and an entry that the network plugin set for good it must set anew (restart the plugin on this node: it tells the others)",
            about.device()
        ),
        // Room for a full frame of the device, with its link header.
        Evidence::Burst(bucket) => bucket.cure(about.device().as_ref(), about.frame.max(about.mtu + 14)),
        Evidence::Loses(Netem { parent, .. }) => {
            let device = about.device();
            let mended = match parent {
                None => format!("tc qdisc del dev {device} root"),
                // What a token bucket is to take is lost as well where nothing is below it.
                Some((major, minor)) => {
                    format!("tc qdisc replace dev {device} parent {major:x}:{minor:x} pfifo")
                }
            };
            // A root takes along what is below it.
            let along = if parent.is_none() { ", with what is below it" } else { "" };
            format!("`{mended}`, if no test wants it (`tc -s qdisc show dev {device}` shows it{along})")
        }
        Evidence::Policer { length, less } => {
            let whole = (*length).max(about.mtu + 14);
            // `tc` cuts a burst to whole microseconds: at 10 Gbit/s one is 1250 bytes.
            let enough = if less.burst.is_some() { 2 * whole } else { whole };
            format!(
                "give the policer of {} {} of {enough} bytes or more (`tc actions replace action police`, with the index that `tc filter show` tells)",
                about.device(),
                of_policer(
                    *less,
                    |what, _| format!("{} {what}", if what == "mtu" { "an" } else { "a" }),
                    " and "
                )
            )
        }
        Evidence::Ports { .. } => {
            "`dmesg` names the port (dropped over-mtu packet): give it, and who sends through it, one MTU (`ip link set dev PORT mtu`, `ovs-vsctl set interface PORT mtu_request=` of a port of the bridge's own); `ip link` shows a port that is down".to_owned()
        }
    }
}

/// Why a program that listens does not get what is sent to its port.
enum Missed {
    /// It listens at an address of its own.
    Elsewhere,
    /// It listens at all addresses of IPv4, and was asked by IPv6.
    Ipv4Alone,
    /// Nothing that its address tells: it may be told to take IPv6 alone, which lists of sockets do not say.
    Unseen(&'static str),
}

impl Missed {
    fn of(at: SocketAddr, asked: IpAddr) -> Self {
        match at.ip() {
            ip if ip != asked && !ip.is_unspecified() => Self::Elsewhere,
            ip if ip.is_ipv4() && asked.is_ipv6() => Self::Ipv4Alone,
            ip if ip.is_ipv6() && asked.is_ipv4() => Self::Unseen("takes IPv6 alone, "),
            _ => Self::Unseen(""),
        }
    }
}

fn listens(at: SocketAddr, asked: IpAddr, about: &About<'_>) -> String {
    match Missed::of(at, asked) {
        Missed::Elsewhere => format!("nobody listens there on {asked}: a program listens on {at} alone"),
        Missed::Ipv4Alone => {
            format!("nobody listens there by IPv6: a program listens on {at}, which takes IPv4 alone")
        }
        Missed::Unseen(or) => format!(
            "nobody took it, though a program listens on {at} now: its socket {or}was not ready yet, or is bound to another device or VRF{}",
            // Where there are no reasons all that TCP refuses before it looks at the connection ends in one place.
            if about.reason.is_empty() {
                ", or refuses it (of TCP: a signature, as BGP uses them, that is missing, wrong or not expected)"
            } else {
                ""
            }
        ),
    }
}

fn listens_fix(at: SocketAddr, asked: IpAddr, about: &About<'_>) -> String {
    let any = if asked.is_ipv4() { "0.0.0.0" } else { "[::]" };
    match Missed::of(at, asked) {
        Missed::Elsewhere => {
            // Nobody outside reaches a loopback address.
            let or = if at.ip().is_loopback() { "" } else { ", or the sender use that address" };
            format!("let the program listen on {any} or {asked} instead of {} (its own setting){or}", at.ip())
        }
        Missed::Ipv4Alone => {
            format!("let the program listen on {any} as well, or the sender use its IPv4 address")
        }
        Missed::Unseen(or) => {
            let family = if or.is_empty() {
                ""
            } else {
                ", and `*` for the address where it takes both families: if not, let the program listen on 0.0.0.0 as well"
            };
            format!(
                "if it goes on, `ss -lntu sport = :{}` tells the device that its socket is bound to, after `%`{family}; let it be bound to no device, and for packets of a VRF `sysctl -w net.ipv4.tcp_l3mdev_accept=1 net.ipv4.udp_l3mdev_accept=1`. If it does not go on, a readiness probe keeps requests away until it is ready{}",
                at.port(),
                if about.reason.is_empty() {
                    "; of TCP, `nstat -az 'TcpExtTCPMD5*'` there tells whether signatures are refused: give both ends the same key, or none"
                } else {
                    ""
                }
            )
        }
    }
}

/// `pb (1400) takes`, `pb (1400), pc (1450) and 2 more take`.
fn of_ports(ports: &[Port]) -> String {
    /// A node may have hundreds.
    const NAMED: usize = 3;
    let named: Vec<_> =
        ports.iter().take(NAMED).map(|Port { name, mtu }| format!("{name} ({mtu})")).collect();
    let more = match ports.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more} {}", named.join(", "), if ports.len() == 1 { "takes" } else { "take" })
}

/// What of a policer is less, as `say` says it.
fn of_policer(less: Policed, say: impl Fn(&str, u32) -> String, between: &str) -> String {
    let both = [("burst", less.burst), ("mtu", less.mtu)];
    let said = both.into_iter().filter_map(|(what, bytes)| bytes.map(|bytes| say(what, bytes)));
    said.collect::<Vec<_>>().join(between)
}

/// A share of 2^32, rounded to hundredths of a percent.
fn percent(share: u32) -> f64 {
    (f64::from(share) / f64::from(u32::MAX) * 10_000.0).round() / 100.0
}

/// Chains by name, any of which it may be.
fn named(chains: &[Chain]) -> String {
    let named =
        chains.iter().map(|Chain { family, table, name }| format!("{name} (nft table {family} {table})"));
    named.collect::<Vec<_>>().join(" or ")
}

/// What lets such a packet be what conntrack knows, or pass although it is not.
fn let_pass(about: &About<'_>, what: &str) -> String {
    format!(
        "route both directions through this node, or let {what} pass before the rule that drops `ct state invalid` ({})",
        about.rules()
    )
}

/// Where to look for that rule.
fn first_in(chains: &[Chain]) -> String {
    if chains.is_empty() { String::new() } else { format!(": look first in chain {}", named(chains)) }
}
