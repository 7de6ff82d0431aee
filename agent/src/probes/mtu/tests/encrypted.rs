//! Whose packets are looked up among the IPsec policies, and when those are read again.

use std::time::{Duration, Instant};

use super::*;
use crate::links::{Ipsec, Policy};
use crate::probes::mtu::encrypted::Policies;

/// One policy, of what goes from pods to this network.
fn ipsec(destination: &str) -> Ipsec {
    let policy = Policy {
        wraps: true,
        priority: 0,
        is_partial: false,
        source: "10.244.0.0/16".parse().unwrap(),
        destination: destination.parse().unwrap(),
        local: None,
        peer: None,
        is_tunnel: true,
        reqid: 0,
        if_id: 0,
        mark: (0, 0),
    };
    Ipsec { policies: vec![policy], ..Ipsec::default() }
}

/// The destination of the policy that an event's packets leave by.
fn wrapped(event: &TooBig) -> Option<String> {
    event.wrapping.as_deref().map(|wrapping| wrapping.policy.destination.to_string())
}

#[test]
fn only_what_may_be_a_black_hole_is_looked_up() {
    let mut policies = Policies(Some((Instant::now(), Some(ipsec("198.51.100.0/24")))));
    for (record, is_looked_up) in [
        (stalled(4000, Fate::BlackHole, stuck()), true),
        (stalled(4000, Fate::Suspect, stuck()), true),
        (stalled(4000, Fate::Ordinary, stuck()), false),
        (record(Kind::Made, 1400), false),
    ] {
        let mut event = event(&record);
        policies.look_up(&mut event);
        let wanted = is_looked_up.then(|| "198.51.100.0/24".to_owned());
        assert_eq!(wrapped(&event), wanted, "{:?} {:?}", event.kind, event.fate);
    }
}

/// A node may have thousands of policies: they are read once for the events of some seconds, also where there are none to be read.
#[test]
fn policies_are_read_again_once_they_are_old() {
    let mut reads = 0;
    let mut look_up = |policies: &mut Policies| {
        let mut event = event(&stalled(4000, Fate::BlackHole, stuck()));
        policies.look_up_in(&mut event, || {
            reads += 1;
            Some(ipsec("198.51.100.2/32"))
        });
        (wrapped(&event), reads)
    };
    let new = Some("198.51.100.2/32".to_owned());
    let mut policies = Policies::default();
    assert_eq!(look_up(&mut policies), (new.clone(), 1));
    assert_eq!(look_up(&mut policies), (new.clone(), 1), "they are fresh");
    let Some(long_ago) = Instant::now().checked_sub(Duration::from_secs(6)) else { return };
    let mut old = Policies(Some((long_ago, Some(ipsec("198.51.100.0/24")))));
    assert_eq!(look_up(&mut old), (new, 2), "they may have changed");
    let mut unreadable = Policies(Some((Instant::now(), None)));
    assert_eq!(look_up(&mut unreadable), (None, 2), "it is not asked for each event");
}
