//! One walk on a thread of its own: into a network namespace, to a destination, and what that came to.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};

use crate::failure::Failure;
use crate::path::judge::{About, Tcp};
use crate::path::sockets::Sockets;
use crate::path::walk::{self, Limits};
use crate::path::who::Who;
use crate::path::{Outcome, device};
use crate::rights::{self, Act};

/// How long a plain connection may take.
const CONNECT: Duration = Duration::from_secs(2);

/// Whether a walk may go there: others than one host would answer, too, and each packet many times over.
pub(super) fn is_one_host(address: IpAddr) -> bool {
    !(address.is_multicast() || address == IpAddr::from([255; 4]) || address.is_unspecified())
}

/// What the walking thread gets to do.
pub(super) struct Errand {
    pub(super) address: IpAddr,
    pub(super) port: Option<u16>,
    pub(super) who: Who,
    /// Where to, in words.
    pub(super) named: String,
    pub(super) limits: Limits,
    pub(super) stop: Arc<AtomicBool>,
}

impl Errand {
    /// Walks. The calling thread is in `netns` from then on. `lacks` is told which right is missing, `progress` how far it is.
    pub(super) fn run(
        self,
        netns: Option<OwnedFd>,
        lacks: &mut dyn FnMut(&str),
        progress: &mut dyn FnMut(&str),
    ) -> Result<(Outcome, About), Failure> {
        if let Some(netns) = netns {
            setns(netns, CloneFlags::CLONE_NEWNET).map_err(|error| match error {
                Errno::EINVAL => {
                    Failure::usage(format!("{} is no network namespace", self.who.name)).of(&["netns"])
                }
                error => refused(&format!("{} cannot be entered", self.who.name), Act::EnterNetns, error),
            })?;
        }
        let unreachable = |error: Errno| {
            let why = match error {
                Errno::ENETUNREACH => {
                    "no route leads there; `ip route get` shows what its namespace would do".to_owned()
                }
                error => io::Error::from(error).to_string(),
            };
            Failure::runtime(format!("{} from {}: {why}", self.named, self.who.name))
        };
        // Any port will do to ask for the way.
        let device = device::towards(SocketAddr::new(self.address, 9)).map_err(unreachable)?;
        let mut sockets =
            Sockets::open(self.address, self.port, device.source, self.stop, lacks).map_err(unreachable)?;
        let patience = CONNECT.min(self.limits.time);
        let tcp =
            self.port.map(|port| sockets.try_connect(port, patience)).transpose().map_err(unreachable)?;
        if let Some(tcp) = tcp {
            progress(&connected(tcp));
        }
        let v6 = self.address.is_ipv6();
        let out = walk::walk(&mut sockets, device.promises(), v6, self.limits, progress);
        let about = About { who: self.who, to: self.named, address: self.address, device, tcp };
        Ok((out, about))
    }
}

/// What a plain connection showed, in words.
fn connected(tcp: Tcp) -> String {
    match tcp {
        Tcp::Connects { mss, path_mtu } => {
            let shown = |size: Option<u32>| size.map_or("unknown".to_owned(), |size| size.to_string());
            format!("TCP connects: MSS {}, path MTU as the kernel knows it {}", shown(mss), shown(path_mtu))
        }
        Tcp::Refuses => "TCP is refused".to_owned(),
        Tcp::Silent => "TCP gets no answer".to_owned(),
    }
}

/// What the kernel did not let us do: a right that is missing is named, with what gives it.
pub(super) fn refused(what: &str, act: Act, error: Errno) -> Failure {
    match rights::why(act, error, false) {
        Some(why) => Failure::unsupported(format!("{what}: {why}")),
        None => Failure::runtime(format!("{what}: {}", error.desc())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_connection_showed_is_said_with_what_is_not_known() {
        for (tcp, said) in [
            (
                Tcp::Connects { mss: Some(1460), path_mtu: Some(1500) },
                "TCP connects: MSS 1460, path MTU as the kernel knows it 1500",
            ),
            (
                Tcp::Connects { mss: Some(1460), path_mtu: None },
                "TCP connects: MSS 1460, path MTU as the kernel knows it unknown",
            ),
            (Tcp::Refuses, "TCP is refused"),
            (Tcp::Silent, "TCP gets no answer"),
        ] {
            assert_eq!(connected(tcp), said);
        }
    }
}
