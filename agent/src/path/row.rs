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
            ("device", Value::Interface(about.device.name.as_str().into())),
            ("device_mtu", Value::Number(about.device.mtu.into())),
            ("route_mtu", number(about.device.route.as_ref().and_then(|route| route.mtu))),
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::path::device::Device;
    use crate::path::who::Who;

    fn router(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    fn about() -> About {
        About {
            who: Who::pod("shop/web".into()),
            to: "10.0.0.9:443".into(),
            address: router(9),
            device: Device::plain("eth0"),
            tcp: None,
        }
    }

    /// Three hops, of which the second is silent, and a destination that 1,400 bytes come to.
    fn out() -> Outcome {
        let first = Hop { address: Some(router(1)), passes: Some(68), says: Some(1400), ..Hop::default() };
        let third = Hop { address: Some(router(3)), passes: Some(1400), dies: Some(1500), ..Hop::default() };
        Outcome {
            method: Some(Method::Syn),
            reached: true,
            first: 1500,
            hops: vec![first, Hop::default(), third],
            rtt: Some(Duration::from_micros(1_250)),
            passes: Some(1400),
            ..Outcome::default()
        }
    }

    /// Each row as a table shows it, without its address and its time.
    fn shown(out: &Outcome) -> Vec<[String; 4]> {
        let about = about();
        let rows = rows(out, &about);
        let texts = rows.iter().map(|row| {
            let mut cells = Vec::new();
            row.cells(&mut cells);
            [0, 2, 3, 4].map(|at: usize| cells[at].text.clone().into_owned())
        });
        texts.collect()
    }

    fn row(texts: [&str; 4]) -> [String; 4] {
        texts.map(str::to_owned)
    }

    #[test]
    fn what_came_to_the_destination_came_by_each_hop_that_answers() {
        let [first, second, third] =
            [row(["1", "1400", "", "1400"]), row(["2", "", "", ""]), row(["3", "1400", "1500", ""])];
        assert_eq!(
            shown(&out()),
            [first, second.clone(), third.clone(), row(["end", "1400", "", ""])],
            "nobody said anything, so nothing is known of 1401 bytes"
        );
        // Of a destination that answers nothing there is no row, and nothing came to it.
        let mute = Outcome { reached: false, ..out() };
        assert_eq!(shown(&mute), [row(["1", "68", "", "1400"]), second, third]);
    }

    #[test]
    fn more_than_the_last_claim_does_not_come_to_the_destination() {
        let told = |mtu| super::super::Told { from: Some(router(1)), hop: Some(1), mtu, size: 1500 };
        let end = |out: Outcome| shown(&out).pop().unwrap();
        assert_eq!(end(Outcome { told: vec![told(1400)], ..out() }), row(["end", "1400", "1401", ""]));
        assert_eq!(end(Outcome { dies: Some(1450), ..out() }), row(["end", "1400", "1450", ""]));
        let whole = Outcome { told: vec![told(1400)], passes: Some(1500), ..out() };
        assert_eq!(end(whole), row(["end", "1500", "", ""]));
    }

    #[test]
    fn a_hop_is_told_in_words_and_in_fields() {
        let (out, about) = (out(), about());
        let rows = rows(&out, &about);
        let said: Vec<String> = rows
            .iter()
            .map(|row| {
                let mut text = String::new();
                row.message(&mut text);
                text
            })
            .collect();
        assert_eq!(
            said,
            [
                "hop 1 10.0.0.1, reached by 1400 bytes, says it takes 1400 bytes",
                "hop 2 does not answer",
                "hop 3 10.0.0.3, reached by 1400 bytes, not by 1500 bytes",
                "destination 10.0.0.9, reached by 1400 bytes",
            ]
        );
        let (mut hop, mut end) = (Vec::new(), Vec::new());
        rows[2].fields(&mut hop);
        rows[3].fields(&mut end);
        let to = || ("destination_ip", Value::Ip([10, 0, 0, 9].into()));
        assert_eq!(
            hop,
            [
                ("hop", Value::Number(3)),
                ("hop_ip", Value::Ip([10, 0, 0, 3].into())),
                ("is_destination", Value::Flag(false)),
                ("size_passes", Value::Number(1400)),
                ("size_dies", Value::Number(1500)),
                ("says_mtu", Value::Absent),
                ("rtt_us", Value::Absent),
                to(),
                ("method", Value::Text("tcp".into())),
            ]
        );
        assert_eq!(
            end,
            [
                ("hop", Value::Absent),
                ("hop_ip", Value::Ip([10, 0, 0, 9].into())),
                ("is_destination", Value::Flag(true)),
                ("size_passes", Value::Number(1400)),
                ("size_dies", Value::Absent),
                ("says_mtu", Value::Absent),
                ("rtt_us", Value::Number(1_250)),
                to(),
                ("method", Value::Text("tcp".into())),
            ]
        );
        let mut cells = Vec::new();
        rows[3].cells(&mut cells);
        let texts: Vec<&str> = cells.iter().map(|cell| &*cell.text).collect();
        assert_eq!(texts, ["end", "10.0.0.9", "1400", "", "", "1.25 ms"]);
    }
}
