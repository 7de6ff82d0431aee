//! A walk whose every answer somebody made up ends within its bounds, is judged, and is told.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use agent::links::{Taken, Way};
use agent::path::device::Device;
use agent::path::judge::{About, Tcp, judge};
use agent::path::row::rows;
use agent::path::walk::{Limits, least_mtu, walk};
use agent::path::who::Who;
use agent::path::{Answer, Ask, Halt, Method, Refusal, Reply, Step};
use agent::sink::Says;
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits { packets: 200, time: Duration::from_secs(15) };

/// One packet's patience, and a rest that a router is given.
const LAST_WAIT: Duration = Duration::from_millis(2100);

/// Who answers, as the bytes will have it; silence behind their end.
struct Liar<'a> {
    bytes: &'a [u8],
    methods: Vec<Method>,
    first: u32,
    destination: IpAddr,
    sent: u32,
    clock: Duration,
}

impl Liar<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    /// A number about `near`, or any.
    fn number(&mut self, near: u32) -> u32 {
        match self.byte().unwrap_or_default() {
            255 => u32::from_be_bytes(std::array::from_fn(|_| self.byte().unwrap_or_default())),
            offset => near.wrapping_add(u32::from(offset)).wrapping_sub(128),
        }
    }

    fn from(&mut self, ttl: u8) -> Option<IpAddr> {
        let destination = self.destination;
        let hop = |number: u8| match destination {
            IpAddr::V4(_) => Ipv4Addr::new(10, 0, 0, number).into(),
            IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into()).into(),
        };
        match self.byte().unwrap_or_default() {
            0 => None,
            1 => Some(destination),
            2..=127 => Some(hop(ttl)),
            other => Some(hop(other)),
        }
    }
}

impl Ask for Liar<'_> {
    fn methods(&self) -> Vec<Method> {
        self.methods.clone()
    }

    fn ask(&mut self, step: Step) -> Result<Answer, Halt> {
        assert!(self.methods.contains(&step.method), "{step:?}");
        assert!((68..=self.first.max(68)).contains(&step.size) && step.ttl > 0, "{step:?}");
        let silent = Answer { reply: Reply::Silent, from: None, rtt: step.patience };
        let (kind, wait) = (self.byte(), self.byte());
        let reply = match kind.unwrap_or_default() % 16 {
            0..=2 => Reply::Silent,
            3..=6 => Reply::Arrived,
            7..=10 => Reply::Expired,
            11..=13 => Reply::TooBig(self.number(step.size)),
            14 => Reply::Refused(
                [Refusal::Network, Refusal::Host, Refusal::Prohibited, Refusal::Other]
                    [usize::from(wait.unwrap_or_default() % 4)],
            ),
            _ if wait == Some(0) => return Err(Halt::Asked),
            _ if wait == Some(1) => return Err(Halt::Broken("broken".to_owned())),
            _ => Reply::Silent,
        };
        self.sent += 1;
        let answer = if reply == Reply::Silent {
            silent
        } else {
            let rtt = Duration::from_millis(u64::from(wait.unwrap_or_default()) * 4).min(step.patience);
            Answer { reply, from: self.from(step.ttl), rtt }
        };
        self.clock += answer.rtt;
        Ok(answer)
    }

    fn pause(&mut self, time: Duration) -> Result<(), Halt> {
        self.clock += time;
        Ok(())
    }

    fn elapsed(&self) -> Duration {
        self.clock
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&[flags, size, port], bytes)) = data.split_first_chunk() else { return };
    let v6 = flags & 1 != 0;
    let destination: IpAddr = if v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::new(10, 0, 0, 9).into() };
    let methods = [(2, Method::Syn), (4, Method::Echo), (8, Method::Udp)];
    let methods = methods.into_iter().filter(|(bit, _)| flags & bit != 0).map(|(_, method)| method).collect();
    // From the smallest that a link may have, to jumbo frames.
    let first = least_mtu(v6) + u32::from(size) * 40;
    let mut liar = Liar { bytes, methods, first, destination, sent: 0, clock: Duration::ZERO };
    let mut notes = 0;
    let out = walk(&mut liar, first, v6, LIMITS, &mut |_| notes += 1);
    assert!(liar.sent <= LIMITS.packets, "{} packets", liar.sent);
    assert!(liar.clock <= LIMITS.time + LAST_WAIT, "{:?}", liar.clock);
    assert!(out.hops.len() <= 64 && out.told.len() <= 10 && out.absurd.len() <= 10, "{out:?}");
    assert!(notes <= LIMITS.packets + 10, "{notes} notes of progress");
    let name = if port & 1 != 0 { "eth0" } else { "-x;y" }.to_owned();
    let way = Way { name: name.clone(), weight: 1, ..Way::default() };
    let route =
        Taken { mtu: None, table: 254, metric: None, source: None, options: Vec::new(), ways: vec![way] };
    let about = About {
        who: Who::pod("shop/web-0".to_owned()),
        to: destination.to_string(),
        address: destination,
        device: Device { mtu: first, name: name.clone(), source: destination, route: Some(route) },
        tcp: match port {
            0..64 => None,
            64..128 => Some(Tcp::Silent),
            128..192 => Some(Tcp::Refuses),
            _ => Some(Tcp::Connects { mss: Some(first.saturating_sub(40)), path_mtu: Some(first) }),
        },
    };
    let verdict = judge(&out, &about);
    assert!(verdict.message.len() < 1000, "{}", verdict.message);
    let fix = verdict.fix.as_deref().unwrap_or_default();
    assert!(!fix.contains("ip route") || !fix.contains("-x;y"), "a shell would obey the name: {fix}");
    assert!(verdict.fits.is_none_or(|fits| fits <= first), "more than was ever sent fits: {verdict:?}");
    let (mut text, mut fields, mut cells) = (String::new(), Vec::new(), Vec::new());
    let rows = rows(&out, &about);
    for row in &rows {
        row.message(&mut text);
        row.fields(&mut fields);
        row.cells(&mut cells);
    }
    assert_eq!(cells.len(), rows.len() * agent::path::row::COLUMNS.len());
});
