//! Diagnostics as they leave the process: in this one with a layer of its own, and in a child for what is global.

use std::process::{Command, Output};
use std::sync::Mutex;

use tracing::{debug, error, info, trace, warn};

use super::*;
use crate::sink::schema;

const HOSTILE: &str = "a\nr2c-agent: error: forged\x1b[2J\u{9b}\u{202e}\u{2028}";

/// What `act` makes a layer in `style` write.
fn captured(style: Style, act: impl FnOnce()) -> String {
    let lines: Arc<Mutex<Vec<u8>>> = Arc::default();
    let identity =
        Identity::new(Some("node-1".into()), Some("r2c-agent-x".into()), Some("monitoring".into()));
    let writer = Writer { style, identity: Arc::new(identity), root: Span::root() };
    let out = {
        let lines = Arc::clone(&lines);
        move |line: &[u8]| {
            assert!(line.len() <= MAX_LINE, "{} bytes", line.len());
            lines.lock().unwrap().extend_from_slice(line);
        }
    };
    let subscriber = Registry::default().with(Diagnostics { writer, out });
    tracing::subscriber::with_default(subscriber, act);
    let text = String::from_utf8(lines.lock().unwrap().clone()).unwrap();
    assert!(!text.replace('\n', "").contains(escape::is_unsafe), "{text:?}");
    text
}

#[test]
fn json_diagnostics_keep_the_schema_and_share_the_root_span() {
    let text = captured(Style::Json, || {
        trace!("t");
        debug!(ratio = 0.5, "d");
        info!(probe = "drops", rung = "tp_btf", seen = 3_u64, errno = -1, ok = true, "attached");
        warn!(error = %"no such file", path = HOSTILE, "{HOSTILE}");
        error!(pod_name = "forged", r#type = "x");
    });
    let lines: Vec<serde_json::Value> = text.lines().map(schema::check).collect();
    assert_eq!(lines.len(), 5);
    let levels: Vec<&str> = lines.iter().map(|line| line["level"].as_str().unwrap()).collect();
    assert_eq!(levels, ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"]);
    assert!(lines.iter().all(|line| line["span_id"] == lines[0]["span_id"]));
    assert!(lines.iter().all(|line| line["trace_id"] == lines[0]["trace_id"]));
    assert!(lines.iter().all(|line| line["pod_name"] == "r2c-agent-x" && line["namespace"] == "monitoring"));
    assert_eq!(lines[2]["probe"], "drops");
    assert_eq!(lines[2]["seen"], 3);
    assert_eq!(lines[2]["errno"], -1);
    assert_eq!(lines[2]["target"], "agent::log::tests");
    assert_eq!(lines[3]["message"], HOSTILE);
    assert_eq!(lines[3]["path"], HOSTILE);
    assert_eq!(lines[4]["field_pod_name"], "forged");
    assert_eq!(lines[4]["type"], "x");
}

#[test]
fn plain_diagnostics_are_one_line_each() {
    let text = captured(Style::Plain, || {
        info!("attached");
        warn!(lost = 3_u64, why = "ring full", "events were lost");
        error!("{HOSTILE}");
    });
    assert_eq!(
        text,
        "r2c-agent: attached\n\
         r2c-agent: warning: events were lost lost=3 why=ring full\n\
         r2c-agent: error: a\\x0ar2c-agent: error: forged\\x1b[2J\\u{9b}\\u{202e}\\u{2028}\n"
    );
}

/// Not only texts: an error's number and a switch are what a line is read for.
#[test]
fn plain_diagnostics_have_every_kind_of_field() {
    let fault = io::Error::other("no room");
    let text = captured(Style::Plain, || {
        let error: &(dyn std::error::Error + 'static) = &fault;
        info!(errno = -1, ok = true, seen = 3_u64, error, "read");
    });
    assert_eq!(text, "r2c-agent: read errno=-1 ok=true seen=3 error=no room\n");
}

#[test]
fn a_huge_diagnostic_is_cut() {
    let huge = "x".repeat(1 << 20);
    let json = captured(Style::Json, || warn!(body = ?huge, "{huge}"));
    let line = schema::check(json.trim_end());
    assert_eq!(line["truncated"], true);
    assert!(line["message"].as_str().unwrap().len() > 1_000);
    let plain = captured(Style::Plain, || warn!("{huge}"));
    assert!(plain.ends_with("…\n"));
    assert!(
        (MAX_LINE - 8..=MAX_LINE).contains(&plain.len()),
        "{} bytes: a line is made full use of",
        plain.len()
    );
}

#[test]
fn a_filter_that_makes_no_sense_is_refused() {
    let identity = Arc::new(Identity::new(None, None, None));
    let refused = start(Style::Json, "info,agent=loud", identity, Span::root()).unwrap_err();
    assert!(refused.to_string().contains("agent=loud"), "{refused}");
}

/// Set in the child process of the tests below.
const CHILD: &str = "R2C_TEST_LOG_CHILD";

/// What only a process of its own can show: the global logger, the `log` crate, the panic hook, stderr itself.
#[test]
fn child() {
    let style = match std::env::var(CHILD).as_deref() {
        Ok("json") => Style::Json,
        Ok("plain") => Style::Plain,
        Ok("last") => {
            note("beside the data");
            return fatal("the end");
        }
        Ok("full") => return lose_all(),
        _ => return,
    };
    let identity = Arc::new(Identity::new(None, None, None));
    start(style, "info,noisy=off", Arc::clone(&identity), Span::root()).unwrap();
    assert!(matches!(start(style, "info", identity, Span::root()), Err(StartError::Again)));
    info!("started");
    debug!("not wanted");
    log::warn!(target: "aya::bpf", "{HOSTILE}");
    log::debug!("not wanted");
    log::error!(target: "noisy", "not wanted");
    let thread = std::thread::Builder::new().name(HOSTILE.into());
    thread.spawn(|| panic!("{HOSTILE}")).unwrap().join().unwrap_err();
    std::thread::spawn(|| std::panic::panic_any(1)).join().unwrap_err();
    drain(Duration::from_secs(30));
    assert_eq!(lost(), 0);
}

/// Its stderr refuses every line.
fn lose_all() {
    let identity = Arc::new(Identity::new(None, None, None));
    start(Style::Plain, "info", identity, Span::root()).unwrap();
    info!("one");
    info!("two");
    drain(Duration::from_secs(30));
    assert_eq!(lost(), 2);
    let mut metrics = crate::metrics::Metrics::default();
    metrics.registry().register_collector(Box::new(LostLines(Stream::stderr().unwrap())));
    let text = metrics.encode(crate::metrics::Format::Classic).unwrap();
    assert!(text.contains("\nr2c_log_lines_lost_total{stream=\"stdout\"} 0\n"), "{text}");
    assert!(text.contains("\nr2c_log_lines_lost_total{stream=\"stderr\"} 2\n"), "{text}");
}

#[test]
fn lines_that_are_refused_are_counted() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let exe = std::env::current_exe().unwrap();
    let arguments = ["--exact", "log::tests::child", "--nocapture", "--test-threads=1"];
    let output = Command::new(exe).args(arguments).env(CHILD, "full").stderr(full).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn the_last_word_and_a_note_are_out_before_diagnostics_have_started() {
    assert_eq!(run_child("last"), "r2c-agent: beside the data\nr2c-agent: error: the end\n");
}

fn run_child(style: &str) -> String {
    let exe = std::env::current_exe().unwrap();
    let arguments = ["--exact", "log::tests::child", "--nocapture", "--test-threads=1"];
    let Output { status, stderr, .. } = Command::new(exe).args(arguments).env(CHILD, style).output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert!(status.success(), "{text}");
    text
}

#[test]
fn a_process_writes_nothing_but_lines_of_the_schema_even_when_it_panics() {
    let text = run_child("json");
    let lines: Vec<serde_json::Value> = text.lines().map(schema::check).collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert_eq!(lines[0]["message"], "started");
    assert_eq!((&lines[1]["target"], &lines[1]["level"]), (&"aya::bpf".into(), &"WARN".into()));
    assert_eq!(lines[1]["message"], HOSTILE);
    let message = lines[2]["message"].as_str().unwrap();
    assert!(
        message.starts_with("panicked at ") && message.contains("tests.rs:") && message.ends_with(HOSTILE)
    );
    assert_eq!((&lines[2]["target"], &lines[2]["level"]), (&"panic".into(), &"ERROR".into()));
    assert_eq!(lines[2]["thread"], HOSTILE);
    assert!(lines[3]["message"].as_str().unwrap().ends_with("a value that is no text"));
    assert!(lines.iter().all(|line| line["trace_id"] == lines[0]["trace_id"]));
}

#[test]
fn a_person_sees_one_line_each_too() {
    let text = run_child("plain");
    assert_eq!(text.lines().count(), 4, "{text}");
    assert!(text.lines().all(|line| line.starts_with("r2c-agent: ")));
    assert!(!text.replace('\n', "").contains(escape::is_unsafe));
}
