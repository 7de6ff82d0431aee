//! Every place of the small link, told and silent, on paths that lose, limit, lie and say nothing.

use std::time::Duration;

use super::device::Device;
use super::judge::{About, Finding, Verdict, judge};
use super::simulated::{Path, Router};
use super::walk::{Limits, walk};
use super::who::Who;
use super::{Halt, Method, Outcome, Refusal};
use crate::links::{Taken, Way};
use crate::sink::Confidence;

mod hostile;
mod whole;

const LIMITS: Limits = Limits { packets: 200, time: Duration::from_secs(15) };

/// A device, and a route by it.
fn routed(name: &str) -> Device {
    let way = Way { gateway: Some([10, 64, 0, 1].into()), name: name.into(), weight: 1, ..Way::default() };
    let route = Some(Taken { table: 254, ways: vec![way], ..Taken::default() });
    Device { route, ..Device::plain(name) }
}

fn walked_within(path: &mut Path, limits: Limits) -> (Outcome, Verdict) {
    path.sent.clear();
    let out = walk(path, 1500, false, limits, &mut |_| ());
    // The packet at which it is interrupted may be out or not.
    let interrupted = usize::from(out.halt == Some(Halt::Asked));
    assert_eq!(out.packets as usize, path.sent.len() + interrupted);
    assert!(out.packets <= limits.packets, "{out:?}");
    assert!(path.sent.iter().all(|step| (68..=1500).contains(&step.size) && step.ttl > 0), "{out:?}");
    let about = About {
        who: Who::pod("shop/web-0".into()),
        to: "10.64.99.9".into(),
        address: Path::destination(),
        device: routed("eth0"),
        tcp: None,
    };
    let verdict = judge(&out, &about);
    (out, verdict)
}

fn walked(path: &mut Path) -> (Outcome, Verdict) {
    walked_within(path, LIMITS)
}

/// A path whose router `hop` takes `mtu` bytes.
fn narrow(hop: usize, mtu: u32, tells: bool) -> Path {
    let mut path = Path::new();
    path.routers[hop - 1] = Router { mtu, tells, ..Router::default() };
    path
}

#[test]
fn a_clear_path_costs_two_packets() {
    let (out, verdict) = walked(&mut Path::new());
    assert_eq!((verdict.finding, verdict.confidence), (Finding::PathClear, Confidence::High));
    assert_eq!((verdict.fits, verdict.is_narrow, out.packets), (Some(1500), false, 2));
}

#[test]
fn a_hop_that_says_so_is_named_in_each_place() {
    for hop in 1..=5 {
        for mtu in [68, 576, 1280, 1400, 1499] {
            let (out, verdict) = walked(&mut narrow(hop, mtu, true));
            assert_eq!(
                (verdict.finding, verdict.confidence),
                (Finding::SmallHop, Confidence::High),
                "{out:?}"
            );
            assert_eq!(verdict.hop.map(usize::from), Some(hop), "{out:?}");
            assert_eq!(verdict.hop_ip, Some(Path::address(hop)));
            assert_eq!((verdict.fits, verdict.says), (Some(mtu), Some(mtu)));
            let text = format!("hop {hop}, {}, says {mtu}:", Path::address(hop));
            assert!(verdict.message.starts_with(&text), "{}", verdict.message);
            assert_eq!(out.hops.len(), hop, "of hops behind it nothing is known: {out:?}");
            assert!(out.packets < 15, "{out:?}");
        }
    }
}

#[test]
fn a_silent_hop_is_found_in_each_place() {
    for hop in 1..=5 {
        for mtu in [100, 576, 1280, 1372, 1400, 1499] {
            let (out, verdict) = walked(&mut narrow(hop, mtu, false));
            assert_eq!(
                (verdict.finding, verdict.confidence),
                (Finding::BlackHole, Confidence::High),
                "{out:?}"
            );
            assert_eq!((verdict.fits, out.dies), (Some(mtu), Some(mtu + 1)), "{out:?}");
            assert_eq!(verdict.hop_ip, Some(Path::address(hop)));
            let text = format!("packets over {mtu} vanish after hop {hop} ({})", Path::address(hop));
            assert!(verdict.message.starts_with(&text), "{}", verdict.message);
            let route = format!("`ip route replace 10.64.99.9/32 via 10.64.0.1 dev eth0 mtu {mtu}`, until ");
            let fix = verdict.fix.unwrap();
            assert!(fix.starts_with(&format!("in shop/web-0, {route}")), "{fix}");
            assert!(out.packets < 100, "{out:?}");
        }
    }
}

#[test]
fn the_narrowest_of_several_is_the_verdict() {
    let mut path = narrow(2, 1400, true);
    path.routers[3].mtu = 1300;
    let (out, verdict) = walked(&mut path);
    assert_eq!((verdict.hop, verdict.fits), (Some(4), Some(1300)), "{out:?}");
    assert_eq!((out.hops[1].says, out.hops[3].says), (Some(1400), Some(1300)), "{out:?}");
    // One says it, one behind it does not.
    path.routers[3].tells = false;
    let (out, verdict) = walked(&mut path);
    assert_eq!(
        (verdict.finding, verdict.hop, verdict.fits),
        (Finding::BlackHole, Some(4), Some(1300)),
        "{out:?}"
    );
    assert_eq!(out.told[0].hop, Some(2));
    // The other way round: what is lost before is not known to be told behind.
    let mut path = narrow(2, 1300, false);
    path.routers[3].mtu = 1400;
    let (out, verdict) = walked(&mut path);
    assert_eq!(
        (verdict.finding, verdict.hop, verdict.fits),
        (Finding::BlackHole, Some(2), Some(1300)),
        "{out:?}"
    );
}

#[test]
fn hops_that_answer_nothing_leave_a_gap_and_no_guess() {
    for hop in 1..=5 {
        let mut path = narrow(hop, 1400, false);
        path.routers[hop - 1].answers = false;
        let (out, verdict) = walked(&mut path);
        assert_eq!((verdict.finding, verdict.fits), (Finding::BlackHole, Some(1400)), "{out:?}");
        assert_eq!(verdict.confidence, Confidence::Medium, "{out:?}");
        assert_eq!(out.edge.unwrap().before.map(usize::from), Some(hop + 1), "{out:?}");
        assert_eq!(verdict.hop.map(usize::from), Some(hop - 1));
    }
    let mut path = narrow(3, 1400, false);
    path.routers.iter_mut().for_each(|router| router.answers = false);
    let (out, verdict) = walked(&mut path);
    assert_eq!((verdict.finding, verdict.fits), (Finding::BlackHole, Some(1400)), "{out:?}");
    assert!(verdict.hop.is_none(), "{}", verdict.message);
    // It says what it takes, but nothing of TTLs.
    let mut path = narrow(3, 1400, true);
    path.routers.iter_mut().for_each(|router| router.answers = false);
    let (out, verdict) = walked(&mut path);
    assert_eq!(
        (verdict.finding, verdict.hop, verdict.fits),
        (Finding::SmallHop, Some(3), Some(1400)),
        "{out:?}"
    );
}

#[test]
fn a_hop_mute_for_large_packets_is_no_black_hole() {
    let mut path = narrow(4, 1400, false);
    path.routers[1].answers_up_to = 600;
    let (out, verdict) = walked(&mut path);
    assert_eq!((verdict.hop, verdict.fits), (Some(4), Some(1400)), "{out:?}");
    assert_eq!(out.hops[1].dies, None, "{out:?}");
}

#[test]
fn a_rule_against_syns_with_data_is_no_small_link() {
    let mut path = Path::new();
    path.allowed = vec![Method::Syn, Method::Echo, Method::Udp];
    path.answered = path.allowed.clone();
    path.routers[2].syns_up_to = 500;
    let (out, verdict) = walked(&mut path);
    assert_eq!((verdict.finding, verdict.confidence), (Finding::BlackHole, Confidence::Low), "{out:?}");
    assert!(
        !verdict.is_narrow && verdict.message.contains("echo of 1500 bytes arrives"),
        "{}",
        verdict.message
    );
    // Whoever set an MTU for that would cure nothing.
    assert_eq!((verdict.fits, out.dies), (Some(1500), Some(501)), "{out:?}");
    let fix = verdict.fix.unwrap();
    assert!(fix.contains("a walk without the port") && !fix.contains("mtu"), "{fix}");
    path.allowed.remove(0);
    assert_eq!(walked(&mut path).1.finding, Finding::PathClear);
    path.allowed.insert(0, Method::Syn);
    // A small link drops them all.
    path.routers[2] = Router { mtu: 1400, tells: false, ..Router::default() };
    let (out, verdict) = walked(&mut path);
    assert_eq!((verdict.confidence, out.only_syns, out.method), (Confidence::High, false, Some(Method::Syn)));
}

#[test]
fn limits_on_answers_are_no_black_hole() {
    for hop in 1..=5 {
        for answered in [Method::Echo, Method::Udp] {
            let mut path = narrow(hop, 1400, false);
            path.answered = vec![answered];
            path.routers.iter_mut().for_each(|router| router.limited = true);
            let (out, verdict) = walked(&mut path);
            assert_eq!((verdict.finding, verdict.fits), (Finding::BlackHole, Some(1400)), "{out:?}");
            assert_eq!(verdict.hop.map(usize::from), Some(hop), "{out:?}");
        }
    }
}

#[test]
fn loss_is_not_taken_for_a_black_hole() {
    let mut wrong = 0;
    for seed in 0..200 {
        let mut path = Path::new();
        path.lose(10, seed);
        let (_, verdict) = walked(&mut path);
        wrong += u32::from(!matches!(verdict.finding, Finding::PathClear));
        assert!(
            verdict.confidence < Confidence::High || verdict.finding == Finding::PathClear,
            "{verdict:?}"
        );
    }
    assert!(wrong <= 6, "{wrong} of 200");
    let mut right = 0;
    for seed in 0..200 {
        let mut path = narrow(3, 1400, false);
        path.lose(20, seed);
        let (_, verdict) = walked(&mut path);
        right += u32::from(verdict.fits == Some(1400) && verdict.hop == Some(3));
    }
    assert!(right >= 180, "{right} of 200");
}

#[test]
fn a_destination_that_answers_nothing() {
    let mut path = Path::new();
    path.answered.clear();
    let (out, verdict) = walked(&mut path);
    assert_eq!((verdict.finding, verdict.confidence), (Finding::Unreachable, Confidence::Low), "{out:?}");
    assert_eq!((verdict.hop, out.passes, verdict.fits), (Some(5), Some(1500), None), "{out:?}");
    for hop in 1..=4 {
        let mut path = narrow(hop, 1400, false);
        path.answered.clear();
        let (out, verdict) = walked(&mut path);
        assert_eq!((verdict.finding, verdict.confidence), (Finding::BlackHole, Confidence::Low), "{out:?}");
        assert_eq!((verdict.hop.map(usize::from), out.passes), (Some(hop), Some(1400)), "{out:?}");
        let mut path = narrow(hop, 1400, true);
        path.answered.clear();
        let (out, verdict) = walked(&mut path);
        assert_eq!((verdict.finding, verdict.confidence), (Finding::SmallHop, Confidence::Medium), "{out:?}");
        assert_eq!((verdict.hop.map(usize::from), verdict.fits), (Some(hop), Some(1400)), "{out:?}");
    }
    let mut path = Path::new();
    path.routers[2].refuses = Some(Refusal::Host);
    let (out, verdict) = walked(&mut path);
    assert_eq!((verdict.finding, verdict.hop), (Finding::Unreachable, Some(2)), "{out:?}");
    assert!(verdict.message.contains("10.64.3.1 does not reach it"), "{}", verdict.message);
}

#[test]
fn the_next_method_is_asked_when_one_is_not_answered() {
    for method in [Method::Echo, Method::Udp, Method::Syn] {
        let mut path = narrow(2, 1400, true);
        path.allowed = vec![Method::Syn, Method::Echo, Method::Udp];
        path.answered = vec![method];
        let (out, verdict) = walked(&mut path);
        assert_eq!((out.method, verdict.fits), (Some(method), Some(1400)), "{out:?}");
    }
    let mut path = Path::new();
    path.allowed.clear();
    let (out, verdict) = walked(&mut path);
    assert!(matches!(out.halt, Some(Halt::Broken(_))), "{out:?}");
    assert_eq!(verdict.finding, Finding::Unfinished);
}

#[test]
fn what_is_known_when_it_ends_early_is_told() {
    for stop_at in 0..80 {
        let mut path = narrow(3, 1400, false);
        path.stop_at = Some(stop_at);
        let (out, verdict) = walked(&mut path);
        if out.halt.is_none() {
            break;
        }
        assert_ne!(verdict.confidence, Confidence::High, "{out:?}");
        assert!(verdict.message.contains("interrupted"), "{}", verdict.message);
        assert!(verdict.fits.is_none_or(|fits| fits <= 1400), "{out:?}");
    }
    for packets in 0..80 {
        let limits = Limits { packets, ..LIMITS };
        let (out, verdict) = walked_within(&mut narrow(3, 1400, false), limits);
        assert!(out.halt.is_none() || verdict.message.contains("packet"), "{}", verdict.message);
    }
    for millis in (0..4_000).step_by(50) {
        let limits = Limits { time: Duration::from_millis(millis), ..LIMITS };
        let mut path = narrow(3, 1400, false);
        let (out, _) = walked_within(&mut path, limits);
        assert!(out.halt.is_none_or(|halt| halt == Halt::Time));
    }
}
