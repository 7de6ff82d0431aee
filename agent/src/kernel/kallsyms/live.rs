//! The running kernel's symbols: read when they are first needed, and again when modules have come.

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Symbols, SymbolsError};

/// Modules are compared at most this often: packets that die may be many.
const COMPARE: Duration = Duration::from_secs(1);

/// An address that no symbol covers may be of a module that came since: for such the modules are compared this many times
/// more in that time. Else the first packets a module frees would have no place.
const SPARE: u8 = 8;

/// After a reading that failed the next is tried this much later: each costs some 100 ms.
const RETRY: Duration = Duration::from_secs(30);

/// The symbols in `/proc/kallsyms`. Nothing attaches by them, and reading them takes longer than all else that starting
/// does: they are read at the first question. Cheap to clone: all share one table.
#[derive(Clone)]
pub struct Kallsyms(Arc<Shared>);

struct Shared {
    file: PathBuf,
    /// Lists the modules that are loaded.
    modules: PathBuf,
    state: Mutex<State>,
}

struct State {
    table: Table,
    /// The modules that were there when the table was read; `None` if a reading failed since.
    modules: Option<u64>,
    /// Modules are not compared before.
    next: Option<Instant>,
    /// Except so many times.
    spare: u8,
}

enum Table {
    /// Not yet, and who is to be told then.
    Unread(Vec<Waiting>),
    /// `None` where the kernel hides them: to ask again would cost as much and tell nothing.
    Read(Option<Arc<Symbols>>),
}

type Waiting = Box<dyn FnOnce(&Symbols) + Send>;

impl Kallsyms {
    /// Those of the kernel whose `/proc` is `proc`.
    #[must_use]
    pub fn below(proc: &Path) -> Self {
        let state = State { table: Table::Unread(Vec::new()), modules: None, next: None, spare: SPARE };
        let state = Mutex::new(state);
        Self(Arc::new(Shared { file: proc.join("kallsyms"), modules: proc.join("modules"), state }))
    }

    /// Whether there are symbols and the kernel shows where they are. Reads no further than the first.
    ///
    /// # Errors
    /// There are none for this process.
    pub fn check(&self) -> Result<(), SymbolsError> {
        Symbols::check(&self.0.file)
    }

    /// The symbols, as they were when last read; `None` where they are hidden. The first call reads them.
    #[must_use]
    pub fn get(&self) -> Option<Arc<Symbols>> {
        let mut state = self.lock();
        if let Table::Unread(waiting) = &mut state.table {
            let waiting = std::mem::take(waiting);
            // Before the symbols: a module that comes in between is then noticed.
            state.modules = Some(loaded(&self.0.modules));
            let read = Symbols::load_from(&self.0.file, &self.0.modules).ok().map(Arc::new);
            for told in waiting {
                read.as_deref().map(told);
            }
            state.table = Table::Read(read);
        }
        state.table.read()
    }

    /// Tells `told` the symbols once they are read; never, if they are hidden.
    pub fn when_read(&self, told: impl FnOnce(&Symbols) + Send + 'static) {
        match &mut self.lock().table {
            Table::Unread(waiting) => waiting.push(Box::new(told)),
            Table::Read(symbols) => {
                symbols.as_deref().map(told);
            }
        }
    }

    /// What `look` finds among the symbols, which are read again once a module has come or gone: the memory of one that has gone,
    /// or that has given its initialisation's back, may be another's.
    pub fn find<T>(&self, look: impl Fn(&Symbols) -> Option<T>) -> Option<T> {
        let symbols = self.get()?;
        let found = look(self.again(false).unwrap_or(symbols).as_ref());
        found.or_else(|| look(self.again(true)?.as_ref()))
    }

    /// What `look` finds among the symbols that have been read. Reads no file: for scrapes, which must not wait.
    pub fn known<T>(&self, look: impl FnOnce(&Symbols) -> Option<T>) -> Option<T> {
        let symbols = self.lock().table.read();
        look(symbols?.as_ref())
    }

    /// The symbols, if they had to be read again. `lost`: what is looked for is in none that are known.
    fn again(&self, lost: bool) -> Option<Arc<Symbols>> {
        let now = Instant::now();
        {
            let mut state = self.lock();
            if state.next.is_none_or(|next| now >= next) {
                (state.next, state.spare) = (Some(now + COMPARE), SPARE);
            } else if lost && state.spare > 0 {
                state.spare -= 1;
            } else {
                return None;
            }
        }
        // Not under the lock: a scrape may ask meanwhile.
        let modules = loaded(&self.0.modules);
        if self.lock().modules == Some(modules) {
            return None;
        }
        let read = Symbols::load_from(&self.0.file, &self.0.modules).map(Arc::new);
        let mut state = self.lock();
        let Ok(symbols) = read else {
            // Those known before stay.
            (state.modules, state.next, state.spare) = (None, Some(now + RETRY), 0);
            return None;
        };
        state.modules = Some(modules);
        state.table = Table::Read(Some(Arc::clone(&symbols)));
        Some(symbols)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn read(&self) -> Option<Arc<Symbols>> {
        match self {
            Self::Read(symbols) => symbols.clone(),
            Self::Unread(_) => None,
        }
    }
}

/// A number that is another one when a module has come, has gone, or has given its initialisation's memory back. How often
/// each is in use, which changes all the time, is left out.
fn loaded(file: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    // name, size, references, dependants, state, address
    for line in std::fs::read_to_string(file).unwrap_or_default().lines() {
        let mut words = line.split(' ');
        let (name, size) = (words.next(), words.next());
        let (state, address) = (words.nth(2), words.next());
        (name, size, state, address).hash(&mut hasher);
    }
    hasher.finish()
}

impl fmt::Debug for Kallsyms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Kallsyms").field(&self.0.file).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    const BEFORE: &str = "ffffffff81000000 T _stext\nffffffff81000100 T end\n";
    const AFTER: &str = "ffffffff81000000 T _stext\nffffffffc0000000 t late\t[m]\n";

    /// A kernel's `/proc` with these symbols, none of which is read yet.
    fn kallsyms(text: &str) -> (tempfile::TempDir, Kallsyms) {
        let proc = tempfile::tempdir().unwrap();
        fs::write(proc.path().join("kallsyms"), text).unwrap();
        let kallsyms = Kallsyms::below(proc.path());
        (proc, kallsyms)
    }

    const MODULE: &str = "m 16384 0 - Live 0xffffffffc0000000\n";

    fn late(kallsyms: &Kallsyms) -> Option<String> {
        kallsyms.find(|symbols| symbols.resolve_low32(0xc000_0010).map(|place| place.to_string()))
    }

    #[test]
    fn modules_that_came_later_are_known() {
        let (proc, kallsyms) = kallsyms(BEFORE);
        let before = kallsyms.get().unwrap();
        fs::write(proc.path().join("kallsyms"), AFTER).unwrap();
        fs::write(proc.path().join("modules"), MODULE).unwrap();
        assert_eq!(
            kallsyms.known(|symbols| symbols.resolve_low32(0xc000_0010).map(|_| ())),
            None,
            "reads no file"
        );
        assert_eq!(late(&kallsyms).as_deref(), Some("late+0x10 [m]"));
        assert_eq!(before.resolve_low32(0xc000_0010), None, "who still reads the old ones may finish");
    }

    #[test]
    fn what_no_module_can_have_brought_is_not_looked_for_again() {
        let (proc, kallsyms) = kallsyms(BEFORE);
        fs::write(proc.path().join("modules"), MODULE).unwrap();
        kallsyms.get().unwrap();
        // It would be found, were the file read again.
        fs::write(proc.path().join("kallsyms"), AFTER).unwrap();
        // Its references are no other module.
        fs::write(proc.path().join("modules"), MODULE.replace(" 0 -", " 7 n,")).unwrap();
        for _ in 0..3 {
            kallsyms.lock().next = None;
            assert_eq!(late(&kallsyms), None);
        }
        fs::write(proc.path().join("modules"), format!("{MODULE}n 4096 0 - Live 0xffffffffc0100000\n"))
            .unwrap();
        kallsyms.lock().next = None;
        assert!(late(&kallsyms).is_some());
    }

    /// The first packet that a module frees is freed within a second of another one's.
    #[test]
    fn a_module_that_came_this_moment_is_known() {
        let (proc, kallsyms) = kallsyms(BEFORE);
        assert_eq!(late(&kallsyms), None, "compared just now");
        fs::write(proc.path().join("kallsyms"), AFTER).unwrap();
        fs::write(proc.path().join("modules"), MODULE).unwrap();
        assert_eq!(late(&kallsyms).as_deref(), Some("late+0x10 [m]"));
    }

    /// Addresses of no symbol may be many: a program that other programs made frees packets at one.
    #[test]
    fn the_modules_are_not_compared_for_every_packet() {
        let (proc, kallsyms) = kallsyms(BEFORE);
        for _ in 0..=SPARE {
            assert_eq!(late(&kallsyms), None);
        }
        fs::write(proc.path().join("kallsyms"), AFTER).unwrap();
        fs::write(proc.path().join("modules"), MODULE).unwrap();
        assert_eq!(late(&kallsyms), None, "its budget is used up");
        kallsyms.lock().next = None;
        assert!(late(&kallsyms).is_some());
    }

    #[test]
    fn a_failed_reading_loses_nothing() {
        let (proc, kallsyms) = kallsyms(BEFORE);
        kallsyms.get().unwrap();
        fs::write(proc.path().join("kallsyms"), "").unwrap();
        fs::write(proc.path().join("modules"), MODULE).unwrap();
        assert_eq!(late(&kallsyms), None);
        assert!(kallsyms.get().is_some());
        assert_eq!(kallsyms.lock().spare, 0, "each reading that fails costs as much");
        assert!(kallsyms.lock().next > Some(Instant::now()), "nor is it tried again at once");
    }

    #[test]
    fn who_waits_is_told_once() {
        let told = Arc::new(AtomicU32::new(0));
        let tell = || {
            let told = Arc::clone(&told);
            move |symbols: &Symbols| {
                told.fetch_add(u32::try_from(symbols.len()).unwrap(), Relaxed);
            }
        };
        let (_proc, kallsyms) = kallsyms(BEFORE);
        kallsyms.when_read(tell());
        assert_eq!(told.load(Relaxed), 0, "nobody asked yet");
        let _ = (kallsyms.get(), kallsyms.get());
        assert_eq!(told.load(Relaxed), 2);
        kallsyms.when_read(tell());
        assert_eq!(told.load(Relaxed), 4, "they are read");
    }

    #[test]
    fn who_must_not_wait_does_not_read_them() {
        let (_proc, kallsyms) = kallsyms(BEFORE);
        let known = || kallsyms.known(|symbols| Some(symbols.len()));
        assert_eq!(known(), None, "nobody has read them");
        kallsyms.get().unwrap();
        assert_eq!(known(), Some(2));
    }

    #[test]
    fn what_would_not_be_read_is_said_without_reading_all() {
        let (proc, kallsyms) = kallsyms("0000000000000000 T _stext\n");
        assert!(matches!(kallsyms.check(), Err(SymbolsError::Hidden)));
        fs::write(proc.path().join("kallsyms"), BEFORE).unwrap();
        assert!(kallsyms.check().is_ok() && kallsyms.known(|_| Some(())).is_none());
    }

    #[test]
    fn hidden_symbols_are_not_asked_for_again() {
        let (proc, kallsyms) = kallsyms("0000000000000000 T _stext\n");
        kallsyms.when_read(|_| panic!("there are none"));
        assert!(kallsyms.get().is_none());
        fs::write(proc.path().join("kallsyms"), AFTER).unwrap();
        assert_eq!(late(&kallsyms), None);
    }
}
