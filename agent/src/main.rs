//! r2c-agent: parses the command line, starts diagnostics, runs the command, turns its end into an exit code.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agent::cli::{self, AuditOf, Cli, Command, Refused};
use agent::failure::Failure;
use agent::incident::Span;
use agent::log::{self, Style};
use agent::node;
use agent::probes;
use agent::{answer, audit, doctor, metrics_once, run, selftest, trace};
use clap::CommandFactory as _;

/// Stdout was closed when the process started.
static IS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Looks before the standard library does: that opens `/dev/null` in its place, and all that is written would be lost in
/// silence.
#[used]
// SAFETY: the C library calls what is in this section before `main`, on the only thread; it needs nothing that is not there yet.
#[unsafe(link_section = ".init_array")]
static LOOK_AT_STDOUT: extern "C" fn() = look_at_stdout;

extern "C" fn look_at_stdout() {
    // SAFETY: takes no pointer.
    let closed = unsafe { nix::libc::fcntl(nix::libc::STDOUT_FILENO, nix::libc::F_GETFD) } == -1;
    IS_CLOSED.store(closed, Ordering::Relaxed);
}

fn main() -> ExitCode {
    if IS_CLOSED.load(Ordering::Relaxed) {
        let message = "stdout is closed, so nobody could read the output; to discard it, use >/dev/null";
        return end(Err(Failure::runtime(message.to_owned())));
    }
    let mut cli = match cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(Refused::Answer(help)) => return end(print(&help)),
        Err(Refused::Mistake(line)) => return end(Err(Failure::usage(line))),
    };
    if let Command::Completions { shell } = cli.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "r2c-agent", &mut script);
        return end(answer::at_once(&script));
    }
    let variables = cli.variables.clone();
    let done = start_log(&cli)
        .and_then(|()| node::paths::check(&cli.host))
        .map(|missing| cli.host.missing = missing)
        .and_then(|()| dispatch(cli));
    end(done.map_err(|failure| failure.set_by(&variables)))
}

/// Help and version: answers, not mistakes.
fn print(help: &clap::Error) -> Result<(), Failure> {
    let help = help.render();
    if std::io::stdout().is_terminal() {
        return answer::at_once(help.ansi().to_string().as_bytes());
    }
    answer::at_once(help.to_string().as_bytes())
}

fn start_log(cli: &Cli) -> Result<(), Failure> {
    // The daemon's diagnostics are for a log pipeline; everyone else's are for a person, who has not asked for notes.
    let (style, level) = match cli.command {
        Command::Run(_) => (Style::Json, "info"),
        _ => (Style::Plain, "warn"),
    };
    // A level without a target overrides the default. Targets alone leave the rest as it is: a misspelt one silences nothing.
    let mut level = cli.log_level.as_ref().map_or(level.to_owned(), |asked| format!("{level},{asked}"));
    if cli.command.limits().is_some_and(|limits| limits.bpf_log) {
        // The programs' diagnostics are of level debug, and their target is their object: the probe's name. What the user
        // says of that comes later, and holds.
        level = probes::ALL.iter().fold(level, |level, probe| format!("{}=trace,{level}", probe.name));
    }
    log::start(style, &level, node::identity(&cli.host), Span::root())
        .map_err(|error| Failure::usage(error).of(&["log_level"]))
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
const LAST_WORDS: Duration = Duration::from_millis(250);

/// The same of why it failed: an exit code alone says too little, and a node under load may not run the writer at once.
const LAST_WORD_OF_FAILURE: Duration = Duration::from_millis(1500);

fn end(result: Result<(), Failure>) -> ExitCode {
    let (code, patience) = match result {
        Ok(()) => (ExitCode::SUCCESS, LAST_WORDS),
        Err(Failure { code, message, .. }) => {
            log::fatal(&message);
            (ExitCode::from(code), LAST_WORD_OF_FAILURE)
        }
    };
    log::drain(patience);
    code
}
