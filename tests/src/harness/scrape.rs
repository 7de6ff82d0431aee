//! One reading of `/metrics`, taken apart.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use super::DEADLINE;

/// A series: its name and its labels.
pub(crate) type Series = (String, BTreeMap<String, String>);

/// Series and their values, all of which are whole numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scrape(BTreeMap<Series, u64>);

/// The classic text format.
pub(crate) const CLASSIC: &str = "text/plain;version=0.0.4";
/// The `OpenMetrics` format.
pub(crate) const OPENMETRICS: &str = "application/openmetrics-text;version=1.0.0";

/// Status and body of one GET.
pub(crate) fn get(address: SocketAddr, path: &str, accept: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: r2c\r\nAccept: {accept}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::InvalidData)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Ok((status, body.to_owned()))
}

impl Scrape {
    /// Of classic text.
    pub(crate) fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        Self(lines.map(|line| sample(line).unwrap_or_else(|| panic!("not a sample: {line}"))).collect())
    }

    /// The sum of all series of `name` that have these labels, among others.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.of(name, labels).map(|(_, value)| value).sum()
    }

    /// By how much that sum has grown since `before`. A pod's series go a minute after the pod, with what they counted: that
    /// is no loss of those that stay.
    pub(crate) fn since(&self, before: &Self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.of(name, labels).map(|(series, value)| before.till(series, *value)).sum()
    }

    /// By how much a series has grown that is at `value` now. A pod's that is lower than before has begun anew with its pod.
    fn till(&self, series: &Series, value: u64) -> u64 {
        let before = self.0.get(series).copied().unwrap_or(0);
        let is_a_pods = series.1.contains_key("pod");
        assert!(
            value >= before || is_a_pods,
            "{series:?} was {before} and is {value}: a counter never falls"
        );
        value.checked_sub(before).unwrap_or(value)
    }

    fn of(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = (&Series, &u64)> {
        let has = |have: &BTreeMap<String, String>| {
            labels.iter().all(|(label, value)| have.get(*label).is_some_and(|have| have == value))
        };
        self.0.iter().filter(move |((of, have), _)| of == name && has(have))
    }

    /// What has grown since `before` of the series of `name`, for a person.
    pub(crate) fn grown(&self, before: &Self, name: &str) -> String {
        let grown = self.of(name, &[]).map(|(series, value)| (series, before.till(series, *value)));
        let lines = grown.filter(|(_, by)| *by > 0).map(|((_, labels), by)| format!("{by} of {labels:?}\n"));
        lines.collect()
    }
}

/// `name{label="value",..} value`.
fn sample(line: &str) -> Option<(Series, u64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.strip_suffix(".0").unwrap_or(value);
    let (name, mut rest) = series.split_once('{').unwrap_or((series, "}"));
    let mut labels = BTreeMap::new();
    while rest != "}" {
        let (label, quoted) = rest.trim_start_matches(',').split_once("=\"")?;
        let (value, after) = unquote(quoted)?;
        labels.insert(label.to_owned(), value);
        rest = after;
    }
    Some(((name.to_owned(), labels), value.parse().ok()?))
}

/// What stands before the closing quote, unescaped, and what comes after it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pod of an earlier test is forgotten while a later one counts.
    #[test]
    fn a_series_that_goes_takes_nothing_from_those_that_stay() {
        let before = Scrape::parse(
            "n{pod=\"gone\",end=\"a\"} 7\nn{pod=\"web\",end=\"a\"} 3\nn{pod=\"new\",end=\"a\"} 5",
        );
        let after = Scrape::parse("n{pod=\"web\",end=\"a\"} 4\nn{pod=\"new\",end=\"a\"} 2\nm 9");
        assert_eq!(after.since(&before, "n", &[("end", "a")]), 1 + 2);
        assert_eq!(after.since(&before, "n", &[("pod", "web")]), 1);
        assert_eq!(after.since(&before, "n", &[("end", "b")]), 0);
        assert_eq!(after.grown(&before, "m"), "9 of {}\n");
    }
}
