//! Readers that stall, streams that refuse, queues that are full.

use std::io::Read;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

const LONG: Duration = Duration::from_secs(30);

fn stream(out: impl Write + AsFd + Send + 'static) -> Stream {
    Stream::start(out, "test", |_| ()).unwrap()
}

/// Waits until `is` says so of the stream.
fn until(stream: &Stream, is: impl Fn(&State) -> bool) {
    let end = Instant::now() + LONG;
    let mut state = stream.shared.state();
    while !is(&state) {
        let left = end.checked_duration_since(Instant::now()).expect("in vain");
        state = stream.shared.written.wait_timeout(state, left).unwrap().0;
    }
}

#[test]
fn lines_come_out_in_order_and_whole() {
    let (mut reader, writer) = io::pipe().unwrap();
    let stream = stream(writer);
    let lines: Vec<String> = (0..5_000).map(|number| format!("line {number}\n")).collect();
    let expected = lines.concat();
    let reading = thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).map(|_| text)
    });
    for line in expected.split_inclusive('\n') {
        assert!(stream.put(line.as_bytes()));
    }
    let drained = stream.drain(LONG);
    assert!(drained.lost == 0 && drained.fault.is_none(), "{drained:?}");
    drop(stream);
    assert_eq!(reading.join().unwrap().unwrap(), expected);
}

#[test]
fn a_reader_that_stalls_costs_lines_and_no_time() {
    let (reader, writer) = io::pipe().unwrap();
    let stream = stream(writer);
    let line = [&[b'x'; 999][..], b"\n"].concat();
    let begun = Instant::now();
    let taken = (0..10_000).filter(|_| stream.put(&line)).count();
    assert!(begun.elapsed() < LONG);
    // What waits, what the writer has in hand, and the pipe's own.
    assert!(taken * line.len() <= 2 * MAX_QUEUED + (1 << 17), "{taken}");
    assert!(taken * line.len() >= MAX_QUEUED / 2, "{taken}");
    // What it says is lost is all but what is in the pipe, once that is full.
    loop {
        let drained = stream.drain(Duration::from_millis(20));
        assert!(drained.fault.is_none());
        let mut buffered: std::ffi::c_int = 0;
        // SAFETY: the kernel writes one int, which outlives the call.
        let status = unsafe { nix::libc::ioctl(reader.as_raw_fd(), nix::libc::FIONREAD, &raw mut buffered) };
        assert_eq!(status, 0);
        let in_pipe = u64::try_from(buffered).unwrap() / 1_000;
        if drained.lost == 10_000 - in_pipe && in_pipe > 0 {
            break;
        }
        assert!(begun.elapsed() < LONG, "{drained:?} {in_pipe}");
    }
    // It stalls: nobody waits for longer than that.
    let drained = stream.drain_while_read(Duration::from_millis(20), LONG);
    assert!(drained.lost > 0 && begun.elapsed() < LONG, "{drained:?}");
}

#[test]
fn a_reader_that_goes_on_gets_whole_lines() {
    let (mut reader, writer) = io::pipe().unwrap();
    let stream = stream(writer);
    let line = [&[b'x'; 999][..], b"\n"].concat();
    let taken = (0..5_000).filter(|_| stream.put(&line)).count();
    let reading = thread::spawn(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map(|_| bytes)
    });
    assert_eq!(stream.drain(LONG).lost, 5_000 - taken as u64);
    drop(stream);
    let bytes = reading.join().unwrap().unwrap();
    assert_eq!(bytes.len(), taken * line.len());
    assert!(bytes.chunks(line.len()).all(|read| read == line));
}

#[test]
fn a_full_disk_is_told_once_and_tried_again() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let told = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&told);
    let failed = move |_: &io::Error| {
        count.fetch_add(1, Ordering::Relaxed);
    };
    let stream = Stream::start(full, "test", failed).unwrap();
    for lost in 1..=4 {
        assert!(stream.put(b"line\n"), "it may have room by now");
        until(&stream, |state| state.lost == lost);
    }
    let drained = stream.drain(LONG);
    assert_eq!(drained.lost, 4);
    assert_eq!(drained.fault.unwrap().kind(), ErrorKind::StorageFull);
    assert_eq!(told.load(Ordering::Relaxed), 1);
}

#[test]
fn a_closed_pipe_is_told() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let stream = stream(writer);
    assert!(stream.put(b"line\n"));
    let drained = stream.drain(LONG);
    assert_eq!((drained.lost, drained.fault.unwrap().kind()), (1, ErrorKind::BrokenPipe));
}

/// A disk that has room for so many bytes, and later for more.
struct Disk {
    file: File,
    room: Arc<Mutex<usize>>,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut room = self.room.lock().unwrap();
        let more = bytes.len().min(*room);
        if more == 0 {
            return Err(ErrorKind::StorageFull.into());
        }
        *room -= more;
        self.file.write(&bytes[..more])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Disk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[test]
fn a_line_that_was_cut_off_is_not_continued_by_the_next() {
    let mut file = tempfile::tempfile().unwrap();
    let room = Arc::new(Mutex::new(9));
    let stream = stream(Disk { file: file.try_clone().unwrap(), room: Arc::clone(&room) });
    assert!(stream.put(b"first\nsecond\nthird\n"));
    until(&stream, |state| state.lost == 2);
    *room.lock().unwrap() = 1_000;
    assert!(stream.put(b"fourth\n"));
    assert_eq!(stream.drain(LONG).lost, 2);
    let mut text = String::new();
    io::Seek::rewind(&mut file).unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "first\nsec\nfourth\n");
}

#[test]
fn a_descriptor_that_does_not_block_is_waited_for() {
    let (mut reader, writer) = io::pipe().unwrap();
    // SAFETY: the descriptor is open, and only its flags change.
    let set = unsafe { nix::libc::fcntl(writer.as_raw_fd(), nix::libc::F_SETFL, nix::libc::O_NONBLOCK) };
    assert_eq!(set, 0);
    let stream = stream(writer);
    let all = vec![b'\n'; 200_000];
    assert!(stream.put(&all));
    let reading = thread::spawn(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map(|_| bytes.len())
    });
    assert_eq!(stream.drain(LONG).lost, 0);
    drop(stream);
    assert_eq!(reading.join().unwrap().unwrap(), all.len());
}

/// A stream whose writer has not begun.
fn unwritten() -> Stream {
    let shared =
        Arc::new(Shared { state: Mutex::default(), filled: Condvar::new(), written: Condvar::new() });
    Stream { _open: Arc::new(Open(Arc::clone(&shared))), shared }
}

#[test]
fn what_waits_is_bounded_and_what_is_refused_was_never_taken() {
    let mut stream = unwritten();
    assert!(stream.put(&vec![b'\n'; MAX_QUEUED - 1]));
    assert!(!stream.put(b"\n\n"), "one byte more than there is room for");
    assert!(stream.put(b"\n"), "exactly as much");
    assert!(!stream.put(b"\n"));
    assert_eq!(stream.lost(), 3);
    let drained = stream.drain(Duration::ZERO);
    assert_eq!((drained.lost, drained.taken), (MAX_QUEUED as u64 + 3, MAX_QUEUED as u64));
    assert_eq!(stream.write(b"line\n").unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(unwritten().write(b"line\n").unwrap(), 5);
}

/// Ends the thread at its first line.
struct Panics(File);

impl Write for Panics {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        panic!("a writer that fails");
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Panics {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[test]
fn nobody_waits_for_a_writer_that_has_gone() {
    let stream = stream(Panics(tempfile::tempfile().unwrap()));
    assert!(stream.is_alive());
    assert!(stream.put(b"line\n"));
    until(&stream, |state| state.ended);
    assert!(!stream.is_alive());
    assert_eq!(stream.drain(LONG).lost, 1);
    assert!(!stream.put(b"line\n"), "it would never be written");
    assert_eq!(stream.lost(), 1);
}

#[test]
fn a_reader_that_goes_on_is_waited_for() {
    let (mut reader, writer) = io::pipe().unwrap();
    let stream = stream(writer);
    let all = vec![b'\n'; MAX_QUEUED];
    assert!(stream.put(&all));
    let reading = thread::spawn(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).map(|_| bytes.len())
    });
    assert_eq!(stream.drain_while_read(LONG, LONG).lost, 0);
    drop(stream);
    assert_eq!(reading.join().unwrap().unwrap(), all.len());
}

/// A signal came first, before each write.
struct Interrupted(File, bool);

impl Write for Interrupted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 { Err(ErrorKind::Interrupted.into()) } else { self.0.write(bytes) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Interrupted {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[test]
fn a_write_that_a_signal_interrupts_is_made_again() {
    let mut file = tempfile::tempfile().unwrap();
    let stream = stream(Interrupted(file.try_clone().unwrap(), false));
    assert!(stream.put(b"first\nsecond\n"));
    let drained = stream.drain(LONG);
    assert!(drained.lost == 0 && drained.fault.is_none(), "{drained:?}");
    let mut text = String::new();
    io::Seek::rewind(&mut file).unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "first\nsecond\n");
}
