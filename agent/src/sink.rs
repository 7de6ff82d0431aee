//! Where lines go: one JSON line or one table row for each event, diagnostics included.

use std::borrow::Cow;
use std::io;
use std::net::IpAddr;
use std::time::SystemTime;

use crate::incident::Span;
use crate::pod::Pod;

pub mod json;
pub mod table;

/// How much a line matters to an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Worth knowing.
    Info,
    /// Something is being lost or refused.
    Warn,
    /// The agent itself failed at something.
    Error,
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
    /// A yes or no.
    Flag(bool),
    /// An address: `--ip` looks at these.
    Ip(IpAddr),
    /// A transport port: `--port` looks at these.
    Port(u16),
    /// A network interface's name: `-i` looks at these.
    Interface(Cow<'a, str>),
    /// The kernel's or the probe's reason: `--reason` looks at these.
    Reason(Cow<'a, str>),
    /// A pod at one end of the event: `-n` and `--pod` look at these. In JSON `{"namespace","pod"}` or null.
    Pod(Option<&'a Pod>),
}

/// One named value. Names are `snake_case` and part of the documented schema.
pub type Field<'a> = (&'static str, Value<'a>);

/// One cell of a table row.
#[derive(Clone, Debug)]
pub struct Cell<'a> {
    /// The column it belongs to.
    pub column: Column,
    /// Its text, unescaped.
    pub text: Cow<'a, str>,
}

/// A column of a probe's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Heading, upper case.
    pub title: &'static str,
    /// Width in characters; longer text is cut with `…` in the middle unless `-o wide`; the last column never is.
    pub width: usize,
    /// Shown with `-o wide` only.
    pub wide: bool,
}

/// One event as every sink gets it: decoded, enriched, correlated.
#[derive(Clone, Debug)]
pub struct Line<'a> {
    /// When the kernel saw it.
    pub at: SystemTime,
    /// How much it matters.
    pub level: Level,
    /// The probe that saw it.
    pub probe: &'static str,
    /// One sentence for a person.
    pub message: Cow<'a, str>,
    /// The incident (`trace_id`) it belongs to and the event's own `span_id`.
    pub span: Span,
    /// The pod the line is about, if one is known: fills `pod_name` and `namespace`.
    pub pod: Option<&'a Pod>,
    /// The event's own fields, in a fixed order.
    pub fields: &'a [Field<'a>],
    /// The same event as a table row.
    pub cells: &'a [Cell<'a>],
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

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is out.
    Yes,
    /// A filter of the user's did not want it. Not a loss.
    Filtered,
    /// It was out and it was the last one wanted (`--max-events`).
    Last,
}
