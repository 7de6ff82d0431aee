//! With less than all rights: what can still be read is, and what cannot is said to be missing.

use crate::harness::agent::{only_capabilities, without_capabilities};
use crate::harness::pod::{Node, Pod};

use super::{Flannel, Said, WEB, has_devices};

/// What the agent lives in itself it reads with no right at all.
#[test]
fn the_hosts_own_links_need_no_right() {
    const ONLY_NET_ADMIN: &[u64] = &[12];
    let node = Node::new();
    for held in [ONLY_NET_ADMIN, &[]] {
        let said = Said::limited(&node, &["-o", "json"], |command| only_capabilities(command, held));
        assert_eq!(said.code, Some(0), "{}", said.notes);
        assert_eq!(said.link(None, "lo")["interface_kind"], "loopback", "{}", said.text);
        assert!(!said.notes.contains("PTRACE"), "{}", said.notes);
        // IPsec and programs on devices are told to who may change them, in old kernels programs to who may load one.
        let right = if held.is_empty() { "CAP_NET_ADMIN" } else { "CAP_BPF" };
        let is_known = |line: &str| line.contains("not read") && line.contains(right);
        assert!(said.notes.lines().all(is_known), "{}", said.notes);
    }
}

/// Another's, here a router's that stands for the host, are not: what would help is named.
#[test]
fn of_a_host_in_another_namespace_the_right_is_named() {
    if !has_devices() {
        return;
    }
    let flannel = Flannel::new();
    let said = Said::limited(&flannel.node, &[], |command| only_capabilities(command, &[]));
    assert_eq!((said.code, said.text.as_str()), (Some(3), ""), "{}", said.notes);
    for words in ["CAP_SYS_PTRACE", "run it in the host's network namespace"] {
        assert!(said.notes.contains(words), "{}", said.notes);
    }
    flannel.pods.into_iter().for_each(Pod::stop);
}

// Of `linux/capability.h`.
const NET_ADMIN: std::ops::Range<u64> = 12..13;
pub(super) const SYS_ADMIN: std::ops::Range<u64> = 21..22;

/// The DaemonSet's rights: links of pods are read from outside of them, their routes are not.
#[test]
fn without_cap_sys_admin_links_of_pods_are_there() {
    if !has_devices() {
        return;
    }
    let flannel = Flannel::new();
    // The test's host is not the agent's own namespace, as it is on a node: its routes are missing, too.
    flannel.host.ip("link set va mtu 1400\n");
    let said =
        Said::limited(&flannel.node, &["-o", "json"], |command| without_capabilities(command, SYS_ADMIN));
    assert_eq!(said.link(Some(WEB), "eth0")["interface_mtu"], 1450, "{}", said.notes);
    assert_eq!(said.findings("veth_unequal").len(), 1, "{}", said.text);
    let missing: Vec<_> = said.notes.lines().filter(|line| line.contains("CAP_SYS_ADMIN")).collect();
    let named = |name: &str| missing.len() == 1 && missing[0].contains(name);
    assert!(["routes", "PMTU exceptions", "not read", "host", WEB].into_iter().all(named), "{}", said.notes);
    assert_eq!(said.code, Some(0));
    flannel.pods.into_iter().for_each(Pod::stop);
}

#[test]
fn without_cap_net_admin_the_right_is_named() {
    if !has_devices() {
        return;
    }
    let flannel = Flannel::new();
    let said = Said::limited(&flannel.node, &[], |command| without_capabilities(command, NET_ADMIN));
    assert_eq!((said.code, said.text.as_str()), (Some(3), ""), "{}", said.notes);
    assert!(said.notes.contains("CAP_NET_ADMIN"), "{}", said.notes);
    flannel.pods.into_iter().for_each(Pod::stop);
}
