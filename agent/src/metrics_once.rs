//! `r2c-agent metrics`: attach, wait, print one scrape. For a look without a Prometheus, and for CI.

use crate::answer;
use crate::audit::gauges::Gauges;
use crate::audit::watch;
use crate::cli::{Format, Host, Metrics as Args};
use crate::failure::Failure;
use crate::metrics::{self, Metrics};
use crate::node::{self, Node};
use crate::probe::report::{Report, Reports};
use crate::probes;
use crate::shutdown::{self, Signals};

/// Prints one scrape of every probe the kernel allows.
///
/// # Errors
/// Unsupported: none is.
pub async fn print(host: &Host, args: &Args) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    host.warn_of_missing();
    let (_stop, drain) = shutdown::channel();
    let interrupted = || Failure::runtime("interrupted");
    let mut node = tokio::select! {
        node = Node::look(host, drain) => node,
        () = signals.first() => return Err(interrupted()),
    };
    let mut metrics = Metrics::default();
    metrics.registry().register_collector(Box::new(crate::version::Build));
    let (mut reports, mut refused, mut attached) = (Vec::new(), Vec::new(), Vec::new());
    for entry in probes::ALL {
        match node.start(entry, &args.limits) {
            Ok(started) => {
                reports.push(Report::of(&started));
                metrics.registry().register_collector(started.collector);
                attached.push((started.attached, started.carry));
            }
            Err(error) => {
                reports.push(Report::down(entry.name));
                refused.push(error);
            }
        }
    }
    if attached.is_empty() && !refused.is_empty() {
        return Err(node::refused(&refused));
    }
    node.settle();
    metrics.registry().register_collector(Box::new(Reports(reports)));
    metrics.registry().register_collector(Box::new(node::PodsReport(node.pods.clone())));
    let gauges = Gauges::default();
    metrics.registry().register_collector(Box::new(gauges.clone()));
    let (proc, pods) = (host.host_proc.clone(), node.pods.clone());
    let audit = tokio::task::spawn_blocking(move || watch::once(&proc, &pods, &gauges));
    let audit = tokio::select! {
        audit = audit => audit?,
        () = signals.first() => return Err(interrupted()),
    };
    if let Err(error) = audit {
        tracing::warn!("no audit of MTUs: {error}");
    }
    let is_over = tokio::select! {
        () = tokio::time::sleep(args.wait) => false,
        () = signals.first() => true,
    };
    let format = match args.format {
        Format::Classic => metrics::Format::Classic,
        Format::Openmetrics => metrics::Format::OpenMetrics,
    };
    let text = metrics.encode(format)?;
    answer::write(text, async {
        if !is_over {
            signals.first().await;
        }
    })
    .await
}
