//! `trace mtu --fail-on-findings`: what a script is told by the exit code.

use std::net::SocketAddr;

use nix::sys::signal::Signal;

use crate::harness::lab::Lab;
use crate::harness::packet::udp_unfragmented;

use super::ladder::trace;

/// What there is to say, for each trace: what it was asked for, and whether that is a finding to it.
const TRACES: [(&[&str], bool); 6] = [
    (&["-n", "shop", "--fail-on-findings"], true),
    (&["-o", "json", "--fail-on-findings", "--pod", "web-0"], true),
    (&["-o", "wide", "-n", "shop"], false),
    (&["-n", "nowhere", "--wait", "--fail-on-findings"], false),
    (&["-o", "json", "--fail-on-findings", "--ip", "192.0.2.1"], false),
    (&["--fail-on-findings", "--port", "9", "--all"], false),
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
    for (agent, (args, _)) in agents.iter().zip(TRACES).filter(|(_, (_, is_finding))| *is_finding) {
        agent.stdout.wait(0, told).unwrap_or_else(|| panic!("{args:?}: {}", agent.stderr.text()));
    }
    for (agent, (args, is_finding)) in agents.iter_mut().zip(TRACES) {
        agent.signal(Signal::SIGINT);
        let code = agent.ended();
        let said = agent.stderr.text();
        assert_eq!(code, if is_finding { 4 } else { 0 }, "{args:?}: {said}");
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
