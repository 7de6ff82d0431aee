//! What happens on the node: packets too large for their way, then four real drops, each to be named by the agent.

use std::fmt::Display;
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::agents::{Agent, LISTEN, TRACE_DROPS, TRACE_MTU};
use super::here;
use super::lines::{LIMIT, fold};
use super::node::{DB_PORT, FAR, NAMESPACE, NOWHERE, Node, Roots, SMALL_MTU, nft};
use super::overlay::{Overlay, REMOTE, TUNNEL, TUNNEL_MTU};
use super::story::{self, Case};
use crate::page::get;

/// Causes whose rows and lines are printed whole.
const SHOWN: [&str; 2] = ["policy", "mtu"];

#[derive(clap::Args)]
pub(super) struct Args {
    /// The cgroup to make the pods' in
    #[arg(long)]
    cgroup: PathBuf,
    /// Move into a world of its own first
    #[arg(long)]
    here: bool,
}

/// One cause.
struct Act {
    /// What is wrong, as an operator would have to find out.
    story: String,
    /// The firewall rule that makes it so, if it is not so already.
    rule: Option<String>,
    /// What web does then.
    order: String,
    /// The class the agent must name.
    class: &'static str,
    /// The destination it must name.
    destination: String,
}

pub(super) fn play(args: &Args) -> Result<u8> {
    let pod_logs = if args.here { here::enter()? } else { PathBuf::from("/var/log/pods") };
    let roots = Roots { cgroup: &args.cgroup, pod_logs: &pod_logs };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    say(format_args!("# Linux {}: node-1 with pods {NAMESPACE}/web and {NAMESPACE}/db.", kernel.trim()))?;
    let mut node = Node::build(&roots)?;
    let overlay = Overlay::build(&mut node)?;
    let mut run = Agent::run(&roots)?;
    let too_big = overlay.map(|overlay| too_big(&roots, &mut node, overlay, &mut run)).transpose()?;
    if too_big.is_none() {
        say("# It has no VXLAN: `r2c-agent trace mtu` is left out.\n")?;
        run.ready()?;
    }

    say(format_args!("# web reaches db:{DB_PORT}. Now other things break, one by one.\n"))?;
    say(format_args!("$ r2c-agent {}", TRACE_DROPS.join(" ")))?;
    let mut trace = Agent::trace(&roots, &TRACE_DROPS)?;
    say(fold(&trace.note()?))?;
    say(trace.line()?)?;

    let acts = acts(&node);
    let mut slowest = Duration::ZERO;
    for (number, act) in (1..).zip(&acts) {
        say(format_args!("\n# {number}. {}", act.story))?;
        if let Some(rule) = &act.rule {
            say(format_args!("#    nft {rule}"))?;
            nft(rule)?;
        }
        let took = perform(act, &mut node, &mut trace)
            .with_context(|| format!("{number}. the agent did not name {}", act.class))?;
        slowest = slowest.max(took);
    }
    say("\n^C")?;
    for line in trace.end(Signal::SIGINT)?.iter().flatten() {
        say(fold(line))?;
    }
    let caught = acts.len();
    say(format_args!(
        "\n# {caught} of {caught} causes named, each less than {} ms after its packet.",
        slowest.as_millis() + 1
    ))?;
    machine_side(too_big.as_ref(), &acts, &mut run)?;
    run.end(Signal::SIGTERM)?;
    Ok(0)
}

/// The first part, with the tunnel.
fn too_big(roots: &Roots<'_>, node: &mut Node, mut overlay: Overlay, run: &mut Agent) -> Result<Case> {
    say(format_args!("# Pod {} is on node-2, behind {TUNNEL} (VXLAN, MTU {TUNNEL_MTU}).\n", REMOTE.ip()))?;
    // At the same time: most of a start is the kernel's, and there are two processors.
    let trace = Agent::trace(roots, &TRACE_MTU)?;
    // From its first event on: it is to have seen all that is shown.
    run.ready()?;
    story::play(node, &mut overlay, trace)
}

fn acts(node: &Node) -> [Act; 4] {
    let db = node.db.address;
    [
        Act {
            story: format!("A NetworkPolicy shuts db:{DB_PORT}"),
            rule: Some(format!("add rule ip cni forward ip daddr {db} tcp dport {DB_PORT} drop")),
            order: format!("connect {db}:{DB_PORT}"),
            class: "policy",
            destination: format!("{NAMESPACE}/db:{DB_PORT}"),
        },
        Act {
            story: "web calls db:6379, where nobody listens".to_owned(),
            rule: None,
            order: format!("connect {db}:6379"),
            class: "no_socket",
            destination: format!("{NAMESPACE}/db:6379"),
        },
        Act {
            story: format!("web sends 1300 bytes with DF to {FAR}, over a hop of MTU {SMALL_MTU}"),
            rule: None,
            order: format!("send {FAR}:4433 1300"),
            class: "mtu",
            destination: format!("{FAR}:4433"),
        },
        Act {
            story: format!("web calls {NOWHERE}, which nobody routes"),
            rule: None,
            order: format!("connect {NOWHERE}:443"),
            class: "routing",
            destination: format!("{NOWHERE}:443"),
        },
    ]
}

/// Sends web's packet and watches until the agent names its fate; how long that took.
fn perform(act: &Act, node: &mut Node, trace: &mut Agent) -> Result<Duration> {
    let sent = Instant::now();
    node.web.resident.order(&act.order)?;
    loop {
        let row = trace.line()?;
        say(&row)?;
        if names(&row, act) {
            break;
        }
        if sent.elapsed() > LIMIT {
            bail!("rows, but not the one");
        }
    }
    let took = sent.elapsed();
    say(format_args!("#    All that web is told: {}", node.web.resident.answer()?))?;
    Ok(took)
}

/// One line to standard output; an error, not a panic, when its reader has gone.
pub(super) fn say(text: impl Display) -> Result<()> {
    writeln!(io::stdout(), "{text}").context("standard output")
}

/// Whether a table row is this cause: its columns are TIME, CLASS, DIR, SOURCE, DESTINATION, REASON.
fn names(row: &str, act: &Act) -> bool {
    let cells: Vec<&str> = row.split_ascii_whitespace().collect();
    let [_, class, source, destination, ..] = cells[..] else { return false };
    class == act.class && source == format!("{NAMESPACE}/web") && destination == act.destination
}

/// What `run` has made of the same minute, for machines. All causes must be in both; some are shown.
fn machine_side(too_big: Option<&Case>, acts: &[Act], run: &mut Agent) -> Result<()> {
    say(format_args!("# `r2c-agent run` saw the same. From http://{LISTEN}/metrics (folded):\n"))?;
    let metrics = get(LISTEN, "/metrics")?;
    if let Some(case) = too_big {
        let events = format!("r2c_mtu_events_total{{event=\"{}\",", case.event);
        let row = metrics.lines().find(|row| row.starts_with(&events));
        say(row.with_context(|| format!("the metrics do not count what was {}:\n{metrics}", case.event))?)?;
    }
    for act in acts {
        let [node, pod] = rows(&metrics, act.class)
            .with_context(|| format!("the metrics do not count web's {} drop:\n{metrics}", act.class))?;
        say(fold(node))?;
        if SHOWN.contains(&act.class) {
            say(fold(pod))?;
        }
    }
    say("\n# And some of its JSON lines (folded):\n")?;
    if let Some(case) = too_big {
        let verdict = json_line(run, |line| line["finding"] == case.finding)?;
        say(format_args!("{}\n", fold(&verdict)))?;
    }
    for act in acts {
        let line = json_line(run, |line| line["class"] == act.class)?;
        if SHOWN.contains(&act.class) {
            say(format_args!("{}\n", fold(&line)))?;
        }
    }
    Ok(())
}

/// The rows that count what web sent and this cause ate: the node's and the pod's.
fn rows<'a>(metrics: &'a str, class: &str) -> Option<[&'a str; 2]> {
    let pods = format!("r2c_pod_drop_packets_total{{namespace=\"{NAMESPACE}\",pod=\"web\",end=\"source\",");
    let class = format!("class=\"{class}\"");
    let pod = metrics.lines().find(|row| row.starts_with(&pods) && row.contains(&class))?;
    // The other labels are the node's.
    let (labels, _) = pod.strip_prefix(&pods)?.split_once('}')?;
    let node = format!("r2c_drop_packets_total{{{labels}}} ");
    Some([metrics.lines().find(|row| row.starts_with(&node))?, pod])
}

/// The next such line about one of the pods.
fn json_line(run: &mut Agent, is_wanted: impl Fn(&Value) -> bool) -> Result<String> {
    loop {
        let line = run.line()?;
        let parsed: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
        if is_wanted(&parsed) && parsed["namespace"] == NAMESPACE {
            return Ok(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Act, names, rows};

    #[test]
    fn only_the_right_cause_and_ends_count_as_caught() {
        let act = Act {
            story: String::new(),
            rule: None,
            order: String::new(),
            class: "policy",
            destination: "shop/db:5432".to_owned(),
        };
        assert!(names(
            "09:01:02Z  policy     shop/web      shop/db:5432       veth1    nft_do_chain  NETFILTER_DROP",
            &act
        ));
        for row in [
            "TIME       CLASS      SOURCE        DESTINATION        IFACE    PLACE        REASON",
            "09:01:02Z  no_socket  shop/web      shop/db:5432       eth0     tcp_v4_rcv   NO_SOCKET",
            "09:01:02Z  policy     10.244.1.10:4711  shop/db:5432   veth1    nft_do_chain  NETFILTER_DROP",
            "09:01:02Z  policy     shop/web      shop/db:6379       veth1    nft_do_chain  NETFILTER_DROP",
            "",
        ] {
            assert!(!names(row, &act), "{row}");
        }
    }

    #[test]
    fn the_rows_of_web_as_source_are_found() {
        let of_db = r#"r2c_pod_drop_packets_total{namespace="shop",pod="db",end="destination",reason="A",class="mtu"} 1"#;
        let pod =
            r#"r2c_pod_drop_packets_total{namespace="shop",pod="web",end="source",reason="B",class="mtu"} 1"#;
        let other = r#"r2c_drop_packets_total{reason="A",class="mtu"} 7"#;
        let node = r#"r2c_drop_packets_total{reason="B",class="mtu"} 8"#;
        let metrics = [of_db, pod, other, node].join("\n");
        assert_eq!(rows(&metrics, "mtu"), Some([node, pod]));
        assert_eq!(rows(&metrics, "policy"), None);
        assert_eq!(rows(of_db, "mtu"), None);
    }
}
