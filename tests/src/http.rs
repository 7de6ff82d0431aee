//! `/healthz` and `/readyz` mean something, and kubelet hears it whoever else connects.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::agent::{Agent, Running, command, free_address, json};
use crate::harness::crowd::{Crowd, RUDE};
use crate::harness::guest::is_guest;
use crate::harness::netns::Netns;
use crate::harness::pod::{Node, bounding_threads};
use crate::harness::scrape::{CLASSIC, get};
use crate::harness::{DEADLINE, until};

/// Both addresses of a run: what serves everything, and what serves kubelet alone.
fn both(listen: SocketAddr, health: SocketAddr) -> [String; 5] {
    let [run, first, second] = ["run", "--listen", "--health-listen"].map(ToOwned::to_owned);
    [run, first, listen.to_string(), second, health.to_string()]
}

#[test]
fn it_says_that_it_is_not_ready_while_it_attaches() {
    let node = Node::new();
    let (listen, health) = (free_address(), free_address());
    let args = both(listen, health);
    let mut agent = Agent::spawn(&mut command(&node, &args.each_ref().map(String::as_str)));
    let begun = Instant::now();
    let (mut early, mut scrapes) = (Vec::new(), Vec::new());
    loop {
        assert!(begun.elapsed() < DEADLINE, "{}", agent.stderr.text());
        let Ok((status, said)) = get(health, "/readyz", "*/*") else { continue };
        if status == 200 {
            break;
        }
        assert_eq!(status, 503, "{said}");
        early.push(said);
        assert_eq!(get(health, "/healthz", "*/*").unwrap().0, 200, "who starts is not dead");
        scrapes.push(get(listen, "/metrics", CLASSIC).unwrap().0);
    }
    let first = early.first().expect("it said that it was not ready");
    assert!(first.contains("drops (starting)") && first.contains("pods (starting)"), "{first}");
    assert_eq!(scrapes.first(), Some(&503), "there is nothing to be scraped yet");
    let running = Running { agent, address: listen };
    assert_eq!(get(listen, "/readyz", "*/*").unwrap().0, 200);
    assert_eq!(get(health, "/metrics", CLASSIC).unwrap().0, 404);
    let scrape = running.scrape();
    for part in ["audit", "drops", "http", "mtu", "pods"] {
        assert_eq!(scrape.sum("r2c_part_up", &[("part", part)]), 1, "{part}");
    }
    agent = running.agent;
    agent.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(agent.ended(), 0, "{}", agent.stderr.text());
}

/// Port 0 leaves the choice to the system, and only the log tells what it chose.
#[test]
fn a_port_that_the_system_chose_is_named() {
    let node = Node::new();
    let args = ["run", "--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0"];
    let agent = Agent::spawn(&mut command(&node, &args));
    for before in ["serves ", "are served on "] {
        let named = agent.stderr.wait(0, |lines| {
            lines.iter().filter_map(|line| json(line)).find_map(|line| {
                let (_, address) = line["message"].as_str()?.split_once(before)?;
                address.split(',').next()?.parse::<SocketAddr>().ok()
            })
        });
        let address = named.unwrap_or_else(|| panic!("{}", agent.stderr.text()));
        let answer = get(address, "/healthz", "*/*");
        assert_eq!(answer.as_ref().map(|(status, _)| *status).ok(), Some(200), "{address}: {answer:?}");
    }
}

/// A probe's time: kubelet gives it a second. Ten where the processor is emulated.
fn patience() -> Duration {
    Duration::from_secs(if is_guest() { 10 } else { 1 })
}

/// A node's address, an agent on it in the host's network, and a hundred addresses of pods.
#[test]
fn kubelet_is_answered_beside_a_hundred_rude_clients() {
    let (host, pods) = (Netns::new(), Netns::new());
    let node_ip = Ipv4Addr::new(10, 98, 0, 1);
    let pod_ip = |number: u8| Ipv4Addr::new(10, 98, 1, number);
    let peer = pods.path();
    host.ip(&format!(
        "link set lo up\nlink add up0 type veth peer name eth0 netns {peer}\n\
         addr add {node_ip}/16 dev up0\nlink set up0 up\n"
    ));
    let addresses: Vec<String> = (1..=100).map(|n| format!("addr add {}/16 dev eth0\n", pod_ip(n))).collect();
    pods.ip(&format!("link set eth0 up\n{}", addresses.concat()));

    let node = Node::new();
    let (port, health) = host.inside(|| (free_address().port(), free_address()));
    let all = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
    let loopback = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let args = both(all.into(), health);
    let running = host.inside(|| {
        let agent = Agent::spawn(&mut command(&node, &args.each_ref().map(String::as_str)));
        Running::ready(agent, loopback.into())
    });
    let beside = |crowd: Crowd, what: &str| {
        until("every client has connected", || (crowd.connected() >= 100).then_some(()));
        for path in ["/healthz", "/readyz"].repeat(4) {
            for to in [SocketAddrV4::new(node_ip, port).into(), loopback.into(), health] {
                let begun = Instant::now();
                let answer = host.inside(|| get(to, path, "*/*"));
                let status = answer.as_ref().map(|(status, _)| *status);
                assert_eq!(status.ok(), Some(200), "{what}: {path} of {to}: {answer:?}");
                assert!(begun.elapsed() < patience(), "{what}: {path} of {to}: {:?}", begun.elapsed());
            }
        }
        // Prometheus comes from elsewhere, and is served as well.
        let (status, text) = host.inside(|| get(loopback.into(), "/metrics", CLASSIC)).unwrap();
        assert_eq!(status, 200, "{what}: {text}");
        eprintln!("{what}: {} connections", crowd.connected());
    };
    let of_pods = SocketAddrV4::new(node_ip, port);
    for how in RUDE {
        let one = pods.inside(|| Crowd::gather(how, of_pods, (1..=100).map(|_| pod_ip(1))));
        beside(one, &format!("{how:?} from one pod"));
        let many = pods.inside(|| Crowd::gather(how, of_pods, (1..=100).map(pod_ip)));
        beside(many, &format!("{how:?} from a hundred pods"));
        let near = host.inside(|| Crowd::gather(how, loopback, (1..=100).map(|_| Ipv4Addr::LOCALHOST)));
        beside(near, &format!("{how:?} from the node"));
    }
    let scrape = host.inside(|| running.scrape());
    assert!(scrape.sum("r2c_http_connections_evicted_total", &[]) >= 36, "nobody had to leave");
}

/// A real death: kubelet bounds the threads of a pod, and where there are no more, no file can be read.
#[test]
fn a_follower_of_pods_that_died_makes_healthz_red() {
    let node = Node::new();
    let cgroup = bounding_threads();
    let mut running = Running::start(&node, &[]);
    assert_eq!(get(running.address, "/healthz", "*/*").unwrap().0, 200);
    running.agent.join(&cgroup);
    fs::write(cgroup.join("pids.max"), "1").unwrap();
    // Those that read files stay for a while, in case there are more.
    until("its threads that read files are gone", || {
        (!running.agent.threads().iter().any(|name| name.starts_with("tokio"))).then_some(())
    });
    fs::create_dir(node.cgroup.join("kubepods")).unwrap();
    let said = until("/healthz names the dead part", || {
        let (status, said) = get(running.address, "/healthz", "*/*").ok()?;
        (status == 503).then_some(said)
    });
    assert!(said.starts_with("not alive, stopped: ") && said.contains("pods"), "{said}");
    let (status, said) = get(running.address, "/readyz", "*/*").unwrap();
    assert!(status == 503 && said.contains("pods (stopped)"), "{status} {said}");
    let named = running.agent.stderr.wait(0, |lines| {
        let lines = lines.iter().filter_map(|line| json(line));
        let named = |line: &Value| {
            let message = line["message"].as_str().unwrap_or_default();
            line["level"] == "ERROR" && message.contains("part pods has stopped")
        };
        lines.into_iter().any(|line| named(&line)).then_some(())
    });
    assert!(named.is_some(), "{}", running.agent.stderr.text());
    // What still works is worth having.
    let scrape = running.scrape();
    assert_eq!(scrape.sum("r2c_part_up", &[("part", "pods")]), 0);
    assert_eq!(scrape.sum("r2c_part_up", &[("part", "drops")]), 1);
    fs::write(cgroup.join("pids.max"), "max").unwrap();
    assert_eq!(running.terminate().1, 0, "{}", running.agent.stderr.text());
}
