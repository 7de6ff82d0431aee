//! A message that is sent in the middle of the one that is received: by an IPv6 tunnel that tells the sender inside it.
//!
//! ```text
//!  web ------ router ------ hop ------ tip        hop's way to tip has MTU 1400
//!  tun6 ============================== fd99:8::N
//! ```

use std::fs;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::lab::Lab;
use crate::harness::packet::udp_unfragmented;
use crate::harness::until;

use super::ladder::trace;
use super::underlay::Underlay;
use super::{of, sees_messages, v6};

/// What the kernel itself counts in `web`'s namespace.
fn packet_too_bigs(lab: &Lab) -> u64 {
    let text = lab.web.netns.inside(|| fs::read_to_string("/proc/thread-self/net/snmp6").unwrap());
    let row = text.lines().find_map(|line| line.strip_prefix("Icmp6InPktTooBigs")).unwrap();
    row.trim().parse().unwrap()
}

/// `icmpv6_notify` gives the hop's message to the tunnel (`ip6ip6_err`), which makes one of its own (`icmp6_send`) before
/// that returns. Of both the end is to be found, whether it says of which packet (fexit) or not (kretprobe). The same in
/// IPv4 does not exist: `ipip_err` tells the route cache, and sends nothing.
#[test]
fn a_message_about_a_tunnel_makes_another() {
    let lab = Lab::lock();
    if !sees_messages(&lab) {
        return;
    }
    let underlay = Underlay::routed(&lab);
    for (rung, own) in [("fentry", 2_u16), ("kprobe", 3)] {
        // A far end of its own: what is known of the way to one would keep the packet from it.
        let net = 0x60 + own;
        lab.web.netns.ip(&format!(
            "link add tun6 type ip6tnl mode ip6ip6 local fd99:1::2 remote fd99:8::{own} encaplimit none\n\
             link set tun6 mtu 1460 up\naddr add fd99:{net:x}::1/64 dev tun6 nodad\n"
        ));
        let mut agent = trace(&lab, &["--rung", rung, "-o", "json"]);
        let before = packet_too_bigs(&lab);
        let to = v6(net, 7820 + own);
        // 1,398 bytes: the tunnel takes them, and with its 40 the hop does not.
        lab.web.netns.inside(|| udp_unfragmented(to, 1, 1350));
        let count = until("the kernel has received two", || {
            Some(packet_too_bigs(&lab) - before).filter(|count| *count >= 2)
        });
        let ours = json!(to.ip().to_string());
        let verdict = agent.stdout.wait(0, |lines| {
            let mut verdicts = lines.iter().filter_map(|line| of(line, true));
            verdicts.find(|line| {
                line["destination_ip"] == ours && line["message"].as_str().unwrap().contains(" received")
            })
        });
        agent.signal(Signal::SIGINT);
        assert_eq!(agent.ended(), 0, "{}", agent.stderr.text());
        lab.web.netns.ip("link del tun6\n");
        let said = agent.stderr.text();
        let counted: u64 = said
            .lines()
            .filter(|line| line.contains(" were told so") && line.contains(", ipv6"))
            .filter_map(|line| line.strip_prefix("r2c-agent:")?.trim().split(' ').next()?.parse::<u64>().ok())
            .sum();
        assert_eq!((count, counted), (2, 2), "by {rung}: {said}\n{}", agent.stdout.text());
        let verdict = verdict.unwrap_or_else(|| panic!("by {rung}: {said}\n{}", agent.stdout.text()));
        assert!(verdict["message"].as_str().unwrap().contains("2 received"), "by {rung}: {verdict:#}");
    }
    drop(underlay);
}
