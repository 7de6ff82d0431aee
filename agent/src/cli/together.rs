//! Which flags go together. What the command line says goes before the environment: a variable that does not concern what is
//! asked is not in the way, as that of another command is not.

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command as Clap, CommandFactory as _};

use super::to::PROBE;
use super::{Cli, Command, Limits, Named, Trace};
use crate::nearest;
use crate::probe::start::Entry;
use crate::probes;
use crate::selftest;

/// Flags of `trace` that wait for events, which a walk does not.
const OF_EVENTS: [&str; 15] = [
    "walk", "namespace", "pod", "ip", "port", "interface", "reason", "all", "duration", "max_events",
    "ready_file", "events_per_second", "ring_kib", "bpf_log", "rung",
];
/// Flags of `trace` that only a walk to a destination of the user's knows.
const OF_TO: [&str; 4] = ["from_pod", "netns", "v4", "v6"];
/// Flags of `trace` that every walk knows.
const OF_WALKS: [&str; 2] = ["timeout", "max_packets"];

/// One parsed command line.
struct Line<'a> {
    matches: &'a ArgMatches,
    command: &'a Clap,
}

/// Checks the flags of one command line against each other, and leaves only those of one kind.
///
/// # Errors
/// A sentence that names both flags, or the variables that they came by.
pub(super) fn check(cli: &mut Cli, matches: &ArgMatches) -> Result<(), String> {
    let whole = Cli::command();
    let mut line = Line { matches, command: &whole };
    while let Some((name, matches)) = line.matches.subcommand() {
        let Some(command) = line.command.find_subcommand(name) else { break };
        line = Line { matches, command };
    }
    let global = Line { matches: line.matches, command: &whole };
    cli.host.named = Named {
        proc: global.given("host_proc"),
        cgroup: global.given("host_cgroup"),
        pod_logs: global.given("pod_logs"),
    };
    match &mut cli.command {
        Command::Trace(args) => trace(args, &line)?,
        Command::Audit(args) => {
            let super::AuditOf::Mtu(args) = &args.of;
            if args.wait.is_some() && args.namespace.is_empty() && args.pod.is_empty() {
                line.needs(&["wait"], "-n or --pod")?;
            }
        }
        _ => {}
    }
    let entries: Vec<&Entry> = match &cli.command {
        Command::Run(args) if !args.probes.is_empty() => named(&args.probes),
        Command::Trace(args) => named(std::slice::from_ref(&args.probe)),
        Command::Selftest(_) => named(&[selftest::PROBE.to_owned()]),
        _ => probes::ALL.iter().collect(),
    };
    cli.command.limits().map_or(Ok(()), |limits| rung(limits, &entries, &line))
}

fn named(names: &[String]) -> Vec<&'static Entry> {
    probes::ALL.iter().filter(|entry| names.iter().any(|name| name == entry.name)).collect()
}

fn trace(args: &mut Trace, line: &Line<'_>) -> Result<(), String> {
    if args.walk.to.is_some() {
        for id in OF_EVENTS {
            if line.outranks("to", id)? {
                args.walk.to = None;
            }
        }
    }
    if args.walk.to.is_none() {
        if args.walk.walk && args.probe != PROBE {
            if line.source("walk") == Some(ValueSource::CommandLine) {
                return Err(format!(
                    "--walk goes where {PROBE} finds that segments vanish: r2c-agent trace {PROBE} --walk"
                ));
            }
            args.walk.walk = false;
        }
        line.needs(&OF_TO, "--to")?;
        if !args.walk.walk {
            line.needs(&OF_WALKS, "--to or --walk")?;
        }
        if args.wait.is_some() && args.namespace.is_empty() && args.pod.is_empty() {
            line.needs(&["wait"], "-n or --pod")?;
        }
        return Ok(());
    }
    if args.wait.is_some() && args.walk.from_pod.is_none() {
        line.needs(&["wait"], "--from-pod")?;
    }
    if args.walk.from_pod.is_some() && args.walk.netns.is_some() {
        if line.outranks("from_pod", "netns")? {
            args.walk.from_pod = None;
        } else {
            args.walk.netns = None;
        }
    }
    if args.walk.v4 && args.walk.v6 {
        if line.outranks("v4", "v6")? {
            args.walk.v4 = false;
        } else {
            args.walk.v6 = false;
        }
    }
    Ok(())
}

/// A rung that no hook has would leave every hook alone.
fn rung(limits: &Limits, entries: &[&Entry], line: &Line<'_>) -> Result<(), String> {
    let Some(wanted) = &limits.rung else { return Ok(()) };
    let rungs =
        entries.iter().flat_map(|entry| entry.hooks).flat_map(|hook| hook.ladder).map(|rung| rung.name);
    if rungs.clone().any(|rung| rung == wanted) {
        return Ok(());
    }
    let of: Vec<&str> = entries.iter().map(|entry| entry.name).collect();
    let at = line.given("rung").unwrap_or_default();
    Err(format!(
        "invalid value {wanted:?} for {at}: no hook of {} has it; {}",
        nearest::one_of(&of),
        nearest::hint(wanted, rungs)
    ))
}

impl Line<'_> {
    fn source(&self, id: &str) -> Option<ValueSource> {
        // Asking for a flag that the command does not have is a panic.
        let known = self.matches.ids().any(|known| known.as_str() == id);
        known.then(|| self.matches.value_source(id)).flatten()
    }

    /// The flag, or the variable, that a value came by; `None` of a default.
    fn given(&self, id: &str) -> Option<String> {
        let arg = self.command.get_arguments().find(|arg| arg.get_id() == id)?;
        match self.source(id)? {
            ValueSource::CommandLine => Some(format!("--{}", arg.get_long().unwrap_or(id))),
            ValueSource::EnvVariable => Some(variable(arg)),
            _ => None,
        }
    }

    /// Whether `id` goes before `than`, where only one of them can hold: it is on the command line, and that is not.
    fn outranks(&self, than: &str, id: &str) -> Result<bool, String> {
        let (Some(one), Some(other)) = (self.given(than), self.given(id)) else { return Ok(false) };
        // A switch that is off asks for nothing.
        if self.source(id) == Some(ValueSource::EnvVariable) && self.is_off(id) {
            return Ok(false);
        }
        match (self.source(than), self.source(id)) {
            (one_by, other_by) if one_by == other_by => Err(format!("{one} cannot be used with {other}")),
            (_, other_by) => Ok(other_by == Some(ValueSource::CommandLine)),
        }
    }

    fn is_off(&self, id: &str) -> bool {
        self.matches.try_get_one::<bool>(id).ok().flatten() == Some(&false)
    }

    /// Refuses those of `ids` that are on the command line: they do nothing without `other`.
    fn needs(&self, ids: &[&str], other: &str) -> Result<(), String> {
        let given = ids.iter().find(|id| self.source(id) == Some(ValueSource::CommandLine));
        match given.and_then(|id| self.given(id)) {
            Some(flag) => Err(format!("{flag} does nothing without {other}")),
            None => Ok(()),
        }
    }
}

fn variable(arg: &Arg) -> String {
    super::environment::variable(arg).unwrap_or_default().to_owned()
}
