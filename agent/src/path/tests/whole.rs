//! What a walk comes to, word for word, with its fix.

use std::net::IpAddr;

use super::*;
use crate::path::judge::Tcp;
use crate::path::{Edge, Hop, Told};

/// What is said of each case, in their order: its name, and below it the verdict and its fix (`-` if it has none).
const WORDS: &str = include_str!("words.txt");

const FAR: &str = "203.0.113.9";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn about() -> About {
    About {
        who: Who::pod("shop/web".into()),
        to: format!("{FAR}:443"),
        address: ip(FAR),
        device: routed("eth0"),
        tcp: None,
    }
}

/// Three hops, of which the last is the destination.
fn out() -> Outcome {
    let hop = |text: &str| Hop { address: Some(ip(text)), ..Hop::default() };
    Outcome {
        method: Some(Method::Syn),
        reached: true,
        farthest: 3,
        first: 1500,
        hops: vec![hop("10.0.1.1"), hop("10.0.2.1"), hop(FAR)],
        passes: Some(1400),
        packets: 7,
        ..Outcome::default()
    }
}

fn told(hop: Option<u8>, from: Option<&str>, mtu: u32) -> Told {
    Told { hop, from: from.map(ip), mtu, size: 1500 }
}

fn small(hop: Option<u8>, from: Option<&str>) -> Outcome {
    Outcome { told: vec![told(hop, from, 1400)], ..out() }
}

fn hole(after: u8, before: Option<u8>) -> Outcome {
    Outcome { dies: Some(1401), edge: Some(Edge { after, before, confirmed: true }), ..out() }
}

fn cases() -> Vec<(&'static str, Outcome, About)> {
    let mut six = About { to: "[fd00::9]:443".into(), address: ip("fd00::9"), ..about() };
    six.device.route.as_mut().unwrap().ways[0].gateway = Some(ip("fe80::1"));
    let unknown = About { device: Device::plain("eth0"), ..about() };
    let mut lower = about();
    lower.device.route.as_mut().unwrap().mtu = Some(1427);
    let from = |who| About { who, ..about() };
    let hostile = About { device: routed("a;reboot"), ..about() };
    let option = About { device: routed("-x"), ..about() };
    let tcp = About { tcp: Some(Tcp::Connects { mss: None, path_mtu: None }), ..about() };
    let mute = Outcome { reached: false, ..small(Some(2), Some("10.0.2.1")) };
    let clear = Outcome { passes: Some(1500), ..out() };
    let unreached = Outcome { reached: false, ..out() };
    let refused =
        |why| Outcome { refused: Some((Some(ip("10.0.2.1")), why)), farthest: 2, ..unreached.clone() };
    let lie = |mtu, size| Outcome {
        absurd: vec![Told { size, ..told(Some(2), Some("10.0.2.1"), mtu) }],
        ..clear.clone()
    };
    let halted = |halt| Outcome { halt: Some(halt), passes: Some(1400), ..out() };
    let below = |passes| Outcome { passes: Some(passes), dies: Some(passes + 1), ..hole(2, Some(3)) };
    vec![
        ("a hop", small(Some(2), Some("10.0.2.1")), about()),
        ("a hop, IPv6", small(Some(2), Some("fd00::2")), six.clone()),
        ("a hop, from this node", small(Some(2), Some("10.0.2.1")), from(Who::node())),
        (
            "a hop, from a pod of this node",
            small(Some(2), Some("10.0.2.1")),
            from(Who::of_node("shop/net".into())),
        ),
        ("a hop, from a namespace", small(Some(2), Some("10.0.2.1")), from(Who::netns("blue"))),
        (
            "a hop, from a container",
            small(Some(2), Some("10.0.2.1")),
            from(Who::within("shop/dind".into(), 17)),
        ),
        ("a hop, a route that is not known", small(Some(2), Some("10.0.2.1")), unknown.clone()),
        ("a hop, a device that a shell would obey", small(Some(2), Some("10.0.2.1")), hostile.clone()),
        ("a hop, a device that is an option", small(Some(2), Some("10.0.2.1")), option),
        ("a hop at no known distance", small(None, Some("10.0.2.1")), about()),
        ("this host", small(Some(0), None), about()),
        ("a tunnel", small(Some(2), Some(FAR)), about()),
        ("a tunnel at no known distance", small(None, Some(FAR)), about()),
        ("a hop, and nobody answers behind it", mute, about()),
        ("a black hole", hole(2, Some(3)), about()),
        ("a black hole, a route that is not known", hole(2, Some(3)), unknown),
        ("a black hole, from this node", hole(2, Some(3)), from(Who::node())),
        ("a black hole, IPv6", hole(2, Some(3)), six.clone()),
        ("a black hole at 1280, IPv6", below(1280), six.clone()),
        ("a black hole below 1280, IPv6", below(1279), six),
        ("a black hole before the first hop", hole(0, Some(1)), about()),
        ("a black hole before the second hop", hole(0, Some(2)), about()),
        ("a black hole somewhere", hole(0, None), about()),
        ("a black hole between hops", hole(1, Some(3)), about()),
        ("a black hole behind a hop without a name", Outcome { hops: Vec::new(), ..hole(2, None) }, about()),
        ("a black hole, roughly", Outcome { passes: Some(1390), ..hole(2, Some(3)) }, about()),
        ("a black hole, and nothing passes", Outcome { passes: None, ..hole(2, Some(3)) }, about()),
        (
            "a black hole for SYNs, roughly",
            Outcome { only_syns: true, passes: Some(1390), ..hole(2, Some(3)) },
            about(),
        ),
        ("a black hole for SYNs", Outcome { only_syns: true, ..hole(2, Some(3)) }, about()),
        ("a black hole, and who answers nothing", Outcome { reached: false, ..hole(2, Some(3)) }, about()),
        (
            "a black hole below what was said",
            Outcome { told: vec![told(Some(1), Some("10.0.1.1"), 1450)], ..hole(2, Some(3)) },
            about(),
        ),
        ("clear", clear.clone(), about()),
        ("clear, as far as the route lets it", Outcome { first: 1427, passes: Some(1427), ..out() }, lower),
        ("clear, a device that a shell would obey", clear.clone(), hostile),
        ("nobody answers", unreached.clone(), about()),
        ("nobody answers at all", Outcome { farthest: 0, passes: None, ..unreached.clone() }, about()),
        (
            "nobody answers but by TCP",
            Outcome { method: Some(Method::Udp), ..unreached.clone() },
            tcp.clone(),
        ),
        ("nobody answers, by TCP", unreached.clone(), tcp),
        ("refused: the host", refused(Refusal::Host), about()),
        ("a lie below any link", lie(67, 1500), about()),
        ("a lie about a packet that fits", lie(1500, 1500), about()),
        ("a lie, and more arrives", lie(1300, 1500), about()),
        (
            "a lie beside a hop",
            Outcome { absurd: vec![told(Some(1), None, 67)], ..small(Some(2), Some("10.0.2.1")) },
            about(),
        ),
        ("interrupted", halted(Halt::Asked), about()),
        ("out of time", halted(Halt::Time), about()),
        ("out of packets", halted(Halt::Packets), about()),
        ("out of one packet", Outcome { packets: 1, ..halted(Halt::Packets) }, about()),
        ("broken", halted(Halt::Broken("it is so".into())), about()),
        ("unfinished, nothing known", Outcome { passes: None, ..out() }, about()),
    ]
}

#[test]
fn every_walk_is_worded_as_it_is_written() {
    let cases = cases();
    let told: Vec<String> = cases
        .iter()
        .map(|(name, out, about)| {
            let Verdict { message, fix, .. } = judge(out, about);
            format!("{name}:\n  {message}\n  {}\n", fix.as_deref().unwrap_or("-"))
        })
        .collect();
    let written: Vec<&str> = WORDS.split_inclusive('\n').collect();
    let written: Vec<String> = written.chunks(3).map(<[&str]>::concat).collect();
    for (told, written) in told.iter().zip(&written) {
        assert_eq!(told, written);
    }
    assert_eq!(told.len(), written.len());
}

/// What programs go by: how sure it is, which hop, and what fits.
#[test]
fn how_sure_a_verdict_is_goes_by_what_was_lost_and_seen() {
    use Confidence::{High, Low, Medium};
    let clear = || Outcome { passes: Some(1500), ..out() };
    let hop = || small(Some(2), Some("10.0.2.1"));
    let nobody = |farthest| Outcome { reached: false, farthest, ..out() };
    let edge = |edge: Edge| Outcome { edge: Some(edge), ..hole(2, Some(3)) };
    for (what, out, finding, confidence, hop, fits) in [
        ("clear", clear(), Finding::PathClear, High, None, Some(1500)),
        ("clear, lossy", Outcome { lost: 1, ..clear() }, Finding::PathClear, Medium, None, Some(1500)),
        ("clear, limited", Outcome { limited: 1, ..clear() }, Finding::PathClear, Medium, None, Some(1500)),
        (
            "clear, interrupted",
            Outcome { halt: Some(Halt::Asked), ..clear() },
            Finding::PathClear,
            Medium,
            None,
            Some(1500),
        ),
        ("a hop", hop(), Finding::SmallHop, High, Some(2), Some(1400)),
        ("a hop, lossy", Outcome { lost: 1, ..hop() }, Finding::SmallHop, Medium, Some(2), Some(1400)),
        (
            "a hop at no known distance",
            small(None, Some("10.0.2.1")),
            Finding::SmallHop,
            Medium,
            None,
            Some(1400),
        ),
        (
            "a hop, other than what passes",
            Outcome { passes: Some(1399), ..hop() },
            Finding::SmallHop,
            Medium,
            Some(2),
            Some(1400),
        ),
        ("a hole", hole(2, Some(3)), Finding::BlackHole, High, Some(2), Some(1400)),
        (
            "a hole, lossy",
            Outcome { lost: 1, ..hole(2, Some(3)) },
            Finding::BlackHole,
            Medium,
            Some(2),
            Some(1400),
        ),
        ("a hole, a gap", hole(1, Some(3)), Finding::BlackHole, Medium, Some(1), Some(1400)),
        (
            "a hole, unconfirmed",
            edge(Edge { after: 2, before: Some(3), confirmed: false }),
            Finding::BlackHole,
            Medium,
            Some(2),
            Some(1400),
        ),
        ("a hole, its end unseen", hole(2, None), Finding::BlackHole, High, Some(2), Some(1400)),
        ("a hole before all", hole(0, Some(1)), Finding::BlackHole, High, Some(0), Some(1400)),
        (
            "a hole for SYNs alone",
            Outcome { only_syns: true, ..hole(2, Some(3)) },
            Finding::BlackHole,
            Low,
            Some(2),
            Some(1500),
        ),
        ("a hole somewhere", hole(0, None), Finding::BlackHole, Low, None, Some(1400)),
        (
            "a hole, roughly",
            Outcome { passes: Some(1390), ..hole(2, Some(3)) },
            Finding::BlackHole,
            Low,
            Some(2),
            Some(1390),
        ),
        (
            "a hole without a size that is known to pass",
            Outcome { passes: Some(1401), ..hole(2, Some(3)) },
            Finding::BlackHole,
            Low,
            Some(2),
            None,
        ),
        ("nobody", nobody(3), Finding::Unreachable, Low, Some(3), None),
        ("nobody at all", nobody(0), Finding::Unreachable, Low, None, None),
    ] {
        let verdict = judge(&out, &about());
        assert_eq!(
            (verdict.finding, verdict.confidence, verdict.hop, verdict.fits),
            (finding, confidence, hop, fits),
            "{what}"
        );
    }
}

#[test]
fn a_claim_at_the_least_that_a_link_may_take_is_untrue_for_what_arrives() {
    let said = |mtu, address: &str| {
        let lie = Outcome { absurd: vec![told(Some(2), Some("10.0.2.1"), mtu)], ..out() };
        let message = judge(&lie, &About { address: ip(address), ..about() }).message;
        message.split_once("bytes, ").unwrap().1.split_once(':').unwrap().0.to_owned()
    };
    assert_eq!(said(67, FAR), "no link may take less than 68");
    assert_eq!(said(68, FAR), "and more than that arrives");
    assert_eq!(said(1279, "fd00::9"), "no link may take less than 1280");
    assert_eq!(said(1280, "fd00::9"), "and more than that arrives");
    assert_eq!(said(1499, FAR), "and more than that arrives");
    assert_eq!(said(1500, FAR), "that of a packet of 1500 bytes");
}
