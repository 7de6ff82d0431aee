//! What to set, as commands that a person pastes as they are, each with its place.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use ipnet::IpNet;

use super::finding::{TOLD, full_name, list, quoted, set};
use super::path::Home;
use super::{At, MAIN, Nets};
use crate::links::Route;

/// What IPv6 needs of each link.
const IPV6_LEAST: u32 = 1280;

/// Devices of one place that one command names.
const NAMED: usize = 16;

/// What a route is, whatever its ways: its namespace, where it leads, its table, and its metric.
type Key = (usize, IpNet, u32, u32);

/// What routes may promise.
pub(super) type Promises = HashMap<Key, u32>;

/// What names a route in the reading.
pub(super) fn key(namespace: usize, route: &Route) -> Key {
    (namespace, route.destination, route.table, route.metric)
}

/// The command that changes a route's MTU and nothing else: what the route is now is asked for when the command runs.
/// `None` where one of its ways is down, with which the kernel takes no route.
pub(super) fn route(nets: &Nets<'_>, namespace: usize, route: &Route, mtu: u32) -> Option<String> {
    let ways: Vec<&Route> = nets.ways_of(namespace, route).collect();
    if ways.iter().any(|way| way.dead || way.linkdown) {
        return None;
    }
    let ip = if route.destination.addr().is_ipv6() { "ip -6" } else { "ip" };
    let to = match route.destination.prefix_len() {
        0 => "default".to_owned(),
        _ => route.destination.to_string(),
    };
    let table = if route.table == MAIN { String::new() } else { format!(" table {}", route.table) };
    let which = format!("{table} metric {}", route.metric);
    let (mut edits, mut last) = (Vec::new(), String::new());
    match route.mtu {
        // What is said last counts, but behind `nexthop` it would be of that way.
        _ if ways.len() < 2 || route.object.is_some() => last = format!(" mtu {mtu}"),
        Some(old) => edits.push(format!(r"s/(mtu |lock ){old}/\1{mtu}/")),
        None => edits.push(format!("1s/ / mtu {mtu} /")),
    }
    if route.object.is_some() {
        // `ip` prints the object's ways beside it, and the kernel takes one or the other.
        edits.push("2,$d; s/ (via (inet6 )?[^ ]+ )?dev [^ ]+( onlink)?//".to_owned());
    }
    if route.expires {
        // `ip` prints a unit that it does not take.
        edits.push(r"s/(expires [0-9]+)sec/\1/".to_owned());
    }
    let edit = if edits.is_empty() { String::new() } else { format!(" | sed -E '{}'", edits.join("; ")) };
    Some(format!("`{ip} route change{which} $({ip} route show exact {to}{which}{edit}){last}`"))
}

/// What makes pods send no more than fits by these of their routes: they, and who is beside them, take as much as before.
/// `promises` is what each route may. Where a route was not read, or has a way that is down, only the direction is told.
pub(super) fn pods(
    nets: &Nets<'_>,
    hurt: &[(&Home<'_>, Vec<&Route>)],
    fits: u32,
    promises: &Promises,
) -> String {
    let mut alike: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (home, routes) in hurt {
        let change = |one: &&Route| {
            let mtu = promises.get(&key(home.namespace, one)).map_or(fits, |most| fits.min(*most));
            if one.destination.addr().is_ipv6() && mtu < IPV6_LEAST {
                return format!("no less than {IPV6_LEAST} for IPv6: raise what takes only {mtu}");
            }
            let down = || format!("lower the MTU of {} to {mtu} once all its ways are up", one.destination);
            route(nets, home.namespace, one, mtu).unwrap_or_else(down)
        };
        let mut changes: Vec<String> = routes.iter().map(change).collect();
        changes.sort_unstable();
        changes.dedup();
        if changes.is_empty() {
            changes.push(format!("lower the MTU of the route that leads out to {fits}"));
        }
        let pods = alike.entry(changes.join(" and ")).or_default();
        let name = full_name(&home.pod);
        if !pods.contains(&name) {
            pods.push(name);
        }
    }
    format!("{}; for pods to come, the CNI's MTU", places(alike, |pods| format!("in {pods}")))
}

/// What gives these devices, and their other ends, this MTU, where theirs is more.
pub(super) fn lowers(nets: &Nets<'_>, devices: &[At], mtu: u32) -> String {
    // Other ends first: the other way round, what they still send is freed at the smaller end without a word.
    sets(nets, devices, mtu, |own| own > mtu).join(", ")
}

/// The same where theirs is less.
pub(super) fn raises(nets: &Nets<'_>, devices: &[At], mtu: u32) -> String {
    let mut parts = sets(nets, devices, mtu, |own| own < mtu);
    parts.reverse();
    parts.join(", ")
}

/// In containers, in other pods, and here.
fn sets(nets: &Nets<'_>, devices: &[At], mtu: u32, is_wrong: impl Fn(u32) -> bool) -> Vec<String> {
    let mut own: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    let mut containers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for at in devices {
        let Some(link) = nets.link(*at) else { continue };
        let peer = nets.peer(*at, link);
        for (at, one) in [Some((*at, link)), peer].into_iter().flatten().filter(|(_, one)| is_wrong(one.mtu))
        {
            own.entry(at.namespace).or_default().push(one.name.clone());
        }
        if let Some(far) = link.far.as_ref().filter(|far| far.up && is_wrong(far.mtu)) {
            containers.entry(set(&far.name, mtu, None)).or_default().push(link.name.clone());
        }
    }
    let home = devices.first().map_or(0, |at| at.namespace);
    let here = own.remove(&home).map(|names| all(&names, mtu));
    let mut pods: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (namespace, names) in own {
        let pod = nets.owner(At { namespace, index: 0 }).map_or("the host".to_owned(), |pod| full_name(pod));
        pods.entry(all(&names, mtu)).or_default().push(pod);
    }
    let owner = nets.owner(At { namespace: home, index: 0 });
    let here = here.map(|command| match owner {
        Some(pod) => format!("{command} (in {})", full_name(pod)),
        None => command,
    });
    let container = |nears: String| format!("in the container behind {nears}");
    let parts =
        [places(containers, container), places(pods, |pods| format!("in {pods}")), here.unwrap_or_default()];
    parts.into_iter().filter(|part| !part.is_empty()).collect()
}

/// Each command with where it is to be given: `a (in x, y), b (in z)`.
fn places(commands: BTreeMap<String, Vec<String>>, named: impl Fn(String) -> String) -> String {
    let more: usize = commands.values().skip(TOLD).map(Vec::len).sum();
    let told = commands.into_iter().take(TOLD);
    let told = told.map(|(command, places)| format!("{command} ({})", named(list(places.into_iter()))));
    let mut text = told.collect::<Vec<_>>().join(", ");
    if more > 0 {
        let _ = write!(text, ", and so in {more} more");
    }
    text
}

/// One command that sets several devices.
fn all(names: &[String], mtu: u32) -> String {
    if let [name] = names {
        return set(name, mtu, None);
    }
    let words: Vec<String> =
        names.iter().take(NAMED).map(|name| quoted(name).trim_start_matches("dev ").to_owned()).collect();
    let mut text = format!("`for i in {}; do ip link set dev \"$i\" mtu {mtu}; done`", words.join(" "));
    if names.len() > NAMED {
        let _ = write!(text, " and {} devices more alike", names.len() - NAMED);
    }
    text
}

impl<'a> Nets<'a> {
    /// The ways of a route, itself among them.
    pub(super) fn ways_of(&self, namespace: usize, route: &Route) -> impl Iterator<Item = &'a Route> {
        let of = key(namespace, route);
        let all = self.namespaces.get(namespace).and_then(|read| read.routes.as_deref());
        all.unwrap_or_default().iter().filter(move |one| key(namespace, one) == of)
    }
}
