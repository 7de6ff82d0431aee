//! How often something is said on this thread, for tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tracing::subscriber::DefaultGuard;
use tracing::{Dispatch, Event, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::{Layer, Registry};

/// Counts what is said on this thread.
#[derive(Clone, Default)]
pub(crate) struct Said(Arc<AtomicUsize>);

impl Said {
    /// Two subscribers: where there is one alone, `tracing` asks whichever thread comes to a line first whether anybody
    /// listens there, and remembers its no for all.
    pub(crate) fn from_now_on() -> (Self, (Dispatch, DefaultGuard)) {
        let said = Self::default();
        let other = Dispatch::new(Registry::default());
        (said.clone(), (other, tracing::subscriber::set_default(Registry::default().with(said))))
    }

    pub(crate) fn times(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl<S: Subscriber> Layer<S> for Said {
    fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
