//! What the real Prometheus makes of the metrics.

use std::fs;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::harness::agent::{Agent, command, free_address};
use crate::harness::lab::Lab;
use crate::harness::packet::udp;
use crate::harness::scrape::{CLASSIC, OPENMETRICS, get};
use crate::harness::{reason, tool, until};

/// promtool's verdict on `text`.
fn promtool(args: &[&str], text: &str) -> Output {
    use std::io::Write as _;
    let mut promtool = tool("promtool");
    promtool.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = promtool.spawn().unwrap();
    // It may have seen enough before the end.
    let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn promtool_has_nothing_to_say_of_the_classic_text() {
    let lab = Lab::lock();
    let mut once = Agent::spawn(&mut command(&lab.node, &["metrics"]));
    assert_eq!(once.ended(), 0, "{}", once.stderr.text());
    for text in [lab.agent.text("/metrics", CLASSIC), once.stdout.text()] {
        assert!(text.contains("r2c_probe_up{probe=\"drops\"} 1"), "{text}");
        let output = promtool(&["check", "metrics"], &text);
        assert!(output.status.success() && said(&output).is_empty(), "{}\n{text}", said(&output));
    }
}

/// promtool's `check metrics` does not read `OpenMetrics`; its back-fill does, if each sample has a time.
#[test]
fn prometheus_parser_reads_the_openmetrics_text() {
    let lab = Lab::lock();
    let text = lab.agent.text("/metrics", OPENMETRICS);
    assert!(text.ends_with("# EOF\n"), "{text}");
    assert!(text.contains(" # {trace_id=\""), "no exemplar in\n{text}");
    let timed: String = text.lines().map(timed).collect();
    let folder = tempfile::tempdir().unwrap();
    let (input, blocks) = (folder.path().join("metrics"), folder.path().join("blocks"));
    fs::write(&input, &timed).unwrap();
    let [input, blocks] = [&input, &blocks].map(|path| path.to_str().unwrap());
    let output = promtool(&["tsdb", "create-blocks-from", "openmetrics", input, blocks], "");
    assert!(output.status.success(), "{}\n{timed}", said(&output));
}

/// A line with a time after its value, which is before the exemplar.
fn timed(line: &str) -> String {
    if line.starts_with('#') {
        return format!("{line}\n");
    }
    match line.split_once(" # ") {
        Some((sample, exemplar)) => format!("{sample} 1767323045 # {exemplar}\n"),
        None => format!("{line} 1767323045\n"),
    }
}

#[test]
fn prometheus_scrapes_it() {
    let lab = Lab::lock();
    lab.web.netns.inside(|| udp(([10, 99, 2, 2], 7601).into(), 3, 10));
    lab.barrier();
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("prometheus.yml");
    let target = lab.agent.address;
    fs::write(
        &config,
        format!(
            "global: {{scrape_interval: 1s}}\n\
             scrape_configs: [{{job_name: r2c, static_configs: [{{targets: ['{target}']}}]}}]\n"
        ),
    )
    .unwrap();
    let web = free_address();
    let mut server: Command = tool("prometheus");
    server.arg(format!("--config.file={}", config.display()));
    server.arg(format!("--storage.tsdb.path={}", folder.path().join("tsdb").display()));
    server.arg(format!("--web.listen-address={web}"));
    let mut server = Agent::spawn(&mut server);
    let query =
        format!("/api/v1/query?query=sum(r2c_drop_packets_total%7Breason=%22{}%22%7D)", reason("NO_SOCKET"));
    let value = until("prometheus has scraped the drops", || {
        let (_, body) = get(web, &query, "*/*").ok()?;
        let answer: Value = serde_json::from_str(&body).ok()?;
        answer["data"]["result"][0]["value"][1].as_str()?.parse::<f64>().ok()
    });
    assert!(value >= 3., "{value}");
    let pod = "/api/v1/query?query=r2c_pod_drop_packets_total%7Bpod=%22web-0%22,end=%22source%22%7D";
    let (_, body) = get(web, pod, "*/*").unwrap();
    assert!(body.contains("\"namespace\":\"shop\""), "{body}");
    server.signal(nix::sys::signal::Signal::SIGTERM);
    server.ended();
}
