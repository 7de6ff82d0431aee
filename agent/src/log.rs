//! The agent's diagnostics: every one a line on stderr, whoever made it, a panic and a library included.
//!
//! In `run` a diagnostic is a JSON line of the one schema; for the ad-hoc commands it is a line for a person. There is
//! no second way out: [`start`] takes over `tracing`, the `log` crate and the panic hook of the whole process.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use tracing::field::Visit;
use tracing::{Event, Level, Subscriber};
use tracing_log::{AsLog, LogTracer, NormalizeEvent};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::incident::Span;
use crate::sink::json::{Head, MAX_LINE, Origin, render};
use crate::sink::stream::Stream;
use crate::sink::{Field, Identity, Value, escape};

/// How diagnostics look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// JSON lines of the one schema, for `run`.
    Json,
    /// `r2c-agent: warning: text`, for a person at a terminal.
    Plain,
}

/// Why diagnostics could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The filter of the user's is no filter.
    #[error("log level {filter:?} is not understood: expected a level such as info, or target=level,...")]
    Filter {
        /// As the user gave it.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Somebody else has taken over logging in this process.
    #[error("diagnostics have been started before")]
    Again,
}

/// Where diagnostics go: behind a queue, for a reader of stderr that stalls must not stop the agent.
static STDERR: OnceLock<Stream> = OnceLock::new();

/// Makes the lines; unset before [`start`].
static WRITER: OnceLock<Writer> = OnceLock::new();

/// Lines that could not be written to stderr where it has no queue; there is nowhere left to say so but a metric.
static LOST: AtomicU64 = AtomicU64::new(0);

/// How long a panic waits for its line to be out: the process may end next.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Diagnostics lost since the start because stderr refused them, or had no room for them.
#[must_use]
pub fn lost() -> u64 {
    LOST.load(Ordering::Relaxed) + STDERR.get().map_or(0, Stream::lost)
}

/// Lines lost since the start, of diagnostics and of the data on this stream, as a metric.
#[derive(Debug)]
pub struct LostLines(pub Stream);

impl Collector for LostLines {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let help = "Lines that never left: their reader stalls, or the stream refuses them (a full disk, a closed pipe)";
        let mut lines = encoder.encode_descriptor("log_lines_lost", help, None, MetricType::Counter)?;
        for (stream, count) in [("stdout", self.0.lost()), ("stderr", lost())] {
            ConstCounter::new(count).encode(lines.encode_family(&[("stream", stream)])?)?;
        }
        Ok(())
    }
}

/// Waits until all diagnostics are out, at most for `patience`: to be called before the process ends.
pub fn drain(patience: Duration) {
    if let Some(stderr) = STDERR.get() {
        // What is lost by now is lost in the one place that could say so.
        let _ = stderr.drain(patience);
    }
}

/// Starts diagnostics for the whole process. `root` is the span of every line outside of any incident.
///
/// `filter` is a level (`info`) or a list of `target=level`, as [`EnvFilter`] reads it.
///
/// # Errors
/// The filter makes no sense, or diagnostics have been started before.
pub fn start(style: Style, filter: &str, identity: Arc<Identity>, root: Span) -> Result<(), StartError> {
    // aya warns of a memory limit it could not raise; where that matters its refusal comes next, and says more.
    let wanted = EnvFilter::try_new(format!("aya::sys=error,{filter}"))
        .map_err(|source| StartError::Filter { filter: filter.to_owned(), source })?;
    // Records of the `log` crate that nobody wants are then refused before they are made.
    let most = wanted.max_level_hint().map_or(log::LevelFilter::Trace, |level| level.as_log());
    let writer = Writer { style, identity, root };
    let diagnostics = Diagnostics { writer: writer.clone(), out: to_stderr };
    let subscriber = Registry::default().with(wanted).with(diagnostics);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| StartError::Again)?;
    LogTracer::builder().with_max_level(most).init().map_err(|_| StartError::Again)?;
    // Where no thread can be started, lines are written where they are made.
    if let Ok(stderr) = Stream::stderr() {
        // It was started once: the subscriber above is the only one.
        let _ = STDERR.set(stderr);
    }
    let _ = WRITER.set(writer.clone());
    std::panic::set_hook(Box::new(move |panic| {
        to_stderr(&writer.panicked(panic));
        drain(LAST_WORDS);
    }));
    Ok(())
}

/// Why the process ends: written whatever the filter is, for nothing else says it.
pub fn fatal(message: &str) {
    let said = Said { message: message.to_owned(), fields: Vec::new() };
    match WRITER.get() {
        Some(writer) => to_stderr(&writer.line(Level::ERROR, "r2c_agent", &said)),
        None => to_stderr(plain(Level::ERROR, &said).as_bytes()),
    }
}

/// Hands over one whole line.
fn to_stderr(line: &[u8]) {
    if let Some(stderr) = STDERR.get() {
        // It counts what it loses.
        let _ = stderr.put(line);
    } else if io::stderr().lock().write_all(line).is_err() {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

/// Turns what `tracing` collects into lines and hands each to `out`.
struct Diagnostics<W> {
    writer: Writer,
    out: W,
}

impl<S: Subscriber, W: Fn(&[u8]) + 'static> Layer<S> for Diagnostics<W> {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // A record of the `log` crate carries its own level and target as fields.
        let normalized = event.normalized_metadata();
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        let mut said = Said::default();
        event.record(&mut said);
        (self.out)(&self.writer.line(*metadata.level(), metadata.target(), &said));
    }
}

/// Makes lines; one a process.
#[derive(Clone)]
struct Writer {
    style: Style,
    identity: Arc<Identity>,
    root: Span,
}

impl Writer {
    fn line(&self, level: Level, target: &str, said: &Said) -> Vec<u8> {
        match self.style {
            Style::Json => self.json(level, target, said),
            Style::Plain => plain(level, said).into_bytes(),
        }
    }

    fn json(&self, level: Level, target: &str, said: &Said) -> Vec<u8> {
        let head = Head {
            at: SystemTime::now(),
            level: level.as_str(),
            message: &said.message,
            span: self.root,
            identity: &self.identity,
            pod: None,
            origin: Origin::Target(target),
        };
        let mut line = Vec::with_capacity(512);
        render(&head, &said.fields, &mut line);
        line
    }

    fn panicked(&self, panic: &PanicHookInfo<'_>) -> Vec<u8> {
        let why = panic.payload_as_str().unwrap_or("a value that is no text");
        let mut said = Said::default();
        let thread = std::thread::current();
        said.fields.push((
            "thread",
            thread.name().map_or(Value::Absent, |name| Value::Text(name.to_owned().into())),
        ));
        said.message = match panic.location() {
            Some(place) => bounded(format_args!("panicked at {place}: {why}")),
            None => bounded(format_args!("panicked: {why}")),
        };
        self.line(Level::ERROR, "panic", &said)
    }
}

/// A line for a person: only what is out of the ordinary has its level said.
fn plain(level: Level, said: &Said) -> String {
    let prefix = match level {
        Level::ERROR => "error: ",
        Level::WARN => "warning: ",
        Level::INFO => "",
        Level::DEBUG => "debug: ",
        Level::TRACE => "trace: ",
    };
    let mut line = format!("r2c-agent: {prefix}{}", escape::text(&said.message));
    for (name, value) in &said.fields {
        let text = match value {
            Value::Text(text) => escape::text(text),
            Value::Number(number) => number.to_string().into(),
            Value::Signed(number) => number.to_string().into(),
            Value::Flag(flag) => flag.to_string().into(),
            // No other kind is ever recorded by `Said`.
            _ => Cow::Borrowed("-"),
        };
        // Writing to a String cannot fail.
        let _ = write!(line, " {name}={text}");
    }
    if let Some(start) = escape::cut(&line, MAX_LINE - 4) {
        let length = start.len();
        line.truncate(length);
        line.push(escape::CUT);
    }
    line.push('\n');
    line
}

/// What one event said.
#[derive(Default)]
struct Said {
    message: String,
    fields: Vec<Field<'static>>,
}

impl Said {
    fn add(&mut self, field: &tracing::field::Field, value: Value<'static>) {
        // What `tracing-log` adds for its own use; the line's target and level say it already.
        if !field.name().starts_with("log.") {
            self.fields.push((field.name().trim_start_matches("r#"), value));
        }
    }

    fn add_text(&mut self, field: &tracing::field::Field, text: String) {
        if field.name() == "message" {
            self.message = text;
        } else {
            self.add(field, Value::Text(text.into()));
        }
    }
}

impl Visit for Said {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        self.add_text(field, bounded(format_args!("{value:?}")));
    }

    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        self.add_text(field, bounded(format_args!("{value}")));
    }

    fn record_error(&mut self, field: &tracing::field::Field, value: &(dyn std::error::Error + 'static)) {
        self.add_text(field, bounded(format_args!("{value}")));
    }

    fn record_u64(&mut self, field: &tracing::field::Field, value: u64) {
        self.add(field, Value::Number(value));
    }

    fn record_i64(&mut self, field: &tracing::field::Field, value: i64) {
        self.add(field, Value::Signed(value));
    }

    fn record_bool(&mut self, field: &tracing::field::Field, value: bool) {
        self.add(field, Value::Flag(value));
    }
}

/// Formats no more than a line can hold: a library that logs a whole response must not cost its size in memory.
fn bounded(text: fmt::Arguments<'_>) -> String {
    struct Bounded(String);
    impl fmt::Write for Bounded {
        fn write_str(&mut self, part: &str) -> fmt::Result {
            // A little more than fits, so that the cut is seen and marked later.
            let room = (MAX_LINE + 4).saturating_sub(self.0.len());
            match escape::cut(part, room) {
                None => self.0.push_str(part),
                Some(start) => {
                    self.0.push_str(start);
                    return Err(fmt::Error);
                }
            }
            Ok(())
        }
    }
    let mut out = Bounded(String::new());
    // An error is the text being too long, or a library's formatting having failed: what there is will do.
    let _ = out.write_fmt(text);
    out.0
}

/// A line for the person who has asked for something, beside the data on stdout.
pub fn note(text: &str) {
    to_stderr(format!("r2c-agent: {}\n", escape::text(text)).as_bytes());
}

#[cfg(test)]
pub(crate) mod said;
#[cfg(test)]
mod tests;
