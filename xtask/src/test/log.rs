//! What a kernel's tests say: shown as it comes, kept in a file, and why some failed.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::tree;

/// What a test binary says: each line to stdout as it comes and to a file, counted on the way.
pub(super) struct Log {
    kernel: String,
    file: File,
    passed: u64,
    /// What libtest says of the tests that failed: of each the first lines. Before it says so, the last lines there were.
    reasons: VecDeque<String>,
    /// Lines of the test that failed which was named last; `None` until one is.
    of_one: Option<usize>,
    /// When the last test ended: they run one after the other.
    ended: Instant,
}

impl Log {
    /// Lines of reasons that are shown again at the end, of all tests and of one, and bytes of each.
    const REASONS: usize = 200;
    const OF_ONE: usize = 25;
    const WIDTH: usize = 2000;
    /// The last lines of tests that ended without a word.
    const LAST: usize = 30;

    /// Of this kernel; its file is begun anew.
    pub(super) fn new(kernel: &str) -> Result<Self> {
        let directory = tree::root().join("target/test-logs");
        fs::create_dir_all(&directory)?;
        let path = directory.join(format!("{kernel}.log"));
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        Ok(Self {
            kernel: kernel.to_owned(),
            file,
            passed: 0,
            reasons: VecDeque::new(),
            of_one: None,
            ended: Instant::now(),
        })
    }

    /// libtest's own lines keep their beginning, so that they can be searched for; the kernel follows them, and how long
    /// the test took.
    pub(super) fn line(&mut self, line: &[u8]) -> Result<()> {
        let line = String::from_utf8_lossy(line);
        let line = line.trim_end();
        self.passed += passed(line);
        self.reason(&line[..line.floor_char_boundary(Self::WIDTH)]);
        if line.starts_with("test ") {
            let took = std::mem::replace(&mut self.ended, Instant::now()).elapsed();
            println!("{line}  [{}, {:.1} s]", self.kernel, took.as_secs_f64());
            writeln!(self.file, "{line}  [{:.1} s]", took.as_secs_f64())?;
        } else {
            println!("[{}] {line}", self.kernel);
            writeln!(self.file, "{line}")?;
        }
        Ok(())
    }

    /// Keeps a line that may say why tests failed.
    fn reason(&mut self, line: &str) {
        if line == "failures:" || self.of_one.is_some() && line.starts_with("---- ") {
            if self.of_one.is_none() {
                self.reasons.clear();
            }
            self.of_one = Some(0);
        }
        match &mut self.of_one {
            None => {
                self.reasons.push_back(line.to_owned());
                if self.reasons.len() > Self::LAST {
                    self.reasons.pop_front();
                }
            }
            Some(lines) if *lines < Self::OF_ONE && self.reasons.len() < Self::REASONS => {
                *lines += 1;
                self.reasons.push_back(line.to_owned());
            }
            Some(_) => {}
        }
    }

    /// A run that passed no test has shown nothing, unless a filter asked for that.
    pub(super) fn judge(&self, succeeded: bool, filter: &[String]) -> Result<()> {
        if !succeeded {
            bail!(
                "tests failed, see {}\n{}",
                Path::new("target/test-logs").join(format!("{}.log", self.kernel)).display(),
                self.reasons.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
            );
        }
        if self.passed == 0 && filter.is_empty() {
            bail!("not one test ran");
        }
        Ok(())
    }
}

/// `test result: ok. 12 passed; ...` says 12.
fn passed(line: &str) -> u64 {
    let Some(counts) = line.strip_prefix("test result: ") else { return 0 };
    let before = counts.split(" passed").next().unwrap_or_default();
    before.rsplit(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_tests_are_counted() {
        assert_eq!(passed("test result: ok. 12 passed; 0 failed; 0 ignored"), 12);
        assert_eq!(passed("test result: FAILED. 3 passed; 1 failed"), 3);
        assert_eq!(passed("test drops::closed_port ... ok"), 0);
    }

    /// One test that talks much must not hide the others, and one that kills its guest says nothing.
    #[test]
    fn of_each_test_that_failed_the_first_lines_are_kept() {
        let file = File::open("/dev/null").unwrap();
        let mut log = Log {
            kernel: String::new(),
            file,
            passed: 0,
            reasons: [].into(),
            of_one: None,
            ended: Instant::now(),
        };
        for number in 0..100 {
            log.reason(&format!("line {number}"));
        }
        assert_eq!((log.reasons.len(), log.reasons[29].as_str()), (30, "line 99"));
        log.reason("failures:");
        for test in ["a", "b"] {
            log.reason(&format!("---- {test} stdout ----"));
            (0..100).for_each(|number| log.reason(&format!("{test} {number}")));
        }
        log.reason("failures:");
        log.reason("    a");
        let kept: Vec<_> = log.reasons.iter().map(String::as_str).collect();
        assert_eq!(kept.len(), 1 + 25 + 25 + 2);
        assert_eq!((kept[1], kept[25], kept[26]), ("---- a stdout ----", "a 23", "---- b stdout ----"));
        assert_eq!(kept[51..], ["failures:", "    a"]);
    }
}
