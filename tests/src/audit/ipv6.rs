//! IPv6 on devices that are too small for it.

use serde_json::json;

use crate::harness::netns::Netns;
use crate::harness::pod::Node;

use super::{Said, has_devices};

#[test]
fn ipv6_is_off_below_1280_bytes() {
    if !has_devices() {
        return;
    }
    let [host, other] = std::array::from_fn(|_| Netns::new());
    host.ip(&format!(
        "link set lo up\nlink add eth0 up mtu 1500 type dummy\naddr add 10.99.0.1/24 dev eth0\n\
         link add eth1 up mtu 1000 type veth peer name eth0 mtu 1500 netns {}\naddr add 10.98.0.1/24 dev eth1\n",
        other.path()
    ));
    other.ip("link set eth0 up\n");
    let node = Node::routing(&host);
    assert!(Said::json(&node).events("finding").is_empty(), "nobody has IPv6");
    host.ip("addr add fd99::1/64 dev eth0 nodad\n");
    // What is said is so.
    let is_on = || host.inside(|| std::path::Path::new("/proc/thread-self/net/dev_snmp6/eth1").exists());
    assert!(!is_on() && !host.tries("ip", "addr add fd98::1/64 dev eth1 nodad\n"));
    let said = Said::json(&node);
    let finding = said.only("ipv6_off");
    assert_eq!(
        json!([finding["interface"], finding["interface_mtu"], finding["promises"], finding["confidence"]]),
        json!(["eth1", 1000, 1280, "medium"])
    );
    let fix = finding["fix"].as_str().unwrap();
    assert!(fix.starts_with("ip link set eth1 mtu 1280, if all behind it takes that"), "{fix}");
    host.ip("link set eth1 mtu 1280\naddr add fd98::1/64 dev eth1 nodad\n");
    let said = Said::json(&node);
    assert!(is_on() && said.events("finding").is_empty(), "{}", said.text);
}
