//! What lies between this node and the next one: a VXLAN as flannel sets it up, over an underlay with a small hop.
//!
//! ```text
//!  web - node-1 eth0 10.0.7.2 - 10.0.7.1 hop 10.0.8.1 - 10.0.8.2 eth0 node-2     hop's way to node-2 has MTU 1400
//!        flannel.1 10.244.1.0 ======================== 10.244.2.0 flannel.1 with its pod 10.244.2.30
//! ```

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Result, bail};

use super::node::Node;
use super::resident::{self, Resident};

/// The VXLAN device of a node.
pub(super) const TUNNEL: &str = "flannel.1";
/// What it and the pods behind it have: right for an underlay of 1500.
pub(super) const TUNNEL_MTU: u32 = 1450;
/// The hop as this node sees it: the router of its own network.
pub(super) const HOP: Ipv4Addr = Ipv4Addr::new(10, 0, 7, 1);
/// What the nodes' own cables have.
pub(super) const LINK_MTU: u32 = 1500;
/// What the hop takes towards node-2.
pub(super) const HOP_MTU: u32 = 1400;
/// What a VXLAN adds to each packet: IPv4, UDP, VXLAN and Ethernet headers.
pub(super) const OVERHEAD: u32 = 20 + 8 + 8 + 14;
/// The pod on node-2, and where it listens.
pub(super) const REMOTE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 244, 2, 30), 8080);

/// Tries of the first request: a new link takes a moment before it carries anything.
const TRIES: usize = 30;

/// What stands beyond this node.
pub(super) struct Overlay {
    hop: Resident,
    _node_2: Resident,
}

impl Overlay {
    /// Builds it, and sees a small request of web answered: what stalls then stalls for its size. `None` where the
    /// kernel has no VXLAN.
    pub(super) fn build(node: &mut Node) -> Result<Option<Self>> {
        let (mut hop, mut node_2) = (Resident::settle(None)?, Resident::settle(None)?);
        let (hop_pid, node_2_pid) = (hop.pid(), node_2.pid());
        resident::ip(&format!(
            "link add eth0 type veth peer name near netns {hop_pid}; addr add 10.0.7.2/24 dev eth0; \
             link set eth0 up; route add 10.0.8.0/24 via {HOP}"
        ))?;
        match resident::ip(&tunnel("10.0.7.2", "10.0.8.2", 1, 2)) {
            Err(error) if is_unknown_kind(&error) => return Ok(None),
            built => built?,
        };
        hop.demand("forward")?;
        hop.demand(&format!(
            "ip link set near up; addr add {HOP}/24 dev near; \
             link add far mtu {HOP_MTU} type veth peer name eth0 netns {node_2_pid}; \
             addr add 10.0.8.1/24 dev far; link set far up"
        ))?;
        // Like node-1, node-2 is told that it has 1500: its VXLAN device would not come up with 1450 else.
        // The pod's address is node-2's own: what happens behind that node's tunnel is no part of the story.
        node_2.demand(&format!(
            "ip link set lo up; addr add {}/32 dev lo; addr add 10.0.8.2/24 dev eth0; link set eth0 up; \
             route add default via 10.0.8.1; {}",
            REMOTE.ip(),
            tunnel("10.0.8.2", "10.0.7.2", 2, 1)
        ))?;
        node_2.demand(&format!("serve {}", REMOTE.port()))?;
        // As flannel has its CNI plugin do it; with more, it would be the tunnel's own device that web exceeds.
        resident::ip(&format!("link set veth-web mtu {TUNNEL_MTU}"))?;
        node.web.resident.demand(&format!("ip link set eth0 mtu {TUNNEL_MTU}"))?;

        let order = format!("request {REMOTE} 1");
        let mut said = String::new();
        for _ in 0..TRIES {
            said = node.web.resident.ask(&order)?;
            if said == resident::ANSWERED {
                return Ok(Some(Self { hop, _node_2: node_2 }));
            }
        }
        bail!("web cannot reach {REMOTE} even with a small request: {said}")
    }

    /// Moves the small place from the hop's far side, where the hop speaks of it, to the end of a cable that frees what
    /// is longer and sends no message.
    pub(super) fn silence(&mut self) -> Result<()> {
        self.hop.demand(&format!("ip link set near mtu {HOP_MTU}; link set far mtu {LINK_MTU}"))
    }

    /// Gives both ends of that cable the same MTU.
    pub(super) fn raise(&mut self) -> Result<()> {
        self.hop.demand(&format!("ip link set near mtu {LINK_MTU}"))
    }
}

/// What ip(8) says of a kind of device whose module is not there: itself, or for the kernel.
fn is_unknown_kind(error: &anyhow::Error) -> bool {
    let error = error.to_string().to_lowercase();
    error.contains("unknown device type") || error.contains("operation not supported")
}

/// One end of the VXLAN, in flannel's words; `df set` as in every mode that does not let the underlay cut packets.
fn tunnel(local: &str, remote: &str, own: u8, other: u8) -> String {
    format!(
        "link add {TUNNEL} type vxlan id 1 local {local} remote {remote} dev eth0 dstport 8472 nolearning df set; \
         link set {TUNNEL} mtu {TUNNEL_MTU} up; addr add 10.244.{own}.0/32 dev {TUNNEL}; \
         route add 10.244.{other}.0/24 via 10.244.{other}.0 dev {TUNNEL} onlink"
    )
}
