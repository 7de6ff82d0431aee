//! `r2c-agent trace`: one probe's events as they happen, then what it all came to.

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::audit::standing;
use crate::cli::to::PROBE;
use crate::cli::{Host, Output, Trace};
use crate::digits::counted;
use crate::failure::Failure;
use crate::log::note;
use crate::node::{self, Node};
use crate::probe::attach::{Climb, Lost, may_read, uncounted};
use crate::probe::filter::PacketFilter;
use crate::probe::pipeline::Ended;
use crate::probe::start::{Entry, Settings, Started};
use crate::probes;
use crate::ready::ReadyFile;
use crate::shutdown::{self, Signals};
use crate::sink::filter::{Filter, Limited};
use crate::sink::json::JsonSink;
use crate::sink::stream::{Drained, Stream};
use crate::sink::table::TableSink;
use crate::sink::{Level, Line, Sink, Written};

mod errand;
mod listeners;
mod names;
mod summary;
mod to;
mod walks;

use listeners::{Full, Listeners};
use names::Dark;
use summary::Sums;
use walks::Walks;

/// How long the last lines may take to leave if none of them does, and in all: a reader that stalls must not hold up the end.
const PATIENCE: Duration = Duration::from_secs(1);
const MOST_PATIENCE: Duration = Duration::from_secs(5);

/// The filters that look at where a packet is.
const BY_PLACE: &[&str] = &["interface", "namespace", "pod"];

/// Runs until Ctrl-C, the duration's end, the last wanted event, or until nobody reads stdout any more.
///
/// # Errors
/// Usage: a filter names something that does not exist. Unsupported: the kernel refuses the probe.
pub async fn trace(host: &Host, args: Trace) -> Result<(), Failure> {
    if let Some(to) = &args.walk.to {
        return to::walk(host, &args, to).await;
    }
    let entry = probes::ALL
        .iter()
        .find(|entry| entry.name == args.probe)
        .ok_or_else(|| Failure::usage(format!("no probe {}", args.probe)))?;
    let mut signals = Signals::listen()?;
    let (stop, drain) = shutdown::channel();
    let stop = Arc::new(stop);
    let stdout = {
        let stop = Arc::clone(&stop);
        // Nobody reads any more, or the disk is full: to go on would help nobody.
        Stream::stdout(move |_| stop.start())?
    };
    // Before anything is attached: whoever waits for it would wait for nothing.
    let ready = args.ready_file.as_deref().map(ReadyFile::prepare).transpose()?;
    let mut node = tokio::select! {
        node = Node::look(host, drain.clone()) => node,
        () = signals.first() => return Err(interrupted()),
    };
    let dark = tokio::select! {
        dark = names::check(entry, &node, host, &args) => dark?,
        () = signals.first() => return Err(interrupted()),
    };
    host.warn_of_missing();
    let filter = filter(&args);
    check_packets(node.kernel.btf().is_some(), || may_read(&node.kernel), &filter)?;
    let settings = Settings {
        filter: PacketFilter::new(&filter.ip, &filter.port, &filter.interface),
        by_pod: filter.is_about_pods(),
        ..node::settings(&args.limits)
    };
    let started = node.start_by(entry, &settings).map_err(|error| node::refused(&[error]))?;
    check_rungs(|| may_read(&node.kernel), &filter, &started.climbs, args.limits.rung.is_some())?;
    let uncounted = uncounted(&started.climbs, node.kernel.counts_misses());
    let lost = Lost::of(&started.climbs, entry.source, &node.kernel);
    node.settle();
    let listeners = Listeners::watch(&host.host_proc, entry, &filter).await;
    note(&format!("tracing {} by {}{}", entry.name, rungs(&started.climbs), until(args.duration)));
    ready.map_or(Ok(()), ReadyFile::publish)?;
    let began = Instant::now();
    let told = Arc::new(AtomicU64::new(0));
    let mut sink = sink(host, entry, &args, &told, stdout.clone())?;
    let walks = args.walk.walk.then(|| Walks::start(host, &args, stdout.clone(), drain.clone()));
    if let Some(walks) = &walks {
        sink = walks.behind(sink);
    }
    let end = Arc::clone(&stop);
    let dark: Arc<OnceLock<Dark>> = dark.map_or_else(Arc::default, |dark| Arc::new(dark.into()));
    let waits = waits(host, &node, &args, &dark);
    // Why the pods that were waited for have not come.
    let vain: Arc<OnceLock<Failure>> = Arc::default();
    let told_vain = Arc::clone(&vain);
    let duration = args.duration;
    tokio::spawn(async move {
        let failure = ended_by_user(&mut signals, waits, duration).await;
        // It is set once, here.
        let _ = failure.map(|failure| told_vain.set(failure));
        stop.start();
    });
    if entry.name == PROBE {
        let (proc, pods) = (host.host_proc.clone(), node.pods.clone());
        standing::tell(proc, pods, &filter, sink.as_mut(), drain.clone()).await?;
    }
    let Started { carry, account, attached, summary, limited, filters_late, .. } = started;
    let carried = carry(sink, filter.clone(), drain).await;
    let took = began.elapsed();
    // The last event ends it as well.
    end.start();
    let walked = match walks {
        Some(walks) => Some(walks.end().await),
        None => None,
    };
    // Nothing else is left to do for this thread.
    let out = stdout.drain_while_read(PATIENCE, MOST_PATIENCE);
    let mut sums = Sums::of(&account(), attached.missed(), &limited(), &filter, filters_late);
    sums.do_not_hold(uncounted, lost);
    // A reader that has seen enough (`| head`) wanted no more.
    if out.fault.as_ref().is_none_or(|fault| fault.kind() != io::ErrorKind::BrokenPipe) {
        sums.take_back(out.taken, out.lost);
    }
    if matches!(carried, Ended::Last) {
        sums.end_at_last();
    }
    let full = match listeners {
        Some(listeners) => listeners.end(&node.pods, &filter).await,
        None => Full::default(),
    };
    let (told, packets) = (told.load(Relaxed), full.packets());
    let dark = dark.get().cloned().unwrap_or_default().until_now(&names::pods(&args), &node.pods);
    let hint = sums.hint(args.all, &asked(&args), entry.aside).map(|hint| dark.blind().unwrap_or(hint));
    let hint = hint.filter(|_| !says_more(told, packets, vain.get()));
    let (lines, full_lines) = (sums.lines(took, &summary(), entry.aside), full.lines());
    for line in lines.iter().chain(&full_lines).chain(&hint).chain(&walked).chain(&stalled(&out)) {
        note(line);
    }
    end_of(carried, out, &args, &sums, findings(told, packets, &sums), vain.get(), &dark.why())
}

/// Waits for the pods asked for, where `dark` does not say yet which of them cannot be known, and then sets that; whether all can.
fn waits(
    host: &Host,
    node: &Node,
    args: &Trace,
    dark: &Arc<OnceLock<Dark>>,
) -> Option<impl Future<Output = Result<bool, Failure>> + use<>> {
    let patience = args.wait.filter(|_| dark.get().is_none())?;
    let (host, pods, asked) = (host.clone(), node.pods.clone(), names::pods(args));
    let (fails, dark) = (args.fail_on_findings, Arc::clone(dark));
    Some(async move {
        asked.come(&host, &pods, patience).await?;
        let told = Dark::told(&asked, &pods, fails)?;
        let is_known = told.why().is_empty();
        // It is set once, here.
        let _ = dark.set(told);
        Ok(is_known)
    })
}

/// Whether what is said of lines that were told, of packets that found a queue full, or of pods that never came says more
/// than a hint.
fn says_more(told: u64, packets: u64, vain: Option<&Failure>) -> bool {
    told > 0 || packets > 0 || vain.is_some()
}

/// What is harmful, whether it was told or only counted, packets that found a queue full included.
fn findings(told: u64, packets: u64, sums: &Sums) -> u64 {
    told + packets + sums.harmful_counted()
}

/// What a script is told of a trace that was carried to its end: there were so many `findings`, `vain` says why the pods that
/// were waited for have not come, and `dark` why the packets of pods asked for were not known.
fn end_of(
    carried: Ended,
    out: Drained,
    args: &Trace,
    sums: &Sums,
    findings: u64,
    vain: Option<&Failure>,
    dark: &[String],
) -> Result<(), Failure> {
    if let Ended::Failed(error) = carried {
        return Err(error.into());
    }
    if let Some(error) = out.fault.filter(|error| error.kind() != io::ErrorKind::BrokenPipe) {
        // How many lines were lost the summary has said.
        return Err(Failure::runtime(format!("stdout: {error}")));
    }
    if args.fail_on_findings && findings > 0 {
        return Err(Failure::findings("findings were told (--fail-on-findings)"));
    }
    if let Some(vain) = vain {
        return Err(vain.clone());
    }
    if args.fail_on_findings && !dark.is_empty() {
        return Err(Failure::unsupported(format!("nothing was found, but {}", dark.join("; "))));
    }
    match (sums.not_looked_at(), sums.lost_hooks()) {
        (1.., _) if args.fail_on_findings => {
            let events = counted(sums.not_looked_at(), "event");
            Err(Failure::runtime(format!("not examined: {events} (--fail-on-findings)")))
        }
        (0, Some(lost)) if args.fail_on_findings => {
            Err(Failure::unsupported(format!("nothing was found, but {lost} (--fail-on-findings)")))
        }
        _ => Ok(()),
    }
}

fn interrupted() -> Failure {
    Failure::runtime("interrupted before anything was attached")
}

/// Where what a filter looks at cannot be read, it would hide all there is.
fn check_packets(has_types: bool, reads: impl FnOnce() -> bool, filter: &Filter) -> Result<(), Failure> {
    let by_packet = !(filter.ip.is_empty() && filter.port.is_empty());
    let by_place = !filter.interface.is_empty() || filter.is_about_pods();
    if by_place && !has_types {
        return Err(Failure::unsupported(
            "-i, -n and --pod would hide everything: the kernel's types (BTF) are missing, so neither the device nor the \
             pod of a packet is known here; leave them out",
        )
        .of(BY_PLACE));
    }
    if !by_packet {
        return Ok(());
    }
    let why = if !has_types {
        "the kernel's types (BTF) are missing"
    } else if !reads() {
        "the kernel is locked down (confidentiality)"
    } else {
        return Ok(());
    };
    Err(Failure::unsupported(format!(
        "--ip and --port would hide everything: {why}, so no address and no port can be read here; leave them out"
    ))
    .of(&["ip", "port"]))
}

/// Where no program may read memory, only arguments that have types tell the device and the pod.
fn check_rungs(
    reads: impl FnOnce() -> bool,
    filter: &Filter,
    climbs: &[Climb],
    is_asked: bool,
) -> Result<(), Failure> {
    let by_place = !filter.interface.is_empty() || filter.is_about_pods();
    let untyped = climbs.iter().filter_map(|climb| Some((climb.hook.name, climb.holds?)));
    let untyped: Vec<String> = untyped
        .filter(|(_, rung)| !rung.is_typed())
        .map(|(hook, rung)| format!("{hook} ({})", rung.name))
        .collect();
    if !by_place || untyped.is_empty() || reads() {
        return Ok(());
    }
    Err(Failure::unsupported(format!(
        "-i, -n and --pod would hide everything of {}: the kernel is locked down (confidentiality), so there neither the \
         device nor the pod of a packet is known; leave them out{}",
        untyped.join(", "),
        if is_asked { ", or leave out --rung" } else { "" }
    ))
    .of(BY_PLACE))
}

/// What a reader that stalls has cost. One that has seen enough (`| head`) has lost nothing that it wanted.
fn stalled(out: &Drained) -> Option<String> {
    let is_lost = out.lost > 0 && out.fault.is_none();
    is_lost.then(|| format!("{} lost: the reader of stdout stalls", counted(out.lost, "line")))
}

/// Ctrl-C, SIGTERM, SIGHUP, or the time is up, which begins once the pods are there that `waits` waits for, or are waited for no
/// more; why these never came.
async fn ended_by_user(
    signals: &mut Signals,
    waits: Option<impl Future<Output = Result<bool, Failure>>>,
    duration: Duration,
) -> Option<Failure> {
    if let Some(waits) = waits {
        tokio::select! {
            came = waits => match came {
                Ok(true) => note(&format!("all pods asked for are here{}", until(duration))),
                Ok(false) => note(&format!("the wait is over: tracing{}", until(duration))),
                Err(failure) => return Some(failure),
            },
            () = signals.first() => {
                return Some(Failure::runtime("interrupted while waiting for pods"));
            }
        }
    }
    if duration.is_zero() {
        signals.first().await;
    } else {
        // An error is that the time was up.
        let _ = tokio::time::timeout(duration, signals.first()).await;
    }
    None
}

/// What the user wants to see.
fn filter(args: &Trace) -> Filter {
    Filter {
        level: if args.all { Level::Info } else { Level::Warn },
        namespace: args.namespace.clone(),
        pod: args.pod.clone(),
        ip: args.ip.iter().map(|asked| asked.network).collect(),
        port: args.port.clone(),
        interface: args.interface.clone(),
        reason: args.reason.clone(),
    }
}

/// Writes what it gets; `told` counts what of that is harmful.
fn sink(
    host: &Host,
    entry: &Entry,
    args: &Trace,
    told: &Arc<AtomicU64>,
    stdout: Stream,
) -> io::Result<Box<dyn Sink>> {
    let inner: Box<dyn Sink> = match args.output {
        Output::Json => Box::new(JsonSink::new(stdout, node::identity(host))),
        Output::Table | Output::Wide => {
            let mut table = TableSink::like_stdout(stdout, args.output == Output::Wide);
            // Before the first event, so that an empty screen says what is being waited for.
            table.heading(entry.name, entry.columns.iter().copied())?;
            Box::new(table)
        }
    };
    let noted = Noted { inner, told: Arc::clone(told) };
    Ok(match args.max_events {
        Some(max) => Box::new(Limited::new(noted, max)),
        None => Box::new(noted),
    })
}

/// Counts the harmful lines that are written.
struct Noted {
    inner: Box<dyn Sink>,
    told: Arc<AtomicU64>,
}

impl Sink for Noted {
    fn write(&mut self, line: &Line<'_>) -> io::Result<Written> {
        let written = self.inner.write(line)?;
        if line.level >= Level::Warn && written.is_wanted() {
            self.told.fetch_add(1, Relaxed);
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn rungs(climbs: &[Climb]) -> String {
    let holds = climbs.iter().filter_map(|climb| Some((climb.hook.name, climb.holds?.name)));
    holds.map(|(hook, rung)| format!("{hook} ({rung})")).collect::<Vec<_>>().join(", ")
}

fn until(duration: Duration) -> String {
    if duration.is_zero() {
        return "; Ctrl-C ends it".to_owned();
    }
    format!(" for {}; Ctrl-C ends it sooner", humantime::format_duration(duration))
}

/// The filters as they were given.
fn asked(args: &Trace) -> String {
    let list = |values: &mut dyn Iterator<Item = String>| values.collect::<Vec<_>>().join(",");
    let filters = [
        ("-n", list(&mut args.namespace.iter().cloned())),
        ("--pod", list(&mut args.pod.iter().map(ToString::to_string))),
        ("--ip", list(&mut args.ip.iter().map(|asked| asked.network.to_string()))),
        ("--port", list(&mut args.port.iter().map(ToString::to_string))),
        ("-i", list(&mut args.interface.iter().cloned())),
        ("--reason", list(&mut args.reason.iter().cloned())),
    ];
    let given = filters.iter().filter(|(_, values)| !values.is_empty());
    given.map(|(flag, values)| format!("{flag} {values}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
