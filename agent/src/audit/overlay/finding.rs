//! One thing that is wrong: where, whose, the numbers, how sure that is, and what to set.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::links::{is_plain, shell_word};
use crate::pod::Pod;
use crate::sink::Confidence;

/// What is wrong, as programs may ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Name {
    /// Two ends of a veth have different MTUs: the smaller frees what is too large for it and tells nobody.
    VethUnequal,
    /// A bridge has ports with different MTUs: the same.
    BridgePortUnequal,
    /// A tunnel promises more than what carries it takes.
    OverlayTooLarge,
    /// A route promises more than its device takes.
    RouteMtu,
    /// Pods send larger packets than the device that leads to the other nodes takes.
    PodLargerThanPath,
    /// Pods send larger packets than fit with what IPsec adds.
    PodLargerThanIpsec,
    /// What is behind a bridge or a veth in a pod takes more than the device that leads out of the pod.
    InnerLargerThanUplink,
    /// A device's token bucket holds less than a frame of its MTU: it drops what is longer and tells nobody.
    BurstTooSmall,
    /// A device that IPv6 is expected on takes less than IPv6 needs.
    Ipv6Off,
}

impl Name {
    /// Whether what is too large may be gone, or late, without a message to anybody. Else whoever sends it is told.
    #[must_use]
    pub const fn is_silent(self) -> bool {
        matches!(
            self,
            Self::VethUnequal | Self::BridgePortUnequal | Self::OverlayTooLarge | Self::BurstTooSmall
        )
    }

    /// In `snake_case`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::VethUnequal => "veth_unequal",
            Self::BridgePortUnequal => "bridge_port_unequal",
            Self::OverlayTooLarge => "overlay_too_large",
            Self::RouteMtu => "route_mtu",
            Self::PodLargerThanPath => "pod_larger_than_path",
            Self::PodLargerThanIpsec => "pod_larger_than_ipsec",
            Self::InnerLargerThanUplink => "inner_larger_than_uplink",
            Self::BurstTooSmall => "burst_too_small",
            Self::Ipv6Off => "ipv6_off",
        }
    }
}

/// One thing that is wrong. Names in its texts are raw: whoever prints them escapes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub name: Name,
    /// How sure.
    pub confidence: Confidence,
    /// The pod whose namespace the interface is in; `None` for the host's.
    pub owner: Option<Arc<Pod>>,
    /// The interface that is too large.
    pub interface: String,
    /// Its kind.
    pub kind: String,
    /// Its MTU in bytes.
    pub interface_mtu: u32,
    /// Bytes of the largest packet that is sent by it: its MTU, or a route's.
    pub promises: u32,
    /// Bytes it should have.
    pub fits: u32,
    /// Why, in one sentence without an end.
    pub what: String,
    /// What to set.
    pub fix: String,
    /// Fragments that were made so far in the namespace that a tunnel's packets leave by, of these or of other packets.
    pub fragments: Option<u64>,
    /// Pods that are hurt, in order of their names.
    pub pods: Vec<Arc<Pod>>,
}

/// Names of one list that are told; the rest is a number.
pub(super) const TOLD: usize = 3;

impl Finding {
    /// The verdict in one line.
    #[must_use]
    pub fn sentence(&self) -> String {
        let mut text = self.what.clone();
        if let Some(made) = self.fragments.filter(|made| *made > 0) {
            let _ = write!(text, "; {made} fragments were made there so far, of these or of other packets");
        }
        if !self.pods.is_empty() {
            let _ = write!(text, "; hurt: {}", list(self.pods.iter().map(|pod| full_name(pod))));
        }
        let _ = write!(text, " ({} confidence). Fix: {}", self.confidence.name(), self.fix);
        text
    }
}

/// `a, b, c and 7 more`.
pub(super) fn list(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(TOLD);
    let mut text = names.take(TOLD).collect::<Vec<_>>().join(", ");
    if more > 0 {
        let _ = write!(text, " and {more} more");
    }
    text
}

/// `namespace/name`.
pub(super) fn full_name(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

/// The command that sets an MTU, and where it is to be given.
pub(super) fn set(interface: &str, mtu: u32, owner: Option<&Pod>) -> String {
    let command = format!("ip link set {} mtu {mtu}", quoted(interface));
    match owner {
        Some(pod) => format!("{command} (in {})", full_name(pod)),
        None => command,
    }
}

/// A name as a shell takes it for one word: a tenant may call a device `$(reboot)`, and a person pastes what is told.
pub(super) fn quoted(name: &str) -> String {
    if is_plain(name) { name.to_owned() } else { format!("dev {}", shell_word(name)) }
}

/// What usually sets the MTU of a device of this name, if that is well known.
pub(super) fn set_by(interface: &str) -> Option<&'static str> {
    const CALICO: &str = "Calico sets it: calicoNetwork.mtu";
    const KNOWN: [(&str, &str); 6] = [
        ("flannel", "flannel sets it from its interface when it starts"),
        ("vxlan.calico", CALICO),
        ("vxlan-v6.calico", CALICO),
        ("tunl0", CALICO),
        ("wireguard.cali", CALICO),
        ("cilium_", "Cilium sets it: its Helm value MTU"),
    ];
    KNOWN.iter().find(|(start, _)| interface.starts_with(start)).map(|(_, hint)| *hint)
}
