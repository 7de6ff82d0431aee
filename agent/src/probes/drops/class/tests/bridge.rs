//! What a bridge does not pass on: some of it nobody misses.

use super::*;

#[test]
fn a_bridge_does_not_send_back_by_the_port_that_it_came_by() {
    for function in ["br_forward", "br_handle_frame_finish"] {
        assert_eq!(judge("NOT_SPECIFIED", function, fact::TO_ITSELF), harmful(Class::Hairpin));
        assert_eq!(judge("NOT_SPECIFIED", function, 0), harmful(Class::BridgePort));
    }
    assert_eq!(judge("NETFILTER_DROP", "nf_hook_slow", fact::TO_ITSELF), harmful(Class::Netfilter));
}

#[test]
fn a_bridge_without_ports_harms_nobody_and_one_with_ports_does() {
    let drops = [
        ("NOT_SPECIFIED", "br_dev_xmit"),
        ("", "br_flood"),
        ("NO_TX_TARGET", "br_flood"),
        ("QDISC_DROP", "__dev_queue_xmit"),
        ("", "kfree_skb_list"),
    ];
    for (reason, function) in drops {
        assert_eq!(judged(reason, function).harm, Harm::Harmful, "{reason} in {function}");
        assert_eq!(judge(reason, function, fact::PORTLESS).harm, Harm::Benign, "{reason} in {function}");
    }
    for (reason, function) in [
        ("NETFILTER_DROP", "nft_do_chain"),
        ("NEIGH_FAILED", "arp_error_report"),
        ("PKT_TOO_BIG", ""),
        ("IP_OUTNOROUTES", ""),
        ("NOMEM", "br_flood"),
    ] {
        assert_eq!(
            judge(reason, function, fact::PORTLESS),
            judged(reason, function),
            "{reason} in {function}"
        );
    }
}

/// What a switch floods to a bridge that has a NIC as a port is for others. What came from a pod or a virtual machine, is for a
/// pod, or is refused by a port that is blocked, is lost.
#[test]
fn what_strangers_say_to_each_other_harms_nobody() {
    let strangers = fact::OTHERS | fact::STRANGERS;
    for function in ["br_forward", "br_handle_frame_finish", "maybe_deliver", "br_flood"] {
        for reason in ["", "NOT_SPECIFIED", "NO_TX_TARGET"] {
            assert_eq!(judge(reason, function, strangers), benign(Class::BridgePort), "{reason} {function}");
            assert_eq!(
                judge(reason, function, fact::OTHERS),
                harmful(Class::BridgePort),
                "{reason} {function}"
            );
        }
    }
    for (reason, function) in
        [("NOT_SPECIFIED", "br_handle_frame"), ("BRIDGE_INGRESS_STP_STATE", "br_handle_frame")]
    {
        assert_eq!(judge(reason, function, strangers), harmful(Class::BridgePort), "{reason} {function}");
    }
    assert_eq!(judge("NETFILTER_DROP", "nft_do_chain", strangers), harmful(Class::Policy));
    assert_eq!(
        judge("NOT_SPECIFIED", "br_handle_frame_finish", strangers | fact::DOWN).class,
        Class::DeviceDown,
        "a port that is down is told"
    );
}
