//! Rules that refuse: nftables, iptables, tc, socket filters.

use std::net::UdpSocket;
use std::time::Duration;

use crate::harness::bpf::{DROP_UDP, XDP_GENERIC, attach};
use crate::harness::guest::is_guest;
use crate::harness::has_reasons;
use crate::harness::netns::{Meanwhile, Netns};
use crate::harness::packet::{refuse_all, udp};

use super::{DB, FORWARDED, Lab, RECEIVED, SENT, WEB, Want, db4, db6, to_port};

const NETFILTER: &[&str] = &["NETFILTER_DROP"];

/// What nft drops it frees by itself, on 6.1 and later: only a rule does so there. Before, netfilter frees it.
fn by_nft(want: Want<'static>) -> Want<'static> {
    let function = if has_reasons() { &["nft_do_chain"] } else { &["nf_hook_slow"] };
    Want { reason: NETFILTER, function, class: "policy", by_place: Some("netfilter"), ..want }
}

#[test]
fn nft_in_the_forward_chain() {
    let lab = Lab::lock();
    let _rule = lab.router.meanwhile(
        "nft",
        "add table inet r2c\nadd chain inet r2c forward { type filter hook forward priority 0; }\n\
         add rule inet r2c forward udp dport 7001 drop\n",
        "delete table inet r2c\n",
    );
    let want = by_nft(FORWARDED);
    let watch = lab.watch();
    lab.web.netns.inside(|| udp(db4(7001), 3, 100));
    watch.expect(3, &to_port(7001), &want);
    let watch = lab.watch();
    lab.web.netns.inside(|| udp(db6(7001), 3, 100));
    watch.expect(3, &to_port(7001), &want);
}

#[test]
fn nft_in_the_output_chain() {
    let lab = Lab::lock();
    let _rule = lab.web.netns.meanwhile(
        "nft",
        "add table inet r2c\nadd chain inet r2c output { type filter hook output priority 0; }\n\
         add rule inet r2c output udp dport 7002 drop\n",
        "delete table inet r2c\n",
    );
    let watch = lab.watch();
    lab.web.netns.inside(|| udp(db4(7002), 3, 100));
    // The device comes after this hook (`ip_output`).
    let want = Want { interface: &["-"], ..by_nft(SENT) };
    watch.expect(3, &to_port(7002), &want);
}

#[test]
fn iptables_in_the_input_chain() {
    let lab = Lab::lock();
    let rule = ["INPUT", "-p", "udp", "--dport", "7003", "-j", "DROP"];
    lab.db.netns.run("iptables-legacy", &[&["-A"], rule.as_slice()].concat());
    let watch = lab.watch();
    lab.web.netns.inside(|| udp(db4(7003), 3, 100));
    lab.db.netns.run("iptables-legacy", &[&["-D"], rule.as_slice()].concat());
    // There conntrack and NAT drop as well.
    let want = Want { reason: NETFILTER, function: &["nf_hook_slow"], class: "netfilter", ..RECEIVED };
    watch.expect(3, &to_port(7003), &want);
}

/// A classic BPF program that says `TC_ACT_SHOT` to all IPv4: kernels without `act_gact` have this, too.
fn shoots(netns: &Netns, way: &str) -> Meanwhile {
    netns.meanwhile(
        "tc",
        &format!(
            "qdisc add dev eth0 clsact\n\
             filter add dev eth0 {way} protocol ip prio 1 bpf da bytecode '1,6 0 0 2,'\n"
        ),
        "qdisc del dev eth0 clsact\n",
    )
}

#[test]
fn tc_at_ingress() {
    let lab = Lab::lock();
    let _filter = shoots(&lab.db.netns, "ingress");
    let watch = lab.watch();
    lab.web.netns.inside(|| udp(db4(7004), 3, 100));
    let want = Want {
        reason: &["TC_INGRESS"],
        // All but the last is inlined in some build or other.
        function: &["sch_handle_ingress", "tcf_classify", "__netif_receive_skb_core"],
        class: "policy",
        by_place: Some("other"),
        ..RECEIVED
    };
    watch.expect(3, &to_port(7004), &want);
}

/// As network plugins that are made of BPF programs do.
#[test]
fn tc_at_egress() {
    let lab = Lab::lock();
    let _filter = shoots(&lab.web.netns, "egress");
    let watch = lab.watch();
    lab.web.netns.inside(|| udp(db4(7006), 3, 100));
    let want = Want {
        reason: &["TC_EGRESS"],
        function: &["sch_handle_egress", "tcf_classify", "__dev_queue_xmit"],
        class: "policy",
        source: Some(WEB),
        destination: Some(DB),
        ..SENT
    };
    watch.expect(3, &to_port(7006), &want);
}

#[test]
fn xdp_in_software() {
    let lab = Lab::lock();
    let socket = lab.db.netns.inside(|| UdpSocket::bind(db4(7008)).unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let arrives = || {
        lab.web.netns.inside(|| udp(db4(7008), 1, 100));
        socket.recv(&mut [0; 200]).is_ok()
    };
    assert!(arrives());
    let program = match lab.db.netns.inside(|| attach(XDP_GENERIC, DROP_UDP, "eth0")) {
        Ok(program) => program,
        Err(errno) => {
            assert!(!is_guest(), "a guest's kernel has XDP: {errno}");
            return;
        }
    };
    let watch = lab.watch();
    lab.web.netns.inside(|| udp(db4(7008), 3, 100));
    let want = Want {
        // Some builds of some kernels say so.
        reason: &["NOT_SPECIFIED", "XDP"],
        function: &["netif_receive_generic_xdp", "do_xdp_generic", "bpf_prog_run_generic_xdp"],
        class: "policy",
        ..RECEIVED
    };
    watch.expect(3, &to_port(7008), &want);
    drop(program);
    assert!(arrives(), "cured");
}

#[test]
fn a_socket_filter() {
    let lab = Lab::lock();
    let socket = lab.db.netns.inside(|| UdpSocket::bind(db4(7005)).unwrap());
    refuse_all(&socket);
    let watch = lab.watch();
    lab.web.netns.inside(|| udp(db4(7005), 3, 100));
    let want = Want {
        reason: &["SOCKET_FILTER"],
        function: &["udp_queue_rcv_one_skb"],
        class: "policy",
        // A full buffer is found in the same place.
        by_place: Some("queue"),
        source: Some(WEB),
        destination: Some(DB),
        ..RECEIVED
    };
    watch.expect(3, &to_port(7005), &want);
}
