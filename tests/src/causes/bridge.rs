//! A bridge that does not send back what came by a port, or that lets an answer pass beside NAT.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::harness::netns::Netns;
use crate::harness::packet::udp;
use crate::harness::pod::Pod;
use crate::harness::{tool, until};

use super::{Scene, apply, fix, has_module, is_guest};

/// A pod calls its own service, and the node's NAT sends that back to it.
#[test]
fn hairpin_mode_that_is_off() {
    if !has_module("br_netfilter") {
        return;
    }
    let scene = Scene::new();
    let own = Netns::new();
    scene.host.ip(&format!(
        "link add cni0 type bridge\naddr add 10.97.4.1/24 dev cni0\nlink set cni0 up\n\
         link add veth-own type veth peer name eth0 netns {}\nlink set veth-own master cni0\nlink set veth-own up\n",
        own.path()
    ));
    own.ip(
        "link set lo up\naddr add 10.97.4.2/24 dev eth0\nlink set eth0 up\nroute add default via 10.97.4.1\n",
    );
    scene.host.sysctl("bridge/bridge-nf-call-iptables", "1");
    scene.host.batch(
        "nft",
        "add table ip svc\n\
         add chain ip svc pre { type nat hook prerouting priority -100; }\n\
         add rule ip svc pre ip daddr 10.97.10.1 udp dport 7 dnat to 10.97.4.2:7\n\
         add chain ip svc post { type nat hook postrouting priority 100; }\n\
         add rule ip svc post ip saddr 10.97.4.2 ip daddr 10.97.4.2 masquerade\n",
    );
    let pod = Pod::start(&scene.node, "shop/own-0", &own);
    let socket = own.inside(|| UdpSocket::bind("10.97.4.2:7").unwrap());
    scene.answer(socket);
    let calls = || {
        own.inside(|| {
            let socket = UdpSocket::bind("10.97.4.2:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            socket.send_to(b"self", "10.97.10.1:7").is_ok() && socket.recv(&mut [0; 100]).is_ok()
        })
    };
    let trace = scene.trace("drops");
    assert!(!calls());
    let event = trace.expect_class("hairpin", |event| event["interface"] == "veth-own");
    assert_eq!(event["destination_pod"]["pod"], "own-0", "{event:#}");
    apply(&scene.host, &fix(&event));
    assert!(calls(), "cured");
    drop(pod);
}

/// Without `br_netfilter` the answer of a pod on the same bridge does not come by the node's NAT: it comes from the pod, where the
/// service was asked.
#[test]
fn an_answer_that_is_not_translated_back() {
    if !has_module("br_netfilter") {
        return;
    }
    let scene = Scene::new();
    scene.host.sysctl("bridge/bridge-nf-call-iptables", "0");
    let [client, server] = bridged(&scene);
    scene.host.batch(
        "nft",
        "add table ip svc\nadd chain ip svc pre { type nat hook prerouting priority -100; }\n\
         add rule ip svc pre ip daddr 10.97.10.1 udp dport 53 dnat to 10.97.4.3:7\n\
         add rule ip svc pre ip daddr 10.97.10.1 tcp dport 53 dnat to 10.97.4.3:7\n",
    );
    let pods = [(&client, "shop/client-0"), (&server, "shop/server-0")]
        .map(|(netns, name)| Pod::start(&scene.node, name, netns));
    let socket = server.inside(|| UdpSocket::bind("10.97.4.3:7").unwrap());
    scene.answer(socket);
    let calls = || {
        client.inside(|| {
            let socket = UdpSocket::bind("10.97.4.2:0").unwrap();
            // Its port is not the pod's, as with most services.
            socket.connect("10.97.10.1:53").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            socket.send(b"you").is_ok() && socket.recv(&mut [0; 100]).is_ok()
        })
    };
    let trace = scene.trace("drops");
    assert!(!calls());
    let event = trace.expect_class("no_socket", |event| {
        event["source_ip"] == "10.97.4.3"
            && event["message"].as_str().unwrap().contains("not translated back")
    });
    let message = event["message"].as_str().unwrap();
    assert!(message.contains("waits for an answer from 10.97.10.1:53"), "{event:#}");
    // Of TCP the answer is to a SYN, and the same.
    let _listener = server.inside(|| TcpListener::bind("10.97.4.3:7").unwrap());
    let connects = || {
        let to = "10.97.10.1:53".parse().unwrap();
        client.inside(|| TcpStream::connect_timeout(&to, Duration::from_secs(1)).is_ok())
    };
    assert!(!connects());
    let event = trace
        .expect_class("no_socket", |event| event["source_ip"] == "10.97.4.3" && event["protocol"] == "TCP");
    let told = "waits for an answer from 10.97.10.1:53, and this one comes from another address";
    assert!(event["message"].as_str().unwrap().contains(told), "{event:#}");
    // The node tells the client of the shorter way, and NAT drops that message: no harm is done by it.
    let redirect = trace.expect_class("netfilter", |event| event["icmp_type"] == 5);
    assert_eq!(redirect["harm"], "benign", "{redirect:#}");
    // In others something of an earlier test may still end, behind rules that refuse it.
    let ours = [&scene.host, &client, &server].map(Netns::inode);
    let refused = |line: &serde_json::Value| {
        ours.iter().any(|netns| line["netns"] == *netns)
            && (line["class"] == "policy" || line["class"] == "netfilter" && line["harm"] == "harmful")
    };
    let told = trace.lines(refused);
    let told: Vec<_> =
        told.iter().map(|line| [&line["message"], &line["icmp_type"], &line["function"]]).collect();
    assert!(told.is_empty(), "{told:?}");
    let sysctl = fix(&event).split('`').nth(3).unwrap().to_owned();
    apply(&scene.host, &format!("`{sysctl}`"));
    assert!(calls() && connects(), "cured by {sysctl}");
    drop(pods);
}

/// Two namespaces at a bridge of the host's: 10.97.4.2 behind veth-2 and 10.97.4.3 behind veth-3.
fn bridged(scene: &Scene) -> [Netns; 2] {
    scene.host.ip("link add cni0 type bridge\naddr add 10.97.4.1/24 dev cni0\nlink set cni0 up\n");
    [2, 3].map(|own| {
        let netns = Netns::new();
        scene.host.ip(&format!(
            "link add veth-{own} type veth peer name eth0 netns {}\nlink set veth-{own} master cni0\nlink set veth-{own} up\n",
            netns.path()
        ));
        netns.ip(&format!(
            "link set lo up\naddr add 10.97.4.{own}/24 dev eth0\nlink set eth0 up\nroute add default via 10.97.4.1\n"
        ));
        netns
    })
}

/// Ports that are kept apart: what the fix has one look at tells what to change, and that cures.
#[test]
fn a_port_that_does_not_take_it() {
    let scene = Scene::new();
    let [client, server] = bridged(&scene);
    scene.answer(server.inside(|| UdpSocket::bind("10.97.4.3:7").unwrap()));
    let calls = || {
        client.inside(|| {
            let socket = UdpSocket::bind("10.97.4.2:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            socket.send_to(b"you", "10.97.4.3:7").is_ok() && socket.recv(&mut [0; 100]).is_ok()
        })
    };
    until("the bridge forwards", || calls().then_some(()));
    for (broken, shown, mended) in [
        (
            "link set dev veth-2 isolated on\nlink set dev veth-3 isolated on\n",
            "isolated on",
            "link set dev veth-3 isolated off\n",
        ),
        ("link set dev veth-3 state 0\n", "state disabled", "link set dev veth-3 state 3\n"),
        (
            "vlan add dev veth-3 vid 7 pvid untagged\nvlan del dev veth-3 vid 1\n",
            "7 PVID",
            "vlan add dev veth-3 vid 1 pvid untagged\n",
        ),
        (
            "vlan add dev veth-2 vid 4001\nvlan del dev veth-2 vid 1\n",
            "4001",
            "vlan add dev veth-2 vid 1 pvid untagged\n",
        ),
    ] {
        let filters = || scene.host.tries("ip", "link set cni0 type bridge vlan_filtering 1\n");
        if broken.starts_with("vlan") && !filters() {
            assert!(!is_guest(), "a guest's kernel knows VLANs");
            continue;
        }
        let trace = scene.trace("drops");
        scene.host.batch("bridge", broken);
        assert!(!calls(), "{broken}");
        let event = trace.expect_class("bridge_port", |event| {
            event["harm"] == "harmful" && event["netns"] == scene.host.inode()
        });
        let looks = fix(&event);
        let commands =
            looks.split('`').skip(1).step_by(2).map(|command| scene.host.run("sh", &["-c", command]));
        let said = commands.collect::<String>();
        assert!(said.contains(shown), "{looks}: {said}");
        scene.host.batch("bridge", mended);
        assert!((0..5).any(|_| calls()), "{broken}: cured by {mended}");
    }
}

/// What the pods of a bridge say to each other comes to the host as well while tcpdump listens on the bridge.
#[test]
fn a_bridge_that_is_listened_on() {
    let scene = Scene::new();
    let [client, server] = bridged(&scene);
    let pods = [(&client, "shop/client-0"), (&server, "shop/server-0")]
        .map(|(netns, name)| Pod::start(&scene.node, name, netns));
    let socket = server.inside(|| UdpSocket::bind("10.97.4.3:7").unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    scene.host.ip("link set cni0 promisc on\n");
    let trace = scene.trace("drops");
    client.inside(|| udp("10.97.4.3:7".parse().unwrap(), 3, 100));
    assert!((0..3).all(|_| socket.recv(&mut [0; 200]).is_ok()), "nothing is lost");
    let copy = trace.expect("the host's own", |line| line["destination_ip"] == "10.97.4.3");
    assert_eq!([&copy["interface"], &copy["harm"]], ["cni0", "benign"], "{copy:#}");
    assert_eq!(trace.harmful(), Vec::<String>::new());
    drop(pods);
}

/// A NIC at the bridge (a VLAN of the uplink here: no device's other end is a pod), and a switch that floods: frames for a station
/// behind that switch are no loss. What comes the same way for a pod is one, if the pod's port does not take it.
#[test]
fn what_the_switch_behind_a_nic_floods() {
    let scene = Scene::new();
    if !has_module("8021q") {
        return;
    }
    let [_, server] = bridged(&scene);
    let api = Pod::start(&scene.node, "shop/api-0", &server);
    scene
        .host
        .ip("link add link uplink name nic type vlan id 77\nlink set nic master cni0\nlink set nic up\n");
    scene.ext.ip(
        "link add link eth0 name eth0.77 type vlan id 77\naddr add 10.97.4.9/24 dev eth0.77\nlink set eth0.77 up\n\
         neigh add 10.97.4.77 lladdr 02:00:00:00:00:77 dev eth0.77\n",
    );
    // The bridge has heard that station by its NIC.
    scene.host.batch("bridge", "fdb add 02:00:00:00:00:77 dev nic master static\n");
    let pings = |to: &str| {
        let ended = scene.ext.inside(|| tool("ping").args(["-q", "-c", "1", "-W", "1", to]).output());
        ended.unwrap().status.success()
    };
    until("the bridge forwards", || pings("10.97.4.3").then_some(()));
    let trace = scene.trace("drops");
    scene.ext.inside(|| udp("10.97.4.77:7".parse().unwrap(), 5, 100));
    let flooded = trace.expect_class("bridge_port", |event| event["destination_ip"] == "10.97.4.77");
    assert_eq!(flooded["harm"], "benign", "{flooded:#}");
    let told = "the switch behind that port sends what is for another station";
    assert!(flooded["message"].as_str().unwrap().contains(told), "{flooded:#}");
    scene.host.batch("bridge", "link set dev nic isolated on\nlink set dev veth-3 isolated on\n");
    assert!(!pings("10.97.4.3"));
    let lost = trace.expect_class("bridge_port", |event| event["destination_ip"] == "10.97.4.3");
    assert_eq!(lost["harm"], "harmful", "{lost:#}");
    assert_eq!(lost["destination_pod"]["pod"], "api-0", "{lost:#}");
    assert!(trace.harmful().iter().all(|line| !line.contains("10.97.4.77")));
    drop(api);
}
