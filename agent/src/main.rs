//! r2c-agent: parses the command line, starts diagnostics, runs the command, turns its end into an exit code.

use std::process::ExitCode;
use std::time::Duration;

use agent::cli::{self, AuditOf, Cli, Command};
use agent::failure::Failure;
use agent::incident::Span;
use agent::log::{self, Style};
use agent::node;
use agent::probes;
use agent::sink::escape;
use agent::{audit, doctor, metrics_once, run, selftest, trace};
use clap::{CommandFactory, Parser};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version are answers, not mistakes.
        Err(error) if !error.use_stderr() => error.exit(),
        Err(error) => return end(Err(Failure::usage(cli::one_line(&error)))),
    };
    if let Command::Completions { shell } = cli.command {
        clap_complete::generate(shell, &mut Cli::command(), "r2c-agent", &mut std::io::stdout());
        return ExitCode::SUCCESS;
    }
    end(start_log(&cli).and_then(|()| dispatch(cli)))
}

fn start_log(cli: &Cli) -> Result<(), Failure> {
    // The daemon's diagnostics are for a log pipeline; everyone else's are for a person, who has not asked for notes.
    let (style, level) = match cli.command {
        Command::Run(_) => (Style::Json, "info"),
        _ => (Style::Plain, "warn"),
    };
    let level = cli.log_level.clone().unwrap_or_else(|| match cli.command.limits() {
        // The programs' diagnostics are of level debug, and their target is their object: the probe's name.
        Some(limits) if limits.bpf_log => {
            probes::ALL.iter().fold(level.to_owned(), |level, probe| format!("{level},{}=trace", probe.name))
        }
        _ => level.to_owned(),
    });
    log::start(style, &level, node::identity(&cli.host), Span::root()).map_err(Failure::usage)
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        match cli.command {
            Command::Run(args) => run::run(&cli.host, args).await,
            Command::Trace(args) => trace::trace(&cli.host, *args).await,
            Command::Doctor(args) => doctor::doctor(&cli.host, &args).await,
            Command::Metrics(args) => metrics_once::print(&cli.host, &args).await,
            Command::Selftest(args) => selftest::selftest(&cli.host, &args).await,
            Command::Audit(args) => match args.of {
                AuditOf::Mtu(args) => audit::mtu(&cli.host, args).await,
            },
            Command::Completions { .. } => Ok(()),
        }
    });
    // What still reads a file (a cgroup of a dead mount) must not hold up the end.
    runtime.shutdown_background();
    done
}

/// How long the last diagnostics may take to leave: a reader of stderr that stalls must not hold up the end.
const LAST_WORDS: Duration = Duration::from_millis(500);

fn end(result: Result<(), Failure>) -> ExitCode {
    let Err(failure) = result else {
        log::drain(LAST_WORDS);
        return ExitCode::SUCCESS;
    };
    if log::started() {
        tracing::error!("{}", failure.message);
        log::drain(LAST_WORDS);
    } else {
        eprintln!("r2c-agent: error: {}", escape::text(&failure.message));
    }
    ExitCode::from(failure.code)
}
