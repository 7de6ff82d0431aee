//! The server over real sockets, with well and ill behaved clients. Time is tokio's own, advanced when all wait.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::health::Loss;
use crate::shutdown::{Shutdown, channel};

mod crowd;
mod listen;

/// A running server.
struct Server {
    address: SocketAddr,
    drops: Option<Guard>,
    state: Arc<State>,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

fn server() -> Server {
    server_with(|_| {})
}

fn server_with(register: impl FnOnce(&mut Metrics)) -> Server {
    let (shutdown, drain) = channel();
    let mut metrics = Metrics::default();
    register(&mut metrics);
    let health = Health::default();
    let drops = Some(health.part("drops", Loss::Fatal));
    let state = Arc::new(State::new(health));
    state.offer(metrics);
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(serve(listener, Arc::clone(&state), drain));
    Server { address, drops, state, shutdown, task }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends `request` and reads to the end of the connection.
    async fn exchange(&self, request: &[u8]) -> String {
        let mut stream = self.connect().await;
        // A server that has seen enough may close before it has read all.
        let _ = stream.write_all(request).await;
        read_all(&mut stream).await
    }

    async fn ask(&self, method: &str, path: &str, more: &str) -> String {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{more}Connection: close\r\n\r\n");
        self.exchange(request.as_bytes()).await
    }

    /// The server still answers as it should.
    async fn assert_well(&self) {
        let answer = self.ask("GET", "/healthz", "").await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
    }
}

/// Everything up to the end, which may be a reset.
async fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn both_formats_by_negotiation_with_their_content_types() {
    let server = server();
    let classic = server.ask("GET", "/metrics", "").await;
    assert!(classic.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{classic}");
    assert!(classic.contains("\nr2c_http_connections_evicted_total 0\n"));
    let accept = "Accept: text/plain;q=0.5\r\nAccept: application/openmetrics-text;version=1.0.0\r\n";
    let open = server.ask("GET", "/metrics?x=1", accept).await;
    assert!(
        open.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"),
        "{open}"
    );
    assert!(open.ends_with("# EOF\n"));
}

#[tokio::test]
async fn head_has_the_length_and_no_body() {
    let server = server();
    let (head, get) = (server.ask("HEAD", "/metrics", "").await, server.ask("GET", "/metrics", "").await);
    assert!(head.ends_with("\r\n\r\n"));
    let length = format!("content-length: {}\r\n", get.split_once("\r\n\r\n").unwrap().1.len());
    assert!(head.contains(&length) && get.contains(&length), "{head}");
}

#[tokio::test]
async fn readiness_and_liveness_say_why_not() {
    let mut server = server();
    let early = server.ask("GET", "/readyz", "").await;
    assert!(
        early.starts_with("HTTP/1.1 503 ") && early.ends_with("not ready: drops (starting)\n"),
        "{early}"
    );
    server.drops.as_ref().unwrap().up();
    assert!(server.ask("GET", "/readyz", "").await.starts_with("HTTP/1.1 200 "));
    server.assert_well().await;
    let series = "r2c_part_up{part=\"drops\"}";
    assert!(server.ask("GET", "/metrics", "").await.contains(&format!("\n{series} 1\n")));
    server.drops = None;
    let dead = server.ask("GET", "/healthz", "").await;
    assert!(dead.starts_with("HTTP/1.1 503 ") && dead.ends_with("stopped: drops\n"), "{dead}");
    assert!(server.ask("GET", "/metrics", "").await.contains(&format!("\n{series} 0\n")));
}

/// As `run` does it: the thread answers while this one is busy, from before there is anything to be scraped.
#[test]
fn it_answers_while_the_agent_starts_and_says_that_it_does() {
    let (shutdown, drain) = channel();
    let health = Health::default();
    let drops = health.part("drops", Loss::Fatal);
    let state = Arc::new(State::new(health.clone()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let listen = || {
        // A listener is registered with this one; the thread has its own.
        let _entered = runtime.enter();
        bind("127.0.0.1:0".parse().unwrap()).unwrap()
    };
    let (whole, few) = (listen(), listen());
    let [at, few_at] = [&whole, &few].map(|listener| listener.local_addr().unwrap());
    let listeners = vec![(whole, Arc::clone(&state)), (few, Arc::new(state.health_only()))];
    let guard = health.part("http", Loss::Fatal);
    let thread = start(listeners, drain, guard).unwrap();
    let ask = |address: SocketAddr, path: &str| {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    for at in [at, few_at] {
        let early = ask(at, "/readyz");
        assert!(
            early.starts_with("HTTP/1.1 503 ") && early.ends_with("not ready: drops (starting)\n"),
            "{early}"
        );
        assert!(ask(at, "/healthz").starts_with("HTTP/1.1 200 "), "who starts is not dead");
    }
    let early = ask(at, "/metrics");
    assert!(early.starts_with("HTTP/1.1 503 ") && early.contains("retry-after: 1\r\n"), "{early}");
    state.offer(Metrics::default());
    drops.up();
    for at in [at, few_at] {
        assert!(ask(at, "/readyz").starts_with("HTTP/1.1 200 "));
    }
    assert!(ask(at, "/metrics").contains("\nr2c_part_up{part=\"http\"} 1\n"));
    let elsewhere = ask(few_at, "/metrics");
    assert!(
        elsewhere.starts_with("HTTP/1.1 404 ") && elsewhere.ends_with("there are /healthz and /readyz\n")
    );
    shutdown.start();
    thread.join().unwrap();
    assert_eq!(health.ready(), Err("not ready: http (ended)".into()));
}

#[tokio::test]
async fn there_is_nothing_else() {
    let server = server();
    for path in ["/", "/metrics/", "/debug/pprof", "//metrics", "/../metrics", "/metrics%00"] {
        assert!(server.ask("GET", path, "").await.starts_with("HTTP/1.1 404 "), "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"] {
        let answer = server.ask(method, "/metrics", "").await;
        assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET, HEAD\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn garbage_and_huge_heads_are_refused() {
    let server = server();
    let bad: [&[u8]; 4] = [
        b"\0\x01\xff\xfe\r\n\r\n",
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc",
        b"GET / HTTP/9.9\r\n\r\n",
    ];
    for garbage in bad {
        let answer = server.exchange(garbage).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(10 * MAX_HEAD));
    let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(MAX_HEADERS + 1));
    let target = format!("GET /{} HTTP/1.1\r\n\r\n", "y".repeat(70_000));
    for huge in [long, many, target] {
        let answer = server.exchange(huge.as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    server.assert_well().await;
}

/// What follows a body may be broken, and the answer to that body's request unread.
#[tokio::test]
async fn a_request_with_a_body_is_the_last_of_its_connection() {
    let server = server();
    let (mut near, far) = tokio::io::duplex(64);
    let placed = server.state.admit(Ipv4Addr::LOCALHOST.into());
    let (_shutdown, drain) = channel();
    let task = tokio::spawn(connection(far, placed, Arc::clone(&server.state), drain));
    near.write_all(b"GET / HTTP/1.1\r\nContent-Length: 1\r\n\r\nx\x01\r\n\r\n").await.unwrap();
    for _ in 0..10 {
        yield_now().await;
    }
    let mut answer = String::new();
    near.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 404 ") && head.contains("connection: close"), "{answer}");
    assert_eq!(body, "not found: there are /metrics, /healthz and /readyz\n");
    assert!(task.await.is_ok(), "hyper mixes the answers to the two up");
}

#[tokio::test]
async fn a_client_that_closes_its_half_is_answered() {
    let server = server();
    let mut stream = server.connect().await;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    assert!(read_all(&mut stream).await.ends_with("\r\n\r\nok\n"));
    // Half a request will never be a whole one.
    let mut stream = server.connect().await;
    stream.write_all(b"GET /healthz HTT").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(read_all(&mut stream).await, "");
}

#[tokio::test(start_paused = true)]
async fn a_head_that_never_ends_is_cut_off() {
    let server = server();
    let mut silent = server.connect().await;
    let started = Instant::now();
    assert_eq!(read_all(&mut silent).await, "");
    assert!(started.elapsed() < HEAD_TIMEOUT * 2, "{:?}", started.elapsed());

    let mut drip = server.connect().await;
    let started = Instant::now();
    drip.write_all(b"GET /metrics HTTP/1.1\r\nX: ").await.unwrap();
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    let mut byte = [0];
    loop {
        tokio::select! {
            _ = every_second.tick() => if drip.write_all(b"y").await.is_err() { break },
            _ = drip.read(&mut byte) => break,
        }
    }
    assert!(started.elapsed() < HEAD_TIMEOUT * 2, "{:?}", started.elapsed());
    server.assert_well().await;
}

#[tokio::test(start_paused = true)]
async fn a_kept_connection_ends_when_unused_and_when_old() {
    const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let server = server();
    let mut stream = server.connect().await;
    let started = Instant::now();
    stream.write_all(REQUEST).await.unwrap();
    assert!(read_all(&mut stream).await.ends_with("ok\n"));
    assert!(started.elapsed() < HEAD_TIMEOUT * 2, "{:?}", started.elapsed());

    let mut busy = server.connect().await;
    let started = Instant::now();
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    let mut answer = [0; 1024];
    loop {
        every_second.tick().await;
        if busy.write_all(REQUEST).await.is_err() || !matches!(busy.read(&mut answer).await, Ok(1..)) {
            break;
        }
        assert!(started.elapsed() < MAX_AGE * 2);
    }
    assert!(started.elapsed() >= MAX_AGE, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn draining_closes_idle_connections_and_the_port() {
    let Server { address, shutdown, task, .. } = server();
    let mut idle = TcpStream::connect(address).await.unwrap();
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(b"GET /metrics HTTP/1.1\r\nX: ").await.unwrap();
    let started = Instant::now();
    shutdown.start();
    task.await.unwrap();
    assert!(started.elapsed() <= GRACE, "{:?}", started.elapsed());
    assert_eq!((read_all(&mut idle).await, read_all(&mut half).await), (String::new(), String::new()));
    assert!(TcpStream::connect(address).await.is_err());
}

/// Does something in the middle of each scrape.
struct During<F>(F);

impl<F> fmt::Debug for During<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("During")
    }
}

impl<F: Fn() -> fmt::Result + Send + Sync + 'static> Collector for During<F> {
    fn encode(&self, _: DescriptorEncoder<'_>) -> fmt::Result {
        self.0()
    }
}

#[tokio::test]
async fn an_answer_under_way_is_finished_before_the_end() {
    // More than any socket's buffers hold: the server is in the middle of it until the client reads.
    let big = |metrics: &mut Metrics| {
        metrics.registry().register("big", "x".repeat(1 << 25), Counter::<u64>::default());
    };
    let Server { address, shutdown, task, .. } = server_with(big);
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text\r\n\r\n";
    stream.write_all(request).await.unwrap();
    stream.readable().await.unwrap();
    shutdown.start();
    assert!(read_all(&mut stream).await.ends_with("# EOF\n"));
    task.await.unwrap();
}

#[tokio::test]
async fn a_collector_that_fails_or_panics_costs_one_answer() {
    let calls = AtomicUsize::new(0);
    let fails = During(move || match calls.fetch_add(1, Ordering::Relaxed) {
        0 => Err(fmt::Error),
        1 => panic!("a collector's bug"),
        _ => Ok(()),
    });
    let server = server_with(|metrics| metrics.registry().register_collector(Box::new(fails)));
    assert!(server.ask("GET", "/metrics", "").await.starts_with("HTTP/1.1 500 "));
    assert!(server.ask("GET", "/metrics", "").await.starts_with("HTTP/1.1 500 "));
    assert!(server.ask("GET", "/metrics", "").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn scrapes_are_made_one_at_a_time() {
    let most = Arc::new(AtomicUsize::new(0));
    let (seen, now) = (Arc::clone(&most), AtomicUsize::new(0));
    let watch = During(move || {
        seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        // Long enough for a second one to be seen, if there can be one.
        for _ in 0..10_000 {
            std::thread::yield_now();
        }
        now.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    });
    let server = Arc::new(server_with(|metrics| metrics.registry().register_collector(Box::new(watch))));
    let mut clients = JoinSet::new();
    for _ in 0..16 {
        let server = Arc::clone(&server);
        clients.spawn(async move { server.ask("GET", "/metrics", "").await });
    }
    let answers = clients.join_all().await;
    assert!(answers.iter().all(|answer| answer.starts_with("HTTP/1.1 200 ")));
    assert_eq!(most.load(Ordering::SeqCst), 1);
}
