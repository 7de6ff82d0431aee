//! Claims that no link makes, and paths made of any numbers at all.

use std::net::{IpAddr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::path::Told;
use crate::path::judge::Tcp;

/// Router 2 claims this, whatever it takes.
fn claiming(mtu: u32, claims: u32) -> Path {
    let mut path = narrow(2, mtu, true);
    path.routers[1].claims = Some(claims);
    path
}

#[test]
fn a_claim_that_cannot_be_is_named_and_not_followed() {
    for claims in [0, 1, 67, 1500, 9000, u32::MAX] {
        let (out, verdict) = walked(&mut claiming(1400, claims));
        assert_eq!((verdict.finding, verdict.fits), (Finding::AbsurdMtu, Some(1400)), "{out:?}");
        assert_eq!((verdict.says, verdict.hop, verdict.is_narrow), (Some(claims), Some(2), true), "{out:?}");
        assert!(out.told.is_empty(), "{out:?}");
    }
}

#[test]
fn a_claim_that_less_fits_than_does_is_found_untrue() {
    let (out, verdict) = walked(&mut claiming(1400, 600));
    assert_eq!((verdict.finding, verdict.fits), (Finding::AbsurdMtu, Some(1400)), "{out:?}");
    assert!(
        verdict.message.contains("claims to take 600 bytes, and more than that arrives"),
        "{}",
        verdict.message
    );
}

/// A forged claim on a path whose destination is silent: what fits is not known, whatever leads the verdict.
#[test]
fn a_claim_that_cannot_be_does_not_say_what_fits() {
    let mut path = Path::new();
    path.answered.clear();
    let (mut out, _) = walked(&mut path);
    out.absurd.push(Told { from: Some(Path::destination()), hop: Some(2), mtu: 1, size: 1500 });
    let about = About {
        who: Who::node(),
        to: "x".into(),
        address: Path::destination(),
        device: routed("eth0"),
        tcp: None,
    };
    let verdict = judge(&out, &about);
    assert_eq!((verdict.finding, verdict.is_known, verdict.is_narrow), (Finding::AbsurdMtu, false, false));
}

#[test]
fn names_that_a_shell_would_obey_are_in_no_command() {
    let (out, _) = walked(&mut narrow(2, 1400, false));
    for name in ["$(reboot)", "a;b", "-x", "a\u{202e}b", "`x`"] {
        let about = About {
            who: Who::node(),
            to: "x".into(),
            address: Path::destination(),
            device: routed(name),
            tcp: Some(Tcp::Silent),
        };
        let fix = judge(&out, &about).fix.unwrap();
        assert!(!fix.contains(name) && !fix.contains("ip route"), "{fix}");
    }
}

#[test]
fn no_device_is_set_below_what_ipv6_needs() {
    let mut path = narrow(2, 1200, false);
    let out = walk(&mut path, 1500, true, LIMITS, &mut |_| ());
    let about = About {
        who: Who::node(),
        to: "fd64::9".into(),
        address: IpAddr::V6(Ipv6Addr::LOCALHOST),
        device: routed("eth0"),
        tcp: None,
    };
    let verdict = judge(&out, &about);
    assert_eq!(verdict.fits, Some(1200), "{out:?}");
    let fix = verdict.fix.unwrap();
    assert!(fix.starts_with("mend that link") && !fix.contains("ip -6"), "{fix}");
}

prop_compose! {
    fn router()(
        mtu in 60u32..1600, tells: bool, claims in prop::option::of(any::<u32>()), answers: bool,
        answers_up_to in 0u32..3000, limited: bool, refuses in prop::option::weighted(0.05, Just(Refusal::Other)),
    ) -> Router {
        Router { mtu, tells, claims, answers, answers_up_to, limited, refuses, ..Router::default() }
    }
}

proptest! {
    #[test]
    fn any_path_ends_within_bounds_and_what_fits_arrives(
        routers in prop::collection::vec(router(), 0..40), loss in 0u64..6, seed: u64, echo: bool, udp: bool,
        packets in 0u32..300,
    ) {
        let mut path = Path::new();
        let least = routers.iter().map(|router| router.mtu).min().unwrap_or(1500);
        path.routers = routers;
        path.answered = [(echo, Method::Echo), (udp, Method::Udp)].iter().filter(|it| it.0).map(|it| it.1).collect();
        path.lose(loss, seed);
        let (out, verdict) = walked_within(&mut path, Limits { packets, ..LIMITS });
        prop_assert!(path.clock() <= LIMITS.time + Duration::from_secs(2), "{:?}", out);
        prop_assert!(out.hops.len() <= 30 && out.told.len() <= 10 && out.absurd.len() <= 10);
        if out.reached && verdict.finding != Finding::SmallHop {
            prop_assert!(verdict.fits.is_none_or(|fits| fits <= least), "{:?} {:?}", out, verdict);
        }
        prop_assert!(verdict.message.len() < 1000);
    }
}
