//! Messages that say what fits, and never reach whom they are for: who eats them, and where.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::harness::lab::{Lab, WEB};
use crate::harness::netns::{Meanwhile, Netns};
use crate::harness::packet::udp_unfragmented;
use crate::harness::{has_reasons, until};

use super::ladder::trace;
use super::underlay::Underlay;
use super::{Watch, forget, has_learned, of, pod, sees_messages, v4};

/// Drops messages about a packet's size in this hook of a namespace.
fn eat(netns: &Netns, hook: &str) -> Meanwhile {
    netns.meanwhile(
        "nft",
        &format!(
            "add table inet eat\nadd chain inet eat it {{ type filter hook {hook} priority 0; }}\n\
             add rule inet eat it icmp type destination-unreachable drop\n\
             add rule inet eat it icmpv6 type packet-too-big drop\n"
        ),
        "delete table inet eat\n",
    )
}

/// What is said once `web` has sent too much by either family, to host `last` of net 8: each time a message of `senders` is
/// lost. Each test has a host of its own, whether there is one or not: what is said of one it has its own incident for.
fn expect(lab: &Lab, last: u8, senders: [&str; 2], fate: &str, stage: &str, words: &[&str]) -> [Value; 2] {
    [(v4([10, 99, 8, last], 7901), senders[0]), (host(8, last, 7901), senders[1])]
        .map(|(to, sender)| expect_one(lab, to, sender, fate, stage, words))
}

/// Does what the fixes say first, `put .. before the rule that drops it`, in this chain: then the next message is learned.
fn let_pass(lab: &Lab, netns: &Netns, chain: &str, verdicts: &[Value]) {
    for verdict in verdicts {
        let fix = verdict["fix"].as_str().unwrap();
        let (rule, _) = fix.strip_prefix("put `").unwrap().split_once("` before the rule").unwrap();
        netns.batch("nft", &format!("insert rule inet {chain} {rule}\n"));
    }
    is_learned(lab, verdicts);
}

/// What they are about is sent again, and its sender learns what fits.
fn is_learned(lab: &Lab, verdicts: &[Value]) {
    for verdict in verdicts {
        let to: std::net::IpAddr = verdict["destination_ip"].as_str().unwrap().parse().unwrap();
        assert!(!has_learned(lab, to), "{to}");
        lab.web.netns.inside(|| udp_unfragmented(SocketAddr::new(to, 7901), 1, 1420));
        until(&format!("web learns what fits on the way to {to}"), || has_learned(lab, to).then_some(()));
    }
    forget(lab);
}

/// A host of an IPv6 net.
fn host(net: u16, last: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([0xfd99, net, 0, 0, 0, 0, 0, last.into()], port))
}

fn expect_one(lab: &Lab, to: SocketAddr, sender: &str, fate: &str, stage: &str, words: &[&str]) -> Value {
    expect_where(lab, to, sender, (fate, stage), words, 1400)
}

/// As [`expect_one`], where so many bytes fit.
fn expect_where(
    lab: &Lab,
    to: SocketAddr,
    sender: &str,
    (fate, stage): (&str, &str),
    words: &[&str],
    takes: u32,
) -> Value {
    let watch = Watch::new(lab);
    lab.web.netns.inside(|| udp_unfragmented(to, 3, 1420));
    let wanted = [
        ("finding", json!("messages_lost")),
        ("destination_ip", json!(to.ip().to_string())),
        ("sender_ip", json!(sender)),
        ("pod_name", json!("web-0")),
    ];
    let verdict = watch.verdict_in_time(&wanted);
    assert_eq!([&verdict["fate"], &verdict["stage"]], [&json!(fate), &json!(stage)], "{verdict:#}");
    assert_eq!([&verdict["mtu"], &verdict["fits"]], [&json!(takes), &json!(takes)], "{verdict:#}");
    assert_eq!(verdict["confidence"], "high");
    assert_eq!(pod(&verdict, "source_pod").as_deref(), Some(WEB), "{verdict:#}");
    let text = verdict["message"].as_str().unwrap();
    assert!(words.iter().all(|word| text.contains(word)) && text.contains(WEB), "{text}");
    let family = if to.is_ipv4() { "ipv4" } else { "ipv6" };
    let labels = [("event", "lost"), ("fate", fate), ("family", family)];
    assert_eq!(watch.counted("r2c_mtu_events_total", &labels), 3, "{:#?}", watch.messages());
    assert_eq!(watch.counted("r2c_mtu_events_total", &[("event", "received"), ("fate", "learned")]), 0);
    verdict
}

#[test]
fn a_policy_of_the_node_on_the_way_through() {
    let lab = Lab::lock();
    if !sees_messages(&lab) {
        return;
    }
    let _underlay = Underlay::routed(&lab);
    let _eats = eat(&lab.router, "forward");
    let words = ["being eaten", "netfilter rule in this node's own namespace, hook forward", "accept"];
    // Without the hooks that see messages arrive: those that are lost may be a few of many.
    let half_blind = trace(&lab, &["--rung", "tp_btf", "-o", "json"]);
    let told = expect(&lab, 11, ["10.99.7.2", "fd99:7::2"], "filtered", "forward", &words);
    for verdict in &told {
        let to = verdict["destination_ip"].as_str().unwrap();
        let unsure = half_blind.stdout.wait(0, |lines| {
            let mut verdicts = lines.iter().filter_map(|line| of(line, true));
            verdicts.find(|line| line["finding"] == "messages_lost" && line["destination_ip"] == to)
        });
        let unsure = unsure.unwrap_or_else(|| panic!("{to}: {}", half_blind.stderr.text()));
        assert_eq!(unsure["confidence"], "medium", "{unsure:#}");
        assert!(
            unsure["message"].as_str().unwrap().contains("whether others arrive is not seen"),
            "{unsure:#}"
        );
    }
    let_pass(&lab, &lab.router, "eat it", &told);
}

#[test]
fn a_policy_in_the_pod() {
    let lab = Lab::lock();
    if !sees_messages(&lab) {
        return;
    }
    let _underlay = Underlay::routed(&lab);
    let _eats = eat(&lab.web.netns, "input");
    let words = ["being eaten", "netfilter rule in the pod's own namespace, hook input"];
    let told = expect(&lab, 12, ["10.99.7.2", "fd99:7::2"], "filtered", "input", &words);
    let_pass(&lab, &lab.web.netns, "eat it", &told);
}

#[test]
fn a_policy_on_what_the_node_says_itself() {
    let lab = Lab::lock();
    if !sees_messages(&lab) {
        return;
    }
    let _eats = eat(&lab.router, "output");
    let words = ["being eaten", "netfilter rule in this node's own namespace, hook output"];
    // A number of its own: with others who were told of 1400 it would be one incident.
    let _takes = lab.router.meanwhile("ip", "link set rc mtu 1396\n", "link set rc mtu 1400\n");
    for (to, sender) in [(v4([10, 99, 3, 61], 7902), "10.99.1.1"), (host(3, 61, 7902), "fd99:1::1")] {
        let verdict = expect_where(&lab, to, sender, ("filtered", "output"), &words, 1396);
        let text = verdict["message"].as_str().unwrap();
        assert!(text.contains("3 made, 3 lost (3 filtered)"), "{text}");
        let_pass(&lab, &lab.router, "eat it", &[verdict]);
    }
}

/// What the node sends goes another way, as far as conntrack sees; only the message comes by here.
#[test]
fn a_message_that_conntrack_calls_invalid() {
    let lab = Lab::lock();
    if !sees_messages(&lab) || !lab.has_hook("mtu", "nf_conntrack_inet_error") {
        return;
    }
    let _underlay = Underlay::routed(&lab);
    let _rule = lab.router.meanwhile(
        "nft",
        "add table inet r2c\n\
         add chain inet r2c raw { type filter hook prerouting priority -300; }\n\
         add rule inet r2c raw iifname ra notrack\n\
         add chain inet r2c forward { type filter hook forward priority 0; }\n\
         add rule inet r2c forward ct state invalid drop\n",
        "delete table inet r2c\n",
    );
    let words = ["being eaten", "hook forward", "conntrack there calls it INVALID"];
    let told = expect(&lab, 13, ["10.99.7.2", "fd99:7::2"], "invalid", "forward", &words);
    let_pass(&lab, &lab.router, "r2c forward", &told);
    // The other way to mend it.
    for verdict in &told {
        let fix = verdict["fix"].as_str().unwrap();
        assert!(
            fix.contains(" drops `ct state invalid`, or route both directions through this node"),
            "{fix}"
        );
    }
    lab.router.batch(
        "nft",
        "flush chain inet r2c forward\nadd rule inet r2c forward ct state invalid drop\nflush chain inet r2c raw\n",
    );
    is_learned(&lab, &told);
}

/// A filter (tc) of a device by which the messages come in, or leave for the pod; or of the pod's own.
#[test]
fn a_filter_of_a_device() {
    const ROUTER: &str = "this node's own namespace";
    let lab = Lab::lock();
    if !sees_messages(&lab) {
        return;
    }
    let _underlay = Underlay::routed(&lab);
    for (netns, device, way, last, stage, place, undo) in [
        (&lab.router, "ra", "egress", 15, "forward", ROUTER, "qdisc del dev ra clsact\n"),
        (
            &lab.web.netns, "eth0", "ingress", 16, "prerouting", "network namespace ",
            "qdisc del dev eth0 clsact\n",
        ),
        // Before IP has it it is still the hop's own.
        (&lab.router, "rh", "ingress", 17, "prerouting", ROUTER, "qdisc del dev rh clsact\n"),
    ] {
        // No reason tells that one from the copy of a socket.
        if device == "rh" && !has_reasons() {
            continue;
        }
        let add = |protocol: &str, number: u32, filter: &str| {
            format!(
                "filter add dev {device} {way} protocol {protocol} prio {number} flower ip_proto {filter}\n"
            )
        };
        let eats = add("ip", 7, "icmp type 3 action drop") + &add("ipv6", 8, "icmpv6 type 2 action drop");
        if !netns.tries("tc", &format!("qdisc add dev {device} clsact\n{eats}")) {
            return;
        }
        let _eats = netns.meanwhile("tc", "", undo);
        let (by, fate) =
            if has_reasons() { ("dropped by a filter", "filtered") } else { ("dropped", "dropped") };
        let words = ["being eaten", &format!("{by} in {place}"), &format!(" on {device} (")];
        let told = expect(&lab, last, ["10.99.7.2", "fd99:7::2"], fate, stage, &words);
        for (verdict, (errors, number)) in
            told.iter().zip([("ICMP errors of type 3, code 4", 7), ("ICMPv6 errors of type 2", 8)])
        {
            let fix = verdict["fix"].as_str().unwrap();
            if !has_reasons() {
                assert!(fix.starts_with("mend what drops it (`r2c-agent trace drops` shows "), "{fix}");
                continue;
            }
            let wanted = format!("let {errors} pass there (`tc filter show dev {device} {way}` ");
            assert!(fix.starts_with(&wanted), "{fix}");
            let shown = netns.shell(fix.split('`').nth(1).unwrap());
            assert!(shown.contains(&format!("pref {number} flower")), "it names the filter: {shown}");
        }
        let pass =
            add("ip", 3, "icmp type 3 code 4 action pass") + &add("ipv6", 4, "icmpv6 type 2 action pass");
        netns.batch("tc", &pass);
        is_learned(&lab, &told);
    }
}

/// The way back is another than the way there, and the node believes nobody who comes by the wrong one.
#[test]
fn a_message_by_another_way_than_the_packet() {
    let lab = Lab::lock();
    if !sees_messages(&lab) {
        return;
    }
    let underlay = Underlay::routed(&lab);
    // What is set of the device goes with it.
    let _other_way = lab.router.meanwhile(
        "ip",
        &format!(
            "link add ri address 02:00:0a:63:09:01 up type veth peer name hi netns {}\naddr add 10.99.9.1/24 dev ri\n",
            underlay.hop.path()
        ),
        "link del ri\n",
    );
    // Not even ARP is answered to who comes by the wrong way.
    underlay.hop.ip(
        "link set hi up\naddr add 10.99.9.2/24 dev hi\nneigh add 10.99.9.1 lladdr 02:00:0a:63:09:01 dev hi\n\
         route replace 10.99.1.0/24 via 10.99.9.1 src 10.99.7.2\n",
    );
    lab.router.sysctl("ipv4/conf/ri/rp_filter", "1");
    let reason = if has_reasons() { "reverse path filter" } else { "dropped in this node's own namespace" };
    let words = ["being eaten", reason, "on ri"];
    let to = v4([10, 99, 8, 14], 7903);
    let verdict = expect_one(&lab, to, "10.99.7.2", "dropped", "prerouting", &words);
    if has_reasons() {
        assert_eq!(verdict["drop_reason"], "IP_RPFILTER");
        let fix = verdict["fix"].as_str().unwrap();
        assert!(
            fix.starts_with("`sysctl -w net.ipv4.conf.ri.rp_filter=2` in this node's own namespace"),
            "{fix}"
        );
        lab.router.run("sh", &["-c", fix.split('`').nth(1).unwrap()]);
        is_learned(&lab, &[verdict]);
    }
}

/// A node that limits such messages makes them, and does not send them.
#[test]
fn a_limit_on_messages() {
    let lab = Lab::lock();
    if !sees_messages(&lab) {
        return;
    }
    let _limited = [("ipv6/icmp/ratemask", "0-127"), ("ipv6/icmp/ratelimit", "60000")]
        .map(|(name, value)| lab.router.sysctl_meanwhile(name, value));
    let watch = Watch::new(&lab);
    let to = host(3, 71, 7904);
    // One for each that it lets through, and more.
    lab.web.netns.inside(|| udp_unfragmented(to, 20, 1420));
    let labels = [("event", "made"), ("fate", "limited"), ("family", "ipv6")];
    let unsent = watch.counted("r2c_mtu_events_total", &labels);
    assert!(unsent >= 5, "{unsent} of 20: {:#?}", watch.messages());
    let verdict = watch.verdict(&[("finding", json!("messages_lost")), ("fate", json!("limited"))]);
    let fix = verdict["fix"].as_str().unwrap();
    assert!(fix.starts_with("in this node's own namespace, `sysctl -w net.ipv6.icmp.ratemask="), "{fix}");
    lab.router.run("sh", &["-c", fix.split('`').nth(1).unwrap()]);
    lab.web.netns.inside(|| udp_unfragmented(to, 20, 1420));
    lab.barrier();
    assert_eq!(watch.counted("r2c_mtu_events_total", &labels), unsent, "cured: none is limited any more");
    // The other way to mend it.
    assert!(fix.contains(", or a smaller net.ipv6.icmp.ratelimit, "), "{fix}");
    lab.router.sysctl("ipv6/icmp/ratemask", "0-127");
    lab.router.sysctl("ipv6/icmp/ratelimit", "0");
    lab.web.netns.inside(|| udp_unfragmented(to, 20, 1420));
    lab.barrier();
    assert_eq!(watch.counted("r2c_mtu_events_total", &labels), unsent, "cured: none has to wait for another");
    let made = watch.counted("r2c_mtu_events_total", &[("event", "made"), ("family", "ipv6")]);
    let received = watch.counted("r2c_mtu_events_total", &[("event", "received"), ("family", "ipv6")]);
    assert_eq!(made, unsent + received, "what is not unsent arrives");
}
