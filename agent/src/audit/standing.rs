//! What does not fit already when a trace begins. Of some of that nothing happens that a hook would see: WireGuard's packets
//! are cut up, since it lets them be, and who is slow for it, or stuck where fragments are dropped, is told nothing.

use std::io;
use std::iter::once;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::overlay::{self, Finding};
use super::places;
use super::row::Verdict;
use crate::enrich::PodIndex;
use crate::incident::Span;
use crate::links::{self, Wants};
use crate::log::note;
use crate::shutdown::Drain;
use crate::sink::filter::Filter;
use crate::sink::{Line, Sink};

/// Findings that are told: they are not to fill the screen before the first event.
const MOST: usize = 3;

/// The trace is not to wait longer. Events wait in the ring meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);

/// Reads, judges, and tells what of it `filter` wants and may do harm in silence, the most harmful first. Whatever keeps it from that is a note: the
/// trace goes on.
///
/// # Errors
/// The sink's.
pub async fn tell(
    proc: PathBuf,
    pods: PodIndex,
    filter: &Filter,
    sink: &mut dyn Sink,
    mut drain: Drain,
) -> io::Result<()> {
    let read = tokio::select! {
        () = drain.wait() => return Ok(()),
        read = read(proc, pods) => read,
    };
    let findings = read.unwrap_or_else(|why| {
        note(&format!("what does not fit is not told: {why}"));
        Vec::new()
    });
    let (told, left) = tell_of(&findings, filter, sink)?;
    if let Some(more) = untold(told, left) {
        note(&more);
    }
    Ok(())
}

/// That there is more than was told, if there is.
fn untold(told: usize, left: usize) -> Option<String> {
    let more = if told > 0 { " more" } else { "" };
    match left {
        0 => None,
        1 => Some(format!("one{more} MTU does not fit: `r2c-agent audit mtu` names it")),
        left => Some(format!("{left}{more} MTUs do not fit: `r2c-agent audit mtu` names them")),
    }
}

/// Tells the first of what is wanted and silent; how many that were, and how much more that is wanted there is.
fn tell_of(findings: &[Finding], filter: &Filter, sink: &mut dyn Sink) -> io::Result<(usize, usize)> {
    let wanted: Vec<_> = findings.iter().filter(|finding| line(finding, filter, |_| ()).is_some()).collect();
    // Of the others a message tells who sends too much, and an event tells of that.
    let silent = wanted.iter().filter(|finding| finding.name.is_silent());
    let mut told = 0;
    for finding in silent.take(MOST) {
        line(finding, filter, |line| sink.write(line)).transpose()?;
        told += 1;
    }
    sink.flush()?;
    Ok((told, wanted.len() - told))
}

/// What does not fit, or why that is not known.
async fn read(proc: PathBuf, pods: PodIndex) -> Result<Vec<Finding>, String> {
    let read = move || links::read(&places(&proc, &pods), Wants { pod_exceptions: false });
    let reading = tokio::task::spawn_blocking(move || read().map(|read| overlay::judge(&read).findings));
    let Ok(read) = tokio::time::timeout(PATIENCE, reading).await else {
        let waited = PATIENCE.as_secs();
        return Err(format!(
            "to read all links takes more than {waited} s; `r2c-agent audit mtu` waits for it"
        ));
    };
    read.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// What `then` makes of the finding's line; `None` if it is not wanted. It is about the pod that is asked for, if that is one
/// of those that it hurts.
fn line<T>(finding: &Finding, filter: &Filter, then: impl FnOnce(&Line<'_>) -> T) -> Option<T> {
    let verdict = Verdict { finding, gone: false };
    let line = verdict.line(Span::root(), SystemTime::now());
    let pods = finding.pods.iter().map(|pod| Some(pod.as_ref()));
    let mut lines = once(line.pod).chain(pods).map(|pod| Line { pod, ..line });
    lines.find(|line| filter.wants(line)).map(|line| then(&line))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::overlay::Name;
    use super::*;
    use crate::pod::Pod;
    use crate::sink::{Confidence, Level};

    fn finding(name: Name, interface: &str) -> Finding {
        let pod =
            |name: &str| Arc::new(Pod { namespace: "shop".into(), name: name.into(), uid: name.into() });
        Finding {
            name,
            confidence: Confidence::High,
            owner: None,
            interface: interface.to_owned(),
            kind: "wireguard".into(),
            interface_mtu: 1420,
            promises: 1420,
            fits: 1340,
            what: "w".into(),
            fix: "f".into(),
            fragments: None,
            pods: vec![pod("db"), pod("web")],
        }
    }

    #[test]
    fn it_is_about_the_pod_that_is_asked_for() {
        let finding = finding(Name::OverlayTooLarge, "wg0");
        let about = |filter: Filter| {
            line(&finding, &filter, |line| line.pod.map(|pod| pod.name.clone()).unwrap_or_default())
        };
        let named =
            |name: &str| Filter { level: Level::Warn, pod: vec![name.parse().unwrap()], ..Filter::default() };
        assert_eq!(about(Filter::default()).as_deref(), Some("db"), "the first");
        assert_eq!(about(named("web")).as_deref(), Some("web"));
        assert_eq!(about(named("cart")), None);
        assert_eq!(about(Filter { interface: vec!["eth0".into()], ..Filter::default() }), None);
        assert!(about(Filter { interface: vec!["wg0".into()], ..Filter::default() }).is_some());
    }

    /// Keeps which interfaces were told of.
    #[derive(Default)]
    struct Told(Vec<String>);

    impl Sink for Told {
        fn write(&mut self, line: &Line<'_>) -> io::Result<crate::sink::Written> {
            let mut fields = Vec::new();
            line.says.fields(&mut fields);
            self.0.extend(fields.into_iter().filter_map(|(_, value)| match value {
                crate::sink::Value::Interface(name) => Some(name.into_owned()),
                _ => None,
            }));
            Ok(crate::sink::Written::Yes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Of what is not silent an event tells later; the rest is a number.
    #[test]
    fn the_first_that_are_silent_are_told_and_the_rest_is_counted() {
        let silent = |interface| finding(Name::OverlayTooLarge, interface);
        let spoken = finding(Name::RouteMtu, "eth0");
        let told = |findings: &[Finding], filter: &Filter| {
            let mut sink = Told::default();
            let (count, left) = tell_of(findings, filter, &mut sink).unwrap();
            assert_eq!(count, sink.0.len());
            (sink.0, left)
        };
        let all = [spoken.clone(), silent("a"), silent("b"), silent("c"), silent("d")];
        let any = Filter::default();
        assert_eq!(told(&all, &any), (["a", "b", "c"].map(str::to_owned).to_vec(), 2));
        assert_eq!(told(&all[..2], &any), (vec!["a".to_owned()], 1));
        assert_eq!(told(&all[1..3], &any), (["a", "b"].map(str::to_owned).to_vec(), 0));
        assert_eq!(told(&[], &any), (vec![], 0));
        let one = Filter { interface: vec!["d".into()], ..Filter::default() };
        assert_eq!(told(&all, &one), (vec!["d".to_owned()], 0), "what is not wanted is not counted");
    }

    #[test]
    fn there_is_more_only_where_something_was_told() {
        let text = |told, left| untold(told, left).unwrap_or_default();
        assert_eq!(text(3, 0), "");
        assert_eq!(text(0, 1), "one MTU does not fit: `r2c-agent audit mtu` names it");
        assert_eq!(text(1, 1), "one more MTU does not fit: `r2c-agent audit mtu` names it");
        assert_eq!(text(0, 2), "2 MTUs do not fit: `r2c-agent audit mtu` names them");
        assert_eq!(text(3, 2), "2 more MTUs do not fit: `r2c-agent audit mtu` names them");
    }
}
