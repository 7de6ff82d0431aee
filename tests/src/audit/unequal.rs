//! Ends that do not agree, and routes that promise too much; names that a tenant chose, printed for a person.

use serde_json::json;

use crate::harness::guest::has_module;
use crate::harness::netns::Netns;
use crate::harness::pod::{Node, Pod};

use super::{DB, Flannel, Said, WEB, has_devices, pod_of};

#[test]
fn a_veth_with_unequal_ends() {
    let [host, web] = std::array::from_fn(|_| Netns::new());
    host.ip(&format!("link add va up mtu 1400 type veth peer name eth0 mtu 1500 netns {}\n", web.path()));
    web.ip("link set eth0 up\n");
    let node = Node::routing(&host);
    let pod = Pod::start(&node, WEB, &web);
    let said = Said::of(&node, &["-o", "json", "--fail-on-findings"]);
    let finding = said.only("veth_unequal");
    assert_eq!(
        [&finding["interface"], &finding["interface_mtu"], &finding["fits"], &finding["confidence"]],
        [&json!("eth0"), &1500.into(), &1400.into(), &json!("high")]
    );
    assert_eq!((pod_of(finding).as_deref(), &finding["pod_name"]), (Some(WEB), &json!("web-0")));
    assert!(finding["fix"].as_str().unwrap().starts_with("ip link set eth0 mtu 1400 (in shop/web-0)"));
    assert_eq!(said.code, Some(4), "{}", said.notes);
    let table = Said::of(&node, &[]);
    assert!(table.text.contains("=> eth0 of shop/web-0 has MTU 1500"), "{}", table.text);
    assert!(!table.text.contains("everything fits") && table.code == Some(0), "{}", table.text);

    // What is down says nothing; four bytes of difference are let through.
    web.ip("link set eth0 down\n");
    assert!(Said::json(&node).events("finding").is_empty());
    web.ip("link set eth0 up mtu 1404\n");
    assert!(Said::json(&node).events("finding").is_empty());
    pod.stop();
}

#[test]
fn a_bridge_with_unequal_ports() {
    if !has_devices() {
        return;
    }
    let flannel = Flannel::new();
    flannel.host.ip("link set vb mtu 1400\nlink set cni0 mtu 1450\n");
    let said = Said::json(&flannel.node);
    let [bridge] = said.findings("bridge_port_unequal")[..] else { panic!("{}", said.text) };
    let numbers = [&bridge["interface"], &bridge["interface_mtu"], &bridge["fits"], &bridge["pod_name"]];
    assert_eq!(json!(numbers), json!(["cni0", 1450, 1400, "web-0"]), "{bridge:#}");
    assert!(bridge["message"].as_str().unwrap().contains("va (MTU 1450)"), "{bridge:#}");
    // The other end of `vb` is still larger.
    let [veth] = said.findings("veth_unequal")[..] else { panic!("{}", said.text) };
    assert_eq!(pod_of(veth).as_deref(), Some(DB));
    flannel.pods.into_iter().for_each(Pod::stop);
}

/// The bandwidth plugin's bucket at the node's end of a pod, and one with a peak rate in the pod: named before a packet is
/// sent, also where a trace begins; a bucket of what the fix says lets full frames pass.
#[test]
fn a_token_bucket_smaller_than_a_frame() {
    if !has_module("sch_tbf") {
        return;
    }
    let [host, web] = std::array::from_fn(|_| Netns::new());
    host.ip(&format!(
        "link add va up type veth peer name eth0 netns {}\naddr add 10.99.0.1/24 dev va\n",
        web.path()
    ));
    web.ip("link set eth0 up\naddr add 10.99.0.2/24 dev eth0\n");
    let node = Node::routing(&host);
    let pod = Pod::start(&node, WEB, &web);
    let passes = |size| {
        host.shell(&format!("ping -q -c 1 -W 1 -s {size} 10.99.0.2 > /dev/null && echo yes || echo no"))
            == "yes\n"
    };
    for (netns, rate, device) in
        [(&host, "rate 1gbit", "va"), (&web, "rate 1gbit burst 100kb peakrate 2gbit", "eth0")]
    {
        let size = if device == "va" { "burst" } else { "minburst" };
        let bucket =
            |bytes: &str| format!("qdisc replace dev {device} root tbf {rate} {size} {bytes} latency 50ms\n");
        netns.batch("tc", &bucket("1300"));
        assert!(passes("1000") && !passes("1472"), "{device}");
        let said = Said::json(&node);
        let finding = said.only("burst_too_small");
        // The kernel tells it in ticks, of 8 bytes and of 16.
        let fits = finding["fits"].as_u64().unwrap();
        assert!((1286..=1302).contains(&fits), "{finding:#}");
        assert_eq!(
            [&finding["interface"], &finding["interface_mtu"], &finding["confidence"], &finding["pod_name"]],
            [&json!(device), &1500.into(), &json!("high"), &json!("web-0")],
            "{finding:#}"
        );
        let fix = finding["fix"].as_str().unwrap();
        let enough = fix.split_once(&format!(" a {size} of ")).unwrap().1.split_once(' ').unwrap().0;
        for bytes in ["1514", enough] {
            netns.batch("tc", &bucket(bytes));
            assert!(passes("1472"), "{device} is cured by {bytes}");
            assert!(Said::json(&node).events("finding").is_empty(), "{bytes}");
        }
    }
    pod.stop();
}

#[test]
fn a_route_that_promises_more_than_its_device() {
    if !has_devices() {
        return;
    }
    let host = Netns::new();
    host.ip(
        "link add eth0 up mtu 1400 type dummy\naddr add 10.99.0.1/24 dev eth0\naddr add fd99::1/64 dev eth0 nodad\n\
         route add 10.98.0.0/24 via 10.99.0.2 mtu 9000\nroute add fd98::/64 via fd99::2 mtu 1300 advmss 1200\n",
    );
    let said = Said::json(&Node::routing(&host));
    let finding = said.only("route_mtu");
    assert_eq!([&finding["interface"], &finding["promises"]], [&json!("eth0"), &9000.into()]);
    assert_eq!(
        finding["fix"],
        "`ip route change metric 0 $(ip route show exact 10.98.0.0/24 metric 0) mtu 1400`"
    );
    let routes = said.events("route");
    let smaller = routes.iter().find(|line| line["destination"] == "fd98::/64").unwrap();
    assert_eq!(json!([smaller["mtu"], smaller["advmss"]]), json!([1300, 1200]), "a smaller one is no fault");
}

#[test]
fn names_that_would_be_obeyed() {
    if !has_devices() {
        return;
    }
    let [host, web] = std::array::from_fn(|_| Netns::new());
    host.ip(&format!("link add va up mtu 1400 type veth peer name eth0 mtu 1500 netns {}\n", web.path()));
    web.ip("link set lo up\n");
    // Renamed by its own tenant: a terminal's command, one for a shell, and a byte that is no text.
    web.run("ip", &["link", "set", "eth0", "name", "\x1b[31m$(id)'"]);
    web.run("ip", &["link", "set", "\x1b[31m$(id)'", "up"]);
    raw_name(&web);
    let node = Node::routing(&host);
    let pod = Pod::start(&node, WEB, &web);
    for output in ["table", "wide", "json"] {
        let said = Said::of(&node, &["-o", output]);
        let raw = said.text.chars().find(|c| c.is_control() && *c != '\n');
        assert_eq!(raw, None, "{output}: {:?}", said.text);
        assert!(said.text.contains(r"\xff"), "hidden: {}", said.text);
    }
    let said = Said::json(&node);
    let finding = said.only("veth_unequal");
    assert_eq!(finding["interface"], "\x1b[31m$(id)'");
    // For a shell it is one word, and nothing in it is obeyed.
    let fix = finding["fix"].as_str().unwrap();
    assert!(fix.starts_with(r"ip link set dev '"), "{fix}");
    assert!(fix.contains(r"$(id)'\''' mtu 1400"), "{fix}");
    pod.stop();
}

/// Makes a device whose name is no valid text.
fn raw_name(netns: &Netns) {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let mut ip = crate::harness::tool("ip");
    ip.args(["link", "add", "name"]).arg(OsStr::from_bytes(b"a\xffb")).args(["type", "dummy"]);
    netns.enter(&mut ip);
    assert!(ip.status().unwrap().success());
}
