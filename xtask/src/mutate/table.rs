//! Lines of the kernel side, each broken in one way, and the test on a real kernel that must notice.

use anyhow::{Result, bail};

/// One line that is broken.
pub(super) struct Mutation {
    /// As the command line and the report name it.
    pub(super) name: &'static str,
    pub(super) file: &'static str,
    /// What is there now, once in its file.
    find: &'static str,
    replace: &'static str,
    /// The test that must fail, by its whole name.
    pub(super) test: &'static str,
    /// The kernel that comes by this line, where not all do.
    pub(super) kernel: Option<&'static str>,
}

pub(super) const MUTATIONS: [Mutation; 13] = [
    Mutation {
        name: "ring-too-small",
        file: "agent/src/node.rs",
        find: "ring_bytes: limits.ring_kib * 1024,",
        replace: "ring_bytes: limits.ring_kib * 16,",
        test: "mtu::ring::a_burst_has_room_in_the_ring",
        kernel: None,
    },
    Mutation {
        name: "mtu-ring-full-uncounted",
        file: "agent-ebpf/src/bin/mtu/seen.rs",
        find: "            tally.ring_full();\n",
        replace: "",
        test: "mtu::ring::what_was_not_examined_is_no_all_clear",
        kernel: None,
    },
    Mutation {
        name: "drops-ring-full-uncounted",
        file: "agent-ebpf/src/bin/drops.rs",
        find: "        tally.ring_full();\n",
        replace: "",
        test: "storm::what_was_not_examined_is_no_all_clear",
        kernel: None,
    },
    Mutation {
        name: "vlan-room-too-large",
        file: "agent-ebpf/src/device.rs",
        find: "const VLAN_TAG: u32 = 4;",
        replace: "const VLAN_TAG: u32 = 5;",
        test: "mtu::silent::a_byte_more_than_a_vlan_tag_has_room_for",
        kernel: None,
    },
    Mutation {
        name: "vlan-room-missing",
        file: "agent-ebpf/src/device.rs",
        find: "const VLAN_TAG: u32 = 4;",
        replace: "const VLAN_TAG: u32 = 3;",
        test: "mtu::silent::a_veth_whose_other_end_is_down",
        kernel: None,
    },
    Mutation {
        name: "stalled-a-timeout-late",
        file: "agent-ebpf/src/bin/mtu/stall.rs",
        find: "u32::from(retransmits) < TIMEOUTS",
        replace: "u32::from(retransmits) <= TIMEOUTS",
        test: "mtu::black_hole::a_second_connection_proves_that_the_peer_lives",
        kernel: None,
    },
    Mutation {
        name: "ports-within-options",
        file: "agent-ebpf/src/packet/header.rs",
        find: "usize::from(self.byte(0) & 0xf) * 4",
        replace: "20",
        test: "drops::receive::a_closed_udp_port_behind_options",
        kernel: None,
    },
    Mutation {
        name: "no-header-with-options",
        file: "agent-ebpf/src/packet/header.rs",
        find: "0x45..=0x4f => 4,",
        replace: "0x45 => 4,",
        test: "drops::receive::a_closed_udp_port_behind_options",
        kernel: None,
    },
    Mutation {
        name: "only-the-source-port",
        file: "agent-ebpf/src/filter.rs",
        find: "is_wanted_port(u16::from_be(source)) || is_wanted_port(u16::from_be(destination))",
        replace: "is_wanted_port(u16::from_be(source)) || is_wanted_port(u16::from_be(source))",
        test: "storm::what_is_asked_for_is_shown_whatever_else_is_dropped",
        kernel: None,
    },
    Mutation {
        name: "no-other-end",
        file: "agent-ebpf/src/bin/mtu/oversize.rs",
        find: "fill::<Probed>(&raw mut (*record).route, peer);",
        replace: "fill::<Probed>(&raw mut (*record).route, ptr::null());",
        test: "mtu::silent::a_veth_whose_other_end_takes_less",
        kernel: None,
    },
    Mutation {
        name: "a-ports-own-mtu-forgotten",
        file: "agent-ebpf/src/bin/mtu/oversize.rs",
        find: "let peer = if mtu == 0 {",
        replace: "let peer = if mtu != 1 {",
        test: "mtu::silent::a_bridge_port_that_takes_less",
        kernel: None,
    },
    Mutation {
        name: "delivered-for-ever",
        file: "agent-ebpf/src/noted.rs",
        find: "is_within(at, 25)",
        replace: "is_within(at, u64::MAX)",
        test: "mtu::copies::a_message_that_is_lost_where_another_has_arrived",
        kernel: None,
    },
    Mutation {
        name: "unsent-is-lost",
        file: "agent-ebpf/src/bin/mtu/stall.rs",
        find: "retransmit_typed(sk: *const u8, skb: *const u8, error: i32) -> Option<()> {\n    if error != 0 {",
        replace: "retransmit_typed(sk: *const u8, skb: *const u8, error: i32) -> Option<()> {\n    if error == 1 {",
        test: "mtu::unsent::what_is_not_sent_is_not_sent_again",
        // Whose tracepoint has an error.
        kernel: Some("7.2"),
    },
];

impl Mutation {
    /// The file's text with the line broken.
    pub(super) fn apply(&self, text: &str) -> Result<String> {
        match text.matches(self.find).count() {
            1 => Ok(text.replacen(self.find, self.replace, 1)),
            times => bail!("{}: {times} times in {}: {}", self.name, self.file, self.find),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fs;

    use super::MUTATIONS;
    use crate::tree;

    /// A line that has changed since is no longer broken, and then its test notices nothing.
    #[test]
    fn each_line_is_there_and_each_test_as_well() {
        let mut names = HashSet::new();
        for mutation in MUTATIONS {
            assert!(names.insert(mutation.name), "{} is there twice", mutation.name);
            let text = fs::read_to_string(tree::root().join(mutation.file)).unwrap();
            assert_ne!(mutation.apply(&text).unwrap(), text, "{}", mutation.name);
            let (path, name) = mutation.test.rsplit_once("::").unwrap();
            let file = format!("tests/src/{}.rs", path.replace("::", "/"));
            let text = fs::read_to_string(tree::root().join(&file)).unwrap();
            assert!(text.contains(&format!("#[test]\nfn {name}() {{")), "{name} is no test of {file}");
        }
    }
}
