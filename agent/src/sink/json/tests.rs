//! Every JSON line: valid by the schema, whole, short enough, and safe to show.

use std::net::Ipv6Addr;
use std::sync::Mutex;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::sink::{Level, Saying, Told, escape, schema};

fn identity() -> Arc<Identity> {
    Arc::new(Identity::new(Some("node-1".into()), None, None))
}

fn pod() -> Pod {
    Pod { namespace: "shop".into(), name: "web-0".into(), uid: "u".into() }
}

fn saying<'a>(message: &'a str, fields: &'a [Field<'a>]) -> Saying<'a> {
    Saying { message, fields, cells: &[] }
}

fn line<'a>(says: &'a Saying<'a>, pod: Option<&'a Pod>) -> Line<'a> {
    Line {
        told: Told::Event,
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045),
        level: Level::Warn,
        probe: "drops",
        span: Span::root(),
        pod,
        says,
    }
}

/// What the sink writes for such a line, checked for what holds of every line.
fn written(message: &str, pod: Option<&Pod>, fields: &[Field<'_>]) -> (String, serde_json::Value) {
    let mut out = Vec::new();
    let mut sink = JsonSink::new(&mut out, identity());
    assert_eq!(sink.write(&line(&saying(message, fields), pod)).unwrap(), Written::Yes);
    sink.flush().unwrap();
    drop(sink);
    assert!(out.len() <= MAX_LINE, "{} bytes", out.len());
    let text = String::from_utf8(out).unwrap();
    let body = text.strip_suffix('\n').expect("a line ends with a newline");
    assert!(!body.contains(escape::is_unsafe), "raw unsafe character in {body:?}");
    (body.to_owned(), schema::check(body))
}

#[test]
fn an_event_has_the_schema_and_its_fields() {
    let pod = pod();
    let fields = [
        ("src", Value::Ip(Ipv6Addr::LOCALHOST.into())),
        ("dst_port", Value::Port(443)),
        ("dev", Value::Interface("eth0".into())),
        ("reason", Value::Reason("NO_SOCKET".into())),
        ("bytes", Value::Number(u64::MAX)),
        ("errno", Value::Signed(-90)),
        ("harmful", Value::Flag(true)),
        ("ttl", Value::Absent),
        ("src_pod", Value::Pod(Some(&pod))),
        ("dst_pod", Value::Pod(None)),
        ("comm", Value::Text("curl".into())),
    ];
    let (text, json) = written("dropped", Some(&pod), &fields);
    assert!(
        text.starts_with(
            r#"{"timestamp":"2026-01-02T03:04:05.000000000Z","level":"WARN","message":"dropped""#
        )
    );
    assert_eq!(json["pod_name"], "web-0");
    assert_eq!(json["namespace"], "shop");
    assert_eq!(json["node_name"], "node-1");
    assert_eq!(json["probe"], "drops");
    assert_eq!(json["src"], "::1");
    assert_eq!(json["bytes"], u64::MAX);
    assert_eq!(json["errno"], -90);
    assert_eq!(json["ttl"], serde_json::Value::Null);
    assert_eq!(json["src_pod"], serde_json::json!({"namespace": "shop", "pod": "web-0"}));
    assert_eq!(json["dst_pod"], serde_json::Value::Null);
    assert!(json.get("truncated").is_none());
}

#[test]
fn a_line_about_no_pod_is_the_agents_own() {
    let (_, json) = written("m", None, &[]);
    assert_eq!(json["pod_name"], serde_json::Value::Null);
    assert_eq!(json["namespace"], serde_json::Value::Null);
}

#[test]
fn a_field_cannot_overrule_the_schemas_own() {
    let (text, json) = written("m", None, &[("pod_name", Value::Text("forged".into()))]);
    assert_eq!(text.matches("\"pod_name\"").count(), 1);
    assert_eq!(json["pod_name"], serde_json::Value::Null);
    assert_eq!(json["field_pod_name"], "forged");
}

#[test]
fn hostile_text_is_one_line_and_decodes_to_what_it_was() {
    let hostile = "a\n{\"level\":\"INFO\"}\x1b]0;x\x07\u{9b}2J\u{202e}\u{2028}\u{e0041}\"\\";
    let (_, json) = written(hostile, None, &[("comm", Value::Text(hostile.into()))]);
    assert_eq!(json["message"], hostile);
    assert_eq!(json["comm"], hostile);
}

/// Each alone, by a list of its own: one that the sink's list forgets must not be forgotten here as well.
#[test]
fn each_character_that_a_terminal_obeys_is_written_out_and_comes_back() {
    for c in escape::tests::obeyed() {
        let text = format!("a{c}b");
        let pod = Pod { namespace: text.clone(), name: text.clone(), uid: "u".into() };
        let fields = [
            ("comm", Value::Text(text.as_str().into())),
            ("dev", Value::Interface(text.as_str().into())),
            ("reason", Value::Reason(text.as_str().into())),
            ("src_pod", Value::Pod(Some(&pod))),
        ];
        let (body, json) = written(&text, Some(&pod), &fields);
        assert!(!body.contains(c), "{c:?} is raw in {body:?}");
        for field in ["message", "comm", "dev", "reason", "pod_name", "namespace"] {
            assert_eq!(json[field], text.as_str(), "{c:?} in {field}");
        }
        assert_eq!(json["src_pod"], serde_json::json!({"namespace": text, "pod": text}), "{c:?}");
    }
}

#[test]
fn a_long_value_is_cut_and_said_to_be() {
    let long = "é".repeat(40_000);
    let (_, json) = written("m", None, &[("path", Value::Text(long.into())), ("n", Value::Number(1))]);
    assert_eq!(json["truncated"], true);
    assert!(json["path"].as_str().unwrap().ends_with('…'));
    assert!(json["path"].as_str().unwrap().len() > 4_000, "as much as fits is kept");
    assert_eq!(json["n"], 1);
    assert_eq!(json["message"], "m");
}

#[test]
fn more_fields_than_fit_leave_the_schemas_own() {
    let fields: Vec<Field<'_>> = (0..2_000).map(|_| ("field", Value::Text("x".repeat(100).into()))).collect();
    let (_, json) = written("m", None, &fields);
    assert_eq!(json["truncated"], true);
    assert!(json.get("field").is_none());
}

/// Keeps the length of each write, or refuses it.
struct Pipe(Arc<Mutex<Vec<usize>>>, Option<io::ErrorKind>);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(fault) = self.1 {
            return Err(fault.into());
        }
        assert_eq!(bytes.last(), Some(&b'\n'), "a line was split");
        self.0.lock().unwrap().push(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn each_line_is_one_write() {
    let writes = Arc::new(Mutex::new(Vec::new()));
    let mut sink = JsonSink::new(Pipe(Arc::clone(&writes), None), identity());
    for length in 0..100 {
        sink.write(&line(&saying(&"x".repeat(length), &[]), None)).unwrap();
    }
    assert_eq!(writes.lock().unwrap().len(), 100);
}

#[test]
fn a_closed_pipe_is_passed_up_and_one_without_room_costs_the_line() {
    let write = |fault| {
        JsonSink::new(Pipe(Arc::default(), Some(fault)), identity()).write(&line(&saying("m", &[]), None))
    };
    assert_eq!(write(io::ErrorKind::BrokenPipe).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(write(io::ErrorKind::WouldBlock).unwrap(), Written::Refused);
}

proptest! {
    #[test]
    fn whatever_the_text_it_is_one_valid_line(message: String, comm: Vec<u8>, long in 0usize..40_000) {
        let comm = escape::bytes(&comm);
        let path: String = message.chars().cycle().take(if message.is_empty() { 0 } else { long }).collect();
        let fields = [("comm", Value::Text(comm.clone())), ("path", Value::Text(path.into()))];
        let (_, json) = written(&message, None, &fields);
        prop_assert!(json["truncated"] == true || json["comm"] == *comm);
    }
}

#[test]
fn what_the_stream_fails_to_flush_is_said() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }
    let mut sink = JsonSink::new(Full, identity());
    assert_eq!(sink.flush().unwrap_err().kind(), io::ErrorKind::StorageFull);
}

#[test]
fn a_line_without_fields_is_whole() {
    let (_, json) = written("m", None, &[]);
    assert!(json.get("truncated").is_none(), "{json}");
}

/// Lines that wait in the same buffer take nothing from the next one.
#[test]
fn a_line_behind_others_is_as_long_as_one_alone() {
    let identity = identity();
    let fields = [("text", Value::Text("x".repeat(MAX_LINE / 2).into()))];
    let head = Head {
        at: SystemTime::UNIX_EPOCH,
        level: "INFO",
        message: "m",
        span: Span::root(),
        identity: &identity,
        pod: None,
        origin: Origin::Probe("drops"),
    };
    let mut out = Vec::new();
    render(&head, &fields, &mut out);
    let first = out.clone();
    render(&head, &fields, &mut out);
    assert_eq!(out, [first.clone(), first].concat());
}
