//! What a network namespace has, as plain types: its devices and what each costs, its routes, the path MTUs it learned.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::pod::Pod;

mod attributes;
mod beside;
mod ipsec;
mod link;
mod name;
mod netns;
mod programs;
mod read;
mod route;
mod socket;
mod taken;
mod tunnel;
mod way;
mod wireguard;

#[cfg(test)]
mod tests;

pub use crate::netlink::bucket::Bucket;
pub use ipsec::{Esp, Ipsec, Policy, State, Wrapping};
pub use name::{is_plain, shell_word};
pub use netns::{Place, Unread};
pub use read::{ReadError, Wants, read};
pub use taken::{Taken, Way, taken};
pub use way::towards;

/// The device that an `RTM_NEWLINK` tells of, by what is behind its netlink header; `None` if it has no number.
#[must_use]
pub fn device(payload: &[u8]) -> Option<Link> {
    link::decode(payload)
}

/// The unicast route that an `RTM_NEWROUTE` tells of, each of its ways by itself; none if it tells of another kind.
#[must_use]
pub fn routes(payload: &[u8]) -> Vec<Route> {
    let mut routes = Vec::new();
    route::decode(payload, &mut routes);
    routes
}

/// What was learned of a path, by an `RTM_NEWROUTE` that tells of that; `None` if it tells of a route.
#[must_use]
pub fn exception(payload: &[u8]) -> Option<Exception> {
    route::exception(payload)
}

/// The IPsec policies and states of this thread's network namespace; `None` if they cannot be read, or not at once: a
/// packet's record waits for them.
#[must_use]
pub fn ipsec() -> Option<Ipsec> {
    ipsec::read_soon().ok()
}

/// A network namespace by the number it has in the namespace of whoever reads (`nsid`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetnsId(pub i32);

/// A network device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name; a byte that is not UTF-8 stands as `\xNN`, all else is raw: a tenant may have chosen it.
    pub name: String,
    /// The kernel's word for its kind (`vxlan`); `physical` or `loopback` where it has none.
    pub kind: String,
    /// Bytes of the largest packet, network header included.
    pub mtu: u32,
    /// It is administratively up.
    pub up: bool,
    /// What is below it carries: a cable is plugged, a bridge has a port that forwards, a veth's other end is up.
    pub carrier: bool,
    /// It is `lo`.
    pub loopback: bool,
    /// The device it is a port or member of.
    pub master: Option<u32>,
    /// The device below it, or a veth's other end.
    pub lower: Option<u32>,
    /// The namespace [`Link::lower`] and a tunnel's underlay are in, where it is another.
    pub lower_netns: Option<NetnsId>,
    /// What it wraps around each packet.
    pub tunnel: Option<Tunnel>,
    /// A veth's other end, where that is in a namespace that is nobody's in the reading: a container in a pod.
    pub far: Option<Far>,
    /// Where each of `WireGuard`'s peers is, if it has said so; `None` where that was not read.
    pub peers: Option<Vec<Option<IpAddr>>>,
    /// What may send its packets elsewhere than routes say: `XDP`, `tc`, `tcx`.
    pub program: Option<&'static str>,
    /// What a filter of tc does to packets of it, as in `polices`: by size, or it sends them elsewhere.
    pub filter: Option<&'static str>,
    /// Bytes of the header that it puts before each packet, which its MTU does not count and its queues do.
    pub header: u32,
    /// Its token bucket, the smallest if it has several.
    pub bucket: Option<Bucket>,
}

/// The other end of a veth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Far {
    /// Its name there, as [`Link::name`].
    pub name: String,
    /// Bytes of the largest packet.
    pub mtu: u32,
    /// It is administratively up.
    pub up: bool,
}

/// IP packets that were made by cutting up larger ones, since the namespace began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragments {
    /// `IpFragCreates`
    pub v4: u64,
    /// `Ip6FragCreates`
    pub v6: u64,
}

#[cfg(test)]
impl Link {
    /// A device that carries, for readings made by hand.
    pub(crate) fn up(index: u32, name: &str, kind: &str, mtu: u32) -> Self {
        let (name, kind) = (name.to_owned(), kind.to_owned());
        Self { index, name, kind, mtu, up: true, carrier: true, ..Self::default() }
    }
}

/// What a device wraps around each packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// How.
    pub encapsulation: Encapsulation,
    /// Address that the outer packet comes from.
    pub local: Option<IpAddr>,
    /// Address that the outer packet goes to, if it is always the same.
    pub remote: Option<IpAddr>,
    /// The device that outer packets leave by, where it is set.
    pub underlay: Option<u32>,
    /// Each packet's own metadata say where it goes (`external`).
    pub external: bool,
    /// Bytes that its options add to the plain header; negative where it carries no inner Ethernet header.
    pub extra: i32,
    /// Which of IPsec's states are its own: the mark of vti, the number (`if_id`) of xfrm.
    pub key: u32,
}

impl Tunnel {
    /// One with nothing set.
    #[must_use]
    pub const fn plain(encapsulation: Encapsulation) -> Self {
        Self { encapsulation, local: None, remote: None, underlay: None, external: false, extra: 0, key: 0 }
    }
}

/// A way to wrap packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encapsulation {
    /// Ethernet in UDP, port 4789 or 8472.
    Vxlan,
    /// Ethernet in UDP, port 6081; options that packets may carry are not counted.
    Geneve,
    /// IP in GRE in IPv4.
    Gre,
    /// Ethernet in GRE in IPv4.
    Gretap,
    /// IP in GRE in IPv6.
    Ip6gre,
    /// Ethernet in GRE in IPv6.
    Ip6gretap,
    /// IP in IPv4.
    Ipip,
    /// IPv6 (or IP) in IPv4.
    Sit,
    /// IP in IPv6.
    Ip6tnl,
    /// Encrypted IP in UDP.
    Wireguard,
    /// A tag that no MTU counts.
    Vlan,
    /// Encrypted Ethernet.
    Macsec,
    /// What an IPsec state of this mark adds, in IPv4.
    Vti,
    /// The same in IPv6.
    Vti6,
    /// What IPsec states and policies of this interface's number add.
    Xfrm,
}

/// A unicast route, or one way of it where it has several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// The device it leaves by.
    pub device: u32,
    /// The next hop.
    pub gateway: Option<IpAddr>,
    /// Its routing table; 254 is the main one.
    pub table: u32,
    /// The lower wins.
    pub metric: u32,
    /// Bytes of the largest packet, where it says so.
    pub mtu: Option<u32>,
    /// Bytes of the largest TCP segment to be asked for, where it says so.
    pub advmss: Option<u32>,
    /// It goes by itself when its time is over.
    pub expires: bool,
    /// The nexthop object that its ways are of (`ip nexthop`), by its number.
    pub object: Option<u32>,
    /// Its device is down: the kernel does not use it.
    pub dead: bool,
    /// Its device has no carrier: what is sent by it arrives nowhere.
    pub linkdown: bool,
}

/// A path MTU that was learned: an exception of the route cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Where to.
    pub destination: IpAddr,
    /// The device it leaves by.
    pub device: u32,
    /// Bytes.
    pub mtu: u32,
    /// When it will be forgotten.
    pub expires: Option<Duration>,
}

/// One network namespace as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Whose it is; `None` for the host's.
    pub owner: Option<Arc<Pod>>,
    /// What other namespaces' devices call it.
    pub id: Option<NetnsId>,
    /// Its devices, in the kernel's order.
    pub links: Vec<Link>,
    /// Its unicast routes; `None` where they could not be read.
    pub routes: Option<Vec<Route>>,
    /// What its route caches learned; `None` where that could not be read, or was not asked for.
    pub exceptions: Option<Vec<Exception>>,
    /// Its IPsec policies and states; `None` where they could not be read.
    pub ipsec: Option<Ipsec>,
    /// Fragments that were made in it; `None` where that could not be read.
    pub fragments: Option<Fragments>,
    /// What could not be read, and why.
    pub unread: Vec<Unread>,
}
