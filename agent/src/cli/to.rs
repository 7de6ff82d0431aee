//! `trace mtu --to` and `--walk`: where to walk, from where, and what it may cost.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;

/// The probe whose lines a walk's are.
pub const PROBE: &str = "mtu";

/// A walk along the path to one destination, or to each that segments vanish on the way to.
#[derive(Debug, Args)]
#[command(next_help_heading = "Walk along the path (mtu)")]
pub struct Walk {
    /// Find the hop that takes less, or the one after which packets vanish, on the way to this host
    #[arg(long, env = "R2C_TO", value_name = "HOST[:PORT]")]
    pub to: Option<To>,
    /// Walk to where segments vanish while tracing, from their sender, once an incident: trace mtu --walk -n shop. It sends
    /// packets: one walk at a time, each destination once a minute at most
    #[arg(long, env = "R2C_WALK")]
    pub walk: bool,
    /// Walk from this pod's network namespace
    #[arg(long, env = "R2C_FROM_POD", value_name = "NS/POD")]
    pub from_pod: Option<FromPod>,
    /// Walk from this network namespace: a path, a name in /run/netns, or a process
    #[arg(long, env = "R2C_NETNS", value_name = "PATH|NAME|PID", value_parser = super::name)]
    pub netns: Option<String>,
    /// Walk over IPv4
    #[arg(short = '4', long = "ipv4", env = "R2C_IPV4")]
    pub v4: bool,
    /// Walk over IPv6
    #[arg(short = '6', long = "ipv6", env = "R2C_IPV6")]
    pub v6: bool,
    /// Time in all, of each walk; with --walk at most 30s
    #[arg(long, env = "R2C_TIMEOUT", default_value = "15s", value_parser = time, value_name = "TIME")]
    pub timeout: Duration,
    /// Packets in all, of each walk, answers not counted
    #[arg(long, env = "R2C_MAX_PACKETS", default_value_t = 200, value_parser = super::values::packets, value_name = "N")]
    pub max_packets: u32,
}

fn time(text: &str) -> Result<Duration, String> {
    let bounds = Duration::from_secs(1)..=Duration::from_mins(10);
    super::duration(text)
        .ok()
        .filter(|time| bounds.contains(time))
        .ok_or_else(|| "expected a time from 1s to 10m".to_owned())
}

/// A destination as the user named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct To {
    /// A name or an address.
    pub host: String,
    /// A TCP port.
    pub port: Option<u16>,
}

impl FromStr for To {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str =
            "expected a host such as 10.0.0.1, 10.0.0.1:443, web.shop:80, 2001:db8::1 or [2001:db8::1]:443";
        let (host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']').ok_or(EXPECTED)) {
            Some(bracketed) => {
                let (host, rest) = bracketed?;
                (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or(EXPECTED)?) })
            }
            // An IPv6 address without brackets has no port: where it would begin is not to be told.
            None if text.matches(':').count() > 1 => (text, None),
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let port = match port.map(str::parse) {
            None => None,
            Some(Ok(0) | Err(_)) => return Err(EXPECTED),
            Some(Ok(port)) => Some(port),
        };
        // Of a name whatever a resolver may know; `10.0.0.0/24` and `-` are neither a name nor an address.
        let is_of_host = |c: char| c.is_alphanumeric() || ['.', '-', '_', ':', '%'].contains(&c);
        if host.starts_with(|c: char| c.is_alphanumeric() || c == ':' || c == '_')
            && host.chars().all(is_of_host)
        {
            Ok(Self { host: host.to_owned(), port })
        } else {
            Err(EXPECTED)
        }
    }
}

/// A pod by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FromPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl FromStr for FromPod {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err("expected NAMESPACE/POD, such as shop/cart-0"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_read_as_people_write_them() {
        for (text, host, port) in [
            ("10.0.0.1", "10.0.0.1", None),
            ("10.0.0.1:443", "10.0.0.1", Some(443)),
            ("web.shop:80", "web.shop", Some(80)),
            ("2001:db8::1", "2001:db8::1", None),
            ("[2001:db8::1]", "2001:db8::1", None),
            ("[2001:db8::1]:443", "2001:db8::1", Some(443)),
        ] {
            assert_eq!(text.parse(), Ok(To { host: host.to_owned(), port }), "{text}");
        }
        for text in [
            "", ":80", "a:", "a:0", "a:65536", "a:http", "[::1", "[::1]443", "[]:1", "a b", "a\nb",
            "10.0.0.0/24", "-", "http://a",
        ] {
            assert!(text.parse::<To>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_pod_has_two_names() {
        let pod = FromPod { namespace: "shop".to_owned(), name: "cart-0".to_owned() };
        assert_eq!("shop/cart-0".parse(), Ok(pod));
        for text in ["cart-0", "/cart-0", "shop/", "a/b/c", ""] {
            assert!(text.parse::<FromPod>().is_err(), "{text}");
        }
    }
}
