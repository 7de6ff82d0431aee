//! What others may ask of the agent over HTTP: `/metrics`, `/healthz`, `/readyz`, and nothing else.
//!
//! The port can be reachable by every pod of the cluster, so each thing a client can hold has a bound: connections (see
//! [`places`]), the time and size of a request's head, the age of a connection, memory on both sides of a socket, and
//! scrapes (see [`scrape`]). It is served on a thread of its own: it answers while probes attach, and whatever they do.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, VARY};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{sleep, timeout};

use crate::health::{Guard, Health};
use crate::metrics::{Format, Metrics, negotiate};
use crate::shutdown::Drain;

mod places;
mod scrape;

use places::Places;
pub use places::{MAX_CONNECTIONS, Placed};
use scrape::{Refusal, Scrapes};

/// For a request's head to arrive whole, and for a kept connection to be used again.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Of a connection, however well used: a reader that never reads must not keep a place for ever.
pub const MAX_AGE: Duration = Duration::from_mins(1);

/// For what is under way to end once asked to.
pub const GRACE: Duration = Duration::from_secs(1);

/// Bytes of a request's head.
const MAX_HEAD: usize = 16 * 1024;

/// Header lines of a request.
const MAX_HEADERS: usize = 64;

/// Bytes of an answer that the kernel holds for a connection; it takes twice that for them. Left to itself, it would hold
/// megabytes for each reader that does not read.
const SEND_BUFFER: u32 = 64 * 1024;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// Before accepting again when the system has no file or memory for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Connections that may push out others before accepting rests for a moment: who connects as fast as it can takes a part
/// of a core, and waits with the others.
const BURST: u32 = 4;

/// The rest after [`BURST`]: the whole [`BACKLOG`] is accepted within half a second.
const BURST_PAUSE: Duration = Duration::from_millis(1);

/// What the answers of one listener are made from.
#[derive(Debug)]
pub struct State {
    health: Health,
    /// None where metrics are not served.
    scrapes: Option<Scrapes>,
    places: Places,
    evicted: Counter,
}

impl State {
    /// Answers from `health`, and from the metrics once they are [offered](Self::offer).
    #[must_use]
    pub fn new(health: Health) -> Self {
        let scrapes = Some(Scrapes::default());
        Self { health, scrapes, places: Places::default(), evicted: Counter::default() }
    }

    /// The same for another listener, which is not asked for metrics, with places of its own.
    #[must_use]
    pub fn health_only(&self) -> Self {
        let (health, evicted) = (self.health.clone(), self.evicted.clone());
        Self { health, scrapes: None, places: Places::default(), evicted }
    }

    /// Gives `metrics` out from now on, with its own among them.
    pub fn offer(&self, mut metrics: Metrics) {
        let help = "HTTP connections closed to make room for others: of all that were open the least wanted";
        metrics.registry().register("http_connections_evicted", help, self.evicted.clone());
        metrics.registry().register_collector(Box::new(self.health.clone()));
        if let Some(scrapes) = &self.scrapes {
            scrapes.offer(metrics);
        }
    }

    /// A place for a connection from `peer`: if there is none left, another has to leave.
    pub fn admit(&self, peer: IpAddr) -> Placed {
        let placed = self.places.take(peer);
        self.evicted.inc_by(u64::from(placed.crowded()));
        placed
    }

    async fn answer(&self, request: &Request<Incoming>, placed: &Placed) -> Response<Full<Bytes>> {
        placed.asks();
        let response = match (request.uri().path(), &self.scrapes) {
            ("/metrics", Some(_)) | ("/healthz" | "/readyz", _) if !is_read(request.method()) => {
                let mut response = line(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                response
            }
            ("/metrics", Some(scrapes)) => {
                let format = wanted(request);
                match scrapes.text(format, &self.places, &self.evicted).await {
                    // It has its answer when it has read it.
                    Ok(text) => return scraped(text.read_by(placed), format),
                    Err(refusal) => self.no_text(refusal),
                }
            }
            ("/healthz", _) => verdict(self.health.alive().await),
            ("/readyz", _) => verdict(self.health.ready()),
            (_, Some(_)) => {
                line(StatusCode::NOT_FOUND, "not found: there are /metrics, /healthz and /readyz")
            }
            (_, None) => line(StatusCode::NOT_FOUND, "not found: there are /healthz and /readyz"),
        };
        placed.answered();
        response
    }

    fn no_text(&self, refusal: Refusal) -> Response<Full<Bytes>> {
        match refusal {
            Refusal::Early => later(&self.health.ready().err().unwrap_or_else(|| "not ready".to_owned())),
            Refusal::Crowded => later("too many clients read a scrape"),
            Refusal::Failed => {
                tracing::error!("a collector failed, so a scrape was refused");
                line(StatusCode::INTERNAL_SERVER_ERROR, "a collector failed")
            }
        }
    }
}

/// A listener on `address`, for the runtime this is called on. Where the node has no IPv6 at all, `[::]` means all IPv4 addresses.
///
/// # Errors
/// The system's: the address is taken, is not one of this host's, or needs rights.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let bound = listen(address);
    if bound.as_ref().is_err_and(|fault| means_ipv4(address.ip(), fault)) {
        return listen((Ipv4Addr::UNSPECIFIED, address.port()).into());
    }
    bound
}

/// All addresses are asked for, and there is no IPv6.
fn means_ipv4(address: IpAddr, fault: &io::Error) -> bool {
    address == Ipv6Addr::UNSPECIFIED && fault.raw_os_error() == Some(nix::libc::EAFNOSUPPORT)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    // Every connection inherits it.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves on a thread of its own until asked to drain, each listener as its state says.
///
/// # Errors
/// The system has no thread or no file for it.
pub fn start(
    listeners: Vec<(TcpListener, Arc<State>)>,
    drain: Drain,
    guard: Guard,
) -> io::Result<thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // They are registered with the runtime they were made on; the thread's is another.
    let listeners: Vec<_> = listeners
        .into_iter()
        .map(|(listener, state)| Ok((listener.into_std()?, state)))
        .collect::<io::Result<_>>()?;
    thread::Builder::new().name("http".to_owned()).spawn(move || {
        let serving = async {
            let mut serving = JoinSet::new();
            for (listener, state) in listeners {
                let listener = TcpListener::from_std(listener)?;
                serving.spawn(serve(listener, state, drain.clone()));
            }
            guard.up();
            while let Some(ended) = serving.join_next().await {
                ended?;
            }
            io::Result::Ok(())
        };
        match runtime.block_on(serving) {
            Ok(()) if drain.asked() => guard.ended(),
            Ok(()) => guard.stopped("it ended by itself"),
            Err(error) => guard.stopped(error),
        }
    })
}

/// Connections in a row that pushed out others.
#[derive(Debug, Default)]
struct Burst(u32);

impl Burst {
    /// Whether there is to be a rest after this one.
    const fn is_over(&mut self, crowded: bool) -> bool {
        self.0 = if crowded { self.0 + 1 } else { 0 };
        let is_over = self.0 >= BURST;
        if is_over {
            self.0 = 0;
        }
        is_over
    }
}

/// Answers on `listener` until asked to drain; then ends within [`GRACE`], letting answers under way finish.
pub async fn serve(listener: TcpListener, state: Arc<State>, drain: Drain) {
    let mut asked = drain.clone();
    let mut connections = JoinSet::new();
    let (mut complained, mut burst) = (false, Burst::default());
    loop {
        let accepted = tokio::select! {
            biased;
            () = asked.wait() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                complained = false;
                let placed = state.admit(peer.ip().to_canonical());
                let rests = burst.is_over(placed.crowded());
                connections.spawn(attend(stream, placed, Arc::clone(&state), drain.clone()));
                // What the newcomer has sent already is looked at before the next one may push it out.
                if rests {
                    sleep(BURST_PAUSE).await;
                } else {
                    yield_now().await;
                }
            }
            Err(fault) if fault.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(fault) => {
                // Out of file descriptors: said once, and tried again at leisure instead of in a tight loop.
                if !std::mem::replace(&mut complained, true) {
                    tracing::warn!(error = %fault, "cannot accept HTTP connections");
                }
                let _ = timeout(ACCEPT_PAUSE, asked.wait()).await;
            }
        }
    }
    drop(listener);
    let _ = timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await;
}

/// A connection over TCP.
async fn attend(stream: TcpStream, placed: Placed, state: Arc<State>, drain: Drain) {
    if let Some(cut) = connection(stream, placed, state, drain).await {
        // Closed with a reset: the kernel would hold what was not sent for minutes, for a client that does not read.
        let _ = cut.set_zero_linger();
    }
}

/// One connection, from its first byte to its end: within [`MAX_AGE`] and [`GRACE`], whatever the client does. Its stream
/// comes back if it had to be cut off.
pub async fn connection<S>(stream: S, placed: Placed, state: Arc<State>, mut drain: Drain) -> Option<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let placed = &placed;
    let answer = service_fn(|request: Request<Incoming>| {
        let state = Arc::clone(&state);
        async move {
            let mut response = state.answer(&request, placed).await;
            // Nothing here takes a body. After one, hyper 1.12 reads the next request before it has sent this answer, and
            // where that one is broken it writes its 400 before what is left of this answer.
            if !request.body().is_end_stream() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        // Who has said all and closes that half (`nc -N`) still waits for the answer.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), answer);
    let cut = tokio::select! {
        biased;
        () = placed.evicted() => true,
        // An error is the client's doing; it is not worth a line that a client could repeat at will.
        _ = &mut connection => return None,
        () = drain.wait() => false,
        () = sleep(MAX_AGE) => false,
    };
    if !cut {
        std::pin::Pin::new(&mut connection).graceful_shutdown();
        if timeout(GRACE, &mut connection).await.is_ok() {
            return None;
        }
    }
    Some(connection.into_parts().io.into_inner())
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// The format a request asks for; several `Accept` headers are one list.
fn wanted(request: &Request<Incoming>) -> Format {
    let accepts: Vec<&str> =
        request.headers().get_all(ACCEPT).iter().filter_map(|a| a.to_str().ok()).collect();
    negotiate(Some(&accepts.join(",")))
}

/// A scrape's text.
fn scraped(text: Bytes, format: Format) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    response
}

fn verdict(state: Result<(), String>) -> Response<Full<Bytes>> {
    match state {
        Ok(()) => line(StatusCode::OK, "ok"),
        Err(why) => line(StatusCode::SERVICE_UNAVAILABLE, &why),
    }
}

/// No, but ask again.
fn later(why: &str) -> Response<Full<Bytes>> {
    let mut response = line(StatusCode::SERVICE_UNAVAILABLE, why);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// An answer of one line.
fn line(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{text}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests;
