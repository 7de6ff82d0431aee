//! What an operator can do about what dropped packets of a class.

use std::borrow::Cow;

use super::super::Class;
use super::super::tables::{IPV6_INPUT, NO_FRAGMENTS, UDP_SOCKET};
use super::{About, Home, LOCALNET, Late, NO_PROTOCOL, Refused, is_signed, proven};
use crate::links::shell_word;

/// What goes with IPv6 where it is off, and does not come back with it.
const GONE: &str = "its IPv6 addresses and routes are gone, and must be set again";

/// What helps where a socket's filter refuses packets.
const SOCKET_FILTER: &str = "mend the filter that the receiving program attached (SO_ATTACH_FILTER, SO_ATTACH_BPF), or the program of its cgroup (`bpftool cgroup tree`; of systemd: IPAddressDeny)";

/// What helps where a program reads its datagrams too slowly.
const SLOW_READER: &str = "make the program read faster, or give its socket a larger buffer: by SO_RCVBUF, up to the node's `net.core.rmem_max`; where it sets none, by the node's `net.core.rmem_default`, and start it again";

impl About<'_> {
    /// A fix that is made in the network namespace where the packet died, and says so where that is not the host's: devices of
    /// the same name are in both.
    fn there(&self, fix: impl Into<Cow<'static, str>>) -> Cow<'static, str> {
        let fix = fix.into();
        match self.home {
            Some(home @ (Home::Pod(_) | Home::Netns(_) | Home::Named(_) | Home::Any)) => {
                format!("{fix} (in {home})").into()
            }
            Some(Home::Host) | None => fix,
        }
    }

    /// What shows the rules of its family.
    pub(super) const fn rules(&self) -> &'static str {
        if self.ip_version == 6 {
            "`nft list ruleset`, `ip6tables-save -c`"
        } else {
            "`nft list ruleset`, `iptables-save -c`"
        }
    }

    /// What shows its route: rules may ask for its source, and what is only passed on may have other routes than what the node
    /// sends itself.
    fn route(&self) -> String {
        match self.device.filter(|device| *device != "lo" && self.reason != "IP_OUTNOROUTES") {
            Some(device) => format!("`ip route get ADDRESS from SOURCE iif {}`", shell_word(device)),
            None => "`ip route get ADDRESS from SOURCE`".to_owned(),
        }
    }
}

impl Class {
    /// What an operator can do about it; `None` where nobody misses the packet.
    #[must_use]
    pub fn fix(self, about: &About<'_>) -> Option<Cow<'static, str>> {
        let (device, family) = (about.device(), about.family());
        if let Some(evidence) = about.evidence {
            let fix = proven::fix(evidence, about);
            return Some(if evidence.is_there() { about.there(fix) } else { fix.into() });
        }
        Some(match self {
            Self::Mtu => "`r2c-agent trace mtu` names the device, the size that fits, and what to set".into(),
            Self::Policy => policy(about),
            Self::Netfilter if about.refused == Some(Refused::NoQueue) => about.there(
                "start the program that reads the queue (`cat /proc/net/netfilter/nfnetlink_queue` lists those that are read), or have the rule let pass what no program reads (`--queue-bypass`, of nftables `bypass`)",
            ),
            Self::Netfilter => about.there(format!(
                "`sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max` and `conntrack -S` tell whether the table is full or ports are out; where kube-proxy uses IPVS, `ipvsadm -Ln` whether the service has a server (connections to one that is gone last until `sysctl -w net.ipv4.vs.expire_nodest_conn=1`); else find the rule ({})",
                about.rules()
            )),
            Self::NoSocket => no_socket(about),
            Self::Routing => routing(about),
            Self::ReversePath => about.there(reverse_path(about)),
            Self::ForwardingOff => forwarding(about),
            Self::Ttl => ttl(about),
            Self::Queue => queue(about),
            Self::DeviceDown => about.there(format!(
                "`ip link set {device} up`; its IPv6 addresses and the routes by it may be gone, and must be set again"
            )),
            Self::NoCarrier => about.there(format!(
                "bring up the other end of {device} (`ip -d link show {device}` tells what it is; of a bond or bridge, that of its members: `ip link show master {device}`)"
            )),
            Self::Ipv6Off if about.mtu != 0 && about.mtu < 1280 => about.there(format!(
                "`ip link set {device} mtu 1280`, or more, if all behind it takes that; {GONE}"
            )),
            Self::Ipv6Off => about.there(format!(
                "if the cluster has IPv6: `sysctl -w {}=0`; {GONE}",
                about.sysctl("ipv6", "disable_ipv6")
            )),
            Self::BridgePort => {
                about.there(format!("`bridge -d link show`, `bridge vlan show` and `bridge fdb show` tell why, of {device} or of the port that it is for"))
            }
            Self::Hairpin => {
                about.there(format!("`bridge link set dev {device} hairpin on` (CNI bridge: hairpinMode)"))
            }
            Self::Malformed if about.reason == IPV6_INPUT => about.there(format!(
                "see whether IPv6 is off: `sysctl {}`; if it is not, capture it (`tcpdump -vv`), and mend what makes it",
                about.sysctl("ipv6", "disable_ipv6")
            )),
            Self::Malformed => "capture it (`tcpdump -vv`), and mend what makes it".into(),
            Self::Checksum if about.tunnel.is_some() => tunnel_checksum(about),
            Self::Checksum => {
                "switch checksum offload off on the device that sends it (`ethtool -K DEVICE tx off`; of a tunnel, its own device), or mend what changes packets on the way".into()
            }
            Self::Fragment if about.reason == "FRAG_TOO_FAR" => about.there(
                "send what fits the path; or raise `net.ipv4.ipfrag_max_dist` (0: no limit)",
            ),
            Self::Fragment => {
                "let fragments pass on the way (firewalls and load balancers that look at ports drop all but the first), or send what fits the path".into()
            }
            Self::Memory if about.reason == "TCP_OFO_QUEUE_PRUNE" => about.there(
                "find what loses the segments before them, or let buffers grow more: the third number of `net.ipv4.tcp_rmem`",
            ),
            Self::Memory if about.reason == "PROTO_MEM" => {
                "see whether all memory of its protocol is used, on the node: `cat /proc/net/sockstat` beside `sysctl net.ipv4.tcp_mem net.ipv4.udp_mem`, in pages; if it is, find who keeps it (`ss -tuam`), or raise all three numbers; of TCP also see whether its program reads too slowly (`ss -tm`): let it read faster, or give it a larger buffer (the third number of `net.ipv4.tcp_rmem`, or its SO_RCVBUF)".into()
            }
            Self::Memory if about.reason == NO_FRAGMENTS => about.there(format!(
                "raise `net.{}frag_high_thresh` there (bytes; `grep FRAG /proc/net/sockstat{}` shows what is used), and see who sends so many (`r2c-agent trace mtu`)",
                if about.ip_version == 6 { "ipv6.ip6" } else { "ipv4.ip" },
                if about.ip_version == 6 { "6" } else { "" }
            )),
            Self::Memory => "`sysctl net.ipv4.tcp_mem net.ipv4.udp_mem` and the memory of node and pod tell which limit".into(),
            Self::TcpState if matches!(about.reason, "TCP_ZEROWINDOW" | "TCP_OVERWINDOW") => about.there(
                "see whether its program reads too slowly (`ss -tm`), and let it read faster or give it a larger buffer (the third number of `net.ipv4.tcp_rmem`, or its SO_RCVBUF); if `cat /proc/net/sockstat` on the node shows that TCP uses about as much (mem, in pages) as `sysctl net.ipv4.tcp_mem` allows, or more, raise that",
            ),
            Self::TcpState if is_signed(about.reason) => about.there(
                "give both ends the same key (of BGP: its password), or none; `nstat -az 'TcpExtTCPMD5*' 'TcpExtTCPAO*'` there counts each cause",
            ),
            Self::TcpState => about.there(
                "see whether one end has forgotten the connection (a restart, an idle timeout on the way): `ss -tei`",
            ),
            Self::Neighbour => about.there(neighbour(about)),
            Self::NeighbourTable => format!(
                "raise `net.{family}.neigh.default.gc_thresh3` (and gc_thresh2) on the node above the entries of all its network namespaces: the first number (hex) of `/proc/net/stat/{}` there",
                if about.ip_version == 6 { "ndisc_cache" } else { "arp_cache" }
            )
            .into(),
            Self::Other => about.there(format!(
                "see what else tells of it: `ip -s -s link show {device}`, `nstat`, `dmesg`"
            )),
            Self::Teardown | Self::Copy | Self::LocalSocket => return None,
        })
    }
}

fn no_socket(about: &About<'_>) -> Cow<'static, str> {
    match about.late {
        _ if about.reason == NO_PROTOCOL => about.there(
            "if its protocol is meant to be spoken there, load the module of it on the node (`modprobe sctp`) and start its program",
        ),
        Some(Late::Answer) => {
            "see why the program that asked did not wait for it (its timeout, its end), or why the answer took so long".into()
        }
        Some(Late::Segment) => about.there(format!(
            "see why the program closed the connection early, or ended (its log, its restarts; a client that has read enough harms nobody){}",
            if about.reason.is_empty() {
                "; if `ss -tn` shows the connection open, see what filters its socket (`bpftool cgroup tree`, `ss -tmn`)"
            } else {
                ""
            }
        )),
        None => "start what should listen there, or mend the address or port that the sender uses".into(),
    }
}

fn neighbour(about: &About<'_>) -> String {
    let device = about.device();
    if about.refused == Some(Refused::NoHandshake) {
        format!(
            "`wg show {device}` tells the peer's endpoint and key: both ends need each other's, and UDP must pass between them"
        )
    } else if about.is_portless {
        format!(
            "if its destination is elsewhere, give the bridge another network (Docker: `bip`, `default-address-pools`), or `ip link del {device}` if nobody needs it; else start what has a port on it"
        )
    } else {
        format!(
            "see that the next hop is up and has that address: `ip neigh show dev {device}`. If so, see whether the question reaches it: a bridge's port may not take it (`bridge vlan show`, `bridge -d link show` on the node), a next hop that nobody has as an address needs proxy_arp at the other end of the veth (Calico), and a macvlan or ipvlan never reaches its own host"
        )
    }
}

fn reverse_path(about: &About<'_>) -> String {
    format!(
        "route the source's address back by {}; if its route leads by another device on purpose, `sysctl -w {}=2`",
        about.device(),
        about.sysctl("ipv4", "rp_filter")
    )
}

/// What has IPv4 forward what comes by its device.
fn forwards(about: &About<'_>) -> String {
    format!(
        "`sysctl -w net.ipv4.ip_forward=1`, or if that is on, `sysctl -w {}=1`",
        about.sysctl("ipv4", "forwarding")
    )
}

fn forwarding(about: &About<'_>) -> Cow<'static, str> {
    let device = about.device();
    // Without reasons IPv6 frees in one place what it does not forward.
    let policy = if about.reason.is_empty() && about.ip_version == 6 {
        "; if it is 1, `ip xfrm policy` and `cat /proc/net/xfrm_stat` tell whether IPsec refused it"
    } else {
        ""
    };
    let on = if about.ip_version == 6 {
        "`sysctl -w net.ipv6.conf.all.forwarding=1`, and before that accept_ra=2 on the uplink where its default route comes by router advertisement: it would go".to_owned() + policy
    } else {
        forwards(about)
    };
    match about.home {
        Some(Home::Host) => on.into(),
        None | Some(Home::Any) => format!("in the network namespace of {device}: {on}").into(),
        Some(Home::Pod(_) | Home::Netns(_) | Home::Named(_)) => about.there(format!(
            "see who sends it there, where nothing has its address (or no longer); only if packets are to be passed on there, {on}"
        )),
    }
}

fn ttl(about: &About<'_>) -> Cow<'static, str> {
    match about.reason {
        "IPV6_NDISC_HOP_LIMIT" => "capture it (`tcpdump -vv icmp6`): no router may pass it on, and none but a neighbour send it".into(),
        "TCP_MINTTL" => "raise the sender's TTL (to 255), or lower what the program demands (of BGP: both ends' TTL security)".into(),
        _ => "if no traceroute made it, raise the sender's TTL (of a cloud's metadata service: the instance's hop limit to 2), or break the routing loop that `tracepath` shows".into(),
    }
}

fn tunnel_checksum(about: &About<'_>) -> Cow<'static, str> {
    let Some((tunnel, from)) = about.tunnel else { return Cow::default() };
    let or = if about.reason == UDP_SOCKET {
        "; else `cat /proc/net/xfrm_stat` tells of IPsec there, and `ss -uam` of a program that reads it"
    } else {
        ""
    };
    format!(
        "see whether it ends where no device of node {from} fills in the checksum: `ethtool -K DEVICE tx-checksum-ip-generic off` of its {} device (and `ethtool -K DEVICE tx off` of the device below){or}",
        tunnel.name()
    )
    .into()
}

fn policy(about: &About<'_>) -> Cow<'static, str> {
    let device = about.device();
    match about.reason {
        "SOCKET_FILTER" => SOCKET_FILTER.into(),
        "BPF_CGROUP_EGRESS" => "`bpftool cgroup tree` names the program".into(),
        "TC_INGRESS" => about.there(format!("`tc filter show dev {device} ingress` and `bpftool net show dev {device}` name the filter (one that redirects: see that the device it leads to is up)")),
        "TC_EGRESS" => about.there(format!("`tc filter show dev {device} egress` and `bpftool net show dev {device}` name the filter (one that redirects: see that the device it leads to is up)")),
        "TC_RECLASSIFY_LOOP" => about.there(format!("`tc qdisc show dev {device}`, `tc filter show dev {device}` and the same with `ingress` and `egress` show what reclassifies or redirects it")),
        "XDP" => about.there(format!("`bpftool net show dev {device}` names the program")),
        "XFRM_POLICY" => about.there("`ip xfrm policy` shows what must be encrypted, `ip xfrm state` whether there is a key for it"),
        "OVS_DROP_METER" => "`ovs-ofctl -O OpenFlow13 meter-stats BRIDGE` shows which: see whether its rate is what is meant".into(),
        reason if reason.starts_with("OVS_DROP_") => {
            "`ovs-dpctl dump-flows` shows the flow, `ovs-appctl ofproto/trace` and the plugin's policies why it is there".into()
        }
        "SECURITY_HOOK" => "the module's audit log (`ausearch -m avc`, `dmesg`) names the rule".into(),
        "PSP_INPUT" | "PSP_OUTPUT" => "see whether PSP is set up at both ends of the connection, or at one alone".into(),
        _ if about.refused == Some(Refused::NoPolicy) => about.there(format!(
            "see that `ip xfrm policy` (dir out) and `ip xfrm state` have one for it, with the okey (vti) as mark or the if_id (xfrm) that `ip -d link show {device}` tells; the key exchange or the network plugin sets them up; `cat /proc/net/xfrm_stat` there counts each cause"
        )),
        _ if about.refused == Some(Refused::Ipsec) => about.there(
            "give both ends the same state (`ip xfrm state`; what sets it up is the key exchange or the network plugin); `cat /proc/net/xfrm_stat` there counts each cause",
        ),
        // Rules see the packet that carries the other.
        _ if let Some((tunnel, from)) = about.tunnel => about.there(format!(
            "find the rule ({}) and let pass what node {from} sends by {}: rules see the outer packet, and policies of the pods inside do not apply",
            about.rules(),
            tunnel.name()
        )),
        _ => about.there(format!(
            "find the rule ({}, NetworkPolicies of both pods) and let it pass; a rule of kube-proxy's that says `no endpoints` stands for a service without ready pods (on this node, where its traffic policy is Local)",
            about.rules()
        )),
    }
}

fn routing(about: &About<'_>) -> Cow<'static, str> {
    let device = about.device();
    match about.reason {
        _ if about.refused == Some(Refused::Itself) => {
            "masquerade what a pod sends to its own service or hostPort: of the portmap plugin `snat: true`, of kube-proxy the cluster's CIDR; by hand, on the node, `iptables -t nat -A POSTROUTING -s ADDRESS -d ADDRESS -j MASQUERADE`".into()
        }
        "IP_LOCAL_SOURCE" => "see whether another host has the same address".into(),
        reason if reason == LOCALNET || about.refused == Some(Refused::Localnet) => about.there(format!(
            "mend the address that its sender uses; if a rule rewrites it to 127.0.0.1 on purpose (a hostPort, a nodePort, a service of the node), `sysctl -w {}=1`",
            about.sysctl("ipv4", "route_localnet")
        )),
        _ if about.refused == Some(Refused::Source) => {
            "let its sender use an address that is routed: `ip -6 address` at the sender shows whether it has one".into()
        }
        "IP_INVALID_SOURCE" | "IP_INVALID_DEST" | "IP_INADDRERRORS" => {
            "mend the address that its sender uses".into()
        }
        "VXLAN_VNI_NOT_FOUND" => about.there("give both ends the same VNI (`ip -d link show type vxlan`)"),
        "TUNNEL_TXINFO" | "NO_TX_TARGET" => about.there(format!(
            "`bridge fdb show dev {device}` and `ip route` tell what it knows; the network plugin writes them"
        )),
        _ => match about.refused {
            Some(Refused::Martian) => about.there(
                "see whether its sender has the same address as this node (`ip address`), or forges one",
            ),
            Some(Refused::ByRoute | Refused::Discarded) => about.there(format!(
                "find it (`ip {}rule`, `ip route show table all | grep -E 'blackhole|prohibit|unreachable'`) and take it away; where the network plugin keeps it for the node's own pods, none has that address any more: mend who sends there",
                if about.ip_version == 6 { "-6 " } else { "" }
            )),
            Some(Refused::NoTunnel) => about.there(
                "see that its device is up, and let both ends of the tunnel agree: `ip -d link show` tells state, key, VNI, local and remote of each",
            ),
            Some(Refused::NoTunnelDevice) => about.there(format!(
                "see whether the device that ends its tunnel{} is there and up, with the port or key by which the other end sends: `ip -d link show`; the network plugin makes it",
                about.tunnel.map_or_else(String::new, |(tunnel, _)| format!(" ({})", tunnel.name()))
            )),
            Some(Refused::NoWayBack) => about.there(format!(
                "see whether its source is this host's own (`ip address`): another has it, too; else {}",
                reverse_path(about)
            )),
            Some(Refused::NoPeer) => about.there(format!(
                "give the peer that leads there its addresses as allowed IPs, and an endpoint: `wg show {device}`"
            )),
            Some(Refused::NoFlow) => {
                "see that ovs-vswitchd runs and keeps up: `ovs-appctl upcall/show`, and `lost` in `ovs-dpctl show`".into()
            }
            Some(Refused::Port) => {
                "`dmesg` names a port that takes less (dropped over-mtu packet), and both sizes: give all ports and who sends through them one MTU; `ip link` shows a port that is down".into()
            }
            // What a pod gets for another, or what it has no route for; without reasons both end in one place.
            Some(Refused::PerhapsByRoute) if about.is_unnamed_v4() && about.is_elsewhere() => forwarding(about),
            // Where forwarding is off, the kernel's answer to `ip route get .. iif` hides what route there is.
            Some(Refused::PerhapsByRoute) if about.is_unnamed_v4() => about.there(format!(
                "if `sysctl net.ipv4.ip_forward {}` shows a 0, {}; else add the route, or take away the one that refuses it ({} tells which there is)",
                about.sysctl("ipv4", "forwarding"),
                forwards(about),
                about.route()
            )),
            Some(Refused::PerhapsByRoute) => about.there(format!(
                "add the route, or take away the one that refuses it ({} tells which there is)",
                about.route()
            )),
            _ => about.there(format!("add the route ({} tells what there is)", about.route())),
        },
    }
}

fn queue(about: &About<'_>) -> Cow<'static, str> {
    let device = about.device();
    match about.reason {
        "CPU_BACKLOG" => "raise `net.core.netdev_max_backlog` on the node, or spread receiving over more processors (RPS)".into(),
        "SOCKET_RCVBUFF" => SLOW_READER.into(),
        UDP_SOCKET => format!("{SLOW_READER}; if `ss -uam` shows that its buffer (rb) is not full, {SOCKET_FILTER}; if `cat /proc/net/sockstat` on the node shows that UDP uses about as much (mem, in pages) as `sysctl net.ipv4.udp_mem` allows, or more, raise that").into(),
        "SOCKET_BACKLOG" => about.there("see whether the program reads too slowly, or its buffer cannot grow: the third number of `net.ipv4.tcp_rmem` bounds it, or its SO_RCVBUF if it sets one"),
        "TCP_LISTEN_OVERFLOW" => about.there("make the program accept faster; or raise its listen() backlog and `net.core.somaxconn` there (of a pod: `securityContext.sysctls`), and start it again: they count from the next listen()"),
        "NEIGH_QUEUEFULL" => about.there(format!("see that the next hop answers: `ip neigh show dev {device}`; if it does, but late, raise `net.{family}.neigh.{device}.unres_qlen_bytes`, or send less before it has", family = about.family())),
        "FULL_RING" => about.there(format!("have its reader read faster (a virtual machine, a VPN's program), or give it a larger ring: `ip link set {device} txqueuelen 5000`")),
        _ if about.is_unseen_qdisc() => about.there(format!(
            "`tc -s qdisc show dev {device}` tells which dropped it: take away an emulator that no test wants, give a token bucket a burst of a frame or more, and what is full a larger limit, or send less"
        )),
        _ => about.there(format!("send less, or give it a larger limit: `tc -s qdisc show dev {device}`, `ip -s link show {device}`")),
    }
}
