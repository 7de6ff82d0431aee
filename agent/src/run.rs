//! `r2c-agent run`: the node's agent. Metrics over HTTP, one JSON line per event on stdout, diagnostics on stderr.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::audit::gauges::Gauges;
use crate::audit::watch::Watch;
use crate::cli::{Events, Host, Run};
use crate::failure::Failure;
use crate::http::{self, Health, State};
use crate::metrics::Metrics;
use crate::node::{self, Node};
use crate::probe::pipeline::Ended;
use crate::probe::report::{Report, Reports};
use crate::probe::start::{Entry, Started};
use crate::probes;
use crate::shutdown::{self, Signals};
use crate::sink::filter::{Filter, Filtered};
use crate::sink::json::JsonSink;
use crate::sink::stream::Stream;
use crate::sink::{Level, Nowhere, Sink};

/// Time the paths have to carry what is left after SIGTERM; Kubernetes gives 30 s, an operator less.
const DRAIN: Duration = Duration::from_secs(2);

/// Time the last lines have to leave: a reader that stalls must not hold up the end.
const LAST_LINES: Duration = Duration::from_millis(200);

/// Runs until SIGTERM or Ctrl-C.
///
/// # Errors
/// Unsupported: a probe named by the user, or all of them, were refused. Runtime: the address is taken.
pub async fn run(host: &Host, args: Run) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let (stop, drain) = shutdown::channel();
    let stdout = Stream::stdout(|error| {
        error!(
            "stdout refuses lines: {error}; r2c_log_lines_lost_total counts them, and the next ones are tried"
        );
    })?;
    // Bound first: a second agent on the address must fail before it attaches anything.
    let listener =
        http::bind(args.listen).await.map_err(|error| Failure::listen("--listen", args.listen, &error))?;
    info!("r2c-agent {} serves {}", crate::version::SHORT, args.listen);
    let mut node = Node::look(host, drain.clone()).await;
    let (started, reports) = start_probes(&node, &args)?;
    info!("all attached");
    node.settle();

    let health = Health::default();
    let mut metrics = Metrics::default();
    metrics.registry().register_collector(Box::new(crate::version::Build));
    metrics.registry().register_collector(Box::new(crate::log::LostLines(stdout.clone())));
    metrics.registry().register_collector(Box::new(Reports(reports)));
    metrics.registry().register_collector(Box::new(node::PodsReport(node.pods.clone())));
    let gauges = Gauges::default();
    metrics.registry().register_collector(Box::new(gauges.clone()));

    let mut paths = JoinSet::new();
    for Started { name, collector, carry, .. } in started {
        metrics.registry().register_collector(collector);
        let path = carry(sink(host, args.events, &stdout), drain.clone());
        paths.spawn(async move { (name, path.await) });
        health.settled(name);
    }
    let state = Arc::new(State::new(metrics, health.clone()));
    let audit = Watch {
        proc: host.host_proc.clone(),
        pods: node.pods.clone(),
        gauges,
        sink: audit_sink(host, args.events, &stdout),
    };
    tokio::spawn(audit.follow(drain.clone()));
    let server = tokio::spawn(http::serve(listener, state, drain));
    info!("ready");

    tokio::select! {
        () = signals.first() => {}
        // A path ends by itself only when its stream or ring has failed.
        Some(ended) = paths.join_next() => {
            report_end(ended, &health);
        }
    }
    info!("draining");
    stop.start();
    let drained = async {
        while let Some(ended) = paths.join_next().await {
            report_end(ended, &health);
        }
    };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        warn!("a path did not end in {DRAIN:?}; its last events may be missing");
    }
    let _ = server.await;
    let out = tokio::task::spawn_blocking(move || stdout.drain(LAST_LINES)).await?;
    if let Some(error) = out.fault {
        return Err(Failure { code: 1, message: format!("stdout: {error}; {} lines lost", out.lost) });
    }
    if out.lost > 0 {
        warn!("{} lines lost: the reader of stdout stalls, or has stalled", out.lost);
    }
    info!("stopped");
    Ok(())
}

/// Every probe asked for. One that the user named must come up; of the default set one that cannot is a warning.
fn start_probes(node: &Node, args: &Run) -> Result<(Vec<Started>, Vec<Report>), Failure> {
    let named = !args.probes.is_empty();
    let wanted = |entry: &&Entry| !named || args.probes.iter().any(|name| name == entry.name);
    let (mut started, mut reports, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for entry in probes::ALL.iter().filter(wanted) {
        match node.start(entry, &args.limits) {
            Ok(probe) => {
                reports.push(Report::of(&probe));
                started.push(probe);
            }
            Err(error) if named => return Err(node::refused(&[error])),
            Err(error) => {
                refused.push(error);
                reports.push(Report::down(entry.name));
            }
        }
    }
    if started.is_empty() && !refused.is_empty() {
        return Err(node::refused(&refused));
    }
    for refused in refused {
        warn!("{}", node::refused(&[refused]).message);
    }
    Ok((started, reports))
}

fn sink(host: &Host, events: Events, stdout: &Stream) -> Box<dyn Sink> {
    let json = || JsonSink::new(stdout.clone(), node::identity(host));
    match events {
        Events::None => Box::new(Nowhere),
        Events::All => Box::new(json()),
        Events::Harmful => {
            Box::new(Filtered::new(json(), Filter { level: Level::Warn, ..Filter::default() }))
        }
    }
}

/// Findings, and that they are gone: the second is no harm, but who was told of the first must hear it.
fn audit_sink(host: &Host, events: Events, stdout: &Stream) -> Box<dyn Sink> {
    match events {
        Events::None => Box::new(Nowhere),
        Events::All | Events::Harmful => Box::new(JsonSink::new(stdout.clone(), node::identity(host))),
    }
}

fn report_end(ended: Result<(&'static str, Ended), tokio::task::JoinError>, health: &Health) {
    match ended {
        Ok((_, Ended::Drained | Ended::Last)) => {}
        Ok((probe, Ended::Failed(error))) => {
            health.stopped(probe);
            error!(probe, "no more events: {error}");
        }
        Err(error) => error!("a path died: {error}"),
    }
}
