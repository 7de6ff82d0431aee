//! `trace mtu --walk`: beside the trace, walks to where segments vanish, one after the other.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use crate::cli::to::PROBE;
use crate::cli::{Host, Output, Trace};
use crate::enrich::{self, Roots, netns};
use crate::failure::Failure;
use crate::incident::{Span, SpanId};
use crate::log::note;
use crate::node;
use crate::path::Outcome;
use crate::path::judge::{About, judge};
use crate::path::row::VerdictLine;
use crate::path::walk::Limits;
use crate::path::who::Who;
use crate::pod::Pod;
use crate::rights::Act;
use crate::shutdown::Drain;
use crate::sink::json::JsonSink;
use crate::sink::stream::Stream;
use crate::sink::table::TableSink;
use crate::sink::{Field, Line, Says, Sink, Told, Value, Written};

use super::errand::{self, Errand, refused};

mod queue;

use queue::{Became, Order, Queue};

/// The most time that one walk may take, whatever was asked for.
const MOST_TIME: Duration = Duration::from_secs(30);
/// How much longer a walk is waited for that does not end: it waits for a file, and sends nothing.
const GRACE: Duration = Duration::from_secs(5);
/// How long a walk that is under way at the end may take to say what it knows. It looks at its end every 50 ms.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Verdicts whose fix is a walk: nothing that the kernel has says which hop it is, or what passes there.
const ASKING: [&str; 2] = ["suspect", "black_hole"];

/// The walks of one trace.
pub(super) struct Walks {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// There may be one more to walk to.
    more: Notify,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Each change is whole before anything that could panic.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Walks {
    /// Walks, until `drain`, to what a sink behind [`Walks::behind`] tells of; what they come to goes to `stdout`.
    pub(super) fn start(host: &Host, args: &Trace, stdout: Stream, drain: Drain) -> Self {
        let sink: Box<dyn Sink> = match args.output {
            Output::Json => Box::new(JsonSink::new(stdout, node::identity(host))),
            Output::Table | Output::Wide => {
                Box::new(TableSink::like_stdout(stdout, args.output == Output::Wide))
            }
        };
        let limits = Limits { packets: args.walk.max_packets, time: args.walk.timeout.min(MOST_TIME) };
        let shared = Arc::<Shared>::default();
        let walker = Walker {
            shared: Arc::clone(&shared),
            roots: node::pod_roots(host),
            limits,
            sink,
            says_lacks: true,
        };
        Self { shared, task: tokio::spawn(walker.run(drain)) }
    }

    /// `inner`, with an eye on what is written.
    pub(super) fn behind(&self, inner: Box<dyn Sink>) -> Box<dyn Sink> {
        Box::new(Watched { inner, shared: Arc::clone(&self.shared) })
    }

    /// Waits for the last line, which its drain has asked for; what became of all of them, in a line.
    pub(super) async fn end(self) -> String {
        // One that does not end has nothing more to say.
        let _ = tokio::time::timeout(2 * LAST_WORDS, self.task).await;
        let mut queue = self.shared.queue();
        queue.close();
        queue.text()
    }
}

/// A sink that sees which lines ask for a walk.
struct Watched {
    inner: Box<dyn Sink>,
    shared: Arc<Shared>,
}

impl Sink for Watched {
    fn write(&mut self, line: &Line<'_>) -> io::Result<Written> {
        let written = self.inner.write(line)?;
        if written.is_wanted()
            && let Some(order) = order(line)
        {
            self.shared.queue().offer(order, Instant::now());
            self.shared.more.notify_one();
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The walk that a line asks for: that of an incident which goes on, by its documented fields.
fn order(line: &Line<'_>) -> Option<Order> {
    if line.told != Told::Incident || line.probe != PROBE {
        return None;
    }
    let mut fields: Vec<Field<'_>> = Vec::new();
    line.says.fields(&mut fields);
    let value = |name: &str| fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value);
    let is = |name: &str, text: &str| matches!(value(name), Some(Value::Text(known)) if known == text);
    if !is("state", "ongoing") || !ASKING.iter().any(|finding| is("finding", finding)) {
        return None;
    }
    let Some(Value::Ip(to)) = value("destination_ip") else { return None };
    Some(Order {
        trace_id: line.span.trace_id,
        to: to.to_canonical(),
        port: match value("destination_port") {
            Some(Value::Port(port)) => Some(*port),
            _ => None,
        },
        netns: match value("netns") {
            Some(Value::Number(inode)) => u32::try_from(*inode).ok(),
            _ => None,
        },
        pod: match value("source_pod") {
            Some(Value::Pod(pod)) => pod.cloned(),
            _ => None,
        },
    })
    .filter(|order| errand::is_one_host(order.to))
}

/// Makes one walk after the other.
struct Walker {
    shared: Arc<Shared>,
    roots: Roots,
    limits: Limits,
    sink: Box<dyn Sink>,
    /// Which right is missing has not been said.
    says_lacks: bool,
}

impl Walker {
    async fn run(mut self, mut drain: Drain) {
        while !drain.asked() {
            let next = self.shared.queue().next(Instant::now());
            let Some(order) = next else {
                tokio::select! {
                    () = drain.wait() => {}
                    () = self.shared.more.notified() => {}
                }
                continue;
            };
            let (became, is_stuck) = match self.walk(&order, &mut drain).await {
                Some(Ok((out, about))) => {
                    self.tell(&order, &out, &about);
                    (Became::Walked, false)
                }
                Some(Err(Failure { message, .. })) => {
                    note(&format!("no walk: {message}"));
                    (Became::Failed, false)
                }
                None if drain.asked() => (Became::Late, true),
                None => {
                    note(&format!("no walk to {}: it does not end, and no other is begun", order.to));
                    (Became::Failed, true)
                }
            };
            self.shared.queue().became(order.trace_id, became);
            if is_stuck {
                break;
            }
        }
        self.shared.queue().close();
    }

    /// One walk; `None` if its thread does not end.
    async fn walk(&mut self, order: &Order, drain: &mut Drain) -> Option<Result<(Outcome, About), Failure>> {
        let stop = Arc::<AtomicBool>::default();
        let (tell, mut told) = oneshot::channel();
        let (roots, limits, says_lacks) = (self.roots.clone(), self.limits, self.says_lacks);
        self.says_lacks = false;
        let (errand, halt) = (order.clone(), Arc::clone(&stop));
        // A thread of its own, which ends after it: the namespace is the thread's.
        let thread = thread::Builder::new().name("walk".to_owned()).spawn(move || {
            // Nobody listens any more if the agent ends first.
            let _ = tell.send(walk(&roots, errand, limits, halt, says_lacks));
        });
        if let Err(error) = thread {
            return Some(Err(error.into()));
        }
        let walked = tokio::select! {
            biased;
            walked = &mut told => Some(walked),
            () = drain.wait() => None,
            () = tokio::time::sleep(MOST_TIME + GRACE) => None,
        };
        let walked = if let Some(walked) = walked {
            walked
        } else {
            stop.store(true, Ordering::Relaxed);
            tokio::time::timeout(LAST_WORDS, told).await.ok()?
        };
        let broken = Failure::runtime("the walk broke off");
        Some(walked.unwrap_or(Err(broken)))
    }

    fn tell(&mut self, order: &Order, out: &Outcome, about: &About) {
        let verdict = judge(out, about);
        let says = WalkLine(VerdictLine { verdict: &verdict, out, about });
        let span = Span { trace_id: order.trace_id, span_id: SpanId::random() };
        let level = says.0.level();
        let pod = order.pod.as_ref();
        let line =
            Line { told: Told::Incident, at: SystemTime::now(), level, probe: PROBE, span, pod, says: &says };
        // The stream counts what it has no room for, and ends the trace if it is broken.
        let _ = self.sink.write(&line).and_then(|_| self.sink.flush());
    }
}

/// Finds the namespace and walks.
fn walk(
    roots: &Roots,
    order: Order,
    limits: Limits,
    stop: Arc<AtomicBool>,
    says_lacks: bool,
) -> Result<(Outcome, About), Failure> {
    let Order { to: address, port, netns, pod, .. } = order;
    let (who, netns) = departure(roots, netns, pod.as_ref())?;
    let named = port.map_or(address.to_string(), |port| format!("{address} port {port}"));
    let errand = Errand { address, port, who, named, limits, stop };
    let mut lacks = |text: &str| {
        if says_lacks {
            note(text);
        }
    };
    errand.run(netns, &mut lacks, &mut |_| ())
}

/// Who walks, and the namespace to enter for that, if it is another than this process's.
fn departure(
    roots: &Roots,
    inode: Option<u32>,
    pod: Option<&Pod>,
) -> Result<(Who, Option<OwnedFd>), Failure> {
    let failed = |message: String| Failure::runtime(message);
    let who = pod.map(|pod| format!("{}/{}", pod.namespace, pod.name));
    let Some(inode) = inode else {
        let who = who.unwrap_or("the sender".to_owned());
        return Err(failed(format!("the network namespace of {who} is not known")));
    };
    let unseen = |who: &str| {
        let what = format!("the network namespace of {who} cannot be seen");
        move |error| refused(&what, Act::SeeNetns, error)
    };
    if let (Some(who), Some(pod)) = (&who, pod) {
        let Some(held) = enrich::hold_netns(roots, &pod.uid).map_err(unseen(who))? else {
            return Err(failed(format!("no process of {who} is to be seen any more")));
        };
        // Else it is of a container that has a namespace of its own.
        if netns::inode_of(&held) == Some(inode) {
            let is_nodes = netns::of_host(&roots.proc) == Some(inode);
            let who = if is_nodes { Who::of_node(who.clone()) } else { Who::pod(who.clone()) };
            return Ok((who, Some(held)));
        }
    }
    let here = || who.clone().unwrap_or("this node".to_owned());
    if netns::own() == Some(inode) {
        return Ok((Who::of_node(here()), None));
    }
    let found = netns::hold(&roots.proc, inode).map_err(unseen(&here()))?;
    let Some((pid, held)) = found else {
        let of = who.map_or(String::new(), |who| format!(" of {who}"));
        return Err(failed(format!("no process is left in network namespace net:[{inode}]{of}")));
    };
    let who = match who {
        Some(pod) => Who::within(pod, pid),
        None if netns::of_host(&roots.proc) == Some(inode) => Who::node(),
        None => Who::netns(&pid.to_string()),
    };
    Ok((who, Some(held)))
}

/// What a walk adds up to, as a further line of the incident that asked for it.
struct WalkLine<'a>(VerdictLine<'a>);

impl Says for WalkLine<'_> {
    fn message(&self, text: &mut String) {
        let About { who, to, .. } = self.0.about;
        text.extend(["walk from ", &who.name, " to ", to, ": "]);
        self.0.message(text);
    }

    fn fields<'a>(&'a self, fields: &mut Vec<Field<'a>>) {
        self.0.fields(fields);
        fields.push(("walk_from", Value::Text((&*self.0.about.who.name).into())));
    }

    fn cells<'a>(&'a self, _: &mut Vec<crate::sink::Cell<'a>>) {}
}

#[cfg(test)]
mod tests;
