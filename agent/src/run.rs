//! `r2c-agent run`: the node's agent. Metrics over HTTP, one JSON line per event on stdout, diagnostics on stderr.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::audit::gauges::Gauges;
use crate::audit::watch::Watch;
use crate::cli::{Events, Host, Run};
use crate::digits::counted;
use crate::failure::Failure;
use crate::health::{Death, Guard, Health, Loss};
use crate::http::{self, State};
use crate::metrics::Metrics;
use crate::node::{self, Node};
use crate::probe::pipeline::Ended;
use crate::probe::report::{Report, Reports};
use crate::probe::start::{Entry, Running, Started};
use crate::probes;
use crate::shutdown::{self, Signals};
use crate::sink::filter::Filter;
use crate::sink::json::JsonSink;
use crate::sink::stream::Stream;
use crate::sink::{Level, Nowhere, Sink};

/// Time the paths have to carry what is left after SIGTERM. With what the last lines and the last diagnostics may take it is
/// below 2 s in all: Kubernetes gives 30 s, an operator less.
const DRAIN: Duration = Duration::from_millis(1400);

/// Time the last lines have to leave: a reader that stalls must not hold up the end.
const LAST_LINES: Duration = Duration::from_millis(200);

/// Runs until SIGTERM or Ctrl-C, or until a part has stopped without which it does not do what it is for.
///
/// # Errors
/// Unsupported: a probe named by the user, or all of them, were refused. Runtime: the address is taken, or such a part
/// has stopped.
pub async fn run(host: &Host, args: Run) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let (stop, drain) = shutdown::channel();
    // Every part is known before the first one starts: readiness waits for all of them.
    let health = Health::default();
    let mut probes: HashMap<&str, Guard> =
        wanted(&args).map(|entry| (entry.name, health.part(entry.name, Loss::Fatal))).collect();
    let [pods, audit] = ["pods", "audit"].map(|part| health.part(part, Loss::Tolerated));
    let stdout = stdout(health.part("stdout", Loss::Fatal))?;

    let state = Arc::new(State::new(health.clone()));
    let listeners = listen(&args, &state)?;
    // What is refused is one line.
    host.warn_of_missing();
    let server = http::start(listeners, drain.clone(), health.part("http", Loss::Fatal))?;

    let mut node = tokio::select! {
        node = Node::look(host, drain.clone()) => node,
        // A file of the host's that does not answer must not hold up the end.
        () = signals.first() => {
            info!("asked to end while starting");
            return Ok(());
        }
    };
    if let Some(follower) = node.follower.take() {
        tokio::spawn(pods.over(follower, drain.clone()));
    }
    let (started, reports) = start_probes(&node, &args)?;
    info!("all attached");
    node.settle();

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
        let path = carry(sink(host, args.events, &stdout), wanted_of(args.events), drain.clone());
        if let Some(guard) = probes.remove(name) {
            paths.spawn(guarded(path, guard));
        }
    }
    // What is left of them the kernel refused.
    probes.into_values().for_each(Guard::absent);
    state.offer(metrics);
    let watch = Watch {
        proc: host.host_proc.clone(),
        pods: node.pods.clone(),
        gauges,
        sink: sink(host, args.events, &stdout),
        guard: audit,
    };
    tokio::spawn(watch.follow(drain));
    tokio::spawn(health.clone().beat());

    supervise(&health, signals.first()).await;
    info!("draining");
    stop.start();
    let drained = async { while paths.join_next().await.is_some() {} };
    let hangs = tokio::time::timeout(DRAIN, drained).await.is_err();
    // Its thread ends within a second of being asked to, which was before.
    let _ = server.join();
    // On this thread, which has nothing else left to do: the system may refuse another one.
    let out = stdout.drain(LAST_LINES);
    if let Some(error) = out.fault {
        return Err(Failure::runtime(format!("stdout: {error}; {} lost", counted(out.lost, "line"))));
    }
    if out.lost > 0 {
        warn!("{} lost: the reader of stdout stalls, or has stalled", counted(out.lost, "line"));
    }
    verdict(&health.deaths())?;
    if hangs {
        return Err(Failure::runtime(format!(
            "a path did not end in {DRAIN:?}: its last events may be missing"
        )));
    }
    info!("stopped");
    Ok(())
}

/// Where lines go. The guard lives and dies with the thread that writes them.
fn stdout(guard: Guard) -> std::io::Result<Stream> {
    guard.up();
    Stream::stdout(move |error| {
        let _with_the_thread = &guard;
        error!(
            "stdout refuses lines: {error}; r2c_log_lines_lost_total counts them, and the next ones are tried"
        );
    })
}

/// Says when all parts are up, and which have stopped, until `asked` to end or until one has without which there is no
/// use in going on.
async fn supervise(health: &Health, asked: impl Future<Output = ()>) {
    let mut asked = std::pin::pin!(asked);
    let (mut known, mut ready) = (Vec::new(), false);
    loop {
        tokio::select! {
            biased;
            death = health.another_death(&known) => {
                error!("part {} has stopped: {}", death.part, death.why);
                if death.loss == Loss::Fatal {
                    return;
                }
                known.push(death);
            }
            () = &mut asked => return,
            () = health.until_ready(), if !ready => {
                ready = true;
                info!("ready");
            }
        }
    }
}

/// A path under its guard.
async fn guarded(path: Running, guard: Guard) {
    guard.up();
    match path.await {
        Ended::Drained | Ended::Last => guard.ended(),
        Ended::Failed(error) => guard.stopped(format_args!("no more events: {error}")),
    }
}

/// How a run ends in which these parts have stopped: what it was for did not end well.
fn verdict(deaths: &[Death]) -> Result<(), Failure> {
    match deaths.iter().find(|death| death.loss == Loss::Fatal) {
        Some(Death { part, why, .. }) => Err(anyhow::anyhow!("part {part} has stopped: {why}").into()),
        None => Ok(()),
    }
}

/// The listeners asked for, bound before anything attaches: a second agent on an address must fail first.
fn listen(args: &Run, state: &Arc<State>) -> Result<Vec<(TcpListener, Arc<State>)>, Failure> {
    let bind = |flag: &str, address: SocketAddr| {
        let listener = http::bind(address).map_err(|error| Failure::listen(flag, address, &error))?;
        Ok::<_, Failure>((listener.local_addr()?, listener))
    };
    if args.health_listen == Some(args.listen) && args.listen.port() != 0 {
        return Err(Failure::usage(format!(
            "--listen and --health-listen are both {}: leave out --health-listen, or give it a port of its own",
            args.listen
        )));
    }
    let (address, listener) = bind("--listen or R2C_LISTEN", args.listen)?;
    info!("r2c-agent {} serves {address}", crate::version::SHORT);
    let mut listeners = vec![(listener, Arc::clone(state))];
    if let Some(address) = args.health_listen {
        let (address, listener) = bind("--health-listen or R2C_HEALTH_LISTEN", address)?;
        info!("/healthz and /readyz are served on {address}, too");
        listeners.push((listener, Arc::new(state.health_only())));
    }
    Ok(listeners)
}

/// The probes asked for.
fn wanted(args: &Run) -> impl Iterator<Item = &'static Entry> {
    let asked = |entry: &&Entry| args.probes.is_empty() || args.probes.iter().any(|name| name == entry.name);
    probes::ALL.iter().filter(asked)
}

/// Brings them up. One that the user named must come up; of the default set one that cannot is a warning.
fn start_probes(node: &Node, args: &Run) -> Result<(Vec<Started>, Vec<Report>), Failure> {
    let named = !args.probes.is_empty();
    let (mut started, mut reports, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for entry in wanted(args) {
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

/// Which events of the probes are lines. The audit's findings are, and that they are gone: the second is no harm, but who was told
/// of the first must hear it.
fn wanted_of(events: Events) -> Filter {
    let level = if events == Events::All { Level::Info } else { Level::Warn };
    Filter { level, ..Filter::default() }
}

fn sink(host: &Host, events: Events, stdout: &Stream) -> Box<dyn Sink> {
    match events {
        Events::None => Box::new(Nowhere),
        Events::All | Events::Harmful => Box::new(JsonSink::new(stdout.clone(), node::identity(host))),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn path(ends: impl Future<Output = Ended> + Send + 'static) -> Running {
        Box::pin(ends)
    }

    /// Runs until the first path's end is known: what is said at the end of the run, and of `/healthz` before it.
    async fn ends(path: Running) -> (Option<Failure>, Result<(), String>) {
        let health = Health::default();
        let guard = health.part("drops", Loss::Fatal);
        let path = tokio::spawn(guarded(path, guard));
        supervise(&health, std::future::pending()).await;
        let _ = path.await;
        (verdict(&health.deaths()).err(), health.alive().await)
    }

    #[tokio::test]
    async fn a_path_that_fails_or_panics_ends_the_run_with_1() {
        let failed = async { Ended::Failed(io::Error::other("the ring is gone")) };
        let (failure, alive) = ends(path(failed)).await;
        let failure = failure.unwrap();
        assert_eq!((failure.code, alive), (1, Err("not alive, stopped: drops".to_owned())));
        assert_eq!(failure.message, "part drops has stopped: no more events: the ring is gone");

        let (failure, alive) = ends(path(async { panic!("a fault of ours") })).await;
        assert_eq!((failure.unwrap().code, alive.is_err()), (1, true));
    }

    #[tokio::test]
    async fn a_path_that_was_asked_to_end_is_no_failure() {
        let health = Health::default();
        guarded(path(async { Ended::Drained }), health.part("drops", Loss::Fatal)).await;
        assert!(verdict(&health.deaths()).is_ok());
        // Its last lines could not be written: it was asked to, and failed at it.
        let failed = async { Ended::Failed(io::Error::other("no room")) };
        guarded(path(failed), health.part("mtu", Loss::Fatal)).await;
        assert_eq!(verdict(&health.deaths()).unwrap_err().code, 1);
    }

    #[tokio::test]
    async fn a_run_goes_on_without_its_follower_of_pods() {
        let health = Health::default();
        let (stop, mut drain) = shutdown::channel();
        health.part("pods", Loss::Tolerated).stopped("no thread");
        let asking = health.clone();
        let ask = async move {
            assert!(asking.alive().await.is_err());
            stop.start();
        };
        tokio::join!(supervise(&health, drain.wait()), ask);
        assert!(verdict(&health.deaths()).is_ok());
    }
}
