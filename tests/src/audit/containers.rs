//! Containers in a pod: what is behind its own bridge against the device that leads out of it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::agent::{Agent, command, json, without_capabilities};
use crate::harness::guest::{has_module, is_guest};
use crate::harness::netns::Netns;
use crate::harness::packet::ends_at_once;
use crate::harness::pod::{Node, Pod};
use crate::harness::until;

use super::fixes::apply;
use super::rights::SYS_ADMIN;
use super::{Said, has_devices};

const RUNNER: &str = "ci/runner-0";

/// A pod with docker in it, and a server outside that no message reaches.
///
/// ```text
///  job eth0 172.17.0.2 --- vjob docker0 172.17.0.1 runner eth0 10.1.0.2 --- va host eth0 10.9.0.1 --- eth0 10.9.0.2 server
///  1500                    1500         1500               1450           1450      1500              1500
/// ```
/// IPv6 has `fd17::`, `fd01::` and `fd09::`.
struct Docker {
    host: Netns,
    job: Netns,
    runner: Netns,
    server: Netns,
    node: Node,
    pod: Pod,
}

impl Docker {
    fn new() -> Self {
        let [host, runner, job, server] = std::array::from_fn(|_| Netns::new());
        host.ip(&format!(
            "link set lo up\nlink add eth0 up type veth peer name eth0 netns {}\naddr add 10.9.0.1/24 dev eth0\n\
             link add va up mtu 1450 type veth peer name eth0 mtu 1450 netns {}\naddr add 10.1.0.1/24 dev va\n\
             route add 172.17.0.0/16 via 10.1.0.2\n\
             addr add fd09::1/64 dev eth0 nodad\naddr add fd01::1/64 dev va nodad\nroute add fd17::/64 via fd01::2\n",
            server.path(),
            runner.path()
        ));
        server.ip("link set eth0 up\naddr add 10.9.0.2/24 dev eth0\nroute add default via 10.9.0.1\n\
             addr add fd09::2/64 dev eth0 nodad\nroute add default via fd09::1\n");
        runner.ip(&format!(
            "link set lo up\nlink set eth0 up\naddr add 10.1.0.2/24 dev eth0\nroute add default via 10.1.0.1\n\
             link add docker0 mtu 1500 type bridge\nlink set docker0 up\naddr add 172.17.0.1/16 dev docker0\n\
             addr add fd01::2/64 dev eth0 nodad\nroute add default via fd01::1\naddr add fd17::1/64 dev docker0 nodad\n\
             link add vjob up master docker0 type veth peer name eth0 netns {}\n",
            job.path()
        ));
        job.ip("link set eth0 up\naddr add 172.17.0.2/16 dev eth0\nroute add default via 172.17.0.1\n\
             addr add fd17::2/64 dev eth0 nodad\nroute add default via fd17::1\n");
        for netns in [&host, &runner] {
            netns.sysctl("ipv4/ip_forward", "1");
            netns.sysctl("ipv6/conf/all/forwarding", "1");
        }
        // Somewhere on the way to the server messages vanish.
        server.batch(
            "nft",
            "add table ip deaf\nadd chain ip deaf it { type filter hook input priority 0; }\n\
             add rule ip deaf it ip protocol icmp drop\n\
             add table ip6 deaf\nadd chain ip6 deaf it { type filter hook input priority 0; }\n\
             add rule ip6 deaf it icmpv6 type packet-too-big drop\n",
        );
        let node = Node::routing(&host);
        let pod = Pod::start(&node, RUNNER, &runner);
        Self { host, job, runner, server, node, pod }
    }

    /// The verdict on a server there that goes on to send what is too large.
    fn judged(&self, agent: &Agent, at: SocketAddr) -> Value {
        let listener = self.server.inside(|| TcpListener::bind(at).unwrap());
        let _client = self.job.inside(|| TcpStream::connect(at).unwrap());
        let (mut server, _) = listener.accept().unwrap();
        ends_at_once(&server);
        server.write_all(&vec![7; 50_000]).unwrap();
        let is_it = |line: &Value| {
            line["finding"] == "small_device" && line["message"].as_str().unwrap().contains(" goes on:")
        };
        let found = agent.stdout.wait(0, |lines| lines.iter().filter_map(|line| json(line)).find(is_it));
        found.unwrap_or_else(|| panic!("{}{}", agent.stdout.text(), agent.stderr.text()))
    }

    /// Whether the container gets all of what it asks the server for.
    fn transfers(&self, at: &str) -> bool {
        const BYTES: usize = 100_000;
        let at: SocketAddr = at.parse().unwrap();
        let listener = self.server.inside(|| TcpListener::bind(at).unwrap());
        let mut client = self.job.inside(|| TcpStream::connect(at).unwrap());
        let (mut server, _) = listener.accept().unwrap();
        client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        server.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let _ = server.write_all(&vec![7; BYTES]);
            });
            client.read_exact(&mut vec![0; BYTES]).is_ok()
        })
    }
}

#[test]
fn docker_in_a_pod_of_less() {
    if !has_devices() {
        return;
    }
    let docker = Docker::new();
    assert!(
        !docker.transfers("10.9.0.2:8001") && !docker.transfers("[fd09::2]:8001"),
        "the server sends 1500 bytes, and nobody tells it"
    );
    let said = Said::of(&docker.node, &["-o", "json", "--fail-on-findings"]);
    let finding = said.only("inner_larger_than_uplink");
    assert_eq!(
        json!([
            finding["interface"], finding["interface_mtu"], finding["promises"], finding["fits"],
            finding["pod_name"]
        ]),
        json!(["docker0", 1500, 1500, 1450, "runner-0"]),
        "{finding:#}"
    );
    assert_eq!((said.code, &finding["confidence"]), (Some(4), &json!("medium")));
    let fix = finding["fix"].as_str().unwrap();
    let (set, clamp) = fix.split_once("; or ").unwrap();
    let places = [("the container behind vjob", &docker.job), (RUNNER, &docker.runner)];
    apply(set, &docker.host, &places);
    let said = Said::json(&docker.node);
    assert!(said.events("finding").is_empty(), "{}", said.text);
    assert!(docker.transfers("10.9.0.2:8002"), "that was the cure");
    assert!(docker.transfers("[fd09::2]:8002"), "that was the cure");

    // Half of it is worse: the port frees what its container still sends, and tells nobody.
    docker.job.ip("link set eth0 mtu 1500\n");
    let said = Said::json(&docker.node);
    let [veth] = said.findings("veth_unequal")[..] else { panic!("{}", said.text) };
    assert_eq!(json!([veth["interface"], veth["promises"], veth["fits"]]), json!(["vjob", 1500, 1450]));
    assert!(
        veth["fix"].as_str().unwrap().starts_with("ip link set eth0 mtu 1450 (in the container behind vjob"),
        "{veth:#}"
    );

    assert!(!docker.transfers("10.9.0.2:8003"));
    apply(veth["fix"].as_str().unwrap(), &docker.host, &places[..1]);
    assert!(Said::json(&docker.node).events("finding").is_empty());
    assert!(docker.transfers("10.9.0.2:8004"));

    // The other cure.
    docker.job.ip("link set eth0 mtu 1500\n");
    docker.runner.ip("link set docker0 mtu 1500\nlink set vjob mtu 1500\n");
    assert!(!docker.transfers("10.9.0.2:8005") && !docker.transfers("[fd09::2]:8005"));
    apply(clamp, &docker.host, &places);
    assert!(docker.transfers("10.9.0.2:8006") && docker.transfers("[fd09::2]:8006"), "{clamp}");
    docker.pod.stop();
}

/// As the DaemonSet reads it: without entering the pod's namespace, which may have routes that promise less.
#[test]
fn docker_is_seen_from_outside_of_the_pod() {
    if !has_devices() {
        return;
    }
    let docker = Docker::new();
    let said =
        Said::limited(&docker.node, &["-o", "json"], |command| without_capabilities(command, SYS_ADMIN));
    let finding = said.only("inner_larger_than_uplink");
    assert_eq!(json!([finding["fits"], finding["confidence"]]), json!([1450, "low"]), "{finding:#}");
    assert!(finding["fix"].as_str().unwrap().contains("in the container behind vjob"), "{finding:#}");
    docker.pod.stop();
}

/// A trace of its node, attached; `None` where the kernel lets it see no messages.
fn trace(docker: &Docker) -> Option<Agent> {
    let args = ["trace", "mtu", "--duration", "0", "-o", "json"];
    let mut command = command(&docker.node, &args);
    docker.host.enter(&mut command);
    let agent = Agent::spawn(&mut command);
    // It says so once it is attached.
    until("it traces", || agent.stderr.text().contains("; Ctrl-C ends it").then_some(()));
    let sees = agent.stderr.text().contains(" __icmp_send (");
    assert!(sees || !is_guest(), "a guest's kernel lets it listen there");
    sees.then_some(agent)
}

/// While it hangs: the server is told again and again, so it is the container that has to ask for less. Docker gives it the pod's
/// address by IPv4; by IPv6 its own is routed.
#[test]
fn docker_in_a_pod_whose_server_does_not_heed() {
    if !has_devices() || !has_module("nft_masq") {
        return;
    }
    let docker = Docker::new();
    docker.runner.batch(
        "nft",
        "add table ip docker\nadd chain ip docker post { type nat hook postrouting priority 100; }\n\
         add rule ip docker post ip saddr 172.17.0.0/16 oifname \"eth0\" masquerade\n",
    );
    // Where messages vanish no kernel is that the agent sees: here what ends in a dummy is no drop.
    docker.server.batch("nft", "flush ruleset\n");
    docker.server.ip("link add far up type dummy\n");
    let is_deaf = docker.server.tries(
        "tc",
        "qdisc add dev eth0 clsact\n\
         filter add dev eth0 ingress protocol ip flower ip_proto icmp action mirred egress redirect dev far\n\
         filter add dev eth0 ingress protocol ipv6 flower ip_proto icmpv6 type 2 action mirred egress redirect dev far\n",
    );
    if !is_deaf {
        assert!(!is_guest(), "a guest's kernel has tc");
        return;
    }
    let in_the_pod = "in ci/runner-0, give every interface and bridge that its connections come from an MTU of 1450, or clamp their MSS on this node (`iptables ";
    let on_the_node = "clamp the MSS of what [fd17::2]:";
    for (server, port, told) in [("10.9.0.2", 8011, in_the_pod), ("fd09::2", 8021, on_the_node)] {
        let at = |more: u16| SocketAddr::new(server.parse().unwrap(), port + more);
        let Some(agent) = trace(&docker) else { return };
        let found = docker.judged(&agent, at(0));
        let (text, fix) = (found["message"].as_str().unwrap(), found["fix"].as_str().unwrap());
        assert!(text.contains(&format!("va takes 1450 bytes: {server} sends up to 1500 bytes")), "{text}");
        assert!(text.contains("; it was told so ") && text.contains(" times in "), "{text}");
        let begins =
            format!("{server} is not known as a pod of this node, so let TCP ask it for less: {told}");
        assert!(fix.starts_with(&begins), "{fix}");
        drop(agent);

        assert!(!docker.transfers(&at(1).to_string()));
        let bridge = |mtu: u32| {
            docker.job.ip(&format!("link set eth0 mtu {mtu}\n"));
            docker.runner.ip(&format!("link set docker0 mtu {mtu}\nlink set vjob mtu {mtu}\n"));
        };
        bridge(1450);
        assert!(docker.transfers(&at(2).to_string()), "{server}: the pod's own bridge was the cause");
        bridge(1500);
        assert!(!docker.transfers(&at(3).to_string()));
        apply(fix, &docker.host, &[]);
        assert!(docker.transfers(&at(4).to_string()), "that was a cure: {fix}");
    }
    docker.pod.stop();
}
