//! What others may ask of the agent over HTTP: `/metrics`, `/healthz`, `/readyz`, and nothing else.
//!
//! The port can be reachable by every pod of the cluster, so each thing a client can hold has a bound: connections,
//! the time and size of a request's head, the age of a connection, and scrapes, of which one runs at a time.

use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue, VARY};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::metrics::{Format, Metrics, negotiate};
use crate::shutdown::Drain;

mod health;

pub use health::Health;

/// Where to listen unless told otherwise: this host only. A `DaemonSet` asks for `[::]:9436`.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9436);

/// Connections at a time; Prometheus and kubelet need a handful.
pub const MAX_CONNECTIONS: usize = 64;

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

/// Before accepting again when the system has no file or memory for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// What a client over [`MAX_CONNECTIONS`] is told.
const REFUSAL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 21\r\nContent-Type: text/plain\r\n\
    Connection: close\r\n\r\ntoo many connections\n";

/// What the answers are made from.
#[derive(Debug)]
pub struct State {
    metrics: Metrics,
    health: Health,
    scraping: Mutex<()>,
    refused: Counter,
}

impl State {
    /// Answers from `metrics`, to which it adds its own, and `health`.
    #[must_use]
    pub fn new(mut metrics: Metrics, health: Health) -> Self {
        let refused = Counter::default();
        let help = "HTTP connections refused because too many were open";
        metrics.registry().register("http_connections_refused", help, refused.clone());
        Self { metrics, health, scraping: Mutex::new(()), refused }
    }

    /// One scrape. They are made one after the other: a storm of them must not take more than one core.
    async fn scrape(&self, format: Format) -> Response<Full<Bytes>> {
        let _alone = self.scraping.lock().await;
        let Ok(text) = self.metrics.encode(format) else {
            tracing::error!("a collector failed, so a scrape was refused");
            return line(StatusCode::INTERNAL_SERVER_ERROR, "a collector failed");
        };
        let mut response = Response::new(Full::from(text));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
        response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
        response
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if !["/metrics", "/healthz", "/readyz"].contains(&path) {
            return line(StatusCode::NOT_FOUND, "not found: there are /metrics, /healthz and /readyz");
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = line(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match path {
            "/metrics" => self.scrape(wanted(request)).await,
            "/healthz" => verdict(self.health.live()),
            _ => verdict(self.health.ready()),
        }
    }
}

/// A listener on `address`. Where the node has no IPv6 at all, `[::]` means all IPv4 addresses.
///
/// # Errors
/// The system's: the address is taken, is not one of this host's, or needs rights.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    let no_ipv6 = |fault: &io::Error| fault.raw_os_error() == Some(nix::libc::EAFNOSUPPORT);
    if address.ip() == Ipv6Addr::UNSPECIFIED && bound.as_ref().is_err_and(no_ipv6) {
        return TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await;
    }
    bound
}

/// Answers on `listener` until asked to drain; then ends within [`GRACE`], letting answers under way finish.
pub async fn serve(listener: TcpListener, state: Arc<State>, drain: Drain) {
    let mut asked = drain.clone();
    let mut connections = JoinSet::new();
    let mut complained = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = asked.wait() => break,
            // Ended connections go first, so that the count below is of those alive.
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) if connections.len() >= MAX_CONNECTIONS => refuse(stream, &state.refused),
            Ok((stream, _)) => {
                connections.spawn(connection(stream, Arc::clone(&state), drain.clone()));
                complained = false;
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

/// Tells a client that it is one too many, if it can be told without waiting for it.
fn refuse(stream: TcpStream, refused: &Counter) {
    refused.inc();
    // Past tokio, which would not try before its first look at the new socket; it stays non-blocking.
    let Ok(mut stream) = stream.into_std() else { return };
    // What it has sent already is read away: closing with bytes unread would reset the answer too.
    let _ = stream.read(&mut [0; 4096]);
    let _ = stream.write(REFUSAL);
}

/// One connection, from its first byte to its end: within [`MAX_AGE`] and [`GRACE`], whatever the client does.
pub async fn connection<S>(stream: S, state: Arc<State>, mut drain: Drain)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let answer = service_fn(|request: Request<Incoming>| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(state.answer(&request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        // Who has said all and closes that half (`nc -N`) still waits for the answer.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), answer);
    let mut connection = pin!(connection);
    tokio::select! {
        // An error is the client's doing; it is not worth a line that a client could repeat at will.
        _ = connection.as_mut() => return,
        () = drain.wait() => {}
        () = sleep(MAX_AGE) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(GRACE, connection).await;
}

/// The format a request asks for; several `Accept` headers are one list.
fn wanted(request: &Request<Incoming>) -> Format {
    let accepts: Vec<&str> =
        request.headers().get_all(ACCEPT).iter().filter_map(|a| a.to_str().ok()).collect();
    negotiate(Some(&accepts.join(",")))
}

fn verdict(state: Result<(), String>) -> Response<Full<Bytes>> {
    match state {
        Ok(()) => line(StatusCode::OK, "ok"),
        Err(why) => line(StatusCode::SERVICE_UNAVAILABLE, &why),
    }
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
