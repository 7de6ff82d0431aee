//! What is freed without a word: where it was tells whose port it was.

use agent_common::mtu::{Device, Kind, MtuRecord};

use super::{device, event, record};
use crate::probe::Pods;
use crate::probes::mtu::event::TooBig;
use crate::probes::mtu::words;

/// A packet that is too large for the device itself comes by what is above it, unless a bridge hands it on.
#[test]
fn a_device_that_is_no_bridges_port_is_not_called_one() {
    let port = MtuRecord {
        route: Device::default(),
        device: device("uplink", "veth", 1400),
        ..record(Kind::Oversize, 1400)
    };
    for (function, says) in [
        (None, "bridge port uplink takes"),
        (Some("br_dev_queue_push_xmit"), "bridge port uplink takes"),
        (Some("nf_br_ip_fragment"), "bridge port uplink takes"),
        (
            Some("__dev_forward_skb"),
            "uplink takes 1400 bytes, gets longer ones to send, and frees them without",
        ),
    ] {
        let event = TooBig { function: function.map(Into::into), ..event(&port) };
        let judged = words::judge(&event, &Pods::default(), 0, None).unwrap();
        assert!(judged.what.starts_with(says), "{}", judged.what);
        let above = judged.fix.unwrap().starts_with("give what sends by uplink (an ipvlan ");
        assert_eq!(above, !says.starts_with("bridge"));
    }
}
