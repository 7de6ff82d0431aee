//! What one flag's value may be, and what is said of one that is not.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use crate::sink::filter::parse_network;

/// A value of `--ip`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpAsked {
    /// The addresses that are wanted.
    pub network: IpNet,
    /// It was written with a length: `10.0.0.1/32` skips the check that somebody has the address.
    pub as_network: bool,
}

impl FromStr for IpAsked {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self { network: parse_network(text)?, as_network: text.contains('/') })
    }
}

/// Any text but none at all: an empty name would match nothing, silently.
pub(super) fn name(text: &str) -> Result<String, &'static str> {
    if text.trim().is_empty() { Err("it is empty") } else { Ok(text.to_owned()) }
}

/// A time.
pub(super) fn duration(text: &str) -> Result<Duration, &'static str> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    text.parse::<u64>()
        .map(Duration::from_secs)
        .or_else(|_| humantime::parse_duration(text))
        .map_err(|_| "expected a time such as 30s, 5m or 0")
}

/// A transport port.
pub(super) fn port(text: &str) -> Result<u16, &'static str> {
    // No packet that is traced has port 0: to ask for it would show nothing, and look as if all were well.
    text.parse().ok().filter(|port| *port > 0).ok_or("expected a port's number from 1 to 65535, such as 443")
}

/// How many events are enough.
pub(super) fn events(text: &str) -> Result<NonZeroU64, &'static str> {
    text.parse().map_err(|_| "expected a number of events from 1 on; without it there is no limit")
}

/// A number from none on.
pub(super) fn number(text: &str) -> Result<u32, &'static str> {
    text.parse().map_err(|_| "expected a number from 0 to 4294967295")
}

/// Drops of a self-test's run.
pub(super) fn drops(text: &str) -> Result<u64, &'static str> {
    let drops = text.parse().ok().filter(|drops| (100..=100_000_000).contains(drops));
    drops.ok_or("expected a number from 100 to 100000000")
}

/// Runs of a self-test.
pub(super) fn runs(text: &str) -> Result<u32, &'static str> {
    text.parse().ok().filter(|runs| (1..=1000).contains(runs)).ok_or("expected a number from 1 to 1000")
}

/// Packets of a walk.
pub(super) fn packets(text: &str) -> Result<u32, &'static str> {
    text.parse().ok().filter(|packets| (2..=1000).contains(packets)).ok_or("expected a number from 2 to 1000")
}

/// Size of a ring.
pub(super) fn ring_kib(text: &str) -> Result<u32, &'static str> {
    match text.parse::<u32>() {
        Ok(kib) if kib.is_power_of_two() && (4..=1 << 20).contains(&kib) => Ok(kib),
        _ => Err("expected a power of two from 4 to 1048576"),
    }
}

/// Where to listen.
pub(super) fn listen(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let port = text.strip_prefix(':').unwrap_or(text).parse::<u16>();
    Err(match (port, text.parse::<IpAddr>()) {
        (Ok(port), _) => {
            format!("the host is missing: 127.0.0.1:{port} is for this host only, [::]:{port} for all")
        }
        (_, Ok(host)) => {
            let as_meant = text.rsplit_once(':').and_then(|(host, port)| {
                Some(SocketAddr::new(host.parse().ok()?, port.parse().ok().filter(|_| port.len() > 1)?))
            });
            match as_meant {
                // `::1:9436` is an address as well.
                Some(meant) => {
                    format!("an IPv6 address needs brackets: {meant}, or {}", SocketAddr::new(host, 9436))
                }
                None => format!("the port is missing: {}", SocketAddr::new(host, 9436)),
            }
        }
        _ => "expected an address and a port, such as 127.0.0.1:9436 or [::]:9436".to_owned(),
    })
}

/// What a level may be.
pub(super) const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Which diagnostics to write. To `tracing` any word is the name of a target, and `loud` would silence all others.
pub(super) fn log_level(text: &str) -> Result<String, String> {
    let expected = || format!("expected one of {}, or TARGET=LEVEL, with commas between", LEVELS.join(", "));
    let is_target = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || ['_', ':', '-'].contains(&c))
    };
    for part in text.split(',') {
        let level = match part.split_once('=') {
            Some((target, level)) if is_target(target.trim()) => level,
            Some(_) => return Err(expected()),
            None => part,
        };
        if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level.trim())) {
            return Err(expected());
        }
    }
    Ok(text.split(',').map(str::trim).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2m"), Ok(Duration::from_mins(2)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert!(duration("-1s").is_err() && duration("").is_err());
    }

    #[test]
    fn a_port_that_no_packet_has_is_refused() {
        assert_eq!((port("1"), port("65535")), (Ok(1), Ok(65_535)));
        for text in ["0", "65536", "-1", "http", ""] {
            assert!(port(text).unwrap_err().contains("from 1 to 65535"), "{text}");
        }
    }

    #[test]
    fn a_word_that_is_no_level_is_no_target_either() {
        for text in
            ["info", "WARN", "off", "agent=debug", "warn,agent::enrich=trace,drops=off", " info , aya=warn "]
        {
            assert!(log_level(text).is_ok(), "{text}");
        }
        for text in
            ["", " ", "loud", "nosuch=...=x", "info,", ",", "=info", "agent=", "agent=loud", "a b=info", "5"]
        {
            assert!(log_level(text).unwrap_err().contains("off, error, warn, info, debug, trace"), "{text}");
        }
    }

    #[test]
    fn half_an_address_is_completed() {
        assert!(listen("[::1]:0").is_ok());
        for (text, wants) in [
            ("9436", "127.0.0.1:9436"),
            (":80", "[::]:80"),
            ("10.0.0.1", "10.0.0.1:9436"),
            ("::", "[::]:9436"),
            ("::1:9436", "[::1]:9436"),
            ("fd00::1", "missing: [fd00::1]:9436"),
            // One digit is rather the end of an address.
            ("::1:5", "missing: [::1:5]:9436"),
            ("localhost:9436", "127.0.0.1:9436"),
            ("", "127.0.0.1:9436"),
        ] {
            assert!(listen(text).unwrap_err().contains(wants), "{text}");
        }
    }

    #[test]
    fn a_number_is_taken_from_its_least_to_its_most() {
        assert_eq!([number("0"), number("4294967295")], [Ok(0), Ok(u32::MAX)]);
        assert_eq!([drops("100"), drops("100000000")], [Ok(100), Ok(100_000_000)]);
        assert_eq!([runs("1"), runs("1000")], [Ok(1), Ok(1000)]);
        assert_eq!([packets("2"), packets("1000")], [Ok(2), Ok(1000)]);
        assert_eq!([ring_kib("4"), ring_kib("1048576")], [Ok(4), Ok(1 << 20)]);
        assert!(number("4294967296").is_err() && number("-1").is_err());
        assert!(drops("99").is_err() && drops("100000001").is_err());
        assert!(runs("0").is_err() && runs("1001").is_err());
        assert!(packets("1").is_err() && packets("1001").is_err());
        assert!(ring_kib("2").is_err() && ring_kib("2097152").is_err() && ring_kib("12").is_err());
    }
}
