//! A walk as lines: a row a hop, then the verdict.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use super::judge::{About, Tcp, Verdict};
use super::{Hop, Method, Outcome};
use crate::sink::{Cell, Column, Field, Level, Says, Value};

/// The table's columns: 80 characters with the longest address and the slowest answer.
pub const COLUMNS: [Column; 6] = [
    Column::new("HOP", 3, false).whole(),
    Column::new("ADDRESS", 39, false).whole(),
    Column::new("PASSES", 6, false).whole(),
    Column::new("DIES", 5, false).whole(),
    Column::new("SAYS", 5, false).whole(),
    Column::new("RTT", 10, false).whole(),
];

/// A hop, or the destination, as a line.
#[derive(Clone, Debug)]
pub struct HopLine<'a> {
    /// Its distance; `None` for the destination, whose is not asked for.
    pub number: Option<u8>,
    /// What is known of it.
    pub hop: Cow<'a, Hop>,
    /// Whose path.
    pub about: &'a About,
    /// How it asked.
    pub method: Option<Method>,
}

/// The rows of a walk: its hops, and the destination if that answers.
#[must_use]
pub fn rows<'a>(out: &'a Outcome, about: &'a About) -> Vec<HopLine<'a>> {
    let line = |number, hop| HopLine { number, hop, about, method: out.method };
    let hops = out.hops.iter().zip(1..).map(|(hop, number)| {
        // What came to the destination came by each hop, whether it was seen there or not.
        let end_to_end = out.passes.filter(|_| out.reached && hop.address.is_some());
        let hop = match hop.passes.max(end_to_end) {
            passes if passes == hop.passes => Cow::Borrowed(hop),
            passes => Cow::Owned(Hop { passes, ..hop.clone() }),
        };
        line(Some(number), hop)
    });
    let end = out.reached.then(|| {
        let narrow = out.passes.filter(|passes| *passes < out.first);
        let dies = out.dies.or(narrow.filter(|_| !out.told.is_empty()).map(|passes| passes + 1));
        let hop = Hop { address: Some(about.address), passes: out.passes, dies, says: None, rtt: out.rtt };
        line(None, Cow::Owned(hop))
    });
    hops.chain(end).collect()
}

impl Says for HopLine<'_> {
    fn message(&self, text: &mut String) {
        let Hop { address, passes, dies, says, .. } = &*self.hop;
        let bytes = |what: &str, size: &Option<u32>| {
            size.map_or(String::new(), |size| format!(", {what} {size} bytes"))
        };
        match self.number {
            Some(number) => text.extend(["hop ", &number.to_string()]),
            None => text.push_str("destination"),
        }
        match address {
            Some(address) => text.extend([" ", &address.to_string()]),
            None => text.push_str(" does not answer"),
        }
        text.push_str(&bytes("reached by", passes));
        text.push_str(&bytes("not by", dies));
        text.push_str(&bytes("says it takes", says));
    }

    fn fields<'a>(&'a self, fields: &mut Vec<Field<'a>>) {
        let hop = &*self.hop;
        fields.extend([
            ("hop", number(self.number)),
            ("hop_ip", ip(hop.address)),
            ("is_destination", Value::Flag(self.number.is_none())),
            ("size_passes", number(hop.passes)),
            ("size_dies", number(hop.dies)),
            ("says_mtu", number(hop.says)),
            ("rtt_us", rtt(hop.rtt)),
            ("destination_ip", Value::Ip(self.about.address)),
            ("method", method(self.method)),
        ]);
    }

    fn cells<'a>(&'a self, cells: &mut Vec<Cell<'a>>) {
        let hop = &*self.hop;
        let text = |number: Option<u32>| number.map_or(String::new(), |number| number.to_string());
        let texts = [
            self.number.map_or("end".to_owned(), |number| number.to_string()),
            hop.address.map_or(String::new(), |address| address.to_string()),
            text(hop.passes),
            text(hop.dies),
            text(hop.says),
            hop.rtt.map_or(String::new(), |rtt| format!("{:.2} ms", rtt.as_secs_f64() * 1e3)),
        ];
        cells.extend(COLUMNS.into_iter().zip(texts).map(|(column, text)| Cell::new(column, text)));
    }
}

/// The verdict as a line.
#[derive(Clone, Debug)]
pub struct VerdictLine<'a> {
    /// What it says.
    pub verdict: &'a Verdict,
    /// What it is said of.
    pub out: &'a Outcome,
    /// Whose path.
    pub about: &'a About,
}

impl VerdictLine<'_> {
    /// How much it matters.
    #[must_use]
    pub const fn level(&self) -> Level {
        if self.verdict.is_narrow { Level::Warn } else { Level::Info }
    }
}

impl Says for VerdictLine<'_> {
    fn message(&self, text: &mut String) {
        let Verdict { message, confidence, fix, .. } = self.verdict;
        text.extend([message, " (confidence: ", confidence.name(), ")"]);
        if let Some(fix) = fix {
            text.extend([". Fix: ", fix]);
        }
    }

    fn fields<'a>(&'a self, fields: &mut Vec<Field<'a>>) {
        let Verdict { finding, confidence, hop, hop_ip, fits, says, fix, .. } = self.verdict;
        let (out, about) = (self.out, self.about);
        let (tcp, mss, path_mtu) = match about.tcp {
            None => (Value::Absent, None, None),
            Some(Tcp::Connects { mss, path_mtu }) => (Value::Text("connects".into()), mss, path_mtu),
            Some(Tcp::Refuses) => (Value::Text("refuses".into()), None, None),
            Some(Tcp::Silent) => (Value::Text("silent".into()), None, None),
        };
        fields.extend([
            ("finding", Value::Text(finding.name().into())),
            ("confidence", Value::Text(confidence.name().into())),
            ("hop", number(*hop)),
            ("hop_ip", ip(*hop_ip)),
            ("fits", number(*fits)),
            ("size_dies", number(out.dies)),
            ("says_mtu", number(*says)),
            ("before_hop", number(out.edge.and_then(|edge| edge.before))),
            ("device", about.device.as_deref().map_or(Value::Absent, |name| Value::Interface(name.into()))),
            ("device_mtu", Value::Number(out.first.into())),
            ("destination", Value::Text((&*about.to).into())),
            ("destination_ip", Value::Ip(about.address)),
            ("method", method(out.method)),
            ("reached", Value::Flag(out.reached)),
            ("packets", Value::Number(out.packets.into())),
            ("lost", Value::Number(out.lost.into())),
            ("limited", Value::Number(out.limited.into())),
            ("tcp", tcp),
            ("tcp_mss", number(mss)),
            ("tcp_path_mtu", number(path_mtu)),
            ("fix", fix.as_deref().map_or(Value::Absent, |fix| Value::Text(fix.into()))),
        ]);
    }

    fn cells<'a>(&'a self, _: &mut Vec<Cell<'a>>) {}
}

fn number<'a>(number: Option<impl Into<u64>>) -> Value<'a> {
    number.map_or(Value::Absent, |number| Value::Number(number.into()))
}

fn ip<'a>(address: Option<IpAddr>) -> Value<'a> {
    address.map_or(Value::Absent, Value::Ip)
}

fn method<'a>(method: Option<Method>) -> Value<'a> {
    method.map_or(Value::Absent, |method| Value::Text(method.name().into()))
}

fn rtt<'a>(rtt: Option<Duration>) -> Value<'a> {
    rtt.map_or(Value::Absent, |rtt| Value::Number(u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)))
}
