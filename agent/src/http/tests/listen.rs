//! Listeners: what they are bound to, how they accept, and what becomes of those that cannot.

use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socket, sockopt};

use super::*;
use crate::log::said::Said;

#[tokio::test]
async fn all_addresses_of_both_families_can_be_asked_for() {
    let listener = bind("[::]:0".parse().unwrap()).unwrap();
    let port = listener.local_addr().unwrap().port();
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
}

/// A port that is taken, or one address of IPv6, is not to become all of IPv4.
#[test]
fn all_means_ipv4_only_where_there_is_no_ipv6() {
    use nix::libc::{EADDRINUSE, EAFNOSUPPORT};
    for (address, error, wanted) in [
        ("::", EAFNOSUPPORT, true),
        ("::", EADDRINUSE, false),
        ("::1", EAFNOSUPPORT, false),
        ("0.0.0.0", EADDRINUSE, false),
    ] {
        let fault = io::Error::from_raw_os_error(error);
        assert_eq!(means_ipv4(address.parse().unwrap(), &fault), wanted, "{address} {fault}");
    }
}

/// The kernel takes twice what it is asked for. Left to itself, it would hold megabytes.
#[tokio::test]
async fn the_kernel_holds_little_of_an_answer() {
    let server = server();
    let _client = server.connect().await;
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let _other = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let held = getsockopt(&accepted, sockopt::SndBuf).unwrap();
    assert!((64 * 1024..=128 * 1024).contains(&held), "{held}");
}

#[test]
fn a_thread_with_nothing_to_serve_says_that_it_ended_by_itself() {
    let (_shutdown, drain) = channel();
    let health = Health::default();
    start(Vec::new(), drain, health.part("http", Loss::Fatal)).unwrap().join().unwrap();
    let whys: Vec<String> = health.deaths().into_iter().map(|death| death.why).collect();
    assert_eq!(whys, ["it ended by itself"]);
}

#[test]
fn every_fourth_that_pushes_another_out_is_rested_after() {
    let mut burst = Burst::default();
    let mut rests =
        |crowded: &[bool]| crowded.iter().map(|crowded| burst.is_over(*crowded)).collect::<Vec<_>>();
    assert_eq!(rests(&[true; 9]), [false, false, false, true, false, false, false, true, false]);
    // Who finds room ends it.
    assert_eq!(rests(&[false, true, true, true, false, true]), [false; 6]);
    assert_eq!(rests(&[true, true, true]), [false, false, true]);
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_cannot_accept_says_so_once_and_tries_at_leisure() {
    let (said, _subscribed) = Said::from_now_on();
    // Nobody told it to listen: the kernel refuses every accept.
    let deaf = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).unwrap();
    let listener = TcpListener::from_std(std::net::TcpListener::from(deaf)).unwrap();
    let (shutdown, drain) = channel();
    let task = tokio::spawn(serve(listener, Arc::new(State::new(Health::default())), drain));
    // More than enough for the reactor to have told that something is to be accepted.
    for _ in 0..1000 {
        yield_now().await;
    }
    assert_eq!(said.times(), 1);
    sleep(3 * ACCEPT_PAUSE).await;
    assert_eq!(said.times(), 1, "not at every try");
    shutdown.start();
    task.await.unwrap();
}
