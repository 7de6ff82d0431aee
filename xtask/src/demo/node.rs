//! The node: this network namespace as a router between two pods and a far side, and what kubelet would leave on disk.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::resident::{self, Resident};
use crate::run::Run as _;

/// The node as its pods see it: each has it at the other end of its own cable.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 1);
/// The far side, behind a hop that takes [`SMALL_MTU`] bytes.
pub(super) const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// An address for documentation (RFC 5737) that the node has no route to.
pub(super) const NOWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
/// The small hop's MTU; the pods' own links take more.
pub(super) const SMALL_MTU: u32 = 1280;
/// Where db listens.
pub(super) const DB_PORT: u16 = 5432;
/// The pods' namespace.
pub(super) const NAMESPACE: &str = "shop";

/// Tries of the first connection: a new link takes a moment before it carries anything.
const TRIES: usize = 30;

/// Where kubelet's traces of a pod go.
pub(super) struct Roots<'a> {
    /// The cgroup that `kubepods.slice` is made in.
    pub(super) cgroup: &'a Path,
    /// `/var/log/pods`.
    pub(super) pod_logs: &'a Path,
}

/// A pod of one process.
pub(super) struct Pod {
    pub(super) address: Ipv4Addr,
    pub(super) resident: Resident,
}

/// All that stands on this node.
pub(super) struct Node {
    pub(super) web: Pod,
    pub(super) db: Pod,
    _far: Resident,
}

impl Node {
    /// Builds it, and sees web reach db: what follows then has the causes that it is said to have.
    pub(super) fn build(roots: &Roots<'_>) -> Result<Self> {
        // Of this network namespace, which is the guest's or the demo's own.
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("net.ipv4.ip_forward")?;
        resident::ip("link set lo up")?;
        // Where this node's CNI plugin would put its policies.
        nft("table ip cni { chain forward { type filter hook forward priority 0; }; }")?;
        let web = "6f8e0f6c-6a7b-4d52-9d3e-2b8f5f0c7a11";
        let db = "c2d4b1a9-0f3e-4b77-8a65-91e7d0c3f5b2";
        let web = Pod::start("web", web, Ipv4Addr::new(10, 244, 1, 10), roots)?;
        let db = Pod::start("db", db, Ipv4Addr::new(10, 244, 1, 20), roots)?;
        let mut node = Self { web, db, _far: far_side()? };
        node.db.resident.demand(&format!("listen {DB_PORT}"))?;
        let order = format!("connect {}:{DB_PORT}", node.db.address);
        let mut said = String::new();
        for _ in 0..TRIES {
            said = node.web.resident.ask(&order)?;
            if said == "connected" {
                return Ok(node);
            }
        }
        bail!("web cannot reach db even before anything was broken: {said}")
    }
}

impl Pod {
    /// Its files as kubelet and containerd leave them, its process, its cable to the node.
    fn start(name: &str, uid: &str, address: Ipv4Addr, roots: &Roots<'_>) -> Result<Self> {
        let cgroup = container_cgroup(roots.cgroup, uid);
        let logs = roots.pod_logs.join(format!("{NAMESPACE}_{name}_{uid}")).join(name);
        for directory in [&cgroup, &logs] {
            fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        }
        let mut resident = Resident::settle(Some(&cgroup))?;
        let pid = resident.pid();
        resident::ip(&format!(
            "link add veth-{name} type veth peer name eth0 netns {pid}; addr add {GATEWAY}/32 dev veth-{name}; \
             link set veth-{name} up; route add {address} dev veth-{name}"
        ))?;
        resident.demand(&format!(
            "ip link set lo up; addr add {address}/32 dev eth0; link set eth0 up; \
             route add {GATEWAY} dev eth0; route add default via {GATEWAY}"
        ))?;
        Ok(Self { address, resident })
    }
}

/// A network beyond the node's uplink, whose MTU is smaller than the pods'.
fn far_side() -> Result<Resident> {
    let mut far = Resident::settle(None)?;
    let pid = far.pid();
    resident::ip(&format!(
        "link add uplink mtu {SMALL_MTU} type veth peer name eth0 mtu {SMALL_MTU} netns {pid}; \
         addr add 198.51.100.1/24 dev uplink; link set uplink up"
    ))?;
    far.demand(&format!(
        "ip link set lo up; addr add {FAR}/24 dev eth0; link set eth0 up; route add default via 198.51.100.1"
    ))?;
    Ok(far)
}

/// As kubelet's systemd driver and containerd name it.
fn container_cgroup(top: &Path, uid: &str) -> PathBuf {
    let class = "kubepods.slice/kubepods-burstable.slice";
    let pod = format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_"));
    let container = uid.replace('-', "").repeat(2);
    top.join(class).join(pod).join(format!("cri-containerd-{container}.scope"))
}

/// nft(8)'s words, in this network namespace.
pub(super) fn nft(words: &str) -> Result<()> {
    Command::new("nft").arg(words).dies_with_us().run()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::container_cgroup;

    #[test]
    fn a_container_s_cgroup_has_its_pods_uid_and_64_digits() {
        let cgroup = container_cgroup(Path::new("/c"), "6f8e0f6c-6a7b-4d52-9d3e-2b8f5f0c7a11");
        let text = cgroup.to_string_lossy();
        assert!(text.contains("-pod6f8e0f6c_6a7b_4d52_9d3e_2b8f5f0c7a11.slice/"), "{text}");
        let id = text.rsplit("cri-containerd-").next().unwrap().trim_end_matches(".scope");
        assert_eq!(id.len(), 64);
    }
}
