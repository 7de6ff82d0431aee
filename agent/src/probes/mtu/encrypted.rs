//! IPsec policies of the node that encrypt what is stuck: a policy is no device, so no row shows that one is on the way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_common::mtu::Fate;

use super::event::TooBig;
use crate::links::{Ipsec, Policy, Wrapping, ipsec};

/// A reading is as good as a new one for this long. A node may have thousands of policies.
const FRESH: Duration = Duration::from_secs(5);

/// The policies of the agent's own network namespace: a node's, where the agent uses the host's network.
#[derive(Default)]
pub(super) struct Policies(pub(super) Option<(Instant, Option<Ipsec>)>);

impl Policies {
    /// Adds to an event what encrypts its packets. Only what may become a verdict is looked up.
    pub(super) fn look_up(&mut self, event: &mut TooBig) {
        self.look_up_in(event, ipsec);
    }

    /// The same, of policies that `read` reads where none are known or they are too old.
    pub(super) fn look_up_in(&mut self, event: &mut TooBig, read: impl FnOnce() -> Option<Ipsec>) {
        if event.stall().is_none() || event.fate == Fate::Ordinary {
            return;
        }
        let ends = event.source().zip(event.destination());
        let fresh = self.0.take().filter(|(at, _)| at.elapsed() < FRESH);
        let (_, known) = self.0.insert(fresh.unwrap_or_else(|| (Instant::now(), read())));
        let found = known.as_ref().zip(ends).and_then(|(known, (source, to))| known.wrapping(source, to));
        event.wrapping = found.map(Arc::new);
    }
}

/// `; an IPsec policy encrypts what goes from 10.1.0.0/24 to 10.2.0.0/24, which adds at least 54 bytes, and sends it to 10.8.0.1`.
pub(super) fn told(wrapping: &Wrapping) -> String {
    let Wrapping { policy: Policy { source, destination, peer, .. }, adds } = wrapping;
    let adds = adds.map_or_else(String::new, |adds| format!(", which adds at least {adds} bytes"));
    let peer = peer.map_or_else(String::new, |peer| format!(", and sends it to {peer}"));
    format!("; an IPsec policy encrypts what goes from {source} to {destination}{adds}{peer}")
}
