//! The demo's first part: a pod behind a VXLAN whose underlay takes less than it promises, found and cured.

use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use super::agents::{Agent, TRACE_MTU};
use super::lines::{LIMIT, fold};
use super::node::{NAMESPACE, Node};
use super::overlay::{HOP, HOP_MTU, LINK_MTU, OVERHEAD, Overlay, REMOTE, TUNNEL, TUNNEL_MTU};
use super::resident::{self, ANSWERED, NO_ANSWER, REQUEST_PATIENCE};
use super::scene::say;

/// A request that fits any path.
const SMALL: u32 = 100;

/// One that makes a single packet, which fits web's device and the tunnel's. Of more, the sender would make one packet
/// to be cut on the way (GSO), which no veth finds too long.
const LARGE: u32 = TUNNEL_MTU - 60;

/// The hook that sees what a hop says.
const MESSAGES: &str = "icmp_unreach";

/// What is wrong, and what the agent has to say about it.
pub(super) struct Case {
    /// What nobody on the node knows.
    secret: String,
    /// As rows and metrics have it.
    pub(super) event: &'static str,
    /// As JSON has it.
    pub(super) finding: &'static str,
    by: String,
    /// How the verdict begins.
    cause: String,
    /// How it ends.
    fix: String,
}

/// A hop that says what it takes, though not to web.
fn small_hop() -> Case {
    let fits = HOP_MTU - OVERHEAD;
    Case {
        secret: format!("Nobody knows that a hop on the way takes only {HOP_MTU} bytes."),
        event: "received",
        finding: "small_underlay",
        by: HOP.to_string(),
        cause: format!(
            "=> hop {HOP} of the underlay takes {HOP_MTU} bytes, VXLAN adds {OVERHEAD}: only {fits} of \
             {NAMESPACE}/web's bytes to {REMOTE} fit; "
        ),
        fix: format!(" Fix: set the VXLAN device and the interfaces behind it to {fits}"),
    }
}

/// A cable that says nothing.
fn small_cable() -> Case {
    Case {
        secret: format!(
            "This kernel lets the agent see no messages about packets too large (no fentry,\n\
             # no kprobe), only what dies without one: here the hop's own end of the cable\n\
             # takes {HOP_MTU} bytes."
        ),
        event: "oversize",
        finding: "silent_drop",
        by: "near".to_owned(),
        cause: format!("=> eth0 (MTU {LINK_MTU}) hands packets to near, which takes {HOP_MTU} bytes and "),
        fix: format!(
            " Fix: give both ends of the veth one MTU: {HOP_MTU}, or {LINK_MTU} if all behind it takes that"
        ),
    }
}

/// Watches web's large request die, the agent name row and verdict, and its fix work. Gives what the kernel allowed.
pub(super) fn play(node: &mut Node, overlay: &mut Overlay, mut trace: Agent) -> Result<Case> {
    say(format_args!("$ r2c-agent {}", TRACE_MTU.join(" ")))?;
    let hooks = hooks(&mut trace)?;
    // The heading comes once everything is attached.
    say(trace.line()?)?;

    let hears_hops = hooks.contains(MESSAGES);
    let case = if hears_hops {
        small_hop()
    } else {
        overlay.silence()?;
        small_cable()
    };
    say(format_args!("\n# {}", case.secret))?;
    request(node, SMALL)?;
    say(format_args!("# web sends {LARGE} bytes:"))?;
    let sent = Instant::now();
    node.web.resident.order(&format!("request {REMOTE} {LARGE}"))?;
    row(&mut trace, &case, sent).context("no row names what web's packets exceed")?;
    let named = sent.elapsed();
    let said = node.web.resident.answer()?;
    if said != NO_ANSWER {
        bail!("web's {LARGE} bytes were to stall: {said}");
    }
    say(format_args!("#    All that web is told: {NO_ANSWER} in {} s", REQUEST_PATIENCE.as_secs()))?;
    verdict(&mut trace, &case).context("no verdict names cause and fix")?;
    say(format_args!(
        "# The row came less than {} ms after the first packet that stalled, the verdict\n\
         # after {:.1} s. Now its fix:",
        named.as_millis() + 1,
        sent.elapsed().as_secs_f64()
    ))?;
    if hears_hops {
        lower(node)?;
    } else {
        say(format_args!("$ ip link set near mtu {LINK_MTU}  # on the hop"))?;
        overlay.raise()?;
    }
    request(node, LARGE).context("the verdict's fix is none")?;

    say("\n^C")?;
    let [rows, notes] = trace.end(Signal::SIGINT)?;
    for line in rows.iter().chain(&notes) {
        say(fold(line))?;
    }
    if !rows.is_empty() {
        bail!("there are still packets too large after the verdict's fix");
    }
    say("")?;
    Ok(case)
}

/// Shows what `trace` notes before its table; gives the note of the hooks that hold, which is the last.
fn hooks(trace: &mut Agent) -> Result<String> {
    let mut refused = 0_u32;
    loop {
        let note = trace.note()?;
        let is_refusal = note.contains(": warning: hook ");
        refused += u32::from(is_refusal);
        if !is_refusal && refused > 1 {
            say(format_args!("# .. and {} more like it; `r2c-agent doctor` has them all.", refused - 1))?;
        }
        if !is_refusal || refused == 1 {
            say(fold(&note))?;
        }
        if note.contains(": tracing ") {
            return Ok(note);
        }
    }
}

/// A request that must be answered.
fn request(node: &mut Node, bytes: u32) -> Result<()> {
    let said = node.web.resident.ask(&format!("request {REMOTE} {bytes}"))?;
    say(format_args!("# web sends {bytes} bytes: {said}"))?;
    if said != ANSWERED {
        bail!("web's {bytes} bytes were to be answered");
    }
    Ok(())
}

/// The verdict's fix, where web and its tunnel are to send less.
fn lower(node: &mut Node) -> Result<()> {
    let fits = HOP_MTU - OVERHEAD;
    for device in [TUNNEL, "veth-web"] {
        let command = format!("link set {device} mtu {fits}");
        say(format_args!("$ ip {command}"))?;
        resident::ip(&command)?;
    }
    let command = format!("ip link set eth0 mtu {fits}");
    say(format_args!("$ {command}  # in web"))?;
    node.web.resident.demand(&command)
}

/// Shows rows up to the one that is wanted.
fn row(trace: &mut Agent, case: &Case, sent: Instant) -> Result<()> {
    while sent.elapsed() < LIMIT {
        let row = trace.line()?;
        say(&row)?;
        if names(&row, case) {
            return Ok(());
        }
    }
    bail!("rows, but not the one")
}

/// Whether a table row is this case's: its columns are TIME, EVENT, MTU, BY, SOURCE, DESTINATION.
fn names(row: &str, case: &Case) -> bool {
    let cells: Vec<&str> = row.split_ascii_whitespace().collect();
    let [_, event, mtu, by, source, destination, ..] = cells[..] else { return false };
    event == case.event
        && mtu == HOP_MTU.to_string()
        && by == case.by
        && source == format!("{NAMESPACE}/web")
        && destination == REMOTE.to_string()
}

/// Shows the verdict, which is the next lines; it must be whole.
fn verdict(trace: &mut Agent, case: &Case) -> Result<()> {
    let mut verdict = trace.line()?;
    say(&verdict)?;
    while !verdict.ends_with(&case.fix) {
        let line = trace.line()?;
        say(&line)?;
        verdict.push(' ');
        verdict.push_str(line.trim_start());
        if verdict.len() > 4 * (case.cause.len() + case.fix.len()) {
            break;
        }
    }
    if verdict.starts_with(&case.cause) && verdict.ends_with(&case.fix) {
        return Ok(());
    }
    bail!("the verdict was to be `{}..{}`", case.cause, case.fix)
}

#[cfg(test)]
mod tests {
    use super::{names, small_cable, small_hop};

    #[test]
    fn only_the_right_event_size_place_and_pod_count() {
        let row = "09:01:02  received  1400   10.0.7.1         shop/web          10.244.2.30:8080";
        assert!(names(row, &small_hop()));
        assert!(names(&(row.to_owned() + " +3"), &small_hop()));
        assert!(!names(row, &small_cable()));
        for (right, wrong) in [
            ("received", "made"),
            ("1400", "1450"),
            ("10.0.7.1", "10.0.8.1"),
            ("shop/web", "shop/db"),
            ("8080", "80"),
        ] {
            assert!(!names(&row.replacen(right, wrong, 1), &small_hop()), "{wrong}");
        }
        assert!(!names("=> hop 10.0.7.1 of the underlay takes 1400 bytes", &small_hop()));
    }

    #[test]
    fn a_tunnel_s_cost_is_taken_off() {
        assert!(
            small_hop().cause.contains("adds 50: only 1350 of shop/web's bytes to 10.244.2.30:8080 fit; ")
        );
        assert!(small_hop().fix.ends_with("to 1350"));
    }
}
