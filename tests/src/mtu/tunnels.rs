//! Packets in packets: the hop says one number, the tunnel costs another, and who is inside is to be named.
//!
//! ```text
//!  web - router - rh 10.99.7.1 - 10.99.7.2 hop 10.99.8.1 - 10.99.8.2 tip        hop's way to tip has MTU 1400
//!          tun0 10.99.9.1 ============================== 10.99.9.2 tun0
//! ```

use serde_json::{Value, json};

use crate::harness::lab::{Lab, WEB};
use crate::harness::netns::Netns;
use crate::harness::packet::{udp, udp_unfragmented};
use crate::harness::pod::Pod;
use crate::harness::until;

use super::{Watch, pod, sees_messages, v4};

const TIP: &str = "edge/tip-0";

/// The underlay; its hop is nobody's namespace that the agent knows.
struct Underlay<'a> {
    lab: &'a Lab,
    tip: Option<Pod>,
    _hop: Netns,
}

impl<'a> Underlay<'a> {
    /// With a tunnel between its ends: `link` is the rest of `ip link add tun0 ..`, with LOCAL and REMOTE; inside of it
    /// is 10.99.`net`.0/24.
    fn with(lab: &'a Lab, link: &str, net: u8) -> Self {
        let (hop, tip) = (Netns::new(), Netns::new());
        lab.router.ip(&format!(
            "link add rh up type veth peer name ha netns {}\naddr add 10.99.7.1/24 dev rh\n\
             route add 10.99.8.0/24 via 10.99.7.2\naddr add fd99:7::1/64 dev rh nodad\n\
             route add fd99:8::/64 via fd99:7::2\n",
            hop.path()
        ));
        hop.ip(&format!(
            "link set ha up\naddr add 10.99.7.2/24 dev ha\naddr add fd99:7::2/64 dev ha nodad\n\
             link add mtu 1400 name hb up type veth peer name eth0 netns {}\naddr add 10.99.8.1/24 dev hb\n\
             addr add fd99:8::1/64 dev hb nodad\n",
            tip.path()
        ));
        hop.sysctl("ipv4/ip_forward", "1");
        hop.sysctl("ipv6/conf/all/forwarding", "1");
        hop.sysctl("ipv4/icmp_ratelimit", "0");
        tip.ip(
            "link set lo up\nlink set eth0 up\naddr add 10.99.8.2/24 dev eth0\nroute add default via 10.99.8.1\n\
             addr add fd99:8::2/64 dev eth0 nodad\nroute add default via fd99:8::1\n",
        );
        let end = |local: &str, remote: &str, own: u8| {
            let link = link.replace("LOCAL", local).replace("REMOTE", remote);
            format!(
                "link add tun0 {link}\nlink set tun0 mtu 1500 up\naddr add 10.99.{net}.{own}/24 dev tun0\n"
            )
        };
        let [near, far] =
            if link.contains("udp6") { ["fd99:7::1", "fd99:8::2"] } else { ["10.99.7.1", "10.99.8.2"] };
        lab.router.ip(&end(near, far, 1));
        tip.ip(&(end(far, near, 2) + "route add 10.99.1.0/24 dev tun0\n"));
        // Once it has all its addresses: the agent looks at a pod's when it comes.
        let tip = Pod::start(&lab.node, TIP, &tip);
        let before = lab.agent.scrape();
        let its = [("namespace", "edge"), ("pod", "tip-0")];
        until("the pod is known by its namespace and addresses", || {
            tip.netns.inside(|| udp(v4([127, 0, 0, 1], 7701), 1, 4));
            let name = "r2c_pod_drop_packets_total";
            (lab.agent.scrape().sum(name, &its) > before.sum(name, &its)).then_some(())
        });
        Self { lab, tip: Some(tip), _hop: hop }
    }
}

impl Drop for Underlay<'_> {
    fn drop(&mut self) {
        if let Some(tip) = self.tip.take() {
            tip.stop();
        }
        // The tunnel goes with the pod's namespace; the router's end of it does not.
        self.lab.router.ip("link del tun0\nlink del rh\n");
        until("the pod is gone", || (self.lab.agent.scrape().sum("r2c_pods", &[]) == 3).then_some(()));
    }
}

/// The verdict on what `web` sends through a tunnel.
fn verdict(lab: &Lab, link: &str, net: u8, event: &str) -> Value {
    let _underlay = Underlay::with(lab, link, net);
    let watch = Watch::new(lab);
    let to = v4([10, 99, net, 2], 7700);
    // 1428 bytes: with the tunnel's more than the hop takes, but not more than the node's own device.
    lab.web.netns.inside(|| udp_unfragmented(to, 5, 1400));
    // The hop's own side is seen as well, but its namespace is nobody's, so its addresses may be anybody's.
    let wanted = [
        ("destination_ip", json!(to.ip().to_string())),
        ("pod_name", json!("web-0")),
        ("event", json!(event)),
    ];
    let verdict = watch.verdict(&wanted);
    let ends = (pod(&verdict, "source_pod"), pod(&verdict, "destination_pod"));
    assert_eq!((ends.0.as_deref(), ends.1.as_deref()), (Some(WEB), Some(TIP)), "{verdict:#}");
    assert_eq!(verdict["finding"], "small_underlay", "{verdict:#}");
    verdict
}

/// The hop's word is quoted with its number; what is inside of the quote is who is hurt, and must send less.
fn expect_hop(verdict: &Value, tunnel: &str, overhead: u64, hop: &str) {
    assert_eq!([&verdict["event"], &verdict["sender_ip"]], [&json!("received"), &json!(hop)], "{verdict:#}");
    assert_eq!(
        [&verdict["tunnel"], &verdict["tunnel_overhead"]],
        [&json!(tunnel), &json!(overhead)],
        "{verdict:#}"
    );
    assert_eq!([&verdict["mtu"], &verdict["fits"]], [&json!(1400), &json!(1400 - overhead)], "{verdict:#}");
}

/// These tunnels learn from the hop and then tell the sender themselves.
fn expect_fit(verdict: &Value, kind: &str, fits: u64) {
    let told = [&verdict["event"], &verdict["limit"], &verdict["route_interface_kind"]];
    assert_eq!(told, [&json!("made"), &json!("tunnel"), &json!(kind)], "{verdict:#}");
    assert_eq!(
        [&verdict["mtu"], &verdict["fits"], &verdict["route_interface_mtu"]],
        [&json!(fits), &json!(fits), &json!(1500)]
    );
}

#[test]
fn vxlan_over_a_smaller_underlay() {
    let lab = Lab::lock();
    if sees_messages(&lab) {
        let verdict =
            verdict(&lab, "type vxlan id 7 local LOCAL remote REMOTE dstport 4789 df set", 11, "received");
        expect_hop(&verdict, "VXLAN", 50, "10.99.7.2");
    }
}

#[test]
fn vxlan_by_ipv6_over_a_smaller_underlay() {
    let lab = Lab::lock();
    if sees_messages(&lab) {
        let verdict = verdict(
            &lab,
            "type vxlan id 7 local LOCAL remote REMOTE dstport 8472 udp6zerocsumrx",
            12,
            "received",
        );
        expect_hop(&verdict, "VXLAN", 70, "fd99:7::2");
    }
}

#[test]
fn geneve_over_a_smaller_underlay() {
    let lab = Lab::lock();
    if sees_messages(&lab) {
        let verdict = verdict(&lab, "type geneve id 7 remote REMOTE df set", 13, "received");
        expect_hop(&verdict, "Geneve", 50, "10.99.7.2");
    }
}

#[test]
fn ipip_over_a_smaller_underlay() {
    let lab = Lab::lock();
    if sees_messages(&lab) {
        let verdict = verdict(&lab, "type ipip local LOCAL remote REMOTE", 14, "made");
        expect_fit(&verdict, "ipip", 1400 - 20);
    }
}

#[test]
fn gre_over_a_smaller_underlay() {
    let lab = Lab::lock();
    if sees_messages(&lab) {
        let verdict = verdict(&lab, "type gre local LOCAL remote REMOTE", 15, "made");
        expect_fit(&verdict, "gre", 1400 - 24);
    }
}
