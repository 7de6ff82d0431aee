//! `r2c-agent doctor`: what this kernel, these rights and this node allow, and each hook's ladder rung by rung.

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use crate::answer;
use crate::cli::{Doctor, Host, Report as Output};
use crate::enrich::{KnownPod, Network, PodIndex};
use crate::failure::Failure;
use crate::node::{self, Node};
use crate::sink::table::width_of_stdout;
use crate::{rights, shutdown};

mod checks;
mod hooks;
mod print;

/// How a check turned out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    /// As it should be.
    Ok,
    /// The agent runs without it and tells less.
    Degraded,
    /// No probe runs without it.
    Failed,
    /// It cannot be told from here.
    Unknown,
}

/// One thing the agent needs or likes to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Check {
    /// Stable: scripts look for it.
    id: &'static str,
    status: Status,
    /// What there is, in one line.
    found: String,
    /// What is lost and what to do about it; `None` if nothing is.
    advice: Option<String>,
}

impl Check {
    fn ok(id: &'static str, found: impl Into<String>) -> Self {
        Self { id, status: Status::Ok, found: found.into(), advice: None }
    }

    fn not_ok(id: &'static str, status: Status, found: impl Into<String>, advice: &str) -> Self {
        Self { id, status, found: found.into(), advice: Some(advice.to_owned()) }
    }
}

/// All that was found.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    kernel: Option<String>,
    arch: &'static str,
    checks: Vec<Check>,
    hooks: Vec<hooks::HookReport>,
}

impl Report {
    /// What is not as it should be.
    fn degraded(&self) -> Vec<&'static str> {
        let not_ok = |check: &&Check| matches!(check.status, Status::Degraded | Status::Failed);
        self.checks.iter().filter(not_ok).map(|check| check.id).collect()
    }

    /// Probes none of whose hooks can be attached to.
    fn dead_probes(&self) -> Vec<&'static str> {
        let lives = |probe| self.hooks.iter().any(|hook| hook.probe == probe && hook.takes.is_some());
        let mut dead: Vec<_> =
            self.hooks.iter().map(|hook| hook.probe).filter(|probe| !lives(*probe)).collect();
        dead.dedup();
        dead
    }

    /// What the command ends with. `lacking`: the rights that this process does not have.
    fn outcome(&self, fail_on_degraded: bool, lacking: Option<rights::Refused>) -> Result<(), Failure> {
        let dead = self.dead_probes();
        if !dead.is_empty() {
            let what = format!("no hook of probe {} can be attached to here", dead.join(", "));
            return Err(Failure::unsupported(match lacking {
                Some(lacking) => format!("{what}: {lacking}"),
                None => what,
            }));
        }
        let degraded = self.degraded();
        if fail_on_degraded && !degraded.is_empty() {
            let check = if degraded.len() == 1 { "check is" } else { "checks are" };
            return Err(Failure::unsupported(format!(
                "{} {check} not ok: {} (--fail-on-degraded)",
                degraded.len(),
                degraded.join(", ")
            )));
        }
        Ok(())
    }
}

/// Waits for pods that only start: their networks are not known yet, and nothing is lost by that.
async fn have_networks(pods: &PodIndex) {
    const STARTING: Duration = Duration::from_secs(5);
    let (mut version, end) = (pods.version(), Instant::now() + STARTING);
    let is_unseen = |known: &KnownPod| !known.gone && known.network == Network::Unseen;
    while pods.pods().iter().any(is_unseen) && matches!(timeout_at(end, version.changed()).await, Ok(Ok(())))
    {
        version.borrow_and_update();
    }
}

/// Looks at everything and prints it.
///
/// # Errors
/// Unsupported: some probe cannot attach at all, or something is degraded and `--fail-on-degraded` was given; the report
/// is printed before.
pub async fn doctor(host: &Host, args: &Doctor) -> Result<(), Failure> {
    let (_stop, drain) = shutdown::channel();
    let node = Node::read(host, drain).await;
    let hooks = hooks::try_all(&node).await;
    let mut checks = checks::kernel(&node.kernel, &node::kernel_roots(host));
    checks.extend(checks::hooks(&hooks));
    checks.extend(checks::rights(hooks.iter().any(|hook| hook.takes.is_some()), &host.host_proc));
    have_networks(&node.pods).await;
    checks.extend(checks::host(host, &node.pods));
    let release = node.kernel.release();
    let report = Report {
        version: crate::version::VERSION,
        kernel: release.version.clone(),
        arch: release.arch,
        checks,
        hooks,
    };
    let text = match args.output {
        Output::Table => print::table(&report, width_of_stdout()),
        Output::Json => serde_json::to_string(&report)? + "\n",
    };
    answer::at_once(text.as_bytes())?;
    report.outcome(args.fail_on_degraded, rights::lacking())
}

#[cfg(test)]
mod tests;
