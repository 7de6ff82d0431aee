//! A bridge of Open vSwitch with ports and flows, by generic netlink alone: no daemon is needed for what the kernel does.

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use std::os::fd::{AsRawFd as _, OwnedFd};

use super::netns::Netns;

/// `linux/netlink.h`, `linux/genetlink.h`, `linux/openvswitch.h`.
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const REQUEST_AND_ACK: u16 = 1 | 4;
const NLMSG_ERROR: u16 = 2;
const NEW: u8 = 1;
const FLOW_SET: u8 = 4;
const DP_NAME: u16 = 1;
const DP_UPCALL_PID: u16 = 2;
const VPORT_NUMBER: u16 = 1;
const VPORT_TYPE: u16 = 2;
const VPORT_NAME: u16 = 3;
const VPORT_UPCALL_PID: u16 = 5;
const VPORT_TYPE_NETDEV: u32 = 1;
const FLOW_KEY: u16 = 1;
const FLOW_ACTIONS: u16 = 2;
const FLOW_MASK: u16 = 7;
const KEY_IN_PORT: u16 = 3;
const KEY_ETHERNET: u16 = 4;
const KEY_ETHERTYPE: u16 = 6;
const KEY_IPV4: u16 = 7;
const KEY_IPV6: u16 = 8;
const ACTION_OUTPUT: u16 = 1;
const ACTION_METER: u16 = 19;
const METER_SET: u8 = 2;
const METER_ID: u16 = 1;
const METER_BANDS: u16 = 4;
const BAND: u16 = 1;
const BAND_TYPE: u16 = 1;
const BAND_RATE: u16 = 2;
const BAND_BURST: u16 = 3;
const BAND_TYPE_DROP: u32 = 1;

/// What a flow says of a packet's header.
struct Family {
    ethertype: u16,
    key: u16,
    fields: &'static [u8],
}

const IPV4: Family = Family { ethertype: 0x0800, key: KEY_IPV4, fields: &[0; 12] };
const IPV6: Family = Family { ethertype: 0x86dd, key: KEY_IPV6, fields: &[0; 40] };

/// See the module. It goes with its namespace.
pub(crate) struct Bridge {
    socket: OwnedFd,
    /// The index of its own device.
    index: u32,
}

impl Bridge {
    /// One with these ports, numbered from 1; `None` where the kernel has no Open vSwitch.
    pub(crate) fn new(netns: &Netns, ports: &[&str]) -> Option<Self> {
        let family = AddressFamily::Netlink;
        let generic = SockProtocol::NetlinkGeneric;
        let socket = netns
            .inside(|| socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, generic))
            .expect("a netlink socket");
        let mut bridge = Self { socket, index: 0 };
        bridge.family("ovs_datapath")?;
        let datapath = [attribute(DP_NAME, b"ovs0\0"), attribute(DP_UPCALL_PID, &[0; 4])].concat();
        bridge.ask("ovs_datapath", NEW, &datapath);
        let shown = netns.run("ip", &["-o", "link", "show", "ovs0"]);
        bridge.index = shown.split(':').next().unwrap().parse().unwrap();
        for (number, port) in (1_u32..).zip(ports) {
            let name = format!("{port}\0");
            let port = [
                attribute(VPORT_TYPE, &VPORT_TYPE_NETDEV.to_ne_bytes()),
                attribute(VPORT_NAME, name.as_bytes()),
                attribute(VPORT_NUMBER, &number.to_ne_bytes()),
                attribute(VPORT_UPCALL_PID, &[0; 4]),
            ];
            bridge.ask("ovs_vport", NEW, &port.concat());
        }
        Some(bridge)
    }

    /// What comes in by `from` with IPv4 goes out by `to`.
    pub(crate) fn connect(&self, from: u32, to: u32) {
        self.flow(NEW, from, &IPV4, &attribute(ACTION_OUTPUT, &to.to_ne_bytes()));
    }

    /// The same, but from now on no more than so many packets a second.
    pub(crate) fn connect_at_most(&self, from: u32, to: u32, rate: u32) {
        const METER: u32 = 7;
        let word = |kind, value: u32| attribute(kind, &value.to_ne_bytes());
        let band = [word(BAND_TYPE, BAND_TYPE_DROP), word(BAND_RATE, rate), word(BAND_BURST, rate)].concat();
        let meter = [word(METER_ID, METER), attribute(METER_BANDS, &attribute(BAND, &band))];
        self.ask("ovs_meter", METER_SET, &meter.concat());
        self.flow(FLOW_SET, from, &IPV4, &[word(ACTION_METER, METER), word(ACTION_OUTPUT, to)].concat());
    }

    /// The same of IPv6.
    pub(crate) fn connect_ipv6(&self, from: u32, to: u32) {
        self.flow(NEW, from, &IPV6, &attribute(ACTION_OUTPUT, &to.to_ne_bytes()));
    }

    /// What comes with IPv4 is dropped from now on.
    pub(crate) fn refuse(&self, from: u32) {
        self.flow(FLOW_SET, from, &IPV4, &[]);
    }

    fn flow(&self, command: u8, from: u32, family: &Family, actions: &[u8]) {
        // Of addresses and the rest of the header nothing is looked at: their masks are zero.
        let fields = |port: u32, ethertype: u16| {
            [
                attribute(KEY_IN_PORT, &port.to_ne_bytes()),
                attribute(KEY_ETHERNET, &[0; 12]),
                attribute(KEY_ETHERTYPE, &ethertype.to_be_bytes()),
                attribute(family.key, family.fields),
            ]
            .concat()
        };
        let flow = [
            attribute(FLOW_KEY, &fields(from, family.ethertype)),
            attribute(FLOW_MASK, &fields(u32::MAX, 0xffff)),
            attribute(FLOW_ACTIONS, actions),
        ];
        self.ask("ovs_flow", command, &flow.concat());
    }

    /// Asks a family of Open vSwitch about this bridge.
    fn ask(&self, family: &str, command: u8, attributes: &[u8]) {
        let id = self.family(family).expect("a family of Open vSwitch");
        let version = if family == "ovs_datapath" { 2 } else { 1 };
        let body = [&[command, version, 0, 0][..], &self.index.to_ne_bytes(), attributes].concat();
        let mut answer = self.call(id, &body);
        // What it tells comes before the acknowledgement.
        while kind_of(&answer) != NLMSG_ERROR {
            answer = self.answer();
        }
        let error = i32::from_ne_bytes(answer[16..20].try_into().unwrap());
        assert_eq!(error, 0, "{family} {command}: {}", std::io::Error::from_raw_os_error(-error));
    }

    /// A family's number; `None` where the kernel has none of that name.
    fn family(&self, name: &str) -> Option<u16> {
        let name = attribute(CTRL_ATTR_FAMILY_NAME, format!("{name}\0").as_bytes());
        let answer = self.call(GENL_ID_CTRL, &[&[CTRL_CMD_GETFAMILY, 1, 0, 0][..], &name].concat());
        if kind_of(&answer) == NLMSG_ERROR {
            return None;
        }
        let mut rest = &answer[20..];
        while let [low, high, kind_low, kind_high, value @ ..] = rest {
            let length = usize::from(u16::from_ne_bytes([*low, *high])).max(4);
            if u16::from_ne_bytes([*kind_low, *kind_high]) == CTRL_ATTR_FAMILY_ID {
                // The acknowledgement comes behind it.
                self.answer();
                return Some(u16::from_ne_bytes([value[0], value[1]]));
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        panic!("a family without a number");
    }

    /// The first answer to a message.
    fn call(&self, kind: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + body.len()).unwrap();
        let message = [
            &length.to_ne_bytes()[..],
            &kind.to_ne_bytes(),
            &REQUEST_AND_ACK.to_ne_bytes(),
            &1_u32.to_ne_bytes(),
            &[0; 4],
            body,
        ]
        .concat();
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.socket.as_raw_fd(), &message, &kernel, MsgFlags::empty()).unwrap();
        self.answer()
    }

    fn answer(&self) -> Vec<u8> {
        let mut answer = vec![0; 8192];
        let length = recv(self.socket.as_raw_fd(), &mut answer, MsgFlags::empty()).unwrap();
        answer.truncate(length);
        answer
    }
}

fn kind_of(message: &[u8]) -> u16 {
    u16::from_ne_bytes([message[4], message[5]])
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
