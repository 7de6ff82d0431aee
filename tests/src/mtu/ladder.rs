//! Each rung alone tells the same, and a `trace` for a person: rows, a verdict, a summary.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::agent::{Agent, command, json};
use crate::harness::lab::Lab;
use crate::harness::packet::udp_unfragmented;
use crate::harness::until;

use super::{knows_veth, of, sees_messages, v4};

/// `trace mtu`, attached.
pub(super) fn trace(lab: &Lab, args: &[&str]) -> Agent {
    let ready = lab.node.logs.with_file_name(format!("ready-{}", args.join("")));
    // Of a trace before with the same arguments.
    let _ = fs::remove_file(&ready);
    let args = [&["trace", "mtu", "--duration", "0", "--ready-file", ready.to_str().unwrap()], args].concat();
    let agent = Agent::spawn(&mut command(&lab.node, &args));
    until(&format!("attached; {}", agent.stderr.text()), || fs::exists(&ready).unwrap().then_some(()));
    agent
}

#[test]
fn every_rung_alone_tells_the_same() {
    let lab = Lab::lock();
    if !sees_messages(&lab) {
        return;
    }
    for (last, rung) in [(141, "fentry"), (142, "kprobe")] {
        let mut agent = trace(&lab, &["--rung", rung, "-o", "json"]);
        until(&format!("by {rung}; {}", agent.stderr.text()), || {
            agent.stderr.text().contains(&format!("__icmp_send ({rung})")).then_some(())
        });
        lab.web.netns.inside(|| udp_unfragmented(v4([10, 99, 3, last], 7800), 2, 1400));
        let verdict = agent.stdout.wait(0, |lines| lines.iter().find_map(|line| of(line, true)));
        agent.signal(Signal::SIGINT);
        assert_eq!(agent.ended(), 0, "{}", agent.stderr.text());
        // What does not fit whatever happens is told before, but not so much that it fills the screen.
        let standing = agent
            .stdout
            .since(0)
            .iter()
            .filter_map(|line| json(line))
            .fold(0, |sum, line| sum + usize::from(line["probe"] == "audit"));
        let said = agent.stderr.text();
        assert!(standing == 3 && said.contains("`r2c-agent audit mtu` names"), "{said}");
        let verdict = verdict.expect("a verdict");
        let told: Vec<&Value> = ["finding", "mtu", "event", "route_interface", "source_ip"]
            .iter()
            .map(|name| &verdict[*name])
            .collect();
        assert_eq!(
            told,
            ["small_device", "1400", "made", "rc", "10.99.1.2"]
                .map(|want| { want.parse::<u64>().map_or_else(|_| Value::from(want), Value::from) })
                .iter()
                .collect::<Vec<_>>()
        );
        // Made at the router, told to the pod.
        assert!(verdict["message"].as_str().unwrap().contains("2 made, 2 received"), "{verdict:#}");
    }
}

#[test]
fn a_trace_for_a_person() {
    let lab = Lab::lock();
    let mut agent = trace(&lab, &["-n", "shop"]);
    // This kind every kernel shows. The address is nobody else's, and so is the incident.
    let _address =
        lab.db.netns.meanwhile("ip", "addr add 10.99.6.3/24 dev eth2\n", "addr del 10.99.6.3/24 dev eth2\n");
    lab.web.netns.inside(|| udp_unfragmented(v4([10, 99, 6, 3], 7801), 3, 1400));
    let is_row = |line: &[u8]| line.windows(8).any(|word| word == b"oversize");
    agent.stdout.wait(0, |lines| {
        let at = lines.iter().position(|line| is_row(line))?;
        lines[at..].iter().any(|line| line.starts_with(b"=> ")).then_some(())
    });
    agent.signal(Signal::SIGINT);
    assert_eq!(agent.ended(), 0, "{}", agent.stderr.text());
    let table = agent.stdout.text();
    let rows: Vec<&str> = table.lines().collect();
    assert!(rows[0].starts_with("TIME       EVENT     MTU"), "{table}");
    let (row, words) = if knows_veth() {
        ("oversize  1300   eth2", "=> eth2 (MTU 1500) hands packets to eth2, which takes 1300")
    } else {
        ("oversize  -      eth2", "=> packets are freed on eth2 because the device they go to takes less")
    };
    // First what does not fit whatever happens, as far as it is shop's.
    let at = rows.iter().position(|row| is_row(row.as_bytes())).unwrap();
    let standing = rows[1..at].iter().filter(|row| row.starts_with("=> "));
    assert_eq!(standing.count(), 3, "{table}");
    assert!(rows[at].contains(row) && rows[at].contains("shop/web-0"), "{table}");
    assert!(rows[at + 1].starts_with(words), "{table}");
    assert!(rows[at + 2..].iter().all(|row| row.starts_with("   ")), "{table}");
    assert!(rows.iter().all(|row| row.chars().count() <= 80), "wider than a terminal: {table}");
    let said = agent.stderr.text();
    assert!(said.contains("3 dropped for their size without a word, ipv4"), "{said}");
    assert!(said.contains("no event lost"), "{said}");
}
