//! A file that says by being there that everything is attached: whole or not there at all.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// A file that is written and does not have its name yet. Dropped, it is gone.
#[derive(Debug)]
pub struct ReadyFile {
    path: PathBuf,
    /// Beside it: only within one file system a name is taken at once.
    beside: PathBuf,
}

impl ReadyFile {
    /// Writes it, and takes away one that an earlier run has left: nobody may take that for ours.
    ///
    /// # Errors
    /// Usage: the directory is not there, or what has the name is no file. Runtime: it cannot be written.
    pub fn prepare(path: &Path) -> Result<Self, Failure> {
        let named = |error: &dyn std::fmt::Display| format!("--ready-file {}: {error}", path.display());
        let refused = |error: &dyn std::fmt::Display| Failure::usage(named(error)).of(&["ready_file"]);
        let Some(name) = path.file_name() else {
            return Err(refused(&"it is no file's name"));
        };
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        match fs::symlink_metadata(path) {
            // What is a device or a pipe would be replaced, and a link would be, and not what it leads to.
            Ok(there) if !there.is_file() => {
                let what =
                    if there.is_dir() { "it is a directory" } else { "it is there, and no plain file" };
                return Err(refused(&what));
            }
            Err(error)
                if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind())
                    && !dir.is_dir() =>
            {
                return Err(refused(&format_args!("there is no directory {}", dir.display())));
            }
            _ => {}
        }
        let mut beside = std::ffi::OsString::from(".");
        beside.push(name);
        beside.push(format!(".{}", std::process::id()));
        let ready = Self { path: path.to_owned(), beside: dir.join(beside) };
        let failed = |error: io::Error| Failure::runtime(named(&error));
        ready.write().map_err(failed)?;
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(ready),
        }
    }

    fn write(&self) -> io::Result<()> {
        // One that is there is of a process of this number that was killed. It is not followed, should it be a link.
        let _ = fs::remove_file(&self.beside);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&self.beside)?;
        file.write_all(b"attached\n")
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// Runtime: the directory is gone, or not to be written any more.
    pub fn publish(self) -> Result<(), Failure> {
        fs::rename(&self.beside, &self.path)
            .map_err(|error| Failure::runtime(format!("--ready-file {}: {error}", self.path.display())))
    }
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        // After `publish` it has another name.
        let _ = fs::remove_file(&self.beside);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_there_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ready");
        fs::write(&path, "of an earlier run").unwrap();
        let ready = ReadyFile::prepare(&path).unwrap();
        assert!(!path.exists(), "nothing is attached yet");
        ready.publish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "attached\n");
        drop(ReadyFile::prepare(&path).unwrap());
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            0,
            "what ended before it was ready leaves nothing"
        );
    }

    #[test]
    fn what_can_never_be_a_file_is_refused_before_anything_is_attached() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for (path, code, wants) in [
            (dir.path().to_owned(), 2, "a directory"),
            (dir.path().join("none/ready"), 2, "there is no directory"),
            (pipe.join("ready"), 2, "there is no directory"),
            (pipe.clone(), 2, "no plain file"),
            (PathBuf::from("/dev/null"), 2, "no plain file"),
            (PathBuf::from("/"), 2, "no file's name"),
            (PathBuf::from("/proc/ready"), 1, "/proc/ready"),
        ] {
            let failure = ReadyFile::prepare(&path).unwrap_err();
            assert_eq!(failure.code, code, "{}", failure.message);
            assert!(
                failure.message.starts_with("--ready-file ") && failure.message.contains(wants),
                "{}",
                failure.message
            );
        }
        assert!(Path::new("/dev/null").exists());
    }
}
