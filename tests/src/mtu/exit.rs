//! `trace mtu --fail-on-findings`: what a script is told by the exit code.

use std::net::SocketAddr;

use nix::sys::signal::Signal;

use crate::harness::lab::Lab;
use crate::harness::packet::udp_unfragmented;

use super::ladder::trace;

/// The exit code of a trace that told findings.
const FINDINGS: i32 = 4;

/// For each trace: what it was asked for, and its exit code.
const TRACES: [(&[&str], i32); 6] = [
    (&["-n", "shop", "--fail-on-findings"], FINDINGS),
    (&["-o", "json", "--fail-on-findings", "--pod", "web-0"], FINDINGS),
    (&["-o", "wide", "-n", "shop"], 0),
    // Its pods never came: that nothing was found of them says nothing.
    (&["-n", "nowhere", "--wait", "--fail-on-findings"], 1),
    (&["-o", "json", "--fail-on-findings", "--ip", "192.0.2.1"], 0),
    (&["--fail-on-findings", "--port", "9", "--all"], 0),
];

#[test]
fn a_finding_that_is_told_is_an_exit_code() {
    let lab = Lab::lock();
    let mut agents = TRACES.map(|(args, _)| trace(&lab, args));
    // This kind every kernel shows. The address is nobody else's, and so is the incident.
    let _address =
        lab.db.netns.meanwhile("ip", "addr add 10.99.6.4/24 dev eth2\n", "addr del 10.99.6.4/24 dev eth2\n");
    lab.web.netns.inside(|| udp_unfragmented(SocketAddr::from(([10, 99, 6, 4], 7802)), 3, 1400));
    let told = |lines: &[Vec<u8>]| lines.iter().any(|line| contains(line, "10.99.6.4")).then_some(());
    for (agent, (args, _)) in agents.iter().zip(TRACES).filter(|(_, (_, code))| *code == FINDINGS) {
        agent.stdout.wait(0, told).unwrap_or_else(|| panic!("{args:?}: {}", agent.stderr.text()));
    }
    for (agent, (args, code)) in agents.iter_mut().zip(TRACES) {
        agent.signal(Signal::SIGINT);
        let ended = agent.ended();
        let said = agent.stderr.text();
        assert_eq!(ended, code, "{args:?}: {said}");
        let is_finding = code == FINDINGS;
        // It ends as any trace does: what is pending is told, and what it all came to.
        assert!(
            said.contains("nothing lost") && said.contains("3 dropped for their size"),
            "{args:?}: {said}"
        );
        let named = said.contains("findings were told (--fail-on-findings)");
        assert_eq!(named, is_finding, "{args:?}: {said}");
        if !is_finding && args.contains(&"--fail-on-findings") {
            assert!(told(&agent.stdout.since(0)).is_none(), "{args:?}: {}", agent.stdout.text());
            assert!(!said.contains(" 0 filtered out"), "it has seen it, and kept it to itself: {said}");
        }
    }
}

#[test]
fn nothing_is_no_finding() {
    let lab = Lab::lock();
    let mut agent = trace(&lab, &["-o", "json", "--fail-on-findings", "--ip", "10.99.6.9"]);
    agent.signal(Signal::SIGINT);
    assert_eq!(agent.ended(), 0, "{}", agent.stderr.text());
    assert_eq!(agent.stdout.count(), 0);
    let said = agent.stderr.text();
    assert!(said.contains(" 0 shown") && said.contains("nothing lost"), "{said}");
}

fn contains(line: &[u8], text: &str) -> bool {
    line.windows(text.len()).any(|window| window == text.as_bytes())
}
