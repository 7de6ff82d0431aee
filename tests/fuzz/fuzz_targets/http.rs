//! A client that sends any bytes at any pace is answered or hung up on, within time and memory, and harms no other.
#![no_main]

use std::net::Ipv4Addr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use agent::health::{Health, Loss};
use agent::http::{GRACE, MAX_AGE, State, connection};
use agent::metrics::Metrics;
use agent::shutdown;
use fuzz::memory::Counted;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex, split};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, advance, timeout};

#[global_allocator]
static MEMORY: Counted = Counted::new();

/// Bytes that either side may have under way, as in a socket's buffers.
const SOCKET: usize = 4096;

/// Bytes in use at most for one connection, those of its socket included.
const MAX_MEMORY: usize = 160 << 10;

/// The shortest request there is.
const SHORTEST: usize = "GET / HTTP/1.0\n\n".len();

static STATE: LazyLock<Arc<State>> = LazyLock::new(|| {
    let health = Health::default();
    // For ever about to start: `/readyz` has something to say.
    std::mem::forget(health.part("drops", Loss::Fatal));
    let state = State::new(health);
    state.offer(Metrics::default());
    Arc::new(state)
});

/// Every body that there can be. Nothing changes the metrics meanwhile.
static BODIES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let asked = [
        "GET /metrics HTTP/1.0\r\n\r\n",
        "GET /metrics HTTP/1.0\r\nAccept: application/openmetrics-text\r\n\r\n",
        "GET /healthz HTTP/1.0\r\n\r\n",
        "GET /readyz HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "PUT /metrics HTTP/1.0\r\n\r\n",
    ];
    let bodies: Vec<String> = asked.iter().map(|request| body_of(request)).collect();
    assert!(bodies[0].contains("\nr2c_http_connections_evicted_total 0\n"), "{}", bodies[0]);
    assert!(bodies[1].ends_with("# EOF\n"), "{}", bodies[1]);
    assert_eq!(bodies[2], "ok\n");
    bodies
});

/// How a client goes about it.
struct Client {
    /// Bytes it sends at a time.
    piece: usize,
    /// It waits a second after each.
    slow: bool,
    end: End,
}

/// What a client does once it has sent everything.
#[derive(PartialEq, Eq)]
enum End {
    /// Says so, and reads.
    Closes,
    /// Keeps the connection, and reads.
    Stays,
    /// Goes away, and reads nothing from the start.
    Leaves,
    /// Reads on while the agent is told to end.
    Outlives,
}

impl Client {
    fn from_byte(byte: u8) -> Self {
        let end = match byte & 3 {
            0 => End::Closes,
            1 => End::Stays,
            2 => End::Leaves,
            _ => End::Outlives,
        };
        let piece = [usize::MAX, 1, 7, 100][usize::from(byte >> 2 & 3)];
        Self { piece, slow: byte & 16 != 0, end }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((how, request)) = data.split_first() else { return };
    let client = Client::from_byte(*how);
    let bodies = &*BODIES;
    let runtime = runtime();
    // Room for all that may come back, so that the client's memory is not taken for the agent's.
    let answers = Vec::with_capacity((request.len() / SHORTEST + 2) * 1024);
    let ((answers, took), height) =
        MEMORY.height_of(|| runtime.block_on(converse(&client, request, answers)));
    assert!(took <= MAX_AGE + GRACE + Duration::from_secs(1), "a connection of {took:?}");
    assert!(height <= MAX_MEMORY, "{height} bytes in use for one connection");
    let count = check(&answers, bodies);
    assert!(count <= request.len() / SHORTEST + 1, "{count} answers to {} bytes", request.len());
    assert_eq!(body_of("GET /metrics HTTP/1.0\r\n\r\n"), bodies[0], "the next client's metrics");
});

/// Time stands still but for waiting, which takes none.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime")
}

/// One connection from end to end: what came back, and how long the agent held it.
async fn converse(client: &Client, request: &[u8], answers: Vec<u8>) -> (Vec<u8>, Duration) {
    let (shutdown, drain) = shutdown::channel();
    let (near, far) = duplex(SOCKET);
    let started = Instant::now();
    let serving = async {
        let placed = STATE.admit(Ipv4Addr::LOCALHOST.into());
        connection(far, placed, Arc::clone(&STATE), drain).await;
        started.elapsed()
    };
    let asking = async {
        if client.end == End::Leaves {
            leave(near, client, request).await;
            answers
        } else {
            stay(near, client, request, answers, &shutdown).await
        }
    };
    let (took, answers) = tokio::join!(serving, asking);
    (answers, took)
}

async fn leave(mut near: DuplexStream, client: &Client, request: &[u8]) {
    // Answers fill the socket, and from then on the agent waits for a reader.
    let _ = timeout(MAX_AGE / 2, send(&mut near, client, request)).await;
}

async fn stay(
    near: DuplexStream,
    client: &Client,
    request: &[u8],
    mut answers: Vec<u8>,
    shutdown: &shutdown::Shutdown,
) -> Vec<u8> {
    let (mut read, mut write) = split(near);
    let sending = async {
        send(&mut write, client, request).await;
        match client.end {
            End::Closes => drop(write.shutdown().await),
            End::Outlives => shutdown.start(),
            End::Stays | End::Leaves => {}
        }
    };
    let reading = async {
        let _ = read.read_to_end(&mut answers).await;
    };
    tokio::join!(sending, reading);
    answers
}

/// Sends all of it, unless the agent hangs up before.
async fn send(to: &mut (impl tokio::io::AsyncWrite + Unpin), client: &Client, request: &[u8]) {
    for piece in request.chunks(client.piece) {
        if to.write_all(piece).await.is_err() {
            return;
        }
        if client.slow {
            advance(Duration::from_secs(1)).await;
        }
    }
}

/// The body of the answer to a sound request.
fn body_of(request: &str) -> String {
    let client = Client { piece: usize::MAX, slow: false, end: End::Closes };
    let (answer, _) = runtime().block_on(converse(&client, request.as_bytes(), Vec::new()));
    let answer = String::from_utf8(answer).expect("an answer is text");
    let (_, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    body.to_owned()
}

/// How many answers these are. Each has a status that the agent gives and is followed by all of a known body, by
/// none of it (the answer to a HEAD), or by the connection's end.
fn check(answers: &[u8], bodies: &[String]) -> usize {
    const STATUSES: [&str; 7] = ["200", "400", "404", "405", "414", "431", "503"];
    let mut rest = str::from_utf8(answers).expect("an answer is text");
    let mut count = 0;
    while !rest.is_empty() {
        count += 1;
        let Some((head, after)) = rest.split_once("\r\n\r\n") else { break };
        let status = head.strip_prefix("HTTP/1.1 ").or_else(|| head.strip_prefix("HTTP/1.0 "));
        let status = status.and_then(|status| status.get(..3)).unwrap_or_default();
        assert!(STATUSES.contains(&status), "{head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.and_then(|length| length.parse().ok()).expect("an answer has a length");
        let known = bodies.iter().find(|body| body.len() == length && after.starts_with(body.as_str()));
        rest = match known {
            Some(body) => &after[body.len()..],
            None if length == 0 || after.starts_with("HTTP/1.") => after,
            // Cut off by the end of its connection.
            None => {
                assert!(bodies.iter().any(|body| body.len() == length && body.starts_with(after)), "{after}");
                ""
            }
        };
    }
    count
}
