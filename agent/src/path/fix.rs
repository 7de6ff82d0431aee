//! What to set, as a command for the sender's own machine: a route for this destination alone.
//!
//! Not the device: its other end would still send, and drop, what it then does not take, and all other destinations would
//! get less for nothing.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::judge::About;
use super::walk::least_mtu;
use crate::links::{Taken, Way, is_plain};

/// The main routing table.
const MAIN: u32 = 254;

/// Has the sender send at most so many bytes, `until` something else is done.
pub(super) fn send_at_most(mtu: u32, about: &About, until: Option<&str>) -> String {
    if about.address.is_ipv6() && mtu < least_mtu(true) {
        return "mend that link: IPv6 needs 1280 bytes on every one".to_owned();
    }
    let command = about.device.route.as_ref().and_then(|route| command(route, about.address, mtu));
    let act = command.map_or_else(
        || format!("set `mtu {mtu}` for the route to {}", about.address),
        |command| format!("`{command}`"),
    );
    let mut text = format!("{}, {act}", about.who.place);
    if let Some(until) = until {
        text.extend([", until ", until]);
    }
    if about.who.is_plugged {
        text.push_str("; for all destinations, the CNI's MTU (both ends of its veth)");
    }
    text
}

/// The route that packets take, for one address and with an MTU. There is no lock on it: a hop may say less. `None` where
/// it cannot be told whole, or not to a shell.
fn command(route: &Taken, to: IpAddr, mtu: u32) -> Option<String> {
    let mut text = if to.is_ipv6() {
        format!("ip -6 route replace {to}/128")
    } else {
        format!("ip route replace {to}/32")
    };
    let is_single = route.ways.len() == 1;
    if let [way] = &*route.ways {
        text.push_str(&leads(way, to)?);
    }
    if route.table != MAIN {
        let _ = write!(text, " table {}", route.table);
    }
    if let Some(metric) = route.metric {
        let _ = write!(text, " metric {metric}");
    }
    if let Some(source) = route.source {
        let _ = write!(text, " src {source}");
    }
    for (name, value) in &route.options {
        let _ = write!(text, " {name} {value}");
    }
    let _ = write!(text, " mtu {mtu}");
    for way in route.ways.iter().filter(|_| !is_single) {
        let _ = write!(text, " nexthop{} weight {}", leads(way, to)?, way.weight);
    }
    (!route.ways.is_empty()).then_some(text)
}

/// ` via 10.0.0.1 dev eth0`
fn leads(way: &Way, to: IpAddr) -> Option<String> {
    let mut text = String::new();
    if let Some(gateway) = way.gateway {
        let family = if gateway.is_ipv6() && to.is_ipv4() { "inet6 " } else { "" };
        let _ = write!(text, " via {family}{gateway}");
    }
    let _ = write!(text, " dev {}", shown(&way.name)?);
    if way.onlink {
        text.push_str(" onlink");
    }
    Some(text)
}

/// A device's name as it may stand in a command: a pod chooses names, and a shell would obey some.
pub(super) fn shown(device: &str) -> Option<&str> {
    is_plain(device).then_some(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn way(gateway: Option<&str>, name: &str) -> Way {
        Way { gateway: gateway.map(ip), name: name.into(), weight: 1, ..Way::default() }
    }

    fn by(ways: &[Way]) -> Taken {
        Taken { table: MAIN, ways: ways.to_vec(), ..Taken::default() }
    }

    fn told(route: &Taken, to: &str) -> String {
        command(route, ip(to), 1400).unwrap_or_default()
    }

    #[test]
    fn the_route_is_repeated_for_one_address() {
        let eth0 = by(&[way(Some("10.0.0.1"), "eth0")]);
        assert_eq!(told(&eth0, "192.0.2.9"), "ip route replace 192.0.2.9/32 via 10.0.0.1 dev eth0 mtu 1400");
        let direct = Taken { source: Some(ip("10.0.0.2")), ..by(&[way(None, "br-0.7")]) };
        assert_eq!(
            told(&direct, "10.0.0.9"),
            "ip route replace 10.0.0.9/32 dev br-0.7 src 10.0.0.2 mtu 1400"
        );
        let six = by(&[way(Some("fe80::1"), "eth0")]);
        assert_eq!(told(&six, "fd00::9"), "ip -6 route replace fd00::9/128 via fe80::1 dev eth0 mtu 1400");
        assert_eq!(
            told(&six, "192.0.2.9"),
            "ip route replace 192.0.2.9/32 via inet6 fe80::1 dev eth0 mtu 1400"
        );
        let all = Taken {
            mtu: Some(1450),
            table: 100,
            metric: Some(50),
            source: Some(ip("10.0.0.2")),
            options: vec![("initcwnd", 20), ("advmss", 1300)],
            ways: vec![Way { onlink: true, ..way(Some("10.0.0.1"), "eth0") }],
        };
        assert_eq!(
            told(&all, "192.0.2.9"),
            "ip route replace 192.0.2.9/32 via 10.0.0.1 dev eth0 onlink table 100 metric 50 src 10.0.0.2 initcwnd 20 advmss 1300 mtu 1400"
        );
        let two = by(&[way(Some("10.0.0.1"), "eth0"), Way { weight: 3, ..way(Some("10.0.1.1"), "eth1") }]);
        assert_eq!(
            told(&two, "192.0.2.9"),
            "ip route replace 192.0.2.9/32 mtu 1400 nexthop via 10.0.0.1 dev eth0 weight 1 nexthop via 10.0.1.1 dev eth1 weight 3"
        );
    }

    #[test]
    fn what_cannot_be_repeated_is_no_command() {
        assert_eq!(told(&by(&[]), "192.0.2.9"), "");
        for name in ["", "-x", "a;b", "$(reboot)", "`x`"] {
            assert_eq!(told(&by(&[way(None, name)]), "192.0.2.9"), "", "{name}");
            assert_eq!(told(&by(&[way(None, "eth0"), way(None, name)]), "192.0.2.9"), "", "{name}");
        }
    }
}
