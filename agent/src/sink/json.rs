//! One JSON line an event, in the schema every line of the agent keeps.

use std::borrow::Cow;
use std::cell::Cell as Flag;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::ser::Formatter;

use super::{Field, Identity, Line, Sink, Value, Written, escape, timestamp};
use crate::incident::Span;
use crate::pod::Pod;

/// Bytes of one line at most, its newline included: what container runtimes pass on whole.
pub const MAX_LINE: usize = 16 * 1024;

/// Bytes gathered before they are written out unasked.
const BUFFER: usize = 4 * MAX_LINE;

/// Bytes of one string at most, tried in this order until the line fits.
const STRING_LIMITS: [usize; 5] = [MAX_LINE, 4096, 1024, 256, 64];

/// Names the schema owns. A field called like one of them is written as `field_<name>`: a second `pod_name` in one
/// object would let a library's log record overrule the first.
const OWN_NAMES: [&str; 11] = [
    "timestamp", "level", "message", "trace_id", "span_id", "pod_name", "node_name", "namespace", "probe",
    "target", "truncated",
];

/// Writes each line as one JSON object.
#[derive(Debug)]
pub struct JsonSink<W: Write> {
    out: BufWriter<W>,
    identity: Arc<Identity>,
    line: Vec<u8>,
}

impl<W: Write> JsonSink<W> {
    /// A sink that writes to `out` whenever it is flushed or has gathered enough, whole lines at a time.
    pub fn new(out: W, identity: Arc<Identity>) -> Self {
        Self { out: BufWriter::with_capacity(BUFFER, out), identity, line: Vec::new() }
    }
}

impl<W: Write + Send> Sink for JsonSink<W> {
    fn write(&mut self, line: &Line<'_>) -> io::Result<Written> {
        let head = Head {
            at: line.at,
            level: line.level.name(),
            message: &line.message,
            span: line.span,
            identity: &self.identity,
            pod: line.pod,
            origin: Origin::Probe(line.probe),
        };
        self.line.clear();
        render(&head, line.fields, &mut self.line);
        self.out.write_all(&self.line)?;
        Ok(Written::Yes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// What every line has, an event's or a diagnostic's.
pub(crate) struct Head<'a> {
    pub(crate) at: SystemTime,
    pub(crate) level: &'static str,
    pub(crate) message: &'a str,
    pub(crate) span: Span,
    pub(crate) identity: &'a Identity,
    pub(crate) pod: Option<&'a Pod>,
    pub(crate) origin: Origin<'a>,
}

/// Where a line comes from.
pub(crate) enum Origin<'a> {
    /// An event of this probe.
    Probe(&'a str),
    /// A diagnostic of this module or library.
    Target(&'a str),
}

/// Appends one whole line to `out`: never more than [`MAX_LINE`] bytes, never a raw unsafe character in it.
pub(crate) fn render(head: &Head<'_>, fields: &[Field<'_>], out: &mut Vec<u8>) {
    let start = out.len();
    // The last try, without the event's own fields, always fits: what remains is a dozen short strings.
    let tries = STRING_LIMITS.iter().map(|limit| (*limit, fields)).chain([(64, &[][..])]);
    for (limit, fields) in tries {
        let dropped = fields.is_empty() && limit == 64;
        let body = Body { head, fields, limit, truncated: Flag::new(dropped) };
        let written = body.serialize(&mut serde_json::Serializer::with_formatter(&mut *out, Safe));
        out.push(b'\n');
        if written.is_ok() && out.len() - start <= MAX_LINE {
            return;
        }
        out.truncate(start);
    }
}

/// A line on its way into JSON.
struct Body<'a> {
    head: &'a Head<'a>,
    fields: &'a [Field<'a>],
    limit: usize,
    truncated: Flag<bool>,
}

impl<'a> Body<'a> {
    /// `text`, or as much of it as one string may have.
    fn short<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let Some(start) = escape::cut(text, self.limit) else { return Cow::Borrowed(text) };
        self.truncated.set(true);
        Cow::Owned(format!("{start}{}", escape::CUT))
    }

    /// The pod the line is about, else the agent's own: name and namespace.
    fn whose(&self) -> (Option<&'a str>, Option<&'a str>) {
        match self.head.pod {
            Some(pod) => (Some(&pod.name), Some(&pod.namespace)),
            None => (self.head.identity.pod_name.as_deref(), self.head.identity.namespace.as_deref()),
        }
    }

    fn field<M: SerializeMap>(&self, map: &mut M, (name, value): &Field<'_>) -> Result<(), M::Error> {
        // A diagnostic may speak of a probe by name; an event's probe is already said.
        let free = *name == "probe" && matches!(self.head.origin, Origin::Target(_));
        let key = if OWN_NAMES.contains(name) && !free {
            Cow::Owned(format!("field_{name}"))
        } else {
            Cow::Borrowed(*name)
        };
        match value {
            Value::Absent | Value::Pod(None) => map.serialize_entry(&key, &()),
            Value::Text(text) | Value::Interface(text) | Value::Reason(text) => {
                map.serialize_entry(&key, &self.short(text))
            }
            Value::Number(number) => map.serialize_entry(&key, number),
            Value::Signed(number) => map.serialize_entry(&key, number),
            Value::Flag(flag) => map.serialize_entry(&key, flag),
            Value::Ip(ip) => map.serialize_entry(&key, ip),
            Value::Port(port) => map.serialize_entry(&key, port),
            Value::Pod(Some(pod)) => {
                map.serialize_entry(&key, &PodName { namespace: &pod.namespace, pod: &pod.name })
            }
        }
    }
}

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let head = self.head;
        let (pod_name, namespace) = self.whose();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("timestamp", &timestamp(head.at))?;
        map.serialize_entry("level", head.level)?;
        map.serialize_entry("message", &self.short(head.message))?;
        map.serialize_entry("trace_id", &head.span.trace_id.to_string())?;
        map.serialize_entry("span_id", &head.span.span_id.to_string())?;
        map.serialize_entry("pod_name", &pod_name.map(|name| self.short(name)))?;
        map.serialize_entry("node_name", &self.short(&head.identity.node_name))?;
        map.serialize_entry("namespace", &namespace.map(|name| self.short(name)))?;
        match head.origin {
            Origin::Probe(probe) => map.serialize_entry("probe", probe)?,
            Origin::Target(target) => map.serialize_entry("target", &self.short(target))?,
        }
        for field in self.fields {
            self.field(&mut map, field)?;
        }
        if self.truncated.get() {
            map.serialize_entry("truncated", &true)?;
        }
        map.end()
    }
}

/// A pod at one end of an event.
#[derive(Serialize)]
struct PodName<'a> {
    namespace: &'a str,
    pod: &'a str,
}

/// Compact JSON in which unsafe characters beyond ASCII are `\uXXXX` too: the value is the same to a parser, and a
/// terminal that shows the raw line has nothing to obey.
struct Safe;

impl Formatter for Safe {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(escape::is_unsafe) {
            let (clean, tail) = rest.split_at(at);
            out.write_all(clean.as_bytes())?;
            let mut chars = tail.chars();
            if let Some(c) = chars.next() {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}")?;
                }
            }
            rest = chars.as_str();
        }
        out.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests;
