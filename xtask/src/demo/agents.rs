//! The agents of the demo: `trace mtu` and `trace drops` for a person to watch, and `run` for machines to read.

use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::lines::Lines;
use super::node::{NAMESPACE, Roots};
use crate::page::get;
use crate::run::{Run as _, shown};

/// Where `run` serves, in this network namespace.
pub(super) const LISTEN: &str = "127.0.0.1:9436";

/// What a person would type after `r2c-agent` to see packets that are too large.
pub(super) const TRACE_MTU: [&str; 6] = ["trace", "mtu", "-n", NAMESPACE, "--duration", "0"];
/// And to see what is dropped.
pub(super) const TRACE_DROPS: [&str; 6] = ["trace", "drops", "-n", NAMESPACE, "--duration", "0"];

/// An agent that runs, and what it writes to standard output.
pub(super) struct Agent {
    child: Child,
    stdout: Lines,
    /// What it notes for the person beside its rows.
    notes: Option<Lines>,
    name: String,
}

impl Agent {
    /// A `trace`; it says first which hooks hold.
    pub(super) fn trace(roots: &Roots<'_>, args: &[&str]) -> Result<Self> {
        Self::start(command(roots).args(args).stderr(Stdio::piped()))
    }

    /// `r2c-agent run`, to be waited for with [`ready`](Self::ready).
    pub(super) fn run(roots: &Roots<'_>) -> Result<Self> {
        Self::start(command(roots).args(["run", "--listen", LISTEN]).stderr(Stdio::piped()))
    }

    fn start(command: &mut Command) -> Result<Self> {
        let mut child = command.spawn().with_context(|| shown(command))?;
        let stdout = Lines::of(child.stdout.take().context("the agent's output")?);
        let notes = child.stderr.take().map(Lines::of);
        Ok(Self { child, stdout, notes, name: shown(command) })
    }

    /// Waits until `run` says that it is ready, and then until it proves it.
    pub(super) fn ready(&mut self) -> Result<()> {
        let diagnostics = self.notes.take().context("the agent's diagnostics")?;
        let mut said = Vec::new();
        while let Some(line) = diagnostics.next().with_context(|| format!("`{}`; {said:?}", self.name))? {
            if serde_json::from_str::<Value>(&line)?["message"] == "ready" {
                // Read to the end by its thread: the agent must never wait for us.
                std::thread::spawn(move || while let Ok(Some(_)) = diagnostics.next() {});
                return get(LISTEN, "/readyz").map(drop);
            }
            said.push(line);
        }
        bail!("`{}` ended before it was ready:\n{}", self.name, said.join("\n"))
    }

    /// The next line for the person beside the rows.
    pub(super) fn note(&mut self) -> Result<String> {
        let notes = self.notes.as_ref().context("the agent's notes")?;
        match notes.next().with_context(|| format!("`{}`", self.name))? {
            Some(note) => Ok(note),
            None => bail!("`{}` ended too early: {}", self.name, self.child.wait()?),
        }
    }

    /// The next line of standard output.
    pub(super) fn line(&mut self) -> Result<String> {
        match self.stdout.next().with_context(|| format!("`{}`", self.name))? {
            Some(line) => Ok(line),
            None => bail!("`{}` ended too early: {}", self.name, self.child.wait()?),
        }
    }

    /// Asks it to end as Ctrl-C or kubelet would; gives the rows it still had to show, and the notes.
    pub(super) fn end(mut self, signal: Signal) -> Result<[Vec<String>; 2]> {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal)?;
        let rest = [self.stdout.rest()?, self.notes.as_ref().map_or(Ok(Vec::new()), Lines::rest)?];
        let status = self.child.wait()?;
        if !status.success() {
            bail!("`{}` ended badly: {status}", self.name);
        }
        Ok(rest)
    }
}

fn command(roots: &Roots<'_>) -> Command {
    let mut agent = Command::new("r2c-agent");
    agent.env("R2C_HOST_CGROUP", roots.cgroup).env("R2C_POD_LOGS", roots.pod_logs);
    agent.env("NODE_NAME", "node-1").stdin(Stdio::null()).stdout(Stdio::piped()).dies_with_us();
    agent
}
