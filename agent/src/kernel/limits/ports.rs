//! What the ports of Open vSwitch take, by rtnetlink: `RTM_GETLINK`. One that takes less than a packet frees it and tells nobody
//! but the kernel's log (`ovs_vport_send`).

use std::io;
use std::sync::Arc;

use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::{Lists, Netlink, attribute, find, number, text};
use super::qdisc::MOST;

/// `linux/rtnetlink.h`, `linux/if_link.h`.
const RTM_GETLINK: u16 = 18;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_EXT_MASK: u16 = 29;
/// `RTEXT_FILTER_SKIP_STATS`: most of an answer is counters.
const SKIP_STATS: u32 = 8;
/// `sizeof(struct ifinfomsg)`; in it `ifi_flags`.
const IFINFOMSG: usize = 16;
const FLAGS: usize = 8;
/// `IFF_UP` and `IFF_LOWER_UP`: a port without carrier takes nothing.
const UP: u32 = 1 | 1 << 16;

/// The kind of its devices, and of what they make of others.
const OPENVSWITCH: &[u8] = b"openvswitch";

/// A port of Open vSwitch that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its device.
    pub name: String,
    /// What it takes, bytes.
    pub mtu: u32,
}

/// All of them, those that take least first. A pod that starts changes the list while it is read: then once again.
pub(super) fn read() -> io::Result<Arc<[Port]>> {
    let read = || listed(&mut Netlink::open(NETLINK_ROUTE, MOST)?);
    let has_changed = |error: &io::Error| error.kind() == io::ErrorKind::Interrupted;
    read().or_else(|error| if has_changed(&error) { read() } else { Err(error) })
}

fn listed(lists: &mut impl Lists) -> io::Result<Arc<[Port]>> {
    let mut ports = Vec::new();
    lists.dump(RTM_GETLINK, &question(), |payload| ports.extend(port(payload)))?;
    ports.sort_by(|one: &Port, other| (one.mtu, &one.name).cmp(&(other.mtu, &other.name)));
    Ok(ports.into())
}

fn question() -> Vec<u8> {
    [vec![0; IFINFOMSG], attribute(IFLA_EXT_MASK, &SKIP_STATS.to_ne_bytes())].concat()
}

/// The port, if the device is one that is up: a bridge's own, or one that it was given.
fn port(payload: &[u8]) -> Option<Port> {
    let attributes = payload.get(IFINFOMSG..)?;
    let is_up = number(payload.get(FLAGS..)?)? & UP == UP;
    let about = find(attributes, IFLA_LINKINFO)?;
    let is_port = [IFLA_INFO_KIND, IFLA_INFO_SLAVE_KIND]
        .into_iter()
        .any(|kind| find(about, kind).is_some_and(|kind| text(kind) == OPENVSWITCH));
    let name = String::from_utf8_lossy(text(find(attributes, IFLA_IFNAME)?)).into_owned();
    (is_up && is_port).then_some(Port { name, mtu: number(find(attributes, IFLA_MTU)?)? })
}

#[cfg(test)]
mod tests {
    use super::super::netlink::{Answers, attribute as attr};
    use super::*;

    /// As the kernel answers of a device.
    fn answer(name: &[u8], mtu: u32, flags: u32, about: &[(u16, &[u8])]) -> Vec<u8> {
        let mut payload = vec![0xff; IFINFOMSG];
        payload[FLAGS..FLAGS + 4].copy_from_slice(&flags.to_ne_bytes());
        payload.extend(attr(IFLA_IFNAME, name));
        payload.extend(attr(IFLA_MTU, &mtu.to_ne_bytes()));
        let about: Vec<_> = about.iter().flat_map(|(kind, value)| attr(*kind, value)).collect();
        payload.extend(attr(IFLA_LINKINFO, &about));
        payload
    }

    #[test]
    fn ports_that_are_up_are_told_those_that_take_least_first() {
        let given = (IFLA_INFO_SLAVE_KIND, &b"openvswitch\0"[..]);
        let asked = [&[0; 16][..], &[8, 0, 29, 0, 8, 0, 0, 0]].concat();
        let devices = vec![
            answer(b"pa\0", 1500, 0x11043, &[(IFLA_INFO_KIND, b"veth\0"), given]),
            answer(b"br-int\0", 1450, 0x11003, &[(IFLA_INFO_KIND, b"openvswitch\0")]),
            answer(b"ovs-system\0", 1400, 0x11002, &[(IFLA_INFO_KIND, b"openvswitch\0")]),
            answer(b"no-carrier\0", 1400, 0x1003, &[given]),
            answer(b"eth0\0", 1400, 0x11043, &[(IFLA_INFO_KIND, b"veth\0")]),
            answer(b"of-a-bridge\0", 1400, 0x11043, &[(IFLA_INFO_SLAVE_KIND, b"bridge\0")]),
            answer(b"p\xff\0", 1500, UP, &[given]),
        ];
        let ports = listed(&mut Answers(vec![(18, asked, devices)])).unwrap();
        let told: Vec<_> = ports.iter().map(|port| (port.name.as_str(), port.mtu)).collect();
        assert_eq!(told, [("br-int", 1450), ("pa", 1500), ("p\u{fffd}", 1500)]);
    }

    #[test]
    fn what_is_cut_off_is_nothing() {
        let whole = answer(b"pa\0", 1500, UP, &[(IFLA_INFO_SLAVE_KIND, b"openvswitch\0")]);
        assert!(port(&whole).is_some());
        for length in 0..whole.len() {
            assert_eq!(port(&whole[..length]), None, "{length} bytes");
        }
    }

    /// Whatever this machine has: the kernel understands the question.
    #[test]
    fn the_kernel_answers() {
        assert!(read().is_ok());
    }
}
