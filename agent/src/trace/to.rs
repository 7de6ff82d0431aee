//! `r2c-agent trace mtu --to`: a walk along one path, from a network namespace of the user's choice.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;

use crate::answer;
use crate::asked::PodsAsked;
use crate::cli::to::{FromPod, PROBE, To, Walk};
use crate::cli::{Host, Output, Trace};
use crate::enrich::{self, PodIndex, netns};
use crate::failure::Failure;
use crate::incident::{Span, SpanId};
use crate::log::note;
use crate::nearest;
use crate::node;
use crate::path::judge::{About, Verdict, judge};
use crate::path::row::{VerdictLine, rows};
use crate::path::walk::Limits;
use crate::path::who::Who;
use crate::path::{Halt, Outcome};
use crate::pod::{Pod, PodPattern};
use crate::rights::{self, Act};
use crate::shutdown::{self, Signals};
use crate::sink::escape;
use crate::sink::json::JsonSink;
use crate::sink::table::TableSink;
use crate::sink::{Level, Line, Says, Sink, Told};

use super::errand::{self, Errand, refused};
use super::names;

/// Where ip-netns(8) keeps namespaces by name.
const NAMED: &str = "/run/netns";

/// Walks until the path is known, its limits are reached, or Ctrl-C.
pub(super) async fn walk(host: &Host, args: &Trace, to: &To) -> Result<(), Failure> {
    if args.probe != PROBE {
        return Err(Failure::usage(format!(
            "--to walks along a path, which is of mtu: r2c-agent trace mtu --to {}",
            to.host
        ))
        .of(&["to"]));
    }
    let mut signals = Signals::listen()?;
    let address = tokio::select! {
        address = resolve(to, &args.walk) => address?,
        () = signals.first() => return Err(Failure::runtime("interrupted")),
    };
    let from = tokio::select! {
        from = From::look(host, args) => from?,
        () = signals.first() => return Err(Failure::runtime("interrupted")),
    };
    let is_address = to.host.parse::<IpAddr>().is_ok();
    if is_address && from.is_of_node(host) {
        tokio::select! {
            known = names::destination(host, &from.pods, address) => known?,
            () = signals.first() => return Err(Failure::runtime("interrupted")),
        }
    }
    let named = if is_address { address.to_string() } else { format!("{} ({address})", to.host) };
    let errand = Errand {
        address,
        port: to.port,
        who: from.who,
        named: to.port.map_or(named.clone(), |port| format!("{named} port {port}")),
        limits: Limits { packets: args.walk.max_packets, time: args.walk.timeout },
        stop: Arc::default(),
    };
    let stop = Arc::clone(&errand.stop);
    note(&format!("walking from {} to {}", errand.who.name, errand.named));
    let (tell, mut told) = oneshot::channel();
    let netns = from.netns;
    // A thread of its own, which ends after it: the namespace is the thread's, and the rest of the agent stays where it is.
    thread::Builder::new().name("walk".to_owned()).spawn(move || {
        // Nobody listens any more if the agent ends first.
        let _ = tell.send(errand.run(netns, &mut |lacks| note(lacks), &mut |progress| note(progress)));
    })?;
    let walked = tokio::select! {
        walked = &mut told => walked,
        () = signals.first() => {
            stop.store(true, Ordering::Relaxed);
            told.await
        }
    };
    let (out, about) = walked.map_err(|_| Failure::runtime("the walk broke off"))??;
    let verdict = judge(&out, &about);
    let text = print(host, args.output, &out, &about, &verdict, from.pod.as_deref())?;
    // After a first Ctrl-C, which ends the walk, the reader has a moment for what it found.
    let is_asked = stop.load(Ordering::Relaxed);
    answer::write(text, async {
        if !is_asked {
            signals.first().await;
        }
    })
    .await?;
    end_of(&out, &verdict, args.fail_on_findings)
}

/// What a script is told of a walk; `fails` is `--fail-on-findings`.
fn end_of(out: &Outcome, verdict: &Verdict, fails: bool) -> Result<(), Failure> {
    match &out.halt {
        Some(Halt::Broken(why)) => Err(Failure::runtime(why.clone())),
        _ if fails && verdict.is_narrow => Err(Failure::findings(verdict.message.clone())),
        // Nothing found is no all-clear.
        _ if fails && !verdict.is_known => {
            let message = format!("what fits is not known: {} (--fail-on-findings)", verdict.message);
            Err(Failure::runtime(message))
        }
        _ => Ok(()),
    }
}

/// Where the walk begins.
struct From {
    who: Who,
    pod: Option<Arc<Pod>>,
    netns: Option<OwnedFd>,
    /// This node's.
    pods: PodIndex,
}

impl From {
    async fn look(host: &Host, args: &Trace) -> Result<Self, Failure> {
        let netns = match &args.walk.netns {
            Some(name) if args.walk.from_pod.is_none() => Some(open(&place(host, name), name)?.into()),
            _ => None,
        };
        // Only the pods of this moment are asked for: nobody follows them.
        let (_end, drain) = shutdown::channel();
        let (pods, _) = enrich::start(node::pod_roots(host), drain).await;
        match (&args.walk.from_pod, &args.walk.netns) {
            (Some(pod), _) => Self::pod(host, pods, pod, args.wait).await,
            (None, Some(name)) => Ok(Self { who: Who::netns(name), pod: None, netns, pods }),
            (None, None) => Ok(Self { who: Who::node(), pod: None, netns: None, pods }),
        }
    }

    /// Whether it begins where the node's own routes lead: on the host or in a pod.
    fn is_of_node(&self, host: &Host) -> bool {
        let Some(netns) = &self.netns else { return true };
        let inode = enrich::netns::inode_of(netns);
        inode.is_some()
            && (inode == enrich::netns::of_host(&host.host_proc)
                || self.pods.namespaces().iter().any(|home| Some(home.netns) == inode))
    }

    async fn pod(
        host: &Host,
        index: PodIndex,
        wanted: &FromPod,
        wait: Option<Duration>,
    ) -> Result<Self, Failure> {
        let roots = node::pod_roots(host);
        let pattern = PodPattern {
            namespace: Some(wanted.namespace.clone()),
            name: wanted.name.clone(),
            begins: false,
        };
        let asked = PodsAsked { namespaces: Vec::new(), pods: vec![pattern] };
        asked.present(host, &index, wait).await.map_err(|refused| refused.of(&["from_pod"]))?;
        let who = format!("{}/{}", wanted.namespace, wanted.name);
        let known = index.pods().into_iter().find(|known| !known.gone && asked.wants(&known.pod));
        let Some(pod) = known.map(|known| known.pod) else {
            return Err(Failure::runtime(format!("{who} is gone")));
        };
        let uid = pod.uid.clone();
        let held = tokio::task::spawn_blocking(move || {
            let host = netns::of_host(&roots.proc);
            let held = enrich::hold_netns(&roots, &uid)?;
            Ok(held.map(|held| (host.is_some() && netns::inode_of(&held) == host, held)))
        });
        let (is_nodes, netns) = match held.await? {
            Ok(Some(held)) => held,
            Ok(None) => {
                return Err(Failure::runtime(format!("no process of {who} is to be seen: is it running?")));
            }
            Err(error) => {
                let what = format!("the network namespace of {who} cannot be seen");
                return Err(refused(&what, Act::SeeNetns, error));
            }
        };
        let who = if is_nodes { Who::of_node(who) } else { Who::pod(who) };
        Ok(Self { who, pod: Some(pod), netns: Some(netns), pods: index })
    }
}

/// What the user may mean by a network namespace.
fn place(host: &Host, name: &str) -> PathBuf {
    if name.contains('/') {
        PathBuf::from(name)
    } else if name.bytes().all(|byte| byte.is_ascii_digit()) {
        host.host_proc.join(name).join("ns/net")
    } else {
        Path::new(NAMED).join(name)
    }
}

/// The network namespaces that have names.
fn named() -> Vec<String> {
    let entries = std::fs::read_dir(NAMED).into_iter().flatten().flatten();
    entries.map(|entry| escape::text(&entry.file_name().to_string_lossy()).into_owned()).collect()
}

fn open(path: &Path, name: &str) -> Result<File, Failure> {
    rights::open_namespace(path).map_err(|error| match rights::why_io(Act::SeeNetns, &error) {
        Some(why) => Failure::unsupported(format!("{} cannot be opened: {why}", path.display())),
        None => Failure::usage(format!(
            "no network namespace {name}: {}: {error}; it may be a path, a process, or a name in {NAMED}; {}",
            path.display(),
            nearest::hint(name, named().iter().map(String::as_str))
        ))
        .of(&["netns"]),
    })
}

/// The destination's address. Names are resolved here, not in the namespace walked from: that has no resolver of its own.
async fn resolve(to: &To, args: &Walk) -> Result<IpAddr, Failure> {
    let wanted = |address: &IpAddr| !(args.v4 && address.is_ipv6() || args.v6 && address.is_ipv4());
    let family = if args.v4 { "IPv4" } else { "IPv6" };
    let found: Vec<IpAddr> = if let Ok(address) = to.host.parse::<IpAddr>() {
        vec![address.to_canonical()]
    } else {
        let failed = |why: &str| Failure::runtime(format!("{}: {why}", to.host));
        let lookup = tokio::net::lookup_host((to.host.as_str(), 0));
        let found = tokio::time::timeout(args.timeout, lookup).await;
        let found = found.map_err(|_| failed("no answer from the resolver"))?;
        found.map_err(|error| failed(&error.to_string()))?.map(|found| found.ip().to_canonical()).collect()
    };
    let address = found.into_iter().find(wanted);
    let address = address.ok_or_else(|| {
        Failure::usage(format!("{} has no {family} address", to.host)).of(&["to", "v4", "v6"])
    })?;
    if !errand::is_one_host(address) {
        return Err(Failure::usage(format!("{address} is no one host's address")).of(&["to"]));
    }
    Ok(address)
}

fn print(
    host: &Host,
    output: Output,
    out: &Outcome,
    about: &About,
    verdict: &Verdict,
    pod: Option<&Pod>,
) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut sink: Box<dyn Sink + '_> = match output {
        Output::Json => Box::new(JsonSink::new(&mut text, node::identity(host))),
        Output::Table | Output::Wide => Box::new(TableSink::like_stdout(&mut text, output == Output::Wide)),
    };
    let Span { trace_id, .. } = Span::root();
    let at = SystemTime::now();
    let mut write = |told: Told, level: Level, says: &dyn Says| {
        let span = Span { trace_id, span_id: SpanId::random() };
        sink.write(&Line { told, at, level, probe: PROBE, span, pod, says })
    };
    for row in rows(out, about) {
        write(Told::Event, Level::Info, &row)?;
    }
    let line = VerdictLine { verdict, out, about };
    write(Told::Incident, line.level(), &line)?;
    sink.flush()?;
    drop(sink);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;
    use crate::path::device::Device;

    #[test]
    fn a_walk_is_printed_as_lines_and_what_they_come_to() {
        let host = Cli::parse_from(["r2c-agent", "doctor"]).host;
        let about = About {
            who: Who::node(),
            to: "192.0.2.1".to_owned(),
            address: IpAddr::from([192, 0, 2, 1]),
            device: Device::plain("eth0"),
            tcp: None,
        };
        let out =
            Outcome { reached: true, farthest: 1, first: 1500, passes: Some(1500), ..Outcome::default() };
        let verdict = judge(&out, &about);
        let text = |output| String::from_utf8(print(&host, output, &out, &about, &verdict, None).unwrap());
        let json = text(Output::Json).unwrap();
        let lines: Vec<serde_json::Value> =
            json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let (last, rows) = lines.split_last().unwrap();
        assert_eq!(last["finding"], "path_clear", "{json}");
        assert!(rows.iter().all(|row| row["trace_id"] == last["trace_id"] && row["finding"].is_null()));
        assert!(
            text(Output::Table).unwrap().contains("=> the path from this node to 192.0.2.1 takes 1500 bytes")
        );
    }

    /// A script goes by the code alone.
    #[test]
    fn the_code_of_a_walk_says_what_was_found() {
        let about = About {
            who: Who::node(),
            to: "t".to_owned(),
            address: IpAddr::from([192, 0, 2, 1]),
            device: Device::plain("eth0"),
            tcp: None,
        };
        let clear = || Outcome { reached: true, first: 1500, passes: Some(1500), ..Outcome::default() };
        let hole = || Outcome { dies: Some(1500), passes: Some(1499), ..clear() };
        let broken = |out| Outcome { halt: Some(Halt::Broken("why".to_owned())), ..out };
        for (what, out, fails, wanted) in [
            ("clear", clear(), true, None),
            ("clear, not asked", clear(), false, None),
            ("interrupted", Outcome { halt: Some(Halt::Asked), ..clear() }, true, None),
            ("a hole", hole(), true, Some(4)),
            ("a hole, not asked", hole(), false, None),
            ("nobody answers", Outcome::default(), true, Some(1)),
            ("nobody answers, not asked", Outcome::default(), false, None),
            ("broken", broken(clear()), false, Some(1)),
            ("broken at a hole", broken(hole()), true, Some(1)),
        ] {
            let ended = end_of(&out, &judge(&out, &about), fails).map_err(|failure| failure.code);
            assert_eq!(ended.err(), wanted, "{what}");
        }
        let message = |out: &Outcome| end_of(out, &judge(out, &about), true).unwrap_err().message;
        assert_eq!(message(&broken(clear())), "why");
        assert!(message(&Outcome::default()).starts_with("what fits is not known: t answers nothing"));
    }

    fn args(flags: &[&str]) -> (Host, Walk) {
        let all = [&["r2c-agent", "--host-proc", "/host/proc", "trace", "mtu"], flags].concat();
        let cli = Cli::parse_from(all);
        match cli.command {
            crate::cli::Command::Trace(args) => (cli.host, args.walk),
            other => panic!("{other:?}"),
        }
    }

    /// Names need a resolver; addresses are looked at like what it answers.
    #[tokio::test]
    async fn a_destination_is_one_host_of_the_family_that_is_asked_for() {
        for (flags, wanted) in [
            (&["--to", "192.0.2.1"][..], Ok("192.0.2.1")),
            (&["--to", "192.0.2.1", "-4"], Ok("192.0.2.1")),
            (&["--to", "192.0.2.1", "-6"], Err("192.0.2.1 has no IPv6 address")),
            (&["--to", "2001:db8::1"], Ok("2001:db8::1")),
            (&["--to", "2001:db8::1", "-6"], Ok("2001:db8::1")),
            (&["--to", "2001:db8::1", "-4"], Err("2001:db8::1 has no IPv4 address")),
            (&["--to", "::ffff:192.0.2.1"], Ok("192.0.2.1")),
            (&["--to", "224.0.0.1"], Err("224.0.0.1 is no one host's address")),
        ] {
            let (_, walk) = args(flags);
            let found = resolve(walk.to.as_ref().unwrap(), &walk).await.map(|address| address.to_string());
            let found = found.map_err(|failure| failure.message);
            assert_eq!(found.as_deref().map_err(String::as_str), wanted, "{flags:?}");
        }
    }

    #[test]
    fn a_namespace_is_a_path_a_process_or_a_name() {
        let (host, _) = args(&["--to", "192.0.2.1"]);
        for (name, wanted) in [
            ("/run/docker/netns/x", "/run/docker/netns/x"),
            ("./1", "./1"),
            ("17", "/host/proc/17/ns/net"),
            ("blue", "/run/netns/blue"),
            ("17a", "/run/netns/17a"),
        ] {
            assert_eq!(place(&host, name), Path::new(wanted), "{name}");
        }
    }
}
