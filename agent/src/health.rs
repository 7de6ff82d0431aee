//! Whether the agent is ready and alive: each of its parts has a guard, and a guard that goes without a word says that
//! its part is dead.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use tokio::sync::watch;

use crate::shutdown::Drain;

mod pulse;

use pulse::Pulse;

/// The parts of `run` that live as long as it does; a clone is another handle to the same.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    parts: watch::Sender<Parts>,
    pulse: Pulse,
}

type Parts = BTreeMap<&'static str, Part>;

#[derive(Clone, Debug)]
struct Part {
    loss: Loss,
    stage: Stage,
}

/// What the agent does when a part of it has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It ends with a failure: without this part it does not do what it is for.
    Fatal,
    /// It goes on, and `/healthz` says so: what is left is worth having until somebody restarts it.
    Tolerated,
}

/// How far a part has come.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Starting,
    Up,
    /// It was asked to end.
    Ended,
    /// It was not, and this is why it did.
    Stopped(String),
}

impl Stage {
    const fn name(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Ended => "ended",
            Self::Stopped(_) => "stopped",
        }
    }
}

/// A part that has stopped though nobody asked it to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// Its name.
    pub part: &'static str,
    /// What the agent does about it.
    pub loss: Loss,
    /// Why, as far as it could say.
    pub why: String,
}

/// Why a part has stopped that did not say it: it panicked, or returned early.
const SILENT: &str = "its task has ended";

impl Health {
    /// A new part, which is starting: `/readyz` waits for its guard to say more.
    pub fn part(&self, name: &'static str, loss: Loss) -> Guard {
        self.0.parts.send_modify(|parts| {
            parts.insert(name, Part { loss, stage: Stage::Starting });
        });
        Guard { health: self.clone(), name, told: false }
    }

    /// `/readyz`: every part is up. Nothing outside of the node can change it back.
    ///
    /// # Errors
    /// Which parts are not, and what they are, in one line.
    pub fn ready(&self) -> Result<(), String> {
        let parts = self.0.parts.borrow();
        let missing = parts.iter().filter(|(_, part)| part.stage != Stage::Up);
        let missing: Vec<String> =
            missing.map(|(name, part)| format!("{name} ({})", part.stage.name())).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("not ready: {}", missing.join(", "))) }
    }

    /// Returns once [`Health::ready`].
    pub async fn until_ready(&self) {
        let up = |parts: &Parts| parts.values().all(|part| part.stage == Stage::Up);
        // It fails only where there is no sender left, and this is one.
        let _ = self.0.parts.subscribe().wait_for(up).await;
    }

    /// `/healthz`: no part has stopped, and the thread that carries events still does its work.
    ///
    /// # Errors
    /// Which part is dead, in one line. Why it is, only the log says: others can ask this.
    pub async fn alive(&self) -> Result<(), String> {
        let dead: Vec<&str> = self.deaths().iter().map(|death| death.part).collect();
        if !dead.is_empty() {
            return Err(format!("not alive, stopped: {}", dead.join(", ")));
        }
        if self.0.pulse.felt().await {
            Ok(())
        } else {
            Err("not alive, hung: the thread of the paths".into())
        }
    }

    /// Lets `/healthz` know that the runtime this is spawned on does its work.
    pub async fn beat(self) {
        self.0.pulse.beat().await;
    }

    /// The parts that have stopped.
    #[must_use]
    pub fn deaths(&self) -> Vec<Death> {
        let of = |(part, Part { loss, stage }): (&&'static str, &Part)| match stage {
            Stage::Stopped(why) => Some(Death { part, loss: *loss, why: why.clone() }),
            _ => None,
        };
        self.0.parts.borrow().iter().filter_map(of).collect()
    }

    /// Returns with a part that has stopped and is not among those `known`.
    pub async fn another_death(&self, known: &[Death]) -> Death {
        let mut parts = self.0.parts.subscribe();
        loop {
            let news = self.deaths().into_iter().find(|death| !known.contains(death));
            if let Some(death) = news {
                return death;
            }
            // It fails only where there is no sender left, and this is one.
            let _ = parts.changed().await;
        }
    }

    fn set(&self, name: &'static str, stage: Stage) {
        self.0.parts.send_modify(|parts| {
            if let Some(part) = parts.get_mut(name) {
                part.stage = stage;
            }
        });
    }
}

/// Stands for one part. Dropped without another word, by a panic or an early return, its part has stopped.
#[derive(Debug)]
#[must_use = "dropped, it says that its part has stopped"]
pub struct Guard {
    health: Health,
    name: &'static str,
    told: bool,
}

impl Guard {
    /// The part does its work.
    pub fn up(&self) {
        self.health.set(self.name, Stage::Up);
    }

    /// The part has ended as it was asked to.
    pub fn ended(mut self) {
        self.tell(Stage::Ended);
    }

    /// The part has stopped, and this is why.
    pub fn stopped(mut self, why: impl fmt::Display) {
        self.tell(Stage::Stopped(why.to_string()));
    }

    /// There is no such part on this node: nothing waits for it.
    pub fn absent(mut self) {
        self.told = true;
        self.health.0.parts.send_modify(|parts| {
            parts.remove(self.name);
        });
    }

    /// Guards a task that is up and ends only when it is asked to.
    pub async fn over<T>(self, task: impl Future<Output = T>, drain: Drain) -> T {
        self.up();
        let done = task.await;
        if drain.asked() {
            self.ended();
        }
        done
    }

    fn tell(&mut self, stage: Stage) {
        self.told = true;
        self.health.set(self.name, stage);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.told {
            self.tell(Stage::Stopped(SILENT.to_owned()));
        }
    }
}

impl Collector for Health {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let help = "1 if the part of the agent does its work, 0 while it is starting and once it has stopped";
        let mut up = encoder.encode_descriptor("part_up", help, None, MetricType::Gauge)?;
        for (name, part) in self.0.parts.borrow().iter() {
            up.encode_family(&[("part", *name)])?.encode_gauge(&i64::from(part.stage == Stage::Up))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
