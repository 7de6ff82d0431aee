//! The one process of a pod: lives in the pod's network namespace and cgroup, and does there what the node asks.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{setsockopt, sockopt};

use super::lines::Lines;
use crate::run::Run as _;

/// Patience of a pod for an answer: less than the second after which TCP repeats itself, so that one call is one
/// packet.
const PATIENCE: Duration = Duration::from_millis(900);

/// Patience of a pod for the answer to a request: TCP repeats itself a few times meanwhile.
pub(super) const REQUEST_PATIENCE: Duration = Duration::from_secs(2);

/// What a pod says whose request was answered.
pub(super) const ANSWERED: &str = "answered";
/// What it says when its patience has ended.
pub(super) const NO_ANSWER: &str = "no answer";

/// What an order that has no outcome worth telling answers.
const DONE: &str = "done";

/// The node's side of the talk with a resident. One order, one answer, one line each.
pub(super) struct Resident {
    child: Child,
    orders: ChildStdin,
    answers: Lines,
}

impl Resident {
    /// Starts one in a network namespace of its own, and in this cgroup if there is one.
    pub(super) fn settle(cgroup: Option<&Path>) -> Result<Self> {
        let procs = cgroup.map(|cgroup| OpenOptions::new().write(true).open(cgroup.join("cgroup.procs")));
        let procs =
            procs.transpose().with_context(|| format!("{}", cgroup.unwrap_or(Path::new("")).display()))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["demo", "resident"]).stdin(Stdio::piped()).stdout(Stdio::piped()).dies_with_us();
        // SAFETY: between fork and exec only write(2) and unshare(2) are called, which take no lock and allocate
        // nothing.
        unsafe {
            command.pre_exec(move || {
                if let Some(procs) = &procs {
                    // 0 is the writing process itself.
                    nix::unistd::write(procs, b"0")?;
                }
                Ok(unshare(CloneFlags::CLONE_NEWNET)?)
            })
        };
        let mut child = command.spawn().context("the process of a pod")?;
        let orders = child.stdin.take().context("a pipe to the pod")?;
        let answers = Lines::of(child.stdout.take().context("a pipe from the pod")?);
        Ok(Self { child, orders, answers })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives an order; its [`answer`](Self::answer) can wait.
    pub(super) fn order(&mut self, order: &str) -> Result<()> {
        writeln!(self.orders, "{order}").with_context(|| format!("the pod did not hear {order:?}"))
    }

    /// What came of the oldest order not answered yet.
    pub(super) fn answer(&mut self) -> Result<String> {
        self.answers.next().context("a pod's process")?.context("the pod's process ended")
    }

    pub(super) fn ask(&mut self, order: &str) -> Result<String> {
        self.order(order)?;
        self.answer()
    }

    /// For an order that cannot fail on a working machine.
    pub(super) fn demand(&mut self, order: &str) -> Result<()> {
        match self.ask(order)?.as_str() {
            DONE => Ok(()),
            answer => bail!("{order:?} in a pod: {answer}"),
        }
    }
}

/// The resident's side: until its orders end.
pub(super) fn live() -> Result<u8> {
    for order in io::stdin().lines() {
        let answer = obey(&order?).unwrap_or_else(|error| plain(&error));
        println!("{answer}");
    }
    Ok(0)
}

fn obey(order: &str) -> Result<String> {
    let words: Vec<&str> = order.split(' ').collect();
    match words[..] {
        ["ip", ..] => ip(order.trim_start_matches("ip ")),
        ["listen", port] => listen(port.parse()?),
        ["forward"] => forward(),
        ["serve", port] => serve(port.parse()?),
        ["request", to, bytes] => request(to.parse()?, bytes.parse()?),
        ["connect", to] => connect(to.parse()?),
        ["send", to, bytes] => send(to.parse()?, usize::from_str(bytes)?),
        _ => bail!("no such order: {order}"),
    }
}

/// ip(8)'s commands with `;` between them, in one process: programs start slowly in a guest.
pub(super) fn ip(commands: &str) -> Result<String> {
    let mut ip = Command::new("ip");
    ip.args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .dies_with_us();
    let mut child = ip.spawn().context("ip")?;
    child.stdin.take().context("a pipe to ip")?.write_all(commands.replace("; ", "\n").as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("ip: {}", String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "));
    }
    Ok(DONE.to_owned())
}

fn listen(port: u16) -> Result<String> {
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    std::thread::spawn(move || listener.incoming().for_each(drop));
    Ok(DONE.to_owned())
}

fn connect(to: SocketAddr) -> Result<String> {
    TcpStream::connect_timeout(&to, PATIENCE)?;
    Ok("connected".to_owned())
}

/// Makes this network namespace a router.
fn forward() -> Result<String> {
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("net.ipv4.ip_forward")?;
    Ok(DONE.to_owned())
}

/// Answers each request once all of it is here: it begins with its length.
fn serve(port: u16) -> Result<String> {
    answer_all(TcpListener::bind(("0.0.0.0", port))?);
    Ok(DONE.to_owned())
}

fn answer_all(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // A request that never comes whole must not keep the next one waiting.
            std::thread::spawn(move || take(stream));
        }
    });
}

fn take(mut stream: TcpStream) -> io::Result<()> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    io::copy(&mut (&mut stream).take(u32::from_be_bytes(length).into()), &mut io::sink())?;
    stream.write_all(&[0])
}

/// A TCP connection, a request of so many bytes after its length, and the wait for an answer.
fn request(to: SocketAddr, bytes: u32) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    // Else the kernel goes on to send what stalled, for minutes after this call, and disturbs what is shown next.
    setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    stream.set_read_timeout(Some(REQUEST_PATIENCE))?;
    let mut request = bytes.to_be_bytes().to_vec();
    request.resize(request.len() + usize::try_from(bytes)?, 0);
    stream.write_all(&request)?;
    answered(stream.read_exact(&mut [0]))
}

fn answered<T>(answer: io::Result<T>) -> Result<String> {
    match answer {
        Ok(_) => Ok(ANSWERED.to_owned()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(NO_ANSWER.to_owned()),
        Err(error) => Err(error.into()),
    }
}

/// One UDP packet, which Linux sends with DF as it does with TCP's: whether it was too long is told by the next call.
fn send(to: SocketAddr, bytes: usize) -> Result<String> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(&vec![0; bytes])?;
    answered(socket.recv(&mut [0; 1]))
}

/// The error as a person reads it.
fn plain(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::{answer_all, obey, plain};

    #[test]
    fn a_request_is_answered_once_it_is_whole() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        answer_all(listener);
        assert_eq!(obey(&format!("request {to} 4000")).unwrap(), "answered");
    }

    #[test]
    fn a_pod_says_what_its_calls_said() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        assert_eq!(obey(&format!("connect {to}")).unwrap(), "connected");
        drop(listener);
        assert_eq!(plain(&obey(&format!("connect {to}")).unwrap_err()), "connection refused");
        assert!(obey("dance").is_err());
        assert!(obey("serve nowhere").is_err());
        assert!(obey("connect db").is_err());
    }
}
