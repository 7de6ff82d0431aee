//! What names something that nothing here has: refused in one line with the nearest there is, before anything is attached.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::audit::has_devices;
use crate::harness::agent::{Agent, command, json};
use crate::harness::netns::Netns;
use crate::harness::packet::udp;
use crate::harness::pod::{Node, Pod};
use crate::harness::{agent_binary, until};

mod environment;

/// A node with three pods, of two namespaces.
struct Shop {
    node: Node,
    pods: Vec<Pod>,
}

impl Shop {
    fn new() -> Self {
        let node = Node::new();
        let pods = ["shop/web", "shop/db-0", "pay/api"].map(|name| Pod::start(&node, name, &Netns::looped()));
        Self { node, pods: pods.into() }
    }

    fn stop(self) {
        self.pods.into_iter().for_each(Pod::stop);
    }
}

/// Exit code, data and diagnostics of a command that ends by itself.
fn ended(command: &mut Command) -> (i32, String, String) {
    let mut agent = Agent::spawn(command);
    (agent.ended(), agent.stdout.text(), agent.stderr.text())
}

/// That a command is refused as usage, in one line that says `wants` and nothing else.
fn refused(command: &mut Command, wants: &str) {
    let (code, out, said) = ended(command);
    assert_eq!((code, out.as_str()), (2, ""), "{command:?}: {said}");
    assert!(said.lines().count() == 1 && said.contains(wants), "{command:?}: {said:?} has no {wants:?}");
}

#[test]
fn a_filter_that_nothing_here_matches_is_refused_with_the_nearest() {
    let shop = Shop::new();
    let shpo = "no pod of namespace \"shpo\" on this node; did you mean shop?";
    let wbe = "no pod \"wbe\" on this node; did you mean shop/web?";
    for (args, wants) in [
        (&["audit", "mtu", "-n", "shpo"][..], shpo),
        (&["audit", "mtu", "-n", "SHOP"], "namespace \"SHOP\" on this node; did you mean shop?"),
        (&["audit", "mtu", "-n", "shop,pya"], "namespace \"pya\" on this node; did you mean pay?"),
        (&["audit", "mtu", "-n", "elsewhere"], "there are: shop, pay"),
        (&["audit", "mtu", "-n", ""], "invalid value \"\" for --namespace: it is empty"),
        (&["audit", "mtu", "--pod", "wbe"], wbe),
        (&["audit", "mtu", "--pod", "shop/wbe"], "no pod \"shop/wbe\" on this node; did you mean shop/web?"),
        (&["audit", "mtu", "--pod", "nosuch*"], "no pod \"nosuch*\" on this node; there are: "),
        (
            &["audit", "mtu", "-n", "pay", "--pod", "web"],
            "\"web\" of namespace pay on this node; did you mean shop/web?",
        ),
        (&["trace", "drops", "-n", "shpo"], shpo),
        (&["trace", "mtu", "-n", "shpo"], shpo),
        (&["trace", "mtu", "--pod", "wbe"], wbe),
        (&["trace", "drops", "--pod", "db"], "did you mean shop/db-0?"),
        (&["trace", "mtu", "--to", "127.0.0.1", "--from-pod", "shop/wbe"], "did you mean shop/web?"),
        (
            &["trace", "drops", "-i", "lp"],
            "no interface \"lp\" in this node's or its pods' network namespaces; did you mean ",
        ),
        (
            &["trace", "drops", "--reason", "polciy"],
            "no reason \"polciy\" of drops on this kernel; did you mean policy?",
        ),
        (
            &["trace", "mtu", "--reason", "policy"],
            "policy is a reason of drops: r2c-agent trace drops --reason policy",
        ),
        (&["trace", "drops", "--rung", "nosuch"], "for --rung: no hook of drops has it; there are: "),
        (&["run", "--listen", "127.0.0.1:0", "--rung", "tp_bft"], "did you mean tp_btf?"),
        (
            &["audit", "drops"],
            "audit has no \"drops\"; there are: mtu; drops is a probe: r2c-agent trace drops",
        ),
        (&["run", "--listen", "9436"], "the host is missing: 127.0.0.1:9436"),
    ] {
        refused(&mut command(&shop.node, args), wants);
    }
    // A kernel has 120 reasons: a line names ten.
    let (code, _, said) = ended(&mut command(&shop.node, &["trace", "drops", "--reason", "WEATHER"]));
    let named = said.split("there are: ").nth(1).unwrap_or_else(|| panic!("{said}"));
    assert!(code == 2 && named.matches(", ").count() <= 9, "{said}");
    shop.stop();
}

#[test]
fn what_is_there_is_found_however_it_is_named() {
    let shop = Shop::new();
    for (args, pods) in [
        (&["-n", "shop,pay"][..], &["pay/api", "shop/db-0", "shop/web"][..]),
        (&["-n", "shop", "-n", "pay"], &["pay/api", "shop/db-0", "shop/web"]),
        (&["--pod", "shop/web"], &["shop/web"]),
        (&["--pod", "we*,pay/*"], &["pay/api", "shop/web"]),
        (&["-n", "shop", "--pod", "db-*"], &["shop/db-0"]),
    ] {
        let (code, said, notes) = ended(&mut command(&shop.node, &[&["audit", "mtu"], args].concat()));
        let said = said.replace("\n   ", " ");
        let line = said.lines().last().unwrap_or_default();
        assert_eq!(code, 0, "{notes}");
        // What else this machine has is not for this test to say; of the pods nothing does not fit.
        assert!(line.contains(&format!(" for {}: ", pods.join(", "))), "{args:?}: {said}\n{notes}");
    }
    shop.stop();
}

#[test]
fn where_no_pod_is_known_it_says_why() {
    let node = Node::new();
    refused(
        &mut command(&node, &["audit", "mtu", "-n", "shop"]),
        "no pod is known here: there is no kubepods in ",
    );
    let pod = Pod::start(&node, "shop/web", &Netns::looped());
    let nameless = Node::new();
    let mut audit = Command::new(agent_binary());
    audit
        .args(["audit", "mtu", "-n", "shop", "--host-cgroup"])
        .arg(&node.cgroup)
        .arg("--host-proc")
        .arg(&node.proc);
    audit.arg("--pod-logs").arg(&nameless.logs);
    refused(&mut audit, "(--pod-logs) has no directory of a pod");
    pod.stop();
}

#[test]
fn interfaces_are_those_of_the_hosts_processes() {
    let host = Netns::looped();
    let peer = Netns::new();
    host.ip(&format!("link add r2c-typo up type veth peer name far netns {}\n", peer.path()));
    let node = Node::routing(&host);
    refused(&mut command(&node, &["trace", "drops", "-i", "r2c-tpyo"]), "did you mean r2c-typo?");
    let seen = ended(&mut command(&node, &["trace", "drops", "-i", "r2c-typo", "--duration", "1s"]));
    assert!(seen.0 == 0 && seen.2.contains("tracing drops"), "{}", seen.2);
    // Its processes are not those of this machine.
    let pod = Pod::start(&Node::new(), "shop/web", &Netns::looped());
    pod.netns.ip(&format!("link add r2c-else up type veth peer name far2 netns {}\n", peer.path()));
    refused(&mut command(&node, &["trace", "drops", "-i", "r2c-else"]), "no interface \"r2c-else\"");
    pod.stop();
}

#[test]
fn why_it_ends_is_said_whatever_the_filter_is() {
    let node = Node::new();
    for filter in ["off", "agent=off", "r2c_agent=off", "off,r2c_agent=off"] {
        refused(
            command(&node, &["trace", "drops", "-n", "shop"]).env("R2C_LOG_LEVEL", filter),
            "error: no pod of namespace",
        );
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let (code, _, said) =
            ended(command(&node, &["run", "--listen", &address]).env("R2C_LOG_LEVEL", filter));
        let last =
            said.lines().last().and_then(|line| json(line.as_bytes())).unwrap_or_else(|| panic!("{said}"));
        let message = last["message"].as_str().unwrap();
        assert!(code == 1 && message.contains(&address) && message.contains("in use"), "{said}");
    }
}

#[test]
fn an_answer_that_cannot_be_written_is_no_success() {
    for args in [
        &["--help"][..],
        &["--version"],
        &["trace", "--help"],
        &["completions", "bash"],
        &["completions", "zsh"],
        &["doctor"],
    ] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let agent = Command::new(agent_binary()).args(args).stdout(full).output().unwrap();
        let said = String::from_utf8_lossy(&agent.stderr);
        assert_eq!(agent.status.code(), Some(1), "{args:?}: {said}");
        assert!(
            said.lines().count() == 1 && said.contains("stdout: No space left on device"),
            "{args:?}: {said}"
        );
        // `| head`: the reader has seen enough.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let agent =
            Command::new(agent_binary()).args(args).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!((agent.status.code(), agent.stderr.as_slice()), (Some(0), &b""[..]), "{args:?}");
    }
}

/// `>&-`: the standard library would open /dev/null in its place.
#[test]
fn a_closed_stdout_is_no_success_either() {
    let node = Node::new();
    for args in [
        &["--help"][..],
        &["completions", "bash"],
        &["doctor"],
        &["audit", "mtu"],
        &["metrics"],
        &["trace", "drops", "--duration", "1s"],
        &["run", "--listen", "127.0.0.1:0"],
    ] {
        let mut closed = command(&node, args);
        // SAFETY: between fork and exec only one system call is made.
        unsafe {
            closed.pre_exec(|| {
                nix::libc::close(1);
                Ok(())
            });
        }
        let agent = closed.stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8_lossy(&agent.stderr);
        assert_eq!(agent.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.lines().count() == 1 && said.contains("stdout is closed"), "{args:?}: {said}");
    }
}

#[test]
fn a_ready_file_that_can_never_be_is_refused_before_anything_is_attached() {
    let node = Node::new();
    let logs = node.logs.to_str().unwrap();
    for (path, code, wants) in [
        ("/r2c-nowhere/file", 2, "there is no directory /r2c-nowhere"),
        (logs, 2, "it is a directory"),
        ("/dev/null", 2, "no plain file"),
        ("/proc/r2c-ready", 1, "/proc/r2c-ready"),
    ] {
        let (ended, out, said) = ended(&mut command(&node, &["trace", "drops", "--ready-file", path]));
        assert_eq!((ended, out.as_str()), (code, ""), "{path}: {said}");
        assert!(said.lines().count() == 1 && said.contains(wants), "{path}: {said}");
    }
}

#[test]
fn an_address_that_nothing_here_has_is_noted() {
    let host = Netns::looped();
    host.ip("addr add 10.99.77.1/24 dev lo\n");
    let node = Node::routing(&host);
    let trace = |address: &str| {
        let args = ["trace", "drops", "--ip", address, "--duration", "1s"];
        let (code, _, said) = ended(&mut command(&node, &args));
        assert_eq!(code, 0, "{said}");
        said
    };
    let said = trace("10.99.77.11");
    assert!(
        said.contains(
            "has 10.99.77.11: only packets to and from elsewhere match it; nearest here: 10.99.77.1 (host)"
        ),
        "{said}"
    );
    assert!(!trace("10.99.77.1").contains("elsewhere"));
    assert!(!trace("10.99.0.0/16").contains("elsewhere"));
}

/// A node whose pods are on a bridge of its own, as most network plugins make it: nobody else can have an address of theirs.
#[test]
fn an_address_that_only_a_pod_of_this_node_could_have_is_refused() {
    if !has_devices() {
        return;
    }
    let [host, web, stranger] = std::array::from_fn(|_| Netns::looped());
    let join = |pod: &Netns, port: &str| {
        host.ip(&format!(
            "link add {port} up type veth peer name eth0 netns {}\nlink set {port} master cni0\n",
            pod.path()
        ));
    };
    host.ip("link add cni0 type bridge\nlink set cni0 up\naddr add 10.99.78.1/24 dev cni0\n");
    join(&web, "va");
    web.ip("link set eth0 up\naddr add 10.99.78.30/24 dev eth0\n");
    let node = Node::routing(&host);
    let pod = Pod::start(&node, "shop/web", &web);
    let trace = |address: &str| {
        let args = ["trace", "drops", "--ip", address, "--duration", "1s"];
        ended(&mut command(&node, &args))
    };
    let (code, out, said) = trace("10.99.78.29");
    assert_eq!((code, out.as_str()), (2, ""), "{said}");
    assert_eq!(
        said,
        "r2c-agent: error: no pod of this node has 10.99.78.29, and 10.99.78.0/24 (cni0) is its pods' alone; \
         nearest: 10.99.78.30 (shop/web), 10.99.78.1 (host); to trace who still sends there: --ip 10.99.78.29/32\n"
    );
    // To walk there is as vain, from wherever in the node.
    for from in [&[][..], &["--from-pod", "shop/web"]] {
        let walk = [&["trace", "mtu", "--to", "10.99.78.29", "--timeout", "1s"], from].concat();
        let (code, out, said) = ended(&mut command(&node, &walk));
        assert_eq!((code, out.as_str()), (2, ""), "{said}");
        assert!(
            said.starts_with("r2c-agent: error: no pod of this node has 10.99.78.29, and ")
                && said.ends_with(
                    "nearest: 10.99.78.30 (shop/web), 10.99.78.1 (host); to trace who still sends there: r2c-agent trace drops --ip \
                     10.99.78.29/32\n"
                ),
            "{said}"
        );
    }
    let walk = ["trace", "mtu", "--to", "10.99.78.1", "--from-pod", "shop/web", "--timeout", "2s"];
    let (code, _, said) = ended(&mut command(&node, &walk));
    assert_eq!(code, 0, "{said}");
    for address in ["10.99.78.30", "10.99.78.29/32", "10.99.79.29"] {
        let (code, _, said) = trace(address);
        assert_eq!(code, 0, "{address}: {said}");
        assert_eq!(said.contains("elsewhere"), address == "10.99.79.29", "{said}");
    }
    // A container that is no pod is on the bridge, too: what addresses it has is not known.
    join(&stranger, "vb");
    let (code, _, said) = trace("10.99.78.29");
    assert!(code == 0 && said.contains("has 10.99.78.29: only packets to and from elsewhere"), "{said}");
    pod.stop();
}

#[test]
fn a_pod_that_has_not_started_yet_is_waited_for() {
    let node = Node::new();
    let late = Netns::looped();
    let mut trace = Agent::spawn(&mut command(
        &node,
        &["trace", "drops", "--all", "-n", "late", "--wait", "--duration", "0", "-o", "json"],
    ));
    let said = |agent: &Agent, text: &str| {
        let found = agent
            .stderr
            .wait(0, |lines| String::from_utf8_lossy(&lines.concat()).contains(text).then_some(()));
        assert!(found.is_some(), "{text}: {}", agent.stderr.text());
    };
    said(&trace, "no pod of namespace \"late\" on this node yet: waiting for it; Ctrl-C ends it");
    said(&trace, "tracing drops");
    let mut audit = Agent::spawn(&mut command(&node, &["audit", "mtu", "--pod", "late/x", "--wait=10m"]));
    said(&audit, "no pod \"late/x\" on this node yet: waiting for it for at most 10m");
    let pod = Pod::start(&node, "late/x", &late);
    said(&trace, "all pods asked for are here; Ctrl-C ends it");
    until("an event of the pod", || {
        late.inside(|| udp(SocketAddr::from((Ipv4Addr::LOCALHOST, 9107)), 1, 10));
        let is_it = |line: &Vec<u8>| json(line).is_some_and(|line| line["destination_port"] == 9107);
        trace.stdout.since(0).iter().any(is_it).then_some(())
    });
    trace.signal(Signal::SIGINT);
    assert_eq!(trace.ended(), 0, "{}", trace.stderr.text());
    assert_eq!(audit.ended(), 0, "{}", audit.stderr.text());
    assert!(audit.stdout.text().contains(" for late/x: "), "{}", audit.stdout.text());
    pod.stop();
    // In vain, and interrupted.
    for args in
        [&["trace", "drops", "-n", "never", "--wait=1s"][..], &["audit", "mtu", "-n", "never", "--wait=1s"]]
    {
        let (code, _, said) = ended(&mut command(&node, args));
        assert!(
            code == 2 && said.contains("error: no pod of namespace \"never\" on this node within 1s"),
            "{said}"
        );
    }
    for (args, code) in [
        (&["trace", "drops", "-n", "never", "--wait"][..], 1),
        (&["audit", "mtu", "-n", "never", "--wait"], 1),
    ] {
        let mut agent = Agent::spawn(&mut command(&node, args));
        said(&agent, "waiting for it");
        agent.signal(Signal::SIGINT);
        assert_eq!(agent.ended(), code, "{}", agent.stderr.text());
    }
}
