//! One reading of all namespaces: the host's first, then the pods', each as far as the rights reach.

use nix::libc::{RTM_GETLINK, RTM_GETROUTE};

use super::beside::{self, Beside};
use super::netns::{self, Held, Place, Unread};
use super::route::{self, Of};
use super::socket::{Netlink, SocketError, Whole};
use super::{Exception, Far, Link, Namespace, NetnsId, Route, link};
use crate::rights::{self, Act};

/// Namespaces read at once, each held by a descriptor: kubelet's default limit is 110 pods.
const MAX_NAMESPACES: usize = 512;
/// Devices kept of one namespace: a pod with `NET_ADMIN` may make as many as it likes.
const MAX_LINKS: usize = 4096;
/// Routes kept of each family of the host's, and of a pod's, whose own root may make as many as it likes.
const MAX_ROUTES: usize = 65_536;
const MAX_ROUTES_OF_POD: usize = 1024;
/// Learned path MTUs kept of one namespace and family: a pod learns one of whatever address it sends to.
const MAX_EXCEPTIONS: usize = 4096;

/// What [`Unread`] calls the namespace as a whole.
const NAMESPACE: &str = "network namespace";
/// What [`Unread`] calls devices.
const LINKS: &str = "links";
/// What [`Unread`] calls routes.
const ROUTES: &str = "routes and PMTU exceptions";
/// What it calls all that is asked from inside.
const INSIDE: &str =
    "routes, PMTU exceptions, IPsec policies, WireGuard peers, token buckets, filters and BPF programs";

/// Other ends of a pod's veths that are asked for.
const MAX_FAR: usize = 256;

/// Why nothing could be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No socket to ask with.
    #[error("rtnetlink: {0}")]
    Socket(std::io::Error),
    /// The host's devices are what everything else hangs on.
    #[error("the host's links cannot be read: {0}")]
    Host(String),
}

/// How much is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wants {
    /// Learned path MTUs of pods; the host's are always read.
    pub pod_exceptions: bool,
}

/// Reads these namespaces; the first is the host's.
///
/// # Errors
/// The host's devices cannot be read.
pub fn read(places: &[Place], wants: Wants) -> Result<Vec<Namespace>, ReadError> {
    let mut socket = Netlink::open().map_err(ReadError::Socket)?;
    let own = Held::own().map_err(ReadError::Socket)?;
    let mut read = Vec::new();
    for place in places.iter().take(MAX_NAMESPACES) {
        let mut namespace = Namespace { owner: place.owner.clone(), ..Namespace::default() };
        let doubt = place.doubt.map(|why| Unread { what: NAMESPACE, why: why.to_owned() });
        namespace.unread.extend(doubt);
        let held = Held::open(place).and_then(|held| {
            links(&mut socket, &held, &own, &mut namespace)?;
            // Of a process that ended meanwhile the numbers may be another's.
            let net = place.file.parent().and_then(|ns| ns.parent()).map(|process| process.join("net"));
            let fragments = net.and_then(|net| beside::fragments(&net));
            namespace.fragments = fragments.filter(|_| held.is_at(&place.file));
            Ok(held)
        });
        let held = match held {
            Ok(held) => Some(held),
            Err(why) if place.owner.is_none() => {
                return Err(ReadError::Host(format!("{why}, or {}", rights::cure_of_network())));
            }
            Err(why) => {
                namespace.unread.push(Unread { what: LINKS, why });
                None
            }
        };
        read.push((namespace, held));
    }
    if let (Some((host, _)), true) = (read.first_mut(), places.len() > MAX_NAMESPACES) {
        let why = format!("there are more than {MAX_NAMESPACES}");
        host.unread.push(Unread { what: "links of some pods", why });
    }
    paths(&mut read, &own, wants);
    // Last: that a device has its other end here may have given this namespace a number in itself.
    for (namespace, held) in &mut read {
        if let Some(held) = held {
            namespace.id = netns::number(&mut socket, held).unwrap_or_default();
        }
    }
    let mut read: Vec<Namespace> = read.into_iter().map(|(namespace, _)| namespace).collect();
    far_ends(&mut socket, &mut read);
    Ok(read)
}

fn links(socket: &mut Netlink, held: &Held, own: &Held, into: &mut Namespace) -> Result<(), String> {
    let target = if held.is(own) {
        None
    } else {
        let id = netns::numbered(socket, held).map_err(|error| netns::why(&error, Act::ListLinks))?;
        Some(id)
    };
    let (links, whole) = dump_links(socket, target).map_err(|error| netns::why(&error, Act::ListLinks))?;
    into.links = links;
    part(LINKS, whole, into);
    Ok(())
}

/// Asks for the other ends of pods' veths that are in none of these namespaces: containers in a pod. The kernel has given
/// each of those a number here, as the veth into it was read.
fn far_ends(socket: &mut Netlink, read: &mut [Namespace]) {
    let known: Vec<NetnsId> = read.iter().filter_map(|namespace| namespace.id).collect();
    for namespace in read.iter_mut().filter(|namespace| namespace.owner.is_some()) {
        let veths = namespace.links.iter_mut().filter(|link| link.kind == "veth");
        for link in veths.take(MAX_FAR) {
            let (Some(id), Some(index)) = (link.lower_netns, link.lower) else { continue };
            if known.contains(&id) {
                continue;
            }
            let (mut far, this) = (None, link.index);
            // What is not answered is not known, and said to be so where it would matter.
            let _ = socket.call(RTM_GETLINK, &link::question_of(id, index), |payload| {
                far = far_end(payload, id, this);
            });
            link.far = far;
        }
    }
}

/// The device that an answer is about, if it is of that namespace and the other end of this veth.
fn far_end(payload: &[u8], id: NetnsId, of: u32) -> Option<Far> {
    let is_its =
        |other: &Link| link::is_of(payload, Some(id)) && other.kind == "veth" && other.lower == Some(of);
    let other = link::decode(payload).filter(is_its)?;
    Some(Far { name: other.name, mtu: other.mtu, up: other.up })
}

fn part(what: &'static str, whole: Whole, into: &mut Namespace) {
    if whole == Whole::No {
        into.unread.push(Unread { what, why: "there are too many: the first of them were read".to_owned() });
    }
}

fn dump_links(socket: &mut Netlink, target: Option<NetnsId>) -> Result<(Vec<Link>, Whole), SocketError> {
    let mut foreign = false;
    let (links, whole) = socket.dump(RTM_GETLINK, &link::question(target), Vec::new, |links, payload| {
        foreign |= !link::is_of(payload, target);
        links.extend(link::decode(payload));
        !foreign && links.len() <= MAX_LINKS
    })?;
    if foreign { Err(SocketError::Garbled) } else { Ok(bounded(links, MAX_LINKS, whole)) }
}

fn bounded<T>(mut list: Vec<T>, most: usize, whole: Whole) -> (Vec<T>, Whole) {
    let whole = if list.len() > most { Whole::No } else { whole };
    list.truncate(most);
    (list, whole)
}

/// What of one namespace has to be asked from inside.
struct Paths {
    beside: Beside,
    routes: (Vec<Route>, Whole),
    exceptions: Option<Vec<Exception>>,
}

/// How much is read of one namespace.
#[derive(Clone, Copy)]
struct Share {
    routes: usize,
    exceptions: bool,
}

/// Reads the routes of all namespaces: of this process's own here, of the others on a thread that enters them.
fn paths(read: &mut [(Namespace, Option<Held>)], own: &Held, wants: Wants) {
    let host = Share { routes: MAX_ROUTES, exceptions: true };
    let pod = Share { routes: MAX_ROUTES_OF_POD, exceptions: wants.pod_exceptions };
    let mut here = Vec::new();
    for (of_host, share) in [(true, host), (false, pod)] {
        let asked = (0..read.len()).filter(|at| read[*at].0.owner.is_none() == of_host);
        let asked = asked.filter(|at| read[*at].1.is_some());
        let is_own = |at: &usize| read[*at].1.as_ref().is_some_and(|held| held.is(own));
        let (ours, others): (Vec<usize>, Vec<usize>) = asked.partition(is_own);
        for at in ours {
            let socket = Netlink::open().map_err(SocketError::from);
            let links = &read[at].0.links;
            here.push((at, socket.and_then(|mut socket| dump_paths(&mut socket, links, share))));
        }
        let held: Vec<&Held> = others.iter().filter_map(|at| read[*at].1.as_ref()).collect();
        if !held.is_empty() {
            let work = |at: usize, socket: &mut Netlink| dump_paths(socket, &read[others[at]].0.links, share);
            here.extend(others.iter().copied().zip(netns::inside(&held, work)));
        }
    }
    for (at, answer) in here {
        let namespace = &mut read[at].0;
        match answer {
            Ok(Paths { beside, routes: (routes, whole), exceptions }) => {
                beside.give(namespace);
                namespace.routes = Some(routes);
                namespace.exceptions = exceptions;
                part(ROUTES, whole, namespace);
            }
            Err(error) => {
                let why = netns::why(&error, Act::EnterNetns);
                namespace.unread.push(Unread { what: INSIDE, why });
            }
        }
    }
}

/// Keeps what was learned of a path; whether there is room for more.
fn learn(payload: &[u8], learned: &mut Vec<Exception>) -> bool {
    learned.extend(route::exception(payload));
    learned.len() < MAX_EXCEPTIONS
}

fn dump_paths(socket: &mut Netlink, links: &[Link], share: Share) -> Result<Paths, SocketError> {
    let mut paths = Paths {
        beside: beside::read(socket, links),
        routes: (Vec::new(), Whole::Yes),
        exceptions: share.exceptions.then(Vec::new),
    };
    // A kernel without IPv6 answers with IPv4's.
    for v6 in [false, true] {
        let question = route::question(v6, Of::Routes);
        let (routes, whole) = socket.dump(RTM_GETROUTE, &question, Vec::new, |routes, payload| {
            route::decode(payload, routes);
            routes.len() <= share.routes
        })?;
        let (routes, whole) = bounded(routes, share.routes, whole);
        paths.routes.0.extend(routes.into_iter().filter(|route| route.destination.addr().is_ipv6() == v6));
        if whole == Whole::No {
            paths.routes.1 = Whole::No;
        }
        let Some(exceptions) = &mut paths.exceptions else { continue };
        let question = route::question(v6, Of::Exceptions);
        let (learned, _) =
            socket.dump(RTM_GETROUTE, &question, Vec::new, |learned, payload| learn(payload, learned))?;
        exceptions.extend(learned.into_iter().filter(|one: &Exception| one.destination.is_ipv6() == v6));
    }
    Ok(paths)
}

#[cfg(test)]
mod tests;
