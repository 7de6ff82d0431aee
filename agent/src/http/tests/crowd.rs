//! More clients than there are places, none of which does what a client should; and one that does.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::AtomicU64;

use super::*;

/// How the many behave.
#[derive(Clone, Copy, Debug)]
enum Rude {
    /// Sends nothing.
    Silent,
    /// Sends half a head.
    Half,
    /// Sends a head a byte at a time.
    Drips,
    /// Sends a head now and then, and keeps the connection.
    Keeps,
    /// Asks for much, and reads nothing.
    Reads,
}

/// Connects from its own address or from everybody's, and again as soon as it is hung up on; counts how often.
async fn rude(how: Rude, address: SocketAddr, from: Ipv4Addr, count: Arc<AtomicU64>) {
    const SCRAPE: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    loop {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let Ok(mut stream) = socket.connect(address).await else { continue };
        count.fetch_add(1, Ordering::Relaxed);
        let mut byte = [0];
        match how {
            Rude::Silent => drop(stream.read(&mut byte).await),
            Rude::Half => {
                let _ = stream.write_all(b"GET /metr").await;
                let _ = stream.read(&mut byte).await;
            }
            Rude::Drips => {
                for byte in SCRAPE {
                    sleep(Duration::from_millis(500)).await;
                    if stream.write_all(&[*byte]).await.is_err() {
                        break;
                    }
                }
            }
            Rude::Keeps => {
                while stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.is_ok() {
                    sleep(Duration::from_secs(4)).await;
                }
            }
            Rude::Reads => {
                let _ = stream.write_all(SCRAPE).await;
                // Written to until it fails: only so does it see that it has been hung up on without reading.
                loop {
                    sleep(Duration::from_millis(100)).await;
                    if stream.write_all(b"x").await.is_err() {
                        break;
                    }
                }
            }
        }
    }
}

/// As much as no socket's buffers hold.
fn big(metrics: &mut Metrics) {
    metrics.registry().register("big", "x".repeat(1 << 20), Counter::<u64>::default());
}

async fn a_prober_beside(how: Rude, addresses: u32) {
    let server = server_with(big);
    server.drops.as_ref().unwrap().up();
    let count = Arc::new(AtomicU64::new(0));
    let mut crowd = JoinSet::new();
    for number in 0..100 {
        let from = Ipv4Addr::from(0x7f00_0100 + number % addresses);
        crowd.spawn(rude(how, server.address, from, Arc::clone(&count)));
    }
    // Until all places are taken, and then some.
    while count.load(Ordering::Relaxed) < 100 {
        yield_now().await;
    }
    for probe in 0..50 {
        for path in ["/healthz", "/readyz"] {
            let started = std::time::Instant::now();
            let answer = server.ask("GET", path, "").await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{how:?} from {addresses}, {probe}: {answer:?}");
            assert!(
                started.elapsed() < Duration::from_secs(1),
                "{how:?} from {addresses}: {:?}",
                started.elapsed()
            );
        }
    }
    let text = server.ask("GET", "/metrics", "").await;
    assert!(text.starts_with("HTTP/1.1 200 ") && text.len() > 1 << 20, "{how:?} from {addresses}: a scrape");
    assert!(server.state.evicted.get() >= 36, "{how:?} from {addresses}: nobody had to leave");
    assert!(server.state.places.count() <= MAX_CONNECTIONS);
}

#[tokio::test]
async fn a_prober_is_answered_beside_a_hundred_that_send_nothing() {
    a_prober_beside(Rude::Silent, 1).await;
    a_prober_beside(Rude::Silent, 100).await;
}

#[tokio::test]
async fn a_prober_is_answered_beside_a_hundred_half_open() {
    a_prober_beside(Rude::Half, 1).await;
    a_prober_beside(Rude::Half, 100).await;
}

#[tokio::test]
async fn a_prober_is_answered_beside_a_hundred_slow_senders() {
    a_prober_beside(Rude::Drips, 1).await;
    a_prober_beside(Rude::Drips, 100).await;
}

#[tokio::test]
async fn a_prober_is_answered_beside_a_hundred_that_ask_now_and_then() {
    a_prober_beside(Rude::Keeps, 1).await;
    a_prober_beside(Rude::Keeps, 100).await;
}

#[tokio::test]
async fn a_prober_is_answered_beside_a_hundred_that_do_not_read() {
    a_prober_beside(Rude::Reads, 1).await;
    a_prober_beside(Rude::Reads, 100).await;
}

#[tokio::test]
async fn one_too_many_costs_the_one_that_waits_longest() {
    let server = server();
    let mut held = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        held.push(server.connect().await);
    }
    server.assert_well().await;
    assert_eq!(server.state.evicted.get(), 1);
    assert_eq!(read_all(&mut held[0]).await, "");
    let nothing = held[1].try_read(&mut [0]).unwrap_err();
    assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock, "the others are let alone");
}

/// Set in the process that is measured: no other test is in it.
const ALONE: &str = "R2C_TEST_ALONE";

/// 64 readers of a body of 1.5 MB, each of another scrape, none of which reads: 96 MB, if each had its own.
#[test]
fn slow_readers_hold_a_few_texts() {
    if std::env::var_os(ALONE).is_none() {
        let name = concat!(module_path!(), "::slow_readers_hold_a_few_texts");
        let name = name.split_once("::").unwrap().1;
        let mut alone = Command::new(std::env::current_exe().unwrap());
        let output = alone.args(["--exact", name, "--nocapture"]).env(ALONE, "1").output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(
        async {
            let name = "x".repeat(512 * 1024);
            let server =
                server_with(|metrics| metrics.registry().register(name, "", Counter::<u64>::default()));
            let before = kibibytes("VmRSS:");
            let mut readers = Vec::new();
            for number in 0..64 {
                let socket = TcpSocket::new_v4().unwrap();
                socket.set_recv_buffer_size(4096).unwrap();
                socket.bind((Ipv4Addr::from(0x7f00_0100 + number), 0).into()).unwrap();
                let mut stream = socket.connect(server.address).await.unwrap();
                stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
                let mut head = [0; 512];
                stream.peek(&mut head).await.unwrap();
                let head = String::from_utf8_lossy(&head);
                let length = head.split_once("content-length: ").unwrap().1.split_once('\r').unwrap().0;
                assert!(length.parse::<u64>().unwrap() >= 1_500_000, "{length}");
                readers.push(stream);
            }
            let grown = kibibytes("VmHWM:") - before;
            eprintln!("grown by {grown} KiB");
            assert!(grown < 16 * 1024, "grown by {grown} KiB");
        },
    );
}

/// A number of `/proc/self/status`.
fn kibibytes(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let value = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    value.trim().trim_end_matches(" kB").parse().unwrap()
}
