//! `r2c-agent audit mtu`: does every MTU fit? Reads all links, judges them, says what is too large and what to set.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

use crate::answer;
use crate::asked::{Homeless, PodsAsked, few, full_name};
use crate::cli::{AuditMtu, Host, Output};
use crate::digits::counted;
use crate::enrich::{self, PodIndex};
use crate::failure::Failure;
use crate::incident::Span;
use crate::links::{self, Namespace, Place, Wants};
use crate::log::note;
use crate::node;
use crate::pod::Pod;
use crate::rights;
use crate::shutdown::{self, Signals};
use crate::sink::json::JsonSink;
use crate::sink::table::{TableSink, width_of_stdout};
use crate::sink::{Level, Line, Sink, Told};

mod clear;
pub mod gauges;
pub mod overlay;
mod row;
pub mod standing;
pub mod watch;

use clear::Unseen;
use overlay::{Finding, Judgement, NotJudged, Subnet};
use row::{Gap, Verdict};

/// What lines of the audit have where an event's have their probe.
const ORIGIN: &str = "audit";

/// Reads, judges, prints; Ctrl-C ends all of that.
///
/// # Errors
/// Unsupported: the host's links cannot be read. Findings: there are some, and `--fail-on-findings` was given.
pub async fn mtu(host: &Host, args: AuditMtu) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let read = tokio::select! {
        read = read(host, &args) => read?,
        () = signals.first() => return Err(Failure::runtime("interrupted")),
    };
    let shown = Shown { judgement: overlay::judge(&read.read), of: read, args };
    let (text, findings) = shown.print(host)?;
    answer::write(text, signals.first()).await?;
    shown.notes(findings).iter().for_each(|line| note(line));
    if shown.args.fail_on_findings { end_of(findings, shown.blind()) } else { Ok(()) }
}

/// What a script is told of so many findings; `blind` says what else there may be that was not read.
fn end_of(findings: usize, blind: Option<String>) -> Result<(), Failure> {
    if findings > 0 {
        let findings = counted(u64::try_from(findings).unwrap_or(u64::MAX), "finding");
        return Err(Failure::findings(findings));
    }
    blind.map_or(Ok(()), |why| Err(Failure::unsupported(why)))
}

/// What was read, and for whom.
struct Reading {
    /// The host's namespace, then the pods'.
    read: Vec<Namespace>,
    asked: PodsAsked,
    unseen: Unseen,
}

/// Reads everything, once the pods asked for are there.
async fn read(host: &Host, args: &AuditMtu) -> Result<Reading, Failure> {
    let (_stop, drain) = shutdown::channel();
    let (pods, _) = enrich::start(node::pod_roots(host), drain).await;
    let asked = PodsAsked { namespaces: args.namespace.clone(), pods: args.pod.clone() };
    asked.present(host, &pods, args.wait).await?;
    let Homeless { on_host, unseen } = asked.homeless(&pods);
    let hidden = pods.has_hidden_namespaces() && (asked.is_empty() || !unseen.is_empty());
    let nameless = if asked.is_by_name() { 0 } else { pods.nameless() };
    let unseen = Unseen { on_host, pods: unseen, nameless, hidden };
    let places = places(&host.host_proc, &pods);
    let read = tokio::task::spawn_blocking(move || links::read(&places, Wants { pod_exceptions: true }));
    let read = read.await?.map_err(Failure::unsupported)?;
    Ok(Reading { read, asked, unseen })
}

/// For each address the network of this node's pods alone that it is in; `None` where that is not known. Blocks on netlink.
#[must_use]
pub fn subnets_of_pods(proc: &Path, pods: &PodIndex, addresses: &[IpAddr]) -> Vec<Option<Subnet>> {
    let read = links::read(&places(proc, pods), Wants { pod_exceptions: false }).unwrap_or_default();
    addresses.iter().map(|address| overlay::subnet_of_pods(&read, *address)).collect()
}

/// Where the host's and the pods' network namespaces are.
fn places(proc: &Path, pods: &PodIndex) -> Vec<Place> {
    let mut places = vec![of_host(proc)];
    places.extend(pods.namespaces().into_iter().map(|home| Place {
        owner: Some(home.pod),
        file: proc.join(home.pid.to_string()).join("ns/net"),
        inode: Some(home.netns),
        doubt: None,
    }));
    places
}

/// The host's: an agent that lives there (`hostNetwork`) needs no right to read what is its own.
fn of_host(proc: &Path) -> Place {
    let first = proc.join("1/ns/net");
    let (own, doubt) = match enrich::netns::is_hosts(proc) {
        Some(own) => (own, None),
        None if rights::open_namespace(&first).is_ok() => (false, None),
        None => (true, Some("process 1 cannot be seen; the agent's own was read as the host's")),
    };
    let file = if own { "/proc/self/ns/net".into() } else { first };
    Place { owner: None, file, inode: None, doubt }
}

/// What is printed of one reading.
struct Shown {
    of: Reading,
    judgement: Judgement,
    args: AuditMtu,
}

impl Shown {
    /// Prints it; the text, and how many findings that were asked for there are.
    fn print(&self, host: &Host) -> io::Result<(Vec<u8>, usize)> {
        let Reading { read, asked, unseen } = &self.of;
        let mut text = Vec::new();
        let json = self.args.output == Output::Json;
        let mut sink: Box<dyn Sink + '_> = if json {
            Box::new(JsonSink::new(&mut text, node::identity(host)))
        } else {
            Box::new(TableSink::like_stdout(&mut text, self.args.output == Output::Wide))
        };
        let (at, span) = (SystemTime::now(), Span::root());
        let wanted = (0..read.len()).filter(|at| self.wants(read[*at].owner.as_deref()));
        let all = self.args.output != Output::Table;
        let rows = wanted.flat_map(|at| row::rows(read, at, &self.judgement, all));
        let mut rows: Vec<_> = rows.collect();
        if !json {
            // One table after the other; each keeps the order of its namespaces.
            rows.sort_by_key(|row| ["links", "routes", "exceptions"].iter().position(|t| *t == row.table()));
        }
        for row in &rows {
            let probe = if json { ORIGIN } else { row.table() };
            let (told, level, pod) = (Told::Event, Level::Info, row.owner());
            sink.write(&Line { told, at, level, probe, span, pod, says: row })?;
        }
        if json {
            let unread = read.iter().flat_map(|from| from.unread.iter().map(|unread| Gap::of(from, unread)));
            let unread = unread.filter(|gap| gap.owner().is_none_or(|pod| self.wants(Some(pod))));
            for gap in unread.chain(self.not_judged().map(Gap::NotJudged)) {
                let (told, level, pod) = (Told::Event, Level::Warn, gap.owner());
                sink.write(&Line { told, at, level, probe: ORIGIN, span, pod, says: &gap })?;
            }
        }
        let wanted = self.judgement.findings.iter().filter(|finding| self.wants_finding(finding));
        let mut findings = 0;
        for finding in wanted {
            sink.write(&Verdict { finding, gone: false }.line(Span::root(), at))?;
            findings += 1;
        }
        sink.flush()?;
        drop(sink);
        if findings == 0 && !json {
            let left = clear::not_judged(self.not_judged());
            let width = if self.args.output == Output::Wide { usize::MAX } else { width_of_stdout() };
            writeln!(text, "{}", clear::clear(read, asked, unseen, left.as_deref(), width))?;
        }
        Ok((text, findings))
    }

    fn wants(&self, pod: Option<&Pod>) -> bool {
        self.of.asked.is_empty() || pod.is_some_and(|pod| self.of.asked.wants(pod))
    }

    /// What is not judged of what was asked for; the host's may be on the way of any pod.
    fn not_judged(&self) -> impl Iterator<Item = &NotJudged> {
        self.judgement
            .not_judged
            .iter()
            .filter(|one| one.owner.as_deref().is_none_or(|pod| self.wants(Some(pod))))
    }

    /// What was to be read and could not be: that nothing was found of it says nothing. What no reading would judge is named,
    /// and no more: a node that has such a thing for good could not be told from one whose audit fails.
    fn blind(&self) -> Option<String> {
        let is_blind = |namespace: &&Namespace| {
            let wanted = namespace.owner.as_deref().is_none_or(|pod| self.wants(Some(pod)));
            wanted && namespace.unread.iter().any(|unread| !unread.why.ends_with("gone"))
        };
        let unseen = self.of.unseen.words();
        if !unseen.is_empty() {
            return Some(format!("nothing was found, but {}", unseen.join("; ")));
        }
        let blind = self.of.read.iter().filter(is_blind).map(place);
        let blind: Vec<String> = blind.collect();
        if !blind.is_empty() {
            return Some(format!("nothing was found, but not all could be read: {}", few(&blind)));
        }
        let unread = clear::not_judged(self.not_judged().filter(|one| one.unread))?;
        Some(format!("nothing was found, but {unread}"))
    }

    fn wants_finding(&self, finding: &Finding) -> bool {
        let mut about = finding.pods.iter().chain(&finding.owner);
        self.wants_of(finding.owner.as_deref()) || about.any(|pod| self.wants(Some(pod)))
    }

    /// Whether what is wrong in this pod's namespace, or in the host's, concerns a pod that was asked for: it may live there.
    fn wants_of(&self, owner: Option<&Pod>) -> bool {
        self.wants(owner) || owner.is_none() && !self.of.unseen.on_host.is_empty()
    }

    /// What could not be read, for stderr; where nothing was found the table's last line has said a part of that.
    fn notes(&self, findings: usize) -> Vec<String> {
        let mut notes = Vec::new();
        if findings > 0 || self.args.output == Output::Json {
            notes.extend(self.of.unseen.words());
        }
        notes.extend(unread(&self.of.read));
        if findings > 0 && self.args.output != Output::Json {
            notes.extend(clear::not_judged(self.not_judged()));
        }
        if self.judgement.more_not_judged > 0 {
            let more = u64::try_from(self.judgement.more_not_judged).unwrap_or(u64::MAX);
            notes.push(format!("{} not judged in pods that have many", counted(more, "more device")));
        }
        if self.judgement.left_out > 0 {
            let more = u64::try_from(self.judgement.left_out).unwrap_or(u64::MAX);
            notes.push(format!("{} in pods that have many", counted(more, "more finding")));
        }
        notes
    }
}

/// Whose namespace it is.
fn place(namespace: &Namespace) -> String {
    namespace.owner.as_deref().map_or("host".to_owned(), full_name)
}

/// One line for each thing that could not be read for the same reason.
fn unread(read: &[Namespace]) -> Vec<String> {
    let mut missing: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for namespace in read {
        for unread in &namespace.unread {
            missing.entry((unread.what, &unread.why)).or_default().push(place(namespace));
        }
    }
    missing
        .into_iter()
        .map(|((what, why), names)| format!("{what} not read: {why}: {}", few(&names)))
        .collect()
}

#[cfg(test)]
mod tests;
