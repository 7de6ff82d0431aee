//! Standard output or error behind a bounded queue with a writer thread of its own: a reader that stalls, a full disk or a
//! closed pipe costs lines, never time.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Bytes that wait for the writer. As much again is with it at most: what it writes when a reader stalls.
pub const MAX_QUEUED: usize = 1 << 20;

/// A stream of lines that never makes its caller wait. Clones share it; when the last is gone the thread ends once it has
/// written what it can.
#[derive(Clone, Debug)]
pub struct Stream {
    shared: Arc<Shared>,
    _open: Arc<Open>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// There is something to write, or nothing more will come.
    filled: Condvar,
    /// The writer has done what it had.
    written: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Whole lines that wait.
    queue: Vec<u8>,
    /// Lines in `queue`.
    queued: u64,
    /// Lines the writer has taken and not drained.
    in_hand: u64,
    /// Lines that will never be written: there was no room, or the stream refused them.
    lost: u64,
    /// Of these the ones that there was no room for: whoever gave them knows.
    refused: u64,
    /// Why the last write failed; `None` after one that succeeded.
    fault: Option<Fault>,
    /// The writer thread has ended.
    ended: bool,
    /// Nothing more will come.
    closed: bool,
}

/// Closes the queue when the last clone of its stream is gone.
#[derive(Debug)]
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.state().closed = true;
        self.0.filled.notify_one();
    }
}

/// A write that the stream refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fault {
    kind: ErrorKind,
    errno: Option<i32>,
}

impl From<&io::Error> for Fault {
    fn from(error: &io::Error) -> Self {
        Self { kind: error.kind(), errno: error.raw_os_error() }
    }
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> Self {
        fault.errno.map_or_else(|| fault.kind.into(), Self::from_raw_os_error)
    }
}

/// What became of the lines a stream was given.
#[derive(Debug)]
pub struct Drained {
    /// Lines that never reached the stream, since the start.
    pub lost: u64,
    /// Of these the ones that were taken: who gave them was not told.
    pub taken: u64,
    /// Why the stream refused the last of them; `None` if it takes lines, or if it only stalls.
    pub fault: Option<io::Error>,
}

impl Stream {
    /// Writes to `out` on a thread called `name`. `failed` is called on that thread when `out` refuses a write, once for
    /// each failure in a row.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(
        out: impl Write + AsFd + Send + 'static,
        name: &str,
        failed: impl Fn(&io::Error) + Send + 'static,
    ) -> io::Result<Self> {
        let shared =
            Arc::new(Shared { state: Mutex::default(), filled: Condvar::new(), written: Condvar::new() });
        let ending = Ending(Arc::clone(&shared));
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            let ending = ending;
            Writer { out, torn: false, failed }.run(&ending.0);
        })?;
        Ok(Self { _open: Arc::new(Open(Arc::clone(&shared))), shared })
    }

    /// This process's standard output, past the standard library's lock: a write that blocks must hold nothing.
    ///
    /// # Errors
    /// As [`Stream::start`], or there are no descriptors left.
    pub fn stdout(failed: impl Fn(&io::Error) + Send + 'static) -> io::Result<Self> {
        let out = io::stdout().as_fd().try_clone_to_owned()?;
        Self::start(File::from(out), "stdout", failed)
    }

    /// This process's standard error, in the same way.
    ///
    /// # Errors
    /// As [`Stream::stdout`].
    pub fn stderr() -> io::Result<Self> {
        let out = io::stderr().as_fd().try_clone_to_owned()?;
        Self::start(File::from(out), "stderr", |_| ())
    }

    /// Queues one or more whole lines; `false` if there is no room, and then they are lost and counted.
    #[must_use]
    pub fn put(&self, lines: &[u8]) -> bool {
        let count = count_lines(lines);
        let mut state = self.shared.state();
        if state.ended || state.queue.len() + lines.len() > MAX_QUEUED {
            state.lost += count;
            state.refused += count;
            return false;
        }
        state.queue.extend_from_slice(lines);
        state.queued += count;
        drop(state);
        self.shared.filled.notify_one();
        true
    }

    /// Lines that never reached the stream, since the start.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.state().lost
    }

    /// Whether the writer thread is there to write.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.shared.state().ended
    }

    /// As [`Stream::drain`], where a reader that goes on reading is waited for: up to `most`, or until nothing has left for
    /// `patience`.
    #[must_use]
    pub fn drain_while_read(&self, patience: Duration, most: Duration) -> Drained {
        let end = Instant::now() + most;
        let mut before = self.drain(Duration::ZERO).lost;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let drained = self.drain(patience.min(left));
            if drained.lost == 0 || drained.lost == before || left.is_zero() {
                return drained;
            }
            before = drained.lost;
        }
    }

    /// Waits until all that was queued is written, at most for `patience`; what is not written by then is reported as lost.
    #[must_use]
    pub fn drain(&self, patience: Duration) -> Drained {
        let end = Instant::now() + patience;
        let mut state = self.shared.state();
        while state.queued + state.in_hand > 0 && !state.ended {
            let Some(left) = end.checked_duration_since(Instant::now()) else { break };
            state = self.shared.written.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let lost = state.lost + state.queued + state.in_hand;
        Drained { lost, taken: lost - state.refused, fault: state.fault.map(io::Error::from) }
    }
}

/// Each call is one or more whole lines, and never waits: without room it fails with [`ErrorKind::WouldBlock`], and the
/// lines are counted as lost.
impl Write for Stream {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        if self.put(lines) { Ok(lines.len()) } else { Err(ErrorKind::WouldBlock.into()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is whole before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// However the writer thread ends, a panic included, nobody waits for it any more.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.state().ended = true;
        self.0.written.notify_all();
    }
}

/// The thread's side: takes all that waits and writes it, again and again.
struct Writer<W, F> {
    out: W,
    /// The stream's last line was cut off by a failure.
    torn: bool,
    failed: F,
}

impl<W: Write + AsFd, F: Fn(&io::Error)> Writer<W, F> {
    fn run(mut self, shared: &Shared) {
        let mut lines = Vec::new();
        let mut state = shared.state();
        loop {
            while state.queue.is_empty() {
                if state.closed {
                    return;
                }
                state = shared.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            std::mem::swap(&mut lines, &mut state.queue);
            state.in_hand = std::mem::take(&mut state.queued);
            drop(state);
            let mut rest = lines.as_slice();
            while !rest.is_empty() {
                let (chunk, more) = rest.split_at(chunk_of(rest));
                self.put_out(chunk, shared);
                rest = more;
            }
            lines.clear();
            // A stall leaves a megabyte behind: it is not kept for a whole life.
            lines.shrink_to(64 << 10);
            state = shared.state();
        }
    }

    /// Writes one chunk, and says what became of its lines.
    fn put_out(&mut self, chunk: &[u8], shared: &Shared) {
        let (done, error) = self.write(chunk);
        let left = count_lines(chunk.get(done..).unwrap_or_default());
        let mut state = shared.state();
        state.in_hand -= count_lines(chunk);
        state.lost += left;
        let fault = error.as_ref().map(Fault::from);
        let is_news = fault.is_some() && state.fault != fault;
        state.fault = fault;
        drop(state);
        shared.written.notify_all();
        if is_news && let Some(error) = &error {
            (self.failed)(error);
        }
    }

    /// Writes `lines`; how many bytes of whole lines went out, and what stopped it.
    fn write(&mut self, lines: &[u8]) -> (usize, Option<io::Error>) {
        // The rest of a line that was cut off must not become the head of the next.
        if self.torn
            && let (_, Some(error)) = write_all(&mut self.out, b"\n")
        {
            return (0, Some(error));
        }
        self.torn = false;
        let (done, fault) = write_all(&mut self.out, lines);
        let written = lines.get(..done).unwrap_or_default();
        let whole = written.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.torn = whole < done;
        (whole, fault)
    }
}

/// Writes all of `bytes`; how many went out, and what stopped it.
fn write_all(out: &mut (impl Write + AsFd), bytes: &[u8]) -> (usize, Option<io::Error>) {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        match out.write(rest) {
            Ok(0) => return (done, Some(ErrorKind::WriteZero.into())),
            Ok(more) => done += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Whoever started the agent made the descriptor non-blocking.
            Err(error) if error.kind() == ErrorKind::WouldBlock => await_room(out.as_fd()),
            Err(error) => return (done, Some(error)),
        }
    }
    (done, None)
}

/// Writes all of `bytes` to this process's standard output, and waits for its reader.
///
/// # Errors
/// The stream's, or there are no descriptors left.
pub fn write_stdout(bytes: &[u8]) -> io::Result<()> {
    let mut out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    write_all(&mut out, bytes).1.map_or(Ok(()), Err)
}

/// Bytes of the whole lines to write at once: as many as go into a pipe together or not at all (`PIPE_BUF`, pipe(7)), so that
/// it is known which lines left. A longer line is a chunk of its own.
fn chunk_of(lines: &[u8]) -> usize {
    const PIPE_BUF: usize = 4096;
    let start = lines.get(..PIPE_BUF).unwrap_or(lines);
    let end = memchr::memrchr(b'\n', start).or_else(|| memchr::memchr(b'\n', lines));
    end.map_or(lines.len(), |end| end + 1)
}

fn await_room(out: BorrowedFd<'_>) {
    // Whatever it says, the next write says more.
    let _ = poll(&mut [PollFd::new(out, PollFlags::POLLOUT)], PollTimeout::NONE);
}

fn count_lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).fold(0, |count, _| count + 1)
}

#[cfg(test)]
mod tests;
