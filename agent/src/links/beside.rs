//! What is asked from inside a network namespace beside its routes: `WireGuard`'s peers, BPF programs, IPsec; its fragments.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::ipsec::{self, Ipsec};
use super::netns::{self, Unread};
use super::programs::{self, Filtered};
use super::socket::{Netlink, SocketError};
use super::wireguard::Wireguard;
use super::{Bucket, Fragments, Link};
use crate::rights::{Act, Right};

/// What [`Unread`] calls these.
const PEERS: &str = "WireGuard peers";
const IPSEC: &str = "IPsec policies";
const PROGRAMS: &str = "BPF programs and filters of devices";
const BUCKETS: &str = "token buckets of devices";
pub(super) const NAMES: [&str; 4] = [PEERS, IPSEC, PROGRAMS, BUCKETS];

/// Devices of one namespace that are asked of one by one.
const MOST: usize = 512;

/// What came of it.
#[derive(Default)]
pub(super) struct Beside {
    peers: Vec<(u32, Vec<Option<std::net::IpAddr>>)>,
    filtered: Filtered,
    tcx: BTreeSet<u32>,
    buckets: BTreeMap<u32, Bucket>,
    ipsec: Option<Ipsec>,
    unread: Vec<Unread>,
}

/// Reads it of these devices of this thread's namespace.
pub(super) fn read(socket: &mut Netlink, links: &[Link]) -> Beside {
    let mut beside = Beside::default();
    let note = |what, error: &SocketError| {
        // Kernels before tcx ask for the right to use BPF at all.
        let act = if what == PROGRAMS && Right::NetAdmin.held() { Act::Bpf } else { Act::ListLinks };
        Unread { what, why: netns::why(error, act) }
    };
    let wireguard = links.iter().filter(|link| link.kind == "wireguard").take(MOST);
    let mut asked = None;
    for link in wireguard {
        let answer = match asked.get_or_insert_with(Wireguard::open) {
            Ok(family) => family.peers(link.index),
            Err(_) => break,
        };
        match answer {
            Ok(peers) => beside.peers.push((link.index, peers)),
            Err(error) => {
                beside.unread.push(note(PEERS, &error));
                break;
            }
        }
    }
    if let Some(Err(error)) = &asked {
        beside.unread.push(note(PEERS, error));
    }
    let devices = links.iter().any(|link| link.tunnel.is_some_and(|tunnel| tunnel.encapsulation.is_ipsec()));
    match ipsec::read(devices) {
        Ok(ipsec) => {
            if ipsec.cut {
                let why = "there are too many: the first of them were read".to_owned();
                beside.unread.push(Unread { what: IPSEC, why });
            }
            beside.ipsec = Some(ipsec);
        }
        Err(error) => beside.unread.push(note(IPSEC, &error)),
    }
    let tcx = || {
        let up = links.iter().filter(|link| link.up).take(MOST);
        let with = up.filter_map(|link| {
            programs::has_tcx(link.index).map(|has| has.then_some(link.index)).transpose()
        });
        with.collect::<Result<BTreeSet<u32>, SocketError>>()
    };
    match programs::queues(socket) {
        Ok(queues) => {
            let found = programs::filtered(socket, &queues).and_then(|filtered| Ok((filtered, tcx()?)));
            match found {
                Ok((filtered, tcx)) => (beside.filtered, beside.tcx) = (filtered, tcx),
                Err(error) => beside.unread.push(note(PROGRAMS, &error)),
            }
            beside.buckets = queues.buckets;
        }
        Err(error) => beside.unread.extend([PROGRAMS, BUCKETS].map(|what| note(what, &error))),
    }
    beside
}

impl Beside {
    /// Gives each device what was read of it.
    pub(super) fn give(self, into: &mut super::Namespace) {
        for link in &mut into.links {
            link.filter = self.filtered.acting.get(&link.index).copied();
            if self.filtered.bpf.contains(&link.index) {
                link.program.get_or_insert("tc");
            }
            if self.tcx.contains(&link.index) {
                link.program.get_or_insert("tcx");
            }
            link.bucket = self.buckets.get(&link.index).copied();
        }
        for (index, peers) in self.peers {
            if let Some(link) = into.links.iter_mut().find(|link| link.index == index) {
                link.peers = Some(peers);
            }
        }
        into.ipsec = self.ipsec;
        into.unread.extend(self.unread);
    }
}

/// Fragments made in the namespace of a process; `net` is its `/proc/<pid>/net`.
pub(super) fn fragments(net: &Path) -> Option<Fragments> {
    let v4 = snmp(&fs::read_to_string(net.join("snmp")).ok()?)?;
    let v6 = fs::read_to_string(net.join("snmp6")).unwrap_or_default();
    let v6 = v6.lines().find_map(|line| line.strip_prefix("Ip6FragCreates")?.trim().parse().ok());
    // A kernel without IPv6 makes none.
    Some(Fragments { v4, v6: v6.unwrap_or(0) })
}

/// `FragCreates` of the two lines that begin with `Ip:`: names, then numbers.
pub(super) fn snmp(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Ip:"));
    let (names, numbers) = (lines.next()?.split_whitespace(), lines.next()?.split_whitespace());
    names.zip(numbers).find(|(name, _)| *name == "FragCreates")?.1.parse().ok()
}

#[cfg(test)]
mod tests;
