//! Child processes: run, read, and never outlive this one.

use std::fmt::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::sys::prctl;
use nix::sys::signal::Signal;

/// What every verb does with a command.
pub(crate) trait Run {
    /// Kills the child when the thread that started it ends, however it ends: Ctrl-C leaves nothing behind.
    fn dies_with_us(&mut self) -> &mut Self;
    /// Runs to the end, output shown; an exit code other than 0 is an error that names the command.
    fn run(&mut self) -> Result<()>;
    /// Runs to the end and gives standard output, trimmed; standard error appears in the error only.
    fn read(&mut self) -> Result<String>;
}

impl Run for Command {
    fn dies_with_us(&mut self) -> &mut Self {
        // SAFETY: between fork and exec only prctl(2) is called, which takes no lock and allocates nothing.
        unsafe { self.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)) }
    }

    fn run(&mut self) -> Result<()> {
        let status = self.status().with_context(|| shown(self))?;
        if !status.success() {
            bail!("`{}` failed: {status}", shown(self));
        }
        Ok(())
    }

    fn read(&mut self) -> Result<String> {
        let output = self.stdin(Stdio::null()).output().with_context(|| shown(self))?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            bail!("`{}` failed: {}: {}", shown(self), output.status, why.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// The command as one would type it, but for quotes.
pub(crate) fn shown(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        // Writing to a String cannot fail.
        let _ = write!(line, " {}", argument.to_string_lossy());
    }
    line
}
