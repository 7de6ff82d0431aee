//! Both texts, held against Prometheus' own parsers.

use std::io::{ErrorKind, Write};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::exemplar::{CounterWithExemplar, HistogramWithExemplars};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::exponential_buckets;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Unit;

use super::*;

type Labels = Vec<(&'static str, String)>;

/// One family of each kind, with labels that try to break out.
fn metrics() -> Metrics {
    let mut metrics = Metrics::default();
    let registry = metrics.registry();
    let drops = Family::<Labels, Counter>::default();
    for hostile in ["NO_SOCKET", " # {trace_id=\"x\"} 1", "\\", "\"", "a\nr2c_forged 1", "\u{1b}[2J日本"] {
        drops.get_or_create(&vec![("reason", hostile.to_owned())]).inc_by(3);
    }
    registry.register("drops", "Packets the kernel dropped", drops);
    let trace = |id: &str| Some(vec![("trace_id", id.to_owned())]);
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_323_045_600);
    let incidents = CounterWithExemplar::<Labels>::default();
    incidents.inc_by(1, trace("0123456789abcdef0123456789abcdef"), Some(at));
    registry.register("incidents", "Incidents opened", incidents);
    let latency = HistogramWithExemplars::<Labels>::new(exponential_buckets(0.001, 10.0, 4));
    latency.observe(0.5, trace("0123456789abcdef0123456789abcdef"), Some(at));
    latency.observe(1e6, None, None);
    registry.register_with_unit("mount", "Time a mount call took", Unit::Seconds, latency);
    registry.register("table_used_ratio", "Share of the table in use", ConstGauge::new(0.25));
    registry.register("build", "What was built", Info::new(vec![("version", "0.1.0")]));
    metrics
}

/// Runs `promtool` with `input`; `None` where there is none, which only a run outside of CI may shrug at.
fn promtool(arguments: &[&str], input: &str) -> Option<Output> {
    let command = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match command {
        Err(fault) if fault.kind() == ErrorKind::NotFound => {
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "promtool is not installed");
            return None;
        }
        other => other.unwrap(),
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    Some(child.wait_with_output().unwrap())
}

fn assert_passed(output: &Output, input: &str) {
    let said = [&output.stdout[..], &output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}\n{input}");
}

#[test]
fn the_classic_text_passes_promtools_lint() {
    let text = metrics().encode(Format::Classic).unwrap();
    let Some(output) = promtool(&["check", "metrics"], &text) else { return };
    assert_passed(&output, &text);
    assert!(
        output.stdout.is_empty() && output.stderr.is_empty(),
        "promtool has something to say: {output:?}"
    );
}

#[test]
fn the_lint_can_fail() {
    let open = metrics().encode(Format::OpenMetrics).unwrap();
    let Some(output) = promtool(&["check", "metrics"], &open) else { return };
    assert!(!output.status.success(), "promtool would pass anything");
}

/// `promtool check metrics` reads classic text only; its back-fill reads `OpenMetrics`, if each sample has a time.
#[test]
fn the_open_metrics_text_passes_prometheus_parser() {
    let text = metrics().encode(Format::OpenMetrics).unwrap();
    let timed: String = text.lines().map(timed).collect();
    let folder = tempfile::tempdir().unwrap();
    let (input, blocks) = (folder.path().join("metrics.txt"), folder.path().join("blocks"));
    std::fs::write(&input, &timed).unwrap();
    let [input, blocks] = [&input, &blocks].map(|path| path.to_str().unwrap());
    let arguments = ["tsdb", "create-blocks-from", "openmetrics", input, blocks];
    let Some(output) = promtool(&arguments, "") else { return };
    assert_passed(&output, &timed);
    // 6 drops, 1 incident, 5 buckets, sum and count, a ratio, an info.
    let said = String::from_utf8(output.stdout).unwrap();
    let block = said.lines().nth(1).unwrap_or_default();
    assert_eq!(block.split_whitespace().nth(4), Some("16"), "{said}");
}

/// A line with a time after its value.
fn timed(line: &str) -> String {
    if line.starts_with('#') {
        return format!("{line}\n");
    }
    let mut sample = String::new();
    let mut lines = classic::Lines::new(&mut sample);
    fmt::Write::write_str(&mut lines, line).unwrap();
    lines.finish().unwrap();
    let sample = sample.trim_end();
    format!("{sample} 1767323045{}\n", &line[sample.len()..])
}

#[test]
fn exemplars_are_in_one_text_only_and_no_label_breaks_a_line() {
    let metrics = metrics();
    let open = metrics.encode(Format::OpenMetrics).unwrap();
    let classic = metrics.encode(Format::Classic).unwrap();
    assert!(open.contains("1767323045.6"), "{open}");
    assert!(open.contains("r2c_incidents_total 1 # {trace_id=\"0123456789abcdef0123456789abcdef\"} 1"));
    assert!(open.ends_with("# EOF\n"));
    assert!(classic.contains("\nr2c_incidents_total 1\n"));
    assert!(classic.contains("# TYPE r2c_incidents_total counter\n"));
    assert!(classic.contains("# TYPE r2c_build_info gauge\n"));
    assert!(!classic.contains("EOF") && !classic.contains("UNIT"));
    for text in [&open, &classic] {
        assert!(text.lines().all(|line| line.starts_with("# ") || line.starts_with("r2c_")));
        assert!(!text.contains("\nr2c_forged"));
    }
}
