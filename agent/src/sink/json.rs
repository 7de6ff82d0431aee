//! One JSON line an event, in the schema every line of the agent keeps.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::SystemTime;

use super::{Field, Identity, Line, Sink, Value, Written, timestamp};
use crate::incident::Span;
use crate::pod::Pod;

mod object;

use object::Object;

/// Bytes of one line at most, its newline included: what container runtimes pass on whole.
pub const MAX_LINE: usize = 16 * 1024;

/// Bytes of one string at most, tried in this order until the line fits.
const STRING_LIMITS: [usize; 5] = [MAX_LINE, 4096, 1024, 256, 64];

/// Names the schema owns. A field called like one of them is written as `field_<name>`: a second `pod_name` in one
/// object would let a library's log record overrule the first.
const OWN_NAMES: [&str; 11] = [
    "timestamp", "level", "message", "trace_id", "span_id", "pod_name", "node_name", "namespace", "probe",
    "target", "truncated",
];

/// Writes each line as one JSON object, with one call of `write`.
#[derive(Debug)]
pub struct JsonSink<W: Write> {
    out: W,
    identity: Arc<Identity>,
    message: String,
    line: Vec<u8>,
}

impl<W: Write> JsonSink<W> {
    /// A sink that writes to `out`.
    pub fn new(out: W, identity: Arc<Identity>) -> Self {
        Self { out, identity, message: String::new(), line: Vec::new() }
    }
}

impl<W: Write + Send> Sink for JsonSink<W> {
    fn write(&mut self, line: &Line<'_>) -> io::Result<Written> {
        self.message.clear();
        line.says.message(&mut self.message);
        let mut fields = Vec::new();
        line.says.fields(&mut fields);
        let head = Head {
            at: line.at,
            level: line.level.name(),
            message: &self.message,
            span: line.span,
            identity: &self.identity,
            pod: line.pod,
            origin: Origin::Probe(line.probe),
        };
        self.line.clear();
        render(&head, &fields, &mut self.line);
        Written::of(self.out.write_all(&self.line))
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
        let mut object = Object::begin(out, limit);
        put_head(&mut object, head);
        for field in fields {
            put_field(&mut object, head, field);
        }
        let dropped = fields.is_empty() && limit == 64;
        if dropped || object.has_cut() {
            object.key("truncated").raw(b"true");
        }
        object.end();
        out.push(b'\n');
        if out.len() - start <= MAX_LINE {
            return;
        }
        out.truncate(start);
    }
}

fn put_head(object: &mut Object<'_>, head: &Head<'_>) {
    let Head { at, level, message, span, identity, pod, origin } = head;
    // The pod the line is about, else the agent's own.
    let (pod_name, namespace) = match pod {
        Some(pod) => (Some(pod.name.as_str()), Some(pod.namespace.as_str())),
        None => (identity.pod_name.as_deref(), identity.namespace.as_deref()),
    };
    object.key("timestamp").quoted(&timestamp(*at));
    object.key("level").text(level);
    object.key("message").text(message);
    object.key("trace_id").quoted(&span.trace_id);
    object.key("span_id").quoted(&span.span_id);
    object.key("pod_name").text_or_null(pod_name);
    object.key("node_name").text(&identity.node_name);
    object.key("namespace").text_or_null(namespace);
    match origin {
        Origin::Probe(probe) => object.key("probe").text(probe),
        Origin::Target(target) => object.key("target").text(target),
    }
}

fn put_field(object: &mut Object<'_>, head: &Head<'_>, (name, value): &Field<'_>) {
    // A diagnostic may speak of a probe by name; an event's probe is already said.
    let free = *name == "probe" && matches!(head.origin, Origin::Target(_));
    if OWN_NAMES.contains(name) && !free {
        object.key(&format!("field_{name}"));
    } else {
        object.key(name);
    }
    match value {
        Value::Absent | Value::Portless | Value::Pod(None) => object.raw(b"null"),
        Value::Text(text) | Value::Interface(text) | Value::Reason(text) => object.text(text),
        Value::Number(number) => object.number(*number),
        Value::Signed(number) => object.raw(number.to_string().as_bytes()),
        Value::Flag(flag) => object.raw(if *flag { b"true" } else { b"false" }),
        Value::Ip(ip) => object.address(*ip),
        Value::Port(port) => object.number(u64::from(*port)),
        Value::Pod(Some(pod)) => object.pod(pod),
    }
}

#[cfg(test)]
mod tests;
