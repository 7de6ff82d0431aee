//! Segments that TCP would send again, and that do not even leave the host.

use std::io::{Read as _, Write as _};

use nix::sys::socket::{setsockopt, sockopt};
use serde_json::json;

use crate::harness::lab::{Lab, WEB};
use crate::harness::packet::timeouts;
use crate::harness::until;

use super::black_hole::{Server, swallow, way};
use super::{Watch, v4};

/// How many segments the kernel itself says it could not send again.
fn refused(lab: &Lab) -> u64 {
    let text = lab.web.netns.inside(|| std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap());
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("TcpExt:")).collect();
    let mut columns = rows[0].split(' ').zip(rows[1].split(' '));
    columns.find(|(name, _)| *name == "TCPRetransFail").unwrap().1.parse().unwrap()
}

/// A rule of the pod's own refuses each copy (EPERM). What is first sent vanishes, as in a black hole; that no copy of it is
/// acknowledged says nothing, as there was none. Kernels whose tracepoint has an error call it for these as well.
#[test]
fn what_is_not_sent_is_not_sent_again() {
    let lab = Lab::lock();
    let underlay = way(&lab);
    let swallows = swallow(&underlay.hop);
    let _refuses = lab.web.netns.meanwhile(
        "nft",
        "add table inet refuses\nadd chain inet refuses it { type filter hook output priority 0; }\n\
         add rule inet refuses it meta mark 7 drop\n",
        "delete table inet refuses\n",
    );
    let to = v4([10, 99, 8, 7], 7930);
    let mut server = Server::start(underlay.tip(), to.port());
    let mut client = server.connect(&lab, to);
    let (watch, before) = (Watch::new(&lab), refused(&lab));
    client.write_all(&[0; 3000]).unwrap();
    setsockopt(&client, sockopt::Mark, &7).unwrap();
    // One more than it takes to tell of a black hole.
    until("it has been tried in vain for long", || (timeouts(&client).0 >= 5).then_some(()));
    assert!(refused(&lab) - before >= 3, "the rule refused nothing");
    let (namespace, pod) = WEB.split_once('/').unwrap();
    let web = [("namespace", namespace), ("pod", pod), ("end", "source")];
    assert_eq!(watch.of(&web, &[("event", "stalled")]), 0, "{:#?}", watch.messages());
    let ours = watch.lines().into_iter().filter(|line| line["destination_port"] == json!(to.port()));
    assert_eq!(ours.count(), 0, "{:#?}", watch.messages());
    // Sent again at last, it arrives.
    drop(swallows);
    setsockopt(&client, sockopt::Mark, &0).unwrap();
    server.kept[0].read_exact(&mut [0; 3000]).unwrap();
}
