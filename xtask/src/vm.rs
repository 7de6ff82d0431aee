//! `cargo xtask vm`: one command in a guest with a kernel of choice, this machine's files and the built agent.
//!
//! The guest is QEMU with an initramfs of our own rather than virtme-ng: boot to command takes 6 s instead of 15,
//! the command's output and exit code come over a port of their own, apart from the kernel's messages, and the
//! host's files may be cached, so that the big tools run in place.

use std::collections::VecDeque;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::kernels::{self, Kernel};
use crate::{build, setup, tree};

mod initramfs;
mod qemu;

use initramfs::Archive;
use qemu::{Boot, End};

/// Boots of a guest that died before its command began; never one more after it did.
const BOOTS: u32 = 3;

/// Run a command in a guest that has this machine's files (changes are lost) and the built agent in PATH
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The kernel: 5.10, 6.1, 6.12, 7.2, 6.12-arm64
    #[arg(short, long, default_value = "6.12")]
    kernel: String,
    /// Processors the guest sees; it gets one core of this machine whatever their number
    #[arg(long, default_value_t = 2)]
    cpus: u8,
    /// Memory of the guest, as QEMU writes it
    #[arg(long, default_value = "2G")]
    memory: String,
    /// Seconds after which the command is ended with an error
    #[arg(long, default_value_t = 1800)]
    timeout: u64,
    /// Do not build: the command needs neither the agent nor the tests
    #[arg(long)]
    no_build: bool,
    /// Show the kernel's messages too, on stderr
    #[arg(short, long)]
    verbose: bool,
    /// The command and its arguments, run in the root of this checkout
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

pub(crate) fn main(args: &Args) -> Result<u8> {
    setup::need(&[setup::Part::Guests])?;
    setup::need_kernel(kernels::named(&args.kernel)?)?;
    let mut guest = Guest::new(&args.kernel);
    guest.cpus = args.cpus;
    guest.memory.clone_from(&args.memory);
    guest.timeout = Duration::from_secs(args.timeout);
    guest.verbose = args.verbose;
    if !args.no_build {
        guest.carry(&build::build(false)?);
    }
    let mut stdout = std::io::stdout().lock();
    guest.run(&args.command, &mut |line| Ok(stdout.write_all(line).and_then(|()| stdout.flush())?))
}

/// A guest to be booted for one command.
pub(crate) struct Guest {
    /// The kernel's series: `6.12`.
    pub(crate) kernel: String,
    /// Processors it sees.
    pub(crate) cpus: u8,
    /// As QEMU writes it: `1G`.
    pub(crate) memory: String,
    /// From the command's begin to its forced end.
    pub(crate) timeout: Duration,
    /// Show the kernel's messages on stderr.
    pub(crate) verbose: bool,
    /// Environment of the command, on top of PATH, HOME and `R2C_GUEST` (the kernel's series).
    pub(crate) env: Vec<(String, String)>,
    /// Programs to carry along: name in `/r2c/bin`, which leads PATH, and the file here.
    pub(crate) programs: Vec<(&'static str, PathBuf)>,
}

impl Guest {
    /// A guest of two processors and 1 GiB that carries nothing yet.
    pub(crate) fn new(kernel: &str) -> Self {
        Self {
            kernel: kernel.to_owned(),
            cpus: 2,
            memory: "2G".to_owned(),
            timeout: Duration::from_mins(30),
            verbose: false,
            env: Vec::new(),
            programs: Vec::new(),
        }
    }

    /// Carries the built agent and tests, as `r2c-agent` (also `R2C_AGENT`) and `r2c-tests`.
    pub(crate) fn carry(&mut self, built: &build::Built) {
        self.programs.push(("r2c-agent", built.agent.clone()));
        self.programs.push(("r2c-tests", built.tests.clone()));
        self.env.push(("R2C_AGENT".to_owned(), "/r2c/bin/r2c-agent".to_owned()));
    }

    /// Boots, runs the command, and gives its exit code. Each line of its output goes to `sink` as it comes, with
    /// its end of line; standard output and standard error are one stream, in order.
    pub(crate) fn run(&self, command: &[String], sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<u8> {
        let kernel = Kernel::cached(&self.kernel)?
            .with_context(|| format!("no kernel {} here: run `cargo xtask setup guests`", self.kernel))?;
        let mark = format!("r2c-mark-{}", std::process::id());
        for boot in 1.. {
            let initramfs = self.initramfs(&kernel, &mark, command)?;
            let tail = match (Boot { guest: self, kernel: &kernel, initramfs, mark: &mark }).run(sink)? {
                End::Exit(code) => return Ok(code),
                End::Died { began: false, tail } if boot < BOOTS => tail,
                End::Died { began, tail } => {
                    let when = if began { "while the command ran" } else { "before the command began" };
                    bail!("the {} guest died {when}; its last lines:\n{}", self.kernel, show(&tail))
                }
                End::TimedOut { tail } => {
                    let seconds = self.timeout.as_secs();
                    bail!(
                        "no end of the command in the {} guest in {seconds} s; its last lines:\n{}",
                        self.kernel,
                        show(&tail)
                    )
                }
            };
            eprintln!(
                "xtask: the {} guest died before the command began, boot {boot} of {BOOTS}:\n{}",
                self.kernel,
                show(&tail)
            );
        }
        bail!("no boot of {BOOTS} reached the command")
    }

    fn initramfs(&self, kernel: &Kernel, mark: &str, command: &[String]) -> Result<std::os::fd::OwnedFd> {
        let mut archive = Archive::new(kernel)?;
        for (name, file) in &self.programs {
            archive.copy(&format!("r2c/bin/{name}"), file)?;
        }
        let settings = format!("MARK={}\nKERNEL={}\n", quote(mark), quote(&kernel.root.to_string_lossy()));
        archive.file("r2c/settings", settings.as_bytes())?;
        archive.file("r2c/command", self.script(command).as_bytes())?;
        archive.finish()
    }

    /// The command as a shell script, its environment first.
    fn script(&self, command: &[String]) -> String {
        let path = format!("/r2c/bin:{}", setup::search_path());
        let own = [("PATH", path.as_str()), ("R2C_GUEST", &self.kernel)];
        let given = self.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let exports =
            own.into_iter().chain(given).map(|(name, value)| format!("export {name}={}\n", quote(value)));
        let words: Vec<String> = command.iter().map(|word| quote(word)).collect();
        let root = quote(&tree::root().to_string_lossy());
        format!("{}cd {root}\nexec {}\n", exports.collect::<String>(), words.join(" "))
    }
}

/// A word as the shell takes it literally.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn show(tail: &VecDeque<String>) -> String {
    let lines: Vec<String> = tail.iter().map(|line| format!("  | {line}")).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn quoted_words_are_literal() {
        assert_eq!(quote("a b $c"), "'a b $c'");
        assert_eq!(quote("it's"), r"'it'\''s'");
    }
}
