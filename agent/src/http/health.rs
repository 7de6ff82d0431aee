//! Whether the agent is ready and alive, by what became of each probe.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The state of every enabled probe; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<BTreeMap<&'static str, Stage>>>);

/// How far a probe has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Climbing,
    Settled,
    Stopped,
}

impl Health {
    /// Not ready until each of `probes` is [`settled`](Self::settled).
    #[must_use]
    pub fn expecting(probes: impl IntoIterator<Item = &'static str>) -> Self {
        Self(Arc::new(Mutex::new(probes.into_iter().map(|probe| (probe, Stage::Climbing)).collect())))
    }

    /// `probe` has climbed its ladders, or was refused and is skipped: it will not change any more.
    pub fn settled(&self, probe: &'static str) {
        self.probes().insert(probe, Stage::Settled);
    }

    /// `probe`'s pipeline has ended though nobody asked it to: only a restart helps.
    pub fn stopped(&self, probe: &'static str) {
        self.probes().insert(probe, Stage::Stopped);
    }

    /// `/readyz`: every enabled probe has climbed or been refused. Nothing outside of the node can change it back.
    ///
    /// # Errors
    /// Which probes are missing, in one line.
    pub fn ready(&self) -> Result<(), String> {
        self.none_in(Stage::Climbing, "not ready, still attaching: ")
    }

    /// `/healthz`: every pipeline that was started lives.
    ///
    /// # Errors
    /// Which have stopped, in one line.
    pub fn live(&self) -> Result<(), String> {
        self.none_in(Stage::Stopped, "not alive, stopped: ")
    }

    fn none_in(&self, stage: Stage, why: &str) -> Result<(), String> {
        let probes = self.probes();
        let found: Vec<&str> =
            probes.iter().filter(|(_, at)| **at == stage).map(|(probe, _)| *probe).collect();
        if found.is_empty() { Ok(()) } else { Err(format!("{why}{}", found.join(", "))) }
    }

    fn probes(&self) -> MutexGuard<'_, BTreeMap<&'static str, Stage>> {
        // Every change is one insertion: a panic elsewhere cannot have left it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_once_all_have_settled_and_alive_until_one_stops() {
        let health = Health::expecting(["mtu", "drops"]);
        assert_eq!(health.ready(), Err("not ready, still attaching: drops, mtu".into()));
        health.settled("mtu");
        assert_eq!(health.ready(), Err("not ready, still attaching: drops".into()));
        health.clone().settled("drops");
        assert_eq!((health.ready(), health.live()), (Ok(()), Ok(())));
        health.stopped("drops");
        assert_eq!(health.ready(), Ok(()), "readiness does not flip");
        assert_eq!(health.live(), Err("not alive, stopped: drops".into()));
    }
}
