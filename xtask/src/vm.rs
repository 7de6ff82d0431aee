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

use crate::kernels::{self, Arch, Guested, Kernel};
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
    /// One processor, whose clock is the number of instructions it has executed: 1 ns each
    #[arg(long, conflicts_with = "cpus")]
    icount: bool,
    /// Memory of the guest, as QEMU writes it
    #[arg(long, default_value = "2G")]
    memory: String,
    /// Seconds after which the command is ended with an error
    #[arg(long, default_value_t = 1800)]
    timeout: u64,
    /// Further words of the kernel's command line: `lockdown=confidentiality`
    #[arg(long)]
    append: Option<String>,
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
    let mut guest = Guest::new(&args.kernel)?;
    guest.cpus = args.cpus;
    if args.icount {
        guest.count_instructions();
    }
    guest.memory.clone_from(&args.memory);
    guest.timeout = Duration::from_secs(args.timeout);
    guest.verbose = args.verbose;
    guest.append = args.append.clone().unwrap_or_default();
    if !args.no_build {
        guest.carry(&build::build_for(guest.kernel.arch, false)?);
    }
    let mut stdout = std::io::stdout().lock();
    guest.run(&args.command, &mut |line| Ok(stdout.write_all(line).and_then(|()| stdout.flush())?))
}

/// A guest to be booted for one command.
pub(crate) struct Guest {
    pub(crate) kernel: &'static Guested,
    /// Processors it sees.
    pub(crate) cpus: u8,
    /// Its clock is the number of executed instructions, 1 ns each, whatever else this machine does.
    icount: bool,
    /// As QEMU writes it: `1G`.
    pub(crate) memory: String,
    /// From the command's begin to its forced end.
    pub(crate) timeout: Duration,
    /// Show the kernel's messages on stderr.
    pub(crate) verbose: bool,
    /// Further words of the kernel's command line.
    pub(crate) append: String,
    /// Environment of the command, on top of PATH, HOME and `R2C_GUEST` (the kernel's series).
    pub(crate) env: Vec<(String, String)>,
    /// Programs to carry along: name in `/r2c/bin`, which leads PATH, and the file here.
    pub(crate) programs: Vec<(&'static str, PathBuf)>,
}

impl Guest {
    /// A guest of two processors and 2 GiB that carries nothing yet.
    pub(crate) fn new(kernel: &str) -> Result<Self> {
        Ok(Self {
            kernel: kernels::named(kernel)?,
            cpus: 2,
            icount: false,
            memory: "2G".to_owned(),
            timeout: Duration::from_mins(30),
            verbose: false,
            append: String::new(),
            env: Vec::new(),
            programs: Vec::new(),
        })
    }

    /// What it can carry, built for its architecture, if that is not this machine's.
    pub(crate) fn build_if_foreign(&self) -> Result<Option<build::Built>> {
        let foreign = self.kernel.arch != Arch::Amd64;
        foreign.then(|| build::build_for(self.kernel.arch, false)).transpose()
    }

    /// What it takes for its files: this machine's, if it can run them.
    fn files(&self) -> Result<PathBuf> {
        match self.kernel.arch {
            Arch::Amd64 => Ok("/".into()),
            Arch::Arm64 => setup::arm64::root(),
        }
    }

    /// Makes its clock count instructions. With a second processor such a guest hangs at its start.
    pub(crate) fn count_instructions(&mut self) {
        self.cpus = 1;
        self.icount = true;
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
        let name = self.kernel.name;
        let kernel = Kernel::cached(name)?
            .with_context(|| format!("no kernel {name} here: run `cargo xtask setup guests reach`"))?;
        let files = self.files()?;
        let mark = format!("r2c-mark-{}", std::process::id());
        for boot in 1.. {
            let initramfs = self.initramfs(&kernel, &mark, command)?;
            let tail = match (Boot { guest: self, kernel: &kernel, files: &files, initramfs, mark: &mark })
                .run(sink)?
            {
                End::Exit(code) => return Ok(code),
                End::Died { began: false, tail } if boot < BOOTS => tail,
                End::Died { began, tail } => {
                    let when = if began { "while the command ran" } else { "before the command began" };
                    bail!("the {name} guest died {when}; its last lines:\n{}", show(&tail))
                }
                End::TimedOut { tail } => {
                    let seconds = self.timeout.as_secs();
                    bail!(
                        "no end of the command in the {name} guest in {seconds} s; its last lines:\n{}",
                        show(&tail)
                    )
                }
            };
            eprintln!(
                "xtask: the {name} guest died before the command began, boot {boot} of {BOOTS}:\n{}",
                show(&tail)
            );
        }
        bail!("no boot of {BOOTS} reached the command")
    }

    fn initramfs(&self, kernel: &Kernel, mark: &str, command: &[String]) -> Result<std::os::fd::OwnedFd> {
        let mut archive = Archive::new(kernel, &self.files()?)?;
        for (name, file) in &self.programs {
            archive.copy(&format!("r2c/bin/{name}"), file)?;
        }
        let settings = format!("MARK={}\n", quote(mark));
        archive.file("r2c/settings", settings.as_bytes())?;
        archive.file("r2c/command", self.script(command).as_bytes())?;
        archive.finish()
    }

    /// The command as a shell script, its environment first.
    fn script(&self, command: &[String]) -> String {
        let path = format!("/r2c/bin:{}", setup::search_path());
        let own = [("PATH", path.as_str()), ("R2C_GUEST", self.kernel.name)];
        let given = self.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let exports =
            own.into_iter().chain(given).map(|(name, value)| format!("export {name}={}\n", quote(value)));
        let words: Vec<String> = command.iter().map(|word| quote(word)).collect();
        let root = match self.kernel.arch {
            Arch::Amd64 => quote(&tree::root().to_string_lossy()),
            // It has other files than this machine.
            Arch::Arm64 => "/".to_owned(),
        };
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
