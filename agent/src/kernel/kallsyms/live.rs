//! The running kernel's symbols: read when they are first needed, and again when modules have come.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Symbols, SymbolsError};

/// Symbols are read again for an address without a name, at most this often unless modules have come: it costs some
/// 100 ms.
const REREAD: Duration = Duration::from_secs(30);

/// And modules are compared at most this often: some addresses never get a name.
const COMPARE: Duration = Duration::from_secs(1);

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
    reread: Option<Reread>,
}

enum Table {
    /// Not yet, and who is to be told then.
    Unread(Vec<Waiting>),
    /// `None` where the kernel hides them: to ask again would cost as much and tell nothing.
    Read(Option<Arc<Symbols>>),
}

type Waiting = Box<dyn FnOnce(&Symbols) + Send>;

/// When the symbols were read again, and what was there then.
struct Reread {
    at: Instant,
    /// When the modules were last compared.
    compared: Instant,
    /// Bytes of the list of modules: it changes with every module that comes or goes.
    modules: usize,
}

impl Kallsyms {
    /// Those of the kernel whose `/proc` is `proc`.
    #[must_use]
    pub fn below(proc: &Path) -> Self {
        let state = Mutex::new(State { table: Table::Unread(Vec::new()), reread: None });
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
            let read = Symbols::load_from(&self.0.file).ok().map(Arc::new);
            for told in std::mem::take(waiting) {
                read.as_deref().map(told);
            }
            state.table = Table::Read(read);
        }
        match &state.table {
            Table::Read(symbols) => symbols.clone(),
            Table::Unread(_) => None,
        }
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

    /// What `look` finds among the symbols; if that is nothing, what it finds among those read again, unless no module has
    /// come that could have brought it.
    pub fn find<T>(&self, look: impl Fn(&Symbols) -> Option<T>) -> Option<T> {
        look(self.get()?.as_ref()).or_else(|| look(self.again()?.as_ref()))
    }

    fn again(&self) -> Option<Arc<Symbols>> {
        let mut state = self.lock();
        let now = Instant::now();
        // The first is free: modules are loaded when they are first asked for, often by what is just starting.
        if state.reread.as_ref().is_some_and(|last| now - last.compared < COMPARE) {
            return None;
        }
        let modules = std::fs::read(&self.0.modules).map_or(0, |list| list.len());
        if let Some(last) = state.reread.as_mut()
            && last.modules == modules
            && now - last.at < REREAD
        {
            last.compared = now;
            return None;
        }
        state.reread = Some(Reread { at: now, compared: now, modules });
        // Those known before stay if they cannot be read now.
        let symbols = Arc::new(Symbols::load_from(&self.0.file).ok()?);
        state.table = Table::Read(Some(Arc::clone(&symbols)));
        Some(symbols)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

    fn late(kallsyms: &Kallsyms) -> Option<String> {
        kallsyms.find(|symbols| symbols.resolve_low32(0xc000_0010).map(|place| place.to_string()))
    }

    #[test]
    fn modules_that_came_later_are_known() {
        let (proc, kallsyms) = kallsyms(BEFORE);
        let before = kallsyms.get().unwrap();
        fs::write(proc.path().join("kallsyms"), AFTER).unwrap();
        assert_eq!(late(&kallsyms).as_deref(), Some("late+0x10 [m]"));
        assert_eq!(before.resolve_low32(0xc000_0010), None, "who still reads the old ones may finish");
    }

    #[test]
    fn a_failed_reading_loses_nothing() {
        let (proc, kallsyms) = kallsyms(BEFORE);
        kallsyms.get().unwrap();
        fs::write(proc.path().join("kallsyms"), "").unwrap();
        assert_eq!(late(&kallsyms), None);
        assert!(kallsyms.get().is_some());
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
    fn hidden_symbols_are_not_asked_for_again() {
        let (proc, kallsyms) = kallsyms("0000000000000000 T _stext\n");
        kallsyms.when_read(|_| panic!("there are none"));
        assert!(kallsyms.get().is_none());
        fs::write(proc.path().join("kallsyms"), AFTER).unwrap();
        assert_eq!(late(&kallsyms), None);
    }
}
