//! What libFuzzer says of its progress, one line at a time.

use std::fmt::{Display, Formatter};

/// How far it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    /// Inputs tried.
    pub(super) runs: u64,
    /// Places in the code that were reached.
    pub(super) coverage: u64,
    /// The same, told apart by how often and with which comparisons.
    pub(super) features: u64,
    /// Inputs worth keeping.
    pub(super) corpus: u64,
}

impl Status {
    /// The status in a line such as `#2097152 pulse  cov: 512 ft: 1904 corp: 268/14Kb lim: 4096 exec/s: 41943 rss: 62Mb`.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix('#')?.split_ascii_whitespace();
        let mut status = Self { runs: words.next()?.parse().ok()?, ..Self::default() };
        while let Some(word) = words.next() {
            let place = match word {
                "cov:" => &mut status.coverage,
                "ft:" => &mut status.features,
                "corp:" => &mut status.corpus,
                _ => continue,
            };
            *place = words.next()?.split('/').next()?.parse().ok()?;
        }
        (status.coverage > 0).then_some(status)
    }
}

impl Display for Status {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { runs, coverage, features, corpus } = self;
        write!(f, "{runs} runs, coverage {coverage}, {features} features, corpus {corpus}")
    }
}

#[cfg(test)]
mod tests {
    use super::Status;

    #[test]
    fn lines_of_progress_are_told_from_others() {
        let line = "#2097152\tpulse  cov: 512 ft: 1904 corp: 268/14Kb lim: 4096 exec/s: 41943 rss: 62Mb";
        let status = Status { runs: 2_097_152, coverage: 512, features: 1904, corpus: 268 };
        assert_eq!(Status::parse(line), Some(status));
        let last = "#41\tDONE   cov: 5 ft: 6 corp: 3/9b lim: 4 exec/s: 0 rss: 30Mb";
        assert_eq!(Status::parse(last).map(|status| status.runs), Some(41));
        for other in ["#2\tINITED exec/s: 0 rss: 30Mb", "INFO: Seed: 12", "thread panicked: #1 cov: 2", ""] {
            assert_eq!(Status::parse(other), None, "{other}");
        }
    }
}
