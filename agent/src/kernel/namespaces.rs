//! What `/proc` shows of a network namespace, by a process that lives in it, and what the kernel says inside.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

/// A namespace that is nobody's is not looked for again before: that goes through all processes.
const AGAIN: Duration = Duration::from_secs(10);

/// Namespaces that are remembered: more are forgotten all at once.
const MAX_NAMESPACES: usize = 256;

/// Processes that are looked at to find one of a namespace.
const MAX_PROCESSES: usize = 32_768;

/// Finds them. Cheap to clone: all share what was found.
#[derive(Clone, Debug)]
pub struct Namespaces(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    proc: PathBuf,
    /// The namespace, when it was looked for, and a process in it.
    processes: Mutex<Vec<(u32, Instant, Option<String>)>>,
}

impl Namespaces {
    /// By the processes in `proc`.
    #[must_use]
    pub fn below(proc: &Path) -> Self {
        Self(Arc::new(Shared { proc: proc.to_owned(), processes: Mutex::default() }))
    }

    /// Where the files of this namespace are; `None` if it is nobody's that we see.
    #[must_use]
    pub fn net(&self, netns: u32) -> Option<PathBuf> {
        Some(self.0.proc.join(self.process(netns)?).join("net"))
    }

    /// Does `work` inside this namespace, on a thread that ends with it. To enter one needs `CAP_SYS_ADMIN`.
    ///
    /// # Errors
    /// Those of the work; the namespace is nobody's that we see; the kernel does not let us in.
    pub fn inside<T: Send>(&self, netns: u32, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let process = self.process(netns).ok_or(io::ErrorKind::NotFound)?;
        let file = File::open(self.0.proc.join(process).join("ns/net"))?;
        // The process may have ended meanwhile, and its number be another's.
        if file.metadata()?.ino() != u64::from(netns) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let enter = || setns(&file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from).and_then(|()| work());
        thread::scope(|scope| {
            let worker = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, enter)?;
            worker.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
        })
    }

    /// The number of a process in the namespace.
    fn process(&self, netns: u32) -> Option<String> {
        let is_in = |name: &str| {
            let link = self.0.proc.join(name).join("ns/net");
            fs::metadata(link).is_ok_and(|file| file.ino() == u64::from(netns))
        };
        let mut known = self.0.processes.lock().unwrap_or_else(PoisonError::into_inner);
        match known.iter().find(|(of, ..)| *of == netns) {
            // A process may have ended, and its number may be another's.
            Some((_, _, Some(process))) if is_in(process) => return Some(process.clone()),
            Some((_, at, None)) if at.elapsed() < AGAIN => return None,
            _ => {}
        }
        let entries = fs::read_dir(&self.0.proc).ok()?.flatten().take(MAX_PROCESSES);
        let mut names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let process = names.find(|name| name.bytes().all(|byte| byte.is_ascii_digit()) && is_in(name));
        known.retain(|(of, ..)| *of != netns);
        if known.len() >= MAX_NAMESPACES {
            known.clear();
        }
        known.push((netns, Instant::now(), process.clone()));
        process
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Processes by their number, each in a namespace of this process's: its network's, or another that stands for one.
    pub(in crate::kernel) fn proc(processes: &[(&str, &str)]) -> tempfile::TempDir {
        let proc = tempfile::tempdir().unwrap();
        for (process, of) in processes {
            enter(proc.path(), process, of);
        }
        proc
    }

    pub(in crate::kernel) fn enter(proc: &Path, process: &str, of: &str) {
        fs::create_dir_all(proc.join(process).join("ns")).unwrap();
        std::os::unix::fs::symlink(format!("/proc/self/ns/{of}"), proc.join(process).join("ns/net")).unwrap();
    }

    pub(in crate::kernel) fn inode(of: &str) -> u32 {
        fs::metadata(format!("/proc/self/ns/{of}")).unwrap().ino().try_into().unwrap()
    }

    #[test]
    fn a_namespace_has_the_process_that_lives_in_it_now() {
        let proc = proc(&[("self", "net"), ("7", "net"), ("8", "uts")]);
        let namespaces = Namespaces::below(proc.path());
        assert_eq!(namespaces.process(1), None, "nobody's");
        assert_eq!(
            namespaces.process(inode("net")).as_deref(),
            Some("7"),
            "that another is nobody's is no matter"
        );
        assert_eq!(namespaces.process(inode("uts")).as_deref(), Some("8"));
        let looked = || namespaces.0.processes.lock().unwrap().iter().map(|(_, at, _)| *at).max();
        let before = looked();
        assert_eq!(namespaces.process(inode("uts")).as_deref(), Some("8"));
        assert_eq!(looked(), before, "who lives there still is not looked for again");
        fs::rename(proc.path().join("7"), proc.path().join("9")).unwrap();
        enter(proc.path(), "7", "uts");
        assert_eq!(namespaces.process(inode("net")).as_deref(), Some("9"), "the number is another's by now");
    }

    /// To look for one goes through all processes.
    #[test]
    fn a_namespace_of_nobody_is_not_looked_for_again_at_once() {
        let proc = proc(&[]);
        let namespaces = Namespaces::below(proc.path());
        let remembered = || namespaces.0.processes.lock().unwrap();
        assert_eq!(namespaces.process(inode("net")), None);
        enter(proc.path(), "7", "net");
        assert_eq!(namespaces.process(inode("net")), None);
        remembered()[0].1 -= AGAIN;
        assert_eq!(namespaces.process(inode("net")).as_deref(), Some("7"));
        assert_eq!(remembered().len(), 1, "one line a namespace");
        // Else each that is gone would stay in memory.
        let most = u32::try_from(MAX_NAMESPACES).unwrap();
        let lengths: Vec<usize> = (1..=most)
            .map(|nobodys| {
                namespaces.process(nobodys);
                remembered().len()
            })
            .collect();
        assert_eq!(lengths.iter().max(), Some(&MAX_NAMESPACES));
        assert_eq!(lengths.last(), Some(&1), "one more, and it begins again");
    }

    /// To enter a namespace is for root; what is done there must not end the agent.
    #[test]
    fn work_inside_a_namespace_is_done_there_or_fails() {
        let namespaces = Namespaces::below(Path::new("/proc"));
        let own = thread::current().id();
        match namespaces.inside(inode("net"), || Ok(thread::current().id())) {
            Ok(worker) => assert_ne!(worker, own, "a thread that has left its namespace does nothing else"),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        }
        let nobodys = namespaces.inside(1, || Ok(())).unwrap_err();
        assert_eq!(nobodys.kind(), io::ErrorKind::NotFound);
        namespaces.inside(inode("net"), || -> io::Result<()> { panic!("on purpose") }).unwrap_err();
    }
}
