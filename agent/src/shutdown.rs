//! One signal for the whole process to drain: SIGTERM, Ctrl-C, a terminal that is closed, or a deadline.

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

/// SIGINT, SIGTERM and SIGHUP, held back from ending the process from the moment this exists.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// None where whoever started the process wants it to outlive its terminal (nohup).
    hangup: Option<Signal>,
}

impl Signals {
    /// Begins to listen. To be called before anything says that it is ready: whoever waits for that may send one at once.
    ///
    /// # Errors
    /// The handlers could not be installed.
    pub fn listen() -> std::io::Result<Self> {
        let [interrupt, terminate] = [SignalKind::interrupt(), SignalKind::terminate()].map(unix::signal);
        let hangup = (!ignores_hangup()).then(|| unix::signal(SignalKind::hangup())).transpose()?;
        Ok(Self { interrupt: interrupt?, terminate: terminate?, hangup })
    }

    /// Returns at the first of them since [`Signals::listen`].
    pub async fn first(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hangup => {}
        }
    }
}

/// Whether SIGHUP is ignored: a handler would undo that.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored =
        status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    // Bit 0 is signal 1.
    ignored.is_some_and(|ignored| ignored & 1 != 0)
}

/// Returns at the first SIGINT, SIGTERM or SIGHUP from now on.
///
/// # Errors
/// The handlers could not be installed.
pub async fn signal() -> std::io::Result<()> {
    Signals::listen()?.first().await;
    Ok(())
}
