//! The audit in `run`: gauges, a line when something stops to fit, one when it fits again, of one incident.

use serde_json::Value;

use crate::harness::agent::{Running, json};
use crate::harness::netns::Netns;
use crate::harness::pod::Pod;
use crate::harness::until;

use super::{Flannel, WEB, has_devices};

/// The line of the audit that has this event, from number `from` on.
fn line(running: &Running, from: usize, event: &str) -> Value {
    let is_it = |line: &Value| line["probe"] == "audit" && line["event"] == event;
    let found = |new: &[Vec<u8>]| new.iter().filter_map(|line| json(line)).find(is_it);
    let line = running.agent.stdout.wait(from, found);
    line.unwrap_or_else(|| {
        panic!("no {event}: {}\n{}", running.agent.stdout.text(), running.agent.stderr.text())
    })
}

#[test]
fn what_stops_to_fit_is_a_line_and_a_number() {
    if !has_devices() {
        return;
    }
    let flannel = Flannel::new();
    let running = Running::start(&flannel.node, &["--probe", "drops"]);
    let mtu = |name: &str, labels: &[(&str, &str)]| running.scrape().sum(name, labels);
    let tunnel = [("interface", "flannel.1"), ("kind", "vxlan")];
    let web = [("namespace", "shop"), ("pod", "web-0")];
    until("the first reading", || (mtu("r2c_interface_mtu_bytes", &tunnel) == 1450).then_some(()));
    assert_eq!(mtu("r2c_pod_interface_mtu_bytes", &web), 1450);
    assert_eq!(mtu("r2c_mtu_overlay_mismatch_bytes", &tunnel), 0);
    assert!(running.text("/metrics", crate::harness::scrape::CLASSIC).contains("r2c_mtu_path_exceptions{"));

    let from = running.agent.stdout.count();
    flannel.host.ip("link set eth0 mtu 1400\nroute del default\n");
    // It is read again because a pod comes, not only after half a minute.
    let late = Netns::new();
    let late = Pod::start(&flannel.node, "shop/late-0", &late);
    let told = line(&running, from, "finding");
    assert_eq!([&told["finding"], &told["level"]], ["overlay_too_large", "WARN"], "{told:#}");
    assert_eq!([&told["interface"], &told["fits"]], [&Value::from("flannel.1"), &1350.into()]);
    assert_eq!(mtu("r2c_mtu_overlay_mismatch_bytes", &tunnel), 100);

    flannel.host.ip("link set flannel.1 mtu 1350\n");
    late.stop();
    let gone = line(&running, from, "gone");
    assert_eq!([&gone["finding"], &gone["level"]], ["overlay_too_large", "INFO"], "{gone:#}");
    assert_eq!(gone["trace_id"], told["trace_id"], "one incident");
    assert_ne!(gone["span_id"], told["span_id"]);
    assert_eq!(mtu("r2c_mtu_overlay_mismatch_bytes", &tunnel), 0);
    let lines = running.agent.stdout.since(from);
    let told = lines.iter().filter_map(|line| json(line));
    let told = told.filter(|line| line["finding"] == "overlay_too_large" && line["event"] == "finding");
    assert_eq!(told.count(), 1, "told once: {}", running.agent.stdout.text());
    assert!(running.agent.stderr.text().contains("all read") || !running.agent.stderr.text().contains(WEB));
    flannel.pods.into_iter().for_each(Pod::stop);
}
