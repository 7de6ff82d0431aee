//! `trace mtu --fail-on-findings`: what a script is told by the exit code.

use std::net::SocketAddr;

use nix::sys::signal::Signal;

use crate::harness::lab::Lab;
use crate::harness::packet::udp_unfragmented;

use super::ladder::trace;

/// The exit code of a trace that told findings.
const FINDINGS: i32 = 4;

/// Of one that found nothing, and was refused hooks that might have.
const UNSEEN: i32 = 3;

/// For each trace: what it was asked for, and its exit code where all hooks hold.
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
        let is_unseen = !sees_all(&lab, args, &said) && args.contains(&"--fail-on-findings");
        let code = if code == 0 && is_unseen { UNSEEN } else { code };
        assert_eq!(ended, code, "{args:?}: {said}");
        let is_finding = code == FINDINGS;
        // It ends as any trace does: what is pending is told, and what it all came to.
        assert!(
            said.contains("no event lost") && said.contains("3 dropped for their size"),
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
    let (ended, said) = (agent.ended(), agent.stderr.text());
    let all_hold = sees_all(&lab, &["--fail-on-findings"], &said);
    assert_eq!(ended, if all_hold { 0 } else { UNSEEN }, "{said}");
    assert_eq!(agent.stdout.count(), 0);
    assert!(said.contains(" 0 shown") && said.contains("no event lost"), "{said}");
}

/// Hooks of one rung alone: what the others would have told is not seen, on any kernel.
#[test]
fn silence_of_some_hooks_is_no_all_clear() {
    let lab = Lab::lock();
    let mut agent = trace(&lab, &["--rung", "tp_btf", "--fail-on-findings", "--ip", "10.99.6.9"]);
    agent.signal(Signal::SIGINT);
    let (ended, said) = (agent.ended(), agent.stderr.text());
    assert_eq!(ended, UNSEEN, "{said}");
    assert!(!sees_all(&lab, &["--fail-on-findings"], &said), "{said}");
    assert!(
        said.contains("no event lost; 11 of 13 hooks ") && said.contains("left out (--rung), so"),
        "{said}"
    );
}

/// Whether all hooks of a trace hold; if not, its end says so, and a script that asks for findings is told.
fn sees_all(lab: &Lab, args: &[&str], said: &str) -> bool {
    let is_told = said.contains(", so not all is seen");
    assert!(is_told || lab.has_hook("mtu", "__icmp_send"), "{said}");
    let fails = args.contains(&"--fail-on-findings");
    let refused = said.contains("nothing was found, but ") && said.contains(" hooks ");
    assert!(!refused || is_told && fails, "{said}");
    !is_told
}

fn contains(line: &[u8], text: &str) -> bool {
    line.windows(text.len()).any(|window| window == text.as_bytes())
}
