//! One signal for the whole process to drain: SIGTERM, Ctrl-C, or a deadline.

use tokio::signal::unix::{self, Signal, SignalKind};
use tokio::sync::watch;

/// Asks everything that holds a [`Drain`] to finish. Dropping it asks too.
#[derive(Debug)]
pub struct Shutdown(watch::Sender<bool>);

/// Waits to be asked to finish.
#[derive(Clone, Debug)]
pub struct Drain(watch::Receiver<bool>);

/// A connected pair.
#[must_use]
pub fn channel() -> (Shutdown, Drain) {
    let (asked, wait) = watch::channel(false);
    (Shutdown(asked), Drain(wait))
}

impl Shutdown {
    /// Asks every holder of the other end to finish.
    pub fn start(&self) {
        self.0.send_replace(true);
    }
}

impl Drain {
    /// Returns once asked to finish (or once nobody is left to ask).
    pub async fn wait(&mut self) {
        // An error means the asking side is gone: that too is the end.
        let _ = self.0.wait_for(|asked| *asked).await;
    }

    /// Whether it was asked already.
    #[must_use]
    pub fn asked(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

/// SIGINT and SIGTERM, held back from ending the process from the moment this exists.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Begins to listen. To be called before anything says that it is ready: whoever waits for that may send one at once.
    ///
    /// # Errors
    /// The handlers could not be installed.
    pub fn listen() -> std::io::Result<Self> {
        let [interrupt, terminate] = [SignalKind::interrupt(), SignalKind::terminate()].map(unix::signal);
        Ok(Self { interrupt: interrupt?, terminate: terminate? })
    }

    /// Returns at the first of them since [`Signals::listen`].
    pub async fn first(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Returns at the first SIGINT or SIGTERM from now on.
///
/// # Errors
/// The handlers could not be installed.
pub async fn signal() -> std::io::Result<()> {
    Signals::listen()?.first().await;
    Ok(())
}
