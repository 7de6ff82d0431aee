//! What leads to other nodes, on a node whose pods take 9000 bytes, with all that a node has beside its uplink.

use serde_json::json;

use crate::harness::netns::Netns;
use crate::harness::pod::{Node, Pod};

use super::{Said, WEB, has_devices, uplink};

/// The dummies of `NodeLocal` DNS and IPVS, and docker's bridge before and after it has had a container, are 1500 bytes small and
/// lead nowhere. The uplink does.
#[test]
fn only_the_uplink_leads_to_other_nodes() {
    if !has_devices() {
        return;
    }
    let [host, switch, web] = std::array::from_fn(|_| Netns::new());
    uplink(&host, &switch, 9000);
    host.ip(&format!(
        "link set lo up\naddr add 10.99.0.1/24 dev eth0\naddr add fd99::1/64 dev eth0 nodad\n\
         route add default via 10.99.0.254\n\
         link add nodelocaldns up mtu 1500 type dummy\naddr add 169.254.20.10/32 dev nodelocaldns\n\
         addr add 10.244.0.10/32 dev nodelocaldns\naddr add fd00:10:244:1::a/128 dev nodelocaldns nodad\n\
         link add kube-ipvs0 up mtu 1500 type dummy\naddr add 10.244.0.1/32 dev kube-ipvs0\n\
         link add docker0 mtu 1500 type bridge\nlink set docker0 up\naddr add 10.245.0.1/16 dev docker0\n\
         link add docker1 mtu 1500 type bridge\nlink set docker1 up\naddr add 10.246.0.1/16 dev docker1\n\
         link add d0 up type dummy\nlink set d0 master docker1\nlink set d0 nomaster\n\
         link add va up mtu 9000 type veth peer name eth0 mtu 9000 netns {}\n\
         route add 10.244.1.2/32 dev va\nroute add fd00:10:244:1::2/128 dev va\n",
        web.path()
    ));
    web.ip("link set lo up\nlink set eth0 up\naddr add 10.244.1.2/32 dev eth0\n\
         addr add fd00:10:244:1::2/128 dev eth0 nodad\n\
         route add 169.254.1.1 dev eth0\nroute add default via 169.254.1.1 dev eth0\n\
         route add fe80::1/128 dev eth0\nroute add default via fe80::1 dev eth0\n");
    let node = Node::routing(&host);
    let pod = Pod::start(&node, WEB, &web);
    let said = Said::json(&node);
    assert!(said.events("finding").is_empty() && said.notes.is_empty(), "{}\n{}", said.text, said.notes);
    // All of them were looked at.
    for name in ["nodelocaldns", "kube-ipvs0", "docker0", "docker1"] {
        assert_eq!(said.link(None, name)["interface_mtu"], 1500);
    }

    host.ip("link set eth0 mtu 1500\n");
    let said = Said::json(&node);
    let finding = said.only("pod_larger_than_path");
    assert_eq!(
        json!([finding["fits"], finding["interface_mtu"], finding["hurt_pods"]]),
        json!([1500, 9000, 1])
    );
    assert!(finding["message"].as_str().unwrap().contains("fit through eth0"), "{finding:#}");
    pod.stop();
}
