//! Where lines go: one JSON line or one table row for each event, diagnostics included.

use std::borrow::Cow;
use std::fmt::Display;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use crate::incident::Span;
use crate::pod::Pod;

pub mod escape;
pub mod filter;
pub mod json;
#[cfg(test)]
pub(crate) mod schema;
pub mod stream;
pub mod table;

/// How much a line matters to an operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Worth knowing.
    #[default]
    Info,
    /// Something is being lost or refused.
    Warn,
    /// The agent itself failed at something.
    Error,
}

impl Level {
    /// As every line of the agent spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
        }
    }
}

/// How sure a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Confidence {
    /// Something that could change it was not to be seen.
    Low,
    /// What was seen has hardly another explanation, but it was derived, or rests on somebody's word.
    Medium,
    /// The kernel itself said so, in as many words, or it was seen more than once.
    High,
}

impl Confidence {
    /// As lines spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// One value of a line, typed by what it means so that filters and sinks need not know the probe.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// The kernel did not say: `null` in JSON, `-` in a table. Never zero.
    Absent,
    /// Text from a closed set or from the kernel; escaped by the sink, whatever it holds.
    Text(Cow<'a, str>),
    /// A count, size or identifier.
    Number(u64),
    /// A number that may be negative, such as an errno the kernel returned.
    Signed(i64),
    /// A yes or no.
    Flag(bool),
    /// An address: `--ip` looks at these.
    Ip(IpAddr),
    /// A transport port: `--port` looks at these.
    Port(u16),
    /// The packet's protocol has no ports, which no `--port` matches; as [`Value::Absent`] else.
    Portless,
    /// A network interface's name: `-i` looks at these.
    Interface(Cow<'a, str>),
    /// The kernel's or the probe's reason: `--reason` looks at these.
    Reason(Cow<'a, str>),
    /// A pod at one end of the event: `-n` and `--pod` look at these. In JSON `{"namespace","pod"}` or null.
    Pod(Option<&'a Pod>),
}

/// One named value. Names are `snake_case` and part of the documented schema.
pub type Field<'a> = (&'static str, Value<'a>);

/// One cell of a table row, unescaped: what may be cut in its middle, and behind it what never is.
#[derive(Clone, Debug)]
pub struct Cell<'a> {
    /// The column it belongs to.
    pub column: Column,
    /// A name.
    pub text: Cow<'a, str>,
    /// An address, a port: of these a part is another one.
    pub tail: Cow<'a, str>,
}

impl<'a> Cell<'a> {
    /// A name, or in a column that is whole anything.
    #[must_use]
    pub fn new(column: Column, text: impl Into<Cow<'a, str>>) -> Self {
        Self { column, text: text.into(), tail: "".into() }
    }

    /// What is never cut: it moves the rest of the row where it is too long.
    #[must_use]
    pub fn whole(column: Column, text: impl Into<Cow<'a, str>>) -> Self {
        Self { column, text: "".into(), tail: text.into() }
    }
}

/// A column of a probe's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Heading, upper case.
    pub title: &'static str,
    /// Width in characters on a terminal of 80; a longer name is cut with `…` in the middle unless `-o wide`; the last
    /// column never is.
    pub width: usize,
    /// Width it may grow to on a wider one.
    pub most: usize,
    /// Shown with `-o wide` only.
    pub wide: bool,
    /// Its texts are no names: nothing of it is cut.
    pub whole: bool,
}

impl Column {
    /// A column of names.
    #[must_use]
    pub const fn new(title: &'static str, width: usize, wide: bool) -> Self {
        Self { title, width, most: width, wide, whole: false }
    }

    /// The same, as wide as this where there is room.
    #[must_use]
    pub const fn growing(self, most: usize) -> Self {
        Self { most, ..self }
    }

    /// The same, of numbers or addresses.
    #[must_use]
    pub const fn whole(self) -> Self {
        Self { whole: true, ..self }
    }
}

/// What a line tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// One event.
    Event,
    /// A whole incident: what its events add up to. It has no cells; a table has it in words.
    Incident,
}

/// What a line says. A sink asks for the parts that it writes, and one that wants no such line for none of them: most
/// of what a line costs is putting it into words.
pub trait Says {
    /// Appends one sentence for a person.
    fn message(&self, text: &mut String);
    /// Appends its own fields, in a fixed order.
    fn fields<'a>(&'a self, fields: &mut Vec<Field<'a>>);
    /// Appends the same as a table row: a cell for each of its probe's columns.
    fn cells<'a>(&'a self, cells: &mut Vec<Cell<'a>>);
}

/// One event or incident as every sink gets it: decoded, enriched, correlated.
#[derive(Clone, Copy)]
pub struct Line<'a> {
    /// What it tells of.
    pub told: Told,
    /// When the kernel saw it.
    pub at: SystemTime,
    /// How much it matters.
    pub level: Level,
    /// The probe that saw it.
    pub probe: &'static str,
    /// The incident (`trace_id`) it belongs to and the event's own `span_id`.
    pub span: Span,
    /// The pod the line is about, if one is known: fills `pod_name` and `namespace`.
    pub pod: Option<&'a Pod>,
    /// Message, fields and cells.
    pub says: &'a dyn Says,
}

/// Who writes: what `node_name`, `pod_name` and `namespace` are on lines that are about no pod in particular.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The node, as Kubernetes names it where that is known, else the host.
    pub node_name: String,
    /// The agent's own pod; `None` when it runs outside of one.
    pub pod_name: Option<String>,
    /// The namespace of the agent's own pod.
    pub namespace: Option<String>,
}

impl Identity {
    /// From what the downward API says (`NODE_NAME`, `POD_NAME`, `POD_NAMESPACE`); an empty string says nothing.
    #[must_use]
    pub fn new(node_name: Option<String>, pod_name: Option<String>, namespace: Option<String>) -> Self {
        let said = |name: Option<String>| name.filter(|name| !name.is_empty());
        let node_name = said(node_name).or_else(hostname).unwrap_or_else(|| "unknown".to_owned());
        Self { node_name, pod_name: said(pod_name), namespace: said(namespace) }
    }
}

/// The host's name: kubelet's default for the node's. The kernel gives it per UTS namespace.
fn hostname() -> Option<String> {
    let raw = std::fs::read("/proc/sys/kernel/hostname").ok()?;
    let name = escape::bytes(raw.trim_ascii());
    (!name.is_empty()).then(|| name.into_owned())
}

/// RFC 3339 in UTC with nanoseconds: `2026-01-02T03:04:05.000000006Z`.
///
/// A time outside of 1970..=9999 is brought to the nearest end: a clock that is far off must not end the agent.
#[must_use]
pub fn timestamp(at: SystemTime) -> impl Display {
    humantime::format_rfc3339_nanos(at.clamp(SystemTime::UNIX_EPOCH, year_9999()))
}

/// `HH:MM:SSZ`, which is in UTC, for a table.
#[must_use]
pub fn time_of_day(at: SystemTime) -> String {
    let full = humantime::format_rfc3339_seconds(at.clamp(SystemTime::UNIX_EPOCH, year_9999())).to_string();
    full["1970-01-01T".len()..].to_owned()
}

/// The last second of the year 9999: four digits are all that RFC 3339 has.
fn year_9999() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799)
}

/// Writes lines somewhere.
pub trait Sink: Send {
    /// Writes one line.
    ///
    /// # Errors
    /// The underlying stream's; a closed pipe ends a `trace` quietly.
    fn write(&mut self, line: &Line<'_>) -> io::Result<Written>;
    /// Flushes what is buffered; called when the ring is empty and at the end.
    ///
    /// # Errors
    /// The underlying stream's.
    fn flush(&mut self) -> io::Result<()>;
}

impl Sink for Box<dyn Sink + '_> {
    fn write(&mut self, line: &Line<'_>) -> io::Result<Written> {
        self.as_mut().write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.as_mut().flush()
    }
}

/// Wants nothing: metrics are all that is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Nowhere;

impl Sink for Nowhere {
    fn write(&mut self, _: &Line<'_>) -> io::Result<Written> {
        Ok(Written::Filtered)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is out.
    Yes,
    /// It matters less than what is wanted. Not a loss.
    Benign,
    /// A filter of the user's did not want it. Not a loss.
    Filtered,
    /// It is lost: the stream has no room for it, because its reader stalls.
    Refused,
    /// It was out and it was the last one wanted (`--max-events`).
    Last,
}

impl Written {
    /// Whether the line was wanted, and is out or would be if there were room.
    #[must_use]
    pub const fn is_wanted(self) -> bool {
        !matches!(self, Self::Benign | Self::Filtered)
    }

    /// What a stream's answer means: one that would have to wait for its reader has refused the line.
    ///
    /// # Errors
    /// Any other of the stream's.
    pub fn of(written: io::Result<()>) -> io::Result<Self> {
        match written {
            Ok(()) => Ok(Self::Yes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Self::Refused),
            Err(error) => Err(error),
        }
    }
}

/// What a test has a line say.
#[cfg(test)]
pub(crate) struct Saying<'a> {
    pub(crate) message: &'a str,
    pub(crate) fields: &'a [Field<'a>],
    pub(crate) cells: &'a [Cell<'a>],
}

#[cfg(test)]
impl Says for Saying<'_> {
    fn message(&self, text: &mut String) {
        text.push_str(self.message);
    }

    fn fields<'a>(&'a self, fields: &mut Vec<Field<'a>>) {
        fields.extend_from_slice(self.fields);
    }

    fn cells<'a>(&'a self, cells: &mut Vec<Cell<'a>>) {
        cells.extend_from_slice(self.cells);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_whatever_the_clock_says() {
        let at = SystemTime::UNIX_EPOCH + Duration::new(1_767_323_045, 6);
        let timestamp = |at| timestamp(at).to_string();
        assert_eq!(timestamp(at), "2026-01-02T03:04:05.000000006Z");
        assert_eq!(time_of_day(at + Duration::from_millis(70)), "03:04:05Z");
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(5);
        assert_eq!(timestamp(before), "1970-01-01T00:00:00.000000000Z");
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(400_000_000_000);
        assert_eq!(timestamp(far), "9999-12-31T23:59:59.000000000Z");
    }

    #[test]
    fn an_empty_name_is_no_name() {
        let outside = Identity::new(Some(String::new()), None, Some(String::new()));
        assert_ne!(outside.node_name, "");
        assert_eq!((outside.pod_name, outside.namespace), (None, None));
        let inside = Identity::new(Some("n1".into()), Some("r2c-agent-x".into()), Some("kube-system".into()));
        assert_eq!(inside.node_name, "n1");
        assert_eq!(inside.pod_name.as_deref(), Some("r2c-agent-x"));
    }

    #[test]
    fn a_node_without_a_name_is_called_as_its_host() {
        let said = std::process::Command::new("uname").arg("-n").output().unwrap().stdout;
        let said = String::from_utf8(said).unwrap();
        assert_eq!(Identity::new(None, None, None).node_name, said.trim_end());
    }
}
