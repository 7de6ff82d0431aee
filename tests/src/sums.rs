//! What the agent counts between two scrapes, held against what the kernel itself counts (`nstat`), in each kind of topology.
//!
//! Each number is added up over all namespaces that a packet comes to. Nothing else happens in them meanwhile, so a packet that
//! the agent misses, or counts twice, is a difference.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::harness::has_reasons;
use crate::harness::packet::{ipv4, ipv6, send_all_routed, udp, udp_hops, udp_segment, udp_unfragmented};

mod between;
mod kernel;
mod scene;
mod ways;

use scene::{Counts, ECHO, Scene, TIP, address};
use ways::Way;

/// Nobody listens there.
const CLOSED: u16 = 7961;

/// Where the tip takes a stream.
const STREAM: u16 = 7962;

#[test]
fn what_is_counted_is_what_the_kernel_counts() {
    let scene = Scene::new();
    if !scene.sees_messages() {
        return;
    }
    let mut wrong = Vec::new();
    for way in &scene.ways {
        way.open(&scene);
        for family in way.families {
            way.forget(&scene);
            scene.echo(way, *family);
            let before = scene.counts(way);
            too_large(&scene, way, *family);
            let between = scene.counts(way);
            dropped(&scene, way, *family);
            let after = scene.counts(way);
            for (stage, before, after) in
                [(Stage::TooLarge, &before, &between), (Stage::Dropped, &between, &after)]
            {
                wrong.extend(Growth { scene: &scene, way, family: *family, stage, before, after }.compare());
            }
        }
        way.close(&scene);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Sends what is larger than the hop takes, and what is larger than the tunnel's device takes.
fn too_large(scene: &Scene, way: &Way, family: u8) {
    let to = SocketAddr::new(address(family, way.target(), 2), ECHO);
    scene.pod(way).netns.inside(|| {
        for size in [1400, 1450, 1400, 1450, 1400] {
            udp_unfragmented(to, 1, size);
        }
    });
    if way.takes_streams() {
        stream(scene, way, SocketAddr::new(to.ip(), STREAM));
    }
    scene.echo(way, family);
}

/// Sends what TCP sends: segments in packets that are cut only by the device, and others once it has been told.
fn stream(scene: &Scene, way: &Way, to: SocketAddr) {
    let listener = scene.tip.netns.inside(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, STREAM)).unwrap());
    let server = thread::spawn(move || {
        let mut bytes = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut bytes).unwrap();
        bytes.len()
    });
    let mut client = scene.pod(way).netns.inside(|| TcpStream::connect(to).unwrap());
    client.write_all(&vec![7; 20_000]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(server.join().unwrap(), 20_000);
    // The other end is closed by now.
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
}

/// Sends what is dropped for a cause that the kernel counts, of each another number: see [`CAUSES`].
fn dropped(scene: &Scene, way: &Way, family: u8) {
    let [own, tip, elsewhere] = [way.from, way.target(), 12].map(|net| address(family, net, 2));
    let nowhere: IpAddr =
        if family == 4 { [203, 0, 113, 96].into() } else { "2001:db8::96".parse().unwrap() };
    let closed = |ip: IpAddr| SocketAddr::new(ip, CLOSED);
    // So short that its checksum is looked at before anybody reads it.
    let wrong = udp_segment(closed(own), SocketAddr::new(tip, ECHO), 40, false);
    let packet = |protocol: u8, segment: &[u8]| match (own, tip) {
        (IpAddr::V4(own), IpAddr::V4(tip)) => ipv4(own, tip, protocol, segment, true),
        (IpAddr::V6(own), IpAddr::V6(tip)) => ipv6(own, tip, protocol, segment),
        _ => unreachable!("both are of one family"),
    };
    let pod = &scene.pod(way).netns;
    // Of messages about a tunnel's packets the kernel makes others for whoever is inside: no more packets are dropped for that.
    if way.has_inside() {
        scene.while_the_hop_is_lost(|| pod.inside(|| udp(closed(tip), 2, 100)));
    }
    pod.inside(|| {
        udp(closed(nowhere), 4, 100);
        udp_hops(closed(tip), 2, 1);
        udp(closed(tip), 3, 100);
        udp(closed(elsewhere), 5, 100);
        send_all_routed(tip, vec![packet(253, &[0; 100]); 7]).unwrap();
        if way.takes_wrong_checksums() {
            send_all_routed(tip, vec![packet(17, &wrong); 8]).unwrap();
        }
    });
    scene.echo(way, family);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    TooLarge,
    Dropped,
}

/// Why the kernel drops a packet.
struct Cause {
    /// What counts it, in IPv4 and in IPv6.
    kernel: [&'static str; 2],
    /// How many are sent at least. A checksum that is wrong goes unnoticed where a tunnel vouches for what is in it.
    sent: u64,
    /// The label by which the agent counts it.
    label: (&'static str, &'static str),
    /// Its class in IPv4 and in IPv6 where the kernel gives no reason, and the place has to do.
    by_place: [&'static str; 2],
}

const fn cause(
    kernel: [&'static str; 2],
    sent: u64,
    label: (&'static str, &'static str),
    by_place: [&'static str; 2],
) -> Cause {
    Cause { kernel, sent, label, by_place }
}

const CAUSES: [Cause; 6] = [
    cause(["UdpNoPorts", "Udp6NoPorts"], 3, ("reason", "NO_SOCKET"), ["no_socket"; 2]),
    cause(["IpInHdrErrors", "Ip6InHdrErrors"], 2, ("class", "ttl"), ["other", "forwarding_off"]),
    cause(["IpExtInNoRoutes", "Ip6InNoRoutes"], 4, ("class", "routing"), ["routing"; 2]),
    cause(
        ["IpInAddrErrors", "Ip6InAddrErrors"],
        5,
        ("class", "forwarding_off"),
        ["routing", "forwarding_off"],
    ),
    cause(["IpInUnknownProtos", "Ip6InUnknownProtos"], 7, ("reason", "IP_NOPROTO"), ["other"; 2]),
    cause(["UdpInCsumErrors", "Udp6InCsumErrors"], 0, ("class", "checksum"), ["no_socket"; 2]),
];

/// What the kernel counts of messages that a packet is too large, made and received. Of IPv4 these are all of type 3, so they
/// are only told where nothing else is unreachable.
const MESSAGES: [(&str, [&str; 2]); 2] =
    [("ipv4", ["IcmpMsgOutType3", "IcmpMsgInType3"]), ("ipv6", ["Icmp6OutPktTooBigs", "Icmp6InPktTooBigs"])];

/// From one moment to another.
struct Growth<'a> {
    scene: &'a Scene,
    way: &'a Way,
    family: u8,
    stage: Stage,
    before: &'a Counts,
    after: &'a Counts,
}

impl Growth<'_> {
    /// By how much the agent's have grown.
    fn agent(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.after.scrape.since(&self.before.scrape, name, labels)
    }

    /// By how much the kernel's have grown, everywhere.
    fn kernel(&self, names: &[&str]) -> u64 {
        self.after.all.since(&self.before.all, names)
    }

    /// A sentence for each number that differs, with all that has grown.
    fn compare(&self) -> Vec<String> {
        let mut numbers = self.messages();
        numbers.extend(self.drops());
        let told = |(what, kernel, agent): &(String, u64, u64)| {
            format!("{}, IPv{}: {what}: kernel {kernel}, agent {agent}", self.way.name, self.family)
        };
        let mut wrong: Vec<String> =
            numbers.iter().filter(|(_, kernel, agent)| kernel != agent).map(told).collect();
        wrong.extend(self.missing().map(|what| format!("{}, IPv{}: {what}", self.way.name, self.family)));
        if !wrong.is_empty() {
            wrong.push(self.after.all.grown(&self.before.all));
            for name in ["r2c_mtu_events_total", "r2c_drop_packets_total"] {
                wrong.push(self.after.scrape.grown(&self.before.scrape, name));
            }
        }
        wrong
    }

    /// What this stage was to make and has not: then nothing was tested.
    fn missing(&self) -> impl Iterator<Item = String> {
        let causes = CAUSES.iter().filter(|_| self.stage == Stage::Dropped);
        let causes = causes.map(|cause| (cause.kernel.join(" and "), cause.sent, self.kernel(&cause.kernel)));
        let made = self.kernel(&["IcmpMsgOutType3", "Icmp6OutPktTooBigs"]) + self.kernel(&[ways::SILENT]);
        let made = (self.stage == Stage::TooLarge).then(|| ("messages".to_owned(), 2, made));
        let found: Vec<_> = causes.chain(made).filter(|(_, sent, count)| count < sent).collect();
        found.into_iter().map(|(what, sent, count)| format!("{what}: {count}, and {sent} were to be"))
    }

    /// Made, received, and received by the pod, by family: what it is, the kernel's count, the agent's. Of what the agent counts
    /// of the whole node nothing says in which namespace it was: its lines join the messages of one cause.
    fn messages(&self) -> Vec<(String, u64, u64)> {
        let mut numbers = Vec::new();
        for (family, [out, into]) in MESSAGES {
            let is_told = self.stage == Stage::TooLarge || family == "ipv6";
            let only = |count: u64| if is_told { count } else { 0 };
            let of = |event| [("event", event), ("family", family)];
            let name = "r2c_mtu_events_total";
            let sent = self.agent(name, &[&of("made")[..], &[("fate", "none")]].concat());
            numbers.push((format!("made, {family}"), only(self.kernel(&[out])), sent));
            numbers.push((format!("made and not sent, {family}"), 0, self.agent(name, &of("made")) - sent));
            numbers.push((
                format!("received, {family}"),
                only(self.kernel(&[into])),
                self.agent(name, &of("received")),
            ));
            let pod = self.way.pod();
            let (namespace, name) = pod.split_once('/').unwrap();
            let pod = [("namespace", namespace), ("pod", name), ("end", "source")];
            numbers.push((
                format!("received by the pod, {family}"),
                only(self.after.pod.since(&self.before.pod, &[into])),
                self.agent("r2c_pod_mtu_events_total", &[&pod[..], &of("received")].concat()),
            ));
        }
        numbers
    }

    /// Dropped packets by cause, and all that harm, as [`Growth::messages`].
    fn drops(&self) -> Vec<(String, u64, u64)> {
        const NAME: &str = "r2c_drop_packets_total";
        const HARM: (&str, &str) = ("harm", "harmful");
        // Of more than the kernel counts here, those that the agent says were in namespaces of other tests.
        let of_ours = |kernel: u64, agent: u64, label: (&str, &str)| match agent.checked_sub(kernel) {
            None | Some(0) => agent,
            Some(more) => agent - self.scene.strangers(self.before.lines, label, more).min(more),
        };
        let agent = |kernel, label: (&str, &str)| of_ours(kernel, self.agent(NAME, &[label, HARM]), label);
        // What the stack below a tunnel's device refuses is an error of the device's as well.
        let [freed, refused] = self.way.errors().map(|name| self.kernel(&[name]));
        let freed = freed + self.kernel(&["IpFragFails", "Ip6FragFails", ways::SILENT]);
        let what = self.way.name;
        assert!(
            refused <= freed,
            "{what}: its device counts {refused} refused below it, and all freed {freed}"
        );
        let too_large = freed - refused;
        let mut numbers = vec![("too large".to_owned(), too_large, agent(too_large, ("class", "mtu")))];
        let mut all = too_large;
        let at = usize::from(self.family == 6);
        let label = |cause: &Cause| if has_reasons() { cause.label } else { ("class", cause.by_place[at]) };
        let mut labels: Vec<_> = CAUSES.iter().map(label).collect();
        labels.sort_unstable();
        labels.dedup();
        for wanted in labels {
            let causes = CAUSES.iter().filter(|cause| label(cause) == wanted);
            let kernel: u64 = causes.map(|cause| self.kernel(&cause.kernel)).sum();
            all += kernel;
            numbers.push((format!("dropped, {wanted:?}"), kernel, agent(kernel, wanted)));
        }
        numbers.push(("dropped in all".to_owned(), all, agent(all, HARM)));
        let (namespace, name) = TIP.split_once('/').unwrap();
        let tip = [("namespace", namespace), ("pod", name), ("end", "destination"), HARM];
        let label = if has_reasons() { ("reason", "NO_SOCKET") } else { ("class", "no_socket") };
        let names = &["UdpNoPorts", "Udp6NoPorts", "UdpInCsumErrors", "Udp6InCsumErrors"];
        numbers.push((
            "dropped at the tip for want of a socket".to_owned(),
            self.after.tip.since(&self.before.tip, if has_reasons() { &names[..2] } else { names }),
            self.agent("r2c_pod_drop_packets_total", &[&tip[..], &[label]].concat()),
        ));
        numbers
    }
}
