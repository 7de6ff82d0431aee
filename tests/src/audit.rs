//! `audit mtu`: what does not fit is named with the number that does, and where all fits nothing is said.

use serde_json::Value;

use crate::harness::agent::{command, json};
use crate::harness::netns::Netns;
use crate::harness::pod::{Node, Pod};

mod containers;
mod fixes;
mod followed;
mod gaps;
mod ipsec;
mod ipv6;
mod outward;
mod rights;
mod sums;
mod unequal;
mod unseen;

/// Whether this kernel makes the devices that a node is built of here; a guest's must.
pub(crate) fn has_devices() -> bool {
    let made = Netns::new().tries("ip", "link add eth0 type dummy\n");
    assert!(made || std::env::var("R2C_GUEST").is_ok_and(|guest| guest == "here"), "no device of kind dummy");
    made
}

/// What one `audit mtu` said, and how it ended.
struct Said {
    lines: Vec<Value>,
    text: String,
    notes: String,
    code: Option<i32>,
}

impl Said {
    /// Of `audit mtu` with these arguments, of a node.
    fn of(node: &Node, args: &[&str]) -> Self {
        Self::limited(node, args, |_| ())
    }

    /// As [`Said::of`], after `limit` has taken something from the process to be.
    fn limited(node: &Node, args: &[&str], limit: impl FnOnce(&mut std::process::Command)) -> Self {
        let mut command = command(node, &[&["audit", "mtu"], args].concat());
        limit(&mut command);
        let ended = command.output().unwrap();
        let lines = ended.stdout.split(|byte| *byte == b'\n').filter_map(json).collect();
        let [text, notes] = [ended.stdout, ended.stderr].map(|raw| String::from_utf8(raw).unwrap());
        Self { lines, text, notes, code: ended.status.code() }
    }

    /// In JSON.
    fn json(node: &Node) -> Self {
        Self::of(node, &["-o", "json"])
    }

    fn events(&self, event: &str) -> Vec<&Value> {
        self.lines.iter().filter(|line| line["event"] == event).collect()
    }

    /// The findings of this name.
    fn findings(&self, name: &str) -> Vec<&Value> {
        self.events("finding").into_iter().filter(|line| line["finding"] == name).collect()
    }

    /// The one finding there is.
    fn only(&self, name: &str) -> &Value {
        let all = self.events("finding");
        let told: Vec<_> = all.iter().map(|line| &line["message"]).collect();
        assert!(all.len() == 1 && all[0]["finding"] == name, "not {name} alone: {told:#?}; {}", self.notes);
        all[0]
    }

    /// The device of this name, in this pod (`null` is the host).
    fn link(&self, pod: Option<&str>, name: &str) -> &Value {
        let of = |line: &&&Value| line["interface"] == name && pod_of(line).as_deref() == pod;
        let links = self.events("link");
        let found = links.iter().find(of).copied();
        found.unwrap_or_else(|| panic!("no {name} of {pod:?}: {}\n{}", self.text, self.notes))
    }
}

fn pod_of(line: &Value) -> Option<String> {
    Some(format!("{}/{}", line["pod"]["namespace"].as_str()?, line["pod"]["pod"].as_str()?))
}

/// A node as flannel makes it, all of which fits: an uplink of 1500 bytes, a VXLAN of 1450, and a bridge with two pods.
///
/// ```text
///  web eth0 10.244.1.2 --- va cni0 10.244.1.1 host --- flannel.1 --- eth0 10.99.0.1 --- eth0 switch
///  db  eth0 10.244.1.3 --- vb
/// ```
struct Flannel {
    host: Netns,
    /// Where the other nodes are: in no namespace that the agent reads.
    switch: Netns,
    node: Node,
    web: Netns,
    pods: Vec<Pod>,
}

/// A node's `eth0`, as a node has it that is a container itself.
fn uplink(host: &Netns, switch: &Netns, mtu: u32) {
    host.ip(&format!(
        "link add eth0 up mtu {mtu} type veth peer name eth0 mtu 9216 netns {}\n",
        switch.path()
    ));
    switch.ip("link set eth0 up\n");
}

const WEB: &str = "shop/web-0";
const DB: &str = "shop/db-0";

impl Flannel {
    fn new() -> Self {
        let [host, switch, web, db] = std::array::from_fn(|_| Netns::new());
        uplink(&host, &switch, 1500);
        host.ip("link set lo up\naddr add 10.99.0.1/24 dev eth0\n\
             addr add fd99::1/64 dev eth0 nodad\nroute add default via 10.99.0.254\n\
             link add flannel.1 type vxlan id 1 local 10.99.0.1 dev eth0 dstport 8472 nolearning\n\
             link set flannel.1 mtu 1450 up\naddr add 10.244.1.0/32 dev flannel.1\n\
             link add cni0 mtu 1450 type bridge\nlink set cni0 up\naddr add 10.244.1.1/24 dev cni0\n\
             route add 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink\n");
        for (near, pod, number) in [("va", &web, 2), ("vb", &db, 3)] {
            host.ip(&format!(
                "link add {near} mtu 1450 master cni0 up type veth peer name eth0 mtu 1450 netns {}\n",
                pod.path()
            ));
            pod.ip(&format!(
                "link set lo up\nlink set eth0 up\naddr add 10.244.1.{number}/24 dev eth0\n\
                 route add default via 10.244.1.1\n"
            ));
        }
        let node = Node::routing(&host);
        let pods = vec![Pod::start(&node, WEB, &web), Pod::start(&node, DB, &db)];
        Self { host, switch, node, web, pods }
    }
}

#[test]
fn where_all_fits_nothing_is_found() {
    if !has_devices() {
        return;
    }
    let flannel = Flannel::new();
    let said = Said::of(&flannel.node, &["-o", "json", "--fail-on-findings"]);
    assert!(said.events("finding").is_empty(), "{}", said.text);
    assert_eq!((said.code, said.notes.as_str()), (Some(0), ""));
    let tunnel = said.link(None, "flannel.1");
    assert_eq!(
        [&tunnel["lower"], &tunnel["overhead"], &tunnel["takes"], &tunnel["fits"]],
        [&Value::from("eth0"), &50.into(), &1500.into(), &1450.into()]
    );
    // Each end of a veth is named by where it is.
    assert_eq!(said.link(Some(WEB), "eth0")["lower"], "va@host");
    assert_eq!(said.link(None, "vb")["lower"], format!("eth0@{DB}"));

    let said = Said::of(&flannel.node, &["--fail-on-findings"]);
    // What the uplink's cable is in is nobody's that the audit knows.
    let text = said.text.replace("\n   ", " ");
    let gap = "; not judged: eth0 (its other end is in a network namespace that was not read)";
    assert!(text.contains("all that was judged fits: ") && text.trim_end().ends_with(gap), "{text}");
    assert!(said.text.lines().all(|line| line.chars().count() <= 80), "{}", said.text);
    assert_eq!(said.code, Some(0));
    flannel.pods.into_iter().for_each(Pod::stop);
}

#[test]
fn only_what_hurts_the_pods_asked_for() {
    if !has_devices() {
        return;
    }
    let flannel = Flannel::new();
    flannel.host.ip("link set va mtu 1400\n");
    let said = Said::of(&flannel.node, &["-o", "json", "-n", "shop", "--pod", "db-0", "--fail-on-findings"]);
    assert!(said.lines.iter().all(|line| pod_of(line).as_deref() != Some(WEB)), "{}", said.text);
    // On the bridge `va` is the smallest port, so `vb`, behind which db is, is one of those that are too large.
    assert_eq!(said.only("bridge_port_unequal")["fits"], 1400);
    assert_eq!(said.code, Some(4), "{}", said.notes);
    flannel.pods.into_iter().for_each(Pod::stop);
}
