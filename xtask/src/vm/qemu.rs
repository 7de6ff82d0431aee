//! One boot: QEMU's command line, and the stream that comes out of the guest.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::Guest;
use crate::kernels::{Arch, Kernel};
use crate::run::{Run as _, shown};

/// Lines of the kernel's and QEMU's messages that are kept for a failure.
const TAIL: usize = 40;

/// A boot takes 6 s on an idle machine; one that takes this long hangs.
const BOOT_LIMIT: Duration = Duration::from_mins(2);

/// What the kernel is told: output on the serial line, a panic or an oops ends the guest, the emulated time stamp
/// counter is as steady as the host's, and no time goes into defences against a processor that is not there.
const KERNEL_LINE: &str = "quiet loglevel=5 panic=-1 oops=panic tsc=reliable mitigations=off";

pub(super) struct Boot<'a> {
    pub(super) guest: &'a Guest,
    pub(super) kernel: &'a Kernel,
    /// The directory that the guest takes for its files.
    pub(super) files: &'a Path,
    pub(super) initramfs: OwnedFd,
    /// Begins the lines that are the guest's own words among the command's output.
    pub(super) mark: &'a str,
}

pub(super) enum End {
    /// The command ended.
    Exit(u8),
    /// QEMU ended first, or the boot hung.
    Died { began: bool, tail: VecDeque<String> },
    /// The command ran out of time.
    TimedOut { tail: VecDeque<String> },
}

/// What the two pipes of QEMU give.
enum Heard {
    /// A line of the command's output, or of the guest's own words.
    Output(Vec<u8>),
    /// A line of the kernel's or QEMU's messages.
    Message(Vec<u8>),
}

/// Ends QEMU with the boot, whichever way that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Boot<'_> {
    /// Boots and carries the command's output to `sink`, until the command ends or the guest does.
    pub(super) fn run(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<End> {
        let mut qemu = self.command();
        let mut running = Running(qemu.spawn().with_context(|| shown(&qemu))?);
        let (sender, heard) = channel();
        let output = running.0.stdout.take().context("QEMU's standard output")?;
        let messages = running.0.stderr.take().context("QEMU's standard error")?;
        let other = sender.clone();
        thread::spawn(move || lines(output, &sender, Heard::Output));
        thread::spawn(move || lines(messages, &other, Heard::Message));
        self.listen(&heard, sink)
    }

    fn listen(&self, heard: &Receiver<Heard>, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<End> {
        let mut tail = VecDeque::new();
        let mut began = false;
        let start = Instant::now();
        let mut deadline = start + BOOT_LIMIT;
        loop {
            match heard.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Heard::Message(line)) => self.message(&line, &mut tail),
                Ok(Heard::Output(line)) => match split(&line, self.mark) {
                    (output, None) => sink(output)?,
                    (_, Some("began")) => {
                        began = true;
                        let seconds = start.elapsed().as_secs_f64();
                        eprintln!("xtask: the {} guest is up after {seconds:.0} s", self.guest.kernel.name);
                        deadline = Instant::now() + self.guest.timeout;
                    }
                    (output, Some(word)) => {
                        if !output.is_empty() {
                            sink(&[output, b"\n"].concat())?;
                        }
                        let code = word.strip_prefix("exit ").and_then(|code| code.parse().ok());
                        return Ok(End::Exit(code.with_context(|| format!("the guest said {word:?}"))?));
                    }
                },
                Err(RecvTimeoutError::Timeout) if began => return Ok(End::TimedOut { tail }),
                Err(_) => return Ok(End::Died { began, tail }),
            }
        }
    }

    fn message(&self, line: &[u8], tail: &mut VecDeque<String>) {
        let line =
            String::from_utf8_lossy(line).trim_end().replace(|c: char| c.is_control() && c != '\t', "");
        if self.guest.verbose {
            eprintln!("{line}");
        }
        if tail.len() == TAIL {
            tail.pop_front();
        }
        tail.push_back(line);
    }

    fn command(&self) -> Command {
        let (program, machine, processor, serial) = match self.guest.kernel.arch {
            Arch::Amd64 => ("qemu-system-x86_64", "pc", "max", "ttyS0"),
            // Its pointers' signatures, made as the architecture says, would take most of the time.
            Arch::Arm64 => ("qemu-system-aarch64", "virt", "max,pauth-impdef=on", "ttyAMA0"),
        };
        let mut qemu = Command::new(program);
        qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", machine]);
        // QEMU 7.2's multi-threaded emulation breaks the kernel's patching of its own code (int3 oops).
        qemu.args(["-accel", "tcg,thread=single", "-cpu", processor]);
        if self.guest.icount {
            // An idle guest's clock jumps to its next timer: sleeping costs nothing, here or there.
            qemu.args(["-icount", "shift=0,sleep=off"]);
        }
        qemu.args(["-smp", &self.guest.cpus.to_string(), "-m", &self.guest.memory]);
        qemu.arg("-kernel").arg(self.kernel.image());
        qemu.args(["-initrd", &format!("/proc/self/fd/{}", self.initramfs.as_raw_fd())]);
        qemu.args(["-append", &format!("console={serial} {KERNEL_LINE} {}", self.guest.append)]);
        for (tag, path) in [("host", self.files), ("modules", &self.kernel.root.join("lib/modules"))] {
            let path = path.display();
            let shared =
                format!("local,path={path},mount_tag={tag},security_model=none,readonly=on,multidevs=remap");
            qemu.args(["-virtfs", &shared]);
        }
        // Two pipes: the kernel's messages beside QEMU's own on stderr, the command's output alone on stdout.
        qemu.args(["-chardev", "file,id=console,path=/dev/stderr", "-serial", "chardev:console"]);
        qemu.args(["-chardev", "file,id=output,path=/dev/stdout", "-device", "virtio-serial-pci"]);
        qemu.args(["-device", "virtserialport,chardev=output,nr=1", "-device", "virtio-rng-pci"]);
        qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).dies_with_us();
        // A group of its own: Ctrl-C is for xtask, whose end is QEMU's end.
        std::os::unix::process::CommandExt::process_group(&mut qemu, 0);
        qemu
    }
}

/// Sends each line with its end of line, and the last one as it is.
fn lines(from: impl Read, to: &Sender<Heard>, kind: fn(Vec<u8>) -> Heard) {
    let mut reader = BufReader::new(from);
    loop {
        let mut line = Vec::new();
        match reader.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) if to.send(kind(line)).is_err() => return,
            Ok(_) => {}
        }
    }
}

/// What of a line is output, and the guest's own word after the mark, if it is there.
fn split<'a>(line: &'a [u8], mark: &str) -> (&'a [u8], Option<&'a str>) {
    let mark = mark.as_bytes();
    let Some(at) = line.windows(mark.len()).position(|window| window == mark) else { return (line, None) };
    let word = std::str::from_utf8(&line[at + mark.len()..]).unwrap_or_default();
    (&line[..at], Some(word.trim()))
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn the_mark_ends_a_line_without_an_end() {
        assert_eq!(split(b"plain\n", "mark"), (&b"plain\n"[..], None));
        assert_eq!(split(b"mark began\n", "mark"), (&b""[..], Some("began")));
        assert_eq!(split(b"no newlinemark exit 3\n", "mark"), (&b"no newline"[..], Some("exit 3")));
    }
}
