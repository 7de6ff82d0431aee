//! Ring buffer to `Bytes`, one record at a time, waiting on the kernel's own wake-up.

use std::io;

use aya::maps::{MapData, RingBuf};
use bytes::Bytes;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The only queue of a probe.
pub struct Ring {
    records: AsyncFd<RingBuf<MapData>>,
}

impl Ring {
    /// Watches the ring from the current runtime.
    ///
    /// # Errors
    /// The descriptor could not be registered.
    pub fn new(records: RingBuf<MapData>) -> io::Result<Self> {
        // SAFETY: the ring owns its descriptor and is never replaced in the `AsyncFd`: the descriptor stays open and the
        // same until the `AsyncFd` has deregistered it.
        let records = unsafe { AsyncFd::register_with_interest(records, Interest::READABLE) }?;
        Ok(Self { records })
    }

    /// The next record if one is there.
    pub fn try_next(&mut self) -> Option<Bytes> {
        self.records.get_mut().next().map(|record| Bytes::copy_from_slice(&record))
    }

    /// The next record; waits until the kernel says that one is there.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub async fn next(&mut self) -> io::Result<Bytes> {
        loop {
            let mut guard = self.records.readable_mut().await?;
            if let Some(record) = guard.get_inner_mut().next() {
                return Ok(Bytes::copy_from_slice(&record));
            }
            guard.clear_ready();
        }
    }
}
