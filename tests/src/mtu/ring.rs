//! How many events the ring takes while nobody reads it, and what is said of those that it does not; and what was asked for in
//! a storm of others.

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::agent::{Agent, json};
use crate::harness::lab::Lab;
use crate::harness::packet::udp_unfragmented;

use super::ladder::trace;
use super::silent::narrow;
use super::{of, v4};

/// So many events come while the agent reads nothing; what it says at its end. This kind every kernel shows.
fn stalled(lab: &Lab, events: u64, args: &[&str]) -> (Agent, i32, String) {
    let _link = narrow(lab, 20);
    // Each kind may have all its events described: what is lost is lost for want of room.
    let mut agent = trace(lab, &[&["--events-per-second", "65535"], args].concat());
    agent.signal(Signal::SIGSTOP);
    lab.web.netns.inside(|| udp_unfragmented(v4([10, 99, 20, 2], 7620), events, 1400));
    agent.signal(Signal::SIGCONT);
    agent.signal(Signal::SIGINT);
    let code = agent.ended();
    let said = agent.stderr.text();
    (agent, code, said)
}

/// The number in front of these words.
fn number(said: &str, words: &str) -> u64 {
    let before = said.split_once(words).unwrap_or_else(|| panic!("no {words:?} in {said}")).0;
    let number = before.rsplit(|c: char| !c.is_ascii_digit()).next();
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("no number before {words:?} in {said}"))
}

/// With a ring of one page most of them find no room in it: what was not looked at may be what was looked for.
#[test]
fn what_was_not_examined_is_no_all_clear() {
    let lab = Lab::lock();
    let (_, code, said) =
        stalled(&lab, 500, &["--ring-kib", "4", "--reason", "refused", "--fail-on-findings"]);
    assert_eq!(code, 1, "{said}");
    let left_out = number(&said, " not examined as the ring was full; raise --ring-kib");
    assert!((400..500).contains(&left_out), "a page holds a few: {said}");
    assert!(said.contains("nothing of what was examined is shown"), "{said}");
    assert!(!said.contains("no event lost") && !said.contains("all of it was"), "{said}");
    // The counts have no queue.
    assert!(said.contains("500 dropped for their size without a word, ipv4"), "{said}");
}

/// As it comes the ring takes what happens while the agent waits for a processor. Filters of the user side would enlarge it.
#[test]
fn a_burst_has_room_in_the_ring() {
    let lab = Lab::lock();
    let (_, code, said) = stalled(&lab, 400, &[]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("no event lost") && !said.contains("not examined"), "{said}");
    assert!(said.contains("400 dropped for their size without a word, ipv4"), "{said}");
}

/// Ten thousand packets that do not fit, and in between eight to somewhere else, of the same kind in the same place: the budget
/// of their kind would be spent long before.
#[test]
fn what_was_asked_for_is_shown_in_a_storm() {
    const STORM: u64 = 10_000;
    const NEEDLES: u64 = 8;
    const PORT: u16 = 7777;
    let lab = Lab::lock();
    let _link = narrow(&lab, 20);
    // All of them have room in the ring, however slow the machine is: it is the budget that must not be spent.
    let mut agent = trace(&lab, &["-o", "json", "--port", "7777", "--ring-kib", "4096"]);
    lab.web.netns.inside(|| {
        for _ in 0..NEEDLES {
            udp_unfragmented(v4([10, 99, 20, 2], 7621), STORM / NEEDLES, 1400);
            udp_unfragmented(v4([10, 99, 20, 2], PORT), 1, 1400);
        }
    });
    let verdict = agent.stdout.wait(0, |lines| lines.iter().find_map(|line| of(line, true)));
    agent.signal(Signal::SIGINT);
    assert_eq!(agent.ended(), 0, "{}", agent.stderr.text());
    let said = agent.stderr.text();
    let verdict = verdict.unwrap_or_else(|| panic!("no verdict; {said}\n{}", agent.stdout.text()));
    assert_eq!(verdict["finding"], "silent_drop", "{verdict:#}");
    // It comes while more of them do, where the machine is slow.
    let told = number(verdict["message"].as_str().unwrap(), " oversize in ");
    assert!((1..=NEEDLES).contains(&told), "nothing else is counted: {verdict:#}");
    assert_eq!(number(&said, " events in "), STORM + NEEDLES, "each is counted: {said}");
    let lines: Vec<Value> = agent.stdout.since(0).iter().filter_map(|line| json(line)).collect();
    let events: Vec<&Value> = lines.iter().filter(|line| line["event"] == "oversize").collect();
    assert!(events.iter().all(|event| event["destination_port"] == PORT), "nothing else: {events:#?}");
    assert!(said.contains(&format!("{STORM} filtered out")), "{said}");
    assert!(said.contains("no event lost") && !said.contains("not examined"), "{said}");
}
